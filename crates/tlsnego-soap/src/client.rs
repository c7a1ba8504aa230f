//! A client: messages to post, and what their answers mean.
//!
//! Each message that is made goes with a value that takes its answer. An answer that is not secured is never
//! a reply: its fault is [`ClientError::NotAuthenticated`].

pub use crate::message::ReadFault;
use crate::message::{Draft, Incoming, header_text, only_element, read_fault};
use crate::names::{
    CANCEL, CANCELLED, ESTABLISH, ESTABLISHED, NEGOTIATE, NEGOTIATE_NEXT, RENEW, RENEWED, TrustVersion,
};
use crate::refusal::Refusal;
use crate::server::{confirms, session_name};
use crate::trace::{self, Content, Message, SessionName, TokenLeg, Traced, Tracer};
use crate::trust::{self, SessionRequest, SessionResponse};
use crate::{Random, local_id, urn};
use dtyp::FileTime;
use rustls_pki_types::CertificateDer;
use tlsnego_service::fault::Reason;
use tlsnego_service::freshness::Skew;
use tlsnego_service::key::{Key, KeySize};
use tlsnego_service::message::Context;
use tlsnego_service::names::{self, TRUST};
use tlsnego_service::negotiation::{self, Outgoing, Step, TokenRequest, Waiting};
use tlsnego_service::session::{Credential, SessionKind};
use xml_security::names::{CONTEXT_TOKEN, SOAP};
use xml_security::{
    Certificate, ContextToken as AskedToken, Direction, Document, EndorseWith, Keys, Layout, NoKey, NodeId,
    OpenError, OpenPolicy, Opened, ParseLimits, ProtectionToken, SecurePolicy, Signer, Suite, Timestamp,
    TokenName, UsernameToken, XmlError, open_document, secure, secure_shown,
};
use zeroize::Zeroizing;

/// A client of one service.
#[derive(Clone)]
pub struct Client {
    /// `a:To`.
    pub to: String,
    /// Algorithms.
    pub suite: Suite,
    /// Version of WS-Trust.
    pub version: TrustVersion,
    /// Difference of clocks.
    pub skew: Skew,
    /// Limits of a reply.
    pub limits: ParseLimits,
    /// Random octets.
    pub random: Random,
    /// Takes what is sent and received, decoded.
    pub trace: Option<Tracer>,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("to", &self.to).field("suite", &self.suite).finish_non_exhaustive()
    }
}

/// Why there is no reply.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClientError {
    /// A fault or another message that nothing proves to come from the service.
    #[error("not authenticated: {0}")]
    NotAuthenticated(ReadFault),
    /// No SOAP 1.2 message, such as the page of a proxy.
    #[error("not authenticated: the answer cannot be read: {0}")]
    Unreadable(String),
    /// A fault of the service about its session or its tokens, secured by it.
    #[error("the service refused the message: {0}")]
    Session(ReadFault),
    /// The answer is to another message.
    #[error("the answer is to another message than the one that was sent")]
    OtherMessage,
    /// The answer is not secured as it has to be.
    #[error("the answer is rejected: {0}")]
    Rejected(xml_security::Reason),
    /// The answer does not follow the protocol.
    #[error("the answer is rejected: {0}")]
    Trust(#[from] Reason),
    /// The message cannot be written or secured.
    #[error("the message cannot be made: {0}")]
    Message(String),
}

impl From<Refusal> for ClientError {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Trust(reason) => Self::Trust(reason),
            Refusal::Security(reason) => Self::Rejected(reason),
            other => Self::Message(other.to_string()),
        }
    }
}

/// A security context token of a client.
#[derive(Clone, Debug)]
pub struct ContextToken {
    /// `c:Identifier` and `c:Instance`.
    pub name: TokenName,
    /// `u:Created`, by the clock of the server.
    pub created: FileTime,
    /// `u:Expires`, by the clock of the server.
    pub expires: FileTime,
    /// The token as it was issued: what its issuer put into it is sent back.
    element: Vec<u8>,
    key: xml_security::Key,
}

