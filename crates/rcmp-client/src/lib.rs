//! The client of [MS-RCMP] over Netlogon.
//!
//! [`map`] asks one server about a certificate, as `rcmpd map` does: it sets up a secure channel, asks, and
//! checks what the answer proves. [`peer`] asks the servers of another domain on behalf of a service.
//!
//! ```no_run
//! use rcmp_client::Target;
//! use rcmp_service::message::MappingFlags;
//! use secret_ref::SecretRef;
//! use std::time::Duration;
//! use trust_tokio::certificates::Chain;
//!
//! # async fn ask() -> Result<(), Box<dyn std::error::Error>> {
//! let target = Target {
//!     server: "dc1.contoso.example".into(),
//!     domain: "CONTOSO".into(),
//!     account: "WEB01$".into(),
//!     secret: SecretRef::File("machines/WEB01.secret".into()),
//!     timeout: Duration::from_secs(10),
//!     proof: None,
//! };
//! let chain = Chain::read("alice.pem".as_ref(), None)?;
//! let mapped = rcmp_client::map(&target, &chain, MappingFlags::UPN, None).await?;
//! println!("{}", mapped.pac.user_sid);
//! # Ok(())
//! # }
//! ```

pub mod peer;

use dtyp::{Encode, NtStatus};
use netlogon_tokio::{ResolveError, TcpTransport};
use netlogon_transport::client::{
    ChannelError, ClientChannel, ClientIdentity, PackageAnswer, Randomness, SystemRandomness, TransportError,
};
use netlogon_transport::secret::SharedSecret;
use netlogon_transport::secrets::ChannelType;
use pac::VerifiedPac;
use rcmp_service::message::{MappingFlags, PACKAGE_NAME, Request, Response};
use rcmp_service::proof::{self, Verified, Weakness};
use rcmp_service::{CallContext, Method, SidClaim};
use secret_ref::SecretRef;
use std::fmt;
use std::time::Duration;
use trust_tokio::certificates::Chain;

/// The server, the account to use there, and what the answer must prove.
#[derive(Clone, Debug)]
pub struct Target {
    /// `HOST` or `HOST:PORT`; without a port, the endpoint mapper of the host is asked.
    pub server: String,
    /// NetBIOS name of the server's domain.
    pub domain: String,
    /// The machine account, such as `WEB01$`.
    pub account: String,
    /// Reference to the password of the machine account.
    pub secret: SecretRef,
    /// From the first connection to the answer.
    pub timeout: Duration,
    /// The proof of path that is asked for, if any.
    pub proof: Option<ProofWanted>,
}

/// Requirements for a proof of path.
#[derive(Clone, Debug)]
pub struct ProofWanted {
    /// Trusted keys: NetBIOS names of domains with Ed25519 public keys.
    pub keys: Vec<(String, [u8; 32])>,
    /// Whether an answer that is not strong at every hop is refused.
    pub strong: bool,
}

/// The proved path of an answer.
#[derive(Debug)]
pub struct ProvedPath {
    /// The servers that signed, the answering one first.
    pub hops: Vec<Verified>,
    /// Why the answer is not strong at every hop.
    pub weakness: Option<Weakness>,
}

/// The answer of a server that mapped a certificate.
#[derive(Debug)]
pub struct Mapped {
    /// NetBIOS name of the account's domain.
    pub domain: String,
    /// The account, from a PAC whose fields were checked.
    pub pac: VerifiedPac,
    /// The method that found the account. An answer does not have it, so each method was asked for alone.
    pub method: Option<Method>,
    /// The path, if it was asked for.
    pub path: Option<ProvedPath>,
}

/// Why there is no account.
#[derive(Debug)]
pub enum AskError {
    /// The server answered with this status and no account.
    Refused(NtStatus),
    /// The server could not be reached.
    Unreachable(String),
    /// No secure channel could be set up.
    Channel(String),
    /// The server refused the secure channel with this status, which probably has this cause.
    ChannelRefused(NtStatus, &'static str),
    /// The server mapped the certificate, but it is not proved that every hop did so by a strong mapping.
    NotStrong(String),
    /// The input cannot be sent.
    Input(String),
    /// The server could not decide, or its answer is invalid.
    Undecided(String),
}

impl fmt::Display for AskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(status) if says_not_mapped(*status) => write!(f, "refused: {status}"),
            Self::Refused(status) if says_may_not_ask(*status) => {
                write!(f, "the server does not answer this question: {status}")
            }
            Self::Refused(status) => write!(f, "the server could not decide: {status}"),
            Self::ChannelRefused(status, cause) => {
                write!(f, "the server refused the secure channel: {status}, so {cause}")
            }
            Self::NotStrong(text) => write!(f, "refused here: {text}"),
            Self::Unreachable(text) | Self::Channel(text) | Self::Input(text) | Self::Undecided(text) => {
                f.write_str(text)
            }
        }
    }
}

