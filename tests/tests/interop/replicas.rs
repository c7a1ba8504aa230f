//! Several services of one domain, which share PostgreSQL, behind HAProxy as a balancer of TCP connections.

use dcerpc::pdu::FaultStatus;
use netlogon_tokio::TcpTransport;
use netlogon_transport::client::{Association, ChannelError, SystemRandomness, TransportError};
use pac::VerifiedPac;
use rcmp_service::message::{MappingFlags, PACKAGE_NAME, Request, Response};
use rcmpd_tests::client::{Client, with_other_certificate};
use rcmpd_tests::peers::{impacket, impacket_python, question, run, target, with};
use rcmpd_tests::ports::free_port;
use rcmpd_tests::postgres::Postgres;
use rcmpd_tests::postgres_proxy::PostgresProxy;
use rcmpd_tests::web::{Site, WebServer, values};
use rcmpd_tests::{Demo, Service, eventually, write_secret};
use rustix::process::Signal;
use serde_json::json;
use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
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
        question_of(&self.services[0], who)
    }
}

fn question_of(service: &Service, who: &str) -> Vec<u8> {
    let chain = Chain::read(Path::new(&service.certificate(who)), None).unwrap();
    let flags = MappingFlags::UPN.with(MappingFlags::SUBJECT);
    let request = Request { flags, certificate: chain.certificate(), issuers: chain.issuers().unwrap() };
    request.encode().unwrap()
}

/// The status of an answer.
async fn ask(
    client: &Client,
    association: &mut dyn Association,
    question: &[u8],
) -> Result<u32, ChannelError> {
    Ok(client.channel.ask(association, PACKAGE_NAME, "CONTOSO", question).await?.status.0)
}

