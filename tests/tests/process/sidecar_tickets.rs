//! Nodes of a farm that share ticket keys: each recognizes a session of the other, with its certificate and
//! for a short time.

use crate::sidecar::{Answer, ask_about};
use rcmpd_tests::openssl::{Authority, Responder};
use rcmpd_tests::{Demo, Service, eventually, write_secret};
use std::fs;
use std::time::{Duration, SystemTime};

/// `[sidecar]` of a node, with the lines of `[sidecar.ticket]`.
fn ticket(of: &Demo, generations: &[u32], more: &str) -> String {
    let keys: Vec<String> = generations.iter().map(|number| key(of, *number)).collect();
    format!(
        "timeout_s = 3\n[sidecar.ticket]\naudience = \"shop.example\"\nkeys = [{}]\n{more}",
        keys.join(", ")
    )
}

/// A reference to the key of a generation, which is made if it is not there.
fn key(of: &Demo, generation: u32) -> String {
    let name = format!("ticket-{generation}.key");
    if !of.path(&name).exists() {
        of.rcmpd(&["sidecar", "ticket-key", &name, "--generation", &generation.to_string()]).code(0);
    }
    format!("\"file:{}\"", of.path(&name).display())
}

fn node(of: &Service, sidecar: &str) -> Service {
    Demo::web(of, "", sidecar).serve_bare()
}

/// Whether a node sets a cookie in an answer, and as what.
fn set_cookie(answer: &Answer) -> Option<&str> {
    answer.headers.iter().find(|(name, _)| name == "set-cookie").map(|(_, value)| value.as_str())
}

/// The ticket of a session.
#[track_caller]
fn session(node: &Service, who: &str) -> String {
    let answer = ask_about(node, who, &[]);
    assert_eq!(answer.status, 200, "{}", node.log());
    set_cookie(&answer).expect("a cookie is set").split(';').next().unwrap().to_owned()
}

fn status(node: &Service, who: &str, cookie: &str) -> u16 {
    ask_about(node, who, &[("Cookie", cookie)]).status
}

#[test]
fn another_node_recognizes_a_session_while_its_server_is_down() {
    let mut service = Demo::new().serve();
    let farm = ticket(&service, &[1], "");
    let (first, second) = (node(&service, &farm), node(&service, &farm));
    let asked = ask_about(&first, "alice", &[]);
    let set = set_cookie(&asked).expect("a cookie is set").to_owned();
    assert!(set.starts_with("__Host-rcmpd=") && set.contains("; HttpOnly"), "{set}");
    let (alice, bob) = (set.split(';').next().unwrap(), session(&first, "bob"));
    assert_eq!(set_cookie(&ask_about(&first, "alice", &[("Cookie", alice)])), None, "she has it");
    assert_eq!(first.tickets("issued"), 2);
    service.kill();

    let recognized = ask_about(&second, "alice", &[("Cookie", &format!("theme=dark; {alice}"))]);
    assert_eq!(recognized.status, 200, "{}", second.log());
    for header in ["remote-user", "remote-groups", "x-identity-sid", "x-identity-strength", "x-identity-upn"]
    {
        assert_eq!(recognized.header(header), asked.header(header), "{header}");
    }
    assert_eq!(set_cookie(&recognized), None, "a ticket is not made from a ticket");
    assert_eq!(second.tickets("accepted"), 1);
    let audited = fs::read_to_string(second.path("web.log")).unwrap();
    let decision = recognized.header("x-identity-decision");
    let line = audited.lines().find(|line| line.contains(decision)).expect("the decision is audited");
    assert!(line.contains("\"by\":\"ticket\"") && line.contains("CONTOSO\\\\alice"), "{line}");

    // None of these is recognized, and the server that would be asked is down.
    assert_eq!(ask_about(&second, "alice", &[]).status, 500);
    for (who, cookie) in [
        ("bob", alice.to_owned()),
        ("mallory", alice.to_owned()),
        ("alice", bob.clone()),
        ("alice", format!("{alice}; {alice}")),
        ("alice", format!("{alice}x")),
        ("alice", alice.replace("__Host-rcmpd", "rcmpd")),
        ("alice", format!("__Host-rcmpd={}", "A".repeat(6000))),
    ] {
        // The ticket that counts is cached only with the certificate and the ticket itself.
        assert_eq!(status(&second, who, &cookie), 500, "{who}: {cookie}");
    }
    assert_eq!((second.tickets("certificate"), second.tickets("duplicate")), (3, 1));
    assert_eq!(status(&second, "alice", alice), 200, "she goes on");
    // Nothing of a ticket is logged.
    for node in [&first, &second] {
        let text = node.log() + &fs::read_to_string(node.path("web.log")).unwrap();
        assert!(!text.contains(&alice[20..60]), "{text}");
    }
}

