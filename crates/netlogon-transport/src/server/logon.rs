//! Generic pass-through: opnums 39, 45 and 2 ([MS-NRPC] 3.5.4.5.1), and what is left of 3.

use super::{Denied, Inner, NetlogonCall, ResponseCrypt, SecureChannel, reader};
use crate::credential::Authenticator;
use crate::message::{GenericLogon, LogonMethod, SamLogonReply, SamLogonRequest};
use crate::package::{PackageCall, PackageReply};
use bytes::Bytes;
use dcerpc::ndr::{NdrWriter, WideStr};
use dcerpc::pdu::FaultStatus;
use dcerpc::server::Reply;
use dtyp::NtStatus;
use std::sync::Arc;
use tower::ServiceExt;

const LEVEL_GENERIC: u16 = 4;
const VALIDATION_GENERIC2: u16 = 5;
/// ExtraFlags A and B: only a controller at the forest's root, or beyond its border, may answer.
const EXTRA_FLAGS_ELSEWHERE: u32 = 0x3;

impl Inner {
    pub(super) async fn logon(&self, call: &NetlogonCall, method: LogonMethod) -> Result<Reply, FaultStatus> {
        let request = SamLogonRequest::read(&mut reader(call), method)?;
        if !(2..=7).contains(&request.validation_level) {
            // The union has no arm for it, so there is no answer either.
            return Err(FaultStatus::BAD_STUB_DATA);
        }
        let mut returned = None;
        let reply = match self.admit(call, &request, method, &mut returned).await {
            Ok((channel, logon)) => self.pass_through(call, channel, logon).await,
            Err(denied) => PackageReply::refused(denied.status, denied.authoritative),
        };
        let PackageReply { status, authoritative, data } = reply;
        let reply = SamLogonReply::<Bytes> {
            return_authenticator: request.wants_return_authenticator.then(|| returned.unwrap_or_default()),
            validation_level: request.validation_level,
            validation_data: data.filter(|_| status.is_success()),
            authoritative,
            extra_flags: request.extra_flags,
            status,
        };
        let len = 64 + reply.validation_data.as_ref().map_or(0, Bytes::len);
        let mut writer = NdrWriter::with_capacity(call.call.syntax, len);
        let data = reply.write(&mut writer, method);
        let inner = (self.parts.response_crypt == ResponseCrypt::Encrypt && !data.is_empty()).then_some(data);
        Ok(Reply { stub: writer.into_bytes(), inner })
    }

    /// The checks of [MS-NRPC] 3.5.4.5.1, in their order.
    async fn admit<'a>(
        &self,
        call: &NetlogonCall,
        request: &SamLogonRequest<'a>,
        method: LogonMethod,
        returned: &mut Option<Authenticator>,
    ) -> Result<(Arc<SecureChannel>, GenericLogon<'a>), Denied> {
        let deny = |status| Err(Denied::with(status));
        let channel = self.channel(call).await?;
        if !request.computer_name.is_some_and(|name| name.eq_ignore_ascii_case(&channel.computer)) {
            return deny(NtStatus::ACCESS_DENIED);
        }
        if method != LogonMethod::Ex {
            if let Some(authenticator) = &request.authenticator {
                *returned = self.advance(&channel, authenticator).await?;
            }
            if returned.is_none() {
                return deny(NtStatus::ACCESS_DENIED);
            }
        }
        if request.logon_level != LEVEL_GENERIC {
            return deny(NtStatus::NOT_SUPPORTED);
        }
        let Some(logon) = request.generic else { return deny(NtStatus::INVALID_PARAMETER) };
        if self.parts.names.strict_server_name && !self.is_our_name(request.logon_server) {
            return deny(NtStatus::INVALID_COMPUTER_NAME);
        }
        if request.extra_flags & EXTRA_FLAGS_ELSEWHERE != 0 {
            return deny(NtStatus::NO_SUCH_USER);
        }
        if request.validation_level != VALIDATION_GENERIC2 {
            return deny(NtStatus::INVALID_INFO_CLASS);
        }
        Ok((channel, logon))
    }

    fn is_our_domain(&self, name: WideStr<'_>) -> bool {
        let domain = &self.parts.names.domain;
        name.is_empty()
            || name.eq_ignore_ascii_case(&domain.netbios)
            || name.eq_ignore_ascii_case(&domain.dns)
    }

    fn is_our_name(&self, name: Option<WideStr<'_>>) -> bool {
        let Some(name) = name.and_then(|name| name.text("LogonServer").ok()) else { return false };
        let name = name.trim_start_matches('\\').trim_end_matches('.');
        let names = &self.parts.names;
        let full = format!("{}.{}", names.server, names.domain.dns);
        name.eq_ignore_ascii_case(&names.server) || name.eq_ignore_ascii_case(&full)
    }

    async fn pass_through(
        &self,
        call: &NetlogonCall,
        channel: Arc<SecureChannel>,
        logon: GenericLogon<'_>,
    ) -> PackageReply {
        let malformed = PackageReply::refused(NtStatus::INVALID_PARAMETER, true);
        let (Ok(package), Ok(logon_domain_name)) =
            (logon.package_name.text("PackageName"), logon.logon_domain_name.text("LogonDomainName"))
        else {
            return malformed;
        };
        let Some(service) = self.parts.packages.find(&package) else {
            // Another domain comes before what it would be asked ([MS-NRPC] 3.5.4.5.1).
            let status = match self.is_our_domain(logon.logon_domain_name) {
                true => NtStatus::NO_SUCH_PACKAGE,
                false => NtStatus::NO_SUCH_USER,
            };
            return PackageReply::refused(status, true);
        };
        let mut data = logon.logon_data.to_vec();
        channel.keys.decrypt_inner(&mut data);
        let extension = call.call.extension.clone();
        let call = PackageCall { data, logon_domain_name, channel, extension, address: call.address };
        match service.clone().oneshot(call).await {
            Ok(reply) => reply,
            Err(never) => match never {},
        }
    }

    /// NetrLogonSamLogoff (opnum 3): no user is logged on, so none is logged off.
    pub(super) async fn logoff(&self, call: &NetlogonCall) -> Result<Reply, FaultStatus> {
        let request = SamLogonRequest::read_envelope(&mut reader(call), LogonMethod::Plain)?;
        let (returned, status) = match (self.channel(call).await, &request.authenticator) {
            (Err(denied), _) => (None, denied.status),
            (Ok(channel), Some(authenticator)) => match self.advance(&channel, authenticator).await {
                Ok(Some(returned)) => (Some(returned), NtStatus::NOT_SUPPORTED),
                Ok(None) => (None, NtStatus::ACCESS_DENIED),
                Err(denied) => (None, denied.status),
            },
            (Ok(_), None) => (None, NtStatus::ACCESS_DENIED),
        };
        let mut writer = NdrWriter::new(call.call.syntax);
        writer.pointer(request.wants_return_authenticator);
        if request.wants_return_authenticator {
            crate::message::write_authenticator(&mut writer, &returned.unwrap_or_default());
        }
        writer.u32(status.0);
        Ok(writer.into_bytes().into())
    }
}
