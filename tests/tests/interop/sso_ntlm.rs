//! NTLM and SPNEGO at the running master secret server: Samba's own tests, Impacket's ntlmrelayx, and
//! messages that differ in one point from a client's.

use crate::sso::{KEY, demo, success};
use rcmpd_tests::mit::MitKdc;
use rcmpd_tests::peers::{SAMBA_PYTHON, SsoRelay, run, sso_attacks, sso_impacket, sso_samba, with};
use rcmpd_tests::recorder::Recorder;
use rcmpd_tests::{Demo, Service};
use rpc_auth::kerberos::{CredentialCache, KerberosInitiator, Principal};
use rpc_auth::{Initiator, InitiatorStep};
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::time::SystemTime;

/// What Samba's tests of raw DCE/RPC say of the server that is asked for: how many ran, and which failed.
fn samba_s_tests(service: &Service, host: &str, providers: &[&str]) -> (usize, Vec<String>) {
    let input = json!({
        "host": host, "providers": providers, "user": "alice", "password": service.password("alice"), "domain": "CONTOSO",
    });
    let done = run(service.beside(SAMBA_PYTHON), "samba_raw.py", &input);
    let failed = done["failed"].as_object().expect("an object");
    for (name, text) in failed {
        eprintln!("{name}: {text}");
    }
    (done["ran"].as_array().expect("a list").len(), failed.keys().cloned().collect())
}

/// Where the service differs from Windows, in alphabetical order. What differs is when and by which number a
/// client is refused whose NTLM flags lack what its level needs. The wire tells no reason, and the flag is
/// one; a level that was not negotiated is refused with the last leg ([MS-RPCE] 3.3.1.5.2.2).
const DIFFERS: &[&str] = &[
    // Windows completes the context, and refuses its first call with RPC_S_SEC_PKG_ERROR.
    "test_spnego_integrity_bind_none",
    "test_spnego_packet_bind_none",
    // Windows has RPC_S_SEC_PKG_ERROR instead of RPC_S_ACCESS_DENIED.
    "test_spnego_privacy_bind_none",
    "test_spnego_privacy_bind_sign",
];

/// What Windows does with NTLM and SPNEGO in PDUs that clients do not send, as Samba wrote it down.
#[test]
fn samba_s_tests_of_ntlm_and_spnego_pass_at_the_service_s_own_port() {
    let demo = Demo::with_master_secret();
    // The tests have port 135 written in them, and in the server's answers. The endpoint mapper has it at
    // another address.
    demo.edit(|text| {
        let (before, section) = text.split_once("[sso]").expect("there is one");
        format!("{before}[sso]{}", section.replacen("127.0.0.1:0", "127.0.0.2:135", 1))
    });
    let service = demo.serve_alone();
    assert_eq!(service.master_secret().to_string(), "127.0.0.2:135");
    assert_eq!(samba_s_tests(&service, "127.0.0.2", &["ntlm"]), (45, vec![]));
    let (ran, failed) = samba_s_tests(&service, "127.0.0.2", &["spnego"]);
    assert_eq!(failed, DIFFERS);
    assert_eq!(ran, 38);
    // The endpoint mapper has the same providers, and what is without users beside them.
    assert_eq!(samba_s_tests(&service, "127.0.0.1", &["ntlm"]), (45, vec![]));
    let (ran, failed) = samba_s_tests(&service, "127.0.0.1", &[]);
    assert_eq!(failed, [""; 0]);
    assert!(ran >= 80, "{ran}");
}

fn alice_is_served(service: &Service, when: &str) {
    let done = sso_impacket(service, json!({}));
    assert_eq!(done["answers"], json!([success(false)]), "{when}: {done:#}");
}

