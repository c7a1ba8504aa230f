//! What administrators rely on: no name fools the service, every refusal says why, and what it says helps.

use crate::issuing::{Authority, Wanted};
use crate::serving::{channel, question};
use rcmp_service::message::PACKAGE_NAME;
use rcmpd_tests::{Demo, Service, eventually, write_secret};
use rustix::process::Signal;
use serde_json::Value;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

const CONFIG: [&str; 2] = ["-c", "rcmpd.toml"];

/// The bindings and validations that can be configured together.
const SETTINGS: [(&str, &str); 5] =
    [("off", "off"), ("compat", "off"), ("off", "chain"), ("compat", "chain"), ("full", "chain")];

fn set(demo: &Demo, binding: &str, validation: &str) {
    demo.edit(|text| {
        text.lines()
            .map(|line| match line.split_whitespace().next() {
                Some("binding") => format!("binding = \"{binding}\"\n"),
                Some("validation") => format!("validation = \"{validation}\"\n"),
                Some("anchors") | Some("#anchors") if validation == "off" => {
                    "#anchors = [\"certs/ca.pem\"]\n".to_owned()
                }
                Some("anchors") | Some("#anchors") => "anchors = [\"certs/ca.pem\"]\n".to_owned(),
                _ => format!("{line}\n"),
            })
            .collect()
    });
}

