//! Proofs that a Samba AD DC checks over our secure channel. `tests/peers/install` installs it.

mod fixture;

use dcerpc::ndr::NdrSyntax;
use dcerpc::pdu::{AuthLevel, AuthType, FaultStatus};
use dcerpc_tokio::CallError;
use dtyp::NtStatus;
use fixture::samba::SambaDc;
use fixture::{Fixture, SIDS, WHO_AM_I};
use netlogon_tokio::{ClientAccount, PoolLimits, ServerSource, Servers, TcpTransport};
use netlogon_transport::client::{ClientChannel, ClientIdentity, NetworkLogon, SystemRandomness};
use netlogon_transport::message::{LogonIdentity, LogonLevels};
use netlogon_transport::secret::SharedSecret;
use netlogon_transport::secrets::ChannelType;
use rpc_auth::ntlm::{
    NtHash, NtlmCredentials, NtlmInitiator, NtlmProof, ProofChecker, ProofVerdict, ServerNames,
    SessionBaseKey,
};
use rpc_auth::{BoxFuture, IdentitySource, RefusalReason, UserIdentity};
use rpc_auth_tokio::{DomainChecker, UserBind, connect};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::fs::File;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::time::Instant;

impl SambaDc {
    fn password(&self, kind: &str, name: &str) -> &str {
        self.facts[kind][name].as_str().expect("an account")
    }

    fn server(&self) -> String {
        format!("{}:{}", self.text("address"), self.facts["port"])
    }

    /// A machine account: its name without `$`, and its secret.
    fn machine(&self, computer: &str) -> (String, SharedSecret) {
        let secret = self.password("machines", &format!("{computer}$"));
        (computer.to_owned(), SharedSecret::from_password(secret))
    }

    /// The servers of its domain, called as a machine.
    fn servers(&self, computer: &str) -> Arc<Servers> {
        let (computer, secret) = self.machine(computer);
        let account = ClientAccount {
            domain: self.text("netbios").into(),
            account: format!("{computer}$"),
            computer,
            channel_type: ChannelType::WORKSTATION,
            secrets: Arc::new(secret),
            now,
        };
        let limits = PoolLimits { connections_max: 4, queue_max: 16 };
        Arc::new(Servers::new(ServerSource::Listed(vec![self.server()]), account, limits, None))
    }

    fn names(&self, computer: &str) -> ServerNames {
        ServerNames {
            netbios_computer: computer.into(),
            netbios_domain: self.text("netbios").into(),
            dns_computer: Some(format!("{}.{}", computer.to_lowercase(), self.text("dns"))),
            dns_domain: Some(self.text("dns").into()),
            dns_tree: None,
        }
    }

    /// A service of ours that has its users checked there.
    fn service(&self, computer: &str, names: ServerNames, allow_computers: bool) -> Fixture {
        let domain = self.text("netbios").to_owned();
        let time = Duration::from_secs(10);
        let checker = DomainChecker::new(self.servers(computer), domain, time, allow_computers);
        Fixture::with(Arc::new(checker), names)
    }
}

fn now() -> u32 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs() as u32)
}

/// What the service says of the user: by an opnum.
async fn ask(
    service: &Fixture,
    opnum: u16,
    (user, domain, password): (&str, &str, &str),
) -> Result<String, CallError> {
    let address = service.listen().await;
    let credentials = NtlmCredentials {
        user: user.into(),
        domain: domain.into(),
        workstation: "WS1".into(),
        hash: NtHash::from_password(password),
        spn: "host/service".into(),
    };
    let bind = UserBind {
        interface: WHO_AM_I,
        syntax: NdrSyntax::Ndr,
        auth_type: AuthType::NTLM,
        level: AuthLevel::PRIVACY,
        initiator: Box::new(NtlmInitiator::new(credentials, AuthLevel::PRIVACY)),
    };
    let deadline = Instant::now() + Duration::from_secs(30);
    let mut connection = connect(address, bind, deadline).await?;
    let reply = connection.call(opnum, vec![].into(), deadline).await?;
    Ok(String::from_utf8(reply.stub).expect("text"))
}

/// Why a user was refused.
async fn refusal(service: &Fixture, user: (&str, &str, &str)) -> RefusalReason {
    let outcome = ask(service, 0, user).await;
    assert!(matches!(outcome, Err(CallError::Fault(FaultStatus::ACCESS_DENIED))), "{user:?}: {outcome:?}");
    match service.audit.taken()[..] {
        [(_, reason)] => reason,
        ref other => panic!("{other:?}"),
    }
}

