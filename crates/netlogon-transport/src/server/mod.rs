//! The server's side: challenges, channels, and the methods behind them.
//!
//! ```text
//! op 4 ─► challenge ─► op 26 ─► channel ─► sealed bind (token) ─► op 21, 39 …, each checked anew
//! ```
//!
//! A method that needs the channel is answered only while its caller holds a [`SecureChannel`] that was
//! checked for this very call. A refused client gets a status; the audit log gets the reason.

mod audit;
mod challenges;
mod channel;
mod logon;
mod shared;

pub use audit::{Audit, AuditUnavailable, ChannelEvent, ChannelOutcome, ChannelRefusal};
pub use channel::SecureChannel;
pub use shared::{Attempts, ChannelId, ChannelState, SharedChallenge, SharedChannels, StoredCredential};

use crate::cfb8;
use crate::credential::{self, Authenticator, Credential};
use crate::flags;
use crate::keys::ChannelKeys;
use crate::message::{
    Authenticate, AuthenticateReply, Capabilities, CapabilitiesReply, GetDomainInfoReply,
    GetDomainInfoRequest, LogonMethod, NL_AUTH_RESPONSE, NlAuthRequest, PasswordSet2, PasswordSet2Reply,
    PrimaryDomain, ReqChallenge, ReqChallengeReply, opnum, unsupported,
};
use crate::package::Packages;
use crate::protection::random_confounder;
use crate::sealer::Sealer;
use crate::secret::{SessionKey, SharedSecret};
use crate::secrets::{BoxFuture, ChannelSecrets, ChannelType, Machine, SecretAge};
use challenges::{Challenge, Challenges, Taken};
use channel::{Channels, Established, ServerContext, Unusable, lock};
use dcerpc::backoff::{ANSWER_TIME, Backoff, FREE_FAILURES};
use dcerpc::limits::source_of;
use dcerpc::ndr::{NdrReader, NdrSyntax, NdrWriter};
use dcerpc::pdu::{FaultStatus, SyntaxId};
use dcerpc::security::{AuthLevel, AuthType, Authentication};
use dcerpc::server::{Authenticate as Token, Call, CallConnection, Reply};
use dtyp::{Guid, NtStatus};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;
use zeroize::Zeroize;

/// The interface of [MS-NRPC] 2.1.
pub const NETLOGON: SyntaxId = SyntaxId::new(
    Guid::new(0x1234_5678, 0x1234, 0xabcd, [0xef, 0x00, 0x01, 0x23, 0x45, 0x67, 0xcf, 0xfb]),
    1,
    0,
);

/// The server's domain and name.
#[derive(Clone, Debug)]
pub struct ServerNames {
    /// The domain.
    pub domain: PrimaryDomain,
    /// NetBIOS name of the server.
    pub server: String,
    /// Whether LogonServer must name this server; clients send what they dialled, so it is off by default.
    pub strict_server_name: bool,
}

/// How ValidationData of generic pass-through is sent. The documents contradict each other, so the operator
/// chooses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum ResponseCrypt {
    /// Encrypted like LogonData ([MS-NRPC] 4.1).
    #[default]
    Encrypt,
    /// As it is, under the seal alone.
    Plain,
}

/// Time and randomness, so that tests can hold them still.
pub trait Environment: Send + Sync {
    /// Time since some moment in the past. It must be monotonic: setting the wall clock neither ends a
    /// channel nor makes it live longer.
    fn uptime(&self) -> Duration;
    /// Waits for so long, or some milliseconds longer.
    fn pause(&self, time: Duration) -> BoxFuture<'static, ()>;
    /// Waits until [`Self::uptime`] is `time`, a little ahead. The end of the wait must not depend on when
    /// the wait began.
    fn wait_until(&self, time: Duration) -> BoxFuture<'static, ()>;
    /// Eight random bytes.
    fn challenge(&self) -> Credential {
        let mut challenge = [0; 8];
        random_confounder(&mut challenge);
        challenge
    }
}

/// Everything a server needs.
pub struct ServerParts {
    /// The server's domain and name.
    pub names: ServerNames,
    /// Secrets of machines and trusts.
    pub secrets: Arc<dyn ChannelSecrets>,
    /// The packages behind generic pass-through.
    pub packages: Packages,
    /// The audit log.
    pub audit: Arc<dyn Audit>,
    /// Time and randomness.
    pub environment: Arc<dyn Environment>,
    /// How answers are encrypted inside.
    pub response_crypt: ResponseCrypt,
}

