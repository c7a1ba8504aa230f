//! `rcmpd replica`.

use super::load;
use crate::cli::ReplicaCommand;
use crate::config::Config;
use crate::output;
use crate::serve::replica::is_stale;
use crate::stores;
use serde_json::{Value, json};
use store_postgres::{Replica, Replicas};

/// The exit code if no server is there.
const NONE: u8 = 3;

pub(super) async fn run(command: ReplicaCommand) -> anyhow::Result<u8> {
    match command {
        ReplicaCommand::Status { config, json } => {
            let found = replicas(&load(&config.config)?).await?;
            match json.json {
                true => output::json(&to_json(&found)),
                false => print(&found),
            }
            Ok(if found.replicas.iter().all(is_stale) { NONE } else { 0 })
        }
    }
}

async fn replicas(config: &Config) -> anyhow::Result<Replicas> {
    Ok(stores::shared_database(config).await?.replicas().await?)
}

fn revisions([accounts, groups, machines]: [i64; 3]) -> Value {
    json!({ "accounts": accounts, "groups": groups, "machines": machines })
}

fn to_json(found: &Replicas) -> Value {
    let replica = |replica: &Replica| {
        let listeners: Vec<&str> = replica.facts.listeners.split(' ').collect();
        json!({
            "id": dtyp::hex(&replica.facts.id),
            "name": replica.facts.name,
            "listeners": listeners,
            "version": replica.facts.version,
            "tables_version": replica.tables_version,
            "revisions": revisions(replica.revisions),
            "behind": replica.behind,
            "up_s": replica.up.as_secs(),
            "seen_s": replica.seen.as_secs(),
            "clock_offset_ms": replica.clock_ms,
            "stale": is_stale(replica),
        })
    };
    let replicas: Vec<Value> = found.replicas.iter().map(replica).collect();
    json!({ "revisions": revisions(found.revisions), "replicas": replicas })
}

fn print(found: &Replicas) {
    let joined = |revisions: [i64; 3]| revisions.map(|it| it.to_string()).join("/");
    output::line(&format!("Revisions of accounts, groups and machines: {}", joined(found.revisions)));
    output::line("");
    let rows = found.replicas.iter().map(|replica| {
        let seen = format!("{} s", replica.seen.as_secs());
        vec![
            output::visible(&replica.facts.name),
            output::visible(&replica.facts.listeners),
            output::visible(&replica.facts.version),
            format!("{} s", replica.up.as_secs()),
            if is_stale(replica) { format!("{seen} STALE") } else { seen },
            joined(replica.revisions),
            replica.behind.to_string(),
            format!("{} ms", replica.clock_ms),
        ]
    });
    let head = ["SERVER", "LISTENERS", "VERSION", "UP", "SEEN", "REVISIONS", "BEHIND", "CLOCK"];
    output::table(&head, rows.collect());
}
