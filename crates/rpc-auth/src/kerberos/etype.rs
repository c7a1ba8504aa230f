//! Encryption types 17 and 18 (RFC 3961, RFC 3962), 19 and 20 (RFC 8009): keys, encryption and checksums.
//!
//! All four encrypt with AES in CBC mode with ciphertext stealing. The first two compute the MAC over the
//! plain text, the other two over the ciphertext. Type 23 (RC4) and the DES types are known by number only,
//! so that a refusal names them.

use aes::cipher::{Array, BlockCipherDecrypt, BlockCipherEncrypt, KeyInit};
use aes::{Aes128, Aes256};
use hmac::{Hmac, Mac};
use sha1::Sha1;
use sha2::{Sha256, Sha384};
use std::fmt;
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, Zeroizing};

/// Length of a confounder and of a block of AES.
pub(crate) const BLOCK_LEN: usize = 16;
/// Longest MAC of the four types.
pub(crate) const MAC_LEN_MAX: usize = 24;

/// Key usages (RFC 4120 7.5.1, RFC 4121 2).
pub mod usage {
    /// EncTicketPart, under the key of the service.
    pub const TICKET: u32 = 2;
    /// The checksum over the body of a TGS-REQ.
    pub const TGS_REQ_CHECKSUM: u32 = 6;
    /// The authenticator of a TGS-REQ.
    pub const TGS_REQ_AUTHENTICATOR: u32 = 7;
    /// The reply to a TGS-REQ whose authenticator has no subkey.
    pub const TGS_REP_SESSION_KEY: u32 = 8;
    /// The authenticator of an AP-REQ.
    pub const AP_REQ_AUTHENTICATOR: u32 = 11;
    /// EncAPRepPart.
    pub const AP_REP: u32 = 12;
    /// KERB_NON_KERB_CKSUM_SALT: the signatures of a PAC.
    pub const PAC: u32 = 17;
    /// Sealed tokens of the acceptor.
    pub const ACCEPTOR_SEAL: u32 = 22;
    /// Signed tokens of the acceptor.
    pub const ACCEPTOR_SIGN: u32 = 23;
    /// Sealed tokens of the initiator.
    pub const INITIATOR_SEAL: u32 = 24;
    /// Signed tokens of the initiator.
    pub const INITIATOR_SIGN: u32 = 25;
}

/// An encryption type that this implementation uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Etype {
    /// aes128-cts-hmac-sha1-96, 17.
    Aes128Sha1,
    /// aes256-cts-hmac-sha1-96, 18.
    Aes256Sha1,
    /// aes128-cts-hmac-sha256-128, 19.
    Aes128Sha256,
    /// aes256-cts-hmac-sha384-192, 20.
    Aes256Sha384,
}

impl Etype {
    /// All of them, the strongest first.
    pub const ALL: [Self; 4] = [Self::Aes256Sha384, Self::Aes256Sha1, Self::Aes128Sha256, Self::Aes128Sha1];

    /// The assigned number.
    pub const fn number(self) -> i32 {
        match self {
            Self::Aes128Sha1 => 17,
            Self::Aes256Sha1 => 18,
            Self::Aes128Sha256 => 19,
            Self::Aes256Sha384 => 20,
        }
    }

    /// The type of this number; `None` for RC4 (23), DES and unknown ones.
    pub fn from_number(number: i32) -> Option<Self> {
        Self::ALL.into_iter().find(|etype| etype.number() == number)
    }

    /// Length of a key.
    pub const fn key_len(self) -> usize {
        match self {
            Self::Aes128Sha1 | Self::Aes128Sha256 => 16,
            Self::Aes256Sha1 | Self::Aes256Sha384 => 32,
        }
    }

    /// Length of a MAC, which is also the length of a checksum.
    pub const fn mac_len(self) -> usize {
        match self {
            Self::Aes128Sha1 | Self::Aes256Sha1 => 12,
            Self::Aes128Sha256 => 16,
            Self::Aes256Sha384 => 24,
        }
    }

