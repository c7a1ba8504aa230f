//! Samba as an Active Directory domain controller.

use super::verify::reported;
use super::{Opened, identity, name, upn};
use account_store::{AccountFlags, Domain, GroupScope, Matches, Membership, Query, Record};
use rcmpd_tests::directory_store::settings_of;
use rcmpd_tests::peers::{SAMBA_PYTHON, SambaDc, impacket, impacket_python, run, script, with};
use rcmpd_tests::{Demo, Service, eventually_within, write_secret};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use store_ldap::{AdSettings, Schema, Server, Settings, TlsMode};
use zeroize::Zeroizing;

const SECRET: &str = "Directory-reader-1";
const PASSWORD: &str = "Alice-password-1";
/// groupType of global, local and universal security groups, and of a global distribution group.
const GLOBAL: i64 = -2_147_483_646;
const LOCAL: i64 = -2_147_483_644;
const UNIVERSAL: i64 = -2_147_483_640;
const DISTRIBUTION: i64 = 2;
/// STATUS_DS_BUSY.
const BUSY: &str = "0xC00002A5";
/// How long a decision may outlive a change.
const FRESH_S: u64 = 1;

/// Goes where the DC's addresses are, with this thread and all that it starts.
fn enter(dc: &SambaDc) {
    let namespace = std::fs::File::open(format!("/proc/{}/ns/net", dc.text("pid"))).expect("the DC runs");
    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).expect("run as root");
}

/// Makes users and groups, and gives their SIDs.
fn people(dc: &SambaDc, given: &Value) -> Value {
    let mut command = dc.beside(SAMBA_PYTHON);
    command.arg(script("samba_people.py")).arg(dc.text("folder")).arg(given.to_string());
    output(command)
}

fn output(mut command: std::process::Command) -> Value {
    let done = command.output().expect("it starts");
    let stderr = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{command:?}: {stderr}");
    serde_json::from_slice(&done.stdout).unwrap_or(Value::Null)
}

