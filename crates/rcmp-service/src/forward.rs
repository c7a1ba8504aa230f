//! One question, answered here or by the domain whose account it is about.
//!
//! A question about an account of another domain is forwarded to a peer with the same bytes. Of the peer's
//! response, refusals are returned unchanged, and accounts are validated and written anew
//! ([`crate::foreign`]). The way of a question is bounded: it never goes back to the domain that it came
//! from, to a domain that it has been to, or through more domains than are configured.

use crate::certificate::{Certificate, OwnedCertificate};
use crate::claim::SidClaim;
use crate::context::CallContext;
use crate::domains::{Domains, PeerDomain, RoutedBy};
use crate::foreign::{self, ForeignAccount};
use crate::form::Strength;
use crate::message::{Request, Response};
use crate::proof::{self, Hop, HopStrength, Role, Signed, Verified, Weakness};
use crate::question::{Answer, Asked, Elsewhere, Question};
use crate::reason::Reason;
use crate::response_rejection::ResponseRejection;
use crate::scope::Scope;
use crate::service::{Ask, Destination, Mapper};
use crate::trace::{Step, Trace};
use account_store::{BoxFuture, Matches, Query};
use aws_lc_rs::signature::Ed25519KeyPair;
use bytes::Bytes;
use dtyp::{NtStatus, Sid};
use pac::VerifiedPac;
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use tower::ServiceExt;
use tower::util::BoxCloneSyncService;

/// The same question of one asker, under way at once, when it goes on to another domain: an honest asker has
/// some clients that show the same certificate; in a circle through servers that tell nothing it would come
/// back again and again. Nodes of ours tell where a question has been, and are not counted.
const SAME_IN_TRANSIT_MAX: u32 = 32;
/// The same of a machine of ours, which may serve many connections of one client at once.
const SAME_OF_MACHINE_MAX: u32 = 256;

/// A question for a peer.
#[derive(Clone, Debug)]
pub struct PeerQuestion {
    /// SSL_CERT_LOGON_REQ, as it came.
    pub request: Bytes,
    /// SHA-256 of it.
    pub digest: [u8; 32],
    /// NetBIOS name of the domain that is to answer.
    pub logon_domain_name: String,
    /// The SID of the account that asks here.
    pub asker: Sid,
    /// What is sent beside the question to a node of ours; the sender adds the trace.
    pub context: CallContext,
}

/// What a peer answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerReply {
    /// The NTSTATUS that the peer returned.
    pub status: NtStatus,
    /// Whether no other server need be asked.
    pub authoritative: bool,
    /// ValidationData, decrypted; with success.
    pub data: Option<Vec<u8>>,
    /// The server that answered.
    pub server: String,
}

/// No server of a peer answered, or none could decide.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoServers;

/// Asks the servers of one peer.
pub type PeerService = BoxCloneSyncService<PeerQuestion, PeerReply, NoServers>;

/// The way to the other domains.
pub struct Forwarder {
    domains: Domains,
    /// One for each of [`Domains::peers`], where it is asked directly.
    services: Vec<Option<PeerService>>,
    /// Signs our hops in proofs of path.
    proof_key: Option<Ed25519KeyPair>,
    /// By the SID of the account that asks, and the question.
    in_transit: Mutex<HashMap<(Sid, [u8; 32]), u32>>,
}

impl std::fmt::Debug for Forwarder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Forwarder of {} to {} peers", self.domains.ours().netbios, self.services.len())
    }
}

impl Forwarder {
    /// `services` are those of [`Domains::peers`], in their order.
    pub fn new(
        domains: Domains,
        services: Vec<Option<PeerService>>,
        proof_key: Option<Ed25519KeyPair>,
    ) -> Self {
        Self { domains, services, proof_key, in_transit: Mutex::default() }
    }

    /// The domains.
    pub const fn domains(&self) -> &Domains {
        &self.domains
    }
}

/// The handler: maps a certificate to an account, of this domain or, with a forwarder, of another one.
#[derive(Clone, Debug)]
pub struct MapCertificate {
    mapper: Arc<Mapper>,
    forwarder: Option<Arc<Forwarder>>,
}

