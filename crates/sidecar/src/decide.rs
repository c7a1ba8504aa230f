//! From a proxy's request to an answer.

use crate::allowed::Allowed;
use crate::cache::{Cache, CacheEntry, Key, Moment};
use crate::cookies::{Cookies, Found};
use crate::decision::{Decided, Decision};
use crate::dialect::{ClientCertificate, Dialect, Known, Target, plain_name};
use crate::forwarding;
use crate::headers::{Facts, Format, Layout};
use crate::identity::{DecisionInputs, Identify, Identity};
use crate::meter::{How, Meter};
use crate::refusal::{Broken, Outcome, Refusal, Undecided};
use crate::routes::Routes;
use crate::secret::SECRET;
use crate::spans::Spans;
use crate::tickets::{Farm, Session, Tickets};
use crate::token::{PublicJwk, TokenSigner};
use bytes::Bytes;
use dtyp::FileTime;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};
use quick_cache::sync::Cache as QuickCache;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::collections::{BTreeSet, HashSet};
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tracing::Span;

/// How long a denial is cached, at most.
const DENIAL_MAX: Duration = Duration::from_secs(5);
/// How much longer than a token's lifetime the key of a replaced signer is published: what was asked before
/// may be signed a moment later, and applications keep a key set for a while.
const RETIRED_MORE: Duration = Duration::from_secs(60);
/// Identities that are kept for those whose headers did not hold them, at least.
const REFERENCES_MAX: usize = 1024;
/// What a sidecar is made of.
pub struct Parts {
    /// Maps certificates to accounts.
    pub identify: Arc<dyn Identify>,
    /// Makes the spans of requests.
    pub spans: Arc<dyn Spans>,
    /// Who may go where.
    pub routes: Routes,
    /// How identities are written.
    pub format: Format,
    /// Signs them.
    pub token: Option<TokenSigner>,
    /// Tickets of the farm.
    pub tickets: Option<Farm>,
    /// How long a decision is cached; zero for not at all.
    pub remember: Duration,
    /// Entries of the cache at most.
    pub remembered_max: usize,
}

/// Decides about requests of proxies. Replaced whole when the configuration is reloaded.
pub struct Sidecar {
    identify: Arc<dyn Identify>,
    spans: Arc<dyn Spans>,
    routes: Routes,
    format: Format,
    layout: Layout,
    without_account: HeaderMap,
    /// Names that only we and the proxy may use.
    reserved: HashSet<String>,
    token: Option<TokenSigner>,
    tickets: Option<Tickets>,
    /// Keys of signers that this one's took the place of, and until when they are published, by the monotonic
    /// clock.
    retired: Vec<(PublicJwk, Duration)>,
    /// Audiences of routes, each once.
    audiences: Vec<String>,
    /// By route, in their order, its audience's place among them; none for that of all tokens.
    audience_of: Vec<Option<usize>>,
    remember: Duration,
    cache: Cache,
    known: Arc<Known>,
    references: Arc<QuickCache<String, Arc<Value>>>,
    meter: Arc<Meter>,
}

impl std::fmt::Debug for Sidecar {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Sidecar with {} routes", self.routes.all().len())
    }
}

/// A request of a proxy, as its dialect has it.
#[derive(Debug)]
pub struct Ask<'a> {
    /// The certificate, if there is one.
    pub presented: Result<Option<ClientCertificate>, Refusal>,
    /// Host and path that the client asked for.
    pub target: Option<(&'a str, &'a str)>,
    /// The cookies, if the answer can set one.
    pub cookies: Cookies<'a>,
    /// Where the question came from.
    pub source: Option<SocketAddr>,
    /// When it came.
    pub now: Moment,
}

