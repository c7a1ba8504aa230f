mod tickets;

use super::*;
use crate::headers::Preset;
use crate::identity::{Assurance, DecisionInputs, Group};
use crate::routes::Route;
use crate::scene::{alice, certificate, sid};
use crate::secret::shows_secret;
use crate::spans::NoSpans;
use account_store::BoxFuture;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::Ed25519KeyPair;
use dtyp::Sid;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rcmp_service::Reason;
use rcmp_service::trust::{self, ChainError, Path, Trust};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use tokio::task::{JoinSet, yield_now};
use zeroize::Zeroizing;

const SECOND: u64 = 10_000_000;

/// Tells what it was told to tell, once the gate is open, and counts.
struct Oracle {
    inputs: Mutex<Result<DecisionInputs, Refusal>>,
    identity: Mutex<Result<Identity, Refusal>>,
    is_open: AtomicBool,
    asked: AtomicU64,
    identified: AtomicU64,
}

impl Oracle {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            inputs: Mutex::new(Ok(settled())),
            identity: Mutex::new(Ok(alice())),
            is_open: AtomicBool::new(true),
            asked: AtomicU64::new(0),
            identified: AtomicU64::new(0),
        })
    }

    fn stands(&self, inputs: DecisionInputs) {
        *self.inputs.lock().expect("no thread panicked") = Ok(inputs);
    }

    fn tells(&self, identity: Result<Identity, Refusal>) {
        *self.identity.lock().expect("no thread panicked") = identity;
    }

    fn identified(&self) -> u64 {
        self.identified.load(Ordering::SeqCst)
    }
}

impl Identify for Oracle {
    fn decision_inputs(
        &self,
        _presented: &ClientCertificate,
        _now: FileTime,
    ) -> Result<DecisionInputs, Refusal> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        self.inputs.lock().expect("no thread panicked").clone()
    }

    fn account(&self, asked: Sid, _now: FileTime) -> BoxFuture<'_, Result<Option<Identity>, Refusal>> {
        let told = match self.identity.lock().expect("no thread panicked").clone() {
            Err(Refusal::NotMapped(_)) => Ok(None),
            told => told.map(|identity| Some(identity).filter(|identity| identity.sid == asked)),
        };
        Box::pin(std::future::ready(told))
    }

    fn identify<'a>(
        &'a self,
        _presented: &'a ClientCertificate,
        _decision: &'a str,
        _source: Option<SocketAddr>,
        _now: FileTime,
    ) -> BoxFuture<'a, Result<Identity, Refusal>> {
        self.identified.fetch_add(1, Ordering::SeqCst);
        Box::pin(async {
            while !self.is_open.load(Ordering::SeqCst) {
                yield_now().await;
            }
            self.identity.lock().expect("no thread panicked").clone()
        })
    }
}

fn settled() -> DecisionInputs {
    DecisionInputs {
        path: None,
        policy_revision: 1,
        store_revision: account_store::Revision::FIXED,
        is_settled: true,
    }
}

fn parts(oracle: &Arc<Oracle>) -> Parts {
    Parts {
        identify: Arc::<Oracle>::clone(oracle),
        spans: Arc::new(NoSpans),
        routes: Routes::default(),
        format: Format::default(),
        token: None,
        tickets: None,
        references: None,
        remember: Duration::from_secs(60),
        remembered_max: 100,
    }
}

