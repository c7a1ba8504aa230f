//! Machines of the store as the Netlogon server wants them.

use crate::clock::{now, uptime};
use crate::deciders::CurrentPolicy;
use account_store::StoreError;
use account_store::machines::{ChannelKind, MachineRecord, MachineStore, NtHash};
use dcerpc_tokio::LogLimiter;
use dtyp::{FileTime, Sid};
use netlogon_transport::secret::SharedSecret;
use netlogon_transport::secrets::{BoxFuture, ChannelSecrets, ChannelType, Machine, SecretsUnavailable};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// A previous secret is accepted for a day, so that a machine whose answer got lost finds its way back.
const PREVIOUS_LIFETIME: Duration = Duration::from_secs(24 * 3600);

/// Channel secrets from a machine store.
pub struct StoredSecrets {
    accepted: Accepted,
    policy: CurrentPolicy,
    log: LogLimiter,
}

/// The machines of a store with the secrets that are accepted of each.
struct Accepted {
    store: Arc<dyn MachineStore>,
    ends: Mutex<PreviousEnds>,
}

/// When the previous secrets end that were looked at: one entry for each machine that has one.
///
/// A store can only keep a time of the wall clock. It is read once, when a previous secret is first looked
/// at; from then on its day is counted by the monotonic clock, so that setting the wall clock neither ends a
/// previous secret early nor makes it live longer. One that ended is removed from the store, so that a
/// restart does not bring it back.
#[derive(Debug, Default)]
struct PreviousEnds(HashMap<Sid, PreviousEnd>);

#[derive(Clone, Copy, Debug)]
struct PreviousEnd {
    /// When the current secret became so.
    since: FileTime,
    /// When the previous one ends, in monotonic time.
    at: Duration,
    /// Whether the store was asked to remove it.
    is_removed: bool,
}

impl PreviousEnds {
    fn entry(&mut self, sid: Sid, since: FileTime, now: FileTime, uptime: Duration) -> &mut PreviousEnd {
        let age = Duration::from_nanos(now.0.saturating_sub(since.0).saturating_mul(100));
        let new =
            PreviousEnd { since, at: uptime + PREVIOUS_LIFETIME.saturating_sub(age), is_removed: false };
        let known = self.0.entry(sid).or_insert(new);
        if known.since != since {
            *known = new;
        }
        known
    }
}

impl StoredSecrets {
    /// Secrets of the machines in `store`; which domain has which DNS name is looked up in `policy`.
    pub fn new(store: Arc<dyn MachineStore>, policy: CurrentPolicy) -> Self {
        Self { accepted: Accepted::new(store), policy, log: LogLimiter::default() }
    }

    /// The error for the server, which answers STATUS_DS_BUSY.
    fn unavailable(&self, error: StoreError) -> SecretsUnavailable {
        self.log.counted("unavailable", |left_out| {
            tracing::warn!(%error, left_out, "Machine secrets unavailable: calls and handshakes are refused");
        });
        SecretsUnavailable(error.to_string())
    }

    async fn machine(&self, name: &str) -> Result<Option<Machine>, StoreError> {
        if name.ends_with('$') {
            return self.accepted.machine(name).await;
        }
        // Type 3: the trusted domain by its DNS name, the account by the NetBIOS name that belongs to it.
        let account = {
            let deciders = self.policy.0.load();
            let domains = deciders.forwarding.forwarder.domains();
            domains.find(name).map(|peer| format!("{}$", domains.peers()[peer].domain.netbios))
        };
        let Some(account) = account.filter(|_| name.contains('.')) else { return Ok(None) };
        let trusts = [ChannelKind::TrustedDomain, ChannelKind::TrustedDnsDomain];
        let is_trust = |machine: &Machine| trusts.iter().any(|kind| kind.value() == machine.channel_type.0);
        let found = self.accepted.machine(&account).await?.filter(is_trust);
        Ok(found.map(|machine| Machine { channel_type: ChannelType::TRUSTED_DNS_DOMAIN, ..machine }))
    }
}

impl Accepted {
    fn new(store: Arc<dyn MachineStore>) -> Self {
        Self { store, ends: Mutex::default() }
    }

    async fn machine(&self, name: &str) -> Result<Option<Machine>, StoreError> {
        match self.store.machine(name).await? {
            Some(record) => Ok(Some(self.usable(&record).await)),
            None => Ok(None),
        }
    }

    /// The previous secret is accepted no more: first here, then in the store, because a disk that is full
    /// must not keep it alive.
    async fn current_used(&self, machine: &Machine) -> Result<(), StoreError> {
        let current = NtHash::new(*machine.current.expose());
        if let Some(record) = self.store.machine(&machine.name).await?
            && record.secrets.current == current
        {
            let since = record.secrets.current_since;
            self.ends().entry(machine.sid, since, now(), uptime()).at = Duration::ZERO;
        }
        self.store.drop_previous(machine.sid, current).await
    }

    /// A machine with the secrets of it that are accepted now.
    async fn usable(&self, record: &MachineRecord) -> Machine {
        let (sid, secrets) = (record.machine.sid, &record.secrets);
        let (mut previous, mut removes) = (secrets.previous.as_ref(), false);
        {
            let mut ends = self.ends();
            if previous.is_none() {
                ends.0.remove(&sid);
            } else {
                let end = ends.entry(sid, secrets.current_since, now(), uptime());
                if uptime() >= end.at {
                    (previous, removes) = (None, !std::mem::replace(&mut end.is_removed, true));
                }
            }
        }
        if removes && let Err(error) = self.store.drop_previous(sid, secrets.current.clone()).await {
            tracing::warn!(%error, account = record.machine.name, "Cannot remove an expired previous secret");
        }
        machine(record, previous)
    }

