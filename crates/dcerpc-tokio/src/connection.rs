//! One connection: a task that owns the stream and the association.
//!
//! Its loop sends what is to be sent, does what is to be done, and only then reads: a peer that does not take
//! its answers, or whose call takes long, fills its own window and not our memory. When its permit is evicted
//! it ends at once, or after the call in flight where the client has proved who it is.
//!
//! A connection whose client has proved nothing waits for a turn ([`Turns`]) before each call and after each
//! read.

use crate::connection_limiter::ConnectionPermit;
use crate::counters::{Counters, count};
use crate::limits::Limits;
use crate::registry::{Peer, Registry, RpcCall};
use crate::turns::Turns;
use dcerpc::limits::{
    CALL_ARRIVAL_TIME_MAX, PDU_ARRIVAL_TIME_MAX, PDU_ARRIVAL_TIME_UNPROVED_MAX, SECURITY_SETUP_TIME_MAX,
    UNPROVED_LEN_FREE,
};
use dcerpc::pdu::FaultStatus;
use dcerpc::security::Account;
use dcerpc::server::{Authenticate, Call, Event, Reply, ServerAssociation, ServerConfig, Transmit};
use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::io;
use std::mem::MaybeUninit;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;
use tracing::{Instrument, Span, debug, field};

/// `rpc.system.name` of spans, and the name of a span whose method is not known (OpenTelemetry, semantic
/// conventions for RPC).
const RPC_SYSTEM: &str = "dcerpc";

/// Bytes read at once; they live on the stack while a read is polled, so an idle connection holds none.
const READ_LEN: usize = 8 * 1024;

/// From accept to the first byte. A client sends its bind in the round trip that opens the connection.
const FIRST_BYTE_TIME_MAX: Duration = Duration::from_secs(5);

/// For the call in flight of an evicted connection whose client has proved who it is.
const EVICTION_GRACE: Duration = Duration::from_secs(5);

/// What a connection needs of its server.
pub(crate) struct ConnectionContext {
    pub(crate) registry: Arc<Registry>,
    pub(crate) config: Arc<ServerConfig>,
    pub(crate) limits: Limits,
    pub(crate) counters: Arc<Counters>,
    pub(crate) turns: Turns,
    pub(crate) shutdown: CancellationToken,
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
    /// A PDU did not arrive in time.
    PduTimeout,
    /// A call did not arrive in time.
    CallTimeout,
    /// A security context was not set up in time.
    SecurityTimeout,
    /// Its permit was needed for another connection.
    Evicted,
    /// The server is stopping.
    Stopped,
}

struct Connection<'a, S> {
    stream: S,
    permit: &'a Arc<ConnectionPermit<Account>>,
    /// Whether the permit counts for an account.
    is_proved: bool,
    /// What was last charged to the permit.
    held: usize,
    /// The permit was evicted: the connection ends after the call in flight.
    leaving: &'a AtomicBool,
    peer: Peer,
    association: ServerAssociation,
    context: ConnectionContext,
    /// It has waited for its turn, and has done nothing since.
    has_turn: bool,
    /// Calls that wait for the one before them; bounded by the association.
    waiting: VecDeque<Call>,
    /// A token to be checked; there is never more than one.
    token: Option<Authenticate>,
    last_read: Instant,
    has_read_any: bool,
    /// Since when a PDU has been arriving, and which one.
    partial: Option<(u64, Instant)>,
    /// Since when a call has been arriving.
    arriving: Option<Instant>,
    /// Since when a security context has been waiting for its next leg.
    half_open: Option<Instant>,
    accepted: Instant,
    timer: Pin<Box<Sleep>>,
}