fn presented(number: u16, chain: &[&'static [u8]]) -> ClientCertificate {
    let [high, low] = number.to_be_bytes();
    let chain = chain.iter().map(|der| Bytes::from_static(der)).collect();
    ClientCertificate::new(vec![0x30, 2, high, low], chain).expect("it is short")
}

/// Both clocks, which agree.
fn moment(now: FileTime) -> Moment {
    Moment { wall: now, uptime: Duration::from_nanos((now.0 - at(0).0) * 100) }
}

/// When the tests are, and some steps of 100 ns.
fn at(steps: u64) -> FileTime {
    FileTime(FileTime::from_unix(1_900_000_000).0 + steps)
}

async fn ask(
    sidecar: &Sidecar,
    presented: &ClientCertificate,
    now: FileTime,
) -> Result<Arc<Allowed>, Refusal> {
    let ask = Ask {
        presented: Ok(Some(presented.clone())),
        target: None,
        cookies: Cookies::None,
        source: None,
        now: moment(now),
    };
    outcome(sidecar.decide("test", ask).await)
}

fn outcome(decision: Decision) -> Result<Arc<Allowed>, Refusal> {
    match decision.decided {
        Decided::Allowed(allowed) => Ok(allowed),
        Decided::Refused(refusal) => Err(refusal),
    }
}

fn name(outcome: &Result<Arc<Allowed>, Refusal>) -> Result<&str, Refusal> {
    outcome.as_ref().map(|allowed| allowed.identity.account.as_str()).map_err(|refusal| *refusal)
}

#[tokio::test]
async fn many_at_once_are_one_question() {
    let undecided = Refusal::Undecided(Reason::StoreUnavailable.into());
    for (told, after) in
        [(Ok(alice()), 1), (Err(Refusal::NotMapped(Reason::NoMatch.into())), 1), (Err(undecided), 2)]
    {
        let oracle = Oracle::new();
        oracle.tells(told.clone());
        oracle.is_open.store(false, Ordering::SeqCst);
        let sidecar = Arc::new(Sidecar::new(parts(&oracle)));
        let mut tasks = JoinSet::new();
        for _ in 0..64 {
            let sidecar = Arc::clone(&sidecar);
            tasks.spawn(async move { ask(&sidecar, &presented(1, &[]), at(0)).await });
        }
        while oracle.asked.load(Ordering::SeqCst) < 64 {
            yield_now().await;
        }
        oracle.is_open.store(true, Ordering::SeqCst);
        let outcomes = tasks.join_all().await;
        let expected = told.as_ref().map(|identity| identity.account.as_str()).map_err(|refusal| *refusal);
        assert!(outcomes.iter().all(|outcome| name(outcome) == expected));
        assert_eq!(oracle.identified(), 1, "{told:?}");
        let made = sidecar.meter().made.get();
        let remembered = sidecar.meter().remembered.get();
        assert_eq!((made, remembered), (1, 63));
        // A failure is the answer for the requests that waited, and for none after them.
        let _ = ask(&sidecar, &presented(1, &[]), at(0)).await;
        assert_eq!(oracle.identified(), after, "{told:?}");
    }
}

#[tokio::test]
async fn requests_that_wait_go_on_when_the_first_leaves() {
    let oracle = Oracle::new();
    oracle.is_open.store(false, Ordering::SeqCst);
    let sidecar = Arc::new(Sidecar::new(parts(&oracle)));
    let one = || {
        let sidecar = Arc::clone(&sidecar);
        tokio::spawn(async move { ask(&sidecar, &presented(1, &[]), at(0)).await })
    };
    let first = one();
    while oracle.identified() < 1 {
        yield_now().await;
    }
    let second = one();
    while oracle.asked.load(Ordering::SeqCst) < 2 {
        yield_now().await;
    }
    first.abort();
    assert!(first.await.is_err_and(|error| error.is_cancelled()));
    oracle.is_open.store(true, Ordering::SeqCst);
    assert_eq!(name(&second.await.expect("it goes on")), Ok("alice"));
    assert_eq!(oracle.identified(), 2);
}

#[tokio::test]
async fn a_decision_counts_as_long_as_it_may() {
    let denied = || Err(Refusal::NotMapped(Reason::NoMatch.into()));
    let ends_in = |seconds: u64| Ok(Identity { not_after: at(seconds * SECOND), ..alice() });
    for (told, remember, token, expected) in [
        (Ok(alice()), 60, None, 60),
        (Ok(alice()), 60, Some(40), 20),
        (Ok(alice()), 60, Some(1000), 60),
        (ends_in(10), 60, None, 10),
        (ends_in(10), 60, Some(40), 10),
        (denied(), 60, None, 5),
        (denied(), 2, None, 2),
        (denied(), 60, Some(2), 5),
        (Err(Refusal::Chain(ChainError::Expired)), 60, None, 5),
        (Err(Refusal::Undecided(Reason::StoreUnavailable.into())), 60, None, 0),
        (Err(Refusal::Broken(Broken::TooLong)), 60, None, 0),
        (ends_in(0), 60, None, 0),
        (Ok(alice()), 0, None, 0),
        (denied(), 0, None, 0),
        // In nanoseconds these are more than 64 bits hold.
        (ends_in(100), 18_446_744_074, None, 100),
        (ends_in(100), u64::MAX, None, 100),
    ] {
        let oracle = Oracle::new();
        oracle.tells(told.clone());
        let key = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).expect("a key can be made");
        let token = token.map(|seconds| {
            let lifetime = Duration::from_secs(seconds);
            TokenSigner::new(key.as_ref(), String::new(), String::new(), lifetime).expect("the key is good")
        });
        let remember = Duration::from_secs(remember);
        let sidecar = Sidecar::new(Parts { token, remember, ..parts(&oracle) });
        let asked = async |now: FileTime| {
            let before = oracle.identified();
            let _ = ask(&sidecar, &presented(1, &[]), now).await;
            oracle.identified() > before
        };
        assert!(asked(at(0)).await);
        if expected > 0 {
            assert!(!asked(at(expected * SECOND - 1)).await, "{told:?} {remember:?}");
        }
        assert!(asked(at(expected * SECOND)).await, "{told:?} {remember:?}");
        if expected == 0 {
            assert_eq!(sidecar.remembered(), 0, "{told:?} {remember:?}");
        }
    }
}

