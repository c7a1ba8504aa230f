//! Three domains, three processes: NORTHWIND asks FABRIKAM, which asks CONTOSO, whose user alice is.

use super::telemetry::{Collector, attribute};
use netlogon_transport::client::Association;
use opentelemetry_proto::tonic::trace::v1::Span;
use rcmp_service::message::PACKAGE_NAME;
use rcmpd_tests::client::Client;
use rcmpd_tests::peers::{Rotel, impacket, question, question_with};
use rcmpd_tests::ports::{free_port, free_port_of};
use rcmpd_tests::{Demo, Service, write_secret};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

const SUCCESS: &str = "0x00000000";
const NO_LOGON_SERVERS: &str = "0xC000005E";

/// The three, each served.
struct Chain {
    a: Service,
    b: Service,
    c: Service,
}

/// What the domains before C are told beside what every chain is.
#[derive(Default)]
struct Told<'a> {
    /// Of [[peer]] FABRIKAM, at A.
    a: &'a str,
    /// Of [[peer]] CONTOSO, at B.
    b: &'a str,
    /// Beside, at each.
    forward: [&'a str; 3],
    environment: [&'a [(&'a str, &'a str)]; 3],
    /// What A and B take each other and C for.
    kind: Option<&'a str>,
    /// What is done to C before it is served.
    prepare: Option<&'a dyn Fn(&Demo)>,
}

fn chain(told: &Told<'_>) -> Chain {
    let kind = told.kind.unwrap_or("rcmpd");
    let c = Demo::new();
    c.edit(|text| text.replace("\"127.0.0.1:0\"]", "\"127.0.0.3:0\"]"));
    let b = Demo::domain("FABRIKAM", "FABDC1", "127.0.0.2", &c);
    let a = Demo::domain("NORTHWIND", "NORDC1", "127.0.0.1", &c);
    if let Some(prepare) = told.prepare {
        prepare(&c);
    }
    // What is asked of a domain is asked as its trust.
    write_secret(b.path("contoso.secret"), c.add_trust("FABRIKAM"));
    write_secret(a.path("fabrikam.secret"), b.add_trust("NORTHWIND"));

    c.configure(&format!("{}direction = \"inbound\"\nkind = \"{kind}\"\n{}", b.as_peer(), told.forward[2]));
    c.configure("[audit]\npath = \"audit.log\"");
    let c = c.serve_with(told.environment[2]);
    b.configure(&format!(
        "{}direction = \"outbound\"\nkind = \"{kind}\"\nservers = [\"{}\"]\nsecret = \"file:contoso.secret\"\n{}",
        c.as_peer(),
        c.netlogon,
        told.b
    ));
    b.configure(&format!(
        "{}direction = \"inbound\"\nkind = \"{kind}\"\ntransit = [\"CONTOSO\"]\n{}",
        a.as_peer(),
        told.forward[1]
    ));
    let b = b.serve_with(told.environment[1]);
    a.configure(&format!(
        "{}direction = \"outbound\"\nkind = \"{kind}\"\nservers = [\"{}\"]\nsecret = \"file:fabrikam.secret\"\n{}",
        b.as_peer(),
        b.netlogon,
        told.a
    ));
    a.configure(&format!("{}direction = \"outbound\"\nvia = \"FABRIKAM\"\n{}", c.as_peer(), told.forward[0]));
    let a = a.serve_with(told.environment[0]);
    Chain { a, b, c }
}

/// The RIDs of groups that [`join_groups`] makes.
const MANY_GROUPS: std::ops::Range<u32> = 10_000..15_000;

/// Puts alice into 5,000 groups: fifty of them, each of which is in 99 others.
fn join_groups(demo: &Demo) {
    let sid = demo.domain_sid();
    let sids = |rids: std::ops::Range<u32>| rids.map(|rid| format!("{sid}-{rid}")).collect::<Vec<_>>();
    demo.rcmpd(&["export", "before.jsonl", "-c", "rcmpd.toml"]).code(0);
    let before = fs::read_to_string(demo.path("before.jsonl")).unwrap();
    let mut lines = Vec::new();
    for rid in MANY_GROUPS {
        let above = if rid % 100 == 0 { sids(rid + 1..rid + 100) } else { Vec::new() };
        lines.push(json!({
            "type": "group",
            "name": format!("Group {rid}"),
            "sid": format!("{sid}-{rid}"),
            "scope": if rid % 2 == 0 { "global" } else { "universal" },
            "member_of": above
        }));
    }
    let alice = before.lines().find(|line| line.contains("\"name\":\"alice\"")).unwrap();
    let mut alice: Value = serde_json::from_str(alice).unwrap();
    alice["member_of"] =
        MANY_GROUPS.step_by(100).map(|rid| format!("{sid}-{rid}")).collect::<Vec<_>>().into();
    lines.push(alice);
    let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
    fs::write(demo.path("groups.jsonl"), text).unwrap();
    demo.rcmpd(&["import", "groups.jsonl", "--replace", "-c", "rcmpd.toml"]).code(0);
}

/// The SIDs of alice's groups.
fn many_groups(domain: &Demo) -> std::collections::BTreeSet<String> {
    let sid = domain.domain_sid();
    MANY_GROUPS.chain([513]).map(|rid| format!("{sid}-{rid}")).collect()
}

#[test]
fn five_thousand_groups_come_over_two_hops() {
    let chain = chain(&Told { prepare: Some(&join_groups), ..Told::default() });
    let answer = ask(&chain, "alice");
    assert_eq!(answer["status"], SUCCESS, "{}\n{}", chain.a.log(), chain.b.log());
    let logon = &answer["pac"]["logon"];
    let found: Vec<String> = serde_json::from_value(logon["groups"].clone()).unwrap();
    assert_eq!(found.len(), MANY_GROUPS.len() + 1);
    assert_eq!(found.into_iter().collect::<std::collections::BTreeSet<_>>(), many_groups(&chain.c));
}

#[test]
fn five_thousand_groups_reach_a_remote_sidecar_and_what_headers_do_not_hold_is_behind_a_reference() {
    let demo = Demo::new();
    join_groups(&demo);
    let service = demo.serve();
    let group = MANY_GROUPS.end - 1;
    let route =
        |rid| format!("remember_s = 60\n[[sidecar.route]]\nsids = [\"{}-{rid}\"]", service.domain_sid());
    let ask = |rid: u32| {
        let web = Demo::web(&service, "", &route(rid));
        write_secret(web.path("admin.token"), "a-token-of-the-tests");
        web.edit(|text| text.replace("[admin]", "[admin]\ntoken = \"file:admin.token\""));
        let web = web.serve_bare();
        let answer = crate::sidecar::ask_about(
            &web,
            "alice",
            &[("X-Original-Host", "app.example"), ("X-Original-URI", "/")],
        );
        (web, answer)
    };
    let (web, alice) = ask(group);
    assert_eq!(alice.status, 200, "{}", web.log());
    let headers: usize = alice.headers.iter().map(|(name, value)| name.len() + value.len()).sum();
    assert!(headers < 16 * 1024, "{headers}");
    let reference = alice.header("x-identity-reference");
    let (_, whole) =
        web.get_with(&format!("/identity/{reference}"), "Authorization: Bearer a-token-of-the-tests\r\n");
    for sid in many_groups(&service) {
        assert!(whole.contains(&format!("{sid}\"")), "{sid}: {}", whole.len());
    }
    let (_web, alice) = ask(MANY_GROUPS.end);
    assert_eq!(alice.status, 403, "this group is another one");
}

/// A lock on a store that lets no reader in: the bytes of the write-ahead log's index that stand for readers
/// and writers (SQLite's file format, section 4.5.2). It ends with this value.
struct Lock(Child);

impl Lock {
    fn take(service: &Service) -> Self {
        let script = "import fcntl, sys; f = open(sys.argv[1], 'r+b'); fcntl.lockf(f, fcntl.LOCK_EX, 8, 120); print(flush=True); sys.stdin.read()";
        let mut command = Command::new("python3");
        command.args(["-c", script]).arg(service.path("accounts.db-shm"));
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "\n", "the lock is taken");
        Self(child)
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

/// What A answers to Impacket about a certificate of C's.
fn ask(chain: &Chain, who: &str) -> Value {
    ask_with(chain, who, json!({}))
}

fn ask_with(chain: &Chain, who: &str, more: Value) -> Value {
    let mut asked = question_with(&chain.c, who, more);
    let domain = asked.as_object_mut().unwrap().remove("domain").unwrap_or("NORTHWIND".into());
    let done =
        impacket(&chain.a, json!({ "domain": "NORTHWIND", "questions": [with_domain(asked, domain)] }));
    assert_eq!(done["error"], Value::Null, "{done:#}\n{}\n{}", chain.a.log(), chain.b.log());
    done["answers"][0].clone()
}

fn with_domain(mut question: Value, domain: Value) -> Value {
    question["logon_domain"] = domain;
    question
}

fn last_decision(service: &Service) -> Value {
    service.audit("map").pop().unwrap()
}

#[test]
fn a_user_of_the_third_domain_is_known_by_its_name_at_the_first() {
    let chain = chain(&Told::default());
    let sid = format!("{}-1001", chain.c.domain_sid());
    for domain in ["NORTHWIND", "northwind.example", "", "CONTOSO", "contoso.example"] {
        let answer = ask_with(&chain, "alice", json!({ "domain": domain }));
        assert_eq!(answer["status"], SUCCESS, "{domain}: {answer:#}\n{}\n{}", chain.a.log(), chain.b.log());
        assert_eq!(answer["authoritative"], 1);
        assert_eq!(answer["response"]["domain"], "CONTOSO");
        let logon = &answer["pac"]["logon"];
        assert_eq!((&logon["user"], &logon["domain"]), (&json!("alice"), &json!("CONTOSO")));
        assert_eq!(logon["server"], "DC1");
        assert_eq!(logon["sid"], sid.as_str());
        // Its groups come with it, but for those that mean nothing outside its domain.
        let groups = logon["groups"].as_array().unwrap();
        for rid in [513, 1101, 1102] {
            let group = json!(format!("{}-{rid}", chain.c.domain_sid()));
            assert!(groups.contains(&group), "{groups:?}");
        }
        let local = json!(format!("{}-1103", chain.c.domain_sid()));
        assert!(!answer["pac"].to_string().contains(local.as_str().unwrap()));
    }
    let bob = ask(&chain, "bob");
    assert_eq!(bob["status"], "0xC000006D", "nothing in his certificate says whose he is: {bob:#}");
    let bob = ask_with(&chain, "bob", json!({ "domain": "CONTOSO" }));
    assert_eq!(bob["status"], SUCCESS, "{bob:#}");
    let mallory = ask(&chain, "mallory");
    assert_eq!((&mallory["status"], &mallory["authoritative"]), (&json!("0xC000006D"), &json!(1)));
    assert_eq!(ask_with(&chain, "alice", json!({ "domain": "ELSEWHERE" }))["status"], "0xC0000064");

    // Each writes down its part.
    let [a, b, c] = [&chain.a, &chain.b, &chain.c].map(last_decision);
    assert_eq!((&a["asker"], &a["reason"]), (&json!("WEB01$"), &json!("other_domain")));
    assert_eq!(
        (&b["reason"], &b["asker_domain"], &b["peer"]),
        (&json!("refused_elsewhere"), &json!("NORTHWIND"), &json!("CONTOSO"))
    );
    assert_eq!((&c["asker"], &c["reason"]), (&json!("FABRIKAM$"), &json!("no_match")));
    let forwarded = chain.a.audit("map").into_iter().find(|line| line["reason"] == "forwarded").unwrap();
    assert_eq!(forwarded["account"], "CONTOSO\\alice");
    assert_eq!(forwarded["account_sid"], sid.as_str());
    assert_eq!(forwarded["routed_by"], "upn_suffix");
    // One channel each for all of it, and the connections of one client are few.
    let channels = |service: &Service, domain: &str, server| {
        service.metric(&format!("rcmpd_peer_channels_total{{domain=\"{domain}\",server=\"{server}\"}}"))
    };
    assert_eq!(channels(&chain.a, "FABRIKAM", chain.b.netlogon), 1);
    assert_eq!(channels(&chain.b, "CONTOSO", chain.c.netlogon), 1);
}

#[test]
fn whatever_happens_to_the_last_server_no_user_is_let_in_and_it_recovers_by_itself() {
    let mut chain = chain(&Told { a: "timeout_s = 4", b: "timeout_s = 4", ..Told::default() });
    assert_eq!(ask(&chain, "alice")["status"], SUCCESS);

    let undecided_about = |chain: &Chain, who: &str, what: &str| {
        let begun = Instant::now();
        let answer = ask(chain, who);
        let took = begun.elapsed();
        assert_eq!(answer["status"], NO_LOGON_SERVERS, "{what}: {answer:#}");
        assert_eq!(answer["authoritative"], 0, "{what}");
        assert_eq!(answer["validation"], Value::Null, "{what}");
        // Starting Impacket takes its time, too.
        assert!(took < Duration::from_secs(8), "{what}: {took:?}");
        assert_eq!(last_decision(&chain.a)["reason"], "no_logon_servers", "{what}");
        let log = chain.a.log();
        let mut told =
            log.lines().filter(|line| line.contains("WARN") && line.contains("Question not decided"));
        assert!(
            told.any(|line| line.contains("reason=\"no_logon_servers\"") && line.contains("peer=")),
            "{what}: {log}"
        );
    };
    let undecided = |chain: &Chain, what: &str| undecided_about(chain, "alice", what);
    let recovers = |chain: &Chain, what: &str| {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let answer = ask(chain, "alice");
            if answer["status"] == SUCCESS {
                assert_eq!(answer["response"]["domain"], "CONTOSO");
                return;
            }
            assert_eq!(answer["status"], NO_LOGON_SERVERS, "{what}: {answer:#}");
            assert!(Instant::now() < deadline, "{what}: {}\n{}", chain.a.log(), chain.b.log());
        }
    };

    chain.c.kill();
    undecided(&chain, "it is killed");
    undecided(&chain, "it is still dead");
    chain.c.start_again();
    recovers(&chain, "it is started again");

    // The kernel takes connections and bytes, and no program reads them.
    chain.c.pause();
    undecided(&chain, "its port is a black hole");
    chain.c.resume();
    recovers(&chain, "it goes on");

    // What it remembers of alice is still true, and can be seen to be; of the machine it remembers nothing.
    let lock = Lock::take(&chain.c);
    undecided_about(&chain, "web01", "its store is locked");
    drop(lock);
    assert_eq!(ask(&chain, "web01")["status"], SUCCESS, "its store is free again");

    // Meanwhile B's own users were B's, and A's A's.
    let own = impacket(
        &chain.b,
        json!({ "domain": "FABRIKAM", "questions": [with_domain(question(&chain.c, "bob"), json!("FABRIKAM"))] }),
    );
    assert_eq!(own["answers"][0]["status"], "0xC000006D", "{own:#}");
}

#[test]
fn a_circle_ends_at_once() {
    // Each believes that CONTOSO is behind the other, and both let the other ask.
    let c = Demo::new();
    let b = Demo::domain("FABRIKAM", "FABDC1", "127.0.0.2", &c);
    let a = Demo::domain("NORTHWIND", "NORDC1", "127.0.0.1", &c);
    write_secret(b.path("northwind.secret"), a.add_trust("FABRIKAM"));
    write_secret(a.path("fabrikam.secret"), b.add_trust("NORTHWIND"));
    let [to_a, to_b] = [1, 2].map(|last| free_port_of([127, 0, 0, last].into()));
    let both = |other: &Demo, servers, secret: &str| {
        format!(
            "{}direction = \"both\"\nkind = \"rcmpd\"\nservers = [\"{servers}\"]\nsecret = \"file:{secret}.secret\"\ntransit = [\"CONTOSO\"]\n",
            other.as_peer()
        )
    };
    let behind = |other: &str| format!("{}direction = \"outbound\"\nvia = \"{other}\"\n", c.as_peer());
    for (demo, other, at, to, name, secret) in
        [(&a, &b, to_a, to_b, "FABRIKAM", "fabrikam"), (&b, &a, to_b, to_a, "NORTHWIND", "northwind")]
    {
        demo.edit(|text| text.replace(&format!("\"{}:0\"]", at.ip()), &format!("\"{at}\"]")));
        demo.configure(&both(other, to, secret));
        demo.configure(&behind(name));
    }
    let (a, b, c) = (a.serve(), b.serve(), c.serve());
    let chain = Chain { a, b, c };
    let begun = Instant::now();
    let answer = ask(&chain, "alice");
    assert_eq!((&answer["status"], &answer["authoritative"]), (&json!(NO_LOGON_SERVERS), &json!(0)));
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    assert_eq!(last_decision(&chain.b)["reason"], "loop");
    assert_eq!(last_decision(&chain.a)["reason"], "no_logon_servers");
    // It went round once: A asked B, and B asked no other.
    let decisions = |service: &Service| service.audit("map").len();
    assert_eq!((decisions(&chain.a), decisions(&chain.b)), (1, 1));
}

#[test]
fn a_path_is_proved_and_a_weak_hop_refused() {
    // The keys have to be there before a node serves.
    let keys = tempfile_keys();
    let key = |name: &str| keys.path().join(name).display().to_string();
    let forward = |name: &str| format!("[forward]\nproof_key = \"{}\"", key(name));
    let told_a = format!("proof_key = \"{}\"", key("b.pub"));
    let told_b = format!("proof_key = \"{}\"", key("c.pub"));
    let [fa, fb, fc] = ["a", "b", "c"].map(forward);
    let knows_c = format!("proof_key = \"{}\"\n{fa}", key("c.pub"));
    let chain = chain(&Told { a: &told_a, b: &told_b, forward: [&knows_c, &fb, &fc], ..Told::default() });
    let trusted = |names: &[(&str, &str)]| -> Vec<String> {
        names
            .iter()
            .flat_map(|(domain, file)| ["--proof-key".into(), format!("{domain}={}", key(file))])
            .collect()
    };
    let map = |who: &str, more: &[String]| {
        let certificate = chain.c.certificate(who);
        let mut arguments = vec!["map", &certificate, "-c", "client.toml", "--json"];
        arguments.extend(more.iter().map(String::as_str));
        chain.a.rcmpd(&arguments)
    };
    let all = trusted(&[("NORTHWIND", "a.pub"), ("FABRIKAM", "b.pub"), ("CONTOSO", "c.pub")]);
    let strong = [&all[..], &["--require-strong".into()]].concat();
    let done = map("alice", &strong).code(0).json();
    assert_eq!(done["domain"], "CONTOSO");
    assert_eq!(done["path"]["strong_at_every_hop"], true, "{done:#}");
    let hops: Vec<_> = done["path"]["hops"]
        .as_array()
        .unwrap()
        .iter()
        .map(|hop| {
            ["domain", "server", "role", "strength", "signature"]
                .map(|key| hop[key].as_str().unwrap().to_owned())
        })
        .collect();
    assert_eq!(
        hops,
        [
            ["CONTOSO", "DC1", "answered", "strong", "good"],
            ["FABRIKAM", "FABDC1", "forwarded", "strong", "good"],
            ["NORTHWIND", "NORDC1", "forwarded", "strong", "good"],
        ]
    );
    // Whose key is not known is unknown; and that is not enough.
    let some = trusted(&[("NORTHWIND", "a.pub"), ("CONTOSO", "c.pub")]);
    let done = map("alice", &[&some[..], &["--proof".into()]].concat()).code(0).json();
    assert_eq!(done["path"]["hops"][1]["signature"], "unknown");
    assert_eq!(done["path"]["strong_at_every_hop"], false);
    let done = map("alice", &[&some[..], &["--require-strong".into()]].concat()).code(3);
    assert!(done.stderr.contains("hop 1 is not signed by a known key"), "{done:?}");
    // A wrong key is worse.
    let wrong = trusted(&[("NORTHWIND", "a.pub"), ("FABRIKAM", "c.pub"), ("CONTOSO", "c.pub")]);
    let done = map("alice", &[&wrong[..], &["--require-strong".into()]].concat()).code(3);
    assert!(done.stderr.contains("hop 1 is not signed by its domain"), "{done:?}");
    // Nothing is there unless it is asked for.
    let done = map("alice", &[]).code(0).json();
    assert_eq!(done["path"], Value::Null);
    // A certificate that only names carry is weak at every hop, where C lets it in at all.
    chain.c.edit(|text| text.replace("binding    = \"full\"", "binding    = \"off\""));
    chain.c.signal(Signal::HUP);
    let deadline = Instant::now() + Duration::from_secs(30);
    while !chain.c.log().contains(" Reloaded ") {
        assert!(Instant::now() < deadline, "{}", chain.c.log());
        std::thread::sleep(Duration::from_millis(20));
    }
    let carol = [&all[..], &["--domain".into(), "CONTOSO".into()]].concat();
    let done = map("carol", &[&carol[..], &["--proof".into()]].concat()).code(0).json();
    let strengths: Vec<_> =
        done["path"]["hops"].as_array().unwrap().iter().map(|hop| &hop["strength"]).collect();
    assert_eq!(strengths, ["weak", "weak", "weak"], "{done:#}");
    let done = map("carol", &[&carol[..], &["--require-strong".into()]].concat()).code(3);
    assert!(done.stderr.contains("hop 0 is not strong"), "{done:?}");
}

/// Keys a, b and c, with their public halves.
fn tempfile_keys() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for name in ["a", "b", "c"] {
        ed25519_file::make_key(&folder.path().join(name)).unwrap();
    }
    folder
}

