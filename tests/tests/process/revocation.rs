//! Revocation as operators meet it: lists in files and behind URLs, and OCSP, all of them OpenSSL's.

use dtyp::FileTime;
use rcmp_service::certificate::Certificate;
use rcmpd_tests::openssl::Authority;
use rcmpd_tests::ports::free_port;
use rcmpd_tests::{Demo, Finished, Service, eventually};
use rustix::process::Signal;
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

/// A demo that asks for revocation by what these lines say.
fn demo(lines: &str) -> Demo {
    let demo = Demo::new();
    configure(&demo, lines);
    demo
}

fn configure(demo: &Demo, lines: &str) {
    demo.edit(|text| {
        let new = text.replace(
            "validation = \"chain\"",
            &format!("validation = \"chain+crl\"\ncrl_refresh_s = 1\n{lines}\n"),
        );
        assert_ne!(new, text);
        new
    });
}

#[track_caller]
fn eventually_maps(service: &Service, who: &str, code: i32) {
    eventually(&format!("{who} gets {code}\n{}", service.log()), || service.map(who).code == code);
}

fn explain(demo: &Demo, who: &str) -> Finished {
    demo.rcmpd(&["explain", &demo.certificate(who), "-c", "rcmpd.toml"])
}

/// The value of the one metric with labels.
fn metric(service: &Service, name: &str, labels: &str) -> u64 {
    let (_, body) = service.get("/metrics");
    let mut lines = body.lines().filter(|line| {
        line.strip_prefix(name).is_some_and(|rest| rest.starts_with('{') && rest.contains(labels))
    });
    let line = lines.next().unwrap_or_else(|| panic!("no {name} with {labels} in\n{body}"));
    assert_eq!(lines.next(), None);
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

fn now() -> i64 {
    FileTime::from(SystemTime::now()).to_unix()
}

/// A time so many seconds from now, as openssl and GeneralizedTime write it.
fn seconds_from_now(seconds: i64) -> String {
    FileTime::from_unix(now() + seconds).to_string().replace(['-', ':', 'T'], "")
}

/// How often the log says something.
fn said(service: &Service, text: &str) -> usize {
    service.log().matches(text).count()
}

#[test]
fn a_revoked_certificate_is_refused_when_the_list_is_replaced() {
    let demo = demo("crls = [\"ca.crl\"]");
    let authority = Authority::of(&demo);
    authority.list(&demo.path("ca.crl"), &[]);
    let service = demo.serve();
    service.map("alice").code(0);
    let day = 86_400;
    let next_update = metric(&service, "rcmpd_crl_next_update_seconds", "/ca.crl\",issuer=\"O=Contoso");
    assert!((now() as u64 + 29 * day..now() as u64 + 31 * day).contains(&next_update), "{next_update}");
    assert_eq!(metric(&service, "rcmpd_crl_entries", "ca.crl"), 0);

    authority.revoke(&service.certificate("alice"), "keyCompromise");
    authority.list(&service.path("ca.crl"), &[]);
    eventually_maps(&service, "alice", 3);
    service.map("bob").code(0);
    assert_eq!(metric(&service, "rcmpd_crl_entries", "ca.crl"), 1);
    assert!(metric(&service, "rcmpd_decisions_total", "\"revoked\"") > 0);
    assert_eq!(service.metric("rcmpd_crl_refresh_failures_total"), 0);
    let why = explain(&service, "alice").code(3).stdout;
    let year = &seconds_from_now(0)[..4];
    assert!(why.contains(&format!("the certificate is revoked since {year}-")), "{why}");
    assert!(why.contains("(keyCompromise)"), "{why}");
}

#[test]
fn an_expired_list_decides_nothing_until_there_is_a_new_one() {
    let demo = demo("crls = [\"ca.crl\"]");
    let authority = Authority::of(&demo);
    let (from, to) = (seconds_from_now(-7200), seconds_from_now(-3600));
    authority.list(&demo.path("ca.crl"), &["-crl_lastupdate", &from, "-crl_nextupdate", &to]);
    let done = demo.rcmpd(&["check-config", "-c", "rcmpd.toml"]).code(0);
    assert!(done.stderr.contains("warning: ") && done.stderr.contains("ca.crl"), "{done:?}");
    let done = demo.rcmpd(&["check-config", "-c", "rcmpd.toml", "--json"]).code(0).json();
    assert!(done["warnings"][0].as_str().unwrap().contains("the CRL expired at"), "{done}");
    let done = explain(&demo, "alice").code(7);
    assert!(done.stderr.contains("the CRL expired at"), "{done:?}");

    let mut service = demo.serve();
    service.wait_for_log("CRL is not usable now");
    let done = service.map("alice").code(7);
    assert!(done.stderr.contains("could not decide: STATUS_DS_BUSY"), "{done:?}");
    assert_eq!(metric(&service, "rcmpd_crl_next_update_seconds", "ca.crl"), 0);
    let (code, text) = service.get("/ready?verbose");
    assert!(code == 503 && text.contains("\ncrls: no CRL is valid"), "{text}");
    assert!(
        text.ends_with("not ready: no CRL is valid, so no certificate can be decided, see the log\n"),
        "{text}"
    );
    // It ends soon, which is told, and then it has ended, which is told, too.
    let (from, to) = (seconds_from_now(-3600), seconds_from_now(10));
    authority.list(&service.path("ca.crl"), &["-crl_lastupdate", &from, "-crl_nextupdate", &to]);
    eventually_maps(&service, "alice", 0);
    assert_eq!(service.get("/ready").0, 200);
    service.wait_for_log("CRL expires soon");
    service.wait_for_log("CRL has expired");
    service.map("alice").code(7);
    assert_eq!(service.get("/ready").0, 503);
    // As does one that is all right.
    authority.list(&service.path("ca.crl"), &[]);
    eventually_maps(&service, "alice", 0);
    assert_eq!(said(&service, "expires soon"), 1);
    assert_eq!(said(&service, "CRL has expired"), 1);
}

#[test]
fn what_is_no_whole_list_of_ours_stops_the_start() {
    let demo = demo("crls = [\"ca.crl\"]");
    let path = demo.path("ca.crl");
    let authority = Authority::of(&demo);
    let refused = |reason: &str| {
        for command in ["check-config", "serve"] {
            let done = demo.rcmpd(&[command, "-c", "rcmpd.toml"]).code(1);
            assert!(done.stderr.contains(reason) && done.stderr.contains("ca.crl"), "{reason}: {done:?}");
        }
    };
    refused("cannot be read: No such file");
    for (kind, reason) in [
        ("indirect", "indirect CRLs are not accepted"),
        ("some_reasons", "for some reasons only are not accepted"),
        ("unknown_critical", "a critical extension that is not known"),
    ] {
        authority.list(&path, &["-crlexts", kind]);
        refused(reason);
    }
    Authority::root(&demo, "twin", "/O=Contoso/CN=Contoso Demo CA").list(&path, &[]);
    refused("the signature is not that of the configured CA");
    Authority::root(&demo, "other", "/CN=Somebody else").list(&path, &[]);
    refused("no configured CA has the name of the CRL's issuer");
    let later = (seconds_from_now(3600), seconds_from_now(7200));
    authority.list(&path, &["-crl_lastupdate", &later.0, "-crl_nextupdate", &later.1]);
    let done = demo.rcmpd(&["check-config", "-c", "rcmpd.toml"]).code(0);
    assert!(done.stderr.contains("warning: ") && done.stderr.contains("is not yet valid"), "{done:?}");
    authority.list(&path, &[]);
    let pem = fs::read_to_string(&path).unwrap();
    fs::write(&path, format!("{pem}{pem}")).unwrap();
    refused("there is more than one CRL in it");
    fs::write(&path, &pem[..pem.len() / 2]).unwrap();
    refused("is cut off");
    fs::write(&path, "").unwrap();
    refused("there is no CRL in it");
    fs::write(&path, [0x30, 0x03, 0x02, 0x01]).unwrap();
    refused("the CRL cannot be read");

    // While it is served the same is only a warning: the list before stays, over reloads, too.
    fs::write(&path, pem).unwrap();
    let mut service = demo.serve();
    authority.list(&path, &["-crlexts", "indirect"]);
    service.wait_for_log("indirect CRLs are not accepted");
    service.map("alice").code(0);
    fs::remove_file(&path).unwrap();
    service.wait_for_log("cannot be read: No such file");
    service.signal(Signal::HUP);
    service.wait_for_log("Reloaded");
    service.map("alice").code(0);
    assert!(service.metric("rcmpd_crl_refresh_failures_total") >= 2);
}

/// A server that answers every connection the same way, and counts them.
struct Host {
    address: SocketAddr,
    count: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
}

impl Host {
    fn new(serve: impl FnMut(TcpStream) + Send + 'static) -> Self {
        Self::at(([127, 0, 0, 1], 0).into(), serve)
    }

    fn at(address: SocketAddr, mut serve: impl FnMut(TcpStream) + Send + 'static) -> Self {
        let listener = TcpListener::bind(address).unwrap();
        let address = listener.local_addr().unwrap();
        let (count, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (counted, stopped) = (Arc::clone(&count), Arc::clone(&stop));
        std::thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                if stopped.load(Ordering::SeqCst) {
                    return;
                }
                counted.fetch_add(1, Ordering::SeqCst);
                serve(stream);
            }
        });
        Self { address, count, stop }
    }

    /// Answers with what is in `answer` at the time.
    fn answering(address: SocketAddr, answer: &Arc<Mutex<Vec<u8>>>) -> Self {
        let answer = Arc::clone(answer);
        Self::at(address, move |mut stream| {
            // The request of one packet.
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(&answer.lock().unwrap());
        })
    }

    fn count(&self) -> u64 {
        self.count.load(Ordering::SeqCst)
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
    }
}

