//! Connections over time: limits, slow peers, cancellation, shutdown, and the client's connections. Streams
//! are in memory and the clock is stopped wherever no socket is needed.

use dcerpc::client::ClientConfig;
use dcerpc::limits;
use dcerpc::ndr::NdrSyntax;
use dcerpc::pdu::{
    Bind, ContextElement, FaultBody, FaultStatus, Header, PacketFlags, PacketType, RequestHead, SecTrailer,
    SyntaxId, finish_pdu, start_pdu,
};
use dcerpc::security::{
    AuthLevel, AuthType, Authentication, Outgoing, ProtectedFragment, Protecting, Protection,
    SecurityContext, SecurityError,
};
use dcerpc::server::{Authenticate, Reply};
use dcerpc_tokio::{
    BoxFuture, CallError, Connection, EvictionReason, Interface, Limits, Peer, Registry, RpcCall,
    SecurityProvider, Server,
};
use dtyp::{Decode, Encode, Guid, Reader, Sid};
use prometheus_client::metrics::counter::Counter;
use std::any::Any;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::net::TcpListener;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

const INTERFACE: SyntaxId =
    SyntaxId::new(Guid::new(0x1234_5678, 0x1234, 0xabcd, [0xef, 0, 1, 0x23, 0x45, 0x67, 0xcf, 0xfb]), 1, 0);

const ECHO: u16 = 0;
/// Takes a minute.
const SLOW: u16 = 1;
const PANIC: u16 = 2;
/// Answers with a mebibyte.
const LONG: u16 = 3;
/// Takes two seconds.
const BRIEF: u16 = 4;
/// Proves an account and takes two seconds, also if it is cancelled.
const PROVING: u16 = 5;

/// Names an account in the token of a bind, and signs with it.
struct Names;

/// As a name: the provider wants another leg.
const ANOTHER_LEG: u8 = 250;

struct Named(u8);

fn account(name: u8) -> Sid {
    Sid::new(5, &[21, 1, 2, 3, u32::from(name)]).expect("a SID")
}

impl SecurityProvider for Names {
    fn auth_type(&self) -> AuthType {
        AuthType::NTLM
    }

    fn accept<'a>(&'a self, _: &'a Peer, request: Authenticate) -> BoxFuture<'a, Authentication> {
        let name = request.token[0];
        Box::pin(std::future::ready(match name {
            ANOTHER_LEG => Authentication::Continue { state: Box::new(()), token: vec![name] },
            _ => Authentication::Accepted { context: Box::new(Named(name)), token: Vec::new() },
        }))
    }
}

impl SecurityContext for Named {
    fn token_len(&self, _: AuthLevel) -> usize {
        1
    }

    fn supports_header_signing(&self) -> bool {
        false
    }

    fn unprotect(&mut self, _: Protection, fragment: ProtectedFragment<'_>) -> Result<(), SecurityError> {
        match fragment.token == [self.0] {
            true => Ok(()),
            false => Err(SecurityError::MessageAltered),
        }
    }

    fn protect(&mut self, _: Protection, message: Outgoing) -> Protecting {
        let mut wire = Vec::new();
        for fragment in message.fragments {
            wire.extend_from_slice(&fragment.header);
            wire.extend_from_slice(&message.stub[fragment.body]);
            wire.resize(wire.len() + usize::from(fragment.pad), 0);
            wire.extend_from_slice(&fragment.trailer.to_array());
            wire.push(self.0);
        }
        Box::pin(std::future::ready(wire))
    }

    fn identity(&self) -> Arc<dyn Any + Send + Sync> {
        Arc::new(self.0)
    }

