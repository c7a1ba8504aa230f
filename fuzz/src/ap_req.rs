//! Tokens of Kerberos clients, and what tickets hold.
//!
//! The first byte says what the rest is: a token as it comes from a socket, the plain text of a ticket or of
//! an authenticator, a PAC as it is, or a PAC that the KDC signs. The oracle has the keys and encrypts; the
//! fuzzer has none, so a token of its own is never accepted, and no SID is taken that the KDC did not sign.

use crate::der;
use dcerpc::security::AuthLevel;
use dtyp::{Decode, Encode, FileTime};
use pac::{Buffer, BufferType, ClientInfo, Pac, ServerSignature, VerifiedPac};
use rpc_auth::kerberos::{
    ApRep, ApReq, Authenticator, ClientRealm, EncApRepPart, EncTicketPart, EncryptedData, Etype,
    KerberosAcceptor, KerberosConfig, Key, Keytab, Principal, RealmKind, ReplayCache, SKEW_DEFAULT,
    SharedKeytab, Ticket, usage,
};
use rpc_auth::{Acceptor, Leg, Refusal, Step};
use std::sync::{Arc, LazyLock};

const NOW: FileTime = FileTime(134_117_424_000_000_000);
/// AD-IF-RELEVANT and AD-WIN2K-PAC.
const IF_RELEVANT: i32 = 1;
const WIN2K_PAC: i32 = 128;
/// Lgth, no channel bindings, and flags 0x103e (RFC 4121 4.1.1).
const CHECKSUM: [u8; 24] = [16, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x3e, 0x10, 0, 0];

/// Reads `bytes` as what its first byte says.
pub fn check(bytes: &[u8]) {
    let Some((kind, rest)) = bytes.split_first() else { return };
    match kind % 5 {
        0 => token(rest),
        1 => ticket(rest),
        2 => authenticator(rest),
        3 => {
            let accepted = accept(&ap_req(&genuine_ticket(rest), &genuine_authenticator())).is_ok();
            assert!(!accepted || is_genuine(rest), "a PAC that was not signed");
        }
        _ => signed_pac(rest),
    }
}

fn token(bytes: &[u8]) {
    if let Ok(message) = ApReq::decode(bytes) {
        again(&message, ApReq::encode, ApReq::decode);
    }
    if let Ok(message) = ApRep::decode(bytes) {
        again(&message, ApRep::encode, ApRep::decode);
    }
    if let Ok(message) = EncApRepPart::decode(bytes) {
        again(&message, EncApRepPart::encode, EncApRepPart::decode);
    }
    assert!(accept(bytes).is_err(), "a token without the keys");
    // The same bytes as the third token.
    let step = accept(&ap_req(&genuine_ticket(&GENUINE_PAC), &genuine_authenticator())).expect("genuine");
    let Step::Continue { next, .. } = step else { panic!("one leg") };
    assert!(leg(next, bytes).is_err(), "a third token without the session key");
}

fn ticket(bytes: &[u8]) {
    if let Ok(part) = EncTicketPart::decode(bytes) {
        again(&part, EncTicketPart::encode, EncTicketPart::decode);
    }
    if accept(&ap_req(bytes, &genuine_authenticator())).is_ok() {
        let part = EncTicketPart::decode(bytes).expect("accepted");
        assert_eq!(part.client.to_string(), "alice@RPC.TEST");
        let logon_info = Pac::from_bytes("PACTYPE", &GENUINE_PAC).expect("genuine");
        let logon_info = logon_info.find(BufferType::LOGON_INFO).expect("genuine");
        let is_there = bytes.windows(logon_info.len()).any(|window| window == logon_info);
        assert!(is_there, "SIDs that were not signed");
    }
}

