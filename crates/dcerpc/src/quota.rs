//! Bounded tables that their largest holder cannot close to the others.
//!
//! A table with a limit alone is full for all clients as soon as one peer has filled it. Here a new entry
//! always gets in: it takes the place of the oldest entry of the holder with the most entries, or of its own
//! holder's oldest one when that holder is at its own limit. A peer that fills the table therefore evicts
//! itself. [`WeightedTable`] does the same where entries differ in size.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::Hash;

/// Names one entry of a [`FairTable`] or [`WeightedTable`]. Tickets are given in ascending order and never
/// twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ticket(u64);

/// Entries by holder, such as connections by source address. Each operation takes time logarithmic in their
/// number.
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

    /// Whether a new entry of this holder takes the place of an older one of its own, because it is at its
    /// limit.
    pub fn is_at_its_limit(&self, holder: &K) -> bool {
        self.held_by(holder) >= self.per_holder_max
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

    /// Removes the oldest entry of the holder with the most entries.
    pub fn evict(&mut self) -> Option<(K, V)> {
        let ((_, Reverse(oldest)), _) = self.by_size.last_key_value()?;
        self.remove(*oldest)
    }

    /// Removes the same for a new entry of this holder, unless that one would then have as many entries as
    /// the largest.
    pub fn evict_for(&mut self, holder: &K) -> Option<(K, V)> {
        let ((largest, _), _) = self.by_size.last_key_value()?;
        (self.held_by(holder) + 1 < *largest).then(|| self.evict())?
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

/// Entries by holder with a weight each, such as memory of connections by source address, and a bound on the
/// sum. When the sum is over the bound, the heaviest entry of the holder with the largest sum is evicted, of
/// equal ones the oldest. Each operation takes time logarithmic in the number of entries.
#[derive(Debug)]
pub struct WeightedTable<K, V> {
    max: usize,
    used: usize,
    last: u64,
    entries: HashMap<Ticket, (K, usize, V)>,
    by_holder: HashMap<K, Weights>,
    /// What a holder has, and its next entry to be evicted: the last of these is the next of all.
    by_weight: BTreeMap<(usize, Reverse<Ticket>), K>,
}

#[derive(Debug, Default)]
struct Weights {
    sum: usize,
    /// The last of these is the next to be evicted.
    entries: BTreeSet<(usize, Reverse<Ticket>)>,
}

impl Weights {
    fn place(&self) -> Option<(usize, Reverse<Ticket>)> {
        self.entries.last().map(|(_, ticket)| (self.sum, *ticket))
    }
}

impl<K: Clone + Eq + Hash, V> WeightedTable<K, V> {
    /// A table whose entries weigh at most `max` together.
    pub fn new(max: usize) -> Self {
        Self {
            max,
            used: 0,
            last: 0,
            entries: HashMap::new(),
            by_holder: HashMap::new(),
            by_weight: BTreeMap::new(),
        }
    }

    /// The weight of all entries together.
    pub const fn used(&self) -> usize {
        self.used
    }

    /// Adds an entry, and returns what had to make room for it: itself, perhaps.
    pub fn insert(&mut self, holder: K, weight: usize, value: V) -> (Ticket, Vec<(K, V)>) {
        self.last += 1;
        let ticket = Ticket(self.last);
        self.place(&holder, ticket, None, Some(weight));
        self.entries.insert(ticket, (holder, weight, value));
        (ticket, self.make_room())
    }

    /// Changes the weight of an entry that is still there, and returns what had to make room for it: itself,
    /// perhaps.
    pub fn set(&mut self, ticket: Ticket, weight: usize) -> Vec<(K, V)> {
        let Some((holder, known, _)) = self.entries.get_mut(&ticket) else { return Vec::new() };
        let before = std::mem::replace(known, weight);
        let holder = holder.clone();
        self.place(&holder, ticket, Some(before), Some(weight));
        self.make_room()
    }

    /// Removes an entry that is still there.
    pub fn remove(&mut self, ticket: Ticket) -> Option<(K, V)> {
        let (holder, weight, value) = self.entries.remove(&ticket)?;
        self.place(&holder, ticket, Some(weight), None);
        Some((holder, value))
    }

    fn make_room(&mut self) -> Vec<(K, V)> {
        let mut evicted = Vec::new();
        while self.used > self.max {
            let Some((&(_, Reverse(heaviest)), _)) = self.by_weight.last_key_value() else { break };
            evicted.extend(self.remove(heaviest));
        }
        evicted
    }

    /// Changes the weight of a ticket, and the place of its holder among the holders.
    fn place(&mut self, holder: &K, ticket: Ticket, before: Option<usize>, after: Option<usize>) {
        let weights = self.by_holder.entry(holder.clone()).or_default();
        if let Some(place) = weights.place() {
            self.by_weight.remove(&place);
        }
        if let Some(weight) = before {
            weights.entries.remove(&(weight, Reverse(ticket)));
            weights.sum -= weight;
            self.used -= weight;
        }
        if let Some(weight) = after {
            weights.entries.insert((weight, Reverse(ticket)));
            weights.sum += weight;
            self.used += weight;
        }
        match weights.place() {
            Some(place) => drop(self.by_weight.insert(place, holder.clone())),
            None => drop(self.by_holder.remove(holder)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_heaviest_holder_makes_room_and_its_oldest_entry_goes_first() {
        let mut table = WeightedTable::new(100);
        let small = table.insert("small", 5, 0).0;
        let flood: Vec<Ticket> = (1..=9).map(|n| table.insert("flood", 10, n).0).collect();
        assert_eq!(table.used(), 95);
        assert_eq!(table.insert("flood", 10, 10).1, [("flood", 1)]);
        assert_eq!(table.insert("other", 10, 11).1, [("flood", 2)], "a new holder gets in");
        assert_eq!(table.set(small, 15), [("flood", 3)], "and a smaller one may grow");
        assert_eq!(table.set(flood[0], 50), [], "it is gone");
        assert_eq!(table.set(flood[8], 30), [("flood", 9)], "the heaviest entry goes before older ones");
        assert_eq!(table.used(), 85);
    }

    #[test]
    fn among_holders_of_the_same_weight_the_oldest_entry_goes() {
        let mut table = WeightedTable::new(30);
        (0..3).for_each(|n| drop(table.insert(n, 10, n)));
        assert_eq!(table.insert(3, 10, 3).1, [(0, 0)]);
        assert_eq!(table.insert(4, 20, 4).1, [(4, 4)], "more than the others have is too much");
    }

    #[test]
    fn weights_that_were_removed_leave_nothing() {
        let mut table = WeightedTable::new(100);
        let tickets: Vec<Ticket> = (0..6).map(|n| table.insert(n % 2, n, n).0).collect();
        table.set(tickets[0], 7);
        for (n, ticket) in tickets.iter().enumerate() {
            assert_eq!(table.remove(*ticket), Some((n % 2, n)));
            assert_eq!(table.remove(*ticket), None);
        }
        assert!(table.used() == 0 && table.by_holder.is_empty() && table.by_weight.is_empty());
    }

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
    fn a_smaller_holder_takes_from_the_largest_until_they_are_equal() {
        let mut table = FairTable::new(8, 8);
        for n in 0..4 {
            table.insert("large", n);
        }
        for n in 0..2 {
            assert_eq!(table.evict_for(&"small"), Some(("large", n)));
            table.insert("small", n);
        }
        assert_eq!(table.evict_for(&"small"), None);
        assert_eq!(table.evict_for(&"large"), None);
    }

    #[test]
    fn the_largest_holder_makes_room_on_request() {
        let mut table = FairTable::new(8, 8);
        for (holder, n) in [("a", 1), ("flood", 2), ("flood", 3), ("b", 4)] {
            table.insert(holder, n);
        }
        let evicted: Vec<_> = std::iter::from_fn(|| table.evict()).collect();
        assert_eq!(evicted, [("flood", 2), ("a", 1), ("flood", 3), ("b", 4)]);
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
