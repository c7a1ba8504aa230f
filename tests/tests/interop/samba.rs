//! Samba's stack as a client: opnums 4, 15, 21 and 39, header signing, NDR and NDR64, both byte orders; and
//! Samba's bindings as the reader of our PAC.

use crate::{ACCOUNTS, Expected, LOGON_FAILURE, SUCCESS, sid};
use rcmpd_tests::peers::{SAMBA_PYTHON, question, question_with, run, samba};
use rcmpd_tests::{Demo, Service};
use serde_json::{Value, json};

const NEVER: u64 = 0x7fff_ffff_ffff_ffff;
/// SE_GROUP_MANDATORY, ENABLED_BY_DEFAULT and ENABLED; with SE_GROUP_RESOURCE for local groups ([MS-PAC]
/// 2.2.1).
const GROUP: u32 = 0x7;
const LOCAL_GROUP: u32 = 0x2000_0007;

fn every_account(variant: Value, transfer_syntax: &str) {
    let service = Demo::new().with_carol().serve_alone();
    let mut questions: Vec<Value> = ACCOUNTS.iter().map(|account| question(&service, account.who)).collect();
    questions.push(question(&service, "mallory"));
    let mut input = json!({ "capabilities": [1], "questions": questions });
    input.as_object_mut().unwrap().extend(variant.as_object().unwrap().clone());
    let done = samba(&service, input);
    assert_eq!(done["error"], Value::Null, "{done:#}");
    assert_eq!(done["transfer_syntax"], transfer_syntax);
    assert_eq!(done["capabilities"][0]["status"], SUCCESS);
    let answers = done["answers"].as_array().unwrap();
    for (account, answer) in ACCOUNTS.iter().zip(answers) {
        assert_eq!(answer["status"], SUCCESS, "{}: {answer:#}", account.who);
        assert_eq!(answer["response"]["domain"], "CONTOSO");
        check_pac(&service, account, &answer["pac"]);
    }
    assert_eq!(answers[4]["status"], LOGON_FAILURE);
}

/// Every field of the PAC, as [MS-RCMP] 3.5.1 and [MS-PAC] have them filled.
fn check_pac(service: &Service, account: &Expected, pac: &Value) {
    let computer = account.account.ends_with('$');
    let dns = "contoso.example";
    assert_eq!(pac["version"], 0);
    assert_eq!(pac["types"], json!([1, 10, 12, 18]));
    assert_eq!(pac["repacked"], true, "Samba writes other bytes than ours");
    let info = pac["logon_info"].as_object().unwrap();
    // Created by the quickstart, at the time the password was set.
    let set = info["password_last_set"].as_u64().unwrap();
    assert!(set > 133_000_000_000_000_000 && set < NEVER, "{set}");
    let expected = [
        ("logoff_time", json!(NEVER)),
        ("kick_off_time", json!(NEVER)),
        ("password_can_change", json!(set)),
        ("password_must_change", json!(NEVER)),
        ("effective_name", json!(account.account)),
        ("full_name", json!(account.full_name)),
        ("logon_script", json!("")),
        ("profile_path", json!("")),
        ("home_directory", json!("")),
        ("home_directory_drive", json!("")),
        ("logon_count", json!(0)),
        ("bad_password_count", json!(0)),
        ("user_id", json!(account.rid)),
        ("primary_group_id", json!(account.primary_group)),
        // Extra SIDs are there (0x20), and so are resource groups where there are any (0x200).
        ("user_flags", json!(if account.local.is_empty() { 0x20 } else { 0x220 })),
        ("session_key", json!("00".repeat(16))),
        ("logon_server", json!("DC1")),
        ("logon_domain", json!("CONTOSO")),
        ("domain_sid", json!(service.domain_sid())),
        ("user_sid", json!(sid(service, account.rid))),
        ("user_account_control", json!(if computer { 0x80 } else { 0x10 })),
        ("sub_auth_status", json!(0)),
        ("last_successful_logon", json!(0)),
        ("last_failed_logon", json!(0)),
        ("failed_logon_count", json!(0)),
        ("extra_sids", json!([{ "sid": "S-1-18-2", "attributes": GROUP }])),
        (
            "resource_domain_sid",
            if account.local.is_empty() { Value::Null } else { json!(service.domain_sid()) },
        ),
    ];
    for (field, value) in &expected {
        assert_eq!(&info[*field], value, "{}: {field}", account.who);
    }
    check_groups(&info["groups"], account.groups, GROUP);
    check_groups(&info["resource_groups"], account.local, LOCAL_GROUP);
    let known = ["logon_time", "password_last_set", "groups", "resource_groups"];
    for field in info.keys() {
        assert!(
            known.contains(&&field[..]) || expected.iter().any(|(name, _)| name == field),
            "{field} is not checked"
        );
    }

    // Both are when the answer was built ([MS-PAC] 2.7: they must agree).
    assert_eq!(pac["client_info"]["client_id"], info["logon_time"]);
    assert_eq!(pac["client_info"]["name"], account.account);
    let upn = if computer { format!("{}@{dns}", account.account) } else { format!("{}@{dns}", account.who) };
    let upn_dns = &pac["upn_dns_info"];
    assert_eq!(upn_dns["upn"], upn);
    assert_eq!(upn_dns["dns_domain"].as_str().unwrap().to_lowercase(), dns);
    // 2: the extended form; 1: the UPN was made up, because the account has none ([MS-PAC] 2.10).
    assert_eq!(upn_dns["flags"], if computer { 3 } else { 2 });
    assert_eq!(upn_dns["sam_name"], account.account);
    assert_eq!(upn_dns["sid"], sid(service, account.rid));
    assert_eq!(pac["requestor"], sid(service, account.rid));
}

