//! Where one-time tickets are redeemed: an insert that succeeds once in the whole farm.

use dtyp::FileTime;
use std::collections::HashMap;
use std::fmt;
use std::sync::{Mutex, PoisonError};

/// The id of a one-time ticket: its salt.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct TicketId(pub [u8; 32]);

impl fmt::Debug for TicketId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&dtyp::hex(&self.0))
    }
}

/// What an insert found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Redeemed {
    /// The id was not there. It is now.
    First,
    /// The id was there.
    Before,
}

/// The store could not answer, so the ticket is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct RedemptionFailed(pub String);

/// A store that all nodes of a farm share.
pub trait Redemption {
    /// Inserts an id, which has to be kept until `keep_until` at least. Of all calls with the same id in the
    /// whole farm, one gets [`Redeemed::First`]. An error means that this is not known: the ticket is
    /// refused.
    fn insert_once(
        &self,
        id: TicketId,
        now: FileTime,
        keep_until: FileTime,
    ) -> impl Future<Output = Result<Redeemed, RedemptionFailed>> + Send;
}

/// In memory, for one node alone and for tests.
#[derive(Debug)]
pub struct MemoryRedemption {
    ids: Mutex<HashMap<TicketId, FileTime>>,
    max: usize,
}

impl MemoryRedemption {
    /// Keeps at most `max` ids. If all of them are still to be kept, it refuses: an id that is forgotten
    /// could be redeemed again.
    pub fn new(max: usize) -> Self {
        Self { ids: Mutex::new(HashMap::new()), max }
    }

    fn insert(
        &self,
        id: TicketId,
        now: FileTime,
        keep_until: FileTime,
    ) -> Result<Redeemed, RedemptionFailed> {
        let mut ids = self.ids.lock().unwrap_or_else(PoisonError::into_inner);
        if ids.contains_key(&id) {
            return Ok(Redeemed::Before);
        }
        if ids.len() >= self.max {
            ids.retain(|_, keep_until| *keep_until > now);
        }
        if ids.len() >= self.max {
            return Err(RedemptionFailed(format!("{} tickets are redeemed and not expired", self.max)));
        }
        ids.insert(id, keep_until);
        Ok(Redeemed::First)
    }
}

impl Redemption for MemoryRedemption {
    async fn insert_once(
        &self,
        id: TicketId,
        now: FileTime,
        keep_until: FileTime,
    ) -> Result<Redeemed, RedemptionFailed> {
        self.insert(id, now, keep_until)
    }
}
