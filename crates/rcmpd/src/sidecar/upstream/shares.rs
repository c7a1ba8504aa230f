//! Each client's share of an application's places.

use super::{REQUESTS_MAX, REQUESTS_PER_ADDRESS_MAX};
use dcerpc::limits::source_of;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::Semaphore;

#[derive(Debug, Default)]
pub(super) struct Shares(Mutex<HashMap<IpAddr, Arc<Semaphore>>>);

impl Shares {
    pub(super) fn of(&self, address: IpAddr) -> Arc<Semaphore> {
        let mut shares = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if shares.len() >= REQUESTS_MAX {
            // Whoever has a place in a share, or waits for one, holds it.
            shares.retain(|_, share| Arc::strong_count(share) > 1);
        }
        let new = || Arc::new(Semaphore::new(REQUESTS_PER_ADDRESS_MAX));
        Arc::clone(shares.entry(source_of(address)).or_insert_with(new))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_one_hosts_and_kept_while_it_is_used() {
        let shares = Shares::default();
        let host = |n: usize| IpAddr::from([10, 0, (n >> 8) as u8, n as u8]);
        let held = shares.of(host(0));
        let mapped = "::ffff:10.0.0.0".parse().expect("an address");
        assert!(Arc::ptr_eq(&held, &shares.of(mapped)), "the same host");
        for n in 1..=2 * REQUESTS_MAX {
            shares.of(host(n));
        }
        assert!(Arc::ptr_eq(&held, &shares.of(host(0))));
        assert!(shares.0.lock().expect("nobody panicked").len() <= REQUESTS_MAX);
    }
}