fn reload(service: &mut Service, times: usize) {
    let refusals = |service: &Service| service.log().matches("send SIGHUP again").count();
    let (done, before) = (format!("policy_revision={}", times + 1), refusals(service));
    service.signal(Signal::HUP);
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while !service.log().contains(&done) && refusals(service) == before {
        assert!(std::time::Instant::now() < deadline, "no reload in {}", service.log());
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    // A rule that is gone takes a second signal.
    if refusals(service) > before {
        service.signal(Signal::HUP);
    }
    service.wait_for_log(&done);
}

fn explain(demo: &Demo, who: &str) -> Value {
    demo.rcmpd(&[&["explain", &demo.certificate(who), "--json"], &CONFIG[..]].concat()).json()
}

fn rid(demo: &Demo, rid: u32) -> String {
    format!("{}-{rid}", demo.domain_sid())
}

#[test]
fn the_quickstart_maps_whom_more_than_names_bind() {
    let service = Demo::new().serve();
    let text = fs::read_to_string(service.path("rcmpd.toml")).unwrap();
    assert!(text.contains("binding    = \"full\"") && text.contains("validation = \"chain\""), "{text}");
    for (who, code) in [("alice", 0), ("bob", 0), ("web01", 0), ("carol", 3), ("mallory", 3)] {
        service.map(who).code(code);
    }
}

#[test]
fn a_refusal_gives_the_line_that_makes_the_next_call_succeed() {
    let service = Demo::new().serve();
    service.map("carol").code(3);
    let done = service.rcmpd(&["explain", "certs/carol.pem", "-c", "rcmpd.toml"]).code(3);
    for said in ["issuer+subject", "weak", "refused by binding full", "event 39"] {
        assert!(done.stdout.contains(said), "{said}: {}", done.stdout);
    }
    let line = done
        .stdout
        .lines()
        .find(|line| line.starts_with("rcmpd account set ") && line.ends_with(" -- carol"))
        .unwrap();
    assert!(line.contains("'X509:<I>O=Contoso,CN=Contoso Demo CA<SR>"), "{line}");
    service.paste(line).code(0);
    let answer = service.map("carol").code(0).json();
    assert_eq!(answer["account"], "carol");
    // The same value, for other directories.
    assert!(done.stdout.contains("Set-ADUser -Identity 'carol'"), "{}", done.stdout);
    assert!(done.stdout.contains("dn: CN=carol,CN=Users,DC=contoso,DC=example"), "{}", done.stdout);
}

#[test]
fn a_name_of_one_and_the_sid_of_another_are_refused_under_every_setting() {
    let demo = Demo::new();
    let wanted = Wanted {
        common_name: "Alice",
        upn: Some("alice@contoso.example"),
        sid: Some(rid(&demo, 1002)),
        ..Wanted::default()
    };
    Authority::of(&demo).issue(&demo, "torn", &wanted);
    let mut service = demo.serve();
    for (times, (binding, validation)) in (1..).zip(SETTINGS) {
        set(&service, binding, validation);
        reload(&mut service, times);
        service.map("torn").code(3);
        let explained = explain(&service, "torn");
        assert_eq!(explained["reason"], "sid_mismatch", "{binding} {validation}");
        assert_eq!(explained["event_id"], 41);
        assert_eq!(explained["text"].as_str().unwrap().lines().count(), 1);
        // Alice's own account is found as before, unless none is.
        service.map("alice").code(0);
    }
}

#[test]
fn strong_forms_from_another_authority_of_our_name_are_refused_under_every_setting() {
    let demo = Demo::new();
    // alice's own serial number, as bob has it: her certificate is also stored with her account.
    let serial = vec![0x41, 1, 2, 3, 4, 5, 6, 7];
    let genuine = Wanted { common_name: "Genuine", serial: Some(serial.clone()), ..Wanted::default() };
    Authority::of(&demo).issue(&demo, "genuine", &genuine);
    let line = explain(&demo, "genuine")["remedies"][0]["command"].as_str().unwrap().replace("NAME", "alice");
    demo.paste(&line).code(0);
    let forged = Wanted { sid: Some(rid(&demo, 1001)), ..genuine };
    Authority::impostor().issue(&demo, "forged", &forged);
    let mut service = demo.serve();
    for (times, (binding, validation)) in (1..).zip(SETTINGS) {
        set(&service, binding, validation);
        reload(&mut service, times);
        service.map("forged").code(3);
        let explained = explain(&service, "forged");
        let expect = if validation == "off" { "not_verified" } else { "chain_refused" };
        assert_eq!(explained["reason"], expect, "{binding} {validation}");
        service.map("genuine").code(if validation == "off" { 3 } else { 0 });
    }
}

/// A CA that is configured, too, with a name that is ours by RFC 5280 7.1 (a leading blank) and by no
/// comparison of stored values: it may issue under our name, and its paths are verified.
#[test]
fn a_configured_ca_does_not_speak_under_a_name_that_only_nearly_is_its_own() {
    let demo = Demo::new();
    let serial = vec![0x41, 1, 2, 3, 4, 5, 6, 7];
    let genuine = Wanted { common_name: "Genuine", serial: Some(serial), ..Wanted::default() };
    Authority::of(&demo).issue(&demo, "genuine", &genuine);
    let line = explain(&demo, "genuine")["remedies"][0]["command"].as_str().unwrap().replace("NAME", "alice");
    demo.paste(&line).code(0);
    let imitator = Authority::imitator(" Contoso Demo CA");
    imitator.issue(&demo, "forged", &genuine);
    fs::write(demo.path("imitator.pem"), imitator.pem()).unwrap();
    let grant = |name: &str| {
        format!("[[mapping.authority]]\ncertificate = \"{name}\"\ngrant = [\"issuer-serial\"]\n")
    };
    // Beside our CA, which has a grant of its own; and alone.
    for (anchors, entries) in [
        ("[\"certs/ca.pem\", \"imitator.pem\"]", grant("certs/ca.pem")),
        ("[\"imitator.pem\"]", String::new()),
    ] {
        demo.edit(|text| {
            let lines = text.lines().map(|line| match line.split_whitespace().next() {
                Some("anchors") => format!("anchors = {anchors}\n"),
                _ => format!("{line}\n"),
            });
            let text: String = lines.collect();
            format!("{}\n{entries}", text.split("\n[[mapping.authority]]").next().unwrap())
        });
        let explained = explain(&demo, "forged");
        assert_eq!(explained["chain"]["state"], "verified", "{anchors} {explained}");
        assert_eq!(explained["reason"], "authority_not_allowed", "{anchors}");
        let is_served = explain(&demo, "genuine")["reason"] == "mapped";
        assert_eq!(is_served, !entries.is_empty(), "{}", explain(&demo, "genuine"));
    }
}

/// What a client sees of a refusal.
fn seen(service: &Service, who: &str) -> (i32, String, String) {
    let done = service.map(who);
    (done.code, done.stdout, done.stderr)
}

#[test]
fn a_disabled_account_s_certificate_maps_no_other_and_no_client_can_tell() {
    let demo = Demo::new();
    let authority = Authority::of(&demo);
    let wanted = Wanted {
        common_name: "Shared",
        upn: Some("alice@contoso.example"),
        sid: Some(rid(&demo, 1001)),
        ..Wanted::default()
    };
    authority.issue(&demo, "both", &wanted);
    // Issuer and subject are bob's, and so is the serial number.
    let forms = demo.rcmpd(&["mapping", "strings", "certs/both.pem", "--json"]).code(0).json();
    for form in forms["forms"].as_array().unwrap() {
        if ["issuer-subject", "issuer-serial"].contains(&form["form"].as_str().unwrap()) {
            let value = form["value"].as_str().unwrap();
            demo.rcmpd(&[&["account", "set", "bob", "--add-mapping", value], &CONFIG[..]].concat()).code(0);
        }
    }
    let nobody = Wanted { common_name: "Nobody", upn: Some("nobody@contoso.example"), ..Wanted::default() };
    authority.issue(&demo, "nobody", &nobody);
    let service = demo.serve();
    assert_eq!(service.map("both").code(0).json()["account"], "alice");
    service.rcmpd(&["account", "set", "alice", "--disable", "-c", "rcmpd.toml"]).code(0);
    let refused = seen(&service, "both");
    assert_eq!(refused.0, 3);
    assert_eq!(refused, seen(&service, "nobody"));
    let explained = explain(&service, "both");
    assert_eq!(explained["reason"], "disabled");
    assert!(explained["remedies"][0]["command"].as_str().unwrap().contains("--enable"));
}

#[test]
fn a_mapping_of_two_accounts_is_refused_and_found_beforehand() {
    let demo = Demo::new();
    demo.rcmpd(&["mapping", "audit", "--ignore", "weak", "-c", "rcmpd.toml"]).code(0);
    let forms = demo.rcmpd(&["mapping", "strings", "certs/bob.pem", "--json"]).code(0).json();
    let forms = forms["forms"].as_array().unwrap();
    let serial = forms.iter().find(|form| form["form"] == "issuer-serial").unwrap();
    let value = serial["value"].as_str().unwrap();
    let done = demo.rcmpd(&["account", "set", "carol", "--add-mapping", value, "-c", "rcmpd.toml"]).code(0);
    assert!(done.stderr.contains("bob"), "{done:?}");
    let audit = demo.rcmpd(&["mapping", "audit", "--json", "-c", "rcmpd.toml"]).code(3).json();
    assert_eq!(audit["counts"]["ambiguous"], 2);
    let named: Vec<&str> = audit["findings"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|finding| finding["class"] == "ambiguous")
        .map(|finding| finding["account"].as_str().unwrap())
        .collect();
    assert_eq!(named, ["bob", "carol"]);
    let service = demo.serve();
    service.map("bob").code(3);
    let done = service.rcmpd(&["explain", "certs/bob.pem", "-c", "rcmpd.toml"]).code(3);
    assert!(done.stdout.contains("bob and carol"), "{}", done.stdout);
    assert_eq!(explain(&service, "bob")["reason"], "ambiguous");
    let line = explain(&service, "bob");
    let line = line["remedies"].as_array().unwrap().iter().find_map(|remedy| {
        remedy["command"].as_str().filter(|command| command.ends_with(" -- carol")).map(str::to_owned)
    });
    service.paste(&line.unwrap()).code(0);
    service.map("bob").code(0);
}

/// While questions come in, the binding is turned back and forth: each answer is wholly of one policy, and
/// says of which.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_answer_belongs_to_one_policy_while_it_is_changed() {
    let demo = Demo::new();
    demo.edit(|text| format!("{text}\n[audit]\npath = \"audit.jsonl\"\nrequired = true\n"));
    // Half of the answers to carol are misses, at a rate above the limit.
    demo.edit(|text| text.replace("[rpc]\n", "[rpc]\nmisses_per_s = 0\n"));
    let mut service = demo.serve();
    let asked = [question(&service, "alice"), question(&service, "carol")];
    let stop = Arc::new(AtomicBool::new(false));
    let answered = Arc::new(AtomicUsize::new(0));
    let mut callers = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let (client, asked) = (channel(&service).await, asked.clone());
        let (stop, answered) = (Arc::clone(&stop), Arc::clone(&answered));
        callers.spawn(async move {
            let mut association = client.open().await.unwrap();
            let mut answers = [0usize; 2];
            while !stop.load(Ordering::Relaxed) {
                for question in &asked {
                    let answer =
                        client.channel.ask(&mut *association, PACKAGE_NAME, "CONTOSO", question).await;
                    answers[usize::from(answer.unwrap().status.0 == 0)] += 1;
                    answered.fetch_add(1, Ordering::Relaxed);
                }
            }
            answers
        });
    }
    for times in 1..=10 {
        // Odd revisions are strict: the first is, and each reload makes the next.
        set(&service, if times % 2 == 0 { "full" } else { "off" }, "chain");
        reload(&mut service, times);
        // Each policy has its share of the answers.
        let before = answered.load(Ordering::Relaxed);
        while answered.load(Ordering::Relaxed) < before + 40 {
            tokio::task::yield_now().await;
        }
    }
    stop.store(true, Ordering::Relaxed);
    let mut answers = [0usize; 2];
    for part in callers.join_all().await {
        answers = [answers[0] + part[0], answers[1] + part[1]];
    }
    assert!(answers.iter().all(|count| *count > 50), "{answers:?}");
    let text = fs::read_to_string(service.path("audit.jsonl")).unwrap();
    let mut told = [0usize; 2];
    let mut revisions = std::collections::BTreeSet::new();
    for line in text.lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        if line["event"] != "map" {
            continue;
        }
        let revision = line["policy_revision"].as_u64().unwrap();
        revisions.insert(revision);
        let is_alice = line["trail"].as_str().unwrap().contains("upn=alice");
        let expect = if is_alice || revision.is_multiple_of(2) { "mapped" } else { "no_strong_mapping" };
        assert_eq!(line["reason"], expect, "{line}");
        told[usize::from(expect == "mapped")] += 1;
    }
    assert_eq!(told, answers, "each answer has its line");
    assert!(revisions.len() >= 10, "{revisions:?}");
}

