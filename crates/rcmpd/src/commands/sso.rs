//! `rcmpd sso …`

use super::{UNUSABLE, exit_code, failed, load};
use crate::cli::{
    BackupKeyArgs, BackupToArgs, CacheArgs, ConfigArg, ConfigOnly, GetArgs, JsonArg, MechanismArg,
    OptionalClientArgs, PlaceArgs, SecretCommand, SsoCommand,
};
use crate::config::{self, SecretRef};
use crate::output::{self, visible};
use crate::sso;
use crate::sso::operations::{BackupKey, Done, Keep, Octets, Operation, Right, SecretText, Shares};
use crate::sso::operators::{self, ServiceAt};
use account_store::file_access;
use anyhow::{Context, bail};
use dcerpc::pdu::FaultStatus;
use dtyp::{Encode, FileTime};
use pem_file::input;
use rcmp_service::explain::shell_quoted;
use rpc_auth::ntlm::NtHash;
use serde::Deserialize;
use serde_json::json;
use sso_secret::backup::{Backup, BackupError};
use sso_secret::node::{CacheLimits, CachedKeys, Delivery, NodeKeys};
use sso_secret::{
    KeyFile, KeyId, Keyring, MasterSecret, PageLock, Purpose, RealDisk, Recipient, RecipientKey,
    SealingSource, SecretStore, SourceKind, UnixTime, blob, reseal, share,
};
use sso_service::ReturnCode;
use sso_service::client::GetError;
use sso_tokio::client::{Credentials, Environment, Failure, NtlmUser, Tickets, get_from_first};
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use trace_context as trace;
use zeroize::Zeroizing;

/// There is no secret.
const NO_SECRET: u8 = 3;
/// The secret is sealed.
const SEALED: u8 = 7;
/// The server returned a code.
const RETURNED: u8 = 3;
/// Some blobs are not under the newest key.
const INCOMPLETE: u8 = 3;
/// No server answered.
const UNREACHABLE: u8 = 4;
/// The server refused the user.
const REFUSED: u8 = 5;
/// The server's answer breaks the protocol, or no key may be used.
const BROKEN: u8 = 7;

pub(super) async fn run(command: SsoCommand) -> anyhow::Result<u8> {
    match command {
        SsoCommand::Secret(command) => secret(command).await,
        SsoCommand::Seal(args) => {
            let (keys, purpose) = keys(&args.cache, &args.purpose)?;
            let plain = Zeroizing::new(read_bounded(&args.file)?);
            let blob = blob::seal(&keys, &purpose, args.record.as_bytes(), &plain)?;
            write_new(&args.output, &blob)
        }
        SsoCommand::Open(args) => {
            let (keys, purpose) = keys(&args.cache, &args.purpose)?;
            let opened = blob::open(&keys, &purpose, args.record.as_bytes(), &read_bounded(&args.file)?)
                .map_err(|error| failed(UNUSABLE, format!("{}: {error}", args.file.display())))?;
            if !opened.is_newest {
                output::warning("this blob is sealed under an older key: reseal it before the overlap ends");
            }
            write_new(&args.output, &opened.plain)
        }
        SsoCommand::Learn { file, key, cache, json } => {
            let (Octets(backup), key) = opened_backup(&file, &key)?;
            let learnt = node(&cache)?.take_backup(&backup, &*key.to_open(&backup)?, UnixTime::now())?;
            match json.json {
                true => output::json(&json!({ "learnt": learnt })),
                false => output::line(&format!("Learnt {}", output::counted(learnt as u64, "older key"))),
            }
            Ok(0)
        }
        SsoCommand::Recipient { file, json } => {
            let unusable =
                |error: &dyn std::fmt::Display| failed(UNUSABLE, format!("{} {error}", file.display()));
            let key = match file.try_exists() {
                Ok(false) => RecipientKey::create(&file)
                    .with_context(|| format!("cannot create {}", file.display()))?,
                _ => RecipientKey::read(&file).map_err(|error| unusable(&error))?,
            };
            let recipient = key.recipient().map_err(|error| unusable(&error))?;
            match json.json {
                true => output::json(&json!({ "file": file, "recipient": recipient.to_string() })),
                false => output::line(&recipient.to_string()),
            }
            Ok(0)
        }
        SsoCommand::Reseal { folder, cache, purpose, record_is_file_name, json } => {
            let (keys, purpose) = keys(&cache, &purpose)?;
            let files = reseal::files_of(&folder)
                .with_context(|| format!("cannot read the folder {}", folder.display()))?;
            let record = |path: &Path| match path.file_name() {
                Some(name) if record_is_file_name => name.as_bytes().to_vec(),
                _ => Vec::new(),
            };
            let report = reseal::reseal_files(&RealDisk, &keys, &purpose, &record, files);
            match json.json {
                true => output::json(&json!({
                    "resealed": report.resealed,
                    "current": report.current,
                    "failures": report.failures,
                    "failed": report.failed.iter().map(|(path, why)| json!({ "file": path, "why": why })).collect::<Vec<_>>(),
                })),
                false => {
                    for (path, why) in &report.failed {
                        output::message_lines(&visible(&format!("{}: {why}", path.display())));
                    }
                    output::facts(&[
                        ("resealed", report.resealed.to_string()),
                        ("already under the newest key", report.current.to_string()),
                        ("failed", report.failures.to_string()),
                    ]);
                }
            }
            Ok(if report.is_complete() { 0 } else { INCOMPLETE })
        }
    }
}

