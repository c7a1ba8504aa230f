//! Connections over time: limits, slow peers, cancellation, shutdown, and the client's connections. Streams are in memory and the clock is
//! stopped wherever no socket is needed.

use dcerpc::client::ClientConfig;
use dcerpc::ndr::NdrSyntax;
use dcerpc::pdu::{
    Bind, ContextElement, FaultBody, FaultStatus, Header, PacketFlags, PacketType, RequestHead, SyntaxId,
    finish_pdu, start_pdu,
};
use dcerpc::server::Reply;
use dcerpc_tokio::{CallError, Connection, Interface, Limits, Registry, RpcCall, Server, Shutdown};
use dtyp::{Decode, Encode, Guid, Reader};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::net::TcpListener;
use tokio::time::Instant;

const INTERFACE: SyntaxId =
    SyntaxId::new(Guid::new(0x1234_5678, 0x1234, 0xabcd, [0xef, 0, 1, 0x23, 0x45, 0x67, 0xcf, 0xfb]), 1, 0);

const ECHO: u16 = 0;
/// Takes a minute.
const SLOW: u16 = 1;
const PANIC: u16 = 2;
/// Answers with a mebibyte.
const LONG: u16 = 3;

/// Says that a call was given up, by being dropped before it is finished.
struct GivenUp(Option<Arc<AtomicUsize>>);

impl GivenUp {
    fn was_not(&mut self) {
        self.0 = None;
    }
}

impl Drop for GivenUp {
    fn drop(&mut self) {
        if let Some(count) = &self.0 {
            count.fetch_add(1, Ordering::SeqCst);
        }
    }
}

struct Fixture {
    server: Arc<Server>,
    shutdown: Shutdown,
    given_up: Arc<AtomicUsize>,
}

impl Fixture {
    fn new(limits: Limits) -> Self {
        let given_up = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&given_up);
        let service = tower::service_fn(move |call: RpcCall| {
            let mut given_up = GivenUp(Some(Arc::clone(&count)));
            async move {
                let result = match call.call.opnum {
                    ECHO => Ok(Reply::from(call.call.stub)),
                    SLOW => {
                        tokio::time::sleep(Duration::from_secs(60)).await;
                        Ok(Reply::from(b"done".to_vec()))
                    }
                    PANIC => panic!("asked for"),
                    LONG => Ok(Reply::from(vec![0x55; 1 << 20])),
                    _ => Err(FaultStatus::OP_RANGE_ERROR),
                };
                given_up.was_not();
                result
            }
        });
        let service = tower::util::BoxCloneSyncService::new(service);
        let registry = Registry::default().interface(Interface { syntax: INTERFACE, name: "test", service });
        let shutdown = Shutdown::new();
        Self { server: Server::new(registry, limits, shutdown.clone()), shutdown, given_up }
    }

    /// A connection as from this address.
    fn connect_from(&self, address: &str) -> Client {
        let (near, far) = tokio::io::duplex(16 * 1024);
        let address: SocketAddr = address.parse().expect("an address");
        self.server.spawn(far, address, self.server.config(49664));
        Client { stream: near }
    }

    fn connect(&self) -> Client {
        self.connect_from("192.0.2.1:1")
    }

    async fn bound(&self) -> Client {
        let mut client = self.connect();
        client.bind().await;
        client
    }

    fn counter(&self, counter: fn(&dcerpc_tokio::Counters) -> &AtomicU64) -> u64 {
        counter(self.server.counters()).load(Ordering::SeqCst)
    }
}

struct Client {
    stream: DuplexStream,
}

#[derive(Debug, PartialEq)]
enum Answer {
    Response(Vec<u8>),
    Fault(FaultStatus),
}