    /// The number of the type's mandatory checksum.
    pub const fn checksum_type(self) -> i32 {
        match self {
            Self::Aes128Sha1 => 15,
            Self::Aes256Sha1 => 16,
            Self::Aes128Sha256 => 19,
            Self::Aes256Sha384 => 20,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Aes128Sha1 => "aes128-cts-hmac-sha1-96",
            Self::Aes256Sha1 => "aes256-cts-hmac-sha1-96",
            Self::Aes128Sha256 => "aes128-cts-hmac-sha256-128",
            Self::Aes256Sha384 => "aes256-cts-hmac-sha384-192",
        }
    }

    /// Whether the MAC covers the ciphertext; otherwise it covers the plain text.
    pub(crate) const fn encrypts_then_macs(self) -> bool {
        matches!(self, Self::Aes128Sha256 | Self::Aes256Sha384)
    }
}

impl fmt::Display for Etype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A key of one of the types. It wipes itself, compares in constant time and prints its type only.
#[derive(Clone)]
pub struct Key {
    etype: Etype,
    /// INVARIANT: `etype.key_len()` bytes.
    bytes: Zeroizing<Vec<u8>>,
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        self.etype == other.etype && bool::from(self.bytes.ct_eq(&other.bytes))
    }
}

impl Eq for Key {}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key {{ {}, [redacted] }}", self.etype)
    }
}

/// The constants that separate the three keys of a usage.
const CHECKSUM: u8 = 0x99;
const ENCRYPTION: u8 = 0xaa;
const INTEGRITY: u8 = 0x55;

impl Key {
    /// A key; `None` if its length is not the type's.
    pub fn new(etype: Etype, bytes: &[u8]) -> Option<Self> {
        (bytes.len() == etype.key_len()).then(|| Self { etype, bytes: Zeroizing::new(bytes.to_vec()) })
    }

    /// The key of a password (RFC 3962 4, RFC 8009 4), with the type's default number of iterations.
    pub fn from_password(etype: Etype, password: &str, salt: &str) -> Self {
        let iterations = if etype.encrypts_then_macs() { 32_768 } else { 4096 };
        Self::from_password_iterated(etype, password, salt.as_bytes(), iterations)
    }

    /// The key of a computer account's password ([MS-KILE] 3.1.1.2). `name` is its sAMAccountName, `realm`
    /// the domain's name.
    pub fn of_computer(etype: Etype, password: &str, name: &str, realm: &str) -> Self {
        Self::from_password(etype, password, &computer_salt(name, realm))
    }

    fn from_password_iterated(etype: Etype, password: &str, salt: &[u8], iterations: u32) -> Self {
        let password = password.as_bytes();
        let named: Vec<u8> = [etype.name().as_bytes(), b"\0", salt].concat();
        let mut bytes = Zeroizing::new(vec![0; etype.key_len()]);
        match etype {
            Etype::Aes128Sha1 | Etype::Aes256Sha1 => {
                pbkdf2::<Hmac<Sha1>>(password, salt, iterations, &mut bytes)
            }
            Etype::Aes128Sha256 => pbkdf2::<Hmac<Sha256>>(password, &named, iterations, &mut bytes),
            Etype::Aes256Sha384 => pbkdf2::<Hmac<Sha384>>(password, &named, iterations, &mut bytes),
        }
        let key = Self { etype, bytes };
        let bytes = key.derive(b"kerberos", etype.key_len());
        Self { etype, bytes }
    }

    /// The type.
    pub const fn etype(&self) -> Etype {
        self.etype
    }

    /// The key itself, for a message or a file that carries it.
    pub fn expose(&self) -> &[u8] {
        &self.bytes
    }

    /// DK of RFC 3961 5.1, or KDF-HMAC-SHA2 of RFC 8009 3 with `label`.
    fn derive(&self, label: &[u8], len: usize) -> Zeroizing<Vec<u8>> {
        let mut out = Zeroizing::new(Vec::with_capacity(len + BLOCK_LEN));
        if self.etype.encrypts_then_macs() {
            let mut mac = MacKey::new(self.etype, &self.bytes).start();
            mac.update(&1u32.to_be_bytes());
            mac.update(label);
            mac.update(&[0]);
            mac.update(&(len as u32 * 8).to_be_bytes());
            let mut whole = mac.finish_whole();
            out.extend_from_slice(&whole[..len]);
            whole.zeroize();
            return out;
        }
        let cipher = Cipher::new(&self.bytes);
        let mut block = fold_to_block(label);
        while out.len() < len {
            cipher.encrypt_block(&mut block);
            out.extend_from_slice(&block);
        }
        block.zeroize();
        out.truncate(len);
        out
    }

