//! The sidecar as proxies meet it: who may ask, what is answered, what is cached, and which service says who
//! the user is.

use rcmpd_tests::openssl::{Authority, openssl};
use rcmpd_tests::{Demo, Service, eventually, write_secret};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::Value;
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::process::Command;
use tokio_rustls::rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned, crypto};

/// An answer of the sidecar.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
}

impl Answer {
    #[track_caller]
    pub(crate) fn header(&self, name: &str) -> &str {
        let mut values = self.headers.iter().filter(|(known, _)| known == name);
        let (_, value) = values.next().unwrap_or_else(|| panic!("no {name} in {:?}", self.headers));
        assert_eq!(values.next(), None, "{name} is there twice");
        value
    }
}

/// Asks as nginx does. `None` when the connection is closed without an answer.
fn ask(stream: &mut (impl Read + Write), headers: &[(&str, &str)]) -> Option<Answer> {
    let mut request = "GET / HTTP/1.1\r\nHost: sidecar\r\nConnection: close\r\n".to_owned();
    for (name, value) in headers {
        request.push_str(&format!("{name}: {value}\r\n"));
    }
    // A client that is rejected may be cut off before it has sent everything.
    let _ = stream.write_all(format!("{request}\r\n").as_bytes());
    let mut text = Vec::new();
    let _ = stream.read_to_end(&mut text);
    let text = String::from_utf8(text).unwrap();
    let (head, _) = text.split_once("\r\n\r\n")?;
    let mut lines = head.lines();
    let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
    let headers =
        lines.filter_map(|line| line.split_once(": ").or(line.strip_suffix(':').map(|name| (name, ""))));
    Some(Answer {
        status,
        headers: headers.map(|(name, value)| (name.to_lowercase(), value.to_owned())).collect(),
    })
}

/// `$ssl_client_escaped_cert`: everything percent-encoded but what RFC 3986 has unreserved.
fn escaped(demo: &Demo, who: &str) -> String {
    let pem = fs::read(demo.certificate(who)).unwrap();
    pem.iter().fold(String::new(), |mut text, byte| {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                text.push(char::from(*byte))
            }
            byte => text.push_str(&format!("%{byte:02X}")),
        }
        text
    })
}

fn user() -> String {
    rustix::process::geteuid().as_raw().to_string()
}

/// A sidecar for nginx on a Unix socket that hears us.
pub(crate) fn sidecar(demo: Demo, more: &str) -> Service {
    demo.configure(&format!(
        "[sidecar]\n{more}\n[[sidecar.listen]]\ndialect = \"nginx\"\nunix = \"nginx.sock\"\npeers = [\"{}\"]",
        user()
    ));
    demo.serve()
}

pub(crate) fn ask_about(service: &Service, who: &str, more: &[(&str, &str)]) -> Answer {
    let certificate = escaped(service, who);
    let mut stream = UnixStream::connect(service.path("nginx.sock")).unwrap();
    let headers = [&[("SSL-Client-Verify", "SUCCESS"), ("SSL-Client-Cert", &certificate)], more].concat();
    ask(&mut stream, &headers).expect("it answers")
}

#[test]
fn a_process_of_another_user_gets_nothing() {
    let demo = Demo::new();
    demo.configure(
        "[sidecar]\n[[sidecar.listen]]\ndialect = \"nginx\"\nunix = \"nginx.sock\"\npeers = [\"4242\"]",
    );
    let mut service = demo.serve();
    let certificate = escaped(&service, "alice");
    let mut stream = UnixStream::connect(service.path("nginx.sock")).unwrap();
    let headers = [("SSL-Client-Verify", "SUCCESS"), ("SSL-Client-Cert", certificate.as_str())];
    assert!(ask(&mut stream, &headers).is_none());
    service.wait_for_log("Rejected Unix-socket connection: the user of the process is not in peers");
    let (_, metrics) = service.get("/metrics");
    assert!(!metrics.contains("dialect=\"nginx\""), "nothing was decided");
}

/// Everything that listens does so at an IPv6 address, and who asks comes from one. The secret of the proxy is
/// a credential of systemd.
#[test]
fn every_listener_serves_over_ipv6() {
    let demo = Demo::new();
    demo.configure(
        "[sidecar]\n[[sidecar.listen]]\ndialect = \"nginx\"\naddress = \"127.0.0.1:0\"\nsecret = \"cred:proxy\"",
    );
    demo.edit(|text| text.replace("127.0.0.1:0", "[::1]:0"));
    let credentials = demo.path("credentials");
    fs::create_dir(&credentials).unwrap();
    write_secret(credentials.join("proxy"), "correct-horse-battery\n");
    let mut service = demo.serve_with(&[("CREDENTIALS_DIRECTORY", credentials.to_str().unwrap())]);
    let sidecar = service.address("Serving web servers");
    for address in [service.netlogon, service.endpoint_mapper, service.admin, sidecar] {
        assert!(address.is_ipv6(), "{address}");
        TcpStream::connect(address).unwrap();
    }
    let mapped = service.map("alice");
    assert!(mapped.code == 0 && mapped.stdout.contains("alice"), "{mapped:?}");
    service.map("mallory").code(3);
    service.wait_for_lines(&["Question rejected", "source=[::1]:"], 1);
    assert_eq!(service.get("/ready").0, 200);
    let certificate = escaped(&service, "alice");
    let shown = [
        ("SSL-Client-Verify", "SUCCESS"),
        ("SSL-Client-Cert", certificate.as_str()),
        ("X-Sidecar-Secret", "correct-horse-battery"),
    ];
    let said = ask(&mut TcpStream::connect(sidecar).unwrap(), &shown).unwrap();
    assert_eq!((said.status, said.header("remote-user")), (200, "CONTOSO\\alice"));
    assert_eq!(ask(&mut TcpStream::connect(sidecar).unwrap(), &shown[..2]).unwrap().status, 500);
    service.wait_for_lines(&["Rejected request of a proxy", "client.addr=[::1]:"], 1);
}

