//! `rcmpd audit verify`: whether the lines of a chained log are all there as they were written, and what
//! signed checkpoints say about them.
//!
//! Files are read once, side by side with the checkpoints, in constant memory. The first thing that is wrong
//! ends it: after it, nothing is proved.

use super::checkpoints::{CHECKPOINT_LEN_MAX, Checkpoint, NotACheckpoint};
use super::line_hash::{self, Hash};
use super::writer::{LINE_LEN_MAX, Link, Position, Read};
use ed25519_file::PublicKey;
use flate2::bufread::MultiGzDecoder;
use std::fs::{File, TryLockError};
use std::io::{self, BufRead, BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// What is proved.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// `seq` of the first line; 1 is the start of the chain. 0 when there is none.
    pub first_seq: u64,
    /// `seq` of the last line that is proved.
    pub last_seq: u64,
    /// Places where bytes were torn, by a crash or a full disk, and the chain says so.
    pub torn: u64,
    /// Whether the last line is half written, as a crash leaves it. Then the log is broken until a service
    /// has covered it.
    pub open_end: bool,
    /// What the checkpoints say, if there are any.
    pub heads: Option<CheckpointReport>,
    /// What is wrong.
    pub broken: Option<Broken>,
}

/// What checkpoints say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CheckpointReport {
    /// Checkpoints with a good signature.
    pub signed: u64,
    /// Those of them whose line is in the files.
    pub matched: u64,
    /// `seq` of the last of these; 0 when there is none.
    pub last_seq: u64,
    /// Lines after it, which no checkpoint covers yet.
    pub not_covered: u64,
    /// Lines of the file of checkpoints that are part of a checkpoint, as a crash leaves them.
    pub unreadable: u64,
    /// The keys that signed, in the order in which they first did; at most [`KEYS_MAX`].
    pub keys: Vec<PublicKey>,
}

/// So many keys are listed; a key is replaced now and then, not with each checkpoint.
pub const KEYS_MAX: usize = 16;

/// What is wrong, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broken {
    /// The file.
    pub file: PathBuf,
    /// Its line, from 1.
    pub line: u64,
    /// The `seq` that should be there, or that is there.
    pub seq: u64,
    /// What is wrong.
    pub what: String,
}

/// Why nothing can be said.
#[derive(Debug, thiserror::Error)]
pub enum Unusable {
    /// A file cannot be read.
    #[error("{} cannot be read: {error}", .path.display())]
    Unreadable {
        /// A file of the log, or the file of checkpoints.
        path: PathBuf,
        /// The error of the system when it was opened or read.
        error: io::Error,
    },
    /// It is packed by a program whose format is not read.
    #[error("{} is packed by {}: unpack it first, or use gzip", .path.display(), .by)]
    Packed {
        /// A file of the log.
        path: PathBuf,
        /// The program.
        by: &'static str,
    },
    /// There is no line of a chain.
    #[error("{} is not a chained audit log", .0.display())]
    NotChained(PathBuf),
}

/// Lines of a file, one at a time, each no longer than a limit. A file that gzip packed is unpacked as it is
/// read; bytes after its end, and an end that is missing, are errors.
struct Lines<'a> {
    path: &'a Path,
    file: Box<dyn BufRead>,
    number: u64,
    len_max: usize,
    line: Vec<u8>,
    /// Whether a service is writing it.
    is_live: bool,
}

/// How long the rest of a line that has no end is waited for: a service writes a line at once, but not so
/// that a reader always sees all of it or nothing.
const REST_WAIT: Duration = Duration::from_millis(500);
/// How often it is looked for.
const REST_POLL: Duration = Duration::from_millis(10);

/// The bytes up to a newline, which may be missing at the end, are in `line`.
enum Next {
    Line { closed: bool },
    TooLong,
    End,
}

