use super::generic::GenericCall;
use super::*;
use crate::test::{unhex, unhex_vec};
use dcerpc::ndr::NdrSyntax;
use dtyp::{ByteOrder, NtStatus};

const SERVER: &str = r"\\DC1";

fn reader(stub: &[u8], syntax: NdrSyntax) -> NdrReader<'_> {
    NdrReader::new(stub, syntax, ByteOrder::Little)
}

fn written(syntax: NdrSyntax, write: impl FnOnce(&mut NdrWriter)) -> Vec<u8> {
    let mut writer = NdrWriter::new(syntax);
    write(&mut writer);
    writer.into_bytes()
}

/// The stubs of the digest of [MS-NRPC], sections 4.3, 10.4, 10.5 and 11.1.
const REQ_CHALLENGE: &str = "00000200 06000000 00000000 06000000 5c005c004400430031000000
    05000000 00000000 05000000 57004500420031000000 3a0390a46d0c3d4f";
const AUTHENTICATE: &str = "00000200 06000000 00000000 06000000 5c005c004400430031000000
    06000000 00000000 06000000 570045004200310024000000 0200 0000
    05000000 00000000 05000000 57004500420031000000 c43e8c706184b992 0000 ffff2f61";
const AUTHENTICATE_REPLY: &str = "f2c027dca409fad7 ffff2f61 51040000 00000000";
const CAPABILITIES: &str = "06000000 00000000 06000000 5c005c004400430031000000 00000200
    05000000 00000000 05000000 57004500420031000000 0000
    ba3c3e2432982851 80009265 0000000000000000 00000000 01000000";
const CAPABILITIES_REPLY: &str = "bb03621d2514b7cb 00000000 01000000 ffff2f61 00000000";
const LOGON: &str = "
    000002000600000000000000060000005c005c0044004300310000000400020005000000000000000500000057004500
    420031000000040004000000080002000e000e000c000200000000000000000000000000000000000000000000000000
    0000000058005800100002000b0000001400020007000000000000000700000043004f004e0054004f0053004f000000
    2c000000000000002c0000004d006900630072006f0073006f0066007400200055006e00690066006900650064002000
    53006500630075007200690074007900200050
    0072006f0074006f0063006f006c002000500072006f00760069006400
    650072000b0000000102030405060708090a0b000500000000000000";
const LOGON_NDR64: &str = "
    00000200000000000600000000000000000000000000000006000000000000005c005c00440043003100000000000000
    040002000000000005000000000000000000000000000000050000000000000057004500420031000000000004000000
    040000000000000008000200000000000e000e00000000000c0002000000000000000000000000000000000000000000
    000000000000000000000000000000000000000000000000000000000000000058005800000000001000020000000000
    0b00000000000000140002000000000007000000000000000000000000000000070000000000000043004f004e005400
    4f0053004f0000002c0000000000000000000000000000002c000000000000004d006900630072006f0073006f006600
    7400200055006e00690066006900650064002000530065006300750072006900740079002000500072006f0074006f00
    63006f006c002000500072006f00760069006400650072000b000000000000000102030405060708090a0b0005000000
    00000000";
const LOGON_REPLY: &str =
    "05000000 00000200 0b000000 04000200 0b000000 0102030405060708090a0b 01 00000000 00000000";
const LOGON_REFUSED: &str = "05000000 00000000 01 000000 00000000 6d0000c0";
const DATA: [u8; 11] = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11];
const PACKAGE: &str = "Microsoft Unified Security Protocol Provider";

fn req_challenge() -> ReqChallenge {
    ReqChallenge {
        primary_name: Some(SERVER.into()),
        computer_name: "WEB1".into(),
        client_challenge: unhex("3a0390a46d0c3d4f"),
    }
}

fn authenticate() -> Authenticate {
    Authenticate {
        primary_name: Some(SERVER.into()),
        account_name: "WEB1$".into(),
        channel_type: 2,
        computer_name: "WEB1".into(),
        client_credential: unhex("c43e8c706184b992"),
        negotiate_flags: 0x612f_ffff,
    }
}