#[test]
fn samba_s_domain_controller_checks_proofs() {
    let mut dc = SambaDc::start();
    // Its addresses are in a namespace of its own, which this test enters.
    let namespace = File::open(format!("/proc/{}/ns/net", dc.facts["pid"])).expect("the DC runs");
    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).expect("run as root");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        knows_its_users(&dc).await;
        refuses_others(&dc).await;
        compares_the_names_of_the_challenge(&dc).await;
        gives_the_same_key_at_each_level(&dc).await;
        checks_passwords(&dc).await;
        stops(&mut dc).await;
    });
}

async fn knows_its_users(dc: &SambaDc) {
    let service = dc.service("WEB05", dc.names("WEB05"), true);
    let password = dc.password("users", "nora");
    let netbios = dc.text("netbios");
    for (user, domain) in [
        ("nora", netbios),
        ("NORA", &netbios.to_lowercase()[..]),
        ("nora", dc.text("dns")),
        ("nora", ""),
        (&format!("nora@{}", dc.text("dns"))[..], ""),
    ] {
        let answer = ask(&service, 0, (user, domain, password)).await;
        assert_eq!(answer.expect("an answer"), "nora at 6", r"{domain}\{user}");
    }
    let sids = ask(&service, SIDS, ("nora", netbios, password)).await.expect("an answer");
    let sids: Vec<_> = sids.split_whitespace().collect();
    assert!(sids.iter().skip(1).any(|sid| *sid == dc.text("group")), "{sids:?}");
    assert!(sids.iter().all(|sid| sid.starts_with(dc.text("sid"))), "{sids:?}");
    assert!(sids.contains(&&format!("{}-513", dc.text("sid"))[..]), "Domain Users: {sids:?}");
    // A computer, where computers may call.
    let machine = ("WEB08$", netbios, dc.password("machines", "WEB08$"));
    assert_eq!(ask(&service, 0, machine).await.expect("an answer"), "WEB08$ at 6");
    assert_eq!(service.audit.taken(), []);
}

async fn refuses_others(dc: &SambaDc) {
    let service = dc.service("WEB06", dc.names("WEB06"), false);
    let netbios = dc.text("netbios");
    let password = |user| dc.password("users", user);
    for user in [
        ("nora", netbios, "wrong"),
        ("nils", netbios, password("nils")), // disabled
        ("olga", netbios, password("olga")), // expired
        ("unknown", netbios, password("nora")),
        ("WEB08$", netbios, dc.password("machines", "WEB08$")),
        ("Guest", netbios, ""),
    ] {
        assert_eq!(refusal(&service, user).await, RefusalReason::Proof, "{user:?}");
    }
    // A domain that it does not know: its winbindd would say so, and without one it cannot decide.
    let elsewhere = refusal(&service, ("nora", "NOPE", password("nora"))).await;
    assert_eq!(elsewhere, RefusalReason::Unavailable);
}

async fn compares_the_names_of_the_challenge(dc: &SambaDc) {
    let nora = ("nora", dc.text("netbios"), dc.password("users", "nora"));
    let names = dc.names("WEB07");
    assert_eq!(names.fit_channel("WEB07$", dc.text("netbios")), Ok(()));
    for other in [
        ServerNames { netbios_computer: "OTHER".into(), ..names.clone() },
        ServerNames { netbios_domain: "OTHER".into(), ..names.clone() },
    ] {
        assert!(other.fit_channel("WEB07$", dc.text("netbios")).is_err(), "{other:?}");
        let service = dc.service("WEB07", other, false);
        assert_eq!(refusal(&service, nora).await, RefusalReason::Proof);
    }
}

/// Checks each proof at each pair of levels, over one channel.
struct EachLevel {
    channel: ClientChannel,
    transport: TcpTransport,
}

