//! Channels that are set up, and the security contexts that use them.

use super::shared::{ChannelId, ChannelState, SharedChannels, StoredCredential};
use crate::credential::{Authenticator, Credential, Seed};
use crate::keys::ChannelKeys;
use crate::protection::{Confounder, Protector, Role, token_len};
use crate::sealer::Sealer;
use crate::secret::{SessionKey, SharedSecret};
use crate::secrets::{ChannelSecrets, ChannelType, Machine, SecretAge, SecretsUnavailable};
use dashmap::DashMap;
use dcerpc::security::{
    Account, AuthLevel, Outgoing, ProtectedFragment, Protecting, Protection, SecurityContext, SecurityError,
};
use dtyp::Sid;
use std::any::Any;
use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// A key is used for half a day.
const LIFETIME: Duration = Duration::from_secs(12 * 3600);
/// A revision that no store has: the secrets are read at each call.
const UNCHECKED: u64 = u64::MAX;
/// Channels that one account may have at once under one computer's name: processes of one machine set theirs
/// up independently, and the one must not throw the other out.
const CHANNELS_PER_COMPUTER_MAX: usize = 8;

/// Channels under one computer's name, of all accounts: controllers of several trusted domains may be called
/// alike, and a bind tells the name only, so that its first fragment is tried with each.
const CHANNELS_PER_NAME_MAX: usize = 4 * CHANNELS_PER_COMPUTER_MAX;

/// Computers for which one account may have channels, where the account is not named after its computer: the
/// controllers of a trusted domain. More would be a table that one peer fills.
const COMPUTERS_PER_ACCOUNT_MAX: usize = 64;

/// A secure channel: who is at its other end, proved by the shared secret. It is good while that secret is
/// accepted.
#[derive(Debug)]
pub struct SecureChannel {
    pub(super) id: ChannelId,
    pub(super) computer: String,
    pub(super) channel_type: ChannelType,
    pub(super) negotiated_flags: u32,
    pub(super) requested_flags: u32,
    pub(super) keys: Arc<ChannelKeys>,
    /// The secret that was proved in the handshake.
    secret: SharedSecret,
    /// Monotonic.
    ends: Duration,
    seed: Mutex<Seed>,
    machine: Mutex<Arc<Machine>>,
    /// The revision at which the secret of this channel was the current one. A previous one ends by time,
    /// too, so it is looked at again at each call.
    checked_revision: AtomicU64,
    revoked: AtomicBool,
}

/// The parameters of a new channel, from its handshake.
pub(super) struct Established {
    pub(super) id: ChannelId,
    pub(super) computer: String,
    pub(super) machine: Machine,
    pub(super) channel_type: ChannelType,
    pub(super) negotiated_flags: u32,
    pub(super) requested_flags: u32,
    pub(super) keys: Arc<ChannelKeys>,
    pub(super) secret: SharedSecret,
    pub(super) client_credential: Credential,
    pub(super) now: Duration,
    pub(super) revision: u64,
}

/// Why a channel cannot be used for a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Unusable {
    /// Its account was disabled or removed, its secret is accepted no more, or the key is too old.
    Revoked,
    /// The secrets cannot be read, so it is unknown whether the channel is still valid.
    Unknown(SecretsUnavailable),
}

impl SecureChannel {
    pub(super) fn new(established: Established) -> Arc<Self> {
        let age = established.machine.age_of(&established.secret);
        let checked = if age == Some(SecretAge::Current) { established.revision } else { UNCHECKED };
        Arc::new(Self {
            id: established.id,
            computer: established.computer,
            channel_type: established.channel_type,
            negotiated_flags: established.negotiated_flags,
            requested_flags: established.requested_flags,
            keys: established.keys,
            secret: established.secret,
            ends: established.now + LIFETIME,
            seed: Mutex::new(Seed::new(established.client_credential)),
            machine: Mutex::new(Arc::new(established.machine)),
            checked_revision: AtomicU64::new(checked),
            revoked: AtomicBool::new(false),
        })
    }

