//! Places for connections, so that nobody takes them all.

use dcerpc::limits::source_of;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

/// Connections in all: each costs a task, a descriptor, and up to its window of memory.
const CONNECTIONS_MAX: usize = 4096;
/// Connections from one address: an office behind one, with a few for each browser.
const CONNECTIONS_PER_ADDRESS_MAX: usize = 512;

#[derive(Clone, Debug, Default)]
pub(super) struct Slots(Arc<Mutex<Taken>>);

#[derive(Debug, Default)]
struct Taken {
    all: usize,
    /// Only addresses that have a connection.
    by_address: HashMap<IpAddr, usize>,
}

/// A connection's place, until it is dropped.
#[derive(Debug)]
pub(super) struct Slot {
    slots: Slots,
    address: IpAddr,
}

impl Slots {
    /// A place for a connection from an address, if there is one.
    pub(super) fn admit(&self, address: IpAddr) -> Option<Slot> {
        let address = source_of(address);
        let mut taken = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let here = taken.by_address.get(&address).copied().unwrap_or_default();
        if taken.all >= CONNECTIONS_MAX || here >= CONNECTIONS_PER_ADDRESS_MAX {
            return None;
        }
        taken.all += 1;
        taken.by_address.insert(address, here + 1);
        Some(Slot { slots: self.clone(), address })
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut taken = self.slots.0.lock().unwrap_or_else(PoisonError::into_inner);
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
        let slots = Slots::default();
        let address = |text: &str| text.parse::<IpAddr>().expect("an address");
        let mut held: Vec<_> =
            (0..CONNECTIONS_PER_ADDRESS_MAX).map_while(|_| slots.admit(address("192.0.2.1"))).collect();
        assert_eq!(held.len(), CONNECTIONS_PER_ADDRESS_MAX);
        assert!(slots.admit(address("192.0.2.1")).is_none());
        assert!(slots.admit(address("::ffff:192.0.2.1")).is_none(), "the same host");
        assert!(slots.admit(address("192.0.2.2")).is_some());
        held.pop();
        assert!(slots.admit(address("192.0.2.1")).is_some());
        held.clear();
        assert!(slots.0.lock().expect("nobody panicked").by_address.is_empty());
        let all: Vec<_> = (0..=CONNECTIONS_MAX)
            .map_while(|n| slots.admit(IpAddr::from([10, 0, (n >> 8) as u8, n as u8])))
            .collect();
        assert_eq!(all.len(), CONNECTIONS_MAX);
    }
}
