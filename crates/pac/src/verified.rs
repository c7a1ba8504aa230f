//! A PAC as a client should read it: what is said twice must be said the same.

use crate::{BufferType, ClientInfo, LogonInfo, Pac, UpnDnsInfo};
use dtyp::{Decode, DecodeError, Sid};
use std::fmt;

/// Why a PAC is not believed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PacError {
    /// It cannot be decoded.
    Decode(DecodeError),
    /// It has no KERB_VALIDATION_INFO.
    NoLogonInfo,
    /// UserId is 0, which makes the first extra SID the account's: no answer of a domain for its own account
    /// needs that.
    NoUserId,
    /// UserFlags and the lists contradict each other.
    UserFlags,
    /// Two fields that say the same do not.
    Disagree(&'static str, &'static str),
}

impl From<DecodeError> for PacError {
    fn from(error: DecodeError) -> Self {
        Self::Decode(error)
    }
}

impl fmt::Display for PacError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Decode(error) => error.fmt(f),
            Self::NoLogonInfo => f.write_str("the PAC has no KERB_VALIDATION_INFO"),
            Self::NoUserId => f.write_str("UserId is 0"),
            Self::UserFlags => f.write_str("UserFlags contradicts the lists of SIDs"),
            Self::Disagree(a, b) => write!(f, "{a} and {b} do not agree"),
        }
    }
}

impl std::error::Error for PacError {}

/// A PAC whose parts agree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifiedPac {
    /// KERB_VALIDATION_INFO.
    pub logon_info: LogonInfo,
    /// The account's SID.
    pub user_sid: Sid,
    /// PAC_CLIENT_INFO, if it is there.
    pub client_info: Option<ClientInfo>,
    /// UPN_DNS_INFO, if it is there.
    pub upn_dns_info: Option<UpnDnsInfo>,
    /// PAC_REQUESTOR, if it is there.
    pub requestor_sid: Option<Sid>,
    /// The types of all buffers, in the order of the table.
    pub buffer_types: Vec<BufferType>,
}

impl VerifiedPac {
    /// Reads a PAC and compares what can be compared.
    pub fn decode(bytes: &[u8]) -> Result<Self, PacError> {
        Self::read(&Pac::from_bytes("PACTYPE", bytes)?, true)
    }

    /// The same for the PAC of a ticket, where PAC_CLIENT_INFO has the name of the ticket's client, which may
    /// differ from the account's. The ticket's receiver compares it with the ticket.
    pub fn of_ticket(pac: &Pac) -> Result<Self, PacError> {
        Self::read(pac, false)
    }

    fn read(pac: &Pac, client_is_account: bool) -> Result<Self, PacError> {
        let logon_info = LogonInfo::decode(pac.find(BufferType::LOGON_INFO).ok_or(PacError::NoLogonInfo)?)?;
        if logon_info.user_id == 0 {
            return Err(PacError::NoUserId);
        }
        if !logon_info.flags_agree() {
            return Err(PacError::UserFlags);
        }
        let user_sid = logon_info.user_sid().ok_or(PacError::Disagree("UserId", "LogonDomainId"))?;
        let name = &logon_info.effective_name.text;
        let client_info = match pac.find(BufferType::CLIENT_INFO) {
            Some(bytes) => Some(ClientInfo::from_bytes("PAC_CLIENT_INFO", bytes)?),
            None => None,
        };
        if client_is_account && client_info.as_ref().is_some_and(|info| !info.name.eq_ignore_ascii_case(name))
        {
            return Err(PacError::Disagree("PAC_CLIENT_INFO.Name", "EffectiveName"));
        }
        let upn_dns_info = match pac.find(BufferType::UPN_DNS_INFO) {
            Some(bytes) => Some(UpnDnsInfo::from_bytes("UPN_DNS_INFO", bytes)?),
            None => None,
        };
        if let Some((sam_name, sid)) = upn_dns_info.as_ref().and_then(|info| info.extended.as_ref()) {
            if *sid != user_sid {
                return Err(PacError::Disagree("UPN_DNS_INFO.Sid", "LogonDomainId and UserId"));
            }
            if !sam_name.eq_ignore_ascii_case(name) {
                return Err(PacError::Disagree("UPN_DNS_INFO.SamName", "EffectiveName"));
            }
        }
        let requestor_sid = match pac.find(BufferType::REQUESTOR_SID) {
            Some(bytes) => Some(Sid::from_bytes("PAC_REQUESTOR", bytes)?),
            None => None,
        };
        if requestor_sid.is_some_and(|sid| sid != user_sid) {
            return Err(PacError::Disagree("PAC_REQUESTOR", "LogonDomainId and UserId"));
        }
        let buffer_types = pac.buffers.iter().map(|buffer| buffer.buffer_type).collect();
        Ok(Self { logon_info, user_sid, client_info, upn_dns_info, requestor_sid, buffer_types })
    }
}