/// The account of an answer, or the status of one without.
async fn ask_who(
    client: &Client,
    association: &mut dyn Association,
    question: &[u8],
) -> Result<Result<String, u32>, ChannelError> {
    let answer = client.channel.ask(association, PACKAGE_NAME, "CONTOSO", question).await?;
    Ok(match (answer.status.0, answer.data) {
        (SUCCESS, data) => {
            let data = data.expect("an answer").decrypted();
            let response = Response::decode(&data).expect("a good answer");
            let pac = VerifiedPac::decode(response.auth_data).expect("a good PAC");
            Ok(pac.logon_info.effective_name.text)
        }
        (status, _) => Err(status),
    })
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
/// After this time, no server answers by what was there before.
const CHANGE_WAIT: Duration = Duration::from_millis(150);
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

/// Notifications are lost, and the revision is polled once an hour: what one replica changes, the next call
/// at each other one is answered by.
#[tokio::test(flavor = "multi_thread")]
async fn rights_end_at_all_replicas_at_once_without_notifications_and_with_a_slow_database() {
    let server = Postgres::start();
    let first = Demo::new().into_postgres(&server, "poll_ms = 60000\nmax_age_s = 3600");
    first.edit(|text| format!("{text}\n[audit]\npath = \"audit.log\"\n"));
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
            let revision: u64 =
                replicas.server.sql("SELECT accounts FROM rcmpd.revision").parse().expect("a number");
            for service in &replicas.services {
                let lines = service.audit("map");
                let line = lines.last().expect("a decision");
                assert_eq!(
                    (&line["reason"], &line["store_revision"]),
                    (&json!("disabled"), &json!(revision))
                );
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
    tokio::time::sleep(CHANGE_WAIT).await;
    for association in &mut open {
        assert_eq!(ask(&client, &mut **association, &alice).await, Ok(DS_BUSY));
    }
}

/// What is known goes on for the configured time, and then nothing does.
#[tokio::test(flavor = "multi_thread")]
async fn without_the_database_what_is_known_counts_for_the_configured_time() {
    const FRESH: Duration = Duration::from_secs(3);
    let server = Postgres::start();
    let demo = Demo::new().into_postgres(&server, "poll_ms = 100\ntimeout_ms = 500\nfresh_ms = 3000");
    demo.edit(|text| text.replace("store = \"postgres\"", "store = \"postgres\"\nshared = true"));
    let mut service = demo.serve();
    let client = Client::of_machine(&service, "CONTOSO", "WEB01").await.unwrap();
    let (alice, mut association) = (question_of(&service, "alice"), client.open().await.unwrap());
    assert_eq!(ask(&client, &mut *association, &alice).await, Ok(SUCCESS));
    let before = Instant::now();
    server.pause();
    let paused = Instant::now();
    let mut answers = 0;
    loop {
        let asked = Instant::now();
        let answer = ask(&client, &mut *association, &alice).await;
        match answer {
            Ok(SUCCESS) => answers += 1,
            Ok(DS_BUSY) => break,
            other => panic!("{other:?}"),
        }
        assert!(asked < paused + FRESH, "{answers} answers, the last one {:?} after", asked - paused);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(answers > 0, "nothing went on");
    assert!(before.elapsed() >= FRESH - Duration::from_secs(1), "it ended after {:?}", before.elapsed());
    service.wait_for_log("PostgreSQL unreachable: backed off");
    let (_, metrics) = service.get("/metrics");
    let timeouts = metrics.lines().find_map(|line| {
        line.strip_prefix("rcmpd_store_questions_total{outcome=\"timeout\"} ")?.parse::<u64>().ok()
    });
    assert!(timeouts.is_some_and(|timeouts| timeouts > 0), "{metrics}");
    server.resume();
    drop(connected(&client, &alice).await);
}

/// Two calls with one authenticator reach two servers at once: one of them is performed.
#[tokio::test(flavor = "multi_thread")]
async fn of_two_changes_of_a_secret_with_one_authenticator_one_counts() {
    let replicas = Replicas::start("");
    let mut password = replicas.services[0].machine_password("WEB01");
    for round in 0..6 {
        let address = replicas.services[round % 3].netlogon.to_string();
        let client = Client::establish(&address, "CONTOSO", "WEB01$", &password).await.unwrap();
        let mut open = Vec::new();
        for service in &replicas.services[..2] {
            let server = service.netlogon.to_string();
            let transport = TcpTransport::resolve(&server, Duration::from_secs(30)).await.unwrap();
            open.push(client.channel.open(&transport, &SystemRandomness).await.unwrap());
        }
        let [first, second] = &mut open[..] else { panic!("there are two") };
        let new = [0, 1].map(|server| format!("the new secret {round} of server {server}"));
        let [left, right] =
            new.each_ref().map(|text| text.encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<u8>>());
        let (left, right) = tokio::join!(
            client.channel.set_password(&mut **first, &left, &SystemRandomness),
            client.channel.set_password(&mut **second, &right, &SystemRandomness),
        );
        let done = [&left, &right].map(Result::is_ok);
        assert!(done[0] != done[1], "{round}: {left:?}, {right:?}");
        let lost = usize::from(done[0]);
        let refused = Client::establish(&address, "CONTOSO", "WEB01$", &new[lost]).await.err();
        assert!(refused.is_some(), "{round}: the other one counts, too");
        password.clone_from(&new[1 - lost]);
    }
    Client::establish(&replicas.address.to_string(), "CONTOSO", "WEB01$", &password).await.unwrap();
}

/// Guesses at all servers count together, and a server that is started again knows of them.
#[tokio::test(flavor = "multi_thread")]
async fn wrong_secrets_are_counted_over_all_replicas_and_a_restart() {
    let mut replicas = Replicas::start("");
    let there = json!({ "host": replicas.address.ip().to_string(), "port": replicas.address.port() });
    let counts = "SELECT count(*), coalesce(sum(failures), 0) FROM rcmpd.guess";
    for _ in 0..3 {
        replicas.channel().await;
    }
    assert_eq!(replicas.server.sql(counts), "0|0", "right secrets write nothing");
    // Each of the three sees two of these, and four would be free at each.
    for _ in 0..6 {
        let wrong = with(there.clone(), json!({ "secret": "wrong", "questions": [] }));
        let said = run(Command::new(impacket_python()), "impacket_client.py", &wrong);
        assert_eq!(said["handshake"]["status"], "0xC0000022", "{said:#}");
    }
    assert_eq!(replicas.server.sql(counts), "1|6");
    for service in &mut replicas.services {
        service.kill();
        service.start_again();
        let begun = Instant::now();
        let client = Client::of_machine(service, "CONTOSO", "WEB01").await.expect("it is not kept out");
        assert!(begun.elapsed() >= Duration::from_secs(2), "the answer was free: {:?}", begun.elapsed());
        client.open().await.expect("the channel is good");
    }
    assert_eq!(replicas.server.sql(counts), "1|6");
    // After a quarter of an hour, nothing is left of it.
    replicas.server.sql("UPDATE rcmpd.guess SET latest = latest - 9000000000");
    let wrong = with(there, json!({ "secret": "wrong", "questions": [] }));
    let said = run(Command::new(impacket_python()), "impacket_client.py", &wrong);
    assert_eq!(said["handshake"]["status"], "0xC0000022", "{said:#}");
    assert_eq!(replicas.server.sql(counts), "1|1");
}

/// Wrong secrets for one account wait for the lock of one row. Here it is not given back, as long as they
/// come.
#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_guesses_at_one_account_hold_up_no_other_machine() {
    const GUESSES: usize = 1000;
    let replicas = Replicas::start("");
    let service = &replicas.services[0];
    write_secret(service.path("machines/WEB02.secret"), "WEB02 has this one, of 28 characters");
    let add = ["machine", "add", "WEB02$", "--permission", "rcmp", "--secret-file", "machines/WEB02.secret"];
    service.rcmpd(&[&add[..], &["-c", "rcmpd.toml"]].concat()).code(0);
    let (address, password) = (replicas.address.to_string(), service.machine_password("WEB02"));
    let guess = |address: String| async move {
        let refused = Client::establish(&address, "CONTOSO", "WEB01$", "wrong").await.err();
        let Some(ChannelError::Refused(status)) = refused else { panic!("{refused:?}") };
        status.0
    };
    assert_eq!(guess(address.clone()).await, ACCESS_DENIED);
    let mut locked = replicas.server.psql();
    locked.send("BEGIN; SELECT failures FROM rcmpd.guess FOR UPDATE;");
    assert_eq!(locked.line(), "1");
    let (left, told) = (Arc::new(AtomicUsize::new(GUESSES)), Arc::new(AtomicUsize::new(0)));
    let guessers: Vec<_> = (0..100)
        .map(|_| {
            let (left, told, address) = (Arc::clone(&left), Arc::clone(&told), address.clone());
            tokio::spawn(async move {
                let next =
                    || left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
                while next().is_ok() {
                    match guess(address.clone()).await {
                        ACCESS_DENIED => drop(told.fetch_add(1, Ordering::Relaxed)),
                        status => assert_eq!(status, DS_BUSY),
                    }
                }
            })
        })
        .collect();
    let (alice, mut rounds) = (replicas.question("alice"), 0);
    while left.load(Ordering::Relaxed) > 0 {
        let client = Client::establish(&address, "CONTOSO", "WEB02$", &password).await;
        let client = client.unwrap_or_else(|error| panic!("after {rounds} handshakes: {error:?}"));
        let mut association = client.open().await.expect("the channel is good");
        assert_eq!(ask(&client, &mut *association, &alice).await, Ok(SUCCESS), "after {rounds} handshakes");
        rounds += 1;
    }
    for guesser in guessers {
        guesser.await.expect("no guess is right");
    }
    let told = told.load(Ordering::Relaxed);
    eprintln!("{rounds} handshakes of another machine, {told} of {GUESSES} guesses denied, the others busy");
    assert!(rounds >= 3, "the guesses ended before the others began: {rounds}");
    drop(locked);
    let logs: String = replicas.services.iter().map(|service| service.log()).collect();
    assert!(logs.contains("Too many questions about shared channels at one time of=\"guesses\""), "{logs}");
}

/// The table that handshakes ask is locked: one that has asked keeps its turn. Another one of the same account
/// waits for it in vain.
#[tokio::test(flavor = "multi_thread")]
async fn handshakes_of_one_account_wait_for_each_other_in_any_spelling() {
    let replicas = Replicas::start("timeout_ms = 10000");
    let service = &replicas.services[0];
    let (address, password) = (service.netlogon.to_string(), service.machine_password("WEB01"));
    let establish = |account: &'static str| {
        let (address, password) = (address.clone(), password.clone());
        tokio::spawn(async move { Client::establish(&address, "CONTOSO", account, &password).await.err() })
    };
    let asked = || {
        let waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'";
        replicas.server.sql(waiting).parse::<u32>().unwrap()
    };
    let mut locked = replicas.server.psql();
    locked.send("BEGIN; LOCK TABLE rcmpd.guess IN ACCESS EXCLUSIVE MODE; SELECT 'locked';");
    assert_eq!(locked.line(), "locked");
    let first = establish("WEB01$");
    eventually("the first one asks", || asked() == 1);
    let second = establish("web01$").await.unwrap();
    assert!(second.as_ref().is_some_and(is_busy), "{second:?}");
    let log = service.log();
    assert!(log.contains("Too many questions about shared channels at one time of=\"handshakes\""), "{log}");
    assert_eq!(asked(), 1);
    drop(locked);
    first.await.unwrap();
    assert_eq!(establish("wEb01$").await.unwrap(), None);
}

/// nginx passes a reference of the first server to the application. curl asks the others what it stands for.
#[test]
fn a_reference_of_one_server_is_known_to_all_until_the_account_is_disabled() {
    let server = Postgres::start();
    let reference = "[sidecar.reference]\nkeys = [\"file:reference-1.key\"]\naudience = \"shop\"";
    let site = Site::start_in(WebServer::Nginx, &format!("header_len_max = 512\n{reference}"), &|demo| {
        demo.rcmpd(&["sidecar", "ticket-key", "reference-1.key", "--generation", "1"]).code(0);
        demo.rcmpd(&["sidecar", "ticket-key", "reference-2.key", "--generation", "2"]).code(0);
        write_secret(demo.path("admin.token"), "a-token-of-the-tests");
        demo.edit(|text| text.replace("[admin]", "[admin]\ntoken = \"file:admin.token\""));
        for n in 0..30 {
            let name = format!("Department of Things {n}");
            demo.rcmpd(&["group", "add", &name, "-c", "rcmpd.toml"]).code(0);
            demo.rcmpd(&["account", "set", "alice", "--group", &name, "-c", "rcmpd.toml"]).code(0);
        }
        demo.move_into_postgres(&server, "");
    });
    let first = &site.service;
    let copy = |edit: &dyn Fn(String) -> String| {
        let demo = first.copied();
        demo.edit(|text| edit(text.replace(&first.netlogon.to_string(), "127.0.0.1:0")));
        demo.serve_with(&[])
    };
    let second = copy(&|text| text);
    // The key is being replaced: this one seals with the next key, and opens what the others seal.
    let third = copy(&|text| {
        text.replace("[\"file:reference-1.key\"]", "[\"file:reference-1.key\", \"file:reference-2.key\"]")
    });
    let other = copy(&|text| text.replace("\"shop\"", "\"bank\""));
    let ask = |service: &Service, reference: &str| {
        let url = format!("http://{}/identity/{reference}", service.admin);
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--max-time", "30", "--write-out", "\n%{http_code}"]);
        let said = curl.args(["-H", "Authorization: Bearer a-token-of-the-tests", &url]).output().unwrap();
        let said = String::from_utf8(said.stdout).unwrap();
        let (body, status) = said.rsplit_once('\n').unwrap();
        (status.parse::<u16>().unwrap(), body.to_owned())
    };
    let page = site.page(Some("alice"), "/", &[]);
    let header =
        |name: &str| values(&page, name).first().map(|value| (*value).to_owned()).unwrap_or_default();
    let reference = header("X-Identity-Reference");
    assert!(reference.len() > 100 && header("X-Identity-Group-Sids").is_empty(), "{page:#}");
    for service in [first, &second, &third] {
        let (status, whole) = ask(service, &reference);
        assert_eq!(status, 200, "{whole}");
        let whole: serde_json::Value = serde_json::from_str(&whole).unwrap();
        assert_eq!(whole["groups"].as_array().unwrap().len(), 34, "{whole:#}");
        assert_eq!(whole["decision"], header("X-Identity-Decision"));
        assert_eq!((&whole["user"], &whole["method"]), (&json!("CONTOSO\\alice"), &json!("upn")));
    }
    assert_eq!(ask(&other, &reference).0, 404, "servers of another name");
    let changed = format!("{}{}", &reference[1..], &reference[..1]);
    assert_eq!(ask(&second, &changed).0, 404);
    // Its rights end at each of them.
    second.rcmpd(&["account", "set", "alice", "--disable", "-c", "rcmpd.toml"]).code(0);
    for service in [first, &second, &third] {
        eventually("the reference ends", || ask(service, &reference).0 == 404);
    }
    second.rcmpd(&["account", "set", "alice", "--enable", "-c", "rcmpd.toml"]).code(0);
    for service in [first, &second, &third] {
        eventually("it is an account again", || ask(service, &reference).0 == 200);
    }
}

#[test]
fn replica_status_shows_who_is_there_and_who_is_not() {
    let mut replicas = Replicas::start("");
    let status = |replicas: &Replicas, code: i32| {
        let command = ["replica", "status", "-c", "rcmpd.toml", "--json"];
        replicas.services[0].rcmpd(&command).code(code).json()
    };
    let found = |replicas: &Replicas| status(replicas, 0)["replicas"].as_array().unwrap().clone();
    eventually("all three are there", || found(&replicas).len() == 3);
    let said = status(&replicas, 0);
    let version = replicas.services[0].rcmpd(&["--version"]).stdout;
    for service in &replicas.services {
        let address = json!([service.netlogon.to_string()]);
        let row = said["replicas"].as_array().unwrap().iter().find(|row| row["listeners"] == address);
        let row = row.unwrap_or_else(|| panic!("{address}: {said:#}"));
        assert_eq!((&row["stale"], &row["behind"]), (&json!(false), &json!(0)), "{row:#}");
        assert_eq!(row["revisions"], said["revisions"]);
        assert!(version.contains(row["version"].as_str().unwrap()), "{version}: {row:#}");
        assert!(
            row["clock_offset_ms"].as_i64().unwrap().abs() < 60_000,
            "one machine has one clock: {row:#}"
        );
    }
    // One that ends takes its row along; one that stops or dies is stale.
    replicas.services[1].signal(Signal::TERM);
    assert_eq!(replicas.services[1].ended(), 0);
    assert_eq!(found(&replicas).len(), 2);
    replicas.services[2].pause();
    let stale = |replicas: &Replicas| found(replicas).iter().filter(|row| row["stale"] == true).count();
    eventually("one is stale", || stale(&replicas) == 1);
    let table = replicas.services[0].rcmpd(&["replica", "status", "-c", "rcmpd.toml"]).code(0).stdout;
    assert_eq!(table.matches("STALE").count(), 1, "{table}");
    assert!(table.contains(&replicas.services[2].netlogon.to_string()), "{table}");
    replicas.services[2].resume();
    eventually("none is stale", || stale(&replicas) == 0);
    replicas.services[0].kill();
    replicas.services[2].kill();
    eventually("each row is stale", || {
        let command = ["replica", "status", "-c", "rcmpd.toml"];
        replicas.services[0].rcmpd(&command).code == 3
    });
    let alone = Demo::new();
    let refused = alone.rcmpd(&["replica", "status", "-c", "rcmpd.toml"]).code(1);
    assert!(refused.stderr.contains("no servers share this store"), "{refused:?}");
}

#[test]
fn the_audit_logs_of_all_replicas_are_verified_in_one_call() {
    let server = Postgres::start();
    let first = Demo::new().into_postgres(&server, "");
    let section = "[audit]\npath = \"audit.log\"\nrequired = true\nchain = true\n[audit.heads]\npath = \"audit.heads\"\n\
        key = \"audit.key\"\n";
    first.configure(section);
    // Each server has a key of its own.
    let made = |demo: &Demo| drop(demo.rcmpd(&["audit", "key", "audit.key"]).code(0));
    let mut replicas = Replicas::of(server, first, made);
    let there = json!({ "host": replicas.address.ip().to_string(), "port": replicas.address.port() });
    for _ in 0..4 {
        let mut more = there.clone();
        more["questions"] = json!([question(&replicas.services[0], "alice")]);
        let said = impacket(&replicas.services[0], more);
        assert_eq!(said["answers"][0]["pac"]["logon"]["user"], "alice", "{said:#}");
    }
    for service in &mut replicas.services {
        service.signal(Signal::TERM);
        assert_eq!(service.ended(), 0);
    }
    let folders: Vec<_> = replicas.services.iter().map(|service| service.path("")).collect();
    let folders: Vec<&str> = folders.iter().map(|folder| folder.to_str().unwrap()).collect();
    let keys: Vec<_> = replicas.services.iter().map(|service| service.path("audit.key.pub")).collect();
    let keys = keys.iter().flat_map(|key| ["--public-key", key.to_str().unwrap()]);
    let command: Vec<&str> =
        ["audit", "verify", "--json"].into_iter().chain(folders.iter().copied()).chain(keys).collect();
    let verify = |code| replicas.services[0].rcmpd(&command).code(code).json();
    let report = verify(0);
    let logs = report["logs"].as_array().unwrap();
    assert_eq!((&report["verified"], logs.len()), (&json!(true), 3), "{report:#}");
    let decisions: usize = replicas.services.iter().map(|service| service.audit("map").len()).sum();
    assert_eq!(decisions, 4, "each answer is in one of the logs");
    for (log, service) in logs.iter().zip(&replicas.services) {
        let lines = fs::read_to_string(service.path("audit.log")).unwrap().lines().count();
        assert_eq!(log["last_seq"], lines, "{report:#}");
    }
    // One changed line of one of them, and one of them without its checkpoints.
    let log = replicas.services[1].path("audit.log");
    let whole = fs::read_to_string(&log).unwrap();
    assert!(whole.contains("CONTOSO") || whole.contains("WEB01"), "{whole}");
    fs::write(&log, whole.replacen("WEB01", "WEB02", 1)).unwrap();
    let report = verify(3);
    let verified: Vec<_> = report["logs"].as_array().unwrap().iter().map(|log| &log["verified"]).collect();
    assert_eq!(verified, [&json!(true), &json!(false), &json!(true)], "{report:#}");
    fs::write(&log, whole).unwrap();
    fs::remove_file(replicas.services[2].path("audit.heads")).unwrap();
    assert_eq!(verify(7)["logs"][2]["exit_code"], 7);
    fs::remove_file(replicas.services[2].path("audit.log")).unwrap();
    assert_eq!(verify(6)["logs"][2]["exit_code"], 6);
    let mixed = [&["audit", "verify", log.to_str().unwrap()], &folders[..]].concat();
    replicas.services[0].rcmpd(&mixed).code(2);
}

/// Processor time of a process and of its children until now, which have to live.
fn processor_time(process: u32) -> Duration {
    let mut ticks = 0;
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Ok(stat) = fs::read_to_string(entry.path().join("stat")) else { continue };
        // proc_pid_stat(5): the state follows the name.
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
        let is_named = entry.file_name().to_string_lossy() == process.to_string();
        if is_named || fields[1] == process.to_string() {
            ticks += fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
        }
    }
    Duration::from_millis(ticks * 10)
}

