//! The file of the audit log, and the chain through its lines.
//!
//! Whole lines only: what could not be written whole is taken back. Where even that fails, or the machine stopped in the
//! middle of a line, the torn bytes stay, and the line after them says so and covers them.
//!
//! A chained line ends in `"seq"`, which counts from 1, and `"prev"`, the SHA-256 of the line before it without its
//! newline. After torn bytes `prev` is [`torn`] of what it would have been. Files may change under the chain; it goes on.

use anyhow::{Context, bail};
use dtyp::hex;
use serde::Deserialize;
use sha2::{Digest, Sha256};
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

/// The longest line. The longest that is ever made comes from a question of 256 KiB and is far from it; whoever verifies
/// need not hold more.
pub(super) const LINE_LEN_MAX: usize = 1 << 20;

/// What is looked at when a file is opened: a line, and what was torn after it.
const TAIL_LEN_MAX: u64 = 3 * LINE_LEN_MAX as u64;

/// SHA-256.
pub(super) type Hash = [u8; 32];

/// SHA-256 of a line without its newline.
pub(super) fn hash(line: &[u8]) -> Hash {
    Sha256::digest(line).into()
}

/// What `prev` becomes by torn bytes: the SHA-256 of `prev` in hex, a newline and the bytes. So it covers the last whole
/// line, too.
pub(super) fn torn(prev: &Hash, bytes: &[u8]) -> Hash {
    Sha256::new().chain_update(hex(prev)).chain_update(b"\n").chain_update(bytes).finalize().into()
}

/// A SHA-256 in lower-case hex.
pub(super) fn parse_hash(text: &str) -> Option<Hash> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let (pairs, []) = text.as_bytes().as_chunks::<2>() else { return None };
    let mut hash = Hash::default();
    if pairs.len() != hash.len() {
        return None;
    }
    for (byte, [high, low]) in hash.iter_mut().zip(pairs) {
        *byte = digit(*high)? << 4 | digit(*low)?;
    }
    Some(hash)
}

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
    /// JSON, but of no chain.
    Foreign,
    /// Part of a line.
    Torn,
}

impl Read {
    pub(super) fn line(line: &[u8]) -> Self {
        match serde_json::from_slice(line) {
            Ok(link) => Self::Chained(link),
            Err(_) if serde_json::from_slice::<serde::de::IgnoredAny>(line).is_ok() => Self::Foreign,
            Err(_) => Self::Torn,
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
    // Nobody else appends to this file, but it may have been emptied under us: only what was just written is taken back.
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

/// Appends a line to a file whose last line may be torn.
pub(super) fn append_line(file: &File, line: &[u8]) -> io::Result<()> {
    let (last, _) = last_bytes(file, 1)?;
    if last.first().is_some_and(|byte| *byte != b'\n') {
        append(file, b"\n").map_err(|failed| failed.error)?;
    }
    append(file, line).map_err(|failed| failed.error)
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

/// Opens the file of a chain, for this process alone.
fn open_chained(path: &Path) -> anyhow::Result<File> {
    if path.metadata().is_ok_and(|metadata| !metadata.is_file()) {
        bail!("audit.chain needs a file, and {} is none: name a file, or turn the chain off", path.display());
    }
    let file = open(path, true)?;
    if let Err(error) = file.try_lock() {
        bail!("cannot have the audit log {} alone: {error}; another process writes it", path.display());
    }
    Ok(file)
}

fn unusable(path: &Path) -> String {
    format!("cannot go on with the audit log {}: move it away, and a new one is made", path.display())
}

/// The start of a line: everything but the end that a [`Writer`] gives it. No event has fields `seq` or `prev`.
pub(super) fn start_line(event: &impl serde::Serialize) -> Vec<u8> {
    let mut line = Vec::with_capacity(1024);
    let _ = write!(line, "{{\"version\":1,\"time\":\"{}\"", crate::serve::now());
    let brace = line.len();
    // Writing JSON to memory does not fail.
    let _ = serde_json::to_writer(&mut line, event);
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

/// Writes lines.
pub(super) struct Writer {
    file: File,
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
        Ok(Self { file: open(path, false)?, open_line: false, chain: None })
    }

    /// Goes on with the chain of a file, or with that of the newest signed head when that is farther: then lines are
    /// missing here, or are in a file that was moved away, and whoever verifies learns which.
    pub(super) fn chained(path: &Path, head: Option<Position>) -> anyhow::Result<Self> {
        let file = open_chained(path)?;
        let tail = Tail::read(&file).with_context(|| unusable(path))?;
        let at_end = tail.position.unwrap_or_default();
        let position = head.filter(|head| head.seq > at_end.seq).unwrap_or(at_end);
        let mut chain = Chain::after(position, position.hash, &tail);
        if tail.position.is_some() && position != at_end {
            tracing::error!(
                last = at_end.seq,
                head = position.seq,
                "The audit log ends before its newest signed head: lines are missing"
            );
        }
        if tail.position != Some(position) {
            chain.opened = Some(position.seq == 0);
        }
        let mut writer = Self { file, open_line: tail.open_line, chain: Some(chain) };
        // If this fails, so does the next line, which is told to whom it concerns.
        let _ = writer.settle();
        Ok(writer)
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
            // What is torn in the old file belongs to the chain. Whether it can be read or not, the new file is as good.
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
        (self.file, self.open_line) = (file, tail.open_line);
        Ok(())
    }

    /// Where the chain is, and its file.
    pub(super) fn position(&self) -> Option<(Position, io::Result<File>)> {
        self.chain.as_ref().map(|chain| (chain.position, self.file.try_clone()))
    }

    /// Writes a line that [`start_line`] began.
    pub(super) fn write(&mut self, line: Vec<u8>) -> io::Result<()> {
        self.settle()?;
        self.put(line)
    }

    /// Bytes that are free on the file system of the file, for users that are not privileged; `None` where that cannot be told.
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
                if let (Some(chain), Some(position)) = (&mut self.chain, position) {
                    (chain.position, chain.prev) = (position, position.hash);
                }
                Ok(())
            }
            Err(Failed { error, restored }) => {
                if !restored {
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
