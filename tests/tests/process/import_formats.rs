//! `rcmpd import` of tables and of directories, as other programs write them.

use rcmpd_tests::Demo;
use rcmpd_tests::slapd::{BASE, GROUPS, PEOPLE, READER, SECRET, Slapd, entry};
use serde_json::Value;
use std::fs;
use std::process::{Command, Stdio};

fn import(demo: &Demo, arguments: &[&str]) -> rcmpd_tests::Finished {
    demo.rcmpd(&[&["import", "-c", "rcmpd.toml"], arguments].concat())
}

fn account(demo: &Demo, name: &str) -> Value {
    demo.rcmpd(&["account", "show", name, "--json", "-c", "rcmpd.toml"]).code(0).json()
}

fn groups(account: &Value) -> Vec<&str> {
    let groups = account["groups"].as_array().unwrap();
    groups.iter().map(|group| group["name"].as_str().unwrap()).collect()
}

/// Writes rows with the csv module of Python, in the dialect of Excel.
fn write_csv(demo: &Demo, name: &str, delimiter: &str, rows: &Value) {
    let script = "import csv, json, sys\n\
                  out = csv.writer(open(sys.argv[1], 'w', encoding='utf-8-sig', newline=''), delimiter=sys.argv[2])\n\
                  out.writerows(json.loads(sys.argv[3]))";
    let mut python = Command::new("python3");
    python.args(["-c", script]).arg(demo.path(name)).arg(delimiter).arg(rows.to_string());
    assert!(python.status().unwrap().success());
}

#[test]
fn a_table_is_imported_as_spreadsheets_write_it() {
    let demo = Demo::new();
    let rows = serde_json::json!([
        [
            "type",
            "name",
            "Full Name",
            "User Principal Name",
            "mail",
            "member_of",
            "alt_security_identities",
            "enabled"
        ],
        ["group", "Night Shift", "", "", "", "", "", ""],
        [
            "account",
            "anna",
            "Ahrens; \"Anna\", \u{c5}",
            "anna@contoso.example",
            "anna@contoso.example",
            "Engineers;Night Shift",
            "X509:<I>O=Contoso, CN=CA; 1<SR>01\nX509:<SKI>0a0b",
            "yes"
        ],
        ["account", "ben", "Ben\r\nBauer", "", "", "Night Shift", "", "no"],
    ]);
    for delimiter in [",", ";", "\t"] {
        write_csv(&demo, "users.csv", delimiter, &rows);
        let told = import(&demo, &["users.csv", "--replace"]).code(0);
        assert!(told.stdout.contains("Imported 2 accounts, 1 group and 0 machines"), "{told:?}");
    }
    let anna = account(&demo, "anna");
    assert_eq!(
        groups(&anna),
        ["Domain Users", "Engineers", "Web Team", "Wiki Editors", "Night Shift"],
        "{anna:#}"
    );
    let exported = {
        demo.rcmpd(&["export", "all.jsonl", "-c", "rcmpd.toml"]).code(0);
        fs::read_to_string(demo.path("all.jsonl")).unwrap()
    };
    let line = |name: &str| -> Value {
        let line = exported.lines().find(|line| line.contains(&format!("\"name\":\"{name}\""))).unwrap();
        serde_json::from_str(line).unwrap()
    };
    assert_eq!(line("anna")["profile"]["full_name"], "Ahrens; \"Anna\", \u{c5}");
    assert_eq!(line("anna")["alt_security_identities"][0], "X509:<I>O=Contoso, CN=CA; 1<SR>01");
    assert_eq!(line("anna")["alt_security_identities"][1], "X509:<SKI>0a0b");
    assert_eq!((line("anna")["flags"].as_u64(), line("ben")["flags"].as_u64()), (Some(512), Some(514)));

    // What is disabled here stays so, if that is wanted.
    demo.rcmpd(&["account", "set", "anna", "--disable", "-c", "rcmpd.toml"]).code(0);
    let is_disabled = || account(&demo, "anna")["flags"].as_u64().unwrap() & 2 != 0;
    let told = import(&demo, &["users.csv", "--replace", "--keep-disabled"]).code(0);
    assert!(told.stderr.contains("Stay disabled: 1 account: anna"), "{told:?}");
    assert!(is_disabled());
    let told = import(&demo, &["users.csv", "--replace"]).code(0);
    assert!(!told.stderr.contains("Stay disabled"), "{told:?}");
    assert!(!is_disabled());

    // An error names the line of the table, and nothing was changed.
    fs::write(demo.path("bad.csv"), "name,member_of\ncarla,Engineers\ndora,Enginers\n").unwrap();
    let told = import(&demo, &["bad.csv"]).code(1);
    assert!(told.stderr.contains("line 3") && told.stderr.contains("Enginers"), "{told:?}");
    demo.rcmpd(&["account", "show", "carla", "-c", "rcmpd.toml"]).code(1);
    fs::write(demo.path("bad.csv"), "name,nickname\ncarla,c\n").unwrap();
    let told = import(&demo, &["bad.csv"]).code(6);
    assert!(
        told.stderr.contains("bad.csv: nothing was imported: line 1: \"nickname\" is no column"),
        "{told:?}"
    );

    // Members are named by SID, too: this would be Domain Admins.
    let admins = format!("type,name,members\ngroup,{}-512,anna\n", demo.domain_sid());
    fs::write(demo.path("bad.csv"), admins).unwrap();
    let told = import(&demo, &["bad.csv", "--replace"]).code(1);
    assert!(told.stderr.contains("line 2") && told.stderr.contains("the name is a SID"), "{told:?}");

    // The last row says that the table is whole.
    let few = "type,name,entries\naccount,anna,\n";
    fs::write(demo.path("few.csv"), few).unwrap();
    let told = import(&demo, &["few.csv", "--replace", "--prune", "--prune-max", "100"]).code(6);
    assert!(told.stderr.contains("may be cut off"), "{told:?}");
    fs::write(demo.path("few.csv"), format!("{few}end,,1\n")).unwrap();
    let told = import(&demo, &["few.csv", "--replace", "--prune", "--prune-max", "100", "--dry-run"]).code(0);
    assert!(told.stderr.contains("Not in the file: 4 users"), "{told:?}");
}

