//! Sealed tickets of a farm: versioned, authenticated, bound to a purpose, without I/O.
//!
//! Every node of a farm has the same [`Roots`]: 32 random octets for each generation, which are for tickets
//! alone. The master secret of [MS-SSP] never seals a ticket, because each of its administrators can ask for
//! it.
//!
//! - A **reusable** ticket ([`seal_reusable`], [`open_reusable`]) is bound to the SHA-256 of a client
//!   certificate. It counts only together with that certificate, so a ticket that was stolen alone is of no
//!   use.
//! - A **one-time** ticket ([`seal_once`], [`redeem`]) is redeemed by an insert into a store that all nodes
//!   share ([`Redemption`]). If the store does not answer, the ticket is refused.
//! - A **state** ticket ([`seal_state`], [`open_state`]) holds what its issuer keeps of a session, for any node.
//!   It is bound to nothing: its issuer checks whose it is.
//!
//! Times and salts are arguments: this crate reads no clock and draws no random number.
//!
//! # Format, version 1
//!
//! | offset | octets | field |
//! | --- | --- | --- |
//! | 0 | 1 | version, 1 |
//! | 1 | 1 | kind: 1 reusable, 2 one-time, 3 state |
//! | 2 | 4 | generation of the root; integers are little-endian |
//! | 6 | 32 | salt, random for each ticket; the id of a one-time ticket |
//! | 38 | n | sealed claims |
//! | 38 + n | 16 | tag |
//!
//! `HKDF-SHA256(salt = the salt, secret = the root, info = "rcmpd ticket 1: " || purpose)` gives 44 octets:
//! the key of AES-256-GCM-SIV (32), then the nonce (12). The associated data are the first 38 octets. The
//! claims:
//!
//! | octets | field |
//! | --- | --- |
//! | 8, 8 | issued, expires: FILETIME |
//! | 1 + n | length and text of the audience |
//! | n | SID of the account, packed as in [MS-DTYP] 2.4.2.2 |
//! | 32 | SHA-256 of the certificate, in a reusable ticket only |
//! | 2 + n | length and octets of the data |
//!
//! Of a state ticket they are:
//!
//! | octets | field |
//! | --- | --- |
//! | 8 | expires: FILETIME |
//! | 1 + n | length and text of the audience |
//! | n | the state |
//!
//! A ticket has at most [`TICKET_MAX`] octets, a state ticket [`STATE_TICKET_MAX`]. As a cookie it is
//! base64url without padding: [`to_cookie`], [`from_cookie`].

mod redemption;
mod roots;

pub use redemption::{MemoryRedemption, Redeemed, Redemption, RedemptionFailed, TicketId};
pub use roots::{NotARoot, Root, Roots, RootsError};

use aes_gcm_siv::aead::{AeadInOut, KeyInit};
use aes_gcm_siv::{Aes256GcmSiv, Nonce, Tag};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use dtyp::{Decode, DecodeError, DecodeErrorKind, Encode, FileTime, Reader, Sid};
use std::fmt;
use std::time::Duration;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// Octets of data that fit into a cookie with the longest audience and SID.
pub const DATA_MAX: usize = 1024;
/// Octets of the longest ticket: header, times, audience, SID, certificate, data, tag. As a cookie it has
/// 1,682 characters, and browsers keep 4,096 with name and attributes (RFC 6265, section 6.1).
pub const TICKET_MAX: usize = HEADER_LEN
    + 8
    + 8
    + (1 + Name::LEN_MAX)
    + (8 + 4 * Sid::SUB_AUTHORITIES_MAX)
    + 32
    + (2 + DATA_MAX)
    + TAG_LEN;
