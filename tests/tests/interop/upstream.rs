//! Applications behind the TLS-terminating proxy, by programs that are not of this project: nginx over TLS
//! and HTTP/2, and gRPC's own server with its own client.

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType,
    date_time_ymd,
};
use rcmpd_tests::peers::{GrpcServer, grpc_client};
use rcmpd_tests::ports::free_port;
use rcmpd_tests::web::{Nginx, Page, Site, values};
use rcmpd_tests::{Demo, write_secret};
use serde_json::{Value, json};
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use tempfile::TempDir;

/// A CA for applications.
struct Ca {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Ca {
    fn new(name: &str) -> Self {
        let (mut params, key) = (named(name), KeyPair::generate().unwrap());
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self { pem: params.self_signed(&key).unwrap().pem(), issuer: Issuer::new(params, key) }
    }

    /// Writes NAME.pem and NAME.key.
    fn issue(&self, folder: &Path, name: &str, params: &CertificateParams) {
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        fs::write(folder.join(format!("{name}.pem")), certificate.pem()).unwrap();
        write_secret(folder.join(format!("{name}.key")), key.serialize_pem());
    }
}

fn named(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params
}

/// A certificate of an application with these names.
fn server(names: Vec<SanType>) -> CertificateParams {
    let mut params = named("application");
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.subject_alt_names = names;
    params
}

fn local() -> SanType {
    SanType::IpAddress(IpAddr::from([127, 0, 0, 1]))
}

fn dns(name: &str) -> SanType {
    SanType::DnsName(name.try_into().unwrap())
}

/// nginx before a page, over TLS. It tells the page what it made of the certificate that it was shown.
struct Application {
    folder: TempDir,
    ca: Ca,
    address: SocketAddr,
    page: Option<Page>,
    _nginx: Nginx,
}

impl Application {
    fn start(certificate: &CertificateParams) -> Self {
        Self::start_with(certificate, "")
    }

    /// The same with more in `listen`.
    fn start_with(certificate: &CertificateParams, listen: &str) -> Self {
        let (folder, page, address) = (tempfile::tempdir().unwrap(), Page::start(), free_port());
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(folder.path(), mode).unwrap();
        let ca = Ca::new("CA of applications");
        ca.issue(folder.path(), "application", certificate);
        let mut params = named("proxy");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        ca.issue(folder.path(), "proxy", &params);
        fs::write(folder.path().join("ca.pem"), &ca.pem).unwrap();
        let at = |name: &str| folder.path().join(name).display().to_string();
        let servers = format!(
            "map $http_upgrade $connection_upgrade {{ default upgrade; '' close; }}\n\
             server {{\n  listen {address} ssl{listen};\n  ssl_certificate {};\n  ssl_certificate_key {};\n\
             ssl_client_certificate {};\n  ssl_verify_client optional;\n  location / {{\n\
             proxy_pass http://{};\n  proxy_http_version 1.1;\n  proxy_set_header Host $http_host;\n\
             proxy_set_header Upgrade $http_upgrade;\n  proxy_set_header Connection $connection_upgrade;\n\
             proxy_set_header X-Seen-Certificate $ssl_client_verify;\n  client_max_body_size 64m;\n\
             proxy_set_header X-Seen-Protocol $server_protocol;\n  }}\n}}\n",
            at("application.pem"),
            at("application.key"),
            at("ca.pem"),
            page.address
        );
        let nginx = Nginx::start(folder.path(), &servers, address);
        Self { folder, ca, address, page: Some(page), _nginx: nginx }
    }

    /// The proxy before it.
    fn site(&mut self, keys: &str) -> Site {
        let upstream = format!(
            "upstream = \"https://{}\"\nupstream_ca = \"certs/application-ca.pem\"\n{keys}",
            self.address
        );
        let page = self.page.take().expect("one proxy");
        Site::start_at(page, &upstream, &|demo| self.prepare(demo))
    }

