//! Answers of a peer: whatever it says, only what is its own comes back.

use account_store::Domain;
use dtyp::Sid;
use pac::VerifiedPac;
use rcmp_service::ResponseRejection;
use rcmp_service::SidClaim;
use rcmp_service::foreign::{self, ForeignAccount, ForeignDomain, ForeignSids};
use rcmp_service::message::Response;
use std::sync::LazyLock;

const IDENTITY: Sid = Sid::SERVICE_ASSERTED_IDENTITY;

/// Reads `bytes` as what a server of FABRIKAM answered to one of CONTOSO.
pub fn check(bytes: &[u8]) {
    let [strict, lax] = [ForeignSids::Refuse, ForeignSids::Drop].map(|foreign_sids| {
        let from = ForeignDomain { foreign_sids, ..FABRIKAM.clone() };
        foreign::validate_response(bytes, &from, &CONTOSO, SidClaim::Absent, Some(IDENTITY))
    });
    for account in [&strict, &lax].into_iter().filter_map(|outcome| outcome.as_ref().ok()) {
        only_theirs(account);
    }
    // To drop SIDs of third domains makes no other lie true, and changes nothing where there are none.
    if strict != Err(ResponseRejection::ForeignSid) {
        assert_eq!(strict, lax);
    }
}

/// The new answer names the peer's domain, has SIDs of its members and the one that we add, and says nothing
/// else that is more than the account's own.
fn only_theirs(account: &ForeignAccount) {
    let message = account.message();
    let response = Response::decode(&message).expect("our own");
    let pac = VerifiedPac::decode(response.auth_data).expect("our own");
    let info = &pac.logon_info;
    for domain in [&response.domain, &info.logon_domain_name.text, &account.domain] {
        assert_eq!(*domain, FABRIKAM.netbios);
    }
    assert_eq!((account.sid, pac.requestor_sid), (pac.user_sid, Some(pac.user_sid)));
    assert_eq!(account.name, info.effective_name.text);
    assert!(!account.name.contains(['\\', '/', '@', '"']) && !account.name.contains(char::is_control));
    let upn_dns_info = pac.upn_dns_info.as_ref().expect("it is always there");
    let (_, suffix) = upn_dns_info.upn.split_once('@').expect("it has a suffix");
    let suffix = suffix.strip_suffix('.').unwrap_or(suffix).to_ascii_lowercase();
    assert!(FABRIKAM.names.contains(&suffix), "{suffix}");
    assert_eq!(upn_dns_info.dns_domain_name, "FABRIKAM.EXAMPLE");
    assert_eq!((info.logon_domain_id, &info.resource_groups), (FABRIKAM.sid, &None));
    let members = info.groups().into_iter().map(|member| member.sid).chain([pac.user_sid]);
    let (ours, theirs): (Vec<Sid>, Vec<Sid>) = members.partition(|sid| *sid == IDENTITY);
    assert_eq!(ours.len(), 1);
    assert!(theirs.iter().all(|sid| sid.rid_in(&FABRIKAM.sid).is_some_and(|rid| rid != 0)), "{theirs:?}");
    for text in [&info.logon_script, &info.profile_path, &info.home_directory, &info.home_directory_drive] {
        assert_eq!(text.text, "");
    }
    assert_eq!(info.user_session_key, [0; 16]);
}

static CONTOSO: LazyLock<Domain> = LazyLock::new(|| Domain {
    netbios: "CONTOSO".into(),
    dns: "contoso.example".into(),
    sid: Sid::new(5, &[21, 3_623_811_015, 3_361_044_348, 30_300_820]).expect("four parts"),
});

static FABRIKAM: LazyLock<ForeignDomain> = LazyLock::new(|| ForeignDomain {
    netbios: "FABRIKAM".into(),
    sid: Sid::new(5, &[21, 1000, 2000, 3000]).expect("four parts"),
    names: vec!["fabrikam.example".into(), "mail.fabrikam.example".into()],
    foreign_sids: ForeignSids::Refuse,
});
