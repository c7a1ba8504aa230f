use super::*;
use crate::trust::ocsp::{
    CertId, NONCE_LEN_MAX, OCSP_ANSWER_SECONDS_MAX, OCSP_RESPONSE_LEN_MAX, UnverifiedResponse,
};
use rcgen::{ExtendedKeyUsagePurpose, KeyUsagePurpose};
use sha1::Sha1;

const OCSP_BASIC: &[u8] = &[0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x30, 0x01, 0x01];
const OCSP_NONCE: &[u8] = &[0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x30, 0x01, 0x02];
const UNKNOWN: &[u8] = &[0x2a, 0x03, 0x04];
const GOOD: &[u8] = &[0x80, 0x00];
const NOT_KNOWN: &[u8] = &[0x82, 0x00];

/// A root with a responder, and alice.
struct Scene {
    root: Ca,
    trust: Trust,
    path: Arc<Path>,
}

impl Scene {
    fn new() -> Self {
        Self::with_signer(None)
    }

    fn with_signer(signer: Option<&Ca>) -> Self {
        Self::asking(signer, OcspAsking::default())
    }

    fn asking(signer: Option<&Ca>, asking: OcspAsking) -> Self {
        let root = Ca::root("Root");
        let responder = OcspResponder {
            authority: root.der.clone(),
            url: "http://ocsp.example/".to_owned(),
            signer: signer.map(|signer| signer.der.clone()),
            asking,
        };
        let trust = Trust::new(Parts { ocsp: vec![responder], ..parts(&[&root], &[]) }).unwrap();
        let path = trust.verify(&root.leaf("alice"), now()).unwrap();
        Self { root, trust, path }
    }

    fn question(&self, nonce: Option<Nonce>) -> OcspQuestion {
        let mut questions = self.trust.ocsp_needed(&self.path, now(), |_| nonce.clone());
        assert_eq!(questions.len(), 1);
        questions.remove(0)
    }

    fn answer(&self, response: &Response, signer: &Ca) -> Result<OcspAnswer, OcspError> {
        let question = self.question(None);
        self.trust.ocsp_answer(&question, &response.sign(&question.asked.id, signer), now())
    }

    fn revocation(&self, now: FileTime) -> Revocation {
        self.trust.revocation(&self.path, now)
    }

    /// A responder that the root certifies.
    fn responder(&self, change: impl FnOnce(&mut CertificateParams)) -> Ca {
        let mut params = params("Responder");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::OcspSigning];
        change(&mut params);
        self.root.ca_as(params)
    }
}

/// A response as it is signed; honest unless something is changed.
#[derive(Clone)]
struct Response {
    status: Vec<u8>,
    this_update: &'static str,
    next_update: Option<&'static str>,
    by_key: bool,
    single_extensions: Vec<u8>,
    extensions: Vec<u8>,
    certificates: Vec<Vec<u8>>,
    /// How often the status is told.
    times: usize,
    /// Encoded SingleResponses beside it.
    also: Vec<u8>,
}

impl Default for Response {
    fn default() -> Self {
        Self {
            status: GOOD.to_vec(),
            this_update: "20260615000000Z",
            next_update: Some("20260616000000Z"),
            by_key: false,
            single_extensions: Vec::new(),
            extensions: Vec::new(),
            certificates: Vec::new(),
            times: 1,
            also: Vec::new(),
        }
    }
}

fn time(text: &str) -> Vec<u8> {
    der::encode(der::GENERALIZED_TIME, &[text.as_bytes()])
}

/// Explicitly tagged extensions; nothing for none.
fn extensions(list: &[u8]) -> Vec<u8> {
    match list {
        [] => Vec::new(),
        list => der::encode(0xa1, &[&der::encode(der::SEQUENCE, &[list])]),
    }
}

fn nonce(nonce: &[u8]) -> Vec<u8> {
    extension(OCSP_NONCE, false, &der::encode(der::OCTET_STRING, &[nonce]))
}

impl Response {
    fn single(&self, id: &CertId) -> Vec<u8> {
        der::encode(
            der::SEQUENCE,
            &[
                &id.encode(),
                &self.status,
                &time(self.this_update),
                &self.next_update.map(|next| der::encode(0xa0, &[&time(next)])).unwrap_or_default(),
                &extensions(&self.single_extensions),
            ],
        )
    }

