//! What an operator relies on while it runs: health, reload, drain, revocation, silence about secrets.

use crate::flood::bind;
use dcerpc::ndr::{NdrSyntax, NdrWriter};
use netlogon_transport::client::{Association, ChannelError, SystemRandomness};
use netlogon_transport::message::{Authenticate, ReqChallenge, opnum};
use rcmp_service::message::{MappingFlags, PACKAGE_NAME, Request};
use rcmpd_tests::client::Client;
use rcmpd_tests::{Demo, Service, write_secret};
use rustix::process::Signal;
use std::collections::VecDeque;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::io::AsyncWriteExt;
use trust_tokio::certificates::Chain;

pub(crate) async fn channel(service: &Service) -> Client {
    Client::of_machine(service, "CONTOSO", "WEB01").await.unwrap()
}

pub(crate) fn question(service: &Service, who: &str) -> Vec<u8> {
    let chain = Chain::read(Path::new(&service.certificate(who)), None).unwrap();
    let flags = MappingFlags::UPN.with(MappingFlags::SUBJECT);
    Request { flags, certificate: chain.certificate(), issuers: chain.issuers().unwrap() }.encode().unwrap()
}

async fn ask(
    client: &Client,
    association: &mut dyn Association,
    question: &[u8],
) -> Result<u32, ChannelError> {
    Ok(client.channel.ask(association, PACKAGE_NAME, "CONTOSO", question).await?.status.0)
}

#[tokio::test]
async fn a_machine_disabled_while_connected_is_refused_at_its_next_call() {
    let service = Demo::new().serve();
    let alice = question(&service, "alice");
    let client = channel(&service).await;
    let mut association = client.open().await.unwrap();
    assert_eq!(ask(&client, &mut *association, &alice).await, Ok(0));
    service.rcmpd(&["machine", "set", "WEB01$", "--disable", "-c", "rcmpd.toml"]).code(0);
    let refused = ask(&client, &mut *association, &alice).await;
    assert!(!matches!(refused, Ok(0)), "{refused:?}");
    // Enabled again, the old channel does not come back.
    service.rcmpd(&["machine", "set", "WEB01$", "--enable", "-c", "rcmpd.toml"]).code(0);
    assert!(!matches!(ask(&client, &mut *association, &alice).await, Ok(0)));
    assert!(client.open().await.is_err());
    let client = channel(&service).await;
    let mut association = client.open().await.unwrap();
    assert_eq!(ask(&client, &mut *association, &alice).await, Ok(0));
}

#[tokio::test]
async fn a_rotated_secret_is_the_secret_from_then_on() {
    let service = Demo::new().serve();
    let client = channel(&service).await;
    let mut association = client.open().await.unwrap();
    let new = "rotated-by-the-machine-itself";
    let utf16: Vec<u8> = new.encode_utf16().flat_map(u16::to_le_bytes).collect();
    client.channel.set_password(&mut *association, &utf16, &SystemRandomness).await.unwrap();
    let server = service.netlogon.to_string();
    let mut old = service.machine_password("WEB01");
    // The previous one is good until the new one was used.
    Client::establish(&server, "CONTOSO", "WEB01$", &old).await.unwrap();
    let client = Client::establish(&server, "CONTOSO", "WEB01$", new).await.unwrap();
    let mut association = client.open().await.unwrap();
    assert_eq!(ask(&client, &mut *association, &question(&service, "alice")).await, Ok(0));
    assert!(Client::establish(&server, "CONTOSO", "WEB01$", &old).await.is_err());
    // An operator who lost it sets a new one by a command.
    old = "set-by-the-operator-instead".to_owned();
    write_secret(service.path("machines/WEB01.secret"), format!("{old}\n"));
    service
        .rcmpd(&["machine", "set", "WEB01$", "--secret-file", "machines/WEB01.secret", "-c", "rcmpd.toml"])
        .code(0);
    Client::establish(&server, "CONTOSO", "WEB01$", &old).await.unwrap();
}

/// A channel, and a connection on which it is used.
struct Open {
    client: Client,
    association: Box<dyn Association>,
}

impl Open {
    async fn by(service: &Service, password: &str) -> Self {
        let server = service.netlogon.to_string();
        let (client, association) = Client::connect(&server, "CONTOSO", "WEB01$", password).await.unwrap();
        Self { client, association }
    }

    async fn asks(&mut self, question: &[u8]) -> bool {
        matches!(ask(&self.client, &mut *self.association, question).await, Ok(0))
    }

