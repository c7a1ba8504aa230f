//! Names that attackers choose: in accounts, peers, certificates and files. No terminal obeys them, and no
//! shell.

use crate::issuing::{Authority, Wanted};
use rcmpd_tests::{Demo, Finished};
use rustix::process::Signal;
use std::fs;
use std::process::Command;

/// What terminals obey or do not show, of each kind: C0, DEL, C1, bidirectional controls, zero width,
/// separators, tags, fillers.
const OBEYED: &str = "\u{1b}[2J\u{1b}]0;owned\u{7}\r\n\t\u{8}\u{7f}\u{85}\u{9b}1m\u{9d}\u{61c}\u{200e}\u{200f}\u{202a}\u{202e}\u{2066}\u{2069}\
                      \u{200b}\u{2060}\u{feff}\u{2028}\u{2029}\u{e0041}\u{fe0f}\u{3164}\u{ad}";

/// The same without what no name may have.
fn unseen() -> String {
    OBEYED.chars().filter(|c| !c.is_control()).collect()
}

/// Expects that none of that is in an output, but for the line breaks of the command itself.
#[track_caller]
fn is_clean(what: &str, done: &Finished) {
    for text in [&done.stdout, &done.stderr] {
        if let Some(at) = text.find(|c: char| c != '\n' && !(' '..='~').contains(&c) && OBEYED.contains(c)) {
            panic!("{what}: {:?}", &text[at.saturating_sub(80)..]);
        }
        assert!(!text.lines().any(|line| line.starts_with("FORGED")), "{what}: {text}");
    }
}

/// Gives accounts other names where they are stored, as a database has them that another program prepared.
fn rename(demo: &Demo, from: &str, to: &str) {
    let script = "import sqlite3, sys\nwith sqlite3.connect('accounts.db') as db:\n \
                  [db.execute(f'UPDATE {table} SET name = ? WHERE name = ?', (sys.argv[2], sys.argv[1])) for table in ('account', 'account_group')]";
    let done =
        Command::new("python3").args(["-c", script, from, to]).current_dir(demo.path("")).output().unwrap();
    assert!(done.status.success(), "{done:?}");
}

/// Names with what terminals obey in them.
struct Names {
    /// Sequences that terminals obey, and line breaks.
    evil: String,
    /// Characters that are not seen, which a store takes.
    hidden: String,
    machine: String,
    upn: String,
}

const C: [&str; 2] = ["-c", "rcmpd.toml"];

/// Runs a command with and without `--json`, and checks what both print.
fn run(demo: &Demo, arguments: &[&str]) -> Vec<Finished> {
    let mut all = Vec::new();
    for json in [None, Some("--json")] {
        let arguments: Vec<&str> = arguments.iter().copied().chain(json).collect();
        let done = demo.rcmpd(&arguments);
        is_clean(&format!("{arguments:?}"), &done);
        all.push(done);
    }
    all
}

#[test]
fn no_command_prints_what_terminals_obey() {
    let demo = Demo::new();
    let hidden = format!("x{}y", unseen());
    let names = Names {
        evil: format!("x{OBEYED}\nFORGED line{OBEYED}y"),
        machine: format!("{hidden}$"),
        upn: format!("{hidden}@contoso.example"),
        hidden,
    };
    let wanted = Wanted { common_name: &names.hidden, upn: Some(&names.upn), ..Wanted::default() };
    Authority::of(&demo).issue(&demo, "odd", &wanted);

    store(&demo, &names);
    show_what_is_stored(&demo, &names);
    name_them_in_commands(&demo, &names);
    read_them_from_files(&demo, &names);
    check_configurations_with_them(&demo, &names);
    serve_with_them(demo, &names.hidden);
}

/// What can be stored, and what was stored by others.
fn store(demo: &Demo, names: &Names) {
    demo.rcmpd(&[
        "account",
        "set",
        "alice",
        "--full-name",
        &names.evil,
        "--add-spn",
        &names.evil,
        C[0],
        C[1],
    ])
    .code(0);
    demo.rcmpd(&["account", "set", "web01$", "--upn", &names.upn, C[0], C[1]]).code(0);
    // An older version stored this.
    let refused = demo.rcmpd(&["account", "set", "web01$", "--home-domain", &names.evil, C[0], C[1]]).code(1);
    is_clean("account set", &refused);
    let database = rusqlite::Connection::open(demo.path("accounts.db")).unwrap();
    database.execute("UPDATE account SET home_domain = ?1 WHERE name = 'WEB01$'", [&names.evil]).unwrap();
    drop(database);
    demo.rcmpd(&["group", "add", &names.hidden, C[0], C[1]]).code(0);
    demo.rcmpd(&["machine", "add", &names.machine, "--secret-file", "machines/x.secret", C[0], C[1]]).code(0);
    demo.rcmpd(&["account", "add", "twin", "--upn", &names.upn, C[0], C[1]]).code(0);
    rename(demo, "bob", &names.evil);
    rename(demo, "Engineers", &names.evil);
    rename(demo, "carol", &format!("{}carol", names.evil));
}

