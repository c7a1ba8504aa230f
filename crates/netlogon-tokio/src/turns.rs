//! Permits for requests in flight at one server, given out round robin over the askers that wait.
//!
//! While the server is slow, one asker alone cannot shut the others out: the last permits go to askers that
//! have none, and if the queue is full, a request of the asker with the most requests in it is rejected.

use dtyp::Sid;
use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::oneshot;

/// The client on whose behalf a request is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Asker {
    /// The SID of a machine or trust account, which is proved.
    Account(Sid),
    /// The source of a client that has proved nothing yet, as [`dcerpc::limits::source_of`] has it.
    Source(IpAddr),
}

impl From<Sid> for Asker {
    fn from(sid: Sid) -> Self {
        Self::Account(sid)
    }
}

impl fmt::Display for Asker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Account(sid) => sid.fmt(f),
            Self::Source(source) => source.fmt(f),
        }
    }
}

/// The asker of a request, or `None` for this process itself.
pub type AskerId = Option<Asker>;

/// One permit in this many, rounded up, is kept for askers that have none. A single permit is for all.
const RESERVE_SHARE: usize = 4;

/// The permits of one server.
#[derive(Clone, Debug)]
pub(crate) struct Turns {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    max: usize,
    reserve: usize,
    queue_max: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    in_use: usize,
    held: HashMap<AskerId, usize>,
    waiting: usize,
    last: u64,
    queues: HashMap<AskerId, VecDeque<(u64, oneshot::Sender<Turn>)>>,
    /// The askers with a queue; the next permit goes to the first that may have one.
    order: VecDeque<AskerId>,
}

/// The permit of one request, given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Turn {
    shared: Arc<Shared>,
    asker: AskerId,
}

/// A place in the queue, left when it is dropped.
#[derive(Debug)]
pub(crate) struct Waiting {
    receiver: oneshot::Receiver<Turn>,
    shared: Arc<Shared>,
    asker: AskerId,
    number: u64,
}

/// The queue is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct QueueFull;

impl Turns {
    /// `max` permits, and a queue of `queue_max`.
    pub(crate) fn new(max: usize, queue_max: usize) -> Self {
        let reserve = if max > 1 { max.div_ceil(RESERVE_SHARE) } else { 0 };
        Self { shared: Arc::new(Shared { max, reserve, queue_max, state: Mutex::default() }) }
    }

    /// A permit at once, or a place in the queue. If the queue is full, the asker with the most requests in
    /// it loses its newest one for that place.
    pub(crate) fn acquire(&self, asker: AskerId) -> Result<Result<Turn, Waiting>, QueueFull> {
        let shared = &self.shared;
        let mut state = shared.lock();
        // INVARIANT: a waiting asker cannot take a permit now, or it would have got one when that was given
        // back.
        if shared.may_take(&state, asker) {
            state.take(asker);
            return Ok(Ok(Turn { shared: Arc::clone(shared), asker }));
        }
        let displaced = match state.waiting >= shared.queue_max {
            true => Some(state.displace(asker).ok_or(QueueFull)?),
            false => None,
        };
        let (sender, receiver) = oneshot::channel();
        state.last += 1;
        let number = state.last;
        let queue = state.queues.entry(asker).or_default();
        let is_first = queue.is_empty();
        queue.push_back((number, sender));
        state.waiting += 1;
        if is_first {
            state.order.push_back(asker);
        }
        drop(state);
        drop(displaced);
        Ok(Err(Waiting { receiver, shared: Arc::clone(shared), asker, number }))
    }
}

