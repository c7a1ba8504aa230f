//! The question and the answer.

use crate::certificate::OwnedCertificate;
use crate::context::CallContext;
use crate::domains::RoutedBy;
use crate::foreign::ForeignAccount;
use crate::form::{Method, Strength};
use crate::message::{MappingFlags, Request};
use crate::policy::Policy;
use crate::reason::Reason;
use crate::scope::Scope;
use crate::trace::Step;
use account_store::Record;
use bytes::Bytes;
use dtyp::{DecodeError, FileTime, NtStatus, Sid};
use sha2::{Digest, Sha256};
use std::sync::{Arc, OnceLock};

/// The account that asks, as the transport has verified it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asker {
    /// The account, such as `WEB01$`.
    pub account: String,
    /// Its SID.
    pub sid: Sid,
    /// Whether it may ask for certificates to be mapped.
    pub may_map: bool,
    /// The accounts that it gets answers for.
    pub scope: Scope,
    /// NetBIOS name of the domain that asks, where the account is a trust's.
    pub trust: Option<String>,
}

impl Asker {
    /// A machine of this domain, whose scope is every account that is not privileged.
    pub fn machine(account: impl Into<String>, sid: Sid, may_map: bool) -> Self {
        Self { account: account.into(), sid, may_map, scope: Scope::default(), trust: None }
    }
}

/// The question which account a certificate belongs to.
///
/// A question of the protocol is a message ([`Question::new`]), and its answer has one, too. A program that
/// maps a certificate itself asks with the certificate ([`Question::about`]), and no message is written for
/// it.
#[derive(Clone, Debug)]
pub struct Question {
    /// The message, or the certificate.
    pub body: QuestionBody,
    /// LogonDomainName: the domain that is to answer; empty for the server's own.
    pub logon_domain_name: String,
    /// The account that asks.
    pub asker: Arc<Asker>,
    /// What came beside the question from a node of ours.
    pub context: CallContext,
    /// The time by which everything is valid or not.
    pub now: FileTime,
    /// Whether the answer has the steps to the decision, for the audit log.
    pub is_traced: bool,
}

/// The message of a question, or its certificate. Copies share it, and what was read of it.
#[derive(Clone, Debug)]
pub struct QuestionBody(Arc<Body>);

#[derive(Debug)]
enum Body {
    Message {
        /// SSL_CERT_LOGON_REQ, as it was sent: a forwarder sends the same bytes on.
        message: Bytes,
        digest: OnceLock<[u8; 32]>,
        /// The message, read when this is first needed.
        asked: OnceLock<Result<Asked, DecodeError>>,
    },
    Certificate(Asked),
}

/// What a question asks.
#[derive(Clone, Debug)]
pub struct Asked {
    /// The methods to try.
    pub flags: MappingFlags,
    /// The certificate.
    pub certificate: Result<OwnedCertificate, DecodeError>,
    /// The issuers' names.
    pub issuers: Issuers,
}

/// The names of the issuers of a certificate, for [`Method::Issuer`].
#[derive(Clone, Debug)]
pub enum Issuers {
    /// Encoded X.501 names, the certificate's issuer first.
    Named(Vec<Bytes>),
    /// Those of the verified path. Where chains are not verified: those of these certificates, which came
    /// with the certificate, as far as they lead.
    OfChain(Vec<Bytes>),
}

impl Question {
    /// A question of the protocol (SSL_CERT_LOGON_REQ), to the server's own domain and with nothing beside
    /// it.
    pub fn new(message: impl Into<Bytes>, asker: impl Into<Arc<Asker>>, now: FileTime) -> Self {
        Self::of(QuestionBody::message(message), asker.into(), now)
    }

    /// A question about a certificate, with the certificates that came with it.
    pub fn about(
        certificate: OwnedCertificate,
        chain: Vec<Bytes>,
        flags: MappingFlags,
        asker: impl Into<Arc<Asker>>,
        now: FileTime,
    ) -> Self {
        let asked = Asked { flags, certificate: Ok(certificate), issuers: Issuers::OfChain(chain) };
        Self::of(QuestionBody(Arc::new(Body::Certificate(asked))), asker.into(), now)
    }

    fn of(body: QuestionBody, asker: Arc<Asker>, now: FileTime) -> Self {
        let (logon_domain_name, context) = (String::new(), CallContext::default());
        Self { body, logon_domain_name, asker, context, now, is_traced: false }
    }

