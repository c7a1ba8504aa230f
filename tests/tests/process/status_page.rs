//! The status page: who gets it, what it sends, and what Debian's Chromium makes of it.

use rcmpd_tests::openssl::{Authority, openssl};
use rcmpd_tests::ports::free_port;
use rcmpd_tests::{Demo, Service, eventually, peers, write_secret};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;

const TOKEN: &str = "correct horse";

fn demo() -> Demo {
    let demo = Demo::new();
    write_secret(demo.path("admin.token"), TOKEN);
    demo.edit(|text| text.replace("[admin]", "[admin]\ntoken = \"file:admin.token\"\n#"));
    demo
}

/// What is answered to the octets of a request: head and body.
fn send(service: &Service, request: &[u8]) -> (String, String) {
    let mut stream = TcpStream::connect(service.admin).expect("the admin port is served");
    // The service may answer before it has read all, and close.
    let _ = stream.write_all(request);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    let text = String::from_utf8_lossy(&answer);
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    (head.to_ascii_lowercase(), body.to_owned())
}

/// A request with these lines in its head, which has a Host of ours unless it has one.
fn ask(service: &Service, method: &str, path: &str, lines: &[&str], body: &str) -> (u16, String, String) {
    let mut head = format!("{method} {path} HTTP/1.1\r\nConnection: close\r\n");
    if !lines.iter().any(|line| line.starts_with("Host:")) {
        head.push_str(&format!("Host: {}\r\n", service.admin));
    }
    if !body.is_empty() {
        let kind = "application/x-www-form-urlencoded";
        head.push_str(&format!("Content-Type: {kind}\r\nContent-Length: {}\r\n", body.len()));
    }
    lines.iter().for_each(|line| head.push_str(&format!("{line}\r\n")));
    let (head, answered) = send(service, format!("{head}\r\n{body}").as_bytes());
    let code = head.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
    (code, head, answered)
}

fn code(service: &Service, method: &str, path: &str, lines: &[&str], body: &str) -> u16 {
    ask(service, method, path, lines, body).0
}

/// The Origin of the page itself.
fn own(service: &Service) -> String {
    format!("Origin: http://{}", service.admin)
}

/// A line with the cookie of an operator.
fn logged_in(service: &Service) -> String {
    let (code, head, _) = ask(service, "POST", "/ui/login", &[&own(service)], "token=correct+horse");
    assert_eq!(code, 303, "{head}");
    let (_, cookie) = head.split_once("set-cookie: ").expect("a cookie");
    let cookie = cookie.lines().next().expect("a line");
    for attribute in ["httponly", "samesite=strict", "path=/ui/", "max-age=28800"] {
        assert!(cookie.split("; ").any(|part| part == attribute), "{cookie}");
    }
    assert!(!cookie.contains("horse") && !cookie.contains("secure"), "{cookie}");
    format!("Cookie: {}", cookie.split(';').next().expect("a pair"))
}

/// A form with a certificate, as browsers send it.
fn form(pem: &str) -> String {
    let mut form = "certificate=".to_owned();
    for byte in pem.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' => form.push(char::from(byte)),
            byte => form.push_str(&format!("%{byte:02X}")),
        }
    }
    form
}

