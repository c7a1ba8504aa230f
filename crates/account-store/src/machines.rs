//! Machine accounts and trusts: who may open a secure channel, with which secret.
//!
//! A channel belongs to its account: a machine that shares its name and relative identifier with a computer
//! account is usable only while that account exists and is enabled. What passwords are is not known here:
//! only their NT hashes, which leave this module by [`NtHash::expose`] alone.

use crate::account::AccountFlags;
use crate::store::{BoxFuture, Revision, StoreError};
use dtyp::{FileTime, Sid};
use md4::{Digest, Md4};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::sync::Arc;
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, ZeroizeOnDrop};

/// NTOWF ([MS-NLMP] 3.3.1): MD4 of a password in UTF-16LE, the secret that both ends of a channel share.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct NtHash([u8; 16]);

impl NtHash {
    /// Takes the hash.
    pub const fn new(hash: [u8; 16]) -> Self {
        Self(hash)
    }

    /// A random hash, which no machine knows: for a machine that gets its secret later.
    pub fn unknown() -> Result<Self, StoreError> {
        let mut hash = [0; 16];
        getrandom::fill(&mut hash)
            .map_err(|error| StoreError::Unavailable(format!("random numbers: {error}")))?;
        Ok(Self(hash))
    }

    /// Of a password.
    pub fn from_password(password: &str) -> Self {
        let mut units = dtyp::utf16le(password);
        let hash = Self(Md4::digest(&units).into());
        units.zeroize();
        hash
    }

    /// The hash, for the one who proves or verifies its knowledge.
    pub const fn expose(&self) -> &[u8; 16] {
        &self.0
    }
}

impl PartialEq for NtHash {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Eq for NtHash {}

impl fmt::Debug for NtHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// [MS-NRPC] 2.2.1.3.13 NETLOGON_SECURE_CHANNEL_TYPE, as far as it is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ChannelKind {
    /// WorkstationSecureChannel (2): a member of the domain.
    Workstation,
    /// TrustedDnsDomainSecureChannel (3).
    TrustedDnsDomain,
    /// TrustedDomainSecureChannel (4).
    TrustedDomain,
    /// ServerSecureChannel (6): a domain controller.
    Server,
    /// CdcServerSecureChannel (7): a read-only domain controller.
    CdcServer,
}

impl ChannelKind {
    /// The value on the wire.
    pub const fn value(self) -> u16 {
        match self {
            Self::Workstation => 2,
            Self::TrustedDnsDomain => 3,
            Self::TrustedDomain => 4,
            Self::Server => 6,
            Self::CdcServer => 7,
        }
    }

    /// From the wire; `None` for what is not served.
    pub const fn from_value(value: u16) -> Option<Self> {
        Some(match value {
            2 => Self::Workstation,
            3 => Self::TrustedDnsDomain,
            4 => Self::TrustedDomain,
            6 => Self::Server,
            7 => Self::CdcServer,
            _ => return None,
        })
    }
}

/// A machine or a trust, without its secrets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    /// `sAMAccountName`, such as `WEB01$`; compared by [`crate::fold::casefold`].
    pub name: String,
    /// `objectSid`; that of the computer account of this name, if there is one.
    pub sid: Sid,
    /// The one kind of channel it may open.
    pub kind: ChannelKind,
    /// Whether it may open one at all.
    pub enabled: bool,
    /// Whether it may ask for certificates to be mapped.
    pub rcmp: bool,
    /// NetBIOS names of the domains whose accounts are in its scope; empty for all.
    pub domains: Vec<String>,
    /// SIDs of the groups whose members are in its scope, or of single accounts; empty for all accounts that
    /// are not privileged.
    pub groups: Vec<Sid>,
}

/// What a machine proves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Secrets {
    /// The current secret.
    pub current: NtHash,
    /// When it became so; after it, the previous one has 24 hours at most.
    pub current_since: FileTime,
    /// The one before, until the current one is used for the first time.
    pub previous: Option<NtHash>,
}

impl Secrets {
    /// The secrets of a machine that just got its first one.
    pub const fn first(current: NtHash, now: FileTime) -> Self {
        Self { current, current_since: now, previous: None }
    }

