//! Who somebody is: decided in this process, or asked over Netlogon.

use crate::ask::{self, Mapped};
use crate::audit::AuditLog;
use crate::config::Client;
use crate::deciders::{CurrentPolicy, Deciders};
use account_store::BoxFuture;
use dcerpc_tokio::LogLimiter;
use dtyp::{Encode, FileTime, Sid};
use netlogon_tokio::{Answered, PackageRequest, Servers};
use netlogon_transport::client::{Randomness, SystemRandomness};
use pac::VerifiedPac;
use rcmp_service::certificate::Certificate;
use rcmp_service::issuers;
use rcmp_service::message::{PACKAGE_NAME, Request, Response};
use rcmp_service::proof::{self, HopStrength, Signed};
use rcmp_service::trust::{Path as TrustPath, Revocation, Trust};
use rcmp_service::{
    Answer, Asker, CallContext, MapCertificate, Mapper, Question, Reason, SidClaim, Strength, Validation,
    logoff_time,
};
use sidecar::{Assurance, Group, Identify, Identity, Presented, Refusal, Standing};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Attributes of groups ([MS-PAC] 2.2.1): one that is enabled, and one that only denies.
const SE_GROUP_ENABLED: u32 = 0x0000_0004;
const SE_GROUP_USE_FOR_DENY_ONLY: u32 = 0x0000_0010;

/// Decides by the policy and the accounts of this process, and asks the other domains that it knows.
pub(super) struct Embedded {
    pub(super) policy: CurrentPolicy,
    pub(super) audit: Arc<AuditLog>,
    pub(super) asker: Asker,
}

/// Asks a service or a domain controller, as a machine of its domain. The policy of this process verifies chains, and nothing else.
pub(super) struct Remote {
    pub(super) policy: CurrentPolicy,
    pub(super) audit: Arc<AuditLog>,
    pub(super) servers: Servers,
    /// NetBIOS name of the domain.
    pub(super) domain: String,
    /// Public keys that may sign hops, by domain.
    pub(super) proof_keys: Vec<(String, [u8; 32])>,
    pub(super) timeout: Duration,
    pub(super) log_limiter: LogLimiter,
}

impl Remote {
    /// As whom the service is asked.
    pub(super) fn identity_of(client: &Client, domain: &str) -> netlogon_tokio::ClientAccount {
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

impl Identify for Embedded {
    fn standing(&self, presented: &Presented, now: FileTime) -> Result<Standing, Refusal> {
        standing(&self.policy.0.load().live, presented, now)
    }

    fn identify<'a>(
        &'a self,
        presented: &'a Presented,
        decision: &'a str,
        source: Option<SocketAddr>,
        now: FileTime,
    ) -> BoxFuture<'a, Result<Identity, Refusal>> {
        Box::pin(async move {
            let deciders = self.policy.0.load_full();
            // A chain that is refused is refused again by the mapper, which says why.
            let verified =
                |trust: &Arc<Trust>| trust.verify_hashed(&presented.leaf, presented.sha256, now).ok();
            let path = deciders.live.trust().and_then(verified);
            let request = request(presented, &deciders, path.as_deref())?;
            let question = Question::new(request, self.asker.clone());
            let mut steps = Vec::new();
            let map = MapCertificate { mapper: &deciders.live, forwarder: &deciders.forwarding.forwarder };
            let answer = match self.audit.is_written() {
                true => map.answer_traced(&question, now, &mut steps).await,
                false => map.answer(&question, now).await,
            };
            let written =
                self.audit.decision(&answer, &question, &steps, &asked_from(source), Some(decision));
            if let Err(reason) = deciders.metrics.decided(answer.reason, written) {
                return Err(Refusal::Undecided(reason.name()));
            }
            let identity = identity(&answer, &deciders.live, not_after(presented), now);
            if let Some(shadow) = deciders.shadow.as_ref().filter(|_| answer.decided_here) {
                shadow.compare(question, &answer, &self.audit);
            }
            identity
        })
    }
}

impl Identify for Remote {
    fn standing(&self, presented: &Presented, now: FileTime) -> Result<Standing, Refusal> {
        standing(&self.policy.0.load().live, presented, now)
    }

