//! The exchange with a ticket-granting service (RFC 4120 3.3), as bytes: a ticket for a service, by a
//! ticket-granting ticket.

use super::etype::usage;
use super::initiator::Credential;
use super::messages::{self, Authenticator, EncryptionKey, Principal, kdc};
use crate::{Entropy, Refusal, RefusalReason};
use dtyp::FileTime;

/// A request that waits for its reply. Over TCP, each message has its length in four bytes before it,
/// big-endian.
#[derive(Debug)]
pub struct TgsRequest {
    credential: Credential,
    service: Principal,
    nonce: u32,
}

fn refuse(detail: impl Into<String>) -> Refusal {
    Refusal::new(RefusalReason::Token, detail)
}

impl TgsRequest {
    /// Asks for a ticket for `service`, in the realm of the ticket-granting ticket. Also gives the message.
    pub fn new(
        ticket_granting: &Credential,
        service: Principal,
        now: FileTime,
        entropy: Entropy<'_>,
    ) -> Result<(Self, Vec<u8>), Refusal> {
        let key = &ticket_granting.key;
        let mut nonce = [0; 4];
        entropy(&mut nonce);
        let nonce = u32::from_ne_bytes(nonce) & 0x7fff_ffff;
        let mut body = Vec::new();
        kdc::write_body(&mut body, &service, ticket_granting.endtime, nonce);
        let (ctime, cusec) = messages::microseconds(now);
        let authenticator = Authenticator {
            client: ticket_granting.client.clone(),
            checksum: Some((key.etype().checksum_type(), key.checksum(usage::TGS_REQ_CHECKSUM, &[&body]))),
            cusec,
            ctime,
            subkey: None,
            seq_number: None,
            authorization_data: None,
        };
        let ap_req = ticket_granting.ap_req(0, usage::TGS_REQ_AUTHENTICATOR, &authenticator, entropy)?;
        let message = kdc::tgs_req(&ap_req, &body);
        Ok((Self { credential: ticket_granting.clone(), service, nonce }, message))
    }

    /// Reads the reply. A ticket for another client or service is refused, a referral to another realm
    /// included.
    pub fn reply(self, message: &[u8]) -> Result<Credential, Refusal> {
        if let Ok(code) = kdc::error_code(message) {
            return Err(refuse(format!("the KDC answered with the error {code} for {}", self.service)));
        }
        let reply = kdc::TgsRep::decode(message).map_err(Refusal::malformed)?;
        let key = &self.credential.key;
        let part = match reply.enc_part.etype == key.etype().number() {
            true => key.decrypt(usage::TGS_REP_SESSION_KEY, &reply.enc_part.cipher),
            false => None,
        };
        let part =
            part.ok_or_else(|| Refusal::new(RefusalReason::Decrypt, "the KDC's reply does not decrypt"))?;
        let part = kdc::EncTgsRepPart::decode(&part).map_err(Refusal::malformed)?;
        if part.nonce != self.nonce {
            return Err(refuse("the KDC's reply answers another request"));
        }
        let client = &self.credential.client;
        if (&reply.client.realm, &reply.client.components) != (&client.realm, &client.components) {
            return Err(refuse(format!("the KDC's reply is for {}", reply.client)));
        }
        if !part.service.is_same_service(&self.service) {
            return Err(refuse(format!(
                "the KDC sent a ticket for {} instead of {}",
                part.service, self.service
            )));
        }
        let EncryptionKey { etype, .. } = part.key;
        let key = part.key.key().ok_or_else(|| {
            Refusal::new(RefusalReason::Etype, format!("the KDC sent a session key of type {etype}"))
        })?;
        Ok(Credential {
            client: reply.client,
            service: part.service,
            key,
            endtime: part.endtime,
            ticket: reply.ticket,
        })
    }
}
