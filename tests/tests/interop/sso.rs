//! The master secret server, asked by clients that share no code with it: Impacket, and Samba's Python
//! bindings through the management interface.

use dtyp::hex;
use rcmpd_tests::peers::{SambaDc, sso_impacket, sso_samba};
use rcmpd_tests::recorder::Recorder;
use rcmpd_tests::{Demo, Service, eventually_within};
use rustix::process::Signal;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde_json::{Value, json};
use std::os::fd::AsFd;
use std::time::Duration;

/// What every failure carries: 16 zero octets and the code.
pub(crate) fn failure(code: u32) -> Value {
    json!({ "stub": format!("1000000010000000{}{}", "00".repeat(16), hex(&code.to_le_bytes())) })
}

/// The secret that the service hands out, imported so that the test knows it.
pub(crate) const KEY: [u8; 16] =
    [0xc1, 0x5e, 0x9d, 0x04, 0x77, 0xab, 0x3f, 0x60, 0x12, 0xe8, 0xd3, 0x59, 0x8a, 0x46, 0xf7, 0x2b];

pub(crate) fn success(ndr64: bool) -> Value {
    match ndr64 {
        false => json!({ "stub": format!("1000000010000000{}00000000", hex(&KEY)) }),
        true => json!({ "stub": format!("10000000000000001000000000000000{}00000000", hex(&KEY)) }),
    }
}

/// A demo whose newest generation is the known key.
pub(crate) fn demo() -> Demo {
    let demo = Demo::with_master_secret();
    rcmpd_tests::write_secret(demo.path("known.key"), KEY);
    demo.rcmpd(&["sso", "secret", "import", "known.key", "-c", "rcmpd.toml"]).code(0);
    demo
}

/// Puts another line in the place of the configuration's line of administrators.
pub(crate) fn set_administrators(demo: &Demo, line: &str) {
    demo.edit(|text| {
        let start = text.find("administrators = [").expect("it is there");
        let end = start + text[start..].find('\n').expect("it ends");
        format!("{}{line}{}", &text[..start], &text[end..])
    });
}

/// Goes where a domain controller's addresses are, with this thread and the processes that it starts.
pub(crate) fn enter(dc: &SambaDc) {
    let namespace = std::fs::File::open(format!("/proc/{}/ns/net", dc.text("pid"))).expect("the DC runs");
    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).expect("run as root");
}

/// Impacket's answers to one conversation.
fn answers(service: &Service, more: Value) -> Vec<Value> {
    let done = sso_impacket(service, more);
    assert_eq!(done["error"], Value::Null, "{done:#}");
    done["answers"].as_array().expect("a list").clone()
}

/// The answers to two calls of one connection, between which something is done.
fn around(service: &Service, name: &str, between: impl FnOnce()) -> Vec<Value> {
    let done = service.path(name);
    let calls = json!({ "calls": [{}, { "wait": done }] });
    std::thread::scope(|threads| {
        let asking = threads.spawn(|| answers(service, calls));
        let is_delivered = || !service.audit("master_secret_delivered").is_empty();
        eventually_within(Duration::from_secs(30), "the secret is delivered", is_delivered);
        between();
        std::fs::write(&done, "").expect("the folder can be written");
        asking.join().expect("the client ends")
    })
}

