//! The names of issuers in a request: "in the same order as the chain of issuing authorities" ([MS-RCMP]
//! 2.2.1), the certificate's own issuer first and the anchor's name last (3.5.1).
//!
//! Where the chain was verified, the names are those of the verified path. An asker without anchors links the
//! certificates that it was given by their names, in whatever order they came; those that are not issuers of
//! one another are left out.

use crate::certificate::{Certificate, name};
use crate::der::{self, Der};
use crate::message::{ISSUER_LEN_MAX, ISSUERS_MAX};
use crate::trust::{Path, Trust};
use account_store::fold::Comparison;

/// All names together, so that a request with the longest certificate is still within its limit.
const NAMES_LEN_MAX: usize = 128 * 1024;
/// id-ce-authorityKeyIdentifier, 2.5.29.35.
const AUTHORITY_KEY_IDENTIFIER: &[u8] = &[0x55, 0x1d, 0x23];
/// [0] keyIdentifier of an AuthorityKeyIdentifier (RFC 5280 4.2.1.1).
const KEY_IDENTIFIER: u8 = 0x80;

/// The names of a verified path.
pub fn of_path<'a>(certificate: &Certificate<'a>, path: &Path, trust: &'a Trust) -> Vec<&'a [u8]> {
    let mut names = Names::new(certificate);
    // The first is the certificate's issuer, as it is written there.
    for authority in (1..path.authorities.len()).filter_map(|at| trust.path_authority(path, at)) {
        names.push(&authority.name);
    }
    names.names
}

/// The names of the issuers of a certificate, as far as certificates that came with it lead. One that cannot
/// be read hides no other.
pub fn of_chain<'a>(certificate: &Certificate<'a>, chain: impl Iterator<Item = &'a [u8]>) -> Vec<&'a [u8]> {
    follow(certificate, chain).0
}

/// The certificates that [`of_chain`] leaves out: those that lead nowhere from the certificate. Copies of the
/// certificate itself and of others are none of them.
pub fn left_out<'a>(certificate: &Certificate<'a>, chain: &[&'a [u8]], itself: &[u8]) -> Vec<&'a [u8]> {
    let left = follow(certificate, chain.iter().copied()).1;
    let is_used =
        |encoded: &[u8]| chain.iter().enumerate().any(|(at, other)| !left.contains(&at) && *other == encoded);
    let mut out: Vec<&[u8]> = Vec::new();
    for encoded in left.iter().map(|at| chain[*at]) {
        if encoded != itself && !is_used(encoded) && !out.contains(&encoded) {
            out.push(encoded);
        }
    }
    out
}

/// The names of the issuers, and the places of certificates that were not needed.
fn follow<'a>(
    certificate: &Certificate<'a>,
    chain: impl Iterator<Item = &'a [u8]>,
) -> (Vec<&'a [u8]>, Vec<usize>) {
    let mut unread = Vec::new();
    let mut others: Vec<(usize, NameKey<'a>, Certificate<'a>)> = Vec::new();
    for (at, encoded) in chain.enumerate() {
        match Certificate::parse(encoded) {
            Ok(other) if others.len() < ISSUERS_MAX => others.push((at, NameKey::of(other.subject), other)),
            _ => unread.push(at),
        }
    }
    let mut names = Names::new(certificate);
    let mut last = certificate.clone();
    loop {
        let issued: Vec<usize> = (0..others.len()).filter(|at| others[*at].1 == names.last).collect();
        // Several certificates of one name are told apart by their keys, where both say which.
        let by_key = issued.iter().find(|at| has_key(&others[**at].2, &last));
        let Some(at) = by_key.or(issued.first()) else {
            let left = others.iter().map(|(at, ..)| *at).chain(unread).collect();
            return (names.names, left);
        };
        last = others.remove(*at).2;
        names.push(last.issuer);
    }
}

/// A name as it is compared: its text, in whichever string types and case it is encoded, or its bytes where
/// it cannot be read.
#[derive(PartialEq, Eq)]
enum NameKey<'a> {
    Text(String),
    Encoded(&'a [u8]),
}

impl<'a> NameKey<'a> {
    fn of(encoded: &'a [u8]) -> Self {
        name(encoded).map_or(Self::Encoded(encoded), |name| Self::Text(name.key_by(Comparison::Casefold)))
    }
}

