//! What several tests need.

pub(crate) use crate::test::bytes as unhex;
use crate::test::now_or_never;

/// alice@RPC.TEST to host/srv@RPC.TEST: service key 11×32, session key 33×32, both etype 18.
pub(crate) const AP_REQ: &str = "\
     6e8201e2308201dea003020105a10302010ea20703050020000000a382012a6182012630820122a003020105a10a1b08 \
     5250432e54455354a2163014a003020102a10d300b1b04686f73741b03737276a381f63081f3a003020112a103020102 \
     a281e60481e380bcd642cf0a1e87329cda91830dd8171132e4b0c5fced734c17b6d6925bcaeb01e59298aaa39183358a \
     62f8b3419afbd98ce758164b5284079f01bdba916a6661dc390bdb635f22627ce1d3430a3f8b5b4772ba8fb96bd16896 \
     374cf00e2a925646af08dde8b662a0ae857fc8f390880ab5595ef2cdbe5137abe6b9c17d22800ad9852cd658a0e1c61f \
     7c6dba40cf67118721b0c77d8bdeb2b9e521f657ad9af59634024f724f0f7172ad577d45de9d128879321a8ffc33096f \
     ccaaaccda2e27b7b4cd88abbdd166aad92bcadeb6e0e2ab3117cd81150c1ebb3d4f48f593b8dc91dcba4819a308197a0 \
     03020112a2818f04818ca1cb9dd347be41bc7e9865218b200adc3983754e902ff2b2e48034ae19c52c2f660c4ef17c91 \
     24b370a9200d1488cf04291abe85541e4f8aced61c892d07e9c595d31e7e53ea8af2a6e86254b145d8d8be9716c7acdc \
     5e164ad513c0aa8bb8796641755b6e61970befc0e4b475badfa548c9998b9202a47a18d0a352b775a1638ff2286ae517 \
     f4451009c82a";

/// The answer: subkey 00 to 1f, sequence number 0x01020304.
pub(crate) const AP_REP: &str = "\
     6f8189308186a003020105a10302010fa27a3078a003020112a271046f0abb8de2afaa7cfe9b1e953c0e159f8498d690 \
     b0b28612a90a4094cc11675d936bb98f337598749900c78f4df2293c4292d43d2fa9bc20662f1d63515d7c22a4e6f25b \
     6470f057c50c0d1318694e4d1bc211ba4dc3af6b9ca1d76a0c787522059c2a2c641204a2ed077f2f044a0652";

/// The third token.
pub(crate) const AP_REP_3: &str = "\
     6f5b3059a003020105a10302010fa24d304ba003020112a24404420abb8de2afaa7cfe9b1e953c0e159f846f54883624 \
     5005e8de22a2a1eda4347a5371083b058cce8a6d4fc396ec53821ba2f2268f11da9c1f807cb863dec9ab8afa89";

/// What the ticket holds.
pub(crate) const ENC_TICKET_PART: &str = "\
     6381c43081c1a00703050040a00000a12b3029a003020112a12204203333333333333333333333333333333333333333 \
     333333333333333333333333a20a1b085250432e54455354a3123010a003020101a10930071b05616c696365a40b3009 \
     a003020101a1020400a511180f32303236303130313131303030305aa611180f32303236303130313131303030305aa7 \
     11180f32303236303130313231303030305aaa233021301fa003020101a118041630143012a00402020080a10a040800 \
     00000000000000";

/// The authenticator in the clear.
pub(crate) const AUTHENTICATOR: &str = "\
     626e306ca003020105a10a1b085250432e54455354a2123010a003020101a10930071b05616c696365a3253023a00502 \
     03008003a11a041810000000000000000000000000000000000000003e100000a405020306b022a511180f3230323630 \
     3130313132303030305aa704020203e8";

/// A principal of the realm RPC.TEST.
pub(crate) fn service(name: &str) -> super::Principal {
    let components = name.split('/').map(str::to_owned).collect();
    super::Principal { realm: "RPC.TEST".to_owned(), name_type: 1, components }
}

