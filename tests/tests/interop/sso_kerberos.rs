//! The master secret server and Kerberos: users of an MIT KDC and of a Samba domain, by MIT Kerberos,
//! Impacket and Samba's stack, and tickets that were changed on their way.

use crate::sso::{KEY, demo, enter, failure, success, with_domain_controller};
use rcmpd_tests::mit::MitKdc;
use rcmpd_tests::peers::{SAMBA_PYTHON, SambaDc, run, sso_gss, sso_impacket, sso_tickets, with};
use rcmpd_tests::recorder::Recorder;
use rcmpd_tests::{Demo, Finished, Service, eventually, write_secret};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// The service's principal in realms of MIT Kerberos: Impacket asks for `host` and the address that it
/// connects to.
const HOST: &str = "host/127.0.0.1";
/// TRANSITED-POLICY-CHECKED among the flags of a ticket (RFC 4120 2.6).
const TRANSITED_POLICY_CHECKED: u32 = 12;

/// A service in the realm MIT.TEST of this kind, whose user `ssoadmin` is an administrator if users may have
/// no SIDs.
fn in_mit_realm(kdc: &MitKdc, kind: &str) -> Service {
    let demo = demo();
    let administrators: &[&str] =
        if kind == "mit" { &["principal:ssoadmin@MIT.TEST"] } else { &["sid:S-1-5-21-1-2-3-1104"] };
    demo.accept_tickets(&kdc.path("keytab"), &[("MIT.TEST", kind)], administrators);
    demo.serve()
}

/// What MIT's client gets with a cache: its answers, each with its number.
fn by_mit(kdc: &MitKdc, address: SocketAddr, cache: &str, more: Value) -> Value {
    let input = with(json!({ "service": format!("{HOST}@MIT.TEST"), "ccache": cache }), more);
    sso_gss(&kdc.path("krb5.conf"), address, input)["answers"].clone()
}

/// So many deliveries to MIT's client, and no other answer.
fn delivered(times: usize) -> Value {
    let stub = success(false)["stub"].as_str().expect("text").to_owned();
    json!({ stub: times })
}

/// The refusals of an authentication: reason and facts.
fn refusals(service: &Service) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().expect("text").to_owned();
    let lines = service.audit("authentication_refused");
    lines.iter().map(|line| (text(&line["reason"]), text(&line["detail"]))).collect()
}

#[test]
fn user_of_an_mit_realm_gets_the_secret_by_kerberos_and_spnego() {
    let kdc = MitKdc::with_service(HOST, &["ssoadmin", "other"]);
    let service = in_mit_realm(&kdc, "mit");
    let recorder = Recorder::new(service.master_secret());
    let get = |user: &str, auth: &str, output: &str| {
        let (relay, cache) = (format!("127.0.0.1:{}", recorder.address.port()), kdc.log_on(user));
        let (ccache, server) = (["--ccache", &cache, "--kdc", &kdc.address()], ["--server", &relay]);
        let command = [&["sso", "secret", "get", "--auth", auth, "--output", output], &ccache[..], &server];
        service.rcmpd(&command.concat())
    };
    for auth in ["kerberos", "spnego"] {
        get("ssoadmin", auth, &format!("{auth}.key")).code(0);
        assert_eq!(std::fs::read(service.path(&format!("{auth}.key"))).expect("it is written"), KEY);
        let refused = get("other", auth, "other.key").code(3);
        assert!(refused.stderr.contains("SSO_E_ACCESSDENIED (0x80630005)"), "{}", refused.stderr);
        let cache = kdc.log_on("ssoadmin");
        let done = by_mit(&kdc, recorder.address, &cache, json!({ "mechanism": auth }));
        assert_eq!(done, delivered(1), "{:?}", refusals(&service));
        let cache = kdc.log_on("other");
        let refused = by_mit(&kdc, recorder.address, &cache, json!({ "mechanism": auth }));
        let stub = failure(0x8063_0005)["stub"].as_str().expect("text").to_owned();
        assert_eq!(refused, json!({ stub: 1 }));
    }
    // Impacket, by its own Kerberos. It speaks Kerberos under SPNEGO alone.
    let cache = kdc.ticket("ssoadmin", HOST);
    let input = json!({
        "auth": "spnego", "user": "ssoadmin", "domain": "MIT.TEST", "ccache": cache, "port": recorder.address.port(),
    });
    let done = sso_impacket(&service, input);
    assert_eq!(done["answers"], json!([success(false)]), "{done:#}");
    assert!(!recorder.has_part_of(&KEY, 4));
    let delivered = service.audit("master_secret_delivered");
    assert_eq!(delivered.len(), 5);
    for line in delivered {
        assert_eq!(line["keytab_principal"], "host/127.0.0.1@MIT.TEST", "{line:#}");
        assert_eq!(line["administrator"], "principal:ssoadmin@MIT.TEST");
    }
    assert_eq!(service.metric("rcmpd_sso_replay_cache_entries"), 9);
    assert_eq!(service.metric("rcmpd_sso_replay_cache_evictions_total"), 0);
}

