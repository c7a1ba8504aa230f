//! AES-128 in 8-bit cipher feedback (NIST SP 800-38A 6.3), the cipher of the secure channel.
//!
//! Encryption is a chain: each byte needs the byte before it, so one stream runs at the latency of ten AES
//! rounds a byte, and the way to be fast is to run independent streams side by side ([`Lanes`]). Decryption
//! has no chain and goes in wide batches.
//!
//! After sixteen bytes the feedback register *is* the last sixteen bytes of ciphertext, so everything here
//! works in steps of sixteen bytes and never takes a byte out of the register.

use aes::Aes128;
use aes::cipher::{Array, BlockCipherEncrypt, KeyInit};
use zeroize::{Zeroize, ZeroizeOnDrop};

/// Streams that run side by side at most: where AES runs on four blocks an instruction, so many keep it busy.
pub const LANES_MAX: usize = 16;

const ROUND_KEYS: usize = 11;

/// Bytes that are decrypted together: four blocks in each of sixteen registers.
const DECRYPTED_AT_ONCE: usize = 64;

/// An expanded key.
#[derive(Clone)]
pub struct Key {
    cipher: Aes128,
    round_keys: RoundKeys<1>,
}

/// Round keys of so many streams: round by round, and side by side in each round.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
struct RoundKeys<const N: usize>([[u128; N]; ROUND_KEYS]);

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("[redacted]")
    }
}

impl Key {
    /// Expands a key.
    pub fn new(key: &[u8; 16]) -> Self {
        Self {
            cipher: Aes128::new(&Array(*key)),
            round_keys: RoundKeys(expand(key).map(|key| [u128::from_le_bytes(key)])),
        }
    }

    /// Encrypts in place.
    pub fn encrypt(&self, iv: [u8; 16], data: &mut [u8]) {
        let mut lanes = Lanes::<1>::new();
        let mut register = iv;
        for chunk in data.chunks_mut(16) {
            let mut block = [0; 16];
            block[..chunk.len()].copy_from_slice(chunk);
            lanes.push(self, register, block);
            lanes.encrypt();
            register = lanes.register(0);
            lanes.clear();
            chunk.copy_from_slice(&register[..chunk.len()]);
        }
    }

    /// Decrypts in place.
    pub fn decrypt(&self, iv: [u8; 16], data: &mut [u8]) {
        // Each byte needs the sixteen bytes of ciphertext before it, so the last ones go first.
        let mut end = data.len();
        while end >= 16 + DECRYPTED_AT_ONCE && kernel::decrypt(self, &mut data[..end]) {
            end -= DECRYPTED_AT_ONCE;
        }
        self.decrypt_in_batches(iv, &mut data[..end]);
    }

    /// The same without intrinsics: the fallback, and the kernel's oracle.
    fn decrypt_in_batches(&self, iv: [u8; 16], data: &mut [u8]) {
        // Sixteen bytes of ciphertext before the batch, and the batch's own.
        let mut window = [0; 16 + DECRYPTED_AT_ONCE];
        window[..16].copy_from_slice(&iv);
        let mut blocks = [aes::Block::default(); DECRYPTED_AT_ONCE];
        for chunk in data.chunks_mut(DECRYPTED_AT_ONCE) {
            window[16..16 + chunk.len()].copy_from_slice(chunk);
            let blocks = &mut blocks[..chunk.len()];
            for (block, input) in blocks.iter_mut().zip(window.windows(16)) {
                block.0.copy_from_slice(input);
            }
            self.cipher.encrypt_blocks(blocks);
            for (byte, block) in chunk.iter_mut().zip(&*blocks) {
                *byte ^= block.0[0];
            }
            window.copy_within(DECRYPTED_AT_ONCE.., 0);
        }
    }
}

/// Sixteen bytes of each of up to `N` streams, to be encrypted side by side.
///
/// The round keys of a lane stay where they are from step to step, as long as the lane keeps its key.
pub struct Lanes<'k, const N: usize> {
    keys: [Option<&'k Key>; N],
    round_keys: RoundKeys<N>,
    registers: [u128; N],
    blocks: [u128; N],
    len: usize,
}

impl<const N: usize> std::fmt::Debug for Lanes<'_, N> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} lanes", self.len)
    }
}

impl<'k, const N: usize> Lanes<'k, N> {
    /// No lanes yet.
    pub const fn new() -> Self {
        Self {
            keys: [None; N],
            round_keys: RoundKeys([[0; N]; ROUND_KEYS]),
            registers: [0; N],
            blocks: [0; N],
            len: 0,
        }
    }