impl Sidecar {
    /// A sidecar with an empty cache.
    pub fn new(parts: Parts) -> Self {
        let Parts { identify, spans, routes, format, token, tickets, remember, remembered_max } = parts;
        let (layout, without_account) = (format.layout(), format.without_account());
        let owned = crate::dialect::OWNED.map(str::to_owned);
        let known = format.known().map(|name| name.as_str().to_owned()).collect::<Vec<_>>();
        let reserved = known.into_iter().chain(owned).chain([SECRET.as_str().to_owned()]).collect();
        let cache = Cache::new(remembered_max.max(1));
        // Each cache entry may have one.
        let references = Arc::new(QuickCache::new(remembered_max.max(REFERENCES_MAX)));
        let meter = Arc::default();
        let known = Arc::new(Known::new());
        let mut audiences: Vec<String> = Vec::new();
        let mut place = |audience: &String| match audiences.iter().position(|known| known == audience) {
            Some(at) => at,
            None => {
                audiences.push(audience.clone());
                audiences.len() - 1
            }
        };
        let audience_of = routes.all().iter().map(|route| route.audience.as_ref().map(&mut place)).collect();
        Self {
            identify,
            spans,
            routes,
            format,
            layout,
            without_account,
            reserved,
            token,
            tickets: tickets.map(Tickets::new),
            retired: Vec::new(),
            audiences,
            audience_of,
            remember,
            cache,
            known,
            references,
            meter,
        }
    }

    /// A sidecar that takes this one's place: it decides anew, counts on, knows what references stand for,
    /// and publishes the key that signed until now for as long as a token of it counts.
    pub fn successor(&self, parts: Parts, uptime: Duration) -> Self {
        let (known, references) = (Arc::clone(&self.known), Arc::clone(&self.references));
        let new = Self::new(parts);
        let mut retired: Vec<_> = self.retired.iter().filter(|(_, until)| *until > uptime).cloned().collect();
        if let Some(token) = &self.token {
            let until = uptime.saturating_add(token.lifetime()).saturating_add(RETIRED_MORE);
            retired.retain(|(key, _)| key != token.public());
            retired.push((token.public().clone(), until));
        }
        let tickets = match (new.tickets, &self.tickets) {
            (Some(new), Some(before)) => Some(new.after(before)),
            (new, _) => new,
        };
        Self { known, references, retired, tickets, meter: Arc::clone(&self.meter), ..new }
    }

    /// What is counted.
    pub fn meter(&self) -> &Meter {
        &self.meter
    }

    /// What makes the spans of requests.
    pub fn spans(&self) -> &dyn Spans {
        &*self.spans
    }

    /// The routes.
    pub const fn routes(&self) -> &Routes {
        &self.routes
    }

    /// How identities are written.
    pub const fn format(&self) -> &Format {
        &self.format
    }

    /// Entries of the cache now.
    pub fn remembered(&self) -> usize {
        self.cache.len()
    }

    /// The public keys of signed identities; none where no identity is signed, and none was until a moment
    /// ago.
    pub fn jwks(&self, uptime: Duration) -> Option<Value> {
        let published = self.token.iter().flat_map(TokenSigner::published);
        let retired = self.retired.iter().filter(|(_, until)| *until > uptime).map(|(key, _)| key);
        let mut keys = published.chain(retired).peekable();
        keys.peek()?;
        Some(PublicJwk::set(keys))
    }

    /// The whole of an identity that did not fit its headers.
    pub fn referenced(&self, reference: &str) -> Option<Arc<Value>> {
        self.references.get(reference)
    }

    /// Decides about a request that carries a certificate in its headers. `is_proved` is whether it comes
    /// from the proxy; `own` is host and path of the request itself, `target` where those are that the client
    /// asked for, and `is_between` whether the sidecar passes the request on ([`Self::stamp`]).
    pub async fn check(
        &self,
        (dialect, target, is_between): (Dialect, Target, bool),
        headers: &HeaderMap,
        own: (&str, &str),
        is_proved: bool,
        (source, now): (Option<SocketAddr>, Moment),
    ) -> Decision {
        let presented = match is_proved {
            false => Err(Refusal::Broken(Broken::Secret)),
            // What a proxy that asks beside its request could not take away reaches the application, which
            // may take it for ours.
            true if !is_between && self.has_alias(headers) => Err(Refusal::Forged),
            true => dialect.read(headers, Some(&self.known)),
        };
        let (target, cookies) = (target.read(headers, own), dialect.cookies(is_between, headers));
        self.decide(dialect.name(), Ask { presented, target, cookies, source, now }).await
    }

