//! Places for connections, so that no address takes them all.

use dcerpc::limits::source_of;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

#[derive(Clone, Debug)]
pub(in crate::sidecar) struct Slots {
    all: usize,
    per_address: usize,
    taken: Arc<Mutex<Taken>>,
}

#[derive(Debug, Default)]
struct Taken {
    all: usize,
    /// Only addresses that have a connection.
    by_address: HashMap<IpAddr, usize>,
}

/// A connection's place, until it is dropped.
#[derive(Debug)]
pub(in crate::sidecar) struct Slot {
    slots: Slots,
    address: IpAddr,
}

impl Slots {
    /// So many places in all, and for each address.
    pub(in crate::sidecar) fn new(all: usize, per_address: usize) -> Self {
        Self { all, per_address, taken: Arc::default() }
    }

    /// A place for a connection from an address, if there is one.
    pub(in crate::sidecar) fn admit(&self, address: IpAddr) -> Option<Slot> {
        let address = source_of(address);
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let here = taken.by_address.get(&address).copied().unwrap_or_default();
        if taken.all >= self.all || here >= self.per_address {
            return None;
        }
        taken.all += 1;
        taken.by_address.insert(address, here + 1);
        Some(Slot { slots: self.clone(), address })
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut taken = self.slots.taken.lock().unwrap_or_else(PoisonError::into_inner);
        taken.all -= 1;
        if let Some(here) = taken.by_address.get_mut(&self.address) {
            *here -= 1;
            if *here == 0 {
                taken.by_address.remove(&self.address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_does_not_take_all_places_and_gives_back_its_own() {
        let slots = Slots::new(64, 8);
        let address = |text: &str| text.parse::<IpAddr>().expect("an address");
        let mut held: Vec<_> = (0..9).map_while(|_| slots.admit(address("192.0.2.1"))).collect();
        assert_eq!(held.len(), 8);
        assert!(slots.admit(address("192.0.2.1")).is_none());
        assert!(slots.admit(address("::ffff:192.0.2.1")).is_none(), "the same host");
        assert!(slots.admit(address("192.0.2.2")).is_some());
        held.pop();
        assert!(slots.admit(address("192.0.2.1")).is_some());
        held.clear();
        assert!(slots.taken.lock().expect("nobody panicked").by_address.is_empty());
        let all: Vec<_> = (0..=64_usize)
            .map_while(|n| slots.admit(IpAddr::from([10, 0, (n >> 8) as u8, n as u8])))
            .collect();
        assert_eq!(all.len(), 64);
    }
}
