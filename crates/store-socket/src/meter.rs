//! Counts of a store, for metrics.

use std::sync::atomic::{AtomicU64, Ordering};

/// The steps at which a question or a connection fails.
pub const STEPS: [&str; 9] =
    ["connect", "peer", "hello", "timeout", "connection", "protocol", "program", "data", "busy"];

/// What a store has done since it was opened.
#[derive(Debug, Default)]
pub struct Meter {
    questions: AtomicU64,
    connections: AtomicU64,
    failures: [AtomicU64; STEPS.len()],
}

impl Meter {
    pub(crate) fn asked(&self) {
        self.questions.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn connected(&self) {
        self.connections.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn failed(&self, step: &str) {
        if let Some(at) = STEPS.iter().position(|known| *known == step) {
            self.failures[at].fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Look-ups that the program was asked for.
    pub fn questions(&self) -> u64 {
        self.questions.load(Ordering::Relaxed)
    }

    /// Connections that were made.
    pub fn connections(&self) -> u64 {
        self.connections.load(Ordering::Relaxed)
    }

    /// Failures by step.
    pub fn failures(&self) -> impl Iterator<Item = (&'static str, u64)> {
        STEPS.into_iter().zip(&self.failures).map(|(step, count)| (step, count.load(Ordering::Relaxed)))
    }
}
