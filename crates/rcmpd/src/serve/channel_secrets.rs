//! Machines of the store as the Netlogon server wants them.

use account_store::StoreError;
use account_store::machines::{MachineRecord, MachineStore, NtHash};
use netlogon_transport::secret::SharedSecret;
use netlogon_transport::secrets::{BoxFuture, ChannelSecrets, ChannelType, Machine, SecretsUnavailable};
use std::sync::Arc;

/// A previous secret is good for so long, in steps of a `FileTime`: a day, so that a machine whose answer got lost finds
/// its way back.
const PREVIOUS_LIFETIME: u64 = 24 * 3600 * 10_000_000;

/// Channel secrets from a machine store.
pub struct StoredSecrets {
    store: Arc<dyn MachineStore>,
}

impl StoredSecrets {
    /// Secrets of the machines in `store`.
    pub fn new(store: Arc<dyn MachineStore>) -> Self {
        Self { store }
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
        Box::pin(async move {
            let found = self.store.machine(name).await.map_err(unavailable)?;
            Ok(found.map(|record| machine(&record)))
        })
    }

    fn revision(&self) -> Result<u64, SecretsUnavailable> {
        self.store.machine_revision().map(|revision| revision.0).map_err(unavailable)
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