    /// A channel that another server of the domain set up; `None` unless its secret is still accepted.
    pub(super) fn restored(state: ChannelState, machine: Machine, now: Duration) -> Option<Arc<Self>> {
        let keys = Arc::new(ChannelKeys::new(state.key));
        let is_proved = |secret: &&SharedSecret| keys.secret_check(secret) == state.secret_check;
        let secret = std::iter::once(&machine.current).chain(&machine.previous).find(is_proved)?.clone();
        let is_same = machine.sid == state.sid && machine.channel_type == state.channel_type;
        (machine.enabled && is_same).then(|| {
            Arc::new(Self {
                id: state.id,
                computer: state.computer,
                channel_type: state.channel_type,
                negotiated_flags: state.negotiated_flags,
                requested_flags: state.requested_flags,
                keys,
                secret,
                ends: now + state.left.min(LIFETIME),
                seed: Mutex::new(Seed::new(state.seed.credential)),
                machine: Mutex::new(Arc::new(machine)),
                checked_revision: AtomicU64::new(UNCHECKED),
                revoked: AtomicBool::new(false),
            })
        })
    }

    /// The channel for other servers of the domain, under its session key.
    pub(super) fn state(&self, key: SessionKey, now: Duration) -> ChannelState {
        let machine = self.machine();
        ChannelState {
            id: self.id,
            account: machine.name.clone(),
            sid: machine.sid,
            computer: self.computer.clone(),
            channel_type: self.channel_type,
            negotiated_flags: self.negotiated_flags,
            requested_flags: self.requested_flags,
            key,
            secret_check: self.keys.secret_check(&self.secret),
            left: self.ends.saturating_sub(now),
            seed: StoredCredential { generation: 0, credential: lock(&self.seed).credential() },
        }
    }

    /// Ends it: its account could not be told to other servers, or is gone.
    pub(super) fn revoke(&self) {
        self.revoked.store(true, Ordering::Release);
    }

    /// The account at the other end, as it was when it was last looked at: at most one change of the secrets
    /// ago.
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

    /// The same by the stored credential that servers share. `None` also if another call with it came first.
    pub(super) async fn authenticate_shared(
        &self,
        shared: &dyn SharedChannels,
        authenticator: &Authenticator,
    ) -> Result<Option<Authenticator>, SecretsUnavailable> {
        let Some(stored) = shared.credential(&self.id).await? else { return Ok(None) };
        let mut seed = Seed::new(stored.credential);
        let Some(returned) = seed.check(self.keys.credential_key(), authenticator) else { return Ok(None) };
        let is_ours = shared.advance(&self.id, &stored, seed.credential()).await?;
        Ok(is_ours.then_some(returned))
    }

    /// The account, provided that the secret of this channel is its current one, by what was read last.
    pub(super) fn machine_with_current_secret(&self) -> Option<Arc<Machine>> {
        let machine = self.machine();
        (machine.age_of(&self.secret) == Some(SecretAge::Current)).then_some(machine)
    }

    /// Whether the account still exists, is enabled and accepts the secret of this channel. Asked for every
    /// call; the secrets are read only after something changed there, or if the channel's secret is the
    /// previous one.
    pub(super) async fn check(&self, secrets: &dyn ChannelSecrets, now: Duration) -> Result<(), Unusable> {
        if self.is_expired(now) {
            return Err(Unusable::Revoked);
        }
        let revision = secrets.revision().map_err(Unusable::Unknown)?;
        if revision == self.checked_revision.load(Ordering::Acquire) {
            return Ok(());
        }
        let known = self.machine();
        let found = secrets.find(&known.name).await.map_err(Unusable::Unknown)?;
        let usable = found.filter(|machine| machine.sid == known.sid && machine.enabled);
        let age = usable.as_ref().and_then(|machine| machine.age_of(&self.secret));
        let (Some(machine), Some(age)) = (usable, age) else {
            self.revoke();
            return Err(Unusable::Revoked);
        };
        *lock(&self.machine) = Arc::new(machine);
        if age == SecretAge::Current {
            self.checked_revision.store(revision, Ordering::Release);
        }
        Ok(())
    }

    fn is_expired(&self, now: Duration) -> bool {
        self.revoked.load(Ordering::Acquire) || now >= self.ends
    }
}

/// Channels by the name of their computer, because a bind has no other key.
#[derive(Debug, Default)]
pub(super) struct Channels {
    by_computer: DashMap<String, Vec<Arc<SecureChannel>>>,
    /// Computers of the accounts that are not named after theirs, the one with the oldest channels first.
    computers: Mutex<HashMap<Sid, VecDeque<String>>>,
}

/// The record of a computer belongs to another account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BelongsToAnother;

