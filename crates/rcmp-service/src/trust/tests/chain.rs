use super::*;
use rcgen::{
    CustomExtension, ExtendedKeyUsagePurpose, GeneralSubtree, KeyUsagePurpose, NameConstraints, SanType,
};
use std::path::Path as FilePath;

#[track_caller]
fn check(trust: &Trust, leaf: &[u8], expect: Result<&[&Ca], ChainError>) {
    let path = trust.verify(leaf, now()).map_err(|refusal| refusal.error);
    let authorities = path.map(|path| path.authorities.clone());
    assert_eq!(authorities, expect.map(|path| path.iter().map(|ca| ca.id()).collect()));
}

fn refused(parts: Parts) -> (Configured, Unusable) {
    match Trust::new(parts) {
        Err(TrustError::Certificate { which, subject, why }) => {
            assert!(subject.is_some_and(|subject| subject.starts_with("CN=")));
            (which, why)
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_path_names_its_authorities_from_the_issuer_to_the_anchor() {
    let root = Ca::root("Root");
    let (upper, lower) = (root.ca("Upper"), Ca::root("Unrelated"));
    let issuing = upper.ca("Issuing");
    let trust = trust(&[&lower, &root], &[&upper, &issuing]);
    check(&trust, &issuing.leaf("alice"), Ok(&[&issuing, &upper, &root]));
    check(&trust, &root.leaf("bob"), Ok(&[&root]));
    let path = trust.verify(&issuing.leaf("alice"), now()).unwrap();
    assert_eq!((path.issuer(), path.anchor()), (issuing.id(), root.id()));
    assert_eq!((path.not_before, path.not_after), (day(2025, 1, 1), day(2030, 1, 1)));
    let names: Vec<_> = trust.authorities().map(|it| (it.subject.as_str(), it.is_anchor)).collect();
    assert_eq!(
        names,
        [("CN=Unrelated", true), ("CN=Root", true), ("CN=Upper", false), ("CN=Issuing", false)]
    );
}

#[test]
fn refuses_a_second_ca_with_the_same_name() {
    let (ours, theirs) = (Ca::root("Root"), Ca::root("Root"));
    let issuing = theirs.ca("Issuing");
    let trust = trust(&[&ours], &[]);
    check(&trust, &theirs.leaf("alice"), Err(ChainError::BadSignature));
    check(&trust, &Ca::root("Other").leaf("alice"), Err(ChainError::UnknownIssuer));
    check(&trust, &issuing.leaf("alice"), Err(ChainError::UnknownIssuer));
}

#[test]
fn anchors_of_one_name_are_told_apart_by_their_keys() {
    let (first, second) = (Ca::root("Root"), Ca::root("Root"));
    let trust = trust(&[&first, &second], &[]);
    check(&trust, &first.leaf("alice"), Ok(&[&first]));
    check(&trust, &second.leaf("alice"), Ok(&[&second]));
}

#[test]
fn whatever_is_outside_its_dates_is_refused() {
    let expired = |mut params: CertificateParams| {
        params.not_after = date_time_ymd(2026, 6, 14);
        params
    };
    let early = |mut params: CertificateParams| {
        params.not_before = date_time_ymd(2026, 6, 16);
        params
    };
    let root = Ca::root("Root");
    let (old, young) = (Ca::root_as(expired(ca_params("Old"))), Ca::root_as(early(ca_params("Young"))));
    let (past, future) = (root.ca_as(expired(ca_params("Past"))), root.ca_as(early(ca_params("Future"))));
    let trust = trust(&[&root, &old, &young], &[&past, &future]);
    check(&trust, &root.leaf_as(&expired(params("alice"))), Err(ChainError::Expired));
    check(&trust, &root.leaf_as(&early(params("alice"))), Err(ChainError::NotYetValid));
    check(&trust, &past.leaf("alice"), Err(ChainError::IssuerExpired));
    check(&trust, &future.leaf("alice"), Err(ChainError::IssuerNotYetValid));
    check(&trust, &old.leaf("alice"), Err(ChainError::AnchorExpired));
    check(&trust, &young.leaf("alice"), Err(ChainError::AnchorNotYetValid));
}

#[test]
fn a_renewed_anchor_stands_in_for_the_expired_one() {
    let mut params = ca_params("Root");
    params.not_after = date_time_ymd(2026, 1, 1);
    let old = Ca::root_as(params);
    let renewed = ca_params("Root").self_signed(&old.key).unwrap().der().to_vec();
    let mut parts = parts(&[&old], &[]);
    parts.anchors.push(renewed);
    let path = Trust::new(parts).unwrap().verify(&old.leaf("alice"), now()).unwrap();
    assert_eq!(path.not_after, day(2030, 1, 1));
}

#[test]
fn the_last_second_of_a_certificate_counts() {
    let root = Ca::root("Root");
    let trust = trust(&[&root], &[]);
    let leaf = root.leaf("alice");
    let last = day(2030, 1, 1).0;
    for (at, good) in [(last, true), (last + 9_999_999, true), (last + 10_000_000, false)] {
        assert_eq!(trust.verify(&leaf, FileTime(at)).is_ok(), good);
    }
}

#[test]
fn a_remembered_path_does_not_outlive_its_certificates() {
    let root = Ca::root("Root");
    let mut params = ca_params("Issuing");
    params.not_after = date_time_ymd(2027, 1, 1);
    let issuing = root.ca_as(params);
    let trust = trust(&[&root], &[&issuing]);
    let leaf = issuing.leaf("alice");
    let path = trust.verify(&leaf, now()).unwrap();
    assert!(Arc::ptr_eq(&path, &trust.verify(&leaf, now()).unwrap()));
    for (at, expect) in
        [(day(2027, 1, 2), ChainError::IssuerExpired), (day(2024, 1, 2), ChainError::NotYetValid)]
    {
        assert_eq!(trust.verify(&leaf, at).map_err(|refusal| refusal.error), Err(expect));
    }
    assert!(trust.verify(&leaf, now()).is_ok(), "and what time refused, time allows again");
}

/// One way is closed for good, and another one opens: the refusal of today is not that of tomorrow.
#[test]
fn a_refusal_is_remembered_only_when_no_way_can_open() {
    let root = Ca::root("Root");
    let mut params = ca_params("Issuing");
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let closed = root.ca_as(params);
    let mut params = ca_params("Issuing");
    params.not_before = date_time_ymd(2026, 7, 1);
    let early = params.signed_by(&closed.key, &root.issuer).unwrap().der().to_vec();
    let mut parts = parts(&[&root], &[&closed]);
    parts.intermediates.push(early);
    let trust = Trust::new(parts).unwrap();
    let leaf = closed.leaf("alice");
    check(&trust, &leaf, Err(ChainError::NotForClientAuthentication));
    assert!(trust.verify(&leaf, day(2026, 7, 2)).is_ok());
}

#[test]
fn what_is_remembered_is_bounded() {
    let root = Ca::root("Root");
    let mut trust = trust(&[&root], &[]);
    trust.paths = cache(64);
    trust.refusals = cache(64);
    let other = Ca::root("Other");
    for n in 0..200 {
        assert!(trust.verify(&root.leaf(&n.to_string()), now()).is_ok());
        assert!(trust.verify(&other.leaf(&n.to_string()), now()).is_err());
    }
    assert!(trust.paths.len() <= 64 && !trust.paths.is_empty());
    assert!(trust.refusals.len() <= 64 && !trust.refusals.is_empty());
    assert_eq!(super::super::cache::<()>(PATHS_MAX).capacity(), PATHS_MAX);
}

#[test]
fn an_extended_key_usage_must_be_one_of_those_configured() {
    let root = Ca::root("Root");
    let good = [&root];
    let with = |usages: &[ExtendedKeyUsagePurpose]| {
        let mut params = params("alice");
        params.extended_key_usages = usages.to_vec();
        root.leaf_as(&params)
    };
    use ExtendedKeyUsagePurpose::{Any, ClientAuth, Other, ServerAuth};
    let smart_card = Other(vec![1, 3, 6, 1, 4, 1, 311, 20, 2, 2]);
    let wrong = Err(ChainError::NotForClientAuthentication);
    for required in [false, true] {
        let mut parts = parts(&[&root], &[]);
        parts.require_extended_key_usage = required;
        let trust = Trust::new(parts.clone()).unwrap();
        check(&trust, &with(&[ClientAuth]), Ok(&[&root]));
        check(&trust, &with(&[ServerAuth, ClientAuth]), Ok(&[&root]));
        check(&trust, &with(&[Any]), wrong);
        check(&trust, &with(&[ServerAuth]), wrong);
        check(&trust, &with(std::slice::from_ref(&smart_card)), wrong);
        check(&trust, &with(&[]), if required { wrong } else { Ok(&good) });
        // 1.3.6.1.4.1.311.20.2.2
        parts.extended_key_usages.push(vec![0x2b, 6, 1, 4, 1, 0x82, 0x37, 0x14, 2, 2]);
        // 2.5.29.37.0
        parts.extended_key_usages.push(vec![0x55, 0x1d, 0x25, 0]);
        let trust = Trust::new(parts).unwrap();
        check(&trust, &with(std::slice::from_ref(&smart_card)), Ok(&[&root]));
        check(&trust, &with(&[Any]), Ok(&[&root]));
    }
    let parts =
        Parts { require_extended_key_usage: true, extended_key_usages: Vec::new(), ..parts(&[&root], &[]) };
    assert_eq!(Trust::new(parts).map(|_| ()), Err(TrustError::NoExtendedKeyUsages));
}

#[test]
fn a_ca_for_something_else_issues_no_client() {
    let root = Ca::root("Root");
    let mut params = ca_params("Servers");
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let (servers, anchor) = (root.ca_as(params.clone()), Ca::root_as(params));
    let wrong = Err(ChainError::NotForClientAuthentication);
    check(&trust(&[&root], &[&servers]), &servers.leaf("alice"), wrong);
    check(&trust(&[&anchor], &[]), &anchor.leaf("alice"), wrong);
}

#[test]
fn a_path_is_no_longer_than_its_cas_allow() {
    let limited = |name: &str, len| {
        let mut params = ca_params(name);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(len));
        params
    };
    let root = Ca::root("Root");
    let upper = root.ca_as(limited("Upper", 0));
    let lower = upper.ca("Lower");
    let both = trust(&[&root], &[&upper, &lower]);
    check(&both, &upper.leaf("alice"), Ok(&[&upper, &root]));
    check(&both, &lower.leaf("alice"), Err(ChainError::PathLength));
    let anchor = Ca::root_as(limited("Anchor", 0));
    let below = anchor.ca("Below");
    let anchored = trust(&[&anchor], &[&below]);
    check(&anchored, &anchor.leaf("alice"), Ok(&[&anchor]));
    check(&anchored, &below.leaf("alice"), Err(ChainError::PathLength));
}

#[test]
fn a_leaf_is_no_ca_and_a_ca_is_no_leaf() {
    let root = Ca::root("Root");
    for is_ca in [IsCa::NoCa, IsCa::ExplicitNoCa] {
        let mut params = params("alice");
        params.is_ca = is_ca;
        let alice = root.ca_as(params);
        assert_eq!(refused(parts(&[&root], &[&alice])), (Configured::Intermediate(0), Unusable::NotACa));
        assert_eq!(refused(parts(&[&root, &alice], &[])), (Configured::Anchor(1), Unusable::NotACa));
        check(&trust(&[&root], &[]), &alice.leaf("mallory"), Err(ChainError::UnknownIssuer));
    }
    check(&trust(&[&root], &[]), &root.ca("Issuing").der, Err(ChainError::IsACa));
}

#[test]
fn a_ca_needs_key_cert_sign_and_an_issuer() {
    let root = Ca::root("Root");
    let mut params = ca_params("CRLs only");
    params.key_usages = vec![KeyUsagePurpose::CrlSign];
    let ca = root.ca_as(params);
    // A key that signs lists may be told beside the CAs. It issues nothing.
    let trusts = trust(&[&root], &[&ca]);
    let told = refusal(&trusts, &ca.leaf("alice"));
    assert_eq!((told.error, told.depth), (ChainError::NoKeyCertSign, 1));
    let text = "the keyUsage of what issued it lacks keyCertSign (CA at depth 1; extension 2.5.29.15)";
    assert_eq!(told.text(None), text);
    check(&trusts, &root.leaf("alice"), Ok(&[&root]));
    assert_eq!(trusts.authorities().count(), 1);
    assert_eq!(refused(parts(&[&ca], &[])), (Configured::Anchor(0), Unusable::NoKeyCertSign));
    let mut params = ca_params("Neither");
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    let ca = root.ca_as(params);
    assert_eq!(refused(parts(&[&root], &[&ca])), (Configured::Intermediate(0), Unusable::NoKeyCertSign));
    let namesake = Ca::root("Root").ca("Issuing");
    assert_eq!(refused(parts(&[&root], &[&namesake])), (Configured::Intermediate(0), Unusable::NoIssuer));
    assert_eq!(Trust::new(parts(&[], &[&namesake])).map(|_| ()), Err(TrustError::NoAnchors));
    let mut broken = parts(&[&root], &[]);
    broken.intermediates.push(vec![0x30, 0x00]);
    let error = Trust::new(broken).map(|_| ()).unwrap_err();
    assert!(error.to_string().starts_with("intermediate 1 cannot be read: "), "{error}");
}

#[test]
fn names_stay_within_the_constraints_of_the_cas_above() {
    let root = Ca::root("Root");
    let constrained = |permitted: &[&str], excluded: &[&str]| {
        let all =
            |names: &[&str]| names.iter().map(|name| GeneralSubtree::DnsName((*name).to_owned())).collect();
        let mut params = ca_params("Constrained");
        params.name_constraints =
            Some(NameConstraints { permitted_subtrees: all(permitted), excluded_subtrees: all(excluded) });
        root.ca_as(params)
    };
    let named = |ca: &Ca, name: &str| {
        let mut params = params("web01");
        params.subject_alt_names = vec![SanType::DnsName(name.try_into().unwrap())];
        ca.leaf_as(&params)
    };
    let permitted = constrained(&["contoso.example"], &[]);
    let trusts = trust(&[&root], &[&permitted]);
    check(&trusts, &named(&permitted, "web01.contoso.example"), Ok(&[&permitted, &root]));
    check(&trusts, &named(&permitted, "web01.fabrikam.example"), Err(ChainError::NameConstraints));
    let excluded = constrained(&[], &["contoso.example"]);
    let trusts = trust(&[&root], &[&excluded]);
    check(&trusts, &named(&excluded, "web01.contoso.example"), Err(ChainError::NameConstraints));
}

#[test]
fn an_unknown_critical_extension_is_refused() {
    let root = Ca::root("Root");
    for (critical, expect) in [(true, Err(ChainError::UnknownCritical)), (false, Ok(&[&root][..]))] {
        let mut params = params("alice");
        let mut custom = CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 99999, 1], vec![0x05, 0x00]);
        custom.set_criticality(critical);
        params.custom_extensions = vec![custom.clone()];
        check(&trust(&[&root], &[]), &root.leaf_as(&params), expect);
        let mut params = ca_params("Issuing");
        params.custom_extensions = vec![custom];
        let issuing = root.ca_as(params);
        let loaded = Trust::new(parts(&[&root], &[&issuing])).map(|_| ());
        assert_eq!(loaded.is_err(), critical, "{loaded:?}");
    }
}

