//! The account of a certificate: decided in this process, or asked over Netlogon.

use crate::ask::{self, Mapped};
use crate::clock::now;
use crate::config;
use crate::deciders::{CurrentPolicy, Deciders};
use crate::handler;
use account_store::rules::is_mail;
use account_store::{Account, AccountStore, BoxFuture, Matches, Membership, Query, Record, StoreError};
use audit_log::{AuditLog, IdentifiedBy};
use dcerpc_tokio::LogLimiter;
use decision_metrics::recent::{self, Outcome};
use dtyp::{Encode, FileTime, Sid};
use netlogon_tokio::{Answered, PackageRequest, Servers};
use netlogon_transport::client::{Randomness, SystemRandomness};
use pac::LogonInfo;
use rcmp_service::certificate::OwnedCertificate;
use rcmp_service::mapping::restriction;
use rcmp_service::message::{PACKAGE_NAME, Request, Response};
use rcmp_service::proof::{self, HopStrength, Signed};
use rcmp_service::trust::Revocation;
use rcmp_service::{
    Answer, Asker, CallContext, Issuers, Mapper, Question, Reason, SidClaim, Strength, Validation,
    logoff_time,
};
use sha1::Sha1;
use sha2::{Digest, Sha256};
use sidecar::{
    Assurance, ClientCertificate, DecisionInputs, Group, Identify, Identity, NotMapped, Refusal, Undecided,
};
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::time::Instant;
use trace_context as trace;
use tracing::field::Empty;
use tracing::{Instrument, Span};

/// Attributes of groups ([MS-PAC] 2.2.1): one that is enabled, and one that only denies.
const SE_GROUP_ENABLED: u32 = 0x0000_0004;
const SE_GROUP_USE_FOR_DENY_ONLY: u32 = 0x0000_0010;

/// Tells proxies which account a certificate belongs to.
pub(super) struct Identifier {
    pub(super) policy: CurrentPolicy,
    pub(super) audit: Arc<AuditLog>,
    pub(super) source: Source,
}

/// What decides which account a certificate belongs to.
pub(super) enum Source {
    /// The policy and the accounts of this process, and the other domains that it knows.
    Embedded {
        /// The account that questions of this process are asked for.
        asker: Arc<Asker>,
        log_limiter: LogLimiter,
    },
    /// A service or a domain controller.
    Remote(Box<Remote>),
}

/// Asks a service or a domain controller, as a machine of its domain. The policy of this process verifies
/// chains, and nothing else.
pub(super) struct Remote {
    pub(super) servers: Servers,
    /// NetBIOS name of the domain.
    pub(super) domain: String,
    /// Public keys that may sign hops, by domain.
    pub(super) proof_keys: Vec<(String, [u8; 32])>,
    pub(super) timeout: Duration,
    /// Whether it runs rcmpd, which understands the extension of a call.
    pub(super) is_rcmpd: bool,
    pub(super) log_limiter: LogLimiter,
}

impl Remote {
    /// The machine account that asks the service.
    pub(super) fn identity_of(client: &config::Client, domain: &str) -> netlogon_tokio::ClientAccount {
        netlogon_tokio::ClientAccount {
            domain: domain.to_owned(),
            computer: client.account.trim_end_matches('$').to_owned(),
            account: client.account.clone(),
            channel_type: netlogon_transport::secrets::ChannelType::WORKSTATION,
            secrets: Arc::new(client.secret.clone()),
            now: ask::now,
        }
    }
}

