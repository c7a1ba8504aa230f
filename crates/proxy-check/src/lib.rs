//! An attack scanner for a web server in front of the sidecar, and the page that it looks for behind it.
//!
//! [`check`] connects to the web server as clients do. It first asks with a certificate, to learn what is
//! right. Then it tries each known way to reach the page under another identity. The page of [`serve_page`]
//! answers with the headers that reached it. Of any other page only the status is seen. The scanner sends
//! requests for this one page, and for the paths that the operator names. Methods that could change something
//! are sent only if the page is the one of [`serve_page`].
//!
//! The crate reads no files and no configuration, and it sees no accounts: certificates, keys and trusted CAs
//! are handed in.

mod ask;
mod certificates;
mod client;
mod findings;
mod forgery;
mod headers;
mod http2;
mod identity;
mod page;
mod proxy;
mod requests;
mod sessions;
#[cfg(test)]
mod tests;
mod wire;

pub use findings::{Check, Finding, Verdict};
pub use page::serve as serve_page;

use anyhow::Context;
use ask::Ask;
use client::Client;
use findings::{SEE_FORGED_IDENTITY, Seen, Tally};
use identity::Identity;
use proxy::{Answer, AnyServer, Outcome, Proxy};
use rustls::ClientConfig;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use rustls::sign::CertifiedKey;
use sidecar::headers::{Meaning, Preset};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// What to check, and with what.
#[derive(Clone, Debug)]
pub struct Options {
    /// The page, through the proxy.
    pub url: String,
    /// The host to connect to in place of the URL's.
    pub connect: Option<String>,
    /// A certificate that is let in, with its chain and its key.
    pub pair: Arc<CertifiedKey>,
    /// A certificate of another account that is let in, with its chain and its key.
    pub other: Option<Arc<CertifiedKey>>,
    /// What the first one's account is called.
    pub expect_user: Option<String>,
    /// Validates the certificate of the web server. Without it any certificate is accepted.
    pub verifier: Option<Arc<dyn ServerCertVerifier>>,
    /// Another host of the same proxy.
    pub other_host: Option<String>,
    /// Header names of these presets; all, where there are none.
    pub presets: Vec<Preset>,
    /// Names of other headers that the application takes an identity from, and what they say.
    pub headers: Vec<(String, Meaning)>,
    /// Other paths of the same web server, which other rules may apply to.
    pub paths: Vec<String>,
    /// Where HTTP without TLS may be.
    pub plain_port: u16,
    /// For each answer.
    pub timeout: Duration,
}

/// Why nothing was found out.
#[derive(Debug)]
pub enum Failed {
    /// This is not how it is asked for.
    Usage(String),
    /// What was given cannot be used.
    Input(anyhow::Error),
    /// The server is not reachable, or its certificate is rejected.
    Unreachable(String),
}

impl From<anyhow::Error> for Failed {
    fn from(error: anyhow::Error) -> Self {
        Self::Input(error)
    }
}

/// What was found out.
#[derive(Clone, Debug)]
pub struct Report {
    /// Whether the page is `rcmpd page`.
    pub is_page: bool,
    /// The user that the page was told for the certificate.
    pub user: Option<String>,
    /// In the order in which it was tried.
    pub findings: Vec<Finding>,
}

impl Report {
    /// Findings with this verdict.
    pub fn count(&self, verdict: Verdict) -> usize {
        self.findings.iter().filter(|finding| finding.verdict == verdict).count()
    }
}

