//! Output of commands: what is printed of configurations, answers and errors of this program. The rest is in
//! `terminal-output`.

use crate::ask::{AskError, Mapped, ProvedPath};
use crate::config::ConfigError;
use dtyp::Sid;
use rcmp_service::proof::{HopStrength, Role, Signed, Verified};
use serde_json::{Value, json};
use std::collections::HashMap;
pub use terminal_output::*;

// INVARIANT: nothing else in this crate writes to standard output or standard error, except the log.

/// Prints help, the version, or an error of the command line parser.
pub fn usage(error: &clap::Error) {
    note(error.print());
}

/// Prints why a command failed.
pub fn failure(error: &anyhow::Error) {
    match error.downcast_ref::<ConfigError>() {
        // It shows lines of a file.
        Some(error) => message_lines(&format!("rcmpd: {error}")),
        None => message(&chain(error)),
    }
}

/// Names of well-known SIDs ([MS-DTYP] 2.4.2.4), for the groups of an answer.
pub fn well_known(sid: &Sid) -> Option<&'static str> {
    match *sid {
        Sid::AUTHENTICATION_AUTHORITY_ASSERTED_IDENTITY => {
            return Some("Authentication authority asserted identity");
        }
        Sid::SERVICE_ASSERTED_IDENTITY => return Some("Service asserted identity"),
        _ => {}
    }
    let (domain, rid) = sid.split_rid()?;
    if !domain.is_domain() {
        return None;
    }
    Some(match rid {
        512 => "Domain Admins",
        513 => "Domain Users",
        514 => "Domain Guests",
        515 => "Domain Computers",
        516 => "Domain Controllers",
        518 => "Schema Admins",
        519 => "Enterprise Admins",
        _ => return None,
    })
}

/// The name of a group: that in the store, or a well-known one.
fn group_name<'a>(sid: &Sid, names: &'a HashMap<Sid, String>) -> Option<&'a str> {
    names.get(sid).map(String::as_str).or_else(|| well_known(sid))
}

/// An answer as JSON, with names of groups from the local store. Scripts rely on its keys: add keys, do not
/// rename them.
pub fn mapped_json(mapped: &Mapped, names: &HashMap<Sid, String>) -> Value {
    let info = &mapped.pac.logon_info;
    let groups: Vec<Value> = info
        .groups()
        .iter()
        .map(|group| {
            json!({ "sid": group.sid.to_string(), "name": group_name(&group.sid, names), "attributes": group.attributes })
        })
        .collect();
    let upn = mapped.pac.upn_dns_info.as_ref();
    json!({
        "account": info.effective_name.text,
        "domain": mapped.domain,
        "method": mapped.method.map(|method| method.name()),
        "sid": mapped.pac.user_sid.to_string(),
        "upn": upn.map(|upn| &upn.upn),
        "full_name": info.full_name.text,
        "groups": groups,
        "path": mapped.path.as_ref().map(path_json),
        "pac": {
            "buffers": mapped.pac.buffer_types.iter().map(|buffer| buffer.0).collect::<Vec<_>>(),
            "logon_time": info.logon_time.to_string(),
            "logoff_time": info.logoff_time.to_string(),
            "kick_off_time": info.kick_off_time.to_string(),
            "password_last_set": info.password_last_set.to_string(),
            "password_can_change": info.password_can_change.to_string(),
            "password_must_change": info.password_must_change.to_string(),
            "logon_server": info.logon_server.text,
            "logon_domain_name": info.logon_domain_name.text,
            "logon_domain_sid": info.logon_domain_id.to_string(),
            "user_id": info.user_id,
            "primary_group_id": info.primary_group_id,
            "user_flags": info.user_flags,
            "user_account_control": info.user_account_control,
            "logon_count": info.logon_count,
            "bad_password_count": info.bad_password_count,
            "dns_domain_name": upn.map(|upn| &upn.dns_domain_name),
            "upn_is_constructed": upn.map(|upn| upn.is_constructed),
        },
    })
}

