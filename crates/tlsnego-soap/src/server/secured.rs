//! Messages under a token: who sends them, and what they may do.

use super::tokens::{Carried, Issued, Tokens};
use super::{Answer, Binding, Event, Failure, Reply, Server};
use crate::http::{HttpRequest, HttpResponse};
use crate::message::{Draft, Incoming, Relation};
use crate::names::{CANCEL, CANCELLED, ESTABLISH, ESTABLISHED, RENEW, RENEWED, TrustVersion};
use crate::refusal::{Refusal, SoapFault, shortened};
use crate::trust::{self, SessionRequest, SessionResponse};
use crate::{Random, local_id, urn};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustls_pki_types::CertificateDer;
use std::net::IpAddr;
use std::sync::Arc;
use tlsnego_service::Moment;
use tlsnego_service::failures::Failures;
use tlsnego_service::fault::Reason;
use tlsnego_service::key::{Key, KeySize};
use tlsnego_service::message::check_token_type;
use tlsnego_service::names::{self, TRUST};
use tlsnego_service::session::{
    Credential, Identity, Keyed, NewSession, Purpose, Refusal as SessionRefusal, Renewal, Session,
    SessionKind,
};
use xml_security::names::SOAP;
use xml_security::{
    Certificate, ContextToken, DecryptionKey, Document, Endorsement, KeyReference, Keys, NoKey, NodeId,
    OpenError, OpenPolicy, Opened, ParseLimits, Presence, ProtectionToken, SecurePolicy, Suite, TokenName,
    open_document, secure,
};
use zeroize::Zeroizing;

/// What secures replies to one request.
pub(super) struct Channel {
    suite: Suite,
    token: TokenName,
    key: xml_security::Key,
    confirms: Vec<Vec<u8>>,
    random: Random,
}

impl Channel {
    pub(super) fn new(suite: Suite, token: TokenName, key: xml_security::Key, random: &Random) -> Self {
        Self { suite, token, key, confirms: Vec::new(), random: Arc::clone(random) }
    }

    pub(super) fn secure(&self, draft: Draft, status: u16, now: Moment) -> Result<HttpResponse, Refusal> {
        let token = ProtectionToken::Named { name: &self.token, key: &self.key };
        let mut policy = SecurePolicy::new(self.suite, token, now.wall);
        policy.confirms = &self.confirms;
        let secured = secure(draft.document, &policy, &mut |octets| (self.random)(octets))
            .map_err(|error| Refusal::Reply(error.to_string()))?;
        Ok(HttpResponse { status, body: secured.octets })
    }
}

/// A verified call. Its action, its body and its session are what was signed.
pub struct Call {
    /// `a:Action`.
    pub action: String,
    /// Which session it belongs to, and whose it is.
    pub session: Arc<Session>,
    document: Document,
    body: NodeId,
    version: TrustVersion,
    message_id: Option<String>,
    channel: Channel,
}

/// A fault that the service makes in the name of its application.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallFault {
    /// The application failed, or answered with what is no SOAP message.
    Application,
    /// The application did not answer in time.
    TimedOut,
}

impl std::fmt::Debug for Call {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Call")
            .field("action", &self.action)
            .field("session", &self.session)
            .finish_non_exhaustive()
    }
}

impl Call {
    /// `s:Body` as it stands for itself: with all namespaces in scope.
    pub fn body(&self) -> Result<Vec<u8>, Refusal> {
        self.document.extract(self.body).map_err(|error| Refusal::Reply(error.to_string()))
    }