#[test]
fn a_listener_with_a_secret_hears_who_shows_it() {
    let demo = Demo::new();
    let private = |mode: u32| {
        let mode = std::os::unix::fs::PermissionsExt::from_mode(mode);
        fs::set_permissions(demo.path("sidecar.secret"), mode).unwrap();
    };
    write_secret(demo.path("sidecar.secret"), "correct horse battery\n");
    private(0o600);
    demo.configure(
        "[sidecar]\n[[sidecar.listen]]\ndialect = \"nginx\"\naddress = \"127.0.0.1:0\"\nsecret = \"file:sidecar.secret\"",
    );
    let odd = demo.rcmpd(&["serve", "-c", "rcmpd.toml"]).code(1);
    assert!(odd.stderr.contains("other characters") && !odd.stderr.contains("horse"), "{}", odd.stderr);
    let printed = demo.rcmpd(&[
        "proxy-config",
        "nginx",
        "-c",
        "rcmpd.toml",
        "--site",
        "app.example",
        "--listen",
        "127.0.0.1:443",
        "--certificate",
        "c",
        "--key",
        "k",
        "--with-secret",
    ]);
    let (why, shown) = (&printed.stderr, &printed.stdout);
    assert!(printed.code == 1 && why.contains("other characters") && shown.is_empty(), "{printed:?}");
    write_secret(demo.path("sidecar.secret"), "correct-horse-battery\n");
    private(0o644);
    let open = demo.rcmpd(&["serve", "-c", "rcmpd.toml"]).code(1);
    assert!(open.stderr.contains("sidecar.secret can be used by every user"), "{}", open.stderr);
    private(0o600);
    let mut service = demo.serve();
    let line = service.log().lines().find(|line| line.contains("Serving web servers")).unwrap().to_owned();
    let address: SocketAddr = line.rsplit("address=").next().unwrap().trim().parse().unwrap();
    let certificate = escaped(&service, "alice");
    let known = [("SSL-Client-Verify", "SUCCESS"), ("SSL-Client-Cert", certificate.as_str())];
    let ask = |more: &[(&str, &str)]| {
        ask(&mut TcpStream::connect(address).unwrap(), &[&known[..], more].concat()).unwrap().status
    };
    assert_eq!(ask(&[("X-Sidecar-Secret", "correct-horse-battery")]), 200);
    assert_eq!(ask(&[]), 500);
    assert_eq!(ask(&[("X-Sidecar-Secret", "wrong")]), 500);
    assert_eq!(ask(&[("X-Sidecar-Secret", "correct-horse-battery"), ("X-Sidecar-Secret", "wrong")]), 500);
    let rejected = ["WARN", "Rejected request of a proxy", "no_proxy_secret", "client.addr=127.0.0.1:"];
    service.wait_for_lines(&rejected, 1);
    // A proxy that shows it stays as long as it likes; others are closed.
    let mut silent = TcpStream::connect(address).unwrap();
    let mut wrong = TcpStream::connect(address).unwrap();
    let request =
        |secret: &str| format!("GET / HTTP/1.1\r\nHost: sidecar\r\nX-Sidecar-Secret: {secret}\r\n\r\n");
    wrong.write_all(request("wrong").as_bytes()).unwrap();
    let mut text = String::new();
    wrong.read_to_string(&mut text).unwrap();
    assert!(text.starts_with("HTTP/1.1 500 "), "{text}");
    let mut proxy = TcpStream::connect(address).unwrap();
    let mut answered = |secret: &str| {
        proxy.write_all(request(secret).as_bytes()).unwrap();
        let mut head = [0; 12];
        proxy.read_exact(&mut head).unwrap();
        let mut rest = vec![0; 4096];
        let len = proxy.read(&mut rest).unwrap();
        assert!(String::from_utf8_lossy(&rest[..len]).contains("\r\n\r\n"));
        String::from_utf8_lossy(&head).into_owned()
    };
    assert_eq!(answered("correct-horse-battery"), "HTTP/1.1 500", "nginx says nothing of a verification");
    silent.set_read_timeout(Some(std::time::Duration::from_secs(60))).unwrap();
    assert_eq!(silent.read(&mut [0]).unwrap(), 0, "it is closed");
    // A secret that leaked is worth nothing any more.
    write_secret(service.path("sidecar.secret"), "Tr0ub4dor");
    service.reload();
    assert_eq!(answered("correct-horse-battery"), "HTTP/1.1 500");
    assert_eq!(ask(&[("X-Sidecar-Secret", "correct-horse-battery")]), 500);
    assert_eq!(ask(&[("X-Sidecar-Secret", "Tr0ub4dor")]), 200);
    assert!(
        !service.log().contains("correct-horse") && !service.log().contains("Tr0ub4dor"),
        "{}",
        service.log()
    );
}

#[test]
fn an_account_that_ends_ends_what_is_remembered() {
    let service = sidecar(Demo::new(), "remember_s = 3600");
    let end = std::time::SystemTime::now() + std::time::Duration::from_secs(3);
    let end = end.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs().to_string();
    service.rcmpd(&["account", "set", "alice", "--expires", &end, "-c", "rcmpd.toml"]).code(0);
    assert_eq!(ask_about(&service, "alice", &[]).status, 200);
    eventually("alice is refused", || ask_about(&service, "alice", &[]).status == 403);
}

