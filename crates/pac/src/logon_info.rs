//! KERB_VALIDATION_INFO ([MS-PAC] 2.5): the buffer that everything else is checked against.

use dcerpc::ndr::{NdrReader, NdrWriter, read_type_serialization, write_type_serialization};
use dtyp::{ByteOrder, DecodeError, DecodeErrorKind, FileTime, Sid};

/// Most groups or SIDs in one list; a token holds about a thousand.
const GROUPS_MAX: usize = 65_535;
/// UserFlags D: ExtraSids is present.
const EXTRA_SIDS_PRESENT: u32 = 0x20;
/// UserFlags H: ResourceGroupIds is present.
const RESOURCE_GROUPS_PRESENT: u32 = 0x200;

/// RPC_UNICODE_STRING, with what has to be known to write it as it was read.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Text {
    /// The text.
    pub text: String,
    /// Room behind the text that is claimed and not sent, in bytes: Windows has 2 for names of servers and
    /// domains.
    pub room: u16,
    /// Whether the pointer is null, which only empty text may have.
    pub is_null: bool,
}

impl From<&str> for Text {
    fn from(text: &str) -> Self {
        Self { text: text.to_owned(), room: 0, is_null: false }
    }
}

/// GROUP_MEMBERSHIP ([MS-PAC] 2.2.2): a RID of the account's domain, and attributes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupMembership {
    /// The group's RID.
    pub rid: u32,
    /// Attributes of [MS-PAC] 2.2.1.
    pub attributes: u32,
}

/// KERB_SID_AND_ATTRIBUTES ([MS-PAC] 2.2.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SidAndAttributes {
    /// The SID.
    pub sid: Sid,
    /// MANDATORY 0x1, ENABLED_BY_DEFAULT 0x2, ENABLED 0x4, OWNER 0x8, RESOURCE 0x20000000.
    pub attributes: u32,
}

/// Domain-local groups: the domain's SID, and RIDs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResourceGroups {
    /// ResourceGroupDomainSid.
    pub domain: Sid,
    /// ResourceGroupIds.
    pub groups: Vec<GroupMembership>,
}

/// KERB_VALIDATION_INFO. Times are as [MS-PAC] has them: `NEVER` for what does not come, unset for what is
/// not known.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields carry the document's names; what differs is said at each")]
pub struct LogonInfo {
    pub logon_time: FileTime,
    pub logoff_time: FileTime,
    pub kick_off_time: FileTime,
    pub password_last_set: FileTime,
    pub password_can_change: FileTime,
    pub password_must_change: FileTime,
    pub effective_name: Text,
    pub full_name: Text,
    pub logon_script: Text,
    pub profile_path: Text,
    pub home_directory: Text,
    pub home_directory_drive: Text,
    pub logon_count: u16,
    pub bad_password_count: u16,
    /// The account's RID.
    pub user_id: u32,
    pub primary_group_id: u32,
    pub group_ids: Vec<GroupMembership>,
    pub user_flags: u32,
    pub user_session_key: [u8; 16],
    pub logon_server: Text,
    pub logon_domain_name: Text,
    /// The account domain's SID; a null pointer is refused.
    pub logon_domain_id: Sid,
    pub reserved1: [u32; 2],
    /// `USER_*` bits, see [`crate::user_account_control`].
    pub user_account_control: u32,
    pub sub_auth_status: u32,
    pub last_successful_logon: FileTime,
    pub last_failed_logon: FileTime,
    pub failed_logon_count: u32,
    pub reserved3: u32,
    pub extra_sids: Vec<SidAndAttributes>,
    pub resource_groups: Option<ResourceGroups>,
}

impl LogonInfo {
    /// The account's SID; `None` when the domain's SID is as long as a SID can be.
    pub fn user_sid(&self) -> Option<Sid> {
        self.logon_domain_id.with_rid(self.user_id)
    }

    /// All groups as SIDs with their attributes: of the account's domain, of others, and domain-local ones.
    pub fn groups(&self) -> Vec<SidAndAttributes> {
        let member = |domain: &Sid, group: &GroupMembership| {
            domain.with_rid(group.rid).map(|sid| SidAndAttributes { sid, attributes: group.attributes })
        };
        let own = self.group_ids.iter().filter_map(|group| member(&self.logon_domain_id, group));
        let resource = self.resource_groups.iter();
        let resource = resource.flat_map(|r| r.groups.iter().filter_map(|group| member(&r.domain, group)));
        own.chain(self.extra_sids.iter().copied()).chain(resource).collect()
    }