    /// Whether there is no room for another lane.
    pub const fn is_full(&self) -> bool {
        self.len == N
    }

    /// Adds a lane, unless there is no room. `register` is the initialisation vector, and after that whatever
    /// the step before left; `block` is the plaintext, filled up with anything at the end of a stream.
    pub fn push(&mut self, key: &'k Key, register: [u8; 16], block: [u8; 16]) {
        let at = self.len;
        if at == N {
            return;
        }
        if !self.keys[at].is_some_and(|held| std::ptr::eq(held, key)) {
            self.keys[at] = Some(key);
            for (round, [round_key]) in self.round_keys.0.iter_mut().zip(&key.round_keys.0) {
                round[at] = *round_key;
            }
        }
        self.registers[at] = u128::from_le_bytes(register);
        self.blocks[at] = u128::from_le_bytes(block);
        self.len += 1;
    }

    /// Encrypts the block of each lane.
    pub fn encrypt(&mut self) {
        if !kernel::encrypt(self) {
            self.encrypt_one_by_one();
        }
    }

    /// The same without intrinsics: the fallback, and the kernel's oracle.
    fn encrypt_one_by_one(&mut self) {
        let lanes = self.keys.iter().flatten().zip(&mut self.registers).zip(&self.blocks);
        for ((key, register), block) in lanes.take(self.len) {
            for byte in block.to_le_bytes() {
                let mut state = Array(register.to_le_bytes());
                key.cipher.encrypt_block(&mut state);
                *register = *register >> 8 | u128::from(state.0[0] ^ byte) << 120;
            }
        }
    }

    /// The feedback register of a lane, which after a step is its ciphertext.
    pub const fn register(&self, lane: usize) -> [u8; 16] {
        self.registers[lane].to_le_bytes()
    }

    /// Takes all lanes out; the next ones had best have the same keys.
    pub const fn clear(&mut self) {
        self.len = 0;
    }
}

impl<const N: usize> Default for Lanes<'_, N> {
    fn default() -> Self {
        Self::new()
    }
}

/// FIPS 197 5.2. Runs once a channel, so it may be slow; the substitution is computed, not looked up, because
/// a table indexed by key bytes reveals them to processes that share the cache.
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
    reason = "AES intrinsics: a call behind run-time detection for each width, with a safe oracle beside them"
)]
mod kernel {
    use super::{DECRYPTED_AT_ONCE, Key, Lanes};
    use std::arch::is_x86_feature_detected as detected;
    use std::arch::x86_64::*;

    /// The high bit of each byte.
    const HIGH_BITS: u128 = u128::MAX / 0xff * 0x80;

    /// From so many lanes on, four in a register are faster than one: below, the chain of rounds is what
    /// takes time.
    const WIDE_MIN: usize = 5;

    /// Whether it was done; otherwise the processor cannot.
    pub(super) fn encrypt<const N: usize>(lanes: &mut Lanes<'_, N>) -> bool {
        const { assert!(N < WIDE_MIN || N.is_multiple_of(4), "lanes come in fours") };
        if lanes.len >= WIDE_MIN && detected!("vaes") && detected!("avx512f") && detected!("avx512bw") {
            // SAFETY: the features it is compiled for were detected just above.
            unsafe { wide(lanes) };
            return true;
        }
        if detected!("aes") && detected!("avx") {
            // SAFETY: the features it is compiled for were detected just above.
            unsafe { narrow(lanes) };
            return true;
        }
        false
    }

    /// Decrypts the last bytes of `data`, of which there are at least sixteen more; whether it was done.
    pub(super) fn decrypt(key: &Key, data: &mut [u8]) -> bool {
        if detected!("vaes") && detected!("avx512f") && detected!("avx512bw") {
            // SAFETY: the features it is compiled for were detected just above.
            unsafe { decrypt_wide(key, data) };
            return true;
        }
        false
    }

