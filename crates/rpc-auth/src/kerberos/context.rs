//! Per-message tokens of RFC 4121 4.2 in DCE style ([MS-KILE] 3.4.5.4.1): the body stays where it is, and all
//! else is in the token.
//!
//! A sealed token is `header (16) | filler | header in ciphertext | MAC | confounder in ciphertext`. RFC 4121
//! rotates a token right by RRC bytes; in DCE style the rotation is EC + RRC, which brings the confounder
//! from the front to the end.

use super::etype::{BLOCK_LEN, Cipher, Key, MacKey, SealingKeys, usage};
use crate::identity::identity_of;
use crate::{MechanismContext, UserIdentity};
use dcerpc::pdu::SecTrailer;
use dcerpc::security::{
    Account, AuthLevel, Outgoing, ProtectedFragment, Protecting, Protection, SecurityContext, SecurityError,
};
use std::any::Any;
use std::sync::Arc;
use zeroize::Zeroizing;

/// Length of the header of both kinds of token.
const HEADER_LEN: usize = 2 // TOK_ID
    + 1 // Flags
    + 1 // Filler
    + 2 // EC
    + 2 // RRC
    + 8; // SND_SEQ
/// TOK_ID of a token that seals.
const WRAP: [u8; 2] = [5, 4];
/// TOK_ID of a token that signs.
const MIC: [u8; 2] = [4, 4];
const SENT_BY_ACCEPTOR: u8 = 1;
const SEALED: u8 = 2;
const ACCEPTOR_SUBKEY: u8 = 4;
/// EC of the tokens that are sent: [MS-KILE] wants one block of filler.
const FILLER_LEN: usize = BLOCK_LEN;
const FILLER: u8 = 0xff;

/// Which end of a context this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Initiator,
    Acceptor,
}

/// The keys and the number of one direction.
struct Direction {
    seal: SealingKeys,
    sign: MacKey,
    /// Flags of each token of this direction, without [`SEALED`].
    flags: u8,
    /// The first number.
    first: u64,
    /// The number of the next token.
    next: u64,
}

impl Direction {
    fn new(sender: Role, key: &Key, first: u32) -> Self {
        let (seal, sign, flags) = match sender {
            Role::Acceptor => {
                (usage::ACCEPTOR_SEAL, usage::ACCEPTOR_SIGN, SENT_BY_ACCEPTOR | ACCEPTOR_SUBKEY)
            }
            Role::Initiator => (usage::INITIATOR_SEAL, usage::INITIATOR_SIGN, ACCEPTOR_SUBKEY),
        };
        // Numbers of 32 bits are extended with zeroes, and go on behind 2^32.
        let first = u64::from(first);
        Self { seal: key.sealing(seal), sign: key.signing(sign), flags, first, next: first }
    }

    fn wrap_header(&self, ec: u16, rrc: u16, number: u64) -> [u8; HEADER_LEN] {
        let mut header = [0; HEADER_LEN];
        header[..2].copy_from_slice(&WRAP);
        header[2] = self.flags | SEALED;
        header[3] = FILLER;
        header[4..6].copy_from_slice(&ec.to_be_bytes());
        header[6..8].copy_from_slice(&rrc.to_be_bytes());
        header[8..].copy_from_slice(&number.to_be_bytes());
        header
    }

    fn mic_header(&self, number: u64) -> [u8; HEADER_LEN] {
        let mut header = [FILLER; HEADER_LEN];
        header[..2].copy_from_slice(&MIC);
        header[2] = self.flags;
        header[8..].copy_from_slice(&number.to_be_bytes());
        header
    }

    /// A MIC token over the pieces of a fragment, and the next number is taken.
    fn mic(&mut self, [header, body, trailer]: [&[u8]; 3], out: &mut Vec<u8>) {
        let token = self.mic_header(self.next);
        self.next += 1;
        out.extend_from_slice(&token);
        out.extend_from_slice(self.sign.mac(&[header, body, trailer, &token]).bytes());
    }