    /// The bits of UserFlags that say what is present.
    pub fn presence_flags(&self) -> u32 {
        let extra_sids = if self.extra_sids.is_empty() { 0 } else { EXTRA_SIDS_PRESENT };
        let resource_groups = if self.resource_groups.is_some() { RESOURCE_GROUPS_PRESENT } else { 0 };
        extra_sids | resource_groups
    }

    /// Whether UserFlags agrees with what is present.
    pub fn flags_agree(&self) -> bool {
        let extra_sids = self.user_flags & EXTRA_SIDS_PRESENT != 0;
        let resource_groups = self.user_flags & RESOURCE_GROUPS_PRESENT != 0;
        extra_sids != self.extra_sids.is_empty() && (resource_groups || self.resource_groups.is_none())
    }

    /// Appends the buffer's bytes: type serialization, then a pointer to the structure.
    pub fn encode(&self, out: &mut Vec<u8>) {
        write_type_serialization(out, |w| {
            w.pointer(true);
            self.write_scalars(w);
            self.write_referents(w);
        });
    }

    /// Reads a buffer.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = read_type_serialization("KERB_VALIDATION_INFO", bytes)?;
        reader.some_pointer("KERB_VALIDATION_INFO")?;
        Self::read(&mut reader)
    }

    fn texts(&self) -> [&Text; 6] {
        [
            &self.effective_name,
            &self.full_name,
            &self.logon_script,
            &self.profile_path,
            &self.home_directory,
            &self.home_directory_drive,
        ]
    }

    fn write_scalars(&self, w: &mut NdrWriter) {
        for time in [
            self.logon_time,
            self.logoff_time,
            self.kick_off_time,
            self.password_last_set,
            self.password_can_change,
            self.password_must_change,
        ] {
            write_time(w, time);
        }
        self.texts().into_iter().for_each(|text| text.write_scalars(w));
        w.u16(self.logon_count);
        w.u16(self.bad_password_count);
        w.u32(self.user_id);
        w.u32(self.primary_group_id);
        w.u32(self.group_ids.len() as u32);
        w.pointer(!self.group_ids.is_empty());
        w.u32(self.user_flags);
        w.bytes(&self.user_session_key);
        self.logon_server.write_scalars(w);
        self.logon_domain_name.write_scalars(w);
        w.pointer(true);
        self.reserved1.into_iter().for_each(|word| w.u32(word));
        w.u32(self.user_account_control);
        w.u32(self.sub_auth_status);
        write_time(w, self.last_successful_logon);
        write_time(w, self.last_failed_logon);
        w.u32(self.failed_logon_count);
        w.u32(self.reserved3);
        w.u32(self.extra_sids.len() as u32);
        w.pointer(!self.extra_sids.is_empty());
        w.pointer(self.resource_groups.is_some());
        let groups = self.resource_groups.as_ref().map_or(&[][..], |resource| &resource.groups);
        w.u32(groups.len() as u32);
        w.pointer(!groups.is_empty());
    }

    fn write_referents(&self, w: &mut NdrWriter) {
        self.texts().into_iter().for_each(|text| text.write_referent(w));
        write_groups(w, &self.group_ids);
        self.logon_server.write_referent(w);
        self.logon_domain_name.write_referent(w);
        w.sid(&self.logon_domain_id);
        if !self.extra_sids.is_empty() {
            w.count(self.extra_sids.len());
            for extra in &self.extra_sids {
                w.pointer(true);
                w.u32(extra.attributes);
            }
            self.extra_sids.iter().for_each(|extra| w.sid(&extra.sid));
        }
        if let Some(resource) = &self.resource_groups {
            w.sid(&resource.domain);
            write_groups(w, &resource.groups);
        }
    }

    fn read(r: &mut NdrReader<'_>) -> Result<Self, DecodeError> {
        let [
            logon_time,
            logoff_time,
            kick_off_time,
            password_last_set,
            password_can_change,
            password_must_change,
        ] = [
            read_time(r, "LogonTime")?,
            read_time(r, "LogoffTime")?,
            read_time(r, "KickOffTime")?,
            read_time(r, "PasswordLastSet")?,
            read_time(r, "PasswordCanChange")?,
            read_time(r, "PasswordMustChange")?,
        ];
        let texts = [
            TextHeader::read(r, "EffectiveName")?,
            TextHeader::read(r, "FullName")?,
            TextHeader::read(r, "LogonScript")?,
            TextHeader::read(r, "ProfilePath")?,
            TextHeader::read(r, "HomeDirectory")?,
            TextHeader::read(r, "HomeDirectoryDrive")?,
        ];
        let logon_count = r.u16("LogonCount")?;
        let bad_password_count = r.u16("BadPasswordCount")?;
        let user_id = r.u32("UserId")?;
        let primary_group_id = r.u32("PrimaryGroupId")?;
        let groups = ListHeader::read(r, "GroupIds")?;
        let user_flags = r.u32("UserFlags")?;
        let user_session_key = r.array("UserSessionKey")?;
        let logon_server = TextHeader::read(r, "LogonServer")?;
        let logon_domain_name = TextHeader::read(r, "LogonDomainName")?;
        r.some_pointer("LogonDomainId")?;
        let reserved1 = [r.u32("Reserved1")?, r.u32("Reserved1")?];
        let user_account_control = r.u32("UserAccountControl")?;
        let sub_auth_status = r.u32("SubAuthStatus")?;
        let last_successful_logon = read_time(r, "LastSuccessfulILogon")?;
        let last_failed_logon = read_time(r, "LastFailedILogon")?;
        let failed_logon_count = r.u32("FailedILogonCount")?;
        let reserved3 = r.u32("Reserved3")?;
        let extra_sids = ListHeader::read(r, "ExtraSids")?;
        let has_resource_domain = r.pointer("ResourceGroupDomainSid")?;
        let resource_groups = ListHeader::read(r, "ResourceGroupIds")?;
        if resource_groups.count > 0 && !has_resource_domain {
            return Err(r.error("ResourceGroupDomainSid", DecodeErrorKind::NullPointer));
        }

        let [a, b, c, d, e, f] = texts;
        Ok(Self {
            logon_time,
            logoff_time,
            kick_off_time,
            password_last_set,
            password_can_change,
            password_must_change,
            effective_name: a.referent(r, "EffectiveName")?,
            full_name: b.referent(r, "FullName")?,
            logon_script: c.referent(r, "LogonScript")?,
            profile_path: d.referent(r, "ProfilePath")?,
            home_directory: e.referent(r, "HomeDirectory")?,
            home_directory_drive: f.referent(r, "HomeDirectoryDrive")?,
            logon_count,
            bad_password_count,
            user_id,
            primary_group_id,
            group_ids: groups.read_groups(r, "GroupIds")?,
            user_flags,
            user_session_key,
            logon_server: logon_server.referent(r, "LogonServer")?,
            logon_domain_name: logon_domain_name.referent(r, "LogonDomainName")?,
            logon_domain_id: r.sid("LogonDomainId")?,
            reserved1,
            user_account_control,
            sub_auth_status,
            last_successful_logon,
            last_failed_logon,
            failed_logon_count,
            reserved3,
            extra_sids: extra_sids.read_sids(r)?,
            resource_groups: match has_resource_domain {
                true => Some(ResourceGroups {
                    domain: r.sid("ResourceGroupDomainSid")?,
                    groups: resource_groups.read_groups(r, "ResourceGroupIds")?,
                }),
                false => None,
            },
        })
    }
}

