//! What happened on the way to a decision, for whoever has to explain it. The hot path traces nothing and pays nothing.

use crate::mapping::{Method, NotApplicable, Reason};
use account_store::{Matches, Query};

/// One step on the way to a decision.
#[derive(Clone, Debug)]
pub enum Step {
    /// A method was not asked for, or the policy does not allow it.
    Skipped {
        /// Which.
        method: Method,
        /// Whether the client asked for it, so that the policy was what forbade it.
        asked: bool,
    },
    /// A method has nothing to go by in this certificate.
    NotApplicable {
        /// Which.
        method: Method,
        /// Why.
        why: NotApplicable,
    },
    /// The store was asked.
    Asked {
        /// By which method.
        method: Method,
        /// What.
        query: Query,
        /// What it answered; `None` when it could not.
        found: Option<Matches>,
    },
    /// The decision.
    Decided {
        /// Why.
        reason: Reason,
    },
}

/// Takes down steps.
pub trait Trace: Send {
    /// Takes down one step, which is only made when somebody wants it.
    fn step(&mut self, step: impl FnOnce() -> Step);
}

/// Takes down nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoTrace;

impl Trace for NoTrace {
    #[inline]
    fn step(&mut self, _: impl FnOnce() -> Step) {}
}

impl Trace for Vec<Step> {
    fn step(&mut self, step: impl FnOnce() -> Step) {
        self.push(step());
    }
}
