//! The sealed file of a master secret server, and what is done with it.
//!
//! # Files of the data folder
//!
//! | file | what |
//! | --- | --- |
//! | `master-secret.sealed` | the secrets of all generations in their overlap, sealed; replaced as a whole at each change |
//! | `master-secret.instance` | locked by the one writer; its inode and time of birth mark the folder; one line for each write |
//! | `master-secret.sealed.tmp` | left by a writer that was killed; removed by the next writer |
//!
//! All have mode 0600. A folder that others may write to is refused.
//!
//! # Format of `master-secret.sealed`, version 1
//!
//! An envelope (see `envelope.rs`) with magic `MSSF`. Its header:
//!
//! | octets | field |
//! | --- | --- |
//! | | key header: see the module [`source`](crate::source) |
//! | 16 | instance id: random, one for each data folder |
//! | 32 | mark of the folder |
//! | 8 | writes so far |
//! | 8 | last backup, Unix seconds; 0: never |
//! | 4 | newest generation of that backup; 0: none |
//! | 8 | last drill that passed; 0: never |
//! | | generations: see `generation.rs` |
//!
//! The plaintext is 16 octets for each generation. Before a store is open, each secret has opened its
//! sentinel.
//!
//! # How a rollback is noticed
//!
//! After each write, a line is appended to `master-secret.instance` (see the module `record`). A sealed file
//! that is behind these lines is an older one that was put back: it is not opened ([`State::RolledBack`]). A
//! rotation of it would give the number of a generation that nodes have to another secret. A store that stays
//! open compares with what it has seen as well, so that it notices a rollback of both files. An operator puts
//! the newer file back, restores a backup, or adopts the older file: its newest secret then gets a number
//! above all that were used. A snapshot of the whole machine that is put back is not noticed.
//!
//! # How a copy is noticed
//!
//! The mark is SHA-256 over the machine id (`/etc/machine-id`), the inode number and the time of birth of
//! `master-secret.instance`, which is created once and never replaced. A copied folder has another inode or
//! time of birth, and on another machine another machine id. The device number is left out because it may
//! change at boot. If the mark differs, the store opens and serves, and `rotate`, `import` and `restore` are
//! refused until an operator says by [`SecretStore::adopt`] that this folder is the one that lives: two
//! servers that rotate by themselves would hand out two keys. A restore in place of a sealed, damaged or
//! missing file of a copy leaves it a copy. A restore into an empty folder makes an original: its operator
//! has just said where the secret is to live. A disk image of a virtual machine that is started twice with
//! the same machine id is not noticed. A folder that is moved to another machine or restored from a file
//! backup is noticed, and is adopted once.

use crate::backup::{self, Backup, BackupError};
use crate::envelope::{self, Envelope, FILE_MAX, FormatError};
use crate::files::{self, Disk, RealDisk, read_replaced};
use crate::generation::{Generation, Generations, Listed, NotAdded, Origin, Overlap};
use crate::memory::PageLock;
use crate::recipient::Recipient;
use crate::record::{Record, Records};
use crate::secret::{KeyId, Keyring, MasterSecret};
use crate::source::{KeyHeader, Sealed, SealingSource, SourceKey, SourceKind};
use crate::status::{Facts, Status};
use crate::time::UnixTime;
use dtyp::{DecodeError, Reader};
use sha2::{Digest, Sha256};
use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

pub(crate) const MAGIC: [u8; 4] = *b"MSSF";
const SEALED: &str = "master-secret.sealed";
const INSTANCE: &str = "master-secret.instance";

/// What distinguishes this machine from others, and stays the same over boots.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MachineId(String);

impl MachineId {
    /// `/etc/machine-id`; empty where there is none, as in most containers.
    pub fn from_system() -> Self {
        Self(std::fs::read_to_string("/etc/machine-id").unwrap_or_default().trim().to_owned())
    }

    /// Another name that stays, such as the one of a stateful pod.
    pub fn new(name: &str) -> Self {
        Self(name.to_owned())
    }
}

/// What there is of a secret.
#[derive(Clone, Debug)]
pub enum State {
    /// There never was one in this folder.
    None,
    /// There is one, and it cannot be had: the name of what is missing.
    Sealed(Sealed),
    /// The sealed file is older than one that was here: see the module. Nothing of it is used.
    RolledBack(Sealed),
    /// It is at hand.
    Open(Arc<OpenSecret>),
}

/// The secrets of an open store.
pub struct OpenSecret {
    generations: Generations,
    rest: Rest,
    key_header: KeyHeader,
    key: SourceKey,
    is_copy: bool,
}

impl std::fmt::Debug for OpenSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (generation, _) = self.newest();
        write!(f, "OpenSecret(generation {}, {})", generation.number, generation.key_id)
    }
}