/// The Netlogon server: a security provider and a service, which share the channels.
#[derive(Clone)]
pub struct NetlogonServer {
    inner: Arc<Inner>,
}

struct Inner {
    parts: ServerParts,
    challenges: Mutex<Challenges>,
    backoff: Backoff,
    channels: Channels,
    sealer: Sealer,
    shared: Option<Arc<dyn SharedChannels>>,
}

impl std::fmt::Debug for NetlogonServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "NetlogonServer of {}", self.inner.parts.names.domain.netbios)
    }
}

/// A call and the connection it came on.
#[derive(Debug)]
pub struct NetlogonCall {
    /// A number that no other connection has.
    pub connection: u64,
    /// Where it comes from.
    pub address: SocketAddr,
    /// The connection, which counts for an account once its client has proved the account's secret.
    pub caller: Arc<dyn CallConnection>,
    /// The call.
    pub call: Call,
}

/// A status for the client, and whether another server may be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Denied {
    status: NtStatus,
    authoritative: bool,
}

impl Denied {
    const fn with(status: NtStatus) -> Self {
        Self { status, authoritative: true }
    }
}

impl From<Unusable> for Denied {
    fn from(reason: Unusable) -> Self {
        match reason {
            Unusable::Revoked => Self::with(NtStatus::ACCESS_DENIED),
            Unusable::Unknown(error) => {
                tracing::debug!(%error, "Call refused: secrets unavailable");
                Self { status: NtStatus::DS_BUSY, authoritative: false }
            }
        }
    }
}

impl NetlogonServer {
    /// A server without channels.
    pub fn new(parts: ServerParts) -> Self {
        Self::of(parts, None)
    }

    /// The same, with channels and challenges that other servers of the domain have, too.
    pub fn with_shared_channels(parts: ServerParts, shared: Arc<dyn SharedChannels>) -> Self {
        Self::of(parts, Some(shared))
    }

    fn of(parts: ServerParts, shared: Option<Arc<dyn SharedChannels>>) -> Self {
        let inner = Inner {
            parts,
            challenges: Mutex::default(),
            backoff: Backoff::default(),
            channels: Channels::default(),
            sealer: Sealer::default(),
            shared,
        };
        Self { inner: Arc::new(inner) }
    }

    /// How many channels are valid, by age: at most each bound, and more than the bound before. The bounds
    /// are ascending. Channels that are older than the last one are counted with it.
    pub fn channels_by_age<const N: usize>(&self, bounds: [Duration; N]) -> [u64; N] {
        self.inner.channels.by_age(self.inner.now(), bounds)
    }

    /// Checks the token of a bind to a secure channel ([MS-NRPC] 3.3.4.1.3): it must name the server's domain
    /// and a computer that has a channel. The proof comes with the first call, which cannot be protected
    /// without the key.
    pub async fn accept(&self, token: Token) -> Authentication {
        let inner = &self.inner;
        if token.auth_level != AuthLevel::PRIVACY && token.auth_level != AuthLevel::INTEGRITY {
            return Authentication::Rejected;
        }
        let Ok(request) = NlAuthRequest::decode(&token.token) else { return Authentication::Rejected };
        let domain = &inner.parts.names.domain;
        let ours = |name: &String| {
            name.eq_ignore_ascii_case(&domain.netbios)
                || name.trim_end_matches('.').eq_ignore_ascii_case(&domain.dns)
        };
        if !request.domains.iter().any(ours) {
            return Authentication::Rejected;
        }
        let now = inner.now();
        let computer = index(&request.computer);
        inner.read_shared(now, &computer).await;
        if inner.parts.secrets.refresh().await.is_err() {
            return Authentication::Rejected;
        }
        let mut usable = Vec::new();
        for channel in inner.channels.find(now, &computer) {
            if inner.check(&channel, now).await.is_ok() {
                usable.push(channel);
            }
        }
        match usable.is_empty() {
            true => Authentication::Rejected,
            false => Authentication::Accepted {
                context: Box::new(ServerContext::new(usable, &inner.sealer, random_confounder)),
                token: NL_AUTH_RESPONSE.to_vec(),
            },
        }
    }