#[test]
fn an_algorithm_that_is_not_believed_is_refused() {
    let root = Ca::root("Root");
    let mut leaf = root.leaf("alice");
    // ecdsa-with-SHA256 becomes ecdsa-with-SHA1 (1.2.840.10045.4.1), in both places.
    let sha256 = &algorithm()[2..];
    let places: Vec<usize> =
        (0..leaf.len() - sha256.len()).filter(|at| leaf[*at..].starts_with(sha256)).collect();
    assert_eq!(places.len(), 2);
    for at in places {
        leaf[at..at + 10].copy_from_slice(&[0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x01, 0x02]);
    }
    check(&trust(&[&root], &[]), &leaf, Err(ChainError::UnsupportedAlgorithm));
}

#[test]
fn a_certificate_that_was_changed_anywhere_is_refused() {
    let root = Ca::root("Root");
    let trust = trust(&[&root], &[]);
    let leaf = root.leaf("alice");
    for at in 0..leaf.len() {
        assert!(trust.verify(&leaf[..at], now()).is_err());
        let mut wrong = leaf.clone();
        wrong[at] ^= 0x01;
        assert!(trust.verify(&wrong, now()).is_err(), "{at}");
    }
    assert!(trust.verify(&[&leaf[..], &[0]].concat(), now()).is_err());
}