impl OpenSecret {
    /// The generation that the wire serves.
    pub fn newest(&self) -> (&Generation, &MasterSecret) {
        self.generations.newest()
    }

    /// All generations, newest first.
    pub fn generations(&self) -> impl Iterator<Item = (&Generation, &MasterSecret)> {
        self.generations.iter()
    }

    /// All secrets, for blobs.
    pub fn keyring(&self) -> Keyring {
        self.generations.keyring()
    }

    /// Whether the folder is a copy: see the module.
    pub fn is_copy(&self) -> bool {
        self.is_copy
    }

    /// Whether this is an older state than `newer`: see the module.
    pub fn is_behind(&self, newer: &Self) -> bool {
        self.seen().is_behind(&newer.seen())
    }

    fn seen(&self) -> Seen {
        Seen { lineage: self.generations.lineage, record: self.record() }
    }

    fn record(&self) -> Record {
        let Rest { instance, writes, mark, .. } = self.rest;
        Record { instance, writes, generation: self.newest().0.number, mark }
    }

    /// Whether the secrets are kept out of swap.
    pub fn page_lock(&self) -> PageLock {
        self.newest().1.page_lock()
    }
}

/// The newest state that this process has seen. No secret.
struct Seen {
    lineage: [u8; 16],
    record: Record,
}

impl Seen {
    fn is_behind(&self, newer: &Self) -> bool {
        let (ours, theirs) = (&self.record, &newer.record);
        self.lineage == newer.lineage && ours.generation < theirs.generation
            || ours.instance == theirs.instance && ours.writes < theirs.writes
    }
}

/// The fields of the header between the key header and the generations.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Rest {
    instance: [u8; 16],
    mark: [u8; 32],
    writes: u64,
    last_backup: u64,
    backup_generation: u32,
    last_drill: u64,
}

impl Rest {
    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            instance: reader.array("instance id")?,
            mark: reader.array("mark of the folder")?,
            writes: reader.u64("count of writes")?,
            last_backup: reader.u64("last backup")?,
            backup_generation: reader.u32("generation of the last backup")?,
            last_drill: reader.u64("last drill")?,
        })
    }

    fn encode(&self, out: &mut Vec<u8>) {
        out.extend(self.instance);
        out.extend(self.mark);
        out.extend(self.writes.to_le_bytes());
        out.extend(self.last_backup.to_le_bytes());
        out.extend(self.backup_generation.to_le_bytes());
        out.extend(self.last_drill.to_le_bytes());
    }
}

/// A backup that was made, and is not noted yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MadeBackup {
    time: UnixTime,
    generation: u32,
    key_id: KeyId,
}

/// What a restore may do beyond bringing back a secret that is missing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RestoreRules {
    /// The backup's newest generation is older than the live one.
    pub allow_older: bool,
    /// The backup is of another lineage, or has another secret under the live one's number.
    pub allow_foreign: bool,
    /// The live file is sealed or damaged. It is kept aside under another name.
    pub replace_sealed: bool,
    /// The key id of the backup's newest generation, as its operator knows it from elsewhere. Key ids are
    /// derived from the secrets.
    pub key_id: Option<KeyId>,
    /// Only a backup whose newest secret is one of an open live store, whatever encrypts it.
    pub live_only: bool,
}

