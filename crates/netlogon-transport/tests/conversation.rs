//! Client and server of the secure channel, joined in memory: what works, and every way in which it must not.

use bytes::Bytes;
use dcerpc::association_group::AssociationGroups;
use dcerpc::client::{
    ClientAssociation, ClientConfig, ClientError, ClientEvent, ClientSecurity, ReplyStub, RequestStub,
};
use dcerpc::limits::ReassemblyBudget;
use dcerpc::ndr::NdrSyntax;
use dcerpc::pdu::FaultStatus;
use dcerpc::server::{CallConnection, Event, ServerAssociation, ServerConfig, Transmit};
use dtyp::{Guid, NtStatus, Sid};
use netlogon_transport::client::{
    Association, ChannelError, ClientChannel, ClientIdentity, Randomness, Transport, TransportError,
};
use netlogon_transport::credential::Credential;
use netlogon_transport::message::{PrimaryDomain, opnum};
use netlogon_transport::package::{PackageCall, PackageReply, Packages};
use netlogon_transport::secret::SharedSecret;
use netlogon_transport::secrets::{BoxFuture, ChannelSecrets, ChannelType, Machine, SecretsUnavailable};
use netlogon_transport::server::{
    Attempts, Audit, AuditUnavailable, ChannelEvent, ChannelId, ChannelOutcome, ChannelRefusal, ChannelState,
    Environment, NETLOGON, NetlogonCall, NetlogonServer, ResponseCrypt, ServerNames, ServerParts,
    SharedChallenge, SharedChannels, StoredCredential,
};
use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tower::service_fn;
use tower::util::BoxCloneSyncService;

/// Polls until ready; nothing here waits for the world.
fn block_on<T>(future: impl Future<Output = T>) -> T {
    let mut future = std::pin::pin!(future);
    let mut cx = Context::from_waker(Waker::noop());
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut cx) {
            return output;
        }
    }
}

#[derive(Default)]
struct Secrets {
    machines: Mutex<Vec<Machine>>,
    revision: AtomicU64,
    unavailable: std::sync::atomic::AtomicBool,
    during_find: Hook,
    during_current_used: Hook,
}

/// What happens at some point of a handshake, once.
#[derive(Default)]
struct Hook(Mutex<Option<Box<dyn FnOnce() + Send>>>);

impl std::fmt::Debug for Hook {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Hook")
    }
}

impl Hook {
    fn set(&self, hook: impl FnOnce() + Send + 'static) {
        *self.0.lock().expect("no test panics in here") = Some(Box::new(hook));
    }

    fn run(&self) {
        let hook = self.0.lock().expect("no test panics in here").take();
        if let Some(hook) = hook {
            hook();
        }
    }
}

impl Secrets {
    fn change(&self, name: &str, change: impl FnOnce(&mut Machine)) {
        let mut machines = self.machines.lock().expect("no test panics in here");
        change(machines.iter_mut().find(|machine| machine.name == name).expect("it is there"));
        self.revision.fetch_add(1, Ordering::SeqCst);
    }

    fn machine(&self, name: &str) -> Machine {
        let machines = self.machines.lock().expect("no test panics in here");
        machines.iter().find(|machine| machine.name == name).expect("it is there").clone()
    }

    fn check(&self) -> Result<(), SecretsUnavailable> {
        match self.unavailable.load(Ordering::SeqCst) {
            true => Err(SecretsUnavailable("it is locked".into())),
            false => Ok(()),
        }
    }
}

impl ChannelSecrets for Secrets {
    fn find<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<Machine>, SecretsUnavailable>> {
        Box::pin(async move {
            self.check()?;
            self.during_find.run();
            let machines = self.machines.lock().expect("no test panics in here");
            Ok(machines.iter().find(|machine| machine.name.eq_ignore_ascii_case(name)).cloned())
        })
    }

    fn revision(&self) -> Result<u64, SecretsUnavailable> {
        self.check().map(|()| self.revision.load(Ordering::SeqCst))
    }

    fn current_used<'a>(&'a self, machine: &'a Machine) -> BoxFuture<'a, Result<(), SecretsUnavailable>> {
        Box::pin(async move {
            self.change(&machine.name, |machine| machine.previous = None);
            self.during_current_used.run();
            Ok(())
        })
    }

    fn rotate<'a>(
        &'a self,
        machine: &'a Machine,
        new: SharedSecret,
    ) -> BoxFuture<'a, Result<bool, SecretsUnavailable>> {
        Box::pin(async move {
            let is_current = self.machine(&machine.name).current == machine.current;
            if is_current {
                self.change(&machine.name, |machine| rotate(machine, new));
            }
            Ok(is_current)
        })
    }
}

/// What `rcmpd machine set --secret-file` does.
fn rotate(machine: &mut Machine, new: SharedSecret) {
    machine.previous = Some(std::mem::replace(&mut machine.current, new));
}

#[derive(Default)]
struct Recorder(Mutex<Vec<(ChannelOutcome, Option<Sid>)>>);

impl Audit for Recorder {
    fn channel(&self, event: &ChannelEvent<'_>) -> Result<(), AuditUnavailable> {
        self.0.lock().expect("no test panics in here").push((event.outcome, event.sid));
        Ok(())
    }
}

impl Recorder {
    fn last(&self) -> Option<ChannelOutcome> {
        self.0.lock().expect("no test panics in here").last().map(|(outcome, _)| *outcome)
    }
}

/// A clock that is set, in seconds, and numbers that count.
#[derive(Debug, Default)]
struct World {
    now: AtomicU64,
    /// In microseconds.
    waited: AtomicU64,
    drawn: AtomicU64,
    /// What a connection was told, and the pauses.
    told: Mutex<Vec<Told>>,
    during_pause: Hook,
    /// Pauses do not end.
    stopped: AtomicBool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    Proved(Sid),
    CancelIgnored,
    Paused(Duration),
}

impl CallConnection for World {
    fn prove(&self, account: Sid) {
        self.tell(Told::Proved(account));
    }

    fn ignore_cancel(&self) {
        self.tell(Told::CancelIgnored);
    }
}

impl World {
    fn tell(&self, told: Told) {
        self.told.lock().expect("no test panics in here").push(told);
    }

    fn told(&self) -> Vec<Told> {
        std::mem::take(&mut self.told.lock().expect("no test panics in here"))
    }

    fn draw(&self) -> [u8; 8] {
        let n = self.drawn.fetch_add(1, Ordering::SeqCst) + 1;
        (n.wrapping_mul(0x9e37_79b9_7f4a_7c15)).to_le_bytes()
    }
}

impl Environment for World {
    fn uptime(&self) -> Duration {
        Duration::from_secs(self.now.load(Ordering::SeqCst))
    }

    fn pause(&self, time: Duration) -> BoxFuture<'static, ()> {
        self.tell(Told::Paused(time));
        self.now.fetch_add(time.as_millis().div_ceil(1000) as u64, Ordering::SeqCst);
        self.during_pause.run();
        match self.stopped.load(Ordering::SeqCst) {
            true => Box::pin(std::future::pending()),
            false => Box::pin(std::future::ready(())),
        }
    }

    fn wait_until(&self, time: Duration) -> BoxFuture<'static, ()> {
        let left = time.saturating_sub(self.uptime());
        self.waited.fetch_add(left.as_micros() as u64, Ordering::SeqCst);
        Box::pin(std::future::ready(()))
    }

    fn challenge(&self) -> Credential {
        self.draw()
    }
}

impl Randomness for World {
    fn bytes(&self) -> [u8; 8] {
        self.draw()
    }
}

const PACKAGE: &str = "Echo";

struct Domain {
    server: NetlogonServer,
    /// Another server of the domain, which shares its channels: every second connection reaches it, and every
    /// proof.
    beside: Option<NetlogonServer>,
    secrets: Arc<Secrets>,
    audit: Arc<Recorder>,
    world: Arc<World>,
    config: Arc<ServerConfig>,
    connections: AtomicU64,
}

fn domain_sid() -> Sid {
    "S-1-5-21-1-2-3".parse().expect("a SID")
}

