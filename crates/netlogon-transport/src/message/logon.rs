//! Network and interactive logons over NetrLogonSamLogonEx ([MS-NRPC] 2.2.1.4.3, 2.2.1.4.5, 2.2.1.4.11 to
//! 2.2.1.4.13): checking an NTLM proof or a password at a domain controller.

use crate::flags;
use crate::keys::ChannelKeys;
use crate::secret::UserSessionKey;
use dcerpc::ndr::{NdrReader, NdrWriter, UnicodeStringHeader};
use dtyp::{DecodeError, DecodeErrorKind, FileTime, NtStatus, Sid};

/// Most groups or SIDs in one list: `range(0,2048)` of the document.
const GROUPS_MAX: usize = 2048;

/// LogonLevel and ValidationLevel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogonLevels {
    /// 2 or 6 for a network logon, 1 or 5 for an interactive one.
    pub logon: u16,
    /// 6, 3 or 2: the form of the answer.
    pub validation: u16,
}

impl LogonLevels {
    /// The levels of a network logon over a channel with these flags ([MS-NRPC] 3.4.5.3.2, [MS-APDS]
    /// 3.1.5.2).
    pub const fn network(negotiated: u32) -> Self {
        Self::of(2, negotiated)
    }

    /// The levels of an interactive logon.
    pub const fn interactive(negotiated: u32) -> Self {
        Self::of(1, negotiated)
    }

    const fn of(logon: u16, negotiated: u32) -> Self {
        Self {
            logon: if has_flag(negotiated, flags::TRANSITIVE_TRUSTS) { logon + 4 } else { logon },
            validation: if has_flag(negotiated, flags::CROSS_FOREST_TRUSTS)
                && has_flag(negotiated, flags::SECURE_RPC)
            {
                6
            } else if has_flag(negotiated, flags::VALIDATION_LEVEL_2_NOT_REQUIRED) {
                3
            } else {
                2
            },
        }
    }
}

const fn has_flag(negotiated: u32, flag: u32) -> bool {
    negotiated & flag != 0
}

/// ParameterControl E: accounts of domain controllers may log on.
pub const ALLOW_SERVER_ACCOUNTS: u32 = 0x20;
/// ParameterControl K: accounts of computers may log on.
pub const ALLOW_COMPUTER_ACCOUNTS: u32 = 0x800;

/// NETLOGON_LOGON_IDENTITY_INFO: names as the client wrote them.
#[derive(Clone, Copy, Debug)]
pub struct LogonIdentity<'a> {
    /// LogonDomainName.
    pub domain: &'a str,
    /// ParameterControl ([MS-NRPC] 2.2.1.4.15).
    pub parameter_control: u32,
    /// UserName.
    pub user: &'a str,
    /// Workstation.
    pub workstation: &'a str,
}

impl LogonIdentity<'_> {
    fn write_scalars(&self, writer: &mut NdrWriter) {
        writer.align_pointer();
        UnicodeStringHeader::write_scalars(writer, self.domain);
        writer.u32(self.parameter_control);
        (0..2).for_each(|_| writer.u32(0)); // Reserved
        UnicodeStringHeader::write_scalars(writer, self.user);
        UnicodeStringHeader::write_scalars(writer, self.workstation);
    }

    fn write_referents(&self, writer: &mut NdrWriter) {
        for text in [self.domain, self.user, self.workstation] {
            UnicodeStringHeader::write_referent(writer, text);
        }
    }
}

/// What is to be checked.
#[derive(Clone, Copy)]
pub(crate) enum Logon<'a> {
    /// NETLOGON_NETWORK_INFO.
    Network { challenge: [u8; 8], nt_response: &'a [u8], lm_response: &'a [u8] },
    /// NETLOGON_INTERACTIVE_INFO: the NT hash, encrypted under the session key.
    Interactive { nt_hash: [u8; 16] },
}

/// Parameters of NetrLogonSamLogonEx.
pub(crate) struct LogonCall<'a> {
    pub(crate) logon_server: &'a str,
    pub(crate) computer_name: &'a str,
    pub(crate) levels: LogonLevels,
    pub(crate) identity: LogonIdentity<'a>,
    pub(crate) logon: Logon<'a>,
}

