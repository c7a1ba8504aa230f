//! The keys of a node of the farm, sealed on its disk: for the overlap, and for outages of the server.
//!
//! The wire gives the newest secret only. A node that was given another secret before keeps that one for the
//! overlap, so it opens what any node sealed under it. If no server answers, the node works with what it has,
//! up to a configured age since the last delivery.
//!
//! A node that was never given an older secret, such as a new one, learns it from its operator: a backup that
//! the server's operator wrote for the node's recipient key, read by [`NodeKeys::take_backup`]. There is no
//! second method on the wire for it.
//!
//! # Format, version 1
//!
//! An envelope (see `envelope.rs`) with magic `MSNK`. Its header: the key header (see
//! [`source`](crate::source)); 8 octets: the last delivery, Unix seconds; 1 octet: count, 1 to 8; for each
//! key, newest first: 8 octets key id, 8 octets first seen, 8 octets superseded (0 for the newest). The
//! plaintext is 16 octets for each key. The file is replaced atomically under the lock of `FILE.lock`.

use crate::backup::{Backup, BackupError};
use crate::envelope::{self, Envelope, FILE_MAX, FormatError};
use crate::files::{self, Disk, RealDisk, read_replaced};
use crate::generation::GENERATIONS_MAX;
use crate::secret::{KeyId, Keyring, MasterSecret};
use crate::source::{KeyHeader, Sealed, SealingSource, SourceKey};
use crate::time::UnixTime;
use dtyp::{DecodeErrorKind, Reader};
use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use zeroize::Zeroizing;

const MAGIC: [u8; 4] = *b"MSNK";
/// A delivery of the same key is written to the disk at most this often: it changes only the age.
const WRITE_AGE_AFTER: Duration = Duration::from_secs(60);
/// A clock that was set back by less than this counts as no time since the delivery.
const CLOCK_SLACK: Duration = Duration::from_secs(300);

/// How long a node keeps what it was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheLimits {
    /// Without a delivery for longer than this, no key is used.
    pub max_age: Duration,
    /// How long an older key opens after a newer one was delivered.
    pub overlap: Duration,
}

/// Why a node has no key, or cannot keep one.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// The sealing source is missing or another one, or the file is damaged. The file is as it was.
    #[error("the cached keys are sealed: {0}")]
    Sealed(#[from] Sealed),
    /// No delivery yet.
    #[error("there is no cached key: the server has to be reached once")]
    Empty,
    /// The server was not reached for too long.
    #[error("the cached key is {} s old, and at most {} s are allowed: the server has to be reached", age.as_secs(), max.as_secs())]
    TooOld {
        /// Since the last delivery.
        age: Duration,
        /// The configured limit.
        max: Duration,
    },
    /// The wall clock is before the last delivery.
    #[error("the clock is {} s before the last delivery, so the age of the cached key is not known", .0.as_secs())]
    Clock(Duration),
    /// Another process writes.
    #[error("another process is writing the cached keys ({0} is locked): try again")]
    Busy(PathBuf),
    /// The file system.
    #[error("{path}: {error}")]
    File {
        /// Which file.
        path: PathBuf,
        /// What it says.
        error: io::Error,
    },
    /// A backup does not open.
    #[error("{0}")]
    Backup(#[from] BackupError),
    /// A backup of another farm, or one that a program made that has the node's public key and not the farm's
    /// key.
    #[error(
        "the backup does not have the newest key that the server delivered ({0}): it is of another farm, older, or forged; fetch the newest \
         key, and have the backup written after that"
    )]
    NotAuthenticated(KeyId),
    /// The system has no randomness.
    #[error("no random numbers: {0}")]
    Random(#[from] getrandom::Error),
}

/// What a delivery brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// A key that was not the newest until now: what is sealed under older ones is to be resealed during the
    /// overlap.
    New(KeyId),
    /// The key that was known.
    Same(KeyId),
}