/// A client that was lured to the relay, which passes its proof on and has no key.
#[test]
fn ntlmrelayx_gets_fault_5_whatever_it_removes() {
    let service = demo().serve();
    let recorder = Recorder::new(service.master_secret());
    let (sign, seal, wide, exchange) = (0x10, 0x20, 0x2000_0000, 0x4000_0000_u32);
    let rows = [
        json!({}),
        json!({ "remove": ["mic"] }),
        json!({ "remove": ["mic"], "level": 6 }),
        json!({ "remove": ["sign_seal"], "level": 6 }),
        json!({ "remove": ["mic", "sign_seal"], "level": 6 }),
        json!({ "remove": ["target"], "level": 6 }),
        json!({ "other": 1, "level": 6 }),
        json!({ "twice": 1, "level": 6 }),
        json!({ "twice": 7, "level": 6 }),
        json!({ "clear": sign, "level": 6 }),
        json!({ "clear": seal, "level": 6 }),
        json!({ "clear": wide, "level": 6 }),
        json!({ "clear": exchange, "level": 6 }),
    ];
    let relayed = |row: &Value, victim: &str| {
        let relay = SsoRelay::start(recorder.address, row);
        let done = match victim {
            "Impacket" => sso_impacket(&service, json!({ "port": relay.port })),
            _ => sso_samba(&service, json!({ "port": relay.port, "mechanism": "ntlm" })),
        };
        let answers = relay.finish();
        for answer in &answers {
            // A bind that is refused already has no call. Where nothing of the proof was changed it was
            // accepted, and a call that is not sealed breaks the protocol.
            let is_refused = answer == &json!({ "fault": 5 }) || answer["error"].is_string();
            let breaks = answer == &json!({ "fault": 0x1c01_000b }) && row["level"] == 6;
            assert!(is_refused || breaks, "{row} {victim}: {answers:?}");
        }
        if victim == "Impacket" && row["remove"].as_array().is_some_and(|removed| removed[0] != "target") {
            assert_eq!(answers, [json!({ "fault": 5 })], "{row} {done:#}");
        }
        // The client got nothing, either.
        assert!(!done["answers"].to_string().contains("stub"), "{row} {victim}: {done:#}");
        answers.len()
    };
    for some in rows.chunks(4) {
        std::thread::scope(|threads| {
            let started: Vec<_> = some
                .iter()
                .map(|row| threads.spawn(|| relayed(row, "Impacket") + relayed(row, "Samba")))
                .collect();
            // At the latest Impacket answers a changed CHALLENGE, so that each row was tried.
            started.into_iter().for_each(|it| assert!(it.join().expect("no row panics") > 0));
        });
    }
    let reasons: Vec<_> =
        service.audit("authentication_refused").iter().map(|line| line["reason"].clone()).collect();
    for reason in ["mic", "flags", "target-info", "token"] {
        assert!(reasons.contains(&json!(reason)), "{reason}: {reasons:?}");
    }
    assert_eq!(service.audit("master_secret_delivered").len(), 0);
    assert!(!recorder.recorded().is_empty());
    let through = sso_impacket(&service, json!({ "port": recorder.address.port() }));
    assert_eq!(through["answers"], json!([success(false)]), "{through:#}");
    assert!(!recorder.has_part_of(&KEY, 4), "the secret passes in clear");
}