fn machine(name: &str, rid: u32) -> Machine {
    Machine {
        name: name.into(),
        sid: domain_sid().with_rid(rid).expect("a SID"),
        channel_type: ChannelType::WORKSTATION,
        enabled: true,
        current: SharedSecret::from_password(&format!("password of {name}")),
        previous: None,
        may_map: true,
        domains: Arc::default(),
        groups: Arc::default(),
    }
}

/// Answers with what it got and who sent it.
async fn echo(call: PackageCall) -> Result<PackageReply, Infallible> {
    let mut data = call.data;
    data.extend_from_slice(call.channel.machine().name.as_bytes());
    Ok(PackageReply { status: NtStatus::SUCCESS, authoritative: true, data: Some(Bytes::from(data)) })
}

fn domain() -> Arc<Domain> {
    domain_with(None)
}

fn domain_with(shared: Option<Arc<dyn SharedChannels>>) -> Arc<Domain> {
    let secrets = Arc::new(Secrets::default());
    secrets
        .machines
        .lock()
        .expect("no other client is here")
        .extend([machine("WEB01$", 1001), machine("WEB02$", 1002)]);
    let (audit, world) = (Arc::new(Recorder::default()), Arc::new(World::default()));
    world.now.store(1_000_000, Ordering::SeqCst);
    let parts = || ServerParts {
        names: ServerNames {
            domain: PrimaryDomain {
                netbios: "CONTOSO".into(),
                dns: "contoso.example".into(),
                guid: Guid::NIL,
                sid: domain_sid(),
            },
            server: "DC1".into(),
            strict_server_name: false,
        },
        secrets: Arc::clone(&secrets) as _,
        packages: Packages::default().with(PACKAGE, BoxCloneSyncService::new(service_fn(echo))),
        audit: Arc::clone(&audit) as _,
        environment: Arc::clone(&world) as _,
        response_crypt: ResponseCrypt::Encrypt,
    };
    let make = || match &shared {
        Some(shared) => NetlogonServer::with_shared_channels(parts(), Arc::clone(shared)),
        None => NetlogonServer::new(parts()),
    };
    let server = make();
    let config = Arc::new(ServerConfig {
        interfaces: vec![NETLOGON],
        secondary_address: "11490".into(),
        groups: Arc::new(AssociationGroups::default()),
        reassembly: Arc::new(ReassemblyBudget::default()),
    });
    let beside = shared.as_ref().map(|_| make());
    Arc::new(Domain { server, beside, secrets, audit, world, config, connections: AtomicU64::new(0) })
}

impl Domain {
    /// The server that a balancer sends a connection to. A proof goes to another one than the challenge
    /// before it.
    fn at(&self, connection: u64, call: Option<u16>) -> &NetlogonServer {
        let is_beside = match call {
            Some(opnum::SERVER_REQ_CHALLENGE) => false,
            Some(opnum::SERVER_AUTHENTICATE2 | opnum::SERVER_AUTHENTICATE3) => true,
            _ => connection % 2 == 1,
        };
        self.beside.as_ref().filter(|_| is_beside).unwrap_or(&self.server)
    }
}

/// What happens to bytes on the way.
type Tamper = Box<dyn FnMut(Direction, &mut Vec<u8>) + Send>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Direction {
    ToServer,
    ToClient,
}

/// One connection: both halves of an association, and an attacker between them.
struct Wire {
    domain: Arc<Domain>,
    client: ClientAssociation,
    server: ServerAssociation,
    connection: u64,
    token: Vec<u8>,
    tamper: Tamper,
}

const CLIENT: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 40_000);

impl Wire {
    async fn open(
        domain: &Arc<Domain>,
        security: Option<ClientSecurity>,
        tamper: Tamper,
    ) -> Result<Self, TransportError> {
        let config = ClientConfig { interface: NETLOGON, syntax: NdrSyntax::Ndr, first_call_id: 1, security };
        let mut wire = Self {
            domain: Arc::clone(domain),
            client: ClientAssociation::new(config),
            server: ServerAssociation::new(Arc::clone(&domain.config), CLIENT.ip()),
            connection: domain.connections.fetch_add(1, Ordering::SeqCst),
            token: Vec::new(),
            tamper,
        };
        match wire.run().await? {
            ClientEvent::Bound { token, .. } => {
                wire.token = token;
                Ok(wire)
            }
            other => panic!("{other:?} before the bind"),
        }
    }

    /// Moves bytes and performs calls until the client has something to tell.
    async fn run(&mut self) -> Result<ClientEvent, TransportError> {
        loop {
            let mut moved = false;
            while let Some(transmit) = self.client.poll_transmit() {
                let mut bytes = bytes(transmit).await;
                (self.tamper)(Direction::ToServer, &mut bytes);
                self.server.receive(&bytes);
                moved = true;
            }
            while let Some(event) = self.server.poll_event() {
                moved = true;
                match event {
                    Event::Authenticate(token) => {
                        let outcome = self.domain.at(self.connection, None).accept(token).await;
                        self.server.authenticated(outcome);
                    }
                    Event::Call(call) => {
                        let id = call.id;
                        let server = self.domain.at(self.connection, Some(call.opnum));
                        let call = NetlogonCall {
                            connection: self.connection,
                            address: CLIENT,
                            caller: Arc::clone(&self.domain.world) as _,
                            call,
                        };
                        let outcome = server.call(call).await;
                        self.server.reply(id, outcome);
                    }
                    Event::Cancel(_) => {}
                }
            }
            while let Some(transmit) = self.server.poll_transmit() {
                let mut bytes = bytes(transmit).await;
                (self.tamper)(Direction::ToClient, &mut bytes);
                moved = true;
                self.client.receive(&bytes).map_err(|error| match error {
                    ClientError::BindRefused(_) | ClientError::HeaderSigningRefused => {
                        TransportError::Refused(error.to_string())
                    }
                    error => TransportError::Protocol(format!("{error:?}")),
                })?;
            }
            if let Some(event) = self.client.poll_event() {
                return Ok(event);
            }
            if self.server.is_closing() || !moved {
                return Err(TransportError::Unreachable("closed".into()));
            }
        }
    }
}

async fn bytes(transmit: Transmit) -> Vec<u8> {
    match transmit {
        Transmit::Ready(bytes) => bytes,
        Transmit::Pending(protecting) => protecting.await,
    }
}

impl Association for Wire {
    fn token(&self) -> &[u8] {
        &self.token
    }

    fn is_stale(&self) -> bool {
        false
    }

    fn call<'a>(
        &'a mut self,
        opnum: u16,
        request: RequestStub,
    ) -> BoxFuture<'a, Result<ReplyStub, TransportError>> {
        Box::pin(async move {
            self.client.call(opnum, request).map_err(|error| TransportError::Protocol(error.to_string()))?;
            match self.run().await? {
                ClientEvent::Reply { outcome, .. } => outcome.map_err(TransportError::Fault),
                other => panic!("{other:?} instead of a reply"),
            }
        })
    }
}

/// Opens wires, each with the same kind of person in the middle.
struct Network {
    domain: Arc<Domain>,
    tamper: Box<dyn Fn() -> Tamper + Send + Sync>,
}

impl Transport for Network {
    fn open<'a>(
        &'a self,
        security: Option<ClientSecurity>,
    ) -> BoxFuture<'a, Result<Box<dyn Association>, TransportError>> {
        Box::pin(async move { Ok(Box::new(Wire::open(&self.domain, security, (self.tamper)()).await?) as _) })
    }
}

fn honest(domain: &Arc<Domain>) -> Network {
    Network { domain: Arc::clone(domain), tamper: Box::new(|| Box::new(|_, _| {})) }
}

fn identity(account: &str) -> ClientIdentity {
    ClientIdentity {
        server_name: "dc1".into(),
        domain: "CONTOSO".into(),
        computer: account.trim_end_matches('$').into(),
        account: account.into(),
        channel_type: ChannelType::WORKSTATION,
        secret: SharedSecret::from_password(&format!("password of {account}")),
    }
}

fn now() -> u32 {
    1_700_000_000
}

