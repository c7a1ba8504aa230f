//! `rcmpd` with the kinds of store that it has itself; see [`rcmpd::cli`] for the command line.

use std::process::ExitCode;

fn main() -> ExitCode {
    rcmpd::main_with(rcmpd::stores::Kinds::default())
}