fn ok(body: Vec<u8>) -> Vec<u8> {
    [format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len()).into_bytes(), body].concat()
}

/// It may be a delta list that revokes the certificate (RFC 5280 5.2.4).
#[test]
fn a_list_that_was_never_had_leaves_undecided_what_another_list_says() {
    // A host takes connections and says nothing at first; the start does not wait for it.
    let (held, answer) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Mutex::new(None::<Vec<u8>>)));
    let (hold, say) = (Arc::clone(&held), Arc::clone(&answer));
    let host = Host::new(move |mut stream| match &*say.lock().unwrap() {
        None => hold.lock().unwrap().push(stream),
        Some(answer) => {
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(answer);
        }
    });
    let demo = demo(&format!("crls = [\"ca.crl\", \"http://{}/delta.crl\"]", host.address));
    let authority = Authority::of(&demo);
    authority.list(&demo.path("ca.crl"), &[]);
    let list = ok(fs::read(demo.path("ca.crl")).unwrap());
    let service = demo.serve();
    service.map("alice").code(7);
    eventually("it is asked", || host.count() > 0);
    *answer.lock().unwrap() = Some(list);
    held.lock().unwrap().clear();
    eventually_maps(&service, "alice", 0);
}

#[test]
fn a_list_behind_a_url_is_fetched_and_missed_and_fetched_again() {
    let free = free_port();
    let demo = demo(&format!("crls = [\"http://{free}/ca.crl\"]"));
    let authority = Authority::of(&demo);
    let list = |options: &[&str]| {
        authority.list(&demo.path("ca.crl"), options);
        ok(fs::read(demo.path("ca.crl")).unwrap())
    };
    let mut answers = vec![list(&[])];
    authority.revoke(&demo.certificate("alice"), "superseded");
    answers.push(list(&[]));
    demo.rcmpd(&["check-config", "-c", "rcmpd.toml"]).code(0);

    let mut service = demo.serve();
    service.map("alice").code(7);
    service.wait_for_log("CRL unavailable or rejected: certificates that need it are undecided");
    let answer = Arc::new(Mutex::new(answers[0].clone()));
    let host = Host::answering(free, &answer);
    eventually_maps(&service, "alice", 0);
    // It is gone: what it said last counts.
    drop(host);
    let failures = service.metric("rcmpd_crl_refresh_failures_total");
    eventually("it is missed", || service.metric("rcmpd_crl_refresh_failures_total") > failures);
    service.map("alice").code(0);
    // It sends us elsewhere, or sends too much, or what is no CRL. No redirect is followed, and the last good
    // CRL counts.
    let elsewhere = Host::new(drop);
    let moved = format!(
        "HTTP/1.1 301 Moved Permanently\r\nLocation: http://{}/ca.crl\r\nContent-Length: 0\r\n\r\n",
        elsewhere.address
    );
    *answer.lock().unwrap() = moved.into_bytes();
    let _host = Host::answering(free, &answer);
    service.wait_for_log("the answer is 301 Moved Permanently");
    *answer.lock().unwrap() = b"HTTP/1.1 200 OK\r\nContent-Length: 268435457\r\n\r\n".to_vec();
    service.wait_for_log("the answer is longer than 268435456 bytes");
    *answer.lock().unwrap() = ok(b"<html>Please log in</html>".to_vec());
    service.wait_for_log("there is no CRL in it");
    service.map("alice").code(0);
    assert_eq!(elsewhere.count(), 0);
    // It is back, with a newer one.
    *answer.lock().unwrap() = answers[1].clone();
    eventually_maps(&service, "alice", 3);
    // And never again with an older one.
    *answer.lock().unwrap() = answers[0].clone();
    service.wait_for_log("a newer CRL is known");
    service.map("alice").code(3);
    service.signal(Signal::HUP);
    service.wait_for_log("Reloaded");
    service.map("alice").code(3);
}

