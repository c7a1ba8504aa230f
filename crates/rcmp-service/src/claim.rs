//! Which account a certificate says that it is for, by the SIDs in it: the one rule for answers that are made
//! here, by another domain and by a service that was asked.

use crate::certificate::{AlternativeName, Certificate, sids_of};
use dtyp::{DecodeError, DecodeErrorKind, Sid};

/// The account that a certificate names by SID: in the extension of [MS-WCCE] 2.2.2.7.7.4, or in a URI of the
/// subjectAltName.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SidClaim {
    /// There is no SID in the certificate.
    Absent,
    /// All SIDs in the certificate are this one.
    Account(Sid),
    /// SIDs in the certificate disagree, or one cannot be read: no account is the certificate's.
    Contradictory,
}

impl SidClaim {
    /// What a certificate says.
    pub fn of(certificate: &Certificate<'_>) -> Self {
        let (Ok(extension), Ok(alternative)) = (certificate.sid(), sids_by_uri(certificate)) else {
            return Self::Contradictory;
        };
        let mut sids = extension.into_iter().chain(alternative);
        match sids.next() {
            None => Self::Absent,
            Some(first) if sids.all(|sid| sid == first) => Self::Account(first),
            Some(_) => Self::Contradictory,
        }
    }

    /// The same of an encoded certificate. No account is that of a certificate that cannot be read.
    pub fn of_encoded(certificate: &[u8]) -> Self {
        Certificate::parse(certificate).map_or(Self::Contradictory, |certificate| Self::of(&certificate))
    }

    /// Whether the certificate may be this account's. The SID is `objectSid`: what an account was called
    /// before (`sIDHistory`) does not count.
    pub fn allows(&self, account: &Sid) -> bool {
        match self {
            Self::Absent => true,
            Self::Account(sid) => sid == account,
            Self::Contradictory => false,
        }
    }
}

