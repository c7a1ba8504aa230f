//! Client certificates in the TLS handshakes of the sidecar: what `rcmpd explain` rejects is rejected there,
//! with an alert for the client and the same reason in the log.

use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DnType, ExtendedKeyUsagePurpose, GeneralSubtree,
    IsCa, Issuer, KeyPair, KeyUsagePurpose, NameConstraints, OtherNameValue, SanType, date_time_ymd,
};
use rcmpd_tests::openssl::openssl;
use rcmpd_tests::ports::free_port;
use rcmpd_tests::web::Page;
use rcmpd_tests::{Demo, Service};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};
use tokio_rustls::rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned, crypto};

const DEADLINE: Duration = Duration::from_secs(60);

/// A CA that the test keeps.
struct Ca {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

fn named(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params
}

fn ca_params(name: &str) -> CertificateParams {
    let mut params = named(name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params
}

impl Ca {
    fn root(name: &str) -> Self {
        let (params, key) = (ca_params(name), KeyPair::generate().unwrap());
        Self { pem: params.self_signed(&key).unwrap().pem(), issuer: Issuer::new(params, key) }
    }

    fn below(&self, params: CertificateParams) -> Self {
        let key = KeyPair::generate().unwrap();
        Self { pem: params.signed_by(&key, &self.issuer).unwrap().pem(), issuer: Issuer::new(params, key) }
    }
}

/// A domain with the TLS-terminating proxy, whose anchor is a CA of the test.
struct Scene {
    demo: Demo,
    root: Ca,
    address: SocketAddr,
    _page: Page,
}

impl Scene {
    fn new() -> Self {
        let (demo, page, address) = (Demo::new(), Page::start(), free_port());
        let root = Ca::root("Root");
        fs::write(demo.path("certs/root.pem"), &root.pem).unwrap();
        demo.edit(|text| text.replace("[\"certs/ca.pem\"]", "[\"certs/root.pem\"]"));
        demo.configure(&format!(
            "[sidecar]\n[sidecar.proxy]\nlisten = \"{address}\"\ncertificate = \"certs/site.pem\"\n\
             key = \"certs/site.key\"\nupstream = \"http://{}\"\nclient_certificates = \"required\"",
            page.address
        ));
        Self { demo, root, address, _page: page }
    }

    /// What a client's certificate has that is alice's.
    fn client(&self, name: &str) -> CertificateParams {
        let mut params = named(name);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let upn = OtherNameValue::Utf8String("alice@contoso.example".to_owned());
        params.subject_alt_names = vec![SanType::OtherName((vec![1, 3, 6, 1, 4, 1, 311, 20, 2, 3], upn))];
        // szOID_NTDS_CA_SECURITY_EXT ([MS-WCCE] 2.2.2.7.7.4): an OtherName with the SID as an OCTET STRING.
        let tlv = |tag: u8, contents: &[u8]| [&[tag, contents.len() as u8], contents].concat();
        let sid = tlv(0xa0, &tlv(0x04, format!("{}-1001", self.demo.domain_sid()).as_bytes()));
        let id = [0x06, 0x0a, 0x2b, 0x06, 0x01, 0x04, 0x01, 0x82, 0x37, 0x19, 0x02, 0x01];
        let extension = tlv(0x30, &tlv(0xa0, &[&id[..], &sid].concat()));
        let id = [1, 3, 6, 1, 4, 1, 311, 25, 2];
        params.custom_extensions.push(CustomExtension::from_oid_content(&id, extension));
        params
    }

    /// Writes a client's certificate, its key, and what it sends beside.
    fn write(&self, name: &str, params: &CertificateParams, issuer: &Ca, sent: &[&Ca]) {
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &issuer.issuer).unwrap();
        fs::write(self.demo.certificate(name), certificate.pem()).unwrap();
        fs::write(self.demo.path(&format!("certs/{name}.key")), key.serialize_pem()).unwrap();
        let sent: String = sent.iter().map(|ca| ca.pem.as_str()).collect();
        fs::write(self.demo.path(&format!("certs/{name}.sent")), sent).unwrap();
    }
}

/// What `openssl s_client` makes of a connection: the status of an answer, or the number of an alert.
#[derive(Debug, PartialEq, Eq)]
enum Seen {
    Status(u16),
    Alert(u8),
    Closed,
}

fn s_client(demo: &Demo, address: SocketAddr, name: &str, request: &str, more: &[&str]) -> Seen {
    let file = |kind: &str| demo.path(&format!("certs/{name}.{kind}")).display().to_string();
    let (certificate, key, sent) = (file("pem"), file("key"), file("sent"));
    let mut command = Command::new("openssl");
    command.args(["s_client", "-quiet", "-connect", &address.to_string(), "-servername", "localhost"]);
    command.args(["-cert", &certificate, "-key", &key]).args(more);
    if fs::metadata(&sent).is_ok_and(|sent| sent.len() > 0) {
        command.args(["-cert_chain", &sent]);
    }
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let _ = child.stdin.take().unwrap().write_all(request.as_bytes());
    let done = child.wait_with_output().unwrap();
    let (out, errors) = (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    if let Some((_, status)) = out.split_once("HTTP/1.1 ") {
        return Seen::Status(status[..3].parse().unwrap());
    }
    match errors.rsplit_once("SSL alert number ") {
        Some((_, number)) => Seen::Alert(number.split_whitespace().next().unwrap().parse().unwrap()),
        None => Seen::Closed,
    }
}

const REQUEST: &str = "GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";

/// Alerts of RFC 8446, section 6.2.
const BAD_CERTIFICATE: u8 = 42;
const UNSUPPORTED_CERTIFICATE: u8 = 43;
const CERTIFICATE_EXPIRED: u8 = 45;
const CERTIFICATE_UNKNOWN: u8 = 46;
const UNKNOWN_CA: u8 = 48;
const DECRYPT_ERROR: u8 = 51;

fn critical(id: &[u64], value: &[u8]) -> CustomExtension {
    let mut extension = CustomExtension::from_oid_content(id, value.to_vec());
    extension.set_criticality(true);
    extension
}

/// Client certificates, written where a client finds them, with what the handshake makes of each and what the
/// log says of it.
struct Cases<'a> {
    scene: &'a Scene,
    cases: Vec<(&'static str, Seen, &'static str)>,
}

impl Cases<'_> {
    /// The kinds of PKITS' sections 4.1 to 4.16, and what is asked of a client's own certificate.
    fn new(scene: &Scene) -> Cases<'_> {
        let mut cases = Cases { scene, cases: Vec::new() };
        cases.accepted();
        cases.of_other_issuers();
        cases.of_other_times();
        cases.for_other_uses();
        cases.of_cas_that_may_not_issue();
        cases.outside_of_constraints();
        cases
    }

    fn case(
        &mut self,
        name: &'static str,
        seen: Seen,
        told: &'static str,
        params: &CertificateParams,
        issuer: &Ca,
        sent: &[&Ca],
    ) {
        self.scene.write(name, params, issuer, sent);
        self.cases.push((name, seen, told));
    }

    fn client(&self, name: &str) -> CertificateParams {
        self.scene.client(name)
    }

    /// A client's certificate with something else in it.
    fn changed(&self, name: &str, change: &dyn Fn(&mut CertificateParams)) -> CertificateParams {
        let mut params = self.client(name);
        change(&mut params);
        params
    }

    /// A CA below the root.
    fn below(&self, name: &str, change: &dyn Fn(&mut CertificateParams)) -> Ca {
        let mut params = ca_params(name);
        change(&mut params);
        self.scene.root.below(params)
    }

    fn accepted(&mut self) {
        self.case("good", Seen::Status(200), "", &self.client("good"), &self.scene.root, &[]);
        // id-ce-certificatePolicies with 1.2.3.4, which rustls does not know.
        let policy = [0x30, 0x07, 0x30, 0x05, 0x06, 0x03, 0x2a, 0x03, 0x04];
        let params =
            self.changed("policy", &|it| it.custom_extensions.push(critical(&[2, 5, 29, 32], &policy)));
        self.case("policy", Seen::Status(200), "", &params, &self.scene.root, &[]);
        // A CA that is sent gets a client through the handshake; a decision goes by configured CAs alone.
        let sub = self.below("Sub", &|_| {});
        self.case("sent", Seen::Status(403), "", &self.client("sent"), &sub, &[&sub]);
    }

    fn of_other_issuers(&mut self) {
        let sub = self.below("Sub", &|_| {});
        let told = "reason=\"unknown_issuer\" depth=0";
        self.case("unsent", Seen::Alert(UNKNOWN_CA), told, &self.client("unsent"), &sub, &[]);
        let stranger = Ca::root("Stranger");
        let told = "reason=\"unknown_issuer\" depth=1 subject=\"CN=stranger\" error=no configured CA has the name of its issuer \
                    (CA at depth 1: CN=Stranger)";
        self.case(
            "stranger",
            Seen::Alert(UNKNOWN_CA),
            told,
            &self.client("stranger"),
            &stranger,
            &[&stranger],
        );
        let namesake = Ca::root("Root");
        let told = "reason=\"bad_signature\" depth=0";
        self.case(
            "namesake",
            Seen::Alert(DECRYPT_ERROR),
            told,
            &self.client("namesake"),
            &namesake,
            &[&namesake],
        );
    }

    fn of_other_times(&mut self) {
        let params = self.changed("expired", &|it| it.not_after = date_time_ymd(2020, 1, 1));
        self.case(
            "expired",
            Seen::Alert(CERTIFICATE_EXPIRED),
            "reason=\"expired\" depth=0",
            &params,
            &self.scene.root,
            &[],
        );
        let params = self.changed("early", &|it| it.not_before = date_time_ymd(4000, 1, 1));
        self.case(
            "early",
            Seen::Alert(CERTIFICATE_EXPIRED),
            "reason=\"not_yet_valid\" depth=0",
            &params,
            &self.scene.root,
            &[],
        );
        let old = self.below("Old", &|it| it.not_after = date_time_ymd(2020, 1, 1));
        let told = "reason=\"issuer_expired\" depth=1 subject=\"CN=old\" error=an intermediate CA above it is expired \
                    (CA at depth 1: CN=Old)";
        self.case("old", Seen::Alert(CERTIFICATE_EXPIRED), told, &self.client("old"), &old, &[&old]);
    }

    fn for_other_uses(&mut self) {
        let usage = |usage: KeyUsagePurpose| move |it: &mut CertificateParams| it.key_usages = vec![usage];
        for (name, usage) in [
            ("enciphering", usage(KeyUsagePurpose::KeyEncipherment)),
            ("agreeing", usage(KeyUsagePurpose::KeyAgreement)),
            ("signing-documents", usage(KeyUsagePurpose::ContentCommitment)),
        ] {
            let told = "reason=\"not_for_signing\" depth=0";
            self.case(
                name,
                Seen::Alert(UNSUPPORTED_CERTIFICATE),
                told,
                &self.changed(name, &usage),
                &self.scene.root,
                &[],
            );
        }
        let params =
            self.changed("server", &|it| it.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth]);
        let told = "reason=\"not_for_client_authentication\" depth=0";
        self.case("server", Seen::Alert(UNSUPPORTED_CERTIFICATE), told, &params, &self.scene.root, &[]);
        let params = self.changed("authority", &|it| it.is_ca = IsCa::Ca(BasicConstraints::Unconstrained));
        self.case(
            "authority",
            Seen::Alert(UNSUPPORTED_CERTIFICATE),
            "reason=\"is_a_ca\" depth=0",
            &params,
            &self.scene.root,
            &[],
        );
    }

    fn of_cas_that_may_not_issue(&mut self) {
        let mail = self.scene.root.below(self.client("mail"));
        let told = "reason=\"not_a_ca\" depth=1 subject=\"CN=of-client\" error=what issued it is no CA (CA at depth 1: CN=mail;";
        self.case("of-client", Seen::Alert(UNKNOWN_CA), told, &self.client("of-client"), &mail, &[&mail]);
        let lists = self.below("Lists", &|it| it.key_usages = vec![KeyUsagePurpose::CrlSign]);
        let told = "reason=\"no_key_cert_sign\" depth=1 subject=\"CN=of-lists\"";
        self.case("of-lists", Seen::Alert(UNKNOWN_CA), told, &self.client("of-lists"), &lists, &[&lists]);
        let last = self.below("Last", &|it| it.is_ca = IsCa::Ca(BasicConstraints::Constrained(0)));
        let beyond = last.below(ca_params("Beyond"));
        let told = "reason=\"path_length\" depth=2 subject=\"CN=beyond\" error=more CAs are between it and its anchor than one of \
                    them allows (CA at depth 2: CN=Last; CAs below it: 1, limit 0)";
        self.case(
            "beyond",
            Seen::Alert(UNKNOWN_CA),
            told,
            &self.client("beyond"),
            &beyond,
            &[&beyond, &last],
        );
        let (sub, changed_key) = (self.below("Sub", &|_| {}), Ca::root("Sub"));
        let told = "reason=\"bad_signature\" depth=0";
        self.case(
            "changed-key",
            Seen::Alert(DECRYPT_ERROR),
            told,
            &self.client("changed-key"),
            &changed_key,
            &[&sub],
        );
    }

    fn outside_of_constraints(&mut self) {
        let constrained = self.below("Constrained", &|it| {
            let mut base = rcgen::DistinguishedName::new();
            base.push(DnType::OrganizationName, "Contoso");
            let permitted_subtrees = vec![GeneralSubtree::DirectoryName(base)];
            it.name_constraints = Some(NameConstraints { permitted_subtrees, excluded_subtrees: Vec::new() });
        });
        let told = "reason=\"name_constraints\" depth=0";
        self.case(
            "outside",
            Seen::Alert(CERTIFICATE_UNKNOWN),
            told,
            &self.client("outside"),
            &constrained,
            &[&constrained],
        );
        // emailAddress in the subject (1.2.840.113549.1.9.1) is constrained like an rfc822Name.
        let mails = self.below("Mails", &|it| {
            let excluded_subtrees = vec![GeneralSubtree::Rfc822Name("contoso.example".to_owned())];
            it.name_constraints = Some(NameConstraints { permitted_subtrees: Vec::new(), excluded_subtrees });
        });
        let email = DnType::CustomDnType(vec![1, 2, 840, 113549, 1, 9, 1]);
        let params =
            self.changed("email", &|it| it.distinguished_name.push(email.clone(), "alice@contoso.example"));
        self.case(
            "email",
            Seen::Alert(CERTIFICATE_UNKNOWN),
            "reason=\"name_constraints\" depth=0",
            &params,
            &mails,
            &[&mails],
        );
        // policyConstraints (RFC 5280 4.2.1.11): requireExplicitPolicy 0.
        let explicit = self.below("Explicit", &|it| {
            it.custom_extensions.push(critical(&[2, 5, 29, 36], &[0x30, 3, 0x80, 1, 0]))
        });
        let told = "reason=\"no_explicit_policy\" depth=1";
        self.case(
            "explicit",
            Seen::Alert(CERTIFICATE_UNKNOWN),
            told,
            &self.client("explicit"),
            &explicit,
            &[&explicit],
        );
        let params =
            self.changed("unknown", &|it| it.custom_extensions.push(critical(&[1, 2, 3, 4], &[5, 0])));
        let told = "reason=\"unknown_critical\" depth=0 subject=\"CN=unknown\" error=it, or a CA above it, has a critical extension \
                    that is not known (extension 1.2.3.4)";
        self.case("unknown", Seen::Alert(BAD_CERTIFICATE), told, &params, &self.scene.root, &[]);
    }
}

