//! `make bench`: what it costs, beside the budgets.
//!
//! Costs are processor time of the serving process, as the kernel's scheduler counts it, divided by calls.
//! The server has one worker on a core of its own, so that it is busy and nothing but its work is counted.
//! `BENCH_ACCOUNTS` (1000,1000000) chooses the sizes of the store, `BENCH_ONLY`
//! (kernels,set-up,calls,strict,chain,sidecar,sso,tlsnego,directory,rehearsal) what is measured.

#![expect(clippy::unwrap_used, reason = "what is wrong ends it")]

mod accounts;
mod chain;
mod cores;
mod directory;
mod generator;
mod kernels;
mod rehearsal;
mod sidecar;
mod sso;
mod table;
mod tlsnego;
mod transport;

use accounts::{Accounts, Policy};
use cores::apart;
use generator::{Generator, together};
use rcmpd_tests::{Demo, Service};
use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use table::Table;
use transport::Transport;

const CALLS: usize = 32_000;
/// The least of so many runs counts: neighbours on the same machine only ever add.
const RUNS: usize = 3;
const HANDSHAKES: usize = 800;
const HANDSHAKES_AT_ONCE: usize = 8;
const IDLE_CONNECTIONS: usize = 800;

/// Processor time so far, in nanoseconds, of each thread of a process whose name begins with `name`.
fn cpu(process: u32, name: &str) -> Cpu {
    let tasks = fs::read_dir(format!("/proc/{process}/task")).unwrap().map(|task| task.unwrap().path());
    let named =
        tasks.filter(|task| fs::read_to_string(task.join("comm")).is_ok_and(|comm| comm.starts_with(name)));
    // A thread may end meanwhile.
    let times = named.filter_map(|task| {
        let schedstat = fs::read_to_string(task.join("schedstat")).ok()?;
        Some((task, schedstat.split(' ').next()?.parse().ok()?))
    });
    Cpu(times.collect())
}

/// Processor time of threads.
struct Cpu(BTreeMap<PathBuf, u64>);

impl Cpu {
    /// Nanoseconds since then. Threads that were idle and ended count as nothing.
    fn since(&self, before: &Self) -> u64 {
        self.0.iter().map(|(task, now)| now - before.0.get(task).copied().unwrap_or_default()).sum()
    }
}

/// The sum of [`cpu`], where no thread ends.
fn cpu_ns(process: u32, name: &str) -> u64 {
    cpu(process, name).0.values().sum()
}

fn serve(accounts: u32, policy: Policy) -> (Service, Accounts) {
    let demo = Demo::new();
    if policy == Policy::Off {
        demo.edit(|text| {
            text.replace("binding    = \"full\"", "binding    = \"off\"")
                .replace("validation = \"chain\"", "validation = \"off\"")
                .replace("anchors    = [\"certs/ca.pem\"]", "")
        });
    }
    demo.edit(|text| text.replace("[rpc]\n", "[rpc]\nconnections_per_address_max = 5000\n"));
    let accounts = Accounts::import(&demo, accounts, policy);
    (apart(|| demo.serve_with(&[("TOKIO_WORKER_THREADS", "1")])), accounts)
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    // `cargo bench` gives arguments for harnesses that choose.
    let sizes = std::env::var("BENCH_ACCOUNTS").unwrap_or_else(|_| "1000,1000000".to_owned());
    let mut table = Table::default();
    let sizes: Vec<u32> = sizes.split(',').map(|size| size.trim().parse().unwrap()).collect();
    let only = std::env::var("BENCH_ONLY").ok();
    let wanted = |part: &str| only.as_ref().is_none_or(|only| only.split(',').any(|wanted| wanted == part));
    if wanted("kernels") {
        kernels::measure(&mut table);
    }
    if wanted("set-up") {
        set_up(&mut table).await;
    }
    if wanted("calls") {
        for size in &sizes {
            calls(&mut table, *size).await;
        }
    }
    if wanted("strict") {
        strict(&mut table).await;
    }
    if wanted("chain") {
        chain::measure(&mut table).await;
    }
    if wanted("sidecar") {
        sidecar::measure(&mut table).await;
    }
    if wanted("sso") {
        sso::measure(&mut table).await;
    }
    if wanted("tlsnego") {
        tlsnego::measure(&mut table).await;
    }
    if wanted("directory") {
        directory::measure(&mut table).await;
    }
    if wanted("rehearsal") {
        rehearsal::measure(&mut table, sizes.into_iter().max().unwrap_or(1000));
    }
    println!("{table}");
}

