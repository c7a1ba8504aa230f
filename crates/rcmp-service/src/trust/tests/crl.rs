use super::*;
use crate::trust::crl::{CRL_LEN_MAX, UnverifiedCrl};
use rcgen::{
    CertificateRevocationListParams, CrlDistributionPoint, CrlIssuingDistributionPoint, CrlScope,
    CustomExtension, KeyIdMethod, KeyUsagePurpose, RevokedCertParams, SerialNumber,
};

const CRL_NUMBER: &[u8] = &[0x55, 0x1d, 0x14];
const REASON_CODE: &[u8] = &[0x55, 0x1d, 0x15];
const DELTA_CRL_INDICATOR: &[u8] = &[0x55, 0x1d, 0x1b];
const ISSUING_DISTRIBUTION_POINT: &[u8] = &[0x55, 0x1d, 0x1c];
const CERTIFICATE_ISSUER: &[u8] = &[0x55, 0x1d, 0x1d];
const UNKNOWN: &[u8] = &[0x2a, 0x03, 0x04];

/// A list as it is signed; honest unless something is changed.
#[derive(Clone)]
struct List {
    version: Vec<u8>,
    algorithm: Vec<u8>,
    this_update: &'static str,
    next_update: Option<&'static str>,
    /// Serial number and extensions.
    revoked: Vec<(Vec<u8>, Vec<u8>)>,
    extensions: Vec<Vec<u8>>,
}

impl Default for List {
    fn default() -> Self {
        Self {
            version: vec![0x02, 0x01, 0x01],
            algorithm: algorithm(),
            this_update: "260614000000Z",
            next_update: Some("260621000000Z"),
            revoked: Vec::new(),
            extensions: Vec::new(),
        }
    }
}

impl List {
    /// One that revokes these certificates.
    fn of(certificates: &[&[u8]]) -> Self {
        let revoked = certificates.iter().map(|it| (serial(it), Vec::new())).collect();
        Self { revoked, ..Self::default() }
    }

    fn numbered(self, number: u8) -> Self {
        self.with(extension(CRL_NUMBER, false, &[0x02, 0x01, number]))
    }

    fn with(mut self, extension: Vec<u8>) -> Self {
        self.extensions.push(extension);
        self
    }

    fn scoped(self, fields: &[&[u8]]) -> Self {
        self.with(extension(ISSUING_DISTRIBUTION_POINT, true, &der::encode(der::SEQUENCE, fields)))
    }

    fn sign(&self, ca: &Ca) -> Vec<u8> {
        let time = |text: &str| der::encode(der::UTC_TIME, &[text.as_bytes()]);
        let entries: Vec<u8> = self
            .revoked
            .iter()
            .flat_map(|(serial, extensions)| {
                let serial = der::encode(der::INTEGER, &[serial]);
                let extensions = match extensions.is_empty() {
                    true => Vec::new(),
                    false => der::encode(der::SEQUENCE, &[extensions]),
                };
                der::encode(der::SEQUENCE, &[&serial, &time("260101000000Z"), &extensions])
            })
            .collect();
        let entries = if entries.is_empty() { entries } else { der::encode(der::SEQUENCE, &[&entries]) };
        let extensions = match self.extensions.is_empty() {
            true => Vec::new(),
            false => der::encode(0xa0, &[&der::encode(der::SEQUENCE, &[&self.extensions.concat()])]),
        };
        let name = Certificate::parse(&ca.der).unwrap().subject;
        let tbs = der::encode(
            der::SEQUENCE,
            &[
                &self.version,
                &self.algorithm,
                name,
                &time(self.this_update),
                &self.next_update.map(time).unwrap_or_default(),
                &entries,
                &extensions,
            ],
        );
        signed(&tbs, &ca.key, &[])
    }
}

fn serial(certificate: &[u8]) -> Vec<u8> {
    Certificate::parse(certificate).unwrap().serial.to_vec()
}

/// A distribution point with this URL: `[0] { [0] { [6] } }`.
fn point(url: &str) -> Vec<u8> {
    der::encode(0xa0, &[&der::encode(0xa0, &[&der::encode(0x86, &[url.as_bytes()])])])
}

fn check(list: &List, expect: &CrlError) {
    check_with(list, expect, UnknownReason::NoCrl);
}

fn check_with(list: &List, expect: &CrlError, why: UnknownReason) {
    let root = Ca::root("Root");
    let trust = trust(&[&root], &[]);
    assert_eq!(trust.install_crl(0, &list.sign(&root), now()).as_ref(), Err(expect));
    let path = trust.verify(&root.leaf("alice"), now()).unwrap();
    assert_eq!(trust.revocation(&path, now()), unknown(Which::Leaf, why));
}

fn unknown(which: Which, why: UnknownReason) -> Revocation {
    Revocation::Unknown { which, why }
}

fn revoked(which: Which) -> Revocation {
    Revocation::Revoked { which, since: day(2026, 1, 1), reason: RevocationReason::UNSPECIFIED }
}

#[track_caller]
fn status(trust: &Trust, certificate: &[u8]) -> Revocation {
    trust.revocation(&trust.verify(certificate, now()).unwrap(), now())
}

