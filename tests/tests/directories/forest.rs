//! A global catalog: OpenLDAP with the names and mappings of several domains, and nothing else of their
//! accounts.

use super::{Opened, identity, ldaps, name, posix, settings, upn};
use account_store::{Domain, Matches, Query};
use dtyp::{Encode, Sid};
use rcmpd_tests::slapd::{Options, READER, SECRET, Slapd, entry, entry_of_bytes};
use rcmpd_tests::{Demo, write_secret};
use serde_json::json;
use store_ldap::{AdSettings, Schema, Servers, Settings};

/// Where no server is.
const NOWHERE: u16 = 9;

fn sid(text: &str) -> Sid {
    text.parse().expect("a SID")
}

/// A domain below dc=example: its own entry and that above its people.
fn domain_entry(label: &str, domain_sid: Sid) -> String {
    let bytes = domain_sid.to_bytes();
    let is = |class: &'static str| ("objectClass", class.as_bytes());
    let attributes = [is("domain"), is("securityPrincipal"), ("dc", label.as_bytes()), ("objectSid", &bytes)];
    entry_of_bytes(&format!("dc={label},dc=example"), &attributes)
}

fn user(domain: &str, domain_sid: Sid, rid: u32, name: &str, more: &[(&str, &str)]) -> String {
    let sid = domain_sid.with_rid(rid).expect("there is room").to_bytes();
    let mut attributes = vec![
        ("objectClass", "user".as_bytes()),
        ("cn", name.as_bytes()),
        ("sAMAccountName", name.as_bytes()),
    ];
    attributes.push(("objectSid", &sid));
    attributes.extend(more.iter().map(|(name, value)| (*name, value.as_bytes())));
    entry_of_bytes(&format!("cn={name},dc={domain},dc=example"), &attributes)
}

/// A catalog with these entries.
fn catalog(entries: &str) -> Slapd {
    Slapd::with(entries, &Options { suffix: "", ..Options::default() })
}

/// A store of the domain north.example, whose own servers cannot be reached.
fn store(catalog: &Slapd, north: Sid) -> Opened {
    Opened::of(Settings {
        domain: Domain { netbios: "NORTH".into(), dns: "north.example".into(), sid: north },
        servers: Servers::Listed(vec![ldaps(NOWHERE)]),
        catalog: vec![ldaps(catalog.ldaps)],
        schema: Schema::Ad(AdSettings { base: "DC=north,DC=example".to_owned() }),
        ..settings(catalog, posix())
    })
}

#[test]
fn the_catalog_names_the_domain_and_judges_uniqueness_over_the_forest() {
    let (north, south) = (sid("S-1-5-21-1-2-3"), sid("S-1-5-21-4-5-6"));
    let strong = |issuer: &str| format!("X509:<I>O=Contoso,CN={issuer}<SR>0504030201");
    let upn_of = |text: &'static str| [("userPrincipalName", text)];
    let entries = [
        domain_entry("north", north),
        domain_entry("south", south),
        user(
            "south",
            south,
            1100,
            "bob",
            &[("userPrincipalName", "bob@mail.example"), ("servicePrincipalName", "host/bob")],
        ),
        user("south", south, 1101, "twin1", &[("altSecurityIdentities", &strong("C\u{f4}ntoso CA"))]),
        user("north", north, 1101, "twin2", &[("altSecurityIdentities", &strong("Contoso CA"))]),
        user("north", north, 1102, "shared1", &upn_of("shared@mail.example")),
        user("south", south, 1102, "shared2", &upn_of("shared@mail.example")),
        user("north", north, 1103, "ours", &upn_of("ours@mail.example")),
        // The implicit name of carol belongs to her, in her own domain only.
        user("south", south, 1104, "carol", &[]),
        user("north", north, 1104, "thief", &upn_of("carol@south.example")),
        user("south", south, 1105, "other", &upn_of("carol@north.example")),
        user("north", north, 1107, "post", &[("mail", "post@mail.example")]),
        user("south", south, 1107, "post", &[("mail", "post@south.example")]),
        // A name that looks like the end of a distinguished name of ours.
        user("south", south, 1106, "a\\,dc=north", &upn_of("odd@mail.example")),
    ];
    let catalog = catalog(&entries.concat());
    let opened = store(&catalog, north);
    let home = |query: Query| {
        let record = opened.one(query);
        (record.account.home_domain.clone(), record.account.sid, record.memberships.len())
    };
    let of_south = |rid| (Some("south.example".to_owned()), south.with_rid(rid).expect("there is room"), 0);
    assert_eq!(home(upn("BOB@mail.example")), of_south(1100));
    assert_eq!(home(Query::ServicePrincipalName("HOST/bob".to_owned())), of_south(1100));
    assert_eq!(home(upn("carol@north.example")), of_south(1105));
    assert_eq!(home(upn("odd@mail.example")), of_south(1106));
    for query in [upn("shared@mail.example"), identity(&strong("Contoso CA")), upn("carol@south.example")] {
        let found = opened.find(query.clone()).expect("the catalog answers");
        assert!(matches!(&found, Matches::Many(names) if names.len() == 2), "{query:?}: {found:?}");
    }
    assert_eq!(opened.find(upn("nobody@mail.example")).expect("the catalog answers"), Matches::None);
    // An account of ours is read at a server of its own domain, and names are those of our domain alone.
    opened.fails(upn("ours@mail.example"), "store: connect");
    opened.fails(name("bob"), "store: connect");
    assert_eq!(opened.meter.accounts_elsewhere(), 4);
    // Whose an address is, is known without a server of the domain.
    let mail = |address: &str| home(Query::Mail(address.to_owned()));
    assert_eq!(mail("Post@mail.example"), (None, north.with_rid(1107).expect("there is room"), 0));
    assert_eq!(mail("post@south.example"), of_south(1107));
    assert_eq!(opened.meter.accounts_elsewhere(), 4, "an address names no account elsewhere");
}

