//! Sockets and tasks of the TLSNEGO token service.
//!
//! ```text
//! SOAP client ─► gateway ─► tlsnego_soap::server (decides) ─► answer, or ─► a plain SOAP 1.2 service
//! plain SOAP client ─► endpoint ─► client ─► tlsnego_soap::client (decides) ─► a TLSNEGO service
//! program ─► client ─► tlsnego_soap::client (decides) ─► a TLSNEGO service
//! ```
//!
//! - [`gateway`]: a service's side. Message security ends here; verified calls go to the service behind it.
//! - [`client`]: a client's side. It opens a session, calls, and opens another one when the service lost it.
//! - [`endpoint`]: a local endpoint for clients without message security.
//!
//! Nothing is decided here: `tlsnego-soap` decides about messages, and the program about accounts. This crate
//! reads no configuration and no file; the time comes through [`Clock`].

pub mod client;
pub mod endpoint;
pub mod gateway;
mod http_client;

/// Tells the time: of the wall clock for dates, and of the monotonic clock for durations.
pub type Clock = fn() -> tlsnego_service::Moment;