use super::etype::{Etype, Key, usage};
use super::messages::{
    AD_IF_RELEVANT, AD_WIN2K_PAC, ApReq, Authenticator, EncTicketPart, EncryptedData, Ticket,
    write_authorization_data,
};
use super::{
    ClientRealm, KerberosAcceptor, KerberosConfig, Keytab, RealmKind, ReplayCache, SKEW_DEFAULT,
    SharedKeytab, gss,
};
use crate::{Acceptor, Leg, Refusal, Step};
use dcerpc::security::AuthLevel;
use dtyp::{Decode, Encode, FileTime};
use pac::{Buffer, BufferType, ClientInfo, LogonInfo, Pac, ServerSignature};
use std::sync::Arc;

/// The time of the tests: 2026-01-01T12:00:00Z.
pub(crate) const NOW: FileTime = FileTime(134_117_424_000_000_000);
pub(crate) const HOUR: std::time::Duration = std::time::Duration::from_secs(3600);
/// The client's domain in the worked example of a PAC.
pub(crate) const ALICE: &str = "S-1-5-21-3623811015-3361044348-30300820-1013";

/// Bytes that differ from one call to the next, for an exchange that repeats.
pub(crate) fn counting() -> impl FnMut(&mut [u8]) + Send {
    let mut next = 0u8;
    move |bytes| {
        for byte in bytes {
            next = next.wrapping_mul(5).wrapping_add(113);
            *byte = next;
        }
    }
}

pub(crate) fn key(etype: Etype, fill: u8) -> Key {
    Key::new(etype, &vec![fill; etype.key_len()]).expect("the length of the type")
}

/// The account of the worked example of a PAC.
pub(crate) fn logon_info() -> LogonInfo {
    let text = include_str!("../../../pac/tests/vectors/worked-example.hex");
    let digits: String = text.lines().filter(|line| !line.starts_with('#')).collect();
    let pac = Pac::from_bytes("PACTYPE", &unhex(&digits)).expect("the worked example");
    LogonInfo::decode(pac.find(BufferType::LOGON_INFO).expect("LOGON_INFO")).expect("the worked example")
}

/// A PAC signed by the server's key, with these buffers before the signatures.
pub(crate) fn signed_pac(key: &Key, mut buffers: Vec<Buffer>) -> Vec<u8> {
    let etype = key.etype();
    let signature = [&etype.checksum_type().to_le_bytes()[..], &vec![0xa5; etype.mac_len()]].concat();
    for buffer_type in [BufferType::SERVER_CHECKSUM, BufferType::KDC_CHECKSUM] {
        buffers.push(Buffer { buffer_type, data: signature.clone() });
    }
    let at = buffers.len() - 2;
    let mut pac = Pac { buffers };
    let signed = ServerSignature::from_pac(&pac.to_bytes()).expect("two signatures").signed;
    pac.buffers[at].data =
        [&etype.checksum_type().to_le_bytes()[..], &key.checksum(usage::PAC, &[&signed])].concat();
    pac.to_bytes()
}

pub(crate) fn client_info(name: &str, authtime: FileTime) -> Buffer {
    let data = ClientInfo { client_id: authtime, name: name.to_owned() }.to_bytes();
    Buffer { buffer_type: BufferType::CLIENT_INFO, data }
}

pub(crate) fn logon_info_buffer(info: &LogonInfo) -> Buffer {
    let mut data = Vec::new();
    info.encode(&mut data);
    Buffer { buffer_type: BufferType::LOGON_INFO, data }
}

/// Authorization data around PACs.
pub(crate) fn wrapped(pacs: &[&[u8]]) -> Vec<(i32, Vec<u8>)> {
    let elements: Vec<_> = pacs.iter().map(|pac| (AD_WIN2K_PAC, pac.to_vec())).collect();
    let mut contents = Vec::new();
    write_authorization_data(&mut contents, &elements);
    vec![(AD_IF_RELEVANT, contents)]
}

