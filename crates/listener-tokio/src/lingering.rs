//! Closing a connection without losing the answer (RFC 9112 9.6).
//!
//! If a socket is closed while bytes of the peer are unread, the kernel sends a reset, and the peer loses the
//! answer that it has not read yet. Such bytes are the rest of a body after an early answer, requests sent
//! ahead, and what a client sends after a handshake that failed. So the write side is shut down first, and
//! what still comes is read and discarded until the peer closes, within limits.
//!
//! Over HTTP/2 an early answer ends its stream alone. The stream is not reset while its client sends on, also
//! within these limits: curl up to version 8 loses an answer that a reset follows, although the reset has
//! NO_ERROR (RFC 9113 8.1).

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::runtime::Handle;
use tokio::time::{Instant, Sleep, sleep_until, timeout_at};

/// What a peer may still send after the answer.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// How long it may take to close, however busily it sends.
    pub timeout: Duration,
    /// How long it may be silent meanwhile.
    pub idle: Duration,
    /// Bytes that are discarded.
    len_max: usize,
}

/// The usual limits. Apache as a proxy sends a whole body before it reads the answer; a longer body than this
/// is cut off, and its answer may be lost. A peer that has read the answer closes at once.
pub const LIMITS: Limits =
    Limits { timeout: Duration::from_secs(10), idle: Duration::from_secs(2), len_max: 64 << 20 };
/// Discarded at once, on the stack: a lingering connection holds no memory for it.
const BUFFER_LEN: usize = 16 << 10;

/// Reads the rest of a request's body over HTTP/2 and discards it, within the limits of a lingering
/// connection. Each takes one of the streams that its client may have at once.
pub fn discard(body: Incoming) {
    if body.is_end_stream() {
        return;
    }
    // Without a runtime, its connections are gone.
    let Ok(runtime) = Handle::try_current() else { return };
    runtime.spawn(discarded(body, LIMITS));
}

async fn discarded<B: Body<Data = Bytes> + Unpin>(mut body: B, limits: Limits) {
    let (end, mut discarded) = (Instant::now() + limits.timeout, 0);
    while discarded < limits.len_max && Instant::now() < end {
        let silent = Instant::now() + limits.idle;
        let Ok(Some(Ok(frame))) = timeout_at(silent.min(end), body.frame()).await else { return };
        discarded += frame.data_ref().map_or(0, Bytes::len);
    }
}

/// A socket that is read on after its write side is shut down. It is below TLS and below everything that
/// counts bytes.
///
/// The connection keeps its permit meanwhile and is evicted like any other, so the number of lingering
/// connections is that of permits.
#[derive(Debug)]
pub struct Lingering<S> {
    stream: S,
    limits: Limits,
    state: State,
}

#[derive(Debug)]
enum State {
    Open,
    Lingering(Box<Linger>),
    Closed,
}

#[derive(Debug)]
struct Linger {
    limits: Limits,
    end: Instant,
    discarded: usize,
    timer: Pin<Box<Sleep>>,
}

impl<S> Lingering<S> {
    /// With [`LIMITS`].
    pub const fn new(stream: S) -> Self {
        Self::with_limits(stream, LIMITS)
    }

    const fn with_limits(stream: S, limits: Limits) -> Self {
        Self { stream, limits, state: State::Open }
    }
}

impl Linger {
    fn new(limits: Limits) -> Self {
        let now = Instant::now();
        let timer = Box::pin(sleep_until(now + limits.idle));
        Self { limits, end: now + limits.timeout, discarded: 0, timer }
    }

