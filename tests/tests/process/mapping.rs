//! `rcmpd mapping`: what administrators look at before a certificate finds out.

use crate::issuing::{Authority, Wanted};
use rcmpd_tests::Demo;
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;

fn run(demo: &Demo, arguments: &[&str]) -> rcmpd_tests::Finished {
    demo.rcmpd(&[arguments, &["-c", "rcmpd.toml"]].concat())
}

/// Class, account and a part of the reason of each finding.
fn findings(report: &Value) -> BTreeSet<(String, String, String)> {
    let text = |finding: &Value, name: &str| finding[name].as_str().unwrap().to_owned();
    let findings = report["findings"].as_array().unwrap().iter();
    findings.map(|finding| (text(finding, "class"), text(finding, "account"), text(finding, "why"))).collect()
}

#[test]
fn an_audit_finds_each_kind_of_trouble_and_nothing_else() {
    let demo = Demo::new();
    let ca = "O=Contoso,CN=Contoso Demo CA";
    for (name, arguments) in [
        ("good", vec![format!("--add-mapping=X509:<I>{ca}<SR>01")]),
        ("weak", vec![format!("--add-mapping=X509:<I>{ca}<S>CN=Weak")]),
        (
            "also",
            vec![
                format!("--add-mapping=X509:<I>{ca}<S>CN=Also"),
                format!("--add-mapping=X509:<I>{ca}<SR>02"),
            ],
        ),
        ("mail", vec!["--add-mapping=X509:<RFC822>mail@contoso.example".into()]),
        ("first", vec![format!("--add-mapping=X509:<I>{ca}<SR>0a0b"), "--upn=both@contoso.example".into()]),
        (
            "second",
            vec![
                format!("--add-mapping=x509: <I>O=contoso, CN=Contoso Demo CA<SR>0A0B"),
                "--upn=BOTH@contoso.example".into(),
            ],
        ),
        ("jose", vec![format!("--add-mapping=X509:<I>{ca}<S>CN=jose"), "--upn=jose@contoso.example".into()]),
        (
            "other",
            vec![
                format!("--add-mapping=X509:<I>{ca}<S>CN=jos\u{e9}"),
                "--upn=jos\u{e9}@contoso.example".into(),
            ],
        ),
        ("foreign", vec!["--add-mapping=X509:<I>CN=Somebody Else<SR>01".into()]),
        ("turned", vec!["--add-mapping=X509:<I>CN=Contoso Demo CA,O=Contoso<SR>01".into()]),
        ("ski", vec!["--add-mapping=X509:<SKI>0102".into()]),
        ("issuer", vec![format!("--add-mapping=X509:<I>{ca}")]),
        ("sid", vec![format!("--add-mapping=X509:<I>{ca}<SID>S-1-5-21-1-2-3-4")]),
    ] {
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        run(&demo, &[&["account", "add", name], &arguments[..]].concat()).code(0);
    }
    // What the command line refuses may come from elsewhere; what is for other systems is nobody's trouble.
    let line = format!(
        r#"{{"type":"account","name":"unread","sid":"{}-4711","kind":"user","alt_security_identities":["X509:<I>O=Contoso, Ltd.,CN=CA<SR>01","Kerberos:unread@EXAMPLE.COM"]}}"#,
        demo.domain_sid()
    );
    fs::write(demo.path("one.jsonl"), line).unwrap();
    run(&demo, &["import", "one.jsonl"]).code(0);
    let report = run(&demo, &["mapping", "audit", "--json"]).code(3).json();
    let expected = [
        ("weak", "carol", "names are all it goes by"),
        ("weak", "weak", "names are all it goes by"),
        ("weak", "jose", "names are all it goes by"),
        ("weak", "other", "names are all it goes by"),
        ("weak", "mail", "never enough alone"),
        ("ambiguous", "first", "also that of second"),
        ("ambiguous", "second", "also that of first"),
        ("twin", "jose", "as that of other"),
        ("twin", "other", "as that of jose"),
        ("twin", "jose", "looks like that of other"),
        ("twin", "other", "looks like that of jose"),
        ("dangling", "foreign", "no configured authority"),
        ("never-matching", "turned", "the other way round"),
        ("never-matching", "ski", "may vouch by \"ski\""),
        ("never-matching", "issuer", "does not allow the method \"issuer\""),
        ("never-matching", "sid", "never this account's"),
        ("never-matching", "unread", "it cannot be read"),
    ];
    let mut found = findings(&report);
    for (class, account, why) in expected {
        let hit =
            found.iter().find(|(of, who, text)| of == class && who == account && text.contains(why)).cloned();
        found.remove(&hit.unwrap_or_else(|| panic!("{class} {account} {why}: {report:#}")));
    }
    assert!(found.is_empty(), "{found:?}");
    // `first` and `second` share a name and a mapping: a finding each.
    assert_eq!(report["counts"]["ambiguous"], 4);
    assert_eq!(report["counts"]["twin"], 4);
    let all = ["--ignore", "weak,ambiguous,twin,dangling,never-matching"];
    run(&demo, &[&["mapping", "audit"], &all[..]].concat()).code(0);
}