impl std::error::Error for AskError {}

impl From<ResolveError> for AskError {
    fn from(error: ResolveError) -> Self {
        match error {
            ResolveError::InvalidPort(text) => Self::Input(text),
            ResolveError::Unreachable(text) => Self::Unreachable(text),
        }
    }
}

impl AskError {
    /// The exit code of an asking command.
    pub const fn exit_code(&self) -> u8 {
        match self {
            Self::Refused(status) if says_not_mapped(*status) => 3,
            Self::Refused(status) if says_may_not_ask(*status) => 5,
            Self::NotStrong(_) => 3,
            Self::Unreachable(_) => 4,
            Self::Channel(_) | Self::ChannelRefused(..) => 5,
            Self::Input(_) => 6,
            Self::Refused(_) | Self::Undecided(_) => 7,
        }
    }

    /// Whether another server of the domain may decide. A service asks on after few statuses only, because
    /// each try is load; a command asks on after each status that decides nothing (exit code 7).
    pub const fn is_no_decision(&self) -> bool {
        match self {
            Self::Refused(status) => !says_not_mapped(*status) && !says_may_not_ask(*status),
            Self::Unreachable(_) | Self::Channel(_) | Self::ChannelRefused(..) | Self::Undecided(_) => true,
            Self::NotStrong(_) | Self::Input(_) => false,
        }
    }

    /// The status of the server, if it is one.
    pub const fn status(&self) -> Option<NtStatus> {
        match self {
            Self::Refused(status) | Self::ChannelRefused(status, _) => Some(*status),
            _ => None,
        }
    }

    /// What to do about it; empty if the text says so already.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Refused(NtStatus::LOGON_FAILURE) => {
                "no account is mapped to this certificate, its account may not be used, it is not accepted there, or it is outside the \
                 scope of this machine; on the server, `rcmpd explain CERT.pem -c FILE` says why, and `rcmpd machine show NAME -c FILE` \
                 shows the scope"
            }
            Self::Refused(NtStatus::NO_SUCH_PACKAGE | NtStatus::INVALID_PARAMETER) => {
                "the server does not speak the Remote Certificate Mapping Protocol, or not this request"
            }
            Self::Refused(NtStatus::ACCESS_DENIED) => {
                "the machine account may not ask: on the server, `rcmpd machine set NAME --permission rcmp -c FILE`"
            }
            Self::Refused(NtStatus::NO_SUCH_USER) => {
                "the server neither serves that domain nor may ask it for you"
            }
            Self::NotStrong(_) => {
                "each domain on the way signs its hop when [forward] proof_key is set there; its public key is for [client] proof_keys here"
            }
            Self::Refused(_) => {
                "the server's log says why (Question not decided), once a minute for each reason; asking again may help"
            }
            Self::Unreachable(_) => {
                "check the address and the port ([rpc] listen of the server), and whether `rcmpd serve` runs there"
            }
            Self::Channel(_) | Self::ChannelRefused(..) => {
                "check that this is a Netlogon port, the domain, and the machine account with its secret on both sides; after four wrong \
                 secrets each attempt takes some seconds"
            }
            Self::Input(_) => "",
            Self::Undecided(_) => "asking again may help",
        }
    }
}

/// Whether a status is a denial for the certificate or its account. All other statuses are about this client,
/// the server or the network; an unknown status is never a denial.
pub const fn says_not_mapped(status: NtStatus) -> bool {
    status.is_account_restriction()
        || matches!(
            status,
            NtStatus::LOGON_FAILURE | NtStatus::WRONG_PASSWORD | NtStatus::AUTHENTICATION_FIREWALL_FAILED
        )
}

/// Whether the server refuses such requests of this machine for every certificate.
const fn says_may_not_ask(status: NtStatus) -> bool {
    matches!(
        status,
        NtStatus::ACCESS_DENIED
            | NtStatus::NO_SUCH_USER
            | NtStatus::NO_SUCH_PACKAGE
            | NtStatus::INVALID_PARAMETER
    )
}

