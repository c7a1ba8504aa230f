//! Generic pass-through in its three envelopes: opnums 39, 45 and 2 ([MS-NRPC] 3.5.4.5.1 to 3.5.4.5.3), and
//! opnum 3.

use super::{NAME_UNITS_MAX, opnum, read_authenticator, write_authenticator};
use crate::credential::Authenticator;
use dcerpc::ndr::{NdrReader, NdrSyntax, NdrWriter, UnicodeStringHeader, WideStr};
use dtyp::{ByteOrder, DecodeError, DecodeErrorKind, NtStatus};
use std::ops::Range;

/// Which method carries the logon; they differ in authenticators and flags.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogonMethod {
    /// NetrLogonSamLogonEx (opnum 39): flags, no authenticators.
    Ex,
    /// NetrLogonSamLogonWithFlags (opnum 45): both.
    WithFlags,
    /// NetrLogonSamLogon (opnum 2): authenticators, no flags.
    Plain,
}

impl LogonMethod {
    /// The method's number.
    pub const fn opnum(self) -> u16 {
        match self {
            Self::Ex => opnum::LOGON_SAM_LOGON_EX,
            Self::WithFlags => opnum::LOGON_SAM_LOGON_WITH_FLAGS,
            Self::Plain => opnum::LOGON_SAM_LOGON,
        }
    }

    const fn has_authenticators(self) -> bool {
        !matches!(self, Self::Ex)
    }

    const fn has_flags(self) -> bool {
        !matches!(self, Self::Plain)
    }
}

/// NETLOGON_LOGON_INFO_CLASS: NetlogonGenericInformation.
pub(crate) const LEVEL_GENERIC: u16 = 4;
/// NETLOGON_VALIDATION_INFO_CLASS: NetlogonValidationGenericInfo2.
pub(crate) const VALIDATION_GENERIC2: u16 = 5;
/// Longest LogonData: the longest RCMP request, with room; the packages check their own limits.
const LOGON_DATA_LEN_MAX: usize = 1024 * 1024;

/// Parameters of a logon, borrowed from the stub.
#[derive(Clone, Debug)]
pub struct SamLogonRequest<'a> {
    /// The server, as the client dialled it.
    pub logon_server: Option<WideStr<'a>>,
    /// NetBIOS name of the client.
    pub computer_name: Option<WideStr<'a>>,
    /// Proof of the client, in the methods that have it.
    pub authenticator: Option<Authenticator>,
    /// Whether the client gave a place for the server's proof.
    pub wants_return_authenticator: bool,
    /// LogonLevel.
    pub logon_level: u16,
    /// The generic logon; `None` for a null pointer, and for every other level.
    pub generic: Option<GenericLogon<'a>>,
    /// ValidationLevel.
    pub validation_level: u16,
    /// ExtraFlags.
    pub extra_flags: u32,
}

/// [MS-NRPC] 2.2.1.4.2 NETLOGON_GENERIC_INFO, the fields that have a meaning.
#[derive(Clone, Copy, Debug)]
pub struct GenericLogon<'a> {
    /// NetBIOS (or DNS) name of the account's domain.
    pub logon_domain_name: WideStr<'a>,
    /// Which package on the other side is meant.
    pub package_name: WideStr<'a>,
    /// The package's message, encrypted under the session key.
    pub logon_data: &'a [u8],
}

impl<'a> SamLogonRequest<'a> {
    /// Reads the parameters. Of the logons that are not generic only the size is understood, because the
    /// levels behind them are part of the answer.
    pub fn read(reader: &mut NdrReader<'a>, method: LogonMethod) -> Result<Self, DecodeError> {
        let mut request = Self::read_envelope(reader, method)?;
        request.logon_level = reader.enum16("LogonLevel")?;
        reader.align_union("LogonInformation")?;
        if reader.enum16("LogonInformation")? != request.logon_level {
            return Err(reader.error("LogonInformation", DecodeErrorKind::Mismatch));
        }
        if reader.pointer("LogonInformation")? {
            match request.logon_level {
                LEVEL_GENERIC => request.generic = Some(GenericLogon::read(reader)?),
                level => skip_logon(reader, level)?,
            }
        }
        request.validation_level = validation_level(reader, method)?;
        if method.has_flags() {
            request.extra_flags = reader.u32("ExtraFlags")?;
        }
        Ok(request)
    }