    /// NetrServerPasswordSet2.
    async fn sets(&mut self, password: &str) -> Result<(), ChannelError> {
        let utf16: Vec<u8> = password.encode_utf16().flat_map(u16::to_le_bytes).collect();
        self.client.channel.set_password(&mut *self.association, &utf16, &SystemRandomness).await
    }

    /// Whether the channel is good for nothing: no question over an open connection or a new one, and no new
    /// secret.
    async fn has_ended(&mut self, question: &[u8]) -> bool {
        let anew = match self.client.open().await {
            Ok(mut association) => matches!(ask(&self.client, &mut *association, question).await, Ok(0)),
            Err(_) => false,
        };
        let sets = self.sets("a secret of the attacker's own").await.is_ok();
        !anew && !sets && !self.asks(question).await
    }
}

fn set_secret(service: &Service, password: &str, more: &[&str]) {
    write_secret(service.path("new.secret"), format!("{password}\n"));
    let set = ["machine", "set", "WEB01$", "--secret-file", "new.secret", "-c", "rcmpd.toml"];
    service.rcmpd(&[&set[..], more].concat()).code(0);
}

#[tokio::test]
async fn a_secret_that_was_rotated_away_takes_nothing_over() {
    let service = Demo::new().serve();
    let (alice, leaked) = (question(&service, "alice"), service.machine_password("WEB01"));
    let server = service.netlogon.to_string();
    let mut before = Open::by(&service, &leaked).await;
    set_secret(&service, "the-secret-after-the-leak", &[]);
    // Both wait for the owner to use the new secret: a channel from before, and one that the leaked secret
    // still sets up.
    let mut after = Open::by(&service, &leaked).await;
    assert!(before.asks(&alice).await && after.asks(&alice).await, "a machine has time to learn its secret");
    for attacker in [&mut before, &mut after] {
        let refused = attacker.sets("a secret of the attacker's own").await;
        assert!(matches!(refused, Err(ChannelError::Refused(_))), "{refused:?}");
    }
    let mut owner = Open::by(&service, "the-secret-after-the-leak").await;
    assert!(owner.asks(&alice).await);
    assert!(before.has_ended(&alice).await && after.has_ended(&alice).await);
    assert!(Client::establish(&server, "CONTOSO", "WEB01$", &leaked).await.is_err());
    let own = "a secret of the attacker's own";
    assert!(Client::establish(&server, "CONTOSO", "WEB01$", own).await.is_err());
    assert!(owner.asks(&alice).await, "and the owner is served");
    owner.sets("a secret of the owner's own").await.unwrap();
    Open::by(&service, "a secret of the owner's own").await;
}