/// One check of a proxy.
struct Run {
    proxy: Proxy,
    /// With the certificate.
    us: Arc<ClientConfig>,
    client: Arc<Client>,
    /// Without one.
    anonymous: Arc<ClientConfig>,
    /// With one that says the same, of another authority.
    twin: Arc<ClientConfig>,
    twin_client: Arc<Client>,
    other: Option<Arc<ClientConfig>>,
    certificate: Vec<u8>,
    twin_certificate: Vec<u8>,
    expect_user: Option<String>,
    other_host: Option<(String, ServerName<'static>)>,
    plain_port: u16,
    /// Identity headers, folded.
    names: BTreeSet<String>,
    /// Those that the operator named and that name the account.
    named: Vec<String>,
    /// Those that the operator named and that differ where the decision is made again.
    of_decision: Vec<String>,
    paths: Vec<String>,
    /// Stands in whatever is forged, and nowhere else.
    nonce: String,
    /// What the page is told with the certificate, if it is ours.
    baseline: Option<Identity>,
    /// What the page answers with the certificate; 0 if no answer comes.
    status: u16,
    /// Why the other certificate is refused, if it is.
    other_refused: Option<String>,
    /// Whether identity headers of a client arrive at the page as they are.
    passes_headers: AtomicBool,
}

/// Checks a proxy, and tells each finding as it is made.
pub async fn check(options: &Options, tell: &mut dyn FnMut(&Finding)) -> Result<Report, Failed> {
    check_these(Check::ALL, options, tell).await
}

/// The same for some of the checks; the first one has to be that of the certificate, which the others go by.
async fn check_these(
    checks: &[Check],
    options: &Options,
    tell: &mut dyn FnMut(&Finding),
) -> Result<Report, Failed> {
    let mut run = Run::new(options)?;
    let mut findings = Vec::new();
    for check in checks {
        let tally = match check {
            Check::Certificate => {
                let tally = run.certificate().await?;
                run.other_certificate().await?;
                tally
            }
            Check::NoCertificate => run.no_certificate().await,
            Check::WrongAuthority => run.wrong_authority().await,
            Check::ForgedIdentity => run.forged_identity().await,
            Check::ForgedIdentityAnonymous => run.forged_identity_anonymous().await,
            Check::ForgedCertificate => run.forged_certificate(&run.anonymous).await,
            Check::ForgedCertificateWrongAuthority => run.forged_certificate(&run.twin).await,
            Check::ForgedCertificateBeside => run.forged_certificate_beside().await,
            Check::ForwardingHeaders => run.forwarding_headers().await,
            Check::HopByHop => run.hop_by_hop().await,
            Check::Secret => run.secret().await,
            Check::Paths => run.paths().await,
            Check::OtherPaths => run.other_paths().await,
            Check::Hosts => run.hosts().await,
            Check::Methods => run.methods().await,
            Check::Resumption => run.resumption().await?,
            Check::AnonymousSession => run.anonymous_session().await?,
            Check::OtherHost => run.other_host().await?,
            Check::Pipelining => run.pipelining().await,
            Check::Http2 => run.http2().await,
            Check::PlainHttp => run.plain_http().await,
            Check::CertificateAgain => run.certificate_again().await,
        };
        let mut finding = tally.finding(*check);
        if finding.is_of_headers
            && *check != Check::ForgedIdentity
            && run.passes_headers.load(Ordering::Relaxed)
        {
            finding.advice = SEE_FORGED_IDENTITY;
        }
        tell(&finding);
        findings.push(finding);
    }
    let user = run.baseline.as_ref().and_then(|identity| identity.account(&run.named)).map(str::to_owned);
    Ok(Report { is_page: run.baseline.is_some(), user, findings })
}

impl Run {
    fn new(options: &Options) -> Result<Self, Failed> {
        let proxy = proxy(options)?;
        let other_host = match &options.other_host {
            Some(host) => {
                let bare = host.rsplit_once(':').map_or(host.as_str(), |(bare, _)| bare);
                Some((host.clone(), server_name(bare)?))
            }
            None => None,
        };
        let ours = Arc::clone(&options.pair);
        let certificate = ours.end_entity_cert().context("there is no certificate")?.to_vec();
        let (twin_certificate, twin_key) = forgery::twin(&certificate)?;
        let twin_key = PrivatePkcs8KeyDer::from(twin_key.serialize_der());
        let twin = certified(vec![twin_certificate.clone().into()], twin_key.into())?;
        let (client, twin_client) = (Client::with(ours), Client::with(Arc::new(twin)));
        let other = match &options.other {
            Some(other) => {
                let client = Client::with(Arc::clone(other));
                Some(proxy.config(&client, None, None)?)
            }
            None => None,
        };
        let presets = match &options.presets[..] {
            [] => &identity::PRESETS[..],
            presets => presets,
        };
        let given = options.headers.iter().map(|(name, meaning)| Ok((header_name(name)?, *meaning)));
        let given = given.collect::<Result<Vec<_>, Failed>>()?;
        let of = |is: fn(Meaning) -> bool| {
            let names = given.iter().filter(|(_, meaning)| is(*meaning));
            names.map(|(name, _)| name.clone()).collect::<Vec<_>>()
        };
        let (named, of_decision) = (of(Meaning::is_account), of(Meaning::is_of_decision));
        let mut nonce = [0; 8];
        getrandom::fill(&mut nonce).context("there is no randomness")?;
        Ok(Self {
            us: proxy.config(&client, None, None)?,
            anonymous: proxy.config(&Client::anonymous(), None, None)?,
            twin: proxy.config(&twin_client, None, None)?,
            proxy,
            client,
            twin_client,
            other,
            certificate,
            twin_certificate,
            expect_user: options.expect_user.clone(),
            other_host,
            plain_port: options.plain_port,
            names: identity::names(presets).into_iter().chain(of(|_| true)).collect(),
            named,
            of_decision,
            paths: options.paths.iter().map(|path| other_path(path)).collect::<Result<_, _>>()?,
            nonce: format!("forged-{}", dtyp::hex(&nonce)),
            baseline: None,
            status: 0,
            other_refused: None,
            passes_headers: AtomicBool::new(false),
        })
    }

