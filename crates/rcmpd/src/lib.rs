//! The remote certificate mapping daemon: configuration, wiring and command line.
//!
//! It knows every crate, therefore it decides nothing.

// What is printed goes through `output`, which shows what terminals would obey.
#![deny(clippy::print_stdout, clippy::print_stderr)]

mod certificates;
pub mod checked;
pub(crate) mod checked_domains;
pub mod cli;
pub mod clock;
pub mod commands;
pub mod config;
pub mod deciders;
pub mod explain;
pub mod findings;
pub mod forward;
pub mod handler;
pub mod output;
mod page;
pub mod quickstart;
mod random;
pub mod serve;
pub mod sidecar;
pub mod socket_activation;
pub mod sso;
pub mod stated_time;
pub mod stores;
pub mod telemetry;
mod ticket_roots;
pub mod tlsnego;
pub mod trust;

pub use rcmp_client as ask;
use std::process::ExitCode;
pub use terminal_output::screen;

/// Carries out the command line of this process: all of `rcmpd`, with kinds of store that a build adds.
pub fn main_with(kinds: stores::Kinds) -> ExitCode {
    kinds.install();
    match cli::parse(std::env::args_os()) {
        Ok(parsed) => commands::run(parsed),
        Err(wrong) => commands::wrong_use(&wrong),
    }
}
