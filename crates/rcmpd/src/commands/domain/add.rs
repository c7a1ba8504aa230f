//! `rcmpd domain add NAME`: a [[peer]] for the configuration, and the accounts and secrets that go with it.

use super::direction;
use crate::cli::{DirectionArg, PeerArgs, PeerKindArg};
use crate::clock::now;
use crate::commands::machine::{SecretFile, secret_file};
use crate::config::{self, Config, Direction, Problem};
use crate::output::{self, visible};
use crate::quickstart::make_folder;
use crate::stores;
use account_store::Put;
use account_store::file_access::write_new;
use account_store::machines::{ChannelKind, Machine, NtHash, Secrets};
use anyhow::{Context, bail};
use rcmp_service::explain::{shell_path, shell_quoted};
use serde_json::json;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

pub(super) async fn add(name: &str, peer: PeerArgs, path: &Path, as_json: bool) -> anyhow::Result<u8> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let old = config::load(path)?;
    let base = config::base(path);
    if old.domain.is_called(name) || super::find(&old, name).is_ok() {
        bail!("the domain {name} already exists");
    }
    let direction = match peer.direction {
        Some(DirectionArg::Inbound) => Direction::Inbound,
        Some(DirectionArg::Outbound) => Direction::Outbound,
        Some(DirectionArg::Both) => Direction::Both,
        None => bail!("--direction is missing: inbound, outbound or both"),
    };
    let has_place = !peer.server.is_empty() || peer.discovery || peer.via.is_some();
    if direction != Direction::Inbound && !has_place {
        bail!(
            "{name} needs servers to ask: --server HOST[:PORT], --discovery (by DNS), or --via DOMAIN (through another domain)"
        );
    }
    let is_direct = direction != Direction::Inbound && peer.via.is_none();
    let secret =
        is_direct.then(|| peer.secret_file.clone().unwrap_or_else(|| format!("trusts/{name}.secret").into()));
    let section = section(name, direction, &peer, secret.as_deref());
    let whole = format!("{}\n\n{section}", text.trim_end());
    // What can be wrong comes before anything is written.
    if let Err(problems) = config::parse(&whole, base) {
        bail!("{name} was not added: {}", without_lines(&problems));
    }
    let mut made = Vec::new();
    if let Some(secret) = &secret {
        make_secret(&base.join(secret), &mut made)?;
    }
    let inbound = (direction != Direction::Outbound).then(|| {
        peer.inbound_secret_file.clone().unwrap_or_else(|| format!("trusts/{name}.inbound.secret").into())
    });
    if let Some(inbound) = &inbound {
        make_account(&old, &name.to_uppercase(), &base.join(inbound), &mut made).await?;
    }
    replace(path, &whole)?;
    if as_json {
        output::json(&json!({
            "added": name.to_uppercase(), "direction": super::direction(direction), "secret": secret, "inbound_secret": inbound, "files": made,
        }));
        return Ok(0);
    }
    made.iter().for_each(|file| output::line(&format!("Created {}", file.display())));
    let (name, file) = (visible(name), path.display().to_string());
    // The name is that of a domain by now, so a shell and a terminal take it as it is.
    let (quoted, config) = (shell_quoted(&name), visible(&shell_path(&file)));
    output::lines(&format!(
        "Added {} ({}) to {}.\n\nTo print the commands for the other side:\n  rcmpd domain trust-commands -c {config} -- {quoted}\n\
         Reload a running service with SIGHUP. Then test the secure channel{}",
        name.to_uppercase(),
        self::direction(direction),
        visible(&file),
        match (direction, &peer.via) {
            (Direction::Inbound, _) => {
                format!(
                    " on the other side:\n  rcmpd domain test -c FILE -- {}",
                    visible(&shell_quoted(&old.domain.netbios))
                )
            }
            (_, Some(via)) =>
                format!(":\n  rcmpd domain test -c {config} -- {}", visible(&shell_quoted(via))),
            (_, None) => format!(":\n  rcmpd domain test -c {config} -- {quoted}"),
        }
    ));
    Ok(0)
}

