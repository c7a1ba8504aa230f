//! What a client that has not proved who it is makes its connection hold, and the stream on which that is
//! counted.
//!
//! What such a connection holds is estimated: [`FREE_LEN`] and what goes beyond it, of which all connections
//! together have one budget ([`UNPROVED_LEN_MAX`]). A connection in a usual handshake holds nothing beyond
//! it, so no budget ends it.

use dcerpc_tokio::ConnectionPermit;
use http::HeaderMap;
use listener_tokio::watched::{Watch, WriteTimeout};
use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

/// What all connections together hold beyond [`FREE_LEN`] each whose clients have proved nothing.
pub(super) const UNPROVED_LEN_MAX: usize = 16 << 20;
/// What each may hold in any case: its task, TLS, and the buffers of HTTP/1.1 without a request.
const FREE_LEN: usize = 20 << 10;
/// What a connection takes in a handshake, over HTTP/1.1 and over HTTP/2, without what its client sent:
/// measured in a debug build.
const HANDSHAKE_LEN: usize = 10 << 10;
const HTTP_1_LEN: usize = 20 << 10;
const HTTP_2_LEN: usize = 36 << 10;
/// What a request takes until it is answered, beside its head.
const REQUEST_LEN: usize = 8 << 10;
/// How much of what was read may be held at once, of one head that is not whole yet and of bodies: buffers
/// have limits of their own.
const READ_LEN_MAX: usize = 96 << 10;
/// The same of bodies over HTTP/2: the window of an unproved connection.
const DATA_LEN_MAX: usize = super::UNPROVED_CONNECTION_WINDOW as usize;
/// What may have been read of the next request when one begins: a TLS record.
const READ_AHEAD_LEN: usize = 16 << 10;
/// The estimate is made anew in steps of this: most reads change nothing.
const STEP_LEN: usize = 4 << 10;

/// The memory of one connection.
#[derive(Debug)]
pub(super) struct Memory {
    permit: Arc<ConnectionPermit<[u8; 32]>>,
    is_proved: AtomicBool,
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    connection: usize,
    is_http2: bool,
    /// Of requests that are not answered, and how many these are.
    requests: usize,
    open: usize,
    /// Bytes that came in the handshake, and over HTTP/1.1 since the last request began.
    read: usize,
    /// Over HTTP/2: bytes of the header block that has not ended, bytes of bodies since no request was open,
    /// and by how many there were more header blocks than requests.
    block: usize,
    data: usize,
    blocks_ahead: usize,
    /// The bytes that were last reported to the permit.
    reported: usize,
}

/// A request's memory, until it is dropped.
#[derive(Debug)]
pub(super) struct RequestMemory {
    memory: Arc<Memory>,
    len: usize,
}

impl Memory {
    pub(super) fn new(permit: Arc<ConnectionPermit<[u8; 32]>>) -> Arc<Self> {
        let held = Held { connection: HANDSHAKE_LEN, ..Held::default() };
        Arc::new(Self { permit, is_proved: AtomicBool::new(false), held: Mutex::new(held) })
    }

    /// The handshake is over.
    pub(super) fn established(&self, is_http2: bool) {
        self.change(|held| {
            held.connection = if is_http2 { HTTP_2_LEN } else { HTTP_1_LEN };
            held.is_http2 = is_http2;
            held.read = if is_http2 { 0 } else { held.read.min(READ_AHEAD_LEN) };
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
            held.open += usize::from(is_counted);
            held.blocks_ahead = held.blocks_ahead.saturating_sub(1);
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
        let growing = 2 * (held.read + held.block).min(READ_LEN_MAX);
        let len = held.connection + held.requests + growing + held.data.min(DATA_LEN_MAX);
        let beyond = len.saturating_sub(FREE_LEN).next_multiple_of(STEP_LEN);
        if beyond != held.reported {
            held.reported = beyond;
            self.permit.hold(beyond);
        }
    }
}

impl Drop for RequestMemory {
    fn drop(&mut self) {
        self.memory.change(|held| {
            held.requests = held.requests.saturating_sub(self.len);
            held.open = held.open.saturating_sub(usize::from(self.len > 0));
            if held.open == 0 && held.blocks_ahead == 0 {
                held.data = 0;
            }
        });
    }
}

/// A TCP stream with a write timeout, which counts what its client sends.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) memory: Arc<Memory>,
    timeout: WriteTimeout,
}

impl Client {
    pub(super) fn new(memory: Arc<Memory>) -> Self {
        Self { memory, timeout: WriteTimeout::default() }
    }
}

impl Watch for Client {
    fn read(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.memory.change(|held| {
            if !held.is_http2 {
                held.read = held.read.saturating_add(bytes.len());
            }
        });
        Ok(())
    }

