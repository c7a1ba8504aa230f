//! The command line; see [`rcmpd::cli`].

use clap::Parser;
use std::process::ExitCode;

fn main() -> ExitCode {
    rcmpd::commands::run(rcmpd::cli::Cli::parse())
}