impl<'a> Lines<'a> {
    fn open(path: &'a Path, len_max: usize, is_live: bool) -> Result<Self, Unusable> {
        let unreadable = |error| Unusable::Unreadable { path: path.to_owned(), error };
        let file = File::open(path).map_err(unreadable)?;
        if file.metadata().map_err(unreadable)?.is_dir() {
            return Err(unreadable(io::ErrorKind::IsADirectory.into()));
        }
        let mut file = BufReader::with_capacity(BUFFER_LEN, file);
        let is_packed = file.fill_buf().map_err(unreadable)?.starts_with(GZIP);
        let file: Box<dyn BufRead> = match is_packed {
            true => Box::new(BufReader::with_capacity(BUFFER_LEN, MultiGzDecoder::new(file))),
            false => Box::new(file),
        };
        Ok(Self { path, file, number: 0, len_max, line: Vec::new(), is_live })
    }

    fn next(&mut self) -> Result<Next, Unusable> {
        self.line.clear();
        if self.more()? == 0 {
            return Ok(Next::End);
        }
        self.number += 1;
        let until = Instant::now() + REST_WAIT;
        while self.is_live
            && self.line.last() != Some(&b'\n')
            && self.line.len() <= self.len_max
            && Instant::now() < until
        {
            std::thread::sleep(REST_POLL);
            self.more()?;
        }
        let closed = self.line.last() == Some(&b'\n');
        if closed {
            self.line.pop();
        }
        Ok(if self.line.len() > self.len_max { Next::TooLong } else { Next::Line { closed } })
    }

    /// Reads on up to a newline, the longest line or the end of the file.
    fn more(&mut self) -> Result<usize, Unusable> {
        (&mut self.file)
            .take((self.len_max + 1).saturating_sub(self.line.len()) as u64)
            .read_until(b'\n', &mut self.line)
            .map_err(|error| Unusable::Unreadable { path: self.path.to_owned(), error })
    }
}

/// Whether a service has a log open: it locks the file of a chain.
fn is_locked(path: &Path) -> bool {
    File::open(path).is_ok_and(|file| matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock)))
}

/// Either nothing can be said, or the end is reached by something broken.
enum Stop {
    Unusable(Unusable),
    Broken(Broken),
}

impl From<Unusable> for Stop {
    fn from(error: Unusable) -> Self {
        Self::Unusable(error)
    }
}

impl From<Broken> for Stop {
    fn from(broken: Broken) -> Self {
        Self::Broken(broken)
    }
}

/// The checkpoints, from the oldest on.
struct HeadReader<'a> {
    lines: Lines<'a>,
    /// The keys that may sign; any key if there are none.
    trusted: &'a [PublicKey],
    said: CheckpointReport,
    /// The next checkpoint, verified.
    next: Option<Position>,
    /// The `seq` of the checkpoint before it.
    before: u64,
    /// The keys that signed a checkpoint about that line or the next one.
    signers: Vec<PublicKey>,
}