#[test]
fn keys_are_replaced_with_an_overlap() {
    let mut service = Demo::new().serve();
    let first = node(&service, &ticket(&service, &[1], ""));
    let second = node(&service, &ticket(&service, &[1], ""));
    let old = session(&first, "alice");
    // Both nodes get the new key and seal with the old one, then with the new one.
    let both = ticket(&service, &[1, 2], "");
    let rewrite = |node: &Service, to: &str| {
        node.edit(|text| {
            let (before, rest) = text.split_once("timeout_s").unwrap();
            let (_, after) = rest.split_once("[[sidecar.listen]]").unwrap();
            format!("{before}{to}\n[[sidecar.listen]]{after}")
        });
        node.reload();
    };
    rewrite(&first, &format!("{both}\nseal_with = 1"));
    let overlap = session(&first, "alice");
    rewrite(&first, &both);
    let new = session(&first, "alice");
    service.kill();
    assert_eq!([&old, &overlap].map(|cookie| status(&second, "alice", cookie)), [200, 200]);
    assert_eq!(status(&second, "alice", &new), 500, "this node has not the new key");
    assert_eq!(second.tickets("generation"), 1);
    rewrite(&second, &both);
    assert_eq!([&old, &overlap, &new].map(|cookie| status(&second, "alice", cookie)), [200, 200, 200]);
    rewrite(&second, &ticket(&service, &[2], ""));
    assert_eq!([&old, &overlap, &new].map(|cookie| status(&second, "alice", cookie)), [500, 500, 200]);
    // Another policy ends what was made by the one before, on the node where it is in force.
    second.edit(|text| text.replace("timeout_s = 3", "timeout_s = 3\nmethods = [\"upn\"]"));
    second.reload();
    assert_eq!(status(&second, "alice", &new), 500);
    assert_eq!(second.tickets("policy"), 1);
    second.edit(|text| text.replace("methods = [\"upn\"]", ""));
    second.reload();
    assert_eq!(status(&second, "alice", &new), 200);
}

/// A disabled account ends where a node knows it, and within the lifetime of a ticket elsewhere.
#[test]
fn a_disabled_account_ends_within_the_lifetime() {
    let service = Demo::new().serve();
    let farm = format!("remember_s = 1\n{}", ticket(&service, &[1], "lifetime_s = 10"));
    let (first, second) = (node(&service, &farm), node(&service, &farm));
    let alice = session(&first, "alice");
    service.rcmpd(&["account", "set", "alice", "--disable", "-c", "rcmpd.toml"]).code(0);
    assert_eq!(status(&second, "alice", &alice), 200, "no node knows it yet");
    eventually("it is known at the first node", || ask_about(&first, "alice", &[]).status == 403);
    // The denial is cached for a second, and the ticket is no way around it after that.
    let answers = || (status(&first, "alice", &alice), status(&second, "alice", &alice));
    eventually("the ticket has ended", || {
        let (first, second) = answers();
        assert_eq!(first, 403, "this node was told");
        second == 403
    });
    assert_eq!(answers(), (403, 403));
    assert!(second.tickets("expired") > 0);
    // An account that is enabled again is asked about.
    service.rcmpd(&["account", "set", "alice", "--enable", "-c", "rcmpd.toml"]).code(0);
    eventually("she is back", || ask_about(&second, "alice", &[]).status == 200);
    assert_ne!(session(&second, "alice"), alice);
}

/// Two nodes of a farm that validate certificates by revocation, each with lists of its own; and the ticket
/// that the first one made for alice, which the second one accepted.
struct Revoking {
    service: Service,
    authority: Authority,
    first: Service,
    second: Service,
    alice: String,
}

impl Revoking {
    /// `settings` are those of the second node in `[mapping]` and for its CA. The server is asked about alice
    /// alone, and is down from then on.
    fn new(settings: impl Fn(&Authority, &Demo) -> (String, String)) -> Self {
        let mut service = Demo::new().serve();
        let authority = Authority::of(&service);
        let farm = format!("remember_s = 1\n{}", ticket(&service, &[1], ""));
        let node = |settings: &dyn Fn(&Authority, &Demo) -> (String, String)| {
            let demo = Demo::web(&service, "", &farm);
            let (mapping, of_ca) = settings(&authority, &demo);
            let mapping = format!("[mapping]\nvalidation = \"chain+crl\"\n{mapping}");
            demo.edit(|text| text.replace("[mapping]", &mapping));
            demo.configure(&format!("[[mapping.authority]]\ncertificate = \"certs/ca.pem\"\n{of_ca}"));
            demo.serve_bare()
        };
        let (first, second) = (node(&by_list), node(&settings));
        let alice = session(&first, "alice");
        service.kill();
        assert_eq!(status(&second, "alice", &alice), 200, "{}", second.log());
        assert_eq!(second.tickets("accepted"), 1);
        Self { service, authority, first, second, alice }
    }

