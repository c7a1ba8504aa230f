//! Addresses and sockets on which the service listens: free, or served by it already.

use super::owner::{self, Owner};
use super::report::{Check, Grade, Report};
use crate::config::{Config, Place, base};
use dcerpc_tokio::listen_on;
use std::error::Error;
use std::io;
use std::net::SocketAddr;
use std::path::Path;

/// Looks at each. Returns the process of the service with the configuration at `path`, if it runs.
pub(super) async fn check(path: &Path, config: &Config, report: &mut Report) -> Option<u32> {
    let mut served = None;
    for (key, address) in addresses(config) {
        if address.port() == 0 {
            report.ok(Check::Ports, format!("{address} ({key}): the system chooses the port at the start"));
            continue;
        }
        let at = format!("{address} ({key})");
        match listen_on(address, key).await {
            Ok(_) => report.ok(Check::Ports, format!("{at} is free")),
            Err(error) => {
                let cause = error.source().and_then(|cause| cause.downcast_ref::<io::Error>());
                let kind = cause.map_or(io::ErrorKind::Other, io::Error::kind);
                match kind {
                    io::ErrorKind::AddrInUse => {
                        served = served.or(taken(&at, owner::of_port(address), path, report));
                    }
                    kind => cannot_listen(&at, kind, report),
                }
            }
        }
    }
    for (key, socket) in sockets(config) {
        let at = format!("{} ({key})", socket.display());
        if let Some(owner) = owner::of_path(socket) {
            served = served.or(taken(&at, owner, path, report));
        } else if !base(socket).is_dir() {
            report.add(
                Check::Ports,
                Grade::Error,
                format!("{at} cannot be listened on: its folder does not exist"),
                "create the folder for the user of the service, or let systemd do it (RuntimeDirectory=)",
            );
        } else {
            report.ok(Check::Ports, format!("{at} is free"));
        }
    }
    served
}

fn cannot_listen(at: &str, kind: io::ErrorKind, report: &mut Report) {
    let to_do = match kind {
        io::ErrorKind::PermissionDenied => {
            "run this command as the user of the service; that user needs CAP_NET_BIND_SERVICE for ports below 1024"
        }
        _ => "name an address of this machine",
    };
    report.add(Check::Ports, Grade::Error, format!("{at} cannot be listened on: {kind}"), to_do);
}

/// Reports what has an address. Returns the process if it is the service with the configuration at `path`.
fn taken(what: &str, owner: Owner, path: &Path, report: &mut Report) -> Option<u32> {
    const STOP: &str = "stop that process, or choose another address or port";
    let (served, grade, text, to_do) = match owner {
        Owner::Service(pid) => match owner::configuration(pid).filter(|other| !is_same(other, path)) {
            None => (Some(pid), Grade::Ok, format!("is served by rcmpd, process {pid}"), ""),
            Some(other) => {
                let text = format!("is in use by rcmpd with {}, process {pid}", other.display());
                (None, Grade::Error, text, STOP)
            }
        },
        Owner::Probably(pid) => {
            (Some(pid), Grade::Ok, format!("is served by the user of rcmpd, process {pid}"), "")
        }
        Owner::Manager => {
            let text = "is opened by systemd, which starts the service at the first connection".to_owned();
            (None, Grade::Ok, text, "")
        }
        Owner::Other { name, pid } => {
            (None, Grade::Error, format!("is in use by {name}, process {pid}"), STOP)
        }
        Owner::Hidden => (
            None,
            Grade::Warning,
            "is in use by a process that this user cannot see".to_owned(),
            "run this command as root, which sees whether it is rcmpd",
        ),
    };
    report.add(Check::Ports, grade, format!("{what} {text}"), to_do);
    served
}

fn is_same(configuration: &Path, path: &Path) -> bool {
    path.canonicalize().is_ok_and(|path| path == configuration)
}

/// Each address of the configuration, with its key.
fn addresses(config: &Config) -> Vec<(&'static str, SocketAddr)> {
    let mut found = Vec::new();
    if let Some(rpc) = &config.rpc {
        found.extend(rpc.listen.iter().map(|at| ("rpc.listen", *at)));
        found.extend(rpc.endpoint_mapper.map(|at| ("rpc.endpoint_mapper", at)));
    }
    if let Some(sso) = &config.sso {
        found.extend(sso.listen.iter().map(|at| ("sso.listen", *at)));
        found.extend(sso.endpoint_mapper.map(|at| ("sso.endpoint_mapper", at)));
    }
    if let Some(sidecar) = &config.sidecar {
        let listeners = sidecar.listen.iter().filter_map(|listen| match &listen.settings.at {
            Place::Tcp(at) => Some(("[[sidecar.listen]]", *at)),
            Place::Unix(_) => None,
        });
        found.extend(listeners);
        found.extend(sidecar.proxy.iter().map(|proxy| ("sidecar.proxy.listen", proxy.listen)));
    }
    found.extend(config.tlsnego.iter().map(|tlsnego| ("tlsnego.listen", tlsnego.listen)));
    found.extend(config.admin.iter().map(|admin| ("admin.listen", admin.listen)));
    let with_tls = config.admin.iter().filter_map(|admin| admin.tls.as_ref());
    found.extend(with_tls.map(|tls| ("admin.tls.listen", tls.listen)));
    found
}

/// Each Unix socket of the configuration, with its key.
fn sockets(config: &Config) -> Vec<(&'static str, &Path)> {
    let listeners = config.sidecar.iter().flat_map(|sidecar| &sidecar.listen);
    let listeners = listeners.filter_map(|listen| match &listen.settings.at {
        Place::Unix(place) => Some(("[[sidecar.listen]]", place.path.as_path())),
        Place::Tcp(_) => None,
    });
    let operators = config.sso.iter().filter_map(|sso| sso.operator_socket.as_ref());
    listeners.chain(operators.map(|socket| ("sso.operator_socket", socket.path.as_path()))).collect()
}
