//! The server's half of an association: bytes in, calls out; replies in, bytes out.
//!
//! ```text
//! Unbound ─bind─► (Authenticate) ─► Bound ─request…─► Call ─reply─► response…
//!                                     └─alter_context─► (Authenticate) ─► Bound
//! any broken rule ─► fault or bind_nak ─► Closing
//! ```
//!
//! While a token is being checked nothing else is processed, because what follows may depend on the outcome.
//! Calls come out in the order they arrived; each fragment is verified before it is kept.

mod negotiation;

use crate::association_group::{AssociationGroups, Membership};
use crate::fragmentation::{self, Verifier};
use crate::limits::{self, ReassemblyBudget, ReassemblyError};
use crate::ndr::NdrSyntax;
use crate::pdu::{
    AuthVerifier, Bind, BindAck, BindNak, BindNakReason, FaultBody, FaultStatus, Features, Header,
    PacketFlags, PacketType, RequestHead, ResponseHead, SecTrailer, SyntaxId, finish_pdu, split_auth,
    start_pdu,
};
use crate::security::{
    Account, AuthLevel, AuthType, Authentication, ProtectedFragment, Protecting, Protection, SecurityContext,
    SecurityError,
};
use crate::verification_trailer::{self, Negotiated};
use dtyp::{ByteOrder, Decode, DecodeErrorKind, Encode, Guid, Reader, Sid};
use negotiation::{PresentationContext, PresentationContexts};
use std::any::Any;
use std::collections::VecDeque;
use std::net::IpAddr;
use std::ops::Range;
use std::sync::Arc;

/// What all associations of a listener share.
#[derive(Debug)]
pub struct ServerConfig {
    /// The interfaces that are served, in the registry's order.
    pub interfaces: Vec<SyntaxId>,
    /// The port in decimal digits, for bind_ack.
    pub secondary_address: String,
    /// Association groups of the whole server.
    pub groups: Arc<AssociationGroups>,
    /// Memory for reassembly of the whole server's calls under a security context.
    pub reassembly: Arc<ReassemblyBudget>,
}

/// What the owner of an association has to do.
#[derive(Debug)]
pub enum Event {
    /// Check a token and report the outcome by [`ServerAssociation::authenticated`]. Until then nothing else
    /// is processed.
    Authenticate(Authenticate),
    /// Perform a call and report its results by [`ServerAssociation::reply`].
    Call(Call),
    /// The client no longer waits for this call, or has cancelled it. A reply is still accepted.
    Cancel(u32),
}

/// The connection that a call came on, for services whose calls prove an account outside of a security
/// context.
pub trait CallConnection: std::fmt::Debug + Send + Sync {
    /// The client has proved that it is this account.
    fn prove(&self, account: Sid);
    /// The call in flight is performed to its end, also if its client cancels it.
    fn ignore_cancel(&self);
}

/// A connection that is not counted, and whose calls are not cancelled.
impl CallConnection for () {
    fn prove(&self, _: Sid) {}

    fn ignore_cancel(&self) {}
}

/// A token of a bind, alter_context or auth3.
pub struct Authenticate {
    /// The provider that is asked for.
    pub auth_type: AuthType,
    /// The level that calls are to have: that of the first leg.
    pub auth_level: AuthLevel,
    /// Type and level in this leg's own trailer, if they are not those of the first leg. Then the association
    /// refuses the leg whatever the provider answers; the provider can record why.
    pub changed: Option<(AuthType, AuthLevel)>,
    /// Whether this leg has an answer, in which a token of the server can be sent: an auth3 has none. If the
    /// provider has a last token without an answer, the association refuses the leg, because the client would
    /// not learn whether the server took it; the provider can record that.
    pub is_answered: bool,
    /// The provider's token.
    pub token: Vec<u8>,
    /// The provider's state from the leg before this one.
    pub state: Option<Box<dyn Any + Send>>,
}

impl std::fmt::Debug for Authenticate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "Authenticate {{ {:?}, {:?}, {} bytes }}",
            self.auth_type,
            self.auth_level,
            self.token.len()
        )
    }
}

/// A call whose parameters have arrived, verified and in the clear.
#[derive(Debug)]
pub struct Call {
    /// `call_id`.
    pub id: u32,
    /// Which of [`ServerConfig::interfaces`].
    pub interface: usize,
    /// The method.
    pub opnum: u16,
    /// The object, if one was named.
    pub object: Option<Guid>,
    /// The form of both stubs.
    pub syntax: NdrSyntax,
    /// The byte order of the parameters.
    pub order: ByteOrder,
    /// The parameters, and whatever padding follows them.
    pub stub: Vec<u8>,
    /// What the client added for the service beside the parameters
    /// ([`crate::client::RequestStub::extension`]); only of a sealed call, so it was neither read nor changed
    /// on the way.
    pub extension: Option<Vec<u8>>,
    /// How the parameters were protected, and who sent them; `None` if the call was not protected.
    pub security: Option<CallSecurity>,
}

/// The security context a call came under.
#[derive(Clone, Debug)]
pub struct CallSecurity {
    /// The provider.
    pub auth_type: AuthType,
    /// How each fragment was protected.
    pub level: AuthLevel,
    /// Who the peer is, as the provider sees it.
    pub identity: Arc<dyn Any + Send + Sync>,
}

/// The results of a call.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reply {
    /// The results.
    pub stub: Vec<u8>,
    /// Which bytes of the stub the security context encrypts under its own key first; see
    /// [`crate::security::Outgoing::inner`].
    pub inner: Option<Range<usize>>,
}

impl From<Vec<u8>> for Reply {
    fn from(stub: Vec<u8>) -> Self {
        Self { stub, inner: None }
    }
}

