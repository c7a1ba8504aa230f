//! Impacket as a client: opnums 4, 26, 21 and 39, NDR, no header signing, inner encryption of its own.

use crate::{ACCOUNTS, Expected, LOGON_FAILURE, SUCCESS, sid};
use rcmpd_tests::directory_store::into_directory;
use rcmpd_tests::peers::{impacket, question, question_with};
use rcmpd_tests::postgres::Postgres;
use rcmpd_tests::slapd::{GROUPS, PEOPLE, entry};
use rcmpd_tests::{Demo, Service, eventually};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// The answer about an account: who it is, and its PAC.
#[track_caller]
fn assert_is_of(service: &Service, account: &Expected, answer: &Value) {
    assert_eq!(answer["status"], SUCCESS, "{}: {answer:#}", account.who);
    assert_eq!(answer["authoritative"], 1);
    assert_eq!(answer["response"]["domain"], "CONTOSO");
    let logon = &answer["pac"]["logon"];
    assert_eq!(logon["user"], account.account);
    assert_eq!(logon["domain"], "CONTOSO");
    assert_eq!(logon["server"], "DC1");
    assert_eq!(logon["sid"], sid(service, account.rid));
    assert_eq!(logon["primary_group"], account.primary_group);
    let mut groups: Vec<String> = serde_json::from_value(logon["groups"].clone()).unwrap();
    groups.sort();
    let mut expected: Vec<String> = account.groups.iter().map(|rid| sid(service, *rid)).collect();
    expected.sort();
    assert_eq!(groups, expected, "{}", account.who);
    assert_eq!(logon["extra"], json!(["S-1-18-2"]));
    assert_eq!(answer["pac"]["client"]["name"], account.account);
    assert_eq!(answer["pac"]["requestor"], sid(service, account.rid));
    assert_eq!(answer["pac"]["types"], json!([1, 10, 12, 18]));
}

#[test]
fn each_demo_certificate_gets_its_answer() {
    let service = Demo::new().with_carol().serve();
    let questions: Vec<Value> = ACCOUNTS.iter().map(|account| question(&service, account.who)).collect();
    let done = impacket(&service, json!({ "capabilities": [1, 2], "questions": questions }));
    assert_eq!(done["error"], Value::Null, "{done:#}");
    assert_eq!(done["handshake"]["status"], SUCCESS);
    assert_eq!(done["handshake"]["server_proved_itself"], true);
    for (level, capabilities) in [1, 2].into_iter().zip(done["capabilities"].as_array().unwrap()) {
        assert_eq!(capabilities["level"], level);
        assert_eq!(capabilities["status"], SUCCESS);
        assert_eq!(capabilities["authenticator_good"], true);
    }
    // Level 1 tells what was negotiated, level 2 what the server received ([MS-NRPC] 3.5.4.4.11).
    assert_eq!(done["capabilities"][0]["flags"], done["handshake"]["flags"]);
    assert_eq!(done["capabilities"][1]["flags"], "0x612FFFFF");
    for (account, answer) in ACCOUNTS.iter().zip(done["answers"].as_array().unwrap()) {
        assert_is_of(&service, account, answer);
    }
}

#[test]
fn accounts_in_postgresql_get_the_same_pac_until_they_are_disabled() {
    let server = Postgres::start();
    let service = Demo::new().with_carol().into_postgres(&server, "poll_ms = 60000").serve();
    let questions: Vec<Value> = ACCOUNTS.iter().map(|account| question(&service, account.who)).collect();
    let done = impacket(&service, json!({ "questions": questions }));
    assert_eq!(done["error"], Value::Null, "{done:#}");
    for (account, answer) in ACCOUNTS.iter().zip(done["answers"].as_array().unwrap()) {
        assert_is_of(&service, account, answer);
    }
    service.rcmpd(&["account", "set", "alice", "--disable", "-c", "rcmpd.toml"]).code(0);
    // NOTIFY, long before the next poll.
    eventually("alice is disabled", || {
        let done = impacket(&service, json!({ "questions": [question(&service, "alice")] }));
        assert_eq!(done["error"], Value::Null, "{done:#}");
        done["answers"][0]["status"] == LOGON_FAILURE
    });
}

#[test]
fn alice_in_openldap_gets_her_pac_until_she_is_locked() {
    let alice = format!("uid=alice,{PEOPLE}");
    let group = |cn: &str, number: &str, member: &str| {
        let class = |class| ("objectClass", class);
        let attributes = [class("posixGroup"), class("memberGroup"), ("cn", cn), ("gidNumber", number)];
        entry(&format!("cn={cn},{GROUPS}"), &[&attributes[..], &[("member", member)]].concat())
    };
    let groups = [group("staff", "1001", &alice), group("all", "1002", &format!("cn=staff,{GROUPS}"))];
    let demo = Demo::new();
    let slapd = into_directory(&demo, &groups.concat(), "fresh_s = 1");
    let service = demo.serve();
    let ask = || {
        let done = impacket(&service, json!({ "questions": [question(&service, "alice")] }));
        assert_eq!(done["error"], Value::Null, "{done:#}");
        done["answers"][0].clone()
    };
    // Numbers of groups become RIDs from 200000 on, as the configuration says.
    let groups = &[200_000, 200_001, 200_002];
    let expected = Expected { primary_group: 200_000, groups, ..ACCOUNTS[0] };
    assert_is_of(&service, &expected, &ask());
    let checked = service.rcmpd(&["check-config", "rcmpd.toml", "--json"]).code(0).json();
    let stated = Duration::from_secs(checked["refused_after"][0]["seconds"].as_u64().unwrap());
    slapd.modify(&format!("dn: {alice}\nchangetype: modify\nadd: nsAccountLock\nnsAccountLock: TRUE\n"));
    let changed = Instant::now();
    loop {
        let asked = Instant::now();
        let answer = ask();
        if answer["status"] == LOGON_FAILURE {
            break;
        }
        assert_is_of(&service, &expected, &answer);
        assert!(asked <= changed + stated, "not refused after {stated:?}");
    }
}