#[test]
fn ticket_without_sids_is_refused_in_a_realm_of_kind_ad() {
    let kdc = MitKdc::with_service(HOST, &["ssoadmin"]);
    let cache = kdc.ticket("ssoadmin", HOST);
    // The same ticket at two services.
    let (mit, ad) = (in_mit_realm(&kdc, "mit"), in_mit_realm(&kdc, "ad"));
    assert_eq!(by_mit(&kdc, mit.master_secret(), &cache, json!({})), delivered(1));
    let refused = by_mit(&kdc, ad.master_secret(), &cache, json!({}));
    assert_eq!(refused, json!({ "Refused: bind_nak": 1 }));
    let server = ad.master_secret().to_string();
    let command =
        ["sso", "secret", "get", "--server", &server, "--auth", "kerberos", "--output", "refused.key"];
    ad.rcmpd(&[&command[..], &["--ccache", &cache, "--kdc", &kdc.address()]].concat()).code(5);
    assert!(!ad.path("refused.key").exists());
    // And without a PAC at all.
    let input = json!({
        "ccache": cache, "service": HOST, "keytab": kdc.path("keytab"), "attempts": [{ "pac": "none" }],
    });
    let bare = sso_tickets(ad.master_secret(), input);
    assert_ne!(bare, ["bind_ack"]);
    let reasons: Vec<_> = refusals(&ad).into_iter().map(|(reason, _)| reason).collect();
    assert_eq!(reasons, ["pac-without-logon-info", "pac-without-logon-info", "pac"]);
    assert_eq!(ad.audit("master_secret_delivered").len(), 0);
}

