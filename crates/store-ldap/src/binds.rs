//! What became of the binds of an account, over all connections.

use crate::backoff::BindBackoff;
use std::hash::RandomState;
use std::sync::Arc;

/// The binds of an account. Each refused one counts at the directory, so that a few lock the account: all
/// stores with the same account have the same value. It outlives a store if the next one gets it, as after a
/// reload.
#[derive(Clone, Default)]
pub struct Binds(pub(crate) Arc<BindState>);

impl Binds {
    /// Whether a store has it, or something else does.
    pub fn is_used(&self) -> bool {
        Arc::strong_count(&self.0) > 1
    }
}

#[derive(Default)]
pub(crate) struct BindState {
    /// One bind at a time: of many with a secret that is wrong, one is refused and the others are not made.
    pub(crate) backoff: tokio::sync::Mutex<BindBackoff>,
    pub(crate) hasher: RandomState,
}