    fn get(&self) -> Ask {
        Ask::new(&self.proxy)
    }

    async fn ask(&self, config: &Arc<ClientConfig>, ask: &Ask) -> Outcome {
        self.proxy.ask(config, &ask.bytes()).await
    }

    /// Judges an answer to a client that showed nothing that counts: it is never the page.
    fn rejected(&self, outcome: &Outcome) -> Seen {
        match outcome {
            Outcome::Answered(answer) if answer.is_page => Seen::Leak("the page is shown".to_owned()),
            Outcome::Answered(answer) if answer.is_success() && self.baseline.is_none() => {
                Seen::Untold(format!("{}, and this page does not say what it is", answer.status))
            }
            Outcome::Answered(_) | Outcome::Refused(_) => Seen::Good,
            outcome => unanswered(outcome),
        }
    }

    /// The same for a plain GET of the page, where success is the page, whatever it is.
    fn rejected_page(&self, outcome: &Outcome) -> Seen {
        match outcome {
            Outcome::Answered(answer)
                if answer.is_success() && !answer.is_page && self.baseline.is_none() =>
            {
                Seen::Leak(format!("the answer is {}", answer.status))
            }
            outcome => self.rejected(outcome),
        }
    }

    /// Judges an answer to us: it is refused, or the page is told what it is told without any forgery.
    fn ours(&self, outcome: &Outcome) -> Seen {
        let answer = match outcome {
            Outcome::Answered(answer) => answer,
            // Where the certificate is never answered, a refusal says nothing of what was sent with it.
            Outcome::Refused(why) if self.status == 0 => {
                return Seen::Untried(format!("the certificate is refused: {why}"));
            }
            Outcome::Refused(_) => return Seen::Good,
            outcome => return unanswered(outcome),
        };
        match (&self.baseline, &answer.told) {
            (None, _) => Seen::Untold("this page does not tell what arrived".to_owned()),
            (Some(baseline), Some(told)) => {
                let arrived = told.arrived(&self.names, &self.nonce);
                match (arrived.as_slice(), told.identity(&self.names).difference(baseline, &self.of_decision))
                {
                    ([], None) => Seen::Good,
                    ([], Some(name)) => Seen::Leak(format!("{name} is not what the sidecar says")),
                    (arrived, _) => Seen::Arrived(some_of(arrived)),
                }
            }
            (Some(_), None) if answer.is_page => Seen::Untold("this answer has no body".to_owned()),
            (Some(_), None) => Seen::Good,
        }
    }