impl Client {
    async fn bind(&mut self) {
        let context =
            ContextElement { id: 0, abstract_syntax: INTERFACE, transfer_syntaxes: vec![SyntaxId::NDR] };
        let bind =
            Bind { max_xmit_frag: 5840, max_recv_frag: 5840, assoc_group_id: 0, contexts: vec![context] };
        let flags = PacketFlags::WHOLE.with(PacketFlags::CONC_MPX);
        self.send(PacketType::BIND, flags, 1, &bind.to_bytes()).await;
        let (header, _) = self.pdu().await.expect("an answer");
        assert_eq!(header.packet_type, PacketType::BIND_ACK);
    }

    async fn send(&mut self, packet_type: PacketType, flags: PacketFlags, call_id: u32, body: &[u8]) {
        let mut pdu = start_pdu(packet_type, flags, call_id);
        pdu.extend_from_slice(body);
        finish_pdu(&mut pdu, 0, 0);
        self.stream.write_all(&pdu).await.expect("the connection is open");
    }

    async fn request(&mut self, call_id: u32, opnum: u16, stub: &[u8]) {
        let mut body = RequestHead { alloc_hint: 0, context_id: 0, opnum, object: None }.to_bytes();
        body.extend_from_slice(stub);
        self.send(PacketType::REQUEST, PacketFlags::WHOLE, call_id, &body).await;
    }

    /// The next PDU, or `None` when the server closed the connection.
    async fn pdu(&mut self) -> Option<(Header, Vec<u8>)> {
        let mut pdu = vec![0; Header::LEN];
        self.stream.read_exact(&mut pdu).await.ok()?;
        let header = Header::decode(&pdu).expect("a header").expect("a whole one");
        pdu.resize(usize::from(header.frag_length), 0);
        self.stream.read_exact(&mut pdu[Header::LEN..]).await.expect("a whole PDU");
        Some((header, pdu))
    }

    async fn answer(&mut self) -> Option<(u32, Answer)> {
        let (header, pdu) = self.pdu().await?;
        let answer = match header.packet_type {
            PacketType::RESPONSE => Answer::Response(pdu[24..].to_vec()),
            PacketType::FAULT => {
                Answer::Fault(FaultBody::decode(&mut Reader::new(&pdu[16..])).expect("a fault").status)
            }
            other => panic!("{other:?} is no answer"),
        };
        Some((header.call_id, answer))
    }

    async fn is_closed(&mut self) -> bool {
        self.stream.read(&mut [0; 1]).await.is_ok_and(|read| read == 0)
    }
}

#[tokio::test(start_paused = true)]
async fn whoever_does_not_bind_is_closed() {
    let fixture = Fixture::new(Limits::default());
    let started = Instant::now();
    // A byte now and then does not help.
    let mut client = fixture.connect();
    client.stream.write_all(&[5, 0, 11]).await.expect("the connection is open");
    assert!(client.is_closed().await);
    assert_eq!(started.elapsed().as_secs(), 30);
    assert_eq!(fixture.counter(|counters| &counters.bind_timeouts), 1);
}

