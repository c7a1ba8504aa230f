//! A certification authority that is the `openssl` command line: it issues, revokes, makes lists and answers
//! by OCSP.

use crate::service::{Demo, finish};
use dtyp::FileTime;
use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::SystemTime;

/// `openssl ARGUMENTS` in a folder; returns what it printed.
#[track_caller]
pub fn openssl(folder: &Path, arguments: &[&str]) -> String {
    let mut command = Command::new("openssl");
    command.args(arguments).current_dir(folder);
    finish(command).code(0).stdout
}

/// Sections for lists of all kinds; `ca` is the configuration of `openssl ca`.
const CONFIGURATION: &str = "
[req]
distinguished_name = none
[none]
[authority]
basicConstraints = critical,CA:TRUE
keyUsage = critical,keyCertSign,cRLSign
subjectKeyIdentifier = hash
[lists]
keyUsage = critical,cRLSign
[ca]
default_ca = here
[here]
database = index.txt
crlnumber = crlnumber
serial = serial
policy = subject
default_md = sha256
default_crl_days = 30
unique_subject = no
[subject]
commonName = supplied
[plain]
authorityKeyIdentifier = keyid
[delta]
2.5.29.27 = critical,DER:02:01:01
[indirect]
issuingDistributionPoint = critical,@indirect_point
[indirect_point]
indirectCRL = TRUE
[some_reasons]
issuingDistributionPoint = critical,@some_reasons_point
[some_reasons_point]
onlysomereasons = keyCompromise
[unknown_critical]
1.2.3.4 = critical,DER:05:00
";

/// An authority in a folder of its own.
#[derive(Debug)]
pub struct Authority {
    folder: PathBuf,
    certificate: PathBuf,
    key: PathBuf,
}

impl Authority {
    /// The demo's.
    pub fn of(demo: &Demo) -> Self {
        Self::with(demo, "openssl", demo.path("certs/ca.pem"), demo.path("certs/ca.key"))
    }

    /// A new one that certifies itself.
    pub fn root(demo: &Demo, name: &str, subject: &str) -> Self {
        let this = Self::with_own_key(demo, name);
        let arguments = ["-subj", subject, "-days", "30", "-extensions", "authority"];
        this.run(&["req", "-x509", "-new"], &arguments, &["-key", "ca.key", "-out", "ca.pem"]);
        this
    }

    /// A new one below this one.
    pub fn below(&self, demo: &Demo, name: &str, subject: &str) -> Self {
        self.certified(demo, name, subject, "authority")
    }

    /// A key below this one that signs lists alone, for the authority with this name.
    pub fn list_signer(&self, demo: &Demo, name: &str, subject: &str) -> Self {
        self.certified(demo, name, subject, "lists")
    }

    fn certified(&self, demo: &Demo, name: &str, subject: &str, section: &str) -> Self {
        let this = Self::with_own_key(demo, name);
        this.run(&["req", "-new"], &["-subj", subject], &["-key", "ca.key", "-out", "ca.csr"]);
        self.certify(&this.folder.join("ca.csr"), "ca.cnf", section, &this.certificate);
        this
    }

    fn with_own_key(demo: &Demo, name: &str) -> Self {
        let folder = demo.path(name);
        let this = Self::with(demo, name, folder.join("ca.pem"), folder.join("ca.key"));
        openssl(&this.folder, &["ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", "ca.key"]);
        this
    }

    fn with(demo: &Demo, name: &str, certificate: PathBuf, key: PathBuf) -> Self {
        let folder = demo.path(name);
        fs::create_dir(&folder).expect("the folder is new");
        for (file, text) in
            [("ca.cnf", CONFIGURATION), ("index.txt", ""), ("crlnumber", "01\n"), ("serial", "2000\n")]
        {
            fs::write(folder.join(file), text).expect("the folder can be written");
        }
        Self { folder, certificate, key }
    }

    #[track_caller]
    fn run(&self, command: &[&str], arguments: &[&str], rest: &[&str]) {
        openssl(&self.folder, &[command, &["-config", "ca.cnf"], arguments, rest].concat());
    }

