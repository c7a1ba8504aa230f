//! Users at a server over TCP: our client and our acceptors, refusals, and contexts that are left half open.

use dcerpc::management::MANAGEMENT;
use dcerpc::ndr::NdrSyntax;
use dcerpc::pdu::{
    AuthLevel, AuthType, Bind, ContextElement, FaultStatus, Header, PacketFlags, PacketType, SecTrailer,
    SyntaxId, finish_pdu, start_pdu,
};
use dcerpc::server::Reply;
use dcerpc_tokio::{CallError, Interface, Limits, Registry, RpcCall, Server};
use dtyp::{Encode, Guid, Sid};
use rpc_auth::ntlm::{
    LocalAccount, LocalChecker, Negotiate, NtHash, NtHashes, NtlmAcceptor, NtlmConfig, NtlmCredentials,
    NtlmFlags, NtlmInitiator, ServerNames,
};
use rpc_auth::spnego::{SpnegoAcceptor, SpnegoInitiator, SpnegoMechanism};
use rpc_auth::{Acceptor, BoxFuture, IdentitySource, Initiator, RefusalReason, UserIdentity};
use rpc_auth_tokio::{AuthAudit, AuthCounters, AuthProvider, Refused, UserBind, connect};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::net::TcpListener;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

const WHO_AM_I: SyntaxId =
    SyntaxId::new(Guid::new(0x6f1c_2d3e, 0x4a5b, 0x6c7d, [8, 9, 10, 11, 12, 13, 14, 15]), 1, 0);

struct Alice;

impl NtHashes for Alice {
    fn look_up<'a>(&'a self, user: &'a str) -> BoxFuture<'a, Result<Option<LocalAccount>, String>> {
        let account = user.eq_ignore_ascii_case("alice").then(|| LocalAccount {
            nt_hash: Some(NtHash::from_password("Password")),
            is_usable: true,
            identity: UserIdentity {
                name: "alice".into(),
                domain: String::new(),
                sid: Sid::new(5, &[21, 1, 2, 3, 1104]),
                groups: vec![],
                source: IdentitySource::LocalStore,
                delegated_by: vec![],
                expires: None,
            },
        });
        Box::pin(std::future::ready(Ok(account)))
    }
}

#[derive(Default)]
struct Audit(Mutex<Vec<(&'static str, RefusalReason)>>);

impl Audit {
    fn taken(&self) -> Vec<(&'static str, RefusalReason)> {
        std::mem::take(&mut self.0.lock().expect("not poisoned"))
    }
}

impl AuthAudit for Audit {
    fn refused(&self, refused: &Refused<'_>) {
        self.0.lock().expect("not poisoned").push((refused.mechanism, refused.refusal.reason));
    }
}

struct Fixture {
    server: Arc<Server>,
    audit: Arc<Audit>,
    counters: AuthCounters,
}

impl Fixture {
    fn new() -> Self {
        let audit = Arc::new(Audit::default());
        let counters = AuthCounters::default();
        let config = Arc::new(NtlmConfig {
            names: ServerNames::standalone("SSO1"),
            require_mic: false,
            allowed_spns: vec![],
            checker: Arc::new(LocalChecker::new(Arc::new(Alice), [7; 16])),
        });
        let ntlm = move |source: SocketAddr| -> Box<dyn Acceptor> {
            Box::new(NtlmAcceptor::new(Arc::clone(&config), source.ip()))
        };
        let inner = ntlm.clone();
        let spnego = move |source: SocketAddr| -> Box<dyn Acceptor> {
            Box::new(SpnegoAcceptor::new(vec![(SpnegoMechanism::Ntlm, inner(source))]))
        };
        let service = tower::service_fn(|call: RpcCall| {
            let name = call.call.security.and_then(|security| {
                let user = security.identity.downcast::<UserIdentity>().ok()?;
                Some(format!("{} at {}", user.name, security.level.0))
            });
            std::future::ready(
                name.map(|name| Reply::from(name.into_bytes())).ok_or(FaultStatus::ACCESS_DENIED),
            )
        });
        let service = tower::util::BoxCloneSyncService::new(service);
        let hook: Arc<dyn AuthAudit> = audit.clone();
        let provider = |auth_type, make: Box<dyn Fn(SocketAddr) -> Box<dyn Acceptor> + Send + Sync>| {
            let make = move |peer: &dcerpc_tokio::Peer| make(peer.address);
            Arc::new(AuthProvider::new(auth_type, make, Arc::clone(&hook), counters.clone()))
        };
        let registry = Registry::default()
            .interface(Interface { syntax: WHO_AM_I, name: "who am I", service })
            .management()
            .provider(provider(AuthType::NTLM, Box::new(ntlm)))
            .provider(provider(AuthType::SPNEGO, Box::new(spnego)));
        let server = Server::new(registry, Limits::default(), CancellationToken::new(), TaskTracker::new());
        Self { server, audit, counters }
    }

    async fn listen(&self) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        tokio::spawn(Arc::clone(&self.server).listen(listener));
        address
    }

    /// A connection in memory.
    fn connect(&self) -> DuplexStream {
        let (near, far) = tokio::io::duplex(16 * 1024);
        self.server.spawn(far, SocketAddr::from(([192, 0, 2, 1], 1)), self.server.config(49664));
        near
    }
}

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