/// One case for each reason, which the audit log has and the wire has not.
#[test]
fn each_refusal_has_its_reason_in_the_audit_log_and_the_same_answer() {
    let service = demo().serve();
    let (sign, seal, wide, exchange) = (0x10, 0x20, 0x2000_0000, 0x4000_0000_u32);
    let mechanism = json!(["1.3.6.1.4.1.311.2.2.11"]);
    let rows = [
        ("mic", json!({ "mic": "wrong" })),
        ("mic", json!({ "auth": "spnego", "mic": "wrong" })),
        ("list-mic", json!({ "auth": "spnego", "mic": "good", "list_mic": "wrong" })),
        ("proof", json!({ "proof": "wrong" })),
        ("proof", json!({ "user": "unknown" })),
        ("proof", json!({ "password": "" })),
        ("level", json!({ "later_level": 2 })),
        ("level", json!({ "auth": "spnego", "later_level": 5 })),
        ("level", json!({ "level": 3 })),
        ("flags", json!({ "clear": sign })),
        ("flags", json!({ "clear": seal })),
        ("flags", json!({ "clear": wide })),
        ("flags", json!({ "clear": exchange })),
        ("target-info", json!({ "pairs": { "7": null } })),
        ("target-info", json!({ "pairs": { "1": "58005800" } })),
        ("target-info", json!({ "pairs": { "2": "58005800" }, "mic": "good" })),
        ("token", json!({ "twice": 1 })),
        ("token", json!({ "twice": 6, "mic": "good" })),
        ("token", json!({ "nt_response": "00".repeat(24) })),
        ("token", json!({ "session_key": "0000" })),
        ("token", json!({ "auth": "spnego", "truncate": 80 })),
        ("anonymous", json!({ "user": "" })),
        ("anonymous", json!({ "nt_response": "" })),
        ("mechanism", json!({ "auth": "spnego", "mechanisms": mechanism })),
    ];
    let cases: Vec<_> = rows.iter().map(|(_, case)| case).collect();
    let answers = sso_attacks(&service, &json!(cases));
    for ((_, case), answer) in rows.iter().zip(&answers) {
        // A first leg that is refused is a bind_nak, whatever the reason: invalid checksum.
        assert!(*answer == json!({ "fault": 5 }) || *answer == json!({ "nak": 9 }), "{case} {answer}");
    }
    let refused = service.audit("authentication_refused");
    let found = refused.iter().map(|line| (line["reason"].clone(), line["mechanism"].clone()));
    let expected = rows
        .iter()
        .map(|(reason, case)| (json!(reason), case.get("auth").cloned().unwrap_or_else(|| json!("ntlm"))));
    assert_eq!(found.collect::<Vec<_>>(), expected.collect::<Vec<_>>(), "{refused:#?}");
    // The same messages without the difference authenticate. The call is not sealed, which ends them.
    let good = json!([
        {},
        { "mic": "good" },
        { "auth": "spnego" },
        { "auth": "spnego", "mic": "good", "list_mic": "good" },
    ]);
    let answers = sso_attacks(&service, &good);
    assert_eq!(answers, vec![json!({ "fault": 0x1c01_000b }); 4]);
    assert_eq!(service.audit("authentication_refused").len(), refused.len(), "{answers:?}");
    assert_eq!(service.audit("master_secret_delivered").len(), 0);
    alice_is_served(&service, "after all of them");
    let metrics = service.get("/metrics").1;
    for (reason, _) in &rows {
        assert!(metrics.contains(&format!("reason=\"{reason}\"")), "{reason}: {metrics}");
    }
}

/// `allowed_spns` is of clients that say which service they mean.
#[test]
fn client_that_means_another_service_is_refused_where_spns_are_configured() {
    let demo = demo();
    demo.edit(|text| {
        text.replace("[sso.ntlm]", "[sso.ntlm]\nallowed_spns = [\"host/sso1.contoso.example\"]\n")
    });
    let service = demo.serve();
    let spn = |text: &str| {
        let bytes: Vec<u8> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
        json!({ "pairs": { "9": dtyp::hex(&bytes) }, "mic": "good" })
    };
    let other = json!({ "pairs": { "9": "", "6": "06000000" }, "mic": "good" });
    let cases = json!([json!({}), spn("cifs/dc1.contoso.example"), spn(""), other]);
    sso_attacks(&service, &cases);
    let refused = service.audit("authentication_refused");
    assert_eq!(refused.iter().filter(|line| line["reason"] == "spn").count(), 4, "{refused:#?}");
    let answers = sso_attacks(&service, &json!([spn("HOST/sso1.contoso.example")]));
    assert_eq!(answers, [json!({ "fault": 0x1c01_000b })]);
    assert_eq!(service.audit("authentication_refused").len(), 4);
}