    /// The baseline: what is right, for everything else to be compared with.
    async fn certificate(&mut self) -> Result<Tally, Failed> {
        let outcome = self.ask(&self.us, &self.get()).await;
        let mut tally = Tally::default();
        let request = "GET";
        let answer = match outcome {
            Outcome::Answered(answer) => answer,
            Outcome::Refused(why) => {
                self.is_web_server(&why).await?;
                tally.add(request, Seen::Untried(format!("the certificate is refused: {why}")));
                return Ok(tally);
            }
            Outcome::Untrusted(why) => {
                return Err(Failed::Unreachable(format!("the server's certificate is rejected: {why}")));
            }
            Outcome::Unreachable(why) => return Err(Failed::Unreachable(why)),
            Outcome::Late => return Err(Failed::Unreachable("no answer in time".to_owned())),
        };
        self.status = answer.status;
        let Answer { told: Some(told), .. } = &answer else {
            tally.add(
                request,
                match answer.is_success() {
                    true => Seen::Untold(format!("{}, and the page is not `rcmpd page`", answer.status)),
                    false => Seen::Untried(format!(
                        "the certificate is refused: {}; `rcmpd explain` with the certificate says why",
                        answer.status
                    )),
                },
            );
            return Ok(tally);
        };
        let identity = told.identity(&self.names);
        for name in identity.doubled() {
            tally.add(request, Seen::Leak(format!("{name} is there more than once")));
        }
        if !told.values(sidecar::SECRET.as_str()).is_empty() {
            tally.add(request, Seen::Leak("the application is told the sidecar's secret".to_owned()));
        }
        match (identity.account(&self.named), &self.expect_user) {
            (None, _) => {
                let why = "no header that is known names an account; name the application's with --header";
                tally.add(request, Seen::Untried(why.to_owned()));
            }
            (Some(account), Some(expected)) if !identity.is_called(expected, &self.named) => {
                tally.add(request, Seen::Leak(format!("this is {account}, not {expected}")));
            }
            (Some(account), _) => {
                let names = identity.present().count();
                tally.note(format!("{account}, told by {names} headers"));
                tally.add(request, Seen::Good);
            }
        }
        self.baseline = Some(identity);
        Ok(tally)
    }

    /// Fails if no TLS and no HTTP was spoken, neither with the certificate (`why`) nor without one: refusals
    /// of such a server prove nothing. A page that is served without TLS is a finding.
    async fn is_web_server(&self, why: &str) -> Result<(), Failed> {
        let outcome = self.ask(&self.anonymous, &self.get()).await;
        let is_refused = matches!(outcome, Outcome::Refused(_));
        if !is_refused || self.proxy.is_web.load(Ordering::Relaxed) || self.plain_http().await.leaks() {
            return Ok(());
        }
        let (host, port) = &self.proxy.connect;
        Err(Failed::Unreachable(format!(
            "no TLS or HTTP server answers at {host} port {port}, neither with the certificate nor without one: {why}"
        )))
    }

    /// Asks with the other certificate, which is of another account and let in: otherwise what it is sent
    /// with proves nothing.
    async fn other_certificate(&mut self) -> Result<(), Failed> {
        let Some(other) = &self.other else { return Ok(()) };
        let refused = match self.ask(other, &self.get()).await {
            Outcome::Answered(Answer { told: Some(told), .. }) => {
                let identity = told.identity(&self.names);
                let account = identity.account(&self.named);
                let is_ours = |account: &&str| {
                    self.baseline.as_ref().is_some_and(|baseline| baseline.is_called(account, &self.named))
                };
                if let Some(account) = account.filter(is_ours) {
                    return Err(Failed::Usage(format!(
                        "--other-certificate is of {account}, as --certificate is: give one of another account; if it is of \
                         another account, the proxy or the sidecar takes the one for the other"
                    )));
                }
                None
            }
            Outcome::Answered(answer) if answer.is_success() => None,
            Outcome::Answered(answer) => Some(answer.status.to_string()),
            Outcome::Refused(why) | Outcome::Untrusted(why) | Outcome::Unreachable(why) => Some(why),
            Outcome::Late => Some("no answer in time".to_owned()),
        };
        self.other_refused = refused;
        Ok(())
    }