/// FILETIME here is two words, so it is aligned to 4 only.
fn write_time(w: &mut NdrWriter, time: FileTime) {
    w.u32(time.0 as u32);
    w.u32((time.0 >> 32) as u32);
}

fn read_time(r: &mut NdrReader<'_>, what: &'static str) -> Result<FileTime, DecodeError> {
    let low = r.u32(what)?;
    let high = r.u32(what)?;
    Ok(FileTime(u64::from(high) << 32 | u64::from(low)))
}

fn write_groups(w: &mut NdrWriter, groups: &[GroupMembership]) {
    if groups.is_empty() {
        return;
    }
    w.count(groups.len());
    for group in groups {
        w.u32(group.rid);
        w.u32(group.attributes);
    }
}

/// A count and a pointer, in the scalar pass.
#[derive(Clone, Copy)]
struct ListHeader {
    count: usize,
}

impl ListHeader {
    fn read(r: &mut NdrReader<'_>, what: &'static str) -> Result<Self, DecodeError> {
        let count = r.u32(what)? as usize;
        let present = r.pointer(what)?;
        match (count, present) {
            (0, false) => Ok(Self { count }),
            (1..=GROUPS_MAX, true) => Ok(Self { count }),
            (1..=GROUPS_MAX, false) => Err(r.error(what, DecodeErrorKind::NullPointer)),
            // A list of nothing behind a pointer is legal NDR and never sent; it could not be written back.
            (0, true) => Err(r.error(what, DecodeErrorKind::BadValue)),
            _ => Err(r.error(what, DecodeErrorKind::TooLong)),
        }
    }

