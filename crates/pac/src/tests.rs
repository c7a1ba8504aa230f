use super::*;
use dtyp::{Decode, DecodeErrorKind, Encode, FileTime, Sid};

/// Bytes of a vector file: hex, and comments behind `#`.
fn vector(text: &str) -> Vec<u8> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let digits: Vec<u8> = lines.flat_map(str::bytes).filter(u8::is_ascii_hexdigit).collect();
    digits
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).expect("ASCII"), 16).expect("hex"))
        .collect()
}

fn worked_example() -> Vec<u8> {
    vector(include_str!("../tests/vectors/worked-example.hex"))
}

fn published_sample() -> Vec<u8> {
    vector(include_str!("../tests/vectors/ms-pac-section-3.hex"))
}

/// The values that the digest gives for its worked example, section 11.
fn alice() -> LogonInfo {
    let group = |rid| GroupMembership { rid, attributes: 7 };
    let name = |text: &str| Text { room: 2, ..Text::from(text) };
    LogonInfo {
        logon_time: FileTime(133_500_000_000_000_000),
        logoff_time: FileTime::NEVER,
        kick_off_time: FileTime::NEVER,
        password_last_set: FileTime(133_400_000_000_000_000),
        password_can_change: FileTime(133_400_864_000_000_000),
        password_must_change: FileTime::NEVER,
        effective_name: "alice".into(),
        full_name: "Alice Smith".into(),
        logon_script: "".into(),
        profile_path: "".into(),
        home_directory: "".into(),
        home_directory_drive: "".into(),
        logon_count: 7,
        bad_password_count: 0,
        user_id: 1013,
        primary_group_id: 513,
        group_ids: vec![group(513), group(1107)],
        user_flags: 0x20,
        user_session_key: [0; 16],
        logon_server: name("DC1"),
        logon_domain_name: name("CONTOSO"),
        logon_domain_id: "S-1-5-21-3623811015-3361044348-30300820".parse().expect("a SID"),
        reserved1: [0; 2],
        user_account_control: user_account_control(0x200),
        sub_auth_status: 0,
        last_successful_logon: FileTime::UNSET,
        last_failed_logon: FileTime::UNSET,
        failed_logon_count: 0,
        reserved3: 0,
        extra_sids: vec![SidAndAttributes {
            sid: Sid::AUTHENTICATION_AUTHORITY_ASSERTED_IDENTITY,
            attributes: 7,
        }],
        resource_groups: None,
    }
}

fn encoded(encode: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = Vec::new();
    encode(&mut out);
    out
}

fn alice_pac() -> Pac {
    let logon_info = alice();
    let sid = logon_info.user_sid().expect("a SID");
    let buffer = |buffer_type, data| Buffer { buffer_type, data };
    Pac {
        buffers: vec![
            buffer(BufferType::LOGON_INFO, encoded(|out| logon_info.encode(out))),
            buffer(
                BufferType::CLIENT_INFO,
                ClientInfo { client_id: logon_info.logon_time, name: "alice".into() }.to_bytes(),
            ),
            buffer(
                BufferType::UPN_DNS_INFO,
                UpnDnsInfo {
                    upn: "alice@contoso.com".into(),
                    is_constructed: false,
                    dns_domain_name: "CONTOSO.COM".into(),
                    extended: Some(("alice".into(), sid)),
                }
                .to_bytes(),
            ),
            buffer(BufferType::REQUESTOR_SID, sid.to_bytes()),
        ],
    }
}

#[test]
fn the_worked_example_is_written_byte_for_byte() {
    assert_eq!(dtyp::hex(&alice_pac().to_bytes()), dtyp::hex(&worked_example()));
}

#[test]
fn the_worked_example_is_read_and_agrees_with_itself() {
    let pac = VerifiedPac::decode(&worked_example()).expect("it is well formed");
    assert_eq!(pac.logon_info, alice());
    assert_eq!(pac.user_sid.to_string(), "S-1-5-21-3623811015-3361044348-30300820-1013");
    assert_eq!(pac.upn_dns_info.map(|info| info.upn).as_deref(), Some("alice@contoso.com"));
    assert_eq!(pac.requestor_sid, Some(pac.user_sid));
}

