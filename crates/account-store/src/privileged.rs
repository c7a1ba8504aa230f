//! The privileged accounts and groups of a domain: by SID, and by the well-known names of [MS-DTYP] 2.4.2.4.
//!
//! A SID alone makes an account or a group privileged. A name never does, so a group under such a name and
//! another SID would protect nothing and be taken for the group that does.

use crate::fold::casefold;
use dtyp::Sid;

/// Relative identifiers of the privileged accounts and groups of a domain ([MS-DTYP] 2.4.2.4), as far as the
/// directory protects them ([MS-ADTS] 3.1.1.6.1, adminSDHolder), and those that can raise themselves to one
/// of them.
const PRIVILEGED_IN_DOMAIN: [(u32, &str); 12] = [
    (498, "Enterprise Read-only Domain Controllers"),
    (500, "Administrator"),
    (502, "krbtgt"),
    (512, "Domain Admins"),
    (516, "Domain Controllers"),
    (517, "Cert Publishers"),
    (518, "Schema Admins"),
    (519, "Enterprise Admins"),
    (520, "Group Policy Creator Owners"),
    (521, "Read-only Domain Controllers"),
    (526, "Key Admins"),
    (527, "Enterprise Key Admins"),
];

/// Relative identifiers of the privileged groups of BUILTIN, S-1-5-32 ([MS-DTYP] 2.4.2.4).
const PRIVILEGED_IN_BUILTIN: [(u32, &str); 6] = [
    (544, "Administrators"),
    (548, "Account Operators"),
    (549, "Server Operators"),
    (550, "Print Operators"),
    (551, "Backup Operators"),
    (552, "Replicator"),
];

/// Whether a SID is that of a privileged account or group, of any domain or of BUILTIN.
pub fn is_privileged(sid: &Sid) -> bool {
    let is_in = |table: &[(u32, &str)], rid: u32| table.iter().any(|(known, _)| *known == rid);
    match (sid.authority(), sid.sub_authorities()) {
        (5, [21, _, _, _, rid]) => is_in(&PRIVILEGED_IN_DOMAIN, *rid),
        (5, [32, rid]) => is_in(&PRIVILEGED_IN_BUILTIN, *rid),
        _ => false,
    }
}

/// The SID of the privileged account or group of `domain`, or of BUILTIN, that has this well-known name.
pub fn privileged_sid(name: &str, domain: &Sid) -> Option<Sid> {
    let name = casefold(name);
    let rid =
        |table: &[(u32, &str)]| table.iter().find(|(_, known)| casefold(known) == name).map(|(rid, _)| *rid);
    match rid(&PRIVILEGED_IN_DOMAIN) {
        Some(rid) => domain.with_rid(rid),
        None => Sid::new(5, &[32, rid(&PRIVILEGED_IN_BUILTIN)?]),
    }
}

/// Why a group with this SID must not have this name: it is the well-known name of a privileged account or
/// group, or looks like it ([`crate::fold::wide`]), and the SID is another. `None` if the name may be used.
pub fn group_name_refused(name: &str, sid: &Sid, domain: &Sid) -> Option<String> {
    let privileged = privileged_sid(&crate::fold::wide(name), domain)?;
    if privileged == *sid {
        return None;
    }
    let what = format!("{name:?} is the name of the privileged group {privileged}");
    Some(match privileged.rid_in(domain) {
        Some(_) => format!("{what}; import it with that SID, or use another name"),
        None => format!("{what}, which is in BUILTIN and in no database; use another name"),
    })
}