#[test]
fn a_certificate_is_good_or_revoked_by_its_issuer_s_list() {
    let root = Ca::root("Root");
    let trust = trust(&[&root], &[]);
    let (alice, mallory) = (root.leaf("alice"), root.leaf("mallory"));
    assert_eq!(status(&trust, &alice), unknown(Which::Leaf, UnknownReason::NoCrl));
    let facts = trust.install_crl(0, &List::of(&[&mallory]).numbered(7).sign(&root), now()).unwrap();
    assert_eq!((facts.issuer.as_str(), facts.number.as_deref(), facts.entries), ("CN=Root", Some("07"), 1));
    assert_eq!((facts.this_update, facts.next_update), (day(2026, 6, 14), day(2026, 6, 21)));
    assert_eq!(status(&trust, &alice), Revocation::Good);
    assert_eq!(status(&trust, &mallory), revoked(Which::Leaf));
    assert_eq!(trust.install_crl(4, &List::default().sign(&root), now()), Err(CrlError::NoSuchSlot));
    let other = trust.install_crl(0, &List::default().numbered(9).sign(&root), now()).unwrap();
    assert_eq!((other.number.as_deref(), other.entries), (Some("09"), 0));
}

#[test]
fn a_list_of_rcgen_is_read_with_its_reasons() {
    let root = Ca::root("Root");
    let trust = trust(&[&root], &[]);
    let mallory = root.leaf("mallory");
    let entry = RevokedCertParams {
        serial_number: SerialNumber::from_slice(&serial(&mallory)),
        revocation_time: date_time_ymd(2026, 3, 1),
        reason_code: Some(rcgen::RevocationReason::KeyCompromise),
        invalidity_date: Some(date_time_ymd(2026, 2, 1)),
    };
    let list = CertificateRevocationListParams {
        this_update: date_time_ymd(2026, 6, 1),
        next_update: date_time_ymd(2026, 7, 1),
        crl_number: SerialNumber::from(1234),
        issuing_distribution_point: Some(CrlIssuingDistributionPoint {
            distribution_point: CrlDistributionPoint { uris: vec!["http://crl.example/1".to_owned()] },
            scope: Some(CrlScope::UserCertsOnly),
        }),
        revoked_certs: vec![entry],
        key_identifier_method: KeyIdMethod::Sha256,
    };
    let point = list.issuing_distribution_point.clone().unwrap().distribution_point;
    let mut partitioned = params("bob");
    partitioned.crl_distribution_points = vec![point];
    let bob = root.leaf_as(&partitioned);
    let bytes = list.signed_by(&root.issuer).unwrap().der().to_vec();
    trust.install_crl(0, &bytes, now()).unwrap();
    assert_eq!(status(&trust, &bob), Revocation::Good);
    assert_eq!(status(&trust, &mallory), unknown(Which::Leaf, UnknownReason::NotInScope));
    let everything = CertificateRevocationListParams { issuing_distribution_point: None, ..list };
    trust.install_crl(1, everything.signed_by(&root.issuer).unwrap().der(), now()).unwrap();
    let (which, since) = (Which::Leaf, day(2026, 3, 1));
    let revoked = Revocation::Revoked { which, since, reason: RevocationReason(1) };
    assert_eq!(status(&trust, &mallory), revoked);
    assert_eq!(RevocationReason(1).name(), "keyCompromise");
}

#[test]
fn the_whole_path_is_asked() {
    let root = Ca::root("Root");
    let issuing = root.ca("Issuing");
    let trust = trust(&[&root], &[&issuing]);
    let (alice, mallory) = (issuing.leaf("alice"), issuing.leaf("mallory"));
    let above = Which::Authority(issuing.id());
    trust.install_crl(0, &List::of(&[&mallory]).sign(&issuing), now()).unwrap();
    assert_eq!(status(&trust, &alice), unknown(above, UnknownReason::NoCrl));
    assert_eq!(status(&trust, &mallory), revoked(Which::Leaf));
    trust.install_crl(1, &List::default().sign(&root), now()).unwrap();
    assert_eq!(status(&trust, &alice), Revocation::Good);
    trust.install_crl(1, &List::of(&[&issuing.der]).sign(&root), now()).unwrap();
    assert_eq!(status(&trust, &alice), revoked(above));
}

#[test]
fn a_list_that_is_not_current_makes_nothing_good() {
    let root = Ca::root("Root");
    let trust = trust(&[&root], &[]);
    let path = trust.verify(&root.leaf("alice"), now()).unwrap();
    let facts = trust.install_crl(0, &List::default().sign(&root), now()).unwrap();
    let next = day(2026, 6, 21);
    assert_eq!(trust.revocation(&path, FileTime(next.0 - 1)), Revocation::Good);
    assert_eq!(trust.revocation(&path, next), unknown(Which::Leaf, UnknownReason::CrlExpired));
    let early = day(2026, 6, 13);
    assert_eq!(trust.revocation(&path, early), unknown(Which::Leaf, UnknownReason::CrlNotYetValid));
    let told = [early, FileTime(next.0 - 1), next].map(|at| (facts.is_current(at), facts.is_expired(at)));
    assert_eq!(told, [(false, false), (true, false), (false, true)]);
}

