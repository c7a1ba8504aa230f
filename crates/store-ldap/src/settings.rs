//! What a store is made of. The caller reads the configuration and fills this; nothing here reads a file.

use crate::binds::Binds;
use crate::candidate_filter::Accents;
use crate::failover_refusals::Refusals;
use crate::filter::Attribute;
use crate::meter::Meter;
use crate::server::Server;
use account_store::{BoxFuture, Domain};
use rustls_pki_types::CertificateDer;
use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use zeroize::Zeroizing;

/// Looks the servers up, in the order in which to try them.
pub trait Discover: Send + Sync {
    /// The servers and how long they are valid, or why there are none.
    fn servers(&self) -> BoxFuture<'_, Result<(Vec<Server>, Duration), String>>;

    /// The addresses of a server; `None` if the system's resolver knows them.
    fn addresses<'a>(&'a self, _server: &'a Server) -> BoxFuture<'a, Result<Option<Vec<IpAddr>>, String>> {
        Box::pin(std::future::ready(Ok(None)))
    }
}

/// Where the servers are.
#[derive(Clone)]
pub enum Servers {
    /// In the configuration, in the order in which to try them; never empty.
    Listed(Vec<Server>),
    /// Elsewhere, such as in DNS.
    Discovered(Arc<dyn Discover>),
}

/// Reads the secret of the store's account: the present one, and the next one if there is one. Read again
/// whenever a connection is made.
pub type ReadSecrets = dyn Fn() -> Result<Vec<Zeroizing<String>>, String> + Send + Sync;

/// What there is to say about a domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdSettings {
    /// The base of all searches, such as `DC=corp,DC=example`: the domain's own naming context, or a part of
    /// it that has the groups, too.
    pub base: String,
}

/// The directory's attributes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GenericSettings {
    /// Accounts are below this entry; entries elsewhere do not count.
    pub user_base: String,
    /// Groups are below this entry.
    pub group_base: String,
    /// Object class of accounts, such as `posixAccount`.
    pub user_class: String,
    /// Object class of groups, such as `posixGroup`.
    pub group_class: String,
    /// The account's name, such as `uid`.
    pub name: Attribute,
    /// The account's number, such as `uidNumber`.
    pub number: Attribute,
    /// The number of the account's primary group, such as `gidNumber`.
    pub primary_group: Attribute,
    /// The user principal name, if accounts have one.
    pub user_principal_name: Option<Attribute>,
    /// Service principal names.
    pub service_principal_name: Option<Attribute>,
    /// Mappings of certificates, as `altSecurityIdentities` has them.
    pub mapping: Option<Attribute>,
    /// E-mail addresses.
    pub mail: Option<Attribute>,
    /// The name that people read.
    pub display_name: Option<Attribute>,
    /// When the entry was made, such as `createTimestamp`.
    pub created: Option<Attribute>,
    /// A group's name, such as `cn`.
    pub group_name: Attribute,
    /// A group's number, such as `gidNumber`.
    pub group_number: Attribute,
    /// How groups and members know each other.
    pub membership: GroupMembership,
    /// Relative identifiers of accounts.
    pub user_rids: RidRange,
    /// Relative identifiers of groups.
    pub group_rids: RidRange,
    /// Relative identifiers below 1000 that are wanted all the same.
    pub listed_rids: BTreeSet<u32>,
    /// What says that an account may not log on.
    pub state: Vec<StatePreset>,
}

/// How groups and members know each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GroupMembership {
    /// An attribute of groups with the names (DN) of members, which may be groups.
    Member(Attribute),
    /// An attribute of groups with the names of accounts (`memberUid`); groups are in no group.
    MemberUid(Attribute),
    /// An attribute of members with the names (DN) of their groups.
    MemberOf(Attribute),
}

/// Numbers, and the relative identifiers that they become.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RidRange {
    /// The first number.
    pub first: u32,
    /// The last number.
    pub last: u32,
    /// The relative identifier of the first number.
    pub rid: u32,
}