/// A connection of the proxy over TLS on which something was answered.
fn kept(service: &Service, address: SocketAddr) -> impl Read + Write {
    let pem = |name: &str| fs::read(service.path(&format!("certs/{name}"))).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(&pem("ca.pem")).unwrap()).unwrap();
    let certificate = CertificateDer::from_pem_slice(&pem("proxy.pem")).unwrap();
    let key = PrivateKeyDer::from_pem_slice(&pem("proxy.key")).unwrap();
    let provider = std::sync::Arc::new(crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(vec![certificate], key)
        .unwrap();
    let client = ClientConnection::new(std::sync::Arc::new(config), "localhost".try_into().unwrap()).unwrap();
    let mut stream = StreamOwned::new(client, TcpStream::connect(address).unwrap());
    stream.write_all(b"GET / HTTP/1.1\r\nHost: sidecar\r\n\r\n").unwrap();
    stream.read_exact(&mut [0; 12]).unwrap();
    stream
}

#[test]
fn a_listener_with_tls_hears_proxies_that_are_named() {
    let demo = Demo::new();
    for (name, dns) in [("proxy", "proxy.contoso.example"), ("other", "other.contoso.example")] {
        let folder = demo.path("certs");
        fs::write(
            folder.join("x.cnf"),
            format!("subjectAltName = DNS:{dns}\nextendedKeyUsage = clientAuth\n"),
        )
        .unwrap();
        let (key, request, certificate) =
            (format!("{name}.key"), format!("{name}.csr"), format!("{name}.pem"));
        openssl(&folder, &["ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", &key]);
        openssl(&folder, &["req", "-new", "-subj", "/CN=x", "-key", &key, "-out", &request]);
        openssl(
            &folder,
            &[
                "x509",
                "-req",
                "-in",
                &request,
                "-CA",
                "ca.pem",
                "-CAkey",
                "ca.key",
                "-days",
                "3",
                "-extfile",
                "x.cnf",
                "-out",
                &certificate,
            ],
        );
    }
    demo.configure(
        "[sidecar]\n[[sidecar.listen]]\ndialect = \"nginx\"\naddress = \"127.0.0.1:0\"\n\
         tls = { certificate = \"certs/site.pem\", key = \"certs/site.key\", client_ca = \"certs/ca.pem\", names = [\"Proxy.contoso.example\"] }",
    );
    let service = demo.serve();
    let line = service.log().lines().find(|line| line.contains("Serving web servers")).unwrap().to_owned();
    let address: SocketAddr = line.rsplit("address=").next().unwrap().trim().parse().unwrap();
    let certificate = format!("SSL-Client-Cert: {}", escaped(&service, "alice"));
    let ask = |who: Option<&str>| {
        let mut command = Command::new("curl");
        command.args(["--silent", "--output", "/dev/null", "--write-out", "%{http_code}", "--cacert"]);
        command.arg(service.path("certs/ca.pem"));
        if let Some(who) = who {
            command.arg("--cert").arg(service.path(&format!("certs/{who}.pem")));
            command.arg("--key").arg(service.path(&format!("certs/{who}.key")));
        }
        command.args(["-H", "SSL-Client-Verify: SUCCESS", "-H", &certificate]);
        let done = command.arg(format!("https://localhost:{}/", address.port())).output().unwrap();
        String::from_utf8(done.stdout).unwrap()
    };
    // A proxy keeps as many connections as it likes.
    let _kept: Vec<_> = (0..70).map(|_| kept(&service, address)).collect();
    assert_eq!(ask(Some("proxy")), "200");
    assert_eq!(ask(Some("other")), "000", "of that authority, and no proxy");
    assert_eq!(ask(Some("alice")), "000");
    assert_eq!(ask(None), "000");
}

#[test]
fn without_a_proxy_that_can_be_known_nothing_is_served() {
    let demo = Demo::new();
    demo.configure("[sidecar]\n[[sidecar.listen]]\ndialect = \"nginx\"\naddress = \"127.0.0.1:0\"");
    let done = demo.rcmpd(&["serve", "-c", "rcmpd.toml"]).code(1);
    assert!(
        done.stderr.contains("this listener would trust every process that can connect to it"),
        "{done:?}"
    );
}

#[test]
fn every_header_is_in_every_answer() {
    let service = sidecar(Demo::new(), "");
    let names = |answer: &Answer| {
        let mut names: Vec<String> = answer.headers.iter().map(|(name, _)| name.clone()).collect();
        names.retain(|name| name.starts_with("x-identity-") || name.starts_with("remote-"));
        names.sort();
        names
    };
    let alice = ask_about(&service, "alice", &[]);
    assert_eq!((alice.status, alice.header("remote-user")), (200, "CONTOSO\\alice"));
    let mallory = ask_about(&service, "mallory", &[]);
    assert_eq!((mallory.status, mallory.header("remote-user")), (403, ""));
    let mut stream = UnixStream::connect(service.path("nginx.sock")).unwrap();
    let anonymous = ask(&mut stream, &[("SSL-Client-Verify", "NONE")]).unwrap();
    assert_eq!((anonymous.status, anonymous.header("x-identity-sid")), (401, ""));
    let broken = ask_about(&service, "alice", &[("SSL-Client-Verify", "SUCCESS")]);
    assert_eq!((broken.status, broken.header("remote-groups")), (500, ""));
    let forged = ask_about(&service, "alice", &[("Client-Cert", ":AA==:")]);
    assert_eq!(forged.status, 403);
    for answer in [&mallory, &anonymous, &broken, &forged] {
        assert_eq!(names(answer), names(&alice));
    }
    assert_eq!(names(&alice).len(), 18);
    let (_, metrics) = service.get("/metrics");
    assert!(
        metrics.contains("rcmpd_sidecar_requests_total{dialect=\"nginx\",outcome=\"duplicate_header\"} 1"),
        "{metrics}"
    );
}

