//! A mapping audit of a store, and dry runs of a policy, at the size that administrators have.

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

/// Each certificate comes back so often in the other log.
const RETURNS: u32 = 10;

/// Two audit logs as the service writes them: `each.log` has another certificate in each line, in `usual.log`
/// certificates come back.
fn logs(demo: &Demo, count: u32) {
    let create = |name: &str| BufWriter::new(File::create(demo.path(name)).unwrap());
    let (mut each, mut usual) = (create("each.log"), create("usual.log"));
    let known = (count / RETURNS) as usize;
    let mut thumbprints = Vec::new();
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
        let line = format!(
            r#"{{"version":1,"time":"2026-11-01T00:00:00Z","event":"map","asker":"WEB01$","reason":"mapped","flags":48,"CertThumbprint":"{thumbprint}""#
        );
        writeln!(each, r#"{line},"certificate":"{certificate}"}}"#).unwrap();
        if thumbprints.len() < known {
            writeln!(usual, r#"{line},"certificate":"{certificate}"}}"#).unwrap();
            thumbprints.push(line);
        }
    }
    for _ in 1..RETURNS {
        thumbprints.iter().for_each(|line| writeln!(usual, "{line}}}").unwrap());
    }
    each.flush().unwrap();
    usual.flush().unwrap();
}

pub(crate) fn measure(table: &mut Table, count: u32) {
    let demo = Demo::new();
    Accounts::import(&demo, count, Policy::Off);
    logs(&demo, count);
    fs::write(demo.path("lax.toml"), "[mapping]\nbinding = \"off\"\nanchors = [\"certs/ca.pem\"]\n").unwrap();
    let mut time = |what: String, arguments: &[&str], code: i32, budget: Option<f64>| {
        let started = Instant::now();
        let done = demo.rcmpd(&[arguments, &["-c", "rcmpd.toml"]].concat()).code(code);
        table.row(&what, started.elapsed().as_secs_f64(), "s", budget);
        done.stdout
    };
    for (log, what) in [
        ("usual.log", format!("{count} decisions of {} certificates in a dry run, wall", count / RETURNS)),
        ("each.log", format!("{count} decisions in a dry run, each of another certificate, wall")),
    ] {
        let told =
            time(what, &["mapping", "rehearse", "--policy", "lax.toml", "--certs", log], 0, Some(60.0));
        // Names are all that these certificates have: everybody gains.
        assert!(
            told.lines().any(|line| line.split_whitespace().eq(["gained", &count.to_string()])),
            "{told}"
        );
    }
    time(
        format!("mapping audit of {count} accounts, wall"),
        &["mapping", "audit", "--ignore", "weak"],
        0,
        None,
    );
    let mallory = ["explain", "certs/mallory.pem"];
    time(format!("explanation with nearest miss among {count} accounts, wall"), &mallory, 3, None);
}