    /// Checks a MIC token that must have this number.
    fn verify_mic(
        &self,
        [header, body, trailer]: [&[u8]; 3],
        token: &[u8],
        number: u64,
    ) -> Result<(), SecurityError> {
        let (token, mac) = token.split_first_chunk::<HEADER_LEN>().ok_or(SecurityError::InvalidToken)?;
        let expected = self.mic_header(number);
        if token[..8] != expected[..8] {
            return Err(SecurityError::InvalidToken);
        }
        self.sign.verify(&[header, body, trailer, token], mac).ok_or(SecurityError::MessageAltered)?;
        if *token != expected {
            return Err(SecurityError::OutOfSequence);
        }
        Ok(())
    }
}

/// Makes confounders: the counter of the sent fragments, encrypted under a key of its own that is drawn at
/// random for each context. Without the key they are as good as random, and no two are equal.
struct Confounders {
    cipher: Cipher,
    count: u128,
}

impl Confounders {
    fn next(&mut self) -> [u8; BLOCK_LEN] {
        let mut block = self.count.to_be_bytes();
        self.count += 1;
        self.cipher.encrypt_block(&mut block);
        block
    }
}

/// A Kerberos context that is set up.
pub(crate) struct KerberosContext {
    role: Role,
    encrypts_then_macs: bool,
    mac_len: usize,
    send: Direction,
    receive: Direction,
    confounders: Confounders,
    /// The peer signed the list of mechanisms under number 0, so its next number is the first one or the one
    /// behind it.
    may_skip_first: bool,
    user: Option<Arc<UserIdentity>>,
    /// Reused from one fragment to the next.
    stream: Zeroizing<Vec<u8>>,
}

impl std::fmt::Debug for KerberosContext {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "KerberosContext {{ {:?}, [redacted] }}", self.user)
    }
}

impl KerberosContext {
    /// A context under the acceptor's subkey. `confounder_seed` must be random.
    pub(crate) fn new(
        role: Role,
        key: &Key,
        send_first: u32,
        receive_first: u32,
        confounder_seed: &[u8; 16],
        user: Option<Arc<UserIdentity>>,
    ) -> Self {
        let peer = match role {
            Role::Initiator => Role::Acceptor,
            Role::Acceptor => Role::Initiator,
        };
        Self {
            role,
            encrypts_then_macs: key.etype().encrypts_then_macs(),
            mac_len: key.etype().mac_len(),
            send: Direction::new(role, key, send_first),
            receive: Direction::new(peer, key, receive_first),
            confounders: Confounders { cipher: Cipher::of_16(confounder_seed), count: 0 },
            may_skip_first: false,
            user,
            stream: Zeroizing::new(Vec::new()),
        }
    }

    /// RRC of a token in DCE style: the encrypted header and the MAC.
    const fn rrc(&self) -> u16 {
        (HEADER_LEN + self.mac_len) as u16
    }

    /// Seals a body in place and appends its token. `signed` are header and trailer if they are signed.
    fn seal(&mut self, confounder: [u8; BLOCK_LEN], signed: [&[u8]; 2], body: &mut [u8], token: &mut [u8]) {
        let direction = &self.send;
        let clear = direction.wrap_header(FILLER_LEN as u16, self.rrc(), direction.next);
        let stream = emptied(&mut self.stream, BLOCK_LEN + body.len() + FILLER_LEN + HEADER_LEN);
        stream.extend_from_slice(&confounder);
        stream.extend_from_slice(body);
        stream.extend_from_slice(&[FILLER; FILLER_LEN]);
        stream.extend_from_slice(&direction.wrap_header(FILLER_LEN as u16, 0, direction.next));
        let body_end = BLOCK_LEN + body.len();
        let mac = match self.encrypts_then_macs {
            false => {
                let mac = mac_of_stream(&direction.seal.integrity, false, signed, stream, body_end);
                direction.seal.cipher.encrypt(stream);
                mac
            }
            true => {
                direction.seal.cipher.encrypt(stream);
                mac_of_stream(&direction.seal.integrity, true, signed, stream, body_end)
            }
        };
        let (front, rest) = stream.split_at(body_end);
        body.copy_from_slice(&front[BLOCK_LEN..]);
        let mut at = 0;
        for piece in [&clear[..], rest, mac.bytes(), &front[..BLOCK_LEN]] {
            token[at..at + piece.len()].copy_from_slice(piece);
            at += piece.len();
        }
        self.send.next += 1;
    }