#[test]
fn the_page_is_for_operators_alone() {
    let service = demo().serve();
    let status = |lines: &[&str]| ask(&service, "GET", "/ui/", lines, "");
    let (code_of, head, body) = status(&[]);
    assert!(code_of == 401 && body.contains("<h1>Log in</h1>") && !body.contains("CONTOSO"), "{body}");
    for header in [
        "content-security-policy: default-src 'none'; style-src 'self'; script-src 'self';",
        "cache-control: no-store",
        "x-content-type-options: nosniff",
        "x-frame-options: deny",
        "cross-origin-resource-policy: same-origin",
    ] {
        assert!(head.contains(header), "{header}: {head}");
    }
    assert!(!head.contains("unsafe") && !head.contains("access-control"), "{head}");
    let bearer = format!("Authorization: Bearer {TOKEN}");
    let (code_of, _, body) = status(&[&bearer]);
    assert!(code_of == 200 && body.contains("CONTOSO\\DC1") && !body.contains(TOKEN), "{body}");
    let cookie = logged_in(&service);
    let (code_of, _, body) = status(&[&cookie]);
    assert!(code_of == 200 && body.contains("Decisions in the last hour"), "{body}");
    // The cookie opens the page, and nothing else.
    for path in ["/status", "/log", "/identity/x"] {
        assert_eq!(code(&service, "GET", path, &[&cookie], ""), 401, "{path}");
    }
    for forged in [
        "Authorization: Bearer wrong".to_owned(),
        "Authorization: Bearer ".to_owned(),
        format!("{cookie}0"),
        cookie.replace('.', "0."),
    ] {
        assert_eq!(status(&[&forged]).0, 401, "{forged}");
    }
    assert_eq!(code(&service, "GET", "/ui/explain", &[], ""), 401);
    assert_eq!(code(&service, "POST", "/ui/explain", &[&own(&service)], "certificate=x"), 401);
    // Out again: the browser is told to drop the cookie.
    let (code_of, head, _) = ask(&service, "POST", "/ui/logout", &[&cookie, &own(&service)], "x=");
    assert!(code_of == 303 && head.contains("max-age=0"), "{head}");
    // A copy of it opens nothing, and other sessions go on.
    assert_eq!(status(&[&cookie]).0, 401);
    assert_eq!(code(&service, "POST", "/ui/explain", &[&cookie, &own(&service)], "certificate=x"), 401);
    let (one, other) = (logged_in(&service), logged_in(&service));
    assert_eq!(code(&service, "POST", "/ui/logout", &[&one, &own(&service)], "x="), 303);
    assert_eq!((status(&[&one]).0, status(&[&other]).0), (401, 200));
}

#[test]
fn a_login_with_a_wrong_token_is_logged_once_a_minute_and_without_it() {
    let mut service = demo().serve();
    for token in ["", "token=", "token=wr0ng", "tokens=correct+horse", "token=correct+horse%00", "token=%ff"]
    {
        let (code, head, _) = ask(&service, "POST", "/ui/login", &[&own(&service)], token);
        assert!(code == 401 && !head.contains("set-cookie"), "{token}: {head}");
    }
    service.wait_for_log("Login to the status page rejected: the token is wrong");
    let log = service.log();
    assert_eq!(log.matches("Login to the status page rejected").count(), 1, "{log}");
    assert!(log.contains("127.0.0.1:") && !log.contains("wr0ng"), "{log}");
    let large = format!("token={}", "x".repeat(5000));
    assert_eq!(code(&service, "POST", "/ui/login", &[&own(&service)], &large), 413);
}

#[test]
fn other_pages_and_other_names_get_nothing() {
    let service = demo().serve();
    let (cookie, own) = (logged_in(&service), own(&service));
    let bearer = format!("Authorization: Bearer {TOKEN}");
    let port = service.admin.port();
    // A name that was made to lead here, and requests that leave open which host is meant.
    for host in [
        "Host: evil.example".to_owned(),
        format!("Host: evil.example:{port}"),
        "Host: 127.0.0.1.evil.example".to_owned(),
        "Host:".to_owned(),
    ] {
        for shown in [&cookie, &bearer] {
            assert_eq!(code(&service, "GET", "/ui/", &[&host, shown], ""), 403, "{host}");
        }
        assert_eq!(
            code(
                &service,
                "POST",
                "/ui/login",
                &[&host, "Origin: http://evil.example"],
                "token=correct+horse"
            ),
            403
        );
        assert_eq!(code(&service, "GET", "/ui/page.js", &[&host], ""), 403);
    }
    let two = format!("Host: {}", service.admin);
    assert_ne!(code(&service, "GET", "/ui/", &[&two, "Host: evil.example", &cookie], ""), 200);
    assert_eq!(code(&service, "GET", "/ui/", &[&format!("Host: localhost:{port}"), &cookie], ""), 200);
    // Pages of others, also those of other ports of this machine, to which the browser sends the cookie.
    for origin in ["http://evil.example", "null", "http://127.0.0.1", "http://127.0.0.1:1", "ftp://x", ""] {
        let origin = format!("Origin: {origin}");
        for (method, path, body) in [
            ("POST", "/ui/explain", "certificate=x"),
            ("POST", "/ui/login", "token=correct+horse"),
            ("POST", "/ui/logout", "x="),
            ("GET", "/ui/", ""),
        ] {
            assert_eq!(code(&service, method, path, &[&origin, &cookie], body), 403, "{origin} {path}");
        }
    }
    assert_eq!(code(&service, "POST", "/ui/explain", &[&own, &own, &cookie], "certificate=x"), 403);
    assert_eq!(code(&service, "POST", "/ui/explain", &[&cookie], "certificate=x"), 403, "no Origin");
    for site in ["cross-site", "same-site"] {
        let site = format!("Sec-Fetch-Site: {site}");
        assert_eq!(code(&service, "POST", "/ui/explain", &[&own, &site, &cookie], "certificate=x"), 403);
        assert_eq!(code(&service, "GET", "/ui/", &[&site, "Sec-Fetch-Mode: no-cors", &cookie], ""), 403);
        // A link to the page.
        assert_eq!(code(&service, "GET", "/ui/", &[&site, "Sec-Fetch-Mode: navigate", &cookie], ""), 200);
    }
    // A cookie is for browsers that came by TLS to a proxy in front.
    let (_, head, _) =
        ask(&service, "POST", "/ui/login", &[&own.replace("http:", "https:")], "token=correct+horse");
    assert!(head.contains("; secure"), "{head}");
}

