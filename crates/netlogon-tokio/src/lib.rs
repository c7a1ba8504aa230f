//! The Netlogon client over TCP: the servers of a domain, their secure channels, and the connections on them.
//!
//! ```text
//! Servers (failover, retry budget, Discovery) ─► ServerClient (turns, circuit breaker, channel, connections) ─► TcpTransport
//! ```
//!
//! A reader may rely on this:
//! - A request has a deadline, and its future ends by then. Nothing is sent before a request needs it.
//! - A request that may have been performed is sent again only if its caller marked it repeatable, and only
//!   within the retry budget.
//! - A channel is checked for a downgrade before the first request is sent over it. There is no weaker second
//!   try.
//! - Requests of one asker take neither all permits of a server nor its whole queue.
//!
//! It never reads a configuration, a secret's file or an account. The caller hands in the secrets to try
//! ([`AccountSecrets`]), the extension of a request and the wall clock. It decides nothing about an answer
//! but this: a status such as DS_BUSY is no decision, so the next server is asked.
//!
//! # Example
//!
//! ```
//! # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/server/mod.rs"));
//! use netlogon_tokio::{ClientAccount, PackageRequest, PoolLimits, ServerSource, Servers};
//! use netlogon_transport::secret::SharedSecret;
//! use netlogon_transport::secrets::ChannelType;
//! use std::sync::Arc;
//! use std::time::{Duration, SystemTime, UNIX_EPOCH};
//!
//! # #[tokio::main]
//! # async fn main() {
//! # let server = echo_server("secret of WEB01").await;
//! // `server` is "HOST:PORT", or "HOST" if its endpoint mapper knows the port.
//! let account = ClientAccount {
//!     domain: "CONTOSO".into(),
//!     computer: "WEB01".into(),
//!     account: "WEB01$".into(),
//!     channel_type: ChannelType::WORKSTATION,
//!     secrets: Arc::new(SharedSecret::from_password("secret of WEB01")),
//!     now: || SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs() as u32),
//! };
//! let limits = PoolLimits { connections_max: 8, queue_max: 100 };
//! let servers = Servers::new(ServerSource::Listed(vec![server]), account, limits, None);
//! let request = PackageRequest {
//!     package: "Echo",
//!     logon_domain_name: "CONTOSO",
//!     data: b"hello",
//!     asker: None,
//!     extension: None,
//!     repeatable: true,
//! };
//! let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
//! let answered = servers.ask(&request, deadline).await.expect("a server decides");
//! assert_eq!(answered.answer.status, dtyp::NtStatus::SUCCESS);
//! assert_eq!(answered.answer.data.expect("success has data").decrypted(), b"hello");
//! # }
//! ```

mod breaker;
mod discovery;
mod meter;
mod metrics;
mod server;
mod servers;
mod transport;
mod turns;

pub use discovery::{Discovery, DiscoveryConfigError, DiscoveryError, Found, Located, is_label};
pub use meter::Meter;
pub use metrics::{ServerCollector, ServerLabels};
pub use server::{
    AccountSecrets, BoxError, ClientAccount, Extension, LogonRequest, PackageRequest, PoolLimits,
    ServerClient, ServerFailed, ServerRequest,
};
pub use servers::{Answered, ServerSource, Servers};
pub use transport::{ResolveError, TcpTransport};
pub use turns::{Asker, AskerId};
