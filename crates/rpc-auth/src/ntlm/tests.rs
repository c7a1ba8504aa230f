use super::av_pairs::AV_FLAG_MIC;
use super::context::NtlmContext;
use super::crypto::{Sender, SessionKey as Key};
use super::*;
use crate::test::{bytes, now_or_never};
use crate::{
    Acceptor, BoxFuture, IdentitySource, Initiator, InitiatorStep, Leg, MechanismContext, Refusal,
    RefusalReason, Step, UserIdentity,
};
use dcerpc::pdu::{AuthType, SecTrailer};
use dcerpc::security::{
    AuthLevel, Outgoing, OutgoingFragment, ProtectedFragment, Protection, SecurityContext, SecurityError,
};
use dtyp::{FileTime, Sid};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

const SERVER_CHALLENGE: [u8; 8] = [0x01, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef];
const SOURCE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

pub(crate) const NEGOTIATE: &str =
    "4e544c4d5353500001000000358288e2000000000000000000000000000000000a00f4650000000f";
pub(crate) const CHALLENGE: &str = "
4e544c4d53535000020000000e000e0038000000358289e20123456789abcdef00000000000000006800680046000000
0a00f4650000000f43004f004e0054004f0053004f0002000e0043004f004e0054004f0053004f000100060044004300
31000400160063006f006e0074006f0073006f002e0063006f006d0003001e006400630031002e0063006f006e007400
6f0073006f002e0063006f006d000700080000c083ed8a49da0100000000";
pub(crate) const AUTHENTICATE: &str = "
4e544c4d53535000030000001800180076000000e000e0008e0000000e000e00580000000a000a006600000006000600
70000000100010006e010000358288e20a00f4650000000f15c2136dc18fa403148d4164d5c075bc43004f004e005400
4f0053004f0061006c006900630065005700530031000000000000000000000000000000000000000000000000000b4f
65ea50d5bc7b70d9b248d6acdbab010100000000000000c083ed8a49da01aaaaaaaaaaaaaaaa0000000002000e004300
4f004e0054004f0053004f00010006004400430031000400160063006f006e0074006f0073006f002e0063006f006d00
03001e006400630031002e0063006f006e0074006f0073006f002e0063006f006d000700080000c083ed8a49da010600
0400020000000a001000000000000000000000000000000000000900280068006f00730074002f006400630031002e00
63006f006e0074006f0073006f002e0063006f006d000000000000000000ef1f2b85fca6100c5782f38d81d4600b";

pub(crate) fn now() -> FileTime {
    FileTime(u64::from_le_bytes([0x00, 0xc0, 0x83, 0xed, 0x8a, 0x49, 0xda, 0x01]))
}

fn names() -> ServerNames {
    ServerNames {
        netbios_computer: "DC1".into(),
        netbios_domain: "CONTOSO".into(),
        dns_computer: Some("dc1.contoso.com".into()),
        dns_domain: Some("contoso.com".into()),
        dns_tree: None,
    }
}

fn alice() -> UserIdentity {
    UserIdentity {
        name: "alice".into(),
        domain: String::new(),
        sid: Sid::new(5, &[21, 1, 2, 3, 1104]),
        groups: vec![],
        source: IdentitySource::LocalStore,
        password: None,
        delegated_by: vec![],
        expires: None,
    }
}

/// Accounts of the tests: each name says what is special about it.
struct Accounts;

impl NtHashes for Accounts {
    fn look_up<'a>(&'a self, user: &'a str) -> BoxFuture<'a, Result<Option<LocalAccount>, String>> {
        let account = |password: Option<&str>, is_usable| {
            let nt_hash = password.map(NtHash::from_password);
            Ok(Some(LocalAccount { nt_hash, is_usable, identity: alice() }))
        };
        Box::pin(std::future::ready(match user {
            "alice" => account(Some("Password"), true),
            "disabled" => account(Some("Password"), false),
            "hashless" => account(None, true),
            "empty" => account(Some(""), true),
            "broken" => Err("the store failed".into()),
            _ => Ok(None),
        }))
    }
}

pub(crate) fn config() -> NtlmConfig {
    NtlmConfig {
        names: names(),
        require_mic: false,
        allowed_spns: vec![],
        checker: Arc::new(LocalChecker::new(Arc::new(Accounts), [7; 16])),
    }
}

fn leg<'a>(
    token: &'a [u8],
    now: FileTime,
    level: AuthLevel,
    entropy: &'a mut (dyn FnMut(&mut [u8]) + Send),
) -> Leg<'a> {
    Leg { token, level, now, entropy }
}

pub(crate) fn draw_challenge(out: &mut [u8]) {
    out.copy_from_slice(&SERVER_CHALLENGE);
}

fn accept(
    acceptor: Box<dyn Acceptor>,
    token: &[u8],
    now: FileTime,
    level: AuthLevel,
) -> Result<Step, Refusal> {
    now_or_never(acceptor.accept(leg(token, now, level, &mut draw_challenge)))
}

/// The CHALLENGE, and the acceptor of the answer.
fn challenge_of(config: NtlmConfig, negotiate: &[u8], level: AuthLevel) -> (Vec<u8>, Box<dyn Acceptor>) {
    let acceptor = Box::new(NtlmAcceptor::new(Arc::new(config), SOURCE));
    match accept(acceptor, negotiate, now(), level) {
        Ok(Step::Continue { token, next }) => (token, next),
        Ok(Step::Complete { .. }) => panic!("complete after one leg"),
        Err(refusal) => panic!("{refusal:?}"),
    }
}

fn authenticate_with(config: NtlmConfig, message: &[u8]) -> Result<Box<dyn MechanismContext>, Refusal> {
    let (_, next) = challenge_of(config, &bytes(NEGOTIATE), AuthLevel::PRIVACY);
    match accept(next, message, now(), AuthLevel::PRIVACY)? {
        Step::Complete { token, context } => {
            assert!(token.is_empty(), "NTLM has three tokens");
            Ok(context)
        }
        Step::Continue { .. } => panic!("four legs"),
    }
}