/// Why an operation was not done. The files are as they were.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The name of what is missing.
    #[error("the master secret is sealed: {0}")]
    Sealed(#[from] Sealed),
    /// There is nothing to work with.
    #[error("there is no master secret: generate one, import one, or restore a backup")]
    NoSecret,
    /// `generate` never replaces a secret.
    #[error("there is a master secret already: rotate makes a new generation")]
    Exists,
    /// See the module.
    #[error(
        "this data folder is a copy (instance {instance}, written elsewhere): if this one is to live, adopt it, and remove the other"
    )]
    Copy {
        /// The instance id in the file.
        instance: String,
    },
    /// Another process changes the store.
    #[error("another process is changing the master secret ({path} is locked): try again")]
    Busy {
        /// The lock file.
        path: PathBuf,
    },
    /// The file system.
    #[error("{path}: {error}")]
    File {
        /// Which file or folder.
        path: PathBuf,
        /// What it says.
        error: io::Error,
    },
    /// Others may write to the data folder.
    #[error("{path} can be changed by other users (mode {mode:03o}): chmod go-w")]
    Folder {
        /// The folder.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// A generation was not added.
    #[error("{0}")]
    NotAdded(String),
    /// A backup does not open.
    #[error("{0}")]
    Backup(#[from] BackupError),
    /// The backup's newest generation is older than the live one.
    #[error(
        "the backup is older: its newest generation is {backup}, the live one is {live}; to restore it all the same: --allow-older"
    )]
    Older {
        /// The newest generation of the backup.
        backup: u32,
        /// The live newest generation.
        live: u32,
    },
    /// The backup is not of this farm.
    #[error(
        "the backup is foreign: it is of lineage {backup}, the live one is {live}; to restore it all the same: --allow-foreign"
    )]
    Foreign {
        /// The lineage of the backup.
        backup: String,
        /// The live lineage.
        live: String,
    },
    /// See [`RestoreRules::key_id`].
    #[error("the newest generation of the backup has the key id {found}, and {expected} was expected")]
    OtherKeyId {
        /// That of the backup.
        found: KeyId,
        /// The one that was given.
        expected: KeyId,
    },
    /// A backup for a recipient can be made by each program that has the public key.
    #[error(
        "nothing shows who wrote the backup: it is encrypted for a public key, and its newest secret ({0}) is not one of the live store; \
         give the newest key id of a status that was exported earlier: --key-id"
    )]
    Unauthenticated(KeyId),
    /// See [`RestoreRules::live_only`].
    #[error(
        "the newest secret of the backup is not one of the live store: only the owner of the data folder and root may restore it"
    )]
    NotLive,
    /// Two servers rotated the same lineage by themselves.
    #[error(
        "the backup has another secret as generation {0} than the live one: two servers rotated by themselves; to restore it all the same: --allow-foreign"
    )]
    Forked(u32),
    /// A drill found that the backup does not open what the live store seals.
    #[error("the backup does not open what generation {number} ({key_id}) seals: write a new backup")]
    Drill {
        /// The generation.
        number: u32,
        /// Its key id.
        key_id: KeyId,
    },
}

impl From<NotAdded> for StoreError {
    fn from(error: NotAdded) -> Self {
        Self::NotAdded(error.to_string())
    }
}

/// The folder with the sealed file. One process may hold it open for years while others change it:
/// [`SecretStore::state`] looks each time whether the file was replaced, which is one system call.
pub struct SecretStore {
    folder: PathBuf,
    source: Arc<dyn SealingSource>,
    machine: MachineId,
    disk: Arc<dyn Disk>,
    clock: fn() -> UnixTime,
    loaded: Mutex<Option<(Stamp, State)>>,
    /// Survives that the store is sealed for a while.
    seen: Mutex<Option<Seen>>,
}

/// What changes when the sealed file is replaced: inode, size, time of change in seconds and nanoseconds.
/// `None` where there is none.
type Stamp = Option<(u64, u64, i64, i64)>;

/// A store whose lock this process holds.
struct Writer<'a> {
    store: &'a SecretStore,
    lock: File,
}

impl SecretStore {
    /// Names the folder and the sealing source; reads nothing yet.
    pub fn new(folder: &Path, source: Arc<dyn SealingSource>, machine: MachineId) -> Self {
        Self {
            folder: folder.to_owned(),
            source,
            machine,
            disk: Arc::new(RealDisk),
            clock: UnixTime::now,
            loaded: Mutex::new(None),
            seen: Mutex::new(None),
        }
    }

    /// The same over another file layer.
    pub fn with_disk(self, disk: Arc<dyn Disk>) -> Self {
        Self { disk, ..self }
    }

    /// The same with another clock, by which overlaps end.
    pub fn with_clock(self, clock: fn() -> UnixTime) -> Self {
        Self { clock, ..self }
    }

    /// How the sealing source makes its key.
    pub fn source_kind(&self) -> SourceKind {
        self.source.kind()
    }

    /// Whether this says that the sealing source gave no key, and not that a file is damaged.
    pub fn is_of_source(&self, sealed: &Sealed) -> bool {
        sealed.what == self.source.name()
    }

    /// The clock, for a store beside this one.
    pub(crate) fn clock(&self) -> fn() -> UnixTime {
        self.clock
    }

    /// What there is now. Generations whose overlap has ended are gone, whether the file has them still or
    /// not. Reads the file again if it was replaced. A sealing source that gave no key is asked again only by
    /// [`SecretStore::reload`]: a passphrase costs argon2id, and each caller of the service could ask for
    /// that.
    pub fn state(&self) -> State {
        let stamp = self.stamp();
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        match &*loaded {
            Some((known, state)) if *known == stamp && !self.has_ended(state) => state.clone(),
            other => {
                let known = match other {
                    Some((_, State::Open(open))) => Some(open.clone()),
                    _ => None,
                };
                let state = self.load(known.as_deref());
                *loaded = Some((stamp, state.clone()));
                state
            }
        }
    }

    /// Whether an open secret has a generation that no node may need any more.
    fn has_ended(&self, state: &State) -> bool {
        let State::Open(open) = state else { return false };
        open.generations.next_end().is_some_and(|end| end <= (self.clock)())
    }