#[tokio::test(start_paused = true)]
async fn whoever_says_nothing_for_long_is_closed() {
    let fixture = Fixture::new(Limits::default());
    let mut client = fixture.bound().await;
    tokio::time::sleep(Duration::from_secs(100)).await;
    client.request(2, ECHO, b"here").await;
    assert_eq!(client.answer().await, Some((2, Answer::Response(b"here".to_vec()))));
    let started = Instant::now();
    assert!(client.is_closed().await);
    assert_eq!(started.elapsed().as_secs(), 2 * 60, "counted from the last byte of somebody unknown");
    assert_eq!(fixture.counter(|counters| &counters.idle_timeouts), 1);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_does_not_arrive_is_not_waited_for() {
    let fixture = Fixture::new(Limits::default());
    let mut client = fixture.bound().await;
    let started = Instant::now();
    let body = RequestHead { alloc_hint: 0, context_id: 0, opnum: ECHO, object: None }.to_bytes();
    client.send(PacketType::REQUEST, PacketFlags::FIRST, 2, &body).await;
    // A fragment now and then keeps the connection busy, and not alive.
    for _ in 0..5 {
        tokio::time::sleep(Duration::from_secs(10)).await;
        client.send(PacketType::REQUEST, PacketFlags::default(), 2, &body).await;
    }
    assert!(client.is_closed().await);
    assert_eq!(started.elapsed().as_secs(), 60);
    assert_eq!(fixture.counter(|counters| &counters.call_timeouts), 1);
}

#[tokio::test(start_paused = true)]
async fn whoever_takes_no_answers_is_closed() {
    let fixture = Fixture::new(Limits::default());
    let mut client = fixture.bound().await;
    client.request(2, LONG, b"").await;
    let started = Instant::now();
    fixture.server.drained().await;
    assert_eq!(started.elapsed().as_secs(), 30);
    assert_eq!(fixture.counter(|counters| &counters.write_timeouts), 1);
}

#[tokio::test(start_paused = true)]
async fn there_are_so_many_connections_and_no_more() {
    let limits = Limits { connections_max: 3, connections_per_address_max: 2, ..Limits::default() };
    let fixture = Fixture::new(limits);
    let mut first = fixture.bound().await;
    let _second = fixture.bound().await;
    assert!(fixture.connect().is_closed().await, "a third from one address");
    let _third = fixture.connect_from("192.0.2.2:1");
    assert!(fixture.connect_from("192.0.2.3:1").is_closed().await, "a fourth in all");
    assert_eq!(fixture.counter(|counters| &counters.refused_address), 1);
    assert_eq!(fixture.counter(|counters| &counters.refused_total), 1);
    first.stream.shutdown().await.expect("the connection is open");
    assert!(first.is_closed().await);
    let mut again = fixture.connect();
    again.bind().await;
    assert_eq!(fixture.counter(|counters| &counters.open), 3);
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_call_is_given_up_and_the_next_one_answered() {
    let fixture = Fixture::new(Limits::default());
    let mut client = fixture.bound().await;
    client.request(2, SLOW, b"").await;
    // It has begun by then.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let started = Instant::now();
    client.request(3, ECHO, b"next").await;
    client.send(PacketType::CO_CANCEL, PacketFlags::WHOLE, 2, &[]).await;
    assert_eq!(client.answer().await, Some((2, Answer::Fault(FaultStatus::CANCEL))));
    assert_eq!(client.answer().await, Some((3, Answer::Response(b"next".to_vec()))));
    assert_eq!(started.elapsed().as_secs(), 0);
    assert_eq!(fixture.given_up.load(Ordering::SeqCst), 1);
    assert_eq!(fixture.counter(|counters| &counters.cancelled), 1);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_waits_can_be_cancelled_before_it_begins() {
    let fixture = Fixture::new(Limits::default());
    let mut client = fixture.bound().await;
    client.request(2, SLOW, b"").await;
    client.request(3, SLOW, b"").await;
    client.send(PacketType::CO_CANCEL, PacketFlags::WHOLE, 3, &[]).await;
    assert_eq!(client.answer().await, Some((3, Answer::Fault(FaultStatus::CANCEL))));
    assert_eq!(client.answer().await, Some((2, Answer::Response(b"done".to_vec()))));
    assert_eq!(fixture.given_up.load(Ordering::SeqCst), 0, "it never began");
}

#[tokio::test(start_paused = true)]
async fn an_orphaned_call_has_no_answer() {
    let fixture = Fixture::new(Limits::default());
    let mut client = fixture.bound().await;
    client.request(2, SLOW, b"").await;
    client.send(PacketType::ORPHANED, PacketFlags::WHOLE, 2, &[]).await;
    client.request(3, ECHO, b"next").await;
    assert_eq!(client.answer().await, Some((3, Answer::Response(b"next".to_vec()))));
}

#[tokio::test(start_paused = true)]
async fn a_client_that_closes_its_half_still_gets_its_answer() {
    let fixture = Fixture::new(Limits::default());
    let mut client = fixture.bound().await;
    client.request(2, SLOW, b"").await;
    client.stream.shutdown().await.expect("the connection is open");
    assert_eq!(client.answer().await, Some((2, Answer::Response(b"done".to_vec()))));
    assert!(client.is_closed().await);
}

#[tokio::test(start_paused = true)]
async fn a_panic_ends_its_connection_alone() {
    let fixture = Fixture::new(Limits::default());
    let (mut careless, mut other) = (fixture.bound().await, fixture.bound().await);
    careless.request(2, PANIC, b"").await;
    assert!(careless.is_closed().await);
    other.request(2, ECHO, b"still here").await;
    assert_eq!(other.answer().await, Some((2, Answer::Response(b"still here".to_vec()))));
    assert_eq!(fixture.counter(|counters| &counters.panics), 1);
    assert_eq!(fixture.counter(|counters| &counters.open), 1);
}

#[tokio::test(start_paused = true)]
async fn calls_in_flight_are_answered_before_the_end() {
    let fixture = Fixture::new(Limits::default());
    let (mut busy, mut idle) = (fixture.bound().await, fixture.bound().await);
    busy.request(2, SLOW, b"").await;
    // It is only in flight once the server has it.
    tokio::time::sleep(Duration::from_secs(1)).await;
    fixture.shutdown.begin();
    assert!(idle.is_closed().await);
    assert_eq!(busy.answer().await, Some((2, Answer::Response(b"done".to_vec()))));
    assert!(busy.is_closed().await);
    fixture.server.drained().await;
}

/// A listener on loopback.
async fn listen(fixture: &Fixture) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    tokio::spawn(Arc::clone(&fixture.server).listen(listener));
    address
}

async fn connect(address: SocketAddr) -> Connection {
    let config =
        ClientConfig { interface: INTERFACE, syntax: NdrSyntax::Ndr, first_call_id: 1, security: None };
    Connection::open(address, config, soon()).await.expect("it is accepted").0
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(20)
}

#[tokio::test]
async fn a_connection_that_was_closed_meanwhile_says_so() {
    let limits = Limits { idle_timeout: Duration::from_millis(50), ..Limits::default() };
    let fixture = Fixture::new(limits);
    let mut connection = connect(listen(&fixture).await).await;
    connection.call(ECHO, b"one".to_vec().into(), soon()).await.expect("an answer");
    assert!(!connection.is_stale());
    while fixture.counter(|counters| &counters.open) > 0 || !connection.is_stale() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let outcome = connection.call(ECHO, b"two".to_vec().into(), soon()).await;
    assert!(matches!(outcome, Err(CallError::Closed | CallError::Io(_))), "{outcome:?}");
}

#[tokio::test]
async fn a_deadline_ends_a_call_and_its_connection() {
    let fixture = Fixture::new(Limits::default());
    let mut connection = connect(listen(&fixture).await).await;
    let deadline = Instant::now() + Duration::from_millis(100);
    let outcome = connection.call(SLOW, Vec::new().into(), deadline).await;
    assert!(matches!(outcome, Err(CallError::DeadlinePassed)), "{outcome:?}");
    assert!(connection.is_stale());
    let outcome = connection.call(ECHO, b"next".to_vec().into(), soon()).await;
    assert!(matches!(outcome, Err(CallError::Closed)), "never the answer of the call before: {outcome:?}");
}

#[tokio::test]
async fn a_fault_leaves_the_connection_as_it_is() {
    let fixture = Fixture::new(Limits::default());
    let mut connection = connect(listen(&fixture).await).await;
    let outcome = connection.call(99, Vec::new().into(), soon()).await;
    assert!(matches!(outcome, Err(CallError::Fault(FaultStatus::OP_RANGE_ERROR))), "{outcome:?}");
    assert!(!connection.is_stale());
    connection.call(ECHO, b"next".to_vec().into(), soon()).await.expect("an answer");
}
