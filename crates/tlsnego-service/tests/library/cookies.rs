//! Sessions whose state is in cookies, over a made-up seal and a store in memory that two nodes share.

use crate::sessions::{HOUR, MINUTE, alice, at, bob, key};
use crate::support::*;
use dtyp::{Encode, FileTime};
use std::collections::HashMap;
use std::net::IpAddr;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tlsnego_service::fault::{Fault, Reason};
use tlsnego_service::key::KeySize;
use tlsnego_service::session::{
    BoxFuture, CookieSessions, CookieSettings, CookieState, Credential, EndReason, Identity, KnownSessions,
    Purpose, SESSIONS_MAX, Session, SessionKind, SharedTokens, StoreFailed, TicketSealer, TokenHash,
    renewal_due,
};
use zeroize::Zeroizing;

/// Sealing for tests: the octets with the expiry before them, and a check value behind.
#[derive(Clone, Copy)]
struct Sealer(u8);

impl TicketSealer for Sealer {
    fn seal(&self, state: &[u8], expires: FileTime) -> Result<Vec<u8>, String> {
        Ok([&expires.0.to_le_bytes()[..], state, &[self.0]].concat())
    }

    fn open(&self, ticket: &[u8], now: FileTime) -> Result<Zeroizing<Vec<u8>>, String> {
        let (root, state) = ticket.split_last().ok_or("empty")?;
        let (expires, state) = state.split_first_chunk().ok_or("short")?;
        match *root == self.0 && FileTime(u64::from_le_bytes(*expires)) > now {
            true => Ok(Zeroizing::new(state.to_vec())),
            false => Err("it does not open".to_owned()),
        }
    }
}

#[derive(Default)]
struct Shared {
    ended: Mutex<HashMap<TokenHash, FileTime>>,
    failures: Mutex<HashMap<TokenHash, u32>>,
    seen: Mutex<Vec<(TokenHash, FileTime)>>,
    begun: FileTime,
    is_down: Mutex<bool>,
}

impl Shared {
    fn up(&self) -> Result<(), StoreFailed> {
        match *self.is_down.lock().expect("no test panicked") {
            true => Err(StoreFailed("connection refused".to_owned())),
            false => Ok(()),
        }
    }

    fn end(&self, token: TokenHash, at: FileTime) -> Result<(), StoreFailed> {
        self.up()?;
        let mut ended = self.ended.lock().expect("no test panicked");
        let end = ended.entry(token).or_insert(at);
        *end = (*end).min(at);
        Ok(())
    }
}

impl SharedTokens for Shared {
    fn begun(&self) -> FileTime {
        self.begun
    }

    fn insert_message(
        &self,
        message: TokenHash,
        _: FileTime,
        keep_until: FileTime,
    ) -> BoxFuture<'_, Result<bool, StoreFailed>> {
        Box::pin(async move {
            self.up()?;
            let mut seen = self.seen.lock().expect("no test panicked");
            let is_new = !seen.iter().any(|(it, _)| *it == message);
            seen.push((message, keep_until));
            Ok(is_new)
        })
    }

    fn end_token(
        &self,
        token: TokenHash,
        at: FileTime,
        _: FileTime,
        _: FileTime,
        _: bool,
    ) -> BoxFuture<'_, Result<(), StoreFailed>> {
        Box::pin(async move { self.end(token, at) })
    }

    fn fail_token(
        &self,
        token: TokenHash,
        max: u32,
        now: FileTime,
        _: FileTime,
    ) -> BoxFuture<'_, Result<u32, StoreFailed>> {
        Box::pin(async move {
            self.up()?;
            let failures = {
                let mut failures = self.failures.lock().expect("no test panicked");
                *failures.entry(token).and_modify(|count| *count += 1).or_insert(1)
            };
            if failures >= max {
                self.end(token, now)?;
            }
            Ok(failures)
        })
    }

    fn end_of(&self, tokens: [TokenHash; 2]) -> BoxFuture<'_, Result<Option<FileTime>, StoreFailed>> {
        Box::pin(async move {
            self.up()?;
            let ended = self.ended.lock().expect("no test panicked");
            Ok(tokens.iter().filter_map(|token| ended.get(token).copied()).min())
        })
    }
}