/// Problems of a text that is not written, so that no line of a file is named.
pub(super) fn without_lines(problems: &[Problem]) -> String {
    let told = problems.iter().map(|problem| match problem.help.is_empty() {
        true => problem.what.clone(),
        false => format!("{} ({})", problem.what, problem.help),
    });
    told.collect::<Vec<_>>().join("; ")
}

/// The lines of the section.
fn section(name: &str, direction: Direction, peer: &PeerArgs, secret: Option<&Path>) -> String {
    let text = |text: &str| toml::Value::String(text.to_owned()).to_string();
    let list =
        |list: &[String]| format!("[{}]", list.iter().map(|item| text(item)).collect::<Vec<_>>().join(", "));
    let mut section = format!(
        "[[peer]]\ndomain = {}\nsid = {}\n",
        text(&name.to_uppercase()),
        text(peer.sid.as_deref().unwrap_or_default())
    );
    let mut line = |key: &str, value: String| {
        let _ = writeln!(section, "{key} = {value}");
    };
    line("names", list(&peer.names));
    line("direction", text(super::direction(direction)));
    if let Some(PeerKindArg::Rcmpd) = peer.kind {
        line("kind", text("rcmpd"));
    }
    if !peer.server.is_empty() {
        line("servers", list(&peer.server));
    }
    if peer.discovery {
        line("discovery", text("dns"));
    }
    for (key, value) in [("site", &peer.site), ("via", &peer.via), ("account", &peer.account)] {
        if let Some(value) = value {
            line(key, text(value));
        }
    }
    if let Some(channel) = peer.channel {
        line("channel", text(channel.name()));
    }
    if let Some(secret) = secret {
        line("secret", text(&format!("file:{}", secret.display())));
    }
    if !peer.transit.is_empty() {
        line("transit", list(&peer.transit));
    }
    if !peer.issuer.is_empty() {
        line("issuers", list(&peer.issuer));
    }
    section
}

/// Makes a secret, unless there is one.
fn make_secret(path: &Path, made: &mut Vec<PathBuf>) -> anyhow::Result<Zeroizing<String>> {
    if let Some(folder) = path.parent() {
        make_folder(folder, 0o755)?;
    }
    Ok(match secret_file(path)? {
        SecretFile::Read(password) => password,
        SecretFile::Made(password) => {
            made.push(path.to_owned());
            password
        }
    })
}

/// The account by which the peer asks us.
async fn make_account(
    config: &Config,
    name: &str,
    secret: &Path,
    made: &mut Vec<PathBuf>,
) -> anyhow::Result<()> {
    let store = stores::machines_with_secrets(config).await?;
    let account = format!("{name}$");
    if let Some(known) = store.machine(&account).await? {
        bail!("the machine account {} already exists; remove it first", known.machine.name);
    }
    let password = make_secret(secret, made)?;
    let machine = Machine {
        name: account,
        sid: store.domain().sid,
        kind: ChannelKind::TrustedDomain,
        enabled: true,
        rcmp: true,
        domains: vec![],
        groups: vec![],
    };
    let secrets = Secrets::first(NtHash::from_password(&password), now());
    store.put_machine(Put::New, machine, Some(secrets)).await?;
    Ok(())
}

/// Puts new text into the place of a file, all of it or nothing.
pub(super) fn replace(path: &Path, text: &str) -> anyhow::Result<()> {
    let failed = || format!("cannot write {}", path.display());
    let mode = std::fs::metadata(path).with_context(failed)?.permissions();
    let mut new = path.as_os_str().to_owned();
    new.push(format!(".{}.new", std::process::id()));
    let new = PathBuf::from(new);
    write_new(&new, text.as_bytes(), 0o600).with_context(|| format!("cannot write {}", new.display()))?;
    let moved = std::fs::set_permissions(&new, mode).and_then(|()| std::fs::rename(&new, path));
    if moved.is_err() {
        let _ = std::fs::remove_file(&new);
    }
    moved.with_context(failed)
}
