//! A stream on which something is looked at.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

/// Write timeout: for a client that does not read.
pub const WRITE_TIMEOUT: Duration = Duration::from_secs(60);

/// What is looked at.
pub trait Watch {
    /// Is called before each read; an error ends the stream.
    fn before_read(&mut self, _: &mut Context<'_>) -> io::Result<()> {
        Ok(())
    }

    /// These bytes were read; an error ends the stream.
    fn read(&mut self, _: &[u8]) -> io::Result<()> {
        Ok(())
    }

    /// There is nothing more to read: the peer has closed, or reading failed.
    fn ended(&mut self) {}

    /// Is called before each write; what it returns is what the write comes to.
    fn before_write(&mut self, _: &mut Context<'_>) -> Option<Poll<io::Result<usize>>> {
        None
    }

    /// These bytes were written.
    fn wrote(&mut self, _: &[u8]) {}

    /// What a write came to.
    fn written<T>(&mut self, polled: Poll<io::Result<T>>, _: &mut Context<'_>) -> Poll<io::Result<T>> {
        polled
    }
}

/// Fails a write that gets nothing done for [`WRITE_TIMEOUT`].
#[derive(Debug, Default)]
pub struct WriteTimeout(Option<Pin<Box<Sleep>>>);

impl WriteTimeout {
    /// What a write comes to, for [`Watch::written`].
    pub fn check<T>(&mut self, polled: Poll<io::Result<T>>, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        if polled.is_ready() {
            self.0 = None;
            return polled;
        }
        let timer = self.0.get_or_insert_with(|| Box::pin(sleep(WRITE_TIMEOUT)));
        timer.as_mut().poll(cx).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }
}

/// A stream with what looks at it.
#[derive(Debug)]
pub struct Watched<S, W> {
    stream: S,
    watch: W,
}

impl<S, W> Watched<S, W> {
    /// Looks at a stream from now on.
    pub const fn new(stream: S, watch: W) -> Self {
        Self { stream, watch }
    }
}

impl<S: AsyncRead + Unpin, W: Watch + Unpin> AsyncRead for Watched<S, W> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.watch.before_read(cx)?;
        let before = buf.filled().len();
        let polled = ready!(Pin::new(&mut self.stream).poll_read(cx, buf));
        if polled.is_err() || buf.filled().len() == before && buf.remaining() > 0 {
            self.watch.ended();
        }
        polled?;
        Poll::Ready(self.watch.read(&buf.filled()[before..]))
    }
}

impl<S: AsyncWrite + Unpin, W: Watch + Unpin> AsyncWrite for Watched<S, W> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if let Some(polled) = self.watch.before_write(cx) {
            return polled;
        }
        let polled = Pin::new(&mut self.stream).poll_write(cx, buf);
        if let Poll::Ready(Ok(len)) = polled {
            self.watch.wrote(&buf[..len]);
        }
        self.watch.written(polled, cx)
    }

    /// A socket has nothing to flush, so this says nothing of whether the client reads.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if let Some(polled) = self.watch.before_write(cx) {
            return polled;
        }
        let polled = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        if let Poll::Ready(Ok(mut len)) = polled {
            for buf in bufs {
                let written = len.min(buf.len());
                self.watch.wrote(&buf[..written]);
                len -= written;
            }
        }
        self.watch.written(polled, cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[derive(Default)]
    struct Timed(WriteTimeout);

    impl Watch for Timed {
        fn written<T>(&mut self, polled: Poll<io::Result<T>>, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
            self.0.check(polled, cx)
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_does_not_read_fails_the_write_and_one_that_reads_slowly_does_not() {
        const LEN: usize = 1_000;
        for (reads, is_good) in [(true, true), (false, false)] {
            let (stream, mut peer) = tokio::io::duplex(1);
            let mut stream = Watched::new(stream, Timed::default());
            let reading = async {
                for _ in 0..if reads { LEN } else { LEN / 2 } {
                    // An octet before each timeout: it takes hours in all.
                    tokio::time::sleep(WRITE_TIMEOUT - Duration::from_secs(1)).await;
                    peer.read_u8().await.expect("it is written");
                }
                std::future::pending::<()>().await;
            };
            let written = tokio::select! {
                written = stream.write_all(&[0; LEN]) => written,
                () = reading => unreachable!(),
            };
            let failed = written.map_err(|error| error.kind());
            assert_eq!(failed, if is_good { Ok(()) } else { Err(io::ErrorKind::TimedOut) });
        }
    }
}
