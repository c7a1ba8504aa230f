//! The command line; see [`rcmpd::cli`].

use std::process::ExitCode;

fn main() -> ExitCode {
    match rcmpd::cli::parse(std::env::args_os()) {
        Ok(parsed) => rcmpd::commands::run(parsed),
        Err(wrong) => rcmpd::commands::wrong_use(&wrong),
    }
}