fn show_what_is_stored(demo: &Demo, names: &Names) {
    let sid = |rid: u32| format!("{}-{rid}", demo.domain_sid());
    let shown = &run(demo, &["account", "show", "alice", C[0], C[1]])[0];
    assert!(shown.stdout.contains(r"x\u{1b}[2J\u{1b}]0;owned\u{7}\u{d}\u{a}\u{9}"), "{shown:?}");
    for who in [sid(1002), sid(1003), names.upn.clone(), names.hidden.clone()] {
        run(demo, &["account", "show", &who, C[0], C[1]]);
        run(demo, &["account", "set", &who, "--group", &names.evil, C[0], C[1]]);
    }
    let twins = demo.rcmpd(&["account", "set", "web01$", "--upn", &names.upn, C[0], C[1]]);
    is_clean("account set", &twins);
    assert!(twins.stderr.contains("is also that of"), "{twins:?}");
    for group in [sid(1101), names.hidden.clone(), names.evil.clone()] {
        run(demo, &["group", "show", &group, C[0], C[1]]);
        run(demo, &["group", "set", &group, "--add-member", &names.evil, C[0], C[1]]);
    }
}

fn name_them_in_commands(demo: &Demo, names: &Names) {
    for arguments in [
        &["account", "list"][..],
        &["group", "list"],
        &["machine", "list"],
        &["machine", "show", &names.machine],
        &["machine", "set", &names.evil],
        &["account", "remove", &names.evil],
        &["mapping", "audit"],
        &["domain", "list"],
        &["domain", "show", &names.evil],
        &["domain", "test", &names.evil],
        &["domain", "trust-commands", &names.evil],
        &["explain", "certs/odd.pem"],
        &["explain", "certs/bob.pem"],
        &["explain", "certs/carol.pem"],
        &["explain", "certs/alice.pem"],
        &["explain", &names.evil],
        &["mapping", "rehearse", "--policy", "rcmpd.toml", "--certs", "certs"],
        &["mapping", "rehearse", "--policy", &names.evil, "--certs", &names.evil],
        &["import", &names.evil],
        &["proxy-config", "nginx", "--site", &names.evil, "--certificate", &names.evil, "--key", &names.evil],
    ] {
        run(demo, &[arguments, &C[..]].concat());
    }
    run(demo, &["mapping", "strings", "certs/odd.pem"]);
    run(demo, &["audit", "verify", &names.evil]);
    run(demo, &["check-config", "-c", &names.evil]);
}

/// Files: lines that are wrong, keys that are unknown, rules of other programs.
fn read_them_from_files(demo: &Demo, names: &Names) {
    let line = serde_json::json!({ "kind": names.evil, "name": names.evil, "type": names.evil, names.evil.as_str(): 1 });
    fs::write(demo.path("bad.jsonl"), format!("{line}\n")).unwrap();
    run(demo, &["import", "bad.jsonl", C[0], C[1]]);
    let (evil, hidden) = (&names.evil, &names.hidden);
    fs::write(demo.path("rules"), format!("[certmap/x/{hidden}]\nmatchrule = <{OBEYED}\nmaprule = {evil}\n"))
        .unwrap();
    for dialect in ["sssd", "mit", "keycloak"] {
        run(demo, &["mapping", "import", "--from", dialect, "rules"]);
    }
}

fn check_configurations_with_them(demo: &Demo, names: &Names) {
    let hidden = &names.hidden;
    let whole = fs::read_to_string(demo.path("rcmpd.toml")).unwrap();
    let toml = |text: &str| serde_json::to_string(text).unwrap();
    for wrong in [
        format!("\"\\u202e\u{202e}key{hidden}\" = 1\n{whole}"),
        whole.replace("binding ", &format!("# {hidden}\n\tbinding{hidden} ")),
        whole.replace("\"full\" ", &format!("\"full{hidden}\" # {hidden}")),
        whole.replace("certs/ca.pem", &format!("certs/{hidden}.pem")),
        format!(
            "{whole}\n[[peer]]\ndomain = {0}\nsid = {0}\nnames = [{0}]\ndirection = {0}\n",
            toml(&names.evil)
        ),
    ] {
        fs::write(demo.path("wrong.toml"), wrong).unwrap();
        let done = run(demo, &["check-config", "-c", "wrong.toml"]);
        assert_eq!(done[0].code, 1, "{done:?}");
        run(demo, &["account", "list", "-c", "wrong.toml"]);
        run(demo, &["serve", "-c", "wrong.toml"]);
        run(demo, &["map", "certs/alice.pem", "-c", "wrong.toml"]);
    }
}

