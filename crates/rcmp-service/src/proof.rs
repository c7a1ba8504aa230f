//! Proof of path: who answered and who handed the answer on, each signed.
//!
//! A peer that forwards builds the answer anew, so that the asker sees its word only. Where asked to, each
//! server that an answer passes adds a hop behind the response, where receivers that do not know of it ignore
//! it ([MS-RCMP] 2.2.2, `Length`). A hop is signed over the question and over all hops before it: none can be
//! moved, changed, taken out from between others, or shown for another question. The last ones can be taken
//! away, and so can all: who sees no hop of the server that it asked knows nothing, and
//! [`strong_at_every_hop`] says so. A hop says what its server claims; whether the claim is believed is a
//! matter of whose key it is. The PAC is not signed, for each server builds its own; the account is.
//!
//! ```text
//! block   Magic            8  "RCMPPATH"
//!         Version          1  1
//!         Count            1  1 to 8
//!         Entries
//! entry   BodyLength       2
//!         Body             BodyLength
//!         Signature       64  Ed25519
//! body    Role             1  1 answered, 2 forwarded
//!         Strength         1  0 unknown, 1 weak, 2 strong
//!         PolicyRevision   8
//!         At               8  FILETIME
//!         DomainLength     1
//!         Domain           DomainLength, UTF-8: NetBIOS name of the server's domain
//!         ServerLength     1
//!         Server           ServerLength, UTF-8: NetBIOS name of the server
//!         DomainSid        8 and 4 for each sub-authority: [MS-DTYP] 2.4.2.2
//!         AccountSid       the same
//! ```
//!
//! Integers are little-endian, nothing is aligned, and nothing may be left over. Signed are, one after the
//! other:
//!
//! ```text
//!         Label           14  "rcmpd path v1" and a line feed
//!         Request         32  SHA-256 of SSL_CERT_LOGON_REQ
//!         Nonce           16  the asker's
//!         Before          32  SHA-256 of all entries before this one, from the first BodyLength to the last Signature
//!         Body
//! ```
//!
//! There is no clock here and no randomness: `At` is what the caller says, and that an answer is fresh
//! follows from the nonce.

use crate::message::{RESPONSE_LEN_MAX, Response};
use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, UnparsedPublicKey};
use dtyp::{Decode, DecodeError, DecodeErrorKind, Encode, FileTime, Reader, Sid};
use pac::VerifiedPac;
use sha2::{Digest, Sha256};

/// Most hops of a block: those that a question may pass, and the one that answers.
pub const HOPS_MAX: usize = crate::context::HOPS_MAX + 1;
/// Longest block: so many hops with names of any real length.
pub const BLOCK_LEN_MAX: usize = 4096;

const MAGIC: &[u8; 8] = b"RCMPPATH";
const VERSION: u8 = 1;
/// Where `Count` stands in a block.
const COUNT_AT: usize = MAGIC.len() + 1;
/// A block up to its entries.
const HEADER_LEN: usize = MAGIC.len()
    + 1  // Version
    + 1; // Count
const SIGNATURE_LEN: usize = 64;
/// No key signs these bytes for another purpose.
const LABEL: &[u8] = b"rcmpd path v1\n";

/// One server that an answer passed, and what it says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hop {
    /// What it did.
    pub role: Role,
    /// NetBIOS name of its domain; 1 to 255 bytes without control characters.
    pub domain: String,
    /// Its domain's SID.
    pub domain_sid: Sid,
    /// Its NetBIOS name; 1 to 255 bytes without control characters.
    pub server: String,
    /// The policy by which it did.
    pub policy_revision: u64,
    /// How strongly the certificate is bound to the account, as far as it can tell.
    pub strength: HopStrength,
    /// The account.
    pub account_sid: Sid,
    /// The time of the decision, by the clock of the domain that signed.
    pub at: FileTime,
}

/// What a server did for an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// It knows the account.
    Answered,
    /// It asked another one.
    Forwarded,
}

/// How strongly a certificate is bound to an account. A server that forwarded says what it could verify of
/// the hop that it asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HopStrength {
    /// It cannot tell.
    Unknown,
    /// By names alone.
    Weak,
    /// By more than names.
    Strong,
}

/// What was asked: proof for another question is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Question {
    /// SHA-256 of SSL_CERT_LOGON_REQ.
    pub digest: [u8; 32],
    /// The asker's: random, and used once.
    pub nonce: [u8; 16],
}

impl Question {
    /// The question that a request is.
    pub fn new(request: &[u8], nonce: [u8; 16]) -> Self {
        Self { digest: Sha256::digest(request).into(), nonce }
    }

    /// What is signed of an entry.
    fn message(&self, before: &[u8], body: &[u8]) -> Vec<u8> {
        let before: [u8; 32] = Sha256::digest(before).into();
        [LABEL, &self.digest, &self.nonce, &before, body].concat()
    }
}

/// A hop, and whether the domain that it names has signed it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    /// What is said.
    pub hop: Hop,
    /// Whether the named domain's server said it.
    pub signed: Signed,
}