fn establish(network: &Network, identity: ClientIdentity) -> Result<ClientChannel, ChannelError> {
    block_on(ClientChannel::establish(network, identity, &*network.domain.world, now))
}

fn open(network: &Network, channel: &ClientChannel) -> Result<Box<dyn Association>, ChannelError> {
    block_on(channel.open(network, &*network.domain.world))
}

fn ask(
    channel: &ClientChannel,
    association: &mut dyn Association,
    data: &[u8],
) -> Result<(NtStatus, Vec<u8>), ChannelError> {
    let answer = block_on(channel.ask(association, PACKAGE, "CONTOSO", data))?;
    Ok((answer.status, answer.data.map(|data| data.decrypted()).unwrap_or_default()))
}

/// A channel and a protected association, checked for downgrades.
fn connected(domain: &Arc<Domain>, account: &str) -> (ClientChannel, Box<dyn Association>) {
    let network = honest(domain);
    let channel = establish(&network, identity(account)).expect("the secret is right");
    let mut association = open(&network, &channel).expect("it has a channel");
    block_on(channel.check_capabilities(&mut *association)).expect("no attacker changed anything");
    (channel, association)
}

#[test]
fn a_question_of_any_size_is_answered() {
    let domain = domain();
    let (channel, mut association) = connected(&domain, "WEB01$");
    assert_eq!(domain.audit.last(), Some(ChannelOutcome::Established));
    for len in [1, 15, 16, 17, 700, 5_700, 5_800, 12_000, 200_000] {
        let data: Vec<u8> = (0..len).map(|n: u32| n as u8).collect();
        let (status, answer) = ask(&channel, &mut *association, &data).expect("it is answered");
        assert_eq!(status, NtStatus::SUCCESS);
        assert_eq!(answer, [&data[..], b"WEB01$"].concat(), "{len} bytes");
    }
}

#[test]
fn who_has_no_channel_gets_no_answer() {
    let domain = domain();
    for (identity, expect, reason) in [
        (
            ClientIdentity { secret: SharedSecret::from_password("wrong"), ..identity("WEB01$") },
            NtStatus::ACCESS_DENIED,
            ChannelRefusal::WrongCredential,
        ),
        (identity("WEB09$"), NtStatus::NO_TRUST_SAM_ACCOUNT, ChannelRefusal::UnknownAccount),
        (
            ClientIdentity { channel_type: ChannelType(1), ..identity("WEB01$") },
            NtStatus::INVALID_PARAMETER,
            ChannelRefusal::ChannelType,
        ),
        (
            ClientIdentity { channel_type: ChannelType::SERVER, ..identity("WEB01$") },
            NtStatus::NO_TRUST_SAM_ACCOUNT,
            ChannelRefusal::OtherChannelType,
        ),
        (
            // A machine in another's name: its own secret, the other's computer.
            ClientIdentity { computer: "WEB02".into(), ..identity("WEB01$") },
            NtStatus::ACCESS_DENIED,
            ChannelRefusal::NameMismatch,
        ),
    ] {
        assert_eq!(
            establish(&honest(&domain), identity).map(|_| ()),
            Err(ChannelError::Refused(expect)),
            "{reason:?}"
        );
        assert_eq!(domain.audit.last(), Some(ChannelOutcome::Refused(reason)));
    }
    domain.secrets.change("WEB01$", |machine| machine.enabled = false);
    assert_eq!(
        establish(&honest(&domain), identity("WEB01$")).map(|_| ()),
        Err(ChannelError::Refused(NtStatus::NO_TRUST_SAM_ACCOUNT))
    );
    assert_eq!(domain.audit.last(), Some(ChannelOutcome::Refused(ChannelRefusal::AccountDisabled)));
    domain.secrets.unavailable.store(true, Ordering::SeqCst);
    assert_eq!(
        establish(&honest(&domain), identity("WEB01$")).map(|_| ()),
        Err(ChannelError::Refused(NtStatus::DS_BUSY)),
        "not being able to tell is not no"
    );
}

#[test]
fn an_account_that_is_missing_or_unusable_is_refused_after_the_same_time() {
    let domain = domain();
    domain.secrets.change("WEB02$", |machine| machine.enabled = false);
    let times = [
        identity("WEB09$"),
        identity("WEB02$"),
        ClientIdentity { channel_type: ChannelType::SERVER, ..identity("WEB01$") },
    ]
    .map(|identity| {
        let waited = domain.world.waited.load(Ordering::SeqCst);
        assert_eq!(
            establish(&honest(&domain), identity).map(|_| ()),
            Err(ChannelError::Refused(NtStatus::NO_TRUST_SAM_ACCOUNT))
        );
        domain.world.waited.load(Ordering::SeqCst) - waited
    });
    assert_eq!(times, [2_000; 3], "microseconds since the call came");
}

#[test]
fn a_channel_without_a_handshake_cannot_be_bound_to() {
    let domain = domain();
    let other = self::domain();
    let (channel, _) = connected(&other, "WEB01$");
    assert!(matches!(
        open(&honest(&domain), &channel),
        Err(ChannelError::Transport(TransportError::Refused(_)))
    ));
    // With a channel of that computer, but another key, the bind says nothing and the first call is refused.
    let (_, _) = connected(&domain, "WEB01$");
    let mut association = open(&honest(&domain), &channel).expect("the name is known");
    let fault = TransportError::Fault(FaultStatus::SEC_PKG_ERROR);
    assert_eq!(ask(&channel, &mut *association, b"x"), Err(ChannelError::Transport(fault)));
}

#[test]
fn nothing_is_answered_to_who_only_signs_or_not_even_that() {
    let domain = domain();
    let network = honest(&domain);
    let channel = establish(&network, identity("WEB01$")).expect("the secret is right");
    let mut unprotected = block_on(network.open(None)).expect("every client may bind");
    assert_eq!(
        ask(&channel, &mut *unprotected, b"x").map(|(status, _)| status),
        Ok(NtStatus::ACCESS_DENIED),
        "without a security context"
    );
    let mut security = channel.security(&*domain.world);
    security.level = dcerpc::security::AuthLevel::INTEGRITY;
    let mut signed = block_on(network.open(Some(security))).expect("signing is understood");
    assert_eq!(
        ask(&channel, &mut *signed, b"x").map(|(status, _)| status),
        Ok(NtStatus::ACCESS_DENIED),
        "signed but not sealed"
    );
    let mut security = channel.security(&*domain.world);
    security.level = dcerpc::security::AuthLevel::CONNECT;
    assert!(block_on(network.open(Some(security))).is_err(), "a channel protects or is none");
}

/// Tampers with the nth message in a direction.
fn tampering(
    domain: &Arc<Domain>,
    direction: Direction,
    nth: usize,
    change: impl Fn(&mut Vec<u8>) + Clone + Send + Sync + 'static,
) -> Network {
    let tamper = move || {
        let change = change.clone();
        let mut count = 0;
        Box::new(move |way: Direction, bytes: &mut Vec<u8>| {
            if way == direction {
                if count == nth {
                    change(bytes);
                }
                count += 1;
            }
        }) as Tamper
    };
    Network { domain: Arc::clone(domain), tamper: Box::new(tamper) }
}

#[test]
fn flags_that_were_changed_on_the_way_are_noticed() {
    let domain = domain();
    // The server's answer to opnum 26 is the third message to the client; its flags stand at 24 + 8.
    for (what, change) in [
        ("AES taken out", 0x0100_0000u32),
        ("secure RPC taken out", 0x4000_0000),
        ("pass-through taken out", 0x400),
        ("Kerberos put in", 0x8000_0000),
    ] {
        let network = tampering(&domain, Direction::ToClient, 2, move |bytes| {
            let flags = u32::from_le_bytes(*bytes[32..].first_chunk().expect("it is there")) ^ change;
            bytes[32..36].copy_from_slice(&flags.to_le_bytes());
        });
        assert_eq!(
            establish(&network, identity("WEB01$")).map(|_| ()),
            Err(ChannelError::Downgrade),
            "{what}"
        );
    }
    // A bit that neither side insists on is found out by opnum 21, under the seal.
    let network = tampering(&domain, Direction::ToClient, 2, |bytes| bytes[32] ^= 0x40);
    let channel = establish(&network, identity("WEB01$")).expect("it does not look wrong yet");
    let mut association = open(&honest(&domain), &channel).expect("the key is right");
    assert_eq!(block_on(channel.check_capabilities(&mut *association)), Err(ChannelError::Downgrade));
    // And the other way round: what the client offered.
    let network = tampering(&domain, Direction::ToServer, 2, |bytes| {
        let at = bytes.len() - 4;
        bytes[at + 3] ^= 0x01;
    });
    assert_eq!(establish(&network, identity("WEB01$")).map(|_| ()), Err(ChannelError::Downgrade));
    assert_eq!(domain.audit.last(), Some(ChannelOutcome::Refused(ChannelRefusal::Downgrade)));
}

