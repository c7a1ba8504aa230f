//! Whole files, and what each becomes.

use super::*;
use proptest::prelude::*;
use serde_json::{Value, json};
use std::io::Read;

fn converted(format: Format, text: &[u8]) -> Result<Vec<(usize, Value)>, String> {
    let mut input = text;
    let mut out = String::new();
    let mut converted = convert(format, &mut input).map_err(|error| error.to_string())?;
    converted.lines.read_to_string(&mut out).map_err(|error| error.to_string())?;
    let lines = out.lines().enumerate().filter(|(_, line)| !line.is_empty());
    Ok(lines.map(|(at, line)| (at + 1, serde_json::from_str(line).expect("it is JSON"))).collect())
}

fn csv(text: &str) -> Result<Vec<(usize, Value)>, String> {
    converted(Format::Csv, text.as_bytes())
}

fn ldif(text: &str) -> Result<Vec<(usize, Value)>, String> {
    converted(Format::Ldif, text.as_bytes())
}

fn one(found: Result<Vec<(usize, Value)>, String>) -> Value {
    let mut found = found.expect("it is good");
    assert_eq!(found.len(), 1, "{found:?}");
    found.remove(0).1
}

#[test]
fn a_file_is_known_by_its_name() {
    for (name, format) in [
        ("a.csv", Some(Format::Csv)),
        ("b.x/A.LDIF", Some(Format::Ldif)),
        ("csv", None),
        ("a.jsonl", None),
        ("-", None),
    ] {
        assert_eq!(Format::of_file(Path::new(name)), format, "{name}");
    }
}

#[test]
fn rows_have_the_fields_of_their_columns_and_their_line_numbers() {
    let text = "\u{feff}Type,Name,Full Name,user-principal-name,member_of,Enabled,expires,alt_security_identities\r\n\
                group,Engineers,,,,,,\r\n\
                ,,,,,,,\r\n\
                account,anna,\"Ahrens, Anna\",anna@contoso.example,Engineers; Night Shift;,no,2027-01-01,\"X509:<SKI>0a\nX509:<SKI>0b\"\r\n\
                ,ben,,,,yes,134000000000000000,\r\n";
    let found = csv(text).expect("it is good");
    assert_eq!(found.iter().map(|(line, _)| *line).collect::<Vec<_>>(), [2, 4, 6]);
    let found: Vec<Value> = found.into_iter().map(|(_, value)| value).collect();
    assert_eq!(found[0], json!({"type": "group", "name": "Engineers"}));
    assert_eq!(
        found[1],
        json!({
            "type": "account", "name": "anna", "profile": {"full_name": "Ahrens, Anna"},
            "user_principal_name": "anna@contoso.example", "member_of": ["Engineers", "Night Shift"],
            "flags": 514, "expires": "2027-01-01", "alt_security_identities": ["X509:<SKI>0a", "X509:<SKI>0b"],
        })
    );
    assert_eq!(
        found[2],
        json!({"type": "account", "name": "ben", "flags": 512, "expires": 134_000_000_000_000_000_u64})
    );
}

#[test]
fn columns_are_separated_as_spreadsheets_and_powershell_do_it() {
    let anna = json!({"type": "account", "name": "anna", "profile": {"mail": "a@b.example"}, "flags": 512});
    for text in [
        "SamAccountName,EmailAddress,Enabled\nanna,a@b.example,True\n",
        "name;mail;enabled\nanna;a@b.example;1",
        "name\tmail\tenabled\n\nanna\ta@b.example\tyes\n",
        "\"SamAccountName\",\"EmailAddress\",\"Enabled\"\r\n\"anna\",\"a@b.example\",\"True\"\r\n",
    ] {
        assert_eq!(one(csv(text)), anna, "{text}");
    }
    let lines = csv("\nname,mail\n\n\nanna,\"a\n\"\n\n ben ,").expect("it is good");
    assert_eq!(lines.iter().map(|(line, _)| *line).collect::<Vec<_>>(), [5, 8]);
    let quoted = "name;member_of\nanna;\"A;B\"\n";
    assert_eq!(one(csv(quoted)), json!({"type": "account", "name": "anna", "member_of": ["A", "B"]}));
    let computer = json!({"type": "account", "name": "PC1$", "flags": 4098});
    assert_eq!(one(csv("name,enabled\nPC1$,false\n")), computer);
    let machine =
        json!({"type": "machine", "name": "WEB$", "kind": "workstation", "enabled": true, "rcmp": true});
    assert_eq!(one(csv("type,name,kind,enabled,rcmp\nmachine,WEB$,workstation,1,1\n")), machine);
    assert_eq!(one(csv("type,name,entries\nend,,7\n")), json!({"type": "end", "entries": 7}));
}