#[test]
fn a_certificate_that_explain_rejects_is_rejected_in_the_handshake() {
    let scene = Scene::new();
    let cases = Cases::new(&scene).cases;
    let mut service = scene.demo.serve_with(&[("RUST_LOG", "info,sidecar_tokio=debug")]);
    for version in ["-tls1_3", "-tls1_2"] {
        for (name, seen, _) in &cases {
            assert_eq!(
                s_client(&service, scene.address, name, REQUEST, &[version]),
                *seen,
                "{name} {version}"
            );
        }
    }
    for (name, _, told) in cases.iter().filter(|(.., told)| !told.is_empty()) {
        has_told(&mut service, name, told);
    }
    // Operators see each reason, and a client that tries again does not fill the log.
    for reason in ["expired", "not_for_signing", "not_a_ca", "name_constraints", "unknown_issuer"] {
        let reason = format!("reason=\"{reason}\" ");
        let log = service.log();
        let lines = log.lines().filter(|line| line.contains("Client certificate rejected in the handshake"));
        assert_eq!(
            lines.filter(|line| line.contains(&reason) && line.contains(" INFO ")).count(),
            1,
            "{reason}"
        );
    }
}

/// Waits for the reason of a failed handshake in the log, in each version of TLS.
fn has_told(service: &mut Service, name: &str, told: &str) {
    let subject = format!("CN={name}");
    let failed = ["A handshake failed", "listener=\"proxy\"", "client.addr=127.0.0.1:", told, &subject];
    service.wait_for_lines(&failed, 2);
    // The same words as those of `explain`, where it knows the CAs.
    let is_sent =
        fs::read_to_string(service.path(&format!("certs/{name}.sent"))).is_ok_and(|it| !it.is_empty());
    if !is_sent {
        let explained =
            service.rcmpd(&["explain", &service.certificate(name), "--json", "-c", "rcmpd.toml"]).json();
        let chain = &explained["chain"];
        let text = chain["text"].as_str().unwrap();
        let reason = format!("reason=\"{}\"", chain["state"].as_str().unwrap());
        service.wait_for_lines(&["A handshake failed", &reason, text, &subject], 2);
    }
}