    /// Reads the file and asks the sealing source, whatever was known.
    pub fn reload(&self) -> State {
        self.loaded.lock().unwrap_or_else(PoisonError::into_inner).take();
        self.state()
    }

    /// The open secret, or why there is none.
    pub fn open(&self) -> Result<Arc<OpenSecret>, StoreError> {
        opened(self.state())
    }

    /// The public facts of what there is now.
    pub fn status(&self) -> Status {
        self.status_of(&self.state())
    }

    /// The public facts of a state of this store. Those of a file that is not open are read from the file.
    pub fn status_of(&self, state: &State) -> Status {
        match state {
            State::None => Status { state: "none", sealed: None, facts: None, page_lock: None },
            State::Open(open) => {
                let generations = open.generations().map(|(generation, _)| generation.clone()).collect();
                let facts =
                    facts(&open.rest, open.is_copy, &open.key_header, open.generations.lineage, generations);
                Status { state: "open", sealed: None, facts: Some(facts), page_lock: Some(open.page_lock()) }
            }
            State::Sealed(sealed) | State::RolledBack(sealed) => {
                let bytes = read_replaced(&self.sealed_path(), FILE_MAX).ok();
                let facts = bytes.and_then(|bytes| facts_of(&bytes, &self.mark()).ok());
                Status::sealed(sealed, facts)
            }
        }
    }

    /// Draws the first secret.
    pub fn generate(&self, now: UnixTime) -> Result<Arc<OpenSecret>, StoreError> {
        let secret = MasterSecret::generate().map_err(NotAdded::Random)?;
        self.begin(secret, Origin::Generated, now)
    }

    /// Draws a new generation. The present one stays for `overlap`: a duration, or an [`Overlap`] that ends
    /// older ones, too.
    pub fn rotate(&self, now: UnixTime, overlap: impl Into<Overlap>) -> Result<Arc<OpenSecret>, StoreError> {
        let secret = MasterSecret::generate().map_err(NotAdded::Random)?;
        self.advance(secret, Origin::Generated, now, overlap.into())
    }

    /// Takes over the secret of an existing server: as the first one, or as a new generation.
    pub fn import(
        &self,
        secret: MasterSecret,
        now: UnixTime,
        overlap: Duration,
    ) -> Result<Arc<OpenSecret>, StoreError> {
        match self.state() {
            State::None => self.begin(secret, Origin::Imported, now),
            _ => self.advance(secret, Origin::Imported, now, overlap.into()),
        }
    }

    fn begin(
        &self,
        secret: MasterSecret,
        origin: Origin,
        now: UnixTime,
    ) -> Result<Arc<OpenSecret>, StoreError> {
        let writer = self.writer()?;
        match writer.state() {
            State::None => {}
            State::Sealed(sealed) | State::RolledBack(sealed) => return Err(sealed.into()),
            State::Open(_) => return Err(StoreError::Exists),
        }
        writer.found(Generations::first(secret, origin, now)?, self.mark())
    }

    fn advance(
        &self,
        secret: MasterSecret,
        origin: Origin,
        now: UnixTime,
        overlap: Overlap,
    ) -> Result<Arc<OpenSecret>, StoreError> {
        let writer = self.writer()?;
        let open = writer.original()?;
        let mut generations = open.generations.clone();
        generations.add(secret, origin, now, overlap)?;
        writer.commit(generations, open.rest.clone(), &open.key_header, &open.key)
    }

    /// Writes a backup of all generations to a new file with mode 0600, encrypted for `recipient`, and notes
    /// its time.
    pub fn backup_to(
        &self,
        path: &Path,
        recipient: &dyn SealingSource,
        now: UnixTime,
    ) -> Result<Arc<OpenSecret>, StoreError> {
        let (bytes, made) = self.make_backup(recipient, now)?;
        files::write_new(path, &bytes).map_err(|error| StoreError::File { path: path.to_owned(), error })?;
        self.note_backup(&made)
    }

    /// Makes a backup of all generations, encrypted for `recipient`. It is noted by
    /// [`SecretStore::note_backup`], once it was kept.
    pub fn make_backup(
        &self,
        recipient: &dyn SealingSource,
        now: UnixTime,
    ) -> Result<(Vec<u8>, MadeBackup), StoreError> {
        let open = self.open()?;
        let bytes = backup::write(&open.generations, open.rest.instance, now, recipient)?;
        let newest = open.newest().0;
        Ok((bytes, MadeBackup { time: now, generation: newest.number, key_id: newest.key_id }))
    }