#[test]
fn decisions_are_remembered_as_long_as_they_are_right() {
    let demo = Demo::new();
    demo.edit(|text| {
        text.replace(
            "validation = \"chain\"",
            "validation = \"chain+crl\"\ncrls = [\"ca.crl\"]\ncrl_refresh_s = 1\n",
        )
    });
    demo.configure("[audit]\npath = \"audit.log\"");
    let authority = Authority::of(&demo);
    authority.list(&demo.path("ca.crl"), &[]);
    let service = sidecar(demo, "remember_s = 3600");
    let made = || {
        let (_, metrics) = service.get("/metrics");
        let line =
            metrics.lines().find(|line| line.starts_with("rcmpd_sidecar_decisions_total{how=\"made\"}"));
        line.and_then(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).unwrap()
    };
    let first = ask_about(&service, "alice", &[]);
    let again = ask_about(&service, "alice", &[]);
    assert_eq!(first.header("x-identity-decision"), again.header("x-identity-decision"));
    assert_eq!(made(), 1);
    let audit = fs::read_to_string(service.path("audit.log")).unwrap();
    let lines: Vec<Value> = audit.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let [line] = &lines[..] else { panic!("{lines:?}") };
    assert_eq!(
        (&line["decision"], &line["asker"]),
        (&first.header("x-identity-decision").into(), &"sidecar".into())
    );
    // A change of any account's, a reload and a revocation count at the next request.
    service.rcmpd(&["account", "set", "alice", "--full-name", "Alice Zimmer", "-c", "client.toml"]).code(0);
    assert_eq!(ask_about(&service, "alice", &[]).header("remote-name"), "Alice Zimmer");
    // An address is sent while one account alone has it.
    let mail = |who: &str, address: &str| {
        service.rcmpd(&["account", "set", who, "--mail", address, "-c", "client.toml"]).code(0);
    };
    mail("alice", "Alice.Z\u{e4}@contoso.example");
    assert_eq!(ask_about(&service, "alice", &[]).header("remote-email"), "Alice.Z%C3%A4@contoso.example");
    mail("bob", "alice.z\u{e4}@Contoso.example");
    assert_eq!(ask_about(&service, "alice", &[]).header("remote-email"), "");
    assert_eq!(service.metric("rcmpd_sidecar_shared_mail_total"), 1);
    mail("bob", "");
    assert_eq!(ask_about(&service, "alice", &[]).header("remote-email"), "Alice.Z%C3%A4@contoso.example");
    let lines = ["account", "set", "alice", "--mail", "a@b\r\nX-Admin: 1", "-c", "client.toml"];
    assert!(service.rcmpd(&lines).code(1).stderr.contains("e-mail address"));
    service.edit(|text| text.replace("remember_s = 3600", "user = \"upn\""));
    let before = made();
    service.reload();
    assert_eq!(made(), before, "a reload does not count from nothing");
    let reloaded = ask_about(&service, "alice", &[]);
    assert_eq!(
        (reloaded.header("remote-user"), reloaded.header("x-identity-policy-revision")),
        ("alice@contoso.example", "2")
    );
    authority.revoke(&service.certificate("alice"), "keyCompromise");
    authority.list(&service.path("ca.crl"), &[]);
    eventually("alice is refused", || ask_about(&service, "alice", &[]).status == 403);
    assert_eq!(ask_about(&service, "bob", &[]).status, 200);
}

#[test]
fn what_does_not_fit_is_kept_behind_a_reference() {
    let demo = Demo::new();
    write_secret(demo.path("admin.token"), "t0ken");
    demo.edit(|text| text.replace("[admin]", "[admin]\ntoken = \"file:admin.token\""));
    for n in 0..30 {
        let name = format!("Department of Things {n}");
        demo.rcmpd(&["group", "add", &name, "-c", "rcmpd.toml"]).code(0);
        demo.rcmpd(&["account", "set", "alice", "--group", &name, "-c", "rcmpd.toml"]).code(0);
    }
    let service = sidecar(demo, "header_len_max = 512");
    let alice = ask_about(&service, "alice", &[]);
    assert_eq!(
        (alice.status, alice.header("remote-groups"), alice.header("x-identity-group-sids")),
        (200, "", "")
    );
    let reference = alice.header("x-identity-reference");
    assert_eq!(reference, alice.header("x-identity-decision"));
    let path = format!("/identity/{reference}");
    assert_eq!(service.get(&path).0, 401, "only for who has the token");
    let ask = |path: &str| {
        let mut stream = TcpStream::connect(service.admin).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer t0ken\r\nConnection: close\r\n\r\n").unwrap();
        std::io::read_to_string(stream).unwrap()
    };
    let whole = ask(&path);
    let whole: Value = serde_json::from_str(whole.split_once("\r\n\r\n").unwrap().1).unwrap();
    assert_eq!(whole["groups"].as_array().unwrap().len(), 34, "{whole:#}");
    assert_eq!(whole["user"], "CONTOSO\\alice");
    assert!(ask("/identity/00112233445566778899aabbccddeeff").starts_with("HTTP/1.1 404"));
}

/// An operator who empties a list of groups lets no account in. Neither a start nor a reload takes the route
/// for an open one, also if the signal is sent again.
#[test]
fn a_route_whose_groups_are_emptied_does_not_open() {
    let mut service = sidecar(Demo::new(), "[[sidecar.route]]\ngroups = [\"Engineers\"]");
    let status = |service: &Service, who: &str| {
        ask_about(service, who, &[("X-Original-Host", "app.example"), ("X-Original-URI", "/")]).status
    };
    assert_eq!((status(&service, "alice"), status(&service, "bob")), (200, 403));
    service.edit(|text| text.replace("[\"Engineers\"]", "[]"));
    for count in 1..=2 {
        service.signal(rustix::process::Signal::HUP);
        service.wait_for_lines(&["Not reloaded"], count);
        service.wait_for_lines(&["groups is an empty list"], count);
        assert_eq!((status(&service, "alice"), status(&service, "bob")), (200, 403));
    }
    for command in ["check-config", "serve"] {
        let done = service.rcmpd(&[command, "-c", "rcmpd.toml"]).code(1);
        assert!(done.stderr.contains("groups is an empty list"), "{done:?}");
    }
}