    /// Is ready when the peer has closed, or a limit is reached.
    fn poll(&mut self, stream: Pin<&mut (impl AsyncRead + ?Sized)>, cx: &mut Context<'_>) -> Poll<()> {
        let mut stream = stream;
        while self.discarded < self.limits.len_max && Instant::now() < self.end {
            let mut buffer = [MaybeUninit::uninit(); BUFFER_LEN];
            let mut buffer = ReadBuf::uninit(&mut buffer);
            match stream.as_mut().poll_read(cx, &mut buffer) {
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() => {
                    self.discarded += buffer.filled().len();
                    let silent = Instant::now() + self.limits.idle;
                    self.timer.as_mut().reset(silent.min(self.end));
                }
                Poll::Ready(_) => return Poll::Ready(()),
                Poll::Pending => return self.timer.as_mut().poll(cx),
            }
        }
        Poll::Ready(())
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Lingering<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Lingering<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    /// Shuts the write side down, and is ready when the peer has closed or a limit is reached.
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        loop {
            match &mut this.state {
                State::Open => {
                    ready!(Pin::new(&mut this.stream).poll_shutdown(cx))?;
                    this.state = State::Lingering(Box::new(Linger::new(this.limits)));
                }
                State::Lingering(linger) => {
                    ready!(linger.poll(Pin::new(&mut this.stream), cx));
                    this.state = State::Closed;
                }
                State::Closed => return Poll::Ready(Ok(())),
            }
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::StreamExt;
    use http_body_util::StreamBody;
    use hyper::body::Frame;
    use std::convert::Infallible;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};
    use tokio::time::timeout;

    async fn pair() -> (TcpStream, Lingering<TcpStream>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let client =
            TcpStream::connect(listener.local_addr().expect("an address")).await.expect("a connection");
        let (stream, _) = listener.accept().await.expect("a connection");
        (client, Lingering::new(stream))
    }

    #[tokio::test]
    async fn an_answer_arrives_although_its_client_sends_on() {
        let (mut client, mut server) = pair().await;
        let serving = tokio::spawn(async move {
            server.read_u8().await.expect("the first byte");
            server.write_all(b"answer").await.expect("it is written");
            server.shutdown().await.expect("it is closed");
        });
        client.write_all(&vec![0; 8 << 20]).await.expect("all is taken");
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.expect("no reset");
        assert_eq!(answer, "answer");
        drop(client);
        serving.await.expect("it ends");
    }

    const SHORT: Limits =
        Limits { timeout: Duration::from_millis(400), idle: Duration::from_millis(100), len_max: 4 << 20 };
    const DEADLINE: Duration = Duration::from_secs(20);

    /// Sends pieces until the peer is gone, with a pause between two: how much, and how long that took.
    async fn sent(mut client: impl AsyncWrite + Unpin, len: usize, pause: Duration) -> (usize, Duration) {
        let (piece, begun, mut sent) = (vec![0; len], Instant::now(), 0);
        let sending = async {
            while client.write_all(&piece).await.is_ok() {
                sent += len;
                tokio::time::sleep(pause).await;
            }
        };
        timeout(DEADLINE, sending).await.expect("it is cut off");
        (sent, begun.elapsed())
    }

    #[tokio::test]
    async fn a_peer_that_does_not_close_is_cut_off() {
        // Silent; slow; with too much.
        for (len, pause, least, most) in [
            (1, SHORT.timeout, SHORT.idle, 2),
            (1, SHORT.idle / 5, SHORT.timeout, 100),
            (1 << 16, Duration::ZERO, Duration::ZERO, SHORT.len_max + (1 << 17)),
        ] {
            let (client, server) = tokio::io::duplex(1 << 16);
            let serving = async {
                let begun = Instant::now();
                let mut server = Lingering::with_limits(server, SHORT);
                server.shutdown().await.expect("it is closed");
                begun.elapsed()
            };
            let ((sent, _), took) = tokio::join!(sent(client, len, pause), serving);
            assert!(sent <= most && took >= least, "{sent} bytes in {took:?}");
        }
    }

    #[tokio::test]
    async fn a_body_is_discarded_within_the_same_limits() {
        const LEN: usize = 1 << 16;
        for (pause, least, most) in [
            (SHORT.timeout, SHORT.idle, 1),
            (SHORT.idle / 5, SHORT.timeout, 100),
            (Duration::ZERO, Duration::ZERO, SHORT.len_max / LEN),
        ] {
            let (begun, count) = (Instant::now(), AtomicUsize::new(0));
            let pieces = futures_util::stream::repeat(()).then(|()| async {
                tokio::time::sleep(pause).await;
                count.fetch_add(1, Ordering::Relaxed);
                Ok::<_, Infallible>(Frame::data(Bytes::from_static(&[0; LEN])))
            });
            let discarding = discarded(StreamBody::new(Box::pin(pieces)), SHORT);
            timeout(DEADLINE, discarding).await.expect("it ends");
            let count = count.load(Ordering::Relaxed);
            assert!(begun.elapsed() >= least && count <= most, "{count} in {:?}", begun.elapsed());
        }
    }
}