    /// Notes that a backup was kept. Others may have changed the store since it was made.
    pub fn note_backup(&self, made: &MadeBackup) -> Result<Arc<OpenSecret>, StoreError> {
        let writer = self.writer()?;
        let open = writer.open()?;
        let is_made_of = |it: &Generation| (it.number, it.key_id) == (made.generation, made.key_id);
        if !open.generations().any(|(generation, _)| is_made_of(generation)) {
            return Err(StoreError::NotAdded(
                "the generation of the backup is not there any more: write a new backup".to_owned(),
            ));
        }
        let mut rest = open.rest.clone();
        if rest.last_backup <= made.time.0 || rest.backup_generation <= made.generation {
            rest.last_backup = made.time.0;
            rest.backup_generation = made.generation;
        }
        writer.commit(open.generations.clone(), rest, &open.key_header, &open.key)
    }

    /// A backup for a node of the farm, from which it learns older keys. It is not noted: the node's key
    /// opens it, and no key of the server's operators.
    pub fn backup_for_node(&self, node: Recipient, now: UnixTime) -> Result<Vec<u8>, StoreError> {
        let open = self.open()?;
        Ok(backup::write(&open.generations, open.rest.instance, now, &node)?)
    }

    /// Brings back what a backup holds. All its secrets have opened their sentinels before a file is changed.
    ///
    /// In an empty folder the result is what the backup holds. If the live store is open, its generations
    /// stay for `overlap`, and the newest of the backup becomes the newest.
    pub fn restore(
        &self,
        bytes: &[u8],
        key: &dyn SealingSource,
        now: UnixTime,
        overlap: Duration,
        rules: RestoreRules,
    ) -> Result<Arc<OpenSecret>, StoreError> {
        let backup = Backup::read(bytes)?;
        let listed = backup.listed.clone();
        let kind = backup.key_header().kind;
        let restored = backup.open(key)?;
        let writer = self.writer()?;
        let live = writer.state();
        rules.authenticate(kind, &restored, &live)?;
        writer.restore(live, restored, &listed, now, overlap, rules)
    }

    /// Restores a backup into an empty folder, for a rehearsal: what it opens shows whether it is the right
    /// one.
    pub(crate) fn restore_scratch(
        &self,
        bytes: &[u8],
        key: &dyn SealingSource,
        now: UnixTime,
    ) -> Result<Arc<OpenSecret>, StoreError> {
        let backup = Backup::read(bytes)?;
        let listed = backup.listed.clone();
        let restored = backup.open(key)?;
        let writer = self.writer()?;
        writer.restore(self.load(None), restored, &listed, now, Duration::ZERO, RestoreRules::default())
    }

    /// Notes that a drill passed.
    pub(crate) fn note_drill(&self, now: UnixTime) -> Result<Arc<OpenSecret>, StoreError> {
        let writer = self.writer()?;
        let open = writer.open()?;
        let mut rest = open.rest.clone();
        rest.last_drill = now.0;
        writer.commit(open.generations.clone(), rest, &open.key_header, &open.key)
    }

    /// An operator says that this folder is the one that lives: it gets a new instance id and its own mark.
    /// If the sealed file was rolled back, its newest secret gets a number above all that were used here.
    pub fn adopt(&self) -> Result<Arc<OpenSecret>, StoreError> {
        let writer = self.writer()?;
        let highest = writer.records()?.highest();
        let open = opened(self.read(None))?;
        let rest = Rest { instance: new_instance()?, mark: self.mark(), ..open.rest.clone() };
        let mut generations = open.generations.clone();
        generations.raise_above(highest)?;
        writer.commit(generations, rest, &open.key_header, &open.key)
    }

    /// Seals the file under another source. The store that was opened with the old source is of no use
    /// afterwards.
    pub fn change_source(&self, source: Arc<dyn SealingSource>) -> Result<SecretStore, StoreError> {
        let writer = self.writer()?;
        let open = writer.original()?;
        let (key_header, key) = KeyHeader::fresh(&*source, MAGIC)?;
        writer.commit(open.generations.clone(), open.rest.clone(), &key_header, &key)?;
        let next = Self::new(&self.folder, source, self.machine.clone()).with_disk(self.disk.clone());
        Ok(next.with_clock(self.clock))
    }

    fn sealed_path(&self) -> PathBuf {
        self.folder.join(SEALED)
    }

    fn instance_path(&self) -> PathBuf {
        self.folder.join(INSTANCE)
    }

    fn stamp(&self) -> Stamp {
        let metadata = self.sealed_path().symlink_metadata().ok()?;
        Some((metadata.ino(), metadata.len(), metadata.ctime(), metadata.ctime_nsec()))
    }

    /// The mark that this folder would get now; see the module.
    fn mark(&self) -> [u8; 32] {
        let mut hash = Sha256::new_with_prefix(b"rcmpd master secret 1: mark of the folder");
        if let Ok(metadata) = self.instance_path().symlink_metadata() {
            let born =
                metadata.created().ok().and_then(|born| born.duration_since(std::time::UNIX_EPOCH).ok());
            hash.update(metadata.ino().to_le_bytes());
            hash.update(born.map_or(0, |born| born.as_nanos()).to_le_bytes());
        }
        hash.update(self.machine.0.as_bytes());
        hash.finalize().into()
    }