#[tokio::test]
async fn what_is_not_settled_is_asked_each_time() {
    let oracle = Oracle::new();
    oracle.stands(DecisionInputs { is_settled: false, ..settled() });
    let sidecar = Sidecar::new(parts(&oracle));
    for count in 1..=3 {
        assert_eq!(name(&ask(&sidecar, &presented(1, &[]), at(0)).await), Ok("alice"));
        assert_eq!((oracle.identified(), sidecar.remembered()), (count, 0));
    }
}

#[tokio::test]
async fn a_chain_that_is_refused_looks_up_no_account() {
    let oracle = Oracle::new();
    let sidecar = Sidecar::new(parts(&oracle));
    assert_eq!(name(&ask(&sidecar, &presented(1, &[]), at(0)).await), Ok("alice"));
    *oracle.inputs.lock().expect("no thread panicked") = Err(Refusal::Chain(ChainError::Expired));
    let refused = ask(&sidecar, &presented(1, &[]), at(0)).await;
    assert_eq!(name(&refused), Err(Refusal::Chain(ChainError::Expired)), "whatever is remembered");
    assert_eq!(oracle.identified(), 1);
}

/// The path of one certificate to its root, and to the CA below it.
fn paths() -> [Arc<Path>; 2] {
    let params = |name: &str, is_ca: bool| {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(2040, 1, 1);
        if is_ca {
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        }
        params
    };
    let key = || KeyPair::generate().expect("a key can be made");
    let (root_key, issuing_key) = (key(), key());
    let root = params("Root", true).self_signed(&root_key).expect("a certificate can be made");
    let root_issuer = Issuer::new(params("Root", true), root_key);
    let issuing = params("Issuing", true).signed_by(&issuing_key, &root_issuer).expect("it can be made");
    let issuing_issuer = Issuer::new(params("Issuing", true), issuing_key);
    let leaf = params("alice", false).signed_by(&key(), &issuing_issuer).expect("it can be made");
    let (root, issuing) = (root.der().to_vec(), issuing.der().to_vec());
    [(vec![root], vec![issuing.clone()]), (vec![issuing], Vec::new())].map(|(anchors, intermediates)| {
        let trust = Trust::new(trust::Parts { anchors, intermediates, ..trust::Parts::default() });
        trust.expect("CAs are good").verify(leaf.der(), at(0)).expect("there is a path")
    })
}

#[tokio::test]
async fn what_was_decided_for_something_else_does_not_count() {
    let [long, short] = paths();
    assert_ne!(long.authorities, short.authorities);
    let oracle = Oracle::new();
    let sidecar = Sidecar::new(parts(&oracle));
    let (x, y): (&[u8], &[u8]) = (&[0x30, 0], &[0x30, 1, 0]);
    let with = |path: &Arc<Path>| DecisionInputs { path: Some(Arc::clone(path)), ..settled() };
    for (number, chain, inputs) in [
        (1, &[][..], settled()),
        (2, &[], settled()),
        (1, &[x], settled()),
        (1, &[x, y], settled()),
        (1, &[y, x], settled()),
        (1, &[x, x], settled()),
        (1, &[], DecisionInputs { policy_revision: 2, ..settled() }),
        (1, &[], DecisionInputs { store_revision: account_store::Revision::unique(), ..settled() }),
        (1, &[], with(&long)),
        (1, &[], with(&short)),
    ] {
        let before = oracle.identified();
        oracle.stands(inputs.clone());
        for _ in 0..2 {
            assert_eq!(name(&ask(&sidecar, &presented(number, chain), at(0)).await), Ok("alice"));
            assert_eq!(oracle.identified(), before + 1, "{number} {chain:?} {inputs:?}");
        }
    }
    // Contents that were restored count again, but not as part of what was decided meanwhile.
    let before = oracle.identified();
    oracle.stands(settled());
    assert_eq!(name(&ask(&sidecar, &presented(1, &[]), at(0)).await), Ok("alice"));
    assert_eq!(oracle.identified(), before, "it was decided for these contents");
    // Whatever is in a chain, its parts are not another's.
    for chain in [[&b"ab"[..], b"c"], [b"a", b"bc"]] {
        let before = oracle.identified();
        let chain = chain.map(Bytes::from_static).to_vec();
        let _ = ask(&sidecar, &ClientCertificate { chain, ..presented(1, &[]) }, at(0)).await;
        assert_eq!(oracle.identified(), before + 1);
    }
    // The same path, verified anew, is the same.
    let before = oracle.identified();
    oracle.stands(with(&Arc::new(Path::clone(&long))));
    let _ = ask(&sidecar, &presented(1, &[]), at(0)).await;
    assert_eq!(oracle.identified(), before);
}