#[test]
fn each_refusal_has_one_reason_in_the_audit_and_none_on_the_wire() {
    let kdc = MitKdc::with_service(HOST, &["ssoadmin"]);
    let service = in_mit_realm(&kdc, "mit");
    let cache = kdc.ticket("ssoadmin", HOST);
    // What is changed, the reason, and the facts.
    let rows = [
        (json!({ "etype": 23 }), "etype", "service=host/127.0.0.1@MIT.TEST etype=23/18"),
        (json!({ "session_etype": 23 }), "etype", "etype=18/23"),
        (json!({ "etype": 17 }), "etype", "etype=17/18"),
        (json!({ "etype": 18 }), "decrypt", "etype=18/18 kvno=1 held=[1]"),
        (json!({ "kvno": 9 }), "kvno", "service=host/127.0.0.1@MIT.TEST etype=18/18 kvno=9 held=[1]"),
        (json!({ "service": "cifs/127.0.0.1" }), "spn", "service=cifs/127.0.0.1@MIT.TEST"),
        (json!({ "realm": "OTHER.TEST" }), "spn", "service=host/127.0.0.1@OTHER.TEST"),
        (json!({ "skew": 1000 }), "skew", "skew=+"),
        (json!({ "skew": -1000 }), "skew", "skew=-"),
        (json!({ "earlier": 0 }), "replay", "client=ssoadmin@MIT.TEST"),
        (json!({ "crealm": "OTHER.TEST" }), "realm", "client=ssoadmin@OTHER.TEST"),
        (json!({ "pac": "damaged" }), "pac", "signature"),
        // Without the flag of confidentiality, at packet privacy.
        (json!({ "gss_flags": 0x102e }), "level", ""),
        (json!({ "gss_flags": 0x3e }), "flags", ""),
    ];
    let mut attempts = vec![json!({})];
    attempts.extend(rows.iter().map(|(change, ..)| change.clone()));
    let input = json!({
        "ccache": cache, "service": HOST, "keytab": kdc.path("keytab"), "attempts": attempts,
    });
    let answers = sso_tickets(service.master_secret(), input);
    // The first attempt changes nothing, and is accepted.
    assert_eq!(answers[0], "bind_ack", "{:?}", refusals(&service));
    let seen: BTreeSet<String> = answers[1..].iter().map(Value::to_string).collect();
    // bind_nak, and the same octets each time.
    let told = seen.iter().next().expect("an answer");
    assert!(seen.len() == 1 && told.starts_with("\"05000d"), "{seen:?}");
    let refused = refusals(&service);
    assert_eq!(refused.len(), rows.len(), "{refused:#?}");
    for ((change, reason, facts), (found, detail)) in rows.iter().zip(&refused) {
        assert!(found == reason && detail.contains(facts), "{change}: {found}, {detail}");
        if let Some(measured) = detail.split("skew=").nth(1) {
            let seconds: i64 = measured.split('s').next().expect("a number").parse().expect("a number");
            assert!((990..=1010).contains(&seconds.abs()), "{detail}");
        }
    }
    let metrics = service.get("/metrics").1;
    assert!(metrics.contains("reason=\"replay\"") && metrics.contains("reason=\"skew\""), "{metrics}");
    assert_eq!(by_mit(&kdc, service.master_secret(), &cache, json!({})), delivered(1));
}

#[test]
fn clients_of_foreign_realms_without_sids_need_a_way_that_the_kdc_checked() {
    let kdc = MitKdc::start(&["A.TEST", "B.TEST", "MIT.TEST"]);
    for (realm, principal, password) in [
        ("MIT.TEST", HOST, HOST),
        ("A.TEST", "krbtgt/B.TEST@A.TEST", "ab"),
        ("B.TEST", "krbtgt/B.TEST@A.TEST", "ab"),
        ("B.TEST", "krbtgt/MIT.TEST@B.TEST", "bc"),
        ("MIT.TEST", "krbtgt/MIT.TEST@B.TEST", "bc"),
        ("A.TEST", "anna", "anna"),
        ("B.TEST", "bert", "bert"),
    ] {
        kdc.kadmin(realm, &format!("addprinc -pw {password} {principal}"));
    }
    kdc.kadmin("MIT.TEST", &format!("ktadd -norandkey -k {} {HOST}", kdc.path("keytab").display()));
    kdc.add_path("A.TEST", "MIT.TEST", "B.TEST");
    let demo = demo();
    let realms = [("A.TEST", "mit"), ("B.TEST", "mit")];
    let administrators = ["principal:anna@A.TEST", "principal:bert@B.TEST"];
    demo.accept_tickets(&kdc.path("keytab"), &realms, &administrators);
    let service = demo.serve();
    let host = format!("{HOST}@MIT.TEST");
    let (anna, bert) = (kdc.ticket("anna@A.TEST", &host), kdc.ticket("bert@B.TEST", &host));
    let address = service.master_secret();
    // The KDC of the service trusts B.TEST itself, and knows of no way from A.TEST.
    assert_eq!(by_mit(&kdc, address, &anna, json!({})), json!({ "Refused: bind_nak": 1 }));
    assert_eq!(by_mit(&kdc, address, &bert, json!({})), delivered(1), "{:?}", refusals(&service));
    let attempts = json!([{}, { "drop_flags": [TRANSITED_POLICY_CHECKED] }]);
    let input =
        json!({ "ccache": bert, "service": HOST, "keytab": kdc.path("keytab"), "attempts": attempts });
    let answers = sso_tickets(address, input);
    assert!(answers[0] == "bind_ack" && answers[1] != "bind_ack", "{answers:?}");
    let expected = ["client=anna@A.TEST", "client=bert@B.TEST"].map(|who| ("transited".into(), who.into()));
    assert_eq!(refusals(&service), expected);
}