/// Octets of state in a ticket. The longest one is sent in each message of a session.
pub const STATE_MAX: usize = 20 << 10;
/// Octets of the longest state ticket.
pub const STATE_TICKET_MAX: usize = HEADER_LEN + 8 + (1 + Name::LEN_MAX) + STATE_MAX + TAG_LEN;
/// A ticket that lives longer than a working day outlives the account's facts that it stands for.
pub const LIFETIME_MAX: Duration = Duration::from_secs(24 * 3600);
/// How far the clocks of two nodes may differ: a ticket of a node whose clock is ahead counts at once.
pub const CLOCK_SKEW: Duration = Duration::from_secs(60);
/// Length of the salt in octets.
pub const SALT_LEN: usize = 32;

const VERSION: u8 = 1;
const REUSABLE: u8 = 1;
const ONE_TIME: u8 = 2;
const STATE: u8 = 3;
const HEADER_LEN: usize = 1 + 1 + 4 + SALT_LEN;
const TAG_LEN: usize = 16;
const KEY_LEN: usize = 32;
const NONCE_LEN: usize = 12;

/// SHA-256 of a client certificate's DER.
pub type CertificateHash = [u8; 32];

/// The name of a purpose or of an audience: 1 to 64 of `a-z A-Z 0-9 . _ : / -`.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Name(String);

impl Name {
    /// Longest name in octets.
    pub const LEN_MAX: usize = 64;

    /// `None` for other text.
    pub fn new(text: &str) -> Option<Self> {
        let allowed = |octet: u8| octet.is_ascii_alphanumeric() || b"._:/-".contains(&octet);
        ((1..=Self::LEN_MAX).contains(&text.len()) && text.bytes().all(allowed))
            .then(|| Self(text.to_owned()))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a ticket says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claims {
    /// When it was issued.
    pub issued: FileTime,
    /// From when on it is refused.
    pub expires: FileTime,
    /// The service that it is for.
    pub audience: Name,
    /// The account.
    pub account: Sid,
    /// What the issuer adds, at most [`DATA_MAX`] octets.
    pub data: Vec<u8>,
}

/// Why claims are not sealed.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ClaimsError {
    /// More than [`DATA_MAX`], or than [`STATE_MAX`].
    #[error("{len} octets of data are more than a ticket may have ({max})")]
    TooLong {
        /// How many they are.
        len: usize,
        /// How many they may be.
        max: usize,
    },
    /// It expires before it is issued, or lives longer than [`LIFETIME_MAX`].
    #[error("a ticket lives more than 0 s and at most {} s", LIFETIME_MAX.as_secs())]
    Lifetime,
}

/// Why a ticket is refused. The reason is for the log: the peer is told only that the ticket is refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Refused {
    /// These octets or this text are no ticket.
    #[error("not a ticket: {0}")]
    Format(#[from] DecodeError),
    /// A newer rcmpd sealed it.
    #[error("version {0}")]
    Version(u8),
    /// A one-time ticket where a reusable one is asked for, or the reverse.
    #[error("another kind of ticket")]
    Kind,
    /// Sealed under a root that is not at hand: it was retired, or has not arrived.
    #[error("unknown generation {0}")]
    Generation(u32),
    /// It was changed, or sealed for another purpose or under another root.
    #[error("it does not open")]
    Seal,
    /// It is for another service.
    #[error("another audience")]
    Audience,
    /// It came with another certificate.
    #[error("another certificate")]
    Certificate,
    /// Its time is over.
    #[error("expired")]
    Expired,
    /// Issued later than now, by more than [`CLOCK_SKEW`].
    #[error("issued in the future")]
    Future,
    /// It lives longer than any ticket may.
    #[error("too long a lifetime")]
    Lifetime,
    /// It was redeemed before.
    #[error("redeemed before")]
    Redeemed,
    /// The store of redeemed tickets did not answer.
    #[error("redemption is not possible: {0}")]
    Redemption(#[from] RedemptionFailed),
}

impl Refused {
    /// One word for metrics and audit records.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Format(_) => "format",
            Self::Version(_) => "version",
            Self::Kind => "kind",
            Self::Generation(_) => "generation",
            Self::Seal => "seal",
            Self::Audience => "audience",
            Self::Certificate => "certificate",
            Self::Expired => "expired",
            Self::Future => "future",
            Self::Lifetime => "lifetime",
            Self::Redeemed => "redeemed",
            Self::Redemption(_) => "store",
        }
    }
}

