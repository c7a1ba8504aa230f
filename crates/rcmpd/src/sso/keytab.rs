//! The keytab, read again when the file changes. Contexts that are set up stay.

use crate::config::{Config, SecretRef, Sso};
use account_store::{FileAccess, NtHash};
use anyhow::{Context, bail};
use rpc_auth::kerberos::{Etype, Key, Keytab, KeytabProblem, MachineAccount, SharedKeytab};
use std::fmt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use tracing::{error, info, warn};

/// The AES types of Active Directory and Samba: no machine account has a key of another one.
const MACHINE_ETYPES: [Etype; 2] = [Etype::Aes128Sha1, Etype::Aes256Sha1];

/// A keytab that follows its file.
#[derive(Debug)]
pub struct WatchedKeytab {
    path: PathBuf,
    machines: MachineAccounts,
    shared: Arc<SharedKeytab>,
    stamp: Mutex<Option<Stamp>>,
}

/// Inode, length and time of change.
type Stamp = (u64, u64, i64, i64);

fn stamp(path: &Path) -> Option<Stamp> {
    let metadata = path.metadata().ok()?;
    Some((metadata.ino(), metadata.len(), metadata.ctime(), metadata.ctime_nsec()))
}

/// Reads a keytab that only its owner and group may read.
pub(super) fn read(path: &Path) -> anyhow::Result<Keytab> {
    let bytes =
        FileAccess::Group.read(path).map_err(|error| anyhow::anyhow!("{} {error}", path.display()))?;
    Keytab::decode(&bytes).with_context(|| format!("{} is not a keytab", path.display()))
}

impl WatchedKeytab {
    /// Reads the keytab for the first time. A keytab without AES keys is an error, and so is the key of a
    /// machine account in it.
    pub(super) fn open(path: &Path, machines: MachineAccounts) -> anyhow::Result<Self> {
        let stamp = stamp(path);
        let keytab = read(path).context("cannot use sso.kerberos.keytab")?;
        // Warnings are among the findings of the configuration.
        if let Some(problem) = machines.findings(&keytab).iter().find(|finding| finding.is_error()) {
            bail!("cannot use sso.kerberos.keytab {}: {problem}", path.display());
        }
        let shared = Arc::new(SharedKeytab::new(keytab));
        Ok(Self { path: path.to_owned(), machines, shared, stamp: Mutex::new(stamp) })
    }

    /// The keytab that acceptors use.
    pub fn shared(&self) -> Arc<SharedKeytab> {
        Arc::clone(&self.shared)
    }

    /// Reads the file again if it changed. A file that cannot be used leaves the keys as they are. Blocks.
    pub fn look(&self) {
        let now = stamp(&self.path);
        let mut known = self.stamp.lock().unwrap_or_else(PoisonError::into_inner);
        if *known == now {
            return;
        }
        *known = now;
        let path = self.path.display();
        let keytab = match read(&self.path) {
            Ok(keytab) => keytab,
            Err(error) => {
                let error = crate::output::chain(&error);
                error!(%path, error, "Keytab cannot be read: the previous keys stay in use");
                return;
            }
        };
        let findings = self.machines.findings(&keytab);
        if let Some(problem) = findings.iter().find(|finding| finding.is_error()) {
            error!(%path, %problem, "Keytab rejected: the previous keys stay in use");
            return;
        }
        findings.iter().for_each(|finding| finding.warn(&self.path));
        info!(%path, keys = keytab.entries.len(), "Keytab read again");
        self.shared.store(keytab);
    }
}

/// The accounts of secure channels. Their keys must not be in the keytab: tickets for each service of such a
/// machine would open.
#[derive(Clone, Debug)]
pub(super) struct MachineAccounts(Vec<ChannelAccount>);

#[derive(Clone, Debug)]
struct ChannelAccount {
    /// sAMAccountName.
    name: String,
    /// The DNS name of its domain.
    realm: String,
    /// `None` if this server has no channel with the account: of the computer itself, and of a peer that is
    /// not asked directly. Its keys are not known, only its name.
    secret: Option<SecretRef>,
}

impl MachineAccounts {
    /// The accounts of a configuration; at least one, without a secret.
    pub(super) fn new(config: &Config, section: &Sso) -> Self {
        let own = |name: String, secret| ChannelAccount { name, realm: config.domain.dns.clone(), secret };
        let client =
            config.client.iter().map(|client| own(client.account.clone(), Some(client.secret.clone())));
        let domains = section.ntlm.iter().flat_map(|ntlm| &ntlm.domains).map(|domain| &domain.peer);
        let peers = domains.chain(&config.peers).map(|peer| {
            let realm = peer.names.first().unwrap_or(&config.domain.dns).clone();
            ChannelAccount { name: peer.account.clone(), realm, secret: peer.secret.clone() }
        });
        let computer = own(format!("{}$", config.server), None);
        Self(client.chain(peers).chain([computer]).collect())
    }