#[test]
fn ticket_for_another_service_of_the_keytab_counts_for_that_service_whatever_its_name() {
    let kdc = MitKdc::with_service(HOST, &["ssoadmin"]);
    kdc.kadmin("MIT.TEST", "addprinc -pw sso sso/127.0.0.1");
    kdc.kadmin("MIT.TEST", &format!("ktadd -norandkey -k {} sso/127.0.0.1", kdc.path("keytab").display()));
    let demo = demo();
    let administrators = ["principal:ssoadmin@MIT.TEST"];
    demo.accept_tickets(&kdc.path("keytab"), &[("MIT.TEST", "mit")], &administrators);
    demo.edit(|text| {
        text.replace("keytab = \"sso/keytab\"", "keytab = \"sso/keytab\"\nservices = [\"sso/127.0.0.1\"]")
    });
    let service = demo.serve();
    let address = service.master_secret();
    let of_host = json!({
        "ccache": kdc.ticket("ssoadmin", HOST), "service": HOST, "keytab": kdc.path("keytab"),
        "attempts": [{ "service": "sso/127.0.0.1" }, {}],
    });
    let refused = sso_tickets(address, of_host);
    assert!(refused.iter().all(|answer| answer != "bind_ack"), "{refused:?}");
    let facts = |name: &str| format!("service={name}@MIT.TEST etype=18/18 kvno=1 held=[1]");
    let renamed = facts("sso/127.0.0.1") + " opened-by=host/127.0.0.1@MIT.TEST";
    let expected = [renamed, facts(HOST)].map(|facts| ("spn".to_owned(), facts));
    assert_eq!(refusals(&service), expected);
    let cache = kdc.log_on("ssoadmin");
    let own = by_mit(&kdc, address, &cache, json!({ "service": "sso/127.0.0.1@MIT.TEST" }));
    assert_eq!(own, delivered(1));
    assert_eq!(service.audit("master_secret_delivered")[0]["keytab_principal"], "sso/127.0.0.1@MIT.TEST");
}

/// A keytab with one more key, as `ktutil` derives it from a password.
fn with_key(kdc: &MitKdc, keytab: &Path, version: u32, etype: &str, output: &str) {
    use std::io::Write;
    let mut ktutil = kdc.command("ktutil");
    let mut ktutil = ktutil
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::null())
        .spawn()
        .expect("ktutil starts");
    let read = if keytab.exists() { format!("rkt {}\n", keytab.display()) } else { String::new() };
    let entry = format!("addent -password -p {HOST}@MIT.TEST -k {version} -e {etype}\npassword-{version}\n");
    let write = format!("wkt {}\nquit\n", kdc.path(output).display());
    let mut input = ktutil.stdin.take().expect("piped");
    input.write_all([read, entry, write].concat().as_bytes()).expect("ktutil reads");
    drop(input);
    assert!(ktutil.wait().expect("ktutil ends").success());
}

