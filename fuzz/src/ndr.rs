//! NDR: parameters and results of every method, in both syntaxes and byte orders.
//!
//! The first byte chooses the message, the second the form.

use dcerpc::endpoint_mapper::{self, Endpoint, EndpointMapper};
use dcerpc::management::{MANAGEMENT, Management};
use dcerpc::ndr::{NdrReader, NdrSyntax, NdrWriter};
use dcerpc::pdu::SyntaxId;
use dtyp::{ByteOrder, DecodeError};
use netlogon_transport::message::{
    Authenticate, AuthenticateReply, Capabilities, CapabilitiesReply, GetDomainInfoRequest, LogonMethod,
    NlAuthRequest, PasswordSet2, PasswordSet2Reply, ReqChallenge, ReqChallengeReply, SamLogonReply,
    SamLogonRequest,
};
use std::fmt::Debug;

/// Reads `bytes` as the message that they choose.
pub fn check(bytes: &[u8]) {
    let [kind, form, stub @ ..] = bytes else { return };
    let syntax = if form & 1 == 0 { NdrSyntax::Ndr } else { NdrSyntax::Ndr64 };
    let order = if form & 2 == 0 { ByteOrder::Little } else { ByteOrder::Big };
    let message = Message { stub, syntax, order };
    let method = [LogonMethod::Ex, LogonMethod::WithFlags, LogonMethod::Plain][usize::from(form >> 2) % 3];
    match kind % 16 {
        0 => message.again(ReqChallenge::read, ReqChallenge::write),
        1 => message.again(ReqChallengeReply::read, ReqChallengeReply::write),
        2 => message.again(Authenticate::read, Authenticate::write),
        3 => message.again(|r| AuthenticateReply::read(r, true), AuthenticateReply::write),
        4 => message.again(|r| AuthenticateReply::read(r, false), AuthenticateReply::write),
        5 => message.again(Capabilities::read, Capabilities::write),
        6 => message.again(CapabilitiesReply::read, CapabilitiesReply::write),
        7 => message.again(PasswordSet2::read, PasswordSet2::write),
        8 => message.again(PasswordSet2Reply::read, PasswordSet2Reply::write),
        9 => drop(GetDomainInfoRequest::read(&mut message.reader())),
        10 => message.logon(method),
        11 => message.logon_reply(method),
        12 => message.endpoint_mapper(u16::from(form >> 4)),
        13 => message.management(u16::from(form >> 4)),
        14 => drop(endpoint_mapper::map_ports(stub, order)),
        _ => token(stub),
    }
}

struct Message<'a> {
    stub: &'a [u8],
    syntax: NdrSyntax,
    order: ByteOrder,
}

impl<'a> Message<'a> {
    fn reader(&self) -> NdrReader<'a> {
        NdrReader::new(self.stub, self.syntax, self.order)
    }

    /// What is read is written and read again, the same; and no byte of it can be missing.
    fn again<T: PartialEq + Debug>(
        &self,
        read: impl Fn(&mut NdrReader<'_>) -> Result<T, DecodeError>,
        write: impl Fn(&T, &mut NdrWriter),
    ) {
        let Ok(value) = read(&mut self.reader()) else { return };
        let mut writer = NdrWriter::new(self.syntax);
        write(&value, &mut writer);
        let written = writer.into_bytes();
        let read = |bytes| read(&mut NdrReader::new(bytes, self.syntax, ByteOrder::Little));
        assert_eq!(read(&written).as_ref(), Ok(&value));
        assert!(read(&written[..written.len() - 1]).is_err(), "a byte was not read");
    }

    fn logon(&self, method: LogonMethod) {
        let Ok(request) = SamLogonRequest::read(&mut self.reader(), method) else { return };
        if let Some(generic) = request.generic {
            assert_eq!(request.logon_level, 4);
            assert!(generic.logon_data.len() <= self.stub.len());
            let names = [Some(generic.package_name), request.computer_name, request.logon_server];
            names.into_iter().flatten().for_each(|name| drop(name.text("name")));
        }
    }

    fn logon_reply(&self, method: LogonMethod) {
        let Ok(reply) = SamLogonReply::read(&mut self.reader(), method) else { return };
        let mut writer = NdrWriter::new(self.syntax);
        let data = reply.write(&mut writer, method);
        let written = writer.into_bytes();
        assert_eq!(&written[data], reply.validation_data.unwrap_or_default());
        let mut reader = NdrReader::new(&written, self.syntax, ByteOrder::Little);
        assert_eq!(SamLogonReply::read(&mut reader, method), Ok(reply));
    }

    fn endpoint_mapper(&self, opnum: u16) {
        let endpoint = |address: &str, annotation: &'static str| Endpoint {
            interface: MANAGEMENT,
            transfer_syntax: SyntaxId::NDR,
            address: address.parse().expect("an address"),
            annotation,
        };
        let endpoints = vec![endpoint("127.0.0.1:49664", "one"), endpoint("[::1]:49665", "two")];
        let mapper = EndpointMapper { endpoints };
        let Ok(results) = mapper.call(opnum, self.stub, self.syntax, self.order) else { return };
        assert!(results.len() < 64 * 1024, "a small question has a small answer");
        if opnum == 3 && self.syntax == NdrSyntax::Ndr {
            let ports = endpoint_mapper::map_ports(&results, ByteOrder::Little).expect("our own");
            assert!(ports.iter().all(|port| [49664, 49665].contains(port)) && ports.len() <= 2);
        }
    }

    fn management(&self, opnum: u16) {
        let management = Management::new(vec![MANAGEMENT]);
        if let Ok(results) = management.call(opnum, self.stub, self.syntax, self.order) {
            assert!((4..128).contains(&results.len()));
        }
    }
}

/// The token of a bind names one computer and at least one domain.
fn token(bytes: &[u8]) {
    let Ok(token) = NlAuthRequest::decode(bytes) else { return };
    assert!(!token.computer.is_empty() && !token.domains.is_empty());
    assert!(token.domains.iter().all(|domain| !domain.is_empty()));
    let again = NlAuthRequest::decode(&NlAuthRequest::encode(&token.domains[0], &token.computer));
    let domains = vec![token.domains[0].clone()];
    assert_eq!(again, Ok(NlAuthRequest { domains, computer: token.computer }));
}