    fn sign(&self, id: &CertId, signer: &Ca) -> Vec<u8> {
        let single = self.single(id);
        let certificate = Certificate::parse(&signer.der).unwrap();
        let key = super::super::signature::subject_public_key(certificate.public_key).unwrap().1;
        let responder = match self.by_key {
            false => der::encode(0xa1, &[certificate.subject]),
            true => der::encode(0xa2, &[&der::encode(der::OCTET_STRING, &[&Sha1::digest(key)])]),
        };
        let data = der::encode(
            der::SEQUENCE,
            &[
                &responder,
                &time("20260615000000Z"),
                &der::encode(der::SEQUENCE, &[&single.repeat(self.times), &self.also]),
                &extensions(&self.extensions),
            ],
        );
        let certificates = match self.certificates.is_empty() {
            true => Vec::new(),
            false => der::encode(0xa0, &[&der::encode(der::SEQUENCE, &[&self.certificates.concat()])]),
        };
        let basic = signed(&data, &signer.key, &certificates);
        let bytes =
            [der::encode(der::OID, &[OCSP_BASIC]), der::encode(der::OCTET_STRING, &[&basic])].concat();
        let bytes = der::encode(0xa0, &[&der::encode(der::SEQUENCE, &[&bytes])]);
        der::encode(der::SEQUENCE, &[&[0x0a, 0x01, 0x00], &bytes])
    }

    fn by(mut self, responder: &Ca) -> Self {
        self.certificates = vec![responder.der.clone()];
        self
    }
}

fn refused(result: Result<OcspAnswer, OcspError>) -> &'static str {
    result.as_ref().map_or_else(OcspError::name, |_| "an answer")
}

#[test]
fn an_answer_of_the_ca_itself_is_believed() {
    let scene = Scene::new();
    let needed = Revocation::Unknown { which: Which::Leaf, why: UnknownReason::OcspNeeded };
    assert_eq!(scene.revocation(now()), needed);
    for by_key in [false, true] {
        let answer = scene.answer(&Response { by_key, ..Response::default() }, &scene.root).unwrap();
        assert_eq!(answer.status, OcspStatus::Good);
        assert_eq!(answer.until, FileTime::from_unix(now().to_unix() + OCSP_ANSWER_SECONDS_MAX));
        scene.trust.answers.clear();
    }
    scene.answer(&Response::default(), &scene.root).unwrap();
    assert_eq!(scene.revocation(now()), Revocation::Good);
    assert!(scene.trust.ocsp_needed(&scene.path, now(), |_| None).is_empty());
    let hour = FileTime::from_unix(now().to_unix() + 3600);
    assert_eq!(scene.revocation(hour), needed, "an answer is not remembered for longer than an hour");
    assert_eq!(scene.trust.ocsp_needed(&scene.path, hour, |_| None).len(), 1);
}

#[test]
fn revoked_and_unknown_are_told_apart() {
    let scene = Scene::new();
    let unknown = Response { status: NOT_KNOWN.to_vec(), ..Response::default() };
    assert_eq!(scene.answer(&unknown, &scene.root).unwrap().status, OcspStatus::Unknown);
    let why = UnknownReason::OcspUnknown;
    assert_eq!(scene.revocation(now()), Revocation::Unknown { which: Which::Leaf, why });

    let scene = Scene::new();
    let reason = der::encode(0xa0, &[&[0x0a, 0x01, 0x04]]);
    let status = der::encode(0xa1, &[&time("20260601000000Z"), &reason]);
    scene.answer(&Response { status, ..Response::default() }, &scene.root).unwrap();
    let (which, since) = (Which::Leaf, day(2026, 6, 1));
    assert_eq!(scene.revocation(now()), Revocation::Revoked { which, since, reason: RevocationReason(4) });
}

#[test]
fn an_answer_of_whom_the_ca_certified_is_believed() {
    for change in [(|_| {}) as fn(&mut CertificateParams), |params| {
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature]
    }] {
        let scene = Scene::new();
        let responder = scene.responder(change);
        assert!(scene.answer(&Response::default().by(&responder), &responder).is_ok());
        assert_eq!(scene.revocation(now()), Revocation::Good);
    }
}

