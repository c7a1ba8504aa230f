//! The client's half of an association: one interface, at most one security context, one call at a time.
//!
//! ```text
//! new ─bind─► Binding ─bind_ack─► Bound ─call─► request… ─► response… ─► Event::Reply ─► Bound
//!                └─bind_ack─► Event::Challenge ─answer─► alter_context ─alter_context_resp─► …
//! ```
//!
//! A security context of several legs asks its owner after each of the server's tokens. Its last token goes
//! out in an auth3, which has no answer.
//!
//! Any error ends the association: its owner closes the connection. A reply under a security context is
//! accepted only if every fragment verifies. Only faults may come without a token, and they carry no results.
//!
//! # Example
//!
//! A client and a server in memory. Over a network, the owner writes what `poll_transmit` returns to a
//! socket, and hands what it reads to `receive`.
//!
//! ```
//! use dcerpc::client::{ClientAssociation, ClientConfig, ClientEvent};
//! use dcerpc::ndr::NdrSyntax;
//! use dcerpc::pdu::SyntaxId;
//! use dcerpc::server::{Event, ServerAssociation, ServerConfig, Transmit};
//! use std::net::Ipv4Addr;
//! use std::sync::Arc;
//!
//! let uuid = dtyp::Guid::new(0x6f1c_2d3e, 0x4a5b, 0x6c7d, [8, 9, 10, 11, 12, 13, 14, 15]);
//! let interface = SyntaxId::new(uuid, 1, 0);
//! let config = ClientConfig { interface, syntax: NdrSyntax::Ndr, first_call_id: 1, security: None };
//! let mut client = ClientAssociation::new(config);
//! let config = ServerConfig {
//!     interfaces: vec![interface],
//!     secondary_address: "49664".into(),
//!     groups: Arc::default(),
//!     reassembly: Arc::default(),
//! };
//! let mut server = ServerAssociation::new(Arc::new(config), Ipv4Addr::LOCALHOST.into());
//! let results = loop {
//!     // Without a security context, messages are ready at once.
//!     while let Some(Transmit::Ready(bytes)) = client.poll_transmit() {
//!         server.receive(&bytes);
//!     }
//!     while let Some(event) = server.poll_event() {
//!         // The service answers each call with its parameters.
//!         if let Event::Call(call) = event {
//!             server.reply(call.id, Ok(call.stub.into()));
//!         }
//!     }
//!     while let Some(Transmit::Ready(bytes)) = server.poll_transmit() {
//!         client.receive(&bytes)?;
//!     }
//!     match client.poll_event() {
//!         Some(ClientEvent::Bound { .. }) => drop(client.call(0, b"parameters".to_vec().into())?),
//!         Some(ClientEvent::Challenge { .. }) => unreachable!("there is no security context"),
//!         Some(ClientEvent::Reply { outcome, .. }) => break outcome.expect("the call did not fault"),
//!         None => {}
//!     }
//! };
//! assert_eq!(results.stub, b"parameters");
//! # Ok::<(), dcerpc::client::ClientError>(())
//! ```

use crate::fragmentation::{self, Verifier};
use crate::limits;
use crate::ndr::NdrSyntax;
use crate::pdu::{
    Bind, BindAck, BindNak, BindNakReason, ContextElement, FaultBody, FaultStatus, Header, PacketFlags,
    PacketType, RequestHead, ResponseHead, ResultReason, SecTrailer, SyntaxId, finish_pdu, split_auth,
    start_pdu,
};
use crate::security::{AuthLevel, AuthType, ProtectedFragment, Protection, SecurityContext, SecurityError};
use crate::server::Transmit;
use crate::verification_trailer::{self, Claim};
use dtyp::{ByteOrder, Decode, DecodeError, Encode, Reader};
use std::collections::VecDeque;
use std::ops::Range;

