//! Sockets and tasks of a master secret server and of its clients ([MS-SSP]).
//!
//! It knows no configuration, no account and no audit log: times, randomness and the trace of a caller are
//! handed in.
//!
//! - [`client`] asks servers for the secret.
//! - [`Aging`] ends security contexts with the ticket, or after a configured age.
//! - [`Registration`] keeps the interface at the endpoint mapper.

mod aging;
pub mod client;
mod registration;

pub use aging::{Aging, Clocks};
pub use registration::Registration;
