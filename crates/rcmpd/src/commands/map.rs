//! `rcmpd map` and `rcmpd explain`.

use super::{UNUSABLE, failed};
use crate::ask::{self, AskError, ProofWanted, Target};
use crate::cli::MapArgs;
use crate::clock::now;
use crate::config::{self, Config, ConfigError, SIDECAR_METHODS, SecretRef, usual_key_purposes};
use crate::forward::Forwarding;
use crate::output;
use crate::{stores, trust};
use dtyp::Sid;
use ed25519_file::PublicKey;
use netlogon_tokio::Discovery;
use rcmp_service::message::{MappingFlags, Request};
use rcmp_service::trust::{Parts, Revocation, Trust};
use rcmp_service::{Reason, Validation};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use trust_tokio::certificates::{Chain, read_anchors};

pub(super) async fn map(args: MapArgs) -> anyhow::Result<u8> {
    let as_json = args.json.json;
    match asked(args).await {
        Ok((mapped, names)) => {
            match as_json {
                true => output::json(&output::mapped_json(&mapped, &names)),
                false => output::mapped(&mapped, &names),
            }
            Ok(0)
        }
        Err(Failed::Asking(error)) => {
            output::ask_error(&error, as_json);
            Ok(error.exit_code())
        }
        Err(Failed::Usage(text)) => Err(failed(2, text)),
        Err(Failed::Config(error)) => Err(error.into()),
    }
}

enum Failed {
    Asking(AskError),
    Usage(String),
    Config(ConfigError),
}

impl From<AskError> for Failed {
    fn from(error: AskError) -> Self {
        Self::Asking(error)
    }
}

/// The answer, and the names that its groups have in the store of the configuration.
async fn asked(args: MapArgs) -> Result<(ask::Mapped, HashMap<Sid, String>), Failed> {
    let default = || args.server.is_none().then(crate::cli::default_config).flatten();
    let config = match &args.config.clone().or_else(default) {
        Some(path) => Some(config::load(path).map_err(Failed::Config)?),
        None => None,
    };
    let client = config.as_ref().and_then(|config| config.client.clone());
    let (servers, account, secret) = match (args.server, args.machine, args.secret_file, client) {
        (Some(server), Some(account), Some(file), _) => (listed(server), account, SecretRef::File(file)),
        (None, None, None, Some(client)) => (client.servers, client.account, client.secret),
        (None, None, None, None) if config.is_some() => {
            return Err(Failed::Usage(
                "the configuration has no [client]; add it, or give --server, --machine and --secret-file"
                    .into(),
            ));
        }
        (server, account, file, client) => match client {
            // Single values may take the place of the configuration's.
            Some(client) => (
                server.map_or(client.servers, listed),
                account.unwrap_or(client.account),
                file.map_or(client.secret, SecretRef::File),
            ),
            None => {
                return Err(Failed::Usage(
                    "no server to ask: give -c FILE, or --server, --machine and --secret-file".into(),
                ));
            }
        },
    };
    let domain = match (&config, &args.domain) {
        (Some(config), _) => config.domain.netbios.clone(),
        (None, Some(domain)) => domain.clone(),
        (None, None) => {
            return Err(Failed::Usage("no domain: without a configuration, give --domain".into()));
        }
    };
    let chain = Chain::read(&args.certificate, args.chain.as_deref())
        .map_err(|error| AskError::Input(error.to_string()))?;
    warn_of_strays(&chain);
    if args.verify {
        verify(&chain, &args.anchors, config.as_ref()).await?;
    }
    let proof = proof_wanted(
        args.proof || args.require_strong,
        args.require_strong,
        &args.proof_key,
        config.as_ref(),
    )?;
    let servers = names_of(servers, config.as_ref()).await?;
    let timeout = Duration::from_secs(args.timeout);
    let target = Target { server: String::new(), domain, account, secret, timeout, proof };
    let (flags, domain) = (super::flags(&args.methods), args.domain.as_deref());
    let mapped = map_by_one_of(&servers, target, &chain, flags, domain).await?;
    let names = match &config {
        Some(config) => {
            let groups = mapped.pac.logon_info.groups();
            stores::group_names(config, groups.iter().map(|group| group.sid)).await
        }
        None => HashMap::new(),
    };
    Ok((mapped, names))
}