/// A key of 512 bits and one of 1024, at the configured limit of each.
#[test]
fn a_short_key_is_no_clients() {
    let scene = Scene::new();
    let key = scene.root.issuer.key().serialize_pem();
    fs::write(scene.demo.path("certs/root.key"), key).unwrap();
    fs::write(scene.demo.path("certs/weak.cnf"), "[client]\nextendedKeyUsage = clientAuth\n").unwrap();
    let folder = scene.demo.path("certs");
    for bits in ["512", "1024"] {
        let name = |kind: &str| format!("rsa{bits}.{kind}");
        openssl(&folder, &["genrsa", "-traditional", "-out", &name("key"), bits]);
        let subject = format!("/CN=rsa{bits}");
        openssl(&folder, &["req", "-new", "-key", &name("key"), "-subj", &subject, "-out", &name("csr")]);
        let (request, certificate) = (name("csr"), name("pem"));
        let arguments =
            ["x509", "-req", "-CA", "root.pem", "-CAkey", "root.key", "-set_serial", bits, "-days", "5"];
        let more = ["-extfile", "weak.cnf", "-extensions", "client", "-in", &request, "-out", &certificate];
        openssl(&folder, &[&arguments[..], &more].concat());
    }
    let mut service = scene.demo.serve();
    // A key of 512 bits can make no other signature.
    let weak = ["-tls1_2", "-cipher", "DEFAULT@SECLEVEL=0", "-sigalgs", "RSA+SHA256:ECDSA+SHA256"];
    for bits in ["512", "1024"] {
        let seen = s_client(&service, scene.address, &format!("rsa{bits}"), REQUEST, &weak);
        assert_eq!(seen, Seen::Alert(UNSUPPORTED_CERTIFICATE), "{bits}");
    }
    let told = "the key of a certificate of the path is too short (bits of the RSA key: 512, limit 2048)";
    service.wait_for_lines(&["Client certificate rejected in the handshake", "weak_key", told], 1);
}