    /// Performs a call.
    pub async fn call(&self, call: NetlogonCall) -> Result<Reply, FaultStatus> {
        let inner = &*self.inner;
        match call.call.opnum {
            opnum::LOGON_SAM_LOGON_EX => inner.logon(&call, LogonMethod::Ex).await,
            opnum::LOGON_SAM_LOGON_WITH_FLAGS => inner.logon(&call, LogonMethod::WithFlags).await,
            opnum::LOGON_SAM_LOGON => inner.logon(&call, LogonMethod::Plain).await,
            opnum::LOGON_SAM_LOGOFF => inner.logoff(&call).await,
            opnum::SERVER_REQ_CHALLENGE => inner.req_challenge(&call).await,
            opnum::SERVER_AUTHENTICATE => Ok(Inner::authenticate_des(&call)),
            opnum::SERVER_AUTHENTICATE2 => inner.authenticate(&call, false).await,
            opnum::SERVER_AUTHENTICATE3 => inner.authenticate(&call, true).await,
            opnum::LOGON_GET_CAPABILITIES => inner.capabilities(&call).await,
            opnum::LOGON_GET_DOMAIN_INFO => inner.domain_info(&call).await,
            opnum::SERVER_PASSWORD_SET2 => inner.password_set(&call).await,
            other => match unsupported(other, call.call.syntax) {
                Some(stub) => Ok(stub.into()),
                None => Err(FaultStatus::OP_RANGE_ERROR),
            },
        }
    }
}

impl tower::Service<NetlogonCall> for NetlogonServer {
    type Response = Reply;
    type Error = FaultStatus;
    type Future = BoxFuture<'static, Result<Reply, FaultStatus>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), FaultStatus>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, call: NetlogonCall) -> Self::Future {
        let server = self.clone();
        Box::pin(async move { NetlogonServer::call(&server, call).await })
    }
}

/// How a computer's name is looked up: NetBIOS names have no case.
fn index(computer: &str) -> String {
    computer.to_ascii_uppercase()
}

fn reader(call: &NetlogonCall) -> NdrReader<'_> {
    NdrReader::new(&call.call.stub, call.call.syntax, call.call.order)
}

fn written(syntax: NdrSyntax, write: impl FnOnce(&mut NdrWriter)) -> Reply {
    let mut writer = NdrWriter::new(syntax);
    write(&mut writer);
    writer.into_bytes().into()
}

/// Time of the answer that an account does not exist or cannot be used. Reading an account takes
/// microseconds, but more or fewer of them depending on whether it exists and was read before; the time of
/// the answer must not reveal which.
const NO_ACCOUNT_TIME: Duration = Duration::from_millis(2);

/// How often an account is read again if it changes while it is read.
const READ_AGAIN_MAX: usize = 4;

/// The result of a correct proof.
struct Proved {
    key: SessionKey,
    /// The secret that was proved.
    secret: SharedSecret,
    server_credential: Credential,
}

/// The outcome of an attempt to set a channel up.
struct Attempt {
    outcome: Result<Grant, Rejection>,
    /// NegotiateFlags of the answer: 0 if no account was looked at.
    negotiated: u32,
}

/// A channel is set up.
struct Grant {
    server_credential: Credential,
    /// AccountRid of the answer.
    rid: u32,
}

/// No channel is set up.
struct Rejection {
    reason: ChannelRefusal,
    /// The account, if there is one of that name.
    sid: Option<dtyp::Sid>,
}

impl Inner {
    fn now(&self) -> Duration {
        self.parts.environment.uptime()
    }

    /// [MS-NRPC] 3.5.4.4.1: any computer may ask for a challenge.
    async fn req_challenge(&self, call: &NetlogonCall) -> Result<Reply, FaultStatus> {
        let request = ReqChallenge::read(&mut reader(call))?;
        let mut server_challenge = self.parts.environment.challenge();
        while !credential::is_random_enough(&server_challenge) {
            server_challenge = self.parts.environment.challenge();
        }
        let challenge = Challenge { client: request.client_challenge, server: server_challenge };
        let (source, computer) = (source_of(call.address.ip()), index(&request.computer_name));
        match &self.shared {
            Some(shared) => {
                let put = shared.put_challenge(source, &computer, challenge.client, challenge.server);
                if let Err(error) = put.await {
                    tracing::debug!(%error, "No challenge given: it cannot be kept");
                    let reply = ReqChallengeReply { server_challenge: [0; 8], status: NtStatus::DS_BUSY };
                    return Ok(written(call.call.syntax, |writer| reply.write(writer)));
                }
            }
            None => {
                lock(&self.challenges).insert(self.now(), call.connection, source, &computer, challenge);
            }
        }
        let reply = ReqChallengeReply { server_challenge, status: NtStatus::SUCCESS };
        Ok(written(call.call.syntax, |writer| reply.write(writer)))
    }