impl ProofChecker for EachLevel {
    fn check<'a>(&'a self, proof: &'a NtlmProof) -> BoxFuture<'a, ProofVerdict> {
        Box::pin(async move {
            let identity = LogonIdentity {
                domain: &proof.domain,
                parameter_control: 0,
                user: &proof.user,
                workstation: &proof.workstation,
            };
            let logon = NetworkLogon {
                identity,
                challenge: proof.server_challenge,
                nt_response: &proof.nt_response,
                lm_response: &proof.lm_response,
            };
            let mut keys = Vec::new();
            for (logon_level, validation) in [(2, 2), (2, 3), (2, 6), (6, 2), (6, 3), (6, 6)] {
                let levels = LogonLevels { logon: logon_level, validation };
                let mut association =
                    self.channel.open(&self.transport, &SystemRandomness).await.expect("an association");
                let reply = self.channel.network_logon_at(&mut *association, &logon, levels).await;
                let reply = reply.unwrap_or_else(|error| panic!("{levels:?}: {error}"));
                assert_eq!(reply.status, NtStatus::SUCCESS, "{levels:?}");
                let user = reply.validation.expect("a user");
                assert_eq!(user.effective_name, "nora", "{levels:?}");
                keys.push(user.session_key);
            }
            assert!(keys.iter().all(|key| *key == keys[0]), "the same key at each level");
            let identity = UserIdentity {
                name: "nora".into(),
                domain: proof.domain.clone(),
                sid: None,
                groups: vec![],
                source: IdentitySource::DomainController { domain: proof.domain.clone() },
                password: None,
                delegated_by: vec![],
                expires: None,
            };
            let session_base_key = SessionBaseKey::new(*keys[0].expose());
            ProofVerdict::Accepted { session_base_key, identity: Box::new(identity) }
        })
    }
}

async fn channel(dc: &SambaDc, computer: &str) -> EachLevel {
    let transport = TcpTransport::resolve(&dc.server(), Duration::from_secs(20)).await.expect("an address");
    let (computer, secret) = dc.machine(computer);
    let identity = ClientIdentity {
        server_name: dc.text("address").into(),
        domain: dc.text("netbios").into(),
        account: format!("{computer}$"),
        computer,
        channel_type: ChannelType::WORKSTATION,
        secret,
    };
    let channel = ClientChannel::establish(&transport, identity, &SystemRandomness, now).await;
    EachLevel { channel: channel.expect("a channel"), transport }
}

async fn gives_the_same_key_at_each_level(dc: &SambaDc) {
    let checker = channel(dc, "WEB02").await;
    let service = Fixture::with(Arc::new(checker), dc.names("WEB02"));
    let nora = ("nora", dc.text("netbios"), dc.password("users", "nora"));
    // The key is right: the MIC verifies, and the sealed call is answered.
    assert_eq!(ask(&service, 0, nora).await.expect("an answer"), "nora at 6");
}

async fn checks_passwords(dc: &SambaDc) {
    let EachLevel { channel, transport } = channel(dc, "WEB03").await;
    let netbios = dc.text("netbios");
    for (user, password, status) in [
        ("nora", dc.password("users", "nora"), NtStatus::SUCCESS),
        ("nora", "wrong", NtStatus::WRONG_PASSWORD),
        ("nils", dc.password("users", "nils"), NtStatus::ACCOUNT_DISABLED),
        ("olga", dc.password("users", "olga"), NtStatus::ACCOUNT_EXPIRED),
        ("unknown", "Password", NtStatus::NO_SUCH_USER),
    ] {
        let mut association = channel.open(&transport, &SystemRandomness).await.expect("an association");
        let identity = LogonIdentity { domain: netbios, parameter_control: 0, user, workstation: "WEB03" };
        let hash = SharedSecret::from_password(password);
        let reply = channel.interactive_logon(&mut *association, identity, &hash).await.expect("an answer");
        assert_eq!(reply.status, status, "{user} {password}");
        assert_eq!(reply.validation.is_some(), status.is_success(), "{user} {password}");
    }
}

async fn stops(dc: &mut SambaDc) {
    let service = dc.service("WEB04", dc.names("WEB04"), false);
    let (netbios, password) = (dc.text("netbios").to_owned(), dc.password("users", "nora").to_owned());
    let nora = ("nora", &netbios[..], &password[..]);
    assert_eq!(ask(&service, 0, nora).await.expect("an answer"), "nora at 6");
    dc.stop();
    let begun = Instant::now();
    assert_eq!(refusal(&service, nora).await, RefusalReason::Unavailable);
    assert!(begun.elapsed() < Duration::from_secs(12), "within the time for one proof");
}
