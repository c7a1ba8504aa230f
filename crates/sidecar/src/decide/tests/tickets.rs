//! Nodes of a farm: one asks and gives a ticket, another one recognizes it.

use super::*;
use crate::cookies::CookieName;
use ticket::{Name, Root, Roots};

/// An answer, and whether it may arrive.
type LateAnswer = (Result<Identity, Refusal>, Arc<AtomicBool>);

/// A node that may accept a ticket in place of a question, which an [`Oracle`] answers.
struct Node {
    oracle: Arc<Oracle>,
    recognized: AtomicU64,
    /// The answer to the next question, which arrives when it is released.
    late: Mutex<Option<LateAnswer>>,
}

impl Identify for Node {
    fn decision_inputs(
        &self,
        presented: &ClientCertificate,
        now: FileTime,
    ) -> Result<DecisionInputs, Refusal> {
        self.oracle.decision_inputs(presented, now)
    }

    fn identify<'a>(
        &'a self,
        presented: &'a ClientCertificate,
        decision: &'a str,
        source: Option<SocketAddr>,
        now: FileTime,
    ) -> BoxFuture<'a, Result<Identity, Refusal>> {
        let Some((answer, released)) = self.late.lock().expect("no thread panicked").take() else {
            return self.oracle.identify(presented, decision, source, now);
        };
        Box::pin(async move {
            while !released.load(Ordering::SeqCst) {
                yield_now().await;
            }
            answer
        })
    }

    fn recognize<'a>(
        &'a self,
        _presented: &'a ClientCertificate,
        ticket: Identity,
        _decision: &'a str,
        _source: Option<SocketAddr>,
        _now: FileTime,
    ) -> BoxFuture<'a, Result<Identity, Refusal>> {
        self.recognized.fetch_add(1, Ordering::SeqCst);
        Box::pin(async { Ok(ticket) })
    }
}

const LIFETIME: Duration = Duration::from_secs(900);

/// What comes over Netlogon.
fn from_elsewhere() -> Identity {
    let groups = alice().groups.into_iter().map(|group| Group { name: None, ..group }).collect();
    Identity { groups, method: None, assurance: Assurance::Strong(None), ..alice() }
}

fn root(generation: u32) -> Root {
    Root::new(generation, [u8::try_from(generation).expect("a small number"); Root::LEN])
}

fn farm() -> Farm {
    Farm {
        roots: Roots::new(vec![root(1)]).expect("one root"),
        audience: Name::new("shop").expect("a name"),
        cookie: CookieName::new("__Host-rcmpd").expect("a name"),
        lifetime: LIFETIME,
        policy: [1; 32],
    }
}

fn node(farm: Farm) -> (Arc<Node>, Sidecar) {
    node_with(farm, Duration::from_secs(60))
}

fn node_with(farm: Farm, remember: Duration) -> (Arc<Node>, Sidecar) {
    let oracle = Oracle::new();
    oracle.tells(Ok(from_elsewhere()));
    let node =
        Arc::new(Node { oracle: Arc::clone(&oracle), recognized: AtomicU64::new(0), late: Mutex::default() });
    let identify = Arc::<Node>::clone(&node);
    (node, Sidecar::new(Parts { identify, tickets: Some(farm), remember, ..parts(&oracle) }))
}

/// The outcome, and the cookie that the answer sets.
async fn ask_with(
    sidecar: &Sidecar,
    presented: &ClientCertificate,
    cookies: &[&str],
    now: FileTime,
) -> (Result<Arc<Allowed>, Refusal>, Option<String>) {
    let values: Vec<&[u8]> = cookies.iter().map(|cookie| cookie.as_bytes()).collect();
    let cookies = Cookies::Values(&values);
    let presented = Ok(Some(presented.clone()));
    let decided = sidecar
        .decide("test", Ask { presented, target: None, cookies, source: None, now: moment(now) })
        .await;
    let set = sidecar.set_cookie(&decided.decided, cookies);
    let set = set.map(|set| set.to_str().expect("ASCII").to_owned());
    (outcome(decided), set)
}

/// `NAME=VALUE` of a `Set-Cookie`.
fn cookie(set: Option<String>) -> String {
    set.expect("a cookie is set").split(';').next().expect("its value").to_owned()
}

async fn session(node: &Sidecar, presented: &ClientCertificate) -> String {
    cookie(ask_with(node, presented, &[], at(0)).await.1)
}

fn counts(node: &Node) -> (u64, u64) {
    (node.oracle.identified(), node.recognized.load(Ordering::SeqCst))
}

