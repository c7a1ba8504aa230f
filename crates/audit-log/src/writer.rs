//! The file of the audit log, and the chain through its lines.
//!
//! Whole lines only: what could not be written whole is taken back. Where even that fails, or the machine
//! stopped in the middle of a line, the torn bytes stay, and the line after them says so and covers them.
//!
//! A chained line ends in `"seq"`, which counts from 1, and `"prev"`, the SHA-256 of the line before it
//! without its newline. After torn bytes `prev` is [`torn`] of what it would have been. Files may change
//! under the chain; it goes on.

use super::line_hash::{Hash, hash, parse_hash, torn};
use super::strict::{self, Flaw};
use super::watched_file::{Change, WatchedFile};
use anyhow::{Context, bail};
use dtyp::hex;
use rcmp_service::visible::visible_json;
use serde::Deserialize;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

/// The longest line. The longest that is ever made comes from a question of 256 KiB and is far from it. A
/// verifier need not hold more.
pub(super) const LINE_LEN_MAX: usize = 1 << 20;

/// What is looked at when a file is opened: a line, and what was torn after it.
const TAIL_LEN_MAX: u64 = 3 * LINE_LEN_MAX as u64;

/// What the chain wants to know of a line.
#[derive(Debug, Deserialize)]
pub(super) struct Link {
    pub(super) event: String,
    pub(super) seq: u64,
    pub(super) prev: String,
    #[serde(default)]
    pub(super) torn: bool,
}

impl Link {
    /// Whether this line says that bytes before it are torn.
    pub(super) fn is_resumed(&self) -> bool {
        self.torn && self.event == "log_resumed"
    }
}

/// What bytes between two newlines can be.
#[derive(Debug)]
pub(super) enum Read {
    /// A line of a chain.
    Chained(Link),
    /// JSON without the members of a chained line.
    Foreign,
    /// JSON that no writer of a chain writes, and why.
    Wrong(&'static str),
    /// Part of a line, or something else that is not JSON.
    Torn,
}

impl Read {
    pub(super) fn line(line: &[u8]) -> Self {
        match strict::check(line) {
            Err(Flaw::Twice) => return Self::Wrong("a member of this line is there twice"),
            Err(Flaw::Part | Flaw::NotJson) => return Self::Torn,
            Ok(()) => {}
        }
        let Ok(link) = serde_json::from_slice::<Link>(line) else { return Self::Foreign };
        // The hash covers bytes, and this reader would take other bytes for the same line.
        let end = format!(",\"seq\":{},\"prev\":\"{}\"}}", link.seq, link.prev);
        match line.starts_with(b"{") && line.ends_with(end.as_bytes()) {
            true => Self::Chained(link),
            false => Self::Wrong("this line does not begin and end as lines are written"),
        }
    }
}

/// Where a chain is: its last whole line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Position {
    /// 0 before the first.
    pub(super) seq: u64,
    /// Zeros before the first.
    pub(super) hash: Hash,
}

/// The end of a file.
#[derive(Debug)]
struct Tail {
    /// The last whole line.
    position: Option<Position>,
    /// What was torn after it, oldest first.
    torn: Vec<Vec<u8>>,
    /// Whether the last byte is not a newline.
    open_line: bool,
}

/// The last bytes of a file, and whether these are all.
pub(super) fn last_bytes(file: &File, len_max: u64) -> io::Result<(Vec<u8>, bool)> {
    let len = file.metadata()?.len();
    let start = len.saturating_sub(len_max);
    let mut bytes = vec![0; usize::try_from(len - start).map_err(io::Error::other)?];
    file.read_exact_at(&mut bytes, start)?;
    Ok((bytes, start == 0))
}

