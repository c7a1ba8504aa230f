//! AES-128 in 8-bit cipher feedback (NIST SP 800-38A 6.3), the cipher of the secure channel.
//!
//! Encryption is a chain: each byte needs the byte before it, so one stream runs at the latency of ten AES rounds a
//! byte, and the way to be fast is to run independent streams side by side ([`encrypt_lanes`]). Decryption has no
//! chain and goes in wide batches.
//!
//! After sixteen bytes the feedback register *is* the last sixteen bytes of ciphertext, so everything here works in
//! steps of sixteen bytes and never takes a byte out of the register.

use aes::Aes128;
use aes::cipher::{Array, BlockCipherEncrypt, KeyInit};
use zeroize::{Zeroize, ZeroizeOnDrop};

/// Streams that one call of the kernel runs side by side: more gain nothing, the AES units are busy.
pub const LANES_MAX: usize = 8;

/// An expanded key.
#[derive(Clone)]
pub struct Key {
    cipher: Aes128,
    round_keys: RoundKeys,
}

#[derive(Clone, Zeroize, ZeroizeOnDrop)]
struct RoundKeys([[u8; 16]; 11]);

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("[redacted]")
    }
}

impl Key {
    /// Expands a key.
    pub fn new(key: &[u8; 16]) -> Self {
        Self { cipher: Aes128::new(&Array(*key)), round_keys: RoundKeys(expand(key)) }
    }

    /// Encrypts in place.
    pub fn encrypt(&self, iv: [u8; 16], data: &mut [u8]) {
        let mut register = iv;
        for chunk in data.chunks_mut(16) {
            let mut lane = Lane { key: self, register, block: [0; 16] };
            lane.block[..chunk.len()].copy_from_slice(chunk);
            encrypt_lanes(std::slice::from_mut(&mut lane));
            chunk.copy_from_slice(&lane.register[..chunk.len()]);
            register = lane.register;
        }
    }

    /// Decrypts in place.
    pub fn decrypt(&self, iv: [u8; 16], data: &mut [u8]) {
        const BATCH: usize = 64;
        // Sixteen bytes of ciphertext before the batch, and the batch's own.
        let mut window = [0; 16 + BATCH];
        window[..16].copy_from_slice(&iv);
        let mut blocks = [aes::Block::default(); BATCH];
        for chunk in data.chunks_mut(BATCH) {
            window[16..16 + chunk.len()].copy_from_slice(chunk);
            let blocks = &mut blocks[..chunk.len()];
            for (block, input) in blocks.iter_mut().zip(window.windows(16)) {
                block.0.copy_from_slice(input);
            }
            self.cipher.encrypt_blocks(blocks);
            for (byte, block) in chunk.iter_mut().zip(&*blocks) {
                *byte ^= block.0[0];
            }
            window.copy_within(BATCH.., 0);
        }
    }
}

/// Sixteen bytes of one stream.
#[derive(Debug)]
pub struct Lane<'a> {
    /// The stream's key.
    pub key: &'a Key,
    /// The feedback register: the initialisation vector, then whatever the step before left. After a step it is the
    /// ciphertext.
    pub register: [u8; 16],
    /// The plaintext, filled up with anything at the end of a stream.
    pub block: [u8; 16],
}