#[test]
fn a_row_that_may_mean_something_else_is_refused_with_its_line() {
    for (text, why) in [
        ("", "line 1: the file is empty"),
        ("nome\nanna\n", "line 1: \"nome\" is no column"),
        ("mail\na@b.example\n", "line 1: no column is `name`"),
        ("name,SamAccountName\na,b\n", "line 1: two columns are `name`"),
        ("name,mail\nanna,a@b.example\nben\n", "line 3: there are 1 cells, and 2 columns"),
        ("name,mail\nanna,a,b\n", "line 2: there are 3 cells"),
        ("name,enabled\nanna,perhaps\n", "line 2: enabled: \"perhaps\" is neither true nor false"),
        ("name,flags\nanna,0x200\n", "line 2: flags: \"0x200\" is no number"),
        ("name,flags,enabled\nanna,514,yes\n", "line 2: both `enabled` and `flags`"),
    ] {
        let told = csv(text).expect_err(text);
        assert!(told.starts_with(why), "{text}: {told}");
    }
    let told = converted(Format::Csv, b"name\nanna\n\xff\n").expect_err("it is Latin-1");
    assert!(told.starts_with("line 3: name: this is no UTF-8"), "{told}");
    let told = converted(Format::Csv, b"n\0a\0m\0e\0\n").expect_err("it is UTF-16");
    assert!(told.starts_with("line 1: "), "{told}");
}

const GROUP: &str = "dn: CN=Staff,OU=groups,DC=contoso,DC=example\nobjectClass: group\nsAMAccountName: Staff\n\
                     groupType: -2147483646\nmember: cn=Alice\\, A., ou=people,dc=contoso,dc=example\n\n";
const ALICE: &str = "dn: CN=Alice\\, A.,OU=people,DC=contoso,DC=example\nobjectClass: top\nobjectClass: person\n\
                     objectClass: user\nsAMAccountName: alice\nuserAccountControl: 512\n";

#[test]
fn entries_of_active_directory_keep_sid_state_and_groups() {
    let sid = "AQUAAAAAAAUVAAAAAQAAAAIAAAADAAAATQQAAA==";
    let alice = format!(
        "{ALICE}objectSid:: {sid}\nuserPrincipalName: alice@\n contoso.example\nmemberOf: CN=Staff,OU=groups,DC=contoso,DC=example\n\
         accountExpires: 9223372036854775807\nwhenCreated: 20250102030405.0Z\npwdLastSet: 0\nmail: a@contoso.example\n\
         altSecurityIdentities: X509:<SKI>0a\naltSecurityIdentities: X509:<SKI>0b\nprimaryGroupID: 513\n\
         displayName:: QWxpY2UgxILhuZI=\nlogonHours:: AAAAAAAAAAAAAAAAAAAAAAAAAAAA\n"
    );
    let found = ldif(&format!("version: 1\n# the domain\n\n{GROUP}{alice}\nref: ldap://child/\n"))
        .expect("it is good");
    assert_eq!(
        found[0],
        (4, json!({"type": "group", "name": "Staff", "scope": "global", "members": ["S-1-5-21-1-2-3-1101"]}))
    );
    assert_eq!(
        found[1].1,
        json!({
            "type": "account", "name": "alice", "sid": "S-1-5-21-1-2-3-1101", "flags": 512,
            "user_principal_name": "alice@contoso.example", "member_of": ["Staff"], "primary_group_id": 513,
            "created": 133_802_606_450_000_000_u64, "logon_hours": "00".repeat(21),
            "alt_security_identities": ["X509:<SKI>0a", "X509:<SKI>0b"],
            "profile": {"full_name": "Alice \u{102}\u{1e52}", "mail": "a@contoso.example"},
        })
    );
    assert_eq!(found.len(), 2);
}

#[test]
fn what_is_no_account_and_no_security_group_is_left_out() {
    let text = format!(
        "{ALICE}memberOf: CN=News,DC=contoso,DC=example\n\n\
         dn: CN=News,DC=contoso,DC=example\nobjectClass: group\nsAMAccountName: News\ngroupType: 2\n\n\
         dn: CN=Users,CN=Builtin,DC=contoso,DC=example\nobjectClass: group\nsAMAccountName: Users\ngroupType: -2147483643\n\n\
         dn: CN=PARTNER$,DC=contoso,DC=example\nobjectClass: user\nsAMAccountName: PARTNER$\nuserAccountControl: 2080\n\n\
         dn: CN=Carla,DC=contoso,DC=example\nobjectClass: person\nobjectClass: contact\ncn: Carla\n\n\
         dn: DC=contoso,DC=example\nobjectClass: domain\n"
    );
    let mut input = text.as_bytes();
    assert_eq!(convert(Format::Ldif, &mut input).expect("it is good").left_out, 5);
    assert_eq!(one(ldif(&text)), json!({"type": "account", "name": "alice", "flags": 512}));
}