impl Tail {
    fn read(file: &File) -> io::Result<Self> {
        let (bytes, whole) = last_bytes(file, TAIL_LEN_MAX)?;
        let open_line = bytes.last().is_some_and(|byte| *byte != b'\n');
        let mut tail = Self { position: None, torn: Vec::new(), open_line };
        if bytes.is_empty() {
            return Ok(tail);
        }
        let lines = bytes.strip_suffix(b"\n").unwrap_or(&bytes);
        for line in lines.rsplit(|byte| *byte == b'\n') {
            match Read::line(line) {
                Read::Chained(link) => {
                    tail.position = Some(Position { seq: link.seq, hash: hash(line) });
                    break;
                }
                Read::Foreign => return Err(io::Error::other("its last line is not of a chain")),
                Read::Wrong(what) => return Err(io::Error::other(format!("in its last line: {what}"))),
                Read::Torn => tail.torn.push(line.to_owned()),
            }
        }
        tail.torn.reverse();
        match (tail.position, whole) {
            (None, false) => Err(io::Error::other("there is no line of a chain at its end")),
            _ => Ok(tail),
        }
    }
}

/// A binary search for a line ends when no more bytes than these are left, and they are read.
const SEARCH_LEN: u64 = 8 * LINE_LEN_MAX as u64;

/// The first line of a chain whose `seq` is not less than `seq_min`, among so many bytes from `start` on:
/// where it begins and ends, what it says, and its hash. `is_inside` says that `start` may be inside of a
/// line.
fn next_link(
    file: &File,
    (start, len): (u64, u64),
    is_inside: bool,
    seq_min: u64,
) -> io::Result<Option<(u64, u64, Link, Hash)>> {
    let len = file.metadata()?.len().saturating_sub(start).min(len);
    let mut bytes = vec![0; usize::try_from(len).map_err(io::Error::other)?];
    file.read_exact_at(&mut bytes, start)?;
    let mut at = start;
    for (number, line) in bytes.split(|byte| *byte == b'\n').enumerate() {
        let end = at + line.len() as u64 + 1;
        if (number > 0 || !is_inside)
            && let Read::Chained(link) = Read::line(line)
            && link.seq >= seq_min
        {
            return Ok(Some((at, end, link, hash(line))));
        }
        at = end;
    }
    Ok(None)
}

/// The line of this `seq`, or else the next one after it, in a file whose lines count up.
fn find_link(file: &File, seq: u64) -> io::Result<Option<(Link, Hash)>> {
    // After part of a line, a whole one.
    let step = 2 * LINE_LEN_MAX as u64;
    let (mut low, mut high) = (0, file.metadata()?.len());
    while high - low > SEARCH_LEN {
        let middle = low + (high - low) / 2;
        match next_link(file, (middle, step), true, 0)? {
            Some((start, _, link, _)) if link.seq < seq => low = start,
            // It begins before the end of this line.
            Some((_, end, ..)) if end < high => high = end,
            _ => high = middle,
        }
    }
    Ok(next_link(file, (low, SEARCH_LEN + step), false, seq)?.map(|(_, _, link, hash)| (link, hash)))
}

/// Whether the lines of a file are those that a checkpoint was signed for. A file that begins after the
/// checkpoint's line and does not follow it cannot be compared.
fn is_of_head(file: &File, head: Position) -> io::Result<bool> {
    Ok(match find_link(file, head.seq)? {
        Some((link, hash)) if link.seq == head.seq => hash == head.hash,
        Some((link, _)) if link.seq - 1 == head.seq && !link.is_resumed() => {
            parse_hash(&link.prev) == Some(head.hash)
        }
        _ => true,
    })
}

/// Why bytes were not written.
struct Failed {
    error: io::Error,
    /// Whether the file is as it was before.
    restored: bool,
}