fn listed(server: String) -> config::Servers {
    config::Servers::Listed(vec![server])
}

/// The servers, in the order in which to ask them.
async fn names_of(servers: config::Servers, config: Option<&Config>) -> Result<Vec<String>, AskError> {
    match (servers, config) {
        (config::Servers::Listed(servers), _) => Ok(servers),
        (config::Servers::Discovered { site, dns }, Some(config)) => {
            let discovery = Discovery::new(&config.domain.dns, site.as_deref(), &dns);
            let discovery = discovery.map_err(|error| AskError::Input(error.to_string()))?;
            let located = discovery.servers().await;
            let located = located.map_err(|error| AskError::Unreachable(error.to_string()))?;
            Ok(located.found.into_iter().map(|found| found.host).collect())
        }
        _ => Err(AskError::Input("[client] has no server".to_owned())),
    }
}

/// Asks one server after the other until one decides. Each of them has its share of the time.
async fn map_by_one_of(
    servers: &[String],
    target: Target,
    chain: &Chain,
    flags: MappingFlags,
    domain: Option<&str>,
) -> Result<ask::Mapped, AskError> {
    let until = Instant::now() + target.timeout;
    for (at, server) in servers.iter().enumerate() {
        let is_last = at + 1 == servers.len();
        let share = until.saturating_duration_since(Instant::now()) / (servers.len() - at) as u32;
        let timeout = if servers.len() == 1 { target.timeout } else { share };
        let one = Target { server: server.clone(), timeout, ..target.clone() };
        match ask::map(&one, chain, flags, domain).await {
            Err(error) if !is_last && error.is_no_decision() => {
                output::message(&format!("warning: {server}: {error}; the next server is asked"));
            }
            decided => return decided,
        }
    }
    Err(AskError::Input("[client] has no server".to_owned()))
}

/// Warns of certificates that are not part of the request: the wrong file may have been given.
fn warn_of_strays(chain: &Chain) {
    for subject in chain.strays() {
        output::message(&format!(
            "warning: {subject} is not in the chain of the certificate, so its name is not sent"
        ));
    }
}

/// Validates the chain of a certificate before the request.
async fn verify(chain: &Chain, anchors: &[PathBuf], config: Option<&Config>) -> Result<(), Failed> {
    let input = |why: String| Failed::Asking(AskError::Input(why));
    let mapping = config.and_then(|config| config.mapping.as_ref());
    let loaded;
    let (trust, validation) = match mapping {
        _ if !anchors.is_empty() => {
            let mut parts = Parts { extended_key_usages: usual_key_purposes(), ..Parts::default() };
            for path in anchors {
                parts.anchors.extend(read_anchors(path).map_err(|error| input(error.to_string()))?);
            }
            let between = chain.others().iter().filter(|certificate| !parts.anchors.contains(certificate));
            parts.intermediates = between.cloned().collect();
            let trust =
                Trust::new(parts).map_err(|error| input(format!("--anchors cannot be used: {error}")))?;
            (Arc::new(trust), Validation::Chain)
        }
        Some(mapping) if mapping.policy.validation != Validation::Off => {
            loaded = trust::load(mapping, now()).map_err(|error| input(crate::output::chain(&error)))?;
            for warning in loaded.warnings.iter().chain(&loaded.fetch(now).await) {
                output::warning(warning);
            }
            let trust = loaded.trust().ok_or_else(|| input("[mapping] has no anchors".to_owned()))?;
            (Arc::clone(trust), mapping.policy.validation)
        }
        _ => {
            let text = "--verify needs [mapping] with anchors in the configuration, or --anchors PEM";
            return Err(Failed::Usage(text.to_owned()));
        }
    };
    let path = trust.verify(chain.certificate(), now());
    let path = path.map_err(|refused| {
        input(format!("not asked, because the certificate chain is not valid: {refused}"))
    })?;
    if validation != Validation::ChainAndRevocation {
        return Ok(());
    }
    match trust.revocation(&path, now()) {
        Revocation::Good => Ok(()),
        Revocation::Revoked { since, .. } => Err(input(format!(
            "not asked, because the certificate or one of its issuers was revoked at {since}"
        ))),
        Revocation::Unknown { why, .. } => {
            let text = format!("not asked, because the revocation status is unknown: {}", why.text());
            Err(Failed::Asking(AskError::Undecided(text)))
        }
    }
}