#[test]
fn administrator_gets_the_secret_from_both_peers_and_no_octet_is_readable() {
    let service = demo().serve();
    let recorder = Recorder::new(service.master_secret());
    let through = |more: Value| {
        let mut more = more;
        more["port"] = json!(recorder.address.port());
        more
    };
    for ndr64 in [false, true] {
        assert_eq!(answers(&service, through(json!({ "ndr64": ndr64 }))), [success(ndr64)]);
    }
    for (options, stub, ndr64) in [
        (json!(["seal"]), "10000000", false),
        (json!(["seal", "ndr64"]), "10000000", true),
        // Samba sends the octets as they are, and says that they are big-endian.
        (json!(["seal", "bigendian"]), "00000010", false),
    ] {
        let done = sso_samba(&service, through(json!({ "options": options, "calls": [stub] })));
        assert_eq!(done["answers"], json!([success(ndr64)]), "{options} {done:#}");
    }
    // Levels below privacy: the connection is authenticated, and the call is not executed.
    for level in [2, 5] {
        let refused = answers(&service, through(json!({ "level": level })));
        assert_eq!(refused, [json!({ "fault": 5 })], "{level}");
    }
    // The level of calls is for other transports, so the bind is refused.
    let refused = sso_impacket(&service, through(json!({ "level": 3 })));
    assert!(
        refused["error"].as_str().is_some_and(|why| why.contains("Bind context rejected")),
        "{refused:#}"
    );
    assert_eq!(refused["answers"], json!([]));
    // Impacket does not sign at this level, so its call does not reach the interface.
    assert_eq!(answers(&service, through(json!({ "level": 4 }))), [json!({ "fault": 0x1c01_000b })]);
    assert_eq!(answers(&service, through(json!({ "auth": "none" }))), [json!({ "fault": 5 })]);
    for option in ["sign", "connect"] {
        let done = sso_samba(&service, through(json!({ "options": [option] })));
        // NT_STATUS_ACCESS_DENIED is what Samba makes of fault 5.
        assert_eq!(done["answers"][0]["error"][0], 0xc000_0022_u32, "{option} {done:#}");
    }
    // Each of the calls that reached the interface has its line.
    let refused: Vec<_> = service
        .audit("master_secret_refused")
        .iter()
        .map(|line| json!([line["reason"], line["mechanism"], line["level"]]))
        .collect();
    assert_eq!(refused[..2], [json!(["level", "ntlm", 2]), json!(["level", "ntlm", 5])], "{refused:#?}");
    assert_eq!(refused[2], json!(["level", "none", null]));
    assert_eq!(refused.len(), 5, "{refused:#?}");
    assert!(!recorder.recorded().is_empty());
    assert!(!recorder.has_part_of(&KEY, 4), "the secret passes in clear");
    let deliveries = service.audit("master_secret_delivered");
    assert_eq!(deliveries.len(), 5, "{deliveries:#?}");
    for delivery in deliveries {
        assert_eq!((&delivery["user"], &delivery["generation"]), (&json!("alice"), &json!(2)));
        assert!(!delivery.to_string().contains(&hex(&KEY)));
    }
    assert!(!service.log().contains(&hex(&KEY)));
}

#[test]
fn port_is_found_at_the_endpoint_mapper_in_both_transfer_syntaxes() {
    let service = demo().serve();
    let found = sso_impacket(&service, json!({ "mapper": service.endpoint_mapper.port() }));
    assert_eq!(found["port"], service.master_secret().port(), "{found:#}");
    assert_eq!(found["answers"], json!([success(false)]), "{found:#}");
    assert_eq!(service.get("/ready").0, 200);
}

/// Section 4 of [MS-SSP] as both range modes read it.
#[test]
fn sizes_are_answered_as_each_range_mode_says() {
    let bound = json!({ "fault": 0x1c00_0007 });
    let short = json!({ "fault": 0x6f7 });
    let rows = [
        ("10000000", success(false), success(false)),
        ("00000000", bound.clone(), failure(0x8007_0057)),
        ("01000000", bound.clone(), failure(0x8007_000e)),
        ("0f000000", bound.clone(), failure(0x8007_000e)),
        ("11000000", bound.clone(), bound.clone()),
        ("00000080", bound.clone(), bound.clone()),
        ("ffffffff", bound.clone(), bound),
        ("", short.clone(), short.clone()),
        ("10", short.clone(), short.clone()),
        ("1000", short.clone(), short.clone()),
        ("100000", short.clone(), short),
    ];
    let calls: Vec<Value> = rows.iter().map(|(stub, ..)| json!({ "stub": stub })).collect();
    let service = demo().serve();
    let by_idl = answers(&service, json!({ "calls": calls }));
    assert_eq!(by_idl, rows.clone().map(|(_, idl, _)| idl));
    service.edit(|text| text.replace("[sso.ntlm]", "ndr_range = \"prose\"\n[sso.ntlm]"));
    service.reload();
    let by_prose = answers(&service, json!({ "calls": calls }));
    assert_eq!(by_prose, rows.map(|(.., prose)| prose));
    let others = answers(&service, json!({ "calls": [{ "opnum": 1 }] }));
    assert_eq!(others, [json!({ "fault": 0x1c01_0002 })]);
}