/// A bind to the interface with this token, of a new context.
fn bind(auth_type: u8, token: &[u8]) -> Vec<u8> {
    // 9d07ca0d-8f02-4ed5-b727-acf37fea5bbc 1.0 in NDR 2.0.
    let interface = [
        0x0d, 0xca, 7, 0x9d, 2, 0x8f, 0xd5, 0x4e, 0xb7, 0x27, 0xac, 0xf3, 0x7f, 0xea, 0x5b, 0xbc, 1, 0, 0, 0,
    ];
    let ndr =
        [4, 0x5d, 0x88, 0x8a, 0xeb, 0x1c, 0xc9, 0x11, 0x9f, 0xe8, 8, 0, 0x2b, 0x10, 0x48, 0x60, 2, 0, 0, 0];
    let len = u16::try_from(16 + 56 + 8 + token.len()).expect("a short token");
    let token_len = u16::try_from(token.len()).expect("a short token");
    let mut pdu = vec![5, 0, 11, 3, 0x10, 0, 0, 0];
    pdu.extend([len.to_le_bytes(), token_len.to_le_bytes()].concat());
    pdu.extend([1, 0, 0, 0, 0xb8, 0x10, 0xb8, 0x10, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 1, 0]);
    pdu.extend([&interface[..], &ndr, &[auth_type, 6, 0, 0, 1, 0, 0, 0], token].concat());
    pdu
}

/// Sends a first leg and leaves: the type of the answer.
fn leave(address: SocketAddr, bind: &[u8]) -> u8 {
    let mut stream = TcpStream::connect(address).expect("it listens");
    stream.write_all(bind).expect("it reads");
    let mut head = [0; 16];
    stream.read_exact(&mut head).expect("it answers");
    head[2]
}

const BIND_ACK: u8 = 12;
const BIND_NAK: u8 = 13;

/// Clients that leave after their first leg.
#[test]
fn contexts_that_are_left_half_open_take_no_memory() {
    let kdc = MitKdc::with_service("host/127.0.0.1", &["ssoadmin"]);
    let demo = demo();
    demo.accept_tickets(&kdc.path("keytab"), &[("MIT.TEST", "mit")], &["principal:ssoadmin@MIT.TEST"]);
    let service = demo.serve();
    let address = service.master_secret();
    let cache = kdc.ticket("ssoadmin", "host/127.0.0.1");
    let cache = CredentialCache::decode(&std::fs::read(cache).expect("it is there")).expect("a cache");
    let name = Principal::parse("host/127.0.0.1", "MIT.TEST").expect("a principal");
    let ticket = cache.find(&name, SystemTime::now().into()).expect("there is a ticket");
    // Each AP-REQ is another one: it was not seen before.
    let kerberos = || {
        let initiator = Box::new(KerberosInitiator::new(ticket.clone()));
        let mut entropy = |bytes: &mut [u8]| getrandom::fill(bytes).expect("there is randomness");
        match initiator.step(None, SystemTime::now().into(), &mut entropy) {
            Ok(InitiatorStep::Continue { token, .. }) => bind(16, &token),
            _ => panic!("the first of three legs"),
        }
    };
    // NEGOTIATE with what is required, and the same in NegTokenInit.
    let mut ntlm = b"NTLMSSP\0\x01\0\0\0\x35\x82\x88\xe0".to_vec();
    ntlm.resize(32, 0);
    let spnego = [
        &b"\x60\x40\x06\x06\x2b\x06\x01\x05\x05\x02\xa0\x36\x30\x34\xa0\x0e\x30\x0c\x06\x0a"[..],
        b"\x2b\x06\x01\x04\x01\x82\x37\x02\x02\x0a\xa2\x22\x04\x20",
        &ntlm,
    ];
    let (ntlm, spnego, junk) = (bind(10, &ntlm), bind(9, &spnego.concat()), bind(16, &[0x6e; 700]));
    let leave_some = |count: usize| {
        for _ in 0..count {
            assert_eq!(leave(address, &ntlm), BIND_ACK);
            assert_eq!(leave(address, &spnego), BIND_ACK);
            assert_eq!(leave(address, &kerberos()), BIND_ACK);
            assert_eq!(leave(address, &junk), BIND_NAK);
        }
    };
    leave_some(1_000);
    let before = service.allocated_kib();
    leave_some(10_000);
    let grown = service.allocated_kib().saturating_sub(before);
    // Contexts of 1 KiB each would be 30 MiB. Each authenticator is kept for the clock skew, so that it is
    // not taken twice.
    assert!(grown < 6 * 1024, "{grown} KiB");
    alice_is_served(&service, "after clients that left");
    let refused = service.audit("authentication_refused");
    assert!(
        refused.iter().all(|line| line["reason"] == "token" && line["mechanism"] == "kerberos"),
        "{refused:#?}"
    );
}

