//! openssl issues everything and judges it; we agree.

use super::*;
use std::path::Path as FilePath;
use std::process::{Command, Output};
use std::time::SystemTime;

const CONFIGURATION: &str = "
[ca]
default_ca = ca_default
[ca_default]
database = $ENV::CA/index.txt
new_certs_dir = $ENV::CA
serial = $ENV::CA/serial
crlnumber = $ENV::CA/crlnumber
certificate = $ENV::CA/ca.pem
private_key = $ENV::CA/ca.key
default_md = sha256
default_days = 30
default_crl_days = 7
policy = any
crl_extensions = list
[any]
commonName = supplied
[list]
authorityKeyIdentifier = keyid
[req]
distinguished_name = name
[name]
[authority]
basicConstraints = critical, CA:TRUE
keyUsage = critical, keyCertSign, cRLSign
subjectKeyIdentifier = hash
[leaf]
basicConstraints = CA:FALSE
keyUsage = critical, digitalSignature
extendedKeyUsage = clientAuth
[responder]
basicConstraints = CA:FALSE
keyUsage = critical, digitalSignature
extendedKeyUsage = critical, OCSPSigning
noCheck = ignored
";

/// A folder in which openssl works.
struct Openssl(tempfile::TempDir);

impl Openssl {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("openssl.cnf"), CONFIGURATION).unwrap();
        Self(folder)
    }

    fn try_run(&self, ca: &str, line: &str) -> Output {
        Command::new("openssl")
            .args(line.split(' '))
            .current_dir(self.0.path())
            .env("CA", ca)
            .env("OPENSSL_CONF", "openssl.cnf")
            .output()
            .expect("openssl is installed")
    }

    fn run(&self, ca: &str, line: &str) {
        let output = self.try_run(ca, line);
        assert!(output.status.success(), "openssl {line}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// Issues a certificate; `None` issues it to itself, and makes it a CA.
    fn issue(&self, issuer: Option<&str>, name: &str, extensions: &str) {
        self.run("", &format!("ecparam -name prime256v1 -genkey -noout -out {name}.key"));
        match issuer {
            None => self.run(
                "",
                &format!(
                    "req -x509 -new -key {name}.key -subj /CN={name} -extensions {extensions} -out {name}.pem"
                ),
            ),
            Some(issuer) => {
                self.run("", &format!("req -new -key {name}.key -subj /CN={name} -out {name}.csr"));
                self.run(
                    issuer,
                    &format!("ca -batch -notext -rand_serial -extensions {extensions} -in {name}.csr -out {name}.pem"),
                );
            }
        }
        self.run("", &format!("x509 -in {name}.pem -outform DER -out {name}.der"));
        if extensions == "authority" {
            let folder = self.0.path().join(name);
            std::fs::create_dir(&folder).unwrap();
            for (file, contents) in [("index.txt", ""), ("serial", "1000"), ("crlnumber", "01")] {
                std::fs::write(folder.join(file), contents).unwrap();
            }
            self.run("", &format!("x509 -in {name}.pem -out {name}/ca.pem"));
            self.run("", &format!("ec -in {name}.key -out {name}/ca.key"));
        }
    }

    fn list(&self, ca: &str) -> Vec<u8> {
        self.run(ca, &format!("ca -gencrl -out {ca}.crl"));
        self.run("", &format!("crl -in {ca}.crl -outform DER -out {ca}.crl.der"));
        self.read(format!("{ca}.crl.der"))
    }

    fn read(&self, name: impl AsRef<FilePath>) -> Vec<u8> {
        std::fs::read(self.0.path().join(name)).unwrap()
    }

    /// What `openssl verify` says about a certificate below the intermediate.
    fn verifies(&self, name: &str) -> bool {
        let files = "-CAfile root.pem -untrusted issuing.pem -CRLfile root.crl -CRLfile issuing.crl";
        let line = format!("verify -crl_check_all -purpose sslclient {files} {name}.pem");
        self.try_run("", &line).status.success()
    }
}

fn clock() -> FileTime {
    SystemTime::now().into()
}

#[test]
fn openssl_and_we_agree_on_chains_and_revocation_lists() {
    let openssl = Openssl::new();
    openssl.issue(None, "root", "authority");
    openssl.issue(Some("root"), "issuing", "authority");
    openssl.issue(Some("issuing"), "alice", "leaf");
    openssl.issue(Some("issuing"), "mallory", "leaf");
    openssl.issue(Some("issuing"), "server", "responder");
    openssl.run("issuing", "ca -revoke mallory.pem -crl_reason keyCompromise");
    let trust = Trust::new(Parts {
        anchors: vec![openssl.read("root.der")],
        intermediates: vec![openssl.read("issuing.der")],
        extended_key_usages: vec![CLIENT_AUTH.to_vec()],
        crls: 2,
        ..Parts::default()
    })
    .unwrap();
    let install = || {
        for (slot, ca) in ["root", "issuing"].into_iter().enumerate() {
            trust.install_crl(slot, &openssl.list(ca), clock()).unwrap();
        }
    };
    let agree = |name: &str, expect: bool| {
        let ours = trust
            .verify(&openssl.read(format!("{name}.der")), clock())
            .is_ok_and(|path| trust.revocation(&path, clock()) == Revocation::Good);
        assert_eq!((openssl.verifies(name), ours), (expect, expect), "{name}");
    };
    install();
    agree("alice", true);
    agree("mallory", false);
    agree("server", false);
    let path = trust.verify(&openssl.read("mallory.der"), clock()).unwrap();
    let revoked = trust.revocation(&path, clock());
    assert!(
        matches!(revoked, Revocation::Revoked { which: Which::Leaf, reason: RevocationReason(1), .. }),
        "{revoked:?}"
    );
    openssl.run("root", "ca -revoke issuing.pem");
    install();
    agree("alice", false);
}

#[test]
fn openssl_answers_our_questions() {
    let openssl = Openssl::new();
    openssl.issue(None, "root", "authority");
    openssl.issue(Some("root"), "alice", "leaf");
    openssl.issue(Some("root"), "mallory", "leaf");
    openssl.issue(Some("root"), "responder", "responder");
    openssl.run("root", "ca -revoke mallory.pem -crl_reason superseded");
    let trust = |hash| {
        let authority = openssl.read("root.der");
        let responder = OcspResponder {
            authority,
            url: "http://ocsp.example/".to_owned(),
            signer: None,
            asking: OcspAsking { hash, ..OcspAsking::default() },
        };
        Trust::new(Parts {
            anchors: vec![openssl.read("root.der")],
            ocsp: vec![responder],
            ..Parts::default()
        })
        .unwrap()
    };
    let hashes = [CertIdHash::Sha1, CertIdHash::Sha256];
    for (signer, hash) in ["root", "responder"].into_iter().zip(hashes) {
        let trust = trust(hash);
        for (name, expect) in [("alice", None), ("mallory", Some(RevocationReason(4)))] {
            let path = trust.verify(&openssl.read(format!("{name}.der")), clock()).unwrap();
            let nonces = [1, 16, 32, 128].map(|len| (Some(vec![0x5a; len]), ""));
            for (nonce, days) in nonces.into_iter().chain([(None, " -ndays 1"), (None, " -resp_key_id")]) {
                trust.answers.clear();
                let question = trust.ocsp_needed(&path, clock(), |_| nonce.clone()).remove(0);
                std::fs::write(openssl.0.path().join("request.der"), &question.request).unwrap();
                let files = "-index root/index.txt -CA root.pem -reqin request.der -respout response.der";
                let signer = format!("-rsigner {signer}.pem -rkey {signer}.key");
                openssl.run("", &format!("ocsp {files} {signer}{days}"));
                let answer = trust.ocsp_answer(&question, &openssl.read("response.der"), clock()).unwrap();
                assert_eq!(answer.has_nonce, nonce.is_some());
                let reason = match trust.revocation(&path, clock()) {
                    Revocation::Good => None,
                    Revocation::Revoked { reason, .. } => Some(reason),
                    unknown => panic!("{unknown:?}"),
                };
                assert_eq!(reason, expect, "{answer:?}");
            }
        }
    }
}

/// A CA whose own certificate is signed by RSASSA-PSS.
fn pss_ca(openssl: &Openssl, name: &str, kind: &str) {
    openssl.run("", &format!("genpkey -algorithm {kind} -out {name}.key"));
    let line = "req -x509 -new -sigopt rsa_padding_mode:pss -extensions authority";
    openssl.run("", &format!("{line} -key {name}.key -subj /CN={name} -out {name}.pem"));
    openssl.run("", &format!("x509 -in {name}.pem -outform DER -out {name}.der"));
}

/// openssl with three CAs, the key of the last one limited to SHA-384 and salts of 40 octets or more, and with
/// the request of a leaf.
fn with_pss_cas() -> Openssl {
    let openssl = Openssl::new();
    pss_ca(&openssl, "any", "RSA -pkeyopt rsa_keygen_bits:2048");
    pss_ca(&openssl, "pss", "RSA-PSS -pkeyopt rsa_keygen_bits:2048");
    let limits =
        "rsa_pss_keygen_md:sha384 -pkeyopt rsa_pss_keygen_mgf1_md:sha384 -pkeyopt rsa_pss_keygen_saltlen:40";
    pss_ca(&openssl, "limited", &format!("RSA-PSS -pkeyopt rsa_keygen_bits:2048 -pkeyopt {limits}"));
    openssl.run("", "ecparam -name prime256v1 -genkey -noout -out leaf.key");
    openssl.run("", "req -new -key leaf.key -subj /CN=alice -out leaf.csr");
    openssl
}

/// RFC 4055: salts of any length, all three hashes, keys for RSASSA-PSS alone; openssl signs and judges. What
/// is not accepted is told by its algorithm.
#[test]
fn openssl_and_we_agree_on_rsassa_pss() {
    let openssl = with_pss_cas();
    let unsupported = Some(ChainError::UnsupportedAlgorithm);
    // The key, the hash, the options of the signature, and what we say. openssl accepts all that it signs.
    for (name, hash, options, expect) in [
        ("any", "sha256", "rsa_pss_saltlen:32", None),
        ("any", "sha256", "rsa_pss_saltlen:0", None),
        ("any", "sha256", "rsa_pss_saltlen:1", None),
        ("any", "sha256", "rsa_pss_saltlen:20", None),
        ("any", "sha256", "rsa_pss_saltlen:128", None),
        ("any", "sha256", "rsa_pss_saltlen:max", None),
        ("any", "sha384", "rsa_pss_saltlen:max", None),
        ("any", "sha512", "rsa_pss_saltlen:64", None),
        ("any", "sha512", "rsa_pss_saltlen:17", None),
        ("any", "sha256", "rsa_mgf1_md:sha384", unsupported),
        ("any", "sha224", "rsa_pss_saltlen:28", unsupported),
        ("any", "sha1", "rsa_pss_saltlen:20", unsupported),
        ("pss", "sha256", "rsa_pss_saltlen:max", None),
        ("pss", "sha384", "rsa_pss_saltlen:48", None),
        ("limited", "sha384", "rsa_pss_saltlen:40", None),
        ("limited", "sha384", "rsa_pss_saltlen:100", None),
    ] {
        let told = format!("{name} {hash} {options}");
        let sign = format!("-sigopt rsa_padding_mode:pss -sigopt {options} -{hash}");
        let issue = "x509 -req -days 30 -extfile openssl.cnf -extensions leaf -in leaf.csr";
        openssl.run("", &format!("{issue} -CA {name}.pem -CAkey {name}.key {sign} -out leaf.pem"));
        openssl.run("", "x509 -in leaf.pem -outform DER -out leaf.der");
        let verify = format!("verify -auth_level 0 -CAfile {name}.pem leaf.pem");
        assert!(openssl.try_run("", &verify).status.success(), "{told}");
        let anchors = vec![openssl.read(format!("{name}.der"))];
        let trust = Trust::new(Parts { anchors, ..Parts::default() }).unwrap();
        let leaf = openssl.read("leaf.der");
        let verdict = trust.verify(&leaf, clock());
        assert_eq!(verdict.as_ref().err().map(|refusal| refusal.error), expect, "{told}");
        if let Err(refusal) = &verdict {
            let text = "it is signed by an algorithm that is not accepted (algorithm 1.2.840.113549.1.1.10)";
            assert_eq!(refusal.text(None), text);
        }
        // The last octet of the signature.
        let mut changed = leaf;
        *changed.last_mut().unwrap() ^= 1;
        assert!(trust.verify(&changed, clock()).is_err(), "{told}");
    }
}

const ISSUE_BY_ANY: &str =
    "x509 -req -days 30 -extfile openssl.cnf -extensions leaf -in leaf.csr -CA any.pem -CAkey any.key";

/// What a key that is limited to SHA-384 and 40 octets did not sign as it says: the parameters are changed.
#[test]
fn a_limited_key_signs_only_within_its_limits() {
    let openssl = with_pss_cas();
    let anchors = vec![openssl.read("limited.der")];
    let trust = Trust::new(Parts { anchors, ..Parts::default() }).unwrap();
    openssl.run("", "req -x509 -new -key any.key -subj /CN=limited -extensions authority -out any.pem");
    for options in ["-sha256", "-sha384 -sigopt rsa_padding_mode:pss -sigopt rsa_pss_saltlen:39"] {
        openssl.run("", &format!("{ISSUE_BY_ANY} {options} -out leaf.pem"));
        openssl.run("", "x509 -in leaf.pem -outform DER -out leaf.der");
        let refusal = trust.verify(&openssl.read("leaf.der"), clock()).unwrap_err();
        assert_eq!(refusal.error, ChainError::BadSignature, "{options}");
    }
}

/// Parameters of RSASSA-PSS (RFC 4055, section 3.1): SHA-384, MGF1 with it, and the length of a salt.
fn pss_parameters(salt: u8) -> Vec<u8> {
    let id = der::encode(der::OID, &[&[0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x02]]);
    let hash = der::encode(der::SEQUENCE, &[&id]);
    let mgf1 = der::encode(der::OID, &[&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x08]]);
    let mask = der::encode(der::SEQUENCE, &[&mgf1, &hash]);
    let salt = der::encode(0xa2, &[&der::encode(der::INTEGER, &[&[salt]])]);
    der::encode(der::SEQUENCE, &[&der::encode(0xa0, &[&hash]), &der::encode(0xa1, &[&mask]), &salt])
}