    fn relation(&self) -> Relation<'_> {
        Relation { version: self.version, message_id: self.message_id.as_deref() }
    }

    /// The application's answer: a SOAP 1.2 envelope, of which the body is sent, a fault as well. Its action
    /// is sent if it has one, otherwise the call's with `Response`.
    pub fn reply(&self, envelope: &[u8], limits: &ParseLimits, now: Moment) -> Result<HttpResponse, Refusal> {
        let document = Document::parse(envelope, limits).map_err(xml_security::Reason::from)?;
        let root = document.root();
        let body =
            document.only(root, SOAP.name("Body")).filter(|_| document.is(root, SOAP.name("Envelope")));
        let body = body.ok_or(xml_security::Reason::Shape("s:Envelope"))?;
        let is_fault = document.only(body, SOAP.name("Fault")).is_some();
        let own = document
            .only(root, SOAP.name("Header"))
            .and_then(|header| document.only(header, xml_security::names::ADDRESSING.name("Action")))
            .and_then(|action| document.text(action))
            .map(|action| action.trim().to_owned())
            .filter(|action| !action.is_empty());
        let action = match own {
            Some(action) => action,
            None if is_fault => names::FAULT_ACTION.to_owned(),
            None => format!("{}Response", self.action),
        };
        let mut draft = Draft::reply(&action, self.relation());
        draft.take_body(&document, body).map_err(|error| Refusal::Reply(error.to_string()))?;
        self.channel.secure(draft, if is_fault { 500 } else { 200 }, now)
    }

    /// The application takes the message, and has no answer.
    pub fn one_way(&self) -> HttpResponse {
        HttpResponse { status: 202, body: Vec::new() }
    }

    /// A fault in the name of the application, secured like a reply.
    pub fn fault(&self, fault: CallFault, now: Moment) -> Result<HttpResponse, Refusal> {
        let text = match fault {
            CallFault::Application => "The service could not process the message.",
            CallFault::TimedOut => "The service did not answer in time.",
        };
        let fault = SoapFault {
            status: 500,
            action: names::FAULT_ACTION,
            code: "Receiver",
            subcodes: [None, None],
            text,
        };
        self.channel.secure(Draft::fault(&fault, self.relation()), fault.status, now)
    }
}

/// What a message asks for, by its action.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operation {
    Establish,
    Renew,
    Cancel,
    Call,
}

impl Operation {
    fn of(action: &str) -> Result<Self, Reason> {
        match action {
            ESTABLISH => Ok(Self::Establish),
            RENEW => Ok(Self::Renew),
            CANCEL => Ok(Self::Cancel),
            // Nothing of this protocol is for the application.
            other if other.starts_with(TRUST.uri) => Err(Reason::unsupported("Action", other)),
            _ => Ok(Self::Call),
        }
    }

    fn purpose(self) -> Purpose {
        match self {
            Self::Renew | Self::Cancel => Purpose::Management,
            Self::Establish | Self::Call => Purpose::Message,
        }
    }
}

/// Keys of this service for one message.
struct ServerKeys<'s> {
    tokens: &'s Tokens,
    carried: Carried,
    failures: &'s Failures,
    preset: Option<&'s (Certificate, DecryptionKey)>,
    purpose: Purpose,
    now: Moment,
    found: Vec<(TokenName, Keyed)>,
    refused: Option<SessionRefusal>,
}

impl ServerKeys<'_> {
    fn find(&self, token: ContextToken<'_>) -> Result<Keyed, SessionRefusal> {
        let keyed = self.tokens.find(token, &self.carried, self.purpose, self.now)?;
        // A table counts failures itself. Of cookies, this process counts, too: there is no wait between this
        // and its count, so at most one message of each thread is tried beyond the limit.
        let has_failed = self.tokens.cookies().is_some()
            && self.failures.check(token.identifier, self.now.uptime).is_err();
        if has_failed { Err(Reason::UnknownToken.into()) } else { Ok(keyed) }
    }
}

impl Keys for ServerKeys<'_> {
    fn context(&mut self, token: ContextToken<'_>) -> Result<xml_security::Key, NoKey> {
        match self.find(token) {
            Ok(keyed) => {
                let key = (&keyed.key).into();
                let name = TokenName::Context {
                    identifier: token.identifier.to_owned(),
                    instance: token.instance.map(str::to_owned),
                };
                self.found.push((name, keyed));
                Ok(key)
            }
            Err(refusal) => {
                self.refused = Some(refusal);
                Err(NoKey::UnknownContext)
            }
        }
    }

    fn decryption_key(&mut self, recipient: &KeyReference, sha1: &[u8; 20]) -> Result<&DecryptionKey, NoKey> {
        let (certificate, key) = self.preset.ok_or(NoKey::Refused)?;
        if let Err(reason) = self.failures.check(&encrypted_key_name(sha1), self.now.uptime) {
            self.refused = Some(reason.into());
            return Err(NoKey::Refused);
        }
        match recipient {
            KeyReference::Thumbprint(thumbprint) if *thumbprint != certificate.thumbprint() => {
                Err(NoKey::Refused)
            }
            // Another kind of reference is not compared: only a key that is encrypted to this service
            // unwraps.
            _ => Ok(key),
        }
    }
}