#[test]
fn a_shadow_is_counted_and_never_acted_on() {
    let demo = Demo::new();
    demo.edit(|text| {
        format!("{text}\n[mapping.shadow]\nbinding = \"off\"\n[audit]\npath = \"audit.jsonl\"\n")
    });
    let mut service = demo.serve();
    service.map("alice").code(0);
    service.map("carol").code(3);
    // It works in the background.
    let metric = "rcmpd_shadow_divergences_total{live=\"no_strong_mapping\",shadow=\"mapped\"}";
    eventually("the shadow differs", || service.get("/metrics").1.contains(metric));
    let text = fs::read_to_string(service.path("audit.jsonl")).unwrap();
    let diverged: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .filter(|line: &Value| line["event"] == "shadow_divergence")
        .collect();
    assert_eq!(diverged[0]["shadow_account"], "carol", "{text}");
    assert_eq!(diverged[0]["account"], Value::Null);
    // It goes with a reload.
    service.edit(|text| text.replace("[mapping.shadow]\nbinding = \"off\"\n", ""));
    reload(&mut service, 1);
    service.map("carol").code(3);
}

#[test]
fn decisions_carry_the_numbers_and_names_that_windows_gives_them() {
    let demo = Demo::new();
    demo.edit(|text| format!("{text}\n[audit]\npath = \"audit.jsonl\"\n"));
    let wanted = Wanted { common_name: "x", upn: Some("alice@contoso.example"), ..Wanted::default() };
    Authority::impostor().issue(&demo, "foreign", &wanted);
    let service = demo.serve();
    service.map("alice").code(0);
    service.map("alice").code(0);
    service.map("carol").code(3);
    service.map("foreign").code(3);
    let text = fs::read_to_string(service.path("audit.jsonl")).unwrap();
    let lines: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .filter(|line: &Value| line["event"] == "map")
        .collect();
    let of = |reason: &str| lines.iter().find(|line| line["reason"] == reason).unwrap();
    assert_eq!(of("mapped")["CertIssuerName"], "O=Contoso,CN=Contoso Demo CA");
    assert_eq!(of("mapped")["strength"], "strong");
    assert_eq!(of("mapped")["strong_by"], "sid");
    assert_eq!(of("no_strong_mapping")["event_id"], 39);
    assert_eq!(of("chain_refused")["chain"], "bad_signature");
    // OpenSSL's word for the certificate.
    let fingerprint = |who: &str, what: &str| {
        let mut command = std::process::Command::new("openssl");
        command.args(["x509", "-noout", what, "-in", &service.certificate(who)]);
        let text = String::from_utf8(command.output().unwrap().stdout).unwrap();
        text.trim().rsplit('=').next().unwrap().replace(':', "").to_lowercase()
    };
    assert_eq!(of("no_strong_mapping")["CertThumbprint"], fingerprint("carol", "-fingerprint"));
    assert_eq!(of("no_strong_mapping")["CertSerialNumber"], fingerprint("carol", "-serial"));
    // A certificate is in the log once, however often it is asked about.
    let alices = lines.iter().filter(|line| line["account"] == "alice" && line["certificate"].is_string());
    assert_eq!(alices.count(), 1);
    // Which is enough to rehearse another policy.
    fs::write(service.path("lax.toml"), "[mapping]\nbinding = \"off\"\nanchors = [\"certs/ca.pem\"]\n")
        .unwrap();
    let rehearse = |certs: &str| {
        service
            .rcmpd(&[
                "mapping",
                "rehearse",
                "--policy",
                "lax.toml",
                "--certs",
                certs,
                "--json",
                "-c",
                "rcmpd.toml",
            ])
            .code(0)
            .json()
    };
    let outcome = rehearse("audit.jsonl");
    // A certificate that no trusted CA issued is not kept whole.
    assert!(of("chain_refused").get("certificate").is_none(), "{text}");
    assert_eq!(outcome["without_certificate"], 1, "{outcome}");
    assert_eq!(outcome["decisions"].as_u64().unwrap() + 1, lines.len() as u64, "{outcome}");
    assert!(outcome["gained"].as_u64().unwrap() > 0, "{outcome}");
    assert_eq!(outcome["lost"], 0);
    assert_eq!(outcome["changes"][0]["account_then"], "carol");
    let outcome = rehearse("certs");
    assert_eq!(outcome["gained"], 1, "{outcome}");
    assert_eq!(outcome["changes"][0]["certificate"], "carol.pem");
}

