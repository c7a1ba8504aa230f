//! The remote certificate mapping daemon: configuration, wiring and command line.
//!
//! It knows every crate, therefore it decides nothing.

// What is printed goes through `output`, which shows what terminals would obey.
#![deny(clippy::print_stdout, clippy::print_stderr)]

pub mod ask;
pub mod audit;
pub mod cli;
pub mod clock;
pub mod commands;
pub mod config;
pub mod deciders;
pub mod explain;
pub mod findings;
pub mod forward;
pub mod mapping_audit;
pub mod mapping_import;
pub mod output;
pub mod quickstart;
pub mod rehearsal;
pub mod serve;
pub mod sidecar;
pub mod signing;
pub mod stores;
pub mod telemetry;
pub mod trust;
pub mod trust_secret;
mod visible;

use clap::Parser;
use std::process::ExitCode;

/// Carries out the command line of this process: all of `rcmpd`, with kinds of store that a build adds.
pub fn main_with(kinds: stores::Kinds) -> ExitCode {
    kinds.install();
    let arguments = cli::arguments(std::env::args_os());
    match cli::Cli::try_parse_from(arguments) {
        Ok(cli) => commands::run(cli),
        Err(error) => commands::wrong_use(&error),
    }
}
