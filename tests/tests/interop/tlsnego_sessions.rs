//! How sessions in the memory of one gateway end and go on, as a client sees it that shares no code with it.

use crate::tlsnego_cookie::{BAD_SECURITY, Client, url};
use rcmpd_tests::soap::{Echo, Endpoint, Upstream, echoed};
use rcmpd_tests::{Demo, Finished, Service, eventually};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// The sessions that the gateway lists.
fn listed(service: &Service) -> Vec<Value> {
    let listed: Finished = service.rcmpd(&["tlsnego", "session", "list", "-c", "rcmpd.toml", "--json"]);
    listed.code(0).json().as_array().expect("a list").clone()
}

/// A demo whose admin port is known before it is served, so that commands find it.
fn with_admin(echo: &Echo, settings: &str) -> Demo {
    let demo = Demo::with_gateway(echo.address, settings);
    let admin = rcmpd_tests::ports::free_port().to_string();
    demo.edit(|text| {
        let (before, after) = text.split_once("[admin]").expect("there is an admin port");
        format!("{before}[admin]{}", after.replacen("127.0.0.1:0", &admin, 1))
    });
    demo
}

#[test]
fn session_that_an_observer_ends_is_counted_and_our_client_opens_another_one() {
    let echo = Echo::start();
    let service = with_admin(&echo, "").serve();
    let alice = Endpoint::start(&service, "alice");
    assert_eq!(alice.call(), "200");
    let [of_alice] = &listed(&service)[..] else { panic!("{:?}", listed(&service)) };
    let seen = of_alice["name"].as_str().expect("a name");
    // The observer has a key of its own, and has read the Identifier.
    let mut observer = Client::start(&service, json!({}));
    for _ in 0..3 {
        let bad = observer.ask(json!({ "do": "call", "url": url(&service), "identifier": seen }));
        assert_eq!(bad["error"], BAD_SECURITY, "{}", service.log());
    }
    let failures = "rcmpd_tlsnego_sessions_ended_total{reason=\"failures\"}";
    // From now on each message gets a fault under the key of the session, which the observer does not have.
    let ended = observer.ask(json!({ "do": "call", "url": url(&service), "identifier": seen }));
    assert_eq!(ended["error"], "status 500");
    assert!(service.log().contains("reason=\"ended\""), "{}", service.log());
    // Within five seconds.
    eventually("the end is counted", || service.metric(failures) == 1);
    assert_eq!(alice.call(), "200");
    let ended = service.audit("session_ended");
    assert!(ended.iter().any(|line| line["reason"] == "failures" && line["name"] == seen), "{ended:?}");
    assert!(listed(&service).iter().all(|session| session["name"] != seen));
    assert_eq!(service.metric(failures), 1, "the session of the observer goes on");
}

#[test]
fn token_of_before_a_restart_is_unknown() {
    let echo = Echo::start();
    let mut service = with_admin(&echo, "").serve();
    let mut client = Client::start(&service, json!({}));
    client.calls(&service);
    service.signal(Signal::TERM);
    assert_eq!(service.ended(), 0);
    service.start_again();
    client.is_refused(&service);
    assert!(service.audit("session_ended").iter().all(|line| line["name"] != client.name()));
}

/// Of these seconds a key has three quarters.
const SESSION_S: u64 = 16;

#[test]
fn key_is_renewed_after_its_life_and_the_session_keeps_its_name() {
    let echo = Echo::start();
    let service = with_admin(&echo, &format!("session_s = {SESSION_S}")).serve();
    let begun = Instant::now();
    let alice = Endpoint::start(&service, "alice");
    let mut client = Client::start(&service, json!({}));
    let name = client.name();
    let due = loop {
        let called = client.ask(json!({ "do": "call", "url": url(&service) }));
        assert_eq!(alice.call(), "200");
        if !called["fields"].is_object() {
            break called;
        }
        assert_eq!(called["fields"]["X-Session-Name"], name);
        assert!(begun.elapsed() < Duration::from_secs(2 * SESSION_S), "no key is due");
        std::thread::sleep(Duration::from_millis(200));
    };
    // The fault is encrypted under the session, which this client does not look into.
    assert_eq!(due["error"], "status 500");
    assert!(service.log().contains("reason=\"renewal-due\""), "{}", service.log());
    assert!(begun.elapsed() > Duration::from_secs(SESSION_S * 3 / 4 - 1), "{:?}", begun.elapsed());
    let renewed = client.ask(json!({ "do": "renew", "url": url(&service) }));
    assert_eq!(renewed["name"], name, "{renewed}");
    let fields = client.calls(&service);
    assert_eq!(
        (&fields["X-Session-Name"], &fields["X-Session-Instance"]),
        (&json!(name), &renewed["instance"])
    );
    // Our own client renews, too, and is served all the time, also when the session has come to its end.
    let until = Duration::from_secs(SESSION_S + 2);
    while begun.elapsed() < until {
        assert_eq!(alice.call(), "200");
        std::thread::sleep(Duration::from_millis(200));
    }
    let renewed = service.audit("session_renewed");
    assert!(renewed.iter().filter(|line| line["name"] != name).count() >= 1, "{renewed:?}");
    client.is_refused(&service);
    eventually("the audit log names its end", || {
        service.audit("session_ended").iter().any(|line| line["name"] == name && line["reason"] == "expired")
    });
}

#[test]
fn text_and_attributes_reach_the_service_whole() {
    let upstream = Upstream::start(|_| echoed());
    let service = Demo::with_gateway(upstream.address, "").serve();
    let mut client = Client::start(&service, json!({}));
    for (sent, expected) in [
        // XML 1.0, 2.11: both octets are one line end. A character reference is none.
        ("a\r\nb", "a\nb"),
        ("a\rb", "a\nb"),
        ("a&#13;\nb", "a&#13;\nb"),
        ("a&amp;amp;&lt;b", "a&amp;amp;&lt;b"),
        ("a<![CDATA[<&]]>b", "a&lt;&amp;b"),
        ("good<!-- x -->bye", "goodbye"),
        ("<x a=\"1\" b='&quot;2'/>", "<x a=\"1\" b=\"&quot;2\"/>"),
        ("<x a=\"&#9;&#13;\"></x>", "<x a=\"&#x9;&#xD;\"/>"),
    ] {
        let body = |inside: &str| format!("<Echo xmlns=\"urn:echo\">{inside}</Echo>");
        let called = client.ask(json!({ "do": "call", "url": url(&service), "body": body(sent) }));
        assert_eq!(called["text"], "good", "{sent:?}: {called} {}", service.log());
        let asked = upstream.asked().pop().expect("the call");
        let (_, found) = asked.split_once("<s:Body").expect("a body");
        assert!(found.contains(&body(expected)), "{sent:?}: {found:?}");
    }
}
