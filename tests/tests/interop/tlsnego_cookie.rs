//! Nodes of a farm whose sessions are in cookies, called by a client that shares no code with them.

use crate::tlsnego::{BAD_TOKEN, alice, settings, start_client, step};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rcmpd_tests::peers::with;
use rcmpd_tests::ports::free_port;
use rcmpd_tests::soap::Echo;
use rcmpd_tests::{Demo, Service, eventually, write_secret};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdout, Command};
use ticket::{Name, Root, Roots, open_state, seal_state};

/// A client that keeps its session, and does what it is told.
pub(crate) struct Client {
    child: Child,
    answers: BufReader<ChildStdout>,
    opened: Vec<Value>,
}

impl Client {
    /// Opens a session, and calls once.
    pub(crate) fn start(service: &Service, more: Value) -> Self {
        let more = with(json!({ "commands": true, "calls": 1 }), more);
        let settings = settings(service, with(alice(service), more));
        let mut child = start_client();
        let answers = BufReader::new(child.stdout.take().expect("piped"));
        let mut client = Self { child, answers, opened: Vec::new() };
        client.send(&settings);
        let steps = if settings["binding"] == "call" { 2 } else { 3 };
        for _ in 0..steps {
            let answer = client.answer();
            client.opened.push(answer);
        }
        let called = client.opened.last().expect("a call");
        assert!(called["fields"].is_object(), "{:?}", client.opened);
        client
    }

    fn send(&mut self, value: &Value) {
        writeln!(self.child.stdin.as_mut().expect("piped"), "{value}").expect("it reads");
    }

    fn answer(&mut self) -> Value {
        let mut line = String::new();
        self.answers.read_line(&mut line).expect("it writes");
        serde_json::from_str(&line).expect("JSON")
    }

    pub(crate) fn ask(&mut self, command: Value) -> Value {
        self.send(&command);
        self.answer()
    }

    fn call(&mut self, at: &Service) -> Value {
        self.ask(json!({ "do": "call", "url": url(at) }))
    }

    /// Calls, and returns what the service behind the gateway saw.
    #[track_caller]
    pub(crate) fn calls(&mut self, at: &Service) -> Value {
        let answer = self.call(at);
        assert!(answer["fields"].is_object(), "{answer} {}", at.log());
        answer["fields"].clone()
    }

    /// Calls, and expects the fault of a token that is not served.
    #[track_caller]
    pub(crate) fn is_refused(&mut self, at: &Service) {
        let answer = self.call(at);
        assert_eq!(answer["error"], BAD_TOKEN, "{}", at.log());
    }

    pub(crate) fn name(&self) -> String {
        let name = step(&self.opened, "establish")["name"].as_str();
        name.expect("a name").to_owned()
    }