/// The spans of all three, each with its service's name.
fn spans(collector: &Collector) -> Vec<(String, Span)> {
    let received = collector.0.lock().unwrap();
    let resources = received.iter().flat_map(|request| &request.resource_spans);
    resources
        .flat_map(|resource| {
            let name = attribute(&resource.resource.as_ref().unwrap().attributes, "service.name").unwrap();
            let spans = resource.scope_spans.iter().flat_map(|scope| &scope.spans);
            spans.map(move |span| (name.clone(), span.clone()))
        })
        .collect()
}

/// Asks once about alice, with everything that is traced received by a collector; what came of it.
async fn traced(kind: &'static str) -> Vec<(String, Span)> {
    let (collector, endpoint) = Collector::listen().await;
    tokio::task::spawn_blocking(move || {
        let rotel = Rotel::start(&endpoint);
        let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", rotel.endpoint.as_str());
        let name = |name| [endpoint, ("OTEL_SERVICE_NAME", name)];
        let [a, b, c] = ["northwind", "fabrikam", "contoso"].map(name);
        let mut chain = chain(&Told { environment: [&a, &b, &c], kind: Some(kind), ..Told::default() });
        assert_eq!(ask(&chain, "alice")["status"], SUCCESS, "{}", chain.a.log());
        for service in [&mut chain.a, &mut chain.b, &mut chain.c] {
            service.signal(Signal::TERM);
            assert_eq!(service.ended(), 0);
        }
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            let received = spans(&collector);
            let questions = received
                .iter()
                .filter(|(_, span)| attribute(&span.attributes, "opnum").as_deref() == Some("39"));
            if questions.count() == 3 {
                return received;
            }
            assert!(Instant::now() < deadline, "{received:#?}");
            std::thread::sleep(Duration::from_millis(50));
        }
    })
    .await
    .unwrap()
}