#[test]
fn key_is_changed_under_fifty_clients_without_a_failed_call() {
    let kdc = MitKdc::with_service(HOST, &["ssoadmin"]);
    let service = in_mit_realm(&kdc, "mit");
    let cache_of_old = kdc.path("old").display().to_string();
    std::fs::rename(kdc.ticket("ssoadmin", HOST), &cache_of_old).expect("the folder can be written");
    // With a ticket-granting ticket alone: each copy gets a ticket under the newest key.
    let granting = kdc.log_on("ssoadmin");
    let (started, until) = (kdc.path("started"), kdc.path("until"));
    let deliveries = || service.metric("rcmpd_sso_calls_total{code=\"ERROR_SUCCESS\"}");
    let going_on = |more: Value, cache: &str, name: &str| {
        let input = json!({
            "until": until, "started": started.with_extension(name), "service": format!("{HOST}@MIT.TEST"),
            "ccache": cache,
        });
        sso_gss(&kdc.path("krb5.conf"), service.master_secret(), with(input, more))
    };
    let pid = service.pid();
    let (connected, anew) = std::thread::scope(|threads| {
        let connected = json!({ "held": 20, "again": 15 });
        let connected = threads.spawn(|| going_on(connected, &cache_of_old, "connected"));
        let anew = threads.spawn(|| going_on(json!({ "fresh": 15 }), &granting, "anew"));
        for name in ["connected", "anew"] {
            eventually("clients start", || started.with_extension(name).exists());
        }
        for version in 2..=4 {
            // The service knows the next key before the KDC issues tickets under it.
            let (before, next) = (format!("keytab.{}", version - 1), format!("keytab.{version}"));
            let before = if version == 2 { kdc.path("keytab") } else { kdc.path(&before) };
            with_key(&kdc, &before, version, "aes256-cts-hmac-sha1-96", &next);
            write_secret(service.path("sso/keytab"), std::fs::read(kdc.path(&next)).expect("it is written"));
            kdc.kadmin("MIT.TEST", &format!("cpw -keepold -pw password-{version} {HOST}"));
            let now = deliveries();
            eventually("clients go on", || deliveries() >= now + 200);
        }
        std::fs::write(&until, "").expect("the folder can be written");
        (connected.join().expect("clients end"), anew.join().expect("clients end"))
    });
    let stub = success(false)["stub"].as_str().expect("text").to_owned();
    for (done, clients) in [(connected, 35), (anew, 15)] {
        let calls: Vec<u64> = serde_json::from_value(done["calls"].clone()).expect("numbers");
        assert!(calls.len() == clients && calls.iter().all(|calls| *calls > 1), "{done:#}");
        assert_eq!(done["answers"], json!({ stub.clone(): calls.iter().sum::<u64>() }), "{done:#}");
    }
    assert_eq!((service.pid(), refusals(&service)), (pid, vec![]), "one process, and no refusal");
    // Old keys are removed: tickets under them are refused, and those that connect anew are served.
    let newest = kdc.path("newest");
    with_key(&kdc, &newest, 4, "aes256-cts-hmac-sha1-96", "newest");
    write_secret(service.path("sso/keytab"), std::fs::read(&newest).expect("it is written"));
    let refused = by_mit(&kdc, service.master_secret(), &cache_of_old, json!({}));
    assert_eq!(refused, json!({ "Refused: bind_nak": 1 }));
    let facts = "service=host/127.0.0.1@MIT.TEST etype=18/18 kvno=1 held=[4]".to_owned();
    assert_eq!(refusals(&service), [("kvno".to_owned(), facts.clone())]);
    assert!(service.log().contains(&facts));
    assert_eq!(by_mit(&kdc, service.master_secret(), &granting, json!({})), delivered(1));
}

#[test]
fn keytab_without_aes_keys_is_an_error_before_the_start() {
    let kdc = MitKdc::with_service(HOST, &[]);
    with_key(&kdc, &kdc.path("none"), 1, "arcfour-hmac", "rc4.keytab");
    let demo = demo();
    demo.accept_tickets(&kdc.path("rc4.keytab"), &[("MIT.TEST", "mit")], &["principal:ssoadmin@MIT.TEST"]);
    let said = |done: Finished| [done.stdout, done.stderr].concat();
    for command in [&["check-config", "rcmpd.toml"][..], &["serve", "-c", "rcmpd.toml"]] {
        let done = demo.rcmpd(command);
        assert_ne!(done.code, 0, "{command:?}");
        let said = said(done);
        assert!(said.contains("no AES key") && said.contains("[23]"), "{command:?}: {said}");
    }
    let doctor = || {
        let report = demo.rcmpd(&["doctor", "rcmpd.toml", "--json"]).code(3).json();
        let mut checks = report["checks"].as_array().unwrap().clone();
        checks.retain(|row| row["check"] == "keytab" && row["result"] == "error");
        serde_json::to_string(&checks).unwrap()
    };
    let found = doctor();
    assert!(found.contains("no AES key") && found.contains("mode 600"), "{found}");
    fs::set_permissions(demo.path("sso/keytab"), fs::Permissions::from_mode(0o644)).unwrap();
    let found = doctor();
    assert!(found.contains("can be used by every user (mode 644): chmod 600"), "{found}");
}

