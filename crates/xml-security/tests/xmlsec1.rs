//! xmlsec1 decrypts and verifies what we secure, and we open what it signs and encrypts.
//! `tests/peers/install` installs it.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use dtyp::FileTime;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;
use xml_security::names::{
    ADDRESSING, CONVERSATION, ENCRYPTION, Namespace, SECURITY, SIGNATURE, SOAP, UTILITY,
};
use xml_security::{
    Certificate, Cipher, ContextToken, Document, EndorseWith, Endorsement, Hash, Key, Keys, LABEL_DEFAULT,
    NoKey, OpenError, OpenPolicy, Opened, ParseLimits, Presence, ProtectionToken, SecurePolicy, SigningKey,
    Suite, TokenName, UsernameToken, open, secure,
};

const NOW: FileTime = FileTime(134_000_000_000_000_000);
const IDENTIFIER: &str = "urn:uuid:1";

struct Identity {
    certificate: Certificate,
    pkcs8: Vec<u8>,
    pem: String,
}

static CLIENT: LazyLock<Identity> = LazyLock::new(|| {
    let key =
        rcgen::KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, rcgen::RsaKeySize::_2048).expect("a key");
    let parameters = rcgen::CertificateParams::new(vec!["client.example".to_owned()]).expect("a name");
    let certificate = parameters.self_signed(&key).expect("a certificate");
    Identity {
        certificate: Certificate::from_der(certificate.der()).expect("a certificate"),
        pkcs8: key.serialize_der(),
        pem: key.serialize_pem(),
    }
});

/// A folder with keys and documents, and xmlsec1 over them.
struct Xmlsec {
    folder: tempfile::TempDir,
}

impl Xmlsec {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().expect("a folder") }
    }

    fn file(&self, name: &str, octets: &[u8]) -> PathBuf {
        let path = self.folder.path().join(name);
        std::fs::write(&path, octets).expect("it can be written");
        path
    }

    /// Runs `xmlsec1 MODE … FILE` and returns the document that comes out.
    fn run(&self, mode: &str, arguments: &[&str], file: &Path) -> Vec<u8> {
        let output = self.folder.path().join("out.xml");
        let mut command = Command::new("xmlsec1");
        command.arg(mode).arg("--output").arg(&output);
        for (namespace, local) in [
            (SOAP, "Body"),
            (UTILITY, "Timestamp"),
            (ADDRESSING, "Action"),
            (ADDRESSING, "To"),
            (ADDRESSING, "MessageID"),
            (SECURITY, "UsernameToken"),
            (ENCRYPTION, "EncryptedData"),
            (SIGNATURE, "Signature"),
        ] {
            let Namespace { uri, .. } = namespace;
            command.arg("--id-attr:Id").arg(format!("{uri}:{local}"));
        }
        let done = command.args(arguments).arg(file).output().expect("xmlsec1 starts");
        assert!(
            done.status.success(),
            "xmlsec1 {mode} {arguments:?}: {}\n{}",
            String::from_utf8_lossy(&done.stderr),
            String::from_utf8_lossy(&std::fs::read(file).expect("it was written"))
        );
        std::fs::read(output).unwrap_or_default()
    }
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

fn random() -> impl FnMut(&mut [u8]) {
    let mut next = 0u8;
    move |octets| {
        for octet in octets {
            next = next.wrapping_mul(5).wrapping_add(17);
            *octet = next;
        }
    }
}

struct OneContext(Key);

impl Keys for OneContext {
    fn context(&mut self, token: ContextToken<'_>) -> Result<Key, NoKey> {
        if token.identifier == IDENTIFIER { Ok(self.0.clone()) } else { Err(NoKey::UnknownContext) }
    }
}

fn token() -> String {
    format!(
        "<c:SecurityContextToken xmlns:c='{}' xmlns:u='{}' u:Id='sct'><c:Identifier>{IDENTIFIER}</c:Identifier></c:SecurityContextToken>",
        CONVERSATION.uri, UTILITY.uri
    )
}

fn user() -> UsernameToken {
    UsernameToken { username: "alice".to_owned(), password: "p & <w>".to_owned().into() }
}

const BODY: &str = "<m:Echo xmlns:m='urn:m' b='2' a='1'>h\u{e4}llo &amp; &#13;<x xmlns=''/> </m:Echo>";

fn key_type(cipher: Cipher) -> &'static str {
    match cipher {
        Cipher::TripleDes => "--deskey",
        _ => "--aeskey",
    }
}

