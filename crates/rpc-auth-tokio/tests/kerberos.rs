//! Users of a Samba domain by Kerberos: Samba's stack and Impacket, with a ticket of a user in a thousand
//! groups. `tests/peers/install` installs them.

mod fixture;

use dcerpc::pdu::{AuthType, FaultStatus};
use dcerpc::server::Reply;
use dcerpc_tokio::{Interface, Limits, Peer, Registry, RpcCall, Server};
use fixture::WHO_AM_I;
use fixture::samba::{SAMBA_PYTHON, SambaDc, script};
use rpc_auth::kerberos::{
    ClientRealm, KerberosAcceptor, KerberosConfig, Keytab, RealmKind, ReplayCache, SKEW_DEFAULT, SharedKeytab,
};
use rpc_auth::spnego::{SpnegoAcceptor, SpnegoMechanism};
use rpc_auth::{Acceptor, UserIdentity};
use rpc_auth_tokio::{AuthAudit, AuthCounters, AuthProvider, Refused};
use serde_json::{Value, json};
use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

const GROUPS: usize = 1000;

fn impacket_python() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/private");
    std::env::var_os("RCMPD_PRIVATE").map_or(here, PathBuf::from).join("venv/bin/python")
}

impl SambaDc {
    /// Leaves keytab and caches in the folder.
    fn make_tickets(&self, folder: &Path) -> Value {
        let made = Command::new("nsenter")
            .args(["-t", &self.facts["pid"].to_string(), "-n", "-m", "--", SAMBA_PYTHON])
            .arg(script("samba_kdc.py"))
            .arg(self.text("folder"))
            .arg(folder)
            .args([self.text("dns"), self.text("address"), &GROUPS.to_string()])
            .output()
            .expect("nsenter");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        serde_json::from_slice(&made.stdout).expect("JSON")
    }
}

#[derive(Default)]
struct Audit(Mutex<Vec<String>>);

impl AuthAudit for Audit {
    fn refused(&self, refused: &Refused<'_>) {
        self.0.lock().expect("not poisoned").push(format!("{} {:?}", refused.mechanism, refused.refusal));
    }
}

/// Says who the user is, in how many groups, and at which level the call came.
async fn answer(call: RpcCall) -> Result<Reply, FaultStatus> {
    let security = call.call.security.ok_or(FaultStatus::ACCESS_DENIED)?;
    let user = security.identity.downcast::<UserIdentity>().map_err(|_| FaultStatus::ACCESS_DENIED)?;
    let sid = user.sid.ok_or(FaultStatus::ACCESS_DENIED)?;
    Ok(Reply::from(format!("{sid} {} {}", user.groups.len() > GROUPS, security.level.0).into_bytes()))
}

fn server(config: Arc<KerberosConfig>, audit: Arc<Audit>) -> Arc<Server> {
    let counters = AuthCounters::default();
    let kerberos = move || -> Box<dyn Acceptor> { Box::new(KerberosAcceptor::new(Arc::clone(&config))) };
    let inner = kerberos.clone();
    let hook: Arc<dyn AuthAudit> = audit;
    let raw = AuthProvider::new(
        AuthType::KERBEROS,
        move |_: &Peer| kerberos(),
        Arc::clone(&hook),
        counters.clone(),
    );
    let spnego = move |_: &Peer| -> Box<dyn Acceptor> {
        Box::new(SpnegoAcceptor::new(vec![(SpnegoMechanism::Kerberos, inner())]))
    };
    let spnego = AuthProvider::new(AuthType::SPNEGO, spnego, hook, counters);
    let service = tower::util::BoxCloneSyncService::new(tower::service_fn(answer));
    let registry = Registry::default()
        .interface(Interface { syntax: WHO_AM_I, name: "who am I", method: |_| None, service })
        .management()
        .provider(Arc::new(raw))
        .provider(Arc::new(spnego));
    Server::new(registry, Limits::default(), CancellationToken::new(), TaskTracker::new())
}