fn capabilities() -> Capabilities {
    Capabilities {
        server_name: SERVER.into(),
        computer_name: Some("WEB1".into()),
        authenticator: Authenticator { credential: unhex("ba3c3e2432982851"), timestamp: 0x6592_0080 },
        query_level: 1,
    }
}

fn generic_call() -> GenericCall<'static> {
    GenericCall {
        logon_server: SERVER,
        computer_name: "WEB1",
        authenticator: None,
        logon_domain_name: "CONTOSO",
        package_name: PACKAGE,
        logon_data: &DATA,
        extra_flags: 0,
    }
}

fn password_set() -> PasswordSet2 {
    PasswordSet2 {
        primary_name: None,
        account_name: "WEB1$".into(),
        channel_type: 2,
        computer_name: "WEB1".into(),
        authenticator: Authenticator { credential: [7; 8], timestamp: 9 },
        clear_new_password: zeroize::Zeroizing::new([0x5a; PasswordSet2::PASSWORD_LEN]),
    }
}

#[test]
fn stubs_are_the_vectors() {
    let ndr = |write: &dyn Fn(&mut NdrWriter)| written(NdrSyntax::Ndr, write);
    for (what, ours, vector) in [
        ("op 4", ndr(&|w| req_challenge().write(w)), REQ_CHALLENGE),
        ("op 26", ndr(&|w| authenticate().write(w)), AUTHENTICATE),
        ("op 21", ndr(&|w| capabilities().write(w)), CAPABILITIES),
        (
            "op 39",
            ndr(&|w| {
                generic_call().write(w, LogonMethod::Ex);
            }),
            LOGON,
        ),
        (
            "op 39, NDR64",
            written(NdrSyntax::Ndr64, |w| {
                generic_call().write(w, LogonMethod::Ex);
            }),
            LOGON_NDR64,
        ),
    ] {
        assert_eq!(dtyp::hex(&ours), dtyp::hex(&unhex_vec(vector)), "{what}");
    }
    let reply = AuthenticateReply {
        server_credential: unhex("f2c027dca409fad7"),
        negotiate_flags: 0x612f_ffff,
        account_rid: Some(0x451),
        status: NtStatus::SUCCESS,
    };
    assert_eq!(ndr(&|w| reply.write(w)), unhex_vec(AUTHENTICATE_REPLY));
    let reply = CapabilitiesReply {
        return_authenticator: Authenticator { credential: unhex("bb03621d2514b7cb"), timestamp: 0 },
        level: 1,
        flags: 0x612f_ffff,
        status: NtStatus::SUCCESS,
    };
    assert_eq!(ndr(&|w| reply.write(w)), unhex_vec(CAPABILITIES_REPLY));
    for (data, status, vector) in
        [(Some(&DATA[..]), NtStatus::SUCCESS, LOGON_REPLY), (None, NtStatus::LOGON_FAILURE, LOGON_REFUSED)]
    {
        let reply = SamLogonReply {
            return_authenticator: None,
            validation_level: 5,
            validation_data: data,
            authoritative: true,
            extra_flags: 0,
            status,
        };
        let mut writer = NdrWriter::new(NdrSyntax::Ndr);
        let inner = reply.write(&mut writer, LogonMethod::Ex);
        let stub = writer.into_bytes();
        assert_eq!(stub[..], unhex_vec(vector));
        assert_eq!(stub[inner], *data.unwrap_or_default());
    }
}

