//! The listeners that the service manager can pass sockets for.

use service_manager::sockets::Listener;
pub use service_manager::sockets::PassedSockets;

pub(crate) const NETLOGON: Listener = ("netlogon", "rpc.listen");
pub(crate) const ENDPOINT_MAPPER: Listener = ("endpoint-mapper", "rpc.endpoint_mapper");
pub(crate) const ADMIN: Listener = ("admin", "admin.listen");
pub(crate) const SIDECAR: Listener = ("sidecar", "[[sidecar.listen]]");
/// All of them.
pub(crate) const LISTENERS: [Listener; 4] = [NETLOGON, ENDPOINT_MAPPER, ADMIN, SIDECAR];