/// A proxy that shows a certificate to a listener: the same rules, and a session that is resumed after its
/// certificate expired.
#[test]
fn a_proxys_certificate_is_validated_by_the_same_rules() {
    let demo = Demo::new();
    let root = Ca::root("Proxies");
    fs::write(demo.path("certs/root.pem"), &root.pem).unwrap();
    demo.configure(
        "[sidecar]\n[[sidecar.listen]]\ndialect = \"nginx\"\naddress = \"127.0.0.1:0\"\ntls = { certificate = \
         \"certs/site.pem\", key = \"certs/site.key\", client_ca = \"certs/root.pem\", names = [\"proxy.contoso.example\"] }",
    );
    let scene = Scene { demo, root, address: free_port(), _page: Page::start() };
    let proxy = |name: &str| {
        let mut params = named(name);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.subject_alt_names = vec![SanType::DnsName("proxy.contoso.example".try_into().unwrap())];
        params
    };
    let sub = scene.root.below(ca_params("Sub"));
    scene.write("proxy", &proxy("proxy"), &sub, &[&sub]);
    let mut params = proxy("enciphering");
    params.key_usages = vec![KeyUsagePurpose::KeyEncipherment];
    scene.write("enciphering", &params, &scene.root, &[]);
    let mut params = proxy("any");
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::Any];
    scene.write("any", &params, &scene.root, &[]);
    let mut params = proxy("short");
    let end = SystemTime::now() + Duration::from_secs(6);
    params.not_after = end.into();
    scene.write("short", &params, &scene.root, &[]);
    let mut service = scene.demo.serve();
    let log = service.log();
    let line = log.lines().find(|line| line.contains("Serving web servers")).unwrap();
    let address: SocketAddr = line.rsplit("address=").next().unwrap().trim().parse().unwrap();
    let request = "GET / HTTP/1.1\r\nHost: sidecar\r\nSSL-Client-Verify: NONE\r\nConnection: close\r\n\r\n";
    // 401: it is a proxy, and it says that its client has no certificate.
    for version in ["-tls1_3", "-tls1_2"] {
        let session: PathBuf = service.path(&format!("session{version}"));
        let saved = ["-sess_out", session.to_str().unwrap(), version];
        assert_eq!(s_client(&service, address, "short", request, &saved), Seen::Status(401), "{version}");
        let resumed = ["-sess_in", session.to_str().unwrap(), version];
        assert_eq!(s_client(&service, address, "short", request, &resumed), Seen::Status(401), "{version}");
        // A session of TLS 1.3 is for one use.
        assert_eq!(s_client(&service, address, "short", request, &saved), Seen::Status(401), "{version}");
    }
    assert_eq!(s_client(&service, address, "proxy", request, &[]), Seen::Status(401));
    for name in ["enciphering", "any"] {
        assert_eq!(
            s_client(&service, address, name, request, &[]),
            Seen::Alert(UNSUPPORTED_CERTIFICATE),
            "{name}"
        );
    }
    let told = "its keyUsage does not allow digital signatures (extension 2.5.29.15)";
    service.wait_for_lines(&["Client certificate rejected in the handshake", "listener=\"nginx\"", told], 1);
    let deadline = Instant::now() + DEADLINE;
    while SystemTime::now() < end + Duration::from_secs(1) {
        assert!(Instant::now() < deadline, "the clock stands still");
        std::thread::sleep(Duration::from_millis(50));
    }
    for version in ["-tls1_3", "-tls1_2"] {
        let session: PathBuf = service.path(&format!("session{version}"));
        let resumed = ["-sess_in", session.to_str().unwrap(), version];
        assert_eq!(s_client(&service, address, "short", request, &resumed), Seen::Closed, "{version}");
    }
    service.wait_for_lines(&["Client certificate rejected in the handshake", "reason=\"expired\""], 1);
    // A handshake of its own.
    assert_eq!(s_client(&service, address, "short", request, &[]), Seen::Alert(CERTIFICATE_EXPIRED));
}

