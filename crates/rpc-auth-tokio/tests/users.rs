//! Users at a server over TCP: our client and our acceptors, refusals, and contexts that are left half open.

mod fixture;

use dcerpc::management::MANAGEMENT;
use dcerpc::ndr::NdrSyntax;
use dcerpc::pdu::{
    AuthLevel, AuthType, Bind, ContextElement, FaultStatus, Header, PacketFlags, PacketType, SecTrailer,
    SyntaxId, finish_pdu, start_pdu,
};
use dcerpc_tokio::CallError;
use dtyp::Encode;
use fixture::{Alice, Fixture, WHO_AM_I};
use rpc_auth::ntlm::{
    LocalAccount, LocalChecker, Negotiate, NtHash, NtHashes, NtlmCredentials, NtlmFlags, NtlmInitiator,
    ServerNames,
};
use rpc_auth::spnego::{SpnegoInitiator, SpnegoMechanism};
use rpc_auth::{BoxFuture, Initiator, RefusalReason, UserIdentity};
use rpc_auth_tokio::{UserBind, connect};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;

fn initiator(password: &str, level: AuthLevel) -> Box<dyn Initiator> {
    let credentials = NtlmCredentials {
        user: "alice".into(),
        domain: String::new(),
        workstation: "WS1".into(),
        hash: NtHash::from_password(password),
        spn: "host/sso1".into(),
    };
    Box::new(NtlmInitiator::new(credentials, level))
}

async fn who_am_i(
    address: SocketAddr,
    auth_type: AuthType,
    password: &str,
    level: AuthLevel,
) -> Result<String, CallError> {
    let deadline = Instant::now() + Duration::from_secs(20);
    let ntlm = initiator(password, level);
    let initiator = match auth_type {
        AuthType::SPNEGO => Box::new(SpnegoInitiator::new(vec![(SpnegoMechanism::Ntlm, ntlm)])),
        _ => ntlm,
    };
    let bind = UserBind { interface: WHO_AM_I, syntax: NdrSyntax::Ndr, auth_type, level, initiator };
    let mut connection = connect(address, bind, deadline).await?;
    let mut answer = String::new();
    // More than one call: sequence numbers go on in both directions, over several fragments.
    for len in [0, 100, 20_000] {
        let reply = connection.call(0, vec![0; len].into(), deadline).await?;
        answer = String::from_utf8(reply.stub).expect("text");
    }
    Ok(answer)
}

#[tokio::test]
async fn users_are_known_to_the_service_by_each_mechanism_and_level() {
    let fixture = Fixture::new();
    let address = fixture.listen().await;
    for auth_type in [AuthType::NTLM, AuthType::SPNEGO] {
        for level in [AuthLevel::INTEGRITY, AuthLevel::PRIVACY] {
            let name = who_am_i(address, auth_type, "Password", level).await;
            assert_eq!(name.expect("an answer"), format!("alice at {}", level.0), "{auth_type:?}");
        }
    }
    assert_eq!(fixture.audit.taken(), []);
}

#[tokio::test]
async fn a_wrong_password_is_refused_audited_and_counted() {
    let fixture = Fixture::new();
    let address = fixture.listen().await;
    // After an auth3 the first call is refused.
    let outcome = who_am_i(address, AuthType::NTLM, "wrong", AuthLevel::PRIVACY).await;
    assert!(matches!(outcome, Err(CallError::Fault(FaultStatus::ACCESS_DENIED))), "{outcome:?}");
    assert_eq!(fixture.audit.taken(), [("ntlm", RefusalReason::Proof)]);
    // An alter_context is refused itself.
    let outcome = who_am_i(address, AuthType::SPNEGO, "wrong", AuthLevel::PRIVACY).await;
    let refused = dcerpc::client::ClientError::BindFault(FaultStatus::ACCESS_DENIED);
    assert!(matches!(&outcome, Err(CallError::Association(error)) if *error == refused), "{outcome:?}");
    assert_eq!(fixture.audit.taken(), [("spnego", RefusalReason::Proof)]);
    for mechanism in ["ntlm", "spnego"] {
        assert_eq!(fixture.counters.refusals(mechanism, RefusalReason::Proof), 1, "{mechanism}");
    }
}

/// A store whose accounts have no SIDs.
struct WithoutSids;

impl NtHashes for WithoutSids {
    fn look_up<'a>(&'a self, user: &'a str) -> BoxFuture<'a, Result<Option<LocalAccount>, String>> {
        Box::pin(async move {
            let account = Alice.look_up(user).await?;
            Ok(account.map(|account| LocalAccount {
                identity: UserIdentity { sid: None, ..account.identity },
                ..account
            }))
        })
    }
}

#[tokio::test]
async fn a_user_without_a_sid_proves_its_connection() {
    let checker = Arc::new(LocalChecker::new(Arc::new(WithoutSids), [7; 16]));
    let fixture = Fixture::with(checker, ServerNames::standalone("SSO1"));
    let address = fixture.listen().await;
    let deadline = Instant::now() + Duration::from_secs(20);
    let bind = UserBind {
        interface: WHO_AM_I,
        syntax: NdrSyntax::Ndr,
        auth_type: AuthType::NTLM,
        level: AuthLevel::PRIVACY,
        initiator: initiator("Password", AuthLevel::PRIVACY),
    };
    let mut connection = connect(address, bind, deadline).await.expect("a context");
    connection.call(0, vec![].into(), deadline).await.expect("an answer");
    assert_eq!(fixture.server.limiter().open(), (0, 1), "unproved and proved connections");
}