    fn usage_key(&self, usage: u32, constant: u8, len: usize) -> Zeroizing<Vec<u8>> {
        let [a, b, c, d] = usage.to_be_bytes();
        self.derive(&[a, b, c, d, constant], len)
    }

    /// Length of the keys of HMAC.
    const fn mac_key_len(&self) -> usize {
        match self.etype {
            Etype::Aes256Sha384 => 24,
            _ => self.etype.key_len(),
        }
    }

    /// The keys for encryption under one usage.
    pub(crate) fn sealing(&self, usage: u32) -> SealingKeys {
        SealingKeys {
            cipher: Cipher::new(&self.usage_key(usage, ENCRYPTION, self.etype.key_len())),
            integrity: MacKey::new(self.etype, &self.usage_key(usage, INTEGRITY, self.mac_key_len())),
        }
    }

    /// The key for checksums under one usage.
    pub(crate) fn signing(&self, usage: u32) -> MacKey {
        MacKey::new(self.etype, &self.usage_key(usage, CHECKSUM, self.mac_key_len()))
    }

    /// Encrypts (RFC 3961 5.3, RFC 8009 5): the confounder must be random.
    pub fn encrypt(&self, usage: u32, confounder: [u8; BLOCK_LEN], plain: &[u8]) -> Vec<u8> {
        let keys = self.sealing(usage);
        let mut out = Vec::with_capacity(BLOCK_LEN + plain.len() + MAC_LEN_MAX);
        out.extend_from_slice(&confounder);
        out.extend_from_slice(plain);
        let mac = match self.etype.encrypts_then_macs() {
            true => {
                keys.cipher.encrypt(&mut out);
                keys.integrity.mac(&[&[0; BLOCK_LEN], &out])
            }
            false => {
                let mac = keys.integrity.mac(&[&out]);
                keys.cipher.encrypt(&mut out);
                mac
            }
        };
        out.extend_from_slice(mac.bytes());
        out
    }

    /// Decrypts; `None` if the MAC is wrong or the text is too short.
    pub fn decrypt(&self, usage: u32, text: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        let end = text.len().checked_sub(self.etype.mac_len()).filter(|end| *end >= BLOCK_LEN)?;
        let (text, mac) = text.split_at(end);
        let keys = self.sealing(usage);
        let mut plain = Zeroizing::new(text.to_vec());
        if self.etype.encrypts_then_macs() {
            keys.integrity.verify(&[&[0; BLOCK_LEN], text], mac)?;
            keys.cipher.decrypt(&mut plain);
        } else {
            keys.cipher.decrypt(&mut plain);
            keys.integrity.verify(&[&plain], mac)?;
        }
        plain.drain(..BLOCK_LEN);
        Some(plain)
    }

    /// The checksum of the type [`Etype::checksum_type`].
    pub fn checksum(&self, usage: u32, data: &[&[u8]]) -> Vec<u8> {
        self.signing(usage).mac(data).bytes().to_vec()
    }

    /// Whether `checksum` is the one of `data`, compared in constant time.
    pub fn verify_checksum(&self, usage: u32, data: &[&[u8]], checksum: &[u8]) -> bool {
        self.signing(usage).verify(data, checksum).is_some()
    }
}

fn computer_salt(name: &str, realm: &str) -> String {
    let name = name.strip_suffix('$').unwrap_or(name).to_lowercase();
    format!("{}host{name}.{}", realm.to_uppercase(), realm.to_lowercase())
}

/// The keys Ke and Ki of one usage.
pub(crate) struct SealingKeys {
    pub(crate) cipher: Cipher,
    pub(crate) integrity: MacKey,
}