/// A demo that accepts tickets of the domain for the principals of a keytab, whose administrator is that
/// user.
fn in_domain(dc: &SambaDc, keytab: &Path, sid: &str) -> Demo {
    let demo = demo();
    let realm = dc.text("dns").to_uppercase();
    demo.accept_tickets(keytab, &[(&realm, "ad")], &[&format!("sid:{sid}")]);
    demo
}

#[test]
fn users_of_a_samba_domain_get_the_secret_and_samba_s_tests_of_kerberos_pass() {
    let dc = SambaDc::start();
    enter(&dc);
    let folder = tempfile::tempdir().expect("there is room for temporary files");
    let folder = folder.path();
    let erika = dc.make_tickets(folder, 1000);
    let sid = erika["sid"].as_str().expect("a SID");
    let (dns, realm) = (dc.text("dns"), dc.text("dns").to_uppercase());
    let demo = in_domain(&dc, &folder.join("keytab"), sid);
    // Samba's tests have the port of endpoint mappers written in them.
    let first: SocketAddr = ([127, 0, 0, 1], 135).into();
    let second: SocketAddr = ([127, 0, 0, 1], 4135).into();
    demo.edit(|text| {
        let (before, own) = text.split_once("[sso]").expect("there is one");
        let own = own.replacen("\"127.0.0.1:0\"", &format!("\"{first}\", \"{second}\""), 1);
        format!("{before}[sso]{own}\n[[sso.kerberos.realm]]\nname = \"CHILD.{realm}\"\nkind = \"ad\"\n")
    });
    let service = demo.serve();
    let recorder = Recorder::new(first);
    let (name, cache) = (format!("sso/srv.{dns}"), folder.join("ccache"));
    let by_mit = |address: SocketAddr, more: Value| {
        let input = with(json!({ "service": format!("{name}@{realm}"), "ccache": cache }), more);
        sso_gss(&folder.join("krb5.conf"), address, input)["answers"].clone()
    };
    let by_impacket = |cache: &Path, realm: &str| {
        let input = json!({
            "auth": "spnego", "user": "erika", "domain": realm, "ccache": cache, "port": recorder.address.port(),
            "service": name,
        });
        let done = sso_impacket(&service, input);
        assert_eq!(done["answers"], json!([success(false)]), "{done:#} {:?}", refusals(&service));
    };
    // A user in a thousand groups.
    for mechanism in ["kerberos", "spnego"] {
        let done = by_mit(recorder.address, json!({ "mechanism": mechanism }));
        assert_eq!(done, delivered(1), "{:?}", refusals(&service));
    }
    by_impacket(&cache, &realm);
    // Longer ones, and one of a child domain, of whose users the PAC says enough.
    let child = format!("CHILD.{realm}");
    let cache_of = |length: u32| folder.join(format!("{length}.cache"));
    let lengths = [12_000, 48_000, 60_000];
    let of_child = folder.join("child.cache");
    let mut attempts = lengths.map(|length| json!({ "length": length, "cache": cache_of(length) })).to_vec();
    attempts.push(json!({ "crealm": child, "drop_flags": [TRANSITED_POLICY_CHECKED], "cache": of_child }));
    let tickets = |attempts: Value| {
        let input = json!({
            "ccache": cache, "service": name, "keytab": folder.join("keytab"), "attempts": attempts,
        });
        sso_tickets(second, input)
    };
    tickets(json!(attempts));
    for length in lengths {
        by_impacket(&cache_of(length), &realm);
        assert!(std::fs::metadata(cache_of(length)).is_ok_and(|file| file.len() > length.into()));
    }
    by_impacket(&of_child, &child);
    let not_last = by_mit(first, json!({ "last_fragment": false }));
    assert_eq!(not_last, json!({ "Refused: bind_nak": 1 }));
    assert_eq!(refusals(&service), []);
    // Samba's own tests, which were written against Windows.
    let input = json!({
        "host": "127.0.0.1", "port": 135, "providers": ["krb5"], "cache": cache, "service": name, "realm": realm,
    });
    let mut python = std::process::Command::new(SAMBA_PYTHON);
    python.env("KRB5_CONFIG", folder.join("krb5.conf"));
    let raw = run(python, "samba_raw.py", &input);
    assert_eq!(raw["failed"], json!({}), "{raw:#}");
    assert_eq!(raw["ran"].as_array().map(Vec::len), Some(9), "{raw:#}");
    // Sixty-four at once, also with one time in their authenticators.
    assert_eq!(by_mit(first, json!({ "clients": 64 })), delivered(64), "{:?}", refusals(&service));
    let before = refusals(&service).len();
    let at_once = tickets(json!([{ "copies": 64 }]));
    assert_eq!(at_once, [json!(vec!["bind_ack"; 64])]);
    // What one listener accepted counts at the other, whatever the name beside the ticket.
    let again = tickets(json!([
        {},
        { "earlier": 0, "port": first.port() },
        { "earlier": 0, "port": first.port(), "service": "SSO/SRV." .to_owned() + &dns.to_uppercase() },
        { "earlier": 0 },
        {},
    ]));
    let accepted: Vec<bool> = again.iter().map(|answer| answer == "bind_ack").collect();
    assert_eq!(accepted, [true, false, false, false, true], "{again:?}");
    let reasons: Vec<_> =
        refusals(&service).split_off(before).into_iter().map(|(reason, _)| reason).collect();
    assert_eq!(reasons, ["replay"; 3]);
    let recorded = recorder.recorded().len();
    assert!(recorded > 100_000 && !recorder.has_part_of(&KEY, 4), "{recorded} octets");
}