#[test]
fn a_lock_or_an_end_of_other_directories_is_not_lost() {
    let alice = "dn: uid=alice,dc=contoso,dc=example\nobjectClass: inetOrgPerson\nuid: alice\ncn: Alice\n\
                 createTimestamp: 20250102030405Z\n";
    let profile = json!({"full_name": "Alice"});
    for (line, more) in [
        ("nsAccountLock: TRUE", json!({"flags": 514})),
        ("nsAccountLock: false", json!({})),
        ("pwdAccountLockedTime: 000001010000Z", json!({"flags": 514})),
        // 2027-01-01, by `date -d @1798761600`.
        ("shadowExpire: 20819", json!({"expires": 134_432_352_000_000_000_u64})),
        ("shadowExpire: -1", json!({})),
        ("krbPrincipalExpiration: 20270101000000Z", json!({"expires": 134_432_352_000_000_000_u64})),
        ("pwdEndTime: 20280101000000Z\nshadowExpire: 20819", json!({"expires": 134_432_352_000_000_000_u64})),
    ] {
        let mut expected = json!({"type": "account", "name": "alice", "profile": profile});
        expected.as_object_mut().expect("it is one").extend(more.as_object().expect("it is one").clone());
        assert_eq!(one(ldif(&format!("{alice}{line}\n"))), expected, "{line}");
    }
}

#[test]
fn what_is_not_whole_or_not_known_is_refused_with_its_line() {
    let group = GROUP.trim_end();
    for (text, why) in [
        ("alice\n", "line 1: this is no line of LDIF"),
        ("cn: alice\n", "line 1: a record begins with its dn"),
        ("dn: cn=a\n", "line 1: objectClass is missing"),
        ("dn: cn=a\nchangetype: delete\n", "line 1: changetype \"delete\" is not read"),
        ("dn: cn=a\nobjectClass: user\nsAMAccountName: a\n", "line 1: userAccountControl is missing"),
        ("dn: cn=a\nobjectClass: person\nuid: a\n", "line 1: operational attributes are missing"),
        ("dn: cn=a\nobjectClass: group\nsAMAccountName: a\n", "line 1: groupType is missing"),
        ("dn: cn=a\njpegPhoto:< file:///etc/passwd\n", "line 2: jpegphoto: a value in another file"),
        ("dn:: ?\n", "line 1: dn: the value is no base64"),
        ("dn: cn=a\nmember;range=0-1499: cn=b\n", "line 1: member;range=0-1499: only a part"),
        (group, "line 1: member: the file has no entry \"cn=Alice\\\\, A., ou=people"),
        (&format!("{ALICE}\n{ALICE}"), "line 8: the entry \"CN=Alice"),
        (&format!("{ALICE}accountExpires: soon\n"), "line 1: accountexpires: \"soon\" is no FILETIME"),
        (&format!("{ALICE}whenCreated: 20250102\n"), "line 1: whenCreated: \"20250102\" is no time"),
        (&format!("{ALICE}objectSid: S-1\n"), "line 1: objectsid: a value is no SID"),
        (
            &format!("{ALICE}\nsearch: 2\nresult: 4 Size limit exceeded\n"),
            "line 8: the search ended with result",
        ),
        (&format!("{ALICE}\nsearch: 2\nresult: 0 Success\n\n{GROUP}"), "line 11: there is a record after"),
    ] {
        let told = ldif(text).expect_err(text);
        assert!(told.starts_with(why), "{text}: {told}");
    }
    let page = "search: 2\nresult: 0 Success\ncontrol: 1.2.840.113556.1.4.319 false MA0CAQAECA==\npagedresults: cookie=";
    let pages = ldif(&format!(
        "{ALICE}\n{page}CgAAAA==\n\ndn: cn=b\nobjectClass: person\nobjectClass: contact\n\n{page}\n"
    ));
    assert_eq!(pages.expect("it is good")[1].1, json!({"type": "end", "entries": 1}));
    let cut = ldif(&format!("{ALICE}\n{page}CgAAAA==\n")).expect("it is read");
    assert_eq!(cut.len(), 1, "the last page is not there: {cut:?}");
    let whole = ldif(&format!("{ALICE}\nsearch: 2\nresult: 0 Success\n")).expect("it is good");
    assert_eq!(whole[1], (8, json!({"type": "end", "entries": 1})));
    let long = format!("dn: {}\n", "a".repeat(1 << 20));
    assert!(ldif(&long).expect_err("it is long").starts_with("line 1: the line is longer"));
}

proptest! {
    #[test]
    fn no_file_panics(octets in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = converted(Format::Csv, &octets);
        let _ = converted(Format::Ldif, &octets);
    }

    #[test]
    fn no_text_of_ldif_panics(text in "(dn|cn|objectClass|member|uid|accountExpires|whenCreated)(:|::|:<)? ?[a-z=,0-9 \\\\]{0,9}\n( x)?(\n)?{0,20}") {
        let _ = converted(Format::Ldif, text.as_bytes());
    }
}