/// The keys that are trusted: those of the configuration, and those that were given.
fn proof_wanted(
    is_wanted: bool,
    strong: bool,
    given: &[String],
    config: Option<&config::Config>,
) -> Result<Option<ProofWanted>, Failed> {
    let public_key = |path: &Path| match PublicKey::read(path) {
        Ok(key) => Ok(key.bytes()),
        Err(error) => Err(AskError::Input(crate::output::chain(&error))),
    };
    if !is_wanted {
        return Ok(None);
    }
    let configured = config.and_then(|config| config.client.as_ref()).into_iter();
    let mut keys = Vec::new();
    for (domain, path) in configured.flat_map(|client| &client.proof_keys) {
        keys.push((domain.clone(), public_key(path)?));
    }
    for key in given {
        let Some((domain, path)) = key.split_once('=') else {
            let text = format!("--proof-key {key}: write DOMAIN=FILE, as in CONTOSO=contoso.pub");
            return Err(Failed::Usage(text));
        };
        keys.push((domain.to_owned(), public_key(Path::new(path))?));
    }
    Ok(Some(ProofWanted { keys, strong }))
}

pub(super) async fn explain(
    certificate: &Path,
    chain: Option<&Path>,
    config: &Path,
    asked_by: Option<MappingFlags>,
    url: Option<&str>,
    as_json: bool,
) -> anyhow::Result<u8> {
    let path = config.display().to_string();
    let config = config::load(config)?;
    let Some(mapping) = &config.mapping else { anyhow::bail!("the configuration has no [mapping]") };
    let chain = Chain::read(certificate, chain).map_err(|error| failed(UNUSABLE, error))?;
    warn_of_strays(&chain);
    let of_sidecar = config.sidecar.as_ref().filter(|_| url.is_some()).map(|sidecar| sidecar.methods);
    let flags = asked_by.or(of_sidecar).unwrap_or(SIDECAR_METHODS);
    let request = Request { flags, certificate: chain.certificate(), issuers: chain.issuers()? };
    let Some(request) = request.encode() else {
        return Err(failed(UNUSABLE, chain.too_long()));
    };
    let accounts = stores::accounts(&config, &stores::machines(&config).await?).await?;
    let mapper = trust::mapper(mapping, Arc::clone(&accounts.store), config.server.clone()).await?;
    let forwarding = Forwarding::load(&config, None)?;
    let (answer, explanation) = crate::explain::explain(
        &mapper,
        forwarding.forwarder.domains(),
        &accounts,
        &request.into(),
        chain.certificate(),
        &path,
    )
    .await?;
    let route = match (url, &config.sidecar) {
        (None, _) => None,
        (Some(_), None) => anyhow::bail!("--url needs [sidecar] in the configuration"),
        (Some(url), Some(sidecar)) => Some(crate::sidecar::routes::explain(
            sidecar,
            url,
            &answer,
            &mapper,
            (chain.certificate(), flags),
            &path,
        )?),
    };
    let code = match answer.reason {
        Reason::Mapped(_) if route.as_ref().is_some_and(|route| route.refused.is_some()) => 3,
        Reason::Mapped(_) => 0,
        _ if explanation.routed.is_some() => 7,
        reason if reason.is_undecided() => 7,
        _ => 3,
    };
    match as_json {
        true => {
            let mut value = serde_json::to_value(&explanation)?;
            if let Some(route) = &route {
                value["route"] = serde_json::to_value(route)?;
            }
            output::json(&value);
        }
        false => {
            crate::explain::print(&explanation);
            route.iter().for_each(|route| route.to_string().lines().for_each(output::line));
        }
    }
    Ok(code)
}
