//! What was decided in the last hour, and the newest refusals: for the status page.
//!
//! Both are bounded and in memory. A decision costs no more than its counter; once a minute the counters are
//! read. A certificate is named by its thumbprint alone, so no name of a subject is kept.

use dtyp::FileTime;
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Minutes that are kept, the current one included.
const MINUTES: usize = 60;
/// Refusals that are kept.
const REFUSALS_MAX: usize = 50;
/// Refusals of one asker for one reason that are kept, so that one asker does not push out all others.
const REFUSALS_OF_ONE_MAX: usize = 10;
/// Longest text of an asker or a decision id that is kept, in characters.
const TEXT_LEN_MAX: usize = 64;

/// What a decision means for the user.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// An account was answered.
    Mapped,
    /// The certificate maps no account that may be used.
    Rejected,
    /// It could not be decided.
    Undecided,
}

impl Outcome {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Mapped, Self::Rejected, Self::Undecided];

    /// A stable name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Mapped => "mapped",
            Self::Rejected => "rejected",
            Self::Undecided => "undecided",
        }
    }
}

/// Answers since the start, by reason. The names are literals in the code, so there are few.
pub type Totals = BTreeMap<&'static str, u64>;

/// The answers of a minute, by reason; those without answers are left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Minute {
    /// When it ended; now, if it is the current one.
    pub ends: FileTime,
    /// How many there were.
    pub answers: Totals,
}

/// A question that was answered without an account, once or more often.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The last time.
    pub at: FileTime,
    /// How often it was answered so.
    pub count: u64,
    /// The name of the reason.
    pub reason: &'static str,
    /// The reason in a sentence; empty if the name is all there is.
    pub text: &'static str,
    /// Whether it could not be decided.
    pub is_undecided: bool,
    /// The machine account that asked.
    pub asker: String,
    /// The SHA-1 of the certificate, if it can be read.
    pub thumbprint: Option<String>,
    /// The id of the decision that the asker got, if it got one.
    pub decision: Option<String>,
}

/// The last hour, and the newest refusals.
#[derive(Debug, Default)]
pub struct Recent(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// Totals at the end of each minute but the current one. The first is where the hour starts.
    ends: VecDeque<(FileTime, Totals)>,
    refusals: VecDeque<Refusal>,
}

impl Recent {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends a minute.
    pub fn end_minute(&self, now: FileTime, totals: Totals) {
        let ends = &mut self.lock().ends;
        ends.push_back((now, totals));
        if ends.len() > MINUTES {
            ends.pop_front();
        }
    }

    /// The minutes of the last hour from the oldest to the current one.
    pub fn minutes(&self, now: FileTime, totals: Totals) -> Vec<Minute> {
        let inner = self.lock();
        let ends = inner.ends.iter().map(|(at, totals)| (*at, totals)).chain([(now, &totals)]);
        let none = Totals::new();
        let mut before = None;
        let mut minutes = Vec::with_capacity(MINUTES);
        for (ends, totals) in ends {
            if let Some(before) = before.replace(totals) {
                minutes.push(Minute { ends, answers: since(before, totals) });
            }
        }
        if minutes.is_empty() {
            minutes.push(Minute { ends: now, answers: since(&none, &totals) });
        }
        minutes
    }

    /// Notes a refusal. The same one as before counts as one.
    pub fn refused(&self, mut refusal: Refusal) {
        shorten(&mut refusal.asker);
        refusal.decision.iter_mut().for_each(shorten);
        let refusals = &mut self.lock().refusals;
        let is_of_it = |other: &Refusal| other.reason == refusal.reason && other.asker == refusal.asker;
        let is_same = |other: &Refusal| is_of_it(other) && other.thumbprint == refusal.thumbprint;
        if let Some(same) = refusals.iter().position(is_same).and_then(|at| refusals.remove(at)) {
            refusal.count = refusal.count.saturating_add(same.count);
        } else if refusals.iter().filter(|other| is_of_it(other)).count() >= REFUSALS_OF_ONE_MAX {
            let oldest = refusals.iter().position(is_of_it);
            oldest.and_then(|at| refusals.remove(at));
        } else if refusals.len() >= REFUSALS_MAX {
            refusals.pop_front();
        }
        refusals.push_back(refusal);
    }