#[test]
fn no_other_responder_answers() {
    let scene = Scene::new();
    for (change, expect) in [
        ((|params| params.extended_key_usages.clear()) as fn(&mut CertificateParams), "not for OCSP"),
        (|params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::Any], "any is not OCSP"),
        (|params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth], "a client"),
        (|params| params.not_after = date_time_ymd(2026, 1, 1), "expired"),
        (|params| params.not_before = date_time_ymd(2027, 1, 1), "early"),
        (|params| params.key_usages = vec![KeyUsagePurpose::KeyEncipherment], "wrong key usage"),
    ] {
        let responder = scene.responder(change);
        let result = scene.answer(&Response::default().by(&responder), &responder);
        assert_eq!(refused(result), "bad_signer", "{expect}");
    }
    let stranger = Ca::root("Root").ca_as({
        let mut params = params("Responder");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::OcspSigning];
        params
    });
    let namesake = Ca::root("Root");
    let good = Response::default();
    assert_eq!(refused(scene.answer(&good, &namesake)), "bad_signature");
    assert_eq!(refused(scene.answer(&good, &Ca::root("Other"))), "unknown_signer");
    // A responder that an intermediate certified does not answer for the root.
    let below = scene.root.ca("Issuing").ca_as({
        let mut params = params("Responder");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::OcspSigning];
        params
    });
    for other in [&stranger, &below] {
        let error = scene.answer(&good.clone().by(other), other).unwrap_err();
        assert_eq!(error.name(), "bad_signer");
        assert_eq!(
            error.to_string(),
            "the certificate of the OCSP responder is of no use: it was not issued by the CA that is asked about"
        );
    }
}

#[test]
fn a_configured_signer_is_believed_within_its_dates() {
    let signer = Ca::root_as(params("Signer"));
    let scene = Scene::with_signer(Some(&signer));
    assert!(scene.answer(&Response::default(), &signer).is_ok());
    let mut expired = params("Signer");
    expired.not_after = date_time_ymd(2026, 1, 1);
    let signer = Ca::root_as(expired);
    let scene = Scene::with_signer(Some(&signer));
    assert_eq!(refused(scene.answer(&Response::default(), &signer)), "bad_signer");
}

#[test]
fn an_answer_is_about_the_certificate_that_was_asked() {
    let scene = Scene::new();
    let question = scene.question(None);
    let sign = |change: fn(&mut CertId)| {
        let mut id = question.asked.id.clone();
        change(&mut id);
        scene.trust.ocsp_answer(&question, &Response::default().sign(&id, &scene.root), now())
    };
    assert_eq!(refused(sign(|id| id.issuer_name_hash[0] ^= 1)), "other_certificate");
    assert_eq!(refused(sign(|id| id.issuer_key_hash[0] ^= 1)), "other_certificate");
    assert_eq!(refused(sign(|id| id.serial = Serial::new(&[5]).unwrap())), "other_certificate");
    let twice = Response { times: 2, ..Response::default() };
    assert_eq!(refused(scene.answer(&twice, &scene.root)), "ambiguous");
    assert_eq!(refused(sign(|_| {})), "an answer");
}

/// RFC 6960 4.1.1: issuerNameHash is of the name in the certificate that is asked about, not of the CA's own
/// encoding.
#[test]
fn the_issuer_is_named_as_the_certificate_names_it() {
    let mut scene = Scene::new();
    let issuer = super::chain::common_name(0x13, b"ROOT");
    let leaf =
        super::chain::raw(&scene.root, &super::chain::p256(), &[], |raw| raw.issuer.clone_from(&issuer));
    scene.path = scene.trust.verify(&leaf, now()).unwrap();
    let question = scene.question(None);
    let hash = Sha1::digest(&issuer);
    assert_eq!(question.asked.id.issuer_name_hash, hash[..]);
    assert!(question.request.windows(hash.len()).any(|bytes| *bytes == hash[..]));
}