/// A responder behind a proxy that counts, and that can close connections.
struct Counted {
    host: Host,
    there: Arc<AtomicBool>,
}

impl Counted {
    fn new(responder: SocketAddr) -> Self {
        let there = Arc::new(AtomicBool::new(true));
        let is_there = Arc::clone(&there);
        let host = Host::new(move |mut stream| {
            if !is_there.load(Ordering::SeqCst) {
                return;
            }
            let mut upstream = TcpStream::connect(responder).unwrap();
            let (mut question, mut asked) = (stream.try_clone().unwrap(), upstream.try_clone().unwrap());
            std::thread::spawn(move || std::io::copy(&mut question, &mut asked));
            let _ = std::io::copy(&mut upstream, &mut stream);
            let _ = stream.shutdown(std::net::Shutdown::Both);
        });
        Self { host, there }
    }
}

#[test]
fn a_responder_is_asked_once_and_its_silence_is_no_denial() {
    let demo = demo("");
    let authority = Authority::of(&demo);
    authority.know(&demo.certificate("alice"));
    authority.revoke(&demo.certificate("bob"), "affiliationChanged");
    let responder = authority.respond();
    let counted = Counted::new(responder.address);
    demo.edit(|text| {
        format!(
            "{text}\n[[mapping.authority]]\ncertificate = \"certs/ca.pem\"\nocsp = \"http://{}/\"\n",
            counted.host.address
        )
    });
    let mut service = demo.serve();
    for _ in 0..3 {
        service.map("alice").code(0);
    }
    assert_eq!(counted.host.count(), 1, "an answer is remembered");
    service.map("bob").code(3);
    assert_eq!(counted.host.count(), 2);
    let why = explain(&service, "bob").code(3).stdout;
    assert!(why.contains("is revoked since") && why.contains("(affiliationChanged)"), "{why}");
    let done = service.map("web01").code(7);
    assert!(done.stderr.contains("could not decide: STATUS_DS_BUSY"), "{done:?}");
    let why = explain(&service, "web01").code(7).stdout;
    assert!(why.contains("OCSP responder does not know it"), "{why}");
    for (outcome, count) in [("good", 1), ("revoked", 1), ("unknown", 1), ("failed", 0)] {
        assert_eq!(metric(&service, "rcmpd_ocsp_questions_total", outcome), count, "{outcome}");
    }

    // The responder learns of it, and we do when we ask the next time: at a reload, or when its answer is
    // old.
    authority.revoke(&service.certificate("alice"), "keyCompromise");
    let alice = service.certificate("alice");
    eventually("the responder knows", || authority.ask(&responder, &alice).contains("revoked"));
    service.map("alice").code(0);
    service.signal(Signal::HUP);
    service.wait_for_log("Reloaded");
    service.map("alice").code(3);

    // Who hangs up has not said no.
    counted.there.store(false, Ordering::SeqCst);
    service.signal(Signal::HUP);
    service.wait_for_log("policy_revision=3");
    let done = service.map("alice").code(7);
    assert!(done.stderr.contains("could not decide: STATUS_DS_BUSY"), "{done:?}");
    assert!(metric(&service, "rcmpd_ocsp_questions_total", "failed") > 0);
    service.wait_for_log("OCSP responder unreachable");
    counted.there.store(true, Ordering::SeqCst);
    eventually_maps(&service, "alice", 3);
    service.wait_for_log("OCSP responder is reachable again");
}