/// Bytes for the peer, in order.
pub enum Transmit {
    /// Ready to be written.
    Ready(Vec<u8>),
    /// To be sealed, side by side with others that are: give them a turn, await it, then write.
    Pending(Protecting),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Unbound,
    Bound,
    /// Everything that is to be sent is queued; nothing more is read.
    Closing,
}

/// A security context by the client's number.
struct Security {
    id: u32,
    auth_type: AuthType,
    protection: Protection,
    state: SecurityState,
    /// A fragment was verified under it: some providers accept names, and the proof comes with the first
    /// call.
    proven: bool,
}

enum SecurityState {
    /// A leg is being checked, or the next one is awaited.
    Unfinished(Option<Box<dyn Any + Send>>),
    Ready(Box<dyn SecurityContext>),
    /// An auth3 failed: the client learns it by its first call.
    Invalid,
}

/// The answer to a bind or alter_context that waits for the verdict on its token.
struct Pending {
    packet_type: PacketType,
    call_id: u32,
    offers_header_signing: bool,
    security: usize,
    token_len: usize,
    /// The trailer is not that of the first leg: refused, in alter_context with this status.
    changed: Option<FaultStatus>,
    /// `None` for auth3, which has no answer.
    ack: Option<BindAck>,
}

/// A call in fragments.
struct Unfinished {
    head: CallHead,
    stub: limits::Reassembly,
}

/// What all fragments of a call must have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct CallHead {
    call_id: u32,
    context_id: u16,
    opnum: u16,
    object: Option<Guid>,
    order: ByteOrder,
    security: Option<usize>,
}

/// A call that waits for its reply.
struct Outstanding {
    head: CallHead,
    /// Memory of the parameters, which the owner has.
    stub_capacity: usize,
    /// The client does not wait for the reply.
    orphaned: bool,
    cancelled: bool,
}

/// The server's half of one connection.
pub struct ServerAssociation {
    config: Arc<ServerConfig>,
    client: IpAddr,
    phase: Phase,
    /// What follows the last PDU that was processed.
    inbound: Vec<u8>,
    /// PDUs that were processed.
    processed: u64,
    group: Option<Membership>,
    fragment_len: usize,
    /// Several calls may be outstanding.
    multiplexes_calls: bool,
    features: Features,
    /// A bind or alter_context has asked for it: it counts for all security contexts, and is never turned
    /// off.
    header_signing: bool,
    /// The security context of requests that carry no token; INVARIANT: an index into `security`.
    implicit_security: Option<usize>,
    presentation: PresentationContexts,
    security: Vec<Security>,
    pending: Option<Pending>,
    unfinished: Vec<Unfinished>,
    outstanding: Vec<Outstanding>,
    events: VecDeque<Event>,
    transmits: VecDeque<Transmit>,
}

impl std::fmt::Debug for ServerAssociation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ServerAssociation {{ {:?}, {} outstanding }}", self.phase, self.outstanding.len())
    }
}

/// How to refuse a PDU.
enum Refusal {
    /// Close without a word.
    Silent,
    /// Answer and close.
    Nak(BindNakReason),
    /// Answer and close.
    Fault { context_id: u16, status: FaultStatus },
    /// Answer that nothing was executed, and close.
    NotExecuted(FaultStatus),
    /// Answer another call than this one, and close.
    FaultOf { call_id: u32, context_id: u16, status: FaultStatus },
    /// Answer and go on.
    MildFault { context_id: u16, status: FaultStatus },
}

impl Refusal {
    const fn fault(status: FaultStatus) -> Self {
        Self::Fault { context_id: 0, status }
    }
}

impl ServerAssociation {
    /// An association with nothing received yet.
    pub fn new(config: Arc<ServerConfig>, client: IpAddr) -> Self {
        Self {
            config,
            client,
            phase: Phase::Unbound,
            inbound: Vec::new(),
            processed: 0,
            group: None,
            fragment_len: limits::FRAGMENT_LEN_MAX,
            multiplexes_calls: false,
            features: Features(0),
            header_signing: false,
            implicit_security: None,
            presentation: PresentationContexts::default(),
            security: Vec::new(),
            pending: None,
            unfinished: Vec::new(),
            outstanding: Vec::new(),
            events: VecDeque::new(),
            transmits: VecDeque::new(),
        }
    }

    /// Takes bytes from the peer. Whatever is wrong with them is answered through [`Self::poll_transmit`].
    pub fn receive(&mut self, bytes: &[u8]) {
        if self.phase != Phase::Closing {
            self.inbound.extend_from_slice(bytes);
            self.process();
        }
    }

    /// The same without a copy where whole PDUs arrive. What is in `bytes` afterwards means nothing.
    pub fn receive_in_place(&mut self, bytes: &mut [u8]) {
        if !self.inbound.is_empty() || self.phase == Phase::Closing {
            return self.receive(bytes);
        }
        let consumed = self.process_bytes(bytes);
        if self.phase != Phase::Closing {
            self.inbound.extend_from_slice(&bytes[consumed..]);
        }
    }

