//! Sessions that every node of a farm serves: the token's cookie holds its state, sealed under a root that
//! the nodes share.
//!
//! A node that opens a cookie has no memory of the session. So what ends a session before its time is in a
//! list that the nodes share, and what was accepted before, too. If one of them does not answer or is full,
//! the message is refused.

use super::renewal::{Purpose, renewal_due};
use super::table::{Keyed, Refusal};
use super::{Credential, Identity, Session, SessionKind};
use crate::failures::FAILURES_MAX;
use crate::fault::Reason;
use crate::key::{Key, KeySize};
use crate::names::CONTEXT_LEN_MAX;
use dtyp::{Decode, DecodeError, DecodeErrorKind, Encode, FileTime, Reader};
use sha2::{Digest, Sha256};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use zeroize::Zeroizing;

/// Most octets of an identity's detail in a cookie: the cookie travels in each request.
pub const DETAIL_LEN_MAX: usize = 16 << 10;
/// Longest life of a session in a cookie. For so long is kept that a name was ended of which no more is
/// known.
pub const LIFETIME_MAX: Duration = Duration::from_secs(24 * 3600);

const VERSION: u8 = 1;
/// Octets of the longest state: fixed fields, the key, four texts, and the detail, each with its length.
const STATE_LEN_MAX: usize = 3 + 3 * 8 + (4 + 32) + 4 * (1 + 4 + CONTEXT_LEN_MAX) + (4 + DETAIL_LEN_MAX);

/// The future of an object-safe async method.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Seals the state of sessions under the farm's ticket root.
pub trait TicketSealer: Send + Sync {
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

/// SHA-256 of a message, or of the name of a session or of one generation of its key.
pub type TokenHash = [u8; 32];

/// What all nodes of a farm know together: messages that were accepted, and tokens that ended before their
/// time. If it does not answer, or has no room, the message that asks is refused.
pub trait SharedTokens: Send + Sync {
    /// Since when it knows everything. It may have lost what was before.
    fn begun(&self) -> FileTime;

    /// Inserts a message, which has to be kept until `keep_until` at least. Of all calls with the same one in
    /// the whole farm, one gets true.
    fn insert_message(
        &self,
        message: TokenHash,
        now: FileTime,
        keep_until: FileTime,
    ) -> BoxFuture<'_, Result<bool, StoreFailed>>;

    /// Ends a token at a time. It has to be kept until `keep_until` at least. If it was ended before, the
    /// earlier end counts. `is_anonymous`: any client can cause it any number of times, so it never takes the
    /// room that other ends need.
    fn end_token(
        &self,
        token: TokenHash,
        at: FileTime,
        now: FileTime,
        keep_until: FileTime,
        is_anonymous: bool,
    ) -> BoxFuture<'_, Result<(), StoreFailed>>;

    /// Counts a failure of a token, and returns how many it has in the farm. With `max` of them it ends. As
    /// to room it is anonymous.
    fn fail_token(
        &self,
        token: TokenHash,
        max: u32,
        now: FileTime,
        keep_until: FileTime,
    ) -> BoxFuture<'_, Result<u32, StoreFailed>>;

    /// The earliest end of these tokens; none if none ended before its time.
    fn end_of(&self, tokens: [TokenHash; 2]) -> BoxFuture<'_, Result<Option<FileTime>, StoreFailed>>;
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

/// What the sessions of a service have in common. A node that is configured otherwise does not serve them.
#[derive(Clone, Copy, Debug)]
pub struct CookieSettings {
    /// By what its clients prove who they are.
    pub credential: Credential,
    /// The size of all keys.
    pub key_size: KeySize,
    /// How far two clocks may differ, those of two nodes included.
    pub skew: Duration,
    /// For so long a key counts after its renewal.
    pub rollover: Duration,
}

/// Sessions in cookies.
pub struct CookieSessions {
    sealer: Arc<dyn TicketSealer>,
    shared: Arc<dyn SharedTokens>,
    settings: CookieSettings,
}

impl std::fmt::Debug for CookieSessions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CookieSessions").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl CookieSessions {
    /// Over a sealer and the shared store.
    pub fn new(
        sealer: Arc<dyn TicketSealer>,
        shared: Arc<dyn SharedTokens>,
        settings: CookieSettings,
    ) -> Self {
        Self { sealer, shared, settings }
    }

    /// The cookie of a session with a key that is issued now.
    pub fn seal(&self, session: &Session, key: &Key, now: FileTime) -> Result<Vec<u8>, Reason> {
        if session.until.since(session.since) > LIFETIME_MAX {
            return Err(Reason::Cookie("the session lives too long for a cookie".to_owned()));
        }
        let renewal = renewal_due(now, session.until);
        let state = CookieState { session: session.clone(), key: key.clone(), renewal };
        // Room for all of it: a vector that grows leaves copies of the key behind.
        let mut octets = Zeroizing::new(Vec::with_capacity(STATE_LEN_MAX));
        state.encode(&mut octets);
        // What cannot be read again is not issued.
        CookieState::read(&octets).map_err(|error| Reason::Cookie(error.to_string()))?;
        self.sealer.seal(&octets, session.until).map_err(Reason::Cookie)
    }