impl Channels {
    /// Adds a channel. A record never replaces another account's, but for a machine that takes back the name
    /// which its account carries. Accounts that are not named after their computer share a name that no
    /// machine has.
    pub(super) fn insert(&self, now: Duration, channel: Arc<SecureChannel>) -> Result<(), BelongsToAnother> {
        let is_owner = channel.channel_type.names_its_computer();
        if !is_owner {
            self.make_room(&channel);
        }
        let mut channels = self.by_computer.entry(channel.computer.clone()).or_default();
        channels.retain(|other| !other.is_expired(now));
        let sid = channel.sid();
        if channels.iter().any(|other| other.channel_type.names_its_computer() && other.sid() != sid) {
            return Err(BelongsToAnother);
        }
        if is_owner {
            channels.retain(|other| other.sid() == sid);
        }
        let own = channels.iter().filter(|other| other.sid() == sid).count();
        if own >= CHANNELS_PER_COMPUTER_MAX {
            let machine = channel.machine();
            let is_own = |other: &Arc<SecureChannel>| other.sid() == sid;
            // One of a secret that is no longer the current one goes first.
            let is_old = |other: &Arc<SecureChannel>| is_own(other) && machine.current != other.secret;
            let oldest = channels.iter().position(is_old).or_else(|| channels.iter().position(is_own));
            channels.remove(oldest.expect("there are some"));
        } else if channels.len() >= CHANNELS_PER_NAME_MAX {
            return Err(BelongsToAnother);
        }
        channels.push(channel);
        Ok(())
    }

    /// Forgets the account's oldest computer, when there are enough of them without this one. Looks at this
    /// account's alone.
    fn make_room(&self, channel: &SecureChannel) {
        let sid = channel.sid();
        let mut computers = lock(&self.computers);
        let own = computers.entry(sid).or_default();
        own.retain(|computer| *computer != channel.computer);
        let oldest = if own.len() >= COMPUTERS_PER_ACCOUNT_MAX { own.pop_front() } else { None };
        own.push_back(channel.computer.clone());
        drop(computers);
        if let Some(oldest) = oldest {
            self.by_computer.remove_if_mut(&oldest, |_, channels| {
                channels.retain(|other| other.sid() != sid);
                channels.is_empty()
            });
        }
    }

    /// The channels of a computer, the newest first.
    pub(super) fn find(&self, now: Duration, computer: &str) -> Vec<Arc<SecureChannel>> {
        let Some(channels) = self.by_computer.get(computer) else { return Vec::new() };
        channels.iter().rev().filter(|channel| !channel.is_expired(now)).cloned().collect()
    }

    /// Counts the channels by age, see [`super::NetlogonServer::channels_by_age`].
    pub(super) fn by_age<const N: usize>(&self, now: Duration, bounds: [Duration; N]) -> [u64; N] {
        let mut counts = [0; N];
        for channels in &self.by_computer {
            for channel in channels.iter().filter(|channel| !channel.is_expired(now)) {
                let age = LIFETIME.saturating_sub(channel.ends.saturating_sub(now));
                let at = bounds.iter().position(|bound| age <= *bound).unwrap_or(N.saturating_sub(1));
                counts[at] += 1;
            }
        }
        counts
    }
}

