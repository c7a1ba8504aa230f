//! [MS-NLMP] 2.2.1: the three messages.

use super::av_pairs::AvPairs;
use super::flags::NtlmFlags;
use dtyp::{DecodeError, DecodeErrorKind, Reader, utf16le, utf16le_text};

/// The longest message that is read: a proof with long names takes two kilobytes.
pub(super) const MESSAGE_LEN_MAX: usize = 8 * 1024;

const SIGNATURE: [u8; 8] = *b"NTLMSSP\0";
/// VERSION ([MS-NLMP] 2.2.2.10): only logs read it.
const VERSION: [u8; 8] = [10, 0, 0xf4, 0x65, 0, 0, 0, 15];
const VERSION_OF_NOTHING: [u8; 8] = [0; 8];

/// Where the payload of a CHALLENGE begins.
const CHALLENGE_HEAD: usize = 8 // Signature
    + 4 // MessageType
    + 8 // TargetNameFields
    + 4 // NegotiateFlags
    + 8 // ServerChallenge
    + 8 // Reserved
    + 8 // TargetInfoFields
    + 8; // Version
/// Where the payload of an AUTHENTICATE begins at the earliest: clients of the first days have neither
/// version nor MIC.
const AUTHENTICATE_HEAD_MIN: usize = 8 // Signature
    + 4 // MessageType
    + 6 * 8 // fields
    + 4; // NegotiateFlags
const MIC_AT: usize = AUTHENTICATE_HEAD_MIN + 8; // Version
const MIC_LEN: usize = 16;
/// Where it begins in a message with a MIC.
const AUTHENTICATE_HEAD: usize = MIC_AT + MIC_LEN;

fn start(reader: &mut Reader<'_>, message_type: u32) -> Result<(), DecodeError> {
    if reader.array::<8>("Signature")? != SIGNATURE {
        return Err(reader.error("Signature", DecodeErrorKind::BadValue));
    }
    match reader.u32("MessageType")? {
        read if read == message_type => Ok(()),
        _ => Err(reader.error("MessageType", DecodeErrorKind::BadValue)),
    }
}

/// A part of the payload by its length and offset; MaximumLength means nothing.
#[derive(Clone, Copy)]
struct Field {
    len: u16,
    offset: u32,
}

impl Field {
    fn read(reader: &mut Reader<'_>, what: &'static str) -> Result<Self, DecodeError> {
        let len = reader.u16(what)?;
        let _maximum = reader.u16(what)?;
        Ok(Self { len, offset: reader.u32(what)? })
    }

    /// The bytes. The offset of an empty field means nothing.
    fn get<'a>(
        self,
        reader: &Reader<'a>,
        what: &'static str,
        payload_at: usize,
    ) -> Result<&'a [u8], DecodeError> {
        match self.len {
            0 => Ok(&[]),
            _ if (self.offset as usize) < payload_at => {
                Err(DecodeError { what, offset: self.offset as usize, kind: DecodeErrorKind::Overlap })
            }
            len => reader.slice_at(what, self.offset, len.into()),
        }
    }
}

/// The type 1 message: what the client can do. Its names mean nothing to us and are not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Negotiate {
    /// What the client offers.
    pub flags: NtlmFlags,
}

impl Negotiate {
    /// Reads a message.
    pub fn read(message: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = bounded("NEGOTIATE_MESSAGE", message)?;
        start(&mut reader, 1)?;
        Ok(Self { flags: NtlmFlags(reader.u32("NegotiateFlags")?) })
    }

    /// The message, without names.
    pub fn to_bytes(self) -> Vec<u8> {
        let mut out = SIGNATURE.to_vec();
        out.extend_from_slice(&1_u32.to_le_bytes());
        out.extend_from_slice(&self.flags.0.to_le_bytes());
        out.extend_from_slice(&[0; 16]); // DomainNameFields, WorkstationFields
        out.extend_from_slice(&version(self.flags));
        out
    }
}

fn bounded<'a>(what: &'static str, message: &'a [u8]) -> Result<Reader<'a>, DecodeError> {
    let reader = Reader::new(message);
    match message.len() <= MESSAGE_LEN_MAX {
        true => Ok(reader),
        false => Err(reader.error(what, DecodeErrorKind::TooLong)),
    }
}

