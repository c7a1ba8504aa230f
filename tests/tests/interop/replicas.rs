//! Several services of one domain, which share PostgreSQL, behind HAProxy as a balancer of TCP connections.

use dcerpc::pdu::FaultStatus;
use netlogon_transport::client::{Association, ChannelError, TransportError};
use rcmp_service::message::{MappingFlags, PACKAGE_NAME, Request};
use rcmpd_tests::client::Client;
use rcmpd_tests::peers::{impacket, question};
use rcmpd_tests::ports::free_port;
use rcmpd_tests::postgres::Postgres;
use rcmpd_tests::postgres_proxy::PostgresProxy;
use rcmpd_tests::{Demo, Service, eventually, write_secret};
use rustix::process::Signal;
use serde_json::json;
use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::time::timeout;
use trust_tokio::certificates::Chain;

/// Three services, the database, and the balancer. Each connection goes to the next service.
struct Replicas {
    services: Vec<Service>,
    balancer: Child,
    address: SocketAddr,
    _folder: TempDir,
    // Ends last.
    server: Postgres,
}

impl Drop for Replicas {
    fn drop(&mut self) {
        let _ = self.balancer.kill();
        let _ = self.balancer.wait();
    }
}

impl Replicas {
    fn start(more: &str) -> Self {
        let server = Postgres::start();
        let first = Demo::new().into_postgres(&server, more);
        Self::of(server, first, |_| {})
    }

    /// Three services with the files of `first`, each after `edit`.
    fn of(server: Postgres, first: Demo, edit: impl Fn(&Demo)) -> Self {
        first.edit(|text| {
            let shared = text.replace("store = \"postgres\"", "store = \"postgres\"\nshared = true");
            assert_ne!(shared, text);
            shared
        });
        let others = [first.copied(), first.copied()];
        let services: Vec<Demo> = [first].into_iter().chain(others).collect();
        services.iter().for_each(edit);
        let services: Vec<Service> = services.into_iter().map(Demo::serve).collect();
        let (folder, address) = (tempfile::tempdir().unwrap(), free_port());
        let servers: String = services
            .iter()
            .enumerate()
            .map(|(n, service)| format!("    server r{n} {} check inter 500ms\n", service.netlogon))
            .collect();
        let configuration = folder.path().join("haproxy.cfg");
        let text = format!(
            "defaults\n    mode tcp\n    timeout connect 5s\n    timeout client 5m\n    timeout server 5m\n    \
             option redispatch\nlisten netlogon\n    bind {address}\n    balance roundrobin\n{servers}"
        );
        fs::write(&configuration, text).unwrap();
        let mut balancer = Command::new("/usr/sbin/haproxy");
        balancer.arg("-db").arg("-f").arg(configuration);
        let balancer =
            balancer.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        eventually("HAProxy listens", || TcpStream::connect(address).is_ok());
        Self { services, balancer, address, _folder: folder, server }
    }

    async fn channel(&self) -> Client {
        let password = self.services[0].machine_password("WEB01");
        let address = self.address.to_string();
        Client::establish(&address, "CONTOSO", "WEB01$", &password).await.expect("the secret is right")
    }

    /// A question about the certificate of a user.
    fn question(&self, who: &str) -> Vec<u8> {
        let chain = Chain::read(Path::new(&self.services[0].certificate(who)), None).unwrap();
        let flags = MappingFlags::UPN.with(MappingFlags::SUBJECT);
        Request { flags, certificate: chain.certificate(), issuers: chain.issuers().unwrap() }
            .encode()
            .unwrap()
    }
}

/// The status of an answer.
async fn ask(
    client: &Client,
    association: &mut dyn Association,
    question: &[u8],
) -> Result<u32, ChannelError> {
    Ok(client.channel.ask(association, PACKAGE_NAME, "CONTOSO", question).await?.status.0)
}

