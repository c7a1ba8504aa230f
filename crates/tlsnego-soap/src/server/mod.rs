//! A service: negotiations and sessions are answered here, calls are given to the application. [`metadata`]
//! describes it for clients.

pub mod metadata;
mod secured;
mod tokens;

pub use secured::{Call, CallFault};
pub(crate) use secured::{confirms, session_name};
pub use tokens::{Ending, Tokens};

use crate::address::Address;
use crate::http::{HttpRequest, HttpResponse};
use crate::message::{Draft, Incoming, Relation};
use crate::names::{GET, NEGOTIATE, NEGOTIATE_NEXT, TrustVersion};
use crate::refusal::Refusal;
use crate::{Random, local_id, trust, urn};
use dtyp::FileTime;
use metadata::Metadata;
use rustls_pki_types::CertificateDer;
use std::sync::{Arc, PoisonError, RwLock};
use tlsnego_service::failures::Failures;
use tlsnego_service::fault::Reason;
use tlsnego_service::freshness::{Horizon, ReplayCache, Skew};
use tlsnego_service::message::Authenticator;
use tlsnego_service::names::TRUST;
use tlsnego_service::negotiation::{
    Answer as Leg, ClientCertificates, Established, Grant, Negotiations, Server as TlsServer, ServerSettings,
};
use tlsnego_service::password::PasswordCheck;
use tlsnego_service::session::{
    BoxFuture, CookieSessions, CookieSettings, Credential, EndReason, Ended, Identity, Keyed, NewSession,
    Session, SessionTimes, SharedTokens, StoreFailed, TicketSealer,
};
use tlsnego_service::{Credentials, Moment, TlsVersions, UnusableCredentials};
use tokens::Issued;
use xml_security::{Certificate, DecryptionKey, ParseLimits, Suite, TokenName};
use zeroize::Zeroizing;

/// One row of WCF's settings: `negotiateServiceCredential` and `establishSecurityContext`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Binding {
    /// The client negotiates a token; otherwise it knows the service's certificate.
    pub negotiate: bool,
    /// The client establishes a session by RST/SCT before it calls.
    pub establish: bool,
}

impl Binding {
    /// All four.
    pub const ALL: [Self; 4] = [
        Self { negotiate: true, establish: true },
        Self { negotiate: true, establish: false },
        Self { negotiate: false, establish: true },
        Self { negotiate: false, establish: false },
    ];
}

/// What a service accepts.
#[derive(Clone, Debug)]
pub struct Settings {
    /// What `a:To` may be; the first is the one that is published.
    pub addresses: Vec<Address>,
    /// Algorithms.
    pub suite: Suite,
    /// Which ways to a call are open.
    pub bindings: Vec<Binding>,
    /// By what all clients prove who they are.
    pub credential: Credential,
    /// Lives of tokens.
    pub times: SessionTimes,
    /// Whether clients may speak WS-Trust 1.3 as well. Then the metadata has bindings of both.
    pub trust13: bool,
    /// Difference of clocks.
    pub skew: Skew,
    /// Limits of a message.
    pub limits: ParseLimits,
    /// What is published of the service without any proof; none if nothing is.
    pub metadata: Option<Arc<Metadata>>,
}

/// Decides on the certificates of clients.
pub trait CertificateMapper: Send + Sync {
    /// Validates a chain, of which the client has the key, and finds its account. The error is for the log.
    fn map<'a>(&'a self, chain: &'a [CertificateDer<'static>]) -> BoxFuture<'a, Result<Identity, String>>;
}

/// The certificate of a service.
#[derive(Debug)]
pub struct ServiceCertificate {
    /// For handshakes.
    pub tls: Credentials,
    /// TLS versions.
    pub versions: TlsVersions,
    /// For messages without negotiation; none if no binding is without.
    pub preset: Option<(Certificate, DecryptionKey)>,
}

/// A service's side.
pub struct Server {
    settings: Settings,
    negotiations: Negotiations,
    tokens: Tokens,
    replay: ReplayCache,
    failures: Failures,
    passwords: Box<dyn PasswordCheck>,
    certificates: Box<dyn CertificateMapper>,
    shown: RwLock<Shown>,
    random: Random,
    started: FileTime,
    horizon: Option<Horizon>,
}

/// What goes with the certificate of the service.
#[derive(Clone)]
struct Shown {
    preset: Option<Arc<(Certificate, DecryptionKey)>>,
    metadata: Option<Arc<Metadata>>,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server").field("settings", &self.settings).finish_non_exhaustive()
    }
}

