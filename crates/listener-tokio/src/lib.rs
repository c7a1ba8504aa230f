//! What the HTTP listeners of this workspace have in common: which connection is evicted for a new one, what
//! is counted, what is looked at on the way, and how a connection is closed without losing its answer.
//!
//! - [`connections`]: permits by address and identity, evictions, and the counters of a listener.
//! - [`lingering`]: the end of a connection whose peer still sends.
//! - [`watched`]: a stream on which something is looked at, such as a write that takes too long.

pub mod connections;
pub mod lingering;
pub mod watched;