    fn unseal(&mut self, signed: [&[u8]; 2], body: &mut [u8], token: &[u8]) -> Result<(), SecurityError> {
        let invalid = SecurityError::InvalidToken;
        let direction = &self.receive;
        let (header, rest) = token.split_first_chunk::<HEADER_LEN>().ok_or(invalid)?;
        let ec = u16::from_be_bytes([header[4], header[5]]);
        let number = u64::from_be_bytes(*header[8..].first_chunk().ok_or(invalid)?);
        if *header != direction.wrap_header(ec, self.rrc(), number) {
            return Err(invalid);
        }
        let ec_len = usize::from(ec);
        if rest.len() != ec_len + HEADER_LEN + self.mac_len + BLOCK_LEN {
            return Err(invalid);
        }
        let (sealed_end, rest) = rest.split_at(ec_len + HEADER_LEN);
        let (mac, confounder) = rest.split_at(self.mac_len);
        let stream = emptied(&mut self.stream, confounder.len() + body.len() + sealed_end.len());
        stream.extend_from_slice(confounder);
        stream.extend_from_slice(body);
        stream.extend_from_slice(sealed_end);
        let body_end = BLOCK_LEN + body.len();
        let SealingKeys { cipher, integrity } = &direction.seal;
        let expected = match self.encrypts_then_macs {
            true => {
                let expected = mac_of_stream(integrity, true, signed, stream, body_end);
                cipher.decrypt(stream);
                expected
            }
            false => {
                cipher.decrypt(stream);
                mac_of_stream(integrity, false, signed, stream, body_end)
            }
        };
        if !bool::from(subtle::ConstantTimeEq::ct_eq(expected.bytes(), mac)) {
            return Err(SecurityError::MessageAltered);
        }
        // The copy that was encrypted: RRC is 0 there.
        if stream[body_end + ec_len..] != direction.wrap_header(ec, 0, number) {
            return Err(SecurityError::MessageAltered);
        }
        body.copy_from_slice(&stream[BLOCK_LEN..body_end]);
        self.take_number(number)
    }

    /// Takes the number of a token that was verified.
    fn take_number(&mut self, number: u64) -> Result<(), SecurityError> {
        let may_skip = std::mem::take(&mut self.may_skip_first);
        let expected = self.receive.next;
        if number != expected && !(may_skip && number == expected + 1) {
            return Err(SecurityError::OutOfSequence);
        }
        self.receive.next = number + 1;
        Ok(())
    }

    fn unsign(&mut self, signed: [&[u8]; 2], body: &[u8], token: &[u8]) -> Result<(), SecurityError> {
        let number = token.get(8..16).and_then(|number| number.first_chunk());
        let number = u64::from_be_bytes(*number.ok_or(SecurityError::InvalidToken)?);
        self.receive.verify_mic([signed[0], body, signed[1]], token, number)?;
        self.take_number(number)
    }
}

/// The buffer, empty and with room for `len` bytes. A buffer that grows in place leaves clear text in the
/// memory that it had, so a new one takes its place, and the old one is wiped.
fn emptied(buffer: &mut Zeroizing<Vec<u8>>, len: usize) -> &mut Vec<u8> {
    if buffer.capacity() < len {
        *buffer = Zeroizing::new(Vec::with_capacity(len));
    }
    buffer.clear();
    buffer
}

/// The MAC over the stream of a sealed token, with header and trailer of the fragment around the body.
fn mac_of_stream(
    key: &MacKey,
    encrypts_then_macs: bool,
    [header, trailer]: [&[u8]; 2],
    stream: &[u8],
    body_end: usize,
) -> super::etype::Tag {
    let iv: &[u8] = if encrypts_then_macs { &[0; BLOCK_LEN] } else { &[] };
    key.mac(&[iv, &stream[..BLOCK_LEN], header, &stream[BLOCK_LEN..body_end], trailer, &stream[body_end..]])
}