    /// NetrServerAuthenticate (opnum 5) has no flags, so it can only mean DES.
    fn authenticate_des(call: &NetlogonCall) -> Reply {
        written(call.call.syntax, |writer| {
            writer.bytes(&[0; 8]);
            writer.u32(NtStatus::DOWNGRADE_DETECTED.0);
        })
    }

    /// [MS-NRPC] 3.5.4.4.2: the order of the checks is part of the protocol.
    async fn authenticate(&self, call: &NetlogonCall, with_rid: bool) -> Result<Reply, FaultStatus> {
        let request = Authenticate::read(&mut reader(call))?;
        let begun = self.now();
        let Attempt { outcome, negotiated } = self.establish(call, &request).await;
        let mut reply = AuthenticateReply {
            server_credential: [0; 8],
            negotiate_flags: negotiated,
            account_rid: with_rid.then_some(0),
            status: NtStatus::SUCCESS,
        };
        match outcome {
            Ok(Grant { server_credential, rid }) => {
                reply.server_credential = server_credential;
                reply.account_rid = with_rid.then_some(rid);
            }
            Err(Rejection { reason, sid }) => {
                reply.status = refusal_status(reason);
                let outcome = ChannelOutcome::Refused(reason);
                if self.audit(call, &request, outcome, sid).is_err() {
                    reply.status = NtStatus::INVALID_SERVER_STATE;
                }
                if refusal_status(reason) == NtStatus::NO_TRUST_SAM_ACCOUNT {
                    self.parts.environment.wait_until(begun + NO_ACCOUNT_TIME).await;
                }
            }
        }
        Ok(written(call.call.syntax, |writer| reply.write(writer)))
    }

    fn audit(
        &self,
        call: &NetlogonCall,
        request: &Authenticate,
        outcome: ChannelOutcome,
        sid: Option<dtyp::Sid>,
    ) -> Result<(), AuditUnavailable> {
        self.parts.audit.channel(&ChannelEvent {
            outcome,
            account: &request.account_name,
            computer: &request.computer_name,
            channel_type: ChannelType(request.channel_type),
            sid,
            address: call.address,
        })
    }

    async fn establish(&self, call: &NetlogonCall, request: &Authenticate) -> Attempt {
        let now = self.now();
        let (source, computer) = (source_of(call.address.ip()), index(&request.computer_name));
        let challenge = lock(&self.challenges).take(now, call.connection, source, &computer);
        let refused = |reason| Attempt { outcome: Err(Rejection { reason, sid: None }), negotiated: 0 };
        if request.negotiate_flags & flags::REQUIRED != flags::REQUIRED {
            return refused(ChannelRefusal::Downgrade);
        }
        let channel_type = ChannelType(request.channel_type);
        if !channel_type.is_channel() {
            return refused(ChannelRefusal::ChannelType);
        }
        let account = request.account_name.trim_end_matches('.');
        let secrets = &*self.parts.secrets;
        let machine = match (secrets.revision(), secrets.find(account).await) {
            (Ok(revision), Ok(Some(machine))) => (revision, machine),
            (Ok(_), Ok(None)) => return refused(ChannelRefusal::UnknownAccount),
            (Err(error), _) | (_, Err(error)) => {
                tracing::debug!(%error, "Secure channel refused: secrets unavailable");
                return refused(ChannelRefusal::SecretsUnavailable);
            }
        };
        let negotiated = request.negotiate_flags & flags::OFFERED;
        let sid = machine.1.sid;
        let refused = |reason| Attempt { outcome: Err(Rejection { reason, sid: Some(sid) }), negotiated };
        let Proved { key, secret, server_credential } =
            match self.prove_in_time(call, request, challenge, &machine.1, now).await {
                Ok(proved) => proved,
                Err(reason) => return refused(reason),
            };
        let (revision, machine) = match self.still_accepted(machine, &secret).await {
            Ok(machine) => machine,
            Err(reason) => return refused(reason),
        };
        let rid = sid.split_rid().map_or(0, |(_, rid)| rid);
        let mut id = ChannelId::default();
        getrandom::fill(&mut id).expect("the system has random numbers");
        let channel = SecureChannel::new(Established {
            id,
            computer,
            machine,
            channel_type,
            negotiated_flags: negotiated,
            requested_flags: request.negotiate_flags,
            keys: Arc::new(ChannelKeys::new(key.clone())),
            secret,
            client_credential: request.client_credential,
            now,
            revision,
        });
        // Audited before it can be used.
        if self.audit(call, request, ChannelOutcome::Established, Some(sid)).is_err() {
            return refused(ChannelRefusal::SecretsUnavailable);
        }
        if self.channels.insert(now, Arc::clone(&channel)).is_err() {
            return refused(ChannelRefusal::RecordOfAnother);
        }
        // A client that has the answer may bind at any server.
        if let Some(shared) = &self.shared
            && let Err(error) = shared.put(&channel.state(key, now)).await
        {
            tracing::warn!(%error, account, "Secure channel refused: it cannot be shared");
            channel.revoke();
            return refused(ChannelRefusal::SecretsUnavailable);
        }
        Attempt { outcome: Ok(Grant { server_credential, rid }), negotiated }
    }

