//! Names that had their right password at an address: by that, users are told from guesses at many names
//! before anything is checked.

use super::turns::Holder;
use dcerpc::quota::{FairTable, Ticket};
use std::collections::HashMap;
use std::net::IpAddr;

/// Pairs of a name and an address, some 300 bytes each.
const PROVED_MAX: usize = 10_000;
/// Those of one account: an address for each of its devices, and some to spare.
const PER_ACCOUNT_MAX: usize = 16;

/// A name as wrong passwords count for it, and an address.
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
    /// A right password. `names` are those that a wrong one would count for; the first is what the client sent.
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

    /// In whose queue a check waits.
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
            // Another time is no other pair.
            proved.insert("alice", &names("alice"), source(n));
        }
        assert_eq!(proved.tickets.len(), 1 + PER_ACCOUNT_MAX);
        let is_proved = |name: &str, n: u16| proved.holder(&names(name), source(n)).proved.is_some();
        assert!(is_proved("bob", 0) && is_proved("alice", 999));
        assert!(!is_proved("bob", 1) && !is_proved("alice", 0) && !is_proved("carol", 0));
        assert_eq!(proved.pairs.len(), proved.tickets.len());
    }
}