    /// The register of number k holds the blocks that decrypt the bytes k, 16 + k, 32 + k and 48 + k, which
    /// lie sixteen bytes apart in the ciphertext: one load.
    #[target_feature(enable = "vaes,avx512f,avx512bw")]
    fn decrypt_wide(key: &Key, data: &mut [u8]) {
        let start = data.len() - (16 + DECRYPTED_AT_ONCE);
        let window: &mut [u8; 16 + DECRYPTED_AT_ONCE] =
            (&mut data[start..]).try_into().expect("INVARIANT: the caller looked");
        let mut states: [_; 16] = std::array::from_fn(|k| load_bytes(window, k));
        let keys = key.round_keys.0.map(|[round_key]| _mm512_broadcast_i32x4(load(round_key)));
        for state in &mut states {
            *state = _mm512_xor_si512(*state, keys[0]);
        }
        for round_key in &keys[1..10] {
            for state in &mut states {
                *state = _mm512_aesenc_epi128(*state, *round_key);
            }
        }
        let mut bytes = load_bytes(window, 16);
        for (k, state) in states.iter().enumerate() {
            let stream = _mm512_aesenclast_epi128(*state, keys[10]);
            // The first byte of each block goes where byte k is; an index with its high bit set makes a zero.
            bytes = _mm512_xor_si512(
                bytes,
                _mm512_shuffle_epi8(stream, _mm512_broadcast_i32x4(load(!(0xff << (8 * k)) & HIGH_BITS))),
            );
        }
        store_bytes(window, bytes);
    }

    /// 64 bytes from `at` on, of the 80 that there are.
    #[target_feature(enable = "avx512f")]
    fn load_bytes(bytes: &[u8; 16 + DECRYPTED_AT_ONCE], at: usize) -> __m512i {
        let bytes: &[u8; 64] = bytes[at..].first_chunk().expect("INVARIANT: it starts in the first sixteen");
        // SAFETY: these are the 64 bytes that are read, and they need not be aligned.
        unsafe { _mm512_loadu_si512(bytes.as_ptr().cast()) }
    }

    /// Replaces the last 64 bytes.
    #[target_feature(enable = "avx512f")]
    fn store_bytes(bytes: &mut [u8; 16 + DECRYPTED_AT_ONCE], value: __m512i) {
        let bytes: &mut [u8; 64] = bytes.last_chunk_mut().expect("INVARIANT: there are 80");
        // SAFETY: these are the 64 bytes that are written, and they need not be aligned.
        unsafe { _mm512_storeu_si512(bytes.as_mut_ptr().cast(), value) }
    }

    #[target_feature(enable = "vaes,avx512f,avx512bw")]
    fn wide<const N: usize>(lanes: &mut Lanes<'_, N>) {
        let mut first = 0;
        while first < lanes.len {
            let groups = match lanes.len - first {
                0..=4 => wide_step::<1, N>(lanes, first),
                5..=8 => wide_step::<2, N>(lanes, first),
                9..=12 => wide_step::<3, N>(lanes, first),
                _ => wide_step::<4, N>(lanes, first),
            };
            first += 4 * groups;
        }
    }

    /// Four lanes, the first in the low bits.
    #[target_feature(enable = "avx512f")]
    fn load_wide<const N: usize>(values: &[u128; N], first: usize) -> __m512i {
        let four: &[u128; 4] = values[first..].first_chunk().expect("INVARIANT: lanes come in fours");
        // SAFETY: these are the 64 bytes that are read, and they need not be aligned.
        unsafe { _mm512_loadu_si512(four.as_ptr().cast()) }
    }

    /// `4 * G` lanes from `first` on. Empty lanes are computed as well, and their results are ignored.
    #[target_feature(enable = "vaes,avx512f,avx512bw")]
    fn wide_step<const G: usize, const N: usize>(lanes: &mut Lanes<'_, N>, first: usize) -> usize {
        let mut registers: [_; G] = std::array::from_fn(|g| load_wide(&lanes.registers, first + 4 * g));
        let mut blocks: [_; G] = std::array::from_fn(|g| load_wide(&lanes.blocks, first + 4 * g));
        let keys: [[_; G]; super::ROUND_KEYS] = std::array::from_fn(|round| {
            std::array::from_fn(|g| load_wide(&lanes.round_keys.0[round], first + 4 * g))
        });
        for _ in 0..16 {
            let mut states = registers;
            for g in 0..G {
                states[g] = _mm512_xor_si512(states[g], keys[0][g]);
            }
            for round in &keys[1..10] {
                for g in 0..G {
                    states[g] = _mm512_aesenc_epi128(states[g], round[g]);
                }
            }
            for g in 0..G {
                let stream = _mm512_aesenclast_epi128(states[g], keys[10][g]);
                // The byte of ciphertext comes in at the end of the register, the oldest leaves at its front.
                let byte = _mm512_bslli_epi128::<15>(_mm512_xor_si512(stream, blocks[g]));
                registers[g] = _mm512_or_si512(_mm512_bsrli_epi128::<1>(registers[g]), byte);
                blocks[g] = _mm512_bsrli_epi128::<1>(blocks[g]);
            }
        }
        let registers = registers.iter().flat_map(|four| {
            [
                _mm512_extracti32x4_epi32::<0>(*four),
                _mm512_extracti32x4_epi32::<1>(*four),
                _mm512_extracti32x4_epi32::<2>(*four),
                _mm512_extracti32x4_epi32::<3>(*four),
            ]
        });
        for (lane, register) in lanes.registers[first..].iter_mut().zip(registers) {
            *lane = store(register);
        }
        G
    }