#[tokio::test]
async fn what_is_remembered_is_bounded() {
    let oracle = Oracle::new();
    for (max, expected) in [(0, 1), (1, 1), (10, 10)] {
        let sidecar = Sidecar::new(Parts { remembered_max: max, ..parts(&oracle) });
        for number in 0..500 {
            assert_eq!(name(&ask(&sidecar, &presented(number, &[]), at(0)).await), Ok("alice"));
        }
        assert!(sidecar.remembered() <= expected, "{} of {max}", sidecar.remembered());
    }
}

#[tokio::test]
async fn routes_decide_about_each_request() {
    let route = |path: &str, rid: u32, strong| Route {
        path: Some(path.to_owned()),
        sids: vec![sid(&format!("S-1-5-21-1-2-3-{rid}"))],
        strong,
        ..Route::default()
    };
    let oracle = Oracle::new();
    oracle.tells(Ok(Identity { assurance: Assurance::Weak, ..alice() }));
    let routes = Routes::new(vec![
        route("/staff", 1100, false),
        route("/admins", 512, false),
        route("/vault", 1100, true),
    ]);
    let sidecar = Sidecar::new(Parts { routes, ..parts(&oracle) });
    for _ in 0..2 {
        for (path, expected) in [
            (Some("/staff/x"), Ok("alice")),
            (Some("/admins"), Err(Refusal::NotAllowed)),
            (Some("/vault"), Err(Refusal::NotStrong)),
            (Some("/elsewhere"), Err(Refusal::NotAllowed)),
            (Some("/staff/../admins"), Err(Refusal::AmbiguousPath)),
            (Some("/staff%2f..%2fadmins"), Err(Refusal::AmbiguousPath)),
            (None, Err(Refusal::Broken(Broken::NoTarget))),
        ] {
            let target = path.map(|path| ("app.example", path));
            let ask = Ask {
                presented: Ok(Some(presented(1, &[]))),
                target,
                cookies: Cookies::None,
                source: None,
                now: moment(at(0)),
            };
            assert_eq!(name(&outcome(sidecar.decide("test", ask).await)), expected, "{path:?}");
        }
    }
    assert_eq!(oracle.identified(), 1);
    for (outcome, count) in [
        ("allowed", 2),
        ("not_allowed", 4),
        ("not_strong", 2),
        ("ambiguous_path", 4),
        ("no_original_target", 2),
    ] {
        assert_eq!(sidecar.meter().requests("test", outcome), count, "{outcome}");
    }
    // A client does not learn what routes there are.
    let ask =
        Ask { presented: Ok(None), target: None, cookies: Cookies::None, source: None, now: moment(at(0)) };
    assert_eq!(name(&outcome(sidecar.decide("test", ask).await)), Err(Refusal::NoCertificate));
}

#[tokio::test]
async fn a_proxy_shows_the_secret_of_its_listener() {
    let oracle = Oracle::new();
    let sidecar = Sidecar::new(parts(&oracle));
    let leaf = certificate("alice");
    let leaf = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, leaf);
    let wrong = Err(Refusal::Broken(Broken::Secret));
    for (secret, shown, expected) in [
        (None, &[][..], Ok("alice")),
        (None, &["whatever"], Ok("alice")),
        (Some("opensesame"), &["opensesame"], Ok("alice")),
        (Some("opensesame"), &[], wrong),
        (Some("opensesame"), &[""], wrong),
        (Some("opensesame"), &["opensesam"], wrong),
        (Some("opensesame"), &["opensesamf"], wrong),
        (Some("opensesame"), &["OpenSesame"], wrong),
        (Some("opensesame"), &["opensesamee"], wrong),
        (Some("opensesame"), &["opensesame", "opensesame"], wrong),
        (Some("opensesame"), &["opensesame", "x"], wrong),
        (Some("opensesame"), &["x", "opensesame"], wrong),
        (Some("opensesame"), &["opensesame, opensesame"], wrong),
        // An empty one is not shown by showing none.
        (Some(""), &[], wrong),
    ] {
        let mut headers = HeaderMap::new();
        headers.append("x-tls-client-cert", leaf.parse().expect("base64"));
        for value in shown {
            headers.append(SECRET, value.parse().expect("text"));
        }
        let before = oracle.asked.load(Ordering::SeqCst);
        let secret = secret.map(|secret| Zeroizing::new(secret.to_owned()));
        let own = ("app.example", "/");
        let is_proved = secret.is_none_or(|secret| shows_secret(&headers, &secret));
        let decided = sidecar
            .check(
                (Dialect::Caddy, Target::XForwarded, false),
                &headers,
                own,
                is_proved,
                (None, moment(at(0))),
            )
            .await;
        assert_eq!(name(&outcome(decided)), expected, "{shown:?}");
        let asked = oracle.asked.load(Ordering::SeqCst) - before;
        assert_eq!(asked > 0, expected.is_ok(), "without it nothing is looked at");
    }
    // It stands under its own name only.
    let mut headers = HeaderMap::new();
    headers.append("x_sidecar_secret", HeaderValue::from_static("opensesame"));
    let secret = Zeroizing::new("opensesame".to_owned());
    assert!(!shows_secret(&headers, &secret));
}

