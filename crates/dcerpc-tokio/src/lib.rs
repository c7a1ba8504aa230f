//! Sockets and tasks for DCE/RPC over TCP: the one place where RPC meets the runtime.
//!
//! Each connection has one task, which owns the stream and the association and has one loop and one exit. It
//! knows no interface: a [`Registry`] has the interfaces and the security providers. [`Server`] ends by a
//! `CancellationToken` of its caller.

mod accept;
mod builtin;
mod client;
mod connection;
mod connection_limiter;
mod counters;
mod limits;
mod listen_on;
mod log_limiter;
mod metrics;
mod registry;
mod server;
mod turns;

pub use builtin::{Endpoints, host_and_port, resolve_endpoint};
pub use client::{AnswerLeg, CallError, Connection};
pub use connection_limiter::{ConnectionLimiter, ConnectionLimits, ConnectionPermit, EvictionReason};
pub use counters::Counters;
pub use limits::Limits;
pub use listen_on::{BACKLOG, CannotListen, listen_on};
pub use log_limiter::LogLimiter;
pub use metrics::{NO_LABELS, encode_family};
pub use registry::{BoxFuture, Interface, Peer, Registry, RpcCall, RpcService, SecurityProvider};
pub use server::Server;