impl MapCertificate {
    /// A handler for accounts of the mapper's domain, and of other domains by a forwarder.
    pub const fn new(mapper: Arc<Mapper>, forwarder: Option<Arc<Forwarder>>) -> Self {
        Self { mapper, forwarder }
    }

    /// What decides for accounts of this domain.
    pub const fn mapper(&self) -> &Arc<Mapper> {
        &self.mapper
    }

    /// What asks other domains.
    pub const fn forwarder(&self) -> Option<&Arc<Forwarder>> {
        self.forwarder.as_ref()
    }

    /// Answers a question.
    pub async fn answer(&self, question: &Question) -> Answer {
        let mut steps = question.is_traced.then(Vec::new);
        let revision = self.mapper.store_revision();
        let answer = self.answer_traced(question, &mut steps).await;
        answer.traced(revision, steps)
    }

    async fn answer_traced(&self, question: &Question, trace: &mut impl Trace) -> Answer {
        let Some(forwarder) = &self.forwarder else {
            return self.mapper.answer_traced(question, trace).await;
        };
        let answer = Forwarding { mapper: &self.mapper, forwarder }.answer(question, trace).await;
        match question.context.proof_nonce {
            Some(nonce) => Forwarding { mapper: &self.mapper, forwarder }.prove(answer, question, nonce),
            None => answer,
        }
    }
}

impl tower::Service<Question> for MapCertificate {
    type Response = Answer;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Answer, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, question: Question) -> Self::Future {
        let handler = self.clone();
        Box::pin(async move { Ok(handler.answer(&question).await) })
    }
}

/// One question on its way to an answer, here or elsewhere.
#[derive(Clone, Copy)]
struct Forwarding<'a> {
    mapper: &'a Mapper,
    forwarder: &'a Forwarder,
}

/// A question for another domain, and the way to it.
struct Errand<'a> {
    question: &'a Question,
    /// The peer that asks; none for a machine of this domain. Peers are indices of [`Domains::peers`].
    asker: Option<usize>,
    /// The peer whose account it is.
    target: usize,
    /// The peer that is asked.
    direct: usize,
    /// The SID that the certificate names.
    claim: SidClaim,
}

impl<'a> Forwarding<'a> {
    async fn answer(self, question: &Question, trace: &mut impl Trace) -> Answer {
        let domains = &self.forwarder.domains;
        let is_ours = domains.is_ours(&question.logon_domain_name);
        if domains.peers().is_empty() && is_ours && question.asker.trust.is_none() {
            return self.mapper.answer_traced(question, trace).await;
        }
        let refused = |reason| Answer::refused(reason, self.mapper.policy());
        let asker = match &question.asker.trust {
            None => None,
            Some(name) => match domains.find(name).filter(|peer| domains.peers()[*peer].may_ask) {
                Some(peer) => Some(peer),
                // An account of a trust that is not configured, or the other way only.
                None => return refused(Reason::AskerDenied),
            },
        };
        if !question.asker.may_map {
            return refused(Reason::AskerDenied);
        }
        let Ok(asked) = question.asked() else { return refused(Reason::MalformedRequest) };
        let Ok(certificate) = asked.certificate.as_ref().map(OwnedCertificate::get) else {
            return refused(Reason::MalformedCertificate);
        };
        let scope = &question.asker.scope;
        let ask = Ask { certificate: &certificate, flags: asked.flags, issuers: &asked.issuers, scope };
        let named = (question.logon_domain_name.as_str(), asker.is_some());
        match self.mapper.decide_among(domains, named, &ask, question.now, trace).await {
            Destination::Here(decision) => {
                self.mapper.conclude(decision, question.message().is_some(), question.now)
            }
            Destination::Nowhere(reason) => refused(reason),
            Destination::Peer(target, by) => {
                let (direct, claim) = (domains.through(target), SidClaim::of(&certificate));
                let errand = Errand { question, asker, target, direct, claim };
                self.forward(&errand, asked, &certificate, by, trace).await
            }
        }
    }