fn samba_tool(dc: &SambaDc, arguments: &[&str]) {
    let mut command = dc.beside("samba-tool");
    let folder = dc.text("folder");
    let database = format!("{folder}/private/sam.ldb");
    command.args(arguments).args(["-H", &database, "-s", &format!("{folder}/etc/smb.conf")]);
    let done = command.output().expect("samba-tool starts");
    assert!(done.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
}

/// The domain's people: alice is in groups of each kind.
fn fill(dc: &SambaDc, alice_s_mapping: &str) -> Value {
    let strong = |issuer: &str| format!("X509:<I>O=Contoso,CN={issuer}<SR>0504030201");
    let user = |attributes: Value| json!({ "password": PASSWORD, "attributes": attributes });
    people(
        dc,
        &json!({
            "users": {
                "rcmpd": { "password": SECRET },
                "alice": user(json!({ "altSecurityIdentities": [alice_s_mapping, "X509:<S>CN=Jos\u{e9}"], "displayName": ["Alice Adams"],
                                      "userPrincipalName": ["alice@contoso.com"], "servicePrincipalName": ["host/alice.fabrikam.example"] })),
                "bob": user(json!({})),
                "twin1": user(json!({ "altSecurityIdentities": [strong("C\u{f4}ntoso CA")] })),
                "twin2": user(json!({ "altSecurityIdentities": [strong("Contoso CA")] })),
            },
            "groups": {
                "Web Team": { "type": GLOBAL, "members": ["alice"] },
                "All Staff": { "type": UNIVERSAL, "members": ["Web Team"] },
                "Local Readers": { "type": LOCAL, "members": ["All Staff"] },
                "Newsletter": { "type": DISTRIBUTION, "members": ["alice"] },
                "Administrators": { "type": 0, "members": ["alice"] },
            },
        }),
    )
}

fn base(dc: &SambaDc) -> String {
    dc.text("dns").split('.').map(|label| format!("DC={label}")).collect::<Vec<_>>().join(",")
}

fn bind_dn(dc: &SambaDc) -> String {
    format!("CN=rcmpd,CN=Users,{}", base(dc))
}

fn ca(dc: &SambaDc) -> std::path::PathBuf {
    format!("{}/private/tls/ca.pem", dc.text("folder")).into()
}

fn settings(dc: &SambaDc, tls: TlsMode) -> Settings {
    let port = if tls == TlsMode::Ldaps { 636 } else { 389 };
    let domain = Domain {
        netbios: dc.text("netbios"),
        dns: dc.text("dns"),
        sid: dc.text("sid").parse().expect("a SID"),
    };
    let server = Server { host: dc.text("address"), port, tls };
    let schema = Schema::Ad(AdSettings { base: base(dc) });
    Settings {
        timeout: Duration::from_secs(30),
        fresh: Duration::from_secs(FRESH_S),
        ..settings_of(domain, server, &ca(dc), (bind_dn(dc), SECRET), schema)
    }
}

/// A certificate of the demo's CA for alice, which has no SID.
fn certificate(demo: &Demo) -> String {
    let folder = demo.path("certs");
    let run = |arguments: &[&str]| rcmpd_tests::openssl::openssl(&folder, arguments);
    run(&[
        "req",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
        "-subj",
        "/CN=alice of fabrikam",
        "-keyout",
        "dir.key",
        "-out",
        "dir.csr",
    ]);
    std::fs::write(folder.join("dir.cnf"), "extendedKeyUsage=clientAuth\n")
        .expect("the folder can be written");
    run(&[
        "x509",
        "-req",
        "-in",
        "dir.csr",
        "-CA",
        "ca.pem",
        "-CAkey",
        "ca.key",
        "-set_serial",
        "0x1122334455667788",
        "-days",
        "30",
        "-extfile",
        "dir.cnf",
        "-out",
        "dir.pem",
    ]);
    demo.certificate("dir")
}

/// The mapping of issuer and serial number of a certificate.
fn mapping(certificate: &str) -> String {
    let mut command = std::process::Command::new(rcmpd_tests::binary());
    command.args(["mapping", "strings", certificate]);
    let done = command.output().expect("it starts");
    let text = String::from_utf8_lossy(&done.stdout).into_owned();
    let at = text.lines().find_map(|line| {
        Some(line[line.find("X509:<I>")?..].trim().to_owned()).filter(|line| line.contains("<SR>"))
    });
    at.unwrap_or_else(|| panic!("{text}"))
}

/// The service of the DC's domain, over the DC's directory.
fn serve(dc: &SambaDc, demo: Demo) -> Service {
    let (dns, netbios, sid, address) =
        (dc.text("dns"), dc.text("netbios"), dc.text("sid"), dc.text("address"));
    write_secret(demo.path("directory.secret"), format!("{SECRET}\n"));
    let (ca, bind_dn, site) = (ca(dc), bind_dn(dc), dc.text("site"));
    let ca = ca.display();
    demo.edit(|_| {
        format!(
            r#"
[domain]
netbios = "{netbios}"
dns     = "{dns}"
sid     = "{sid}"
server  = "FABMAP1"
[rpc]
listen          = ["127.0.0.1:0"]
endpoint_mapper = "127.0.0.1:0"
[store]
kind = "ldap"
[store.ldap]
schema  = "ad"
discovery = "dns"
site    = "{site}"
dns     = ["{address}:53"]
ca      = ["{ca}"]
bind_dn = "{bind_dn}"
secret  = "file:directory.secret"
fresh_s = {FRESH_S}
# A right that is taken, and a bind that would fail, count soon.
age_max_s = 1
timeout_s = 20
[channels]
store = "sqlite"
path  = "fabrikam.db"
[mapping]
anchors = ["certs/ca.pem"]
[admin]
listen = "127.0.0.1:0"
[audit]
path = "audit.log"
"#
        )
    });
    demo.rcmpd(&["domain", "add", "-c", "rcmpd.toml"]).code(0);
    demo.rcmpd(&["check-config", "rcmpd.toml"]).code(0);
    let machine = ["machine", "add", "WEB01$", "--secret-file", "machines/WEB01.secret"];
    demo.rcmpd(&[&machine[..], &["--permission", "rcmp", "-c", "rcmpd.toml"]].concat()).code(0);
    demo.serve()
}

/// A copy of the directory, as Samba's ldbsearch prints it, in a database of ours: alice's groups there.
fn groups_of_a_copy(dc: &SambaDc) -> BTreeSet<String> {
    let mut search = dc.beside("ldbsearch");
    search.args(["-H", &format!("{}/private/sam.ldb", dc.text("folder")), "(objectSid=*)"]);
    let done = search.output().expect("ldbsearch starts");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let demo = Demo::new();
    std::fs::write(demo.path("domain.ldif"), done.stdout).expect("the folder can be written");
    let (dns, netbios, sid) = (dc.text("dns"), dc.text("netbios"), dc.text("sid"));
    demo.edit(|_| {
        format!(
            "[domain]\nnetbios = \"{netbios}\"\ndns = \"{dns}\"\nsid = \"{sid}\"\nserver = \"FABMAP1\"\n\
             [store]\nkind = \"sqlite\"\npath = \"copy.db\"\n[mapping]\nanchors = [\"certs/ca.pem\"]\n"
        )
    });
    demo.rcmpd(&["domain", "add", "-c", "rcmpd.toml"]).code(0);
    let told = demo.rcmpd(&["import", "domain.ldif", "--replace", "-c", "rcmpd.toml"]).code(0);
    assert!(told.stderr.contains("left out: not users, computers or security groups"), "{told:?}");
    let alice = demo.rcmpd(&["account", "show", "alice", "--json", "-c", "rcmpd.toml"]).code(0).json();
    assert_eq!(alice["user_principal_name"], "alice@contoso.com", "{alice:#}");
    let groups = alice["groups"].as_array().expect("a list");
    groups.iter().map(|group| group["sid"].as_str().expect("text").to_owned()).collect()
}

/// SIDs of the domain among those of a list.
fn of_domain(dc: &SambaDc, sids: impl IntoIterator<Item = String>) -> BTreeSet<String> {
    let prefix = format!("{}-", dc.text("sid"));
    sids.into_iter().filter(|sid| sid.starts_with(&prefix)).collect()
}

fn strings(list: &Value) -> Vec<String> {
    list.as_array().expect("a list").iter().map(|text| text.as_str().expect("text").to_owned()).collect()
}

/// Disables alice. No question that is asked later than the stated time after it is answered as before.
fn refused_in_time(dc: &SambaDc, service: &Service, ask: &impl Fn() -> Value) {
    let checked = service.rcmpd(&["check-config", "rcmpd.toml", "--json"]).code(0).json();
    let stated = Duration::from_secs(checked["refused_after"][0]["seconds"].as_u64().expect("a number"));
    let status = || ask()["status"].clone();
    assert_eq!(status(), "0x00000000");
    samba_tool(dc, &["user", "disable", "alice"]);
    let changed = Instant::now();
    loop {
        let asked = Instant::now();
        match status() {
            refused if refused == "0xC000006D" => break,
            before => {
                assert!(before == "0x00000000" && asked <= changed + stated, "{before} after {stated:?}")
            }
        }
    }
    samba_tool(dc, &["user", "enable", "alice"]);
    eventually_within(Duration::from_secs(30), "alice is mapped again", || status() == "0x00000000");
}

#[test]
fn impacket_gets_alices_pac_whose_groups_equal_the_controllers_own_reply() {
    let dc = SambaDc::start();
    enter(&dc);
    let demo = Demo::new();
    let certificate = certificate(&demo);
    let made = fill(&dc, &mapping(&certificate));
    let mut service = serve(&dc, demo);
    let ask_of = |service: &Service| {
        let given = json!({ "domain": dc.text("netbios"), "questions": [{ "certificate": certificate }] });
        let done = impacket(service, given);
        assert_eq!(done["error"], Value::Null, "{done:#}");
        done["answers"][0].clone()
    };
    let answer = ask_of(&service);
    assert_eq!(answer["status"], "0x00000000", "{answer:#}");
    let logon = &answer["pac"]["logon"];
    assert_eq!(logon["sid"], made["users"]["alice"], "{answer:#}");
    // What the DC itself says of her.
    let theirs = json!({ "user": "alice", "password": PASSWORD });
    let theirs = with(dc.target("WEB02$"), theirs);
    let theirs = run(std::process::Command::new(impacket_python()), "samba_logon.py", &theirs);
    assert_eq!(theirs["status"], "0x00000000", "{theirs:#}");
    let ours =
        ["groups", "extra", "resource"].iter().flat_map(|list| strings(&logon[list])).collect::<Vec<_>>();
    let expected = of_domain(&dc, strings(&theirs["sids"]));
    assert_eq!(of_domain(&dc, ours.clone()), expected, "{logon:#} {theirs:#}");
    let sid = |group: &str| made["groups"][group].as_str().expect("it was made").to_owned();
    for group in ["Web Team", "All Staff", "Local Readers"] {
        assert!(expected.contains(&sid(group)), "{group}");
    }
    assert_eq!(strings(&logon["resource"]), [sid("Local Readers")], "{logon:#}");
    assert!(
        !ours.contains(&sid("Newsletter")) && ours.iter().all(|sid| !sid.starts_with("S-1-5-32-")),
        "{ours:?}"
    );
    assert_eq!(groups_of_a_copy(&dc), expected);
    // Disabled there, refused here; also if a global catalog finds her, and her own domain decides.
    for with_catalog in [false, true] {
        if with_catalog {
            let catalog = format!("catalog = [\"ldaps://{}:3269\"]", dc.text("address"));
            service.edit(|text| text.replace("[store.ldap]\n", &format!("[store.ldap]\n{catalog}\n")));
            service.kill();
            service.start_again();
        }
        refused_in_time(&dc, &service, &|| ask_of(&service));
    }
    let ask = || ask_of(&service);
    assert_eq!(service.get("/ready").0, 200);
    let metrics = service.get("/metrics").1;
    for family in [
        "rcmpd_store_ldap_questions_total",
        "rcmpd_store_ldap_searches_total",
        "rcmpd_store_ldap_connections_total",
    ] {
        assert!(metrics.contains(family), "{family}");
    }
    let verify = |names: &[&str]| {
        reported(
            &service.rcmpd(&[&["store", "verify", "--json", "-c", "rcmpd.toml"], names].concat()).code(3),
        )
        .1
    };
    // The whole directory is read, and of all that the DC made, nothing but the twins is wrong.
    let found = verify(&["alice", "Administrator", "no-such"]);
    let [twins, unknown] = &found[..] else { panic!("{found:#?}") };
    let is_of_twins = twins.ends_with("twin1, twin2") || twins.ends_with("twin2, twin1");
    assert!(is_of_twins && twins.starts_with("store: ambiguous: altSecurityIdentities"), "{found:#?}");
    assert_eq!(unknown, "all: unknown: no store has an account with the name no-such");
    // What the store's account may not read is named, with the right that it needs.
    let readers = format!("CN=Pre-Windows 2000 Compatible Access,CN=Builtin,{}", base(&dc));
    let member = format!("CN=S-1-5-11,CN=ForeignSecurityPrincipals,{}", base(&dc));
    modify(&dc, &format!("dn: {readers}\nchangetype: modify\ndelete: member\nmember: {member}\n"));
    let found = verify(&["alice"]);
    let right = "it needs the right Read Account Restrictions";
    let of_all = found.iter().find(|text| text.contains(" more: userAccountControl is missing"));
    let of_alice = found.iter().find(|text| text.starts_with("store: unreadable: account alice: "));
    for text in [of_all, of_alice] {
        assert!(text.is_some_and(|text| text.ends_with(right)), "{found:#?}");
    }
    assert!(of_alice.is_some_and(|text| text.contains("userAccountControl of ")), "{found:#?}");
    // That is an error to those who ask, and so is an account of the store that is disabled: no refusal.
    let becomes = |what: &str, expected: &str| {
        // A bind that was refused is tried again after one minute and a half at most.
        eventually_within(Duration::from_secs(180), what, || {
            let status = ask()["status"].clone();
            assert!(status == "0x00000000" || status == BUSY, "{what}: {status}");
            status == expected
        });
    };
    becomes("what is not read is an error", BUSY);
    modify(&dc, &format!("dn: {readers}\nchangetype: modify\nadd: member\nmember: {member}\n"));
    becomes("alice is mapped again", "0x00000000");
    samba_tool(&dc, &["user", "disable", "rcmpd"]);
    becomes("the account of the store is disabled", BUSY);
    (0..5).for_each(|_| assert_eq!(ask()["status"], BUSY));
    let log = service.log();
    assert!(log.contains("store: data: ") && log.contains("store: bind: "), "{log}");
    samba_tool(&dc, &["user", "enable", "rcmpd"]);
    becomes("alice is mapped at the end", "0x00000000");
}

#[test]
fn accounts_are_found_by_each_query_and_twins_are_ambiguous() {
    let dc = SambaDc::start();
    enter(&dc);
    let issuer_serial = "X509:<I>O=Fabrikam,CN=CA<SR>8877665544332211";
    let made = fill(&dc, issuer_serial);
    let opened = Opened::of(settings(&dc, TlsMode::Ldaps));
    let alice = opened.one(name("ALICE"));
    assert_eq!(Value::from(alice.account.sid.to_string()), made["users"]["alice"]);
    assert_eq!((alice.account.profile.full_name.as_str(), alice.account.logon_hours), ("Alice Adams", None));
    assert!(
        alice.account.flags.contains(AccountFlags::NORMAL) && alice.account.created.to_unix() > 1_700_000_000
    );
    for query in [
        upn("Alice@Contoso.com"),
        Query::ServicePrincipalName("HOST/alice.fabrikam.example".to_owned()),
        identity(issuer_serial),
        identity("X509:<I>O=F\u{e4}brikam,CN=ca<SR>8877665544332211"),
        identity("X509:<S>CN=jose"),
        Query::Sid(alice.account.sid),
    ] {
        assert_eq!(opened.one(query), alice);
    }
    let scope = |group: &str| {
        let is_it = |membership: &&Membership| membership.name.as_deref() == Some(group);
        alice.memberships.iter().find(is_it).map(|membership| membership.scope)
    };
    for (group, expected) in [
        ("Domain Users", Some(GroupScope::Global)),
        ("Web Team", Some(GroupScope::Global)),
        ("All Staff", Some(GroupScope::Universal)),
        ("Local Readers", Some(GroupScope::Local)),
        ("Newsletter", None),
        ("Administrators", None),
    ] {
        assert_eq!(scope(group), expected, "{group}");
    }
    // Samba keeps accents apart, and cuts values at a NUL.
    for issuer in ["Contoso CA", "C\u{f4}ntoso CA"] {
        let twins = opened.find(identity(&format!("X509:<I>O=Contoso,CN={issuer}<SR>0504030201"))).unwrap();
        let Matches::Many(mut names) = twins else { panic!("{twins:?}") };
        names.sort();
        assert_eq!(names, ["twin1", "twin2"]);
    }
    assert_eq!(opened.find(upn("alice@contoso.com\0.evil.example")).unwrap(), Matches::None);
    assert_eq!(opened.find(name("nobody")).unwrap(), Matches::None);
    assert_eq!(
        opened.find(upn("alice@fabrikam.example")).unwrap(),
        Matches::None,
        "an implicit name is not looked up"
    );
    assert!(opened.one(name("nils")).account.flags.contains(AccountFlags::DISABLED));
    assert!(opened.one(name("olga")).account.expires.to_unix() < 2_000_000_000);
    assert_eq!(Opened::of(settings(&dc, TlsMode::StartTls)).one(name("alice")), alice);
    // Few requests for each look-up: candidates, tokenGroups, groups.
    let (questions, searches) = (opened.meter.questions(), opened.meter.requests());
    opened.one(name("alice"));
    assert_eq!((opened.meter.questions() - questions, opened.meter.requests() - searches), (1, 3));
    // The catalog finds her, and her own domain decides.
    let forest = Opened::of(with_catalog(&dc));
    for query in [upn("Alice@Contoso.com"), identity("X509:<S>CN=jose")] {
        assert_eq!(forest.one(query), alice);
    }
    let twins = identity("X509:<I>O=Contoso,CN=Contoso CA<SR>0504030201");
    assert!(matches!(forest.find(twins).unwrap(), Matches::Many(names) if names.len() == 2));
    assert_eq!(forest.find(upn("nobody@contoso.com")).unwrap(), Matches::None);
    let searches = forest.meter.requests();
    forest.one(upn("alice@contoso.com"));
    assert_eq!(forest.meter.requests() - searches, 4, "one of the catalog");
    let port_of_the_domain = Settings { catalog: vec![server(&dc, 636)], ..settings(&dc, TlsMode::Ldaps) };
    Opened::of(port_of_the_domain).fails(upn("alice@contoso.com"), "is no global catalog");
    every_spelling_is_found(&dc, &[&opened, &forest]);
    renames_under_load(&dc, &opened, &alice);
    locks_and_rights(&dc, &opened);
}

fn server(dc: &SambaDc, port: u16) -> Server {
    Server { host: dc.text("address"), port, tls: TlsMode::Ldaps }
}

fn with_catalog(dc: &SambaDc) -> Settings {
    Settings { catalog: vec![server(dc, 3269)], ..settings(dc, TlsMode::Ldaps) }
}

/// Pairs of a stored value and a question that are equal by Windows' comparison: Samba compares more
/// narrowly.
const SPELLINGS: [(&str, &str); 14] = [
    ("X509:<S>CN=Zo\u{eb} B", "X509:<S>CN=zoe b"),
    ("X509:<S>CN=noemi b", "X509:<S>CN=NOE\u{301}MI B"),
    ("X509:<S>CN=Ame\u{301}lie", "X509:<S>CN=\u{ff21}\u{ff2d}\u{ff25}\u{ff2c}\u{ff29}\u{ff25}"),
    ("X509:<I>O=F\u{f4}urth,CN=CA<SR>0504030299", "X509:<I>O=Fourth,CN=CA<SR>0504030299"),
    ("x509: <I>dc=COM, dc=Fifth <SR>0A0B00", "X509:<I>DC=com,DC=fifth<SR>0a0b"),
    ("X509:<S>CN=Sixth Smith<I>CN=CA", "X509:<I>CN=CA<S>CN=Sixth\u{a0}Smith"),
    ("X509:<S>CN=\u{3072}\u{3089}", "X509:<S>CN=\u{ff8b}\u{ff97}"),
    (r#"X509:<I>O="Seventh, Ltd.",CN=a<S>CN=b"#, r#"X509:<I>O="seventh, ltd.",CN=A<S>CN=B"#),
    (r#"X509:<S>CN="say ""eight""""#, r#"X509:<S>CN="SAY ""EIGHT""""#),
    ("X509:<S>CN=a + OU=ninth,O=x", "X509:<S>OU=NINTH+CN=A,O=X"),
    ("X509:<S>Phone=49 30 10,CN=a", "X509:<S>OID.2.5.4.20=49 30 10,CN=a"),
    ("X509:<S>S=Bavaria,E=eleven@b.c", "X509:<S>ST=Bavaria,emailAddress=ELEVEN@B.C"),
    ("X509:<RFC822>m\u{fc}ller12@contoso.com", "X509:<RFC822>muller12@contoso.com"),
    ("X509:<SKI>0B6993F12D", "X509:<SKI>0b6993f12d"),
];

/// The directory finds, our comparison decides.
fn every_spelling_is_found(dc: &SambaDc, stores: &[&Opened]) {
    let user = |at: usize, attributes: Value| {
        (format!("spelling{at}"), json!({ "password": PASSWORD, "attributes": attributes }))
    };
    let mut users: serde_json::Map<_, _> = SPELLINGS
        .iter()
        .enumerate()
        .map(|(at, (stored, _))| user(at, json!({ "altSecurityIdentities": [stored] })))
        .collect();
    users.extend([
        user(90, json!({ "userPrincipalName": ["Ren\u{e9}@contoso.com"] })),
        user(91, json!({ "userPrincipalName": ["Jose\u{301}@contoso.com"] })),
        user(92, json!({ "servicePrincipalName": ["host/\u{e9}tienne.example"] })),
    ]);
    people(dc, &json!({ "users": users, "groups": {} }));
    for store in stores {
        let found = |query: Query| match store.find(query.clone()).unwrap() {
            Matches::One(record) => Some(record.account.name.clone()),
            Matches::None => None,
            many @ Matches::Many(_) => panic!("{query:?}: {many:?}"),
        };
        for (at, (stored, asked)) in SPELLINGS.iter().enumerate() {
            for text in [stored, asked] {
                assert_eq!(found(identity(text)), Some(format!("spelling{at}")), "{stored} by {text}");
            }
        }
        for (query, expected) in [
            (upn("REN\u{c9}@contoso.com"), Some("spelling90")),
            (upn("rene\u{301}@contoso.com"), Some("spelling90")),
            (upn("rene@contoso.com"), None),
            (upn("JOS\u{c9}@contoso.com"), Some("spelling91")),
            (upn("jose@contoso.com"), None),
            (Query::ServicePrincipalName("HOST/\u{c9}tienne.example".to_owned()), Some("spelling92")),
            (Query::ServicePrincipalName("host/etienne.example".to_owned()), None),
            (identity("X509:<S>CN=Zoe C"), None),
            (identity("X509:<S>Phone=49 30 11,CN=a"), None),
        ] {
            assert_eq!(found(query.clone()).as_deref(), expected, "{query:?}");
        }
    }
}

/// alice is renamed and moved all the time, and stays herself.
fn renames_under_load(dc: &SambaDc, opened: &Opened, alice: &Record) {
    let mut command = dc.beside(SAMBA_PYTHON);
    let folder = dc.text("folder");
    let script = "
import sys
from samba.auth import system_session
from samba.param import LoadParm
from samba.samdb import SamDB
folder, count = sys.argv[1], int(sys.argv[2])
loaded = LoadParm()
loaded.load(folder + '/etc/smb.conf')
sam = SamDB(url=folder + '/private/sam.ldb', session_info=system_session(loaded), lp=loaded)
base = sam.domain_dn()
sam.create_ou('OU=elsewhere,' + base)
for number in range(count):
    now = sam.search(base, expression='(sAMAccountName=alice)', attrs=['cn'])[0].dn
    sam.rename(now, f'CN=alice {number},' + ('OU=elsewhere,' if number % 2 else 'CN=Users,') + base)
";
    command.args(["-c", script, &folder, "1000"]);
    let mut moving = command.spawn().expect("Python starts");
    let has_moved = AtomicBool::new(false);
    let moved = std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while !has_moved.load(Ordering::Relaxed) {
                    assert_eq!(*opened.one(upn("alice@contoso.com")), *alice);
                }
            });
        }
        let moved = moving.wait().expect("it ends");
        has_moved.store(true, Ordering::Relaxed);
        moved
    });
    assert!(moved.success());
}

