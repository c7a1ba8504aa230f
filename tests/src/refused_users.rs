//! Users that NTLM refuses for different reasons, at the service's own security provider in this process.

use crate::{Demo, write_secret};
use audit_log::AuditLog;
use dcerpc::security::{AuthLevel, AuthType, Authentication};
use dcerpc::server::Authenticate;
use dcerpc_tokio::{Peer, SecurityProvider};
use rcmpd::sso::{LiveSecrets, Sso, Stores, providers};
use rpc_auth::ntlm::{NtHash, NtlmCredentials, NtlmInitiator};
use rpc_auth::{Initiator, InitiatorStep};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

/// What is wrong with each user, and its name.
pub const REFUSED: [(&str, &str); 6] = [
    ("no NT hash", "without-hash"),
    ("disabled", "disabled"),
    ("expired", "expired"),
    ("empty password", "empty"),
    ("unknown", "unknown"),
    ("wrong password", "alice"),
];

/// Adds these users to a demo with a master secret. All have alice's password, except the one whose password
/// is empty.
pub fn add_refused_users(demo: &Demo) {
    write_secret(demo.path("empty.hash"), "31d6cfe0d16ae931b73c59d7e0c089c0\n");
    for (name, more) in [
        ("without-hash", &[][..]),
        ("disabled", &["--disable", "--password-file", "users/alice.password"]),
        ("expired", &["--expires", "2020-01-01", "--password-file", "users/alice.password"]),
        ("empty", &["--nt-hash-file", "empty.hash"]),
    ] {
        demo.rcmpd(&[&["account", "add", name, "-c", "rcmpd.toml"], more].concat()).code(0);
    }
}

/// The service's NTLM provider, over a demo's own store.
pub struct RefusedUsers {
    provider: Arc<dyn SecurityProvider>,
    password: NtHash,
}

impl RefusedUsers {
    /// The provider as `rcmpd serve` makes it; `wrap` may put something around the stores.
    pub async fn new(demo: &Demo, wrap: impl FnOnce(Stores) -> Stores) -> Self {
        let config = rcmpd::config::load(&demo.path("rcmpd.toml")).expect("a good configuration");
        let section = config.sso.as_ref().expect("it has [sso]");
        let served = rcmpd::stores::served_machines(&config, true).await.expect("the store opens");
        let hashes = served.hashes.expect("it has hashes");
        let stores = wrap(Stores { accounts: served.machines as _, hashes });
        let secrets = Arc::new(LiveSecrets::open(rcmpd::sso::store(section)));
        let audit = Arc::new(AuditLog::open(&config.audit).expect("the log opens"));
        let sso = Sso::new(&config, section, secrets, Some(&stores), audit).await.expect("it is wired");
        let providers = providers(&config, section, Some(&stores), &sso).expect("it has providers");
        let provider = providers.into_iter().find(|provider| provider.auth_type() == AuthType::NTLM);
        let password = NtHash::from_password(&demo.password("alice"));
        Self { provider: provider.expect("NTLM is configured"), password }
    }

    /// Tries to log on as one of [`REFUSED`], and returns how long the last leg took. Each `number` is
    /// another source address, because guesses from one are slowed down.
    pub async fn attempt(&self, user: &str, number: u32) -> Duration {
        let hash = match user {
            "empty" => NtHash::from_password(""),
            "alice" => NtHash::from_password("wrong"),
            _ => self.password.clone(),
        };
        let address = IpAddr::from(Ipv4Addr::from(0x0a00_0000 + number));
        let peer = Peer { connection: number.into(), address: SocketAddr::new(address, 1) };
        let leg = |token, state| Authenticate {
            auth_type: AuthType::NTLM,
            auth_level: AuthLevel::PRIVACY,
            changed: None,
            is_answered: true,
            token,
            state,
        };
        let credentials = NtlmCredentials {
            user: user.to_owned(),
            domain: String::new(),
            workstation: String::new(),
            hash,
            spn: String::new(),
        };
        let initiator = Box::new(NtlmInitiator::new(credentials, AuthLevel::PRIVACY));
        let mut random = |bytes: &mut [u8]| getrandom::fill(bytes).expect("there is randomness");
        let Ok(InitiatorStep::Continue { token, next }) =
            initiator.step(None, SystemTime::now().into(), &mut random)
        else {
            panic!("NTLM has more legs")
        };
        let Authentication::Continue { state, token } = self.provider.accept(&peer, leg(token, None)).await
        else {
            panic!("no CHALLENGE")
        };
        let Ok(InitiatorStep::Complete { token, .. }) =
            next.step(Some(&token), SystemTime::now().into(), &mut random)
        else {
            panic!("NTLM has no more legs")
        };
        let started = Instant::now();
        let answer = self.provider.accept(&peer, leg(token, Some(state))).await;
        let took = started.elapsed();
        assert!(matches!(answer, Authentication::Rejected), "{user}");
        took
    }
}
