//! Real web servers, configured by `rcmpd proxy-config`, with curl as their client.

use rcmpd_tests::Demo;
use rcmpd_tests::web::{Site, WebServer, values};
use rustix::process::Signal;

const SERVERS: [WebServer; 7] = [
    WebServer::Nginx,
    WebServer::Haproxy,
    WebServer::Apache,
    WebServer::Caddy,
    WebServer::Traefik,
    WebServer::Envoy,
    WebServer::Own,
];

/// What everybody expects of every one of them.
fn reaches_the_page(server: WebServer) {
    let site = Site::start(server);
    let domain = site.service.domain_sid();
    let alice = site.page(Some("alice"), "/hello?a=b%2Fc", &[]);
    assert_eq!(alice["target"], "/hello?a=b%2Fc");
    assert_eq!(values(&alice, "Remote-User"), ["CONTOSO\\alice"]);
    assert_eq!(values(&alice, "Remote-Groups"), ["Domain Users,Engineers,Web Team,Wiki Editors"]);
    assert_eq!(values(&alice, "X-Identity-Sid"), [format!("{domain}-1001")]);
    assert_eq!(values(&alice, "X-Identity-Strength"), ["strong"]);
    let bob = site.page(Some("bob"), "/", &[]);
    assert_eq!(values(&bob, "Remote-User"), ["CONTOSO\\bob"]);
    assert_eq!(values(&bob, "X-Identity-Rule"), ["issuer-serial"]);
    site.page.seen();
    assert_eq!(site.get(Some("mallory"), "/", &[]).0, 403);
    assert_eq!(site.get(Some("carol"), "/", &[]).0, 403, "names are all she has");
    assert_eq!(site.get(None, "/", &[]).0, 401);
    assert_eq!(site.page.seen().len(), 0, "nobody of them reached the page");
    let forged = [
        "-H",
        "Remote-User: root",
        "-H",
        "remote_user: root",
        "-H",
        "X-Identity-Sid: S-1-5-18",
        "-H",
        "X_Identity_Sid: S-1-5-18",
        "-H",
        "X-Identity_Sid: S-1-5-18",
        "-H",
        "X-Identity-Token: root",
        "-H",
        "X-Sidecar-Secret: root",
        "-H",
        "X-Forwarded-For: 192.0.2.66",
        "-H",
        "X-Real-IP: 192.0.2.66",
        "-H",
        "Forwarded: for=192.0.2.66",
        "-H",
        "X-Forwarded-Prefix: root",
    ];
    assert_eq!(site.get(None, "/", &forged).0, 401);
    let page = site.page(Some("bob"), "/", &forged);
    for header in page["headers"].as_array().unwrap() {
        let (name, value) = (header[0].as_str().unwrap(), header[1].as_str().unwrap());
        let is_forged = ["root", "S-1-5-18"].contains(&value) || value.contains("192.0.2.66");
        assert!(!is_forged, "{name}: {value} came through");
    }
    assert_eq!(values(&page, "Remote-User"), ["CONTOSO\\bob"]);
    // Names that cannot be listed one by one are taken away, or refused.
    for alias in ["Remote.User: root", "X~Identity.Sid: root"] {
        let (status, body) = site.get(Some("bob"), "/", &["-H", alias]);
        assert!(status == 403 || status == 200 && !body.contains("root"), "{status} {body}");
    }
    // Of two hosts the application is told the one that was decided about.
    let whole = format!("https://localhost:{}/", site.address.port());
    let two = ["--http1.1", "--request-target", &whole, "-H", "Host: secret.example"];
    let (status, body) = site.get(Some("bob"), "/", &two);
    assert!(status != 200 || !body.contains("secret.example"), "{status} {body}");
    let (status, back) = site.websocket("alice");
    assert_eq!(
        (status.as_str().split(' ').nth(1), back.as_str()),
        (Some("101"), "ANYBODY THERE?\n"),
        "{status}"
    );
    let told = site.page.seen().pop().unwrap();
    assert_eq!(
        (values(&told, "Remote-User"), told["target"].as_str()),
        (vec!["CONTOSO\\alice"], Some("/socket"))
    );
    assert!(site.websocket("mallory").0.contains(" 403 "));
    // A disabled account ends at its next request, remembered or not.
    site.service.rcmpd(&["account", "set", "bob", "--disable", "-c", "rcmpd.toml"]).code(0);
    assert_eq!(site.get(Some("bob"), "/", &[]).0, 403);
    assert_eq!(values(&site.page(Some("alice"), "/", &[]), "Remote-User"), ["CONTOSO\\alice"]);
}