#[test]
fn a_list_must_be_current_when_it_is_installed() {
    let expired =
        List { this_update: "260601000000Z", next_update: Some("260615000000Z"), ..List::default() };
    check_with(&expired, &CrlError::Expired(day(2026, 6, 15)), UnknownReason::CrlExpired);
    check(&List { next_update: None, ..List::default() }, &CrlError::NoNextUpdate);
    let skewed = List { this_update: "260615000500Z", ..List::default() };
    let root = Ca::root("Root");
    assert!(trust(&[&root], &[]).install_crl(0, &skewed.sign(&root), now()).is_ok());
    let future = List { this_update: "260615000501Z", ..List::default() };
    let early = CrlError::NotYetValid(FileTime::from_unix(now().to_unix() + 301));
    check_with(&future, &early, UnknownReason::CrlNotYetValid);
}

/// RFC 5280 7.1: certificate, CA and list may have the CA's name in three encodings.
#[test]
fn a_list_is_its_issuer_s_in_any_encoding() {
    let root = Ca::root("Contoso Root");
    let trust = trust(&[&root], &[]);
    let leaf = super::chain::raw(&root, &super::chain::p256(), &[], |raw| {
        raw.issuer = super::chain::common_name(0x13, b"CONTOSO  ROOT");
    });
    let path = trust.verify(&leaf, now()).unwrap();
    assert_eq!(trust.revocation(&path, now()), unknown(Which::Leaf, UnknownReason::NoCrl));
    trust.install_crl(0, &List::default().sign(&root), now()).unwrap();
    assert_eq!(trust.revocation(&path, now()), Revocation::Good);
    let held = List { revoked: vec![(vec![0x01], Vec::new())], ..List::default() };
    trust.install_crl(0, &held.sign(&root), now()).unwrap();
    assert!(matches!(trust.revocation(&path, now()), Revocation::Revoked { .. }));
}

/// RFC 5280 5.2.4, as far as it is supported: what a delta list revokes is revoked, and it says nothing else.
#[test]
fn a_delta_list_only_revokes() {
    let root = Ca::root("Root");
    let trust = trust(&[&root], &[]);
    let leaf = root.leaf("alice");
    let path = trust.verify(&leaf, now()).unwrap();
    let serial = Certificate::parse(&leaf).unwrap().serial.to_vec();
    let delta = |entries: Vec<(Vec<u8>, Vec<u8>)>| {
        List { revoked: entries, ..List::default() }.with(extension(
            DELTA_CRL_INDICATOR,
            true,
            &[0x02, 0x01, 0x01],
        ))
    };
    // Without a complete CRL no certificate is known to be good.
    trust.install_crl(1, &delta(vec![]).sign(&root), now()).unwrap();
    assert_eq!(trust.revocation(&path, now()), unknown(Which::Leaf, UnknownReason::NoCrl));
    trust.install_crl(0, &List::default().sign(&root), now()).unwrap();
    assert_eq!(trust.revocation(&path, now()), Revocation::Good);
    let entry = |extensions: &[u8]| delta(vec![(serial.clone(), extensions.to_vec())]).sign(&root);
    trust.install_crl(1, &entry(&[]), now()).unwrap();
    assert!(matches!(trust.revocation(&path, now()), Revocation::Revoked { which: Which::Leaf, .. }));
    // removeFromCRL takes nothing off the complete list.
    let held = List { revoked: vec![(serial.clone(), Vec::new())], ..List::default() };
    trust.install_crl(0, &held.sign(&root), now()).unwrap();
    trust.install_crl(1, &entry(&extension(REASON_CODE, false, &[0x0a, 0x01, 0x08])), now()).unwrap();
    assert!(matches!(trust.revocation(&path, now()), Revocation::Revoked { .. }));
    // An operator who has delta lists has to keep them fresh.
    trust
        .install_crl(0, &List { next_update: Some("260701000000Z"), ..List::default() }.sign(&root), now())
        .unwrap();
    assert_eq!(trust.revocation(&path, now()), Revocation::Good);
    assert_eq!(trust.revocation(&path, day(2026, 6, 22)), unknown(Which::Leaf, UnknownReason::CrlExpired));
}

