use super::*;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::task::Context;

const NOW: Duration = Duration::from_secs(1_000);

fn source(last: u8) -> IpAddr {
    [192, 0, 2, last].into()
}

/// Accounts whose password is their name backwards. A check ends when it is let go on.
#[derive(Default)]
struct Store {
    revision: AtomicU64,
    checks: AtomicUsize,
    at_once: AtomicUsize,
    most_at_once: AtomicUsize,
    order: Mutex<Vec<String>>,
    /// How many checks may end.
    may_end: AtomicUsize,
    fails: AtomicUsize,
    has_no_revisions: bool,
    /// Whether answers that wait are due.
    is_due: AtomicBool,
    /// Answers that waited.
    slowed: AtomicUsize,
}

impl PasswordStore for &Store {
    type Account = ();

    /// `DOMAIN\name` is another spelling of the name, and `x.y` another name of the account `y`.
    async fn find(&self, name: &str) -> Result<Found<()>, StoreFailed> {
        let name = name.rsplit('\\').next().unwrap_or_default();
        let account = name.rsplit('.').next().unwrap_or_default();
        Ok(Found {
            account: (),
            revision: (!self.has_no_revisions).then(|| self.revision.load(Ordering::Relaxed)),
            guessed: vec![format!("name {name}"), format!("account {account}")],
        })
    }

    /// Names of `slow` ask another server.
    fn queue(&self, name: &str) -> usize {
        usize::from(name.starts_with("slow"))
    }

    async fn after(&self, time: Duration) {
        assert_eq!(time, ANSWER_TIME);
        poll_fn(|_| if self.is_due.load(Ordering::Relaxed) { Poll::Ready(()) } else { Poll::Pending }).await;
    }

    fn slowed(&self, _: &str, _: IpAddr) {
        self.slowed.fetch_add(1, Ordering::Relaxed);
    }

    async fn check(&self, name: &str, password: &str, (): ()) -> Result<Option<Identity>, StoreFailed> {
        self.checks.fetch_add(1, Ordering::Relaxed);
        self.order.lock().expect("no test panicked").push(name.to_owned());
        let at_once = self.at_once.fetch_add(1, Ordering::Relaxed) + 1;
        self.most_at_once.fetch_max(at_once, Ordering::Relaxed);
        let _leave = Leave(&self.at_once);
        poll_fn(|_| {
            let may = self.may_end.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1));
            if may.is_ok() { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
        if self.fails.load(Ordering::Relaxed) > 0 {
            return Err(StoreFailed("down".to_owned()));
        }
        let right: String = name.chars().rev().collect();
        Ok((right == password).then(|| Identity { account: name.to_owned(), detail: Arc::new([]) }))
    }
}

struct Leave<'a>(&'a AtomicUsize);

impl Drop for Leave<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn passwords(store: &Store) -> Passwords<&Store> {
    Passwords::new(store, [7; 32], PasswordSettings::default())
}

/// A store whose checks end at once.
fn quick() -> Store {
    Store { may_end: usize::MAX.into(), ..Store::default() }
}

