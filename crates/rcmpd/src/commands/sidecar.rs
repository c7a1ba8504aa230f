//! `rcmpd sidecar`.

use crate::cli::SidecarCommand;
use crate::output;
use account_store::file_access;
use anyhow::{Context, bail};
use pem_file::input;
use serde_json::json;
use std::path::Path;
use ticket::Root;
use zeroize::Zeroizing;

pub(super) fn run(command: SidecarCommand) -> anyhow::Result<u8> {
    match command {
        SidecarCommand::TicketKey { file, generation, json } => ticket_key(&file, generation, json.json),
    }
}

fn ticket_key(file: &Path, generation: u32, as_json: bool) -> anyhow::Result<u8> {
    if input::is_standard(file) {
        bail!("a key is not printed: give a file name");
    }
    let mut octets = Zeroizing::new([0; Root::LEN]);
    getrandom::fill(octets.as_mut()).context("the operating system has no randomness")?;
    let line = Root::new(generation, *octets).to_line();
    let line = Zeroizing::new(format!("{}\n", line.as_str()));
    file_access::write_new(file, line.as_bytes(), 0o600)
        .with_context(|| format!("cannot write {}", file.display()))?;
    match as_json {
        true => output::json(&json!({ "key": file, "generation": generation })),
        false => output::lines(&format!("Created {}, generation {generation}", file.display())),
    }
    Ok(0)
}