    /// What an operator has to mend in a keytab. Blocks for the secrets, and some milliseconds for each key
    /// that is derived of one.
    pub(super) fn findings(&self, keytab: &Keytab) -> Vec<Finding> {
        let mut findings = Vec::new();
        let mut add = |finding| {
            if !findings.contains(&finding) {
                findings.push(finding);
            }
        };
        for account in &self.0 {
            let password = account.secret.as_ref().and_then(|secret| match secret.read() {
                Ok(password) => Some(password),
                Err(error) => {
                    add(Finding::NotCompared { account: account.name.clone(), why: error.to_string() });
                    None
                }
            });
            let hash = password.as_ref().map(|password| NtHash::from_password(password));
            let keys = password.map(|password| account.keys(&password, keytab)).unwrap_or_default();
            let machine = MachineAccount {
                name: Some(&account.name),
                nt_hash: hash.as_ref().map(NtHash::expose),
                keys: &keys,
            };
            keytab.problems(&machine).into_iter().map(Finding::Problem).for_each(&mut add);
        }
        findings
    }
}

/// What the check of a keytab found.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Finding {
    Problem(KeytabProblem),
    /// The secret of a machine account cannot be read, so its keys may be in the keytab.
    NotCompared {
        account: String,
        why: String,
    },
}

impl Finding {
    /// Whether the service must not start with it. The others are warnings.
    pub(super) const fn is_error(&self) -> bool {
        match self {
            Self::Problem(problem) => problem.is_error(),
            Self::NotCompared { .. } => false,
        }
    }

    fn warn(&self, path: &Path) {
        let path = path.display();
        match self {
            Self::Problem(problem) => warn!(%path, %problem, "Keytab has a weakness"),
            Self::NotCompared { account, why } => {
                warn!(%path, account, error = why, "Keytab not compared with the keys of a machine account");
            }
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Problem(problem) => problem.fmt(f),
            Self::NotCompared { account, why } => write!(
                f,
                "not compared with the keys of the machine account {account}, only with its name: {why}"
            ),
        }
    }
}

impl ChannelAccount {
    /// The AES keys of the account in its own realm, and in each realm that the keytab names: the salt has
    /// the realm in it, and the configuration may have another spelling of the domain.
    fn keys(&self, password: &str, keytab: &Keytab) -> Vec<Key> {
        let mut realms = vec![self.realm.to_uppercase()];
        realms.extend(keytab.entries.iter().map(|entry| entry.principal.realm.to_uppercase()));
        realms.sort_unstable();
        realms.dedup();
        let is_held = |etype: &Etype| keytab.entries.iter().any(|entry| entry.key.etype == etype.number());
        let etypes = MACHINE_ETYPES.into_iter().filter(is_held);
        let of_type =
            |etype| realms.iter().map(move |realm| Key::of_computer(etype, password, &self.name, realm));
        etypes.flat_map(of_type).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dtyp::FileTime;
    use rpc_auth::kerberos::Principal;

    /// Active Directory gives each machine account a principal of its name.
    #[test]
    fn an_account_whose_secret_is_not_there_is_compared_by_name_and_named() {
        let unreadable = SecretRef::File("/nonexistent/machine.secret".into());
        let account = |name: &str, secret: Option<&SecretRef>| ChannelAccount {
            name: name.to_owned(),
            realm: "ad.test".to_owned(),
            secret: secret.cloned(),
        };
        let machines = MachineAccounts(vec![account("WEB01$", Some(&unreadable)), account("CONTOSO$", None)]);
        let keytab = |principal: &str| {
            let mut keytab = Keytab::default();
            let key = Key::of_computer(Etype::Aes256Sha1, "a password", "OTHER$", "AD.TEST");
            let principal = Principal::parse(principal, "AD.TEST").expect("it is a principal");
            keytab.push(principal, FileTime::UNSET, 1, &key);
            keytab
        };
        let found = machines.findings(&keytab("sso/web01.ad.test"));
        let [finding] = &found[..] else { panic!("one finding: {found:?}") };
        let text = finding.to_string();
        assert!(!finding.is_error() && text.contains("WEB01$") && text.contains("machine.secret"), "{text}");
        for name in ["WEB01$", "contoso$"] {
            assert!(machines.findings(&keytab(name)).iter().any(Finding::is_error), "{name}");
        }
    }
}
