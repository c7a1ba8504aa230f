//! RCMP as a package of generic pass-through: what Netlogon brings becomes a question, the answer becomes a reply.

use super::{AuditLog, CurrentPolicy};
use netlogon_transport::package::{PackageCall, PackageReply};
use rcmp_service::{Asker, Question, Reason};
use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};
use tracing_opentelemetry::OpenTelemetrySpanExt;

/// The package.
#[derive(Clone)]
pub struct RcmpPackage {
    policy: CurrentPolicy,
    audit: Arc<AuditLog>,
}

impl RcmpPackage {
    /// A package that answers by `policy` and writes to `audit`.
    pub const fn new(policy: CurrentPolicy, audit: Arc<AuditLog>) -> Self {
        Self { policy, audit }
    }

    async fn answer(self, call: PackageCall) -> PackageReply {
        let machine = call.channel.machine();
        let asker = Asker { account: machine.name.clone(), sid: machine.sid, may_map: machine.may_map };
        let question = Question { request: call.data, asker };
        let deciders = self.policy.0.load_full();
        let now = super::now();
        let mut steps = Vec::new();
        let answer = match self.audit.is_written() {
            true => deciders.live.answer_traced(&question, now, &mut steps).await,
            false => deciders.live.answer(&question, now).await,
        };
        let span = tracing::Span::current();
        span.set_attribute("rcmp.reason", answer.reason.name());
        span.set_attribute("rcmp.status", i64::from(answer.status.0));
        if self.audit.decision(&answer, &question, &steps, call.address).is_err() {
            let reason = Reason::AuditUnavailable;
            return PackageReply::refused(reason.status(false), reason.is_authoritative());
        }
        if let Some(shadow) = &deciders.shadow {
            shadow.compare(question, &answer, &self.audit);
        }
        PackageReply {
            status: answer.status,
            authoritative: answer.authoritative,
            data: answer.mapped.map(|mapped| mapped.response),
        }
    }
}

impl tower::Service<PackageCall> for RcmpPackage {
    type Response = PackageReply;
    type Error = Infallible;
    type Future = dcerpc_tokio::BoxFuture<'static, Result<PackageReply, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, call: PackageCall) -> Self::Future {
        let package = self.clone();
        Box::pin(async move { Ok(package.answer(call).await) })
    }
}
