//! The limit of open files, of which each connection takes one.

use super::http;
use crate::config::Config;
use crate::sidecar;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tlsnego_tokio::gateway;
use tracing::warn;

/// Database, logs, listeners and the runtime's own.
const FILES: u64 = 64;

/// `[rpc]` keeps at least one part in so many of the open files that are granted, whatever the other
/// listeners may need: machines whose connections do not fit are evicted, and with fewer connections most of
/// them would be.
const RPC_SHARE: u64 = 4;

/// Asks the kernel for as many open files as it grants, because the usual soft limit of 1,024 is meant for
/// programs that use `select`. Returns how many connections `[rpc]` may have beside the `others` of all other
/// listeners: at the limit of open files, no connection could be accepted any more, from any client.
pub(super) fn raise(configured: usize, others: usize) -> usize {
    let limit = getrlimit(Resource::Nofile);
    let raised = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    let Some(granted) = (if raised.is_ok() { limit.maximum } else { limit.current }) else {
        return configured;
    };
    let needed = needed(configured, others);
    let connections = connections(configured, others, granted);
    if granted < needed {
        warn!(
            granted,
            needed,
            configured,
            others,
            connections,
            "Fewer open files are allowed than the connection limits need: raise LimitNOFILE or lower connections_max"
        );
    }
    connections
}

/// Connections that a configuration allows: those of `[rpc]`, and those of all other listeners.
pub(crate) fn connections_of(config: &Config) -> (usize, usize) {
    let rpc = config.rpc.as_ref().map_or(0, |rpc| rpc.limits.connections_max);
    let others = config.sso.as_ref().map_or(0, |sso| sso.limits.connections_max)
        + config.sidecar.as_ref().map_or(0, sidecar::connections_max)
        + config.tlsnego.as_ref().map_or(0, |_| gateway::CONNECTIONS_MAX + gateway::CALLS_MAX)
        + config.admin.as_ref().map_or(0, |admin| {
            http::CONNECTIONS_MAX + admin.tls.as_ref().map_or(0, |_| http::TLS_CONNECTIONS_MAX)
        });
    (rpc, others)
}

/// Open files that all connections need.
pub(crate) fn needed(configured: usize, others: usize) -> u64 {
    (configured + others) as u64 + FILES
}

/// The limits of the other listeners are fixed, so `[rpc]` has what they leave.
fn connections(configured: usize, others: usize, granted: u64) -> usize {
    if granted >= needed(configured, others) {
        return configured;
    }
    let left = granted.saturating_sub(FILES + others as u64).max(granted / RPC_SHARE).max(1);
    usize::try_from(left).map_or(configured, |left| left.min(configured))
}

#[cfg(test)]
mod tests {
    use super::connections;

    #[test]
    fn rpc_has_what_the_other_listeners_leave() {
        for (configured, others, granted, expect) in [
            // A listener for a web server (8,192) and the admin port (4,160).
            (10_000, 12_352, 22_416, 10_000),
            (10_000, 12_352, 22_415, 9_999),
            (10_000, 12_352, 20_000, 7_584),
            // A quarter in any case, also where that does not fit.
            (10_000, 12_352, 12_416, 3_104),
            (10_000, 4_160, 224, 56),
            // It is never raised.
            (100, 12_352, 4_096, 100),
            (0, 12_352, 4_096, 0),
            (10_000, 0, 2, 1),
        ] {
            assert_eq!(connections(configured, others, granted), expect, "{configured} {others} {granted}");
        }
    }
}