#[test]
fn a_slip_in_a_stored_value_is_named_and_mended() {
    let demo = Demo::new();
    Authority::of(&demo).issue(
        &demo,
        "new",
        &Wanted { common_name: "New", serial: Some(vec![0x12, 0x34, 0x56]), ..Wanted::default() },
    );
    // The serial number as it is printed everywhere else.
    run(
        &demo,
        &["account", "set", "carol", "--add-mapping", "X509:<I>O=Contoso,CN=Contoso Demo CA<SR>123456"],
    )
    .code(0);
    let done = demo.rcmpd(&["explain", "certs/new.pem", "-c", "rcmpd.toml"]).code(3);
    assert!(done.stdout.contains("nearest miss: altSecurityIdentities of carol"), "{}", done.stdout);
    assert!(done.stdout.contains("the other way round after <SR>"), "{}", done.stdout);
    let line = done
        .stdout
        .lines()
        .find(|line| line.starts_with("rcmpd account set ") && line.ends_with(" -- carol"))
        .unwrap();
    assert!(line.contains("<SR>563412"), "{line}");
    demo.paste(line).code(0);
    let explained = demo.rcmpd(&["explain", "certs/new.pem", "-c", "rcmpd.toml", "--json"]).code(0).json();
    assert_eq!((&explained["account"], &explained["strength"]), (&"carol".into(), &"strong".into()));
}

#[test]
fn a_stranger_s_certificate_is_not_offered_to_whom_it_resembles() {
    let demo = Demo::new();
    let explained =
        demo.rcmpd(&["explain", "certs/mallory.pem", "-c", "rcmpd.toml", "--json"]).code(3).json();
    assert_eq!(explained["nearest"]["account"], "carol", "their names are alike");
    let line = explained["remedies"][0]["command"].as_str().unwrap();
    assert!(line.starts_with("rcmpd account set ") && line.ends_with(" -- NAME"), "{line}");
}

#[test]
fn what_a_certificate_says_cannot_move_the_cursor() {
    let demo = Demo::new();
    let wanted = Wanted { common_name: "a\u{1b}[2Jb\u{202e}c", ..Wanted::default() };
    Authority::of(&demo).issue(&demo, "odd", &wanted);
    for command in
        [&["explain", "certs/odd.pem", "-c", "rcmpd.toml"][..], &["mapping", "strings", "certs/odd.pem"]]
    {
        let done = demo.rcmpd(command);
        assert!(!done.stdout.contains(['\u{1b}', '\u{202e}']), "{done:?}");
        assert!(done.stdout.contains(r"a\u{1b}[2Jb\u{202e}c"), "{done:?}");
    }
    // A line that is to be pasted has nothing in it that cannot be seen.
    let explained = demo.rcmpd(&["explain", "certs/odd.pem", "-c", "rcmpd.toml", "--json"]).json();
    let line = explained["remedies"][0]["command"].as_str().unwrap();
    assert!(line.chars().all(|c| !c.is_control() && c != '\u{202e}'), "{line}");
}

#[test]
fn rules_of_others_are_translated_or_refused() {
    let demo = Demo::new();
    let rules = "match: <ISSUER>^CN=Contoso Demo CA,O=Contoso$<EKU>clientAuth\n\
                 map: LDAPU1:(altSecurityIdentities=X509:<I>{issuer_dn!ad_x500}<SR>{serial_number!hex_ur})\n";
    fs::write(demo.path("rules"), rules).unwrap();
    let import = ["mapping", "import", "--from", "sssd", "rules", "--issuer", "certs/ca.pem"];
    let done = demo.rcmpd(&import).code(0);
    // What is printed is a policy: bob has a serial number stored, alice only a name.
    let policy = done.stdout.replace("[mapping]\n", "[mapping]\nanchors = [\"certs/ca.pem\"]\n");
    fs::write(demo.path("sssd.toml"), policy).unwrap();
    let outcome = run(&demo, &["mapping", "rehearse", "--policy", "sssd.toml", "--certs", "certs", "--json"]);
    let outcome = outcome.code(0).json();
    assert_eq!((&outcome["gained"], &outcome["lost"]), (&0.into(), &2.into()), "{outcome:#}");
    fs::write(demo.path("rules"), "map: (uid={subject_principal.short_name})\n").unwrap();
    let done = demo.rcmpd(&import).code(3);
    assert!(done.stderr.contains("uid={subject_principal.short_name}"), "{done:?}");
    demo.rcmpd(&["mapping", "import", "--from", "mit", "nowhere"]).code(6);
}