impl LogonCall<'_> {
    pub(crate) fn write(&self, writer: &mut NdrWriter) {
        writer.unique_string(Some(self.logon_server));
        writer.unique_string(Some(self.computer_name));
        writer.enum16(self.levels.logon);
        writer.align_union();
        writer.enum16(self.levels.logon);
        writer.pointer(true);
        self.identity.write_scalars(writer);
        match self.logon {
            Logon::Network { challenge, nt_response, lm_response } => {
                writer.bytes(&challenge);
                for response in [nt_response, lm_response] {
                    // STRING: octets, fewer than 64 Ki in an NTLM message.
                    writer.align_pointer();
                    writer.u16(response.len() as u16);
                    writer.u16(response.len() as u16);
                    writer.pointer(!response.is_empty());
                }
                self.identity.write_referents(writer);
                for response in [nt_response, lm_response].into_iter().filter(|response| !response.is_empty())
                {
                    writer.count(response.len());
                    writer.count(0);
                    writer.conformant_bytes(response);
                }
            }
            Logon::Interactive { nt_hash } => {
                // LmOwfPassword: zeroes, which are sent as they are.
                writer.bytes(&[0; 16]);
                writer.bytes(&nt_hash);
                writer.end_of_structure();
                self.identity.write_referents(writer);
            }
        }
        writer.enum16(self.levels.validation);
        writer.u32(0); // ExtraFlags
    }
}

/// UserFlags A: the user is a guest.
pub const USER_FLAG_GUEST: u32 = 0x1;
/// UserFlags B: no encryption is available.
pub const USER_FLAG_NO_ENCRYPTION: u32 = 0x2;
/// UserFlags D: the session key is made from the LM hash.
pub const USER_FLAG_LM_KEY: u32 = 0x8;
/// Attribute of a group that counts (SE_GROUP_ENABLED).
const GROUP_ENABLED: u32 = 0x4;

/// What a domain controller says of a user: the common part of NETLOGON_VALIDATION_SAM_INFO, INFO2 and INFO4.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogonValidation {
    /// KickOffTime: when the account may not be used any more; zero or [`FileTime::NEVER`] if it has no end.
    pub kick_off_time: FileTime,
    /// EffectiveName: the account's name.
    pub effective_name: String,
    /// The account's RID.
    pub user_id: u32,
    /// RID of the primary group.
    pub primary_group_id: u32,
    /// RIDs of the domain's groups, with attributes.
    pub groups: Vec<(u32, u32)>,
    /// UserFlags.
    pub user_flags: u32,
    /// UserSessionKey; for NTLM version 2 it is SessionBaseKey.
    pub session_key: UserSessionKey,
    /// NetBIOS name of the account's domain.
    pub logon_domain_name: String,
    /// SID of the account's domain.
    pub logon_domain_id: Sid,
    /// SIDs of other domains' groups and domain-local ones, with attributes. Level 2 has none.
    pub extra_sids: Vec<(Sid, u32)>,
}

impl LogonValidation {
    /// The account's SID; `None` if the domain's SID is as long as a SID can be.
    pub fn user_sid(&self) -> Option<Sid> {
        self.logon_domain_id.with_rid(self.user_id)
    }

    /// SIDs of all groups that are enabled: the primary one, those of the domain, and the extra ones
    /// ([MS-APDS] 3.1.5).
    pub fn group_sids(&self) -> Vec<Sid> {
        let is_enabled = |attributes: u32| attributes & GROUP_ENABLED != 0;
        let own = self.groups.iter().filter(|(_, attributes)| is_enabled(*attributes)).map(|(rid, _)| *rid);
        let own = [self.primary_group_id].into_iter().chain(own);
        let extra =
            self.extra_sids.iter().filter(|(_, attributes)| is_enabled(*attributes)).map(|(sid, _)| *sid);
        own.filter_map(|rid| self.logon_domain_id.with_rid(rid)).chain(extra).collect()
    }

