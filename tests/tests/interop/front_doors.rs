//! `rcmpd check-proxy` at real front doors: clean where `rcmpd proxy-config` configured them, and each hole
//! found where the configuration was changed that.

use rcmpd_tests::ports::free_port;
use rcmpd_tests::web::{Site, WebServer};
use serde_json::Value;

/// The names of the checks with a verdict.
fn with<'a>(report: &'a Value, verdict: &str) -> Vec<&'a str> {
    let findings = report["checks"].as_array().expect("a report has checks");
    let with = findings.iter().filter(|finding| finding["verdict"] == verdict);
    with.filter_map(|finding| finding["name"].as_str()).collect()
}

fn is_clean(server: WebServer) {
    let done = Site::checked(server, |text| text, "/", &["--path", "/private", "--path", "/app/x?y=z"]);
    let report = done.json();
    assert_eq!(with(&report, "leak"), [""; 0], "{report:#}");
    assert_eq!(with(&report, "not_checked"), [""; 0], "{report:#}");
    // What a web server does not do is not seen: sessions of another host need one, and not every one resumes
    // sessions or speaks HTTP/2.
    let mut optional = vec!["other-host", "resumption", "anonymous-session"];
    if matches!(server, WebServer::Nginx | WebServer::Apache) {
        optional.push("http2");
    }
    let unseen = with(&report, "not_seen");
    assert!(unseen.iter().all(|check| optional.contains(check)), "{unseen:?} {report:#}");
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

#[test]
fn envoy_over_http_is_clean() {
    is_clean(WebServer::EnvoyHttp);
}

#[test]
fn caddy_with_client_cert_is_clean() {
    is_clean(WebServer::CaddyClientCert);
}

#[test]
fn the_tls_front_is_clean() {
    is_clean(WebServer::Own);
}

/// A recipe with one change that an operator might make: the exit code says that something leaks, and this
/// check is among what does.
fn leaks(server: WebServer, path: &str, more: &[&str], check: &str, change: impl FnOnce(&str) -> String) {
    let broken = |text: String| {
        let changed = change(&text);
        assert_ne!(changed, text, "nothing is broken");
        changed
    };
    let done = Site::checked(server, broken, path, more);
    let report = done.json();
    assert!(with(&report, "leak").contains(&check), "{report:#}");
    let finding =
        report["checks"].as_array().unwrap().iter().find(|finding| finding["name"] == check).unwrap();
    assert!(finding["change"].is_string() && !finding["seen"].as_array().unwrap().is_empty(), "{finding:#}");
    assert_eq!(done.code, 3, "{report:#}");
}

/// Lines that have none of these words.
fn without(text: &str, words: &[&str]) -> String {
    text.lines()
        .filter(|line| !words.iter().any(|word| line.contains(word)))
        .fold(String::new(), |text, line| text + line + "\n")
}

#[test]
fn nginx_that_leaves_a_header_as_the_client_sent_it() {
    leaks(WebServer::Nginx, "/", &[], "forged-identity", |text| {
        without(text, &["proxy_set_header Remote-Name"])
    });
}

#[test]
fn nginx_that_lets_underscores_through() {
    leaks(WebServer::Nginx, "/", &[], "forged-identity", |text| {
        text.replace("underscores_in_headers off", "underscores_in_headers on")
    });
}

#[test]
fn nginx_that_takes_the_certificate_from_a_header() {
    leaks(WebServer::Nginx, "/", &[], "forged-certificate", |text| {
        text.replace("$ssl_client_verify", "SUCCESS")
            .replace("$ssl_client_escaped_cert", "$http_ssl_client_cert")
    });
}

#[test]
fn nginx_that_asks_about_one_spelling_of_a_path() {
    leaks(WebServer::Nginx, "/private", &[], "paths", |text| {
        let open = "    location / {\n        proxy_pass http://rcmpd_application_localhost;\n    }\n";
        text.replacen("    location / {", &format!("{open}    location = /private {{"), 1)
    });
}

/// nginx takes the outer `proxy_set_header` into a location that has none of its own, and none of them into
/// one that has.
#[test]
fn nginx_with_a_nested_location_that_sets_a_header() {
    leaks(WebServer::Nginx, "/", &[], "paths", |text| {
        let nested = "        location ~ \\.php$ { proxy_set_header X-Script yes; proxy_pass http://rcmpd_application_localhost; }\n";
        text.replacen("    location / {\n", &format!("    location / {{\n{nested}"), 1)
    });
}

#[test]
fn nginx_with_a_location_of_its_own_for_a_path() {
    leaks(WebServer::Nginx, "/", &["--path", "/legacy"], "other-paths", |text| {
        let open = "    location /legacy { proxy_pass http://rcmpd_application_localhost; }\n";
        text.replacen("    location / {", &format!("{open}    location / {{"), 1)
    });
}

#[test]
fn nginx_that_passes_a_path_of_the_client_on() {
    leaks(WebServer::Nginx, "/", &[], "forwarding-headers", |text| {
        without(&text.replace("X-Original-Uri \"\"", "GONE"), &["GONE"])
    });
}

/// A header that no preset has is tried if it is named.
#[test]
fn nginx_before_an_application_that_takes_another_header() {
    leaks(WebServer::Nginx, "/", &["--header", "X-WEBAUTH-USER"], "forged-identity", |text| {
        format!("{text}\n")
    });
}

#[test]
fn nginx_that_lets_another_method_pass() {
    leaks(WebServer::Nginx, "/", &[], "methods", |text| {
        let open = "    error_page 418 = @open;\n    location @open { proxy_pass http://rcmpd_application_localhost; }\n";
        let text = text.replacen("    location / {", &format!("{open}    location / {{"), 1);
        text.replacen(
            "        auth_request /",
            "        if ($request_method = OPTIONS) { return 418; }\n        auth_request /",
            1,
        )
    });
}

#[test]
fn nginx_that_shows_the_page_in_place_of_a_refusal() {
    leaks(WebServer::Nginx, "/", &[], "no-certificate", |text| {
        let open = "    error_page 401 =200 @open;\n    location @open { proxy_pass http://rcmpd_application_localhost; }\n";
        text.replacen("    location / {", &format!("{open}    location / {{"), 1)
    });
}

#[test]
fn nginx_with_an_open_port_beside() {
    let port = free_port();
    let plain = port.port().to_string();
    leaks(WebServer::Nginx, "/", &["--plain-port", &plain], "plain-http", |text| {
        format!(
            "{text}server {{ listen {port}; location / {{ proxy_pass http://rcmpd_application_localhost; }} }}\n"
        )
    });
}

#[test]
fn nginx_that_serves_hosts_it_does_not_know() {
    leaks(WebServer::Nginx, "/", &[], "hosts", |text| {
        let certificate: Vec<&str> =
            text.lines().filter(|line| line.trim_start().starts_with("ssl_certificate")).collect();
        let listen = text.lines().find(|line| line.contains("listen ")).unwrap();
        let (listen, certificate) = (listen.replace(" ssl;", " ssl default_server;"), certificate.join("\n"));
        format!(
            "{text}server {{\n{listen}\n{certificate}\n    location / {{ proxy_pass http://rcmpd_application_localhost; }}\n}}\n"
        )
    });
}

#[test]
fn nginx_that_tells_another_host_than_it_asks_about() {
    leaks(WebServer::Nginx, "/", &[], "hosts", |text| {
        text.lines()
            .map(|line| match line.trim_start().starts_with("proxy_set_header Host $host") {
                true => "proxy_set_header Host $http_host;\n".to_owned(),
                false => format!("{line}\n"),
            })
            .collect()
    });
}

#[test]
fn haproxy_that_only_sets_what_there_is() {
    leaks(WebServer::Haproxy, "/", &[], "forged-certificate", |text| {
        let text = without(text, &["del-header"]);
        text.replace("[ssl_c_used]", "[ssl_c_used] if { ssl_c_used }")
            .replace("[ssl_c_verify]", "[ssl_c_verify] if { ssl_c_used }")
    });
}

#[test]
fn apache_that_keeps_what_a_client_says() {
    leaks(WebServer::Apache, "/", &[], "forged-certificate", |text| {
        without(text, &["RequestHeader unset"])
            .replace("RequestHeader set X-SSL", "RequestHeader setifempty X-SSL")
    });
}

#[test]
fn caddy_that_does_not_clean() {
    leaks(WebServer::Caddy, "/", &[], "forged-identity", |text| without(text, &["request_header -"]));
}

#[test]
fn caddy_that_cleans_http1_alone() {
    leaks(WebServer::Caddy, "/", &[], "http2", |text| {
        text.replace("\t\trequest_header -", "\t\trequest_header @http1 -")
            .replace("\troute {", "\troute {\n\t\t@http1 protocol http/1.1")
    });
}

#[test]
fn caddy_that_drops_what_connection_names() {
    leaks(WebServer::Caddy, "/", &[], "hop-by-hop", |text| without(text, &["@websocket", "@other"]));
}

#[test]
fn traefik_that_tells_the_secret() {
    leaks(WebServer::Traefik, "/", &[], "certificate", |text| text.replace(", rcmpd-done-localhost]", "]"));
}

#[test]
fn envoy_that_asks_about_one_spelling_of_a_path() {
    leaks(WebServer::Envoy, "/private", &[], "paths", |text| {
        let disabled = r#"typed_per_filter_config: { envoy.filters.http.ext_authz: { "@type": type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthzPerRoute, disabled: true } }"#;
        text.replace(
            "routes: [{ match: { prefix: \"/\" }, route: { cluster: rcmpd_application_localhost, timeout: 0s } }]",
            &format!(
                "routes: [{{ match: {{ path: /private }}, route: {{ cluster: rcmpd_application_localhost }} }}, {{ match: {{ prefix: \"/\" }}, route: {{ cluster: rcmpd_application_localhost }}, {disabled} }}]"
            ),
        )
    });
}
