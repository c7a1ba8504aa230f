//! Accounts, groups, machines and other domains, as operators change them.

use rcmpd_tests::{Demo, Finished, write_secret};
use serde_json::{Value, json};
use std::fs;

fn run(demo: &Demo, line: &str) -> Finished {
    demo.paste(&format!("rcmpd {line} -c rcmpd.toml"))
}

fn show(demo: &Demo, line: &str) -> Value {
    run(demo, &format!("{line} --json")).code(0).json()
}

#[test]
fn a_principal_name_is_no_name_of_an_account() {
    let demo = Demo::new();
    let done = run(&demo, "account add alice@contoso.example").code(1);
    assert!(done.stderr.contains("rcmpd account add alice --upn alice@contoso.example"), "{done:?}");
    assert_eq!(show(&demo, "account show alice@contoso.example")["name"], "alice");
    run(&demo, "account set bob --rename bob@contoso.example").code(1);
    let done = run(&demo, "account add 'CONTOSO\\dave'").code(1);
    assert!(done.stderr.ends_with("no domain in front: dave\n"), "{done:?}");
}

#[test]
fn an_account_expires_on_a_date() {
    let demo = Demo::new();
    for (when, stored) in [
        ("2027-01-01", "2027-01-01T00:00:00Z"),
        ("2027-01-01T12:30:00Z", "2027-01-01T12:30:00Z"),
        ("1798761600", "2027-01-01T00:00:00Z"),
        ("never", "never"),
    ] {
        run(&demo, &format!("account set bob --expires {when}")).code(0);
        assert_eq!(show(&demo, "account show bob")["expires"], stored);
    }
    run(&demo, "account add dave --expires 2001-09-09").code(0);
    assert_eq!(show(&demo, "account show dave")["state"], "expired");
    let done = run(&demo, "account set bob --expires 1.1.2027").code(2);
    assert!(done.stderr.contains("2027-01-01"), "{done:?}");
    // What an account that is not there cannot lose is no option.
    let help = demo.rcmpd(&["account", "add", "--help"]).code(0).stdout;
    assert!(
        !help.contains("--remove-") && !help.contains("--enable") && !help.contains("--unlock"),
        "{help}"
    );
    run(&demo, "account add eve --enable").code(2);
    run(&demo, "account set bob --lock").code(0);
    run(&demo, "account set bob --unlock --disable").code(0);
    run(&demo, "account set bob --enable --disable").code(2);
    assert_eq!(show(&demo, "account show bob")["state"], "disabled");
}

#[test]
fn entries_are_listed_by_a_part_of_their_names() {
    let demo = Demo::new();
    run(&demo, "account add müller --full-name 'Alicia MÜLLER'").code(0);
    let listed = |text: &str| {
        let all = show(&demo, &format!("account list {text}"));
        let names =
            all.as_array().unwrap().iter().map(|account| account["name"].as_str().unwrap().to_owned());
        names.collect::<Vec<_>>()
    };
    assert_eq!(listed("ALIC"), ["alice", "müller"]);
    assert_eq!(listed("bob@contoso"), ["bob"]);
    assert_eq!(listed("Müll"), ["müller"]);
    assert_eq!(listed("nothing"), [""; 0]);
    assert_eq!(listed("").len(), 5);
    for (line, names) in [
        ("group list WEB", json!(["Web Team", "Web Servers"])),
        ("group list none", json!([])),
        ("machine list web", json!(["WEB01$"])),
        ("machine list none", json!([])),
    ] {
        let all = show(&demo, line);
        let found: Vec<&Value> = all.as_array().unwrap().iter().map(|entry| &entry["name"]).collect();
        assert_eq!(json!(found), names, "{line}");
    }
}