    /// Whether a channel is good at this moment. Of one that is not, no server keeps the row.
    async fn check(&self, channel: &SecureChannel, now: Duration) -> Result<(), Unusable> {
        let checked = channel.check(&*self.parts.secrets, now).await;
        if checked == Err(Unusable::Revoked) {
            self.forget_shared(&channel.id).await;
        }
        checked
    }

    /// No server takes over a channel whose rights have ended, also if its account gets them back.
    async fn forget_shared(&self, id: &ChannelId) {
        if let Some(shared) = &self.shared
            && let Err(error) = shared.remove(id).await
        {
            tracing::debug!(%error, "A channel that ended was not removed");
        }
    }

    /// Takes over what other servers of the domain have set up with a computer. If that cannot be read, the
    /// channels of this server are what there is.
    async fn read_shared(&self, now: Duration, computer: &str) {
        let Some(shared) = &self.shared else { return };
        let states = match shared.find(computer).await {
            Ok(states) => states,
            Err(error) => return tracing::debug!(%error, "Channels of other servers not read"),
        };
        let known = self.channels.find(now, computer);
        for state in states {
            if known.iter().any(|channel| channel.id == state.id) || state.computer != computer {
                continue;
            }
            let (id, found) = (state.id, self.parts.secrets.find(&state.account).await);
            let found = match found {
                Ok(found) => found,
                Err(error) => {
                    tracing::warn!(%error, computer, "Channels of other servers not taken over");
                    return;
                }
            };
            match found.and_then(|machine| SecureChannel::restored(state, machine, now)) {
                // The record of another account stays: see `Channels::insert`.
                Some(channel) => drop(self.channels.insert(now, channel)),
                None => self.forget_shared(&id).await,
            }
        }
    }

    /// Checks the proof at once. After many wrong proofs, here or at servers that share channels, the answer
    /// to any proof is sent [`ANSWER_TIME`] after the call arrived.
    async fn prove_in_time(
        &self,
        call: &NetlogonCall,
        request: &Authenticate,
        taken: Option<Taken>,
        machine: &Machine,
        begun: Duration,
    ) -> Result<Proved, ChannelRefusal> {
        let mut is_slow = self.backoff.is_slow(begun, &index(&machine.name), source_of(call.address.ip()));
        let outcome = self.prove(call, request, taken, machine, &mut is_slow).await;
        let status = outcome.as_ref().map_or_else(|reason| refusal_status(*reason), |_| NtStatus::SUCCESS);
        // Other refusals do not depend on the secret.
        if is_slow && matches!(status, NtStatus::SUCCESS | NtStatus::ACCESS_DENIED) {
            // A client that could cut the wait short would make more guesses over one connection.
            call.caller.ignore_cancel();
            if outcome.is_ok() {
                // Guessers behind the same address evict the connections of that address that have proved
                // nothing.
                call.caller.prove(machine.sid);
            }
            self.parts.audit.slowed(&machine.name, call.address.ip());
            let left = (begun + ANSWER_TIME).saturating_sub(self.now());
            self.parts.environment.pause(left).await;
        }
        outcome
    }

