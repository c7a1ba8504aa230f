//! A sidecar that asks two servers of `[client]`, one of which is killed or stopped under load.

use crate::sidecar::ask_about;
use rcmpd_tests::{Demo, Service, eventually};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

/// Threads that ask at once.
const ASKERS: usize = 16;
/// Answers before and after one of the servers goes.
const ANSWERS: usize = 400;

/// Two servers of one domain with the same accounts, and a sidecar that asks both.
fn two() -> (Service, Service, Service) {
    let demo = Demo::new();
    let copy = demo.copied();
    let (first, second) = (demo.serve(), copy.serve());
    let web = Demo::web(&first, "", "remember_s = 0");
    name_both(&web, &first, &second);
    (first, second, web.serve_bare())
}

/// Names both servers in `[client]`.
fn name_both(demo: &Demo, first: &Service, second: &Service) {
    let one = format!("server  = \"{}\"", first.netlogon);
    let both = format!("servers = [\"{}\", \"{}\"]", first.netlogon, second.netlogon);
    demo.edit(|text| {
        assert!(text.contains(&one), "{text}");
        text.replace(&one, &both)
    });
}

/// Ends the threads that ask, also if the test panics: the scope waits for them.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Asks without a pause while `go` takes one of the servers away, and returns how many requests were
/// answered, and those that were not answered by alice's account.
fn under_load(web: &Service, go: impl FnOnce()) -> (usize, Vec<u16>) {
    let (answered, ends) = (AtomicUsize::new(0), AtomicBool::new(false));
    let ask = || {
        let mut lost = Vec::new();
        while !ends.load(Ordering::Relaxed) {
            let answer = ask_about(web, "alice", &[]);
            match answer.status {
                200 if answer.header("remote-user") == "CONTOSO\\alice" => {}
                status => lost.push(status),
            }
            answered.fetch_add(1, Ordering::Relaxed);
        }
        lost
    };
    thread::scope(|scope| {
        let guard = Ends(&ends);
        let askers: Vec<_> = (0..ASKERS).map(|_| scope.spawn(ask)).collect();
        eventually("both serve", || answered.load(Ordering::Relaxed) >= ANSWERS);
        go();
        let before = answered.load(Ordering::Relaxed);
        eventually("one serves", || answered.load(Ordering::Relaxed) >= before + ANSWERS);
        drop(guard);
        let lost = askers.into_iter().flat_map(|asker| asker.join().expect("it asks")).collect();
        (answered.load(Ordering::Relaxed), lost)
    })
}

#[test]
fn no_request_is_lost_if_one_of_two_servers_is_killed() {
    let (mut first, second, web) = two();
    let (answered, lost) = under_load(&web, || first.kill());
    assert!(lost.is_empty(), "{} of {answered}: {lost:?}\n{}", lost.len(), web.log());
    assert!(second.log().contains("Secure channel established"), "{}", second.log());
}

#[test]
fn no_request_is_lost_if_one_of_two_servers_is_stopped() {
    let (first, second, web) = two();
    let (answered, lost) = under_load(&web, || first.pause());
    assert!(lost.is_empty(), "{} of {answered}: {lost:?}\n{}", lost.len(), web.log());
    assert!(second.log().contains("Secure channel established"), "{}", second.log());
    first.resume();
}

#[test]
fn map_asks_the_next_server_and_says_so() {
    let (mut first, second, _web) = two();
    let demo = first.copied();
    let both = format!("servers = [\"{}\", \"{}\"]", first.netlogon, second.netlogon);
    demo.edit(|text| {
        let (head, client) = text.split_once("[client]").expect("it has a client");
        let server = client.lines().find(|line| line.starts_with("server")).expect("it has a server");
        format!("{head}[client]{}", client.replacen(server, &both, 1))
    });
    let map =
        |who: &str, code| demo.rcmpd(&["map", &format!("certs/{who}.pem"), "-c", "rcmpd.toml"]).code(code);
    map("alice", 0);
    first.kill();
    let told = map("alice", 0);
    assert!(told.stderr.contains("the next server is asked"), "{told:?}");
    // A decision is one, whichever server makes it.
    map("mallory", 3);
    drop(second);
    map("alice", 4);
}