#[test]
fn what_is_renamed_stays_what_it_was() {
    let service = Demo::new().serve();
    let before = show(&service, "account show alice");
    run(&service, "account set alice --rename alicia").code(0);
    let after = show(&service, "account show alicia");
    let renamed = |mut account: Value| {
        account["name"] = json!("alicia");
        account
    };
    assert_eq!(after, renamed(before));
    run(&service, "account show alice").code(1);
    assert_eq!(service.map("alice").code(0).json()["account"], "alicia");
    // Names are taken once.
    run(&service, "account set alicia --rename bob").code(1);
    run(&service, "account set 'WEB01$' --rename 'WEB02$'").code(1);
    // A warning about a twin names others only.
    let done = run(&service, "account set alicia --rename alice --upn bob@contoso.example").code(0);
    assert!(done.stderr.contains("warning: bob@contoso.example is also that of bob:"), "{done:?}");

    run(&service, "group set Engineers --rename Builders --scope universal").code(0);
    let group = show(&service, "group show Builders");
    assert_eq!((&group["scope"], &group["members"][0]["name"]), (&json!("universal"), &json!("alice")));
    run(&service, "group set Builders --rename 'Domain Admins'").code(1);
    run(&service, "group set Builders --rename 'web team'").code(1);
}

/// A limit of the size of files stands for a full disk: files can be made, and nothing written to them.
#[test]
fn a_full_disk_leaves_no_empty_files() {
    let demo = Demo::new();
    let names = || {
        let mut names = Vec::new();
        for folder in ["", "machines", "trusts"] {
            let entries = std::fs::read_dir(demo.path(folder)).into_iter().flatten();
            names.extend(entries.map(|entry| format!("{folder}/{}", entry.unwrap().file_name().display())));
        }
        // Of the database that is open.
        names.retain(|name| !name.ends_with("-wal") && !name.ends_with("-shm"));
        names.sort();
        names
    };
    std::fs::create_dir(demo.path("trusts")).unwrap();
    let text = std::fs::read_to_string(demo.path("rcmpd.toml")).unwrap();
    std::fs::write(
        demo.path("new.toml"),
        text.replace("accounts.db", "new.db").replace("accounts.key", "new.key"),
    )
    .unwrap();
    let before = names();
    let full = |command: &str| demo.paste(&format!("trap '' XFSZ; ulimit -f 0; rcmpd {command}"));
    for command in [
        "audit key audit.key",
        "domain key hop.key",
        "machine add 'WEB09$' --secret-file machines/WEB09.secret -c rcmpd.toml",
        "domain add -c new.toml",
        "domain add FABRIKAM --sid S-1-5-21-7-8-9 --direction outbound --server 127.0.0.1:9 -c rcmpd.toml",
    ] {
        let done = full(command);
        assert_ne!(done.code, 0, "{command}: {done:?}");
        assert_eq!(names(), before, "{command}: {done:?}");
    }
    // The next try succeeds, as no file stands in the way.
    demo.paste("rcmpd audit key audit.key").code(0);
}

/// A key file that others may read is there: a new one would cost every machine its secret. Each command
/// warns once.
#[test]
fn a_key_file_of_a_wrong_mode_needs_a_chmod_and_no_new_key() {
    use std::fs::{Permissions, set_permissions};
    use std::os::unix::fs::PermissionsExt;
    let demo = Demo::new();
    let key = demo.path("accounts.key");
    for (make_unusable, advice, other) in [("chmod 644", "chmod 600", "rekey"), ("rm", "rekey", "chmod")] {
        demo.paste(&format!("{make_unusable} accounts.key")).code(0);
        for command in ["mapping audit", "mapping audit --json", "account list"] {
            let done = run(&demo, command);
            assert_eq!(
                done.stderr.matches("machine secrets cannot be used").count(),
                1,
                "{command}: {done:?}"
            );
            assert!(done.stderr.contains(advice) && !done.stderr.contains(other), "{command}: {done:?}");
        }
        let done = run(&demo, "machine list");
        assert!(!done.stderr.contains(other), "{done:?}");
        if key.exists() {
            set_permissions(&key, Permissions::from_mode(0o600)).unwrap();
        }
    }
}