/// Usable keys.
#[derive(Clone, Debug)]
pub struct CachedKeys {
    /// Newest first.
    pub keys: Keyring,
    /// Since the last delivery.
    pub age: Duration,
}

#[derive(Clone)]
struct Entry {
    secret: MasterSecret,
    first_seen: UnixTime,
    superseded: Option<UnixTime>,
}

#[derive(Clone, Default)]
struct Entries {
    delivered: Option<UnixTime>,
    /// Newest first.
    keys: Vec<Entry>,
}

/// The sealed cache of a node.
pub struct NodeKeys {
    path: PathBuf,
    source: Arc<dyn SealingSource>,
    limits: CacheLimits,
    disk: Arc<dyn Disk>,
    entries: Entries,
    written: Option<UnixTime>,
}

impl NodeKeys {
    /// Reads the cache; a file that does not exist is an empty cache.
    pub fn open(path: &Path, source: Arc<dyn SealingSource>, limits: CacheLimits) -> Result<Self, NodeError> {
        Self::open_on(Arc::new(RealDisk), path, source, limits)
    }

    /// The same over another file layer.
    pub fn open_on(
        disk: Arc<dyn Disk>,
        path: &Path,
        source: Arc<dyn SealingSource>,
        limits: CacheLimits,
    ) -> Result<Self, NodeError> {
        let mut node =
            Self { path: path.to_owned(), source, limits, disk, entries: Entries::default(), written: None };
        node.entries = node.read()?;
        node.written = node.entries.delivered;
        Ok(node)
    }

    /// The keys to work with, and how old the last delivery is.
    pub fn keys(&self, now: UnixTime) -> Result<CachedKeys, NodeError> {
        let delivered = self.entries.delivered.ok_or(NodeError::Empty)?;
        let early = delivered.since(now);
        if early > CLOCK_SLACK {
            return Err(NodeError::Clock(early));
        }
        let age = now.since(delivered);
        if age > self.limits.max_age {
            return Err(NodeError::TooOld { age, max: self.limits.max_age });
        }
        let [newest, older @ ..] = self.entries.keys.as_slice() else { return Err(NodeError::Empty) };
        let usable = older.iter().filter(|entry| self.is_in_overlap(entry, now));
        let keys = usable
            .fold(Keyring::new(newest.secret.clone()), |ring, entry| ring.with_older(entry.secret.clone()));
        Ok(CachedKeys { keys, age })
    }

    /// Notes what the server delivered. A new key is on the disk before this returns, so that a crash
    /// afterwards loses no key under which something may have been sealed.
    pub fn delivered(&mut self, secret: MasterSecret, now: UnixTime) -> Result<Delivery, NodeError> {
        let key_id = secret.key_id();
        let is_newest = |entries: &Entries| entries.keys.first().is_some_and(|entry| entry.secret == secret);
        if is_newest(&self.entries)
            && self.written.is_some_and(|written| now >= written && now.since(written) < WRITE_AGE_AFTER)
        {
            self.entries.delivered = Some(now);
            return Ok(Delivery::Same(key_id));
        }
        let lock = self.lock()?;
        let mut entries = self.read()?;
        let delivery = match is_newest(&entries) {
            true => Delivery::Same(key_id),
            false => {
                if let Some(newest) = entries.keys.first_mut() {
                    newest.superseded = Some(now);
                }
                // A server whose older secret was restored delivers a key that was known.
                entries.keys.retain(|entry| entry.secret != secret);
                entries.keys.insert(0, Entry { secret, first_seen: now, superseded: None });
                Delivery::New(key_id)
            }
        };
        entries.delivered = Some(now);
        entries.keys.retain(|entry| entry.superseded.is_none() || self.is_in_overlap(entry, now));
        entries.keys.truncate(GENERATIONS_MAX);
        self.write(entries)?;
        drop(lock);
        Ok(delivery)
    }