fn authenticator(bytes: &[u8]) {
    if let Ok(message) = Authenticator::decode(bytes) {
        again(&message, Authenticator::encode, Authenticator::decode);
    }
    if accept(&ap_req(&genuine_ticket(&GENUINE_PAC), bytes)).is_ok() {
        let message = Authenticator::decode(bytes).expect("accepted");
        assert_eq!(message.client.components, ["alice"]);
        assert!(message.checksum.is_some_and(|(number, _)| number == 0x8003));
    }
}

/// A PAC whose server signature is right: what is accepted must be what the crate `pac` reads.
fn signed_pac(bytes: &[u8]) {
    let Ok(signature) = ServerSignature::from_pac(bytes) else { return };
    let right = KEY.checksum(usage::PAC, &[&signature.signed]);
    if signature.signature_type != KEY.etype().checksum_type() {
        return;
    }
    let mut bytes = bytes.to_vec();
    let at = bytes.windows(signature.signature.len()).position(|window| window == signature.signature);
    let at = at.expect("it is there");
    bytes[at..at + right.len()].copy_from_slice(&right);
    // The first place with these bytes may be another one.
    if ServerSignature::from_pac(&bytes).map(|signature| signature.signature) != Ok(right) {
        return;
    }
    let accepted = accept(&ap_req(&genuine_ticket(&bytes), &genuine_authenticator())).is_ok();
    if accepted {
        let pac = Pac::from_bytes("PACTYPE", &bytes).expect("accepted");
        VerifiedPac::of_ticket(&pac).expect("accepted");
    }
}

fn is_genuine(pac: &[u8]) -> bool {
    let signed = |bytes: &[u8]| ServerSignature::from_pac(bytes).map(|signature| signature.signed);
    signed(pac) == signed(&GENUINE_PAC)
}

fn again<T: PartialEq + std::fmt::Debug>(
    message: &T,
    encode: fn(&T, &mut Vec<u8>),
    decode: fn(&[u8]) -> Result<T, dtyp::DecodeError>,
) {
    let mut written = Vec::new();
    encode(message, &mut written);
    assert_eq!(decode(&written).as_ref(), Ok(message));
}

fn accept(token: &[u8]) -> Result<Step, Refusal> {
    let mut keytab = Keytab::default();
    keytab.push(principal("sso"), FileTime::UNSET, 2, &KEY);
    let config = KerberosConfig {
        keytab: Arc::new(SharedKeytab::new(keytab)),
        services: Vec::new(),
        client_realms: vec![ClientRealm { name: "RPC.TEST".to_owned(), kind: RealmKind::ActiveDirectory }],
        skew: SKEW_DEFAULT,
        replay: Arc::new(ReplayCache::default()),
    };
    leg(Box::new(KerberosAcceptor::new(Arc::new(config))), token)
}

fn leg(acceptor: Box<dyn Acceptor>, token: &[u8]) -> Result<Step, Refusal> {
    let mut entropy = |bytes: &mut [u8]| bytes.fill(0x5c);
    let leg = Leg { token, level: AuthLevel::PRIVACY, now: NOW, entropy: &mut entropy };
    crate::now(acceptor.accept(leg))
}

fn principal(name: &str) -> Principal {
    Principal { realm: "RPC.TEST".to_owned(), name_type: 1, components: vec![name.to_owned()] }
}

static KEY: LazyLock<Key> = LazyLock::new(|| Key::new(Etype::Aes256Sha1, &[0x11; 32]).expect("32 bytes"));
static SESSION_KEY: LazyLock<Key> =
    LazyLock::new(|| Key::new(Etype::Aes256Sha1, &[0x33; 32]).expect("32 bytes"));

/// An AP-REQ around the plain texts of a ticket and an authenticator.
fn ap_req(ticket: &[u8], authenticator: &[u8]) -> Vec<u8> {
    let etype = KEY.etype().number();
    let cipher = KEY.encrypt(usage::TICKET, [1; 16], ticket);
    let enc_part = EncryptedData { etype, kvno: Some(2), cipher };
    let cipher = SESSION_KEY.encrypt(usage::AP_REQ_AUTHENTICATOR, [2; 16], authenticator);
    let authenticator = EncryptedData { etype, kvno: None, cipher };
    let ticket = Ticket { service: principal("sso"), enc_part };
    let mut token = Vec::new();
    ApReq { options: 0x2000_0000, ticket, authenticator }.encode(&mut token);
    token
}