#[test]
fn warnings_say_that_they_are_warnings() {
    let demo = Demo::new();
    let done = run(&demo, "account set alice --upn bob@contoso.example").code(0);
    assert!(done.stderr.starts_with("rcmpd: warning: bob@contoso.example is also that of bob"), "{done:?}");
    // ASN.1 allows no serial number that is empty.
    fs::write(
        demo.path("odd.jsonl"),
        "{\"type\":\"account\",\"name\":\"odd\",\"alt_security_identities\":[\"X509:<SKI>xyz\"]}\n",
    )
    .unwrap();
    let done = run(&demo, "import odd.jsonl").code(0);
    assert!(done.stderr.contains("rcmpd: warning: line 1: odd: no certificate matches"), "{done:?}");
    let done = run(&demo, "account set odd --full-name Odd").code(0);
    assert!(done.stderr.contains("rcmpd: warning: odd: no certificate matches"), "{done:?}");
}

#[test]
fn a_value_that_was_copied_in_part_is_named() {
    let demo = Demo::new();
    let done =
        run(&demo, "account set carol --add-mapping 'X509:<I>O=Contoso,CN=Contoso Demo CA<SR>7e0c…'").code(1);
    assert!(done.stderr.contains("rcmpd explain"), "{done:?}");
}

#[test]
fn a_secret_that_a_person_made_up_is_warned_about() {
    let demo = Demo::new();
    write_secret(demo.path("short"), "abc\n");
    let done = run(&demo, "machine add 'WEB02$' --secret-file short").code(0);
    assert!(done.stderr.contains("warning: the secret has 3 characters"), "{done:?}");
    let done = run(&demo, "machine add 'WEB03$' --secret-file made").code(0);
    assert!(!done.stderr.contains("warning") && done.stderr.contains("Created a password: made"), "{done:?}");
    let done = run(&demo, "machine set 'WEB03$' --secret-file short").code(0);
    assert!(done.stderr.contains("warning: the secret has 3 characters"), "{done:?}");
    assert!(show(&demo, "machine show 'WEB03$'")["has_previous_secret"].as_bool().unwrap());
    // An imported machine had no secret before its first one.
    fs::write(demo.path("m.jsonl"), "{\"type\":\"machine\",\"name\":\"WEB04$\",\"kind\":\"workstation\"}\n")
        .unwrap();
    run(&demo, "import m.jsonl").code(0);
    run(&demo, "machine set 'WEB04$' --secret-file made").code(0);
    assert!(!show(&demo, "machine show 'WEB04$'")["has_previous_secret"].as_bool().unwrap());
    run(&demo, "machine set 'WEB04$' --secret-file short").code(0);
    assert!(show(&demo, "machine show 'WEB04$'")["has_previous_secret"].as_bool().unwrap());
}

#[test]
fn adding_a_domain_says_what_to_do_next() {
    let demo = Demo::new();
    let sid = "--sid S-1-5-21-1-2-3 --name fabrikam.example";
    let before = fs::read_to_string(demo.path("rcmpd.toml")).unwrap();
    // Where to ask is missing: the options are named, and nothing is made.
    let done = run(&demo, &format!("domain add FABRIKAM {sid} --direction outbound")).code(1);
    assert!(done.stderr.contains("--server HOST[:PORT]") && !done.stderr.contains("rcmpd.toml:"), "{done:?}");
    assert_eq!(fs::read_to_string(demo.path("rcmpd.toml")).unwrap(), before);
    assert!(!demo.path("trusts").exists());
    // It asks us, so the test is run there.
    let done = run(&demo, &format!("domain add FABRIKAM {sid} --direction inbound")).code(0);
    assert_eq!(
        format!("{}{}", done.stdout, done.stderr).matches("FABRIKAM.inbound.secret").count(),
        1,
        "{done:?}"
    );
    assert!(
        done.stdout
            .contains("test the secure channel on the other side:\n  rcmpd domain test -c FILE -- CONTOSO"),
        "{done:?}"
    );
    let done = run(&demo, "domain test FABRIKAM").code(1);
    assert!(done.stderr.contains("rcmpd domain test CONTOSO"), "{done:?}");
    let litware = "--sid S-1-5-21-1-2-4 --name litware.example --direction outbound --server 127.0.0.1:1";
    let done = run(&demo, &format!("domain add LITWARE {litware}")).code(0);
    assert!(
        done.stdout
            .ends_with("Then test the secure channel:\n  rcmpd domain test -c rcmpd.toml -- LITWARE\n"),
        "{done:?}"
    );
    let far = "--sid S-1-5-21-1-2-5 --name far.example --direction outbound --via LITWARE";
    let done = run(&demo, &format!("domain add FAR {far}")).code(0);
    assert!(
        done.stdout
            .ends_with("Then test the secure channel:\n  rcmpd domain test -c rcmpd.toml -- LITWARE\n"),
        "{done:?}"
    );
    // A folder that is not there.
    demo.edit(|text| text.replace("\"accounts.", "\"nowhere/accounts."));
    let done = run(&demo, "domain add").code(1);
    assert!(done.stderr.contains("the folder ./nowhere does not exist"), "{done:?}");
}