impl HeadReader<'_> {
    fn broken(&self, seq: u64, what: String) -> Broken {
        Broken { file: self.lines.path.to_owned(), line: self.lines.number, seq, what }
    }

    /// Reads and verifies the next checkpoint.
    fn step(&mut self) -> Result<(), Stop> {
        self.before = self.next.map_or(self.before, |head| head.seq);
        self.next = None;
        loop {
            let closed = match self.lines.next()? {
                Next::End => return Ok(()),
                Next::TooLong => {
                    return Err(self.broken(0, "this is not a checkpoint: it is too long".into()).into());
                }
                Next::Line { closed } => closed,
            };
            let head = match Checkpoint::read(&self.lines.line) {
                Ok(head) => head,
                // A crash can tear a checkpoint, and the next one follows in a line of its own. A checkpoint
                // that was made unreadable on purpose could as well have been removed.
                Err(NotACheckpoint::Torn) if closed => {
                    self.said.unreadable += 1;
                    continue;
                }
                Err(NotACheckpoint::Torn) => {
                    return Err(self.broken(0, "this checkpoint is incomplete".into()).into());
                }
                Err(NotACheckpoint::Wrong(what)) => return Err(self.broken(0, what.into()).into()),
            };
            let Some((key, hash)) = head.verified() else {
                return Err(self.broken(head.seq, "the signature of this checkpoint is wrong".into()).into());
            };
            if !self.trusted.is_empty() && !self.trusted.contains(&key) {
                return Err(self.broken(head.seq, "this checkpoint was signed by another key".into()).into());
            }
            if head.seq < self.before {
                let what = format!(
                    "this checkpoint is older than the one before it, which is of seq {}",
                    self.before
                );
                return Err(self.broken(head.seq, what).into());
            }
            // A service signs a line once; a service with a new key can sign the last line again.
            if head.seq > self.before {
                self.signers.clear();
            }
            if self.signers.contains(&key) || self.signers.len() == KEYS_MAX {
                return Err(self.broken(head.seq, "this checkpoint is there twice".into()).into());
            }
            self.signers.push(key);
            if !closed && !self.lines.is_live {
                return Err(self.broken(head.seq, NO_NEWLINE.into()).into());
            }
            self.said.signed += 1;
            if !self.said.keys.contains(&key) && self.said.keys.len() < KEYS_MAX {
                self.said.keys.push(key);
            }
            self.next = Some(Position { seq: head.seq, hash });
            return Ok(());
        }
    }

    /// Compares a line with the checkpoints about it, and passes by those about lines before it.
    fn compare(&mut self, at: Position) -> Result<(), Stop> {
        while let Some(head) = self.next.filter(|head| head.seq <= at.seq) {
            if head.seq == at.seq {
                if head.hash != at.hash {
                    let what =
                        "this checkpoint was signed for another line than the one that is there".to_owned();
                    return Err(self.broken(head.seq, what).into());
                }
                self.said.matched += 1;
                self.said.last_seq = head.seq;
            }
            self.step()?;
        }
        Ok(())
    }
}

/// A line is written with its newline, so a crash or another program cut the file here.
const NO_NEWLINE: &str = "the newline of this line is missing: the file was cut; after a crash, start the service once, which writes it";

/// Walks over the files.
struct Verifier<'a, 'b> {
    report: Report,
    heads: Option<HeadReader<'a>>,
    /// `seq` that the first line must have.
    first_seq: u64,
    /// Whether a service is writing one of the files.
    is_live: bool,
    /// The last line.
    last: Option<Position>,
    /// What the next line must carry.
    prev: Hash,
    /// Torn bytes that no `log_resumed` has followed yet, and where they began.
    torn: Option<Broken>,
    /// The last line, if its newline is missing.
    no_newline: Option<Broken>,
    read: u64,
    progress: &'b mut dyn FnMut(u64),
}

/// How a file begins that gzip wrote (RFC 1952 2.3.1).
const GZIP: &[u8] = &[0x1f, 0x8b];
/// How files of other programs begin.
const PACKED: [(&str, &[u8]); 3] =
    [("bzip2", b"BZh"), ("xz", b"\xfd7zXZ"), ("zstd", &[0x28, 0xb5, 0x2f, 0xfd])];
/// What is read of a file at once.
const BUFFER_LEN: usize = 1 << 18;

/// The program that packed a file, if its format is not read.
fn packed_by(path: &Path) -> Option<&'static str> {
    let mut start = Vec::new();
    let file = path.is_file().then(|| File::open(path).ok()).flatten()?;
    file.take(8).read_to_end(&mut start).ok()?;
    PACKED.iter().find(|(_, magic)| start.starts_with(magic)).map(|(program, _)| *program)
}

/// Bytes between two reports of progress.
const PROGRESS_STEP: u64 = 1 << 20;