/// More groups than web servers have room for, if nobody told them.
fn has_room_for_many_groups(server: WebServer) {
    for more in ["", "header_len_max = 16384"] {
        let site = Site::start_with(server, more);
        for n in 0..60 {
            let name = format!("Department of Very Important Things {n}");
            site.service.rcmpd(&["group", "add", &name, "-c", "rcmpd.toml"]).code(0);
            site.service.rcmpd(&["account", "set", "bob", "--group", &name, "-c", "rcmpd.toml"]).code(0);
            if n % 20 == 19 {
                let page = site.page(Some("bob"), "/", &[]);
                let (groups, reference) =
                    (values(&page, "Remote-Groups"), values(&page, "X-Identity-Reference"));
                let is_whole = groups.concat().contains(&name);
                assert!(is_whole || !reference.concat().is_empty(), "{n} {more}: {page:#}");
                assert!(is_whole || more.is_empty(), "{n} {more}: {page:#}");
            }
        }
    }
}

/// Routes go by what the web server says of the host and the path, whatever else a client says.
fn goes_by_routes(server: WebServer) {
    let routes = "[[sidecar.route]]\npath = \"/closed\"\ngroups = [\"Domain Admins\"]\n\
                  [[sidecar.route]]\npath = \"/open\"\nhost = \"localhost\"";
    let site = Site::start_with(server, routes);
    let forged = [
        "-H",
        "X-Forwarded-Uri: /open",
        "-H",
        "X-Forwarded-Host: localhost",
        "-H",
        "X-Original-URI: /open",
        "-H",
        "X-Original-Host: localhost",
        "-H",
        "Connection: X-Forwarded-Uri, X-Original-URI",
    ];
    assert_eq!(site.get(Some("alice"), "/open?x=/closed", &["--http1.1"]).0, 200);
    site.page.seen();
    for (path, more) in [
        ("/closed", &[][..]),
        ("/closed?x=/open", &[]),
        ("/open/../closed", &["--path-as-is"]),
        ("/open/%2e%2e/closed", &["--path-as-is"]),
        ("/closed/../open", &["--path-as-is"]),
        ("/other", &[]),
        ("/closed", &forged),
        ("/%63losed", &[]),
    ] {
        let (status, _) = site.get(Some("alice"), path, &[&["--http1.1"], more].concat());
        // What becomes plain before the sidecar is asked is another request.
        let is_open =
            path == "/closed/../open" && site.page.seen().iter().all(|request| request["target"] == "/open");
        assert!(matches!(status, 400 | 403 | 404) || status == 200 && is_open, "{path} {more:?}: {status}");
    }
    assert_eq!(site.page.seen().len(), 0);
}

#[test]
fn every_one_has_room_for_many_groups() {
    SERVERS.into_iter().for_each(has_room_for_many_groups);
}

#[test]
fn every_one_goes_by_routes() {
    SERVERS.into_iter().for_each(goes_by_routes);
}

#[test]
fn nginx() {
    reaches_the_page(WebServer::Nginx);
}

#[test]
fn haproxy() {
    reaches_the_page(WebServer::Haproxy);
}

#[test]
fn apache() {
    reaches_the_page(WebServer::Apache);
}

#[test]
fn caddy() {
    reaches_the_page(WebServer::Caddy);
}

#[test]
fn traefik() {
    reaches_the_page(WebServer::Traefik);
}

#[test]
fn envoy() {
    reaches_the_page(WebServer::Envoy);
}

#[test]
fn the_tls_front() {
    reaches_the_page(WebServer::Own);
}