#[tokio::test]
async fn another_node_recognizes_a_session_without_asking() {
    let alice = presented(1, &[]);
    let (_, first) = node(farm());
    let (allowed, set) = ask_with(&first, &alice, &["a=b"], at(0)).await;
    assert_eq!(name(&allowed), Ok("alice"));
    let set = set.expect("a cookie is set");
    for attribute in ["; Path=/", "; Secure", "; HttpOnly", "; SameSite=Lax", "; Max-Age=900"] {
        assert!(set.contains(attribute) && !set.contains("Domain"), "{set}");
    }
    let cookie = cookie(Some(set));
    // The node that set it does not set it again, and sets it for a request without it.
    assert_eq!(ask_with(&first, &alice, &[&cookie], at(0)).await.1, None);
    assert!(ask_with(&first, &alice, &[], at(0)).await.1.is_some());

    for remember in [60, 0] {
        let (other, second) = node_with(farm(), Duration::from_secs(remember));
        other.oracle.tells(Err(Refusal::Undecided(Reason::NoLogonServers.into())));
        for _ in 0..3 {
            let (recognized, set) = ask_with(&second, &alice, &["a=b", &cookie], at(SECOND)).await;
            let recognized = recognized.expect("it is recognized");
            let whole = Identity { not_after: at(900 * SECOND), ..from_elsewhere() };
            assert_eq!(recognized.identity, whole, "it ends with the ticket");
            // A ticket is never made from a ticket.
            assert_eq!(set, None);
        }
        let made = if remember == 0 { 3 } else { 1 };
        assert_eq!(counts(&other), (0, made));
        assert_eq!((second.meter().by_ticket.get(), second.meter().tickets("accepted")), (made, made));
        assert!(ask(&second, &alice, at(SECOND)).await.is_err(), "without the cookie the server is asked");
    }
}

/// Each of these is as no ticket: the server is asked, and its answer counts.
#[tokio::test]
async fn a_ticket_that_does_not_count_is_ignored() {
    let (alice, bob) = (presented(1, &[]), presented(2, &[]));
    let (_, first) = node(farm());
    let good = session(&first, &alice).await;
    let of_bob = session(&first, &bob).await;
    let changed = {
        // Both leave the unused bits of base64 zero.
        let last = if good.ends_with('A') { 'Q' } else { 'A' };
        format!("{}{last}", &good[..good.len() - 1])
    };
    let long = format!("__Host-rcmpd={}", "A".repeat(5_000));
    let twice = format!("{good}; {good}");
    let later = 900 * SECOND;
    type Case<'a> = (&'static str, &'a [&'a str], Farm, u64);
    let cases: [Case<'_>; 14] = [
        ("accepted", &[&good], farm(), 1),
        ("accepted", &[&good], farm(), later - 1),
        ("expired", &[&good], farm(), later),
        ("certificate", &[&of_bob], farm(), 1),
        ("duplicate", &[&twice], farm(), 1),
        ("duplicate", &[&good, &of_bob], farm(), 1),
        ("audience", &[&good], Farm { audience: Name::new("blog").expect("a name"), ..farm() }, 1),
        ("generation", &[&good], Farm { roots: Roots::new(vec![root(2)]).expect("a root"), ..farm() }, 1),
        (
            "seal",
            &[&good],
            Farm { roots: Roots::new(vec![Root::new(1, [9; Root::LEN])]).expect("a root"), ..farm() },
            1,
        ),
        ("policy", &[&good], Farm { policy: [2; 32], ..farm() }, 1),
        ("seal", &[&changed], farm(), 1),
        ("format", &[&long], farm(), 1),
        ("format", &["__Host-rcmpd="], farm(), 1),
        ("format", &["__Host-rcmpd=\u{e9}%%"], farm(), 1),
    ];
    for (result, cookies, farm, now) in cases {
        let (other, second) = node(farm);
        let (allowed, _) = ask_with(&second, &alice, cookies, at(now)).await;
        assert_eq!(name(&allowed), Ok("alice"), "{result}");
        let expected = if result == "accepted" { (0, 1) } else { (1, 0) };
        assert_eq!((counts(&other), second.meter().tickets(result)), (expected, 1), "{result} {cookies:?}");
    }
    // Without tickets no cookie is looked at.
    let oracle = Oracle::new();
    let without = Sidecar::new(parts(&oracle));
    assert_eq!(ask_with(&without, &alice, &[&good], at(1)).await.1, None);
    assert_eq!(oracle.identified(), 1);
}

