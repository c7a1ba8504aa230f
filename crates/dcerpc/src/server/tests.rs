use super::*;
use crate::client::{ClientAssociation, ClientConfig, ClientError, ClientEvent, ClientLeg, ClientSecurity};
use crate::management::MANAGEMENT;
use crate::pdu::{ContextElement, ResultReason};
use crate::security::Outgoing;
use crate::test::unhex;
use std::task::{Context, Poll, Waker};

const NETLOGON: SyntaxId =
    SyntaxId::new(Guid::new(0x1234_5678, 0x1234, 0xabcd, [0xef, 0, 1, 0x23, 0x45, 0x67, 0xcf, 0xfb]), 1, 0);
const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

fn config() -> Arc<ServerConfig> {
    Arc::new(ServerConfig {
        interfaces: vec![NETLOGON, MANAGEMENT],
        secondary_address: "49664".into(),
        groups: Arc::default(),
        reassembly: Arc::default(),
    })
}

fn server() -> ServerAssociation {
    ServerAssociation::new(config(), HERE)
}

/// A provider that signs with a number: an end that loses count does not verify.
struct Counting {
    count: u8,
}

const TOKEN_LEN: usize = 16;

impl Counting {
    fn next(&mut self) -> [u8; TOKEN_LEN] {
        self.count = self.count.wrapping_add(1);
        [self.count; TOKEN_LEN]
    }
}

impl SecurityContext for Counting {
    fn token_len(&self, level: AuthLevel) -> usize {
        if level >= AuthLevel::INTEGRITY { TOKEN_LEN } else { 0 }
    }

    fn supports_header_signing(&self) -> bool {
        true
    }

    fn unprotect(&mut self, _: Protection, fragment: ProtectedFragment<'_>) -> Result<(), SecurityError> {
        match fragment.token == self.next() {
            true => Ok(()),
            false => Err(SecurityError::OutOfSequence),
        }
    }

    fn protect(&mut self, _: Protection, message: Outgoing) -> Protecting {
        let mut wire = Vec::new();
        for fragment in message.fragments {
            wire.extend_from_slice(&fragment.header);
            wire.extend_from_slice(&message.stub[fragment.body]);
            wire.resize(wire.len() + usize::from(fragment.pad), 0);
            wire.extend_from_slice(&fragment.trailer.to_array());
            wire.extend_from_slice(&self.next());
        }
        Box::pin(std::future::ready(wire))
    }

    fn identity(&self) -> Arc<dyn Any + Send + Sync> {
        Arc::new("counting")
    }
}

fn bytes(transmit: Transmit) -> Vec<u8> {
    match transmit {
        Transmit::Ready(bytes) => bytes,
        Transmit::Pending(mut protecting) => {
            match protecting.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                Poll::Ready(bytes) => bytes,
                Poll::Pending => panic!("nothing here waits"),
            }
        }
    }
}

/// Everything the server has to send.
fn sent(server: &mut ServerAssociation) -> Vec<u8> {
    std::iter::from_fn(|| server.poll_transmit()).flat_map(bytes).collect()
}

fn calls(server: &mut ServerAssociation) -> Vec<Call> {
    let events = std::iter::from_fn(|| server.poll_event());
    events.filter_map(|event| if let Event::Call(call) = event { Some(call) } else { None }).collect()
}

/// Judges every token: the first byte says how.
fn authenticate(server: &mut ServerAssociation) {
    while let Some(event) = server.poll_event() {
        if let Event::Authenticate(request) = event {
            server.authenticated(match request.token.first() {
                Some(b'y') => {
                    Authentication::Accepted { context: Box::new(Counting { count: 0 }), token: vec![7; 12] }
                }
                Some(b'e') => {
                    Authentication::Accepted { context: Box::new(Counting { count: 0 }), token: vec![] }
                }
                Some(b'm') => Authentication::Continue { state: Box::new(()), token: vec![8; 4] },
                Some(b'u') => Authentication::UnknownType,
                _ => Authentication::Rejected,
            });
        }
    }
}

fn element(id: u16, interface: SyntaxId, syntaxes: &[SyntaxId]) -> ContextElement {
    ContextElement { id, abstract_syntax: interface, transfer_syntaxes: syntaxes.to_vec() }
}

fn bind_of(contexts: Vec<ContextElement>) -> Bind {
    Bind { max_xmit_frag: 5840, max_recv_frag: 5840, assoc_group_id: 0, contexts }
}

const WHOLE: PacketFlags = PacketFlags::WHOLE;
const FIRST: PacketFlags = PacketFlags::FIRST;
const LAST: PacketFlags = PacketFlags::LAST;
const MIDDLE: PacketFlags = PacketFlags(0);
const MPX: PacketFlags = PacketFlags::CONC_MPX;

fn pdu(
    packet_type: PacketType,
    flags: PacketFlags,
    call_id: u32,
    body: &[u8],
    auth: Option<(SecTrailer, &[u8])>,
) -> Vec<u8> {
    let mut pdu = start_pdu(packet_type, flags, call_id);
    pdu.extend_from_slice(body);
    let mut auth_length = 0;
    if let Some((trailer, token)) = auth {
        trailer.encode(&mut pdu);
        pdu.extend_from_slice(token);
        auth_length = token.len();
    }
    finish_pdu(&mut pdu, 0, auth_length);
    pdu
}

fn trailer(id: u32, level: u8) -> SecTrailer {
    SecTrailer {
        auth_type: AuthType::NETLOGON,
        auth_level: AuthLevel(level),
        auth_pad_length: 0,
        auth_context_id: id,
    }
}

fn bind_pdu(flags: PacketFlags, bind: &Bind, auth: Option<(SecTrailer, &[u8])>) -> Vec<u8> {
    pdu(PacketType::BIND, flags, 1, &bind.to_bytes(), auth)
}

fn request_pdu(
    flags: PacketFlags,
    call_id: u32,
    context_id: u16,
    opnum: u16,
    stub: &[u8],
    auth: Option<(SecTrailer, &[u8])>,
) -> Vec<u8> {
    let mut body = RequestHead { alloc_hint: stub.len() as u32, context_id, opnum, object: None }.to_bytes();
    body.extend_from_slice(stub);
    pdu(PacketType::REQUEST, flags, call_id, &body, auth)
}

/// A server with Netlogon in context 0.
fn bound(flags: PacketFlags) -> ServerAssociation {
    let mut server = server();
    server.receive(&bind_pdu(
        WHOLE.with(flags),
        &bind_of(vec![element(0, NETLOGON, &[SyntaxId::NDR])]),
        None,
    ));
    assert!(server.is_bound());
    sent(&mut server);
    server
}

/// The same under a security context 5 at privacy.
fn protected(features: bool) -> ServerAssociation {
    let mut server = server();
    let mut contexts = vec![element(0, NETLOGON, &[SyntaxId::NDR])];
    if features {
        contexts.push(element(1, NETLOGON, &[Features(3).syntax()]));
    }
    server.receive(&bind_pdu(WHOLE, &bind_of(contexts), Some((trailer(5, 6), b"yes"))));
    authenticate(&mut server);
    assert!(server.is_bound());
    sent(&mut server);
    server
}

/// A fault as the wire has it, or nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    Fault(FaultStatus),
    Nak(BindNakReason),
    Other(PacketType),
    Nothing,
}

fn answer(server: &mut ServerAssociation) -> Answer {
    let bytes = sent(server);
    let Ok(Some(header)) = Header::decode(&bytes) else { return Answer::Nothing };
    let mut body = Reader::new(&bytes[16..]);
    match header.packet_type {
        PacketType::FAULT => Answer::Fault(FaultBody::decode(&mut body).expect("our own").status),
        PacketType::BIND_NAK => Answer::Nak(BindNak::decode(&mut body).expect("our own").reason),
        other => Answer::Other(other),
    }
}

/// The example of the digest, section 3.
const BIND: &str = "
05000b1710000000bd00150001000000d016d016000000000300000000000100785634123412cdabef0001234567cffb
01000000045d888aeb1cc9119fe808002b1048600200000001000100785634123412cdabef0001234567cffb01000000
33057171babe37498319b5dbef9ccc360100000002000100785634123412cdabef0001234567cffb010000002c1cb76c
1298404503000000000000000100000044060000010000000000000003000000434f4e544f534f005745423100";
const BIND_ACK: &str = "
05000c171000000080000c0001000000d016d0162b1a000006003439363634000300000000000000045d888aeb1cc911
9fe808002b10486002000000020002000000000000000000000000000000000000000000030003000000000000000000
0000000000000000000000004406000001000000010000000000000000000000";