#[test]
fn routes_let_in_and_explanations_say_which() {
    let demo = Demo::new();
    let editors = format!("{}-1103", demo.domain_sid());
    let mut service = sidecar(
        demo,
        &format!(
            "[[sidecar.route]]\nhost = \"app.example\"\npath = \"/admin\"\ngroups = [\"Engineers\"]\n\
             [[sidecar.route]]\nhost = \"app.example\"\nsids = [\"{editors}\"]\nstrength = \"strong\"\n\
             [[sidecar.route]]\npath = \"/status\""
        ),
    );
    for (who, host, path, status, route) in [
        ("alice", "app.example", "/admin/x", 200, 1),
        ("bob", "app.example", "/admin", 403, 1),
        ("bob", "app.example", "/", 200, 2),
        ("web01", "app.example", "/", 403, 2),
        ("web01", "other.example", "/status", 200, 3),
        ("web01", "other.example", "/", 403, 0),
        ("alice", "app.example", "/x/..%2fadmin", 403, 0),
        ("mallory", "other.example", "/status", 403, 3),
    ] {
        let answer = ask_about(&service, who, &[("X-Original-Host", host), ("X-Original-URI", path)]);
        assert_eq!(answer.status, status, "{who} at {host}{path}");
        let url = format!("https://{host}{path}");
        let explained = service.rcmpd(&[
            "explain",
            &service.certificate(who),
            "-c",
            "rcmpd.toml",
            "--url",
            &url,
            "--json",
        ]);
        let explained = explained.code(if status == 200 { 0 } else { 3 }).json();
        assert_eq!(explained["route"]["status"], status, "{explained:#}");
        let number = explained["route"]["number"].as_u64().unwrap_or(0);
        assert_eq!(number, route, "{explained:#}");
    }
    assert_eq!(ask_about(&service, "alice", &[]).status, 500, "routes are configured, and target is missing");
    let quiet = service.log();
    assert!(!quiet.contains("A route names"), "{quiet}");
    // What can match no request and no account is not taken over, and the routes stay as they were.
    for (at, (from, to, why)) in [
        ("path = \"/status\"", "path = \"/status/*\"", "a path is no pattern"),
        ("path = \"/status\"", "domains = [\"CONTSO\"]", "CONTSO is neither [domain] nor a [[peer]]"),
        ("path = \"/admin\"", "host = \"app,b.example\"", "this is not a host"),
    ]
    .into_iter()
    .enumerate()
    {
        let good = fs::read_to_string(service.path("rcmpd.toml")).unwrap();
        service.edit(|text| text.replace(from, to).replacen("host = \"app.example\"\nhost", "host", 1));
        let checked = service.rcmpd(&["check-config", "-c", "rcmpd.toml"]).code(1);
        assert!(checked.stderr.contains(why), "{checked:?}");
        service.signal(rustix::process::Signal::HUP);
        service.wait_for_lines(&["Not reloaded"], at + 1);
        let admin = [("X-Original-Host", "app.example"), ("X-Original-URI", "/admin")];
        assert_eq!(ask_about(&service, "bob", &admin).status, 403);
        service.edit(|_| good);
    }
    service.edit(|text| text.replace("[\"Engineers\"]", "[\"Enginers\"]"));
    service.reload();
    service.wait_for_log("A route names a group that does not exist route=1 group=\"Enginers\"");
}

