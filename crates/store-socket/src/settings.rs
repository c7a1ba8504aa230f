//! Where the program is, and how it is asked.

use crate::meter::Meter;
use account_store::Domain;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Says whether only the program could have put a socket at the path. The error is a sentence.
pub type CheckPlace = dyn Fn() -> Result<(), String> + Send + Sync;

/// Everything about a store.
#[derive(Clone)]
pub struct Settings {
    /// The domain whose accounts it has.
    pub domain: Domain,
    /// The path of the socket.
    pub path: PathBuf,
    /// The number of the user that the program runs as.
    pub peer: u32,
    /// Called before each connection.
    pub check_place: Arc<CheckPlace>,
    /// The time for one question, from the wait for a connection to the end of the answer.
    pub timeout: Duration,
    /// Connections, and so questions that the program has at once.
    pub connections_max: usize,
    /// How long a decision that was made from an answer may be used without news of the program.
    pub fresh: Duration,
    /// Counts what the store does.
    pub meter: Arc<Meter>,
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings").field("path", &self.path).field("peer", &self.peer).finish_non_exhaustive()
    }
}
