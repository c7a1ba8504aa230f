//! Tokens, from their issue to their end.

use crate::support::*;
use dtyp::FileTime;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use tlsnego_service::Moment;
use tlsnego_service::fault::{Fault, Reason};
use tlsnego_service::key::{Key, KeySize};
use tlsnego_service::session::{
    Credential, EndReason, Generation, Identity, NewSession, PENDING_MAX, Purpose, Renewal, SESSIONS_MAX,
    Session, SessionKind, SessionTimes, Sessions,
};

pub(crate) const HOUR: Duration = Duration::from_secs(3_600);
pub(crate) const MINUTE: Duration = Duration::from_secs(60);
const SECOND: Duration = Duration::from_secs(1);

pub(crate) fn at(uptime: Duration) -> Moment {
    Moment { wall: FileTime::from_unix(1_800_000_000) + uptime, uptime }
}

pub(crate) fn key(n: u8) -> Key {
    Key::from_random(KeySize::Bits256, &[n; 32])
}

pub(crate) fn alice() -> Identity {
    Identity { account: "S-1-5-21-1-2-3-1104".to_owned(), detail: Arc::from(b"CONTOSO\\alice".as_slice()) }
}

pub(crate) fn bob() -> Identity {
    Identity { account: "S-1-5-21-1-2-3-1105".to_owned(), ..alice() }
}

fn new(name: &str, identity: Option<Identity>) -> NewSession {
    let credential = if identity.is_some() { Credential::UserName } else { Credential::None };
    NewSession { name: name.to_owned(), key: key(1), identity, credential, source: SOURCE }
}

/// A session that was established and used.
fn used(sessions: &Sessions, name: &str, now: Moment) -> Arc<Session> {
    let session = sessions.establish(new(name, Some(alice())), "parent", now).expect("there is room");
    sessions.used(name, now);
    session
}

fn find(sessions: &Sessions, name: &str, now: Duration) -> Result<Key, Reason> {
    let found = sessions.find(name, Generation::Newest, Purpose::Message, at(now));
    found.map(|keyed| keyed.key).map_err(|refusal| refusal.reason)
}

#[test]
fn a_negotiated_token_ends_when_a_session_is_established_under_it() {
    let sessions = Sessions::new(SessionTimes::default());
    let bootstrap = sessions.negotiated(new("urn:bootstrap", None), at(NOW)).expect("there is room");
    assert_eq!((bootstrap.kind, &bootstrap.parent), (SessionKind::Negotiated, &None));
    assert_eq!(bootstrap.until, bootstrap.since + 15 * MINUTE);
    assert_eq!(find(&sessions, "urn:bootstrap", NOW + 15 * MINUTE - SECOND), Ok(key(1)));
    let session =
        sessions.establish(new("urn:session", Some(alice())), "urn:bootstrap", at(NOW)).expect("room");
    assert_eq!((session.kind, session.parent.as_deref()), (SessionKind::Established, Some("urn:bootstrap")));
    assert_eq!((&session.identity, session.credential), (&Some(alice()), Credential::UserName));
    assert_eq!(session.until, session.since + 10 * HOUR);
    assert_eq!(find(&sessions, "urn:bootstrap", NOW), Err(Reason::UnknownToken));
    assert_eq!(Reason::UnknownToken.fault(), Fault::BadContextToken);
    // Without a bootstrap of our own, the parent is the name of a one-shot message, and nothing ends.
    used(&sessions, "urn:other", at(NOW));
    used(&sessions, "urn:third", at(NOW));
    assert_eq!(sessions.len(), 3);
    assert!(sessions.establish(new("urn:third", None), "parent", at(NOW)).is_err(), "names are used once");
}