    fn certify(&self, request: &Path, file: &str, section: &str, certificate: &Path) {
        let paths =
            [request, &self.certificate, &self.key, certificate].map(|path| path.display().to_string());
        let [request, ca, key, certificate] = &paths;
        let serial = format!("0x{:x}", fs::read_dir(&self.folder).expect("it is there").count() + 0x1000);
        // Certificates of authorities below are elsewhere, and no two have one number.
        fs::write(self.folder.join(&serial), "").expect("the folder can be written");
        openssl(
            &self.folder,
            &[
                "x509",
                "-req",
                "-in",
                request,
                "-CA",
                ca,
                "-CAkey",
                key,
                "-set_serial",
                &serial,
                "-days",
                "30",
                "-extfile",
                file,
                "-extensions",
                section,
                "-out",
                certificate,
            ],
        );
    }

    /// Its certificate.
    pub fn certificate(&self) -> String {
        self.certificate.display().to_string()
    }

    /// Certifies a client as `certs/NAME.pem`: alice's user principal name and SID, and what else is told.
    pub fn issue(&self, demo: &Demo, name: &str, extensions: &str) {
        self.issue_for(demo, name, "clientAuth", extensions);
    }

    /// The same with another extended key usage.
    pub fn issue_for(&self, demo: &Demo, name: &str, purpose: &str, extensions: &str) {
        let (request, file) = self.request(demo, name, purpose, extensions);
        self.certify(&self.folder.join(request), &file, "client", Path::new(&demo.certificate(name)));
    }

    /// Certifies a client as [`Authority::issue`] does, until a time of this or the next years.
    pub fn issue_until(&self, demo: &Demo, name: &str, end: SystemTime) {
        self.issue_with(demo, name, &[], end);
    }

    /// The same with options of `openssl ca`.
    pub fn issue_with(&self, demo: &Demo, name: &str, options: &[&str], end: SystemTime) {
        let (request, file) = self.request(demo, name, "clientAuth", "");
        let end = FileTime::from(end).to_string().replace(['-', ':', 'T'], "");
        let certificate = demo.certificate(name);
        let until = ["-enddate", &end, "-outdir", ".", "-notext"];
        let files = ["-in", &request, "-out", &certificate, "-extfile", &file, "-extensions", "client"];
        self.ca(&[options, &until[..], &files].concat());
    }

    /// A key and a request for a client, and the file with the extensions of its certificate.
    fn request(&self, demo: &Demo, name: &str, purpose: &str, extensions: &str) -> (String, String) {
        let mut text = format!("[client]\nextendedKeyUsage = {purpose}\n");
        text.push_str("subjectAltName = otherName:1.3.6.1.4.1.311.20.2.3;UTF8:alice@contoso.example\n");
        text.push_str("1.3.6.1.4.1.311.25.2 = ASN1:SEQUENCE:names\n");
        text.push_str(extensions);
        text.push_str(
            "\n[names]\nname = IMPLICIT:0,SEQUENCE:name\n[name]\nid = OID:1.3.6.1.4.1.311.25.2.1\n",
        );
        let sid = demo.domain_sid();
        writeln!(text, "value = EXPLICIT:0,FORMAT:ASCII,OCTETSTRING:{sid}-1001").expect("a String grows");
        let file = format!("{name}.cnf");
        fs::write(self.folder.join(&file), text).expect("the folder can be written");
        let (key, request) = (format!("{name}.key"), format!("{name}.csr"));
        openssl(&self.folder, &["ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", &key]);
        let subject = format!("/CN={name}");
        self.run(&["req", "-new"], &["-subj", &subject], &["-key", &key, "-out", &request]);
        (request, file)
    }

    fn ca(&self, arguments: &[&str]) {
        let (certificate, key) = (self.certificate(), self.key.display().to_string());
        let who = ["ca", "-config", "ca.cnf", "-batch", "-cert", &certificate, "-keyfile", &key];
        openssl(&self.folder, &[&who, arguments].concat());
    }

    /// Writes a certificate into the index, as good.
    pub fn know(&self, certificate: &str) {
        self.ca(&["-valid", certificate]);
    }

    /// Revokes a certificate.
    pub fn revoke(&self, certificate: &str, reason: &str) {
        self.ca(&["-revoke", certificate, "-crl_reason", reason]);
    }

    /// Makes a list, and puts it in place at once.
    pub fn list(&self, path: &Path, options: &[&str]) {
        let (new, place) = (self.folder.join("new.crl"), path);
        let out = new.display().to_string();
        let options = if options.contains(&"-crlexts") {
            options.to_vec()
        } else {
            [&["-crlexts", "plain"], options].concat()
        };
        self.ca(&[&["-gencrl", "-out", &out], &options[..]].concat());
        fs::rename(new, place).expect("both are in one folder");
    }