#[test]
fn only_the_methods_of_a_path_are_allowed() {
    let service = demo().serve();
    let (cookie, own) = (logged_in(&service), own(&service));
    for (method, path, expected) in [
        ("HEAD", "/ui/", 200),
        ("GET", "/", 303),
        ("GET", "/ui", 303),
        ("GET", "/ui/login", 303),
        ("GET", "/ui/style.css", 200),
        ("GET", "/ui/icon.svg", 200),
        ("POST", "/ui/", 405),
        ("PUT", "/ui/explain", 405),
        ("DELETE", "/ui/", 405),
        ("GET", "/ui/logout", 405),
        ("TRACE", "/ui/", 405),
        ("GET", "/ui/../status", 404),
        ("GET", "/ui/nothing", 404),
    ] {
        let (code, head, body) = ask(&service, method, path, &[&cookie, &own], "");
        assert_eq!(code, expected, "{method} {path}");
        assert!(
            method != "HEAD" || (body.is_empty() && head.contains("content-security-policy")),
            "{head} {body}"
        );
    }
    // Without a token there is no page.
    let service = Demo::new().serve();
    for path in ["/ui/", "/ui/style.css", "/ui/explain"] {
        assert_eq!(code(&service, "GET", path, &[], ""), 404, "{path}");
    }
    assert_eq!(code(&service, "POST", "/ui/login", &[], "token="), 404);
}

#[test]
fn what_is_pasted_is_bounded_and_never_becomes_markup() {
    let service = demo().serve();
    let (cookie, own) = (logged_in(&service), own(&service));
    let explain = |body: &str| ask(&service, "POST", "/ui/explain", &[&cookie, &own], body);
    let alice = std::fs::read_to_string(service.path("certs/alice.pem")).unwrap();
    let (code, _, body) = explain(&form(&alice));
    assert!(code == 200 && body.contains("Mapped: alice") && body.contains("strong mapping"), "{body}");
    let carol = std::fs::read_to_string(service.path("certs/carol.pem")).unwrap();
    let (code, _, body) = explain(&form(&carol));
    assert!(code == 200 && body.contains("Not mapped") && body.contains("What would change that"), "{body}");
    let hostile = hostile(&service);
    let (code, _, body) = explain(&form(&hostile));
    assert!(code == 200 && body.contains("&lt;script&gt;") && !body.contains("<img"), "{body}");
    assert_eq!(body.matches("<script").count(), 1, "{body}");
    for (nonsense, expected) in [
        (form("<script>alert(1)</script>"), 400),
        (form("-----BEGIN CERTIFICATE-----\n<b>\n-----END CERTIFICATE-----\n"), 400),
        (form(""), 400),
        ("certificate=%".to_owned(), 400),
        ("certificates=x".to_owned(), 400),
        (form(&"-----BEGIN CERTIFICATE-----\n".repeat(1000)), 400),
        (format!("certificate={}", "A".repeat((1 << 20) + 1)), 413),
        (format!("certificate={}", "A".repeat((3 << 20) + 1)), 413),
    ] {
        let (code, _, body) = explain(&nonsense);
        let shown = &nonsense[..nonsense.len().min(60)];
        assert_eq!(code, expected, "{shown}");
        assert!(
            body.contains("role=\"alert\"") && !body.contains("<b>") && !body.contains("<script>"),
            "{shown}: {body}"
        );
    }
    // The service goes on.
    assert_eq!(explain(&form(&alice)).0, 200);
}