#[test]
fn delegated_tickets_are_refused_unless_they_are_allowed() {
    let dc = SambaDc::start();
    enter(&dc);
    let folder = tempfile::tempdir().expect("there is room for temporary files");
    let folder = folder.path();
    let erika = dc.make_tickets(folder, 1);
    let (sid, password) =
        (erika["sid"].as_str().expect("a SID"), erika["password"].as_str().expect("a password"));
    let (dns, realm) = (dc.text("dns"), dc.text("dns").to_uppercase());
    let name = format!("sso/srv.{dns}");
    // By S4U2Self and S4U2Proxy; and one with which the service itself vouches for the user, by S4U2Self
    // alone.
    let ticket = |account: &str, arguments: &[&str]| {
        let own = folder.join(account);
        std::fs::create_dir(&own).expect("there is none");
        let arguments = [&["-impersonate", "erika"], arguments].concat();
        dc.service_ticket(&own, account, password, &arguments)
    };
    let delegated = ticket("svc-web", &["-spn", &name]);
    let vouched = ticket("svc-sso", &["-self", "-altservice", &format!("{name}@{realm}")]);
    let service = in_domain(&dc, &folder.join("keytab"), sid).serve();
    let ask = |cache: &Path| {
        let input = json!({
            "auth": "spnego", "user": "erika", "domain": realm, "ccache": cache, "service": name,
        });
        sso_impacket(&service, input)["answers"].clone()
    };
    // The administrator herself is served; the service that acts for her is not.
    assert_eq!(ask(&folder.join("ccache")), json!([success(false)]), "{:?}", refusals(&service));
    let of_mit = folder.join("delegated");
    for cache in [&delegated, &of_mit] {
        assert_eq!(ask(cache), json!([failure(0x8063_0005)]), "{:?}", refusals(&service));
    }
    assert_eq!(ask(&vouched), json!([failure(0x8063_0005)]));
    let refused = service.audit("master_secret_refused");
    let proxy = json!([format!("svc-web@{realm}")]);
    let by: Vec<_> = refused.iter().map(|line| line["delegated_by"].clone()).collect();
    assert_eq!(by, [proxy.clone(), proxy.clone(), json!([])], "{refused:#?}");
    for line in &refused {
        assert_eq!((&line["user"], &line["reason"]), (&json!("erika"), &json!("delegated")), "{line:#}");
    }
    service.edit(|text| text.replace("[sso]", "[sso]\nallow_delegated = true"));
    service.reload();
    for cache in [&delegated, &of_mit, &vouched] {
        assert_eq!(ask(cache), json!([success(false)]));
    }
    let delivered = service.audit("master_secret_delivered");
    assert_eq!(delivered[1]["delegated_by"], proxy, "{delivered:#?}");
}

