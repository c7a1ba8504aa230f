//! Symmetric keys: hashes, HMAC, derivation by P_SHA1, and block encryption as XML encryption uses it.

use crate::suite::{Cipher, Hash};
use crate::wipe::Wiped;
use aes::{Aes128, Aes192, Aes256};
use cbc::cipher::array::Array;
use cbc::cipher::{
    BlockCipherDecrypt, BlockCipherEncrypt, BlockModeDecrypt, BlockModeEncrypt, InnerIvInit, KeyInit,
};
use des::TdesEde3;
use hmac::{Hmac, Mac};
use sha1::Sha1;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// A symmetric key, wiped when it is dropped.
#[derive(Clone)]
pub struct Key(Zeroizing<Vec<u8>>);

impl Key {
    /// Copies octets.
    pub fn new(octets: &[u8]) -> Self {
        Self(Zeroizing::new(octets.to_vec()))
    }

    /// The octets, for primitives that need them.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    /// Key of `length` octets from `offset` on of P_SHA1(this key, label || nonce) (WS-SecureConversation,
    /// section 7).
    pub fn derive(&self, label: &[u8], nonce: &[u8], offset: usize, length: usize) -> Self {
        let mut octets = p_sha1(self.expose(), &[label, nonce], offset + length);
        octets.drain(..offset);
        Self(octets)
    }
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("[redacted]")
    }
}

/// P_hash of RFC 2246, section 5, with HMAC-SHA1: `len` octets from a secret and a seed that is given in
/// parts.
pub fn p_sha1(secret: &[u8], seed: &[&[u8]], len: usize) -> Zeroizing<Vec<u8>> {
    let keyed = hmac::<Hmac<Sha1>>(secret);
    let with_seed = |mac: Hmac<Sha1>| {
        let mac = seed.iter().fold(mac, |mac, part| mac.chain_update(part));
        mac.finalize().into_bytes()
    };
    // Room for the last block, so that nothing moves.
    let mut out = Zeroizing::new(Vec::with_capacity(len + 20));
    let mut a = with_seed(keyed.clone());
    while out.len() < len {
        out.extend_from_slice(&with_seed(keyed.clone().chain_update(a)));
        a = keyed.clone().chain_update(a).finalize().into_bytes();
    }
    out.truncate(len);
    out
}

fn hmac<M: Mac + hmac::KeyInit>(key: &[u8]) -> M {
    <M as hmac::KeyInit>::new_from_slice(key).expect("HMAC takes keys of any length")
}

/// SHA-1.
pub fn sha1(octets: &[u8]) -> [u8; 20] {
    Sha1::digest(octets).into()
}

impl Hash {
    /// Digest of octets.
    pub(crate) fn digest(self, octets: &[u8]) -> Vec<u8> {
        match self {
            Self::Sha1 => Sha1::digest(octets).to_vec(),
            Self::Sha256 => Sha256::digest(octets).to_vec(),
        }
    }

    /// Whole HMAC of octets.
    pub(crate) fn hmac(self, key: &Key, octets: &[u8]) -> Vec<u8> {
        match self {
            Self::Sha1 => {
                hmac::<Hmac<Sha1>>(key.expose()).chain_update(octets).finalize().into_bytes().to_vec()
            }
            Self::Sha256 => {
                hmac::<Hmac<Sha256>>(key.expose()).chain_update(octets).finalize().into_bytes().to_vec()
            }
        }
    }
}

/// Whether two values are equal, in a time that depends on their lengths alone.
pub(crate) fn is_equal(one: &[u8], other: &[u8]) -> bool {
    one.ct_eq(other).into()
}

/// Encrypted octets that are not a vector and whole blocks, or whose padding says more than a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BadPadding;

impl Cipher {
    /// The vector, then the encrypted octets with the padding of XML encryption 1.0, section 5.2.
    pub(crate) fn encrypt(self, key: &Key, vector: &[u8], plain: &[u8]) -> Vec<u8> {
        let block = self.block_len();
        let padding = block - plain.len() % block;
        let mut out = Vec::with_capacity(block + plain.len() + padding);
        out.extend_from_slice(vector);
        out.extend_from_slice(plain);
        out.resize(block + plain.len() + padding - 1, 0);
        out.push(padding as u8);
        let (vector, blocks) = out.split_at_mut(block);
        match self {
            Self::Aes256 => encrypt_blocks::<Aes256>(key, vector, blocks),
            Self::Aes192 => encrypt_blocks::<Aes192>(key, vector, blocks),
            Self::Aes128 => encrypt_blocks::<Aes128>(key, vector, blocks),
            Self::TripleDes => encrypt_blocks::<TdesEde3>(key, vector, blocks),
        }
        out
    }