#[test]
fn bind_and_its_answer_are_the_digest_s_example() {
    let mut server = server();
    server.receive(&unhex(BIND));
    let Some(Event::Authenticate(request)) = server.poll_event() else { panic!("there is a token") };
    assert_eq!(request.token, unhex("0000000003000000 434f4e544f534f00 5745423100"));
    assert_eq!((request.auth_type, request.auth_level), (AuthType::NETLOGON, AuthLevel::PRIVACY));
    assert!(server.poll_transmit().is_none(), "nothing is answered before the verdict");
    let token = unhex("010000000000000000000000");
    server.authenticated(Authentication::Accepted { context: Box::new(Counting { count: 0 }), token });
    let mut expect = unhex(BIND_ACK);
    // The association group's number is ours to choose.
    expect[20..24].copy_from_slice(&[1, 0, 0, 0]);
    assert_eq!(dtyp::hex(&sent(&mut server)), dtyp::hex(&expect));
}

#[test]
fn a_ticket_of_60_kilobytes_comes_in_one_bind() {
    let contexts = bind_of(vec![element(0, NETLOGON, &[SyntaxId::NDR])]);
    for len in [12, 48, 60].map(|kilobytes| kilobytes * 1024) {
        let mut token = vec![0xa5; len];
        token[0] = b'm';
        let bind = bind_pdu(WHOLE, &contexts, Some((trailer(1, 6), &token)));
        assert_eq!(
            Header::decode(&bind).map(|h| h.map(|h| usize::from(h.frag_length))),
            Ok(Some(bind.len()))
        );
        let mut server = server();
        for piece in bind.chunks(1460) {
            assert!(server.wants_read(), "{len}");
            server.receive(piece);
        }
        let Some(Event::Authenticate(request)) = server.poll_event() else {
            panic!("{len}: there is a token")
        };
        assert!(request.token == token, "{len}");
        server.authenticated(Authentication::Continue { state: Box::new(()), token: vec![8; 4] });
        assert_eq!(sent(&mut server)[2], PacketType::BIND_ACK.0, "{len}");
        // The last leg is as long.
        token[0] = b'y';
        server.receive(&pdu(PacketType::AUTH3, WHOLE, 1, &[0; 4], Some((trailer(1, 6), &token))));
        authenticate(&mut server);
        assert!(!server.is_closing(), "{len}");
    }
}

#[test]
fn a_token_does_not_go_on_in_another_pdu() {
    let contexts = bind_of(vec![element(0, NETLOGON, &[SyntaxId::NDR])]);
    for flags in [FIRST, MIDDLE, PacketFlags::SUPPORT_HEADER_SIGN] {
        let mut server = server();
        server.receive(&bind_pdu(flags, &contexts, Some((trailer(1, 6), b"yes"))));
        assert!(server.poll_event().is_none(), "no provider is asked");
        assert_eq!(sent(&mut server)[2], PacketType::BIND_NAK.0, "{flags:?}");
        assert!(server.is_closing());

        for packet_type in [PacketType::ALTER_CONTEXT, PacketType::AUTH3] {
            let mut server = self::server();
            server.receive(&bind_pdu(WHOLE, &contexts, Some((trailer(1, 6), b"more"))));
            authenticate(&mut server);
            sent(&mut server);
            let body = match packet_type {
                PacketType::AUTH3 => vec![0; 4],
                _ => contexts.to_bytes(),
            };
            server.receive(&pdu(packet_type, flags, 2, &body, Some((trailer(1, 6), b"yes"))));
            assert!(server.poll_event().is_none(), "no provider is asked");
            assert_eq!(sent(&mut server)[2], PacketType::FAULT.0, "{packet_type:?} {flags:?}");
            assert!(server.is_closing());
        }
    }
}

#[test]
fn no_truncated_bind_is_taken() {
    let whole = unhex(BIND);
    for len in 0..whole.len() {
        let mut server = server();
        server.receive(&whole[..len]);
        assert!(server.poll_event().is_none() && server.poll_transmit().is_none(), "{len}");
        // The same bytes with a length that fits them.
        let mut short = whole[..len].to_vec();
        if len >= 16 {
            short[8..10].copy_from_slice(&(len as u16).to_le_bytes());
            let mut server = self::server();
            server.receive(&short);
            assert!(server.is_closing(), "{len}");
        }
    }
}

#[test]
fn what_a_bind_must_not_do() {
    let ndr = || vec![element(0, NETLOGON, &[SyntaxId::NDR])];
    let feature = |id| element(id, NETLOGON, &[Features(3).syntax()]);
    let nak = |reason| Answer::Nak(BindNakReason(reason));
    for (what, bind, auth, expect) in [
        ("no contexts", bind_of(vec![]), None, nak(4)),
        ("a context without syntaxes", bind_of(vec![element(0, NETLOGON, &[])]), None, nak(0)),
        ("features twice", bind_of(vec![feature(0), feature(1)]), None, nak(0)),
        ("an unknown group", Bind { assoc_group_id: 99, ..bind_of(ndr()) }, None, nak(0)),
        ("a rejected token", bind_of(ndr()), Some((trailer(1, 6), &b"no"[..])), nak(9)),
        ("an unknown provider", bind_of(ndr()), Some((trailer(1, 6), &b"unknown"[..])), nak(8)),
        ("a level of nothing", bind_of(ndr()), Some((trailer(1, 1), &b"unknown"[..])), nak(0)),
        ("a level that there is not", bind_of(ndr()), Some((trailer(1, 7), &b"yes"[..])), nak(0)),
        (
            "one number for two interfaces",
            bind_of(vec![element(0, NETLOGON, &[SyntaxId::NDR]), element(0, MANAGEMENT, &[SyntaxId::NDR])]),
            None,
            nak(0),
        ),
    ] {
        let mut server = server();
        server.receive(&bind_pdu(WHOLE, &bind, auth));
        authenticate(&mut server);
        assert_eq!(answer(&mut server), expect, "{what}");
        assert!(server.is_closing(), "{what}");
    }
    let mut version = bind_pdu(WHOLE, &bind_of(ndr()), None);
    version[0] = 4;
    let mut server = server();
    server.receive(&version);
    assert_eq!(answer(&mut server), nak(4), "another version");
    let mut lengths = bind_pdu(WHOLE, &bind_of(ndr()), None);
    lengths[8..12].copy_from_slice(&[28, 0, 8, 0]);
    let mut server = self::server();
    server.receive(&lengths);
    assert_eq!(answer(&mut server), nak(4), "no room for its token");
    let mut second = bound(WHOLE);
    second.receive(&bind_pdu(WHOLE, &bind_of(ndr()), None));
    assert_eq!(answer(&mut second), nak(0), "a second bind");
}

#[test]
fn one_form_of_an_interface_is_accepted() {
    let results = |contexts| {
        let mut server = server();
        server.receive(&bind_pdu(WHOLE, &bind_of(contexts), None));
        let bytes = sent(&mut server);
        let mut body = Reader::new(&bytes);
        body.take("header", 16).expect("it is there");
        let ack = BindAck::decode(&mut body).expect("our own");
        ack.results.iter().map(|r| (r.result.result, r.result.reason)).collect::<Vec<_>>()
    };
    let (ndr, ndr64) = (SyntaxId::NDR, SyntaxId::NDR64);
    let unknown = SyntaxId::new(Guid::new(1, 2, 3, [4; 8]), 1, 0);
    let version = SyntaxId { major: 2, ..NETLOGON };
    for (contexts, expect) in [
        (vec![element(0, NETLOGON, &[ndr])], vec![(0, 0)]),
        (vec![element(0, NETLOGON, &[ndr]), element(1, NETLOGON, &[ndr64])], vec![(0, 0), (2, 2)]),
        (vec![element(0, NETLOGON, &[ndr64]), element(1, NETLOGON, &[ndr])], vec![(2, 2), (0, 0)]),
        (vec![element(0, NETLOGON, &[ndr64])], vec![(0, 0)]),
        (vec![element(0, NETLOGON, &[ndr64, ndr])], vec![(0, 0)]),
        (vec![element(0, unknown, &[ndr]), element(1, version, &[ndr])], vec![(2, 1), (2, 1)]),
        (vec![element(0, NETLOGON, &[unknown])], vec![(2, 2)]),
        (
            vec![element(0, NETLOGON, &[ndr]), element(1, NETLOGON, &[Features(7).syntax()])],
            vec![(0, 0), (3, 3)],
        ),
        (vec![element(0, NETLOGON, &[Features(1).syntax()])], vec![(3, 1)]),
    ] {
        assert_eq!(results(contexts.clone()), expect, "{contexts:?}");
    }
    let late = |before: usize| {
        let mut syntaxes = vec![unknown; before];
        syntaxes.push(ndr);
        vec![element(0, NETLOGON, &syntaxes)]
    };
    assert_eq!(results(late(limits::TRANSFER_SYNTAXES_MAX - 1)), [(0, 0)]);
    assert_eq!(results(late(limits::TRANSFER_SYNTAXES_MAX)), [(2, 2)], "no more are looked at");
    let twice = vec![element(0, NETLOGON, &[ndr]), element(1, NETLOGON, &[ndr])];
    assert_eq!(results(twice), [(0, 0), (2, 2)], "once in a PDU");
}