/// What a leaf with this keyUsage, and one with this SubjectPublicKeyInfo, comes to. Certificates that no
/// program makes are built here: an encoded subject, the extensions and the key are given.
pub(super) fn raw(ca: &Ca, key: &[u8], extensions: &[Vec<u8>], change: impl Fn(&mut Raw)) -> Vec<u8> {
    let mut raw = Raw {
        version: vec![0xa0, 0x03, 0x02, 0x01, 0x02],
        serial: vec![0x01],
        algorithm: algorithm(),
        issuer: Certificate::parse(&ca.der).unwrap().subject.to_vec(),
        subject: common_name(0x0c, b"alice"),
        not_before: (0x17, b"250101000000Z".to_vec()),
        extensions: extensions.concat(),
    };
    change(&mut raw);
    let (tag, not_before) = &raw.not_before;
    let validity = [der::encode(*tag, &[not_before]), der::encode(0x17, &[b"300101000000Z"])].concat();
    let list = match raw.extensions.is_empty() {
        true => Vec::new(),
        false => der::encode(0xa3, &[&der::encode(der::SEQUENCE, &[&raw.extensions])]),
    };
    let tbs = [
        raw.version,
        der::encode(der::INTEGER, &[&raw.serial]),
        raw.algorithm,
        raw.issuer,
        der::encode(der::SEQUENCE, &[&validity]),
        raw.subject,
        key.to_vec(),
        list,
    ];
    signed(&der::encode(der::SEQUENCE, &[&tbs.concat()]), &ca.key, &[])
}

pub(super) struct Raw {
    version: Vec<u8>,
    serial: Vec<u8>,
    algorithm: Vec<u8>,
    pub(super) issuer: Vec<u8>,
    subject: Vec<u8>,
    not_before: (u8, Vec<u8>),
    extensions: Vec<u8>,
}

pub(super) fn common_name(tag: u8, text: &[u8]) -> Vec<u8> {
    rdns(&[(&[0x55, 0x04, 0x03], tag, text)])
}

fn rdns(attributes: &[(&[u8], u8, &[u8])]) -> Vec<u8> {
    let rdn = |(id, tag, text): &(&[u8], u8, &[u8])| {
        let attribute = [der::encode(der::OID, &[id]), der::encode(*tag, &[text])].concat();
        der::encode(der::SET, &[&der::encode(der::SEQUENCE, &[&attribute])])
    };
    let rdns: Vec<u8> = attributes.iter().flat_map(rdn).collect();
    der::encode(der::SEQUENCE, &[&rdns])
}

/// A P-256 key as certificates have it.
pub(super) fn p256() -> Vec<u8> {
    let leaf = Ca::root("Any").leaf("any");
    Certificate::parse(&leaf).unwrap().public_key.to_vec()
}

fn refusal(trust: &Trust, leaf: &[u8]) -> Refusal {
    trust.verify(leaf, now()).expect_err("it is refused")
}

#[test]
fn a_client_s_key_may_sign() {
    let root = Ca::root("Root");
    let trusts = trust(&[&root], &[]);
    use KeyUsagePurpose::{
        ContentCommitment, DataEncipherment, DigitalSignature, KeyAgreement, KeyCertSign, KeyEncipherment,
    };
    for (usages, good) in [
        (&[][..], true),
        (&[DigitalSignature], true),
        (&[DigitalSignature, KeyEncipherment], true),
        (&[KeyEncipherment, DataEncipherment], false),
        (&[KeyAgreement], false),
        (&[ContentCommitment], false),
        (&[KeyCertSign], false),
    ] {
        let mut params = params("alice");
        params.key_usages = usages.to_vec();
        let expect = if good { Ok(&[&root][..]) } else { Err(ChainError::NotForSigning) };
        check(&trusts, &root.leaf_as(&params), expect);
    }
    // Whether it is critical does not count.
    let usage = |critical| extension(&[0x55, 0x1d, 0x0f], critical, &[0x03, 0x02, 0x05, 0x20]);
    for critical in [false, true] {
        let leaf = raw(&root, &p256(), &[usage(critical)], |_| {});
        assert_eq!(
            refusal(&trusts, &leaf).text(None),
            "its keyUsage does not allow digital signatures (extension 2.5.29.15)"
        );
    }
}

/// A SubjectPublicKeyInfo.
fn public_key(algorithm: &[&[u8]], key: &[u8]) -> Vec<u8> {
    let bits = der::encode(der::BIT_STRING, &[&[0], key]);
    der::encode(der::SEQUENCE, &[&der::encode(der::SEQUENCE, algorithm), &bits])
}

fn rsa(bits: usize, exponent: &[u8]) -> Vec<u8> {
    let mut modulus = vec![0xff; bits.div_ceil(8)];
    modulus[0] >>= modulus.len() * 8 - bits;
    let sign: &[u8] = if bits.is_multiple_of(8) { &[0] } else { &[] };
    rsa_of(&[sign, &modulus].concat(), exponent)
}

/// A key with these contents of its two INTEGERs.
fn rsa_of(modulus: &[u8], exponent: &[u8]) -> Vec<u8> {
    let numbers = [der::encode(der::INTEGER, &[modulus]), der::encode(der::INTEGER, &[exponent])].concat();
    // rsaEncryption, 1.2.840.113549.1.1.1.
    let id: &[u8] = &[0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01, 0x05, 0x00];
    public_key(&[id], &der::encode(der::SEQUENCE, &[&numbers]))
}

