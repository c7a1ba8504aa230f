//! Revocation lists: all that one revokes is found, and none counts that its CA did not sign.

use crate::signed::{self, CA, TWIN, element, elements, tbs};
use dtyp::FileTime;
use rcmp_service::trust::crl::{Entries, UnverifiedCrl};
use rcmp_service::trust::{RevocationReason, Serial};
use x509_parser::prelude::{CertificateRevocationList, FromDer};

/// What OpenSSL signed with the two keys.
const SIGNED_BY_CA: [&[u8]; 8] = [
    include_bytes!("../corpus/crl/delta"),
    include_bytes!("../corpus/crl/empty"),
    include_bytes!("../corpus/crl/reasons-of-entries"),
    include_bytes!("../corpus/crl/scope-users"),
    include_bytes!("../corpus/crl/scope-authorities"),
    include_bytes!("../corpus/crl/scope-relative"),
    include_bytes!("../corpus/crl/extension-not-critical"),
    include_bytes!("../corpus/crl/serials"),
];
const SIGNED_BY_TWIN: [&[u8]; 1] = [include_bytes!("../corpus/crl/signed-by-twin")];

/// Takes `bytes` apart as a CRL, and installs it.
pub fn check(bytes: &[u8]) {
    let Ok(crl) = UnverifiedCrl::parse(bytes) else { return };
    if let Ok(entries) = crl.entries() {
        // A delta list has entries that revoke nothing.
        if !crl.is_delta {
            finds_what_is_there(bytes, &entries);
        }
    }
    for (ca, other, signed) in [(CA, TWIN, &SIGNED_BY_CA[..]), (TWIN, CA, &SIGNED_BY_TWIN)] {
        let accepted = signed::trust(ca, other).install_crl(0, bytes, signed::now()).is_ok();
        let genuine = signed.iter().any(|signed| tbs(signed) == tbs(bytes));
        assert!(genuine || !accepted, "a key signed what it never saw");
        assert!(accepted || !signed.contains(&bytes), "a genuine list is refused");
    }
}

fn finds_what_is_there(bytes: &[u8], entries: &Entries) {
    let serials = serials(bytes);
    assert_eq!(entries.len(), serials.len());
    for serial in &serials {
        let serial = Serial::new(serial).expect("the list was accepted");
        assert!(entries.find(&serial).is_some(), "{serial} is revoked");
        // One bit away there is another certificate.
        let mut near = serial.contents();
        *near.last_mut().expect("a serial number has an octet") ^= 1;
        if let Some(near) = Serial::new(&near) {
            let is_revoked = serials.iter().any(|serial| **serial == near.contents());
            assert_eq!(entries.find(&near).is_some(), is_revoked, "{near}");
        }
    }
    let Ok((_, theirs)) = CertificateRevocationList::from_der(bytes) else { return };
    let theirs: Vec<_> = theirs.iter_revoked_certificates().collect();
    // Of what it does not understand it keeps nothing.
    if theirs.len() != serials.len() {
        return;
    }
    for (at, entry) in theirs.iter().enumerate() {
        assert_eq!(entry.raw_serial(), serials[at]);
        // Of two about one certificate the first counts.
        if serials[..at].contains(&serials[at]) {
            continue;
        }
        let serial = Serial::new(entry.raw_serial()).expect("the list was accepted");
        let (since, reason) = entries.find(&serial).expect("it was just found");
        assert_eq!(since, FileTime::from_unix(entry.revocation_date.timestamp()));
        if let Some((_, code)) = entry.reason_code() {
            assert_eq!(reason, RevocationReason(code.0));
        }
    }
}

/// The serial numbers of revokedCertificates, as they are encoded.
fn serials(bytes: &[u8]) -> Vec<&[u8]> {
    let mut fields = elements(element(tbs(bytes)).expect("it was read").inside);
    // version, signature, issuer, thisUpdate, nextUpdate.
    let Some(revoked) = fields.nth(5).filter(|field| field.tag == 0x30) else { return Vec::new() };
    elements(revoked.inside).map(|entry| element(entry.inside).expect("it was read").inside).collect()
}