    fn read_groups(
        self,
        r: &mut NdrReader<'_>,
        what: &'static str,
    ) -> Result<Vec<GroupMembership>, DecodeError> {
        if self.count == 0 {
            return Ok(Vec::new());
        }
        r.conformance(what, self.count, 8)?;
        (0..self.count).map(|_| Ok(GroupMembership { rid: r.u32(what)?, attributes: r.u32(what)? })).collect()
    }

    fn read_sids(self, r: &mut NdrReader<'_>) -> Result<Vec<SidAndAttributes>, DecodeError> {
        if self.count == 0 {
            return Ok(Vec::new());
        }
        r.conformance("ExtraSids", self.count, 8)?;
        let mut attributes = Vec::with_capacity(self.count);
        for _ in 0..self.count {
            r.some_pointer("ExtraSids")?;
            attributes.push(r.u32("ExtraSids")?);
        }
        attributes
            .into_iter()
            .map(|attributes| Ok(SidAndAttributes { sid: r.sid("ExtraSids")?, attributes }))
            .collect()
    }
}

impl Text {
    pub(crate) fn write_scalars(&self, w: &mut NdrWriter) {
        let length = (self.text.encode_utf16().count() * 2) as u16;
        w.align_pointer();
        w.u16(length);
        w.u16(length + self.room);
        w.pointer(!self.is_null);
    }

    pub(crate) fn write_referent(&self, w: &mut NdrWriter) {
        if self.is_null {
            return;
        }
        let units = self.text.encode_utf16().count();
        w.count(units + usize::from(self.room) / 2);
        w.count(0);
        w.count(units);
        self.text.encode_utf16().for_each(|unit| w.bytes(&unit.to_le_bytes()));
    }
}

/// RPC_UNICODE_STRING in the scalar pass.
#[derive(Clone, Copy)]
pub(crate) struct TextHeader {
    length: u16,
    maximum_length: u16,
    present: bool,
}

impl TextHeader {
    pub(crate) fn read(r: &mut NdrReader<'_>, what: &'static str) -> Result<Self, DecodeError> {
        r.align_pointer(what)?;
        let (length, maximum_length, present) = (r.u16(what)?, r.u16(what)?, r.pointer(what)?);
        match length {
            _ if length % 2 != 0 || maximum_length % 2 != 0 || length > maximum_length => {
                Err(r.error(what, DecodeErrorKind::BadValue))
            }
            1.. if !present => Err(r.error(what, DecodeErrorKind::NullPointer)),
            _ => Ok(Self { length, maximum_length, present }),
        }
    }

    pub(crate) fn referent(self, r: &mut NdrReader<'_>, what: &'static str) -> Result<Text, DecodeError> {
        let room = self.maximum_length - self.length;
        if !self.present {
            return Ok(Text { text: String::new(), room, is_null: true });
        }
        let max = r.count(what, usize::from(u16::MAX))?;
        let offset = r.count(what, 0)?;
        let actual = r.count(what, max)?;
        if max != usize::from(self.maximum_length) / 2
            || actual != usize::from(self.length) / 2
            || offset != 0
        {
            return Err(r.error(what, DecodeErrorKind::Mismatch));
        }
        let order = r.order();
        let units = r.bytes(what, actual * 2)?.as_chunks::<2>().0.iter().map(|unit| match order {
            ByteOrder::Little => u16::from_le_bytes(*unit),
            ByteOrder::Big => u16::from_be_bytes(*unit),
        });
        let text = char::decode_utf16(units).collect::<Result<String, _>>();
        let text = text.ok().filter(|text| !text.contains('\0'));
        Ok(Text { text: text.ok_or(r.error(what, DecodeErrorKind::BadText))?, room, is_null: false })
    }
}
