//! The acceptor: NEGOTIATE, CHALLENGE, AUTHENTICATE, and the checks in the order in which they count.

use super::av_pairs::{AV_FLAG_MIC, AV_FLAG_UNTRUSTED_SPN, AvId, AvPairs};
use super::context::NtlmContext;
use super::crypto::{Sender, SessionKey, exchange_key, hmac_md5};
use super::flags::NtlmFlags;
use super::message::{Authenticate, Challenge, ClientChallenge, Negotiate};
use super::proof::{NtlmProof, ProofChecker, ProofVerdict};
use crate::{Acceptor, BoxFuture, Leg, Refusal, RefusalReason, Step};
use dcerpc::security::AuthLevel;
use dtyp::{FileTime, utf16le_text};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use subtle::ConstantTimeEq;

/// How long a challenge may be answered: a client needs one round trip, and a user types no password in
/// between.
const CHALLENGE_TIME_MAX: Duration = Duration::from_secs(120);
/// NtChallengeResponse of NTLM version 1 and its session security; version 2 is longer.
const NTLM_V1_RESPONSE_LEN: usize = 24;

/// The names that a CHALLENGE carries.
///
/// If a domain controller checks the proofs, they are those of the account of its secure channel: it compares
/// them (CVE-2022-21857, [MS-APDS] 3.1.5.2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerNames {
    /// NetBIOS name of this server.
    pub netbios_computer: String,
    /// NetBIOS name of its domain, or of the server itself if it belongs to none.
    pub netbios_domain: String,
    /// DNS name of this server. Without one the CHALLENGE repeats the NetBIOS name in its place.
    pub dns_computer: Option<String>,
    /// DNS name of its domain.
    pub dns_domain: Option<String>,
    /// DNS name of its forest.
    pub dns_tree: Option<String>,
}

impl ServerNames {
    /// The names of a server without a domain.
    pub fn standalone(netbios_computer: &str) -> Self {
        Self {
            netbios_computer: netbios_computer.to_owned(),
            netbios_domain: netbios_computer.to_owned(),
            dns_computer: None,
            dns_domain: None,
            dns_tree: None,
        }
    }

    /// The names of a member of a domain, in which its DNS name begins with its NetBIOS name.
    pub fn of_member(computer: &str, netbios_domain: &str, dns_domain: &str) -> Self {
        Self {
            netbios_computer: computer.to_owned(),
            netbios_domain: netbios_domain.to_owned(),
            dns_computer: Some(format!("{}.{dns_domain}", computer.to_lowercase())),
            dns_domain: Some(dns_domain.to_owned()),
            dns_tree: None,
        }
    }

    fn is_standalone(&self) -> bool {
        self.netbios_domain.eq_ignore_ascii_case(&self.netbios_computer)
    }

    /// The list for a CHALLENGE, in the order of Windows. The time makes clients add a MIC and leave the LM
    /// response out ([MS-NLMP] 3.1.5.1.2). There are no flags: clients would have to repeat them.
    pub(super) fn target_info(&self, now: FileTime) -> AvPairs {
        let mut pairs = AvPairs::default();
        pairs.set_text(AvId::NB_DOMAIN_NAME, &self.netbios_domain);
        pairs.set_text(AvId::NB_COMPUTER_NAME, &self.netbios_computer);
        // Impacket needs a DNS name of the server: it makes its SPN of it.
        let dns_computer = self.dns_computer.as_deref().unwrap_or(&self.netbios_computer);
        for (id, name) in [
            (AvId::DNS_DOMAIN_NAME, self.dns_domain.as_deref()),
            (AvId::DNS_COMPUTER_NAME, Some(dns_computer)),
            (AvId::DNS_TREE_NAME, self.dns_tree.as_deref()),
        ] {
            if let Some(name) = name {
                pairs.set_text(id, name);
            }
        }
        pairs.set(AvId::TIMESTAMP, now.0.to_le_bytes().to_vec());
        pairs
    }

    /// Whether this is the server that a domain controller knows by its secure channel: `account` is the
    /// channel's account (`WEB1$`), `domain` its NetBIOS domain. `Err` says what differs.
    pub fn fit_channel(&self, account: &str, domain: &str) -> Result<(), String> {
        let computer = account.trim_end_matches('$');
        for (what, ours, theirs) in
            [("computer name", &self.netbios_computer, computer), ("domain", &self.netbios_domain, domain)]
        {
            if !ours.eq_ignore_ascii_case(theirs) {
                return Err(format!(
                    "the NTLM {what} is {ours}, and the secure channel's account {account} in {domain} has \
                     {theirs}: domain controllers refuse proofs for other names"
                ));
            }
        }
        let label = self.dns_computer.as_deref().and_then(|name| name.split('.').next());
        match label {
            // NetBIOS names have at most 15 characters.
            Some(label) if !label.get(..15).unwrap_or(label).eq_ignore_ascii_case(computer) => Err(format!(
                "the NTLM DNS name begins with {label}, and the secure channel's account is {account}"
            )),
            _ => Ok(()),
        }
    }
}

