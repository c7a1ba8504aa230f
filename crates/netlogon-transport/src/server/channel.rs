//! Channels that are set up, and the security contexts that use them.

use crate::credential::{Authenticator, Credential, Seed};
use crate::protection::{ChannelKeys, Confounder, Protector, Role, token_len};
use crate::sealer::Sealer;
use crate::secrets::{ChannelSecrets, ChannelType, Machine, SecretsUnavailable};
use dashmap::DashMap;
use dcerpc::security::{
    AuthLevel, Outgoing, ProtectedFragment, Protecting, Protection, SecurityContext, SecurityError,
};
use dtyp::{FileTime, Sid};
use std::any::Any;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A key is used this long, in steps of a [`FileTime`]: half a day.
const LIFETIME: u64 = 12 * 3600 * 10_000_000;
/// Channels that one computer may have at once: processes of one machine set theirs up independently, and the one must
/// not throw the other out.
const CHANNELS_PER_COMPUTER_MAX: usize = 8;

/// A secure channel: who is at its other end, proved by the shared secret.
#[derive(Debug)]
pub struct SecureChannel {
    pub(super) computer: String,
    pub(super) channel_type: ChannelType,
    pub(super) negotiated_flags: u32,
    pub(super) requested_flags: u32,
    pub(super) keys: Arc<ChannelKeys>,
    established: FileTime,
    seed: Mutex<Seed>,
    machine: Mutex<Arc<Machine>>,
    checked_revision: AtomicU64,
    revoked: AtomicBool,
}

/// What a handshake leads to.
pub(super) struct Established {
    pub(super) computer: String,
    pub(super) machine: Machine,
    pub(super) channel_type: ChannelType,
    pub(super) negotiated_flags: u32,
    pub(super) requested_flags: u32,
    pub(super) keys: Arc<ChannelKeys>,
    pub(super) client_credential: Credential,
    pub(super) now: FileTime,
    pub(super) revision: u64,
}

/// Why a channel is of no more use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Unusable {
    /// Its account was disabled, removed or got another secret, or the key is too old.
    Revoked,
    /// It cannot be told whether it is.
    Unknown(SecretsUnavailable),
}

impl SecureChannel {
    pub(super) fn new(established: Established) -> Arc<Self> {
        Arc::new(Self {
            computer: established.computer,
            channel_type: established.channel_type,
            negotiated_flags: established.negotiated_flags,
            requested_flags: established.requested_flags,
            keys: established.keys,
            established: established.now,
            seed: Mutex::new(Seed::new(established.client_credential)),
            machine: Mutex::new(Arc::new(established.machine)),
            checked_revision: AtomicU64::new(established.revision),
            revoked: AtomicBool::new(false),
        })
    }

    /// The account at the other end, as it was when it was last looked at: at most one change of the secrets ago.
    pub fn machine(&self) -> Arc<Machine> {
        Arc::clone(&lock(&self.machine))
    }

    /// The account's SID, by which it is authorised.
    pub fn sid(&self) -> Sid {
        lock(&self.machine).sid
    }

    /// NetBIOS name of the computer.
    pub fn computer(&self) -> &str {
        &self.computer
    }

    /// Checks an authenticator and makes the one to return; nothing changes when it is wrong.
    pub(super) fn authenticate(&self, authenticator: &Authenticator) -> Option<Authenticator> {
        lock(&self.seed).check(self.keys.credential_key(), authenticator)
    }

    /// Whether the account still exists, is enabled and has the secret of this channel. Asked for every call; the
    /// secrets are read only after something changed there.
    pub(super) async fn check(&self, secrets: &dyn ChannelSecrets, now: FileTime) -> Result<(), Unusable> {
        if self.is_expired(now) {
            return Err(Unusable::Revoked);
        }
        let revision = secrets.revision().map_err(Unusable::Unknown)?;
        if revision == self.checked_revision.load(Ordering::Acquire) {
            return Ok(());
        }
        let known = self.machine();
        let found = secrets.find(&known.name).await.map_err(Unusable::Unknown)?;
        match found {
            Some(machine)
                if machine.sid == known.sid && machine.generation == known.generation && machine.enabled =>
            {
                *lock(&self.machine) = Arc::new(machine);
                self.checked_revision.store(revision, Ordering::Release);
                Ok(())
            }
            _ => {
                self.revoked.store(true, Ordering::Release);
                Err(Unusable::Revoked)
            }
        }
    }