/// What a client association is made from. The caller draws the numbers that must not be predictable.
pub struct ClientConfig {
    /// The interface to bind to.
    pub interface: SyntaxId,
    /// The form of the stubs.
    pub syntax: NdrSyntax,
    /// `call_id` of the bind; calls count on from it. At most 0x3fffffff, so that a lifetime of calls stays
    /// below what Windows takes.
    pub first_call_id: u32,
    /// The security context, set up with the bind.
    pub security: Option<ClientSecurity>,
}

/// A security context that is set up with the bind.
pub struct ClientSecurity {
    /// The provider.
    pub auth_type: AuthType,
    /// How fragments are protected: at least signed.
    pub level: AuthLevel,
    /// `auth_context_id`.
    pub context_id: u32,
    /// The token for the bind.
    pub token: Vec<u8>,
    /// What protects the fragments. `None` if the provider needs more legs: then [`ClientEvent::Challenge`]
    /// asks for them.
    pub context: Option<Box<dyn SecurityContext>>,
    /// Whether a server that cannot cover headers is refused.
    pub require_header_signing: bool,
}

/// The owner's answer to [`ClientEvent::Challenge`].
pub enum ClientLeg {
    /// A token for an alter_context; the server has to answer it.
    Continue(Vec<u8>),
    /// The context is set up on this side.
    Complete {
        /// The last token, for an auth3. Empty if there is none: then nothing is sent.
        token: Vec<u8>,
        /// What protects the fragments.
        context: Box<dyn SecurityContext>,
    },
}

/// An event for the owner of an association.
#[derive(Debug, PartialEq, Eq)]
pub enum ClientEvent {
    /// The security context needs another leg: [`ClientAssociation::answer`].
    Challenge {
        /// The server's token.
        token: Vec<u8>,
    },
    /// The bind was accepted. The caller checks the provider's token of the answer.
    Bound {
        /// Empty without a security context.
        token: Vec<u8>,
        /// Whether header and trailer are covered by signatures.
        header_signing: bool,
    },
    /// A call was answered.
    Reply {
        /// The call_id of the request that is answered.
        call_id: u32,
        /// The results, or a fault.
        outcome: Result<ReplyStub, FaultStatus>,
    },
}

/// The parameters of a call.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RequestStub {
    /// The bytes.
    pub stub: Vec<u8>,
    /// Which of them the security context encrypts first.
    pub inner: Option<Range<usize>>,
    /// Bytes for the service beside the parameters, in a command of the verification trailer that receivers
    /// skip if they do not know it. They are sent only under a seal.
    pub extension: Option<Vec<u8>>,
}

impl RequestStub {
    /// The longest extension that is sent: servers look for a trailer in the last kilobyte, and there are
    /// other commands.
    pub const EXTENSION_LEN_MAX: usize = 768;
}

impl From<Vec<u8>> for RequestStub {
    fn from(stub: Vec<u8>) -> Self {
        Self { stub, ..Self::default() }
    }
}

/// The results of a call.
#[derive(Debug, PartialEq, Eq)]
pub struct ReplyStub {
    /// The bytes.
    pub stub: Vec<u8>,
    /// Their byte order.
    pub order: ByteOrder,
}

/// Why an association ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientError {
    /// A PDU cannot be decoded.
    Decode(DecodeError),
    /// The server refused the bind.
    BindRefused(BindNakReason),
    /// The server does not offer the interface, or not in this form.
    InterfaceRefused(ResultReason),
    /// The server faulted the bind.
    BindFault(FaultStatus),
    /// The server does not cover headers, and that is required.
    HeaderSigningRefused,
    /// A fragment's signature, order or form is wrong.
    Security(SecurityError),
    /// A response under a security context came without protection, or with another context's.
    Unprotected,
    /// A PDU came that the protocol does not allow here.
    UnexpectedPdu(PacketType),
    /// A reply is longer than a call may be.
    ReplyTooLong,
    /// A call is still outstanding, or the association is not bound.
    NotReady,
}