/// Appends all bytes, or as few as possible.
fn append(mut file: &File, mut bytes: &[u8]) -> Result<(), Failed> {
    let mut written = 0;
    let error = loop {
        match file.write(bytes) {
            Ok(0) => break io::ErrorKind::WriteZero.into(),
            Ok(count) if count == bytes.len() => return Ok(()),
            Ok(count) => {
                written += count as u64;
                bytes = &bytes[count..];
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => break error,
        }
    };
    // No other process appends to this file, but one may have emptied it: only what was just written is
    // removed.
    let restored = written == 0
        || file
            .metadata()
            .and_then(|metadata| match metadata.len().checked_sub(written) {
                Some(len) => file.set_len(len),
                None => Err(io::ErrorKind::InvalidData.into()),
            })
            .is_ok();
    Err(Failed { error, restored })
}

/// Appends a line to a file whose last line may be torn, and returns how many bytes that took.
pub(super) fn append_line(file: &File, line: &[u8]) -> io::Result<usize> {
    let (last, _) = last_bytes(file, 1)?;
    let is_torn = last.first().is_some_and(|byte| *byte != b'\n');
    if is_torn {
        append(file, b"\n").map_err(|failed| failed.error)?;
    }
    append(file, line).map_err(|failed| failed.error)?;
    Ok(line.len() + usize::from(is_torn))
}

/// Opens a file to append to.
pub(super) fn open(path: &Path, read: bool) -> anyhow::Result<File> {
    OpenOptions::new()
        .create(true)
        .append(true)
        .read(read)
        .mode(0o640)
        .open(path)
        .with_context(|| format!("cannot write the audit log {}", path.display()))
}

/// Refuses what is there and cannot hold a chain.
pub(super) fn check_chained(path: &Path) -> anyhow::Result<()> {
    if path.metadata().is_ok_and(|metadata| !metadata.is_file()) {
        bail!("audit.chain needs a file, and {} is none: name a file, or turn the chain off", path.display());
    }
    Ok(())
}

/// Opens the file of a chain, for this process alone.
fn open_chained(path: &Path) -> anyhow::Result<File> {
    check_chained(path)?;
    let file = open(path, true)?;
    if let Err(error) = file.try_lock() {
        bail!("cannot lock the audit log {}: {error}: stop the other process that writes it", path.display());
    }
    Ok(file)
}

fn unusable(path: &Path) -> String {
    format!(
        "cannot append to the audit log {}: move the file away, and the service creates a new one",
        path.display()
    )
}

/// The start of a line: everything but the end that a [`Writer`] gives it. No event has fields `seq` or
/// `prev`.
pub(super) fn start_line(event: &impl serde::Serialize) -> Vec<u8> {
    let mut line = Vec::with_capacity(1024);
    let _ = write!(line, "{{\"version\":1,\"time\":\"{}\"", crate::now());
    let brace = line.len();
    // Writing JSON to memory does not fail. Logs are looked at on terminals.
    let event = serde_json::to_string(event).unwrap_or_default();
    line.extend(visible_json(&event).into_bytes());
    match line[brace..] {
        [b'{', b'}'] => line.truncate(brace),
        [b'{', .., b'}'] => {
            line[brace] = b',';
            line.pop();
        }
        _ => debug_assert!(false, "an event is an object"),
    }
    line
}

/// What is noteworthy about the file of a chain when it is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Opened {
    /// Lines that were signed are not in it.
    EndsBeforeHead {
        /// `seq` of its last line; 0 if there is none.
        last: u64,
        /// `seq` of the newest checkpoint.
        head: u64,
    },
    /// Checkpoints are to be signed, it has lines, and there is no checkpoint.
    NoCheckpoint {
        /// `seq` of its last line.
        last: u64,
    },
    /// It has no lines, and no checkpoint says that there were any.
    NewChain {
        /// Whether the file was there.
        is_emptied: bool,
    },
}

/// Writes lines.
pub(super) struct Writer {
    file: File,
    watched: WatchedFile,
    /// Whether the last line of the file has no newline.
    open_line: bool,
    chain: Option<Chain>,
}

struct Chain {
    position: Position,
    /// What the next line carries: `position.hash`, or what torn bytes have made of it since.
    prev: Hash,
    /// `prev` as it was at the start of this file, if no whole line of it is here.
    base: Hash,
    /// A `log_opened` is due, which says whether the chain is new.
    opened: Option<bool>,
    /// Part of a line is in the file and could not be taken back. How much is looked up before the next line.
    damaged: bool,
}

impl Chain {
    fn after(position: Position, base: Hash, tail: &Tail) -> Self {
        let prev = tail.torn.iter().fold(base, |prev, bytes| torn(&prev, bytes));
        Self { position, prev, base, opened: None, damaged: false }
    }

    fn is_torn(&self) -> bool {
        self.prev != self.position.hash
    }
}