#[test]
fn a_client_s_key_is_long_enough_and_of_a_known_kind() {
    let root = Ca::root("Root");
    let trusts = trust(&[&root], &[]);
    let ec: &[u8] = &[0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
    let p256: &[u8] = &[0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
    // secp192r1 and secp256k1: 1.2.840.10045.3.1.1, 1.3.132.0.10.
    let p192: &[u8] = &[0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x01];
    let k256: &[u8] = &[0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x0a];
    let dsa: &[u8] = &[0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x38, 0x04, 0x01];
    let ed25519: &[u8] = &[0x06, 0x03, 0x2b, 0x65, 0x70];
    let ml_dsa_44: &[u8] = &[0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x03, 0x11];
    let point = |first: u8, len: usize| [&[first][..], &vec![1; len]].concat();
    let weak = Err(ChainError::WeakKey);
    let unsupported = Err(ChainError::UnsupportedKey);
    for (what, key, expect) in [
        ("RSA of 512 bits", rsa(512, &[3]), weak),
        ("RSA of 1024 bits", rsa(1024, &[1, 0, 1]), weak),
        ("RSA of 2047 bits", rsa(2047, &[1, 0, 1]), weak),
        ("RSA of 2048 bits", rsa(2048, &[1, 0, 1]), Ok(())),
        ("RSA of 8192 bits", rsa(8192, &[3]), Ok(())),
        ("RSA of 8193 bits", rsa(8193, &[3]), unsupported),
        ("RSA with an exponent of 1", rsa(2048, &[1]), unsupported),
        ("RSA with an even exponent", rsa(2048, &[4]), unsupported),
        ("P-256", public_key(&[ec, p256], &point(4, 64)), Ok(())),
        ("P-256, compressed", public_key(&[ec, p256], &point(2, 32)), unsupported),
        ("P-256 with half a point", public_key(&[ec, p256], &point(4, 32)), unsupported),
        ("P-192", public_key(&[ec, p192], &point(4, 48)), unsupported),
        ("secp256k1", public_key(&[ec, k256], &point(4, 64)), unsupported),
        ("parameters that are no name", public_key(&[ec, &[0x30, 0x00]], &point(4, 64)), unsupported),
        ("no parameters", public_key(&[ec], &point(4, 64)), unsupported),
        ("DSA", public_key(&[dsa], &[0x02, 0x01, 0x05]), unsupported),
        ("Ed25519", public_key(&[ed25519], &[1; 32]), Ok(())),
        ("Ed25519 of 5 octets", public_key(&[ed25519], b"abcde"), unsupported),
        ("ML-DSA-44 (FIPS 204, table 2)", public_key(&[ml_dsa_44], &[1; 1312]), Ok(())),
        ("ML-DSA-44 with the length of ML-DSA-65", public_key(&[ml_dsa_44], &[1; 1952]), unsupported),
        // X.690 8.3.2: the first nine bits of an INTEGER are not all 0.
        ("512 bits padded to 2064", rsa_of(&[&[0; 194][..], &[0xff; 64]].concat(), &[3]), unsupported),
        ("2048 bits padded by an octet", rsa_of(&[&[0; 2][..], &[0xff; 256]].concat(), &[3]), unsupported),
        ("a negative modulus", rsa_of(&[0xff; 256], &[3]), unsupported),
        ("an empty modulus", rsa_of(&[], &[3]), unsupported),
        ("an exponent of 1, padded", rsa(2048, &[0, 0, 1]), unsupported),
        ("an exponent of 3, padded", rsa(2048, &[0, 3]), unsupported),
        ("a negative exponent", rsa(2048, &[0x81]), unsupported),
    ] {
        let leaf = raw(&root, &key, &[], |_| {});
        let verdict = trusts.verify(&leaf, now()).map(|_| ()).map_err(|refusal| refusal.error);
        assert_eq!(verdict, expect, "{what}");
    }
    let text = refusal(&trusts, &raw(&root, &rsa(512, &[3]), &[], |_| {})).text(None);
    assert_eq!(
        text,
        "the key of a certificate of the path is too short (bits of the RSA key: 512, limit 2048)"
    );
    for (key, why) in [
        (rsa_of(&[&[0; 194][..], &[0xff; 64]].concat(), &[3]), "the modulus is no positive INTEGER of DER"),
        (rsa(2048, &[0, 1]), "the public exponent is no positive INTEGER of DER"),
        (rsa(2048, &[1]), "the public exponent is even, or 1"),
        (public_key(&[ec, p256], &point(3, 32)), "a compressed point"),
        (public_key(&[ec, p256], &point(4, 96)), "the point has not the length of its curve"),
        (public_key(&[ed25519], &[1; 5]), "octets of the key: 5, limit 32"),
    ] {
        let text = refusal(&trusts, &raw(&root, &key, &[], |_| {})).text(None);
        let kind = "the key of a certificate of the path is of a kind that is not accepted";
        assert_eq!(text, format!("{kind} ({why})"));
    }
    let lenient = Trust::new(Parts { rsa_bits_min: Some(1024), ..parts(&[&root], &[]) }).unwrap();
    assert!(lenient.verify(&raw(&root, &rsa(1024, &[3]), &[], |_| {}), now()).is_ok());
    assert!(lenient.verify(&raw(&root, &rsa(1023, &[3]), &[], |_| {}), now()).is_err());
}

/// RFC 5280 7.1, and whatever else names the CA: its lists.
#[test]
fn an_issuer_is_named_in_any_encoding() {
    let root = Ca::root("Contoso  Root");
    let trusts = trust(&[&root], &[]);
    for (tag, issuer) in [
        (0x13, &b"Contoso Root"[..]),
        (0x0c, b"CONTOSO root"),
        (0x13, b" contoso   ROOT "),
        (0x14, b"Contoso Root"),
        (0x1e, b"\0C\0o\0n\0t\0o\0s\0o\0 \0R\0o\0o\0t"),
    ] {
        let leaf = raw(&root, &p256(), &[], |raw| raw.issuer = common_name(tag, issuer));
        check(&trusts, &leaf, Ok(&[&root]));
    }
    for issuer in [&b"ContosoRoot"[..], b"Contoso Root 2", b""] {
        let leaf = raw(&root, &p256(), &[], |raw| raw.issuer = common_name(0x0c, issuer));
        check(&trusts, &leaf, Err(ChainError::UnknownIssuer));
    }
    let leaf = raw(&root, &p256(), &[], |raw| raw.issuer = vec![0x30, 0x00]);
    check(&trusts, &leaf, Err(ChainError::UnknownIssuer));
}

#[test]
fn a_refusal_is_told_as_what_it_is() {
    let root = Ca::root("Root");
    let trusts = trust(&[&root], &[]);
    let key = p256();
    let error = |extensions: &[Vec<u8>], change: &dyn Fn(&mut Raw)| {
        refusal(&trusts, &raw(&root, &key, extensions, change)).text(None)
    };
    assert_eq!(error(&[], &|raw| raw.version = Vec::new()), ChainError::OldVersion.text());
    assert_eq!(
        error(&[], &|raw| raw.version = vec![0xa0, 0x03, 0x02, 0x01, 0x01]),
        ChainError::OldVersion.text()
    );
    assert_eq!(
        error(&[], &|raw| raw.serial = vec![0x7f; 21]),
        "its serial number is too long (octets: 21, limit 20)"
    );
    let mut other = algorithm();
    *other.last_mut().unwrap() = 3;
    assert_eq!(error(&[], &|raw| raw.algorithm.clone_from(&other)), ChainError::AlgorithmMismatch.text());
    assert_eq!(
        error(&[extension(&[0x2b, 0x06, 0x01], true, &[0x05, 0x00])], &|_| {}),
        "it, or a CA above it, has a critical extension that is not known (extension 1.3.6.1)"
    );
    for (id, value) in [(&[0x55, 0x1d, 0x20][..], &[0x30, 0x00][..]), (&[0x55, 0x1d, 0x24], &[0x30, 0x00])] {
        let text = error(&[extension(id, false, value)], &|_| {});
        assert_eq!(text, format!("it, or a CA above it, cannot be read (extension 2.5.29.{})", id[2]));
    }
    // RFC 5280 4.1.2.5: dates before 1970 are dates.
    let good = |change: &dyn Fn(&mut Raw)| trusts.verify(&raw(&root, &key, &[], change), now()).is_ok();
    assert!(good(&|raw| raw.not_before = (0x17, b"500101000000Z".to_vec())));
    assert!(good(&|raw| raw.not_before = (0x18, b"19000101000000Z".to_vec())));
    // Numbers of either sign, of 20 octets, and unique identifiers (4.1.2.8) are no reason.
    assert!(good(&|raw| raw.serial = vec![0xff]));
    assert!(good(&|raw| raw.serial = [&[0][..], &[0xff; 20]].concat()));
}

/// What is wrong with an intermediate is told when it is configured, or by the refusal of what it issued;
/// never that its issuer is not configured.
#[test]
fn what_is_wrong_with_an_intermediate_is_told_as_what_it_is() {
    let root = Ca::root("Root");
    let key = KeyPair::generate().unwrap();
    let spki = Certificate::parse(params("x").self_signed(&key).unwrap().der()).unwrap().public_key.to_vec();
    let ca_of = |extensions: &[Vec<u8>], change: &dyn Fn(&mut Raw)| {
        let is_ca = extension(&[0x55, 0x1d, 0x13], true, &[0x30, 0x03, 0x01, 0x01, 0xff]);
        let der = raw(&root, &spki, &[&[is_ca], extensions].concat(), |raw| {
            raw.subject = common_name(0x0c, b"Issuing");
            change(raw);
        });
        Ca { der, key: copy(&key), issuer: Issuer::new(ca_params("Issuing"), copy(&key)) }
    };
    let told = |ca: &Ca| match Trust::new(parts(&[&root], &[ca])) {
        Err(error) => error.to_string(),
        Ok(trusts) => refusal(&trusts, &ca.leaf("alice")).text(None),
    };
    assert!(
        Trust::new(parts(&[&root], &[&ca_of(&[], &|_| {})]))
            .unwrap()
            .verify(&ca_of(&[], &|_| {}).leaf("a"), now())
            .is_ok()
    );
    // Its signature: by an algorithm that is not accepted, by another key, or with a name inside that is not
    // that outside.
    let by = |id: &[u8]| {
        // ecdsa-with-SHA256 in the certificate becomes another algorithm, inside and outside.
        let known = &algorithm()[2..];
        let mut der = ca_of(&[], &|_| {}).der;
        let places: Vec<usize> =
            (0..der.len() - known.len()).filter(|at| der[*at..].starts_with(known)).collect();
        places.into_iter().for_each(|at| der[at..at + known.len()].copy_from_slice(id));
        Ca { der, ..ca_of(&[], &|_| {}) }
    };
    let prefix = "intermediate 1 (CN=Issuing) ";
    for (ca, text) in [
        // ecdsa-with-SHA1, and an identifier of no algorithm, 1.2.840.10045.4.3.9.
        (
            by(&[6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 1, 2]),
            "algorithm that is not accepted (algorithm 1.2.840.10045.4.1.2)",
        ),
        (
            by(&[6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 9]),
            "algorithm that is not accepted (algorithm 1.2.840.10045.4.3.9)",
        ),
    ] {
        assert_eq!(told(&ca), format!("{prefix}cannot be used: it is signed by an {text}"));
    }
    let other = Ca { der: Ca::root("Root").ca("Issuing").der, ..ca_of(&[], &|_| {}) };
    assert_eq!(told(&other), format!("{prefix}is not issued by any configured anchor or intermediate"));
    let critical = ca_of(&[extension(&[0x2b, 0x06, 0x01], true, &[0x05, 0x00])], &|_| {});
    assert_eq!(
        told(&critical),
        format!(
            "{prefix}cannot be used: it, or a CA above it, has a critical extension that is not known (extension 1.3.6.1)"
        )
    );
    // These are told of what it issued, with its depth.
    let mut algorithm = algorithm();
    *algorithm.last_mut().unwrap() = 3;
    assert_eq!(
        told(&ca_of(&[], &|raw| raw.serial = vec![0x7f; 21])),
        "its serial number is too long (CA at depth 1; octets: 21, limit 20)"
    );
    assert_eq!(
        told(&ca_of(&[], &|raw| raw.algorithm.clone_from(&algorithm))),
        format!("{} (CA at depth 1)", ChainError::AlgorithmMismatch.text())
    );
    assert_eq!(
        told(&ca_of(&[extension(&[0x55, 0x1d, 0x24], true, &[0x30, 0x00])], &|_| {})),
        "it, or a CA above it, cannot be read (CA at depth 1; extension 2.5.29.36)"
    );
}

#[test]
fn a_ca_s_short_key_is_told_and_not_its_signature() {
    let root = Ca::root("Root");
    let short = Ca {
        der: raw(
            &root,
            &rsa(1024, &[1, 0, 1]),
            &[extension(&[0x55, 0x1d, 0x13], true, &[0x30, 0x03, 0x01, 0x01, 0xff])],
            |raw| {
                raw.subject = common_name(0x0c, b"Short");
            },
        ),
        key: copy(&root.key),
        issuer: Issuer::new(ca_params("Short"), copy(&root.key)),
    };
    let trusts = trust(&[&short], &[]);
    let closed: Vec<Option<String>> = trusts.authorities().map(Authority::closed).collect();
    let text = "the key of a certificate of the path is too short (bits of the RSA key: 1024, limit 2048)";
    assert_eq!(closed, [Some(text.to_owned())]);
    let told = refusal(&trusts, &short.leaf("alice"));
    assert_eq!((told.error, told.which, told.depth), (ChainError::WeakKey, Which::Authority(short.id()), 1));
    assert_eq!(
        told.text(Some("CN=Short")),
        "the key of a certificate of the path is too short (CA at depth 1: CN=Short; bits of the RSA key: 1024, limit 2048)"
    );
}

/// Critical extensions that are read (certificate policies and the SID), and AD CS's application policies
/// beside an extended key usage, which they have to agree with.
#[test]
fn critical_extensions_that_are_read_are_known() {
    let root = Ca::root("Root");
    let trusts = trust(&[&root], &[]);
    let policy = |id: &[u8]| {
        der::encode(der::SEQUENCE, &[&der::encode(der::SEQUENCE, &[&der::encode(der::OID, &[id])])])
    };
    let application: &[u8] = &[0x2b, 0x06, 0x01, 0x04, 0x01, 0x82, 0x37, 0x15, 0x0a];
    let usage = extension(
        &[0x55, 0x1d, 0x25],
        false,
        &der::encode(der::SEQUENCE, &[&der::encode(der::OID, &[CLIENT_AUTH])]),
    );
    let server_auth: &[u8] = &[0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, 0x01];
    let good = |extensions: &[Vec<u8>]| {
        trusts.verify(&raw(&root, &p256(), extensions, |_| {}), now()).map(|_| ()).map_err(|it| it.error)
    };
    assert_eq!(good(&[extension(&[0x55, 0x1d, 0x20], true, &policy(&[0x2a, 0x03]))]), Ok(()));
    let sid: &[u8] = &[0x2b, 0x06, 0x01, 0x04, 0x01, 0x82, 0x37, 0x19, 0x02];
    assert_eq!(good(&[extension(sid, true, &[0x30, 0x00])]), Ok(()));
    assert_eq!(good(&[usage.clone(), extension(application, true, &policy(CLIENT_AUTH))]), Ok(()));
    let wrong = Err(ChainError::NotForClientAuthentication);
    assert_eq!(good(&[usage.clone(), extension(application, true, &policy(server_auth))]), wrong);
    assert_eq!(good(&[usage, extension(application, false, &policy(server_auth))]), Ok(()));
    assert_eq!(good(&[extension(application, true, &policy(CLIENT_AUTH))]), Err(ChainError::UnknownCritical));
    // A qualifier that is not known, in a critical extension (RFC 5280 4.2.1.4).
    let qualifier = der::encode(der::SEQUENCE, &[&der::encode(der::OID, &[&[0x2a, 0x03]]), &[0x05, 0x00]]);
    let information =
        [der::encode(der::OID, &[&[0x2a, 0x03]]), der::encode(der::SEQUENCE, &[&qualifier])].concat();
    let policies = der::encode(der::SEQUENCE, &[&der::encode(der::SEQUENCE, &[&information])]);
    assert_eq!(good(&[extension(&[0x55, 0x1d, 0x20], true, &policies)]), Err(ChainError::UnknownCritical));
    assert_eq!(good(&[extension(&[0x55, 0x1d, 0x20], false, &policies)]), Ok(()));
}

/// RFC 5280 4.2.1.10 constrains emailAddress in the subject without an rfc822Name; OpenSSL does with one,
/// too, and so do we. A subjectAltName that cannot be read does not switch constraints off.
#[test]
fn names_in_the_subject_are_constrained() {
    let root = Ca::root("Root");
    let mail: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x09, 0x01];
    let mut params = ca_params("Constrained");
    params.name_constraints = Some(NameConstraints {
        permitted_subtrees: vec![GeneralSubtree::Rfc822Name("contoso.example".into())],
        excluded_subtrees: vec![],
    });
    let ca = root.ca_as(params);
    let trusts = trust(&[&root], &[&ca]);
    let named = |address: &str, alternative: &[(u8, &str)]| {
        let names: Vec<u8> =
            alternative.iter().flat_map(|(tag, text)| der::encode(*tag, &[text.as_bytes()])).collect();
        let value = der::encode(der::SEQUENCE, &[&names]);
        let extensions: &[Vec<u8>] = &[extension(&[0x55, 0x1d, 0x11], false, &value)];
        let subject = rdns(&[(&[0x55, 0x04, 0x03], 0x0c, b"x"), (mail, 0x16, address.as_bytes())]);
        raw(&ca, &p256(), if alternative.is_empty() { &[] } else { extensions }, |raw| {
            raw.subject.clone_from(&subject)
        })
    };
    let good = Ok(&[&ca, &root][..]);
    let wrong = Err(ChainError::NameConstraints);
    check(&trusts, &named("boss@contoso.example", &[]), good);
    check(&trusts, &named("boss@evil.example", &[]), wrong);
    check(&trusts, &named("boss@evil.example", &[(0x82, "www.evil.example")]), wrong);
    check(&trusts, &named("boss@evil.example", &[(0x81, "boss@contoso.example")]), wrong);
    check(&trusts, &named("boss@contoso.example", &[(0x81, "x@contoso.example")]), good);
    check(&trusts, &named("boss@contoso.example", &[(0x81, "boss@evil.example")]), wrong);
    let unreadable = raw(&ca, &p256(), &[extension(&[0x55, 0x1d, 0x11], false, &[0x30, 0x05, 0x00])], |_| {});
    assert_eq!(
        refusal(&trusts, &unreadable).text(None),
        "it, or a CA above it, cannot be read (extension 2.5.29.17)"
    );
    // Where nothing is constrained it only makes its own forms unusable.
    let unreadable =
        raw(&root, &p256(), &[extension(&[0x55, 0x1d, 0x11], false, &[0x30, 0x05, 0x00])], |_| {});
    check(&trusts, &unreadable, Ok(&[&root]));
}

/// RFC 5280 4.2.1.9: a new key of a CA, certified by its old one below a path length of 0.
#[test]
fn self_issued_certificates_do_not_count() {
    let root = Ca::root("Root");
    let mut params = ca_params("Issuing");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    let old = root.ca_as(params);
    let new = old.ca("Issuing");
    let trusts = trust(&[&root], &[&old, &new]);
    check(&trusts, &new.leaf("alice"), Ok(&[&new, &old, &root]));
    check(&trusts, &old.leaf("alice"), Ok(&[&old, &root]));
    let other = old.ca("Other");
    check(&trust(&[&root], &[&old, &other]), &other.leaf("alice"), Err(ChainError::PathLength));
}

/// An unsigned certificate with an anchor's key and key identifier.
#[test]
fn an_anchor_s_key_in_a_certificate_is_no_signature() {
    let root = Ca::root("Root");
    let trusts = trust(&[&root], &[]);
    let anchor = Certificate::parse(&root.der).unwrap();
    let stranger = Ca::root("Root");
    let identifier = der::encode(der::OCTET_STRING, &[anchor.subject_key_identifier().unwrap().unwrap()]);
    for subject in [common_name(0x0c, b"alice"), anchor.subject.to_vec()] {
        let leaf =
            raw(&stranger, anchor.public_key, &[extension(&[0x55, 0x1d, 0x0e], false, &identifier)], |raw| {
                raw.subject.clone_from(&subject);
            });
        check(&trusts, &leaf, Err(ChainError::BadSignature));
    }
}

fn reversed(mut parts: Parts) -> Parts {
    parts.anchors.reverse();
    parts.intermediates.reverse();
    parts
}

/// A bridge and a rolled-over anchor: one way is closed, another is open, and the order of the configuration
/// does not count.
#[test]
fn every_way_to_an_anchor_is_tried_in_the_same_order() {
    let (ours, theirs) = (Ca::root("Ours"), Ca::root("Theirs"));
    let bridge = ours.ca("Bridge");
    let crossed = |ca: &Ca, by: &Ca, change: &dyn Fn(&mut CertificateParams)| {
        let mut params = ca_params("Issuing");
        change(&mut params);
        let der = params.signed_by(&ca.key, &by.issuer).unwrap().der().to_vec();
        Ca { der, key: copy(&ca.key), issuer: Issuer::new(params, copy(&ca.key)) }
    };
    let direct = theirs.ca("Issuing");
    let expired = crossed(&direct, &theirs, &|params| params.not_after = date_time_ymd(2026, 1, 1));
    let through = crossed(&direct, &bridge, &|_| {});
    let leaf = direct.leaf("alice");
    for parts in
        [parts(&[&ours, &theirs], &[&expired, &bridge, &through]), parts(&[&ours], &[&bridge, &through])]
    {
        for parts in [parts.clone(), reversed(parts)] {
            check(&Trust::new(parts).unwrap(), &leaf, Ok(&[&direct, &bridge, &ours]));
        }
    }
    // Two ways are open: the shorter one counts.
    let longer = crossed(&direct, &bridge, &|params| params.not_after = date_time_ymd(2031, 1, 1));
    let open = parts(&[&ours, &theirs], &[&direct, &bridge, &longer]);
    for parts in [open.clone(), reversed(open)] {
        check(&Trust::new(parts).unwrap(), &leaf, Ok(&[&direct, &theirs]));
    }
    // Of two of one length that through the CA's certificate that is valid longest.
    let longer = crossed(&direct, &ours, &|params| params.not_after = date_time_ymd(2031, 1, 1));
    let open = parts(&[&ours, &theirs], &[&direct, &longer]);
    for parts in [open.clone(), reversed(open)] {
        check(&Trust::new(parts).unwrap(), &leaf, Ok(&[&direct, &ours]));
    }
    // All ways are closed: the reason is the same, whichever is tried first.
    let limited = crossed(&direct, &theirs, &|params| {
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth]
    });
    let closed = parts(&[&ours, &theirs], &[&expired, &limited]);
    for parts in [closed.clone(), reversed(closed)] {
        check(&Trust::new(parts).unwrap(), &leaf, Err(ChainError::NotForClientAuthentication));
    }
}

