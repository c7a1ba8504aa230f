//! The client's side: setting a channel up over any transport, checking it for a downgrade, and asking
//! packages.
//!
//! Any deviation ends the attempt. There is no weaker second try: an attacker could force it, so that a
//! client which retries without AES has no AES. The crate `netlogon-tokio` has a transport over TCP, and an
//! example.

use crate::credential::{self, Authenticator, Credential, Seed};
use crate::flags;
use crate::keys::ChannelKeys;
use crate::message::{
    Authenticate, AuthenticateReply, Capabilities, CapabilitiesReply, GenericCall, Logon, LogonCall,
    LogonIdentity, LogonLevels, LogonMethod, LogonReply, NlAuthRequest, PasswordSet2, PasswordSet2Reply,
    ReqChallenge, ReqChallengeReply, SamLogonReply, decrypt_session_key, opnum,
};
use crate::protection::{ClientContext, random_confounder};
use crate::sealer::Sealer;
use crate::secret::SharedSecret;
use crate::secrets::{BoxFuture, ChannelType};
use dcerpc::client::{ClientSecurity, ReplyStub, RequestStub};
use dcerpc::ndr::{NdrReader, NdrSyntax, NdrWriter};
use dcerpc::pdu::FaultStatus;
use dcerpc::security::{AuthLevel, AuthType};
use dtyp::{DecodeError, NtStatus};
use std::sync::{Arc, Mutex, PoisonError};
use zeroize::Zeroizing;

/// Why there is no answer to a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TransportError {
    /// No connection could be made, or it broke.
    Unreachable(String),
    /// The server refused the security context.
    Refused(String),
    /// The server answered with a fault.
    Fault(FaultStatus),
    /// The server broke the protocol.
    Protocol(String),
}

impl std::fmt::Display for TransportError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unreachable(text) | Self::Refused(text) | Self::Protocol(text) => f.write_str(text),
            Self::Fault(status) => write!(f, "the server answered with a fault: {status}"),
        }
    }
}

impl std::error::Error for TransportError {}

/// Opens associations with the Netlogon interface of one server.
pub trait Transport: Send + Sync {
    /// Opens an association, protected or not.
    fn open<'a>(
        &'a self,
        security: Option<ClientSecurity>,
    ) -> BoxFuture<'a, Result<Box<dyn Association>, TransportError>>;
}

/// A bound association: one call at a time.
pub trait Association: Send {
    /// The security provider's token of the bind's answer.
    fn token(&self) -> &[u8];

    /// Whether the server has closed it, or has sent something that was not asked for, since the last call.
    fn is_stale(&self) -> bool;

    /// Performs a call.
    fn call<'a>(
        &'a mut self,
        opnum: u16,
        request: RequestStub,
    ) -> BoxFuture<'a, Result<ReplyStub, TransportError>>;
}

/// Why there is no channel, or no answer over it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChannelError {
    /// The transport failed.
    Transport(TransportError),
    /// The server's results cannot be decoded.
    Decode(DecodeError),
    /// The server refused the handshake, the channel or the method.
    Refused(NtStatus),
    /// The server does not agree to AES, secure RPC and generic pass-through, or flags were changed on the
    /// way.
    Downgrade,
    /// The server does not know the shared secret.
    ServerCredential,
    /// The server's authenticator is wrong.
    Authenticator,
}

impl std::fmt::Display for ChannelError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Transport(error) => error.fmt(f),
            Self::Decode(error) => write!(f, "the server's results cannot be decoded: {error}"),
            Self::Refused(status) => write!(f, "the server refused the secure channel: {status}"),
            Self::Downgrade => {
                f.write_str("the server and this client do not agree on the negotiated flags (a downgrade)")
            }
            Self::ServerCredential => f.write_str("the server does not know the shared secret"),
            Self::Authenticator => f.write_str("the server's authenticator is wrong"),
        }
    }
}

impl std::error::Error for ChannelError {}

impl From<TransportError> for ChannelError {
    fn from(error: TransportError) -> Self {
        Self::Transport(error)
    }
}