#[test]
fn renew_keeps_name_identity_and_end() {
    let sessions = Sessions::new(SessionTimes { idle: 24 * HOUR, ..SessionTimes::default() });
    let before = used(&sessions, "urn:session", at(NOW));
    // After three quarters of its life the key is due.
    let due = NOW + 450 * MINUTE;
    assert_eq!(find(&sessions, "urn:session", due - SECOND), Ok(key(1)));
    let refusal =
        sessions.find("urn:session", Generation::Newest, Purpose::Message, at(due)).expect_err("it is due");
    assert_eq!(refusal.reason.fault(), Fault::RenewNeeded);
    assert_eq!(refusal.secured_by.map(|keyed| keyed.key), Some(key(1)));
    assert!(sessions.find("urn:session", Generation::Newest, Purpose::Management, at(due)).is_ok());

    let (alice, bob) = (alice(), bob());
    let renewal = |identity, n| Renewal { identity, instance: format!("urn:instance:{n}"), key: key(n) };
    for identity in [None, Some(&bob)] {
        let reason =
            sessions.renew("urn:session", renewal(identity, 2), at(due)).expect_err("another account");
        assert_eq!(reason.fault(), Fault::InvalidRequest);
    }
    let after = sessions.renew("urn:session", renewal(Some(&alice), 2), at(due)).expect("it is renewed");
    assert_eq!(*after, Session { instance: Some("urn:instance:2".to_owned()), ..Session::clone(&before) });
    assert_eq!(find(&sessions, "urn:session", due), Ok(key(2)));

    let exact = |instance, now| {
        let found = sessions.find("urn:session", Generation::Exact(instance), Purpose::Message, at(now));
        found.map(|keyed| keyed.key).map_err(|refusal| refusal.reason)
    };
    assert_eq!(exact(Some("urn:instance:2"), due), Ok(key(2)));
    assert_eq!(exact(None, due + 5 * MINUTE - SECOND), Ok(key(1)), "the key before counts for five minutes");
    assert_eq!(exact(None, due + 5 * MINUTE), Err(Reason::UnknownToken));
    assert_eq!(exact(Some("urn:instance:3"), due), Err(Reason::UnknownToken));
    // The next renewal forgets the first key, and the whole lifetime stays.
    let again = due + 113 * MINUTE;
    assert_eq!(find(&sessions, "urn:session", again), Err(Reason::RenewalDue));
    sessions.renew("urn:session", renewal(Some(&alice), 3), at(again)).expect("it is renewed");
    assert_eq!(exact(None, again), Err(Reason::UnknownToken));
    assert_eq!(exact(Some("urn:instance:2"), again), Ok(key(2)));
    assert_eq!(find(&sessions, "urn:session", NOW + 10 * HOUR), Err(Reason::UnknownToken));

    sessions.negotiated(new("urn:bootstrap", Some(alice.clone())), at(NOW)).expect("there is room");
    let reason =
        sessions.renew("urn:bootstrap", renewal(Some(&alice), 4), at(NOW)).expect_err("it is negotiated");
    assert_eq!(reason.fault(), Fault::InvalidRequest);
}

#[test]
fn a_token_is_cancelled_under_itself() {
    let sessions = Sessions::new(SessionTimes::default());
    used(&sessions, "urn:session", at(NOW));
    used(&sessions, "urn:other", at(NOW));
    let reason = sessions.cancel("urn:session", "urn:other").expect_err("another token");
    assert_eq!(reason.fault(), Fault::InvalidRequest);
    assert_eq!(sessions.cancel("urn:session", "urn:session").expect("it is there").name, "urn:session");
    assert_eq!(find(&sessions, "urn:session", NOW), Err(Reason::UnknownToken));
    assert!(sessions.get("urn:other").is_some());
    assert!(sessions.expire(at(NOW)).is_empty(), "the answer to Cancel has told of it");
}

#[test]
fn a_session_that_is_idle_or_ended_is_aborted() {
    let sessions = Sessions::new(SessionTimes::default());
    for name in ["urn:idle", "urn:ended", "urn:used"] {
        used(&sessions, name, at(NOW));
    }
    sessions.negotiated(new("urn:calls", None), at(NOW)).expect("there is room");
    assert!(sessions.end("urn:ended") && !sessions.end("urn:ended"));
    assert_eq!(find(&sessions, "urn:ended", NOW), Err(Reason::Ended(EndReason::Operator)));
    sessions.used("urn:used", at(NOW + MINUTE));
    let later = NOW + 2 * MINUTE;
    assert!(find(&sessions, "urn:idle", later - SECOND).is_ok());
    let refusal =
        sessions.find("urn:idle", Generation::Newest, Purpose::Message, at(later)).expect_err("idle");
    assert_eq!(refusal.reason, Reason::Ended(EndReason::Idle));
    assert_eq!(refusal.reason.fault(), Fault::SecuritySessionAborted);
    assert_eq!(refusal.secured_by.map(|keyed| keyed.key), Some(key(1)));
    assert!(find(&sessions, "urn:used", later).is_ok());
    assert!(find(&sessions, "urn:calls", later).is_ok(), "a negotiated token lives for its lifetime");
    let ended: Vec<_> =
        sessions.expire(at(later)).into_iter().map(|it| (it.session.name.clone(), it.reason)).collect();
    let expected = [("urn:ended", EndReason::Operator), ("urn:idle", EndReason::Idle)];
    assert_eq!(ended, expected.map(|(name, reason)| (name.to_owned(), Some(reason))));
}