    fn identify<'a>(
        &'a self,
        presented: &'a Presented,
        decision: &'a str,
        source: Option<SocketAddr>,
        now: FileTime,
    ) -> BoxFuture<'a, Result<Identity, Refusal>> {
        Box::pin(async move {
            let outcome = self.ask(presented, now).await;
            let account = outcome
                .as_ref()
                .ok()
                .map(|identity| (identity.sid, format!("{}\\{}", identity.domain, identity.account)));
            let reason = outcome.as_ref().err().map_or("mapped", |refusal| refusal.name());
            self.policy.0.load().metrics.identified(reason);
            let written = self.audit.identified(
                decision,
                reason,
                account.as_ref(),
                &presented.leaf,
                &asked_from(source),
            );
            match written {
                Ok(()) => outcome,
                Err(_) => Err(Refusal::Undecided(Reason::AuditUnavailable.name())),
            }
        })
    }
}

impl Remote {
    async fn ask(&self, presented: &Presented, now: FileTime) -> Result<Identity, Refusal> {
        let policy = self.policy.0.load_full();
        let path = policy.live.verified(&presented.leaf, now).await.map_err(refusal)?;
        let request = request(presented, &policy, path.as_deref())?;
        let claim = SidClaim::of_encoded(&presented.leaf);
        if claim == SidClaim::Contradictory {
            return Err(refusal(Reason::SidMismatch));
        }
        let nonce =
            [SystemRandomness.bytes(), SystemRandomness.bytes()].concat().try_into().unwrap_or_default();
        // Only nodes of ours have keys that prove something, and only they are told anything beside the question.
        let context = (!self.proof_keys.is_empty())
            .then(|| CallContext { proof_nonce: Some(nonce), ..CallContext::default() });
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
            return Err(Refusal::Undecided(Reason::NoLogonServers.name()));
        };
        let status = answer.status;
        let (mapped, message) = match ask::read(answer) {
            Ok(read) => read,
            Err(_) if status.is_success() => return Err(Refusal::Undecided("answer_not_believed")),
            Err(_) if ask::says_not_mapped(status) => {
                return Err(Refusal::NotMapped(status.name().unwrap_or("refused")));
            }
            Err(_) => return Err(Refusal::Undecided(status.name().unwrap_or("refused"))),
        };
        // The service is wrong, or is not what it should be: that says nothing of the client.
        if !claim.allows(&mapped.pac.user_sid) {
            self.log_limiter.once("answer_sid_mismatch", || {
                tracing::warn!(
                    server, account_sid = %mapped.pac.user_sid, ?claim,
                    "Rejected an answer for another account than the certificate's"
                );
            });
            return Err(Refusal::Undecided("answer_sid_mismatch"));
        }
        let (assurance, policy_revision) = match &context {
            Some(_) => self.proved(&proof::Question::new(&request, nonce), &message, &mapped),
            None => (Assurance::Unknown, 0),
        };
        let is_ours = mapped.domain.eq_ignore_ascii_case(&self.domain);
        let identity = of_pac(mapped.domain, is_ours, &mapped.pac, not_after(presented));
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

fn standing(mapper: &Mapper, presented: &Presented, now: FileTime) -> Result<Standing, Refusal> {
    let store = mapper.store().revision();
    let store_revision = store.map_err(|_| Refusal::Undecided(Reason::StoreUnavailable.name()))?;
    let policy_revision = mapper.policy().revision;
    let Some(trust) = mapper.trust() else {
        return Ok(Standing { path: None, policy_revision, store_revision, is_settled: true });
    };
    let path = trust.verify_hashed(&presented.leaf, presented.sha256, now);
    let path = path.map_err(|refused| refusal(Reason::Chain(refused.error)))?;
    let is_settled = match mapper.policy().validation {
        Validation::ChainAndRevocation => match trust.revocation(&path, now) {
            Revocation::Good => true,
            Revocation::Revoked { .. } => return Err(refusal(Reason::Revoked)),
            // Somebody may have to be asked.
            Revocation::Unknown { .. } => false,
        },
        _ => true,
    };
    Ok(Standing { path: Some(path), policy_revision, store_revision, is_settled })
}

/// SSL_CERT_LOGON_REQ, with the names of the issuers: those of the verified path, or, where chains are not verified, of the chain that
/// came with the certificate.
fn request(presented: &Presented, deciders: &Deciders, path: Option<&TrustPath>) -> Result<Vec<u8>, Refusal> {
    let leaf = Certificate::parse(&presented.leaf).map_err(|_| refusal(Reason::MalformedCertificate))?;
    let issuers = match (path, deciders.live.trust()) {
        (Some(path), Some(trust)) => issuers::of_path(&leaf, path, trust),
        _ => issuers::of_chain(&leaf, presented.chain.iter().map(|certificate| &certificate[..])),
    };
    let request = Request { flags: deciders.sidecar_methods, certificate: &presented.leaf, issuers };
    request.encode().ok_or(Refusal::Broken(sidecar::Broken::TooLong))
}

fn not_after(presented: &Presented) -> FileTime {
    Certificate::parse(&presented.leaf).map_or(FileTime(0), |certificate| certificate.not_after)
}

/// The account of an answer. It is who it is until the certificate ends, at `not_after`, or until the account has to go.
pub(super) fn identity(
    answer: &Answer,
    mapper: &Mapper,
    not_after: FileTime,
    now: FileTime,
) -> Result<Identity, Refusal> {
    if let Some(mapped) = &answer.mapped {
        let account = &mapped.record.account;
        let member = |membership: &account_store::Membership| Group {
            sid: membership.sid,
            name: membership.name.clone(),
        };
        let extra = account.extra_sids.iter().map(|sid| Group { sid: *sid, name: None });
        return Ok(Identity {
            domain: mapper.store().domain().netbios.clone(),
            is_ours: true,
            account: account.name.clone(),
            upn: account.user_principal_name.clone(),
            full_name: Some(account.profile.full_name.clone()).filter(|name| !name.is_empty()),
            sid: account.sid,
            groups: mapped.record.memberships.iter().map(member).chain(extra).collect(),
            method: Some(mapped.method.name()),
            assurance: match mapped.strength {
                Strength::Strong(form) => Assurance::Strong(Some(form.name())),
                Strength::Weak => Assurance::Weak,
            },
            policy_revision: answer.policy_revision,
            not_after: not_after.min(logoff_time(account, now)),
        });
    }
    let Some(account) = answer.elsewhere.as_ref().and_then(|elsewhere| elsewhere.account.as_ref()) else {
        return Err(refusal(answer.reason));
    };
    // What was written here a moment ago can be read.
    let read = Response::decode(&account.response).ok();
    let read =
        read.and_then(|response| Some((VerifiedPac::decode(response.auth_data).ok()?, response.domain)));
    let (pac, domain) = read.ok_or(refusal(Reason::Unanswerable))?;
    Ok(Identity { policy_revision: answer.policy_revision, ..of_pac(domain, false, &pac, not_after) })
}

fn of_pac(domain: String, is_ours: bool, pac: &VerifiedPac, not_after: FileTime) -> Identity {
    let info = &pac.logon_info;
    let groups = info.groups();
    let counts =
        |attributes: u32| attributes & SE_GROUP_ENABLED != 0 && attributes & SE_GROUP_USE_FOR_DENY_ONLY == 0;
    // How somebody was authenticated is no group of his.
    let is_mark = |sid: &Sid| {
        matches!(*sid, Sid::AUTHENTICATION_AUTHORITY_ASSERTED_IDENTITY | Sid::SERVICE_ASSERTED_IDENTITY)
    };
    let groups = groups.iter().filter(|group| counts(group.attributes) && !is_mark(&group.sid));
    let upn = pac.upn_dns_info.as_ref().filter(|upn| !upn.is_constructed);
    Identity {
        domain,
        is_ours,
        account: info.effective_name.text.clone(),
        upn: upn.map(|upn| upn.upn.clone()),
        full_name: Some(info.full_name.text.clone()).filter(|name| !name.is_empty()),
        sid: pac.user_sid,
        groups: groups.map(|group| Group { sid: group.sid, name: None }).collect(),
        method: None,
        assurance: Assurance::Unknown,
        policy_revision: 0,
        not_after: [info.logoff_time, info.kick_off_time]
            .into_iter()
            .filter(|time| *time != FileTime::UNSET)
            .fold(not_after, FileTime::min),
    }
}

/// A reason as the sidecar has it.
fn refusal(reason: Reason) -> Refusal {
    match reason {
        Reason::Chain(error) => Refusal::Chain(error.name()),
        reason if is_no_decision(reason) => Refusal::Undecided(reason.name()),
        reason => Refusal::NotMapped(reason.name()),
    }
}

/// Whether a reason says nothing of the certificate: what is broken is never a denial.
const fn is_no_decision(reason: Reason) -> bool {
    reason.is_undecided()
        || match reason {
            Reason::MalformedRequest | Reason::NoMethod | Reason::AskerDenied | Reason::Disbelieved(_) => {
                true
            }
            Reason::RefusedElsewhere { status, .. } => !ask::says_not_mapped(status),
            _ => false,
        }
}

fn asked_from(source: Option<SocketAddr>) -> String {
    source.map_or_else(|| "unix".to_owned(), |address| address.to_string())
}
