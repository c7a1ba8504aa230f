//! Where the tokens of a service are: in a table of this process, or in cookies that any node of a farm
//! opens.

use crate::trust;
use std::net::IpAddr;
use std::sync::Arc;
use tlsnego_service::Moment;
use tlsnego_service::fault::Reason;
use tlsnego_service::session::{
    CookieSessions, EndReason, Ended, Generation, Keyed, KnownSessions, NewSession, Purpose, Refusal,
    Renewal, Session, SessionKind, SessionTimes, Sessions, StoreFailed,
};
use xml_security::names::{CONVERSATION, SECURITY};
use xml_security::{CONTEXTS_MAX, ContextToken, Document, NodeId, TokenName};

/// The tokens of one service.
#[derive(Debug)]
pub struct Tokens(Place);

#[derive(Debug)]
enum Place {
    Table(Sessions),
    Cookies { sessions: CookieSessions, known: KnownSessions, times: SessionTimes },
}

/// A token, and its cookie where it has one.
pub(super) struct Issued {
    pub(super) session: Arc<Session>,
    pub(super) cookie: Option<Vec<u8>>,
}

/// Tokens that a message carries, each with what its cookie opened to. There are none if tokens are in a
/// table.
pub(super) type Carried = Vec<(TokenName, Result<Keyed, Refusal>)>;

/// What became of the end of a session by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// It was known here, and has ended.
    Ended,
    /// It is not known here. If there is a session of this name, no node serves it any more.
    Noted,
    /// There is none, or it has ended before.
    Unknown,
}

impl Tokens {
    pub(super) fn in_table(times: SessionTimes) -> Self {
        Self(Place::Table(Sessions::new(times)))
    }

    pub(super) fn in_cookies(sessions: CookieSessions, times: SessionTimes) -> Self {
        Self(Place::Cookies { sessions, known: KnownSessions::default(), times })
    }

    /// The sessions in cookies, if they are there.
    pub(super) const fn cookies(&self) -> Option<&CookieSessions> {
        match &self.0 {
            Place::Table(_) => None,
            Place::Cookies { sessions, .. } => Some(sessions),
        }
    }

    /// Adds a token that was negotiated, or established under another one or an EncryptedKey of the name
    /// `parent`. In a table a negotiated token ends with that: its purpose is fulfilled. One in a cookie
    /// expires.
    pub(super) fn add(&self, new: NewSession, parent: Option<&str>, now: Moment) -> Result<Issued, Reason> {
        let (sessions, known, times) = match (&self.0, parent) {
            (Place::Table(sessions), None) => {
                return Ok(Issued { session: sessions.negotiated(new, now)?, cookie: None });
            }
            (Place::Table(sessions), Some(parent)) => {
                return Ok(Issued { session: sessions.establish(new, parent, now)?, cookie: None });
            }
            (Place::Cookies { sessions, known, times }, _) => (sessions, known, times),
        };
        let kind = if parent.is_some() { SessionKind::Established } else { SessionKind::Negotiated };
        let NewSession { name, key, identity, credential, source } = new;
        let session = Arc::new(Session {
            kind,
            name,
            instance: None,
            parent: parent.map(str::to_owned),
            identity,
            credential,
            since: now.wall,
            until: now.wall + times.of(kind),
        });
        let cookie = sessions.seal(&session, &key, now.wall)?;
        known.seen(&session, source);
        Ok(Issued { session, cookie: Some(cookie) })
    }

    /// Opens the cookies of the tokens in a message, of which nothing was verified.
    pub(super) async fn carried(
        &self,
        (document, header): (&Document, NodeId),
        purpose: Purpose,
        now: Moment,
    ) -> Carried {
        let Place::Cookies { sessions, .. } = &self.0 else { return Vec::new() };
        let mut carried = Vec::new();
        for (name, cookie) in tokens_of(document, header) {
            let TokenName::Context { identifier, instance } = &name else { continue };
            let opened = match cookie {
                Some(cookie) => {
                    sessions.open(&cookie, (identifier, instance.as_deref()), purpose, now.wall).await
                }
                None => Err(Reason::Cookie("the token has no cookie".to_owned()).into()),
            };
            carried.push((name, opened));
        }
        carried
    }