    /// What the second node says, by the ticket.
    fn second(&self) -> u16 {
        status(&self.second, "alice", &self.alice)
    }

    /// The last decision that the second node audited.
    fn audited(&self) -> String {
        let lines = fs::read_to_string(self.second.path("web.log")).unwrap();
        lines.lines().last().expect("a decision is audited").to_owned()
    }
}

/// A list that revokes nothing yet.
fn by_list(authority: &Authority, demo: &Demo) -> (String, String) {
    authority.list(&demo.path("ca.crl"), &[]);
    ("crls = [\"ca.crl\"]\ncrl_refresh_s = 1".to_owned(), String::new())
}

#[test]
fn a_ticket_is_no_way_around_a_list_that_revokes_its_certificate() {
    let mut farm = Revoking::new(by_list);
    let list = farm.second.path("ca.crl");
    farm.authority.revoke(&farm.service.certificate("alice"), "keyCompromise");
    farm.authority.list(&list, &[]);
    eventually("the second node knows", || farm.second() == 403);
    assert_eq!(status(&farm.first, "alice", &farm.alice), 200, "the list of this node does not revoke it");
    // Not even while it is not known whether the certificate is revoked.
    let past = ["-crl_lastupdate", "20200101000000Z", "-crl_nextupdate", "20200201000000Z"];
    farm.second.kill();
    farm.authority.list(&list, &past);
    farm.second.start_again();
    assert_eq!(farm.second(), 500, "{}", farm.second.log());
    assert!(farm.audited().contains("\"by\":\"ticket\""), "{}", farm.audited());
    assert!(farm.audited().contains("revocation_unknown"), "{}", farm.audited());
}

#[test]
fn a_ticket_is_no_way_around_a_responder_that_revokes_its_certificate() {
    let responder = std::cell::RefCell::new(None::<Responder>);
    let farm = Revoking::new(|authority, demo| {
        authority.know(&demo.certificate("alice"));
        let started = responder.borrow_mut().insert(authority.respond()).address;
        (String::new(), format!("ocsp = \"http://{started}/\""))
    });
    let (responder, certificate) = (responder.into_inner().unwrap(), farm.service.certificate("alice"));
    farm.authority.revoke(&certificate, "keyCompromise");
    eventually("the responder knows", || farm.authority.ask(&responder, &certificate).contains("revoked"));
    // Its earlier answer is no longer known.
    farm.second.reload();
    assert_eq!(farm.second(), 403, "{}", farm.second.log());
    assert!(farm.audited().contains("\"by\":\"ticket\""), "{}", farm.audited());
    assert!(farm.audited().contains("revoked"), "{}", farm.audited());
}

/// The ticket counts where the CA is trusted, under the same name of the policy.
#[test]
fn a_ticket_ends_with_the_trust_in_the_ca() {
    let mut service = Demo::new().serve();
    let farm = ticket(&service, &[1], "");
    let (first, second) = (node(&service, &farm), node(&service, &farm));
    let alice = session(&first, "alice");
    service.kill();
    assert_eq!(status(&second, "alice", &alice), 200);
    let other = Authority::root(&second, "other", "/CN=Another CA");
    second.edit(|text| text.replace("certs/ca.pem", &other.certificate()));
    second.reload();
    assert_eq!(status(&second, "alice", &alice), 403, "{}", second.log());
    second.edit(|text| text.replace(&other.certificate(), "certs/ca.pem"));
    second.reload();
    assert_eq!(status(&second, "alice", &alice), 200);
}

/// A ticket ends with its certificate, however long the farm's tickets live.
#[test]
fn a_ticket_ends_with_its_certificate() {
    let service = Demo::new().serve();
    let authority = Authority::of(&service);
    let farm = format!("remember_s = 600\n{}", ticket(&service, &[1], "lifetime_s = 3600"));
    let nodes = [node(&service, &farm), node(&service, &farm)];
    let end = SystemTime::now() + Duration::from_secs(20);
    authority.issue_until(&service, "brief", end);
    for node in &nodes {
        fs::copy(service.certificate("brief"), node.certificate("brief")).unwrap();
    }
    let [first, second] = nodes;
    let brief = session(&first, "brief");
    assert_eq!(status(&second, "brief", &brief), 200, "{}", second.log());
    assert!(SystemTime::now() < end, "the machine is too slow for this test");
    eventually("the certificate has ended", || status(&second, "brief", &brief) == 403);
    assert_eq!(status(&first, "brief", &brief), 403);
    assert!(SystemTime::now() >= end);
}

