//! Clients that prove nothing, by the thousand, and machines that are served meanwhile.

use crate::serving::{channel, question};
use netlogon_transport::client::Association;
use rcmp_service::message::PACKAGE_NAME;
use rcmpd_tests::client::Client;
use rcmpd_tests::{Demo, Service};
use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddr};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpSocket, TcpStream};

/// Of 10,000 connections that prove nothing, together with everything else.
const RESIDENT_KIB_MAX: u64 = 96 * 1024;
/// Debug builds on a busy machine are slow; a machine that is shut out waits for ever.
const PATIENCE: Duration = Duration::from_secs(20);
/// The median time of an answer to a machine with a connection during a flood, or so many times that without
/// the flood: where the flood, a debug build and other programs share two cores, half-sent binds were
/// measured to make it ten times as long.
const MEDIAN_MAX: Duration = Duration::from_millis(10);
const RATIO_MAX: u32 = 30;
/// Questions before the flood.
const CALM_QUESTIONS: usize = 50;

/// A bind of a header that promises 65,535 bytes, and 65,000 of them.
fn slow_bind() -> Vec<u8> {
    let mut bind = vec![5, 0, 11, 3, 0x10, 0, 0, 0, 0xff, 0xff, 0, 0, 1, 0, 0, 0];
    bind.resize(65_000, 0);
    bind
}

/// A bind to Netlogon with so many presentation contexts ([C706] 12.6.4.3).
pub(crate) fn bind(contexts: u8) -> Vec<u8> {
    let mut pdu = vec![5, 0, 11, 3, 0x10, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0];
    pdu.extend_from_slice(&[0xd0, 0x16, 0xd0, 0x16, 0, 0, 0, 0, contexts, 0, 0, 0]);
    for id in 0..contexts {
        pdu.extend_from_slice(&[id, 0, 1, 0]);
        pdu.extend_from_slice(
            b"\x78\x56\x34\x12\x34\x12\xcd\xab\xef\x00\x01\x23\x45\x67\xcf\xfb\x01\x00\x00\x00",
        );
        pdu.extend_from_slice(
            b"\x04\x5d\x88\x8a\xeb\x1c\xc9\x11\x9f\xe8\x08\x00\x2b\x10\x48\x60\x02\x00\x00\x00",
        );
    }
    let len = (pdu.len() as u16).to_le_bytes();
    pdu[8..10].copy_from_slice(&len);
    pdu
}

/// The first fragments of a call that does not end.
fn fragments() -> Vec<u8> {
    let mut bytes = bind(1);
    for n in 0..12 {
        let at = bytes.len();
        let flags = u8::from(n == 0);
        bytes.extend_from_slice(&[5, 0, 0, flags, 0x10, 0, 0, 0, 0xd0, 0x16, 0, 0, 2, 0, 0, 0]);
        bytes.resize(at + 5840, 0);
        bytes[at + 22] = 4;
    }
    bytes
}

async fn connect_from(address: Ipv4Addr, server: SocketAddr, sent: &[u8]) -> std::io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::from((address, 0)))?;
    let mut stream = socket.connect(server).await?;
    // The server may have closed it already, or not take all of it.
    let _ = tokio::time::timeout(Duration::from_secs(5), stream.write_all(sent)).await;
    Ok(stream)
}

/// Connections from so many addresses in turn, some at once, each of which sends something.
async fn flood(
    server: SocketAddr,
    connections: Range<usize>,
    addresses: usize,
    sent: Vec<u8>,
) -> Vec<TcpStream> {
    const AT_ONCE: usize = 50;
    let sent = Arc::new(sent);
    let mut tasks = tokio::task::JoinSet::new();
    for task in 0..AT_ONCE {
        let (sent, connections) = (Arc::clone(&sent), connections.clone());
        tasks.spawn(async move {
            let mut streams = Vec::new();
            for n in connections.skip(task).step_by(AT_ONCE) {
                streams.extend(connect_from(address(n % addresses), server, &sent).await.ok());
            }
            streams
        });
    }
    tasks.join_all().await.into_iter().flatten().collect()
}

/// The loopback network has many addresses.
fn address(n: usize) -> Ipv4Addr {
    Ipv4Addr::from(0x7f01_0001 + n as u32)
}

/// A machine with a connection, in a thread and with a runtime of its own, so that its times are not those of
/// the flood's tasks.
struct Asker {
    /// The median time of an answer before the flood.
    calm: Duration,
    stop: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<Vec<Duration>>,
}