#[test]
fn keys_of_other_services_open_no_tickets_for_the_secret() {
    let dc = SambaDc::start();
    enter(&dc);
    let folder = tempfile::tempdir().expect("there is room for temporary files");
    let folder = folder.path();
    let erika = dc.make_tickets(folder, 1);
    let sid = erika["sid"].as_str().expect("a SID");
    let (dns, realm) = (dc.text("dns"), dc.text("dns").to_uppercase());
    let name = format!("sso/srv.{dns}");
    let demo = in_domain(&dc, &folder.join("keytab"), sid);
    // The service has a channel to the controller, too, as the machine WEB01$.
    with_domain_controller(&demo, &dc, "WEB01");
    let check = |code| {
        let checked = demo.rcmpd(&["check-config", "rcmpd.toml"]).code(code);
        [checked.stdout, checked.stderr].concat()
    };
    let install = |demo: &Demo, keytab: &str| {
        write_secret(demo.path("sso/keytab"), std::fs::read(folder.join(keytab)).expect("it is there"));
    };
    assert!(!check(0).contains("keytab"));
    install(&demo, "shared.keytab");
    let shared = check(0);
    assert!(shared.contains(&format!("{name}@{realm} and sso/alias.{dns}@{realm} have one key")), "{shared}");
    // By its value: the principal is another one than the account.
    install(&demo, "machine.keytab");
    let machine = check(1);
    let error =
        format!("the keytab's key of sso/web01.{dns}@{realm} is the key of the Netlogon machine account");
    assert!(machine.contains(&error), "{machine}");
    let not_served = demo.rcmpd(&["serve", "-c", "rcmpd.toml"]);
    assert!(not_served.code != 0 && not_served.stderr.contains(&error), "{}", not_served.stderr);
    // The running service goes on with its keys.
    install(&demo, "keytab");
    let mut service = demo.serve();
    install(&service, "machine.keytab");
    service.wait_for_log("Keytab rejected");
    let ticket = |keytab: &str, cache: &str, name: &str, attempts: Value| {
        let input = json!({
            "ccache": folder.join(cache), "service": name, "keytab": folder.join(keytab), "attempts": attempts,
        });
        sso_tickets(service.master_secret(), input)
    };
    assert_eq!(ticket("keytab", "ccache", &name, json!([{}])), ["bind_ack"]);
    // A ticket for another service of another account, with the name of this one, and with its own.
    let mut kvno = std::process::Command::new("kvno");
    kvno.env("KRB5_CONFIG", folder.join("krb5.conf"));
    let host = format!("sso/web01.{dns}");
    let done = kvno.args(["-c", &folder.join("ccache").display().to_string(), &host]).output();
    assert!(done.expect("kvno starts").status.success());
    let renamed = ticket("machine.keytab", "ccache", &host, json!([{ "service": name }, {}]));
    assert!(renamed.iter().all(|answer| answer != "bind_ack"), "{renamed:?}");
    let reasons: Vec<_> = refusals(&service).into_iter().map(|(reason, _)| reason).collect();
    assert_eq!(reasons, ["decrypt", "spn"]);
    assert_eq!(ticket("keytab", "ccache", &name, json!([{}])), ["bind_ack"]);
}
