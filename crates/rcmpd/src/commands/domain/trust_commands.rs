//! `rcmpd domain trust-commands`: what to run on the other side.

use crate::cli::SideArg;
use crate::config::{Config, Direction, Peer, PeerKind, SecretRef};
use crate::output;
use account_store::ChannelKind;
use anyhow::bail;
use rcmp_service::explain::{powershell_quoted, shell_quoted};
use rcmp_service::visible::is_hidden;
use serde_json::json;
use std::path::Path;

pub(super) fn print(
    config: &Config,
    name: &str,
    sides: &[SideArg],
    path: &Path,
    as_json: bool,
) -> anyhow::Result<u8> {
    let peer = super::find(config, name)?;
    if peer.is_asked() && peer.secret.is_none() && !peer.may_ask() {
        bail!("{} is reached through another peer, so there are no commands for it", peer.domain);
    }
    let trust = Trust { config, peer, path };
    // Names of domains and accounts are checked when the configuration is read; paths are not.
    let here = trust.secret_here();
    let named = [Some(peer.account.as_str()), here.as_deref(), path.to_str()].into_iter().flatten();
    if let Some(name) = named.into_iter().find(|name| name.chars().any(is_hidden)) {
        bail!("no commands are printed, because {name} has invisible or control characters");
    }
    let all = [SideArg::Rcmpd, SideArg::Samba, SideArg::Powershell];
    let wanted = all.into_iter().filter(|side| sides.is_empty() || sides.contains(side));
    let printed: Vec<(&str, &str, Vec<String>)> = wanted
        .map(|side| match side {
            SideArg::Rcmpd => ("ours", "if the other side runs rcmpd", trust.rcmpd()),
            SideArg::Samba => ("samba", "on a Samba domain controller", trust.samba()),
            SideArg::Powershell => {
                ("powershell", "on a Windows domain controller, in PowerShell", trust.powershell())
            }
        })
        .collect();
    match as_json {
        true => {
            let sides = printed.iter().map(|(side, _, lines)| ((*side).to_owned(), json!(lines)));
            output::json(&serde_json::Value::Object(sides.collect()));
        }
        false => {
            for (at, (_, title, lines)) in printed.iter().enumerate() {
                let gap = if at == 0 { "" } else { "\n" };
                output::lines(&format!("{gap}# {title}"));
                lines.iter().for_each(|line| output::line(line));
            }
        }
    }
    Ok(0)
}

/// A name for `samba-tool`, to which operators append options such as `-s smb.conf`: with `--` only where it
/// would be taken for an option.
fn operand(name: &str) -> String {
    let quoted = shell_quoted(name);
    if name.starts_with('-') { format!("-- {quoted}") } else { quoted }
}

struct Trust<'a> {
    config: &'a Config,
    peer: &'a Peer,
    path: &'a Path,
}

