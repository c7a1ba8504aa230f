//! The newest answer about each certificate, which ends tickets that are older.
//!
//! The time of an answer is when its question was asked: the server may have decided at any moment since
//! then. So a "yes" that arrives after a later question was answered changes nothing, and a "no" always
//! counts.

use dtyp::FileTime;
use std::collections::{BTreeSet, HashMap};
use std::sync::{PoisonError, RwLock};
use ticket::CLOCK_SKEW;

/// Certificates whose newest answer is known. The table has some 10 MB then. It is not `remembered_max`: a
/// small cache of decisions must not forget denials.
const CERTIFICATES_MAX: usize = 65_536;

/// A certificate, by its SHA-256.
type Certificate = [u8; 32];

/// Which ticket it is, and when it was issued.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Origin {
    pub(crate) issued: FileTime,
    /// SHA-256 of the text in the cookie.
    pub(crate) digest: [u8; 32],
}

/// What an answer said.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Said {
    /// The certificate has an account. The digest is that of the ticket that this node made from the answer.
    Yes(Option<[u8; 32]>),
    No,
}

/// Why a ticket does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// This node was told something since.
    Superseded,
    /// This node may have been told something since: the answer was evicted.
    Evicted,
}

/// The newest answers.
#[derive(Debug)]
pub(crate) struct NewestAnswers(RwLock<Table>);

#[derive(Debug)]
struct Table {
    newest: HashMap<Certificate, NewestAnswer>,
    /// The same certificates by time: the oldest is evicted first.
    by_time: BTreeSet<(FileTime, Certificate)>,
    /// The latest time of an answer that was evicted: no entry is older.
    floor: FileTime,
    certificates_max: usize,
}

#[derive(Clone, Copy, Debug)]
struct NewestAnswer {
    time: FileTime,
    /// The ticket that this node made from it.
    ticket: Option<[u8; 32]>,
}

impl Default for NewestAnswers {
    fn default() -> Self {
        Self::with_max(CERTIFICATES_MAX)
    }
}

impl NewestAnswers {
    pub(crate) fn with_max(certificates_max: usize) -> Self {
        let (newest, by_time) = (HashMap::new(), BTreeSet::new());
        Self(RwLock::new(Table { newest, by_time, floor: FileTime(0), certificates_max }))
    }

    /// Whether a ticket counts. The clock of the node that issued it may be ahead by [`CLOCK_SKEW`], so
    /// another node's ticket counts if it is newer than the answer by that much. A ticket that this node made
    /// counts if it was made from the newest answer.
    pub(crate) fn allow(&self, certificate: &Certificate, ticket: &Origin) -> Result<(), Ended> {
        let table = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let is_newer = |time: FileTime| ticket.issued >= time + CLOCK_SKEW;
        match table.newest.get(certificate) {
            Some(newest) if newest.ticket == Some(ticket.digest) || is_newer(newest.time) => Ok(()),
            Some(_) => Err(Ended::Superseded),
            None if table.floor == FileTime(0) || is_newer(table.floor) => Ok(()),
            None => Err(Ended::Evicted),
        }
    }

    /// Takes an answer to a question that was asked at this time. `false` if a newer one is known, or may
    /// have been evicted: no ticket may be made from this one.
    pub(crate) fn answered(&self, certificate: Certificate, said: Said, asked: FileTime) -> bool {
        let mut table = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let known = table.newest.get(&certificate).map(|newest| newest.time);
        let since = known.unwrap_or(table.floor);
        let (newest, is_newest) = match said {
            Said::Yes(ticket) if asked > since => (NewestAnswer { time: asked, ticket }, true),
            Said::Yes(_) => return false,
            Said::No => (NewestAnswer { time: asked.max(since), ticket: None }, asked > since),
        };
        if let Some(known) = known {
            table.by_time.remove(&(known, certificate));
        }
        table.newest.insert(certificate, newest);
        table.by_time.insert((newest.time, certificate));
        if table.newest.len() > table.certificates_max
            && let Some((time, oldest)) = table.by_time.pop_first()
        {
            table.newest.remove(&oldest);
            table.floor = time;
        }
        is_newest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SKEW: u64 = CLOCK_SKEW.as_secs();
    const ALICE: Certificate = [1; 32];

    fn at(seconds: u64) -> FileTime {
        FileTime::from_unix(1_900_000_000) + std::time::Duration::from_secs(seconds)
    }

    fn ticket(digest: u8, issued: u64) -> Origin {
        Origin { issued: at(issued), digest: [digest; 32] }
    }

    #[test]
    fn the_newest_answer_stays_whatever_arrives_late() {
        let answers = NewestAnswers::default();
        assert_eq!(answers.allow(&ALICE, &ticket(7, 1)), Ok(()), "nothing is known");
        assert!(answers.answered(ALICE, Said::No, at(100)));
        for late in [0, 50, 100] {
            assert!(!answers.answered(ALICE, Said::Yes(Some([9; 32])), at(late)), "{late}");
            for (digest, issued) in [(9, late), (7, 100), (7, 100 + SKEW - 1)] {
                let ended = answers.allow(&ALICE, &ticket(digest, issued));
                assert_eq!(ended, Err(Ended::Superseded), "{digest} {issued}");
            }
        }
        assert_eq!(answers.allow(&ALICE, &ticket(7, 100 + SKEW)), Ok(()));
        assert!(answers.answered(ALICE, Said::Yes(Some([9; 32])), at(101)));
        assert_eq!(answers.allow(&ALICE, &ticket(9, 101)), Ok(()), "its own");
        assert_eq!(answers.allow(&ALICE, &ticket(8, 101)), Err(Ended::Superseded));
        // A "no" to an earlier question may be the later decision.
        assert!(!answers.answered(ALICE, Said::No, at(99)));
        assert_eq!(answers.allow(&ALICE, &ticket(9, 101)), Err(Ended::Superseded));
    }

    #[test]
    fn an_evicted_answer_ends_tickets_as_before() {
        let answers = NewestAnswers::with_max(2);
        assert!(answers.answered(ALICE, Said::No, at(100)));
        for other in 2..5 {
            let asked = at(100 + u64::from(other));
            assert!(answers.answered([other; 32], Said::Yes(Some([other; 32])), asked));
        }
        assert_eq!(answers.0.read().expect("no thread panicked").by_time.len(), 2);
        assert_eq!(answers.0.read().expect("no thread panicked").newest.len(), 2);
        // The answer of 102 s was evicted last.
        for (issued, allowed) in
            [(99, Err(Ended::Evicted)), (102 + SKEW - 1, Err(Ended::Evicted)), (102 + SKEW, Ok(()))]
        {
            assert_eq!(answers.allow(&ALICE, &ticket(7, issued)), allowed, "{issued}");
        }
        assert_eq!(answers.allow(&[4; 32], &ticket(4, 104)), Ok(()), "its own");
        assert!(!answers.answered(ALICE, Said::Yes(Some([9; 32])), at(102)), "a late answer");
        assert_eq!(answers.allow(&ALICE, &ticket(9, 102)), Err(Ended::Evicted));
        assert!(!answers.answered([9; 32], Said::No, at(50)));
        assert_eq!(answers.0.read().expect("no thread panicked").floor, at(102), "it never sinks");
    }
}
