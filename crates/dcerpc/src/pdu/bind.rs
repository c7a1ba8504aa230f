use super::SyntaxId;
use dtyp::{Decode, DecodeError, DecodeErrorKind, Encode, Reader};

/// Body of bind and alter_context (\[C706\] 12.6.4.3 and 12.6.4.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bind {
    /// `max_xmit_frag`: the longest fragment the client sends, in bytes.
    pub max_xmit_frag: u16,
    /// `max_recv_frag`: the longest fragment the client takes.
    pub max_recv_frag: u16,
    /// `assoc_group_id`: 0 for a new group.
    pub assoc_group_id: u32,
    /// The proposed presentation contexts; at most 255 fit.
    pub contexts: Vec<ContextElement>,
}

/// `p_cont_elem_t`: one proposed presentation context.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContextElement {
    /// `p_cont_id`, by the client's number.
    pub id: u16,
    /// The interface.
    pub abstract_syntax: SyntaxId,
    /// The forms of the stubs that the client can use; at most 255 fit.
    pub transfer_syntaxes: Vec<SyntaxId>,
}

impl Encode for Bind {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.max_xmit_frag.to_le_bytes());
        out.extend_from_slice(&self.max_recv_frag.to_le_bytes());
        out.extend_from_slice(&self.assoc_group_id.to_le_bytes());
        out.extend_from_slice(&[self.contexts.len() as u8, 0, 0, 0]);
        for context in &self.contexts {
            out.extend_from_slice(&context.id.to_le_bytes());
            out.extend_from_slice(&[context.transfer_syntaxes.len() as u8, 0]);
            context.abstract_syntax.encode(out);
            context.transfer_syntaxes.iter().for_each(|syntax| syntax.encode(out));
        }
    }
}

impl Decode<'_> for Bind {
    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let max_xmit_frag = reader.u16("max_xmit_frag")?;
        let max_recv_frag = reader.u16("max_recv_frag")?;
        let assoc_group_id = reader.u32("assoc_group_id")?;
        let count = reader.u8("n_context_elem")?;
        reader.array::<3>("reserved")?;
        let contexts = (0..count).map(|_| ContextElement::decode(reader)).collect::<Result<_, _>>()?;
        Ok(Self { max_xmit_frag, max_recv_frag, assoc_group_id, contexts })
    }
}

impl Decode<'_> for ContextElement {
    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let id = reader.u16("p_cont_id")?;
        let count = reader.u8("n_transfer_syn")?;
        reader.u8("reserved")?;
        let abstract_syntax = SyntaxId::decode(reader)?;
        let transfer_syntaxes = (0..count).map(|_| SyntaxId::decode(reader)).collect::<Result<_, _>>()?;
        Ok(Self { id, abstract_syntax, transfer_syntaxes })
    }
}

/// Body of bind_ack and alter_context_resp (\[C706\] 12.6.4.4 and 12.6.4.2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BindAck {
    /// `max_xmit_frag`: the longest fragment the server sends.
    pub max_xmit_frag: u16,
    /// `max_recv_frag`: the longest fragment the server takes.
    pub max_recv_frag: u16,
    /// `assoc_group_id`, never 0.
    pub assoc_group_id: u32,
    /// `sec_addr`: the port in decimal digits; empty, and then without its NUL, in alter_context_resp.
    pub secondary_address: String,
    /// One result for each proposed context, in their order.
    pub results: Vec<ContextResult>,
}

/// `p_result_t`: what became of one proposed presentation context.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ContextResult {
    /// Accepted, rejected, or features negotiated.
    pub result: ResultReason,
    /// The transfer syntax that was chosen; all zero unless accepted.
    pub transfer_syntax: SyntaxId,
}

/// `result` and `reason` of a [`ContextResult`], by their numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResultReason {
    /// 0 acceptance, 1 user_rejection, 2 provider_rejection, 3 negotiate_ack.
    pub result: u16,
    /// Why it was rejected, or the features that were agreed.
    pub reason: u16,
}

