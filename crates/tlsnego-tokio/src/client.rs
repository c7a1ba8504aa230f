//! A client over HTTP: it opens a session as its service asks for it, calls, renews and cancels.
//!
//! A call is sent once. It is sent a second time only if the service said that it did not run it: by a fault
//! about its session, after which there is a new session. After a time-out or a lost connection it is not
//! known whether the service ran it.

use crate::Clock;
use crate::http_client::{HttpAnswer, HttpClient, HttpError};
use bytes::Bytes;
use http::header::{ACCEPT_ENCODING, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, StatusCode, Uri};
use rustls_pki_types::CertificateDer;
use std::sync::Arc;
use std::time::Duration;
use tlsnego_service::fault::Fault;
use tlsnego_service::negotiation;
use tlsnego_soap::client::{
    Client, ClientError, ContextToken, Establishing, Negotiated, Proof, ReadFault, Reply, Under,
};
use xml_security::{Certificate, Signer, UsernameToken};

/// Decides on the certificate that a service shows in a negotiation.
pub trait ServerCertificates: Send + Sync {
    /// The first certificate is the service's, and the service has its key; the others came with it. The
    /// error says why it is rejected.
    fn check(&self, chain: &[CertificateDer<'static>]) -> Result<(), String>;
}

/// How the first key is agreed on.
#[expect(missing_debug_implementations, reason = "the decision on certificates is the program's")]
pub enum Bootstrap {
    /// By a TLS negotiation. A client certificate is part of its TLS settings.
    Negotiate {
        /// TLS settings.
        tls: negotiation::Client,
        /// Decides on the service's certificate.
        certificates: Box<dyn ServerCertificates>,
    },
    /// The client knows the certificate of the service, which is trusted, and encrypts a key to it.
    Certificate {
        /// The service's certificate.
        service: Certificate,
        /// The client's certificate with its key, if that proves who the client is.
        signer: Option<Box<dyn Signer + Send + Sync>>,
    },
}

/// What a client knows of its service.
#[expect(missing_debug_implementations, reason = "it has a password")]
pub struct Settings {
    /// `http` or `https` URL to post to.
    pub url: Uri,
    /// TLS settings for an `https` URL.
    pub https: Option<Arc<rustls::ClientConfig>>,
    /// The protocol.
    pub client: Client,
    /// How the first key is agreed on.
    pub bootstrap: Bootstrap,
    /// Whether a session is established (RST/SCT) before the first call.
    pub establish: bool,
    /// User name and password, if they prove who the client is.
    pub username: Option<UsernameToken>,
    /// How long the service may take to answer one message.
    pub timeout: Duration,
    /// Headers of each request beside `Content-Type`, such as those of W3C Trace Context.
    pub headers: HeaderMap,
}

/// Why there is no reply.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// There is no connection, so the message was not sent.
    #[error("cannot reach the service: {0}")]
    NotReached(String),
    /// The connection failed after the message was sent.
    #[error("lost the connection, so it is not known whether the service took the message: {0}")]
    Lost(String),
    /// There was no answer in time.
    #[error("no answer in time, so it is not known whether the service took the message")]
    TimedOut,
    /// The answer is too long.
    #[error("not authenticated: the answer is longer than {0} octets")]
    TooLong(usize),
    /// The service's certificate is rejected. Nothing secret was sent.
    #[error("the certificate of the service is rejected: {0}")]
    ServerCertificate(String),
    /// The answer is no reply, or the message cannot be made.
    #[error(transparent)]
    Protocol(#[from] ClientError),
}

impl CallError {
    /// Whether it is not known if the service took the message.
    pub const fn is_open(&self) -> bool {
        matches!(self, Self::Lost(_) | Self::TimedOut)
    }
}

/// The answer to a call.
#[derive(Debug)]
pub enum Answer {
    /// A reply or a fault of the application, which is verified.
    Reply(Reply),
    /// 202 without a body, as to a one-way message. Nothing proves that the service sent it.
    Accepted,
}

/// A client of one service. One message is in flight at a time.
#[expect(missing_debug_implementations, reason = "it has a password")]
pub struct Caller {
    settings: Arc<Settings>,
    http: HttpClient,
    token: Option<ContextToken>,
    clock: Clock,
}

impl Caller {
    /// Opens no connection.
    pub fn new(settings: Settings, clock: Clock) -> Self {
        Self::shared(Arc::new(settings), clock)
    }

    /// The same with settings of several clients.
    pub(crate) fn shared(settings: Arc<Settings>, clock: Clock) -> Self {
        let answer_len_max = settings.client.limits.octets;
        let http = HttpClient::new(settings.https.clone(), settings.timeout, answer_len_max);
        Self { settings, http, token: None, clock }
    }

    /// The token under which calls are sent; none before [`Self::open`], and in messages with a key of their
    /// own.
    pub const fn token(&self) -> Option<&ContextToken> {
        self.token.as_ref()
    }

    /// Negotiates and establishes, as the settings say. A session that was open is forgotten.
    pub async fn open(&mut self) -> Result<(), CallError> {
        self.token = None;
        let bootstrap = self.bootstrap().await?;
        self.token = match self.settings.establish {
            false => bootstrap,
            true => {
                let (octets, establishing) = self.settings.client.establish(
                    self.outer(bootstrap.as_ref()),
                    self.proof(),
                    self.now(),
                )?;
                Some(self.exchange(octets, establishing).await?)
            }
        };
        Ok(())
    }

    /// Calls. `body` is an `s:Body` element that stands for itself.
    ///
    /// Opens a session if there is none. If the service says that it lost the session or needs a new key,
    /// there is a new one, and the call is sent once more.
    pub async fn call(&mut self, action: &str, body: &[u8]) -> Result<Answer, CallError> {
        let mut is_repeated = false;
        loop {
            let recovery = match self.call_once(action, body).await {
                Err(CallError::Protocol(error)) if !is_repeated => {
                    match Recovery::after(&error, self.has_token()) {
                        Some(recovery) => recovery,
                        None => return Err(error.into()),
                    }
                }
                ended => return ended,
            };
            is_repeated = true;
            match recovery {
                Recovery::Renew if self.settings.establish => self.renew().await?,
                Recovery::Renew | Recovery::Reopen => self.open().await?,
            }
        }
    }

    /// Gives the session a new key. Opens one if there is none.
    pub async fn renew(&mut self) -> Result<(), CallError> {
        let (Some(token), true) = (self.token.clone(), self.settings.establish) else {
            return self.open().await;
        };
        // As .NET asks for it: under what it was established under, anew, endorsed by the session. A
        // certificate endorses, too, and a message has one endorsing signature.
        let is_endorsable =
            !matches!(self.settings.bootstrap, Bootstrap::Certificate { signer: Some(_), .. });
        let bootstrap = if is_endorsable { self.bootstrap().await? } else { None };
        let (under, proof) = match is_endorsable {
            true => (self.outer(bootstrap.as_ref()), self.proof()),
            false => (Under::Token(&token), Proof::None),
        };
        let (octets, renewing) = self.settings.client.renew(&token, under, proof, self.now())?;
        self.token = Some(self.exchange(octets, renewing).await?);
        Ok(())
    }

    /// Ends the session, if there is one.
    pub async fn cancel(&mut self) -> Result<(), CallError> {
        let Some(token) = self.token.take() else { return Ok(()) };
        let (octets, cancelling) = self.settings.client.cancel(&token, self.now())?;
        let answer = self.post(octets).await?;
        Ok(cancelling.receive(&answer.body, self.now())?)
    }

    async fn call_once(&mut self, action: &str, body: &[u8]) -> Result<Answer, CallError> {
        if self.token.is_none() && self.has_token() {
            self.open().await?;
        }
        let proof = if self.settings.establish { Proof::None } else { self.proof() };
        let call = (action, body);
        let (octets, pending) =
            self.settings.client.call(self.outer(self.token.as_ref()), proof, call, self.now())?;
        let answer = self.post(octets).await?;
        if answer.status == StatusCode::ACCEPTED && answer.body.is_empty() {
            return Ok(Answer::Accepted);
        }
        Ok(Answer::Reply(pending.receive(&answer.body, self.now())?))
    }

    /// Negotiates, if the settings say so.
    async fn bootstrap(&self) -> Result<Option<ContextToken>, CallError> {
        let Bootstrap::Negotiate { tls, certificates } = &self.settings.bootstrap else { return Ok(None) };
        let (mut octets, mut negotiating) = self.settings.client.negotiate(tls)?;
        loop {
            let answer = self.post(octets).await?;
            (octets, negotiating) = match negotiating.receive(&answer.body, self.now())? {
                Negotiated::Token(token) => return Ok(Some(token)),
                Negotiated::Send(octets, negotiating) => (octets, negotiating),
                Negotiated::Certificate(unverified) => {
                    certificates.check(unverified.certificates()).map_err(CallError::ServerCertificate)?;
                    unverified.accept()?
                }
            };
        }
    }

    /// Whether calls are sent under a token.
    fn has_token(&self) -> bool {
        self.settings.establish || matches!(self.settings.bootstrap, Bootstrap::Negotiate { .. })
    }

    /// What protects a message outside of an established session.
    fn outer<'a>(&'a self, token: Option<&'a ContextToken>) -> Under<'a> {
        match (&self.settings.bootstrap, token) {
            (_, Some(token)) => Under::Token(token),
            (Bootstrap::Certificate { service, .. }, None) => Under::Certificate(service),
            (Bootstrap::Negotiate { .. }, None) => unreachable!("a negotiation ends with a token"),
        }
    }

    /// What proves who the client is, outside of an established session.
    fn proof(&self) -> Proof<'_> {
        match (&self.settings.bootstrap, &self.settings.username) {
            (_, Some(username)) => Proof::UserName(username),
            (Bootstrap::Certificate { signer: Some(signer), .. }, None) => Proof::Certificate(&**signer),
            _ => Proof::None,
        }
    }

    async fn exchange(&self, octets: Vec<u8>, establishing: Establishing) -> Result<ContextToken, CallError> {
        let answer = self.post(octets).await?;
        Ok(establishing.receive(&answer.body, self.now())?)
    }

    /// The status says nothing that the answer does not say.
    async fn post(&self, octets: Vec<u8>) -> Result<HttpAnswer, CallError> {
        let mut headers = self.settings.headers.clone();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(tlsnego_soap::CONTENT_TYPE));
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        self.http.post(&self.settings.url, headers, Bytes::from(octets)).await.map_err(|error| match error {
            HttpError::NotSent(why) => CallError::NotReached(why),
            HttpError::Lost(why) => CallError::Lost(why),
            HttpError::TimedOut => CallError::TimedOut,
            HttpError::TooLong => CallError::TooLong(self.settings.client.limits.octets),
        })
    }

