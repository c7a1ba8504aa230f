//! What the tests of this crate share: the worked example of the digest of [MS-RCMP], section 2.3, and an
//! account of another domain.

use dtyp::{FileTime, Sid};
use pac::{GroupMembership, LogonInfo, ResourceGroups, SidAndAttributes};

/// The certificate of alice, made with keys and a signature that can be made again.
pub(crate) const ALICE: &str = include_str!("../tests/tables/worked/alice.hex");
/// Its issuer.
pub(crate) const ISSUER: &str = include_str!("../tests/tables/worked/issuer.hex");
/// The issuer's issuer.
pub(crate) const ROOT: &str = include_str!("../tests/tables/worked/root.hex");

/// Bytes from hex, white space aside.
pub(crate) fn unhex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
    let mut bytes = vec![0; digits.len() / 2];
    dtyp::read_hex(&digits, &mut bytes).expect("hex digits in pairs");
    bytes
}

/// The SHA-256 by which the digest names a message.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    use sha2::Digest;
    dtyp::hex(&sha2::Sha256::digest(bytes))
}

/// The SID of the domain FABRIKAM.
pub(crate) const FABRIKAM: &str = "S-1-5-21-1000-2000-3000";

/// A SID from its text.
pub(crate) fn sid(text: &str) -> Sid {
    text.parse().expect("a SID")
}

/// An extra SID with attributes that a peer may not give.
pub(crate) fn extra(text: &str) -> SidAndAttributes {
    SidAndAttributes { sid: sid(text), attributes: 0x2000_0007 }
}

/// A group with attributes that a peer may not give.
pub(crate) fn group(rid: u32) -> GroupMembership {
    GroupMembership { rid, attributes: 0xffff_ffff }
}

/// bob of FABRIKAM, as his own domain's server might describe him; no field is empty.
pub(crate) fn bob() -> LogonInfo {
    LogonInfo {
        logon_time: FileTime(133_500_000_000_000_000),
        logoff_time: FileTime(133_600_000_000_000_000),
        kick_off_time: FileTime(133_600_000_000_000_001),
        password_last_set: FileTime(133_400_000_000_000_000),
        password_can_change: FileTime(133_400_000_000_000_001),
        password_must_change: FileTime::NEVER,
        effective_name: "bob".into(),
        full_name: "Bob Miller".into(),
        logon_script: r"\\fabrikam.example\netlogon\run.cmd".into(),
        profile_path: r"\\fabrikam.example\profiles\bob".into(),
        home_directory: r"\\fabrikam.example\home\bob".into(),
        home_directory_drive: "H:".into(),
        logon_count: 3,
        bad_password_count: 1,
        user_id: 1104,
        primary_group_id: 513,
        group_ids: vec![group(513), group(1200)],
        user_flags: 0,
        user_session_key: [0x5e; 16],
        logon_server: "FABDC1".into(),
        logon_domain_name: "Fabrikam".into(),
        logon_domain_id: sid(FABRIKAM),
        reserved1: [1, 2],
        user_account_control: 0xffc0_0010,
        sub_auth_status: 7,
        last_successful_logon: FileTime(8),
        last_failed_logon: FileTime(9),
        failed_logon_count: 10,
        reserved3: 11,
        extra_sids: vec![
            extra("S-1-5-21-1000-2000-3000-1300"),
            extra("S-1-18-1"),
            extra("S-1-5-21-0-0-0-496"),
            extra("S-1-5-21-0-0-0-497"),
            extra("S-1-5-15"),
            extra("S-1-5-65-1"),
        ],
        resource_groups: Some(ResourceGroups { domain: sid(FABRIKAM), groups: vec![group(1400)] }),
    }
}
