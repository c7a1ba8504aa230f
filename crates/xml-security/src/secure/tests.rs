//! Messages that are secured as they should be are opened, in every mode; messages that are not are refused,
//! for the right reason.

use super::*;
use crate::names::{self, ADDRESSING, CONVERSATION, SIGNATURE};
use crate::open::{
    ContextToken, Direction, Endorsement, Keys, NoKey, OpenError, OpenPolicy, Opened, Presence, open,
};
use crate::rsa::{DecryptionKey, SigningKey};
use crate::suite::{Cipher, Hash};
use crate::tree::Kind;
use std::collections::HashMap;
use std::sync::LazyLock;

/// A certificate with its private key.
struct Identity {
    certificate: Certificate,
    pkcs8: Vec<u8>,
}

impl Identity {
    fn new(name: &str) -> Self {
        let key = rcgen::KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, rcgen::RsaKeySize::_2048)
            .expect("a key");
        let parameters = rcgen::CertificateParams::new(vec![name.to_owned()]).expect("a name");
        let certificate = parameters.self_signed(&key).expect("a certificate");
        Self {
            certificate: Certificate::from_der(certificate.der()).expect("a certificate"),
            pkcs8: key.serialize_der(),
        }
    }

    fn signer(&self) -> SigningKey {
        SigningKey::from_pkcs8(&self.pkcs8, self.certificate.clone()).expect("an RSA key")
    }
}

static SERVICE: LazyLock<Identity> = LazyLock::new(|| Identity::new("service.example"));
static CLIENT: LazyLock<Identity> = LazyLock::new(|| Identity::new("client.example"));

const NOW: FileTime = FileTime(134_000_000_000_000_000);

/// The keys of one side, and how often RSA was used.
#[derive(Default)]
struct Side {
    contexts: HashMap<String, Key>,
    encrypted: HashMap<[u8; 20], Key>,
    private: Option<DecryptionKey>,
    unwrapped: usize,
}

impl Side {
    fn service() -> Self {
        Self {
            contexts: HashMap::from([
                ("urn:uuid:1".to_owned(), session_key()),
                ("urn:uuid:2".to_owned(), other_key()),
            ]),
            private: Some(DecryptionKey::from_pkcs8(&SERVICE.pkcs8).expect("an RSA key")),
            ..Self::default()
        }
    }
}

impl Keys for Side {
    fn context(&mut self, token: ContextToken<'_>) -> Result<Key, NoKey> {
        self.contexts.get(token.identifier).cloned().ok_or(NoKey::UnknownContext)
    }

    fn decryption_key(&mut self, recipient: &KeyReference, _: &[u8; 20]) -> Result<&DecryptionKey, NoKey> {
        assert_eq!(*recipient, KeyReference::Thumbprint(SERVICE.certificate.thumbprint()));
        self.unwrapped += 1;
        self.private.as_ref().ok_or(NoKey::Refused)
    }

    fn certificate(&mut self, reference: &KeyReference) -> Result<Certificate, NoKey> {
        let known = KeyReference::Thumbprint(CLIENT.certificate.thumbprint());
        if *reference == known { Ok(CLIENT.certificate.clone()) } else { Err(NoKey::Refused) }
    }

    fn encrypted_key(&mut self, sha1: &[u8; 20]) -> Result<Key, NoKey> {
        self.encrypted.get(sha1).cloned().ok_or(NoKey::Refused)
    }
}

fn session_key() -> Key {
    Key::new(&[1; 32])
}

fn other_key() -> Key {
    Key::new(&[2; 32])
}

fn token(identifier: &str) -> Vec<u8> {
    format!(
        "<c:SecurityContextToken xmlns:c='{}' xmlns:u='{}' u:Id='uuid-{}'><c:Identifier>{identifier}</c:Identifier></c:SecurityContextToken>",
        CONVERSATION.uri,
        UTILITY.uri,
        &identifier[9..]
    )
    .into_bytes()
}

fn count() -> impl FnMut(&mut [u8]) {
    let mut next = 0u8;
    move |octets| {
        for octet in octets {
            next = next.wrapping_mul(5).wrapping_add(17);
            *octet = next;
        }
    }
}

fn request() -> Document {
    envelope(
        "<a:Action s:mustUnderstand='1'>urn:echo</a:Action><a:MessageID>urn:uuid:9</a:MessageID>\
        <a:ReplyTo><a:Address>http://www.w3.org/2005/08/addressing/anonymous</a:Address></a:ReplyTo>\
        <a:To s:mustUnderstand='1'>http://service.example/</a:To>",
        "<m:Echo xmlns:m='urn:m'>hello</m:Echo>",
    )
}

fn reply() -> Document {
    envelope(
        "<a:Action>urn:echoResponse</a:Action><a:RelatesTo>urn:uuid:9</a:RelatesTo>",
        "<m:EchoResponse xmlns:m='urn:m'>hello</m:EchoResponse>",
    )
}

fn envelope(header: &str, body: &str) -> Document {
    parse(&format!(
        "<s:Envelope xmlns:s='{}' xmlns:a='{}' xmlns:u='{}'><s:Header>{header}</s:Header><s:Body>{body}</s:Body></s:Envelope>",
        SOAP.uri, ADDRESSING.uri, UTILITY.uri
    ))
}

fn parse(xml: &str) -> Document {
    Document::parse(xml.as_bytes(), &ParseLimits::default()).expect("well-formed")
}

fn user() -> UsernameToken {
    UsernameToken { username: "alice".to_owned(), password: "secret & more".to_owned().into() }
}

const SUITES: [Suite; 8] = {
    const fn of(cipher: Cipher, hash: Hash) -> Suite {
        Suite { cipher, hash }
    }
    [
        Suite::BASIC256,
        Suite::BASIC256_SHA256,
        of(Cipher::Aes192, Hash::Sha1),
        of(Cipher::Aes192, Hash::Sha256),
        of(Cipher::Aes128, Hash::Sha1),
        of(Cipher::Aes128, Hash::Sha256),
        of(Cipher::TripleDes, Hash::Sha1),
        of(Cipher::TripleDes, Hash::Sha256),
    ]
};

fn body_text(opened: &Opened) -> String {
    let child = opened.document.elements(opened.envelope.body).next().expect("a child");
    opened.document.text(child).expect("a text").into_owned()
}

