//! OCSP responses: none is believed but what was signed for us.

use crate::signed::{self, CA, LEAF_OF_CA, LEAF_OF_TWIN, TWIN, element, elements, tbs};
use rcmp_service::trust::ocsp::UnverifiedResponse;
use rcmp_service::trust::{OcspStatus, RevocationReason};

/// What OpenSSL answered, and what that means.
const SIGNED_FOR_CA: [(&[u8], Option<OcspStatus>); 8] = [
    (include_bytes!("../corpus/ocsp/good"), Some(OcspStatus::Good)),
    (include_bytes!("../corpus/ocsp/good-by-key"), Some(OcspStatus::Good)),
    (include_bytes!("../corpus/ocsp/without-next-update"), Some(OcspStatus::Good)),
    (include_bytes!("../corpus/ocsp/two-certificates"), Some(OcspStatus::Good)),
    (include_bytes!("../corpus/ocsp/delegated"), Some(OcspStatus::Good)),
    (include_bytes!("../corpus/ocsp/unknown"), Some(OcspStatus::Unknown)),
    // Its time of revocation is looked at below.
    (include_bytes!("../corpus/ocsp/revoked"), None),
    // It can be believed with a certificate beside it.
    (include_bytes!("../corpus/ocsp/delegated-without-certificate"), None),
];
const SIGNED_FOR_TWIN: [(&[u8], Option<OcspStatus>); 1] =
    [(include_bytes!("../corpus/ocsp/signed-by-twin"), Some(OcspStatus::Good))];

/// keyCompromise.
const REVOKED_FOR: RevocationReason = RevocationReason(1);

/// Takes `bytes` apart as a response, and believes it if it is to be believed.
pub fn check(bytes: &[u8]) {
    if UnverifiedResponse::parse(bytes).is_err() {
        return;
    }
    let of_ca = (CA, TWIN, LEAF_OF_CA, &SIGNED_FOR_CA[..]);
    let of_twin = (TWIN, CA, LEAF_OF_TWIN, &SIGNED_FOR_TWIN[..]);
    for (ca, other, leaf, signed) in [of_ca, of_twin] {
        let (trust, now) = (signed::trust(ca, other), signed::now());
        let path = trust.verify(leaf, now).expect("the CA issued it");
        let questions = trust.ocsp_needed(&path, now, |_| None);
        let [question] = &questions[..] else { panic!("there is one certificate to ask about") };
        let answer = trust.ocsp_answer(question, bytes, now);
        let genuine = signed.iter().find(|(signed, _)| tbs(basic(signed)) == tbs(basic(bytes)));
        match (&answer, genuine) {
            (Ok(answer), Some((_, status))) => match (answer.status, status) {
                (status, Some(expected)) => assert_eq!(status, *expected),
                (OcspStatus::Revoked { reason, .. }, None) => assert_eq!(reason, REVOKED_FOR),
                (OcspStatus::Good, None) => {}
                (OcspStatus::Unknown, None) => panic!("no answer said so"),
            },
            (Ok(_), None) => panic!("a key signed what it never saw"),
            (Err(error), _) => {
                let expected = signed.iter().any(|(signed, status)| *signed == bytes && status.is_some());
                assert!(!expected, "a genuine answer is refused: {error}");
            }
        }
        assert_eq!(trust.is_answered(question, now), answer.is_ok());
    }
}

/// The BasicOCSPResponse of a successful response.
fn basic(response: &[u8]) -> &[u8] {
    let inside = |bytes| element(bytes).expect("it was read").inside;
    let explicit = elements(inside(response)).nth(1).expect("it is successful").inside;
    elements(inside(explicit)).nth(1).expect("it has a type and a response").inside
}