/// The SubjectPublicKeyInfo of an RSA key that is for RSASSA-PSS with these parameters alone.
fn pss_spki(key: &[u8], parameters: &[u8]) -> Vec<u8> {
    let id = der::encode(der::OID, &[&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0a]]);
    let algorithm = der::encode(der::SEQUENCE, &[&id, parameters]);
    der::encode(der::SEQUENCE, &[&algorithm, &der::encode(der::BIT_STRING, &[&[0], key])])
}

/// The same RSA key with and without the limit: PKCS #1 1.5 and a shorter salt by it are refused with the limit.
#[test]
fn the_limit_of_a_key_decides() {
    let openssl = with_pss_cas();
    openssl.run("", "req -x509 -new -key any.key -subj /CN=limited -extensions authority -out any.pem");
    openssl.run("", "rsa -in any.key -pubout -outform DER -out any.spki");
    let spki = openssl.read("any.spki");
    let key = super::super::signature::subject_public_key(&spki).unwrap().1;
    for (options, parameters, expect) in [
        ("-sha384 -sigopt rsa_padding_mode:pss -sigopt rsa_pss_saltlen:39", pss_parameters(39), true),
        ("-sha384 -sigopt rsa_padding_mode:pss -sigopt rsa_pss_saltlen:39", pss_parameters(0), true),
        ("-sha384 -sigopt rsa_padding_mode:pss -sigopt rsa_pss_saltlen:39", pss_parameters(40), false),
        ("-sha384 -sigopt rsa_padding_mode:pss -sigopt rsa_pss_saltlen:39", Vec::new(), true),
        ("-sha256 -sigopt rsa_padding_mode:pss -sigopt rsa_pss_saltlen:39", pss_parameters(39), false),
        ("-sha384", pss_parameters(39), false),
        ("-sha384", Vec::new(), false),
    ] {
        openssl.run("", &format!("{ISSUE_BY_ANY} {options} -out leaf.pem"));
        openssl.run("", "x509 -in leaf.pem -outform DER -out leaf.der");
        let leaf = openssl.read("leaf.der");
        let signed = super::super::signature::Signed::parse(&leaf, "Certificate").unwrap();
        assert!(signed.verify(&spki).is_ok());
        assert_eq!(signed.verify(&pss_spki(key, &parameters)).is_ok(), expect, "{options} {parameters:02x?}");
    }
}
