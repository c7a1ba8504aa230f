//! The server's half of an association under any sequence of what a client, a provider and a service do.
//!
//! Two associations get the same bytes, one of them in pieces: they must not differ. Bytes choose operations;
//! most of them are well-formed PDUs with a wrong detail here and there, because noise alone does not get
//! past a header.

use crate::Choices;
use dcerpc::limits;
use dcerpc::management::MANAGEMENT;
use dcerpc::pdu::{
    Bind, ContextElement, FaultStatus, Features, Header, PacketFlags, PacketType, RequestHead, SecTrailer,
    SyntaxId, finish_pdu, start_pdu,
};
use dcerpc::security::{
    AuthLevel, AuthType, Authentication, Outgoing, ProtectedFragment, Protecting, Protection,
    SecurityContext, SecurityError,
};
use dcerpc::server::{Event, Reply, ServerAssociation, ServerConfig, Transmit};
use dtyp::{Encode, Guid};
use std::any::Any;
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

const NETLOGON: SyntaxId =
    SyntaxId::new(Guid::new(0x1234_5678, 0x1234, 0xabcd, [0xef, 0, 1, 0x23, 0x45, 0x67, 0xcf, 0xfb]), 1, 0);
const OPERATIONS_MAX: usize = 200;

/// Performs the operations that `bytes` choose.
pub fn check(bytes: &[u8]) {
    let mut choices = Choices(bytes);
    let piece = usize::from(choices.byte()).max(1);
    let [mut whole, mut pieces] = [(); 2].map(|()| Side::new());
    let mut client = Client::default();
    for _ in 0..OPERATIONS_MAX {
        if choices.is_empty() {
            break;
        }
        match choices.byte() % 8 {
            0..=4 => {
                let sent = client.pdu(&mut choices);
                if whole.association.wants_read() {
                    whole.association.receive(&sent);
                    sent.chunks(piece).for_each(|piece| pieces.association.receive(piece));
                }
            }
            5 => {
                let (call, long, len) = (choices.byte(), choices.byte(), choices.word());
                for side in [&mut whole, &mut pieces] {
                    side.reply(usize::from(call), long, len);
                }
            }
            _ => {
                let verdict = choices.byte();
                for side in [&mut whole, &mut pieces] {
                    side.judge(verdict);
                }
            }
        }
        let seen = whole.collect();
        assert_eq!(seen, pieces.collect(), "how bytes are cut does not matter");
    }
    for side in [whole, pieces] {
        let config = Arc::clone(&side.config);
        drop(side);
        assert_eq!(config.reassembly.used(), 0, "memory is given back");
    }
}

/// An association with what its owner knows.
struct Side {
    config: Arc<ServerConfig>,
    association: ServerAssociation,
    to_judge: bool,
    /// Calls that wait for a reply.
    calls: Vec<u32>,
}

/// What an association did since it was last asked.
#[derive(Debug, PartialEq)]
struct Seen {
    calls: Vec<(u32, usize, u16, Vec<u8>, bool)>,
    cancelled: Vec<u32>,
    sent: Vec<u8>,
    is_closing: bool,
}

impl Side {
    fn new() -> Self {
        let config = Arc::new(ServerConfig {
            interfaces: vec![NETLOGON, MANAGEMENT],
            secondary_address: "49664".into(),
            groups: Arc::default(),
            reassembly: Arc::default(),
        });
        let association = ServerAssociation::new(Arc::clone(&config), IpAddr::V4(Ipv4Addr::LOCALHOST));
        Self { config, association, to_judge: false, calls: Vec::new() }
    }

    fn judge(&mut self, verdict: u8) {
        if !std::mem::take(&mut self.to_judge) {
            return;
        }
        self.association.authenticated(match verdict % 8 {
            0 => Authentication::Rejected,
            1 => Authentication::UnknownType,
            2 => Authentication::Continue { state: Box::new(()), token: vec![8; 4] },
            _ => Authentication::Accepted { context: Box::new(Counting::default()), token: vec![7; 12] },
        });
    }