    /// Decides about a request. `dialect` is for the count.
    pub async fn decide(&self, dialect: &'static str, ask: Ask<'_>) -> Decision {
        let leaf = ask.presented.as_ref().ok().and_then(Option::as_ref).map(|it| it.leaf.clone());
        let mut decision = Decision::without_account(leaf);
        decision.decided = match self.identified(ask, &mut decision).await {
            Ok(allowed) => Decided::Allowed(allowed),
            Err(refusal) => Decided::Refused(refusal),
        };
        self.meter.count(dialect, decision.refusal().map_or("allowed", Refusal::name));
        decision
    }

    async fn identified(&self, ask: Ask<'_>, decision: &mut Decision) -> Result<Arc<Allowed>, Refusal> {
        let Ask { presented, target, cookies, source, now } = ask;
        let presented = presented?.ok_or(Refusal::NoCertificate)?;
        let route = self.routes.choose(target)?;
        let (entry, how) = self.cached_or_made(&presented, (cookies, source), now).await?;
        self.meter.found(how);
        (decision.name, decision.how) = (entry.name, Some(how));
        decision.made_in = entry.made_in.filter(|_| how == How::Cached);
        let allowed = entry.outcome?;
        let Some(number) = route.number else { return Ok(allowed) };
        allowed.admitted[number]?;
        let (Some(audience), Some(_)) = (self.audience_of[number], &self.token) else { return Ok(allowed) };
        let make = || {
            let set_cookie = allowed.set_cookie.clone();
            let named = (allowed.decision.as_str(), set_cookie);
            self.allow(allowed.identity.clone(), &presented, named, (now.wall, Some(audience)))
        };
        Ok(Arc::clone(allowed.for_audience[audience].get_or_init(make)))
    }

    /// The account of a certificate, cached or looked up.
    async fn cached_or_made(
        &self,
        presented: &ClientCertificate,
        (cookies, source): (Cookies<'_>, Option<SocketAddr>),
        now: Moment,
    ) -> Result<(CacheEntry, How), Refusal> {
        self.identify.refresh().await?;
        let inputs = self.identify.decision_inputs(presented, now.wall)?;
        if self.remember.is_zero() || !inputs.is_settled {
            let session = self.cookie(cookies).and_then(|text| self.session(text, presented, now.wall));
            let how = if session.is_some() { How::Ticket } else { How::Made };
            return Ok((self.find_out(presented, session, source, now).await, how));
        }
        let key = Key { leaf: presented.sha256, with: chain_hash(&presented.chain), inputs };
        if self.tickets.is_some() {
            if let Some(known) = self.cache.get(&key, now) {
                return Ok((known, How::Cached));
            }
            // Boxed: a request has no room for it where there are no tickets.
            let by_ticket = Box::pin(self.cached_or_made_by_ticket(&key, presented, (cookies, source), now));
            if let Some(found) = by_ticket.await {
                return Ok(found);
            }
        }
        let make = async || self.find_out_for(&key.inputs, presented, None, source, now).await;
        let (known, was_remembered) = self.cache.get_or_make(&key, now, make).await;
        Ok((known, if was_remembered { How::Cached } else { How::Made }))
    }

    /// The decision by the ticket of a request, cached or made, if the ticket counts. Requests with the same
    /// ticket wait for each other, and never for a question that others have asked.
    async fn cached_or_made_by_ticket(
        &self,
        key: &Key,
        presented: &ClientCertificate,
        (cookies, source): (Cookies<'_>, Option<SocketAddr>),
        now: Moment,
    ) -> Option<(CacheEntry, How)> {
        let text = self.cookie(cookies)?;
        let with = Sha256::new().chain_update(key.with).chain_update(text).finalize().into();
        let key = Key { with, ..key.clone() };
        let counts = |known: &CacheEntry| {
            let known = self.tickets.as_ref().zip(known.ticket.as_ref());
            known.is_some_and(|(tickets, ticket)| tickets.count(&presented.sha256, ticket).is_ok())
        };
        if let Some(known) = self.cache.get(&key, now).filter(counts) {
            return Some((known, How::Cached));
        }
        let session = self.session(text, presented, now.wall)?;
        let make = async || self.find_out_for(&key.inputs, presented, Some(session), source, now).await;
        let (known, was_remembered) = self.cache.get_or_make(&key, now, make).await;
        Some((known, if was_remembered { How::Cached } else { How::Ticket }))
    }

    /// The cookie of a request in which a ticket may be.
    fn cookie<'a>(&self, cookies: Cookies<'a>) -> Option<&'a [u8]> {
        match self.tickets.as_ref()?.cookie(cookies) {
            Found::None => None,
            Found::One(text) => Some(text),
            Found::Many => {
                self.meter.ticket("duplicate");
                None
            }
        }
    }

