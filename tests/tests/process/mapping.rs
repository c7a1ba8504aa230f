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
    // What the command line refuses may come from elsewhere; what is for other systems is no problem here.
    let line = format!(
        r#"{{"type":"account","name":"unread","sid":"{}-4711","kind":"user","alt_security_identities":["X509:<I>O=Contoso, Ltd.,CN=CA<SR>01","Kerberos:unread@EXAMPLE.COM"]}}"#,
        demo.domain_sid()
    );
    fs::write(demo.path("one.jsonl"), line).unwrap();
    run(&demo, &["import", "one.jsonl"]).code(0);
    let report = run(&demo, &["mapping", "audit", "--json"]).code(3).json();
    let expected = [
        ("weak", "carol", "it uses only names"),
        ("weak", "weak", "it uses only names"),
        ("weak", "jose", "it uses only names"),
        ("weak", "other", "it uses only names"),
        ("weak", "mail", "never enough alone"),
        ("ambiguous", "first", "second has the same"),
        ("ambiguous", "second", "first has the same"),
        ("twin", "jose", "equal to that of other ("),
        ("twin", "other", "equal to that of jose ("),
        ("twin", "jose", "looks like that of other"),
        ("twin", "other", "looks like that of jose"),
        ("dangling", "foreign", "not a configured CA"),
        ("never-matching", "turned", "in reverse order"),
        ("never-matching", "ski", "is granted the form \"ski\""),
        ("never-matching", "issuer", "does not allow the method \"issuer\""),
        ("never-matching", "sid", "never map to this account"),
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
    assert!(done.stdout.contains("after <SR> are in reverse order"), "{}", done.stdout);
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

#[test]
fn stored_values_that_no_certificate_matches_are_told_wherever_they_are_met() {
    let demo = Demo::new();
    let wanted = Wanted { common_name: "New", serial: Some(vec![1, 2, 3, 4, 5]), ..Wanted::default() };
    Authority::of(&demo).issue(&demo, "new", &wanted);
    let right = "X509:<I>O=Contoso,CN=Contoso Demo CA<SR>0504030201";
    let values = [
        ("prefix", right.replace("X509:", "X509N:"), "it does not begin with X509:"),
        ("dot", right.replace("X509:", "X.509:"), "it does not begin with X509:"),
        ("none", right.replace("X509:", ""), "it does not begin with X509:"),
        ("mark", format!("\u{feff}{right}"), "begins with U+FEFF"),
        ("space", format!("X509: {}\u{200b}", &right[5..]), "U+200B"),
        ("word", right.replace("O=Contoso", "ORG=Contoso"), "ORG is no word"),
        ("tag", right.replace("<SR>", "<SERIAL>"), "unknown tag"),
    ];
    let line = |name: &str, value: &str| {
        let account =
            serde_json::json!({"type": "account", "name": name, "alt_security_identities": [value]});
        format!("{account}\n")
    };
    let lines: String = values.iter().map(|(name, value, _)| line(name, value)).collect();
    let others = line("kerberos", "Kerberos:alice@EXAMPLE.COM") + &line("phone", "X509:<S>CN=x,Phone=1");
    fs::write(demo.path("lines.jsonl"), lines + &others).unwrap();
    let imported = run(&demo, &["import", "lines.jsonl"]).code(0);
    let report = run(&demo, &["mapping", "audit", "--json", "--ignore", "weak,dangling"]).code(3).json();
    let found = findings(&report);
    for (at, (name, value, why)) in values.iter().enumerate() {
        let told = format!("line {}: {name}: no certificate matches", at + 1);
        assert!(imported.stderr.contains(&told) && imported.stderr.contains(why), "{name}: {imported:?}");
        let is_found = |(class, account, text): &(String, String, String)| {
            class == "never-matching" && account == name && text.contains(why)
        };
        assert!(found.iter().any(is_found), "{name}: {report:#}");
        // The command line refuses what cannot be read at all.
        let add = run(&demo, &["account", "set", "carol", &format!("--add-mapping={value}")]);
        assert!(add.stderr.contains(why), "{name}: {add:?}");
        if *name == "word" {
            run(&demo, &["account", "set", "carol", &format!("--remove-mapping={value}")]).code(0);
        }
    }
    for (name, ..) in &values {
        run(&demo, &["account", "remove", name]).code(0);
    }
    for (name, value, why) in &values {
        let only = line("only", value);
        fs::write(demo.path("lines.jsonl"), only).unwrap();
        run(&demo, &["import", "lines.jsonl"]).code(0);
        let explained = run(&demo, &["explain", "certs/new.pem", "--json"]).code(3).json();
        if *name != "tag" {
            assert_eq!(explained["nearest"]["account"], "only", "{name}: {explained:#}");
            let because = explained["nearest"]["because"].as_str().unwrap_or_default();
            assert!(because.contains(why), "{name}: {explained:#}");
        }
        run(&demo, &["account", "remove", "only"]).code(0);
    }
    assert!(!imported.stderr.contains("kerberos") && !imported.stderr.contains("phone:"), "{imported:?}");
    assert_eq!(report["counts"]["never-matching"], values.len());
}

/// An import warns of the values that `account set` warns of: neither account is mapped from then on.
#[test]
fn values_of_two_accounts_are_told_by_an_import() {
    let demo = Demo::new();
    let carol = "X509:<I>O=Contoso,CN=Contoso Demo CA<SR>0504030201";
    run(&demo, &["account", "set", "carol", "--add-mapping", carol, "--add-spn", "HTTP/carol"]).code(0);
    let lines = [
        serde_json::json!({"type": "account", "name": "one", "user_principal_name": "ALICE@contoso.example"}),
        serde_json::json!({"type": "account", "name": "two", "service_principal_names": ["http/CAROL"]}),
        serde_json::json!({"type": "account", "name": "three", "alt_security_identities": [carol]}),
        serde_json::json!({"type": "account", "name": "four", "user_principal_name": "four@contoso.example"}),
        serde_json::json!({"type": "account", "name": "five", "user_principal_name": "Four@contoso.example"}),
        serde_json::json!({"type": "account", "name": "six", "user_principal_name": "six@contoso.example"}),
    ];
    let lines: String = lines.iter().map(|line| format!("{line}\n")).collect();
    fs::write(demo.path("lines.jsonl"), &lines).unwrap();
    for options in [&[][..], &["--replace"]] {
        let done = run(&demo, &[&["import", "lines.jsonl"], options].concat()).code(0);
        for (line, value, other) in [
            ("line 1: one", "ALICE@contoso.example", "alice"),
            ("line 2: two", "http/CAROL", "carol"),
            ("line 3: three", carol, "carol"),
            ("line 4: four", "four@contoso.example", "five"),
            ("line 5: five", "Four@contoso.example", "four"),
        ] {
            let told = format!("warning: {line}: {value} is also that of {other}: ");
            assert!(done.stderr.contains(&told), "{told}: {}", done.stderr);
        }
        assert!(!done.stderr.contains("six"), "{}", done.stderr);
    }
    let done = run(&demo, &["account", "set", "bob", "--add-spn", "HTTP/carol"]).code(0);
    assert!(done.stderr.contains("HTTP/carol is also that of "), "{done:?}");
    // Many are counted.
    let many: String = (0..30)
        .map(|n| {
            format!(
                "{{\"type\":\"account\",\"name\":\"m{n}\",\"user_principal_name\":\"bob@contoso.example\"}}\n"
            )
        })
        .collect();
    fs::write(demo.path("many.jsonl"), many).unwrap();
    let done = run(&demo, &["import", "many.jsonl"]).code(0);
    assert_eq!(done.stderr.matches("bob@contoso.example is also that of ").count(), 20, "{}", done.stderr);
    assert!(done.stderr.contains("warning: 10 more values"), "{}", done.stderr);
}

#[test]
fn names_that_look_alike_in_an_older_database_are_told_with_the_way_to_rename_them() {
    let demo = Demo::new();
    run(&demo, &["machine", "add", "WEB02$", "--secret-file", "machines/WEB02.secret"]).code(0);
    run(&demo, &["account", "add", "dave"]).code(0);
    // What an older version stored: it compared names without their width, and did not see what is not shown.
    let database = rusqlite::Connection::open(demo.path("accounts.db")).unwrap();
    for (table, old, new) in [
        ("account", "dave", "\u{ff41}lice"),
        ("account", "WEB02$", "WEB0\u{200b}1$"),
        ("machine", "WEB02$", "WEB0\u{200b}1$"),
    ] {
        let key = new.to_lowercase();
        let sql = format!("UPDATE {table} SET name = ?1, name_key = ?2 WHERE name = ?3");
        database.execute(&sql, [new, &key, old]).unwrap();
    }
    drop(database);
    let audit = |code: u8| {
        run(&demo, &["mapping", "audit", "--json", "--ignore", "weak,ambiguous,dangling,never-matching"])
            .code(code.into())
            .json()
    };
    let report = audit(3);
    let twins: Vec<_> = report["findings"].as_array().unwrap().iter().collect();
    assert!(twins.iter().all(|twin| twin["attribute"] == "sAMAccountName"), "{report:#}");
    let told = |name: &str, other: &str| {
        let is_it = |twin: &&&Value| {
            twin["account"] == name && twin["why"].as_str().is_some_and(|why| why.contains(other))
        };
        assert!(twins.iter().any(|twin| is_it(&twin)), "{name} {other}: {report:#}");
    };
    told("alice", r"\u{ff41}lice");
    told("\u{ff41}lice", "alice");
    told("WEB01$", r"WEB0\u{200b}1$");
    told("WEB0\u{200b}1$", "WEB01$");
    // What is exported cannot be imported elsewhere, which is told with both names.
    run(&demo, &["export", "old.jsonl"]).code(0);
    let lines = fs::read_to_string(demo.path("old.jsonl")).unwrap();
    let other = Demo::new();
    fs::write(other.path("old.jsonl"), lines.replace(&demo.domain_sid(), &other.domain_sid())).unwrap();
    let refused = |name: &str, other_name: &str| {
        let refused = run(&other, &["import", "--replace", "old.jsonl"]).code(1);
        assert!(refused.stderr.contains(name) && refused.stderr.contains(other_name), "{refused:?}");
        assert!(refused.stderr.contains("rename one of them"), "{refused:?}");
    };
    refused(r"(WEB0\u{200b}1$)", "\"WEB01$\"");
    let others = lines.lines().filter(|line| !line.contains('\u{200b}')).collect::<Vec<_>>().join("\n");
    fs::write(other.path("old.jsonl"), others.replace(&demo.domain_sid(), &other.domain_sid())).unwrap();
    refused(r"(\u{ff41}lice)", "\"alice\"");
    // As the audit says: the line with another name, imported over the entry.
    let line = lines.lines().find(|line| line.contains("\u{ff41}lice")).unwrap();
    fs::write(demo.path("renamed.jsonl"), line.replace("\u{ff41}lice", "dave")).unwrap();
    run(&demo, &["import", "--replace", "renamed.jsonl"]).code(0);
    let report = audit(3);
    let names: Vec<_> = report["findings"].as_array().unwrap().iter().map(|twin| &twin["account"]).collect();
    assert!(!names.iter().any(|name| **name == "alice"), "{names:?}");
}