    fn reply(&mut self, call: usize, long: u8, len: u16) {
        if self.calls.is_empty() {
            return;
        }
        let call_id = self.calls.remove(call % self.calls.len());
        let outcome = match long % 4 {
            0 => Err(FaultStatus::OP_RANGE_ERROR),
            _ => Ok(Reply::from(vec![0x55; usize::from(len)])),
        };
        self.association.reply(call_id, outcome);
    }

    fn collect(&mut self) -> Seen {
        let mut seen = Seen {
            calls: Vec::new(),
            cancelled: Vec::new(),
            sent: Vec::new(),
            is_closing: self.association.is_closing(),
        };
        while let Some(event) = self.association.poll_event() {
            match event {
                Event::Authenticate(_) => {
                    assert!(!self.to_judge, "one token at a time");
                    self.to_judge = true;
                }
                Event::Call(call) => {
                    assert!(call.stub.len() <= limits::CALL_LEN_MAX);
                    assert!(call.interface < self.config.interfaces.len());
                    self.calls.push(call.id);
                    let is_protected = call.security.is_some();
                    seen.calls.push((call.id, call.interface, call.opnum, call.stub, is_protected));
                }
                Event::Cancel(id) => seen.cancelled.push(id),
            }
        }
        assert!(self.calls.len() <= limits::CALLS_WAITING_MAX, "calls wait within a bound");
        assert!(self.config.reassembly.used() <= limits::REASSEMBLY_LEN_MAX);
        while let Some(transmit) = self.association.poll_transmit() {
            seen.sent.extend(match transmit {
                Transmit::Ready(bytes) => bytes,
                Transmit::Pending(protecting) => crate::now(protecting),
            });
        }
        well_formed(&seen.sent);
        seen
    }
}

/// A server sends whole PDUs of the types that servers send, none longer than fragments may be.
fn well_formed(mut sent: &[u8]) {
    while !sent.is_empty() {
        let header = Header::decode(sent).expect("our own").expect("a whole header");
        assert!(matches!(
            header.packet_type,
            PacketType::BIND_ACK
                | PacketType::BIND_NAK
                | PacketType::ALTER_CONTEXT_RESP
                | PacketType::RESPONSE
                | PacketType::FAULT
        ));
        let len = usize::from(header.frag_length);
        assert!(len <= limits::FRAGMENT_LEN_MAX && len <= sent.len());
        sent = &sent[len..];
    }
}

/// A client that knows how to sign, and does not always.
#[derive(Default)]
struct Client {
    /// Fragments that each security context has signed.
    signed: HashMap<u32, u8>,
}

impl Client {
    fn pdu(&mut self, choices: &mut Choices<'_>) -> Vec<u8> {
        let kind = choices.byte();
        let types = [
            PacketType::BIND,
            PacketType::ALTER_CONTEXT,
            PacketType::AUTH3,
            PacketType::REQUEST,
            PacketType::REQUEST,
            PacketType::REQUEST,
            PacketType::CO_CANCEL,
            PacketType::ORPHANED,
        ];
        let Some(&packet_type) = types.get(usize::from(kind % 16)) else {
            let len = choices.byte();
            return choices.take(usize::from(len)).to_vec();
        };
        let flags = match choices.byte() {
            0 => PacketFlags::WHOLE.with(PacketFlags::CONC_MPX),
            1 => PacketFlags::WHOLE,
            flags => PacketFlags(flags),
        };
        let call_id = u32::from(choices.byte() % 4);
        let mut pdu = start_pdu(packet_type, flags, call_id);
        match packet_type {
            PacketType::BIND | PacketType::ALTER_CONTEXT => bind(choices).encode(&mut pdu),
            PacketType::AUTH3 => pdu.extend_from_slice(&[0; 4]),
            PacketType::REQUEST => {
                let object = flags.contains(PacketFlags::OBJECT_UUID).then_some(Guid::NIL);
                let (context_id, opnum) = (u16::from(choices.byte() % 4), u16::from(choices.byte()));
                RequestHead { alloc_hint: 0, context_id, opnum, object }.encode(&mut pdu);
                // One byte of input makes up to 4 KiB of stub.
                let len = usize::from(choices.byte()) * 16;
                pdu.resize(pdu.len() + len, 0xaa);
                let tail = choices.byte() % 64;
                pdu.extend_from_slice(choices.take(usize::from(tail)));
            }
            _ => {}
        }
        let auth_length = self.authenticate(choices, packet_type, &mut pdu);
        finish_pdu(&mut pdu, 0, auth_length);
        // A wrong detail now and then.
        if kind >= 224 {
            let at = usize::from(choices.word()) % pdu.len();
            pdu[at] = choices.byte();
        }
        pdu
    }