#[test]
fn the_tls_front_speaks_http2_and_serves_one_host() {
    let site = Site::start(WebServer::Own);
    for version in ["--http1.1", "--http2"] {
        let alice = site.page(Some("alice"), "/", &[version]);
        assert_eq!(values(&alice, "Remote-User"), ["CONTOSO\\alice"]);
        let told = ["--output", "/dev/null", "--write-out", "%{http_version}"];
        let spoken = site.curl(Some("alice"), "/", &[&[version], &told[..]].concat());
        assert_eq!(spoken.stdout, if version == "--http2" { "2" } else { "1.1" });
        site.page.seen();
        assert_eq!(site.get(Some("alice"), "/", &[version, "-H", "Host: elsewhere.example"]).0, 421);
        assert_eq!(site.page.seen().len(), 0, "it did not reach the page");
    }
}

#[test]
fn the_tls_front_keeps_its_connections_unless_what_they_were_made_under_changes() {
    const GET: &str = "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let route = "[[sidecar.route]]\ndomains = [\"CONTOSO\"]";
    let mut site = Site::start_with(WebServer::Own, route);
    let mut alice = site.connect("alice");
    assert!(alice.ask(GET).contains(" 200 "));
    // Who may come in is no matter of the handshake. A rule is gone, which the second signal confirms.
    site.service.edit(|text| text.replace("domains = [\"CONTOSO\"]", "groups = [\"Engineers\"]"));
    site.service.signal(Signal::HUP);
    site.service.wait_for_lines(&["send SIGHUP again"], 1);
    site.service.reload();
    assert!(alice.ask(GET).contains(" 200 "));
    let other = Demo::new();
    for file in ["certs/site.pem", "certs/site.key"] {
        std::fs::copy(other.path(file), site.service.path(file)).unwrap();
    }
    site.service.reload();
    let answer = alice.ask(GET);
    assert!(answer.is_empty() || answer.contains(" 421 "), "{answer}");
}

/// `ext_authz` over HTTP, with Envoy's `X-Forwarded-Client-Cert`.
#[test]
fn envoy_over_http() {
    let user = rustix::process::geteuid();
    let users = if user.is_root() { "\"www-data\"".to_owned() } else { format!("\"{}\"", user.as_raw()) };
    let listen = format!("[[sidecar.listen]]\ndialect = \"envoy\"\nunix = \"http.sock\"\npeers = [{users}]");
    let over_http = |text: String| {
        let (before, after) = text.split_once("                      grpc_service:\n").unwrap();
        let (_, after) = after.split_once("                      include_peer_certificate: true\n").unwrap();
        let service = r#"                      http_service:
                        server_uri: { uri: "http://sidecar", cluster: sidecar, timeout: 5s }
                        authorization_response:
                          allowed_upstream_headers: { patterns: [{ prefix: remote- }, { prefix: x-identity- }] }
                      allowed_headers: { patterns: [{ exact: x-forwarded-client-cert }] }
"#;
        let options = after.find("      typed_extension_protocol_options:").unwrap();
        let end = options + after[options..].find("      load_assignment:").unwrap();
        format!("{before}{service}{}{}", &after[..options], &after[end..])
            .replace("sidecar.sock", "http.sock")
            .replace(
                "details: SANITIZE\n",
                "details: SANITIZE_SET\n                set_current_client_cert_details: { cert: true }\n",
            )
    };
    let site = Site::start_by(WebServer::Envoy, &listen, over_http, &[]);
    let alice = site.page(Some("alice"), "/", &["-H", "Remote-User: root", "-H", "X-Identity-Sid: S-1-5-18"]);
    assert_eq!(values(&alice, "Remote-User"), ["CONTOSO\\alice"]);
    assert_eq!(values(&alice, "X-Identity-Strength"), ["strong"]);
    assert!(!values(&alice, "X-Identity-Sid").contains(&"S-1-5-18"));
    let told = values(&alice, "X-Forwarded-Client-Cert").concat();
    assert!(told.contains("Cert="), "{told}");
    site.page.seen();
    assert_eq!(site.get(Some("mallory"), "/", &[]).0, 403);
    // What another client's Envoy said of alice.
    let forged = format!("X-Forwarded-Client-Cert: {told}");
    for who in [None, Some("mallory")] {
        let status = if who.is_none() { 401 } else { 403 };
        assert_eq!(site.get(who, "/", &["-H", &forged]).0, status, "{who:?}");
    }
    assert_eq!(site.page.seen().len(), 0);
}
