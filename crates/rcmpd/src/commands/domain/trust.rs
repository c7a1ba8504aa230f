//! `rcmpd domain test` and `rotate`: our account at another domain.

use crate::ask::AskError;
use crate::config::{Config, Peer, PeerKind, SecretRef, Servers as At};
use crate::forward::Forwarding;
use crate::output;
use crate::quickstart::random_password;
use anyhow::{Context, bail};
use netlogon_tokio::{ServerFailed, Servers};
use netlogon_transport::secret::SharedSecret;
use secret_ref::rotation;
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use zeroize::Zeroizing;

/// How long a rotation may take.
const ROTATE_TIMEOUT: Duration = Duration::from_secs(30);
/// It is not known what happened, as with [`AskError::exit_code`].
const UNKNOWN: u8 = 7;

/// Sets a channel up to each server of a domain; of our own, to those that packages are relayed to.
pub(super) async fn test(config: &Config, name: &str, timeout: u64, as_json: bool) -> anyhow::Result<u8> {
    let forwarding = Forwarding::load(config, None)?;
    let targets = targets(config, &forwarding, name)?;
    let mut results = Vec::new();
    for servers in targets {
        let timeout = Duration::from_secs(timeout);
        let clients = servers.find(Instant::now() + timeout).await;
        for client in clients {
            let begun = Instant::now();
            let outcome = client.probe(begun + timeout).await;
            results.push((client.server().to_owned(), outcome, begun.elapsed()));
        }
    }
    let code = results.iter().map(|(_, outcome, _)| outcome.as_ref().err().map_or(0, exit_code)).max();
    // No server was found that could be asked.
    let code = code.unwrap_or(4);
    let text = |outcome: &Result<(), ServerFailed>| match outcome {
        Ok(()) => "good".to_owned(),
        Err(failed) => failed.to_string(),
    };
    match as_json {
        true => {
            let servers = results.iter().map(|(server, outcome, took)| {
                json!({ "server": server, "good": outcome.is_ok(), "result": text(outcome), "ms": took.as_millis() as u64 })
            });
            let bad = results.iter().filter(|(_, outcome, _)| outcome.is_err());
            let bad: Vec<_> =
                bad.map(|(server, outcome, _)| format!("{server}: {}", text(outcome))).collect();
            let error = match code {
                0 => None,
                _ if bad.is_empty() => Some(format!("{name} has no server to ask")),
                _ => Some(bad.join("; ")),
            };
            error.iter().for_each(|error| output::message(error));
            output::json(&json!({
                "domain": name, "servers": servers.collect::<Vec<_>>(), "error": error, "exit_code": code,
            }));
        }
        false => {
            let rows = results.iter().map(|(server, outcome, took)| {
                vec![server.clone(), text(outcome), format!("{} ms", took.as_millis())]
            });
            // A cut text would lose the cause.
            if !output::table(&["server", "channel", "took"], rows.collect()) {
                output::line("");
                results
                    .iter()
                    .for_each(|(server, outcome, _)| output::line(&format!("{server}: {}", text(outcome))));
            }
        }
    }
    Ok(code)
}

/// As [`AskError::exit_code`] has it.
fn exit_code(failed: &ServerFailed) -> u8 {
    match failed {
        ServerFailed::Refused(text) => AskError::Channel(text.clone()).exit_code(),
        other => AskError::Unreachable(other.to_string()).exit_code(),
    }
}

fn targets(config: &Config, forwarding: &Forwarding, name: &str) -> anyhow::Result<Vec<Arc<Servers>>> {
    let (wanted, is_relay) = match config.domain.is_called(name) {
        true => (config.domain.netbios.clone(), true),
        false => {
            let peer = super::find(config, name)?;
            match &peer.servers {
                Some(At::Via(via)) => bail!("{} is reached through {via}: test {via} instead", peer.domain),
                None => bail!(
                    "{} is not asked (direction inbound); run the test in that domain: rcmpd domain test {}",
                    peer.domain,
                    config.domain.netbios
                ),
                Some(_) => (peer.domain.clone(), false),
            }
        }
    };
    let of = forwarding
        .servers()
        .filter(|(domain, package, _)| *domain == wanted && package.is_some() == is_relay);
    let servers: Vec<_> = of.map(|(.., servers)| Arc::clone(servers)).collect();
    match servers.is_empty() {
        true => bail!("nothing is relayed to {wanted}"),
        false => Ok(servers),
    }
}

