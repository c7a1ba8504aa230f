//! Explains whether a route lets an account in.

use super::identify;
use crate::clock::now;
use crate::config;
use anyhow::{Context, bail};
use rcmp_service::certificate::Certificate;
use rcmp_service::explain::{shell_path, shell_quoted};
use rcmp_service::message::MappingFlags;
use rcmp_service::visible::visible;
use rcmp_service::{Answer, Mapper};
use serde::Serialize;
use sidecar::Refusal;
use sidecar::routes::Routes;
use std::fmt;

/// What a route makes of an account.
#[derive(Clone, Debug, Serialize)]
pub struct RouteExplained {
    /// The host that is asked for.
    pub host: String,
    /// The path.
    pub path: String,
    /// The route that decides, counted from 1 in the order of the file; none where there are no routes, or
    /// none is for this.
    pub number: Option<usize>,
    /// The groups, SIDs and domains that it names.
    pub names: Vec<String>,
    /// The methods by which the sidecar asks.
    pub methods: Vec<&'static str>,
    /// Whether the decision was made by other methods, which the command names.
    #[serde(skip)]
    pub is_by_others: bool,
    /// Why the account is not let in, by its stable name.
    pub refused: Option<&'static str>,
    /// The status of the answer to the web server.
    pub status: u16,
    /// A command that lets the account in, if its groups alone keep it out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub command: Option<String>,
}

/// Decides about a URL, as the sidecar would.
pub fn explain(
    sidecar: &config::Sidecar,
    url: &str,
    answer: &Answer,
    mapper: &Mapper,
    (certificate, asked_by): (&[u8], MappingFlags),
    path_of_configuration: &str,
) -> anyhow::Result<RouteExplained> {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let (host, path) = rest.find('/').map_or((rest, "/"), |slash| rest.split_at(slash));
    if host.is_empty() {
        bail!("--url {url}: there is no host in it; write https://HOST/PATH");
    }
    let not_after = Certificate::parse(certificate).context("the certificate cannot be read")?.not_after;
    let routes = Routes::new(sidecar.routes.clone());
    let chosen = routes.choose(Some((host, path)));
    let identity = identify::identity(answer, mapper, not_after, now());
    let refused: Option<Refusal> = match (&chosen, &identity) {
        (_, Err(refusal)) | (Err(refusal), _) => Some(*refusal),
        (Ok(chosen), Ok(identity)) => chosen.admit(identity).err(),
    };
    let number = chosen.ok().and_then(|chosen| chosen.number);
    let group = number.and_then(|number| sidecar.routes.get(number)).and_then(|route| route.groups.first());
    let command = match (refused, &identity, group) {
        (Some(Refusal::NotAllowed), Ok(identity), Some(group)) if identity.is_ours => Some(format!(
            "rcmpd account set --group {} -c {} -- {}",
            shell_path(group),
            shell_path(path_of_configuration),
            shell_quoted(&identity.account)
        )),
        _ => None,
    };
    let is_printable = |command: &String| visible(command) == *command;
    let command = command.filter(is_printable);
    let names = number.and_then(|number| sidecar.routes.get(number)).map(|route| {
        let sids = route.sids.iter().map(ToString::to_string);
        let domains = route.domains.iter().map(|domain| format!("everybody of {domain}"));
        let strong = route.strong.then(|| "only strongly bound certificates".to_owned());
        route.groups.iter().cloned().chain(sids).chain(domains).chain(strong).collect()
    });
    Ok(RouteExplained {
        host: host.to_owned(),
        path: path.to_owned(),
        number: number.map(|number| number + 1),
        names: names.unwrap_or_default(),
        methods: names_of(sidecar.methods),
        is_by_others: asked_by != sidecar.methods,
        refused: refused.map(Refusal::name),
        status: refused.map_or(200, |refusal| refusal.status().as_u16()),
        command,
    })
}

/// Methods, as the configuration names them.
fn names_of(flags: MappingFlags) -> Vec<&'static str> {
    let has_chain = flags.contains(MappingFlags::ISSUER_CHAIN);
    let names = [
        ("upn", flags.contains(MappingFlags::UPN)),
        ("subject", flags.contains(MappingFlags::SUBJECT)),
        ("issuer", flags.contains(MappingFlags::ISSUER) && !has_chain),
        ("issuer-chain", has_chain),
    ];
    names.into_iter().filter(|(_, is_there)| *is_there).map(|(name, _)| name).collect()
}

impl fmt::Display for RouteExplained {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let others = if self.is_by_others { ", and this was decided by --methods" } else { "" };
        writeln!(f, "the sidecar asks by {}{others}", self.methods.join(", "))?;
        write!(f, "{}{}: ", self.host, self.path)?;
        match self.number {
            Some(number) => write!(f, "route {number}")?,
            None => f.write_str("no route")?,
        }
        if !self.names.is_empty() {
            write!(f, " ({})", self.names.join(", "))?;
        }
        match self.refused {
            None => write!(f, " lets in: {}", self.status),
            Some(refused) => write!(f, ", not let in ({refused}): {}", self.status),
        }?;
        match &self.command {
            Some(command) => write!(f, "\nif the account is to be let in:\n\n{command}\n"),
            None => Ok(()),
        }
    }
}
