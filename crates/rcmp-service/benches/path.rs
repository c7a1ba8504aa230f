//! What a first verification costs beside its signatures: `cargo bench -p rcmp-service --bench path`.
//!
//! The chain has two steps on P-256: an anchor, an intermediate, and a certificate as a smart card has it.
//! `signatures` are the two signatures alone. `verify` never sees a certificate twice, so that nothing is
//! cached.

use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use divan::{Bencher, black_box};
use dtyp::FileTime;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType, SigningKey,
};
use rcmp_service::trust::{Parts, Trust};
use std::sync::LazyLock;

/// 2026-01-01T00:00:00Z.
const NOW: i64 = 1_767_225_600;
/// More certificates than samples, so that each is seen once.
const LEAVES: usize = 2_000;

fn main() {
    divan::main();
}

struct Fixture {
    parts: Parts,
    leaves: Vec<Vec<u8>>,
}

static FIXTURE: LazyLock<Fixture> = LazyLock::new(|| {
    let ca = |name: &str| {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.distinguished_name.push(DnType::CommonName, name);
        params
    };
    let key = KeyPair::generate().expect("a key");
    let root = ca("Root").self_signed(&key).expect("a root").der().to_vec();
    let root_issuer = Issuer::new(ca("Root"), key);
    let key = KeyPair::generate().expect("a key");
    let sub = ca("Issuing").signed_by(&key, &root_issuer).expect("an intermediate").der().to_vec();
    let issuer = Issuer::new(ca("Issuing"), key);
    let key = KeyPair::generate().expect("a key");
    let leaf = |n: usize| {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, format!("user {n}"));
        params.subject_alt_names =
            vec![SanType::Rfc822Name("user@contoso.example".try_into().expect("a name"))];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.signed_by(&key, &issuer).expect("a certificate").der().to_vec()
    };
    let parts = Parts {
        anchors: vec![root],
        intermediates: vec![sub],
        // id-kp-clientAuth, 1.3.6.1.5.5.7.3.2.
        extended_key_usages: vec![vec![0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, 0x02]],
        ..Parts::default()
    };
    Fixture { parts, leaves: (0..LEAVES).map(leaf).collect() }
});

#[divan::bench(sample_count = 100, sample_size = 10)]
fn verify(bencher: Bencher<'_, '_>) {
    let trust = Trust::new(FIXTURE.parts.clone()).expect("a trust");
    let next = std::sync::atomic::AtomicUsize::new(0);
    bencher
        .with_inputs(|| &FIXTURE.leaves[next.fetch_add(1, std::sync::atomic::Ordering::Relaxed) % LEAVES])
        .bench_values(|leaf| trust.verify(black_box(leaf), FileTime::from_unix(NOW)).expect("a path"));
}

#[divan::bench(sample_count = 100, sample_size = 10)]
fn verify_again(bencher: Bencher<'_, '_>) {
    let trust = Trust::new(FIXTURE.parts.clone()).expect("a trust");
    let leaf = &FIXTURE.leaves[0];
    bencher.bench(|| trust.verify(black_box(leaf), FileTime::from_unix(NOW)).expect("a path"));
}

#[divan::bench(sample_count = 100, sample_size = 10)]
fn signatures(bencher: Bencher<'_, '_>) {
    let key = KeyPair::generate().expect("a key");
    let message = &FIXTURE.leaves[0];
    let signature = key.sign(message).expect("a signature");
    let public =
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, rcgen::PublicKeyData::der_bytes(&key).to_vec());
    bencher.bench(|| {
        for _ in 0..2 {
            public.verify(black_box(message), black_box(&signature)).expect("its own");
        }
    });
}

/// What the configuration costs: two signatures, and all that is read of the CAs.
#[divan::bench(sample_count = 100, sample_size = 10)]
fn load(bencher: Bencher<'_, '_>) {
    bencher.with_inputs(|| FIXTURE.parts.clone()).bench_values(|parts| Trust::new(parts).expect("a trust"));
}
