//! When keys are renewed, and by which account: for sessions in a table and in cookies alike.

use super::{Identity, Session, SessionKind};
use crate::fault::Reason;
use dtyp::FileTime;
use std::time::Duration;

/// For what a key is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// A call, or RST/SCT under a negotiated token. A key that is due for renewal is refused.
    Message,
    /// Renew and Cancel.
    Management,
}

impl Session {
    /// Whether its key, which is due for renewal at a time, is no longer used for messages of this purpose.
    /// Both times are of one clock.
    pub(super) fn is_renewal_due<T: Ord>(&self, purpose: Purpose, renewal: T, now: T) -> bool {
        self.kind == SessionKind::Established && purpose == Purpose::Message && renewal <= now
    }

    /// Whether Renew by this account is allowed.
    pub(super) fn check_renew(&self, identity: Option<&Identity>) -> Result<(), Reason> {
        if self.kind != SessionKind::Established {
            return Err(Reason::NotAllowed("a negotiated token is not renewed"));
        }
        if identity != self.identity.as_ref() {
            return Err(Reason::NotAllowed("a session is renewed by its own account"));
        }
        Ok(())
    }
}

/// When a key that is issued now, of a token that expires then, is due for renewal: after three quarters of
/// the time between. So it is due before the token expires.
pub fn renewal_due(issued: FileTime, expires: FileTime) -> FileTime {
    issued + renewal_after(expires.since(issued))
}

/// How long after its issue a key is due for renewal, of a token that expires after `left`.
pub(super) fn renewal_after(left: Duration) -> Duration {
    left * 3 / 4
}