/// Hardened clients authenticate to the endpoint mapper, too.
#[test]
fn endpoint_mapper_gives_the_tower_to_samba_s_authenticated_binds() {
    let kdc = MitKdc::with_service("host/sso1.mit.test", &["ssoadmin"]);
    let demo = demo();
    demo.accept_tickets(&kdc.path("keytab"), &[("MIT.TEST", "mit")], &["principal:ssoadmin@MIT.TEST"]);
    let service = demo.serve();
    let found = |more: Value| {
        let input = with(json!({ "host": "127.0.0.1", "port": service.endpoint_mapper.port() }), more);
        let mut command = Command::new(SAMBA_PYTHON);
        command.env("KRB5_CONFIG", kdc.path("krb5.conf"));
        run(command, "samba_mapper.py", &input)
    };
    let expected = json!({ "ports": [service.master_secret().port()], "error": null });
    let cache = kdc.ticket("ssoadmin", "host/sso1.mit.test");
    for level in ["connect", "sign", "seal"] {
        for mechanism in ["ntlm", "spnego"] {
            let user = json!({
                "options": [mechanism, level], "user": "alice", "password": service.password("alice"),
            });
            assert_eq!(found(user), expected, "{mechanism} {level}");
        }
        for mechanism in ["krb5", "spnego"] {
            let ticket = json!({
                "options": [mechanism, level], "cache": cache, "realm": "MIT.TEST", "service": "host/sso1.mit.test@MIT.TEST",
            });
            assert_eq!(found(ticket), expected, "{mechanism} {level}");
        }
    }
    // Without a user, as most clients ask.
    let done = sso_impacket(&service, json!({ "mapper": service.endpoint_mapper.port() }));
    assert_eq!(done["answers"], json!([success(false)]), "{done:#}");
    assert_eq!(service.audit("authentication_refused").len(), 0);
}

/// Hardened domain controllers refuse proofs whose CHALLENGE had other names than the secure channel's
/// account (CVE-2022-21857).
#[test]
fn challenge_with_names_of_another_account_is_an_error_before_start() {
    let demo = demo();
    demo.configure(
        "[[sso.ntlm.domain]]\ndomain = \"FABRIKAM\"\nsid = \"S-1-5-21-7-8-9\"\nnames = [\"fabrikam.example\"]\n\
         servers = [\"127.0.0.1:1\"]\naccount = \"OTHER$\"\nsecret = \"file:machines/WEB01.secret\"",
    );
    let checked = demo.rcmpd(&["check-config", "rcmpd.toml"]);
    let said = [checked.stdout, checked.stderr].concat();
    assert_ne!(checked.code, 0, "{said}");
    let expected =
        "the NTLM computer name is DC1, and the secure channel's account OTHER$ in FABRIKAM has OTHER";
    assert!(said.contains(expected), "{said}");
    let served = demo.rcmpd(&["serve", "-c", "rcmpd.toml"]);
    assert_ne!(served.code, 0);
    assert!(served.stderr.contains(expected), "{}", served.stderr);
}