/// PyJWT verifies tokens of the next, the present and the previous key by the published set, over a reload
/// and a restart.
#[test]
fn keys_of_signed_identities_are_replaced_without_a_gap() {
    let demo = Demo::new();
    let curve = ["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"];
    demo.rcmpd(&["audit", "key", "old.key"]).code(0);
    openssl(&demo.path(""), &[&["genpkey", "-out", "new.key"], &curve[..]].concat());
    openssl(&demo.path(""), &["pkey", "-in", "new.key", "-pubout", "-out", "new.key.pub"]);
    fs::set_permissions(demo.path("new.key"), std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let section = "[sidecar.token]\nkey = \"old.key\"\nissuer = \"https://id.example\"\naudience = \"wiki\"";
    let mut service = sidecar(demo, section);
    let keys = |service: &Service| service.get("/.well-known/jwks.json").1;
    let count = |service: &Service| {
        serde_json::from_str::<Value>(&keys(service)).unwrap()["keys"].as_array().unwrap().len()
    };
    let token = |service: &Service| ask_about(service, "alice", &[]).header("x-identity-token").to_owned();
    let algorithm = |token: &str, keys: &str| {
        let verified = rcmpd_tests::peers::verify_jwt(token, keys, "wiki", "https://id.example");
        verified["header"]["alg"].as_str().unwrap_or_else(|| panic!("{verified}")).to_owned()
    };
    let old = token(&service);
    assert_eq!((count(&service), algorithm(&old, &keys(&service)).as_str()), (1, "EdDSA"));
    // The next key is published before it signs.
    service
        .edit(|text| text.replace("key = \"old.key\"", "key = \"old.key\"\npublished = [\"new.key.pub\"]"));
    service.reload();
    let before = keys(&service);
    assert_eq!((count(&service), algorithm(&token(&service), &before).as_str()), (2, "EdDSA"));
    // A reload keeps the previous one, though the file does not name it.
    service.edit(|text| text.replace("\"old.key\"\npublished = [\"new.key.pub\"]", "\"new.key\""));
    service.reload();
    let new = token(&service);
    assert_eq!(algorithm(&new, &before), "ES256", "an application that has the set from before takes it");
    for (token, expected) in [(&old, "EdDSA"), (&new, "ES256")] {
        assert_eq!(algorithm(token, &keys(&service)), expected);
    }
    // A restart keeps what the file names.
    service.edit(|text| text.replace("\"new.key\"\n", "\"new.key\"\npublished = [\"old.key.pub\"]\n"));
    service.kill();
    service.start_again();
    for (token, expected) in [(&old, "EdDSA"), (&new, "ES256")] {
        assert_eq!(algorithm(token, &keys(&service)), expected);
    }
    // A private key is not published, nor is what is no key.
    for odd in ["new.key", "certs/ca.pem", "nothing.pub"] {
        service.edit(|text| text.replace("\"old.key.pub\"", &format!("\"{odd}\"")));
        let done = service.rcmpd(&["check-config", "-c", "rcmpd.toml"]).code(1);
        assert!(done.stderr.contains(odd), "{done:?}");
        service.edit(|text| text.replace(&format!("[\"{odd}\"]"), "[\"old.key.pub\"]"));
    }
    let private = fs::read_to_string(service.path("new.key")).unwrap();
    assert!(!service.log().contains(private.lines().nth(1).unwrap()));
}

/// PyJWT takes a token for the audience of its route, and for no other one.
#[test]
fn a_signed_identity_is_for_the_audience_of_its_route() {
    let demo = Demo::new();
    demo.rcmpd(&["audit", "key", "token.key"]).code(0);
    let service = sidecar(
        demo,
        "[sidecar.token]\nkey = \"token.key\"\nissuer = \"https://id.example\"\naudience = \"all\"\n\
         [[sidecar.route]]\npath = \"/orders\"\naudience = \"https://orders.example\"\n\
         [[sidecar.route]]\npath = \"/wiki\"\naudience = \"wiki\"\n[[sidecar.route]]",
    );
    let (_, keys) = service.get("/.well-known/jwks.json");
    let audiences = ["https://orders.example", "wiki", "all"];
    // From a decision that is made, and from the cached one.
    for _ in 0..2 {
        for (path, expected) in
            [("/wiki/a", "wiki"), ("/orders", audiences[0]), ("/", "all"), ("/wiki", "wiki")]
        {
            let target = [("X-Original-Host", "app.example"), ("X-Original-URI", path)];
            let answer = ask_about(&service, "alice", &target);
            for audience in audiences {
                let token = answer.header("x-identity-token");
                let verified = rcmpd_tests::peers::verify_jwt(token, &keys, audience, "https://id.example");
                match audience == expected {
                    true => assert_eq!(verified["claims"]["aud"], audience, "{path}: {verified}"),
                    false => assert_eq!(verified["error"], "InvalidAudienceError", "{path}"),
                }
            }
        }
    }
    let metrics = service.get("/metrics").1;
    assert!(metrics.contains("rcmpd_sidecar_decisions_total{how=\"made\"} 1\n"), "{metrics}");
}

/// `explain --url` decides as the sidecar does, which asks by its own methods.
#[test]
fn explanations_of_a_url_ask_by_the_methods_of_the_sidecar() {
    let service = sidecar(Demo::new(), "methods = [\"subject\"]\n[[sidecar.route]]");
    let target = [("X-Original-Host", "app.example"), ("X-Original-URI", "/")];
    let explain = |who: &str, more: &[&str]| {
        let certificate = service.certificate(who);
        let url = ["explain", &certificate, "-c", "rcmpd.toml", "--url", "https://app.example/"];
        service.rcmpd(&[&url[..], more].concat())
    };
    // alice's name is in her certificate, and only a question by upn looks for it. bob is found by issuer and
    // serial number.
    for (who, status) in [("alice", 403), ("bob", 200)] {
        assert_eq!(ask_about(&service, who, &target).status, status, "{who}");
        let explained = explain(who, &["--json"]).code(if status == 200 { 0 } else { 3 }).json();
        assert_eq!(explained["route"]["status"], status, "{explained:#}");
        assert_eq!(explained["route"]["methods"], serde_json::json!(["subject"]), "{explained:#}");
        let text = explain(who, &[]).stdout;
        assert!(text.lines().any(|line| line == "the sidecar asks by subject"), "{text}");
    }
    let other = explain("alice", &["--methods", "upn"]).code(0);
    assert!(
        other.stdout.contains("the sidecar asks by subject, and this was decided by --methods"),
        "{other:?}"
    );
}

#[test]
fn an_identity_is_signed_for_every_client_that_fetches_the_key() {
    for (key, algorithm) in [("ed25519", "EdDSA"), ("p256", "ES256")] {
        let demo = Demo::new();
        let folder = demo.path("");
        match key {
            "ed25519" => _ = demo.rcmpd(&["audit", "key", "token.key"]).code(0),
            _ => {
                let curve = ["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"];
                openssl(&folder, &[&["genpkey", "-out", "token.key"], &curve[..]].concat());
            }
        }
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        fs::set_permissions(demo.path("token.key"), mode).unwrap();
        let service = sidecar(
            demo,
            "[sidecar.token]\nkey = \"token.key\"\nissuer = \"https://id.contoso.example\"\naudience = \"wiki\"",
        );
        let alice = ask_about(&service, "alice", &[]);
        let token = alice.header("x-identity-token");
        let (status, keys) = service.get("/.well-known/jwks.json");
        assert_eq!(status, 200);
        let verified = rcmpd_tests::peers::verify_jwt(token, &keys, "wiki", "https://id.contoso.example");
        assert_eq!(verified["header"]["alg"], algorithm);
        let claims = &verified["claims"];
        assert_eq!(claims["sub"], alice.header("x-identity-sid"));
        assert_eq!(claims["jti"], alice.header("x-identity-decision"));
        let der = openssl(
            &service.path(""),
            &["x509", "-in", &service.certificate("alice"), "-noout", "-fingerprint", "-sha256"],
        );
        let hex = der.trim().rsplit('=').next().unwrap().replace(':', "").to_lowercase();
        assert_eq!(verified["thumbprint"], hex);
        let refused = rcmpd_tests::peers::verify_jwt(token, &keys, "other", "https://id.contoso.example");
        assert_eq!(refused["error"], "InvalidAudienceError");
    }
}

#[test]
fn a_service_elsewhere_tells_who_the_user_is() {
    let of = Demo::new();
    let done = of.rcmpd(&["domain", "key", "hop.key"]).code(0);
    assert!(done.stdout.contains("PUBLIC KEY"), "{done:?}");
    of.configure("[forward]\nproof_key = \"hop.key\"");
    let mut service = of.serve();
    let sid = service.domain_sid();
    let proof = format!("proof_keys = {{ CONTOSO = \"{}\" }}", service.path("hop.key.pub").display());
    let web = |client: &str| Demo::web(&service, client, "remember_s = 0\ntimeout_s = 3").serve_bare();
    for (proof, strength) in [("", "unknown"), (proof.as_str(), "strong")] {
        let asking = web(proof);
        let alice = ask_about(&asking, "alice", &[]);
        assert_eq!((alice.status, alice.header("remote-user")), (200, "CONTOSO\\alice"), "{}", asking.log());
        assert_eq!(alice.header("x-identity-strength"), strength, "{}", asking.log());
        assert_eq!(
            alice.header("remote-groups"),
            alice.header("x-identity-group-sids"),
            "names do not come over Netlogon"
        );
        assert!(alice.header("x-identity-group-sids").contains(&format!("{sid}-1101")));
        let line = fs::read_to_string(asking.path("web.log")).unwrap();
        assert!(
            line.contains(alice.header("x-identity-decision")) && line.contains("\"identify\""),
            "{line}"
        );
    }
    let asking = web("");
    assert_eq!(ask_about(&asking, "alice", &[]).status, 200);
    assert_eq!(ask_about(&asking, "mallory", &[]).status, 403);
    service.kill();
    assert_eq!(ask_about(&asking, "alice", &[]).status, 500, "no service denied it");
    service.start_again();
    eventually("it recovers", || ask_about(&asking, "alice", &[]).status == 200);
}

#[test]
fn a_socket_without_a_listener_is_replaced_and_nothing_else() {
    let demo = Demo::new();
    let socket = demo.path("nginx.sock");
    fs::write(&socket, "").unwrap();
    demo.configure(&format!(
        "[sidecar]\n[[sidecar.listen]]\ndialect = \"nginx\"\nunix = \"nginx.sock\"\nmode = \"0600\"\npeers = [\"{}\"]",
        user()
    ));
    let refused = |demo: &Demo, why: &str| {
        let done = demo.rcmpd(&["serve", "-c", "rcmpd.toml"]).code(1);
        assert!(done.stderr.contains(why), "{}", done.stderr);
    };
    refused(&demo, "nginx.sock ([[sidecar.listen]]): there is a file that is no socket");
    fs::remove_file(&socket).unwrap();
    // It stays there when its listener goes.
    drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
    let service = demo.serve();
    let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&socket).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    assert_eq!(ask_about(&service, "alice", &[]).status, 200);
    refused(&service, "another process listens on this socket");
    service.edit(|text| text.replace("\"nginx.sock\"", "\"nowhere/nginx.sock\""));
    refused(&service, "its folder is not there");
    service.edit(|text| {
        text.replace("nowhere/", "").replace(&format!("[\"{}\"]", user()), "[\"no-such-user\"]")
    });
    refused(&service, "there is no user no-such-user");
}