    /// Sends a question to a peer, and makes the answer.
    async fn forward(
        self,
        errand: &Errand<'_>,
        asked: &Asked,
        certificate: &Certificate<'_>,
        by: RoutedBy,
        trace: &mut impl Trace,
    ) -> Answer {
        let netbios = |peer: usize| self.forwarder.domains.peers()[peer].domain.netbios.clone();
        let (domain, peer) = (netbios(errand.target), netbios(errand.direct));
        trace.step(|| Step::Routed { domain: domain.clone(), peer: peer.clone(), by });
        let message = self.message(errand.question, asked, certificate);
        let digest = match (errand.question.digest(), &message) {
            (Some(digest), _) => *digest,
            (None, message) => Sha256::digest(message.as_deref().unwrap_or_default()).into(),
        };
        let mut elsewhere = Elsewhere { domain, peer, by, server: None, digest, account: None };
        let (reason, message) = match self.ask(errand, message, &mut elsewhere).await {
            Ok(message) => (Reason::Forwarded, message),
            Err(reason) => (reason, None),
        };
        Answer { message, elsewhere: Some(elsewhere), ..Answer::refused(reason, self.mapper.policy()) }
    }

    /// Asks a peer, unless it may not be asked, and validates its reply. The server and the account go into
    /// `elsewhere`; what is returned is the message for the asker, if the question is one.
    async fn ask(
        self,
        errand: &Errand<'_>,
        message: Option<Bytes>,
        elsewhere: &mut Elsewhere,
    ) -> Result<Option<Bytes>, Reason> {
        let &Errand { question, target, direct, claim, .. } = errand;
        let Forwarder { domains, services, .. } = self.forwarder;
        let (peer, through) = (&domains.peers()[target], &domains.peers()[direct]);
        let scope = &question.asker.scope;
        // A domain out of scope is not asked.
        if !scope.covers_domain(&peer.domain.netbios) {
            return Err(Reason::OutOfScope);
        }
        // Nothing that the peer could answer would be right.
        if claim == SidClaim::Contradictory {
            return Err(Reason::SidMismatch);
        }
        let request = message.ok_or(Reason::TooLongToForward)?;
        let digest = elsewhere.digest;
        let _in_transit = self.may_pass(errand, digest)?;
        let service = services[direct].clone().ok_or(Reason::OtherDomain)?;
        // A server between us and a domain could claim anything of that domain's accounts, unless the domain
        // signs its answer.
        let must_prove = target != direct && through.is_rcmpd && !peer.proof_keys.is_empty();
        let nonce = question.context.proof_nonce.or_else(|| must_prove.then(random_nonce).flatten());
        let asked = PeerQuestion {
            request,
            digest,
            logon_domain_name: peer.domain.netbios.clone(),
            asker: question.asker.sid,
            context: self.context(question, through, nonce),
        };
        let reply = service.oneshot(asked).await.map_err(|NoServers| Reason::NoLogonServers)?;
        elsewhere.server = Some(reply.server);
        check_status(reply.status, reply.authoritative, scope)?;
        let data = reply.data.unwrap_or_default();
        let (response, block) = proof::split(&data);
        let identity_sid = self.mapper.policy().identity_sid;
        let account = foreign::validate_response(response, &peer.domain, domains.ours(), claim, identity_sid)
            .map_err(Reason::ResponseRejected)?;
        self.leaves_our_names(&account, target).await?;
        if must_prove && !is_word_of(peer, &data, &account.sid, digest, nonce) {
            return Err(Reason::Unproved);
        }
        if !scope.covers(&account.sid, account.groups.iter().copied(), &account.dropped) {
            return Err(Reason::OutOfScope);
        }
        let message = question.message().map(|_| account.message());
        let has_block = question.context.proof_nonce.is_some() && through.is_rcmpd && proof::is_block(block);
        let message = message.map(|message| match has_block {
            true => Bytes::from([&message[..], block].concat()),
            false => message,
        });
        elsewhere.account = Some(Box::new(account));
        Ok(message)
    }

