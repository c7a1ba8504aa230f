//! [MS-NLMP] 3.4: what protects the messages of a context, connection-oriented, with extended session
//! security and key exchange.

use super::crypto::{DirectionKeys, Sender, SessionKey, hmac_md5, rc4};
use crate::identity::identity_of;
use crate::{MechanismContext, UserIdentity};
use dcerpc::pdu::SecTrailer;
use dcerpc::security::{
    Account, AuthLevel, Outgoing, ProtectedFragment, Protecting, Protection, SecurityContext, SecurityError,
};
use rc4::{Rc4, StreamCipher};
use std::any::Any;
use std::sync::Arc;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// [MS-NLMP] 2.2.2.9.2 NTLMSSP_MESSAGE_SIGNATURE for extended session security.
const TOKEN_LEN: usize = 4 // Version
    + 8 // Checksum
    + 4; // SeqNum
const TOKEN_VERSION: [u8; 4] = [1, 0, 0, 0];

/// One direction: its keys, its cipher stream, which goes on from one message to the next, and its counter.
struct Direction {
    keys: DirectionKeys,
    stream: Rc4,
    sequence: u32,
}

impl Direction {
    fn new(key: &SessionKey, sender: Sender) -> Self {
        let keys = DirectionKeys::new(key, sender);
        let stream = rc4(&keys.seal);
        Self { keys, stream, sequence: 0 }
    }

    fn mac(&self, parts: &[&[u8]]) -> [u8; 8] {
        let sequence = self.sequence.to_le_bytes();
        let mut all: Vec<&[u8]> = Vec::with_capacity(parts.len() + 1);
        all.push(&sequence);
        all.extend_from_slice(parts);
        let mac = hmac_md5(&*self.keys.sign, &all);
        std::array::from_fn(|n| mac[n])
    }

    /// The token of a message whose body has been through the stream, and the step to the next number.
    fn token(&mut self, mut mac: [u8; 8]) -> [u8; TOKEN_LEN] {
        self.stream.apply_keystream(&mut mac);
        let [a, b, c, d] = self.sequence.to_le_bytes();
        self.sequence = self.sequence.wrapping_add(1);
        let mut token = [0; TOKEN_LEN];
        token[..4].copy_from_slice(&TOKEN_VERSION);
        token[4..12].copy_from_slice(&mac);
        token[12..].copy_from_slice(&[a, b, c, d]);
        token
    }

    /// Signs SPNEGO's list. The cipher stream starts again after it, the counter does not ([MS-SPNG]
    /// 3.2.5.1).
    fn sign_mech_list(&mut self, list: &[u8]) -> [u8; TOKEN_LEN] {
        let token = self.token(self.mac(&[list]));
        self.stream = rc4(&self.keys.seal);
        token
    }
}

/// A context that is set up, of either side.
pub(super) struct NtlmContext {
    ours: Direction,
    theirs: Direction,
    user: Option<Arc<UserIdentity>>,
    wants_mech_list_mic: bool,
}

impl NtlmContext {
    pub(super) fn new(
        key: &SessionKey,
        we_are: Sender,
        user: Option<Arc<UserIdentity>>,
        wants_mech_list_mic: bool,
    ) -> Self {
        Self {
            ours: Direction::new(key, we_are),
            theirs: Direction::new(key, we_are.other()),
            user,
            wants_mech_list_mic,
        }
    }
}

#[cfg(test)]
impl NtlmContext {
    /// GSS_WrapEx or GSS_GetMICEx of the document: text and signature.
    pub(super) fn wrap_for_test(&mut self, seal: bool, text: &mut [u8]) -> (Vec<u8>, [u8; TOKEN_LEN]) {
        let mac = self.ours.mac(&[text]);
        if seal {
            self.ours.stream.apply_keystream(text);
        }
        (text.to_vec(), self.ours.token(mac))
    }

    /// Uses up octets of the sender's stream.
    pub(super) fn continue_stream_for_test(&mut self, len: usize) {
        self.ours.stream.apply_keystream(&mut vec![0; len]);
    }