#[test]
fn lists_that_tell_half_are_refused() {
    let entry = |extensions| List { revoked: vec![(vec![0x05], extensions)], ..List::default() };
    let yes = |tag| der::encode(tag, &[&[0xff]]);
    let list = List::default;
    check(&list().scoped(&[&yes(0x84)]), &CrlError::Indirect);
    check(&entry(extension(CERTIFICATE_ISSUER, true, &[0x30, 0x00])), &CrlError::Indirect);
    check(&list().scoped(&[&[0x83, 0x02, 0x06, 0x40]]), &CrlError::OnlySomeReasons);
    check(&list().scoped(&[&yes(0x85)]), &CrlError::OnlyAttributeCertificates);
    check(&list().with(extension(UNKNOWN, true, &[0x05, 0x00])), &CrlError::UnknownCritical);
    check(&entry(extension(UNKNOWN, true, &[0x05, 0x00])), &CrlError::UnknownCritical);
    check(&entry(extension(REASON_CODE, false, &[0x0a, 0x01, 0x08])), &CrlError::RemoveFromCrl);
    check(&List { revoked: vec![(vec![0x11; 21], Vec::new())], ..list() }, &CrlError::SerialTooLong);
    check(&List { version: Vec::new(), ..list() }, &CrlError::NotV2);
    check(&List { version: vec![0x02, 0x01, 0x00], ..list() }, &CrlError::NotV2);
    // ecdsa-with-SHA384, 1.2.840.10045.4.3.3.
    let mut other = algorithm();
    *other.last_mut().unwrap() = 3;
    check(&List { algorithm: other, ..list() }, &CrlError::AlgorithmMismatch);
    for malformed in [
        list().scoped(&[&yes(0x81), &yes(0x82)]),
        list().numbered(1).numbered(1),
        list().numbered(0x80),
        list().scoped(&[]).scoped(&[]),
        list().scoped(&[&[0xa0, 0x02, 0xa1, 0x00]]),
        list().scoped(&[&[0xa0, 0x02, 0xa2, 0x00]]),
        entry(extension(REASON_CODE, false, &[0x0a, 0x01, 0x07])),
        entry(extension(REASON_CODE, false, &[0x0a, 0x01, 0x01]).repeat(2)),
        List { revoked: vec![(vec![0x00, 0x01], Vec::new())], ..list() },
    ] {
        let root = Ca::root("Root");
        let result = trust(&[&root], &[]).install_crl(0, &malformed.sign(&root), now());
        assert!(matches!(result, Err(CrlError::Malformed(_))), "{result:?}");
    }
}

#[test]
fn unknown_extensions_that_are_not_critical_are_ignored() {
    let root = Ca::root("Root");
    let trust = trust(&[&root], &[]);
    let mut list = List::of(&[&root.leaf("mallory")]).with(extension(UNKNOWN, false, &[0x05, 0x00]));
    list.revoked[0].1 = extension(UNKNOWN, false, &[0x05, 0x00]);
    assert_eq!(trust.install_crl(0, &list.sign(&root), now()).map(|facts| facts.entries), Ok(1));
}

#[test]
fn a_list_counts_only_with_the_signature_of_its_issuer_s_key() {
    let (root, namesake, other) = (Ca::root("Root"), Ca::root("Root"), Ca::root("Other"));
    let ours = trust(&[&root], &[]);
    let list = List::default();
    assert_eq!(ours.install_crl(0, &list.sign(&namesake), now()), Err(CrlError::BadSignature));
    assert_eq!(ours.install_crl(0, &list.sign(&other), now()), Err(CrlError::UnknownIssuer));
    // With both configured, each list is about its own key's certificates.
    let both = trust(&[&root, &namesake], &[]);
    let alice = root.leaf("alice");
    let facts = both.install_crl(0, &List::of(&[&alice]).sign(&namesake), now()).unwrap();
    assert_eq!(facts.authority, namesake.id());
    assert_eq!(status(&both, &alice), unknown(Which::Leaf, UnknownReason::CrlOtherKey));
    assert_eq!(both.install_crl(1, &list.sign(&root), now()).unwrap().authority, root.id());
    assert_eq!(status(&both, &alice), Revocation::Good);
}

#[test]
fn a_ca_whose_key_usage_lacks_crl_sign_signs_no_list() {
    let mut params = ca_params("Root");
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let root = Ca::root_as(params);
    let trust = trust(&[&root], &[]);
    assert_eq!(trust.install_crl(0, &List::default().sign(&root), now()), Err(CrlError::NoCrlSign));
}

#[test]
fn a_list_has_a_scope() {
    let root = Ca::root("Root");
    let issuing = root.ca("Issuing");
    let yes = |tag| der::encode(tag, &[&[0xff]]);
    let (first, second) = (point("http://crl.example/1"), point("http://crl.example/2"));
    let leaf_of = |urls: &[&str]| {
        let uris = urls.iter().map(|url| (*url).to_owned()).collect();
        let mut params = params("alice");
        params.crl_distribution_points = vec![CrlDistributionPoint { uris }];
        root.leaf_as(&params)
    };
    let one = leaf_of(&["http://crl.example/1"]);
    let both = leaf_of(&["ldap://crl.example/", "http://crl.example/2"]);
    let none = root.leaf("alice");
    let not_in_scope = |which| unknown(which, UnknownReason::NotInScope);

    let partitioned = trust(&[&root], &[]);
    partitioned
        .install_crl(0, &List::of(&[&one, &both, &none]).scoped(&[&first]).sign(&root), now())
        .unwrap();
    assert_eq!(status(&partitioned, &one), revoked(Which::Leaf));
    assert_eq!(status(&partitioned, &both), not_in_scope(Which::Leaf));
    assert_eq!(status(&partitioned, &none), not_in_scope(Which::Leaf));
    partitioned.install_crl(1, &List::default().scoped(&[&second]).sign(&root), now()).unwrap();
    assert_eq!(status(&partitioned, &both), Revocation::Good);

    let users = trust(&[&root], &[&issuing]);
    users.install_crl(0, &List::default().scoped(&[&yes(0x81)]).sign(&root), now()).unwrap();
    users.install_crl(1, &List::default().sign(&issuing), now()).unwrap();
    assert_eq!(status(&users, &none), Revocation::Good);
    assert_eq!(status(&users, &issuing.leaf("bob")), not_in_scope(Which::Authority(issuing.id())));
    users.install_crl(2, &List::default().scoped(&[&yes(0x82)]).sign(&root), now()).unwrap();
    assert_eq!(status(&users, &issuing.leaf("bob")), Revocation::Good);
}

