//! The command line; see [`rcmpd::cli`].

use clap::Parser;
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments = rcmpd::cli::arguments(std::env::args_os());
    match rcmpd::cli::Cli::try_parse_from(arguments) {
        Ok(cli) => rcmpd::commands::run(cli),
        Err(error) => rcmpd::commands::wrong_use(&error),
    }
}
