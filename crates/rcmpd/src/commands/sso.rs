//! `rcmpd sso …`

use super::{UNUSABLE, exit_code, failed, load};
use crate::cli::{
    BackupKeyArgs, CacheArgs, ConfigArg, ConfigOnly, GetArgs, MechanismArg, OptionalClientArgs,
    SecretCommand, SsoCommand,
};
use crate::config::{self, SecretRef};
use crate::output::{self, visible};
use crate::sso;
use crate::sso::client::{Credentials, Failure, NtlmUser, Tickets, get_from_first};
use account_store::file_access;
use anyhow::{Context, bail};
use dcerpc::pdu::FaultStatus;
use dtyp::FileTime;
use pem_file::input;
use rpc_auth::ntlm::NtHash;
use serde_json::{Value, json};
use sso_secret::node::{CacheLimits, Delivery, NodeKeys};
use sso_secret::{
    KeyFile, KeyId, Keyring, MasterSecret, Overlap, PageLock, Purpose, RealDisk, RestoreRules, SealingSource,
    SecretStore, Status, UnixTime, blob, reseal,
};
use sso_service::client::GetError;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use zeroize::Zeroizing;

/// How long nodes may need the previous generation, in hours, where a rotation does not say it: a week.
const OVERLAP_H: u64 = 168;
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
            let key = backup_key(&key)?;
            let learnt = node(&cache)?.take_backup(&read_backup(&file)?, &*key, UnixTime::now())?;
            match json.json {
                true => output::json(&json!({ "learnt": learnt })),
                false => output::line(&format!("Learnt {}", output::counted(learnt as u64, "older key"))),
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
        SecretCommand::SealKey { file, json } => {
            KeyFile::create(&file).with_context(|| format!("cannot create {}", file.display()))?;
            match json.json {
                true => output::json(&json!({ "file": file })),
                false => output::line(&format!(
                    "Created {0}. Name it in the configuration: [sso] seal = \"file:{0}\"",
                    file.display()
                )),
            }
            Ok(0)
        }
        SecretCommand::Generate(ConfigOnly { config, json }) => {
            let store = changeable(&config)?;
            store.generate(UnixTime::now())?;
            changed(&store, "Generated", json.json)
        }
        SecretCommand::Status(ConfigOnly { config, json }) => status(&opened(&config)?, json.json),
        SecretCommand::Rotate { overlap_h, config, json } => {
            let store = changeable(&config)?;
            let time = hours(overlap_h.unwrap_or(OVERLAP_H));
            store.rotate(UnixTime::now(), Overlap { time, shorten_older: overlap_h.is_some() })?;
            changed(&store, "Rotated", json.json)
        }
        SecretCommand::Backup { file, key, config, json } => {
            let store = changeable(&config)?;
            store.backup_to(&file, &*backup_key(&key)?, UnixTime::now())?;
            changed(&store, &format!("Backed up to {}", file.display()), json.json)
        }
        SecretCommand::Restore {
            file,
            key,
            allow_older,
            allow_foreign,
            replace_sealed,
            overlap_h,
            config,
            json,
        } => {
            let store = changeable(&config)?;
            let rules = RestoreRules { allow_older, allow_foreign, replace_sealed };
            let bytes = read_backup(&file)?;
            store.restore(&bytes, &*backup_key(&key)?, UnixTime::now(), hours(overlap_h), rules)?;
            changed(&store, "Restored", json.json)
        }
        SecretCommand::Drill { file, key, scratch, config, json } => {
            let store = changeable(&config)?;
            let scratch = scratch.map_or_else(|| section(&config).map(|section| section.folder), Ok)?;
            store.drill(&read_backup(&file)?, &*backup_key(&key)?, &scratch, UnixTime::now())?;
            changed(&store, "The drill passed: the backup opens what the live secret sealed.", json.json)
        }
        SecretCommand::Adopt(ConfigOnly { config, json }) => {
            let store = changeable(&config)?;
            store.adopt()?;
            changed(&store, "Adopted", json.json)
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
            changed(&store, "Imported", json.json)
        }
        SecretCommand::Get(args) => get(args).await,
    }
}

const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Who asks.
fn credentials(args: &OptionalClientArgs) -> anyhow::Result<Credentials> {
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

/// Asks the servers; a failure has its exit code and its server.
async fn ask(
    servers: &[String],
    credentials: &Credentials,
    time: Duration,
) -> anyhow::Result<(sso_service::MasterSecret, String)> {
    get_from_first(servers, credentials, time).await.map_err(|(failure, server)| {
        let code = match &failure {
            Failure::NotAnswered(_) => UNREACHABLE,
            Failure::Refused(_) => REFUSED,
            Failure::Unusable(_) => UNUSABLE,
            Failure::Answered(GetError::Returned(_)) => RETURNED,
            Failure::Answered(GetError::Fault(FaultStatus::ACCESS_DENIED)) => REFUSED,
            Failure::Answered(GetError::Fault(_) | GetError::BadAnswer(_)) => BROKEN,
        };
        failed(code, format!("{server}: {failure}"))
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
    let credentials = credentials(&args.client)?;
    let mut cache = match (&args.cache, &args.unseal) {
        (Some(cache), Some(unseal)) => {
            let limits = CacheLimits { max_age: hours(args.max_age_h), overlap: hours(args.overlap_h) };
            Some(NodeKeys::open(cache, unseal_source(unseal)?, limits)?)
        }
        _ => None,
    };
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
            Some(error) => output::warning(&format!("{error:#}: asked again in {} s", wait.as_secs())),
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
        Err(old) => return Ok(Some(failed(UNREACHABLE, format!("{failure:#}; and {old}")))),
    };
    output::warning(&format!("{failure:#}: the cached key is used, {}", ago(cached.age)));
    if !std::mem::replace(is_written, true) {
        let (key_id, key) = cached.keys.newest();
        write_secret(args, key.expose())?;
        report(args, key_id, None, Some(cached.age));
    }
    Ok(None)
}

/// Keeps what the server delivered where it was asked for; `is_written` is whether the cached key is there already.
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
        let written =
            std::fs::OpenOptions::new().write(true).open(&path).and_then(|mut file| file.write_all(octets));
        written.map_err(|error| failed(UNUSABLE, format!("cannot write to the descriptor {fd}: {error}")))?;
    }
    Ok(0)
}

