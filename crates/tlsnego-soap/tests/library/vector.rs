//! A recorded exchange in which the client knows the certificate of the service: RST/SCT under an
//! EncryptedKey, four calls, Cancel, and a fifth call that is refused. WSS4J and xmlsec1 read the octets, and
//! so do we.
//!
//! `UPDATE_EXPECT=1` records it anew.

use crate::matrix::{ECHO, body, client, user};
use crate::support::*;
use serde_json::{Value, json};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use tlsnego_service::session::Credential;
use tlsnego_soap::CONTENT_TYPE;
use tlsnego_soap::client::{Proof, Under};
use tlsnego_soap::server::Binding;
use xml_security::names::{ADDRESSING, CONVERSATION, SECURITY};
use xml_security::{
    Certificate, ContextToken, DecryptionKey, Document, Key, KeyReference, Keys, NoKey, OpenPolicy,
    ParseLimits, Presence, Suite, TokenName, open, p_sha1, parse_time,
};

const TRUST: &str = "http://schemas.xmlsoap.org/ws/2005/02/trust";
const MESSAGES: u32 = 7;
const PRESET: Binding = Binding { negotiate: false, establish: true };

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/preset-session")
}

fn peers() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/peers")
}

/// Records an exchange of our client and our service.
fn record(folder: &Path) {
    let certificates = Certificates::new();
    let service = service(&certificates, &[PRESET], Credential::UserName);
    let preset = certificates.service.certificate();
    let (user, at) = (user(), now());
    let mut number = 0;
    let mut exchange = |octets: Vec<u8>| {
        number += 1;
        let reply = post_at(&service, CONTENT_TYPE, &octets, at).response.body;
        fs::write(folder.join(format!("{number}-request.xml")), octets).expect("written");
        fs::write(folder.join(format!("{number}-reply.xml")), &reply).expect("written");
        reply
    };
    let (octets, establishing) =
        client().establish(Under::Certificate(&preset), Proof::UserName(&user), at.wall).expect("RST/SCT");
    let token = establishing.receive(&exchange(octets), at.wall).expect("a token");
    for n in 1..=5 {
        if n == 5 {
            let (octets, cancelling) = client().cancel(&token, at.wall).expect("Cancel");
            cancelling.receive(&exchange(octets), at.wall).expect("it is cancelled");
        }
        let text = body(&format!("call {n}"));
        let (octets, _) =
            client().call(Under::Token(&token), Proof::None, (ECHO, &text), at.wall).expect("a call");
        exchange(octets);
    }
    let time = xml_security::format_time(at.wall);
    fs::write(folder.join("time"), time).expect("written");
    fs::write(folder.join("service.pem"), &certificates.service.pem).expect("written");
    fs::write(folder.join("service.key"), &certificates.service.key_pem).expect("written");
}

/// What a message says: its action, and the text in its body if that does not vary; or the fault.
type Said = Result<(String, Option<String>), &'static str>;

/// What each message says.
fn expected() -> Vec<(String, Said)> {
    let good = |action: &str, text: Option<String>| Ok((action.to_owned(), text));
    let mut expected = vec![
        ("1-request".to_owned(), good(&format!("{TRUST}/RST/SCT"), None)),
        ("1-reply".to_owned(), good(&format!("{TRUST}/RSTR/SCT"), None)),
    ];
    for n in 1..=4 {
        let text = format!("call {n}");
        expected.push((format!("{}-request", n + 1), good(ECHO, Some(text.clone()))));
        expected.push((format!("{}-reply", n + 1), good("urn:echoResponse", Some(text))));
    }
    expected.push(("6-request".to_owned(), good(&format!("{TRUST}/RST/SCT/Cancel"), None)));
    expected.push(("6-reply".to_owned(), good(&format!("{TRUST}/RSTR/SCT/Cancel"), None)));
    expected.push(("7-request".to_owned(), good(ECHO, Some("call 5".to_owned()))));
    expected.push(("7-reply".to_owned(), Err("{http://schemas.xmlsoap.org/ws/2005/02/sc}BadContextToken")));
    expected
}

