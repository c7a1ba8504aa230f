//! Impacket asks our endpoint mapper and the management interface; our client asks Samba's
//! ([`crate::domain_controller`]).

use rcmpd_tests::Demo;
use rcmpd_tests::peers::{impacket_python, run, target};
use serde_json::json;
use std::process::Command;

#[test]
fn impacket_finds_netlogon() {
    let service = Demo::new().serve();
    let mut input = target(&service);
    input["mapper_port"] = json!(service.endpoint_mapper.port());
    let done = run(Command::new(impacket_python()), "endpoints.py", &input);
    let netlogon = format!("ncacn_ip_tcp:127.0.0.1[{}]", service.netlogon.port());
    assert_eq!(done["map"], netlogon, "{done:#}");
    let entries = done["lookup"].as_array().unwrap();
    assert!(
        entries.iter().any(|entry| entry["uuid"] == "12345678-1234-ABCD-EF00-01234567CFFB"
            && entry["binding"] == netlogon
            && entry["annotation"] == "rcmpd"),
        "{done:#}"
    );
    // EPT_S_NOT_REGISTERED for what is not here.
    assert_eq!(done["unknown"], "0x16C9A0D6");
    // The management interface is on both ports.
    for port in ["mapper", "netlogon"] {
        let management = &done["management"][port];
        assert_eq!(management["listening"], 1, "{done:#}");
        assert!(!management["interfaces"].as_array().unwrap().is_empty());
    }
}
