//! Setting a channel up and keeping it: opnums 4, 5, 15, 26, 21 and 30.

use super::{read_authenticator, read_name, read_unique_name, write_authenticator};
use crate::credential::{Authenticator, Credential};
use dcerpc::ndr::{NdrReader, NdrWriter};
use dtyp::{DecodeError, NtStatus};
use zeroize::Zeroizing;

/// [MS-NRPC] 3.5.4.4.1 NetrServerReqChallenge (opnum 4): the client's half of the challenge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReqChallenge {
    /// The server, as the client dialled it.
    pub primary_name: Option<String>,
    /// NetBIOS name of the client.
    pub computer_name: String,
    /// Eight random bytes.
    pub client_challenge: Credential,
}

impl ReqChallenge {
    /// Reads the parameters.
    pub fn read(reader: &mut NdrReader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            primary_name: read_unique_name(reader, "PrimaryName")?,
            computer_name: read_name(reader, "ComputerName")?,
            client_challenge: reader.array("ClientChallenge")?,
        })
    }

    /// Writes the parameters.
    pub fn write(&self, writer: &mut NdrWriter) {
        writer.unique_string(self.primary_name.as_deref());
        writer.string(&self.computer_name);
        writer.bytes(&self.client_challenge);
    }
}

/// Results of NetrServerReqChallenge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReqChallengeReply {
    /// Eight random bytes; zero when the status is not success.
    pub server_challenge: Credential,
    /// The return value.
    pub status: NtStatus,
}

impl ReqChallengeReply {
    /// Reads the results.
    pub fn read(reader: &mut NdrReader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            server_challenge: reader.array("ServerChallenge")?,
            status: NtStatus(reader.u32("status")?),
        })
    }

    /// Writes the results.
    pub fn write(&self, writer: &mut NdrWriter) {
        writer.bytes(&self.server_challenge);
        writer.u32(self.status.0);
    }
}

/// [MS-NRPC] 3.5.4.4.2 NetrServerAuthenticate3 (opnum 26), and its elder NetrServerAuthenticate2 (opnum 15),
/// which has the same parameters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authenticate {
    /// The server, as the client dialled it.
    pub primary_name: Option<String>,
    /// The account that proves itself, such as `WEB01$`.
    pub account_name: String,
    /// NETLOGON_SECURE_CHANNEL_TYPE.
    pub channel_type: u16,
    /// NetBIOS name of the client.
    pub computer_name: String,
    /// What the session key makes of the client's challenge.
    pub client_credential: Credential,
    /// What the client offers.
    pub negotiate_flags: u32,
}

impl Authenticate {
    /// Reads the parameters.
    pub fn read(reader: &mut NdrReader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            primary_name: read_unique_name(reader, "PrimaryName")?,
            account_name: read_name(reader, "AccountName")?,
            channel_type: reader.enum16("SecureChannelType")?,
            computer_name: read_name(reader, "ComputerName")?,
            client_credential: reader.array("ClientCredential")?,
            negotiate_flags: reader.u32("NegotiateFlags")?,
        })
    }

    /// Writes the parameters.
    pub fn write(&self, writer: &mut NdrWriter) {
        writer.unique_string(self.primary_name.as_deref());
        writer.string(&self.account_name);
        writer.enum16(self.channel_type);
        writer.string(&self.computer_name);
        writer.bytes(&self.client_credential);
        writer.u32(self.negotiate_flags);
    }
}

/// Results of NetrServerAuthenticate3 and NetrServerAuthenticate2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AuthenticateReply {
    /// What the session key makes of the server's challenge.
    pub server_credential: Credential,
    /// What both offer.
    pub negotiate_flags: u32,
    /// The account's RID; `None` for opnum 15, which does not have it.
    pub account_rid: Option<u32>,
    /// The return value.
    pub status: NtStatus,
}

impl AuthenticateReply {
    /// Reads the results; `with_rid` for opnum 26.
    pub fn read(reader: &mut NdrReader<'_>, with_rid: bool) -> Result<Self, DecodeError> {
        Ok(Self {
            server_credential: reader.array("ServerCredential")?,
            negotiate_flags: reader.u32("NegotiateFlags")?,
            account_rid: if with_rid { Some(reader.u32("AccountRid")?) } else { None },
            status: NtStatus(reader.u32("status")?),
        })
    }

    /// Writes the results.
    pub fn write(&self, writer: &mut NdrWriter) {
        writer.bytes(&self.server_credential);
        writer.u32(self.negotiate_flags);
        if let Some(rid) = self.account_rid {
            writer.u32(rid);
        }
        writer.u32(self.status.0);
    }
}