/// Seals a ticket that counts any number of times, together with this certificate. `salt` is random and never
/// used again.
pub fn seal_reusable(
    roots: &Roots,
    purpose: &Name,
    claims: &Claims,
    certificate: &CertificateHash,
    salt: [u8; SALT_LEN],
) -> Result<Vec<u8>, ClaimsError> {
    seal(roots, purpose, claims, Some(certificate), salt)
}

/// Opens a reusable ticket that came with this certificate.
pub fn open_reusable(
    roots: &Roots,
    purpose: &Name,
    audience: &Name,
    certificate: &CertificateHash,
    now: FileTime,
    ticket: &[u8],
) -> Result<Claims, Refused> {
    let (_, claims, bound) = open(roots, purpose, audience, now, REUSABLE, ticket)?;
    match bound.is_some_and(|bound| bool::from(bound.ct_eq(certificate))) {
        true => Ok(claims),
        false => Err(Refused::Certificate),
    }
}

/// Seals a ticket that counts once. `salt` is random and never used again: it is the ticket's id.
pub fn seal_once(
    roots: &Roots,
    purpose: &Name,
    claims: &Claims,
    salt: [u8; SALT_LEN],
) -> Result<Vec<u8>, ClaimsError> {
    seal(roots, purpose, claims, None, salt)
}

/// Opens a one-time ticket and redeems it. Everything is checked before the insert, so that refused tickets
/// fill no store.
pub async fn redeem(
    roots: &Roots,
    purpose: &Name,
    audience: &Name,
    now: FileTime,
    ticket: &[u8],
    redemption: &impl Redemption,
) -> Result<Claims, Refused> {
    let (Header { salt, .. }, claims, _) = open(roots, purpose, audience, now, ONE_TIME, ticket)?;
    // Another node's clock may be behind, and take the ticket for longer.
    let keep_until = claims.expires + CLOCK_SKEW + CLOCK_SKEW;
    match redemption.insert_once(TicketId(salt), now, keep_until).await? {
        Redeemed::First => Ok(claims),
        Redeemed::Before => Err(Refused::Redeemed),
    }
}

/// Seals what the issuer keeps of a session, for any node of the farm until it expires. `salt` is random and
/// never used again.
pub fn seal_state(
    roots: &Roots,
    purpose: &Name,
    audience: &Name,
    (state, expires): (&[u8], FileTime),
    salt: [u8; SALT_LEN],
) -> Result<Vec<u8>, ClaimsError> {
    if state.len() > STATE_MAX {
        return Err(ClaimsError::TooLong { len: state.len(), max: STATE_MAX });
    }
    let text = audience.0.as_bytes();
    let (expires, len) = (expires.0.to_le_bytes(), [text.len() as u8]);
    Ok(encrypt(roots, purpose, STATE, salt, &[&expires, &len, text, state]))
}

/// Opens a state ticket.
pub fn open_state(
    roots: &Roots,
    purpose: &Name,
    audience: &Name,
    now: FileTime,
    ticket: &[u8],
) -> Result<Zeroizing<Vec<u8>>, Refused> {
    let (_, plain) = decrypt(roots, purpose, STATE, ticket)?;
    let mut reader = Reader::new(&plain);
    let expires = FileTime(reader.u64("expires")?);
    let sealed_for = read_audience(&mut reader)?;
    check_audience(&sealed_for, audience)?;
    if expires <= now {
        return Err(Refused::Expired);
    }
    Ok(Zeroizing::new(reader.rest().to_vec()))
}

/// A ticket as the value of a cookie.
pub fn to_cookie(ticket: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(ticket)
}