impl From<DecodeError> for ChannelError {
    fn from(error: DecodeError) -> Self {
        Self::Decode(error)
    }
}

/// The client's account, and the server that it calls.
#[derive(Clone, Debug)]
pub struct ClientIdentity {
    /// The server as it was dialled, with or without leading backslashes.
    pub server_name: String,
    /// NetBIOS name of the domain.
    pub domain: String,
    /// NetBIOS name of this computer.
    pub computer: String,
    /// The account, such as `WEB01$`.
    pub account: String,
    /// The type of channel the account is for.
    pub channel_type: ChannelType,
    /// The account's secret.
    pub secret: SharedSecret,
}

/// Random numbers for challenges, and for the identifiers of security contexts. They must not be predictable.
pub trait Randomness: Send + Sync {
    /// Eight random bytes.
    fn bytes(&self) -> [u8; 8];
}

/// The operating system's randomness.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemRandomness;

impl Randomness for SystemRandomness {
    fn bytes(&self) -> [u8; 8] {
        let mut bytes = [0; 8];
        random_confounder(&mut bytes);
        bytes
    }
}

/// NegotiateFlags of the request.
const REQUESTED: u32 = flags::OFFERED;
/// NegotiateFlags that the answer must have.
const NEEDED: u32 = flags::REQUIRED | flags::GENERIC_PASS_THROUGH;

/// A channel that is set up: its key opens as many protected associations as are needed.
pub struct ClientChannel {
    identity: ClientIdentity,
    keys: Arc<ChannelKeys>,
    negotiated_flags: u32,
    seed: Mutex<Seed>,
    sealer: Sealer,
    /// Called for the time of authenticators, in seconds since 1970.
    now: fn() -> u32,
}

impl std::fmt::Debug for ClientChannel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ClientChannel of {} to {}", self.identity.account, self.identity.server_name)
    }
}

fn written(write: impl FnOnce(&mut NdrWriter)) -> Vec<u8> {
    let mut writer = NdrWriter::new(NdrSyntax::Ndr);
    write(&mut writer);
    writer.into_bytes()
}

fn reader(reply: &ReplyStub) -> NdrReader<'_> {
    NdrReader::new(&reply.stub, NdrSyntax::Ndr, reply.order)
}

fn granted(status: NtStatus) -> Result<(), ChannelError> {
    match status {
        NtStatus::SUCCESS => Ok(()),
        NtStatus::DOWNGRADE_DETECTED => Err(ChannelError::Downgrade),
        status => Err(ChannelError::Refused(status)),
    }
}

impl ClientChannel {
    /// Makes the handshake over an unprotected association: opnum 4, then 26, or 15 if the server does not
    /// implement 26.
    pub async fn establish(
        transport: &dyn Transport,
        identity: ClientIdentity,
        randomness: &dyn Randomness,
        now: fn() -> u32,
    ) -> Result<Self, ChannelError> {
        let mut association = transport.open(None).await?;
        let primary_name = Some(unc(&identity.server_name));
        let mut client_challenge = randomness.bytes();
        while !credential::is_random_enough(&client_challenge) {
            client_challenge = randomness.bytes();
        }
        let request = ReqChallenge {
            primary_name: primary_name.clone(),
            computer_name: identity.computer.clone(),
            client_challenge,
        };
        let reply =
            association.call(opnum::SERVER_REQ_CHALLENGE, written(|w| request.write(w)).into()).await?;
        let ReqChallengeReply { server_challenge, status } = ReqChallengeReply::read(&mut reader(&reply))?;
        granted(status)?;
        let key = credential::session_key(&identity.secret, &client_challenge, &server_challenge);
        let keys = Arc::new(ChannelKeys::new(key));
        let prove = |challenge: &Credential| credential::credential(keys.credential_key(), challenge);
        let client_credential = prove(&client_challenge);
        let request = Authenticate {
            primary_name,
            account_name: identity.account.clone(),
            channel_type: identity.channel_type.0,
            computer_name: identity.computer.clone(),
            client_credential,
            negotiate_flags: REQUESTED,
        };
        let stub = written(|w| request.write(w));
        let reply = match association.call(opnum::SERVER_AUTHENTICATE3, stub.clone().into()).await {
            Ok(reply) => AuthenticateReply::read(&mut reader(&reply), true)?,
            Err(TransportError::Fault(FaultStatus::OP_RANGE_ERROR)) => {
                let reply = association.call(opnum::SERVER_AUTHENTICATE2, stub.into()).await?;
                AuthenticateReply::read(&mut reader(&reply), false)?
            }
            Err(error) => return Err(error.into()),
        };
        granted(reply.status)?;
        // A bit that was not requested is refused as well as a missing one.
        if reply.negotiate_flags & NEEDED != NEEDED || reply.negotiate_flags & !REQUESTED != 0 {
            return Err(ChannelError::Downgrade);
        }
        if !credential::equal(&prove(&server_challenge), &reply.server_credential) {
            return Err(ChannelError::ServerCredential);
        }
        Ok(Self {
            identity,
            keys,
            negotiated_flags: reply.negotiate_flags,
            seed: Mutex::new(Seed::new(client_credential)),
            sealer: Sealer::default(),
            now,
        })
    }