impl RidRange {
    /// The relative identifier of a number in the range.
    pub(crate) fn rid(&self, number: u32) -> Option<u32> {
        let offset = number.checked_sub(self.first).filter(|_| number <= self.last)?;
        self.rid.checked_add(offset)
    }

    /// The number of a relative identifier.
    pub(crate) fn number(&self, rid: u32) -> Option<u32> {
        let number = self.first.checked_add(rid.checked_sub(self.rid)?)?;
        (number <= self.last).then_some(number)
    }

    /// Whether a relative identifier is of both ranges.
    pub fn overlaps(&self, other: &Self) -> bool {
        let end = |range: &Self| u64::from(range.rid) + u64::from(range.last.saturating_sub(range.first));
        u64::from(self.rid) <= end(other) && u64::from(other.rid) <= end(self)
    }
}

/// Attributes that say that an account may not log on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StatePreset {
    /// OpenLDAP's password policy: `pwdAccountLockedTime`, `pwdEndTime`.
    Ppolicy,
    /// 389 and IPA: `nsAccountLock`.
    NsAccountLock,
    /// IPA and MIT Kerberos: `krbPrincipalExpiration`.
    Kerberos,
    /// `shadowExpire`, in days.
    Shadow,
}

impl StatePreset {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Ppolicy, Self::NsAccountLock, Self::Kerberos, Self::Shadow];

    /// Its name in a configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ppolicy => "ppolicy",
            Self::NsAccountLock => "nsAccountLock",
            Self::Kerberos => "krbPrincipalExpiration",
            Self::Shadow => "shadowExpire",
        }
    }

    pub(crate) const fn attributes(self) -> &'static [&'static str] {
        match self {
            Self::Ppolicy => &["pwdAccountLockedTime", "pwdEndTime"],
            Self::NsAccountLock => &["nsAccountLock"],
            Self::Kerberos => &["krbPrincipalExpiration"],
            Self::Shadow => &["shadowExpire"],
        }
    }
}

/// How a directory describes accounts and groups.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Schema {
    /// Active Directory and Samba.
    Ad(AdSettings),
    /// Configured attributes.
    Generic(Box<GenericSettings>),
}

/// Everything about a store.
#[derive(Clone)]
pub struct Settings {
    /// The domain whose accounts it has.
    pub domain: Domain,
    /// The servers.
    pub servers: Servers,
    /// Global catalog servers, in the order in which to try them; none if accounts are searched in the domain
    /// alone. For [`Schema::Ad`].
    pub catalog: Vec<Server>,
    /// The CAs of their certificates: no others count.
    pub ca: Vec<CertificateDer<'static>>,
    /// The distinguished name of the store's own account; never empty.
    pub bind_dn: String,
    /// Its secret.
    pub secrets: Arc<ReadSecrets>,
    /// How accounts look.
    pub schema: Schema,
    /// The time for one question, failover included.
    pub timeout: Duration,
    /// Connections, and so questions at once.
    pub connections_max: usize,
    /// How long a connection is kept without a question. Active Directory closes it after 900 s.
    pub idle_timeout: Duration,
    /// How long a connection is kept at all: its rights are those of its bind.
    pub age_max: Duration,
    /// How many entries one look-up compares; more are ambiguous.
    pub candidates_max: usize,
    /// Who ignores accents.
    pub accents: Accents,
    /// Of several e-mail addresses, the one in this domain counts.
    pub mail_domain: Option<String>,
    /// How long a decision that was made from an answer may be used.
    pub fresh: Duration,
    /// What another server of the directory has refused lately.
    pub refusals: Refusals,
    /// The binds of the account.
    pub binds: Binds,
    /// Counts what the store does.
    pub meter: Arc<Meter>,
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings")
            .field("bind_dn", &self.bind_dn)
            .field("schema", &self.schema)
            .finish_non_exhaustive()
    }
}