    fn prepare(&self, demo: &Demo) {
        fs::copy(self.folder.path().join("ca.pem"), demo.path("certs/application-ca.pem")).unwrap();
        for file in ["proxy.pem", "proxy.key"] {
            fs::copy(self.folder.path().join(file), demo.path(&format!("certs/{file}"))).unwrap();
        }
    }
}

/// How often the application did not answer for this reason.
fn failures(site: &Site, reason: &str) -> u64 {
    let (_, metrics) = site.service.get("/metrics");
    let is_it = |line: &&str| {
        line.starts_with("rcmpd_upstream_failures_total{listener=\"proxy\"")
            && line.contains(&format!("reason=\"{reason}\"}}"))
    };
    let line = metrics.lines().find(is_it).unwrap_or_else(|| panic!("{reason}: {metrics}"));
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

#[test]
fn an_application_may_be_behind_tls() {
    let mut application = Application::start(&server(vec![local()]));
    let mut site = application.site("");
    let page = site.page(Some("alice"), "/x?y", &["-H", "Remote-User: root"]);
    assert_eq!(values(&page, "remote-user"), ["CONTOSO\\alice"]);
    assert_eq!(values(&page, "x-seen-certificate"), ["NONE"]);
    let (status, back) = site.websocket("alice");
    assert!(status.contains(" 101 ") && back == "ANYBODY THERE?\n", "{status}{back}");
    assert_eq!(failures(&site, "certificate_untrusted"), 0);

    // The CAs are read anew by a reload. No connection that was made by the old ones is used again.
    assert_eq!(site.get(Some("alice"), "/", &[]).0, 200);
    let certificates = site.service.path("certs/application-ca.pem");
    for (others, name) in ["CA of applications", "Another CA"].into_iter().enumerate() {
        fs::write(&certificates, Ca::new(name).pem).unwrap();
        site.service.reload();
        let (status, body) = site.get(Some("alice"), "/", &[]);
        assert_eq!((status, body.as_str()), (502, "the application did not answer\n"));
        assert_eq!(failures(&site, "certificate_untrusted"), 1 + others as u64);
    }
    let said = ["The application did not answer", "reason=\"certificate_untrusted\"", "upstream_ca"];
    site.service.wait_for_lines(&said, 1);

    // A file that cannot be used is refused, and everything stays as it was.
    fs::write(&certificates, "no certificate").unwrap();
    let refused = site.service.rcmpd(&["check-config", "-c", "rcmpd.toml"]);
    assert_ne!(refused.code, 0, "{refused:?}");
    assert!(format!("{refused:?}").contains("cannot use upstream_ca"), "{refused:?}");
    fs::write(&certificates, &application.ca.pem).unwrap();
    site.service.reload();
    assert_eq!(site.get(Some("alice"), "/", &[]).0, 200);
}

#[test]
fn an_application_may_have_another_name_and_see_a_certificate() {
    let mut application = Application::start(&server(vec![dns("app.example")]));
    let site = application.site(
        "upstream_name = \"app.example\"\nupstream_certificate = \"certs/proxy.pem\"\nupstream_key = \"certs/proxy.key\"",
    );
    let page = site.page(Some("alice"), "/", &[]);
    assert_eq!(values(&page, "x-seen-certificate"), ["SUCCESS"]);
}

/// An application whose certificate is rejected is no application, and the log says why.
fn is_rejected(certificate: &CertificateParams, reason: &str) {
    let mut application = Application::start(certificate);
    let mut site = application.site("");
    let (status, body) = site.get(Some("alice"), "/", &[]);
    assert_eq!((status, body.as_str()), (502, "the application did not answer\n"));
    let log = format!("reason=\"{reason}\"");
    site.service.wait_for_lines(&["The application did not answer", &log, "advice="], 1);
    assert!(failures(&site, reason) > 0);
    assert!(site.page.seen().is_empty(), "nothing was sent to it");
}

#[test]
fn an_application_with_another_name_is_rejected() {
    is_rejected(&server(vec![dns("app.example")]), "certificate_name");
}

#[test]
fn an_application_with_an_expired_certificate_is_rejected() {
    let mut expired = server(vec![local()]);
    (expired.not_before, expired.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(2021, 1, 1));
    is_rejected(&expired, "certificate_expired");
}

#[test]
fn an_application_over_tls_chooses_the_protocol() {
    for (listen, keys, protocol) in [
        ("", "", "HTTP/1.1"),
        (" http2", "", "HTTP/2.0"),
        (" http2", "upstream_protocol = \"http/1.1\"", "HTTP/1.1"),
        (" http2", "upstream_protocol = \"h2\"", "HTTP/2.0"),
    ] {
        let mut application = Application::start_with(&server(vec![local()]), listen);
        let site = application.site(keys);
        for version in ["--http1.1", "--http2"] {
            let page = site.page(Some("alice"), "/x", &[version, "-H", "Remote-User: root"]);
            assert_eq!(values(&page, "x-seen-protocol"), [protocol], "{listen} {keys} {version}");
            assert_eq!(values(&page, "remote-user"), ["CONTOSO\\alice"]);
            let host = format!("localhost:{}", site.address.port());
            assert_eq!(values(&page, "host"), [host], "{listen} {keys} {version}");
        }
        // A WebSocket needs HTTP/1.1.
        let (status, back) = site.websocket("alice");
        let is_open = status.contains(" 101 ") && back == "ANYBODY THERE?\n";
        assert_eq!(is_open, !keys.contains("h2"), "{listen} {keys}: {status}{back}");
        let body = application.folder.path().join("body");
        fs::File::create(&body).unwrap().set_len(32 << 20).unwrap();
        let upload = format!("@{}", body.display());
        let page = site.page(Some("alice"), "/", &["--http2", "--data-binary", &upload]);
        assert_eq!(values(&page, "content-length"), [(32 << 20).to_string()], "{listen} {keys}");
    }
}

#[test]
fn an_application_that_does_not_agree_to_http2_is_none() {
    let mut application = Application::start(&server(vec![local()]));
    let mut site = application.site("upstream_protocol = \"h2\"");
    assert_eq!(site.get(Some("alice"), "/", &[]).0, 502);
    site.service.wait_for_lines(&["The application did not answer", "upstream_protocol"], 1);
    // It may say so with an alert, or go on without a protocol (RFC 7301, section 3.2).
    assert_eq!(failures(&site, "no_protocol"), 1);
}

/// What gRPC's client is told as alice, bob or carol, or without a certificate.
fn called(site: &Site, who: Option<&str>) -> Value {
    let mut given = json!({
        "target": site.address.to_string(),
        "name": "localhost",
        "ca": site.service.path("certs/ca.pem"),
    });
    for (name, kind) in [("certificate", "pem"), ("key", "key")] {
        if let Some(who) = who {
            given[name] = json!(site.service.path(&format!("certs/{who}.{kind}")));
        }
    }
    grpc_client(&given)
}

/// gRPC from end to end, before an application that is reached by these keys.
fn speaks_grpc(upstream: &str, prepare: &dyn Fn(&Demo)) -> Site {
    let site = Site::start_at(Page::start(), upstream, prepare);
    let mut got = called(&site, Some("alice"));
    assert_eq!(got["unary"], "abab", "{got:#}");
    // An answer without a date gets one (RFC 9110, section 6.6.1); one without a message has it among its
    // trailers.
    let trailing = got["refuse"]["trailing"].as_array_mut().expect("it is refused");
    trailing.retain(|pair| pair[0] != "date");
    let pairs = got["metadata"].as_array().unwrap_or_else(|| panic!("{got:#}"));
    let of = |name: &str| -> Vec<&str> {
        let named = pairs.iter().filter(|pair| pair[0] == name);
        named.filter_map(|pair| pair[1].as_str()).collect()
    };
    assert_eq!(of("remote-user"), ["CONTOSO\\alice"]);
    assert_eq!(of("remote_user"), [""; 0]);
    assert_eq!(of("x-forwarded-for"), ["127.0.0.1"]);
    assert_eq!((of("x-own"), of("x-own-bin")), (vec!["kept"], vec!["00fe"]));
    let has = |place: &str, name: &str, value: &str| {
        assert!(got[place].as_array().unwrap().contains(&json!([name, value])), "{got:#}");
    };
    has("initial", "x-first", "1");
    has("trailing", "x-last", "2");
    has("trailing", "x-bytes-bin", "00ff");
    assert_eq!((&got["download"], &got["upload"]), (&json!(16 << 20), &json!("256 16777216")), "{got:#}");
    assert_eq!(got["chat"], json!(["one", "two", "three", 0]));
    let refused =
        json!({ "code": "PERMISSION_DENIED", "details": "nicht für dich", "trailing": [["x-last", "2"]] });
    assert_eq!(got["refuse"], refused);
    assert_eq!(
        (&got["fail"]["said"], &got["fail"]["code"]),
        (&json!(["first"]), &json!("RESOURCE_EXHAUSTED"))
    );
    assert_eq!(
        (&got["fail"]["details"], &got["deadline"]["code"]),
        (&json!("no more"), &json!("DEADLINE_EXCEEDED"))
    );
    assert_eq!((&got["cancel"], &got["cancelled"]), (&json!("first"), &json!(2)), "{got:#}");
    let parallel: Vec<String> = (0..20).map(|n| format!("{n}{n}")).collect();
    assert_eq!(got["parallel"], json!(parallel));
    // Trailers are no answers that HTTP/2 gave by itself.
    let (_, metrics) = site.service.get("/metrics");
    let rejected = metrics.lines().filter(|line| line.contains("rejected_total{listener=\"proxy\""));
    let rejected: Vec<_> = rejected.filter(|line| !line.ends_with(" 0")).collect();
    assert!(rejected.is_empty(), "{rejected:?}");
    // What gRPC makes of 401 and 403.
    for (who, code) in [(None, "UNAUTHENTICATED"), (Some("carol"), "PERMISSION_DENIED")] {
        let got = called(&site, who);
        assert_eq!(got["unary"]["code"], code, "{got:#}");
    }
    site
}

#[test]
fn grpc_reaches_an_application_without_tls() {
    let application = GrpcServer::start(None);
    let upstream = format!("upstream = \"http://{}\"\nupstream_protocol = \"h2\"", application.address);
    let site = speaks_grpc(&upstream, &|_| {});
    // And of 502.
    drop(application);
    assert_eq!(called(&site, Some("alice"))["unary"]["code"], "UNAVAILABLE");
}

#[test]
fn grpc_reaches_an_application_over_tls() {
    let (folder, ca) = (tempfile::tempdir().unwrap(), Ca::new("CA of applications"));
    ca.issue(folder.path(), "application", &server(vec![local()]));
    let at = |name: &str| folder.path().join(name);
    let application = GrpcServer::start(Some((&at("application.pem"), &at("application.key"))));
    let upstream = format!("upstream = \"https://{}\"\nupstream_ca = \"certs/app.pem\"", application.address);
    speaks_grpc(&upstream, &|demo| fs::write(demo.path("certs/app.pem"), &ca.pem).unwrap());
}
