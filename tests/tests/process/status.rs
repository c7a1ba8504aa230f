//! What an operator asks of a running service first, and which configuration commands find by themselves.

use rcmpd_tests::{Demo, Service, eventually, write_secret};
use rustix::process::Signal;
use serde_json::Value;
use std::fs;

/// A demo whose admin port has a token.
pub(crate) fn demo() -> Demo {
    let demo = Demo::new();
    write_secret(demo.path("admin.token"), "t0ken");
    demo.edit(|text| text.replace("[admin]", "[admin]\ntoken = \"file:admin.token\"\n#"));
    demo
}

/// The configuration with the port of the admin listener that was chosen.
pub(crate) fn with_port(service: &Service) {
    let listen = service.admin;
    service.edit(|text| {
        let (before, admin) = text.split_once("[admin]").unwrap();
        format!("{before}[admin]{}", admin.replacen("127.0.0.1:0", &listen.to_string(), 1))
    });
}

#[test]
fn status_of_a_service_says_what_an_operator_asks_first() {
    let mut service = demo().serve();
    with_port(&service);
    let status = |code: i32| service.rcmpd(&["status", "-c", "rcmpd.toml", "--json"]).code(code).json();
    let state = status(0);
    assert_eq!((&state["ready"], &state["pid"]), (&Value::from(true), &Value::from(service.pid())));
    assert_eq!((&state["policy_revision"], &state["reload"]["ok"]), (&1.into(), &true.into()), "{state:#}");
    assert_eq!(state["checks"][1]["check"], "account-store", "{state:#}");
    assert_eq!((&state["log_filter"], &state["audit_failures"]), (&"info".into(), &0.into()), "{state:#}");
    // Each command sets up a channel of its own.
    assert_eq!((&state["channels"], &state["store"]["kind"]), (&0.into(), &"sqlite".into()), "{state:#}");
    service.map("alice").code(0);
    service.map("bob").code(0);
    let before = status(0)["store"]["revision"].as_u64().unwrap();
    service.rcmpd(&["account", "set", "carol", "--disable", "-c", "rcmpd.toml"]).code(0);
    let state = status(0);
    assert_eq!((&state["channels"], &state["store"]["cache_bytes"]), (&2.into(), &0.into()), "{state:#}");
    assert_eq!(state["store"]["revision"].as_u64(), Some(before + 1));
    let shown = service.rcmpd(&["status", "-c", "rcmpd.toml"]).code(0);
    assert!(shown.stdout.contains("channels         2\n"), "{shown:?}");
    assert!(shown.stdout.contains(&format!("sqlite, revision {}, 0 bytes", before + 1)), "{shown:?}");
    assert!(shown.stdout.contains("ready            yes"), "{shown:?}");
    assert!(!shown.stdout.contains("t0ken"), "{shown:?}");
    // A configuration that is wrong is not taken over, and that is there to see.
    assert_eq!(service.metric("rcmpd_config_last_reload_successful"), 1);
    let good = service.metric("rcmpd_config_last_reload_success_timestamp_seconds");
    let text = fs::read_to_string(service.path("rcmpd.toml")).unwrap();
    service.edit(|text| text.replace("[mapping]", "[mapping]\nnonsense = 1"));
    service.signal(Signal::HUP);
    eventually("the reload failed", || service.metric("rcmpd_config_last_reload_successful") == 0);
    assert_eq!(service.metric("rcmpd_config_last_reload_success_timestamp_seconds"), good);
    fs::write(service.path("rcmpd.toml"), text).unwrap();
    let state = status(0);
    assert!(state["reload"]["error"].as_str().unwrap().contains("nonsense"), "{state:#}");
    assert_eq!(state["reload"]["in_use_since"], state["started"]);
    let shown = service.rcmpd(&["status", "-c", "rcmpd.toml"]).code(0);
    assert!(shown.stdout.contains("FAILED") && shown.stdout.contains("nonsense"), "{shown:?}");
    // Operators only.
    assert_eq!(service.get("/status").0, 401);
    // A store that is gone.
    let (code, text) = service.get("/ready?verbose");
    assert_eq!((code, text.as_str()), (200, "service: ok\naccount-store: ok\ncrls: ok\nready\n"));
    fs::rename(service.path("accounts.db"), service.path("gone.db")).unwrap();
    let state = status(3);
    assert_eq!((&state["ready"], &state["checks"][1]["ok"]), (&false.into(), &false.into()), "{state:#}");
    let (code, text) = service.get("/ready?verbose");
    assert!(code == 503 && text.contains("\naccount-store: the account store cannot be used"), "{text}");
    let (code, text) = service.get("/ready");
    assert!(code == 503 && text.lines().count() == 1, "{text}");
    service.kill();
    let done = service.rcmpd(&["status", "-c", "rcmpd.toml"]).code(4);
    assert!(done.stderr.contains("is it running?"), "{done:?}");
}

#[test]
fn status_without_a_token_says_how_to_make_one() {
    let service = Demo::new().serve();
    let done = service.rcmpd(&["status", "-c", "rcmpd.toml"]).code(1);
    assert!(done.stderr.contains("operators need a token"), "{done:?}");
}

#[test]
fn commands_use_the_configuration_of_their_folder() {
    let demo = Demo::new();
    for line in ["account show alice", "check-config", "explain certs/alice.pem", "group list -- Eng"] {
        demo.paste(&format!("rcmpd {line}")).code(0);
    }
    // What is named counts, and nothing else.
    demo.paste("rcmpd account show alice -c nowhere.toml").code(2);
    demo.paste("RCMPD_CONFIG=nowhere.toml rcmpd account show alice").code(2);
    demo.paste("RCMPD_CONFIG=nowhere.toml rcmpd check-config").code(2);
    // It has to be safe, as any other one.
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o666);
    fs::set_permissions(demo.path("rcmpd.toml"), open).unwrap();
    demo.paste("rcmpd account show alice").code(1);
}