#[test]
fn user_who_is_no_administrator_gets_the_code_and_wrong_passwords_get_nothing() {
    let service = demo().serve();
    let bob = json!({ "user": "bob", "password": service.password("bob") });
    assert_eq!(answers(&service, bob), [failure(0x8063_0005)]);
    let refused = service.audit("master_secret_refused");
    assert_eq!(refused[0]["reason"], "not-administrator", "{refused:#?}");
    for (user, password) in
        [("alice", "wrong"), ("nobody-here", "wrong"), ("carol", "wrong"), ("alice", ""), ("", "")]
    {
        let done = sso_impacket(&service, json!({ "user": user, "password": password }));
        let first = &done["answers"][0];
        assert!(first == &json!({ "fault": 5 }) || !done["error"].is_null(), "{user}: {done:#}");
    }
    let reasons: Vec<_> =
        service.audit("authentication_refused").iter().map(|line| line["reason"].clone()).collect();
    assert!(reasons.contains(&json!("proof")) && reasons.contains(&json!("anonymous")), "{reasons:?}");
    assert_eq!(service.audit("master_secret_delivered").len(), 0);
}

#[test]
fn changed_and_repeated_requests_are_refused() {
    let service = demo().serve();
    let recorder = Recorder::new(service.master_secret());
    for more in
        [json!({ "tamper": 24 }), json!({ "tamper": 50 }), json!({ "replay": true, "calls": [{}, {}] })]
    {
        let mut input = more.clone();
        input["port"] = json!(recorder.address.port());
        let done = sso_impacket(&service, input);
        let delivered =
            done["answers"].as_array().expect("a list").iter().filter(|it| **it == success(false)).count();
        // The first of two equal requests is the client's own.
        assert!(delivered <= usize::from(more.get("replay").is_some()), "{more} {done:#}");
        assert!(
            delivered < done["answers"].as_array().expect("a list").len() || !done["error"].is_null(),
            "{more} {done:#}"
        );
    }
    assert!(!recorder.has_part_of(&KEY, 4));
}

#[test]
fn membership_that_is_withdrawn_is_refused_on_the_next_call_of_the_connection() {
    let service = demo().serve();
    let withdrawn = around(&service, "withdrawn", || {
        let group = ["account", "set", "alice", "--remove-group", "SSO Administrators", "-c", "rcmpd.toml"];
        service.rcmpd(&group).code(0);
    });
    assert_eq!(withdrawn, [success(false), failure(0x8063_0005)]);
}

/// Each user may stay connected for hours, and the password may be changed because it was stolen.
#[test]
fn changed_or_removed_password_ends_what_was_authenticated_by_it() {
    for (name, change) in [("changed", &["--password-file", "other"][..]), ("removed", &["--no-nt-hash"])] {
        let service = demo().serve();
        rcmpd_tests::write_secret(service.path("other"), "another password\n");
        let set = |arguments: &[&str]| {
            let set = ["account", "set", "alice", "-c", "rcmpd.toml"];
            service.rcmpd(&[&set[..], arguments].concat()).code(0);
        };
        let ended = around(&service, name, || set(change));
        assert_eq!(ended, [success(false), failure(0x8063_0005)], "{name}");
        let refused = service.audit("master_secret_refused");
        assert_eq!(refused[0]["reason"], "account-gone", "{refused:#?}");
        // The new password is served.
        set(&["--password-file", "other"]);
        let user = json!({ "user": "alice", "password": "another password" });
        assert_eq!(answers(&service, user), [success(false)]);
    }
}