/// The machine account of one node may be told of accounts that another node's may not be told of.
#[test]
fn nodes_with_machine_accounts_of_their_own_name_one_scope() {
    let mut service = Demo::new().serve();
    let (file, rcmp) = ("machines/WEB02.secret", ["--permission", "rcmp", "-c", "rcmpd.toml"]);
    service.rcmpd(&[&["machine", "add", "WEB02$", "--secret-file", file][..], &rcmp].concat()).code(0);
    let node_of = |account: &str, sidecar: &str| {
        let node = Demo::web(&service, "", sidecar);
        node.edit(|text| text.replace("WEB01$", account).replace("/WEB01.secret", "/WEB02.secret"));
        node.serve_bare()
    };
    let farm = ticket(&service, &[1], "");
    let [staff, admins] =
        ["staff", "admins"].map(|scope| ticket(&service, &[1], &format!("scope = \"{scope}\"")));
    let first = [node(&service, &farm), node(&service, &staff)];
    let second = [node_of("WEB02$", &farm), node_of("WEB02$", &staff), node_of("WEB02$", &admins)];
    let [unnamed, of_staff] = first.each_ref().map(|node| session(node, "alice"));
    service.kill();
    let expected = [(500, 500), (500, 200), (500, 500)];
    for (node, expected) in second.iter().zip(expected) {
        let found = (status(node, "alice", &unnamed), status(node, "alice", &of_staff));
        assert_eq!(found, expected, "{}", node.log());
    }
    assert_eq!(second.each_ref().map(|node| node.tickets("policy")), [2, 1, 2]);
}

#[test]
fn settings_of_tickets_are_checked() {
    let service = Demo::new().serve();
    let good = ticket(&service, &[1], "");
    let web = Demo::web(&service, "", &good);
    let text = fs::read_to_string(web.path("rcmpd.toml")).unwrap();
    web.rcmpd(&["check-config", "-c", "rcmpd.toml"]).code(0);
    let path = service.path("ticket-1.key").display().to_string();
    let key = fs::read_to_string(&path).unwrap();
    assert!(key.starts_with("rcmpd-ticket-root:1:"), "{key}");
    let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&path).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    write_secret(web.path("odd.key"), "rcmpd-ticket-root:0:AAAA\n");
    for (from, to, why) in [
        ("source = \"remote\"", "source = \"embedded\"", "tickets are for source = \"remote\""),
        ("audience = \"shop.example\"", "audience = \"a shop\"", "this is not the name of a farm"),
        ("audience", "scope = \"the staff\"\naudience", "this is not the name of a scope"),
        ("audience", "cookie = \"session\"\naudience", "prefix __Host-"),
        ("audience", "lifetime_s = 86400\naudience", "use 10 to 3600 seconds"),
        ("audience", "seal_with = 2\naudience", "none has the generation 2"),
        ("dialect = \"nginx\"", "dialect = \"caddy\"", "can set a cookie"),
        ("keys = [", "keys = [] #", "0 keys are configured"),
        ("keys = [", &format!("keys = [\"file:{path}\", "), "two roots have generation 1"),
        ("keys = [", "keys = [\"file:odd.key\", ", "rcmpd-ticket-root:GENERATION:KEY"),
        ("keys = [", "keys = [\"file:no.key\", ", "a key of [sidecar.ticket]"),
    ] {
        assert!(text.contains(from), "{from}");
        web.edit(|_| text.replacen(from, to, 1));
        let done = web.rcmpd(&["check-config", "-c", "rcmpd.toml"]).code(1);
        let said = format!("{}{}", done.stdout, done.stderr);
        assert!(said.contains(why), "{why}: {said}");
        assert!(!said.contains(key.trim()) && !said.contains(&key.trim()[22..]), "{said}");
    }
    // A key that every user can read is refused, and none is overwritten or printed.
    web.edit(|_| text.clone());
    fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    let done = web.rcmpd(&["serve", "-c", "rcmpd.toml"]).code(1);
    assert!(done.stderr.contains("ticket-1.key can be used by every user"), "{}", done.stderr);
    for file in ["ticket-1.key", "-"] {
        let done = service.rcmpd(&["sidecar", "ticket-key", file, "--generation", "1"]);
        assert!(done.code != 0 && done.stdout.is_empty(), "{done:?}");
    }
    assert_eq!(fs::read_to_string(&path).unwrap(), key);
}
