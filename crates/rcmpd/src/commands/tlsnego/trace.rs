//! `rcmpd tlsnego call --trace`: each message, decoded, on standard error.

use crate::output::{self, visible};
use dtyp::FileTime;
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use tlsnego_service::session::SessionKind;
use tlsnego_soap::trace::{Content, Message, SessionName, Traced, Tracer};
use xml_security::{CarriedKind, DerivedKey, KeyReference, Layout, ProtectedParts, TokenName, format_time};

/// Prints each message: a block of lines for people, or a line of JSON.
pub(super) fn printer(as_json: bool) -> Tracer {
    let number = AtomicU32::new(0);
    Arc::new(move |traced: Traced| {
        let is_message = matches!(traced, Traced::Sent(_) | Traced::Received(_));
        // What follows a message has its number.
        let number = number.fetch_add(u32::from(is_message), Ordering::Relaxed) + u32::from(is_message);
        match as_json {
            true => output::json_line_on_error(&as_value(number, &traced)),
            false => output::message_lines(&lines(number, &traced).join("\n")),
        }
    })
}

fn lines(number: u32, traced: &Traced) -> Vec<String> {
    match traced {
        Traced::Sent(message) => message_lines(number, "sent", message),
        Traced::Received(message) => message_lines(number, "received", message),
        Traced::Certificate(der) => {
            vec![fact("certificate", &format!("SHA-1 thumbprint {}", thumbprint(der)))]
        }
        Traced::Rejected(why) => vec![fact("rejected", why)],
        Traced::Session { session, created, expires } => {
            let mut lines = Vec::new();
            if session.kind == SessionKind::Negotiated {
                lines.push(fact(&format!("{number}.2"), "the authenticator matches the messages"));
            }
            let (created, expires) = (format_time(*created), format_time(*expires));
            lines.push(fact("session", &format!("{}, from {created} until {expires}", name(session))));
            lines
        }
        Traced::OneShot(session) => vec![fact("session", &name(session))],
        Traced::Cancelled(session) => vec![fact("cancelled", session)],
    }
}

/// A line below a message. What a peer wrote is printed visibly.
fn fact(what: &str, text: &str) -> String {
    format!("     {what:<13} {}", visible(text))
}

fn message_lines(number: u32, direction: &str, message: &Message) -> Vec<String> {
    let Message { len, action, content } = message;
    let security = match content {
        Content::Secured(_) => "secured",
        Content::Other => "not decoded",
        _ => "not secured",
    };
    let action = if action.is_empty() { "no action" } else { action };
    let mut lines = vec![format!(
        "{:<4} {direction:<13} {}, {len} octets, {security}",
        format!("#{number}"),
        visible(action)
    )];
    match content {
        Content::Leg { tls } => lines.push(fact("TLS", &records(tls))),
        Content::Token(leg) => {
            lines.push(fact("TLS", &records(&leg.tls)));
            let expires = leg.expires.map_or_else(|| "without a date".to_owned(), until);
            let token = format!(
                "token {}, {expires}; its key in {} octets: {}",
                leg.identifier,
                leg.wrapped_key_len,
                records(&leg.wrapped_key)
            );
            lines.push(fact(&format!("{number}.1"), &token));
            let authenticator = match leg.authenticator_len {
                Some(len) => format!("authenticator of {len} octets"),
                None => "no authenticator".to_owned(),
            };
            lines.push(fact(&format!("{number}.2"), &authenticator));
        }
        Content::Secured(layout) => lines.extend(layout_lines(layout)),
        Content::Fault(fault) => lines.push(fact("fault", &format!("not authenticated: {fault}"))),
        Content::Other => {}
    }
    lines
}

fn layout_lines(layout: &Layout) -> Vec<String> {
    let mut lines = Vec::new();
    for token in &layout.tokens {
        let kind = match &token.kind {
            CarriedKind::Context(name) => format!("SecurityContextToken {}", token_name(name)),
            CarriedKind::EncryptedKey { name, recipient } => {
                format!("EncryptedKey {} for the certificate {}", token_name(name), reference(recipient))
            }
            CarriedKind::Certificate => "certificate of the client".to_owned(),
        };
        lines.push(fact("token", &format!("{}: {kind}", token.id)));
    }
    for DerivedKey { id, base, label, offset, length } in &layout.derived_keys {
        let base = reference(base);
        lines.push(fact(
            "key",
            &format!("{id}: from {base}, label {label}, offset {offset}, length {length}"),
        ));
    }
    for signed in &layout.signatures {
        lines.push(fact("signed by", &protected(signed)));
    }
    for encrypted in &layout.encryptions {
        lines.push(fact("encrypted by", &protected(encrypted)));
    }
    lines
}

fn protected(ProtectedParts { key, algorithm, parts }: &ProtectedParts) -> String {
    format!("{} ({}): {}", reference(key), short(algorithm), parts.join(", "))
}