    fn read(reader: &mut NdrReader<'_>, level: u16) -> Result<Self, DecodeError> {
        reader.align_pointer("ValidationInformation")?;
        for time in ["LogonTime", "LogoffTime"] {
            read_words(reader, time, 2)?;
        }
        // OLD_LARGE_INTEGER: two words, the low one first.
        let kick_off_time = [reader.u32("KickOffTime")?, reader.u32("KickOffTime")?];
        let kick_off_time = FileTime(u64::from(kick_off_time[0]) | u64::from(kick_off_time[1]) << 32);
        for time in ["PasswordLastSet", "PasswordCanChange", "PasswordMustChange"] {
            read_words(reader, time, 2)?;
        }
        let texts = [
            "EffectiveName",
            "FullName",
            "LogonScript",
            "ProfilePath",
            "HomeDirectory",
            "HomeDirectoryDrive",
        ];
        let mut headers = Vec::with_capacity(texts.len());
        for what in texts {
            headers.push((what, UnicodeStringHeader::scalars(reader, what)?));
        }
        reader.u16("LogonCount")?;
        reader.u16("BadPasswordCount")?;
        let user_id = reader.u32("UserId")?;
        let primary_group_id = reader.u32("PrimaryGroupId")?;
        let group_count = list_count(reader, "GroupIds")?;
        let user_flags = reader.u32("UserFlags")?;
        let session_key = UserSessionKey::new(reader.array("UserSessionKey")?);
        let logon_server = UnicodeStringHeader::scalars(reader, "LogonServer")?;
        let logon_domain_name = UnicodeStringHeader::scalars(reader, "LogonDomainName")?;
        reader.some_pointer("LogonDomainId")?;
        // LMKey, UserAccountControl and what else has ten words, whatever the level.
        read_words(reader, "ExpansionRoom", 10)?;
        let extra_count = if level == 2 { 0 } else { list_count(reader, "ExtraSids")? };
        let mut last = Vec::new();
        if level == 6 {
            let expansion = (0..10).map(|_| "ExpansionString");
            for what in ["DnsLogonDomainName", "Upn"].into_iter().chain(expansion) {
                last.push((what, UnicodeStringHeader::scalars(reader, what)?));
            }
        }
        let mut effective_name = String::new();
        for (what, header) in headers {
            let text = header.referent(reader, what)?;
            if what == "EffectiveName" {
                effective_name = text.text(what)?;
            }
        }
        let mut groups = Vec::with_capacity(group_count);
        if group_count > 0 {
            reader.conformance("GroupIds", group_count, 8)?;
            for _ in 0..group_count {
                groups.push((reader.u32("RelativeId")?, reader.u32("Attributes")?));
            }
        }
        logon_server.referent(reader, "LogonServer")?;
        let logon_domain_name =
            logon_domain_name.referent(reader, "LogonDomainName")?.text("LogonDomainName")?;
        let logon_domain_id = reader.sid("LogonDomainId")?;
        let mut extra_sids = Vec::with_capacity(extra_count);
        if extra_count > 0 {
            reader.conformance("ExtraSids", extra_count, 8)?;
            let mut attributes = Vec::with_capacity(extra_count);
            for _ in 0..extra_count {
                reader.some_pointer("ExtraSids")?;
                attributes.push(reader.u32("Attributes")?);
            }
            for attributes in attributes {
                extra_sids.push((reader.sid("ExtraSids")?, attributes));
            }
        }
        for (what, header) in last {
            header.referent(reader, what)?;
        }
        Ok(Self {
            kick_off_time,
            effective_name,
            user_id,
            primary_group_id,
            groups,
            user_flags,
            session_key,
            logon_domain_name,
            logon_domain_id,
            extra_sids,
        })
    }
}

fn read_words(reader: &mut NdrReader<'_>, what: &'static str, count: usize) -> Result<(), DecodeError> {
    (0..count).try_for_each(|_| reader.u32(what).map(drop))
}