    /// A suffix that domains share does not tell whose account has a name, so the store is asked: an account
    /// of another domain may not come with the name of one of ours.
    async fn leaves_our_names(self, account: &ForeignAccount, target: usize) -> Result<(), Reason> {
        let domains = &self.forwarder.domains;
        let Some(name) = account.any_user_principal_name().filter(|name| domains.may_be_ours(name)) else {
            return Ok(());
        };
        let found = self.mapper.store().find(&Query::UserPrincipalName(name.to_owned())).await;
        let is_home = |home: &String| domains.find(home) == Some(target);
        match found.map_err(|_| Reason::StoreUnavailable)? {
            Matches::None => Ok(()),
            Matches::One(record) if record.account.home_domain.as_ref().is_some_and(is_home) => Ok(()),
            _ => Err(Reason::ResponseRejected(ResponseRejection::OurUpnSuffix)),
        }
    }

    /// What is sent beside a question. A server that is not a node of ours is told nothing.
    fn context(self, question: &Question, through: &PeerDomain, nonce: Option<[u8; 16]>) -> CallContext {
        if !through.is_rcmpd {
            // The asker waits no longer, whether the server is told or not.
            let time_left = question.context.time_left;
            return CallContext { time_left, ..CallContext::default() };
        }
        let mut context = question.context.clone();
        context.hops.push(self.forwarder.domains.ours().sid);
        CallContext { proof_nonce: nonce, ..context }
    }

    /// The message for a peer: the one that was sent, or one for the certificate. `None` if it would break a
    /// limit.
    fn message(self, question: &Question, asked: &Asked, certificate: &Certificate<'_>) -> Option<Bytes> {
        if let Some(message) = question.message() {
            return Some(message.clone());
        }
        let path = self.mapper.trust().and_then(|trust| trust.verify_parsed(certificate, question.now).ok());
        let issuers = self.mapper.issuer_names(certificate, &asked.issuers, path.as_deref());
        let request = Request { flags: asked.flags, certificate: certificate.encoded, issuers };
        request.encode().map(Bytes::from)
    }

