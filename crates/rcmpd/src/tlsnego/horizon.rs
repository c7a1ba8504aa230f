//! The file that says after a restart which messages may have been accepted before it.

use crate::clock::now;
use account_store::FileAccess;
use anyhow::{Context, bail};
use dtyp::FileTime;
use std::fs::File;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use tlsnego_service::freshness::{Horizon, Skew};
use tlsnego_service::session::StoreFailed;
use tracing::warn;

/// Seconds since 1970 in as many digits, and a line feed: it is written over, and never longer or shorter.
const LEN: usize = 21;

/// When all messages of the past were created, and what writes that down.
pub(super) fn open(path: &Path, skew: Skew) -> anyhow::Result<(FileTime, Horizon)> {
    let display = path.display();
    FileAccess::ReadByAll.check_path(path).map_err(|error| anyhow::anyhow!("{display} {error}"))?;
    let mut options = File::options();
    let file = options.read(true).write(true).create(true).truncate(false).mode(0o600).open(path);
    let file = file.with_context(|| format!("cannot open tlsnego.state {display}"))?;
    let kept = read(&file).with_context(|| format!("cannot read tlsnego.state {display}"))?;
    let latest = now() + skew.0;
    if kept.to_unix() > latest.to_unix() + 60 {
        warn!(
            path = %path.display(), until = %xml_security::format_time(kept),
            "The clock was set back, so messages that were accepted before may be accepted again at their time"
        );
    }
    let named = path.to_owned();
    let keep = move |time: FileTime| {
        let text = format!("{:020}\n", time.to_unix() + 1);
        let written = file.write_all_at(text.as_bytes(), 0).and_then(|()| file.sync_data());
        written
            .map_err(|error| StoreFailed(format!("cannot write tlsnego.state {}: {error}", named.display())))
    };
    let started = now().max(kept.min(latest));
    Ok((started, Horizon::new(started, keep)))
}

/// A new file is empty.
fn read(file: &File) -> anyhow::Result<FileTime> {
    let mut text = [0; LEN + 1];
    let len = file.read_at(&mut text, 0)?;
    if len == 0 {
        return Ok(FileTime::UNSET);
    }
    let digits = (len == LEN).then_some(&text[..LEN - 1]).filter(|text| text.iter().all(u8::is_ascii_digit));
    let seconds = digits.and_then(|digits| std::str::from_utf8(digits).ok()?.parse().ok());
    match seconds {
        Some(seconds) => Ok(FileTime::from_unix(seconds)),
        None => bail!("it is damaged: remove it, and start the service a clock_skew_s later"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn what_was_accepted_before_a_restart_is_known_after_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("tlsnego.state");
        let (started, horizon) = open(&path, Skew::default()).expect("a new file");
        assert!(started <= now());
        let ahead = now() + Duration::from_secs(100);
        horizon.cover(ahead, now()).expect("it is written");
        let (started, _) = open(&path, Skew::default()).expect("the file");
        assert!(started > ahead && started <= ahead + Duration::from_secs(12), "{started}");
        // A time that no clock within the skew has keeps no client out for longer than the skew.
        std::fs::write(&path, format!("{:020}\n", 4_000_000_000_u64)).expect("it is written");
        let (started, _) = open(&path, Skew::default()).expect("the file");
        assert!(started <= now() + Skew::default().0, "{started}");
        for damaged in ["0", "00000000004000000000", "0000000000400000000x\n", "00000000004000000000\n\n"] {
            std::fs::write(&path, damaged).expect("it is written");
            assert!(open(&path, Skew::default()).is_err(), "{damaged:?}");
        }
    }
}