/// What protects a request.
#[derive(Clone, Copy, Debug)]
pub enum Under<'a> {
    /// A token.
    Token(&'a ContextToken),
    /// A fresh key for the service's certificate, which is known and was validated.
    Certificate(&'a Certificate),
}

/// What proves who the client is. Under a token that was negotiated with a certificate, or under an
/// established one, that is proven already.
#[derive(Clone, Copy, Default)]
pub enum Proof<'a> {
    /// Nothing.
    #[default]
    None,
    /// A user name.
    UserName(&'a UsernameToken),
    /// A certificate, beside [`Under::Certificate`].
    Certificate(&'a dyn Signer),
}

impl Client {
    /// Begins a negotiation: the first leg.
    pub fn negotiate(&self, tls: &negotiation::Client) -> Result<(Vec<u8>, Negotiating), ClientError> {
        let context = Context::new(Some(&local_id(&self.random)))?;
        let request = TokenRequest {
            context,
            key_size: self.suite.into(),
            value_type: self.version.value_type(),
            applies_to: None,
        };
        let outgoing = tls.start(request)?;
        let message_id = urn(&self.random);
        let mut draft = Draft::request(self.version, NEGOTIATE, &message_id, &self.to);
        let element = trust::write_request(&mut draft.document, draft.body, outgoing.message())?;
        let tls = outgoing.message().binary_exchange.as_ref().map(|exchange| exchange.octets.to_vec());
        let waiting = outgoing.wrote(&trust::canonical(&draft.document, element, |_| false));
        let octets = draft.unsecured(200)?.body;
        self.sent_leg(NEGOTIATE, octets.len(), tls);
        Ok((octets, Negotiating { client: self.clone(), message_id, waiting }))
    }

    /// RST/SCT: establishes a session.
    pub fn establish(
        &self,
        under: Under<'_>,
        proof: Proof<'_>,
        now: FileTime,
    ) -> Result<(Vec<u8>, Establishing), ClientError> {
        let entropy = trust::new_entropy(&self.random);
        let request = self.session_request(names::ISSUE, Some(&entropy), None);
        let mut draft = self.draft(ESTABLISH);
        request.write(&mut draft.0.document, draft.0.body, "");
        let (octets, pending) = self.secure(draft, under, proof, None, now)?;
        Ok((octets, Establishing { pending, entropy, renews: None }))
    }

    /// Gives a session a new key. `under` is the token itself, or what it was established under, anew, with
    /// the same proof: .NET asks for the latter.
    pub fn renew(
        &self,
        token: &ContextToken,
        under: Under<'_>,
        proof: Proof<'_>,
        now: FileTime,
    ) -> Result<(Vec<u8>, Establishing), ClientError> {
        let entropy = trust::new_entropy(&self.random);
        let request = self.session_request(names::RENEW, Some(&entropy), Some(&token.name));
        let mut draft = self.draft(RENEW);
        request.write(&mut draft.0.document, draft.0.body, "RenewTarget");
        let is_own = matches!(under, Under::Token(under) if under.name == token.name);
        let (octets, pending) = self.secure(draft, under, proof, (!is_own).then_some(token), now)?;
        Ok((octets, Establishing { pending, entropy, renews: Some(token.name.clone()) }))
    }

    /// Ends a session.
    pub fn cancel(&self, token: &ContextToken, now: FileTime) -> Result<(Vec<u8>, Cancelling), ClientError> {
        let request = self.session_request(names::CANCEL, None, Some(&token.name));
        let mut draft = self.draft(CANCEL);
        request.write(&mut draft.0.document, draft.0.body, "CancelTarget");
        let (octets, pending) = self.secure(draft, Under::Token(token), Proof::None, None, now)?;
        Ok((octets, Cancelling(pending)))
    }

    /// A call. `body` is an `s:Body` element that stands for itself.
    pub fn call(
        &self,
        under: Under<'_>,
        proof: Proof<'_>,
        (action, body): (&str, &[u8]),
        now: FileTime,
    ) -> Result<(Vec<u8>, Pending), ClientError> {
        let unreadable = |error: XmlError| ClientError::Message(error.to_string());
        let document = Document::parse(body, &self.limits).map_err(unreadable)?;
        if !document.is(document.root(), SOAP.name("Body")) {
            return Err(ClientError::Message("it is no s:Body".to_owned()));
        }
        let mut draft = self.draft(action);
        draft.0.take_body(&document, document.root()).map_err(unreadable)?;
        self.secure(draft, under, proof, None, now)
    }

    fn traced(&self, traced: impl FnOnce() -> Traced) {
        if let Some(trace) = &self.trace {
            trace(traced());
        }
    }

    fn sent_leg(&self, action: &str, len: usize, tls: Option<Vec<u8>>) {
        self.traced(|| {
            let tls = trace::tls_exchange(&tls.unwrap_or_default());
            Traced::Sent(Message { len, action: action.to_owned(), content: Content::Leg { tls } })
        });
    }

    /// A message that was received, and is not secured or could not be opened.
    fn received(&self, octets: &[u8]) {
        self.traced(|| {
            let incoming = Incoming::parse(octets, &self.limits).ok();
            let content = incoming.as_ref().map_or(Content::Other, content_of);
            let action = incoming.map(|incoming| incoming.action).unwrap_or_default();
            Traced::Received(Message { len: octets.len(), action, content })
        });
    }

    fn traced_negotiated(&self, negotiated: &Negotiated) {
        match negotiated {
            Negotiated::Token(token) => self.traced(|| Traced::Session {
                session: SessionName::new(SessionKind::Negotiated, &token.name),
                created: token.created,
                expires: token.expires,
            }),
            Negotiated::Certificate(unverified) => {
                if let Some(first) = unverified.certificates().first() {
                    self.traced(|| Traced::Certificate(first.clone()));
                }
            }
            Negotiated::Send(..) => {}
        }
    }

    fn rejected<T>(&self, result: Result<T, ClientError>) -> Result<T, ClientError> {
        if let Err(error) = &result {
            self.traced(|| Traced::Rejected(error.to_string()));
        }
        result
    }

    fn session_request(
        &self,
        request_type: &str,
        entropy: Option<&Zeroizing<Vec<u8>>>,
        target: Option<&TokenName>,
    ) -> SessionRequest {
        let is_for_key = entropy.is_some();
        SessionRequest {
            context: None,
            token_type: is_for_key.then(|| CONTEXT_TOKEN.to_owned()),
            request_type: request_type.to_owned(),
            key_size: is_for_key.then(|| KeySize::from(self.suite).bits().to_string()),
            entropy: entropy.cloned(),
            target: target.cloned(),
        }
    }

    /// A request with its MessageID.
    fn draft<'a>(&self, action: &'a str) -> (Draft, String, &'a str) {
        let message_id = urn(&self.random);
        (Draft::request(self.version, action, &message_id, &self.to), message_id, action)
    }

    fn secure(
        &self,
        (draft, message_id, action): (Draft, String, &str),
        under: Under<'_>,
        proof: Proof<'_>,
        endorsed_by: Option<&ContextToken>,
        now: FileTime,
    ) -> Result<(Vec<u8>, Pending), ClientError> {
        let token = match under {
            Under::Token(token) => {
                ProtectionToken::CarriedContext { element: &token.element, key: &token.key }
            }
            Under::Certificate(certificate) => ProtectionToken::EncryptTo(certificate),
        };
        let mut policy = SecurePolicy::new(self.suite, token, now);
        let credential = match proof {
            Proof::None => Credential::None,
            Proof::UserName(user) => {
                policy.username = Some(user);
                Credential::UserName
            }
            Proof::Certificate(signer) => {
                policy.endorse = Some(EndorseWith::Signer(signer));
                Credential::Certificate
            }
        };
        if let Some(token) = endorsed_by {
            if policy.endorse.is_some() {
                return Err(ClientError::Message(
                    "a message has one endorsing signature: renew a session under its own token".to_owned(),
                ));
            }
            policy.endorse = Some(EndorseWith::Context { element: &token.element, key: &token.key });
        }
        let mut random = |octets: &mut [u8]| (self.random)(octets);
        let mut plain = None;
        let secured = match &self.trace {
            None => secure(draft.document, &policy, &mut random),
            Some(_) => secure_shown(draft.document, &policy, &mut random, &mut |shown| {
                plain = Some(shown.clone());
            }),
        };
        let secured = secured.map_err(|error| ClientError::Message(error.to_string()))?;
        let is_under_context = matches!(under, Under::Token(_));
        self.traced(|| {
            Traced::Sent(secured_message(&secured.octets, action.to_owned(), plain.as_ref(), self.version))
        });
        if !is_under_context {
            self.traced(|| Traced::OneShot(SessionName::new(SessionKind::OneShot, &secured.token)));
        }
        let pending = Pending {
            client: self.clone(),
            message_id,
            confirms: confirms(is_under_context, credential).then_some(secured.signature_values),
            token: secured.token,
            key: secured.key,
        };
        Ok((secured.octets, pending))
    }
}

/// A negotiation that waits for an answer.
#[derive(Debug)]
pub struct Negotiating {
    client: Client,
    message_id: String,
    waiting: Waiting,
}

/// What follows an answer.
#[derive(Debug)]
pub enum Negotiated {
    /// The caller decides on the server's certificate.
    Certificate(Unverified),
    /// The next leg is to be posted.
    Send(Vec<u8>, Negotiating),
    /// The token.
    Token(ContextToken),
}

/// The server showed its certificate. Nothing is sent before the caller accepts it.
#[derive(Debug)]
pub struct Unverified {
    client: Client,
    unverified: negotiation::Unverified,
}

impl Unverified {
    /// The server's certificate, then those that it sent with it.
    pub fn certificates(&self) -> &[CertificateDer<'static>] {
        self.unverified.certificates()
    }

    /// The certificate is that of the service: the next leg.
    pub fn accept(self) -> Result<(Vec<u8>, Negotiating), ClientError> {
        next_leg(self.client, self.unverified.accept()?)
    }
}

fn next_leg(
    client: Client,
    outgoing: Outgoing<tlsnego_service::message::Response<'static>>,
) -> Result<(Vec<u8>, Negotiating), ClientError> {
    let (mut draft, message_id, _) = client.draft(NEGOTIATE_NEXT);
    let element = trust::write_response(&mut draft.document, draft.body, outgoing.message());
    let tls = outgoing.message().binary_exchange.as_ref().map(|exchange| exchange.octets.to_vec());
    let waiting = outgoing.wrote(&trust::canonical(&draft.document, element, |_| false));
    let octets = draft.unsecured(200)?.body;
    client.sent_leg(NEGOTIATE_NEXT, octets.len(), tls);
    Ok((octets, Negotiating { client, message_id, waiting }))
}

impl Negotiating {
    /// Takes the answer. The service's clock is compared with `now` by the lifetime of the token: nothing
    /// else in a negotiation has a time.
    pub fn receive(self, body: &[u8], now: FileTime) -> Result<Negotiated, ClientError> {
        let client = self.client.clone();
        client.received(body);
        let negotiated = client.rejected(self.take(body, now))?;
        client.traced_negotiated(&negotiated);
        Ok(negotiated)
    }

    fn take(self, body: &[u8], now: FileTime) -> Result<Negotiated, ClientError> {
        let Self { client, message_id, waiting } = self;
        let incoming = Incoming::parse(body, &client.limits).map_err(unreadable)?;
        let Incoming { document, envelope, action, .. } = &incoming;
        if let Some(fault) = read_fault(document, envelope.body) {
            return Err(ClientError::NotAuthenticated(fault));
        }
        check_version(&incoming, &client)?;
        check_relates_to(&incoming, &message_id)?;
        let element = incoming.trust_element().ok_or(Reason::Missing("the trust element"))?;
        let is_last = !document.is(element, TRUST.name("RequestSecurityTokenResponse"));
        if action != if is_last { client.version.last_leg() } else { NEGOTIATE_NEXT } {
            return Err(Reason::Missing("the action of a negotiation").into());
        }
        if !is_last {
            let message = trust::read_response(document, element)?;
            let canonical = trust::canonical(document, element, |_| false);
            return Ok(match waiting.receive(&message, &canonical)? {
                Step::Certificate(unverified) => Negotiated::Certificate(Unverified { client, unverified }),
                Step::Send(outgoing) => {
                    let (octets, negotiating) = next_leg(client, outgoing)?;
                    Negotiated::Send(octets, negotiating)
                }
            });
        }
        if !document.is(element, TRUST.name("RequestSecurityTokenResponseCollection")) {
            return Err(Reason::Missing("RequestSecurityTokenResponseCollection").into());
        }
        let mut responses = document.elements(element);
        let first = responses.next().ok_or(Reason::Missing("RequestSecurityTokenResponse"))?;
        let is_response = |node: NodeId| document.is(node, TRUST.name("RequestSecurityTokenResponse"));
        if !document.elements(element).all(is_response) {
            return Err(Reason::Missing("RequestSecurityTokenResponse").into());
        }
        let message = trust::read_token_response(document, first)?;
        let authenticators: Vec<_> =
            responses.map(|node| trust::read_authenticator(document, node)).collect::<Result<_, _>>()?;
        let canonical = trust::canonical_of_token_response(document, first);
        let token = waiting.finish(&message, &canonical, &authenticators)?;
        let lifetime = Timestamp { created: token.created, expires: token.expires };
        lifetime.check(now, client.skew.0).map_err(ClientError::Rejected)?;
        let element =
            trust::requested_token(document, first)?.ok_or(Reason::Missing("SecurityContextToken"))?;
        let name = TokenName::read_context(document, element).map_err(ClientError::Rejected)?;
        if !matches!(&name, TokenName::Context { identifier, .. } if *identifier == token.identifier) {
            return Err(Reason::Missing("Identifier").into());
        }
        Ok(Negotiated::Token(ContextToken {
            element: extract(document, element)?,
            key: (&token.key).into(),
            name,
            created: token.created,
            expires: token.expires,
        }))
    }
}

fn unreadable(refusal: Refusal) -> ClientError {
    ClientError::Unreadable(refusal.to_string())
}

fn extract(document: &Document, node: NodeId) -> Result<Vec<u8>, ClientError> {
    document.extract(node).map_err(|error| ClientError::Message(error.to_string()))
}

/// An answer is of the version of its request.
fn check_version(incoming: &Incoming, client: &Client) -> Result<(), ClientError> {
    match incoming.version == client.version {
        true => Ok(()),
        false => Err(Reason::NotAllowed("the answer is of another version of WS-Trust").into()),
    }
}

fn check_relates_to(incoming: &Incoming, message_id: &str) -> Result<(), ClientError> {
    match header_text(&incoming.document, &incoming.envelope, "RelatesTo")? {
        Some(relates_to) if relates_to == message_id => Ok(()),
        _ => Err(ClientError::OtherMessage),
    }
}

/// A call that waits for its answer.
#[derive(Debug)]
pub struct Pending {
    client: Client,
    message_id: String,
    token: TokenName,
    key: xml_security::Key,
    confirms: Option<Vec<Vec<u8>>>,
}

/// A verified reply.
#[derive(Debug)]
pub struct Reply {
    /// `a:Action`.
    pub action: String,
    /// Whether the body is a fault of the application.
    pub is_fault: bool,
    document: Document,
    body: NodeId,
}

impl Reply {
    /// `s:Body` as it stands for itself.
    pub fn body(&self) -> Result<Vec<u8>, ClientError> {
        extract(&self.document, self.body)
    }
}

/// The key of one pending request.
struct PendingKeys<'p>(&'p Pending);

