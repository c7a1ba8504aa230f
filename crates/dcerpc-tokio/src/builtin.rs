//! The two interfaces that belong to RPC itself: the endpoint mapper, and management on every port.

use crate::client::{CallError, Connection};
use crate::registry::{Interface, Registry, RpcCall};
use dcerpc::client::{ClientConfig, ClientError};
use dcerpc::endpoint_mapper::{ENDPOINT_MAPPER, EPT_MAP, Endpoint, EndpointMapper, map_ports, map_request};
use dcerpc::management::{MANAGEMENT, Management};
use dcerpc::ndr::NdrSyntax;
use dcerpc::pdu::{FaultStatus, SyntaxId};
use dcerpc::server::Reply;
use std::future::ready;
use std::io;
use std::sync::{Arc, PoisonError, RwLock};
use tokio::net::ToSocketAddrs;
use tokio::time::Instant;
use tower::service_fn;
use tower::util::BoxCloneSyncService;

/// What an endpoint mapper has registered. Services of this process register and unregister while it is
/// served.
#[derive(Clone, Debug, Default)]
pub struct Endpoints(Arc<RwLock<EndpointMapper>>);

impl From<Vec<Endpoint>> for Endpoints {
    fn from(endpoints: Vec<Endpoint>) -> Self {
        Self(Arc::new(RwLock::new(EndpointMapper { endpoints })))
    }
}

impl Endpoints {
    /// Registers endpoints. One that is registered already is not registered twice.
    pub fn register(&self, endpoints: impl IntoIterator<Item = Endpoint>) {
        let mut mapper = self.0.write().unwrap_or_else(PoisonError::into_inner);
        for endpoint in endpoints {
            if !mapper.endpoints.contains(&endpoint) {
                mapper.endpoints.push(endpoint);
            }
        }
    }

    /// Removes all endpoints of an interface.
    pub fn unregister(&self, interface: &SyntaxId) {
        let mut mapper = self.0.write().unwrap_or_else(PoisonError::into_inner);
        mapper.endpoints.retain(|endpoint| endpoint.interface != *interface);
    }
}

impl Registry {
    /// Adds the endpoint mapper interface, which returns the ports of `endpoints`.
    #[must_use]
    pub fn endpoint_mapper(self, endpoints: impl Into<Endpoints>) -> Self {
        let Endpoints(mapper) = endpoints.into();
        self.interface(builtin(
            ENDPOINT_MAPPER,
            ("endpoint mapper", mapper_method),
            move |RpcCall { call, .. }| {
                let mapper = mapper.read().unwrap_or_else(PoisonError::into_inner);
                mapper.call(call.opnum, &call.stub, call.syntax, call.order)
            },
        ))
    }

    /// Adds the management interface, which lists all interfaces that were added before.
    #[must_use]
    pub fn management(self) -> Self {
        let mut interfaces = self.syntaxes();
        interfaces.push(MANAGEMENT);
        let management = Arc::new(Management::new(interfaces));
        self.interface(builtin(
            MANAGEMENT,
            ("management", management_method),
            move |RpcCall { call, .. }| management.call(call.opnum, &call.stub, call.syntax, call.order),
        ))
    }
}

/// An interface whose calls are answered at once.
fn builtin(
    syntax: SyntaxId,
    (name, method): (&'static str, fn(u16) -> Option<&'static str>),
    answer: impl Fn(RpcCall) -> Result<Vec<u8>, FaultStatus> + Clone + Send + Sync + 'static,
) -> Interface {
    let service = service_fn(move |call| ready(answer(call).map(Reply::from)));
    Interface { syntax, name, method, service: BoxCloneSyncService::new(service) }
}

/// Methods of the endpoint mapper ([C706] appendix O).
const fn mapper_method(opnum: u16) -> Option<&'static str> {
    Some(match opnum {
        0 => "epm/ept_insert",
        1 => "epm/ept_delete",
        2 => "epm/ept_lookup",
        3 => "epm/ept_map",
        4 => "epm/ept_lookup_handle_free",
        5 => "epm/ept_inq_object",
        6 => "epm/ept_mgmt_delete",
        _ => return None,
    })
}

/// Methods of the management interface ([C706] appendix Q).
const fn management_method(opnum: u16) -> Option<&'static str> {
    Some(match opnum {
        0 => "mgmt/rpc__mgmt_inq_if_ids",
        1 => "mgmt/rpc__mgmt_inq_stats",
        2 => "mgmt/rpc__mgmt_is_server_listening",
        3 => "mgmt/rpc__mgmt_stop_server_listening",
        4 => "mgmt/rpc__mgmt_inq_princ_name",
        _ => return None,
    })
}

/// Takes `HOST` or `HOST:PORT` apart. An IPv6 address with a port stands in brackets, which are taken off.
/// `None` if the port is not a number.
pub fn host_and_port(server: &str) -> Option<(&str, Option<u16>)> {
    let (host, port) = match server.rsplit_once(':') {
        Some((host, port)) if !host.contains(':') || host.ends_with(']') => (host, Some(port.parse().ok()?)),
        _ => (server, None),
    };
    Some((host.trim_start_matches('[').trim_end_matches(']'), port))
}

/// Asks a server's endpoint mapper which port serves an interface by NDR over TCP.
pub async fn resolve_endpoint(
    mapper: impl ToSocketAddrs,
    interface: &SyntaxId,
    deadline: Instant,
) -> Result<u16, CallError> {
    let config =
        ClientConfig { interface: ENDPOINT_MAPPER, syntax: NdrSyntax::Ndr, first_call_id: 1, security: None };
    let (mut connection, _) = Connection::open(mapper, config, deadline).await?;
    let reply = connection.call(EPT_MAP, map_request(interface).into(), deadline).await?;
    let ports = map_ports(&reply.stub, reply.order).map_err(ClientError::Decode)?;
    ports.first().copied().ok_or_else(|| {
        CallError::Connect(io::Error::new(
            io::ErrorKind::NotFound,
            "the endpoint mapper does not know the interface",
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_named_with_or_without_a_port() {
        for (server, expected) in [
            ("sso1.contoso.example", Some(("sso1.contoso.example", None))),
            ("sso1:49200", Some(("sso1", Some(49200)))),
            ("127.0.0.1:1", Some(("127.0.0.1", Some(1)))),
            ("[::1]:49200", Some(("::1", Some(49200)))),
            ("[::1]", Some(("::1", None))),
            ("::1", Some(("::1", None))),
            ("sso1:x", None),
            ("sso1:65536", None),
            ("[::1]:x", None),
        ] {
            assert_eq!(host_and_port(server), expected, "{server}");
        }
    }
}