/// The inputs of single CAs (RFC 5280 6.1.1, by RFC 5937 those of an anchor) are asked for beside the general
/// ones, and add strictness alone: flags are joined, sets of policies intersected.
#[test]
fn a_ca_s_own_policy_inputs_are_asked_of_paths_through_it() {
    let (one, two): (&[u8], &[u8]) = (&[0x2a, 0x03], &[0x2a, 0x04]);
    let certified = |mut params: CertificateParams, policies: &[&[u8]]| {
        let list: Vec<u8> = policies
            .iter()
            .flat_map(|id| der::encode(der::SEQUENCE, &[&der::encode(der::OID, &[id])]))
            .collect();
        let value = der::encode(der::SEQUENCE, &[&list]);
        params.custom_extensions.push(CustomExtension::from_oid_content(&[2, 5, 29, 32], value));
        params
    };
    let (ours, theirs) = (Ca::root("Ours"), Ca::root("Theirs"));
    let issuing = ours.ca_as(certified(ca_params("Issuing"), &[one, two]));
    let leaves = |ca: &Ca| {
        [
            ca.leaf("alice"),
            ca.leaf_as(&certified(params("alice"), &[one])),
            ca.leaf_as(&certified(params("alice"), &[one, two])),
        ]
    };
    let (below_ours, below_theirs) = (leaves(&issuing), leaves(&theirs));
    let explicit = |policies: &[&[u8]]| PolicyInputs {
        initial: policies.iter().map(|id| id.to_vec()).collect(),
        require_explicit_policy: true,
        ..PolicyInputs::default()
    };
    let set = |policies: &[&[u8]]| PolicyInputs { require_explicit_policy: false, ..explicit(policies) };
    let other: &[u8] = &[0x2a, 0x05];
    // The general inputs, those of one CA, which of its three leaves pass, and which of the other anchor's.
    for (general, own, of, expect, others) in [
        (PolicyInputs::default(), PolicyInputs::default(), &ours, [true; 3], [true; 3]),
        (PolicyInputs::default(), explicit(&[]), &ours, [false, true, true], [true; 3]),
        // An intermediate's inputs are for what is below it.
        (PolicyInputs::default(), explicit(&[]), &issuing, [false, true, true], [true; 3]),
        (PolicyInputs::default(), explicit(&[two]), &ours, [false, false, true], [true; 3]),
        (PolicyInputs::default(), explicit(&[other, one]), &ours, [false, true, true], [true; 3]),
        // A set says nothing while no policy is required, as in RFC 5280 6.1.5 (g).
        (PolicyInputs::default(), set(&[other]), &ours, [true; 3], [true; 3]),
        // An entry takes nothing back, and sets are intersected.
        (explicit(&[]), PolicyInputs::default(), &ours, [false, true, true], [false, true, true]),
        (explicit(&[two]), set(&[]), &ours, [false, false, true], [false, false, true]),
        (explicit(&[one]), set(&[two]), &ours, [false; 3], [false, true, true]),
        (explicit(&[one]), set(&[two, one]), &ours, [false, true, true], [false, true, true]),
    ] {
        let trusts = Trust::new(Parts {
            policies: general.clone(),
            authority_policies: HashMap::from([(of.id(), own.clone())]),
            ..parts(&[&ours, &theirs], &[&issuing])
        });
        let trusts = trusts.unwrap();
        for (leaves, expect) in [(&below_ours, expect), (&below_theirs, others)] {
            let got = leaves.each_ref().map(|leaf| match trusts.verify(leaf, now()) {
                Ok(_) => true,
                Err(refusal) => {
                    assert_eq!(refusal.error, ChainError::NoExplicitPolicy);
                    false
                }
            });
            assert_eq!(got, expect, "{general:?} {own:?}");
        }
    }
    // anyPolicy on the whole path is every policy, but not one that two sets do not share.
    let any: &[u8] = &[0x55, 0x1d, 0x20, 0x00];
    let leaf = theirs.leaf_as(&certified(params("alice"), &[any]));
    for (own, expect) in [(set(&[one]), true), (set(&[one, two]), true), (set(&[two]), false)] {
        let trusts = Trust::new(Parts {
            policies: explicit(&[one]),
            authority_policies: HashMap::from([(theirs.id(), own)]),
            ..parts(&[&theirs], &[])
        });
        assert_eq!(trusts.unwrap().verify(&leaf, now()).is_ok(), expect);
    }
}

