//! Load that costs next to nothing while it runs: every request is sealed beforehand, and of the answers only
//! the length is read. One in a hundred is opened and must be a success.

use crate::accounts::Accounts;
use hmac::{Hmac, KeyInit, Mac};
use md4::Md4;
use netlogon_transport::cfb8::Key;
use netlogon_transport::credential;
use netlogon_transport::message::NlAuthRequest;
use rcmp_service::message::{MappingFlags, PACKAGE_NAME, Request};
use rcmpd_tests::Service;
use rcmpd_tests::client::Client;
use sha2::{Digest, Sha256};
use std::net::SocketAddr;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const NETLOGON: [u8; 20] =
    [0x78, 0x56, 0x34, 0x12, 0x34, 0x12, 0xcd, 0xab, 0xef, 0, 1, 0x23, 0x45, 0x67, 0xcf, 0xfb, 1, 0, 0, 0];
const NDR: [u8; 20] =
    [4, 0x5d, 0x88, 0x8a, 0xeb, 0x1c, 0xc9, 0x11, 0x9f, 0xe8, 8, 0, 0x2b, 0x10, 0x48, 0x60, 2, 0, 0, 0];
const SEALED_FORM: [u8; 8] = [0x13, 0, 0x1a, 0, 0xff, 0xff, 0, 0];
const FLAGS: u32 = 0x612f_ffff;
const CHECKED_EVERY: usize = 100;

/// NDR 2.0, as far as the three calls need it.
#[derive(Default)]
struct Stub(Vec<u8>);

impl Stub {
    fn align(&mut self, to: usize) {
        self.0.resize(self.0.len().next_multiple_of(to), 0);
    }

    fn u16(mut self, value: u16) -> Self {
        self.align(2);
        self.0.extend(value.to_le_bytes());
        self
    }

    fn u32(mut self, value: u32) -> Self {
        self.align(4);
        self.0.extend(value.to_le_bytes());
        self
    }

    fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend(bytes);
        self
    }

    fn text(self, text: &str, nul: bool) -> Self {
        let mut units: Vec<u16> = text.encode_utf16().collect();
        units.extend(nul.then_some(0));
        let bytes: Vec<u8> = units.iter().flat_map(|unit| unit.to_le_bytes()).collect();
        self.u32(units.len() as u32).u32(0).u32(units.len() as u32).raw(&bytes)
    }

    fn unique(self, text: &str) -> Self {
        self.u32(0x20000).text(text, true)
    }

    /// RPC_UNICODE_STRING without its text.
    fn header(self, text: &str) -> Self {
        let len = 2 * text.len() as u16;
        self.u16(len).u16(len).u32(if text.is_empty() { 0 } else { 0x20000 })
    }
}

fn header(packet_type: u8, flags: u8, auth_len: u16, len: usize, call_id: u32) -> Vec<u8> {
    let mut pdu = vec![5, 0, packet_type, flags, 0x10, 0, 0, 0];
    pdu.extend((len as u16).to_le_bytes());
    pdu.extend(auth_len.to_le_bytes());
    pdu.extend(call_id.to_le_bytes());
    pdu
}

/// One question is out at a time, so whatever comes is its answer; mostly in one read.
async fn read_pdu(stream: &mut TcpStream, pdu: &mut Vec<u8>) {
    pdu.clear();
    let whole =
        |pdu: &[u8]| pdu.len() >= 16 && pdu.len() >= usize::from(u16::from_le_bytes([pdu[8], pdu[9]]));
    while !whole(pdu) {
        pdu.reserve(8 * 1024);
        assert_ne!(stream.read_buf(pdu).await.unwrap(), 0, "the server closed the connection");
    }
}

async fn bind(stream: &mut TcpStream, token: &[u8]) {
    let mut body = vec![0xd0, 0x16, 0xd0, 0x16, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 1, 0];
    body.extend(NETLOGON);
    body.extend(NDR);
    let mut flags = 3;
    if !token.is_empty() {
        flags |= 4;
        body.extend([0x44, 6, 0, 0, 1, 0, 0, 0]);
        body.extend(token);
    }
    let mut pdu = header(11, flags, token.len() as u16, 16 + body.len(), 1);
    pdu.extend(body);
    stream.write_all(&pdu).await.unwrap();
    let mut answer = Vec::new();
    read_pdu(stream, &mut answer).await;
    assert_eq!((answer[2], answer[3] & 4), (12, flags & 4), "a bind_ack");
}