/// A message that does not open, and the session in a cookie on which it counts.
struct NotOpened {
    failure: Failure,
    counts_on: Option<Arc<Session>>,
}

impl<F: Into<Failure>> From<F> for NotOpened {
    fn from(failure: F) -> Self {
        Self { failure: failure.into(), counts_on: None }
    }
}

/// How a verified message is protected.
struct Protection {
    /// The session of its token; none under an EncryptedKey.
    keyed: Option<Keyed>,
    /// The session that endorses it.
    endorsed_by: Option<Keyed>,
}

impl Server {
    /// A message with a security header.
    pub(super) async fn secured(
        &self,
        incoming: Incoming,
        request: &HttpRequest<'_>,
        now: Moment,
    ) -> Result<Answer, Failure> {
        let Incoming { document, envelope, version, action, message_id, .. } = incoming;
        let operation = Operation::of(&action)?;
        let carried = self.tokens.carried((&document, envelope.header), operation.purpose(), now).await;
        let (opened, protection) = match self.open(document, carried, operation, request.source, now) {
            Ok(opened) => opened,
            Err(NotOpened { failure, counts_on }) => {
                if let Some(session) = counts_on {
                    self.tokens.failed_in_cookie(&session, now).await.map_err(Reason::from)?;
                }
                return Err(failure);
            }
        };
        self.accept(&opened, &protection, now).await?;
        if let Some(keyed) = &protection.keyed {
            self.tokens.used(&keyed.session, request.source, now);
        }
        self.check_policy(operation, &opened, &protection)?;
        let (identity, credential) = self.who(operation, &opened, &protection, request.source, now).await?;
        if let (None, Some(horizon)) = (&protection.keyed, &self.horizon) {
            horizon.cover(opened.timestamp.created, now.wall).await?;
        }

        let mut channel =
            Channel::new(self.settings.suite, opened.token.clone(), opened.key.clone(), &self.random);
        if confirms(protection.keyed.is_some(), self.settings.credential) {
            channel.confirms.clone_from(&opened.signature_values);
        }
        let relation = Relation { version, message_id: message_id.as_deref() };
        let (draft, event) = match operation {
            Operation::Call => {
                let session = call_session(&opened, &protection, identity, credential);
                return Ok(Answer::Call(Box::new(Call {
                    action,
                    session,
                    body: opened.envelope.body,
                    document: opened.document,
                    version,
                    message_id,
                    channel,
                })));
            }
            Operation::Establish => {
                let owner = (identity, credential, request.source);
                self.establish(&opened, &protection, owner, relation, now)?
            }
            Operation::Renew => {
                let owner = (identity.as_ref(), request.source);
                self.renew(&opened, &protection, owner, relation, now).await?
            }
            Operation::Cancel => self.cancel(&opened, &protection, relation, now).await?,
        };
        let response = channel.secure(draft, 200, now)?;
        Ok(Answer::Reply(Reply { response, event }))
    }

    /// A verified message counts once: in this process, or in the whole farm if sessions are in cookies.
    async fn accept(&self, opened: &Opened, protection: &Protection, now: Moment) -> Result<(), Reason> {
        let (value, until, created) = (opened.replay_key(), opened.replay_until, opened.timestamp.created);
        match self.tokens.cookies() {
            Some(cookies) => cookies.accept(value, (created, until), now.wall).await,
            None if protection.keyed.is_none() && created < self.started => Err(Reason::Replay),
            None => self.replay.insert(value, until, now.wall),
        }
    }

