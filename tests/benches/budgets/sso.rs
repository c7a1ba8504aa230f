//! Deliveries of the master secret, connections of its users, and how long refusals take.

use crate::cores::apart;
use crate::generator::together;
use crate::table::Table;
use crate::transport::Transport;
use crate::{Cpu, cpu, least};
use dcerpc::ndr::NdrSyntax;
use dcerpc::pdu::SecTrailer;
use dcerpc::security::{
    AuthLevel, AuthType, Outgoing, OutgoingFragment, ProtectedFragment, Protection, SecurityContext,
};
use dcerpc_tokio::Connection;
use dtyp::FileTime;
use rcmpd_tests::mit::MitKdc;
use rcmpd_tests::refused_users::{REFUSED, RefusedUsers, add_refused_users};
use rcmpd_tests::{Demo, Service};
use rpc_auth::kerberos::{
    ClientRealm, Credential, CredentialCache, KerberosAcceptor, KerberosConfig, KerberosInitiator, Keytab,
    Principal, RealmKind, SKEW_DEFAULT, SharedKeytab,
};
use rpc_auth::ntlm::{
    LocalAccount, LocalChecker, NtHash, NtHashes, NtlmAcceptor, NtlmConfig, NtlmCredentials, NtlmInitiator,
    ServerNames,
};
use rpc_auth::{Acceptor, BoxFuture, IdentitySource, Initiator, InitiatorStep, Leg, Step, UserIdentity};
use rpc_auth_tokio::{UserBind, connect};
use sso_service::{MASTER_SECRET, client};
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

const CALLS: usize = 2_000;
const CONNECTIONS: usize = 8;
/// Connections that are set up, so many at once.
const SET_UPS: usize = 800;
/// Contexts of the acceptor alone, and calls of a context alone.
const ALONE: usize = 2_000;
/// Refusals of each kind.
const REFUSALS: u32 = 1_000;
const SERVICE: &str = "host/127.0.0.1";

/// How a user proves who it is.
enum User {
    Ntlm(NtHash),
    Kerberos(Box<Credential>),
}

impl User {
    const fn auth_type(&self) -> AuthType {
        match self {
            Self::Ntlm(_) => AuthType::NTLM,
            Self::Kerberos(_) => AuthType::KERBEROS,
        }
    }

    fn initiator(&self) -> Box<dyn Initiator> {
        match self {
            Self::Ntlm(hash) => ntlm("alice", hash.clone()),
            Self::Kerberos(credential) => Box::new(KerberosInitiator::new((**credential).clone())),
        }
    }

    async fn connect(&self, service: SocketAddr) -> Connection {
        let bind = UserBind {
            interface: MASTER_SECRET,
            syntax: NdrSyntax::Ndr,
            auth_type: self.auth_type(),
            level: AuthLevel::PRIVACY,
            initiator: self.initiator(),
        };
        connect(service, bind, deadline()).await.unwrap()
    }
}

fn ntlm(user: &str, hash: NtHash) -> Box<dyn Initiator> {
    let credentials = NtlmCredentials {
        user: user.into(),
        domain: String::new(),
        workstation: String::new(),
        hash,
        spn: SERVICE.into(),
    };
    Box::new(NtlmInitiator::new(credentials, AuthLevel::PRIVACY))
}

fn deadline() -> tokio::time::Instant {
    tokio::time::Instant::now() + Duration::from_secs(60)
}

fn now() -> FileTime {
    SystemTime::now().into()
}

fn random(bytes: &mut [u8]) {
    getrandom::fill(bytes).unwrap();
}

async fn get(connection: &mut Connection) {
    let (opnum, stub) = client::request();
    let reply = connection.call(opnum, stub.into(), deadline()).await.unwrap();
    client::read(Ok((reply.stub, reply.order)), NdrSyntax::Ndr).unwrap();
}

pub(crate) async fn measure(table: &mut Table) {
    let kdc = MitKdc::with_service(SERVICE, &["ssoadmin"]);
    let demo = Demo::with_master_secret();
    demo.accept_tickets(&kdc.path("keytab"), &[("MIT.TEST", "mit")], &["principal:ssoadmin@MIT.TEST"]);
    let service = apart(|| demo.serve_with(&[("TOKIO_WORKER_THREADS", "1")]));
    let cache = fs::read(kdc.ticket("ssoadmin", SERVICE)).unwrap();
    let cache = CredentialCache::decode(&cache).unwrap();
    let ticket = cache.find(&Principal::parse(SERVICE, "MIT.TEST").unwrap(), now()).unwrap();
    let users = [
        ("NTLM", User::Ntlm(NtHash::from_password(&service.password("alice")))),
        ("Kerberos", User::Kerberos(Box::new(ticket.clone()))),
    ];
    for (name, user) in &users {
        let acceptor: Box<dyn Fn() -> Box<dyn Acceptor>> = match user {
            User::Ntlm(hash) => ntlm_acceptor(hash.clone()),
            User::Kerberos(_) => kerberos_acceptor(&kdc),
        };
        deliveries(table, name, &service, user, &*acceptor).await;
        set_ups(table, name, &service, user, &*acceptor).await;
    }
    refusals(table).await;
}