/// A certificate whose names are markup.
fn hostile(service: &Service) -> String {
    let out = service.path("hostile.pem");
    let out = out.to_str().unwrap();
    let name = "/CN=<img src=x onerror=alert(1)><script>alert(1)<\\/script>";
    let key = service.path("hostile.key");
    let key = key.to_str().unwrap();
    openssl(
        &service.path(""),
        &[
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-keyout",
            key,
            "-subj",
            name,
            "-days",
            "30",
            "-out",
            out,
        ],
    );
    std::fs::read_to_string(out).unwrap()
}

#[test]
fn status_has_the_last_hour_and_refusals_by_hashes_alone() {
    let service = demo().serve();
    for who in ["alice", "alice", "bob", "carol", "mallory", "mallory"] {
        service.map(who);
    }
    let (_, _, text) = ask(&service, "GET", "/status", &[&format!("Authorization: Bearer {TOKEN}")], "");
    let state: Value = serde_json::from_str(&text).expect(&text);
    let sum = |outcome: &str| -> u64 {
        state["hour"]["minutes"]
            .as_array()
            .unwrap()
            .iter()
            .map(|minute| minute[outcome].as_u64().unwrap())
            .sum()
    };
    // The client asks about bob by his name first, which finds no account.
    let metric = |reason: &str| service.metric(&format!("rcmpd_decisions_total{{reason=\"{reason}\"}}"));
    let (mapped, rejected) = (metric("mapped"), metric("no_match") + metric("no_strong_mapping"));
    assert_eq!((sum("mapped"), sum("rejected"), sum("undecided")), (mapped, rejected, 0), "{state:#}");
    assert!(mapped >= 3 && rejected == 4, "{state:#}");
    let refusals = state["refusals"].as_array().unwrap();
    assert_eq!(
        (refusals.len(), &refusals[0]["count"], &refusals[0]["asker"]),
        (3, &2.into(), &"WEB01$".into()),
        "{state:#}"
    );
    let thumbprint = openssl(
        &service.path(""),
        &["x509", "-in", &service.certificate("mallory"), "-noout", "-fingerprint", "-sha1"],
    );
    let thumbprint = thumbprint.trim().rsplit('=').next().unwrap().replace(':', "").to_lowercase();
    assert_eq!(refusals[0]["thumbprint"], thumbprint.as_str());
    let shown = state["refusals"].to_string().to_lowercase();
    assert!(!shown.contains("mallory") && !shown.contains("carol"), "{shown}");
    // A setting of the file has its line, and others are defaults.
    let origin = |key: &str| {
        let settings = state["settings"].as_array().unwrap().iter();
        settings
            .filter(|it| it["key"] == key)
            .map(|it| (it["origin"].as_str().unwrap(), it["line"].as_u64()))
            .next()
    };
    let file = std::fs::read_to_string(service.path("rcmpd.toml")).unwrap();
    let line = file.lines().position(|line| line.starts_with("binding")).unwrap() as u64 + 1;
    assert_eq!(origin("mapping.binding"), Some(("file", Some(line))));
    assert_eq!(origin("rpc.idle_timeout_s"), Some(("default", None)));
    // A reload changes them.
    service.edit(|text| format!("{text}\n[telemetry]\nlog = \"info\"\n"));
    service.signal(Signal::HUP);
    let token = format!("Authorization: Bearer {TOKEN}");
    eventually("the settings change", || {
        let (_, _, page) = ask(&service, "GET", "/ui/", &[&token], "");
        page.contains("telemetry.log</th><td class=\"mono break\">&quot;info&quot;</td><td><span class=\"tag set\">line")
    });
}