#[test]
fn operators_are_told_over_http_and_no_other_client_is() {
    let demo = Demo::new();
    write_secret(demo.path("admin.token"), "correct horse\n");
    demo.edit(|text| text.replace("[admin]", "[admin]\ntoken = \"file:admin.token\"\n#"));
    let service = demo.serve();
    let body = fs::read_to_string(service.certificate("carol")).unwrap();
    let host = service.admin.to_string();
    let (code, text) = service.post("/explain", &[("Authorization", "Bearer correct horse")], &body);
    assert_eq!(code, 200, "{text}");
    let told: Value = serde_json::from_str(&text).unwrap();
    let mut explained = explain(&service, "carol");
    assert_eq!(told["reason"], "no_strong_mapping");
    // The commands name the file as either was given it; everything else is the same.
    explained["remedies"] = told["remedies"].clone();
    assert_eq!(told, explained);
    // From the root on, as some programs write chains: the client is meant, as for the command. Of two
    // clients, neither is.
    let ca = fs::read_to_string(service.path("certs/ca.pem")).unwrap();
    let alice = fs::read_to_string(service.certificate("alice")).unwrap();
    let authorized = [("Authorization", "Bearer correct horse")];
    let (code, text) = service.post("/explain", &authorized, &format!("{ca}{alice}"));
    assert_eq!(
        (code, &serde_json::from_str::<Value>(&text).unwrap()["account"]),
        (200, &"alice".into()),
        "{text}"
    );
    let (code, text) = service.post("/explain", &authorized, &format!("{ca}{alice}{body}"));
    assert!(code == 400 && text.contains("2 certificates of clients follow"), "{code} {text}");
    fs::write(service.path("two.pem"), format!("{ca}{alice}{body}")).unwrap();
    for command in [&["explain", "two.pem", "-c", "rcmpd.toml"][..], &["mapping", "strings", "two.pem"]] {
        let done = service.rcmpd(command).code(6);
        assert!(
            done.stderr.contains("two.pem: ") && done.stderr.contains("2 certificates of clients follow"),
            "{done:?}"
        );
    }
    for (headers, code) in [
        (vec![], 401),
        (vec![("Authorization", "Bearer wrong")], 401),
        (vec![("Authorization", "Bearer correct horse"), ("Origin", "http://evil.example")], 403),
        (vec![("Authorization", "Bearer correct horse"), ("Host", "evil.example")], 403),
    ] {
        assert_eq!(service.post("/explain", &headers, &body).0, code, "{headers:?} {host}");
    }
    let (code, text) = service.post("/explain", &[("Authorization", "Bearer correct horse")], "nonsense");
    assert_eq!(code, 400, "{text}");
    // A client without a token is told before a byte of what is announced is waited for.
    let mut stream = TcpStream::connect(service.admin).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    write!(stream, "POST /explain HTTP/1.1\r\nHost: {host}\r\nContent-Length: 1000000\r\n\r\n").unwrap();
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"HTTP/1.1 401");
    // Without a token there is nothing to ask.
    let service = Demo::new().serve();
    assert_eq!(service.post("/explain", &[], &body).0, 404);
}

