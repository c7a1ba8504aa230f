//! The servers of one domain: the next one is asked when one does not answer, within the time and the budget that there are.

use crate::discovery::Discovery;
use crate::meter::count;
use crate::server::{Asked, Identity, Room, ServerClient, ServerFailed};
use arc_swap::ArcSwap;
use dtyp::NtStatus;
use futures_util::future::join_all;
use netlogon_transport::client::PackageAnswer;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};
use tower::retry::budget::{Budget, TpsBudget};
use tracing::{debug, warn};

/// What may be asked again, beside what is asked: a tenth, and one a second for those who ask little. More would be a second flood
/// for servers that cannot bear the first.
const RETRY_RATIO: f32 = 0.1;
const RETRIES_PER_SECOND_MIN: u32 = 1;
const RETRY_WINDOW: Duration = Duration::from_secs(10);
/// Least time for one server, however many there are.
const SHARE_MIN: Duration = Duration::from_millis(100);
/// After a look-up that failed, before the next one.
const LOOK_UP_PAUSE: Duration = Duration::from_secs(5);
/// For a whole look-up, and for one server's addresses in it.
const LOOK_UP_TIME: Duration = Duration::from_secs(10);
const ADDRESS_TIME: Duration = Duration::from_secs(3);

/// Where a domain's servers are.
pub enum Whereabouts {
    /// As configured.
    Listed(Vec<String>),
    /// As DNS says.
    Discovered(Box<Discovery>),
}

/// An answer, and whose it is.
#[derive(Debug)]
pub struct Answered {
    /// The answer.
    pub answer: PackageAnswer,
    /// The server.
    pub server: String,
}

/// Who the servers of a domain are, and where that is looked up.
struct Directory {
    domain: String,
    identity: Identity,
    room: Room,
    discovery: Option<Discovery>,
    known: ArcSwap<Known>,
    looking: Arc<tokio::sync::Mutex<()>>,
}