    fn account(&self) -> Option<dcerpc::security::Account> {
        Some(account(self.0).into())
    }
}

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
    shutdown: CancellationToken,
    connections: TaskTracker,
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
                    BRIEF => {
                        tokio::time::sleep(Duration::from_secs(2)).await;
                        Ok(Reply::from(b"done".to_vec()))
                    }
                    PROVING => {
                        call.connection.ignore_cancel();
                        call.connection.prove(account(1));
                        tokio::time::sleep(Duration::from_secs(2)).await;
                        Ok(Reply::from(b"done".to_vec()))
                    }
                    LONG => Ok(Reply::from(vec![0x55; 1 << 20])),
                    _ => Err(FaultStatus::OP_RANGE_ERROR),
                };
                given_up.was_not();
                result
            }
        });
        let service = tower::util::BoxCloneSyncService::new(service);
        let registry = Registry::default().interface(Interface {
            syntax: INTERFACE,
            name: "test",
            method: |_| None,
            service,
        });
        let registry = registry.provider(Arc::new(Names));
        let (shutdown, connections) = (CancellationToken::new(), TaskTracker::new());
        let server = Server::new(registry, limits, shutdown.clone(), connections.clone());
        Self { server, shutdown, connections, given_up }
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

    /// A connection whose client has proved an account.
    async fn proved(&self, address: &str, name: u8) -> Client {
        let mut client = self.connect_from(address);
        client.prove(name).await;
        client
    }

    /// Waits until no connection is left.
    async fn drained(&self) {
        self.connections.close();
        self.connections.wait().await;
    }

    fn evicted(&self, reason: EvictionReason) -> u64 {
        self.server.limiter().evictions_for(reason)
    }

    fn counter(&self, counter: fn(&dcerpc_tokio::Counters) -> &Counter) -> u64 {
        counter(self.server.counters()).get()
    }

    /// Connections open now.
    fn open(&self) -> i64 {
        self.server.counters().open.get()
    }
}

struct Client {
    stream: DuplexStream,
}

fn bind_body() -> Vec<u8> {
    let context =
        ContextElement { id: 0, abstract_syntax: INTERFACE, transfer_syntaxes: vec![SyntaxId::NDR] };
    Bind { max_xmit_frag: 5840, max_recv_frag: 5840, assoc_group_id: 0, contexts: vec![context] }.to_bytes()
}

fn signed(of: PacketType, flags: PacketFlags, call_id: u32, body: &[u8], name: u8) -> Vec<u8> {
    let mut pdu = start_pdu(of, flags, call_id);
    pdu.extend_from_slice(body);
    let trailer = SecTrailer {
        auth_type: AuthType::NTLM,
        auth_level: AuthLevel::INTEGRITY,
        auth_pad_length: 0,
        auth_context_id: 1,
    };
    pdu.extend_from_slice(&trailer.to_array());
    pdu.push(name);
    finish_pdu(&mut pdu, 0, 1);
    pdu
}

#[derive(Debug, PartialEq)]
enum Answer {
    Response(Vec<u8>),
    Fault(FaultStatus),
}

impl Client {
    async fn bind(&mut self) {
        let flags = PacketFlags::WHOLE.with(PacketFlags::CONC_MPX);
        self.send(PacketType::BIND, flags, 1, &bind_body()).await;
        let (header, _) = self.pdu().await.expect("an answer");
        assert_eq!(header.packet_type, PacketType::BIND_ACK);
    }

    async fn send(&mut self, packet_type: PacketType, flags: PacketFlags, call_id: u32, body: &[u8]) {
        let mut pdu = start_pdu(packet_type, flags, call_id);
        pdu.extend_from_slice(body);
        finish_pdu(&mut pdu, 0, 0);
        self.stream.write_all(&pdu).await.expect("the connection is open");
    }

    /// Binds as an account, and is answered one call.
    async fn prove(&mut self, name: u8) {
        let flags = PacketFlags::WHOLE.with(PacketFlags::CONC_MPX);
        self.send_signed(PacketType::BIND, flags, 1, &bind_body(), name).await;
        assert_eq!(self.pdu().await.expect("an answer").0.packet_type, PacketType::BIND_ACK);
        self.signed_request(PacketFlags::WHOLE, 2, ECHO, name).await;
        assert_eq!(self.pdu().await.expect("an answer").0.packet_type, PacketType::RESPONSE);
    }

    async fn signed_request(&mut self, flags: PacketFlags, call_id: u32, opnum: u16, name: u8) {
        let mut body = RequestHead { alloc_hint: 0, context_id: 0, opnum, object: None }.to_bytes();
        body.extend_from_slice(&[0; 8]);
        self.send_signed(PacketType::REQUEST, flags, call_id, &body, name).await;
    }