/// What it costs that each call is answered by a revision that was read after it arrived: run it with
/// `--run-ignored all --no-capture` and `RCMPD_BINARY` of a release.
#[ignore = "a measurement, for BENCHMARKS.md"]
#[tokio::test(flavor = "multi_thread")]
async fn cost_of_a_revision_for_each_call() {
    const CALLS: u32 = 4000;
    for (what, more) in [("fresh_ms = 60000", "fresh_ms = 60000"), ("fresh_ms = 0", "fresh_ms = 0")] {
        let replicas = Replicas::start(more);
        let (service, alice) = (&replicas.services[0], replicas.question("alice"));
        for connections in [1, 8, 32] {
            let client = Arc::new(Client::of_machine(service, "CONTOSO", "WEB01").await.unwrap());
            let mut open = Vec::new();
            for _ in 0..connections {
                let mut association = client.open().await.unwrap();
                assert_eq!(ask(&client, &mut *association, &alice).await, Ok(SUCCESS));
                open.push(association);
            }
            let polls = || {
                let (_, metrics) = service.get("/metrics");
                let line =
                    metrics.lines().find(|line| line.contains("store_questions_total{outcome=\"revision\"}"));
                line.and_then(|line| line.rsplit(' ').next()).unwrap().parse::<u64>().unwrap()
            };
            let cpu = || [processor_time(service.pid()), processor_time(replicas.server.pid())];
            let (before, polls_before, begun) = (cpu(), polls(), Instant::now());
            let tasks: Vec<_> = open
                .into_iter()
                .map(|mut association| {
                    let (client, alice) = (Arc::clone(&client), alice.clone());
                    tokio::spawn(async move {
                        for _ in 0..CALLS / connections {
                            assert_eq!(ask(&client, &mut *association, &alice).await, Ok(SUCCESS));
                        }
                    })
                })
                .collect();
            for task in tasks {
                task.await.unwrap();
            }
            let (after, elapsed) = (cpu(), begun.elapsed());
            let each = |time: Duration| time.as_secs_f64() * 1e6 / f64::from(CALLS);
            eprintln!(
                "{what}, {connections} connections: {:.0} µs of the server, {:.0} µs of PostgreSQL, {:.0} µs wall, {:.2} reads for a call",
                each(after[0] - before[0]),
                each(after[1] - before[1]),
                each(elapsed),
                (polls() - polls_before) as f64 / f64::from(CALLS),
            );
        }
    }
}

