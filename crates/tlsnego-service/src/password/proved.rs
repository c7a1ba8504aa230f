//! Names that were sent with their right password from an address. They tell users from guesses at many
//! names, before a password is checked.

use super::turns::Holder;
use dcerpc::quota::{FairTable, Ticket};
use std::collections::HashMap;
use std::net::IpAddr;

/// The most pairs of a name and an address. Each takes some 300 bytes.
const PROVED_MAX: usize = 10_000;
/// The most pairs of one account: an address for each of its devices, and some to spare.
const PER_ACCOUNT_MAX: usize = 16;

/// A name, in the form that wrong passwords are counted by, and an address.
type Pair = (String, IpAddr);

/// The last pairs, by the account whose password it was.
pub(super) struct Proved {
    pairs: FairTable<String, Pair>,
    tickets: HashMap<Pair, Ticket>,
}

impl Default for Proved {
    fn default() -> Self {
        Self { pairs: FairTable::new(PROVED_MAX, PER_ACCOUNT_MAX), tickets: HashMap::new() }
    }
}

impl Proved {
    /// Notes a right password. `names` are the names that a wrong password would count for. The first one is
    /// the name that the client sent.
    pub(super) fn insert(&mut self, account: &str, names: &[String], source: IpAddr) {
        let Some(pair) = names.first().map(|name| (name.clone(), source)) else { return };
        if let Some(before) = self.tickets.remove(&pair) {
            self.pairs.remove(before);
        }
        let (ticket, evicted) = self.pairs.insert(account.to_owned(), pair.clone());
        if let Some((_, evicted)) = evicted {
            self.tickets.remove(&evicted);
        }
        self.tickets.insert(pair, ticket);
    }

    /// The holder of the queue in which a check waits.
    pub(super) fn holder(&self, names: &[String], source: IpAddr) -> Holder {
        let pair = names.first().map(|name| (name.clone(), source));
        let proved = pair.filter(|pair| self.tickets.contains_key(pair)).map(|(name, _)| name);
        Holder { source, proved }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_has_few_pairs_and_takes_those_of_no_other() {
        let mut proved = Proved::default();
        let names = |name: &str| [name.to_owned(), format!("account {name}")];
        let source = |n: u16| IpAddr::from([192, 0, n.to_be_bytes()[0], n.to_be_bytes()[1]]);
        proved.insert("bob", &names("bob"), source(0));
        for n in 0..1_000 {
            proved.insert("alice", &names("alice"), source(n));
            // The same pair again takes no second place.
            proved.insert("alice", &names("alice"), source(n));
        }
        assert_eq!(proved.tickets.len(), 1 + PER_ACCOUNT_MAX);
        let is_proved = |name: &str, n: u16| proved.holder(&names(name), source(n)).proved.is_some();
        assert!(is_proved("bob", 0) && is_proved("alice", 999));
        assert!(!is_proved("bob", 1) && !is_proved("alice", 0) && !is_proved("carol", 0));
        assert_eq!(proved.pairs.len(), proved.tickets.len());
    }
}