fn suites() -> impl Iterator<Item = Suite> {
    [Cipher::Aes256, Cipher::Aes192, Cipher::Aes128, Cipher::TripleDes]
        .into_iter()
        .flat_map(|cipher| [Hash::Sha1, Hash::Sha256].map(|hash| Suite { cipher, hash }))
}

#[test]
fn xmlsec1_decrypts_and_verifies_what_we_secure() {
    for suite in suites() {
        let xmlsec = Xmlsec::new();
        let session = Key::new(&[1; 32]);
        let user = user();
        let signer = SigningKey::from_pkcs8(&CLIENT.pkcs8, CLIENT.certificate.clone()).expect("an RSA key");
        let element = token();
        let protection = ProtectionToken::CarriedContext { element: element.as_bytes(), key: &session };
        let policy = SecurePolicy {
            username: Some(&user),
            endorse: Some(EndorseWith::Signer(&signer)),
            ..SecurePolicy::new(suite, protection, NOW)
        };
        let plain = format!(
            "<s:Envelope xmlns:s='{}' xmlns:a='{}'><s:Header><a:Action>urn:echo</a:Action><a:To>http://x/</a:To></s:Header>\
             <s:Body>{BODY}</s:Body></s:Envelope>",
            SOAP.uri, ADDRESSING.uri
        );
        let plain = Document::parse(plain.as_bytes(), &ParseLimits::default()).expect("well-formed");
        let sent = secure(plain, &policy, &mut random()).expect("it can be secured");

        // The two derived keys, from what the message says about them.
        let document = Document::parse(&sent.octets, &ParseLimits::default()).expect("well-formed");
        let derived: Vec<_> = document
            .descendants(document.root())
            .filter(|node| document.is(*node, CONVERSATION.name("DerivedKeyToken")))
            .map(|node| {
                let nonce =
                    document.only(node, CONVERSATION.name("Nonce")).and_then(|node| document.base64(node));
                let length =
                    document.only(node, CONVERSATION.name("Length")).and_then(|node| document.text(node));
                let length = length.map_or(32, |text| text.parse().expect("a number"));
                session.derive(LABEL_DEFAULT.as_bytes(), &nonce.expect("a nonce"), 0, length)
            })
            .collect();
        let [signature_key, encryption_key] = &derived[..] else { panic!("there are two derived keys") };
        let signature_key = xmlsec.file("signature.key", signature_key.expose());
        let encryption_key = xmlsec.file("encryption.key", encryption_key.expose());
        let certificate = xmlsec.file("client.der", CLIENT.certificate.der());

        let parts: Vec<_> = document
            .descendants(document.root())
            .filter(|node| document.is(*node, ENCRYPTION.name("EncryptedData")))
            .map(|node| document.id_of(node).expect("an id").to_owned())
            .collect();
        assert_eq!(parts.len(), 4);
        let mut octets = sent.octets;
        for id in parts {
            let file = xmlsec.file("encrypted.xml", &octets);
            octets = xmlsec.run(
                "--decrypt",
                &[key_type(suite.cipher), text(&encryption_key), "--node-id", &id],
                &file,
            );
        }
        let decrypted = xmlsec.file("decrypted.xml", &octets);
        let read = Document::parse(&octets, &ParseLimits::default()).expect("well-formed");
        let body = read.only(read.root(), SOAP.name("Body")).and_then(|body| read.elements(body).next());
        let start = body.and_then(|echo| read.children(echo).next()).expect("a text");
        assert!(
            String::from_utf8(read.extract(start).expect("writable")).expect("UTF-8")
                == "h\u{e4}llo &amp; &#13;"
        );
        let user = read.descendants(read.root()).find(|node| read.is(*node, SECURITY.name("Username")));
        assert_eq!(read.text(user.expect("a name")).as_deref(), Some("alice"));
        let nth = |n| format!("(//*[local-name()='Signature'])[{n}]");
        xmlsec.run("--verify", &["--hmackey", text(&signature_key), "--node-xpath", &nth(1)], &decrypted);
        xmlsec.run(
            "--verify",
            &["--pubkey-cert-der", text(&certificate), "--node-xpath", &nth(2)],
            &decrypted,
        );
        // It does verify: another key does not.
        let wrong = xmlsec.file("wrong.key", &[0; 24]);
        let failed = Command::new("xmlsec1")
            .args(["--verify", "--hmackey", text(&wrong), "--node-xpath", &nth(1), text(&decrypted)])
            .output()
            .expect("xmlsec1 starts");
        assert!(!failed.status.success());
    }
}