/// As Windows has it, by Samba's tests.
#[test]
fn context_is_proposed_again_in_its_own_form_alone() {
    let (ndr, ndr64) = (SyntaxId::NDR, SyntaxId::NDR64);
    let unknown = SyntaxId::new(Guid::new(1, 2, 3, [4; 8]), 1, 0);
    let unauthenticated = SecTrailer { auth_type: AuthType::NONE, ..trailer(5, 6) };
    let conflict = Answer::Fault(FaultStatus::PROTO_ERROR);
    for (syntaxes, auth, expect) in [
        (vec![ndr], None, Answer::Other(PacketType::ALTER_CONTEXT_RESP)),
        // What we do not speak is passed over: such a context is accepted again, or rejected for itself.
        (vec![unknown, ndr], None, Answer::Other(PacketType::ALTER_CONTEXT_RESP)),
        (vec![unknown], None, Answer::Other(PacketType::ALTER_CONTEXT_RESP)),
        (vec![ndr64], None, conflict),
        (vec![ndr, ndr64], None, conflict),
        (vec![], None, conflict),
        (vec![ndr, ndr64], Some((trailer(5, 5), &b"end"[..])), conflict),
        (vec![ndr, ndr64], Some((unauthenticated, b"end")), Answer::Fault(FaultStatus::ACCESS_DENIED)),
    ] {
        let mut server = server();
        server.receive(&bind_pdu(WHOLE, &bind_of(vec![element(0, NETLOGON, &[ndr])]), None));
        sent(&mut server);
        let again = bind_of(vec![element(0, NETLOGON, &syntaxes)]).to_bytes();
        server.receive(&pdu(PacketType::ALTER_CONTEXT, WHOLE, 2, &again, auth));
        authenticate(&mut server);
        assert_eq!(answer(&mut server), expect, "{syntaxes:?} {auth:?}");
    }
    // Nor does it become another interface, whether that is served or not.
    let mut server = server();
    server.receive(&bind_pdu(WHOLE, &bind_of(vec![element(0, NETLOGON, &[ndr])]), None));
    sent(&mut server);
    let other = bind_of(vec![element(0, unknown, &[ndr])]).to_bytes();
    server.receive(&pdu(PacketType::ALTER_CONTEXT, WHOLE, 2, &other, None));
    assert_eq!(answer(&mut server), conflict);
}

#[test]
fn sixty_four_presentation_contexts_are_enough() {
    let mut server = bound(WHOLE);
    for id in 1..=64 {
        let alter = bind_of(vec![element(id, NETLOGON, &[SyntaxId::NDR])]);
        server.receive(&pdu(PacketType::ALTER_CONTEXT, WHOLE, 2, &alter.to_bytes(), None));
        let bytes = sent(&mut server);
        let ack = BindAck::decode(&mut Reader::new(&bytes[16..])).expect("our own");
        let expect = if id < 64 { ResultReason::ACCEPTANCE } else { ResultReason::LOCAL_LIMIT_EXCEEDED };
        assert_eq!(ack.results[0].result, expect, "{id}");
    }
}

/// What Windows does, as Samba's tests of raw DCE/RPC have it.
#[test]
fn flags_of_binds_are_not_looked_at_and_some_are_echoed() {
    let flags_of_answer =
        |server: &mut ServerAssociation| Header::decode(&sent(server)).map(|h| h.map(|h| h.flags));
    for (flags, bind, alter) in [
        (0x00, 0x03, 0x03),
        (0x01, 0x03, 0x03),
        (0x02, 0x03, 0x03),
        (0x04, 0x07, 0x07),
        (0x08, 0x03, 0x03),
        (0x10, 0x13, 0x03),
        (0x20, 0x03, 0x03),
        (0x40, 0x03, 0x03),
        (0x80, 0x03, 0x03),
    ] {
        let contexts = bind_of(vec![element(0, NETLOGON, &[SyntaxId::NDR])]);
        let mut server = server();
        server.receive(&bind_pdu(PacketFlags(flags), &contexts, None));
        assert_eq!(flags_of_answer(&mut server), Ok(Some(PacketFlags(bind))), "bind {flags:#x}");
        let mut server = bound(WHOLE);
        server.receive(&pdu(PacketType::ALTER_CONTEXT, PacketFlags(flags), 2, &contexts.to_bytes(), None));
        assert_eq!(flags_of_answer(&mut server), Ok(Some(PacketFlags(alter))), "alter_context {flags:#x}");
    }
}

/// The same source.
#[test]
fn faults_say_which_call_failed_and_whether_it_was_begun() {
    let alter = |contexts| pdu(PacketType::ALTER_CONTEXT, WHOLE, 9, &bind_of(contexts).to_bytes(), None);
    let first = |call_id| request_pdu(FIRST, call_id, 0, 4, &[], None);
    for (what, flags, pdus, expect) in [
        ("an unknown context", MIDDLE, vec![request_pdu(WHOLE, 5, 9, 4, &[], None)], (5, 0x23, 0)),
        (
            "cancelled at its start",
            MIDDLE,
            vec![request_pdu(FIRST.with(PacketFlags::PENDING_CANCEL), 5, 0, 4, &[], None)],
            (5, 0x23, 0),
        ),
        ("alter_context with nothing", MIDDLE, vec![alter(vec![])], (9, 0x23, 0)),
        ("a start within a start", MIDDLE, vec![first(50), first(51)], (50, 0x03, 0)),
        (
            "an unknown context within a start",
            MPX,
            vec![first(50), request_pdu(WHOLE, 51, 9, 4, &[], None)],
            (51, 0x03, 0),
        ),
    ] {
        let mut server = bound(flags);
        pdus.iter().for_each(|pdu| server.receive(pdu));
        let bytes = sent(&mut server);
        let header = Header::decode(&bytes).expect("our own").expect("whole");
        let fault = FaultBody::decode(&mut Reader::new(&bytes[16..])).expect("a fault");
        assert_eq!((header.call_id, header.flags.0, fault.context_id), expect, "{what}");
    }
}

/// The same source.
#[test]
fn a_response_carries_the_low_byte_of_its_context() {
    let mut server = server();
    let bind = bind_of(vec![element(0xfffe, NETLOGON, &[SyntaxId::NDR])]);
    server.receive(&bind_pdu(WHOLE, &bind, None));
    sent(&mut server);
    server.receive(&request_pdu(WHOLE, 2, 0xfffe, 4, &[], None));
    assert_eq!(calls(&mut server).len(), 1);
    server.reply(2, Ok(vec![1, 2, 3].into()));
    assert_eq!(sent(&mut server)[20..22], [0xfe, 0]);
}

#[test]
fn fragments_are_as_long_as_both_sides_want() {
    for (xmit, recv, expect) in
        [(5840, 5840, 5840), (4280, 4280, 4280), (100, 5840, 2048), (65535, 65535, 5840), (3003, 5000, 3000)]
    {
        let mut server = server();
        let bind = Bind {
            max_xmit_frag: xmit,
            max_recv_frag: recv,
            ..bind_of(vec![element(0, NETLOGON, &[SyntaxId::NDR])])
        };
        server.receive(&bind_pdu(WHOLE, &bind, None));
        let bytes = sent(&mut server);
        assert_eq!(bytes[16..20], [u16::to_le_bytes(expect), u16::to_le_bytes(expect)].concat());
    }
}