    /// The octets of [`Cipher::encrypt`] again.
    pub(crate) fn decrypt(self, key: &Key, encrypted: &[u8]) -> Result<Wiped, BadPadding> {
        let block = self.block_len();
        if encrypted.len() < 2 * block
            || !encrypted.len().is_multiple_of(block)
            || key.expose().len() != self.key_len()
        {
            return Err(BadPadding);
        }
        let (vector, blocks) = encrypted.split_at(block);
        let mut plain = Wiped(blocks.to_vec());
        match self {
            Self::Aes256 => decrypt_blocks::<Aes256>(key, vector, &mut plain),
            Self::Aes192 => decrypt_blocks::<Aes192>(key, vector, &mut plain),
            Self::Aes128 => decrypt_blocks::<Aes128>(key, vector, &mut plain),
            Self::TripleDes => decrypt_blocks::<TdesEde3>(key, vector, &mut plain),
        }
        let padding = usize::from(plain[plain.len() - 1]);
        if !(1..=block).contains(&padding) {
            return Err(BadPadding);
        }
        plain.truncate(blocks.len() - padding);
        Ok(plain)
    }
}

const LENGTHS: &str = "key and vector have the cipher's lengths";

fn encrypt_blocks<C: BlockCipherEncrypt + KeyInit>(key: &Key, vector: &[u8], blocks: &mut [u8]) {
    let cipher = C::new_from_slice(key.expose()).expect(LENGTHS);
    let mut mode = cbc::Encryptor::<C>::inner_iv_slice_init(cipher, vector).expect(LENGTHS);
    mode.encrypt_blocks(Array::slice_as_chunks_mut(blocks).0);
}