    /// Signs bytes: an ECDSA signature with SHA-256.
    pub fn sign(&self, bytes: &[u8]) -> Vec<u8> {
        fs::write(self.folder.join("tbs"), bytes).expect("the folder can be written");
        let key = self.key.display().to_string();
        openssl(&self.folder, &["dgst", "-sha256", "-sign", &key, "-out", "signature", "tbs"]);
        fs::read(self.folder.join("signature")).expect("it was just written")
    }

    /// Answers by OCSP, by what the index says.
    pub fn respond(&self) -> Responder {
        let (certificate, key) = (self.certificate(), self.key.display().to_string());
        let mut child = Command::new("openssl")
            .args(["ocsp", "-port", "0", "-index", "index.txt", "-CA", &certificate, "-ndays", "1"])
            .args(["-rsigner", &certificate, "-rkey", &key])
            .current_dir(&self.folder)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("openssl starts");
        let mut stdout = BufReader::new(child.stdout.take().expect("it is piped"));
        let mut line = String::new();
        stdout.read_line(&mut line).expect("openssl tells its port");
        // ACCEPT [::]:36241 PID=26922
        let port = line.split(' ').nth(1).and_then(|address| address.rsplit(':').next()?.trim().parse().ok());
        let port = port.unwrap_or_else(|| panic!("no port in {line:?}"));
        Responder { child, address: SocketAddr::from(([127, 0, 0, 1], port)), _stdout: stdout }
    }

    /// Asks a responder about a certificate, as `openssl` does.
    pub fn ask(&self, responder: &Responder, certificate: &str) -> String {
        let url = format!("http://{}", responder.address);
        let ca = self.certificate();
        openssl(&self.folder, &["ocsp", "-issuer", &ca, "-cert", certificate, "-url", &url, "-CAfile", &ca])
    }
}

/// A running `openssl ocsp`; it ends with this value.
#[derive(Debug)]
pub struct Responder {
    child: Child,
    /// Where it is.
    pub address: SocketAddr,
    // It writes there for as long as it lives.
    _stdout: BufReader<ChildStdout>,
}

impl Drop for Responder {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The CAs of the example with three levels of service in docs/configuration.md, and for each a client with
/// nothing but a common name: `b` of Bronze CA, `s` of Silver CA, `g` of Gold CA, `i` of the CA below that,
/// `x` of another CA with the name of Gold CA.
pub fn three_levels_of_certificates(demo: &Demo) {
    let subject = |name: &str| format!("/C=US/O=Partners, Inc./CN={name}");
    let bronze = Authority::root(demo, "bronze", &subject("Bronze CA"));
    let silver = Authority::root(demo, "silver", &subject("Silver CA"));
    let gold = bronze.below(demo, "gold", &subject("Gold CA"));
    let issuing = gold.below(demo, "gold-issuing", &subject("Gold Issuing CA"));
    let stranger = Authority::root(demo, "stranger", &subject("Gold CA"));
    for (name, ca, client) in [
        ("bronze", bronze, "b"),
        ("silver", silver, "s"),
        ("gold", gold, "g"),
        ("gold-issuing", issuing, "i"),
        ("stranger", stranger, "x"),
    ] {
        fs::copy(ca.certificate(), demo.certificate(name)).expect("the folder can be written");
        // No name and no SID of an account: the issuer is all there is to go by.
        let (key, request, certificate) =
            (format!("{client}.key"), format!("{client}.csr"), demo.certificate(client));
        let folder = demo.path(name);
        let new = ["req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"];
        openssl(&folder, &[&new[..], &["-keyout", &key, "-out", &request, "-subj", "/CN=visitor"]].concat());
        fs::write(folder.join("client.cnf"), "extendedKeyUsage = clientAuth\n")
            .expect("the folder can be written");
        let ca = [
            "-extfile",
            "client.cnf",
            "-CA",
            "ca.pem",
            "-CAkey",
            "ca.key",
            "-days",
            "30",
            "-out",
            &certificate,
        ];
        openssl(&folder, &[&["x509", "-req", "-in", &request], &ca[..]].concat());
        fs::copy(folder.join(&key), demo.path(&format!("certs/{key}"))).expect("the folder can be written");
    }
}
