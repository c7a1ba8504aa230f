//! How much is read of a client that has not proved who it is.

use dcerpc::limits::source_of;
use dcerpc::quota::{FairTable, Ticket};
use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// What each unproved connection of a listener may hold: the head of a request with a usual certificate and its chain.
const SHORT_LEN_MAX: usize = 16 << 10;
/// What it may hold if it is one of the [`LONG_MAX`]: twice the head of a request with the longest certificate of [MS-RCMP], 64 KiB, in
/// percent-encoded PEM, because what follows the head may be read with it.
const LONG_LEN_MAX: usize = 256 << 10;
/// How many may hold as much: 128 MiB in all.
const LONG_MAX: usize = 512;

/// The unproved connections of a listener that have sent more than [`SHORT_LEN_MAX`] bytes. The oldest one of the address with most of
/// them is closed for a new one.
#[derive(Clone, Debug)]
pub(super) struct Long(Arc<Mutex<FairTable<IpAddr, CancellationToken>>>);

impl Long {
    pub(super) fn new() -> Self {
        Self(Arc::new(Mutex::new(FairTable::new(LONG_MAX, LONG_MAX))))
    }

    fn lock(&self) -> MutexGuard<'_, FairTable<IpAddr, CancellationToken>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn insert(&self, address: IpAddr) -> LongEntry {
        let token = CancellationToken::new();
        let (ticket, evicted) = self.lock().insert(source_of(address), token.clone());
        if let Some((_, evicted)) = evicted {
            evicted.cancel();
        }
        LongEntry { long: self.clone(), ticket, evicted: Box::pin(token.cancelled_owned()) }
    }
}

/// The entry of one connection, removed when it is dropped.
struct LongEntry {
    long: Long,
    ticket: Ticket,
    /// Is ready once the connection has to make room for another long one.
    evicted: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl Drop for LongEntry {
    fn drop(&mut self) {
        self.long.lock().remove(self.ticket);
    }
}

/// A stream of which no more is read than an unproved connection may hold, until its client has proved who it is.
pub(super) struct Unproved<S, P> {
    stream: S,
    is_proved: P,
    /// Bytes read so far; none once there is a proof.
    read: Option<usize>,
    long: Long,
    source: IpAddr,
    /// If more than [`SHORT_LEN_MAX`] bytes were read without a proof.
    entry: Option<LongEntry>,
}

impl<S, P: Fn() -> bool> Unproved<S, P> {
    /// `source` is the address that the connection counts for.
    pub(super) const fn new(stream: S, is_proved: P, long: Long, source: IpAddr) -> Self {
        Self { stream, is_proved, read: Some(0), long, source, entry: None }
    }

    fn count(&mut self, len: usize) -> io::Result<()> {
        let Some(read) = self.read else { return Ok(()) };
        if (self.is_proved)() {
            (self.read, self.entry) = (None, None);
            return Ok(());
        }
        let read = read + len;
        self.read = Some(read);
        if read > LONG_LEN_MAX {
            return Err(io::Error::other("it sent too much and proved nothing"));
        }
        if read > SHORT_LEN_MAX && self.entry.is_none() {
            self.entry = Some(self.long.insert(self.source));
        }
        Ok(())
    }
}

impl<S: AsyncRead + Unpin, P: Fn() -> bool + Unpin> AsyncRead for Unproved<S, P> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.entry.as_mut().is_some_and(|entry| entry.evicted.as_mut().poll(cx).is_ready()) {
            return Poll::Ready(Err(io::Error::other("it made room for another one and proved nothing")));
        }
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        let len = buf.filled().len() - before;
        Poll::Ready(self.count(len))
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
    use std::net::Ipv4Addr;
    use tokio::io::AsyncReadExt;

    const SOURCE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    #[tokio::test]
    async fn only_a_client_that_proved_itself_may_send_much() {
        let is_proved = Cell::new(false);
        let sent = vec![b'x'; 2 * LONG_LEN_MAX];
        let mut stream = Unproved::new(&sent[..], || is_proved.get(), Long::new(), SOURCE);
        let mut read = vec![0; LONG_LEN_MAX];
        assert!(stream.read_exact(&mut read).await.is_ok());
        assert!(stream.read_u8().await.is_err());
        let mut stream = Unproved::new(&sent[..], || is_proved.get(), Long::new(), SOURCE);
        assert!(stream.read_exact(&mut read).await.is_ok());
        is_proved.set(true);
        assert!(stream.read_exact(&mut read).await.is_ok());
    }

    #[tokio::test]
    async fn few_clients_may_send_much_at_once() {
        let long = Long::new();
        let sent = vec![b'x'; LONG_LEN_MAX];
        let mut read = vec![0; SHORT_LEN_MAX + 1];
        let mut first = Unproved::new(&sent[..], || false, long.clone(), SOURCE);
        assert!(first.read_exact(&mut read).await.is_ok());
        let mut short = Unproved::new(&sent[..], || false, long.clone(), SOURCE);
        assert!(short.read_exact(&mut read[1..]).await.is_ok());
        let mut others = Vec::new();
        for _ in 0..LONG_MAX {
            assert!(first.read_u8().await.is_ok());
            let mut other = Unproved::new(&sent[..], || false, long.clone(), SOURCE);
            assert!(other.read_exact(&mut read).await.is_ok());
            others.push(other);
        }
        assert!(first.read_u8().await.is_err(), "the oldest makes room");
        assert!(others[0].read_u8().await.is_ok());
        assert!(short.read_exact(&mut read[..SHORT_LEN_MAX]).await.is_ok());
        assert!(others[0].read_u8().await.is_err());
    }
}
