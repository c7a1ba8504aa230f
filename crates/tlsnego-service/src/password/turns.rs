//! Turns: few at once, and those that wait come by their holder in rounds.

use std::collections::{BTreeMap, HashMap};
use std::future::poll_fn;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};

/// Who waits: an address, and a name of its own if that has proved itself there.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Holder {
    pub(super) source: IpAddr,
    pub(super) proved: Option<String>,
}

/// Turns for a work that only few may do at once. A holder with many that wait delays another one by a turn
/// for each of its own.
#[derive(Debug)]
pub(super) struct Turns {
    waiting_max: usize,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    free: usize,
    /// The round of the last turn that was given.
    round: u64,
    last: u64,
    /// Round and number: the first is the next.
    waiting: BTreeMap<Place, Waiting>,
    /// The last round of each holder that waits, and how many of it do.
    rounds: HashMap<Holder, (u64, usize)>,
    /// Places that were given a turn, or were refused one (false), and have not seen it yet.
    called: HashMap<Place, bool>,
}

type Place = (u64, u64);

#[derive(Debug)]
struct Waiting {
    holder: Holder,
    waker: Option<Waker>,
}

/// Dropped, it is given to the next.
#[derive(Debug)]
pub(super) struct Turn<'t>(&'t Turns);

/// Dropped, it waits no more.
struct InQueue<'t> {
    turns: &'t Turns,
    place: Place,
}

impl Turns {
    pub(super) fn new(at_once: usize, waiting_max: usize) -> Self {
        let state = State {
            free: at_once,
            round: 0,
            last: 0,
            waiting: BTreeMap::new(),
            rounds: HashMap::new(),
            called: HashMap::new(),
        };
        Self { waiting_max, state: Mutex::new(state) }
    }

    /// Waits for a turn; none if too many wait, and this one came last in the longest queue.
    pub(super) async fn take(&self, holder: Holder) -> Option<Turn<'_>> {
        let place = {
            let mut state = self.lock();
            if state.free > 0 {
                state.free -= 1;
                return Some(Turn(self));
            }
            let place = state.enqueue(holder);
            let refused = (state.waiting.len() > self.waiting_max).then(|| state.refuse_last()).flatten();
            drop(state);
            refused.into_iter().for_each(Waker::wake);
            InQueue { turns: self, place }
        };
        let is_given = poll_fn(|context| {
            let mut state = self.lock();
            if let Some(is_given) = state.called.remove(&place.place) {
                return Poll::Ready(is_given);
            }
            if let Some(waiting) = state.waiting.get_mut(&place.place) {
                waiting.waker = Some(context.waker().clone());
            }
            Poll::Pending
        })
        .await;
        is_given.then(|| Turn(self))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn release(&self) {
        let next = self.lock().call_next();
        next.into_iter().for_each(Waker::wake);
    }
}

impl State {
    fn enqueue(&mut self, holder: Holder) -> Place {
        let (round, count) = self.rounds.entry(holder.clone()).or_insert((self.round, 0));
        *round = (*round).max(self.round) + 1;
        *count += 1;
        self.last += 1;
        let place = (*round, self.last);
        self.waiting.insert(place, Waiting { holder, waker: None });
        place
    }

    fn leave(&mut self, place: Place) -> Option<Waiting> {
        let waiting = self.waiting.remove(&place)?;
        if let Some((_, count)) = self.rounds.get_mut(&waiting.holder) {
            *count -= 1;
            if *count == 0 {
                self.rounds.remove(&waiting.holder);
            }
        }
        Some(waiting)
    }

    fn call_next(&mut self) -> Option<Waker> {
        let Some((place, _)) = self.waiting.first_key_value() else {
            self.free += 1;
            return None;
        };
        let place = *place;
        self.round = place.0;
        self.called.insert(place, true);
        self.leave(place)?.waker
    }

    fn refuse_last(&mut self) -> Option<Waker> {
        let place = *self.waiting.last_key_value()?.0;
        self.called.insert(place, false);
        self.leave(place)?.waker
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.release();
    }
}

impl Drop for InQueue<'_> {
    fn drop(&mut self) {
        let mut state = self.turns.lock();
        state.leave(self.place);
        let was_given = state.called.remove(&self.place) == Some(true);
        drop(state);
        if was_given {
            self.turns.release();
        }
    }
}

#[cfg(test)]
impl Turns {
    /// How many turns are free.
    pub(super) fn free(&self) -> usize {
        self.lock().free
    }
}
