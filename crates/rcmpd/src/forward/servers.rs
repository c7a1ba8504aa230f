//! The servers of one domain: the next one is asked when one does not answer, within the time and the budget that there are.

use super::discovery::Discovery;
use super::meter::count;
use super::server::{Asked, Identity, Room, ServerClient, ServerFailed};
use arc_swap::ArcSwap;
use dtyp::NtStatus;
use netlogon_transport::client::PackageAnswer;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep_until, timeout_at};
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

struct Known {
    clients: Vec<Arc<ServerClient>>,
    /// When to look for them again.
    fresh_until: Option<Instant>,
}

/// The servers of one domain.
pub struct Servers {
    domain: String,
    identity: Identity,
    room: Room,
    discovery: Option<Discovery>,
    known: ArcSwap<Known>,
    looking: tokio::sync::Mutex<()>,
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
        Self {
            domain: identity.domain.clone(),
            identity,
            room,
            discovery,
            known: ArcSwap::from_pointee(Known { clients, fresh_until }),
            looking: tokio::sync::Mutex::default(),
            budget: TpsBudget::new(RETRY_WINDOW, RETRIES_PER_SECOND_MIN, RETRY_RATIO),
            hedge,
        }
    }

    /// Those that are known now.
    pub fn clients(&self) -> Vec<Arc<ServerClient>> {
        self.known.load().clients.clone()
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
                Ok(answer) if is_undecided(&answer) => {
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
        let is_decided =
            |outcome: &Result<PackageAnswer, _>| outcome.as_ref().is_ok_and(|answer| !is_undecided(answer));
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
        self.look_up(deadline).await;
        let mut clients = self.clients();
        clients.sort_by_key(|client| client.is_left_alone());
        clients
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
        let (mut clients, mut time) = (Vec::new(), located.ttl);
        for found in located.found {
            // A name that only these resolvers know is known to nobody else here.
            if !discovery.has_resolvers() {
                clients.push(client(found.host));
                continue;
            }
            match discovery.addresses(&found.host).await {
                Ok(addresses) => clients.extend(addresses.iter().map(|address| client(address.to_string()))),
                Err(error) => {
                    debug!(domain = self.domain, %error, "A server's address is not known");
                    time = LOOK_UP_PAUSE;
                }
            }
        }
        (!clients.is_empty()).then_some((clients, time))
    }

    /// Looks for the servers when what is known is old. What is known stays when nothing is found.
    async fn look_up(&self, deadline: Instant) {
        let is_due = |known: &Known| known.fresh_until.is_some_and(|until| Instant::now() >= until);
        let Some(discovery) = self.discovery.as_ref().filter(|_| is_due(&self.known.load())) else { return };
        let looking = match self.known.load().clients.is_empty() {
            // There is nobody to ask before.
            true => match timeout_at(deadline, self.looking.lock()).await {
                Ok(looking) => looking,
                Err(_) => return,
            },
            false => match self.looking.try_lock() {
                Ok(looking) => looking,
                Err(_) => return,
            },
        };
        if !is_due(&self.known.load()) {
            return;
        }
        let before = self.clients();
        let known = match timeout_at(deadline, self.located(discovery, &before)).await {
            Ok(Some((clients, time))) => Known { clients, fresh_until: Some(Instant::now() + time) },
            // What is known stays when nothing is found.
            _ => Known { clients: before, fresh_until: Some(Instant::now() + LOOK_UP_PAUSE) },
        };
        self.known.store(Arc::new(known));
        drop(looking);
    }
}

/// Whether an answer says that its server could not decide.
fn is_undecided(answer: &PackageAnswer) -> bool {
    !answer.authoritative
        && matches!(
            answer.status,
            NtStatus::DS_BUSY
                | NtStatus::NO_LOGON_SERVERS
                | NtStatus::INSUFFICIENT_RESOURCES
                | NtStatus::INTERNAL_ERROR
                | NtStatus::INVALID_SERVER_STATE
        )
}