#[tokio::test]
async fn what_an_application_may_take_for_ours_is_refused_where_it_cannot_be_taken_away() {
    let oracle = Oracle::new();
    let sidecar = Sidecar::new(parts(&oracle));
    let leaf = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, certificate("alice"));
    let forged = Err(Refusal::Forged);
    let odd: Vec<String> = NO_LETTERS.chars().map(|odd| format!("x{odd}identity-sid")).collect();
    for (dialect, header, is_between) in [
        (Dialect::Caddy, "x-tls-client-cert", false),
        (Dialect::Haproxy, "x-ssl-client-cert", true),
        (Dialect::ClientCert, "client-cert", false),
        (Dialect::ClientCert, "client-cert", true),
    ] {
        for (sent, expected) in [
            ("remote-user", Ok("alice")),
            ("accept-language", Ok("alice")),
            ("x.request.id", Ok("alice")),
            ("remote_user", forged),
            ("remote.user", forged),
            ("x~identity.sid", forged),
            ("x_sidecar_secret", forged),
            ("x-forwarded-for", Ok("alice")),
            ("x_forwarded_for", forged),
            ("x~forwarded~for", forged),
            ("x^original^url", forged),
        ]
        .into_iter()
        .chain(odd.iter().map(|name| (name.as_str(), forged)))
        {
            let mut headers = HeaderMap::new();
            headers.append(header, leaf.parse().expect("base64"));
            headers.append("x-ssl-client-used", HeaderValue::from_static("1"));
            headers.append("x-ssl-client-verify", HeaderValue::from_static("0"));
            if dialect == Dialect::ClientCert {
                headers.insert(header, format!(":{leaf}:").parse().expect("base64"));
            }
            if dialect != Dialect::Haproxy {
                headers.remove("x-ssl-client-used");
                headers.remove("x-ssl-client-verify");
            }
            headers.append(
                HeaderName::from_bytes(sent.as_bytes()).expect("a name"),
                HeaderValue::from_static("root"),
            );
            let decided = sidecar
                .check(
                    (dialect, dialect.target(true), is_between),
                    &headers,
                    ("app.example", "/"),
                    true,
                    (None, moment(at(0))),
                )
                .await;
            // Between web server and application everything is taken away here.
            let expected = if is_between { Ok("alice") } else { expected };
            assert_eq!(name(&outcome(decided)), expected, "{dialect:?} {sent}");
        }
    }
}