#[test]
fn impacket_shakes_hands_with_one_replica_and_asks_another() {
    let replicas = Replicas::start("");
    let service = &replicas.services[0];
    let there = json!({ "host": replicas.address.ip().to_string(), "port": replicas.address.port() });
    for _ in 0..4 {
        let mut more = there.clone();
        more["capabilities"] = json!([1, 2]);
        more["questions"] = json!([question(service, "alice"), question(service, "mallory")]);
        let said = impacket(service, more);
        assert_eq!(said["error"], json!(null), "{said:#}");
        assert_eq!(said["handshake"]["server_proved_itself"], true, "{said:#}");
        for answer in said["capabilities"].as_array().unwrap() {
            assert_eq!(
                (&answer["status"], &answer["authenticator_good"]),
                (&json!("0x00000000"), &json!(true))
            );
        }
        assert_eq!(said["answers"][0]["pac"]["logon"]["user"], "alice", "{said:#}");
        assert_eq!(said["answers"][1]["status"], "0xC000006D", "{said:#}");
    }
    // Each of them was asked by a client that had shaken hands with another one: three connections out of
    // two.
    for service in &replicas.services {
        let (_, metrics) = service.get("/metrics");
        assert!(metrics.contains("rcmpd_decisions_total{"), "{metrics}");
    }
    assert!(!replicas.server.log().contains("ERROR"), "{}", replicas.server.log());
}

/// [MS-ERREF] 2.3.1.
const SUCCESS: u32 = 0;
const ACCESS_DENIED: u32 = 0xc000_0022;
const LOGON_FAILURE: u32 = 0xc000_006d;
const DS_BUSY: u32 = 0xc000_02a5;

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_that_is_disabled_at_one_replica_is_refused_by_all_and_one_that_is_killed_is_not_missed() {
    let mut replicas = Replicas::start("");
    let (client, alice) = (replicas.channel().await, replicas.question("alice"));
    let mut open = Vec::new();
    for _ in 0..6 {
        open.push(client.open().await.expect("each replica knows the channel"));
    }
    for association in &mut open {
        assert_eq!(ask(&client, &mut **association, &alice).await, Ok(SUCCESS));
    }
    replicas.services[0].kill();
    let mut served = 0;
    for association in &mut open {
        match ask(&client, &mut **association, &alice).await {
            Ok(status) => {
                assert_eq!(status, SUCCESS);
                served += 1;
            }
            Err(error) => assert!(matches!(error, ChannelError::Transport(_)), "{error:?}"),
        }
    }
    assert_eq!(served, 4, "two connections of six were with the killed one");
    for _ in 0..4 {
        let mut association = client.open().await.expect("the balancer goes to another one");
        assert_eq!(ask(&client, &mut *association, &alice).await, Ok(SUCCESS));
    }

    replicas.services[1].rcmpd(&["machine", "set", "WEB01$", "--disable", "-c", "rcmpd.toml"]).code(0);
    let deadline = Instant::now() + Duration::from_secs(60);
    for association in &mut open {
        loop {
            match ask(&client, &mut **association, &alice).await {
                Ok(ACCESS_DENIED) | Err(_) => break,
                Ok(SUCCESS) if Instant::now() < deadline => {}
                other => panic!("{other:?}"),
            }
        }
    }
    for _ in 0..4 {
        let refused = client.open().await.err();
        let is_refused = matches!(refused, Some(ChannelError::Transport(TransportError::Refused(_))));
        assert!(is_refused, "no replica takes a bind: {refused:?}");
    }
}