    /// The security context for one more association: sealed, headers signed, with a context identifier of
    /// its own.
    pub fn security(&self, randomness: &dyn Randomness) -> ClientSecurity {
        let [a, b, c, d, ..] = randomness.bytes();
        ClientSecurity {
            auth_type: AuthType::NETLOGON,
            level: AuthLevel::PRIVACY,
            context_id: u32::from_le_bytes([a, b, c, d]),
            token: NlAuthRequest::encode(&self.identity.domain, &self.identity.computer),
            context: Some(Box::new(ClientContext::new(
                Arc::clone(&self.keys),
                self.sealer.clone(),
                random_confounder,
            ))),
            require_header_signing: true,
        }
    }

    /// Opens a protected association and checks the server's token.
    pub async fn open(
        &self,
        transport: &dyn Transport,
        randomness: &dyn Randomness,
    ) -> Result<Box<dyn Association>, ChannelError> {
        let association = transport.open(Some(self.security(randomness))).await?;
        // NL_AUTH_MESSAGE of type 1; the rest has no meaning.
        match association.token() {
            [1, 0, 0, 0, rest @ ..] if rest.len() >= 8 => Ok(association),
            _ => Err(TransportError::Refused("the server's token is not an NL_AUTH_MESSAGE".into()).into()),
        }
    }

    /// Asks under the seal which flags the server saw ([MS-NRPC] 3.5.4.4.10): what was requested and what was
    /// negotiated travelled in the clear.
    pub async fn check_capabilities(&self, association: &mut dyn Association) -> Result<(), ChannelError> {
        for (query_level, expected) in [(1, self.negotiated_flags), (2, REQUESTED)] {
            // The seed advances only with an answer: a server that refuses a level has not advanced its own.
            let mut seed = *lock(&self.seed);
            let request = Capabilities {
                server_name: unc(&self.identity.server_name),
                computer_name: Some(self.identity.computer.clone()),
                authenticator: seed.authenticator(self.keys.credential_key(), (self.now)()),
                query_level,
            };
            let stub = written(|w| request.write(w));
            let reply = match association.call(opnum::LOGON_GET_CAPABILITIES, stub.into()).await {
                // Servers from before 2024 know level 1 only, and that one has been answered under the seal.
                Err(TransportError::Fault(FaultStatus::INVALID_TAG | FaultStatus::BAD_STUB_DATA))
                    if query_level == 2 =>
                {
                    return Ok(());
                }
                outcome => CapabilitiesReply::read(&mut reader(&outcome?))?,
            };
            granted(reply.status)?;
            if !seed.check_return(self.keys.credential_key(), &reply.return_authenticator) {
                return Err(ChannelError::Authenticator);
            }
            *lock(&self.seed) = seed;
            if reply.level != query_level || reply.flags != expected {
                return Err(ChannelError::Downgrade);
            }
        }
        Ok(())
    }