impl Writer {
    /// Appends lines to a file of any kind.
    pub(super) fn plain(path: &Path) -> anyhow::Result<Self> {
        let file = open(path, false)?;
        let watched = WatchedFile::new(path, &file, false);
        Ok(Self { file, watched, open_line: false, chain: None })
    }

    /// Goes on with the chain of a file, or with that of the newest signed checkpoint when that is farther:
    /// then lines are missing here, or are in a file that was moved away, and `verify` tells which. A file of
    /// another chain than the checkpoint's is an error.
    pub(super) fn chained(path: &Path, head: Option<Position>) -> anyhow::Result<(Self, Option<Opened>)> {
        let was_there = path.exists();
        let file = open_chained(path)?;
        let tail = Tail::read(&file).with_context(|| unusable(path))?;
        let at_end = tail.position.unwrap_or_default();
        let signed = head.filter(|head| head.seq > 0);
        if let Some(head) = signed
            && head.seq <= at_end.seq
            && head != at_end
            && !is_of_head(&file, head).with_context(|| unusable(path))?
        {
            bail!(
                "{}: it is of another chain, because its line {} is not the one that was signed",
                unusable(path),
                head.seq
            );
        }
        let position = signed.filter(|head| head.seq > at_end.seq).unwrap_or(at_end);
        let mut chain = Chain::after(position, position.hash, &tail);
        if tail.position != Some(position) {
            chain.opened = Some(position.seq == 0);
        }
        let opened = match (head, position) {
            _ if position != at_end => Some(Opened::EndsBeforeHead { last: at_end.seq, head: position.seq }),
            (Some(head), _) if head.seq == 0 && at_end.seq > 0 => {
                Some(Opened::NoCheckpoint { last: at_end.seq })
            }
            (_, Position { seq: 0, .. }) => Some(Opened::NewChain { is_emptied: was_there }),
            _ => None,
        };
        if !tail.torn.is_empty() {
            let bytes: usize = tail.torn.iter().map(Vec::len).sum();
            tracing::warn!(path = %path.display(), bytes, "The audit log ends in part of a line; the next line covers it");
        }
        let watched = WatchedFile::new(path, &file, true);
        let mut writer = Self { file, watched, open_line: tail.open_line, chain: Some(chain) };
        // If this fails, so does the next line, and the client that it concerns gets that error.
        let _ = writer.settle();
        Ok((writer, opened))
    }

    /// Goes on in the file that is there now.
    pub(super) fn reopen(&mut self, path: &Path) -> anyhow::Result<()> {
        let Some(chain) = &self.chain else {
            *self = Self::plain(path)?;
            return Ok(());
        };
        let (ours, there) = (self.file.metadata()?, path.metadata());
        // The lock is the file's: it is not taken twice.
        if there.is_ok_and(|there| (there.dev(), there.ino()) == (ours.dev(), ours.ino())) {
            return Ok(());
        }
        if chain.damaged {
            // What is torn in the old file belongs to the chain. Whether it can be read or not, the new file
            // is as good.
            let _ = self.look();
        }
        let Some(chain) = &mut self.chain else { return Ok(()) };
        let file = open_chained(path)?;
        let tail = Tail::read(&file).with_context(|| unusable(path))?;
        if tail.position.is_some_and(|position| position != chain.position) {
            bail!("{}: it is of another chain", unusable(path));
        }
        let opened = chain.opened;
        *chain = Chain { opened, ..Chain::after(chain.position, chain.prev, &tail) };
        self.watched = WatchedFile::new(path, &file, true);
        (self.file, self.open_line) = (file, tail.open_line);
        Ok(())
    }

    /// What other programs did to the file, each thing once.
    pub(super) fn look_around(&mut self) -> io::Result<Option<Change>> {
        let change = self.watched.look(&self.file)?;
        if change.is_some() {
            // A file that was cut may end inside of a line.
            self.open_line = self.chain.is_some()
                && last_bytes(&self.file, 1)?.0.first().is_some_and(|byte| *byte != b'\n');
        }
        Ok(change)
    }

    /// Whether lines are not found under the path any more.
    pub(super) const fn is_away(&self) -> bool {
        self.watched.is_away()
    }

