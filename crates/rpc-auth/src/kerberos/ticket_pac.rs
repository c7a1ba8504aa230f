//! The PAC of a ticket ([MS-PAC] 2.8, [MS-KILE] 3.4.5.3): found, verified, and reduced to SIDs.

use super::etype::{Key, usage};
use super::messages::{AD_IF_RELEVANT, AD_WIN2K_PAC, AuthorizationData, Principal, if_relevant};
use crate::{Refusal, RefusalReason};
use dtyp::{Decode, FileTime, Sid};
use pac::{BufferType, ClientInfo, DelegationInfo, Pac, PacError, ServerSignature, VerifiedPac};

/// SE_GROUP_USE_FOR_DENY_ONLY: the group grants nothing.
pub(super) const USE_FOR_DENY_ONLY: u32 = 0x10;

/// What a verified PAC says about the client.
#[derive(Debug)]
pub(crate) struct TicketPac {
    /// `None` of a PAC without KERB_VALIDATION_INFO.
    pub(crate) account: Option<PacAccount>,
    /// Services through which the ticket was delegated, the first one first.
    pub(crate) delegated_by: Vec<String>,
}

/// The account of a PAC.
#[derive(Debug)]
pub(crate) struct PacAccount {
    pub(crate) name: String,
    pub(crate) sid: Sid,
    pub(crate) groups: Vec<Sid>,
}

fn refusal(detail: impl std::fmt::Display) -> Refusal {
    Refusal::new(RefusalReason::Pac, detail.to_string())
}

/// The PAC among a ticket's authorization data: AD-WIN2K-PAC inside of AD-IF-RELEVANT. Outside of it, it does
/// not count.
pub(crate) fn find(data: &AuthorizationData) -> Result<Option<Vec<u8>>, Refusal> {
    let mut found = None;
    for (_, contents) in data.iter().filter(|(number, _)| *number == AD_IF_RELEVANT) {
        for (number, bytes) in if_relevant(contents).map_err(refusal)? {
            if number == AD_WIN2K_PAC && found.replace(bytes).is_some() {
                return Err(refusal("the ticket has two PACs"));
            }
        }
    }
    Ok(found)
}

/// Verifies a PAC with the key that opened the ticket, and compares it with the ticket.
pub(crate) fn verify(
    bytes: &[u8],
    key: &Key,
    client: &Principal,
    authtime: FileTime,
) -> Result<TicketPac, Refusal> {
    let signature = ServerSignature::from_pac(bytes).map_err(refusal)?;
    // A signature of a weaker type than the key's would be a downgrade: Samba's acceptor takes HMAC-MD5 under
    // each key.
    if signature.signature_type != key.etype().checksum_type() {
        return Err(refusal(format_args!(
            "the server's signature has type {}, and the key's is {}",
            signature.signature_type,
            key.etype().checksum_type()
        )));
    }
    if !key.verify_checksum(usage::PAC, &[&signature.signed], &signature.signature) {
        return Err(refusal("the server's signature is wrong"));
    }
    let pac = Pac::from_bytes("PACTYPE", bytes).map_err(refusal)?;
    let info = pac.find(BufferType::CLIENT_INFO).ok_or_else(|| refusal("the PAC has no PAC_CLIENT_INFO"))?;
    let info = ClientInfo::from_bytes("PAC_CLIENT_INFO", info).map_err(refusal)?;
    if info.name != client.unescaped_name() || info.client_id != authtime {
        return Err(refusal(format_args!(
            "PAC_CLIENT_INFO has {:?} at {}, and the ticket {:?} at {authtime}",
            info.name,
            info.client_id,
            client.unescaped_name()
        )));
    }
    let delegated_by = match pac.find(BufferType::DELEGATION_INFO) {
        Some(bytes) => delegated_by(&DelegationInfo::decode(bytes).map_err(refusal)?),
        None => Vec::new(),
    };
    let account = match VerifiedPac::of_ticket(&pac) {
        Ok(verified) => Some(account(&verified)?),
        Err(PacError::NoLogonInfo) => None,
        Err(error) => return Err(refusal(error)),
    };
    Ok(TicketPac { account, delegated_by })
}

/// The services that asked. A ticket without their names was delegated all the same.
fn delegated_by(info: &DelegationInfo) -> Vec<String> {
    match &info.transited[..] {
        [] => vec![format!("a service without a name, to {}", info.target.text)],
        services => services.iter().map(|service| service.text.clone()).collect(),
    }
}

fn account(verified: &VerifiedPac) -> Result<PacAccount, Refusal> {
    let info = &verified.logon_info;
    let primary = info.logon_domain_id.with_rid(info.primary_group_id);
    let primary = primary.ok_or_else(|| refusal("PrimaryGroupId does not fit LogonDomainId"))?;
    let grants = info.groups().into_iter().filter(|group| group.attributes & USE_FOR_DENY_ONLY == 0);
    let mut groups: Vec<Sid> = Vec::with_capacity(1 + info.group_ids.len() + info.extra_sids.len());
    groups.push(primary);
    groups.extend(grants.map(|group| group.sid).filter(|sid| *sid != primary));
    Ok(PacAccount { name: info.effective_name.text.clone(), sid: verified.user_sid, groups })
}