#[tokio::test]
async fn generations_overlap() {
    let alice = presented(1, &[]);
    let both = |seal| {
        let roots = Roots::new(vec![root(1), root(2)]).expect("two roots");
        Farm { roots: roots.sealing_with(seal).expect("there is one"), ..farm() }
    };
    let only = |generation| Farm { roots: Roots::new(vec![root(generation)]).expect("a root"), ..farm() };
    for (seals, opens, is_known) in [
        (farm(), both(1), true),
        (both(1), farm(), true),
        (both(1), both(2), true),
        (both(2), both(1), true),
        (both(2), only(2), true),
        (both(1), only(2), false),
    ] {
        let cookie = session(&node(seals).1, &alice).await;
        let (other, second) = node(opens);
        ask_with(&second, &alice, &[&cookie], at(1)).await.0.expect("she may");
        assert_eq!(counts(&other), if is_known { (0, 1) } else { (1, 0) });
    }
}

/// What this node was told later counts, not the ticket: after a denial as after another answer, also if the
/// ticket was used before.
#[tokio::test]
async fn a_later_answer_ends_older_tickets() {
    let alice = presented(1, &[]);
    let cookie = session(&node(farm()).1, &alice).await;
    let denied = Refusal::NotMapped(Reason::Disabled.into());
    for told in [Err(denied), Ok(Identity { groups: Vec::new(), ..from_elsewhere() })] {
        let (other, second) = node(farm());
        let with = async |now| ask_with(&second, &alice, &[&cookie], at(now)).await.0;
        assert_eq!(with(1).await.expect("she is recognized").identity.groups.len(), 2);
        other.oracle.tells(told.clone());
        // A request without the ticket, as of an attacker that leaves it out or of another program.
        let asked = ask(&second, &alice, at(SECOND)).await;
        assert_eq!(asked.is_ok(), told.is_ok());
        // While the answer is cached, and after that.
        for now in [2, 20, 70, 140] {
            let outcome = with(now * SECOND).await;
            assert_eq!(outcome.as_ref().err(), told.as_ref().err(), "{now}");
            assert!(outcome.is_ok_and(|allowed| allowed.identity.groups.is_empty()) || told.is_err());
        }
        assert_eq!(counts(&other).1, 1);
        // It stays so when the configuration is loaded again.
        let again = Parts { identify: other.clone(), tickets: Some(farm()), ..parts(&other.oracle) };
        let again = second.successor(again, Duration::ZERO);
        let outcome = ask_with(&again, &alice, &[&cookie], at(200 * SECOND)).await.0;
        assert_eq!(outcome.err(), told.err());
        assert_eq!(counts(&other).1, 1);
    }
    // No answer ends nothing.
    let (other, second) = node(farm());
    other.oracle.tells(Err(Refusal::Undecided(Reason::NoLogonServers.into())));
    assert!(ask(&second, &alice, at(1)).await.is_err());
    assert!(ask_with(&second, &alice, &[&cookie], at(2)).await.0.is_ok());
}

/// The question was asked before the account was disabled, and its answer arrives after the denial. No ticket
/// is made from it, and those that the denial ended do not count again.
#[tokio::test]
async fn a_late_answer_undoes_no_later_denial() {
    let alice = presented(1, &[]);
    let cookie = session(&node(farm()).1, &alice).await;
    let (other, second) = node_with(farm(), Duration::ZERO);
    let released = Arc::new(AtomicBool::new(false));
    *other.late.lock().expect("no thread panicked") = Some((Ok(from_elsewhere()), Arc::clone(&released)));
    let late = ask_with(&second, &alice, &[], at(SECOND));
    let denied = async {
        let refusal = Refusal::NotMapped(Reason::Disabled.into());
        other.oracle.tells(Err(refusal));
        assert_eq!(ask(&second, &alice, at(2 * SECOND)).await.err(), Some(refusal));
        released.store(true, Ordering::SeqCst);
    };
    let ((allowed, set), ()) = tokio::join!(biased; late, denied);
    assert_eq!((name(&allowed), set), (Ok("alice"), None));
    assert_eq!((second.meter().tickets("issued"), second.meter().tickets("superseded")), (0, 1));
    assert!(ask_with(&second, &alice, &[&cookie], at(3 * SECOND)).await.0.is_err());
    assert_eq!(other.recognized.load(Ordering::SeqCst), 0);
}

/// Answers about other clients leave a denial as it is, however few decisions are cached.
#[tokio::test]
async fn answers_about_others_do_not_bring_a_ticket_back() {
    let alice = presented(1, &[]);
    let cookie = session(&node(farm()).1, &alice).await;
    let (other, _) = node(farm());
    let identify = Arc::<Node>::clone(&other);
    let parts = Parts { identify, tickets: Some(farm()), remembered_max: 1, ..parts(&other.oracle) };
    let second = Sidecar::new(parts);
    other.oracle.tells(Err(Refusal::NotMapped(Reason::Disabled.into())));
    assert!(ask(&second, &alice, at(SECOND)).await.is_err());
    other.oracle.tells(Ok(from_elsewhere()));
    for number in 2..200 {
        assert!(ask(&second, &presented(number, &[]), at(2 * SECOND)).await.is_ok());
    }
    other.oracle.tells(Err(Refusal::NotMapped(Reason::Disabled.into())));
    assert!(ask_with(&second, &alice, &[&cookie], at(10 * SECOND)).await.0.is_err());
    assert_eq!((counts(&other).1, second.meter().tickets("superseded")), (0, 1));
}

