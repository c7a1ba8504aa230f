//! How much is read of a client that has not proved who it is.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Twice the head of a request with the longest certificate of [MS-RCMP], 64 KiB, in percent-encoded PEM: what follows the head may be read
/// with it. Each unproved connection of a listener may hold as much.
const UNPROVED_LEN_MAX: usize = 256 << 10;

/// A stream that fails once more than [`UNPROVED_LEN_MAX`] bytes were read and its client has proved nothing.
pub(super) struct Unproved<S, P> {
    stream: S,
    is_proved: P,
    /// Bytes read so far; none once there is a proof.
    read: Option<usize>,
}

impl<S, P: Fn() -> bool> Unproved<S, P> {
    pub(super) const fn new(stream: S, is_proved: P) -> Self {
        Self { stream, is_proved, read: Some(0) }
    }
}

impl<S: AsyncRead + Unpin, P: Fn() -> bool + Unpin> AsyncRead for Unproved<S, P> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        if let Some(read) = self.read {
            let read = read + buf.filled().len() - before;
            self.read = Some(read).filter(|_| !(self.is_proved)());
            if self.read.is_some_and(|read| read > UNPROVED_LEN_MAX) {
                return Poll::Ready(Err(io::Error::other("it sent too much and proved nothing")));
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin, P: Unpin> AsyncWrite for Unproved<S, P> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

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
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;
    use tokio::io::AsyncReadExt;

    #[tokio::test]
    async fn only_a_client_that_proved_itself_may_send_much() {
        let is_proved = Cell::new(false);
        let sent = vec![b'x'; 2 * UNPROVED_LEN_MAX];
        let mut stream = Unproved::new(&sent[..], || is_proved.get());
        let mut read = vec![0; UNPROVED_LEN_MAX];
        assert!(stream.read_exact(&mut read).await.is_ok());
        assert!(stream.read_u8().await.is_err());
        let mut stream = Unproved::new(&sent[..], || is_proved.get());
        assert!(stream.read_exact(&mut read).await.is_ok());
        is_proved.set(true);
        assert!(stream.read_exact(&mut read).await.is_ok());
    }
}
