//! `rcmpd tlsnego session …`

use crate::cli::SessionCommand;
use crate::commands::{admin_port, load};
use crate::output;
use anyhow::{Context, bail};
use http::{Method, StatusCode};
use serde_json::{Value, json};

/// The members of a session, in the order of the table.
const COLUMNS: [(&str, &str); 6] = [
    ("KIND", "kind"),
    ("NAME", "name"),
    ("ACCOUNT", "account_sid"),
    ("CREDENTIAL", "credential"),
    ("SINCE", "since"),
    ("UNTIL", "until"),
];

pub(super) async fn run(command: SessionCommand) -> anyhow::Result<u8> {
    match command {
        SessionCommand::List { config, json } => {
            let (status, body) =
                admin_port::ask(&load(&config.config)?, Method::GET, "/tlsnego/sessions").await?;
            let sessions: Vec<Value> = read(status, &body)?;
            if json.json {
                output::json(&json!(sessions));
                return Ok(0);
            }
            let rows =
                sessions.iter().map(|session| COLUMNS.map(|(_, member)| text(session, member)).to_vec());
            output::table(&COLUMNS.map(|(head, _)| head), rows.collect());
            output::message(&output::counted(sessions.len() as u64, "session"));
            Ok(0)
        }
        SessionCommand::Show { name, config, json } => {
            let config = load(&config.config)?;
            let (status, body) = admin_port::ask(&config, Method::GET, &path(&name)).await?;
            found(status, &name)?;
            let session: Value = read(status, &body)?;
            match json.json {
                true => output::json(&session),
                false => {
                    let members =
                        ["kind", "name", "instance", "parent", "account_sid", "credential", "since", "until"];
                    output::facts(&members.map(|member| (member, text(&session, member))));
                }
            }
            Ok(0)
        }
        SessionCommand::Cancel { name, config, json } => {
            let config = load(&config.config)?;
            let (status, body) = admin_port::ask(&config, Method::DELETE, &path(&name)).await?;
            found(status, &name)?;
            // Of a session in a cookie, the node that is asked may know nothing but the name.
            let is_known = match status {
                StatusCode::NO_CONTENT => true,
                StatusCode::ACCEPTED => false,
                _ => bail!("{}", refused(status, &body)),
            };
            match (json.json, is_known) {
                (true, _) => output::json(&json!({ "cancelled": name, "known": is_known })),
                (false, true) => output::line(&format!("Cancelled {name}")),
                (false, false) => output::line(&format!(
                    "Cancelled {name}, which this node has not seen: if it is a session, no node serves it any more"
                )),
            }
            Ok(0)
        }
    }
}

fn found(status: StatusCode, name: &str) -> anyhow::Result<()> {
    match status {
        StatusCode::NOT_FOUND => {
            bail!(
                "there is no session {name}: it has ended, or the service has no [tlsnego]; `rcmpd tlsnego session list` names all"
            )
        }
        _ => Ok(()),
    }
}

fn read<T: serde::de::DeserializeOwned>(status: StatusCode, body: &[u8]) -> anyhow::Result<T> {
    match status {
        StatusCode::OK => serde_json::from_slice(body).context("the answer of the admin port cannot be read"),
        status => bail!("{}", refused(status, body)),
    }
}

fn refused(status: StatusCode, body: &[u8]) -> String {
    if status == StatusCode::UNAUTHORIZED {
        return "the running service has another admin.token than this configuration".to_owned();
    }
    format!("the admin port answered {status}: {}", String::from_utf8_lossy(body).trim())
}

fn text(session: &Value, member: &str) -> String {
    session[member].as_str().unwrap_or("-").to_owned()
}

/// The path of a session. Each octet of its name that could mean something else is escaped.
fn path(name: &str) -> String {
    let mut path = "/tlsnego/sessions/".to_owned();
    for octet in name.bytes() {
        match octet {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' => path.push(char::from(octet)),
            octet => path.push_str(&format!("%{octet:02X}")),
        }
    }
    path
}