impl Trust<'_> {
    /// Where the secret of our account there is, here.
    fn secret_here(&self) -> Option<String> {
        match &self.peer.secret {
            Some(SecretRef::File(path)) => Some(path.display().to_string()),
            Some(_) => Some("the secret of this [[peer]]".to_owned()),
            None => None,
        }
    }

    /// Its name, wherever it was brought.
    fn secret_file(&self) -> String {
        match &self.peer.secret {
            Some(SecretRef::File(path)) => {
                path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
            }
            _ => "FILE".to_owned(),
        }
    }

    /// Our account there, without the dollar sign.
    fn computer(&self) -> &str {
        self.peer.account.trim_end_matches('$')
    }

    fn is_member(&self) -> bool {
        matches!(self.peer.channel, ChannelKind::Workstation | ChannelKind::Server)
    }

    fn rcmpd(&self) -> Vec<String> {
        let domain = &self.config.domain;
        let there = format!("trusts/{}", domain.netbios);
        let mut lines = Vec::new();
        if let Some(here) = self.secret_here() {
            lines.push(format!("# first bring {here} over, as {there}.inbound.secret"));
        }
        if self.peer.may_ask() {
            let base = crate::config::base(self.path);
            let here = base.join(format!("trusts/{}.inbound.secret", self.peer.domain));
            lines.push(format!("# first bring {} over, as {there}.secret", here.display()));
        }
        if self.is_member() && self.secret_here().is_some() {
            let kind = if self.peer.channel == ChannelKind::Server { "server" } else { "workstation" };
            lines.push(format!(
                "rcmpd machine add --kind {kind} --secret-file {} --permission rcmp -c FILE -- {}",
                shell_quoted(&format!("{there}.inbound.secret")),
                shell_quoted(&self.peer.account)
            ));
            if !self.peer.may_ask() {
                return lines;
            }
        }
        let direction = match self.peer.direction {
            Direction::Outbound => "inbound",
            Direction::Inbound => "outbound",
            Direction::Both => "both",
        };
        let mut command = format!(
            "rcmpd domain add --sid {} --name={} --direction {direction}",
            domain.sid,
            shell_quoted(&domain.dns)
        );
        if self.peer.kind == PeerKind::Rcmpd {
            command.push_str(" --kind rcmpd");
        }
        if self.peer.may_ask() {
            let listen = self.config.rpc.iter().flat_map(|rpc| &rpc.listen);
            for address in listen {
                // Everywhere is no place to go to.
                match address.ip().is_unspecified() {
                    true => command.push_str(&format!(" --server HOST:{}", address.port())),
                    false => command.push_str(&format!(" --server {address}")),
                }
            }
        }
        lines.push(format!("{command} -c FILE -- {}", shell_quoted(&domain.netbios)));
        lines
    }

    fn samba(&self) -> Vec<String> {
        let Some(here) = self.secret_here() else {
            return vec!["# a Samba domain does not ask others to map certificates".to_owned()];
        };
        let mut lines = Vec::new();
        if !self.is_member() {
            lines.push(
                "# samba-tool makes trusts with domain controllers only; a machine account does: channel = \"workstation\" in the [[peer]]".to_owned(),
            );
        }
        lines.push(format!("# with {here} at hand"));
        lines.push(format!("samba-tool computer create {}", operand(self.computer())));
        lines.push(format!(
            "samba-tool user setpassword --newpassword=\"$(head -n 1 -- {} | tr -d '\\r')\" {}",
            shell_quoted(&self.secret_file()),
            operand(&self.peer.account)
        ));
        lines
    }

    fn powershell(&self) -> Vec<String> {
        let domain = &self.config.domain;
        let read = |file: &str| format!("$password = Get-Content {} -TotalCount 1", powershell_quoted(file));
        if let Some(here) = self.secret_here().filter(|_| self.is_member()) {
            return vec![
                format!("# with {here} at hand"),
                read(&self.secret_file()),
                format!(
                    "New-ADComputer -Name {} -Enabled $true -AccountPassword (ConvertTo-SecureString $password -AsPlainText -Force)",
                    powershell_quoted(self.computer())
                ),
            ];
        }
        // The domain that is asked is the one that is trusted. Each direction has a secret of its own.
        let inbound = format!("{}.inbound.secret", self.peer.domain);
        let ways = [
            (self.peer.is_asked(), self.secret_file(), "Inbound"),
            (self.peer.may_ask(), inbound, "Outbound"),
        ];
        let mut lines = Vec::new();
        for (_, file, direction) in ways.into_iter().filter(|(is_there, ..)| *is_there) {
            lines.push(format!("# with {file} at hand"));
            lines.push(read(&file));
            lines.push(format!(
                "[System.DirectoryServices.ActiveDirectory.Domain]::GetCurrentDomain().CreateLocalSideOfTrustRelationship({}, '{direction}', $password)",
                powershell_quoted(&domain.dns)
            ));
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::operand;

    #[test]
    fn a_name_is_never_an_option_of_samba_tool() {
        assert_eq!(operand("WEB01$"), "'WEB01$'");
        assert_eq!(operand("-s"), "-- -s");
        assert_eq!(operand("--help$"), "-- '--help$'");
    }
}