#[test]
fn a_server_that_does_not_know_the_secret_is_noticed() {
    let domain = domain();
    let network = tampering(&domain, Direction::ToClient, 2, |bytes| bytes[24] ^= 1);
    assert_eq!(establish(&network, identity("WEB01$")).map(|_| ()), Err(ChannelError::ServerCredential));
}

#[test]
fn zerologon_s_zeroes_open_nothing() {
    let domain = domain();
    // A client challenge and credential of zeroes, as often as it likes: the challenge alone is refused.
    for attempt in 0..300 {
        let network = Network {
            domain: Arc::clone(&domain),
            tamper: Box::new(|| {
                let mut count = 0;
                Box::new(move |way, bytes: &mut Vec<u8>| {
                    if way == Direction::ToServer {
                        let len = bytes.len();
                        match count {
                            1 => bytes[len - 8..].fill(0),
                            2 => bytes[len - 14..len - 6].fill(0),
                            _ => {}
                        }
                        count += 1;
                    }
                })
            }),
        };
        let outcome = establish(&network, identity("WEB01$")).map(|_| ());
        assert_eq!(outcome, Err(ChannelError::Refused(NtStatus::ACCESS_DENIED)), "attempt {attempt}");
        assert_eq!(domain.audit.last(), Some(ChannelOutcome::Refused(ChannelRefusal::WeakChallenge)));
    }
}

#[test]
fn a_challenge_is_good_for_one_attempt() {
    let domain = domain();
    let network = honest(&domain);
    let mut association = block_on(network.open(None)).expect("every client may bind");
    let channel = establish(&network, identity("WEB01$")).expect("the secret is right");
    drop(channel);
    // No challenge before it on this connection, and the one before was used up.
    let stub = {
        let mut writer = dcerpc::ndr::NdrWriter::new(NdrSyntax::Ndr);
        netlogon_transport::message::Authenticate {
            primary_name: None,
            account_name: "WEB01$".into(),
            channel_type: 2,
            computer_name: "WEB01".into(),
            client_credential: [7; 8],
            negotiate_flags: 0x4100_0400,
        }
        .write(&mut writer);
        writer.into_bytes()
    };
    let reply = block_on(association.call(opnum::SERVER_AUTHENTICATE3, stub.into())).expect("it is answered");
    assert_eq!(reply.stub[16..], NtStatus::ACCESS_DENIED.0.to_le_bytes());
    assert_eq!(domain.audit.last(), Some(ChannelOutcome::Refused(ChannelRefusal::NoChallenge)));
}

#[test]
fn guessing_gets_slow_and_the_machine_gets_in_from_the_same_address() {
    let domain = domain();
    let guess = || {
        let identity = ClientIdentity { secret: SharedSecret::from_password("guess"), ..identity("WEB01$") };
        let _ = establish(&honest(&domain), identity);
        assert_eq!(domain.audit.last(), Some(ChannelOutcome::Refused(ChannelRefusal::WrongCredential)));
    };
    let seconds = |attempt: &dyn Fn()| {
        let since = domain.world.uptime();
        attempt();
        (domain.world.uptime() - since).as_secs()
    };
    for _ in 0..5 {
        assert_eq!(seconds(&guess), 0, "some failures cost nothing");
    }
    assert_eq!(domain.world.told(), []);
    let sid = domain.secrets.machine("WEB01$").sid;
    let right = || drop(establish(&honest(&domain), identity("WEB01$")).expect("the secret is right"));
    for _ in 0..50 {
        assert_eq!((seconds(&guess), seconds(&right)), (2, 2));
    }
    let pause = Told::Paused(Duration::from_secs(2));
    let attempts = [Told::CancelIgnored, pause, Told::CancelIgnored, Told::Proved(sid), pause];
    assert_eq!(domain.world.told(), attempts.repeat(50), "a right proof counts before its answer");
    // The time counts from the arrival, whatever took long before the proof was checked.
    for attempt in [&guess as &dyn Fn(), &right] {
        let world = Arc::clone(&domain.world);
        domain.secrets.during_find.set(move || {
            world.now.fetch_add(1, Ordering::SeqCst);
        });
        assert_eq!(seconds(attempt), 2);
    }
    let of_another = |secret: &str| {
        let secret = SharedSecret::from_password(secret);
        let _ = establish(&honest(&domain), ClientIdentity { secret, ..identity("WEB02$") });
    };
    assert_eq!(seconds(&|| of_another("guess")), 0, "another account");
    assert_eq!(seconds(&|| of_another("password of WEB02$")), 0);
}