async fn secret(command: SecretCommand) -> anyhow::Result<u8> {
    match command {
        SecretCommand::SealKey { file, shares, threshold, json } => {
            seal_key(&file, shares.zip(threshold), json)
        }
        SecretCommand::Unseal { share, place } => {
            let operation = Operation::Unseal { share: SecretText(read_share(&share)?) };
            let done = operate(&place, &operation)?;
            let shares = done.shares.context("the service does not say how many shares are there")?;
            let is_new = if shares.is_new { "Added the share" } else { "The share was there already" };
            let what = format!("{is_new}: {} are there, and {} are needed", shares.have, shares.need);
            done.findings.iter().for_each(|finding| output::warning(finding));
            told(&done, Some(&what), place.json)
        }
        SecretCommand::Generate(place) => change(&place, &Operation::Generate, "Generated"),
        SecretCommand::Status(place) => told(&operate(&place, &Operation::Status)?, None, place.json),
        SecretCommand::Rotate { overlap_h, place } => {
            change(&place, &Operation::Rotate { overlap_h }, "Rotated")
        }
        SecretCommand::Backup { file, key, place } => backup(&file, &key, &place),
        SecretCommand::Restore {
            file,
            key,
            allow_older,
            allow_foreign,
            replace_sealed,
            key_id,
            overlap_h,
            place,
        } => {
            if key_id.as_deref().is_some_and(|id| KeyId::parse(id).is_none()) {
                return Err(failed(2, "--key-id: a key id has 16 hexadecimal digits"));
            }
            let (backup, key) = opened_backup(&file, &key)?;
            let operation = Operation::Restore {
                backup,
                key,
                allow_older,
                allow_foreign,
                replace_sealed,
                key_id,
                overlap_h,
            };
            change(&place, &operation, "Restored")
        }
        SecretCommand::Drill { file, key, scratch, place } => {
            let (backup, key) = opened_backup(&file, &key)?;
            let operation = Operation::Drill { backup, key, scratch };
            change(&place, &operation, "The drill passed: the backup opens what the live secret sealed.")
        }
        SecretCommand::Adopt(ConfigOnly { config, json }) => {
            let store = changeable(&config)?;
            store.adopt()?;
            changed(&store, "Adopted", json)
        }
        SecretCommand::ExportPublicStatus { file, config } => {
            let value = serde_json::to_value(opened(&config)?.status())?;
            if input::is_standard(&file) {
                output::json(&value);
                return Ok(0);
            }
            let text = format!("{}\n", serde_json::to_string_pretty(&value)?);
            file_access::write_new(&file, text.as_bytes(), 0o644)
                .with_context(|| format!("cannot write {}", file.display()))?;
            Ok(0)
        }
        SecretCommand::Import { file, from_server, client, overlap_h, config, json } => {
            let store = changeable(&config)?;
            let secret = match (&file, from_server) {
                (Some(file), _) => read_secret(file)?,
                (None, Some(server)) => {
                    let (secret, _) = ask(&[server], &credentials(&client)?, seconds(client.timeout)).await?;
                    MasterSecret::from_octets(secret.octets())?
                }
                // INVARIANT: the command line requires one of them.
                (None, None) => bail!("give a file or --from-server"),
            };
            store.import(secret, UnixTime::now(), hours(overlap_h))?;
            changed(&store, "Imported", json)
        }
        SecretCommand::Get(args) => get(args).await,
    }
}