/// What is to be done about a request.
#[derive(Debug)]
pub enum Answer {
    /// The message is answered.
    Reply(Reply),
    /// It is a verified call for the application.
    Call(Box<Call>),
}

/// An answer, and what it is about.
#[derive(Debug)]
pub struct Reply {
    /// To be sent.
    pub response: HttpResponse,
    /// For the log.
    pub event: Event,
}

/// What happened.
#[derive(Clone, Debug)]
pub enum Event {
    /// A negotiation goes on.
    Leg,
    /// Metadata was read.
    Metadata,
    /// A token was issued: negotiated or established.
    Opened(Arc<Session>),
    /// A session has a new key.
    Renewed(Arc<Session>),
    /// A session was cancelled by its client.
    Cancelled(Arc<Session>),
    /// The message was refused.
    Refused(Refusal),
}

impl Event {
    /// One word for metrics and traces. That of a refusal is its reason.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Leg => "leg",
            Self::Metadata => "metadata",
            Self::Opened(_) => "opened",
            Self::Renewed(_) => "renewed",
            Self::Cancelled(_) => "cancelled",
            Self::Refused(refusal) => refusal.name(),
        }
    }

    /// The session that it is about.
    pub fn session(&self) -> Option<&Session> {
        match self {
            Self::Opened(session) | Self::Renewed(session) | Self::Cancelled(session) => Some(session),
            Self::Leg | Self::Metadata | Self::Refused(_) => None,
        }
    }
}

/// A refusal, and the session whose key secures the fault.
struct Failure {
    refusal: Refusal,
    secured_by: Option<Keyed>,
}

impl<R: Into<Refusal>> From<R> for Failure {
    fn from(refusal: R) -> Self {
        Self { refusal: refusal.into(), secured_by: None }
    }
}

/// What a certificate is used for.
fn parts_of(
    settings: &Settings,
    certificate: ServiceCertificate,
    metadata: Option<Arc<Metadata>>,
) -> Result<(TlsServer, Shown), UnusableCredentials> {
    let tls = TlsServer::new(ServerSettings {
        credentials: certificate.tls,
        versions: certificate.versions,
        client_certificates: match settings.credential {
            Credential::Certificate => ClientCertificates::Required,
            Credential::None | Credential::UserName => ClientCertificates::NotAsked,
        },
        key_size: settings.suite.into(),
    })?;
    // Where no binding uses it, no message of a client costs an RSA operation.
    let preset = certificate.preset.filter(|_| settings.bindings.iter().any(|binding| !binding.negotiate));
    Ok((tls, Shown { preset: preset.map(Arc::new), metadata }))
}

impl Server {
    /// Fails if the certificate cannot be used for TLS.
    pub fn new(
        settings: Settings,
        certificate: ServiceCertificate,
        passwords: impl PasswordCheck + 'static,
        certificates: impl CertificateMapper + 'static,
        random: Random,
    ) -> Result<Self, UnusableCredentials> {
        let metadata = settings.metadata.clone();
        let (tls, shown) = parts_of(&settings, certificate, metadata)?;
        Ok(Self {
            negotiations: Negotiations::new(tls),
            tokens: Tokens::in_table(settings.times),
            replay: ReplayCache::default(),
            failures: Failures::default(),
            passwords: Box::new(passwords),
            certificates: Box::new(certificates),
            shown: RwLock::new(shown),
            random,
            settings,
            started: FileTime::UNSET,
            horizon: None,
        })
    }

    /// Refuses messages with a key of their own that were created before: what was seen of those is forgotten
    /// when a service restarts. Messages under a token need none of this, because tokens are forgotten, too.
    /// With cookies, a shared store remembers what was seen.
    pub fn started_at(self, started: FileTime) -> Self {
        Self { started, ..self }
    }

    /// Keeps sessions in cookies instead of a table, so that each node with the same seal and store serves
    /// them.
    pub fn with_cookies(self, sealer: Arc<dyn TicketSealer>, shared: Arc<dyn SharedTokens>) -> Self {
        let Settings { credential, suite, times, skew, .. } = self.settings;
        let of_all =
            CookieSettings { credential, key_size: suite.into(), skew: skew.0, rollover: times.rollover };
        let sessions = CookieSessions::new(sealer, shared, of_all);
        Self { tokens: Tokens::in_cookies(sessions, times), ..self }
    }

