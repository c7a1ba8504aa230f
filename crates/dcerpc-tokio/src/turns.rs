//! Turns of connections whose clients have proved nothing.
//!
//! The runtime polls tasks in the order in which they become ready, and lets each do about a hundred
//! operations at a time. Without turns, an answer to a proved client waits for that much work of each
//! connection that pipelines calls. With them, it waits for one call of each of [`UNPROVED_TURNS`]
//! connections.

use std::sync::Arc;
use tokio::sync::Semaphore;

/// Connections that may be about to do one thing each, of all connections whose clients have proved nothing.
/// More of them would do no more work a second where there are as many cores, and would delay proved clients
/// by one call each.
const UNPROVED_TURNS: usize = 8;

/// Gives turns in the order in which they are asked for.
#[derive(Clone, Debug)]
pub(crate) struct Turns(Arc<Semaphore>);

impl Turns {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Semaphore::new(UNPROVED_TURNS)))
    }

    /// Waits for a turn: to do one thing. The permit is held only until all other tasks that are ready had
    /// theirs, and never during a call, so a call that takes long delays no other connection.
    pub(crate) async fn wait(&self) {
        // The semaphore is never closed.
        let _permit = self.0.acquire().await;
        tokio::task::yield_now().await;
    }
}