/// The responder's name is compared by RFC 5280 7.1, and its signature tells whether it is the one.
#[test]
fn a_responder_is_named_in_any_encoding() {
    let scene = Scene::new();
    let question = scene.question(None);
    let mut named = scene.root.der.clone();
    let name = Certificate::parse(&scene.root.der).unwrap().subject.to_vec();
    let at = |der: &[u8]| der.windows(name.len()).rposition(|bytes| bytes == name).unwrap();
    // The same name in a certificate to copy it from, with another string type and case.
    let other = super::chain::common_name(0x13, b"rOOT");
    assert_eq!(other.len(), name.len());
    let start = at(&named);
    named[start..start + name.len()].copy_from_slice(&other);
    let by = |ca: &Ca| Ca {
        der: named.clone(),
        key: copy(&ca.key),
        issuer: Issuer::new(ca_params("Root"), copy(&ca.key)),
    };
    let answer = |ca: &Ca| {
        refused(scene.trust.ocsp_answer(
            &question,
            &Response::default().sign(&question.asked.id, &by(ca)),
            now(),
        ))
    };
    assert_eq!(answer(&scene.root), "an answer");
    assert_eq!(answer(&Ca::root("Root")), "bad_signature");
}

#[test]
fn a_nonce_comes_back_or_is_left_out() {
    let scene = Scene::new();
    let answer = |asked: Option<Nonce>, told: Option<Nonce>| {
        scene.trust.answers.clear();
        let question = scene.question(asked);
        let extensions = told.map_or_else(Vec::new, |told| nonce(&told));
        let response = Response { extensions, ..Response::default() };
        refused(scene.trust.ocsp_answer(&question, &response.sign(&question.asked.id, &scene.root), now()))
    };
    let (one, two) = (|| Some(vec![1; 32]), || Some(vec![2; 32]));
    assert_eq!(answer(one(), one()), "an answer");
    assert_eq!(answer(one(), None), "an answer");
    assert_eq!(answer(one(), two()), "other_nonce");
    assert_eq!(answer(None, two()), "other_nonce");
}

#[test]
fn an_answer_is_current() {
    let answer = |this_update, next_update| {
        let scene = Scene::new();
        let answer = scene.answer(&Response { this_update, next_update, ..Response::default() }, &scene.root);
        answer.map(|answer| answer.until.to_unix() - now().to_unix()).map_err(|error| error.name())
    };
    assert_eq!(answer("20260614230000Z", Some("20260615000100Z")), Ok(360));
    assert_eq!(answer("20260614230000Z", Some("20260614235501Z")), Ok(1));
    assert_eq!(answer("20260614230000Z", Some("20260614235500Z")), Err("expired"));
    assert_eq!(answer("20260615000500Z", Some("20260616000000Z")), Ok(3600));
    assert_eq!(answer("20260615000501Z", Some("20260616000000Z")), Err("not_yet_valid"));
    assert_eq!(answer("20260615000000Z", None), Ok(600));
    assert_eq!(answer("20260615000500Z", None), Ok(600));
    assert_eq!(answer("20260614235001Z", None), Ok(1));
    assert_eq!(answer("20260614235000Z", None), Err("expired"));
}

#[test]
fn an_answer_counts_no_longer_than_its_signer() {
    let scene = Scene::new();
    let responder = scene.responder(|params| params.not_after = date_time_ymd(2026, 6, 15));
    let answer = scene.answer(&Response::default().by(&responder), &responder).unwrap();
    assert_eq!(answer.until, now());
    assert_ne!(scene.revocation(now()), Revocation::Good);
}

#[test]
fn an_older_answer_does_not_replace_a_newer_one() {
    let scene = Scene::new();
    let question = scene.question(None);
    let old = Response { this_update: "20260614235959Z", ..Response::default() };
    let revoked = Response { status: der::encode(0xa1, &[&time("20260601000000Z")]), ..Response::default() };
    let answer = |response: &Response| {
        refused(scene.trust.ocsp_answer(&question, &response.sign(&question.asked.id, &scene.root), now()))
    };
    assert_eq!(answer(&revoked), "an answer");
    assert_eq!(answer(&old), "older");
    assert!(matches!(scene.revocation(now()), Revocation::Revoked { .. }));
}