    /// Reads what stands before the level: names and authenticators, as opnum 3 has them too.
    pub(crate) fn read_envelope(
        reader: &mut NdrReader<'a>,
        method: LogonMethod,
    ) -> Result<Self, DecodeError> {
        let logon_server = reader.unique_string("LogonServer", NAME_UNITS_MAX)?;
        let computer_name = reader.unique_string("ComputerName", NAME_UNITS_MAX)?;
        let (authenticator, wants_return_authenticator) = read_authenticators(reader, method)?;
        Ok(Self {
            logon_server,
            computer_name,
            authenticator,
            wants_return_authenticator,
            logon_level: 0,
            generic: None,
            validation_level: 0,
            extra_flags: 0,
        })
    }
}

/// ValidationLevel is an enumeration, which NDR64 sends as 32 bits ([MS-RPCE] 2.2.5.2.1). Samba sends 16 and
/// no more, which shows where too little is left for 32; and NDR64 in big-endian order is not used by others.
pub(super) fn validation_level(reader: &mut NdrReader<'_>, method: LogonMethod) -> Result<u16, DecodeError> {
    let what = "ValidationLevel";
    let mut ahead = reader.clone();
    let behind = if method.has_flags() { 4 } else { 0 };
    let is_short = ahead.align(what, 4).is_err() || ahead.remaining() < 4 + behind;
    match reader.syntax() == NdrSyntax::Ndr64 && (is_short || reader.order() == ByteOrder::Big) {
        true => reader.u16(what),
        false => reader.enum16(what),
    }
}

/// Passes over [MS-NRPC] 2.2.1.4.3 to 2.2.1.4.5, the logons with names and passwords.
fn skip_logon(reader: &mut NdrReader<'_>, level: u16) -> Result<(), DecodeError> {
    let (is_network, what) = match level {
        1 | 3 | 5 | 7 => (false, "LogonInformation"),
        2 | 6 => (true, "LogonNetwork"),
        _ => return Err(reader.error("LogonInformation", DecodeErrorKind::BadValue)),
    };
    let identity = Identity::scalars(reader)?;
    if !is_network {
        reader.bytes(what, 32)?;
        reader.end_of_structure(what)?;
        identity.referents(reader)?;
        return Ok(());
    }
    reader.bytes(what, 8)?;
    let mut responses = [false; 2];
    for present in &mut responses {
        reader.align_pointer(what)?;
        let _lengths = (reader.u16(what)?, reader.u16(what)?);
        *present = reader.pointer(what)?;
    }
    identity.referents(reader)?;
    for _ in responses.into_iter().filter(|present| *present) {
        let max = reader.count(what, usize::from(u16::MAX))?;
        reader.count(what, 0)?;
        let actual = reader.count(what, max)?;
        reader.bytes(what, actual)?;
    }
    Ok(())
}

/// NETLOGON_LOGON_IDENTITY_INFO ([MS-NRPC] 2.2.1.4.15), of which only the domain is of use.
struct Identity {
    logon_domain_name: UnicodeStringHeader,
    user_name: UnicodeStringHeader,
    workstation: UnicodeStringHeader,
}

