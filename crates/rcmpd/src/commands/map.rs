//! `rcmpd map` and `rcmpd explain`.

use crate::ask::{self, AskError, Target};
use crate::certificates::Chain;
use crate::cli::MapArgs;
use crate::config::{self, Config, SecretRef};
use crate::output;
use crate::serve::now;
use crate::stores;
use account_store::{Matches, Query};
use rcmp_service::message::{MappingFlags, Request};
use rcmp_service::trace::Step;
use rcmp_service::{Mapper, Reason};
use serde_json::{Value, json};
use std::path::Path;
use std::time::Duration;

pub(super) async fn map(args: MapArgs) -> anyhow::Result<u8> {
    let as_json = args.json.json;
    match asked(args).await {
        Ok(mapped) => {
            match as_json {
                true => output::json(&output::mapped_json(&mapped)),
                false => output::mapped(&mapped),
            }
            Ok(0)
        }
        Err(Failed::Asking(error)) => {
            output::ask_error(&error, as_json);
            Ok(error.exit_code())
        }
        Err(Failed::Usage(text)) => {
            eprintln!("rcmpd: {text}");
            Ok(2)
        }
    }
}

enum Failed {
    Asking(AskError),
    Usage(String),
}

impl From<AskError> for Failed {
    fn from(error: AskError) -> Self {
        Self::Asking(error)
    }
}

async fn asked(args: MapArgs) -> Result<ask::Mapped, Failed> {
    let config = match &args.config {
        Some(path) => Some(config::load(path).map_err(|error| AskError::Input(error.to_string()))?),
        None => None,
    };
    let client = config.as_ref().and_then(|config| config.client.clone());
    let (server, account, secret) = match (args.server, args.machine, args.secret_file, client) {
        (Some(server), Some(account), Some(file), _) => (server, account, SecretRef::File(file)),
        (None, None, None, Some(client)) => (client.server, client.account, client.secret),
        (None, None, None, None) if config.is_some() => {
            return Err(Failed::Usage(
                "the configuration has no [client]; add it, or give --server, --machine and --secret-file"
                    .into(),
            ));
        }
        (server, account, file, client) => match client {
            // Single values may take the place of the configuration's.
            Some(client) => (
                server.unwrap_or(client.server),
                account.unwrap_or(client.account),
                file.map_or(client.secret, SecretRef::File),
            ),
            None => {
                return Err(Failed::Usage(
                    "whom to ask? give -c FILE, or --server, --machine and --secret-file".into(),
                ));
            }
        },
    };
    let domain = match (&config, &args.domain) {
        (Some(config), _) => config.domain.netbios.clone(),
        (None, Some(domain)) => domain.clone(),
        (None, None) => {
            return Err(Failed::Usage("which domain? without a configuration, give --domain".into()));
        }
    };
    let chain = Chain::read(&args.certificate, args.chain.as_deref())
        .map_err(|error| AskError::Input(error.to_string()))?;
    let target = Target { server, domain, account, secret, timeout: Duration::from_secs(args.timeout) };
    Ok(ask::map(&target, &chain, super::flags(&args.methods), args.domain.as_deref()).await?)
}

pub(super) async fn explain(
    certificate: &Path,
    chain: Option<&Path>,
    config: &Config,
    flags: MappingFlags,
    as_json: bool,
) -> anyhow::Result<u8> {
    let Some(policy) = config.policy.clone() else { anyhow::bail!("the configuration has no [mapping]") };
    let chain = match Chain::read(certificate, chain) {
        Ok(chain) => chain,
        Err(error) => {
            eprintln!("rcmpd: {error}");
            return Ok(6);
        }
    };
    let request = Request { flags, certificate: chain.certificate(), issuers: chain.issuers()? };
    let Some(request) = request.encode() else {
        eprintln!("rcmpd: the certificate or its chain is too long to be asked about");
        return Ok(6);
    };
    let accounts = stores::accounts(config, &stores::machines(config)?).await?;
    let mapper = Mapper::new(policy, accounts, config.server.clone())?;
    let mut steps = Vec::new();
    let answer = mapper.explain(&request, now(), &mut steps).await;
    let account = answer.mapped.as_ref().map(|mapped| &mapped.record.account);
    if as_json {
        output::json(&json!({
            "steps": steps.iter().map(step_json).collect::<Vec<_>>(),
            "reason": answer.reason.name(),
            "text": answer.reason.text(),
            "status": { "name": answer.status.name(), "value": format!("0x{:08x}", answer.status.0) },
            "account": account.map(|account| &account.name),
            "sid": account.map(|account| account.sid.to_string()),
        }));
    } else {
        steps.iter().for_each(|step| output::line(&step_text(step)));
        output::line("");
        match account {
            Some(account) => {
                output::line(&format!("{} ({}), {}", account.name, account.sid, answer.reason.text()))
            }
            None => output::line(&format!(
                "nobody: {}; the client is told {}",
                answer.reason.text(),
                answer.status
            )),
        }
    }
    Ok(match answer.reason {
        Reason::Mapped(_) => 0,
        Reason::StoreUnavailable | Reason::Unanswerable | Reason::AuditUnavailable => 7,
        _ => 3,
    })
}

/// The attribute that a query looks into, and the value it looks for.
fn query(query: &Query) -> (&'static str, String) {
    match query {
        Query::UserPrincipalName(name) => ("userPrincipalName", name.clone()),
        Query::ServicePrincipalName(name) => ("servicePrincipalName", name.clone()),
        Query::AltSecurityIdentity(mapping) => ("altSecurityIdentities", mapping.clone()),
        Query::Name(name) => ("sAMAccountName", name.clone()),
        Query::Sid(sid) => ("objectSid", sid.to_string()),
        _ => ("another attribute", String::new()),
    }
}

fn step_text(step: &Step) -> String {
    match step {
        Step::Skipped { method, asked: true } => format!("{method}: not allowed by the policy"),
        Step::Skipped { method, asked: false } => format!("{method}: not asked for"),
        Step::NotApplicable { method, why } => format!("{method}: {}", why.text()),
        Step::Asked { method, query: asked, found } => {
            let (attribute, value) = query(asked);
            let found = match found {
                None => "the store could not answer".to_owned(),
                Some(Matches::None) => "nobody".to_owned(),
                Some(Matches::One(record)) => format!("{} ({})", record.account.name, record.account.sid),
                Some(Matches::Many(names)) => format!("more than one: {}", names.join(", ")),
            };
            format!("{method}: {attribute} = {value}\n    -> {found}")
        }
        Step::Decided { reason } => format!("decision: {}", reason.text()),
    }
}

fn step_json(step: &Step) -> Value {
    match step {
        Step::Skipped { method, asked } => {
            json!({ "step": "skipped", "method": method.name(), "asked": asked })
        }
        Step::NotApplicable { method, why } => {
            json!({ "step": "not_applicable", "method": method.name(), "why": why.text() })
        }
        Step::Asked { method, query: asked, found } => {
            let (attribute, value) = query(asked);
            let found = match found {
                None => Value::Null,
                Some(Matches::None) => json!([]),
                Some(Matches::One(record)) => json!([record.account.name]),
                Some(Matches::Many(names)) => json!(names),
            };
            json!({ "step": "asked", "method": method.name(), "attribute": attribute, "value": value, "found": found })
        }
        Step::Decided { reason } => json!({ "step": "decided", "reason": reason.name() }),
    }
}
