//! One connection: a task that owns the stream and the association.
//!
//! Its loop sends what is to be sent, does what is to be done, and only then reads: a peer that does not take its
//! answers, or whose call takes long, fills its own window and not our memory.

use crate::counters::{Counters, count};
use crate::registry::{Peer, Registry, RpcCall};
use crate::server::Limits;
use dcerpc::limits::CALL_ARRIVAL_TIME_MAX;
use dcerpc::pdu::FaultStatus;
use dcerpc::server::{Authenticate, Call, Event, Reply, ServerAssociation, ServerConfig, Transmit};
use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::io;
use std::mem::MaybeUninit;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::sync::watch;
use tokio::time::{Instant, Sleep, sleep_until};
use tower::ServiceExt;
use tracing::{Instrument, debug, field};

/// Bytes read at once; they live on the stack while a read is polled, so an idle connection holds none.
const READ_LEN: usize = 8 * 1024;

/// What a connection needs of its server.
pub(crate) struct ConnectionContext {
    pub(crate) registry: Arc<Registry>,
    pub(crate) config: Arc<ServerConfig>,
    pub(crate) limits: Limits,
    pub(crate) counters: Arc<Counters>,
    pub(crate) stop: watch::Receiver<bool>,
}

/// Why a connection ended.
#[derive(Debug)]
pub(crate) enum Exit {
    /// The peer closed it.
    Closed,
    /// The association refused to go on.
    Refused,
    /// Reading or writing failed.
    Failed(#[expect(dead_code, reason = "read by Debug, in the log")] io::Error),
    /// No bind was finished in time.
    BindTimeout,
    /// Nothing happened for long.
    IdleTimeout,
    /// A call did not arrive in time.
    CallTimeout,
    /// The server is stopping.
    Stopped,
}

struct Connection<S> {
    stream: S,
    peer: Peer,
    association: ServerAssociation,
    context: ConnectionContext,
    /// Calls that wait for the one before them; bounded by the association.
    waiting: VecDeque<Call>,
    /// A token to be judged; there is never more than one.
    token: Option<Authenticate>,
    last_read: Instant,
    /// Since when a call has been arriving.
    arriving: Option<Instant>,
    accepted: Instant,
    timer: Pin<Box<Sleep>>,
}

pub(crate) async fn run<S>(stream: S, peer: Peer, context: ConnectionContext) -> Exit
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    let now = Instant::now();
    let mut connection = Connection {
        stream,
        peer,
        association: ServerAssociation::new(Arc::clone(&context.config), peer.address.ip()),
        waiting: VecDeque::new(),
        token: None,
        last_read: now,
        arriving: None,
        accepted: now,
        // Whichever comes first; then it is looked at which of them counts.
        timer: Box::pin(sleep_until(now + context.limits.bind_timeout.min(context.limits.idle_timeout))),
        context,
    };
    let exit = match connection.serve().await {
        Ok(exit) => exit,
        Err(error) if error.kind() == io::ErrorKind::TimedOut => {
            count(&connection.context.counters.write_timeouts);
            Exit::Failed(error)
        }
        Err(error) => Exit::Failed(error),
    };
    // The peer sees its last answer before the end of the stream.
    let _ = tokio::time::timeout(Duration::from_secs(1), connection.stream.shutdown()).await;
    exit
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Connection<S> {
    async fn serve(&mut self) -> io::Result<Exit> {
        loop {
            self.flush().await?;
            if self.association.is_closing() {
                return Ok(Exit::Refused);
            }
            if self.step().await? {
                continue;
            }
            if *self.context.stop.borrow() && self.association.is_idle() {
                return Ok(Exit::Stopped);
            }
            let exit = tokio::select! {
                biased;
                read = poll_fn(|cx| poll_receive(&mut self.stream, &mut self.association, cx)) => match read? {
                    0 => Some(Exit::Closed),
                    _ => {
                        self.has_read();
                        None
                    }
                },
                _ = self.context.stop.changed(), if !*self.context.stop.borrow() => None,
                () = self.timer.as_mut() => self.overdue(),
            };
            if let Some(exit) = exit {
                return Ok(exit);
            }
        }
    }

    fn has_read(&mut self) {
        self.last_read = Instant::now();
        match (self.association.has_unfinished_calls(), self.arriving) {
            (true, None) => {
                self.arriving = Some(self.last_read);
                let deadline = self.last_read + CALL_ARRIVAL_TIME_MAX;
                if deadline < self.timer.deadline() {
                    self.timer.as_mut().reset(deadline);
                }
            }
            (false, Some(_)) => self.arriving = None,
            _ => {}
        }
    }

    /// Whether the timer ended the connection; otherwise it is set anew. It is not touched by each read, because
    /// that would cost more than reading.
    fn overdue(&mut self) -> Option<Exit> {
        let (limits, counters) = (&self.context.limits, &self.context.counters);
        let idle = match self.association.is_proven() {
            true => limits.idle_timeout,
            false => limits.idle_timeout.min(limits.anonymous_idle_timeout),
        };
        let mut deadline = match self.association.is_bound() {
            false => (self.accepted + limits.bind_timeout, &counters.bind_timeouts, Exit::BindTimeout),
            true => (self.last_read + idle, &counters.idle_timeouts, Exit::IdleTimeout),
        };
        if let Some(since) = self.arriving
            && since + CALL_ARRIVAL_TIME_MAX < deadline.0
        {
            deadline = (since + CALL_ARRIVAL_TIME_MAX, &counters.call_timeouts, Exit::CallTimeout);
        }
        let (deadline, counter, exit) = deadline;
        if Instant::now() >= deadline {
            count(counter);
            return Some(exit);
        }
        self.timer.as_mut().reset(deadline);
        None
    }

    async fn flush(&mut self) -> io::Result<()> {
        while let Some(transmit) = self.association.poll_transmit() {
            let bytes = ready(transmit).await;
            self.write(&bytes).await?;
        }
        Ok(())
    }

    async fn write(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        // Nearly always the socket takes everything at once, and no timer is needed.
        let stream = &mut self.stream;
        let first = poll_fn(|cx| Poll::Ready(Pin::new(&mut *stream).poll_write(cx, bytes))).await;
        match first {
            Poll::Ready(Ok(0)) => return Err(io::ErrorKind::WriteZero.into()),
            Poll::Ready(Ok(n)) => bytes = &bytes[n..],
            Poll::Ready(Err(error)) => return Err(error),
            Poll::Pending => {}
        }
        match bytes {
            [] => Ok(()),
            _ => match tokio::time::timeout(self.context.limits.write_timeout, self.stream.write_all(bytes))
                .await
            {
                Ok(result) => result,
                Err(_) => Err(io::ErrorKind::TimedOut.into()),
            },
        }
    }

    /// Does one thing that is to be done; `false` when there is none.
    async fn step(&mut self) -> io::Result<bool> {
        self.sort_events(None);
        if let Some(call) = self.waiting.pop_front() {
            self.perform(call).await?;
            return Ok(true);
        }
        let Some(request) = self.token.take() else { return Ok(false) };
        let outcome = self.context.registry.accept(&self.peer, request).await;
        debug!(?outcome, "Judged a token");
        self.association.authenticated(outcome);
        Ok(true)
    }

    /// Queues calls and obeys cancels. Whether `running` is to be given up.
    fn sort_events(&mut self, running: Option<u32>) -> bool {
        let mut give_up = false;
        while let Some(event) = self.association.poll_event() {
            match event {
                Event::Call(call) => self.waiting.push_back(call),
                Event::Authenticate(request) => self.token = Some(request),
                Event::Cancel(id) if running == Some(id) => give_up = true,
                Event::Cancel(id) => {
                    if let Some(at) = self.waiting.iter().position(|call| call.id == id) {
                        self.waiting.remove(at);
                        count(&self.context.counters.cancelled);
                        self.association.reply(id, Err(FaultStatus::CANCEL));
                    }
                }
            }
        }
        give_up
    }

    /// Performs a call, and watches for its cancellation and for the end of the connection while it takes long.
    async fn perform(&mut self, call: Call) -> io::Result<()> {
        let id = call.id;
        let interface = &self.context.registry.interfaces[call.interface];
        let span = tracing::debug_span!(
            target: "rcmpd::call",
            "call",
            interface = interface.name,
            opnum = call.opnum,
            call_id = id,
            client.addr = %self.peer.address,
            otel.kind = "server",
            fault = field::Empty,
        );
        let service = interface.service.clone();
        let peer = self.peer;
        let mut outcome = pin!(service.oneshot(RpcCall { peer, call }).instrument(span.clone()));
        let mut watching = true;
        let outcome: Option<Result<Reply, FaultStatus>> = loop {
            let event = poll_fn(|cx| {
                if let Poll::Ready(outcome) = outcome.as_mut().poll(cx) {
                    return Poll::Ready(Progress::Done(outcome));
                }
                if watching && self.association.wants_read() {
                    return poll_receive(&mut self.stream, &mut self.association, cx).map(Progress::Read);
                }
                Poll::Pending
            })
            .await;
            match event {
                Progress::Done(outcome) => break Some(outcome),
                // A client may close its sending half and wait for the answer; if it is gone, writing will tell.
                Progress::Read(Ok(0)) => watching = false,
                Progress::Read(Ok(_)) => {
                    self.has_read();
                    if self.association.is_closing() {
                        return Ok(());
                    }
                    if self.sort_events(Some(id)) {
                        break None;
                    }
                }
                Progress::Read(Err(error)) => return Err(error),
            }
        };
        let outcome = match outcome {
            Some(outcome) => {
                let counters = &self.context.counters;
                count(if outcome.is_ok() { &counters.replies } else { &counters.faults });
                outcome
            }
            None => {
                count(&self.context.counters.cancelled);
                Err(FaultStatus::CANCEL)
            }
        };
        if let Err(status) = &outcome {
            span.record("fault", field::display(status));
        }
        self.association.reply(id, outcome);
        Ok(())
    }
}

/// The bytes to write, sealed if they have to be.
pub(crate) async fn ready(transmit: Transmit) -> Vec<u8> {
    match transmit {
        Transmit::Ready(bytes) => bytes,
        Transmit::Pending(protecting) => {
            // Other connections have messages to be sealed too: together they cost little more than one.
            tokio::task::yield_now().await;
            protecting.await
        }
    }
}

enum Progress {
    Done(Result<Reply, FaultStatus>),
    Read(io::Result<usize>),
}

/// Reads what is there into the association; 0 at the end of the stream.
fn poll_receive<S: AsyncRead + Unpin>(
    stream: &mut S,
    association: &mut ServerAssociation,
    cx: &mut Context<'_>,
) -> Poll<io::Result<usize>> {
    let mut buffer = [MaybeUninit::uninit(); READ_LEN];
    let mut buffer = ReadBuf::uninit(&mut buffer);
    match Pin::new(stream).poll_read(cx, &mut buffer) {
        Poll::Ready(Ok(())) => {
            association.receive(buffer.filled());
            Poll::Ready(Ok(buffer.filled().len()))
        }
        Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
        Poll::Pending => Poll::Pending,
    }
}
