//! `kind = "socket"`: the service with the example in Python as its store.

use rcmpd_tests::{Demo, Service, eventually};
use rustix::process::{Pid, Signal, geteuid, kill_process};
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// The example; it ends with this value.
struct Program(Child);

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Program {
    /// Answers about `accounts.jsonl` of a demo.
    fn start(demo: &Demo) -> Self {
        let script =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/socket-store/accounts_socket.py");
        let mut command = Command::new("python3");
        command.arg(script).arg("accounts.jsonl").arg("run/store.sock").current_dir(demo.path(""));
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert!(line.starts_with("Ready"), "{line}");
        Self(child)
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.0), signal).unwrap();
    }
}

const EMBEDDED: &str = "kind = \"sqlite\"\npath = \"accounts.db\"\n";

/// The keys of the store; its table has this name.
fn socket(table: &str, peer: u32) -> String {
    format!(
        "kind = \"socket\"\n[{table}.socket]\npath = \"run/store.sock\"\npeer = \"{peer}\"\ntimeout_s = 1\nfresh_s = 1\n"
    )
}

/// A demo whose accounts were exported to `accounts.jsonl`, and stay in `accounts.db`, too.
fn exported() -> Demo {
    let demo = Demo::new();
    demo.rcmpd(&["export", "accounts.jsonl", "-c", "rcmpd.toml"]).code(0);
    fs::create_dir(demo.path("run")).unwrap();
    demo
}

/// Machines stay in `accounts.db`.
fn replace_store(demo: &Demo, store: &str) {
    demo.edit(|text| {
        assert!(text.contains(EMBEDDED) && text.contains("store = \"sqlite\"\n"), "{text}");
        text.replace(EMBEDDED, store)
            .replace("store = \"sqlite\"\n", "store = \"sqlite\"\npath = \"accounts.db\"\n")
    });
}

fn maps(service: &Service, who: &str, code: i32) {
    eventually(&format!("{who} is mapped with {code}"), || service.map(who).code == code);
}

#[test]
fn a_program_in_python_answers_for_the_accounts() {
    let demo = exported();
    let own = geteuid().as_raw();
    replace_store(&demo, &socket("store", own));
    let check = demo.rcmpd(&["check-config", "-c", "rcmpd.toml"]).code(0);
    assert!(check.stdout.contains("is refused after at most 1 s (store.socket.fresh_s 1)"), "{check:?}");
    // Nothing listens.
    let doctor = demo.rcmpd(&["doctor", "--timeout", "2", "-c", "rcmpd.toml"]);
    assert!(doctor.stdout.contains("the program of [store.socket] does not answer: "), "{doctor:?}");
    assert!(doctor.stdout.contains("store: connect: "), "{doctor:?}");
    let explained = demo.rcmpd(&["explain", "certs/alice.pem", "-c", "rcmpd.toml"]).code(7).stdout;
    assert!(
        explained.contains("the store could not answer: ") && explained.contains("store: connect: "),
        "{explained}"
    );

    let mut program = Program::start(&demo);
    let doctor = demo.rcmpd(&["doctor", "--timeout", "2", "-c", "rcmpd.toml"]);
    assert!(!doctor.stdout.contains("[store.socket]"), "{doctor:?}");
    let explained = demo.rcmpd(&["explain", "certs/alice.pem", "-c", "rcmpd.toml", "--json"]).code(0);
    assert_eq!(explained.json()["account"], "alice");
    let told = demo.rcmpd(&["account", "set", "alice", "--disable", "-c", "rcmpd.toml"]).code(1);
    assert!(told.stderr.contains("accounts are with the program of [store.socket]"), "{told:?}");

    let service = demo.serve();
    service.map("alice").code(0);
    service.map("bob").code(0);
    assert_eq!((service.get("/ready").0, service.metric("rcmpd_store_usable")), (200, 1));
    assert!(service.metric("rcmpd_store_socket_questions_total") > 0);
    // An account that is disabled in the file is not mapped any more.
    let lines = fs::read_to_string(service.path("accounts.jsonl")).unwrap();
    let replace = |text: &str| {
        fs::write(service.path("accounts.new"), text).unwrap();
        fs::rename(service.path("accounts.new"), service.path("accounts.jsonl")).unwrap();
    };
    assert!(lines.contains("\"name\":\"alice\"") && lines.contains("\"flags\":512"), "{lines}");
    replace(&lines.replace("\"flags\":512", "\"flags\":514"));
    maps(&service, "alice", 3);
    replace(&lines);
    maps(&service, "alice", 0);
    // A program that stands still, and one that has ended, are errors, and the log has the reason.
    program.signal(Signal::STOP);
    maps(&service, "alice", 7);
    eventually("it is not ready", || service.get("/ready").0 == 503);
    assert_eq!(service.metric("rcmpd_store_usable"), 0);
    program.signal(Signal::CONT);
    maps(&service, "alice", 0);
    program.0.kill().unwrap();
    maps(&service, "alice", 7);
    program = Program::start(&service);
    maps(&service, "alice", 0);
    eventually("it is ready", || service.get("/ready").0 == 200);
    let log = service.log();
    for part in
        ["store: timeout", "store: connect", "Store's program does not answer", "Account store unavailable"]
    {
        assert!(log.contains(part), "{part}: {log}");
    }
    drop(program);
}