/// Between a client and the server: sets the level in the trailer of each auth3.
async fn change_level_of_auth3(server: SocketAddr, level: AuthLevel) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    tokio::spawn(async move {
        let (client, _) = listener.accept().await.expect("a client");
        let server = TcpStream::connect(server).await.expect("the server listens");
        let ((mut from_client, mut to_client), (mut from_server, mut to_server)) =
            (client.into_split(), server.into_split());
        tokio::spawn(async move { tokio::io::copy(&mut from_server, &mut to_client).await });
        let mut header = [0; Header::LEN];
        while from_client.read_exact(&mut header).await.is_ok() {
            let length = |at| usize::from(u16::from_le_bytes([header[at], header[at + 1]]));
            let (frag_length, auth_length) = (length(8), length(10));
            let mut pdu = header.to_vec();
            pdu.resize(frag_length, 0);
            from_client.read_exact(&mut pdu[Header::LEN..]).await.expect("a whole PDU");
            if header[2] == PacketType::AUTH3.0 {
                pdu[frag_length - auth_length - SecTrailer::LEN + 1] = level.0;
            }
            to_server.write_all(&pdu).await.expect("the server reads");
        }
    });
    address
}

#[tokio::test]
async fn the_last_leg_does_not_lower_the_level_of_the_bind() {
    let fixture = Fixture::new();
    let address = fixture.listen().await;
    // The mechanism negotiates neither signing nor sealing, and the bind asks for both.
    let call = async |address| {
        let deadline = Instant::now() + Duration::from_secs(20);
        let bind = UserBind {
            interface: WHO_AM_I,
            syntax: NdrSyntax::Ndr,
            auth_type: AuthType::NTLM,
            level: AuthLevel::PRIVACY,
            initiator: initiator("Password", AuthLevel::CONNECT),
        };
        connect(address, bind, deadline).await?.call(0, vec![].into(), deadline).await
    };
    let denied = |outcome| matches!(outcome, Err(CallError::Fault(FaultStatus::ACCESS_DENIED)));
    assert!(denied(call(address).await));
    assert_eq!(fixture.audit.taken(), [("ntlm", RefusalReason::Flags)]);
    for level in [AuthLevel::CONNECT, AuthLevel(0), AuthLevel(255)] {
        assert!(denied(call(change_level_of_auth3(address, level).await).await), "{level:?}");
        assert_eq!(fixture.audit.taken(), [("ntlm", RefusalReason::Level)], "{level:?}");
    }
    let unchanged = change_level_of_auth3(address, AuthLevel::PRIVACY).await;
    let name = who_am_i(unchanged, AuthType::NTLM, "Password", AuthLevel::PRIVACY).await;
    assert_eq!(name.expect("an answer"), "alice at 6");
}

/// A bind with the first leg of NTLM.
fn first_leg() -> Vec<u8> {
    let flags = NtlmFlags(0xe288_8235);
    let mut pdu = start_pdu(PacketType::BIND, PacketFlags::WHOLE, 1);
    let context =
        ContextElement { id: 0, abstract_syntax: MANAGEMENT, transfer_syntaxes: vec![SyntaxId::NDR] };
    Bind { max_xmit_frag: 5840, max_recv_frag: 5840, assoc_group_id: 0, contexts: vec![context] }
        .encode(&mut pdu);
    let trailer = SecTrailer {
        auth_type: AuthType::NTLM,
        auth_level: AuthLevel::PRIVACY,
        auth_pad_length: 0,
        auth_context_id: 1,
    };
    trailer.encode(&mut pdu);
    let token = Negotiate { flags }.to_bytes();
    pdu.extend_from_slice(&token);
    finish_pdu(&mut pdu, 0, token.len());
    pdu
}

/// Resident memory in bytes.
fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("Linux");
    let pages: usize = statm.split(' ').nth(1).and_then(|pages| pages.parse().ok()).expect("a number");
    pages * 4096
}

#[tokio::test]
async fn ten_thousand_first_legs_that_are_dropped_leave_memory_flat() {
    let fixture = Fixture::new();
    let first_leg = first_leg();
    let drop_one = async || {
        let mut stream = fixture.connect();
        stream.write_all(&first_leg).await.expect("the connection is open");
        let mut header = [0; Header::LEN];
        stream.read_exact(&mut header).await.expect("an answer");
        assert_eq!(header[2], PacketType::BIND_ACK.0);
    };
    for _ in 0..1_000 {
        drop_one().await;
    }
    let before = resident();
    for _ in 0..10_000 {
        drop_one().await;
    }
    let deadline = Instant::now() + Duration::from_secs(20);
    while fixture.server.counters().open.get() > 0 && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(fixture.server.counters().open.get(), 0);
    let grown = resident().saturating_sub(before);
    assert!(grown < 4 << 20, "{grown} bytes more");
}
