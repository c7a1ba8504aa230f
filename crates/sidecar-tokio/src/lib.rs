//! Sockets and tasks of the sidecar.
//!
//! ```text
//! web server ─► listen (which proxy, which dialect) ─┐
//! client ─► front (TLS, client certificate) ─────────┴► sidecar (decides) ─► answer, or ─► upstream (the application)
//! ```
//!
//! - [`listen`]: listeners for web servers and Envoy. A proxy proves itself by its process, a secret or a
//!   certificate.
//! - [`envoy`]: Envoy's `ext_authz` over gRPC, which listeners serve.
//! - [`front`]: the TLS-terminating proxy for clients.
//! - [`upstream`]: requests to an application, over HTTP/1.1 or HTTP/2.
//! - [`client_verifier`], [`server_verifier`], [`tls`]: certificates in handshakes.
//!
//! Nothing is decided here: the crate `sidecar` decides, and `rcmp-service` validates certificates. This
//! crate reads no configuration and no file: [`settings`] are plain values, files come through [`ReadFiles`],
//! and the time through [`Clock`]. It sees no account but the identity that a decision names.

pub mod client_verifier;
pub mod envoy;
mod files;
pub mod front;
mod idle;
pub mod listen;
mod refusals;
pub mod server_verifier;
pub mod settings;
pub mod tls;
pub mod unix;
mod unproved;
pub mod upstream;

pub use files::ReadFiles;

/// Tells the time: of the wall clock for dates, and of the monotonic clock for durations.
pub type Clock = fn() -> sidecar::Moment;