    fn written<T>(&mut self, polled: Poll<io::Result<T>>, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        self.timeout.check(polled, cx)
    }
}

/// The preface of HTTP/2 (RFC 9113, section 3.4).
const PREFACE_LEN: usize = 24;
/// The head of a frame (RFC 9113, section 4.1): length (3), type (1), flags (1), stream identifier (4).
const FRAME_HEAD_LEN: usize = 9;
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const CONTINUATION: u8 = 9;
const END_HEADERS: u8 = 4;

/// Reads of an unproved HTTP/2 connection which header blocks have not ended. A block may come in any number
/// of frames, no timer ends it, and no request is there before its end.
#[derive(Debug)]
pub(super) struct Frames {
    /// If frames are looked at.
    memory: Option<Arc<Memory>>,
    heads: Heads,
    /// The newest stream, and whether the last header block was for that one again, or for an older one:
    /// trailers.
    newest: u32,
    is_trailers: bool,
    resets: Option<Resets>,
}

/// Where the heads of frames are in what is read or written.
#[derive(Debug)]
struct Heads {
    head: [u8; FRAME_HEAD_LEN],
    len: usize,
    /// What is left of the preface, or of the payload of a frame.
    left: usize,
}

/// Tells of requests that HTTP/2 itself rejects: of RST_STREAM with a code that says so, and of HEADERS that
/// no handler has answered with.
pub(crate) struct Resets {
    heads: Heads,
    /// The code as far as it was written, in a frame of this type.
    code: u32,
    /// HEADERS of handlers that are not written: of answers and of trailers.
    answers: Arc<AtomicUsize>,
    rejected: Box<dyn Fn(&'static str) + Send>,
}

impl std::fmt::Debug for Resets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Resets").finish_non_exhaustive()
    }
}

impl Heads {
    const fn new(left: usize) -> Self {
        Self { head: [0; FRAME_HEAD_LEN], len: 0, left }
    }

    /// The stream of the last head (RFC 9113, section 4.1).
    const fn stream(&self) -> u32 {
        let [.., a, b, c, d] = self.head;
        u32::from_be_bytes([a, b, c, d]) & (u32::MAX >> 1)
    }

    /// The next head that is complete, whose payload follows in `bytes`.
    fn next(&mut self, bytes: &mut &[u8]) -> Option<(u8, u8)> {
        loop {
            let skipped = self.left.min(bytes.len());
            self.left -= skipped;
            *bytes = &bytes[skipped..];
            let (first, rest) = bytes.split_first()?;
            self.head[self.len] = *first;
            self.len += 1;
            *bytes = rest;
            if self.len == FRAME_HEAD_LEN {
                self.len = 0;
                let [a, b, c, kind, flags, ..] = self.head;
                self.left = u32::from_be_bytes([0, a, b, c]) as usize;
                return Some((kind, flags));
            }
        }
    }
}

impl Resets {
    /// `answers` is counted up with each answer of a handler, and with its trailers.
    pub(crate) fn new(answers: Arc<AtomicUsize>, rejected: Box<dyn Fn(&'static str) + Send>) -> Self {
        Self { heads: Heads::new(0), code: 0, answers, rejected }
    }

    fn wrote(&mut self, mut bytes: &[u8]) {
        loop {
            // The payload of RST_STREAM is its code (RFC 9113, section 6.4).
            while self.heads.len == 0 && self.heads.left > 0 && self.heads.head[3] == RST_STREAM {
                let Some((first, rest)) = bytes.split_first() else { return };
                bytes = rest;
                self.heads.left -= 1;
                self.code = self.code << 8 | u32::from(*first);
                if self.heads.left == 0
                    && let Some(why) = rejected(self.code)
                {
                    (self.rejected)(why);
                }
            }
            let Some((kind, _)) = self.heads.next(&mut bytes) else { return };
            let one_less = |answers: usize| answers.checked_sub(1);
            if kind == HEADERS
                && self.answers.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less).is_err()
            {
                (self.rejected)("431: the headers are too long");
            }
        }
    }
}

impl Watch for Resets {
    fn wrote(&mut self, bytes: &[u8]) {
        Self::wrote(self, bytes);
    }
}

/// What a code of HTTP/2 (RFC 9113, section 7) says of a request that was rejected.
const fn rejected(code: u32) -> Option<&'static str> {
    match code {
        0x1 => Some("PROTOCOL_ERROR: the request is malformed"),
        0x3 => Some("FLOW_CONTROL_ERROR: more was sent than the window allows"),
        0x6 => Some("FRAME_SIZE_ERROR: a frame has a wrong length"),
        0x7 => Some("REFUSED_STREAM: the headers are too long, or there are too many streams"),
        _ => None,
    }
}

impl Frames {
    pub(super) fn new(memory: &Arc<Memory>, is_http2: bool, resets: Option<Resets>) -> Self {
        let is_counted = is_http2 && !memory.is_proved.load(Ordering::Relaxed);
        let memory = is_counted.then(|| Arc::clone(memory));
        Self { memory, heads: Heads::new(PREFACE_LEN), newest: 0, is_trailers: false, resets }
    }
}