    fn is_expired(&self, now: FileTime) -> bool {
        self.revoked.load(Ordering::Acquire) || now.0.saturating_sub(self.established.0) >= LIFETIME
    }
}

/// Channels by the name of their computer, which is all that a bind tells.
#[derive(Debug, Default)]
pub(super) struct Channels {
    by_computer: DashMap<String, Vec<Arc<SecureChannel>>>,
}

/// The record of a computer belongs to another account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BelongsToAnother;

impl Channels {
    /// Adds a channel. A record never replaces another account's, but for a machine that takes back the name which its
    /// account carries.
    pub(super) fn insert(&self, now: FileTime, channel: Arc<SecureChannel>) -> Result<(), BelongsToAnother> {
        let mut channels = self.by_computer.entry(channel.computer.clone()).or_default();
        channels.retain(|other| !other.is_expired(now));
        let sid = channel.sid();
        if channels.iter().any(|other| other.sid() != sid) {
            let is_owner = channel.channel_type.names_its_computer();
            if !is_owner
                || channels.iter().any(|other| other.channel_type.names_its_computer() && other.sid() != sid)
            {
                return Err(BelongsToAnother);
            }
            channels.clear();
        }
        if channels.len() >= CHANNELS_PER_COMPUTER_MAX {
            channels.remove(0);
        }
        channels.push(channel);
        Ok(())
    }

    /// The channels of a computer, the newest first.
    pub(super) fn find(&self, now: FileTime, computer: &str) -> Vec<Arc<SecureChannel>> {
        let Some(channels) = self.by_computer.get(computer) else { return Vec::new() };
        channels.iter().rev().filter(|channel| !channel.is_expired(now)).cloned().collect()
    }
}

/// The server's end of a security context. A bind tells the computer only, so the first fragment shows which of its
/// channels is meant.
pub(super) struct ServerContext {
    candidates: Vec<(Arc<SecureChannel>, Protector)>,
}

impl ServerContext {
    /// INVARIANT: there is at least one channel.
    pub(super) fn new(channels: Vec<Arc<SecureChannel>>, sealer: &Sealer, confounder: Confounder) -> Self {
        let candidates = channels
            .into_iter()
            .map(|channel| {
                let keys = Arc::clone(&channel.keys);
                (channel, Protector::new(keys, Role::Server, sealer.clone(), confounder))
            })
            .collect();
        Self { candidates }
    }
}

impl SecurityContext for ServerContext {
    fn token_len(&self, level: AuthLevel) -> usize {
        token_len(level)
    }

    fn supports_header_signing(&self) -> bool {
        true
    }

    fn unprotect(
        &mut self,
        protection: Protection,
        fragment: ProtectedFragment<'_>,
    ) -> Result<(), SecurityError> {
        if let [(channel, protector)] = &mut self.candidates[..] {
            if channel.revoked.load(Ordering::Acquire) {
                return Err(SecurityError::ContextExpired);
            }
            return protector.unprotect(protection, fragment);
        }
        let ProtectedFragment { header, body, trailer, token } = fragment;
        let mut error = SecurityError::ContextExpired;
        for at in 0..self.candidates.len() {
            let mut attempt = body.to_vec();
            let fragment = ProtectedFragment { header, body: &mut attempt, trailer, token };
            match self.candidates[at].1.unprotect(protection, fragment) {
                Ok(()) => {
                    body.copy_from_slice(&attempt);
                    self.candidates.swap(0, at);
                    self.candidates.truncate(1);
                    return Ok(());
                }
                Err(reason) => error = reason,
            }
        }
        Err(error)
    }

    fn protect(&mut self, protection: Protection, message: Outgoing) -> Protecting {
        self.candidates[0].1.protect(protection, message)
    }

    fn identity(&self) -> Arc<dyn Any + Send + Sync> {
        Arc::clone(&self.candidates[0].0) as _
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
