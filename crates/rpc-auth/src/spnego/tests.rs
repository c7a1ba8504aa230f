use super::message::{NegState, NegTokenInit, NegTokenResp, Oid, mech_list};
use super::*;
use crate::ntlm::tests::{AUTHENTICATE, CHALLENGE, NEGOTIATE, config, draw_challenge, now};
use crate::ntlm::{NtHash, NtlmAcceptor, NtlmCredentials, NtlmInitiator};
use crate::test::{bytes, now_or_never};
use crate::{
    Acceptor, BoxFuture, Initiator, InitiatorStep, Leg, MechanismContext, Refusal, RefusalReason, Step,
};
use dcerpc::security::AuthLevel;
use std::net::Ipv4Addr;
use std::sync::Arc;

const CLIENT_MIC: &str = "0100000022a3984fefbb9c3200000000";
const SERVER_MIC: &str = "010000007dd6da05648a73ae00000000";
const NTLM_OID: &str = "060a2b06010401823702020a";
const COMPLETED: &str = "a1073005a0030a0100";
const REQUEST_MIC_FOR_NTLM: &str = "a1153013a0030a0103a10c060a2b06010401823702020a";

fn bind() -> Vec<u8> {
    bytes(&format!("604806062b0601050502a03e303ca00e300c{NTLM_OID}a22a0428{NEGOTIATE}"))
}

fn bind_ack() -> Vec<u8> {
    bytes(&format!("a181ca3081c7a0030a0101a10c{NTLM_OID}a281b10481ae{CHALLENGE}"))
}

fn alter_context() -> Vec<u8> {
    bytes(&format!("a182019e3082019aa28201820482017e{AUTHENTICATE}a3120410{CLIENT_MIC}"))
}

fn alter_context_resp() -> Vec<u8> {
    bytes(&format!("a11b3019a0030a0100a3120410{SERVER_MIC}"))
}

fn first_message(mechanisms: &[Oid], token: &[u8]) -> Vec<u8> {
    NegTokenInit::to_bytes(&mech_list(mechanisms), token)
}

fn ntlm() -> (SpnegoMechanism, Box<dyn Acceptor>) {
    let acceptor = NtlmAcceptor::new(Arc::new(config()), Ipv4Addr::LOCALHOST.into());
    (SpnegoMechanism::Ntlm, Box::new(acceptor))
}

fn acceptor() -> Box<dyn Acceptor> {
    Box::new(SpnegoAcceptor::new(vec![ntlm()]))
}

fn accept(acceptor: Box<dyn Acceptor>, token: &[u8]) -> Result<Step, Refusal> {
    let mut entropy = draw_challenge;
    let leg = Leg { token, level: AuthLevel::PRIVACY, now: now(), entropy: &mut entropy };
    now_or_never(acceptor.accept(leg))
}

fn goes_on(acceptor: Box<dyn Acceptor>, token: &[u8]) -> (Vec<u8>, Box<dyn Acceptor>) {
    match accept(acceptor, token) {
        Ok(Step::Continue { token, next }) => (token, next),
        Ok(Step::Complete { .. }) => panic!("complete too early"),
        Err(refusal) => panic!("{refusal:?}"),
    }
}

fn completes(acceptor: Box<dyn Acceptor>, token: &[u8]) -> (Vec<u8>, Box<dyn MechanismContext>) {
    match accept(acceptor, token) {
        Ok(Step::Complete { token, context }) => (token, context),
        Ok(Step::Continue { .. }) => panic!("goes on"),
        Err(refusal) => panic!("{refusal:?}"),
    }
}

fn reason(acceptor: Box<dyn Acceptor>, token: &[u8]) -> Option<RefusalReason> {
    accept(acceptor, token).err().map(|refusal| refusal.reason)
}

fn initiator() -> Box<dyn Initiator> {
    let credentials = NtlmCredentials {
        user: "alice".into(),
        domain: "CONTOSO".into(),
        workstation: "WS1".into(),
        hash: NtHash::from_password("Password"),
        spn: "host/dc1.contoso.com".into(),
    };
    Box::new(NtlmInitiator::new(credentials, AuthLevel::PRIVACY))
}

fn spnego_initiator() -> Box<dyn Initiator> {
    Box::new(SpnegoInitiator::new(vec![(SpnegoMechanism::Ntlm, initiator())]))
}

fn step(initiator: Box<dyn Initiator>, token: Option<&[u8]>) -> Result<InitiatorStep, Refusal> {
    let mut entropy = |out: &mut [u8]| out.fill(if out.len() == 8 { 0xaa } else { 0x55 });
    initiator.step(token, now(), &mut entropy)
}