    /// Asks a package by NetrLogonSamLogonEx ([MS-NRPC] 3.2.4.1).
    pub async fn ask(
        &self,
        association: &mut dyn Association,
        package: &str,
        logon_domain_name: &str,
        logon_data: &[u8],
    ) -> Result<PackageAnswer, ChannelError> {
        self.ask_with(association, package, logon_domain_name, logon_data, None).await
    }

    /// The same with an extension ([`RequestStub::extension`]) for a server that knows it.
    pub async fn ask_with(
        &self,
        association: &mut dyn Association,
        package: &str,
        logon_domain_name: &str,
        logon_data: &[u8],
        extension: Option<Vec<u8>>,
    ) -> Result<PackageAnswer, ChannelError> {
        let server = unc(&self.identity.server_name);
        let call = GenericCall {
            logon_server: &server,
            computer_name: &self.identity.computer,
            authenticator: None,
            logon_domain_name,
            package_name: package,
            logon_data,
            extra_flags: 0,
        };
        let mut writer = NdrWriter::new(NdrSyntax::Ndr);
        let inner = call.write(&mut writer, LogonMethod::Ex);
        let request = RequestStub { stub: writer.into_bytes(), inner: Some(inner), extension };
        let reply = association.call(opnum::LOGON_SAM_LOGON_EX, request).await?;
        let reply = SamLogonReply::read(&mut reader(&reply), LogonMethod::Ex)?;
        Ok(PackageAnswer {
            status: reply.status,
            authoritative: reply.authoritative,
            data: reply
                .validation_data
                .map(|data| ValidationData { raw: data.to_vec(), keys: Arc::clone(&self.keys) }),
        })
    }

    /// Has an NTLM proof checked, by a network logon over NetrLogonSamLogonEx ([MS-APDS] 3.1). The names and
    /// responses are those of the client, unchanged.
    pub async fn network_logon(
        &self,
        association: &mut dyn Association,
        logon: &NetworkLogon<'_>,
    ) -> Result<LogonReply, ChannelError> {
        let levels = LogonLevels::network(self.negotiated_flags);
        self.network_logon_at(association, logon, levels).await
    }

    /// The same at other levels than those that the flags of the channel stand for.
    pub async fn network_logon_at(
        &self,
        association: &mut dyn Association,
        logon: &NetworkLogon<'_>,
        levels: LogonLevels,
    ) -> Result<LogonReply, ChannelError> {
        let &NetworkLogon { identity, challenge, nt_response, lm_response } = logon;
        let logon = Logon::Network { challenge, nt_response, lm_response };
        self.logon(association, levels, identity, logon).await
    }

    /// Has a password checked, by an interactive logon. `nt_hash` is the NT hash of the password; it leaves
    /// the process encrypted under the session key and inside of the seal.
    pub async fn interactive_logon(
        &self,
        association: &mut dyn Association,
        identity: LogonIdentity<'_>,
        nt_hash: &SharedSecret,
    ) -> Result<LogonReply, ChannelError> {
        let mut hash = *nt_hash.expose();
        self.keys.encrypt_inner(&mut hash);
        let levels = LogonLevels::interactive(self.negotiated_flags);
        self.logon(association, levels, identity, Logon::Interactive { nt_hash: hash }).await
    }

    async fn logon(
        &self,
        association: &mut dyn Association,
        levels: LogonLevels,
        identity: LogonIdentity<'_>,
        logon: Logon<'_>,
    ) -> Result<LogonReply, ChannelError> {
        let server = unc(&self.identity.server_name);
        let call = LogonCall {
            logon_server: &server,
            computer_name: &self.identity.computer,
            levels,
            identity,
            logon,
        };
        let stub = written(|w| call.write(w));
        let reply = association.call(opnum::LOGON_SAM_LOGON_EX, stub.into()).await?;
        let mut reply = LogonReply::read(&mut reader(&reply), levels.validation)?;
        if let Some(validation) = &mut reply.validation {
            validation.session_key =
                decrypt_session_key(&self.keys, levels.validation, &validation.session_key);
        }
        Ok(reply)
    }