/// The question's span at a service, and the one with which it was sent on.
fn question_and_forward(spans: &[(String, Span)], service: &str) -> (Span, Option<Span>) {
    let own = || spans.iter().filter(|(name, _)| name == service).map(|(_, span)| span);
    let question = own().find(|span| attribute(&span.attributes, "opnum").as_deref() == Some("39")).unwrap();
    (question.clone(), own().find(|span| span.name == "forward").cloned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_question_is_one_trace_over_three_services() {
    let spans = traced("rcmpd").await;
    let (a, from_a) = question_and_forward(&spans, "northwind");
    let (b, from_b) = question_and_forward(&spans, "fabrikam");
    let (c, from_c) = question_and_forward(&spans, "contoso");
    let (from_a, from_b) = (from_a.unwrap(), from_b.unwrap());
    assert_eq!(from_c, None);
    for span in [&from_a, &b, &from_b, &c] {
        assert_eq!(span.trace_id, a.trace_id, "one trace");
        assert!(span.links.is_empty());
    }
    assert_eq!(from_a.parent_span_id, a.span_id);
    assert_eq!(b.parent_span_id, from_a.span_id);
    assert_eq!(from_b.parent_span_id, b.span_id);
    assert_eq!(c.parent_span_id, from_b.span_id);
    assert_eq!((from_a.kind, b.kind), (3, 2), "client and server");
    assert_eq!(attribute(&from_a.attributes, "peer.domain").as_deref(), Some("FABRIKAM"));
    assert_eq!(attribute(&from_a.attributes, "rcmp.domain").as_deref(), Some("CONTOSO"));
    assert_eq!(attribute(&a.attributes, "rcmp.reason").as_deref(), Some("forwarded"));
    assert_eq!(attribute(&c.attributes, "rcmp.reason").as_deref(), Some("mapped"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn to_foreign_servers_nothing_is_sent_and_a_link_joins_the_halves() {
    let spans = traced("netlogon").await;
    let (a, from_a) = question_and_forward(&spans, "northwind");
    let (b, from_b) = question_and_forward(&spans, "fabrikam");
    let (c, _) = question_and_forward(&spans, "contoso");
    let (from_a, from_b) = (from_a.unwrap(), from_b.unwrap());
    assert!(a.trace_id != b.trace_id && b.trace_id != c.trace_id, "each its own");
    assert!(b.parent_span_id.is_empty() && c.parent_span_id.is_empty());
    let link = |span: &Span| {
        assert_eq!(span.links.len(), 1, "{span:#?}");
        (span.links[0].trace_id.clone(), span.links[0].span_id.clone())
    };
    assert!(a.links.is_empty(), "a machine of ours is no foreign server");
    assert_eq!(link(&from_a), link(&b));
    assert_eq!(link(&from_b), link(&c));
    let digest = attribute(&from_a.attributes, "rcmp.request.digest").unwrap();
    assert_eq!(attribute(&c.attributes, "rcmp.request.digest").as_deref(), Some(&*digest));
    assert_eq!(dtyp::hex(&link(&c).0), digest[..32]);
}

#[test]
fn an_explanation_says_who_decides_and_asks_no_server() {
    let chain = chain(&Told::default());
    let alice = chain.c.certificate("alice");
    let done = chain.a.rcmpd(&["explain", &alice, "-c", "rcmpd.toml"]).code(7);
    assert!(done.stdout.contains("CONTOSO decides (upn_suffix), and is asked, through FABRIKAM"), "{done:?}");
    let done = chain.a.rcmpd(&["explain", &alice, "-c", "rcmpd.toml", "--json"]).code(7).json();
    assert_eq!(done["routed"], json!({ "domain": "CONTOSO", "peer": "FABRIKAM", "by": "upn_suffix" }));
    assert_eq!((&done["reason"], &done["status"]), (&json!("routed"), &Value::Null));
    chain.c.rcmpd(&["explain", "certs/alice.pem", "-c", "rcmpd.toml"]).code(0);
    assert_eq!(chain.b.audit("map").len(), 0);
}

#[test]
fn a_dead_server_is_passed_over_and_a_slow_one_not_waited_for() {
    let c = Demo::new();
    let a = Demo::domain("NORTHWIND", "NORDC1", "127.0.0.1", &c);
    write_secret(a.path("contoso.secret"), c.add_trust("NORTHWIND"));
    c.configure(&format!("{}direction = \"inbound\"\n", a.as_peer()));
    // A second server of the domain: the same accounts, another process.
    let twin = Demo::new();
    for file in ["accounts.db", "accounts.key", "rcmpd.toml", "certs/ca.pem"] {
        fs::copy(c.path(file), twin.path(file)).unwrap();
    }
    let (c, twin) = (c.serve(), twin.serve());
    let closed = free_port();
    a.configure(&format!(
        "{}direction = \"outbound\"\nservers = [\"{closed}\", \"{}\", \"{}\"]\nsecret = \"file:contoso.secret\"\nhedge_ms = 200",
        c.as_peer(),
        c.netlogon,
        twin.netlogon
    ));
    let a = a.serve();
    let map = || {
        let begun = Instant::now();
        let done = a.rcmpd(&["map", &c.certificate("alice"), "-c", "client.toml", "--json"]);
        (done, begun.elapsed())
    };
    let (done, _) = map();
    done.code(0);
    let metric = |name: &str, server: std::net::SocketAddr| {
        a.metric(&format!("rcmpd_peer_{name}{{domain=\"CONTOSO\",server=\"{server}\"}}"))
    };
    assert!(metric("failures_total", closed) >= 1);
    assert!(metric("answers_total", c.netlogon) >= 1);
    assert_eq!(metric("semaphore_holders", c.netlogon), 0);
    assert!(metric("semaphore_acquires_total", c.netlogon) >= 1);
    // The one that answered goes silent; the other one is asked beside it, long before the time is up.
    c.pause();
    let (done, took) = map();
    assert_eq!(done.code(0).json()["account"], "alice");
    assert!(took < Duration::from_secs(5), "{took:?}");
    assert!(metric("answers_total", twin.netlogon) >= 1);
    // The preferred one is asked again when it is back.
    c.resume();
    let before = metric("answers_total", c.netlogon);
    let deadline = Instant::now() + Duration::from_secs(60);
    while metric("answers_total", c.netlogon) <= before {
        map().0.code(0);
        assert!(Instant::now() < deadline, "{}", a.log());
    }
}

#[test]
fn more_than_may_wait_are_refused_at_once() {
    let chain = chain(&Told { a: "connections_max = 1\nqueue_max = 0\ntimeout_s = 5", ..Told::default() });
    assert_eq!(ask(&chain, "alice")["status"], SUCCESS);
    chain.b.pause();
    std::thread::scope(|scope| {
        let first = scope.spawn(|| ask(&chain, "alice"));
        let holders =
            format!("rcmpd_peer_semaphore_holders{{domain=\"FABRIKAM\",server=\"{}\"}}", chain.b.netlogon);
        let deadline = Instant::now() + Duration::from_secs(30);
        while chain.a.metric(&holders) == 0 {
            assert!(Instant::now() < deadline, "{}", chain.a.log());
        }
        let second = ask(&chain, "alice");
        assert_eq!((&second["status"], &second["authoritative"]), (&json!(NO_LOGON_SERVERS), &json!(0)));
        let overflows = holders.replace("holders", "overflows_total");
        assert!(chain.a.metric(&overflows) >= 1);
        chain.b.resume();
        first.join().unwrap()
    });
    assert_eq!(ask(&chain, "alice")["status"], SUCCESS);
}

/// A channel of a machine of A's, and associations on it that have proved it.
async fn machine(chain: &Chain, name: &str, count: usize) -> (Arc<Client>, Vec<Box<dyn Association>>) {
    let client = Client::of_machine(&chain.a, "NORTHWIND", name).await.unwrap();
    let mut associations = Vec::new();
    for _ in 0..count {
        associations.push(client.open().await.unwrap());
    }
    (Arc::new(client), associations)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_machine_that_fills_the_queue_to_a_slow_domain_shuts_no_other_out() {
    let told = "connections_max = 4\nqueue_max = 8\ntimeout_s = 60";
    let chain = chain(&Told { a: told, ..Told::default() });
    let second = ["machine", "add", "WEB02$", "--secret-file", "machines/WEB02.secret"];
    chain.a.rcmpd(&[&second[..], &["--permission", "rcmp", "-c", "rcmpd.toml"]].concat()).code(0);
    let data = super::serving::question(&chain.c, "alice");
    let (greedy, mut many) = machine(&chain, "WEB01", 20).await;
    let (modest, mut few) = machine(&chain, "WEB02", 2).await;
    let ask = async |client: Arc<Client>, mut association: Box<dyn Association>, data: Vec<u8>| {
        let answer = client.channel.ask(&mut *association, PACKAGE_NAME, "NORTHWIND", &data).await.unwrap();
        (answer.status.0, association)
    };
    // The channel to B is there before B stops.
    let (status, association) = ask(Arc::clone(&greedy), many.remove(0), data.clone()).await;
    assert_eq!(status, 0);
    many.push(association);
    let metric = |name: &str| {
        chain.a.metric(&format!(
            "rcmpd_peer_semaphore_{name}{{domain=\"FABRIKAM\",server=\"{}\"}}",
            chain.b.netlogon
        ))
    };
    let seen = async |holders: u64, waiters: u64, overflows: u64| {
        let deadline = Instant::now() + Duration::from_secs(30);
        while (metric("holders"), metric("waiters"), metric("overflows_total"))
            != (holders, waiters, overflows)
        {
            assert!(Instant::now() < deadline, "{}", chain.a.get("/metrics").1);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    chain.b.pause();
    let mut asking = tokio::task::JoinSet::new();
    for association in many {
        asking.spawn(ask(Arc::clone(&greedy), association, data.clone()));
    }
    // Three of four permits, the whole queue; the others are refused.
    seen(3, 8, 9).await;
    // The fourth permit is for another asker, and so is a place in the queue.
    let first = tokio::spawn(ask(Arc::clone(&modest), few.remove(0), data.clone()));
    seen(4, 8, 9).await;
    let second = tokio::spawn(ask(Arc::clone(&modest), few.remove(0), data.clone()));
    seen(4, 8, 10).await;
    chain.b.resume();
    assert_eq!((first.await.unwrap().0, second.await.unwrap().0), (0, 0));
    let statuses: Vec<u32> = asking.join_all().await.into_iter().map(|(status, _)| status).collect();
    let of = |status: u32| statuses.iter().filter(|of| **of == status).count();
    assert_eq!((of(0), of(0xc000_005e)), (10, 10), "{statuses:x?}");
    assert!(chain.a.log().contains("Queue for a server is full"), "{}", chain.a.log());
}

/// A foreign domain's controller, as Impacket plays it, at our server.
#[test]
fn a_trusted_domain_asks_by_either_name_and_no_domain_asks_as_another() {
    let c = Demo::new();
    let other = Demo::domain("FABRIKAM", "FABDC1", "127.0.0.2", &c);
    let password = c.add_trust("FABRIKAM");
    let stranger = c.add_trust("TAILSPIN");
    c.configure(&format!("{}direction = \"inbound\"\n", other.as_peer()));
    let arguments =
        ["machine", "add", "DC2$", "--kind", "server", "--secret-file", "dc2.secret", "--permission", "rcmp"];
    c.rcmpd(&[&arguments[..], &["-c", "rcmpd.toml"]].concat()).code(0);
    let controller = fs::read_to_string(c.path("dc2.secret")).unwrap().trim().to_owned();
    let c = c.serve();
    let ask = |account: &str, channel_type: u16, computer: &str, secret: &str| {
        let done = impacket(
            &c,
            json!({
                "account": account, "computer": computer, "channel_type": channel_type, "secret": secret, "secret_file": "/dev/null",
                "nt_hash": hash(secret), "capabilities": [1, 2], "questions": [question(&c, "alice")],
            }),
        );
        let handshake = done["handshake"]["status"].as_str().unwrap().to_owned();
        (handshake, done["answers"][0]["status"].as_str().unwrap_or_default().to_owned())
    };
    let good = |status: &str| (SUCCESS.to_owned(), status.to_owned());
    let refused = |status: &str| (status.to_owned(), String::new());
    let no_account = "0xC000018B";
    // Types 4, 3 and 6; the domain's DNS name with and without the dot at its end.
    assert_eq!(ask("FABRIKAM$", 4, "FABDC1", &password), good(SUCCESS));
    assert_eq!(ask("fabrikam.example.", 3, "FABDC1", &password), good(SUCCESS));
    assert_eq!(ask("FABRIKAM.EXAMPLE", 3, "FABDC2", &password), good(SUCCESS));
    assert_eq!(ask("DC2$", 6, "DC2", &controller), good(SUCCESS));
    // Each account is for its own types.
    for (account, channel_type) in [
        ("FABRIKAM$", 2),
        ("FABRIKAM$", 3),
        ("FABRIKAM$", 6),
        ("fabrikam.example.", 4),
        ("fabrikam.example", 2),
    ] {
        assert_eq!(
            ask(account, channel_type, "FABDC1", &password),
            refused(no_account),
            "{account} {channel_type}"
        );
    }
    assert_eq!(ask("DC2$", 2, "DC2", &controller), refused(no_account));
    assert_eq!(ask("DC2$", 6, "DC3", &controller), refused("0xC0000022"), "in another's name");
    assert_eq!(ask("elsewhere.example.", 3, "FABDC1", &password), refused(no_account));
    assert_eq!(ask("FABRIKAM$", 4, "FABDC1", "wrong"), refused("0xC0000022"));
    for channel_type in [0, 1, 5, 8] {
        assert_eq!(
            ask("FABRIKAM$", channel_type, "FABDC1", &password),
            refused("0xC000000D"),
            "{channel_type}"
        );
    }
    // A trust that no [[peer]] tells of has a channel, and may ask nothing.
    assert_eq!(ask("TAILSPIN$", 4, "TAILDC1", &stranger), good("0xC0000022"));
    // A computer's name is no other's: its record stays with the machine whose name it is.
    assert_eq!(c.map("alice").code, 0);
    assert_eq!(ask("FABRIKAM$", 4, "WEB01", &password).0, "0xC0000022");
    assert_eq!(c.map("alice").code, 0);
}

/// The NT hash of a password, as Impacket wants it.
fn hash(password: &str) -> String {
    use md4::{Digest, Md4};
    let units: Vec<u8> = password.encode_utf16().flat_map(u16::to_le_bytes).collect();
    dtyp::hex(&Md4::digest(units))
}