/// A process that starts has no delta list from before.
#[test]
fn a_delta_list_that_is_not_current_at_the_start_leaves_its_scope_undecided() {
    let (root, other) = (Ca::root("Root"), Ca::root("Other"));
    let (alice, bob) = (root.leaf("alice"), other.leaf("bob"));
    let indicator = extension(DELTA_CRL_INDICATOR, true, &[0x02, 0x01, 0x01]);
    let expired =
        List { this_update: "260601000000Z", next_update: Some("260615000000Z"), ..List::default() };
    let early = List { this_update: "260616000000Z", ..List::default() };
    for (delta, error, why) in [
        (expired, CrlError::Expired(day(2026, 6, 15)), UnknownReason::CrlExpired),
        (early, CrlError::NotYetValid(day(2026, 6, 16)), UnknownReason::CrlNotYetValid),
    ] {
        let delta = delta.with(indicator.clone());
        let trust = trust(&[&root, &other], &[]);
        trust.install_crl(0, &List::default().sign(&root), now()).unwrap();
        trust.install_crl(1, &List::default().sign(&other), now()).unwrap();
        assert_eq!(status(&trust, &alice), Revocation::Good);
        for _ in 0..2 {
            assert_eq!(trust.install_crl(2, &delta.sign(&root), now()).as_ref(), Err(&error));
            assert_eq!(status(&trust, &alice), unknown(Which::Leaf, why));
            assert_eq!(trust.crl_facts(2), None, "it is none to use");
        }
        let after = self::trust(&[&root, &other], &[]);
        assert!(after.adopt_crl(0, &trust, 0) && !after.adopt_crl(2, &trust, 2));
        assert_eq!(status(&after, &alice), unknown(Which::Leaf, why), "over a reload, too");
        assert_eq!(status(&trust, &bob), Revocation::Good, "it is another CA's");
        assert!(trust.install_crl(0, &delta.sign(&root), now()).is_err());
        let current = List::of(&[&alice]).with(indicator.clone());
        trust.install_crl(2, &current.sign(&root), now()).unwrap();
        assert_eq!(status(&trust, &alice), revoked(Which::Leaf));
        // The complete list is in its place still, and so is the delta list that is current.
        assert!(trust.install_crl(2, &delta.sign(&root), now()).is_err());
        assert_eq!(status(&trust, &alice), revoked(Which::Leaf));
    }
}

#[test]
fn an_expired_list_of_another_key_is_not_kept() {
    let (root, namesake) = (Ca::root("Root"), Ca::root("Root"));
    let trust = trust(&[&root], &[]);
    let indicator = extension(DELTA_CRL_INDICATOR, true, &[0x02, 0x01, 0x01]);
    let expired =
        List { this_update: "260601000000Z", next_update: Some("260615000000Z"), ..List::default() };
    trust.install_crl(0, &List::default().sign(&root), now()).unwrap();
    assert!(trust.install_crl(1, &expired.with(indicator).sign(&namesake), now()).is_err());
    assert_eq!(trust.crl_facts(1), None);
    assert_eq!(status(&trust, &root.leaf("alice")), Revocation::Good);
}

/// A delta list that was never had may revoke anything.
#[test]
fn a_list_that_was_never_had_leaves_undecided_what_lists_say() {
    let root = Ca::root("Root");
    let strict = Parts { crls: 2, require_all_crls: true, ..parts(&[&root], &[]) };
    let trust = Trust::new(strict).unwrap();
    let (alice, mallory) = (root.leaf("alice"), root.leaf("mallory"));
    assert_eq!(status(&trust, &alice), unknown(Which::Leaf, UnknownReason::NoCrl));
    trust.install_crl(0, &List::of(&[&mallory]).sign(&root), now()).unwrap();
    assert_eq!(status(&trust, &alice), unknown(Which::Leaf, UnknownReason::CrlMissing));
    assert_eq!(status(&trust, &mallory), revoked(Which::Leaf));
    let delta = List::default().with(extension(DELTA_CRL_INDICATOR, true, &[0x02, 0x01, 0x01]));
    trust.install_crl(1, &delta.sign(&root), now()).unwrap();
    assert_eq!(status(&trust, &alice), Revocation::Good);
}

#[test]
fn any_list_in_scope_revokes() {
    let root = Ca::root("Root");
    let trust = trust(&[&root], &[]);
    let mallory = root.leaf("mallory");
    let users = der::encode(0x81, &[&[0xff]]);
    trust.install_crl(0, &List::default().sign(&root), now()).unwrap();
    trust.install_crl(1, &List::of(&[&mallory]).scoped(&[&users]).sign(&root), now()).unwrap();
    assert_eq!(status(&trust, &mallory), revoked(Which::Leaf));
}