const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Who asks.
fn credentials(args: &OptionalClientArgs) -> anyhow::Result<Credentials> {
    if let Some((domain, user)) = args.user.as_deref().and_then(|user| user.split_once('\\')) {
        let (user, domain) = (shell_quoted(user), shell_quoted(domain));
        return Err(failed(2, format!("--user has a domain in it: give --user {user} --domain {domain}")));
    }
    let ntlm = match (&args.user, &args.password_file) {
        (Some(user), Some(file)) if args.auth != MechanismArg::Kerberos => {
            let password = SecretRef::File(file.clone()).read().map_err(|error| failed(UNUSABLE, error))?;
            let hash = NtHash::new(*account_store::NtHash::from_password(&password).expose());
            Some(NtlmUser { user: user.clone(), domain: args.domain.clone(), hash })
        }
        _ => None,
    };
    let variable = || {
        let name = std::env::var("KRB5CCNAME").ok()?;
        Some(PathBuf::from(name.strip_prefix("FILE:").unwrap_or(&name)))
    };
    let cache = args.ccache.clone().or_else(variable).filter(|_| args.auth != MechanismArg::Ntlm);
    let kerberos = cache.map(|cache| Tickets { cache, service: args.spn.clone(), kdc: args.kdc.clone() });
    let missing = match args.auth {
        MechanismArg::Ntlm if ntlm.is_none() => Some("--user and --password-file"),
        MechanismArg::Kerberos if kerberos.is_none() => Some("--ccache, or set KRB5CCNAME"),
        MechanismArg::Spnego if ntlm.is_none() && kerberos.is_none() => {
            Some("--user and --password-file, or --ccache")
        }
        _ => None,
    };
    match missing {
        Some(missing) => Err(failed(2, format!("nothing proves who asks: give {missing}"))),
        None => Ok(Credentials { ntlm, kerberos, negotiate: args.auth == MechanismArg::Spnego }),
    }
}

/// What a failure means for an operator, and what to do about it.
fn meaning(failure: &Failure, user: Option<&str>) -> Option<String> {
    let user = user.unwrap_or("the user");
    Some(match failure {
        Failure::Answered(GetError::Returned(ReturnCode::ACCESS_DENIED)) => {
            format!("{user} is no SSO administrator of that server, or the account is disabled")
        }
        Failure::Answered(GetError::Returned(ReturnCode::UNEXPECTED)) => {
            "the secret is sealed there, or the delivery cannot be recorded: see the server's log".to_owned()
        }
        Failure::Answered(GetError::Returned(ReturnCode::NOT_CONFIGURED)) => {
            "that server has no SSO administrators: name them in [sso]".to_owned()
        }
        Failure::Answered(GetError::Fault(FaultStatus::ACCESS_DENIED)) => {
            "not authenticated: wrong user or password; the server's audit log has the reason (authentication_refused)".to_owned()
        }
        _ => return None,
    })
}

/// Asks the servers; a failure has its exit code and its server.
async fn ask(
    servers: &[String],
    credentials: &Credentials,
    time: Duration,
) -> anyhow::Result<(sso_service::MasterSecret, String)> {
    let environment = Environment {
        now: crate::clock::now,
        fill: crate::random::fill,
        extension: trace::of_environment().map(|context| context.to_bytes()),
    };
    get_from_first(servers, credentials, &environment, time).await.map_err(|(failure, server)| {
        let code = match &failure {
            Failure::NotAnswered(_) => UNREACHABLE,
            Failure::Refused(_) => REFUSED,
            Failure::Unusable(_) => UNUSABLE,
            Failure::Answered(GetError::Returned(_)) => RETURNED,
            Failure::Answered(GetError::Fault(FaultStatus::ACCESS_DENIED)) => REFUSED,
            Failure::Answered(GetError::Fault(_) | GetError::BadAnswer(_)) => BROKEN,
        };
        let user = credentials.ntlm.as_ref().map(|ntlm| ntlm.user.as_str());
        match meaning(&failure, user) {
            Some(meaning) => failed(code, format!("{server}: {failure}: {meaning}")),
            None => failed(code, format!("{server}: {failure}")),
        }
    })
}

/// [MS-SSP] has no signal of a change; Windows' servers poll every 30 seconds, and so does this.
const WATCH_INTERVAL: Duration = Duration::from_secs(30);
/// Between attempts while no server answers, doubled each time up to [`WATCH_INTERVAL`].
const RETRY_FIRST: Duration = Duration::from_secs(1);

