//! The whole process, as its users and operators meet it.

#![expect(clippy::unwrap_used, reason = "tests")]

mod administration;
mod alerts;
mod asker_limits;
mod askers;
mod audit;
mod audit_copies;
mod chain;
mod check_config;
mod check_proxy;
mod command_line;
mod config_file;
mod doctor;
mod domains;
mod files;
mod flood;
mod handshakes;
mod hints;
mod import_formats;
mod import_prune;
mod issuing;
mod listener_floods;
mod load;
mod log_lines;
mod machine_import;
mod mapping;
mod metrics;
mod names;
mod otlp;
mod packages;
mod passwords;
mod paths;
mod postgres;
mod remote_servers;
mod revocation;
mod rogue;
mod screens;
mod service_manager;
mod serving;
mod several_stores;
mod sidecar;
mod sidecar_tickets;
mod sidecar_traces;
mod skipped_input;
mod socket_store;
mod sso;
mod sso_messages;
mod sso_nodes;
mod sso_operators;
mod sso_refusals;
mod sso_registration;
mod sso_sealing;
mod sso_telemetry;
mod status;
mod status_page;
mod store_maintenance;
mod stores;
mod strong_mapping;
mod telemetry;
mod tlsnego;
mod tlsnego_call;
#[path = "../../../crates/tlsnego-tokio/tests/library/support.rs"]
#[expect(dead_code, reason = "a part of it is for the tests of tlsnego-tokio alone")]
mod tlsnego_host;
mod undone;
