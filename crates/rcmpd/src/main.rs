//! The command line; see [`rcmpd::cli`].

use clap::Parser;
use std::process::ExitCode;

fn main() -> ExitCode {
    match rcmpd::cli::Cli::try_parse() {
        Ok(cli) => rcmpd::commands::run(cli),
        Err(error) => rcmpd::commands::wrong_use(&error),
    }
}