#[test]
fn openssl_unwraps_what_we_wrap() {
    let xmlsec = Xmlsec::new();
    let policy = SecurePolicy::new(Suite::BASIC256, ProtectionToken::EncryptTo(&CLIENT.certificate), NOW);
    let plain = format!("<s:Envelope xmlns:s='{}'><s:Header/><s:Body/></s:Envelope>", SOAP.uri);
    let plain = Document::parse(plain.as_bytes(), &ParseLimits::default()).expect("well-formed");
    let sent = secure(plain, &policy, &mut random()).expect("it can be secured");
    let document = Document::parse(&sent.octets, &ParseLimits::default()).expect("well-formed");
    let wrapped = document
        .descendants(document.root())
        .find(|node| document.is(*node, ENCRYPTION.name("CipherValue")))
        .and_then(|node| document.base64(node))
        .expect("the wrapped key is the first");
    let key = xmlsec.file("key.pem", CLIENT.pem.as_bytes());
    let file = xmlsec.file("wrapped", &wrapped);
    let done = Command::new("openssl")
        .args(["pkeyutl", "-decrypt", "-inkey", text(&key), "-in", text(&file)])
        .args([
            "-pkeyopt",
            "rsa_padding_mode:oaep",
            "-pkeyopt",
            "rsa_oaep_md:sha1",
            "-pkeyopt",
            "rsa_mgf1_md:sha1",
        ])
        .output()
        .expect("openssl starts");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    assert_eq!(done.stdout, sent.key.expose());
    assert_eq!(sent.token, TokenName::EncryptedKey(xml_security::sha1(&wrapped)));
}

/// A message that xmlsec1 signs and encrypts from templates.
struct Template {
    suite: Suite,
    /// Hash of the endorsing signature, if it has one.
    endorses: Option<Hash>,
    prefixes: &'static str,
    around: &'static str,
    body: &'static str,
    /// How often the body is encrypted before it is encrypted as a listed part.
    inside: usize,
}

impl Template {
    fn nonce(fill: u8) -> String {
        STANDARD.encode([fill; 16])
    }

    fn derived_key(&self, fill: u8, length: usize) -> Key {
        Key::new(&[1; 32]).derive(LABEL_DEFAULT.as_bytes(), &[fill; 16], 0, length)
    }

    fn reference(id: &str) -> String {
        format!(
            "<ds:KeyInfo xmlns:ds='{}'><o:SecurityTokenReference xmlns:o='{}'><o:Reference URI='#{id}'/></o:SecurityTokenReference></ds:KeyInfo>",
            SIGNATURE.uri, SECURITY.uri
        )
    }

    fn signature(&self, id: &str, method: &str, key: &str, targets: &[&str]) -> String {
        let list = if self.prefixes.is_empty() {
            String::new()
        } else {
            format!(
                "<ec:InclusiveNamespaces xmlns:ec='http://www.w3.org/2001/10/xml-exc-c14n#' PrefixList='{}'/>",
                self.prefixes
            )
        };
        let references: String = targets
            .iter()
            .map(|target| {
                format!(
                    "<ds:Reference URI='#{target}'><ds:Transforms><ds:Transform Algorithm='http://www.w3.org/2001/10/xml-exc-c14n#'>\
                     {list}</ds:Transform></ds:Transforms><ds:DigestMethod Algorithm='{}'/><ds:DigestValue/></ds:Reference>",
                    self.suite.hash.digest_uri()
                )
            })
            .collect();
        format!(
            "<ds:Signature xmlns:ds='{}' Id='{id}'><ds:SignedInfo><ds:CanonicalizationMethod \
             Algorithm='http://www.w3.org/2001/10/xml-exc-c14n#'>{list}</ds:CanonicalizationMethod><ds:SignatureMethod Algorithm='{method}'/>\
             {references}</ds:SignedInfo><ds:SignatureValue/>{}</ds:Signature>",
            SIGNATURE.uri,
            Self::reference(key)
        )
    }