/// Every page, in light and dark, at the width of a phone and of a desk: no violation that axe finds, no
/// violation of the content security policy, nothing wider than the screen, and all of it by the keyboard.
#[test]
fn chromium_shows_the_page_to_everyone() {
    let service = demo().serve();
    for who in ["alice", "carol"] {
        service.map(who);
    }
    let alice = std::fs::read(service.path("certs/alice.pem")).unwrap();
    // The text of PEM is DER in base64.
    let pem = std::str::from_utf8(&alice).unwrap();
    let der: String = pem.split("-----").nth(2).unwrap().split_whitespace().collect();
    let map = rcmpd_tests::binary();
    let mallory = service.certificate("mallory");
    let client = service.path("client.toml");
    let seen = peers::browser(&json!({
        "url": format!("http://{}", service.admin),
        "token": TOKEN,
        "hostile": hostile(&service),
        "der": der,
        "port": free_port().port(),
        "service": [map, "map", mallory, "-c", client],
        "screenshots": std::env::var("RCMPD_SCREENSHOTS").ok(),
    }));
    let pages = seen["pages"].as_array().unwrap();
    assert_eq!(pages.len(), 6 * 4, "{seen:#}");
    for page in pages {
        assert_eq!((&page["violations"], &page["overflow"]), (&json!([]), &json!(0)), "{page:#}");
        assert!(page["passes"].as_u64().unwrap() > 20, "axe has looked: {page:#}");
    }
    let grounds: Vec<_> = pages.iter().map(|page| (&page["scheme"], &page["ground"])).collect();
    assert!(
        grounds.iter().all(|(scheme, ground)| (*scheme == "dark") == (*ground != grounds[0].1)),
        "{grounds:?}"
    );
    assert_eq!(seen["console"], json!([]), "nothing is blocked or fails");
    // Scripts, styles, images, frames, requests and forms of others do nothing.
    let blocked = json!([
        [
            "connect-src",
            "form-action",
            "frame-src",
            "img-src",
            "script-src-attr",
            "script-src-elem",
            "style-src-elem"
        ],
        true
    ]);
    assert_eq!(seen["blocked"], blocked);
    assert_eq!(seen["readable"], "", "no script reads the cookie");
    let walked = |page: &str, names: &[&str]| {
        let reached: Vec<_> =
            seen["keyboard"][page].as_array().unwrap().iter().map(|it| it[0].as_str().unwrap()).collect();
        assert_eq!(reached, names, "{page}");
        assert!(
            seen["keyboard"][page].as_array().unwrap().iter().all(|it| it[1] == true),
            "the focus is seen"
        );
    };
    let top = ["Skip to the content", "rcmpd CONTOSO\\DC1", "Status", "Explain", "Log out"];
    let refusals = "Recent refusals, the newest first";
    walked("login", &["Token", "Log in"]);
    walked(
        "status",
        &[&top[..], &["Pause", "The numbers as a table", refusals, "All settings and where they come from"]]
            .concat(),
    );
    walked(
        "explain",
        &[&top[..], &["Certificate, and its chain if there is one (PEM)", "Explain", "Choose a file…"]]
            .concat(),
    );
    assert_eq!((&seen["refreshed"], &seen["paused"]), (&json!(true), &json!("Updates are paused")));
    let dropped = seen["dropped"].as_str().unwrap();
    let same = |pem: &str| pem.split_whitespace().collect::<String>();
    assert_eq!(same(dropped), same(std::str::from_utf8(&alice).unwrap()));
    assert_eq!((&seen["explained"], &seen["logout"]), (&json!("Mapped: alice"), &json!("Log in")));
    assert_eq!(seen["hostile"][1], 0, "{seen:#}");
}

/// A certificate of a new CA, made by OpenSSL: the CA, the certificate and its key in the folder.
fn issued(demo: &Demo, name: &str, usage: &str) {
    let new = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2", "-x509"];
    let (ca, ca_key) = (format!("{name}-ca.pem"), format!("{name}-ca.key"));
    let (own, key) = (format!("{name}.pem"), format!("{name}.key"));
    let certified = |more: &[&str]| openssl(&demo.path(""), &[&["req"], &new[..], more].concat());
    certified(&["-subj", &format!("/CN={name} CA"), "-keyout", &ca_key, "-out", &ca]);
    let usage = format!("extendedKeyUsage={usage}");
    certified(&[
        "-subj",
        &format!("/CN={name}"),
        "-addext",
        &usage,
        "-addext",
        "basicConstraints=critical,CA:FALSE",
        "-CA",
        &ca,
        "-CAkey",
        &ca_key,
        "-keyout",
        &key,
        "-out",
        &own,
    ]);
}