impl Identity {
    fn scalars(reader: &mut NdrReader<'_>) -> Result<Self, DecodeError> {
        reader.align_pointer("Identity")?;
        let logon_domain_name = UnicodeStringHeader::scalars(reader, "LogonDomainName")?;
        let _parameter_control = reader.u32("ParameterControl")?;
        // OLD_LARGE_INTEGER: two words, aligned to 4.
        let _reserved = (reader.u32("Reserved")?, reader.u32("Reserved")?);
        let user_name = UnicodeStringHeader::scalars(reader, "UserName")?;
        let workstation = UnicodeStringHeader::scalars(reader, "Workstation")?;
        Ok(Self { logon_domain_name, user_name, workstation })
    }

    fn referents<'a>(self, reader: &mut NdrReader<'a>) -> Result<WideStr<'a>, DecodeError> {
        let logon_domain_name = self.logon_domain_name.referent(reader, "LogonDomainName")?;
        self.user_name.referent(reader, "UserName")?;
        self.workstation.referent(reader, "Workstation")?;
        Ok(logon_domain_name)
    }
}

fn read_authenticators(
    reader: &mut NdrReader<'_>,
    method: LogonMethod,
) -> Result<(Option<Authenticator>, bool), DecodeError> {
    if !method.has_authenticators() {
        return Ok((None, false));
    }
    let authenticator = match reader.pointer("Authenticator")? {
        true => Some(read_authenticator(reader, "Authenticator")?),
        false => None,
    };
    let wants_return = reader.pointer("ReturnAuthenticator")?;
    if wants_return {
        read_authenticator(reader, "ReturnAuthenticator")?;
    }
    Ok((authenticator, wants_return))
}

impl<'a> GenericLogon<'a> {
    fn read(reader: &mut NdrReader<'a>) -> Result<Self, DecodeError> {
        let identity = Identity::scalars(reader)?;
        let package_name = UnicodeStringHeader::scalars(reader, "PackageName")?;
        let data_length = reader.u32("DataLength")? as usize;
        let has_data = reader.pointer("LogonData")?;
        let logon_domain_name = identity.referents(reader)?;
        let package_name = package_name.referent(reader, "PackageName")?;
        if data_length > LOGON_DATA_LEN_MAX {
            return Err(reader.error("DataLength", DecodeErrorKind::TooLong));
        }
        let logon_data = match has_data {
            true => reader.conformant_bytes("LogonData", data_length)?,
            false if data_length == 0 => &[],
            false => return Err(reader.error("LogonData", DecodeErrorKind::NullPointer)),
        };
        Ok(Self { logon_domain_name, package_name, logon_data })
    }
}

/// What a client writes: a generic logon with `logon_data` in the clear.
#[derive(Clone, Debug)]
pub(crate) struct GenericCall<'a> {
    pub(crate) logon_server: &'a str,
    pub(crate) computer_name: &'a str,
    pub(crate) authenticator: Option<Authenticator>,
    pub(crate) logon_domain_name: &'a str,
    pub(crate) package_name: &'a str,
    pub(crate) logon_data: &'a [u8],
    pub(crate) extra_flags: u32,
}

impl GenericCall<'_> {
    /// Writes the parameters. Returns the range of LogonData, which is to be encrypted.
    pub(crate) fn write(&self, writer: &mut NdrWriter, method: LogonMethod) -> Range<usize> {
        writer.unique_string(Some(self.logon_server));
        writer.unique_string(Some(self.computer_name));
        if method.has_authenticators() {
            writer.pointer(self.authenticator.is_some());
            if let Some(authenticator) = &self.authenticator {
                write_authenticator(writer, authenticator);
            }
            writer.pointer(true);
            write_authenticator(writer, &Authenticator::default());
        }
        writer.enum16(LEVEL_GENERIC);
        writer.align_union();
        writer.enum16(LEVEL_GENERIC);
        writer.pointer(true);
        writer.align_pointer();
        UnicodeStringHeader::write_scalars(writer, self.logon_domain_name);
        (0..3).for_each(|_| writer.u32(0));
        UnicodeStringHeader::write_scalars(writer, "");
        UnicodeStringHeader::write_scalars(writer, "");
        UnicodeStringHeader::write_scalars(writer, self.package_name);
        writer.u32(self.logon_data.len() as u32);
        writer.pointer(true);
        UnicodeStringHeader::write_referent(writer, self.logon_domain_name);
        UnicodeStringHeader::write_referent(writer, self.package_name);
        writer.conformant_bytes(self.logon_data);
        let data = writer.position() - self.logon_data.len()..writer.position();
        writer.enum16(VALIDATION_GENERIC2);
        if method.has_flags() {
            writer.u32(self.extra_flags);
        }
        data
    }
}