#[tokio::test]
async fn every_answer_has_every_header() {
    let oracle = Oracle::new();
    let refusals = [
        (Refusal::NoCertificate, 401),
        (Refusal::NotVerified, 403),
        (Refusal::Forged, 403),
        (Refusal::NotMapped(Reason::NoMatch.into()), 403),
        (Refusal::Chain(ChainError::Expired), 403),
        (Refusal::NotAllowed, 403),
        (Refusal::NotStrong, 403),
        (Refusal::AmbiguousPath, 403),
        (Refusal::Misdirected, 421),
        (Refusal::Undecided(Reason::StoreUnavailable.into()), 500),
        (Refusal::Broken(Broken::Secret), 500),
        (Refusal::Broken(Broken::Twice), 500),
        (Refusal::Broken(Broken::NoVerification), 500),
        (Refusal::Broken(Broken::Verification), 500),
        (Refusal::Broken(Broken::Contradiction), 500),
        (Refusal::Broken(Broken::Certificate), 500),
        (Refusal::Broken(Broken::NoXfccCertificate), 500),
        (Refusal::Broken(Broken::ManyCertificates), 500),
        (Refusal::Broken(Broken::NoTarget), 500),
        (Refusal::Broken(Broken::TooLong), 500),
    ];
    let names: HashSet<&str> = refusals.iter().map(|(refusal, _)| refusal.name()).collect();
    assert_eq!(names.len(), refusals.len(), "each has its own name");
    for preset in [Preset::Remote, Preset::Forwarded, Preset::LookupIdentity, Preset::None] {
        let sidecar =
            Sidecar::new(Parts { format: Format { preset, ..Format::default() }, ..parts(&oracle) });
        let allowed = ask(&sidecar, &presented(1, &[]), at(0)).await.expect("alice");
        let refused = refusals.map(|(refusal, status)| (Decided::Refused(refusal), status));
        for (decided, status) in refused.into_iter().chain([(Decided::Allowed(allowed), 200)]) {
            let response = sidecar.answer(&decided);
            assert_eq!(response.status(), status, "{decided:?}");
            assert_eq!(response.headers()[header::CACHE_CONTROL], "no-store");
            for name in sidecar.format().advertised() {
                let values: Vec<_> = response.headers().get_all(&name).iter().collect();
                assert_eq!(values.len(), 1, "{name}");
                assert!(status == 200 || values[0].is_empty(), "{name}");
            }
            assert_eq!(response.headers().contains_key(header::CONTENT_TYPE), status != 200);
            assert_eq!(response.body().is_empty(), status == 200);
            if status == 200 {
                assert_eq!(response.headers()["x-identity-account"], "alice");
            }
        }
    }
}

/// What a name may have beside letters, digits and the hyphen (RFC 9110, section 5.6.2), each of which CGI
/// takes for an underscore.
const NO_LETTERS: &str = "!#$%&'*+.^_`|~";

#[tokio::test]
async fn an_application_sees_our_headers_and_no_others() {
    let oracle = Oracle::new();
    let sidecar = Sidecar::new(parts(&oracle));
    let allowed = ask(&sidecar, &presented(1, &[]), at(0)).await.expect("alice");
    let forged = [
        "remote-user",
        "Remote_User",
        "remote.user",
        "REMOTE~GROUPS",
        "remote-email",
        "x-identity-sid",
        "x_identity_sid",
        "x-identity_sid",
        "X_Identity-Group_Sids",
        "x-identity-token",
        "x-ssl-client-cert",
        "x_ssl_client_verify",
        "ssl.client.verify",
        "client-cert-chain",
        "x-forwarded-client-cert",
        "x-sidecar-secret",
        "x_sidecar_secret",
    ];
    let odd: Vec<String> = NO_LETTERS.chars().map(|odd| format!("x-identity{odd}sid")).collect();
    let forged: Vec<&str> = forged.into_iter().chain(odd.iter().map(String::as_str)).collect();
    let kept = [("accept", "text/html"), ("remote-users", "x"), ("x-request-id", "1"), ("x_request_id", "2")];
    let request = || {
        let mut headers = HeaderMap::new();
        for name in &forged {
            let name = HeaderName::from_bytes(name.as_bytes()).expect("a name");
            headers.append(name.clone(), HeaderValue::from_static("forged"));
            headers.append(name, HeaderValue::from_static("forged"));
        }
        for (name, value) in kept {
            headers.append(name, HeaderValue::from_static(value));
        }
        headers
    };
    let mut stripped = request();
    sidecar.strip(&mut stripped);
    assert_eq!(stripped.len(), kept.len(), "{stripped:?}");
    let mut stamped = request();
    sidecar.stamp(Some(&allowed), &mut stamped);
    for headers in [&stripped, &stamped] {
        assert!(headers.values().all(|value| value != "forged"), "{headers:?}");
        assert!(kept.iter().all(|(name, value)| headers[*name] == *value));
    }
    assert_eq!(stamped["remote-user"], r"CONTOSO\alice");
    assert_eq!(stamped["remote-email"], "");
    assert_eq!(stamped.len(), kept.len() + sidecar.format().advertised().count());
}