    /// Opens a ticket, and counts what came of it.
    fn session(&self, text: &[u8], presented: &ClientCertificate, now: FileTime) -> Option<Box<Session>> {
        let opened = self.tickets.as_ref()?.open(text, presented, now);
        self.meter.ticket(opened.as_ref().err().copied().unwrap_or("accepted"));
        opened.ok().map(Box::new)
    }

    /// Looks the account up, and says whether that was done by exactly these inputs: the accounts or the
    /// policy may have changed meanwhile, and a restored back-up may bring these inputs back. A decision made
    /// by others answers this request, and no other one.
    async fn find_out_for(
        &self,
        inputs: &DecisionInputs,
        presented: &ClientCertificate,
        session: Option<Box<Session>>,
        source: Option<SocketAddr>,
        now: Moment,
    ) -> CacheEntry {
        let made = self.find_out(presented, session, source, now).await;
        let after = self.identify.decision_inputs(presented, now.wall);
        CacheEntry { is_of_key: after.is_ok_and(|after| after.is_unbroken_since(inputs)), ..made }
    }

    async fn find_out(
        &self,
        presented: &ClientCertificate,
        session: Option<Box<Session>>,
        source: Option<SocketAddr>,
        now: Moment,
    ) -> CacheEntry {
        let ticket = session.as_ref().map(|session| session.origin);
        let made_in = self.spans.place(&Span::current());
        let name = decision_name();
        let outcome = match &name {
            Some(decision) => {
                match self.identified_by(presented, session, decision, source, now.wall).await {
                    Ok((identity, set_cookie)) => {
                        Ok(self.allow(identity, presented, (decision, set_cookie), (now.wall, None)))
                    }
                    Err(refusal) => Err(refusal),
                }
            }
            None => Err(Refusal::Undecided(Undecided::NoRandomness)),
        };
        let (time, not_after) = match &outcome {
            Ok(allowed) => {
                // What is handed out counts at least half as long as a token does.
                let token = self.token.as_ref().map_or(Duration::MAX, |token| token.lifetime() / 2);
                (self.remember.min(token), allowed.identity.not_after)
            }
            Err(refusal) if refusal.outcome() == Outcome::Denied => {
                (self.remember.min(DENIAL_MAX), FileTime::NEVER)
            }
            Err(_) => (Duration::ZERO, FileTime::NEVER),
        };
        let until = now.uptime.saturating_add(time);
        CacheEntry { outcome, name: name.map(Into::into), made_in, until, not_after, ticket, is_of_key: true }
    }