/// A lock that ends by itself, and attributes that the store may not read.
fn locks_and_rights(dc: &SambaDc, opened: &Opened) {
    let policy = [
        "domain",
        "passwordsettings",
        "set",
        "--account-lockout-threshold=2",
        "--account-lockout-duration=1",
    ];
    samba_tool(dc, &[&policy[..], &["--reset-account-lockout-after=1"]].concat());
    let wrong = || {
        let given = with(dc.target("WEB03$"), json!({ "user": "bob", "password": "wrong" }));
        run(std::process::Command::new(impacket_python()), "samba_logon.py", &given);
    };
    (0..3).for_each(|_| wrong());
    let is_locked = || opened.one(name("bob")).account.flags.contains(AccountFlags::LOCKED);
    assert!(is_locked(), "bob is locked");
    eventually_within(Duration::from_secs(180), "the lock ends without a change", || !is_locked());
    // A wrong secret, however often it is asked for, does not lock the store's own account.
    let secret = Arc::new(Mutex::new("wrong"));
    let mut wrong = settings(dc, TlsMode::Ldaps);
    let read = Arc::clone(&secret);
    wrong.secrets = Arc::new(move || Ok(vec![Zeroizing::new((*read.lock().expect("whole")).to_owned())]));
    // Nor do stores after it, as of a reload, or beside it.
    (0..4).for_each(|_| Opened::of(wrong.clone()).fails(name("bob"), "store: bind: "));
    let wrong = Opened::of(wrong);
    (0..50).for_each(|_| wrong.fails(name("bob"), "store: bind: "));
    // The right one is used by the store that runs.
    *secret.lock().expect("whole") = SECRET;
    eventually_within(Duration::from_secs(60), "the right secret is used", || {
        wrong.find(name("bob")).is_ok()
    });
    let again = || Opened::of(settings(dc, TlsMode::Ldaps));
    again().one(name("bob"));
    // What its account may not read is no permission: nils is disabled.
    assert!(again().one(name("nils")).account.flags.contains(AccountFlags::DISABLED));
    let readers = format!("CN=Pre-Windows 2000 Compatible Access,CN=Builtin,{}", base(dc));
    let member = format!("CN=S-1-5-11,CN=ForeignSecurityPrincipals,{}", base(dc));
    modify(dc, &format!("dn: {readers}\nchangetype: modify\ndelete: member\nmember: {member}\n"));
    let opened = again();
    opened.fails(name("nils"), "store: data: ");
    opened.fails(name("bob"), "may not be read by the store's account");
    modify(dc, &format!("dn: {readers}\nchangetype: modify\nadd: member\nmember: {member}\n"));
    samba_tool(dc, &["user", "disable", "rcmpd"]);
    again().fails(name("bob"), "store: bind: ");
    samba_tool(dc, &["user", "enable", "rcmpd"]);
    again().one(name("bob"));
    // The year 2019.
    let expires = |at: &str| {
        format!("dn: {}\nchangetype: modify\nreplace: accountExpires\naccountExpires: {at}\n", bind_dn(dc))
    };
    modify(dc, &expires("132000000000000000"));
    again().fails(name("bob"), "the account has expired");
    modify(dc, &expires("0"));
    again().one(name("bob"));
}

/// Changes an entry of the DC's database.
fn modify(dc: &SambaDc, ldif: &str) {
    let folder = dc.text("folder");
    let file = format!("{folder}/change.ldif");
    std::fs::write(&file, ldif).expect("the folder can be written");
    let mut command = dc.beside("ldbmodify");
    command.args(["-H", &format!("{folder}/private/sam.ldb"), &file]);
    let done = command.output().expect("ldbmodify starts");
    assert!(done.status.success(), "{ldif}: {}", String::from_utf8_lossy(&done.stderr));
}