    /// The account as it is when the channel is set up, and its revision. An operator may have changed it
    /// since the proof was checked, above all in the time that an answer waits.
    async fn still_accepted(
        &self,
        (mut revision, mut machine): (u64, Machine),
        secret: &SharedSecret,
    ) -> Result<(u64, Machine), ChannelRefusal> {
        let unavailable = |error| {
            tracing::debug!(%error, "Secure channel refused: secrets unavailable");
            ChannelRefusal::SecretsUnavailable
        };
        let secrets = &*self.parts.secrets;
        // Each round is a change while the last one was read. What changes after the last round is seen by
        // the channel's calls.
        for _ in 0..READ_AGAIN_MAX {
            if machine.age_of(secret) == Some(SecretAge::Current)
                && machine.previous.is_some()
                && let Err(error) = secrets.current_used(&machine).await
            {
                tracing::warn!(%error, "Removing a previous secret failed");
            }
            secrets.refresh().await.map_err(unavailable)?;
            let now = secrets.revision().map_err(unavailable)?;
            if now == revision {
                break;
            }
            let found = secrets.find(&machine.name).await.map_err(unavailable)?;
            let found =
                found.filter(|found| found.sid == machine.sid).ok_or(ChannelRefusal::UnknownAccount)?;
            if !found.enabled {
                return Err(ChannelRefusal::AccountDisabled);
            }
            if found.channel_type != machine.channel_type {
                return Err(ChannelRefusal::OtherChannelType);
            }
            if found.age_of(secret).is_none() {
                return Err(ChannelRefusal::WrongCredential);
            }
            (revision, machine) = (now, found);
        }
        Ok((revision, machine))
    }

    /// Whether the client knows a secret of the account that is accepted. Sets `is_slow` if the servers
    /// together have seen many wrong proofs.
    async fn prove(
        &self,
        call: &NetlogonCall,
        request: &Authenticate,
        taken: Option<Taken>,
        machine: &Machine,
        is_slow: &mut bool,
    ) -> Result<Proved, ChannelRefusal> {
        if !machine.enabled {
            return Err(ChannelRefusal::AccountDisabled);
        }
        let channel_type = ChannelType(request.channel_type);
        if machine.channel_type != channel_type {
            return Err(ChannelRefusal::OtherChannelType);
        }
        let (account, computer) = (&request.account_name, &request.computer_name);
        let named_after =
            |account: &str| account.strip_suffix('$').is_some_and(|name| name.eq_ignore_ascii_case(computer));
        // As it is called here, too: an account may be found by more spellings than one.
        if channel_type.names_its_computer() && !(named_after(account) && named_after(&machine.name)) {
            return Err(ChannelRefusal::NameMismatch);
        }
        let outcome = match &self.shared {
            Some(shared) => self.prove_by_shared(&**shared, call, request, machine, is_slow).await,
            None => {
                let taken = taken.ok_or(ChannelRefusal::NoChallenge)?;
                let proved = proof(request, machine, taken.challenge);
                let is_used = proved.is_ok() && !lock(&self.challenges).use_up(&taken);
                if is_used { Err(ChannelRefusal::NoChallenge) } else { proved }
            }
        };
        if matches!(outcome, Err(ChannelRefusal::WrongCredential)) {
            self.backoff.failed(self.now(), &index(&machine.name), source_of(call.address.ip()));
        }
        outcome
    }

    /// The same by the challenges that all servers of the domain gave out.
    async fn prove_by_shared(
        &self,
        shared: &dyn SharedChannels,
        call: &NetlogonCall,
        request: &Authenticate,
        machine: &Machine,
        is_slow: &mut bool,
    ) -> Result<Proved, ChannelRefusal> {
        let unavailable = |error| {
            tracing::debug!(%error, "Secure channel refused: challenges unavailable");
            ChannelRefusal::SecretsUnavailable
        };
        let (source, computer) = (source_of(call.address.ip()), index(&request.computer_name));
        let account = index(&machine.name);
        let mut refusal = ChannelRefusal::NoChallenge;
        let Attempts { challenges, failures } =
            shared.attempts(source, &computer, &account).await.map_err(unavailable)?;
        *is_slow |= failures > FREE_FAILURES;
        for challenge in challenges {
            let halves = Challenge { client: challenge.client, server: challenge.server };
            match proof(request, machine, halves) {
                Ok(proved) if shared.use_up(&challenge).await.map_err(unavailable)? => return Ok(proved),
                Ok(_) => {}
                // A guess is a guess, whatever else lies there.
                Err(reason) if refusal != ChannelRefusal::WrongCredential => refusal = reason,
                Err(_) => {}
            }
        }
        if refusal == ChannelRefusal::WrongCredential {
            // A guess that cannot be counted is not free.
            *is_slow |= !shared.failed(source, &account).await.is_ok_and(|before| before <= FREE_FAILURES);
        }
        Err(refusal)
    }