    /// Decrypts and verifies. Failures are counted where a sender of changed copies would learn from them.
    fn open(
        &self,
        document: Document,
        carried: Carried,
        operation: Operation,
        source: IpAddr,
        now: Moment,
    ) -> Result<(Opened, Protection), NotOpened> {
        let policy = OpenPolicy {
            // `check_policy` decides, when it is known which token protects the message.
            username: Presence::Optional,
            endorsing: Presence::Optional,
            skew: self.settings.skew.0,
            limits: self.settings.limits,
            ..OpenPolicy::request(self.settings.suite, now.wall)
        };
        let preset = self.shown().preset;
        let mut keys = ServerKeys {
            tokens: &self.tokens,
            carried,
            failures: &self.failures,
            preset: preset.as_deref(),
            purpose: operation.purpose(),
            now,
            found: Vec::new(),
            refused: None,
        };
        let opened = open_document(document, &policy, &mut keys, &mut |octets| (self.random)(octets));
        let ServerKeys { found, refused, .. } = keys;
        let session_of =
            |name: &TokenName| found.iter().find(|(found, _)| found == name).map(|(_, keyed)| keyed.clone());
        let opened = match opened {
            Ok(opened) => opened,
            Err(error) => {
                if let Some(SessionRefusal { reason, secured_by }) = refused {
                    return Err(Failure { refusal: reason.into(), secured_by }.into());
                }
                let OpenError::Rejected(rejected) = error else { return Err(Reason::UnknownToken.into()) };
                let counts_on =
                    rejected.token().and_then(|token| self.failed(token, session_of, source, now));
                let failure = rejected.reason().clone().into();
                return Err(NotOpened { failure, counts_on });
            }
        };
        let endorsed_by = match &opened.endorsement {
            Some(Endorsement::Token(name)) => session_of(name),
            _ => None,
        };
        let protection = Protection { keyed: session_of(&opened.token), endorsed_by };
        Ok((opened, protection))
    }

    /// Counts a message that did not decrypt or verify. Returns the session in a cookie on which it counts in
    /// the whole farm as well.
    fn failed(
        &self,
        token: &TokenName,
        session_of: impl Fn(&TokenName) -> Option<Keyed>,
        source: IpAddr,
        now: Moment,
    ) -> Option<Arc<Session>> {
        match token {
            TokenName::Context { identifier, .. } if self.tokens.cookies().is_none() => {
                self.tokens.failed_in_table(identifier);
                None
            }
            _ => {
                self.failures.failed(&session_name(token), source, now.uptime);
                session_of(token).map(|keyed| keyed.session)
            }
        }
    }

    /// Whether a message under this token may do this, and has the credentials that it has to have: the one
    /// place that decides it.
    fn check_policy(
        &self,
        operation: Operation,
        opened: &Opened,
        protection: &Protection,
    ) -> Result<(), Refusal> {
        let kind = protection.keyed.as_ref().map(|keyed| keyed.session.kind);
        let is_open =
            |negotiate, establish| match self.settings.bindings.contains(&Binding { negotiate, establish }) {
                true => Ok(()),
                false => Err(Refusal::Policy("no binding of this service has such messages")),
            };
        match (kind, operation) {
            (Some(SessionKind::Negotiated), Operation::Establish | Operation::Renew) => is_open(true, true)?,
            (Some(SessionKind::Negotiated), Operation::Call) => is_open(true, false)?,
            (Some(SessionKind::Negotiated | SessionKind::Established), Operation::Cancel) => {}
            (Some(SessionKind::Established), Operation::Call | Operation::Renew) => {}
            (Some(SessionKind::Established), Operation::Establish) => {
                return Err(Refusal::Policy("a session is established under another token"));
            }
            (None | Some(SessionKind::OneShot), Operation::Establish | Operation::Renew) => {
                is_open(false, true)?;
            }
            (None | Some(SessionKind::OneShot), Operation::Call) => is_open(false, false)?,
            (None | Some(SessionKind::OneShot), Operation::Cancel) => {
                return Err(Refusal::Policy("a token is cancelled under itself"));
            }
        }
        let proves = kind != Some(SessionKind::Established) && operation != Operation::Cancel;
        let credential = self.settings.credential;
        let has_user_name = opened.username.is_some();
        if has_user_name != (proves && credential == Credential::UserName) {
            return Err(Refusal::Policy(match has_user_name {
                true => "a user name is not expected in this message",
                false => "the user name is missing",
            }));
        }
        let needs_certificate = proves && kind.is_none() && credential == Credential::Certificate;
        let is_endorsed_as_expected = match &opened.endorsement {
            None => !needs_certificate && (operation != Operation::Renew || !proves),
            Some(Endorsement::Certificate(_)) => needs_certificate && operation != Operation::Renew,
            Some(Endorsement::Token(_)) => operation == Operation::Renew && proves && !needs_certificate,
        };
        match is_endorsed_as_expected {
            true => Ok(()),
            false => Err(Refusal::Policy("the endorsing signature is missing, or is not expected")),
        }
    }

