//! After which time a disabled account is refused at the latest: the sum of all caches on the way, as the
//! configuration has them.

use crate::config::{Config, Source, StoreKind};
use serde_json::{Value, json};
use std::time::Duration;

/// The time for some accounts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatedTime {
    /// Whose accounts.
    pub accounts: &'static str,
    /// Keys of the configuration, and the seconds that each adds.
    pub parts: Vec<(&'static str, u64)>,
    /// What is added elsewhere, which this configuration does not know.
    pub elsewhere: &'static str,
}

impl StatedTime {
    /// The sum of the parts, in seconds.
    pub fn seconds(&self) -> u64 {
        self.parts.iter().map(|(_, seconds)| seconds).sum()
    }

    /// One sentence.
    pub fn text(&self) -> String {
        let parts: Vec<_> = self.parts.iter().map(|(key, seconds)| format!("{key} {seconds}")).collect();
        let parts = if parts.is_empty() { String::new() } else { format!(" ({})", parts.join(", ")) };
        format!(
            "a disabled account of {} is refused after at most {} s{parts}, {}",
            self.accounts,
            self.seconds(),
            self.elsewhere
        )
    }

    /// The same as an object.
    pub fn json(&self) -> Value {
        let parts: Vec<_> =
            self.parts.iter().map(|(key, seconds)| json!({ "key": key, "seconds": seconds })).collect();
        json!({ "accounts": self.accounts, "seconds": self.seconds(), "parts": parts, "elsewhere": self.elsewhere })
    }
}

/// The time of a kind of store; of several stores, that of the slowest one.
fn of_store(kind: &StoreKind) -> Vec<(&'static str, Duration)> {
    match kind {
        StoreKind::Ldap(ldap) if ldap.cache.stale_if_error.is_zero() => {
            vec![("store.ldap.fresh_s", ldap.fresh)]
        }
        // That the directory does not answer is known after the time for a question.
        StoreKind::Ldap(ldap) => vec![
            ("store.ldap.fresh_s", ldap.fresh),
            ("store.ldap.timeout_s", ldap.timeout),
            ("store.ldap.stale_if_error_s", ldap.cache.stale_if_error),
        ],
        StoreKind::Postgres(postgres) => vec![
            // An older answer stands in only when the revision counts no more.
            match postgres.fresh.filter(|_| postgres.cache.stale_if_error.is_zero()) {
                None => ("store.postgres.max_age_s", postgres.max_age),
                // The change itself takes longer.
                Some(fresh) if fresh <= store_postgres::FRESH => ("store.postgres.fresh_ms", Duration::ZERO),
                Some(fresh) => ("store.postgres.fresh_ms", fresh),
            },
            ("store.postgres.stale_if_error_s", postgres.cache.stale_if_error),
        ],
        StoreKind::Socket(socket) if socket.cache.stale_if_error.is_zero() => {
            vec![("store.socket.fresh_s", socket.fresh)]
        }
        // That the program does not answer is known after the time for a question.
        StoreKind::Socket(socket) => vec![
            ("store.socket.fresh_s", socket.fresh),
            ("store.socket.timeout_s", socket.timeout),
            ("store.socket.stale_if_error_s", socket.cache.stale_if_error),
        ],
        StoreKind::Several(parts) => {
            let times = parts.iter().map(|part| of_store(&part.kind));
            times.max_by_key(|time| time.iter().map(|(_, time)| *time).sum::<Duration>()).unwrap_or_default()
        }
        StoreKind::Sqlite(_) | StoreKind::Memory(_) | StoreKind::Profile(_) | StoreKind::Added(..) => vec![],
    }
}

/// Whole seconds, rounded up: a part of a second is no less than it is.
fn seconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis().div_ceil(1000)).unwrap_or(u64::MAX)
}

/// For how long answers from a store of this kind may be used, in seconds.
pub fn age_max(kind: &StoreKind) -> u64 {
    of_store(kind).iter().map(|(_, time)| seconds(*time)).sum()
}

/// The times of a configuration; none for accounts whose changes count at once.
pub fn stated_times(config: &Config) -> Vec<StatedTime> {
    let mut times = Vec::new();
    let own = config.store.as_ref().map(|store| of_store(&store.kind)).unwrap_or_default();
    let mut add = |accounts, parts: Vec<(&'static str, Duration)>, elsewhere| {
        let parts = parts.into_iter().map(|(key, time)| (key, seconds(time)));
        let parts: Vec<_> = parts.filter(|(_, seconds)| *seconds > 0).collect();
        if !parts.is_empty() {
            times.push(StatedTime { accounts, parts, elsewhere });
        }
    };
    add("this domain", own, "and the time of replication between its servers");
    let Some(sidecar) = &config.sidecar else { return times };
    // A ticket, and decisions by it, end with the lifetime that began with the decision.
    let ticket = sidecar.ticket.as_ref().map_or(Duration::ZERO, |ticket| ticket.lifetime);
    let cached = match ticket > sidecar.remember {
        true => vec![("sidecar.ticket.lifetime_s", ticket)],
        false => vec![("sidecar.remember_s", sidecar.remember)],
    };
    match sidecar.source {
        Source::Remote => {
            add("the domain of [client]", cached, "and the time of the service that is asked");
        }
        Source::Embedded if config.peers.iter().any(|peer| peer.is_asked()) => {
            add("other domains", cached, "and the time of the services that are asked, one after the other");
        }
        Source::Embedded => {}
    }
    times
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    const DOMAIN: &str = "[domain]\nnetbios = \"CONTOSO\"\ndns = \"contoso.example\"\nsid = \"S-1-5-21-1-2-3\"\nserver = \"DC1\"\n[mapping]\nanchors = [\"ca.pem\"]\n";
    const LDAP: &str = "[store]\nkind = \"ldap\"\n[channels]\npath = \"m.db\"\n[store.ldap]\nschema = \"ad\"\nservers = [\"ldaps://dc1.example\"]\nca = [\"ca.pem\"]\nbind_dn = \"cn=a\"\nsecret = \"file:s\"\nfresh_s = 7\ntimeout_s = 3\n";
    const SIDECAR: &str = "[sidecar]\nremember_s = 50\n[[sidecar.listen]]\ndialect = \"nginx\"\nunix = \"nginx.sock\"\npeers = [\"www-data\"]\n";

    fn times(text: &str) -> Vec<(&'static str, u64)> {
        let config = crate::config::parse(&format!("{DOMAIN}{text}"), Path::new("/etc/rcmpd"));
        let config = config.unwrap_or_else(|problems| panic!("{problems:?}"));
        stated_times(&config).iter().map(|time| (time.accounts, time.seconds())).collect()
    }

    #[test]
    fn caches_on_the_way_add_up() {
        assert_eq!(times("[store]\nkind = \"sqlite\"\npath = \"a.db\"\n"), []);
        assert_eq!(times(LDAP), [("this domain", 7)]);
        assert_eq!(times(&format!("{LDAP}stale_if_error_s = 100\n")), [("this domain", 110)]);
        let peer = "[[peer]]\ndomain = \"B\"\nsid = \"S-1-5-21-4-5-6\"\nnames = [\"b.example\"]\ndirection = \"outbound\"\nservers = [\"b\"]\nsecret = \"file:b\"\n";
        let whole = format!("{LDAP}{peer}{}", SIDECAR);
        assert_eq!(times(&whole), [("this domain", 7), ("other domains", 50)]);
    }
}
