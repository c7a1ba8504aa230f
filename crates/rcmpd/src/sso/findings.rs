//! What an operator should mend before the master secret is served.

use super::domains::misfits;
use super::keytab::{MachineAccounts, read};
use super::operators;
use crate::checked::{Area, Checked};
use crate::config::{Config, SealRef, Sso};
use rpc_auth::kerberos::RealmKind;
use sso_secret::share::ShareFolder;
use sso_secret::{SecretStore, State};
use std::path::Path;

/// Checks what `[sso]` names. The service does not start with a problem. Blocks for the disk, and for
/// argon2id if the secret is sealed by a passphrase.
pub fn check(config: &Config, section: &Sso, store: &SecretStore) -> Checked {
    let mut found = Checked::default();
    if section.rules.administrators.0.is_empty() {
        let text = "no SSO administrator is configured: calls are answered with SSO_E_SSO_NOT_CONFIGURED";
        found.warning(Area::Configuration, text);
    }
    found.warnings(Area::Configuration, unfiltered_realms(section));
    of_secret(section, store, &mut found);
    for (area, problem) in operators::problems(section) {
        found.problem(area, problem);
    }
    if let SealRef::Shares(folder) = &section.seal {
        let folder = ShareFolder::new(folder);
        match folder.check() {
            Ok(()) => found.warnings(Area::MasterSecret, folder.findings()),
            Err(error) => found.problem(Area::MasterSecret, format!("cannot use sso.seal: {error}")),
        }
    }
    for misfit in section.ntlm.iter().flat_map(|ntlm| misfits(config, ntlm)) {
        found.problem(Area::Configuration, misfit);
    }
    if let Some(kerberos) = &section.kerberos {
        of_keytab(&kerberos.keytab, &MachineAccounts::new(config, section), &mut found);
    }
    found
}

fn of_secret(section: &Sso, store: &SecretStore, found: &mut Checked) {
    let mut warn = |text: String| found.warning(Area::MasterSecret, text);
    match store.state() {
        State::None => warn(format!(
            "there is no master secret in {}: make one by `rcmpd sso secret generate`",
            section.folder.display()
        )),
        // This command may not have the credential or passphrase that the service has.
        State::Sealed(sealed) => warn(format!("the master secret is sealed: {sealed}")),
        State::RolledBack(sealed) => warn(format!("the master secret was rolled back: {sealed}")),
        State::Open(open) if open.is_copy() => {
            warn(
                "the folder of the master secret is a copy: it is not rotated before it is adopted"
                    .to_owned(),
            );
        }
        State::Open(_) => {}
    }
    if let Some(facts) = store.status().facts {
        match (facts.last_backup, facts.backup_is_current) {
            (None, _) => warn("the master secret was never backed up".to_owned()),
            (Some(_), false) => {
                warn("the last backup of the master secret lacks the newest generation".to_owned());
            }
            (Some(_), true) => {}
        }
    }
}

fn of_keytab(path: &Path, machines: &MachineAccounts, found: &mut Checked) {
    let keytab = match read(path) {
        Ok(keytab) => keytab,
        Err(error) => {
            return found.problem(Area::Keytab, format!("cannot use sso.kerberos.keytab: {error:#}"));
        }
    };
    for finding in machines.findings(&keytab) {
        let text = format!("{}: {finding}", path.display());
        match finding.is_error() {
            true => found.problem(Area::Keytab, text),
            false => found.warning(Area::Keytab, text),
        }
    }
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