    #[target_feature(enable = "aes,avx")]
    fn narrow<const N: usize>(lanes: &mut Lanes<'_, N>) {
        let mut first = 0;
        while first < lanes.len {
            match lanes.len - first {
                1 => narrow_step::<1, N>(lanes, first),
                2 => narrow_step::<2, N>(lanes, first),
                3 | 4 => narrow_step::<4, N>(lanes, first),
                _ => narrow_step::<8, N>(lanes, first),
            }
            first += 8;
        }
    }

    #[target_feature(enable = "sse2")]
    fn load(value: u128) -> __m128i {
        _mm_set_epi64x((value >> 64) as i64, value as i64)
    }

    #[target_feature(enable = "sse4.1")]
    fn store(value: __m128i) -> u128 {
        let (low, high) = (_mm_extract_epi64::<0>(value) as u64, _mm_extract_epi64::<1>(value) as u64);
        u128::from(high) << 64 | u128::from(low)
    }

    /// Up to `M` lanes from `first` on; where there are fewer, the last one is computed again and thrown
    /// away.
    #[target_feature(enable = "aes,avx")]
    fn narrow_step<const M: usize, const N: usize>(lanes: &mut Lanes<'_, N>, first: usize) {
        let at = |n: usize| (first + n).min(lanes.len - 1);
        let mut registers: [_; M] = std::array::from_fn(|n| load(lanes.registers[at(n)]));
        let mut blocks: [_; M] = std::array::from_fn(|n| load(lanes.blocks[at(n)]));
        let keys: [[u128; M]; super::ROUND_KEYS] =
            std::array::from_fn(|round| std::array::from_fn(|n| lanes.round_keys.0[round][at(n)]));
        for _ in 0..16 {
            let mut states = registers;
            for n in 0..M {
                states[n] = _mm_xor_si128(states[n], load(keys[0][n]));
            }
            for round in &keys[1..10] {
                for n in 0..M {
                    states[n] = _mm_aesenc_si128(states[n], load(round[n]));
                }
            }
            for n in 0..M {
                let stream = _mm_aesenclast_si128(states[n], load(keys[10][n]));
                let byte = _mm_slli_si128::<15>(_mm_xor_si128(stream, blocks[n]));
                registers[n] = _mm_or_si128(_mm_srli_si128::<1>(registers[n]), byte);
                blocks[n] = _mm_srli_si128::<1>(blocks[n]);
            }
        }
        let len = lanes.len;
        for (lane, register) in lanes.registers[first..len].iter_mut().zip(registers) {
            *lane = store(register);
        }
    }
}

#[cfg(not(target_arch = "x86_64"))]
mod kernel {
    /// No kernel for this processor yet.
    pub(super) fn encrypt<const N: usize>(_: &mut super::Lanes<'_, N>) -> bool {
        false
    }

    pub(super) fn decrypt(_: &super::Key, _: &mut [u8]) -> bool {
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
            let mut decrypted = encrypted.clone();
            ours.decrypt(iv, &mut decrypted);
            prop_assert_eq!(&decrypted, &data);
            ours.decrypt_in_batches(iv, &mut encrypted);
            prop_assert_eq!(encrypted, data);
        }

        #[test]
        fn every_number_of_lanes_does_what_one_lane_does(
            steps in prop::collection::vec(prop::collection::vec(any::<(u8, [u8; 16], [u8; 16])>(), 0..=LANES_MAX), 1..4)
        ) {
            // Few keys, so that from step to step a lane keeps its key or gets another one.
            let keys: Vec<Key> = (0..3).map(|n| Key::new(&[n; 16])).collect();
            let mut lanes = Lanes::<LANES_MAX>::new();
            let mut oracle = Lanes::<LANES_MAX>::new();
            for inputs in steps {
                for (key, register, block) in &inputs {
                    lanes.push(&keys[usize::from(key % 3)], *register, *block);
                    oracle.push(&keys[usize::from(key % 3)], *register, *block);
                }
                lanes.encrypt();
                oracle.encrypt_one_by_one();
                for lane in 0..inputs.len() {
                    prop_assert_eq!(lanes.register(lane), oracle.register(lane));
                }
                lanes.clear();
                oracle.clear();
            }
        }
    }
}