fn sends(initiator: Box<dyn Initiator>, token: Option<&[u8]>) -> (Vec<u8>, Box<dyn Initiator>) {
    match step(initiator, token) {
        Ok(InitiatorStep::Continue { token, next }) => (token, next),
        Ok(InitiatorStep::Complete { .. }) => panic!("complete too early"),
        Err(refusal) => panic!("{refusal:?}"),
    }
}

/// A mechanism that repeats tokens, for a second place in lists: it has three of them, and a context of
/// NTLM's.
struct Fake;

impl Initiator for Fake {
    fn step(
        self: Box<Self>,
        _: Option<&[u8]>,
        _: dtyp::FileTime,
        _: crate::Entropy<'_>,
    ) -> Result<InitiatorStep, Refusal> {
        Ok(InitiatorStep::Continue { token: b"kerberos".to_vec(), next: self })
    }
}

struct FakeAcceptor;

impl Acceptor for FakeAcceptor {
    fn accept<'a>(self: Box<Self>, leg: Leg<'a>) -> BoxFuture<'a, Result<Step, Refusal>>
    where
        Self: 'a,
    {
        let token = leg.token.to_vec();
        Box::pin(std::future::ready(Ok(Step::Continue { token, next: self })))
    }
}

#[test]
fn accepts_the_vector_exchange_and_makes_its_octets() {
    let (token, next) = goes_on(acceptor(), &bind());
    assert_eq!(token, bind_ack());
    let (token, context) = completes(next, &alter_context());
    assert_eq!(token, alter_context_resp());
    assert_eq!(context.user().expect("a user").name, "alice");
}

#[test]
fn initiator_makes_the_octets_of_the_vector() {
    let (token, next) = sends(spnego_initiator(), None);
    assert_eq!(token, bind());
    let (token, next) = sends(next, Some(&bind_ack()));
    assert_eq!(token, alter_context());
    let Ok(InitiatorStep::Complete { token, .. }) = step(next, Some(&alter_context_resp())) else { panic!() };
    assert!(token.is_empty());
}

#[test]
fn each_single_bit_change_of_the_last_message_is_refused() {
    let message = alter_context();
    for bit in 0..message.len() * 8 {
        let mut changed = message.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        let (_, next) = goes_on(acceptor(), &bind());
        if let Ok(Step::Complete { token, .. }) = accept(next, &changed) {
            // Only where the MIC becomes a field that is not known, and the first mechanism needs none. The
            // client misses the answer to its MIC.
            assert_eq!(token, bytes(COMPLETED), "bit {bit}");
        }
    }
    let answer = alter_context_resp();
    for bit in 0..answer.len() * 8 {
        let mut changed = answer.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        let (_, next) = sends(spnego_initiator(), None);
        let (_, next) = sends(next, Some(&bind_ack()));
        assert!(step(next, Some(&changed)).is_err(), "bit {bit}");
    }
}

#[test]
fn every_truncation_is_refused() {
    for len in 0..bind().len() {
        assert_eq!(reason(acceptor(), &bind()[..len]), Some(RefusalReason::Token), "{len}");
    }
    for len in 0..alter_context().len() {
        let (_, next) = goes_on(acceptor(), &bind());
        assert_eq!(reason(next, &alter_context()[..len]), Some(RefusalReason::Token), "{len}");
    }
    for len in 0..bind_ack().len() {
        let (_, next) = sends(spnego_initiator(), None);
        assert!(step(next, Some(&bind_ack()[..len])).is_err(), "{len}");
    }
}

#[test]
fn messages_have_the_octets_of_the_vectors() {
    let kerberos = [Oid(KERBEROS_MICROSOFT.to_vec()), Oid(KERBEROS.to_vec())];
    let list = "301606092a864882f71201020206092a864886f712010202";
    assert_eq!(mech_list(&kerberos), bytes(list));
    let first = bytes(
        "603b06062b0601050502a031302fa024302206092a864882f71201020206092a864886f712010202
         060a2b06010401823702020aa20704056e03616263",
    );
    let read = NegTokenInit::read(&first).expect("the vector");
    assert_eq!(read.token, bytes("6e03616263"));
    let offers = [&kerberos[..], &[Oid(NTLM.to_vec())]].concat();
    assert_eq!(read.mechanisms, offers);
    assert_eq!(first_message(&offers, &read.token), first);
    assert_eq!(read.list, mech_list(&offers));
    for vector in [
        "a11d301ba0030a0101a10b06092a864882f712010202a20704056f03616263",
        "a10b3009a20704056f03616263",
        COMPLETED,
        "a1073005a0030a0102",
        REQUEST_MIC_FOR_NTLM,
    ] {
        let read = NegTokenResp::read(&bytes(vector)).expect("the vector");
        assert_eq!(dtyp::hex(&read.to_bytes()), vector);
    }
}