/// The octets of the nonce in an OCSPRequest, by its encoding: id-pkix-ocsp-nonce, and two OCTET STRINGs.
fn nonce_len(request: &[u8]) -> Option<u8> {
    const ID: &[u8] = &[0x06, 0x09, 0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x30, 0x01, 0x02];
    let at = request.windows(ID.len()).position(|bytes| bytes == ID)? + ID.len();
    Some(request[at + 3])
}

/// Whether a request names its certificate by SHA-256 (id-sha256).
fn is_by_sha256(request: &[u8]) -> bool {
    const ID: &[u8] = &[0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x01];
    request.windows(ID.len()).any(|bytes| bytes == ID)
}

/// A responder before RFC 9654 in front of OpenSSL's: what `refuses` gets an OCSPResponse with this
/// responseStatus alone.
fn old_responder(openssl: SocketAddr, status: u8, refuses: fn(&[u8]) -> bool) -> Host {
    Host::new(move |mut stream| {
        let mut request = Vec::new();
        let len = |request: &[u8]| {
            let text = String::from_utf8_lossy(request).to_lowercase();
            let header = text.find("\r\n\r\n")? + 4;
            let len = text.split("content-length:").nth(1)?.lines().next()?.trim().parse::<usize>().ok()?;
            Some(header + len)
        };
        while len(&request).is_none_or(|len| request.len() < len) {
            let mut part = [0; 4096];
            match stream.read(&mut part) {
                Ok(len @ 1..) => request.extend(&part[..len]),
                _ => return,
            }
        }
        if refuses(&request) {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n");
            let _ = stream.write_all(&[0x30, 0x03, 0x0a, 0x01, status]);
            return;
        }
        let mut upstream = TcpStream::connect(openssl).unwrap();
        upstream.write_all(&request).unwrap();
        let _ = std::io::copy(&mut upstream, &mut stream);
    })
}