#[test]
fn what_is_believed_is_named_or_nothing_starts() {
    let demo = Demo::new();
    fs::write(demo.path("certs/garbage.pem"), "garbage").unwrap();
    fs::write(demo.path("certs/impostor.pem"), Authority::impostor().pem()).unwrap();
    let good = fs::read_to_string(demo.path("rcmpd.toml")).unwrap();
    let entry = |certificate: &str| {
        format!(
            "anchors = [\"certs/ca.pem\"]\n[[mapping.authority]]\ncertificate = \"certs/{certificate}.pem\"\n"
        )
    };
    for (anchors, expect) in [
        ("anchors = [\"certs/nowhere.pem\"]".to_owned(), "certs/nowhere.pem cannot be read"),
        ("anchors = [\"certs/garbage.pem\"]".to_owned(), "there is no certificate in it"),
        ("anchors = [\"certs/alice.pem\"]".to_owned(), "is no CA"),
        ("anchors = []".to_owned(), "anchors are missing"),
        (String::new(), "anchors are missing"),
        (
            "anchors = [\"certs/ca.pem\"]\nintermediates = [\"certs/impostor.pem\"]".to_owned(),
            "is not issued by any configured anchor",
        ),
        (entry("impostor"), "neither in mapping.anchors nor in mapping.intermediates"),
        (entry("ca") + "[[mapping.authority]]\ncertificate = \"certs/ca.pem\"\n", "the same CA"),
    ] {
        fs::write(demo.path("rcmpd.toml"), good.replace("anchors    = [\"certs/ca.pem\"]", &anchors))
            .unwrap();
        for command in ["check-config", "serve"] {
            let done = demo.rcmpd(&[&[command], &CONFIG[..]].concat()).code(1);
            assert!(done.stderr.contains(expect), "{command} {anchors}: {done:?}");
        }
    }
}

/// An authority that was not asked to may not vouch for every account.
#[test]
fn an_authority_vouches_for_whom_it_was_asked_to() {
    let demo = Demo::new();
    demo.edit(|text| {
        text.replace(
            "\n[client]",
            "\n[[mapping.authority]]\ncertificate = \"certs/ca.pem\"\ngrant = [\"upn\", \"dns\", { form = \"sid\", for = [\"group:Engineers\"] }]\n\n[client]",
        )
    });
    let service = demo.serve();
    // alice is an engineer; the machine is none, and bob's serial number is nothing this authority may say.
    for (who, code) in [("alice", 0), ("web01", 3), ("bob", 3)] {
        service.map(who).code(code);
    }
    for who in ["web01", "bob"] {
        let explained = explain(&service, who);
        assert_eq!(
            (&explained["reason"], &explained["event_id"]),
            (&"authority_not_allowed".into(), &45.into())
        );
    }
    assert_eq!(
        explain(&service, "web01")["weighed"]["evidence"][0],
        serde_json::json!(["sid", "not_granted"])
    );
}