impl Verifier<'_, '_> {
    fn file(&mut self, path: &Path) -> Result<(), Stop> {
        let mut lines = Lines::open(path, LINE_LEN_MAX, self.is_live)?;
        loop {
            let expected = self.last.map_or(0, |last| last.seq.saturating_add(1));
            let closed = match lines.next()? {
                Next::End => return Ok(()),
                Next::TooLong if self.last.is_none() => {
                    return Err(Unusable::NotChained(path.to_owned()).into());
                }
                Next::TooLong => {
                    let what = "this line is longer than any that is written".to_owned();
                    return Err(
                        Broken { file: path.to_owned(), line: lines.number, seq: expected, what }.into()
                    );
                }
                Next::Line { closed } => closed,
            };
            let before = self.read / PROGRESS_STEP;
            self.read += lines.line.len() as u64 + 1;
            if self.read / PROGRESS_STEP > before {
                (self.progress)(self.read);
            }
            let broken = |seq, what: String| Broken { file: path.to_owned(), line: lines.number, seq, what };
            // Only the last bytes of all can be half a line; a line after them proves that they are not.
            self.report.open_end = false;
            self.no_newline = None;
            match Read::line(&lines.line) {
                Read::Chained(link) => {
                    if let Some(torn) = self.torn.take_if(|_| !link.is_resumed()) {
                        return Err(torn.into());
                    }
                    self.link(&link, &lines.line).map_err(|what| broken(link.seq, what))?;
                    let at = Position { seq: link.seq, hash: self.prev };
                    if let Some(heads) = &mut self.heads {
                        heads.compare(at)?;
                    }
                    // Only now, so that nothing is said to be proved that a checkpoint contradicts.
                    self.report.last_seq = link.seq;
                    if !closed && !self.is_live {
                        self.report.open_end = true;
                        self.no_newline = Some(broken(link.seq, NO_NEWLINE.into()));
                    }
                }
                Read::Foreign if self.last.is_none() && self.torn.is_none() => {
                    return Err(Unusable::NotChained(path.to_owned()).into());
                }
                Read::Foreign => {
                    return Err(broken(expected, "this line is not of the chain".into()).into());
                }
                Read::Wrong(what) => return Err(broken(expected, what.into()).into()),
                Read::Torn => {
                    self.prev = line_hash::torn(&self.prev, &lines.line);
                    self.report.open_end = !closed;
                    self.torn.get_or_insert_with(|| {
                        let what = match closed {
                            true => "incomplete line, and the next line does not record it",
                            false => {
                                "incomplete bytes follow the last line; after a crash, start the service once, \
                                 which covers them"
                            }
                        };
                        broken(expected, what.into())
                    });
                }
            }
        }
    }

