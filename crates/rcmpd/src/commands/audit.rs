//! `rcmpd audit`.

use super::failed;
use super::transfer::bar;
use crate::cli::AuditCommand;
use crate::output::{self, counted};
use audit_log::verify::{Report, Unusable, VerifyOptions, verify};
use ed25519_file::PublicKey;
use pem_file::input;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// The log was changed.
const BROKEN: u8 = 3;
/// A file cannot be used.
const UNUSABLE: u8 = 6;
/// Options that do not belong together.
const WRONG_USE: u8 = 2;
/// No checkpoint is about these lines, or none was given, so their writer is not verified.
const NOT_SIGNED: u8 = 7;

pub(super) fn run(command: AuditCommand) -> anyhow::Result<u8> {
    match command {
        AuditCommand::Key { file, json } => {
            make_key(&file, json.json)?;
            Ok(0)
        }
        AuditCommand::Verify { files, heads, public_key, first_seq, json } => {
            if !files.iter().any(|file| file.is_dir()) {
                if heads.is_none() && !public_key.is_empty() {
                    return Err(failed(WRONG_USE, "--public-key needs the signed checkpoints: --heads FILE"));
                }
                return Ok(report(&files, heads.as_deref(), &public_key, first_seq, json.json));
            }
            if heads.is_some() || first_seq > 1 || !files.iter().all(|file| file.is_dir()) {
                let why = "each folder is the log of a server, with its checkpoints: give folders or files, and --heads and \
                           --first-seq with files only";
                return Err(failed(WRONG_USE, why));
            }
            Ok(report_of_servers(&files, &public_key, json.json))
        }
    }
}

/// Creates a signing key, and prints its public key.
pub(super) fn make_key(file: &Path, as_json: bool) -> anyhow::Result<()> {
    if input::is_standard(file) {
        anyhow::bail!("a private key is not printed: give a file name");
    }
    let (public_file, public) = ed25519_file::make_key(file)?;
    match as_json {
        true => {
            output::json(&json!({ "key": file, "public_key_file": public_file, "public_key": public.pem() }));
        }
        false => output::lines(public.pem().trim_end()),
    }
    Ok(())
}

fn unusable(error: &str, as_json: bool) -> u8 {
    if as_json {
        output::json(&json!({ "verified": false, "error": error, "exit_code": UNUSABLE }));
    }
    output::message(error);
    UNUSABLE
}

fn report(
    files: &[PathBuf],
    heads: Option<&Path>,
    public_keys: &[PathBuf],
    first_seq: u64,
    as_json: bool,
) -> u8 {
    let trusted: Vec<PublicKey> = match public_keys.iter().map(|path| PublicKey::read(path)).collect() {
        Ok(trusted) => trusted,
        Err(error) => return unusable(&crate::output::chain(&error), as_json),
    };
    match verified(files, &VerifyOptions { heads, trusted: &trusted, first_seq }) {
        Err(error) => unusable(&error.to_string(), as_json),
        Ok(report) => {
            let (code, error) = outcome(&report);
            match as_json {
                true => output::json(&as_object(&report, !trusted.is_empty(), code, error.as_deref())),
                false => as_text(&report, !trusted.is_empty()),
            }
            error.iter().for_each(|error| output::message(error));
            code
        }
    }
}

/// The exit code, and what is wrong.
fn outcome(report: &Report) -> (u8, Option<String>) {
    match (&report.broken, &report.heads) {
        (Some(broken), _) => {
            let (file, line, what) = (broken.file.display(), broken.line, &broken.what);
            (BROKEN, Some(format!("{file}:{line}: seq {}: {what}", broken.seq)))
        }
        (None, Some(heads)) if heads.last_seq > 0 => (0, None),
        (None, heads) => {
            let why = match heads {
                None => "no --heads were given",
                Some(heads) if heads.signed == 0 => "the file of --heads has no checkpoint of these files",
                Some(_) => "no checkpoint is about a line of these files",
            };
            (NOT_SIGNED, Some(format!("{why}, so the writer of the lines is not verified")))
        }
    }
}

/// The logs of several servers, each in a folder of its own. The worst of them gives the exit code.
fn report_of_servers(folders: &[PathBuf], public_keys: &[PathBuf], as_json: bool) -> u8 {
    let trusted: Vec<PublicKey> = match public_keys.iter().map(|path| PublicKey::read(path)).collect() {
        Ok(trusted) => trusted,
        Err(error) => return unusable(&crate::output::chain(&error), as_json),
    };
    let (mut worst, mut logs) = (0, Vec::new());
    for folder in folders {
        let read = log_of(folder).and_then(|(files, heads)| {
            let options = VerifyOptions { heads: heads.as_deref(), trusted: &trusted, first_seq: 1 };
            verified(&files, &options).map_err(|error| error.to_string())
        });
        let (code, error) = match &read {
            Ok(report) => outcome(report),
            Err(error) => (UNUSABLE, Some(error.clone())),
        };
        worst =
            [BROKEN, UNUSABLE, NOT_SIGNED].into_iter().find(|bad| [worst, code].contains(bad)).unwrap_or(0);
        match (as_json, &read) {
            (true, Ok(report)) => {
                let mut log = as_object(report, !trusted.is_empty(), code, error.as_deref());
                log["folder"] = json!(folder);
                logs.push(log);
            }
            (true, Err(error)) => {
                logs.push(json!({ "folder": folder, "verified": false, "error": error, "exit_code": code }));
            }
            (false, read) => {
                output::line(&folder.display().to_string());
                if let Ok(report) = read {
                    as_text(report, !trusted.is_empty());
                }
            }
        }
        error.iter().for_each(|error| output::message(&format!("{}: {error}", folder.display())));
    }
    if as_json {
        output::json(&json!({ "verified": worst == 0, "logs": logs, "exit_code": worst }));
    }
    worst
}