/// The ticket in the value of a cookie. There is one text for each ticket: padding, other alphabets and
/// unused bits are refused.
pub fn from_cookie(text: &str) -> Result<Vec<u8>, Refused> {
    let error = |kind| Refused::Format(DecodeError { what: "cookie", offset: 0, kind });
    if text.len() > TICKET_MAX.div_ceil(3) * 4 {
        return Err(error(DecodeErrorKind::TooLong));
    }
    URL_SAFE_NO_PAD.decode(text).map_err(|_| error(DecodeErrorKind::BadText))
}

struct Header {
    kind: u8,
    generation: u32,
    salt: [u8; SALT_LEN],
}

impl Header {
    /// The header, the sealed claims and the tag.
    fn read(ticket: &[u8]) -> Result<(Self, &[u8], [u8; TAG_LEN]), Refused> {
        let mut reader = Reader::new(ticket);
        match reader.u8("ticket version")? {
            VERSION => {}
            other => return Err(Refused::Version(other)),
        }
        let kind = reader.u8("ticket kind")?;
        let max = match kind {
            REUSABLE | ONE_TIME => TICKET_MAX,
            STATE => STATE_TICKET_MAX,
            _ => return Err(reader.error("ticket kind", DecodeErrorKind::BadValue).into()),
        };
        if ticket.len() > max {
            return Err(reader.error("ticket", DecodeErrorKind::TooLong).into());
        }
        let header =
            Self { kind, generation: reader.u32("ticket generation")?, salt: reader.array("ticket salt")? };
        let Some(len) = reader.remaining().checked_sub(TAG_LEN) else {
            return Err(reader.error("ticket tag", DecodeErrorKind::Truncated).into());
        };
        Ok((header, reader.take("claims", len)?, reader.array("ticket tag")?))
    }
}

fn seal(
    roots: &Roots,
    purpose: &Name,
    claims: &Claims,
    certificate: Option<&CertificateHash>,
    salt: [u8; SALT_LEN],
) -> Result<Vec<u8>, ClaimsError> {
    let Claims { issued, expires, audience, account, data } = claims;
    if data.len() > DATA_MAX {
        return Err(ClaimsError::TooLong { len: data.len(), max: DATA_MAX });
    }
    if expires <= issued || expires.since(*issued) > LIFETIME_MAX {
        return Err(ClaimsError::Lifetime);
    }
    let kind = if certificate.is_some() { REUSABLE } else { ONE_TIME };
    let (issued, expires) = (issued.0.to_le_bytes(), expires.0.to_le_bytes());
    let mut sid = Vec::new();
    account.encode(&mut sid);
    let parts: [&[u8]; 8] = [
        &issued,
        &expires,
        &[audience.0.len() as u8],
        audience.0.as_bytes(),
        &sid,
        certificate.map_or(&[], |certificate| certificate),
        &(data.len() as u16).to_le_bytes(),
        data,
    ];
    Ok(encrypt(roots, purpose, kind, salt, &parts))
}

/// A ticket around these parts.
fn encrypt(roots: &Roots, purpose: &Name, kind: u8, salt: [u8; SALT_LEN], parts: &[&[u8]]) -> Vec<u8> {
    let root = roots.sealing();
    // Room for all of it: a vector that grows leaves copies of what is sealed behind.
    let len = parts.iter().map(|part| part.len()).sum::<usize>();
    let mut ticket = Vec::with_capacity(HEADER_LEN + len + TAG_LEN);
    ticket.extend([VERSION, kind]);
    ticket.extend(root.generation().to_le_bytes());
    ticket.extend(salt);
    parts.iter().for_each(|part| ticket.extend(*part));
    let (cipher, nonce) = cipher(root, purpose, &salt);
    let (header, plain) = ticket.split_at_mut(HEADER_LEN);
    // INVARIANT: the lengths are far below the 64 GiB of RFC 8452.
    let tag = cipher.encrypt_inout_detached(&nonce, header, plain.into()).expect("what is sealed is short");
    ticket.extend(tag);
    ticket
}