fn write_new(path: &Path, bytes: &[u8]) -> anyhow::Result<u8> {
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
    let seal = config::SealRef::parse(text, Path::new("")).ok_or_else(|| {
        failed(
            2,
            format!(
                "{text} is no sealing source: write file:PATH, cred:NAME, or passphrase: and one of these"
            ),
        )
    })?;
    Ok(sso::seal_source(&seal))
}

/// The cached keys of a node.
fn node(args: &CacheArgs) -> anyhow::Result<NodeKeys> {
    let limits = CacheLimits { max_age: hours(args.max_age_h), overlap: hours(args.overlap_h) };
    Ok(NodeKeys::open(&args.cache, unseal_source(&args.unseal)?, limits)?)
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

/// The store, for a command that changes it: only the owner of its folder, or root, is an operator. Files that others could write
/// would not be enough, because the folder may be shared with readers.
fn changeable(config: &ConfigArg) -> anyhow::Result<SecretStore> {
    let section = section(config)?;
    let folder = &section.folder;
    let metadata = folder.metadata().with_context(|| {
        format!("cannot use the folder {}: create it, for the user of the service alone", folder.display())
    })?;
    let user = rustix::process::geteuid();
    if !user.is_root() && user.as_raw() != metadata.uid() {
        bail!(
            "{} belongs to another user: only its owner and root may change the master secret",
            folder.display()
        );
    }
    Ok(sso::store(&section))
}

const fn hours(hours: u64) -> Duration {
    Duration::from_secs(hours * 3600)
}

/// What a backup is encrypted with.
fn backup_key(args: &BackupKeyArgs) -> anyhow::Result<Arc<dyn SealingSource>> {
    Ok(match (&args.passphrase_file, &args.key_file) {
        (Some(file), _) => {
            let reference = SecretRef::File(file.clone());
            // Standard input is read once, and what is wrong with the file is said before anything is done.
            let text = reference.read().map_err(|error| failed(UNUSABLE, error))?;
            Arc::new(sso_secret::Passphrase::typed(text))
        }
        (None, Some(file)) => Arc::new(KeyFile::file(file)),
        // INVARIANT: the command line requires one of them.
        (None, None) => bail!("give --passphrase-file or --key-file"),
    })
}

/// More than a backup of all generations has.
const BACKUP_LEN_MAX: u64 = 1 << 20;

fn read_backup(path: &Path) -> anyhow::Result<Vec<u8>> {
    read_up_to(path, BACKUP_LEN_MAX, "is too long for a backup")
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

/// Says what was done, and the state after it.
fn changed(store: &SecretStore, what: &str, as_json: bool) -> anyhow::Result<u8> {
    let status = store.status();
    match as_json {
        true => output::json(&serde_json::to_value(&status)?),
        false => {
            output::lines(&visible(what));
            facts(&status);
        }
    }
    Ok(0)
}

fn status(store: &SecretStore, as_json: bool) -> anyhow::Result<u8> {
    let status = store.status();
    let code = match status.state {
        "open" => 0,
        "none" => NO_SECRET,
        _ => SEALED,
    };
    match as_json {
        true => {
            let mut value: Value = serde_json::to_value(&status)?;
            value["exit_code"] = json!(code);
            output::json(&value);
        }
        false => facts(&status),
    }
    Ok(code)
}

fn facts(status: &Status) {
    let now = UnixTime::now();
    let age = |time: Option<UnixTime>| match time {
        None => "never".to_owned(),
        Some(time) => format!("{} ({})", date(time), ago(now.since(time))),
    };
    let mut rows = vec![("state", status.state.to_owned())];
    if let Some(why) = &status.sealed {
        rows.push(("missing", why.clone()));
    }
    if let Some(facts) = &status.facts {
        rows.push(("sealed with", facts.source.clone()));
        rows.push(("lineage", facts.lineage.clone()));
        rows.push(("instance", facts.instance.clone()));
        let backup = match (facts.last_backup, facts.backup_is_current) {
            (Some(_), false) => format!("{}: older than the newest generation", age(facts.last_backup)),
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
        let overlap =
            generation.overlap_ends.map_or_else(|| "newest".to_owned(), |end| format!("until {}", date(end)));
        vec![generation.number.to_string(), generation.key_id.to_string(), date(generation.created), overlap]
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