    /// Appends a security trailer and its token, or nothing.
    fn authenticate(
        &mut self,
        choices: &mut Choices<'_>,
        packet_type: PacketType,
        pdu: &mut Vec<u8>,
    ) -> usize {
        let choice = choices.byte();
        if choice.is_multiple_of(4) {
            return 0;
        }
        let id = u32::from(choice >> 2 & 3);
        let level = [AuthLevel::PRIVACY, AuthLevel::PRIVACY, AuthLevel::INTEGRITY, AuthLevel::CONNECT];
        let trailer = SecTrailer {
            auth_type: AuthType::NETLOGON,
            auth_level: level[usize::from(choice >> 4 & 3)],
            auth_pad_length: if choice >> 6 == 3 { 4 } else { 0 },
            auth_context_id: id,
        };
        pdu.resize(pdu.len() + usize::from(trailer.auth_pad_length), 0);
        trailer.encode(pdu);
        if packet_type == PacketType::REQUEST {
            let signed = self.signed.entry(id).or_default();
            *signed = signed.wrapping_add(1);
            pdu.extend_from_slice(&[*signed; TOKEN_LEN]);
            return TOKEN_LEN;
        }
        self.signed.remove(&id);
        pdu.extend_from_slice(b"token");
        5
    }
}

fn bind(choices: &mut Choices<'_>) -> Bind {
    let syntaxes = [SyntaxId::NDR, SyntaxId::NDR64, Features(3).syntax(), SyntaxId::NIL];
    let count = choices.byte() % 5;
    let contexts = (0..count).map(|_| {
        let choice = choices.byte();
        ContextElement {
            id: u16::from(choice % 4),
            abstract_syntax: [NETLOGON, MANAGEMENT, NETLOGON, SyntaxId::NIL][usize::from(choice >> 2 & 3)],
            transfer_syntaxes: (0..choice >> 6)
                .map(|n| syntaxes[usize::from((choice >> 4) + n) % 4])
                .collect(),
        }
    });
    Bind { contexts: contexts.collect(), max_xmit_frag: 5840, max_recv_frag: 4096, assoc_group_id: 0 }
}

const TOKEN_LEN: usize = 16;

/// A provider that signs with a number: an end that loses count does not verify.
#[derive(Default)]
struct Counting {
    received: u8,
    sent: u8,
}

impl SecurityContext for Counting {
    fn token_len(&self, level: AuthLevel) -> usize {
        if level >= AuthLevel::INTEGRITY { TOKEN_LEN } else { 0 }
    }

    fn supports_header_signing(&self) -> bool {
        true
    }

    fn unprotect(&mut self, _: Protection, fragment: ProtectedFragment<'_>) -> Result<(), SecurityError> {
        self.received = self.received.wrapping_add(1);
        assert!(matches!(fragment.header.len(), 24 | 40) && fragment.trailer.len() == SecTrailer::LEN);
        match fragment.token == [self.received; TOKEN_LEN] {
            true => Ok(()),
            false => Err(SecurityError::OutOfSequence),
        }
    }

    fn protect(&mut self, _: Protection, message: Outgoing) -> Protecting {
        let mut wire = Vec::new();
        let mut next = 0;
        for fragment in message.fragments {
            self.sent = self.sent.wrapping_add(1);
            assert_eq!(std::mem::replace(&mut next, fragment.body.end), fragment.body.start);
            wire.extend_from_slice(&fragment.header);
            wire.extend_from_slice(&message.stub[fragment.body]);
            wire.resize(wire.len() + usize::from(fragment.pad), 0);
            wire.extend_from_slice(&fragment.trailer.to_array());
            wire.extend_from_slice(&[self.sent; TOKEN_LEN]);
        }
        assert_eq!(next, message.stub.len(), "the fragments are the whole stub");
        Box::pin(std::future::ready(wire))
    }

    fn identity(&self) -> Arc<dyn Any + Send + Sync> {
        Arc::new("counting")
    }
}