    /// Who sends the message. What [`Self::check_policy`] asks for is there.
    async fn who(
        &self,
        operation: Operation,
        opened: &Opened,
        protection: &Protection,
        source: IpAddr,
        now: Moment,
    ) -> Result<(Option<Identity>, Credential), Refusal> {
        if operation == Operation::Cancel {
            return Ok((None, Credential::None));
        }
        if let Some(token) = &opened.username {
            let checked = self.passwords.check(&token.username, &token.password, source, now.uptime).await?;
            let identity = checked.ok_or_else(|| Refusal::Password(shortened(&token.username)))?;
            return Ok((Some(identity), Credential::UserName));
        }
        if let Some(Endorsement::Certificate(certificate)) = &opened.endorsement {
            let chain = [CertificateDer::from(certificate.der().to_vec())];
            let identity = self.certificates.map(&chain).await.map_err(Refusal::Certificate)?;
            return Ok((Some(identity), Credential::Certificate));
        }
        Ok(match &protection.keyed {
            Some(keyed) => (keyed.session.identity.clone(), keyed.session.credential),
            None => (None, Credential::None),
        })
    }

    fn establish(
        &self,
        opened: &Opened,
        protection: &Protection,
        (identity, credential, source): (Option<Identity>, Credential, IpAddr),
        relation: Relation<'_>,
        now: Moment,
    ) -> Result<(Draft, Event), Refusal> {
        let asked = SessionRequest::read(&opened.document, opened.envelope.body, None, true)?;
        let (key, entropy) = self.new_key(&asked, names::ISSUE)?;
        let parent = match &protection.keyed {
            Some(keyed) => keyed.session.name.clone(),
            None => session_name(&opened.token),
        };
        let new = NewSession { name: urn(&self.random), key, identity, credential, source };
        let issued = self.tokens.add(new, Some(&parent), now)?;
        let draft = self.session_reply(ESTABLISHED, asked.context, entropy, &issued, (now, relation));
        Ok((draft, Event::Opened(issued.session)))
    }

    async fn renew(
        &self,
        opened: &Opened,
        protection: &Protection,
        (identity, source): (Option<&Identity>, IpAddr),
        relation: Relation<'_>,
        now: Moment,
    ) -> Result<(Draft, Event), Refusal> {
        let asked = SessionRequest::read(&opened.document, opened.envelope.body, Some("RenewTarget"), true)?;
        // Under the session's own token, or endorsed by it under the bootstrap.
        let proved = protection.endorsed_by.as_ref().or(protection.keyed.as_ref());
        let session = renewed_session(&asked, proved)?;
        let (key, entropy) = self.new_key(&asked, names::RENEW)?;
        let renewal = Renewal { identity, instance: urn(&self.random), key };
        let issued = self.tokens.renew(session, renewal, (source, now)).await?;
        if let (Some(bootstrap), Some(_)) = (&protection.keyed, &protection.endorsed_by) {
            // As after RST/SCT.
            self.tokens.bootstrapped(&bootstrap.session.name);
        }
        let draft = self.session_reply(RENEWED, asked.context, entropy, &issued, (now, relation));
        Ok((draft, Event::Renewed(issued.session)))
    }