pub(crate) async fn run<S>(
    stream: S,
    peer: Peer,
    context: ConnectionContext,
    permit: ConnectionPermit<Account>,
) -> Exit
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    let now = Instant::now();
    let permit = Arc::new(permit);
    let leaving = AtomicBool::new(false);
    let first = FIRST_BYTE_TIME_MAX.min(context.limits.bind_timeout).min(context.limits.idle_timeout);
    let mut connection = Connection {
        stream,
        permit: &permit,
        is_proved: false,
        held: 0,
        leaving: &leaving,
        peer,
        association: ServerAssociation::new(Arc::clone(&context.config), peer.address.ip()),
        has_turn: false,
        waiting: VecDeque::new(),
        token: None,
        last_read: now,
        has_read_any: false,
        partial: None,
        arriving: None,
        half_open: None,
        accepted: now,
        // Whichever comes first; then it is looked at which of them counts.
        timer: Box::pin(sleep_until(now + first)),
        context,
    };
    let evicted = async {
        permit.evicted().await;
        if permit.is_proved() {
            // It is polled in the same task, and sees this in the same turn.
            leaving.store(true, Ordering::Relaxed);
            tokio::time::sleep(EVICTION_GRACE).await;
        }
    };
    let ended = tokio::select! {
        biased;
        () = evicted => Ok(Exit::Evicted),
        ended = connection.serve() => ended,
    };
    let exit = match ended {
        // What would be sent is of no use to a client that has done nothing.
        Ok(Exit::Evicted) if !connection.is_proved => return Exit::Evicted,
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

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Connection<'_, S> {
    async fn serve(&mut self) -> io::Result<Exit> {
        loop {
            self.flush().await?;
            if self.association.is_closing() {
                return Ok(Exit::Refused);
            }
            if self.step().await? {
                continue;
            }
            self.account(0);
            self.watch_partial_pdu();
            let is_leaving = self.leaving.load(Ordering::Relaxed);
            if is_leaving && self.association.is_idle() {
                return Ok(Exit::Evicted);
            }
            let is_stopping = self.context.shutdown.is_cancelled();
            if is_stopping && self.association.is_idle() {
                return Ok(Exit::Stopped);
            }
            let exit = tokio::select! {
                biased;
                read = poll_fn(|cx| poll_receive(&mut self.stream, &mut self.association, cx)) => match read? {
                    0 => Some(Exit::Closed),
                    _ => {
                        self.has_read();
                        self.take_turn().await;
                        None
                    }
                },
                () = self.context.shutdown.cancelled(), if !is_stopping => None,
                () = self.timer.as_mut() => self.overdue(),
                // The limiter wakes the task when it evicts it; then it is seen above.
                () = poll_fn(|_| match self.leaving.load(Ordering::Relaxed) {
                    true => Poll::Ready(()),
                    false => Poll::Pending,
                }), if !is_leaving => None,
            };
            if let Some(exit) = exit {
                return Ok(exit);
            }
        }
    }

    /// Waits for a turn, unless the client has proved who it is.
    async fn take_turn(&mut self) {
        if !self.is_proved {
            self.context.turns.wait().await;
            self.has_turn = true;
        }
    }

    /// Tells the permit what the peer has proved, and what the connection holds, `writing` included.
    fn account(&mut self, writing: usize) {
        if self.is_proved {
            return;
        }
        if let Some(account) = self.association.proved_account() {
            self.permit.prove(account);
            self.is_proved = true;
            return;
        }
        if self.association.is_bound() {
            self.permit.advance();
        }
        let held = self.association.held_bytes() + writing;
        let held = if held > UNPROVED_LEN_FREE { held } else { 0 };
        if held != self.held {
            self.held = held;
            self.permit.hold(held);
        }
    }

    /// Notes since when a PDU has been arriving.
    fn watch_partial_pdu(&mut self) {
        let number = self.association.partial_pdu();
        if number == self.partial.map(|(number, _)| number) {
            return;
        }
        self.partial = number.map(|number| (number, self.last_read));
        if self.partial.is_some() {
            self.wake_by(self.last_read + self.pdu_time());
        }
    }

    fn pdu_time(&self) -> Duration {
        if self.is_proved { PDU_ARRIVAL_TIME_MAX } else { PDU_ARRIVAL_TIME_UNPROVED_MAX }
    }

    fn wake_by(&mut self, deadline: Instant) {
        if deadline < self.timer.deadline() {
            self.timer.as_mut().reset(deadline);
        }
    }

    fn has_read(&mut self) {
        self.last_read = Instant::now();
        self.has_read_any = true;
        self.account(0);
        self.watch_partial_pdu();
        match (self.association.has_unfinished_calls(), self.arriving) {
            (true, None) => {
                self.arriving = Some(self.last_read);
                self.wake_by(self.last_read + CALL_ARRIVAL_TIME_MAX);
            }
            (false, Some(_)) => self.arriving = None,
            _ => {}
        }
    }

    /// Whether the timer ended the connection; otherwise it is set anew. It is not touched by each read,
    /// because that would cost more than reading.
    fn overdue(&mut self) -> Option<Exit> {
        let (limits, counters) = (&self.context.limits, &self.context.counters);
        let idle = match self.association.is_proven() {
            true => limits.idle_timeout,
            false => limits.idle_timeout.min(limits.anonymous_idle_timeout),
        };
        let (mut deadline, mut counter, mut exit) = match self.association.is_bound() {
            false => {
                let first = if self.has_read_any { limits.bind_timeout } else { FIRST_BYTE_TIME_MAX };
                let deadline = self.accepted + first.min(limits.bind_timeout);
                (deadline, &counters.bind_timeouts, Exit::BindTimeout)
            }
            true => (self.last_read + idle, &counters.idle_timeouts, Exit::IdleTimeout),
        };
        let mut or = |since: Option<Instant>, time: Duration, other, end| {
            if let Some(since) = since
                && since + time < deadline
            {
                (deadline, counter, exit) = (since + time, other, end);
            }
        };
        or(self.arriving, CALL_ARRIVAL_TIME_MAX, &counters.call_timeouts, Exit::CallTimeout);
        or(self.half_open, SECURITY_SETUP_TIME_MAX, &counters.security_timeouts, Exit::SecurityTimeout);
        let partial = self.partial.map(|(_, since)| since);
        or(partial, self.pdu_time(), &counters.pdu_timeouts, Exit::PduTimeout);
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
            self.write(bytes).await?;
        }
        Ok(())
    }

    async fn write(&mut self, message: Vec<u8>) -> io::Result<()> {
        let mut bytes = &message[..];
        // Nearly always the socket takes everything at once, and no timer is needed.
        let stream = &mut self.stream;
        let first = poll_fn(|cx| Poll::Ready(Pin::new(&mut *stream).poll_write(cx, bytes))).await;
        match first {
            Poll::Ready(Ok(0)) => return Err(io::ErrorKind::WriteZero.into()),
            Poll::Ready(Ok(n)) => bytes = &bytes[n..],
            Poll::Ready(Err(error)) => return Err(error),
            Poll::Pending => {}
        }
        if bytes.is_empty() {
            return Ok(());
        }
        self.account(message.capacity());
        match tokio::time::timeout(self.context.limits.write_timeout, self.stream.write_all(bytes)).await {
            Ok(result) => result,
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        }
    }

    /// Does one thing that is to be done; `false` when there is none.
    async fn step(&mut self) -> io::Result<bool> {
        self.sort_events(None);
        if self.waiting.is_empty() && self.token.is_none() {
            return Ok(false);
        }
        if !std::mem::take(&mut self.has_turn) {
            self.take_turn().await;
            self.has_turn = false;
        }
        if let Some(call) = self.waiting.pop_front() {
            self.perform(call).await?;
            return Ok(true);
        }
        let Some(request) = self.token.take() else { return Ok(false) };
        let outcome = self.context.registry.accept(&self.peer, request).await;
        debug!(?outcome, "Security token checked");
        self.association.authenticated(outcome);
        self.watch_half_open();
        Ok(true)
    }

    /// Notes since when a security context has been waiting for its next leg. Only a token changes that.
    fn watch_half_open(&mut self) {
        match (self.association.has_unfinished_security(), self.half_open) {
            (true, None) => {
                let now = Instant::now();
                self.half_open = Some(now);
                self.wake_by(now + SECURITY_SETUP_TIME_MAX);
            }
            (false, Some(_)) => self.half_open = None,
            _ => {}
        }
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

    /// Performs a call, and watches for its cancellation and for the end of the connection while it takes
    /// long.
    async fn perform(&mut self, call: Call) -> io::Result<()> {
        let id = call.id;
        let interface = &self.context.registry.interfaces[call.interface];
        let method = interface.method;
        let span = tracing::debug_span!(
            target: "rcmpd::call",
            "call",
            otel.name = method(call.opnum).unwrap_or(RPC_SYSTEM),
            rpc.system.name = RPC_SYSTEM,
            rpc.method = method(call.opnum).unwrap_or("_OTHER"),
            rpc.response.status_code = field::Empty,
            "error.type" = field::Empty,
            interface = interface.name,
            opnum = call.opnum,
            call_id = id,
            client.addr = %self.peer.address,
            otel.kind = "server",
            fault = field::Empty,
        );
        let service = interface.service.clone();
        let peer = self.peer;
        self.permit.begin_call();
        let connection = Arc::clone(self.permit) as _;
        let call = RpcCall { peer, connection, call };
        let mut outcome = pin!(service.oneshot(call).instrument(span.clone()));
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
                // A client may close its sending half and wait for the answer; if it is gone, writing will
                // tell.
                Progress::Read(Ok(0)) => watching = false,
                Progress::Read(Ok(_)) => {
                    self.has_read();
                    if self.association.is_closing() {
                        return Ok(());
                    }
                    if self.sort_events(Some(id)) && !self.permit.ignores_cancel() {
                        break None;
                    }
                    // The call goes on after that.
                    self.take_turn().await;
                    self.has_turn = false;
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
            record_fault(&span, *status);
        }
        self.association.reply(id, outcome);
        Ok(())
    }
}

/// Records a fault by its number, which is the status of the call and the type of the error, and in words.
fn record_fault(span: &Span, status: FaultStatus) {
    if span.is_disabled() {
        return;
    }
    let code = format!("0x{:08x}", status.0);
    span.record("rpc.response.status_code", &*code).record("error.type", &*code);
    span.record("fault", field::display(status));
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
            association.receive_in_place(buffer.filled_mut());
            Poll::Ready(Ok(buffer.filled().len()))
        }
        Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
        Poll::Pending => Poll::Pending,
    }
}
