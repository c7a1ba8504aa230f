//! What an operator should mend before the master secret is served.

use super::domains::misfits;
use super::keytab::{MachineAccounts, read};
use super::operators;
use crate::config::{Config, SealRef, Sso};
use rpc_auth::kerberos::RealmKind;
use sso_secret::share::ShareFolder;
use sso_secret::{SecretStore, State};

/// Errors, with which the service does not start, and warnings.
#[derive(Debug, Default)]
pub struct SsoFindings {
    /// Errors.
    pub problems: Vec<String>,
    /// Warnings.
    pub warnings: Vec<String>,
}

/// Checks what `[sso]` names. Blocks for the disk, and for argon2id if the secret is sealed by a passphrase.
pub fn check(config: &Config, section: &Sso, store: &SecretStore) -> SsoFindings {
    let mut found = SsoFindings::default();
    if section.rules.administrators.0.is_empty() {
        let text = "no SSO administrator is configured: calls are answered with SSO_E_SSO_NOT_CONFIGURED";
        found.warnings.push(text.to_owned());
    }
    found.warnings.extend(unfiltered_realms(section));
    match store.state() {
        State::None => found.warnings.push(format!(
            "there is no master secret in {}: make one by `rcmpd sso secret generate`",
            section.folder.display()
        )),
        // This command may not have the credential or passphrase that the service has.
        State::Sealed(sealed) => found.warnings.push(format!("the master secret is sealed: {sealed}")),
        State::RolledBack(sealed) => {
            found.warnings.push(format!("the master secret was rolled back: {sealed}"))
        }
        State::Open(open) if open.is_copy() => {
            found.warnings.push(
                "the folder of the master secret is a copy: it is not rotated before it is adopted"
                    .to_owned(),
            );
        }
        State::Open(_) => {}
    }
    if let Some(facts) = store.status().facts {
        match (facts.last_backup, facts.backup_is_current) {
            (None, _) => found.warnings.push("the master secret was never backed up".to_owned()),
            (Some(_), false) => {
                found
                    .warnings
                    .push("the last backup of the master secret lacks the newest generation".to_owned());
            }
            (Some(_), true) => {}
        }
    }
    found.problems.extend(operators::problems(section));
    if let SealRef::Shares(folder) = &section.seal {
        let folder = ShareFolder::new(folder);
        match folder.check() {
            Ok(()) => found.warnings.extend(folder.findings()),
            Err(error) => found.problems.push(format!("cannot use sso.seal: {error}")),
        }
    }
    found.problems.extend(section.ntlm.iter().flat_map(|ntlm| misfits(config, ntlm)));
    if let Some(kerberos) = &section.kerberos {
        match read(&kerberos.keytab) {
            Ok(keytab) => {
                for finding in MachineAccounts::new(config, section).findings(&keytab) {
                    let list = if finding.is_error() { &mut found.problems } else { &mut found.warnings };
                    list.push(format!("{}: {finding}", kerberos.keytab.display()));
                }
            }
            Err(error) => found.problems.push(format!("cannot use sso.kerberos.keytab: {error:#}")),
        }
    }
    found
}

/// Realms of kind `ad` without `sids` beside others: the KDC of one can name the domain of another.
fn unfiltered_realms(section: &Sso) -> Vec<String> {
    let realms = section.kerberos.as_ref().map(|kerberos| &kerberos.realms[..]).unwrap_or_default();
    let is_filtered = |name: &str| section.rules.sid_filters.iter().any(|(known, _)| known == name);
    let unfiltered =
        realms.iter().filter(|(name, kind)| *kind == RealmKind::ActiveDirectory && !is_filtered(name));
    match realms.len() {
        0 | 1 => Vec::new(),
        _ => unfiltered
            .map(|(name, _)| {
                format!(
                    "the realm {name} has no sids: its KDC decides of which domain its users are. Set sids to the SID of its domain"
                )
            })
            .collect(),
    }
}