    /// Learns older keys from a backup that the server's operator wrote for this node. The newest delivered
    /// key stays the newest. Without a delivery there is nothing to add to: [`NodeError::Empty`].
    ///
    /// The backup has to have the node's newest delivered key. Its encryption does not show who wrote it,
    /// because the node's public key is public, and lineage, numbers and key ids are, too.
    ///
    /// The overlap of each key goes on from when the server superseded it. The newest of the backup was
    /// superseded at the latest when this node first got the key that it has now. So a key whose overlap has
    /// ended does not come back, however often a backup is read.
    pub fn take_backup(
        &mut self,
        bytes: &[u8],
        key: &dyn SealingSource,
        now: UnixTime,
    ) -> Result<usize, NodeError> {
        let generations = Backup::read(bytes)?.open(key)?;
        let lock = self.lock()?;
        let mut entries = self.read()?;
        let Some(newest) = entries.keys.first() else { return Err(NodeError::Empty) };
        if !generations.iter().any(|(_, secret)| *secret == newest.secret) {
            return Err(NodeError::NotAuthenticated(newest.secret.key_id()));
        }
        let newest_seen = newest.first_seen;
        let before = entries.keys.len();
        for (generation, secret) in generations.iter() {
            let superseded = generation.superseded.unwrap_or(newest_seen).min(now);
            let entry = Entry {
                secret: secret.clone(),
                first_seen: generation.created,
                superseded: Some(superseded),
            };
            let is_over =
                generation.overlap_ends.is_some_and(|end| end <= now) || !self.is_in_overlap(&entry, now);
            if !is_over
                && entries.keys.len() < GENERATIONS_MAX
                && entries.keys.iter().all(|known| known.secret != *secret)
            {
                entries.keys.push(entry);
            }
        }
        let added = entries.keys.len() - before;
        self.write(entries)?;
        drop(lock);
        Ok(added)
    }

    fn is_in_overlap(&self, entry: &Entry, now: UnixTime) -> bool {
        entry.superseded.is_none_or(|superseded| superseded.after(self.limits.overlap) > now)
    }

    fn lock(&self) -> Result<File, NodeError> {
        let path = files::beside(&self.path, ".lock");
        files::open_lock(&*self.disk, OpenOptions::new().read(true), &path).map_err(|error| match error {
            TryLockError::WouldBlock => NodeError::Busy(path),
            TryLockError::Error(error) => NodeError::File { path, error },
        })
    }

    fn read(&self) -> Result<Entries, NodeError> {
        let sealed = |why: String| Sealed { what: self.path.display().to_string(), why };
        let bytes = match read_replaced(&self.path, FILE_MAX) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Entries::default()),
            Err(error) => return Err(sealed(format!("cannot be read: {error}")).into()),
        };
        let damaged =
            |error: FormatError| sealed(format!("is damaged: {error}; remove it, and fetch the key again"));
        let (key_header, header) = Header::read(&bytes).map_err(damaged)?;
        let key = key_header.unlock(&*self.source, MAGIC)?;
        Ok(header.open(&key).map_err(damaged)?)
    }

    fn write(&mut self, entries: Entries) -> Result<(), NodeError> {
        let (key_header, key) = KeyHeader::fresh(&*self.source, MAGIC)?;
        let bytes = encode(&entries, &key_header, &key)?;
        files::replace(&*self.disk, &self.path, &bytes)
            .map_err(|error| NodeError::File { path: self.path.clone(), error })?;
        self.written = entries.delivered;
        self.entries = entries;
        Ok(())
    }
}

/// The last delivery and the key ids in a cache, newest first, read without its key, so they are not
/// authenticated.
pub fn facts_of(bytes: &[u8]) -> Result<(UnixTime, Vec<KeyId>), FormatError> {
    let (_, Header { delivered, keys, .. }) = Header::read(bytes)?;
    Ok((delivered, keys.into_iter().map(|(id, ..)| id).collect()))
}