#[test]
fn a_list_does_not_give_way_to_an_older_one() {
    let root = Ca::root("Root");
    let trust = trust(&[&root], &[]);
    let mallory = root.leaf("mallory");
    let old = List { this_update: "260613000000Z", ..List::default() };
    let install = |slot, list: &List| trust.install_crl(slot, &list.sign(&root), now()).map(|_| ());
    assert_eq!(install(0, &List::of(&[&mallory]).numbered(5)), Ok(()));
    assert_eq!(install(0, &old.clone().numbered(6)), Err(CrlError::Older));
    assert_eq!(install(0, &List::default().numbered(4)), Err(CrlError::Older));
    assert_eq!(install(1, &old), Err(CrlError::Older), "in another slot it is as old");
    assert_eq!(status(&trust, &mallory), revoked(Which::Leaf));
    assert_eq!(install(0, &List::of(&[&mallory]).numbered(5)), Ok(()), "the same again");
    let users = der::encode(0x81, &[&[0xff]]);
    assert_eq!(install(1, &old.clone().scoped(&[&users])), Ok(()), "of another scope");
    assert_eq!(install(0, &List::default().numbered(6)), Ok(()));
    assert_eq!(status(&trust, &mallory), Revocation::Good);
}

#[test]
fn a_new_configuration_takes_over_the_lists_of_its_cas() {
    let (root, other) = (Ca::root("Root"), Ca::root("Other"));
    let before = trust(&[&root, &other], &[]);
    let mallory = root.leaf("mallory");
    let list = List::of(&[&mallory]).numbered(2).sign(&root);
    let facts = before.install_crl(0, &list, now()).unwrap();
    before.install_crl(1, &List::default().sign(&other), now()).unwrap();
    let after = trust(&[&root], &[]);
    assert_eq!(after.crl_facts(3), None);
    assert!(after.adopt_crl(3, &before, 0));
    assert_eq!((facts.number.as_deref(), facts.entries), (Some("02"), 1));
    assert_eq!(after.crl_facts(3), Some(facts));
    assert_eq!(after.crl_facts(4), None);
    assert_eq!(status(&after, &mallory), revoked(Which::Leaf));
    assert_eq!(after.install_crl(3, &List::default().numbered(1).sign(&root), now()), Err(CrlError::Older));
    assert!(!after.adopt_crl(0, &before, 1), "its CA is not configured any more");
    assert!(!after.adopt_crl(0, &before, 2), "it is empty");
    assert!(!after.adopt_crl(4, &before, 0) && !after.adopt_crl(0, &before, 4), "there is no such slot");
    after.install_crl(2, &List::default().numbered(3).sign(&root), now()).unwrap();
    assert!(!after.adopt_crl(1, &before, 0), "a newer one is known");
}

#[test]
fn a_list_has_a_largest_size() {
    assert_eq!(UnverifiedCrl::parse(&vec![0; CRL_LEN_MAX + 1]).map(|_| ()), Err(CrlError::TooLarge));
}

#[test]
fn decisions_go_on_while_a_list_is_replaced() {
    let root = Ca::root("Root");
    let trust = trust(&[&root], &[]);
    let mallory = root.leaf("mallory");
    let path = trust.verify(&mallory, now()).unwrap();
    let list = List::of(&[&mallory]).sign(&root);
    trust.install_crl(0, &list, now()).unwrap();
    std::thread::scope(|scope| {
        let refresh =
            scope.spawn(|| (0..100).for_each(|_| drop(trust.install_crl(0, &list, now()).unwrap())));
        while !refresh.is_finished() {
            assert_eq!(trust.revocation(&path, now()), revoked(Which::Leaf));
        }
    });
}

#[test]
fn a_list_that_was_changed_anywhere_is_refused() {
    let root = Ca::root("Root");
    let trust = trust(&[&root], &[]);
    let reason = extension(REASON_CODE, false, &[0x0a, 0x01, 0x01]);
    let mut list = List::of(&[&root.leaf("mallory"), &root.leaf("eve")])
        .numbered(3)
        .scoped(&[&point("http://crl.example/1"), &der::encode(0x81, &[&[0xff]])]);
    list.revoked[0].1 = reason;
    let list = list.sign(&root);
    assert!(UnverifiedCrl::parse(&list).unwrap().entries().is_ok());
    for at in 0..list.len() {
        assert!(UnverifiedCrl::parse(&list[..at]).is_err());
        for value in [0x00, 0x01, 0x30, 0x7f, 0x80, 0x81, 0x84, 0xff, list[at] ^ 0x20] {
            let mut wrong = list.clone();
            wrong[at] = value;
            if let Ok(crl) = UnverifiedCrl::parse(&wrong) {
                let _ = crl.entries();
            }
            if value != list[at] {
                assert!(trust.install_crl(0, &wrong, now()).is_err(), "{at} {value:x}");
            }
        }
    }
    assert!(trust.install_crl(0, &[&list[..], &[0]].concat(), now()).is_err());
    assert!(trust.install_crl(0, &list, now()).is_ok());
}

#[test]
fn serial_numbers_of_every_length_are_found() {
    let root = Ca::root("Root");
    let serials: Vec<Vec<u8>> = [
        vec![0x01],
        vec![0x7f],
        vec![0x00, 0x80],
        vec![0x00, 0xff],
        vec![0x01, 0x00],
        vec![0x7f; 20],
        [vec![0x00], vec![0xff; 20]].concat(),
        vec![0xff],
        vec![0x80; 20],
    ]
    .into();
    let revoked = serials.iter().map(|serial| (serial.clone(), Vec::new())).collect();
    let list = List { revoked, ..List::default() }.sign(&root);
    let entries = UnverifiedCrl::parse(&list).unwrap().entries().unwrap();
    assert_eq!((entries.len(), entries.is_empty()), (serials.len(), false));
    for serial in &serials {
        assert!(entries.find(&Serial::new(serial).unwrap()).is_some(), "{serial:x?}");
    }
    for absent in [&[0x02][..], &[0x00, 0x81], &[0x7f; 19], &[0x01, 0x01]] {
        assert!(entries.find(&Serial::new(absent).unwrap()).is_none(), "{absent:x?}");
    }
}