    /// Opens the cookie of a token with this Identifier and Instance. A key that is due for renewal opens no
    /// message, unless it was renewed and counts for the rest of its rollover.
    pub async fn open(
        &self,
        cookie: &[u8],
        (name, instance): (&str, Option<&str>),
        purpose: Purpose,
        now: FileTime,
    ) -> Result<Keyed, Refusal> {
        let octets = self.sealer.open(cookie, now).map_err(Reason::Cookie)?;
        let state = CookieState::read(&octets).map_err(|error| Reason::Cookie(error.to_string()))?;
        let CookieState { session, key, renewal } = state;
        if session.name != name || session.instance.as_deref() != instance {
            return Err(Reason::Cookie("it is the cookie of another token".to_owned()).into());
        }
        if session.until <= now {
            return Err(Reason::UnknownToken.into());
        }
        self.check(&session, &key)?;
        let tokens = [token_hash(name, None), token_hash(name, Some(instance))];
        let end = self.shared.end_of(tokens).await.map_err(Reason::from)?;
        let is_due = session.is_renewal_due(purpose, renewal, now);
        let keyed = Keyed { session: Arc::new(session), key };
        match end {
            Some(end) if end <= now => Err(Reason::UnknownToken.into()),
            None if is_due => Err(Refusal { reason: Reason::RenewalDue, secured_by: Some(keyed) }),
            _ => Ok(keyed),
        }
    }

    /// Whether this node would have issued the token. The shared store may have begun after it, and then it
    /// is not known whether the token was ended.
    fn check(&self, session: &Session, key: &Key) -> Result<(), Reason> {
        let CookieSettings { credential, key_size, .. } = self.settings;
        let proves = match (session.kind, credential) {
            (SessionKind::Negotiated, Credential::UserName) => Credential::None,
            (_, credential) => credential,
        };
        let refused = |what: &str| Err(Reason::Cookie(what.to_owned()));
        if session.credential != proves {
            return refused("its session was opened with another kind of credential");
        }
        if key.as_bytes().len() != key_size.octets() {
            return refused("its session was opened with another algorithm suite");
        }
        if session.since < self.shared.begun() {
            return refused("its session was opened before the store of ended sessions was made");
        }
        Ok(())
    }

    /// A message that was created then was verified: it counts once in the farm.
    pub async fn accept(
        &self,
        signature_value: &[u8],
        (created, keep_until): (FileTime, FileTime),
        now: FileTime,
    ) -> Result<(), Reason> {
        // What was accepted before the store begun is not known.
        if created < self.shared.begun() {
            return Err(Reason::Replay);
        }
        let message = Sha256::digest(signature_value).into();
        match self.shared.insert_message(message, now, keep_until + self.settings.skew).await? {
            true => Ok(()),
            false => Err(Reason::Replay),
        }
    }

    /// Whether a session was ended in the farm before its time.
    pub async fn is_ended(&self, name: &str, now: FileTime) -> Result<bool, StoreFailed> {
        let token = token_hash(name, None);
        Ok(self.shared.end_of([token, token]).await?.is_some_and(|end| end <= now))
    }

    /// Ends a session in the whole farm: Cancel under itself, or an operator. Of a name alone it is not known
    /// until when its cookie counts.
    pub async fn end(
        &self,
        name: &str,
        until: Option<FileTime>,
        now: FileTime,
        is_anonymous: bool,
    ) -> Result<(), StoreFailed> {
        let keep_until = until.unwrap_or(now + LIFETIME_MAX) + self.settings.skew;
        self.shared.end_token(token_hash(name, None), now, now, keep_until, is_anonymous).await
    }

    /// A message under the session did not decrypt or verify. True if that was the one that ended it.
    pub async fn failed(&self, session: &Session, now: FileTime) -> Result<bool, StoreFailed> {
        let (token, keep_until) = (token_hash(&session.name, None), session.until + self.settings.skew);
        Ok(self.shared.fail_token(token, FAILURES_MAX, now, keep_until).await? == FAILURES_MAX)
    }

    /// The session with a new key, and its cookie. The key before it counts for the rollover; if that is not
    /// written, there is no renewal.
    pub async fn renew(
        &self,
        session: &Session,
        identity: Option<&Identity>,
        (instance, key): (String, Key),
        now: FileTime,
    ) -> Result<(Session, Vec<u8>), Reason> {
        session.check_renew(identity)?;
        let renewed = Session { instance: Some(instance), ..session.clone() };
        let cookie = self.seal(&renewed, &key, now)?;
        let before = token_hash(&session.name, Some(session.instance.as_deref()));
        let keep_until = session.until + self.settings.skew;
        self.shared.end_token(before, now + self.settings.rollover, now, keep_until, false).await?;
        Ok((renewed, cookie))
    }
}

/// Names a session, or the generation of its key with this `c:Instance` or without one.
fn token_hash(name: &str, generation: Option<Option<&str>>) -> TokenHash {
    let mut hash = Sha256::new();
    hash.update((name.len() as u64).to_le_bytes());
    hash.update(name);
    hash.update([match generation {
        None => 0,
        Some(None) => 1,
        Some(Some(_)) => 2,
    }]);
    hash.update(generation.flatten().unwrap_or_default());
    hash.finalize().into()
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