#[test]
fn a_responder_that_refuses_is_asked_in_other_ways_and_told() {
    let demo = demo("");
    let authority = Authority::of(&demo);
    authority.know(&demo.certificate("alice"));
    let openssl = authority.respond();
    let text = fs::read_to_string(demo.path("rcmpd.toml")).unwrap();
    let ask = |host: &Host, keys: &str| {
        let entry = "[[mapping.authority]]\ncertificate = \"certs/ca.pem\"";
        let ocsp = format!("{entry}\nocsp = \"http://{}/\"\n{keys}", host.address);
        fs::write(demo.path("rcmpd.toml"), format!("{text}\n{ocsp}\n")).unwrap();
        explain(&demo, "alice")
    };
    // Each is a sibling of a responder in the field: no nonce of more than 16 octets, none at all, no SHA-1.
    for (status, refuses, count, keys) in [
        (1, (|request| nonce_len(request).is_some_and(|len| len > 16)) as fn(&[u8]) -> bool, 2, ""),
        (1, |request| nonce_len(request).is_some_and(|len| len > 16), 1, "ocsp_nonce = 16"),
        (2, |request| nonce_len(request).is_some(), 3, ""),
        (2, |request| nonce_len(request).is_some(), 1, "ocsp_nonce = 0"),
        (6, |request| !is_by_sha256(request), 2, ""),
        (6, |request| !is_by_sha256(request), 1, "ocsp_hash = \"sha256\""),
        (1, |request| nonce_len(request).is_some_and(|len| len > 16), 2, "ocsp_nonce_required = true"),
    ] {
        let host = old_responder(openssl.address, status, refuses);
        let done = ask(&host, keys).code(0);
        assert_eq!(host.count(), count, "{keys} {done:?}");
    }
    // What it says when nothing helps is told as it is.
    for (status, refuses, count, keys, why) in [
        (6, (|_| true) as fn(&[u8]) -> bool, 2, "", "the OCSP responder refuses with unauthorized"),
        (3, |_| true, 1, "", "the OCSP responder refuses with tryLater"),
        (
            1,
            |request| nonce_len(request).is_some(),
            3,
            "ocsp_nonce_required = true",
            "refuses with malformedRequest",
        ),
    ] {
        let host = old_responder(openssl.address, status, refuses);
        let done = ask(&host, keys).code(7);
        assert!(
            done.stdout.contains("the answer of its issuer's OCSP responder is not accepted"),
            "{done:?}"
        );
        assert!(done.stdout.contains(why), "{done:?}");
        assert_eq!(host.count(), count, "{keys}");
    }
    let gone = Host::new(drop);
    let done = ask(&gone, "").code(7);
    assert!(done.stdout.contains("OCSP responder has not answered: the answer is broken"), "{done:?}");
}