    async fn send_signed(&mut self, of: PacketType, flags: PacketFlags, call_id: u32, body: &[u8], name: u8) {
        self.stream.write_all(&signed(of, flags, call_id, body, name)).await.expect("the connection is open");
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
async fn a_client_that_sends_nothing_is_closed() {
    let fixture = Fixture::new(Limits::default());
    let started = Instant::now();
    assert!(fixture.connect().is_closed().await);
    assert_eq!(started.elapsed().as_secs(), 5);
    assert_eq!(fixture.counter(|counters| &counters.bind_timeouts), 1);
}

#[tokio::test(start_paused = true)]
async fn a_security_context_is_set_up_within_thirty_seconds() {
    let fixture = Fixture::new(Limits::default());
    let started = Instant::now();
    let whole = PacketFlags::WHOLE;
    let mut client = fixture.connect();
    client.send_signed(PacketType::BIND, whole, 1, &bind_body(), ANOTHER_LEG).await;
    assert_eq!(client.pdu().await.expect("an answer").0.packet_type, PacketType::BIND_ACK);
    // A leg now and then does not help.
    for call_id in 2..4 {
        tokio::time::sleep(Duration::from_secs(12)).await;
        client.send_signed(PacketType::ALTER_CONTEXT, whole, call_id, &bind_body(), ANOTHER_LEG).await;
        assert_eq!(client.pdu().await.expect("an answer").0.packet_type, PacketType::ALTER_CONTEXT_RESP);
    }
    assert!(client.is_closed().await);
    assert_eq!(started.elapsed().as_secs(), 30);
    assert_eq!(fixture.counter(|counters| &counters.security_timeouts), 1);
    // One that is finished in time is not closed.
    let mut client = fixture.connect();
    client.send_signed(PacketType::BIND, whole, 1, &bind_body(), ANOTHER_LEG).await;
    client.pdu().await.expect("an answer");
    tokio::time::sleep(Duration::from_secs(29)).await;
    client.send_signed(PacketType::AUTH3, whole, 1, &[0; 4], 7).await;
    tokio::time::sleep(Duration::from_secs(29)).await;
    client.signed_request(whole, 2, ECHO, 7).await;
    assert_eq!(client.pdu().await.expect("an answer").0.packet_type, PacketType::RESPONSE);
}

#[tokio::test(start_paused = true)]
async fn a_bind_that_does_not_arrive_is_not_waited_for() {
    let fixture = Fixture::new(Limits::default());
    let started = Instant::now();
    // A byte now and then does not help.
    let mut client = fixture.connect();
    for byte in [5, 0, 11] {
        client.stream.write_all(&[byte]).await.expect("the connection is open");
        tokio::time::sleep(Duration::from_secs(3)).await;
    }
    assert!(client.is_closed().await);
    assert_eq!(started.elapsed().as_secs(), 10);
    assert_eq!(fixture.counter(|counters| &counters.pdu_timeouts), 1);
    // Less than that where the configuration gives a bind less.
    let fixture = Fixture::new(Limits { bind_timeout: Duration::from_secs(7), ..Limits::default() });
    let started = Instant::now();
    let mut client = fixture.connect();
    client.stream.write_all(&[5]).await.expect("the connection is open");
    assert!(client.is_closed().await);
    assert_eq!(started.elapsed().as_secs(), 7);
    assert_eq!(fixture.counter(|counters| &counters.bind_timeouts), 1);
}

#[tokio::test(start_paused = true)]
async fn half_a_pdu_is_not_waited_for_long() {
    let fixture = Fixture::new(Limits::default());
    // A PDU counts from its own first byte, also when that comes behind another PDU.
    let mut client = fixture.bound().await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    client.request(2, ECHO, b"here").await;
    client.stream.write_all(&[5, 0, 0]).await.expect("the connection is open");
    assert_eq!(client.answer().await, Some((2, Answer::Response(b"here".to_vec()))));
    let started = Instant::now();
    tokio::time::sleep(Duration::from_secs(9)).await;
    client.stream.write_all(&[3]).await.expect("the connection is open");
    assert!(client.is_closed().await);
    assert_eq!(started.elapsed().as_secs(), 10);
    // One that has proved who it is may be slow.
    let mut client = fixture.proved("192.0.2.1:1", 7).await;
    let pdu = signed(PacketType::REQUEST, PacketFlags::WHOLE, 3, &[0; 16], 7);
    let started = Instant::now();
    client.stream.write_all(&pdu[..10]).await.expect("the connection is open");
    tokio::time::sleep(Duration::from_secs(59)).await;
    client.stream.write_all(&pdu[10..]).await.expect("the connection is open");
    assert_eq!(client.pdu().await.expect("an answer").0.packet_type, PacketType::RESPONSE);
    client.stream.write_all(&pdu[..10]).await.expect("the connection is open");
    assert!(client.is_closed().await);
    assert_eq!(started.elapsed().as_secs(), 59 + 60);
    assert_eq!(fixture.counter(|counters| &counters.pdu_timeouts), 2);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_says_nothing_for_long_is_closed() {
    let fixture = Fixture::new(Limits::default());
    let mut client = fixture.bound().await;
    tokio::time::sleep(Duration::from_secs(100)).await;
    client.request(2, ECHO, b"here").await;
    assert_eq!(client.answer().await, Some((2, Answer::Response(b"here".to_vec()))));
    let started = Instant::now();
    assert!(client.is_closed().await);
    assert_eq!(started.elapsed().as_secs(), 2 * 60, "counted from the last byte of an unknown client");
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
async fn a_client_that_takes_no_answers_is_closed() {
    let fixture = Fixture::new(Limits::default());
    let mut client = fixture.bound().await;
    client.request(2, LONG, b"").await;
    let started = Instant::now();
    fixture.drained().await;
    assert_eq!(started.elapsed().as_secs(), 30);
    assert_eq!(fixture.counter(|counters| &counters.write_timeouts), 1);
}

/// Each stage has two of sixteen connections, and clients that have proved an account the other twelve.
fn few() -> Limits {
    Limits { connections_max: 16, ..Limits::default() }
}

#[tokio::test(start_paused = true)]
async fn clients_that_have_proved_nothing_shut_out_none_that_has() {
    let fixture = Fixture::new(few());
    let mut proved = fixture.proved("192.0.2.1:1", 7).await;
    let mut flood = Vec::new();
    for n in 0..200 {
        let mut client = fixture.connect_from(&format!("198.51.100.{n}:1"));
        if n % 2 == 0 {
            client.bind().await;
        }
        flood.push(client);
    }
    assert_eq!(fixture.server.limiter().open(), (4, 1));
    for client in &mut flood[..196] {
        assert!(client.is_closed().await);
    }
    proved.signed_request(PacketFlags::WHOLE, 3, ECHO, 7).await;
    assert_eq!(proved.pdu().await.expect("an answer").0.packet_type, PacketType::RESPONSE);
    // A new one gets in, whatever comes while it proves who it is.
    let mut new = fixture.connect_from("192.0.2.2:1");
    new.bind().await;
    for n in 0..200 {
        flood.push(fixture.connect_from(&format!("198.51.100.{n}:1")));
    }
    new.request(2, ECHO, b"here").await;
    assert_eq!(new.answer().await, Some((2, Answer::Response(b"here".to_vec()))));
    let _other = fixture.proved("192.0.2.2:1", 8).await;
    assert_eq!(fixture.server.limiter().open().1, 2);
    assert!(fixture.evicted(EvictionReason::Unproved) >= 196 + 198);
    assert_eq!(fixture.evicted(EvictionReason::Proved), 0);
}

#[tokio::test(start_paused = true)]
async fn connections_of_an_address_are_limited_until_they_prove_an_account() {
    let limits = Limits { connections_max: 1000, connections_per_address_max: 2, ..Limits::default() };
    let fixture = Fixture::new(limits);
    // Many machines behind one address.
    let mut proved = Vec::new();
    for name in 1..20 {
        proved.push(fixture.proved("192.0.2.1:1", name).await);
    }
    let mut first = fixture.bound().await;
    let _second = fixture.bound().await;
    let mut silent = fixture.connect();
    let _third = fixture.bound().await;
    assert!(first.is_closed().await, "the oldest goes");
    let _others = [fixture.connect(), fixture.connect()];
    assert!(silent.is_closed().await, "and the oldest of those that did not bind");
    assert_eq!(fixture.evicted(EvictionReason::Address), 2);
    for (name, client) in (1..).zip(&mut proved) {
        client.signed_request(PacketFlags::WHOLE, 3, ECHO, name).await;
        assert_eq!(client.pdu().await.expect("an answer").0.packet_type, PacketType::RESPONSE);
    }
    assert_eq!(fixture.open(), 19 + 4);
}

#[tokio::test(start_paused = true)]
async fn one_account_has_so_many_connections_and_its_oldest_ends_in_good_order() {
    let fixture = Fixture::new(Limits { connections_per_account_max: 2, ..Limits::default() });
    let mut first = fixture.proved("192.0.2.1:1", 7).await;
    let mut second = fixture.proved("192.0.2.2:1", 7).await;
    let mut other = fixture.proved("192.0.2.1:1", 8).await;
    first.signed_request(PacketFlags::WHOLE, 3, BRIEF, 7).await;
    // It is only in flight once the server has it.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let mut third = fixture.proved("192.0.2.3:1", 7).await;
    assert_eq!(first.pdu().await.expect("an answer").0.packet_type, PacketType::RESPONSE);
    assert!(first.is_closed().await);
    // A call that takes too long is not waited for.
    second.signed_request(PacketFlags::WHOLE, 3, SLOW, 7).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let started = Instant::now();
    let _fourth = fixture.proved("192.0.2.4:1", 7).await;
    assert!(second.is_closed().await);
    assert_eq!(started.elapsed().as_secs(), 5);
    for (client, name) in [(&mut third, 7), (&mut other, 8)] {
        client.signed_request(PacketFlags::WHOLE, 3, ECHO, name).await;
        assert_eq!(client.pdu().await.expect("an answer").0.packet_type, PacketType::RESPONSE);
    }
    assert_eq!(fixture.evicted(EvictionReason::Account), 2);
}

#[tokio::test(start_paused = true)]
async fn what_clients_that_have_proved_nothing_send_has_one_budget() {
    let fixture = Fixture::new(Limits::default());
    let mut honest = fixture.bound().await;
    let mut flood = Vec::new();
    for n in 0..600 {
        // All but the last bytes of the longest bind, or the first fragments of a call.
        let mut client = fixture.connect_from(&format!("198.51.100.{}:1", n % 100));
        if n % 2 == 0 {
            let mut bind = start_pdu(PacketType::BIND, PacketFlags::WHOLE, 1);
            bind.resize(65_000, 0);
            bind[8..10].copy_from_slice(&u16::MAX.to_le_bytes());
            client.stream.write_all(&bind).await.expect("it is the newest");
        } else {
            client.bind().await;
            let mut body = RequestHead { alloc_hint: 0, context_id: 0, opnum: 0, object: None }.to_bytes();
            body.resize(5_800, 0);
            for fragment in 0..11 {
                let flags = if fragment == 0 { PacketFlags::FIRST } else { PacketFlags::default() };
                client.send(PacketType::REQUEST, flags, 2, &body).await;
            }
        }
        flood.push(client);
        assert!(fixture.server.limiter().unproved_bytes() <= limits::UNPROVED_LEN_MAX);
    }
    let evicted = fixture.evicted(EvictionReason::Memory);
    assert!((300..400).contains(&evicted), "{evicted} of 600, where 256 fit");
    assert!(flood[0].is_closed().await && flood[1].is_closed().await, "the oldest");
    honest.request(2, ECHO, b"here").await;
    assert_eq!(honest.answer().await, Some((2, Answer::Response(b"here".to_vec()))));
    drop(flood);
    honest.stream.shutdown().await.expect("the connection is open");
    fixture.drained().await;
    assert_eq!(fixture.server.limiter().unproved_bytes(), 0);
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_not_taken_is_part_of_the_budget() {
    let fixture = Fixture::new(Limits::default());
    let mut slow = Vec::new();
    for n in 0..20 {
        let mut client = fixture.connect_from(&format!("198.51.100.{n}:1"));
        client.bind().await;
        client.request(2, LONG, b"").await;
        slow.push(client);
    }
    // Twenty mebibytes do not fit: some end long before the time for writing is over.
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(fixture.evicted(EvictionReason::Memory) >= 5);
    assert!(fixture.open() <= 15);
}

/// Bounded by turns, not by what a task may do in one poll: about a hundred calls of each connection.
#[tokio::test(start_paused = true)]
async fn calls_of_clients_that_have_proved_nothing_do_not_go_before_those_of_one_that_has() {
    const CONNECTIONS: u64 = 50;
    const CALLS: u64 = 60;
    let fixture = Fixture::new(Limits::default());
    let mut proved = fixture.proved("192.0.2.2:1", 1).await;
    let mut flood = Vec::new();
    for _ in 0..CONNECTIONS {
        flood.push(fixture.bound().await);
    }
    let done = || fixture.counter(|counters| &counters.faults);
    for client in &mut flood {
        for call_id in 0..CALLS {
            client.request(2 + call_id as u32, 99, b"").await;
        }
    }
    for call_id in 3..13 {
        let before = done();
        proved.signed_request(PacketFlags::WHOLE, call_id, ECHO, 1).await;
        assert_eq!(proved.pdu().await.expect("an answer").0.packet_type, PacketType::RESPONSE);
        let meanwhile = done() - before;
        // Eight of them have a turn at a time, and an answer takes a few.
        assert!(meanwhile <= 48, "{meanwhile} calls went before");
    }
    assert!(done() < CONNECTIONS * CALLS, "they still have calls to be answered");
    // Nor do they go without.
    for client in &mut flood {
        for _ in 0..CALLS {
            assert!(client.answer().await.is_some());
        }
    }
    assert_eq!(done(), CONNECTIONS * CALLS);
}

/// A call that takes long holds no turn.
#[tokio::test(start_paused = true)]
async fn slow_calls_of_clients_that_have_proved_nothing_delay_no_others() {
    let fixture = Fixture::new(Limits::default());
    let mut slow = Vec::new();
    for _ in 0..50 {
        let mut client = fixture.bound().await;
        client.request(2, SLOW, b"").await;
        slow.push(client);
    }
    let begun = Instant::now();
    let mut client = fixture.bound().await;
    client.request(2, ECHO, b"here").await;
    assert_eq!(client.answer().await, Some((2, Answer::Response(b"here".to_vec()))));
    assert!(begun.elapsed() < Duration::from_secs(1));
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
async fn a_call_that_ignores_its_cancellation_is_performed_to_its_end() {
    let fixture = Fixture::new(Limits::default());
    let mut client = fixture.bound().await;
    let started = Instant::now();
    client.request(2, PROVING, b"").await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    client.send(PacketType::CO_CANCEL, PacketFlags::WHOLE, 2, &[]).await;
    assert_eq!(client.answer().await, Some((2, Answer::Response(b"done".to_vec()))));
    client.request(3, PROVING, b"").await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    client.send(PacketType::ORPHANED, PacketFlags::WHOLE, 3, &[]).await;
    client.request(4, SLOW, b"").await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    client.send(PacketType::CO_CANCEL, PacketFlags::WHOLE, 4, &[]).await;
    assert_eq!(
        client.answer().await,
        Some((4, Answer::Fault(FaultStatus::CANCEL))),
        "the next call is not meant"
    );
    assert_eq!(started.elapsed().as_secs(), 6);
    assert_eq!(fixture.given_up.load(Ordering::SeqCst), 1);
}

#[tokio::test(start_paused = true)]
async fn a_connection_counts_for_an_account_while_the_call_that_proves_it_waits() {
    let limits = Limits { connections_max: 32, connections_per_address_max: 2, ..Limits::default() };
    let fixture = Fixture::new(limits);
    let mut client = fixture.connect_from("192.0.2.1:1");
    client.bind().await;
    client.request(2, PROVING, b"").await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let mut others = Vec::new();
    for n in 2..12 {
        let mut other = fixture.connect_from(&format!("192.0.2.1:{n}"));
        other.bind().await;
        others.push(other);
    }
    assert_eq!(client.answer().await, Some((2, Answer::Response(b"done".to_vec()))));
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
    assert_eq!(fixture.open(), 1);
}

#[tokio::test(start_paused = true)]
async fn calls_in_flight_are_answered_before_the_end() {
    let fixture = Fixture::new(Limits::default());
    let (mut busy, mut idle) = (fixture.bound().await, fixture.bound().await);
    busy.request(2, SLOW, b"").await;
    // It is only in flight once the server has it.
    tokio::time::sleep(Duration::from_secs(1)).await;
    fixture.shutdown.cancel();
    assert!(idle.is_closed().await);
    assert_eq!(busy.answer().await, Some((2, Answer::Response(b"done".to_vec()))));
    assert!(busy.is_closed().await);
    fixture.drained().await;
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
    while fixture.open() > 0 || !connection.is_stale() {
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
