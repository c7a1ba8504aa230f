//! The way of requests through the sidecar.

mod complaints;
pub mod front;
pub mod upstream;
