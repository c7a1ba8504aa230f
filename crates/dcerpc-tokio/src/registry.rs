use dcerpc::pdu::{FaultStatus, SyntaxId};
use dcerpc::security::{AuthType, Authentication};
use dcerpc::server::{Authenticate, Call, CallConnection, Reply};
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use tower::util::BoxCloneSyncService;

/// The future of an object-safe async method.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// The other end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Peer {
    /// A number that no other connection of this process has.
    pub connection: u64,
    /// Source address.
    pub address: SocketAddr,
}

/// One call on its way to the service behind its interface.
#[derive(Debug)]
pub struct RpcCall {
    /// The connection's number and source address.
    pub peer: Peer,
    /// The connection, for a service whose calls prove an account.
    pub connection: Arc<dyn CallConnection>,
    /// The call.
    pub call: Call,
}

/// The service behind an interface.
pub type RpcService = BoxCloneSyncService<RpcCall, Reply, FaultStatus>;

/// One interface and its service.
#[derive(Clone, Debug)]
pub struct Interface {
    /// The identifier that clients bind to.
    pub syntax: SyntaxId,
    /// A name for logs and traces.
    pub name: &'static str,
    /// The method with this opnum as `INTERFACE/METHOD`, for traces; `None` if the interface has none.
    pub method: fn(u16) -> Option<&'static str>,
    /// The service that answers its calls.
    pub service: RpcService,
}

/// Checks the tokens of one `auth_type`. It may wait, for instance for a database.
pub trait SecurityProvider: Send + Sync {
    /// The type it is asked for.
    fn auth_type(&self) -> AuthType;

    /// Checks a token. Called once for each leg; in between, the association keeps the state
    /// ([`Authentication::Continue`]).
    fn accept<'a>(&'a self, peer: &'a Peer, request: Authenticate) -> BoxFuture<'a, Authentication>;
}

/// Everything a port serves: interfaces and security providers.
#[derive(Clone, Default)]
pub struct Registry {
    pub(crate) interfaces: Vec<Interface>,
    pub(crate) providers: Vec<Arc<dyn SecurityProvider>>,
}

impl Registry {
    /// Adds an interface.
    #[must_use]
    pub fn interface(mut self, interface: Interface) -> Self {
        self.interfaces.push(interface);
        self
    }

    /// Adds a security provider.
    #[must_use]
    pub fn provider(mut self, provider: Arc<dyn SecurityProvider>) -> Self {
        self.providers.push(provider);
        self
    }

    /// The identifiers of the interfaces, in their order.
    pub fn syntaxes(&self) -> Vec<SyntaxId> {
        self.interfaces.iter().map(|interface| interface.syntax).collect()
    }

    pub(crate) async fn accept(&self, peer: &Peer, request: Authenticate) -> Authentication {
        match self.providers.iter().find(|provider| provider.auth_type() == request.auth_type) {
            Some(provider) => provider.accept(peer, request).await,
            None => Authentication::UnknownType,
        }
    }
}

impl std::fmt::Debug for Registry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.interfaces.iter().map(|interface| interface.name)).finish()
    }
}
