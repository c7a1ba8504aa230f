//! The service that answers a question from the accounts of this domain.

use crate::answer;
use crate::binding;
use crate::certificate::Certificate;
use crate::domains::{Domains, Route, RoutedBy};
use crate::form::{Form, Method};
use crate::issuers;
use crate::mapping::{self, FormQuery};
use crate::message::MappingFlags;
use crate::policy::{Contradiction, Policy, Rules, Validation};
use crate::question::{Answer, Asked, Issuers, Mapped, Question};
use crate::reason::Reason;
use crate::scope::Scope;
use crate::trace::{NoTrace, Step, Trace};
use crate::trust::{Authority, KeyId, Nonce, OcspQuestion, Path, Revocation, Trust, UnknownReason};
use account_store::fold::Comparison;
use account_store::{AccountStore, BoxFuture, DistinguishedName, Matches, Record};
use bytes::Bytes;
use dtyp::FileTime;
use std::collections::HashSet;
use std::sync::Arc;

/// Asks OCSP responders that the operator configured, and no others. An implementation bounds time, size and
/// how many questions are open.
pub trait OcspTransport: Send + Sync {
    /// Random octets, so many, to know an answer by; `None` if there are none to be had.
    fn nonce(&self, len: usize) -> Option<Nonce>;

    /// Asks (RFC 6960 A.1), all at once, and brings what comes back to [`Trust::ocsp_answer`]; returns when
    /// nothing more is to be expected. One question about a certificate is enough for all who have it at a
    /// time.
    fn ask<'a>(
        &'a self,
        trust: &'a Arc<Trust>,
        questions: Vec<OcspQuestion>,
        now: FileTime,
    ) -> BoxFuture<'a, ()>;
}

/// What a decision is made from, replaced whole when the configuration is reloaded.
pub struct Mapper {
    policy: Policy,
    trust: Option<Arc<Trust>>,
    responder: Option<Arc<dyn OcspTransport>>,
    store: Arc<dyn AccountStore>,
    server: String,
    shared_names: HashSet<KeyId>,
    cache: answer::Cache,
}

/// What a mapper is made of.
pub struct MapperParts {
    /// The policy.
    pub policy: Policy,
    /// What chains are verified by; there exactly when the policy wants them verified.
    pub trust: Option<Arc<Trust>>,
    /// Who asks OCSP responders, where some are configured.
    pub responder: Option<Arc<dyn OcspTransport>>,
    /// The accounts.
    pub store: Arc<dyn AccountStore>,
    /// The NetBIOS name that answers carry.
    pub server: String,
}

impl std::fmt::Debug for Mapper {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Mapper for {} by {:?}", self.store.domain().netbios, self.policy)
    }
}

/// What a decision is about.
#[derive(Clone, Copy, Debug)]
pub struct Ask<'a> {
    /// The certificate.
    pub certificate: &'a Certificate<'a>,
    /// The methods to try.
    pub flags: MappingFlags,
    /// The issuers' names.
    pub issuers: &'a Issuers,
    /// The accounts that the asker gets answers for.
    pub scope: &'a Scope,
}

/// What a certificate comes to by the accounts of this domain.
#[derive(Clone, Debug)]
pub enum Decision {
    /// It is this account's.
    Mapped(Mapped),
    /// It is an account's whose home is another domain, by the name that the store has for that domain.
    Elsewhere(String),
    /// It is no account's, or the account may not be used, or nothing could be decided.
    Refused(Reason),
}

/// What a method found: an account, and by which forms that count.
struct Found {
    record: Arc<Record>,
    forms: Vec<Form>,
}

/// Which domain a question is for.
#[derive(Debug)]
pub(crate) enum Destination {
    /// This one, with its decision.
    Here(Decision),
    /// That of the peer at this index of [`Domains::peers`].
    Peer(usize, RoutedBy),
    /// None that may be asked.
    Nowhere(Reason),
}

impl Mapper {
    /// A mapper. A policy that contradicts itself is refused.
    pub fn new(parts: MapperParts) -> Result<Self, Contradiction> {
        let MapperParts { policy, trust, responder, store, server } = parts;
        policy.check()?;
        if trust.is_some() != (policy.validation != Validation::Off) {
            return Err(Contradiction::Trust);
        }
        let shared_names =
            trust.as_deref().map(|trust| shared_names(trust, policy.comparison)).unwrap_or_default();
        Ok(Self { policy, trust, responder, store, server, shared_names, cache: answer::Cache::default() })
    }

