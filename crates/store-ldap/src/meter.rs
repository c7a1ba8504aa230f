//! Counts of a store, for metrics.

use std::sync::atomic::{AtomicU64, Ordering};

/// The steps at which a question or a connection fails.
pub const STEPS: [&str; 9] =
    ["connect", "tls", "bind", "timeout", "connection", "server", "search", "data", "busy"];

/// What a store has done since it was opened.
#[derive(Debug, Default)]
pub struct Meter {
    questions: AtomicU64,
    requests: AtomicU64,
    connections: AtomicU64,
    elsewhere: AtomicU64,
    failures: [AtomicU64; STEPS.len()],
}

impl Meter {
    pub(crate) fn asked(&self) {
        self.questions.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn requested(&self, requests: u64) {
        self.requests.fetch_add(requests, Ordering::Relaxed);
    }

    pub(crate) fn connected(&self) {
        self.connections.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn elsewhere(&self) {
        self.elsewhere.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn failed(&self, step: &str) {
        if let Some(at) = STEPS.iter().position(|known| *known == step) {
            self.failures[at].fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Questions that were asked.
    pub fn questions(&self) -> u64 {
        self.questions.load(Ordering::Relaxed)
    }

    /// LDAP searches that were sent for them.
    pub fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    /// Connections that were made and bound.
    pub fn connections(&self) -> u64 {
        self.connections.load(Ordering::Relaxed)
    }

    /// Accounts of other domains that the global catalog named.
    pub fn accounts_elsewhere(&self) -> u64 {
        self.elsewhere.load(Ordering::Relaxed)
    }

    /// Failures by step: of servers, and of questions.
    pub fn failures(&self) -> impl Iterator<Item = (&'static str, u64)> {
        STEPS.into_iter().zip(&self.failures).map(|(step, count)| (step, count.load(Ordering::Relaxed)))
    }
}