#[test]
fn every_mode_opens_in_both_directions() {
    let signer = CLIENT.signer();
    let user = user();
    let [first, second] = ["urn:uuid:1", "urn:uuid:2"].map(token);
    for suite in SUITES {
        let (session, other) = (session_key(), other_key());
        let session = Key::new(&session.expose()[..suite.key_len()]);
        for is_context in [true, false] {
            let token = if is_context {
                ProtectionToken::CarriedContext { element: &first, key: &session }
            } else {
                ProtectionToken::EncryptTo(&SERVICE.certificate)
            };
            for credential in ["none", "user", "certificate", "context"] {
                let mut policy = SecurePolicy::new(suite, token, NOW);
                let mut expected = OpenPolicy::request(suite, NOW);
                match credential {
                    "user" => (policy.username, expected.username) = (Some(&user), Presence::Required),
                    "certificate" => policy.endorse = Some(EndorseWith::Signer(&signer)),
                    "context" => {
                        policy.endorse = Some(EndorseWith::Context { element: &second, key: &other })
                    }
                    _ => {}
                }
                if policy.endorse.is_some() {
                    expected.endorsing = Presence::Required;
                }
                let sent = secure(request(), &policy, &mut count()).expect("it can be secured");
                let mut service = Side::service();
                service.contexts.insert("urn:uuid:1".to_owned(), session.clone());
                let opened =
                    open(&sent.octets, &expected, &mut service, &mut count()).unwrap_or_else(|error| {
                        panic!("{suite:?} {credential}: {error:?}: {}", String::from_utf8_lossy(&sent.octets))
                    });
                assert_eq!(body_text(&opened), "hello");
                assert_eq!(opened.username.is_some(), credential == "user");
                assert_eq!(opened.token, sent.token);
                assert_eq!(opened.key.expose(), sent.key.expose());
                assert_eq!(opened.signature_values, sent.signature_values);
                assert_eq!(opened.replay_until, NOW + Duration::from_secs(300));
                assert_eq!(service.unwrapped, usize::from(!is_context));
                match (&opened.endorsement, credential) {
                    (Some(Endorsement::Certificate(found)), "certificate") => {
                        assert_eq!(*found, CLIENT.certificate)
                    }
                    (Some(Endorsement::Token(found)), "context") => assert!(
                        matches!(found, TokenName::Context { identifier, .. } if identifier == "urn:uuid:2")
                    ),
                    (None, "none" | "user") => {}
                    other => panic!("{other:?}"),
                }

                let confirms = if is_context { &[][..] } else { &opened.signature_values[..] };
                let named = ProtectionToken::Named { name: &opened.token, key: &opened.key };
                let policy = SecurePolicy { confirms, ..SecurePolicy::new(suite, named, NOW) };
                let answer = secure(reply(), &policy, &mut count()).expect("it can be secured");
                let mut client = Side::default();
                match &sent.token {
                    TokenName::EncryptedKey(hash) => drop(client.encrypted.insert(*hash, sent.key.clone())),
                    TokenName::Context { identifier, .. } => {
                        drop(client.contexts.insert(identifier.clone(), sent.key.clone()));
                    }
                }
                let direction =
                    Direction::Reply { confirms: (!is_context).then_some(&sent.signature_values[..]) };
                let expected = OpenPolicy { direction, ..OpenPolicy::request(suite, NOW) };
                let opened = open(&answer.octets, &expected, &mut client, &mut count());
                assert_eq!(body_text(&opened.expect("it is secured")), "hello");
            }
        }
    }
}

/// Secures a request with a user name under Basic256 and a SecurityContextToken.
fn secured(steps: &mut dyn Steps) -> String {
    secured_document(request(), steps)
}

fn secured_document(document: Document, steps: &mut dyn Steps) -> String {
    let (user, key, element) = (user(), session_key(), token("urn:uuid:1"));
    let token = ProtectionToken::CarriedContext { element: &element, key: &key };
    let policy = SecurePolicy { username: Some(&user), ..SecurePolicy::new(Suite::BASIC256, token, NOW) };
    let sent = secure_in_steps(document, &policy, &mut count(), steps).expect("it can be secured");
    String::from_utf8(sent.octets).expect("UTF-8")
}

fn opened(message: &str) -> Result<Opened, OpenError> {
    let policy = OpenPolicy { username: Presence::Required, ..OpenPolicy::request(Suite::BASIC256, NOW) };
    open(message.as_bytes(), &policy, &mut Side::service(), &mut count())
}

fn reason(message: &str) -> Reason {
    match opened(message) {
        Ok(_) => panic!("it was opened: {message}"),
        Err(OpenError::UnknownContext) => panic!("a context is not known"),
        Err(OpenError::Rejected(rejected)) => {
            assert_eq!(rejected.to_string(), "the message is not secured as it has to be");
            rejected.reason().clone()
        }
    }
}

/// Runs a closure when all is signed and nothing is encrypted yet.
struct Tamper<F>(F);

impl<F: FnMut(&mut Document, &mut Vec<(NodeId, PartType)>)> Steps for Tamper<F> {
    fn before_encryption(&mut self, document: &mut Document, parts: &mut Vec<(NodeId, PartType)>) {
        (self.0)(document, parts);
    }
}

/// Runs a closure before anything is signed.
struct Unsigned<F>(F);

impl<F: FnMut(&mut Document, &mut Vec<(NodeId, String)>)> Steps for Unsigned<F> {
    fn before_signing(&mut self, document: &mut Document, targets: &mut Vec<(NodeId, String)>) {
        (self.0)(document, targets);
    }
}

fn tampered(change: impl FnMut(&mut Document, &mut Vec<(NodeId, PartType)>)) -> Reason {
    reason(&secured(&mut Tamper(change)))
}

fn find(document: &Document, name: Name<'_>) -> NodeId {
    let mut found = document.descendants(document.root()).filter(|node| document.is(*node, name));
    found.next().unwrap_or_else(|| panic!("there is no {}", name.local))
}

fn set_text(document: &mut Document, node: NodeId, text: &str) {
    document.clear(node);
    document.append_text(node, text);
}

#[test]
fn it_opens_when_nothing_is_tampered_with() {
    let opened = opened(&secured(&mut ())).expect("it is secured");
    assert_eq!(opened.username, Some(user()));
    assert_eq!(opened.signed.len(), 1 + 4 + 1 + 1, "body, addressing, timestamp, user name");
    assert_eq!(opened.replay_key(), opened.signature_values[0]);
}

#[test]
fn what_was_signed_cannot_be_changed() {
    for name in [
        ADDRESSING.name("Action"),
        ADDRESSING.name("To"),
        ADDRESSING.name("MessageID"),
        ADDRESSING.name("Address"),
        UTILITY.name("Created"),
        SECURITY.name("Username"),
        SECURITY.name("Password"),
        Name { prefix: "m", namespace: "urn:m", local: "Echo" },
        SIGNATURE.name("DigestValue"),
    ] {
        let changed = tampered(|document, _| {
            let node = find(document, name);
            let text = match name.local {
                "Created" => format_time(NOW - Duration::from_secs(1)),
                "DigestValue" => "AAAAAAAAAAAAAAAAAAAAAAAAAAA=".to_owned(),
                _ => "other".to_owned(),
            };
            set_text(document, node, &text);
        });
        assert_eq!(changed, Reason::Digest, "{}", name.local);
    }
    let changed = tampered(|document, _| {
        let node = find(document, SIGNATURE.name("SignatureValue"));
        set_text(document, node, "AAAAAAAAAAAAAAAAAAAAAAAAAAA=");
    });
    assert_eq!(changed, Reason::Signature);
}

