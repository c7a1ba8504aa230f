use super::*;
use crate::test::unhex;
use dtyp::{ByteOrder, DecodeErrorKind};

/// "\\DC1" as LOGONSRV_HANDLE and "WEB1" as `[string]`, from the op 4 stub of the Netlogon digest.
const DC1: &str = "00000200060000000000000006000000\
                   5c005c004400430031000000";
const WEB1: &str = "0500000000000000050000005700450042003100000000";

#[test]
fn reads_and_writes_strings_as_the_digest_shows_them() {
    let stub = unhex(DC1);
    let mut reader = NdrReader::new(&stub, NdrSyntax::Ndr, ByteOrder::Little);
    let text = reader.unique_string("ServerName", 256).expect("well formed").expect("not null");
    assert_eq!(text.text("ServerName").as_deref(), Ok(r"\\DC1"));
    assert!(text.eq_ignore_ascii_case(r"\\dc1") && !text.eq_ignore_ascii_case(r"\\dc2"));
    assert_eq!(reader.remaining(), 0);

    let mut writer = NdrWriter::new(NdrSyntax::Ndr);
    writer.unique_string(Some(r"\\DC1"));
    assert_eq!(writer.into_bytes(), stub);
}

#[test]
fn a_string_must_end_in_its_only_nul_and_stay_in_range() {
    let read = |stub: &[u8], max| {
        NdrReader::new(stub, NdrSyntax::Ndr, ByteOrder::Little)
            .string("ComputerName", max)
            .map(|text| text.text("ComputerName").expect("ASCII"))
            .map_err(|error| error.kind)
    };
    let stub = unhex(WEB1);
    assert_eq!(read(&stub, 5).as_deref(), Ok("WEB1"));
    assert_eq!(read(&stub, 4), Err(DecodeErrorKind::TooLong));
    for (at, value, kind) in [
        (20, b'x', DecodeErrorKind::BadText), // no NUL at the end
        (14, 0, DecodeErrorKind::BadText),    // a NUL inside
        (4, 1, DecodeErrorKind::BadValue),    // offset not zero
        (8, 6, DecodeErrorKind::TooLong),     // actual above maximum
        (8, 0, DecodeErrorKind::BadText),     // not even a NUL
        (3, 0xff, DecodeErrorKind::TooLong),  // maximum beyond the range
        (11, 0xff, DecodeErrorKind::TooLong), // actual beyond the maximum
    ] {
        let mut stub = stub.clone();
        stub[at] = value;
        if at == 14 {
            stub[15] = 0;
        }
        assert_eq!(read(&stub, 256), Err(kind), "byte {at} = {value}");
    }
    for len in 0..22 {
        assert!(read(&stub[..len], 256).is_err(), "cut to {len}");
    }
}

#[test]
fn reads_big_endian_text_and_numbers() {
    let stub = unhex("00000003 00000000 00000003 0041 0042 0000 0000 00000007");
    let mut reader = NdrReader::new(&stub, NdrSyntax::Ndr, ByteOrder::Big);
    assert_eq!(reader.string("name", 256).and_then(|text| text.text("name")).as_deref(), Ok("AB"));
    assert_eq!(reader.u32("number"), Ok(7));
}

#[test]
fn ndr64_widens_counts_pointers_and_enumerations() {
    // The first parameters of the NDR64 stub in the Netlogon digest, section 10.4.
    let stub = unhex(
        "0000020000000000 0600000000000000 0000000000000000 0600000000000000 5c005c004400430031000000 00000000",
    );
    let mut reader = NdrReader::new(&stub, NdrSyntax::Ndr64, ByteOrder::Little);
    let text = reader.unique_string("LogonServer", 256).expect("well formed").expect("not null");
    assert!(text.eq_ignore_ascii_case(r"\\DC1"));

    let mut writer = NdrWriter::new(NdrSyntax::Ndr64);
    writer.unique_string(Some(r"\\DC1"));
    writer.align_pointer();
    assert_eq!(writer.into_bytes(), stub);

    let mut writer = NdrWriter::new(NdrSyntax::Ndr64);
    writer.u16(1);
    writer.enum16(4);
    assert_eq!(writer.into_bytes(), [1, 0, 0, 0, 4, 0, 0, 0]);
    assert!(NdrReader::new(&[0, 0, 1, 0], NdrSyntax::Ndr64, ByteOrder::Little).enum16("level").is_err());
}

