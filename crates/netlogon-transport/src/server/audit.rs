//! Audit events of secure channels.

use crate::secrets::ChannelType;
use dtyp::Sid;
use std::net::{IpAddr, SocketAddr};

/// One attempt to set up a channel, or to change its secret.
#[derive(Clone, Debug)]
pub struct ChannelEvent<'a> {
    /// Whether the channel was set up or rejected, or its secret changed.
    pub outcome: ChannelOutcome,
    /// The account, as the client named it.
    pub account: &'a str,
    /// The computer, as the client named it.
    pub computer: &'a str,
    /// The type of channel, as the client named it.
    pub channel_type: ChannelType,
    /// The account's SID, when there is such an account.
    pub sid: Option<Sid>,
    /// Where it came from.
    pub address: SocketAddr,
}

/// The outcome of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ChannelOutcome {
    /// The channel is set up.
    Established,
    /// The account has a new secret.
    Rotated,
    /// A new secret was refused, because the channel was set up with a secret that is no longer the current
    /// one.
    RotationDenied,
    /// The channel was refused.
    Refused(ChannelRefusal),
}

/// Why a channel was refused. The client gets a status that tells less.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ChannelRefusal {
    /// It does not offer AES and secure RPC.
    Downgrade,
    /// No channel is of this type.
    ChannelType,
    /// No such account.
    UnknownAccount,
    /// The account is disabled.
    AccountDisabled,
    /// The account is for another type of channel.
    OtherChannelType,
    /// The account is not named after the computer.
    NameMismatch,
    /// No challenge came before, or it was used.
    NoChallenge,
    /// The challenge is not random enough.
    WeakChallenge,
    /// The credential is wrong: another secret, or none.
    WrongCredential,
    /// The computer's record belongs to another account.
    RecordOfAnother,
    /// The secrets could not be read.
    SecretsUnavailable,
}

impl ChannelRefusal {
    /// All reasons.
    pub const ALL: [Self; 11] = [
        Self::Downgrade,
        Self::ChannelType,
        Self::UnknownAccount,
        Self::AccountDisabled,
        Self::OtherChannelType,
        Self::NameMismatch,
        Self::NoChallenge,
        Self::WeakChallenge,
        Self::WrongCredential,
        Self::RecordOfAnother,
        Self::SecretsUnavailable,
    ];

    /// The reason in one sentence, lower case, without a full stop.
    pub const fn text(self) -> &'static str {
        match self {
            Self::Downgrade => "the client offers no AES or no secure RPC",
            Self::ChannelType => "no channel is of this type",
            Self::UnknownAccount => "there is no such machine account",
            Self::AccountDisabled => "the machine account is disabled",
            Self::OtherChannelType => "the account is for another type of channel",
            Self::NameMismatch => "the account is not named after the computer",
            Self::NoChallenge => "no challenge came before, or it was used up",
            Self::WeakChallenge => "the challenge is not random",
            Self::WrongCredential => "the secret is wrong",
            Self::RecordOfAnother => "another account has a channel of this computer",
            Self::SecretsUnavailable => "the channel secrets cannot be read",
        }
    }
}

/// The audit log is required and cannot be written, so no channel may be set up or changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AuditUnavailable;

/// The audit log of channels. Refusals of callers that proved nothing may be counted instead of written, so
/// that a flood does not fill the disk.
pub trait Audit: Send + Sync {
    /// Writes one event before it takes effect.
    fn channel(&self, event: &ChannelEvent<'_>) -> Result<(), AuditUnavailable>;

    /// The answer to an attempt is delayed, because secrets of this machine account are guessed from there.
    fn slowed(&self, _account: &str, _source: IpAddr) {}
}
