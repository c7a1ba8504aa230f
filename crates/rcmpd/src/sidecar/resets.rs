//! Requests that HTTP/2 itself rejects, before a handler has one to answer: they are told from what is written to the client.

use super::watched::Watch;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The head of a frame (RFC 9113, section 4.1): length (3), type (1), flags (1), stream identifier (4).
const FRAME_HEAD_LEN: usize = 9;
pub(super) const DATA: u8 = 0;
pub(super) const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
/// Of DATA and HEADERS: the last frame of its stream.
const END_STREAM: u8 = 1;
/// Streams that are kept: more than a connection has at once. A client that resets its streams ends them without a frame of ours.
const ANSWERED_MAX: usize = 512;

/// Where the heads of frames are in what is read or written.
#[derive(Debug)]
pub(super) struct Heads {
    head: [u8; FRAME_HEAD_LEN],
    len: usize,
    /// What is left of the preface, or of the payload of a frame.
    left: usize,
}

impl Heads {
    /// `left` bytes come before the first frame.
    pub(super) const fn new(left: usize) -> Self {
        Self { head: [0; FRAME_HEAD_LEN], len: 0, left }
    }

    /// What is left of the payload of the last frame.
    pub(super) const fn left(&self) -> usize {
        self.left
    }

    /// The stream of the last frame.
    const fn stream(&self) -> u32 {
        let [.., a, b, c, d] = self.head;
        u32::from_be_bytes([a, b, c, d])
    }

    /// The type and the flags of the next head that is complete, whose payload follows in `bytes`.
    pub(super) fn next(&mut self, bytes: &mut &[u8]) -> Option<(u8, u8)> {
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

/// Tells of requests that HTTP/2 itself rejects: of RST_STREAM with a code that says so, and of HEADERS that no handler has answered with.
pub(super) struct Resets {
    heads: Heads,
    /// The code as far as it was written, in a frame of this type.
    code: u32,
    /// Streams whose answer has begun, the oldest first. Their next HEADERS are trailers.
    answered: Vec<u32>,
    /// Answers of handlers whose HEADERS are not written.
    answers: Arc<AtomicUsize>,
    rejected: Box<dyn Fn(&'static str) + Send>,
}

impl std::fmt::Debug for Resets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Resets").finish_non_exhaustive()
    }
}

impl Resets {
    /// `answers` is counted up with each answer of a handler.
    pub(super) fn new(answers: Arc<AtomicUsize>, rejected: Box<dyn Fn(&'static str) + Send>) -> Self {
        Self { heads: Heads::new(0), code: 0, answered: Vec::new(), answers, rejected }
    }

    fn frame(&mut self, kind: u8, flags: u8) {
        let stream = self.heads.stream();
        let begun = self.answered.iter().position(|answered| *answered == stream);
        let one_less = |answers: usize| answers.checked_sub(1);
        match (kind, begun) {
            (HEADERS, None) => {
                if self.answers.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less).is_err() {
                    (self.rejected)("431: the headers are too long");
                }
                if flags & END_STREAM == 0 {
                    if self.answered.len() == ANSWERED_MAX {
                        self.answered.remove(0);
                    }
                    self.answered.push(stream);
                }
            }
            (HEADERS | DATA, Some(at)) if flags & END_STREAM != 0 => _ = self.answered.remove(at),
            (RST_STREAM, Some(at)) => _ = self.answered.remove(at),
            _ => {}
        }
    }
}

impl Watch for Resets {
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
            let Some((kind, flags)) = self.heads.next(&mut bytes) else { return };
            self.frame(kind, flags);
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
        [&(payload.len() as u32).to_be_bytes()[1..], &[kind, flags, 0, 0, 0, stream], payload].concat()
    }

    /// Answers of handlers before these frames, and how many rejections are told of.
    fn told(answers: usize, frames: &[Vec<u8>]) -> usize {
        let told = Arc::new(Mutex::new(0));
        let count = Arc::clone(&told);
        let rejected = move |_: &'static str| *count.lock().expect("no test panics with it") += 1;
        let mut resets = Resets::new(Arc::new(AtomicUsize::new(answers)), Box::new(rejected));
        // However they are cut.
        for byte in frames.concat() {
            resets.wrote(&[byte]);
        }
        let told = *told.lock().expect("no test panics with it");
        assert!(resets.answered.is_empty(), "{:?}", resets.answered);
        told
    }

    #[test]
    fn answers_of_handlers_are_no_rejections() {
        let (head, last_head) = (|id| frame(HEADERS, 4, id, b"h"), |id| frame(HEADERS, 5, id, b"h"));
        let (data, last_data) = (|id| frame(DATA, 0, id, b"data"), |id| frame(DATA, 1, id, b""));
        // With a body, with none, and with trailers, two of them at once.
        assert_eq!(told(1, &[head(1), data(1), last_data(1)]), 0);
        assert_eq!(told(1, &[last_head(1)]), 0);
        assert_eq!(told(2, &[head(1), head(3), data(3), last_head(1), data(3), last_head(3)]), 0);
        // A stream that is reset has no trailers, and codes that a client's own end has say nothing.
        assert_eq!(told(2, &[head(1), frame(RST_STREAM, 0, 1, &[0, 0, 0, 8]), last_head(3)]), 0);
        // A client that reads no answer to its end makes nothing grow.
        let mut resets = Resets::new(Arc::new(AtomicUsize::new(2000)), Box::new(|why| panic!("{why}")));
        for _ in 0..2000 {
            resets.wrote(&head(1));
            resets.heads.head[8] = 0;
            resets.answered.iter_mut().for_each(|stream| *stream += 2);
        }
        assert_eq!(resets.answered.len(), ANSWERED_MAX);
        // 431 comes from no handler, whatever else is answered.
        assert_eq!(told(0, &[last_head(1)]), 1);
        assert_eq!(told(1, &[head(1), data(1), last_head(3), last_head(1)]), 1);
        for code in [1, 3, 6, 7] {
            assert_eq!(told(0, &[frame(RST_STREAM, 0, 1, &[0, 0, 0, code])]), 1);
        }
    }
}