impl Asker {
    /// Asks one question after the other until it is stopped.
    async fn start(service: &Service, data: Vec<u8>) -> Self {
        let server = service.netlogon.to_string();
        let password = service.machine_password("WEB01");
        let (calm_sender, calm) = tokio::sync::oneshot::channel();
        let stop = Arc::new(AtomicBool::new(false));
        let is_stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let client = Client::establish(&server, "CONTOSO", "WEB01$", &password).await.unwrap();
                let mut association = client.open().await.unwrap();
                // The proof comes with the first call.
                client.channel.ask(&mut *association, PACKAGE_NAME, "CONTOSO", &data).await.unwrap();
                let mut calm = times(&client, &mut *association, &data, CALM_QUESTIONS).await;
                calm.sort();
                calm_sender.send(calm[calm.len() / 2]).unwrap();
                let mut took = Vec::new();
                while !is_stopped.load(Ordering::Relaxed) {
                    took.extend(times(&client, &mut *association, &data, 1).await);
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
                took
            })
        });
        Self { calm: calm.await.unwrap(), stop, thread }
    }

    /// How long each answer took since the start of the flood, the shortest first.
    fn stop(self) -> Vec<Duration> {
        self.stop.store(true, Ordering::Relaxed);
        let mut took = self.thread.join().unwrap();
        took.sort();
        took
    }
}

/// How long each of so many answers takes.
async fn times(
    client: &Client,
    association: &mut dyn Association,
    data: &[u8],
    questions: usize,
) -> Vec<Duration> {
    let mut took = Vec::new();
    for _ in 0..questions {
        let begun = Instant::now();
        let answer = client.channel.ask(association, PACKAGE_NAME, "CONTOSO", data);
        let answer = tokio::time::timeout(PATIENCE, answer).await.unwrap().unwrap();
        assert_eq!(answer.status.0, 0);
        took.push(begun.elapsed());
    }
    took
}

/// A machine that has no channel sets one up and asks. As machines do, it tries again when its connection is
/// evicted: on a slow machine a flood can be quicker than the five round trips of a set-up.
async fn set_up_and_ask(service: &Service, data: &[u8]) {
    let once = async || -> Result<(), Box<dyn std::error::Error>> {
        let client = Client::of_machine(service, "CONTOSO", "WEB01").await?;
        let mut association = client.open().await?;
        let answer = client.channel.ask(&mut *association, PACKAGE_NAME, "CONTOSO", data).await?;
        assert_eq!(answer.status.0, 0);
        Ok(())
    };
    let asked = async {
        while let Err(error) = once().await {
            eprintln!("the set-up is tried again: {error}");
        }
    };
    tokio::time::timeout(PATIENCE, asked).await.unwrap();
}

/// A machine with a connection, and one that comes new, are served while this goes on.
async fn both_are_served(service: &Service, what: &str, attack: impl AsyncFnOnce() -> Vec<TcpStream>) {
    let data = question(service, "alice");
    let asker = Asker::start(service, data.clone()).await;
    let calm = asker.calm;
    let attackers = attack().await;
    let resident = service.resident_kib();
    for _ in 0..3 {
        set_up_and_ask(service, &data).await;
    }
    let took = asker.stop();
    let median = took[took.len() / 2];
    eprintln!(
        "{what}: {resident} KiB; median without the flood {calm:?}; {} questions, median {median:?}, 99 % {:?}, longest {:?}",
        took.len(),
        took[took.len() * 99 / 100],
        took[took.len() - 1]
    );
    assert!(resident < RESIDENT_KIB_MAX, "{resident} KiB");
    assert!(median < MEDIAN_MAX.max(RATIO_MAX * calm), "{what}: {median:?}, and {calm:?} without the flood");
    drop(attackers);
}