    /// The account, by a ticket or by a question. The answer to a question ends older tickets, and a new one
    /// is made from it.
    async fn identified_by(
        &self,
        presented: &ClientCertificate,
        session: Option<Box<Session>>,
        decision: &str,
        source: Option<SocketAddr>,
        now: FileTime,
    ) -> Result<(Identity, Option<HeaderValue>), Refusal> {
        if let Some(session) = session {
            let recognized =
                self.identify.recognize(presented, session.identity, decision, source, now).await;
            return recognized.map(|identity| (identity, None));
        }
        let answer = self.identify.identify(presented, decision, source, now).await;
        let Some(tickets) = &self.tickets else { return answer.map(|identity| (identity, None)) };
        let sealed = tickets.answered(answer.as_ref().map_err(|refusal| *refusal), presented, now);
        if let Some(sealed) = &sealed {
            self.meter.ticket(sealed.as_ref().err().copied().unwrap_or("issued"));
        }
        answer.map(|identity| (identity, sealed.and_then(Result::ok)))
    }

    /// What a decision allows, with a token for the audience of a route, by its place, or for that of all
    /// tokens.
    fn allow(
        &self,
        identity: Identity,
        presented: &ClientCertificate,
        (decision, set_cookie): (&str, Option<HeaderValue>),
        (now, audience): (FileTime, Option<usize>),
    ) -> Arc<Allowed> {
        let mut facts = Facts { decision, certificate: Some(&presented.sha256), token: None };
        let user = self.format.user(&identity);
        let len_max = self.format.essential_len_max();
        let audience = audience.map(|audience| self.audiences[audience].as_str());
        let sign = |token: &TokenSigner| token.sign((&identity, audience), &user, &facts, (now, len_max));
        let token = self.token.as_ref().and_then(sign);
        facts.token = token.as_deref();
        let written = self.format.write_by(&self.layout, &identity, facts);
        if written.is_cut {
            self.references.insert(decision.to_owned(), Arc::new(whole(&identity, decision, &user)));
        }
        Arc::new(Allowed {
            admitted: self.routes.admitted(&identity),
            headers: written.headers,
            identity,
            decision: decision.to_owned(),
            set_cookie,
            // What is made for one audience is never asked for another one.
            for_audience: match audience {
                None => self.audiences.iter().map(|_| OnceLock::new()).collect(),
                Some(_) => Box::default(),
            },
        })
    }

    /// The answer to a proxy that asks beside its own request, with every header that is ever set.
    pub fn answer(&self, decided: &Decided) -> Response<Bytes> {
        let (status, headers, text) = match decided {
            Decided::Allowed(allowed) => (StatusCode::OK, &allowed.headers, ""),
            Decided::Refused(refusal) => (refusal.status(), &self.without_account, refusal.text()),
        };
        let mut response = Response::new(Bytes::from_static(text.as_bytes()));
        *response.status_mut() = status;
        *response.headers_mut() = headers.clone();
        if !text.is_empty() {
            let plain = HeaderValue::from_static("text/plain; charset=utf-8");
            response.headers_mut().insert(header::CONTENT_TYPE, plain);
        }
        response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        response
    }

    /// `Set-Cookie` of an answer that lets a client in: a ticket for the decision, unless the request has
    /// that one.
    pub fn set_cookie(&self, decided: &Decided, cookies: Cookies<'_>) -> Option<HeaderValue> {
        let Decided::Allowed(allowed) = decided else { return None };
        let (set_cookie, tickets) = (allowed.set_cookie.as_ref()?, self.tickets.as_ref()?);
        let is_settable = !matches!(cookies, Cookies::None);
        (is_settable && !tickets.has(cookies, set_cookie)).then(|| set_cookie.clone())
    }

    /// A value of `Cookie` for the application, without tickets; `None` if it has none.
    pub fn without_tickets(&self, cookies: &[u8]) -> Option<Vec<u8>> {
        self.tickets.as_ref()?.without(cookies)
    }