#[test]
fn a_configuration_is_printed_for_what_there_is() {
    let demo = Demo::new();
    let print_for = |site: &str, server: &str, more: &[&str]| {
        let site = ["--site", site, "--listen", "127.0.0.1:443", "--certificate", "c", "--key", "k"];
        demo.rcmpd(&[&["proxy-config", server, "-c", "rcmpd.toml"], &site[..], more].concat())
    };
    let print = |server: &str, more: &[&str]| print_for("app.example", server, more);
    let refused = |server: &str, more: &[&str], why: &str| {
        let done = print(server, more);
        assert!(done.code != 0 && done.stdout.is_empty() && done.stderr.contains(why), "{done:?}");
    };
    refused("nginx", &[], "has no [sidecar]");
    demo.configure(&format!(
        "[sidecar]\n[[sidecar.listen]]\ndialect = \"nginx\"\nunix = \"a.sock\"\npeers = [\"{0}\"]\n\
         [[sidecar.listen]]\ndialect = \"traefik\"\nunix = \"b.sock\"\npeers = [\"{0}\"]\n\
         [[sidecar.listen]]\ndialect = \"haproxy\"\nunix = \"c.sock\"\npeers = [\"{0}\"]\nupstream = \"http://127.0.0.1:1\"",
        user()
    ));
    refused("caddy", &[], "dialect = \"caddy\"");
    refused("traefik", &[], "cannot use a Unix socket");
    refused("haproxy", &["--application", "127.0.0.1:2"], "remove --application");
    // ext_authz over HTTP would get the answers of the application from this listener.
    demo.edit(|text| {
        let envoy = "dialect = \"envoy\"\nunix = \"d.sock\"\nupstream = \"http://127.0.0.1:1\"";
        format!("{text}\n[[sidecar.listen]]\n{envoy}\npeers = [\"{}\"]\n", user())
    });
    refused(
        "envoy",
        &[],
        "remove upstream from it, or add a [[sidecar.listen]] with dialect = \"envoy-grpc\"",
    );
    demo.edit(|text| {
        let envoy = "dialect = \"envoy\"\nunix = \"e.sock\"\ntarget = \"request\"";
        format!("{text}\n[[sidecar.listen]]\n{envoy}\npeers = [\"{}\"]\n", user())
    });
    let printed = print("envoy", &[]).code(0).stdout;
    assert!(printed.contains("e.sock") && !printed.contains("d.sock"), "{printed}");
    refused("nginx", &["--application", "nonsense"], "write HOST:PORT");
    refused("nginx", &["--application", "a;b:1"], "write HOST:PORT");
    for site in ["a b;c", "", "app.example."] {
        let done = print_for(site, "nginx", &[]).code(2);
        assert!(done.stderr.contains("no name of a host") && done.stdout.is_empty(), "{done:?}");
    }
    let missing = print("nginx", &["--client-ca", "no-file.pem"]).code(0);
    assert!(missing.stderr.contains("no-file.pem"), "{missing:?}");
    let odd = print("nginx", &["--client-ca", "certs/my ca;1.pem"]).code(0).stdout;
    assert!(odd.lines().any(|it| it.contains("certificate \"/") && it.ends_with("/my ca;1.pem\";")), "{odd}");
    let refused = print("nginx", &["--client-ca", "certs/$ca.pem"]).code(2);
    assert!(refused.stdout.is_empty() && refused.stderr.contains("use one without $"), "{refused:?}");
    let printed = print("nginx", &["--application", "[::1]:8080"]).code(0).stdout;
    let socket = fs::canonicalize(demo.path("")).unwrap().join("a.sock");
    assert!(printed.contains(&format!("server unix:{};", socket.display())), "{printed}");
    // At the port of https no port is told.
    assert!(printed.contains("proxy_set_header Host $host;"), "{printed}");
}

