//! RCMP as a package of generic pass-through: what Netlogon brings becomes a question, the answer becomes a reply.

use super::miss_limiter::MissLimits;
use crate::audit::AuditLog;
use crate::clock::now;
use crate::deciders::{CurrentPolicy, Deciders};
use crate::forward::trace;
use dtyp::{Decode, NtStatus};
use netlogon_transport::package::{PackageCall, PackageReply};
use netlogon_transport::secrets::ChannelType;
use rcmp_service::{Asker, CallContext, MapCertificate, Question, Reason, Scope};
use sha2::{Digest, Sha256};
use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;
use tracing_opentelemetry::OpenTelemetrySpanExt;

/// The package.
#[derive(Clone)]
pub struct RcmpPackage {
    policy: CurrentPolicy,
    audit: Arc<AuditLog>,
    misses: Arc<MissLimits>,
}

impl RcmpPackage {
    /// A package that answers by `policy`, writes to `audit` and refuses askers that miss too often.
    pub const fn new(policy: CurrentPolicy, audit: Arc<AuditLog>, misses: Arc<MissLimits>) -> Self {
        Self { policy, audit, misses }
    }

    /// Whether the asker of a question is within its limits.
    fn admit(&self, question: &Question) -> Result<(), Reason> {
        if !self.misses.of(&question.asker).admits(question, Instant::now()) {
            return Err(Reason::MissRate);
        }
        if !self.audit.admits(&question.asker.sid) {
            return Err(Reason::AuditBudget);
        }
        Ok(())
    }

    async fn answer(self, mut call: PackageCall) -> PackageReply {
        let deciders = self.policy.0.load_full();
        let now = now();
        let span = tracing::Span::current();
        let question = match question(&deciders, &span, &mut call) {
            Ok(question) => question,
            Err(status) => return PackageReply::refused(status, true),
        };
        let refused = |asker: &Asker, reason: Reason| {
            self.audit.over_limit(asker, reason);
            deciders.metrics.over_limit(reason);
            span.set_attribute("rcmp.reason", reason.name());
            PackageReply::refused(reason.status(false), reason.is_authoritative())
        };
        if let Err(reason) = self.admit(&question) {
            return refused(&question.asker, reason);
        }
        let mut steps = Vec::new();
        let map = MapCertificate { mapper: &deciders.live, forwarder: &deciders.forwarding.forwarder };
        let answer = match self.audit.is_written() {
            true => map.answer_traced(&question, now, &mut steps).await,
            false => map.answer(&question, now).await,
        };
        if !self.misses.of(&question.asker).tells(&question, answer.reason, Instant::now()) {
            return refused(&question.asker, Reason::MissRate);
        }
        span.set_attribute("rcmp.reason", answer.reason.name());
        span.set_attribute("rcmp.status", i64::from(answer.status.0));
        let audited = self.audit.decision(&answer, &question, &steps, &call.address, None);
        if let Err(reason) = deciders.metrics.decided(answer.reason, audited) {
            return PackageReply::refused(reason.status(false), reason.is_authoritative());
        }
        // A shadow decides about accounts of this domain.
        if let Some(shadow) = deciders.shadow.as_ref().filter(|_| answer.decided_here) {
            shadow.compare(question, &answer, &self.audit);
        }
        PackageReply {
            status: answer.status,
            authoritative: answer.authoritative,
            data: answer.into_response(),
        }
    }
}

/// The question in a call, and what came beside it: from machines of ours and from nodes of ours, not from others' servers.
fn question(deciders: &Deciders, span: &tracing::Span, call: &mut PackageCall) -> Result<Question, NtStatus> {
    let machine = call.channel.machine();
    let is_trust =
        !machine.channel_type.names_its_computer() && machine.channel_type != ChannelType::CDC_SERVER;
    let trust = is_trust.then(|| machine.name.trim_end_matches('$').to_owned());
    let domains = deciders.forwarding.forwarder.domains();
    let peer = trust.as_ref().and_then(|name| domains.find(name)).map(|peer| &domains.peers()[peer]);
    let is_heard = !is_trust || peer.is_some_and(|peer| peer.is_rcmpd);
    let context = match &call.extension {
        // A context that cannot be read may hide where the question has been.
        Some(bytes) if is_heard => {
            CallContext::from_bytes("CallContext", bytes).map_err(|_| NtStatus::INVALID_PARAMETER)?
        }
        _ => CallContext::default(),
    };
    trace::take(span, &context);
    if is_trust && context.trace_parent.is_none() {
        trace::link(span, &Sha256::digest(&call.data).into());
    }
    let mut asker = Asker::machine(machine.name.clone(), machine.sid, machine.may_map);
    asker.scope = Scope::new(Arc::clone(&machine.domains), Arc::clone(&machine.groups));
    asker.trust = trust;
    let request = std::mem::take(&mut call.data);
    let logon_domain_name = std::mem::take(&mut call.logon_domain_name);
    Ok(Question { request, logon_domain_name, asker, context })
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