    async fn cancel(
        &self,
        opened: &Opened,
        protection: &Protection,
        relation: Relation<'_>,
        now: Moment,
    ) -> Result<(Draft, Event), Refusal> {
        let asked =
            SessionRequest::read(&opened.document, opened.envelope.body, Some("CancelTarget"), false)?;
        check_request_type(&asked, names::CANCEL)?;
        let (Some(TokenName::Context { identifier, .. }), Some(keyed)) = (&asked.target, &protection.keyed)
        else {
            return Err(Reason::Missing("CancelTarget").into());
        };
        let session = self.tokens.cancel(identifier, &keyed.session, now).await?;
        let mut draft = Draft::reply(CANCELLED, relation);
        trust::write_cancelled(&mut draft.document, draft.body, relation.version, asked.context.as_deref());
        Ok((draft, Event::Cancelled(session)))
    }

    /// The key of the entropy of both sides, and ours.
    fn new_key(
        &self,
        asked: &SessionRequest,
        request_type: &str,
    ) -> Result<(Key, Zeroizing<Vec<u8>>), Reason> {
        check_request_type(asked, request_type)?;
        check_token_type(asked.token_type.as_deref())?;
        let size = KeySize::from(self.settings.suite);
        size.check_asked(asked.key_size.as_deref())?;
        let client = asked.entropy.as_ref().ok_or(Reason::Missing("Entropy"))?;
        let ours = trust::new_entropy(&self.random);
        Ok((Key::from_entropy(size, client, &ours), ours))
    }

    fn session_reply(
        &self,
        action: &str,
        context: Option<String>,
        entropy: Zeroizing<Vec<u8>>,
        Issued { session, cookie }: &Issued,
        (now, relation): (Moment, Relation<'_>),
    ) -> Draft {
        let response = SessionResponse {
            context,
            name: TokenName::Context { identifier: session.name.clone(), instance: session.instance.clone() },
            entropy,
            lifetime: (now.wall, session.until),
            key_size: KeySize::from(self.settings.suite).bits(),
        };
        let mut draft = Draft::reply(action, relation);
        let id = local_id(&self.random);
        response.write(&mut draft.document, draft.body, relation.version, (&id, cookie.as_deref()));
        draft
    }
}

/// Whether replies confirm signatures: where the client knows the service's certificate, and sends no user
/// name (.NET's `RequireSignatureConfirmation` of these bindings).
pub(crate) fn confirms(is_under_context: bool, credential: Credential) -> bool {
    !is_under_context && credential != Credential::UserName
}

/// The session of the token that Renew names, which has to be the one that proves it.
fn renewed_session<'a>(asked: &SessionRequest, proved: Option<&'a Keyed>) -> Result<&'a Session, Reason> {
    match (&asked.target, proved) {
        (Some(TokenName::Context { identifier, .. }), Some(keyed)) if *identifier == keyed.session.name => {
            Ok(&keyed.session)
        }
        _ => Err(Reason::NotAllowed("the request is not signed by the token that it names")),
    }
}

fn check_request_type(asked: &SessionRequest, expected: &str) -> Result<(), Reason> {
    match asked.request_type == expected {
        true => Ok(()),
        false => Err(Reason::unsupported("RequestType", &asked.request_type)),
    }
}

/// The name of an EncryptedKey: of its session, and for the count of its failures.
fn encrypted_key_name(sha1: &[u8; 20]) -> String {
    STANDARD.encode(sha1)
}

/// The name of the session of a token.
pub(crate) fn session_name(token: &TokenName) -> String {
    match token {
        TokenName::EncryptedKey(sha1) => encrypted_key_name(sha1),
        TokenName::Context { identifier, .. } => identifier.clone(),
    }
}

/// The session of a call, with who sends it.
fn call_session(
    opened: &Opened,
    protection: &Protection,
    identity: Option<Identity>,
    credential: Credential,
) -> Arc<Session> {
    match &protection.keyed {
        Some(keyed) if keyed.session.identity == identity && keyed.session.credential == credential => {
            Arc::clone(&keyed.session)
        }
        Some(keyed) => Arc::new(Session { identity, credential, ..Session::clone(&keyed.session) }),
        None => {
            let times = (opened.timestamp.created, opened.timestamp.expires);
            Arc::new(Session::one_shot(session_name(&opened.token), identity, credential, times))
        }
    }
}
