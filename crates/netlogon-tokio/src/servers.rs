//! The servers of one domain: if one does not answer, the next one is tried, within the deadline and the
//! retry budget.

use crate::discovery::Discovery;
use crate::meter::count;
use crate::server::{ClientAccount, PoolLimits, ServerClient, ServerFailed, ServerRequest};
use arc_swap::ArcSwap;
use dtyp::NtStatus;
use futures_util::future::join_all;
use netlogon_transport::client::PackageAnswer;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};
use tower::retry::budget::{Budget, TpsBudget};
use tracing::{debug, warn};

/// The retry budget: a tenth of the requests, and one a second where there are few. More retries would add
/// load to servers that are overloaded.
const RETRY_RATIO: f32 = 0.1;
const RETRIES_PER_SECOND_MIN: u32 = 1;
const RETRY_WINDOW: Duration = Duration::from_secs(10);
/// Least time for one server of several.
const SHARE_MIN: Duration = Duration::from_millis(100);
/// Between a look-up that failed and the next one.
const LOOK_UP_PAUSE: Duration = Duration::from_secs(5);
/// Timeouts of a whole look-up, and of the addresses of one server in it.
const LOOK_UP_TIME: Duration = Duration::from_secs(10);
const ADDRESS_TIME: Duration = Duration::from_secs(3);

/// Where the names of a domain's servers come from.
pub enum ServerSource {
    /// Fixed: each `HOST` or `HOST:PORT`.
    Listed(Vec<String>),
    /// SRV records in DNS.
    Discovered(Box<Discovery>),
}

/// An answer and the server that gave it.
#[derive(Debug)]
pub struct Answered<A = PackageAnswer> {
    /// The answer.
    pub answer: A,
    /// The server, `HOST` or `HOST:PORT`.
    pub server: String,
}

/// The known servers of a domain, refreshed from DNS.
struct Directory {
    domain: String,
    identity: ClientAccount,
    limits: PoolLimits,
    discovery: Option<Discovery>,
    known: ArcSwap<Known>,
    looking: Arc<tokio::sync::Mutex<()>>,
}

struct Known {
    clients: Vec<Arc<ServerClient>>,
    /// When they are looked up again. `None` for a fixed list.
    fresh_until: Option<Instant>,
}

/// The servers of one domain.
pub struct Servers {
    domain: String,
    directory: Arc<Directory>,
    budget: TpsBudget,
    hedge: Option<Duration>,
}

impl std::fmt::Debug for Servers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Servers of {}", self.domain)
    }
}

impl Servers {
    /// Opens no connection yet. With `hedge`, a repeatable request that takes longer than that is sent to a
    /// second server, too.
    pub fn new(
        at: ServerSource,
        identity: ClientAccount,
        limits: PoolLimits,
        hedge: Option<Duration>,
    ) -> Self {
        let client = |server: String| Arc::new(ServerClient::new(server, identity.clone(), limits));
        let (clients, discovery, fresh_until) = match at {
            ServerSource::Listed(servers) => (servers.into_iter().map(client).collect(), None, None),
            ServerSource::Discovered(discovery) => (vec![], Some(*discovery), Some(Instant::now())),
        };
        let directory = Directory {
            domain: identity.domain.clone(),
            identity,
            limits,
            discovery,
            known: ArcSwap::from_pointee(Known { clients, fresh_until }),
            looking: Arc::default(),
        };
        Self {
            domain: directory.domain.clone(),
            directory: Arc::new(directory),
            budget: TpsBudget::new(RETRY_WINDOW, RETRIES_PER_SECOND_MIN, RETRY_RATIO),
            hedge,
        }
    }

    /// The servers that are known now.
    pub fn clients(&self) -> Vec<Arc<ServerClient>> {
        self.directory.clients()
    }

    /// Sends a request to one server after the other until one decides. `None` if none did by `deadline`.
    pub async fn ask<R: ServerRequest>(&self, request: &R, deadline: Instant) -> Option<Answered<R::Answer>> {
        self.budget.deposit();
        let clients = self.find(deadline).await;
        let mut attempts = clients.iter().enumerate();
        while let Some((at, client)) = attempts.next() {
            let now = Instant::now();
            let left = deadline.saturating_duration_since(now);
            if left.is_zero() {
                break;
            }
            // The last server has all the time that is left.
            let share = (left / (clients.len() - at) as u32).max(SHARE_MIN).min(left);
            let until = now + share;
            let second = clients.get(at + 1).filter(|_| request.may_be_hedged()).zip(self.hedge);
            let (outcome, by) = match second {
                None => (client.ask(request, until).await, client),
                Some((second, hedge)) => {
                    let (outcome, by, hedged) = self.hedged((client, second), hedge, request, until).await;
                    if hedged {
                        attempts.next();
                    }
                    (outcome, by)
                }
            };
            let failed = match outcome {
                Ok(answer) if is_undecided(R::status(&answer)) => {
                    let status = R::status(&answer);
                    count(&by.meter().undecided);
                    debug!(domain = self.domain, server = by.server(), %status, "Server could not decide");
                    ServerFailed::NoAnswer(status.to_string())
                }
                Ok(answer) => {
                    return Some(Answered { answer, server: by.server().to_owned() });
                }
                Err(failed) => {
                    debug!(domain = self.domain, server = by.server(), reason = failed.name(), detail = ?failed, "Server did not answer");
                    failed
                }
            };
            // The next server may be tried if this one did not get the request, or if the request is
            // repeatable and the budget allows it.
            let may_go_on = failed.is_unperformed() || (request.is_repeatable() && self.budget.withdraw());
            if !may_go_on {
                break;
            }
        }
        None
    }