/// AES in CBC mode with ciphertext stealing (CBC-CS3), the initial vector zero.
pub(crate) enum Cipher {
    Aes128(Aes128),
    Aes256(Aes256),
}

impl Cipher {
    /// INVARIANT: keys have 16 or 32 bytes; [`Key::new`] checks it.
    fn new(key: &[u8]) -> Self {
        match key.first_chunk::<32>() {
            Some(key) => Self::Aes256(Aes256::new(&Array(*key))),
            None => {
                let mut short = [0; 16];
                short.copy_from_slice(key);
                let cipher = Aes128::new(&Array(short));
                short.zeroize();
                Self::Aes128(cipher)
            }
        }
    }

    pub(crate) fn of_16(key: &[u8; 16]) -> Self {
        Self::new(key)
    }

    pub(crate) fn encrypt_block(&self, block: &mut [u8; BLOCK_LEN]) {
        let mut array = Array(*block);
        match self {
            Self::Aes128(cipher) => cipher.encrypt_block(&mut array),
            Self::Aes256(cipher) => cipher.encrypt_block(&mut array),
        }
        *block = array.0;
    }

    fn decrypt_block(&self, block: &mut [u8; BLOCK_LEN]) {
        let mut array = Array(*block);
        match self {
            Self::Aes128(cipher) => cipher.decrypt_block(&mut array),
            Self::Aes256(cipher) => cipher.decrypt_block(&mut array),
        }
        *block = array.0;
    }

    /// Encrypts in place. `text` has at least one block.
    pub(crate) fn encrypt(&self, text: &mut [u8]) {
        let mut previous = [0; BLOCK_LEN];
        let Some(last_start) = last_block_start(text.len()) else {
            // One block: nothing to steal from.
            self.encrypt_chain(&mut previous, text);
            return;
        };
        let (whole, last) = text.split_at_mut(last_start);
        self.encrypt_chain(&mut previous, whole);
        let mut block = [0; BLOCK_LEN];
        block[..last.len()].copy_from_slice(last);
        xor(&mut block, &previous);
        self.encrypt_block(&mut block);
        // The last two blocks change places, and the one that comes last is cut.
        last.copy_from_slice(&previous[..last.len()]);
        whole[last_start - BLOCK_LEN..].copy_from_slice(&block);
    }

    fn encrypt_chain(&self, previous: &mut [u8; BLOCK_LEN], text: &mut [u8]) {
        for chunk in text.as_chunks_mut::<BLOCK_LEN>().0 {
            xor(chunk, previous);
            self.encrypt_block(chunk);
            *previous = *chunk;
        }
    }

    /// Decrypts in place. `text` has at least one block.
    pub(crate) fn decrypt(&self, text: &mut [u8]) {
        let mut previous = [0; BLOCK_LEN];
        let Some(last_start) = last_block_start(text.len()) else {
            self.decrypt_chain(&mut previous, text);
            return;
        };
        let (whole, last) = text.split_at_mut(last_start);
        let (whole, swapped) = whole.split_at_mut(last_start - BLOCK_LEN);
        self.decrypt_chain(&mut previous, whole);
        let mut block = [0; BLOCK_LEN];
        block.copy_from_slice(swapped);
        self.decrypt_block(&mut block);
        // What was cut from the block before is in this one's plain text.
        let mut stolen = block;
        stolen[..last.len()].copy_from_slice(last);
        for (plain, cipher) in last.iter_mut().zip(block) {
            *plain ^= cipher;
        }
        self.decrypt_block(&mut stolen);
        xor(&mut stolen, &previous);
        swapped.copy_from_slice(&stolen);
    }

    fn decrypt_chain(&self, previous: &mut [u8; BLOCK_LEN], text: &mut [u8]) {
        for chunk in text.as_chunks_mut::<BLOCK_LEN>().0 {
            let cipher = *chunk;
            self.decrypt_block(chunk);
            xor(chunk, previous);
            *previous = cipher;
        }
    }
}