#[test]
fn everything_that_matters_has_to_be_signed() {
    for (name, what) in [
        (SOAP.name("Body"), "s:Body"),
        (UTILITY.name("Timestamp"), "u:Timestamp"),
        (SECURITY.name("UsernameToken"), "o:UsernameToken"),
        (ADDRESSING.name("Action"), "a header of WS-Addressing"),
        (ADDRESSING.name("To"), "a header of WS-Addressing"),
        (ADDRESSING.name("MessageID"), "a header of WS-Addressing"),
        (ADDRESSING.name("ReplyTo"), "a header of WS-Addressing"),
    ] {
        let message =
            secured(&mut Unsigned(|document: &mut Document, targets: &mut Vec<(NodeId, String)>| {
                targets.retain(|(node, _)| !document.is(*node, name));
            }));
        assert_eq!(reason(&message), Reason::NotProtected(what));
    }
    for local in ["Action", "To"] {
        let message =
            secured(&mut Unsigned(|document: &mut Document, targets: &mut Vec<(NodeId, String)>| {
                targets.retain(|(node, _)| !document.is(*node, ADDRESSING.name(local)));
                let node = find(document, ADDRESSING.name(local));
                document.detach(node);
            }));
        assert_eq!(reason(&message), Reason::Shape("headers of WS-Addressing"), "{local}");
    }
}

#[test]
fn what_matters_has_to_be_encrypted() {
    for (name, expected) in [
        (SOAP.name("Body"), Reason::NotProtected("s:Body")),
        (SECURITY.name("UsernameToken"), Reason::NotProtected("o:UsernameToken")),
        (SIGNATURE.name("Signature"), Reason::NotProtected("the signature")),
    ] {
        let found = tampered(|document, parts| parts.retain(|(node, _)| !document.is(*node, name)));
        assert_eq!(found, expected);
    }
}

/// McIntosh and Austel, "XML signature element wrapping attacks and countermeasures" (2005), and what came
/// after it.
#[test]
fn signed_elements_count_only_in_their_places() {
    // The signed body below a header, and another body in its place: sent by a party that can encrypt.
    let wrapped_body = |new_id: Option<&'static str>| {
        move |document: &mut Document, parts: &mut Vec<(NodeId, PartType)>| {
            let body = find(document, SOAP.name("Body"));
            let header = find(document, SOAP.name("Header"));
            document.detach(body);
            let wrapper =
                document.append_element(header, Name { prefix: "w", namespace: "urn:w", local: "Wrapper" });
            document.attach(wrapper, body);
            let root = document.root();
            let evil = document.append_element(root, SOAP.name("Body"));
            document.append_text_element(
                evil,
                Name { prefix: "m", namespace: "urn:m", local: "Echo" },
                "evil",
            );
            if let Some(id) = new_id {
                document.set_attribute(evil, UTILITY_ID, id);
            }
            parts[0] = (evil, PartType::Content);
        }
    };
    assert_eq!(tampered(wrapped_body(None)), Reason::NotProtected("s:Body"));
    assert_eq!(tampered(wrapped_body(Some("_99"))), Reason::NotProtected("s:Body"));
    assert_eq!(tampered(wrapped_body(Some("_0"))), Reason::Id);

    // The same with headers, the timestamp and the user name.
    for (name, text, expected) in [
        (ADDRESSING.name("To"), "http://evil.example/", "a header of WS-Addressing"),
        (ADDRESSING.name("Action"), "urn:delete", "a header of WS-Addressing"),
        (UTILITY.name("Timestamp"), "", "u:Timestamp"),
        (SECURITY.name("UsernameToken"), "", "o:UsernameToken"),
    ] {
        let found = tampered(|document, parts| {
            let node = find(document, name);
            let parent = document.parent(node).expect("it is in the document");
            let header = find(document, SOAP.name("Header"));
            document.detach(node);
            let wrapper =
                document.append_element(header, Name { prefix: "w", namespace: "urn:w", local: "Wrapper" });
            document.declare(wrapper, SECURITY.prefix, SECURITY.uri);
            document.attach(wrapper, node);
            let evil = document.append_element(parent, name);
            match name.local {
                "Timestamp" => {
                    document.append_text_element(evil, UTILITY.name("Created"), &format_time(NOW));
                    document.append_text_element(
                        evil,
                        UTILITY.name("Expires"),
                        &format_time(NOW + Duration::from_secs(1)),
                    );
                }
                "UsernameToken" => {
                    document.append_text_element(evil, SECURITY.name("Username"), "bob");
                    document.append_text_element(evil, SECURITY.name("Password"), "x");
                    for part in parts.iter_mut().filter(|(part, _)| *part == node) {
                        part.0 = evil;
                    }
                }
                _ => document.append_text(evil, text),
            }
        });
        assert_eq!(found, Reason::NotProtected(expected), "{}", name.local);
    }
}

#[test]
fn structure_is_unique() {
    let message = secured(&mut ());
    let body =
        &message[message.find("<s:Body").expect("a body")..message.find("</s:Envelope>").expect("an end")];
    let to = "<a:To s:mustUnderstand=\"1\">http://evil.example/</a:To>";
    for (from, into, expected) in [
        // Two bodies, a body in the header, a body in a body.
        (body.to_owned(), format!("{body}<s:Body/>"), Reason::Shape("s:Envelope")),
        (body.to_owned(), format!("<s:Body/>{body}"), Reason::Shape("s:Envelope")),
        (
            body.to_owned(),
            format!("<s:Body>{body}</s:Body>"),
            Reason::Shape("the place of an e:EncryptedData"),
        ),
        ("</s:Header>".to_owned(), format!("<w>{body}</w></s:Header>"), Reason::Id),
        // The encrypted body moved away by an observer.
        (body.to_owned(), "<s:Body/>".to_owned(), Reason::Reference("e:ReferenceList")),
        (
            "</s:Header>".to_owned() + body,
            format!("<w>{body}</w></s:Header><s:Body/>"),
            Reason::Shape("the place of an e:EncryptedData"),
        ),
        // Headers twice.
        ("<s:Header>".to_owned(), format!("<s:Header>{to}"), Reason::Shape("headers of WS-Addressing")),
        (
            "</s:Header>".to_owned(),
            format!("<o:Security xmlns:o='{}'/></s:Header>", SECURITY.uri),
            Reason::Shape("o:Security"),
        ),
        ("<s:Header>".to_owned(), "<s:Header/><s:Header>".to_owned(), Reason::Shape("s:Envelope")),
        // Something else beside the encrypted content.
        (
            "<s:Body u:Id=\"_0\">".to_owned(),
            "<s:Body u:Id=\"_0\">x".to_owned(),
            Reason::Shape("the place of an e:EncryptedData"),
        ),
    ] {
        assert!(message.contains(&from), "{from} is in the message");
        assert_eq!(reason(&message.replacen(&from, &into, 1)), expected, "{into}");
    }
}