#[test]
fn no_url_of_a_certificate_is_ever_asked() {
    let named = Host::new(drop);
    let demo = demo("crls = [\"ca.crl\"]");
    let authority = Authority::of(&demo);
    authority.list(&demo.path("ca.crl"), &[]);
    let url = format!("http://{}", named.address);
    let extensions = format!(
        "authorityInfoAccess = OCSP;URI:{url}/ocsp,caIssuers;URI:{url}/ca.cer\ncrlDistributionPoints = URI:{url}/ca.crl\n\
         freshestCRL = URI:{url}/delta.crl"
    );
    authority.issue(&demo, "pointing", &extensions);
    let service = demo.serve();
    let done = service.map("pointing").code(0);
    assert_eq!(done.json()["account"], "alice");
    explain(&service, "pointing").code(0);
    // Nor when nothing else could tell.
    fs::remove_file(service.path("ca.crl")).unwrap();
    let (from, to) = (seconds_from_now(-7200), seconds_from_now(-3600));
    authority.list(&service.path("ca.crl"), &["-crl_lastupdate", &from, "-crl_nextupdate", &to]);
    explain(&service, "pointing").code(7);
    assert_eq!(named.count(), 0);
}

#[test]
fn a_revoked_intermediate_takes_everybody_below_with_it() {
    let demo = demo("intermediates = [\"below/ca.pem\"]\ncrls = [\"root.crl\", \"below.crl\"]");
    demo.edit(|text| text.replace("[\"certs/ca.pem\"]", "[\"root/ca.pem\"]"));
    let root = Authority::root(&demo, "root", "/O=Contoso/CN=Root");
    let below = root.below(&demo, "below", "/O=Contoso/CN=Issuing");
    below.issue(&demo, "one", "");
    below.issue(&demo, "two", "");
    root.list(&demo.path("root.crl"), &[]);
    below.list(&demo.path("below.crl"), &[]);
    let service = demo.serve();
    service.map("one").code(0);
    service.map("two").code(0);
    root.revoke(&below.certificate(), "CACompromise");
    root.list(&service.path("root.crl"), &[]);
    eventually_maps(&service, "one", 3);
    service.map("two").code(3);
    let why = explain(&service, "two").code(3).stdout;
    assert!(why.contains("the intermediate with key") && why.contains("(cACompromise)"), "{why}");
}