    /// [`MachineStore::rotate`]; whether anything changed, or `None` if another secret than the current one
    /// was expected.
    #[cfg(feature = "memory")]
    pub fn rotate(&mut self, expected: Option<NtHash>, secret: NtHash, now: FileTime) -> Option<bool> {
        if expected.is_some_and(|expected| self.current != expected) {
            return None;
        }
        let changes = self.current != secret;
        if changes {
            self.previous = Some(std::mem::replace(&mut self.current, secret));
            self.current_since = now;
        }
        Some(changes)
    }

    /// [`MachineStore::drop_previous`]; whether anything changed.
    #[cfg(feature = "memory")]
    pub fn drop_previous(&mut self, current: &NtHash) -> bool {
        self.current == *current && self.previous.take().is_some()
    }
}

/// A machine with what depends on other entries, read at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MachineRecord {
    /// The machine.
    pub machine: Machine,
    /// The current secret, and the previous one while it counts.
    pub secrets: Secrets,
    /// The flags of the account with its SID; `None` when it has none.
    pub account: Option<AccountFlags>,
}

impl MachineRecord {
    /// Whether it may have a channel: it is enabled, and its account, if any, is not disabled.
    pub fn is_enabled(&self) -> bool {
        self.machine.enabled && !self.account.is_some_and(|flags| flags.contains(AccountFlags::DISABLED))
    }
}

/// Machines and their secrets, as a service asks for them. The contract of [`crate::store`] holds here too.
///
/// If a machine has the name of a computer account, it has the SID of that account. Otherwise no account and
/// no group has its SID.
///
/// A service asks for a machine when it authenticates a secure channel, and for the revision at every call of
/// the channel. An `Err` refuses the call with a status that lets the client try again.
pub trait MachineStore: Send + Sync {
    /// The machine with this account name, enabled or not, and its secrets. Names are compared by
    /// [`crate::fold::casefold`].
    ///
    /// A dropped future leaves nothing behind.
    fn machine<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<Arc<MachineRecord>>, StoreError>>;

    /// Makes `secret` the current secret, and the current secret the previous one. If `secret` is current
    /// already, nothing changes: a repeated request must not remove the previous secret. If `expected` is
    /// given and is not the current secret, nothing changes and the answer is `false`.
    ///
    /// All of it is one change. If the future is dropped, the change is either made whole or not at all.
    /// `Ok(true)` means that it is on disk. A machine that is not there is [`StoreError::Refused`].
    fn rotate(
        &self,
        sid: Sid,
        expected: Option<NtHash>,
        secret: NtHash,
        now: FileTime,
    ) -> BoxFuture<'_, Result<bool, StoreError>>;

    /// Removes the previous secret if `current` is still the current one. A service calls this for every
    /// channel that is set up with the current secret, so the usual case, in which there is no previous
    /// secret, must not write.
    ///
    /// A dropped future removes the secret or leaves it. A machine that is not there is
    /// [`StoreError::Refused`].
    fn drop_previous(&self, sid: Sid, current: NtHash) -> BoxFuture<'_, Result<(), StoreError>>;

    /// Changes whenever an answer of [`MachineStore::machine`] may have changed, also when the account of a
    /// machine is disabled. Its cost and its errors are those of [`crate::AccountStore::revision`]: it is
    /// asked for at every call of every channel.
    fn machine_revision(&self) -> Result<Revision, StoreError>;

    /// Waits until [`MachineStore::machine_revision`] is as new as the store promises for a call that arrives
    /// now, as [`crate::AccountStore::refresh`] does. If accounts are in the same store, both are as new
    /// then.
    fn refresh_machines(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(std::future::ready(Ok(())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_known_by_its_hash_and_printed_never() {
        // The digest of [MS-NRPC], section 4.3.
        let hash = NtHash::from_password("test");
        assert_eq!(dtyp::hex(hash.expose()), "0cb6948805f797bf2a82807973b89537");
        assert_eq!(format!("{hash:?}"), "[redacted]");
        assert_ne!(hash, NtHash::new([0; 16]));
    }

    #[test]
    fn channel_kinds_have_the_values_of_the_document() {
        for value in 0..=u16::from(u8::MAX) {
            let kind = ChannelKind::from_value(value);
            assert_eq!(kind.is_some(), [2, 3, 4, 6, 7].contains(&value), "{value}");
            assert!(kind.is_none_or(|kind| kind.value() == value));
        }
    }
}
