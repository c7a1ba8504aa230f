//! What a large CRL costs: `cargo bench -p rcmp-service --bench crl`. `CRL_BYTES` is its size, 50,000,000
//! unless told.
//!
//! Serial numbers are sixteen octets that look random, as CAs make them, in no order. "Install" is
//! everything: reading, the signature, the entries. "Look-up" is the decision about a path of one
//! certificate.

use divan::counter::BytesCount;
use divan::{Bencher, black_box};
use dtyp::FileTime;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, SerialNumber, SigningKey};
use rcmp_service::trust::crl::UnverifiedCrl;
use rcmp_service::trust::{Parts, Path, Revocation, Trust};
use std::sync::{Arc, LazyLock};

/// 2026-01-01T00:00:00Z.
const NOW: i64 = 1_767_225_600;

fn main() {
    divan::main();
}

struct Fixture {
    crl: Vec<u8>,
    trust: Trust,
    good: Arc<Path>,
    revoked: Arc<Path>,
    entries: u64,
}

static FIXTURE: LazyLock<Fixture> = LazyLock::new(fixture);

fn now() -> FileTime {
    FileTime::from_unix(NOW)
}

fn der(tag: u8, contents: &[&[u8]]) -> Vec<u8> {
    let len = contents.iter().map(|part| part.len()).sum::<usize>();
    let mut encoded = vec![tag];
    match len {
        0..0x80 => encoded.push(len as u8),
        _ => {
            encoded.push(0x84);
            encoded.extend_from_slice(&(len as u32).to_be_bytes());
            let zeros = encoded[2..].iter().take_while(|octet| **octet == 0).count();
            encoded.drain(2..2 + zeros);
            encoded[1] -= zeros as u8;
        }
    }
    contents.iter().for_each(|part| encoded.extend_from_slice(part));
    encoded
}

/// A serial number that is the `n`th of its CA: sixteen octets, the first not negative and not zero.
fn serial(n: u64) -> [u8; 16] {
    let mix = |mut x: u64| {
        x = (x ^ x >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ x >> 31
    };
    let mut serial = [0; 16];
    serial[..8].copy_from_slice(&mix(2 * n + 1).to_be_bytes());
    serial[8..].copy_from_slice(&mix(2 * n + 2).to_be_bytes());
    serial[0] = serial[0] & 0x3f | 0x40;
    serial
}

fn fixture() -> Fixture {
    let bytes = std::env::var("CRL_BYTES").map_or(50_000_000, |bytes| bytes.parse().expect("a number"));
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, "Large CA");
    let key = KeyPair::generate().expect("a key");
    let root = params.self_signed(&key).expect("a root").der().to_vec();
    let signing = KeyPair::from_pem(&key.serialize_pem()).expect("the same key");
    let issuer = Issuer::new(params, key);

    let entry = |n: u64| der(0x30, &[&der(0x02, &[&serial(n)]), &der(0x17, &[b"250101000000Z"])]);
    let entries = bytes / entry(0).len() as u64;
    let mut revoked = Vec::new();
    (0..entries).for_each(|n| revoked.extend_from_slice(&entry(n)));
    // ecdsa-with-SHA256, 1.2.840.10045.4.3.2.
    let algorithm = der(0x30, &[&[0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02]]);
    let name = rcmp_service::certificate::Certificate::parse(&root).expect("our own").subject.to_vec();
    let tbs = der(
        0x30,
        &[
            &[0x02, 0x01, 0x01],
            &algorithm,
            &name,
            &der(0x17, &[b"251231000000Z"]),
            &der(0x17, &[b"260201000000Z"]),
            &der(0x30, &[&revoked]),
        ],
    );
    let signature = signing.sign(&tbs).expect("a signature");
    let crl = der(0x30, &[&tbs, &algorithm, &der(0x03, &[&[0], &signature])]);

    let trust = Trust::new(Parts { anchors: vec![root], crls: 1, ..Parts::default() }).expect("a trust");
    let leaf = |n: u64| {
        let mut params = CertificateParams::default();
        params.serial_number = Some(SerialNumber::from_slice(&serial(n)));
        let key = KeyPair::generate().expect("a key");
        let leaf = params.signed_by(&key, &issuer).expect("a certificate");
        trust.verify(leaf.der(), now()).expect("a path")
    };
    let (good, revoked) = (leaf(entries + 1), leaf(entries / 3));
    let facts = trust.install_crl(0, &crl, now()).expect("a good list");
    println!("{} bytes, {} entries", crl.len(), facts.entries);
    Fixture { crl, good, revoked, entries, trust }
}

#[divan::bench(sample_count = 10, sample_size = 1)]
fn install(bencher: Bencher<'_, '_>) {
    let Fixture { crl, trust, .. } = &*FIXTURE;
    bencher
        .counter(BytesCount::new(crl.len()))
        .bench(|| trust.install_crl(0, black_box(crl), now()).expect("a good list"));
}

#[divan::bench(sample_count = 10, sample_size = 1)]
fn entries_alone(bencher: Bencher<'_, '_>) {
    let crl = UnverifiedCrl::parse(&FIXTURE.crl).expect("a good list");
    bencher.bench(|| crl.entries().expect("a good list").len());
}

#[divan::bench]
fn look_up_absent(bencher: Bencher<'_, '_>) {
    let Fixture { trust, good, .. } = &*FIXTURE;
    bencher.bench(|| assert_eq!(trust.revocation(black_box(good), now()), Revocation::Good));
}

#[divan::bench]
fn look_up_present(bencher: Bencher<'_, '_>) {
    let Fixture { trust, revoked, .. } = &*FIXTURE;
    bencher
        .bench(|| assert!(matches!(trust.revocation(black_box(revoked), now()), Revocation::Revoked { .. })));
}

/// Serial numbers all over the list, so that no look-up finds the lines of the one before in a cache.
#[divan::bench]
fn look_up_scattered(bencher: Bencher<'_, '_>) {
    let crl = UnverifiedCrl::parse(&FIXTURE.crl).expect("a good list").entries().expect("a good list");
    let serials: Vec<_> = (0..1 << 16)
        .map(|n| {
            rcmp_service::trust::Serial::new(&serial(n * 7919 % FIXTURE.entries)).expect("a serial number")
        })
        .collect();
    let mut at = 0;
    bencher.bench_local(|| {
        at = (at + 1) % serials.len();
        assert!(crl.find(&serials[at]).is_some());
    });
}