struct Known {
    clients: Vec<Arc<ServerClient>>,
    /// When to look for them again.
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
    /// Nobody is asked yet. With `hedge`, a question that takes longer is asked of a second server too.
    pub fn new(at: Whereabouts, identity: Identity, room: Room, hedge: Option<Duration>) -> Self {
        let client = |server: String| Arc::new(ServerClient::new(server, identity.clone(), room));
        let (clients, discovery, fresh_until) = match at {
            Whereabouts::Listed(servers) => (servers.into_iter().map(client).collect(), None, None),
            Whereabouts::Discovered(discovery) => (vec![], Some(*discovery), Some(Instant::now())),
        };
        let directory = Directory {
            domain: identity.domain.clone(),
            identity,
            room,
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

    /// Those that are known now.
    pub fn clients(&self) -> Vec<Arc<ServerClient>> {
        self.directory.clients()
    }

    /// Asks until a server decides. `None` when none did.
    pub async fn ask(&self, asked: &Asked<'_>, deadline: Instant) -> Option<Answered> {
        self.budget.deposit();
        let clients = self.find(deadline).await;
        let mut attempts = clients.iter().enumerate();
        while let Some((at, client)) = attempts.next() {
            let now = Instant::now();
            let left = deadline.saturating_duration_since(now);
            if left.is_zero() {
                break;
            }
            // The last one has all the time that is left.
            let share = (left / (clients.len() - at) as u32).max(SHARE_MIN).min(left);
            let until = now + share;
            let second = clients.get(at + 1).filter(|_| asked.repeatable).zip(self.hedge);
            let (outcome, by) = match second {
                None => (client.ask(asked, until).await, client),
                Some((second, hedge)) => {
                    let (outcome, by, hedged) = self.hedged((client, second), hedge, asked, until).await;
                    if hedged {
                        attempts.next();
                    }
                    (outcome, by)
                }
            };
            let failed = match outcome {
                Ok(answer) if is_undecided(answer.status) => {
                    count(&by.meter().undecided);
                    debug!(domain = self.domain, server = by.server(), status = %answer.status, "A server could not decide");
                    ServerFailed::Silent(answer.status.to_string())
                }
                Ok(answer) => {
                    return Some(Answered { answer, server: by.server().to_owned() });
                }
                Err(failed) => {
                    debug!(domain = self.domain, server = by.server(), reason = failed.name(), detail = ?failed, "A server did not answer");
                    failed
                }
            };
            // The next one may be asked when this one was not, or when asking twice harms nobody and there is not too much of it.
            let may_go_on = failed.is_unasked() || (asked.repeatable && self.budget.withdraw());
            if !may_go_on {
                break;
            }
        }
        None
    }

    /// Asks one server, and after a while another one too; whoever decides first is heard.
    async fn hedged<'a>(
        &self,
        (first, second): (&'a Arc<ServerClient>, &'a Arc<ServerClient>),
        hedge: Duration,
        asked: &Asked<'_>,
        until: Instant,
    ) -> (Result<PackageAnswer, ServerFailed>, &'a Arc<ServerClient>, bool) {
        let mut asking = std::pin::pin!(first.ask(asked, until));
        let hedge_at = Instant::now() + hedge;
        tokio::select! {
            biased;
            outcome = &mut asking => return (outcome, first, false),
            () = sleep_until(hedge_at) => {}
        }
        if !self.budget.withdraw() {
            return (asking.await, first, false);
        }
        let mut other = std::pin::pin!(second.ask(asked, until));
        let is_decided = |outcome: &Result<PackageAnswer, _>| {
            outcome.as_ref().is_ok_and(|answer| !is_undecided(answer.status))
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

    /// The servers in the order in which they are preferred, those that are left alone last.
    pub async fn find(&self, deadline: Instant) -> Vec<Arc<ServerClient>> {
        self.directory.look_up(deadline).await;
        let mut clients = self.clients();
        clients.sort_by_key(|client| client.is_left_alone());
        clients
    }
}

impl Directory {
    fn clients(&self) -> Vec<Arc<ServerClient>> {
        self.known.load().clients.clone()
    }

    /// Looks for the servers when what is known is old; who asks waits only when nobody is known. The looking is a task of its own,
    /// so that no question's short time cuts it off.
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
            // Whoever looks has found by the time the lock is free.
            let _ = timeout_at(deadline, self.looking.lock()).await;
        }
    }

    /// What is known stays when nothing is found.
    async fn refresh(&self) {
        let Some(discovery) = &self.discovery else { return };
        let before = self.clients();
        let (clients, time) = match timeout(LOOK_UP_TIME, self.located(discovery, &before)).await {
            Ok(Some(found)) => found,
            Ok(None) => (before, LOOK_UP_PAUSE),
            Err(_) => {
                warn!(
                    domain = self.domain,
                    "The domain's servers cannot be looked up: the resolvers are silent"
                );
                (before, LOOK_UP_PAUSE)
            }
        };
        self.known.store(Arc::new(Known { clients, fresh_until: Some(Instant::now() + time) }));
    }

    /// The servers that DNS tells of now, and for how long that is true; those that are known already stay the same.
    async fn located(
        &self,
        discovery: &Discovery,
        before: &[Arc<ServerClient>],
    ) -> Option<(Vec<Arc<ServerClient>>, Duration)> {
        let located = match discovery.servers().await {
            Ok(located) => located,
            Err(error) => {
                warn!(domain = self.domain, %error, "The domain's servers cannot be looked up");
                return None;
            }
        };
        let client = |server: String| match before.iter().find(|client| client.server() == server) {
            Some(known) => Arc::clone(known),
            None => Arc::new(ServerClient::new(server, self.identity.clone(), self.room)),
        };
        // A name that only these resolvers know is known to nobody else here.
        if !discovery.has_resolvers() {
            let clients: Vec<_> = located.found.into_iter().map(|found| client(found.host)).collect();
            return (!clients.is_empty()).then_some((clients, located.ttl));
        }
        // One silent resolver of one name does not keep the others' servers away.
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
                    debug!(domain = self.domain, server = found.host, detail = ?unknown.map(Result::err), "A server's address is not known");
                    time = LOOK_UP_PAUSE;
                }
            }
        }
        (!clients.is_empty()).then_some((clients, time))
    }
}

/// Whether a status says that its server could not decide.
pub(crate) const fn is_undecided(status: NtStatus) -> bool {
    matches!(
        status,
        NtStatus::DS_BUSY
            | NtStatus::NO_LOGON_SERVERS
            | NtStatus::INSUFFICIENT_RESOURCES
            | NtStatus::INTERNAL_ERROR
            | NtStatus::INVALID_SERVER_STATE
    )
}
