//! Why a certificate is mapped or refused: one way to ask, for the command line and for HTTP.

use crate::clock::now;
use crate::output::line;
use crate::stores::Accounts;
use bytes::Bytes;
use rcmp_service::certificate::{Certificate, SID_URI_TAG};
use rcmp_service::explain::{Advice, Asked, Explanation, Found, MethodState, Nearest, Remedy, Verdict};
use rcmp_service::mapping::NotApplicable;
use rcmp_service::trace::{EvidenceState, Step};
use rcmp_service::{Answer, Domains, Form, Mapper, Reason};
use std::time::{Duration, Instant};

/// Decides, and explains the decision.
pub async fn explain(
    mapper: &Mapper,
    domains: &Domains,
    accounts: &Accounts,
    request: &Bytes,
    certificate: &[u8],
    config: &str,
) -> anyhow::Result<(Answer, Explanation)> {
    let mut steps = Vec::new();
    let answer = mapper.explain_among(domains, request, now(), &mut steps).await;
    let mut explanation = Explanation::new(mapper, request, &steps, &answer);
    tell_of_stores(&mut explanation, &steps, accounts).await;
    if answer.mapped.is_none() && explanation.routed.is_none() {
        let mut nearest = Nearest::new(&steps);
        let weighed = steps.iter().find_map(|step| match step {
            Step::BindingChecked { record, .. } => Some(record),
            _ => None,
        });
        match weighed {
            // The account that was found may have the right value, wrongly written.
            Some(record) => nearest.look_at(&record.account),
            None if nearest.is_needed() => nearest = look_through(accounts, nearest).await?,
            None => {}
        }
        let (reason, nearest) = (answer.reason, nearest.into_miss());
        explanation.advise(&Advice { certificate, reason, mapper, steps: &steps, nearest, config });
        if reason == Reason::NoMatch {
            explanation.remedies.extend(send_to_another_domain(domains, certificate, config));
        }
    }
    Ok((answer, explanation))
}

/// Says which of several stores were asked, and what the store says that is only compared.
async fn tell_of_stores(explanation: &mut Explanation, steps: &[Step], accounts: &Accounts) {
    for tried in &mut explanation.methods {
        let questions = steps.iter().filter_map(|step| match step {
            Step::Asked { method, query, found, .. } if *method == tried.method => Some((query, found)),
            _ => None,
        });
        for (asked, (query, found)) in tried.asked.iter_mut().zip(questions) {
            if let Some(several) = &accounts.several {
                asked.stores = several.asked(query).map(str::to_owned).collect();
            }
            if let (Some(compared), Some(found)) = (&accounts.compared, found) {
                asked.compared = Some(match compared.difference(query, found).await {
                    Ok(differs) if differs.is_empty() => "the same".to_owned(),
                    Ok(differs) => differs.join("; "),
                    Err(error) => crate::output::chain(&error),
                });
            }
        }
    }
}

/// The line that sends questions about certificates of this issuer to another domain. Which domain the user
/// is of, the certificate does not say.
fn send_to_another_domain(domains: &Domains, certificate: &[u8], config: &str) -> Option<Remedy> {
    let asked: Vec<&str> = domains
        .peers()
        .iter()
        .filter(|peer| peer.is_asked)
        .map(|peer| peer.domain.netbios.as_str())
        .collect();
    let issuer = Certificate::parse(certificate).ok()?.issuer_name().ok()?.to_string();
    if asked.is_empty() {
        return None;
    }
    let issuer = toml::Value::String(issuer);
    Some(Remedy {
        what: format!(
            "or, if users of {} have certificates of this issuer, and users here have none: add `issuers = [{issuer}]` to the [[peer]] of \
             that domain in {config}",
            asked.join(" or ")
        ),
        value: None,
        command: None,
        ldif: None,
        powershell: None,
    })
}

/// How long the search for the nearest miss may take. What was found by then is printed.
const LOOK_MAX: Duration = Duration::from_secs(20);