#[tokio::test]
async fn an_operator_ends_a_previous_secret_at_once() {
    let service = Demo::new().serve();
    let (alice, first) = (question(&service, "alice"), service.machine_password("WEB01"));
    let server = service.netlogon.to_string();
    let mut by_first = Open::by(&service, &first).await;
    // One step.
    set_secret(&service, "the-second-secret", &["--now"]);
    assert!(by_first.has_ended(&alice).await);
    assert!(Client::establish(&server, "CONTOSO", "WEB01$", &first).await.is_err());
    let mut by_second = Open::by(&service, "the-second-secret").await;
    // Two steps, and the current secret is never used in between.
    set_secret(&service, "the-third-secret", &[]);
    let mut again = Open::by(&service, "the-second-secret").await;
    assert!(by_second.asks(&alice).await && again.asks(&alice).await);
    service.rcmpd(&["machine", "set", "WEB01$", "--now", "-c", "rcmpd.toml"]).code(0);
    assert!(by_second.has_ended(&alice).await && again.has_ended(&alice).await);
    assert!(Client::establish(&server, "CONTOSO", "WEB01$", "the-second-secret").await.is_err());
    service.rcmpd(&["machine", "set", "WEB01$", "--enable", "-c", "rcmpd.toml"]).code(0);
    assert!(by_second.has_ended(&alice).await && again.has_ended(&alice).await);
    assert!(Open::by(&service, "the-third-secret").await.asks(&alice).await);
    let shown = service.rcmpd(&["machine", "show", "WEB01$", "-c", "rcmpd.toml", "--json"]).code(0).json();
    assert_eq!(shown["has_previous_secret"], false);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attacker_behind_the_same_address_does_not_keep_a_machine_out() {
    let service = Demo::new().serve();
    let (alice, secret) = (question(&service, "alice"), service.machine_password("WEB01"));
    let server = service.netlogon.to_string();
    let failures = Arc::new(AtomicUsize::new(0));
    let attackers: Vec<_> = (0..16)
        .map(|n| {
            let (server, failures) = (server.clone(), Arc::clone(&failures));
            tokio::spawn(async move {
                for guess in 0.. {
                    let guess = format!("guess {n} {guess}");
                    assert!(Client::establish(&server, "CONTOSO", "WEB01$", &guess).await.is_err());
                    failures.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    let until = async |count: usize| {
        let deadline = Instant::now() + Duration::from_secs(60);
        while failures.load(Ordering::Relaxed) < count {
            assert!(Instant::now() < deadline, "the attackers are not answered");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    until(40).await;
    let begun = (Instant::now(), failures.load(Ordering::Relaxed));
    for _ in 0..3 {
        let mut machine = Open::by(&service, &secret).await;
        assert!(machine.asks(&alice).await);
    }
    let guesses = failures.load(Ordering::Relaxed) - begun.1;
    let seconds = begun.0.elapsed().as_secs_f64();
    // One guess in 2 s over each connection; twice that is far from what a server without waits answers.
    assert!((guesses as f64) < 17.0 * seconds + 17.0, "{guesses} guesses in {seconds} s");
    attackers.iter().for_each(|attacker| attacker.abort());
}

/// A bind, a challenge and a wrong proof for WEB01$, as they go over the wire.
fn guess(n: u64) -> Vec<u8> {
    let random = n.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes();
    let mut bytes = bind(1);
    let mut request = |call_id: u8, opnum: u16, write: &dyn Fn(&mut NdrWriter)| {
        let mut stub = NdrWriter::new(NdrSyntax::Ndr);
        write(&mut stub);
        let stub = stub.into_bytes();
        let (len, fragment) = (stub.len() as u32, (24 + stub.len()) as u16);
        bytes.extend_from_slice(&[5, 0, 0, 3, 0x10, 0, 0, 0]);
        bytes.extend_from_slice(&fragment.to_le_bytes());
        bytes.extend_from_slice(&[0, 0, call_id, 0, 0, 0]);
        bytes.extend_from_slice(&len.to_le_bytes());
        bytes.extend_from_slice(&[0, 0]);
        bytes.extend_from_slice(&opnum.to_le_bytes());
        bytes.extend_from_slice(&stub);
    };
    let challenge =
        ReqChallenge { primary_name: None, computer_name: "WEB01".into(), client_challenge: random };
    request(2, opnum::SERVER_REQ_CHALLENGE, &|writer| challenge.write(writer));
    let proof = Authenticate {
        primary_name: None,
        account_name: "WEB01$".into(),
        channel_type: 2,
        computer_name: "WEB01".into(),
        client_credential: random,
        negotiate_flags: 0x612f_ffff,
    };
    request(3, opnum::SERVER_AUTHENTICATE3, &|writer| proof.write(writer));
    bytes
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_guesses_on_new_connections_does_not_keep_a_machine_out() {
    /// Of the address, in place of 1,000: even a slow flood evicts a connection within the 2 s that its
    /// answer waits.
    const CONNECTIONS_MAX: usize = 400;
    const ATTACKERS: u64 = 8;
    /// 600 guesses a second.
    const PERIOD: Duration = Duration::from_micros(1_000_000 * ATTACKERS / 600);
    let demo = Demo::new();
    demo.edit(|text| {
        text.replace("[rpc]\n", &format!("[rpc]\nconnections_per_address_max = {CONNECTIONS_MAX}\n"))
    });
    let service = demo.serve();
    let (alice, secret) = (question(&service, "alice"), service.machine_password("WEB01"));
    let made = Arc::new(AtomicUsize::new(0));
    let attackers: Vec<_> = (0..ATTACKERS)
        .map(|task| {
            let (server, made) = (service.netlogon, Arc::clone(&made));
            tokio::spawn(async move {
                let mut open = VecDeque::new();
                let mut pace = tokio::time::interval(PERIOD);
                for n in 1.. {
                    pace.tick().await;
                    let Ok(mut stream) = tokio::net::TcpStream::connect(server).await else { continue };
                    let _ = stream.write_all(&guess((task << 32) | n)).await;
                    made.fetch_add(1, Ordering::Relaxed);
                    open.push_back(stream);
                    if open.len() > CONNECTIONS_MAX / 4 {
                        open.pop_front();
                    }
                }
            })
        })
        .collect();
    let evicted = || service.metric("rcmpd_connections_evicted_total{reason=\"address\"}");
    let deadline = Instant::now() + Duration::from_secs(60);
    while evicted() < CONNECTIONS_MAX as u64 {
        assert!(Instant::now() < deadline, "the guesses evict no connection");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let begun = (Instant::now(), made.load(Ordering::Relaxed));
    for _ in 0..4 {
        let (since, evictions) = (Instant::now(), evicted());
        let mut machine = Open::by(&service, &secret).await;
        assert!(since.elapsed() >= Duration::from_millis(1990), "{:?}", since.elapsed());
        assert!(machine.asks(&alice).await);
        assert!(evicted() > evictions + CONNECTIONS_MAX as u64, "the flood was too slow to matter");
    }
    let guesses = (made.load(Ordering::Relaxed) - begun.1) as f64 / begun.0.elapsed().as_secs_f64();
    eprintln!("{guesses:.0} guesses a second");
    attackers.iter().for_each(|attacker| attacker.abort());
}

#[tokio::test]
async fn one_machine_does_not_disturb_another() {
    let service = Demo::new().serve();
    service
        .rcmpd(&[
            "machine",
            "add",
            "WEB02$",
            "--secret-file",
            "machines/WEB02.secret",
            "--permission",
            "rcmp",
            "-c",
            "rcmpd.toml",
        ])
        .code(0);
    let (server, alice) = (service.netlogon.to_string(), question(&service, "alice"));
    let first = channel(&service).await;
    let mut association = first.open().await.unwrap();
    let second =
        Client::establish(&server, "CONTOSO", "WEB02$", &service.machine_password("WEB02")).await.unwrap();
    let mut other = second.open().await.unwrap();
    // Many more channels of the second: the first keeps its own.
    for _ in 0..20 {
        Client::establish(&server, "CONTOSO", "WEB02$", &service.machine_password("WEB02")).await.unwrap();
    }
    assert_eq!(ask(&first, &mut *association, &alice).await, Ok(0));
    assert_eq!(ask(&second, &mut *other, &alice).await, Ok(0), "a channel in use is not thrown out");
    let mut another = first.open().await.unwrap();
    assert_eq!(ask(&first, &mut *another, &alice).await, Ok(0));
}

#[test]
fn a_reload_is_whole_or_nothing() {
    let mut service = Demo::new().serve();
    service.map("alice").code(0);
    // A wrong file changes nothing, and says so.
    service.edit(|text| text.replace("[\"upn\", \"subject\"]", "[\"upn\", \"smell\"]"));
    service.signal(Signal::HUP);
    service.wait_for_log("Not reloaded");
    service.map("bob").code(0);
    // So does a good one that changes what needs a restart, even if it changes what does not, too.
    service.edit(|text| text.replace("[\"upn\", \"smell\"]", "[\"upn\"]").replace("\"DC1\"", "\"DC2\""));
    service.signal(Signal::HUP);
    service.wait_for_log("needs a restart");
    service.map("bob").code(0);
    // A good one counts from the next question on.
    service.edit(|text| text.replace("\"DC2\"", "\"DC1\""));
    service.signal(Signal::HUP);
    service.wait_for_log("Reloaded");
    service.map("alice").code(0);
    service.map("bob").code(3);
}

#[test]
fn health_is_told() {
    let service = Demo::new().serve();
    assert_eq!(service.get("/live"), (200, "live\n".to_owned()));
    assert_eq!(service.get("/ready"), (200, "ready\n".to_owned()));
    assert_eq!(service.get("/nonsense").0, 404);
    let before = service.metric("rcmpd_replies_total");
    service.map("alice").code(0);
    assert!(service.metric("rcmpd_replies_total") > before);
    assert_eq!(service.metric("rcmpd_panics_total"), 0);
}

/// A call whose request is half sent when the signal comes is still answered.
#[tokio::test]
async fn a_call_in_flight_is_answered_before_the_end() {
    let mut service = Demo::new().serve();
    let alice = question(&service, "alice");
    let client = channel(&service).await;
    let mut association = client.open().await.unwrap();
    let mut asking = tokio::task::JoinSet::new();
    asking.spawn(async move {
        let mut answered = 0;
        while ask(&client, &mut *association, &alice).await == Ok(0) {
            answered += 1;
        }
        answered
    });
    tokio::time::sleep(Duration::from_millis(200)).await;
    service.signal(Signal::TERM);
    let answered: u64 = asking.join_next().await.unwrap().unwrap();
    assert!(answered > 0);
    assert_eq!(service.ended(), 0);
    let log = service.log();
    assert!(log.contains("Stopping") && log.contains("Stopped") && !log.contains("Stopped before"), "{log}");
}

/// A client that sends nothing, or half a PDU, or never reads, costs a permit for a while and nothing else.
#[test]
fn who_stalls_is_dropped_and_others_are_served() {
    let demo = Demo::new();
    demo.edit(|text| {
        text.replace("[rpc]\n", "[rpc]\nbind_timeout_s = 1\nconnections_per_address_max = 40\ngrace_s = 1\n")
    });
    let mut service = demo.serve();
    let mut silent: Vec<TcpStream> = (0..20).map(|_| TcpStream::connect(service.netlogon).unwrap()).collect();
    for (at, stream) in silent.iter_mut().enumerate() {
        // From nothing to a header that promises more than comes.
        let bytes = [5, 0, 11, 3, 0x10, 0, 0, 0, 0xd0, 0x16, 0, 0, 1, 0, 0, 0];
        stream.write_all(&bytes[..at.min(16)]).unwrap();
    }
    service.map("alice").code(0);
    for stream in &mut silent {
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        // The end, or a reset: but an end.
        match stream.read(&mut [0; 64]) {
            Ok(0) => {}
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{error}"),
            Ok(count) => panic!("{count} bytes for nothing"),
        }
    }
    assert_eq!(service.metric("rcmpd_bind_timeouts_total"), 20);
    // One more than the limit finds the door closed, and it opens again.
    let many: Vec<TcpStream> = (0..60).map(|_| TcpStream::connect(service.netlogon).unwrap()).collect();
    while service.metric("rcmpd_connections_evicted_total{reason=\"address\"}") < 20 {
        std::thread::sleep(Duration::from_millis(10));
    }
    drop(many);
    while service.metric("rcmpd_connections_open") > 0 {
        std::thread::sleep(Duration::from_millis(10));
    }
    service.map("alice").code(0);
    service.signal(Signal::INT);
    assert_eq!(service.ended(), 0);
}

#[test]
fn no_secret_is_ever_written() {
    let service = Demo::new().serve_with(&[("RUST_LOG", "trace")]);
    for who in ["alice", "bob", "mallory"] {
        service.map(who);
    }
    let secret = service.machine_password("WEB01");
    let log = service.log();
    assert!(log.len() > 1000, "there is something to look into");
    assert!(!log.contains(&secret));
    // Nor in the database, its log or the configuration: as text, as UTF-16, or hashed.
    let utf16: Vec<u8> = secret.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let hash = netlogon_transport::secret::SharedSecret::from_password(&secret);
    assert_eq!(format!("{hash:?}").matches("redacted").count(), 1);
    for name in ["accounts.db", "accounts.db-wal", "rcmpd.toml", "serve.log"] {
        let bytes = fs::read(service.path(name)).unwrap_or_default();
        let has = |needle: &[u8]| bytes.windows(needle.len()).any(|window| window == needle);
        assert!(!has(secret.as_bytes()) && !has(&utf16), "{name}");
    }
}

#[test]
fn a_warning_says_what_is_not_checked() {
    let strict = Demo::new().serve();
    assert!(!strict.log().contains("WARN"), "{}", strict.log());
    let demo = Demo::new();
    demo.edit(|text| text.replace("binding    = \"full\"", "binding    = \"compat\""));
    assert!(demo.serve().log().contains("Names alone are enough"));
    let demo = Demo::new();
    demo.edit(unverified);
    assert!(demo.serve().log().contains("Certificates are not validated here"));
}

/// The policy that believes whatever it is asked.
fn unverified(text: String) -> String {
    text.replace("binding    = \"full\"", "binding    = \"off\"")
        .replace("validation = \"chain\"", "validation = \"off\"")
        .replace("anchors    = [\"certs/ca.pem\"]", "")
}

#[test]
fn an_audit_line_tells_each_channel_and_each_decision() {
    let demo = Demo::new();
    demo.edit(|text| format!("{text}\n[audit]\npath = \"audit.jsonl\"\nrequired = true\n"));
    let service = demo.serve();
    service.map("alice").code(0);
    service.map("mallory").code(3);
    let text = fs::read_to_string(service.path("audit.jsonl")).unwrap();
    let lines: Vec<serde_json::Value> =
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let count = |event: &str| lines.iter().filter(|line| line["event"] == event).count();
    assert_eq!(count("channel_established"), 2);
    let decided =
        |account: &str| lines.iter().any(|line| line["event"] == "map" && line["account"] == account);
    assert!(decided("alice"), "{text}");
    assert!(lines.iter().any(|line| line["event"] == "map" && line["status"] == "0xc000006d"), "{text}");
    assert!(lines.iter().all(|line| line["version"] == 1 && line["time"].is_string()));
}