#[test]
fn the_third_message_that_does_not_decrypt_ends_the_session() {
    let sessions = Sessions::new(SessionTimes::default());
    used(&sessions, "urn:session", at(NOW));
    assert!(!sessions.failed("urn:session"));
    assert!(!sessions.failed("urn:session"));
    // Good messages between do not help a sender of bad ones.
    sessions.used("urn:session", at(NOW));
    assert!(sessions.failed("urn:session"));
    assert_eq!(find(&sessions, "urn:session", NOW), Err(Reason::Ended(EndReason::Failures)));
    assert!(!sessions.failed("urn:session") && !sessions.failed("urn:other"));
}

#[test]
fn a_session_that_was_cancelled_before_its_use_frees_its_place() {
    let sessions = Sessions::new(SessionTimes::default());
    for n in 0..1_000 {
        let name = format!("urn:{n}");
        sessions.establish(new(&name, Some(alice())), "parent", at(NOW)).expect("there is room");
        sessions.cancel(&name, &name).expect("it is there");
    }
    for n in 0..PENDING_MAX {
        sessions
            .establish(new(&format!("urn:real:{n}"), Some(alice())), "parent", at(NOW))
            .expect("there is room");
    }
    assert_eq!(sessions.pending(), PENDING_MAX);
    let busy = sessions.establish(new("urn:more", Some(alice())), "parent", at(NOW)).expect_err("too many");
    assert_eq!((busy.fault(), sessions.len()), (Fault::ServerTooBusy, PENDING_MAX));
    // Another account is not kept out, and a session that is used is not pending.
    sessions.establish(new("urn:bob", Some(bob())), "parent", at(NOW)).expect("one of alice's is evicted");
    assert_eq!(find(&sessions, "urn:real:0", NOW), Err(Reason::Ended(EndReason::Evicted)));
    sessions.used("urn:real:1", at(NOW));
    sessions.establish(new("urn:more", Some(alice())), "parent", at(NOW)).expect("there is room");
    // Those that were never used end with the idle time.
    let later = at(NOW + 2 * MINUTE);
    sessions.establish(new("urn:later", Some(alice())), "parent", later).expect("there is room");
    assert_eq!((sessions.len(), sessions.pending()), (1, 1));
}

#[test]
fn a_flood_of_anonymous_tokens_evicts_its_own() {
    let sessions = Sessions::new(SessionTimes::default());
    used(&sessions, "urn:alice", at(NOW));
    let other: IpAddr = [198, 51, 100, 7].into();
    let anonymous = NewSession { source: other, ..new("urn:other", None) };
    sessions.negotiated(anonymous, at(NOW)).expect("there is room");
    for n in 0..SESSIONS_MAX + 100 {
        sessions.negotiated(new(&format!("urn:{n}"), None), at(NOW)).expect("a new one always gets in");
    }
    assert_eq!(sessions.len(), SESSIONS_MAX);
    assert!(sessions.get("urn:alice").is_some() && sessions.get("urn:other").is_some());
    assert!(sessions.get("urn:0").is_none());
    assert_eq!(sessions.list().len(), SESSIONS_MAX);
}

#[test]
fn one_shot_messages_have_a_name_of_their_own() {
    let times = (at(NOW).wall, at(NOW).wall + 5 * MINUTE);
    let message = Session::one_shot(
        "q1gD7nTxkS0W9t5cUZ0yY0iW0sM=".to_owned(),
        Some(alice()),
        Credential::UserName,
        times,
    );
    assert_eq!((message.kind.as_str(), message.name.as_str()), ("one-shot", "q1gD7nTxkS0W9t5cUZ0yY0iW0sM="));
    assert_eq!((message.instance, message.parent), (None, None));
}