impl Keys for PendingKeys<'_> {
    fn context(&mut self, asked: AskedToken<'_>) -> Result<xml_security::Key, NoKey> {
        match &self.0.token {
            TokenName::Context { identifier, instance }
                if identifier == asked.identifier
                    && (asked.instance.is_none() || asked.instance == instance.as_deref()) =>
            {
                Ok(self.0.key.clone())
            }
            _ => Err(NoKey::Refused),
        }
    }

    fn encrypted_key(&mut self, sha1: &[u8; 20]) -> Result<xml_security::Key, NoKey> {
        match &self.0.token {
            TokenName::EncryptedKey(own) if own == sha1 => Ok(self.0.key.clone()),
            _ => Err(NoKey::Refused),
        }
    }
}

impl Pending {
    /// Takes the answer.
    pub fn receive(self, body: &[u8], now: FileTime) -> Result<Reply, ClientError> {
        self.client.rejected(self.take(body, now))
    }

    fn take(&self, body: &[u8], now: FileTime) -> Result<Reply, ClientError> {
        let client = &self.client;
        let incoming = Incoming::parse(body, &client.limits).map_err(|refusal| {
            client.received(body);
            unreadable(refusal)
        })?;
        if !incoming.is_secured {
            client.received(body);
            let fault = read_fault(&incoming.document, incoming.envelope.body);
            return Err(ClientError::NotAuthenticated(fault.unwrap_or_default()));
        }
        check_version(&incoming, client)?;
        let policy = OpenPolicy {
            direction: Direction::Reply { confirms: self.confirms.as_deref() },
            skew: client.skew.0,
            limits: client.limits,
            ..OpenPolicy::request(client.suite, now)
        };
        let (action, relates_to) = (incoming.action.clone(), check_relates_to(&incoming, &self.message_id));
        let mut random = |octets: &mut [u8]| (client.random)(octets);
        let opened = open_document(incoming.document, &policy, &mut PendingKeys(self), &mut random);
        let Opened { document, envelope, .. } = opened.map_err(|error| {
            client.received(body);
            match error {
                OpenError::UnknownContext => Reason::UnknownToken.into(),
                OpenError::Rejected(rejected) => ClientError::Rejected(rejected.reason().clone()),
            }
        })?;
        client.traced(|| {
            Traced::Received(secured_message(body, action.clone(), Some(&document), client.version))
        });
        // The header is signed, and decryption does not change it.
        relates_to?;
        let fault = read_fault(&document, envelope.body);
        if action == names::SESSION_FAULT_ACTION {
            return Err(ClientError::Session(fault.unwrap_or_default()));
        }
        let is_fault = document.only(envelope.body, SOAP.name("Fault")).is_some();
        Ok(Reply { action, is_fault, body: envelope.body, document })
    }
}