struct Header<'a> {
    envelope: Envelope<'a>,
    delivered: UnixTime,
    keys: Vec<(KeyId, UnixTime, Option<UnixTime>)>,
}

impl<'a> Header<'a> {
    fn read(bytes: &'a [u8]) -> Result<(KeyHeader, Self), FormatError> {
        let envelope = Envelope::read("cached keys", MAGIC, bytes)?;
        let (key_header, mut reader) = envelope::key_header(envelope.header)?;
        let delivered = UnixTime(reader.u64("last delivery")?);
        let count = usize::from(reader.u8("count of keys")?);
        if !(1..=GENERATIONS_MAX).contains(&count) {
            return Err(reader.error("count of keys", DecodeErrorKind::BadValue).into());
        }
        let mut keys = Vec::with_capacity(count);
        for index in 0..count {
            let (id, first_seen) = (KeyId(reader.array("key id")?), UnixTime(reader.u64("first seen")?));
            let superseded = reader.u64("superseded")?;
            if (superseded == 0) != (index == 0) {
                return Err(reader.error("superseded", DecodeErrorKind::BadValue).into());
            }
            keys.push((id, first_seen, (superseded != 0).then_some(UnixTime(superseded))));
        }
        reader.finish("header of the cached keys")?;
        Ok((key_header, Self { envelope, delivered, keys }))
    }

    fn open(self, key: &SourceKey) -> Result<Entries, FormatError> {
        let plain = self.envelope.open(key)?;
        let mut reader = Reader::new(&plain);
        let mut keys = Vec::with_capacity(self.keys.len());
        for (id, first_seen, superseded) in self.keys {
            let octets = reader.take("secret", MasterSecret::LEN)?;
            let secret = MasterSecret::from_octets(octets).ok().filter(|secret| secret.key_id() == id);
            let secret = secret.ok_or(FormatError::KeyId(id))?;
            keys.push(Entry { secret, first_seen, superseded });
        }
        reader.finish("secrets")?;
        Ok(Entries { delivered: Some(self.delivered), keys })
    }
}

fn encode(entries: &Entries, key_header: &KeyHeader, key: &SourceKey) -> Result<Vec<u8>, getrandom::Error> {
    let mut header = Vec::new();
    key_header.encode(&mut header);
    header.extend(entries.delivered.map_or(0, |delivered| delivered.0).to_le_bytes());
    header.push(entries.keys.len() as u8);
    let mut plain = Zeroizing::new(Vec::with_capacity(GENERATIONS_MAX * MasterSecret::LEN));
    for entry in &entries.keys {
        header.extend(entry.secret.key_id().0);
        header.extend(entry.first_seen.0.to_le_bytes());
        header.extend(entry.superseded.map_or(0, |time| time.0.max(1)).to_le_bytes());
        plain.extend(entry.secret.expose());
    }
    envelope::seal(MAGIC, &header, key, &plain)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::KeyFile;

    #[test]
    fn a_secret_with_another_key_id_than_the_one_beside_it_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let source = KeyFile::create(&folder.path().join("key")).expect("a key");
        let (key_header, key) = KeyHeader::fresh(&source, MAGIC).expect("a key");
        let octets = [1; MasterSecret::LEN];
        let right = MasterSecret::from_octets(&octets).expect("a secret").key_id();
        let other = KeyId([7; 8]);
        for (id, refused) in [(right, None), (other, Some(FormatError::KeyId(other)))] {
            let mut header = Vec::new();
            key_header.encode(&mut header);
            header.extend(100u64.to_le_bytes());
            header.push(1);
            header.extend(id.0);
            header.extend([100u64, 0].map(u64::to_le_bytes).concat());
            let bytes = envelope::seal(MAGIC, &header, &key, &octets).expect("random numbers");
            let (_, read) = Header::read(&bytes).expect("a header");
            assert_eq!(read.open(&key).err(), refused);
        }
    }
}
