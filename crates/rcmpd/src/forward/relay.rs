//! Opaque packages: calls of permitted machines to a package that this server does not implement go to a
//! domain controller of its own domain.
//!
//! "Kerberos" ([MS-APDS] 2.2.2.1) checks a PAC's signature and answers with a status alone. An answer with
//! data is refused, because it could name an account, and rcmpd cannot verify it.

use crate::config::ResponseCrypt;
use account_store::Domain;
use account_store::fold::casefold;
use audit_log::{AuditLog, Relayed};
use dcerpc_tokio::BoxFuture;
use decision_metrics::DecisionMetrics;
use dtyp::NtStatus;
use netlogon_tokio::{Answered, PackageRequest, Servers};
use netlogon_transport::package::{PackageCall, PackageReply};
use std::collections::HashSet;
use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::Instant;
use tracing::{Instrument, field};

/// One `[[relay]]`: the package, the servers it goes to, and the machines that may use it.
#[derive(Debug)]
pub struct Rule {
    /// PackageName.
    pub package: String,
    /// The server's own domain.
    pub domain: Domain,
    /// Domain controllers of the domain.
    pub servers: Arc<Servers>,
    /// Names of the machines that may use the package, case-folded.
    pub machines: HashSet<String>,
    /// Whether answers have the inner encryption ([MS-NRPC] 4.1).
    pub response_crypt: ResponseCrypt,
    /// For one call, failover included.
    pub timeout: Duration,
}

/// Why a call was not relayed, or its answer not passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Withheld {
    /// The machine may not use the package.
    NotAllowed,
    /// The call is for another domain.
    OtherDomain,
    /// No controller answered.
    NoLogonServers,
    /// The answer has data.
    HasData,
}

impl Withheld {
    const ALL: [Self; 4] = [Self::NotAllowed, Self::OtherDomain, Self::NoLogonServers, Self::HasData];

    /// A stable name, for the audit and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::NotAllowed => "not_allowed",
            Self::OtherDomain => "other_domain",
            Self::NoLogonServers => "no_logon_servers",
            Self::HasData => "answer_has_data",
        }
    }

    const fn reply(self) -> PackageReply {
        match self {
            // A machine that may not use the package does not learn that there is one.
            Self::NotAllowed => PackageReply::refused(NtStatus::NO_SUCH_PACKAGE, true),
            Self::OtherDomain => PackageReply::refused(NtStatus::NO_SUCH_USER, true),
            Self::NoLogonServers => PackageReply::refused(NtStatus::NO_LOGON_SERVERS, false),
            Self::HasData => PackageReply::refused(NtStatus::NOT_SUPPORTED, true),
        }
    }
}

/// An opaque package behind generic pass-through.
#[derive(Clone)]
pub struct RelayPackage {
    rule: Arc<Rule>,
    audit: Arc<AuditLog>,
    metrics: DecisionMetrics,
}

impl RelayPackage {
    /// A package whose calls are relayed by `rule`.
    pub fn new(rule: Arc<Rule>, audit: Arc<AuditLog>, metrics: DecisionMetrics) -> Self {
        metrics.expect_relays(&rule.package, Withheld::ALL.map(Withheld::name));
        Self { rule, audit, metrics }
    }

    async fn answer(self, call: PackageCall) -> PackageReply {
        let machine = call.channel.machine();
        let (reply, withheld) = match self.relay(&call).await {
            Ok(reply) => (reply, None),
            Err(withheld) => (withheld.reply(), Some(withheld.name())),
        };
        self.metrics.relayed(&self.rule.package, withheld);
        let written = self.audit.relayed(&Relayed {
            package: &self.rule.package,
            account: &machine.name,
            account_sid: machine.sid,
            source: call.address,
            status: reply.status,
            withheld,
        });
        match written {
            Ok(()) => reply,
            Err(_) => PackageReply::refused(NtStatus::INSUFFICIENT_RESOURCES, false),
        }
    }

    async fn relay(&self, call: &PackageCall) -> Result<PackageReply, Withheld> {
        let rule = &self.rule;
        let machine = call.channel.machine();
        // A trusted domain is not a machine of this domain, whatever the name of its account.
        if !machine.channel_type.names_its_computer() || !rule.machines.contains(&casefold(&machine.name)) {
            return Err(Withheld::NotAllowed);
        }
        if !call.logon_domain_name.is_empty() && !rule.domain.is_called(&call.logon_domain_name) {
            return Err(Withheld::OtherDomain);
        }
        let request = PackageRequest {
            package: &rule.package,
            logon_domain_name: &rule.domain.netbios,
            data: &call.data,
            asker: Some(machine.sid.into()),
            extension: None,
            // What the package does with it is unknown here.
            repeatable: false,
        };
        let deadline = Instant::now() + rule.timeout;
        let Some(Answered { answer, server }) = rule.servers.ask(&request, deadline).await else {
            return Err(Withheld::NoLogonServers);
        };
        tracing::Span::current().record("server.address", &server);
        // Neither yes nor no: a client may take it for yes.
        if !answer.status.is_success() && !answer.status.is_error() {
            return Err(Withheld::NoLogonServers);
        }
        let data = answer.data.map(|data| match rule.response_crypt {
            ResponseCrypt::Plain => data.raw().to_vec(),
            _ => data.decrypted(),
        });
        if data.as_ref().is_some_and(|data| !data.is_empty()) {
            return Err(Withheld::HasData);
        }
        let (status, authoritative) = (answer.status, answer.authoritative);
        Ok(PackageReply { status, authoritative, data: data.map(Into::into) })
    }
}

impl tower::Service<PackageCall> for RelayPackage {
    type Response = PackageReply;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<PackageReply, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, call: PackageCall) -> Self::Future {
        let package = self.clone();
        let span = tracing::debug_span!(
            target: "rcmpd::call",
            "relay",
            otel.kind = "client",
            rcmp.package = package.rule.package,
            server.address = field::Empty,
        );
        Box::pin(async move { Ok(package.answer(call).await) }.instrument(span))
    }
}