/// What an acceptor needs to know. One value serves all connections.
pub struct NtlmConfig {
    /// Our names.
    pub names: ServerNames,
    /// Refuse clients without a MIC. Impacket sends none; sealing and the proof protect all the same.
    pub require_mic: bool,
    /// The SPNs of which the client must mean one, compared without regard to ASCII case. Empty: any or none.
    pub allowed_spns: Vec<String>,
    /// Checks the proofs.
    pub checker: Arc<dyn ProofChecker>,
}

/// The acceptor of one context. It answers one NEGOTIATE and then one AUTHENTICATE.
pub struct NtlmAcceptor {
    config: Arc<NtlmConfig>,
    source: IpAddr,
    channel_bindings: Option<[u8; 16]>,
}

impl NtlmAcceptor {
    /// An acceptor for a client at `source`.
    pub fn new(config: Arc<NtlmConfig>, source: IpAddr) -> Self {
        Self { config, source, channel_bindings: None }
    }

    /// Demands the channel bindings of the secure transport around the connection: MD5 of its
    /// gss_channel_bindings_struct (RFC 4121 4.1.1.2).
    #[must_use]
    pub const fn with_channel_bindings(mut self, md5: [u8; 16]) -> Self {
        self.channel_bindings = Some(md5);
        self
    }

    fn negotiate(self, leg: Leg<'_>) -> Result<Step, Refusal> {
        let Negotiate { flags } = Negotiate::read(leg.token).map_err(Refusal::malformed)?;
        // Whether the level has its protection is seen at the last leg ([MS-RPCE] 3.3.1.5.2.2): the CHALLENGE
        // repeats no flag that is missing here.
        check_flags("NEGOTIATE", flags, AuthLevel::CONNECT)?;
        let names = &self.config.names;
        let target_type = match names.is_standalone() {
            true => NtlmFlags::TARGET_TYPE_SERVER,
            false => NtlmFlags::TARGET_TYPE_DOMAIN,
        };
        let mut server_challenge = [0; 8];
        (leg.entropy)(&mut server_challenge);
        let challenge = Challenge {
            flags: flags.challenge(target_type),
            target_name: names.netbios_domain.clone(),
            server_challenge,
            target_info: names.target_info(leg.now),
        };
        let token = challenge.to_bytes();
        let next = Challenged {
            negotiate: leg.token.to_vec(),
            challenge,
            challenge_message: token.clone(),
            issued: leg.now,
            acceptor: self,
        };
        Ok(Step::Continue { token, next: Box::new(next) })
    }
}

impl Acceptor for NtlmAcceptor {
    fn accept<'a>(self: Box<Self>, leg: Leg<'a>) -> BoxFuture<'a, Result<Step, Refusal>>
    where
        Self: 'a,
    {
        Box::pin(std::future::ready(self.negotiate(leg)))
    }
}

/// The acceptor between CHALLENGE and AUTHENTICATE. It is consumed by the answer: a challenge is used once.
struct Challenged {
    acceptor: NtlmAcceptor,
    negotiate: Vec<u8>,
    challenge: Challenge,
    challenge_message: Vec<u8>,
    issued: FileTime,
}

impl Acceptor for Challenged {
    fn accept<'a>(self: Box<Self>, leg: Leg<'a>) -> BoxFuture<'a, Result<Step, Refusal>>
    where
        Self: 'a,
    {
        Box::pin(self.authenticate(leg))
    }
}

