//! Refusals that another server does not undo. Servers of a directory replicate with delay: after a switch to
//! another one, an account that was disabled, or a mapping that was removed, may be there again.

use crate::log_limiter::LogLimiter;
use crate::server::{Role, Server};
use account_store::index::Place;
use account_store::{AccountFlags, Matches};
use dtyp::{FileTime, Sid};
use quick_cache::sync::Cache;
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use tracing::info;

/// How long a refusal counts against the answers of other servers. It covers the replication within a site
/// and the default interval between sites ([MS-ADTS] 6.1.1.2.2.3.1, `replInterval`).
pub(crate) const REFUSAL_LIFETIME: Duration = Duration::from_secs(15 * 60);

/// Cached places and accounts. Only accounts of the directory get in, not what clients make up.
const ENTRIES_MAX: usize = 65_536;

/// What a server last answered.
#[derive(Clone)]
struct Last {
    server: Arc<Server>,
    at: Instant,
    /// None if there was one account without a restriction.
    refusal: Option<Matches>,
    /// The account, if there was one.
    sid: Option<Sid>,
}

/// The last answers about places that had an account, and about accounts that were restricted.
pub(crate) struct FailoverRefusals {
    places: Cache<(Role, Place), Last>,
    accounts: Cache<Sid, Last>,
    log_limiter: LogLimiter,
}

/// The refusals of a directory. They outlive a store if the next one gets them, as after a reload.
#[derive(Clone)]
pub struct Refusals(pub(crate) Arc<FailoverRefusals>);

impl Default for Refusals {
    fn default() -> Self {
        Self(Arc::new(FailoverRefusals::new()))
    }
}

impl Refusals {
    /// Whether a store has them, or something else does.
    pub fn is_used(&self) -> bool {
        Arc::strong_count(&self.0) > 1
    }