#[test]
fn what_is_written_is_read_back_and_no_truncation_is() {
    for syntax in [NdrSyntax::Ndr, NdrSyntax::Ndr64] {
        let check = |write: &dyn Fn(&mut NdrWriter),
                     read: &dyn Fn(&mut NdrReader<'_>) -> Result<bool, DecodeError>| {
            let stub = written(syntax, write);
            assert_eq!(read(&mut reader(&stub, syntax)), Ok(true));
            for len in 0..stub.len() {
                assert!(read(&mut reader(&stub[..len], syntax)).is_err(), "cut to {len}");
            }
        };
        check(&|w| req_challenge().write(w), &|r| Ok(ReqChallenge::read(r)? == req_challenge()));
        check(&|w| authenticate().write(w), &|r| Ok(Authenticate::read(r)? == authenticate()));
        check(&|w| capabilities().write(w), &|r| Ok(Capabilities::read(r)? == capabilities()));
        check(&|w| password_set().write(w), &|r| Ok(PasswordSet2::read(r)? == password_set()));
        let domain_info = capabilities();
        check(&|w| domain_info.write(w), &|r| Ok(GetDomainInfoRequest::read(r)?.level == 1));
        let challenge = ReqChallengeReply { server_challenge: [3; 8], status: NtStatus::SUCCESS };
        check(&|w| challenge.write(w), &|r| Ok(ReqChallengeReply::read(r)? == challenge));
        for rid in [None, Some(7)] {
            let reply = AuthenticateReply {
                server_credential: [4; 8],
                negotiate_flags: 5,
                account_rid: rid,
                status: NtStatus::ACCESS_DENIED,
            };
            check(&|w| reply.write(w), &|r| Ok(AuthenticateReply::read(r, rid.is_some())? == reply));
        }
        for method in [LogonMethod::Ex, LogonMethod::WithFlags, LogonMethod::Plain] {
            let authenticator =
                (method != LogonMethod::Ex).then_some(Authenticator { credential: [1; 8], timestamp: 2 });
            let call = GenericCall { authenticator, ..generic_call() };
            check(
                &|w| {
                    call.write(w, method);
                },
                &|r| {
                    let request = SamLogonRequest::read(r, method)?;
                    let generic = request.generic.expect("it was written");
                    assert_eq!(request.authenticator, authenticator);
                    assert!(generic.package_name.eq_ignore_ascii_case(PACKAGE));
                    assert!(generic.logon_domain_name.eq_ignore_ascii_case("contoso"));
                    // Without flags behind it, a level of NDR64 cut in half is what Samba sends.
                    if syntax == NdrSyntax::Ndr64
                        && method == LogonMethod::Plain
                        && !r.position().is_multiple_of(4)
                    {
                        return Err(r.error("ValidationLevel", dtyp::DecodeErrorKind::Truncated));
                    }
                    Ok(generic.logon_data == DATA && request.validation_level == 5)
                },
            );
            for data in [None, Some(&[][..]), Some(&DATA[..])] {
                let reply = SamLogonReply {
                    return_authenticator: authenticator,
                    validation_level: 5,
                    validation_data: data,
                    authoritative: false,
                    extra_flags: 0,
                    status: NtStatus::SUCCESS,
                };
                check(
                    &|w| {
                        reply.write(w, method);
                    },
                    &|r| Ok((SamLogonReply::read(r, method)?.validation_data) == data),
                );
            }
        }
    }
}

#[test]
fn logon_data_must_be_as_long_as_it_says() {
    let stub = unhex_vec(LOGON);
    let read = |stub: &[u8]| {
        SamLogonRequest::read(&mut reader(stub, NdrSyntax::Ndr), LogonMethod::Ex)
            .map(|request| request.logon_level)
    };
    for (at, value) in [
        (0x6c, 12),   // DataLength above the array
        (0x6f, 0xff), // DataLength beyond reason
        (0xf4, 12),   // the array above DataLength
        (0x70, 0),    // no array at all
        (0x38, 5),    // the union's tag is not the level
        (0x40, 0x0f), // an odd length of text
    ] {
        let mut bad = stub.clone();
        bad[at..at + if at == 0x70 { 4 } else { 1 }].fill(value);
        assert!(read(&bad).is_err(), "byte {at:x} = {value:x}");
    }
}