    /// The path under which it is written.
    pub(super) fn path(&self) -> &Path {
        self.watched.path()
    }

    /// As if the path had led elsewhere for so long.
    #[cfg(test)]
    pub(super) fn age(&mut self, age: std::time::Duration) {
        self.watched.age(age);
    }

    /// Where the chain is, and its file.
    pub(super) fn position(&self) -> Option<(Position, io::Result<File>)> {
        self.chain.as_ref().map(|chain| (chain.position, self.file.try_clone()))
    }

    /// Whether its lines are a chain.
    pub(super) const fn is_chained(&self) -> bool {
        self.chain.is_some()
    }

    /// Writes a line that [`start_line`] began.
    pub(super) fn write(&mut self, line: Vec<u8>) -> io::Result<()> {
        self.settle()?;
        self.put(line)
    }

    /// The file, to wait for the disk without keeping others from writing.
    pub(super) fn handle(&self) -> io::Result<File> {
        self.file.try_clone()
    }

    /// Bytes that are free on the file system of the file, for users that are not privileged; `None` where
    /// that is not known.
    pub(super) fn free_bytes(&self) -> Option<u64> {
        rustix::fs::fstatvfs(&self.file).ok().map(|stat| stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    /// Looks what the file ends with, after a write of which part could not be taken back.
    fn look(&mut self) -> io::Result<()> {
        let tail = Tail::read(&self.file)?;
        if let Some(chain) = &mut self.chain {
            // The whole of a line may be there, but for its newline.
            let here = tail.position.filter(|here| here.seq >= chain.position.seq);
            let (position, base) = here.map_or((chain.position, chain.base), |here| (here, here.hash));
            *chain = Chain { opened: chain.opened, ..Chain::after(position, base, &tail) };
        }
        self.open_line = tail.open_line;
        Ok(())
    }

    /// Writes what is due before the next line.
    fn settle(&mut self) -> io::Result<()> {
        if self.chain.as_ref().is_some_and(|chain| chain.damaged) {
            self.look()?;
        }
        if self.chain.as_ref().is_some_and(Chain::is_torn) {
            self.put(start_line(&serde_json::json!({ "event": "log_resumed", "torn": true })))?;
        }
        if let Some(new_chain) = self.chain.as_ref().and_then(|chain| chain.opened) {
            self.put(start_line(&serde_json::json!({ "event": "log_opened", "new_chain": new_chain })))?;
            if let Some(chain) = &mut self.chain {
                chain.opened = None;
            }
        }
        Ok(())
    }

    fn put(&mut self, mut line: Vec<u8>) -> io::Result<()> {
        let mut position = None;
        match &self.chain {
            Some(chain) => {
                let seq = chain.position.seq.checked_add(1).ok_or(io::ErrorKind::InvalidData)?;
                write!(line, ",\"seq\":{seq},\"prev\":\"{}\"}}", hex(&chain.prev))?;
                position = Some(Position { seq, hash: hash(&line) });
            }
            None => line.push(b'}'),
        }
        if line.len() > LINE_LEN_MAX {
            return Err(io::Error::other("the line is too long"));
        }
        line.push(b'\n');
        if self.open_line {
            line.insert(0, b'\n');
        }
        match append(&self.file, &line) {
            Ok(()) => {
                self.open_line = false;
                let last =
                    position.map(|position| (line.len() - 1 - usize::from(line[0] == b'\n'), position.hash));
                self.watched.wrote(line.len(), last);
                if let (Some(chain), Some(position)) = (&mut self.chain, position) {
                    (chain.position, chain.prev) = (position, position.hash);
                }
                Ok(())
            }
            Err(Failed { error, restored }) => {
                if !restored {
                    self.watched.forget(&self.file);
                    self.open_line = true;
                    if let Some(chain) = &mut self.chain {
                        chain.damaged = true;
                    }
                }
                Err(error)
            }
        }
    }

    /// What a failed write does that could not be taken back.
    #[cfg(test)]
    pub(super) fn damage(&mut self) {
        self.open_line = true;
        if let Some(chain) = &mut self.chain {
            chain.damaged = true;
        }
    }
}
