//! `rcmpd status`: the state of the running service, by its admin port.

use super::{admin_port, config_file, load};
use crate::cli::StatusArgs;
use crate::config::Config;
use crate::output;
use anyhow::{Context, bail};
use http::{Method, StatusCode};
use serde_json::Value;

/// So many octets of an answer that is an error are shown: what listens there need not be this program.
const SHOWN_LEN_MAX: usize = 200;
/// The exit code if the service is not ready.
const NOT_READY: u8 = 3;

pub(super) async fn run(args: &StatusArgs) -> anyhow::Result<u8> {
    let state = ask(&load(&config_file(&args.config)?)?).await?;
    match args.json.json {
        true => output::json(&state),
        false => print(&state),
    }
    Ok(if state["ready"] == true { 0 } else { NOT_READY })
}

/// The state of the service.
pub(super) async fn ask(config: &Config) -> anyhow::Result<Value> {
    let (status, body) = admin_port::ask(config, Method::GET, "/status").await?;
    if status == StatusCode::NOT_FOUND {
        bail!("the service answers {status}: it has no /status; restart it, if rcmpd was upgraded");
    }
    if status != StatusCode::OK {
        let body = String::from_utf8_lossy(&body[..body.len().min(SHOWN_LEN_MAX)]);
        bail!("the service answers {status}: {}", output::visible(body.trim()));
    }
    serde_json::from_slice(&body).context("the answer of the service is not JSON")
}

/// A member of an object as text, and an empty text if it is missing.
pub(super) fn text(value: &Value, member: &str) -> String {
    match &value[member] {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

fn print(state: &Value) {
    let ready = if state["ready"] == true { "yes" } else { "NO" };
    let reload = match state["reload"]["error"].as_str() {
        None => format!("good, {}", text(&state["reload"], "at")),
        Some(error) => format!(
            "FAILED, {}: {error}; the configuration of {} stays in use",
            text(&state["reload"], "at"),
            text(&state["reload"], "in_use_since")
        ),
    };
    let mut facts = vec![
        ("ready", ready.to_owned()),
        ("version", text(state, "version")),
        ("process", format!("{}, since {}", text(state, "pid"), text(state, "started"))),
        ("configuration", text(state, "configuration")),
        ("last load", reload),
    ];
    let revision = text(state, "policy_revision");
    if !revision.is_empty() {
        facts.push(("policy revision", revision));
    }
    if let Some(connections) = state["rpc_connections"].as_object() {
        let count = |name| connections.get(name).map(ToString::to_string).unwrap_or_default();
        let shown = format!("{} of clients with a channel, {} of others", count("proved"), count("unproved"));
        facts.push(("RPC connections", shown));
    }
    let channels = text(state, "channels");
    if !channels.is_empty() {
        facts.push(("channels", channels));
    }
    if let store @ Value::Object(_) = &state["store"] {
        let of = |name| text(store, name);
        // A store without a stored revision, or without a cache, does not have that part.
        let parts = [("revision ", "revision", ""), ("", "cache_bytes", " bytes cached")].into_iter();
        let parts = parts.filter(|(_, name, _)| !of(name).is_empty());
        let parts = parts.map(|(before, name, after)| format!(", {before}{}{after}", of(name)));
        facts.push(("store", of("kind") + &parts.collect::<String>()));
    }
    facts.push(("log filter", text(state, "log_filter")));
    facts.push(("audit failures", text(state, "audit_failures")));
    output::facts(&facts);
    table(state, "checks", &["CHECK", "STATE"], |check| {
        let problem = text(check, "problem");
        let state = if check["ok"] == true { "ok".to_owned() } else { format!("FAILED {problem}") };
        vec![text(check, "check"), state.trim().to_owned()]
    });
    table(state, "crls", &["CRL", "ISSUER", "MADE", "EXPIRES"], |crl| {
        let expires = match text(crl, "next_update") {
            none if none.is_empty() => "there is none".to_owned(),
            at if crl["expired"] == true => format!("{at} EXPIRED"),
            at => at,
        };
        vec![text(crl, "crl"), text(crl, "issuer"), text(crl, "this_update"), expires]
    });
    table(state, "peers", &["DOMAIN", "SERVER", "CIRCUIT", "ANSWERS", "FAILURES"], |peer| {
        let circuit = if peer["circuit_open"] == true { "OPEN" } else { "closed" };
        let [domain, server, answers, failures] =
            ["domain", "server", "answers", "failures"].map(|member| text(peer, member));
        vec![domain, server, circuit.to_owned(), answers, failures]
    });
}

fn table(state: &Value, member: &str, head: &[&str], row: impl Fn(&Value) -> Vec<String>) {
    let rows: Vec<_> = state[member].as_array().into_iter().flatten().map(row).collect();
    if !rows.is_empty() {
        output::line("");
        output::table(head, rows);
    }
}