const SETTINGS: CookieSettings = CookieSettings {
    credential: Credential::Certificate,
    key_size: KeySize::Bits256,
    skew: Duration::from_secs(300),
    rollover: Duration::from_secs(300),
};

fn node(root: u8, shared: &Arc<Shared>) -> CookieSessions {
    with_settings(root, shared, SETTINGS)
}

fn with_settings(root: u8, shared: &Arc<Shared>, settings: CookieSettings) -> CookieSessions {
    CookieSessions::new(Arc::new(Sealer(root)), Arc::clone(shared) as _, settings)
}

/// What a future that never waits gives.
fn now<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => panic!("it waits"),
    }
}

fn session() -> Session {
    let since = at(NOW).wall;
    Session {
        kind: SessionKind::Established,
        name: "urn:session".to_owned(),
        instance: None,
        parent: Some("urn:bootstrap".to_owned()),
        identity: Some(alice()),
        credential: Credential::Certificate,
        since,
        until: since + 10 * HOUR,
    }
}

fn open(
    node: &CookieSessions,
    cookie: &[u8],
    token: (&str, Option<&str>),
    at: FileTime,
) -> Result<Session, Reason> {
    let opened = now(node.open(cookie, token, Purpose::Message, at));
    opened.map(|keyed| Session::clone(&keyed.session)).map_err(|refusal| refusal.reason)
}

const FIRST: (&str, Option<&str>) = ("urn:session", None);
const SECOND: (&str, Option<&str>) = ("urn:session", Some("urn:instance"));

#[test]
fn every_node_serves_a_session_whose_state_is_in_its_cookie() {
    let shared = Arc::default();
    let [one, two] = [(); 2].map(|()| node(7, &shared));
    let start = at(NOW).wall;
    let cookie = one.seal(&session(), &key(1), start).expect("it is sealed");
    let opened = now(two.open(&cookie, FIRST, Purpose::Message, start)).expect("it opens");
    assert_eq!((&*opened.session, opened.key), (&session(), key(1)));
    // It is the cookie of one token, of one farm, and of its lifetime.
    for token in [("urn:other", None), SECOND] {
        let reason = open(&two, &cookie, token, start).expect_err("another token");
        assert_eq!(reason.fault(), Fault::BadContextToken);
    }
    assert!(open(&two, &cookie, FIRST, start + 10 * HOUR).is_err());
    assert!(open(&node(8, &shared), &cookie, FIRST, start).is_err());

    // After Renew the first key counts for the rollover, on each node.
    let due = start + 450 * MINUTE;
    assert_eq!(open(&two, &cookie, FIRST, due), Err(Reason::RenewalDue));
    let instance = || ("urn:instance".to_owned(), key(2));
    assert!(now(one.renew(&session(), Some(&bob()), instance(), due)).is_err());
    let (renewed, second) =
        now(one.renew(&session(), Some(&alice()), instance(), due)).expect("it is renewed");
    assert_eq!(renewed, Session { instance: Some("urn:instance".to_owned()), ..session() });
    assert_eq!(open(&two, &second, SECOND, due), Ok(renewed.clone()));
    assert_eq!(open(&two, &cookie, FIRST, due + 4 * MINUTE), Ok(session()));
    assert_eq!(open(&two, &cookie, FIRST, due + 5 * MINUTE), Err(Reason::UnknownToken));
    // The new key is due after three quarters of what was left.
    let second_due = renewal_due(due, renewed.until);
    assert_eq!(open(&two, &second, SECOND, second_due - Duration::from_secs(1)), Ok(renewed.clone()));
    assert_eq!(open(&two, &second, SECOND, second_due), Err(Reason::RenewalDue));

    // Cancel counts on each node, for all keys.
    now(one.end(&renewed.name, Some(renewed.until), due, false)).expect("it is written");
    for (cookie, token) in [(&cookie, FIRST), (&second, SECOND)] {
        assert_eq!(open(&two, cookie, token, due), Err(Reason::UnknownToken));
    }
    assert_eq!(now(two.is_ended("urn:session", due)), Ok(true));
    assert_eq!(now(two.is_ended("urn:other", due)), Ok(false));
}