impl Watch for Frames {
    fn read(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        let Some(memory) = &self.memory else { return Ok(()) };
        let (heads, newest, is_trailers) = (&mut self.heads, &mut self.newest, &mut self.is_trailers);
        memory.change(|held| {
            while let Some((kind, flags)) = heads.next(&mut bytes) {
                if kind == HEADERS {
                    // A client numbers its streams upwards (RFC 9113, section 5.1.1).
                    *is_trailers = heads.stream() <= *newest;
                    *newest = heads.stream().max(*newest);
                }
                // A frame that has begun counts as a whole: its buffer is there.
                match kind {
                    HEADERS | CONTINUATION if flags & END_HEADERS != 0 => {
                        held.block = 0;
                        held.blocks_ahead += usize::from(!*is_trailers);
                    }
                    HEADERS | CONTINUATION => held.block = held.block.saturating_add(heads.left),
                    DATA => held.data = held.data.saturating_add(heads.left),
                    _ => {}
                }
            }
        });
        Ok(())
    }

    fn wrote(&mut self, bytes: &[u8]) {
        if let Some(resets) = &mut self.resets {
            resets.wrote(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dcerpc_tokio::{ConnectionLimiter, ConnectionLimits};
    use http::HeaderValue;

    fn frame(kind: u8, flags: u8, len: usize) -> Vec<u8> {
        on_stream(1, kind, flags, len)
    }

    fn on_stream(stream: u8, kind: u8, flags: u8, len: usize) -> Vec<u8> {
        [&(len as u32).to_be_bytes()[1..], &[kind, flags, 0, 0, 0, stream], &vec![0; len]].concat()
    }

    #[test]
    fn what_an_unproved_client_makes_a_connection_hold_is_charged() {
        let limits = ConnectionLimits {
            unproved_max: 4,
            started_max: 4,
            unproved_per_address_max: 4,
            proved_max: 4,
            proved_per_identity_max: 4,
        };
        let limiter = ConnectionLimiter::with_memory(limits, 1 << 20);
        let permit = Arc::new(limiter.admit([192, 0, 2, 1].into()));
        let memory = Memory::new(Arc::clone(&permit));
        let held = || limiter.unproved_bytes();
        let mut client = Client::new(Arc::clone(&memory));
        client.read(&[0; 4096]).expect("it is read");
        assert_eq!(held(), 0, "a usual handshake");
        client.read(&[0; 40 << 10]).expect("it is read");
        assert!(held() >= 64 << 10, "a long one: {}", held());
        memory.established(true);
        let idle = held();
        assert!((1..=16 << 10).contains(&idle), "{idle}");

        let mut frames = Frames::new(&memory, true, None);
        let preface = [&[0; PREFACE_LEN][..], &frame(4, 0, 6)].concat();
        let block = [frame(HEADERS, 0, 16_000), frame(CONTINUATION, 0, 16_000)].concat();
        // However it is cut.
        for byte in preface.iter().chain(&block) {
            frames.read(&[*byte]).expect("it is read");
        }
        assert!(held() >= idle + (60 << 10), "a header block that has not ended: {}", held());
        frames.read(&frame(CONTINUATION, END_HEADERS, 100)).expect("it is read");
        assert_eq!(held(), idle);
        let mut head = HeaderMap::new();
        head.insert("x-long", HeaderValue::from_bytes(&[b'a'; 32_000]).expect("it is a value"));
        let request = memory.begin(&head);
        assert!(held() >= idle + 40_000, "a head until its request is answered: {}", held());
        frames.read(&frame(DATA, 0, 50_000)).expect("it is read");
        assert!(held() >= idle + 88_000, "and its body: {}", held());
        // Another head came before the first request is answered.
        frames.read(&on_stream(3, HEADERS, END_HEADERS, 100)).expect("it is read");
        drop(request);
        assert!(held() >= idle + 48_000, "whose body may be part of it: {}", held());
        drop(memory.begin(&HeaderMap::new()));
        assert_eq!(held(), idle);
        // Trailers begin no request, so nothing is left of theirs.
        frames.read(&on_stream(5, HEADERS, END_HEADERS, 100)).expect("it is read");
        let request = memory.begin(&HeaderMap::new());
        frames.read(&on_stream(5, DATA, 0, 50_000)).expect("it is read");
        frames.read(&on_stream(5, HEADERS, END_HEADERS, 100)).expect("it is read");
        drop(request);
        assert_eq!(held(), idle);
        frames.read(&on_stream(7, HEADERS, 0, 16_000)).expect("it is read");
        permit.prove([0; 32]);
        memory.proved();
        assert_eq!(held(), 0);
    }
}
