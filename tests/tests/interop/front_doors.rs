//! `rcmpd check-proxy` at real front doors: clean where `rcmpd proxy-config` configured them, and each hole found where somebody changed
//! that.

use rcmpd_tests::web::{Site, WebServer};
use serde_json::Value;

/// The names of the checks with a verdict.
fn with<'a>(report: &'a Value, verdict: &str) -> Vec<&'a str> {
    let findings = report["checks"].as_array().expect("a report has checks");
    let with = findings.iter().filter(|finding| finding["verdict"] == verdict);
    with.filter_map(|finding| finding["name"].as_str()).collect()
}

fn is_clean(server: WebServer) {
    let done = Site::checked(server, |text| text, &[]);
    let report = done.json();
    assert_eq!(with(&report, "leak"), [""; 0], "{report:#}");
    assert_eq!(with(&report, "not_checked"), [""; 0], "{report:#}");
    let passed = with(&report, "pass");
    for check in [
        "certificate",
        "no-certificate",
        "wrong-authority",
        "forged-identity",
        "forged-certificate",
        "hop-by-hop",
        "paths",
    ] {
        assert!(passed.contains(&check), "{check}: {report:#}");
    }
    assert_eq!(done.code, 0, "{report:#}");
}

#[test]
fn nginx_is_clean() {
    is_clean(WebServer::Nginx);
}

#[test]
fn haproxy_is_clean() {
    is_clean(WebServer::Haproxy);
}

#[test]
fn apache_is_clean() {
    is_clean(WebServer::Apache);
}

#[test]
fn caddy_is_clean() {
    is_clean(WebServer::Caddy);
}

#[test]
fn traefik_is_clean() {
    is_clean(WebServer::Traefik);
}

#[test]
fn envoy_is_clean() {
    is_clean(WebServer::Envoy);
}