#[test]
fn hints_of_a_server_are_no_mic() {
    // NegTokenInit2: [3] is a sequence there.
    let hints = "a32a3028a0261b246e6f745f646566696e65645f696e5f5246433431373840706c656173655f69676e6f7265";
    let message = bytes(&format!("604806062b0601050502a03e303ca00e300c{NTLM_OID}{hints}"));
    let mut message = message;
    // Lengths of this shorter message.
    let len = message.len();
    (message[1], message[11], message[13]) = ((len - 2) as u8, (len - 12) as u8, (len - 14) as u8);
    let read = NegTokenInit::read(&message).expect("NegTokenInit2");
    assert_eq!((read.mic, read.mechanisms.len()), (None, 1));
}

#[test]
fn lengths_need_not_be_minimal_and_fields_at_the_end_may_be_unknown() {
    // [0] with a length of three octets, and an unknown [5].
    let message = NegTokenResp::read(&bytes("a1840000000f3082000b a08200030a0100 a5020500"));
    assert_eq!(message.map(|read| read.state), Ok(Some(NegState::Completed)));
    // Indefinite lengths and fields out of order are refused.
    for wrong in ["a1803005a0030a01000000", "a10c300aa1030a0100a0030a0100", "a10c300aa0030a0100a0030a0100"] {
        assert!(NegTokenResp::read(&bytes(wrong)).is_err(), "{wrong}");
    }
}

#[test]
fn a_list_has_at_most_sixteen_mechanisms() {
    let list = |count| first_message(&vec![Oid(NTLM.to_vec()); count], &bytes(NEGOTIATE));
    assert!(NegTokenInit::read(&list(16)).is_ok());
    assert!(NegTokenInit::read(&list(17)).is_err());
    assert!(NegTokenInit::read(&list(0)).is_err());
}

#[test]
fn a_client_whose_first_mechanism_is_not_spoken_has_to_sign_its_list() {
    let offers = [KERBEROS_MICROSOFT, KERBEROS, NTLM].map(|oid| Oid(oid.to_vec()));
    let first = first_message(&offers, b"a ticket");
    let negotiate = || NegTokenResp { token: Some(bytes(NEGOTIATE)), ..NegTokenResp::default() }.to_bytes();
    let begun = || {
        let (token, next) = goes_on(acceptor(), &first);
        assert_eq!(token, bytes(REQUEST_MIC_FOR_NTLM));
        let (token, next) = goes_on(next, &negotiate());
        let challenge = NegTokenResp::read(&token).expect("ours");
        assert_eq!(challenge.token, Some(bytes(CHALLENGE)));
        next
    };
    let last = |mic: Option<Vec<u8>>| {
        NegTokenResp { token: Some(bytes(AUTHENTICATE)), mic, ..NegTokenResp::default() }.to_bytes()
    };
    let list_mic = Some(RefusalReason::ListMic);
    assert_eq!(reason(begun(), &last(None)), list_mic, "missing");
    // The MIC of a list that has NTLM alone: the list was changed on the way.
    assert_eq!(reason(begun(), &last(Some(bytes(CLIENT_MIC)))), list_mic, "of another list");
    assert_eq!(reason(begun(), &last(Some(vec![]))), list_mic, "empty");
}

#[test]
fn both_of_ours_agree_on_the_second_mechanism() {
    let first: Vec<(SpnegoMechanism, Box<dyn Initiator>)> =
        vec![(SpnegoMechanism::Kerberos, Box::new(Fake)), (SpnegoMechanism::Ntlm, initiator())];
    let (token, client) = sends(Box::new(SpnegoInitiator::new(first)), None);
    let (token, server) = goes_on(acceptor(), &token);
    let (token, client) = sends(client, Some(&token));
    let (token, server) = goes_on(server, &token);
    let (token, client) = sends(client, Some(&token));
    let (token, context) = completes(server, &token);
    assert_eq!(context.user().expect("a user").name, "alice");
    assert!(matches!(step(client, Some(&token)), Ok(InitiatorStep::Complete { .. })));
}

#[test]
fn a_client_whose_second_mechanism_is_chosen_wants_the_list_signed() {
    let first: Vec<(SpnegoMechanism, Box<dyn Initiator>)> =
        vec![(SpnegoMechanism::Kerberos, Box::new(Fake)), (SpnegoMechanism::Ntlm, initiator())];
    let (token, client) = sends(Box::new(SpnegoInitiator::new(first)), None);
    // On the way Kerberos was taken out of the list: the server sees NTLM alone, and its MIC with another
    // list.
    let read = NegTokenInit::read(&token).expect("ours");
    assert_eq!(read.mechanisms.len(), 3);
    let only_ntlm = first_message(&[Oid(NTLM.to_vec())], &[]);
    let (token, server) = goes_on(acceptor(), &only_ntlm);
    let (token, client) = sends(client, Some(&token));
    let (token, server) = goes_on(server, &token);
    let (token, client) = sends(client, Some(&token));
    assert_eq!(reason(server, &token), Some(RefusalReason::ListMic));
    // A server without a word about the list is refused by the client.
    assert_eq!(step(client, Some(&bytes(COMPLETED))).err().map(|r| r.reason), Some(RefusalReason::ListMic));
}