#[test]
fn a_certificate_of_no_account_is_a_logon_failure() {
    let service = Demo::new().serve();
    let done = impacket(
        &service,
        json!({ "questions": [question(&service, "mallory"), question(&service, "alice")] }),
    );
    assert_eq!(done["error"], Value::Null, "{done:#}");
    assert_eq!(done["answers"][0]["status"], LOGON_FAILURE);
    assert_eq!(done["answers"][0]["authoritative"], 1);
    assert_eq!(done["answers"][0]["validation"], Value::Null);
    // A refusal ends nothing.
    assert_eq!(done["answers"][1]["status"], SUCCESS);
}

#[test]
fn questions_of_every_size_are_answered_in_fragments_of_every_size() {
    let service = Demo::new().serve();
    for fragment in [100, 1000, 4280] {
        let sizes = [0, 5_000, 5_840, 70_000, 262_144];
        let questions: Vec<Value> =
            sizes.iter().map(|size| question_with(&service, "alice", json!({ "pad_to": size }))).collect();
        let done = impacket(&service, json!({ "fragment": fragment, "questions": questions }));
        assert_eq!(done["error"], Value::Null, "{fragment}: {done:#}");
        for (size, answer) in sizes.iter().zip(done["answers"].as_array().unwrap()) {
            assert_eq!(answer["status"], SUCCESS, "{size} bytes in fragments of {fragment}");
            assert!(answer["request_length"].as_u64().unwrap() >= *size);
        }
    }
    let long = question_with(&service, "alice", json!({ "pad_to": 262_145 }));
    let done = impacket(&service, json!({ "questions": [long, question(&service, "alice")] }));
    assert_eq!(done["answers"][0]["status"], "0xC000000D", "{done:#}");
    assert_eq!(done["answers"][1]["status"], SUCCESS);
}

#[test]
fn what_is_not_a_question_gets_its_status() {
    let service = Demo::new().serve();
    let alice = |more| question_with(&service, "alice", more);
    let cases = [
        ("an unknown package", alice(json!({ "package": "Nonsense" })), "0xC00000FE"),
        (
            "a package of another case",
            alice(json!({ "package": "microsoft unified security protocol provider" })),
            SUCCESS,
        ),
        ("another domain", alice(json!({ "logon_domain": "ELSEWHERE" })), "0xC0000064"),
        ("our domain by its DNS name", alice(json!({ "logon_domain": "contoso.example" })), SUCCESS),
        ("no domain", alice(json!({ "logon_domain": "" })), SUCCESS),
        ("validation level 6", alice(json!({ "validation_level": 6 })), "0xC0000003"),
        ("another computer", alice(json!({ "computer": "OTHERPC" })), "0xC0000022"),
        ("a server of another name", alice(json!({ "server": r"\\ELSEWHERE" })), SUCCESS),
        ("a question in the clear", alice(json!({ "inner_encryption": false })), "0xC000000D"),
        ("one byte", json!({ "data": "02" }), "0xC000000D"),
        ("no byte", json!({ "data": "" }), "0xC000000D"),
        ("no method", alice(json!({ "flags": 0 })), LOGON_FAILURE),
        ("the chain alone", alice(json!({ "flags": 0x80 })), LOGON_FAILURE),
        ("unknown methods beside a known one", alice(json!({ "flags": 0xffff_ff1fu32 })), SUCCESS),
        (
            "a certificate of rubbish",
            json!({ "data": "020000002000000018000000080000001000000000000000ffffffffffffffff" }),
            LOGON_FAILURE,
        ),
    ];
    let questions: Vec<&Value> = cases.iter().map(|(_, question, _)| question).collect();
    let done = impacket(&service, json!({ "questions": questions }));
    assert_eq!(done["error"], Value::Null, "{done:#}");
    for ((what, _, expected), answer) in cases.iter().zip(done["answers"].as_array().unwrap()) {
        assert_eq!(answer["status"], *expected, "{what}: {answer:#}");
    }
}

#[test]
fn a_channel_without_a_seal_answers_nothing() {
    let service = Demo::new().serve();
    let done = impacket(&service, json!({ "level": "sign", "questions": [question(&service, "alice")] }));
    assert_eq!(done["answers"][0]["status"], "0xC0000022", "{done:#}");
    let done = impacket(&service, json!({ "level": "none", "questions": [question(&service, "alice")] }));
    assert_eq!(done["answers"][0]["status"], "0xC0000022", "{done:#}");
}

#[test]
fn a_wrong_secret_and_a_client_without_aes_are_refused() {
    let service = Demo::new().serve();
    let done = impacket(&service, json!({ "nt_hash": "00112233445566778899aabbccddeeff", "questions": [] }));
    assert_eq!(done["handshake"]["status"], "0xC0000022", "{done:#}");
    let done = impacket(&service, json!({ "negotiate_flags": 0x602F_FFFFu32, "questions": [] }));
    assert_eq!(done["handshake"]["status"], "0xC0000388", "{done:#}");
    assert_eq!(done["handshake"]["flags"], "0x00000000");
    let done = impacket(&service, json!({ "account": "NOBODY$", "questions": [] }));
    assert_eq!(done["handshake"]["status"], "0xC000018B", "{done:#}");
}