/// Which path is found, whose inputs count and what is told does not depend on the order of the
/// configuration: anchors, intermediates that certify each other, and CAs with inputs of their own, in orders
/// drawn at random.
#[test]
fn no_order_of_the_configuration_counts() {
    let roots: Vec<Ca> = ["A", "B", "C"].map(Ca::root).into_iter().collect();
    let bridge = roots[0].ca("Bridge");
    let issuing = roots[1].ca("Issuing");
    let mut all = parts(&roots.iter().collect::<Vec<_>>(), &[&bridge, &issuing]);
    let crossed = |name: &str, ca: &Ca, by: &Ca, year: i32| {
        let mut params = ca_params(name);
        params.not_after = date_time_ymd(year, 1, 1);
        params.signed_by(&ca.key, &by.issuer).unwrap().der().to_vec()
    };
    all.intermediates.extend([
        crossed("Issuing", &issuing, &bridge, 2031),
        crossed("Issuing", &issuing, &roots[2], 2031),
        crossed("Issuing", &issuing, &roots[2], 2029),
        crossed("Bridge", &bridge, &roots[1], 2032),
        crossed("Bridge", &bridge, &issuing, 2032),
        crossed("B", &roots[1], &roots[2], 2033),
    ]);
    let explicit = PolicyInputs { require_explicit_policy: true, ..PolicyInputs::default() };
    let leaves = [issuing.leaf("alice"), bridge.leaf("bob"), Ca::root("Issuing").leaf("mallory")];
    // Whose inputs close every way through them.
    for strict in [&[][..], &[&roots[2]], &[&roots[1], &roots[2]], &[&issuing], &[&bridge, &roots[1]]] {
        all.authority_policies = strict.iter().map(|ca| (ca.id(), explicit.clone())).collect();
        let expect = leaves.each_ref().map(|leaf| Trust::new(all.clone()).unwrap().verify(leaf, now()));
        for path in expect.iter().flatten() {
            assert!(!path.authorities.iter().any(|key| strict.iter().any(|ca| ca.id() == *key)));
        }
        assert_eq!(expect[0].is_err(), strict.iter().any(|ca| ca.id() == issuing.id()));
        assert!(expect[2].is_err());
        let mut seed = 1u64;
        for _ in 0..24 {
            // Numerical Recipes' generator: the orders differ, and are the same each time.
            let mut below = |bound: usize| {
                seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                (seed >> 33) as usize % bound
            };
            let mut shuffled = all.clone();
            for list in [&mut shuffled.anchors, &mut shuffled.intermediates] {
                (1..list.len()).for_each(|at| list.swap(at, below(at + 1)));
            }
            let trusts = Trust::new(shuffled).unwrap();
            let got = leaves.each_ref().map(|leaf| trusts.verify(leaf, now()));
            assert_eq!(got, expect);
        }
    }
}