    /// The channel a call came over: sealed, and good at this moment.
    async fn channel(&self, call: &NetlogonCall) -> Result<Arc<SecureChannel>, Denied> {
        let denied = Denied::with(NtStatus::ACCESS_DENIED);
        let security = call.call.security.as_ref().ok_or(denied)?;
        if security.auth_type != AuthType::NETLOGON || security.level != AuthLevel::PRIVACY {
            return Err(denied);
        }
        let channel = Arc::downcast::<SecureChannel>(Arc::clone(&security.identity)).map_err(|_| denied)?;
        self.parts.secrets.refresh().await.map_err(Unusable::Unknown)?;
        self.check(&channel, self.now()).await?;
        Ok(channel)
    }

    /// The authenticator to return, if the client's is right for the channel.
    async fn advance(
        &self,
        channel: &SecureChannel,
        authenticator: &Authenticator,
    ) -> Result<Option<Authenticator>, Denied> {
        match &self.shared {
            None => Ok(channel.authenticate(authenticator)),
            Some(shared) => {
                Ok(channel.authenticate_shared(&**shared, authenticator).await.map_err(Unusable::Unknown)?)
            }
        }
    }

    /// The channel, with a name and an authenticator that are right for it.
    async fn authenticated(
        &self,
        call: &NetlogonCall,
        computer_name: Option<&str>,
        authenticator: &Authenticator,
    ) -> Result<(Arc<SecureChannel>, Authenticator), Denied> {
        let denied = Denied::with(NtStatus::ACCESS_DENIED);
        let channel = self.channel(call).await?;
        if !computer_name.is_some_and(|name| name.eq_ignore_ascii_case(&channel.computer)) {
            return Err(denied);
        }
        let returned = self.advance(&channel, authenticator).await?;
        Ok((channel, returned.ok_or(denied)?))
    }

    /// [MS-NRPC] 3.5.4.4.10.
    async fn capabilities(&self, call: &NetlogonCall) -> Result<Reply, FaultStatus> {
        let request = Capabilities::read(&mut reader(call))?;
        let level = request.query_level;
        if level != 1 && level != 2 {
            // Before the authenticator is touched: a client that tries higher levels goes on with the same
            // seed.
            return Err(FaultStatus::INVALID_TAG);
        }
        let outcome =
            self.authenticated(call, request.computer_name.as_deref(), &request.authenticator).await;
        let reply = match outcome {
            Ok((channel, return_authenticator)) => {
                let flags = if level == 1 { channel.negotiated_flags } else { channel.requested_flags };
                CapabilitiesReply { return_authenticator, level, flags, status: NtStatus::SUCCESS }
            }
            Err(Denied { status, .. }) => {
                CapabilitiesReply { return_authenticator: Authenticator::default(), level, flags: 0, status }
            }
        };
        Ok(written(call.call.syntax, |writer| reply.write(writer)))
    }

    /// [MS-NRPC] 3.5.4.4.9.
    async fn domain_info(&self, call: &NetlogonCall) -> Result<Reply, FaultStatus> {
        let request = GetDomainInfoRequest::read(&mut reader(call))?;
        let level = request.level;
        let outcome =
            self.authenticated(call, request.computer_name.as_deref(), &request.authenticator).await;
        let (return_authenticator, status) = match outcome {
            Ok((_, returned)) if level == 1 || level == 2 => (returned, NtStatus::SUCCESS),
            Ok((_, returned)) => (returned, NtStatus::INVALID_LEVEL),
            Err(Denied { status, .. }) => (Authenticator::default(), status),
        };
        let domain = (level == 1 && status.is_success()).then(|| self.parts.names.domain.clone());
        let reply = GetDomainInfoReply { return_authenticator, level, domain, status };
        Ok(written(call.call.syntax, |writer| reply.write(writer)))
    }

    /// [MS-NRPC] 3.5.4.4.6: changes the secret of the channel's own account, whatever account the call names.
    async fn password_set(&self, call: &NetlogonCall) -> Result<Reply, FaultStatus> {
        let request = PasswordSet2::read(&mut reader(call))?;
        let outcome = self.authenticated(call, Some(&request.computer_name), &request.authenticator).await;
        let (return_authenticator, status) = match outcome {
            Ok((channel, returned)) => (returned, self.rotate(call, &channel, &request).await),
            Err(Denied { status, .. }) => (Authenticator::default(), status),
        };
        let reply = PasswordSet2Reply { return_authenticator, status };
        Ok(written(call.call.syntax, |writer| reply.write(writer)))
    }

