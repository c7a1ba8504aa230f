//! `rcmpd config …`: the configuration file itself.

mod init;

use super::config_file;
use crate::cli::ConfigCommand;
use crate::config;
use crate::config::shown::{Origin, Shown};
use crate::output;
use serde_json::{Value, json};
use std::path::Path;

pub(super) async fn run(command: ConfigCommand) -> anyhow::Result<u8> {
    match command {
        ConfigCommand::Show { config, json } => show(&config_file(&config)?, json.json),
        ConfigCommand::Schema => {
            output::json(&config::schema::json_schema());
            Ok(0)
        }
        ConfigCommand::Init(args) => init::run(*args).await,
    }
}

fn show(path: &Path, as_json: bool) -> anyhow::Result<u8> {
    let (_, text) = config::load_with_text(path)?;
    let rows = config::shown::shown(&text, |name| std::env::var(name).ok());
    let file = path.display().to_string();
    if as_json {
        let keys: Vec<Value> = rows.iter().map(|row| json_row(row, &file)).collect();
        output::json(&json!({ "file": file, "keys": keys }));
    } else if output::is_terminal() {
        let cells = rows.into_iter().map(|row| {
            let origin = origin(&row.origin, &file);
            vec![row.path, row.value.unwrap_or(row.otherwise), origin]
        });
        output::table(&["KEY", "VALUE", "FROM"], cells.collect());
    } else {
        output::lines(toml_text(&rows, &file).trim_end());
    }
    Ok(0)
}

fn origin(origin: &Origin, file: &str) -> String {
    match origin {
        Origin::Line(line) => format!("{file}:{line}"),
        Origin::Default => "default".to_owned(),
        Origin::Environment(name) => format!("environment: {name}"),
    }
}

fn json_row(row: &Shown, file: &str) -> Value {
    let value = row.value.as_ref().filter(|_| !row.is_hidden());
    let value = value.and_then(|value| toml::from_str::<toml::Table>(&format!("key = {value}")).ok());
    let mut shown = json!({ "key": row.path, "value": value.as_ref().and_then(|table| table.get("key")) });
    let origin = match &row.origin {
        Origin::Line(line) => {
            shown["file"] = json!(file);
            shown["line"] = json!(line);
            "file"
        }
        Origin::Default => "default",
        Origin::Environment(name) => {
            shown["variable"] = json!(name);
            "environment"
        }
    };
    shown["origin"] = json!(origin);
    if row.value.is_none() || row.is_hidden() {
        shown["note"] = json!(row.value.as_ref().unwrap_or(&row.otherwise));
    }
    shown
}

/// The file as it would be with all defaults in it. The origin of each value is a comment.
fn toml_text(rows: &[Shown], file: &str) -> String {
    let mut text = String::new();
    // Each table of an array has its own header.
    let table = |row: &Shown| row.path.len() - row.key.len();
    let mut open: Option<&str> = None;
    for row in rows {
        let place = &row.path[..table(row)];
        if open != Some(place) {
            text.push_str(&format!("\n{}\n", row.table));
            open = Some(place);
        }
        let from = origin(&row.origin, file);
        match &row.value {
            Some(value) if !row.is_hidden() => text.push_str(&format!("{} = {value} # {from}\n", row.key)),
            value => {
                let value = value.as_ref().unwrap_or(&row.otherwise);
                let from = match row.origin {
                    Origin::Environment(_) => format!(" # {from}"),
                    _ => String::new(),
                };
                text.push_str(&format!("# {}: {value}{from}\n", row.key));
            }
        }
    }
    text.trim_start().to_owned()
}