/// A list by a key for lists counts when the CA above certified the key, and not when another CA below the
/// same anchor did.
#[test]
fn a_list_by_a_separate_key_counts_and_that_of_an_impostor_does_not() {
    let demo = demo("intermediates = [\"cas.pem\"]\ncrls = [\"root.crl\", \"lists.crl\"]");
    demo.edit(|text| text.replace("[\"certs/ca.pem\"]", "[\"root/ca.pem\"]"));
    let root = Authority::root(&demo, "root", "/O=Contoso/CN=Root");
    let issuing = root.below(&demo, "issuing", "/O=Contoso/CN=Issuing");
    let sibling = root.below(&demo, "sibling", "/O=Contoso/CN=Sibling");
    let signer = root.list_signer(&demo, "lists", "/O=Contoso/CN=Issuing");
    let impostor = sibling.list_signer(&demo, "impostor", "/O=Contoso/CN=Issuing");
    let pem =
        [&issuing, &sibling, &signer, &impostor].map(|it| fs::read_to_string(it.certificate()).unwrap());
    fs::write(demo.path("cas.pem"), pem.concat()).unwrap();
    issuing.issue(&demo, "one", "");
    issuing.issue(&demo, "two", "");
    root.list(&demo.path("root.crl"), &[]);
    // The impostor says that nothing is revoked; it is a key under the same anchor, and under the name of the
    // CA.
    impostor.list(&demo.path("lists.crl"), &[]);
    let why = explain(&demo, "two").code(7).stdout;
    assert!(why.contains("is signed by another key than the certificate"), "{why}");
    signer.revoke(&demo.certificate("two"), "keyCompromise");
    signer.list(&demo.path("lists.crl"), &[]);
    let mut service = demo.serve();
    service.map("one").code(0);
    service.map("two").code(3);
    // A list of the impostor does not take its place, nor make it say less.
    impostor.list(&service.path("lists.crl"), &[]);
    service.wait_for_log("of another CA or scope");
    service.map("one").code(0);
    service.map("two").code(3);
    // Once its own certificate is revoked, it says nothing any more.
    root.revoke(&signer.certificate(), "keyCompromise");
    root.list(&service.path("root.crl"), &[]);
    eventually_maps(&service, "one", 7);
    let done = service.rcmpd(&["check-config", "-c", "rcmpd.toml"]);
    assert_eq!(done.code, 0, "{done:?}");
}

/// One element of DER.
fn der(tag: u8, contents: &[&[u8]]) -> Vec<u8> {
    let len: usize = contents.iter().map(|part| part.len()).sum();
    let octets = len.to_be_bytes();
    let octets = &octets[octets.iter().take_while(|octet| **octet == 0).count()..];
    let mut element = vec![tag];
    match len {
        0..=0x7f => element.push(len as u8),
        _ => element.extend([&[0x80 | octets.len() as u8], octets].concat()),
    }
    contents.iter().for_each(|part| element.extend_from_slice(part));
    element
}