#[track_caller]
fn check_groups(found: &Value, expected: &[u32], attributes: u32) {
    let mut found = found.as_array().unwrap().clone();
    found.sort_by_key(|group| group["rid"].as_u64());
    let expected: Vec<Value> =
        expected.iter().map(|rid| json!({ "rid": rid, "attributes": attributes })).collect();
    assert_eq!(found, expected);
}

const NDR: &str = "8a885d04-1ceb-11c9-9fe8-08002b104860";
const NDR64: &str = "71710533-beba-4937-8319-b5dbef9ccc36";

#[test]
fn answers_in_ndr() {
    every_account(json!({}), NDR);
}

#[test]
fn answers_in_ndr64() {
    every_account(json!({ "ndr64": true }), NDR64);
}

#[test]
fn answers_a_big_endian_client() {
    every_account(json!({ "bigendian": true }), NDR);
}

#[test]
fn answers_a_big_endian_client_in_ndr64() {
    every_account(json!({ "ndr64": true, "bigendian": true }), NDR64);
}

#[test]
fn questions_of_every_size_are_answered() {
    let service = Demo::new().serve_alone();
    for variant in [json!({}), json!({ "ndr64": true }), json!({ "bigendian": true })] {
        let questions =
            [6_000, 40_000].map(|size| question_with(&service, "alice", json!({ "pad_to": size })));
        let mut input = json!({ "questions": questions });
        input.as_object_mut().unwrap().extend(variant.as_object().unwrap().clone());
        let done = samba(&service, input);
        assert_eq!(done["error"], Value::Null, "{variant}: {done:#}");
        for answer in done["answers"].as_array().unwrap() {
            assert_eq!(answer["status"], SUCCESS, "{variant}");
        }
    }
}

#[test]
fn a_channel_that_only_signs_answers_nothing() {
    let service = Demo::new().serve_alone();
    let done = samba(&service, json!({ "level": "sign", "questions": [question(&service, "alice")] }));
    // Its check of the capabilities is refused already.
    assert_eq!(done["error"]["step"], "bind", "{done:#}");
    assert_eq!(done["answers"], json!([]));
    // The channel itself was good.
    assert!(service.log().contains("Secure channel established"));
}

/// What Windows does with PDUs that no library sends, as Samba wrote it down: bind and alter_context with any
/// flags, fragments in every order, hints, cancels, orphans, association groups.
#[test]
fn samba_s_own_tests_of_raw_dce_rpc_pass() {
    let service = Demo::new().serve_alone();
    let done = run(service.beside(SAMBA_PYTHON), "samba_raw.py", &json!({ "host": "127.0.0.1" }));
    let failed = done["failed"].as_object().unwrap();
    let names: Vec<_> = failed.keys().collect();
    assert!(failed.is_empty(), "{names:?}\n{}", failed.values().next().unwrap().as_str().unwrap());
    assert!(done["ran"].as_array().unwrap().len() >= 80, "{done:#}");
}