    /// Uses up a number of the sender.
    pub(super) fn next_number_for_test(&mut self) {
        self.ours.sequence += 1;
    }
}

/// Compares a token with the one that would be right. Version and number may be told apart in time, because
/// they are no secrets.
fn check(
    sequence: u32,
    expected: impl FnOnce() -> [u8; TOKEN_LEN],
    token: &[u8],
) -> Result<(), SecurityError> {
    let token: &[u8; TOKEN_LEN] = token.try_into().map_err(|_| SecurityError::InvalidToken)?;
    if token[..4] != TOKEN_VERSION {
        return Err(SecurityError::InvalidToken);
    }
    if token[12..] != sequence.to_le_bytes() {
        return Err(SecurityError::OutOfSequence);
    }
    match bool::from(expected().ct_eq(token)) {
        true => Ok(()),
        false => Err(SecurityError::MessageAltered),
    }
}

impl SecurityContext for NtlmContext {
    fn token_len(&self, level: AuthLevel) -> usize {
        // A context that only connects protects nothing.
        if level > AuthLevel::CONNECT { TOKEN_LEN } else { 0 }
    }

    fn supports_header_signing(&self) -> bool {
        true
    }

    /// Header and trailer are covered always, header signing agreed or not ([MS-NLMP] 3.4.6). After an error
    /// the streams of both sides are out of step.
    fn unprotect(
        &mut self,
        protection: Protection,
        fragment: ProtectedFragment<'_>,
    ) -> Result<(), SecurityError> {
        let ProtectedFragment { header, body, trailer, token } = fragment;
        let theirs = &mut self.theirs;
        check(
            theirs.sequence,
            || {
                if protection.level == AuthLevel::PRIVACY {
                    theirs.stream.apply_keystream(body);
                }
                let mac = theirs.mac(&[header, body, trailer]);
                theirs.token(mac)
            },
            token,
        )
    }

    fn protect(&mut self, protection: Protection, message: Outgoing) -> Protecting {
        let Outgoing { stub, fragments, .. } = message;
        // It may have a secret, of which the sealed copy alone is left.
        let stub = Zeroizing::new(stub);
        let len = fragments.iter().map(|fragment| {
            fragment.header.len()
                + fragment.body.len()
                + usize::from(fragment.pad)
                + SecTrailer::LEN
                + TOKEN_LEN
        });
        let mut bytes = Vec::with_capacity(len.sum());
        for fragment in &fragments {
            let trailer = fragment.trailer.to_array();
            bytes.extend_from_slice(&fragment.header);
            let body_at = bytes.len();
            bytes.extend_from_slice(&stub[fragment.body.clone()]);
            bytes.resize(bytes.len() + usize::from(fragment.pad), 0);
            let mac = self.ours.mac(&[&fragment.header, &bytes[body_at..], &trailer]);
            if protection.level == AuthLevel::PRIVACY {
                self.ours.stream.apply_keystream(&mut bytes[body_at..]);
            }
            bytes.extend_from_slice(&trailer);
            bytes.extend_from_slice(&self.ours.token(mac));
        }
        Box::pin(std::future::ready(bytes))
    }

    fn identity(&self) -> Arc<dyn Any + Send + Sync> {
        identity_of(self.user.as_ref())
    }

    fn account(&self) -> Option<Account> {
        self.user.as_deref().map(UserIdentity::account)
    }
}

impl MechanismContext for NtlmContext {
    fn user(&self) -> Option<Arc<UserIdentity>> {
        self.user.clone()
    }

    fn sign_mech_list(&mut self, list: &[u8]) -> Vec<u8> {
        self.ours.sign_mech_list(list).to_vec()
    }

    fn verify_mech_list(&mut self, list: &[u8], mic: &[u8]) -> Result<(), SecurityError> {
        let theirs = &mut self.theirs;
        check(theirs.sequence, || theirs.sign_mech_list(list), mic)
    }

    fn wants_mech_list_mic(&self) -> bool {
        self.wants_mech_list_mic
    }

    fn into_security_context(self: Box<Self>) -> Box<dyn SecurityContext> {
        self
    }
}