/// Whether a hop is signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Signed {
    /// By a trusted key of its domain.
    Good,
    /// No key of its domain is trusted.
    Unknown,
    /// By none of the trusted keys of its domain; or for another question, or in another place.
    Bad,
}

/// Why a path is not strong at every hop. Hops count from 0, the answering one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Weakness {
    /// There is no hop.
    #[error("there is no proof of the path")]
    NoProof,
    /// The first hop did not answer, or a later one did.
    #[error("hop {0} did not do what its place says")]
    OutOfOrder(usize),
    /// The first hop is not of the domain that the response names.
    #[error("the answering hop is not of the account's domain")]
    OtherDomain,
    /// The last hop is not of the domain that was asked.
    #[error("the last hop is not of the domain that was asked")]
    OtherAsked,
    /// It is about another account than the response.
    #[error("hop {0} is about another account")]
    OtherAccount(usize),
    /// No key of its domain is trusted.
    #[error("hop {0} is not signed by a known key")]
    UnknownKey(usize),
    /// Its signature is wrong.
    #[error("hop {0} is not signed by its domain")]
    BadSignature(usize),
    /// It does not say that the account is strongly bound.
    #[error("hop {0} is not strong")]
    NotStrong(usize),
}

/// Adds a hop to a response, with hops or without. What is there stays as it is, byte for byte, but for
/// `Count`; on an error all of it does.
pub fn append(
    response: &mut Vec<u8>,
    hop: &Hop,
    question: &Question,
    key: &Ed25519KeyPair,
) -> Result<(), DecodeError> {
    let too_long = |what, offset| DecodeError { what, offset, kind: DecodeErrorKind::TooLong };
    let (message, block) = Response::split(response)?;
    let start = message.len();
    let (count, before) = match block {
        [] => (0, &[][..]),
        _ => (entries(block)?.len(), &block[HEADER_LEN..]),
    };
    if count == HOPS_MAX {
        return Err(too_long("Count", COUNT_AT));
    }
    let body = hop.body()?;
    let signature = key.sign(&question.message(before, &body));
    let entry_len = 2 + body.len() + SIGNATURE_LEN;
    let block_len = HEADER_LEN + before.len() + entry_len;
    if block_len > BLOCK_LEN_MAX || start + block_len > RESPONSE_LEN_MAX {
        return Err(too_long("Block", block_len));
    }
    if count == 0 {
        response.extend_from_slice(MAGIC);
        response.extend_from_slice(&[VERSION, 0]);
    }
    response[start + COUNT_AT] += 1;
    response.extend_from_slice(&(body.len() as u16).to_le_bytes());
    response.extend_from_slice(&body);
    response.extend_from_slice(signature.as_ref());
    Ok(())
}

/// A response, and the block behind it, which is empty where there is none; both as they came. What is no
/// response is all response.
pub fn split(message: &[u8]) -> (&[u8], &[u8]) {
    Response::split(message).unwrap_or((message, &[]))
}

/// Whether bytes are a block that can be read, and so be gone on with.
pub fn is_block(block: &[u8]) -> bool {
    !block.is_empty() && entries(block).is_ok()
}

/// Reads the hops behind a response, the answering one first, and looks at their signatures; no hops where
/// there is no block. `key_of` tells which keys of a domain are trusted, by its NetBIOS name.
pub fn verify(
    message: &[u8],
    question: &Question,
    key_of: impl Fn(&str) -> Vec<[u8; 32]>,
) -> Result<Vec<Verified>, DecodeError> {
    let (_, block) = Response::split(message)?;
    if block.is_empty() {
        return Ok(Vec::new());
    }
    let verified = |entry: Entry<'_>| {
        let keys = key_of(&entry.hop.domain);
        let signed = question.message(entry.before, entry.body);
        let is_by =
            |key: &[u8; 32]| UnparsedPublicKey::new(&ED25519, key).verify(&signed, entry.signature).is_ok();
        let signed = match &keys[..] {
            [] => Signed::Unknown,
            keys if keys.iter().any(is_by) => Signed::Good,
            _ => Signed::Bad,
        };
        Verified { hop: entry.hop, signed }
    };
    Ok(entries(block)?.into_iter().map(verified).collect())
}

/// Whether the account is strongly bound as far as everybody on the path can tell, and everybody is known:
/// from the server of the response's own domain that knows the account to the one of the domain `asked`.
pub fn strong_at_every_hop(
    hops: &[Verified],
    response: &Response<'_>,
    pac: &VerifiedPac,
    asked: &str,
) -> Result<(), Weakness> {
    let ([Verified { hop: first, .. }, ..], [.., Verified { hop: last, .. }]) = (hops, hops) else {
        return Err(Weakness::NoProof);
    };
    for (at, Verified { hop, signed }) in hops.iter().enumerate() {
        match signed {
            Signed::Good => {}
            Signed::Unknown => return Err(Weakness::UnknownKey(at)),
            Signed::Bad => return Err(Weakness::BadSignature(at)),
        }
        if (hop.role == Role::Answered) != (at == 0) {
            return Err(Weakness::OutOfOrder(at));
        }
        if hop.account_sid != pac.user_sid {
            return Err(Weakness::OtherAccount(at));
        }
        if hop.strength != HopStrength::Strong {
            return Err(Weakness::NotStrong(at));
        }
    }
    if !first.domain.eq_ignore_ascii_case(&response.domain)
        || first.domain_sid != pac.logon_info.logon_domain_id
    {
        return Err(Weakness::OtherDomain);
    }
    match last.domain.eq_ignore_ascii_case(asked) {
        true => Ok(()),
        false => Err(Weakness::OtherAsked),
    }
}

