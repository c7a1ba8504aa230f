//! The initiator: AP-REQ out, AP-REP in, AP-REP' out.

use super::acceptor::{ap_rep, open_ap_rep, sequence_number};
use super::context::{KerberosContext, Role};
use super::etype::{BLOCK_LEN, Key, usage};
use super::gss;
use super::messages::{
    self, AP_MUTUAL_REQUIRED, ApReq, Authenticator, EncApRepPart, EncryptedData, Principal, Ticket, kdc,
};
use crate::{Entropy, Initiator, InitiatorStep, Refusal, RefusalReason};
use dtyp::FileTime;
use zeroize::Zeroizing;

/// Longest AP-REQ that is sent: a bind has 65,535 bytes, of which presentation contexts and SPNEGO take some.
const SENT_LEN_MAX: usize = 64_000;

/// A ticket for a service, or a ticket-granting ticket, with its session key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credential {
    /// The client.
    pub client: Principal,
    /// The service.
    pub service: Principal,
    /// The session key.
    pub key: Key,
    /// Until when the ticket is valid.
    pub endtime: FileTime,
    /// The ticket as the KDC sent it.
    pub ticket: Vec<u8>,
}

/// Starts a context with a service ticket.
#[derive(Debug)]
pub struct KerberosInitiator {
    credential: Credential,
}

/// Waits for the acceptor's AP-REP.
struct SecondLeg {
    session_key: Key,
    ctime: FileTime,
    cusec: u32,
    send_first: u32,
}

impl KerberosInitiator {
    /// An initiator for one context.
    pub const fn new(credential: Credential) -> Self {
        Self { credential }
    }
}

fn refuse(detail: impl Into<String>) -> Refusal {
    Refusal::new(RefusalReason::Token, detail)
}

impl Credential {
    /// An AP-REQ with an authenticator under the session key.
    pub(super) fn ap_req(
        &self,
        options: u32,
        usage: u32,
        authenticator: &Authenticator,
        entropy: Entropy<'_>,
    ) -> Result<Vec<u8>, Refusal> {
        let ticket = Ticket::decode(&self.ticket).map_err(Refusal::malformed)?;
        let mut plain = Zeroizing::new(Vec::new());
        authenticator.encode(&mut plain);
        let authenticator = EncryptedData::seal(&self.key, usage, &plain, entropy);
        let mut token = Vec::with_capacity(self.ticket.len() + authenticator.cipher.len() + 64);
        ApReq { options, ticket, authenticator }.encode(&mut token);
        Ok(token)
    }
}

impl Initiator for KerberosInitiator {
    fn step(
        self: Box<Self>,
        token: Option<&[u8]>,
        now: FileTime,
        entropy: Entropy<'_>,
    ) -> Result<InitiatorStep, Refusal> {
        if token.is_some() {
            return Err(refuse("the server sent a token before the client"));
        }
        let Self { credential } = *self;
        if now >= credential.endtime {
            return Err(Refusal::new(
                RefusalReason::TicketTime,
                format!("the ticket for {} ended at {}", credential.service, credential.endtime),
            ));
        }
        let (ctime, cusec) = messages::microseconds(now);
        let send_first = sequence_number(entropy);
        let authenticator = Authenticator {
            client: credential.client.clone(),
            checksum: Some((gss::CHECKSUM_TYPE, gss::checksum(gss::ASKED))),
            cusec,
            ctime,
            subkey: None,
            seq_number: Some(send_first),
            authorization_data: None,
        };
        let token =
            credential.ap_req(AP_MUTUAL_REQUIRED, usage::AP_REQ_AUTHENTICATOR, &authenticator, entropy)?;
        if token.len() > SENT_LEN_MAX {
            return Err(refuse(format!("the ticket for {} does not fit into a bind", credential.service)));
        }
        let next = SecondLeg { session_key: credential.key, ctime, cusec, send_first };
        Ok(InitiatorStep::Continue { token, next: Box::new(next) })
    }
}

impl Initiator for SecondLeg {
    fn step(
        self: Box<Self>,
        token: Option<&[u8]>,
        now: FileTime,
        entropy: Entropy<'_>,
    ) -> Result<InitiatorStep, Refusal> {
        let token = token.ok_or_else(|| refuse("the server sent no token"))?;
        if let Ok(code) = kdc::error_code(token) {
            return Err(refuse(format!("the server answered with the Kerberos error {code}")));
        }
        let part = open_ap_rep(&self.session_key, token)?;
        if (part.ctime, part.cusec) != (self.ctime, self.cusec) {
            return Err(refuse("the server's AP-REP answers another AP-REQ"));
        }
        let subkey = part.subkey.as_ref().ok_or_else(|| refuse("the server's AP-REP has no subkey"))?;
        let subkey = subkey.key().ok_or_else(|| {
            Refusal::new(RefusalReason::Etype, format!("the server's subkey has the type {}", subkey.etype))
        })?;
        let receive_first = part.seq_number.unwrap_or(0);
        let (ctime, cusec) = messages::microseconds(now);
        let mut third = Vec::new();
        EncApRepPart { ctime, cusec, subkey: None, seq_number: Some(receive_first) }.encode(&mut third);
        let token = ap_rep(&self.session_key, &third, entropy);
        let mut seed = Zeroizing::new([0; BLOCK_LEN]);
        entropy(&mut *seed);
        let context =
            KerberosContext::new(Role::Initiator, &subkey, self.send_first, receive_first, &seed, None);
        Ok(InitiatorStep::Complete { token, context: Box::new(context) })
    }
}
