//! The initiator: a user's proof for a server.

use super::acceptor::{check_flags, mic};
use super::av_pairs::{AV_FLAG_MIC, AvId, AvPairs};
use super::context::NtlmContext;
use super::crypto::{
    self, NtHash, Sender, SessionBaseKey, exchange_key, hmac_md5, ntowf_v2, session_base_key,
};
use super::flags::NtlmFlags;
use super::message::{Authenticate, Challenge, ClientChallenge, Negotiate};
use crate::{Entropy, Initiator, InitiatorStep, Refusal, RefusalReason};
use dcerpc::security::AuthLevel;
use dtyp::FileTime;
use zeroize::Zeroizing;

/// The user, and the service that it means.
#[derive(Clone, Debug)]
pub struct NtlmCredentials {
    /// UserName.
    pub user: String,
    /// DomainName; empty for the local accounts of the server.
    pub domain: String,
    /// Workstation: the NetBIOS name of this computer.
    pub workstation: String,
    /// The NT hash of the password.
    pub hash: NtHash,
    /// The SPN of the service, such as `host/dc1.contoso.com`.
    pub spn: String,
}

/// The initiator of one context.
pub struct NtlmInitiator {
    credentials: NtlmCredentials,
    level: AuthLevel,
}

/// What answers a CHALLENGE ([MS-NLMP] 3.3.2).
pub(super) struct Answer {
    pub(super) nt_response: Vec<u8>,
    pub(super) lm_response: Vec<u8>,
    session_base_key: SessionBaseKey,
}

/// Computes the answer over a list of target information that is complete. `now` counts if the list has no
/// time.
pub(super) fn answer(
    credentials: &NtlmCredentials,
    server_challenge: &[u8; 8],
    client_challenge: [u8; 8],
    target_info: AvPairs,
    now: FileTime,
) -> Answer {
    let timestamp = target_info.timestamp();
    let blob = ClientChallenge { time: timestamp.unwrap_or(now).0, client_challenge, target_info }.to_bytes();
    let ntowf = ntowf_v2(&credentials.hash, &credentials.user, &credentials.domain);
    let proof = crypto::proof(&ntowf, server_challenge, &blob);
    let lm_response = match timestamp {
        Some(_) => vec![0; 24],
        None => {
            let lm = hmac_md5(&*ntowf, &[server_challenge, &client_challenge]);
            [&lm[..], &client_challenge].concat()
        }
    };
    Answer {
        nt_response: [&proof[..], &blob].concat(),
        lm_response,
        session_base_key: session_base_key(&ntowf, &proof),
    }
}

impl NtlmInitiator {
    /// An initiator for a level of protection.
    pub const fn new(credentials: NtlmCredentials, level: AuthLevel) -> Self {
        Self { credentials, level }
    }
}

impl Initiator for NtlmInitiator {
    fn step(
        self: Box<Self>,
        token: Option<&[u8]>,
        _: FileTime,
        _: Entropy<'_>,
    ) -> Result<InitiatorStep, Refusal> {
        if token.is_some() {
            return Err(Refusal::new(RefusalReason::Token, "the server speaks first"));
        }
        let flags = NtlmFlags::offered(self.level);
        let token = Negotiate { flags }.to_bytes();
        let next = Negotiated { negotiate: token.clone(), flags, initiator: *self };
        Ok(InitiatorStep::Continue { token, next: Box::new(next) })
    }
}

/// The initiator between NEGOTIATE and CHALLENGE. It answers one CHALLENGE.
struct Negotiated {
    initiator: NtlmInitiator,
    flags: NtlmFlags,
    negotiate: Vec<u8>,
}

impl Initiator for Negotiated {
    fn step(
        self: Box<Self>,
        token: Option<&[u8]>,
        now: FileTime,
        entropy: Entropy<'_>,
    ) -> Result<InitiatorStep, Refusal> {
        let token = token.unwrap_or_default();
        let challenge = Challenge::read(token).map_err(Refusal::malformed)?;
        let flags = self.flags.and(challenge.flags);
        check_flags("CHALLENGE", flags, self.initiator.level)?;
        let mut target_info = challenge.target_info;
        // A server without names is none that a proof could be bound to ([MS-NLMP] 3.1.5.1.2).
        if [AvId::NB_COMPUTER_NAME, AvId::NB_DOMAIN_NAME].iter().any(|id| target_info.get(*id).is_none()) {
            return Err(Refusal::new(RefusalReason::TargetInfo, "CHALLENGE has no names of the server"));
        }
        let credentials = self.initiator.credentials;
        let mut client_challenge = [0; 8];
        entropy(&mut client_challenge);
        let mut session_key = Zeroizing::new([0; 16]);
        entropy(&mut session_key[..]);
        let av_flags = target_info.flags() | AV_FLAG_MIC;
        target_info.set(AvId::FLAGS, av_flags.to_le_bytes().to_vec());
        target_info.set(AvId::CHANNEL_BINDINGS, vec![0; 16]);
        target_info.set_text(AvId::TARGET_NAME, &credentials.spn);
        let Answer { nt_response, lm_response, session_base_key: base } =
            answer(&credentials, &challenge.server_challenge, client_challenge, target_info, now);
        let key = crypto::SessionKey::new(*session_key);
        let mut message = Authenticate {
            flags,
            lm_response,
            nt_response,
            domain: credentials.domain,
            user: credentials.user,
            workstation: credentials.workstation,
            encrypted_session_key: exchange_key(&base, *session_key).expose().to_vec(),
            mic: None,
        };
        message.mic = Some(mic(&key, &self.negotiate, token, &message.to_bytes()));
        // This message has a MIC whatever the server sent, and so the list of SPNEGO is signed, too.
        let context = NtlmContext::new(&key, Sender::Client, None, true);
        Ok(InitiatorStep::Complete { token: message.to_bytes(), context: Box::new(context) })
    }
}