/// What a service answers, and what it logs.
fn serve_with_them(demo: Demo, hidden: &str) {
    demo.configure("[audit]\npath = \"audit.jsonl\"\n[telemetry]\nlog = \"debug\"\n");
    let mut service = demo.serve();
    for who in ["alice", "odd", "bob", "carol"] {
        for json in [&[][..], &["--json"]] {
            let certificate = service.certificate(who);
            let done = service.rcmpd(&[&["map", &certificate, "-c", "client.toml"], json].concat());
            is_clean(who, &done);
        }
    }
    service.edit(|text| text.replace("binding ", &format!("binding{hidden} ")));
    service.signal(Signal::HUP);
    service.wait_for_log("Not reloaded");
    for file in ["serve.log", "audit.jsonl"] {
        let stdout = fs::read_to_string(service.path(file)).unwrap();
        assert!(stdout.len() > 500, "{file}: {stdout}");
        is_clean(file, &Finished { code: 0, stdout, stderr: String::new() });
    }
}

/// Gives carol another name, as `rcmpd import` takes it, or as an older version stored it.
fn carol_as(name: &str) -> Demo {
    let demo = Demo::new();
    if name.contains('\\') {
        let database = rusqlite::Connection::open(demo.path("accounts.db")).unwrap();
        let sql = "UPDATE account SET name = ?1, name_key = ?1 WHERE name = 'carol'";
        assert_eq!(database.execute(sql, [name]).unwrap(), 1);
        return demo;
    }
    demo.rcmpd(&["export", "accounts.jsonl", "-c", "rcmpd.toml"]).code(0);
    let text = fs::read_to_string(demo.path("accounts.jsonl")).unwrap();
    let renamed =
        text.replace("\"name\":\"carol\"", &format!("\"name\":{}", serde_json::to_string(name).unwrap()));
    assert_ne!(renamed, text);
    fs::write(demo.path("accounts.jsonl"), renamed).unwrap();
    demo.rcmpd(&["import", "--replace", "accounts.jsonl", "-c", "rcmpd.toml"]).code(0);
    demo
}

#[test]
fn a_pasted_line_is_about_the_name_in_it_and_runs_nothing_else() {
    for name in [
        "-c",
        "--disable",
        "--",
        "-",
        "$(touch owned)",
        "`touch owned`",
        "a'; touch owned; '",
        "a b",
        "\"",
        "!x",
        "#x",
        "*",
        "~",
        "\\",
    ] {
        let demo = carol_as(name);
        let explained = demo.rcmpd(&["explain", "certs/carol.pem", "-c", "rcmpd.toml"]).code(3);
        let line = explained.stdout.lines().find(|line| line.starts_with("rcmpd account set ")).unwrap();
        let done = demo.paste(line).code(0);
        assert!(done.stdout.contains(name), "{line}: {done:?}");
        let now = demo.rcmpd(&["explain", "certs/carol.pem", "-c", "rcmpd.toml", "--json"]).code(0).json();
        assert_eq!(now["account"], name, "{line}");
        demo.rcmpd(&["account", "set", "--disable", "-c", "rcmpd.toml", "--", name]).code(0);
        let disabled =
            demo.rcmpd(&["explain", "certs/carol.pem", "-c", "rcmpd.toml", "--json"]).code(3).json();
        demo.paste(disabled["remedies"][0]["command"].as_str().unwrap()).code(0);
        demo.rcmpd(&["explain", "certs/carol.pem", "-c", "rcmpd.toml"]).code(0);
        assert!(!demo.path("owned").exists(), "{line}");
    }
}

#[test]
fn a_name_that_cannot_be_pasted_gives_no_line_and_says_why() {
    let demo = carol_as("car\u{202e}ol");
    let explained = demo.rcmpd(&["explain", "certs/carol.pem", "-c", "rcmpd.toml", "--json"]).code(3);
    is_clean("explain", &explained);
    let remedy = &explained.json()["remedies"][0];
    assert!(remedy["command"].is_null() && remedy["powershell"].is_null(), "{remedy:#}");
    assert!(remedy["value"].is_string(), "{remedy:#}");
    assert!(remedy["what"].as_str().unwrap().contains("no command is printed"), "{remedy:#}");
}

#[test]
fn a_printed_configuration_is_as_it_is_written() {
    let demo = Demo::new();
    demo.configure(
        "[sidecar]\n[[sidecar.listen]]\ndialect = \"caddy\"\nunix = \"caddy.sock\"\npeers = [\"0\"]\n",
    );
    let print = |certificate: &str| {
        let site = [
            "proxy-config",
            "caddy",
            "-c",
            "rcmpd.toml",
            "--site",
            "app.example",
            "--listen",
            "127.0.0.1:8443",
        ];
        demo.rcmpd(&[&site[..], &["--certificate", certificate, "--key", "certs/site.key"]].concat())
    };
    let printed = print("certs/site.pem").code(0);
    assert!(printed.stdout.contains("\n\tadmin off\n") && !printed.stdout.contains("\\u{"), "{printed:?}");
    let refused = print("certs/\u{202e}site.pem").code(1);
    assert!(refused.stdout.is_empty() && refused.stderr.contains("\\u{202e}site.pem"), "{refused:?}");
}