/// The refusal of the vector's AUTHENTICATE after a change to the message and to what the proof covers. With
/// `proves_again` the client knows the password and computes proof and MIC over the changed message.
fn refusal(
    config: NtlmConfig,
    proves_again: bool,
    change: impl FnOnce(&mut Authenticate, &mut ClientChallenge),
) -> Option<RefusalReason> {
    let mut message = Authenticate::read(&bytes(AUTHENTICATE)).expect("the vector is read");
    let mut blob = ClientChallenge::read(&message.nt_response[16..]).expect("the vector's blob is read");
    let original = (message.clone(), blob.clone());
    change(&mut message, &mut blob);
    if proves_again {
        prove(&mut message, &blob, "Password");
    } else if blob != original.1 {
        message.nt_response.truncate(16);
        message.nt_response.extend(blob.to_bytes());
    }
    authenticate_with(config, &message.to_bytes()).err().map(|refusal| refusal.reason)
}

fn prove(message: &mut Authenticate, blob: &ClientChallenge, password: &str) {
    let key = super::crypto::ntowf_v2(&NtHash::from_password(password), &message.user, &message.domain);
    let blob = blob.to_bytes();
    let proof = super::crypto::proof(&key, &SERVER_CHALLENGE, &blob);
    message.nt_response = [&proof[..], &blob].concat();
    let base = super::crypto::session_base_key(&key, &proof);
    message.encrypted_session_key = super::crypto::exchange_key(&base, [0x55; 16]).expose().to_vec();
    let key = Key::new([0x55; 16]);
    message.mic = Some(super::acceptor::mic(&key, &bytes(NEGOTIATE), &bytes(CHALLENGE), &message.to_bytes()));
}

#[test]
fn accepts_the_vector_exchange_and_makes_its_octets() {
    let (challenge, next) = challenge_of(config(), &bytes(NEGOTIATE), AuthLevel::PRIVACY);
    assert_eq!(dtyp::hex(&challenge), CHALLENGE.replace('\n', ""));
    let Ok(Step::Complete { context, .. }) = accept(next, &bytes(AUTHENTICATE), now(), AuthLevel::PRIVACY)
    else {
        panic!("the vector is accepted")
    };
    assert_eq!(context.user().as_deref(), Some(&alice()));
    assert_eq!(context.account(), Some(alice().account()));
}

#[test]
fn initiator_makes_the_octets_of_the_vector() {
    let credentials = NtlmCredentials {
        user: "alice".into(),
        domain: "CONTOSO".into(),
        workstation: "WS1".into(),
        hash: NtHash::from_password("Password"),
        spn: "host/dc1.contoso.com".into(),
    };
    let mut entropy = |out: &mut [u8]| out.fill(if out.len() == 8 { 0xaa } else { 0x55 });
    let first = Box::new(NtlmInitiator::new(credentials, AuthLevel::PRIVACY));
    let Ok(InitiatorStep::Continue { token, next }) = first.step(None, now(), &mut entropy) else { panic!() };
    assert_eq!(dtyp::hex(&token), NEGOTIATE);
    let Ok(InitiatorStep::Complete { token, .. }) = next.step(Some(&bytes(CHALLENGE)), now(), &mut entropy)
    else {
        panic!()
    };
    assert_eq!(dtyp::hex(&token), AUTHENTICATE.replace('\n', ""));
}

#[test]
fn messages_round_trip() {
    let challenge = bytes(CHALLENGE);
    assert_eq!(Challenge::read(&challenge).expect("vector").to_bytes(), challenge);
    let authenticate = bytes(AUTHENTICATE);
    assert_eq!(Authenticate::read(&authenticate).expect("vector").to_bytes(), authenticate);
    // [MS-NLMP] 4.2.4.3: the payload starts at 72 there in messages without a MIC; this one has its own
    // version.
    let challenge = bytes(
        "4e544c4d5353500002000000 0c000c0038000000 33828ae2 0123456789abcdef 0000000000000000 2400240044000000
         060070170000000f 530065007200760065007200 02000c0044006f006d00610069006e00
         01000c00530065007200760065007200 00000000",
    );
    let read = Challenge::read(&challenge).expect("the document's CHALLENGE");
    assert_eq!((&read.target_name[..], read.server_challenge), ("Server", SERVER_CHALLENGE));
    assert_eq!(read.target_info.get(AvId::NB_DOMAIN_NAME), Some(&dtyp::utf16le("Domain")[..]));
}

#[test]
fn every_truncation_of_a_message_is_refused() {
    let negotiate = bytes(NEGOTIATE);
    for len in 0..16 {
        assert!(Negotiate::read(&negotiate[..len]).is_err(), "{len}");
    }
    assert!(Negotiate::read(&negotiate[..16]).is_ok(), "Samba's shortest");
    let challenge = bytes(CHALLENGE);
    for len in 0..challenge.len() {
        assert!(Challenge::read(&challenge[..len]).is_err(), "{len}");
    }
    let authenticate = bytes(AUTHENTICATE);
    for len in 0..authenticate.len() {
        assert!(Authenticate::read(&authenticate[..len]).is_err(), "{len}");
        assert!(authenticate_with(config(), &authenticate[..len]).is_err(), "{len}");
    }
}

#[test]
fn each_single_bit_change_of_the_authenticate_is_refused() {
    let message = bytes(AUTHENTICATE);
    assert!(authenticate_with(config(), &message).is_ok());
    for bit in 0..message.len() * 8 {
        let mut changed = message.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        // The MIC covers all of the message, MaximumLengths and version included.
        assert!(authenticate_with(config(), &changed).is_err(), "bit {bit}");
    }
}

