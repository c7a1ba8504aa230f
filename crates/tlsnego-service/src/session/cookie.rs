//! Sessions that every node of a farm serves: the token's cookie holds its state, sealed under a root that
//! the nodes share.
//!
//! A node that opens a cookie has no memory of the session. So what ends a session before its time is in a
//! list that the nodes share, and what was accepted before, too. If one of them does not answer or is full,
//! the message is refused.

use super::renewal::{Purpose, renewal_due};
use super::table::{Keyed, Refusal};
use super::{Credential, Identity, Session, SessionKind};
use crate::fault::Reason;
use crate::key::Key;
use crate::names::CONTEXT_LEN_MAX;
use dtyp::{Decode, DecodeError, DecodeErrorKind, Encode, FileTime, Reader};
use std::sync::Arc;
use std::time::Duration;
use zeroize::Zeroizing;

/// Most octets of an identity's detail in a cookie: the cookie travels in each request.
pub const DETAIL_LEN_MAX: usize = 16 << 10;

/// How far the clocks of two nodes may differ. What is kept for all nodes is kept for twice as long beyond
/// its time: one node may be ahead when it forgets, and another one behind when it asks.
pub const NODE_SKEW: Duration = Duration::from_secs(60);

const VERSION: u8 = 1;
/// Octets of the longest state: fixed fields, the key, four texts, and the detail, each with its length.
const STATE_LEN_MAX: usize = 3 + 3 * 8 + (4 + 32) + 4 * (1 + 4 + CONTEXT_LEN_MAX) + (4 + DETAIL_LEN_MAX);

/// Seals the state of sessions under the farm's ticket root.
pub trait TicketSealer {
    /// Seals `state`. The ticket is not opened from `expires` on.
    fn seal(&self, state: &[u8], expires: FileTime) -> Result<Vec<u8>, String>;

    /// The state in a ticket that a node of this farm sealed for this purpose, and that has not expired.
    fn open(&self, ticket: &[u8], now: FileTime) -> Result<Zeroizing<Vec<u8>>, String>;
}

/// A store could not answer, or a store or a limit of this process is full.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct StoreFailed(pub String);

impl From<StoreFailed> for Reason {
    fn from(failed: StoreFailed) -> Self {
        Self::Store(failed.0)
    }
}

/// A token, or one generation of its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TokenId<'a> {
    /// Name of the session.
    pub name: &'a str,
    /// The generation: `Some(None)` is the one without `c:Instance`. None for all of them.
    pub generation: Option<Option<&'a str>>,
}

/// Tokens that ended before their time, in a store that all nodes share.
pub trait EndedTokens {
    /// Ends a token at a time. It has to be kept until `keep_until` at least. If it was ended before, the
    /// earlier end counts.
    fn end(
        &self,
        token: TokenId<'_>,
        at: FileTime,
        keep_until: FileTime,
    ) -> impl Future<Output = Result<(), StoreFailed>> + Send;

    /// The earliest end of a session or of this generation of it; none if it did not end before its time.
    fn end_of(
        &self,
        name: &str,
        instance: Option<&str>,
    ) -> impl Future<Output = Result<Option<FileTime>, StoreFailed>> + Send;
}

/// Messages that were accepted, in a store that all nodes share.
pub trait SharedReplay {
    /// Inserts the value of a primary signature, which has to be kept until `keep_until` at least. Of all
    /// calls with the same value in the whole farm, one gets true.
    fn insert_once(
        &self,
        signature_value: &[u8],
        now: FileTime,
        keep_until: FileTime,
    ) -> impl Future<Output = Result<bool, StoreFailed>> + Send;
}

/// A session with its key, as a cookie holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CookieState {
    /// The session.
    pub session: Session,
    /// The key of this generation.
    pub key: Key,
    /// From when on the key is due for renewal.
    pub renewal: FileTime,
}

/// Sessions in cookies.
#[derive(Debug)]
pub struct CookieSessions<S, E, R> {
    sealer: S,
    ended: E,
    replay: R,
}

