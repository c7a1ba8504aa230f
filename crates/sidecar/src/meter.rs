//! Counters of requests and decisions.

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;
use std::fmt;

/// Counters of a sidecar, for metrics.
#[derive(Debug)]
pub struct Meter {
    /// Decisions that came from the cache.
    pub remembered: Counter,
    /// Decisions that were made.
    pub made: Counter,
    /// Decisions that were made by a ticket.
    pub(crate) by_ticket: Counter,
    decisions: Family<DecisionLabels, Counter>,
    tickets: Family<TicketLabels, Counter>,
    requests: Family<RequestLabels, Counter>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DecisionLabels {
    how: How,
}

/// How the account of a certificate was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum How {
    /// By a decision that was made for this request.
    Made,
    /// By a cached decision.
    Cached,
    /// By a ticket.
    Ticket,
}

impl How {
    /// A stable name, for metrics and traces.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Made => "made",
            Self::Cached => "cached",
            Self::Ticket => "ticket",
        }
    }
}

impl EncodeLabelValue for How {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> fmt::Result {
        self.name().encode(encoder)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TicketLabels {
    /// `issued`, `accepted`, or why a ticket does not count or was not made.
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    dialect: &'static str,
    /// `allowed`, or the name of a refusal.
    outcome: &'static str,
}

impl Default for Meter {
    fn default() -> Self {
        let decisions = Family::<DecisionLabels, Counter>::default();
        let of = |how| decisions.get_or_create_owned(&DecisionLabels { how });
        let tickets = Family::<TicketLabels, Counter>::default();
        for result in ["issued", "accepted"] {
            let _ = tickets.get_or_create_owned(&TicketLabels { result });
        }
        Self {
            made: of(How::Made),
            remembered: of(How::Cached),
            by_ticket: of(How::Ticket),
            decisions,
            tickets,
            requests: Family::default(),
        }
    }
}

impl Meter {
    /// Registers the counters. A successor of the sidecar has the same ones.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "sidecar_requests",
            "Requests of web servers and clients for a decision, by dialect and outcome",
            self.requests.clone(),
        );
        registry.register(
            "sidecar_decisions",
            "Decisions for web servers and clients: made, cached, or by a ticket",
            self.decisions.clone(),
        );
        registry.register(
            "sidecar_tickets",
            "Tickets in cookies: issued, accepted, or why one did not count or was not made",
            self.tickets.clone(),
        );
    }

    /// Counts how an account was found.
    pub(crate) fn found(&self, how: How) {
        match how {
            How::Made => self.made.inc(),
            How::Cached => self.remembered.inc(),
            How::Ticket => self.by_ticket.inc(),
        };
    }

    /// Counts a ticket.
    pub(crate) fn ticket(&self, result: &'static str) {
        self.tickets.get_or_create(&TicketLabels { result }).inc();
    }

    /// Tickets of one result.
    pub fn tickets(&self, result: &'static str) -> u64 {
        self.tickets.get(&TicketLabels { result }).map_or(0, |count| count.get())
    }

    /// Counts the answer to a request.
    pub(crate) fn count(&self, dialect: &'static str, outcome: &'static str) {
        self.requests.get_or_create(&RequestLabels { dialect, outcome }).inc();
    }

    /// Answers of one outcome in a dialect.
    pub fn requests(&self, dialect: &'static str, outcome: &'static str) -> u64 {
        self.requests.get(&RequestLabels { dialect, outcome }).map_or(0, |count| count.get())
    }
}
