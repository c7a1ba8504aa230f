//! NetrLogonGetDomainInfo (opnum 29), as little as a member can live on ([MS-NRPC] 3.5.4.4.9).

use super::{read_authenticator, read_name, read_unique_name, write_authenticator};
use crate::credential::Authenticator;
use dcerpc::ndr::{NdrReader, NdrWriter, UnicodeStringHeader};
use dtyp::{DecodeError, Guid, NtStatus, Sid};

/// Parameters, up to the level; the client's information about itself, which follows, is not read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GetDomainInfoRequest {
    /// The server, as the client dialled it.
    pub server_name: String,
    /// NetBIOS name of the client.
    pub computer_name: Option<String>,
    /// Proof of the client.
    pub authenticator: Authenticator,
    /// 1 for the domain, 2 for a policy that is always empty.
    pub level: u32,
}

impl GetDomainInfoRequest {
    /// Reads the parameters.
    pub fn read(reader: &mut NdrReader<'_>) -> Result<Self, DecodeError> {
        let server_name = read_name(reader, "ServerName")?;
        let computer_name = read_unique_name(reader, "ComputerName")?;
        let authenticator = read_authenticator(reader, "Authenticator")?;
        let _return_authenticator = read_authenticator(reader, "ReturnAuthenticator")?;
        Ok(Self { server_name, computer_name, authenticator, level: reader.u32("Level")? })
    }
}

/// The domain that is described.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PrimaryDomain {
    /// NetBIOS name.
    pub netbios: String,
    /// DNS name; the forest is the domain itself.
    pub dns: String,
    /// The domain's GUID; nil when it has none.
    pub guid: Guid,
    /// The domain's SID.
    pub sid: Sid,
}

/// Results of NetrLogonGetDomainInfo.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GetDomainInfoReply {
    /// Proof of the server.
    pub return_authenticator: Authenticator,
    /// The level that was asked for.
    pub level: u32,
    /// NETLOGON_DOMAIN_INFO at level 1; anything else is a null pointer.
    pub domain: Option<PrimaryDomain>,
    /// The return value.
    pub status: NtStatus,
}

/// IN_FOREST, TREE_ROOT, PRIMARY, NATIVE; then no parent, trust type 2, no attributes: what a domain says of
/// itself.
const TRUST_EXTENSION: [u16; 8] = [0x1d, 0, 0, 0, 2, 0, 0, 0];

impl GetDomainInfoReply {
    /// Writes the results.
    pub fn write(&self, writer: &mut NdrWriter) {
        write_authenticator(writer, &self.return_authenticator);
        writer.align_pointer();
        writer.u32(self.level);
        writer.pointer(self.domain.is_some() || (self.level == 2 && self.status.is_success()));
        match (&self.domain, self.level) {
            (Some(domain), _) => write_domain_info(writer, domain),
            (None, 2) if self.status.is_success() => {
                writer.align_pointer();
                writer.u32(0);
                writer.pointer(false);
            }
            (None, _) => {}
        }
        writer.u32(self.status.0);
    }
}

fn write_domain_info(writer: &mut NdrWriter, domain: &PrimaryDomain) {
    writer.align_pointer();
    one_domain_scalars(writer, domain, false);
    writer.u32(1);
    writer.pointer(true);
    writer.u32(0);
    writer.pointer(false);
    (0..4).for_each(|_| UnicodeStringHeader::write_scalars(writer, ""));
    // WorkstationFlags, SupportedEncTypes (AES), two dummies.
    [0, 0x18, 0, 0].into_iter().for_each(|word| writer.u32(word));
    writer.end_of_structure();
    one_domain_referents(writer, domain, false);
    writer.count(1);
    one_domain_scalars(writer, domain, true);
    one_domain_referents(writer, domain, true);
}

fn one_domain_scalars(writer: &mut NdrWriter, domain: &PrimaryDomain, trusted: bool) {
    writer.align_pointer();
    for name in [&domain.netbios, &domain.dns, &domain.dns] {
        UnicodeStringHeader::write_scalars(writer, name);
    }
    writer.guid(&domain.guid);
    writer.pointer(true);
    writer.align_pointer();
    // TrustExtension: 16 bytes in the clothes of a string; only the entry of the trusted domain has it.
    let extension_len = if trusted { size_of_val(&TRUST_EXTENSION) as u16 } else { 0 };
    writer.u16(extension_len);
    writer.u16(extension_len);
    writer.pointer(trusted);
    (0..3).for_each(|_| UnicodeStringHeader::write_scalars(writer, ""));
    (0..4).for_each(|_| writer.u32(0));
    writer.end_of_structure();
}

fn one_domain_referents(writer: &mut NdrWriter, domain: &PrimaryDomain, trusted: bool) {
    for name in [&domain.netbios, &domain.dns, &domain.dns] {
        UnicodeStringHeader::write_referent(writer, name);
    }
    writer.sid(&domain.sid);
    if trusted {
        writer.count(TRUST_EXTENSION.len());
        writer.count(0);
        writer.count(TRUST_EXTENSION.len());
        TRUST_EXTENSION.into_iter().for_each(|unit| writer.u16(unit));
    }
}