    fn now(&self) -> dtyp::FileTime {
        (self.clock)().wall
    }
}

/// What makes a call possible that the service did not run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Recovery {
    /// Another session.
    Reopen,
    /// Another key.
    Renew,
}

impl Recovery {
    /// The one place that decides whether a call is sent a second time: a service that answers so has refused
    /// the token of the call before it looked at the call.
    ///
    /// The service has no key to secure the fault about a token that it lost, so that fault proves nothing.
    /// That an attacker between client and service has the message run, and then forges this fault, only
    /// `https` prevents.
    fn after(error: &ClientError, has_token: bool) -> Option<Self> {
        let is = |found: &ReadFault, fault: Fault| {
            let (namespace, local) = fault.subcode();
            found.namespace == namespace.uri && found.local == local
        };
        match error {
            _ if !has_token => None,
            ClientError::Session(fault) if is(fault, Fault::RenewNeeded) => Some(Self::Renew),
            ClientError::Session(fault) | ClientError::NotAuthenticated(fault)
                if is(fault, Fault::SecuritySessionAborted) =>
            {
                Some(Self::Reopen)
            }
            ClientError::NotAuthenticated(fault) if is(fault, Fault::BadContextToken) => Some(Self::Reopen),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_repeated_only_after_a_fault_about_its_session() {
        let read = |(namespace, local): (&str, &str)| ReadFault {
            namespace: namespace.to_owned(),
            local: local.to_owned(),
            text: String::new(),
        };
        let of = |fault: Fault| {
            let (namespace, local) = fault.subcode();
            read((namespace.uri, local))
        };
        for fault in Fault::ALL {
            let plain = Recovery::after(&ClientError::NotAuthenticated(of(fault)), true);
            let expected = match fault {
                Fault::BadContextToken | Fault::SecuritySessionAborted => Some(Recovery::Reopen),
                _ => None,
            };
            assert_eq!(plain, expected, "{fault}, not secured");
            let secured = Recovery::after(&ClientError::Session(of(fault)), true);
            let expected = match fault {
                Fault::RenewNeeded => Some(Recovery::Renew),
                Fault::SecuritySessionAborted => Some(Recovery::Reopen),
                _ => None,
            };
            assert_eq!(secured, expected, "{fault}, secured");
            // A message with a key of its own has no session.
            assert_eq!(Recovery::after(&ClientError::NotAuthenticated(of(fault)), false), None);
        }
        for other in [("urn:application", "BadContextToken"), ("", "BadContextToken")] {
            assert_eq!(Recovery::after(&ClientError::NotAuthenticated(read(other)), true), None);
        }
        assert_eq!(Recovery::after(&ClientError::OtherMessage, true), None);
        assert_eq!(Recovery::after(&ClientError::Unreadable(String::new()), true), None);
    }
}
