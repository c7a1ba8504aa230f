//! What a session is called, and whose it is: one type for every way in which messages are secured.

mod cookie;
mod known;
mod renewal;
mod table;

pub use cookie::{
    BoxFuture, CookieSessions, CookieSettings, CookieState, DETAIL_LEN_MAX, LIFETIME_MAX, SharedTokens,
    StoreFailed, TicketSealer, TokenHash,
};
pub use known::KnownSessions;
pub use renewal::{Purpose, renewal_due};
pub use table::{
    Ended, Generation, Holder, Keyed, NewSession, PENDING_MAX, Refusal, Renewal, SESSIONS_MAX, SessionTimes,
    Sessions,
};

use dtyp::FileTime;
use std::fmt;
use std::sync::Arc;

/// How the token of a session came to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SessionKind {
    /// By a TLS negotiation: the token protects calls, or the request for an established one.
    Negotiated,
    /// By RST/SCT.
    Established,
    /// There is no token: each message has its own EncryptedKey.
    OneShot,
}

impl SessionKind {
    /// As the gateway sends it to the application.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Negotiated => "negotiated",
            Self::Established => "established",
            Self::OneShot => "one-shot",
        }
    }
}

impl fmt::Display for SessionKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// By what a client proved who it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Credential {
    /// By nothing.
    None,
    /// By a UsernameToken.
    UserName,
    /// By a client certificate.
    Certificate,
}

impl Credential {
    /// One word for logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::UserName => "username",
            Self::Certificate => "certificate",
        }
    }
}

/// An account that a client proved to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The account by which it is told from others, such as its SID. Renew needs the same one.
    pub account: String,
    /// What the caller knows of it beside, such as name and groups, in the caller's form.
    pub detail: Arc<[u8]>,
}

/// A session by its names. The name is no secret and no proof: it is told to the application, and never taken
/// from what a client says outside of a verified message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// How its token came to be.
    pub kind: SessionKind,
    /// `c:Identifier` of the token; of a one-shot message its EncryptedKeySHA1 in base64. Renew keeps it.
    pub name: String,
    /// `c:Instance`: the generation of the key after Renew.
    pub instance: Option<String>,
    /// The name of the negotiated token under which it was established.
    pub parent: Option<String>,
    /// Whose it is; none of an anonymous client.
    pub identity: Option<Identity>,
    /// How that was proved.
    pub credential: Credential,
    /// When the token was issued, or when the one-shot message was created.
    pub since: FileTime,
    /// When the token expires, or the one-shot message. Renew does not change it.
    pub until: FileTime,
}

impl Session {
    /// The session of one message under an EncryptedKey.
    pub fn one_shot(
        encrypted_key_sha1: String,
        identity: Option<Identity>,
        credential: Credential,
        (created, expires): (FileTime, FileTime),
    ) -> Self {
        Self {
            kind: SessionKind::OneShot,
            name: encrypted_key_sha1,
            instance: None,
            parent: None,
            identity,
            credential,
            since: created,
            until: expires,
        }
    }
}

/// Why a session ended before its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EndReason {
    /// It was not used for too long.
    Idle,
    /// Messages under it did not decrypt.
    Failures,
    /// An operator ended it, or the service stops.
    Operator,
    /// Its account is not what it was when the session was opened.
    Account,
    /// The table was full.
    Evicted,
}

impl fmt::Display for EndReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Idle => "idle timeout",
            Self::Failures => "too many messages failed to decrypt",
            Self::Operator => "ended by the operator",
            Self::Account => "the account or its password changed",
            Self::Evicted => "evicted",
        })
    }
}