/// A list with so many entries, and alice, in about 35 bytes each.
fn large_list(demo: &Demo, authority: &Authority, entries: u32, number: u8, this_update: &str) -> Vec<u8> {
    let alice = trust_tokio::certificates::read_file(Path::new(&demo.certificate("alice"))).unwrap();
    let alice = Certificate::parse(&alice[0]).unwrap();
    let ca = trust_tokio::certificates::read_file(Path::new(&authority.certificate())).unwrap();
    let ca = Certificate::parse(&ca[0]).unwrap();
    let mut revoked = Vec::new();
    for number in 0..entries {
        let serial = [&[0x40; 12][..], &number.to_be_bytes()].concat();
        revoked.extend(der(0x30, &[&der(0x02, &[&serial]), &der(0x17, &[b"260101000000Z"])]));
    }
    revoked.extend(der(0x30, &[&der(0x02, &[alice.serial]), &der(0x17, &[b"260101000000Z"])]));
    // ecdsa-with-SHA256, 1.2.840.10045.4.3.2; cRLNumber, 2.5.29.20.
    let algorithm = der(0x30, &[&[0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02]]);
    let number = der(0x30, &[&[0x06, 0x03, 0x55, 0x1d, 0x14], &der(0x04, &[&der(0x02, &[&[number]])])]);
    let tbs = der(
        0x30,
        &[
            &[0x02, 0x01, 0x01],
            &algorithm,
            ca.subject,
            &der(0x18, &[this_update.as_bytes()]),
            &der(0x18, &[seconds_from_now(86_400).as_bytes()]),
            &der(0x30, &[&revoked]),
            &der(0xa0, &[&der(0x30, &[&number])]),
        ],
    );
    let signature = authority.sign(&tbs);
    der(0x30, &[&tbs, &algorithm, &der(0x03, &[&[0], &signature])])
}

#[test]
fn a_reload_parses_no_list_again_and_forgets_no_age() {
    let demo = demo("crls = [\"ca.crl\"]");
    let authority = Authority::of(&demo);
    let list = large_list(&demo, &authority, 600_000, 7, &seconds_from_now(-60));
    assert!(list.len() > 20_000_000);
    fs::write(demo.path("ca.crl"), &list).unwrap();
    // The shadow has the same list, and it is one.
    demo.edit(|text| format!("{text}\n[mapping.shadow]\nbinding = \"compat\"\n"));
    let mut service = demo.serve();
    service.map("bob").code(0);
    service.map("alice").code(3);
    assert_eq!(metric(&service, "rcmpd_crl_entries", "ca.crl"), 600_001);
    assert_eq!(said(&service, "CRL kept from the previous configuration"), 1);
    service.signal(Signal::HUP);
    service.wait_for_log("policy_revision=2");
    assert_eq!(
        said(&service, "CRL kept from the previous configuration"),
        3,
        "that of the live policy, and that of the shadow"
    );
    assert_eq!(said(&service, "CRL loaded"), 1);
    service.map("alice").code(3);

    // An older one is refused after the reload as before, when it is found and when there is another reload;
    // and the same bytes in another file are no other list.
    let older = large_list(&service, &authority, 0, 6, &seconds_from_now(-7200));
    let replace = |bytes: &[u8]| {
        fs::write(service.path("new.crl"), bytes).unwrap();
        fs::rename(service.path("new.crl"), service.path("ca.crl")).unwrap();
    };
    replace(&older);
    eventually("it is refused", || said(&service, "a newer CRL is known") > 0);
    replace(&list);
    eventually("it is there again", || said(&service, "CRL is available again") > 0);
    replace(&older);
    service.signal(Signal::HUP);
    service.wait_for_log("policy_revision=3");
    assert!(service.log().contains("CRL is not usable now"));
    service.map("alice").code(3);
    assert_eq!(metric(&service, "rcmpd_crl_entries", "ca.crl"), 600_001);
    assert_eq!(said(&service, "CRL loaded"), 1);
}