fn check(reader: &str, steps: &[Value]) {
    let expected = expected();
    assert_eq!(steps.len(), expected.len(), "{reader}: {steps:?}");
    for (step, (name, expected)) in steps.iter().zip(expected) {
        assert_eq!(step["step"], name, "{reader}");
        match expected {
            Err(fault) => assert_eq!(step["error"], fault, "{reader}"),
            Ok((action, text)) => {
                assert_eq!(step["action"], action, "{reader}: {step}");
                if let Some(text) = text {
                    assert_eq!(step["text"], text, "{reader}: {step}");
                }
                let is_proof = name == "1-request";
                assert_eq!(step["user"] == USER, is_proof, "{reader}: {step}");
            }
        }
    }
}

fn lines(command: &mut Command, settings: &Value) -> Vec<Value> {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{error}: {command:?}"));
    writeln!(child.stdin.take().expect("piped"), "{settings}").expect("it reads");
    let output = child.wait_with_output().expect("it ends");
    assert!(output.status.success(), "{command:?} failed");
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

fn settings(folder: &Path) -> Value {
    json!({
        "role": "verify",
        "folder": folder,
        "server": folder.join("service.pem"),
        "server_key": folder.join("service.key"),
        "user": USER,
        "password": PASSWORD,
    })
}

fn xmlsec1(folder: &Path) -> Vec<Value> {
    let mut command = Command::new(PYTHON);
    lines(command.arg(peers().join("xmlsec1_exchange.py")), &settings(folder))
}

fn wss4j(folder: &Path) -> Vec<Value> {
    let mut command = Command::new(peers().join("wss4j"));
    let mut steps = lines(&mut command, &settings(folder));
    assert_eq!(steps.pop(), Some(json!({ "step": "end" })));
    steps
}

/// Our own reader, with the key of the session that the recorded entropies make.
struct Recorded {
    certificate: Certificate,
    key: DecryptionKey,
    fresh: Option<Key>,
    session: Option<(String, Key)>,
}

impl Keys for Recorded {
    fn context(&mut self, token: ContextToken<'_>) -> Result<Key, NoKey> {
        let session = self.session.as_ref().filter(|(name, _)| name == token.identifier);
        session.map(|(_, key)| key.clone()).ok_or(NoKey::UnknownContext)
    }

    fn encrypted_key(&mut self, _: &[u8; 20]) -> Result<Key, NoKey> {
        self.fresh.clone().ok_or(NoKey::Refused)
    }

    fn decryption_key(&mut self, recipient: &KeyReference, _: &[u8; 20]) -> Result<&DecryptionKey, NoKey> {
        match *recipient == KeyReference::Thumbprint(self.certificate.thumbprint()) {
            true => Ok(&self.key),
            false => Err(NoKey::Refused),
        }
    }
}

fn text_of(
    document: &Document,
    namespace: xml_security::names::Namespace,
    local: &'static str,
) -> Option<String> {
    let mut found = document.descendants(document.root());
    let node = found.find(|node| document.is(*node, namespace.name(local)))?;
    document.text(node).map(|text| text.into_owned())
}

fn entropy(document: &Document) -> Option<Vec<u8>> {
    const NAMESPACE: xml_security::names::Namespace =
        xml_security::names::Namespace { prefix: "t", uri: TRUST };
    let mut found = document.descendants(document.root());
    found
        .find(|node| document.is(*node, NAMESPACE.name("BinarySecret")))
        .and_then(|node| document.base64(node))
}

fn ours(folder: &Path) -> Vec<Value> {
    let read = |name: &str| fs::read(folder.join(name)).expect("it was recorded");
    let der = |name: &str| {
        use rustls_pki_types::pem::{PemObject, SectionKind};
        let (_, der): (SectionKind, Vec<u8>) = PemObject::from_pem_slice(&read(name)).expect("PEM");
        der
    };
    let mut keys = Recorded {
        certificate: Certificate::from_der(&der("service.pem")).expect("a certificate"),
        key: DecryptionKey::from_pkcs8(&der("service.key")).expect("a key"),
        fresh: None,
        session: None,
    };
    let now = parse_time(&String::from_utf8(read("time")).expect("text")).expect("a time");
    let mut steps = Vec::new();
    for number in 1..=MESSAGES {
        let mut client_entropy = None;
        for what in ["request", "reply"] {
            let name = format!("{number}-{what}");
            let octets = read(&format!("{name}.xml"));
            let document = Document::parse(&octets, &ParseLimits::default()).expect("well-formed");
            if text_of(&document, SECURITY, "Security").is_none() && what == "reply" && number == MESSAGES {
                let text = String::from_utf8(octets).expect("UTF-8");
                assert!(text.contains("c:BadContextToken"), "{text}");
                let error = "{http://schemas.xmlsoap.org/ws/2005/02/sc}BadContextToken";
                steps.push(json!({ "step": name, "error": error }));
                continue;
            }
            let mut policy =
                OpenPolicy { username: Presence::Optional, ..OpenPolicy::request(Suite::BASIC256, now) };
            if what == "reply" {
                policy.direction = xml_security::Direction::Reply { confirms: None };
            }
            let mut random = |octets: &mut [u8]| octets.fill(7);
            let opened = match open(&octets, &policy, &mut keys, &mut random) {
                Ok(opened) => opened,
                Err(error) => {
                    steps.push(json!({ "step": name, "error": error.to_string() }));
                    continue;
                }
            };
            if let TokenName::EncryptedKey(_) = opened.token {
                keys.fresh = Some(opened.key.clone());
            }
            let document = &opened.document;
            match (what, entropy(document)) {
                ("request", found) => client_entropy = found,
                (_, Some(server)) => {
                    let identifier = text_of(document, CONVERSATION, "Identifier").expect("a token");
                    let client = client_entropy.take().expect("the request has it");
                    keys.session = Some((identifier, Key::new(&p_sha1(&client, &[&server], 32))));
                }
                _ => {}
            }
            let content = document.elements(opened.envelope.body).next().and_then(|node| document.text(node));
            steps.push(json!({
                "step": name,
                "action": text_of(document, ADDRESSING, "Action"),
                "user": opened.username.map(|user| user.username),
                "text": content.as_deref(),
            }));
        }
    }
    steps
}

#[test]
fn a_recorded_session_under_an_encrypted_key_is_read_by_wss4j_and_xmlsec1_and_us() {
    let folder = folder();
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        fs::create_dir_all(&folder).expect("a folder");
        record(&folder);
    }
    check("ours", &ours(&folder));
    check("xmlsec1", &xmlsec1(&folder));
    check("WSS4J", &wss4j(&folder));
    // Each of them sees one changed octet: in what is signed, and in what is encrypted.
    for (name, from) in [("2-request", "urn:echo</a:Action>"), ("3-reply", "</e:CipherValue>")] {
        let copy = tempfile::tempdir().expect("a folder");
        for file in fs::read_dir(&folder).expect("it is there").flatten() {
            fs::copy(file.path(), copy.path().join(file.file_name())).expect("copied");
        }
        let path = copy.path().join(format!("{name}.xml"));
        let text = fs::read_to_string(&path).expect("it was recorded");
        let at = text.find(from).expect("it is there") - 40 * usize::from(from.starts_with('<'));
        let mut octets = text.into_bytes();
        octets[at] = if octets[at] == b'A' { b'B' } else { b'A' };
        fs::write(path, octets).expect("written");
        for (reader, steps) in
            [("ours", ours(copy.path())), ("xmlsec1", xmlsec1(copy.path())), ("WSS4J", wss4j(copy.path()))]
        {
            let step = steps.iter().find(|step| step["step"] == name).expect("it is read");
            assert!(step["error"].is_string(), "{reader}: {step}");
        }
    }
}