    /// Checks that a line follows the one before it, or says why it does not.
    fn link(&mut self, link: &Link, line: &[u8]) -> Result<(), String> {
        match self.last {
            Some(last) if last.seq.checked_add(1) == Some(link.seq) => {}
            Some(last) if link.seq > last.seq => {
                return Err(match link.seq - last.seq {
                    2 => format!("the line before it is missing (seq {})", last.seq + 1),
                    _ => {
                        format!("the lines before it are missing (seq {} to {})", last.seq + 1, link.seq - 1)
                    }
                });
            }
            Some(last) if link.seq == 1 => {
                return Err(format!(
                    "a new chain starts here, and the one before it ended with seq {}; is a file named twice, or of another service?",
                    last.seq
                ));
            }
            Some(last) => {
                return Err(format!("this line is out of order: seq {} stands before it", last.seq));
            }
            None if link.seq == 0 => return Err("no line has seq 0".into()),
            None if link.seq == self.first_seq => self.report.first_seq = link.seq,
            None if self.first_seq == 1 => {
                return Err(format!(
                    "the beginning is missing (seq 1 to {}): name the files with it, too, or say --first-seq {} if \
                     they were removed on purpose",
                    link.seq - 1,
                    link.seq
                ));
            }
            None => return Err(format!("this is the first line, and it should be seq {}", self.first_seq)),
        }
        let Some(prev) = line_hash::parse_hash(&link.prev) else {
            return Err("its prev is not a hash".into());
        };
        // What came before the first line is not here, unless it is the first of all.
        let checked = self.last.is_some() || link.seq == 1;
        if checked && prev != self.prev {
            return Err(match self.torn {
                Some(_) => "the incomplete bytes before it, or the line before them, were changed".into(),
                None => {
                    // Either of the two was changed; what is whole ends before both.
                    let before = self.last.map_or(0, |last| last.seq);
                    self.report.last_seq = before.saturating_sub(1);
                    format!("the line before it (seq {before}) is not the one that was written there")
                }
            });
        }
        self.report.torn += u64::from(self.torn.take().is_some());
        // A checkpoint about the line before the first one proves where the files begin.
        if let (None, Some(heads), false) = (self.last, &self.heads, link.is_resumed()) {
            let before = Position { seq: link.seq - 1, hash: prev };
            if heads.next.is_some_and(|head| head.seq == before.seq && head.hash != before.hash) {
                return Err("a checkpoint was signed for another line before it".into());
            }
        }
        self.prev = line_hash::hash(line);
        self.last = Some(Position { seq: link.seq, hash: self.prev });
        Ok(())
    }

    fn all(&mut self, files: &[&PathBuf]) -> Result<(), Stop> {
        if let Some(other) = other_than_a_log(files)? {
            return Err(Unusable::NotChained(other.to_owned()).into());
        }
        if let Some(heads) = &mut self.heads {
            heads.step()?;
        }
        for path in files {
            self.file(path)?;
        }
        (self.progress)(self.read);
        if let Some(torn) = self.torn.take_if(|_| self.last.is_some() || self.report.open_end) {
            return Err(torn.into());
        }
        let Some(last) = self.last else {
            // An empty log and a signature of one of its lines.
            if let Some(heads) = &self.heads
                && let Some(head) = heads.next
            {
                let what =
                    "this checkpoint was signed for a line that is not there: the log is empty".to_owned();
                return Err(heads.broken(head.seq, what).into());
            }
            return Err(Unusable::NotChained(files.first().copied().cloned().unwrap_or_default()).into());
        };
        if let Some(heads) = &mut self.heads
            && let Some(head) = heads.next
        {
            let what = format!(
                "this checkpoint was signed for a line that is not there: the log ends with seq {}, so it was cut, or later files \
                 are not named",
                last.seq
            );
            return Err(heads.broken(head.seq, what).into());
        }
        self.no_newline.take().map_or(Ok(()), |broken| Err(broken.into()))
    }
}

/// What a log is verified with.
#[derive(Clone, Copy, Debug)]
pub struct VerifyOptions<'a> {
    /// The file of checkpoints.
    pub heads: Option<&'a Path>,
    /// The keys that may have signed. Without any, each checkpoint is verified by the key that it names,
    /// which proves no more than that nothing was damaged by accident.
    pub trusted: &'a [PublicKey],
    /// `seq` of the first line; 1 unless older files were removed on purpose.
    pub first_seq: u64,
}

/// Lines of a file in which its first `seq` is looked for: after a crash, torn bytes may stand before it.
const ORDER_LINES_MAX: usize = 16;

/// The files in the order in which they were written, by the `seq` of their first lines, because a shell
/// expands `audit.log*` in another one. The given order stays where a file has no `seq` to go by, or can be
/// read only once.
fn in_order(files: &[PathBuf]) -> Vec<&PathBuf> {
    let given: Vec<&PathBuf> = files.iter().collect();
    let firsts: Option<Vec<Option<u64>>> = given.iter().map(|path| first_seq(path)).collect();
    let Some(firsts) = firsts else { return given };
    let mut ordered: Vec<_> = firsts.into_iter().zip(given).collect();
    // An empty file has no lines to be in the wrong order.
    ordered.sort_by_key(|(first, _)| first.unwrap_or(u64::MAX));
    ordered.into_iter().map(|(_, path)| path).collect()
}