/// Looks at all accounts, on a thread of its own: others are answered meanwhile.
async fn look_through(accounts: &Accounts, mut nearest: Nearest) -> anyhow::Result<Nearest> {
    let (accounts, runtime) = (accounts.clone(), tokio::runtime::Handle::current());
    let until = Instant::now() + LOOK_MAX;
    let looked = tokio::task::spawn_blocking(move || {
        runtime.block_on(accounts.each(|account| {
            nearest.look_at(account);
            Instant::now() < until
        }))?;
        anyhow::Ok(nearest)
    });
    looked.await?
}

/// Prints it for people.
pub fn print(explanation: &Explanation) {
    let fact = |name: &str, value: &str| line(&format!("{name:12} {}", value));
    if let Some(certificate) = &explanation.certificate {
        fact("subject", &certificate.subject);
        fact("issuer", &certificate.issuer);
        fact("serial", &certificate.serial);
        fact("valid", &format!("{} to {}", certificate.not_before, certificate.not_after));
        for (kind, name) in &certificate.names {
            fact(kind, name);
        }
        certificate.sids.iter().for_each(|sid| fact("sid", sid));
        certificate.unreadable.iter().for_each(|what| fact("unreadable", what));
        certificate.beyond_limit.iter().for_each(|what| fact("limit", what));
        for uri in &certificate.misspelled_sids {
            fact("no SID", &format!("{uri} looks like a SID and is written otherwise: {SID_URI_TAG}S-1-..."));
        }
    }
    let authorities: Vec<&str> =
        explanation.chain.authorities.iter().map(|authority| authority.subject.as_str()).collect();
    match authorities.is_empty() {
        true => fact("chain", &explanation.chain.text),
        false => fact("chain", &format!("verified, by {}", authorities.join(", by "))),
    }
    if let Some(revocation) = &explanation.chain.revocation {
        fact("revocation", revocation);
    }
    let policy = &explanation.policy;
    fact(
        "policy",
        &format!(
            "methods {}; binding {}; validation {}; revision {}",
            policy.methods.iter().map(|method| method.name()).collect::<Vec<_>>().join(", "),
            policy.binding.name(),
            policy.validation.name(),
            policy.revision
        ),
    );
    line("");
    for method in &explanation.methods {
        let state = match method.state {
            MethodState::Tried => "",
            MethodState::NotAskedFor => "not asked for",
            MethodState::NotAllowed => "not allowed by the policy",
            MethodState::NotApplicable => method.why.map_or("", NotApplicable::text),
            MethodState::NotReached => "not reached",
        };
        line(&format!("method {}{}{state}", method.method.name(), if state.is_empty() { "" } else { ": " }));
        method.asked.iter().for_each(asked);
    }
    if let Some(weighed) = &explanation.weighed {
        line("");
        let titles = |forms: &[Form]| forms.iter().map(|form| form.title()).collect::<Vec<_>>().join(" and ");
        let strength = match weighed.strong_by {
            Some(form) => format!("strong, by {}", form.title()),
            None => "weak".to_owned(),
        };
        let found_by = titles(&weighed.found_by);
        let (account, sid) = (&weighed.account, &weighed.sid);
        line(&format!("{account} ({sid}), made {}, is matched by {found_by}: {strength}", weighed.created));
        for (form, state) in &weighed.evidence {
            let says = match *state {
                EvidenceState::Counts => "binds the certificate to it",
                EvidenceState::NotGranted => "would bind it, but the CA is not granted this form",
                EvidenceState::Contradicts => "names another account, or cannot be read",
                EvidenceState::StrongByPolicy => "is strong by a policy of the certificate",
            };
            line(&format!("    {}: {says}", form.title()));
        }
    }
    line("");
    conclusion(explanation);
}

