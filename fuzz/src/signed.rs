//! What lists and responses are judged with: two CAs of one name, whose keys are thrown away, and a
//! certificate of each. OpenSSL made them and everything that they signed.

use dtyp::FileTime;
use rcmp_service::trust::{OcspAsking, OcspResponder, Parts, Trust};

pub(crate) const CA: &[u8] = include_bytes!("../pki/ca.der");
pub(crate) const TWIN: &[u8] = include_bytes!("../pki/twin.der");
pub(crate) const LEAF_OF_CA: &[u8] = include_bytes!("../pki/leaf-ca.der");
pub(crate) const LEAF_OF_TWIN: &[u8] = include_bytes!("../pki/leaf-twin.der");

/// 2026-11-25T19:40:00Z: some minutes after everything was signed.
pub(crate) fn now() -> FileTime {
    FileTime::from_unix(1_795_635_600)
}

/// A trust in one of the CAs, which has a responder. The other CA's owner is believed about it, and never
/// said anything.
pub(crate) fn trust(ca: &[u8], signer: &[u8]) -> Trust {
    let responder = OcspResponder {
        authority: ca.to_vec(),
        url: "http://127.0.0.1/".to_owned(),
        signer: Some(signer.to_vec()),
        asking: OcspAsking::default(),
    };
    let parts = Parts { anchors: vec![ca.to_vec()], crls: 1, ocsp: vec![responder], ..Parts::default() };
    Trust::new(parts).expect("a CA is enough")
}

/// One element of DER: its tag, itself, its contents, and what follows. Only for what was read already.
pub(crate) struct Element<'a> {
    pub(crate) tag: u8,
    pub(crate) whole: &'a [u8],
    pub(crate) inside: &'a [u8],
    pub(crate) rest: &'a [u8],
}

/// The first element of some bytes; `None` at their end.
pub(crate) fn element(bytes: &[u8]) -> Option<Element<'_>> {
    let (&tag, after) = bytes.split_first()?;
    let (&first, after) = after.split_first()?;
    let (len, after) = match first {
        0..=0x7f => (usize::from(first), after),
        _ => {
            let (octets, after) = after.split_at(usize::from(first & 0x7f));
            (octets.iter().fold(0, |len, octet| len << 8 | usize::from(*octet)), after)
        }
    };
    let (inside, rest) = after.split_at(len);
    Some(Element { tag, whole: &bytes[..bytes.len() - rest.len()], inside, rest })
}

/// The elements inside of something.
pub(crate) fn elements(inside: &[u8]) -> impl Iterator<Item = Element<'_>> {
    let mut left = inside;
    std::iter::from_fn(move || {
        let element = element(left)?;
        left = element.rest;
        Some(element)
    })
}

/// What is signed, of a list or of a BasicOCSPResponse.
pub(crate) fn tbs(signed: &[u8]) -> &[u8] {
    element(element(signed).expect("it was read").inside).expect("it was read").whole
}