    /// The key for a message that names this token.
    pub(super) fn find(
        &self,
        token: ContextToken<'_>,
        carried: &Carried,
        purpose: Purpose,
        now: Moment,
    ) -> Result<Keyed, Refusal> {
        let ContextToken { identifier, instance, element } = token;
        if let Place::Table(sessions) = &self.0 {
            let generation = match (element, instance) {
                (None, None) => Generation::Newest,
                (_, instance) => Generation::Exact(instance),
            };
            return sessions.find(identifier, generation, purpose, now);
        }
        let is_it = |name: &TokenName| match name {
            TokenName::Context { identifier: it, instance: of } => {
                it == identifier && of.as_deref() == instance
            }
            TokenName::EncryptedKey(_) => false,
        };
        let opened = carried.iter().find(|(name, _)| is_it(name)).map(|(_, opened)| opened.clone());
        // Without its element in the message there is no cookie.
        opened.unwrap_or_else(|| Err(Reason::UnknownToken.into()))
    }

    /// A message under the token was verified.
    pub(super) fn used(&self, session: &Arc<Session>, source: IpAddr, now: Moment) {
        match &self.0 {
            Place::Table(sessions) => sessions.used(&session.name, now),
            Place::Cookies { known, .. } => known.seen(session, source),
        }
    }

    /// A message under a token of the table did not decrypt or verify.
    pub(super) fn failed_in_table(&self, name: &str) {
        if let Place::Table(sessions) = &self.0 {
            sessions.failed(name);
        }
    }

    /// A message under a token with a cookie did not decrypt or verify.
    pub(super) async fn failed_in_cookie(
        &self,
        session: &Arc<Session>,
        now: Moment,
    ) -> Result<(), StoreFailed> {
        let Place::Cookies { sessions, known, .. } = &self.0 else { return Ok(()) };
        if sessions.failed(session, now.wall).await? {
            known.ended(session, Some(EndReason::Failures));
        }
        Ok(())
    }

    /// Gives a session a new key.
    pub(super) async fn renew(
        &self,
        session: &Session,
        renewal: Renewal<'_>,
        (source, now): (IpAddr, Moment),
    ) -> Result<Issued, Reason> {
        match &self.0 {
            Place::Table(sessions) => {
                Ok(Issued { session: sessions.renew(&session.name, renewal, now)?, cookie: None })
            }
            Place::Cookies { sessions, known, .. } => {
                let Renewal { identity, instance, key } = renewal;
                let (session, cookie) = sessions.renew(session, identity, (instance, key), now.wall).await?;
                let session = Arc::new(session);
                known.seen(&session, source);
                Ok(Issued { session, cookie: Some(cookie) })
            }
        }
    }

    /// The purpose of a bootstrap token is fulfilled. That it is gone already is no error. One in a cookie
    /// expires.
    pub(super) fn bootstrapped(&self, name: &str) {
        if let Place::Table(sessions) = &self.0 {
            let _ = sessions.cancel(name, name);
        }
    }

    /// Cancel: the token that it names has to be the one under which the message was verified.
    pub(super) async fn cancel(
        &self,
        target: &str,
        verified_by: &Arc<Session>,
        now: Moment,
    ) -> Result<Arc<Session>, Reason> {
        match &self.0 {
            Place::Table(sessions) => sessions.cancel(target, &verified_by.name),
            Place::Cookies { .. } if target != verified_by.name => {
                Err(Reason::NotAllowed("a token is cancelled under itself"))
            }
            Place::Cookies { sessions, known, .. } => {
                let is_anonymous = verified_by.identity.is_none();
                sessions.end(target, Some(verified_by.until), now.wall, is_anonymous).await?;
                known.ended(verified_by, None);
                Ok(Arc::clone(verified_by))
            }
        }
    }

