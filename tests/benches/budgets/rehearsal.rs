//! A store looked through, and decisions rehearsed, at the size that administrators have.

use crate::accounts::{Accounts, Policy, authority, issue};
use crate::table::Table;
use base64::prelude::{BASE64_STANDARD, Engine};
use rcgen::KeyPair;
use rcmpd_tests::Demo;
use sha1::{Digest, Sha1};
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::thread;
use std::time::Instant;

/// An audit log with a certificate for each account, as the service writes it.
fn log(demo: &Demo, count: u32) {
    let mut out = BufWriter::new(File::create(demo.path("audit.log")).unwrap());
    // Signing takes longer than what is measured.
    let workers = thread::available_parallelism().map_or(1, usize::from) as u32;
    let parts = thread::scope(|scope| {
        let part = |worker: u32| {
            let (issuer, key) = (authority(demo), KeyPair::generate().unwrap());
            let numbers = (0..count).filter(move |number| number % workers == worker);
            numbers.map(|number| issue(&issuer, &key, number, None)).collect::<Vec<_>>()
        };
        let started: Vec<_> = (0..workers).map(|worker| scope.spawn(move || part(worker))).collect();
        started.into_iter().map(|part| part.join().unwrap()).collect::<Vec<_>>()
    });
    for certificate in parts.into_iter().flatten() {
        let thumbprint = dtyp::hex(&Sha1::digest(&certificate));
        let certificate = BASE64_STANDARD.encode(&certificate);
        writeln!(
            out,
            r#"{{"version":1,"time":"2026-11-01T00:00:00Z","event":"map","asker":"WEB01$","reason":"mapped","flags":48,"CertThumbprint":"{thumbprint}","certificate":"{certificate}"}}"#
        )
        .unwrap();
    }
    out.flush().unwrap();
}

pub(crate) fn measure(table: &mut Table, count: u32) {
    let demo = Demo::new();
    Accounts::import(&demo, count, Policy::Off);
    log(&demo, count);
    fs::write(demo.path("lax.toml"), "[mapping]\nbinding = \"off\"\nanchors = [\"certs/ca.pem\"]\n").unwrap();
    let mut time = |what: String, arguments: &[&str], code: i32, budget: Option<f64>| {
        let started = Instant::now();
        let done = demo.rcmpd(&[arguments, &["-c", "rcmpd.toml"]].concat()).code(code);
        table.row(&what, started.elapsed().as_secs_f64(), "s", budget);
        done.stdout
    };
    let rehearse = ["mapping", "rehearse", "--policy", "lax.toml", "--certs", "audit.log"];
    let told = time(
        format!("{count} decisions rehearsed, each of another certificate, wall"),
        &rehearse,
        0,
        Some(60.0),
    );
    // Names are all that these certificates have: everybody gains.
    assert!(told.lines().any(|line| line.split_whitespace().eq(["gained", &count.to_string()])), "{told}");
    time(
        format!("mapping audit of {count} accounts, wall"),
        &["mapping", "audit", "--ignore", "weak"],
        0,
        None,
    );
    let mallory = ["explain", "certs/mallory.pem"];
    time(format!("explanation with nearest miss among {count} accounts, wall"), &mallory, 3, None);
}
