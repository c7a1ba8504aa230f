//! The application's permits: how many requests it gets at once, and how many of one client.
//!
//! A client of the TLS-terminating proxy is an account, or an address where it has no certificate. Each has a
//! limit of its own, and clients without a certificate have one together. Several clients that hold their
//! requests for long (slow bodies, WebSockets) can still use up what there is. So a request that has waited
//! for a while evicts the oldest request of the client with most, unless its own client has as many. The
//! evicted one's connection is closed, because a request whose client reads nothing cannot be ended
//! otherwise.

use dcerpc::limits::source_of;
use dcerpc::quota::{FairTable, Ticket};
use dtyp::Sid;
use std::collections::HashMap;
use std::net::IpAddr;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

/// Requests at an application at once: each is a connection and a descriptor.
pub(crate) const REQUESTS_MAX: usize = 1024;
/// Of these without a certificate, so that the others are for clients that have shown one.
pub(super) const ANONYMOUS_MAX: usize = REQUESTS_MAX / 2;
/// Of these from one account, or from one address without a certificate: an office behind one.
pub(super) const PER_CLIENT_MAX: usize = REQUESTS_MAX / 4;
/// The part of its time that a request waits before it evicts another one. Where the application is merely
/// slow, permits become free in less.
const FAIR_AFTER: u32 = 5;

/// A client of the TLS-terminating proxy.
#[derive(Clone, Debug)]
pub struct Client {
    /// Where it comes from.
    pub address: IpAddr,
    /// Whose certificate it has shown, if any.
    pub account: Option<Sid>,
    /// Closes its connection.
    pub close: CancellationToken,
}

/// What a request counts for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Holder {
    Account(Sid),
    Address(IpAddr),
}

impl Client {
    fn holder(&self) -> Holder {
        self.account.map_or_else(|| Holder::Address(source_of(self.address)), Holder::Account)
    }
}

/// Why there is no permit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Full {
    /// The client has too many requests.
    Client,
    /// All clients without a certificate have.
    Anonymous,
    /// All clients have.
    All,
}

#[derive(Clone, Debug)]
pub(super) struct RequestLimit {
    all: Arc<Semaphore>,
    anonymous: Arc<Semaphore>,
    quotas: Arc<Mutex<HashMap<Holder, Arc<Semaphore>>>>,
    held: Arc<Mutex<Held>>,
}

/// Requests by client, each with what closes its connection: with a certificate, and without.
#[derive(Debug)]
struct Held {
    accounts: FairTable<Holder, CancellationToken>,
    anonymous: FairTable<Holder, CancellationToken>,
}

impl Held {
    const fn of(&mut self, holder: Holder) -> &mut FairTable<Holder, CancellationToken> {
        match holder {
            Holder::Account(_) => &mut self.accounts,
            Holder::Address(_) => &mut self.anonymous,
        }
    }
}

/// A request's permit, until it is dropped.
#[derive(Debug)]
pub(super) struct RequestPermit {
    entry: Option<(Arc<Mutex<Held>>, Holder, Ticket)>,
    /// Ends what is left of the request, a WebSocket for instance.
    pub(super) close: CancellationToken,
    _permits: [Option<OwnedSemaphorePermit>; 3],
}