    fn make(&self) -> Vec<u8> {
        let xmlsec = Xmlsec::new();
        let hash = self.suite.hash;
        let signature_len = self.suite.signature_key_len();
        let signature_key = xmlsec.file("signature.key", self.derived_key(0xa, signature_len).expose());
        let encryption_key =
            xmlsec.file("encryption.key", self.derived_key(0xb, self.suite.key_len()).expose());
        let private = xmlsec.file("client.pem", CLIENT.pem.as_bytes());
        let derived = |id: &str, fill, length| {
            format!(
                "<c:DerivedKeyToken xmlns:c='{}' u:Id='{id}'><o:SecurityTokenReference><o:Reference URI='#sct'/></o:SecurityTokenReference>\
                 <c:Length>{length}</c:Length><c:Nonce>{}</c:Nonce></c:DerivedKeyToken>",
                CONVERSATION.uri,
                Self::nonce(fill)
            )
        };
        let mut parts = vec!["body", "user", "signature"];
        let mut more = String::new();
        if let Some(endorsing) = self.endorses {
            more = format!(
                "<o:BinarySecurityToken u:Id='certificate' \
                 ValueType='http://docs.oasis-open.org/wss/2004/01/oasis-200401-wss-x509-token-profile-1.0#X509v3'>{}</o:BinarySecurityToken>{}",
                STANDARD.encode(CLIENT.certificate.der()),
                self.signature("endorsing", endorsing.rsa_uri(), "certificate", &["primary"])
            );
            parts.push("endorsement");
        }
        let list: String = parts.iter().map(|part| format!("<e:DataReference URI='#e-{part}'/>")).collect();
        // Indented, as people write it, and with the signature before what it refers to.
        let message = format!(
            "<s:Envelope xmlns:s='{soap}' xmlns:a='{addressing}' xmlns:u='{utility}' xmlns:o='{security}' {around}>\n <s:Header>\n  \
             <a:Action u:Id='action'>urn:echo</a:Action>\n  <a:To u:Id='to' xml:lang='en'>http://x/?a&amp;b</a:To>\n  \
             <o:Security s:mustUnderstand='true'>{token}{signature_token}{encryption_token}{signature}\
             <u:Timestamp u:Id='time'>\n <u:Created>2025-08-18T14:13:20Z</u:Created>\n <u:Expires>2025-08-18T14:18:20Z</u:Expires></u:Timestamp>\n\
             <o:UsernameToken u:Id='user'><o:Username>alice</o:Username><o:Password>p &amp; &lt;w></o:Password></o:UsernameToken>\
             {more}<e:ReferenceList xmlns:e='{encryption}'>{list}</e:ReferenceList></o:Security>\n </s:Header>\n \
             <s:Body u:Id='body'>{body}</s:Body>\n</s:Envelope>",
            soap = SOAP.uri,
            addressing = ADDRESSING.uri,
            utility = UTILITY.uri,
            security = SECURITY.uri,
            around = self.around,
            token = token(),
            signature_token = derived("key-1", 0xa, signature_len),
            encryption_token = derived("key-2", 0xb, self.suite.key_len()),
            signature = self.signature(
                "primary",
                hash.hmac_uri(),
                "key-1",
                &["body", "action", "to", "time", "user"]
            ),
            encryption = ENCRYPTION.uri,
            body = self.body,
        );
        let file = xmlsec.file("message.xml", message.as_bytes());
        let at = |id: &str| format!("//*[@Id='{id}' and local-name()='Signature']");
        let mut octets =
            xmlsec.run("--sign", &["--hmackey", text(&signature_key), "--node-xpath", &at("primary")], &file);
        if self.endorses.is_some() {
            let file = xmlsec.file("message.xml", &octets);
            octets = xmlsec.run(
                "--sign",
                &["--privkey-pem", text(&private), "--node-xpath", &at("endorsing")],
                &file,
            );
        }
        let inside = std::iter::repeat_n("body", self.inside).enumerate();
        let inside = inside.map(|(n, part)| (part, format!("inside-{n}")));
        let listed = parts.into_iter().map(|part| (part, format!("e-{part}")));
        for (part, id) in inside.chain(listed) {
            let (kind, node) = match part {
                "body" => ("Content", "//*[local-name()='Body']".to_owned()),
                "user" => ("Element", "//*[local-name()='UsernameToken']".to_owned()),
                "signature" => ("Element", at("primary")),
                _ => ("Element", at("endorsing")),
            };
            let template = format!(
                "<e:EncryptedData xmlns:e='{}' Id='{id}' Type='http://www.w3.org/2001/04/xmlenc#{kind}'><e:EncryptionMethod \
                 Algorithm='{}'/>{}<e:CipherData><e:CipherValue/></e:CipherData></e:EncryptedData>",
                ENCRYPTION.uri,
                self.suite.cipher.uri(),
                Self::reference("key-2")
            );
            let data = xmlsec.file("data.xml", &octets);
            let file = xmlsec.file("template.xml", template.as_bytes());
            let arguments = [
                key_type(self.suite.cipher),
                text(&encryption_key),
                "--xml-data",
                text(&data),
                "--node-xpath",
                &node,
            ];
            octets = xmlsec.run("--encrypt", &arguments, &file);
        }
        octets
    }