fn path_json(path: &ProvedPath) -> Value {
    let hops: Vec<Value> = path
        .hops
        .iter()
        .map(|Verified { hop, signed }| {
            json!({
                "domain": hop.domain,
                "server": hop.server,
                "role": role_name(hop.role),
                "strength": strength_name(hop.strength),
                "signature": signature_name(*signed),
                "policy_revision": hop.policy_revision,
                "account_sid": hop.account_sid.to_string(),
                "at": hop.at.to_string(),
            })
        })
        .collect();
    json!({
        "hops": hops,
        "strong_at_every_hop": path.weakness.is_none(),
        "weakness": path.weakness.map(|weakness| weakness.to_string()),
    })
}

const fn role_name(role: Role) -> &'static str {
    match role {
        Role::Answered => "answered",
        Role::Forwarded => "forwarded",
    }
}

const fn strength_name(strength: HopStrength) -> &'static str {
    match strength {
        HopStrength::Unknown => "unknown",
        HopStrength::Weak => "weak",
        HopStrength::Strong => "strong",
    }
}

const fn signature_name(signed: Signed) -> &'static str {
    match signed {
        Signed::Good => "good",
        Signed::Unknown => "unknown",
        Signed::Bad => "bad",
    }
}

/// Prints an answer, with names of groups from the local store.
pub fn mapped(mapped: &Mapped, names: &HashMap<Sid, String>) {
    let info = &mapped.pac.logon_info;
    let mut lines = vec![
        ("account", format!("{}\\{}", mapped.domain, info.effective_name.text)),
        ("sid", mapped.pac.user_sid.to_string()),
    ];
    if let Some(upn) = &mapped.pac.upn_dns_info {
        let note = if upn.is_constructed { " (constructed from the account name)" } else { "" };
        lines.push(("upn", format!("{}{note}", upn.upn)));
    }
    if !info.full_name.text.is_empty() {
        lines.push(("name", info.full_name.text.clone()));
    }
    if let Some(method) = mapped.method {
        lines.push(("found by", method.name().to_owned()));
    }
    lines.push(("answered by", info.logon_server.text.clone()));
    lines.push(("logoff at", info.logoff_time.to_string()));
    facts(&lines);
    line("");
    let groups = info.groups();
    let mut has_all_names = true;
    let rows = groups.iter().map(|group| {
        let name = group_name(&group.sid, names);
        has_all_names &= name.is_some();
        let kind = match group.attributes & 0x2000_0000 {
            0 if group.sid.rid_in(&info.logon_domain_id).is_some() => "domain",
            0 => "extra",
            _ => "local",
        };
        vec![group.sid.to_string(), kind.to_owned(), name.unwrap_or_default().to_owned()]
    });
    let rows = rows.collect();
    table(&["group", "kind", "name"], rows);
    if !has_all_names {
        line("");
        line("An answer has the SIDs of groups, not their names.");
        line("On the server, `rcmpd group show SID -c FILE` prints the name.");
    }
    if let Some(path) = &mapped.path {
        let rows = path.hops.iter().map(|Verified { hop, signed }| {
            vec![
                hop.domain.clone(),
                hop.server.clone(),
                role_name(hop.role).to_owned(),
                strength_name(hop.strength).to_owned(),
                signature_name(*signed).to_owned(),
                hop.policy_revision.to_string(),
                hop.at.to_string(),
            ]
        });
        line("");
        table(&["hop", "server", "did", "strength", "signature", "policy", "at"], rows.collect());
        line(&match &path.weakness {
            None => "strong at every hop".to_owned(),
            Some(weakness) => format!("not strong at every hop: {weakness}"),
        });
    }
}

/// Prints a failure of a question, with a hint.
pub fn ask_error(error: &AskError, as_json: bool) {
    if as_json {
        let status = error.status();
        let status = status.map(|it| json!({ "name": it.name(), "value": format!("0x{:08x}", it.0) }));
        json(
            &json!({ "error": error.to_string(), "status": status, "exit_code": error.exit_code(), "hint": error.hint() }),
        );
    }
    match error {
        // It may show lines of a configuration.
        AskError::Input(_) => message_lines(&format!("rcmpd: {error}")),
        _ => message(&error.to_string()),
    }
    if !error.hint().is_empty() {
        message_lines(&format!("       {}", error.hint()));
    }
}
