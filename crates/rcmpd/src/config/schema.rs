//! A JSON Schema of the configuration file, for editors.

use super::otlp::{PROTOCOLS, SAMPLERS, Signal};
use super::reference::{self, Entry};
use super::shape::{Shape, paths};
use super::source::join;
use super::{ENCODINGS, file_shape, mapping, sidecar, tlsnego};
use crate::stores::{BUILT_IN, added};
use serde_json::{Map, Value, json};

/// The schema. Keys and types are those of the parser, descriptions those of docs/configuration.md.
pub(crate) fn json_schema() -> Value {
    let shape = file_shape();
    let entries = reference::entries(&paths(&shape));
    let mut schema = described(&shape, "", &entries);
    schema["$schema"] = json!("https://json-schema.org/draft/2020-12/schema");
    schema["title"] = json!("The configuration of rcmpd");
    schema
}

fn described(shape: &Shape, path: &str, entries: &[Entry]) -> Value {
    match shape {
        Shape::Any => json!({}),
        Shape::Text => match words(path) {
            Some(words) => json!({ "type": "string", "enum": words }),
            None => json!({ "type": "string" }),
        },
        Shape::Truth => json!({ "type": "boolean" }),
        Shape::Integer(max) => json!({ "type": "integer", "minimum": 0, "maximum": max }),
        Shape::List(inner) => json!({ "type": "array", "items": described(inner, path, entries) }),
        Shape::Map(inner) => {
            json!({ "type": "object", "additionalProperties": described(inner, path, entries) })
        }
        Shape::Same(other) => {
            json!({ "$ref": format!("#/properties/{}", other.replace('.', "/properties/")) })
        }
        Shape::Either(shapes) => {
            json!({ "anyOf": shapes.iter().map(|shape| described(shape, path, entries)).collect::<Vec<_>>() })
        }
        Shape::Table(fields) => {
            let properties = fields.iter().map(|field| {
                let path = join(path, field.name);
                let mut value = described(&field.shape, &path, entries);
                if let Some(text) = reference::text(entries, &path).filter(|text| !text.is_empty()) {
                    value["description"] = json!(text);
                }
                let entry = reference::entry(entries, &path).filter(|_| !field.is_required);
                if let Some(default) = entry.and_then(Entry::default_value) {
                    value["default"] = json!(default);
                }
                (field.name.to_owned(), value)
            });
            let properties: Map<String, Value> = properties.collect();
            let required: Vec<_> =
                fields.iter().filter(|field| field.is_required).map(|field| field.name).collect();
            json!({
                "type": "object",
                "additionalProperties": false,
                "required": required,
                "properties": properties,
            })
        }
    }
}

/// The words that are values of a key, where there are no others.
fn words(path: &str) -> Option<Vec<&str>> {
    fn names<'n, T>(words: &[(&'n str, T)]) -> Vec<&'n str> {
        words.iter().map(|(word, _)| *word).collect()
    }
    let key = path.rsplit('.').next().unwrap_or_default();
    let words = match (path, key) {
        ("store.kind", _) => BUILT_IN.into_iter().chain(added()).collect(),
        ("audit.journald.encoding" | "audit.syslog.encoding" | "audit.otlp.encoding", _) => names(&ENCODINGS),
        ("telemetry.format", _) => vec!["text", "json"],
        ("telemetry.otlp.protocol", _) => names(&PROTOCOLS),
        ("telemetry.otlp.sampler", _) => SAMPLERS.to_vec(),
        ("telemetry.otlp.signals", _) => Signal::ALL.map(Signal::name).to_vec(),
        ("tlsnego.bindings", _) => names(&tlsnego::BINDINGS),
        ("tlsnego.suite", _) => names(&tlsnego::SUITES),
        ("sidecar.validation", _) => vec!["off"],
        (_, "binding") => names(&mapping::BINDINGS),
        ("mapping.validation", _) => names(&mapping::VALIDATIONS),
        (_, "methods") => names(&mapping::METHODS),
        ("mapping.comparison", _) => names(&mapping::COMPARISONS),
        ("mapping.sha1_pukey", _) => names(&mapping::SHA1_PUKEY),
        ("sidecar.source", _) => names(&sidecar::SOURCES),
        ("sidecar.headers", _) => names(&sidecar::PRESETS),
        ("sidecar.user", _) => names(&sidecar::USERS),
        ("sidecar.groups", _) => names(&sidecar::GROUPS),
        ("sidecar.encoding", _) => names(&sidecar::ENCODINGS),
        ("sidecar.listen.dialect", _) => names(&sidecar::SPEAKS),
        ("sidecar.listen.target", _) => names(&sidecar::TARGETS),
        ("sidecar.route.strength", _) => names(&sidecar::STRENGTHS),
        (_, "upstream_protocol") => names(&sidecar::PROTOCOLS),
        ("sidecar.proxy.client_certificates", _) => names(&sidecar::CLIENT_CERTIFICATES),
        _ => return None,
    };
    Some(words)
}