/// A subjectAltName that cannot be read, or a name in it, makes only its own forms unusable, unless there may
/// be a SID in it.
fn sids_by_uri(certificate: &Certificate<'_>) -> Result<Vec<Sid>, DecodeError> {
    match certificate.alternative_names() {
        Ok(names) => {
            let is_unreadable = |name: &AlternativeName| matches!(name, AlternativeName::Unreadable(_));
            if names.iter().any(is_unreadable) && certificate.may_hide_alternative_sid(names) {
                return Err(DecodeError { what: "SID in a URI", offset: 0, kind: DecodeErrorKind::BadText });
            }
            sids_of(names.iter().filter(|name| !is_unreadable(name)))
        }
        Err(error) if certificate.may_hide_alternative_sid(&[]) => Err(error),
        Err(_) => Ok(Vec::new()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::der::{self, encode};
    use crate::test::{ALICE, unhex};

    const SID: &str = "S-1-5-21-1-2-3-1001";
    const URI: &[u8] = b"tag:microsoft.com,2022-09-14:sid:S-1-5-21-1-2-3-1001";

    /// What alice's certificate says with another subjectAltName, and without the SID extension.
    fn claim(names: &[(u8, &[u8])]) -> SidClaim {
        let names: Vec<Vec<u8>> = names.iter().map(|(tag, contents)| encode(*tag, &[contents])).collect();
        claim_of(&encode(der::SEQUENCE, &[&names.concat()]))
    }

    /// The same with these octets as the value of the extension.
    fn claim_of(subject_alt_name: &[u8]) -> SidClaim {
        let encoded = unhex(ALICE);
        let value = encode(der::OCTET_STRING, &[subject_alt_name]);
        let extension = encode(der::SEQUENCE, &[&encode(der::OID, &[&[0x55, 0x1d, 0x11]]), &value]);
        let extensions = encode(0xa3, &[&encode(der::SEQUENCE, &[&extension])]);
        let mut outer = der::Der::new(&encoded).any("Certificate").expect("it is well formed").inside();
        let mut fields = outer.any("TBSCertificate").expect("it is well formed").inside();
        let mut tbs: Vec<&[u8]> = Vec::new();
        while fields.peek().is_some_and(|tag| tag != 0xa3) {
            tbs.push(fields.any("field").expect("it is well formed").encoded);
        }
        tbs.push(&extensions);
        let tbs = encode(der::SEQUENCE, &tbs);
        SidClaim::of_encoded(&encode(der::SEQUENCE, &[&tbs, outer.rest()]))
    }

    #[test]
    fn a_sid_is_read_beside_names_that_cannot_be_read_and_hides_in_none_of_them() {
        let account = SidClaim::Account(SID.parse().expect("a SID"));
        let hidden = [b"\xff", URI].concat();
        let upper = URI.to_ascii_uppercase();
        let in_pieces = [encode(0x16, &[&URI[..12]]), encode(0x16, &[&URI[12..]])].concat();
        for (what, names, expect) in [
            ("nothing", &[][..], SidClaim::Absent),
            ("a SID", &[(0x86, URI)], account),
            ("a bad DNS name", &[(0x82, b"\xff".as_slice())], SidClaim::Absent),
            ("a SID beside a bad DNS name", &[(0x86, URI), (0x82, b"\xff")], account),
            ("a SID beside a bad mail address", &[(0x81, b"m\xfcller@x"), (0x86, URI)], account),
            ("a SID beside a URI beyond ASCII", &[(0x86, URI), (0x86, b"http://m\xfcller/")], account),
            ("a URI beyond ASCII", &[(0x86, b"http://m\xfcller/")], SidClaim::Absent),
            ("a SID in a URI beyond ASCII", &[(0x86, &hidden)], SidClaim::Contradictory),
            ("the same beside a SID", &[(0x86, URI), (0x86, &hidden)], SidClaim::Contradictory),
            ("a SID in a bad DNS name", &[(0x82, &hidden)], SidClaim::Contradictory),
            ("a SID in pieces", &[(0xa6, &in_pieces)], SidClaim::Contradictory),
            ("a SID beside a SID in pieces", &[(0x86, URI), (0xa6, &in_pieces)], SidClaim::Contradictory),
            ("a mail address in pieces", &[(0xa1, b"\x16\x01a")], SidClaim::Absent),
            ("capitals, which are no tag", &[(0x86, &upper)], SidClaim::Absent),
        ] {
            assert_eq!(claim(names), expect, "{what}");
        }
    }

    /// X.690 10.1: DER has definite lengths in the fewest octets. OpenSSL reads a SID in pieces behind each
    /// of these names.
    #[test]
    fn a_sid_in_pieces_is_not_hidden_by_what_der_cannot_tell_apart() {
        let in_pieces = encode(0xa6, &[&encode(0x16, &[&URI[..12]]), &encode(0x16, &[&URI[12..]])]);
        let sequence = |names: &[&[u8]]| encode(der::SEQUENCE, names);
        for (what, value) in [
            ("a tag of several octets", sequence(&[b"\x9f\x1f\x01a", &in_pieces])),
            ("a length in more octets than it needs", sequence(&[b"\x82\x81\x01a", &in_pieces])),
            ("an indefinite length", sequence(&[b"\xa1\x80\x16\x01a\0\0", &in_pieces])),
            ("the outer length is indefinite", [b"\x30\x80", &in_pieces[..], b"\0\0"].concat()),
            ("the outer length has a leading zero", [b"\x30\x82\0", &sequence(&[&in_pieces])[1..]].concat()),
            ("the outer tag is no SEQUENCE", encode(der::SET, &[&in_pieces])),
            ("octets behind the names", [&sequence(&[b"\xa1\x03\x16\x01a"])[..], &in_pieces].concat()),
        ] {
            assert_eq!(claim_of(&value), SidClaim::Contradictory, "{what}");
        }
        let readable = sequence(&[b"\xa1\x03\x16\x01a", b"\x82\x01a"]);
        assert_eq!(claim_of(&readable), SidClaim::Absent, "each name is told apart, and none is a URI");
    }
}
