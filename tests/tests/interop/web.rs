//! Real web servers, configured by `rcmpd proxy-config`, with curl as their client.

use rcmpd_tests::Demo;
use rcmpd_tests::openssl::{Authority, three_levels_of_certificates};
use rcmpd_tests::ports::free_port;
use rcmpd_tests::web::{SECOND_SITE, SLOW, Site, WebServer, values};
use rustix::process::Signal;
use std::thread;
use std::time::Duration;

const SERVERS: [WebServer; 9] = [
    WebServer::Nginx,
    WebServer::Haproxy,
    WebServer::Apache,
    WebServer::Caddy,
    WebServer::Traefik,
    WebServer::Envoy,
    WebServer::EnvoyHttp,
    WebServer::CaddyClientCert,
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
    assert_eq!(site.page.seen().len(), 0, "none of them reached the page");
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
    for odd in "!#$%&'*+.^_`|~".chars() {
        for alias in
            [format!("Remote{odd}User"), format!("X{odd}Identity-Sid"), format!("X-Forwarded{odd}For")]
        {
            let header = format!("{alias}: root");
            let (status, body) = site.get(Some("bob"), "/", &["-H", &header]);
            let is_gone = matches!(status, 400 | 403) || status == 200 && !body.contains("root");
            assert!(is_gone, "{alias}: {status} {body}");
        }
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

/// More groups than web servers have room for, unless they are configured.
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

/// An application that wants the account under a name of its own gets it there, and never a client's copy of
/// it or of the usual name.
fn has_names_of_the_operator(server: WebServer) {
    // As long as a name may be: nginx has no room for a longer one.
    let long = format!("X-{}", "a".repeat(38));
    let names = format!("user = \"X-WEBAUTH-USER\"\nsid = \"X-WebAuth-Sid\"\nupn = \"{long}\"");
    let site = Site::start_with(server, &format!("headers = \"none\"\n[sidecar.header_names]\n{names}"));
    let sid = format!("{}-1001", site.service.domain_sid());
    let names = ["X-WEBAUTH-USER", "X-WebAuth-Sid", "X_WEBAUTH_USER", "Remote-User", "X-Identity-Sid"];
    let forged: Vec<String> = names.iter().map(|name| format!("{name}: root")).collect();
    let forged: Vec<&str> = forged.iter().flat_map(|header| ["-H", header]).collect();
    for more in [&[][..], &forged] {
        let alice = site.page(Some("alice"), "/", more);
        assert_eq!(values(&alice, "X-WEBAUTH-USER"), ["CONTOSO\\alice"], "{server:?}");
        assert_eq!(values(&alice, "X-WebAuth-Sid"), [sid.as_str()], "{server:?}");
        assert_eq!(values(&alice, &long), ["alice@contoso.example"], "{server:?}");
        for header in alice["headers"].as_array().unwrap() {
            assert_ne!(header[1], "root", "{server:?}: {header}");
        }
    }
    let (status, body) = site.get(Some("alice"), "/", &["-H", "X~WEBAUTH~USER: root"]);
    assert!(status == 403 || status == 200 && !body.contains("root"), "{server:?}: {status} {body}");
}

#[test]
fn every_one_has_names_of_the_operator() {
    SERVERS.into_iter().for_each(has_names_of_the_operator);
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

#[test]
fn envoy_over_http() {
    reaches_the_page(WebServer::EnvoyHttp);
    // What an Envoy says about alice's certificate, sent by another client.
    let site = Site::start(WebServer::EnvoyHttp);
    let pem = std::fs::read_to_string(site.service.path("certs/alice.pem")).unwrap();
    let escaped: String = pem.bytes().map(|byte| format!("%{byte:02X}")).collect();
    let forged = format!("X-Forwarded-Client-Cert: Cert=\"{escaped}\"");
    for (who, status) in [(None, 401), (Some("mallory"), 403)] {
        assert_eq!(site.get(who, "/", &["-H", &forged]).0, status, "{who:?}");
    }
    let bob = site.page(Some("bob"), "/", &["-H", &forged]);
    assert_eq!(values(&bob, "Remote-User"), ["CONTOSO\\bob"]);
    assert!(values(&bob, "X-Forwarded-Client-Cert").is_empty(), "{bob:#}");
}

/// An Envoy that is not told to pass on the certificate writes its hash alone. The log and a metric say what
/// to set; Envoy shows no client the text of a 500.
#[test]
fn envoy_that_passes_on_no_certificate_is_told_what_to_set() {
    let without = |text: String| text.replace("{ cert: true }", "{ subject: true }");
    let mut site = Site::start_by(WebServer::EnvoyHttp, "", without, &[]);
    let (status, body) = site.get(Some("alice"), "/", &[]);
    assert_eq!(status, 500, "{body}");
    site.service.wait_for_lines(&["WARN", "reason=\"no_certificate_in_xfcc\"", "cert: true"], 1);
    let metrics = site.service.get("/metrics").1;
    let line = "rcmpd_sidecar_requests_total{dialect=\"envoy\",outcome=\"no_certificate_in_xfcc\"} 1\n";
    assert!(metrics.contains(line), "{metrics}");
    assert_eq!(site.page.seen().len(), 0);
}

/// An Envoy whose sidecar is gone denies no account: 403 would say that the account may not.
#[test]
fn envoy_without_its_sidecar_answers_500() {
    for server in [WebServer::Envoy, WebServer::EnvoyHttp] {
        let gone = |text: String| text.replace("/sidecar.sock", "/gone.sock");
        let site = Site::start_by(server, "", gone, &[]);
        assert_eq!(site.get(Some("alice"), "/", &[]).0, 500, "{server:?}");
        assert_eq!(site.page.seen().len(), 0);
    }
}

#[test]
fn caddy_with_client_cert() {
    reaches_the_page(WebServer::CaddyClientCert);
}

/// The issuing CA is an intermediate of `[mapping]`, and its client sends its own certificate alone.
fn knows_intermediates(server: WebServer) {
    let site = Site::start_in(server, "", &|demo| {
        let root = Authority::root(demo, "root", "/O=Contoso/CN=Contoso Root");
        let issuing = root.below(demo, "issuing", "/O=Contoso/CN=Contoso Issuing");
        issuing.issue(demo, "dora", "");
        std::fs::copy(demo.path("issuing/dora.key"), demo.path("certs/dora.key")).unwrap();
        demo.edit(|text| {
            let anchors =
                "anchors = [\"certs/ca.pem\", \"root/ca.pem\"]\nintermediates = [\"issuing/ca.pem\"]";
            let lines = text.lines().map(|line| if line.starts_with("anchors") { anchors } else { line });
            lines.collect::<Vec<_>>().join("\n")
        });
    });
    assert_eq!(values(&site.page(Some("dora"), "/", &[]), "Remote-User"), ["CONTOSO\\alice"], "{server:?}");
    assert_eq!(values(&site.page(Some("bob"), "/", &[]), "Remote-User"), ["CONTOSO\\bob"], "{server:?}");
    assert_eq!(site.get(Some("mallory"), "/", &[]).0, 403, "{server:?}");
    let told = site.told_cas();
    for name in ["Contoso Root", "Contoso Issuing"] {
        assert!(told.contains(name), "{server:?}: {told}");
    }
}

#[test]
fn every_one_serves_clients_that_send_their_certificate_alone() {
    SERVERS.into_iter().for_each(knows_intermediates);
}

/// `extended_key_usage` allows smart card logon (1.3.6.1.4.1.311.20.2.2), which no TLS library takes for
/// client authentication. nginx and Apache cannot be told to accept it, and what is printed for them says so.
#[test]
fn key_purposes_are_those_of_the_mapping() {
    for server in SERVERS {
        let site = Site::start_in(server, "", &|demo| {
            Authority::of(demo).issue_for(demo, "card", "1.3.6.1.4.1.311.20.2.2", "");
            std::fs::copy(demo.path("openssl/card.key"), demo.path("certs/card.key")).unwrap();
        });
        match server {
            WebServer::Nginx => assert_eq!(site.get(Some("card"), "/", &[]).0, 400),
            WebServer::Apache => assert_ne!(site.curl(Some("card"), "/", &[]).code, 0),
            _ => assert_eq!(
                values(&site.page(Some("card"), "/", &[]), "Remote-User"),
                ["CONTOSO\\alice"],
                "{server:?}"
            ),
        }
        // What the mapping does not accept is not accepted.
        assert_eq!(site.get(Some("mallory"), "/", &[]).0, 403, "{server:?}");
    }
}

/// Longer than the minute after which nginx, HAProxy and Apache end a connection that says nothing, unless
/// they are told otherwise.
const IDLE: Duration = Duration::from_secs(65);

/// A late answer, a stream and an idle WebSocket, for all at once: each of them takes time.
#[test]
fn every_one_waits_for_slow_applications_and_idle_websockets() {
    let check = |server: WebServer, site: &Site| {
        thread::scope(|scope| {
            scope.spawn(|| {
                let (status, _) = site.get(Some("alice"), SLOW, &["--max-time", "120"]);
                assert_eq!(status, 200, "{server:?}");
            });
            scope.spawn(|| assert_eq!(site.streams("alice"), (true, true), "{server:?}"));
            scope.spawn(|| {
                let (status, back) = site.websocket_after("alice", IDLE);
                assert!(status.contains(" 101 "), "{server:?}: {status}");
                assert_eq!(back, "ANYBODY THERE?\n", "{server:?}");
            });
        });
    };
    // One after the other: each takes the ports that are free at that moment.
    let sites: Vec<_> = SERVERS.into_iter().map(|server| (server, Site::start(server))).collect();
    thread::scope(|scope| {
        sites.iter().for_each(|(server, site)| _ = scope.spawn(move || check(*server, site)))
    });
}

#[test]
fn every_one_passes_ninety_headers() {
    for server in SERVERS {
        let site = Site::start(server);
        // curl sends Host, User-Agent and Accept.
        let headers: Vec<String> = (0..87).map(|n| format!("X-Custom-{n}: {n}")).collect();
        let more: Vec<&str> = headers.iter().flat_map(|header| ["-H", header]).collect();
        let page = site.page(Some("alice"), "/", &more);
        assert_eq!(values(&page, "Remote-User"), ["CONTOSO\\alice"], "{server:?}");
        for n in 0..87 {
            assert_eq!(values(&page, &format!("X-Custom-{n}")), [n.to_string().as_str()], "{server:?}");
        }
    }
}

/// What is printed for a second site stands beside what is printed for the first.
#[test]
fn every_one_has_two_sites() {
    for server in SERVERS.into_iter().filter(|server| *server != WebServer::Own) {
        let site = Site::start_two(server);
        for host in ["localhost", SECOND_SITE] {
            let done = site.curl_at(host, Some("alice"), "/").code(0);
            assert!(done.stdout.ends_with("\n200"), "{server:?} {host}: {done:?}\n{}", site.proxy_log());
            let page = site.page.seen().pop().unwrap();
            assert_eq!(values(&page, "Remote-User"), ["CONTOSO\\alice"], "{server:?} {host}");
            assert!(values(&page, "Host").concat().starts_with(host), "{server:?} {host}: {page:#}");
            assert!(site.curl_at(host, None, "/").stdout.ends_with("\n401"), "{server:?} {host}");
            assert!(site.curl_at(host, Some("mallory"), "/").stdout.ends_with("\n403"), "{server:?} {host}");
        }
    }
}

/// [MS-RCMP] 3.1: three levels of service by three issuers, behind nginx. The store and the mapping are those
/// of docs/configuration.md. Each client sends its certificate alone, and the one of Gold CA's own issuing CA
/// is known by the chain.
#[test]
fn nginx_with_three_levels_of_service() {
    let more = "methods = [\"issuer-chain\"]\n[[sidecar.route]]\npath = \"/orders\"\ngroups = [\"Orders\"]\n[[sidecar.route]]";
    let site = Site::start_in(WebServer::Nginx, more, &|demo| {
        let example = CONFIGURATION.split_once("```toml\n[store]\nkind = \"profile\"").unwrap().1;
        let example = example.split_once("\n[sidecar]").unwrap().0;
        demo.edit(|text| {
            let (domain, rest) = text.split_once("[store]").unwrap();
            let (_, client) = rest.split_once("[client]").unwrap();
            format!("{domain}[client]{client}\n[store]\nkind = \"profile\"{example}")
        });
        std::fs::rename(demo.path("accounts.db"), demo.path("machines.db")).unwrap();
        std::fs::rename(demo.path("accounts.key"), demo.path("machines.key")).unwrap();
        three_levels_of_certificates(demo);
    });
    for (client, level, orders) in
        [("b", "bronze", 403), ("s", "silver", 403), ("g", "gold", 200), ("i", "gold", 200)]
    {
        let page = site.page(Some(client), "/", &[]);
        assert_eq!(values(&page, "Remote-User"), [format!("CONTOSO\\{level}")], "{client}");
        assert_eq!(site.get(Some(client), "/orders", &[]).0, orders, "{client}");
    }
    // Another CA that calls itself the same: nginx answers it.
    assert_eq!(site.get(Some("x"), "/", &[]).0, 400);
}

const CONFIGURATION: &str = include_str!("../../../docs/configuration.md");
const WEB_SERVERS: &str = include_str!("../../../docs/web-servers.md");
const README: &str = include_str!("../../../README.md");

/// What is pasted: the `sh` blocks of "In five minutes", and the lines of the README, which are for the same
/// demo; each line of the README is followed by what it prints. Ports of the machine may be taken, so others
/// are put in their place.
#[test]
fn the_five_minutes_work_as_they_are_printed() {
    let folder = tempfile::tempdir().unwrap();
    let section = WEB_SERVERS.split_once("## In five minutes").unwrap().1.split_once("\n## ").unwrap().0;
    let blocks: Vec<&str> =
        section.split("```sh\n").skip(1).map(|block| block.split("```").next().unwrap()).collect();
    let [start, ask, check] = blocks[..] else { panic!("there are other blocks: {blocks:#?}") };
    let behind = README.split_once("## Behind a web server").unwrap().1.split_once("\n## ").unwrap().0;
    let readme: Vec<&str> = behind.lines().filter_map(|line| line.strip_prefix("$ ")).collect();
    assert_eq!(readme.len(), 3);
    let (page, site) = (free_port().port().to_string(), free_port().port().to_string());
    let free = "sed -i 's/127.0.0.1:\\(11490\\|1135\\|9464\\)/127.0.0.1:0/' rcmpd-demo/rcmpd.toml";
    let start = start.replacen("rcmpd quickstart\n", &format!("rcmpd quickstart\n{free}\n"), 1);
    let script = format!(
        "trap 'kill $(jobs -p); wait' EXIT\nchmod 755 .\n{start}\n{ask}\necho ==\n{}\necho ==\n{check}\n",
        readme.join("\n")
    );
    let script = script.replace(":8080", &format!(":{page}")).replace(":8443", &format!(":{site}"));
    let binary = rcmpd_tests::binary();
    let path = format!("{}:/usr/sbin:{}", binary.parent().unwrap().display(), std::env::var("PATH").unwrap());
    let done = std::process::Command::new("bash")
        .args(["-c", &script])
        .env("PATH", path)
        .current_dir(folder.path())
        .stdin(std::process::Stdio::null())
        .output()
        .unwrap();
    let (told, errors) = (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    let parts: Vec<&str> = told.split("==\n").collect();
    let [asked, readme, checked] = parts[..] else { panic!("{told}\n{errors}") };
    for part in [asked, readme] {
        assert!(part.contains("CONTOSO\\alice"), "{part}\n{errors}");
    }
    assert!(readme.ends_with("403\n401\n"), "{readme}");
    assert!(checked.contains("forged-identity"), "{checked}");
    assert_eq!(done.status.code(), Some(0), "{told}\n{errors}");
}
