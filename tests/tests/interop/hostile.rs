//! A hostile client on sockets of its own, without and with header signing.

use rcmpd_tests::peers::attack;
use rcmpd_tests::{Demo, Service};
use serde_json::{Value, json};

const ACCESS_DENIED: &str = "0xC0000022";
const DOWNGRADE: &str = "0xC0000388";
/// RPC_S_SEC_PKG_ERROR, after which the connection is closed.
fn seal_broken() -> Value {
    json!({ "fault": "0x00000721", "closed": true })
}

const ATTACKS: [&str; 12] = [
    "honest",
    "downgrade",
    "repeated_challenge",
    "replay",
    "flip",
    "sign_only",
    "unauthenticated",
    "short_token",
    "other_computer",
    "no_challenge",
    "wrong_secret",
    "unknown_account",
];

fn attacked(service: &Service, header_signing: bool) -> Value {
    let certificate = service.certificate("alice");
    attack(
        service,
        json!({ "certificate": certificate, "header_signing": header_signing, "attacks": ATTACKS }),
    )
}

fn check(header_signing: bool) {
    let service = Demo::new().serve();
    let done = attacked(&service, header_signing);
    let good = json!({ "status": "0x00000000" });
    assert_eq!(done["honest"], good, "{done:#}");

    // [MS-NRPC] 3.5.4.4.2: without AES, the refusal tells nothing else and returns no flag.
    for what in ["no_aes", "rc4", "des"] {
        assert_eq!(done["downgrade"][what], json!({ "status": DOWNGRADE, "flags": "0x00000000" }), "{what}");
    }
    assert_eq!(done["downgrade"]["authenticate1"], json!({ "status": DOWNGRADE }));

    assert_eq!(done["repeated_challenge"]["first"]["status"], "0x00000000");
    assert_eq!(done["repeated_challenge"]["second"]["status"], ACCESS_DENIED);
    assert_eq!(done["no_challenge"]["status"], ACCESS_DENIED);
    assert_eq!(done["wrong_secret"]["status"], ACCESS_DENIED);
    assert_eq!(done["unknown_account"]["status"], "0xC000018B");

    assert_eq!(done["replay"]["first"], good);
    assert_eq!(done["replay"]["second"], seal_broken());
    assert_eq!(done["short_token"], seal_broken());
    assert_eq!(done["sign_only"]["status"], ACCESS_DENIED);
    assert_eq!(done["unauthenticated"]["status"], ACCESS_DENIED);

    assert_eq!(done["other_computer"]["handshake"]["status"], ACCESS_DENIED);
    assert_eq!(done["other_computer"]["call"]["status"], ACCESS_DENIED);
    assert_ne!(done["other_computer"]["bind"]["status"], "0x00000000", "{done:#}");

    let flips = done["flip"].as_object().unwrap();
    for (place, outcome) in flips {
        let unsigned_header =
            !header_signing && ["alloc_hint", "opnum", "call_id", "auth_pad_length"].contains(&&place[..]);
        match &place[..] {
            // Nothing covers these without header signing, so the seal cannot break; what they change is
            // refused or harmless.
            _ if unsigned_header => assert_ne!(outcome["silent"], true, "{place}: {outcome}"),
            // Bytes that no signature covers and that no server reads ([MS-NRPC] 2.2.1.3.3: must be ignored).
            "reserved" => assert_eq!(*outcome, good, "{place}"),
            // No such security context.
            "auth_context_id" => assert_eq!(*outcome, json!({ "fault": "0x00000005", "closed": true })),
            _ => assert_eq!(*outcome, seal_broken(), "{place}"),
        }
    }
    assert_eq!(flips.len(), 15);
    // And it still answers the honest.
    let alice = service.map("alice").code(0).json();
    assert_eq!(alice["account"], "alice");
}

#[test]
fn every_attack_is_refused_with_header_signing() {
    check(true);
}

#[test]
fn every_attack_is_refused_without_header_signing() {
    check(false);
}

/// Zero challenges and zero credentials, 256 times: not one is let in, with the flags of the published attack
/// and with all that we demand.
#[test]
fn zerologon_is_refused() {
    for (flags, status) in [(0x212f_ffffu32, DOWNGRADE), (0x612f_ffff, ACCESS_DENIED)] {
        let service = Demo::new().serve();
        let done = attack(&service, json!({ "attacks": ["zerologon"], "zerologon_flags": flags }));
        assert_eq!(done["zerologon"], json!({ status: 256 }), "{done:#}");
    }
}