async fn deliveries(
    table: &mut Table,
    name: &str,
    service: &Service,
    user: &User,
    acceptor: &dyn Fn() -> Box<dyn Acceptor>,
) {
    let each = least(async || {
        let mut connections = Vec::new();
        for _ in 0..CONNECTIONS {
            let mut connection = user.connect(service.master_secret()).await;
            get(&mut connection).await;
            connections.push(connection);
        }
        let before = cpu(service.pid(), "");
        together(connections.into_iter().map(|mut connection| async move {
            for _ in 0..CALLS / CONNECTIONS {
                get(&mut connection).await;
            }
        }))
        .await;
        cpu(service.pid(), "").since(&before) as f64 / 1000.0 / CALLS as f64
    });
    let what =
        format!("delivery under {name}, its audit record flushed, {CONNECTIONS} connections, server CPU");
    table.row(&what, each.await, "µs", None);
    let (each, lens) = seals(user, acceptor).await;
    table.row(
        &format!("of which unsealing the request and sealing the answer under {name}"),
        each,
        "µs",
        None,
    );
    let transport = Transport::serve(lens.0, lens.1).await;
    let each = least(async || transport.measure(CONNECTIONS, CALLS).await).await;
    let what = format!("of which transport: {} bytes there, {} back, nothing else", lens.0, lens.1);
    table.row(&what, each, "µs", None);
}

async fn set_ups(
    table: &mut Table,
    name: &str,
    service: &Service,
    user: &User,
    acceptor: &dyn Fn() -> Box<dyn Acceptor>,
) {
    let each = least(async || {
        let before = settled(service.pid());
        together((0..CONNECTIONS).map(|_| async {
            for _ in 0..SET_UPS / CONNECTIONS {
                drop(user.connect(service.master_secret()).await);
            }
        }))
        .await;
        settled(service.pid()).since(&before) as f64 / 1000.0 / SET_UPS as f64
    });
    let budget = matches!(user, User::Kerberos(_)).then_some(200.0);
    let what = format!("connection with {name}, {CONNECTIONS} at once, server CPU");
    table.row(&what, each.await, "µs", budget);
    let mut spent = Duration::ZERO;
    for _ in 0..ALONE {
        spent += contexts(user.initiator(), acceptor()).await.2;
    }
    let each = spent.as_secs_f64() * 1e6 / ALONE as f64;
    table.row(&format!("of which the acceptor of {name} alone"), each, "µs", None);
}

/// Processor time when nothing is left to do: the last leg of a context has no answer that could be awaited.
fn settled(process: u32) -> Cpu {
    let mut last = cpu(process, "");
    for _ in 0..100 {
        std::thread::sleep(Duration::from_millis(50));
        let now = cpu(process, "");
        if now.since(&last) < 100_000 {
            return now;
        }
        last = now;
    }
    last
}

/// Both ends of a context, and the time that the acceptor took.
async fn contexts(
    mut initiator: Box<dyn Initiator>,
    mut acceptor: Box<dyn Acceptor>,
) -> (Box<dyn SecurityContext>, Box<dyn SecurityContext>, Duration) {
    let (mut token, mut spent) = (None, Duration::ZERO);
    loop {
        let (bytes, ours, after) = match initiator.step(token.as_deref(), now(), &mut random).unwrap() {
            InitiatorStep::Continue { token, next } => (token, None, Some(next)),
            InitiatorStep::Complete { token, context } => {
                (token, Some(context.into_security_context()), None)
            }
        };
        let leg = Leg { token: &bytes, level: AuthLevel::PRIVACY, now: now(), entropy: &mut random };
        let started = Instant::now();
        let step = acceptor.accept(leg).await.unwrap();
        spent += started.elapsed();
        match (step, ours, after) {
            (Step::Continue { token: theirs, next }, None, Some(after)) => {
                (acceptor, initiator) = (next, after);
                token = Some(theirs);
            }
            (Step::Complete { context, .. }, Some(ours), None) => {
                return (ours, context.into_security_context(), spent);
            }
            _ => panic!("one side is done before the other"),
        }
    }
}

const PROTECTION: Protection = Protection { level: AuthLevel::PRIVACY, header_signing: true };
const HEAD_LEN: usize = 24;