    /// Gives the account a new secret (opnum 30). `password` is UTF-16LE of 28 to 512 bytes. Then this
    /// channel is no longer valid; the next one uses the new secret.
    pub async fn set_password(
        &self,
        association: &mut dyn Association,
        password: &[u8],
        randomness: &dyn Randomness,
    ) -> Result<(), ChannelError> {
        if !(28..=512).contains(&password.len()) || !password.len().is_multiple_of(2) {
            return Err(ChannelError::Refused(NtStatus::WRONG_PASSWORD));
        }
        let mut sealed = Zeroizing::new([0; PasswordSet2::PASSWORD_LEN]);
        for chunk in sealed[..512].chunks_mut(8) {
            chunk.copy_from_slice(&randomness.bytes()[..chunk.len()]);
        }
        sealed[512 - password.len()..512].copy_from_slice(password);
        sealed[512..].copy_from_slice(&(password.len() as u32).to_le_bytes());
        self.keys.encrypt_inner(&mut sealed[..]);
        let mut seed = *lock(&self.seed);
        let request = PasswordSet2 {
            primary_name: Some(unc(&self.identity.server_name)),
            account_name: self.identity.account.clone(),
            channel_type: self.identity.channel_type.0,
            computer_name: self.identity.computer.clone(),
            authenticator: seed.authenticator(self.keys.credential_key(), (self.now)()),
            clear_new_password: sealed,
        };
        let reply =
            association.call(opnum::SERVER_PASSWORD_SET2, written(|w| request.write(w)).into()).await?;
        let reply = PasswordSet2Reply::read(&mut reader(&reply))?;
        granted(reply.status)?;
        match seed.check_return(self.keys.credential_key(), &reply.return_authenticator) {
            true => {
                *lock(&self.seed) = seed;
                Ok(())
            }
            false => Err(ChannelError::Authenticator),
        }
    }

    /// An authenticator for a call that the caller encodes itself, such as opnum 2 or 45.
    pub fn authenticator(&self) -> Authenticator {
        lock(&self.seed).authenticator(self.keys.credential_key(), (self.now)())
    }
}

/// An NTLM proof, as a domain controller checks it.
#[derive(Clone, Copy)]
pub struct NetworkLogon<'a> {
    /// The names of the AUTHENTICATE message.
    pub identity: LogonIdentity<'a>,
    /// The challenge that was answered.
    pub challenge: [u8; 8],
    /// NtChallengeResponse.
    pub nt_response: &'a [u8],
    /// LmChallengeResponse.
    pub lm_response: &'a [u8],
}

/// The answer of a package.
#[derive(Debug)]
pub struct PackageAnswer {
    /// The method's return value: a refusal is an answer.
    pub status: NtStatus,
    /// Whether the answer is final, so that no other server need be asked.
    pub authoritative: bool,
    /// The package's message, with success.
    pub data: Option<ValidationData>,
}

/// ValidationData. Only the package can tell whether it has the inner encryption, because the documents
/// contradict each other.
#[derive(Debug)]
pub struct ValidationData {
    raw: Vec<u8>,
    keys: Arc<ChannelKeys>,
}

impl ValidationData {
    /// The bytes, decrypted with the session key ([MS-NRPC] 4.1).
    pub fn decrypted(&self) -> Vec<u8> {
        let mut data = self.raw.clone();
        self.keys.decrypt_inner(&mut data);
        data
    }

    /// The bytes as they were received, without the inner decryption.
    pub fn raw(&self) -> &[u8] {
        &self.raw
    }
}

/// `\\server`, as the parameters have it.
fn unc(server: &str) -> String {
    format!(r"\\{}", server.trim_start_matches('\\'))
}

fn lock(seed: &Mutex<Seed>) -> std::sync::MutexGuard<'_, Seed> {
    seed.lock().unwrap_or_else(PoisonError::into_inner)
}
