//! The file that says after a restart which messages may have been accepted before it.

use crate::clock::now;
use account_store::FileAccess;
use anyhow::{Context, bail};
use dtyp::FileTime;
use std::fs::File;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tlsnego_service::freshness::{Horizon, Skew};
use tlsnego_service::session::StoreFailed;
use tokio::sync::Mutex;
use tracing::warn;

/// Seconds since 1970 in as many digits, and a line feed: it is written over, and never longer or shorter.
const LEN: usize = 21;
/// By so much more than a message needs is written, so that messages of clients whose clocks are ahead a
/// little cost a write each ten seconds at most.
const STEP: Duration = Duration::from_secs(10);

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
    let started = now().max(kept.min(latest));
    let state = Arc::new(State { file, path: path.to_owned(), kept: Arc::new(Mutex::new(started)) });
    Ok((started, Horizon::new(started, move |created| Arc::clone(&state).keep(created))))
}

struct State {
    file: File,
    path: PathBuf,
    /// What the file has.
    kept: Arc<Mutex<FileTime>>,
}

impl State {
    /// Those that come while another time is written wait, and mostly it covers them.
    async fn keep(self: Arc<Self>, created: FileTime) -> Result<FileTime, StoreFailed> {
        let mut kept = Arc::clone(&self.kept).lock_owned().await;
        if created < *kept {
            return Ok(*kept);
        }
        // It holds the lock until the disk has the time, even if its client hangs up.
        let written = tokio::task::spawn_blocking(move || {
            let next = created + STEP;
            self.write(next)?;
            *kept = next;
            Ok(next)
        });
        written.await.unwrap_or_else(|error| Err(StoreFailed(error.to_string())))
    }

    fn write(&self, time: FileTime) -> Result<(), StoreFailed> {
        let text = format!("{:020}\n", time.to_unix() + 1);
        let written = self.file.write_all_at(text.as_bytes(), 0).and_then(|()| self.file.sync_data());
        written.map_err(|error| {
            StoreFailed(format!("cannot write tlsnego.state {}: {error}", self.path.display()))
        })
    }
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

    #[tokio::test]
    async fn of_messages_at_once_the_latest_is_written_and_all_are_covered() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("tlsnego.state");
        let (_, horizon) = open(&path, Skew::default()).expect("a new file");
        let (horizon, start) = (Arc::new(horizon), now());
        let covers: Vec<_> = (0..100_u64)
            .map(|n| {
                let horizon = Arc::clone(&horizon);
                tokio::spawn(async move {
                    horizon.cover(start + Duration::from_secs(1 + n * 37 % 100), start).await
                })
            })
            .collect();
        for cover in covers {
            assert_eq!(cover.await.expect("no panic"), Ok(()));
        }
        let kept = read(&File::open(&path).expect("it is there")).expect("a time");
        assert!(kept > start + Duration::from_secs(100) && kept < start + Duration::from_secs(113), "{kept}");
    }

    #[tokio::test]
    async fn what_was_accepted_before_a_restart_is_known_after_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("tlsnego.state");
        let (started, horizon) = open(&path, Skew::default()).expect("a new file");
        assert!(started <= now());
        let ahead = now() + Duration::from_secs(100);
        horizon.cover(ahead, now()).await.expect("it is written");
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
