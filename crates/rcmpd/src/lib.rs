//! The remote certificate mapping daemon: configuration, wiring and command line.
//!
//! It knows every crate, therefore it decides nothing.

// What is printed goes through `output`, which shows what terminals would obey.
#![deny(clippy::print_stdout, clippy::print_stderr)]

pub mod ask;
pub mod audit;
pub mod check_proxy;
pub mod cli;
pub mod clock;
pub mod commands;
pub mod config;
mod connections;
pub mod deciders;
pub mod explain;
pub mod findings;
pub mod forward;
mod input;
pub mod mapping_audit;
pub mod mapping_import;
mod net;
pub mod output;
pub mod quickstart;
pub mod rehearsal;
pub mod serve;
mod server_verifier;
pub mod sidecar;
pub mod signing;
pub mod stores;
pub mod telemetry;
pub mod trust;
pub mod trust_secret;