impl ResultReason {
    /// acceptance.
    pub const ACCEPTANCE: Self = Self { result: 0, reason: 0 };
    /// provider_rejection, abstract_syntax_not_supported.
    pub const ABSTRACT_SYNTAX_NOT_SUPPORTED: Self = Self { result: 2, reason: 1 };
    /// provider_rejection, proposed_transfer_syntaxes_not_supported.
    pub const TRANSFER_SYNTAXES_NOT_SUPPORTED: Self = Self { result: 2, reason: 2 };
    /// provider_rejection, local_limit_exceeded.
    pub const LOCAL_LIMIT_EXCEEDED: Self = Self { result: 2, reason: 3 };

    /// negotiate_ack with the features agreed ([MS-RPCE] 2.2.2.4).
    pub const fn negotiate_ack(features: u16) -> Self {
        Self { result: 3, reason: features }
    }
}

impl Encode for BindAck {
    /// Writes the body; padding counts from the start of the PDU, whose header takes 16 bytes of `out`.
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.max_xmit_frag.to_le_bytes());
        out.extend_from_slice(&self.max_recv_frag.to_le_bytes());
        out.extend_from_slice(&self.assoc_group_id.to_le_bytes());
        if self.secondary_address.is_empty() {
            out.extend_from_slice(&[0, 0]);
        } else {
            out.extend_from_slice(&(self.secondary_address.len() as u16 + 1).to_le_bytes());
            out.extend_from_slice(self.secondary_address.as_bytes());
            out.push(0);
        }
        out.resize(out.len().next_multiple_of(4), 0);
        out.extend_from_slice(&[self.results.len() as u8, 0, 0, 0]);
        for result in &self.results {
            out.extend_from_slice(&result.result.result.to_le_bytes());
            out.extend_from_slice(&result.result.reason.to_le_bytes());
            result.transfer_syntax.encode(out);
        }
    }
}

impl Decode<'_> for BindAck {
    /// Reads the body of a PDU whose 16-byte header `reader` has passed.
    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let max_xmit_frag = reader.u16("max_xmit_frag")?;
        let max_recv_frag = reader.u16("max_recv_frag")?;
        let assoc_group_id = reader.u32("assoc_group_id")?;
        let len = reader.u16("sec_addr")?;
        let address = reader.take("sec_addr", usize::from(len))?;
        let address = address.strip_suffix(&[0]).unwrap_or(address);
        let secondary_address = match address.is_ascii() {
            true => String::from_utf8_lossy(address).into_owned(),
            false => return Err(reader.error("sec_addr", DecodeErrorKind::BadText)),
        };
        reader.align("sec_addr", 4)?;
        let count = reader.u8("n_results")?;
        reader.array::<3>("reserved")?;
        let results = (0..count).map(|_| ContextResult::decode(reader)).collect::<Result<_, _>>()?;
        Ok(Self { max_xmit_frag, max_recv_frag, assoc_group_id, secondary_address, results })
    }
}

impl Decode<'_> for ContextResult {
    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let result = ResultReason { result: reader.u16("result")?, reason: reader.u16("reason")? };
        Ok(Self { result, transfer_syntax: SyntaxId::decode(reader)? })
    }
}

/// Body of bind_nak (\[C706\] 12.6.4.5): the reason, and the versions spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BindNak {
    /// `provider_reject_reason`.
    pub reason: BindNakReason,
}

/// `provider_reject_reason`, by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BindNakReason(pub u16);

impl BindNakReason {
    /// Nothing more is said.
    pub const NOT_SPECIFIED: Self = Self(0);
    /// Temporary congestion.
    pub const TEMPORARY_CONGESTION: Self = Self(1);
    /// A limit of the server's.
    pub const LOCAL_LIMIT: Self = Self(2);
    /// Another protocol version, or a bind that says nothing.
    pub const PROTOCOL_VERSION: Self = Self(4);
    /// No such `auth_type`.
    pub const AUTHENTICATION_TYPE: Self = Self(8);
    /// The authentication failed.
    pub const INVALID_CHECKSUM: Self = Self(9);
}

impl Encode for BindNak {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.reason.0.to_le_bytes());
        // One version is spoken: 5.0; one byte pads to 4.
        out.extend_from_slice(&[1, 5, 0, 0]);
        out.resize(out.len().next_multiple_of(4), 0);
    }
}

impl Decode<'_> for BindNak {
    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self { reason: BindNakReason(reader.u16("provider_reject_reason")?) })
    }
}
