//! What the tests of the whole product share: a demo domain with its service, the foreign peers, and a
//! client.
//!
//! A peer that is missing fails its test: nothing here is skipped.

pub mod client;
pub mod directory_store;
pub mod mit;
pub mod openssl;
pub mod peers;
pub mod ports;
pub mod postgres;
pub mod postgres_proxy;
pub mod recorder;
pub mod refused_users;
mod service;
pub mod slapd;
pub mod soap;
pub mod web;

pub use service::{Demo, Finished, Service, binary, eventually, eventually_within, write_secret};