    fn token(&mut self) -> Value {
        self.ask(json!({ "do": "token" }))
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) fn url(service: &Service) -> String {
    format!("http://{}/service", service.gateway())
}

pub(crate) const BAD_SECURITY: &str = "{http://docs.oasis-open.org/wss/2004/01/oasis-200401-wss-wssecurity-secext-1.0.xsd}InvalidSecurity 500 http://www.w3.org/2005/08/addressing/soap/fault";

/// Makes a key of tickets in the folder of a demo.
fn make_root(demo: &Demo, name: &str, generation: u32) {
    demo.rcmpd(&["sidecar", "ticket-key", name, "--generation", &generation.to_string()]).code(0);
}

/// The first node of a farm that is not served yet. `more` is added to `[tlsnego]`.
fn first(echo: &Echo, more: &str) -> Demo {
    let demo = Demo::with_gateway(echo.address, more);
    make_root(&demo, "farm-1.key", 1);
    let folder = demo.path("");
    let folder = folder.display();
    // The other nodes have the accounts of this one.
    demo.edit(|text| {
        text.replacen("path = \"accounts.db\"", &format!("path = \"{folder}/accounts.db\""), 1).replacen(
            "key   = \"accounts.key\"",
            &format!("key   = \"{folder}/accounts.key\""),
            1,
        )
    });
    demo.configure(&format!(
        "[tlsnego.cookie]\nkeys = [\"file:farm-1.key\"]\naudience = \"orders\"\nstore = \"{folder}/sessions.db\"\n"
    ));
    demo
}

/// Another node of the same farm, on the same machine.
fn another(first: &Demo) -> Demo {
    let (demo, port) = (first.copied(), free_port());
    let listens = |port| format!("listen      = \"{port}\"");
    demo.edit(|text| text.replacen(&listens(first.gateway()), &listens(port), 1));
    demo
}

/// Two nodes of a farm.
fn farm(echo: &Echo, more: &str) -> (Service, Service) {
    let one = first(echo, more);
    let two = another(&one);
    (one.serve(), two.serve())
}

fn session(service: &Service, arguments: &[&str], code: i32) -> rcmpd_tests::Finished {
    let arguments = [&["tlsnego", "session"], arguments, &["-c", "rcmpd.toml", "--json"]].concat();
    service.rcmpd(&arguments).code(code)
}

/// Gives the admin port of a demo a number, so that commands find it.
fn with_admin(demo: &Demo) {
    let admin = free_port();
    demo.edit(|text| {
        let (before, after) = text.split_once("[admin]").expect("there is an admin port");
        format!("{before}[admin]{}", after.replacen("127.0.0.1:0", &admin.to_string(), 1))
    });
}

#[test]
fn session_goes_on_after_a_restart_of_its_gateway() {
    let echo = Echo::start();
    let mut service = first(&echo, "").serve();
    let mut client = Client::start(&service, json!({}));
    let before = client.calls(&service);
    service.kill();
    service.start_again();
    let after = client.calls(&service);
    for field in ["Remote-User", "X-Session-Name", "X-Session-Kind", "X-Session-Instance"] {
        assert_eq!(after[field], before[field], "{after}");
    }
    assert_eq!(after["X-Session-Name"], client.name());
    assert_eq!(service.audit("session_opened").len(), 1);
    // A message from before the restart is a replay after it, and a cancelled session stays cancelled.
    assert_eq!(client.ask(json!({ "do": "replay" }))["error"], BAD_SECURITY);
    assert!(client.ask(json!({ "do": "cancel" }))["action"].is_string());
    service.kill();
    service.start_again();
    client.is_refused(&service);
    // So does a token that calls without a session.
    let mut client = Client::start(&service, json!({ "binding": "call" }));
    service.kill();
    service.start_again();
    assert_eq!(client.calls(&service)["X-Session-Kind"], "negotiated");
}

#[test]
fn session_of_one_node_is_used_renewed_and_cancelled_at_another() {
    let echo = Echo::start();
    let (one, two) = farm(&echo, "");
    let mut client = Client::start(&one, json!({}));
    let name = client.name();
    let first = client.calls(&two);
    assert_eq!(
        (&first["X-Session-Name"], &first["Remote-User"], &first["X-Session-Instance"]),
        (&json!(name), &json!("CONTOSO\\alice"), &json!(""))
    );
    let before = client.token();
    let renewed = client.ask(json!({ "do": "renew", "url": url(&two) }));
    assert_eq!(renewed["name"], name, "{renewed} {}", two.log());
    let after = client.token();
    assert_ne!((&before["cookie"], &before["instance"]), (&after["cookie"], &after["instance"]));
    for node in [&one, &two] {
        let fields = client.calls(node);
        assert_eq!(fields["X-Session-Name"], name);
        assert_eq!(fields["X-Session-Instance"], renewed["instance"]);
        assert_eq!(fields["Remote-User"], "CONTOSO\\alice");
    }
    // Renew keeps the total lifetime: the audit lines of both nodes have the same end.
    let (opened, again) = (one.audit("session_opened"), two.audit("session_renewed"));
    assert_eq!((opened.len(), again.len()), (1, 1));
    for field in ["name", "since", "until", "account_sid", "credential", "cookie"] {
        assert_eq!(opened[0][field], again[0][field], "{field}");
    }
    assert_eq!(opened[0]["cookie"], true);
    // A message counts once in the farm.
    client.calls(&one);
    assert_eq!(client.ask(json!({ "do": "replay", "url": url(&two) }))["error"], BAD_SECURITY);
    assert!(two.log().contains("reason=\"replay\""), "{}", two.log());
    let cancelled = client.ask(json!({ "do": "cancel", "url": url(&two) }));
    assert!(cancelled["action"].is_string(), "{cancelled}");
    client.is_refused(&one);
    client.is_refused(&two);
    assert_eq!(two.audit("session_ended")[0]["reason"], "cancelled");
    assert!(one.metric("rcmpd_tlsnego_ended_entries") >= 2, "the renewed key, and the session");
    assert_eq!(one.metric("rcmpd_tlsnego_ended_entries"), two.metric("rcmpd_tlsnego_ended_entries"));
    assert!(one.metric("rcmpd_tlsnego_replay_entries") >= 6);
}

#[test]
fn account_is_judged_anew_at_each_node() {
    let echo = Echo::start();
    let (one, two) = farm(&echo, "");
    let set = |arguments: &[&str]| {
        one.rcmpd(&[&["account", "set"], arguments, &["-c", "rcmpd.toml"]].concat()).code(0);
    };
    let mut client = Client::start(&one, json!({}));
    client.calls(&two);
    set(&["alice", "--disable"]);
    let refused = client.call(&two);
    assert!(refused["fields"].get("X-Session-Name").is_none(), "{refused}");
    // The session ends with that, on each node.
    set(&["alice", "--enable"]);
    client.is_refused(&one);
    client.is_refused(&two);
    eventually("the audit log names its end", || {
        two.audit("session_ended").iter().any(|line| line["reason"] == "account")
    });
    let mut client = Client::start(&one, json!({}));
    write_secret(one.path("new.password"), "another password\n");
    set(&["alice", "--password-file", "new.password"]);
    let refused = client.call(&two);
    assert!(refused["fields"].get("X-Session-Name").is_none(), "{refused}");
    client.is_refused(&one);
}

#[test]
fn three_bad_messages_on_any_nodes_end_a_session() {
    let echo = Echo::start();
    let (one, two) = farm(&echo, "");
    let mut client = Client::start(&one, json!({}));
    for node in [&one, &two, &one] {
        client.calls(node);
        let spoilt = client.ask(json!({ "do": "call", "url": url(node), "spoil": true }));
        assert_eq!(spoilt["error"], BAD_SECURITY, "{}", node.log());
    }
    client.is_refused(&two);
    client.is_refused(&one);
    eventually("the audit log names its end", || {
        one.audit("session_ended").iter().any(|line| line["reason"] == "failures")
    });
}

const FAKE_TIME: &str = "libfaketime.so.1";

/// Serves a node on which it is always this second.
fn serve_at(demo: Demo, unix: i64) -> Service {
    let library = Command::new("dpkg").args(["-L", "libfaketime"]).output().expect("Debian's dpkg").stdout;
    let library = String::from_utf8(library).expect("text");
    let library = library.lines().find(|line| line.ends_with(FAKE_TIME)).expect("libfaketime is installed");
    let date = Command::new("date").args(["-u", "-d", &format!("@{unix}"), "+%F %T"]).output().expect("date");
    let date = String::from_utf8(date.stdout).expect("text");
    demo.serve_with(&[
        ("LD_PRELOAD", library),
        ("FAKETIME", date.trim()),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
        ("TZ", "UTC"),
    ])
}

/// Seconds since 1970 of a time in a message.
fn unix(time: &str) -> i64 {
    let seconds = Command::new("date").args(["-u", "-d", time, "+%s"]).output().expect("date").stdout;
    String::from_utf8(seconds).expect("text").trim().parse().expect("a number")
}

#[test]
fn replay_one_second_before_the_end_of_its_window_is_refused_at_another_node() {
    let echo = Echo::start();
    let one = first(&echo, "");
    let (early, late) = (another(&one), another(&one));
    let one = one.serve();
    let mut client = Client::start(&one, json!({}));
    client.calls(&one);
    let expires = unix(client.token()["expires"].as_str().expect("a time"));
    // A message counts for the five minutes of clock_skew_s, in which it also expires. Fractions of the
    // second are cut here.
    let last = serve_at(early, expires - 1);
    assert_eq!(client.ask(json!({ "do": "replay", "url": url(&last) }))["error"], BAD_SECURITY);
    assert!(last.log().contains("reason=\"replay\""), "{}", last.log());
    assert!(!last.log().contains("timestamp rejected"), "{}", last.log());
    let over = serve_at(late, expires + 1);
    assert_eq!(client.ask(json!({ "do": "replay", "url": url(&over) }))["error"], BAD_SECURITY);
    assert!(over.log().contains("timestamp rejected"), "{}", over.log());
    // Another message of that time is good there, so the window and the session are not over.
    let answer = client.ask(json!({ "do": "call", "url": url(&last), "offset": 290 }));
    assert!(answer["fields"].is_object(), "{answer} {}", last.log());
}

#[test]
fn expired_session_is_refused_at_another_node() {
    let echo = Echo::start();
    let one = first(&echo, "session_s = 3600");
    let later = another(&one);
    let one = one.serve();
    let mut client = Client::start(&one, json!({}));
    let until = one.audit("session_opened").last().expect("a line")["until"].clone();
    let later = serve_at(later, unix(until.as_str().expect("a time")) + 1);
    let answer = client.ask(json!({ "do": "call", "url": url(&later), "offset": 3600 }));
    assert_eq!(answer["error"], BAD_TOKEN, "{}", later.log());
    assert!(later.log().contains("cookie rejected: expired"), "{}", later.log());
    client.calls(&one);
}

/// The root in a file.
fn root(demo: &Demo, name: &str) -> Root {
    let line = std::fs::read_to_string(demo.path(name)).expect("a key");
    Root::from_line(line.trim_end()).expect("a root")
}

#[test]
fn cookie_of_another_root_purpose_farm_or_token_is_refused() {
    let echo = Echo::start();
    let demo = first(&echo, "");
    make_root(&demo, "other-1.key", 1);
    make_root(&demo, "farm-2.key", 2);
    let mut service = demo.serve();
    let mut client = Client::start(&service, json!({}));
    let token = client.token();
    let cookie = token["cookie"].as_str().expect("a cookie").to_owned();
    let ticket = STANDARD.decode(&cookie).expect("base64");
    let name = |text: &str| Name::new(text).expect("a name");
    let roots = |file: &str| Roots::new(vec![root(&service, file)]).expect("a root");
    let now = dtyp::FileTime::from(std::time::SystemTime::now());
    let hour = std::time::Duration::from_secs(3_600);
    let state = open_state(&roots("farm-1.key"), &name("tlsnego-sct"), &name("orders"), now, &ticket);
    let state = state.expect("the documented format");
    let seal = |file: &str, purpose: &str, audience: &str, state: &[u8], expires| {
        let sealed = seal_state(&roots(file), &name(purpose), &name(audience), (state, expires), [7; 32]);
        STANDARD.encode(sealed.expect("it is sealed"))
    };
    let good = seal("farm-1.key", "tlsnego-sct", "orders", &state, now + hour);
    let mut altered = ticket.clone();
    let middle = altered.len() / 2;
    altered[middle] ^= 1;
    // A ticket of a sidecar under the same root, as its own crate seals it.
    let claims = ticket::Claims {
        issued: now,
        expires: now + hour,
        audience: name("orders"),
        account: "S-1-5-21-1-2-3-1001".parse().expect("a SID"),
        data: state.to_vec(),
    };
    let seal_of_sidecar = |purpose: &str| {
        let sealed = ticket::seal_reusable(&roots("farm-1.key"), &name(purpose), &claims, &[1; 32], [7; 32]);
        STANDARD.encode(sealed.expect("it is sealed"))
    };
    let other = Client::start(&service, json!({})).token();
    let set = |service: &Service, client: &mut Client, change: Value| {
        client.ask(with(json!({ "do": "call", "url": url(service) }), change))
    };
    let refused = "rcmpd_tlsnego_refused_total{reason=\"cookie\",fault=\"BadContextToken\"}";
    for (what, change, logged) in [
        (
            "another root",
            json!({ "cookie": seal("other-1.key", "tlsnego-sct", "orders", &state, now + hour) }),
            "it does not open",
        ),
        (
            "another generation",
            json!({ "cookie": seal("farm-2.key", "tlsnego-sct", "orders", &state, now + hour) }),
            "unknown generation 2",
        ),
        (
            "another purpose",
            json!({ "cookie": seal("farm-1.key", "sidecar", "orders", &state, now + hour) }),
            "it does not open",
        ),
        ("a ticket of a sidecar", json!({ "cookie": seal_of_sidecar("sidecar") }), "another kind of ticket"),
        (
            "another farm",
            json!({ "cookie": seal("farm-1.key", "tlsnego-sct", "wiki", &state, now + hour) }),
            "another audience",
        ),
        ("expired", json!({ "cookie": seal("farm-1.key", "tlsnego-sct", "orders", &state, now) }), "expired"),
        ("altered", json!({ "cookie": STANDARD.encode(&altered) }), "it does not open"),
        ("cut", json!({ "cookie": STANDARD.encode(&ticket[..50]) }), "not a ticket"),
        ("too long", json!({ "cookie": STANDARD.encode(vec![1; 40_000]) }), "not a ticket"),
        ("no base64", json!({ "cookie": "***" }), "no cookie"),
        ("none", json!({ "cookie": null }), "no cookie"),
        ("of another session", json!({ "cookie": other["cookie"] }), "another token"),
        ("another Identifier", json!({ "cookie": good, "identifier": other["identifier"] }), "another token"),
        (
            "another Instance",
            json!({ "cookie": good, "identifier": token["identifier"], "instance": "urn:x" }),
            "another token",
        ),
    ] {
        // A reason is logged once a minute, and in a new log at once.
        service.kill();
        service.start_again();
        let answer = set(&service, &mut client, change);
        assert_eq!(answer["error"], BAD_TOKEN, "{what}: {}", service.log());
        let log = service.log();
        let line = log.lines().find(|line| line.contains("cookie rejected")).expect(what);
        assert!(line.contains("reason=\"cookie\"") && line.contains(logged), "{what}: {line}");
        assert_eq!(service.metric(refused), 1, "{what}");
    }
    // None of them ended the session, and the state that is sealed anew is as good.
    let answer = set(
        &service,
        &mut client,
        json!({ "cookie": good, "identifier": token["identifier"], "instance": null }),
    );
    assert!(answer["fields"].is_object(), "{answer} {}", service.log());
}

#[test]
fn roots_are_replaced_with_an_overlap_and_a_reload() {
    let echo = Echo::start();
    let one = first(&echo, "");
    make_root(&one, "farm-2.key", 2);
    let two = another(&one);
    let (one, two) = (one.serve(), two.serve());
    let mut old = Client::start(&one, json!({}));
    let keys = |node: &Service, keys: &str| {
        node.edit(|text| {
            let start = text.find("keys = [\"file:farm").expect("there are keys");
            let end = start + text[start..].find("audience").expect("and then the audience");
            format!("{}{keys}\n{}", &text[..start], &text[end..])
        });
        node.reload();
    };
    let generation = |client: &mut Client| {
        let cookie = client.token()["cookie"].as_str().expect("a cookie").to_owned();
        STANDARD.decode(cookie).expect("base64")[2]
    };
    assert_eq!(generation(&mut old), 1);
    // Each node learns the new root, and then seals under it.
    for node in [&one, &two] {
        keys(node, "keys = [\"file:farm-1.key\", \"file:farm-2.key\"]\nseal_with = 1");
    }
    let mut between = Client::start(&one, json!({}));
    assert_eq!(generation(&mut between), 1);
    keys(&two, "keys = [\"file:farm-1.key\", \"file:farm-2.key\"]");
    let renewed = old.ask(json!({ "do": "renew", "url": url(&two) }));
    assert!(renewed["instance"].is_string(), "{renewed} {}", two.log());
    assert_eq!(generation(&mut old), 2, "Renew seals under the new one");
    for node in [&one, &two] {
        old.calls(node);
        between.calls(node);
    }
    // Without the old one its cookies are refused.
    for node in [&one, &two] {
        keys(node, "keys = [\"file:farm-2.key\"]");
        old.calls(node);
        between.is_refused(node);
        assert!(node.log().contains("unknown generation 1"), "{}", node.log());
    }
}

#[test]
fn without_the_shared_store_nothing_is_served_and_the_log_says_why() {
    let echo = Echo::start();
    let mut service = first(&echo, "").serve();
    let mut client = Client::start(&service, json!({}));
    let (store, aside) = (service.path("sessions.db"), service.path("aside.db"));
    std::fs::rename(&store, &aside).expect("it is there");
    for command in [json!({ "do": "call" }), json!({ "do": "renew" }), json!({ "do": "cancel" })] {
        assert_eq!(client.ask(command)["error"], BAD_SECURITY);
    }
    assert!(service.log().contains("reason=\"store\""), "{}", service.log());
    assert!(service.log().contains("sessions.db No such file"), "{}", service.log());
    std::fs::rename(&aside, &store).expect("it is there");
    client.calls(&service);
    // Full: of messages, and of tokens that end.
    let fill = |service: &Service, sql: &str| {
        let filled = Command::new("sqlite3").arg(service.path("sessions.db")).arg(sql).output();
        assert!(filled.expect("sqlite3 starts").status.success());
    };
    let again = |service: &mut Service| {
        // A reason is logged once a minute, and in a new log at once.
        service.kill();
        service.start_again();
    };
    fill(&service, "UPDATE fact SET tokens = 1000000");
    again(&mut service);
    client.calls(&service);
    assert_eq!(client.ask(json!({ "do": "cancel" }))["error"], BAD_SECURITY);
    assert!(service.log().contains("it holds 1000000 ended tokens"), "{}", service.log());
    again(&mut service);
    fill(
        &service,
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 900000) \
         INSERT INTO message SELECT randomblob(32), 9000000000000000000 FROM n",
    );
    assert_eq!(client.ask(json!({ "do": "call" }))["error"], BAD_SECURITY);
    let log = service.log();
    assert!(log.contains("the store is full: it holds 900000 messages"), "{log}");
    assert!(service.metric("rcmpd_tlsnego_refused_total{reason=\"store\",fault=\"InvalidSecurity\"}") >= 1);
    assert!(service.metric("rcmpd_tlsnego_replay_entries") >= 900_000);
    // A new file does not know what ended before: sessions from before are refused.
    service.kill();
    for end in ["", "-wal", "-shm"] {
        let _ = std::fs::remove_file(service.path(&format!("sessions.db{end}")));
    }
    service.start_again();
    client.is_refused(&service);
    assert!(service.log().contains("before the store of ended sessions was made"), "{}", service.log());
    Client::start(&service, json!({}));
}

