//! What a client that has not proved who it is makes its connection hold, and the stream on which that is counted.
//!
//! What such a connection holds is estimated: [`FREE_LEN`] and what goes beyond it, of which all connections together have one budget
//! ([`UNPROVED_LEN_MAX`]). A connection in a usual handshake holds nothing beyond it, so no budget ends it.

use crate::sidecar::watched::Watch;
use dcerpc_tokio::ConnectionPermit;
use http::HeaderMap;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::{Sleep, sleep};

/// What all connections together hold beyond [`FREE_LEN`] each whose clients have proved nothing.
pub(super) const UNPROVED_LEN_MAX: usize = 20 << 20;
/// What each may hold in any case: its task, TLS, and the buffers of HTTP/1.1 without a request.
const FREE_LEN: usize = 20 << 10;
/// What a connection takes in a handshake, over HTTP/1.1 and over HTTP/2, without what its client sent: measured in a debug build.
const HANDSHAKE_LEN: usize = 10 << 10;
const HTTP_1_LEN: usize = 20 << 10;
const HTTP_2_LEN: usize = 36 << 10;
/// What a request takes until it is answered, beside its head.
const REQUEST_LEN: usize = 8 << 10;
/// How much of what was read may be held at once, of one head that is not whole yet and of bodies: buffers have limits of their own.
const READ_LEN_MAX: usize = 96 << 10;
/// What may have been read of the next request when one begins: a TLS record.
const READ_AHEAD_LEN: usize = 16 << 10;
/// The estimate is made anew in steps of this: most reads change nothing.
const STEP_LEN: usize = 4 << 10;
/// How long nothing can be written, because the client takes nothing.
const WRITE_TIMEOUT: Duration = Duration::from_secs(60);

/// The memory of one connection.
#[derive(Debug)]
pub(super) struct Memory {
    permit: Arc<ConnectionPermit<[u8; 32]>>,
    is_proved: AtomicBool,
    held: Mutex<Held>,
}

#[derive(Debug)]
struct Held {
    connection: usize,
    /// Of requests that are not answered.
    requests: usize,
    /// Bytes that came since the last request began.
    read: usize,
    /// What the permit knows.
    told: usize,
}

/// A request's memory, until it is dropped.
#[derive(Debug)]
pub(super) struct RequestMemory {
    memory: Arc<Memory>,
    len: usize,
}

impl Memory {
    pub(super) fn new(permit: Arc<ConnectionPermit<[u8; 32]>>) -> Arc<Self> {
        let held = Held { connection: HANDSHAKE_LEN, requests: 0, read: 0, told: 0 };
        Arc::new(Self { permit, is_proved: AtomicBool::new(false), held: Mutex::new(held) })
    }

    /// The handshake is over.
    pub(super) fn established(&self, is_http2: bool) {
        self.change(|held| {
            held.connection = if is_http2 { HTTP_2_LEN } else { HTTP_1_LEN };
            held.read = held.read.min(READ_AHEAD_LEN);
        });
    }

    /// The client has proved who it is: nothing is counted any more.
    pub(super) fn proved(&self) {
        self.is_proved.store(true, Ordering::Relaxed);
    }

    /// A request with this head begins.
    pub(super) fn begin(self: &Arc<Self>, head: &HeaderMap) -> RequestMemory {
        // What is not counted when it begins is not when it ends.
        let is_counted = !self.is_proved.load(Ordering::Relaxed);
        let fields = || head.iter().map(|(name, value)| name.as_str().len() + value.len()).sum::<usize>();
        let len = if is_counted { REQUEST_LEN + fields() } else { 0 };
        self.change(|held| {
            held.requests += len;
            held.read = held.read.min(READ_AHEAD_LEN);
        });
        RequestMemory { memory: Arc::clone(self), len }
    }

    fn change(&self, change: impl FnOnce(&mut Held)) {
        if self.is_proved.load(Ordering::Relaxed) {
            return;
        }
        let mut held: MutexGuard<'_, Held> = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut held);
        // Buffers grow by doubling.
        let len = held.connection + held.requests + 2 * held.read.min(READ_LEN_MAX);
        let beyond = len.saturating_sub(FREE_LEN).next_multiple_of(STEP_LEN);
        if beyond != held.told {
            held.told = beyond;
            self.permit.hold(beyond);
        }
    }
}

impl Drop for RequestMemory {
    fn drop(&mut self) {
        self.memory.change(|held| held.requests = held.requests.saturating_sub(self.len));
    }
}

/// Counts what a client sends, and does not wait for ever for one that reads nothing.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) memory: Arc<Memory>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Client {
    pub(super) const fn new(memory: Arc<Memory>) -> Self {
        Self { memory, timer: None }
    }
}

impl Watch for Client {
    fn read(&mut self, len: usize) -> io::Result<()> {
        self.memory.change(|held| held.read = held.read.saturating_add(len));
        Ok(())
    }

    fn written<T>(&mut self, polled: Poll<io::Result<T>>, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        if polled.is_ready() {
            self.timer = None;
            return polled;
        }
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep(WRITE_TIMEOUT)));
        timer.as_mut().poll(cx).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }
}