fn channel_error(error: ChannelError) -> AskError {
    match error {
        ChannelError::Transport(TransportError::Unreachable(text)) => AskError::Unreachable(text),
        ChannelError::Refused(status @ NtStatus::ACCESS_DENIED) => {
            AskError::ChannelRefused(status, "the secret of the machine account is probably wrong")
        }
        ChannelError::Refused(status @ NtStatus::NO_TRUST_SAM_ACCOUNT) => {
            AskError::ChannelRefused(status, "it has no such machine account, or it is disabled")
        }
        ChannelError::Refused(status @ (NtStatus::DS_BUSY | NtStatus::INVALID_SERVER_STATE)) => {
            AskError::Refused(status)
        }
        error => AskError::Channel(error.to_string()),
    }
}

/// Why a server did not set up a secure channel, with the probable cause.
fn establish_error(error: ChannelError, target: &Target) -> AskError {
    match error {
        ChannelError::Refused(status @ NtStatus::NO_TRUST_SAM_ACCOUNT) if !target.account.ends_with('$') => {
            AskError::ChannelRefused(
                status,
                "it has no such machine account: the name of a machine account ends in a dollar sign, as in 'WEB01$'",
            )
        }
        ChannelError::Transport(TransportError::Protocol(text)) => AskError::Channel(format!(
            "{} does not answer as a Netlogon server: {text}; is it the port of [rpc] listen, and not one of HTTP or TLS?",
            target.server
        )),
        error => channel_error(error),
    }
}

/// Why a server refused the bind of a secure channel. The secret was proved before, and a bind names the
/// domain.
fn bind_error(error: ChannelError, target: &Target) -> AskError {
    match error {
        ChannelError::Transport(TransportError::Refused(text)) if text.starts_with("the server refused") => {
            AskError::Channel(format!(
                "{text}; probably {} is not the domain of {}",
                target.domain, target.server
            ))
        }
        error => channel_error(error),
    }
}

/// The time for authenticators, in seconds since 1970.
pub fn now() -> u32 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    since.as_secs() as u32
}

/// Maps a certificate: a channel, a check for a downgrade, one request, and one for each method if several
/// were allowed.
pub async fn map(
    target: &Target,
    chain: &Chain,
    flags: MappingFlags,
    logon_domain_name: Option<&str>,
) -> Result<Mapped, AskError> {
    let deadline = tokio::time::Instant::now() + target.timeout;
    let mut answered = None;
    let work = ask(target, chain, flags, logon_domain_name, &mut answered);
    let outcome = tokio::time::timeout_at(deadline, work).await;
    match (outcome, answered) {
        (Ok(Err(error)), _) => Err(error),
        // If the timeout comes before the method is known, the account is known all the same.
        (_, Some(mapped)) => Ok(mapped),
        (_, None) => Err(AskError::Unreachable(format!(
            "{} did not answer in time ({} s, --timeout)",
            target.server,
            target.timeout.as_secs()
        ))),
    }
}