/// Notifications are lost, and the revision is polled once an hour: what one replica changes, the next call at
/// each other one is answered by.
#[tokio::test(flavor = "multi_thread")]
async fn rights_end_at_all_replicas_at_once_without_notifications_and_with_a_slow_database() {
    let server = Postgres::start();
    let first = Demo::new().into_postgres(&server, "poll_ms = 60000\nmax_age_s = 3600");
    let (proxy, direct) = (PostgresProxy::start(server.address()), server.address());
    let through = |demo: &Demo| {
        fs::copy(demo.path("rcmpd.toml"), demo.path("direct.toml")).unwrap();
        demo.edit(|text| text.replace(&direct, &proxy.address()));
    };
    let replicas = Replicas::of(server, first, through);
    let rcmpd = |arguments: &[&str]| {
        replicas.services[1].rcmpd(&[arguments, &["-c", "direct.toml"]].concat()).code(0);
    };
    let alice = replicas.question("alice");
    for delay in [Duration::ZERO, Duration::from_millis(100)] {
        proxy.delay(delay);
        let ends: [(&str, &[&str], &[&str]); 3] = [
            (
                "disabled",
                &["machine", "set", "WEB01$", "--disable"],
                &["machine", "set", "WEB01$", "--enable"],
            ),
            (
                "rotated",
                &["machine", "set", "WEB01$", "--secret-file", "other.secret", "--now"],
                &["machine", "set", "WEB01$", "--secret-file", "machines/WEB01.secret", "--now"],
            ),
            ("removed", &["machine", "remove", "WEB01$"], &[]),
        ];
        write_secret(replicas.services[1].path("other.secret"), "another one of 28 characters");
        for (what, end, again) in ends {
            let client = replicas.channel().await;
            let mut open = Vec::new();
            for _ in 0..6 {
                open.push(client.open().await.expect("each replica knows the channel"));
            }
            for association in &mut open {
                assert_eq!(ask(&client, &mut **association, &alice).await, Ok(SUCCESS));
            }
            // A cached account counts no longer, either.
            rcmpd(&["account", "set", "alice", "--disable"]);
            for association in &mut open {
                let answer = ask(&client, &mut **association, &alice).await;
                assert_eq!(answer, Ok(LOGON_FAILURE), "{what}, {delay:?}");
            }
            rcmpd(&["account", "set", "alice", "--enable"]);
            for association in &mut open {
                assert_eq!(ask(&client, &mut **association, &alice).await, Ok(SUCCESS));
            }
            rcmpd(end);
            for association in &mut open {
                let answer = ask(&client, &mut **association, &alice).await;
                // A fault if another connection to the same replica has had the status.
                let fault = Err(ChannelError::Transport(TransportError::Fault(FaultStatus::ACCESS_DENIED)));
                let is_refused = answer == Ok(ACCESS_DENIED) || answer == fault;
                assert!(is_refused, "{what}, {delay:?}: {answer:?}");
            }
            for _ in 0..3 {
                let refused = client.open().await.err();
                let is_refused = matches!(refused, Some(ChannelError::Transport(TransportError::Refused(_))));
                assert!(is_refused, "{what}, {delay:?}: {refused:?}");
            }
            if !again.is_empty() {
                rcmpd(again);
            }
        }
        rcmpd(&[
            "machine",
            "add",
            "WEB01$",
            "--permission",
            "rcmp",
            "--secret-file",
            "machines/WEB01.secret",
        ]);
    }
    assert!(proxy.lost() > 0, "no notification came as far as the proxy");

    // Slower than the time for a question: no call is answered by what was known before.
    proxy.delay(Duration::ZERO);
    let client = replicas.channel().await;
    let mut open = Vec::new();
    for _ in 0..3 {
        open.push(client.open().await.expect("each replica knows the channel"));
    }
    for association in &mut open {
        assert_eq!(ask(&client, &mut **association, &alice).await, Ok(SUCCESS));
    }
    replicas.server.sql("UPDATE rcmpd.machine SET enabled = false; UPDATE rcmpd.revision SET machines = machines + 1, machines_epoch = 7");
    proxy.delay(Duration::from_secs(5));
    for association in &mut open {
        assert_eq!(ask(&client, &mut **association, &alice).await, Ok(DS_BUSY));
    }
}

/// For so many seconds; `REPLICAS_SECONDS=600` for a longer one.
fn seconds() -> u64 {
    std::env::var("REPLICAS_SECONDS").ok().and_then(|seconds| seconds.parse().ok()).unwrap_or(20)
}