/// Gives our account at a domain a new secret, and with `at_once` uses it, which ends the one before.
pub(super) async fn rotate(config: &Config, name: &str, at_once: bool, as_json: bool) -> anyhow::Result<u8> {
    let peer = super::find(config, name)?;
    let path = match &peer.secret {
        Some(SecretRef::File(path)) => path.clone(),
        Some(_) => bail!("only a secret in a file can be changed: secret = \"file:…\""),
        None => bail!("{} is not asked directly, so there is no secret to change", peer.domain),
    };
    let forwarding = Forwarding::load(config, None)?;
    let servers = targets(config, &forwarding, name)?;
    let deadline = Instant::now() + ROTATE_TIMEOUT;
    let interrupted = SecretRef::File(rotation::next(&path)).read().ok();
    let mut failed = None;
    for client in servers[0].find(deadline).await {
        // A rotation that was interrupted comes first: the other side may know the new secret already, and
        // then it lets the one before, which it still accepts, choose no other. To know the new one, it has
        // to be used.
        let next = interrupted.as_ref().map(|next| SharedSecret::from_password(next));
        let used = match client.secret_in_use(next.as_ref(), deadline).await {
            Ok(used) => used,
            Err(error) => {
                failed = failed.or(Some((client.server().to_owned(), error)));
                continue;
            }
        };
        // The other side knows the new one already; only the files did not get so far.
        if next.as_ref() == Some(&used) {
            rotation::advance(&path).with_context(|| format!("cannot move {}", path.display()))?;
            return report(peer, client.server(), "an interrupted rotation was completed", as_json);
        }
        // What was offered once is offered again: it may yet be taken.
        let new = match &interrupted {
            Some(next) => next.clone(),
            None => {
                let new = Zeroizing::new(random_password()?);
                let written = rotation::write_next(&path, &new);
                written.with_context(|| format!("cannot write beside {}", path.display()))?;
                new
            }
        };
        if let Err(error) = client.set_password(&new, deadline).await {
            let text = format!(
                "{}: {error}; it is unknown whether the secret was changed, so both are kept; run `rcmpd domain rotate` again",
                client.server()
            );
            return Ok(failed_with(UNKNOWN, &text, as_json));
        }
        rotation::advance(&path).with_context(|| {
            format!("the secret was changed, but {} cannot be moved: run this again", path.display())
        })?;
        if at_once && let Err(error) = client.use_secret(&SharedSecret::from_password(&new), deadline).await {
            let text = format!(
                "{}: the secret was changed, but it could not be used: {error}; the previous one ends at the first use of the new one, or after a day",
                client.server()
            );
            return Ok(failed_with(exit_code(&error), &text, as_json));
        }
        // Another server may keep the one before for longer.
        let done = match (at_once, peer.kind) {
            (true, PeerKind::Rcmpd) => "the secret was changed, and the previous one has ended",
            (true, PeerKind::Netlogon) => "the secret was changed, and the new one is in use",
            (false, _) => "the secret was changed",
        };
        return report(peer, client.server(), done, as_json);
    }
    let (code, text) = match failed {
        Some((server, error)) => (exit_code(&error), format!("{server}: {error}; nothing was changed")),
        None => (4, format!("{} has no server to ask; nothing was changed", peer.domain)),
    };
    Ok(failed_with(code, &text, as_json))
}

fn failed_with(code: u8, text: &str, as_json: bool) -> u8 {
    if as_json {
        output::json(&json!({ "error": text, "exit_code": code }));
    }
    output::message(text);
    code
}

fn report(peer: &Peer, server: &str, what: &str, as_json: bool) -> anyhow::Result<u8> {
    match as_json {
        true => output::json(
            &json!({ "domain": peer.domain, "server": server, "account": peer.account, "done": what }),
        ),
        false => output::line(&format!("{} at {} ({server}): {what}", peer.account, peer.domain)),
    }
    Ok(0)
}