    /// The policy.
    pub const fn policy(&self) -> &Policy {
        &self.policy
    }

    /// The rules for a certificate whose verified path has these authorities.
    pub fn rules(&self, path: Option<&[KeyId]>) -> Rules<'_> {
        self.policy.rules(path, &self.shared_names)
    }

    /// Authorities whose name another one has, too, with another key.
    pub const fn shared_names(&self) -> &HashSet<KeyId> {
        &self.shared_names
    }

    /// What chains are verified by.
    pub const fn trust(&self) -> Option<&Arc<Trust>> {
        self.trust.as_ref()
    }

    /// The NetBIOS name that answers carry.
    pub fn server(&self) -> &str {
        &self.server
    }

    /// The accounts.
    pub fn store(&self) -> &Arc<dyn AccountStore> {
        &self.store
    }

    /// Answers a question from the accounts of this domain.
    pub async fn answer(&self, question: &Question) -> Answer {
        let mut steps = question.is_traced.then(Vec::new);
        let revision = self.store_revision();
        let answer = self.answer_traced(question, &mut steps).await;
        answer.traced(revision, steps)
    }

    /// The number of the store's revision, if the store has one and answers.
    pub(crate) fn store_revision(&self) -> Option<u64> {
        self.store.revision().ok().and_then(|revision| revision.stored_number())
    }

    pub(crate) async fn answer_traced(&self, question: &Question, trace: &mut impl Trace) -> Answer {
        let (asked, scope) = (question.asked().ok(), &question.asker.scope);
        let decision = match question.asker.may_map {
            true => self.decide_here(asked, scope, question.now, trace).await,
            false => Decision::Refused(Reason::AskerDenied),
        };
        self.conclude(decision, question.message().is_some(), question.now)
    }

    /// Makes the same decision to explain it. No permission is looked at.
    pub async fn explain(&self, message: &Bytes, now: FileTime, trace: &mut impl Trace) -> Answer {
        self.explain_asked(Asked::read(message).ok().as_ref(), now, trace).await
    }

    async fn explain_asked(&self, asked: Option<&Asked>, now: FileTime, trace: &mut impl Trace) -> Answer {
        let decision = self.decide_here(asked, &Scope::total(), now, trace).await;
        let answer = self.conclude(decision, true, now);
        trace.step(|| Step::Decided { reason: answer.reason });
        answer
    }

    /// Makes the same decision to explain it, where other domains may be asked. No permission is looked at,
    /// and no other domain is asked: the steps say which one would be.
    pub async fn explain_among(
        &self,
        domains: &Domains,
        message: &Bytes,
        now: FileTime,
        trace: &mut impl Trace,
    ) -> Answer {
        let asked = Asked::read(message).ok();
        let Some((asked, certificate)) =
            asked.as_ref().and_then(|asked| Some((asked, asked.certificate.as_ref().ok()?.get())))
        else {
            return self.explain_asked(asked.as_ref(), now, trace).await;
        };
        let scope = &Scope::total();
        let ask = Ask { certificate: &certificate, flags: asked.flags, issuers: &asked.issuers, scope };
        let reason = match self.decide_among(domains, ("", false), &ask, now, trace).await {
            Destination::Here(decision) => {
                let answer = self.conclude(decision, true, now);
                trace.step(|| Step::Decided { reason: answer.reason });
                return answer;
            }
            Destination::Nowhere(reason) => reason,
            Destination::Peer(peer, by) => {
                let netbios = |peer: usize| domains.peers()[peer].domain.netbios.clone();
                trace.step(|| Step::Routed {
                    domain: netbios(peer),
                    peer: netbios(domains.through(peer)),
                    by,
                });
                Reason::OtherDomain
            }
        };
        trace.step(|| Step::Decided { reason });
        Answer::refused(reason, &self.policy)
    }

    /// The verified path of a certificate, or none where chains are not verified; for a service that asks
    /// another one which account the certificate belongs to.
    pub async fn verified(
        &self,
        certificate: &Certificate<'_>,
        now: FileTime,
    ) -> Result<Option<Arc<Path>>, Reason> {
        self.verify(certificate, now, &mut NoTrace).await
    }

    /// Makes the same decision where the account is all that is wanted of it. No permission is looked at.
    pub async fn rehearse(&self, asked: &Asked, now: FileTime) -> Result<Arc<Record>, Reason> {
        match self.decide_here(Some(asked), &Scope::total(), now, &mut NoTrace).await {
            Decision::Mapped(mapped) => Ok(mapped.record),
            Decision::Elsewhere(_) => Err(Reason::HomeNotServed),
            Decision::Refused(reason) => Err(reason),
        }
    }

    /// SSL_CERT_LOGON_RESP for a decision; `None` without an account of this domain.
    pub fn respond(&self, decision: &Decision, now: FileTime) -> Option<Bytes> {
        match decision {
            Decision::Mapped(Mapped { record, .. }) => {
                self.cache.response(record, self.store.domain(), &self.server, self.policy.identity_sid, now)
            }
            Decision::Elsewhere(_) | Decision::Refused(_) => None,
        }
    }

    /// The answer that a decision makes, with a message if that is wanted.
    pub(crate) fn conclude(&self, decision: Decision, with_message: bool, now: FileTime) -> Answer {
        let message = if with_message { self.respond(&decision, now) } else { None };
        let (reason, mapped) = match decision {
            Decision::Mapped(_) if with_message && message.is_none() => (Reason::Unanswerable, None),
            Decision::Mapped(mapped) => (Reason::Mapped(mapped.method), Some(mapped)),
            Decision::Elsewhere(_) => (Reason::HomeNotServed, None),
            Decision::Refused(reason) => (reason, None),
        };
        Answer { mapped, message, decided_here: true, ..Answer::refused(reason, &self.policy) }
    }

    /// Decides by the accounts of this domain alone: an account whose home is another domain is none.
    async fn decide_here(
        &self,
        asked: Option<&Asked>,
        scope: &Scope,
        now: FileTime,
        trace: &mut impl Trace,
    ) -> Decision {
        let Some(Asked { flags, certificate, issuers }) = asked else {
            return Decision::Refused(Reason::MalformedRequest);
        };
        if let Err(reason) = self.methods(*flags) {
            return Decision::Refused(reason);
        }
        let Ok(certificate) = certificate else { return Decision::Refused(Reason::MalformedCertificate) };
        let ask = Ask { certificate: &certificate.get(), flags: *flags, issuers, scope };
        match self.decide(&ask, now, trace).await {
            Decision::Elsewhere(domain) if !scope.covers_domain(&domain) => {
                Decision::Refused(Reason::OutOfScope)
            }
            Decision::Elsewhere(_) => Decision::Refused(Reason::HomeNotServed),
            decision => decision,
        }
    }

    /// The methods that are asked for and that the policy allows.
    fn methods(&self, flags: MappingFlags) -> Result<MappingFlags, Reason> {
        let flags = flags.and(MappingFlags::ALL);
        match has_method(flags.and(self.policy.methods)) {
            true => Ok(flags),
            false => Err(Reason::NoMethod),
        }
    }

    /// Decides about a certificate by the accounts of this domain, unless it is a question for another one:
    /// by what it names, or because the store has the account's home there. `logon_domain_name` is the
    /// question's.
    pub(crate) async fn decide_among(
        &self,
        domains: &Domains,
        (logon_domain_name, asker_is_peer): (&str, bool),
        ask: &Ask<'_>,
        now: FileTime,
        trace: &mut impl Trace,
    ) -> Destination {
        let route = domains.route(logon_domain_name, asker_is_peer, ask.flags, ask.certificate);
        let (peer, by) = match route {
            Route::Peer(peer, by) => return Destination::Peer(peer, by),
            Route::Nowhere(reason) => return Destination::Nowhere(reason),
            Route::Here => (None, RoutedBy::Store),
            Route::HereThen(peer, by) => (Some(peer), by),
        };
        match (self.decide(ask, now, trace).await, peer) {
            (Decision::Refused(reason), Some(peer)) if reason.leaves_room() => Destination::Peer(peer, by),
            // A question of a peer that chose us is not forwarded.
            (Decision::Elsewhere(_), _) if asker_is_peer && !logon_domain_name.is_empty() => {
                Destination::Nowhere(Reason::OtherDomain)
            }
            (Decision::Elsewhere(home), _) => {
                let peer = domains.find(&home).map(|peer| &domains.peers()[peer]);
                let netbios = peer.map_or(&home, |peer| &peer.domain.netbios);
                if !ask.scope.covers_domain(netbios) {
                    return Destination::Nowhere(Reason::OutOfScope);
                }
                match domains.home(&home, ask.flags) {
                    Ok(peer) => Destination::Peer(peer, RoutedBy::Store),
                    Err(reason) => Destination::Nowhere(reason),
                }
            }
            (decision, _) => Destination::Here(decision),
        }
    }

    /// Decides about a certificate by the accounts of this domain.
    pub async fn decide(&self, ask: &Ask<'_>, now: FileTime, trace: &mut impl Trace) -> Decision {
        match self.find_account(ask, now, trace).await {
            // An answer is about accounts of this domain, and no PAC can name another one.
            Ok(Decision::Mapped(Mapped { record, .. }))
                if record.account.sid.rid_in(&self.store.domain().sid).is_none() =>
            {
                Decision::Refused(Reason::Unanswerable)
            }
            Ok(decision) => decision,
            Err(reason) => Decision::Refused(reason),
        }
    }

    async fn find_account(
        &self,
        ask: &Ask<'_>,
        now: FileTime,
        trace: &mut impl Trace,
    ) -> Result<Decision, Reason> {
        let &Ask { certificate, scope, .. } = ask;
        let flags = self.methods(ask.flags)?;
        let path = self.verify(certificate, now, trace).await?;
        let mut rules = self.rules(path.as_ref().map(|path| path.authorities.as_slice()));
        rules.policies = path.as_ref().map_or(&[], |path| &path.policies);
        if path.as_ref().is_some_and(|path| !self.is_issuer_as_configured(certificate, path.issuer())) {
            rules.withhold_issuer_names();
        }
        if !has_method(flags.and(rules.methods)) {
            return Err(Reason::AuthorityNotAllowed);
        }
        let issuers = match flags.and(rules.methods).contains(MappingFlags::ISSUER_CHAIN) {
            true => {
                let names = self.issuer_names(certificate, ask.issuers, path.as_deref());
                self.issuers_on_path(&names, path.as_deref())
            }
            false => Vec::new(),
        };
        // Whether something was found by a form that the certificate's CA may not vouch for.
        let mut withheld = false;
        for method in Method::ALL {
            let asked = flags.contains(method.flag());
            if !asked || !rules.methods.contains(method.flag()) {
                trace.step(|| Step::Skipped { method, asked });
                continue;
            }
            let input = self.policy.sha1_public_key;
            let queries = match mapping::queries(method, certificate, &issuers, input, flags) {
                Ok(queries) => queries,
                Err(why) => {
                    trace.step(|| Step::NotApplicable { method, why });
                    continue;
                }
            };
            if let Some(Found { record, forms }) =
                self.find(method, queries, &rules, &mut withheld, trace).await?
            {
                if let Some(domain) = &record.account.home_domain {
                    // An entry that is disabled maps no account. Whether the account is in a limited scope is
                    // for its domain's answer to show, and until then the answer must not show that there is
                    // an entry.
                    if let Some(reason) = mapping::restriction(&record.account, now) {
                        return Err(if scope.is_limited() { Reason::OutOfScope } else { reason });
                    }
                    return Ok(Decision::Elsewhere(domain.clone()));
                }
                let checked =
                    binding::check_binding(certificate, &record, &forms, &rules, &self.policy, now, trace);
                // Other refusals are answered as if there were no account; a restriction may be answered as
                // what it is.
                let names_account = checked.as_ref().map_or_else(|reason| reason.is_restriction(), |_| true);
                if names_account && !scope.covers_record(&self.store.domain().netbios, &record) {
                    return Err(Reason::OutOfScope);
                }
                return checked.map(|strength| Decision::Mapped(Mapped { record, method, strength }));
            }
        }
        Err(match (withheld, rules.is_verified()) {
            (false, _) => Reason::NoMatch,
            (true, false) => Reason::NotVerified,
            (true, true) => Reason::AuthorityNotAllowed,
        })
    }

    /// The names of the issuers, the certificate's own issuer first. `path` is the verified path, where
    /// chains are verified.
    pub fn issuer_names<'a>(
        &'a self,
        certificate: &Certificate<'a>,
        issuers: &'a Issuers,
        path: Option<&Path>,
    ) -> Vec<&'a [u8]> {
        match (issuers, path, &self.trust) {
            (Issuers::Named(names), ..) => names.iter().map(|name| &name[..]).collect(),
            (Issuers::OfChain(_), Some(path), Some(trust)) => issuers::of_path(certificate, path, trust),
            (Issuers::OfChain(chain), ..) => {
                issuers::of_chain(certificate, chain.iter().map(|certificate| &certificate[..]))
            }
        }
    }

    /// The verified path, or none where chains are not verified here.
    async fn verify(
        &self,
        certificate: &Certificate<'_>,
        now: FileTime,
        trace: &mut impl Trace,
    ) -> Result<Option<Arc<Path>>, Reason> {
        let Some(trust) = &self.trust else {
            trace.step(|| Step::ChainNotVerified);
            return Ok(None);
        };
        let path = trust.verify_parsed(certificate, now);
        trace.step(|| Step::Chain { path: path.clone() });
        let path = path.map_err(|refusal| Reason::Chain(refusal.error))?;
        if self.policy.validation == Validation::ChainAndRevocation {
            let status = self.revocation(trust, &path, now).await;
            trace.step(|| Step::Revocation {
                status,
                detail: match status {
                    Revocation::Unknown {
                        which,
                        why: UnknownReason::OcspNoAnswer | UnknownReason::OcspNotAccepted,
                    } => trust.ocsp_failure(&path, which),
                    _ => None,
                },
            });
            match status {
                Revocation::Good => {}
                Revocation::Revoked { .. } => return Err(Reason::Revoked),
                Revocation::Unknown { .. } => return Err(Reason::RevocationUnknown),
            }
        }
        Ok(Some(path))
    }

    async fn revocation(&self, trust: &Arc<Trust>, path: &Path, now: FileTime) -> Revocation {
        if let Some(responder) = &self.responder {
            let questions = trust.ocsp_needed(path, now, |len| responder.nonce(len));
            if !questions.is_empty() {
                responder.ask(trust, questions, now).await;
            }
        }
        trust.revocation(path, now)
    }

    /// Whether the name of the issuer in a certificate is, as stored values are compared, that of the CA
    /// which issued it. Paths take a name in any encoding that is the same by RFC 5280 7.1; what is looked up
    /// is that of the certificate, which may be the name under which values are stored for a CA that is not
    /// configured.
    fn is_issuer_as_configured(&self, certificate: &Certificate<'_>, issuer: KeyId) -> bool {
        let mut names = self.trust.iter().flat_map(|trust| trust.authorities());
        let is_same = |known: &Authority| {
            known.name == certificate.issuer
                || certificate.issuer_name().is_ok_and(|name| {
                    let name = name.key_by(self.policy.comparison);
                    known
                        .subject
                        .parse::<DistinguishedName>()
                        .is_ok_and(|known| known.key_by(self.policy.comparison) == name)
                })
        };
        names.any(|known| known.key == issuer && is_same(known))
    }

    /// The names of issuers' issuers that count: those that the client gave, and, where the chain was
    /// verified, only those of CAs on the path, in its order (the client has to give them in that order,
    /// [MS-RCMP] 2.2.1, and the nearest decides), as the configured certificate of the CA encodes them. They
    /// are compared by RFC 5280 7.1. The client's own encoding is not looked up: another CA may have it,
    /// which that comparison does not tell from this one.
    fn issuers_on_path<'a>(&'a self, names: &[&'a [u8]], path: Option<&Path>) -> Vec<&'a [u8]> {
        match (path, &self.trust) {
            (Some(path), Some(trust)) => {
                let mut on_path: Vec<(usize, &[u8])> = names
                    .iter()
                    .filter_map(|name| {
                        let place =
                            |known: &Authority| path.authorities.iter().position(|key| *key == known.key);
                        // A name that another one has, too, says nothing unless the operator granted it to
                        // this one.
                        trust
                            .named(name)
                            .filter(|known| self.policy.is_named(&known.key, &self.shared_names))
                            .filter_map(|known| Some((place(known)?, known.name.as_slice())))
                            .min_by_key(|(place, _)| *place)
                    })
                    .collect();
                on_path.sort_by_key(|(place, _)| *place);
                on_path.into_iter().map(|(_, name)| name).collect()
            }
            _ => names.to_vec(),
        }
    }

    /// The one account that a method's queries find. Forms that the certificate's CA may not vouch for find
    /// no account. Those that only propose are asked when all others found no account, and then all of them.
    async fn find(
        &self,
        method: Method,
        queries: Vec<FormQuery>,
        rules: &Rules<'_>,
        withheld: &mut bool,
        trace: &mut impl Trace,
    ) -> Result<Option<Found>, Reason> {
        let mut one: Option<Found> = None;
        let mut ambiguous = false;
        let mut proposing = false;
        for (form, query) in queries {
            if form.is_proposal() && !proposing {
                if one.is_some() || ambiguous {
                    break;
                }
                proposing = true;
            }
            let found = self.store.find(&query).await;
            if let Err(error) = &found {
                tracing::warn!(%error, "The account store could not answer");
            }
            let granted = match &found {
                Ok(Matches::One(record)) => rules.allow(form, record),
                _ => rules.mention(form),
            };
            let is_same = match &found {
                Ok(Matches::One(record)) => mapping::is_same(&query, &record.account, &self.policy),
                _ => true,
            };
            trace.step(|| {
                let error = found.as_ref().err().map(ToString::to_string);
                let stale_s = match &found {
                    Ok(Matches::One(record)) => record.account.stale_s,
                    Ok(Matches::None | Matches::Many(_)) => self.store.stale_s(&query),
                    Err(_) => None,
                };
                Step::Asked {
                    method,
                    form,
                    query,
                    found: found.as_ref().ok().cloned(),
                    stale_s,
                    error,
                    granted,
                }
            });
            match found.map_err(|_| Reason::StoreUnavailable)? {
                Matches::None => continue,
                Matches::One(record) if !is_same => {
                    trace.step(|| Step::Differs { method, form, record });
                    continue;
                }
                Matches::One(_) | Matches::Many(_) if !granted => {
                    *withheld = true;
                    continue;
                }
                Matches::Many(_) => ambiguous = true,
                Matches::One(record) => match &mut one {
                    Some(other) if other.record.account.sid != record.account.sid => ambiguous = true,
                    Some(same) => same.forms.push(form),
                    None => one = Some(Found { record, forms: vec![form] }),
                },
            }
            // The names of a chain are tried one after the other, the nearest first; other queries must all
            // agree.
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

/// Whether flags name a method; the issuer chain alone is none ([MS-RCMP] 2.2.1).
pub fn has_method(flags: MappingFlags) -> bool {
    Method::ALL.iter().any(|method| flags.contains(method.flag()))
}

/// The authorities that do not have their name alone, as stored values are compared or by RFC 5280 7.1: what
/// an authority issues may name it in any encoding that is the same by that section. A new key under an old
/// name is one of them.
fn shared_names(trust: &Trust, comparison: Comparison) -> HashSet<KeyId> {
    let name = |authority: &Authority| match authority.subject.parse::<DistinguishedName>() {
        Ok(name) => name.key_by(comparison),
        // Nothing stored can name it either.
        Err(_) => dtyp::hex(&authority.name),
    };
    let names: Vec<(String, &Authority)> =
        trust.authorities().map(|authority| (name(authority), authority)).collect();
    let shares = |(name, authority): &&(String, &Authority)| {
        let is_other = |other: &Authority| other.key != authority.key;
        trust.named(&authority.name).any(is_other)
            || names.iter().any(|(other_name, other)| is_other(other) && other_name == name)
    };
    names.iter().filter(shares).map(|(_, authority)| authority.key).collect()
}