#[test]
fn a_client_that_hangs_up_while_its_answer_waits_has_made_its_guess() {
    let domain = domain();
    let wrong = || ClientIdentity { secret: SharedSecret::from_password("guess"), ..identity("WEB01$") };
    for _ in 0..5 {
        assert!(establish(&honest(&domain), wrong()).is_err());
    }
    assert_eq!(domain.world.told(), []);
    domain.world.stopped.store(true, Ordering::SeqCst);
    let network = honest(&domain);
    for secret in [wrong(), identity("WEB01$")] {
        let channel = ClientChannel::establish(&network, secret, &*domain.world, now);
        let mut channel = std::pin::pin!(channel);
        assert!(channel.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    }
    let refused = ChannelOutcome::Refused(ChannelRefusal::WrongCredential);
    let outcomes = domain.audit.0.lock().expect("no test panics in here").clone();
    assert!(outcomes.iter().all(|(outcome, _)| *outcome == refused), "no channel before the answer");
}

#[test]
fn a_handshake_is_judged_by_the_account_as_it_is_when_the_channel_is_set_up() {
    type Change = fn(&mut Machine);
    let changes: [(&str, Change, NtStatus); 4] = [
        ("disabled", |machine| machine.enabled = false, NtStatus::NO_TRUST_SAM_ACCOUNT),
        ("removed", |machine| machine.name = "GONE$".into(), NtStatus::NO_TRUST_SAM_ACCOUNT),
        (
            "another secret, and the one before ended at once",
            |machine| machine.current = SharedSecret::from_password("another"),
            NtStatus::ACCESS_DENIED,
        ),
        (
            "another account of that name",
            |machine| machine.sid = domain_sid().with_rid(7).expect("a SID"),
            NtStatus::NO_TRUST_SAM_ACCOUNT,
        ),
    ];
    for (what, change, status) in changes {
        let domain = domain();
        let wrong = SharedSecret::from_password("guess");
        for _ in 0..5 {
            let identity = ClientIdentity { secret: wrong.clone(), ..identity("WEB01$") };
            assert!(establish(&honest(&domain), identity).is_err());
        }
        let secrets = Arc::clone(&domain.secrets);
        domain.world.during_pause.set(move || secrets.change("WEB01$", change));
        let outcome = establish(&honest(&domain), identity("WEB01$")).map(|_| ());
        assert_eq!(outcome, Err(ChannelError::Refused(status)), "{what} while the answer waits");
        assert!(matches!(domain.audit.last(), Some(ChannelOutcome::Refused(_))), "{what}");
        // The same while the store notes that the current secret was used.
        let domain = self::domain();
        let previous = Some(SharedSecret::from_password("the one before"));
        domain.secrets.change("WEB01$", |machine| machine.previous = previous);
        let secrets = Arc::clone(&domain.secrets);
        domain.secrets.during_current_used.set(move || secrets.change("WEB01$", change));
        let outcome = establish(&honest(&domain), identity("WEB01$")).map(|_| ());
        assert_eq!(outcome, Err(ChannelError::Refused(status)), "{what} while the use is noted");
    }
}

#[test]
fn a_secret_that_becomes_the_previous_one_while_the_answer_waits_is_accepted() {
    let domain = domain();
    for _ in 0..5 {
        let secret = SharedSecret::from_password("guess");
        assert!(establish(&honest(&domain), ClientIdentity { secret, ..identity("WEB01$") }).is_err());
    }
    let secrets = Arc::clone(&domain.secrets);
    domain.world.during_pause.set(move || {
        secrets.change("WEB01$", |machine| rotate(machine, SharedSecret::from_password("the next")));
    });
    let channel = establish(&honest(&domain), identity("WEB01$")).expect("the secret is the previous one");
    let mut association = open(&honest(&domain), &channel).expect("there is a channel");
    assert!(ask(&channel, &mut *association, b"x").is_ok());
}

#[test]
fn whatever_changes_under_a_channel_ends_it_at_the_next_call() {
    for (what, change) in [
        ("disabled", Box::new(|machine: &mut Machine| machine.enabled = false) as Box<dyn Fn(&mut Machine)>),
        ("removed", Box::new(|machine| machine.name = "GONE$".into())),
        (
            "another account of that name",
            Box::new(|machine| machine.sid = domain_sid().with_rid(7).expect("a SID")),
        ),
        (
            "another secret, and the one before ended at once",
            Box::new(|machine| machine.current = SharedSecret::from_password("another")),
        ),
    ] {
        let domain = domain();
        let (channel, mut association) = connected(&domain, "WEB01$");
        domain.secrets.change("WEB01$", change);
        let refused = ask(&channel, &mut *association, b"x").map(|(status, _)| status);
        assert_eq!(refused, Ok(NtStatus::ACCESS_DENIED), "{what}");
        // Afterwards the context itself is at its end, and no new one can be bound.
        let fault = ChannelError::Transport(TransportError::Fault(FaultStatus::ACCESS_DENIED));
        assert_eq!(ask(&channel, &mut *association, b"x"), Err(fault), "{what}");
        assert!(open(&honest(&domain), &channel).is_err(), "{what}");
    }
    let domain = domain();
    let (channel, mut association) = connected(&domain, "WEB01$");
    domain.secrets.change("WEB01$", |machine| machine.may_map = false);
    assert!(ask(&channel, &mut *association, b"x").is_ok(), "a permission is not the channel");
    domain.world.now.fetch_add(12 * 3600, Ordering::SeqCst);
    let refused = ask(&channel, &mut *association, b"x").map(|(status, _)| status);
    assert_eq!(refused, Ok(NtStatus::ACCESS_DENIED), "half a day is over");
}

#[test]
fn not_knowing_is_not_no() {
    let domain = domain();
    let (channel, mut association) = connected(&domain, "WEB01$");
    domain.secrets.unavailable.store(true, Ordering::SeqCst);
    let answer = block_on(channel.ask(&mut *association, PACKAGE, "CONTOSO", b"x")).expect("it is answered");
    assert_eq!((answer.status, answer.authoritative), (NtStatus::DS_BUSY, false));
    domain.secrets.unavailable.store(false, Ordering::SeqCst);
    assert!(ask(&channel, &mut *association, b"x").is_ok(), "and it goes on");
}

#[test]
fn machines_do_not_disturb_each_other() {
    let domain = domain();
    let (first, mut first_association) = connected(&domain, "WEB01$");
    let (second, mut second_association) = connected(&domain, "WEB02$");
    // A second process of the same machine sets its own channel up; the first goes on, on old and new
    // connections.
    let (third, mut third_association) = connected(&domain, "WEB01$");
    for (channel, association, account) in [
        (&first, &mut first_association, "WEB01$"),
        (&second, &mut second_association, "WEB02$"),
        (&third, &mut third_association, "WEB01$"),
    ] {
        let (_, answer) = ask(channel, &mut **association, b"from ").expect("it is answered");
        assert_eq!(answer, format!("from {account}").as_bytes());
    }
    let mut again = open(&honest(&domain), &first).expect("it is still known");
    assert!(ask(&first, &mut *again, b"x").is_ok());
}

/// The status of a question over an association.
fn asked(channel: &ClientChannel, association: &mut dyn Association) -> Result<NtStatus, ChannelError> {
    ask(channel, association, b"x").map(|(status, _)| status)
}

fn set_password(
    domain: &Arc<Domain>,
    (channel, association): &mut (ClientChannel, Box<dyn Association>),
    password: &str,
) -> Result<(), ChannelError> {
    let password = dtyp::utf16le(password);
    block_on(channel.set_password(&mut **association, &password, &*domain.world))
}

fn with_secret(account: &str, password: &str) -> ClientIdentity {
    ClientIdentity { secret: SharedSecret::from_password(password), ..identity(account) }
}

/// Whether a question over a new connection of a channel is answered. The bind names a computer only, so it
/// succeeds while another channel of that computer is good.
fn serves_anew(domain: &Arc<Domain>, channel: &ClientChannel) -> bool {
    open(&honest(domain), channel).is_ok_and(|mut association| asked(channel, &mut *association) == SERVED)
}

const ENDED: Result<NtStatus, ChannelError> = Ok(NtStatus::ACCESS_DENIED);
const SERVED: Result<NtStatus, ChannelError> = Ok(NtStatus::SUCCESS);

#[test]
fn a_rotated_secret_takes_over_in_one_step() {
    let domain = domain();
    let mut before = connected(&domain, "WEB01$");
    set_password(&domain, &mut before, "the new password of WEB01").expect("it is taken");
    assert_eq!(domain.audit.last(), Some(ChannelOutcome::Rotated));
    assert_eq!(asked(&before.0, &mut *before.1), SERVED, "a client goes on over the channel that rotated");
    assert_eq!(domain.secrets.machine("WEB02$").previous, None, "no other account's secret changed");
    // The old secret still opens a channel, until the new one does.
    let mut old = connected(&domain, "WEB01$");
    assert_eq!(asked(&old.0, &mut *old.1), SERVED);
    let new = with_secret("WEB01$", "the new password of WEB01");
    let new = establish(&honest(&domain), new).expect("it is the secret now");
    assert_eq!(
        establish(&honest(&domain), identity("WEB01$")).map(|_| ()),
        Err(ChannelError::Refused(NtStatus::ACCESS_DENIED)),
        "the previous secret died at the first use of the current one"
    );
    for (what, (channel, association)) in [("rotated", &mut before), ("by the secret before", &mut old)] {
        assert!(!serves_anew(&domain, channel), "{what}: no new connection");
        assert_ne!(asked(channel, &mut **association), SERVED, "{what}: no call on an open one");
    }
    let mut association = open(&honest(&domain), &new).expect("it has a channel");
    assert_eq!(asked(&new, &mut *association), SERVED);
}

#[test]
fn a_secret_that_was_rotated_away_does_not_choose_the_next_one() {
    let domain = domain();
    let mut thief = connected(&domain, "WEB01$");
    domain
        .secrets
        .change("WEB01$", |machine| rotate(machine, SharedSecret::from_password("by the operator")));
    let mut late_thief = connected(&domain, "WEB01$");
    let denied = Err(ChannelError::Refused(NtStatus::ACCESS_DENIED));
    for thief in [&mut thief, &mut late_thief] {
        // Neither a secret of its own, nor a guess at the current one.
        for password in ["of the thief's own choice", "by the operator"] {
            assert_eq!(set_password(&domain, thief, password), denied);
            assert_eq!(domain.audit.last(), Some(ChannelOutcome::RotationDenied));
        }
        assert_eq!(asked(&thief.0, &mut *thief.1), SERVED, "it still answers while the new one is unused");
    }
    let owner =
        establish(&honest(&domain), with_secret("WEB01$", "by the operator")).expect("it is the secret");
    for (channel, association) in [&mut thief, &mut late_thief] {
        assert_ne!(asked(channel, &mut **association), SERVED);
        assert!(!serves_anew(&domain, channel));
    }
    let machine = domain.secrets.machine("WEB01$");
    assert_eq!((machine.current, machine.previous), (SharedSecret::from_password("by the operator"), None));
    let mut association = open(&honest(&domain), &owner).expect("it has a channel");
    assert_eq!(asked(&owner, &mut *association), SERVED);
}

#[test]
fn a_channel_of_the_previous_secret_ends_with_it_even_if_no_change_is_written() {
    let domain = domain();
    domain.secrets.change("WEB01$", |machine| rotate(machine, SharedSecret::from_password("new")));
    let (channel, mut association) = connected(&domain, "WEB01$");
    assert_eq!(asked(&channel, &mut *association), SERVED);
    // Its day is over: the store answers differently, at the same revision.
    let revision = domain.secrets.revision.load(Ordering::SeqCst);
    domain.secrets.change("WEB01$", |machine| machine.previous = None);
    domain.secrets.revision.store(revision, Ordering::SeqCst);
    assert_eq!(asked(&channel, &mut *association), ENDED);
    domain.secrets.change("WEB01$", |machine| machine.current = identity("WEB01$").secret);
    assert_ne!(asked(&channel, &mut *association), SERVED, "what was ended stays so");
}

#[test]
fn a_secret_that_is_set_again_is_the_current_one() {
    let domain = domain();
    let mut channel = connected(&domain, "WEB01$");
    let own = "password of WEB01$";
    set_password(&domain, &mut channel, "a second password").expect("it is taken");
    let mut second = {
        let network = honest(&domain);
        let channel = establish(&network, with_secret("WEB01$", "a second password")).expect("it is taken");
        let association = open(&network, &channel).expect("it has a channel");
        (channel, association)
    };
    assert_ne!(set_password(&domain, &mut channel, own), Ok(()), "its secret is gone");
    set_password(&domain, &mut second, own).expect("it is taken");
    let mut third = connected(&domain, "WEB01$");
    assert_eq!(asked(&third.0, &mut *third.1), SERVED);
    assert_ne!(asked(&second.0, &mut *second.1), SERVED);
    assert_ne!(asked(&channel.0, &mut *channel.1), SERVED, "a channel that ended does not come back");
    set_password(&domain, &mut third, "a fourth password").expect("its secret is the current one");
}

#[test]
fn a_rotation_that_comes_after_another_one_is_refused() {
    let domain = domain();
    let mut channel = connected(&domain, "WEB01$");
    // The operator is faster: the server has read the account already.
    let revision = domain.secrets.revision.load(Ordering::SeqCst);
    domain
        .secrets
        .change("WEB01$", |machine| rotate(machine, SharedSecret::from_password("by the operator")));
    domain.secrets.revision.store(revision, Ordering::SeqCst);
    let denied = Err(ChannelError::Refused(NtStatus::ACCESS_DENIED));
    assert_eq!(set_password(&domain, &mut channel, "of the machine's choice"), denied);
    assert_eq!(domain.audit.last(), Some(ChannelOutcome::RotationDenied));
    assert_eq!(domain.secrets.machine("WEB01$").current, SharedSecret::from_password("by the operator"));
}

#[test]
fn a_password_that_was_not_encrypted_is_refused() {
    let domain = domain();
    let (channel, mut association) = connected(&domain, "WEB01$");
    for (what, password, length) in [
        ("in the clear", vec![0x41; 512], 64u32),
        ("all one byte", vec![0; 512], 0),
        ("a length beyond the buffer", vec![0x41; 512], 1000),
    ] {
        let mut clear = [0; 516];
        clear[..512].copy_from_slice(&password);
        clear[300] = 0x42;
        clear[512..].copy_from_slice(&length.to_le_bytes());
        let stub = {
            let mut writer = dcerpc::ndr::NdrWriter::new(NdrSyntax::Ndr);
            netlogon_transport::message::PasswordSet2 {
                primary_name: None,
                account_name: "WEB02$".into(),
                channel_type: 2,
                computer_name: "WEB01".into(),
                authenticator: channel.authenticator(),
                clear_new_password: zeroize::Zeroizing::new(clear),
            }
            .write(&mut writer);
            writer.into_bytes()
        };
        let reply =
            block_on(association.call(opnum::SERVER_PASSWORD_SET2, stub.into())).expect("it is answered");
        let status = u32::from_le_bytes(*reply.stub[12..].first_chunk().expect("a status"));
        // An authenticator is right once; a client that does not check the answer loses its place in the
        // sequence.
        let expect = if what == "in the clear" { NtStatus::WRONG_PASSWORD } else { NtStatus::ACCESS_DENIED };
        assert_eq!(NtStatus(status), expect, "{what}");
    }
    assert_eq!(domain.secrets.machine("WEB01$"), machine("WEB01$", 1001));
}

#[test]
fn a_recorded_answer_is_no_answer_to_another_question() {
    // Both associations are under one key, and both ask their first question: without header signing and with
    // numbers that can be guessed, the one's answer would verify as the other's.
    let domain = domain();
    let recorded: Arc<Mutex<Vec<u8>>> = Arc::default();
    let network = honest(&domain);
    let channel = establish(&network, identity("WEB01$")).expect("the secret is right");
    let recorder = {
        let recorded = Arc::clone(&recorded);
        let tamper = move || {
            let recorded = Arc::clone(&recorded);
            Box::new(move |way: Direction, bytes: &mut Vec<u8>| {
                if way == Direction::ToClient {
                    *recorded.lock().expect("no test panics in here") = bytes.clone();
                }
            }) as Tamper
        };
        Network { domain: Arc::clone(&domain), tamper: Box::new(tamper) }
    };
    let mut first = open(&recorder, &channel).expect("it has a channel");
    assert_eq!(
        ask(&channel, &mut *first, b"who is mallory?").map(|(status, _)| status),
        Ok(NtStatus::SUCCESS)
    );
    let answer = recorded.lock().expect("no test panics in here").clone();
    let replayer = tampering(&domain, Direction::ToClient, 1, move |bytes| {
        let call_id: [u8; 4] = *bytes[12..].first_chunk().expect("a header");
        *bytes = answer.clone();
        // An attacker that replays can put right what is not protected, but for what the signature covers.
        bytes[12..16].copy_from_slice(&call_id);
    });
    let mut second = open(&replayer, &channel).expect("it has a channel");
    let outcome = ask(&channel, &mut *second, b"who is alice???");
    assert!(matches!(outcome, Err(ChannelError::Transport(TransportError::Protocol(_)))), "{outcome:?}");
}

#[test]
fn a_server_that_does_not_sign_headers_is_refused() {
    let domain = domain();
    let channel = establish(&honest(&domain), identity("WEB01$")).expect("the secret is right");
    let network = tampering(&domain, Direction::ToClient, 0, |bytes| bytes[3] &= !0x04);
    assert!(matches!(open(&network, &channel), Err(ChannelError::Transport(TransportError::Refused(_)))));
    // And when the client's wish is taken away on the way, the server tells, or the first call does.
    let network = tampering(&domain, Direction::ToServer, 0, |bytes| bytes[3] &= !0x04);
    assert!(matches!(open(&network, &channel), Err(ChannelError::Transport(TransportError::Refused(_)))));
}

#[test]
fn a_flipped_bit_anywhere_in_a_request_is_refused() {
    let domain = domain();
    let channel = establish(&honest(&domain), identity("WEB01$")).expect("the secret is right");
    // The lengths are the association's business, and the token's last 24 bytes mean nothing.
    const REQUEST_LEN: usize = 392;
    for at in (0..REQUEST_LEN - 24).filter(|at| !(8..12).contains(at)) {
        let network = tampering(&domain, Direction::ToServer, 1, move |bytes| {
            assert_eq!(bytes.len(), REQUEST_LEN);
            bytes[at] ^= 0x10;
        });
        let mut association = open(&network, &channel).expect("the bind is left alone");
        let outcome = ask(&channel, &mut *association, &[0x5a; 64]);
        assert!(outcome.is_err(), "byte {at}: {outcome:?}");
    }
}

#[test]
fn methods_that_tell_hashes_or_do_not_exist_are_refused() {
    let domain = domain();
    let (_, mut association) = connected(&domain, "WEB01$");
    for opnum in [31, 42, 46] {
        let reply = block_on(association.call(opnum, vec![0; 64].into())).expect("it is answered");
        let (hashes, status) = reply.stub.split_at(reply.stub.len() - 4);
        assert!(hashes.iter().all(|byte| *byte == 0));
        assert_eq!(status, NtStatus::NOT_SUPPORTED.0.to_le_bytes(), "opnum {opnum}");
    }
    for opnum in [47, 50, 59, 60, 1000] {
        let outcome = block_on(association.call(opnum, vec![0; 64].into()));
        assert_eq!(outcome, Err(TransportError::Fault(FaultStatus::OP_RANGE_ERROR)), "opnum {opnum}");
    }
    let mut anonymous = block_on(honest(&domain).open(None)).expect("every client may bind");
    let reply =
        block_on(anonymous.call(opnum::SERVER_AUTHENTICATE, vec![0; 64].into())).expect("it is answered");
    assert_eq!(reply.stub[8..], NtStatus::DOWNGRADE_DETECTED.0.to_le_bytes(), "opnum 5 can only mean DES");
}

#[test]
fn the_package_must_be_ours_and_says_which_domains_are() {
    let domain = domain();
    let (channel, mut association) = connected(&domain, "WEB01$");
    for (package, name, expect) in [
        ("echo", "contoso", NtStatus::SUCCESS),
        ("Echo", "contoso.example", NtStatus::SUCCESS),
        ("Echo", "", NtStatus::SUCCESS),
        ("Kerberos", "CONTOSO", NtStatus::NO_SUCH_PACKAGE),
        ("Kerberos", "FABRIKAM", NtStatus::NO_SUCH_USER),
        ("Echo", "FABRIKAM", NtStatus::SUCCESS),
    ] {
        let answer = block_on(channel.ask(&mut *association, package, name, b"x")).expect("it is answered");
        assert_eq!(answer.status, expect, "{package} {name}");
        assert!(answer.authoritative);
    }
}

/// What servers share, in memory.
#[derive(Default)]
struct Shared {
    challenges: Mutex<Vec<(String, SharedChallenge)>>,
    channels: Mutex<Vec<ChannelState>>,
    /// Wrong proofs.
    failures: AtomicU32,
    is_gone: AtomicBool,
    /// Another call with the same stored credential comes first.
    is_overtaken: AtomicBool,
}

impl Shared {
    fn channels(&self) -> Result<std::sync::MutexGuard<'_, Vec<ChannelState>>, SecretsUnavailable> {
        match self.is_gone.load(Ordering::SeqCst) {
            true => Err(SecretsUnavailable("the database is gone".into())),
            false => Ok(self.channels.lock().expect("no test panics in here")),
        }
    }
}

