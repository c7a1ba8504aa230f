//! Encrypting the streams of several messages side by side.
//!
//! One answer has two streams of the same length, one inside the other: the generic data under the session
//! key, and the fragment that carries it. The outer one needs a byte of the inner one sixteen bytes after it
//! was made, so both run together. Fragments of one answer, and answers of several connections, fill the
//! other lanes.
//!
//! Across connections this works without timers: a message is queued when it is handed over, its task gives
//! others a turn, and the task that is polled first seals up to [`JOBS_MAX`] of the messages that are queued
//! by then.

use crate::cfb8::{LANES_MAX, Lanes};
use crate::keys::ChannelKeys;
use std::future::{Future, poll_fn};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};

/// Messages that are sealed together at most: their two streams each fill the lanes.
const JOBS_MAX: usize = LANES_MAX / 2;

/// One serial stream over bytes of a [`Job`].
#[derive(Debug)]
pub(crate) struct Stream {
    position: usize,
    end: usize,
    register: [u8; 16],
}

impl Stream {
    const fn new(iv: [u8; 16], range: Range<usize>) -> Self {
        Self { position: range.start, end: range.end, register: iv }
    }

    const fn is_done(&self) -> bool {
        self.position >= self.end
    }
}

/// The part of a message that one fragment carries.
#[derive(Debug)]
struct Fragment {
    /// Where its body starts in the plain bytes.
    plain_start: usize,
    /// Where the same byte goes on the wire.
    wire_start: usize,
    /// The confounder's eight bytes on the wire. The stream starts with them.
    confounder_start: usize,
    /// Over the confounder and the body, as if they stood one behind the other; `position` counts from the
    /// confounder.
    stream: Stream,
}

const CONFOUNDER_LEN: usize = 8;

/// A message to be encrypted.
#[derive(Debug)]
pub(crate) struct Job {
    keys: Arc<ChannelKeys>,
    /// The stub with the padding of its last fragment: inner encryption happens in here, and signatures cover
    /// it.
    pub(crate) plain: Vec<u8>,
    /// What will be sent: headers, trailers and confounders are in place.
    pub(crate) wire: Vec<u8>,
    inner: Stream,
    fragments: Vec<Fragment>,
}

impl Job {
    /// A message of which `inner` is to be encrypted in `plain` with a zero initialisation vector.
    pub(crate) fn new(keys: Arc<ChannelKeys>, plain: Vec<u8>, inner: Range<usize>, wire: Vec<u8>) -> Self {
        Self { keys, plain, wire, inner: Stream::new([0; 16], inner), fragments: Vec::new() }
    }

    /// Adds a fragment: `body` of the plain bytes is sent at `wire_start`, after the confounder that stands
    /// at `confounder_start`.
    pub(crate) fn fragment(
        &mut self,
        iv: [u8; 16],
        body: Range<usize>,
        wire_start: usize,
        confounder_start: usize,
    ) {
        self.fragments.push(Fragment {
            plain_start: body.start,
            wire_start,
            confounder_start,
            stream: Stream::new(iv, 0..CONFOUNDER_LEN + body.len()),
        });
    }

    fn is_done(&self) -> bool {
        self.inner.is_done() && self.fragments.iter().all(|fragment| fragment.stream.is_done())
    }

    /// Puts the next step of each stream that can go on into `lanes`.
    fn load<'k>(
        &self,
        keys: &'k ChannelKeys,
        lanes: &mut Lanes<'k, LANES_MAX>,
        mut origin: impl FnMut(Option<usize>),
    ) {
        if !self.inner.is_done() && !lanes.is_full() {
            let block = block(&self.plain[self.inner.position..self.inner.end]);
            lanes.push(&keys.inner, self.inner.register, block);
            origin(None);
        }
        for (at, fragment) in self.fragments.iter().enumerate() {
            let stream = &fragment.stream;
            if stream.is_done() || lanes.is_full() {
                continue;
            }
            // The first step is the confounder and half a block of body; the others are shifted by that half.
            let half = if stream.position == 0 { CONFOUNDER_LEN } else { 0 };
            let from = fragment.plain_start + (stream.position + half - CONFOUNDER_LEN);
            let to = fragment.plain_start + ((stream.position + 16).min(stream.end) - CONFOUNDER_LEN);
            let waits = to > self.inner.position && from < self.inner.end;
            if waits && !self.inner.is_done() {
                continue;
            }
            let mut block = block(&self.plain[from..to]);
            if half > 0 {
                block.copy_within(..CONFOUNDER_LEN, CONFOUNDER_LEN);
                block[..CONFOUNDER_LEN]
                    .copy_from_slice(&self.wire[fragment.confounder_start..][..CONFOUNDER_LEN]);
            }
            lanes.push(&keys.outer, stream.register, block);
            origin(Some(at));
        }
    }

    fn store(&mut self, stream: Option<usize>, output: [u8; 16]) {
        let Some(at) = stream else {
            let Stream { position, end, .. } = self.inner;
            put(&mut self.plain[position..end], &output);
            self.inner.register = output;
            self.inner.position = (position + 16).min(end);
            return;
        };
        let fragment = &mut self.fragments[at];
        let Stream { position, end, .. } = fragment.stream;
        let body_end = fragment.wire_start + (end - CONFOUNDER_LEN);
        if position == 0 {
            self.wire[fragment.confounder_start..][..CONFOUNDER_LEN]
                .copy_from_slice(&output[..CONFOUNDER_LEN]);
            put(&mut self.wire[fragment.wire_start..body_end], &output[CONFOUNDER_LEN..]);
        } else {
            put(&mut self.wire[fragment.wire_start + (position - CONFOUNDER_LEN)..body_end], &output);
        }
        fragment.stream.register = output;
        fragment.stream.position = (position + 16).min(end);
    }
}

