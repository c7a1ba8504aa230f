//! Real peers that are not of this project, started by the tests. One module for each side of each protocol.

#![expect(clippy::unwrap_used, reason = "tests")]

mod compose;
mod documentation;
mod domain_controller;
mod endpoint_mapper;
mod envoy;
mod front_doors;
mod helm;
mod hostile;
mod impacket;
mod mono;
mod odd_paths;
mod oracles;
mod relay;
mod replicas;
mod samba;
mod sidecar_tickets;
mod sso;
mod sso_kerberos;
mod sso_ntlm;
mod stated_time;
mod third_party_store;
mod tlsnego;
mod tlsnego_cookie;
mod tlsnego_sessions;
mod trusts;
mod upstream;
mod web;
mod wss4j;

// The tables of rcmp-service and their notation: the oracles here answer them too.
#[path = "../../../crates/rcmp-service/tests/tables/differences.rs"]
mod differences;
#[expect(dead_code, reason = "each suite uses its part of it")]
#[path = "../../../crates/rcmp-service/tests/tables/notation.rs"]
mod notation;

use rcmpd_tests::Service;

/// What the quickstart's accounts are: name, RID, primary group, groups of the domain, of which `local` is
/// one of its local ones.
struct Expected {
    who: &'static str,
    account: &'static str,
    full_name: &'static str,
    rid: u32,
    primary_group: u32,
    groups: &'static [u32],
    local: &'static [u32],
}

const ACCOUNTS: [Expected; 4] = [
    Expected {
        who: "alice",
        account: "alice",
        full_name: "Alice Adams",
        rid: 1001,
        primary_group: 513,
        groups: &[513, 1101, 1102],
        local: &[1103],
    },
    Expected {
        who: "bob",
        account: "bob",
        full_name: "Bob Baker",
        rid: 1002,
        primary_group: 513,
        groups: &[513, 1102],
        local: &[1103],
    },
    Expected {
        who: "carol",
        account: "carol",
        full_name: "Carol Carter",
        rid: 1003,
        primary_group: 513,
        groups: &[513],
        local: &[1103],
    },
    Expected {
        who: "web01",
        account: "WEB01$",
        full_name: "",
        rid: 1004,
        primary_group: 515,
        groups: &[515, 1104],
        local: &[],
    },
];

const LOGON_FAILURE: &str = "0xC000006D";
const SUCCESS: &str = "0x00000000";

fn sid(service: &Service, rid: u32) -> String {
    format!("{}-{rid}", service.domain_sid())
}