/// Encrypts one block in each of up to [`LANES_MAX`] lanes, side by side where the processor can.
pub fn encrypt_lanes(lanes: &mut [Lane<'_>]) {
    debug_assert!(lanes.len() <= LANES_MAX);
    if !kernel::encrypt_lanes(lanes) {
        lanes.iter_mut().for_each(encrypt_lane);
    }
}

/// The same for one lane without intrinsics: the fallback, and the kernel's oracle.
fn encrypt_lane(lane: &mut Lane<'_>) {
    let mut register = u128::from_le_bytes(lane.register);
    for byte in lane.block {
        let mut block = Array(register.to_le_bytes());
        lane.key.cipher.encrypt_block(&mut block);
        register = register >> 8 | u128::from(block.0[0] ^ byte) << 120;
    }
    lane.register = register.to_le_bytes();
}

/// FIPS 197 5.2. Runs once a channel, so it may be slow; the substitution is computed, not looked up, because a table
/// indexed by key bytes tells them to whoever shares the cache.
fn expand(key: &[u8; 16]) -> [[u8; 16]; 11] {
    let mut round_keys = [[0; 16]; 11];
    round_keys[0] = *key;
    let mut round_constant = 1u8;
    for round in 1..11 {
        let previous = round_keys[round - 1];
        let mut word = [previous[13], previous[14], previous[15], previous[12]].map(substitute);
        word[0] ^= round_constant;
        round_constant = double(round_constant);
        for column in 0..4 {
            for row in 0..4 {
                word[row] ^= previous[4 * column + row];
                round_keys[round][4 * column + row] = word[row];
            }
        }
    }
    round_keys
}

/// Multiplication by x in GF(2^8), without a branch on the secret.
const fn double(a: u8) -> u8 {
    (a << 1) ^ (0x1b & (a >> 7).wrapping_neg())
}

const fn multiply(mut a: u8, mut b: u8) -> u8 {
    let mut product = 0;
    let mut bit = 0;
    while bit < 8 {
        product ^= a & (b & 1).wrapping_neg();
        a = double(a);
        b >>= 1;
        bit += 1;
    }
    product
}

/// The S-box of FIPS 197 5.1.1: inverse (the 254th power), then the affine map.
fn substitute(a: u8) -> u8 {
    let mut inverse = 1;
    let mut power = a;
    for _ in 0..7 {
        power = multiply(power, power);
        inverse = multiply(inverse, power);
    }
    inverse
        ^ inverse.rotate_left(1)
        ^ inverse.rotate_left(2)
        ^ inverse.rotate_left(3)
        ^ inverse.rotate_left(4)
        ^ 0x63
}

#[cfg(target_arch = "x86_64")]
#[expect(
    unsafe_code,
    reason = "AES-NI intrinsics: one call, behind run-time detection, with a safe oracle beside it"
)]
mod kernel {
    use super::Lane;
    use std::arch::x86_64::{
        __m128i, _mm_aesenc_si128, _mm_aesenclast_si128, _mm_extract_epi64, _mm_or_si128, _mm_set_epi64x,
        _mm_slli_si128, _mm_srli_si128, _mm_xor_si128,
    };

    #[target_feature(enable = "sse2")]
    fn load(bytes: &[u8; 16]) -> __m128i {
        let value = u128::from_le_bytes(*bytes);
        _mm_set_epi64x((value >> 64) as i64, value as i64)
    }

    #[target_feature(enable = "sse4.1")]
    fn store(value: __m128i) -> [u8; 16] {
        let (low, high) = (_mm_extract_epi64::<0>(value) as u64, _mm_extract_epi64::<1>(value) as u64);
        (u128::from(high) << 64 | u128::from(low)).to_le_bytes()
    }