    async fn certificate_again(&self) -> Tally {
        let mut tally = Tally::default();
        let outcome = self.ask(&self.us, &self.get()).await;
        let seen = match &outcome {
            Outcome::Answered(answer) if answer.status == self.status => match self.baseline {
                Some(_) => self.ours(&outcome),
                None => Seen::Untold("this page does not tell what arrived".to_owned()),
            },
            Outcome::Answered(answer) => Seen::Untried(format!("now it is {}", answer.status)),
            Outcome::Refused(why) => Seen::Untried(why.clone()),
            outcome => unanswered(outcome),
        };
        tally.add("GET", seen);
        tally
    }
}

/// The first few of many.
fn some_of(names: &[&str]) -> String {
    const SOME: usize = 4;
    match names.len().saturating_sub(SOME) {
        0 => names.join(", "),
        more => format!("{} and {more} more", names[..SOME].join(", ")),
    }
}

/// A server that does not answer was not tried.
fn unanswered(outcome: &Outcome) -> Seen {
    Seen::Untried(match outcome {
        Outcome::Unreachable(why) | Outcome::Untrusted(why) | Outcome::Refused(why) => why.clone(),
        Outcome::Late => "no answer in time".to_owned(),
        Outcome::Answered(answer) => answer.status.to_string(),
    })
}

/// What the URL and what was said beside it lead to.
fn proxy(options: &Options) -> Result<Proxy, Failed> {
    let usage = |text: String| Failed::Usage(text);
    let url: http::Uri =
        options.url.parse().map_err(|error| usage(format!("{} is no URL: {error}", options.url)))?;
    let (Some("https"), Some(authority)) = (url.scheme_str(), url.authority()) else {
        return Err(usage(format!("{}: a client certificate needs TLS, so give an https URL", options.url)));
    };
    let bare = |host: &str| host.trim_matches(['[', ']']).to_owned();
    let connect = match &options.connect {
        None => (bare(authority.host()), authority.port_u16().unwrap_or(443)),
        Some(connect) => connect
            .rsplit_once(':')
            .and_then(|(host, port)| Some((bare(host), port.parse().ok()?)))
            .ok_or_else(|| usage(format!("--connect {connect}: write HOST:PORT")))?,
    };
    let verifier = options.verifier.clone().unwrap_or_else(|| Arc::new(AnyServer::new()));
    Ok(Proxy {
        authority: authority.as_str().to_owned(),
        name: server_name(authority.host())?,
        connect,
        path: url.path_and_query().map_or("/", |path| path.as_str()).to_owned(),
        verifier,
        timeout: options.timeout,
        is_web: AtomicBool::new(false),
    })
}

fn server_name(host: &str) -> Result<ServerName<'static>, Failed> {
    let bare = host.trim_matches(['[', ']']).to_owned();
    ServerName::try_from(bare).map_err(|_| Failed::Usage(format!("{host} is no name of a host")))
}

/// A header's name that an operator gives, folded.
fn header_name(name: &str) -> Result<String, Failed> {
    match http::HeaderName::try_from(name) {
        Ok(parsed) => Ok(wire::folded(parsed.as_str().as_bytes())),
        Err(_) => Err(Failed::Usage(format!("--header {name}: this is no name of a header"))),
    }
}

/// A path that an operator gives.
fn other_path(path: &str) -> Result<String, Failed> {
    match path.starts_with('/') && path.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#') {
        true => Ok(path.to_owned()),
        false => {
            Err(Failed::Usage(format!("--path {path}: write a path that begins with /, percent-encoded")))
        }
    }
}

fn certified(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> anyhow::Result<CertifiedKey> {
    Ok(CertifiedKey::from_der(chain, key, &aws_lc_rs::default_provider())?)
}
