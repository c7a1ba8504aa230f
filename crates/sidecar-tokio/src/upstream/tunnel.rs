//! A WebSocket, once it is open: bytes are copied both ways, and not looked at.
//!
//! No decision is made again while a WebSocket is open. So it ends after a while, even if it is busy, and its
//! client opens another one.

use super::RequestPermit;
use crate::idle::idle_for;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf, split};
use tokio::time::{Instant, timeout, timeout_at};
use tracing::debug;

/// Both sides are there: they have just said so.
const OPEN_TIMEOUT: Duration = Duration::from_secs(10);
/// Idle timeout of both directions. A side that wants to keep the WebSocket sends pings (RFC 6455, section
/// 5.5.2).
const IDLE_TIMEOUT: Duration = Duration::from_secs(300);
/// Read at once, in each direction.
const BUFFER_LEN: usize = 16 << 10;

/// Copies until one side is done, in a task of its own. The request's permit is given back at the end, and
/// ends it when it is evicted.
pub(super) fn run(client: OnUpgrade, application: OnUpgrade, end: Instant, permit: Arc<RequestPermit>) {
    tokio::spawn(async move {
        let opened = timeout(OPEN_TIMEOUT, async { tokio::try_join!(client, application) }).await;
        let Ok(Ok((client, application))) = opened else { return debug!("A WebSocket was not opened") };
        tokio::select! {
            ended = timeout_at(end, copy(client, application)) => debug!(outlived = ended.is_err(), "A WebSocket ended"),
            () = permit.close.cancelled() => debug!("A WebSocket was evicted"),
        }
    });
}

async fn copy(client: Upgraded, application: Upgraded) {
    let (from_client, to_client) = split(TokioIo::new(client));
    let (from_application, to_application) = split(TokioIo::new(application));
    let moved = Mutex::new(Instant::now());
    let both = async {
        tokio::join!(
            one_way(from_client, to_application, &moved),
            one_way(from_application, to_client, &moved)
        )
    };
    tokio::select! {
        // Who is done says so in frames before (RFC 6455, section 7.1.1), and how it ends is theirs.
        _ = both => {}
        () = idle_for(IDLE_TIMEOUT, || *moved.lock().unwrap_or_else(PoisonError::into_inner)) => {}
    }
}

type Stream = TokioIo<Upgraded>;

async fn one_way(
    mut from: ReadHalf<Stream>,
    mut to: WriteHalf<Stream>,
    moved: &Mutex<Instant>,
) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER_LEN];
    loop {
        let copied = async {
            let len = from.read(&mut buffer).await?;
            to.write_all(&buffer[..len]).await?;
            to.flush().await?;
            io::Result::Ok(len)
        };
        let copied = copied.await;
        *moved.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        match copied {
            Ok(0) | Err(_) => return to.shutdown().await,
            Ok(_) => {}
        }
    }
}
