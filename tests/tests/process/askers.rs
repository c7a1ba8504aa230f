//! Who may ask, and for what: the scope of a machine account.

use crate::issuing::{Authority, Wanted};
use rcmpd_tests::peers::{self, impacket};
use rcmpd_tests::{Demo, Finished, write_secret};
use serde_json::{Value, json};
use std::fs;

fn set(demo: &Demo, machine: &str, scope: &[&str]) -> Finished {
    let set = ["machine", "set", machine];
    demo.rcmpd(&[&set[..], scope, &["-c", "rcmpd.toml", "--json"]].concat())
}

pub(crate) fn audit_lines(demo: &Demo) -> Vec<Value> {
    let text = fs::read_to_string(demo.path("audit.log")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Adds Administrator (RID 500) and dave, a member of Domain Admins by a group in it, with certificates that
/// name them.
fn with_administrators(demo: &Demo) {
    let sid = demo.domain_sid();
    let lines = [
        json!({ "type": "group", "name": "Domain Admins", "sid": format!("{sid}-512"), "scope": "global" }),
        json!({ "type": "group", "name": "Operations", "sid": format!("{sid}-1110"), "scope": "global", "member_of": ["Domain Admins"] }),
        json!({ "type": "account", "name": "Administrator", "sid": format!("{sid}-500"), "user_principal_name": "root@contoso.example" }),
        json!({ "type": "account", "name": "dave", "sid": format!("{sid}-1010"), "user_principal_name": "dave@contoso.example", "member_of": ["Operations"] }),
    ];
    let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
    fs::write(demo.path("administrators.jsonl"), text).unwrap();
    demo.rcmpd(&["import", "administrators.jsonl", "-c", "rcmpd.toml"]).code(0);
    let authority = Authority::of(demo);
    for (name, rid) in [("root", 500), ("dave", 1010)] {
        let upn = format!("{name}@contoso.example");
        let sid = Some(format!("{sid}-{rid}"));
        authority.issue(demo, name, &Wanted { common_name: name, upn: Some(&upn), sid, ..Wanted::default() });
    }
}

/// In a domain whose database has no privileged group, their well-known names lead to their SIDs ([MS-DTYP]
/// 2.4.2.4), and no group of another SID gets such a name.
#[test]
fn the_name_of_a_privileged_group_is_its_sid() {
    let demo = Demo::new();
    let sid = demo.domain_sid();
    let groups = |scope: &[&str]| set(&demo, "WEB01$", scope).code(0).json()["groups"].clone();
    assert_eq!(groups(&["--group", "domain admins"]), json!([format!("{sid}-512")]));
    let ends = ["-512", "-519"].map(|end| format!("{sid}{end}"));
    assert_eq!(
        groups(&["--group", "Domain Admins", "--group", "Enterprise Admins", "--group", "Administrators"]),
        json!([ends[0], ends[1], "S-1-5-32-544"])
    );
    for (name, known) in [
        ("Domain Admins", format!("{sid}-512; import it with that SID")),
        ("\u{ff24}omain Admins", format!("{sid}-512; import it with that SID")),
        // No database has a group of BUILTIN.
        ("backup operators", "S-1-5-32-551, which is in BUILTIN".to_owned()),
    ] {
        let of = |more: Value| {
            let mut line = json!({ "type": "group", "name": name });
            line.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            format!("{line}\n")
        };
        fs::write(demo.path("new.jsonl"), of(json!({}))).unwrap();
        fs::write(demo.path("other.jsonl"), of(json!({ "sid": format!("{sid}-1120") }))).unwrap();
        for command in [
            &["group", "add", name][..],
            &["group", "set", "Engineers", "--rename", name],
            &["import", "new.jsonl"],
            &["import", "new.jsonl", "--replace"],
            &["import", "other.jsonl"],
        ] {
            let done = demo.rcmpd(&[command, &["-c", "rcmpd.toml"]].concat()).code(1);
            assert!(
                done.stderr.contains(&format!("is the name of the privileged group {known}")),
                "{done:?}"
            );
            assert_eq!(done.stderr.contains("line 1: "), command[0] == "import", "{done:?}");
        }
    }
    for (group, expect) in [
        ("No Such Group", "there is no group No Such Group in "),
        ("S-1-5-21-1-2", "S-1-5-21-1-2 is not the SID of a group or an account"),
        (&sid, "is not the SID of a group or an account"),
    ] {
        let done = set(&demo, "WEB01$", &["--group", group]).code(1);
        assert!(done.stderr.contains(expect), "{done:?}");
    }
}

#[test]
fn a_machine_is_told_of_administrators_only_if_its_scope_names_them() {
    let demo = Demo::new();
    with_administrators(&demo);
    demo.configure("[audit]\npath = \"audit.log\"");
    let service = demo.serve();
    let sid = service.domain_sid();
    let (admins, administrator) = (format!("{sid}-512"), format!("{sid}-500"));
    let told = |who: &str| service.map(who).code == 0;
    let told_of = || ["alice", "dave", "root"].map(told);
    assert_eq!(told_of(), [true, false, false]);
    // What is seen of them is what is seen where there is no account: by our client, and by Impacket.
    let seen = |who: &str| {
        let done = service.map(who);
        (done.code, done.stdout, done.stderr)
    };
    assert_eq!(seen("dave"), seen("mallory"));
    assert_eq!(seen("root"), seen("mallory"));
    let questions: Vec<Value> =
        ["dave", "root", "mallory"].iter().map(|who| peers::question(&service, who)).collect();
    let done =
        impacket(&service, json!({ "domain": "CONTOSO", "account": "WEB01$", "questions": questions }));
    let answers = done["answers"].as_array().unwrap();
    assert_eq!(answers.len(), 3, "{done:#}");
    for answer in answers {
        assert_eq!(
            (&answer["status"], &answer["authoritative"]),
            (&json!("0xC000006D"), &json!(1)),
            "{answer}"
        );
        assert_eq!(answer["validation"], Value::Null);
    }
    // The operator sees which it was.
    let lines = audit_lines(&service);
    let refused: Vec<_> = lines.iter().filter(|line| line["reason"] == "out_of_scope").collect();
    assert!(refused.len() >= 4 && refused.iter().all(|line| line["account"].is_null()), "{refused:#?}");
    assert!(refused.iter().any(|line| line["trail"].to_string().contains("dave")), "{refused:#?}");
    assert!(service.metric("rcmpd_decisions_total{reason=\"out_of_scope\"}") >= 4);
    let noted = service.log().matches("Account out of scope").count();
    assert!((1..=3).contains(&noted), "once a minute: {noted}");
    // `explain` knows no asker, and says what a scope has to name.
    for (who, expect) in [("dave", Some(&admins)), ("root", Some(&administrator)), ("alice", None)] {
        let pem = format!("certs/{who}.pem");
        let done = service.rcmpd(&["explain", &pem, "-c", "rcmpd.toml"]).code(0);
        let line = done.stdout.lines().find(|line| line.starts_with("privileged: "));
        assert_eq!(line.is_some(), expect.is_some(), "{done:?}");
        if let (Some(line), Some(sid)) = (line, expect) {
            assert!(line.contains(&format!("rcmpd machine set NAME --group {sid} -c FILE")), "{line}");
        }
    }

    // A change counts at the next question.
    let cases: [(&[&str], [bool; 3]); 8] = [
        (&["--group", "Domain Admins"], [false, true, false]),
        (&["--group", "Domain Users", "--group", &admins], [true, true, false]),
        (&["--group", &administrator], [false, false, true]),
        (&["--group", "Web Team"], [true, false, false]),
        (&["--group", "Domain Users"], [true, false, false]),
        (&["--all-groups", "--domain", "contoso"], [true, false, false]),
        (
            &["--group", "Domain Users", "--group", "Domain Admins", "--group", &administrator],
            [true, true, true],
        ),
        (&["--all-groups", "--all-domains"], [true, false, false]),
    ];
    for (scope, expect) in cases {
        set(&service, "WEB01$", scope).code(0);
        assert_eq!(told_of(), expect, "{scope:?}");
    }
    // A member of a group in Domain Admins that leaves it is in scope.
    let leaves = ["group", "set", "Domain Admins", "--remove-member", "Operations", "-c", "rcmpd.toml"];
    service.rcmpd(&leaves).code(0);
    assert_eq!(told_of(), [true, true, false]);
}

#[test]
fn a_scope_is_shown_kept_and_refused_where_it_names_nothing() {
    let demo = Demo::new();
    let sid = demo.domain_sid();
    let shown = set(
        &demo,
        "WEB01$",
        &["--domain", "contoso", "--group", "Web Team", "--group", "S-1-5-21-7-8-9-512"],
    );
    let expect = (json!(["CONTOSO"]), json!([format!("{sid}-1102"), "S-1-5-21-7-8-9-512"]));
    let shown = shown.code(0).json();
    assert_eq!((&shown["domains"], &shown["groups"]), (&expect.0, &expect.1));
    let list = demo.rcmpd(&["machine", "list", "-c", "rcmpd.toml", "--json"]).code(0).json();
    assert_eq!((&list[0]["domains"], &list[0]["groups"]), (&expect.0, &expect.1));
    let text = demo.rcmpd(&["machine", "show", "WEB01$", "-c", "rcmpd.toml"]).code(0).stdout;
    assert!(text.contains("CONTOSO") && text.contains(&format!("{sid}-1102")), "{text}");
    let text = demo.rcmpd(&["machine", "list", "-c", "rcmpd.toml"]).code(0).stdout;
    assert!(text.contains("CONTOSO") && text.contains(&format!("{sid}-1102")), "{text}");
    // Something else that is set leaves it.
    set(&demo, "WEB01$", &["--disable"]).code(0);
    demo.rcmpd(&["export", "all.jsonl", "-c", "rcmpd.toml"]).code(0);
    set(&demo, "WEB01$", &["--all-domains", "--all-groups"]).code(0);
    let shown = demo.rcmpd(&["machine", "show", "WEB01$", "-c", "rcmpd.toml", "--json"]).code(0).json();
    assert_eq!((&shown["domains"], &shown["groups"]), (&json!([]), &json!([])));
    demo.rcmpd(&["import", "all.jsonl", "--replace", "-c", "rcmpd.toml"]).code(0);
    let shown = demo.rcmpd(&["machine", "show", "WEB01$", "-c", "rcmpd.toml", "--json"]).code(0).json();
    assert_eq!((&shown["domains"], &shown["groups"]), (&expect.0, &expect.1));

    for (scope, why) in [
        (&["--domain", "FABRIKAM"][..], "neither [domain] nor a [[peer]]"),
        (&["--domain", "contoso.example"], "give its NetBIOS name"),
        (&["--group", "Wep Team"], "no group Wep Team"),
    ] {
        let done = set(&demo, "WEB01$", scope).code(1);
        assert!(done.stderr.contains(why), "{done:?}");
    }
    set(&demo, "WEB01$", &["--all-groups", "--group", "Web Team"]).code(2);
    let add =
        ["machine", "add", "WEB02$", "--secret-file", "w2", "--domain", "CONTOSO", "--group", "Web Team"];
    let added = demo.rcmpd(&[&add[..], &["-c", "rcmpd.toml", "--json"]].concat()).code(0).json();
    assert_eq!((&added["domains"], &added["groups"]), (&json!(["CONTOSO"]), &json!([format!("{sid}-1102")])));
}

#[test]
fn a_scope_holds_over_two_services() {
    let c = Demo::new();
    with_administrators(&c);
    c.edit(|text| text.replace("\"127.0.0.1:0\"]", "\"127.0.0.3:0\"]"));
    let b = Demo::domain("FABRIKAM", "FABDC1", "127.0.0.2", &c);
    write_secret(b.path("contoso.secret"), c.add_trust("FABRIKAM"));
    c.configure(&format!(
        "{}direction = \"inbound\"\nkind = \"rcmpd\"\n[audit]\npath = \"audit.log\"",
        b.as_peer()
    ));
    let c = c.serve();
    b.configure(&format!(
        "{}direction = \"outbound\"\nkind = \"rcmpd\"\nservers = [\"{}\"]\nsecret = \"file:contoso.secret\"",
        c.as_peer(),
        c.netlogon
    ));
    let b = b.serve();
    let map = |who: &str| b.rcmpd(&["map", &c.certificate(who), "-c", "client.toml", "--json"]);
    let reason = |demo: &Demo| audit_lines(demo).pop().unwrap()["reason"].clone();
    map("alice").code(0);
    set(&b, "WEB01$", &["--domain", "FABRIKAM"]).code(0);
    let done = map("alice").code(3).json();
    assert_eq!(done["status"]["name"], "STATUS_LOGON_FAILURE", "{done:#}");
    assert_eq!(reason(&b), "out_of_scope");
    set(&b, "WEB01$", &["--domain", "FABRIKAM", "--domain", "CONTOSO"]).code(0);
    map("alice").code(0);

    // An administrator of CONTOSO: CONTOSO does not tell FABRIKAM, until the scope of its trust names the
    // group.
    map("dave").code(3);
    assert_eq!((reason(&b), reason(&c)), (json!("refused_elsewhere"), json!("out_of_scope")));
    let all = ["--group", "Domain Users", "--group", "Domain Admins"];
    set(&c, "FABRIKAM$", &all).code(0);
    map("alice").code(0);
    // And FABRIKAM does not tell its machine, until that one's scope does.
    map("dave").code(3);
    assert_eq!(reason(&b), "out_of_scope");
    let sid = c.domain_sid();
    let (users, admins) = (format!("{sid}-513"), format!("{sid}-512"));
    set(&b, "WEB01$", &["--group", &users, "--group", &admins]).code(0);
    assert_eq!(map("dave").code(0).json()["account"], "dave");
    map("alice").code(0);
    // Groups of the one domain are not those of the other.
    set(&b, "WEB01$", &["--group", &format!("{}-513", b.domain_sid())]).code(0);
    map("alice").code(3);
    assert_eq!(reason(&b), "out_of_scope");
}