#[test]
fn a_challenge_is_answered_within_two_minutes() {
    for (seconds, fits) in [(120, true), (121, false)] {
        let (_, next) = challenge_of(config(), &bytes(NEGOTIATE), AuthLevel::PRIVACY);
        let later = now() + Duration::from_secs(seconds);
        let outcome = accept(next, &bytes(AUTHENTICATE), later, AuthLevel::PRIVACY);
        assert_eq!(outcome.is_ok(), fits, "{seconds}");
    }
}

#[test]
fn messages_out_of_turn_are_refused() {
    let fresh = || Box::new(NtlmAcceptor::new(Arc::new(config()), SOURCE));
    for token in [CHALLENGE, AUTHENTICATE, ""] {
        let refusal = accept(fresh(), &bytes(token), now(), AuthLevel::PRIVACY).err().expect("refused");
        assert_eq!(refusal.reason, RefusalReason::Token);
    }
    for token in [NEGOTIATE, CHALLENGE, ""] {
        let refusal = authenticate_with(config(), &bytes(token)).err().expect("refused");
        assert_eq!(refusal.reason, RefusalReason::Token);
    }
    let mut long = bytes(NEGOTIATE);
    long.resize(8 * 1024 + 1, 0);
    assert!(Negotiate::read(&long).is_err());
}

const REQUIRED: [(&str, NtlmFlags); 6] = [
    ("UNICODE", NtlmFlags::UNICODE),
    ("SIGN", NtlmFlags::SIGN),
    ("SEAL", NtlmFlags::SEAL),
    ("ESS", NtlmFlags::EXTENDED_SESSION_SECURITY),
    ("128", NtlmFlags::KEY_128),
    ("KEY_EXCH", NtlmFlags::KEY_EXCH),
];

#[test]
fn a_required_flag_that_is_cleared_in_either_message_is_refused() {
    for (name, flag) in REQUIRED {
        let mut negotiate = Negotiate::read(&bytes(NEGOTIATE)).expect("vector");
        negotiate.flags.0 &= !flag.0;
        let acceptor = Box::new(NtlmAcceptor::new(Arc::new(config()), SOURCE));
        // SIGN and SEAL are missed at the last leg, whatever it has.
        let refused = match accept(acceptor, &negotiate.to_bytes(), now(), AuthLevel::PRIVACY) {
            Ok(Step::Continue { token, next }) => {
                let challenge = Challenge::read(&token).expect("ours");
                assert!(!challenge.flags.contains(flag), "{name}");
                accept(next, &bytes(AUTHENTICATE), now(), AuthLevel::PRIVACY).err()
            }
            Ok(Step::Complete { .. }) => panic!("complete after one leg"),
            Err(refusal) => Some(refusal),
        };
        assert_eq!(refused.map(|refusal| refusal.reason), Some(RefusalReason::Flags), "{name}");
        // By a client that knows the password, too.
        let cleared = refusal_of_flags(flag);
        assert_eq!(cleared, Some(RefusalReason::Flags), "{name}");
    }
}

fn refusal_of_flags(cleared: NtlmFlags) -> Option<RefusalReason> {
    refusal(config(), true, |message, _| message.flags.0 &= !cleared.0)
}

#[test]
fn a_flag_that_only_the_client_sets_is_dropped() {
    // OEM, LM_KEY and REQUEST_NON_NT_SESSION_KEY, as Windows sets the first two.
    let refused = refusal(config(), true, |message, _| message.flags.0 |= 0x0040_0082);
    assert_eq!(refused, None);
    let mut negotiate = Negotiate::read(&bytes(NEGOTIATE)).expect("vector");
    negotiate.flags = NtlmFlags(0xe208_82b7);
    let (challenge, _) = challenge_of(config(), &negotiate.to_bytes(), AuthLevel::PRIVACY);
    let flags = Challenge::read(&challenge).expect("ours").flags;
    assert_eq!(flags, NtlmFlags(0xe289_8235), "the digest's CHALLENGE flags, whatever Windows asks for");
}

#[test]
fn integrity_asks_for_no_seal_and_connect_for_no_signature() {
    for (level, cleared, fits) in [
        (AuthLevel::PRIVACY, NtlmFlags::SEAL, false),
        (AuthLevel::INTEGRITY, NtlmFlags::SEAL, true),
        (AuthLevel::INTEGRITY, NtlmFlags::SIGN, false),
        (AuthLevel::PACKET, NtlmFlags::SIGN, false),
        (AuthLevel::CONNECT, NtlmFlags::SIGN, true),
        (AuthLevel::CONNECT, NtlmFlags::KEY_128, false),
    ] {
        let mut message = Authenticate::read(&bytes(AUTHENTICATE)).expect("vector");
        let blob = ClientChallenge::read(&message.nt_response[16..]).expect("vector");
        message.flags.0 &= !cleared.0;
        prove(&mut message, &blob, "Password");
        let (_, next) = challenge_of(config(), &bytes(NEGOTIATE), level);
        let outcome = accept(next, &message.to_bytes(), now(), level);
        assert_eq!(outcome.is_ok(), fits, "{level:?} {cleared:?}");
    }
}

#[test]
fn anonymous_clients_are_refused() {
    let anonymous = Some(RefusalReason::Anonymous);
    assert_eq!(refusal(config(), true, |message, _| message.user.clear()), anonymous);
    assert_eq!(refusal(config(), false, |message, _| message.nt_response.clear()), anonymous);
    let flag = |message: &mut Authenticate, _: &mut _| message.flags.0 |= NtlmFlags::ANONYMOUS.0;
    assert_eq!(refusal(config(), true, flag), anonymous);
    // [MS-NLMP] 3.2.5.1.2: an empty user, no NT response, and one zero octet of an LM response.
    let nothing = |message: &mut Authenticate, _: &mut _| {
        message.user.clear();
        message.nt_response.clear();
        message.lm_response = vec![0];
    };
    assert_eq!(refusal(config(), false, nothing), anonymous);
}

