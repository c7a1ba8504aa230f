//! The question and the answer, and the service between them.

use crate::answer;
use crate::certificate::Certificate;
use crate::mapping::{self, Method, Reason};
use crate::message::{MappingFlags, Request};
use crate::policy::{Policy, Unsupported};
use crate::trace::{NoTrace, Step, Trace};
use account_store::{AccountStore, BoxFuture, Matches, Query, Record};
use bytes::Bytes;
use dtyp::{FileTime, NtStatus, Sid};
use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};

/// Who asks, as the transport has verified it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asker {
    /// The account, such as `WEB01$`.
    pub account: String,
    /// Its SID.
    pub sid: Sid,
    /// Whether it may ask for certificates to be mapped.
    pub may_map: bool,
}

/// Which account is this certificate's?
#[derive(Clone, Debug)]
pub struct Question {
    /// SSL_CERT_LOGON_REQ, as it was sent: a forwarder sends the same bytes on.
    pub request: Vec<u8>,
    /// Who asks.
    pub asker: Asker,
}

/// The account, or why there is none.
#[derive(Clone, Debug)]
pub struct Answer {
    /// What the client is told.
    pub status: NtStatus,
    /// Whether nobody else need be asked.
    pub authoritative: bool,
    /// Why; for the log, the metrics and the audit.
    pub reason: Reason,
    /// The policy by which it was decided.
    pub policy_revision: u64,
    /// The account and the message that says so, when there is one.
    pub mapped: Option<Mapped>,
}

/// An account that was found.
#[derive(Clone, Debug)]
pub struct Mapped {
    /// The account.
    pub record: Arc<Record>,
    /// By which method.
    pub method: Method,
    /// SSL_CERT_LOGON_RESP.
    pub response: Bytes,
}

/// What a decision is made from, replaced whole when the configuration is reloaded.
pub struct Mapper {
    policy: Policy,
    store: Arc<dyn AccountStore>,
    server: String,
    cache: answer::Cache,
}

impl std::fmt::Debug for Mapper {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Mapper for {} by {:?}", self.store.domain().netbios, self.policy)
    }
}

impl Mapper {
    /// A mapper for the accounts of `store`; `server` is the NetBIOS name that answers carry. A policy that cannot be
    /// enforced is refused.
    pub fn new(policy: Policy, store: Arc<dyn AccountStore>, server: String) -> Result<Self, Unsupported> {
        policy.check()?;
        Ok(Self { policy, store, server, cache: answer::Cache::default() })
    }

    /// The policy.
    pub const fn policy(&self) -> &Policy {
        &self.policy
    }

    /// Answers a question.
    pub async fn answer(&self, question: &Question, now: FileTime) -> Answer {
        let decision = match question.asker.may_map {
            true => self.decide(&question.request, now, &mut NoTrace).await,
            false => Err(Reason::AskerDenied),
        };
        self.conclude(decision, now)
    }

    /// Makes the same decision for `rcmpd explain`, and takes down how. Nobody's permission is looked at.
    pub async fn explain(&self, request: &[u8], now: FileTime, trace: &mut Vec<Step>) -> Answer {
        let decision = self.decide(request, now, trace).await;
        let reason = match &decision {
            Ok((_, method)) => Reason::Mapped(*method),
            Err(reason) => *reason,
        };
        trace.step(|| Step::Decided { reason });
        self.conclude(decision, now)
    }

    fn conclude(&self, decision: Result<(Arc<Record>, Method), Reason>, now: FileTime) -> Answer {
        let mapped = decision.and_then(|(record, method)| {
            let response = self
                .cache
                .response(&record, self.store.domain(), &self.server, self.policy.identity_sid, now)
                .ok_or(Reason::Unanswerable)?;
            Ok(Mapped { record, method, response })
        });
        let reason = match &mapped {
            Ok(mapped) => Reason::Mapped(mapped.method),
            Err(reason) => *reason,
        };
        Answer {
            status: reason.status(self.policy.tell_restrictions),
            authoritative: reason.is_authoritative(),
            reason,
            policy_revision: self.policy.revision,
            mapped: mapped.ok(),
        }
    }

    async fn decide(
        &self,
        request: &[u8],
        now: FileTime,
        trace: &mut impl Trace,
    ) -> Result<(Arc<Record>, Method), Reason> {
        let request = Request::decode(request).map_err(|_| Reason::MalformedRequest)?;
        let flags = request.flags.and(MappingFlags::ALL);
        if !Method::ALL.iter().any(|method| flags.and(self.policy.methods).contains(method.flag())) {
            return Err(Reason::NoMethod);
        }
        let certificate =
            Certificate::parse(request.certificate).map_err(|_| Reason::MalformedCertificate)?;
        for method in Method::ALL {
            let asked = flags.contains(method.flag());
            if !asked || !self.policy.methods.contains(method.flag()) {
                trace.step(|| Step::Skipped { method, asked });
                continue;
            }
            let chain = flags.and(self.policy.methods);
            let queries = match mapping::queries(method, &certificate, &request.issuers, chain) {
                Ok(queries) => queries,
                Err(why) => {
                    trace.step(|| Step::NotApplicable { method, why });
                    continue;
                }
            };
            if let Some(record) = self.find(method, queries, trace).await? {
                mapping::judge(&certificate, &record, now)?;
                return Ok((record, method));
            }
        }
        Err(Reason::NoMatch)
    }

    /// The one account that a method's queries find.
    async fn find(
        &self,
        method: Method,
        queries: Vec<Query>,
        trace: &mut impl Trace,
    ) -> Result<Option<Arc<Record>>, Reason> {
        let mut one: Option<Arc<Record>> = None;
        let mut ambiguous = false;
        for query in queries {
            let found = self.store.find(&query).await;
            if let Err(error) = &found {
                tracing::warn!(%error, "The account store could not answer");
            }
            trace.step(|| Step::Asked { method, query, found: found.as_ref().ok().cloned() });
            match found.map_err(|_| Reason::StoreUnavailable)? {
                Matches::None => continue,
                Matches::Many(_) => ambiguous = true,
                Matches::One(record) => match &one {
                    Some(other) if other.account.sid != record.account.sid => ambiguous = true,
                    _ => one = Some(record),
                },
            }
            // The names of a chain are tried one after the other, the nearest first; other queries must all agree.
            if method == Method::Issuer {
                break;
            }
        }
        match ambiguous {
            true => Err(Reason::Ambiguous),
            false => Ok(one),
        }
    }
}

/// Gives the mapper of the moment, so that a reload changes answers without stopping them.
pub trait CurrentMapper: Clone + Send + Sync + 'static {
    /// The mapper to use for one answer.
    fn current(&self) -> Arc<Mapper>;
}

impl CurrentMapper for Arc<Mapper> {
    fn current(&self) -> Arc<Mapper> {
        Self::clone(self)
    }
}

/// Answers questions: the one service behind every way to ask.
#[derive(Clone, Debug)]
pub struct MapCertificate<M> {
    mapper: M,
    now: fn() -> FileTime,
}

impl<M> MapCertificate<M> {
    /// A service that asks `mapper`, and `now` for the time.
    pub const fn new(mapper: M, now: fn() -> FileTime) -> Self {
        Self { mapper, now }
    }
}

impl<M: CurrentMapper> tower::Service<Question> for MapCertificate<M> {
    type Response = Answer;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Answer, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, question: Question) -> Self::Future {
        let (mapper, now) = (self.mapper.current(), (self.now)());
        Box::pin(async move { Ok(mapper.answer(&question, now).await) })
    }
}
