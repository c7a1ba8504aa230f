//! Whether clients find the interface: the service asks the endpoint mapper as a client would.

use dcerpc::endpoint_mapper::Endpoint;
use dcerpc_tokio::{Endpoints, resolve_endpoint};
use sso_service::MASTER_SECRET;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

/// How often the endpoint mapper is asked where nothing else asks.
const INTERVAL: Duration = Duration::from_secs(5);
/// For an answer of the endpoint mapper, which is on this machine.
const TIMEOUT: Duration = Duration::from_secs(1);

/// The registration of the interface at the endpoint mapper of this process.
#[derive(Clone, Debug)]
pub struct Registration(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    mapper: SocketAddr,
    registry: Endpoints,
    endpoints: Vec<Endpoint>,
    was_registered: AtomicBool,
    /// The service is stopping.
    is_withdrawn: AtomicBool,
}

impl Registration {
    /// Registers the endpoints. `mapper` is where the endpoint mapper listens.
    pub fn new(mapper: SocketAddr, registry: Endpoints, endpoints: Vec<Endpoint>) -> Self {
        let ip = match mapper.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
            ip => ip,
        };
        registry.register(endpoints.iter().cloned());
        let mapper = SocketAddr::new(ip, mapper.port());
        Self(Arc::new(Inner {
            mapper,
            registry,
            endpoints,
            was_registered: AtomicBool::new(true),
            is_withdrawn: AtomicBool::new(false),
        }))
    }

    /// Whether the endpoint mapper answers with one of our ports. If it answers without, the interface is
    /// registered again.
    pub async fn is_registered(&self) -> bool {
        let Inner { mapper, registry, endpoints, was_registered, is_withdrawn } = &*self.0;
        if is_withdrawn.load(Ordering::Acquire) {
            return false;
        }
        let answer = resolve_endpoint(mapper, &MASTER_SECRET, Instant::now() + TIMEOUT).await;
        let is_registered = match &answer {
            Ok(port) => endpoints.iter().any(|endpoint| endpoint.address.port() == *port),
            Err(_) => false,
        };
        if !is_registered {
            registry.register(endpoints.iter().cloned());
        }
        match (was_registered.swap(is_registered, Ordering::AcqRel), is_registered) {
            (true, false) => {
                let error = answer.err().map(|error| error.to_string());
                error!(%mapper, error, "The endpoint mapper does not name the master secret interface: registering again");
            }
            (false, true) => info!(%mapper, "The endpoint mapper names the master secret interface again"),
            _ => {}
        }
        is_registered
    }

    /// Asks again and again.
    pub async fn watch(self, shutdown: CancellationToken) {
        let mut interval = tokio::time::interval(INTERVAL);
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while shutdown.run_until_cancelled(interval.tick()).await.is_some() {
            self.is_registered().await;
        }
    }

    /// Removes the endpoints: clients that ask now are told that there is no such interface.
    pub fn unregister(&self) {
        self.0.is_withdrawn.store(true, Ordering::Release);
        self.0.registry.unregister(&MASTER_SECRET);
    }
}
