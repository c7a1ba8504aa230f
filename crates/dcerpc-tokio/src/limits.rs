use crate::connection_limiter::ConnectionLimits;
use std::time::Duration;

/// What connections may take, in number and time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections in all: each costs a task, a descriptor and some kilobytes. An eighth is for connections
    /// that have not finished a bind, an eighth for those that have and whose clients have proved nothing,
    /// the rest for clients that have proved who they are.
    pub connections_max: usize,
    /// Connections from one address whose clients have proved nothing, before a finished bind and after it.
    pub connections_per_address_max: usize,
    /// Connections of one account.
    pub connections_per_account_max: usize,
    /// From accept to a finished bind.
    pub bind_timeout: Duration,
    /// Without any byte from the peer.
    pub idle_timeout: Duration,
    /// The same of a peer that has not proved who it is; it needs a connection for a handshake or a look-up,
    /// not to keep.
    pub anonymous_idle_timeout: Duration,
    /// For the peer to take an answer.
    pub write_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections_max: 10_000,
            connections_per_address_max: 1_000,
            connections_per_account_max: 1_000,
            bind_timeout: Duration::from_secs(30),
            idle_timeout: Duration::from_secs(15 * 60),
            anonymous_idle_timeout: Duration::from_secs(2 * 60),
            write_timeout: Duration::from_secs(30),
        }
    }
}

/// One part in so many of [`Limits::connections_max`] is for connections in each of the two stages before a
/// proof. A client that sets up a secure channel is there for milliseconds.
const UNPROVED_SHARE: usize = 8;

impl Limits {
    pub(crate) fn of_connections(&self) -> ConnectionLimits {
        let unproved_max = self.connections_max.div_ceil(UNPROVED_SHARE);
        ConnectionLimits {
            unproved_max,
            started_max: unproved_max,
            unproved_per_address_max: self.connections_per_address_max,
            proved_max: self.connections_max.saturating_sub(2 * unproved_max),
            proved_per_identity_max: self.connections_per_account_max,
        }
    }
}