/// Header and trailer as far as they are signed.
const fn signed<'a>(protection: Protection, header: &'a [u8], trailer: &'a [u8]) -> [&'a [u8]; 2] {
    if protection.header_signing { [header, trailer] } else { [&[], &[]] }
}

impl SecurityContext for KerberosContext {
    fn token_len(&self, level: AuthLevel) -> usize {
        if level >= AuthLevel::PRIVACY {
            HEADER_LEN + FILLER_LEN + HEADER_LEN + self.mac_len + BLOCK_LEN
        } else if level > AuthLevel::CONNECT {
            HEADER_LEN + self.mac_len
        } else {
            0
        }
    }

    fn supports_header_signing(&self) -> bool {
        true
    }

    fn unprotect(
        &mut self,
        protection: Protection,
        fragment: ProtectedFragment<'_>,
    ) -> Result<(), SecurityError> {
        let ProtectedFragment { header, body, trailer, token } = fragment;
        let signed = signed(protection, header, trailer);
        match protection.level >= AuthLevel::PRIVACY {
            true => self.unseal(signed, body, token),
            false => self.unsign(signed, body, token),
        }
    }

    fn protect(&mut self, protection: Protection, message: Outgoing) -> Protecting {
        // INVARIANT: `inner` is None. It is of Netlogon's generic pass-through, which runs over its own
        // provider only.
        let Outgoing { stub, fragments, .. } = message;
        // It may have a secret, of which the sealed copy alone is left.
        let stub = Zeroizing::new(stub);
        let is_sealed = protection.level >= AuthLevel::PRIVACY;
        let token_len = self.token_len(protection.level);
        let overhead = |fragment: &dcerpc::security::OutgoingFragment| {
            fragment.header.len() + usize::from(fragment.pad) + SecTrailer::LEN + token_len
        };
        let mut wire = Vec::with_capacity(stub.len() + fragments.iter().map(overhead).sum::<usize>());
        for fragment in fragments {
            let trailer = fragment.trailer.to_array();
            let signed = signed(protection, &fragment.header, &trailer);
            wire.extend_from_slice(&fragment.header);
            let body_start = wire.len();
            wire.extend_from_slice(&stub[fragment.body]);
            wire.resize(wire.len() + usize::from(fragment.pad), 0);
            let trailer_start = wire.len();
            wire.extend_from_slice(&trailer);
            let token_start = wire.len();
            if is_sealed {
                wire.resize(token_start + token_len, 0);
                let (before, token) = wire.split_at_mut(token_start);
                let confounder = self.confounders.next();
                self.seal(confounder, signed, &mut before[body_start..trailer_start], token);
            } else {
                let mut token = Vec::with_capacity(token_len);
                self.send.mic([signed[0], &wire[body_start..trailer_start], signed[1]], &mut token);
                wire.extend_from_slice(&token);
            }
        }
        Box::pin(std::future::ready(wire))
    }

    fn identity(&self) -> Arc<dyn Any + Send + Sync> {
        identity_of(self.user.as_ref())
    }

    fn account(&self) -> Option<Account> {
        self.user.as_deref().map(UserIdentity::account)
    }
}

impl MechanismContext for KerberosContext {
    fn user(&self) -> Option<Arc<UserIdentity>> {
        self.user.clone()
    }

    fn sign_mech_list(&mut self, list: &[u8]) -> Vec<u8> {
        let mut token = Vec::with_capacity(HEADER_LEN + self.mac_len);
        self.send.mic([list, &[], &[]], &mut token);
        token
    }