/// The server's end of a security context. A bind tells the computer only, so the first fragment shows which
/// of its channels is meant.
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

    fn account(&self) -> Option<Account> {
        Some(self.candidates[0].0.sid().into())
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn channel(channel_type: ChannelType, rid: u32, computer: &str, now: u64) -> Arc<SecureChannel> {
        channel_of(SharedSecret::new([0; 16]), channel_type, rid, computer, now)
    }

    fn channel_of(
        secret: SharedSecret,
        channel_type: ChannelType,
        rid: u32,
        computer: &str,
        now: u64,
    ) -> Arc<SecureChannel> {
        let machine = Machine {
            name: format!("M{rid}$"),
            sid: Sid::new(5, &[21, 1, 2, 3, rid]).expect("five parts"),
            channel_type,
            enabled: true,
            current: SharedSecret::new([0; 16]),
            previous: None,
            may_map: true,
            domains: Arc::default(),
            groups: Arc::default(),
        };
        SecureChannel::new(Established {
            id: [0; 16],
            computer: computer.to_owned(),
            machine,
            channel_type,
            negotiated_flags: 0,
            requested_flags: 0,
            keys: Arc::new(ChannelKeys::new(SessionKey::new([rid as u8; 16]))),
            secret,
            client_credential: [0; 8],
            now: Duration::from_secs(now),
            revision: 0,
        })
    }

    const fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_trusted_domain_s_oldest_computer_goes_first() {
        let channels = Channels::default();
        let member = channel(ChannelType::WORKSTATION, 1000, "WEB1", 0);
        channels.insert(seconds(0), member).expect("no other account has the name");
        for n in 0..200 {
            let other = channel(ChannelType::TRUSTED_DOMAIN, 1001, &format!("DC{n}"), n + 1);
            channels.insert(seconds(n + 1), other).expect("no other account has the name");
        }
        assert_eq!(channels.by_computer.len(), 1 + COMPUTERS_PER_ACCOUNT_MAX);
        assert!(channels.find(seconds(201), "DC135").is_empty());
        assert_eq!(channels.find(seconds(201), "DC136").len(), 1);
        assert_eq!(channels.find(seconds(201), "WEB1").len(), 1, "another account's stays");
        let again = channel(ChannelType::TRUSTED_DOMAIN, 1001, "DC199", 300);
        channels.insert(seconds(300), again).expect("its own name");
        assert_eq!(channels.find(seconds(300), "DC136").len(), 1, "a computer that is there needs no room");
    }

    #[test]
    fn trusted_domains_share_a_name_that_no_machine_has() {
        let channels = Channels::default();
        let insert = |channel_type, rid, name: &str, now| {
            channels.insert(seconds(now), channel(channel_type, rid, name, now))
        };
        let rids = |name| -> Vec<u32> {
            let found = channels.find(seconds(100), name);
            found.iter().map(|channel| channel.sid().split_rid().expect("of an account").1).collect()
        };
        for n in 0..20 {
            insert(ChannelType::TRUSTED_DOMAIN, 1001, "DC1", n).expect("shared");
        }
        for rid in 1002..=1004 {
            insert(ChannelType::TRUSTED_DNS_DOMAIN, rid, "DC1", 30).expect("shared");
        }
        assert_eq!(rids("DC1"), [1004, 1003, 1002, 1001, 1001, 1001, 1001, 1001, 1001, 1001, 1001]);
        for n in 0..60 {
            let _ = insert(ChannelType::TRUSTED_DOMAIN, 1010 + n / 8, "DC1", 40);
        }
        assert_eq!(rids("DC1").len(), CHANNELS_PER_NAME_MAX);
        assert_eq!(insert(ChannelType::TRUSTED_DOMAIN, 1100, "DC1", 50), Err(BelongsToAnother));
        for n in 0..COMPUTERS_PER_ACCOUNT_MAX as u64 {
            insert(ChannelType::TRUSTED_DOMAIN, 1002, &format!("X{n}"), 60 + n)
                .expect("no other account has the name");
        }
        assert!(!rids("DC1").contains(&1002), "the oldest of its computers is gone");
        assert!(rids("DC1").contains(&1003), "the others' channels stay");
        insert(ChannelType::WORKSTATION, 1200, "DC1", 90).expect("its own name");
        assert_eq!(rids("DC1"), [1200]);
        assert_eq!(insert(ChannelType::TRUSTED_DOMAIN, 1001, "DC1", 91), Err(BelongsToAnother));
    }

    #[test]
    fn one_computer_has_so_many_channels() {
        let channels = Channels::default();
        for n in 0..20 {
            let channel = channel(ChannelType::WORKSTATION, 1000, "WEB1", n);
            channels.insert(seconds(n), channel).expect("its own name");
        }
        let found = channels.find(seconds(20), "WEB1");
        assert_eq!(found.len(), CHANNELS_PER_COMPUTER_MAX);
        assert_eq!(found[0].ends, seconds(19) + LIFETIME, "the newest first");
        assert!(channels.find(LIFETIME + seconds(20), "WEB1").is_empty(), "keys grow old");
    }

    #[test]
    fn a_channel_of_an_old_secret_makes_room_before_one_of_the_current_secret() {
        let channels = Channels::default();
        let insert = |secret: u8, now| {
            let secret = SharedSecret::new([secret; 16]);
            let channel = channel_of(secret, ChannelType::WORKSTATION, 1000, "WEB1", now);
            channels.insert(seconds(now), channel).expect("its own name");
        };
        for n in 0..CHANNELS_PER_COMPUTER_MAX as u64 {
            insert(u8::from(n == 3), n);
        }
        insert(0, 100);
        let times = |now| -> Vec<u64> {
            channels
                .find(seconds(now), "WEB1")
                .iter()
                .map(|channel| (channel.ends - LIFETIME).as_secs())
                .collect()
        };
        assert_eq!(times(100), [100, 7, 6, 5, 4, 2, 1, 0]);
        insert(0, 101);
        assert_eq!(times(101), [101, 100, 7, 6, 5, 4, 2, 1]);
    }
}
