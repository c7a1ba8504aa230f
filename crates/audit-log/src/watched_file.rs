//! A file as this process left it, and what other programs did to it since.
//!
//! A file that is written under a name can be emptied, cut, overwritten, removed or replaced by programs that
//! may write it or its folder. A rotation renames it and sends SIGHUP at once; everything else is reported.

use super::line_hash::{self, Hash};
use std::fmt;
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long a path may lead elsewhere before that is reported: `logrotate` renames a file and sends the
/// signal afterwards, with `sharedscripts` when it has renamed all of them.
const ROTATION_MAX: Duration = Duration::from_secs(10);

/// What another program did to a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// It has no bytes any more.
    Emptied,
    /// Its end is gone.
    Cut,
    /// Bytes follow those that were written.
    Extended,
    /// It is as long as it was, and its last line is another.
    Overwritten,
    /// No name leads to it any more.
    Removed,
    /// Its path leads to another file, and no name to it.
    Replaced,
    /// It has another name, and there was no SIGHUP.
    Moved,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Emptied => "emptied",
            Self::Cut => "cut",
            Self::Extended => "extended by bytes that this service did not write",
            Self::Overwritten => "overwritten",
            Self::Removed => "removed",
            Self::Replaced => "replaced by another file",
            Self::Moved => "moved away without SIGHUP",
        })
    }
}

/// A file as this process left it.
#[derive(Debug)]
pub(super) struct WatchedFile {
    path: PathBuf,
    len: u64,
    /// Whether nothing else may append to it.
    is_ours: bool,
    /// Length and hash of the last line, without its newline.
    line: Option<(usize, Hash)>,
    away_since: Option<Instant>,
    is_reported: bool,
}

impl WatchedFile {
    /// The file as it is now.
    pub(super) fn new(path: &Path, file: &File, is_ours: bool) -> Self {
        let len = file.metadata().map_or(0, |metadata| metadata.len());
        let path = path.to_owned();
        Self { path, len, is_ours, line: None, away_since: None, is_reported: false }
    }

    /// The path under which it is written.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// So many bytes were appended, of which the last are a line with this hash and a newline.
    pub(super) const fn wrote(&mut self, count: usize, line: Option<(usize, Hash)>) {
        self.len += count as u64;
        self.line = line;
    }

    /// It is not known what was appended.
    pub(super) fn forget(&mut self, file: &File) {
        self.len = file.metadata().map_or(self.len, |metadata| metadata.len());
        self.line = None;
    }

    /// What other programs did to it since this process last wrote or looked. Each change is reported once.
    pub(super) fn look(&mut self, file: &File) -> io::Result<Option<Change>> {
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Ok(None);
        }
        let (before, now) = (self.len, metadata.len());
        self.len = now;
        let change = if now < before {
            Some(if now == 0 { Change::Emptied } else { Change::Cut })
        } else if now > before && self.is_ours {
            Some(Change::Extended)
        } else if now == before && !self.has_last_line(file)? {
            Some(Change::Overwritten)
        } else {
            None
        };
        if now != before || change.is_some() {
            self.line = None;
        }
        let there = self.path.metadata().map(|there| (there.dev(), there.ino()));
        if there.as_ref().is_ok_and(|there| *there == (metadata.dev(), metadata.ino())) {
            (self.away_since, self.is_reported) = (None, false);
            return Ok(change);
        }
        let away_since = *self.away_since.get_or_insert_with(Instant::now);
        let away = match (metadata.nlink(), there) {
            (0, Ok(_)) => Some(Change::Replaced),
            (0, Err(_)) => Some(Change::Removed),
            _ => (away_since.elapsed() >= ROTATION_MAX).then_some(Change::Moved),
        };
        let away = away.filter(|_| !self.is_reported);
        self.is_reported |= away.is_some();
        // Where it is matters more than what is in it.
        Ok(away.or(change))
    }

    /// Whether it was reported that what is written now is not found under the path.
    pub(super) const fn is_away(&self) -> bool {
        self.is_reported
    }

    fn has_last_line(&self, file: &File) -> io::Result<bool> {
        let Some((len, hash)) = self.line else { return Ok(true) };
        let mut bytes = vec![0; len];
        let start = self.len.checked_sub(len as u64 + 1);
        match start.map(|start| file.read_exact_at(&mut bytes, start)) {
            Some(Ok(())) => Ok(line_hash::hash(&bytes) == hash),
            Some(Err(error)) => Err(error),
            None => Ok(false),
        }
    }

    /// As if the path had led elsewhere for so long.
    #[cfg(test)]
    pub(super) fn age(&mut self, age: Duration) {
        self.away_since = self.away_since.and_then(|since| since.checked_sub(age));
    }
}