#[test]
fn version_1_and_lm_are_refused() {
    for len in [1, 16, 24] {
        let short = |message: &mut Authenticate, _: &mut _| message.nt_response.truncate(len);
        assert_eq!(refusal(config(), false, short), Some(RefusalReason::Token), "{len}");
    }
}

#[test]
fn a_malformed_blob_is_refused() {
    let token = Some(RefusalReason::Token);
    let original = Authenticate::read(&bytes(AUTHENTICATE)).expect("vector").nt_response;
    for (what, at, value) in [("RespType", 16, 2), ("HiRespType", 17, 0), ("AvLen", 16 + 28 + 2, 0xff)] {
        let mut changed = original.clone();
        changed[at] = value;
        let set = |message: &mut Authenticate, _: &mut _| message.nt_response = changed;
        assert_eq!(refusal(config(), false, set), token, "{what}");
    }
    let cut = |message: &mut Authenticate, _: &mut _| message.nt_response.truncate(16 + 31);
    assert_eq!(refusal(config(), false, cut), token);
}

#[test]
fn an_av_pair_that_comes_twice_is_refused() {
    for id in [AvId::TIMESTAMP, AvId::FLAGS, AvId::NB_COMPUTER_NAME] {
        let mut list = Vec::new();
        let blob = Authenticate::read(&bytes(AUTHENTICATE)).expect("vector").nt_response;
        let blob = ClientChallenge::read(&blob[16..]).expect("vector");
        blob.target_info.encode(&mut list);
        let value = blob.target_info.get(id).expect("there");
        let mut twice = Vec::new();
        twice.extend_from_slice(&id.0.to_le_bytes());
        twice.extend_from_slice(&(value.len() as u16).to_le_bytes());
        twice.extend_from_slice(value);
        twice.extend_from_slice(&list);
        assert!(AvPairs::read(&mut dtyp::Reader::new(&list)).is_ok());
        assert!(AvPairs::read(&mut dtyp::Reader::new(&twice)).is_err(), "{id:?}");
        let set = |message: &mut Authenticate, _: &mut _| {
            message.nt_response.truncate(16 + 28);
            message.nt_response.extend_from_slice(&twice);
        };
        assert_eq!(refusal(config(), false, set), Some(RefusalReason::Token), "{id:?}");
    }
}

#[test]
fn each_pair_that_was_sent_must_be_repeated() {
    for id in [1, 2, 3, 4, 7].map(AvId) {
        let changed = refusal(config(), true, |_, blob| {
            let mut value = blob.target_info.get(id).expect("there").to_vec();
            value[0] ^= 1;
            blob.target_info.set(id, value);
        });
        assert_eq!(changed, Some(RefusalReason::TargetInfo), "{id:?} changed");
        let left_out = refusal(config(), true, |_, blob| {
            let mut others = AvPairs::default();
            let pairs = blob.target_info.iter().filter(|(other, _)| *other != id);
            pairs.for_each(|(id, value)| others.set(id, value.to_vec()));
            blob.target_info = others;
        });
        assert_eq!(left_out, Some(RefusalReason::TargetInfo), "{id:?} left out");
    }
}

#[test]
fn the_session_key_has_sixteen_octets() {
    for len in [0, 8, 15, 17] {
        let set = |message: &mut Authenticate, _: &mut _| message.encrypted_session_key.resize(len, 0);
        assert_eq!(refusal(config(), false, set), Some(RefusalReason::Token), "{len}");
    }
}

#[test]
fn a_wrong_password_is_refused_with_a_right_and_without_any_mic() {
    // Everything is right except for the password: the MIC is made from the wrong one, too.
    let mut message = Authenticate::read(&bytes(AUTHENTICATE)).expect("vector");
    let mut blob = ClientChallenge::read(&message.nt_response[16..]).expect("vector");
    prove(&mut message, &blob, "Wrong password");
    let reason = |message: &Authenticate| {
        authenticate_with(config(), &message.to_bytes()).err().map(|refusal| refusal.reason)
    };
    assert_eq!(reason(&message), Some(RefusalReason::Proof));
    // The hole of an acceptor that decides by the MIC alone: the flags promise none.
    blob.target_info.set(AvId::FLAGS, vec![0; 4]);
    prove(&mut message, &blob, "Wrong password");
    message.mic = None;
    assert_eq!(reason(&message), Some(RefusalReason::Proof));
}

#[test]
fn a_mic_is_demanded_exactly_where_the_flags_promise_it() {
    let zeroed = refusal(config(), false, |message, _| message.mic = Some([0; 16]));
    assert_eq!(zeroed, Some(RefusalReason::Mic));
    // Impacket's form: no flags, no version, no MIC; the payload starts at 64.
    let mut message = Authenticate::read(&bytes(AUTHENTICATE)).expect("vector");
    let mut blob = ClientChallenge::read(&message.nt_response[16..]).expect("vector");
    blob.target_info.set(AvId::FLAGS, vec![0; 4]);
    prove(&mut message, &blob, "Password");
    assert!(authenticate_with(config(), &at_64(&message.to_bytes())).is_ok());
    let strict = authenticate_with(NtlmConfig { require_mic: true, ..config() }, &at_64(&message.to_bytes()));
    assert_eq!(strict.err().map(|refusal| refusal.reason), Some(RefusalReason::Mic));
    // The promise without room for it: the payload lies where the MIC belongs.
    blob.target_info.set(AvId::FLAGS, AV_FLAG_MIC.to_le_bytes().to_vec());
    prove(&mut message, &blob, "Password");
    let squeezed = authenticate_with(config(), &at_64(&message.to_bytes()));
    assert_eq!(squeezed.err().map(|refusal| refusal.reason), Some(RefusalReason::Mic));
}