    async fn rotate(&self, call: &NetlogonCall, channel: &SecureChannel, request: &PasswordSet2) -> NtStatus {
        let sent = &request.clear_new_password;
        // A password that was sent without encryption may be known to an attacker, so it is refused.
        if new_secret(sent).is_some() {
            return NtStatus::WRONG_PASSWORD;
        }
        let mut decrypted = sent.clone();
        channel.keys.decrypt_inner(&mut decrypted[..]);
        let Some(secret) = new_secret(&decrypted) else { return NtStatus::WRONG_PASSWORD };
        decrypted.zeroize();
        // A secret that was rotated away must not choose the next one. That includes the channel that rotated
        // it: a client whose answer got lost sets a new channel up, with the secret that it sent.
        let current = channel.machine_with_current_secret();
        let machine = channel.machine();
        let audit = |outcome| {
            self.parts.audit.channel(&ChannelEvent {
                outcome,
                account: &machine.name,
                computer: &channel.computer,
                channel_type: channel.channel_type,
                sid: Some(machine.sid),
                address: call.address,
            })
        };
        let denied = || match audit(ChannelOutcome::RotationDenied) {
            Ok(()) => NtStatus::ACCESS_DENIED,
            Err(AuditUnavailable) => NtStatus::INVALID_SERVER_STATE,
        };
        let Some(current) = current else { return denied() };
        // Audited before it is done.
        if audit(ChannelOutcome::Rotated).is_err() {
            return NtStatus::INVALID_SERVER_STATE;
        }
        match self.parts.secrets.rotate(&current, secret).await {
            Ok(true) => NtStatus::SUCCESS,
            // Another secret came in between.
            Ok(false) => denied(),
            Err(error) => {
                tracing::warn!(%error, account = machine.name, "Secret rotation failed");
                NtStatus::DS_BUSY
            }
        }
    }
}

/// Whether ClientCredential was made from a challenge with a secret of the account that is accepted.
fn proof(
    request: &Authenticate,
    machine: &Machine,
    Challenge { client, server }: Challenge,
) -> Result<Proved, ChannelRefusal> {
    if !credential::is_random_enough(&client) {
        return Err(ChannelRefusal::WeakChallenge);
    }
    for secret in std::iter::once(&machine.current).chain(&machine.previous) {
        let key = credential::session_key(secret, &client, &server);
        let expanded = cfb8::Key::new(key.expose());
        if credential::equal(&credential::credential(&expanded, &client), &request.client_credential) {
            let server_credential = credential::credential(&expanded, &server);
            return Ok(Proved { key, secret: secret.clone(), server_credential });
        }
    }
    Err(ChannelRefusal::WrongCredential)
}

/// The secret in an NL_TRUST_PASSWORD in the clear, if it is one: an even length of 28 to 512 bytes, at the
/// end of a buffer that is not one byte repeated.
fn new_secret(password: &[u8; PasswordSet2::PASSWORD_LEN]) -> Option<SharedSecret> {
    let (buffer, length) = password.split_at(512);
    let length = length.first_chunk::<4>().map(|bytes| u32::from_le_bytes(*bytes) as usize)?;
    if !(28..=512).contains(&length)
        || !length.is_multiple_of(2)
        || buffer.iter().all(|byte| *byte == buffer[0])
    {
        return None;
    }
    Some(SharedSecret::from_utf16le(&buffer[512 - length..]))
}

/// The status of a refusal ([MS-NRPC] 3.5.4.4.2).
const fn refusal_status(reason: ChannelRefusal) -> NtStatus {
    match reason {
        ChannelRefusal::Downgrade => NtStatus::DOWNGRADE_DETECTED,
        ChannelRefusal::ChannelType => NtStatus::INVALID_PARAMETER,
        ChannelRefusal::UnknownAccount
        | ChannelRefusal::AccountDisabled
        | ChannelRefusal::OtherChannelType => NtStatus::NO_TRUST_SAM_ACCOUNT,
        ChannelRefusal::SecretsUnavailable => NtStatus::DS_BUSY,
        ChannelRefusal::NameMismatch
        | ChannelRefusal::NoChallenge
        | ChannelRefusal::WeakChallenge
        | ChannelRefusal::WrongCredential
        | ChannelRefusal::RecordOfAnother => NtStatus::ACCESS_DENIED,
    }
}