/// AD-IF-RELEVANT's contents around a PAC.
fn if_relevant(pac: &[u8]) -> Vec<u8> {
    let number = der(0xa0, &[&der(0x02, &[&i16::to_be_bytes(WIN2K_PAC as i16)])]);
    let contents = der(0xa1, &[&der(0x04, &[pac])]);
    der(0x30, &[&der(0x30, &[&number, &contents])])
}

fn genuine_ticket(pac: &[u8]) -> Vec<u8> {
    let hour = std::time::Duration::from_secs(3600);
    let mut out = Vec::new();
    EncTicketPart {
        flags: 0x40a1_0000,
        key: (&*SESSION_KEY).into(),
        client: principal("alice"),
        transited: (1, Vec::new()),
        authtime: NOW - hour,
        starttime: None,
        endtime: NOW + hour,
        renew_till: None,
        addresses: None,
        authorization_data: Some(vec![(IF_RELEVANT, if_relevant(pac))]),
    }
    .encode(&mut out);
    out
}

fn genuine_authenticator() -> Vec<u8> {
    let mut out = Vec::new();
    Authenticator {
        client: principal("alice"),
        checksum: Some((0x8003, CHECKSUM.to_vec())),
        cusec: 1,
        ctime: NOW,
        subkey: None,
        seq_number: Some(1000),
        authorization_data: None,
    }
    .encode(&mut out);
    out
}

/// alice's PAC: the worked example with the ticket's time, signed.
static GENUINE_PAC: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut pac =
        Pac::from_bytes("PACTYPE", include_bytes!("../corpus/pac/worked-example")).expect("a vector");
    let info = ClientInfo { client_id: NOW - std::time::Duration::from_secs(3600), name: "alice".to_owned() };
    for buffer in pac.buffers.iter_mut().filter(|buffer| buffer.buffer_type == BufferType::CLIENT_INFO) {
        buffer.data = info.to_bytes();
    }
    let signature = |octets: &[u8]| [&16i32.to_le_bytes()[..], octets].concat();
    for buffer_type in [BufferType::SERVER_CHECKSUM, BufferType::KDC_CHECKSUM] {
        pac.buffers.push(Buffer { buffer_type, data: signature(&[0xa5; 12]) });
    }
    let signed = ServerSignature::from_pac(&pac.to_bytes()).expect("two signatures").signed;
    let at = pac.buffers.len() - 2;
    pac.buffers[at].data = signature(&KEY.checksum(usage::PAC, &[&signed]));
    pac.to_bytes()
});

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kdc_made_is_accepted() {
        assert!(accept(&ap_req(&genuine_ticket(&GENUINE_PAC), &genuine_authenticator())).is_ok());
    }

    /// Writes the corpus: `SEEDS=1 cargo test`.
    #[test]
    fn seeds() {
        if std::env::var_os("SEEDS").is_none() {
            return;
        }
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus/ap_req");
        std::fs::create_dir_all(&folder).expect("a folder");
        let put = |name: &str, kind: u8, bytes: &[u8]| {
            std::fs::write(folder.join(name), [&[kind], bytes].concat()).expect("written");
        };
        let ticket = genuine_ticket(&GENUINE_PAC);
        let mut token = ap_req(&ticket, &genuine_authenticator());
        // One bit of the ticket is changed, so that it is not accepted.
        token[200] ^= 1;
        put("token", 0, &token);
        put("ticket", 1, &ticket);
        put("authenticator", 2, &genuine_authenticator());
        put("pac", 3, &GENUINE_PAC);
        put("pac-to-be-signed", 4, &GENUINE_PAC);
    }
}