/// The message with its payload at 64.
fn at_64(message: &[u8]) -> Vec<u8> {
    let mut moved = message.to_vec();
    for field in (12..60).step_by(8) {
        let offset = u32::from_le_bytes(message[field + 4..field + 8].try_into().expect("four"));
        moved[field + 4..field + 8].copy_from_slice(&(offset - 24).to_le_bytes());
    }
    moved.drain(64..88);
    moved
}

#[test]
fn a_reference_outside_of_the_payload_or_of_odd_length_is_refused() {
    let message = bytes(AUTHENTICATE);
    let set = |field: usize, len: u16, offset: u32| {
        let mut changed = message.clone();
        changed[field..field + 2].copy_from_slice(&len.to_le_bytes());
        changed[field + 4..field + 8].copy_from_slice(&offset.to_le_bytes());
        Authenticate::read(&changed)
    };
    for field in (12..60).step_by(8) {
        assert!(set(field, 4, 400).is_err(), "behind the end");
        assert!(set(field, 4, u32::MAX).is_err(), "wraps around");
        assert!(set(field, 4, 0).is_err() && set(field, 4, 62).is_err(), "in the head");
        assert!(set(field, 0, u32::MAX).is_ok(), "the offset of nothing means nothing");
    }
    for text in [28, 36, 44] {
        assert!(set(text, 3, 88).is_err(), "odd");
    }
}

#[test]
fn an_spn_is_checked_where_some_are_configured() {
    let config_for = |spn: &str| NtlmConfig { allowed_spns: vec![spn.into()], ..config() };
    assert_eq!(refusal(config_for("HOST/dc1.contoso.com"), false, |_, _| {}), None);
    let spn = Some(RefusalReason::Spn);
    assert_eq!(refusal(config_for("cifs/dc1.contoso.com"), false, |_, _| {}), spn);
    let config = || config_for("host/dc1.contoso.com");
    let empty = refusal(config(), true, |_, blob| blob.target_info.set(AvId::TARGET_NAME, vec![]));
    assert_eq!(empty, spn);
    let untrusted = refusal(config(), true, |_, blob| blob.target_info.set(AvId::FLAGS, vec![6, 0, 0, 0]));
    assert_eq!(untrusted, spn);
}

#[test]
fn channel_bindings_must_fit_where_they_are_demanded() {
    // The digest's vector of `tls-server-end-point:` and SHA-256 of "cert".
    let bindings: [u8; 16] = bytes("2644a232526d6474bd9abc01379038dd").try_into().expect("sixteen");
    let accepts = |sent: Vec<u8>| {
        let mut message = Authenticate::read(&bytes(AUTHENTICATE)).expect("vector");
        let mut blob = ClientChallenge::read(&message.nt_response[16..]).expect("vector");
        blob.target_info.set(AvId::CHANNEL_BINDINGS, sent);
        prove(&mut message, &blob, "Password");
        let acceptor = NtlmAcceptor::new(Arc::new(config()), SOURCE).with_channel_bindings(bindings);
        let first = accept(Box::new(acceptor), &bytes(NEGOTIATE), now(), AuthLevel::PRIVACY);
        let Ok(Step::Continue { next, .. }) = first else { panic!("the first leg is accepted") };
        accept(next, &message.to_bytes(), now(), AuthLevel::PRIVACY).err().map(|refusal| refusal.reason)
    };
    assert_eq!(accepts(bindings.to_vec()), None);
    assert_eq!(accepts(vec![0; 16]), Some(RefusalReason::ChannelBindings));
}

#[test]
fn accounts_that_cannot_use_ntlm_get_the_answer_of_a_wrong_password() {
    for (user, password) in [
        ("unknown", "Password"),
        ("disabled", "Password"),
        ("hashless", "Password"),
        ("empty", ""),
        ("alice", "wrong"),
    ] {
        let mut message = Authenticate::read(&bytes(AUTHENTICATE)).expect("vector");
        let blob = ClientChallenge::read(&message.nt_response[16..]).expect("vector");
        message.user = user.into();
        prove(&mut message, &blob, password);
        let refused = authenticate_with(config(), &message.to_bytes()).err().expect("refused");
        assert_eq!(refused.reason, RefusalReason::Proof, "{user}");
    }
    let broken = refusal(config(), true, |message, _| message.user = "broken".into());
    assert_eq!(broken, Some(RefusalReason::Unavailable));
}

#[test]
fn the_dummy_key_is_no_password() {
    // A client that knew the dummy key would prove it for an account that has none.
    let dummy = NtHash::from_password("dummy");
    let checker = LocalChecker::new(Arc::new(Accounts), *dummy.expose());
    for user in ["unknown", "hashless", "disabled", "empty"] {
        let mut message = Authenticate::read(&bytes(AUTHENTICATE)).expect("vector");
        let blob = ClientChallenge::read(&message.nt_response[16..]).expect("vector");
        message.user = user.into();
        prove(&mut message, &blob, "dummy");
        let proof = proof_of(&message);
        assert!(matches!(now_or_never(checker.check(&proof)), ProofVerdict::Rejected { .. }), "{user}");
    }
}

fn proof_of(message: &Authenticate) -> NtlmProof {
    NtlmProof {
        user: message.user.clone(),
        domain: message.domain.clone(),
        workstation: message.workstation.clone(),
        server_challenge: SERVER_CHALLENGE,
        nt_response: message.nt_response.clone(),
        lm_response: message.lm_response.clone(),
        source: SOURCE,
    }
}