/// Results of a logon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SamLogonReply<D> {
    /// Proof of the server, in the methods that have it and when the client gave a place for it.
    pub return_authenticator: Option<Authenticator>,
    /// The tag of the union: the level that was asked for.
    pub validation_level: u16,
    /// [MS-NRPC] 2.2.1.4.8 NETLOGON_VALIDATION_GENERIC_INFO2: the package's answer; `None` for a null
    /// pointer.
    pub validation_data: Option<D>,
    /// Whether the answer is final, so that no other server need be asked.
    pub authoritative: bool,
    /// ExtraFlags, in the methods that have them.
    pub extra_flags: u32,
    /// The return value.
    pub status: NtStatus,
}

impl<D: AsRef<[u8]>> SamLogonReply<D> {
    /// Writes the results. Returns the range of the validation data, which is to be encrypted.
    pub fn write(&self, writer: &mut NdrWriter, method: LogonMethod) -> Range<usize> {
        if method.has_authenticators() {
            writer.pointer(self.return_authenticator.is_some());
            if let Some(authenticator) = &self.return_authenticator {
                write_authenticator(writer, authenticator);
            }
        }
        writer.align_pointer();
        writer.enum16(self.validation_level);
        writer.pointer(self.validation_data.is_some());
        let mut data = 0..0;
        if let Some(bytes) = &self.validation_data {
            let bytes = bytes.as_ref();
            writer.align_pointer();
            writer.u32(bytes.len() as u32);
            writer.pointer(!bytes.is_empty());
            if !bytes.is_empty() {
                writer.conformant_bytes(bytes);
                data = writer.position() - bytes.len()..writer.position();
            }
        }
        writer.u8(u8::from(self.authoritative));
        if method.has_flags() {
            writer.u32(self.extra_flags);
        }
        writer.u32(self.status.0);
        data
    }
}

impl<'a> SamLogonReply<&'a [u8]> {
    /// Reads the results; the tag must be that of a generic validation.
    pub fn read(reader: &mut NdrReader<'a>, method: LogonMethod) -> Result<Self, DecodeError> {
        let return_authenticator =
            match method.has_authenticators() && reader.pointer("ReturnAuthenticator")? {
                true => Some(read_authenticator(reader, "ReturnAuthenticator")?),
                false => None,
            };
        reader.align_pointer("ValidationInformation")?;
        let validation_level = reader.enum16("ValidationInformation")?;
        if validation_level != VALIDATION_GENERIC2 {
            return Err(reader.error("ValidationInformation", DecodeErrorKind::BadValue));
        }
        let validation_data = match reader.pointer("ValidationInformation")? {
            false => None,
            true => {
                reader.align_pointer("ValidationInformation")?;
                let len = reader.u32("DataLength")? as usize;
                match reader.pointer("ValidationData")? {
                    true => Some(reader.conformant_bytes("ValidationData", len)?),
                    false if len == 0 => Some(&[][..]),
                    false => return Err(reader.error("ValidationData", DecodeErrorKind::NullPointer)),
                }
            }
        };
        Ok(Self {
            return_authenticator,
            validation_level,
            validation_data,
            authoritative: reader.u8("Authoritative")? != 0,
            extra_flags: if method.has_flags() { reader.u32("ExtraFlags")? } else { 0 },
            status: NtStatus(reader.u32("status")?),
        })
    }
}