impl From<DecodeError> for ClientError {
    fn from(error: DecodeError) -> Self {
        Self::Decode(error)
    }
}

impl std::fmt::Display for ClientError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Decode(error) => write!(f, "the server's message cannot be decoded: {error}"),
            Self::BindRefused(BindNakReason::INVALID_CHECKSUM) => {
                f.write_str("the server refused the proof of the bind")
            }
            Self::BindRefused(reason) => write!(f, "the server refused the bind (reason {})", reason.0),
            Self::InterfaceRefused(r) => {
                write!(f, "the server does not offer the interface ({}, {})", r.result, r.reason)
            }
            Self::BindFault(status) => write!(f, "the server refused the bind: {status}"),
            Self::HeaderSigningRefused => f.write_str("the server does not sign headers"),
            Self::Security(error) => write!(f, "the server's message does not verify ({error:?})"),
            Self::Unprotected => f.write_str("the server's message is not protected as agreed"),
            Self::UnexpectedPdu(packet_type) => {
                write!(f, "the server sent a PDU of type {} unasked", packet_type.0)
            }
            Self::ReplyTooLong => f.write_str("the server's reply is too long"),
            Self::NotReady => f.write_str("the association is not ready for a call"),
        }
    }
}

impl std::error::Error for ClientError {}

struct Security {
    auth_type: AuthType,
    context_id: u32,
    protection: Protection,
    /// `None` before its last leg. INVARIANT: it is there in the states Bound and Calling.
    context: Option<Box<dyn SecurityContext>>,
    require_header_signing: bool,
}

impl Security {
    const fn trailer(&self) -> SecTrailer {
        SecTrailer {
            auth_type: self.auth_type,
            auth_level: self.protection.level,
            auth_pad_length: 0,
            auth_context_id: self.context_id,
        }
    }

    /// Whether a trailer of the server belongs to this context.
    fn has(&self, trailer: &SecTrailer) -> bool {
        (trailer.auth_type, trailer.auth_level, trailer.auth_context_id)
            == (self.auth_type, self.protection.level, self.context_id)
    }
}

enum State {
    Binding,
    /// The owner is asked for another leg.
    Challenged,
    /// An alter_context waits for its answer.
    Altering,
    Bound,
    Calling {
        call_id: u32,
        stub: Vec<u8>,
        started: bool,
    },
}

/// The client's half of one connection.
pub struct ClientAssociation {
    interface: SyntaxId,
    syntax: NdrSyntax,
    state: State,
    security: Option<Security>,
    bind_call_id: u32,
    next_call_id: u32,
    fragment_len: usize,
    verified_negotiation: bool,
    inbound: Vec<u8>,
    events: VecDeque<ClientEvent>,
    transmits: VecDeque<Transmit>,
}

/// The one presentation context of our clients.
const CONTEXT_ID: u16 = 0;

impl ClientAssociation {
    /// An association whose bind waits to be sent.
    pub fn new(config: ClientConfig) -> Self {
        let mut association = Self {
            interface: config.interface,
            syntax: config.syntax,
            state: State::Binding,
            security: None,
            bind_call_id: config.first_call_id,
            next_call_id: config.first_call_id.wrapping_add(1),
            fragment_len: limits::FRAGMENT_LEN_MAX,
            verified_negotiation: false,
            inbound: Vec::new(),
            events: VecDeque::new(),
            transmits: VecDeque::new(),
        };
        let token = config.security.map(|security| {
            association.security = Some(Security {
                auth_type: security.auth_type,
                context_id: security.context_id,
                protection: Protection { level: security.level, header_signing: false },
                context: security.context,
                require_header_signing: security.require_header_signing,
            });
            security.token
        });
        association.propose(PacketType::BIND, token.as_deref());
        association
    }