    /// Before a message with a key of its own is accepted whose client has a clock that is ahead, this is
    /// told, so that [`Self::started_at`] covers the message after a restart.
    pub fn with_horizon(self, horizon: Horizon) -> Self {
        Self { horizon: Some(horizon), ..self }
    }

    /// Shows another certificate from now on, such as a renewed one, and publishes other metadata. Sessions
    /// and negotiations in progress go on.
    pub fn set_certificate(
        &self,
        certificate: ServiceCertificate,
        metadata: Option<Arc<Metadata>>,
    ) -> Result<(), UnusableCredentials> {
        let (tls, shown) = parts_of(&self.settings, certificate, metadata)?;
        self.negotiations.set_server(tls);
        *self.shown.write().unwrap_or_else(PoisonError::into_inner) = shown;
        Ok(())
    }

    fn shown(&self) -> Shown {
        self.shown.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What is published of the service, for the listener's GET.
    pub fn metadata(&self) -> Option<Arc<Metadata>> {
        self.shown().metadata
    }

    /// The answer to a message that the caller refuses.
    pub fn refuse(&self, refusal: Refusal, now: Moment) -> Reply {
        let relation = Relation { version: TrustVersion::default(), message_id: None };
        self.refusal(refusal.into(), relation, now)
    }

    /// The sessions, for an operator and for metrics.
    pub const fn tokens(&self) -> &Tokens {
        &self.tokens
    }

    /// Ends a session before its time.
    pub async fn end(&self, session: &Arc<Session>, why: EndReason, now: Moment) -> Result<(), StoreFailed> {
        self.tokens.end(session, why, now).await
    }

    /// The negotiations in progress, for metrics.
    pub fn negotiations(&self) -> &Negotiations {
        &self.negotiations
    }

    /// The messages that were seen, for metrics.
    pub fn replay(&self) -> &ReplayCache {
        &self.replay
    }

    /// The failures of messages under an EncryptedKey, for metrics.
    pub fn failures(&self) -> &Failures {
        &self.failures
    }

    /// Ends what is over, and returns the sessions that ended since the last call, except what was cancelled.
    /// To be called every few seconds: each message does what it needs of it by itself.
    pub fn expire(&self, now: Moment) -> Vec<Ended> {
        self.negotiations.expire(now.uptime);
        self.replay.expire(now.wall);
        self.tokens.expire(now)
    }

    /// Takes a request.
    pub async fn receive(&self, request: &HttpRequest<'_>, now: Moment) -> Answer {
        let incoming = match Incoming::read(request, &self.settings.limits) {
            Ok(incoming) => incoming,
            Err(refusal) => {
                let relation = Relation { version: TrustVersion::default(), message_id: None };
                return self.refused(refusal.into(), relation, now);
            }
        };
        let (version, message_id) = (incoming.version, incoming.message_id.clone());
        match self.answer(incoming, request, now).await {
            Ok(answer) => answer,
            Err(failure) => {
                self.refused(failure, Relation { version, message_id: message_id.as_deref() }, now)
            }
        }
    }

    async fn answer(
        &self,
        incoming: Incoming,
        request: &HttpRequest<'_>,
        now: Moment,
    ) -> Result<Answer, Failure> {
        if let (false, GET, Some(metadata)) = (incoming.is_secured, &*incoming.action, self.metadata()) {
            incoming.check(metadata.addresses(), false)?;
            let response = metadata.exchange(incoming.relation())?;
            return Ok(Answer::Reply(Reply { response, event: Event::Metadata }));
        }
        incoming.check(&self.settings.addresses, self.settings.trust13)?;
        match (incoming.is_secured, &*incoming.action) {
            (false, NEGOTIATE | NEGOTIATE_NEXT) => {
                Ok(Answer::Reply(self.negotiate(&incoming, request, now).await?))
            }
            (false, _) => Err(xml_security::Reason::Shape("o:Security").into()),
            (true, NEGOTIATE | NEGOTIATE_NEXT) => {
                Err(Reason::NotAllowed("a leg of a negotiation has no security header").into())
            }
            (true, _) => self.secured(incoming, request, now).await,
        }
    }

    /// One leg of a client.
    async fn negotiate(
        &self,
        incoming: &Incoming,
        request: &HttpRequest<'_>,
        now: Moment,
    ) -> Result<Reply, Refusal> {
        if !self.settings.bindings.iter().any(|binding| binding.negotiate) {
            return Err(Reason::NotAllowed("this service does not negotiate").into());
        }
        let document = &incoming.document;
        let element = incoming.trust_element().ok_or(Reason::Missing("the trust element"))?;
        let canonical = trust::canonical(document, element, |_| false);
        let leg = match &*incoming.action {
            NEGOTIATE if document.is(element, TRUST.name("RequestSecurityToken")) => {
                let message = trust::read_request(document, element)?;
                self.negotiations.first(&message, &canonical, request.source, now.uptime)?
            }
            NEGOTIATE_NEXT if document.is(element, TRUST.name("RequestSecurityTokenResponse")) => {
                let message = trust::read_response(document, element)?;
                self.negotiations.next(&message, &canonical, now.uptime)?
            }
            _ => return Err(Reason::Missing("the trust element of this action").into()),
        };
        match leg {
            Leg::Reply(reply) => {
                let mut draft = Draft::reply(NEGOTIATE_NEXT, incoming.relation());
                let element = trust::write_response(&mut draft.document, draft.body, reply.message());
                reply.wrote(&trust::canonical(&draft.document, element, |_| false));
                Ok(Reply { response: draft.unsecured(200)?, event: Event::Leg })
            }
            Leg::Established(established) => self.issue(incoming.relation(), established, request, now).await,
        }
    }

    /// The last leg.
    async fn issue(
        &self,
        relation: Relation<'_>,
        established: Established,
        request: &HttpRequest<'_>,
        now: Moment,
    ) -> Result<Reply, Refusal> {
        let (identity, credential) = match self.settings.credential {
            Credential::Certificate => {
                let mapped = self.certificates.map(established.certificates()).await;
                let identity = mapped.map_err(Reason::CertificateRejected)?;
                (Some(identity), Credential::Certificate)
            }
            Credential::None | Credential::UserName => (None, Credential::None),
        };
        let mut random = Zeroizing::new([0; 32]);
        (self.random)(&mut *random);
        let name = urn(&self.random);
        let grant = Grant {
            identifier: name.clone(),
            random,
            created: now.wall,
            expires: now.wall + self.settings.times.negotiated,
        };
        let issuing = established.issue(grant, now.uptime)?;
        let context = issuing.message().context.clone();
        let mut draft = Draft::reply(relation.version.last_leg(), relation);
        let Draft { document, body } = &mut draft;
        let id = local_id(&self.random);
        let (collection, response) = trust::write_token_response(document, *body, issuing.message(), &id)?;
        let issued = issuing.wrote(&trust::canonical_of_token_response(document, response));
        let combined_hash = Some(issued.combined_hash.to_vec().into());
        trust::write_authenticator(document, collection, &Authenticator { context, combined_hash });
        let new = NewSession { name, key: issued.key, identity, credential, source: request.source };
        let Issued { session, cookie } = self.tokens.add(new, None, now)?;
        if let Some(cookie) = cookie {
            let token = trust::requested_token(document, response)?;
            trust::append_cookie(document, token.ok_or(Reason::Missing("SecurityContextToken"))?, &cookie);
        }
        let response = draft.unsecured(200)?;
        Ok(Reply { response, event: Event::Opened(session) })
    }

    fn refused(&self, failure: Failure, relation: Relation<'_>, now: Moment) -> Answer {
        Answer::Reply(self.refusal(failure, relation, now))
    }

    fn refusal(&self, failure: Failure, relation: Relation<'_>, now: Moment) -> Reply {
        let Failure { refusal, secured_by } = failure;
        let fault = refusal.fault();
        let draft = Draft::fault(&fault, relation);
        let response = match (secured_by, relation.message_id) {
            // A secured reply has to say what it answers.
            (Some(keyed), Some(_)) => {
                let session = &keyed.session;
                let token = TokenName::Context {
                    identifier: session.name.clone(),
                    instance: session.instance.clone(),
                };
                let key = (&keyed.key).into();
                secured::Channel::new(self.settings.suite, token, key, &self.random).secure(
                    draft,
                    fault.status,
                    now,
                )
            }
            _ => draft.unsecured(fault.status),
        };
        // What cannot be written has no body; the status says that it failed.
        let response = response.unwrap_or(HttpResponse { status: 500, body: Vec::new() });
        Reply { response, event: Event::Refused(refusal) }
    }
}