#[test]
fn every_entry_of_a_long_list_is_found_and_no_other() {
    let root = Ca::root("Root");
    let numbers = (1u32..5_000).map(|n| n.wrapping_mul(0x9e37_79b9) >> 1 | 1 << 30);
    let serials: Vec<Vec<u8>> = numbers.map(|number| number.to_be_bytes().to_vec()).collect();
    let revoked = serials.iter().step_by(2).map(|serial| (serial.clone(), Vec::new())).collect();
    let list = List { revoked, ..List::default() }.sign(&root);
    let entries = UnverifiedCrl::parse(&list).unwrap().entries().unwrap();
    for (at, serial) in serials.iter().enumerate() {
        let found = entries.find(&Serial::new(serial).unwrap());
        assert_eq!(found.is_some(), serials.iter().step_by(2).any(|revoked| revoked == serial), "{at}");
        assert!(found.is_none_or(|(since, _)| since == day(2026, 1, 1)));
    }
}

/// The server at the address of one CRL may have that of another CA.
#[test]
fn a_list_of_another_ca_does_not_take_the_place_of_one_that_is_good() {
    let (users, other) = (Ca::root("Users"), Ca::root("Other"));
    let trust = trust(&[&users, &other], &[]);
    let (alice, mallory) = (users.leaf("alice"), users.leaf("mallory"));
    trust.install_crl(0, &List::of(&[&mallory]).sign(&users), now()).unwrap();
    assert_eq!(trust.install_crl(0, &List::default().sign(&other), now()), Err(CrlError::OtherScope));
    assert_eq!(status(&trust, &alice), Revocation::Good);
    assert_eq!(status(&trust, &mallory), revoked(Which::Leaf));
    trust.install_crl(1, &List::default().sign(&other), now()).unwrap();
}

#[test]
fn an_older_list_is_older_after_a_new_configuration_too() {
    let root = Ca::root("Root");
    let (before, after) = (trust(&[&root], &[]), trust(&[&root], &[]));
    before.install_crl(0, &List::default().numbered(2).sign(&root), now()).unwrap();
    after.remember_ages(&before);
    let older = List::default().numbered(1).sign(&root);
    assert_eq!(after.install_crl(0, &older, now()), Err(CrlError::Older));
}

/// RFC 5280 6.3.3 (f): a key for lists, which has the name of the CA and a certificate of its own.
#[test]
fn a_separate_key_signs_lists_for_the_ca_of_its_name() {
    let lists_only = |mut params: CertificateParams, is_ca: IsCa| {
        params.key_usages = vec![KeyUsagePurpose::CrlSign];
        params.is_ca = is_ca;
        params
    };
    let (root, other) = (Ca::root("Root"), Ca::root("Other"));
    let issuing = root.ca("Issuing");
    let (alice, bob) = (issuing.leaf("alice"), issuing.leaf("bob"));
    let no_key = || unknown(Which::Leaf, UnknownReason::CrlOtherKey);
    // What the signer, the anchors and the intermediates are; whether its list counts.
    let status = |signer: &Ca, anchors: &[&Ca], others: &[&Ca], root_revokes: &[&[u8]]| {
        let intermediates = [&[&issuing, signer], others].concat();
        let trust = trust(anchors, &intermediates);
        trust.install_crl(0, &List::of(root_revokes).sign(&root), now()).unwrap();
        trust.install_crl(1, &List::of(&[&bob]).sign(signer), now()).unwrap();
        (status(&trust, &alice), status(&trust, &bob))
    };
    let counts = (Revocation::Good, revoked(Which::Leaf));
    // Certified by the CA above, as a CA or not, or by the CA itself: then the CA's own list tells its
    // status.
    for is_ca in [IsCa::NoCa, IsCa::ExplicitNoCa, IsCa::Ca(BasicConstraints::Unconstrained)] {
        let signer = root.ca_as(lists_only(params("ISSUING"), is_ca));
        assert_eq!(status(&signer, &[&root], &[], &[]), counts);
        // The signer's certificate is revoked.
        assert_eq!(status(&signer, &[&root], &[], &[&signer.der]), (no_key(), no_key()));
    }
    let own = issuing.ca_as(lists_only(params("Issuing"), IsCa::NoCa));
    assert_eq!(status(&own, &[&root], &[], &[]), (no_key(), no_key()), "nothing tells its status");
    let trusts = trust(&[&root], &[&issuing, &own]);
    trusts.install_crl(0, &List::default().sign(&root), now()).unwrap();
    trusts.install_crl(1, &List::of(&[&bob]).sign(&own), now()).unwrap();
    // RFC 5280 5.2.5: a list for what is no CA's, by the CA's key, and so not for the certificates by it
    // alone.
    let point = point("http://a/own.crl");
    trusts.install_crl(2, &List::default().scoped(&[&point]).sign(&issuing), now()).unwrap();
    assert_eq!(super::crl::status(&trusts, &bob), unknown(Which::Leaf, UnknownReason::NotInScope));
    trusts.install_crl(3, &List::default().sign(&issuing), now()).unwrap();
    assert_eq!(super::crl::status(&trusts, &bob), revoked(Which::Leaf));
    assert_eq!(super::crl::status(&trusts, &alice), Revocation::Good);

    // Expired, early, of another name, below another anchor, or certified by another CA below the same
    // anchor.
    let params_of = |change: &dyn Fn(&mut CertificateParams)| {
        let mut params = lists_only(params("Issuing"), IsCa::NoCa);
        change(&mut params);
        params
    };
    for change in
        [(|params| params.not_after = date_time_ymd(2026, 6, 14)) as fn(&mut CertificateParams), |params| {
            params.not_before = date_time_ymd(2026, 6, 16)
        }]
    {
        let signer = root.ca_as(params_of(&change));
        assert_eq!(status(&signer, &[&root], &[], &[]), (no_key(), no_key()));
    }
    let stranger = other.ca_as(params_of(&|_| {}));
    assert_eq!(status(&stranger, &[&root, &other], &[], &[]), (no_key(), no_key()));
    let sibling = root.ca("Sibling");
    let impostor = sibling.ca_as(params_of(&|_| {}));
    assert_eq!(status(&impostor, &[&root], &[&sibling], &[]), (no_key(), no_key()));
    let renamed = root.ca_as(lists_only(params("Elsewhere"), IsCa::NoCa));
    let none = unknown(Which::Leaf, UnknownReason::NoCrl);
    assert_eq!(status(&renamed, &[&root], &[], &[]), (none, none));
    // A key that signs certificates, too, speaks for its own alone.
    let twin = root.ca("Issuing");
    assert_eq!(status(&twin, &[&root], &[], &[]), (no_key(), no_key()));

    // A list is kept over a new configuration, as long as the signer is in it.
    let signer = root.ca_as(params_of(&|_| {}));
    let before = trust(&[&root], &[&issuing, &signer]);
    before.install_crl(0, &List::default().sign(&signer), now()).unwrap();
    assert!(trust(&[&root], &[&issuing, &signer]).adopt_crl(0, &before, 0));
    assert!(!trust(&[&root], &[&issuing]).adopt_crl(0, &before, 0));
}