impl Identify for Identifier {
    fn refresh(&self) -> BoxFuture<'_, Result<(), Refusal>> {
        Box::pin(async {
            let store = Arc::clone(&self.policy.0.load().accounts.store);
            store.refresh().await.map_err(|_| Refusal::Undecided(Reason::StoreUnavailable.into()))
        })
    }

    fn decision_inputs(
        &self,
        presented: &ClientCertificate,
        now: FileTime,
    ) -> Result<DecisionInputs, Refusal> {
        decision_inputs(&self.policy.0.load().live, presented, now)
    }

    fn identify<'a>(
        &'a self,
        presented: &'a ClientCertificate,
        decision: &'a str,
        source: Option<SocketAddr>,
        now: FileTime,
    ) -> BoxFuture<'a, Result<Identity, Refusal>> {
        let (deciders, source) = (self.policy.0.load_full(), Client(source));
        match &self.source {
            Source::Embedded { asker, log_limiter } => {
                let by = (asker, log_limiter);
                Box::pin(self.identify_here(deciders, by, presented, decision, source, now))
            }
            Source::Remote(remote) => Box::pin(async move {
                let (metrics, begun) = (deciders.metrics.clone(), Instant::now());
                let found = self.identify_elsewhere(deciders, remote, presented, decision, source, now).await;
                metrics.took(meaning(&found), begun.elapsed());
                found
            }),
        }
    }

    fn account(&self, sid: Sid, now: FileTime) -> BoxFuture<'_, Result<Option<Identity>, Refusal>> {
        Box::pin(async move {
            let Source::Embedded { log_limiter, .. } = &self.source else { return Ok(None) };
            self.refresh().await?;
            let deciders = self.policy.0.load_full();
            let store = &**deciders.live.store();
            let unavailable = |_| Refusal::Undecided(Reason::StoreUnavailable.into());
            let Matches::One(record) = store.find(&Query::Sid(sid)).await.map_err(unavailable)? else {
                return Ok(None);
            };
            if restriction(&record.account, now).is_some() {
                return Ok(None);
            }
            let mail = checked_mail(store, &record.account, log_limiter).await;
            Ok(Some(Identity { mail, ..of_record(&record, &store.domain().netbios) }))
        })
    }

    fn recognize<'a>(
        &'a self,
        presented: &'a ClientCertificate,
        ticket: Identity,
        decision: &'a str,
        source: Option<SocketAddr>,
        now: FileTime,
    ) -> BoxFuture<'a, Result<Identity, Refusal>> {
        if let Source::Embedded { .. } = &self.source {
            return self.identify(presented, decision, source, now);
        }
        Box::pin(async move {
            let deciders = self.policy.0.load_full();
            let outcome = validated(&deciders, presented, ticket, now).await;
            self.audited(&deciders, presented, outcome, (decision, Client(source), IdentifiedBy::Ticket))
        })
    }
}

/// What the user gets.
fn meaning(outcome: &Result<Identity, Refusal>) -> Outcome {
    match outcome.as_ref().err().map(|refusal| refusal.outcome()) {
        None => Outcome::Mapped,
        Some(sidecar::Outcome::Broken) => Outcome::Undecided,
        Some(_) => Outcome::Rejected,
    }
}

/// The account of a ticket, if the certificate is validated as before a question, and names no other account.
async fn validated(
    deciders: &Deciders,
    presented: &ClientCertificate,
    ticket: Identity,
    now: FileTime,
) -> Result<Identity, Refusal> {
    let certificate = read(presented)?;
    let certificate = certificate.get();
    deciders.live.verified(&certificate, now).await.map_err(refusal)?;
    match SidClaim::of(&certificate).allows(&ticket.sid) {
        true => Ok(Identity { not_after: ticket.not_after.min(certificate.not_after), ..ticket }),
        false => Err(refusal(Reason::SidMismatch)),
    }
}