/// A message of one fragment, padded as the runtime does it.
fn message(user: &User, stub: Vec<u8>) -> Outgoing {
    let pad = (stub.len().next_multiple_of(16) - stub.len()) as u8;
    let trailer = SecTrailer {
        auth_type: user.auth_type(),
        auth_level: AuthLevel::PRIVACY,
        auth_pad_length: pad,
        auth_context_id: 1,
    };
    let fragment = OutgoingFragment { header: vec![0; HEAD_LEN], body: 0..stub.len(), pad, trailer };
    Outgoing { stub, inner: None, fragments: vec![fragment] }
}

/// What the server's half of a context takes of a delivery, and the lengths of both messages.
async fn seals(user: &User, acceptor: &dyn Fn() -> Box<dyn Acceptor>) -> (f64, (usize, usize)) {
    let (mut ours, mut theirs, _) = contexts(user.initiator(), acceptor()).await;
    // The parameter and a verification trailer there; an array of 16 octets and the code back.
    let (request, answer) = (vec![0x5a; 60], vec![0x5a; 28]);
    let token_len = theirs.token_len(AuthLevel::PRIVACY);
    let mut sealed = Vec::new();
    for _ in 0..ALONE {
        sealed.push(ours.protect(PROTECTION, message(user, request.clone())).await);
    }
    let (mut len, started) = (0, Instant::now());
    for pdu in &mut sealed {
        let trailer_at = pdu.len() - token_len - SecTrailer::LEN;
        let (front, token) = pdu.split_at_mut(trailer_at + SecTrailer::LEN);
        let (front, trailer) = front.split_at_mut(trailer_at);
        let (header, body) = front.split_at_mut(HEAD_LEN);
        let fragment = ProtectedFragment { header, body, trailer, token };
        theirs.unprotect(PROTECTION, fragment).unwrap();
        len = theirs.protect(PROTECTION, message(user, answer.clone())).await.len();
    }
    (started.elapsed().as_secs_f64() * 1e6 / ALONE as f64, (sealed[0].len(), len))
}

/// A store of one account that is in memory.
struct Alice(NtHash);

fn alice() -> UserIdentity {
    UserIdentity {
        name: "alice".into(),
        domain: String::new(),
        sid: None,
        groups: Vec::new(),
        source: IdentitySource::LocalStore,
        password: None,
        delegated_by: Vec::new(),
        expires: None,
    }
}

impl NtHashes for Alice {
    fn look_up<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<Option<LocalAccount>, String>> {
        let account = LocalAccount { nt_hash: Some(self.0.clone()), is_usable: true, identity: alice() };
        Box::pin(std::future::ready(Ok(Some(account))))
    }
}

fn ntlm_acceptor(hash: NtHash) -> Box<dyn Fn() -> Box<dyn Acceptor>> {
    let config = Arc::new(NtlmConfig {
        names: ServerNames::standalone("SSO1"),
        require_mic: false,
        allowed_spns: Vec::new(),
        checker: Arc::new(LocalChecker::new(Arc::new(Alice(hash)), [7; 16])),
    });
    Box::new(move || Box::new(NtlmAcceptor::new(Arc::clone(&config), Ipv4Addr::LOCALHOST.into())))
}

fn kerberos_acceptor(kdc: &MitKdc) -> Box<dyn Fn() -> Box<dyn Acceptor>> {
    let keytab = Keytab::decode(&fs::read(kdc.path("keytab")).unwrap()).unwrap();
    let config = Arc::new(KerberosConfig {
        keytab: Arc::new(SharedKeytab::new(keytab)),
        services: Vec::new(),
        client_realms: vec![ClientRealm { name: "MIT.TEST".into(), kind: RealmKind::Mit }],
        skew: SKEW_DEFAULT,
        replay: Arc::default(),
    });
    Box::new(move || Box::new(KerberosAcceptor::new(Arc::clone(&config))))
}

/// How long the service's own provider takes to refuse each kind of account, over the embedded store. The
/// time must not tell which kind it is.
async fn refusals(table: &mut Table) {
    let demo = Demo::with_master_secret();
    add_refused_users(&demo);
    let users = RefusedUsers::new(&demo, |stores| stores).await;
    let mut times = REFUSED.map(|_| Vec::new());
    for number in 0..REFUSALS {
        for ((_, name), times) in REFUSED.iter().zip(&mut times) {
            times.push(users.attempt(name, number).await);
        }
    }
    let medians = times.map(|mut times| {
        times.sort_unstable();
        times[times.len() / 2].as_secs_f64() * 1e6
    });
    for ((why, _), median) in REFUSED.iter().zip(medians) {
        table.row(&format!("NTLM refusal ({why}), median of {REFUSALS}, wall"), median, "µs", None);
    }
    let most = medians.into_iter().fold(0.0, f64::max);
    let least = medians.into_iter().fold(f64::INFINITY, f64::min);
    table.row("largest difference of these medians", most - least, "µs", Some(5.0));
}