    fn ends(&self) -> std::sync::MutexGuard<'_, PreviousEnds> {
        self.ends.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn machine(record: &MachineRecord, previous: Option<&NtHash>) -> Machine {
    Machine {
        name: record.machine.name.clone(),
        sid: record.machine.sid,
        channel_type: ChannelType(record.machine.kind.value()),
        enabled: record.is_enabled(),
        current: SharedSecret::new(*record.secrets.current.expose()),
        previous: previous.map(|hash| SharedSecret::new(*hash.expose())),
        may_map: record.machine.rcmp,
        domains: record.machine.domains.as_slice().into(),
        groups: record.machine.groups.as_slice().into(),
    }
}

impl ChannelSecrets for StoredSecrets {
    fn find<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<Machine>, SecretsUnavailable>> {
        Box::pin(async move { self.machine(name).await.map_err(|error| self.unavailable(error)) })
    }

    fn revision(&self) -> Result<u64, SecretsUnavailable> {
        // It never comes back, also when a restored back-up brings old contents back.
        self.accepted
            .store
            .machine_revision()
            .map(|revision| revision.generation())
            .map_err(|error| self.unavailable(error))
    }

    fn refresh(&self) -> BoxFuture<'_, Result<(), SecretsUnavailable>> {
        Box::pin(async move {
            self.accepted.store.refresh_machines().await.map_err(|error| self.unavailable(error))
        })
    }

    fn current_used<'a>(&'a self, machine: &'a Machine) -> BoxFuture<'a, Result<(), SecretsUnavailable>> {
        Box::pin(
            async move { self.accepted.current_used(machine).await.map_err(|error| self.unavailable(error)) },
        )
    }

    fn rotate<'a>(
        &'a self,
        machine: &'a Machine,
        new: SharedSecret,
    ) -> BoxFuture<'a, Result<bool, SecretsUnavailable>> {
        Box::pin(async move {
            let [current, new] = [&machine.current, &new].map(|secret| NtHash::new(*secret.expose()));
            self.accepted
                .store
                .rotate(machine.sid, Some(current), new, now())
                .await
                .map_err(|error| self.unavailable(error))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use account_store::machines::Secrets;
    use account_store::{Domain, MachineAdmin, Put, memory::MemoryStore};

    const HOUR: Duration = Duration::from_secs(3600);
    const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);

    fn sid() -> Sid {
        "S-1-5-21-1-2-3-1001".parse().expect("a SID")
    }

    #[test]
    fn the_day_of_a_previous_secret_is_counted_by_the_monotonic_clock() {
        let mut ends = PreviousEnds::default();
        let since = FileTime::UNSET + YEAR;
        assert_eq!(ends.entry(sid(), since, since + HOUR, HOUR).at, 24 * HOUR);
        for (what, now) in
            [("a year on", since + YEAR), ("a year back", since - YEAR), ("as it was", since + 2 * HOUR)]
        {
            assert_eq!(ends.entry(sid(), since, now, 2 * HOUR).at, 24 * HOUR, "{what}");
        }
        let next = since + 3 * HOUR;
        assert_eq!(ends.entry(sid(), next, next, 3 * HOUR).at, 27 * HOUR, "another rotation has its own day");
        let other = "S-1-5-21-1-2-3-1002".parse().expect("a SID");
        assert_eq!(ends.entry(other, FileTime(0), next, HOUR).at, HOUR, "one that is a day old has ended");
        let third = "S-1-5-21-1-2-3-1003".parse().expect("a SID");
        assert_eq!(
            ends.entry(third, next, FileTime(0), HOUR).at,
            25 * HOUR,
            "a day, though it is from the future"
        );
    }

    #[tokio::test]
    async fn a_previous_secret_that_expired_is_not_accepted_and_removed() {
        let hash = |n| NtHash::new([n; 16]);
        for (what, since, is_good) in [("now", now(), true), ("two days ago", now() - 48 * HOUR, false)] {
            let domain = Domain {
                sid: "S-1-5-21-1-2-3".parse().expect("a SID"),
                netbios: "CONTOSO".into(),
                dns: "contoso.example".into(),
            };
            let store = Arc::new(MemoryStore::new(domain));
            let machine = account_store::machines::Machine {
                name: "WEB01$".into(),
                sid: sid(),
                kind: ChannelKind::Workstation,
                enabled: true,
                rcmp: true,
                domains: vec![],
                groups: vec![],
            };
            let secrets = Secrets { current: hash(2), current_since: since, previous: Some(hash(1)) };
            store.put_machine(Put::New, machine, Some(secrets)).await.expect("the rules are kept");
            let secrets = Accepted::new(Arc::clone(&store) as _);
            let found = secrets.machine("WEB01$").await.expect("the store answers").expect("it is there");
            assert_eq!(found.previous.is_some(), is_good, "{what}");
            let kept = async || {
                store
                    .machine("WEB01$")
                    .await
                    .expect("the store answers")
                    .expect("it is there")
                    .secrets
                    .previous
                    .is_some()
            };
            assert_eq!(kept().await, is_good, "{what}");
            secrets.current_used(&found).await.expect("the store answers");
            assert!(!kept().await);
            let found = secrets.machine("WEB01$").await.expect("the store answers").expect("it is there");
            assert_eq!(found.previous, None);
        }
    }
}