/// The first sixteen bytes, filled up with zeroes where there are fewer. Nearly always they are there, and of
/// a known length they are one load.
fn block(bytes: &[u8]) -> [u8; 16] {
    bytes.first_chunk().copied().unwrap_or_else(|| {
        let mut block = [0; 16];
        block[..bytes.len()].copy_from_slice(bytes);
        block
    })
}

/// Puts as many bytes of `output` to the front of `bytes` as there is room for.
fn put(bytes: &mut [u8], output: &[u8]) {
    match (bytes.first_chunk_mut::<16>(), output.first_chunk::<16>()) {
        (Some(bytes), Some(output)) => *bytes = *output,
        _ => {
            let len = bytes.len().min(output.len());
            bytes[..len].copy_from_slice(&output[..len]);
        }
    }
}

/// Encrypts all jobs, as many streams side by side as there are lanes.
pub(crate) fn run(jobs: &mut [Job]) {
    let keys: Vec<Arc<ChannelKeys>> = jobs.iter().map(|job| Arc::clone(&job.keys)).collect();
    let mut lanes = Lanes::new();
    let mut origins = Vec::with_capacity(LANES_MAX);
    let mut first = 0;
    while first < jobs.len() {
        if jobs[first].is_done() {
            first += 1;
            continue;
        }
        for (at, job) in jobs.iter().enumerate().skip(first) {
            job.load(&keys[at], &mut lanes, |stream| origins.push((at, stream)));
        }
        lanes.encrypt();
        for (lane, (job, stream)) in origins.drain(..).enumerate() {
            jobs[job].store(stream, lanes.register(lane));
        }
        lanes.clear();
    }
}

/// Where messages of all connections of a server or client wait to be sealed together.
#[derive(Clone, Debug, Default)]
pub struct Sealer {
    queue: Arc<Mutex<Queue>>,
}

type Queue = Vec<(Job, Arc<Slot>)>;

/// Where a finished job is put for the task that waits for it.
#[derive(Debug, Default)]
struct Slot {
    state: Mutex<(Option<Job>, Option<Waker>)>,
}

impl Sealer {
    /// Queues a job; the future encrypts it, perhaps together with others. If its task yields before it polls
    /// the future, more of them are queued. If the future is dropped, another task does the job, which costs
    /// time and nothing more.
    pub(crate) fn seal(&self, job: Job) -> impl Future<Output = Job> + Send + use<> {
        let sealer = self.clone();
        let slot = Arc::new(Slot::default());
        lock(&sealer.queue).push((job, Arc::clone(&slot)));
        poll_fn(move |cx| {
            if let Some(job) = sealer.run_batch_with(&slot) {
                return Poll::Ready(job);
            }
            // Another task took it out of the queue: it is done, or will be soon.
            let (done, waker) = &mut *lock(&slot.state);
            match done.take() {
                Some(job) => Poll::Ready(job),
                None => {
                    *waker = Some(cx.waker().clone());
                    Poll::Pending
                }
            }
        })
    }