#[test]
fn without_its_catalog_a_store_does_not_say_that_there_is_no_account() {
    let north = sid("S-1-5-21-1-2-3");
    let mut catalog = catalog(&domain_entry("north", north));
    let opened = store(&catalog, north);
    assert_eq!(opened.find(upn("nobody@mail.example")).expect("the catalog answers"), Matches::None);
    catalog.stop();
    opened.fails(upn("nobody@mail.example"), "store: con");
    // A server of one domain is no catalog.
    let slapd = Slapd::start("");
    store(&slapd, north).fails(upn("nobody@mail.example"), "is no global catalog");
    // Nor is the catalog of another forest.
    let other = self::catalog(&domain_entry("south", sid("S-1-5-21-4-5-6")));
    store(&other, north).fails(upn("nobody@mail.example"), "does not show the domain");
}

/// CONTOSO's own service answers for alice; the catalog says that she is CONTOSO's.
#[test]
fn an_account_of_another_domain_is_answered_by_that_domain() {
    let contoso = Demo::new();
    let northwind = Demo::domain("NORTHWIND", "NORDC1", "127.0.0.2", &contoso);
    write_secret(northwind.path("contoso.secret"), contoso.add_trust("NORTHWIND"));
    contoso.configure(&format!("{}direction = \"inbound\"\nkind = \"rcmpd\"\n", northwind.as_peer()));
    let (alice, bob) = (contoso.certificate("alice"), contoso.certificate("bob"));
    let mapping = |certificate: &str| {
        let strings = northwind.rcmpd(&["mapping", "strings", certificate, "--json"]).code(0).json();
        let forms = strings["forms"].as_array().expect("a list").clone();
        let serial = forms.into_iter().find(|form| form["form"] == "issuer-serial").expect("it has one");
        serial["value"].as_str().expect("text").to_owned()
    };
    let (own, theirs) = (sid(&northwind.domain_sid()), sid(&contoso.domain_sid()));
    let stranger = sid("S-1-5-21-7-8-9");
    let base = entry("dc=fabrikam,dc=example", &[("objectClass", "domain"), ("dc", "fabrikam")]);
    let entries = [
        domain_entry("northwind", own),
        user("contoso", theirs, 1104, "alice", &[("altSecurityIdentities", &mapping(&alice))]),
        base,
        user("fabrikam", stranger, 1104, "bob", &[("altSecurityIdentities", &mapping(&bob))]),
    ];
    let catalog = catalog(&entries.concat());
    let contoso = contoso.serve();
    write_secret(northwind.path("directory.secret"), format!("{SECRET}\n"));
    northwind.edit(|text| {
        let directory = format!(
            "kind = \"ldap\"\n[store.ldap]\nschema = \"ad\"\nservers = [\"ldaps://127.0.0.1:{NOWHERE}\"]\n\
             catalog = [\"ldaps://127.0.0.1:{}\"]\nca = [\"{}\"]\nbind_dn = \"{READER}\"\nsecret = \"file:directory.secret\"\n",
            catalog.ldaps,
            catalog.path("ca.pem").display()
        );
        let text = text.replace("kind = \"sqlite\"\npath = \"accounts.db\"\n", &directory);
        text.replace("[channels]\n", "[channels]\nstore = \"sqlite\"\npath = \"accounts.db\"\n")
    });
    northwind.configure(&format!(
        "{}direction = \"outbound\"\nkind = \"rcmpd\"\nservers = [\"{}\"]\nsecret = \"file:contoso.secret\"\n",
        contoso.as_peer(),
        contoso.netlogon
    ));
    let northwind = northwind.serve();
    let done = northwind.rcmpd(&["map", &alice, "-c", "client.toml", "--json"]).code(0).json();
    assert_eq!((&done["domain"], &done["account"]), (&json!("CONTOSO"), &json!("alice")), "{done:#}");
    // There is no way to fabrikam.example.
    let done = northwind.rcmpd(&["map", &bob, "-c", "client.toml", "--json"]).code(3).json();
    assert_eq!(done["status"]["name"], "STATUS_LOGON_FAILURE", "{done:#}");
    assert!(northwind.log().contains("home_not_served"), "{}", northwind.log());
    assert_eq!(northwind.metric("rcmpd_store_ldap_elsewhere_total"), 2);
}
