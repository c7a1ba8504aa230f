//! `rcmpd sso …`

use super::{UNUSABLE, failed, load};
use crate::cli::{BackupKeyArgs, ConfigArg, ConfigOnly, SecretCommand, SsoCommand};
use crate::config::{self, SecretRef};
use pem_file::input;
use crate::output::{self, visible};
use crate::sso;
use account_store::file_access;
use anyhow::{Context, bail};
use dtyp::FileTime;
use serde_json::{Value, json};
use sso_secret::{KeyFile, MasterSecret, RestoreRules, SealingSource, SecretStore, Status, UnixTime};
use std::path::Path;
use std::time::Duration;
use zeroize::Zeroizing;

/// There is no secret.
const NO_SECRET: u8 = 3;
/// The secret is sealed.
const SEALED: u8 = 7;

pub(super) async fn run(command: SsoCommand) -> anyhow::Result<u8> {
    match command {
        SsoCommand::Secret(command) => secret(command).await,
        SsoCommand::Seal(_) | SsoCommand::Open(_) | SsoCommand::Reseal { .. } => bail!("not yet"),
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
            let store = opened(&config)?;
            store.generate(UnixTime::now())?;
            changed(&store, "Generated", json.json)
        }
        SecretCommand::Status(ConfigOnly { config, json }) => status(&opened(&config)?, json.json),
        SecretCommand::Rotate { overlap_h, config, json } => {
            let store = opened(&config)?;
            store.rotate(UnixTime::now(), hours(overlap_h))?;
            changed(&store, "Rotated", json.json)
        }
        SecretCommand::Backup { file, key, config, json } => {
            let store = opened(&config)?;
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
            let store = opened(&config)?;
            let rules = RestoreRules { allow_older, allow_foreign, replace_sealed };
            let bytes = read_backup(&file)?;
            store.restore(&bytes, &*backup_key(&key)?, UnixTime::now(), hours(overlap_h), rules)?;
            changed(&store, "Restored", json.json)
        }
        SecretCommand::Drill { file, key, scratch, config, json } => {
            let section = section(&config)?;
            let store = sso::store(&section);
            let scratch = scratch.unwrap_or(section.folder);
            store.drill(&read_backup(&file)?, &*backup_key(&key)?, &scratch, UnixTime::now())?;
            changed(&store, "The drill passed: the backup opens what the live secret sealed.", json.json)
        }
        SecretCommand::Adopt(ConfigOnly { config, json }) => {
            let store = opened(&config)?;
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
        SecretCommand::Import { file, from_server: _, client: _, overlap_h, config, json } => {
            let store = opened(&config)?;
            let secret = match &file {
                Some(file) => read_secret(file)?,
                None => bail!("not yet"),
            };
            store.import(secret, UnixTime::now(), hours(overlap_h))?;
            changed(&store, "Imported", json.json)
        }
        SecretCommand::Get(_) => bail!("not yet"),
    }
}

fn section(config: &ConfigArg) -> anyhow::Result<config::Sso> {
    let section = load(&config.config)?.sso;
    section.with_context(|| format!("{} has no [sso]", config.config.display()))
}

fn opened(config: &ConfigArg) -> anyhow::Result<SecretStore> {
    Ok(sso::store(&section(config)?))
}

const fn hours(hours: u64) -> Duration {
    Duration::from_secs(hours * 3600)
}

/// What a backup is encrypted with.
fn backup_key(args: &BackupKeyArgs) -> anyhow::Result<std::sync::Arc<dyn SealingSource>> {
    Ok(match (&args.passphrase_file, &args.key_file) {
        (Some(file), _) => {
            let reference = SecretRef::File(file.clone());
            // Standard input is read once, and what is wrong with the file is said before anything is done.
            let text = reference.read().map_err(|error| failed(UNUSABLE, error))?;
            std::sync::Arc::new(sso_secret::Passphrase::typed(text))
        }
        (None, Some(file)) => std::sync::Arc::new(KeyFile::file(file)),
        // INVARIANT: the command line requires one of them.
        (None, None) => bail!("give --passphrase-file or --key-file"),
    })
}

/// More than a backup of all generations has.
const BACKUP_LEN_MAX: u64 = 1 << 20;

fn read_backup(path: &Path) -> anyhow::Result<Vec<u8>> {
    if let Ok(metadata) = path.metadata()
        && metadata.len() > BACKUP_LEN_MAX
    {
        return Err(failed(UNUSABLE, format!("{} is too long for a backup", path.display())));
    }
    input::read(path).map_err(|error| failed(UNUSABLE, format!("cannot read {}: {error}", path.display())))
}

/// 16 octets, or as many in hexadecimal digits.
fn read_secret(path: &Path) -> anyhow::Result<MasterSecret> {
    let unusable = |why: String| failed(UNUSABLE, format!("{}: {why}", path.display()));
    let bytes = match input::is_standard(path) {
        true => input::read(path).map(Zeroizing::new).map_err(|error| unusable(error.to_string()))?,
        false => account_store::FileAccess::Group.read(path).map_err(|error| unusable(error.to_string()))?,
    };
    let digits = std::str::from_utf8(&bytes).ok().map(str::trim).filter(|text| text.len() == 32);
    let octets = digits.and_then(|digits| {
        let digit = |at: usize| digits.as_bytes().get(at).and_then(|byte| char::from(*byte).to_digit(16));
        let octets = (0..16).map(|n| Some((digit(2 * n)? << 4 | digit(2 * n + 1)?) as u8));
        octets.collect::<Option<Vec<u8>>>().map(Zeroizing::new)
    });
    let octets = octets.as_ref().unwrap_or(&bytes);
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
        rows.push(("memory", format!("{page_lock:?}").to_lowercase()));
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
