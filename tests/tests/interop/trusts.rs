//! Our client at a real Samba AD DC over every type of channel ([MS-NRPC] 2.2.1.3.13), beside what Impacket
//! gets there: a member's, a trusting domain's by DNS and by NetBIOS name, and another domain controller's.

use crate::domain_controller::ask;
use crate::{LOGON_FAILURE, SUCCESS};
use rcmpd_tests::peers::SambaDc;
use serde_json::{Value, json};

const WORKSTATION: u16 = 2;
const TRUSTED_DNS_DOMAIN: u16 = 3;
const TRUSTED_DOMAIN: u16 = 4;
const UAS: u16 = 5;
const SERVER: u16 = 6;
const CDC_SERVER: u16 = 7;

/// Type, the account as it goes on the wire, and the computer that asks. The DC of a trusting domain is not
/// named after the account.
const CHANNELS: [(u16, &str, &str); 4] = [
    (WORKSTATION, "WEB01$", "WEB01"),
    (TRUSTED_DNS_DOMAIN, "contoso.example.", "CONDC1"),
    (TRUSTED_DOMAIN, "CONTOSO$", "CONDC1"),
    (SERVER, "FABDC9$", "FABDC9"),
];

#[test]
fn every_type_of_channel_at_samba_s_domain_controller() {
    let dc = SambaDc::start();
    every_channel_relays_what_impacket_s_relays(&dc);
    an_account_is_for_its_own_types(&dc);
    a_trust_s_previous_secret_is_good(&dc);
}

/// Sets up a channel and asks over it, with the account's or another password.
fn channel(
    dc: &SambaDc,
    (channel_type, account, computer): (u16, &str, &str),
    password: &str,
    questions: &[String],
) -> Value {
    let options = [format!("channel={channel_type}"), format!("computer={computer}")];
    ask(dc, account, password, &[&options[..], questions].concat())
}

fn statuses(answers: &Value) -> Vec<&str> {
    answers.as_array().unwrap().iter().filter_map(|answer| answer["status"].as_str()).collect()
}

fn every_channel_relays_what_impacket_s_relays(dc: &SambaDc) {
    let requests = ["good", "bad"].map(|signature| dc.verify_pac(signature));
    let known = [SUCCESS, LOGON_FAILURE];
    for (channel_type, account, computer) in CHANNELS {
        let arguments = requests.each_ref().map(|data| format!("Kerberos={data}"));
        let ours = channel(dc, (channel_type, account, computer), &dc.secret(account), &arguments);
        assert_eq!(ours["capabilities"], "good", "type {channel_type}: {ours:#}");
        assert_eq!(statuses(&ours["answers"]), known, "type {channel_type}: {ours:#}");
        let theirs = dc.impacket(
            account,
            json!({
                "channel_type": channel_type, "computer": computer, "capabilities": [1],
                "questions": requests.each_ref().map(|data| json!({ "package": "Kerberos", "data": data })),
            }),
        );
        assert_eq!(theirs["error"], Value::Null, "type {channel_type}: {theirs:#}");
        assert_eq!(theirs["handshake"]["server_proved_itself"], true, "type {channel_type}: {theirs:#}");
        assert_eq!(theirs["capabilities"][0]["authenticator_good"], true, "type {channel_type}: {theirs:#}");
        assert_eq!(statuses(&theirs["answers"]), known, "type {channel_type}: {theirs:#}");
    }
}

fn an_account_is_for_its_own_types(dc: &SambaDc) {
    let no_account = "STATUS_NO_TRUST_SAM_ACCOUNT";
    for (channel_type, account, says) in [
        (WORKSTATION, "CONTOSO$", no_account),
        (WORKSTATION, "FABDC9$", no_account),
        (SERVER, "WEB01$", no_account),
        (SERVER, "CONTOSO$", no_account),
        (TRUSTED_DOMAIN, "WEB01$", no_account),
        (TRUSTED_DOMAIN, "CONTOSO", no_account),
        (TRUSTED_DOMAIN, "contoso.example.", no_account),
        (TRUSTED_DNS_DOMAIN, "CONTOSO$", no_account),
        (CDC_SERVER, "FABDC9$", no_account),
        (UAS, "WEB01$", "STATUS_INVALID_PARAMETER"),
        // 3.5.4.4.2 has the name with or without the dot; see below.
        (TRUSTED_DNS_DOMAIN, "contoso.example", no_account),
    ] {
        // The password is not looked at.
        let done = channel(dc, (channel_type, account, "CONDC1"), "none", &[]);
        let error = done["error"].as_str().unwrap_or_default();
        assert!(error.contains(says), "type {channel_type} as {account}: {done:#}");
    }
    // Samba 4.17 takes the last character off a DNS name, whatever it is. So the name without the dot is
    // another domain's there, and a client has to send it.
    let done = channel(dc, (TRUSTED_DNS_DOMAIN, "contoso.exampleX", "CONDC1"), &dc.secret("CONTOSO$"), &[]);
    assert_eq!(done["capabilities"], "good", "{done:#}");
}

/// The partner's controllers learn a new secret at different times, so the one before is good, also after the
/// new one was used; the one before that is not. Either type of channel changes it for both.
fn a_trust_s_previous_secret_is_good(dc: &SambaDc) {
    let by = |channel_type: u16| *CHANNELS.iter().find(|channel| channel.0 == channel_type).unwrap();
    let trust = &dc.facts["trusts"]["CONTOSO"];
    let mut before = trust["previous"].as_str().unwrap().to_owned();
    let mut current = trust["secret"].as_str().unwrap().to_owned();
    let both_are_good = |current: &str, before: &str| {
        for channel_type in [TRUSTED_DOMAIN, TRUSTED_DNS_DOMAIN] {
            for secret in [before, current, before] {
                let done =
                    channel(dc, by(channel_type), secret, &[format!("Kerberos={}", dc.verify_pac("good"))]);
                assert_eq!(statuses(&done["answers"]), [SUCCESS], "type {channel_type}, {secret}: {done:#}");
            }
        }
    };
    both_are_good(&current, &before);
    for channel_type in [TRUSTED_DOMAIN, TRUSTED_DNS_DOMAIN] {
        let new = format!("A-new-secret-of-the-trust-by-type-{channel_type}");
        let done = channel(dc, by(channel_type), &current, &[format!("password={new}")]);
        assert_eq!(done["answers"][0]["password"], true, "{done:#}");
        both_are_good(&new, &current);
        let done = channel(dc, by(channel_type), &before, &[]);
        assert!(done["error"].as_str().unwrap_or_default().contains("STATUS_ACCESS_DENIED"), "{done:#}");
        (before, current) = (current, new);
    }
}