/// What an answer costs over known channels, at three servers and at one with an embedded database: run it as
/// the one above.
#[ignore = "a measurement, for BENCHMARKS.md"]
#[tokio::test(flavor = "multi_thread")]
async fn cost_of_an_answer_on_three_replicas_and_on_one_server() {
    let embedded = Demo::new().serve();
    let (replicas, fresh) = (Replicas::start(""), Replicas::start("fresh_ms = 5000"));
    let processes = |services: &[Service]| services.iter().map(Service::pid).collect::<Vec<u32>>();
    let setups = [
        ("one, embedded", embedded.netlogon, vec![embedded.pid()], &embedded),
        ("three", replicas.address, processes(&replicas.services), &replicas.services[0]),
        ("three, fresh_ms = 5000", fresh.address, processes(&fresh.services), &fresh.services[0]),
    ];
    // In turns, so that each sees the same other work on the machine.
    for round in 1..=3 {
        for (what, address, processes, service) in &setups {
            cost_of_an_answer(&format!("{round}: {what}"), *address, processes, service).await;
        }
    }
}

async fn cost_of_an_answer(what: &str, address: SocketAddr, processes: &[u32], service: &Service) {
    const CALLS: u32 = 6000;
    let (alice, password) = (question_of(service, "alice"), service.machine_password("WEB01"));
    for connections in [3, 24] {
        let client =
            Arc::new(Client::establish(&address.to_string(), "CONTOSO", "WEB01$", &password).await.unwrap());
        let mut open = Vec::new();
        for _ in 0..connections {
            let mut association = client.open().await.unwrap();
            assert_eq!(ask(&client, &mut *association, &alice).await, Ok(SUCCESS));
            open.push(association);
        }
        let cpu = || processes.iter().map(|process| processor_time(*process)).sum::<Duration>();
        let (before, begun) = (cpu(), Instant::now());
        let tasks = open.into_iter().map(|mut association| {
            let (client, alice) = (Arc::clone(&client), alice.clone());
            tokio::spawn(async move {
                for _ in 0..CALLS / connections {
                    assert_eq!(ask(&client, &mut *association, &alice).await, Ok(SUCCESS));
                }
            })
        });
        for task in tasks.collect::<Vec<_>>() {
            task.await.unwrap();
        }
        let each = |time: Duration| time.as_secs_f64() * 1e6 / f64::from(CALLS);
        let (cpu, wall) = (each(cpu() - before), each(begun.elapsed()));
        eprintln!(
            "{what}, {connections} connections: {cpu:.0} µs of the servers, {wall:.0} µs wall for a call"
        );
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
    /// Of these, binds that were refused: whether the channel is good could not be known.
    channels_lost: u64,
    longest_gap: Duration,
}

/// What the test is doing, for its clients.
struct Phase {
    has_ended: AtomicBool,
    /// Without a primary, no server can look a channel up, and a standby that is promoted may lack the last
    /// ones.
    loses_channels_until: Mutex<Instant>,
}

impl Phase {
    fn has_ended(&self) -> bool {
        self.has_ended.load(Ordering::Relaxed)
    }

    fn may_lose_channels(&self) -> bool {
        Instant::now() < *self.loses_channels_until.lock().unwrap()
    }

    /// The primary is away from now on for at most so long, and what it lost is noticed then.
    fn loses_channels_for(&self, time: Duration) {
        *self.loses_channels_until.lock().unwrap() = Instant::now() + time;
    }
}

/// Who a question is about, or the status of its answer.
type Truth = Result<&'static str, u32>;

impl Seen {
    fn right(&mut self, last: &mut Instant) {
        self.right += 1;
        self.longest_gap = self.longest_gap.max(last.elapsed());
        *last = Instant::now();
    }

    fn add(&mut self, other: &Self) {
        self.right += other.right;
        self.retried += other.retried;
        self.channels_lost += other.channels_lost;
        self.longest_gap = self.longest_gap.max(other.longest_gap);
    }
}

/// Asks until the phase has ended. Each answer is compared with the truth.
async fn load(replicas: Arc<(String, String)>, questions: [(Vec<u8>, Truth); 3], phase: Arc<Phase>) -> Seen {
    let (address, password) = &*replicas;
    let (mut seen, mut last, mut client) = (Seen::default(), Instant::now(), None);
    let (mut round, mut retried) = (0, 0);
    while !phase.has_ended() {
        round += 1;
        let (question, truth) = &questions[round % 3];
        let asked = timeout(Duration::from_secs(10), async {
            // A new channel now and then, and a new connection each time.
            if client.is_none() || round % 20 == 0 {
                client = Some(Client::establish(address, "CONTOSO", "WEB01$", password).await?);
            }
            let client = client.as_ref().expect("it is there");
            let mut association = client.open().await?;
            ask_who(client, &mut *association, question).await
        });
        match asked.await {
            Ok(Ok(answer)) if answer.as_deref() == truth.as_ref().copied() => seen.right(&mut last),
            Ok(Ok(Err(DS_BUSY))) | Err(_) => seen.retried += 1,
            Ok(Err(ChannelError::Transport(TransportError::Refused(why)))) => {
                assert!(phase.may_lose_channels(), "a channel is not known: {why}");
                seen.retried += 1;
                seen.channels_lost += 1;
                client = None;
            }
            Ok(Err(ChannelError::Transport(_))) => seen.retried += 1,
            Ok(Err(ChannelError::Refused(status))) if status.0 == DS_BUSY => {
                seen.retried += 1;
                client = None;
            }
            other => panic!("a wrong answer: {other:?} instead of {truth:x?}"),
        }
        if seen.retried > retried {
            retried = seen.retried;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    seen
}

/// The same as Impacket asks, one handshake and two questions at a time.
fn load_of_impacket(given: &serde_json::Value, phase: &Phase) -> Seen {
    let (mut seen, mut last) = (Seen::default(), Instant::now());
    let truths = [format!("0x{SUCCESS:08X}"), format!("0x{LOGON_FAILURE:08X}")];
    let who = [json!("alice"), json!(null)];
    while !phase.has_ended() {
        let said = run(Command::new(impacket_python()), "impacket_client.py", given);
        let answers = said["answers"].as_array().unwrap();
        for ((answer, truth), who) in answers.iter().zip(&truths).zip(&who) {
            match answer["status"].as_str().unwrap() {
                status if status == truth && answer["pac"]["logon"]["user"] == *who => seen.right(&mut last),
                "0xC00002A5" => seen.retried += 1,
                _ => panic!("a wrong answer: {said:#}"),
            }
        }
        if answers.len() < truths.len() {
            let status = &said["handshake"]["status"];
            let is_right = status.is_null() || *status == truths[0] || *status == "0xC00002A5";
            assert!(is_right, "a wrong answer: {said:#}");
            seen.retried += 1;
        }
    }
    seen
}

/// A machine whose rights end and come back. Its connections reach any of the services.
struct Toggled {
    address: String,
    password: String,
    /// Commands use the database itself, and the services lose its notifications.
    commands: &'static str,
}

impl Toggled {
    /// What changes is committed when this returns. While a service or the database is down, it is tried
    /// again.
    fn command(&self, demo: &Demo, arguments: &[&str]) {
        eventually("the command is done", || {
            demo.rcmpd(&[arguments, &["-c", self.commands]].concat()).code == 0
        });
    }

    /// Connections that have had an answer.
    async fn connected(&self, question: &[u8]) -> (Client, Vec<Box<dyn Association>>) {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let tried = async {
                let client = Client::establish(&self.address, "CONTOSO", "WEB02$", &self.password).await?;
                let mut open = Vec::new();
                for _ in 0..3 {
                    let mut association = client.open().await?;
                    if ask(&client, &mut *association, question).await? == SUCCESS {
                        open.push(association);
                    }
                }
                Ok::<_, ChannelError>((client, open))
            };
            match timeout(Duration::from_secs(10), tried).await {
                Ok(Ok((client, open))) if open.len() == 3 => return (client, open),
                other if Instant::now() > deadline => panic!("never: {:?}", other.map(|it| it.err())),
                _ => {}
            }
        }
    }

    /// Ends the rights by one command, and gives them back by another one.
    async fn toggle(&self, demo: &Demo, question: &[u8], [end, again]: [&[&str]; 2]) {
        let (client, mut open) = self.connected(question).await;
        self.command(demo, end);
        for association in &mut open {
            let answer = timeout(Duration::from_secs(10), ask(&client, &mut **association, question)).await;
            assert_ne!(answer, Ok(Ok(SUCCESS)), "an answer after {end:?}");
        }
        let bound = timeout(Duration::from_secs(10), client.open()).await;
        assert!(!matches!(bound, Ok(Ok(_))), "a bind after {end:?}");
        self.command(demo, again);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_killed_or_stops_no_answer_is_wrong() {
    let server = Postgres::start();
    let first = Demo::new().into_postgres(&server, "timeout_ms = 3000\npoll_ms = 60000");
    let mut standby = server.standby();
    let mut proxies = [&server, &standby].map(|server| PostgresProxy::start(server.address()));
    // Commands find the primary wherever it is, too.
    let (one, two) =
        (format!("\"{}\"", server.address()), proxies.each_ref().map(|it| format!("\"{}\"", it.address())));
    first.edit(|text| text.replace(&one, &two.join(", ")));
    write_secret(first.path("machines/WEB02.secret"), "WEB02 has this one, of 28 characters");
    write_secret(first.path("machines/other.secret"), "and this is another of its secrets.");
    let add = ["machine", "add", "WEB02$", "--permission", "rcmp", "--secret-file", "machines/WEB02.secret"];
    first.rcmpd(&[&add[..], &["-c", "rcmpd.toml"]].concat()).code(0);
    let mut replicas = Replicas::of(server, first, |_| {});
    let address = replicas.address.to_string();
    let toggled = Toggled {
        address: address.clone(),
        password: replicas.services[0].machine_password("WEB02"),
        commands: "rcmpd.toml",
    };
    let at = Arc::new((address, replicas.services[0].machine_password("WEB01")));
    let questions = [("alice", Ok("alice")), ("bob", Ok("bob")), ("mallory", Err(LOGON_FAILURE))];
    let questions = questions.map(|(who, truth)| (replicas.question(who), truth));
    let ends = Instant::now() + Duration::from_secs(seconds());
    let phase = Arc::new(Phase {
        has_ended: AtomicBool::new(false),
        loses_channels_until: Mutex::new(Instant::now()),
    });
    let clients: Vec<_> =
        (0..4).map(|_| tokio::spawn(load(Arc::clone(&at), questions.clone(), Arc::clone(&phase)))).collect();
    let here = json!({
        "host": replicas.address.ip().to_string(), "port": replicas.address.port(),
        "questions": [question(&replicas.services[0], "alice"), question(&replicas.services[0], "mallory")],
    });
    let (given, of) = (with(target(&replicas.services[0]), here), Arc::clone(&phase));
    let impacket = tokio::task::spawn_blocking(move || load_of_impacket(&given, &of));
    let pause = || tokio::time::sleep(Duration::from_millis(1500));
    let disable: [&[&str]; 2] =
        [&["machine", "set", "WEB02$", "--disable"], &["machine", "set", "WEB02$", "--enable"]];
    let secret = |file| ["machine", "set", "WEB02$", "--now", "--secret-file", file];
    let (other, usual) = (secret("machines/other.secret"), secret("machines/WEB02.secret"));
    let mut faults = 0;
    // Each kind of fault, however slow the machine is.
    while Instant::now() < ends || faults < 7 {
        let service = &mut replicas.services[faults % 3];
        match faults % 7 {
            0 => {
                service.kill();
                pause().await;
                service.start_again();
            }
            1 => toggled.toggle(service, &questions[0].0, disable).await,
            2 => {
                service.pause();
                pause().await;
                service.resume();
            }
            3 => {
                // The standby has everything when the primary dies.
                let written = replicas.server.sql("SELECT pg_current_wal_lsn()");
                let replayed = format!("SELECT pg_last_wal_replay_lsn() >= '{written}'");
                eventually("the standby follows", || standby.sql(&replayed) == "t");
                phase.loses_channels_for(Duration::from_secs(60));
                replicas.server.kill();
                pause().await;
                standby.promote();
                let next = standby.standby();
                proxies[0].lead_to(next.address());
                proxies.swap(0, 1);
                replicas.server = std::mem::replace(&mut standby, next);
                phase.loses_channels_for(Duration::from_secs(3));
            }
            4 => toggled.toggle(service, &questions[0].0, [&other, &usual]).await,
            5 => {
                phase.loses_channels_for(Duration::from_secs(60));
                replicas.server.pause();
                pause().await;
                replicas.server.resume();
                phase.loses_channels_for(Duration::from_secs(3));
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
    phase.has_ended.store(true, Ordering::Relaxed);
    let mut total = Seen::default();
    for client in clients {
        total.add(&client.await.expect("no answer is wrong"));
    }
    let impacket = impacket.await.expect("no answer is wrong");
    eprintln!("{faults} faults: {total:?}, and Impacket: {impacket:?}");
    assert!(total.right > 50, "{total:?}");
    // All recover.
    for _ in 0..6 {
        let (client, mut open) = toggled.connected(&questions[0].0).await;
        assert_eq!(ask(&client, &mut *open[0], &questions[0].0).await, Ok(SUCCESS));
    }
}

/// The primary dies, its standby is promoted, and then the first one comes back as what it was. It takes
/// changes, which no standby has.
#[tokio::test(flavor = "multi_thread")]
async fn a_former_primary_that_comes_back_is_not_used() {
    let former = Postgres::start();
    let more = format!("timeout_ms = 3000\nreplicas = [\"{}\"]", former.address());
    let demo = Demo::new().into_postgres(&former, &more);
    let standby = former.standby();
    let one = format!("\"{}\"", former.address());
    demo.edit(|text| text.replacen(&one, &format!("{one}, \"{}\"", standby.address()), 1));
    let mut replicas = Replicas::of(former, demo, |_| {});
    let (client, alice) = (replicas.channel().await, replicas.question("alice"));
    let written = replicas.server.sql("SELECT pg_current_wal_lsn()");
    let replayed = format!("SELECT pg_last_wal_replay_lsn() >= '{written}'");
    eventually("the standby follows", || standby.sql(&replayed) == "t");
    replicas.server.kill();
    standby.promote();
    let mut open = Vec::new();
    for _ in 0..3 {
        open.push(connected(&client, &alice).await);
    }
    replicas.server.restart();
    let timeline = "SELECT substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8)";
    assert_eq!(
        (replicas.server.sql(timeline), standby.sql(timeline)),
        ("00000001".into(), "00000002".into())
    );
    // As one of `replicas`, its changes do not count, whatever their number is.
    replicas.server.sql(
        "UPDATE rcmpd.account SET flags = flags | 2;
         UPDATE rcmpd.revision SET accounts = accounts + 1000, accounts_epoch = 5",
    );
    let says = "it has changes that the primary does not have";
    let deadline = Instant::now() + Duration::from_secs(60);
    while !replicas.services.iter().any(|service| service.log().contains(says)) {
        assert!(Instant::now() < deadline, "not logged: {says}");
        standby.sql("UPDATE rcmpd.revision SET accounts = accounts + 1, accounts_epoch = accounts_epoch + 1");
        for association in &mut open {
            assert_eq!(ask(&client, &mut **association, &alice).await, Ok(SUCCESS));
        }
    }
    // A command finds the promoted one, though the other one is named first.
    let enabled = "SELECT enabled FROM rcmpd.machine";
    replicas.services[0].rcmpd(&["machine", "set", "WEB01$", "--disable", "-c", "rcmpd.toml"]).code(0);
    assert_eq!((replicas.server.sql(enabled), standby.sql(enabled)), ("t".into(), "f".into()));
    for association in &mut open {
        let answer = ask(&client, &mut **association, &alice).await;
        assert_ne!(answer, Ok(SUCCESS), "the former primary says that it is enabled");
    }
    // Servers that have seen it do not go back, also if only the former one answers.
    standby.pause();
    let says = "it was the primary before a standby was promoted (its timeline is 1, and 2";
    eventually("the former primary is rejected", || {
        let refused = establish(&replicas.services[0]);
        assert!(refused.is_some_and(|error| is_busy(&error)), "the former primary is used");
        replicas.services[0].log().contains(says)
    });
    standby.resume();
    // One that starts while only the former primary answers uses it, and leaves it when it sees the promoted
    // one.
    replicas.services[1].kill();
    standby.pause();
    replicas.services[1].start_again();
    standby.resume();
    replicas.services[1].wait_for_log("PostgreSQL has another primary");
    eventually("the machine is refused", || {
        establish(&replicas.services[1]).is_some_and(|error| !is_busy(&error))
    });
    replicas.services[1].rcmpd(&["machine", "set", "WEB01$", "--enable", "-c", "rcmpd.toml"]).code(0);
    assert_eq!(standby.sql(enabled), "t");
    for service in &replicas.services {
        eventually("all go on with the promoted one", || establish(service).is_none());
    }
}

/// Why a machine of the demo gets no channel.
fn establish(service: &Service) -> Option<ChannelError> {
    let established = Client::of_machine(service, "CONTOSO", "WEB01");
    tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(established)).err()
}

fn is_busy(error: &ChannelError) -> bool {
    matches!(error, ChannelError::Refused(status) if status.0 == DS_BUSY)
}

/// An association that has had an answer, as soon as there is one.
async fn connected(client: &Client, question: &[u8]) -> Box<dyn Association> {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        if let Ok(mut association) = client.open().await
            && ask(client, &mut *association, question).await == Ok(SUCCESS)
        {
            return association;
        }
        assert!(Instant::now() < deadline, "never");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Each server sees its own misses only. Together they answer as many a second as one server would.
#[tokio::test(flavor = "multi_thread")]
async fn misses_of_a_machine_have_one_rate_over_all_replicas() {
    const PER_SECOND: u32 = 6;
    const BURST: u32 = 10;
    let server = Postgres::start();
    let demo = Demo::new().into_postgres(&server, "");
    demo.edit(|text| {
        text.replace("[rpc]\n", &format!("[rpc]\nmisses_per_s = {PER_SECOND}\nmisses_burst = {BURST}\n"))
    });
    let mut replicas = Replicas::of(server, demo, |_| {});
    for service in &mut replicas.services {
        service.wait_for_log("Number of servers that share the store has changed servers=3");
    }
    let (client, alice) = (Arc::new(replicas.channel().await), replicas.question("alice"));
    let (begun, ends) = (Instant::now(), Instant::now() + Duration::from_secs(15));
    let mut machines = Vec::new();
    for service in 0..3 {
        let (client, alice) = (Arc::clone(&client), alice.clone());
        // The balancer gives each connection to the next server.
        let mut association = client.open().await.expect("each replica knows the channel");
        machines.push(tokio::spawn(async move {
            let (mut missed, mut number) = (0, service << 24);
            while Instant::now() < ends {
                match ask(&client, &mut *association, &with_other_certificate(&alice, number)).await {
                    Ok(LOGON_FAILURE) => missed += 1,
                    other => assert_eq!(other, Ok(DS_BUSY)),
                }
                number += 1;
            }
            (missed, number - (service << 24))
        }));
    }
    let (mut missed, mut asked) = (0, 0);
    for machine in machines {
        let (of_one, asked_of_one) = machine.await.expect("no answer is wrong");
        assert!(of_one >= BURST, "each server has the burst: {of_one} of {asked_of_one}");
        (missed, asked) = (missed + of_one, asked + asked_of_one);
    }
    let seconds = begun.elapsed().as_secs() as u32 + 1;
    eprintln!("{missed} misses in {seconds} s, of {asked} questions");
    assert!(missed <= 3 * BURST + PER_SECOND * seconds, "{missed} misses in {seconds} s, of {asked}");
    assert!(asked > 3 * (BURST + PER_SECOND * seconds), "too few were asked to tell: {asked}");
}

/// Says that a test is in namespaces of its own.
const INSIDE: &str = "RCMPD_TESTS_INSIDE";

#[track_caller]
fn sh(script: &str) -> String {
    let output = Command::new("sh").args(["-e", "-c", script]).stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Runs a test again as the only one, in networks and processes of its own.
fn in_namespaces(test: &str) {
    let mut again = Command::new("unshare");
    again.args(["--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]);
    if !rustix::process::geteuid().is_root() {
        again.args(["--user", "--map-root-user"]);
    }
    again.arg(std::env::current_exe().unwrap());
    again.args(["--exact", test, "--nocapture"]);
    assert!(again.env(INSIDE, "1").status().unwrap().success());
}

/// A server in a network of its own, with one way to the database and another one to its clients.
fn serve_in_network(demo: &Demo, server: &Postgres, n: usize) -> Service {
    sh(&format!("ip netns add r{n}"));
    for (kind, net) in [("db", 1), ("cl", 2)] {
        sh(&format!(
            "ip link add {kind}{n} type veth peer name {kind} netns r{n}
            ip addr add 10.{net}.{n}.1/24 dev {kind}{n}; ip link set {kind}{n} up
            ip -n r{n} addr add 10.{net}.{n}.2/24 dev {kind}; ip -n r{n} link set {kind} up; ip -n r{n} link set lo up"
        ));
    }
    let of_it = demo.copied();
    of_it.edit(|text| text.replacen("[\"127.0.0.1:0\"]", &format!("[\"10.2.{n}.2:0\"]"), 1));
    // Without TLS, the database has to be at a loopback address.
    let (port, relay) = (server.port(), of_it.path("relay.cfg"));
    let text = format!(
        "defaults\n    mode tcp\n    timeout connect 1s\n    timeout client 5m\n    timeout server 5m\n\
         listen database\n    bind 127.0.0.1:{port}\n    server database 10.1.{n}.1:{port}\n"
    );
    fs::write(&relay, text).unwrap();
    let mut command = Command::new("ip");
    command.args(["netns", "exec", &format!("r{n}"), "/usr/sbin/haproxy", "-db", "-f"]).arg(&relay);
    // It ends with the namespaces.
    drop(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
    let is_there = format!("ip netns exec r{n} bash -c ': </dev/tcp/127.0.0.1/{port}' 2>&1");
    eventually("the relay listens", || {
        Command::new("sh").args(["-c", &is_there]).output().unwrap().status.success()
    });
    let mut command = Command::new("ip");
    command.args(["netns", "exec", &format!("r{n}")]).arg(rcmpd_tests::binary());
    of_it.serve_by(command)
}

/// Enables or disables the machine, as soon as the database takes it.
fn set(demo: &Demo, state: &str) {
    let command = ["machine", "set", "WEB01$", state, "-c", "rcmpd.toml"];
    eventually("the command is done", || demo.rcmpd(&command).code == 0);
}

/// Two servers in networks of their own. First the way of one to the database is cut, then the way of the other
/// to its clients.
#[tokio::test(flavor = "multi_thread")]
async fn a_split_network_makes_no_answer_wrong() {
    if std::env::var_os(INSIDE).is_none() {
        return in_namespaces("replicas::a_split_network_makes_no_answer_wrong");
    }
    sh("ip link set lo up; mount -t tmpfs tmpfs /run");
    let server = Postgres::start_with(&["listen_addresses=*"]);
    server.write(
        "pg_hba.conf",
        "host all all 127.0.0.1/32 scram-sha-256\nhost all all 10.1.0.0/16 scram-sha-256\n",
    );
    server.sql("SELECT pg_reload_conf()");
    let demo = Demo::new().into_postgres(&server, "timeout_ms = 5000\npoll_ms = 60000");
    demo.edit(|text| text.replace("store = \"postgres\"", "store = \"postgres\"\nshared = true"));
    let mut services: Vec<Service> = (1..=2).map(|n| serve_in_network(&demo, &server, n)).collect();
    a_server_without_the_database_says_that_it_is_busy(&demo, &mut services).await;
    a_server_without_clients_leaves_the_other_one_alone(&demo, &services).await;
    sh("ip netns del r1; ip netns del r2");
}

async fn a_server_without_the_database_says_that_it_is_busy(demo: &Demo, services: &mut [Service]) {
    let client = Client::of_machine(&services[0], "CONTOSO", "WEB01").await.unwrap();
    let alice = question_of(&services[0], "alice");
    let mut first = client.open().await.unwrap();
    let other = Client::of_machine(&services[1], "CONTOSO", "WEB01").await.unwrap();
    let mut second = other.open().await.unwrap();
    assert_eq!(ask(&client, &mut *first, &alice).await, Ok(SUCCESS));
    assert_eq!(ask(&other, &mut *second, &alice).await, Ok(SUCCESS));
    sh("ip link set db1 down");
    // Until then it may answer by what it knows: no change can have ended.
    tokio::time::sleep(CHANGE_WAIT).await;
    assert_eq!(ask(&client, &mut *first, &alice).await, Ok(DS_BUSY));
    set(demo, "--disable");
    assert_eq!(ask(&other, &mut *second, &alice).await, Ok(ACCESS_DENIED));
    assert_eq!(ask(&client, &mut *first, &alice).await, Ok(DS_BUSY));
    services[0].wait_for_log("PostgreSQL unreachable");
    let said = sh(&format!("ip netns exec r1 curl -s http://{}/metrics", services[0].admin));
    let timeouts = said.lines().find(|line| line.contains("store_questions_total{outcome=\"timeout\"}"));
    let timeouts = timeouts.and_then(|line| line.rsplit(' ').next()).unwrap();
    assert!(timeouts.parse::<u64>().unwrap() > 0, "{said}");
    sh("ip link set db1 up");
    eventually("the machine is refused", || {
        let answer = tokio::task::block_in_place(|| {
            tokio::runtime::Handle::current().block_on(ask(&client, &mut *first, &alice))
        });
        assert_ne!(answer, Ok(SUCCESS), "the machine is disabled");
        answer != Ok(DS_BUSY)
    });
}

async fn a_server_without_clients_leaves_the_other_one_alone(demo: &Demo, services: &[Service]) {
    let alice = question_of(&services[0], "alice");
    set(demo, "--enable");
    let mut associations = Vec::new();
    for (n, service) in services.iter().enumerate() {
        eventually("the machine has a channel again", || establish(service).is_none());
        let client = Client::of_machine(service, "CONTOSO", "WEB01").await.unwrap();
        let mut association = client.open().await.unwrap();
        assert_eq!(ask(&client, &mut *association, &alice).await, Ok(SUCCESS), "{n}");
        associations.push((client, association));
    }
    sh("ip link set cl2 down");
    let (client, association) = &mut associations[1];
    let lost = timeout(Duration::from_secs(3), ask(client, &mut **association, &alice)).await;
    assert!(!matches!(lost, Ok(Ok(_))), "{lost:?}");
    let (client, association) = &mut associations[0];
    assert_eq!(ask(client, &mut **association, &alice).await, Ok(SUCCESS));
    eventually("both write their rows", || {
        let there = demo.rcmpd(&["replica", "status", "-c", "rcmpd.toml", "--json"]);
        there.code == 0 && there.json()["replicas"].as_array().unwrap().len() == 2
    });
    set(demo, "--disable");
    assert_eq!(ask(client, &mut **association, &alice).await, Ok(ACCESS_DENIED));
    sh("ip link set cl2 up");
    // What was sent while the network was split is answered by what is true now.
    let refused = establish(&services[1]);
    assert!(refused.as_ref().is_some_and(|error| !is_busy(error)), "{refused:?}");
    set(demo, "--enable");
    eventually("the machine has a channel again", || establish(&services[1]).is_none());
}

/// The release before beside this one: `RCMPD_PREVIOUS` is its program, which `make test-full` builds.
#[tokio::test(flavor = "multi_thread")]
async fn servers_are_upgraded_one_after_the_other() {
    let Some(previous) = std::env::var_os("RCMPD_PREVIOUS") else {
        eprintln!("not run: RCMPD_PREVIOUS names no program");
        return;
    };
    let (previous, server) = (Path::new(&previous), Postgres::start());
    let demo = Demo::new();
    demo.move_into_postgres_by(previous, &server, "");
    demo.edit(|text| text.replace("store = \"postgres\"", "store = \"postgres\"\nshared = true"));
    let version = || server.sql("SELECT version FROM rcmpd.schema_version");
    let before = version();
    let mut services: Vec<Service> = (0..3).map(|_| demo.copied().serve_by(Command::new(previous))).collect();
    let client = Arc::new(Client::of_machine(&services[0], "CONTOSO", "WEB01").await.unwrap());
    let alice = question_of(&services[2], "alice");
    let (of_load, has_ended) = (Arc::clone(&client), Arc::<AtomicBool>::default());
    let addresses: Vec<String> = services.iter().map(|service| service.netlogon.to_string()).collect();
    let load = tokio::spawn(load_of_upgrade(of_load, addresses, alice.clone(), Arc::clone(&has_ended)));
    services[2].kill();
    services[2].start_again();
    let is_same = version() == before;
    eprintln!("version of the tables: {before} before, {} now", version());
    // A channel of the release before is good at this one.
    let address = services[2].netlogon.to_string();
    let transport = TcpTransport::resolve(&address, Duration::from_secs(30)).await.unwrap();
    let mut association = client.channel.open(&transport, &SystemRandomness).await.unwrap();
    assert_eq!(ask(&client, &mut *association, &alice).await, Ok(SUCCESS));
    for service in &mut services[..2] {
        match is_same {
            true => assert_eq!(establish(service), None),
            false => {
                // Neither yes nor no, and the log says what to do.
                eventually("it refuses", || establish(service).as_ref().is_some_and(is_busy));
                service.wait_for_log("restart it, or use a newer one");
                let check = ["machine", "list", "-c", "rcmpd.toml"];
                let done = service.run(previous, &check);
                assert!(done.code != 0 && done.stderr.contains("use a newer program"), "{done:?}");
            }
        }
        service.kill();
        service.start_again();
        assert_eq!(establish(service), None);
    }
    assert_eq!(ask(&client, &mut *association, &alice).await, Ok(SUCCESS));
    has_ended.store(true, Ordering::Relaxed);
    let (right, busy) = load.await.expect("no answer is wrong");
    eprintln!("{right} right answers, {busy} times busy");
    assert!(right > 20 && (busy == 0) == is_same, "{right} right answers, {busy} times busy");
}

/// Asks over one channel until it is told to end, each time the next server. Returns how many answers were
/// right, and how many servers said that they are busy. If a server does not listen, the next one is asked.
async fn load_of_upgrade(
    client: Arc<Client>,
    addresses: Vec<String>,
    question: Vec<u8>,
    has_ended: Arc<AtomicBool>,
) -> (u64, u64) {
    let (mut right, mut busy) = (0, 0);
    for address in addresses.iter().cycle() {
        if has_ended.load(Ordering::Relaxed) {
            break;
        }
        let transport = TcpTransport::resolve(address, Duration::from_secs(30)).await.unwrap();
        let asked = async {
            let mut association = client.channel.open(&transport, &SystemRandomness).await?;
            Ok(client.channel.ask(&mut *association, PACKAGE_NAME, "CONTOSO", &question).await?.status.0)
        };
        match asked.await {
            Ok(SUCCESS) => right += 1,
            // A bind has no status: a server that cannot look the channel up refuses it.
            Ok(DS_BUSY) | Err(ChannelError::Transport(TransportError::Refused(_))) => busy += 1,
            Err(ChannelError::Transport(_)) => tokio::time::sleep(Duration::from_millis(20)).await,
            other => panic!("a wrong answer: {other:?}"),
        }
    }
    (right, busy)
}

/// The calculation of docs/replicas.md, and the simulation of each single decision, by the same measured
/// costs.
#[test]
fn the_calculation_of_the_limit_agrees_with_the_simulation() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("replicas_simulation.py");
    for more in [
        &[][..],
        &["--prepare"],
        &["--sites", "1", "--database-cores", "32"],
        &["--decisions", "20000", "--changes", "0"],
    ] {
        let output = Command::new("python3").arg(&script).arg("--json").args(more).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        let said: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let number = |path: &str| said.pointer(path).and_then(serde_json::Value::as_f64).unwrap();
        let (calculated, simulated) =
            (number("/calculated/cores_of_a_server"), number("/simulated/busy_server") * 4.0);
        assert!((simulated / calculated - 1.0).abs() < 0.15, "{more:?}: {said:#}");
        let (calculated, simulated) = (number("/calculated/reads_per_s"), number("/simulated/reads_per_s"));
        assert!((simulated / calculated - 1.0).abs() < 0.25, "{more:?}: {said:#}");
        assert!(number("/limit_per_s") > number("/decisions_per_s"), "{more:?}: {said:#}");
        let (at_asked, beyond) = (number("/simulated/p99_ms"), number("/beyond/p99_ms"));
        assert!(beyond > 2.0 * at_asked, "no queue grows beyond the limit, {more:?}: {said:#}");
    }
}

#[test]
fn demo_of_replicas_answers_while_servers_are_killed() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/demo-replicas");
    let output = Command::new(script).arg(rcmpd_tests::binary()).stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(said.matches("6 times CONTOSO\\alice").count(), 4, "{said}");
}