#[test]
fn operators_with_certificates_need_no_token() {
    for has_token in [true, false] {
        let demo = if has_token { demo() } else { Demo::new() };
        issued(&demo, "operator", "clientAuth");
        issued(&demo, "server", "serverAuth");
        issued(&demo, "stranger", "clientAuth");
        let address = free_port();
        demo.configure(&format!(
            "[admin.tls]\nlisten = \"{address}\"\ncertificate = \"certs/site.pem\"\nkey = \"certs/site.key\"\n\
             client_ca = \"operator-ca.pem\""
        ));
        demo.rcmpd(&["check-config", "rcmpd.toml"]).code(0);
        let mut service = demo.serve();
        let curl = |who: &str, more: &str| {
            let certificate = match who {
                "" => String::new(),
                who => format!("--cert {who}.pem --key {who}.key"),
            };
            let url = format!("https://localhost:{}", address.port());
            let more = more.replace("URL", &url);
            let line = format!("curl -sS -w '\\n%{{http_code}}' --cacert certs/ca.pem {certificate} {more}");
            let done = service.paste(&line);
            let (body, code) = done.stdout.rsplit_once('\n').unwrap();
            (code.parse::<u16>().unwrap(), body.to_owned(), done.code)
        };
        let (code, body, _) = curl("operator", "URL/ui/");
        assert!(code == 200 && body.contains("CONTOSO\\DC1") && !body.contains(TOKEN), "{body}");
        let (code, body, _) = curl("operator", "URL/status");
        assert!(code == 200 && body.contains("\"ready\":true"), "{body}");
        assert_eq!(curl("operator", "--data-binary @certs/alice.pem URL/explain").0, 200);
        // No token of the client counts, and no page of another origin or host.
        assert_eq!(curl("operator", "-H 'Authorization: Bearer wrong' URL/status").0, 200);
        assert_eq!(curl("operator", "-H 'Origin: https://evil.example' -X PUT -d debug URL/log").0, 403);
        assert_eq!(curl("operator", "-H 'Host: evil.example' URL/status").0, 403);
        let form = "-H 'Origin: https://evil.example' --data certificate=x URL/ui/explain";
        assert_eq!(curl("operator", form).0, 403);
        for site in ["cross-site", "same-site"] {
            assert_eq!(curl("operator", &format!("-H 'Sec-Fetch-Site: {site}' URL/status")).0, 403, "{site}");
        }
        assert_eq!(curl("operator", "-H 'Sec-Fetch-Site: none' URL/status").0, 200);
        // Clients that begin a handshake and stop make room for others at once.
        let _silent: Vec<_> = (0..600)
            .map(|_| {
                let mut stream = TcpStream::connect(address).unwrap();
                stream.write_all(b"\x16").unwrap();
                stream
            })
            .collect();
        let evicted = || {
            let metrics = service.get("/metrics").1;
            let port = format!(":{}\"", address.port());
            let of_listener = |line: &&str| {
                line.starts_with("rcmpd_listener_connections_evicted_total{") && line.contains(&port)
            };
            let value = |line: &str| line.rsplit(' ').next()?.parse::<u64>().ok();
            metrics.lines().filter(of_listener).filter_map(value).sum::<u64>()
        };
        eventually("all are evicted but those that there is room for", || evicted() >= 300);
        assert_eq!(curl("operator", "URL/status").0, 200);
        // Others do not finish the handshake: no certificate, that of another CA, and one for servers.
        for who in ["", "stranger", "server", "certs/alice"] {
            let (code, body, ended) = curl(who, "URL/ready");
            assert!(code == 0 && body.is_empty() && ended != 0, "{who}: {code} {body}");
        }
        service.wait_for_lines(&["Rejected before a request could be handled", "reason=\"certificate\""], 1);
        // The port without TLS is what it was.
        assert_eq!(service.get("/ready").0, 200);
        assert_eq!(code_without_tls(&service), 401);
    }
}