#[test]
fn ids_are_unambiguous() {
    let message = secured(&mut ());
    for (from, into) in [
        // An id twice, on the elements that may have one.
        ("<u:Timestamp ", "<w xmlns='urn:w' u:Id='_0'/><u:Timestamp "),
        ("<s:Header>", "<s:Header><x xmlns='urn:x' u:Id='_0'/>"),
        ("<s:Header>", "<s:Header><x xmlns='http://www.w3.org/2000/09/xmldsig#' Id='_0'/>"),
        ("<s:Header>", "<s:Header><x xmlns='http://www.w3.org/2001/04/xmlenc#' Id='_0'/>"),
        // Attributes that other readers take for ids.
        ("<s:Header>", "<s:Header><x xml:id='_0'/>"),
        ("<s:Header>", "<s:Header><x xml:id='other'/>"),
        ("<s:Header>", "<s:Header><x xmlns:z='urn:z' z:Id='_0'/>"),
        ("<s:Header>", "<s:Header><x xmlns:z='urn:z' z:ID='other'/>"),
        ("<s:Header>", "<s:Header><x u:id='other'/>"),
        ("<s:Body u:Id=\"_0\"", "<s:Body u:Id=\"_0\" xml:id='_0'"),
        ("<s:Body u:Id=\"_0\"", "<s:Body xml:id='_0'"),
        // No names, and two on one element.
        ("<s:Header>", "<s:Header><x u:Id=''/>"),
        ("<s:Header>", "<s:Header><x u:Id='1'/>"),
        ("<s:Header>", "<s:Header><x u:Id='a b'/>"),
        ("<s:Header>", "<s:Header><x u:Id='xpointer(/)'/>"),
        ("<s:Header>", "<s:Header><x xmlns='http://www.w3.org/2000/09/xmldsig#' Id='x' u:Id='y'/>"),
    ] {
        assert!(message.contains(from), "{from}");
        assert_eq!(reason(&message.replacen(from, into, 1)), Reason::Id, "{into}");
    }
    // Mono's ids have colons.
    let colons = message.replace("\"_0\"", "\"urn:uuid:0\"").replace("#_0", "#urn:uuid:0");
    assert_ne!(colons, message);
    assert_ne!(reason(&colons), Reason::Id, "the signature covers the id");
    // Without an id that counts there is nothing that the reference leads to.
    for (from, into) in [("<s:Body u:Id=\"_0\"", "<s:Body Id='_0'"), ("<s:Body u:Id=\"_0\"", "<s:Body")] {
        assert_eq!(reason(&message.replacen(from, into, 1)), Reason::Reference("a signature"), "{into}");
    }
    // Ids that come out of decryption count.
    let found = tampered(|document, _| {
        let echo = find(document, Name { prefix: "m", namespace: "urn:m", local: "Echo" });
        document.set_attribute(echo, UTILITY_ID, "_0");
    });
    assert_eq!(found, Reason::Id);
    // Application data may have attributes of its own.
    let application = "<m:Echo xmlns:m='urn:m' Id='_0' xmlns:z='urn:z' z:Id='i1' xml:id='x'>hello</m:Echo>";
    let document = envelope("<a:Action>urn:x</a:Action><a:To>urn:y</a:To>", application);
    opened(&secured_document(document, &mut ())).expect("they are no ids");
}

#[test]
fn signatures_have_one_shape() {
    let inclusive = "http://www.w3.org/TR/2001/REC-xml-c14n-20010315";
    type Change = Box<dyn FnMut(&mut Document)>;
    let algorithm = |local: &'static str, uri: &'static str| -> Change {
        Box::new(move |document| {
            let node = find(document, SIGNATURE.name(local));
            document.set_attribute(node, Name::plain("Algorithm"), uri);
        })
    };
    let copy = |local: &'static str| -> Change {
        Box::new(move |document| {
            let node = find(document, SIGNATURE.name(local));
            let parent = document.parent(node).expect("it has one");
            let xml = document.extract(node).expect("it can be written");
            let nodes = document.parse_inside(parent, &xml, &ParseLimits::default()).expect("well-formed");
            document.attach(parent, nodes[0]);
        })
    };
    let add = |below: &'static str, local: &'static str, text: &'static str| -> Change {
        Box::new(move |document| {
            let node = find(document, SIGNATURE.name(below));
            document.append_text_element(node, SIGNATURE.name(local), text);
        })
    };
    let shape = Reason::Shape("Signature");
    let transform = Reason::Algorithm("canonicalisation or transform");
    let changes: Vec<(Change, Reason)> = vec![
        (copy("SignedInfo"), shape.clone()),
        (copy("SignatureValue"), shape.clone()),
        (copy("KeyInfo"), shape.clone()),
        (copy("Transform"), shape.clone()),
        (copy("DigestValue"), shape.clone()),
        (add("Signature", "Object", ""), shape.clone()),
        (add("SignedInfo", "Manifest", ""), Reason::Shape("Reference of a signature")),
        // CVE-2009-0217.
        (add("SignatureMethod", "HMACOutputLength", "8"), Reason::Algorithm("SignatureMethod")),
        (add("SignatureMethod", "HMACOutputLength", "160"), Reason::Algorithm("SignatureMethod")),
        (add("DigestMethod", "x", ""), Reason::Algorithm("DigestMethod")),
        (add("Transform", "XPath", "ancestor::x"), transform.clone()),
        (algorithm("CanonicalizationMethod", inclusive), transform.clone()),
        (
            algorithm("CanonicalizationMethod", "http://www.w3.org/2001/10/xml-exc-c14n#WithComments"),
            transform.clone(),
        ),
        (algorithm("Transform", "http://www.w3.org/2000/09/xmldsig#enveloped-signature"), transform.clone()),
        (algorithm("Transform", "http://www.w3.org/TR/1999/REC-xslt-19991116"), transform.clone()),
        (
            algorithm(
                "Transform",
                "http://docs.oasis-open.org/wss/2004/01/oasis-200401-wss-soap-message-security-1.0#STR-Transform",
            ),
            transform,
        ),
        (algorithm("SignatureMethod", names::HMAC_SHA256), Reason::Algorithm("SignatureMethod")),
        (
            algorithm("SignatureMethod", "http://www.w3.org/2001/04/xmldsig-more#hmac-md5"),
            Reason::Algorithm("SignatureMethod"),
        ),
        (algorithm("SignatureMethod", names::RSA_SHA1), Reason::Algorithm("SignatureMethod")),
        (algorithm("DigestMethod", names::SHA256), Reason::Algorithm("DigestMethod")),
        (
            Box::new(|document| {
                let node = find(document, SIGNATURE.name("SignatureValue"));
                let value = document.base64(node).expect("base64");
                document.clear(node);
                document.append_base64(node, &value[..10]);
            }),
            Reason::Signature,
        ),
        (
            Box::new(|document| {
                let node = find(document, SIGNATURE.name("SignatureValue"));
                document.clear(node);
            }),
            Reason::Signature,
        ),
    ];
    for (at, (mut change, expected)) in changes.into_iter().enumerate() {
        assert_eq!(tampered(|document, _| change(document)), expected, "change {at}");
    }
    for uri in ["", "#", "_0", "#xpointer(/)", "#xpointer(id('_0'))", "cid:_0", "http://x/#_0", "#_77"] {
        let found = tampered(|document, _| {
            let node = find(document, SIGNATURE.name("Reference"));
            document.set_attribute(node, Name::plain("URI"), uri);
        });
        assert_eq!(found, Reason::Reference("a signature"), "{uri}");
    }
    let found = tampered(|document, _| {
        let node = find(document, SIGNATURE.name("SignedInfo"));
        for _ in 0..32 {
            document.append_element(node, SIGNATURE.name("Reference"));
        }
    });
    assert_eq!(found, Reason::TooMany("references of a signature"));
}