fn evicted(service: &Service, reason: &str) -> u64 {
    service.metric(&format!("rcmpd_connections_evicted_total{{reason=\"{reason}\"}}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_silent_addresses_shut_no_machine_out() {
    let service = Demo::new().serve();
    both_are_served(&service, "10,000 silent connections", async || {
        flood(service.netlogon, 0..10_000, 10, vec![]).await
    })
    .await;
    // Where the flood is slow, most of them end by the deadline for the first byte.
    assert!(evicted(&service, "unproved") + service.metric("rcmpd_bind_timeouts_total") > 5_000);
    assert_eq!((evicted(&service, "proved"), evicted(&service, "account")), (0, 0));
}

/// Twenty connections may have done nothing, and twenty may have bound: each address of ten holds both full.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_oldest_that_proved_nothing_goes_when_a_new_connection_comes() {
    let demo = Demo::new();
    demo.edit(|text| text.replace("[rpc]\n", "[rpc]\nconnections_max = 160\n"));
    let service = demo.serve();
    for (what, sent) in [("silent connections", vec![]), ("bound connections", bind(1))] {
        let server = service.netlogon;
        both_are_served(&service, what, async || flood(server, 0..1_000, 10, sent).await).await;
        assert!(service.metric("rcmpd_connections_open") < 160);
    }
    assert!(evicted(&service, "unproved") > 500);
    assert_eq!((evicted(&service, "proved"), evicted(&service, "account")), (0, 0));
    assert!(
        service.log().contains("Connection limit reached: connections were evicted"),
        "{}",
        service.log()
    );
}

/// Where the system allows fewer open files than `connections_max`, connections are evicted before files run
/// out.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_low_limit_of_open_files_shuts_no_machine_out() {
    let mut command = std::process::Command::new("sh");
    command.args(["-c", "ulimit -n 224 && exec \"$0\" \"$@\""]).arg(rcmpd_tests::binary());
    let service = Demo::new().serve_by(command);
    both_are_served(&service, "few open files", async || flood(service.netlogon, 0..600, 10, vec![]).await)
        .await;
    assert!(service.log().contains("LimitNOFILE"), "{}", service.log());
    assert!(!service.log().contains("Accepting a connection failed"), "{}", service.log());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_clients_send_that_prove_nothing_is_bounded_in_all() {
    let service = Demo::new().serve();
    for (what, sent) in [
        ("binds that do not end", slow_bind()),
        ("binds with 64 presentation contexts", bind(64)),
        ("calls that do not end", fragments()),
    ] {
        both_are_served(&service, what, async || flood(service.netlogon, 0..4_000, 100, sent).await).await;
        assert!(service.metric("rcmpd_unproved_bytes") <= 16 << 20);
    }
    assert!(evicted(&service, "memory") > 1_000);
    let deadline = Instant::now() + PATIENCE;
    while service.metric("rcmpd_unproved_bytes") > 0 {
        assert!(Instant::now() < deadline, "what is closed is given back");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(service.metric("rcmpd_panics_total"), 0);
}

/// A connection from a new address each, that binds: none of them has more connections than the machine.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_machine_gets_in_through_a_flood_from_many_addresses() {
    let service = Demo::new().serve();
    let stop = Arc::new(AtomicBool::new(false));
    let attack = {
        let (server, stop) = (service.netlogon, Arc::clone(&stop));
        tokio::spawn(async move {
            let (mut first, mut open) = (0, VecDeque::new());
            while !stop.load(Ordering::Relaxed) {
                let sent = if first % 2_000 == 0 { bind(1) } else { vec![] };
                open.push_back(flood(server, first..first + 1_000, 60_000, sent).await);
                first += 1_000;
                // More than there may be, of either kind.
                if open.len() > 6 {
                    open.pop_front();
                }
            }
            first
        })
    };
    both_are_served(&service, "a flood from many addresses", async || {
        let deadline = Instant::now() + 3 * PATIENCE;
        while evicted(&service, "unproved") < 1_000 {
            assert!(Instant::now() < deadline, "{}", evicted(&service, "unproved"));
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        vec![]
    })
    .await;
    stop.store(true, Ordering::Relaxed);
    assert!(attack.await.unwrap() > 3_000);
}

/// A request with an operation number that Netlogon does not have ([C706] 12.6.4.9).
fn unknown_call(call_id: u32) -> Vec<u8> {
    let mut pdu = vec![5, 0, 0, 3, 0x10, 0, 0, 0, 24, 0, 0, 0];
    pdu.extend_from_slice(&call_id.to_le_bytes());
    pdu.extend_from_slice(&[0, 0, 0, 0, 0, 0, 99, 0]);
    pdu
}

/// The median time in which a question is answered.
async fn median_answer(client: &Client, association: &mut dyn Association, data: &[u8]) -> Duration {
    let mut took = times(client, association, data, 50).await;
    took.sort();
    took[took.len() / 2]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn small_calls_without_end_do_not_delay_a_machine() {
    const CONNECTIONS: usize = 400;
    let service = Demo::new().serve();
    let data = question(&service, "alice");
    let client = channel(&service).await;
    let mut association = client.open().await.unwrap();
    let quiet = median_answer(&client, &mut *association, &data).await;
    let streams = flood(service.netlogon, 0..CONNECTIONS, 16, bind(1)).await;
    assert_eq!(streams.len(), CONNECTIONS);
    let stop = Arc::new(AtomicBool::new(false));
    let attack = {
        let stop = Arc::clone(&stop);
        tokio::spawn(async move {
            let calls: Vec<u8> = (0..50).flat_map(unknown_call).collect();
            let (mut offsets, mut answers) = ([0; CONNECTIONS], vec![0; 64 * 1024]);
            while !stop.load(Ordering::Relaxed) {
                for (stream, offset) in streams.iter().zip(&mut offsets) {
                    // The next bytes go on where these end, so the PDUs stay whole.
                    *offset = (*offset + stream.try_write(&calls[*offset..]).unwrap_or(0)) % calls.len();
                    let _ = stream.try_read(&mut answers);
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        })
    };
    let faults = || service.metric("rcmpd_faults_total");
    let deadline = Instant::now() + PATIENCE;
    while faults() < 10_000 {
        assert!(Instant::now() < deadline, "{} calls", faults());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let before = faults();
    let flooded = median_answer(&client, &mut *association, &data).await;
    eprintln!("small calls: {quiet:?} before, {flooded:?} during {} of them", faults() - before);
    assert!(faults() > before, "it goes on");
    // A machine that is busy otherwise delays both.
    assert!(flooded < 3 * quiet + Duration::from_millis(20), "{quiet:?} before, {flooded:?} meanwhile");
    set_up_and_ask(&service, &data).await;
    stop.store(true, Ordering::Relaxed);
    attack.await.unwrap();
    assert_eq!(evicted(&service, "proved"), 0);
}