impl<S: TicketSealer, E: EndedTokens, R: SharedReplay> CookieSessions<S, E, R> {
    /// Over a sealer and the two shared stores.
    pub const fn new(sealer: S, ended: E, replay: R) -> Self {
        Self { sealer, ended, replay }
    }

    /// The cookie of a session.
    pub fn seal(&self, state: &CookieState) -> Result<Vec<u8>, Reason> {
        // Room for all of it: a vector that grows leaves copies of the key behind.
        let mut octets = Zeroizing::new(Vec::with_capacity(STATE_LEN_MAX));
        state.encode(&mut octets);
        // What cannot be read again is not issued.
        CookieState::read(&octets).map_err(|error| Reason::Cookie(error.to_string()))?;
        self.sealer.seal(&octets, state.session.until).map_err(Reason::Cookie)
    }

    /// Opens the cookie of a token with this Identifier and Instance. A key that is due for renewal opens no
    /// message, unless it was renewed and counts for the rest of its rollover.
    pub async fn open(
        &self,
        cookie: &[u8],
        (name, instance): (&str, Option<&str>),
        purpose: Purpose,
        now: FileTime,
    ) -> Result<CookieState, Refusal> {
        let octets = self.sealer.open(cookie, now).map_err(Reason::Cookie)?;
        let state = CookieState::read(&octets).map_err(|error| Reason::Cookie(error.to_string()))?;
        let session = &state.session;
        if session.name != name || session.instance.as_deref() != instance {
            return Err(Reason::Cookie("it is the cookie of another token".to_owned()).into());
        }
        if session.until <= now {
            return Err(Reason::UnknownToken.into());
        }
        match self.ended.end_of(name, instance).await.map_err(Reason::from)? {
            Some(end) if end <= now => Err(Reason::UnknownToken.into()),
            None if session.is_renewal_due(purpose, state.renewal, now) => {
                let secured_by = Keyed { session: Arc::new(session.clone()), key: state.key.clone() };
                Err(Refusal { reason: Reason::RenewalDue, secured_by: Some(secured_by) })
            }
            _ => Ok(state),
        }
    }

    /// A call under the token was verified: it counts once in the farm.
    pub async fn accept(
        &self,
        signature_value: &[u8],
        keep_until: FileTime,
        now: FileTime,
    ) -> Result<(), Reason> {
        match self.replay.insert_once(signature_value, now, keep_until + 2 * NODE_SKEW).await? {
            true => Ok(()),
            false => Err(Reason::Replay),
        }
    }

    /// Ends a session in the whole farm: Cancel under itself, too many failures, or an operator.
    pub async fn end(&self, session: &Session, now: FileTime) -> Result<(), Reason> {
        let token = TokenId { name: &session.name, generation: None };
        Ok(self.ended.end(token, now, session.until + 2 * NODE_SKEW).await?)
    }

    /// The state with a new key. The one before it counts for `rollover`; if that is not written, there is no
    /// renewal.
    pub async fn renew(
        &self,
        state: &CookieState,
        identity: Option<&Identity>,
        (instance, key): (String, Key),
        rollover: Duration,
        now: FileTime,
    ) -> Result<CookieState, Reason> {
        let session = &state.session;
        session.check_renew(identity)?;
        let token = TokenId { name: &session.name, generation: Some(session.instance.as_deref()) };
        self.ended.end(token, now + rollover, session.until + 2 * NODE_SKEW).await?;
        let renewal = renewal_due(now, session.until);
        Ok(CookieState { session: Session { instance: Some(instance), ..session.clone() }, key, renewal })
    }
}

impl CookieState {
    fn read(octets: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(octets);
        let state = Self::decode(&mut reader)?;
        reader.finish("cookie")?;
        Ok(state)
    }
}

