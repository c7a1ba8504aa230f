//! How much is read of a client that has not proved who it is.

use dcerpc::limits::source_of;
use dcerpc::quota::{FairTable, Ticket};
use listener_tokio::watched::Watch;
use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Context;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// What each unproved connection of a listener may hold: the head of a request with a usual certificate and
/// its chain.
const SHORT_LEN_MAX: usize = 16 << 10;
/// What it may hold if it is one of the [`LONG_MAX`]: twice the head of a request with the longest
/// certificate of [MS-RCMP], 64 KiB, in percent-encoded PEM, because what follows the head may be read with
/// it.
const LONG_LEN_MAX: usize = 256 << 10;
/// How many may hold as much: 24 MiB in all. A proxy's head proves it within milliseconds, and has to before
/// so many others have begun.
const LONG_MAX: usize = 96;

/// The unproved connections of a listener that have sent more than [`SHORT_LEN_MAX`] bytes. The oldest one of
/// the address with most of them is closed for a new one.
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

/// Lets no more be read of a stream than an unproved connection may hold, until its client has proved who it
/// is.
pub(super) struct Unproved<P> {
    is_proved: P,
    /// Bytes read so far; none once there is a proof.
    read: Option<usize>,
    long: Long,
    source: IpAddr,
    /// If more than [`SHORT_LEN_MAX`] bytes were read without a proof.
    entry: Option<LongEntry>,
}

impl<P: Fn() -> bool> Unproved<P> {
    /// `source` is the address that the connection counts for.
    pub(super) const fn new(is_proved: P, long: Long, source: IpAddr) -> Self {
        Self { is_proved, read: Some(0), long, source, entry: None }
    }
}

impl<P: Fn() -> bool> Watch for Unproved<P> {
    fn before_read(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        match self.entry.as_mut().is_some_and(|entry| entry.evicted.as_mut().poll(cx).is_ready()) {
            true => Err(io::Error::other("it made room for another one and proved nothing")),
            false => Ok(()),
        }
    }

    fn read(&mut self, bytes: &[u8]) -> io::Result<()> {
        let Some(read) = self.read else { return Ok(()) };
        if (self.is_proved)() {
            (self.read, self.entry) = (None, None);
            return Ok(());
        }
        let read = read + bytes.len();
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

#[cfg(test)]
mod tests {
    use super::*;
    use listener_tokio::watched::Watched;
    use std::cell::Cell;
    use std::net::Ipv4Addr;
    use tokio::io::AsyncReadExt;

    const SOURCE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    #[tokio::test]
    async fn only_a_client_that_proved_itself_may_send_much() {
        let is_proved = Cell::new(false);
        let sent = vec![b'x'; 2 * LONG_LEN_MAX];
        let mut stream = Watched::new(&sent[..], Unproved::new(|| is_proved.get(), Long::new(), SOURCE));
        let mut read = vec![0; LONG_LEN_MAX];
        assert!(stream.read_exact(&mut read).await.is_ok());
        assert!(stream.read_u8().await.is_err());
        let mut stream = Watched::new(&sent[..], Unproved::new(|| is_proved.get(), Long::new(), SOURCE));
        assert!(stream.read_exact(&mut read).await.is_ok());
        is_proved.set(true);
        assert!(stream.read_exact(&mut read).await.is_ok());
    }

    #[tokio::test]
    async fn few_clients_may_send_much_at_once() {
        let long = Long::new();
        let sent = vec![b'x'; LONG_LEN_MAX];
        let mut read = vec![0; SHORT_LEN_MAX + 1];
        let mut first = Watched::new(&sent[..], Unproved::new(|| false, long.clone(), SOURCE));
        assert!(first.read_exact(&mut read).await.is_ok());
        let mut short = Watched::new(&sent[..], Unproved::new(|| false, long.clone(), SOURCE));
        assert!(short.read_exact(&mut read[1..]).await.is_ok());
        let mut others = Vec::new();
        for _ in 0..LONG_MAX {
            assert!(first.read_u8().await.is_ok());
            let mut other = Watched::new(&sent[..], Unproved::new(|| false, long.clone(), SOURCE));
            assert!(other.read_exact(&mut read).await.is_ok());
            others.push(other);
        }
        assert!(first.read_u8().await.is_err(), "the oldest makes room");
        assert!(others[0].read_u8().await.is_ok());
        assert!(short.read_exact(&mut read[..SHORT_LEN_MAX]).await.is_ok());
        assert!(others[0].read_u8().await.is_err());
    }
}