    /// The refusals, the newest first.
    pub fn refusals(&self) -> Vec<Refusal> {
        self.lock().refusals.iter().rev().cloned().collect()
    }
}

fn since(before: &Totals, now: &Totals) -> Totals {
    let counts = now.iter().map(|(name, total)| (*name, total - before.get(name).unwrap_or(&0).min(total)));
    counts.filter(|(_, count)| *count > 0).collect()
}

fn shorten(text: &mut String) {
    if let Some((at, _)) = text.char_indices().nth(TEXT_LEN_MAX) {
        text.truncate(at);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> FileTime {
        FileTime::from_unix(second)
    }

    fn totals(mapped: u64, no_match: u64) -> Totals {
        [("mapped", mapped), ("no_match", no_match)].into()
    }

    #[test]
    fn minutes_are_differences_of_totals_and_end_after_an_hour() {
        let recent = Recent::default();
        assert_eq!(
            recent.minutes(at(5), totals(2, 0)),
            [Minute { ends: at(5), answers: [("mapped", 2)].into() }]
        );
        recent.end_minute(at(0), Totals::new());
        recent.end_minute(at(60), totals(3, 1));
        let minutes = recent.minutes(at(70), totals(3, 5));
        assert_eq!(
            minutes,
            [
                Minute { ends: at(60), answers: totals(3, 1) },
                Minute { ends: at(70), answers: [("no_match", 4)].into() },
            ]
        );
        for minute in 2..200 {
            recent.end_minute(at(60 * minute), totals(3 + minute.unsigned_abs(), 5));
        }
        let minutes = recent.minutes(at(60 * 199 + 30), totals(999, 5));
        assert_eq!(minutes.len(), MINUTES);
        assert_eq!(minutes[0], Minute { ends: at(60 * 141), answers: [("mapped", 1)].into() });
        assert_eq!(minutes[59].answers, [("mapped", 999 - 202)].into());
    }

    fn refusal(asker: &str, reason: &'static str, thumbprint: u32) -> Refusal {
        Refusal {
            at: at(i64::from(thumbprint)),
            count: 1,
            reason,
            text: "",
            is_undecided: false,
            asker: asker.to_owned(),
            thumbprint: Some(format!("{thumbprint:08x}")),
            decision: None,
        }
    }

    #[test]
    fn one_asker_does_not_push_out_the_refusals_of_others() {
        let recent = Recent::default();
        recent.refused(refusal("A$", "no_match", 1));
        for thumbprint in 2..1000 {
            recent.refused(refusal("B$", "no_match", thumbprint));
        }
        let refusals = recent.refusals();
        assert_eq!(refusals.len(), 1 + REFUSALS_OF_ONE_MAX);
        assert_eq!(refusals[0].thumbprint.as_deref(), Some("000003e7"));
        assert_eq!(refusals[10].asker, "A$");
        for asker in 0..1000 {
            recent.refused(refusal(&format!("{asker}{}", "x".repeat(1000)), "no_match", 1));
        }
        let refusals = recent.refusals();
        assert_eq!(refusals.len(), REFUSALS_MAX);
        assert!(refusals.iter().all(|refusal| refusal.asker.len() <= TEXT_LEN_MAX));
    }

    #[test]
    fn the_same_refusal_is_counted() {
        let recent = Recent::default();
        recent.refused(refusal("A$", "no_match", 1));
        recent.refused(refusal("A$", "no_match", 2));
        recent.refused(refusal("A$", "no_match", 1));
        let counts: Vec<_> = recent.refusals().iter().map(|it| (it.thumbprint.clone(), it.count)).collect();
        assert_eq!(counts, [(Some("00000001".to_owned()), 2), (Some("00000002".to_owned()), 1)]);
    }
}