/// The count of a list and its pointer. A list of nothing has the null pointer; another pointer is refused.
fn list_count(reader: &mut NdrReader<'_>, what: &'static str) -> Result<usize, DecodeError> {
    let count = reader.u32(what)? as usize;
    let present = reader.pointer(what)?;
    match (count, present) {
        (0, false) => Ok(0),
        (1..=GROUPS_MAX, true) => Ok(count),
        (0, true) => Err(reader.error(what, DecodeErrorKind::BadValue)),
        (1..=GROUPS_MAX, false) => Err(reader.error(what, DecodeErrorKind::NullPointer)),
        _ => Err(reader.error(what, DecodeErrorKind::TooLong)),
    }
}

/// Results of a logon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogonReply {
    /// What is known of the user; `None` if the logon failed.
    pub validation: Option<LogonValidation>,
    /// Whether the answer is final, so that no other server need be asked.
    pub authoritative: bool,
    /// The return value.
    pub status: NtStatus,
}

impl LogonReply {
    /// Reads the results; the tag must be the level that was asked for. UserSessionKey is as on the wire.
    pub(crate) fn read(reader: &mut NdrReader<'_>, level: u16) -> Result<Self, DecodeError> {
        reader.align_pointer("ValidationInformation")?;
        if reader.enum16("ValidationInformation")? != level {
            return Err(reader.error("ValidationInformation", DecodeErrorKind::BadValue));
        }
        let validation = match reader.pointer("ValidationInformation")? {
            true => Some(LogonValidation::read(reader, level)?),
            false => None,
        };
        let authoritative = reader.u8("Authoritative")? != 0;
        reader.u32("ExtraFlags")?;
        Ok(Self { validation, authoritative, status: NtStatus(reader.u32("status")?) })
    }
}

