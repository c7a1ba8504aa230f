//! Applications behind the TLS-terminating proxy, by programs that nobody here wrote: nginx over TLS.

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType,
    date_time_ymd,
};
use rcmpd_tests::web::{Nginx, Page, Site, free_port, values};
use rcmpd_tests::{Demo, write_secret};
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
             server {{\n  listen {address} ssl;\n  ssl_certificate {};\n  ssl_certificate_key {};\n\
             ssl_client_certificate {};\n  ssl_verify_client optional;\n  location / {{\n\
             proxy_pass http://{};\n  proxy_http_version 1.1;\n  proxy_set_header Host $http_host;\n\
             proxy_set_header Upgrade $http_upgrade;\n  proxy_set_header Connection $connection_upgrade;\n\
             proxy_set_header X-Seen-Certificate $ssl_client_verify;\n  }}\n}}\n",
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
