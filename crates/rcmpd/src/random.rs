//! Randomness of the operating system, for protocols that cannot go on without it.

/// Fills octets.
pub(crate) fn fill(octets: &mut [u8]) {
    // INVARIANT: Linux has random numbers once the system has started. A key or challenge that can be
    // predicted must not be sent.
    getrandom::fill(octets).expect("the operating system has a source of randomness");
}
