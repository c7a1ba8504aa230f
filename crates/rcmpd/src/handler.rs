//! The handler of questions, and the layers around it.
//!
//! ```text
//! a call of RPC ─► span ─► rate limits ─┐
//!                                       ├─► MapCertificate ─► accounts of this domain: OCSP responders (deadline)
//! a client of the sidecar ──────────────┘                 └─► a peer: span ─► deadline ─► queue and connections ─► its servers
//! ```
//!
//! [`rpc()`] and [`sidecar()`] build the stacks. The order, from the asker inwards, and its reasons:
//!
//! 1. **Span**: the outermost, so that the reason and the status of every answer are recorded, those of
//!    rejected questions included.
//! 2. **Rate limits** (load shedding): before anything is read or looked up, so that a question over a limit
//!    costs nothing. It also sees the answer: a miss takes a token, and is withheld if there is none. The
//!    sidecar has no such layer: its askers are the site's own proxies, and it limits connections and
//!    decisions by address ([`crate::sidecar`]).
//! 3. **The handler**. Accounts of this domain are decided about in memory; neither a deadline nor a
//!    concurrency limit is around that. The parts that wait have both, as near to the network as possible, so
//!    that a slow peer takes no time and no permit from questions about other accounts: OCSP responders in
//!    [`trust_tokio::responder`], peers in [`rcmp_client::peer`] (span, deadline) and
//!    [`netlogon_tokio::Servers`] (connections and a queue for each server; a question that finds the queue
//!    full is rejected at once). How many questions there are at once is bounded by the connections of RPC
//!    and of the sidecar.
//!
//! Metrics and the audit log come after the whole stack, in
//! [`Deciders::decide_audited`](crate::deciders::Deciders::decide_audited): a decision counts as what was
//! answered, and an answer that cannot be written down is not given.

use account_store::BoxFuture;
use audit_log::AuditLog;
use dtyp::NtStatus;
use rcmp_service::MissLimits;
use rcmp_service::{Answer, MapCertificate, Mapper, Question, Reason};
use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};
use tower::{Service, ServiceBuilder};
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt;

/// A service that answers questions.
pub trait Handler:
    Service<Question, Response = Answer, Error = Infallible, Future: Send> + Send + 'static
{
}

impl<S> Handler for S where
    S: Service<Question, Response = Answer, Error = Infallible, Future: Send> + Send + 'static
{
}

/// The stack for calls of RPC.
pub fn rpc(handler: MapCertificate, misses: &Arc<MissLimits>, audit: &Arc<AuditLog>) -> impl Handler + use<> {
    let mapper = Arc::clone(handler.mapper());
    ServiceBuilder::new()
        .map_response(recorded)
        .layer_fn(|inner| RateLimited {
            inner,
            mapper: Arc::clone(&mapper),
            misses: Arc::clone(misses),
            audit: Arc::clone(audit),
        })
        .service(handler)
}

/// The stack for clients of the sidecar.
pub const fn sidecar(handler: MapCertificate) -> impl Handler {
    handler
}

/// Records an answer in the span of its call.
fn recorded(answer: Answer) -> Answer {
    let span = Span::current();
    if span.is_disabled() {
        return answer;
    }
    span.set_attribute("rcmp.reason", answer.reason.name());
    span.set_attribute("rcmp.status", i64::from(answer.status.0));
    if let Some(revision) = answer.store_revision {
        span.set_attribute("rcmp.store_revision", i64::try_from(revision).unwrap_or(i64::MAX));
    }
    let status = answer.status.name().map_or_else(|| format!("0x{:08x}", answer.status.0), str::to_owned);
    span.set_attribute("rpc.response.status_code", status.clone());
    if answer.status != NtStatus::SUCCESS {
        span.set_attribute("error.type", status);
    }
    if let Some(mapped) = &answer.mapped {
        span.set_attribute("user.id", mapped.record.account.sid.to_string());
    }
    answer
}

/// Rejects questions of askers that are over a limit: of misses, or of lines in the audit log.
struct RateLimited<S> {
    inner: S,
    mapper: Arc<Mapper>,
    misses: Arc<MissLimits>,
    audit: Arc<AuditLog>,
}

impl<S> RateLimited<S> {
    fn admit(&self, question: &Question) -> Result<(), Reason> {
        if !self.misses.admits(question) {
            return Err(Reason::MissRate);
        }
        if !self.audit.admits(&question.asker.sid) {
            return Err(Reason::AuditBudget);
        }
        Ok(())
    }
}

impl<S: Handler> Service<Question> for RateLimited<S> {
    type Response = Answer;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Answer, Infallible>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, question: Question) -> Self::Future {
        if let Err(reason) = self.admit(&question) {
            let refused = Answer::refused(reason, self.mapper.policy());
            return Box::pin(std::future::ready(Ok(refused)));
        }
        let (mapper, misses) = (Arc::clone(&self.mapper), Arc::clone(&self.misses));
        let answering = self.inner.call(question.clone());
        Box::pin(async move {
            let answer = answering.await?;
            match misses.may_reveal(&question, answer.reason) {
                true => Ok(answer),
                false => Ok(Answer::refused(Reason::MissRate, mapper.policy())),
            }
        })
    }
}
