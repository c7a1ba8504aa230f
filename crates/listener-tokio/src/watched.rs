//! A stream on which something is looked at.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What is looked at.
pub(super) trait Watch {
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

#[derive(Debug)]
pub(super) struct Watched<S, W> {
    stream: S,
    watch: W,
}

impl<S, W> Watched<S, W> {
    pub(super) const fn new(stream: S, watch: W) -> Self {
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