/// All that a handshake takes, made to cost as much as it can: by clients that no CA knows, and by one that a
/// CA has certified.
#[test]
fn certificates_made_to_cost_much_delay_no_other_client() {
    let scene = Scene::new();
    let root = &scene.root;
    let many = |count: usize| (0..count).map(|n| GeneralSubtree::DnsName(format!("a{n}.example"))).collect();
    let constraining = |name: &str, count| {
        let mut params = ca_params(name);
        params.name_constraints =
            Some(NameConstraints { permitted_subtrees: Vec::new(), excluded_subtrees: many(count) });
        params
    };
    let with_names = |name: &str, count: usize| {
        let mut params = scene.client(name);
        let names = (0..count).map(|n| SanType::DnsName(format!("b{n}.example").try_into().unwrap()));
        params.subject_alt_names.extend(names);
        params
    };
    let key = KeyPair::generate().unwrap();
    let shown = |params: CertificateParams, issuer: &Ca, sent: Vec<CertificateDer<'static>>| {
        let leaf = params.signed_by(&key, &issuer.issuer).unwrap().der().clone();
        [vec![leaf], sent].concat()
    };
    let der = |ca: &Ca| CertificateDer::from_pem_slice(ca.pem.as_bytes()).unwrap();
    let stranger = Ca::root("Root");
    let wide = root.below(constraining("Wide", 1200));
    // Each has the anchor's name for its issuer, so each costs a signature.
    let namesakes = (0..31).map(|n| der(&stranger.below(constraining(&format!("N{n}"), 60)))).collect();
    let mut line = vec![Ca::root("Elsewhere").below(ca_params("L0"))];
    for n in 1..31 {
        line.push(line[n - 1].below(constraining(&format!("L{n}"), 60)));
    }
    let far = line.last().unwrap();
    let empty = CertificateDer::from(vec![0x30, 0x00]);
    let cases = [
        ("too_complex", shown(with_names("names", 1200), &wide, vec![der(&wide)])),
        ("unknown_issuer", shown(with_names("line", 600), far, line.iter().map(der).collect())),
        ("bad_signature", shown(scene.client("namesakes"), &stranger, namesakes)),
        ("too_complex", shown(scene.client("empty"), &Ca::root("Other"), vec![empty; 8000])),
    ];
    scene.write("good", &scene.client("good"), root, &[]);
    let mut service = scene.demo.serve();
    for (reason, chain) in cases {
        let len: usize = chain.iter().map(|certificate| certificate.len() + 5).sum();
        assert!((20_000..65_000).contains(&len), "{reason}: {len} bytes");
        let config = ClientConfig::builder_with_provider(Arc::new(crypto::aws_lc_rs::default_provider()));
        let config = config.with_safe_default_protocol_versions().unwrap();
        let mut roots = RootCertStore::empty();
        let ca = fs::read(service.path("certs/ca.pem")).unwrap();
        roots.add(CertificateDer::from_pem_slice(&ca).unwrap()).unwrap();
        let config = config.with_root_certificates(roots);
        let own = PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes()).unwrap();
        let config = Arc::new(config.with_client_auth_cert(chain, own).unwrap());
        let flood: Vec<_> = (0..4)
            .map(|_| {
                let (config, address) = (Arc::clone(&config), scene.address);
                std::thread::spawn(move || {
                    for _ in 0..8 {
                        let name = "localhost".try_into().unwrap();
                        let client = ClientConnection::new(Arc::clone(&config), name).unwrap();
                        let stream = TcpStream::connect(address).unwrap();
                        stream.set_read_timeout(Some(DEADLINE)).unwrap();
                        let mut stream = StreamOwned::new(client, stream);
                        let _ = stream.write_all(REQUEST.as_bytes());
                        let mut answer = Vec::new();
                        let _ = stream.read_to_end(&mut answer);
                        assert_eq!(answer, b"");
                    }
                })
            })
            .collect();
        let mut slowest = Duration::ZERO;
        while !flood.iter().all(std::thread::JoinHandle::is_finished) {
            let begun = Instant::now();
            assert_eq!(
                s_client(&service, scene.address, "good", REQUEST, &[]),
                Seen::Status(200),
                "{reason}"
            );
            slowest = slowest.max(begun.elapsed());
        }
        flood.into_iter().for_each(|thread| thread.join().unwrap());
        println!("{reason}: {slowest:?}");
        assert!(slowest < Duration::from_secs(5), "{reason}: {slowest:?}");
        let rejected = "Client certificate rejected in the handshake";
        service.wait_for_lines(&[rejected, &format!("reason=\"{reason}\"")], 1);
    }
}