/// What one octet of a message may cost is limited before a signature is known to be good.
#[test]
fn small_messages_do_not_cost_as_much_as_many() {
    // The same element, or one inside another, is not digested twice.
    for add in [SOAP.name("Body"), ADDRESSING.name("Address"), SOAP.name("Envelope")] {
        let message =
            secured(&mut Unsigned(|document: &mut Document, targets: &mut Vec<(NodeId, String)>| {
                let node = find(document, add);
                if document.id_of(node).is_none() {
                    document.set_attribute(node, UTILITY_ID, "more");
                }
                targets.push((node, document.id_of(node).expect("an id").to_owned()));
            }));
        assert_eq!(reason(&message), Reason::Reference("a signature"), "{}", add.local);
    }
    let message = secured(&mut ());
    let headers = |count: usize| {
        let headers: String = (0..count).map(|n| format!("<a:x{n}/>")).collect();
        message.replacen("<s:Header>", &format!("<s:Header>{headers}"), 1)
    };
    assert_eq!(reason(&headers(12)), Reason::NotProtected("a header of WS-Addressing"));
    assert_eq!(reason(&headers(13)), Reason::TooMany("headers of WS-Addressing"));
    // Values whose prefix is used by a name around them, behind many others.
    let attributes: String = (0..60).map(|n| format!(" a{n}=''")).collect();
    let nested = |count: usize| {
        let open = format!("<x{attributes}>").repeat(40);
        let inside = "<y>b:z</y>".repeat(count);
        let body = format!("<b:x>{open}{inside}{}</b:x>", "</x>".repeat(40));
        let document = envelope("<a:Action>urn:x</a:Action><a:To>urn:y</a:To>", "");
        let mut xml = String::from_utf8(document.write().expect("writable")).expect("UTF-8");
        xml = xml.replacen("<s:Body/>", &format!("<s:Body>{body}</s:Body>"), 1).replacen(
            "<s:Envelope",
            "<s:Envelope xmlns:b='urn:b'",
            1,
        );
        secured_document(parse(&xml), &mut ())
    };
    opened(&nested(100)).expect("some of them");
    assert_eq!(reason(&nested(1000)), Reason::TooMany("values with prefixes"));
}

#[test]
fn comments_and_sections_do_not_cut_values() {
    // The digest is over the whole text, and the whole text is read.
    let document = envelope(
        "<a:Action>urn:x</a:Action><a:To>urn:y</a:To>",
        "<m:Echo xmlns:m='urn:m'>good<!-- x --><![CDATA[bye]]>&#33;</m:Echo>",
    );
    assert_eq!(body_text(&opened(&secured_document(document, &mut ())).expect("it is secured")), "goodbye!");
    // In a message on its way: a comment in an unencrypted header changes nothing, an element does.
    let message = secured(&mut ());
    let with = |inside: &str| {
        message.replacen("http://service.example/", &format!("http://ser{inside}vice.example/"), 1)
    };
    let opened = opened(&with("<!-- x -->")).expect("comments are not signed");
    let to = opened.envelope.addressing(&opened.document, "To").expect("it is there");
    assert_eq!(opened.document.text(to).as_deref(), Some("http://service.example/"));
    assert_eq!(reason(&with("<x xmlns=''/>")), Reason::Digest);
    assert_eq!(reason(&with("<?x?>")), Reason::Xml(crate::parse::XmlError::ProcessingInstruction));
}

#[test]
fn encrypted_parts_are_listed_each_once_and_few() {
    let message = secured(&mut ());
    let first = message.find("<e:DataReference").expect("a reference");
    let end = first + message[first..].find("/>").expect("an end") + 2;
    let reference = &message[first..end];
    let not_listed = Reason::Reference("e:EncryptedData");
    assert_eq!(reason(&message.replacen(reference, "", 1)), not_listed);
    let twice = message.replacen(reference, &reference.repeat(2), 1);
    assert_eq!(reason(&twice), Reason::Reference("e:ReferenceList"));
    let elsewhere = message.replacen(reference, &reference.replace("URI=\"#", "URI=\"#x"), 1);
    assert_eq!(reason(&elsewhere), Reason::Reference("e:ReferenceList"));
    let as_key = message.replacen(reference, &reference.replace("DataReference", "KeyReference"), 1);
    assert_eq!(reason(&as_key), Reason::Reference("e:ReferenceList"));

    let more = |count: usize| {
        secured(&mut Tamper(|document: &mut Document, parts: &mut Vec<(NodeId, PartType)>| {
            let security = find(document, SECURITY.name("Security"));
            for _ in 0..count {
                let node = document.append_element(security, SECURITY_11.name("SignatureConfirmation"));
                parts.push((node, PartType::Element));
            }
        }))
    };
    // Three parts are there; eight are read and refused for what they are, nine are not read.
    assert_eq!(reason(&more(5)), Reason::NotProtected("k:SignatureConfirmation"));
    assert_eq!(reason(&more(6)), Reason::TooMany("encrypted parts"));
}

#[test]
fn encrypted_parts_have_one_shape() {
    let message = secured(&mut ());
    for (from, into, expected) in [
        (Cipher::Aes256.uri(), Cipher::Aes128.uri(), Reason::Algorithm("e:EncryptedData")),
        (
            Cipher::Aes256.uri(),
            "http://www.w3.org/2009/xmlenc11#aes256-gcm",
            Reason::Algorithm("e:EncryptedData"),
        ),
        (names::TYPE_CONTENT, "urn:other", Reason::Shape("e:EncryptedData")),
        (names::TYPE_CONTENT, names::TYPE_ELEMENT, Reason::Shape("the place of an e:EncryptedData")),
        (names::TYPE_ELEMENT, names::TYPE_CONTENT, Reason::Shape("the place of an e:EncryptedData")),
        (
            "<e:CipherValue>",
            "<e:CipherReference URI=\"http://x/\"/><e:CipherValue>",
            Reason::Shape("e:EncryptedData"),
        ),
        ("<e:CipherData>", "<e:EncryptionProperties/><e:CipherData>", Reason::Shape("e:EncryptedData")),
        ("<e:CipherValue>", "<e:CipherValue>!", Reason::Shape("e:EncryptedData")),
        ("<e:CipherValue>", "<e:CipherValue><!-- x --><x/>", Reason::Shape("e:EncryptedData")),
    ] {
        assert!(message.contains(from), "{from}");
        assert_eq!(reason(&message.replacen(from, into, 1)), expected, "{into}");
    }
    // Base64 with line ends and a comment is the same base64.
    opened(&message.replacen("<e:CipherValue>", "<e:CipherValue>\r\n<!-- x -->", 1))
        .expect("the same octets");
}

