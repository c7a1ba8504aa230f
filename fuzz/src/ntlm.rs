//! NTLM messages, of clients and of servers.

use crate::now;
use dcerpc::security::AuthLevel;
use dtyp::{FileTime, Reader};
use rpc_auth::ntlm::{
    Authenticate, AvPairs, Challenge, ClientChallenge, LocalAccount, LocalChecker, Negotiate, NtHash,
    NtHashes, NtlmAcceptor, NtlmConfig, NtlmCredentials, NtlmInitiator, ServerNames,
};
use rpc_auth::{Acceptor, BoxFuture, IdentitySource, Initiator, InitiatorStep, Leg, Step, UserIdentity};
use std::net::Ipv4Addr;
use std::sync::Arc;

/// Messages up to this length are short enough to be written again where their fields overlap.
const LEN_MAX: usize = 1024;
const NEGOTIATE: &[u8] = b"NTLMSSP\0\x01\0\0\0\x35\x82\x88\xe2";

/// Each account exists, and has a password that is in no corpus.
struct Everyone;

impl NtHashes for Everyone {
    fn look_up<'a>(&'a self, user: &'a str) -> BoxFuture<'a, Result<Option<LocalAccount>, String>> {
        let identity = UserIdentity {
            name: user.to_owned(),
            domain: String::new(),
            sid: None,
            groups: vec![],
            source: IdentitySource::LocalStore,
            password: None,
            delegated_by: vec![],
            expires: None,
        };
        let nt_hash = Some(NtHash::new([0x5a; 16]));
        Box::pin(std::future::ready(Ok(Some(LocalAccount { nt_hash, is_usable: true, identity }))))
    }
}

/// An acceptor whose users have a password that the fuzzer does not know.
pub(crate) fn acceptor() -> Box<dyn Acceptor> {
    let config = NtlmConfig {
        names: ServerNames::standalone("DC1"),
        require_mic: false,
        allowed_spns: vec![],
        checker: Arc::new(LocalChecker::new(Arc::new(Everyone), [7; 16])),
    };
    Box::new(NtlmAcceptor::new(Arc::new(config), Ipv4Addr::LOCALHOST.into()))
}

/// The next acceptor, if the token leads to one. No token leads to a context.
pub(crate) fn accept(acceptor: Box<dyn Acceptor>, token: &[u8]) -> Option<Box<dyn Acceptor>> {
    let mut entropy = |bytes: &mut [u8]| bytes.fill(1);
    let leg =
        Leg { token, level: AuthLevel::PRIVACY, now: FileTime(0x01da_498a_ed83_c000), entropy: &mut entropy };
    match now(acceptor.accept(leg)) {
        Ok(Step::Continue { next, .. }) => Some(next),
        Ok(Step::Complete { .. }) => panic!("accepted without the password"),
        Err(_) => None,
    }
}

/// An initiator with the same password.
pub(crate) fn initiator() -> Box<dyn Initiator> {
    let credentials = NtlmCredentials {
        user: "alice".into(),
        domain: "CONTOSO".into(),
        workstation: "WS1".into(),
        hash: NtHash::new([0x5a; 16]),
        spn: "host/dc1".into(),
    };
    Box::new(NtlmInitiator::new(credentials, AuthLevel::PRIVACY))
}

/// What an initiator makes of a server's token.
pub(crate) fn step(initiator: Box<dyn Initiator>, token: Option<&[u8]>) -> Option<InitiatorStep> {
    let mut entropy = |bytes: &mut [u8]| bytes.fill(2);
    initiator.step(token, FileTime(0), &mut entropy).ok()
}

/// Reads `bytes` as each message, and hands them to both sides.
pub fn check(bytes: &[u8]) {
    if let Ok(read) = Negotiate::read(bytes) {
        assert_eq!(Negotiate::read(&read.to_bytes()), Ok(read));
    }
    if bytes.len() <= LEN_MAX {
        if let Ok(read) = Challenge::read(bytes) {
            assert_eq!(Challenge::read(&read.to_bytes()).as_ref(), Ok(&read));
        }
        if let Ok(read) = Authenticate::read(bytes) {
            let mut again = Authenticate::read(&read.to_bytes()).expect("what was read is written");
            // Our form has room for a MIC always.
            again.mic = again.mic.filter(|_| read.mic.is_some());
            assert_eq!(again, read);
        }
    }
    if let Ok(read) = ClientChallenge::read(bytes) {
        assert_eq!(ClientChallenge::read(&read.to_bytes()).as_ref(), Ok(&read));
    }
    if let Ok(pairs) = AvPairs::read(&mut Reader::new(bytes)) {
        let mut written = Vec::new();
        pairs.encode(&mut written);
        assert_eq!(AvPairs::read(&mut Reader::new(&written)).as_ref(), Ok(&pairs));
        assert!(bytes.starts_with(&written), "the list is read as it stands there");
    }
    accept(acceptor(), bytes);
    let challenged = accept(acceptor(), NEGOTIATE).expect("a good NEGOTIATE");
    assert!(accept(challenged, bytes).is_none(), "a third leg");
    let Some(InitiatorStep::Continue { next, .. }) = step(initiator(), None) else {
        panic!("no first token")
    };
    if let Some(InitiatorStep::Complete { token, .. }) = step(next, Some(bytes)) {
        let message = Authenticate::read(&token).expect("ours");
        assert!(message.nt_response.len() > 24 && message.mic.is_some());
    }
}
