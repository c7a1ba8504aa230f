//! AES-128-CFB8 over what an answer has: ours alone and side by side, beside the `cfb8` crate.

use crate::table::Table;
use cfb8::cipher::KeyIvInit;
use netlogon_transport::cfb8::{Key, LANES_MAX, Lanes};
use std::hint::black_box;
use std::time::Instant;

const LEN: usize = 1024;
const ROUNDS: u32 = 2_000;

/// Processor time would be the same: nothing waits here. The best of several runs.
pub(crate) fn us(mut work: impl FnMut()) -> f64 {
    let run = |work: &mut dyn FnMut()| {
        let started = Instant::now();
        (0..ROUNDS).for_each(|_| work());
        started.elapsed().as_secs_f64() * 1e6 / f64::from(ROUNDS)
    };
    (0..5).map(|_| run(&mut work)).fold(f64::INFINITY, f64::min)
}

/// Encrypts `LEN` bytes in each of as many streams as there are.
fn in_lanes(key: &Key, data: &mut [[u8; LEN]]) {
    let mut registers = vec![[0u8; 16]; data.len()];
    let mut lanes = Lanes::<LANES_MAX>::new();
    for at in (0..LEN).step_by(16) {
        for (register, data) in registers.iter().zip(data.iter()) {
            lanes.push(key, *register, std::array::from_fn(|n| data[at + n]));
        }
        lanes.encrypt();
        for (lane, (register, data)) in registers.iter_mut().zip(data.iter_mut()).enumerate() {
            *register = lanes.register(lane);
            data[at..at + 16].copy_from_slice(register);
        }
        lanes.clear();
    }
}

pub(crate) fn measure(table: &mut Table) {
    let bytes = *b"sixteen key byte";
    let key = Key::new(&bytes);
    let mut data = [0x5a; LEN];
    let theirs = us(|| {
        cfb8::Encryptor::<aes::Aes128>::new(&bytes.into(), &[0; 16].into()).encrypt(black_box(&mut data));
    });
    table.row("encrypt 1 KiB, `cfb8` crate", theirs, "µs", None);
    table.row(
        "encrypt 1 KiB, ours, one stream",
        us(|| key.encrypt([0; 16], black_box(&mut data))),
        "µs",
        None,
    );
    for streams in [8, LANES_MAX] {
        let mut data = vec![[0x5a; LEN]; streams];
        let each = us(|| in_lanes(&key, black_box(&mut data))) / streams as f64;
        table.row(&format!("encrypt 1 KiB, ours, each of {streams} streams"), each, "µs", None);
    }
    let theirs = us(|| {
        cfb8::Decryptor::<aes::Aes128>::new(&bytes.into(), &[0; 16].into()).decrypt(black_box(&mut data));
    });
    table.row("decrypt 1 KiB, `cfb8` crate", theirs, "µs", None);
    table.row("decrypt 1 KiB, ours", us(|| key.decrypt([0; 16], black_box(&mut data))), "µs", None);
}