async fn get(args: GetArgs) -> anyhow::Result<u8> {
    if args.output.is_none() && args.fd.is_none() && args.cache.is_none() {
        return Err(failed(2, "the secret is never printed: give --output, --fd or --cache"));
    }
    let mut cache = match (&args.cache, &args.unseal) {
        (Some(cache), Some(unseal)) => Some(open_cache(cache, unseal, args.max_age_h, args.overlap_h)?),
        _ => None,
    };
    if args.server.is_empty() {
        if args.output.is_none() && args.fd.is_none() {
            return Err(failed(2, "without --server the cached key is written: give --output or --fd"));
        }
        // INVARIANT: the command line requires a cache without a server.
        let cache = cache.as_ref().context("give --server or --cache")?;
        let cached = cache.keys(UnixTime::now()).map_err(|error| failed(BROKEN, error))?;
        write_cached(&args, &cached)?;
        return Ok(0);
    }
    let credentials = credentials(&args.client)?;
    let mut retry = RETRY_FIRST;
    let mut is_written = false;
    loop {
        let asked = ask(&args.server, &credentials, seconds(args.client.timeout)).await;
        let is_delivered = asked.is_ok();
        let failure = match asked {
            Ok((secret, server)) => {
                delivered(&args, &secret, &server, cache.as_mut(), is_written)?;
                is_written = true;
                None
            }
            Err(error) => use_cached(&args, error, cache.as_mut(), &mut is_written)?,
        };
        if !args.watch {
            return failure.map_or(Ok(0), Err);
        }
        let wait = if is_delivered { WATCH_INTERVAL } else { retry };
        retry = if is_delivered { RETRY_FIRST } else { (retry * 2).min(WATCH_INTERVAL) };
        match failure {
            Some(error) if exit_code(&error) == UNUSABLE => return Err(error),
            // A watch outlives a restart of the server, and what others send in its name.
            Some(error) => {
                output::warning(&format!("{}: asked again in {} s", output::chain(&error), wait.as_secs()))
            }
            None => {}
        }
        tokio::time::sleep(wait).await;
    }
}

/// Uses the cached key if no server answered, and returns the failure if it may not be used.
fn use_cached(
    args: &GetArgs,
    failure: anyhow::Error,
    cache: Option<&mut NodeKeys>,
    is_written: &mut bool,
) -> anyhow::Result<Option<anyhow::Error>> {
    // A code or a fault is the server's word: the key is not used against it.
    let Some(cache) = cache.filter(|_| exit_code(&failure) == UNREACHABLE) else { return Ok(Some(failure)) };
    let cached = match cache.keys(UnixTime::now()) {
        Ok(cached) => cached,
        Err(old) => return Ok(Some(failed(UNREACHABLE, format!("{}; and {old}", output::chain(&failure))))),
    };
    let why = output::chain(&failure);
    output::warning(&format!("{why}: the cached key is used, {}", ago(cached.age)));
    if !std::mem::replace(is_written, true) {
        write_cached(args, &cached)?;
    }
    Ok(None)
}

/// Writes the newest cached key where it was asked for.
fn write_cached(args: &GetArgs, cached: &CachedKeys) -> anyhow::Result<()> {
    let (key_id, key) = cached.keys.newest();
    write_secret(args, key.expose())?;
    report(args, key_id, None, Some(cached.age));
    Ok(())
}

/// Keeps what the server delivered where it was asked for; `is_written` is whether the cached key is there
/// already.
fn delivered(
    args: &GetArgs,
    secret: &sso_service::MasterSecret,
    server: &str,
    cache: Option<&mut NodeKeys>,
    is_written: bool,
) -> anyhow::Result<()> {
    let key = MasterSecret::from_octets(secret.octets())
        .map_err(|error| failed(BROKEN, format!("{server}: {error}")))?;
    let key_id = key.key_id();
    let is_new = match cache {
        Some(cache) => matches!(cache.delivered(key, UnixTime::now())?, Delivery::New(_)),
        None => true,
    };
    if is_new || !is_written {
        write_secret(args, secret.octets())?;
        report(args, key_id, Some(server), None);
    }
    Ok(())
}

/// Says which key it is: its public identifier, never the key.
fn report(args: &GetArgs, key_id: KeyId, server: Option<&str>, age: Option<Duration>) {
    match args.json.json {
        true if !args.watch => output::json(&json!({
            "key_id": key_id.to_string(),
            "server": server,
            "cached_for_s": age.map(|age| age.as_secs()),
        })),
        _ => output::line(&format!("key id {key_id} from {}", server.unwrap_or("the cache"))),
    }
}

fn write_secret(args: &GetArgs, octets: &[u8; 16]) -> anyhow::Result<u8> {
    if let Some(path) = &args.output {
        return if args.watch { replace(path, octets) } else { write_new(path, octets) };
    }
    if let Some(fd) = args.fd {
        // The descriptor is opened anew by its number, so that nothing of this process is closed by it.
        let path = format!("/proc/self/fd/{fd}");
        // What is in a file already stays in front of it.
        let opened = std::fs::OpenOptions::new().append(true).open(&path);
        let written = opened.and_then(|mut file| file.write_all(octets));
        written.map_err(|error| failed(UNUSABLE, format!("cannot write to the descriptor {fd}: {error}")))?;
    }
    Ok(0)
}

fn write_new(path: &Path, bytes: &[u8]) -> anyhow::Result<u8> {
    if path.symlink_metadata().is_ok() {
        bail!("cannot write {}: the file exists already, and is not overwritten", path.display());
    }
    file_access::write_new(path, bytes, 0o600).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(0)
}