#[test]
fn local_entry_is_the_account_that_had_the_name_when_the_configuration_was_loaded() {
    let demo = demo();
    set_administrators(&demo, r#"administrators = ["local:alice", "local:later"]"#);
    let checked = demo.rcmpd(&["check-config", "rcmpd.toml"]).code(0);
    let said = [checked.stdout, checked.stderr].concat();
    assert!(said.contains("\"local:later\"") && !said.contains("\"local:alice\""), "{said}");
    let service = demo.serve();
    let rename = |from: &str, to: &str| {
        service.rcmpd(&["account", "set", from, "--rename", to, "-c", "rcmpd.toml"]).code(0);
    };
    let answer = |user: &str, of: &str| {
        let [answer] = &answers(&service, json!({ "user": user, "password": service.password(of) }))[..]
        else {
            panic!("one answer")
        };
        answer.clone()
    };
    assert_eq!(answer("alice", "alice"), success(false));
    rename("alice", "former");
    rename("bob", "alice");
    assert_eq!(answer("alice", "bob"), failure(0x8063_0005));
    assert_eq!(answer("former", "alice"), success(false));
    rename("alice", "later");
    assert_eq!(answer("later", "bob"), failure(0x8063_0005));
    service.reload();
    assert_eq!(answer("later", "bob"), success(false));
}

#[test]
fn administrators_of_a_reload_count_on_the_next_call_of_the_connection() {
    let service = demo().serve();
    let reloaded = around(&service, "reloaded", || {
        set_administrators(&service, r#"administrators = ["local:bob"]"#);
        service.reload();
    });
    assert_eq!(reloaded, [success(false), failure(0x8063_0005)]);
    let bob = json!({ "user": "bob", "password": service.password("bob") });
    assert_eq!(answers(&service, bob), [success(false)]);
}

/// The codes that need a state of the server; those of sizes and users are above.
#[test]
fn states_of_the_server_have_their_codes() {
    let ask = |demo: Demo| answers(&demo.serve(), json!({}));
    // No administrator.
    let demo = Demo::with_master_secret();
    set_administrators(&demo, "");
    assert_eq!(ask(demo), [failure(0x8063_064a)]);
    // No secret.
    let demo = Demo::with_master_secret();
    for file in ["master-secret.sealed", "master-secret.instance"] {
        std::fs::remove_file(demo.path("sso").join(file)).expect("it is there");
    }
    assert_eq!(ask(demo), [failure(0x8063_0002)]);
    // Sealed with another key.
    let demo = Demo::with_master_secret();
    let sealed = std::fs::read(demo.path("sso/master-secret.sealed")).expect("it is there");
    rcmpd_tests::write_secret(demo.path("sso/seal.key"), [7; 32]);
    let service = demo.serve();
    assert_eq!(answers(&service, json!({})), [failure(0x8000_ffff)]);
    assert_eq!(std::fs::read(service.path("sso/master-secret.sealed")).expect("it is there"), sealed);
    // The store of accounts fails.
    let service = Demo::with_master_secret().serve();
    let failed = around(&service, "gone", || {
        std::fs::remove_file(service.path("accounts.db")).expect("it is there");
    });
    assert_eq!(failed[1], failure(0x8063_0428));
}

#[test]
fn server_that_stops_says_so_before_it_closes() {
    let demo = demo();
    demo.edit(|text| text.replace("[sso.ntlm]", "drain_s = 20\n[sso.ntlm]"));
    let mut service = demo.serve();
    let answered = around(&service, "stopping", || {
        service.signal(Signal::TERM);
        let is_stopping = || service.log().contains("Stopping");
        eventually_within(Duration::from_secs(30), "the service says that it stops", is_stopping);
    });
    assert_eq!(answered, [success(false), failure(0xc002_0017)]);
    service.kill();
}

#[test]
fn secret_does_not_leave_without_its_line_in_the_audit_log() {
    let demo = demo();
    demo.edit(|text| text.replace("path = \"audit.log\"", "path = \"disk/audit.log\""));
    let service = demo.serve_with_disk("disk", 64);
    assert_eq!(answers(&service, json!({})), [success(false)]);
    // The disk of the audit log is full.
    let full = std::fs::write(service.seen("disk/filler"), vec![0; 64 << 10]);
    assert!(full.is_err(), "the disk has room for more than it should");
    // The last block of the log has room for some lines more.
    let answered = answers(&service, json!({ "calls": vec![json!({}); 40] }));
    let refused = answered.iter().position(|answer| *answer == failure(0x8000_ffff)).expect("a refusal");
    assert_eq!(answered[refused..], vec![failure(0x8000_ffff); 40 - refused]);
    let text = std::fs::read_to_string(service.seen("disk/audit.log")).expect("the log is there");
    assert_eq!(text.matches("master_secret_delivered").count(), 1 + refused);
}

/// A demo, named as a member of the domain, whose users that domain controller checks. Members of a group
/// there are administrators.
pub(crate) fn with_domain_controller(demo: &Demo, dc: &SambaDc, computer: &str) {
    demo.edit(|text| {
        text.replace("administrators = [", &format!("administrators = [\"sid:{}\", ", dc.text("group")))
    });
    with_checked_domain(demo, dc, computer, "sso.ntlm");
}

/// Has the users of a domain checked by its controller, for a section of the configuration. `computer` is the
/// name of this server in that domain.
pub(crate) fn with_checked_domain(demo: &Demo, dc: &SambaDc, computer: &str, section: &str) {
    rcmpd_tests::write_secret(demo.path("machines/FABRIKAM.secret"), dc.secret(&format!("{computer}$")));
    demo.edit(|text| text.replace("\"DC1\"", &format!("\"{computer}\"")));
    demo.configure(&format!(
        "[[{section}.domain]]\ndomain = \"{}\"\nsid = \"{}\"\nnames = [\"{}\"]\nservers = [\"{}:{}\"]\n\
         secret = \"file:machines/FABRIKAM.secret\"\ntimeout_s = 5",
        dc.text("netbios"),
        dc.text("sid"),
        dc.text("dns"),
        dc.text("address"),
        dc.text("port")
    ));
}

/// The texts of the target information in a recorded CHALLENGE, by AvId ([MS-NLMP] 2.2.1.2, 2.2.2.1).
fn target_names(recorded: &[u8]) -> Vec<(u16, String)> {
    let at = recorded.windows(12).position(|window| window == b"NTLMSSP\0\x02\0\0\0").expect("a CHALLENGE");
    let message = &recorded[at..];
    let u16_at = |at: usize| u16::from_le_bytes([message[at], message[at + 1]]);
    // TargetInfoFields: length, largest length, offset.
    let mut place = usize::from(u16_at(44));
    let end = place + usize::from(u16_at(40));
    let mut names = Vec::new();
    while place < end && u16_at(place) != 0 {
        let (id, len) = (u16_at(place), usize::from(u16_at(place + 2)));
        let units: Vec<_> = (place + 4..place + 4 + len).step_by(2).map(u16_at).collect();
        // Not MsvAvTimestamp.
        if id != 7 {
            names.push((id, String::from_utf16(&units).expect("text")));
        }
        place += 4 + len;
    }
    names
}

#[test]
fn users_of_a_domain_are_checked_by_its_controller_and_by_no_other_store() {
    let dc = SambaDc::start();
    enter(&dc);
    let demo = demo();
    with_domain_controller(&demo, &dc, "WEB01");
    // A local administrator has the name of a user of the domain.
    demo.rcmpd(&["account", "set", "alice", "--rename", "nora", "-c", "rcmpd.toml"]).code(0);
    let service = demo.serve();
    let recorder = Recorder::new(service.master_secret());
    let (netbios, dns) = (dc.text("netbios"), dc.text("dns"));
    let upn = format!("nora@{dns}");
    let there = dc.facts["users"]["nora"].as_str().expect("she has one").to_owned();
    let here = service.password("alice");
    let ask = |user: &str, domain: &str, password: &str| {
        let (user, port) =
            (json!({ "user": user, "domain": domain, "password": password }), recorder.address.port());
        let mut input = user;
        input["port"] = json!(port);
        sso_impacket(&service, input)
    };
    // One name, two stores, two passwords.
    let rows = [
        ("nora", &netbios[..], &there, Some("domain controller of FABRIKAM")),
        ("NORA", &netbios.to_lowercase(), &there, Some("domain controller of FABRIKAM")),
        ("nora", &dns, &there, Some("domain controller of FABRIKAM")),
        (&upn, "", &there, Some("domain controller of FABRIKAM")),
        ("nora", "", &here, Some("local store")),
        ("nora", ".", &here, Some("local store")),
        ("nora", "CONTOSO", &here, Some("local store")),
        ("nora", &netbios, &here, None),
        (&upn, "", &here, None),
        ("nora", "", &there, None),
        ("nora", "CONTOSO", &there, None),
        ("nora", "NOWHERE", &there, None),
        ("nora", "NOWHERE", &here, None),
        ("nora", &netbios, &"wrong".to_owned(), None),
    ];
    for (user, domain, password, by) in rows {
        let before = service.audit("master_secret_delivered").len();
        let done = ask(user, domain, password);
        let delivered = service.audit("master_secret_delivered").split_off(before);
        match by {
            Some(by) => {
                assert_eq!(done["answers"], json!([success(false)]), r"{domain}\{user} {done:#}");
                assert_eq!(delivered[0]["authenticated_by"], by, r"{domain}\{user}");
            }
            None => {
                let is_refused = done["answers"] == json!([{ "fault": 5 }]) || !done["error"].is_null();
                assert!(is_refused && delivered.is_empty(), r"{domain}\{user} {done:#}");
            }
        }
    }
    let by_group = &service.audit("master_secret_delivered")[0];
    assert_eq!(by_group["administrator"], format!("sid:{}", dc.text("group")), "{by_group:#}");
    assert!(
        by_group["user_sid"].as_str().is_some_and(|sid| sid.starts_with(&dc.text("sid"))),
        "{by_group:#}"
    );
    // An administrator of the domain is none of the secret.
    let administrator = ask("Administrator", &netbios, "Fabrikam-admin-1");
    assert_eq!(administrator["answers"], json!([failure(0x8063_0005)]), "{administrator:#}");
    // The names of the CHALLENGE are those of the channel's account.
    let names = target_names(&recorder.recorded());
    let expected = [(2, "FABRIKAM"), (1, "WEB01"), (4, "fabrikam.example"), (3, "web01.fabrikam.example")];
    assert_eq!(names, expected.map(|(id, name)| (id, name.to_owned())));
    let answers = service.get("/metrics").1;
    let label = format!(
        "domain=\"{netbios}\",server=\"{}:{}\",package=\"NTLM\"",
        dc.text("address"),
        dc.text("port")
    );
    assert!(answers.contains(&format!("rcmpd_peer_answers_total{{{label}}}")), "{answers}");
    // Without a controller nothing is decided, and the local store is not asked instead.
    drop(dc);
    for password in [&there, &here] {
        let done = ask("nora", &netbios, password);
        assert!(done["answers"] == json!([{ "fault": 5 }]) || !done["error"].is_null(), "{done:#}");
    }
    let refused = service.audit("authentication_refused");
    assert!(refused.iter().any(|line| line["reason"] == "unavailable"), "{refused:#?}");
    assert_eq!(ask("nora", "", &here)["answers"], json!([success(false)]));
    assert!(!recorder.has_part_of(&KEY, 4));
}
