//! The store of the secrets of machines and trusts, as the server needs it.

use crate::secret::SharedSecret;
use dtyp::Sid;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

/// The future of an object-safe async method.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// NETLOGON_SECURE_CHANNEL_TYPE ([MS-NRPC] 2.2.1.3.13), by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ChannelType(pub u16);

impl ChannelType {
    /// A member of the domain.
    pub const WORKSTATION: Self = Self(2);
    /// A trusted domain, by its DNS name.
    pub const TRUSTED_DNS_DOMAIN: Self = Self(3);
    /// A trusted domain, by its NetBIOS name.
    pub const TRUSTED_DOMAIN: Self = Self(4);
    /// A backup domain controller.
    pub const SERVER: Self = Self(6);
    /// A read-only domain controller.
    pub const CDC_SERVER: Self = Self(7);

    /// Whether a secure channel may be of this type.
    pub const fn is_channel(self) -> bool {
        matches!(self.0, 2 | 3 | 4 | 6 | 7)
    }

    /// Whether the account must be named after the computer: otherwise a machine could set up a channel in
    /// another's name.
    pub const fn names_its_computer(self) -> bool {
        matches!(self, Self::WORKSTATION | Self::SERVER)
    }
}

/// An account that may set up a channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    /// Name of the account, such as `WEB01$`.
    pub name: String,
    /// SID of the account, by which it is authorised and audited.
    pub sid: Sid,
    /// The type of channel that the account is for.
    pub channel_type: ChannelType,
    /// Whether it may set one up now.
    pub enabled: bool,
    /// Its present secret.
    pub current: SharedSecret,
    /// The secret before, while it is accepted: until the present one is used for the first time, and for a
    /// day at most.
    pub previous: Option<SharedSecret>,
    /// Whether it may ask for certificates to be mapped.
    pub may_map: bool,
    /// NetBIOS names of the domains whose accounts are in its scope; empty for all.
    pub domains: Arc<[String]>,
    /// SIDs of the groups whose members are in its scope, or of single accounts; empty for all accounts that
    /// are not privileged.
    pub groups: Arc<[Sid]>,
}

/// Which secret of an account a secret is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SecretAge {
    /// The present one.
    Current,
    /// The one before, which is still accepted.
    Previous,
}

impl Machine {
    /// Which secret of this account `secret` is now; `None` if it is not accepted, or no longer.
    pub fn age_of(&self, secret: &SharedSecret) -> Option<SecretAge> {
        match () {
            () if self.current == *secret => Some(SecretAge::Current),
            () if self.previous.as_ref() == Some(secret) => Some(SecretAge::Previous),
            () => None,
        }
    }
}

/// The secrets cannot be read now, with the reason. This is never a refusal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretsUnavailable(pub String);

impl std::fmt::Display for SecretsUnavailable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the channel secrets cannot be read: {}", self.0)
    }
}

impl std::error::Error for SecretsUnavailable {}

/// The secrets of machines and trusts.
pub trait ChannelSecrets: Send + Sync {
    /// The account of a name, compared without case.
    fn find<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<Machine>, SecretsUnavailable>>;

    /// A number that changes whenever an answer of [`Self::find`] may have changed, and never comes back,
    /// also when a back-up is restored. It is asked for every call, so it has to be cheap.
    fn revision(&self) -> Result<u64, SecretsUnavailable>;

    /// Waits until [`Self::revision`] is new enough for a call that arrives now. It is asked once for every
    /// call. As a default, a revision is always new enough.
    fn refresh(&self) -> BoxFuture<'_, Result<(), SecretsUnavailable>> {
        Box::pin(std::future::ready(Ok(())))
    }

    /// The present secret was used: the one before is accepted no more, even if it cannot be removed now.
    fn current_used<'a>(&'a self, machine: &'a Machine) -> BoxFuture<'a, Result<(), SecretsUnavailable>>;

    /// Makes `new` the present secret of an account, and the present one the one before, in one step. Nothing
    /// changes, and the answer is `false`, unless the present secret is the one that `machine` has.
    fn rotate<'a>(
        &'a self,
        machine: &'a Machine,
        new: SharedSecret,
    ) -> BoxFuture<'a, Result<bool, SecretsUnavailable>>;
}