/// A ticket and an authenticator as a KDC and a client make them, each part of which a test can change.
pub(crate) struct Attempt {
    pub(crate) service: super::Principal,
    pub(crate) service_key: Key,
    pub(crate) etype: i32,
    pub(crate) kvno: Option<u32>,
    pub(crate) options: u32,
    pub(crate) ticket: EncTicketPart,
    pub(crate) session_key: Key,
    pub(crate) authenticator: Authenticator,
    pub(crate) authenticator_etype: i32,
    pub(crate) confounder: [u8; 16],
}

impl Attempt {
    /// alice@RPC.TEST asks `sso/srv`, whose key has the version 2.
    pub(crate) fn new(etype: Etype) -> Self {
        let (service_key, session_key) = (key(etype, 0x11), key(etype, 0x33));
        let authtime = NOW - HOUR;
        let pac =
            signed_pac(&service_key, vec![logon_info_buffer(&logon_info()), client_info("alice", authtime)]);
        Self {
            service: service("sso/srv"),
            etype: etype.number(),
            kvno: Some(2),
            options: super::messages::AP_MUTUAL_REQUIRED,
            ticket: EncTicketPart {
                flags: 0x40a1_0000 | super::messages::TICKET_TRANSITED_POLICY_CHECKED,
                key: (&session_key).into(),
                client: service("alice"),
                transited: (1, Vec::new()),
                authtime,
                starttime: Some(authtime),
                endtime: NOW + HOUR,
                renew_till: None,
                addresses: None,
                authorization_data: Some(wrapped(&[&pac])),
            },
            authenticator: Authenticator {
                client: service("alice"),
                checksum: Some((gss::CHECKSUM_TYPE, gss::checksum(gss::ASKED))),
                cusec: 0,
                ctime: NOW,
                subkey: None,
                seq_number: Some(1000),
                authorization_data: None,
            },
            authenticator_etype: etype.number(),
            service_key,
            session_key,
            confounder: [0x77; 16],
        }
    }

    /// Replaces the PAC.
    pub(crate) fn with_pac(mut self, pac: &[u8]) -> Self {
        self.ticket.authorization_data = Some(wrapped(&[pac]));
        self
    }

    pub(crate) fn token(&self) -> Vec<u8> {
        let (mut ticket, mut authenticator) = (Vec::new(), Vec::new());
        self.ticket.encode(&mut ticket);
        self.authenticator.encode(&mut authenticator);
        let cipher = self.service_key.encrypt(usage::TICKET, [0x66; 16], &ticket);
        let enc_part = EncryptedData { etype: self.etype, kvno: self.kvno, cipher };
        let cipher = self.session_key.encrypt(usage::AP_REQ_AUTHENTICATOR, self.confounder, &authenticator);
        let authenticator = EncryptedData { etype: self.authenticator_etype, kvno: None, cipher };
        let ticket = Ticket { service: self.service.clone(), enc_part };
        let mut token = Vec::new();
        ApReq { options: self.options, ticket, authenticator }.encode(&mut token);
        token
    }
}

/// A server of `sso/srv` whose keytab has one key.
pub(crate) fn config(etype: Etype) -> KerberosConfig {
    let mut keytab = Keytab::default();
    keytab.push(service("sso/srv"), FileTime::UNSET, 2, &key(etype, 0x11));
    KerberosConfig {
        keytab: Arc::new(SharedKeytab::new(keytab)),
        services: vec!["sso/srv".to_owned()],
        client_realms: vec![ClientRealm { name: "RPC.TEST".to_owned(), kind: RealmKind::ActiveDirectory }],
        skew: SKEW_DEFAULT,
        replay: Arc::new(ReplayCache::default()),
    }
}

/// What an acceptor makes of a token; it waits for nothing.
pub(crate) fn accept(acceptor: Box<dyn Acceptor>, token: &[u8], level: AuthLevel) -> Result<Step, Refusal> {
    let mut entropy = counting();
    let leg = Leg { token, level, now: NOW, entropy: &mut entropy };
    now_or_never(acceptor.accept(leg))
}

/// The first leg alone.
pub(crate) fn first_leg(config: &Arc<KerberosConfig>, token: &[u8]) -> Result<Step, Refusal> {
    accept(Box::new(KerberosAcceptor::new(Arc::clone(config))), token, AuthLevel::PRIVACY)
}