impl Hop {
    /// The body of its entry.
    fn body(&self) -> Result<Vec<u8>, DecodeError> {
        let mut body = vec![
            match self.role {
                Role::Answered => 1,
                Role::Forwarded => 2,
            },
            match self.strength {
                HopStrength::Unknown => 0,
                HopStrength::Weak => 1,
                HopStrength::Strong => 2,
            },
        ];
        body.extend_from_slice(&self.policy_revision.to_le_bytes());
        body.extend_from_slice(&self.at.0.to_le_bytes());
        for (what, name) in [("Domain", &self.domain), ("Server", &self.server)] {
            let error = |kind| DecodeError { what, offset: 0, kind };
            body.push(u8::try_from(name.len()).map_err(|_| error(DecodeErrorKind::TooLong))?);
            check_name(name).map_err(error)?;
            body.extend_from_slice(name.as_bytes());
        }
        self.domain_sid.encode(&mut body);
        self.account_sid.encode(&mut body);
        Ok(body)
    }
}

impl Decode<'_> for Hop {
    /// Reads the body of an entry.
    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let role = match reader.u8("Role")? {
            1 => Role::Answered,
            2 => Role::Forwarded,
            _ => return Err(reader.error("Role", DecodeErrorKind::BadValue)),
        };
        let strength = match reader.u8("Strength")? {
            0 => HopStrength::Unknown,
            1 => HopStrength::Weak,
            2 => HopStrength::Strong,
            _ => return Err(reader.error("Strength", DecodeErrorKind::BadValue)),
        };
        let policy_revision = reader.u64("PolicyRevision")?;
        let at = FileTime(reader.u64("At")?);
        let domain = name(reader, "Domain")?;
        let server = name(reader, "Server")?;
        let domain_sid = Sid::decode(reader)?;
        let account_sid = Sid::decode(reader)?;
        Ok(Self { role, domain, domain_sid, server, policy_revision, strength, account_sid, at })
    }
}

/// A name after its length.
fn name(reader: &mut Reader<'_>, what: &'static str) -> Result<String, DecodeError> {
    let len = reader.u8(what)?;
    let bytes = reader.take(what, usize::from(len))?;
    let bad = |kind| reader.error(what, kind);
    let name = std::str::from_utf8(bytes).map_err(|_| bad(DecodeErrorKind::BadText))?;
    check_name(name).map_err(bad)?;
    Ok(name.to_owned())
}

/// Names go into logs.
fn check_name(name: &str) -> Result<(), DecodeErrorKind> {
    match name {
        "" => Err(DecodeErrorKind::BadValue),
        _ if name.contains(char::is_control) => Err(DecodeErrorKind::BadText),
        _ => Ok(()),
    }
}

/// An entry, and what it is signed with.
struct Entry<'a> {
    hop: Hop,
    /// All entries before it.
    before: &'a [u8],
    body: &'a [u8],
    signature: &'a [u8],
}

/// The entries of a block, of which there is at least one.
fn entries(block: &[u8]) -> Result<Vec<Entry<'_>>, DecodeError> {
    let mut reader = Reader::new(block);
    if block.len() > BLOCK_LEN_MAX {
        return Err(reader.error("Block", DecodeErrorKind::TooLong));
    }
    if reader.take("Magic", MAGIC.len())? != MAGIC {
        return Err(DecodeError { what: "Magic", offset: 0, kind: DecodeErrorKind::BadValue });
    }
    if reader.u8("Version")? != VERSION {
        return Err(reader.error("Version", DecodeErrorKind::BadValue));
    }
    let count = match usize::from(reader.u8("Count")?) {
        0 => return Err(reader.error("Count", DecodeErrorKind::BadValue)),
        count @ 1..=HOPS_MAX => count,
        _ => return Err(reader.error("Count", DecodeErrorKind::TooLong)),
    };
    let mut entries = Vec::with_capacity(count);
    for _ in 0..count {
        let before = &block[HEADER_LEN..reader.position()];
        let len = usize::from(reader.u16("BodyLength")?);
        let body = reader.rest();
        let mut inside = reader.sub_reader("Body", len)?;
        let hop = Hop::decode(&mut inside)?;
        inside.finish("Body")?;
        let signature = reader.take("Signature", SIGNATURE_LEN)?;
        entries.push(Entry { hop, before, body: &body[..len], signature });
    }
    reader.finish("Block")?;
    Ok(entries)
}

#[cfg(test)]
mod tests;
