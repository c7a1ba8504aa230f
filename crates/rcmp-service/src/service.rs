//! The service that answers a question from the accounts of this domain.

use crate::answer;
use crate::binding;
use crate::certificate::Certificate;
use crate::domains::{Domains, Route};
use crate::form::{Form, Method, Strength};
use crate::mapping::{self, FormQuery};
use crate::message::{MappingFlags, Request};
use crate::policy::{Contradiction, Policy, Rules, Validation};
use crate::question::{Answer, Mapped, Question};
use crate::reason::Reason;
use crate::scope::Scope;
use crate::trace::{NoTrace, Step, Trace};
use crate::trust::{Authority, KeyId, Nonce, OcspQuestion, Path, Revocation, Trust, UnknownReason};
use account_store::fold::Comparison;
use account_store::{AccountStore, BoxFuture, DistinguishedName, Matches, Record};
use dtyp::FileTime;
use std::collections::HashSet;
use std::sync::Arc;

/// Asks OCSP responders that the operator configured, and no others. Whoever implements it bounds time, size and how many
/// questions are open.
pub trait OcspTransport: Send + Sync {
    /// Random octets, so many, to know an answer by; `None` if there are none to be had.
    fn nonce(&self, len: usize) -> Option<Nonce>;

    /// Asks (RFC 6960 A.1), all at once, and brings what comes back to [`Trust::ocsp_answer`]; returns when nothing more is to
    /// be expected. One question about a certificate is enough for all who have it at a time.
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

/// An account that was decided for.
#[derive(Clone, Debug)]
struct Decision {
    record: Arc<Record>,
    method: Method,
    strength: Strength,
}

/// What a certificate comes to, when nothing forbids it.
enum Decided {
    Here(Decision),
    /// The account's domain, which is not this one.
    Elsewhere(String),
}

/// What a method found: an account, and by which forms that count.
struct Found {
    record: Arc<Record>,
    forms: Vec<Form>,
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

    /// Answers a question.
    pub async fn answer(&self, question: &Question, now: FileTime) -> Answer {
        self.answer_traced(question, now, &mut NoTrace).await
    }

    /// Answers a question from the accounts of this domain, and takes down how.
    pub async fn answer_traced(&self, question: &Question, now: FileTime, trace: &mut impl Trace) -> Answer {
        let decision = match question.asker.may_map {
            true => self.decide_here(&question.request, &question.asker.scope, now, trace).await,
            false => Err(Reason::AskerDenied),
        };
        self.conclude(decision, now)
    }

    /// Answers a question whose message was taken apart; `Err` is the domain that knows more, which the store names.
    pub(crate) async fn answer_parsed(
        &self,
        request: &Request<'_>,
        certificate: &Certificate<'_>,
        scope: &Scope,
        now: FileTime,
        trace: &mut impl Trace,
    ) -> Result<Answer, String> {
        let decision = match self.decide(request, certificate, scope, now, trace).await {
            Ok(Decided::Here(decision)) => Ok(decision),
            Ok(Decided::Elsewhere(domain)) => return Err(domain),
            Err(reason) => Err(reason),
        };
        Ok(self.conclude(decision, now))
    }

    /// Makes the same decision for whoever wants to know why. Nobody's permission is looked at.
    pub async fn explain(&self, request: &[u8], now: FileTime, trace: &mut impl Trace) -> Answer {
        let decision = self.decide_here(request, &Scope::total(), now, trace).await;
        let answer = self.conclude(decision, now);
        trace.step(|| Step::Decided { reason: answer.reason });
        answer
    }

    /// The same, for whoever may be of another domain: then nobody is asked, and it is taken down who would be.
    pub async fn explain_among(
        &self,
        domains: &Domains,
        message: &[u8],
        now: FileTime,
        trace: &mut impl Trace,
    ) -> Answer {
        let Ok(request) = Request::decode(message) else { return self.explain(message, now, trace).await };
        let Ok(certificate) = Certificate::parse(request.certificate) else {
            return self.explain(message, now, trace).await;
        };
        let route = match domains.route("", false, &request, &certificate) {
            Route::Here => {
                match self.answer_parsed(&request, &certificate, &Scope::total(), now, trace).await {
                    Ok(answer) => {
                        trace.step(|| Step::Decided { reason: answer.reason });
                        return answer;
                    }
                    Err(home) => domains.home(&home, request.flags),
                }
            }
            route => route,
        };
        let reason = match route {
            Route::Nowhere(reason) => reason,
            Route::Peer(peer, by) => {
                let netbios = |peer: usize| domains.peers()[peer].domain.netbios.clone();
                trace.step(|| Step::Routed {
                    domain: netbios(peer),
                    peer: netbios(domains.through(peer)),
                    by,
                });
                Reason::OtherDomain
            }
            Route::Here => Reason::OtherDomain,
        };
        trace.step(|| Step::Decided { reason });
        Answer::refused(reason, &self.policy)
    }

    /// The verified path of a certificate, or none where chains are not verified; for whoever asks somebody else whose it is.
    pub async fn verified(&self, certificate: &[u8], now: FileTime) -> Result<Option<Arc<Path>>, Reason> {
        let certificate = Certificate::parse(certificate).map_err(|_| Reason::MalformedCertificate)?;
        self.verify(&certificate, now, &mut NoTrace).await
    }

    /// Makes the same decision for whoever does not need the answer, and says for whom it is.
    pub async fn rehearse(&self, request: &[u8], now: FileTime) -> Result<Arc<Record>, Reason> {
        self.decide_here(request, &Scope::total(), now, &mut NoTrace).await.map(|decision| decision.record)
    }