#[test]
fn unicode_string_checks_lengths_against_what_follows() {
    let check = |header: &str, rest: &str| {
        let stub = unhex(&format!("{header}{rest}"));
        let mut reader = NdrReader::new(&stub, NdrSyntax::Ndr, ByteOrder::Little);
        let header = UnicodeStringHeader::scalars(&mut reader, "name").map_err(|error| error.kind)?;
        let text = header.referent(&mut reader, "name").map_err(|error| error.kind)?;
        Ok(text.text("name").expect("ASCII"))
    };
    let ab = "02000000 00000000 02000000 41004200";
    assert_eq!(check("0400 0400 00000200", ab).as_deref(), Ok("AB"));
    // Windows leaves room for a NUL that it does not send.
    assert_eq!(check("0400 0600 00000200", "03000000 00000000 02000000 41004200").as_deref(), Ok("AB"));
    assert_eq!(check("0000 0000 00000000", "").as_deref(), Ok(""));
    // Impacket sends empty strings as a pointer to nothing.
    assert_eq!(check("0000 0000 00000200", "00000000 00000000 00000000").as_deref(), Ok(""));
    assert_eq!(check("0400 0400 00000000", ""), Err(DecodeErrorKind::NullPointer));
    assert_eq!(check("0300 0400 00000200", ab), Err(DecodeErrorKind::BadValue));
    assert_eq!(check("0600 0400 00000200", ab), Err(DecodeErrorKind::BadValue));
    assert_eq!(check("0200 0400 00000200", ab), Err(DecodeErrorKind::Mismatch));
    assert_eq!(check("0400 0400 00000200", &ab[..31]), Err(DecodeErrorKind::Truncated));
}

#[test]
fn counts_are_compared_with_the_bytes_that_are_there() {
    let huge = unhex("ffffffff 00");
    let mut reader = NdrReader::new(&huge, NdrSyntax::Ndr, ByteOrder::Little);
    let error = reader.conformance("GroupIds", u32::MAX as usize, 8).expect_err("34 GB are not there");
    assert_eq!(error.kind, DecodeErrorKind::Truncated);

    let three = unhex("03000000 010203");
    let read = |expected| {
        NdrReader::new(&three, NdrSyntax::Ndr, ByteOrder::Little).conformant_bytes("LogonData", expected)
    };
    assert_eq!(read(3), Ok(&[1, 2, 3][..]));
    assert_eq!(read(4).map_err(|error| error.kind), Err(DecodeErrorKind::Mismatch));
}

#[test]
fn rpc_sid_repeats_its_count() {
    let sid = "S-1-5-21-3623811015-3361044348-30300820".parse().expect("a SID");
    let mut writer = NdrWriter::new(NdrSyntax::Ndr);
    writer.sid(&sid);
    let stub = writer.into_bytes();
    // LogonDomainId of the worked example in the digest of [MS-PAC].
    assert_eq!(stub, unhex("04000000 010400000000000515000000c7f7fed77c7755c8945ace01"));
    let read = |stub: &[u8]| NdrReader::new(stub, NdrSyntax::Ndr, ByteOrder::Little).sid("LogonDomainId");
    assert_eq!(read(&stub), Ok(sid));
    let mut lies = stub.clone();
    lies[0] = 3;
    assert_eq!(read(&lies).map_err(|error| error.kind), Err(DecodeErrorKind::Mismatch));
    lies[0] = 16;
    assert_eq!(read(&lies).map_err(|error| error.kind), Err(DecodeErrorKind::TooLong));
}

#[test]
fn type_serialization_says_its_own_length() {
    let mut out = Vec::new();
    write_type_serialization(&mut out, |writer| writer.u32(7));
    assert_eq!(out, unhex("01100800cccccccc 0800000000000000 07000000 00000000"));
    assert_eq!(read_type_serialization("blob", &out).and_then(|mut reader| reader.u32("n")), Ok(7));
    for (at, value) in [(0, 2), (1, 0x20), (2, 16), (8, 9), (11, 0xff)] {
        let mut bad = out.clone();
        bad[at] = value;
        assert!(read_type_serialization("blob", &bad).is_err(), "byte {at}");
    }
    let big = unhex("0100000800000000 0000000800000000 0000000700000000");
    assert_eq!(read_type_serialization("blob", &big).and_then(|mut reader| reader.u32("n")), Ok(7));
}

/// Text is taken as it stands: the short way for ASCII and the other one give the same, wherever it turns.
#[test]
fn text_is_read_whatever_its_letters() {
    for (units, text) in [
        (vec![], Some("")),
        (vec![0x41, 0x7f], Some("A\u{7f}")),
        (vec![0x80], Some("\u{80}")),
        (vec![0x41, 0xe9, 0x42], Some("AéB")),
        (vec![0x41, 0xd83d, 0xde00, 0x42], Some("A😀B")),
        (vec![0x41, 0xd83d], None),
        (vec![0xd83d, 0x41], None),
        (vec![0xde00], None),
        (vec![0x41, 0], None),
        (vec![0xe9, 0, 0x41], None),
    ] {
        let bytes: Vec<u8> = units.iter().copied().flat_map(u16::to_le_bytes).collect();
        let read = WideStr::new(&bytes, ByteOrder::Little).text("name").ok();
        assert_eq!(read.as_deref(), text, "{units:x?}");
    }
}