fn poll<F: Future>(future: Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

/// What a future that never waits gives.
fn now<T>(future: impl Future<Output = T>) -> T {
    match poll(pin!(future)) {
        Poll::Ready(value) => value,
        Poll::Pending => panic!("it waits"),
    }
}

fn check(passwords: &Passwords<&Store>, name: &str, password: &str, at: Duration) -> Option<String> {
    let identity = now(passwords.check(name, password, source(1), at)).expect("the store answers");
    identity.map(|identity| identity.account)
}

#[test]
fn a_right_password_is_checked_once_until_its_time_is_over() {
    let store = quick();
    let passwords = passwords(&store);
    for _ in 0..1_000 {
        assert_eq!(check(&passwords, "alice", "ecila", NOW).as_deref(), Some("alice"));
    }
    assert_eq!(store.checks.load(Ordering::Relaxed), 1);
    assert_eq!(check(&passwords, "alice", "ecila", NOW + Duration::from_secs(300)).as_deref(), Some("alice"));
    assert_eq!(store.checks.load(Ordering::Relaxed), 2);
}

#[test]
fn an_account_that_changed_is_checked_at_the_next_call() {
    let store = quick();
    let passwords = passwords(&store);
    check(&passwords, "alice", "ecila", NOW);
    check(&passwords, "alice", "wrong", NOW);
    store.revision.store(1, Ordering::Relaxed);
    check(&passwords, "alice", "ecila", NOW);
    check(&passwords, "alice", "wrong", NOW);
    assert_eq!(store.checks.load(Ordering::Relaxed), 4);
}

#[test]
fn a_wrong_password_is_asked_once_in_the_window() {
    let store = Store { has_no_revisions: true, ..quick() };
    let passwords = passwords(&store);
    for _ in 0..5 {
        assert_eq!(check(&passwords, "alice", "wrong", NOW), None);
    }
    assert_eq!(store.checks.load(Ordering::Relaxed), 1);
    assert_eq!(
        check(&passwords, "alice", "ecila", NOW).as_deref(),
        Some("alice"),
        "the right one is not kept out"
    );
    assert_eq!(check(&passwords, "alice", "wrong", NOW + Duration::from_secs(60)), None);
    assert_eq!(store.checks.load(Ordering::Relaxed), 3);
}

#[test]
fn name_and_password_are_told_apart() {
    let store = quick();
    let passwords = passwords(&store);
    assert_eq!(check(&passwords, "xy", "yx", NOW).as_deref(), Some("xy"));
    assert_eq!(check(&passwords, "x", "yyx", NOW), None);
    assert_eq!(check(&passwords, "xyy", "x", NOW), None);
    assert_eq!(check(&passwords, &"a".repeat(1_025), &"a".repeat(1_025), NOW), None);
    assert_eq!(store.checks.load(Ordering::Relaxed), 3);
}

#[test]
fn equal_questions_at_once_make_one_check() {
    let store = Store::default();
    let passwords = passwords(&store);
    let mut questions: Vec<_> =
        (0..100).map(|n| Box::pin(passwords.check("alice", "ecila", source(n), NOW))).collect();
    assert!(questions.iter_mut().all(|question| poll(question.as_mut()).is_pending()));
    assert_eq!(store.checks.load(Ordering::Relaxed), 1);
    // The one that asks is dropped, as when its client hangs up: another one asks.
    drop(questions.remove(0));
    store.may_end.store(1, Ordering::Relaxed);
    for _ in 0..2 {
        questions.retain_mut(|question| match poll(question.as_mut()) {
            Poll::Ready(verdict) => {
                assert_eq!(verdict.expect("the store answers").expect("it is right").account, "alice");
                false
            }
            Poll::Pending => true,
        });
    }
    assert!(questions.is_empty());
    assert_eq!(store.checks.load(Ordering::Relaxed), 2);
}

#[test]
fn two_checks_run_at_once_and_addresses_take_turns() {
    let store = Store::default();
    let passwords = passwords(&store);
    let names: Vec<String> = (0..20).map(|n| format!("flood{n}")).collect();
    let mut questions: Vec<_> =
        names.iter().map(|name| Box::pin(passwords.check(name, "x", source(1), NOW))).collect();
    questions.push(Box::pin(passwords.check("alice", "ecila", source(2), NOW)));
    assert!(questions.iter_mut().all(|question| poll(question.as_mut()).is_pending()));
    assert_eq!(store.checks.load(Ordering::Relaxed), 2);
    while !questions.is_empty() {
        store.may_end.store(1, Ordering::Relaxed);
        questions.retain_mut(|question| poll(question.as_mut()).is_pending());
    }
    assert_eq!(store.most_at_once.load(Ordering::Relaxed), 2);
    let order = store.order.lock().expect("no test panicked");
    let place = order.iter().position(|name| name == "alice").expect("it was checked");
    assert!(place <= 4, "{order:?}");
    assert_eq!(order.len(), 21);
}

#[test]
fn a_flood_refuses_its_own_questions() {
    let store = Store::default();
    let passwords = passwords(&store);
    let names: Vec<String> = (0..WAITING_MAX + 100).map(|n| format!("flood{n}")).collect();
    let mut questions: Vec<_> =
        names.iter().map(|name| Box::pin(passwords.check(name, "x", source(1), NOW))).collect();
    let refused = questions.iter_mut().filter_map(|question| match poll(question.as_mut()) {
        Poll::Ready(verdict) => Some(verdict),
        Poll::Pending => None,
    });
    let refused: Vec<_> = refused.collect();
    assert_eq!(refused.len(), 98);
    assert!(refused.iter().all(|verdict| matches!(verdict, Err(Reason::TooManyPasswords(WAITING_MAX)))));
    let mut alice = pin!(passwords.check("alice", "ecila", source(2), NOW));
    assert!(poll(alice.as_mut()).is_pending());
    store.may_end.store(2, Ordering::Relaxed);
    for question in questions.iter_mut().take(2) {
        assert!(poll(question.as_mut()).is_ready());
    }
    store.may_end.store(usize::MAX, Ordering::Relaxed);
    // The two places are given to the first in the round: one of the flood, and this one.
    assert!(poll(alice.as_mut()).is_ready());
}

#[test]
fn turns_that_are_given_up_go_to_the_next() {
    let store = Store::default();
    let passwords = passwords(&store);
    let names: Vec<String> = (0..8).map(|n| format!("user{n}")).collect();
    let mut questions: Vec<_> =
        names.iter().map(|name| Box::pin(passwords.check(name, "x", source(1), NOW))).collect();
    assert!(questions.iter_mut().all(|question| poll(question.as_mut()).is_pending()));
    // Two that are checked, one that waits, and one that was given its turn and has not seen it.
    questions.drain(0..4);
    store.may_end.store(usize::MAX, Ordering::Relaxed);
    for question in &mut questions {
        assert!(poll(question.as_mut()).is_ready());
    }
    assert_eq!(passwords.queues[0].usual.free(), 2);
}

#[test]
fn a_store_that_fails_is_no_verdict() {
    let store = quick();
    let passwords = passwords(&store);
    store.fails.store(1, Ordering::Relaxed);
    assert!(matches!(now(passwords.check("alice", "ecila", source(1), NOW)), Err(Reason::Store(_))));
    store.fails.store(0, Ordering::Relaxed);
    assert_eq!(check(&passwords, "alice", "ecila", NOW).as_deref(), Some("alice"));
}

#[test]
fn a_server_that_does_not_answer_delays_its_own_names_alone() {
    let store = Store::default();
    let passwords = Passwords::new(&store, [7; 32], PasswordSettings::default()).with_queues([3]);
    let names: Vec<_> = (0..10).map(|n| format!("slow{n}")).collect();
    let mut slow: Vec<_> =
        names.iter().map(|name| Box::pin(passwords.check(name, "x", source(1), NOW))).collect();
    for check in &mut slow {
        assert!(poll(check.as_mut()).is_pending());
    }
    assert_eq!(store.at_once.load(Ordering::Relaxed), 3, "as many as the queue has");
    // The next check that is polled ends.
    store.may_end.store(1, Ordering::Relaxed);
    assert_eq!(check(&passwords, "alice", "ecila", NOW).as_deref(), Some("alice"));
    assert_eq!(store.checks.load(Ordering::Relaxed), 4);
}

/// Whether the answer comes at once.
fn is_fast(passwords: &Passwords<&Store>, name: &str, password: &str, from: u8) -> bool {
    poll(pin!(passwords.check(name, password, source(from), NOW))).is_ready()
}

/// Guesses as often as costs nothing.
fn guess_freely(passwords: &Passwords<&Store>, name: &str) {
    for n in 0..5 {
        assert!(is_fast(passwords, name, &format!("wrong {n}"), 1), "{n}");
    }
}

#[test]
fn guesses_become_slow_for_their_account_and_address_and_keep_the_right_password_in() {
    let store = quick();
    let passwords = passwords(&store);
    assert!(is_fast(&passwords, "alice", "ecila", 1), "it is cached");
    guess_freely(&passwords, "alice");
    // Wrong, wrong as before, right, and right for another spelling or another name of the account.
    for (name, password) in [
        ("alice", "wrong"),
        ("alice", "wrong 1"),
        ("alice", "ecila"),
        (r"CONTOSO\alice", r"ecila\OSOTNOC"),
        ("a.alice", "ecila.a"),
    ] {
        assert!(!is_fast(&passwords, name, password, 1), "{name} {password}");
    }
    assert_eq!(store.slowed.load(Ordering::Relaxed), 5);
    assert!(is_fast(&passwords, "alice", "ecila", 2), "at another address");
    assert!(is_fast(&passwords, "bob", "bob", 1), "another account at this one");
    // What waited is answered, whatever was guessed.
    store.is_due.store(true, Ordering::Relaxed);
    assert_eq!(check(&passwords, "alice", "ecila", NOW).as_deref(), Some("alice"));
    assert_eq!(check(&passwords, "alice", "wrong 2", NOW), None);
}

#[test]
fn a_password_that_is_repeated_is_no_new_guess() {
    let store = quick();
    let passwords = passwords(&store);
    for _ in 0..100 {
        assert!(is_fast(&passwords, "alice", "old", 1));
    }
    assert!(is_fast(&passwords, "alice", "ecila", 1));
}

#[test]
fn guesses_that_are_given_up_count() {
    let store = Store::default();
    let passwords = passwords(&store);
    // A client that hangs up when the answer does not come as soon as that of a cached password.
    for n in 0..5 {
        assert!(!is_fast(&passwords, "alice", &format!("wrong {n}"), 1));
    }
    store.may_end.store(usize::MAX, Ordering::Relaxed);
    assert!(!is_fast(&passwords, "alice", "ecila", 1));
    assert_eq!(store.slowed.load(Ordering::Relaxed), 1);
}

#[test]
fn guesses_at_one_account_leave_the_queue_to_others_behind_their_address() {
    let store = quick();
    let passwords = passwords(&store);
    guess_freely(&passwords, "alice");
    store.may_end.store(0, Ordering::Relaxed);
    let texts: Vec<_> = (0..WAITING_MAX + 100).map(|n| format!("guess {n}")).collect();
    let mut guesses: Vec<_> =
        texts.iter().map(|text| Box::pin(passwords.check("alice", text, source(1), NOW))).collect();
    let refused: usize = guesses.iter_mut().map(|guess| usize::from(poll(guess.as_mut()).is_ready())).sum();
    // Those that the queue has no room for wait as long as the others: a quick answer would let a client give
    // up each slower one.
    assert_eq!((store.at_once.load(Ordering::Relaxed), refused), (1, 0));
    store.may_end.store(1, Ordering::Relaxed);
    assert!(is_fast(&passwords, "bob", "bob", 1));
}

#[test]
fn guesses_at_many_names_leave_turns_to_names_that_were_right_at_their_address() {
    let store = quick();
    let passwords = passwords(&store);
    for name in ["alice", "bob"] {
        assert!(is_fast(&passwords, name, &name.chars().rev().collect::<String>(), 1));
    }
    // What was cached counts no more.
    store.revision.store(1, Ordering::Relaxed);
    store.may_end.store(0, Ordering::Relaxed);
    let names: Vec<_> = (0..WAITING_MAX + 2).map(|n| format!("name{n}")).collect();
    let mut guesses: Vec<_> =
        names.iter().map(|name| Box::pin(passwords.check(name, "x", source(1), NOW))).collect();
    assert!(guesses.iter_mut().all(|guess| poll(guess.as_mut()).is_pending()), "the queue is full");
    let mut alice = pin!(passwords.check("alice", "ecila", source(1), NOW));
    let mut bob = pin!(passwords.check(r"CONTOSO\bob", r"bob\OSOTNOC", source(1), NOW));
    let mut carol = pin!(passwords.check("carol", "lorac", source(1), NOW));
    assert!(poll(alice.as_mut()).is_pending() && poll(bob.as_mut()).is_pending());
    assert!(matches!(poll(carol.as_mut()), Poll::Ready(Err(Reason::TooManyPasswords(_)))), "never seen here");
    // Two of the flood are checked. After them each holder has a turn.
    let mut elsewhere = pin!(passwords.check("alice", "other", source(2), NOW));
    assert!(poll(elsewhere.as_mut()).is_pending());
    store.may_end.store(3, Ordering::Relaxed);
    for guess in guesses.iter_mut().take(3) {
        assert!(poll(guess.as_mut()).is_ready());
    }
    store.may_end.store(usize::MAX, Ordering::Relaxed);
    assert!(poll(alice.as_mut()).is_ready() && poll(bob.as_mut()).is_ready());
}