#[tokio::test]
async fn what_did_not_fit_is_found_by_its_reference() {
    let oracle = Oracle::new();
    let group = |rid: u32| Group { sid: sid(&format!("S-1-5-21-1-2-3-{rid}")), name: None };
    let member = Identity { groups: (0..1000).map(group).collect(), ..alice() };
    oracle.tells(Ok(member));
    let sidecar = Sidecar::new(parts(&oracle));
    let allowed = ask(&sidecar, &presented(1, &[]), at(0)).await.expect("alice");
    let reference = allowed.headers["x-identity-reference"].to_str().expect("ASCII");
    assert_eq!((reference, reference.len()), (allowed.decision.as_str(), 32));
    let whole = async |reference| sidecar.referenced(reference, at(0)).await.expect("there is a store");
    let kept = whole(reference).await.expect("it is kept");
    assert_eq!(kept["groups"].as_array().map(Vec::len), Some(1000));
    assert_eq!(kept["groups"][999]["sid"], "S-1-5-21-1-2-3-999");
    assert_eq!((&kept["account"], &kept["sid"]), (&"alice".into(), &"S-1-5-21-1-2-3-1000".into()));
    let another = ask(&sidecar, &presented(2, &[]), at(0)).await.expect("alice");
    assert_ne!(another.decision, allowed.decision);
    // Other clients' are not kept, and guessing finds none.
    oracle.tells(Ok(alice()));
    let short = ask(&sidecar, &presented(3, &[]), at(0)).await.expect("alice");
    assert!(short.headers["x-identity-reference"].is_empty());
    assert!(whole(&short.decision).await.is_none() && whole("").await.is_none());
    // The account as it is now, if it may be used and the store knows.
    assert_eq!(whole(reference).await.expect("it is kept")["groups"].as_array().map(Vec::len), Some(2));
    oracle.tells(Err(Refusal::NotMapped(Reason::Disabled.into())));
    assert!(whole(reference).await.is_none());
    let undecided = Refusal::Undecided(Reason::StoreUnavailable.into());
    oracle.tells(Err(undecided));
    assert_eq!(sidecar.referenced(reference, at(0)).await, Err(undecided));
}

/// A name that the operator gives is reserved as ours are, and ours stay reserved where another one is used.
#[tokio::test]
async fn a_clients_copy_of_a_name_of_the_operator_goes_away() {
    use crate::headers::{Meaning, custom_name};
    let oracle = Oracle::new();
    let name = custom_name("X-WEBAUTH-USER").expect("a name");
    let format = Format { names: [(Meaning::User, name)].into(), ..Format::default() };
    let sidecar = Sidecar::new(Parts { format, ..parts(&oracle) });
    let allowed = ask(&sidecar, &presented(1, &[]), at(0)).await.expect("alice");
    let forged = [
        "x-webauth-user",
        "X_WEBAUTH_USER",
        "x.webauth.user",
        "x~webauth-user",
        "x!webauth#user",
        "remote-user",
        "remote_user",
        "x-identity-sid",
    ];
    let mut headers = HeaderMap::new();
    for name in forged {
        let name = HeaderName::from_bytes(name.as_bytes()).expect("a name");
        headers.append(name, HeaderValue::from_static("forged"));
    }
    sidecar.stamp(Some(&allowed), &mut headers);
    assert!(headers.values().all(|value| value != "forged"), "{headers:?}");
    assert_eq!(headers["x-webauth-user"], r"CONTOSO\alice");
    assert!(!headers.contains_key("remote-user"));
    // An anonymous client has an empty one.
    sidecar.stamp(None, &mut headers);
    assert_eq!(headers["x-webauth-user"], "");
    let answer = sidecar.answer(&Decided::Refused(Refusal::NoCertificate));
    assert_eq!(answer.headers()["x-webauth-user"], "");
    // A proxy that asks beside its request takes away what it is told, and other spellings are refused.
    let taken = sidecar.taken_away(["x.webauth.user", "accept"].into_iter());
    for name in ["x_webauth_user", "x.webauth.user", "remote-user", "remote_user"] {
        assert!(taken.contains(name), "{name}");
    }
    assert!(!taken.contains("x-webauth-user"), "it is put in");
    let mut headers = HeaderMap::new();
    headers.append("x~webauth~user", HeaderValue::from_static("root"));
    let decided = sidecar
        .check((Dialect::Caddy, Target::XForwarded, false), &headers, ("a", "/"), true, (None, moment(at(0))))
        .await;
    assert_eq!(self::name(&outcome(decided)), Err(Refusal::Forged));
}

fn signer(audience: &str, lifetime: Duration) -> (TokenSigner, String) {
    let key = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).expect("a key can be made");
    let signer = TokenSigner::new(key.as_ref(), "issuer".to_owned(), audience.to_owned(), lifetime);
    let signer = signer.expect("the key is good");
    let kid = PublicJwk::set(std::iter::once(signer.public()))["keys"][0]["kid"].clone();
    (signer, kid.as_str().expect("it has one").to_owned())
}

/// The claims of the token in an answer.
fn claims(allowed: &Allowed) -> Value {
    use base64::Engine;
    let token = allowed.headers["x-identity-token"].to_str().expect("ASCII");
    let claims = token.split('.').nth(1).expect("three parts");
    let claims = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(claims).expect("base64url");
    serde_json::from_slice(&claims).expect("JSON")
}