async fn ask(
    target: &Target,
    chain: &Chain,
    flags: MappingFlags,
    logon_domain_name: Option<&str>,
    answered: &mut Option<Mapped>,
) -> Result<(), AskError> {
    let claim = SidClaim::of_encoded(chain.certificate());
    if claim == SidClaim::Contradictory {
        let text = "the SIDs in the certificate disagree or cannot be read, so no account is its own";
        return Err(AskError::Input(text.into()));
    }
    let issuers = chain.issuers().map_err(|error| AskError::Input(error.to_string()))?;
    let request = |flags| {
        let request = Request { flags, certificate: chain.certificate(), issuers: issuers.clone() };
        request.encode().ok_or_else(|| AskError::Input(chain.too_long()))
    };
    let secret = target.secret.read().map_err(|error| AskError::Input(error.to_string()))?;
    let transport = TcpTransport::resolve(&target.server, target.timeout).await?;
    let identity = ClientIdentity {
        server_name: transport.host().to_owned(),
        domain: target.domain.clone(),
        computer: target.account.trim_end_matches('$').to_owned(),
        account: target.account.clone(),
        channel_type: ChannelType::WORKSTATION,
        secret: SharedSecret::from_password(&secret),
    };
    let channel = ClientChannel::establish(&transport, identity, &SystemRandomness, now)
        .await
        .map_err(|error| establish_error(error, target))?;
    let mut association =
        channel.open(&transport, &SystemRandomness).await.map_err(|error| bind_error(error, target))?;
    channel.check_capabilities(&mut *association).await.map_err(channel_error)?;
    let domain = logon_domain_name.unwrap_or(&target.domain);
    let question = request(flags)?;
    let nonce: [u8; 16] =
        [SystemRandomness.bytes(), SystemRandomness.bytes()].concat().try_into().unwrap_or_default();
    let extension = target.proof.is_some().then(|| {
        let time_left = Some(target.timeout);
        CallContext { proof_nonce: Some(nonce), time_left, ..CallContext::default() }.to_bytes()
    });
    let answer = channel.ask_with(&mut *association, PACKAGE_NAME, domain, &question, extension).await;
    let (mut mapped, message) = read(answer.map_err(channel_error)?)?;
    let account = mapped.pac.user_sid;
    if let SidClaim::Account(sid) = claim
        && !claim.allows(&account)
    {
        return Err(AskError::Undecided(format!(
            "the server's answer is rejected: it is the account {account}, and the certificate is for {sid}"
        )));
    }
    if let Some(wanted) = &target.proof {
        let path =
            proved(wanted, &proof::Question::new(&question, nonce), &message, &mapped, &target.domain)?;
        match &path.weakness {
            Some(weakness) if wanted.strong => return Err(AskError::NotStrong(weakness.to_string())),
            _ => mapped.path = Some(path),
        }
    }
    let mapped = answered.insert(mapped);
    let methods: Vec<Method> =
        Method::ALL.into_iter().filter(|method| flags.contains(method.flag())).collect();
    for method in &methods {
        let flags = flags.and(method.flag().with(MappingFlags::ISSUER_CHAIN));
        let found = match &methods[..] {
            [_] => true,
            _ => {
                let answer = channel.ask(&mut *association, PACKAGE_NAME, domain, &request(flags)?).await;
                answer
                    .ok()
                    .and_then(|answer| read(answer).ok())
                    .is_some_and(|(m, _)| m.pac.user_sid == mapped.pac.user_sid)
            }
        };
        if found {
            mapped.method = Some(*method);
            break;
        }
    }
    Ok(())
}

/// Reads the answer, with or without the inner encryption of [MS-NRPC] 4.1.
pub fn read(answer: PackageAnswer) -> Result<(Mapped, Vec<u8>), AskError> {
    let data = match (answer.status, answer.data) {
        (NtStatus::SUCCESS, Some(data)) => data,
        (NtStatus::SUCCESS, None) => return Err(AskError::Undecided("the server's answer is empty".into())),
        (status, _) => return Err(AskError::Refused(status)),
    };
    let decrypted = data.decrypted();
    let message = if Response::is_plausible(&decrypted) { &decrypted[..] } else { data.raw() };
    let nonsense =
        |error: &dyn fmt::Display| AskError::Undecided(format!("the server's answer is invalid: {error}"));
    let response = Response::decode(message).map_err(|error| nonsense(&error))?;
    let pac = VerifiedPac::decode(response.auth_data).map_err(|error| nonsense(&error))?;
    if !pac.logon_info.logon_domain_name.text.eq_ignore_ascii_case(&response.domain) {
        return Err(nonsense(&"the domain of the message and that of the PAC do not agree"));
    }
    let mapped = Mapped { domain: response.domain, pac, method: None, path: None };
    Ok((mapped, message.to_vec()))
}

/// Verifies the path in an answer.
fn proved(
    wanted: &ProofWanted,
    question: &proof::Question,
    message: &[u8],
    mapped: &Mapped,
    asked: &str,
) -> Result<ProvedPath, AskError> {
    let keys_of = |domain: &str| {
        let of = wanted.keys.iter().filter(|(name, _)| name.eq_ignore_ascii_case(domain));
        of.map(|(_, key)| *key).collect()
    };
    let nonsense = |error| AskError::Undecided(format!("the proof of the path cannot be read: {error}"));
    let hops = proof::verify(message, question, keys_of).map_err(nonsense)?;
    let response = Response::decode(message).map_err(nonsense)?;
    let weakness = proof::strong_at_every_hop(&hops, &response, &mapped.pac, asked).err();
    Ok(ProvedPath { hops, weakness })
}
