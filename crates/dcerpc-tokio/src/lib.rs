//! Sockets and tasks for DCE/RPC over TCP: the one place where RPC meets the runtime.
//!
//! One task a connection owns the stream and the association; it has one loop and one exit. It knows no interface:
//! what is served stands in a [`Registry`], who is believed in its security providers.

mod accept;
mod builtin;
mod client;
mod connection;
mod connection_limiter;
mod counters;
mod limits;
mod listen_on;
mod log_limiter;
mod registry;
mod server;
mod turns;

pub use builtin::resolve_endpoint;
pub use client::{CallError, Connection};
pub use connection_limiter::{ConnectionLimiter, ConnectionLimits, ConnectionPermit, EvictionReason};
pub use counters::Counters;
pub use limits::Limits;
pub use listen_on::{BACKLOG, CannotListen, listen_on};
pub use log_limiter::LogLimiter;
pub use registry::{BoxFuture, Interface, Peer, Registry, RpcCall, RpcService, SecurityProvider};
pub use server::Server;