    /// Whether it was done; otherwise the processor cannot.
    pub(super) fn encrypt_lanes(lanes: &mut [Lane<'_>]) -> bool {
        if !(std::arch::is_x86_feature_detected!("aes") && std::arch::is_x86_feature_detected!("avx")) {
            return false;
        }
        // SAFETY: the features it is compiled for were detected just above.
        unsafe { encrypt_detected(lanes) };
        true
    }

    #[target_feature(enable = "aes,avx")]
    fn encrypt_detected(lanes: &mut [Lane<'_>]) {
        match lanes.len() {
            0 => {}
            1 => step::<1>(lanes),
            2 => step::<2>(lanes),
            3 | 4 => step::<4>(lanes),
            _ => step::<8>(lanes),
        }
    }

    /// Runs up to `N` lanes; where there are fewer, the last one is computed again and thrown away.
    #[target_feature(enable = "aes,avx")]
    fn step<const N: usize>(lanes: &mut [Lane<'_>]) {
        let last = lanes.len() - 1;
        let keys: [&[[u8; 16]; 11]; N] = std::array::from_fn(|n| &lanes[n.min(last)].key.round_keys.0);
        let mut registers: [__m128i; N] = std::array::from_fn(|n| load(&lanes[n.min(last)].register));
        let mut blocks: [__m128i; N] = std::array::from_fn(|n| load(&lanes[n.min(last)].block));
        for _ in 0..16 {
            let mut states = registers;
            for n in 0..N {
                states[n] = _mm_xor_si128(states[n], load(&keys[n][0]));
            }
            #[expect(clippy::needless_range_loop, reason = "lanes inside rounds: each lane has its own keys")]
            for round in 1..10 {
                for n in 0..N {
                    states[n] = _mm_aesenc_si128(states[n], load(&keys[n][round]));
                }
            }
            for n in 0..N {
                let stream = _mm_aesenclast_si128(states[n], load(&keys[n][10]));
                // The byte of ciphertext comes in at the end of the register, the oldest leaves at its front.
                let byte = _mm_slli_si128::<15>(_mm_xor_si128(stream, blocks[n]));
                registers[n] = _mm_or_si128(_mm_srli_si128::<1>(registers[n]), byte);
                blocks[n] = _mm_srli_si128::<1>(blocks[n]);
            }
        }
        for (lane, register) in lanes.iter_mut().zip(registers) {
            lane.register = store(register);
        }
    }
}

#[cfg(not(target_arch = "x86_64"))]
mod kernel {
    /// No kernel for this processor yet.
    pub(super) fn encrypt_lanes(_: &mut [super::Lane<'_>]) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ::cfb8::cipher::KeyIvInit;
    use proptest::prelude::*;

    #[test]
    fn agrees_with_the_standard_s_vector() {
        // NIST SP 800-38A, F.3.7 CFB8-AES128.Encrypt.
        let key = Key::new(&[
            0x2b, 0x7e, 0x15, 0x16, 0x28, 0xae, 0xd2, 0xa6, 0xab, 0xf7, 0x15, 0x88, 0x09, 0xcf, 0x4f, 0x3c,
        ]);
        let iv = std::array::from_fn(|n| n as u8);
        let plain = *b"\x6b\xc1\xbe\xe2\x2e\x40\x9f\x96\xe9\x3d\x7e\x11\x73\x93\x17\x2a\xae\x2d";
        let mut data = plain;
        key.encrypt(iv, &mut data);
        assert_eq!(dtyp::hex(&data), "3b79424c9c0dd436bace9e0ed4586a4f32b9");
        key.decrypt(iv, &mut data);
        assert_eq!(data, plain);
    }

    #[test]
    fn the_s_box_is_the_standard_s() {
        // FIPS 197, figure 7: the corners and the first entries.
        for (a, b) in [(0x00, 0x63), (0x01, 0x7c), (0x02, 0x77), (0x10, 0xca), (0x53, 0xed), (0xff, 0x16)] {
            assert_eq!(substitute(a), b, "{a:02x}");
        }
        // FIPS 197, A.1: the last round key.
        let key = *b"\x2b\x7e\x15\x16\x28\xae\xd2\xa6\xab\xf7\x15\x88\x09\xcf\x4f\x3c";
        assert_eq!(dtyp::hex(&expand(&key)[10]), "d014f9a8c9ee2589e13f0cc8b6630ca6");
    }

    proptest! {
        #[test]
        fn agrees_with_another_implementation(key: [u8; 16], iv: [u8; 16], data in prop::collection::vec(any::<u8>(), 0..300)) {
            let mut expect = data.clone();
            ::cfb8::Encryptor::<Aes128>::new(&Array(key), &Array(iv)).encrypt(&mut expect);
            let ours = Key::new(&key);
            let mut encrypted = data.clone();
            ours.encrypt(iv, &mut encrypted);
            prop_assert_eq!(&encrypted, &expect);
            ours.decrypt(iv, &mut encrypted);
            prop_assert_eq!(encrypted, data);
        }

        #[test]
        fn every_number_of_lanes_does_what_one_lane_does(inputs in prop::collection::vec(any::<([u8; 16], [u8; 16], [u8; 16])>(), 0..=8)) {
            let keys: Vec<Key> = inputs.iter().map(|(key, ..)| Key::new(key)).collect();
            let mut lanes: Vec<Lane<'_>> = inputs
                .iter()
                .zip(&keys)
                .map(|((_, register, block), key)| Lane { key, register: *register, block: *block })
                .collect();
            encrypt_lanes(&mut lanes);
            for (lane, (_, register, block)) in lanes.iter().zip(&inputs) {
                let mut expect = Lane { key: lane.key, register: *register, block: *block };
                encrypt_lane(&mut expect);
                prop_assert_eq!(lane.register, expect.register);
            }
        }
    }
}
