//! A span for each look-up in a store, below the span of the call that needs it.

use account_store::{AccountStore, BoxFuture, Domain, Matches, Query, Revision, StoreError};
use std::sync::Arc;
use tracing::field::Empty;
use tracing::{Instrument, Span, debug_span};

/// A store whose look-ups are spans. What it asks of a server is in spans of the store itself, below them. A
/// look-up that no call needs, or in a call that has no span, has none.
pub(super) struct TracedStore {
    pub(super) store: Arc<dyn AccountStore>,
    /// The word for its kind in a configuration.
    pub(super) kind: &'static str,
}

impl AccountStore for TracedStore {
    fn domain(&self) -> &Domain {
        self.store.domain()
    }

    fn find<'a>(&'a self, query: &'a Query) -> BoxFuture<'a, Result<Matches, StoreError>> {
        if Span::current().is_disabled() {
            return self.store.find(query);
        }
        // Its text may be a name, which traces must not have.
        let by = match query {
            Query::UserPrincipalName(_) => "user_principal_name",
            Query::ServicePrincipalName(_) => "service_principal_name",
            Query::AltSecurityIdentity(_) => "alt_security_identity",
            Query::Mail(_) => "mail",
            Query::Name(_) => "name",
            Query::Sid(_) => "sid",
            _ => "other",
        };
        let span = debug_span!(
            target: "rcmpd::call",
            "store_lookup",
            otel.status_code = Empty,
            store.kind = self.kind,
            store.by = by,
            store.result = Empty,
        );
        let recorded = span.clone();
        let finding = async move {
            let found = self.store.find(query).await;
            recorded.record(
                "store.result",
                match &found {
                    Ok(Matches::None) => "none",
                    Ok(Matches::One(_)) => "one",
                    Ok(Matches::Many(_)) => "many",
                    Err(_) => "error",
                },
            );
            if found.is_err() {
                recorded.record("otel.status_code", "error");
            }
            found
        };
        Box::pin(finding.instrument(span))
    }

    fn stale_s(&self, query: &Query) -> Option<u64> {
        self.store.stale_s(query)
    }

    fn revision(&self) -> Result<Revision, StoreError> {
        self.store.revision()
    }

    fn refresh(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        self.store.refresh()
    }
}
