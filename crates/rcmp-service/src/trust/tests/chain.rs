use super::*;
use rcgen::{
    CustomExtension, ExtendedKeyUsagePurpose, GeneralSubtree, KeyUsagePurpose, NameConstraints, SanType,
};

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
fn a_ca_for_something_else_issues_nobody() {
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
    assert_eq!(refused(parts(&[&root], &[&ca])), (Configured::Intermediate(0), Unusable::NoKeyCertSign));
    assert_eq!(refused(parts(&[&ca], &[])), (Configured::Anchor(0), Unusable::NoKeyCertSign));
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

#[test]
fn every_refusal_has_a_name_of_its_own() {
    let names: std::collections::BTreeSet<_> = ChainError::ALL.iter().map(|error| error.name()).collect();
    assert_eq!(names.len(), ChainError::ALL.len());
    assert!(names.iter().all(|name| name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')));
}

/// Whoever certifies writes the distribution points, and paths are remembered.
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