    fn open(&self, octets: &[u8]) -> Result<Opened, OpenError> {
        let policy = OpenPolicy {
            username: Presence::Required,
            endorsing: Presence::Optional,
            ..OpenPolicy::request(self.suite, NOW)
        };
        open(octets, &policy, &mut OneContext(Key::new(&[1; 32])), &mut random())
    }
}

#[test]
fn we_open_what_xmlsec1_signs_and_encrypts() {
    let endorsed = [
        (Suite::BASIC256, Some(Hash::Sha1)),
        (Suite::BASIC256_SHA256, Some(Hash::Sha256)),
        // Mono's WCF.
        (Suite::BASIC256, Some(Hash::Sha256)),
    ];
    for (suite, endorses) in suites().map(|suite| (suite, None)).chain(endorsed) {
        let template = Template { suite, endorses, prefixes: "", around: "", body: BODY, inside: 0 };
        let octets = template.make();
        let opened = template.open(&octets);
        let opened = opened
            .unwrap_or_else(|error| panic!("{suite:?}: {error:?}: {}", String::from_utf8_lossy(&octets)));
        assert_eq!(opened.username, Some(user()));
        let endorsement = endorses.map(|_| Endorsement::Certificate(CLIENT.certificate.clone()));
        assert_eq!(opened.endorsement, endorsement);
        let to = opened.envelope.addressing(&opened.document, "To").expect("it is there");
        assert_eq!(opened.document.text(to).as_deref(), Some("http://x/?a&b"));
    }
    // Never a weaker hash than that of the suite.
    let weaker = Template {
        suite: Suite::BASIC256_SHA256,
        endorses: Some(Hash::Sha1),
        prefixes: "",
        around: "",
        body: BODY,
        inside: 0,
    };
    weaker.open(&weaker.make()).expect_err("SHA-1 in a suite with SHA-256");
}

/// The PrefixList protects prefixes that only values use, and `#default` is the default namespace.
#[test]
fn prefix_lists_mean_what_they_mean_to_xmlsec1() {
    let around = "xmlns='urn:default' xmlns:b='urn:b'";
    let body = "<x xmlns:xsi='http://www.w3.org/2001/XMLSchema-instance' xsi:type='b:int'><y xmlns=''/></x>";
    let template =
        |prefixes| Template { suite: Suite::BASIC256, endorses: None, prefixes, around, body, inside: 0 };
    let listed = template("b #default zz");
    let octets = listed.make();
    let opened = listed.open(&octets).expect("the prefix is signed");
    assert_eq!(opened.signed[0].prefixes, ["b", "#default", "zz"]);
    let message = String::from_utf8(octets).expect("UTF-8");
    for (from, into) in [("urn:b", "urn:evil"), ("\"urn:default\"", "\"urn:evil\"")] {
        assert!(message.contains(from), "{message}");
        listed.open(message.replacen(from, into, 1).as_bytes()).expect_err("it is bound anew");
    }
    let not_listed = template("");
    not_listed.open(&not_listed.make()).expect_err("the prefix is not signed");
}

/// Text that was decrypted has nothing that would be decrypted again, however deep it is.
#[test]
fn content_that_xmlsec1_encrypts_twice_is_refused() {
    for (inside, passes) in [(0, true), (1, false), (6, false)] {
        let template =
            Template { suite: Suite::BASIC256, endorses: None, prefixes: "", around: "", body: BODY, inside };
        let message = template.make();
        match template.open(&message) {
            Ok(_) => assert!(passes, "{inside}"),
            Err(OpenError::Rejected(rejected)) => {
                assert!(!passes, "{rejected:?}");
                let told = format!("{:?}", rejected.reason());
                assert!(told.contains("encrypted again"), "{inside}: {told}");
            }
            Err(error) => panic!("{error:?}"),
        }
    }
}