#[test]
fn a_proof_without_the_domain_counts_too_and_has_its_own_key() {
    let mut message = Authenticate::read(&bytes(AUTHENTICATE)).expect("vector");
    let blob = ClientChallenge::read(&message.nt_response[16..]).expect("vector");
    // Made with an empty domain, sent with another one.
    message.domain.clear();
    prove(&mut message, &blob, "Password");
    message.domain = "WORKGROUP".into();
    message.mic = Some(super::acceptor::mic(
        &Key::new([0x55; 16]),
        &bytes(NEGOTIATE),
        &bytes(CHALLENGE),
        &message.to_bytes(),
    ));
    assert!(authenticate_with(config(), &message.to_bytes()).is_ok());
}

#[test]
fn the_names_in_the_message_choose_the_store() {
    let own = ["SSO1", "sso1.farm.example"].map(String::from);
    let domains = [
        DomainNames { netbios: "CORP".into(), dns: vec!["corp.example".into(), "corp.test".into()] },
        DomainNames { netbios: "ÄRZTE".into(), dns: vec![] },
    ];
    use StoreChoice::{Domain, Local, Unknown};
    for (user, domain, choice) in [
        ("alice", "", Local),
        ("alice", ".", Local),
        ("alice", "SSO1", Local),
        ("alice", "Sso1.Farm.Example", Local),
        ("alice", "CORP", Domain(0)),
        ("alice", "corp", Domain(0)),
        ("alice", "corp.example", Domain(0)),
        ("alice", "Corp.Test", Domain(0)),
        ("alice", "ärzte", Domain(1)),
        ("alice", "CORP2", Unknown),
        ("alice", "..", Unknown),
        ("alice", "WORKGROUP", Unknown),
        // A UPN with an empty domain: its suffix is the domain.
        ("alice@corp.example", "", Domain(0)),
        ("alice@CORP", "", Domain(0)),
        ("alice@corp.test", "", Domain(0)),
        ("alice@sso1.farm.example", "", Local),
        ("alice@elsewhere.example", "", Unknown),
        ("alice@", "", Unknown),
        // With a domain, the domain decides.
        ("alice@corp.example", "SSO1", Local),
        ("alice@sso1", "CORP", Domain(0)),
        ("alice@corp.example", ".", Local),
    ] {
        assert_eq!(choose_store(user, domain, &own, &domains), choice, r"{domain}\{user}");
    }
}

#[test]
fn no_outcome_of_one_store_leads_to_another() {
    struct Fixed(fn() -> ProofVerdict);
    impl ProofChecker for Fixed {
        fn check<'a>(&'a self, _: &'a NtlmProof) -> BoxFuture<'a, ProofVerdict> {
            Box::pin(std::future::ready((self.0)()))
        }
    }
    let accepted = || ProofVerdict::Accepted {
        session_base_key: SessionBaseKey::new([1; 16]),
        identity: Box::new(alice()),
    };
    let names = || DomainNames { netbios: "CORP".into(), dns: vec![] };
    let down: Arc<dyn ProofChecker> = Arc::new(Fixed(|| ProofVerdict::Unavailable("no server".into())));
    let refuses: Arc<dyn ProofChecker> = Arc::new(Fixed(|| ProofVerdict::rejected("wrong")));
    let takes: Arc<dyn ProofChecker> = Arc::new(Fixed(accepted));
    let mut proof = proof_of(&Authenticate::read(&bytes(AUTHENTICATE)).expect("vector"));
    let mut verdict = |local: &Arc<dyn ProofChecker>, dc: &Arc<dyn ProofChecker>, domain: &str| {
        proof.domain = domain.into();
        let domains = vec![(names(), Arc::clone(dc))];
        let router = StoreRouter::new(vec!["SSO1".into()], Some(Arc::clone(local)), domains);
        match now_or_never(router.check(&proof)) {
            ProofVerdict::Accepted { .. } => "accepted",
            ProofVerdict::Rejected { .. } => "rejected",
            ProofVerdict::Unavailable(_) => "unavailable",
        }
    };
    assert_eq!(verdict(&takes, &down, "CORP"), "unavailable");
    assert_eq!(verdict(&takes, &refuses, "CORP"), "rejected");
    assert_eq!(verdict(&refuses, &takes, "SSO1"), "rejected");
    assert_eq!(verdict(&down, &takes, ""), "unavailable");
    assert_eq!(verdict(&takes, &takes, "ELSEWHERE"), "rejected");
}

#[test]
fn names_that_a_domain_controller_would_refuse_are_found_before_start() {
    assert_eq!(names().fit_channel("dc1$", "contoso"), Ok(()));
    for (account, domain) in [("WEB1$", "CONTOSO"), ("DC1$", "FABRIKAM")] {
        assert!(names().fit_channel(account, domain).is_err(), "{account} {domain}");
    }
    let other = ServerNames { dns_computer: Some("web1.contoso.com".into()), ..names() };
    assert!(other.fit_channel("DC1$", "CONTOSO").is_err());
}

/// Contexts of both sides under the key of [MS-NLMP] 4.2.4.
fn contexts() -> (NtlmContext, NtlmContext) {
    let key = Key::new([0x55; 16]);
    (
        NtlmContext::new(&key, Sender::Client, None, true),
        NtlmContext::new(&key, Sender::Server, Some(Arc::new(alice())), false),
    )
}

fn protection(level: AuthLevel) -> Protection {
    Protection { level, header_signing: true }
}

/// A PDU of one fragment: header, body, padding.
fn protect(
    context: &mut dyn SecurityContext,
    auth_type: AuthType,
    level: AuthLevel,
    (header, stub, pad): (&str, &str, u8),
) -> Vec<u8> {
    let stub = bytes(stub);
    let trailer = SecTrailer { auth_type, auth_level: level, auth_pad_length: pad, auth_context_id: 1 };
    let body = 0..stub.len();
    let fragments = vec![OutgoingFragment { header: bytes(header), body, pad, trailer }];
    now_or_never(context.protect(protection(level), Outgoing { stub, inner: None, fragments }))
}

