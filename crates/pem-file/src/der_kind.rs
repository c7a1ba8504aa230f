//! What a file in DER is that is no certificate: people have PKCS#12, requests and keys under the same names.

/// A kind of file, with what helps; `None` for what is not known.
///
/// Only as much is looked at as tells the kinds apart: the tags of the first elements, and object
/// identifiers.
pub fn of(der: &[u8]) -> Option<&'static str> {
    let (SEQUENCE, outer, []) = element(der)? else { return None };
    let (tag, first, rest) = element(outer)?;
    let (next, ..) = element(rest).unwrap_or((0, &[], &[]));
    Some(match (tag, first, next) {
        // ContentInfo (RFC 5652 3).
        (OBJECT_IDENTIFIER, SIGNED_DATA, _) => {
            "this is PKCS#7; write the certificates out of it: openssl pkcs7 -inform DER -print_certs -in FILE"
        }
        // PFX (RFC 7292 4).
        (INTEGER, [3], SEQUENCE) => {
            "this is PKCS#12; write the certificates out of it, without the key: openssl pkcs12 -in FILE -nokeys -out FILE.pem"
        }
        // PrivateKeyInfo (RFC 5958 2), RSAPrivateKey (RFC 8017 A.1.2), ECPrivateKey (RFC 5915 3).
        (INTEGER, [0 | 1], SEQUENCE | INTEGER | OCTET_STRING) => KEY,
        // EncryptedPrivateKeyInfo (RFC 5958 3).
        (SEQUENCE, _, OCTET_STRING) => KEY,
        // SubjectPublicKeyInfo (RFC 5280 4.1).
        (SEQUENCE, _, BIT_STRING) => "this is a public key, not a certificate",
        (SEQUENCE, signed, SEQUENCE) => of_signed(signed)?,
        _ => return None,
    })
}

/// The kind of what is signed like a certificate.
fn of_signed(signed: &[u8]) -> Option<&'static str> {
    let (INTEGER, version, rest) = element(signed)? else { return None };
    let (SEQUENCE, second, rest) = element(rest)? else { return None };
    let inner = element(second).map(|(tag, ..)| tag);
    let (third, fourth) = match element(rest) {
        Some((tag, _, rest)) => (tag, element(rest).map(|(tag, ..)| tag)),
        None => return None,
    };
    match (version, inner, third, fourth) {
        // CertificationRequestInfo (RFC 2986 4.1): version, subject, subjectPKInfo. A subject has sets, an
        // algorithm an identifier.
        ([0], Some(SET) | None, SEQUENCE, _) => Some(
            "this is a request for a certificate, not a certificate; a CA issues the certificate for it: openssl req -inform DER -in FILE -noout -text \
             shows what is asked for",
        ),
        // TBSCertList (RFC 5280 5.1): version, signature, issuer, thisUpdate.
        ([1], Some(OBJECT_IDENTIFIER), SEQUENCE, Some(UTC_TIME | GENERALIZED_TIME)) => {
            Some("this is a CRL, not a certificate; mapping.crls names CRLs")
        }
        _ => None,
    }
}

const KEY: &str = "this is a private key, not a certificate; its certificate is another file";

const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const OCTET_STRING: u8 = 0x04;
const OBJECT_IDENTIFIER: u8 = 0x06;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
/// 1.2.840.113549.1.7.2.
const SIGNED_DATA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x07, 0x02];

/// The first element: its tag, its contents and what follows (X.690 8.1). Of an indefinite length, as OpenSSL
/// and Windows write PKCS#12 and PKCS#7, the contents are all that follows.
fn element(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (tag, rest) = bytes.split_first()?;
    let (len, rest) = match rest {
        [0x80, rest @ ..] => (rest.len(), rest),
        rest => length(rest)?,
    };
    let (contents, rest) = rest.split_at_checked(len)?;
    Some((*tag, contents, rest))
}

/// A definite length of at most four octets, and what follows it (X.690 8.1.3).
pub(crate) fn length(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let (first, rest) = bytes.split_first()?;
    match *first {
        short @ 0..=0x7f => Some((usize::from(short), rest)),
        long @ 0x81..=0x84 => {
            let (octets, rest) = rest.split_at_checked(usize::from(long & 0x7f))?;
            Some((octets.iter().fold(0_usize, |len, octet| len << 8 | usize::from(*octet)), rest))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_part_of_a_file_is_too_short_to_be_looked_at() {
        let pfx = [0x30, 0x80, 0x02, 0x01, 0x03, 0x30, 0x80, 0x06, 0x00];
        assert!(of(&pfx).is_some_and(|text| text.contains("PKCS#12")));
        for len in 0..pfx.len() {
            let _ = of(&pfx[..len]);
        }
        for bytes in [&b"\x30\x84\xff\xff\xff\xff"[..], b"\x30\x02\x02\x05", b"\x30\x85", b"\x31\x00", b""] {
            assert_eq!(of(bytes), None);
        }
    }
}