/// What the client prints.
fn run(python: impl AsRef<Path>, folder: &Path, client: &str, input: &Value) -> Value {
    run_script(python, folder, "ticket_client.py", &[client, "-"], input)
}

fn run_script(
    python: impl AsRef<Path>,
    folder: &Path,
    name: &str,
    arguments: &[&str],
    input: &Value,
) -> Value {
    let mut child = Command::new(python.as_ref())
        .arg(script(name))
        .args(arguments)
        .env("KRB5_CONFIG", folder.join("krb5.conf"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{name} does not start ({error}): tests/peers/install"));
    let mut stdin = child.stdin.take().expect("it is piped");
    stdin.write_all(input.to_string().as_bytes()).expect("the peer reads its input");
    drop(stdin);
    let done = child.wait_with_output().expect("the peer ends");
    let stderr = String::from_utf8_lossy(&done.stderr);
    serde_json::from_slice(&done.stdout).unwrap_or_else(|error| panic!("{error}: {stderr}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn users_in_a_thousand_groups_come_by_samba_and_impacket() {
    let controller = SambaDc::start();
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    let erika = controller.make_tickets(folder);
    let (dns, realm) = (controller.text("dns"), controller.text("dns").to_uppercase());
    let keytab = std::fs::read(folder.join("keytab")).expect("a keytab");
    let config = Arc::new(KerberosConfig {
        keytab: Arc::new(SharedKeytab::new(Keytab::decode(&keytab).expect("Samba's keytab"))),
        services: Vec::new(),
        client_realms: vec![ClientRealm { name: realm.clone(), kind: RealmKind::ActiveDirectory }],
        skew: SKEW_DEFAULT,
        replay: Arc::new(ReplayCache::default()),
    });
    let audit = Arc::new(Audit::default());
    let server = server(config, Arc::clone(&audit));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address: SocketAddr = listener.local_addr().expect("it is bound");
    tokio::spawn(async move {
        // Samba's tests of raw DCE/RPC want this port in the answers.
        let config = server.config(135);
        while let Ok((stream, address)) = listener.accept().await {
            server.spawn(stream, address, Arc::clone(&config));
        }
    });

    let input = |more: Value| {
        let mut input = json!({
            "host": address.ip().to_string(), "port": address.port(), "cache": folder.join("ccache"),
            "client": "erika", "realm": realm, "service": format!("sso/srv.{dns}"),
        });
        input.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        input
    };
    let refused = || std::mem::take(&mut *audit.0.lock().expect("not poisoned"));
    for mechanism in ["krb5", "spnego"] {
        for level in ["connect", "sign", "seal"] {
            let input = input(json!({ "options": [mechanism, level], "calls": 3 }));
            let done = tokio::task::block_in_place(|| run(SAMBA_PYTHON, folder, "samba", &input));
            assert_eq!(done["error"], Value::Null, "{mechanism} {level}: {done:#} {:?}", refused());
            assert_eq!(done["answers"].as_array().map(Vec::len), Some(3), "{mechanism} {level}: {done:#}");
        }
    }
    for level in [5, 6] {
        let input = input(json!({
            "level": level, "interface": WHO_AM_I.uuid.to_string(), "opnums": [0, 0, 0],
        }));
        let done = tokio::task::block_in_place(|| run(impacket_python(), folder, "impacket", &input));
        assert_eq!(done["error"], Value::Null, "{level}: {done:#} {:?}", refused());
        let answer = format!("{} true {level}", erika["sid"].as_str().expect("a SID"));
        assert_eq!(done["answers"], json!([answer, answer, answer]), "{done:#}");
    }
    assert_eq!(refused(), [""; 0]);

    // What Windows does with Kerberos in PDUs that clients do not send, as Samba wrote it down.
    let done = tokio::task::block_in_place(|| {
        run_script(SAMBA_PYTHON, folder, "samba_raw.py", &["-"], &input(json!({ "providers": ["krb5"] })))
    });
    assert_eq!(done["failed"], json!({}), "{done:#} {:?}", refused());
    assert!(done["ran"].as_array().is_some_and(|ran| ran.len() >= 9), "{done:#}");
}