/// Decrypts UserSessionKey, which is encrypted at levels 2 and 3 ([MS-NRPC] 3.4.5.3.2). Zeroes never are:
/// that would show the key stream.
pub(crate) fn decrypt_session_key(keys: &ChannelKeys, level: u16, key: &UserSessionKey) -> UserSessionKey {
    let mut key = *key.expose();
    if level != 6 && key != [0; 16] {
        keys.decrypt_inner(&mut key);
    }
    UserSessionKey::new(key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{LogonMethod, SamLogonRequest};
    use crate::secret::SessionKey;
    use crate::test::{unhex, unhex_vec};
    use dcerpc::ndr::NdrSyntax;
    use dtyp::ByteOrder;

    /// The digest's stubs: the messages of an NTLM exchange, and a password, for `\\DC1` from WEB1.
    const NETWORK: &str = "
        000002000600000000000000060000005c005c0044004300310000000400020005000000000000000500000057004500
        420031000000020002000000080002000e000e000c0002002008000000000000000000000a000a001000020006000600
        140002000123456789abcdefe000e00018000200180018001c00020007000000000000000700000043004f004e005400
        4f0053004f00000005000000000000000500000061006c00690063006500000003000000000000000300000057005300
        31000000e000000000000000e00000000b4f65ea50d5bc7b70d9b248d6acdbab010100000000000000c083ed8a49da01
        aaaaaaaaaaaaaaaa0000000002000e0043004f004e0054004f0053004f00010006004400430031000400160063006f00
        6e0074006f0073006f002e0063006f006d0003001e006400630031002e0063006f006e0074006f0073006f002e006300
        6f006d000700080000c083ed8a49da0106000400020000000a0010000000000000000000000000000000000009002800
        68006f00730074002f006400630031002e0063006f006e0074006f0073006f002e0063006f006d000000000000000000
        1800000000000000180000000000000000000000000000000000000000000000000000000600000000000000";
    const INTERACTIVE: &str = "
        000002000600000000000000060000005c005c0044004300310000000400020005000000000000000500000057004500
        420031000000010001000000080002000e000e000c0002000000000000000000000000000a000a001000020006000600
        14000200000000000000000000000000000000005ad0c840251c54d4cce7c5950213ff51070000000000000007000000
        43004f004e0054004f0053004f00000005000000000000000500000061006c0069006300650000000300000000000000
        03000000570053003100060000000000";
    const CHANNEL_KEY: &str = "fdc7815fdbdbb1a6a08d0fda749edb18";

    fn written(call: &LogonCall<'_>, syntax: NdrSyntax) -> Vec<u8> {
        let mut writer = NdrWriter::new(syntax);
        call.write(&mut writer);
        writer.into_bytes()
    }

    fn call<'a>(logon: u16, parameter_control: u32, of: Logon<'a>) -> LogonCall<'a> {
        LogonCall {
            logon_server: r"\\DC1",
            computer_name: "WEB1",
            levels: LogonLevels { logon, validation: 6 },
            identity: LogonIdentity {
                domain: "CONTOSO",
                parameter_control,
                user: "alice",
                workstation: "WS1",
            },
            logon: of,
        }
    }

    #[test]
    fn logons_have_the_octets_of_the_digest() {
        let stub = unhex_vec(NETWORK);
        let nt_response = &stub[0xc4 + 12..0x1b0];
        let network =
            Logon::Network { challenge: unhex("0123456789abcdef"), nt_response, lm_response: &[0; 24] };
        let parameter_control = ALLOW_SERVER_ACCOUNTS | ALLOW_COMPUTER_ACCOUNTS;
        let call = call(2, parameter_control, network);
        assert_eq!(dtyp::hex(&written(&call, NdrSyntax::Ndr)), dtyp::hex(&stub));
        assert_eq!(written(&call, NdrSyntax::Ndr64).len(), 632, "the digest's length");
        // The server's reader understands the size of it.
        let mut reader = NdrReader::new(&stub, NdrSyntax::Ndr, ByteOrder::Little);
        let read = SamLogonRequest::read(&mut reader, LogonMethod::Ex).expect("a logon");
        assert_eq!((read.logon_level, read.validation_level), (2, 6));
    }

    #[test]
    fn an_interactive_logon_encrypts_the_hash() {
        let keys = ChannelKeys::new(SessionKey::new(unhex(CHANNEL_KEY)));
        // The NT hash of "Password" ([MS-NLMP] 4.2.2.1.2).
        let mut nt_hash: [u8; 16] = unhex("a4f49c406510bdcab6824ee7c30fd852");
        keys.encrypt_inner(&mut nt_hash);
        let call = call(1, 0, Logon::Interactive { nt_hash });
        assert_eq!(dtyp::hex(&written(&call, NdrSyntax::Ndr)), dtyp::hex(&unhex_vec(INTERACTIVE)));
    }

    #[test]
    fn levels_follow_the_flags_of_the_channel() {
        let all = flags::OFFERED;
        assert_eq!(LogonLevels::network(all), LogonLevels { logon: 6, validation: 6 });
        assert_eq!(LogonLevels::interactive(all), LogonLevels { logon: 5, validation: 6 });
        let old = all & !flags::TRANSITIVE_TRUSTS & !flags::CROSS_FOREST_TRUSTS;
        assert_eq!(LogonLevels::network(old), LogonLevels { logon: 2, validation: 3 });
        let older = old & !flags::VALIDATION_LEVEL_2_NOT_REQUIRED;
        assert_eq!(LogonLevels::network(older), LogonLevels { logon: 2, validation: 2 });
    }

    /// An answer by the offsets of the digest, section 5.2: the structure at 8, deferred data behind it.
    fn answer(level: u16) -> Vec<u8> {
        let len = match level {
            6 => 300,
            3 => 204,
            _ => 196,
        };
        let mut stub = vec![0; 8 + len];
        stub[0] = level as u8;
        let mut set = |at: usize, bytes: &[u8]| stub[8 + at..8 + at + bytes.len()].copy_from_slice(bytes);
        let pointer = [4, 0, 2, 0];
        set(0x10, &[1, 2, 3, 4, 5, 6, 7, 0]); // KickOffTime
        set(0x30, &[10, 0, 12, 0, 4, 0, 2, 0]); // EffectiveName, with room for a NUL
        set(0x64, &1104_u32.to_le_bytes());
        set(0x68, &513_u32.to_le_bytes());
        set(0x6c, &2_u32.to_le_bytes());
        set(0x70, &pointer);
        set(0x74, &0x20_u32.to_le_bytes());
        set(0x78, &unhex::<16>("597912a0fe24402158f79abcbf385cff"));
        set(0x90, &[8, 0, 10, 0, 4, 0, 2, 0]); // LogonDomainName
        set(0x98, &pointer);
        if level != 2 {
            set(0xc4, &1_u32.to_le_bytes());
            set(0xc8, &pointer);
        }
        set_referent(&mut stub, -4, &[0, 0, 2, 0]);
        let text = |out: &mut Vec<u8>, text: &str| {
            let units = text.len() as u32;
            for word in [units + 1, 0, units] {
                out.extend_from_slice(&word.to_le_bytes());
            }
            out.extend_from_slice(&dtyp::utf16le(text));
            out.resize(out.len().next_multiple_of(4), 0);
        };
        text(&mut stub, "alice");
        stub.extend(unhex_vec("02000000 01020000 07000000 02020000 00000000"));
        text(&mut stub, "CORP");
        stub.extend(unhex_vec("04000000 0104000000000005 15000000 01000000 02000000 03000000"));
        if level != 2 {
            stub.extend(unhex_vec("01000000 04000200 07000020 01000000 0101000000000012 01000000"));
        }
        stub.extend(unhex_vec("01000000 00000000 00000000"));
        stub
    }

    fn set_referent(stub: &mut [u8], at: isize, bytes: &[u8]) {
        let at = (8 + at) as usize;
        stub[at..at + bytes.len()].copy_from_slice(bytes);
    }

    fn read(stub: &[u8], level: u16) -> Result<LogonReply, DecodeError> {
        LogonReply::read(&mut NdrReader::new(stub, NdrSyntax::Ndr, ByteOrder::Little), level)
    }

    #[test]
    fn answers_of_each_level_are_read() {
        for level in [6, 3, 2] {
            let reply = read(&answer(level), level).expect("an answer");
            assert_eq!((reply.status, reply.authoritative), (NtStatus::SUCCESS, true));
            let user = reply.validation.expect("a user");
            assert_eq!((&user.effective_name[..], &user.logon_domain_name[..]), ("alice", "CORP"));
            assert_eq!(user.kick_off_time, FileTime(0x0007_0605_0403_0201));
            let domain = Sid::new(5, &[21, 1, 2, 3]).expect("a SID");
            assert_eq!(user.user_sid(), domain.with_rid(1104));
            // The group with RID 514 is not enabled.
            let mut groups = vec![domain.with_rid(513).expect("a SID"), domain.with_rid(513).expect("a SID")];
            if level != 2 {
                groups.push(Sid::new(18, &[1]).expect("a SID"));
            }
            assert_eq!(user.group_sids(), groups, "{level}");
            assert_eq!(dtyp::hex(user.session_key.expose()), "597912a0fe24402158f79abcbf385cff");
            assert!(read(&answer(level), 5).is_err(), "another level");
            let whole = answer(level);
            for len in 0..whole.len() {
                assert!(read(&whole[..len], level).is_err(), "{level} {len}");
            }
        }
    }

    #[test]
    fn a_refusal_has_no_user() {
        let reply = read(&unhex_vec("06000000 00000000 01000000 00000000 6a0000c0"), 6);
        let refused = LogonReply { validation: None, authoritative: true, status: NtStatus::WRONG_PASSWORD };
        assert_eq!(reply, Ok(refused));
    }

    #[test]
    fn the_session_key_is_encrypted_at_levels_2_and_3_and_never_if_it_is_zero() {
        let keys = ChannelKeys::new(SessionKey::new(unhex(CHANNEL_KEY)));
        let wire: [u8; 16] = unhex("a7d128dd1b2cf15dae82f0152b3c366c");
        let plain: [u8; 16] = unhex("597912a0fe24402158f79abcbf385cff");
        for (level, key, expected) in [
            (3, wire, plain),
            (2, wire, plain),
            (6, plain, plain),
            (3, [0; 16], [0; 16]),
            (6, [0; 16], [0; 16]),
        ] {
            let key = decrypt_session_key(&keys, level, &UserSessionKey::new(key));
            assert_eq!(dtyp::hex(key.expose()), dtyp::hex(&expected), "{level}");
        }
    }
}