#[test]
fn critical_extensions_must_be_known() {
    let scene = Scene::new();
    let critical = extension(UNKNOWN, true, &[0x05, 0x00]);
    let response = Response { extensions: critical.clone(), ..Response::default() };
    assert_eq!(refused(scene.answer(&response, &scene.root)), "unknown_critical");
    let response = Response { single_extensions: critical, ..Response::default() };
    assert_eq!(refused(scene.answer(&response, &scene.root)), "unknown_critical");
    let other = extension(UNKNOWN, false, &[0x05, 0x00]);
    let response = Response { single_extensions: other.clone(), extensions: other, ..Response::default() };
    assert_eq!(refused(scene.answer(&response, &scene.root)), "an answer");
}

#[test]
fn a_responder_may_refuse() {
    let scene = Scene::new();
    let question = scene.question(None);
    for (response, expect) in [
        (&[0x30, 0x03, 0x0a, 0x01, 0x03][..], "not_successful"),
        (&[0x30, 0x03, 0x0a, 0x01, 0x00], "malformed"),
        (&[0x30, 0x00], "malformed"),
        (&vec![0; OCSP_RESPONSE_LEN_MAX + 1], "too_large"),
    ] {
        assert_eq!(refused(scene.trust.ocsp_answer(&question, response, now())), expect);
    }
    let error = scene.trust.ocsp_answer(&question, &[0x30, 0x03, 0x0a, 0x01, 0x03], now()).unwrap_err();
    assert_eq!(error.to_string(), "the OCSP responder refuses with tryLater");
    let elsewhere = trust(&[&scene.root], &[]);
    assert_eq!(refused(elsewhere.ocsp_answer(&question, &[], now())), "not_asked");
}

#[test]
fn one_good_word_is_enough_and_one_bad_word_too() {
    let (good, revoked) = (GOOD.to_vec(), der::encode(0xa1, &[&time("20260601000000Z")]));
    for (crl_revokes, status) in [(false, &revoked), (true, &good)] {
        let scene = Scene::new();
        scene.answer(&Response { status: status.clone(), ..Response::default() }, &scene.root).unwrap();
        let mut list = rcgen::CertificateRevocationListParams {
            this_update: date_time_ymd(2026, 6, 1),
            next_update: date_time_ymd(2026, 7, 1),
            crl_number: 1.into(),
            issuing_distribution_point: None,
            revoked_certs: Vec::new(),
            key_identifier_method: rcgen::KeyIdMethod::Sha256,
        };
        if crl_revokes {
            list.revoked_certs.push(rcgen::RevokedCertParams {
                serial_number: rcgen::SerialNumber::from_slice(&scene.path.links[0].serial.contents()),
                revocation_time: date_time_ymd(2026, 6, 1),
                reason_code: None,
                invalidity_date: None,
            });
        }
        let list = list.signed_by(&scene.root.issuer).unwrap();
        scene.trust.install_crl(0, list.der(), now()).unwrap();
        assert!(matches!(scene.revocation(now()), Revocation::Revoked { .. }), "{crl_revokes}");
        if !crl_revokes {
            scene.trust.answers.clear();
            assert_eq!(scene.revocation(now()), Revocation::Good);
            assert!(scene.trust.ocsp_needed(&scene.path, now(), |_| None).is_empty());
        }
    }
}

#[test]
fn a_responder_is_of_a_configured_ca() {
    let (root, other) = (Ca::root("Root"), Ca::root("Other"));
    let responder = |ca: &Ca| OcspResponder {
        authority: ca.der.clone(),
        url: String::new(),
        signer: None,
        asking: OcspAsking::default(),
    };
    let new = |ocsp| match Trust::new(Parts { ocsp, ..parts(&[&root], &[]) }) {
        Err(TrustError::Certificate { which, why, .. }) => Some((which, why)),
        _ => None,
    };
    assert_eq!(new(vec![responder(&root)]), None);
    let at = Configured::OcspAuthority;
    assert_eq!(new(vec![responder(&other)]), Some((at(0), Unusable::NotConfigured)));
    assert_eq!(new(vec![responder(&root), responder(&root)]), Some((at(1), Unusable::Duplicate)));
    let signer = OcspResponder { signer: Some(vec![0x30]), ..responder(&root) };
    assert!(matches!(new(vec![signer]), Some((Configured::OcspSigner(0), Unusable::Malformed(_)))));
}