impl SharedChannels for Shared {
    fn put_challenge<'a>(
        &'a self,
        _: std::net::IpAddr,
        computer: &'a str,
        client: Credential,
        server: Credential,
    ) -> BoxFuture<'a, Result<(), SecretsUnavailable>> {
        let mut challenges = self.challenges.lock().expect("no test panics in here");
        let id = [challenges.len() as u8; 16];
        challenges.push((computer.to_owned(), SharedChallenge { client, server, id }));
        Box::pin(std::future::ready(self.channels().map(|_| ())))
    }

    fn attempts<'a>(
        &'a self,
        _: std::net::IpAddr,
        computer: &'a str,
        _: &'a str,
    ) -> BoxFuture<'a, Result<Attempts, SecretsUnavailable>> {
        let challenges = self.challenges.lock().expect("no test panics in here");
        let found = challenges.iter().rev().filter(|(name, _)| name == computer);
        let challenges = found.map(|(_, challenge)| challenge.clone()).collect();
        let failures = self.failures.load(Ordering::SeqCst);
        Box::pin(std::future::ready(self.channels().map(|_| Attempts { challenges, failures })))
    }

    fn failed<'a>(
        &'a self,
        _: std::net::IpAddr,
        _: &'a str,
    ) -> BoxFuture<'a, Result<u32, SecretsUnavailable>> {
        let before = self.failures.fetch_add(1, Ordering::SeqCst);
        Box::pin(std::future::ready(self.channels().map(|_| before)))
    }

    fn use_up<'a>(
        &'a self,
        challenge: &'a SharedChallenge,
    ) -> BoxFuture<'a, Result<bool, SecretsUnavailable>> {
        let mut challenges = self.challenges.lock().expect("no test panics in here");
        let at = challenges.iter().position(|(_, kept)| kept == challenge);
        let is_there = at.map(|at| challenges.remove(at)).is_some();
        Box::pin(std::future::ready(Ok(is_there)))
    }

    fn put<'a>(&'a self, state: &'a ChannelState) -> BoxFuture<'a, Result<(), SecretsUnavailable>> {
        Box::pin(std::future::ready(self.channels().map(|mut channels| channels.push(state.clone()))))
    }

    fn find<'a>(&'a self, computer: &'a str) -> BoxFuture<'a, Result<Vec<ChannelState>, SecretsUnavailable>> {
        let found = |channels: std::sync::MutexGuard<'_, Vec<ChannelState>>| {
            channels.iter().filter(|state| state.computer == computer).cloned().collect()
        };
        Box::pin(std::future::ready(self.channels().map(found)))
    }

    fn remove<'a>(&'a self, id: &'a ChannelId) -> BoxFuture<'a, Result<(), SecretsUnavailable>> {
        let done = self.channels().map(|mut channels| channels.retain(|state| state.id != *id));
        Box::pin(std::future::ready(done))
    }

    fn credential<'a>(
        &'a self,
        id: &'a ChannelId,
    ) -> BoxFuture<'a, Result<Option<StoredCredential>, SecretsUnavailable>> {
        let found = self
            .channels()
            .map(|channels| channels.iter().find(|state| state.id == *id).map(|state| state.seed));
        Box::pin(std::future::ready(found))
    }

    fn advance<'a>(
        &'a self,
        id: &'a ChannelId,
        from: &'a StoredCredential,
        to: Credential,
    ) -> BoxFuture<'a, Result<bool, SecretsUnavailable>> {
        let is_overtaken = self.is_overtaken.swap(false, Ordering::SeqCst);
        let done = self.channels().map(|mut channels| {
            let Some(state) = channels.iter_mut().find(|state| state.id == *id) else { return false };
            if is_overtaken || state.seed != *from {
                return false;
            }
            state.seed = StoredCredential { generation: from.generation + 1, credential: to };
            true
        });
        Box::pin(std::future::ready(done))
    }
}