/// What an anonymous client sends, the answer, and whether the server closes.
type Forbidden = (&'static str, Vec<Vec<u8>>, Answer, bool);

/// Fragments that do not belong together.
fn wrong_fragments() -> Vec<Forbidden> {
    let cancel = WHOLE.with(PacketFlags::PENDING_CANCEL);
    vec![
        (
            "an unknown context",
            vec![request_pdu(WHOLE, 2, 9, 4, &[], None)],
            Answer::Fault(FaultStatus::UNKNOWN_IF),
            false,
        ),
        (
            "a cancel at once",
            vec![request_pdu(cancel, 2, 0, 4, &[], None)],
            Answer::Fault(FaultStatus::NO_CALL_ACTIVE),
            true,
        ),
        (
            "a middle without a start",
            vec![request_pdu(MIDDLE, 2, 0, 4, &[], None)],
            Answer::Fault(FaultStatus::PROTO_ERROR),
            true,
        ),
        (
            "an end without a start",
            vec![request_pdu(LAST, 2, 0, 4, &[], None)],
            Answer::Fault(FaultStatus::PROTO_ERROR),
            true,
        ),
        (
            "a start within another",
            vec![request_pdu(FIRST, 2, 0, 4, &[], None), request_pdu(FIRST, 3, 0, 4, &[], None)],
            Answer::Fault(FaultStatus::PROTO_ERROR),
            true,
        ),
        (
            "another method in the middle",
            vec![request_pdu(FIRST, 2, 0, 4, &[], None), request_pdu(LAST, 2, 0, 5, &[], None)],
            Answer::Fault(FaultStatus::PROTO_ERROR),
            true,
        ),
        (
            "another context in the middle",
            vec![request_pdu(FIRST, 2, 0, 4, &[], None), request_pdu(LAST, 2, 1, 4, &[], None)],
            Answer::Fault(FaultStatus::PROTO_ERROR),
            true,
        ),
        (
            "an orphan of a half call, then a start",
            vec![
                request_pdu(FIRST, 2, 0, 4, &[], None),
                pdu(PacketType::ORPHANED, WHOLE, 2, &[], None),
                request_pdu(FIRST, 3, 0, 4, &[], None),
            ],
            Answer::Fault(FaultStatus::PROTO_ERROR),
            true,
        ),
    ]
}

/// PDUs and parts of them that the server has not agreed to.
fn wrong_pdus() -> Vec<Forbidden> {
    let too_long = vec![0; limits::FRAGMENT_LEN_MAX];
    let hinted = {
        let mut request = request_pdu(FIRST, 2, 0, 4, &[], None);
        request[16..20].copy_from_slice(&0x40_0001u32.to_le_bytes());
        request
    };
    vec![
        (
            "a fragment beyond the transport's",
            vec![request_pdu(WHOLE, 2, 0, 4, &too_long, None)],
            Answer::Fault(FaultStatus::PROTO_ERROR),
            true,
        ),
        ("a hint beyond reason", vec![hinted], Answer::Fault(FaultStatus::ACCESS_DENIED), true),
        (
            "a token of an unknown context",
            vec![request_pdu(WHOLE, 2, 0, 4, &[], Some((trailer(7, 6), &[1; 16])))],
            Answer::Fault(FaultStatus::ACCESS_DENIED),
            true,
        ),
        ("a server's PDU", vec![pdu(PacketType::RESPONSE, WHOLE, 2, &[0; 8], None)], Answer::Nothing, true),
        ("a PDU of another transport", vec![pdu(PacketType(20), WHOLE, 2, &[], None)], Answer::Nothing, true),
        (
            "auth3 of nothing",
            vec![pdu(PacketType::AUTH3, WHOLE, 2, &[0; 4], None)],
            Answer::Fault(FaultStatus::PROTO_ERROR),
            true,
        ),
        (
            "alter without contexts",
            vec![pdu(PacketType::ALTER_CONTEXT, WHOLE, 2, &bind_of(vec![]).to_bytes(), None)],
            Answer::Fault(FaultStatus::PROTO_ERROR),
            true,
        ),
        (
            "a number used for another interface",
            vec![pdu(
                PacketType::ALTER_CONTEXT,
                WHOLE,
                2,
                &bind_of(vec![element(0, MANAGEMENT, &[SyntaxId::NDR])]).to_bytes(),
                None,
            )],
            Answer::Fault(FaultStatus::PROTO_ERROR),
            true,
        ),
    ]
}

#[test]
fn what_an_anonymous_call_must_not_do() {
    for (what, pdus, expect, closes) in wrong_fragments().into_iter().chain(wrong_pdus()) {
        let mut server = bound(MIDDLE);
        pdus.iter().for_each(|pdu| server.receive(pdu));
        assert_eq!(answer(&mut server), expect, "{what}");
        assert_eq!(server.is_closing(), closes, "{what}");
        assert!(calls(&mut server).is_empty(), "{what}");
    }
    for packet_type in
        [PacketType::REQUEST, PacketType::ALTER_CONTEXT, PacketType::AUTH3, PacketType::CO_CANCEL]
    {
        let mut server = server();
        server.receive(&pdu(packet_type, WHOLE, 2, &[0; 8], None));
        assert_eq!(
            answer(&mut server),
            Answer::Fault(FaultStatus::PROTO_ERROR),
            "{packet_type:?} before a bind"
        );
        assert!(server.is_closing());
    }
}

#[test]
fn a_fault_has_its_documented_bytes() {
    let mut server = bound(MIDDLE);
    server.receive(&request_pdu(WHOLE, 2, 9, 4, &[], None));
    let expect = "05000323100000002000000002000000 18000000 0000 0000 0300011c 00000000";
    assert_eq!(dtyp::hex(&sent(&mut server)), dtyp::hex(&unhex(expect)));
}

#[test]
fn header_garbage_closes_without_a_word() {
    for (at, value) in [(4, 0x20), (5, 1), (8, 15), (10, 0xff), (0, 4)] {
        let mut server = bound(MIDDLE);
        let mut request = request_pdu(WHOLE, 2, 0, 4, &[0; 8], None);
        request[at] = value;
        server.receive(&request);
        assert_eq!(answer(&mut server), Answer::Nothing, "byte {at}");
        assert!(server.is_closing(), "byte {at}");
    }
}

#[test]
fn fragments_of_several_calls_may_mix_when_the_client_multiplexes() {
    let mut server = bound(MPX);
    for (flags, id, stub) in
        [(FIRST, 2, b"a"), (FIRST, 3, b"x"), (MIDDLE, 2, b"b"), (LAST, 3, b"y"), (LAST, 2, b"c")]
    {
        server.receive(&request_pdu(flags, id, 0, 4, stub, None));
    }
    let calls: Vec<_> = calls(&mut server).into_iter().map(|call| (call.id, call.stub)).collect();
    assert_eq!(calls, [(3, b"xy".to_vec()), (2, b"abc".to_vec())]);
    let mut many = bound(MPX);
    for id in 0..=limits::CALLS_UNFINISHED_MAX as u32 {
        many.receive(&request_pdu(FIRST, id, 0, 4, &[], None));
    }
    assert_eq!(answer(&mut many), Answer::Fault(FaultStatus::SERVER_TOO_BUSY));
}

#[test]
fn one_byte_at_a_time_is_as_good_as_all_at_once() {
    let mut server = server();
    for byte in bind_pdu(WHOLE, &bind_of(vec![element(0, NETLOGON, &[SyntaxId::NDR])]), None) {
        server.receive(&[byte]);
    }
    for byte in request_pdu(WHOLE, 2, 0, 4, b"stub", None) {
        server.receive(&[byte]);
    }
    assert_eq!(calls(&mut server).len(), 1);
}

#[test]
fn a_big_endian_client_is_understood() {
    let mut bind = unhex(
        "05000b0300000000 0048 0000 00000007 1000 1000 00000000 01 000000 0000 01 00
         12345678 1234 abcd ef0001234567cffb 00000001 8a885d04 1ceb 11c9 9fe808002b104860 00000002",
    );
    let mut server = server();
    server.receive(&bind);
    assert!(server.is_bound());
    assert_eq!(answer(&mut server), Answer::Other(PacketType::BIND_ACK));
    bind.clear();
    server.receive(&unhex("0500000300000000 001c 0000 00000008 00000004 0000 001a 00000007"));
    let call = calls(&mut server).pop().expect("it is whole");
    assert_eq!((call.id, call.opnum, call.order), (8, 26, ByteOrder::Big));
}

#[test]
fn a_call_longer_than_four_mebibytes_is_refused() {
    let mut server = bound(MIDDLE);
    let chunk = vec![0; 5800];
    let mut flags = FIRST;
    for at in (0..limits::CALL_LEN_MAX).step_by(chunk.len()) {
        assert!(!server.is_closing(), "{at}");
        server.receive(&request_pdu(flags, 2, 0, 4, &chunk, None));
        flags = MIDDLE;
    }
    assert_eq!(answer(&mut server), Answer::Fault(FaultStatus::ACCESS_DENIED));
    assert!(server.is_closing());
}

#[test]
fn of_an_anonymous_call_the_beginning_is_kept() {
    let mut server = bound(MIDDLE);
    let chunk = vec![7; 5800];
    for n in 0..20 {
        let flags = if n == 0 { FIRST } else { MIDDLE };
        server.receive(&request_pdu(flags, 2, 0, 4, &chunk, None));
    }
    assert_eq!(server.config.reassembly.used(), 0, "it is the owner's budget that pays");
    let held = server.held_bytes();
    assert!(
        (limits::ANONYMOUS_CALL_LEN_MAX..limits::ANONYMOUS_CALL_LEN_MAX + 1024).contains(&held),
        "{held}"
    );
    server.receive(&request_pdu(LAST, 2, 0, 4, &[], None));
    assert_eq!(calls(&mut server)[0].stub.len(), limits::ANONYMOUS_CALL_LEN_MAX);
    assert!(server.held_bytes() >= limits::ANONYMOUS_CALL_LEN_MAX, "its owner has the stub");
    server.reply(2, Ok(Reply::default()));
    sent(&mut server);
    assert!(server.held_bytes() < 1024, "it is given back");
}

#[test]
fn all_calls_together_have_a_budget() {
    let config = Arc::new(ServerConfig {
        reassembly: Arc::new(ReassemblyBudget::new(limits::REASSEMBLY_ACCOUNT_SHARE * 40_000)),
        ..(*config()).clone_parts()
    });
    let mut servers: Vec<_> = (0..2)
        .map(|_| {
            let mut server = ServerAssociation::new(Arc::clone(&config), HERE);
            server.receive(&bind_pdu(WHOLE, &bind_of(vec![element(0, NETLOGON, &[SyntaxId::NDR])]), None));
            sent(&mut server);
            server
        })
        .collect();
    servers[0].receive(&request_pdu(FIRST, 2, 0, 4, &[0; 5800], None));
    servers[1].receive(&request_pdu(FIRST, 2, 0, 4, &[0; 5800], None));
    // Calls without a security context take nothing of it, and neither does a call of one fragment.
    assert!(servers.iter_mut().all(|server| answer(server) == Answer::Nothing));
    assert_eq!(config.reassembly.used(), 0);
    let start = |server: &mut ServerAssociation| {
        server.receive(&bind_pdu(
            WHOLE,
            &bind_of(vec![element(0, NETLOGON, &[SyntaxId::NDR])]),
            Some((trailer(5, 6), b"yes")),
        ));
        authenticate(server);
        sent(server);
    };
    let fragment =
        |flags, n| request_pdu(flags, 2, 0, 39, &[0; 5760], Some((trailer(5, 6), &[n; TOKEN_LEN])));
    let mut proven = ServerAssociation::new(Arc::clone(&config), HERE);
    start(&mut proven);
    for n in 1..=6 {
        proven.receive(&fragment(if n == 1 { FIRST } else { MIDDLE }, n));
        assert_eq!(answer(&mut proven), Answer::Nothing, "{n}");
    }
    let mut single = ServerAssociation::new(Arc::clone(&config), HERE);
    start(&mut single);
    single.receive(&fragment(WHOLE, 1));
    assert_eq!(calls(&mut single).len(), 1);
    assert!(config.reassembly.used() >= 6 * 5760, "{}", config.reassembly.used());
    proven.receive(&fragment(MIDDLE, 7));
    assert_eq!(answer(&mut proven), Answer::Fault(FaultStatus::REMOTE_NO_MEMORY));
    assert_eq!(config.reassembly.used(), 0);
}

/// What an owner charges to its budget for clients that have proved nothing.
#[test]
fn all_that_a_peer_makes_an_association_hold_is_counted() {
    let bind = |auth| bind_pdu(WHOLE.with(MPX), &bind_of(vec![element(0, NETLOGON, &[SyntaxId::NDR])]), auth);
    let mut server = server();
    assert_eq!(server.held_bytes(), 0);
    // Half a PDU, by what is allocated for it.
    let pdu = bind(None);
    server.receive(&pdu[..40]);
    assert!(server.held_bytes() >= 40);
    assert_eq!(server.partial_pdu(), Some(0));
    server.receive(&pdu[40..]);
    assert_eq!(server.partial_pdu(), None);
    let answered = server.held_bytes();
    assert!(answered > 0, "an answer that is not sent yet, and a presentation context");
    sent(&mut server);
    let idle = server.held_bytes();
    assert!(idle < answered && idle < 256, "{idle}");
    // A whole call, until it is answered; another one behind it, of which only the beginning came.
    let mut call = request_pdu(WHOLE, 2, 0, 4, &[0; 5000], None);
    let other = request_pdu(WHOLE, 3, 0, 4, &[0; 5000], None);
    call.extend_from_slice(&other[..3000]);
    server.receive_in_place(&mut call);
    assert!(server.held_bytes() >= 8000, "{}", server.held_bytes());
    assert_eq!(server.partial_pdu(), Some(2));
    let Some(Event::Call(performed)) = server.poll_event() else { panic!("a call") };
    assert!(server.held_bytes() >= 8000, "the owner has its stub");
    drop(performed);
    server.receive_in_place(&mut other[3000..].to_vec());
    assert_eq!(server.partial_pdu(), None);
    for id in [2, 3] {
        server.reply(id, Ok(Reply::from(vec![0; 10_000])));
    }
    assert!(server.held_bytes() >= 20_000, "answers that wait: {}", server.held_bytes());
    sent(&mut server);
    assert_eq!(server.held_bytes(), idle, "an idle connection has no buffer");
    // A token that is being validated, and the context that comes of it.
    let mut server = self::server();
    server.receive(&bind(Some((trailer(5, 6), &[1; 3000]))));
    assert!(server.held_bytes() >= 3000 + limits::SECURITY_CONTEXT_LEN);
    assert_eq!(server.proved_account(), None);
}

#[test]
fn several_calls_together_hold_what_one_may() {
    let mut server = server();
    let bind = bind_of(vec![element(0, NETLOGON, &[SyntaxId::NDR])]);
    server.receive(&bind_pdu(WHOLE.with(MPX), &bind, Some((trailer(5, 6), b"yes"))));
    authenticate(&mut server);
    sent(&mut server);
    let mut count = 0u8;
    let mut fragment = |flags, call_id| {
        count = count.wrapping_add(1);
        request_pdu(flags, call_id, 0, 39, &[0; 5760], Some((trailer(5, 6), &[count; TOKEN_LEN])))
    };
    for call_id in [2, 3] {
        server.receive(&fragment(FIRST, call_id));
    }
    let half = limits::CALL_LEN_MAX / 2 / 5760;
    for _ in 1..half {
        server.receive(&fragment(MIDDLE, 2));
        server.receive(&fragment(MIDDLE, 3));
    }
    assert_eq!(answer(&mut server), Answer::Nothing);
    server.receive(&fragment(MIDDLE, 2));
    assert_eq!(answer(&mut server), Answer::Fault(FaultStatus::REMOTE_NO_MEMORY));
    assert_eq!(server.config.reassembly.used(), 0);
}

impl ServerConfig {
    fn clone_parts(&self) -> Self {
        Self {
            interfaces: self.interfaces.clone(),
            secondary_address: self.secondary_address.clone(),
            groups: Arc::clone(&self.groups),
            reassembly: Arc::clone(&self.reassembly),
        }
    }
}

#[test]
fn calls_that_are_not_answered_stop_the_reading() {
    let mut server = bound(MIDDLE);
    for id in 2..100 {
        server.receive(&request_pdu(WHOLE, id, 0, 4, &[0; 5000], None));
    }
    assert_eq!(calls(&mut server).len(), 1, "without multiplexing, one at a time");
    assert!(!server.wants_read());
    server.reply(2, Ok(Reply::default()));
    assert_eq!(calls(&mut server).len(), 1);
    let mut server = bound(MPX);
    for id in 2..100 {
        server.receive(&request_pdu(WHOLE, id, 0, 4, &[], None));
    }
    assert_eq!(calls(&mut server).len(), limits::CALLS_WAITING_MAX);
}

#[test]
fn cancelled_and_orphaned_calls_are_told() {
    let mut server = bound(MPX);
    server.receive(&request_pdu(WHOLE, 2, 0, 4, &[], None));
    server.receive(&request_pdu(WHOLE, 3, 0, 4, &[], None));
    calls(&mut server);
    server.receive(&pdu(PacketType::CO_CANCEL, WHOLE, 2, &[], None));
    server.receive(&pdu(PacketType::ORPHANED, WHOLE, 3, &[], None));
    server.receive(&pdu(PacketType::ORPHANED, WHOLE, 99, &[], None));
    let cancelled: Vec<_> =
        std::iter::from_fn(|| server.poll_event()).map(|event| format!("{event:?}")).collect();
    assert_eq!(cancelled, ["Cancel(2)", "Cancel(3)"]);
    server.reply(2, Err(FaultStatus::CANCEL));
    assert_eq!(answer(&mut server), Answer::Fault(FaultStatus::CANCEL));
    server.reply(3, Ok(Reply::default()));
    assert_eq!(answer(&mut server), Answer::Nothing, "no call waits for it");
    assert!(server.is_idle());
}

#[test]
fn a_flood_of_cancels_takes_no_memory() {
    let mut server = bound(MPX);
    server.receive(&request_pdu(WHOLE, 2, 0, 4, &[], None));
    for _ in 0..10_000 {
        server.receive(&pdu(PacketType::CO_CANCEL, WHOLE, 2, &[], None));
        server.receive(&pdu(PacketType::CO_CANCEL, WHOLE, 3, &[], None));
    }
    assert!(server.events.len() <= 2 * limits::CALLS_WAITING_MAX, "{}", server.events.len());
}

#[test]
fn what_a_protected_call_must_not_do() {
    let good = |count: u8| Some((trailer(5, 6), vec![count; TOKEN_LEN]));
    for (what, auth, expect) in [
        ("no token", None, FaultStatus::PROTO_ERROR),
        ("another's token", Some((trailer(6, 6), vec![1; TOKEN_LEN])), FaultStatus::ACCESS_DENIED),
        ("a lower level", Some((trailer(5, 5), vec![1; TOKEN_LEN])), FaultStatus::ACCESS_DENIED),
        (
            "another provider",
            Some((SecTrailer { auth_type: AuthType::NTLM, ..trailer(5, 6) }, vec![1; TOKEN_LEN])),
            FaultStatus::ACCESS_DENIED,
        ),
        ("a wrong token", good(9), FaultStatus::SEC_PKG_ERROR),
        (
            "padding beyond the stub",
            Some((SecTrailer { auth_pad_length: 20, ..trailer(5, 6) }, vec![1; TOKEN_LEN])),
            FaultStatus::PROTO_ERROR,
        ),
    ] {
        let mut server = protected(false);
        let auth = auth.as_ref().map(|(trailer, token)| (*trailer, &token[..]));
        server.receive(&request_pdu(WHOLE, 2, 0, 39, &[0; 16], auth));
        assert_eq!(answer(&mut server), Answer::Fault(expect), "{what}");
        assert!(server.is_closing() && calls(&mut server).is_empty(), "{what}");
    }
    let mut server = protected(false);
    server.receive(&request_pdu(
        WHOLE,
        2,
        0,
        39,
        &[7; 16],
        good(1).as_ref().map(|(t, token)| (*t, &token[..])),
    ));
    let call = calls(&mut server).pop().expect("it verifies");
    let security = call.security.expect("it is protected");
    assert_eq!((security.auth_type, security.level), (AuthType::NETLOGON, AuthLevel::PRIVACY));
    assert_eq!(security.identity.downcast_ref::<&str>(), Some(&"counting"));
}

#[test]
fn a_second_security_context_is_taken_with_multiplexing_and_without() {
    let alter = pdu(
        PacketType::ALTER_CONTEXT,
        WHOLE,
        2,
        &bind_of(vec![element(0, NETLOGON, &[SyntaxId::NDR])]).to_bytes(),
        Some((trailer(6, 6), b"yes")),
    );
    let mut without = protected(false);
    without.receive(&alter);
    authenticate(&mut without);
    assert_eq!(answer(&mut without), Answer::Other(PacketType::ALTER_CONTEXT_RESP));
    let mut with = protected(true);
    with.receive(&alter);
    authenticate(&mut with);
    assert_eq!(answer(&mut with), Answer::Other(PacketType::ALTER_CONTEXT_RESP));
    with.receive(&alter);
    assert_eq!(answer(&mut with), Answer::Fault(FaultStatus::ACCESS_DENIED), "no client authenticates twice");
}

#[test]
fn unproven_security_contexts_are_few() {
    let mut server = protected(true);
    let body = bind_of(vec![element(0, NETLOGON, &[SyntaxId::NDR])]).to_bytes();
    // A provider that accepts names has proved nothing yet; the first call does.
    assert!(!server.is_proven());
    server.receive(&request_pdu(WHOLE, 2, 0, 39, &[0; 16], Some((trailer(5, 6), &[1; TOKEN_LEN]))));
    assert!(server.is_proven());
    assert_eq!(calls(&mut server).len(), 1);
    server.reply(2, Ok(vec![].into()));
    sent(&mut server);
    for id in 100..100 + limits::SECURITY_CONTEXTS_UNFINISHED_MAX as u32 {
        let token: &[u8] = if id % 2 == 0 { b"more" } else { b"yes" };
        server.receive(&pdu(PacketType::ALTER_CONTEXT, WHOLE, 2, &body, Some((trailer(id, 6), token))));
        authenticate(&mut server);
        assert_eq!(answer(&mut server), Answer::Other(PacketType::ALTER_CONTEXT_RESP), "{id}");
    }
    server.receive(&pdu(PacketType::ALTER_CONTEXT, WHOLE, 2, &body, Some((trailer(99, 6), b"more"))));
    assert_eq!(answer(&mut server), Answer::Fault(FaultStatus::PROTO_ERROR));
}

#[test]
fn proven_security_contexts_have_a_bound_too() {
    let mut server = protected(true);
    let body = bind_of(vec![element(0, NETLOGON, &[SyntaxId::NDR])]).to_bytes();
    let mut prove = |id, expect| {
        let alter = pdu(PacketType::ALTER_CONTEXT, WHOLE, 2, &body, Some((trailer(id, 6), b"yes")));
        server.receive(&alter);
        authenticate(&mut server);
        assert_eq!(answer(&mut server), expect, "{id}");
        server.receive(&request_pdu(WHOLE, 2, 0, 39, &[0; 16], Some((trailer(id, 6), &[1; TOKEN_LEN]))));
        calls(&mut server);
        server.reply(2, Ok(vec![].into()));
        sent(&mut server);
    };
    for id in 100..100 + limits::SECURITY_CONTEXTS_MAX as u32 - 1 {
        prove(id, Answer::Other(PacketType::ALTER_CONTEXT_RESP));
    }
    prove(99, Answer::Fault(FaultStatus::PROTO_ERROR));
}

#[test]
fn one_host_on_ipv6_is_one_source() {
    let source = |text: &str| limits::source_of(text.parse().expect("an address")).to_string();
    assert_eq!(source("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::");
    assert_eq!(source("::ffff:192.0.2.7"), "192.0.2.7");
    assert_eq!(source("192.0.2.7"), "192.0.2.7");
}

#[test]
fn a_peer_that_does_not_take_answers_is_not_read() {
    let mut server = bound(WHOLE.with(MPX));
    let unknown = request_pdu(WHOLE, 2, 9, 4, &[], None);
    for _ in 0..limits::TRANSMITS_WAITING_MAX {
        assert!(server.wants_read());
        server.receive(&unknown);
    }
    assert!(!server.wants_read(), "its faults have to go first");
    sent(&mut server);
    assert!(server.wants_read());
}

#[test]
fn legs_go_on_until_the_provider_is_done() {
    let bind = bind_of(vec![element(0, NETLOGON, &[SyntaxId::NDR])]);
    let open = || {
        let mut server = server();
        server.receive(&bind_pdu(WHOLE, &bind, Some((trailer(5, 6), b"more"))));
        authenticate(&mut server);
        assert_eq!(answer(&mut server), Answer::Other(PacketType::BIND_ACK));
        server
    };
    let request = request_pdu(WHOLE, 3, 0, 39, &[0; 16], Some((trailer(5, 6), &[1; TOKEN_LEN])));
    let mut early = open();
    early.receive(&request);
    assert_eq!(answer(&mut early), Answer::Fault(FaultStatus::PROTO_ERROR), "before it is set up");
    // A last token of the server cannot be sent.
    for (token, expect) in [
        (&b"end"[..], Answer::Nothing),
        (b"yes", Answer::Fault(FaultStatus::ACCESS_DENIED)),
        (b"no", Answer::Fault(FaultStatus::ACCESS_DENIED)),
    ] {
        let mut server = open();
        server.receive(&pdu(PacketType::AUTH3, WHOLE, 2, &[0; 4], Some((trailer(5, 6), token))));
        authenticate(&mut server);
        assert_eq!(answer(&mut server), Answer::Nothing, "auth3 has no answer");
        server.receive(&request);
        assert_eq!(answer(&mut server), expect);
    }
    let mut rejected = open();
    rejected.receive(&pdu(
        PacketType::ALTER_CONTEXT,
        WHOLE,
        2,
        &bind.to_bytes(),
        Some((trailer(5, 6), b"no")),
    ));
    authenticate(&mut rejected);
    assert_eq!(answer(&mut rejected), Answer::Fault(FaultStatus::ACCESS_DENIED));
}

#[test]
fn a_later_leg_does_not_change_type_or_level() {
    let bind = bind_of(vec![element(0, NETLOGON, &[SyntaxId::NDR])]);
    let request = request_pdu(WHOLE, 3, 0, 39, &[0; 16], Some((trailer(5, 6), &[1; TOKEN_LEN])));
    let auth_type = trailer(5, 6).auth_type;
    let [denied, package] = [FaultStatus::ACCESS_DENIED, FaultStatus::SEC_PKG_ERROR];
    for (auth_type, level, alter) in [
        (auth_type, AuthLevel(0), denied),
        (auth_type, AuthLevel::NONE, denied),
        (auth_type, AuthLevel::CONNECT, denied),
        (auth_type, AuthLevel::INTEGRITY, denied),
        (auth_type, AuthLevel(255), denied),
        (AuthType::NONE, AuthLevel::PRIVACY, denied),
        (AuthType::SPNEGO, AuthLevel::PRIVACY, package),
    ] {
        let changed = SecTrailer { auth_type, auth_level: level, ..trailer(5, 6) };
        for (packet_type, body, expect) in [
            (PacketType::AUTH3, vec![0; 4], Answer::Nothing),
            (PacketType::ALTER_CONTEXT, bind.to_bytes(), Answer::Fault(alter)),
        ] {
            let mut server = server();
            server.receive(&bind_pdu(WHOLE, &bind, Some((trailer(5, 6), b"more"))));
            authenticate(&mut server);
            sent(&mut server);
            server.receive(&pdu(packet_type, WHOLE, 2, &body, Some((changed, b"yes"))));
            let Some(Event::Authenticate(leg)) = server.poll_event() else {
                panic!("the provider records it")
            };
            assert_eq!((leg.auth_type, leg.auth_level), (trailer(5, 6).auth_type, AuthLevel::PRIVACY));
            assert_eq!(leg.changed, Some((auth_type, level)));
            // Whatever the provider says.
            server.authenticated(Authentication::Accepted {
                context: Box::new(Counting { count: 0 }),
                token: vec![],
            });
            assert_eq!(answer(&mut server), expect, "{changed:?}");
            if packet_type == PacketType::AUTH3 {
                server.receive(&request);
                assert_eq!(answer(&mut server), Answer::Fault(FaultStatus::ACCESS_DENIED), "{changed:?}");
            }
            assert!(calls(&mut server).is_empty() && server.is_closing(), "{changed:?}");
        }
    }
}

#[test]
fn no_security_context_has_a_level_that_is_not_defined() {
    let bind = bind_of(vec![element(0, NETLOGON, &[SyntaxId::NDR])]);
    for level in [0, 1, 7, 255] {
        let mut server = protected(true);
        let auth = Some((trailer(6, level), &b"yes"[..]));
        server.receive(&pdu(PacketType::ALTER_CONTEXT, WHOLE, 2, &bind.to_bytes(), auth));
        assert!(server.poll_event().is_none(), "no provider is asked about level {level}");
        assert_eq!(answer(&mut server), Answer::Fault(FaultStatus::ACCESS_DENIED), "{level}");
    }
}

#[test]
fn nothing_is_processed_while_a_token_is_judged() {
    let mut server = server();
    let bind = bind_of(vec![element(0, NETLOGON, &[SyntaxId::NDR])]);
    server.receive(&bind_pdu(WHOLE, &bind, Some((trailer(5, 6), b"yes"))));
    server.receive(&request_pdu(WHOLE, 3, 0, 39, &[0; 16], Some((trailer(5, 6), &[1; TOKEN_LEN]))));
    let Some(Event::Authenticate(_)) = server.poll_event() else { panic!("there is a token") };
    assert!(server.poll_event().is_none());
    let token = vec![7; 12];
    server.authenticated(Authentication::Accepted { context: Box::new(Counting { count: 0 }), token });
    assert_eq!(calls(&mut server).len(), 1);
}

#[test]
fn a_lie_in_the_verification_trailer_is_refused() {
    let mut stub = vec![0; 16];
    let claim = verification_trailer::Claim {
        interface: &MANAGEMENT,
        transfer_syntax: &SyntaxId::NDR,
        header_signing: false,
    };
    verification_trailer::append(&mut stub, Some(claim), None);
    stub.resize(stub.len().next_multiple_of(16), 0);
    let mut server = protected(false);
    server.receive(&request_pdu(WHOLE, 2, 0, 39, &stub, Some((trailer(5, 6), &[1; TOKEN_LEN]))));
    assert_eq!(answer(&mut server), Answer::Fault(FaultStatus::ACCESS_DENIED));
}

/// A client and the server, driven until nothing moves.
struct Pair {
    client: ClientAssociation,
    server: ServerAssociation,
}

impl Pair {
    fn new(security: bool) -> Self {
        let security = security.then(|| ClientSecurity {
            auth_type: AuthType::NETLOGON,
            level: AuthLevel::PRIVACY,
            context_id: 0xdead_beef,
            token: b"yes".to_vec(),
            context: Some(Box::new(Counting { count: 0 })),
            require_header_signing: true,
        });
        let config =
            ClientConfig { interface: NETLOGON, syntax: NdrSyntax::Ndr, first_call_id: 70, security };
        Self { client: ClientAssociation::new(config), server: server() }
    }

    /// Moves bytes; the server answers a call with its own stub, twice as long.
    fn drive(&mut self) -> Result<Vec<ClientEvent>, ClientError> {
        loop {
            let mut moved = false;
            while let Some(transmit) = self.client.poll_transmit() {
                self.server.receive(&bytes(transmit));
                moved = true;
            }
            while let Some(event) = self.server.poll_event() {
                match event {
                    Event::Authenticate(_) => self.server.authenticated(Authentication::Accepted {
                        context: Box::new(Counting { count: 0 }),
                        token: vec![7; 12],
                    }),
                    Event::Call(call) => {
                        let outcome = match call.opnum {
                            1 => Err(FaultStatus::OP_RANGE_ERROR),
                            _ => Ok(Reply::from([&call.stub[..], &call.stub].concat())),
                        };
                        self.server.reply(call.id, outcome);
                    }
                    Event::Cancel(_) => {}
                }
                moved = true;
            }
            let answer = sent(&mut self.server);
            if !answer.is_empty() {
                self.client.receive(&answer)?;
                moved = true;
            }
            if !moved {
                return Ok(std::iter::from_fn(|| self.client.poll_event()).collect());
            }
        }
    }
}

#[test]
fn client_and_server_agree_on_every_length() {
    for security in [false, true] {
        let mut pair = Pair::new(security);
        let bound = pair.drive().expect("it binds");
        assert!(
            matches!(&bound[..], [ClientEvent::Bound { header_signing, .. }] if *header_signing == security)
        );
        for len in [0, 1, 15, 16, 2_800, 2_900, 5_740, 5_744, 5_745, 5_816, 5_817, 60_000] {
            let stub: Vec<u8> = (0..len).map(|n| n as u8).collect();
            pair.client.call(0, stub.clone().into()).expect("it is idle");
            let events = pair.drive().expect("it is answered");
            let [ClientEvent::Reply { outcome: Ok(reply), .. }] = &events[..] else { panic!("{events:?}") };
            assert_eq!(reply.stub[..len], stub, "{len} {security}");
        }
        pair.client.call(1, vec![].into()).expect("it is idle");
        let events = pair.drive().expect("a fault is an answer");
        assert!(matches!(events[..], [ClientEvent::Reply { outcome: Err(FaultStatus::OP_RANGE_ERROR), .. }]));
        pair.client.call(0, b"again".to_vec().into()).expect("a fault takes no number");
        assert!(pair.drive().is_ok());
    }
}

/// A client whose context takes several legs, and the server's verdict on each of its tokens.
fn legs(
    verdicts: &mut dyn FnMut(&[u8]) -> Authentication,
    answers: &mut dyn FnMut(&[u8]) -> ClientLeg,
) -> Result<(Pair, ClientEvent), ClientError> {
    let security = ClientSecurity {
        auth_type: AuthType::SPNEGO,
        level: AuthLevel::PRIVACY,
        context_id: 3,
        token: b"first".to_vec(),
        context: None,
        require_header_signing: true,
    };
    let config = ClientConfig {
        interface: NETLOGON,
        syntax: NdrSyntax::Ndr,
        first_call_id: 70,
        security: Some(security),
    };
    let mut pair = Pair { client: ClientAssociation::new(config), server: server() };
    for _ in 0..10 {
        while let Some(transmit) = pair.client.poll_transmit() {
            pair.server.receive(&bytes(transmit));
        }
        while let Some(event) = pair.server.poll_event() {
            let Event::Authenticate(request) = event else { panic!("a call before the context is set up") };
            pair.server.authenticated(verdicts(&request.token));
        }
        pair.client.receive(&sent(&mut pair.server))?;
        match pair.client.poll_event() {
            Some(ClientEvent::Challenge { token }) => {
                assert_eq!(pair.client.call(0, vec![].into()), Err(ClientError::NotReady));
                pair.client.answer(answers(&token))?;
            }
            Some(event) => return Ok((pair, event)),
            None => panic!("nothing happens"),
        }
    }
    panic!("the legs do not end")
}

fn accepted(token: &[u8]) -> Authentication {
    Authentication::Accepted { context: Box::new(Counting { count: 0 }), token: token.to_vec() }
}

fn more(token: &[u8]) -> Authentication {
    Authentication::Continue { state: Box::new(()), token: token.to_vec() }
}

fn complete(token: &[u8]) -> ClientLeg {
    ClientLeg::Complete { token: token.to_vec(), context: Box::new(Counting { count: 0 }) }
}

#[test]
fn a_client_sets_a_context_up_in_as_many_legs_as_it_takes() {
    // Three tokens, the last one in an auth3; and four, in two pairs of alter_context.
    let mut by_auth3 = |token: &[u8]| match token {
        b"first" => more(b"second"),
        b"third" => accepted(b""),
        other => panic!("{other:?}"),
    };
    let mut by_alter = |token: &[u8]| match token {
        b"first" => more(b"second"),
        b"third" => more(b"fourth"),
        b"fifth" => accepted(b"last"),
        other => panic!("{other:?}"),
    };
    let mut three = |token: &[u8]| match token {
        b"second" => complete(b"third"),
        other => panic!("{other:?}"),
    };
    let mut six = |token: &[u8]| match token {
        b"second" => ClientLeg::Continue(b"third".to_vec()),
        b"fourth" => ClientLeg::Continue(b"fifth".to_vec()),
        b"last" => complete(b""),
        other => panic!("{other:?}"),
    };
    type Legs<'a> = (&'a mut dyn FnMut(&[u8]) -> Authentication, &'a mut dyn FnMut(&[u8]) -> ClientLeg);
    let both: [Legs<'_>; 2] = [(&mut by_auth3, &mut three), (&mut by_alter, &mut six)];
    for (verdicts, answers) in both {
        let (mut pair, event) = legs(verdicts, answers).expect("it is set up");
        assert_eq!(event, ClientEvent::Bound { token: vec![], header_signing: true });
        pair.client.call(0, b"stub".to_vec().into()).expect("it is idle");
        let events = pair.drive().expect("it is answered");
        assert!(matches!(&events[..], [ClientEvent::Reply { outcome: Ok(_), .. }]), "{events:?}");
    }
}

#[test]
fn a_client_whose_last_leg_is_refused_gets_a_fault() {
    let refused = |token: &[u8]| match token {
        b"first" => more(b"second"),
        _ => Authentication::Rejected,
    };
    let by_alter = legs(&mut { refused }, &mut |_| ClientLeg::Continue(b"third".to_vec()));
    assert_eq!(by_alter.err(), Some(ClientError::BindFault(FaultStatus::ACCESS_DENIED)));
    // An auth3 has no answer: the first call has.
    let (mut pair, _) = legs(&mut { refused }, &mut |_| complete(b"third")).expect("nothing is said");
    // The server takes the auth3 only now.
    while let Some(transmit) = pair.client.poll_transmit() {
        pair.server.receive(&bytes(transmit));
    }
    while let Some(Event::Authenticate(_)) = pair.server.poll_event() {
        pair.server.authenticated(Authentication::Rejected);
    }
    pair.client.call(0, b"stub".to_vec().into()).expect("it is idle");
    let events = pair.drive().expect("a fault is an answer");
    assert!(
        matches!(&events[..], [ClientEvent::Reply { outcome: Err(FaultStatus::ACCESS_DENIED), .. }]),
        "{events:?}"
    );
    assert!(pair.server.is_closing());
}

#[test]
fn whatever_follows_a_refused_auth3_gets_a_fault_and_the_end() {
    let bind = bind_of(vec![element(0, NETLOGON, &[SyntaxId::NDR])]);
    let auth3 = || pdu(PacketType::AUTH3, WHOLE, 2, &[0; 4], Some((trailer(5, 6), b"no")));
    let follows = [
        (
            "a request under it",
            request_pdu(WHOLE, 3, 0, 39, &[0; 16], Some((trailer(5, 6), &[1; TOKEN_LEN]))),
        ),
        ("a request without a token", request_pdu(WHOLE, 3, 0, 39, &[0; 16], None)),
        (
            "an alter_context",
            pdu(PacketType::ALTER_CONTEXT, WHOLE, 3, &bind.to_bytes(), Some((trailer(5, 6), b"yes"))),
        ),
        ("another auth3", auth3()),
    ];
    for (what, next) in follows {
        let mut server = server();
        server.receive(&bind_pdu(WHOLE, &bind, Some((trailer(5, 6), b"more"))));
        authenticate(&mut server);
        sent(&mut server);
        assert!(server.has_unfinished_security());
        server.receive(&auth3());
        authenticate(&mut server);
        assert!(!server.has_unfinished_security());
        assert!(sent(&mut server).is_empty(), "auth3 has no answer");
        server.receive(&next);
        authenticate(&mut server);
        assert_eq!(answer(&mut server), Answer::Fault(FaultStatus::ACCESS_DENIED), "{what}");
        assert!(server.is_closing(), "{what}");
    }
}

#[test]
fn a_response_is_cut_as_the_digest_says() {
    // Netlogon's token has 56 bytes: 5840 - 24 - 64 leaves 5752, of which 5744 are a multiple of sixteen.
    let verifier = Verifier {
        auth_type: AuthType::NETLOGON,
        auth_level: AuthLevel::PRIVACY,
        auth_context_id: 1,
        token_len: 56,
    };
    let message = fragmentation::plan(vec![0; 12_000], None, 5840, 24, Some(verifier), |flags, hint| {
        let mut pdu = start_pdu(PacketType::RESPONSE, flags, 1);
        ResponseHead { alloc_hint: hint, context_id: 0, cancel_count: 0 }.encode(&mut pdu);
        pdu
    });
    let parts: Vec<_> = message
        .fragments
        .iter()
        .map(|f| {
            let header = Header::decode(&f.header).expect("our own").expect("whole");
            let hint = u32::from_le_bytes(*f.header[16..].first_chunk().expect("four bytes"));
            (f.body.clone(), f.pad, header.flags.0, header.frag_length, header.auth_length, hint)
        })
        .collect();
    assert_eq!(
        parts,
        [
            (0..5744, 0, 1, 24 + 5744 + 8 + 56, 56, 12_000),
            (5744..11_488, 0, 0, 24 + 5744 + 8 + 56, 56, 6_256),
            (11_488..12_000, 0, 2, 24 + 512 + 8 + 56, 56, 512),
        ]
    );
}

#[test]
fn a_client_believes_nothing_that_is_not_protected() {
    for (what, change) in [
        (
            "no token",
            (|pdu: &mut Vec<u8>| {
                pdu.truncate(pdu.len() - TOKEN_LEN - 8);
                finish_pdu(pdu, 0, 0);
            }) as fn(&mut Vec<u8>),
        ),
        ("another context's", |pdu| {
            let at = pdu.len() - TOKEN_LEN - 1;
            pdu[at] ^= 1;
        }),
        ("a wrong token", |pdu| *pdu.last_mut().expect("it is not empty") ^= 1),
        ("another call's", |pdu| pdu[12] ^= 1),
        ("another presentation context's", |pdu| pdu[20] ^= 1),
        ("not the first fragment", |pdu| pdu[3] = 2),
        ("a request", |pdu| pdu[2] = 0),
    ] {
        let mut pair = Pair::new(true);
        pair.drive().expect("it binds");
        pair.client.call(0, vec![7; 16].into()).expect("it is idle");
        while let Some(transmit) = pair.client.poll_transmit() {
            pair.server.receive(&bytes(transmit));
        }
        let call = calls(&mut pair.server).pop().expect("it arrived");
        pair.server.reply(call.id, Ok(Reply::from(vec![8; 16])));
        let mut answer = sent(&mut pair.server);
        change(&mut answer);
        assert!(pair.client.receive(&answer).is_err(), "{what}");
        assert!(pair.client.poll_event().is_none(), "{what}");
    }
}

#[test]
fn any_sequence_of_pdus_is_survived() {
    // A generator of our own, so that a failure is the same failure every time.
    let mut seed = 0x2545_f491_4f6c_dd1d_u64;
    let mut random = move |below: usize| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        (seed % below as u64) as usize
    };
    for _ in 0..2_000 {
        let mut server = server();
        let features = element(1, NETLOGON, &[Features(3).syntax()]);
        for _ in 0..30 {
            let flags = PacketFlags([0, 1, 2, 3, 3, 3, 7, 0x13, 0x83][random(9)]);
            let token: &[u8] = [&b"yes"[..], b"no", b"more", &[1; TOKEN_LEN], &[2; TOKEN_LEN]][random(5)];
            let trailer = SecTrailer {
                auth_pad_length: [0, 0, 4, 200][random(4)],
                ..trailer(random(3) as u32, [2, 5, 6, 6][random(4)])
            };
            let auth = (random(2) == 0).then_some((trailer, token));
            let contexts = vec![
                element(random(3) as u16, [NETLOGON, MANAGEMENT][random(2)], &[SyntaxId::NDR]),
                features.clone(),
            ];
            let stub = vec![0; random(100)];
            let id = random(4) as u32;
            let mut bytes = match random(8) {
                0 => bind_pdu(flags, &bind_of(contexts), auth),
                1 => pdu(PacketType::ALTER_CONTEXT, flags, id, &bind_of(contexts).to_bytes(), auth),
                2 => pdu(PacketType::AUTH3, flags, id, &[0; 4], auth),
                3 => pdu([PacketType::CO_CANCEL, PacketType::ORPHANED][random(2)], flags, id, &[], None),
                _ => request_pdu(flags, id, random(2) as u16, 4, &stub, auth),
            };
            if random(10) == 0 {
                let at = random(bytes.len());
                bytes[at] = random(256) as u8;
            }
            server.receive(&bytes);
            if random(3) > 0 {
                authenticate(&mut server);
            }
            if random(2) == 0 {
                server.reply(id, Ok(Reply::from(vec![0; random(20_000)])));
            }
            sent(&mut server);
            assert!(server.outstanding.len() <= limits::CALLS_WAITING_MAX);
            assert!(server.unfinished.len() <= limits::CALLS_UNFINISHED_MAX);
            assert!(server.inbound.len() <= 2 * 65_536);
        }
    }
}