/// Puts a new file in the place of one that may be there: readers have the old one or the new one.
fn replace(path: &Path, bytes: &[u8]) -> anyhow::Result<u8> {
    let mut draft = path.as_os_str().to_owned();
    draft.push(".new");
    let draft = PathBuf::from(draft);
    // What a run left that was ended before the rename.
    let _ = std::fs::remove_file(&draft);
    file_access::write_new(&draft, bytes, 0o600)
        .and_then(|()| std::fs::rename(&draft, path))
        .with_context(|| format!("cannot write {}", path.display()))?;
    Ok(0)
}

/// What a cache of keys is sealed with, as [sso] seal says it.
fn unseal_source(text: &str) -> anyhow::Result<Arc<dyn SealingSource>> {
    let seal = config::SealRef::parse(text, Path::new(""))
        .map_err(|why| failed(2, format!("{text}: {why}: {}", config::SEAL_FORMS)))?;
    Ok(sso::seal_source(&seal))
}

/// The cached keys of a node.
fn node(args: &CacheArgs) -> anyhow::Result<NodeKeys> {
    open_cache(&args.cache, &args.unseal, args.max_age_h, args.overlap_h)
}

fn open_cache(cache: &Path, unseal: &str, max_age_h: u64, overlap_h: u64) -> anyhow::Result<NodeKeys> {
    let limits = CacheLimits { max_age: hours(max_age_h), overlap: hours(overlap_h) };
    Ok(NodeKeys::open(cache, unseal_source(unseal)?, limits)?)
}

/// The usable keys of a node, and a purpose.
fn keys(args: &CacheArgs, purpose: &str) -> anyhow::Result<(Keyring, Purpose)> {
    let purpose = Purpose::new(purpose).ok_or_else(|| {
        failed(2, "a purpose has 1 to 64 letters, digits, dots, dashes, slashes or underscores")
    })?;
    let cached = node(args)?.keys(UnixTime::now()).map_err(|error| failed(BROKEN, error))?;
    Ok((cached.keys, purpose))
}

fn read_bounded(path: &Path) -> anyhow::Result<Vec<u8>> {
    read_up_to(path, BLOB_LEN_MAX, "is longer than 1 MiB: seal a key, and encrypt the data with that")
}

/// Reads a file, or says `longer` of it if its length is above `max`.
fn read_up_to(path: &Path, max: u64, longer: &str) -> anyhow::Result<Vec<u8>> {
    if path.metadata().is_ok_and(|metadata| metadata.len() > max) {
        return Err(failed(UNUSABLE, format!("{} {longer}", path.display())));
    }
    input::read(path).map_err(|error| failed(UNUSABLE, format!("cannot read {}: {error}", path.display())))
}

/// A blob with the largest plaintext and what is around it.
const BLOB_LEN_MAX: u64 = blob::PLAIN_MAX as u64 + 1024;

fn section(config: &ConfigArg) -> anyhow::Result<config::Sso> {
    let section = load(&config.config)?.sso;
    section.with_context(|| format!("{} has no [sso]", config.config.display()))
}

fn opened(config: &ConfigArg) -> anyhow::Result<SecretStore> {
    Ok(sso::store(&section(config)?))
}

/// The store, for a command that changes it on the files.
fn changeable(config: &ConfigArg) -> anyhow::Result<SecretStore> {
    let section = section(config)?;
    match is_own(&section)? {
        true => Ok(sso::store(&section)),
        false => Err(not_own(&section)),
    }
}

/// Whether the user of this command may change the files: only the owner of the folder, or root. Files that
/// others could write would not be enough, because the folder may be shared with readers.
fn is_own(section: &config::Sso) -> anyhow::Result<bool> {
    let folder = &section.folder;
    let metadata = folder.metadata().with_context(|| {
        format!("cannot use the folder {}: create it, for the user of the service alone", folder.display())
    })?;
    let user = rustix::process::geteuid();
    Ok(user.is_root() || user.as_raw() == metadata.uid())
}

fn not_own(section: &config::Sso) -> anyhow::Error {
    let folder = section.folder.display();
    anyhow::anyhow!(
        "{folder} belongs to another user: only its owner and root may change the master secret, and operators by sso.operator_socket"
    )
}

/// Does it on the files, or has the running service do it.
fn operate(place: &PlaceArgs, operation: &Operation) -> anyhow::Result<Done> {
    operate_and_keep(place, operation, &mut |_| bail!("the service sent a backup that was not asked for"))
}