#[test]
fn operators_cancel_sessions_of_any_node_by_name() {
    let echo = Echo::start();
    let one = first(&echo, "");
    let two = another(&one);
    with_admin(&one);
    with_admin(&two);
    let (one, two) = (one.serve(), two.serve());
    let mut client = Client::start(&one, json!({}));
    let name = client.name();
    let listed = session(&one, &["list"], 0).json();
    assert!(
        listed.as_array().expect("a list").iter().any(|session| session["name"] == name.as_str()),
        "{listed}"
    );
    assert_eq!(session(&one, &["show", &name], 0).json()["kind"], "established");
    // The other node knows nothing of it, and ends it.
    assert_eq!(session(&two, &["list"], 0).json(), json!([]));
    session(&two, &["show", &name], 1);
    assert_eq!(session(&two, &["cancel", &name], 0).json()["known"], false);
    client.is_refused(&one);
    client.is_refused(&two);
    session(&one, &["show", &name], 1);
    let listed = session(&one, &["list"], 0).json();
    assert!(
        !listed.as_array().expect("a list").iter().any(|session| session["name"] == name.as_str()),
        "{listed}"
    );
    for node in [&one, &two] {
        assert!(session(node, &["cancel", &name], 1).stderr.contains("there is no session"));
    }
    let ended = two.audit("session_ended");
    assert!(
        ended.iter().any(|line| line["name"] == name.as_str() && line["reason"] == "operator"),
        "{ended:?}"
    );
    // A node that served it knows it.
    let mut client = Client::start(&one, json!({}));
    client.calls(&two);
    assert_eq!(session(&two, &["cancel", &client.name()], 0).json()["known"], true);
    client.is_refused(&one);
}
