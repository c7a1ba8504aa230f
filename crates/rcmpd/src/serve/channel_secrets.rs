//! Machines of the store as the Netlogon server wants them.

use super::CurrentPolicy;
use account_store::StoreError;
use account_store::machines::{ChannelKind, MachineRecord, MachineStore, NtHash};
use netlogon_transport::secret::SharedSecret;
use netlogon_transport::secrets::{BoxFuture, ChannelSecrets, ChannelType, Machine, SecretsUnavailable};
use std::sync::Arc;

/// A previous secret is good for so long, in steps of a `FileTime`: a day, so that a machine whose answer got lost finds
/// its way back.
const PREVIOUS_LIFETIME: u64 = 24 * 3600 * 10_000_000;

/// Channel secrets from a machine store.
pub struct StoredSecrets {
    store: Arc<dyn MachineStore>,
    policy: CurrentPolicy,
}

impl StoredSecrets {
    /// Secrets of the machines in `store`; which domain has which DNS name is looked up in `policy`.
    pub fn new(store: Arc<dyn MachineStore>, policy: CurrentPolicy) -> Self {
        Self { store, policy }
    }

    async fn machine(&self, name: &str) -> Result<Option<Machine>, StoreError> {
        if name.ends_with('$') {
            return Ok(self.store.machine(name).await?.map(|record| machine(&record)));
        }
        // Type 3: the trusted domain by its DNS name, the account by the NetBIOS name that belongs to it.
        let account = {
            let deciders = self.policy.0.load();
            let domains = deciders.forwarding.forwarder.domains();
            domains.find(name).map(|peer| format!("{}$", domains.peers()[peer].domain.netbios))
        };
        let Some(account) = account.filter(|_| name.contains('.')) else { return Ok(None) };
        let found = self.store.machine(&account).await?.filter(|record| {
            matches!(record.machine.kind, ChannelKind::TrustedDomain | ChannelKind::TrustedDnsDomain)
        });
        Ok(found.map(|record| Machine { channel_type: ChannelType::TRUSTED_DNS_DOMAIN, ..machine(&record) }))
    }
}

fn unavailable(error: StoreError) -> SecretsUnavailable {
    SecretsUnavailable(error.to_string())
}

fn machine(record: &MachineRecord) -> Machine {
    let since = record.secrets.current_since;
    let previous_is_good = super::now().0.saturating_sub(since.0) < PREVIOUS_LIFETIME;
    // What a machine is restricted to is not enforced yet, so a restricted one may ask nothing.
    let unrestricted = record.machine.domains.is_empty() && record.machine.groups.is_empty();
    let previous = record.secrets.previous.as_ref().filter(|_| previous_is_good);
    Machine {
        name: record.machine.name.clone(),
        sid: record.machine.sid,
        channel_type: ChannelType(record.machine.kind.value()),
        enabled: record.is_enabled(),
        current: SharedSecret::new(*record.secrets.current.expose()),
        previous: previous.map(|hash| SharedSecret::new(*hash.expose())),
        may_map: record.machine.rcmp && unrestricted,
        generation: since.0,
    }
}

impl ChannelSecrets for StoredSecrets {
    fn find<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<Machine>, SecretsUnavailable>> {
        Box::pin(async move { self.machine(name).await.map_err(unavailable) })
    }

    fn revision(&self) -> Result<u64, SecretsUnavailable> {
        // It never comes back, also when a restored back-up brings old contents back.
        self.store.machine_revision().map(|revision| revision.generation()).map_err(unavailable)
    }

    fn current_used<'a>(&'a self, machine: &'a Machine) -> BoxFuture<'a, Result<(), SecretsUnavailable>> {
        Box::pin(async move {
            let current = NtHash::new(*machine.current.expose());
            self.store.drop_previous(machine.sid, current).await.map_err(unavailable)
        })
    }

    fn rotate<'a>(
        &'a self,
        machine: &'a Machine,
        new: SharedSecret,
    ) -> BoxFuture<'a, Result<(), SecretsUnavailable>> {
        Box::pin(async move {
            let hash = NtHash::new(*new.expose());
            self.store.rotate(machine.sid, hash, super::now()).await.map_err(unavailable)
        })
    }
}