/// A client may send its certificate alone, so web servers get intermediates, too.
#[test]
fn what_is_printed_has_all_cas_of_the_mapping() {
    let demo = Demo::new();
    let site = ["--site", "app.example", "--certificate", "c", "--key", "k"];
    let print = |server: &str, more: &[&str]| {
        demo.rcmpd(&[&["proxy-config", server, "-c", "rcmpd.toml"], &site[..], more].concat())
    };
    demo.configure(&format!(
        "[sidecar]\n[[sidecar.listen]]\ndialect = \"nginx\"\nunix = \"a.sock\"\npeers = [\"{}\"]",
        user()
    ));
    let folder = fs::canonicalize(demo.path("")).unwrap();
    let names = |file: &str| format!("ssl_client_certificate {}/{file};", folder.display());
    // One file is named as it is.
    let printed = print("nginx", &[]).code(0);
    assert!(printed.stdout.contains(&names("certs/ca.pem")) && printed.stderr.is_empty(), "{printed:?}");
    let root = Authority::root(&demo, "root", "/CN=Root");
    root.below(&demo, "issuing", "/CN=Issuing");
    let below = "anchors = [\"certs/ca.pem\", \"root/ca.pem\"]\nintermediates = [\"issuing/ca.pem\"]";
    demo.edit(|text| {
        let lines = text.lines().map(|line| if line.starts_with("anchors") { below } else { line });
        lines.collect::<Vec<_>>().join("\n")
    });
    let bundle = demo.path("client-ca-bundle.pem");
    // A file of that name that was not made here stays.
    fs::write(&bundle, "mine").unwrap();
    let refused = print("nginx", &[]).code(1);
    assert!(refused.stderr.contains("--write-client-ca") && refused.stdout.is_empty(), "{refused:?}");
    assert_eq!(fs::read_to_string(&bundle).unwrap(), "mine");
    fs::remove_file(&bundle).unwrap();
    let printed = print("nginx", &[]).code(0);
    assert!(printed.stdout.contains(&names("client-ca-bundle.pem")), "{printed:?}");
    assert!(printed.stderr.contains("3 CAs"), "{printed:?}");
    let subjects = |path: &std::path::Path| {
        let path = path.display().to_string();
        openssl(&folder, &["storeutl", "-noout", "-text", "-certs", &path]).matches("Subject:").count()
    };
    assert_eq!(subjects(&bundle), 3);
    let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&bundle).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o644, "web servers are other users");
    // What is the same is not written again; what has changed is.
    assert!(print("nginx", &[]).code(0).stderr.is_empty());
    demo.edit(|text| text.replace("intermediates = [\"issuing/ca.pem\"]", ""));
    assert!(print("nginx", &[]).code(0).stderr.contains("2 CAs"));
    assert_eq!(subjects(&bundle), 2);
    let printed = print("nginx", &["--write-client-ca", "own.pem"]).code(0);
    assert!(printed.stdout.contains(&names("own.pem")) && demo.path("own.pem").exists(), "{printed:?}");
    let printed = print("nginx", &["--client-ca", "certs/ca.pem"]).code(0);
    assert!(printed.stdout.contains(&names("certs/ca.pem")), "{printed:?}");
}

/// An application behind HAProxy or Apache has a listener of its own.
#[test]
fn the_listener_of_an_application_is_found_by_it() {
    let demo = Demo::new();
    let listener = |socket: &str, upstream: &str| {
        format!(
            "[[sidecar.listen]]\ndialect = \"haproxy\"\nunix = \"{socket}\"\npeers = [\"{}\"]\nupstream = \"http://{upstream}\"\n",
            user()
        )
    };
    let (first, second) = (listener("a.sock", "127.0.0.1:1"), listener("b.sock", "127.0.0.1:2"));
    demo.configure(&format!("[sidecar]\n{first}{second}"));
    let print = |more: &[&str]| {
        let site = ["--site", "b.example", "--certificate", "c", "--key", "k"];
        demo.rcmpd(&[&["proxy-config", "haproxy", "-c", "rcmpd.toml"], &site[..], more].concat())
    };
    assert!(print(&[]).code(0).stdout.contains("/a.sock"));
    let beside = print(&["--application", "127.0.0.1:2", "--beside"]).code(0).stdout;
    assert!(beside.contains("/b.sock") && beside.contains("backend rcmpd_sidecar_b_example"), "{beside}");
    for once in ["global", "defaults", "frontend rcmpd"] {
        assert!(!beside.lines().any(|line| line.starts_with(once)), "{beside}");
    }
    let refused = print(&["--application", "127.0.0.1:3"]).code(1);
    assert!(refused.stderr.contains("upstream = \"http://127.0.0.1:3\""), "{refused:?}");
}