/// The last part of the URI of an algorithm.
fn short(algorithm: &str) -> &str {
    algorithm.rsplit('#').next().unwrap_or(algorithm)
}

fn records(tls: &[&str]) -> String {
    match tls {
        [] => "nothing".to_owned(),
        tls => tls.join(", "),
    }
}

fn until(expires: FileTime) -> String {
    format!("until {}", format_time(expires))
}

fn token_name(name: &TokenName) -> String {
    match name {
        TokenName::Context { identifier, instance: None } => identifier.clone(),
        TokenName::Context { identifier, instance: Some(instance) } => {
            format!("{identifier}, instance {instance}")
        }
        TokenName::EncryptedKey(sha1) => format!("EncryptedKeySHA1 {}", dtyp::hex(sha1)),
    }
}

fn reference(reference: &KeyReference) -> String {
    match reference {
        KeyReference::Id(id) => id.clone(),
        KeyReference::Token(name) => token_name(name),
        KeyReference::Thumbprint(sha1) => format!("with SHA-1 thumbprint {}", dtyp::hex(sha1)),
        KeyReference::SubjectKeyIdentifier(octets) => format!("with key identifier {}", dtyp::hex(octets)),
        KeyReference::IssuerSerial { issuer, serial } => format!("{serial} of {issuer}"),
    }
}

fn thumbprint(der: &[u8]) -> String {
    dtyp::hex(&xml_security::sha1(der))
}

fn name(SessionName { kind, name, instance, parent }: &SessionName) -> String {
    let mut text = format!("{kind} {name}");
    for (what, value) in [("instance", instance), ("under", parent)] {
        if let Some(value) = value {
            text.push_str(&format!(", {what} {value}"));
        }
    }
    text
}

fn as_value(number: u32, traced: &Traced) -> Value {
    let session = |SessionName { kind, name, instance, parent }: &SessionName| json!({ "kind": kind.as_str(), "name": name, "instance": instance, "parent": parent });
    match traced {
        Traced::Sent(message) => message_value(number, "sent", message),
        Traced::Received(message) => message_value(number, "received", message),
        Traced::Certificate(der) => {
            json!({ "number": number, "event": "certificate", "sha1": thumbprint(der) })
        }
        Traced::Rejected(why) => json!({ "number": number, "event": "rejected", "why": why }),
        Traced::Session { session: opened, created, expires } => json!({
            "number": number,
            "event": "session",
            "session": session(opened),
            "created": format_time(*created),
            "expires": format_time(*expires),
        }),
        Traced::OneShot(opened) => {
            json!({ "number": number, "event": "session", "session": session(opened) })
        }
        Traced::Cancelled(name) => json!({ "number": number, "event": "cancelled", "name": name }),
    }
}

fn message_value(number: u32, direction: &str, message: &Message) -> Value {
    let mut value = json!({
        "number": number,
        "event": direction,
        "action": message.action,
        "octets": message.len,
        "secured": matches!(message.content, Content::Secured(_)),
    });
    let decoded = match &message.content {
        Content::Leg { tls } => json!({ "tls": tls }),
        Content::Token(leg) => json!({
            "tls": leg.tls,
            "token": leg.identifier,
            "expires": leg.expires.map(format_time),
            "wrapped_key": { "tls": leg.wrapped_key, "octets": leg.wrapped_key_len },
            "authenticator_octets": leg.authenticator_len,
        }),
        Content::Secured(layout) => json!({
            "tokens": layout.tokens.iter().map(|token| match &token.kind {
                CarriedKind::Context(name) => json!({ "id": token.id, "context": token_name(name) }),
                CarriedKind::EncryptedKey { name, recipient } => json!({
                    "id": token.id, "encrypted_key": token_name(name), "recipient": reference(recipient),
                }),
                CarriedKind::Certificate => json!({ "id": token.id, "certificate": true }),
            }).collect::<Vec<_>>(),
            "derived_keys": layout.derived_keys.iter().map(|key| json!({
                "id": key.id, "from": reference(&key.base), "label": key.label, "offset": key.offset,
                "length": key.length,
            })).collect::<Vec<_>>(),
            "signed": layout.signatures.iter().map(protected_value).collect::<Vec<_>>(),
            "encrypted": layout.encryptions.iter().map(protected_value).collect::<Vec<_>>(),
        }),
        Content::Fault(fault) => {
            json!({ "fault": { "namespace": fault.namespace, "code": fault.local, "text": fault.text } })
        }
        Content::Other => json!({}),
    };
    if let (Value::Object(value), Value::Object(decoded)) = (&mut value, decoded) {
        value.extend(decoded);
    }
    value
}

fn protected_value(ProtectedParts { key, algorithm, parts }: &ProtectedParts) -> Value {
    json!({ "key": reference(key), "algorithm": algorithm, "parts": parts })
}