/// What the page answers at the port without TLS, to a client with nothing.
fn code_without_tls(service: &Service) -> u16 {
    code(service, "GET", "/ui/", &[], "")
}

#[test]
fn files_of_the_listener_for_operators_count_after_a_reload() {
    let demo = demo();
    let (old, new) =
        (Authority::root(&demo, "old-ca", "/CN=Old"), Authority::root(&demo, "new-ca", "/CN=New"));
    for (ca, name) in [(&old, "olga"), (&old, "otto"), (&new, "nora")] {
        ca.issue(&demo, name, "");
    }
    // The service's own certificate, of two CAs.
    for (ca, name) in [(&old, "before"), (&new, "after")] {
        ca.issue_for(&demo, name, "serverAuth", "subjectAltName = DNS:localhost\n");
    }
    let folder = demo.path("");
    let put = |from: &str, to: &str| {
        fs::copy(folder.join(from), folder.join("certs/new")).unwrap();
        fs::rename(folder.join("certs/new"), folder.join(to)).unwrap();
    };
    let show = |ca: &str, name: &str| {
        put(&format!("certs/{name}.pem"), "certs/admin.pem");
        put(&format!("{ca}/{name}.key"), "certs/admin.key");
    };
    show("old-ca", "before");
    put("old-ca/ca.pem", "certs/operators.pem");
    old.list(&demo.path("operators.crl"), &["-crldays", "2"]);
    let address = free_port();
    demo.configure(&format!(
        "[admin.tls]\nlisten = \"{address}\"\ncertificate = \"certs/admin.pem\"\nkey = \"certs/admin.key\"\n\
         client_ca = \"certs/operators.pem\"\ncrls = [\"operators.crl\"]"
    ));
    demo.rcmpd(&["check-config", "rcmpd.toml"]).code(0);
    let service = demo.serve();
    let status = |who: &str, ca: &str| {
        let url = format!("https://localhost:{}/status", address.port());
        let files = format!("--cacert {ca}/ca.pem --cert certs/{who}.pem --key */{who}.key");
        let done = service.paste(&format!("curl -sS -o /dev/null -w '%{{http_code}}' {files} {url}"));
        done.stdout.parse::<u16>().unwrap()
    };
    assert_eq!([status("olga", "old-ca"), status("otto", "old-ca")], [200, 200]);
    // Revoked: from the reload on.
    old.revoke(&service.certificate("otto"), "keyCompromise");
    old.list(&service.path("operators.crl"), &["-crldays", "2"]);
    assert_eq!(status("otto", "old-ca"), 200);
    service.reload();
    assert_eq!([status("olga", "old-ca"), status("otto", "old-ca")], [200, 0]);
    let is_logged = |line: &str| line.contains("Rejected before a request") && line.contains("Revoked");
    eventually("the reason is logged", || service.log().lines().any(is_logged));
    // What cannot be used is not taken over, and `check-config` says so.
    for wrong in ["certs/admin.key", "certs/operators.pem"] {
        put(wrong, "operators.crl");
        let told = service.rcmpd(&["check-config", "rcmpd.toml"]).code(1).stderr;
        assert!(told.contains("admin.tls.crls") && told.contains("operators.crl"), "{told}");
        let failed = || service.log().matches("Not reloaded").count();
        let before = failed();
        service.signal(Signal::HUP);
        eventually("it is not taken over", || failed() > before);
        assert!(service.log().contains("admin.tls.crls"), "{}", service.log());
        assert_eq!([status("olga", "old-ca"), status("otto", "old-ca")], [200, 0], "{wrong}");
    }
    // An expired CRL, and one of another CA, decide nothing.
    old.list(
        &service.path("operators.crl"),
        &["-crl_lastupdate", "20240101000000Z", "-crl_nextupdate", "20240102000000Z"],
    );
    service.reload();
    assert_eq!(status("olga", "old-ca"), 0);
    new.list(&service.path("operators.crl"), &["-crldays", "2"]);
    service.reload();
    assert_eq!(status("olga", "old-ca"), 0);
    // Another CA, and another certificate of the service.
    put("new-ca/ca.pem", "certs/operators.pem");
    show("new-ca", "after");
    service.reload();
    assert_eq!([status("nora", "new-ca"), status("olga", "new-ca"), status("nora", "old-ca")], [200, 0, 0]);
}