#[test]
fn the_published_sample_is_read_and_written_back() {
    let bytes = published_sample();
    let pac = Pac::from_bytes("PACTYPE", &bytes).expect("it is well formed");
    let types: Vec<_> = pac.buffers.iter().map(|buffer| buffer.buffer_type.0).collect();
    assert_eq!(types, [1, 10, 6, 7]);
    assert_eq!(pac.to_bytes(), bytes);
    let info = LogonInfo::decode(&pac.buffers[0].data).expect("it is well formed");
    assert_eq!(info.effective_name.text, "lzhu");
    assert_eq!((info.user_id, info.group_ids.len(), info.extra_sids.len()), (2_914_711, 26, 13));
    assert_eq!((info.user_flags, info.user_account_control), (0x20, 0x10));
    assert_eq!(dtyp::hex(&encoded(|out| info.encode(out))), dtyp::hex(&pac.buffers[0].data));
    assert!(VerifiedPac::decode(&bytes).is_ok());
}

#[test]
fn resource_groups_and_null_text_come_back() {
    let mut info = alice();
    info.full_name = Text { is_null: true, ..Text::default() };
    info.extra_sids.clear();
    info.resource_groups = Some(ResourceGroups {
        domain: info.logon_domain_id,
        groups: vec![GroupMembership { rid: 1200, attributes: 0x2000_0007 }],
    });
    info.user_flags = info.presence_flags();
    assert_eq!(info.user_flags, 0x200);
    assert!(info.flags_agree());
    assert_eq!(LogonInfo::decode(&encoded(|out| info.encode(out))), Ok(info.clone()));
    let groups: Vec<_> = info.groups().iter().map(|group| group.sid.split_rid().expect("a RID").1).collect();
    assert_eq!(groups, [513, 1107, 1200]);
}

#[test]
fn no_truncation_is_read() {
    for bytes in [worked_example(), published_sample()] {
        let pac = Pac::from_bytes("PACTYPE", &bytes).expect("it is well formed");
        // The last buffer may lose its padding; everything shorter is an error.
        let last = pac.buffers.last().expect("there are four").data.len();
        let needed = bytes.len() - (last.next_multiple_of(8) - last);
        for len in 0..needed {
            assert!(Pac::from_bytes("PACTYPE", &bytes[..len]).is_err(), "{len}");
        }
        let info = &pac.buffers[0].data;
        for len in 0..info.len() {
            assert!(LogonInfo::decode(&info[..len]).is_err(), "{len}");
        }
    }
}

#[test]
fn whatever_word_is_wrong_nothing_panics_or_allocates_much() {
    for bytes in [worked_example(), published_sample()] {
        for at in (0..bytes.len() - 4).step_by(2) {
            for value in [0u32, 1, 7, 0x7fff, 0xffff, 0x7fff_ffff, 0xffff_fffe, 0xffff_ffff] {
                let mut wrong = bytes.clone();
                wrong[at..at + 4].copy_from_slice(&value.to_le_bytes());
                let _ = VerifiedPac::decode(&wrong);
            }
        }
    }
}

#[test]
fn the_container_s_rules_are_kept() {
    use DecodeErrorKind::{BadValue, Misaligned, OutOfBounds, Overlap, TooLong};
    for (what, at, value, expect) in [
        ("too many buffers", 0, 33u32, TooLong),
        ("version", 4, 1, BadValue),
        ("buffer in the table", 16, 0x40, OutOfBounds),
        ("buffer not aligned", 16, 0x4c, Misaligned),
        ("buffer beyond", 16, 0x2e0, OutOfBounds),
        ("offset beyond 32 bits", 20, 1, OutOfBounds),
        ("size beyond", 12, 0x299, OutOfBounds),
        ("size extreme", 12, u32::MAX, OutOfBounds),
        ("buffers overlap", 12, 0x1d9, Overlap),
    ] {
        let mut bytes = worked_example();
        bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
        assert_eq!(Pac::from_bytes("PACTYPE", &bytes).map_err(|error| error.kind), Err(expect), "{what}");
    }
}