/// The same for an operation that makes a backup.
fn operate_and_keep(place: &PlaceArgs, operation: &Operation, keep: Keep<'_>) -> anyhow::Result<Done> {
    if let Some(socket) = &place.socket {
        return operators::ask(ServiceAt { socket, data: None }, operation, keep);
    }
    // INVARIANT: the command line requires one of them.
    let config = place.config.clone().context("give -c or --socket")?;
    let section = section(&ConfigArg { config })?;
    match (is_own(&section), &section.operator_socket) {
        (Ok(true), _) => operation.perform(&sso::store(&section), &section, Right::Owner, keep),
        (_, Some(socket)) => {
            let service = ServiceAt { socket: &socket.path, data: Some(&section.folder) };
            operators::ask(service, operation, keep)
        }
        // What there is to read, if anything.
        (_, None) if matches!(operation, Operation::Status) => {
            operation.perform(&sso::store(&section), &section, Right::Owner, keep)
        }
        (Ok(false), None) => Err(not_own(&section)),
        (Err(error), None) => Err(error),
    }
}

fn change(place: &PlaceArgs, operation: &Operation, what: &str) -> anyhow::Result<u8> {
    told(&operate(place, operation)?, Some(what), place.json)?;
    Ok(0)
}

/// Writes a backup.
fn backup(file: &Path, args: &BackupToArgs, place: &PlaceArgs) -> anyhow::Result<u8> {
    let key = match (&args.passphrase_file, &args.key_file, &args.recipient) {
        (Some(file), _, _) => passphrase(file)?,
        (_, Some(file), _) => BackupKey::of_file(file).map_err(|error| failed(UNUSABLE, error))?,
        (_, _, Some(recipient)) => BackupKey::Recipient(read_recipient(recipient)?),
        // INVARIANT: the command line requires one of them.
        (None, None, None) => bail!("give --passphrase-file, --key-file or --recipient"),
    };
    warn_of_short_passphrase(&key);
    // Before a backup is made.
    if file.symlink_metadata().is_ok() {
        bail!("cannot write {}: the file exists already", file.display());
    }
    // It is noted once it is on the disk.
    let mut keep = |bytes: &[u8]| {
        sso_secret::backup::write_file(file, bytes)
            .with_context(|| format!("cannot write {}", file.display()))
    };
    let operation = Operation::Backup { key, for_node: args.for_node };
    let done = operate_and_keep(place, &operation, &mut keep)?;
    told(&done, Some(&format!("Backed up to {}", file.display())), place.json)?;
    Ok(0)
}

/// The text of a recipient, or the file that has it.
fn read_recipient(text: &str) -> anyhow::Result<String> {
    if Recipient::parse(text).is_some() {
        return Ok(text.trim().to_owned());
    }
    let bytes = read_up_to(Path::new(text), RECIPIENT_LEN_MAX, "is too long for a recipient")?;
    let read = String::from_utf8(bytes).ok().filter(|text| Recipient::parse(text).is_some());
    let read = read.ok_or_else(|| {
        failed(
            UNUSABLE,
            format!("{text} has no recipient: `rcmpd sso recipient` prints one, rcmpd-recipient-1:…"),
        )
    })?;
    Ok(read.trim().to_owned())
}

/// A recipient has 82 characters.
const RECIPIENT_LEN_MAX: u64 = 256;

/// Creates what seals the secret.
fn seal_key(file: &Path, shares: Option<(u8, u8)>, json: JsonArg) -> anyhow::Result<u8> {
    let text = file.to_string_lossy();
    let cannot = |path: &Path| format!("cannot create {}", path.display());
    let (seal, files) = if text.starts_with("pkcs11:") {
        if shares.is_some() {
            return Err(failed(2, "a key in a token does not leave it, so it has no shares"));
        }
        let config::SealRef::Token(token) =
            config::SealRef::parse(&text, Path::new("")).map_err(|why| failed(2, why))?
        else {
            bail!("this names no token")
        };
        let key = sso::token_key(&token);
        key.create().map_err(|error| anyhow::anyhow!("{} {error}", key.name()))?;
        (text.to_string(), Vec::new())
    } else if let Some((count, threshold)) = shares {
        if threshold > count {
            return Err(failed(2, format!("--threshold {threshold} is more than --shares {count}")));
        }
        let shares = share::split_new(threshold, count)?;
        let mut files = Vec::new();
        for (number, share) in shares.iter().enumerate() {
            let path = PathBuf::from(format!("{text}.{}.share", number + 1));
            let line = Zeroizing::new(format!("{}\n", *share.text()));
            if let Err(error) = file_access::write_new(&path, line.as_bytes(), 0o600) {
                // Fewer shares than were asked for are of no use.
                files.iter().for_each(|path: &PathBuf| drop(std::fs::remove_file(path)));
                return Err(error).with_context(|| cannot(&path));
            }
            files.push(path);
        }
        ("shares:FOLDER".to_owned(), files)
    } else {
        KeyFile::create(file).with_context(|| cannot(file))?;
        // The configuration counts a relative path from its own folder.
        let path = std::path::absolute(file).with_context(|| cannot(file))?;
        (format!("file:{}", path.display()), vec![file.to_owned()])
    };
    match (json.json, files.as_slice()) {
        (true, [file]) => output::json(&json!({ "file": file, "seal": seal })),
        (true, files) => output::json(&json!({ "files": files, "seal": seal })),
        (false, [_, _, ..]) => output::lines(&visible(&format!(
            "Created {}. Give each to another operator, and remove it here. Name the folder to which they are added in the configuration: [sso] seal = \"{seal}\"",
            files.iter().map(|file| file.display().to_string()).collect::<Vec<_>>().join(", ")
        ))),
        (false, [_]) => output::line(&visible(&format!(
            "Created {text}. On a server, name it in the configuration: [sso] seal = \"{seal}\". On a node: --unseal {}",
            shell_quoted(&format!("file:{text}"))
        ))),
        (false, []) => output::line(&visible(&format!(
            "Created {text}. Name it in the configuration: [sso] seal = \"{seal}\""
        ))),
    }
    Ok(0)
}