impl Challenged {
    async fn authenticate(self: Box<Self>, leg: Leg<'_>) -> Result<Step, Refusal> {
        let refuse = |reason, detail: &str| Err(Refusal::new(reason, detail));
        let config = &self.acceptor.config;
        if leg.now.since(self.issued) > CHALLENGE_TIME_MAX {
            return refuse(RefusalReason::Token, "the challenge is too old");
        }
        let message = Authenticate::read(leg.token).map_err(Refusal::malformed)?;
        let who = format!("user={}\\{} workstation={}", message.domain, message.user, message.workstation);
        let refuse_user = |reason, detail: &str| Err(Refusal::new(reason, format!("{detail} {who}")));
        // A bit that is in this message alone is dropped, never used.
        check_flags("AUTHENTICATE", message.flags.and(self.challenge.flags), leg.level)?;
        if message.user.is_empty()
            || message.nt_response.is_empty()
            || message.flags.contains(NtlmFlags::ANONYMOUS)
        {
            return refuse(RefusalReason::Anonymous, "the client is anonymous");
        }
        // Whatever the LM response holds.
        if message.nt_response.len() <= NTLM_V1_RESPONSE_LEN {
            return refuse_user(RefusalReason::Token, "NTLM version 1 or LM");
        }
        let (_, blob) = message.nt_response.split_at(16);
        let client = ClientChallenge::read(blob).map_err(Refusal::malformed)?;
        // This binds the proof to this server and this challenge.
        for (id, value) in self.challenge.target_info.iter() {
            if client.target_info.get(id) != Some(value) {
                let detail = format!("the client did not repeat AvId {}", id.0);
                return refuse_user(RefusalReason::TargetInfo, &detail);
            }
        }
        let encrypted_session_key: [u8; 16] = match message.encrypted_session_key[..].try_into() {
            Ok(key) => key,
            Err(_) => return refuse_user(RefusalReason::Token, "EncryptedRandomSessionKey is not 16 octets"),
        };
        let proof = NtlmProof {
            user: message.user.clone(),
            domain: message.domain.clone(),
            workstation: message.workstation.clone(),
            server_challenge: self.challenge.server_challenge,
            nt_response: message.nt_response.clone(),
            lm_response: message.lm_response.clone(),
            source: self.acceptor.source,
        };
        let (session_base_key, identity) = match config.checker.check(&proof).await {
            ProofVerdict::Accepted { session_base_key, identity } => (session_base_key, identity),
            ProofVerdict::Rejected { detail, .. } => return refuse_user(RefusalReason::Proof, &detail),
            ProofVerdict::Unavailable(detail) => return refuse_user(RefusalReason::Unavailable, &detail),
        };
        let key = exchange_key(&session_base_key, encrypted_session_key);
        // The flags are inside of the proof, so that the promise of a MIC cannot be taken back on the way.
        if client.target_info.flags() & AV_FLAG_MIC != 0 {
            let expected = mic(&key, &self.negotiate, &self.challenge_message, leg.token);
            if !message.mic.is_some_and(|mic| bool::from(mic.ct_eq(&expected))) {
                return refuse_user(RefusalReason::Mic, "the MIC is wrong or missing");
            }
        } else if config.require_mic {
            return refuse_user(RefusalReason::Mic, "the client sent no MIC");
        }
        check_spn(&config.allowed_spns, &client.target_info)
            .map_err(|detail| Refusal::new(RefusalReason::Spn, format!("{detail} {who}")))?;
        if let Some(bindings) = self.acceptor.channel_bindings
            && client.target_info.get(AvId::CHANNEL_BINDINGS) != Some(&bindings)
        {
            return refuse_user(RefusalReason::ChannelBindings, "the channel bindings do not fit");
        }
        let context = NtlmContext::new(&key, Sender::Server, Some(Arc::new(*identity)), false);
        Ok(Step::Complete { token: Vec::new(), context: Box::new(context) })
    }
}

/// Whether a message has all flags that a level requires, and none that is refused. `flags` are those that
/// all messages up to this one have in common.
pub(super) fn check_flags(message: &str, flags: NtlmFlags, level: AuthLevel) -> Result<(), Refusal> {
    let required = NtlmFlags::required(level);
    if !flags.contains(required) {
        let missing = required.0 & !flags.0;
        let detail = format!("{message} lacks flags 0x{missing:08x} at level {}", level.0);
        return Err(Refusal::new(RefusalReason::Flags, detail));
    }
    match flags.contains(NtlmFlags::DATAGRAM) {
        true => Err(Refusal::new(RefusalReason::Flags, format!("{message} asks for datagram mode"))),
        false => Ok(()),
    }
}

/// The SPN that the client means. An empty one is none.
fn check_spn(allowed: &[String], target_info: &AvPairs) -> Result<(), String> {
    if allowed.is_empty() {
        return Ok(());
    }
    if target_info.flags() & AV_FLAG_UNTRUSTED_SPN != 0 {
        return Err("the client does not trust the source of its SPN".into());
    }
    let spn = target_info.get(AvId::TARGET_NAME).unwrap_or_default();
    let spn = utf16le_text("MsvAvTargetName", spn).map_err(|error| error.to_string())?;
    match allowed.iter().any(|allowed| allowed.eq_ignore_ascii_case(&spn)) {
        true => Ok(()),
        false => Err(format!("spn={spn} is not one of ours")),
    }
}

/// The MIC over the three messages, its own octets zeroed.
pub(super) fn mic(key: &SessionKey, negotiate: &[u8], challenge: &[u8], authenticate: &[u8]) -> [u8; 16] {
    hmac_md5(key.expose(), &[negotiate, challenge, &Authenticate::without_mic(authenticate)])
}
