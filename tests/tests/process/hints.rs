//! Messages of commands about accounts that say what to do next.

use rcmpd_tests::{Demo, Finished};
use std::fs;

#[test]
fn what_is_not_there_is_named_with_the_next_step() {
    let demo = Demo::new();
    let run = |arguments: &[&str]| demo.rcmpd(&[arguments, &["-c", "rcmpd.toml"][..]].concat());
    let says = |done: &Finished, code: i32, expected: &str| {
        assert!(done.code == code && done.stderr.contains(expected), "{expected}: {done:?}");
    };
    let group = run(&["account", "set", "alice", "--group", "Welders"]);
    says(&group, 1, "there is no group Welders; `rcmpd group add Welders` makes it");
    says(&run(&["machine", "show", "WEB02"]), 1, "names of machines end in $: 'WEB02$'");
    says(&run(&["account", "list", "zzz"]), 0, "no account has zzz in its name");
    let again = run(&["account", "add", "alice", "--upn", "alice@contoso.example"]);
    says(&again, 1, "alice exists already; `rcmpd account set alice` changes it");
    assert!(!again.stderr.contains("warning"), "{again:?}");
    says(&run(&["account", "set", "alice", "--upn", "alice"]), 0, "alice is no user principal name");
    fs::write(demo.path("users.txt"), "name;member_of\nanna;Engineers\n").unwrap();
    says(&run(&["import", "users.txt"]), 6, "this looks like CSV: import it with --format csv");
    let line = r#"{"type":"account","name":"clara","expires":1800000000}"#;
    fs::write(demo.path("clara.jsonl"), line).unwrap();
    says(&run(&["import", "clara.jsonl"]), 6, "expires: 1800000000 is before 1900");
    fs::write(demo.path("clara.jsonl"), line.replace("1800000000", "\"2027-01-01\"")).unwrap();
    run(&["import", "clara.jsonl"]).code(0);
    let clara = run(&["account", "show", "clara", "--json"]).code(0).json();
    assert_eq!(clara["expires"], "2027-01-01T00:00:00Z", "{clara}");
}

#[test]
fn command_without_a_configuration_says_how_to_name_one() {
    let demo = Demo::new();
    let done = demo.paste("cd certs && rcmpd account list").code(2);
    assert!(done.stderr.contains("no configuration: give -c FILE, or set RCMPD_CONFIG"), "{done:?}");
    let done = demo.paste("cd certs && rcmpd sso secret status").code(2);
    assert!(done.stderr.contains("or give --socket PATH"), "{done:?}");
}

/// The command that is printed for an account that a route does not let in, pasted into a shell, lets it in.
#[test]
fn route_that_rejects_names_the_command_that_lets_the_account_in() {
    let demo = Demo::new();
    demo.configure(
        "[sidecar]\n[[sidecar.route]]\nhost = \"www.contoso.example\"\ngroups = [\"Welders\"]\n\
         [[sidecar.listen]]\ndialect = \"nginx\"\nunix = \"nginx.sock\"\npeers = [\"root\"]",
    );
    demo.rcmpd(&["group", "add", "Welders", "-c", "rcmpd.toml"]).code(0);
    let explain = ["explain", "certs/alice.pem", "-c", "rcmpd.toml", "--url", "https://www.contoso.example/"];
    let refused = demo.rcmpd(&explain).code(3);
    let line = refused.stdout.lines().find(|line| line.starts_with("rcmpd account set --group")).unwrap();
    assert_eq!(line, "rcmpd account set --group Welders -c rcmpd.toml -- alice");
    demo.paste(line).code(0);
    demo.rcmpd(&explain).code(0);
    // There is no group that would let in one without an account.
    let none = demo.rcmpd(&["explain", "certs/mallory.pem", "-c", "rcmpd.toml"]).code(3);
    assert!(none.stdout.contains("create it first: rcmpd account add"), "{none:?}");
}