    /// The message, where the question is one.
    pub fn message(&self) -> Option<&Bytes> {
        match &*self.body.0 {
            Body::Message { message, .. } => Some(message),
            Body::Certificate(_) => None,
        }
    }

    /// SHA-256 of the message: what the two ends of a call have in common, with any servers between them.
    pub fn digest(&self) -> Option<&[u8; 32]> {
        match &*self.body.0 {
            Body::Message { message, digest, .. } => {
                Some(digest.get_or_init(|| Sha256::digest(message).into()))
            }
            Body::Certificate(_) => None,
        }
    }

    /// What is asked. A message is read once.
    pub fn asked(&self) -> Result<&Asked, &DecodeError> {
        match &*self.body.0 {
            Body::Message { message, asked, .. } => asked.get_or_init(|| Asked::read(message)).as_ref(),
            Body::Certificate(asked) => Ok(asked),
        }
    }
}

impl QuestionBody {
    /// SSL_CERT_LOGON_REQ.
    pub fn message(message: impl Into<Bytes>) -> Self {
        let (digest, asked) = (OnceLock::new(), OnceLock::new());
        Self(Arc::new(Body::Message { message: message.into(), digest, asked }))
    }
}

impl Asked {
    /// Reads a message (SSL_CERT_LOGON_REQ). A certificate that cannot be read is no error of the message.
    pub fn read(message: &Bytes) -> Result<Self, DecodeError> {
        let request = Request::decode(message)?;
        Ok(Self {
            flags: request.flags,
            certificate: OwnedCertificate::parse(message.slice_ref(request.certificate)),
            issuers: Issuers::Named(
                request.issuers.into_iter().map(|issuer| message.slice_ref(issuer)).collect(),
            ),
        })
    }
}

/// The account, or the reason for which there is none.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The status for the client.
    pub status: NtStatus,
    /// Whether no other server need be asked.
    pub authoritative: bool,
    /// The reason, for the log, the metrics and the audit.
    pub reason: Reason,
    /// The policy by which it was decided.
    pub policy_revision: u64,
    /// The number of the store's revision before the look-up: changes up to it count. Only if it was decided
    /// here, by a store that has such a number and answers.
    pub store_revision: Option<u64>,
    /// The account, if it is one of this domain.
    pub mapped: Option<Mapped>,
    /// The other domain that was asked, and its answer.
    pub elsewhere: Option<Elsewhere>,
    /// SSL_CERT_LOGON_RESP, if there is an account and the question is a message.
    pub message: Option<Bytes>,
    /// Whether it was decided by the accounts of this domain.
    pub decided_here: bool,
    /// The steps to the decision, if the question asks for them.
    pub steps: Vec<Step>,
}

impl Answer {
    /// An answer without an account.
    pub fn refused(reason: Reason, policy: &Policy) -> Self {
        Self {
            status: reason.status(policy.tell_restrictions),
            authoritative: reason.is_authoritative(),
            reason,
            policy_revision: policy.revision,
            store_revision: None,
            mapped: None,
            elsewhere: None,
            message: None,
            decided_here: false,
            steps: Vec::new(),
        }
    }

    /// The same with its steps, and the number of the store's revision before the look-up.
    pub(crate) fn traced(self, revision: Option<u64>, steps: Option<Vec<Step>>) -> Self {
        let store_revision = revision.filter(|_| self.decided_here);
        Self { store_revision, steps: steps.unwrap_or_default(), ..self }
    }
}

/// An account of this domain that was found.
#[derive(Clone, Debug)]
pub struct Mapped {
    /// The account.
    pub record: Arc<Record>,
    /// The method that found it.
    pub method: Method,
    /// How strongly the certificate is bound to it.
    pub strength: Strength,
}

/// What was heard from another domain.
#[derive(Clone, Debug)]
pub struct Elsewhere {
    /// NetBIOS name of the domain that is to answer.
    pub domain: String,
    /// NetBIOS name of the peer that was asked.
    pub peer: String,
    /// By what it was chosen.
    pub by: RoutedBy,
    /// The server that answered, where one did.
    pub server: Option<String>,
    /// SHA-256 of the request: what the two ends of a call have in common, with any servers between them.
    pub digest: [u8; 32],
    /// The account that was found.
    pub account: Option<Box<ForeignAccount>>,
}
