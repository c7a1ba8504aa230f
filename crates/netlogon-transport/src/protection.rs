//! The Netlogon security provider's protection of fragments ([MS-NRPC] 3.3.4.2): NL_AUTH_SHA2_SIGNATURE.
//!
//! One counter numbers every protected fragment of a security context in either direction, so both sides
//! agree on it only while one asks and the other answers. A fault carries no token and takes no number.

pub use crate::keys::ChannelKeys;

use crate::keys::doubled_iv;
use crate::sealer::{Job, Sealer};
use dcerpc::security::{
    AuthLevel, Outgoing, ProtectedFragment, Protecting, Protection, SecurityContext, SecurityError,
};
use std::any::Any;
use std::cell::RefCell;
use std::sync::Arc;
use subtle::ConstantTimeEq;

/// [MS-NRPC] 2.2.1.3.3 NL_AUTH_SHA2_SIGNATURE as it is on the wire: confounder at 24, the last 24 bytes
/// unused.
const TOKEN_LEN: usize = 2 // SignatureAlgorithm
    + 2 // SealAlgorithm
    + 2 // Pad
    + 2 // Flags
    + 8 // SequenceNumber
    + 8 // Checksum
    + 8 // Confounder
    + 24; // Reserved
/// A signature without sealing may leave the confounder out.
const SIGNED_TOKEN_LEN_MIN: usize = TOKEN_LEN - 8;

const SEALED: [u8; 8] = [0x13, 0x00, 0x1a, 0x00, 0xff, 0xff, 0x00, 0x00];
const SIGNED: [u8; 8] = [0x13, 0x00, 0xff, 0xff, 0xff, 0xff, 0x00, 0x00];

/// Which end of a channel a context is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Made the bind.
    Client,
    /// Answered it.
    Server,
}

impl Role {
    const fn other(self) -> Self {
        match self {
            Self::Client => Self::Server,
            Self::Server => Self::Client,
        }
    }
}

/// The number of a fragment as it is encrypted: low word, high word, each big-endian, and a bit for the
/// client.
fn sequence_bytes(number: u64, sender: Role) -> [u8; 8] {
    let mut bytes = [0; 8];
    bytes[..4].copy_from_slice(&(number as u32).to_be_bytes());
    bytes[4..].copy_from_slice(&((number >> 32) as u32).to_be_bytes());
    if sender == Role::Client {
        bytes[4] |= 0x80;
    }
    bytes
}

/// Draws confounders.
pub type Confounder = fn(&mut [u8; 8]);

/// Random bytes from the operating system, fetched for many confounders at once: asking for each costs as
/// much as its checksum. Each is used once, and goes over the wire encrypted.
pub fn random_confounder(confounder: &mut [u8; 8]) {
    const LEN: usize = 512;
    thread_local! {
        /// Bytes, and how many of them are left.
        static DRAWN: RefCell<([u8; LEN], usize)> = const { RefCell::new(([0; LEN], 0)) };
    }
    DRAWN.with_borrow_mut(|(bytes, left)| {
        if *left == 0 {
            // A confounder hides equal beginnings; were the system's source ever to fail, sealing must not go
            // on.
            getrandom::fill(bytes).expect("the operating system has a source of randomness");
            *left = LEN;
        }
        *left -= 8;
        confounder.copy_from_slice(&bytes[*left..*left + 8]);
        bytes[*left..*left + 8].fill(0);
    });
}

/// One end's protection of one security context.
pub(crate) struct Protector {
    keys: Arc<ChannelKeys>,
    role: Role,
    sequence: u64,
    sealer: Sealer,
    confounder: Confounder,
}

impl Protector {
    pub(crate) const fn new(
        keys: Arc<ChannelKeys>,
        role: Role,
        sealer: Sealer,
        confounder: Confounder,
    ) -> Self {
        Self { keys, role, sequence: 0, sealer, confounder }
    }

    pub(crate) fn unprotect(
        &mut self,
        protection: Protection,
        fragment: ProtectedFragment<'_>,
    ) -> Result<(), SecurityError> {
        let ProtectedFragment { header, body, trailer, token } = fragment;
        let sealed = protection.level >= AuthLevel::PRIVACY;
        let (form, len_min) = if sealed { (SEALED, TOKEN_LEN) } else { (SIGNED, SIGNED_TOKEN_LEN_MIN) };
        if token.len() < len_min || token.len() > TOKEN_LEN {
            return Err(SecurityError::InvalidToken);
        }
        if token[..8] != form {
            return Err(SecurityError::MessageAltered);
        }
        let sequence = sequence_bytes(self.sequence, self.role.other());
        let checksum: [u8; 8] = std::array::from_fn(|n| token[16 + n]);
        let mut confounder = [0; 8];
        let mut confounder_len = 0;
        if sealed {
            confounder.copy_from_slice(&token[24..32]);
            confounder_len = 8;
            // One stream runs over the confounder and on over the body.
            let register: [u8; 16] = std::array::from_fn(|n| match n {
                0..8 => sequence[n],
                _ => confounder[n - 8],
            });
            self.keys.outer.decrypt(doubled_iv(sequence), &mut confounder);
            self.keys.outer.decrypt(register, body);
        }
        let (header, trailer): (&[u8], &[u8]) =
            if protection.header_signing { (header, trailer) } else { (&[], &[]) };
        let expected = self.keys.checksum(&[&form, &confounder[..confounder_len], header, body, trailer]);
        if !bool::from(expected.ct_eq(&checksum)) {
            return Err(SecurityError::MessageAltered);
        }
        // Decrypting is faster than encrypting, and as good to compare.
        let mut received: [u8; 8] = std::array::from_fn(|n| token[8 + n]);
        self.keys.inner.decrypt(doubled_iv(checksum), &mut received);
        if !bool::from(received.ct_eq(&sequence)) {
            return Err(SecurityError::OutOfSequence);
        }
        self.sequence += 1;
        Ok(())
    }

