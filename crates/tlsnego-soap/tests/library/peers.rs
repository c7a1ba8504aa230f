//! A client of Python, OpenSSL, lxml and `cryptography` against our server, over HTTP on the loopback.

use crate::support::*;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};
use tlsnego_service::session::Credential;
use tlsnego_soap::server::Binding;
use tlsnego_soap::{CONTENT_TYPE, HttpResponse};

/// What is done to a response on its way.
type Change = dyn Fn(&mut HttpResponse);

/// One client's connection: requests with a Content-Length, until it closes.
fn serve(service: &Service, stream: TcpStream, change: &Change) {
    let mut writer = stream.try_clone().expect("a handle");
    let mut reader = BufReader::new(stream);
    loop {
        let (mut length, mut content_type) = (0, String::new());
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line).expect("a line") == 0 {
                return;
            }
            let Some((name, value)) = line.trim_end().split_once(':') else {
                if line.trim_end().is_empty() {
                    break;
                }
                continue;
            };
            match name.to_ascii_lowercase().as_str() {
                "content-length" => length = value.trim().parse().expect("a length"),
                "content-type" => content_type = value.trim().to_owned(),
                _ => {}
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body).expect("a body");
        let mut response = post(service, &content_type, &body).response;
        change(&mut response);
        let head = format!(
            "HTTP/1.1 {} Answer\r\nContent-Type: {CONTENT_TYPE}\r\nContent-Length: {}\r\n\r\n",
            response.status,
            response.body.len()
        );
        writer.write_all(head.as_bytes()).expect("written");
        writer.write_all(&response.body).expect("written");
    }
}

/// Runs the client, and returns its steps.
pub(crate) fn python(
    service: &Service,
    certificates: &Certificates,
    settings: Value,
    change: &Change,
) -> Vec<Value> {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/peers/tlsnego_client.py");
    let mut child = Command::new(PYTHON)
        .arg(script)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("Debian's Python starts");
    let mut all = json!({
        "url": format!("http://{}/echo", listener.local_addr().expect("an address")),
        "to": TO,
        "server": dtyp::hex(&certificates.service.der),
        "binding": "session",
        "calls": 4,
    });
    for (name, value) in settings.as_object().expect("an object") {
        all[name] = value.clone();
    }
    write!(child.stdin.take().expect("piped"), "{all}").expect("it reads");
    let (stream, _) = listener.accept().expect("it connects");
    serve(service, stream, change);
    let output = child.wait_with_output().expect("it ends");
    assert!(output.status.success(), "it failed");
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

const SESSION: Binding = Binding { negotiate: true, establish: true };
const PER_CALL: Binding = Binding { negotiate: true, establish: false };
const ONE_SHOT: Binding = Binding { negotiate: false, establish: false };
const BAD_TOKEN: &str = "{http://schemas.xmlsoap.org/ws/2005/02/sc}BadContextToken 500 http://www.w3.org/2005/08/addressing/soap/fault";

#[test]
fn a_python_client_calls_in_every_way_with_every_credential() {
    for trust in ["2005-02", "1.3"] {
        call_in_every_way(trust);
    }
}

fn call_in_every_way(trust: &str) {
    let certificates = Certificates::new();
    let folder = tempfile::tempdir().expect("a folder");
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).expect("written");
        path
    };
    let certificate = file("certificate.pem", &certificates.client.pem);
    let key = file("key.pem", &certificates.client.key_pem);
    for binding in Binding::ALL {
        for (credential, settings) in [
            (Credential::None, json!({})),
            (Credential::UserName, json!({ "user": USER, "password": PASSWORD })),
            (Credential::Certificate, json!({ "certificate": certificate, "key": key })),
        ] {
            let service = service_with(&certificates, &[binding], credential, |settings| {
                settings.trust13 = trust == "1.3"
            });
            let mut settings = settings;
            settings["trust"] = trust.into();
            settings["binding"] = if binding.establish { "session" } else { "call" }.into();
            settings["negotiate"] = binding.negotiate.into();
            let steps = python(&service, &certificates, settings, &|_| {});
            println!("{trust} {binding:?} {}: {} steps", credential.as_str(), steps.len());
            let mut steps = steps.iter();
            let mut next = || steps.next().expect("another step");
            if binding.negotiate {
                let negotiated = next();
                assert_eq!(negotiated["version"], "TLSv1.2");
                // The digest's layout of the last leg.
                assert_eq!(
                    negotiated["children"],
                    json!([
                        "TokenType",
                        "RequestedSecurityToken",
                        "RequestedAttachedReference",
                        "RequestedUnattachedReference",
                        "RequestedProofToken",
                        "Lifetime",
                        "KeySize",
                        "BinaryExchange"
                    ])
                );
            }
            if binding.establish {
                let established = next();
                assert!(established["name"].is_string(), "{established}");
            }
            for n in 1..=4 {
                let call = next();
                assert_eq!(call["text"], format!("call {n} & more"), "{call}");
                assert_eq!(call["action"], "urn:echoResponse");
            }
            if binding == ONE_SHOT {
                assert!(steps.next().is_none());
                continue;
            }
            let (cancelled, unknown) = match trust {
                "1.3" => (
                    "http://docs.oasis-open.org/ws-sx/ws-trust/200512/RSTR/SCT/Cancel".to_owned(),
                    BAD_TOKEN.replace(
                        "http://schemas.xmlsoap.org/ws/2005/02/sc",
                        "http://docs.oasis-open.org/ws-sx/ws-secureconversation/200512",
                    ),
                ),
                _ => (
                    "http://schemas.xmlsoap.org/ws/2005/02/trust/RSTR/SCT/Cancel".to_owned(),
                    BAD_TOKEN.to_owned(),
                ),
            };
            assert_eq!(next()["action"], cancelled);
            assert_eq!(next()["error"], unknown);
            assert!(service.tokens().is_empty(), "the place is free at once");
        }
    }
}