struct Names<'a> {
    names: Vec<&'a [u8]>,
    len: usize,
    /// The last name of the path, whether it is among the names or beyond the limits.
    last: NameKey<'a>,
}

impl<'a> Names<'a> {
    fn new(certificate: &Certificate<'a>) -> Self {
        Self {
            names: vec![certificate.issuer],
            len: certificate.issuer.len(),
            last: NameKey::of(certificate.issuer),
        }
    }

    /// Adds a name behind the others. A self-issued certificate adds none, and neither does a name beyond the
    /// limits.
    fn push(&mut self, name: &'a [u8]) {
        let key = NameKey::of(name);
        let is_new = key != self.last;
        self.last = key;
        if is_new
            && name.len() <= ISSUER_LEN_MAX
            && self.names.len() < ISSUERS_MAX
            && self.len + name.len() <= NAMES_LEN_MAX
        {
            self.names.push(name);
            self.len += name.len();
        }
    }
}

/// Whether a certificate says that its key is the one that signed another.
fn has_key(issuer: &Certificate<'_>, certificate: &Certificate<'_>) -> bool {
    let wanted = certificate.extension(AUTHORITY_KEY_IDENTIFIER).and_then(|extension| {
        let mut fields =
            Der::new(extension.value).expect("authorityKeyIdentifier", der::SEQUENCE).ok()?.inside();
        fields.optional("keyIdentifier", KEY_IDENTIFIER).ok()?.map(|identifier| identifier.contents)
    });
    wanted.is_some() && issuer.subject_key_identifier().ok().flatten() == wanted
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trust::Parts;
    use dtyp::FileTime;
    use rcgen::{
        BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, DnValue, IsCa,
        KeyPair,
    };

    const NOW: FileTime = FileTime(133_500_000_000_000_000);

    fn params(name: &str, is_ca: bool) -> CertificateParams {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.use_authority_key_identifier_extension = true;
        if is_ca {
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        }
        params
    }

    type Ca = CertifiedIssuer<'static, KeyPair>;

    fn root(name: &str) -> Ca {
        CertifiedIssuer::self_signed(params(name, true), KeyPair::generate().expect("a key")).expect("signed")
    }

    fn below(issuer: &Ca, name: &str) -> Ca {
        let key = KeyPair::generate().expect("a key");
        CertifiedIssuer::signed_by(params(name, true), key, issuer).expect("signed")
    }

    fn leaf(issuer: &Ca) -> Vec<u8> {
        let key = KeyPair::generate().expect("a key");
        params("alice", false).signed_by(&key, issuer).expect("signed").der().to_vec()
    }

    fn text(names: &[&[u8]]) -> Vec<String> {
        names.iter().map(|encoded| name(encoded).expect("a name").to_string()).collect()
    }

    fn chained(leaf: &[u8], chain: &[&[u8]]) -> Vec<String> {
        let certificate = Certificate::parse(leaf).expect("it is well formed");
        text(&of_chain(&certificate, chain.iter().copied()))
    }

    #[test]
    fn names_follow_the_chain_and_not_the_file() {
        let top = root("Root");
        let middle = below(&top, "Middle");
        let issuing = below(&middle, "Issuing");
        let alice = leaf(&issuing);
        let stranger = root("Stranger");
        let der = |ca: &Ca| ca.der().to_vec();
        let (top, middle, issuing, stranger) = (der(&top), der(&middle), der(&issuing), der(&stranger));
        let whole = ["CN=Issuing", "CN=Middle", "CN=Root"];
        for chain in [
            [&issuing[..], &middle, &top],
            [&top, &middle, &issuing],
            [&middle, &top, &issuing],
            [&top, &issuing, &middle],
        ] {
            assert_eq!(chained(&alice, &chain), whole);
            let broken =
                [&stranger, &b"\x30\x03\x02\x01\x01"[..], &alice, chain[0], chain[1], chain[2], chain[0]];
            assert_eq!(chained(&alice, &broken), whole, "others are left out, and broken ones hide none");
            let certificate = Certificate::parse(&alice).expect("it is well formed");
            assert_eq!(
                left_out(&certificate, &broken, &alice),
                [&stranger[..], &b"\x30\x03\x02\x01\x01"[..]]
            );
            assert_eq!(left_out(&certificate, &chain, &alice), [&b""[..]; 0]);
        }
        assert_eq!(chained(&alice, &[]), whole[..1]);
        assert_eq!(chained(&alice, &[&top]), whole[..1], "the link between is missing");
        assert_eq!(chained(&alice, &[&issuing]), whole[..2]);
    }

    #[test]
    fn of_two_cas_with_one_name_the_one_with_the_key_is_meant() {
        let (first, second) = (root("First"), root("Second"));
        let (old, new) = (below(&first, "Issuing"), below(&second, "Issuing"));
        let alice = leaf(&new);
        let (old, new) = (old.der().to_vec(), new.der().to_vec());
        for chain in [[&old[..], &new], [&new, &old]] {
            assert_eq!(chained(&alice, &chain), ["CN=Issuing", "CN=Second"]);
        }
    }

    #[test]
    fn a_name_in_another_string_type_is_the_same() {
        let mut of_root = params("x", true);
        of_root.distinguished_name = DistinguishedName::new();
        let printable = DnValue::PrintableString("ISSUING".try_into().expect("printable"));
        of_root.distinguished_name.push(DnType::CommonName, printable);
        let top = root("Root");
        let key = KeyPair::generate().expect("a key");
        let other = CertifiedIssuer::signed_by(of_root, key, &top).expect("signed");
        let alice = leaf(&root("Issuing"));
        assert_eq!(chained(&alice, &[other.der()]), ["CN=Issuing", "CN=Root"]);
    }

    #[test]
    fn names_of_a_verified_path_need_no_chain() {
        let top = root("Root");
        let issuing = below(&top, "Issuing");
        let alice = leaf(&issuing);
        let parts = Parts {
            anchors: vec![top.der().to_vec()],
            intermediates: vec![issuing.der().to_vec()],
            ..Parts::default()
        };
        let trust = Trust::new(parts).expect("an anchor");
        let path = trust.verify(&alice, NOW).expect("it leads to the anchor");
        let certificate = Certificate::parse(&alice).expect("it is well formed");
        assert_eq!(text(&of_path(&certificate, &path, &trust)), ["CN=Issuing", "CN=Root"]);
    }

    /// A CA that was renamed and kept its key.
    #[test]
    fn of_two_names_of_one_key_the_one_on_the_path_is_meant() {
        let key = KeyPair::generate().expect("a key");
        let copy = || KeyPair::try_from(key.serialize_der()).expect("a key");
        let root = |name| CertifiedIssuer::self_signed(params(name, true), copy()).expect("signed");
        let (old, new) = (root("Old Root"), root("New Root"));
        for (top, expect) in [(&old, "CN=Old Root"), (&new, "CN=New Root")] {
            let issuing = below(top, "Issuing");
            let alice = leaf(&issuing);
            for anchors in [[&old, &new], [&new, &old]] {
                let anchors = anchors.iter().map(|anchor| anchor.der().to_vec()).collect();
                let intermediates = vec![issuing.der().to_vec()];
                let trust =
                    Trust::new(Parts { anchors, intermediates, ..Parts::default() }).expect("anchors");
                let path = trust.verify(&alice, NOW).expect("it leads to the anchor");
                let certificate = Certificate::parse(&alice).expect("it is well formed");
                assert_eq!(text(&of_path(&certificate, &path, &trust)), ["CN=Issuing", expect]);
                let known = trust.path_authority(&path, 1).map(|authority| authority.subject.as_str());
                assert_eq!(known, Some(expect));
            }
        }
    }

    #[test]
    fn a_long_chain_is_within_the_limits_of_a_request() {
        let mut last = root("CA 0");
        let mut chain = vec![last.der().to_vec()];
        for at in 1..70 {
            last = below(&last, &format!("CA {at}"));
            chain.push(last.der().to_vec());
        }
        let alice = leaf(&last);
        let certificate = Certificate::parse(&alice).expect("it is well formed");
        let names = of_chain(&certificate, chain.iter().rev().map(Vec::as_slice));
        assert_eq!(names.len(), ISSUERS_MAX);
        let flags = crate::message::MappingFlags::ALL;
        assert!(crate::message::Request { flags, certificate: &alice, issuers: names }.encode().is_some());
    }
}