fn unprotect(
    context: &mut dyn SecurityContext,
    level: AuthLevel,
    pdu: &[u8],
) -> Result<Vec<u8>, SecurityError> {
    let mut pdu = pdu.to_vec();
    let token_at = pdu.len() - 16;
    let (signed, token) = pdu.split_at_mut(token_at);
    let (signed, trailer) = signed.split_at_mut(token_at - 8);
    let (header, body) = signed.split_at_mut(24);
    context.unprotect(protection(level), ProtectedFragment { header, body, trailer, token })?;
    Ok(body.to_vec())
}

const REQUEST_HEADER: &str = "050000031000000040001000020000000400000000000000";
const RESPONSE_HEADER: &str = "05000203100000005000100002000000 1c00000000000000";
const REQUEST: &str = "05000003 10000000 4000 1000 02000000 04000000 0000 0000
    14e56d65de195fdcf76054c1e41b7706 0a060c00 01000000 01000000 5ad7d0ee308ea6c4 00000000";
const RESPONSE: &str = "05000203 10000000 5000 1000 02000000 1c000000 0000 0000
    56081db741ba1de928c525d4275e2a20f1d91e802d0e6a1715d26db8c2186936
    0a060400 01000000 01000000 107aff1ecaf32f43 00000000";
const SIGNED_REQUEST: &str = "05000003 10000000 4000 1000 02000000 04000000 0000 0000
    10000000 000000000000000000000000 0a050c00 01000000 01000000 a5532461d3ca07f6 00000000";
const RESPONSE_STUB: &str = "10000000 10000000 000102030405060708090a0b0c0d0e0f 00000000";

#[test]
fn protects_the_pdus_of_the_vectors() {
    let (mut client, mut server) = contexts();
    let request = (REQUEST_HEADER, "10000000", 12);
    let sealed = protect(&mut client, AuthType::NTLM, AuthLevel::PRIVACY, request);
    assert_eq!(sealed, bytes(REQUEST));
    let body = unprotect(&mut server, AuthLevel::PRIVACY, &sealed).expect("ours");
    assert_eq!(dtyp::hex(&body), "10000000000000000000000000000000");
    let response =
        protect(&mut server, AuthType::NTLM, AuthLevel::PRIVACY, (RESPONSE_HEADER, RESPONSE_STUB, 4));
    assert_eq!(response, bytes(RESPONSE));
    let body = unprotect(&mut client, AuthLevel::PRIVACY, &response).expect("ours");
    assert_eq!(body[..28], bytes(RESPONSE_STUB)[..]);
    let (mut client, mut server) = contexts();
    let signed = protect(&mut client, AuthType::NTLM, AuthLevel::INTEGRITY, request);
    assert_eq!(signed, bytes(SIGNED_REQUEST));
    assert!(unprotect(&mut server, AuthLevel::INTEGRITY, &signed).is_ok());
}

#[test]
fn each_single_bit_change_of_a_pdu_is_refused() {
    for (pdu, level, by_client) in [
        (REQUEST, AuthLevel::PRIVACY, true),
        (RESPONSE, AuthLevel::PRIVACY, false),
        (SIGNED_REQUEST, AuthLevel::INTEGRITY, true),
    ] {
        let pdu = bytes(pdu);
        for bit in 0..pdu.len() * 8 {
            let mut changed = pdu.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            let (mut client, mut server) = contexts();
            let receiver = if by_client { &mut server } else { &mut client };
            assert!(unprotect(receiver, level, &changed).is_err(), "bit {bit}");
        }
    }
}

/// Wraps without PDU: the document's GSS_WrapEx, and its continuation.
#[test]
fn wraps_the_text_of_the_document() {
    let text = dtyp::utf16le("Plaintext");
    let (mut client, mut server) = contexts();
    let wrap = |context: &mut NtlmContext, level| {
        let mut body = text.clone();
        context.wrap_for_test(level == AuthLevel::PRIVACY, &mut body)
    };
    let (data, token) = wrap(&mut client, AuthLevel::PRIVACY);
    assert_eq!(dtyp::hex(&data), "54e50165bf1936dc996020c1811b0f06fb5f");
    assert_eq!(dtyp::hex(&token), "010000007fb38ec5c55d497600000000");
    let (data, token) = wrap(&mut client, AuthLevel::INTEGRITY);
    assert_eq!(data, text);
    assert_eq!(dtyp::hex(&token), "0100000026af39b825831b3101000000");
    let (data, token) = wrap(&mut server, AuthLevel::PRIVACY);
    assert_eq!(dtyp::hex(&data), "160871b730ba74e946c453d7465b54278dd0");
    assert_eq!(dtyp::hex(&token), "01000000b298b847ce7c580700000000");
}

#[test]
fn a_message_out_of_sequence_is_refused() {
    let (mut client, mut server) = contexts();
    let request = (REQUEST_HEADER, "10000000", 12);
    let mut send = || protect(&mut client, AuthType::NTLM, AuthLevel::PRIVACY, request);
    let (first, second) = (send(), send());
    let outcome = unprotect(&mut server, AuthLevel::PRIVACY, &second);
    assert_eq!(outcome, Err(SecurityError::OutOfSequence));
    assert!(unprotect(&mut server, AuthLevel::PRIVACY, &first).is_ok());
    let replayed = unprotect(&mut server, AuthLevel::PRIVACY, &first);
    assert_eq!(replayed, Err(SecurityError::OutOfSequence));
    assert!(unprotect(&mut server, AuthLevel::PRIVACY, &second).is_ok());
    // A client's message sent back to it.
    let (mut client, _) = contexts();
    assert_eq!(unprotect(&mut client, AuthLevel::PRIVACY, &first), Err(SecurityError::MessageAltered));
}

