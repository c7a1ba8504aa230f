//! Channels that several servers of one domain share, so that each connection of a machine may reach another
//! of them.
//!
//! ```text
//! op 4 at A ─► put_challenge      op 26 at B ─► challenges, use_up, put      sealed bind at C ─► find
//! ```
//!
//! A channel is written once, when it is set up, and read once for each server and connection. Calls without
//! an authenticator need nothing more. A call with one advances the stored credential of the channel by a
//! conditional update: of two calls with the same one, only one is performed.

use crate::credential::Credential;
use crate::secret::SessionKey;
use crate::secrets::{BoxFuture, ChannelType, SecretsUnavailable};
use dtyp::Sid;
use std::net::IpAddr;
use std::time::Duration;

/// Random, and never used for another channel.
pub type ChannelId = [u8; 16];

/// A secure channel as servers share it. An implementation of [`SharedChannels`] seals `key`, and
/// authenticates all of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChannelState {
    /// Its number.
    pub id: ChannelId,
    /// Name of the account, such as `WEB01$`.
    pub account: String,
    /// SID of the account.
    pub sid: Sid,
    /// NetBIOS name of the computer, in capital letters.
    pub computer: String,
    /// The type that the handshake named.
    pub channel_type: ChannelType,
    /// NegotiateFlags of the answer.
    pub negotiated_flags: u32,
    /// NegotiateFlags of the request.
    pub requested_flags: u32,
    /// The session key.
    pub key: SessionKey,
    /// Which secret of the account was proved: HMAC-SHA256 of it under the session key, cut to 64 bits.
    pub secret_check: [u8; 8],
    /// How long it is still good.
    pub left: Duration,
    /// The stored credential, after the calls that were made.
    pub seed: StoredCredential,
}

/// The stored credential of a channel ([MS-NRPC] 3.1.4.5), and how many times it was advanced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoredCredential {
    /// Calls with an authenticator that were performed.
    pub generation: u64,
    /// Eight octets that both sides add to.
    pub credential: Credential,
}

/// A challenge that a server of the domain gave out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SharedChallenge {
    /// ClientChallenge of NetrServerReqChallenge.
    pub client: Credential,
    /// ServerChallenge of its answer.
    pub server: Credential,
    /// Its number.
    pub id: [u8; 16],
}

/// What servers know of a source that proves the secret of an account.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attempts {
    /// The challenges that servers gave to it: a bounded number, the newest first.
    pub challenges: Vec<SharedChallenge>,
    /// Wrong proofs that it has sent to any of the servers within [`dcerpc::backoff::MEMORY`].
    pub failures: u32,
}

/// What the servers of one domain share. Each method may be cancelled, and has a deadline of its own.
pub trait SharedChannels: Send + Sync {
    /// Keeps a challenge for two minutes. A flood may overwrite it. Then the client has to ask for another
    /// one.
    fn put_challenge<'a>(
        &'a self,
        source: IpAddr,
        computer: &'a str,
        client: Credential,
        server: Credential,
    ) -> BoxFuture<'a, Result<(), SecretsUnavailable>>;

    /// The challenges that servers gave to this source and computer, and the wrong proofs for this account.
    fn attempts<'a>(
        &'a self,
        source: IpAddr,
        computer: &'a str,
        account: &'a str,
    ) -> BoxFuture<'a, Result<Attempts, SecretsUnavailable>>;

    /// Counts a wrong proof of the secret of an account. The count may be lost: other accounts' counts may
    /// take its place. Returns the number before it.
    fn failed<'a>(
        &'a self,
        source: IpAddr,
        account: &'a str,
    ) -> BoxFuture<'a, Result<u32, SecretsUnavailable>>;

    /// Ends a challenge with which a client proved its secret. `false` if it was used meanwhile.
    fn use_up<'a>(
        &'a self,
        challenge: &'a SharedChallenge,
    ) -> BoxFuture<'a, Result<bool, SecretsUnavailable>>;

    /// Keeps a new channel, and forgets the oldest of the account if it has too many.
    fn put<'a>(&'a self, state: &'a ChannelState) -> BoxFuture<'a, Result<(), SecretsUnavailable>>;

    /// The channels of a computer that are still good: a bounded number, the newest last.
    fn find<'a>(&'a self, computer: &'a str) -> BoxFuture<'a, Result<Vec<ChannelState>, SecretsUnavailable>>;

    /// Forgets a channel that has ended before its time.
    fn remove<'a>(&'a self, id: &'a ChannelId) -> BoxFuture<'a, Result<(), SecretsUnavailable>>;

    /// The stored credential of a channel; `None` if the channel is gone.
    fn credential<'a>(
        &'a self,
        id: &'a ChannelId,
    ) -> BoxFuture<'a, Result<Option<StoredCredential>, SecretsUnavailable>>;

    /// Replaces the stored credential. Nothing changes, and the answer is `false`, unless it is still `from`.
    fn advance<'a>(
        &'a self,
        id: &'a ChannelId,
        from: &'a StoredCredential,
        to: Credential,
    ) -> BoxFuture<'a, Result<bool, SecretsUnavailable>>;
}