const fn version(flags: NtlmFlags) -> [u8; 8] {
    match flags.contains(NtlmFlags::VERSION) {
        true => VERSION,
        false => VERSION_OF_NOTHING,
    }
}

/// The type 2 message: the server's challenge and names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Challenge {
    /// What was agreed on.
    pub flags: NtlmFlags,
    /// The domain, or the server where it belongs to none.
    pub target_name: String,
    /// Eight random bytes, used once.
    pub server_challenge: [u8; 8],
    /// Names and time of the server.
    pub target_info: AvPairs,
}

impl Challenge {
    /// Reads a message.
    pub fn read(message: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = bounded("CHALLENGE_MESSAGE", message)?;
        start(&mut reader, 2)?;
        let target_name = Field::read(&mut reader, "TargetNameFields")?;
        let flags = NtlmFlags(reader.u32("NegotiateFlags")?);
        let server_challenge = reader.array("ServerChallenge")?;
        reader.take("Reserved", 8)?;
        let target_info = Field::read(&mut reader, "TargetInfoFields")?;
        let payload_at = CHALLENGE_HEAD - 8;
        let info = target_info.get(&reader, "TargetInfo", payload_at)?;
        Ok(Self {
            flags,
            target_name: utf16le_text("TargetName", target_name.get(&reader, "TargetName", payload_at)?)?,
            server_challenge,
            target_info: AvPairs::read(&mut Reader::new(info))?,
        })
    }

    /// The message.
    pub fn to_bytes(&self) -> Vec<u8> {
        let target_name = utf16le(&self.target_name);
        let mut target_info = Vec::new();
        self.target_info.encode(&mut target_info);
        let mut out = SIGNATURE.to_vec();
        out.extend_from_slice(&2_u32.to_le_bytes());
        field(&mut out, &target_name, CHALLENGE_HEAD);
        out.extend_from_slice(&self.flags.0.to_le_bytes());
        out.extend_from_slice(&self.server_challenge);
        out.extend_from_slice(&[0; 8]);
        field(&mut out, &target_info, CHALLENGE_HEAD + target_name.len());
        out.extend_from_slice(&version(self.flags));
        out.extend_from_slice(&target_name);
        out.extend_from_slice(&target_info);
        out
    }
}

/// A field's reference. The parts of a message that we build are shorter than 64 KiB: names have limits.
fn field(out: &mut Vec<u8>, value: &[u8], offset: usize) {
    let len = (value.len() as u16).to_le_bytes();
    out.extend_from_slice(&len);
    out.extend_from_slice(&len);
    out.extend_from_slice(&(offset as u32).to_le_bytes());
}

/// The type 3 message: the client's proof.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authenticate {
    /// What was agreed on, in the client's words.
    pub flags: NtlmFlags,
    /// LmChallengeResponse.
    pub lm_response: Vec<u8>,
    /// NtChallengeResponse: the proof and, from its byte 16, the blob that it covers.
    pub nt_response: Vec<u8>,
    /// DomainName, as the client wrote it.
    pub domain: String,
    /// UserName, as the client wrote it.
    pub user: String,
    /// Workstation.
    pub workstation: String,
    /// EncryptedRandomSessionKey.
    pub encrypted_session_key: Vec<u8>,
    /// The octets where a MIC is, if the payload leaves room for one. Whether they are one is told by the
    /// flags inside the proof.
    pub mic: Option<[u8; MIC_LEN]>,
}

impl Authenticate {
    /// Reads a message.
    pub fn read(message: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = bounded("AUTHENTICATE_MESSAGE", message)?;
        start(&mut reader, 3)?;
        let mut next = |what| Field::read(&mut reader, what);
        let lm = next("LmChallengeResponseFields")?;
        let nt = next("NtChallengeResponseFields")?;
        let domain = next("DomainNameFields")?;
        let user = next("UserNameFields")?;
        let workstation = next("WorkstationFields")?;
        let key = next("EncryptedRandomSessionKeyFields")?;
        let flags = NtlmFlags(reader.u32("NegotiateFlags")?);
        // Whether there is a MIC is told by where the payload starts, and by nothing else in the head.
        let fields = [lm, nt, domain, user, workstation, key];
        let payload_at =
            fields.iter().filter(|field| field.len != 0).map(|field| field.offset as usize).min();
        let has_mic = payload_at.unwrap_or(message.len()) >= AUTHENTICATE_HEAD;
        let mic = match has_mic {
            true => message.get(MIC_AT..).and_then(|rest| rest.first_chunk()).copied(),
            false => None,
        };
        let get = |field: Field, what| field.get(&reader, what, AUTHENTICATE_HEAD_MIN);
        let text = |field, what| get(field, what).and_then(|bytes| utf16le_text(what, bytes));
        Ok(Self {
            flags,
            lm_response: get(lm, "LmChallengeResponse")?.to_vec(),
            nt_response: get(nt, "NtChallengeResponse")?.to_vec(),
            domain: text(domain, "DomainName")?,
            user: text(user, "UserName")?,
            workstation: text(workstation, "Workstation")?,
            encrypted_session_key: get(key, "EncryptedRandomSessionKey")?.to_vec(),
            mic,
        })
    }