    /// Ends a session before its time, in the whole farm. The name of a one-shot message ends nothing.
    pub async fn end(&self, session: &Arc<Session>, why: EndReason, now: Moment) -> Result<(), StoreFailed> {
        if session.kind == SessionKind::OneShot {
            return Ok(());
        }
        match &self.0 {
            Place::Table(sessions) => _ = sessions.end_before_time(&session.name, why),
            Place::Cookies { sessions, known, .. } => {
                sessions.end(&session.name, Some(session.until), now.wall, false).await?;
                known.ended(session, Some(why));
            }
        }
        Ok(())
    }

    /// Ends a session for an operator, who knows its name.
    pub async fn end_by_name(&self, name: &str, now: Moment) -> Result<Ending, StoreFailed> {
        match &self.0 {
            Place::Table(sessions) => Ok(match sessions.end(name) {
                true => Ending::Ended,
                false => Ending::Unknown,
            }),
            Place::Cookies { sessions, known, .. } => {
                if sessions.is_ended(name, now.wall).await? {
                    return Ok(Ending::Unknown);
                }
                if let Some(session) = known.get(name) {
                    self.end(&session, EndReason::Operator, now).await?;
                    return Ok(Ending::Ended);
                }
                sessions.end(name, None, now.wall, false).await?;
                Ok(Ending::Noted)
            }
        }
    }

    /// A session by its name, if it is served; of sessions in cookies, if it was seen here.
    pub async fn get(&self, name: &str, now: Moment) -> Result<Option<Arc<Session>>, StoreFailed> {
        match &self.0 {
            Place::Table(sessions) => Ok(sessions.get(name)),
            Place::Cookies { sessions, known, .. } => match known.get(name) {
                Some(session) if !sessions.is_ended(name, now.wall).await? => Ok(Some(session)),
                _ => Ok(None),
            },
        }
    }

    /// All sessions, in no order; of sessions in cookies, those that were seen here and that no node ended.
    pub async fn list(&self, now: Moment) -> Result<Vec<Arc<Session>>, StoreFailed> {
        match &self.0 {
            Place::Table(sessions) => Ok(sessions.list()),
            Place::Cookies { sessions, known, .. } => {
                let mut listed = known.list();
                listed.retain(|session| now.wall < session.until);
                let mut served = Vec::with_capacity(listed.len());
                for session in listed {
                    if !sessions.is_ended(&session.name, now.wall).await? {
                        served.push(session);
                    }
                }
                Ok(served)
            }
        }
    }

    /// Sessions, for a gauge; of sessions in cookies, those that were seen here.
    pub fn len(&self) -> usize {
        match &self.0 {
            Place::Table(sessions) => sessions.len(),
            Place::Cookies { known, .. } => known.len(),
        }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Sessions that were established and not used yet, for a gauge. None in cookies: they take no place.
    pub fn pending(&self) -> usize {
        match &self.0 {
            Place::Table(sessions) => sessions.pending(),
            Place::Cookies { .. } => 0,
        }
    }

    /// Ends what is over, and returns all that ended here since the last call, except what was cancelled. Of
    /// sessions in cookies those that expired are not among it: any node may have served them.
    pub(super) fn expire(&self, now: Moment) -> Vec<Ended> {
        match &self.0 {
            Place::Table(sessions) => sessions.expire(now),
            Place::Cookies { known, .. } => known.expire(now.wall),
        }
    }
}

/// The names and cookies of the tokens in a message. The reader of the message refuses more of them.
fn tokens_of(document: &Document, header: NodeId) -> Vec<(TokenName, Option<Vec<u8>>)> {
    let Some(security) = document.only(header, SECURITY.name("Security")) else { return Vec::new() };
    let is_token = |node: &NodeId| document.is(*node, CONVERSATION.name("SecurityContextToken"));
    let tokens = document.elements(security).filter(is_token).take(CONTEXTS_MAX);
    let read = |node| Some((TokenName::read_context(document, node).ok()?, trust::cookie(document, node)));
    tokens.filter_map(read).collect()
}
