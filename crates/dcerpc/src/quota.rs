//! A bounded table that its largest holder cannot close to the others.
//!
//! A table with a limit alone is full for everybody as soon as one peer has filled it. Here a new entry always gets in: it
//! takes the place of the oldest entry of the holder with the most entries, or of its own holder's oldest one when that
//! holder is at its own limit. A peer that fills the table therefore evicts itself.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::Hash;

/// Names one entry of a [`FairTable`]. Tickets are given in ascending order and never twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ticket(u64);

/// Entries by holder, such as connections by source address. Each operation takes time logarithmic in their number.
#[derive(Debug)]
pub struct FairTable<K, V> {
    max: usize,
    per_holder_max: usize,
    last: u64,
    /// By age: tickets ascend.
    entries: BTreeMap<Ticket, (K, V)>,
    by_holder: HashMap<K, BTreeSet<Ticket>>,
    /// How many entries a holder has, and its oldest one: the last of these is the next to be evicted.
    by_size: BTreeMap<(usize, Reverse<Ticket>), K>,
}

impl<K: Clone + Eq + Hash, V> FairTable<K, V> {
    /// A table of at most `max` entries, and at most `per_holder_max` of one holder. Both are at least one.
    pub fn new(max: usize, per_holder_max: usize) -> Self {
        Self {
            max: max.max(1),
            per_holder_max: per_holder_max.max(1),
            last: 0,
            entries: BTreeMap::new(),
            by_holder: HashMap::new(),
            by_size: BTreeMap::new(),
        }
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// How many entries a holder has.
    pub fn held_by(&self, holder: &K) -> usize {
        self.by_holder.get(holder).map_or(0, BTreeSet::len)
    }

    /// Adds an entry, and returns what had to make room for it.
    pub fn insert(&mut self, holder: K, value: V) -> (Ticket, Option<(K, V)>) {
        let evicted = match self.held_by(&holder) {
            here if here >= self.per_holder_max => self.oldest_of(&holder),
            // A holder that would become the largest one makes room itself.
            here if self.len() >= self.max => match self.by_size.last_key_value() {
                Some(((largest, _), _)) if here > 0 && here >= *largest => self.oldest_of(&holder),
                Some(((_, Reverse(oldest)), _)) => Some(*oldest),
                None => None,
            },
            _ => None,
        };
        let evicted = evicted.and_then(|ticket| self.remove(ticket));
        self.last += 1;
        let ticket = Ticket(self.last);
        self.change(&holder, |tickets| tickets.insert(ticket));
        self.entries.insert(ticket, (holder, value));
        (ticket, evicted)
    }

    /// The value of an entry that is still there.
    pub fn get(&self, ticket: Ticket) -> Option<&V> {
        self.entries.get(&ticket).map(|(_, value)| value)
    }

    /// The value of an entry that is still there, to be changed.
    pub fn get_mut(&mut self, ticket: Ticket) -> Option<&mut V> {
        self.entries.get_mut(&ticket).map(|(_, value)| value)
    }

    /// The oldest entry, which is the first to expire where all live equally long.
    pub fn oldest(&self) -> Option<(Ticket, &V)> {
        self.entries.first_key_value().map(|(ticket, (_, value))| (*ticket, value))
    }

    /// Removes an entry that is still there.
    pub fn remove(&mut self, ticket: Ticket) -> Option<(K, V)> {
        let (holder, value) = self.entries.remove(&ticket)?;
        self.change(&holder, |tickets| tickets.remove(&ticket));
        Some((holder, value))
    }

    fn oldest_of(&self, holder: &K) -> Option<Ticket> {
        self.by_holder.get(holder)?.first().copied()
    }

    /// Changes the entries of a holder, and its place among the holders.
    fn change(&mut self, holder: &K, change: impl FnOnce(&mut BTreeSet<Ticket>) -> bool) {
        let place = |tickets: &BTreeSet<Ticket>| Some((tickets.len(), Reverse(*tickets.first()?)));
        let tickets = self.by_holder.entry(holder.clone()).or_default();
        if let Some(before) = place(tickets) {
            self.by_size.remove(&before);
        }
        change(tickets);
        match place(tickets) {
            Some(after) => drop(self.by_size.insert(after, holder.clone())),
            None => drop(self.by_holder.remove(holder)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_holder_makes_room_for_a_new_one() {
        let mut table = FairTable::new(10, 8);
        for n in 0..8 {
            assert_eq!(table.insert("flood", n).1, None);
        }
        assert_eq!(table.insert("flood", 8).1, Some(("flood", 0)), "at its own limit");
        table.insert("a", 100);
        table.insert("b", 200);
        assert_eq!(table.insert("c", 300).1, Some(("flood", 1)));
        assert_eq!(table.insert("flood", 9).1, Some(("flood", 2)), "the largest holder evicts itself");
        assert_eq!((table.len(), table.held_by(&"flood")), (10, 7));
    }

    #[test]
    fn among_holders_of_one_entry_the_oldest_goes() {
        let mut table = FairTable::new(3, 8);
        let first = table.insert(1, "a").0;
        table.insert(2, "b");
        table.insert(3, "c");
        assert_eq!(table.get(first), Some(&"a"));
        assert_eq!(table.insert(4, "d").1, Some((1, "a")));
        assert_eq!(table.get(first), None);
        assert_eq!(table.insert(5, "e").1, Some((2, "b")));
    }

    #[test]
    fn the_oldest_entry_is_known_and_a_value_can_be_changed() {
        let mut table = FairTable::new(4, 4);
        assert!(table.oldest().is_none());
        let first = table.insert("a", 1).0;
        let second = table.insert("b", 2).0;
        *table.get_mut(first).expect("it is there") = 7;
        assert_eq!(table.oldest(), Some((first, &7)));
        table.remove(first);
        assert_eq!(table.oldest(), Some((second, &2)));
        assert_eq!(table.get_mut(first), None);
    }

    #[test]
    fn what_was_removed_leaves_nothing() {
        let mut table = FairTable::new(4, 4);
        let tickets: Vec<Ticket> = (0..4).map(|n| table.insert(n % 2, n).0).collect();
        for (n, ticket) in tickets.iter().enumerate() {
            assert_eq!(table.remove(*ticket), Some((n % 2, n)));
            assert_eq!(table.remove(*ticket), None);
        }
        assert!(table.is_empty() && table.by_holder.is_empty() && table.by_size.is_empty());
    }
}
