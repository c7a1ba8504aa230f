use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// Counters of a server, for metrics.
#[derive(Debug, Default)]
pub struct Counters {
    /// Connections accepted.
    pub accepted: Counter,
    /// Connections open now.
    pub open: Gauge,
    /// Connections closed because nothing arrived at all, or no bind was finished in time.
    pub bind_timeouts: Counter,
    /// Connections closed because nothing happened for long.
    pub idle_timeouts: Counter,
    /// Connections closed because a PDU began to arrive and did not arrive in time.
    pub pdu_timeouts: Counter,
    /// Connections closed because a call did not arrive in time.
    pub call_timeouts: Counter,
    /// Connections closed because a security context was not set up in time.
    pub security_timeouts: Counter,
    /// Connections closed because the peer did not take its answers.
    pub write_timeouts: Counter,
    /// Calls answered with results.
    pub replies: Counter,
    /// Calls answered with a fault by their service.
    pub faults: Counter,
    /// Calls that their client cancelled.
    pub cancelled: Counter,
    /// Connections ended by a panic of a service.
    pub panics: Counter,
}

impl Counters {
    /// Registers all of them.
    pub(crate) fn register(&self, registry: &mut Registry) {
        registry.register("connections_open", "RPC connections open now", self.open.clone());
        for (name, help, counter) in [
            ("connections", "RPC connections accepted", &self.accepted),
            (
                "bind_timeouts",
                "RPC connections closed because nothing was received or no bind was finished in time",
                &self.bind_timeouts,
            ),
            (
                "pdu_timeouts",
                "RPC connections closed because a PDU did not arrive completely in time",
                &self.pdu_timeouts,
            ),
            ("idle_timeouts", "RPC connections closed by the idle timeout", &self.idle_timeouts),
            (
                "call_timeouts",
                "RPC connections closed because a call did not arrive completely in time",
                &self.call_timeouts,
            ),
            (
                "security_timeouts",
                "RPC connections closed because a security context was not set up completely in time",
                &self.security_timeouts,
            ),
            (
                "write_timeouts",
                "RPC connections closed because the client did not read its answers in time",
                &self.write_timeouts,
            ),
            ("replies", "RPC calls answered with a result", &self.replies),
            ("faults", "RPC calls answered with a fault", &self.faults),
            ("cancelled", "RPC calls that their client cancelled", &self.cancelled),
            ("panics", "RPC connections ended by a panic of a service", &self.panics),
        ] {
            registry.register(name, help, counter.clone());
        }
    }
}

pub(crate) fn count(counter: &Counter) {
    counter.inc();
}
