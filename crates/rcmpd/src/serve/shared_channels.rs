//! Secure channels that several servers share in PostgreSQL, as the Netlogon server wants them.

use crate::clock::now;
use account_store::StoreError;
use dtyp::FileTime;
use netlogon_transport::credential::Credential;
use netlogon_transport::secret::SessionKey;
use netlogon_transport::secrets::{BoxFuture, ChannelType, SecretsUnavailable};
use netlogon_transport::server::{
    ChannelId, ChannelState, SharedChallenge, SharedChannels, StoredCredential,
};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use store_postgres::{Challenge, Channel, PostgresStore};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::timeout;
use zeroize::Zeroizing;

/// Questions that clients may cause without proving a secret, at one time. Look-ups of accounts need connections
/// of the same pool.
const UNPROVED_MAX: usize = 4;
/// How long one of them waits for its turn.
const TURN: Duration = Duration::from_secs(2);

/// The tables `channel` and `challenge`.
pub(super) struct SharedTables {
    store: Arc<PostgresStore>,
    unproved: Semaphore,
}

impl SharedTables {
    pub(super) fn new(store: Arc<PostgresStore>) -> Self {
        Self { store, unproved: Semaphore::new(UNPROVED_MAX) }
    }

    async fn turn(&self) -> Result<SemaphorePermit<'_>, SecretsUnavailable> {
        let busy = || SecretsUnavailable("too many clients that have proved nothing".to_owned());
        timeout(TURN, self.unproved.acquire()).await.map_err(|_| busy())?.map_err(|_| busy())
    }
}

impl SharedChannels for SharedTables {
    fn put_challenge<'a>(
        &'a self,
        source: IpAddr,
        computer: &'a str,
        client: Credential,
        server: Credential,
    ) -> BoxFuture<'a, Result<(), SecretsUnavailable>> {
        Box::pin(async move {
            let mut halves = [0; 16];
            halves[..8].copy_from_slice(&client);
            halves[8..].copy_from_slice(&server);
            let _turn = self.turn().await?;
            self.store.put_challenge((source, computer), halves, now()).await.map_err(unavailable)
        })
    }

    fn challenges<'a>(
        &'a self,
        source: IpAddr,
        computer: &'a str,
    ) -> BoxFuture<'a, Result<Vec<SharedChallenge>, SecretsUnavailable>> {
        Box::pin(async move {
            let _turn = self.turn().await?;
            let found = self.store.challenges((source, computer), now()).await.map_err(unavailable)?;
            Ok(found.into_iter().map(challenge).collect())
        })
    }

    fn use_up<'a>(
        &'a self,
        challenge: &'a SharedChallenge,
    ) -> BoxFuture<'a, Result<bool, SecretsUnavailable>> {
        Box::pin(async move {
            let SharedChallenge { id, .. } = *challenge;
            self.store.use_up_challenge(id).await.map_err(unavailable)
        })
    }

    fn put<'a>(&'a self, state: &'a ChannelState) -> BoxFuture<'a, Result<(), SecretsUnavailable>> {
        Box::pin(async move {
            let now = now();
            self.store.put_channel(&row(state, now), now).await.map_err(unavailable)
        })
    }

    fn find<'a>(&'a self, computer: &'a str) -> BoxFuture<'a, Result<Vec<ChannelState>, SecretsUnavailable>> {
        Box::pin(async move {
            let _turn = self.turn().await?;
            let now = now();
            let found = self.store.channels(computer, now).await.map_err(unavailable)?;
            Ok(found.into_iter().map(|row| state(row, now)).collect())
        })
    }

    fn credential<'a>(
        &'a self,
        id: &'a ChannelId,
    ) -> BoxFuture<'a, Result<Option<StoredCredential>, SecretsUnavailable>> {
        Box::pin(async move {
            let stored = self.store.stored_credential(id).await.map_err(unavailable)?;
            Ok(stored.map(|store_postgres::StoredCredential { generation, octets }| StoredCredential {
                generation,
                credential: octets,
            }))
        })
    }

    fn advance<'a>(
        &'a self,
        id: &'a ChannelId,
        from: &'a StoredCredential,
        to: Credential,
    ) -> BoxFuture<'a, Result<bool, SecretsUnavailable>> {
        Box::pin(async move {
            let from =
                store_postgres::StoredCredential { generation: from.generation, octets: from.credential };
            self.store.advance_credential(id, from, to).await.map_err(unavailable)
        })
    }
}

fn unavailable(error: StoreError) -> SecretsUnavailable {
    SecretsUnavailable(error.to_string())
}

fn challenge(Challenge { id, halves }: Challenge) -> SharedChallenge {
    let half = |at: usize| std::array::from_fn(|n| halves[at + n]);
    SharedChallenge { client: half(0), server: half(8), id }
}

fn row(state: &ChannelState, now: FileTime) -> Channel {
    let mut key = Zeroizing::new([0; 24]);
    key[..16].copy_from_slice(state.key.expose());
    key[16..].copy_from_slice(&state.secret_check);
    let StoredCredential { generation, credential } = state.seed;
    Channel {
        id: state.id,
        account: state.account.clone(),
        sid: state.sid,
        computer: state.computer.clone(),
        kind: state.channel_type.0,
        negotiated_flags: state.negotiated_flags,
        requested_flags: state.requested_flags,
        ends: now + state.left,
        key,
        credential: store_postgres::StoredCredential { generation, octets: credential },
    }
}

fn state(row: Channel, now: FileTime) -> ChannelState {
    let store_postgres::StoredCredential { generation, octets } = row.credential;
    ChannelState {
        id: row.id,
        account: row.account,
        sid: row.sid,
        computer: row.computer,
        channel_type: ChannelType(row.kind),
        negotiated_flags: row.negotiated_flags,
        requested_flags: row.requested_flags,
        key: SessionKey::new(std::array::from_fn(|n| row.key[n])),
        secret_check: std::array::from_fn(|n| row.key[16 + n]),
        left: Duration::from_nanos(row.ends.0.saturating_sub(now.0).saturating_mul(100)),
        seed: StoredCredential { generation, credential: octets },
    }
}