/// The `seq` of the first line of a file, `Some(None)` of one that is empty.
fn first_seq(path: &Path) -> Option<Option<u64>> {
    let metadata = path.metadata().ok().filter(std::fs::Metadata::is_file)?;
    if metadata.len() == 0 {
        return Some(None);
    }
    let mut lines = Lines::open(path, LINE_LEN_MAX, false).ok()?;
    for _ in 0..ORDER_LINES_MAX {
        match lines.next().ok()? {
            Next::Line { .. } => {}
            Next::TooLong | Next::End => return None,
        }
        if let Read::Chained(link) = Read::line(&lines.line) {
            return Some(Some(link.seq));
        }
    }
    None
}

/// The first file with bytes, if it is something other than a chained log: that is said whatever the
/// checkpoints are. A file that can be read only once is not looked at. What a crash left of a first line
/// begins with a brace.
fn other_than_a_log<'a>(files: &[&'a PathBuf]) -> Result<Option<&'a Path>, Unusable> {
    for path in files.iter().copied().filter(|path| path.is_file() || !path.exists()) {
        let mut lines = Lines::open(path, LINE_LEN_MAX, false)?;
        let mut starts_as_line = None;
        for _ in 0..ORDER_LINES_MAX {
            match lines.next()? {
                Next::End => break,
                Next::TooLong => return Ok(Some(path)),
                Next::Line { .. } => {}
            }
            match Read::line(&lines.line) {
                Read::Chained(_) | Read::Wrong(_) => return Ok(None),
                Read::Foreign if starts_as_line.is_none() => return Ok(Some(path)),
                Read::Foreign => return Ok(None),
                Read::Torn => _ = starts_as_line.get_or_insert(lines.line.starts_with(b"{")),
            }
        }
        match starts_as_line {
            Some(true) => return Ok(None),
            Some(false) => return Ok(Some(path)),
            // It is empty.
            None => {}
        }
    }
    Ok(None)
}

/// Verifies files, whose order is found by `seq`. `progress` learns how many bytes of the files were read.
pub fn verify(
    files: &[PathBuf],
    options: &VerifyOptions<'_>,
    progress: &mut dyn FnMut(u64),
) -> Result<Report, Unusable> {
    let VerifyOptions { heads, trusted, first_seq } = *options;
    for path in files {
        if let Some(by) = packed_by(path) {
            return Err(Unusable::Packed { path: path.clone(), by });
        }
    }
    let is_live = files.iter().any(|path| is_locked(path));
    let heads = heads.map(|path| Lines::open(path, CHECKPOINT_LEN_MAX, is_live)).transpose()?.map(|lines| {
        HeadReader {
            lines,
            trusted,
            said: CheckpointReport::default(),
            next: None,
            before: 0,
            signers: Vec::new(),
        }
    });
    let mut verifier = Verifier {
        report: Report::default(),
        heads,
        first_seq,
        is_live,
        last: None,
        prev: Hash::default(),
        torn: None,
        no_newline: None,
        read: 0,
        progress,
    };
    let stop = verifier.all(&in_order(files)).err();
    let Verifier { mut report, heads, .. } = verifier;
    report.heads = heads.map(|heads| CheckpointReport {
        not_covered: match heads.said.last_seq {
            0 => (report.last_seq + 1).saturating_sub(report.first_seq),
            last => report.last_seq.saturating_sub(last),
        },
        ..heads.said
    });
    match stop {
        Some(Stop::Unusable(error)) => return Err(error),
        Some(Stop::Broken(broken)) => report.broken = Some(broken),
        None => {}
    }
    Ok(report)
}