    /// The message with room for a MIC, which is [`Self::mic`] or zeroes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let [domain, user, workstation] =
            [&self.domain, &self.user, &self.workstation].map(|text| utf16le(text));
        let mut at = AUTHENTICATE_HEAD;
        let mut place = |len: usize| {
            at += len;
            at - len
        };
        let domain_at = place(domain.len());
        let user_at = place(user.len());
        let workstation_at = place(workstation.len());
        let lm_at = place(self.lm_response.len());
        let nt_at = place(self.nt_response.len());
        let key_at = place(self.encrypted_session_key.len());
        let mut out = SIGNATURE.to_vec();
        out.extend_from_slice(&3_u32.to_le_bytes());
        field(&mut out, &self.lm_response, lm_at);
        field(&mut out, &self.nt_response, nt_at);
        field(&mut out, &domain, domain_at);
        field(&mut out, &user, user_at);
        field(&mut out, &workstation, workstation_at);
        field(&mut out, &self.encrypted_session_key, key_at);
        out.extend_from_slice(&self.flags.0.to_le_bytes());
        out.extend_from_slice(&version(self.flags));
        out.extend_from_slice(&self.mic.unwrap_or_default());
        for part in
            [&domain, &user, &workstation, &self.lm_response, &self.nt_response, &self.encrypted_session_key]
        {
            out.extend_from_slice(part);
        }
        out
    }

    /// The octets of a message with its MIC zeroed, over which the MIC is computed.
    pub(super) fn without_mic(message: &[u8]) -> Vec<u8> {
        let mut message = message.to_vec();
        if let Some(mic) = message.get_mut(MIC_AT..AUTHENTICATE_HEAD) {
            mic.fill(0);
        }
        message
    }
}

/// The head of the blob that a proof covers: RespType, HiRespType, six and two reserved octets, time, client
/// challenge and four reserved octets.
const BLOB_HEAD: usize = 28;
/// The end of the list that follows.
const BLOB_LEN_MIN: usize = BLOB_HEAD + 4;

/// [MS-NLMP] 2.2.2.7 NTLMv2_CLIENT_CHALLENGE: what the client says inside of its proof.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientChallenge {
    /// The client's time; it repeats the server's.
    pub time: u64,
    /// Eight random bytes.
    pub client_challenge: [u8; 8],
    /// The server's list, repeated, and what the client adds.
    pub target_info: AvPairs,
}

impl ClientChallenge {
    /// Reads a blob. Octets behind the list are covered by the proof and mean nothing.
    pub fn read(blob: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(blob);
        if blob.len() < BLOB_LEN_MIN {
            return Err(reader.error("NTLMv2_CLIENT_CHALLENGE", DecodeErrorKind::Truncated));
        }
        if reader.array::<2>("RespType")? != [1, 1] {
            return Err(reader.error("RespType", DecodeErrorKind::BadValue));
        }
        reader.take("Reserved", 6)?;
        let time = reader.u64("TimeStamp")?;
        let client_challenge = reader.array("ChallengeFromClient")?;
        reader.take("Reserved3", 4)?;
        Ok(Self { time, client_challenge, target_info: AvPairs::read(&mut reader)? })
    }

    /// The blob.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = vec![1, 1, 0, 0, 0, 0, 0, 0];
        out.extend_from_slice(&self.time.to_le_bytes());
        out.extend_from_slice(&self.client_challenge);
        out.extend_from_slice(&[0; 4]);
        self.target_info.encode(&mut out);
        out.extend_from_slice(&[0; 4]);
        out
    }
}