    /// Sends a bind or alter_context with the one presentation context, or an auth3.
    fn propose(&mut self, packet_type: PacketType, token: Option<&[u8]>) {
        let mut flags = PacketFlags::WHOLE;
        if token.is_some() {
            flags = flags.with(PacketFlags::SUPPORT_HEADER_SIGN);
        }
        let mut pdu = start_pdu(packet_type, flags, self.bind_call_id);
        if packet_type == PacketType::AUTH3 {
            // Four octets without a meaning ([MS-RPCE] 2.2.2.5).
            pdu.extend_from_slice(&[0; 4]);
        } else {
            Bind {
                max_xmit_frag: limits::FRAGMENT_LEN_MAX as u16,
                max_recv_frag: limits::FRAGMENT_LEN_MAX as u16,
                assoc_group_id: 0,
                contexts: vec![ContextElement {
                    id: CONTEXT_ID,
                    abstract_syntax: self.interface,
                    transfer_syntaxes: vec![self.syntax.into()],
                }],
            }
            .encode(&mut pdu);
        }
        let mut auth_length = 0;
        if let (Some(security), Some(token)) = (&self.security, token) {
            security.trailer().encode(&mut pdu);
            pdu.extend_from_slice(token);
            auth_length = token.len();
        }
        finish_pdu(&mut pdu, 0, auth_length);
        self.transmits.push_back(Transmit::Ready(pdu));
    }

    /// Answers [`ClientEvent::Challenge`].
    pub fn answer(&mut self, leg: ClientLeg) -> Result<(), ClientError> {
        let (State::Challenged, Some(security)) = (&self.state, &mut self.security) else {
            return Err(ClientError::NotReady);
        };
        match leg {
            ClientLeg::Continue(token) => {
                // An alter_context has a `call_id` of its own.
                self.bind_call_id = self.take_call_id()?;
                self.propose(PacketType::ALTER_CONTEXT, Some(&token));
                self.state = State::Altering;
            }
            ClientLeg::Complete { token, context } => {
                security.context = Some(context);
                if !token.is_empty() {
                    self.propose(PacketType::AUTH3, Some(&token));
                }
                self.bound(Vec::new());
            }
        }
        Ok(())
    }

    /// The next `call_id`, unless all are used up.
    fn take_call_id(&mut self) -> Result<u32, ClientError> {
        if self.next_call_id > 0x7fff_ffff {
            return Err(ClientError::NotReady);
        }
        let call_id = self.next_call_id;
        self.next_call_id += 1;
        Ok(call_id)
    }

    fn bound(&mut self, token: Vec<u8>) {
        let header_signing =
            self.security.as_ref().is_some_and(|security| security.protection.header_signing);
        self.state = State::Bound;
        self.events.push_back(ClientEvent::Bound { token, header_signing });
    }

    /// The next event for the owner, if there is one.
    pub fn poll_event(&mut self) -> Option<ClientEvent> {
        self.events.pop_front()
    }