/// RST/SCT or Renew that waits for its answer.
#[derive(Debug)]
pub struct Establishing {
    pending: Pending,
    entropy: Zeroizing<Vec<u8>>,
    renews: Option<TokenName>,
}

impl Establishing {
    /// Takes the answer.
    pub fn receive(self, body: &[u8], now: FileTime) -> Result<ContextToken, ClientError> {
        let client = self.pending.client.clone();
        let parent = self.renews.is_none().then(|| session_name(&self.pending.token));
        let reply = self.pending.receive(body, now)?;
        let token = client.rejected(Self::token(&client, &self.entropy, self.renews.as_ref(), &reply))?;
        client.traced(|| {
            let session = SessionName::new(SessionKind::Established, &token.name);
            let (created, expires) = (token.created, token.expires);
            Traced::Session { session: SessionName { parent, ..session }, created, expires }
        });
        Ok(token)
    }

    fn token(
        client: &Client,
        entropy: &[u8],
        renews: Option<&TokenName>,
        reply: &Reply,
    ) -> Result<ContextToken, ClientError> {
        let size = KeySize::from(client.suite);
        let expected = if renews.is_some() { RENEWED } else { ESTABLISHED };
        check_action(reply, expected)?;
        let (response, element) =
            SessionResponse::read(&reply.document, reply.body, client.version, size.bits())?;
        // Renew keeps the Identifier, and names another generation.
        if let Some(TokenName::Context { identifier, .. }) = renews {
            let keeps = matches!(&response.name, TokenName::Context { identifier: renewed, .. } if renewed == identifier);
            if !keeps || Some(&response.name) == renews {
                return Err(Reason::Missing("Identifier or Instance of the renewed token").into());
            }
        }
        let key = Key::from_entropy(size, entropy, &response.entropy);
        Ok(ContextToken {
            element: extract(&reply.document, element)?,
            key: (&key).into(),
            name: response.name,
            created: response.lifetime.0,
            expires: response.lifetime.1,
        })
    }
}