#[test]
fn decrypted_content_is_not_encrypted_again_and_not_large() {
    let found = tampered(|document, _| {
        let body = find(document, SOAP.name("Body"));
        document.clear(body);
        document.append_element(body, ENCRYPTION.name("EncryptedData"));
    });
    assert_eq!(found, Reason::Shape("decrypted content: encrypted again"));
    let found = tampered(|document, _| {
        let body = find(document, SOAP.name("Body"));
        document.clear(body);
        let deep = document.append_element(body, Name::plain("x"));
        document.append_element(deep, ENCRYPTION.name("EncryptedKey"));
    });
    assert_eq!(found, Reason::Shape("decrypted content: encrypted again"));
    let found = tampered(|document, parts| {
        // An element that a decrypted part may not be.
        let security = find(document, SECURITY.name("Security"));
        let node = document.append_element(security, CONVERSATION.name("SecurityContextToken"));
        document.set_attribute(node, UTILITY_ID, "late");
        parts.push((node, PartType::Element));
    });
    assert_eq!(found, Reason::Shape("a decrypted element"));

    let large =
        envelope("<a:Action>urn:x</a:Action><a:To>urn:y</a:To>", &format!("<x>{}</x>", "y".repeat(20_000)));
    let message = secured_document(large, &mut ());
    let limits = |octets| OpenPolicy {
        username: Presence::Required,
        limits: ParseLimits { octets, ..ParseLimits::default() },
        ..OpenPolicy::request(Suite::BASIC256, NOW)
    };
    let open_with = |octets| open(message.as_bytes(), &limits(octets), &mut Side::service(), &mut count());
    open_with(message.len()).expect("as large as may be");
    assert!(open_with(message.len() - 1).is_err());
    // Elements and depth are counted over what is decrypted, too.
    let few = |nodes, depth| OpenPolicy {
        username: Presence::Required,
        limits: ParseLimits { nodes, depth, ..ParseLimits::default() },
        ..OpenPolicy::request(Suite::BASIC256, NOW)
    };
    let document = || {
        envelope(
            "<a:Action>urn:x</a:Action><a:To>urn:y</a:To>",
            &format!("{}{}", "<x>".repeat(30), "</x>".repeat(30)),
        )
    };
    let message = secured_document(document(), &mut ());
    let open_few = |nodes, depth| {
        open(message.as_bytes(), &few(nodes, depth), &mut Side::service(), &mut count())
            .map(|opened| opened.document.len())
    };
    let nodes = open_few(1000, 32).expect("as deep as may be");
    open_few(nodes, 32).expect("as many as may be");
    for (nodes, depth) in [(1000, 31), (nodes - 1, 32)] {
        assert!(
            matches!(open_few(nodes, depth), Err(OpenError::Rejected(rejected)) if matches!(rejected.reason(), Reason::Xml(_)))
        );
    }
}

#[test]
fn every_failure_behind_decryption_looks_the_same() {
    let message = secured(&mut ());
    let cipher = message.find("<e:CipherValue>").expect("a value") + "<e:CipherValue>".len();
    let mut reasons = Vec::new();
    // The first octet of each base64 group of the first part, so that vector, blocks and padding are hit.
    let end = cipher + message[cipher..].find('<').expect("an end");
    for at in (cipher..end - 4).step_by(4) {
        let mut changed = message.clone().into_bytes();
        changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
        match opened(std::str::from_utf8(&changed).expect("ASCII")) {
            Ok(opened) => assert_eq!(body_text(&opened), "hello"),
            Err(OpenError::UnknownContext) => panic!("the context is known"),
            Err(OpenError::Rejected(rejected)) => {
                assert_eq!(rejected.to_string(), "the message is not secured as it has to be");
                let expected = TokenName::Context { identifier: "urn:uuid:1".to_owned(), instance: None };
                assert_eq!(rejected.token(), Some(&expected), "failures are counted for the token");
                reasons.push(std::mem::discriminant(rejected.reason()));
            }
        }
    }
    reasons.dedup();
    assert!(reasons.len() > 1, "there are several reasons, and one answer");
}

#[test]
fn a_wrapped_key_that_is_wrong_fails_as_any_wrong_key() {
    let token = ProtectionToken::EncryptTo(&SERVICE.certificate);
    let policy = SecurePolicy::new(Suite::BASIC256, token, NOW);
    let sent = secure(request(), &policy, &mut count()).expect("it can be secured");
    let message = String::from_utf8(sent.octets).expect("UTF-8");
    let start = message.find("<e:CipherValue>").expect("the wrapped key") + 15;
    let end = start + message[start..].find('<').expect("an end");
    let expected = OpenPolicy::request(Suite::BASIC256, NOW);
    open(message.as_bytes(), &expected, &mut Side::service(), &mut count()).expect("it is secured");

    // Changed octets, a key of another length under the same certificate, and no RSA octets at all.
    let short = encode_base64(&SERVICE.certificate.wrap(&Key::new(&[1; 16])).expect("it can be wrapped"));
    let mut changed = message[start..end].to_owned().into_bytes();
    changed[20] = if changed[20] == b'A' { b'B' } else { b'A' };
    for wrapped in [String::from_utf8(changed).expect("ASCII"), short, "AAAA".to_owned(), String::new()] {
        let message = format!("{}{wrapped}{}", &message[..start], &message[end..]);
        let mut service = Side::service();
        // Other random octets than those of the client.
        let mut random = |octets: &mut [u8]| octets.fill(9);
        let error =
            open(message.as_bytes(), &expected, &mut service, &mut random).expect_err("the key is wrong");
        let OpenError::Rejected(rejected) = error else { panic!("no context") };
        assert!(matches!(rejected.token(), Some(TokenName::EncryptedKey(_))));
        assert!(
            matches!(rejected.reason(), Reason::Decryption | Reason::Xml(_) | Reason::Shape(_)),
            "{rejected:?}"
        );
        assert_eq!(service.unwrapped, 1);
    }
    // Without a key nothing is unwrapped.
    let mut service = Side { private: None, ..Side::service() };
    let error = open(message.as_bytes(), &expected, &mut service, &mut count()).expect_err("no key");
    assert!(matches!(error, OpenError::Rejected(rejected) if *rejected.reason() == Reason::Key("the token")));
}

#[test]
fn key_that_is_not_wrapped_by_oaep_with_sha_1_is_not_unwrapped() {
    let token = ProtectionToken::EncryptTo(&SERVICE.certificate);
    let policy = SecurePolicy::new(Suite::BASIC256, token, NOW);
    let sent = secure(request(), &policy, &mut count()).expect("it can be secured");
    let message = String::from_utf8(sent.octets).expect("UTF-8");
    let (before, key) = message.split_once("<e:EncryptedKey").expect("it has one");
    let digest = "http://www.w3.org/2000/09/xmldsig#sha1";
    for (from, into) in [
        // XML Encryption, 5.5.1 and 5.5.2.
        (names::RSA_OAEP, "http://www.w3.org/2001/04/xmlenc#rsa-1_5"),
        (names::RSA_OAEP, "http://www.w3.org/2009/xmlenc11#rsa-oaep"),
        (digest, "http://www.w3.org/2001/04/xmlenc#sha256"),
    ] {
        let end = key.find("</e:EncryptionMethod>").expect("it has children");
        assert!(key[..end].contains(from), "{key}");
        let message = format!("{before}<e:EncryptedKey{}", key.replacen(from, into, 1));
        let mut service = Side::service();
        let expected = OpenPolicy::request(Suite::BASIC256, NOW);
        let error = open(message.as_bytes(), &expected, &mut service, &mut count()).expect_err(into);
        let OpenError::Rejected(rejected) = error else { panic!("no context") };
        assert_eq!(*rejected.reason(), Reason::Algorithm("e:EncryptedKey"), "{into}");
        assert_eq!(service.unwrapped, 0, "{into}");
    }
}