/// CAs that certify each other in every direction, below an anchor that leads nowhere: hostile or careless,
/// the search ends.
#[test]
fn a_search_is_bounded() {
    use crate::trust::chain::PATH_CAS_MAX;
    use crate::trust::work::SIGNATURE_CHECKS_MAX;
    let root = Ca::root_as({
        let mut params = ca_params("Root");
        params.not_after = date_time_ymd(2026, 1, 1);
        params
    });
    let cas: Vec<Ca> = (0..9).map(|n| root.ca(&format!("CA {n}"))).collect();
    let mut mesh = parts(&[&root], &cas.iter().collect::<Vec<_>>());
    for ca in &cas {
        for by in cas.iter().filter(|by| by.der != ca.der) {
            let name = format!("CA {}", cas.iter().position(|it| it.der == ca.der).unwrap());
            mesh.intermediates.push(ca_params(&name).signed_by(&ca.key, &by.issuer).unwrap().der().to_vec());
        }
    }
    let trusts = Trust::new(mesh.clone()).unwrap();
    let leaf = cas[0].leaf("alice");
    let begun = std::time::Instant::now();
    let told = refusal(&trusts, &leaf);
    let took = begun.elapsed();
    assert_eq!(told.error, ChainError::TooComplex);
    assert_eq!(
        told.text(None),
        "there are too many ways from it to an anchor (CA at depth 7; comparisons: 250001, limit 250000)"
            .replace('7', &told.depth.to_string())
    );
    assert!(took < std::time::Duration::from_secs(2), "{took:?}");

    // Every path is whole, and none has the policy that is required.
    let root = Ca { der: ca_params("Root").self_signed(&root.key).unwrap().der().to_vec(), ..root };
    let mut whole = Parts { anchors: vec![root.der.clone()], ..mesh.clone() };
    whole.policies.require_explicit_policy = true;
    let begun = std::time::Instant::now();
    let told = refusal(&Trust::new(whole).unwrap(), &leaf);
    let took = begun.elapsed();
    assert_eq!(told.error, ChainError::TooComplex);
    assert!(took < std::time::Duration::from_secs(5), "{took:?}");

    // A way of four CAs through a mesh, which a search that goes deep first would not find within its bound.
    let anchor = Ca::root("Anchor");
    let (first, last) = (&cas[0], cas.last().unwrap());
    let bridge = anchor.ca("Bridge");
    let crossed = ca_params("CA 8").signed_by(&last.key, &bridge.issuer).unwrap().der().to_vec();
    let mut meshed = Parts { anchors: vec![anchor.der.clone()], ..mesh.clone() };
    meshed.intermediates.retain(|der| !cas.iter().any(|ca| ca.der == *der));
    meshed.intermediates.extend([bridge.der.clone(), crossed]);
    check(&Trust::new(meshed).unwrap(), &leaf, Ok(&[first, last, &bridge, &anchor]));

    // A path as long as is accepted, and one that is longer.
    let anchor = Ca::root("Anchor");
    let mut line = vec![anchor.ca("Line 1")];
    for n in 2..=PATH_CAS_MAX + 5 {
        line.push(line[line.len() - 1].ca(&format!("Line {n}")));
    }
    let trusts = trust(&[&anchor], &line.iter().collect::<Vec<_>>());
    assert!(trusts.verify(&line[PATH_CAS_MAX - 2].leaf("alice"), now()).is_ok());
    let told = refusal(&trusts, &line[PATH_CAS_MAX - 1].leaf("alice"));
    assert_eq!((told.error, told.depth), (ChainError::PathTooLong, 1));
    assert!(told.text(None).ends_with("(CA at depth 1; CAs: 17, limit 16)"), "{told}");

    let told = refusal(&trusts, &line[PATH_CAS_MAX + 4].leaf("alice"));
    assert_eq!(told.error, ChainError::PathTooLong);

    // Namesakes with keys of their own, of which each costs a signature.
    let twins: Vec<Ca> = (0..=SIGNATURE_CHECKS_MAX).map(|_| Ca::root("Twin")).collect();
    let trusts = trust(&twins.iter().collect::<Vec<_>>(), &[]);
    check(&trusts, &Ca::root("Twin").leaf("alice"), Err(ChainError::TooComplex));
}