fn decrypt_blocks<C: BlockCipherDecrypt + KeyInit>(key: &Key, vector: &[u8], blocks: &mut [u8]) {
    let cipher = C::new_from_slice(key.expose()).expect(LENGTHS);
    let mut mode = cbc::Decryptor::<C>::inner_iv_slice_init(cipher, vector).expect(LENGTHS);
    mode.decrypt_blocks(Array::slice_as_chunks_mut(blocks).0);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::decode_base64;
    use dtyp::hex;

    fn octets(range: std::ops::Range<u8>) -> Vec<u8> {
        range.collect()
    }

    fn unhex(text: &str) -> Vec<u8> {
        let mut octets = vec![0; text.len() / 2];
        dtyp::read_hex(text.as_bytes(), &mut octets).expect("hex");
        octets
    }

    const LABEL: &[u8] = b"WS-SecureConversationWS-SecureConversation";

    // Computed in Python and with the openssl command line; the first by Mono, too.
    #[test]
    fn derives_known_keys() {
        let key = Key::new(&octets(0..32));
        let nonce = octets(0xa0..0xb0);
        let first = "dc121eaed82a90bdb413d94d9467e66af0cd92bb2c278f4c7b9f18882d28bbe6";
        assert_eq!(hex(key.derive(LABEL, &nonce, 0, 32).expose()), first);
        assert_eq!(hex(key.derive(LABEL, &nonce, 0, 24).expose()), first[..48]);
        assert_eq!(
            hex(key.derive(LABEL, &nonce, 32, 32).expose()),
            "47a8fbcf164bd1cf15aefe08778ab2a12216879d3612b269fa82b83b2121abb4"
        );
        // One stream, wherever it is cut.
        let whole = key.derive(LABEL, &nonce, 0, 97);
        for offset in 0..=64 {
            let cut = key.derive(LABEL, &nonce, offset, 33);
            assert_eq!(cut.expose(), &whole.expose()[offset..offset + 33], "{offset}");
        }
        // The authenticator's hash, and a session key from both sides' entropy.
        assert_eq!(
            hex(&p_sha1(&octets(0..32), &[b"AUTH-HASH", &sha1(b"abc")], 32)),
            "20fba1bd2eb6bc60a4d67b01aea4dc411d65f1648767cac19b134a2bee7a1122"
        );
        assert_eq!(
            hex(&p_sha1(&octets(0..32), &[&octets(0x40..0x60)], 32)),
            "fbff07694b1a7b94568191da6d5881c89f2df6d37c1b4bbaa8f3ed65803e35da"
        );
    }

    // RFC 2202, section 3, test case 2, and RFC 4231, section 4.3.
    #[test]
    fn known_hmacs() {
        let key = Key::new(b"Jefe");
        let text = b"what do ya want for nothing?";
        assert_eq!(hex(&Hash::Sha1.hmac(&key, text)), "effcdf6ae5eb2fa2d27416d5f184df9c259a7c79");
        assert_eq!(
            hex(&Hash::Sha256.hmac(&key, text)),
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
        );
    }

    // NIST SP 800-38A, sections F.2.1, F.2.3 and F.2.5: the first two blocks.
    #[test]
    fn known_cbc_blocks() {
        let plain = "6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e51";
        let plain = unhex(plain);
        for (cipher, key, expected) in [
            (
                Cipher::Aes128,
                "2b7e151628aed2a6abf7158809cf4f3c",
                "7649abac8119b246cee98e9b12e9197d5086cb9b507219ee95db113a917678b2",
            ),
            (
                Cipher::Aes192,
                "8e73b0f7da0e6452c810f32b809079e562f8ead2522c6b7b",
                "4f021db243bc633d7178183a9fa071e8b4d9ada9ad7dedf4e5e738763f69145a",
            ),
            (
                Cipher::Aes256,
                "603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4",
                "f58c4c04d6e5f1ba779eabfb5f7bfbd69cfc4e967edb808d679f777bc6702c7d",
            ),
        ] {
            let encrypted = cipher.encrypt(&Key::new(&unhex(key)), &octets(0..16), &plain);
            assert_eq!(hex(&encrypted[16..48]), expected);
        }
    }

    // W3C's interoperability vectors for XML encryption (merlin-xmlenc-five): keys of bob, jed and job.
    #[test]
    fn vectors_of_xml_encryption_decrypt() {
        let payment = "<BillingAddress>\n      Dig PLC, 1 First Ave, Dublin 1, Ireland\n    </BillingAddress>\n    \
            <CreditCard Type=\"Amex\">\n      <Name>Foo B Baz</Name>\n      <Number>1234 567890 12345</Number>\n      \
            <Expires Month=\"1\" Year=\"2005\" />\n    </CreditCard>";
        for (cipher, key, encrypted, expected) in [
            (
                Cipher::TripleDes,
                "abcdefghijklmnopqrstuvwx",
                "uchJT2QyzQe7BoBaDYKPR5BDgEW8jsJ3UOGEYz9EVrBKVztYfcu0xhif5Y9kqtyxDDa7woNcTyhwQDZh\
                9jGr5hzkcjrsKfMjJw+PnKNZzc+KMW0z861L8sdhdl8TA+btyudfaCEJaH4RdHABp+VMzL5CrXr5skvu\
                bolWs1KzUtqbRekkxucknzJmnqRY8yPp4iBvVuvus+Bk0pj271NWu13CmHvdJRMMDSX30JMfsecW6mfd\
                F5xjoFciL8VnemzJqt0SUVjMzoeY0PnCdk09Ej2OZdj8AtkLPCEKeiBBD+coCf5F8WaLrPTRPgjoAtiN\
                Wda+McaZPJje1IfoAKGTcg==",
                payment,
            ),
            (
                Cipher::Aes256,
                "abcdefghijklmnopqrstuvwxyz012345",
                "H8n1OuEJFyUgUguDFF6ml8nRbA0IaDYgmtGelWT4V7CSz9q/AvtfxyMzUH+tQZ+FjyXh3otR1+V1+8Es\
                evzEq5nUmNKl+wyxQmWaUvbvXpSwAJnlJdyvnP56JiXUBS+pC2KzlO9kk8l6awtuRd9Z6eVjngwTf7kN\
                prmu5Bv0o+x7dcq96G8wGLvMThbs4uxkiIDK5+qGBzzIlFw3GG82MKmnVBveQw3LD52y76yBtoayuAJF\
                JMnrXa0OEAaBRSI2fjPNGJV3sCyKZDHqGlsQ4X+VvXzevLbBLkFy1xH9/zoUXo8cEaTvsIOBYu/Xn/CJ\
                y/dpe/dvOqqji+9vFccAyrBHxHeYSonuFsxfpSDVC6Y=",
                payment,
            ),
            (
                Cipher::Aes128,
                "abcdefghijklmnop",
                "QMpxhXq1DtBeyC9KfSaMQWrEtefe+e935gF/x62spvmL6IW0XeS0W4Kk31OgWzN0",
                "top secret message\n",
            ),
        ] {
            let encrypted = decode_base64(encrypted.as_bytes()).expect("base64");
            let plain = cipher.decrypt(&Key::new(key.as_bytes()), &encrypted).expect("it is padded");
            assert_eq!(std::str::from_utf8(&plain), Ok(expected));
        }
    }

    #[test]
    fn padding_is_that_of_xml_encryption() {
        for cipher in [Cipher::Aes256, Cipher::Aes192, Cipher::Aes128, Cipher::TripleDes] {
            let key = Key::new(&octets(1..1 + cipher.key_len() as u8));
            let block = cipher.block_len();
            for len in 0..=2 * block {
                let plain = vec![b'x'; len];
                let encrypted = cipher.encrypt(&key, &vec![7; block], &plain);
                assert_eq!(encrypted.len(), block + (len / block + 1) * block);
                assert_eq!(cipher.decrypt(&key, &encrypted).as_deref(), Ok(&plain));
                for cut in 0..encrypted.len() {
                    if let Ok(cut) = cipher.decrypt(&key, &encrypted[..cut]) {
                        assert_ne!(*cut, plain);
                    }
                }
            }
            // The last octet alone counts; the octets before it are arbitrary.
            let with_last = |last: u8| {
                let mut plain = vec![b'y'; block];
                plain[block - 1] = last;
                let mut encrypted = cipher.encrypt(&key, &vec![7; block], &plain);
                encrypted.truncate(2 * block);
                cipher.decrypt(&key, &encrypted)
            };
            assert_eq!(with_last(0), Err(BadPadding));
            assert_eq!(with_last(block as u8 + 1), Err(BadPadding));
            assert_eq!(with_last(block as u8).as_deref(), Ok(&vec![]));
            assert_eq!(with_last(1).as_deref(), Ok(&vec![b'y'; block - 1]));
        }
    }
}
