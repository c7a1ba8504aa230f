//! Lines as events of OCSF: class Authentication (3002) of the Open Cybersecurity Schema Framework, version
//! 1.5.0.
//!
//! What the class has no place for is in `unmapped`, so nothing of a line is lost.

use serde_json::{Map, Value, json};

const VERSION: &str = "1.5.0";
const CLASS: u64 = 3002;
/// Identity and access management.
const CATEGORY: u64 = 3;

/// Activities of the class.
const LOGON: u64 = 1;
const LOGOFF: u64 = 2;
const SERVICE_TICKET: u64 = 4;
const OTHER: u64 = 99;

/// Severities.
const INFORMATIONAL: u64 = 1;
const LOW: u64 = 2;
const MEDIUM: u64 = 3;

/// An event of OCSF for a line. `time_ms` is in milliseconds since 1970.
pub(super) fn event(line: &Value, time_ms: u64) -> Value {
    let fields = line.as_object().cloned().unwrap_or_default();
    let text = |name: &str| fields.get(name).and_then(Value::as_str).filter(|text| !text.is_empty());
    let name = text("event").unwrap_or("unknown");
    let is_good = is_good(name, &fields);
    let activity = match name {
        "map" | "identify" | "channel_established" | "session_opened" | "session_renewed" => LOGON,
        "session_ended" => LOGOFF,
        "master_secret_delivered" => SERVICE_TICKET,
        _ if name.ends_with("_refused") || name == "relay" => LOGON,
        _ => OTHER,
    };
    let severity = match (is_good, name) {
        (Some(false), "map" | "identify" | "relay") => LOW,
        (Some(false), _) => MEDIUM,
        _ => INFORMATIONAL,
    };
    let mut event = json!({
        "activity_id": activity,
        "category_uid": CATEGORY,
        "class_uid": CLASS,
        "type_uid": CLASS * 100 + activity,
        "severity_id": severity,
        "time": time_ms,
        "metadata": {
            "version": VERSION,
            "event_code": name,
            "product": { "name": "rcmpd", "vendor_name": "rcmpd", "version": env!("CARGO_PKG_VERSION") },
        },
        "status_id": match is_good {
            Some(true) => 1,
            Some(false) => 2,
            None => 99,
        },
        "user": user(&text),
        "service": { "name": "rcmpd" },
        "unmapped": line,
    });
    let Value::Object(members) = &mut event else { return event };
    let mut insert = |name: &str, value: Value| drop(members.insert(name.to_owned(), value));
    if activity == OTHER {
        insert("activity_name", name.into());
    }
    if is_good.is_none() {
        insert("status", name.into());
    }
    if let Some(reason) = text("reason").or_else(|| text("outcome")) {
        insert("status_detail", reason.into());
    }
    if let Some(status) = text("status") {
        insert("status_code", status.into());
    }
    if let Some(decision) = text("decision") {
        insert("metadata_uid", decision.into());
    }
    if let Some(source) = text("source") {
        insert("src_endpoint", endpoint(source));
    }
    if let Some(asker) = text("asker") {
        let mut user = json!({ "name": asker });
        if let Some(sid) = text("asker_sid") {
            user["uid"] = sid.into();
        }
        insert("actor", json!({ "user": user }));
    }
    if let (Some(issuer), Some(serial)) = (text("CertIssuerName"), text("CertSerialNumber")) {
        insert("certificate", certificate(issuer, serial, text("CertThumbprint")));
    }
    // The id of a decision is that of the event.
    if let Some(uid) = members.remove("metadata_uid") {
        members["metadata"]["uid"] = uid;
    }
    event
}

/// Whether what a line is about was allowed; none if it is no decision.
fn is_good(name: &str, fields: &Map<String, Value>) -> Option<bool> {
    let text = |name: &str| fields.get(name).and_then(Value::as_str);
    match name {
        "map" | "identify" => Some(text("account_sid").is_some()),
        "relay" => Some(text("outcome") == Some("relayed")),
        "channel_established"
        | "secret_rotated"
        | "session_opened"
        | "session_renewed"
        | "session_ended"
        | "master_secret_delivered" => Some(true),
        _ if name.ends_with("_refused") || name.ends_with("_refusals") || name.ends_with("_denied") => {
            Some(false)
        }
        _ => None,
    }
}

/// The account that a line is about. The class needs one.
fn user<'t>(text: &impl Fn(&str) -> Option<&'t str>) -> Value {
    let name = ["account", "user", "operator", "asker"].into_iter().find_map(text);
    let uid = ["account_sid", "user_sid", "uid"].into_iter().find_map(text);
    let mut user = json!({});
    // A foreign account is written with its domain.
    match name.map(|name| name.split_once('\\').map_or((None, name), |(domain, name)| (Some(domain), name))) {
        Some((domain, name)) => {
            user["name"] = name.into();
            if let Some(domain) = domain.or_else(|| text("domain")) {
                user["domain"] = domain.into();
            }
        }
        None if uid.is_none() => user["name"] = "unknown".into(),
        None => {}
    }
    if let Some(uid) = uid {
        user["uid"] = uid.into();
    }
    user
}

/// An address with its port, or what else a source is.
fn endpoint(source: &str) -> Value {
    match source.parse::<std::net::SocketAddr>() {
        Ok(address) => json!({ "ip": address.ip().to_string(), "port": address.port() }),
        Err(_) => match source.parse::<std::net::IpAddr>() {
            Ok(address) => json!({ "ip": address.to_string() }),
            Err(_) => json!({ "name": source }),
        },
    }
}

fn certificate(issuer: &str, serial: &str, thumbprint: Option<&str>) -> Value {
    /// SHA-1, by the object Fingerprint.
    const SHA1: u64 = 2;
    let mut certificate = json!({ "issuer": issuer, "serial_number": serial });
    if let Some(value) = thumbprint {
        certificate["fingerprints"] = json!([{ "algorithm_id": SHA1, "value": value }]);
    }
    certificate
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_decision_is_an_authentication() {
        let line = json!({
            "event": "map", "asker": "WEB01$", "asker_sid": "S-1-5-21-1-2-3-1004", "source": "[::1]:4711",
            "reason": "forwarded", "status": "0x00000000", "account": "CONTOSO\\alice",
            "account_sid": "S-1-5-21-4-5-6-1001", "decision": "ab", "CertIssuerName": "CN=CA",
            "CertSerialNumber": "01", "CertThumbprint": "cd",
        });
        let event = event(&line, 1_700_000_000_000);
        let expected = json!({
            "activity_id": 1, "category_uid": 3, "class_uid": 3002, "type_uid": 300_201, "severity_id": 1,
            "time": 1_700_000_000_000_u64, "status_id": 1, "status_detail": "forwarded",
            "status_code": "0x00000000",
            "metadata": {
                "version": "1.5.0", "event_code": "map", "uid": "ab",
                "product": { "name": "rcmpd", "vendor_name": "rcmpd", "version": env!("CARGO_PKG_VERSION") },
            },
            "user": { "name": "alice", "domain": "CONTOSO", "uid": "S-1-5-21-4-5-6-1001" },
            "actor": { "user": { "name": "WEB01$", "uid": "S-1-5-21-1-2-3-1004" } },
            "service": { "name": "rcmpd" },
            "src_endpoint": { "ip": "::1", "port": 4711 },
            "certificate": {
                "issuer": "CN=CA", "serial_number": "01",
                "fingerprints": [{ "algorithm_id": 2, "value": "cd" }],
            },
            "unmapped": line,
        });
        assert_eq!(event, expected);
    }
}
