//! The keytab, read again when the file changes. Contexts that are set up stay.

use crate::config::{Config, SecretRef, Sso};
use account_store::{FileAccess, NtHash};
use anyhow::{Context, bail};
use rpc_auth::kerberos::{Etype, Key, Keytab, KeytabProblem, MachineAccount, SharedKeytab};
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
        for problem in machines.problems(&keytab) {
            match problem.is_error() {
                true => bail!("cannot use sso.kerberos.keytab {}: {problem}", path.display()),
                false => warn!(path = %path.display(), problem = %problem, "Keytab has a weakness"),
            }
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
        let problems = self.machines.problems(&keytab);
        if let Some(problem) = problems.iter().find(|problem| problem.is_error()) {
            error!(%path, %problem, "Keytab rejected: the previous keys stay in use");
            return;
        }
        for problem in problems {
            warn!(%path, %problem, "Keytab has a weakness");
        }
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
    /// `None` of the computer itself, if it has no channel.
    secret: Option<SecretRef>,
}

impl MachineAccounts {
    /// The accounts of a configuration; at least one, without a secret.
    pub(super) fn new(config: &Config, section: &Sso) -> Self {
        let own = |name: String, secret| ChannelAccount { name, realm: config.domain.dns.clone(), secret };
        let client =
            config.client.iter().map(|client| own(client.account.clone(), Some(client.secret.clone())));
        let domains = section.ntlm.iter().flat_map(|ntlm| &ntlm.domains).map(|domain| &domain.peer);
        let peers = domains.chain(&config.peers).filter_map(|peer| {
            let realm = peer.names.first().unwrap_or(&config.domain.dns).clone();
            Some(ChannelAccount { name: peer.account.clone(), realm, secret: Some(peer.secret.clone()?) })
        });
        let computer = own(format!("{}$", config.server), None);
        Self(client.chain(peers).chain([computer]).collect())
    }

    /// What an operator has to mend in a keytab. Blocks for the secrets, and some milliseconds for each key
    /// that is derived of one.
    pub(super) fn problems(&self, keytab: &Keytab) -> Vec<KeytabProblem> {
        let mut problems = Vec::new();
        for account in &self.0 {
            let password = account.secret.as_ref().and_then(|secret| secret.read().ok());
            let hash = password.as_ref().map(|password| NtHash::from_password(password));
            let keys = password.map(|password| account.keys(&password, keytab)).unwrap_or_default();
            let machine = MachineAccount {
                name: Some(&account.name),
                nt_hash: hash.as_ref().map(NtHash::expose),
                keys: &keys,
            };
            for problem in keytab.problems(&machine) {
                if !problems.contains(&problem) {
                    problems.push(problem);
                }
            }
        }
        problems
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