/// Header and plain text of a ticket of this kind.
fn decrypt(
    roots: &Roots,
    purpose: &Name,
    kind: u8,
    ticket: &[u8],
) -> Result<(Header, Zeroizing<Vec<u8>>), Refused> {
    let (header, sealed, tag) = Header::read(ticket)?;
    if header.kind != kind {
        return Err(Refused::Kind);
    }
    let root = roots.get(header.generation).ok_or(Refused::Generation(header.generation))?;
    let (cipher, nonce) = cipher(root, purpose, &header.salt);
    let mut plain = Zeroizing::new(sealed.to_vec());
    cipher
        .decrypt_inout_detached(&nonce, &ticket[..HEADER_LEN], plain.as_mut_slice().into(), &Tag::from(tag))
        .map_err(|_| Refused::Seal)?;
    Ok((header, plain))
}

fn read_audience(reader: &mut Reader<'_>) -> Result<Name, DecodeError> {
    let len = reader.u8("audience")?;
    let audience = std::str::from_utf8(reader.take("audience", len.into())?).ok().and_then(Name::new);
    audience.ok_or_else(|| reader.error("audience", DecodeErrorKind::BadText))
}

fn check_audience(sealed_for: &Name, audience: &Name) -> Result<(), Refused> {
    match bool::from(sealed_for.0.as_bytes().ct_eq(audience.0.as_bytes())) {
        true => Ok(()),
        false => Err(Refused::Audience),
    }
}

/// Header and claims of a ticket of this kind that counts now, and the certificate of a reusable one. The
/// only place that decides so.
fn open(
    roots: &Roots,
    purpose: &Name,
    audience: &Name,
    now: FileTime,
    kind: u8,
    ticket: &[u8],
) -> Result<(Header, Claims, Option<CertificateHash>), Refused> {
    let (header, plain) = decrypt(roots, purpose, kind, ticket)?;
    let (claims, certificate) = read_claims(&plain, kind)?;
    check_audience(&claims.audience, audience)?;
    if claims.expires <= claims.issued || claims.expires.since(claims.issued) > LIFETIME_MAX {
        return Err(Refused::Lifetime);
    }
    if claims.issued.since(now) > CLOCK_SKEW {
        return Err(Refused::Future);
    }
    if claims.expires <= now {
        return Err(Refused::Expired);
    }
    Ok((header, claims, certificate))
}

fn read_claims(plain: &[u8], kind: u8) -> Result<(Claims, Option<CertificateHash>), DecodeError> {
    let mut reader = Reader::new(plain);
    let (issued, expires) = (FileTime(reader.u64("issued")?), FileTime(reader.u64("expires")?));
    let audience = read_audience(&mut reader)?;
    let account = Sid::decode(&mut reader)?;
    let certificate = match kind {
        REUSABLE => Some(reader.array("certificate")?),
        _ => None,
    };
    let len = usize::from(reader.u16("data")?);
    if len > DATA_MAX {
        return Err(reader.error("data", DecodeErrorKind::TooLong));
    }
    let data = reader.take("data", len)?.to_vec();
    reader.finish("claims")?;
    Ok((Claims { issued, expires, audience, account, data }, certificate))
}

fn cipher(root: &Root, purpose: &Name, salt: &[u8; SALT_LEN]) -> (Aes256GcmSiv, Nonce) {
    let derived = root.derive::<{ KEY_LEN + NONCE_LEN }>(salt, &[b"rcmpd ticket 1: ", purpose.0.as_bytes()]);
    let (key, nonce) = derived.split_first_chunk::<KEY_LEN>().expect("both are derived at once");
    let nonce: [u8; NONCE_LEN] = nonce.try_into().expect("both are derived at once");
    (Aes256GcmSiv::new(key.into()), nonce.into())
}