impl Drop for RequestPermit {
    fn drop(&mut self) {
        if let Some((held, holder, ticket)) = &self.entry {
            lock(held).of(*holder).remove(*ticket);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl RequestLimit {
    pub(super) fn new() -> Self {
        let table = || FairTable::new(REQUESTS_MAX, REQUESTS_MAX);
        Self {
            all: Arc::new(Semaphore::new(REQUESTS_MAX)),
            anonymous: Arc::new(Semaphore::new(ANONYMOUS_MAX)),
            quotas: Arc::default(),
            held: Arc::new(Mutex::new(Held { accounts: table(), anonymous: table() })),
        }
    }

    /// How many are free.
    #[cfg(test)]
    pub(crate) fn free(&self) -> usize {
        self.all.available_permits()
    }

    /// A permit, once there is one: first of the client's own, so that a request that waits there is in no
    /// other client's way. `client` is none for a web server in front, which limits its clients itself.
    pub(super) async fn acquire(
        &self,
        client: Option<&Client>,
        turn: Duration,
    ) -> Result<RequestPermit, Full> {
        let Some(client) = client else {
            let all = timeout_at(Instant::now() + turn, Arc::clone(&self.all).acquire_owned()).await;
            let all = all.map_err(|_| Full::All)?.map_err(|_| Full::All)?;
            let close = CancellationToken::new();
            return Ok(RequestPermit { entry: None, close, _permits: [None, None, Some(all)] });
        };
        let holder = client.holder();
        let end = Instant::now() + turn;
        let own = timeout_at(end, self.quota(holder).acquire_owned()).await;
        let own = own.map_err(|_| Full::Client)?.map_err(|_| Full::Client)?;
        let anonymous = match holder {
            Holder::Address(_) => {
                Some(self.fairly(&self.anonymous, holder, turn, end).await.ok_or(Full::Anonymous)?)
            }
            Holder::Account(_) => None,
        };
        let all = self.fairly(&self.all, holder, turn, end).await.ok_or(Full::All)?;
        // The semaphores limit what is in the table, so nothing is evicted here.
        let (ticket, _) = lock(&self.held).of(holder).insert(holder, client.close.clone());
        let entry = Some((Arc::clone(&self.held), holder, ticket));
        Ok(RequestPermit { entry, close: client.close.clone(), _permits: [Some(own), anonymous, Some(all)] })
    }

    async fn fairly(
        &self,
        permits: &Arc<Semaphore>,
        holder: Holder,
        turn: Duration,
        end: Instant,
    ) -> Option<OwnedSemaphorePermit> {
        let mut acquired = pin!(Arc::clone(permits).acquire_owned());
        let fair = (Instant::now() + turn / FAIR_AFTER).min(end);
        if let Ok(permit) = timeout_at(fair, acquired.as_mut()).await {
            return permit.ok();
        }
        let evicted = lock(&self.held).of(holder).evict_for(&holder);
        if let Some((_, close)) = evicted {
            close.cancel();
        }
        timeout_at(end, acquired).await.ok()?.ok()
    }

    fn quota(&self, holder: Holder) -> Arc<Semaphore> {
        let mut quotas = lock(&self.quotas);
        if quotas.len() >= REQUESTS_MAX {
            // A request that has a permit of a quota, or waits for one, holds the quota.
            quotas.retain(|_, quota| Arc::strong_count(quota) > 1);
        }
        Arc::clone(quotas.entry(holder).or_insert_with(|| Arc::new(Semaphore::new(PER_CLIENT_MAX))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TURN: Duration = Duration::from_millis(200);

    fn account(rid: u32) -> Client {
        let account = format!("S-1-5-21-1-2-3-{rid}").parse().ok();
        Client { account, ..anonymous(1) }
    }

    fn anonymous(n: u8) -> Client {
        Client { address: [192, 0, 2, n].into(), account: None, close: CancellationToken::new() }
    }

    async fn take(permits: &RequestLimit, client: &Client, count: usize) -> Vec<RequestPermit> {
        let mut taken = Vec::new();
        for _ in 0..count {
            taken.push(permits.acquire(Some(client), TURN).await.expect("there is one"));
        }
        taken
    }

    #[test]
    fn a_quota_is_kept_while_it_is_used() {
        let permits = RequestLimit::new();
        let host = |n: usize| Holder::Address(IpAddr::from([10, 0, (n >> 8) as u8, n as u8]));
        let held = permits.quota(host(0));
        for n in 1..=2 * REQUESTS_MAX {
            permits.quota(host(n));
        }
        assert!(Arc::ptr_eq(&held, &permits.quota(host(0))));
        assert!(permits.quotas.lock().expect("no test panicked").len() <= REQUESTS_MAX);
        let mapped = Client { address: "::ffff:192.0.2.1".parse().expect("an address"), ..anonymous(9) };
        assert_eq!(mapped.holder(), anonymous(1).holder(), "the same host");
    }

    #[tokio::test]
    async fn four_accounts_do_not_keep_a_fifth_out() {
        let permits = RequestLimit::new();
        let mut held = Vec::new();
        for rid in 1..=4 {
            held.push((account(rid), take(&permits, &account(rid), 0).await));
        }
        for (client, taken) in &mut held {
            *taken = take(&permits, client, PER_CLIENT_MAX).await;
        }
        assert_eq!(permits.free(), 0);
        assert!(permits.acquire(Some(&held[1].0), TURN).await.is_err_and(|full| full == Full::Client));
        // The one with most that began first is closed, and gives its permits back when its connection ends.
        let fifth = account(5);
        let (first, taken) = held.remove(0);
        let ends = async {
            first.close.cancelled().await;
            drop(taken);
        };
        let (permit, ()) = tokio::join!(permits.acquire(Some(&fifth), TURN), ends);
        assert!(permit.is_ok());
        assert!(held.iter().all(|(client, _)| !client.close.is_cancelled()));
    }

    #[tokio::test]
    async fn clients_without_a_certificate_leave_half() {
        let permits = RequestLimit::new();
        let _first = take(&permits, &anonymous(1), PER_CLIENT_MAX).await;
        let _second = take(&permits, &anonymous(2), PER_CLIENT_MAX).await;
        let third = anonymous(3);
        assert!(permits.acquire(Some(&third), TURN).await.is_err_and(|full| full == Full::Anonymous));
        assert_eq!(take(&permits, &account(1), PER_CLIENT_MAX).await.len(), PER_CLIENT_MAX);
    }

    #[tokio::test]
    async fn equal_clients_wait_for_each_other() {
        let permits = RequestLimit::new();
        let clients: Vec<Client> = (0..REQUESTS_MAX as u32).map(account).collect();
        let mut taken = Vec::new();
        for client in &clients {
            taken.extend(take(&permits, client, 1).await);
        }
        assert!(permits.acquire(Some(&account(u32::MAX)), TURN).await.is_err_and(|full| full == Full::All));
        assert!(clients.iter().all(|client| !client.close.is_cancelled()));
    }
}
