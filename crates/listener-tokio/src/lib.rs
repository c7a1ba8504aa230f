//! What the HTTP listeners of this workspace have in common: which connection is evicted for a new one, what is
//! counted, and how a connection is closed without losing its answer.
//!
//! - [`connections`]: permits by address and identity, evictions, and the counters of a listener.
//! - [`lingering`]: the end of a connection whose peer still sends.

pub mod connections;
pub mod lingering;