    /// The next thing to do.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// The next bytes to send.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.transmits.pop_front()
    }

    /// Whether more bytes should be read now; false while enough of them wait, so that the peer's window
    /// fills instead of our memory.
    pub fn wants_read(&self) -> bool {
        self.phase != Phase::Closing
            && self.inbound.len() <= usize::from(u16::MAX)
            && self.transmits.len() < limits::TRANSMITS_WAITING_MAX
    }

    /// Whether the peer has proved who it is, by a fragment that was verified.
    pub fn is_proven(&self) -> bool {
        self.security.iter().any(|security| security.proven)
    }

    /// The account that the peer has proved, by a fragment that was verified; the first one where there are
    /// several.
    pub fn proved_account(&self) -> Option<Account> {
        self.security.iter().find_map(|security| match &security.state {
            SecurityState::Ready(context) if security.proven => context.account(),
            _ => None,
        })
    }

    /// Bytes that the peer makes this association and its owner hold: input, calls with those that the owner
    /// has, tokens, presentation and security contexts, and answers that wait. Reassembly of calls under a
    /// security context is in [`ServerConfig::reassembly`] instead.
    pub fn held_bytes(&self) -> usize {
        let anonymous = |call: &&Unfinished| call.head.security.is_none();
        let unfinished = self.unfinished.iter().filter(anonymous).map(|call| call.stub.capacity());
        let outstanding = self.outstanding.iter().map(|call| call.stub_capacity);
        let transmits = self.transmits.iter().map(|transmit| match transmit {
            Transmit::Ready(bytes) => bytes.capacity(),
            // There is none without a call that was verified.
            Transmit::Pending(_) => 0,
        });
        self.inbound.capacity()
            + unfinished.sum::<usize>()
            + outstanding.sum::<usize>()
            + transmits.sum::<usize>()
            + self.pending.as_ref().map_or(0, |pending| pending.token_len)
            + self.presentation.capacity()
            + self.security.len() * limits::SECURITY_CONTEXT_LEN
    }

    /// Whether a PDU has begun to arrive and the association waits for the rest of it. The number differs
    /// from one PDU to the next.
    pub fn partial_pdu(&self) -> Option<u64> {
        let is_partial = !self.inbound.is_empty()
            && self.phase != Phase::Closing
            && self.pending.is_none()
            && match Header::decode(&self.inbound) {
                Ok(Some(header)) => self.inbound.len() < usize::from(header.frag_length),
                _ => true,
            };
        is_partial.then_some(self.processed)
    }

    /// Whether a call has begun to arrive and has not arrived.
    pub fn has_unfinished_calls(&self) -> bool {
        !self.unfinished.is_empty()
    }

    /// Whether a security context is not set up yet: the client's next leg is missing.
    pub fn has_unfinished_security(&self) -> bool {
        self.security.iter().any(|security| matches!(security.state, SecurityState::Unfinished(_)))
    }

    /// Whether the connection is to be closed once everything is sent.
    pub fn is_closing(&self) -> bool {
        self.phase == Phase::Closing
    }

    /// Whether a bind was accepted.
    pub fn is_bound(&self) -> bool {
        self.phase == Phase::Bound
    }

    /// Whether neither a call nor a token is being worked on.
    pub fn is_idle(&self) -> bool {
        self.outstanding.is_empty() && self.pending.is_none() && self.unfinished.is_empty()
    }

    /// Says what became of the token of the last [`Event::Authenticate`].
    pub fn authenticated(&mut self, outcome: Authentication) {
        let Some(pending) = self.pending.take() else { return };
        match self.conclude(pending, outcome) {
            Ok(()) => self.process(),
            Err((packet_type, call_id, refusal)) => self.refuse(packet_type, call_id, refusal),
        }
    }

    /// Reports the results of a call. A reply to a call that is not outstanding, or that the client has
    /// orphaned, is dropped.
    pub fn reply(&mut self, call_id: u32, outcome: Result<Reply, FaultStatus>) {
        let Some(at) = self.outstanding.iter().position(|call| call.head.call_id == call_id) else { return };
        let Outstanding { head, orphaned, .. } = self.outstanding.remove(at);
        if !orphaned {
            match outcome {
                Ok(reply) if reply.stub.len() <= limits::CALL_LEN_MAX => self.respond(head, reply),
                Ok(_) => {
                    self.send_fault(
                        PacketType::REQUEST,
                        call_id,
                        head.context_id,
                        FaultStatus::OUT_ARGS_TOO_BIG,
                    );
                }
                Err(status) => self.send_fault(PacketType::REQUEST, call_id, head.context_id, status),
            }
        }
        if self.phase != Phase::Closing {
            self.process();
        }
    }

    fn respond(&mut self, head: CallHead, reply: Reply) {
        let verifier = head.security.map(|at| {
            let security = &self.security[at];
            Verifier {
                auth_type: security.auth_type,
                auth_level: security.protection.level,
                auth_context_id: security.id,
                token_len: match &security.state {
                    SecurityState::Ready(context) => context.token_len(security.protection.level),
                    _ => 0,
                },
            }
        });
        let message = fragmentation::plan(
            reply.stub,
            reply.inner,
            self.fragment_len,
            ResponseHead::LEN,
            verifier.filter(|v| v.token_len != 0),
            |flags, alloc_hint| {
                let mut pdu = start_pdu(PacketType::RESPONSE, flags, head.call_id);
                // Windows answers with the low byte of the number, and clients have learned to live with it.
                let context_id = head.context_id & 0xff;
                ResponseHead { alloc_hint, context_id, cancel_count: 0 }.encode(&mut pdu);
                pdu
            },
        );
        let security = head.security.map(|at| &mut self.security[at]);
        self.transmits.push_back(match security {
            Some(Security { state: SecurityState::Ready(context), protection, .. })
                if verifier.is_some_and(|v| v.token_len != 0) =>
            {
                Transmit::Pending(context.protect(*protection, message))
            }
            _ => Transmit::Ready(fragmentation::unprotected(message)),
        });
    }

    /// Answers a PDU of `packet_type` with a fault. Outside of calls nothing is ever executed, so the flag
    /// says so.
    fn send_fault(&mut self, packet_type: PacketType, call_id: u32, context_id: u16, status: FaultStatus) {
        let did_not_execute = status.did_not_execute() || packet_type != PacketType::REQUEST;
        let pdu = FaultBody { context_id, status }.to_pdu(call_id, did_not_execute);
        self.transmits.push_back(Transmit::Ready(pdu));
    }

    fn refuse(&mut self, packet_type: PacketType, call_id: u32, refusal: Refusal) {
        match refusal {
            Refusal::MildFault { context_id, status } => {
                self.send_fault(packet_type, call_id, context_id, status);
                return;
            }
            Refusal::Fault { context_id, status } => {
                self.send_fault(packet_type, call_id, context_id, status)
            }
            Refusal::NotExecuted(status) => {
                let pdu = FaultBody { context_id: 0, status }.to_pdu(call_id, true);
                self.transmits.push_back(Transmit::Ready(pdu));
            }
            Refusal::FaultOf { call_id, context_id, status } => {
                self.send_fault(packet_type, call_id, context_id, status);
            }
            Refusal::Nak(reason) => {
                let mut pdu = start_pdu(PacketType::BIND_NAK, PacketFlags::WHOLE, call_id);
                BindNak { reason }.encode(&mut pdu);
                finish_pdu(&mut pdu, 0, 0);
                self.transmits.push_back(Transmit::Ready(pdu));
            }
            Refusal::Silent => {}
        }
        self.phase = Phase::Closing;
        self.inbound = Vec::new();
        self.unfinished.clear();
    }

    /// Processes the PDUs that are there, as far as the rules let it.
    fn process(&mut self) {
        let mut inbound = std::mem::take(&mut self.inbound);
        let consumed = self.process_bytes(&mut inbound);
        // A buffer without bytes is not kept: an idle connection holds none.
        if self.phase != Phase::Closing && consumed < inbound.len() {
            inbound.drain(..consumed);
            if inbound.capacity() > 2 * inbound.len().max(limits::FRAGMENT_LEN_MAX) {
                inbound.shrink_to_fit();
            }
            self.inbound = inbound;
        }
    }

    /// The same with PDUs in this buffer. How many bytes were processed.
    fn process_bytes(&mut self, inbound: &mut [u8]) -> usize {
        let mut consumed = 0;
        while self.phase != Phase::Closing && self.pending.is_none() {
            let rest = &mut inbound[consumed..];
            let header = match Header::decode(rest) {
                Ok(Some(header)) => header,
                Ok(None) => break,
                Err(error) => {
                    let refusal = match PacketType(rest[2]) {
                        PacketType::BIND if error.kind == DecodeErrorKind::Mismatch => {
                            Refusal::Nak(BindNakReason::PROTOCOL_VERSION)
                        }
                        _ => Refusal::Silent,
                    };
                    self.refuse(PacketType::BIND, Header::call_id(rest), refusal);
                    break;
                }
            };
            if let Err(refusal) = self.admit(&header) {
                self.refuse(header.packet_type, header.call_id, refusal);
                break;
            }
            let waiting_max = if self.multiplexes_calls { limits::CALLS_WAITING_MAX } else { 1 };
            if header.packet_type == PacketType::REQUEST && self.outstanding.len() >= waiting_max {
                break;
            }
            let Some(pdu) = rest.get_mut(..usize::from(header.frag_length)) else { break };
            if let Err(refusal) = self.pdu(&header, pdu) {
                self.refuse(header.packet_type, header.call_id, refusal);
            }
            consumed += usize::from(header.frag_length);
            self.processed += 1;
        }
        consumed
    }

    /// Checks a PDU by its header, before its body has arrived.
    fn admit(&self, header: &Header) -> Result<(), Refusal> {
        match header.packet_type {
            PacketType::BIND if !header.is_supported() => Err(Refusal::Nak(BindNakReason::PROTOCOL_VERSION)),
            _ if !header.is_supported() => Err(Refusal::Silent),
            PacketType::BIND => Ok(()),
            PacketType::ALTER_CONTEXT | PacketType::AUTH3 if self.phase == Phase::Bound => Ok(()),
            PacketType::CO_CANCEL | PacketType::ORPHANED if self.phase == Phase::Bound => Ok(()),
            PacketType::REQUEST if self.phase == Phase::Bound => {
                match usize::from(header.frag_length) <= limits::FRAGMENT_LEN_MAX {
                    true => Ok(()),
                    false => Err(Refusal::fault(FaultStatus::PROTO_ERROR)),
                }
            }
            PacketType::REQUEST
            | PacketType::ALTER_CONTEXT
            | PacketType::AUTH3
            | PacketType::CO_CANCEL
            | PacketType::ORPHANED => Err(Refusal::fault(FaultStatus::PROTO_ERROR)),
            // What only a server sends, and what belongs to other transports.
            _ => Err(Refusal::Silent),
        }
    }

    fn pdu(&mut self, header: &Header, pdu: &mut [u8]) -> Result<(), Refusal> {
        match header.packet_type {
            PacketType::REQUEST => self.request(header, pdu),
            PacketType::BIND => self.bind(header, pdu),
            PacketType::ALTER_CONTEXT => self.alter_context(header, pdu),
            PacketType::AUTH3 => self.auth3(header, pdu),
            PacketType::CO_CANCEL | PacketType::ORPHANED => {
                // Told once a call, so that a flood of them is no flood of events.
                let call = self.outstanding.iter_mut().find(|call| call.head.call_id == header.call_id);
                if let Some(call) = call {
                    call.orphaned |= header.packet_type == PacketType::ORPHANED;
                    if !std::mem::replace(&mut call.cancelled, true) {
                        self.events.push_back(Event::Cancel(header.call_id));
                    }
                }
                Ok(())
            }
            // INVARIANT: `admit` let no other type through.
            _ => Err(Refusal::Silent),
        }
    }

    fn bind(&mut self, header: &Header, pdu: &[u8]) -> Result<(), Refusal> {
        let nak = || Refusal::Nak(BindNakReason::NOT_SPECIFIED);
        // A bind is one fragment whatever its flags say: Windows does not look at them.
        if self.phase != Phase::Unbound {
            return Err(nak());
        }
        let auth =
            split_negotiation(header, pdu).map_err(|_| Refusal::Nak(BindNakReason::PROTOCOL_VERSION))?;
        // Except for a token that goes on in another PDU: a part of it is no token.
        if auth.is_some() && !header.flags.contains(PacketFlags::LAST) {
            return Err(nak());
        }
        let bind = decode_bind(header, pdu, auth).map_err(|_| nak())?;
        if bind.contexts.is_empty() {
            return Err(Refusal::Nak(BindNakReason::PROTOCOL_VERSION));
        }
        if bind.contexts.iter().any(|context| context.transfer_syntaxes.is_empty()) {
            return Err(nak());
        }
        let offered = negotiation::offered_features(&bind.contexts).map_err(|_| nak())?;
        let group = self.config.groups.join(bind.assoc_group_id, self.client).ok_or_else(nak)?;
        self.features = Features(offered.0 & Features::SUPPORTED.0);
        self.multiplexes_calls = header.flags.contains(PacketFlags::CONC_MPX);
        self.fragment_len = usize::from(bind.max_xmit_frag.min(bind.max_recv_frag))
            .clamp(limits::FRAGMENT_LEN_MIN, limits::FRAGMENT_LEN_MAX)
            & !7;
        let results = self
            .presentation
            .negotiate(&bind.contexts, &self.config.interfaces, Some(self.features))
            .map_err(|_| nak())?;
        let ack = BindAck {
            max_xmit_frag: self.fragment_len as u16,
            max_recv_frag: self.fragment_len as u16,
            assoc_group_id: group.id(),
            secondary_address: self.config.secondary_address.clone(),
            results,
        };
        self.group = Some(group);
        match auth {
            None => {
                self.phase = Phase::Bound;
                let header_signing = header.flags.contains(PacketFlags::SUPPORT_HEADER_SIGN);
                self.header_signing |= header_signing;
                self.acknowledge(PacketType::BIND_ACK, header.call_id, header_signing, ack, None);
                Ok(())
            }
            // Whatever the type: no provider is asked about a level that is none.
            Some(auth) if !auth.trailer.auth_level.is_defined() => Err(nak()),
            Some(auth) => {
                let security =
                    self.add_security(&auth.trailer).ok_or(Refusal::Nak(BindNakReason::INVALID_CHECKSUM))?;
                self.implicit_security = Some(security);
                self.authenticate(header, &auth, security, Some(ack));
                Ok(())
            }
        }
    }

    fn alter_context(&mut self, header: &Header, pdu: &[u8]) -> Result<(), Refusal> {
        let proto_error = || Refusal::fault(FaultStatus::PROTO_ERROR);
        let auth = split_negotiation(header, pdu).map_err(|_| proto_error())?;
        if auth.is_some() && !header.flags.contains(PacketFlags::LAST) {
            return Err(proto_error());
        }
        let bind = decode_bind(header, pdu, auth).map_err(|_| proto_error())?;
        if bind.contexts.is_empty()
            || bind.contexts.iter().any(|context| context.transfer_syntaxes.is_empty())
        {
            return Err(proto_error());
        }
        let results =
            self.presentation.negotiate(&bind.contexts, &self.config.interfaces, None).map_err(|_| {
                match auth {
                    // Windows looks at a provider that is none first, by Samba's tests.
                    Some(auth) if auth.trailer.auth_type == AuthType::NONE => {
                        Refusal::fault(FaultStatus::ACCESS_DENIED)
                    }
                    _ => proto_error(),
                }
            })?;
        let ack = BindAck {
            max_xmit_frag: self.fragment_len as u16,
            max_recv_frag: self.fragment_len as u16,
            assoc_group_id: self.group.as_ref().map_or(0, Membership::id),
            secondary_address: String::new(),
            results,
        };
        let Some(auth) = auth else {
            let header_signing = header.flags.contains(PacketFlags::SUPPORT_HEADER_SIGN);
            if header_signing {
                self.sign_headers();
            }
            self.acknowledge(PacketType::ALTER_CONTEXT_RESP, header.call_id, header_signing, ack, None);
            return Ok(());
        };
        let security = match self.find_security(auth.trailer.auth_context_id) {
            Some(at) => {
                // A context is one identity: it is never authenticated twice.
                match self.security[at].state {
                    SecurityState::Unfinished(_) => at,
                    _ => return Err(Refusal::fault(FaultStatus::ACCESS_DENIED)),
                }
            }
            None if !auth.trailer.auth_level.is_defined() => {
                return Err(Refusal::fault(FaultStatus::ACCESS_DENIED));
            }
            None => {
                // Windows takes more than one, whether or not multiplexing was agreed on: so Samba's tests
                // have it.
                let at = self.add_security(&auth.trailer).ok_or_else(proto_error)?;
                if self.features.0 & Features::SECURITY_CONTEXT_MULTIPLEXING.0 == 0 {
                    self.implicit_security.get_or_insert(at);
                }
                at
            }
        };
        self.authenticate(header, &auth, security, Some(ack));
        Ok(())
    }

    fn auth3(&mut self, header: &Header, pdu: &[u8]) -> Result<(), Refusal> {
        let auth = match split_auth(header, pdu, Header::LEN) {
            Ok(Some(auth)) if header.flags.contains(PacketFlags::LAST) => auth,
            _ => return Err(Refusal::fault(FaultStatus::PROTO_ERROR)),
        };
        // There is nothing in front of the trailer that padding could be taken off.
        if auth.trailer.auth_pad_length > 0 && auth.body_end < RequestHead::LEN {
            return Err(Refusal::fault(FaultStatus::REMOTE_NO_MEMORY));
        }
        let Some(at) = self.find_security(auth.trailer.auth_context_id) else {
            return Err(Refusal::fault(FaultStatus::PROTO_ERROR));
        };
        match self.security[at].state {
            SecurityState::Unfinished(_) => {
                self.authenticate(header, &auth, at, None);
                Ok(())
            }
            // Some clients send a last leg that Netlogon's provider does not need.
            SecurityState::Ready(_) if self.security[at].auth_type == AuthType::NETLOGON => Ok(()),
            SecurityState::Ready(_) => Err(Refusal::fault(FaultStatus::PROTO_ERROR)),
            SecurityState::Invalid => Err(Refusal::fault(FaultStatus::ACCESS_DENIED)),
        }
    }

    fn find_security(&self, id: u32) -> Option<usize> {
        self.security.iter().position(|security| security.id == id)
    }

    /// Opens a security context that is not set up yet, within the limits.
    fn add_security(&mut self, trailer: &SecTrailer) -> Option<usize> {
        let unfinished = self.security.iter().filter(|security| !security.proven).count();
        if self.security.len() >= limits::SECURITY_CONTEXTS_MAX
            || unfinished >= limits::SECURITY_CONTEXTS_UNFINISHED_MAX
        {
            return None;
        }
        self.security.push(Security {
            id: trailer.auth_context_id,
            auth_type: trailer.auth_type,
            protection: Protection { level: trailer.auth_level, header_signing: false },
            state: SecurityState::Unfinished(None),
            proven: false,
        });
        Some(self.security.len() - 1)
    }

    fn authenticate(
        &mut self,
        header: &Header,
        auth: &AuthVerifier<'_>,
        security: usize,
        ack: Option<BindAck>,
    ) {
        let context = &mut self.security[security];
        let state = match &mut context.state {
            SecurityState::Unfinished(state) => state.take(),
            _ => None,
        };
        let (auth_type, auth_level) = (context.auth_type, context.protection.level);
        // Type and level are those of the first leg: a leg cannot lower what the mechanism has to negotiate.
        let claimed = (auth.trailer.auth_type, auth.trailer.auth_level);
        let changed = (claimed != (auth_type, auth_level)).then_some(claimed);
        self.pending = Some(Pending {
            packet_type: header.packet_type,
            call_id: header.call_id,
            offers_header_signing: header.flags.contains(PacketFlags::SUPPORT_HEADER_SIGN),
            security,
            token_len: auth.token.len(),
            // As Windows has it, by Samba's tests.
            changed: changed.map(|(claimed, _)| match claimed == auth_type || claimed == AuthType::NONE {
                true => FaultStatus::ACCESS_DENIED,
                false => FaultStatus::SEC_PKG_ERROR,
            }),
            ack,
        });
        self.events.push_back(Event::Authenticate(Authenticate {
            auth_type,
            auth_level,
            changed,
            is_answered: header.packet_type != PacketType::AUTH3,
            token: auth.token.to_vec(),
            state,
        }));
    }

    fn conclude(
        &mut self,
        pending: Pending,
        outcome: Authentication,
    ) -> Result<(), (PacketType, u32, Refusal)> {
        let security = &mut self.security[pending.security];
        let outcome = match outcome {
            _ if pending.changed.is_some() => Authentication::Rejected,
            Authentication::Accepted { ref token, .. } if pending.ack.is_none() && !token.is_empty() => {
                Authentication::Rejected
            }
            outcome => outcome,
        };
        let token = match outcome {
            Authentication::Accepted { context, token } => {
                security.state = SecurityState::Ready(context);
                token
            }
            Authentication::Continue { state, token } => {
                security.state = SecurityState::Unfinished(Some(state));
                token
            }
            Authentication::Rejected | Authentication::UnknownType => {
                security.state = SecurityState::Invalid;
                let refusal = match pending.packet_type {
                    PacketType::AUTH3 => return Ok(()),
                    PacketType::BIND if matches!(outcome, Authentication::UnknownType) => {
                        Refusal::Nak(BindNakReason::AUTHENTICATION_TYPE)
                    }
                    PacketType::BIND => Refusal::Nak(BindNakReason::INVALID_CHECKSUM),
                    _ => Refusal::fault(pending.changed.unwrap_or(FaultStatus::ACCESS_DENIED)),
                };
                return Err((pending.packet_type, pending.call_id, refusal));
            }
        };
        // An auth3 has no answer that could agree to it.
        if self.header_signing || (pending.offers_header_signing && pending.ack.is_some()) {
            self.sign_headers();
        }
        let security = &self.security[pending.security];
        let trailer = SecTrailer {
            auth_type: security.auth_type,
            auth_level: security.protection.level,
            auth_pad_length: 0,
            auth_context_id: security.id,
        };
        // An answer never has the flag where its request had not, as in Windows.
        let header_signing = security.protection.header_signing && pending.offers_header_signing;
        if let Some(ack) = pending.ack {
            let packet_type = match pending.packet_type {
                PacketType::BIND => PacketType::BIND_ACK,
                _ => PacketType::ALTER_CONTEXT_RESP,
            };
            self.phase = Phase::Bound;
            self.acknowledge(packet_type, pending.call_id, header_signing, ack, Some((trailer, token)));
        }
        Ok(())
    }

    /// Has headers signed from now on, by all security contexts that can and that sign at all: so Windows has
    /// it, by Samba's tests.
    fn sign_headers(&mut self) {
        self.header_signing = true;
        for security in &mut self.security {
            let supports = match &security.state {
                SecurityState::Ready(context) => context.supports_header_signing(),
                SecurityState::Unfinished(_) | SecurityState::Invalid => true,
            };
            security.protection.header_signing = supports && security.protection.level >= AuthLevel::PACKET;
        }
    }

    fn acknowledge(
        &mut self,
        packet_type: PacketType,
        call_id: u32,
        header_signing: bool,
        ack: BindAck,
        auth: Option<(SecTrailer, Vec<u8>)>,
    ) {
        let mut flags = PacketFlags::WHOLE;
        if header_signing {
            flags = flags.with(PacketFlags::SUPPORT_HEADER_SIGN);
        }
        // It is agreed on by the bind alone.
        if self.multiplexes_calls && packet_type == PacketType::BIND_ACK {
            flags = flags.with(PacketFlags::CONC_MPX);
        }
        let mut pdu = start_pdu(packet_type, flags, call_id);
        ack.encode(&mut pdu);
        let mut auth_length = 0;
        // An empty token has a trailer, too: Windows and Samba's tests have it so.
        if let Some((trailer, token)) = auth {
            trailer.encode(&mut pdu);
            pdu.extend_from_slice(&token);
            auth_length = token.len();
        }
        finish_pdu(&mut pdu, 0, auth_length);
        self.transmits.push_back(Transmit::Ready(pdu));
    }

    fn request(&mut self, header: &Header, pdu: &mut [u8]) -> Result<(), Refusal> {
        let flags = header.flags;
        let first = flags.contains(PacketFlags::FIRST);
        if first && flags.contains(PacketFlags::PENDING_CANCEL) {
            return Err(Refusal::fault(FaultStatus::NO_CALL_ACTIVE));
        }
        let mut reader = Reader::new(&pdu[Header::LEN..]).with_order(header.order);
        let head =
            RequestHead::decode(&mut reader, flags).map_err(|_| Refusal::fault(FaultStatus::PROTO_ERROR))?;
        let body_start = Header::LEN + reader.position();
        let fault = |status| Refusal::Fault { context_id: head.context_id, status };
        // It is only a hint, but a client that announces too much is refused before it sends more.
        if head.alloc_hint as usize > limits::CALL_LEN_MAX && !flags.contains(PacketFlags::LAST) {
            return Err(fault(FaultStatus::ACCESS_DENIED));
        }
        let started = self.unfinished.iter().position(|call| call.head.call_id == header.call_id);
        if started.is_none() {
            self.admit_fragment(&head, first)?;
        }
        // Of a signed fragment in the middle, the numbers of its contexts and its method are not looked at,
        // only that the call's own security context signed it: so Windows has it, by Samba's tests.
        let known = started.map(|at| self.unfinished[at].head);
        let context_id = known.map_or(head.context_id, |known| known.context_id);
        let fault = |status| Refusal::Fault { context_id, status };
        let (security, body_end) = self
            .verify(header, pdu, body_start, known.map(|known| known.security))
            .map_err(|status| match started {
                // As Windows has it where another call is being put together.
                None if !self.unfinished.is_empty() && status != FaultStatus::SEC_PKG_ERROR => {
                    Refusal::fault(FaultStatus::PROTO_ERROR)
                }
                // A context that is not set up yet has no calls.
                None if status == FaultStatus::PROTO_ERROR && self.has_unfinished_security() => {
                    Refusal::NotExecuted(status)
                }
                _ => fault(status),
            })?;
        let body = &pdu[body_start..body_end];
        let head = CallHead {
            call_id: header.call_id,
            context_id: head.context_id,
            opnum: head.opnum,
            object: head.object,
            order: header.order,
            security,
        };
        let mut call = match started {
            Some(at) if !first => {
                let call = self.unfinished.swap_remove(at);
                // An object travels in the first fragment; the others may repeat it or not.
                let same = (CallHead { object: call.head.object, ..head }) == call.head;
                match same || (security.is_some() && head.order == call.head.order) {
                    true => call,
                    false => return Err(fault(FaultStatus::PROTO_ERROR)),
                }
            }
            Some(_) => return Err(fault(FaultStatus::PROTO_ERROR)),
            None if !first => return Err(fault(FaultStatus::PROTO_ERROR)),
            None => {
                if self.outstanding.iter().any(|call| call.head.call_id == head.call_id) {
                    return Err(fault(FaultStatus::PROTO_ERROR));
                }
                if !self.unfinished.is_empty() && self.presentation.find(head.context_id).is_none() {
                    return Err(Refusal::fault(FaultStatus::PROTO_ERROR));
                }
                if self.unfinished.len() >= limits::CALLS_UNFINISHED_MAX {
                    return Err(fault(FaultStatus::SERVER_TOO_BUSY));
                }
                if flags.contains(PacketFlags::LAST) {
                    return self.complete(head, body.to_vec());
                }
                let budget = security.map(|at| {
                    let account = match &self.security[at].state {
                        SecurityState::Ready(context) => context.account(),
                        _ => None,
                    };
                    (Arc::clone(&self.config.reassembly), account)
                });
                Unfinished { head, stub: limits::Reassembly::new(budget) }
            }
        };
        // Several calls at once may hold together what one may.
        let held: usize = self.unfinished.iter().map(|call| call.stub.kept()).sum();
        if held + call.stub.kept() + body.len() > limits::CALL_LEN_MAX && held > 0 {
            return Err(fault(FaultStatus::REMOTE_NO_MEMORY));
        }
        call.stub.push(body).map_err(|error| {
            fault(match error {
                ReassemblyError::TooLong => FaultStatus::ACCESS_DENIED,
                ReassemblyError::OutOfBudget => FaultStatus::REMOTE_NO_MEMORY,
            })
        })?;
        match flags.contains(PacketFlags::LAST) {
            true => self.complete(call.head, call.stub.into_stub()),
            false => {
                self.unfinished.push(call);
                Ok(())
            }
        }
    }

    /// Whether a fragment may belong to a call that is not being put together yet.
    fn admit_fragment(&self, head: &RequestHead, first: bool) -> Result<(), Refusal> {
        match self.unfinished.first() {
            // As Windows has it: the call that is cut short is the one that failed.
            Some(unfinished) if !self.multiplexes_calls => {
                let CallHead { call_id, context_id, .. } = unfinished.head;
                Err(Refusal::FaultOf { call_id, context_id, status: FaultStatus::PROTO_ERROR })
            }
            _ if first => Ok(()),
            None if self.multiplexes_calls => match self.presentation.find(head.context_id) {
                // It is refused once it is verified.
                Some(_) => Ok(()),
                None => Err(Refusal::MildFault { context_id: 0, status: FaultStatus::UNKNOWN_IF }),
            },
            _ => Err(Refusal::fault(FaultStatus::PROTO_ERROR)),
        }
    }

    /// Verifies one fragment and decrypts it in place. Which security context it is under, and where its body
    /// ends. `known` is the security context of the call that the fragment goes on.
    fn verify(
        &mut self,
        header: &Header,
        pdu: &mut [u8],
        body_start: usize,
        known: Option<Option<usize>>,
    ) -> Result<(Option<usize>, usize), FaultStatus> {
        let auth = split_auth(header, pdu, body_start).map_err(|_| FaultStatus::PROTO_ERROR)?;
        let Some(auth) = auth else {
            return match known.unwrap_or(self.implicit_security) {
                None => Ok((None, pdu.len())),
                // A context that only connects protects nothing, so there is nothing to carry.
                Some(at) => match &self.security[at] {
                    Security { state: SecurityState::Ready(_), protection, .. }
                        if protection.level <= AuthLevel::CONNECT =>
                    {
                        Ok((Some(at), pdu.len()))
                    }
                    Security { state: SecurityState::Invalid, .. } => Err(FaultStatus::ACCESS_DENIED),
                    _ => Err(FaultStatus::PROTO_ERROR),
                },
            };
        };
        let (trailer, body_end) = (auth.trailer, auth.body_end);
        let at = match known {
            Some(at) => at.ok_or(FaultStatus::PROTO_ERROR)?,
            None => self.find_security(trailer.auth_context_id).ok_or(FaultStatus::ACCESS_DENIED)?,
        };
        let security = &mut self.security[at];
        let context = match &mut security.state {
            SecurityState::Ready(context) => context,
            SecurityState::Unfinished(_) => return Err(FaultStatus::PROTO_ERROR),
            SecurityState::Invalid => return Err(FaultStatus::ACCESS_DENIED),
        };
        let is_named =
            (trailer.auth_type, trailer.auth_level) == (security.auth_type, security.protection.level);
        if known.is_none() && !is_named {
            return Err(FaultStatus::ACCESS_DENIED);
        }
        if security.protection.level > AuthLevel::CONNECT {
            let token_start = pdu.len() - usize::from(header.auth_length);
            let (signed, token) = pdu.split_at_mut(token_start);
            let (signed, trailer) = signed.split_at_mut(token_start - SecTrailer::LEN);
            let (head, body) = signed.split_at_mut(body_start);
            context
                .unprotect(security.protection, ProtectedFragment { header: head, body, trailer, token })
                .map_err(|error| match error {
                    SecurityError::ContextExpired => FaultStatus::ACCESS_DENIED,
                    _ => FaultStatus::SEC_PKG_ERROR,
                })?;
            security.proven = true;
        }
        Ok((Some(at), body_end))
    }

    fn complete(&mut self, head: CallHead, mut stub: Vec<u8>) -> Result<(), Refusal> {
        let Some(&PresentationContext { interface, syntax, .. }) = self.presentation.find(head.context_id)
        else {
            return Err(Refusal::MildFault { context_id: 0, status: FaultStatus::UNKNOWN_IF });
        };
        let security = head.security.map(|at| &self.security[at]);
        let extension = verification_trailer::check(
            &mut stub,
            &Negotiated {
                interface: self.presentation.requested(head.context_id, &self.config.interfaces),
                transfer_syntax: syntax.into(),
                header_signing: security.is_some_and(|security| security.protection.header_signing),
                order: head.order,
                call_id: head.call_id,
                context_id: head.context_id,
                opnum: head.opnum,
            },
        )
        .map_err(|_| Refusal::Fault { context_id: head.context_id, status: FaultStatus::ACCESS_DENIED })?;
        let security = security.and_then(|security| match &security.state {
            SecurityState::Ready(context) => Some(CallSecurity {
                auth_type: security.auth_type,
                level: security.protection.level,
                identity: context.identity(),
            }),
            _ => None,
        });
        let sealed =
            security.as_ref().is_some_and(|security: &CallSecurity| security.level == AuthLevel::PRIVACY);
        let stub_capacity = stub.capacity();
        self.outstanding.push(Outstanding { head, stub_capacity, orphaned: false, cancelled: false });
        self.events.push_back(Event::Call(Call {
            id: head.call_id,
            interface,
            opnum: head.opnum,
            object: head.object,
            syntax,
            order: head.order,
            stub,
            extension: extension.filter(|_| sealed),
            security,
        }));
        Ok(())
    }
}

/// Trailer and token of a bind or alter_context. Padding may reach to where the stub of a request would
/// begin, and nothing is taken off the body for it: Windows does so, as Samba's tests of raw DCE/RPC have it.
fn split_negotiation<'a>(
    header: &Header,
    pdu: &'a [u8],
) -> Result<Option<AuthVerifier<'a>>, dtyp::DecodeError> {
    split_auth(header, pdu, RequestHead::LEN)
}

fn decode_bind(
    header: &Header,
    pdu: &[u8],
    auth: Option<AuthVerifier<'_>>,
) -> Result<Bind, dtyp::DecodeError> {
    let end = auth.map_or(pdu.len(), |auth| auth.body_end + usize::from(auth.trailer.auth_pad_length));
    Bind::decode(&mut Reader::new(&pdu[Header::LEN..end]).with_order(header.order))
}

#[cfg(test)]
mod tests;