/// [MS-NRPC] 3.5.4.4.10 NetrLogonGetCapabilities (opnum 21): did both sides see the same flags?
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// The server, as the client dialled it.
    pub server_name: String,
    /// NetBIOS name of the client.
    pub computer_name: Option<String>,
    /// Proof of the client.
    pub authenticator: Authenticator,
    /// 1 for the flags negotiated, 2 for those the client requested.
    pub query_level: u32,
}

impl Capabilities {
    /// Reads the parameters.
    pub fn read(reader: &mut NdrReader<'_>) -> Result<Self, DecodeError> {
        let server_name = read_name(reader, "ServerName")?;
        let computer_name = read_unique_name(reader, "ComputerName")?;
        let authenticator = read_authenticator(reader, "Authenticator")?;
        let _return_authenticator = read_authenticator(reader, "ReturnAuthenticator")?;
        Ok(Self { server_name, computer_name, authenticator, query_level: reader.u32("QueryLevel")? })
    }

    /// Writes the parameters.
    pub fn write(&self, writer: &mut NdrWriter) {
        writer.string(&self.server_name);
        writer.unique_string(self.computer_name.as_deref());
        write_authenticator(writer, &self.authenticator);
        write_authenticator(writer, &Authenticator::default());
        writer.u32(self.query_level);
    }
}

/// Results of NetrLogonGetCapabilities.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CapabilitiesReply {
    /// Proof of the server.
    pub return_authenticator: Authenticator,
    /// The tag of the union: the level that was asked for.
    pub level: u32,
    /// The flags.
    pub flags: u32,
    /// The return value.
    pub status: NtStatus,
}

impl CapabilitiesReply {
    /// Reads the results.
    pub fn read(reader: &mut NdrReader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            return_authenticator: read_authenticator(reader, "ReturnAuthenticator")?,
            level: reader.u32("QueryLevel")?,
            flags: reader.u32("ServerCapabilities")?,
            status: NtStatus(reader.u32("status")?),
        })
    }

    /// Writes the results.
    pub fn write(&self, writer: &mut NdrWriter) {
        write_authenticator(writer, &self.return_authenticator);
        writer.u32(self.level);
        writer.u32(self.flags);
        writer.u32(self.status.0);
    }
}

/// [MS-NRPC] 3.5.4.4.6 NetrServerPasswordSet2 (opnum 30): a new password for the channel's own account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PasswordSet2 {
    /// The server, as the client dialled it.
    pub primary_name: Option<String>,
    /// The account; only the channel's own will do.
    pub account_name: String,
    /// NETLOGON_SECURE_CHANNEL_TYPE.
    pub channel_type: u16,
    /// NetBIOS name of the client.
    pub computer_name: String,
    /// Proof of the client.
    pub authenticator: Authenticator,
    /// [MS-NRPC] 2.2.1.3.7 NL_TRUST_PASSWORD as it is sent: 512 bytes that end in the password in UTF-16LE,
    /// and its length in bytes (4 bytes, little-endian), encrypted under the session key.
    pub clear_new_password: Zeroizing<[u8; PasswordSet2::PASSWORD_LEN]>,
}

impl PasswordSet2 {
    /// Length of NL_TRUST_PASSWORD.
    pub const PASSWORD_LEN: usize = 512 // Buffer
        + 4; // Length

    /// Reads the parameters.
    pub fn read(reader: &mut NdrReader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            primary_name: read_unique_name(reader, "PrimaryName")?,
            account_name: read_name(reader, "AccountName")?,
            channel_type: reader.enum16("SecureChannelType")?,
            computer_name: read_name(reader, "ComputerName")?,
            authenticator: read_authenticator(reader, "Authenticator")?,
            clear_new_password: {
                reader.align("ClearNewPassword", 4)?;
                Zeroizing::new(reader.array("ClearNewPassword")?)
            },
        })
    }

    /// Writes the parameters.
    pub fn write(&self, writer: &mut NdrWriter) {
        writer.unique_string(self.primary_name.as_deref());
        writer.string(&self.account_name);
        writer.enum16(self.channel_type);
        writer.string(&self.computer_name);
        write_authenticator(writer, &self.authenticator);
        writer.align(4);
        writer.bytes(&self.clear_new_password[..]);
    }
}

/// Results of NetrServerPasswordSet2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PasswordSet2Reply {
    /// Proof of the server.
    pub return_authenticator: Authenticator,
    /// The return value.
    pub status: NtStatus,
}

impl PasswordSet2Reply {
    /// Reads the results.
    pub fn read(reader: &mut NdrReader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            return_authenticator: read_authenticator(reader, "ReturnAuthenticator")?,
            status: NtStatus(reader.u32("status")?),
        })
    }

    /// Writes the results.
    pub fn write(&self, writer: &mut NdrWriter) {
        write_authenticator(writer, &self.return_authenticator);
        writer.u32(self.status.0);
    }
}