/// RFC 5280 6.3.3 (b) (2): the names of distribution points are compared as names, in whichever string type
/// and however they are told.
#[test]
fn distribution_points_are_compared_as_names() {
    let root = Ca::root("Root");
    let rdn = |id: u8, tag: u8, text: &[u8]| {
        let attribute = [der::encode(der::OID, &[&[0x55, 0x04, id]]), der::encode(tag, &[text])].concat();
        der::encode(der::SEQUENCE, &[&attribute])
    };
    let name = |rdns: &[Vec<u8>]| {
        let rdns: Vec<u8> = rdns.iter().flat_map(|rdn| der::encode(der::SET, &[rdn])).collect();
        der::encode(der::SEQUENCE, &[&rdns])
    };
    let full = |name: &[u8]| der::encode(0xa0, &[&der::encode(0xa0, &[&der::encode(0xa4, &[name])])]);
    let relative = |rdn: &[u8]| der::encode(0xa0, &[&der::encode(0xa1, &[rdn])]);
    let (utf8, printable) = (0x0c, 0x13);
    let point = |text: &[u8]| full(&name(&[rdn(3, utf8, b"Root"), rdn(11, utf8, text)]));
    for (of_leaf, of_list, covers) in [
        (point(b"Users"), point(b"Users"), true),
        (point(b"Users"), full(&name(&[rdn(3, printable, b"ROOT"), rdn(11, printable, b"  users ")])), true),
        (point(b"Users"), relative(&rdn(11, printable, b"users")), true),
        (relative(&rdn(11, utf8, b"Users")), point(b"Users"), true),
        (relative(&rdn(11, utf8, b"Users")), relative(&rdn(11, printable, b"USERS")), true),
        (relative(&rdn(11, utf8, b"Users")), relative(&rdn(10, utf8, b"Users")), false),
        (point(b"Users"), point(b"Others"), false),
        (point(b"Users"), full(&name(&[rdn(11, utf8, b"Users")])), false),
        // A URI is what its octets are.
        (super::crl::point("http://a/x.crl"), super::crl::point("http://a/X.crl"), false),
    ] {
        let mut params = params("alice");
        let value = der::encode(der::SEQUENCE, &[&der::encode(der::SEQUENCE, &[&of_leaf])]);
        params.custom_extensions.push(CustomExtension::from_oid_content(&[2, 5, 29, 31], value));
        let alice = root.leaf_as(&params);
        let trust = trust(&[&root], &[]);
        trust.install_crl(0, &List::default().scoped(&[&of_list]).sign(&root), now()).unwrap();
        let expect = match covers {
            true => Revocation::Good,
            false => unknown(Which::Leaf, UnknownReason::NotInScope),
        };
        assert_eq!(status(&trust, &alice), expect, "{of_leaf:02x?} {of_list:02x?}");
    }
}