#[test]
fn both_object_identifiers_mean_kerberos_and_the_first_one_is_answered() {
    for oid in [KERBEROS, KERBEROS_MICROSOFT] {
        let mechanisms: Vec<(SpnegoMechanism, Box<dyn Acceptor>)> =
            vec![ntlm(), (SpnegoMechanism::Kerberos, Box::new(FakeAcceptor))];
        let offers = [Oid(oid.to_vec()), Oid(NTLM.to_vec())];
        let first = first_message(&offers, b"a ticket");
        let (token, _) = goes_on(Box::new(SpnegoAcceptor::new(mechanisms)), &first);
        let answer = NegTokenResp::read(&token).expect("ours");
        assert_eq!(answer.mechanism, Some(Oid(oid.to_vec())));
        assert_eq!(answer.state, Some(NegState::Incomplete));
        assert_eq!(answer.token.as_deref(), Some(&b"a ticket"[..]));
    }
}

#[test]
fn a_first_mechanism_without_token_is_asked_for_one() {
    let first = first_message(&[Oid(NTLM.to_vec())], &[]);
    let (token, next) = goes_on(acceptor(), &first);
    let answer = NegTokenResp::read(&token).expect("ours");
    assert_eq!((answer.state, answer.token), (Some(NegState::Incomplete), None));
    let negotiate = NegTokenResp { token: Some(bytes(NEGOTIATE)), ..NegTokenResp::default() };
    goes_on(next, &negotiate.to_bytes());
}

#[test]
fn offers_that_are_not_spoken_and_rejects_are_refused() {
    let mechanism = Some(RefusalReason::Mechanism);
    // NEGOEX alone.
    let negoex = Oid(bytes("2b06010401823702021e"));
    assert_eq!(reason(acceptor(), &first_message(&[negoex], b"x")), mechanism);
    let (_, next) = goes_on(acceptor(), &bind());
    assert_eq!(reason(next, &bytes("a1073005a0030a0102")), mechanism);
    let (_, next) = sends(spnego_initiator(), None);
    assert_eq!(step(next, Some(&bytes("a1073005a0030a0102"))).err().map(|r| r.reason), mechanism);
    // A choice that was not offered.
    let (_, next) = sends(spnego_initiator(), None);
    let choice = NegTokenResp {
        state: Some(NegState::Incomplete),
        mechanism: Some(Oid(KERBEROS.to_vec())),
        ..NegTokenResp::default()
    };
    assert_eq!(step(next, Some(&choice.to_bytes())).err().map(|r| r.reason), mechanism);
    // NTLM without SPNEGO around it.
    assert_eq!(reason(acceptor(), &bytes(NEGOTIATE)), Some(RefusalReason::Token));
}

#[test]
fn a_long_object_identifier_is_cut_in_the_log() {
    let negoex = Oid(bytes("2b06010401823702021e"));
    let first = first_message(&[negoex, Oid(vec![0x2a; 60_000])], b"x");
    let refusal = accept(acceptor(), &first).err().expect("neither is spoken");
    assert_eq!(refusal.reason, RefusalReason::Mechanism);
    let logged = format!(": 2b06010401823702021e {}...", "2a".repeat(32));
    assert!(refusal.detail.ends_with(&logged), "{}", refusal.detail);
}

#[test]
fn a_mic_that_was_sent_is_answered_and_one_that_came_early_is_refused() {
    let (_, next) = goes_on(acceptor(), &bind());
    let without = NegTokenResp { token: Some(bytes(AUTHENTICATE)), ..NegTokenResp::default() };
    let (token, _) = completes(next, &without.to_bytes());
    assert_eq!(token, bytes(COMPLETED), "none came, none goes back");
    // Windows 2000 repeats its token there.
    let (_, next) = goes_on(acceptor(), &bind());
    let repeated = NegTokenResp { mic: Some(bytes(AUTHENTICATE)), ..without };
    let (token, _) = completes(next, &repeated.to_bytes());
    assert_eq!(token, bytes(COMPLETED));
    let early =
        bytes(&format!("604e06062b0601050502a044 3042a00e300c{NTLM_OID}a22a0428{NEGOTIATE}a3040402abcd"));
    assert_eq!(reason(acceptor(), &early), Some(RefusalReason::ListMic));
}