async fn call(stream: &mut TcpStream, opnum: u16, stub: Stub) -> Vec<u8> {
    let mut pdu = header(0, 3, 0, 24 + stub.0.len(), 2);
    pdu.extend((stub.0.len() as u32).to_le_bytes());
    pdu.extend([0, 0]);
    pdu.extend(opnum.to_le_bytes());
    pdu.extend(stub.0);
    stream.write_all(&pdu).await.unwrap();
    let mut answer = Vec::new();
    read_pdu(stream, &mut answer).await;
    assert_eq!(answer[2], 2, "a response");
    answer.split_off(24)
}

/// A channel whose key the generator knows.
pub(crate) struct Generator {
    address: SocketAddr,
    inner: Key,
    outer: Key,
    mac: Hmac<Sha256>,
    secret: String,
    domain: &'static str,
}

fn twice(half: [u8; 8]) -> [u8; 16] {
    std::array::from_fn(|at| half[at % 8])
}

impl Generator {
    pub(crate) async fn new(service: &Service) -> Self {
        Self::of(service, "CONTOSO").await
    }

    /// One that asks a domain of another name; its questions are about the same accounts.
    pub(crate) async fn of(service: &Service, domain: &'static str) -> Self {
        let secret =
            std::fs::read_to_string(service.path("machines/WEB01.secret")).unwrap().trim().to_owned();
        let mut stream = TcpStream::connect(service.netlogon).await.unwrap();
        bind(&mut stream, &[]).await;
        let ours = *b"generate";
        let stub = Stub::default().unique(r"\\127.0.0.1").text("WEB01", true).raw(&ours);
        let reply = call(&mut stream, 4, stub).await;
        let theirs: [u8; 8] = reply[..8].try_into().unwrap();
        let utf16: Vec<u8> = secret.encode_utf16().flat_map(u16::to_le_bytes).collect();
        let mut mac = <Hmac<Sha256> as KeyInit>::new_from_slice(&Md4::digest(utf16)).unwrap();
        mac.update(&ours);
        mac.update(&theirs);
        let key: [u8; 16] = mac.finalize().into_bytes()[..16].try_into().unwrap();
        let inner = Key::new(&key);
        let proof = credential::credential(&inner, &ours);
        let stub = Stub::default().unique(r"\\127.0.0.1").text("WEB01$", true).u16(2).text("WEB01", true);
        let reply = call(&mut stream, 26, stub.raw(&proof).u32(FLAGS)).await;
        assert_eq!(reply[reply.len() - 4..], [0; 4], "a channel");
        let mac = Hmac::new_from_slice(&key).unwrap();
        Self {
            address: service.netlogon,
            inner,
            outer: Key::new(&key.map(|byte| byte ^ 0xf0)),
            mac,
            secret,
            domain,
        }
    }

    /// A channel as the product's client sets it up.
    pub(crate) async fn set_up(&self, service: &Service) {
        let server = service.netlogon.to_string();
        let client = Client::establish(&server, "CONTOSO", "WEB01$", &self.secret).await.unwrap();
        drop(client.open().await.unwrap());
    }