/// Cancel that waits for its answer.
#[derive(Debug)]
pub struct Cancelling(Pending);

impl Cancelling {
    /// Takes the answer.
    pub fn receive(self, body: &[u8], now: FileTime) -> Result<(), ClientError> {
        let (client, name) = (self.0.client.clone(), session_name(&self.0.token));
        let reply = self.0.receive(body, now)?;
        let cancelled = check_action(&reply, CANCELLED).and_then(|()| {
            match trust::is_cancelled(&reply.document, reply.body, client.version) {
                true => Ok(()),
                false => Err(Reason::Missing("RequestedTokenCancelled").into()),
            }
        });
        client.rejected(cancelled)?;
        client.traced(|| Traced::Cancelled(name));
        Ok(())
    }
}

/// Decodes a message that is not secured, or cannot be opened.
fn content_of(incoming: &Incoming) -> Content {
    let Incoming { document, envelope, is_secured, .. } = incoming;
    if *is_secured {
        return Content::Other;
    }
    if let Some(fault) = read_fault(document, envelope.body) {
        return Content::Fault(fault);
    }
    incoming.trust_element().and_then(|element| leg_of(document, element)).unwrap_or(Content::Other)
}

/// Decodes a leg of a server.
fn leg_of(document: &Document, element: NodeId) -> Option<Content> {
    let exchange = |exchange: Option<&tlsnego_service::message::BinaryExchange<'_>>| {
        exchange.map(|exchange| trace::tls_exchange(&exchange.octets)).unwrap_or_default()
    };
    if document.is(element, TRUST.name("RequestSecurityTokenResponse")) {
        let message = trust::read_response(document, element).ok()?;
        return Some(Content::Leg { tls: exchange(message.binary_exchange.as_ref()) });
    }
    let mut responses = document.elements(element);
    let message = trust::read_token_response(document, responses.next()?).ok()?;
    let authenticator = responses.next().and_then(|node| trust::read_authenticator(document, node).ok());
    let wrapped_key = message.cipher_value.unwrap_or_default();
    Some(Content::Token(TokenLeg {
        tls: exchange(message.binary_exchange.as_ref()),
        identifier: crate::refusal::shortened(message.identifier.as_deref()?),
        expires: message.lifetime.map(|(_, expires)| expires),
        wrapped_key: trace::tls_records(&wrapped_key, "application data"),
        wrapped_key_len: wrapped_key.len(),
        authenticator_len: authenticator.and_then(|found| found.combined_hash).map(|hash| hash.len()),
    }))
}

/// Decodes a secured message; `plain` is the same with all parts in clear.
fn secured_message(
    octets: &[u8],
    action: String,
    plain: Option<&Document>,
    version: TrustVersion,
) -> Message {
    let limits = ParseLimits { octets: usize::MAX, ..ParseLimits::default() };
    let layout = Document::parse(octets, &limits).ok().and_then(|mut sent| {
        sent.set_spellings(version.spellings());
        Layout::read(&sent, plain?).ok()
    });
    let content = layout.map_or(Content::Other, |layout| Content::Secured(Box::new(layout)));
    Message { len: octets.len(), action, content }
}

fn check_action(reply: &Reply, expected: &str) -> Result<(), ClientError> {
    match reply.action == expected && only_element(&reply.document, reply.body).is_some() {
        true => Ok(()),
        false => Err(Reason::Missing("the action of the answer").into()),
    }
}