/// Where the last block starts, whole or not, if there is one before it.
const fn last_block_start(len: usize) -> Option<usize> {
    match len {
        0..=BLOCK_LEN => None,
        _ => Some((len - 1) / BLOCK_LEN * BLOCK_LEN),
    }
}

fn xor(block: &mut [u8; BLOCK_LEN], other: &[u8; BLOCK_LEN]) {
    *block = (u128::from_ne_bytes(*block) ^ u128::from_ne_bytes(*other)).to_ne_bytes();
}

/// A key of HMAC, ready to be used many times.
#[derive(Clone)]
pub(crate) enum MacKey {
    /// Truncated to 12 bytes.
    Sha1(Hmac<Sha1>),
    /// Truncated to 16 bytes.
    Sha256(Hmac<Sha256>),
    /// Truncated to 24 bytes.
    Sha384(Hmac<Sha384>),
}

/// A MAC, as long as its type has it.
#[derive(Clone, Copy)]
pub(crate) struct Tag {
    bytes: [u8; MAC_LEN_MAX],
    len: usize,
}

impl Tag {
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

impl MacKey {
    fn new(etype: Etype, key: &[u8]) -> Self {
        // INVARIANT: HMAC takes keys of any length.
        const ANY: &str = "HMAC takes keys of any length";
        match etype {
            Etype::Aes128Sha1 | Etype::Aes256Sha1 => Self::Sha1(KeyInit::new_from_slice(key).expect(ANY)),
            Etype::Aes128Sha256 => Self::Sha256(KeyInit::new_from_slice(key).expect(ANY)),
            Etype::Aes256Sha384 => Self::Sha384(KeyInit::new_from_slice(key).expect(ANY)),
        }
    }

    fn start(&self) -> Self {
        self.clone()
    }

    fn update(&mut self, data: &[u8]) {
        match self {
            Self::Sha1(mac) => mac.update(data),
            Self::Sha256(mac) => mac.update(data),
            Self::Sha384(mac) => mac.update(data),
        }
    }

    /// The MAC before it is cut, with zeroes behind it.
    fn finish_whole(self) -> [u8; 48] {
        fn padded(bytes: &[u8]) -> [u8; 48] {
            let mut whole = [0; 48];
            whole[..bytes.len()].copy_from_slice(bytes);
            whole
        }
        match self {
            Self::Sha1(mac) => padded(&mac.finalize().into_bytes()),
            Self::Sha256(mac) => padded(&mac.finalize().into_bytes()),
            Self::Sha384(mac) => padded(&mac.finalize().into_bytes()),
        }
    }

    const fn mac_len(&self) -> usize {
        match self {
            Self::Sha1(_) => 12,
            Self::Sha256(_) => 16,
            Self::Sha384(_) => 24,
        }
    }

    /// The MAC over these pieces, one behind the other.
    pub(crate) fn mac(&self, data: &[&[u8]]) -> Tag {
        let mut mac = self.start();
        for piece in data {
            mac.update(piece);
        }
        let len = self.mac_len();
        let whole = mac.finish_whole();
        let mut bytes = [0; MAC_LEN_MAX];
        bytes[..len].copy_from_slice(&whole[..len]);
        Tag { bytes, len }
    }

