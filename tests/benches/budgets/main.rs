//! `make bench`: what it costs, beside the budgets.
//!
//! Costs are processor time of the serving process, as the kernel's scheduler counts it, divided by calls: they say the same
//! on a busy machine as on a quiet one. `BENCH_ACCOUNTS` (1000,1000000) chooses the sizes of the store.

#![expect(clippy::unwrap_used, reason = "what is wrong ends it")]

mod accounts;
mod generator;
mod kernels;
mod table;

use accounts::Accounts;
use generator::Generator;
use rcmpd_tests::{Demo, Service};
use std::fs;
use std::time::Instant;
use table::Table;

const CALLS: usize = 32_000;
const HANDSHAKES: usize = 400;
const IDLE_CONNECTIONS: usize = 800;

/// Processor time of a process so far, in nanoseconds: that of all its threads.
fn cpu_ns(service: &Service) -> u64 {
    let tasks = fs::read_dir(format!("/proc/{}/task", service.pid())).unwrap();
    let times = tasks.map(|task| {
        let schedstat = fs::read_to_string(task.unwrap().path().join("schedstat")).unwrap();
        schedstat.split(' ').next().unwrap().parse::<u64>().unwrap()
    });
    times.sum()
}

fn serve(accounts: u32) -> (Service, Accounts) {
    let demo = Demo::new();
    demo.edit(|text| text.replace("[rpc]\n", "[rpc]\nconnections_per_address_max = 5000\n"));
    let accounts = Accounts::import(&demo, accounts);
    (demo.serve(), accounts)
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    // `cargo bench` gives arguments for harnesses that choose.
    let sizes = std::env::var("BENCH_ACCOUNTS").unwrap_or_else(|_| "1000,1000000".to_owned());
    let mut table = Table::default();
    kernels::measure(&mut table);
    set_up(&mut table).await;
    for size in sizes.split(',').map(|size| size.trim().parse().unwrap()) {
        calls(&mut table, size).await;
    }
    println!("{table}");
}

/// Channels, idle connections and the process at rest.
async fn set_up(table: &mut Table) {
    let (service, accounts) = serve(10_000);
    let generator = Generator::new(&service).await;
    generator.run(1, 100, &accounts).await;
    table.row("process at rest, 10,000 accounts", service.resident_kib() as f64 / 1024.0, "MiB", Some(40.0));
    let before = cpu_ns(&service);
    for _ in 0..HANDSHAKES {
        generator.set_up(&service).await;
    }
    let each = (cpu_ns(&service) - before) as f64 / 1000.0 / HANDSHAKES as f64;
    table.row("secure channel set-up (opnums 4, 26, sealed bind), server CPU", each, "µs", Some(150.0));
    let before = service.resident_kib();
    let idle = generator.idle(IDLE_CONNECTIONS).await;
    let each = (service.resident_kib() - before) as f64 / IDLE_CONNECTIONS as f64;
    table.row("idle sealed connection", each, "KiB", Some(16.0));
    drop(idle);
}

async fn calls(table: &mut Table, size: u32) {
    let (service, accounts) = serve(size);
    let named = |what: &str| format!("{what}, {size} accounts");
    let (cached, cold) = accounts.look_ups(&service);
    table.row(&named("look-up, cached"), cached, "µs", Some(1.0));
    table.row(&named("look-up, cold, warm page cache"), cold, "µs", Some(15.0));
    let generator = Generator::new(&service).await;
    for (connections, budget) in [(1, None), (8, Some(25.0)), (32, Some(18.0))] {
        let prepared = generator.prepare(connections, CALLS, &accounts).await;
        let (before, started) = (cpu_ns(&service), Instant::now());
        prepared.run().await;
        let each = (cpu_ns(&service) - before) as f64 / 1000.0 / CALLS as f64;
        eprintln!(
            "{connections} connections: {:.0} calls a second",
            CALLS as f64 / started.elapsed().as_secs_f64()
        );
        table.row(
            &named(&format!("sealed RCMP answer, {connections} connections, server CPU")),
            each,
            "µs",
            budget,
        );
    }
    table.row(&named("process after that"), service.resident_kib() as f64 / 1024.0, "MiB", None);
}