/// What a client saw.
#[derive(Debug, Default)]
struct Seen {
    right: u64,
    /// Neither yes nor no: asked again.
    retried: u64,
    longest_gap: Duration,
}

/// Asks until `ended`. Each answer is compared with the truth.
async fn load(
    replicas: Arc<(String, String)>,
    questions: [(Vec<u8>, u32); 2],
    ended: Arc<AtomicBool>,
) -> Seen {
    let (address, password) = &*replicas;
    let (mut seen, mut last, mut client) = (Seen::default(), Instant::now(), None);
    let mut round = 0;
    while !ended.load(Ordering::Relaxed) {
        round += 1;
        let (question, truth) = &questions[round % 2];
        let asked = timeout(Duration::from_secs(10), async {
            // A new channel now and then, and a new connection each time.
            if client.is_none() || round % 20 == 0 {
                client = Some(Client::establish(address, "CONTOSO", "WEB01$", password).await?);
            }
            let client = client.as_ref().expect("it is there");
            let mut association = client.open().await?;
            ask(client, &mut *association, question).await
        });
        match asked.await {
            Ok(Ok(status)) if status == *truth => {
                seen.right += 1;
                seen.longest_gap = seen.longest_gap.max(last.elapsed());
                last = Instant::now();
            }
            Ok(Ok(DS_BUSY)) | Ok(Err(ChannelError::Transport(_))) | Err(_) => seen.retried += 1,
            Ok(Err(ChannelError::Refused(status))) if status.0 == DS_BUSY => {
                seen.retried += 1;
                client = None;
            }
            other => panic!("a wrong answer: {other:?} instead of {truth:#x}"),
        }
    }
    seen
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_killed_or_stops_no_answer_is_wrong() {
    let mut replicas = Replicas::start("timeout_ms = 3000");
    let at = (replicas.address.to_string(), replicas.services[0].machine_password("WEB01"));
    let at = Arc::new(at);
    let questions = [("alice", SUCCESS), ("mallory", LOGON_FAILURE)];
    let questions = questions.map(|(who, truth)| (replicas.question(who), truth));
    let (ends, ended) = (Instant::now() + Duration::from_secs(seconds()), Arc::new(AtomicBool::new(false)));
    let clients: Vec<_> =
        (0..4).map(|_| tokio::spawn(load(Arc::clone(&at), questions.clone(), Arc::clone(&ended)))).collect();
    let pause = || tokio::time::sleep(Duration::from_millis(1500));
    let mut faults = 0;
    // Each kind of fault, however slow the machine is.
    while Instant::now() < ends || faults < 4 {
        let service = &mut replicas.services[faults % 3];
        match faults % 4 {
            0 => {
                service.kill();
                pause().await;
                service.start_again();
            }
            1 => {
                service.pause();
                pause().await;
                service.resume();
            }
            2 => {
                replicas.server.pause();
                pause().await;
                replicas.server.resume();
            }
            _ => {
                service.signal(Signal::TERM);
                pause().await;
                service.kill();
                service.start_again();
            }
        }
        faults += 1;
        pause().await;
    }
    ended.store(true, Ordering::Relaxed);
    let mut total = Seen::default();
    for client in clients {
        let seen = client.await.expect("no answer is wrong");
        total.right += seen.right;
        total.retried += seen.retried;
        total.longest_gap = total.longest_gap.max(seen.longest_gap);
    }
    eprintln!("{faults} faults: {total:?}");
    assert!(total.right > 50, "{total:?}");
    // All recover.
    for _ in 0..6 {
        let client = replicas.channel().await;
        let mut association = client.open().await.expect("the channel is known");
        assert_eq!(ask(&client, &mut *association, &questions[0].0).await, Ok(SUCCESS));
    }
}

#[test]
fn demo_of_replicas_answers_while_servers_are_killed() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/demo-replicas");
    let output = Command::new(script).arg(rcmpd_tests::binary()).stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(said.matches("6 times CONTOSO\\alice").count(), 3, "{said}");
}