impl Identifier {
    /// Writes and counts what was found out with another service's answer, which a ticket may stand for. What
    /// must be audited and cannot be is undecided.
    fn audited(
        &self,
        deciders: &Deciders,
        presented: &ClientCertificate,
        outcome: Result<Identity, Refusal>,
        (decision, source, by): (&str, Client, IdentifiedBy),
    ) -> Result<Identity, Refusal> {
        let account = outcome
            .as_ref()
            .ok()
            .map(|identity| (identity.sid, format!("{}\\{}", identity.domain, identity.account)));
        let reason = outcome.as_ref().err().map_or("mapped", |refusal| refusal.name());
        // Only an answer has a status: what is refused here, also of a ticket, has a reason.
        let is_denied_elsewhere = matches!(outcome, Err(Refusal::NotMapped(NotMapped::Status(_))));
        let meaning = meaning(&outcome);
        deciders.metrics.identified(reason, meaning);
        if meaning != Outcome::Mapped {
            deciders.metrics.refused(recent::Refusal {
                at: now(),
                count: 1,
                reason,
                text: "",
                is_undecided: meaning == Outcome::Undecided,
                asker: "sidecar".to_owned(),
                thumbprint: Some(dtyp::hex(&Sha1::digest(&presented.leaf))),
                decision: Some(decision.to_owned()),
            });
        }
        let source = source.to_string();
        let (why, certificate) = ((reason, is_denied_elsewhere), (presented.leaf.as_ref(), by));
        match self.audit.identified(decision, why, account.as_ref(), certificate, &source) {
            Ok(()) => outcome,
            Err(_) => Err(Refusal::Undecided(Reason::AuditUnavailable.into())),
        }
    }

    async fn identify_here(
        &self,
        deciders: Arc<Deciders>,
        (asker, log_limiter): (&Arc<Asker>, &LogLimiter),
        presented: &ClientCertificate,
        decision: &str,
        source: Client,
        now: FileTime,
    ) -> Result<Identity, Refusal> {
        let certificate = read(presented)?;
        let not_after = certificate.get().not_after;
        let (chain, methods) = (presented.chain.clone(), deciders.sidecar_methods);
        let question = Question::about(certificate, chain, methods, Arc::clone(asker), now);
        let handler = handler::sidecar(deciders.handler.clone());
        let answer = deciders.decide_audited(handler, question, &self.audit, &source, Some(decision)).await;
        let answer = answer.map_err(|reason| Refusal::Undecided(reason.into()))?;
        let identity = identity(&answer, &deciders.live, not_after, now)?;
        let Some(mapped) = &answer.mapped else { return Ok(identity) };
        // The decision is made and written down. An address that cannot be checked now is not sent.
        let mail = checked_mail(&**deciders.live.store(), &mapped.record.account, log_limiter).await;
        Ok(Identity { mail, ..identity })
    }

    async fn identify_elsewhere(
        &self,
        deciders: Arc<Deciders>,
        remote: &Remote,
        presented: &ClientCertificate,
        decision: &str,
        source: Client,
        now: FileTime,
    ) -> Result<Identity, Refusal> {
        let span = tracing::debug_span!(
            target: "rcmpd::call",
            "forward",
            otel.kind = "client",
            otel.status_code = Empty,
            rcmp.domain = remote.domain,
            server.address = Empty,
        );
        let outcome = remote.ask(&deciders, presented, now).instrument(span).await;
        self.audited(&deciders, presented, outcome, (decision, source, IdentifiedBy::Server))
    }
}