/// One certificate at four routes, with a decision that is remembered and one that is not.
#[tokio::test]
async fn a_token_is_for_its_route_and_no_other_one() {
    let route = |path: &str, audience: Option<&str>| Route {
        path: Some(path.to_owned()),
        audience: audience.map(str::to_owned),
        ..Route::default()
    };
    let routes =
        [route("/a", Some("a")), route("/b", Some("b")), route("/plain", None), route("/a2", Some("a"))];
    for remember in [Duration::from_secs(60), Duration::ZERO] {
        let oracle = Oracle::new();
        let (token, _) = signer("all", Duration::from_secs(100));
        let sidecar = Sidecar::new(Parts {
            routes: Routes::new(routes.to_vec()),
            token: Some(token),
            remember,
            ..parts(&oracle)
        });
        let asked = async |path: &str, now: u64| {
            let presented = Ok(Some(presented(1, &[])));
            let target = Some(("app.example", path));
            let ask = Ask { presented, target, cookies: Cookies::None, source: None, now: moment(at(now)) };
            outcome(sidecar.decide("test", ask).await).expect(path)
        };
        for round in 0..3 {
            let now = round * 10 * SECOND;
            for (path, audience) in [("/a", "a"), ("/b", "b"), ("/plain", "all"), ("/a2", "a"), ("/b/x", "b")]
            {
                let allowed = asked(path, now).await;
                let claims = claims(&allowed);
                assert_eq!(claims["aud"], audience, "{path}");
                assert_eq!(allowed.headers["x-identity-decision"], allowed.decision.as_str());
                assert_eq!(
                    (&claims["jti"], &claims["sub"]),
                    (&allowed.decision.as_str().into(), &"S-1-5-21-1-2-3-1000".into())
                );
                let left = claims["exp"].as_i64().expect("a time") - at(now).to_unix();
                assert!((50..=100).contains(&left), "{path}: {left} s");
            }
        }
        let expected = if remember.is_zero() { 15 } else { 1 };
        assert_eq!(oracle.identified(), expected, "one decision for all routes where it is remembered");
        // The same token is handed out again.
        if !remember.is_zero() {
            assert!(Arc::ptr_eq(&asked("/a", 0).await, &asked("/a2", SECOND).await));
        }
    }
    // Without a signer there is no token.
    let oracle = Oracle::new();
    let sidecar = Sidecar::new(Parts { routes: Routes::new(routes.to_vec()), ..parts(&oracle) });
    let presented = Ok(Some(presented(1, &[])));
    let ask = Ask {
        presented,
        target: Some(("app.example", "/a")),
        cookies: Cookies::None,
        source: None,
        now: moment(at(0)),
    };
    let allowed = outcome(sidecar.decide("test", ask).await).expect("alice");
    assert_eq!(allowed.headers["x-identity-token"], "");
}

#[tokio::test]
async fn a_key_that_was_replaced_is_published_as_long_as_its_tokens_count() {
    let oracle = Oracle::new();
    let with = |token: Option<TokenSigner>| Parts { token, ..parts(&oracle) };
    let lifetime = Duration::from_secs(300);
    let (first, first_kid) = signer("all", lifetime);
    let (second, second_kid) = signer("all", lifetime);
    let at = Duration::from_secs;
    let kids = |sidecar: &Sidecar, uptime: Duration| -> Vec<String> {
        let jwks = sidecar.jwks(uptime).unwrap_or_default();
        let keys = jwks["keys"].as_array().cloned().unwrap_or_default();
        keys.iter().map(|key| key["kid"].as_str().expect("text").to_owned()).collect()
    };
    let sidecar = Sidecar::new(with(Some(first)));
    assert_eq!(kids(&sidecar, at(0)), [first_kid.as_str()]);
    let sidecar = sidecar.successor(with(Some(second)), at(1000));
    let both = [second_kid.as_str(), first_kid.as_str()];
    assert_eq!(kids(&sidecar, at(1000)), both);
    assert_eq!(kids(&sidecar, at(1300)), both, "a token of the first key may count until now");
    assert_eq!(kids(&sidecar, at(1360)), [second_kid.as_str()]);
    // A further reload in between forgets nothing, and without a signer the keys stay, too.
    let sidecar = sidecar.successor(with(None), at(1200));
    assert_eq!(kids(&sidecar, at(1200)), [first_kid.as_str(), second_kid.as_str()]);
    assert_eq!(kids(&sidecar, at(1400)), [second_kid.as_str()]);
    assert_eq!(sidecar.jwks(at(1560)), None);
}