#[test]
fn numbers_that_are_no_methods_have_no_results() {
    let named = [2, 3, 4, 5, 15, 21, 26, 29, 30, 39, 45];
    for opnum in 0..100 {
        let known = opnum <= 49 && opnum != 47;
        assert_eq!(
            unsupported(opnum, NdrSyntax::Ndr).is_some(),
            known && !named.contains(&opnum),
            "opnum {opnum}"
        );
    }
    let hashes = unsupported(46, NdrSyntax::Ndr).expect("NetrServerGetTrustInfo exists");
    assert_eq!(hashes[..48], [0; 48], "no hash is told");
    assert_eq!(hashes[48..], NtStatus::NOT_SUPPORTED.0.to_le_bytes());
}

/// Made by Samba's bindings: the tag of the union stands at 2 modulo 4 in NDR 2.0, at 8 in NDR64.
#[test]
fn a_computer_name_of_any_length_leaves_the_union_where_others_put_it() {
    let ndr = "
        000002000600000000000000060000005c005c0044004300310000000400020006000000000000000600000057004500
        420030003100000004000400080002000e000e000c000200000000000000000000000000000000000000000000000000
        0000000058005800100002000b0000001400020007000000000000000700000043004f004e0054004f0053004f000000
        2c000000000000002c0000004d006900630072006f0073006f0066007400200055006e00690066006900650064002000
        530065006300750072006900740079002000500072006f0074006f0063006f006c002000500072006f00760069006400
        650072000b0000000102030405060708090a0b000500000000000000";
    let ndr64 = "
        00000200000000000600000000000000000000000000000006000000000000005c005c00440043003100000000000000
        040002000000000006000000000000000000000000000000060000000000000057004500420030003100000004000000
        040000000000000008000200000000000e000e00000000000c0002000000000000000000000000000000000000000000
        000000000000000000000000000000000000000000000000000000000000000058005800000000001000020000000000
        0b00000000000000140002000000000007000000000000000000000000000000070000000000000043004f004e005400
        4f0053004f0000002c0000000000000000000000000000002c000000000000004d006900630072006f0073006f006600
        7400200055006e00690066006900650064002000530065006300750072006900740079002000500072006f0074006f00
        63006f006c002000500072006f00760069006400650072000b000000000000000102030405060708090a0b0005000000
        00000000";
    for (syntax, vector) in [(NdrSyntax::Ndr, unhex_vec(ndr)), (NdrSyntax::Ndr64, unhex_vec(ndr64))] {
        let call = GenericCall { computer_name: "WEB01", ..generic_call() };
        let ours = written(syntax, |writer| {
            call.write(writer, LogonMethod::Ex);
        });
        assert_eq!(dtyp::hex(&ours), dtyp::hex(&vector), "{syntax:?}");
        let read =
            SamLogonRequest::read(&mut reader(&vector, syntax), LogonMethod::Ex).expect("Samba wrote it");
        assert_eq!(read.generic.expect("the level is 4").logon_data, DATA);
    }
}

/// Samba's bindings (4.17) end a question in NDR64 so, after LogonData of one to four bytes: a level of 16
/// bits.
#[test]
fn a_validation_level_of_sixteen_bits_is_read_too() {
    let ends = [
        (
            ByteOrder::Little,
            ["aa00050000000000", "aaaa050000000000", "aaaaaa000500000000000000", "aaaaaaaa0500000000000000"],
        ),
        (
            ByteOrder::Big,
            ["aa00000500000000", "aaaa000500000000", "aaaaaa000005000000000000", "aaaaaaaa0005000000000000"],
        ),
    ];
    for (order, ends) in ends {
        for (end, len) in ends.into_iter().zip(1..) {
            let bytes = unhex_vec(end);
            let mut reader = NdrReader::new(&bytes, NdrSyntax::Ndr64, order);
            reader.bytes("LogonData", len).expect("it is there");
            let level = super::generic::validation_level(&mut reader, LogonMethod::Ex);
            assert_eq!((level, reader.u32("ExtraFlags"), reader.remaining()), (Ok(5), Ok(0), 0), "{end}");
        }
    }
}