#[test]
fn a_message_counts_once_in_the_farm_until_its_window_and_the_skew_are_over() {
    let start = at(NOW).wall;
    let shared = Arc::new(Shared { begun: start - HOUR, ..Shared::default() });
    let [one, two] = [(); 2].map(|()| node(7, &shared));
    let times = (start, start + 10 * MINUTE);
    assert_eq!(now(one.accept(b"signature", times, start)), Ok(()));
    assert_eq!(now(two.accept(b"signature", times, start)), Err(Reason::Replay));
    assert_eq!(now(two.accept(b"other", times, start)), Ok(()));
    let kept = shared.seen.lock().expect("no test panicked")[0].1;
    assert_eq!(kept, start + 15 * MINUTE, "the clock of the node that forgets may be ahead by the skew");
    // What was accepted before the store was made is not known.
    let before = (start - HOUR - MINUTE, start);
    assert_eq!(now(one.accept(b"third", before, start)), Err(Reason::Replay));
}

#[test]
fn three_failures_on_any_nodes_end_a_session() {
    let shared = Arc::default();
    let [one, two] = [(); 2].map(|()| node(7, &shared));
    let start = at(NOW).wall;
    let cookie = one.seal(&session(), &key(1), start).expect("it is sealed");
    for (node, is_last) in [(&one, false), (&two, false), (&one, true)] {
        assert!(open(&two, &cookie, FIRST, start).is_ok());
        assert_eq!(now(node.failed(&session(), start)), Ok(is_last));
    }
    for node in [&one, &two] {
        assert_eq!(open(node, &cookie, FIRST, start), Err(Reason::UnknownToken));
    }
    assert_eq!(now(two.failed(&session(), start)), Ok(false), "it has ended before");
}

#[test]
fn a_node_serves_no_session_that_it_would_not_have_opened() {
    let shared = Arc::default();
    let start = at(NOW).wall;
    let seal = |session: &Session| node(7, &shared).seal(session, &key(1), start).expect("it is sealed");
    let of = |kind, credential| Session { kind, credential, ..session() };
    use Credential::{Certificate, None as Nothing, UserName};
    use SessionKind::{Established, Negotiated};
    for (ours, kind, theirs, is_served) in [
        (Certificate, Established, Certificate, true),
        (Certificate, Established, UserName, false),
        (Certificate, Established, Nothing, false),
        (Certificate, Negotiated, Certificate, true),
        (Certificate, Negotiated, Nothing, false),
        (UserName, Established, UserName, true),
        (UserName, Established, Nothing, false),
        // The user name comes with each message under such a token.
        (UserName, Negotiated, Nothing, true),
        (UserName, Negotiated, Certificate, false),
        (Nothing, Established, Nothing, true),
        (Nothing, Established, Certificate, false),
    ] {
        let node = with_settings(7, &shared, CookieSettings { credential: ours, ..SETTINGS });
        let opened = open(&node, &seal(&of(kind, theirs)), FIRST, start);
        assert_eq!(opened.is_ok(), is_served, "{ours:?} {kind:?} {theirs:?}");
    }
    let cookie = seal(&session());
    let other_suite = CookieSettings { key_size: KeySize::Bits128, ..SETTINGS };
    let error = open(&with_settings(7, &shared, other_suite), &cookie, FIRST, start).expect_err("other keys");
    assert_eq!(error.fault(), Fault::BadContextToken);
    // The store was lost, and another one made: what had ended is not known.
    let later = Arc::new(Shared { begun: start + Duration::from_secs(1), ..Shared::default() });
    let error = open(&node(7, &later), &cookie, FIRST, start + MINUTE).expect_err("it is older");
    assert_eq!(error.fault(), Fault::BadContextToken);
    assert!(error.to_string().contains("before the store"), "{error}");
}