    /// Compares in constant time.
    pub(crate) fn verify(&self, data: &[&[u8]], mac: &[u8]) -> Option<()> {
        bool::from(self.mac(data).bytes().ct_eq(mac)).then_some(())
    }
}

/// n-fold of RFC 3961 5.1 to one block: copies of `input`, each rotated right by 13 bits more than the one
/// before, are written one behind the other until they fill whole blocks, which are added up in ones'
/// complement.
///
/// `input` has at most one block.
fn fold_to_block(input: &[u8]) -> [u8; BLOCK_LEN] {
    let bits = input.len() as u32 * 8;
    let value = input.iter().fold(0u128, |value, byte| value << 8 | u128::from(*byte));
    let mask = u128::MAX >> (128 - bits);
    let copies = lcm(input.len(), BLOCK_LEN) / input.len();
    let rotated = (0..copies as u32).flat_map(|copy| {
        let by = 13 * copy % bits;
        let turned = match by {
            0 => value,
            by => (value >> by | value << (bits - by)) & mask,
        };
        turned.to_be_bytes().into_iter().skip(BLOCK_LEN - input.len())
    });
    let (mut sum, mut block, mut filled) = (0u128, 0u128, 0);
    for byte in rotated {
        block = block << 8 | u128::from(byte);
        filled += 1;
        if filled % BLOCK_LEN == 0 {
            let (added, carry) = sum.overflowing_add(block);
            // A carry out of the first byte goes to the last.
            sum = added + u128::from(carry);
            block = 0;
        }
    }
    sum.to_be_bytes()
}

fn lcm(a: usize, b: usize) -> usize {
    let (mut x, mut y) = (a, b);
    while y != 0 {
        (x, y) = (y, x % y);
    }
    a / x * b
}

/// PBKDF2 of RFC 8018 5.2.
fn pbkdf2<M: Mac + KeyInit + Clone>(password: &[u8], salt: &[u8], iterations: u32, out: &mut [u8]) {
    // INVARIANT: HMAC takes keys of any length.
    let keyed = <M as KeyInit>::new_from_slice(password).expect("HMAC takes keys of any length");
    for (index, chunk) in (1u32..).zip(out.chunks_mut(M::output_size())) {
        let mut mac = keyed.clone();
        mac.update(salt);
        mac.update(&index.to_be_bytes());
        let mut round = mac.finalize().into_bytes();
        let mut sum = round.clone();
        for _ in 1..iterations {
            let mut mac = keyed.clone();
            mac.update(&round);
            round = mac.finalize().into_bytes();
            for (sum, byte) in sum.iter_mut().zip(&round) {
                *sum ^= byte;
            }
        }
        chunk.copy_from_slice(&sum[..chunk.len()]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kerberos::test::unhex;
    use dtyp::hex;

    fn key(etype: Etype) -> Key {
        let bytes: Vec<u8> = (0..etype.key_len() as u8).collect();
        Key::new(etype, &bytes).expect("the length of the type")
    }

    /// n-fold of RFC 3961 5.1 to any length, bit by bit: copies of `input`, each rotated right by 13 bits
    /// more than the one before, added up in ones' complement.
    fn n_fold<const N: usize>(input: &[u8]) -> [u8; N] {
        let (in_bits, total) = (input.len() * 8, lcm(input.len(), N));
        let mut sum = [0u32; N];
        for position in 0..total {
            let copy = position / input.len();
            let byte = (0..8).fold(0, |byte, bit| {
                let at = position % input.len() * 8 + bit;
                let from = (at + in_bits * copy - 13 * copy % in_bits) % in_bits;
                byte << 1 | u32::from(input[from / 8] >> (7 - from % 8) & 1)
            });
            sum[position % N] += byte;
        }
        // Carries go left, and from the first byte to the last.
        while sum.iter().any(|byte| *byte > 0xff) {
            for at in (0..N).rev() {
                let carry = sum[at] >> 8;
                sum[at] &= 0xff;
                sum[(at + N - 1) % N] += carry;
            }
        }
        sum.map(|byte| byte as u8)
    }

    #[test]
    fn folds_as_rfc_3961_appendix_a_1_has_it() {
        for (input, expect) in [
            (&b"012345"[..], "be072631276b1955"),
            (b"password", "78a07b6caf85fa"),
            (b"Rough Consensus, and Running Code", "bb6ed30870b7f0e0"),
            (b"kerberos", "6b65726265726f73"),
        ] {
            let folded = match expect.len() {
                14 => n_fold::<7>(input).to_vec(),
                _ => n_fold::<8>(input).to_vec(),
            };
            assert_eq!(hex(&folded), expect, "{input:?}");
        }
        assert_eq!(
            hex(&n_fold::<24>(b"MASSACHVSETTS INSTITVTE OF TECHNOLOGY")),
            "db3b0d8f0b061e603282b308a50841229ad798fab9540c1b"
        );
        assert_eq!(hex(&n_fold::<16>(b"kerberos")), "6b65726265726f737b9b5b2b93132b93");
        assert_eq!(fold_to_block(b"kerberos"), n_fold::<16>(b"kerberos"));
        for constant in [CHECKSUM, ENCRYPTION, INTEGRITY] {
            for usage in [0, 1, 2, 11, 12, 17, 22, 23, 24, 25, 255, 0x1234_5678, u32::MAX] {
                let [a, b, c, d] = u32::to_be_bytes(usage);
                let label = [a, b, c, d, constant];
                assert_eq!(fold_to_block(&label), n_fold::<16>(&label), "{label:?}");
            }
        }
    }

    #[test]
    fn derives_keys_from_passwords_as_the_documents_do() {
        let salt = "CONTOSO.COMalice";
        for (etype, expect) in [
            (Etype::Aes128Sha1, "8778b569bbab6e9ba3df97e0861f0c0c"),
            (Etype::Aes256Sha1, "c75a582eca6b2dcfff805521efdb8c23796c116f39c25cf550247a4077586c7f"),
            (Etype::Aes128Sha256, "b573afd1d153079f5c3e47c3f4e8e383"),
            (Etype::Aes256Sha384, "5fef38e59fb64afe22c8f2cdfd6a0664d0cedfe3b9518b822bbea0bedc49af8c"),
        ] {
            assert_eq!(hex(Key::from_password(etype, "Password", salt).expose()), expect, "{etype}");
        }
        // RFC 3962 appendix B.
        let of = |etype, iterations, password, salt: &[u8]| {
            hex(Key::from_password_iterated(etype, password, salt, iterations).expose())
        };
        assert_eq!(
            of(Etype::Aes128Sha1, 1, "password", b"ATHENA.MIT.EDUraeburn"),
            "42263c6e89f4fc28b8df68ee09799f15"
        );
        assert_eq!(
            of(Etype::Aes256Sha1, 1200, "password", b"ATHENA.MIT.EDUraeburn"),
            "55a6ac740ad17b4846941051e1e8b0a7548d93b0ab30a8bc3ff16280382b8c2a"
        );
        assert_eq!(
            of(Etype::Aes256Sha1, 50, "\u{1d11e}", b"EXAMPLE.COMpianist"),
            "4b6d9839f84406df1f09cc166db4b83c571848b784a3d6bdc346589a3e393f9e"
        );
        assert_eq!(computer_salt("CLIENT$", "domain.com"), "DOMAIN.COMhostclient.domain.com");
        // [MS-KILE] 4.4: a password that is no text is hashed as UTF-8 with replacement characters.
        assert_eq!(
            of(Etype::Aes128Sha1, 1000, &"\u{ffff}".repeat(120), b"DOMAIN.COMhostclient.domain.com"),
            "b82ee122531c2d94821ac755bccb5879"
        );
    }

    #[test]
    fn encrypts_as_rfc_3962_and_rfc_8009_do() {
        // RFC 3962 appendix B, CBC with ciphertext stealing.
        let cipher = Cipher::new(&unhex("636869636b656e207465726979616b69"));
        let text = b"I would like the General Gau's Chicken, please, and wonton soup.";
        for (len, expect) in [
            (17, "c6353568f2bf8cb4d8a580362da7ff7f97"),
            (31, "fc00783e0efdb2c1d445d4c8eff7ed2297687268d6ecccc0c07b25e25ecfe5"),
            (32, "39312523a78662d5be7fcbcc98ebf5a897687268d6ecccc0c07b25e25ecfe584"),
            (
                47,
                "97687268d6ecccc0c07b25e25ecfe584b3fffd940c16a18c1b5549d2f838029e39312523a78662d5be7fcbcc98ebf5",
            ),
            (
                64,
                "97687268d6ecccc0c07b25e25ecfe58439312523a78662d5be7fcbcc98ebf5a84807efe836ee89a526730dbc2f7bc840\
                 9dad8bbb96c4cdc03bc103e1a194bbd8",
            ),
        ] {
            let mut out = text[..len].to_vec();
            cipher.encrypt(&mut out);
            assert_eq!(hex(&out), expect.replace(' ', ""), "{len}");
            cipher.decrypt(&mut out);
            assert_eq!(out, text[..len]);
        }
        // RFC 8009 appendix A.
        let key =
            Key::new(Etype::Aes128Sha256, &unhex("3705d96080c17728a0e800eab6e0d23c")).expect("16 bytes");
        assert_eq!(hex(&key.usage_key(2, CHECKSUM, 16)), "b31a018a48f54776f403e9a396325dc3");
        assert_eq!(hex(&key.usage_key(2, ENCRYPTION, 16)), "9b197dd1e8c5609d6e67c3e37c62c72e");
        assert_eq!(hex(&key.usage_key(2, INTEGRITY, 16)), "9fda0e56ab2d85e1569a688696c26a6c");
        let confounder = |text: &str| -> [u8; 16] { unhex(text).try_into().expect("16 bytes") };
        assert_eq!(
            hex(&key.encrypt(2, confounder("7bca285e2fd4130fb55b1a5c83bc5b24"), &unhex("000102030405"))),
            "84d7f30754ed987bab0bf3506beb09cfb55402cef7e6877ce99e247e52d16ed4421dfdf8976c"
        );
        let data = unhex("000102030405060708090a0b0c0d0e0f1011121314");
        assert_eq!(hex(&key.checksum(2, &[&data])), "d78367186643d67b411cba9139fc1dee");
        let key = Key::new(
            Etype::Aes256Sha384,
            &unhex("6d404d37faf79f9df0d33568d320669800eb4836472ea8a026d16b7182460c52"),
        )
        .expect("32 bytes");
        assert_eq!(hex(&key.checksum(2, &[&data])), "45ee791567eefca37f4ac1e0222de80d43c3bfa06699672a");
        assert_eq!(
            hex(&key.encrypt(2, confounder("f764e9fa15c276478b2c7d0c4e5f58e4"), &[])),
            "41f53fa5bfe7026d91faf9be959195a058707273a96a40f0a01960621ac612748b9bbfbe7eb4ce3c"
        );
    }

    #[test]
    fn checksums_of_a_pac_are_those_of_impacket() {
        for (etype, expect) in [
            (Etype::Aes256Sha1, "099fa7bb0b925937dcece2ec"),
            (Etype::Aes128Sha1, "d8bb33a1391e77295d157214"),
            (Etype::Aes128Sha256, "1d0d234265d92d5cc081197e4d047f77"),
            (Etype::Aes256Sha384, "42748d944205497114e4cffaf52d4deddd08e4dcdce28f28"),
        ] {
            assert_eq!(hex(&key(etype).checksum(usage::PAC, &[b"PAC"])), expect, "{etype}");
            assert!(key(etype).verify_checksum(usage::PAC, &[b"P", b"AC"], &unhex(expect)));
        }
    }

    #[test]
    fn refuses_each_single_bit_change_and_each_truncation() {
        for etype in Etype::ALL {
            let key = key(etype);
            for len in [0, 1, 15, 16, 17, 33] {
                let plain: Vec<u8> = (0..len).collect();
                let text = key.encrypt(11, [0x5a; 16], &plain);
                assert_eq!(key.decrypt(11, &text).as_deref(), Some(&plain), "{etype} {len}");
                assert_eq!(key.decrypt(12, &text), None, "another usage");
                for bit in 0..text.len() * 8 {
                    let mut changed = text.clone();
                    changed[bit / 8] ^= 1 << (bit % 8);
                    assert_eq!(key.decrypt(11, &changed), None, "{etype} {len} bit {bit}");
                }
                for end in 0..text.len() {
                    assert_eq!(key.decrypt(11, &text[..end]), None, "{etype} {len} cut to {end}");
                }
            }
        }
    }

    #[test]
    fn keys_have_the_length_of_their_type_and_do_not_print() {
        assert_eq!(Key::new(Etype::Aes256Sha1, &[0; 16]), None);
        assert_eq!(Key::new(Etype::Aes128Sha1, &[0; 32]), None);
        let text = format!("{:?}", key(Etype::Aes128Sha1));
        assert_eq!(text, "Key { aes128-cts-hmac-sha1-96, [redacted] }");
        assert_eq!(Etype::from_number(23), None);
    }
}