    fn conclude(&self, decision: Result<Decision, Reason>, now: FileTime) -> Answer {
        let mapped = decision.and_then(|Decision { record, method, strength }| {
            let response = self
                .cache
                .response(&record, self.store.domain(), &self.server, self.policy.identity_sid, now)
                .ok_or(Reason::Unanswerable)?;
            Ok(Mapped { record, method, strength, response })
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
            elsewhere: None,
            decided_here: true,
        }
    }

    /// Decides for accounts of this domain; whoever's domain is another one is nobody here.
    async fn decide_here(
        &self,
        request: &[u8],
        scope: &Scope,
        now: FileTime,
        trace: &mut impl Trace,
    ) -> Result<Decision, Reason> {
        let request = Request::decode(request).map_err(|_| Reason::MalformedRequest)?;
        self.methods(&request)?;
        let certificate =
            Certificate::parse(request.certificate).map_err(|_| Reason::MalformedCertificate)?;
        match self.decide(&request, &certificate, scope, now, trace).await? {
            Decided::Here(decision) => Ok(decision),
            Decided::Elsewhere(domain) if !scope.covers_domain(&domain) => Err(Reason::OutOfScope),
            Decided::Elsewhere(_) => Err(Reason::OtherDomain),
        }
    }

    /// The methods that a request asks for and the policy allows.
    fn methods(&self, request: &Request<'_>) -> Result<MappingFlags, Reason> {
        let flags = request.flags.and(MappingFlags::ALL);
        match has_method(flags.and(self.policy.methods)) {
            true => Ok(flags),
            false => Err(Reason::NoMethod),
        }
    }

    async fn decide(
        &self,
        request: &Request<'_>,
        certificate: &Certificate<'_>,
        scope: &Scope,
        now: FileTime,
        trace: &mut impl Trace,
    ) -> Result<Decided, Reason> {
        let flags = self.methods(request)?;
        let path = self.verify(certificate, now, trace).await?;
        let mut rules = self.rules(path.as_ref().map(|path| path.authorities.as_slice()));
        rules.policies = path.as_ref().map_or(&[], |path| &path.policies);
        if path.as_ref().is_some_and(|path| !self.is_issuer_as_configured(certificate, path.issuer())) {
            rules.withhold_issuer_names();
        }
        if !has_method(flags.and(rules.methods)) {
            return Err(Reason::AuthorityNotAllowed);
        }
        let issuers = self.issuers_on_path(&request.issuers, path.as_deref(), flags.and(rules.methods));
        // Whether something was found by a form that the certificate's authority may not vouch for.
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
                    // An entry that is disabled maps no account. Whether the account is in a limited scope is for its domain's
                    // answer to show, and until then the answer must not show that there is an entry.
                    if let Some(reason) = mapping::restriction(&record.account, now) {
                        return Err(if scope.is_limited() { Reason::OutOfScope } else { reason });
                    }
                    return Ok(Decided::Elsewhere(domain.clone()));
                }
                let judged = binding::judge(certificate, &record, &forms, &rules, &self.policy, now, trace);
                // Other refusals are answered as if there were no account; a restriction may be answered as what it is.
                let names_account = judged.as_ref().map_or_else(|reason| reason.is_restriction(), |_| true);
                if names_account && !scope.covers_record(&self.store.domain().netbios, &record) {
                    return Err(Reason::OutOfScope);
                }
                return judged.map(|strength| Decided::Here(Decision { record, method, strength }));
            }
        }
        Err(match (withheld, rules.is_verified()) {
            (false, _) => Reason::NoMatch,
            (true, false) => Reason::NotVerified,
            (true, true) => Reason::AuthorityNotAllowed,
        })
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
        let path = trust.verify(certificate.encoded, now);
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

    /// Whether the name of the issuer in a certificate is, as stored values are compared, that of the CA which issued it. Paths take a
    /// name in any encoding that is the same by RFC 5280 7.1; what is looked up is that of the certificate, which may be the name under
    /// which values are stored for a CA that is not configured.
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

    /// The names of issuers' issuers that count: those that the client gave, and, where the chain was verified, only those of
    /// CAs on the path, in its order (the client has to give them in that order, [MS-RCMP] 2.2.1, and the nearest decides), as the
    /// configured certificate of the CA encodes them. They are compared by RFC 5280 7.1. The client's
    /// own encoding is not looked up: another CA may have it, which that comparison does not tell from this one.
    fn issuers_on_path<'a>(
        &'a self,
        names: &[&'a [u8]],
        path: Option<&Path>,
        flags: MappingFlags,
    ) -> Vec<&'a [u8]> {
        let wanted = names.iter().filter(|_| flags.contains(MappingFlags::ISSUER_CHAIN)).copied();
        match (path, &self.trust) {
            (Some(path), Some(trust)) => {
                let mut on_path: Vec<(usize, &[u8])> = wanted
                    .filter_map(|name| {
                        let place =
                            |known: &Authority| path.authorities.iter().position(|key| *key == known.key);
                        // A name that another one has, too, says nothing unless the operator granted it to this one.
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
            _ => wanted.collect(),
        }
    }

    /// The one account that a method's queries find. Forms that the certificate's authority may not vouch for find nobody; those
    /// that only propose are asked, all of them, when all others found nobody.
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
            trace.step(|| Step::Asked { method, form, query, found: found.as_ref().ok().cloned(), granted });
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

/// Whether there is a method among the flags.
/// Whether flags name a method; the issuer chain alone is none ([MS-RCMP] 2.2.1).
pub fn has_method(flags: MappingFlags) -> bool {
    Method::ALL.iter().any(|method| flags.contains(method.flag()))
}

/// The authorities that do not have their name alone, as stored values are compared or by RFC 5280 7.1: what an authority issues may
/// name it in any encoding that is the same by that section. A new key under an old name is one of them.
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
