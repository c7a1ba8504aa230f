//! The tamper-evident audit log: what a service writes and signs, what a verifier finds, and what OpenSSL
//! thinks of it.

use rcmpd_tests::{Demo, Finished, Service};
use rustix::process::{Signal, geteuid};
use serde_json::Value;
use std::fs;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;

fn chained(heads_interval_s: u32) -> Demo {
    let demo = Demo::new();
    let made = demo.rcmpd(&["audit", "key", "audit.key"]).code(0);
    assert_eq!(made.stdout, fs::read_to_string(demo.path("audit.key.pub")).unwrap());
    demo.edit(|text| {
        format!(
            "{text}\n[audit]\npath = \"audit.log\"\nrequired = true\nchain = true\n[audit.heads]\npath = \"audit.heads\"\n\
             key = \"audit.key\"\ninterval_s = {heads_interval_s}\n"
        )
    });
    demo
}

fn verify(demo: &Demo, files: &[&str]) -> Finished {
    let heads = ["--heads", "audit.heads", "--public-key", "audit.key.pub", "--json"];
    demo.rcmpd(&[&["audit", "verify"], files, &heads].concat())
}

fn stop(service: &mut Service) {
    service.signal(Signal::TERM);
    assert_eq!(service.ended(), 0);
}

fn lines(path: &Path) -> Vec<Value> {
    fs::read_to_string(path).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Ports are open before the service is ready, for instance while it waits for its store. A client that was
/// answered by then has a line, and the line a checkpoint, if a signal comes.
#[test]
fn a_signal_before_the_service_is_ready_loses_no_checkpoint() {
    let demo = chained(3600);
    fs::create_dir(demo.path("run")).unwrap();
    // It takes connections and never answers.
    let _silent = UnixListener::bind(demo.path("run/store.sock")).unwrap();
    let peer = geteuid().as_raw();
    let unknown = format!("{}-4242", demo.domain_sid());
    demo.edit(|text| {
        let store = format!(
            "kind = \"socket\"\n[store.socket]\npath = \"run/store.sock\"\npeer = \"{peer}\"\ntimeout_s = 3\n"
        );
        text.replace("kind = \"sqlite\"\npath = \"accounts.db\"\n", &store)
            .replace("store = \"sqlite\"\n", "store = \"sqlite\"\npath = \"accounts.db\"\n")
            + &format!(
                "\n[sidecar]\n[[sidecar.route]]\nsids = [\"{unknown}\"]\n[[sidecar.listen]]\ndialect = \"nginx\"\n\
                 unix = \"nginx.sock\"\npeers = [\"{peer}\"]\n"
            )
    });
    let mut service = demo.serve_until("Serving Netlogon");
    service.signal(Signal::HUP);
    stop(&mut service);
    assert!(service.log().contains("Stopped"), "{}", service.log());
    assert_eq!(lines(&service.path("audit.log"))[0]["event"], "log_opened");
    verify(&service, &["audit.log"]).code(0);
}

/// A log over a rotation, the older file first.
const FILES: [&str; 2] = ["audit.log.1", "audit.log"];

#[test]
fn a_log_is_verified_over_a_rotation_and_one_changed_byte_is_found() {
    let mut service = chained(3600).serve();
    service.map("alice").code(0);
    service.map("mallory").code(3);
    rotate(&service);
    service.wait_for_log("Reloaded");
    service.map("bob").code(0);
    // While it is served, what no head covers yet is told.
    let running = verify(&service, &["audit.log.1", "audit.log"]).code(0).json();
    assert!(running["heads"]["not_covered"].as_u64().unwrap() >= 2, "{running:#}");
    stop(&mut service);
    let report = verify(&service, &FILES).code(0).json();
    let (old, new) = (lines(&service.path(FILES[0])), lines(&service.path(FILES[1])));
    let seqs: Vec<u64> = old.iter().chain(&new).map(|line| line["seq"].as_u64().unwrap()).collect();
    assert_eq!(seqs, (1..=seqs.len() as u64).collect::<Vec<_>>());
    assert!(
        old.iter().any(|line| line["account"] == "alice") && new.iter().any(|line| line["account"] == "bob")
    );
    assert_eq!(report["last_seq"], seqs.len());
    assert_eq!(report["heads"]["not_covered"], 0);
    assert_eq!(report["heads"]["matched"], report["heads"]["signed"]);
    let text = service.rcmpd(&["audit", "verify", FILES[0], FILES[1], "--heads", "audit.heads"]).code(0);
    assert!(text.stdout.contains("without --public-key only their agreement"), "{text:?}");

    without_heads_nothing_is_proved(&service, &report);
    what_is_no_log_is_no_log(&service);
    files_are_put_in_order(&service, &report);
    packed_files_are_read(&service, &report);
    one_changed_byte_is_found(&service, &old);
    a_missing_file_is_found(&service, old.len());
    another_key_is_rejected(&service);
}

/// Rotates the log by logrotate with the file that is installed, for this service instead of that of systemd.
fn rotate(service: &Service) {
    let installed = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/systemd/rcmpd.logrotate");
    let installed = fs::read_to_string(installed).unwrap();
    let (log, signal) = (service.path("audit.log"), format!("kill -s HUP {}", service.pid()));
    let text = installed
        .replace("/var/lib/rcmpd/audit.log", log.to_str().unwrap())
        .replace("systemctl kill -s HUP rcmpd", &signal);
    assert!(text.contains(&signal) && !text.contains("/var/lib"), "{text}");
    fs::write(service.path("logrotate.conf"), text).unwrap();
    let mut logrotate = Command::new("/usr/sbin/logrotate");
    logrotate.arg("--force").arg("--state").arg(service.path("logrotate.state"));
    let output = logrotate.arg(service.path("logrotate.conf")).output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    assert!(service.path("audit.log.1").exists());
}

/// Without heads nothing says who wrote the lines.
fn without_heads_nothing_is_proved(service: &Service, report: &Value) {
    let text = service.rcmpd(&["audit", "verify", FILES[0], FILES[1]]).code(7);
    assert!(text.stdout.contains("their writer and the end of the log are not verified"), "{text:?}");
    let unsigned = service.rcmpd(&["audit", "verify", FILES[0], FILES[1], "--json"]).code(7).json();
    assert_eq!((&unsigned["verified"], &unsigned["exit_code"]), (&false.into(), &7.into()), "{unsigned:#}");
    assert_eq!(unsigned["last_seq"], report["last_seq"]);
    // A file without a head proves as much as none.
    fs::write(service.path("empty.heads"), "").unwrap();
    let empty = ["audit", "verify", FILES[0], FILES[1], "--heads", "empty.heads", "--json"];
    assert_eq!(service.rcmpd(&empty).code(7).json()["verified"], false);
}

/// What is no log is no log, whatever the heads are.
fn what_is_no_log_is_no_log(service: &Service) {
    fs::write(service.path("notes"), "Monday: all is well").unwrap();
    for other in ["rcmpd.toml", "notes", "audit.key", "audit.heads"] {
        for heads in
            [&[][..], &["--heads", "audit.heads"], &["--heads", "empty.heads"], &["--heads", "notes"]]
        {
            let done = service.rcmpd(&[&["audit", "verify", other], heads].concat()).code(6);
            assert!(done.stderr.contains("is not a chained audit log"), "{done:?}");
        }
    }
}

/// In the order of a shell's `audit.log*`, and with an empty file among them.
fn files_are_put_in_order(service: &Service, report: &Value) {
    fs::write(service.path("audit.log.0"), "").unwrap();
    for order in [&[FILES[1], FILES[0]][..], &[FILES[1], "audit.log.0", FILES[0]]] {
        assert_eq!(verify(service, order).code(0).json()["last_seq"], report["last_seq"]);
    }
}

/// As logrotate packs them; in two parts, as `cat` joins them; and with the unpacked file beside it.
fn packed_files_are_read(service: &Service, report: &Value) {
    service.paste("gzip --keep --stdout audit.log.1 > packed.gz").code(0);
    service.paste("(head -n 1 audit.log.1 | gzip; tail -n +2 audit.log.1 | gzip) > parts.gz").code(0);
    for packed in ["packed.gz", "parts.gz"] {
        let done = verify(service, &["audit.log", packed]).code(0).json();
        assert_eq!((&done["last_seq"], &done["first_seq"]), (&report["last_seq"], &1.into()), "{done:#}");
    }
    verify(service, &["audit.log", "audit.log.1", "packed.gz"]).code(3);
    // What was cut, or has more behind it, is no packed file; and nothing else is unpacked.
    for (make, name, expected) in [
        ("head -c -9 packed.gz > cut.gz", "cut.gz", "cannot be read"),
        ("(cat packed.gz; echo more) > more.gz", "more.gz", "cannot be read"),
        ("head -c 9000000 /dev/zero | gzip > zeros.gz", "zeros.gz", "is not a chained audit log"),
        ("xz --stdout audit.log.1 > packed.xz", "packed.xz", "packed by xz: unpack it first"),
    ] {
        service.paste(make).code(0);
        let done = verify(service, &[name, "audit.log"]).code(6);
        assert!(done.stderr.contains(expected), "{make}: {done:?}");
    }
}

fn one_changed_byte_is_found(service: &Service, old: &[Value]) {
    let whole = fs::read_to_string(service.path(FILES[0])).unwrap();
    fs::write(service.path(FILES[0]), whole.replace("\"alice\"", "\"alicf\"")).unwrap();
    let broken = verify(service, &FILES).code(3);
    let line = old.iter().position(|line| line["account"] == "alice").unwrap() + 2;
    assert_eq!(broken.json()["broken"]["line"], line, "{broken:?}");
    assert!(broken.stderr.contains(&format!("audit.log.1:{line}: seq {line}: ")), "{broken:?}");
    // The counts would be those of the lines before the break.
    let text = service.rcmpd(&["audit", "verify", FILES[0], FILES[1], "--heads", "audit.heads"]).code(3);
    assert_eq!(text.stdout.trim(), format!("chain  BROKEN; whole from seq 1 to {}", line - 2), "{text:?}");
    fs::write(service.path(FILES[0]), whole).unwrap();
}

/// One file too few, at either end. The older file has as many lines as `old_len`.
fn a_missing_file_is_found(service: &Service, old_len: usize) {
    verify(service, &["audit.log.1"]).code(3);
    let newer = verify(service, &["audit.log"]).code(3);
    assert!(newer.stderr.contains("the beginning is missing"), "{newer:?}");
    let first = (old_len + 1).to_string();
    let newer = verify(service, &["audit.log", "--first-seq", &first]).code(0).json();
    assert_eq!(newer["first_seq"], old_len + 1);
    verify(service, &["audit.log", "--first-seq", "2"]).code(3);
}

fn another_key_is_rejected(service: &Service) {
    service.rcmpd(&["audit", "key", "other.key", "--json"]).code(0).json();
    let other =
        ["audit", "verify", FILES[0], FILES[1], "--heads", "audit.heads", "--public-key", "other.key.pub"];
    let done = service.rcmpd(&other).code(3);
    assert!(done.stderr.contains("another key"), "{done:?}");

    assert_eq!(verify(service, &["nothing.log"]).code(6).json()["exit_code"], 6);
    service.rcmpd(&["audit", "verify", "rcmpd.toml"]).code(6);
    service.rcmpd(&["audit", "verify", FILES[0], "--heads", "nothing"]).code(6);
    let told = service.rcmpd(&["audit", "verify", FILES[0], "--public-key", "other.key.pub"]).code(2);
    assert!(told.stderr.contains("--public-key needs the signed checkpoints: --heads FILE"), "{told:?}");
    service.rcmpd(&["audit", "verify"]).code(2);
    service.rcmpd(&["audit", "key", "audit.key"]).code(1);
}

/// Heads of older lines say nothing about newer ones: these belong together, and who wrote them is not
/// verified.
#[test]
fn lines_that_no_head_is_about_are_not_verified() {
    let mut service = chained(3600).serve();
    service.map("alice").code(0);
    stop(&mut service);
    fs::rename(service.path("audit.log"), service.path("audit.log.1")).unwrap();
    let old_heads = fs::read_to_string(service.path("audit.heads")).unwrap();
    assert!(!old_heads.is_empty(), "it signs at its end");
    service.start_again();
    service.map("bob").code(0);
    stop(&mut service);
    let first = (lines(&service.path("audit.log.1")).len() + 1).to_string();
    let newer = ["audit.log", "--first-seq", &first];
    let whole = verify(&service, &newer).code(0).json();
    assert_eq!((&whole["verified"], &whole["heads"]["not_covered"]), (&true.into(), &0.into()), "{whole:#}");
    fs::write(service.path("audit.heads"), old_heads).unwrap();
    let done = verify(&service, &newer).code(7);
    let report = done.json();
    assert_eq!((&report["verified"], &report["exit_code"]), (&false.into(), &7.into()), "{report:#}");
    assert!(done.stderr.contains("the writer of the lines is not verified"), "{done:?}");
    // What is broken stays broken, whatever is signed.
    let text = fs::read_to_string(service.path("audit.log")).unwrap();
    fs::write(service.path("audit.log"), text.replacen("\"bob\"", "\"bab\"", 1)).unwrap();
    verify(&service, &newer).code(3);
}

/// OpenSSL knows nothing of us: it gets the public key, the bytes that docs/audit-log.md says are signed, and
/// the signature.
#[test]
fn openssl_verifies_a_head() {
    let mut service = chained(1).serve();
    service.map("alice").code(0);
    // Signed at its time, not only at the end.
    while fs::read_to_string(service.path("audit.heads")).unwrap().is_empty() {
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    stop(&mut service);
    let heads = lines(&service.path("audit.heads"));
    let head = heads.last().unwrap();
    let log = fs::read_to_string(service.path("audit.log")).unwrap();
    let last = log.lines().last().unwrap();
    assert_eq!(head["seq"], log.lines().count());
    fs::write(service.path("last"), last).unwrap();
    let openssl = |arguments: &[&str]| {
        Command::new("openssl").args(arguments).current_dir(service.path("")).output().unwrap()
    };
    let digest = openssl(&["dgst", "-sha256", "-r", "last"]);
    let digest = String::from_utf8(digest.stdout).unwrap();
    assert_eq!(digest.split(' ').next(), head["hash"].as_str());
    let message = |seq: &Value| {
        let text = |name: &str| head[name].as_str().unwrap().to_owned();
        format!("rcmpd audit head v1\n{seq}\n{}\n{}\n", text("hash"), text("time"))
    };
    fs::write(service.path("signature.b64"), format!("{}\n", head["signature"].as_str().unwrap())).unwrap();
    assert!(openssl(&["base64", "-d", "-A", "-in", "signature.b64", "-out", "signature"]).status.success());
    let verified = |text: String| {
        fs::write(service.path("message"), text).unwrap();
        openssl(&[
            "pkeyutl",
            "-verify",
            "-pubin",
            "-inkey",
            "audit.key.pub",
            "-rawin",
            "-in",
            "message",
            "-sigfile",
            "signature",
        ])
        .status
        .success()
    };
    assert!(verified(message(&head["seq"])));
    assert!(!verified(message(&Value::from(head["seq"].as_u64().unwrap() + 1))));
    // The private half is the same key to it.
    let public = openssl(&["pkey", "-in", "audit.key", "-pubout"]).stdout;
    assert_eq!(public, fs::read(service.path("audit.key.pub")).unwrap());
    assert!(String::from_utf8(public).unwrap().contains(head["public_key"].as_str().unwrap()));
}

#[test]
fn an_emptied_or_exchanged_log_is_reported_while_clients_are_served() {
    let mut service = chained(1).serve();
    service.map("alice").code(0);
    // A rotation is none of that.
    fs::rename(service.path("audit.log"), service.path("audit.log.1")).unwrap();
    service.signal(Signal::HUP);
    service.wait_for_log("Reloaded");
    service.map("alice").code(0);
    assert_eq!(service.metric("rcmpd_audit_changes_total"), 0);
    fs::File::create(service.path("audit.log")).unwrap();
    service.wait_for_lines(&["ERROR", "audit.log", "emptied"], 1);
    assert_eq!(service.metric("rcmpd_audit_changes_total"), 1);
    service.map("alice").code(0);
    // A file of the attacker's in its place: the service goes on in none that is not of its chain. Lines are
    // required, so it decides nothing until they are kept again.
    fs::write(service.path("other"), "{\"event\":\"map\",\"seq\":1,\"prev\":\"\"}\n").unwrap();
    fs::rename(service.path("other"), service.path("audit.log")).unwrap();
    service.wait_for_lines(&["ERROR", "audit.log", "replaced by another file"], 1);
    service.wait_for_lines(&["ERROR", "removed or replaced, and no new file can be created at its path"], 1);
    assert_ne!(service.map("alice").code, 0);
    fs::remove_file(service.path("audit.log")).unwrap();
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while service.map("alice").code != 0 {
        assert!(std::time::Instant::now() < deadline, "{}", service.log());
    }
    assert!(lines(&service.path("audit.log")).iter().any(|line| line["account"] == "alice"));
    // At the start: an emptied log, whose lines were signed.
    stop(&mut service);
    fs::File::create(service.path("audit.log")).unwrap();
    service.start_again();
    service.wait_for_lines(&["ERROR", "ends before its newest checkpoint"], 1);
    assert_eq!(service.metric("rcmpd_audit_changes_total"), 1);
    verify(&service, &["audit.log"]).code(3);
}

#[test]
fn a_full_disk_stops_decisions_and_tears_no_line() {
    let demo = Demo::new();
    demo.edit(|text| format!("{text}\n[audit]\npath = \"small/audit.log\"\nrequired = true\nchain = true\naccount_mib_per_hour = 0\n"));
    let mut service = demo.serve_with_disk("small", 64);
    fs::write(service.seen("small/filler"), vec![0; 48 * 1024]).unwrap();
    let mut asked = 0;
    while service.map("alice").code == 0 {
        asked += 1;
        assert!(asked < 200, "the disk is full by now");
    }
    assert!(asked > 0);
    let failures = service.metric("rcmpd_audit_failures_total");
    assert!(failures > 0);
    assert_eq!(service.log().matches("The audit log cannot be written").count(), 1);
    fs::remove_file(service.seen("small/filler")).unwrap();
    service.map("alice").code(0);
    assert_eq!(service.metric("rcmpd_audit_failures_total"), failures);
    fs::copy(service.seen("small/audit.log"), service.path("audit.log")).unwrap();
    let report = service.rcmpd(&["audit", "verify", "audit.log", "--json"]).code(7).json();
    assert_eq!((&report["broken"], &report["torn"]), (&Value::Null, &0.into()), "{report:#}");
    assert!(report["last_seq"].as_u64().unwrap() > 8, "{report:#}");
    stop(&mut service);
}

/// The same where the log is not required: calls go on, and what is lost is counted and logged.
#[test]
fn with_a_full_disk_calls_go_on_where_no_log_is_required() {
    let demo = Demo::new();
    demo.edit(|text| {
        format!("{text}\n[audit]\npath = \"small/audit.log\"\nchain = true\naccount_mib_per_hour = 0\n")
    });
    let mut service = demo.serve_with_disk("small", 64);
    fs::write(service.seen("small/filler"), vec![0; 48 * 1024]).unwrap();
    let mut asked = 0;
    while service.metric("rcmpd_audit_failures_total") == 0 {
        service.map("alice").code(0);
        asked += 1;
        assert!(asked < 200, "the disk is full by now");
    }
    let before = service.metric("rcmpd_audit_failures_total");
    service.map("alice").code(0);
    service.map("mallory").code(3);
    assert!(service.metric("rcmpd_audit_failures_total") >= before + 2, "each lost line counts");
    assert_eq!(service.log().matches("The audit log cannot be written").count(), 1);
    assert_eq!(service.get("/ready").0, 200);
    fs::remove_file(service.seen("small/filler")).unwrap();
    let failures = service.metric("rcmpd_audit_failures_total");
    service.map("bob").code(0);
    assert_eq!(service.metric("rcmpd_audit_failures_total"), failures);
    let written = fs::read_to_string(service.seen("small/audit.log")).unwrap();
    assert!(written.lines().last().unwrap().contains("bob"), "{written}");
    stop(&mut service);
}

#[test]
fn what_cannot_be_chained_or_signed_does_not_start() {
    let refused = |demo: &Demo, what: &str| {
        let done = demo.rcmpd(&["serve", "-c", "rcmpd.toml"]).code(1);
        assert!(done.stderr.contains(what), "{done:?}");
    };
    let demo = chained(60);
    demo.edit(|text| text.replace("\"audit.log\"", "\"/dev/null\""));
    refused(&demo, "/dev/null is none");
    let demo = chained(60);
    Command::new("chmod").args(["640", "audit.key"]).current_dir(demo.path("")).status().unwrap();
    refused(&demo, "chmod 600");
}
