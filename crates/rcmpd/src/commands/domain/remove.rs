//! `rcmpd domain remove NAME`: takes a [[peer]] out of the configuration, and the account by which it asks
//! out of the store.

use super::add::{replace, without_lines};
use crate::config::{self, Config, SecretRef};
use crate::output::{self, visible};
use crate::stores;
use account_store::machines::ChannelKind;
use anyhow::{Context, bail};
use serde_json::json;
use std::path::{Path, PathBuf};

pub(super) async fn remove(name: &str, path: &Path, as_json: bool) -> anyhow::Result<u8> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let old = config::load(path)?;
    let base = config::base(path);
    if old.domain.is_called(name) {
        bail!("{name} is the served domain; only a trusted domain can be removed");
    }
    let peer = super::find(&old, name)?;
    let at = old.peers.iter().position(|other| other.domain == peer.domain).unwrap_or_default();
    let by_hand = || {
        format!(
            "{} has the [[peer]] of {} in a form that this command cannot edit: remove it by hand",
            path.display(),
            peer.domain
        )
    };
    let whole = without_peer(&text, at, old.peers.len()).with_context(by_hand)?;
    let new = match config::parse(&whole, base) {
        Ok(new) => new,
        Err(problems) => bail!("{} was not removed: {}", peer.domain, without_lines(&problems)),
    };
    // A section that was found by its lines is the one that was meant, and nothing else went with it.
    let domains = |config: &Config| config.peers.iter().map(|peer| peer.domain.clone()).collect::<Vec<_>>();
    let expected: Vec<_> = domains(&old).into_iter().filter(|domain| *domain != peer.domain).collect();
    if domains(&new) != expected {
        bail!(by_hand());
    }
    let account = format!("{}$", peer.domain);
    let machine = match old.store.is_some() {
        true => {
            let store = stores::machines(&old).await?;
            let known = store.machine(&account).await;
            let is_trust = |kind| matches!(kind, ChannelKind::TrustedDomain | ChannelKind::TrustedDnsDomain);
            let sid = known?.filter(|record| is_trust(record.machine.kind)).map(|record| record.machine.sid);
            sid.map(|sid| (store, sid))
        }
        false => None,
    };
    replace(path, &whole)?;
    let removed = machine.is_some();
    if let Some((store, sid)) = machine {
        store.remove_machine(sid).await?;
    }
    let mut left: Vec<PathBuf> = vec![base.join(format!("trusts/{}.inbound.secret", peer.domain))];
    if let Some(SecretRef::File(file)) = &peer.secret {
        left.insert(0, file.clone());
    }
    left.retain(|file| file.exists());
    if as_json {
        let account = removed.then_some(account);
        output::json(&json!({ "removed": peer.domain, "machine_removed": account, "files_left": left }));
        return Ok(0);
    }
    output::line(&format!("Removed {} from {}", peer.domain, path.display()));
    if removed {
        output::line(&format!("Removed the machine account {account}"));
    }
    left.iter()
        .for_each(|file| output::line(&format!("Still there: {}", visible(&file.display().to_string()))));
    output::line("Reload a running service with SIGHUP.");
    Ok(0)
}

/// A configuration without one of its `[[peer]]` sections. `None` if they are not all written as such.
fn without_peer(text: &str, at: usize, peers: usize) -> Option<String> {
    let lines: Vec<&str> = text.split_inclusive('\n').collect();
    let header = |line: &str| {
        let name = line.trim_start().strip_prefix('[')?;
        let name = name.strip_prefix('[').unwrap_or(name);
        Some(name.chars().filter(|c| !c.is_whitespace()).take_while(|c| *c != ']').collect::<String>())
    };
    let is_peer = |line: &str| header(line).is_some_and(|name| name == "peer");
    let starts: Vec<usize> = (0..lines.len()).filter(|line| is_peer(lines[*line])).collect();
    let start = *starts.get(at).filter(|_| starts.len() == peers)?;
    let is_other = |line: &str| header(line).is_some_and(|name| !name.starts_with("peer."));
    let end = (start + 1..lines.len()).find(|line| is_other(lines[*line])).unwrap_or(lines.len());
    // Comments in front of the next section are of that.
    let is_own = |line: &str| !line.trim().is_empty() && !line.trim_start().starts_with('#');
    let end = (start..end).rfind(|line| is_own(lines[*line])).map_or(end, |last| last + 1);
    let is_blank = |line: usize| lines.get(line).is_none_or(|line| line.trim().is_empty());
    let end =
        if start > 0 && is_blank(start - 1) && is_blank(end) { (end + 1).min(lines.len()) } else { end };
    Some([&lines[..start], &lines[end..]].concat().concat())
}

#[cfg(test)]
mod tests {
    use super::without_peer;

    const A: &str = "[[peer]]\ndomain = \"A\"\nissuers = [\n  \"CN=x\",\n]\n";
    const B: &str = "[[ peer ]]\ndomain = \"B\"\n[peer.extra]\nx = 1\n";

    #[test]
    fn one_section_goes_and_everything_else_stays() {
        let text = format!("[domain]\nx = 1\n\n# about A\n{A}\n# about B\n{B}\n# the end\n[admin]\ny = 2\n");
        assert_eq!(
            without_peer(&text, 0, 2).as_deref(),
            Some(&*format!("[domain]\nx = 1\n\n# about A\n\n# about B\n{B}\n# the end\n[admin]\ny = 2\n"))
        );
        assert_eq!(
            without_peer(&text, 1, 2).as_deref(),
            Some(&*format!("[domain]\nx = 1\n\n# about A\n{A}\n# about B\n\n# the end\n[admin]\ny = 2\n"))
        );
        let text = format!("[domain]\n\n{A}");
        assert_eq!(without_peer(&text, 0, 1).as_deref(), Some("[domain]\n\n"));
    }

    #[test]
    fn sections_that_are_not_found_by_their_lines_are_left() {
        assert_eq!(without_peer("peer = [{ domain = \"A\" }]\n", 0, 1), None);
        assert_eq!(without_peer(&format!("[domain]\nx = \"\"\"\n[[peer]]\n\"\"\"\n{A}"), 0, 1), None);
    }
}