#[test]
fn a_response_that_was_changed_anywhere_says_nothing_new() {
    let scene = Scene::new();
    let responder = scene.responder(|_| {});
    let question = scene.question(Some(vec![7; 32]));
    let response = Response { extensions: nonce(&[7; 32]), ..Response::default() }.by(&responder);
    let response = response.sign(&question.asked.id, &responder);
    for at in 0..response.len() {
        assert!(UnverifiedResponse::parse(&response[..at]).is_err(), "{at}");
        for value in [0x00, 0x01, 0x30, 0x7f, 0x80, 0x81, 0x84, 0xff, response[at] ^ 0x20] {
            let mut wrong = response.clone();
            wrong[at] = value;
            if let Ok(answer) = scene.trust.ocsp_answer(&question, &wrong, now()) {
                assert_eq!(answer.status, OcspStatus::Good);
                assert_eq!(value, response[at], "{at}");
            }
        }
    }
    assert!(UnverifiedResponse::parse(&[&response[..], &[0]].concat()).is_err());
    assert!(scene.trust.ocsp_answer(&question, &response, now()).is_ok());
}

/// RFC 6960 4.1.1: a CertID has the hash that it names.
#[test]
fn either_hash_names_the_certificate() {
    let name = |scene: &Scene| Certificate::parse(&scene.root.der).unwrap().subject.to_vec();
    for hash in [CertIdHash::Sha1, CertIdHash::Sha256] {
        let scene = Scene::asking(None, OcspAsking { hash, ..OcspAsking::default() });
        let question = scene.question(None);
        let digest = match hash {
            CertIdHash::Sha1 => Sha1::digest(name(&scene)).to_vec(),
            CertIdHash::Sha256 => Sha256::digest(name(&scene)).to_vec(),
        };
        assert_eq!(question.asked.id.issuer_name_hash, digest);
        assert!(question.request.windows(digest.len()).any(|bytes| bytes == digest));
        let answer = |response: &Response, id: &CertId| {
            scene.trust.answers.clear();
            refused(scene.trust.ocsp_answer(&question, &response.sign(id, &scene.root), now()))
        };
        let (asked, same) = (&question.asked.id, &question.asked.same);
        let good = Response::default();
        let revoked = Response { status: der::encode(0xa1, &[&time("20260601000000Z")]), ..good.clone() };
        assert_eq!(answer(&good, asked), "an answer");
        assert_eq!(answer(&good, same), "an answer");
        assert_eq!(answer(&Response { also: good.single(same), ..good.clone() }, asked), "an answer");
        assert_eq!(answer(&Response { also: revoked.single(same), ..good.clone() }, asked), "ambiguous");
        assert_eq!(answer(&Response { also: good.single(asked), ..good.clone() }, asked), "ambiguous");
        // The hashes of one algorithm under the name of the other.
        let mixed = CertId { hash: same.hash, ..asked.clone() };
        assert_eq!(answer(&good, &mixed), "other_certificate");
    }
}