#[test]
fn what_is_said_twice_must_agree() {
    let check = |change: &dyn Fn(&mut Pac)| {
        let mut pac = alice_pac();
        change(&mut pac);
        VerifiedPac::decode(&pac.to_bytes()).map(|_| ())
    };
    let with_info = |change: &dyn Fn(&mut LogonInfo)| {
        check(&|pac| {
            let mut info = alice();
            change(&mut info);
            pac.buffers[0].data = encoded(|out| info.encode(out));
        })
    };
    let other: Sid = "S-1-5-21-3623811015-3361044348-30300820-500".parse().expect("a SID");
    assert_eq!(check(&|_| {}), Ok(()));
    assert_eq!(check(&|pac| drop(pac.buffers.remove(0))), Err(PacError::NoLogonInfo));
    assert_eq!(with_info(&|info| info.user_id = 0), Err(PacError::NoUserId));
    assert_eq!(with_info(&|info| info.user_flags = 0), Err(PacError::UserFlags));
    assert_eq!(with_info(&|info| info.extra_sids.clear()), Err(PacError::UserFlags));
    assert!(matches!(with_info(&|info| info.user_id = 500), Err(PacError::Disagree("UPN_DNS_INFO.Sid", _))));
    assert!(matches!(
        with_info(&|info| info.effective_name = "bob".into()),
        Err(PacError::Disagree("PAC_CLIENT_INFO.Name", _))
    ));
    assert!(matches!(
        check(&|pac| pac.buffers[3].data = other.to_bytes()),
        Err(PacError::Disagree("PAC_REQUESTOR", _))
    ));
    // Only the first buffer of a type counts, and unknown ones do not matter.
    assert_eq!(
        check(&|pac| {
            pac.buffers.push(Buffer { buffer_type: BufferType::REQUESTOR_SID, data: other.to_bytes() });
            pac.buffers.push(Buffer { buffer_type: BufferType(99), data: vec![1, 2, 3] });
        }),
        Ok(())
    );
}

#[test]
fn big_endian_logon_info_is_read() {
    // The first fields of a buffer as a big-endian peer would serialize it: enough to show that every number
    // is turned.
    let big = vector("0100000800000000 0000000800000000 00000000 00000000");
    assert_eq!(LogonInfo::decode(&big).map_err(|error| error.kind), Err(DecodeErrorKind::NullPointer));
}

#[test]
fn account_control_bits_are_translated() {
    // [MS-SAMR] 2.2.1.12 beside [MS-ADTS] 2.2.16.
    for (uf, user) in
        [(0x200, 0x10), (0x1000, 0x80), (0x2000, 0x100), (0x1_0202, 0x211), (0x800_0000, 0x20_0000)]
    {
        assert_eq!(user_account_control(uf), user, "{uf:x}");
    }
    assert_eq!(user_account_control(0x1), 0, "SCRIPT has no counterpart");
}

/// Packed by Samba's bindings of krb5pac.idl.
const DELEGATION: &str = "01100800ccccccccc0000000000000000000020020002000040002000200000008000200100000000000000010000000
730073006f002f007300720076002e007200700063002e00740065007300740002000000360036000c0002001c001c00100002001b00000000000000
1b0000007700650062002f00660072006f006e0074002e007200700063002e00740065007300740040005200500043002e0054004500530054000000
0e000000000000000e0000005300520056003200240040005200500043002e005400450053005400";

#[test]
fn reads_through_which_services_a_ticket_was_delegated() {
    let bytes = vector(DELEGATION);
    let info = DelegationInfo::decode(&bytes).expect("Samba's bytes");
    assert_eq!(info.target.text, "sso/srv.rpc.test");
    let services: Vec<&str> = info.transited.iter().map(|service| &service.text[..]).collect();
    assert_eq!(services, ["web/front.rpc.test@RPC.TEST", "SRV2$@RPC.TEST"]);
    let mut again = Vec::new();
    info.encode(&mut again);
    assert_eq!(DelegationInfo::decode(&again).as_ref(), Ok(&info));
    for end in 0..bytes.len() {
        assert!(DelegationInfo::decode(&bytes[..end]).is_err(), "{end}");
    }
}

#[test]
fn only_the_octets_of_two_signatures_are_zeroed() {
    // [MS-PAC] section 3: the server's signature at 0x510 and the KDC's at 0x528, HMAC-MD5 both.
    let bytes = published_sample();
    let found = ServerSignature::from_pac(&bytes).expect("the sample");
    assert_eq!(found.signature_type, -138);
    assert_eq!(found.signature, bytes[0x514..0x524]);
    let mut signed = bytes.clone();
    signed[0x514..0x524].fill(0);
    signed[0x52c..0x53c].fill(0);
    assert_eq!(found.signed, signed);
    assert!(ServerSignature::from_pac(&worked_example()).is_err(), "no signature");
    let mut twice = bytes.clone();
    // The type of the KDC's entry becomes the server's.
    twice[8 + 3 * 16] = 6;
    assert!(ServerSignature::from_pac(&twice).is_err());
    let mut unknown = bytes;
    unknown[0x510..0x514].copy_from_slice(&1u32.to_le_bytes());
    assert!(ServerSignature::from_pac(&unknown).is_err(), "CRC-32");
}