#[test]
fn keys_belong_to_the_token_that_protects() {
    let message = secured(&mut ());
    let unknown = message.replacen("urn:uuid:1", "urn:uuid:3", 1);
    assert_eq!(opened(&unknown).expect_err("not known"), OpenError::UnknownContext);
    // The key of another context is a wrong key.
    let other = message.replacen("urn:uuid:1", "urn:uuid:2", 1);
    assert!(matches!(reason(&other), Reason::Decryption | Reason::Xml(_) | Reason::Shape(_)));
    // The signature's key from one context, the encryption's from another.
    let second = String::from_utf8(token("urn:uuid:2")).expect("UTF-8");
    let start = message.find("<c:DerivedKeyToken").expect("a token");
    let mixed =
        format!("{}{second}{}", &message[..start], message[start..].replacen("#uuid-1", "#uuid-2", 1));
    assert_eq!(reason(&mixed), Reason::Key("the signature"));
    // Derived from a derived key; a context used directly; derived keys too short for the suite.
    let id = |at: usize| {
        let found = message.match_indices("<c:DerivedKeyToken").nth(at).expect("a token").0;
        let start = found + message[found..].find("u:Id=\"").expect("an id") + 6;
        message[start..start + message[start..].find('"').expect("an end")].to_owned()
    };
    let chained = message.replacen("URI=\"#uuid-1\"", &format!("URI=\"#{}\"", id(1)), 1);
    assert_eq!(reason(&chained), Reason::Reference("c:DerivedKeyToken"));
    let direct = message.replace(&format!("URI=\"#{}\"", id(1)), "URI=\"#uuid-1\"");
    assert_eq!(reason(&direct), Reason::Reference("KeyInfo"));
    let short = message.replacen("<c:Length>24</c:Length>", "<c:Length>16</c:Length>", 1);
    assert_eq!(reason(&short), Reason::Key("the signature"));
    let tiny = message.replacen("<c:Length>24</c:Length>", "<c:Length>1</c:Length>", 1);
    assert_eq!(reason(&tiny), Reason::TooMany("octets of a derived key, or too few"));
    // Many derived keys.
    let derived = "<c:DerivedKeyToken xmlns:c='http://schemas.xmlsoap.org/ws/2005/02/sc' u:Id='dNN'><o:SecurityTokenReference>\
        <o:Reference URI='#uuid-1'/></o:SecurityTokenReference><c:Nonce>AAAA</c:Nonce></c:DerivedKeyToken>";
    let more = |count: usize| {
        let more: String = (0..count).map(|n| derived.replace("NN", &n.to_string())).collect();
        message.replacen("<c:DerivedKeyToken", &format!("{more}<c:DerivedKeyToken"), 1)
    };
    opened(&more(6)).expect("as many as may be");
    assert_eq!(reason(&more(7)), Reason::TooMany("tokens"));
}

#[test]
fn endorsing_signatures_cover_the_primary_one_alone() {
    let signer = CLIENT.signer();
    let endorsed = |steps: &mut dyn Steps| {
        let (key, element) = (session_key(), token("urn:uuid:1"));
        let protection = ProtectionToken::CarriedContext { element: &element, key: &key };
        let policy = SecurePolicy {
            endorse: Some(EndorseWith::Signer(&signer)),
            ..SecurePolicy::new(Suite::BASIC256_SHA256, protection, NOW)
        };
        secure_in_steps(request(), &policy, &mut count(), steps).expect("it can be secured").octets
    };
    let open_it = |octets: &[u8], endorsing| {
        let policy = OpenPolicy { endorsing, ..OpenPolicy::request(Suite::BASIC256_SHA256, NOW) };
        open(octets, &policy, &mut Side::service(), &mut count())
    };
    let message = endorsed(&mut ());
    open_it(&message, Presence::Required).expect("it is endorsed");
    open_it(&message, Presence::Optional).expect("it may be endorsed");
    open_it(&message, Presence::Forbidden).expect_err("it may not be endorsed");
    // The endorsing signature of another message: its digest is that of another primary signature.
    let octets = endorsed(&mut Tamper(|document: &mut Document, _: &mut Vec<(NodeId, PartType)>| {
        let signatures: Vec<_> = document
            .descendants(document.root())
            .filter(|node| document.is(*node, SIGNATURE.name("Signature")))
            .collect();
        let value = document.only(signatures[1], SIGNATURE.name("SignatureValue")).expect("a value");
        set_text(document, value, &encode_base64(&[7; 256]));
    }));
    open_it(&octets, Presence::Required).expect_err("another signature");
    // Another certificate in the BinarySecurityToken.
    let other = String::from_utf8(message)
        .expect("UTF-8")
        .replace(&encode_base64(CLIENT.certificate.der()), &encode_base64(SERVICE.certificate.der()));
    open_it(other.as_bytes(), Presence::Required).expect_err("another certificate");
    // A certificate that is only named: one that is known, and another one.
    for (thumbprint, is_known) in
        [(CLIENT.certificate.thumbprint(), true), (SERVICE.certificate.thumbprint(), false)]
    {
        let octets = endorsed(&mut Tamper(|document: &mut Document, _: &mut Vec<(NodeId, PartType)>| {
            let mut key_infos = document
                .descendants(document.root())
                .filter(|node| document.is(*node, SIGNATURE.name("KeyInfo")));
            let key_info = key_infos.nth(1).expect("that of the endorsing signature");
            drop(key_infos);
            document.clear(key_info);
            KeyReference::Thumbprint(thumbprint).write(document, key_info, "");
        }));
        assert_eq!(open_it(&octets, Presence::Required).is_ok(), is_known);
    }
    // The endorsing signature alone is none.
    let octets = endorsed(&mut Tamper(|document: &mut Document, parts: &mut Vec<(NodeId, PartType)>| {
        let primary = find(document, SIGNATURE.name("Signature"));
        document.detach(primary);
        parts.retain(|(node, _)| *node != primary);
    }));
    open_it(&octets, Presence::Required).expect_err("no primary signature");
}

#[test]
fn replies_confirm_exactly_the_signatures_of_the_request() {
    let (name, key) =
        (TokenName::Context { identifier: "urn:uuid:1".to_owned(), instance: None }, session_key());
    let answer = |confirms: &[Vec<u8>]| {
        let named = ProtectionToken::Named { name: &name, key: &key };
        let policy = SecurePolicy { confirms, ..SecurePolicy::new(Suite::BASIC256, named, NOW) };
        secure(reply(), &policy, &mut count()).expect("it can be secured").octets
    };
    let check = |octets: &[u8], confirms: Option<&[Vec<u8>]>| {
        let policy = OpenPolicy {
            direction: Direction::Reply { confirms },
            ..OpenPolicy::request(Suite::BASIC256, NOW)
        };
        open(octets, &policy, &mut Side::service(), &mut count()).map(|_| ())
    };
    let [first, second] = [vec![1; 20], vec![2; 20]];
    let both = [first.clone(), second.clone()];
    check(&answer(&both), Some(&both)).expect("both");
    check(&answer(&[second.clone(), first.clone()]), Some(&both)).expect("in any order");
    check(&answer(&[]), None).expect("none");
    for (written, expected) in [
        (&both[..1], Some(&both[..])),
        (&both[..], Some(&both[..1])),
        (&both[1..], Some(&both[..1])),
        (&[], Some(&both[..])),
        (&both[..1], None),
    ] {
        let error = check(&answer(written), expected).expect_err("another confirmation");
        assert!(matches!(error, OpenError::Rejected(rejected) if *rejected.reason() == Reason::Confirmation));
    }
}