fn servers() -> (Arc<Domain>, Arc<Shared>) {
    let shared = Arc::new(Shared::default());
    (domain_with(Some(Arc::clone(&shared) as _)), shared)
}

#[test]
fn a_channel_that_one_server_set_up_is_good_at_another() {
    let (domain, shared) = servers();
    let (channel, mut first) = connected(&domain, "WEB01$");
    assert_eq!(domain.audit.last(), Some(ChannelOutcome::Established));
    let mut second = open(&honest(&domain), &channel).expect("the other server knows it");
    // Questions, and calls with authenticators, on both connections in turn.
    for _ in 0..3 {
        for association in [&mut first, &mut second] {
            assert_eq!(asked(&channel, &mut **association), SERVED);
            block_on(channel.check_capabilities(&mut **association))
                .expect("the stored credential is shared");
        }
    }
    assert_eq!(
        shared.channels().expect("it is there")[0].seed.generation,
        14,
        "two calls in each of seven checks"
    );
    // A rotation at one server ends the channel at the other, and the new secret counts at both.
    let mut both = (channel, first);
    set_password(&domain, &mut both, "the new password of WEB01").expect("it is taken");
    let new = with_secret("WEB01$", "the new password of WEB01");
    let new = establish(&honest(&domain), new).expect("it is the secret now");
    assert_ne!(asked(&both.0, &mut *second), SERVED);
    for _ in 0..2 {
        assert!(serves_anew(&domain, &new));
        assert!(!serves_anew(&domain, &both.0));
    }
}