#[test]
fn the_entries_of_openldap_are_imported_as_ldapsearch_prints_them() {
    let person = |uid: &str, cn: &str, more: &[(&str, &str)]| {
        let classes = ["inetOrgPerson", "mappedAccount"].map(|class| ("objectClass", class));
        let attributes = [&classes[..], &[("uid", uid), ("cn", cn), ("sn", uid)]].concat();
        entry(&format!("uid={uid},{PEOPLE}"), &[&attributes[..], more].concat())
    };
    let long = "X509:<I>O=Contoso,CN=Contoso CA with a name that is longer than a line of LDIF<SR>0102";
    let entries = [
        person("anna", "Anna \u{c5}hrens", &[("mail", "anna@contoso.example"), ("displayName", " Anna ")]),
        person("ben", "Ben", &[("altSecurityIdentities", long), ("nsAccountLock", "TRUE")]),
        entry(
            &format!("cn=Night Shift,{GROUPS}"),
            &[
                ("objectClass", "groupOfNames"),
                ("cn", "Night Shift"),
                ("member", &format!("uid=anna,{PEOPLE}")),
            ],
        ),
        entry(
            &format!("cn=Shifts,{GROUPS}"),
            &[
                ("objectClass", "groupOfNames"),
                ("cn", "Shifts"),
                ("member", &format!("cn=night shift, {GROUPS}")),
            ],
        ),
    ];
    let slapd = Slapd::start(&entries.concat());
    let demo = Demo::new();
    let search = |arguments: &[&str]| {
        let mut search = Command::new("ldapsearch");
        search.args([
            "-x",
            "-H",
            &format!("ldap://127.0.0.1:{}", slapd.ldap),
            "-D",
            READER,
            "-w",
            SECRET,
            "-b",
            BASE,
        ]);
        let arguments = [
            arguments,
            &["(objectClass=*)", "*", "+"][usize::from(arguments.iter().any(|it| it.starts_with('(')))..],
        ]
        .concat();
        let done = search.args(arguments).stdin(Stdio::null()).output();
        let done = done.unwrap();
        assert!(matches!(done.status.code(), Some(0 | 4)), "{}", String::from_utf8_lossy(&done.stderr));
        String::from_utf8(done.stdout).unwrap()
    };
    fs::write(demo.path("people.ldif"), search(&[])).unwrap();
    let told = import(&demo, &["people.ldif"]).code(0);
    assert!(told.stdout.contains("Imported 2 accounts, 2 groups and 0 machines"), "{told:?}");
    // The domain, two units, and the account that reads.
    assert!(told.stderr.contains("4 entries left out"), "{told:?}");
    let (anna, ben) = (account(&demo, "anna"), account(&demo, "ben"));
    assert_eq!(groups(&anna), ["Domain Users", "Night Shift", "Shifts"], "{anna:#}");
    assert_eq!(anna["profile"]["mail"], "anna@contoso.example", "{anna:#}");
    assert!(ben.to_string().contains(long) && ben["state"] == "disabled", "{ben:#}");

    // Without the groups' entries, or cut off by a limit, it is not whole.
    fs::write(demo.path("part.ldif"), search(&["-z", "3"])).unwrap();
    let told = import(&demo, &["part.ldif", "--replace"]).code(6);
    assert!(told.stderr.contains("the search ended with result \"4 Size limit exceeded\""), "{told:?}");
    fs::write(demo.path("groups.ldif"), search(&["(objectClass=groupOfNames)"])).unwrap();
    let told = import(&demo, &["groups.ldif", "--replace"]).code(6);
    assert!(told.stderr.contains("member: the file has no entry \"uid=anna,"), "{told:?}");

    // The result at the end says that the file is whole.
    let arguments = ["--format", "ldif", "--replace", "--prune", "--prune-max", "100", "--dry-run"];
    let told = import(&demo, &[&["people.ldif"], &arguments[..]].concat()).code(0);
    assert!(told.stderr.contains("Not in the file: 3 users"), "{told:?}");
    fs::write(demo.path("bare.ldif"), search(&["-LLL"])).unwrap();
    let told = import(&demo, &[&["bare.ldif"], &arguments[..]].concat()).code(6);
    assert!(told.stderr.contains("may be cut off"), "{told:?}");
}