    pub(crate) fn protect(&mut self, protection: Protection, message: Outgoing) -> Protecting {
        let sealed = protection.level >= AuthLevel::PRIVACY;
        let Outgoing { stub: mut plain, inner, fragments } = message;
        let stub_len = plain.len();
        // Only the last fragment is padded, so its padding can follow the stub.
        let pad = fragments.last().map_or(0, |fragment| usize::from(fragment.pad));
        plain.resize(stub_len + pad, 0);
        let overhead: usize =
            fragments.iter().map(|f| f.header.len() + dcerpc::pdu::SecTrailer::LEN + TOKEN_LEN).sum();
        let mut wire = Vec::with_capacity(plain.len() + overhead);
        let mut pieces = Vec::with_capacity(fragments.len());
        for fragment in &fragments {
            let header = wire.len()..wire.len() + fragment.header.len();
            wire.extend_from_slice(&fragment.header);
            let plain_body = fragment.body.start..fragment.body.end + usize::from(fragment.pad);
            let body_start = wire.len();
            wire.extend_from_slice(&plain[plain_body.clone()]);
            let trailer = wire.len()..wire.len() + dcerpc::pdu::SecTrailer::LEN;
            wire.extend_from_slice(&fragment.trailer.to_array());
            let token = wire.len();
            wire.resize(token + TOKEN_LEN, 0);
            let mut confounder = [0; 8];
            if sealed {
                (self.confounder)(&mut confounder);
                wire[token + 24..token + 32].copy_from_slice(&confounder);
            }
            let sequence = sequence_bytes(self.sequence, self.role);
            self.sequence += 1;
            pieces.push(Piece { header, plain_body, body_start, trailer, token, confounder, sequence });
        }
        let mut job = Job::new(Arc::clone(&self.keys), plain, inner.unwrap_or(0..0), wire);
        if sealed {
            for piece in &pieces {
                let iv = doubled_iv(piece.sequence);
                job.fragment(iv, piece.plain_body.clone(), piece.body_start, piece.token + 24);
            }
        }
        let (keys, header_signing) = (Arc::clone(&self.keys), protection.header_signing);
        let sealing = self.sealer.seal(job);
        Box::pin(async move {
            let Job { plain, mut wire, .. } = sealing.await;
            for piece in pieces {
                if !sealed {
                    // What is only signed still carries the inner encryption.
                    wire[piece.body_start..][..piece.plain_body.len()]
                        .copy_from_slice(&plain[piece.plain_body.clone()]);
                }
                piece.sign(&keys, sealed, header_signing, &plain, &mut wire);
            }
            wire
        })
    }
}

/// Where the parts of one outgoing fragment are.
struct Piece {
    header: std::ops::Range<usize>,
    plain_body: std::ops::Range<usize>,
    body_start: usize,
    trailer: std::ops::Range<usize>,
    token: usize,
    confounder: [u8; 8],
    sequence: [u8; 8],
}

impl Piece {
    /// Writes the token's form, sequence number and checksum; the confounder is there already.
    fn sign(&self, keys: &ChannelKeys, sealed: bool, header_signing: bool, plain: &[u8], wire: &mut [u8]) {
        let form = if sealed { SEALED } else { SIGNED };
        let confounder = if sealed { &self.confounder[..] } else { &[] };
        let body = &plain[self.plain_body.clone()];
        let (header, trailer): (&[u8], &[u8]) = match header_signing {
            true => (&wire[self.header.clone()], &wire[self.trailer.clone()]),
            false => (&[], &[]),
        };
        let checksum = keys.checksum(&[&form, confounder, header, body, trailer]);
        let sequence = keys.encrypted_sequence(checksum, self.sequence);
        let token = &mut wire[self.token..][..TOKEN_LEN];
        token[..8].copy_from_slice(&form);
        token[8..16].copy_from_slice(&sequence);
        token[16..24].copy_from_slice(&checksum);
    }
}

/// The security context of a client: one channel, whose keys are known.
pub struct ClientContext {
    protector: Protector,
}

impl ClientContext {
    /// The client's end of a channel.
    pub const fn new(keys: Arc<ChannelKeys>, sealer: Sealer, confounder: Confounder) -> Self {
        Self { protector: Protector::new(keys, Role::Client, sealer, confounder) }
    }
}

impl SecurityContext for ClientContext {
    fn token_len(&self, level: AuthLevel) -> usize {
        token_len(level)
    }

    fn supports_header_signing(&self) -> bool {
        true
    }

    fn unprotect(
        &mut self,
        protection: Protection,
        fragment: ProtectedFragment<'_>,
    ) -> Result<(), SecurityError> {
        self.protector.unprotect(protection, fragment)
    }

    fn protect(&mut self, protection: Protection, message: Outgoing) -> Protecting {
        self.protector.protect(protection, message)
    }

    fn identity(&self) -> Arc<dyn Any + Send + Sync> {
        Arc::new(())
    }
}

/// Length of the token: the same signed or sealed, and none below.
pub(crate) const fn token_len(level: AuthLevel) -> usize {
    if level.0 >= AuthLevel::INTEGRITY.0 { TOKEN_LEN } else { 0 }
}

#[cfg(test)]
mod tests;