#[test]
fn an_account_that_is_disabled_at_one_server_is_refused_at_another() {
    let (domain, _) = servers();
    let (channel, mut first) = connected(&domain, "WEB01$");
    let mut second = open(&honest(&domain), &channel).expect("the other server knows it");
    domain.secrets.change("WEB01$", |machine| machine.enabled = false);
    for association in [&mut first, &mut second] {
        assert_eq!(asked(&channel, &mut **association), ENDED);
    }
    for _ in 0..2 {
        assert!(!serves_anew(&domain, &channel));
    }
    // A client with the key of the channel is refused when the account is enabled again.
    domain.secrets.change("WEB01$", |machine| machine.enabled = true);
    for _ in 0..2 {
        assert!(!serves_anew(&domain, &channel));
    }
}

/// The same if no call is made in the meantime.
#[test]
fn a_channel_whose_account_was_disabled_at_a_bind_does_not_come_back() {
    let (domain, shared) = servers();
    let (channel, _) = connected(&domain, "WEB01$");
    domain.secrets.change("WEB01$", |machine| machine.enabled = false);
    // At each server.
    for _ in 0..2 {
        assert!(!serves_anew(&domain, &channel));
    }
    assert_eq!(shared.channels().expect("it is there").len(), 0);
    domain.secrets.change("WEB01$", |machine| machine.enabled = true);
    for _ in 0..2 {
        assert!(!serves_anew(&domain, &channel));
    }
}

#[test]
fn of_two_calls_with_one_stored_credential_one_is_performed() {
    let (domain, shared) = servers();
    let (channel, mut association) = connected(&domain, "WEB01$");
    shared.is_overtaken.store(true, Ordering::SeqCst);
    let refused = block_on(channel.check_capabilities(&mut *association));
    assert_eq!(refused.map(|_| ()), Err(ChannelError::Refused(NtStatus::ACCESS_DENIED)));
}

#[test]
fn a_shared_challenge_is_good_for_one_channel() {
    let (domain, shared) = servers();
    let stub = Arc::new(Mutex::new(None));
    // The first fragment of NetrServerAuthenticate3 on its way.
    let seen = Arc::clone(&stub);
    let network = Network {
        domain: Arc::clone(&domain),
        tamper: Box::new(move || {
            let seen = Arc::clone(&seen);
            Box::new(move |direction, bytes| {
                // PTYPE request, and the operation's number after alloc_hint and context.
                let is_proof = bytes[2] == 0 && bytes[22..24] == opnum::SERVER_AUTHENTICATE3.to_le_bytes();
                if direction == Direction::ToServer && is_proof {
                    *seen.lock().expect("no test panics in here") = Some(bytes[24..].to_vec());
                }
            })
        }),
    };
    establish(&network, identity("WEB01$")).expect("the secret is right");
    assert_eq!(shared.challenges.lock().expect("no test panics in here").len(), 0);
    let stub = stub.lock().expect("no test panics in here").take().expect("it was sent");
    let mut again = block_on(honest(&domain).open(None)).expect("it is served");
    let reply = block_on(again.call(opnum::SERVER_AUTHENTICATE3, stub.into())).expect("a reply");
    let status = reply.stub.last_chunk::<4>().map(|status| NtStatus(u32::from_le_bytes(*status)));
    assert_eq!(status, Some(NtStatus::ACCESS_DENIED));
    assert_eq!(domain.audit.last(), Some(ChannelOutcome::Refused(ChannelRefusal::NoChallenge)));
}

#[test]
fn without_what_is_shared_channels_go_on_where_they_are_known() {
    let (domain, shared) = servers();
    let (channel, mut first) = connected(&domain, "WEB01$");
    shared.is_gone.store(true, Ordering::SeqCst);
    assert_eq!(asked(&channel, &mut *first), SERVED);
    // The next connection reaches the server that has not seen the channel, and the one after it the other.
    let known: Vec<bool> = (0..2).map(|_| serves_anew(&domain, &channel)).collect();
    assert_eq!(known.iter().filter(|is_served| **is_served).count(), 1, "{known:?}");
    let busy = Err(ChannelError::Refused(NtStatus::DS_BUSY));
    assert_eq!(establish(&honest(&domain), identity("WEB02$")).map(|_| ()), busy);
    shared.is_gone.store(false, Ordering::SeqCst);
    assert_eq!((0..2).filter(|_| serves_anew(&domain, &channel)).count(), 2);
}

#[test]
fn a_shared_channel_ends_in_its_time_and_belongs_to_its_account() {
    let (domain, shared) = servers();
    let (channel, _) = connected(&domain, "WEB01$");
    let state = shared.channels().expect("it is there")[0].clone();
    let sid = domain.secrets.machine("WEB02$").sid;
    for (what, change) in [
        (
            "another account",
            Box::new(|state: &mut ChannelState| state.account = "WEB02$".into()) as Box<dyn Fn(&mut _)>,
        ),
        ("another SID", Box::new(move |state: &mut ChannelState| state.sid = sid)),
        (
            "a secret that was never accepted",
            Box::new(|state: &mut ChannelState| state.secret_check = [0; 8]),
        ),
        ("another type", Box::new(|state: &mut ChannelState| state.channel_type = ChannelType::SERVER)),
        ("its time is over", Box::new(|state: &mut ChannelState| state.left = Duration::ZERO)),
    ] {
        let (again, shared) = servers();
        let mut changed = state.clone();
        change(&mut changed);
        shared.channels().expect("it is there").push(changed);
        assert!(!serves_anew(&again, &channel), "{what}");
    }
    // A minute is left when the other servers first see it.
    let (again, shared) = servers();
    shared.channels().expect("it is there").push(ChannelState { left: Duration::from_secs(60), ..state });
    assert!(serves_anew(&again, &channel));
    again.world.now.fetch_add(61, Ordering::SeqCst);
    shared.channels().expect("it is there").clear();
    assert_eq!((0..2).filter(|_| serves_anew(&again, &channel)).count(), 0);
}

/// A client that asks for a challenge with zeros beside a good one makes guesses all the same.
#[test]
fn a_weak_challenge_beside_a_good_one_hides_no_guess() {
    let (domain, shared) = servers();
    for (n, client) in [[0; 8], [7, 1, 2, 3, 4, 5, 6, 9], [0; 8]].into_iter().enumerate() {
        let challenge = SharedChallenge { client, server: [n as u8 + 1; 8], id: [n as u8 + 100; 16] };
        shared.challenges.lock().expect("no test panics in here").push(("WEB01".to_owned(), challenge));
    }
    let wrong = with_secret("WEB01$", "a guess");
    let refused = establish(&honest(&domain), wrong).map(|_| ());
    assert_eq!(refused, Err(ChannelError::Refused(NtStatus::ACCESS_DENIED)));
    assert_eq!(domain.audit.last(), Some(ChannelOutcome::Refused(ChannelRefusal::WrongCredential)));
}

#[test]
fn guesses_at_one_server_make_guesses_at_another_slow() {
    let (domain, shared) = servers();
    let seconds = |domain: &Arc<Domain>, secret: &str| {
        let since = domain.world.uptime();
        let secret = SharedSecret::from_password(secret);
        let outcome = establish(&honest(domain), ClientIdentity { secret, ..identity("WEB01$") });
        ((domain.world.uptime() - since).as_secs(), outcome.is_ok())
    };
    let right = "password of WEB01$";
    // Another server has seen wrong proofs.
    shared.failures.store(4, Ordering::SeqCst);
    assert_eq!(seconds(&domain, right), (0, true));
    assert_eq!(seconds(&domain, "guess"), (0, false), "the fifth one is free");
    assert_eq!(seconds(&domain, "guess"), (2, false));
    assert_eq!(seconds(&domain, right), (2, true), "the client that knows the secret is not kept out");
    assert_eq!(shared.failures.load(Ordering::SeqCst), 6, "only wrong proofs are written");
}