impl Remote {
    async fn ask(
        &self,
        deciders: &Deciders,
        presented: &ClientCertificate,
        now: FileTime,
    ) -> Result<Identity, Refusal> {
        let certificate = read(presented)?;
        let certificate = certificate.get();
        let mapper = &deciders.live;
        let path = mapper.verified(&certificate, now).await.map_err(refusal)?;
        let issuers = Issuers::OfChain(presented.chain.clone());
        let issuers = mapper.issuer_names(&certificate, &issuers, path.as_deref());
        let flags = deciders.sidecar_methods;
        let request = Request { flags, certificate: &presented.leaf, issuers };
        let request = request.encode().ok_or(Refusal::Broken(sidecar::Broken::TooLong))?;
        let claim = SidClaim::of(&certificate);
        if claim == SidClaim::Contradictory {
            return Err(refusal(Reason::SidMismatch));
        }
        let nonce =
            [SystemRandomness.bytes(), SystemRandomness.bytes()].concat().try_into().unwrap_or_default();
        // Only nodes of ours have keys that prove something, and only they are told anything beside the
        // question.
        let has_keys = !self.proof_keys.is_empty();
        let proof_nonce = has_keys.then_some(nonce);
        let context = self.is_rcmpd.then(|| {
            let mut context = CallContext { proof_nonce, ..CallContext::default() };
            trace::put(&Span::current(), &mut context);
            context
        });
        // Otherwise the other half of the trace can be found by the digest, which both ends know.
        if context.is_none() && !Span::current().is_disabled() {
            trace::link(&Span::current(), &Sha256::digest(&request).into());
        }
        let extension = context.as_ref().map(|context| {
            |left: Duration| CallContext { time_left: Some(left), ..context.clone() }.to_bytes()
        });
        let asked = PackageRequest {
            package: PACKAGE_NAME,
            logon_domain_name: &self.domain,
            data: &request,
            asker: None,
            extension: extension.as_ref().map(|extension| extension as &netlogon_tokio::Extension<'_>),
            repeatable: true,
        };
        let deadline = Instant::now() + self.timeout;
        let Some(Answered { answer, server }) = self.servers.ask(&asked, deadline).await else {
            Span::current().record("otel.status_code", "error");
            return Err(Refusal::Undecided(Reason::NoLogonServers.into()));
        };
        let status = answer.status;
        Span::current().record("server.address", &server);
        let (mapped, message) = match ask::read(answer) {
            Ok(read) => read,
            Err(_) if status.is_success() => return Err(Refusal::Undecided(Undecided::InvalidAnswer)),
            Err(_) if ask::says_not_mapped(status) => {
                return Err(Refusal::NotMapped(NotMapped::Status(status)));
            }
            Err(_) => return Err(Refusal::Undecided(Undecided::Status(status))),
        };
        // The service is wrong, or is not what it should be: that says nothing of the client.
        if !claim.allows(&mapped.pac.user_sid) {
            self.log_limiter.once("answer_sid_mismatch", || {
                tracing::warn!(
                    server, account_sid = %mapped.pac.user_sid, ?claim,
                    "Rejected an answer for another account than the certificate's"
                );
            });
            return Err(Refusal::Undecided(Undecided::AnswerSidMismatch));
        }
        let (assurance, policy_revision) = match has_keys {
            true => self.proved(&proof::Question::new(&request, nonce), &message, &mapped),
            false => (Assurance::Unknown, 0),
        };
        let is_ours = mapped.domain.eq_ignore_ascii_case(&self.domain);
        let upn = mapped.pac.upn_dns_info.as_ref().filter(|upn| !upn.is_constructed);
        let upn = upn.map(|upn| upn.upn.clone());
        let (sid, info) = (mapped.pac.user_sid, &mapped.pac.logon_info);
        let identity = of_logon_info(mapped.domain, is_ours, sid, upn, info, certificate.not_after);
        Ok(Identity { assurance, policy_revision, ..identity })
    }

    /// How sure the answer is, as far as that is proved by keys that are known here.
    fn proved(&self, question: &proof::Question, message: &[u8], mapped: &Mapped) -> (Assurance, u64) {
        let keys_of = |domain: &str| {
            let of = self.proof_keys.iter().filter(|(name, _)| name.eq_ignore_ascii_case(domain));
            of.map(|(_, key)| *key).collect()
        };
        let unknown = (Assurance::Unknown, 0);
        let Ok(hops) = proof::verify(message, question, keys_of) else { return unknown };
        let Ok(response) = Response::decode(message) else { return unknown };
        let Some(first) = hops.first().filter(|first| matches!(first.signed, Signed::Good)) else {
            return unknown;
        };
        let revision = first.hop.policy_revision;
        match proof::strong_at_every_hop(&hops, &response, &mapped.pac, &self.domain) {
            Ok(()) => (Assurance::Strong(None), revision),
            Err(_) if first.hop.strength == HopStrength::Weak => (Assurance::Weak, revision),
            Err(_) => (Assurance::Unknown, revision),
        }
    }
}

fn decision_inputs(
    mapper: &Mapper,
    presented: &ClientCertificate,
    now: FileTime,
) -> Result<DecisionInputs, Refusal> {
    let store = mapper.store().revision();
    let store_revision = store.map_err(|_| Refusal::Undecided(Reason::StoreUnavailable.into()))?;
    let policy_revision = mapper.policy().revision;
    let Some(trust) = mapper.trust() else {
        return Ok(DecisionInputs { path: None, policy_revision, store_revision, is_settled: true });
    };
    let path = trust.verify_hashed(&presented.leaf, presented.sha256, now);
    let path = path.map_err(|refused| refusal(Reason::Chain(refused.error)))?;
    let is_settled = match mapper.policy().validation {
        Validation::ChainAndRevocation => match trust.revocation(&path, now) {
            Revocation::Good => true,
            Revocation::Revoked { .. } => return Err(refusal(Reason::Revoked)),
            // A responder may have to be asked.
            Revocation::Unknown { .. } => false,
        },
        _ => true,
    };
    Ok(DecisionInputs { path: Some(path), policy_revision, store_revision, is_settled })
}

/// The certificate of a client, taken apart.
fn read(presented: &ClientCertificate) -> Result<OwnedCertificate, Refusal> {
    OwnedCertificate::parse_hashed(presented.leaf.clone(), presented.sha256)
        .map_err(|_| refusal(Reason::MalformedCertificate))
}

/// An account of the local store, by no certificate. `domain` is its NetBIOS name.
pub(crate) fn of_record(record: &Record, domain: &str) -> Identity {
    let account = &record.account;
    let member = |membership: &Membership| Group { sid: membership.sid, name: membership.name.clone() };
    let extra = account.extra_sids.iter().map(|sid| Group { sid: *sid, name: None });
    Identity {
        domain: domain.to_owned(),
        is_ours: true,
        account: account.name.clone(),
        upn: account.user_principal_name.clone(),
        full_name: Some(account.profile.full_name.clone()).filter(|name| !name.is_empty()),
        // Whether it is the account's alone is not known here: `own_mail`.
        mail: None,
        sid: account.sid,
        groups: record.memberships.iter().map(member).chain(extra).collect(),
        method: None,
        assurance: Assurance::Unknown,
        policy_revision: 0,
        stale_s: account.stale_s,
        not_after: FileTime::NEVER,
    }
}

/// The account of an answer. It is who it is until the certificate ends, at `not_after`, or until the account
/// has to go.
pub(super) fn identity(
    answer: &Answer,
    mapper: &Mapper,
    not_after: FileTime,
    now: FileTime,
) -> Result<Identity, Refusal> {
    if let Some(mapped) = &answer.mapped {
        let domain = &mapper.store().domain().netbios;
        return Ok(Identity {
            method: Some(mapped.method.name()),
            assurance: match mapped.strength {
                Strength::Strong(form) => Assurance::Strong(Some(form.name())),
                Strength::Weak => Assurance::Weak,
            },
            policy_revision: answer.policy_revision,
            not_after: not_after.min(logoff_time(&mapped.record.account, now)),
            ..of_record(&mapped.record, domain)
        });
    }
    let Some(account) = answer.elsewhere.as_ref().and_then(|elsewhere| elsewhere.account.as_ref()) else {
        return Err(refusal(answer.reason));
    };
    let upn = account.user_principal_name().map(ToOwned::to_owned);
    let (domain, info) = (account.domain.clone(), &account.logon_info);
    let identity = of_logon_info(domain, false, account.sid, upn, info, not_after);
    Ok(Identity { policy_revision: answer.policy_revision, ..identity })
}

/// The account of a KERB_VALIDATION_INFO.
fn of_logon_info(
    domain: String,
    is_ours: bool,
    sid: Sid,
    upn: Option<String>,
    info: &LogonInfo,
    not_after: FileTime,
) -> Identity {
    let groups = info.groups();
    let counts =
        |attributes: u32| attributes & SE_GROUP_ENABLED != 0 && attributes & SE_GROUP_USE_FOR_DENY_ONLY == 0;
    // How an account was authenticated is none of its groups.
    let is_mark = |sid: &Sid| {
        matches!(*sid, Sid::AUTHENTICATION_AUTHORITY_ASSERTED_IDENTITY | Sid::SERVICE_ASSERTED_IDENTITY)
    };
    let groups = groups.iter().filter(|group| counts(group.attributes) && !is_mark(&group.sid));
    Identity {
        domain,
        is_ours,
        account: info.effective_name.text.clone(),
        upn,
        full_name: Some(info.full_name.text.clone()).filter(|name| !name.is_empty()),
        // No field of a PAC has it.
        mail: None,
        sid,
        groups: groups.map(|group| Group { sid: group.sid, name: None }).collect(),
        method: None,
        assurance: Assurance::Unknown,
        policy_revision: 0,
        stale_s: None,
        not_after: [info.logoff_time, info.kick_off_time]
            .into_iter()
            .filter(|time| *time != FileTime::UNSET)
            .fold(not_after, FileTime::min),
    }
}

/// How often an address was not sent because several accounts have it.
pub(crate) static SHARED_MAIL: AtomicU64 = AtomicU64::new(0);

/// The e-mail address of an account, unless another account has it, too: an application may know its users by
/// it.
async fn own_mail(store: &dyn AccountStore, account: &Account) -> Result<Option<String>, StoreError> {
    let mail = account.profile.mail.as_str();
    if !is_mail(mail) {
        return Ok(None);
    }
    match store.find(&Query::Mail(mail.to_owned())).await? {
        Matches::One(only) if only.account.sid == account.sid => Ok(Some(mail.to_owned())),
        Matches::None => Ok(None),
        _ => {
            SHARED_MAIL.fetch_add(1, Ordering::Relaxed);
            Ok(None)
        }
    }
}

/// The same, or none if that cannot be checked now.
async fn checked_mail(
    store: &dyn AccountStore,
    account: &Account,
    log_limiter: &LogLimiter,
) -> Option<String> {
    own_mail(store, account).await.unwrap_or_else(|error| {
        log_limiter.counted("mail", |left_out| {
            tracing::warn!(
                %error, left_out,
                "E-mail address not sent: it is not known whether one account alone has it"
            );
        });
        None
    })
}

/// A reason as the sidecar has it.
fn refusal(reason: Reason) -> Refusal {
    match reason {
        Reason::Chain(error) => Refusal::Chain(error),
        reason if is_no_decision(reason) => Refusal::Undecided(reason.into()),
        reason => Refusal::NotMapped(reason.into()),
    }
}

/// Whether a reason says nothing of the certificate: what is broken is never a denial.
const fn is_no_decision(reason: Reason) -> bool {
    reason.is_undecided()
        || match reason {
            Reason::MalformedRequest
            | Reason::NoMethod
            | Reason::AskerDenied
            | Reason::ResponseRejected(_) => true,
            Reason::RefusedElsewhere { status, .. } => !ask::says_not_mapped(status),
            _ => false,
        }
}

/// Where a question came from.
#[derive(Clone, Copy)]
struct Client(Option<SocketAddr>);

impl fmt::Display for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Some(address) => address.fmt(f),
            None => f.write_str("unix"),
        }
    }
}
