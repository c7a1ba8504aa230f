//! Which account a certificate says that it is for, by the SIDs in it: the one rule for answers that are made here, by another domain
//! and by a service that was asked.

use crate::certificate::{Certificate, sids_of};
use dtyp::Sid;

/// The account that a certificate names by SID: in the extension of [MS-WCCE] 2.2.2.7.7.4, or in a URI of the subjectAltName.
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

    /// Whether the certificate may be this account's. The SID is `objectSid`: what an account was called before (`sIDHistory`) does
    /// not count.
    pub fn allows(&self, account: &Sid) -> bool {
        match self {
            Self::Absent => true,
            Self::Account(sid) => sid == account,
            Self::Contradictory => false,
        }
    }
}

/// A subjectAltName that cannot be read makes only its own method unusable, unless there may be a SID in it.
fn sids_by_uri(certificate: &Certificate<'_>) -> Result<Vec<Sid>, dtyp::DecodeError> {
    match certificate.alternative_names() {
        Ok(names) => sids_of(&names),
        Err(error) if certificate.may_hold_alternative_sid() => Err(error),
        Err(_) => Ok(Vec::new()),
    }
}