    /// Sends a request to one server and, after `hedge`, to a second one, too. The first decision counts. The
    /// last value is whether the second server was used.
    async fn hedged<'a, R: ServerRequest>(
        &self,
        (first, second): (&'a Arc<ServerClient>, &'a Arc<ServerClient>),
        hedge: Duration,
        request: &R,
        until: Instant,
    ) -> (Result<R::Answer, ServerFailed>, &'a Arc<ServerClient>, bool) {
        let mut asking = std::pin::pin!(first.ask(request, until));
        let hedge_at = Instant::now() + hedge;
        tokio::select! {
            biased;
            outcome = &mut asking => return (outcome, first, false),
            () = sleep_until(hedge_at) => {}
        }
        if !self.budget.withdraw() {
            return (asking.await, first, false);
        }
        let mut other = std::pin::pin!(second.ask(request, until));
        let is_decided = |outcome: &Result<R::Answer, _>| {
            outcome.as_ref().is_ok_and(|answer| !is_undecided(R::status(answer)))
        };
        tokio::select! {
            outcome = &mut asking => match is_decided(&outcome) {
                true => (outcome, first, true),
                false => (other.await, second, true),
            },
            outcome = &mut other => match is_decided(&outcome) {
                true => (outcome, second, true),
                false => (asking.await, first, true),
            },
        }
    }

    /// The servers in the order of preference; those with an open circuit breaker come last.
    pub async fn find(&self, deadline: Instant) -> Vec<Arc<ServerClient>> {
        self.directory.look_up(deadline).await;
        let mut clients = self.clients();
        clients.sort_by_key(|client| client.is_circuit_open());
        clients
    }
}

impl Directory {
    fn clients(&self) -> Vec<Arc<ServerClient>> {
        self.known.load().clients.clone()
    }

    /// Starts a look-up if the known servers are outdated, and waits for it only if there are none. The
    /// look-up is a task of its own, so that the deadline of a request does not cut it off.
    async fn look_up(self: &Arc<Self>, deadline: Instant) {
        let is_due = |known: &Known| known.fresh_until.is_some_and(|until| Instant::now() >= until);
        if self.discovery.is_none() || !is_due(&self.known.load()) {
            return;
        }
        if let Ok(looking) = Arc::clone(&self.looking).try_lock_owned() {
            let directory = Arc::clone(self);
            tokio::spawn(async move {
                if is_due(&directory.known.load()) {
                    directory.refresh().await;
                }
                drop(looking);
            });
        }
        if self.known.load().clients.is_empty() {
            // The look-up has ended when the lock is free.
            let _ = timeout_at(deadline, self.looking.lock()).await;
        }
    }

    /// If nothing is found, the known servers stay.
    async fn refresh(&self) {
        let Some(discovery) = &self.discovery else { return };
        let before = self.clients();
        let (clients, time) = match timeout(LOOK_UP_TIME, self.located(discovery, &before)).await {
            Ok(Some(found)) => found,
            Ok(None) => (before, LOOK_UP_PAUSE),
            Err(_) => {
                warn!(domain = self.domain, "DNS look-up of a domain's servers failed: timeout");
                (before, LOOK_UP_PAUSE)
            }
        };
        self.known.store(Arc::new(Known { clients, fresh_until: Some(Instant::now() + time) }));
    }

    /// The servers in DNS now, and how long that is valid. Clients of known servers are kept.
    async fn located(
        &self,
        discovery: &Discovery,
        before: &[Arc<ServerClient>],
    ) -> Option<(Vec<Arc<ServerClient>>, Duration)> {
        let located = match discovery.servers().await {
            Ok(located) => located,
            Err(error) => {
                warn!(domain = self.domain, %error, "DNS look-up of a domain's servers failed");
                return None;
            }
        };
        let client = |server: String| match before.iter().find(|client| client.server() == server) {
            Some(known) => Arc::clone(known),
            None => Arc::new(ServerClient::new(server, self.identity.clone(), self.limits)),
        };
        // A name that only these resolvers know cannot be resolved by the system, so the addresses are looked
        // up here.
        if !discovery.has_resolvers() {
            let clients: Vec<_> = located.found.into_iter().map(|found| client(found.host)).collect();
            return (!clients.is_empty()).then_some((clients, located.ttl));
        }
        // The timeout of one name does not delay the other servers.
        let looked_up = join_all(
            located.found.iter().map(|found| timeout(ADDRESS_TIME, discovery.addresses(&found.host))),
        );
        let (mut clients, mut time) = (Vec::new(), located.ttl);
        for (found, addresses) in located.found.iter().zip(looked_up.await) {
            match addresses {
                Ok(Ok(addresses)) => {
                    clients.extend(addresses.iter().map(|address| client(address.to_string())))
                }
                unknown => {
                    debug!(domain = self.domain, server = found.host, detail = ?unknown.map(Result::err), "Address look-up of a server failed");
                    time = LOOK_UP_PAUSE;
                }
            }
        }
        (!clients.is_empty()).then_some((clients, time))
    }
}

/// Whether the server could not decide, by its status.
pub(crate) const fn is_undecided(status: NtStatus) -> bool {
    matches!(
        status,
        NtStatus::DS_BUSY
            | NtStatus::NO_LOGON_SERVERS
            | NtStatus::INSUFFICIENT_RESOURCES
            | NtStatus::INTERNAL_ERROR
            | NtStatus::INVALID_SERVER_STATE
            // The answer of another domain that this server asked makes no sense.
            | NtStatus::INVALID_NETWORK_RESPONSE
    )
}
