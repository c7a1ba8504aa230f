//! What is public of a store: no octet of a secret.

use crate::generation::Generation;
use crate::memory::PageLock;
use crate::source::Sealed;
use crate::time::UnixTime;
use serde::Serialize;

/// The public facts of a store, for `status`, for metrics, and for publishing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Status {
    /// `none`, `sealed` or `open`.
    pub state: &'static str,
    /// If it is sealed: the name of what is missing, and why.
    pub sealed: Option<String>,
    /// What is in the file. If the store is sealed, the header was read without its key, so these facts are
    /// not authenticated. `None` if there is no readable file.
    pub facts: Option<Facts>,
    /// Whether the secrets are kept out of swap; `None` unless the store is open.
    pub page_lock: Option<PageLock>,
}

/// The header of the sealed file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Facts {
    /// Which family of secrets: 32 hexadecimal digits, kept by backup and restore.
    pub lineage: String,
    /// Which data folder: 32 hexadecimal digits, drawn anew by `generate`, `restore` and `adopt`.
    pub instance: String,
    /// Whether the folder is a copy of the one that was written: see the module `store`.
    pub is_copy: bool,
    /// The sealing source that the file was written with.
    pub source: String,
    /// Its kind.
    pub source_kind: crate::source::SourceKind,
    /// Newest first.
    pub generations: Vec<Generation>,
    /// The last backup that was written; `None`: never.
    pub last_backup: Option<UnixTime>,
    /// Whether that backup has the newest generation.
    pub backup_is_current: bool,
    /// The last drill that passed; `None`: never.
    pub last_drill: Option<UnixTime>,
    /// How often the file was written.
    pub writes: u64,
}

impl Status {
    pub(crate) fn sealed(sealed: &Sealed, facts: Option<Facts>) -> Self {
        Self { state: "sealed", sealed: Some(sealed.to_string()), facts, page_lock: None }
    }
}
