//! The messages of [MS-NRPC] 3.5.4, each with both directions: what a client writes a server reads, and back.
//!
//! Top-level strings and pointers follow NDR's rules for parameters; unions repeat their level as a tag.

mod domain_info;
mod generic;
mod handshake;
mod logon;
mod nl_auth;
mod unsupported;

pub use domain_info::{GetDomainInfoReply, GetDomainInfoRequest, PrimaryDomain};
pub(crate) use generic::GenericCall;
pub use generic::{GenericLogon, LogonMethod, SamLogonReply, SamLogonRequest};
pub use handshake::{
    Authenticate, AuthenticateReply, Capabilities, CapabilitiesReply, PasswordSet2, PasswordSet2Reply,
    ReqChallenge, ReqChallengeReply,
};
pub use logon::{
    ALLOW_COMPUTER_ACCOUNTS, ALLOW_SERVER_ACCOUNTS, LogonIdentity, LogonLevels, LogonReply, LogonValidation,
    USER_FLAG_GUEST, USER_FLAG_LM_KEY, USER_FLAG_NO_ENCRYPTION,
};
pub(crate) use logon::{Logon, LogonCall, decrypt_session_key};
pub use nl_auth::{NL_AUTH_RESPONSE, NlAuthRequest};
pub use unsupported::unsupported;

use crate::credential::Authenticator;
use dcerpc::ndr::{NdrReader, NdrWriter};
use dtyp::DecodeError;

/// `range(0,256)` of account and computer names, in units with their NUL; we hold every name to it.
const NAME_UNITS_MAX: usize = 256;

/// The methods by number ([MS-NRPC] 3.5.4).
pub mod opnum {
    /// NetrLogonSamLogon.
    pub const LOGON_SAM_LOGON: u16 = 2;
    /// NetrLogonSamLogoff.
    pub const LOGON_SAM_LOGOFF: u16 = 3;
    /// NetrServerReqChallenge.
    pub const SERVER_REQ_CHALLENGE: u16 = 4;
    /// NetrServerAuthenticate.
    pub const SERVER_AUTHENTICATE: u16 = 5;
    /// NetrServerAuthenticate2.
    pub const SERVER_AUTHENTICATE2: u16 = 15;
    /// NetrLogonGetCapabilities.
    pub const LOGON_GET_CAPABILITIES: u16 = 21;
    /// NetrServerAuthenticate3.
    pub const SERVER_AUTHENTICATE3: u16 = 26;
    /// NetrLogonGetDomainInfo.
    pub const LOGON_GET_DOMAIN_INFO: u16 = 29;
    /// NetrServerPasswordSet2.
    pub const SERVER_PASSWORD_SET2: u16 = 30;
    /// NetrLogonSamLogonEx.
    pub const LOGON_SAM_LOGON_EX: u16 = 39;
    /// NetrLogonSamLogonWithFlags.
    pub const LOGON_SAM_LOGON_WITH_FLAGS: u16 = 45;

    /// The method with a number as `netlogon/METHOD`, for traces; `None` for others than these.
    pub const fn method(opnum: u16) -> Option<&'static str> {
        Some(match opnum {
            LOGON_SAM_LOGON => "netlogon/NetrLogonSamLogon",
            LOGON_SAM_LOGOFF => "netlogon/NetrLogonSamLogoff",
            SERVER_REQ_CHALLENGE => "netlogon/NetrServerReqChallenge",
            SERVER_AUTHENTICATE => "netlogon/NetrServerAuthenticate",
            SERVER_AUTHENTICATE2 => "netlogon/NetrServerAuthenticate2",
            LOGON_GET_CAPABILITIES => "netlogon/NetrLogonGetCapabilities",
            SERVER_AUTHENTICATE3 => "netlogon/NetrServerAuthenticate3",
            LOGON_GET_DOMAIN_INFO => "netlogon/NetrLogonGetDomainInfo",
            SERVER_PASSWORD_SET2 => "netlogon/NetrServerPasswordSet2",
            LOGON_SAM_LOGON_EX => "netlogon/NetrLogonSamLogonEx",
            LOGON_SAM_LOGON_WITH_FLAGS => "netlogon/NetrLogonSamLogonWithFlags",
            _ => return None,
        })
    }
}

pub(crate) fn read_authenticator(
    reader: &mut NdrReader<'_>,
    what: &'static str,
) -> Result<Authenticator, DecodeError> {
    reader.align(what, 4)?;
    Ok(Authenticator { credential: reader.array(what)?, timestamp: reader.u32(what)? })
}

pub(crate) fn write_authenticator(writer: &mut NdrWriter, authenticator: &Authenticator) {
    writer.align(4);
    writer.bytes(&authenticator.credential);
    writer.u32(authenticator.timestamp);
}

fn read_name(reader: &mut NdrReader<'_>, what: &'static str) -> Result<String, DecodeError> {
    reader.string(what, NAME_UNITS_MAX)?.text(what)
}

fn read_unique_name(reader: &mut NdrReader<'_>, what: &'static str) -> Result<Option<String>, DecodeError> {
    reader.unique_string(what, NAME_UNITS_MAX)?.map(|name| name.text(what)).transpose()
}

#[cfg(test)]
mod tests;
