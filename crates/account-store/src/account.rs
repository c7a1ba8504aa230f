//! What is kept of an account and of a group; the source of every field of the PAC.

use dtyp::{FileTime, Sid};
use serde::{Deserialize, Serialize};

/// One user or computer of a domain.
///
/// Text fields are what the directory would hold, at most [`Account::TEXT_LEN_MAX`] bytes each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// `sAMAccountName`; a computer's ends in `$`. Unique in its domain, compared by
    /// [`crate::fold::casefold`].
    pub name: String,
    /// `objectSid`: the account domain's SID and the RID.
    pub sid: Sid,
    /// User or computer.
    pub kind: AccountKind,
    /// `userPrincipalName`.
    pub user_principal_name: Option<String>,
    /// `servicePrincipalName`, such as `host/web01.contoso.example`.
    pub service_principal_names: Vec<String>,
    /// `altSecurityIdentities`, as stored; see [`crate::alt_security_identity`].
    pub alt_security_identities: Vec<String>,
    /// `userAccountControl`, in the directory's `UF_*` bits ([MS-ADTS] 2.2.16).
    pub flags: AccountFlags,
    /// `primaryGroupID`: a RID of the account's domain.
    pub primary_group_id: u32,
    /// `accountExpires`; `NEVER` or unset for an account that does not expire.
    pub expires: FileTime,
    /// `whenCreated`.
    pub created: FileTime,
    /// `pwdLastSet`.
    pub password_last_set: FileTime,
    /// When the password may be changed; unset when it always may.
    pub password_can_change: FileTime,
    /// When the password must be changed; `NEVER` when it need not be.
    pub password_must_change: FileTime,
    /// `logonHours`: one bit an hour of the week from Sunday 00:00 UTC, least significant bit first; `None`
    /// for always.
    pub logon_hours: Option<[u8; 21]>,
    /// `logonCount`.
    pub logon_count: u16,
    /// `badPwdCount`.
    pub bad_password_count: u16,
    /// Display name, scripts and folders.
    pub profile: Profile,
    /// `sIDHistory`, and groups of other domains: they become extra SIDs.
    pub extra_sids: Vec<Sid>,
    /// NetBIOS name of the domain that answers for this account: an entry with one says where to ask, and
    /// nothing else. `None` for the accounts of this domain.
    pub home_domain: Option<String>,
    /// How old all of this is, in seconds, if the store could not be asked and an older answer stands in
    /// ([`CacheSettings::stale_if_error`](crate::CacheSettings)). Never stored.
    pub stale_s: Option<u64>,
}

impl Account {
    /// The longest text field; longer ones are refused when an account is written.
    pub const TEXT_LEN_MAX: usize = 4096;
}

/// What kind of principal an account is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AccountKind {
    /// A person or a service.
    User,
    /// A machine.
    Computer,
}

impl Account {
    /// An account with nothing but a name and a SID: a computer's, if the name ends in a dollar sign,
    /// otherwise a user's. It is enabled, never expires, and is in its kind's usual primary group.
    pub fn new(name: impl Into<String>, sid: Sid) -> Self {
        let name = name.into();
        let is_computer = name.ends_with('$');
        Self {
            name,
            sid,
            kind: if is_computer { AccountKind::Computer } else { AccountKind::User },
            user_principal_name: None,
            service_principal_names: Vec::new(),
            alt_security_identities: Vec::new(),
            flags: if is_computer { AccountFlags::WORKSTATION_TRUST } else { AccountFlags::NORMAL },
            primary_group_id: if is_computer { 515 } else { 513 },
            expires: FileTime::NEVER,
            created: FileTime::UNSET,
            password_last_set: FileTime::UNSET,
            password_can_change: FileTime::UNSET,
            password_must_change: FileTime::NEVER,
            logon_hours: None,
            logon_count: 0,
            bad_password_count: 0,
            profile: Profile::default(),
            extra_sids: Vec::new(),
            home_domain: None,
            stale_s: None,
        }
    }
}

/// `userAccountControl` in `UF_*` bits; unknown bits are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct AccountFlags(pub u32);

impl AccountFlags {
    /// The account is disabled.
    pub const DISABLED: Self = Self(0x2);
    /// The account is locked.
    pub const LOCKED: Self = Self(0x10);
    /// An ordinary user.
    pub const NORMAL: Self = Self(0x200);
    /// A member of the domain.
    pub const WORKSTATION_TRUST: Self = Self(0x1000);
    /// A domain controller.
    pub const SERVER_TRUST: Self = Self(0x2000);
    /// The password does not expire.
    pub const PASSWORD_NEVER_EXPIRES: Self = Self(0x1_0000);

    /// Whether all bits of `other` are set.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// The same flags with the bits of `other` set or cleared.
    #[must_use]
    pub const fn with(self, other: Self, set: bool) -> Self {
        match set {
            true => Self(self.0 | other.0),
            false => Self(self.0 & !other.0),
        }
    }
}

/// Descriptive fields that decide nothing, empty when not known: those of [MS-PAC] 2.5, and an e-mail
/// address.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Profile {
    /// `displayName`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub full_name: String,
    /// `scriptPath`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub logon_script: String,
    /// `profilePath`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub profile_path: String,
    /// `homeDirectory`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub home_directory: String,
    /// `homeDrive`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub home_directory_drive: String,
    /// `mail`, by [`crate::rules::is_mail`]. People may often write it themselves, so it proves nothing. No
    /// field of a PAC has it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub mail: String,
}

/// One group; its members are accounts and groups, and membership is transitive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// `sAMAccountName`, unique in its domain among accounts and groups.
    pub name: String,
    /// `objectSid`.
    pub sid: Sid,
    /// Where the group may be used, and so in which field of the PAC it stands.
    pub scope: GroupScope,
}

/// `groupType` ([MS-ADTS] 2.2.12), as far as the PAC cares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GroupScope {
    /// Global: GroupIds.
    Global,
    /// Universal: GroupIds.
    Universal,
    /// Domain local: ResourceGroupIds.
    Local,
}

/// A group that an account is in, directly or through other groups.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Membership {
    /// `objectSid` of the group.
    pub sid: Sid,
    /// Its name, when the store knows it.
    pub name: Option<String>,
    /// Whether the group is universal, global or domain-local.
    pub scope: GroupScope,
}