/// The text of a share, in one line.
fn read_share(path: &Path) -> anyhow::Result<Zeroizing<String>> {
    SecretRef::File(path.to_owned()).read().map_err(|error| failed(UNUSABLE, error))
}

const fn hours(hours: u64) -> Duration {
    Duration::from_secs(hours * 3600)
}

/// What opens a backup.
fn backup_key(args: &BackupKeyArgs) -> anyhow::Result<BackupKey> {
    match (&args.passphrase_file, &args.key_file) {
        (Some(file), _) => passphrase(file),
        (None, Some(file)) => BackupKey::of_file(file),
        // INVARIANT: the command line requires one of them.
        (None, None) => bail!("give --passphrase-file or --key-file"),
    }
}

/// A passphrase. Standard input is read once, and what is wrong with the file is said before anything is
/// done.
fn passphrase(file: &Path) -> anyhow::Result<BackupKey> {
    let text = SecretRef::File(file.to_owned()).read().map_err(|error| failed(UNUSABLE, error))?;
    Ok(BackupKey::Passphrase(SecretText(text)))
}

/// Fewer characters than this are a passphrase that a person made up. An attacker who has the backup can try
/// such passphrases against it.
const PASSPHRASE_LEN_MIN: usize = 16;

fn warn_of_short_passphrase(key: &BackupKey) {
    let BackupKey::Passphrase(SecretText(text)) = key else { return };
    let len = text.chars().count();
    if len < PASSPHRASE_LEN_MIN {
        output::warning(&format!(
            "the passphrase has {}, and can be guessed by tries against the backup: use at least {PASSPHRASE_LEN_MIN}, or --recipient",
            output::counted(len as u64, "character")
        ));
    }
}

/// More than a backup of all generations has.
const BACKUP_LEN_MAX: u64 = 1 << 20;

fn read_backup(path: &Path) -> anyhow::Result<Vec<u8>> {
    read_up_to(path, BACKUP_LEN_MAX, "is too long for a backup")
}

/// A backup, and what opens it. That it does is known before the service or a file is asked, whose errors do
/// not know the names of files.
fn opened_backup(file: &Path, args: &BackupKeyArgs) -> anyhow::Result<(Octets, BackupKey)> {
    let unusable = |why: String| failed(UNUSABLE, format!("{} {why}", file.display()));
    let octets = read_backup(file)?;
    if !Backup::is_one(&octets) {
        return Err(unusable("is not a backup of `rcmpd sso secret backup`".to_owned()));
    }
    let backup = Backup::read(&octets).map_err(|error| unusable(format!("cannot be used: {error}")))?;
    let is_sealed_by = backup.key_header().kind;
    let key = backup_key(args)?;
    if let Err(error) = backup.keyring(&*key.to_open(&octets)?) {
        return Err(unusable(match (error, &args.passphrase_file) {
            (BackupError::Sealed(_), Some(passphrase)) if is_sealed_by == SourceKind::Passphrase => {
                format!("does not open: the passphrase in {} is wrong", passphrase.display())
            }
            (BackupError::Sealed(sealed), _) => format!("does not open: {sealed}"),
            (error, _) => format!("cannot be used: {error}"),
        }));
    }
    Ok((Octets(octets), key))
}

/// 16 octets, or as many in hexadecimal digits.
fn read_secret(path: &Path) -> anyhow::Result<MasterSecret> {
    let unusable = |why: String| failed(UNUSABLE, format!("{}: {why}", path.display()));
    let bytes = match input::is_standard(path) {
        true => input::read(path).map(Zeroizing::new).map_err(|error| unusable(error.to_string()))?,
        false => account_store::FileAccess::Group.read(path).map_err(|error| unusable(error.to_string()))?,
    };
    let digits = std::str::from_utf8(&bytes).map_or("", str::trim);
    let mut read = Zeroizing::new([0; MasterSecret::LEN]);
    let octets = match dtyp::read_hex(digits.as_bytes(), read.as_mut()) {
        Some(()) => read.as_slice(),
        None => &bytes,
    };
    MasterSecret::from_octets(octets).map_err(|error| unusable(error.to_string()))
}