fn asked(asked: &Asked) {
    let strength = if asked.strong { "strong" } else { "weak" };
    let found = match asked.found {
        Found::Error => {
            let why = asked.error.as_ref().map_or_else(String::new, |why| format!(": {why}"));
            format!("the store could not answer{why}")
        }
        Found::None => "no account".to_owned(),
        Found::Many => format!("more than one: {}", asked.accounts.join(", ")),
        Found::Differs => {
            format!("{}, whose value is not the same by this comparison", asked.accounts.join(", "))
        }
        Found::One => asked.accounts.join(", "),
    };
    let granted = if asked.granted { "" } else { " (this form is not granted to the CA)" };
    line(&format!("  {} ({strength}): {} = {}", asked.form.name(), asked.attribute, &asked.value));
    line(&format!("    -> {}{granted}", &found));
    if !asked.stores.is_empty() {
        line(&format!("    asked: [[store.part]] {}", asked.stores.join(", ")));
    }
    if let Some(compared) = &asked.compared {
        line(&format!("    [store.compare]: {compared}"));
    }
}

/// The decision in a sentence.
fn verdict(explanation: &Explanation) -> String {
    if let Some(routed) = &explanation.routed {
        let through = match routed.peer == routed.domain {
            true => String::new(),
            false => format!(", through {}", routed.peer),
        };
        return format!(
            "{} decides ({}), and is asked{through}; no server was asked now: `rcmpd map` asks",
            &routed.domain,
            routed.by.name()
        );
    }
    if let (Some(account), Some(sid), Some(strength)) =
        (&explanation.account, &explanation.sid, explanation.strength)
    {
        return format!("{account} ({sid}), {}: {}", explanation.text, strength.name());
    }
    let event = explanation.event_id.map(|id| format!(", event {id}")).unwrap_or_default();
    let is_by_binding = matches!(
        explanation.reason,
        Verdict::Decided(
            Reason::NoStrongMapping
                | Reason::CertificateOlder
                | Reason::AuthorityNotAllowed
                | Reason::NotVerified
        )
    );
    let refused_by = match &explanation.weighed {
        Some(weighed) if is_by_binding => format!(", refused by binding {}", weighed.binding.name()),
        _ => String::new(),
    };
    format!(
        "not mapped: {} ({}{event}){refused_by}; the client gets {}",
        explanation.text,
        explanation.reason.name(),
        explanation.status.as_ref().map_or("", |status| status.name.unwrap_or(&status.value))
    )
}

fn conclusion(explanation: &Explanation) {
    line(&verdict(explanation));
    if explanation.routed.is_some() {
        return;
    }
    if explanation.account.is_some() {
        if let Some(age) = explanation.stale_s {
            line(&format!(
                "facts:      {age} s old, because the store could not be asked (stale_if_error_s)"
            ));
        }
        if let Some(named) = &explanation.privileged_by {
            line(&format!(
                "privileged: only machines whose scope names {named} are answered for this account \
                 (rcmpd machine set NAME --group {named} -c FILE)"
            ));
        }
        return;
    }
    if let Some(miss) = &explanation.nearest {
        line("");
        line(&format!("nearest miss: {} of {}", miss.attribute, &miss.account));
        line(&format!("  asked   {}", &miss.asked));
        line(&format!("  stored  {}", &miss.stored));
        // A caret under the byte, where each byte is a column.
        if miss.asked.is_ascii() && miss.stored.is_ascii() {
            line(&format!("          {}^", " ".repeat(miss.differs_at)));
        }
        line(&format!("  they differ from byte {} on", miss.differs_at));
        if let Some(because) = &miss.because {
            line(&format!("  {because}"));
        }
    }
    if !explanation.remedies.is_empty() {
        line("");
        line("what would change that:");
    }
    for remedy in &explanation.remedies {
        line(&format!("- {}", &remedy.what));
        if let Some(command) = &remedy.command {
            line("");
            line(command);
            line("");
        }
    }
    // For stores in a directory, and so behind all that is for this program.
    for remedy in &explanation.remedies {
        if let Some(ldif) = &remedy.ldif {
            line("the mapping as LDIF:");
            ldif.lines().for_each(|text| line(&format!("    {text}")));
        }
        if let Some(powershell) = &remedy.powershell {
            line("the mapping in PowerShell:");
            line(&format!("    {powershell}"));
        }
    }
}