impl Waiting {
    /// Waits for the permit. An error means that the place went to an asker with fewer requests in the queue.
    pub(crate) async fn granted(&mut self) -> Result<Turn, QueueFull> {
        (&mut self.receiver).await.map_err(|_| QueueFull)
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        let queue = state.queues.get(&self.asker);
        let at = queue.and_then(|queue| queue.iter().position(|(number, _)| *number == self.number));
        let removed = at.and_then(|at| state.remove(self.asker, at));
        // A permit that was granted and not received is dropped with the receiver, and gives itself back.
        drop(state);
        drop(removed);
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.in_use -= 1;
        if let Some(held) = state.held.get_mut(&self.asker) {
            *held -= 1;
            if *held == 0 {
                state.held.remove(&self.asker);
            }
        }
        let granted = self.shared.next(&mut state);
        drop(state);
        if let Some((asker, sender)) = granted {
            // If the request has just stopped waiting, the permit is dropped here and goes to the next one.
            let _ = sender.send(Turn { shared: Arc::clone(&self.shared), asker });
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn may_take(&self, state: &State, asker: AskerId) -> bool {
        let free = self.max - state.in_use;
        // Requests of this process itself have no other askers beside them.
        free > self.reserve || free > 0 && (asker.is_none() || !state.held.contains_key(&asker))
    }

    /// Takes a permit for the first asker in `order` that may have one.
    fn next(&self, state: &mut State) -> Option<(AskerId, oneshot::Sender<Turn>)> {
        let at = state.order.iter().position(|asker| self.may_take(state, *asker))?;
        let asker = state.order[at];
        let sender = state.remove(asker, 0)?;
        if state.queues.contains_key(&asker) {
            state.order.retain(|other| *other != asker);
            state.order.push_back(asker);
        }
        state.take(asker);
        Some((asker, sender))
    }
}

impl State {
    fn take(&mut self, asker: AskerId) {
        self.in_use += 1;
        *self.held.entry(asker).or_default() += 1;
    }

    /// Removes a request from its queue, and the asker from `order` with its last one.
    fn remove(&mut self, asker: AskerId, at: usize) -> Option<oneshot::Sender<Turn>> {
        let queue = self.queues.get_mut(&asker)?;
        let (_, sender) = queue.remove(at)?;
        self.waiting -= 1;
        if queue.is_empty() {
            self.queues.remove(&asker);
            self.order.retain(|other| *other != asker);
        }
        Some(sender)
    }

    /// Removes the newest request of the asker with the most, unless this asker would then have as many.
    fn displace(&mut self, asker: AskerId) -> Option<oneshot::Sender<Turn>> {
        let own = self.queues.get(&asker).map_or(0, VecDeque::len);
        let (largest, len) =
            self.queues.iter().map(|(of, queue)| (*of, queue.len())).max_by_key(|(_, len)| *len)?;
        if own + 1 >= len {
            return None;
        }
        self.remove(largest, len - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    fn asker(n: u32) -> AskerId {
        Some(Sid::new(5, &[21, 1, 2, 3, n]).expect("a SID").into())
    }

    fn source(n: u8) -> AskerId {
        Some(Asker::Source([192, 0, 2, n].into()))
    }

    fn now(turns: &Turns, n: u32) -> Turn {
        turns.acquire(asker(n)).expect("there is room").expect("there is a turn")
    }

    fn later(turns: &Turns, n: u32) -> Waiting {
        turns.acquire(asker(n)).expect("there is room").expect_err("there is no turn")
    }

    fn poll(waiting: &mut Waiting) -> Option<Result<Turn, QueueFull>> {
        match pin!(waiting.granted()).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(outcome) => Some(outcome),
            Poll::Pending => None,
        }
    }

    fn granted(waiting: &mut Waiting) -> Turn {
        poll(waiting).expect("it is its turn").expect("it was not displaced")
    }

    #[test]
    fn askers_that_wait_have_turns() {
        let turns = Turns::new(1, 100);
        let turn = now(&turns, 1);
        let mut many: Vec<Waiting> = (0..10).map(|_| later(&turns, 1)).collect();
        let (mut second, mut third) = (later(&turns, 2), later(&turns, 3));
        drop(turn);
        let turn = granted(&mut many[0]);
        drop(turn);
        let turn = granted(&mut second);
        drop(turn);
        let turn = granted(&mut third);
        assert!(poll(&mut many[1]).is_none());
        drop(turn);
        drop(granted(&mut many[1]));
        drop(granted(&mut many[2]));
    }

    #[test]
    fn one_asker_leaves_turns_for_others() {
        let turns = Turns::new(8, 100);
        let held: Vec<Turn> = (0..6).map(|_| now(&turns, 1)).collect();
        let mut seventh = later(&turns, 1);
        let others = [now(&turns, 2), now(&turns, 3)];
        let mut fourth = later(&turns, 4);
        drop(others);
        drop(granted(&mut fourth));
        assert!(poll(&mut seventh).is_none());
        drop(held);
        drop(granted(&mut seventh));
        // What this process asks for itself has no others beside it.
        let own: Vec<_> = (0..8).map(|_| turns.acquire(None).expect("room").expect("a turn")).collect();
        assert!(turns.acquire(None).expect("room").is_err());
        drop(own);
    }

    #[test]
    fn source_that_floods_leaves_permits_and_queue_to_others() {
        let turns = Turns::new(8, 256);
        let (mut held, mut flood) = (Vec::new(), Vec::new());
        while let Ok(turn) = turns.acquire(source(1)) {
            match turn {
                Ok(turn) => held.push(turn),
                Err(waiting) => flood.push(waiting),
            }
        }
        assert_eq!((held.len(), flood.len()), (6, 256));
        let other = turns.acquire(source(2)).expect("there is room").expect("a permit is kept");
        let account = now(&turns, 3);
        // All permits are in use, and the queue is full.
        let mut third = turns.acquire(source(3)).expect("there is room").expect_err("no permit is free");
        assert!(matches!(poll(&mut flood[255]), Some(Err(QueueFull))), "the newest of the flood");
        drop(other);
        drop(granted(&mut third));
        drop(account);
        assert!(poll(&mut flood[0]).is_none(), "the last permits are kept");
    }

    #[test]
    fn in_a_full_queue_the_asker_with_the_most_is_refused() {
        let turns = Turns::new(1, 4);
        let _turn = now(&turns, 1);
        let mut flood: Vec<Waiting> = (0..4).map(|_| later(&turns, 1)).collect();
        assert_eq!(turns.acquire(asker(1)).err(), Some(QueueFull));
        let mut other = later(&turns, 2);
        assert!(matches!(poll(&mut flood[3]), Some(Err(QueueFull))), "its newest one");
        let mut same = later(&turns, 2);
        assert!(matches!(poll(&mut flood[2]), Some(Err(QueueFull))));
        assert_eq!(turns.acquire(asker(2)).err(), Some(QueueFull), "it has as many as the first");
        assert!(poll(&mut other).is_none() && poll(&mut same).is_none());
        assert_eq!(Turns::new(0, 0).acquire(asker(1)).err(), Some(QueueFull));
    }

    #[test]
    fn what_is_given_up_leaves_nothing() {
        let turns = Turns::new(1, 4);
        let turn = now(&turns, 1);
        let (given_up, granted, mut last) = (later(&turns, 1), later(&turns, 2), later(&turns, 3));
        drop(given_up);
        drop(turn);
        // It is granted and not seen: the next one has it.
        drop(granted);
        drop(self::granted(&mut last));
        let state = turns.shared.lock();
        assert!(state.in_use == 0 && state.waiting == 0);
        assert!(state.held.is_empty() && state.queues.is_empty() && state.order.is_empty());
    }
}
