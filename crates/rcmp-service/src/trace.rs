//! The steps to a decision, for the audit log and for explanations. Without a trace no step is made.

use crate::domains::RoutedBy;
use crate::form::{Form, Method, Strength};
use crate::mapping::NotApplicable;
use crate::policy::Binding;
use crate::reason::Reason;
use crate::trust::{Path, Refusal, Revocation};
use account_store::{Matches, Query, Record};
use std::sync::Arc;

/// One step on the way to a decision.
#[derive(Clone, Debug)]
pub enum Step {
    /// Chains are not verified here.
    ChainNotVerified,
    /// The chain was verified.
    Chain {
        /// The path, or why there is none.
        path: Result<Arc<Path>, Refusal>,
    },
    /// The path was looked up in CRLs and answers.
    Revocation {
        /// What they say.
        status: Revocation,
        /// Why an OCSP responder has not answered, or why its answer is not accepted.
        detail: Option<Arc<str>>,
    },
    /// A method was not asked for, or the policy does not allow it.
    Skipped {
        /// The method.
        method: Method,
        /// Whether the client asked for it, so that the policy was what forbade it.
        asked: bool,
    },
    /// A method has nothing to go by in this certificate.
    NotApplicable {
        /// The method.
        method: Method,
        /// What the certificate lacks.
        why: NotApplicable,
    },
    /// The store was asked.
    Asked {
        /// By which method.
        method: Method,
        /// By which form.
        form: Form,
        /// The attribute and the value.
        query: Query,
        /// What it answered; `None` when it could not.
        found: Option<Matches>,
        /// How old the answer is, in seconds, if the store could not be asked and an older answer stood in.
        stale_s: Option<u64>,
        /// Why it could not.
        error: Option<String>,
        /// Whether the certificate's authority may vouch for the account by this form.
        granted: bool,
    },
    /// What was found is not what was asked for, by a comparison that is narrower than the store's.
    Differs {
        /// By which method.
        method: Method,
        /// By which form.
        form: Form,
        /// The account.
        record: Arc<Record>,
    },
    /// An account was found, and weighed.
    BindingChecked {
        /// The account.
        record: Arc<Record>,
        /// By which forms it was found.
        forms: Vec<Form>,
        /// What binds it to the certificate, and whether each counts.
        evidence: Vec<Evidence>,
        /// What that makes together.
        strength: Strength,
        /// What was asked for.
        binding: Binding,
    },
    /// The question goes to another domain.
    Routed {
        /// NetBIOS name of the domain that is to answer.
        domain: String,
        /// NetBIOS name of the peer that is asked.
        peer: String,
        /// By what it was chosen.
        by: RoutedBy,
    },
    /// The decision.
    Decided {
        /// What it is.
        reason: Reason,
    },
}

/// Something that binds a certificate to an account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Evidence {
    /// In which form.
    pub form: Form,
    /// Whether it counts.
    pub state: EvidenceState,
}

/// Whether a piece of evidence counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EvidenceState {
    /// It binds the certificate to the account.
    Counts,
    /// It would, had the certificate's authority been granted the form for this account.
    NotGranted,
    /// It speaks of another account, or cannot be read.
    Contradicts,
    /// A policy of the certificate makes this name strong.
    StrongByPolicy,
}

impl EvidenceState {
    /// A stable name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Counts => "counts",
            Self::NotGranted => "not_granted",
            Self::Contradicts => "contradicts",
            Self::StrongByPolicy => "strong_by_policy",
        }
    }
}

/// Takes down steps.
pub trait Trace: Send {
    /// Takes down one step, which is only made if it is kept.
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

/// Takes down steps if there is a place for them: whether they are wanted is known only when the question is
/// there.
impl Trace for Option<Vec<Step>> {
    #[inline]
    fn step(&mut self, step: impl FnOnce() -> Step) {
        if let Some(steps) = self {
            steps.push(step());
        }
    }
}
/// The age of the oldest answer of the store, in seconds, if older answers stood in.
pub fn stale_s(steps: &[Step]) -> Option<u64> {
    let of = |step: &Step| match step {
        Step::Asked { stale_s, .. } => *stale_s,
        _ => None,
    };
    steps.iter().filter_map(of).max()
}