    /// The next bytes to send.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.transmits.pop_front()
    }

    /// Starts a call and returns its `call_id`.
    pub fn call(&mut self, opnum: u16, request: RequestStub) -> Result<u32, ClientError> {
        let RequestStub { mut stub, inner, extension } = request;
        if !matches!(self.state, State::Bound) {
            return Err(ClientError::NotReady);
        }
        let call_id = self.take_call_id()?;
        if let Some(security) = &self.security {
            let transfer_syntax = self.syntax.into();
            let claim = (!std::mem::replace(&mut self.verified_negotiation, true)).then_some(Claim {
                interface: &self.interface,
                transfer_syntax: &transfer_syntax,
                header_signing: security.protection.header_signing,
            });
            let is_sealed = security.protection.level == AuthLevel::PRIVACY;
            let extension = extension
                .as_deref()
                .filter(|bytes| is_sealed && bytes.len() <= RequestStub::EXTENSION_LEN_MAX);
            if claim.is_some() || extension.is_some() {
                verification_trailer::append(&mut stub, claim, extension);
            }
        }
        let verifier = self.security.as_ref().map(|security| Verifier {
            auth_type: security.auth_type,
            auth_level: security.protection.level,
            auth_context_id: security.context_id,
            token_len: security
                .context
                .as_ref()
                .map_or(0, |context| context.token_len(security.protection.level)),
        });
        let head = |flags, alloc_hint| {
            let mut pdu = start_pdu(PacketType::REQUEST, flags, call_id);
            RequestHead { alloc_hint, context_id: CONTEXT_ID, opnum, object: None }.encode(&mut pdu);
            pdu
        };
        let message = fragmentation::plan(stub, inner, self.fragment_len, RequestHead::LEN, verifier, head);
        self.transmits.push_back(match &mut self.security {
            Some(Security { context: Some(context), protection, .. }) => {
                Transmit::Pending(context.protect(*protection, message))
            }
            // INVARIANT: a context that is not set up has no calls.
            Some(_) => return Err(ClientError::NotReady),
            None => Transmit::Ready(fragmentation::unprotected(message)),
        });
        self.state = State::Calling { call_id, stub: Vec::new(), started: false };
        Ok(call_id)
    }

    /// Takes bytes from the server. After an error nothing more is to be done with this association.
    pub fn receive(&mut self, bytes: &[u8]) -> Result<(), ClientError> {
        self.inbound.extend_from_slice(bytes);
        let mut inbound = std::mem::take(&mut self.inbound);
        let mut consumed = 0;
        while let Some(header) = Header::decode(&inbound[consumed..])? {
            let Some(pdu) = inbound[consumed..].get_mut(..usize::from(header.frag_length)) else { break };
            self.pdu(&header, pdu)?;
            consumed += usize::from(header.frag_length);
        }
        inbound.drain(..consumed);
        if inbound.is_empty() && inbound.capacity() > limits::FRAGMENT_LEN_MAX {
            inbound = Vec::new();
        }
        self.inbound = inbound;
        Ok(())
    }

    fn pdu(&mut self, header: &Header, pdu: &mut [u8]) -> Result<(), ClientError> {
        let unexpected = Err(ClientError::UnexpectedPdu(header.packet_type));
        if !header.is_supported() {
            return unexpected;
        }
        let mut body = Reader::new(pdu).with_order(header.order);
        body.take("header", Header::LEN)?;
        match (&self.state, header.packet_type) {
            (_, PacketType::SHUTDOWN) => Ok(()),
            (State::Binding | State::Altering, _) if header.call_id != self.bind_call_id => unexpected,
            (State::Binding, PacketType::BIND_ACK) => self.acknowledged(header, pdu),
            (State::Altering, PacketType::ALTER_CONTEXT_RESP) => self.acknowledged(header, pdu),
            (State::Binding, PacketType::BIND_NAK) => {
                Err(ClientError::BindRefused(BindNak::decode(&mut body)?.reason))
            }
            (State::Binding | State::Altering, PacketType::FAULT) => {
                Err(ClientError::BindFault(FaultBody::decode(&mut body)?.status))
            }
            (State::Calling { call_id, .. }, _) if header.call_id != *call_id => unexpected,
            (State::Calling { .. }, PacketType::RESPONSE) => self.response(header, pdu),
            (State::Calling { call_id, .. }, PacketType::FAULT) => {
                let (call_id, status) = (*call_id, FaultBody::decode(&mut body)?.status);
                self.state = State::Bound;
                self.events.push_back(ClientEvent::Reply { call_id, outcome: Err(status) });
                Ok(())
            }
            _ => unexpected,
        }
    }

    /// Takes a bind_ack or alter_context_resp.
    fn acknowledged(&mut self, header: &Header, pdu: &[u8]) -> Result<(), ClientError> {
        let auth = split_auth(header, pdu, Header::LEN)?;
        let end = auth.map_or(pdu.len(), |auth| auth.body_end);
        let mut body = Reader::new(&pdu[..end]).with_order(header.order);
        body.take("header", Header::LEN)?;
        let ack = BindAck::decode(&mut body)?;
        match ack.results[..] {
            [r] if r.result == ResultReason::ACCEPTANCE && r.transfer_syntax == self.syntax.into() => {}
            [r] => return Err(ClientError::InterfaceRefused(r.result)),
            _ => return Err(ClientError::UnexpectedPdu(header.packet_type)),
        }
        let is_bind = matches!(self.state, State::Binding);
        if is_bind {
            let fragment_len = usize::from(ack.max_recv_frag).min(limits::FRAGMENT_LEN_MAX) & !7;
            if fragment_len < 1024 {
                return Err(ClientError::UnexpectedPdu(header.packet_type));
            }
            self.fragment_len = fragment_len;
        }
        let Some(security) = &mut self.security else {
            self.bound(Vec::new());
            return Ok(());
        };
        // The answer to the last leg of a mechanism may have no token, and then no trailer.
        let token = match auth {
            Some(auth) if security.has(&auth.trailer) => auth.token.to_vec(),
            None if !is_bind => Vec::new(),
            _ => return Err(ClientError::Unprotected),
        };
        // It is agreed on once, by bind and bind_ack.
        if is_bind {
            let header_signing = header.flags.contains(PacketFlags::SUPPORT_HEADER_SIGN);
            if security.require_header_signing && !header_signing {
                return Err(ClientError::HeaderSigningRefused);
            }
            security.protection.header_signing = header_signing;
        }
        if security.context.is_some() {
            self.bound(token);
        } else {
            self.state = State::Challenged;
            self.events.push_back(ClientEvent::Challenge { token });
        }
        Ok(())
    }

    fn response(&mut self, header: &Header, pdu: &mut [u8]) -> Result<(), ClientError> {
        let auth = split_auth(header, pdu, ResponseHead::LEN)?;
        let body_end = auth.map_or(pdu.len(), |auth| auth.body_end);
        let mut head = Reader::new(&pdu[Header::LEN..]).with_order(header.order);
        let head = ResponseHead::decode(&mut head)?;
        if head.context_id != CONTEXT_ID {
            return Err(ClientError::UnexpectedPdu(header.packet_type));
        }
        if let Some(security) = &mut self.security {
            if !security.has(&auth.ok_or(ClientError::Unprotected)?.trailer) {
                return Err(ClientError::Unprotected);
            }
            let token_start = pdu.len() - usize::from(header.auth_length);
            let (signed, token) = pdu.split_at_mut(token_start);
            let (signed, trailer) = signed.split_at_mut(token_start - SecTrailer::LEN);
            let (head, body) = signed.split_at_mut(ResponseHead::LEN);
            let context = security.context.as_mut().ok_or(ClientError::NotReady)?;
            context
                .unprotect(security.protection, ProtectedFragment { header: head, body, trailer, token })
                .map_err(ClientError::Security)?;
        }
        let State::Calling { call_id, stub, started } = &mut self.state else {
            return Err(ClientError::UnexpectedPdu(header.packet_type));
        };
        let call_id = *call_id;
        if header.flags.contains(PacketFlags::FIRST) == *started {
            return Err(ClientError::UnexpectedPdu(header.packet_type));
        }
        *started = true;
        let body =
            pdu.get(ResponseHead::LEN..body_end).ok_or(ClientError::UnexpectedPdu(header.packet_type))?;
        if stub.len() + body.len() > limits::CALL_LEN_MAX {
            return Err(ClientError::ReplyTooLong);
        }
        stub.extend_from_slice(body);
        if header.flags.contains(PacketFlags::LAST) {
            let stub = std::mem::take(stub);
            self.state = State::Bound;
            let outcome = Ok(ReplyStub { stub, order: header.order });
            self.events.push_back(ClientEvent::Reply { call_id, outcome });
        }
        Ok(())
    }
}