#[test]
fn a_program_of_another_user_and_a_place_of_all_users_are_errors() {
    let demo = exported();
    let _program = Program::start(&demo);
    let own = geteuid().as_raw();
    let before = fs::read_to_string(demo.path("rcmpd.toml")).unwrap();
    let refused = |why: &str| {
        demo.rcmpd(&["explain", "certs/alice.pem", "-c", "rcmpd.toml"]).code(7);
        let doctor = demo.rcmpd(&["doctor", "--timeout", "2", "-c", "rcmpd.toml"]);
        assert!(doctor.stdout.contains(why), "{doctor:?}");
    };
    replace_store(&demo, &socket("store", own + 1));
    refused(&format!("is of user {own}, and store.socket.peer is {}", own + 1));
    fs::write(demo.path("rcmpd.toml"), &before).unwrap();
    replace_store(&demo, &socket("store", own));
    let mode = |mode| {
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(demo.path("run"), fs::Permissions::from_mode(mode)).unwrap();
    };
    mode(0o777);
    refused("other users can write to the folder");
    mode(0o755);
    demo.rcmpd(&["explain", "certs/alice.pem", "-c", "rcmpd.toml"]).code(0);
    for (peer, why) in [
        ("nobody", "this is not a user of one program"),
        ("65534", "this is not a user of one program"),
        ("no-such-user", "there is no user no-such-user on this system (store.socket.peer)"),
    ] {
        fs::write(demo.path("rcmpd.toml"), &before).unwrap();
        let store = socket("store", own).replace(&format!("\"{own}\""), &format!("\"{peer}\""));
        replace_store(&demo, &store);
        let check = demo.rcmpd(&["check-config", "-c", "rcmpd.toml"]).code(1);
        assert!(check.stderr.contains(why), "{check:?}");
    }
}

#[test]
fn it_is_one_of_several_and_the_one_that_is_compared() {
    let demo = exported();
    let program = Program::start(&demo);
    let own = geteuid().as_raw();
    let before = fs::read_to_string(demo.path("rcmpd.toml")).unwrap();
    replace_store(&demo, &format!("{EMBEDDED}[store.compare]\n{}", socket("store.compare", own)));
    let explain = |code| demo.rcmpd(&["explain", "certs/alice.pem", "-c", "rcmpd.toml"]).code(code).stdout;
    let said = explain(0);
    assert!(said.contains("[store.compare]: the same"), "{said}");
    fs::write(demo.path("rcmpd.toml"), &before).unwrap();
    let issuers = "issuers = [\"O=Contoso,CN=Contoso Demo CA\"]\nsuffixes = [\"contoso.example\"]\n";
    let parts = format!(
        "kind = \"several\"\n[[store.part]]\nname = \"file\"\n{EMBEDDED}[[store.part]]\nname = \"program\"\n{issuers}{}",
        socket("store.part", own)
    );
    replace_store(&demo, &parts);
    let said = explain(0);
    assert!(said.contains("[[store.part]] program\n"), "{said}");
    drop(program);
    explain(7);
    let doctor = demo.rcmpd(&["doctor", "--timeout", "2", "-c", "rcmpd.toml"]).stdout;
    assert!(
        doctor.contains("[[store.part]] program does not answer") && doctor.contains("store: connect"),
        "{doctor}"
    );
}
