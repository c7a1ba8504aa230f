//! What a client makes its connection hold: messages that are not verified yet, and answers that it has not
//! read.
//!
//! No connection proves anything, so all of them have one budget. Beyond it the connection that holds the
//! most is ended, of the address that holds the most; of equal ones the oldest. A message that is verified
//! counts no more: calls have limits of their own ([`super::calls`]), those of anonymous clients in octets as
//! well.

use dcerpc_tokio::ConnectionPermit;
use http::StatusCode;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use listener_tokio::watched::{Watch, WriteTimeout};
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

/// What each connection may hold in any case: a usual message of .NET. So those that hold no more are never
/// ended for what others hold.
const FREE_LEN: usize = 16 << 10;

/// The memory of one connection.
#[derive(Debug)]
pub(super) struct Memory {
    permit: Arc<ConnectionPermit<()>>,
    held: Mutex<Held>,
}

/// In octets.
#[derive(Debug, Default)]
struct Held {
    request: usize,
    response: usize,
    reported: usize,
}

impl Memory {
    pub(super) fn new(permit: Arc<ConnectionPermit<()>>) -> Arc<Self> {
        Arc::new(Self { permit, held: Mutex::default() })
    }

    /// So much of a request is held.
    pub(super) fn request(&self, len: usize) {
        self.change(|held| held.request = len);
    }

    /// The request is answered with so much.
    pub(super) fn answered(&self, len: usize) {
        self.change(|held| (held.request, held.response) = (0, len));
    }

    fn change(&self, change: impl FnOnce(&mut Held)) {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut held);
        let beyond = (held.request + held.response).saturating_sub(FREE_LEN);
        if beyond != held.reported {
            held.reported = beyond;
            self.permit.hold(beyond);
        }
    }
}

/// The client of a connection.
#[derive(Debug)]
pub(super) struct Client {
    memory: Arc<Memory>,
    timeout: WriteTimeout,
}

impl Client {
    pub(super) fn new(memory: &Arc<Memory>) -> Self {
        Self { memory: Arc::clone(memory), timeout: WriteTimeout::default() }
    }
}

impl Watch for Client {
    fn wrote(&mut self, octets: &[u8]) {
        self.memory.change(|held| held.response = held.response.saturating_sub(octets.len()));
    }

    fn written<T>(&mut self, polled: Poll<io::Result<T>>, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        self.timeout.check(polled, cx)
    }
}

/// Reads the body of a request. Otherwise what the client is told.
pub(super) async fn body(
    mut body: Incoming,
    len_max: usize,
    memory: &Memory,
) -> Result<Vec<u8>, (StatusCode, &'static str)> {
    let mut octets = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| (StatusCode::BAD_REQUEST, "the message did not come whole\n"))?;
        let Ok(data) = frame.into_data() else { continue };
        if octets.len() + data.len() > len_max {
            return Err((StatusCode::PAYLOAD_TOO_LARGE, "the message is longer than this service takes\n"));
        }
        octets.extend_from_slice(&data);
        memory.request(octets.capacity());
    }
    Ok(octets)
}

#[cfg(test)]
mod tests {
    use super::*;
    use dcerpc_tokio::{ConnectionLimiter, ConnectionLimits};

    #[test]
    fn messages_and_answers_that_are_not_read_are_held() {
        let limits = ConnectionLimits {
            unproved_max: 4,
            started_max: 4,
            unproved_per_address_max: 4,
            proved_max: 1,
            proved_per_identity_max: 1,
        };
        let limiter = ConnectionLimiter::with_memory(limits, 1 << 20);
        let memory = Memory::new(Arc::new(limiter.admit([192, 0, 2, 1].into())));
        let mut client = Client::new(&memory);
        let held = || limiter.unproved_bytes();
        memory.request(FREE_LEN);
        assert_eq!(held(), 0, "a usual message");
        memory.request(100_000);
        assert_eq!(held(), 100_000 - FREE_LEN);
        memory.answered(200_000);
        assert_eq!(held(), 200_000 - FREE_LEN, "its answer, until the client has read it");
        client.wrote(&[0; 50_000]);
        assert_eq!(held(), 150_000 - FREE_LEN);
        memory.request(10_000);
        assert_eq!(held(), 160_000 - FREE_LEN, "and the next message");
        client.wrote(&[0; 200_000]);
        assert_eq!(held(), 0);
    }
}