#[test]
fn a_request_is_no_reply() {
    let message = secured(&mut ());
    let policy = OpenPolicy {
        username: Presence::Required,
        direction: Direction::Reply { confirms: None },
        ..OpenPolicy::request(Suite::BASIC256, NOW)
    };
    let error =
        open(message.as_bytes(), &policy, &mut Side::service(), &mut count()).expect_err("it was reflected");
    assert!(
        matches!(error, OpenError::Rejected(rejected) if *rejected.reason() == Reason::Shape("headers of WS-Addressing"))
    );
}

#[test]
fn timestamps_are_checked_before_any_key_is_used() {
    let message = secured(&mut ());
    let at = |now: FileTime| {
        let policy = OpenPolicy { username: Presence::Required, ..OpenPolicy::request(Suite::BASIC256, now) };
        open(message.as_bytes(), &policy, &mut Side::default(), &mut count()).map(|_| ())
    };
    let minutes = |n: u64| Duration::from_secs(60 * n);
    for fine in [NOW, NOW + minutes(4), NOW - minutes(4)] {
        assert_eq!(at(fine).expect_err("no keys"), OpenError::UnknownContext);
    }
    for (now, problem, offset, from_future) in [
        (NOW + minutes(6), "created too long ago", minutes(6), false),
        (NOW - minutes(6), "created in the future", minutes(6), true),
    ] {
        let Err(OpenError::Rejected(rejected)) = at(now) else { panic!("its time is over") };
        assert_eq!(*rejected.reason(), Reason::Timestamp { problem, offset, from_future });
    }
}

#[test]
fn values_use_only_prefixes_that_are_protected() {
    let with = |around: &str, body: &str, inside: &str| {
        let xml = format!(
            "<s:Envelope xmlns:s='{}' xmlns:a='{}' xmlns:xsd='http://www.w3.org/2001/XMLSchema' \
             xmlns:xsi='http://www.w3.org/2001/XMLSchema-instance'{around}><s:Header><a:Action>urn:x</a:Action><a:To>urn:y</a:To></s:Header>\
             <s:Body{body}>{inside}</s:Body></s:Envelope>",
            SOAP.uri, ADDRESSING.uri
        );
        opened(&secured_document(parse(&xml), &mut ())).map_err(|error| match error {
            OpenError::Rejected(rejected) => rejected.reason().clone(),
            OpenError::UnknownContext => panic!("the context is known"),
        })
    };
    let bound = " xmlns:b='urn:b'";
    let typed = "<x xsi:type='b:int'>1</x>";
    let inside = format!("<w{bound}>{typed}</w>");
    let opened = with("", "", &inside).expect("it is bound in the content");
    let value = opened
        .document
        .descendants(opened.envelope.body)
        .find(|node| opened.document.name(*node).local == "x");
    assert_eq!(opened.document.namespace_at(value.expect("it is there"), "b"), Some("urn:b"));
    let upstream = opened.document.elements(opened.envelope.body).next().expect("an element");
    let upstream = String::from_utf8(opened.document.extract(upstream).expect("writable")).expect("UTF-8");
    assert!(upstream.contains("xmlns:b=\"urn:b\"") && upstream.contains("xmlns:xsi="), "{upstream}");

    // Bound outside, used by a value alone.
    for (around, body, inside) in [
        (bound, "", typed),
        ("", bound, typed),
        (bound, "", "<x>b:int</x>"),
        (bound, "", "<x> b:int\n</x>"),
        (bound, "", "b:int"),
        (bound, "", "<b:y/><x>b:int</x>"),
    ] {
        assert_eq!(
            with(around, body, inside).map(|_| ()),
            Err(Reason::UnsignedPrefix),
            "{around} {body} {inside}"
        );
    }
    // A name around the value shows the binding; fixed namespaces; no prefixes at all.
    for (around, body, inside) in [
        (bound, "", "<b:y><x>b:int</x></b:y>"),
        (bound, "", "<y b:z=''><x>b:int</x></y>"),
        ("", "", "<x xsi:type='xsd:int'>1</x>"),
        (bound, "", "<x>urn:b</x><y>b: int</y><z>12:30</z><z>http://b:80/</z>"),
    ] {
        with(around, body, inside).expect(inside);
    }
    // An attacker who binds it anew around a body that binds it itself gains nothing; one who takes a fixed
    // prefix is seen.
    let message = secured_document(
        parse(&format!(
            "<s:Envelope xmlns:s='{}' xmlns:a='{}'><s:Header><a:Action>urn:x</a:Action><a:To>urn:y</a:To></s:Header>\
             <s:Body xmlns:xsd='http://www.w3.org/2001/XMLSchema'><x>xsd:int</x></s:Body></s:Envelope>",
            SOAP.uri, ADDRESSING.uri
        )),
        &mut (),
    );
    self::opened(&message).expect("it is fixed");
    let rebound = message.replacen("http://www.w3.org/2001/XMLSchema", "urn:evil", 1);
    assert_eq!(reason(&rebound), Reason::UnsignedPrefix);
}

/// Whatever octet of a message is changed, it is refused, or it says what it said before.
#[test]
fn no_changed_octet_changes_what_is_read() {
    let message = secured(&mut ());
    let original = opened(&message).expect("it is secured");
    let texts = |opened: &Opened| {
        let document = &opened.document;
        let of = |node| {
            document
                .descendants(node)
                .map(|node| match document.kind(node) {
                    Kind::Text(span) => document.get(*span).to_owned(),
                    Kind::Element(_) => {
                        format!("{:?}", (document.name(node).namespace, document.name(node).local))
                    }
                })
                .collect::<Vec<_>>()
        };
        let addressing: Vec<_> = opened.envelope.addressing.iter().map(|node| of(*node)).collect();
        (
            of(opened.envelope.body),
            addressing,
            opened.username.clone(),
            opened.timestamp,
            opened.token.clone(),
        )
    };
    let expected = texts(&original);
    let mut opened_anyway = 0;
    for at in (0..message.len()).step_by(3) {
        let mut changed = message.clone().into_bytes();
        changed[at] ^= 1;
        let policy = OpenPolicy { username: Presence::Required, ..OpenPolicy::request(Suite::BASIC256, NOW) };
        if let Ok(opened) = open(&changed, &policy, &mut Side::service(), &mut count()) {
            opened_anyway += 1;
            assert_eq!(texts(&opened), expected, "octet {at}: {}", String::from_utf8_lossy(&changed));
        }
    }
    println!("{opened_anyway} of {} changes are in what is not protected", message.len() / 3);
}

#[test]
fn a_message_cannot_be_secured_twice() {
    let message = secured(&mut ());
    let key = session_key();
    let element = token("urn:uuid:1");
    let protection = ProtectionToken::CarriedContext { element: &element, key: &key };
    let policy = SecurePolicy::new(Suite::BASIC256, protection, NOW);
    let error = secure(parse(&message), &policy, &mut count()).expect_err("it has a security header");
    assert_eq!(error, SecureError::Message(Reason::Shape("o:Security")));
    let user = UsernameToken { username: "a\u{0}b".to_owned(), password: String::new().into() };
    let policy = SecurePolicy { username: Some(&user), ..policy };
    assert_eq!(
        secure(request(), &policy, &mut count()).expect_err("a control character"),
        SecureError::Unwritable(Unwritable)
    );
}