/// RFC 9654 has nonces of 1 to 128 octets; responders before it refuse long ones, and some refuse all.
#[test]
fn a_refused_question_is_asked_again_in_another_way() {
    let ways = |asking: OcspAsking, status: u8| {
        let scene = Scene::asking(None, asking);
        let mut drawn = 0;
        let mut questions = scene.trust.ocsp_needed(&scene.path, now(), |len| {
            drawn = len;
            Some(vec![0x5a; len])
        });
        assert_eq!(drawn, asking.nonce_len);
        let mut question = Some(questions.remove(0));
        let mut ways = Vec::new();
        while let Some(asked) = question {
            let len = asked.asked.nonce.as_ref().map_or(0, Vec::len);
            // The request says what is expected of the answer.
            let nonce = der::encode(der::OCTET_STRING, &[&vec![0x5a; len]]);
            let is_there = asked.request.windows(nonce.len()).any(|bytes| bytes == nonce);
            assert_eq!(is_there, len > 0);
            assert_eq!(asked.has_nonce(), len > 0);
            ways.push((len, asked.asked.id.hash));
            question = asked.again(&OcspError::NotSuccessful(status));
        }
        ways
    };
    use CertIdHash::{Sha1, Sha256};
    let standard = OcspAsking::default();
    // malformedRequest, internalError.
    for status in [1, 2] {
        assert_eq!(ways(standard, status), [(32, Sha1), (16, Sha1), (0, Sha1), (0, Sha256)]);
    }
    let long = OcspAsking { nonce_len: NONCE_LEN_MAX, hash: Sha256, ..standard };
    assert_eq!(ways(long, 1), [(128, Sha256), (16, Sha256), (0, Sha256), (0, Sha1)]);
    let short = OcspAsking { nonce_len: 1, ..standard };
    assert_eq!(ways(short, 1), [(1, Sha1), (0, Sha1), (0, Sha256)]);
    let none = OcspAsking { nonce_len: 0, ..standard };
    assert_eq!(ways(none, 1), [(0, Sha1), (0, Sha256)]);
    let required = OcspAsking { nonce_required: true, ..standard };
    assert_eq!(ways(required, 1), [(32, Sha1), (16, Sha1), (16, Sha256)]);
    // unauthorized is about the certificate; tryLater and sigRequired are about neither.
    assert_eq!(ways(standard, 6), [(32, Sha1), (32, Sha256)]);
    for status in [3, 5, 4, 200] {
        assert_eq!(ways(standard, status), [(32, Sha1)]);
    }
    let scene = Scene::new();
    for error in
        [OcspError::BadSignature, OcspError::OtherNonce, OcspError::TooLarge, OcspError::UnknownSigner]
    {
        assert_eq!(scene.question(Some(vec![0; 32])).again(&error), None, "{error}");
    }
}

#[test]
fn a_required_nonce_is_in_every_answer() {
    let scene = Scene::asking(None, OcspAsking { nonce_required: true, ..OcspAsking::default() });
    let answer = |asked: Option<Nonce>, told: Option<Nonce>| {
        scene.trust.answers.clear();
        let question = scene.question(asked);
        let extensions = told.map_or_else(Vec::new, |told| nonce(&told));
        let response = Response { extensions, ..Response::default() };
        let answer =
            scene.trust.ocsp_answer(&question, &response.sign(&question.asked.id, &scene.root), now());
        answer.map(|answer| answer.has_nonce).map_err(|error| error.name())
    };
    for len in [1, 16, 32, NONCE_LEN_MAX] {
        assert_eq!(answer(Some(vec![1; len]), Some(vec![1; len])), Ok(true));
    }
    assert_eq!(answer(Some(vec![1; 32]), None), Err("no_nonce"));
    assert_eq!(answer(Some(vec![1; 32]), Some(vec![1; 16])), Err("other_nonce"));
    assert_eq!(answer(Some(vec![1; 32]), Some(vec![])), Err("other_nonce"));
    // Where no random octets are to be had.
    assert_eq!(answer(None, None), Err("no_nonce"));
}

#[test]
fn what_came_of_a_question_is_told() {
    let scene = Scene::new();
    let question = scene.question(None);
    let unknown = |why| Revocation::Unknown { which: Which::Leaf, why };
    let failure = || scene.trust.ocsp_failure(&scene.path, Which::Leaf).map(|text| text.to_string());
    assert_eq!((scene.revocation(now()), failure()), (unknown(UnknownReason::OcspNeeded), None));
    scene.trust.ocsp_failed(&question, false, "no answer within 3 s");
    assert_eq!(scene.revocation(now()), unknown(UnknownReason::OcspNoAnswer));
    scene.trust.ocsp_failed(&question, true, "the OCSP responder refuses with tryLater");
    assert_eq!(scene.revocation(now()), unknown(UnknownReason::OcspNotAccepted));
    assert_eq!(failure().as_deref(), Some("the OCSP responder refuses with tryLater"));
    // It is asked again, and an answer is all that counts then.
    let question = scene.question(None);
    let response = Response::default().sign(&question.asked.id, &scene.root);
    scene.trust.ocsp_answer(&question, &response, now()).unwrap();
    assert_eq!((scene.revocation(now()), failure()), (Revocation::Good, None));
}