#[test]
fn signs_the_list_of_the_vector_and_starts_the_stream_again() {
    let list = bytes("300c060a2b06010401823702020a");
    let (mut client, mut server) = contexts();
    let mic = client.sign_mech_list(&list);
    assert_eq!(dtyp::hex(&mic), "0100000022a3984fefbb9c3200000000");
    for bit in 0..128 {
        let mut changed = mic.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        assert!(contexts().1.verify_mech_list(&list, &changed).is_err(), "bit {bit}");
    }
    server.verify_mech_list(&list, &mic).expect("the client's");
    assert_eq!(dtyp::hex(&server.sign_mech_list(&list)), "010000007dd6da05648a73ae00000000");
    // The first request after it has number 1 under a stream that started again.
    let request = (REQUEST_HEADER, "10000000", 12);
    let sealed = protect(&mut client, AuthType::SPNEGO, AuthLevel::PRIVACY, request);
    let expected = bytes(
        "05000003100000004000100002000000040000000000000014e56d65de195fdcf76054c1e41b770609060c0001000000
         01000000c3265b00376dc9e301000000",
    );
    assert_eq!(sealed, expected);
    assert!(unprotect(&mut server, AuthLevel::PRIVACY, &sealed).is_ok());
    // Number 0 again, and the stream continued, are refused.
    let mut fresh = contexts().0;
    let zero = protect(&mut fresh, AuthType::SPNEGO, AuthLevel::PRIVACY, request);
    let after_mic = || {
        let mut server = contexts().1;
        server.verify_mech_list(&list, &mic).expect("the client's");
        server
    };
    assert_eq!(unprotect(&mut after_mic(), AuthLevel::PRIVACY, &zero), Err(SecurityError::OutOfSequence));
    // Eight octets of the stream were used for the MIC: what continues it has other octets.
    let mut continued = contexts().0;
    continued.continue_stream_for_test(8);
    continued.next_number_for_test();
    let continued = protect(&mut continued, AuthType::SPNEGO, AuthLevel::PRIVACY, request);
    assert_eq!(
        unprotect(&mut after_mic(), AuthLevel::PRIVACY, &continued),
        Err(SecurityError::MessageAltered)
    );
}

#[test]
fn initiator_refuses_a_challenge_that_weakens_or_names_no_server() {
    let credentials = || NtlmCredentials {
        user: "alice".into(),
        domain: "CONTOSO".into(),
        workstation: "WS1".into(),
        hash: NtHash::from_password("Password"),
        spn: "host/dc1.contoso.com".into(),
    };
    let answer = |challenge: &Challenge| {
        let mut entropy = |out: &mut [u8]| out.fill(0x55);
        let first = Box::new(NtlmInitiator::new(credentials(), AuthLevel::PRIVACY));
        let Ok(InitiatorStep::Continue { next, .. }) = first.step(None, now(), &mut entropy) else {
            panic!()
        };
        match next.step(Some(&challenge.to_bytes()), now(), &mut entropy) {
            Ok(InitiatorStep::Complete { token, .. }) => Ok(Authenticate::read(&token).expect("ours")),
            Ok(InitiatorStep::Continue { .. }) => panic!("a second CHALLENGE is awaited"),
            Err(refusal) => Err(refusal.reason),
        }
    };
    let good = Challenge::read(&bytes(CHALLENGE)).expect("vector");
    for (name, flag) in REQUIRED {
        let mut weak = good.clone();
        weak.flags.0 &= !flag.0;
        assert_eq!(answer(&weak), Err(RefusalReason::Flags), "{name}");
    }
    let without = |gone: AvId| {
        let mut challenge = good.clone();
        challenge.target_info = AvPairs::default();
        let pairs = good.target_info.iter().filter(|(id, _)| *id != gone);
        pairs.for_each(|(id, value)| challenge.target_info.set(id, value.to_vec()));
        challenge
    };
    for id in [AvId::NB_COMPUTER_NAME, AvId::NB_DOMAIN_NAME] {
        assert_eq!(answer(&without(id)), Err(RefusalReason::TargetInfo), "{id:?}");
    }
    // Without the server's time there is an LM version 2 response.
    let old = answer(&without(AvId::TIMESTAMP)).expect("an old server is answered");
    assert_eq!(old.lm_response.len(), 24);
    assert_ne!(old.lm_response, [0; 24]);
}

#[test]
fn proof_of_a_plain_password_is_that_of_a_client_of_the_named_server() {
    let of = |domain: &str, password: &str| {
        let mut octet = 0;
        let user = PlainUser {
            user: "alice",
            domain,
            hash: NtHash::from_password(password),
            source: std::net::Ipv4Addr::LOCALHOST.into(),
        };
        let mut draw = |out: &mut [u8]| {
            octet += 1;
            out.fill(octet);
        };
        NtlmProof::of_password(
            user,
            &ServerNames::of_member("DC1", "CONTOSO", "contoso.com"),
            now(),
            &mut draw,
        )
    };
    let proof = of("CONTOSO", "Password");
    assert_eq!((proof.server_challenge, &proof.workstation[..]), ([1; 8], "DC1"));
    // [MS-NLMP] 3.1.5.1.2: with a time in the list the LM response is zeroes.
    assert_eq!(proof.lm_response, [0; 24]);
    let said = ClientChallenge::read(&proof.nt_response[16..]).expect("a blob");
    assert_eq!((said.time, said.client_challenge), (now().0, [2; 8]));
    assert_eq!(
        said.target_info,
        names().target_info(now()),
        "the names of the server, and no promise of a MIC"
    );
    let checker = LocalChecker::new(Arc::new(Accounts), [7; 16]);
    let verdict = |proof: &NtlmProof| now_or_never(checker.check(proof));
    for domain in ["CONTOSO", ""] {
        assert!(matches!(verdict(&of(domain, "Password")), ProofVerdict::Accepted { .. }), "{domain}");
        assert!(matches!(verdict(&of(domain, "password")), ProofVerdict::Rejected { .. }), "{domain}");
    }
}