#[test]
fn every_refusal_has_a_name_of_its_own() {
    let names: std::collections::BTreeSet<_> = ChainError::ALL.iter().map(|error| error.name()).collect();
    assert_eq!(names.len(), ChainError::ALL.len());
    assert!(names.iter().all(|name| name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')));
}

/// The tables for operators are made of the code's words. `make docs` writes them.
#[test]
fn the_tables_of_reasons_in_the_manual_are_those_of_the_code() {
    let path = FilePath::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/operating.md");
    let mut manual = std::fs::read_to_string(&path).unwrap();
    let chain = ChainError::ALL.map(|it| (it.name(), it.text(), it.remedy()));
    let revocation = UnknownReason::ALL.map(|it| (it.name(), it.text(), it.remedy()));
    for (name, rows) in [("path", &chain[..]), ("revocation", &revocation)] {
        let mut table = "| name | reason | what helps |\n| --- | --- | --- |\n".to_owned();
        for (name, text, remedy) in rows {
            let remedy = remedy.replace(CONFIGURATION, "the configuration");
            table += &format!("| `{name}` | {text} | {remedy} |\n");
        }
        let (begin, end) = (
            format!("<!-- reasons: {name}, by make docs -->\n"),
            format!("<!-- end of reasons: {name} -->\n"),
        );
        let (before, after) = manual.split_once(&begin).unwrap();
        let after = after.split_once(&end).unwrap().1;
        manual = [before, &begin, &table, &end, after].concat();
    }
    expect_test::expect_file![path].assert_eq(&manual);
}

#[test]
fn every_reason_of_unknown_revocation_has_a_name_of_its_own() {
    let names: std::collections::BTreeSet<_> = UnknownReason::ALL.iter().map(|why| why.name()).collect();
    assert_eq!(names.len(), UnknownReason::ALL.len());
}

/// The CA writes the distribution points, and paths are remembered.
#[test]
fn a_path_keeps_few_distribution_points() {
    let root = Ca::root("Root");
    let trust = Trust::new(parts(&[&root], &[])).unwrap();
    let points = |count: usize, len: usize| {
        let names = der::encode(0x86, &[&vec![b'a'; len]]).repeat(count);
        let point = der::encode(0x30, &[&der::encode(0xa0, &[&der::encode(0xa0, &[&names])])]);
        let mut params = params("alice");
        params
            .custom_extensions
            .push(CustomExtension::from_oid_content(&[2, 5, 29, 31], der::encode(0x30, &[&point])));
        trust.verify(&root.leaf_as(&params), now()).unwrap().links[0].distribution_points.len()
    };
    assert_eq!(points(16, 10), 16);
    assert_eq!(points(17, 10), 0);
    assert_eq!(points(1, 2000), 1);
    assert_eq!(points(1, 3000), 0);
    assert_eq!(points(30_000, 0), 0);
}
