use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;
use rpc_auth::RefusalReason;

/// How many security contexts of users were set up, and how many were refused.
#[derive(Clone, Debug, Default)]
pub struct AuthCounters {
    accepted: Family<Accepted, Counter>,
    refused: Family<Refused, Counter>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Accepted {
    mechanism: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Refused {
    mechanism: &'static str,
    reason: &'static str,
}

impl AuthCounters {
    /// Registers them.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "authentications",
            "Security contexts of users that were set up, by mechanism",
            self.accepted.clone(),
        );
        registry.register(
            "authentications_refused",
            "Security contexts of users that were refused, by mechanism and reason",
            self.refused.clone(),
        );
    }

    pub(crate) fn accepted(&self, mechanism: &'static str) {
        self.accepted.get_or_create(&Accepted { mechanism }).inc();
    }

    pub(crate) fn refused(&self, mechanism: &'static str, reason: RefusalReason) {
        self.refused.get_or_create(&Refused { mechanism, reason: reason.as_str() }).inc();
    }

    /// How many were refused by a mechanism for a reason.
    pub fn refusals(&self, mechanism: &'static str, reason: RefusalReason) -> u64 {
        self.refused.get_or_create(&Refused { mechanism, reason: reason.as_str() }).get()
    }
}