#[test]
fn a_python_client_negotiates_over_tls_1_3() {
    let certificates = Certificates::new();
    let service = service(&certificates, &[PER_CALL], Credential::None);
    let settings = json!({ "version": "TLSv1.3", "binding": "call", "calls": 1 });
    let steps = python(&service, &certificates, settings, &|_| {});
    assert_eq!(steps[0]["version"], "TLSv1.3", "{steps:?}");
    // TLS has nothing to send with the token.
    let children = steps[0]["children"].as_array().expect("a list");
    assert!(!children.contains(&json!("BinaryExchange")), "{children:?}");
    assert_eq!(steps[1]["text"], "call 1 & more");
    assert_eq!(steps[3]["error"], BAD_TOKEN);
}

#[test]
fn a_python_client_with_a_wrong_password_is_told_so_and_nothing_more() {
    let certificates = Certificates::new();
    let service = service(&certificates, &[SESSION], Credential::UserName);
    let steps = python(&service, &certificates, json!({ "user": USER, "password": "x" }), &|_| {});
    assert_eq!(steps.len(), 2, "{steps:?}");
    let expected = "{http://docs.oasis-open.org/wss/2004/01/oasis-200401-wss-wssecurity-secext-1.0.xsd}\
                    FailedAuthentication 500 http://www.w3.org/2005/08/addressing/soap/fault";
    assert_eq!(steps[1]["error"], expected);
    // A bootstrap token alone proves no account.
    let steps = python(&service, &certificates, json!({}), &|_| {});
    let expected = "{http://docs.oasis-open.org/wss/2004/01/oasis-200401-wss-wssecurity-secext-1.0.xsd}\
                    InvalidSecurity 500 http://www.w3.org/2005/08/addressing/soap/fault";
    assert_eq!(steps[1]["error"], expected);
}

#[test]
fn a_python_client_drops_a_token_whose_last_leg_was_changed() {
    let certificates = Certificates::new();
    for (what, from, to) in [
        ("Lifetime", "Z</u:Expires>", "0Z</u:Expires>"),
        ("KeySize", "<t:KeySize>256<", "<t:KeySize>256 <"),
        ("reference", "<t:RequestedAttachedReference>", "<t:RequestedAttachedReference x=\"\">"),
        ("authenticator", "<t:CombinedHash>", "<t:CombinedHash>AAAA"),
    ] {
        let service = service(&certificates, &[SESSION], Credential::None);
        let change = move |response: &mut HttpResponse| {
            let text = String::from_utf8(response.body.clone()).expect("UTF-8");
            if text.contains("RequestSecurityTokenResponseCollection") {
                assert!(text.contains(from), "{what}: {text}");
                response.body = text.replacen(from, to, 1).into_bytes();
            }
        };
        let steps = python(&service, &certificates, json!({}), &change);
        assert_eq!(steps, [json!({ "step": "negotiate", "error": "authenticator" })], "{what}");
    }
}