#[test]
fn a_shared_store_that_does_not_answer_refuses() {
    let shared: Arc<Shared> = Arc::default();
    let sessions = node(7, &shared);
    let start = at(NOW).wall;
    let cookie = sessions.seal(&session(), &key(1), start).expect("it is sealed");
    *shared.is_down.lock().expect("no test panicked") = true;
    assert!(matches!(open(&sessions, &cookie, FIRST, start), Err(Reason::Store(_))));
    assert!(matches!(now(sessions.accept(b"signature", (start, start), start)), Err(Reason::Store(_))));
    assert!(now(sessions.end("urn:session", None, start, false)).is_err());
    assert!(now(sessions.is_ended("urn:session", start)).is_err());
    let renewal = ("urn:instance".to_owned(), key(2));
    assert!(now(sessions.renew(&session(), Some(&alice()), renewal, start)).is_err());
}

#[test]
fn cookies_are_read_whole_or_not_at_all() {
    let shared = Arc::default();
    let sessions = node(7, &shared);
    let anonymous = with_settings(7, &shared, CookieSettings { credential: Credential::None, ..SETTINGS });
    let start = at(NOW).wall;
    let nobody = Session { identity: None, parent: None, credential: Credential::None, ..session() };
    for (node, session) in [(&sessions, session()), (&anonymous, nobody)] {
        let cookie = node.seal(&session, &key(1), start).expect("it is sealed");
        assert_eq!(open(node, &cookie, FIRST, start), Ok(session.clone()));
        let octets = &cookie[8..cookie.len() - 1];
        for len in 0..octets.len() {
            let cut = Sealer(7).seal(&octets[..len], session.until).expect("it is sealed");
            assert!(open(node, &cut, FIRST, start).is_err(), "{len}");
        }
        let longer = Sealer(7).seal(&[octets, &[0]].concat(), session.until).expect("it is sealed");
        assert!(open(node, &longer, FIRST, start).is_err());
    }
    let seal = |session: Session| sessions.seal(&session, &key(1), start);
    assert!(
        seal(Session { kind: SessionKind::OneShot, ..session() }).is_err(),
        "a message without a token has no cookie"
    );
    let detail = |len| Some(Identity { account: "x".to_owned(), detail: vec![0; len].into() });
    assert!(seal(Session { identity: detail(16 * 1_024), ..session() }).is_ok());
    assert!(seal(Session { identity: detail(16 * 1_024 + 1), ..session() }).is_err());
    let day = start + 24 * HOUR;
    assert!(seal(Session { until: day, ..session() }).is_ok());
    assert!(seal(Session { until: day + Duration::from_secs(1), ..session() }).is_err());
    // A key of a length that no suite has.
    let state = CookieState { session: session(), key: key(1), renewal: start };
    let mut octets = Vec::new();
    state.encode(&mut octets);
    octets[27] = 31;
    let sealed = Sealer(7).seal(&octets, session().until).expect("it is sealed");
    assert!(open(&sessions, &sealed, FIRST, start).is_err());
}

#[test]
fn a_node_lists_what_it_has_seen_and_reports_what_ended_there() {
    let known = KnownSessions::default();
    let source = |n: u8| IpAddr::from([192, 0, 2, n]);
    let first = Arc::new(session());
    known.seen(&first, source(1));
    let renewed = Arc::new(Session { instance: Some("urn:instance".to_owned()), ..session() });
    known.seen(&renewed, source(1));
    // A message under the key before is served for a while.
    known.seen(&first, source(1));
    assert_eq!(known.list(), [Arc::clone(&renewed)]);
    known.ended(&renewed, Some(EndReason::Operator));
    assert_eq!((known.len(), known.get("urn:session")), (0, None));
    let departed = known.expire(session().since);
    assert_eq!(departed.iter().map(|it| it.reason).collect::<Vec<_>>(), [Some(EndReason::Operator)]);
    known.seen(&first, source(1));
    known.ended(&first, None);
    assert!(known.expire(session().since).is_empty(), "its client cancelled it");
    known.seen(&first, source(1));
    assert!(known.expire(session().until).is_empty() && known.is_empty(), "its time is over");
    // A flood of anonymous sessions hides its own.
    known.seen(&first, source(1));
    for n in 0..SESSIONS_MAX {
        let nobody = Session { name: format!("urn:{n}"), identity: None, ..session() };
        known.seen(&Arc::new(nobody), source(2));
    }
    assert_eq!(known.len(), SESSIONS_MAX);
    assert!(known.get("urn:session").is_some());
}