/// Version (1), kind (1), credential (1), since, until, renewal (8 each), key, name, then instance, parent
/// and identity where they are there. Integers are little-endian; texts and octets have their length before
/// them in 4 octets.
impl Encode for CookieState {
    fn encode(&self, out: &mut Vec<u8>) {
        let Session { kind, name, instance, parent, identity, credential, since, until } = &self.session;
        out.push(VERSION);
        out.push(match kind {
            SessionKind::Negotiated => 1,
            SessionKind::Established => 2,
            SessionKind::OneShot => 3,
        });
        out.push(match credential {
            Credential::None => 0,
            Credential::UserName => 1,
            Credential::Certificate => 2,
        });
        for time in [since, until, &self.renewal] {
            out.extend(time.0.to_le_bytes());
        }
        put(out, self.key.as_bytes());
        put(out, name.as_bytes());
        for text in [instance, parent] {
            put_optional(out, text.as_ref().map(String::as_bytes));
        }
        put_optional(out, identity.as_ref().map(|identity| identity.account.as_bytes()));
        put(out, identity.as_ref().map_or(&[], |identity| &identity.detail));
    }
}

impl Decode<'_> for CookieState {
    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let wrong = |reader: &Reader<'_>, what| Err(reader.error(what, DecodeErrorKind::BadValue));
        if reader.u8("version")? != VERSION {
            return wrong(reader, "version");
        }
        let kind = match reader.u8("kind")? {
            1 => SessionKind::Negotiated,
            2 => SessionKind::Established,
            _ => return wrong(reader, "kind"),
        };
        let credential = match reader.u8("credential")? {
            0 => Credential::None,
            1 => Credential::UserName,
            2 => Credential::Certificate,
            _ => return wrong(reader, "credential"),
        };
        let [since, until, renewal] = [(); 3].map(|()| reader.u64("time").map(FileTime));
        let (since, until, renewal) = (since?, until?, renewal?);
        let key = octets(reader, "key", 32)?;
        let Some(key) = Key::new(key) else { return wrong(reader, "key") };
        let name = text(reader, "name")?;
        let instance = optional(reader, "instance", text)?;
        let parent = optional(reader, "parent", text)?;
        let account = optional(reader, "account", text)?;
        let detail: Arc<[u8]> = octets(reader, "detail", DETAIL_LEN_MAX)?.into();
        let identity = match account {
            Some(account) => Some(Identity { account, detail }),
            None if detail.is_empty() => None,
            None => return wrong(reader, "detail"),
        };
        let session = Session { kind, name, instance, parent, identity, credential, since, until };
        Ok(Self { session, key, renewal })
    }
}

fn put(out: &mut Vec<u8>, octets: &[u8]) {
    out.extend(u32::try_from(octets.len()).unwrap_or(u32::MAX).to_le_bytes());
    out.extend(octets);
}

fn put_optional(out: &mut Vec<u8>, octets: Option<&[u8]>) {
    out.push(u8::from(octets.is_some()));
    if let Some(octets) = octets {
        put(out, octets);
    }
}

fn octets<'a>(reader: &mut Reader<'a>, what: &'static str, max: usize) -> Result<&'a [u8], DecodeError> {
    let len = reader.u32(what)? as usize;
    if len > max {
        return Err(reader.error(what, DecodeErrorKind::TooLong));
    }
    reader.take(what, len)
}

fn text(reader: &mut Reader<'_>, what: &'static str) -> Result<String, DecodeError> {
    let octets = octets(reader, what, CONTEXT_LEN_MAX)?;
    let text = std::str::from_utf8(octets).map_err(|_| reader.error(what, DecodeErrorKind::BadText))?;
    Ok(text.to_owned())
}

fn optional<T>(
    reader: &mut Reader<'_>,
    what: &'static str,
    read: impl FnOnce(&mut Reader<'_>, &'static str) -> Result<T, DecodeError>,
) -> Result<Option<T>, DecodeError> {
    match reader.u8(what)? {
        0 => Ok(None),
        1 => read(reader, what).map(Some),
        _ => Err(reader.error(what, DecodeErrorKind::BadValue)),
    }
}