    /// Whether a question may go on to a peer; what is returned counts it while it is on its way.
    fn may_pass(self, errand: &Errand<'_>, digest: [u8; 32]) -> Result<Option<InTransit<'a>>, Reason> {
        let &Errand { question, asker, target, direct, .. } = errand;
        let domains = &self.forwarder.domains;
        let peers = domains.peers();
        let hops = &question.context.hops;
        let been_there = |sid: &Sid| hops.contains(sid);
        if been_there(&domains.ours().sid)
            || been_there(&peers[target].domain.sid)
            || been_there(&peers[direct].domain.sid)
            || asker.is_some_and(|asker| asker == target || asker == direct)
        {
            return Err(Reason::Loop);
        }
        if hops.len() >= domains.hops_max() {
            return Err(Reason::ChainTooLong);
        }
        if !peers[target].is_asked {
            return Err(Reason::OtherDomain);
        }
        if let Some(asker) = asker.map(|asker| &peers[asker]) {
            if !asker.transit.iter().any(|name| domains.find(name) == Some(target)) {
                return Err(Reason::TransitDenied);
            }
            if asker.is_rcmpd {
                return Ok(None);
            }
        }
        let guard = InTransit { forwarder: self.forwarder, key: (question.asker.sid, digest) };
        let mut in_transit = self.forwarder.in_transit.lock().unwrap_or_else(PoisonError::into_inner);
        let same = in_transit.entry(guard.key).or_default();
        *same += 1;
        let too_many = *same > if asker.is_some() { SAME_IN_TRANSIT_MAX } else { SAME_OF_MACHINE_MAX };
        drop(in_transit);
        match too_many {
            true => Err(Reason::Loop),
            false => Ok(Some(guard)),
        }
    }

    /// Adds our hop to an answer with an account, where we have a key to sign it.
    fn prove(self, mut answer: Answer, question: &Question, nonce: [u8; 16]) -> Answer {
        let Some(key) = &self.forwarder.proof_key else { return answer };
        let (Some(message), Some(digest)) = (&answer.message, question.digest()) else { return answer };
        let asked = proof::Question { digest: *digest, nonce };
        let (role, strength, account_sid) = match (&answer.mapped, &answer.elsewhere) {
            (Some(mapped), _) => {
                let strength = match mapped.strength {
                    Strength::Strong(_) => HopStrength::Strong,
                    Strength::Weak => HopStrength::Weak,
                };
                (Role::Answered, strength, mapped.record.account.sid)
            }
            (None, Some(Elsewhere { account: Some(account), peer, .. })) => {
                (Role::Forwarded, self.strength_elsewhere(message, peer, &asked), account.sid)
            }
            _ => return answer,
        };
        let ours = self.forwarder.domains.ours();
        let hop = Hop {
            role,
            domain: ours.netbios.clone(),
            domain_sid: ours.sid,
            server: self.mapper.server().to_owned(),
            policy_revision: answer.policy_revision,
            strength,
            account_sid,
            at: question.now,
        };
        let mut proved = message.to_vec();
        match proof::append(&mut proved, &hop, &asked, key) {
            Ok(()) => answer.message = Some(Bytes::from(proved)),
            Err(error) => tracing::debug!(%error, "A proof of path cannot be continued"),
        }
        answer
    }

    /// What we can vouch for of the hops before ours; `peer` is the one that was asked.
    fn strength_elsewhere(self, message: &[u8], peer: &str, asked: &proof::Question) -> HopStrength {
        let domains = &self.forwarder.domains;
        let keys_of = |netbios: &str| match domains.find(netbios) {
            Some(peer) => domains.peers()[peer].proof_keys.clone(),
            None => Vec::new(),
        };
        let (Ok(hops), Ok(response)) = (proof::verify(message, asked, keys_of), Response::decode(message))
        else {
            return HopStrength::Unknown;
        };
        let Ok(pac) = VerifiedPac::decode(response.auth_data) else { return HopStrength::Unknown };
        match proof::strong_at_every_hop(&hops, &response, &pac, peer) {
            Ok(()) => HopStrength::Strong,
            // It is known who says so, and that is what they say.
            Err(Weakness::NotStrong(at)) if hops[at].hop.strength == HopStrength::Weak => HopStrength::Weak,
            Err(_) => HopStrength::Unknown,
        }
    }
}

/// Whether the status of a reply says that there is an account, and if not, why.
fn check_status(status: NtStatus, authoritative: bool, scope: &Scope) -> Result<(), Reason> {
    match status {
        // A peer that lets us ask nothing is one that cannot be asked; the asker has done nothing wrong.
        NtStatus::ACCESS_DENIED => Err(Reason::NoLogonServers),
        // Neither yes nor no: a client may take it for yes.
        _ if !status.is_success() && !status.is_error() => {
            Err(Reason::ResponseRejected(ResponseRejection::MalformedResponse))
        }
        // A restriction says that there is an account, and not whether it is in one of the scope's groups.
        _ if status.is_account_restriction() && scope.goes_by_groups() => Err(Reason::OutOfScope),
        _ if !status.is_success() => Err(Reason::RefusedElsewhere { status, authoritative }),
        _ => Ok(()),
    }
}

/// A random number, which cannot be guessed.
fn random_nonce() -> Option<[u8; 16]> {
    let mut nonce = [0; 16];
    aws_lc_rs::rand::fill(&mut nonce).ok().map(|()| nonce)
}

/// Whether an answer carries the word of the account's own domain for this account, to this question.
fn is_word_of(
    peer: &PeerDomain,
    message: &[u8],
    account: &Sid,
    digest: [u8; 32],
    nonce: Option<[u8; 16]>,
) -> bool {
    let Some(nonce) = nonce else { return false };
    let keys_of = |netbios: &str| match netbios.eq_ignore_ascii_case(&peer.domain.netbios) {
        true => peer.proof_keys.clone(),
        false => Vec::new(),
    };
    let hops = proof::verify(message, &proof::Question { digest, nonce }, keys_of).unwrap_or_default();
    hops.first().is_some_and(|Verified { hop, signed }| {
        *signed == Signed::Good
            && hop.role == Role::Answered
            && hop.domain_sid == peer.domain.sid
            && hop.account_sid == *account
    })
}

/// One question of a peer on its way to another.
struct InTransit<'a> {
    forwarder: &'a Forwarder,
    key: (Sid, [u8; 32]),
}

impl Drop for InTransit<'_> {
    fn drop(&mut self) {
        let mut in_transit = self.forwarder.in_transit.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(same) = in_transit.get_mut(&self.key) {
            *same -= 1;
            if *same == 0 {
                in_transit.remove(&self.key);
            }
        }
    }
}