    /// Reads the file, and checks that it is not behind what was here. A key that is `known` for the same key
    /// header is used again.
    fn load(&self, known: Option<&OpenSecret>) -> State {
        let path = self.instance_path();
        // Before the sealed file: see the module `record`.
        let records = match files::open_no_link(OpenOptions::new().read(true), &path) {
            Ok(file) => Records::read(&file),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Records::default()),
            Err(error) => Err(error),
        };
        let records = match records {
            Ok(records) => records,
            Err(error) => {
                let what = path.display().to_string();
                return State::Sealed(Sealed { what, why: format!("cannot be read: {error}") });
            }
        };
        let open = match self.read(known) {
            State::Open(open) => open,
            other => return other,
        };
        let found = open.seen();
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let newer = records.newer_than(&found.record);
        let newer = newer.or(seen.as_ref().filter(|seen| found.is_behind(seen)).map(|seen| &seen.record));
        if let Some(newer) = newer {
            return State::RolledBack(Sealed {
                what: self.sealed_path().display().to_string(),
                why: format!(
                    "was rolled back: it is write {} with generation {}, and write {} with generation {} was here before; put the newer \
                     file back, restore a backup in its place with --replace-sealed, or adopt the older file",
                    found.record.writes, found.record.generation, newer.writes, newer.generation
                ),
            });
        }
        *seen = Some(found);
        State::Open(open)
    }

    fn read(&self, known: Option<&OpenSecret>) -> State {
        let path = self.sealed_path();
        let sealed = |why: String| State::Sealed(Sealed { what: path.display().to_string(), why });
        let bytes = match read_replaced(&path, FILE_MAX) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return match self.instance_path().symlink_metadata() {
                    Ok(metadata) if metadata.len() > 0 => {
                        sealed("is missing, and this folder had a master secret: restore a backup with --replace-sealed".to_owned())
                    }
                    Ok(_) => State::None,
                    Err(error) if error.kind() == io::ErrorKind::NotFound => State::None,
                    Err(error) => State::Sealed(Sealed {
                        what: self.instance_path().display().to_string(),
                        why: format!("cannot be read: {error}"),
                    }),
                };
            }
            Err(error) => return sealed(format!("cannot be read: {error}")),
        };
        let damaged = |error: FormatError| {
            sealed(format!("is damaged: {error}; restore a backup with --replace-sealed"))
        };
        let envelope = match Envelope::read("sealed file", MAGIC, &bytes) {
            Ok(envelope) => envelope,
            Err(error) => return damaged(error),
        };
        let (key_header, rest, listed) = match header_of(&envelope) {
            Ok(header) => header,
            Err(error) => return damaged(error),
        };
        let key = match known.filter(|known| known.key_header.has_key_of(&key_header)) {
            Some(known) => SourceKey::copy(known.key.expose()),
            None => match key_header.unlock(&*self.source, MAGIC) {
                Ok(key) => key,
                Err(sealed) => return State::Sealed(sealed),
            },
        };
        match envelope.open(&key).and_then(|plain| listed.open(&plain)) {
            Ok(mut generations) => {
                generations.drop_ended((self.clock)());
                // The writer may be between the rename and the sync of the folder. A secret that a power
                // failure takes back must not be handed out before.
                if let Err(error) = self.disk.sync(&self.folder) {
                    return sealed(format!("cannot be synced: {error}"));
                }
                let is_copy = rest.mark != self.mark();
                State::Open(Arc::new(OpenSecret { generations, rest, key_header, key, is_copy }))
            }
            Err(error) => damaged(error),
        }
    }

    /// Takes the write lock.
    fn writer(&self) -> Result<Writer<'_>, StoreError> {
        let folder = || self.folder.clone();
        let mode = files::mode_if_shared(&self.folder)
            .map_err(|error| StoreError::File { path: folder(), error })?;
        if let Some(mode) = mode {
            return Err(StoreError::Folder { path: folder(), mode });
        }
        let path = self.instance_path();
        match files::open_lock(&*self.disk, OpenOptions::new().read(true).append(true), &path) {
            Ok(lock) => Ok(Writer { store: self, lock }),
            Err(TryLockError::WouldBlock) => Err(StoreError::Busy { path }),
            Err(TryLockError::Error(error)) => Err(StoreError::File { path, error }),
        }
    }
}