    /// Acceptors of Windows sign the list under number 0, others under their first number. A client takes
    /// these two.
    fn verify_mech_list(&mut self, list: &[u8], mic: &[u8]) -> Result<(), SecurityError> {
        match self.receive.verify_mic([list, &[], &[]], mic, self.receive.first) {
            Ok(()) => self.take_number(self.receive.first),
            Err(SecurityError::OutOfSequence) if self.role == Role::Initiator => {
                self.receive.verify_mic([list, &[], &[]], mic, 0)?;
                self.may_skip_first = true;
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    fn wants_mech_list_mic(&self) -> bool {
        false
    }

    fn into_security_context(self: Box<Self>) -> Box<dyn SecurityContext> {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kerberos::Etype;
    use crate::kerberos::test::unhex;
    use dtyp::hex;

    const SEAL: Protection = Protection { level: AuthLevel::PRIVACY, header_signing: true };
    const CONFOUNDER: [u8; 16] =
        [0x00, 0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88, 0x99, 0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0xff];

    fn context(role: Role, etype: Etype, send: u32, receive: u32) -> KerberosContext {
        let bytes: Vec<u8> = (0..etype.key_len() as u8).collect();
        let key = Key::new(etype, &bytes).expect("the length of the type");
        KerberosContext::new(role, &key, send, receive, &[7; 16], None)
    }

    /// The request of the vectors, before it is protected: header, body, trailer.
    fn request(token_len: u8) -> (Vec<u8>, Vec<u8>, Vec<u8>) {
        let len = 24 + 16 + 8 + token_len;
        let header = unhex(&format!("0500000310000000{len:02x}00{token_len:02x}00020000000400000000000000"));
        (header, unhex("10000000000000000000000000000000"), unhex("10060c0001000000"))
    }

    fn sealed(context: &mut KerberosContext, header_signing: bool) -> (Vec<u8>, Vec<u8>) {
        let token_len = context.token_len(AuthLevel::PRIVACY);
        let (header, mut body, trailer) = request(token_len as u8);
        let protection = Protection { header_signing, ..SEAL };
        let mut token = vec![0; token_len];
        context.seal(CONFOUNDER, signed(protection, &header, &trailer), &mut body, &mut token);
        (body, token)
    }

    #[test]
    fn sealed_requests_are_those_of_mit_kerberos() {
        for (etype, body, token) in [
            (
                Etype::Aes256Sha1,
                "0de59c27a685f21a35986e82a31af691",
                "050406ff0010001c00000000000003e85f0c1f08ff0a881157c63d82ad5581f29bb166ccaae4dc1ca563b1ad5dbaa42f\
                 6b80846cb8301480f21a2f12928071968a2593ec846392541a6af97a",
            ),
            (
                Etype::Aes128Sha1,
                "fb73ef74db9286bb50fb398c89984546",
                "050406ff0010001c00000000000003e8e197fb900e43cb6aa9d0b11a3e3db60d\
                 a9d86c83bd0869e7bf3a097fa9be2b68371b3157e2748c088e32208845edefbfb4f94275e37bc1861d225b9d",
            ),
            (
                Etype::Aes128Sha256,
                "3c934f1efc62b310f7f2195c1c661d20",
                "050406ff0010002000000000000003e81893f793a07cc666ee92af3642ea887e\
                 44f08fe94d65c1a72e3e9da787c735dfa3d204ad6ae9869dd0d2088051e1cb0c5dc42658a58964713aa652e1205d8f55",
            ),
            (
                Etype::Aes256Sha384,
                "d71e497d9582639483269e5502cd0c52",
                "050406ff0010002800000000000003e895da868e8aec1ffbe321009c8c26ca77\
                 cde598f4dbe566d3e7eb4bfca152820d922aa67da40663f65b457ed2d2569fcbf560bfeafccdaa901982022ee287ec2fdece740e1ceed81f",
            ),
        ] {
            let sent = sealed(&mut context(Role::Initiator, etype, 1000, 1), true);
            assert_eq!((hex(&sent.0), hex(&sent.1)), (body.to_owned(), hex(&unhex(token))), "{etype}");
        }
        let (_, token) = sealed(&mut context(Role::Initiator, Etype::Aes256Sha1, 1000, 1), false);
        assert_eq!(hex(&token[48..60]), "49517efcbadea5b3ea191617", "without header signing");
    }

    #[test]
    fn a_sealed_response_is_that_of_mit_kerberos() {
        let mut client = context(Role::Initiator, Etype::Aes256Sha1, 1000, 0x0102_0304);
        let mut pdu = unhex(
            "05000203100000008c004c00020000001c00000000000000b5b48231e8f29899a914c037a5740d431ca5b9edf025629e
             0349620d27ec01161006040001000000050407ff0010001c000000000102030447dfd3a186aeee66f7f404e3d41b7316
             07938f9155201515c8cf28b08a221a605e979afa4046c81b5d98ee187336f1fc32123e01aaab0b3135ba11d9",
        );
        let (header, rest) = pdu.split_at_mut(24);
        let (body, rest) = rest.split_at_mut(32);
        let (trailer, token) = rest.split_at_mut(8);
        client.unprotect(SEAL, ProtectedFragment { header, body, trailer, token }).expect("the vector");
        let plain = body.to_vec();
        // The acceptor makes the same bytes of it.
        let mut server = context(Role::Acceptor, Etype::Aes256Sha1, 0x0102_0304, 1000);
        let mut out = vec![0; 76];
        let mut body = plain;
        server.seal(CONFOUNDER, [header, trailer], &mut body, &mut out);
        assert_eq!(hex(&out), hex(token));
    }

    #[test]
    fn a_signed_request_is_that_of_mit_kerberos() {
        let header = unhex("05000003100000004c001c00020000000400000000000000");
        let (body, trailer) = (unhex("10000000000000000000000000000000"), unhex("10050c0001000000"));
        let mut client = context(Role::Initiator, Etype::Aes256Sha1, 1000, 1);
        let mut token = Vec::new();
        client.send.mic([&header, &body, &trailer], &mut token);
        assert_eq!(hex(&token), "040404ffffffffff00000000000003e8e927813ed1a9b075a0c30f5a");
        let mut client = context(Role::Initiator, Etype::Aes256Sha1, 1000, 1);
        let mut token = Vec::new();
        client.send.mic([&body, &[], &[]], &mut token);
        assert_eq!(hex(&token[16..]), "2fd670724db85bc648e77c5b", "without header signing");
    }

    #[test]
    fn refuses_each_single_bit_change_of_header_body_trailer_and_token() {
        for etype in Etype::ALL {
            let server = || context(Role::Acceptor, etype, 1, 1000);
            let token_len = server().token_len(AuthLevel::PRIVACY);
            let (header, plain, trailer) = request(token_len as u8);
            let (body, token) = sealed(&mut context(Role::Initiator, etype, 1000, 1), true);
            let pdu = [&header[..], &body, &trailer, &token].concat();
            let open = |pdu: &[u8]| {
                let mut pdu = pdu.to_vec();
                let (header, rest) = pdu.split_at_mut(24);
                let (body, rest) = rest.split_at_mut(16);
                let (trailer, token) = rest.split_at_mut(8);
                let fragment = ProtectedFragment { header, body, trailer, token };
                server().unprotect(SEAL, fragment).map(|()| body.to_vec())
            };
            assert_eq!(open(&pdu), Ok(plain), "{etype}");
            for bit in 0..pdu.len() * 8 {
                let mut changed = pdu.clone();
                changed[bit / 8] ^= 1 << (bit % 8);
                assert!(open(&changed).is_err(), "{etype} bit {bit}");
            }
            for end in 48..pdu.len() {
                assert!(open(&pdu[..end]).is_err(), "{etype} cut to {end}");
            }
            // Signed alone.
            let protection = Protection { level: AuthLevel::INTEGRITY, header_signing: true };
            let mut token = Vec::new();
            context(Role::Initiator, etype, 1000, 1).send.mic([&header, &body, &trailer], &mut token);
            assert_eq!(token.len(), server().token_len(AuthLevel::INTEGRITY));
            let pdu = [&header[..], &body, &trailer, &token].concat();
            let check = |pdu: &[u8]| {
                let mut pdu = pdu.to_vec();
                let (header, rest) = pdu.split_at_mut(24);
                let (body, rest) = rest.split_at_mut(16);
                let (trailer, token) = rest.split_at_mut(8);
                server().unprotect(protection, ProtectedFragment { header, body, trailer, token })
            };
            assert_eq!(check(&pdu), Ok(()), "{etype}");
            for bit in 0..pdu.len() * 8 {
                let mut changed = pdu.clone();
                changed[bit / 8] ^= 1 << (bit % 8);
                assert!(check(&changed).is_err(), "{etype} signed, bit {bit}");
            }
        }
    }

    #[test]
    fn the_buffer_of_clear_text_never_grows_in_place() {
        let mut client = context(Role::Initiator, Etype::Aes256Sha1, 1000, 1);
        let mut server = context(Role::Acceptor, Etype::Aes256Sha1, 1, 1000);
        let mut token = vec![0; client.token_len(AuthLevel::PRIVACY)];
        for len in [16, 17, 24, 4096, 4097] {
            let mut body = vec![0x2a; len];
            client.seal(CONFOUNDER, [&[], &[]], &mut body, &mut token);
            server.unseal([&[], &[]], &mut body, &token).expect("ours");
            assert_eq!(body, vec![0x2a; len]);
            // A vector that grows takes more than it needs.
            for stream in [&client.stream, &server.stream] {
                assert_eq!(stream.capacity(), stream.len(), "{len}");
            }
        }
    }

    /// A token with another EC, as Impacket and MIT Kerberos may send it, or another RRC.
    fn odd_token(etype: Etype, ec: usize, rrc: u16) -> (Vec<u8>, Vec<u8>) {
        let client = context(Role::Initiator, etype, 1000, 1);
        let direction = &client.send;
        let mut body = unhex("10000000000000000000000000000000");
        let mut stream =
            [&CONFOUNDER[..], &body, &vec![FILLER; ec], &direction.wrap_header(ec as u16, 0, 1000)].concat();
        let key = &direction.seal.integrity;
        let mac = match etype.encrypts_then_macs() {
            false => {
                let mac = mac_of_stream(key, false, [&[], &[]], &stream, 32);
                direction.seal.cipher.encrypt(&mut stream);
                mac
            }
            true => {
                direction.seal.cipher.encrypt(&mut stream);
                mac_of_stream(key, true, [&[], &[]], &stream, 32)
            }
        };
        body.copy_from_slice(&stream[16..32]);
        let token =
            [&direction.wrap_header(ec as u16, rrc, 1000)[..], &stream[32..], mac.bytes(), &stream[..16]]
                .concat();
        (body, token)
    }

    #[test]
    fn takes_each_length_of_the_filler_and_one_rotation() {
        let protection = Protection { header_signing: false, ..SEAL };
        for etype in Etype::ALL {
            let rrc = 16 + etype.mac_len() as u16;
            for (ec, rrc, ok) in
                [(0, rrc, true), (3, rrc, true), (16, rrc, true), (16, 0, false), (16, rrc + 16, false)]
            {
                let (mut body, token) = odd_token(etype, ec, rrc);
                let mut server = context(Role::Acceptor, etype, 1, 1000);
                let fragment =
                    ProtectedFragment { header: &[], body: &mut body, trailer: &[], token: &token };
                assert_eq!(server.unprotect(protection, fragment).is_ok(), ok, "{etype} EC {ec} RRC {rrc}");
            }
        }
    }

    fn exchange(from: &mut KerberosContext, to: &mut KerberosContext) -> Result<(), SecurityError> {
        let (mut body, token) = sealed(from, true);
        let (header, _, trailer) = request(token.len() as u8);
        let fragment =
            ProtectedFragment { header: &header, body: &mut body, trailer: &trailer, token: &token };
        to.unprotect(SEAL, fragment)
    }

    #[test]
    fn numbers_go_on_behind_32_bits_and_none_counts_twice() {
        let start = 0xffff_fffe;
        let mut client = context(Role::Initiator, Etype::Aes256Sha1, start, start);
        let mut server = context(Role::Acceptor, Etype::Aes256Sha1, start, start);
        for _ in 0..10 {
            exchange(&mut client, &mut server).expect("a request");
            exchange(&mut server, &mut client).expect("a response");
        }
        assert_eq!((client.send.next, server.send.next), (0x1_0000_0008, 0x1_0000_0008));

        let (body, token) = sealed(&mut client, true);
        let (header, _, trailer) = request(token.len() as u8);
        let receive = |context: &mut KerberosContext| {
            let mut body = body.clone();
            let fragment =
                ProtectedFragment { header: &header, body: &mut body, trailer: &trailer, token: &token };
            context.unprotect(SEAL, fragment)
        };
        assert_eq!(receive(&mut client), Err(SecurityError::InvalidToken), "reflected");
        assert_eq!(receive(&mut server), Ok(()));
        assert_eq!(receive(&mut server), Err(SecurityError::OutOfSequence), "replayed");
        sealed(&mut client, true);
        assert_eq!(exchange(&mut client, &mut server), Err(SecurityError::OutOfSequence), "one is missing");
    }

    #[test]
    fn the_list_of_mechanisms_takes_the_first_number_and_a_client_takes_zero_too() {
        let pair = || {
            (
                context(Role::Initiator, Etype::Aes128Sha1, 5, 9),
                context(Role::Acceptor, Etype::Aes128Sha1, 9, 5),
            )
        };
        let (mut client, mut server) = pair();
        let mic = server.sign_mech_list(b"list");
        assert_eq!(mic[..4], [4, 4, 5, 0xff]);
        assert_eq!(client.verify_mech_list(b"lisp", &mic), Err(SecurityError::MessageAltered));
        assert_eq!(client.verify_mech_list(b"list", &mic), Ok(()));
        exchange(&mut server, &mut client).expect("the number behind the list's");

        for (number, skip, ok) in [(0, 0, true), (0, 1, true), (0, 2, false), (1, 0, false), (10, 0, false)] {
            let (mut client, mut server) = pair();
            server.send.next = number;
            let mic = server.sign_mech_list(b"list");
            server.send.next = 9 + skip;
            let taken =
                client.verify_mech_list(b"list", &mic).and_then(|()| exchange(&mut server, &mut client));
            assert_eq!(taken.is_ok(), ok, "list under {number}, first fragment under {}", 9 + skip);
        }
    }

    #[test]
    fn what_is_protected_is_unprotected() {
        use std::task::{Context, Poll, Waker};
        for (level, etype) in [AuthLevel::PRIVACY, AuthLevel::INTEGRITY]
            .into_iter()
            .flat_map(|level| Etype::ALL.map(|etype| (level, etype)))
        {
            let mut client = context(Role::Initiator, etype, 1, 2);
            let mut server = context(Role::Acceptor, etype, 2, 1);
            let token_len = server.token_len(level);
            let (header, ..) = request(token_len as u8);
            let protection = Protection { level, header_signing: true };
            let trailer = SecTrailer {
                auth_type: dcerpc::security::AuthType::KERBEROS,
                auth_level: level,
                auth_pad_length: 12,
                auth_context_id: 1,
            };
            let fragment = dcerpc::security::OutgoingFragment { header, body: 0..4, pad: 12, trailer };
            let message = Outgoing { stub: vec![1, 2, 3, 4], inner: None, fragments: vec![fragment] };
            let mut protecting = server.protect(protection, message);
            let Poll::Ready(mut wire) = protecting.as_mut().poll(&mut Context::from_waker(Waker::noop()))
            else {
                panic!("nothing to wait for");
            };
            assert_eq!(wire.len(), 24 + 16 + 8 + token_len);
            let (header, rest) = wire.split_at_mut(24);
            let (body, rest) = rest.split_at_mut(16);
            let (trailer, token) = rest.split_at_mut(8);
            client.unprotect(protection, ProtectedFragment { header, body, trailer, token }).expect("ours");
            assert_eq!(body[..5], [1, 2, 3, 4, 0], "{etype}");
        }
    }
}