#[test]
fn a_domain_is_removed_with_its_account_and_nothing_else() {
    let demo = Demo::new();
    let before = fs::read_to_string(demo.path("rcmpd.toml")).unwrap();
    let add = |name: &str, n: u32, direction: &str| {
        run(&demo, &format!("domain add {name} --sid S-1-5-21-1-2-{n} --name {name}.example {direction}"))
            .code(0);
    };
    add("LITWARE", 4, "--direction outbound --server 127.0.0.1:1");
    let with_one = fs::read_to_string(demo.path("rcmpd.toml")).unwrap();
    add("FABRIKAM", 3, "--direction both --server 127.0.0.1:1");
    assert_eq!(show(&demo, "machine show 'FABRIKAM$'")["kind"], "trusted_domain");
    let done = run(&demo, "domain remove fabrikam.example").code(0);
    assert!(done.stdout.contains("Removed FABRIKAM from rcmpd.toml"), "{done:?}");
    assert!(done.stdout.contains("Still there: ./trusts/FABRIKAM.secret"), "{done:?}");
    assert_eq!(fs::read_to_string(demo.path("rcmpd.toml")).unwrap().trim_end(), with_one.trim_end());
    run(&demo, "machine show 'FABRIKAM$'").code(1);
    run(&demo, "check-config").code(0);
    // Another domain is reached through it: what is wrong then is said, and nothing is changed.
    add("FAR", 5, "--direction outbound --via LITWARE");
    let done = run(&demo, "domain remove LITWARE").code(1);
    assert!(
        done.stderr.contains("LITWARE was not removed") && !done.stderr.contains("rcmpd.toml:"),
        "{done:?}"
    );
    run(&demo, "domain show LITWARE").code(0);
    run(&demo, "domain remove FAR --json").code(0);
    run(&demo, "domain remove LITWARE").code(0);
    assert_eq!(fs::read_to_string(demo.path("rcmpd.toml")).unwrap().trim_end(), before.trim_end());
    run(&demo, "domain remove CONTOSO").code(1);
    run(&demo, "domain remove NORTHWIND").code(1);
}

#[test]
fn a_private_key_is_not_written_to_a_file_of_an_odd_name() {
    let demo = Demo::new();
    demo.rcmpd(&["audit", "key", "-"]).code(1);
    demo.rcmpd(&["domain", "key", "-"]).code(1);
    assert!(!demo.path("-").exists() && !demo.path("-.pub").exists());
}

#[test]
fn one_certificate_is_rehearsed() {
    let demo = Demo::new();
    let done = run(&demo, "mapping rehearse --policy rcmpd.toml --certs certs/alice.pem").code(0);
    assert!(done.stdout.contains("certificates  1\nunchanged     1\n"), "{done:?}");
    // A file of something else is named as what it is not.
    let done = run(&demo, "mapping rehearse --policy rcmpd.toml --certs certs/alice.key").code(6);
    assert!(done.stderr.contains("has no decisions about certificates"), "{done:?}");
}

#[test]
fn explain_says_what_the_policy_does_not_allow() {
    let demo = Demo::new();
    let done = run(&demo, "explain certs/bob.pem --methods upn,subject,issuer").code(0);
    assert!(done.stdout.contains("method issuer: not allowed by the policy"), "{done:?}");
    demo.edit(|text| text.replace("[\"upn\", \"subject\"]", "[\"upn\", \"subject\", \"issuer\"]"));
    let done = run(&demo, "explain certs/bob.pem --methods upn,subject,issuer").code(0);
    assert!(done.stdout.contains("method issuer: not reached"), "{done:?}");
}