    /// Whether tickets are configured.
    pub const fn has_tickets(&self) -> bool {
        self.tickets.is_some()
    }

    /// Makes a request ready for the application: the proxy's words about certificates and all copies of
    /// identity headers are taken away, in every spelling, and so are tickets. Then the identity headers are
    /// set; without an account they are empty.
    pub fn stamp(&self, allowed: Option<&Allowed>, headers: &mut HeaderMap) {
        self.strip(headers);
        if let Some(tickets) = &self.tickets {
            tickets.strip(headers);
        }
        for (name, value) in allowed.map_or(&self.without_account, |allowed| &allowed.headers) {
            headers.insert(name.clone(), value.clone());
        }
    }

    /// Takes away what only we and the proxy may say.
    pub fn strip(&self, headers: &mut HeaderMap) {
        let is_reserved = |name: &&HeaderName| self.reserved.contains(plain_name(name.as_str()).as_ref());
        let forged: Vec<HeaderName> = headers.keys().filter(is_reserved).cloned().collect();
        for name in forged {
            headers.remove(name);
        }
    }

    /// The names that a proxy takes away which puts in every advertised header itself: all that are reserved
    /// and not advertised, and what servers that take `_` for `-` would read as one of them; `names` are
    /// those of the request.
    pub fn taken_away<'a>(&self, names: impl Iterator<Item = &'a str>) -> BTreeSet<String> {
        let reserved = self.reserved.iter();
        let unadvertised =
            reserved.clone().filter(|name| !self.without_account.contains_key(name.as_str())).cloned();
        let aliases = reserved.map(|name| name.replace('-', "_"));
        let of_request = names.map(str::to_ascii_lowercase);
        let of_request = of_request.filter(|name| self.is_alias(name) || forwarding::is_clients(name));
        unadvertised.chain(aliases).chain(of_request).collect()
    }

    /// Whether a name is there that some servers take for one of ours, or for one that says where a request
    /// comes from, and that a web server cannot take away by its name: there are too many spellings.
    fn has_alias(&self, headers: &HeaderMap) -> bool {
        let is_odd = |name: &&HeaderName| !plain_name(name.as_str()).eq(name.as_str());
        let is_alias = |name: &str| self.is_alias(name) || forwarding::is_one(name);
        headers.keys().filter(is_odd).any(|name| is_alias(name.as_str()))
    }

    /// Whether some servers take a name for a reserved one: `_` is `-` to them.
    fn is_alias(&self, name: &str) -> bool {
        !self.reserved.contains(name) && self.reserved.contains(plain_name(name).as_ref())
    }
}

/// SHA-256 over a chain, each certificate with its length; zeros where there is none.
fn chain_hash(chain: &[Bytes]) -> [u8; 32] {
    if chain.is_empty() {
        return [0; 32];
    }
    let mut hash = Sha256::new();
    for certificate in chain {
        hash.update((certificate.len() as u64).to_be_bytes());
        hash.update(certificate);
    }
    hash.finalize().into()
}

/// A name that cannot be guessed.
fn decision_name() -> Option<String> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).ok()?;
    Some(dtyp::hex(&bytes))
}

/// All of an identity, which an application gets by the reference.
fn whole(identity: &Identity, decision: &str, user: &str) -> Value {
    let groups: Vec<_> = identity
        .groups
        .iter()
        .map(|group| json!({ "sid": group.sid.to_string(), "name": group.name }))
        .collect();
    json!({
        "decision": decision,
        "user": user,
        "domain": identity.domain,
        "account": identity.account,
        "sid": identity.sid.to_string(),
        "upn": identity.upn,
        "full_name": identity.full_name,
        "mail": identity.mail,
        "groups": groups,
        "method": identity.method,
        "strength": identity.assurance.name(),
        "rule": identity.assurance.rule(),
        "policy_revision": identity.policy_revision,
        "stale_s": identity.stale_s,
    })
}

#[cfg(test)]
mod tests;