/// Says what was done on the files, and the state after it.
fn changed(store: &SecretStore, what: &str, json: JsonArg) -> anyhow::Result<u8> {
    let done = Done { status: serde_json::to_value(store.status())?, ..Done::default() };
    told(&done, Some(what), json)?;
    Ok(0)
}

/// The public facts that are printed.
#[derive(Deserialize)]
struct Shown {
    state: String,
    sealed: Option<String>,
    facts: Option<ShownFacts>,
    page_lock: Option<PageLock>,
}

#[derive(Deserialize)]
struct ShownFacts {
    lineage: String,
    instance: String,
    is_copy: bool,
    source: String,
    generations: Vec<ShownGeneration>,
    last_backup: Option<u64>,
    backup_is_current: bool,
    last_drill: Option<u64>,
}

#[derive(Deserialize)]
struct ShownGeneration {
    number: u32,
    key_id: String,
    created: u64,
    overlap_ends: Option<u64>,
}

/// Says what was done, if anything, and the state after it. Returns the exit code of the state.
fn told(done: &Done, what: Option<&str>, json: JsonArg) -> anyhow::Result<u8> {
    let shown = Shown::deserialize(&done.status).context("the service sent no status")?;
    let code = match shown.state.as_str() {
        "open" => 0,
        "none" => NO_SECRET,
        _ => SEALED,
    };
    if json.json {
        let mut value = done.status.clone();
        if what.is_none() {
            value["exit_code"] = json!(code);
        }
        if let Some(Shares { have, need, .. }) = done.shares {
            value["shares"] = json!({ "have": have, "need": need });
        }
        output::json(&value);
    } else {
        what.iter().for_each(|what| output::lines(&visible(what)));
        facts(&shown);
    }
    Ok(code)
}

fn facts(status: &Shown) {
    let now = UnixTime::now();
    let age = |time: Option<u64>| match time.map(UnixTime) {
        None => "never".to_owned(),
        Some(time) => format!("{} ({})", date(time), ago(now.since(time))),
    };
    let mut rows = vec![("state", visible(&status.state))];
    if let Some(why) = &status.sealed {
        rows.push(("missing", visible(why)));
    }
    if let Some(facts) = &status.facts {
        rows.push(("sealed with", visible(&facts.source)));
        rows.push(("lineage", visible(&facts.lineage)));
        rows.push(("instance", visible(&facts.instance)));
        let backup = match (facts.last_backup, facts.backup_is_current) {
            (Some(_), false) => format!("{}: older than the newest generation", age(facts.last_backup)),
            (None, _) => "never backed up".to_owned(),
            (time, _) => age(time),
        };
        rows.push(("last backup", backup));
        rows.push(("last drill", age(facts.last_drill)));
        if facts.is_copy {
            rows.push((
                "copy",
                "this folder is a copy: no rotation before `rcmpd sso secret adopt`".to_owned(),
            ));
        }
    }
    if let Some(page_lock) = &status.page_lock {
        rows.push(("memory", memory(page_lock)));
    }
    output::facts(&rows);
    let Some(facts) = &status.facts else { return };
    output::line("");
    let rows = facts.generations.iter().map(|generation| {
        let overlap = generation
            .overlap_ends
            .map_or_else(|| "newest".to_owned(), |end| format!("until {}", date(UnixTime(end))));
        let created = date(UnixTime(generation.created));
        vec![generation.number.to_string(), visible(&generation.key_id), created, overlap]
    });
    output::table(&["generation", "key id", "created", "overlap"], rows.collect());
}

/// What is kept out of swap, and what is not.
fn memory(page_lock: &PageLock) -> String {
    match page_lock {
        PageLock::Locked => {
            "stored generations and sealing key: locked; a delivery: wiped after it was sealed".to_owned()
        }
        PageLock::Refused(why) => format!("stored generations and sealing key: not locked ({why})"),
    }
}

fn date(time: UnixTime) -> String {
    FileTime::from_unix(i64::try_from(time.0).unwrap_or(i64::MAX)).to_string()
}

/// How long ago, in the largest unit that is whole.
fn ago(time: Duration) -> String {
    let seconds = time.as_secs();
    let (count, unit) = match seconds {
        0..60 => (seconds, "second"),
        60..3600 => (seconds / 60, "minute"),
        3600..86_400 => (seconds / 3600, "hour"),
        _ => (seconds / 86_400, "day"),
    };
    format!("{} ago", output::counted(count, unit))
}