/// The name of a log in the folder of a server, and the beginning of the names of its older files.
const LOG: &str = "audit.log";
/// The name of the file with its checkpoints.
const HEADS: &str = "audit.heads";

/// The files of a log in a folder, and its checkpoints if they are there.
fn log_of(folder: &Path) -> Result<(Vec<PathBuf>, Option<PathBuf>), String> {
    let unreadable = |error| format!("{} cannot be read: {error}", folder.display());
    let (mut files, mut heads) = (Vec::new(), None);
    for entry in std::fs::read_dir(folder).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        match name.strip_prefix(LOG) {
            Some(rest) if rest.is_empty() || rest.starts_with(['.', '-']) => files.push(path),
            _ if name == HEADS => heads = Some(path),
            _ => {}
        }
    }
    match files.is_empty() {
        true => Err(format!("{} has no file {LOG}", folder.display())),
        false => Ok((files, heads)),
    }
}

fn verified(files: &[PathBuf], options: &VerifyOptions<'_>) -> Result<Report, Unusable> {
    let len = files.iter().filter_map(|path| path.metadata().ok()).map(|metadata| metadata.len()).sum();
    let bar = bar(Some(len), "{wide_bar} {bytes}/{total_bytes} {eta}");
    let report = verify(files, options, &mut |read| bar.set_position(read));
    bar.finish_and_clear();
    report
}

fn as_object(report: &Report, key_given: bool, code: u8, error: Option<&str>) -> Value {
    let heads = report.heads.as_ref().map(|heads| {
        json!({
            "signed": heads.signed,
            "matched": heads.matched,
            "last_seq": heads.last_seq,
            "not_covered": heads.not_covered,
            "unreadable": heads.unreadable,
            "public_keys": heads.keys.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "public_key_given": key_given,
        })
    });
    let broken = report.broken.as_ref().map(
        |broken| json!({ "file": broken.file, "line": broken.line, "seq": broken.seq, "what": broken.what }),
    );
    json!({
        "verified": code == 0,
        "error": error,
        "first_seq": report.first_seq,
        "last_seq": report.last_seq,
        "torn": report.torn,
        "open_end": report.open_end,
        "heads": heads,
        "broken": broken,
        "exit_code": code,
    })
}

fn as_text(report: &Report, key_given: bool) {
    let chain = match (report.last_seq, &report.broken) {
        (0, _) => "no line is verified".to_owned(),
        (last, None) => format!("whole from seq {} to {last}", report.first_seq),
        (last, Some(_)) => format!("BROKEN; whole from seq {} to {last}", report.first_seq),
    };
    let mut facts = vec![("chain", chain)];
    if report.broken.is_some() {
        // Nothing after the break was read, so that every count would look like that of the whole log.
        output::facts(&facts);
        return;
    }
    if report.first_seq > 1 {
        let before = report.first_seq - 1;
        facts.push(("start", format!("seq 1 to {before} are not verified: their files were not given")));
    }
    if report.torn > 0 {
        facts.push((
            "torn",
            format!("{} a line was cut off, and the next line records it", counted(report.torn, "time")),
        ));
    }
    if report.open_end {
        facts.push(("end", "the last line is not whole".into()));
    }
    match &report.heads {
        None => facts.push((
            "heads",
            "no checkpoints were given: the lines belong together, but their writer and the end of the log are not verified"
                .into(),
        )),
        Some(heads) => {
            facts.push(("heads", format!("{} signed checkpoints, {} of them about these lines", heads.signed, heads.matched)));
            let covered = match (heads.last_seq, heads.not_covered) {
                (0, lines) => format!("nothing yet: {}", counted(lines, "line")),
                (last, 0) => format!("up to seq {last}, the last line"),
                (last, lines) => format!("up to seq {last}; not yet the {} after it", counted(lines, "line")),
            };
            facts.push(("signed", covered));
            if heads.unreadable > 0 {
                facts.push(("", format!("{} of the checkpoints cannot be read", counted(heads.unreadable, "line"))));
            }
            for key in &heads.keys {
                facts.push(("key", key.to_string()));
            }
            if !key_given {
                facts.push((
                    "",
                    "the key is the one in the checkpoints: without --public-key only their agreement with the lines is verified, \
                     because a forged log can be signed by another key"
                        .into(),
                ));
            }
        }
    }
    output::facts(&facts);
}