impl Writer<'_> {
    /// What there is on the disk now. A sealing source that gave the key of the file already is not asked
    /// again.
    fn state(&self) -> State {
        let known = match self.store.state() {
            State::Open(open) => Some(open),
            _ => None,
        };
        self.store.load(known.as_deref())
    }

    /// The open secret as it is on the disk now.
    fn open(&self) -> Result<Arc<OpenSecret>, StoreError> {
        opened(self.state())
    }

    /// The same, if the folder is no copy.
    fn original(&self) -> Result<Arc<OpenSecret>, StoreError> {
        self.checked_original(self.open()?)
    }

    fn checked_original(&self, open: Arc<OpenSecret>) -> Result<Arc<OpenSecret>, StoreError> {
        match open.is_copy {
            true => Err(StoreError::Copy { instance: dtyp::hex(&open.rest.instance) }),
            false => Ok(open),
        }
    }

    /// Brings back opened generations: see [`SecretStore::restore`].
    fn restore(
        &self,
        live: State,
        restored: Generations,
        listed: &Listed,
        now: UnixTime,
        overlap: Duration,
        rules: RestoreRules,
    ) -> Result<Arc<OpenSecret>, StoreError> {
        let store = self.store;
        match live {
            State::None => self.found(restored, store.mark()),
            State::Open(open) => {
                let open = self.checked_original(open)?;
                let live = open.generations().map(|(generation, _)| generation.clone()).collect();
                rules.check(&Listed { lineage: open.generations.lineage, generations: live }, listed)?;
                let merged = open.generations.clone().merged(restored, now, overlap)?;
                self.commit(merged, open.rest.clone(), &open.key_header, &open.key)
            }
            State::Sealed(sealed) | State::RolledBack(sealed) if !rules.replace_sealed => Err(sealed.into()),
            State::Sealed(_) | State::RolledBack(_) => {
                let records = self.records()?;
                let mut restored = restored;
                let mut highest = records.highest();
                // A copy stays one, whatever happened to its sealed file.
                let mut mark = records.last().map_or_else(|| store.mark(), |last| last.mark);
                let path = store.sealed_path();
                let failed = |error| StoreError::File { path: path.clone(), error };
                match files::read_of_folder_owner(&path, FILE_MAX) {
                    Ok(old) => {
                        if let Ok((_, rest, live)) = Envelope::read("sealed file", MAGIC, &old)
                            .and_then(|envelope| header_of(&envelope))
                        {
                            rules.check(&live, listed)?;
                            highest = highest.max(live.highest());
                            mark = rest.mark;
                        }
                        let aside = files::beside(&path, &format!(".replaced-{}", now.0));
                        files::write_owned(&*store.disk, &aside, &old)
                            .map_err(|error| StoreError::File { path: aside.clone(), error })?;
                    }
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    Err(error) => return Err(failed(error)),
                }
                restored.raise_above(highest)?;
                self.found(restored, mark)
            }
        }
    }

    /// Writes the first file of a folder, or one in place of a file that is sealed. With another mark than
    /// its own, the folder is a copy.
    fn found(&self, generations: Generations, mark: [u8; 32]) -> Result<Arc<OpenSecret>, StoreError> {
        let (key_header, key) = KeyHeader::fresh(&*self.store.source, MAGIC)?;
        let rest = Rest {
            instance: new_instance()?,
            mark,
            writes: 0,
            last_backup: 0,
            backup_generation: 0,
            last_drill: 0,
        };
        self.commit(generations, rest, &key_header, &key)
    }

    /// Writes the file, and keeps what was written.
    fn commit(
        &self,
        mut generations: Generations,
        mut rest: Rest,
        key_header: &KeyHeader,
        key: &SourceKey,
    ) -> Result<Arc<OpenSecret>, StoreError> {
        let store = self.store;
        generations.drop_ended((store.clock)());
        rest.writes = rest.writes.saturating_add(1);
        let mut header = Vec::new();
        key_header.encode(&mut header);
        rest.encode(&mut header);
        generations.encode(&mut header);
        let bytes = envelope::seal(MAGIC, &header, key, &generations.secrets()).map_err(NotAdded::Random)?;
        // What cannot be read again never takes the place of what can.
        Envelope::read("sealed file", MAGIC, &bytes)
            .and_then(|envelope| header_of(&envelope)?.2.open(&envelope.open(key)?))
            .map_err(|error| {
                StoreError::NotAdded(format!("the file that would be written is damaged: {error}"))
            })?;
        let path = store.sealed_path();
        files::replace(&*store.disk, &path, &bytes).map_err(|error| StoreError::File { path, error })?;
        let open = Arc::new(OpenSecret {
            generations,
            is_copy: rest.mark != store.mark(),
            rest,
            key_header: key_header.clone(),
            key: SourceKey::copy(key.expose()),
        });
        self.note(&open.record())?;
        *store.seen.lock().unwrap_or_else(PoisonError::into_inner) = Some(open.seen());
        let mut loaded = store.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        *loaded = Some((store.stamp(), State::Open(open.clone())));
        Ok(open)
    }

    /// What is noted in the folder.
    fn records(&self) -> Result<Records, StoreError> {
        let path = self.store.instance_path();
        Records::read(&self.lock).map_err(|error| StoreError::File { path, error })
    }

    /// Notes a write, once the sealed file is there: from now on a missing sealed file is a loss, and an
    /// older one is a rollback.
    fn note(&self, record: &Record) -> Result<(), StoreError> {
        let path = self.store.instance_path();
        let start = if self.records()?.ends_whole { "" } else { "\n" };
        let line = format!("{start}{}", record.line());
        let disk = &self.store.disk;
        disk.append(&self.lock, line.as_bytes())
            .and_then(|()| disk.sync(&path))
            .map_err(|error| StoreError::File { path, error })
    }
}

