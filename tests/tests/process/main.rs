//! The whole process, as its users and operators meet it.

#![expect(clippy::unwrap_used, reason = "tests")]

mod audit;
mod chain;
mod check_proxy;
mod command_line;
mod domains;
mod issuing;
mod load;
mod mapping;
mod paths;
mod revocation;
mod rogue;
mod serving;
mod sidecar;
mod stores;
mod strong_mapping;
mod telemetry;