/// The clock of the node that issued the ticket is ahead: the ticket looks newer than the answer that took
/// the groups away.
#[tokio::test]
async fn a_ticket_of_a_node_that_is_ahead_does_not_outlive_an_answer() {
    let alice = presented(1, &[]);
    let (_, ahead) = node(farm());
    let cookie = cookie(ask_with(&ahead, &alice, &[], at(59 * SECOND)).await.1);
    let (other, second) = node_with(farm(), Duration::ZERO);
    other.oracle.tells(Ok(Identity { groups: Vec::new(), ..from_elsewhere() }));
    let (_, own) = ask_with(&second, &alice, &[], at(SECOND)).await;
    let own = super::tickets::cookie(own);
    for now in [2, 58, 62, 100] {
        let allowed = ask_with(&second, &alice, &[&own], at(now * SECOND)).await.0.expect("she may");
        assert_eq!((allowed.identity.groups.len(), counts(&other).0), (0, 1), "{now}: its own counts");
    }
    for now in [2, 58, 62, 100] {
        let allowed = ask_with(&second, &alice, &[&cookie], at(now * SECOND)).await.0.expect("she may");
        assert_eq!(allowed.identity.groups.len(), 0, "{now}");
    }
    assert_eq!(second.meter().tickets("accepted"), 4);
}

/// A server that does not answer delays no request whose ticket counts.
#[tokio::test]
async fn a_ticket_does_not_wait_for_a_question() {
    let alice = presented(1, &[]);
    let cookie = session(&node(farm()).1, &alice).await;
    let (other, second) = node(farm());
    other.oracle.is_open.store(false, Ordering::SeqCst);
    let second = Arc::new(second);
    let waiting = tokio::spawn({
        let (second, alice) = (Arc::clone(&second), alice.clone());
        async move { ask(&second, &alice, at(1)).await }
    });
    while other.oracle.identified() == 0 {
        yield_now().await;
    }
    assert!(ask_with(&second, &alice, &[&cookie], at(1)).await.0.is_ok());
    assert!(!waiting.is_finished());
    other.oracle.is_open.store(true, Ordering::SeqCst);
    assert!(waiting.await.expect("it ends").is_ok());
}

/// A process that knows the accounts itself asks them, whatever a ticket says.
#[tokio::test]
async fn a_node_with_accounts_of_its_own_asks_them() {
    let alice = presented(1, &[]);
    let cookie = session(&node(farm()).1, &alice).await;
    let oracle = Oracle::new();
    oracle.tells(Err(Refusal::NotMapped(Reason::Disabled.into())));
    let own = Sidecar::new(Parts { tickets: Some(farm()), ..parts(&oracle) });
    assert!(ask_with(&own, &alice, &[&cookie], at(1)).await.0.is_err());
    assert_eq!(oracle.identified(), 1);
}

#[tokio::test]
async fn an_application_gets_no_ticket() {
    let alice = presented(1, &[]);
    let (_, sidecar) = node(farm());
    let (allowed, set) = ask_with(&sidecar, &alice, &[], at(0)).await;
    let ticket = cookie(set);
    let allowed = allowed.expect("she may");
    for allowed in [Some(&*allowed), None] {
        let mut headers = HeaderMap::new();
        headers.insert(header::COOKIE, format!("a=b; {ticket}; c=d").parse().expect("a value"));
        sidecar.stamp(allowed, &mut headers);
        assert_eq!(headers[header::COOKIE], "a=b; c=d");
    }
    assert_eq!(sidecar.without_tickets(ticket.as_bytes()), Some(Vec::new()));
}

/// An account that ends takes its ticket with it, and one that is at its end gets none.
#[tokio::test]
async fn a_ticket_ends_with_its_account() {
    let alice = presented(1, &[]);
    let (node, sidecar) = node(farm());
    node.oracle.tells(Ok(Identity { not_after: at(10 * SECOND), ..from_elsewhere() }));
    let (_, set) = ask_with(&sidecar, &alice, &[], at(0)).await;
    assert!(set.expect("a cookie is set").contains("Max-Age=10;"));
    let (_, set) = ask_with(&sidecar, &alice, &[], at(10 * SECOND)).await;
    assert_eq!((set, sidecar.meter().tickets("lifetime")), (None, 1));
}