    async fn connect(&self) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        bind(&mut stream, &NlAuthRequest::encode(self.domain, "WEB01")).await;
        stream
    }

    /// Connections that are bound and say nothing more.
    pub(crate) async fn idle(&self, count: usize) -> Vec<TcpStream> {
        let mut idle = Vec::with_capacity(count);
        for _ in 0..count {
            idle.push(self.connect().await);
        }
        idle
    }

    fn stub(&self, certificate: &[u8]) -> Stub {
        let request = Request { flags: MappingFlags::UPN, certificate, issuers: vec![] };
        let mut data = request.encode().unwrap();
        self.inner.encrypt([0; 16], &mut data);
        let stub = Stub::default().unique(r"\\127.0.0.1").unique("WEB01").u16(4).u16(4).u32(0x20000);
        let stub = stub.header("CONTOSO").u32(0).u32(0).u32(0).header("").header("").header(PACKAGE_NAME);
        let stub = stub.u32(data.len() as u32).u32(0x20000).text("CONTOSO", false).text(PACKAGE_NAME, false);
        stub.u32(data.len() as u32).raw(&data).u16(5).u32(0)
    }

    /// The request whose fragment has this number, sealed.
    fn seal(&self, number: u64, call_id: u32, stub: &Stub) -> Vec<u8> {
        let pad = stub.0.len().next_multiple_of(16) - stub.0.len();
        let mut body = stub.0.clone();
        body.resize(stub.0.len() + pad, 0);
        let mut head = header(0, 3, 56, 24 + body.len() + 8 + 56, call_id);
        head.extend((stub.0.len() as u32).to_le_bytes());
        head.extend([0, 0, 39, 0]);
        let trailer = [0x44, 6, pad as u8, 0, 1, 0, 0, 0];
        let mut sequence = [0; 8];
        sequence[..4].copy_from_slice(&(number as u32).to_be_bytes());
        sequence[4..].copy_from_slice(&(0x8000_0000 | (number >> 32) as u32).to_be_bytes());
        let confounder = number.to_le_bytes();
        let mut mac = self.mac.clone();
        for part in [&SEALED_FORM[..], &confounder, &head, &body, &trailer] {
            mac.update(part);
        }
        let checksum: [u8; 8] = mac.finalize().into_bytes()[..8].try_into().unwrap();
        // One stream over the confounder and on over the body.
        let mut stream = [&confounder[..], &body].concat();
        self.outer.encrypt(twice(sequence), &mut stream);
        self.inner.encrypt(twice(checksum), &mut sequence);
        [&head[..], &stream[8..], &trailer, &SEALED_FORM, &sequence, &checksum, &stream[..8], &[0; 24]]
            .concat()
    }

    /// The status of the response whose fragment has this number.
    fn status(&self, number: u64, pdu: &[u8]) -> u32 {
        let end = pdu.len() - 56 - 8;
        let mut sequence = [0; 8];
        sequence[..4].copy_from_slice(&(number as u32).to_be_bytes());
        sequence[4..].copy_from_slice(&((number >> 32) as u32).to_be_bytes());
        let mut stream = [&pdu[pdu.len() - 32..pdu.len() - 24], &pdu[24..end]].concat();
        self.outer.decrypt(twice(sequence), &mut stream);
        let stub = &stream[8..stream.len() - usize::from(pdu[end + 2])];
        u32::from_le_bytes(stub[stub.len() - 4..].try_into().unwrap())
    }

    /// Connections with all their requests.
    pub(crate) async fn prepare(
        &self,
        connections: usize,
        calls: usize,
        accounts: &Accounts,
    ) -> Prepared<'_> {
        let each = calls / connections;
        let mut prepared = Vec::new();
        for connection in 0..connections {
            let requests = (0..each).map(|call| {
                let certificate = accounts.certificate(accounts.number(connection * each + call));
                self.seal(2 * call as u64, 2 + call as u32, &self.stub(&certificate))
            });
            prepared.push((self.connect().await, requests.collect()));
        }
        Prepared { generator: self, connections: prepared }
    }

    pub(crate) async fn run(&self, connections: usize, calls: usize, accounts: &Accounts) {
        self.prepare(connections, calls, accounts).await.run().await;
    }
}

pub(crate) struct Prepared<'a> {
    generator: &'a Generator,
    connections: Vec<(TcpStream, Vec<Vec<u8>>)>,
}

impl Prepared<'_> {
    /// Asks everything; returns the lengths of a request and of its answer.
    pub(crate) async fn run(self) -> (usize, usize) {
        let request = self.connections[0].1[0].len();
        let answer = exchange(self.connections, |at, answer| {
            if at % CHECKED_EVERY == 0 {
                assert_eq!(self.generator.status(2 * at as u64 + 1, answer), 0, "a success");
            }
        });
        (request, answer.await)
    }
}

/// Sends each connection's requests one after the other, all connections at once; returns the length of an
/// answer.
pub(crate) async fn exchange(
    connections: Vec<(TcpStream, Vec<Vec<u8>>)>,
    check: impl Fn(usize, &[u8]),
) -> usize {
    let check = &check;
    let len = std::cell::Cell::new(0);
    together(connections.into_iter().map(|(mut stream, requests)| {
        let len = &len;
        async move {
            let mut answer = Vec::new();
            for (at, request) in requests.iter().enumerate() {
                stream.write_all(request).await.unwrap();
                read_pdu(&mut stream, &mut answer).await;
                assert_eq!(answer[2], 2, "a response");
                check(at, &answer);
            }
            len.set(answer.len());
        }
    }))
    .await;
    len.get()
}

/// Runs them all in one task: when one is woken all are polled, which costs the others a look at their
/// socket's state.
pub(crate) async fn together<F: Future<Output = ()>>(futures: impl Iterator<Item = F>) {
    let mut running: Vec<_> = futures.map(Box::pin).collect();
    std::future::poll_fn(|cx| {
        running.retain_mut(|future| future.as_mut().poll(cx).is_pending());
        if running.is_empty() { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
}
