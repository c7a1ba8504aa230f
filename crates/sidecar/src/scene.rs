//! What the tests share: certificates that are made when they run, and an account to which they belong.

use crate::identity::{Assurance, Group, Identity};
use dtyp::{FileTime, Sid};
use rcgen::{CertificateParams, DnType, KeyPair};

/// A certificate of its own issuer.
pub(crate) fn certificate(name: &str) -> Vec<u8> {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    let key = KeyPair::generate().expect("a key can be made");
    params.self_signed(&key).expect("a certificate can be made").der().to_vec()
}

pub(crate) fn sid(text: &str) -> Sid {
    text.parse().expect("a SID")
}

/// Alice of CONTOSO, with every attribute.
pub(crate) fn alice() -> Identity {
    let group = |rid: u32, name: &str| Group {
        sid: sid(&format!("S-1-5-21-1-2-3-{rid}")),
        name: Some(name.to_owned()),
    };
    Identity {
        domain: "CONTOSO".to_owned(),
        is_ours: true,
        account: "alice".to_owned(),
        upn: Some("alice@contoso.example".to_owned()),
        full_name: Some("Alice Liddell".to_owned()),
        mail: None,
        sid: sid("S-1-5-21-1-2-3-1000"),
        groups: vec![group(513, "Domain Users"), group(1100, "Staff")],
        method: Some("upn"),
        assurance: Assurance::Strong(Some("sid_extension")),
        policy_revision: 7,
        stale_s: None,
        not_after: FileTime::from_unix(2_000_000_000),
    }
}