    /// Whether both are the same ones.
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl FailoverRefusals {
    pub(crate) fn new() -> Self {
        Self {
            places: Cache::new(ENTRIES_MAX),
            accounts: Cache::new(ENTRIES_MAX),
            log_limiter: LogLimiter::new(),
        }
    }

    /// The answer that counts: what a server found, or the refusal of another server not long ago. `now` is
    /// by the monotonic clock, and by the wall clock.
    pub(crate) fn resolve(
        &self,
        (role, place): (Role, &Place),
        server: &Server,
        found: Matches,
        now: (Instant, FileTime),
    ) -> Matches {
        let key = (role, place.clone());
        let is_restricted = matches!(&found, Matches::One(record) if
            role == Role::Domain && (record.account.flags.0 & RESTRICTED.0 != 0 || is_expired(record.account.expires, now.1)));
        let sid = match &found {
            Matches::One(record) => Some(record.account.sid),
            _ => None,
        };
        let last = |refusal| Last { server: Arc::new(server.clone()), at: now.0, refusal, sid };
        match sid {
            Some(sid) if is_restricted => {
                self.accounts.insert(sid, last(Some(found.clone())));
                self.places.insert(key, last(Some(found.clone())));
                return found;
            }
            // What had an account, and has none or several.
            None => {
                if self.places.get(&key).is_some() {
                    self.places.insert(key, last(Some(found.clone())));
                }
                return found;
            }
            Some(sid) => {
                let moved = self.places.get(&key).filter(|last| is_moved(last, &sid, server, now.0));
                let refusal = moved.map(|_| Matches::Many(Vec::new()));
                let refusal = refusal.or_else(|| refusal_of_another(&self.accounts, &sid, server, now.0));
                if let Some(refusal) =
                    refusal.or_else(|| refusal_of_another(&self.places, &key, server, now.0))
                {
                    if let Some(left_out) = self.log_limiter.allow(now.0) {
                        info!(%sid, %server, left_out, "Account stays rejected: another directory server rejected it");
                    }
                    return refusal;
                }
                self.accounts.remove(&sid);
                self.places.insert(key, last(None));
            }
        }
        found
    }
}

/// Flags of accounts that map no certificate.
const RESTRICTED: AccountFlags = AccountFlags(AccountFlags::DISABLED.0 | AccountFlags::LOCKED.0);

fn is_expired(expires: FileTime, now: FileTime) -> bool {
    expires != FileTime::UNSET && expires <= now
}

/// The refusal of another server that still counts.
fn refusal_of_another<K: Eq + Hash>(
    of: &Cache<K, Last>,
    key: &K,
    server: &Server,
    now: Instant,
) -> Option<Matches> {
    let last = of.get(key)?;
    let counts = *last.server != *server && now.saturating_duration_since(last.at) < REFUSAL_LIFETIME;
    last.refusal.filter(|_| counts)
}

/// Whether another server had another account at the place: which of them has it now is not known.
fn is_moved(last: &Last, sid: &Sid, server: &Server, now: Instant) -> bool {
    let counts = *last.server != *server && now.saturating_duration_since(last.at) < REFUSAL_LIFETIME;
    counts && last.sid.is_some_and(|known| known != *sid)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::TlsMode;
    use account_store::{Account, Record};

    fn server(host: &str) -> Server {
        Server { host: host.to_owned(), port: 636, tls: TlsMode::Ldaps }
    }

    fn found(flags: AccountFlags, expires: FileTime) -> Matches {
        let sid = "S-1-5-21-1-2-3-1101".parse().expect("it is a SID");
        let account = Account { flags, expires, ..Account::new("carol", sid) };
        Matches::One(Arc::new(Record { account, memberships: Vec::new() }))
    }

    fn is_usable(found: &Matches) -> bool {
        matches!(found, Matches::One(record) if record.account.flags.0 & RESTRICTED.0 == 0)
    }

    #[test]
    fn another_server_does_not_undo_a_refusal_and_the_same_one_does() {
        let usable = || found(AccountFlags::NORMAL, FileTime::NEVER);
        let disabled = || found(AccountFlags::NORMAL.with(AccountFlags::DISABLED, true), FileTime::NEVER);
        let begin = Instant::now();
        let now = FileTime::from_unix(1_800_000_000);
        let place = Place::Name("carol".to_owned());
        let other = Place::Rid(1101);
        for refusal in [
            disabled(),
            found(AccountFlags::NORMAL.with(AccountFlags::LOCKED, true), FileTime::NEVER),
            Matches::None,
            Matches::Many(Vec::new()),
        ] {
            let refusals = FailoverRefusals::new();
            let ask = |place: &Place, host: &str, found: Matches, after: u64| {
                refusals.resolve(
                    (Role::Domain, place),
                    &server(host),
                    found,
                    (begin + Duration::from_secs(after), now),
                )
            };
            assert!(is_usable(&ask(&place, "dc1", usable(), 0)));
            assert!(!is_usable(&ask(&place, "dc1", refusal.clone(), 1)));
            assert!(!is_usable(&ask(&place, "dc2", usable(), 2)), "it may lag");
            assert!(!is_usable(&ask(&place, "dc2", usable(), 3)));
            // A restriction is of the account, however it is asked for.
            let is_of_account = matches!(refusal, Matches::One(_));
            assert_eq!(is_usable(&ask(&other, "dc2", usable(), 4)), !is_of_account);
            assert!(is_usable(&ask(&place, "dc1", usable(), 5)), "the same server says so");
            assert!(is_usable(&ask(&place, "dc2", usable(), 6)));
            // The second server refuses, too; then the first one is back, and lags.
            assert!(!is_usable(&ask(&place, "dc2", refusal.clone(), 7)));
            assert!(!is_usable(&ask(&place, "dc1", usable(), 8)));
            assert!(
                is_usable(&ask(&place, "dc1", usable(), 7 + REFUSAL_LIFETIME.as_secs())),
                "it lags no more"
            );
        }
    }

    #[test]
    fn a_mapping_that_another_server_gives_to_another_account_is_of_none() {
        let refusals = FailoverRefusals::new();
        let (at, now) = (Instant::now(), FileTime::from_unix(1_800_000_000));
        let place = Place::Name("carol".to_owned());
        let ask =
            |host: &str, found| refusals.resolve((Role::Domain, &place), &server(host), found, (at, now));
        let usable = || found(AccountFlags::NORMAL, FileTime::NEVER);
        let Matches::One(record) = usable() else { unreachable!("there is one") };
        let sid = "S-1-5-21-1-2-3-1102".parse().expect("it is a SID");
        let other = Account { sid, ..record.account.clone() };
        let other = Matches::One(Arc::new(Record { account: other, memberships: Vec::new() }));
        assert!(is_usable(&ask("dc1", other.clone())));
        assert!(matches!(ask("dc2", usable()), Matches::Many(_)));
        assert!(is_usable(&ask("dc1", usable())), "the same server says so");
        assert!(is_usable(&ask("dc2", usable())));
    }

    #[test]
    fn an_account_that_expired_at_one_server_stays_so_and_an_unknown_place_is_not_kept() {
        let refusals = FailoverRefusals::new();
        let (at, now) = (Instant::now(), FileTime::from_unix(1_800_000_000));
        let place = Place::Name("carol".to_owned());
        let ask = |role, host: &str, found| refusals.resolve((role, &place), &server(host), found, (at, now));
        // Who makes up names fills no table.
        assert!(matches!(ask(Role::Domain, "dc1", Matches::None), Matches::None));
        assert_eq!(refusals.places.len(), 0);
        let usable = || found(AccountFlags::NORMAL, FileTime::UNSET);
        assert!(is_usable(&ask(Role::Domain, "dc2", usable())));
        let expired = found(AccountFlags::NORMAL, now);
        ask(Role::Domain, "dc1", expired);
        let again = ask(Role::Domain, "dc2", usable());
        assert!(matches!(again, Matches::One(record) if record.account.expires == now));
        // The catalog does not know states: it says neither.
        assert!(is_usable(&ask(Role::Catalog, "gc1", usable())));
    }
}