    /// Takes the job of `own` and some others out of the queue, runs them, hands the others over and returns
    /// its own; `None` when it is not in the queue.
    fn run_batch_with(&self, own: &Arc<Slot>) -> Option<Job> {
        let mut jobs = Vec::with_capacity(JOBS_MAX);
        let mut slots = Vec::with_capacity(JOBS_MAX);
        {
            let mut queue = lock(&self.queue);
            let at = queue.iter().position(|(_, slot)| Arc::ptr_eq(slot, own))?;
            let (job, slot) = queue.swap_remove(at);
            jobs.push(job);
            slots.push(slot);
            let others = queue.len().min(JOBS_MAX - 1);
            for (job, slot) in queue.drain(..others) {
                jobs.push(job);
                slots.push(slot);
            }
        }
        run(&mut jobs);
        let mut done = jobs.into_iter();
        let own_job = done.next();
        for (job, slot) in done.zip(&slots[1..]) {
            let waker = {
                let (done, waker) = &mut *lock(&slot.state);
                *done = Some(job);
                waker.take()
            };
            waker.into_iter().for_each(Waker::wake);
        }
        own_job
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::SessionKey;
    use proptest::prelude::*;
    use std::pin::pin;
    use std::task::Context;

    fn keys(n: u8) -> Arc<ChannelKeys> {
        Arc::new(ChannelKeys::new(SessionKey::new([n; 16])))
    }

    /// A message of `len` bytes cut into fragments of at most `fragment_len`, encrypted inside from `inner`.
    fn job(n: u8, len: usize, inner: Range<usize>, fragment_len: usize) -> Job {
        let plain: Vec<u8> = (0..len).map(|at| (at as u8).wrapping_mul(n)).collect();
        let fragments: Vec<_> =
            (0..len.max(1)).step_by(fragment_len).map(|start| start..len.min(start + fragment_len)).collect();
        let wire = vec![n; len + CONFOUNDER_LEN * fragments.len()];
        let mut job = Job::new(keys(n), plain, inner, wire);
        for (at, body) in fragments.into_iter().enumerate() {
            let wire_start = body.start + CONFOUNDER_LEN * (at + 1);
            job.fragment([n ^ at as u8; 16], body, wire_start, wire_start - CONFOUNDER_LEN);
        }
        job
    }

    /// The same, one stream after the other.
    fn one_by_one(mut job: Job) -> (Vec<u8>, Vec<u8>) {
        let inner = job.inner.position..job.inner.end;
        job.keys.inner.encrypt([0; 16], &mut job.plain[inner]);
        for fragment in &job.fragments {
            let len = fragment.stream.end - CONFOUNDER_LEN;
            let mut stream = job.wire[fragment.confounder_start..][..CONFOUNDER_LEN].to_vec();
            stream.extend_from_slice(&job.plain[fragment.plain_start..][..len]);
            job.keys.outer.encrypt(fragment.stream.register, &mut stream);
            job.wire[fragment.confounder_start..][..CONFOUNDER_LEN]
                .copy_from_slice(&stream[..CONFOUNDER_LEN]);
            job.wire[fragment.wire_start..][..len].copy_from_slice(&stream[CONFOUNDER_LEN..]);
        }
        (job.plain, job.wire)
    }

    proptest! {
        #[test]
        fn lanes_make_the_bytes_that_one_stream_after_the_other_makes(
            shapes in prop::collection::vec((0..200usize, 0..200usize, 0..200usize, 1..100usize), 1..12)
        ) {
            let make = || -> Vec<Job> {
                shapes.iter().enumerate().map(|(n, (len, a, b, fragment_len))| {
                    let (a, b) = (a.min(len), b.min(len));
                    job(n as u8 + 1, *len, *a.min(b)..*a.max(b), *fragment_len)
                }).collect()
            };
            let mut jobs = make();
            run(&mut jobs);
            for (job, expect) in jobs.into_iter().zip(make()) {
                prop_assert_eq!((job.plain, job.wire), one_by_one(expect));
            }
        }
    }

    #[test]
    fn the_task_that_is_polled_first_seals_for_all() {
        let sealer = Sealer::default();
        let mut futures: Vec<_> = (1..=10).map(|n| Box::pin(sealer.seal(job(n, 100, 20..90, 64)))).collect();
        let mut cx = Context::from_waker(Waker::noop());
        assert!(futures[0].as_mut().poll(&mut cx).is_ready());
        assert_eq!(lock(&sealer.queue).len(), 10 - JOBS_MAX, "eight were done at once");
        for (n, future) in futures.iter_mut().enumerate().skip(1) {
            let Poll::Ready(done) = future.as_mut().poll(&mut cx) else { panic!("{n} is done") };
            assert_eq!((done.plain, done.wire), one_by_one(job(n as u8 + 1, 100, 20..90, 64)));
        }
    }

    #[test]
    fn a_task_that_gave_up_blocks_no_other() {
        let sealer = Sealer::default();
        let mut cx = Context::from_waker(Waker::noop());
        let mut kept = pin!(sealer.seal(job(1, 50, 0..50, 50)));
        drop(sealer.seal(job(2, 50, 0..50, 50)));
        assert!(kept.as_mut().poll(&mut cx).is_ready());
        assert!(lock(&sealer.queue).is_empty());
    }
}