/// Channels, idle connections and the process at rest.
async fn set_up(table: &mut Table) {
    let (service, accounts) = serve(10_000, Policy::Off);
    let generator = Generator::new(&service).await;
    generator.run(1, 100, &accounts).await;
    table.row("process at rest, 10,000 accounts", service.resident_kib() as f64 / 1024.0, "MiB", Some(16.0));
    let before = cpu_ns(service.pid(), "");
    // Several at once, as after a restart: one after the other costs as much again to wake up for each
    // message.
    let each = async || {
        for _ in 0..HANDSHAKES / HANDSHAKES_AT_ONCE {
            generator.set_up(&service).await;
        }
    };
    together((0..HANDSHAKES_AT_ONCE).map(|_| each())).await;
    let each = (cpu_ns(service.pid(), "") - before) as f64 / 1000.0 / HANDSHAKES as f64;
    table.row(
        "secure channel set-up (opnums 4, 26, sealed bind), 8 at once, server CPU",
        each,
        "µs",
        Some(100.0),
    );
    let before = service.resident_kib();
    let idle = generator.idle(IDLE_CONNECTIONS).await;
    let each = (service.resident_kib() - before) as f64 / IDLE_CONNECTIONS as f64;
    table.row("idle sealed connection", each, "KiB", Some(6.0));
    drop(idle);
}

/// The same with verified chains and strong mapping. What a path costs the first time is in `crl` and
/// `kernels`; here each certificate comes back.
async fn strict(table: &mut Table) {
    let (service, accounts) = serve(1000, Policy::Strict);
    let generator = Generator::new(&service).await;
    for (connections, budget) in [(8, Some(24.0)), (32, Some(19.5))] {
        let each = least(async || {
            let prepared = generator.prepare(connections, CALLS, &accounts).await;
            let before = cpu_ns(service.pid(), "");
            prepared.run().await;
            (cpu_ns(service.pid(), "") - before) as f64 / 1000.0 / CALLS as f64
        });
        let what =
            format!("the same with binding full, validation chain, {connections} connections, 1000 accounts");
        table.row(&what, each.await, "µs", budget);
    }
}

async fn calls(table: &mut Table, size: u32) {
    let (service, accounts) = serve(size, Policy::Off);
    let named = |what: &str| format!("{what}, {size} accounts");
    let (cached, cold) = accounts.look_ups(&service);
    table.row(&named("look-up, cached"), cached, "µs", Some(0.6));
    table.row(&named("look-up, cold, warm page cache"), cold, "µs", Some(10.0));
    let generator = Generator::new(&service).await;
    // The budget of calls at 8 connections with a large store; those of a small one are of the strict policy.
    let at_eight = if size == 1000 { 24.0 } else { 28.0 };
    for (connections, budget) in [(1, None), (8, Some(at_eight)), (32, Some(19.5).filter(|_| size == 1000))] {
        let mut lens = (0, 0);
        let each = least(async || {
            let prepared = generator.prepare(connections, CALLS, &accounts).await;
            let before = cpu_ns(service.pid(), "");
            lens = prepared.run().await;
            (cpu_ns(service.pid(), "") - before) as f64 / 1000.0 / CALLS as f64
        });
        let each = each.await;
        table.row(
            &named(&format!("sealed RCMP answer, {connections} connections, server CPU")),
            each,
            "µs",
            budget,
        );
        let transport = Transport::serve(lens.0, lens.1).await;
        let transport = least(async || transport.measure(connections, CALLS).await).await;
        let what = format!("of which transport: {} bytes there, {} back, nothing else", lens.0, lens.1);
        table.row(&named(&format!("{what}, {connections} connections")), transport, "µs", None);
    }
    table.row(&named("process after that"), service.resident_kib() as f64 / 1024.0, "MiB", None);
}

async fn least(mut measure: impl AsyncFnMut() -> f64) -> f64 {
    let mut least = f64::INFINITY;
    for _ in 0..RUNS {
        least = least.min(measure().await);
    }
    least
}