/// The open secret, or why there is none.
fn opened(state: State) -> Result<Arc<OpenSecret>, StoreError> {
    match state {
        State::Open(open) => Ok(open),
        State::Sealed(sealed) | State::RolledBack(sealed) => Err(sealed.into()),
        State::None => Err(StoreError::NoSecret),
    }
}

impl RestoreRules {
    /// Whether the secrets of an opened backup are those of the farm. The only place that decides so.
    ///
    /// A key file or passphrase authenticates what it opens. A public key does not: each program that has it
    /// can write such a backup, and lineage, numbers and key ids are public. There the newest secret has to
    /// be a live one, or the one of the given key id.
    fn authenticate(self, kind: SourceKind, restored: &Generations, live: &State) -> Result<(), StoreError> {
        let (newest, secret) = restored.newest();
        let is_live = match live {
            State::Open(open) => open.generations().any(|(_, live)| live == secret),
            State::None | State::Sealed(_) | State::RolledBack(_) => false,
        };
        if self.live_only && !is_live {
            return Err(StoreError::NotLive);
        }
        match self.key_id {
            Some(expected) if expected != newest.key_id => {
                Err(StoreError::OtherKeyId { found: newest.key_id, expected })
            }
            None if kind == SourceKind::Recipient && !is_live => {
                Err(StoreError::Unauthenticated(newest.key_id))
            }
            _ => Ok(()),
        }
    }

    fn check(self, live: &Listed, backup: &Listed) -> Result<(), StoreError> {
        if live.lineage != backup.lineage && !self.allow_foreign {
            let [backup, live] = [backup, live].map(|listed| dtyp::hex(&listed.lineage));
            return Err(StoreError::Foreign { backup, live });
        }
        if live.lineage == backup.lineage {
            let differs = |ours: &&Generation| {
                backup
                    .generations
                    .iter()
                    .any(|theirs| theirs.number == ours.number && theirs.key_id != ours.key_id)
            };
            if let Some(forked) = live.generations.iter().find(differs).filter(|_| !self.allow_foreign) {
                return Err(StoreError::Forked(forked.number));
            }
            if backup.highest() < live.highest() && !self.allow_older {
                return Err(StoreError::Older { backup: backup.highest(), live: live.highest() });
            }
        }
        Ok(())
    }
}

fn new_instance() -> Result<[u8; 16], NotAdded> {
    let mut instance = [0; 16];
    getrandom::fill(&mut instance)?;
    Ok(instance)
}

fn header_of(envelope: &Envelope<'_>) -> Result<(KeyHeader, Rest, Listed), FormatError> {
    let (key, mut reader) = envelope::key_header(envelope.header)?;
    let rest = Rest::decode(&mut reader)?;
    let listed = Listed::decode(&mut reader)?;
    reader.finish("header")?;
    Ok((key, rest, listed))
}

/// The public facts in a sealed file, read without its key, so they are not authenticated. `mark` is that of
/// the folder it is in.
pub fn facts_of(bytes: &[u8], mark: &[u8; 32]) -> Result<Facts, FormatError> {
    let (key, rest, listed) = header_of(&Envelope::read("sealed file", MAGIC, bytes)?)?;
    Ok(facts(&rest, rest.mark != *mark, &key, listed.lineage, listed.generations))
}

fn facts(
    rest: &Rest,
    is_copy: bool,
    key: &KeyHeader,
    lineage: [u8; 16],
    generations: Vec<Generation>,
) -> Facts {
    let time = |seconds| (seconds != 0).then_some(UnixTime(seconds));
    Facts {
        lineage: dtyp::hex(&lineage),
        instance: dtyp::hex(&rest.instance),
        is_copy,
        source: key.name.clone(),
        source_kind: key.kind,
        last_backup: time(rest.last_backup),
        backup_is_current: generations.first().is_some_and(|newest| newest.number == rest.backup_generation),
        last_drill: time(rest.last_drill),
        writes: rest.writes,
        generations,
    }
}
