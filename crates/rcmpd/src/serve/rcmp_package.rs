//! RCMP as a package of generic pass-through: what Netlogon brings becomes a question, the answer becomes a
//! reply.

use crate::clock::now;
use crate::deciders::{CurrentPolicy, Deciders};
use crate::handler;
use audit_log::AuditLog;
use dtyp::{Decode, NtStatus};
use netlogon_transport::package::{PackageCall, PackageReply};
use netlogon_transport::secrets::ChannelType;
use rcmp_service::MissLimits;
use rcmp_service::{Answer, Asker, CallContext, Question, Scope};
use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};
use trace_context as trace;
use tracing_opentelemetry::OpenTelemetrySpanExt;

/// Answers calls of the package by the handler, with the layers of [`handler::rpc`].
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

    async fn answer(self, mut call: PackageCall) -> PackageReply {
        let deciders = self.policy.0.load_full();
        let span = tracing::Span::current();
        let question = match question(&deciders, &span, &mut call) {
            Ok(question) => question,
            Err(status) => return PackageReply::refused(status, true),
        };
        let handler = handler::rpc(deciders.handler.clone(), &self.misses, &self.audit);
        let mut name = [0; 16];
        crate::random::fill(&mut name);
        let name = dtyp::hex(&name);
        span.set_attribute("rcmp.decision", name.clone());
        match deciders.decide_audited(handler, question, &self.audit, &call.address, Some(&name)).await {
            Ok(Answer { status, authoritative, message, .. }) => {
                PackageReply { status, authoritative, data: message }
            }
            Err(reason) => PackageReply::refused(reason.status(false), reason.is_authoritative()),
        }
    }
}

/// The question in a call, and what came beside it: from machines of ours and from nodes of ours, not from
/// others' servers.
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
    let mut asker = Asker::machine(machine.name.clone(), machine.sid, machine.may_map);
    asker.scope = Scope::new(Arc::clone(&machine.domains), Arc::clone(&machine.groups));
    asker.trust = trust;
    trace::take(span, &context);
    let has_trace = context.trace_parent.is_some();
    let mut question = Question::new(std::mem::take(&mut call.data), asker, now());
    question.logon_domain_name = std::mem::take(&mut call.logon_domain_name);
    question.context = context;
    // Only here is the digest needed of a question that is not forwarded.
    if is_trust
        && !has_trace
        && let Some(digest) = question.digest()
    {
        trace::link(span, digest);
    }
    Ok(question)
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
