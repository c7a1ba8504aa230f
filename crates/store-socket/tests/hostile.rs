//! Programs that break the protocol: each is an error with its reason, and no answer is taken for another
//! one's.

mod common;

use account_store::battery::domain;
use account_store::{AccountStore, Matches, Query, StoreError};
use common::{open, runtime, settings};
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use store_socket::{Meter, Settings, SocketStore};
use tempfile::TempDir;
use tokio::runtime::Runtime;

/// What a program sends when it is asked.
type Answer = Box<dyn Fn(&Value) -> Vec<u8> + Send + Sync>;

fn frame(body: &[u8]) -> Vec<u8> {
    let len = u32::try_from(body.len()).expect("it is short");
    [&len.to_be_bytes()[..], body].concat()
}

fn message(value: &Value) -> Vec<u8> {
    frame(value.to_string().as_bytes())
}

fn receive(stream: &mut UnixStream) -> Option<Value> {
    let mut len = [0; 4];
    stream.read_exact(&mut len).ok()?;
    let mut body = vec![0; u32::from_be_bytes(len) as usize];
    stream.read_exact(&mut body).ok()?;
    Some(serde_json::from_slice(&body).expect("rcmpd sends JSON"))
}

/// The SID with this relative identifier.
fn sid(rid: u32) -> String {
    domain().sid.with_rid(rid).expect("room for a RID").to_string()
}

/// An account as a program sends it.
fn candidate(name: &str, rid: u32) -> Value {
    let account =
        json!({ "name": name, "sid": sid(rid), "user_principal_name": format!("{name}@contoso.com") });
    json!({ "account": account, "groups": [{ "sid": sid(513), "name": "Domain Users" }] })
}

fn number(question: &Value) -> u64 {
    question["number"].as_u64().expect("a question has a number")
}

/// The right answer: the one account whose name is asked for.
fn right(question: &Value) -> Value {
    let text = question["text"].as_str().unwrap_or_default();
    let name = text.split('@').next().unwrap_or_default();
    let accounts = if name == "absent" { vec![] } else { vec![candidate(name, 1000)] };
    json!({ "number": number(question), "accounts": accounts })
}

fn hello() -> Value {
    json!({ "hello": "test", "version": 1, "domain": domain().sid.to_string() })
}

/// A program of the test. It ends with the process.
struct Hostile {
    _folder: TempDir,
    path: PathBuf,
    connections: Arc<AtomicU64>,
}

impl Hostile {
    /// Each connection is given to `converse`, with its number from 0.
    fn new(converse: impl Fn(u64, UnixStream) + Send + Sync + 'static) -> Self {
        let folder = tempfile::tempdir().expect("there is room for temporary files");
        let path = folder.path().join("store.sock");
        let listener = UnixListener::bind(&path).expect("the path is free");
        let connections = Arc::new(AtomicU64::new(0));
        let (counted, converse) = (Arc::clone(&connections), Arc::new(converse));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (connection, converse) = (counted.fetch_add(1, Ordering::SeqCst), Arc::clone(&converse));
                let stream = stream.expect("it is accepted");
                std::thread::spawn(move || converse(connection, stream));
            }
        });
        Self { _folder: folder, path, connections }
    }

    /// Greets as it should, and answers questions for accounts by what `answer` makes of them: bytes, after
    /// which the connection is closed if there are none. Questions for the revision are answered as they
    /// should.
    fn answering(answer: impl Fn(&Value) -> Vec<u8> + Send + Sync + 'static) -> Self {
        Self::new(move |_, mut stream| {
            receive(&mut stream);
            let _ = stream.write_all(&message(&hello()));
            while let Some(question) = receive(&mut stream) {
                let bytes = match question["ask"].as_str() {
                    Some("revision") => message(&json!({ "number": number(&question) })),
                    _ => answer(&question),
                };
                if bytes.is_empty() || stream.write_all(&bytes).is_err() {
                    return;
                }
            }
        })
    }

    /// Greets with these bytes.
    fn greeting(bytes: Vec<u8>) -> Self {
        Self::new(move |_, mut stream| {
            receive(&mut stream);
            let _ = stream.write_all(&bytes);
            // The connection stays open until the store closes it.
            receive(&mut stream);
        })
    }

    fn settings(&self) -> Settings {
        settings(&self.path)
    }

    fn connections(&self) -> u64 {
        self.connections.load(Ordering::SeqCst)
    }
}

fn find(runtime: &Runtime, store: &SocketStore, name: &str) -> Result<Matches, StoreError> {
    let query = Query::UserPrincipalName(format!("{name}@contoso.com"));
    runtime.block_on(store.find(&query))
}

/// Asks such a program once.
fn asked(program: &Hostile) -> (Result<Matches, StoreError>, Arc<Meter>) {
    asked_by(program.settings())
}

fn asked_by(settings: Settings) -> (Result<Matches, StoreError>, Arc<Meter>) {
    let (runtime, meter) = (runtime(), Arc::clone(&settings.meter));
    let store = open(&runtime, settings);
    (find(&runtime, &store, "alice"), meter)
}

#[track_caller]
fn refused(program: &Hostile, why: &str) {
    let (found, _) = asked(program);
    match found {
        Err(StoreError::Unavailable(text) | StoreError::Damaged(text)) => {
            assert!(text.contains(why), "{text:?} has no {why:?}");
        }
        other => panic!("{why}: {other:?}"),
    }
}

fn name_of(found: &Result<Matches, StoreError>) -> &str {
    match found {
        Ok(Matches::One(record)) => &record.account.name,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_program_that_keeps_the_protocol_is_believed() {
    let program = Hostile::answering(|question| message(&right(question)));
    assert_eq!(name_of(&asked(&program).0), "alice");
    let runtime = runtime();
    let store = open(&runtime, program.settings());
    assert_eq!(find(&runtime, &store, "absent").expect("it is an answer"), Matches::None);
}

#[test]
fn answers_that_break_the_protocol_are_errors() {
    let deep = "[".repeat(100_000);
    let answers: Vec<(&str, Answer)> = vec![
        (
            "store: protocol: an answer to question",
            Box::new(|question| message(&json!({ "number": number(question) + 1, "accounts": [] }))),
        ),
        ("store: protocol: a frame of 4294967295 bytes", Box::new(|_| vec![255; 16])),
        ("store: protocol: a frame of 2097153 bytes", Box::new(|_| 2_097_153_u32.to_be_bytes().to_vec())),
        ("store: protocol: a frame of 0 bytes", Box::new(|_| vec![0; 4])),
        ("store: protocol: this is no answer: recursion limit", {
            let body =
                format!("{{\"number\":1,\"accounts\":[{{\"account\":{{\"name\":\"a\",\"expires\":{deep}");
            Box::new(move |_| frame(body.as_bytes()))
        }),
        ("store: protocol: this is no answer", Box::new(|_| frame(b"{\"number\":1,\"accounts\":[]} x"))),
        ("store: protocol: this is no answer", Box::new(|_| frame(b"{\"number\":\xff}"))),
        ("store: protocol: this is no answer", Box::new(|_| frame(&[0; 100]))),
        ("duplicate field", Box::new(|_| frame(b"{\"number\":1,\"number\":2,\"accounts\":[]}"))),
        (
            "neither accounts nor an error",
            Box::new(|question| message(&json!({ "number": number(question) }))),
        ),
        (
            "accounts and an error",
            Box::new(|question| {
                message(&json!({ "number": number(question), "accounts": [], "error": "x" }))
            }),
        ),
        (
            "unknown field `account`",
            Box::new(|question| message(&json!({ "number": number(question), "account": [] }))),
        ),
        (
            "more than 64",
            Box::new(|question| {
                let accounts: Vec<_> = (0..65).map(|rid| candidate("alice", 1000 + rid)).collect();
                message(&json!({ "number": number(question), "accounts": accounts }))
            }),
        ),
        (
            "differ in whether there is a revision",
            Box::new(|question| {
                message(&json!({ "number": number(question), "accounts": [], "revision": "a" }))
            }),
        ),
        (
            "longer than 256 bytes",
            Box::new(|question| {
                let revision = "a".repeat(257);
                message(&json!({ "number": number(question), "accounts": [], "revision": revision }))
            }),
        ),
        ("store: connection", Box::new(|_| Vec::new())),
        (
            "store: program: out \\u{1b} of order",
            Box::new(|question| {
                message(&json!({ "number": number(question), "error": "out \u{1b} of order" }))
            }),
        ),
    ];
    for (why, answer) in answers {
        refused(&Hostile::answering(answer), why);
    }
}

#[test]
fn accounts_that_break_the_rules_are_errors() {
    let with = |change: fn(&mut Value)| {
        Hostile::answering(move |question| {
            let mut answer = right(question);
            change(&mut answer["accounts"]);
            message(&answer)
        })
    };
    for (change, why) in [
        (
            (|it| it[0]["account"]["sid"] = json!("S-1-5-21-1-2-3-1000")) as fn(&mut Value),
            "not of the domain",
        ),
        (|it| it[0]["account"]["sid"] = json!("no SID"), "no SID"),
        (|it| it[0]["account"]["sid"] = Value::Null, "its SID is missing"),
        (|it| it[0]["account"]["sid"] = json!(domain().sid.to_string()), "SID of the domain itself"),
        (|it| it[0]["account"]["sid"] = json!(sid(0)), "not of the domain"),
        (|it| it[0]["account"]["name"] = json!("al\nice"), "control character"),
        (|it| it[0]["account"]["member_of"] = json!(["Staff"]), "member_of belongs to files"),
        (|it| it[0]["account"]["expires"] = json!(1_800_000_000), "is before 1900"),
        (|it| it[0]["account"]["user_principal_name"] = json!("a\0b"), "NUL"),
        (|it| it[0]["account"]["home_domain"] = json!("a b/c"), "is no name of a domain"),
        (|it| it[0]["account"]["password"] = json!("x"), "unknown field `password`"),
        (|it| it[0]["groups"] = json!([]), "its primary group 513 is not among its groups"),
        (|it| it[0]["groups"] = json!([{ "sid": sid(513) }, { "sid": sid(513) }]), "twice"),
        (|it| it[0]["groups"][0]["sid"] = json!("S-1-5-32-544"), "not of the domain"),
        (|it| it[0]["groups"][0]["name"] = json!("Domain Admins"), "is the name of the privileged group"),
        (|it| it[0]["groups"][0]["scope"] = json!("galactic"), "unknown variant"),
        (|it| drop(it[0].as_object_mut().expect("an object").remove("groups")), "missing field `groups`"),
        (|it| *it = json!([it[0], it[0]]), "two accounts in one answer have the SID"),
        // A candidate that does not match could be the second one, if it could be read.
        (|it| *it = json!([it[0], { "account": { "name": "" }, "groups": [] }]), "its SID is missing"),
    ] {
        refused(&with(change), why);
    }
}

#[test]
fn our_comparison_decides() {
    let with = |more: bool, names: &'static [&'static str]| {
        let program = Hostile::answering(move |question| {
            let accounts = names.iter().enumerate();
            let accounts =
                accounts.map(|(rid, name)| candidate(name, 1000 + u32::try_from(rid).expect("few")));
            let accounts: Vec<_> = accounts.collect();
            message(&json!({ "number": number(question), "accounts": accounts, "more": more }))
        });
        asked(&program).0.expect("it is an answer")
    };
    let many = |names: &[&str]| Matches::Many(names.iter().map(|name| (*name).to_owned()).collect());
    assert_eq!(with(false, &["bob", "carol"]), Matches::None, "another account than the one asked for");
    assert_eq!(name_of(&Ok(with(false, &["bob", "ALICE"]))), "ALICE");
    assert_eq!(with(false, &["alice", "Alice"]), many(&["alice", "Alice"]));
    // A candidate that was not sent may match, too.
    assert_eq!(with(true, &["alice"]), many(&["alice"]));
    assert_eq!(with(true, &["bob"]), many(&[]));
}

#[test]
fn groups_that_share_a_name_have_none() {
    let program = Hostile::answering(|question| {
        let mut answer = right(question);
        let group = |rid, name: &str| json!({ "sid": sid(rid), "name": name });
        answer["accounts"][0]["groups"] =
            json!([group(513, "Domain Users"), group(1101, "admins"), group(1100, "Admins")]);
        message(&answer)
    });
    let Ok(Matches::One(record)) = asked(&program).0 else { panic!("it is one account") };
    let names: Vec<_> = record.memberships.iter().map(|group| group.name.as_deref()).collect();
    assert_eq!(names, [Some("Domain Users"), None, None]);
}

#[test]
fn a_hello_that_is_none_ends_the_connection() {
    let of = |change: fn(&mut Value)| {
        let mut hello = hello();
        change(&mut hello);
        Hostile::greeting(message(&hello))
    };
    refused(&of(|it| it["version"] = json!(2)), "store: hello: the program speaks version 2, and rcmpd 1");
    refused(&of(|it| *it = json!({ "version": 7, "new": [] })), "the program speaks version 7");
    refused(
        &of(|it| it["domain"] = json!("S-1-5-21-9-9-9")),
        "store: hello: the program has accounts of S-1-5-21-9",
    );
    refused(&of(|it| it["domain"] = Value::Null), "does not say whose accounts");
    refused(&of(|it| it["revision"] = json!("a".repeat(257))), "longer than 256 bytes");
    refused(&of(|it| *it = json!({ "error": "not today" })), "store: hello: the program refuses: not today");
    refused(&Hostile::greeting(frame(b"[]")), "store: hello: this is no hello");
    refused(&Hostile::greeting(vec![255; 4]), "store: protocol: a frame of 4294967295 bytes");
    refused(&Hostile::greeting(frame(&[b' '; 4097])), "store: protocol: a frame of 4097 bytes");
}

#[test]
fn another_user_gets_no_byte() {
    let (sender, received) = std::sync::mpsc::channel();
    let program = Hostile::new(move |_, mut stream| {
        let mut all = Vec::new();
        stream.read_to_end(&mut all).expect("it is closed");
        let _ = sender.send(all);
    });
    let mut settings = program.settings();
    settings.peer += 1;
    let (found, meter) = asked_by(settings);
    let error = found.expect_err("it is another user").to_string();
    assert!(error.contains("store: peer: ") && error.contains("is of user"), "{error}");
    assert_eq!(received.recv().expect("it was connected"), Vec::<u8>::new());
    assert!(meter.failures().any(|(step, count)| step == "peer" && count > 0));
}

#[test]
fn a_place_where_others_could_put_a_socket_is_not_connected_to() {
    let program = Hostile::answering(|question| message(&right(question)));
    let mut settings = program.settings();
    settings.check_place = Arc::new(|| Err("other users can write to the folder".to_owned()));
    let error = asked_by(settings).0.expect_err("the place is refused").to_string();
    assert!(error.contains("store: connect: ") && error.contains("other users can write"), "{error}");
    assert_eq!(program.connections(), 0);
}

#[test]
fn silence_and_an_endless_answer_end_with_the_deadline() {
    let short = |program: &Hostile| {
        let settings = Settings { timeout: Duration::from_millis(300), ..program.settings() };
        let started = Instant::now();
        let error = asked_by(settings).0.expect_err("there is no answer").to_string();
        assert!(error.contains("store: timeout"), "{error}");
        assert!(started.elapsed() >= Duration::from_millis(300));
    };
    short(&Hostile::new(|_, mut stream| while receive(&mut stream).is_some() {}));
    let open_forever = || std::thread::sleep(Duration::from_secs(600));
    // Announced, and never sent; and sent byte by byte.
    short(&Hostile::answering(move |_| {
        open_forever();
        Vec::new()
    }));
    short(&Hostile::new(|_, mut stream| {
        receive(&mut stream);
        let _ = stream.write_all(&message(&hello()));
        receive(&mut stream);
        let _ = stream.write_all(&2_000_000_u32.to_be_bytes());
        while stream.write_all(b" ").is_ok() {
            std::thread::sleep(Duration::from_millis(5));
        }
    }));
}

#[test]
fn a_doubled_answer_closes_the_connection_and_is_never_the_next_one() {
    let program = Hostile::answering(|question| message(&right(question)).repeat(2));
    let runtime = runtime();
    let settings = program.settings();
    let meter = Arc::clone(&settings.meter);
    let store = open(&runtime, settings);
    for _ in 0..30 {
        for name in ["alice", "bob", "carol"] {
            match find(&runtime, &store, name) {
                Ok(Matches::One(record)) => assert_eq!(record.account.name, name),
                // The second copy arrived when the next question was already sent.
                Err(error) => assert!(error.to_string().contains("an answer to question"), "{error}"),
                other => panic!("{other:?}"),
            }
        }
    }
    assert!(meter.failures().any(|(step, count)| step == "protocol" && count > 0));
    assert!(program.connections() > 30, "connections with a doubled answer were closed");
}

#[test]
fn a_late_answer_is_of_a_closed_connection() {
    // The first question for alice is answered when its time is long over.
    let is_first = AtomicU64::new(0);
    let program = Hostile::answering(move |question| {
        if is_first.fetch_add(1, Ordering::SeqCst) == 0 {
            std::thread::sleep(Duration::from_millis(600));
        }
        message(&right(question))
    });
    let runtime = runtime();
    let settings = Settings { timeout: Duration::from_millis(300), connections_max: 1, ..program.settings() };
    let store = open(&runtime, settings);
    // A loaded machine may need more than the time for the hello.
    let error = find(&runtime, &store, "alice").expect_err("it is late").to_string();
    assert!(error.contains("store: timeout") || error.contains("store: busy"), "{error}");
    let deadline = Instant::now() + Duration::from_secs(60);
    for name in ["bob", "carol", "dave"] {
        loop {
            match find(&runtime, &store, name) {
                Ok(found) => {
                    assert_eq!(name_of(&Ok(found)), name);
                    break;
                }
                Err(error) => assert!(Instant::now() < deadline, "{error}"),
            }
        }
    }
}

#[test]
fn a_question_over_a_dead_connection_is_asked_once_more() {
    // Each connection carries one question, and is closed when the next one comes.
    let program = Hostile::new(|_, mut stream| {
        receive(&mut stream);
        let _ = stream.write_all(&message(&hello()));
        let Some(question) = receive(&mut stream) else { return };
        let reply = match question["ask"].as_str() {
            Some("revision") => json!({ "number": number(&question) }),
            _ => right(&question),
        };
        let _ = stream.write_all(&message(&reply));
        receive(&mut stream);
    });
    let runtime = runtime();
    let store = open(&runtime, program.settings());
    for name in ["alice", "bob", "carol"] {
        assert_eq!(name_of(&find(&runtime, &store, name)), name);
    }
}

#[test]
fn waiting_questions_are_bounded() {
    let program = Hostile::answering(|question| {
        std::thread::sleep(Duration::from_millis(200));
        message(&right(question))
    });
    let runtime = runtime();
    let settings = Settings { connections_max: 3, timeout: Duration::from_secs(2), ..program.settings() };
    let store = Arc::new(open(&runtime, settings));
    let ask = || {
        let store = Arc::clone(&store);
        runtime.spawn(async move { store.find(&Query::Name("alice".to_owned())).await })
    };
    let asked: Vec<_> = (0..1500).map(|_| ask()).collect();
    let found: Vec<_> = asked.into_iter().map(|task| runtime.block_on(task).expect("it ends")).collect();
    let with = |why: &str| {
        let errors = found.iter().filter_map(|found| found.as_ref().err());
        errors.filter(|error| error.to_string().contains(why)).count()
    };
    assert!(with("1024 questions are waiting") > 0);
    assert!(with("all 3 connections are in use") > 0);
    assert!(found.iter().any(|found| matches!(found, Ok(Matches::One(_)))));
}

#[test]
fn connections_are_used_again_and_no_more_than_allowed() {
    let program = Hostile::answering(|question| {
        std::thread::sleep(Duration::from_millis(5));
        message(&right(question))
    });
    let runtime = runtime();
    let settings = Settings { connections_max: 3, timeout: Duration::from_secs(60), ..program.settings() };
    let store = Arc::new(open(&runtime, settings));
    let ask = || {
        let store = Arc::clone(&store);
        runtime.spawn(async move { store.find(&Query::Name("alice".to_owned())).await })
    };
    let asked: Vec<_> = (0..300).map(|_| ask()).collect();
    for task in asked {
        let found = runtime.block_on(task).expect("it ends");
        assert!(matches!(found, Ok(Matches::One(_))), "{found:?}");
    }
    assert!(program.connections() <= 3, "{}", program.connections());
}

#[test]
fn each_name_of_a_revision_is_another_one() {
    let revision = Arc::new(AtomicU64::new(1));
    let known = Arc::clone(&revision);
    let program = Hostile::new(move |_, mut stream| {
        receive(&mut stream);
        let name = || known.load(Ordering::SeqCst).to_string();
        let mut hello = hello();
        hello["revision"] = json!(name());
        let _ = stream.write_all(&message(&hello));
        while let Some(question) = receive(&mut stream) {
            let mut reply = match question["ask"].as_str() {
                Some("revision") => json!({ "number": number(&question) }),
                _ => right(&question),
            };
            reply["revision"] = json!(name());
            let _ = stream.write_all(&message(&reply));
        }
    });
    let runtime = runtime();
    let store = open(&runtime, program.settings());
    assert_eq!(name_of(&find(&runtime, &store, "alice")), "alice");
    let first = store.revision().expect("the program answers");
    assert_eq!(name_of(&find(&runtime, &store, "alice")), "alice");
    assert_eq!(store.revision().expect("the program answers"), first);
    // The program is asked without questions, too.
    revision.store(2, Ordering::SeqCst);
    let deadline = Instant::now() + Duration::from_secs(60);
    while store.revision().expect("the program answers") == first {
        assert!(Instant::now() < deadline, "the revision was not asked for");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_question_has_what_a_program_needs() {
    let (sender, received) = std::sync::mpsc::channel();
    let sender = std::sync::Mutex::new(sender);
    let program = Hostile::answering(move |question| {
        let _ = sender.lock().expect("no test panicked in it").send(question.clone());
        message(&json!({ "number": number(question), "accounts": [] }))
    });
    let runtime = runtime();
    let store = open(&runtime, program.settings());
    let sent = |query: Query| -> Value {
        assert_eq!(runtime.block_on(store.find(&query)).expect("it is an answer"), Matches::None);
        let mut question: Value = received.recv().expect("it was asked");
        assert!(question["timeout_ms"].as_u64().is_some_and(|ms| (1..=20_000).contains(&ms)), "{question}");
        let question = question.as_object_mut().expect("an object");
        question.remove("number");
        question.remove("timeout_ms");
        json!(question)
    };
    let upn = sent(Query::UserPrincipalName("JOSE\u{301}@Contoso.com".to_owned()));
    assert_eq!(
        upn,
        json!({ "ask": "accounts", "by": "user_principal_name", "text": "jos\u{e9}@contoso.com" })
    );
    let by_sid = sent(Query::Sid(domain().sid.with_rid(1000).expect("room for a RID")));
    assert_eq!(by_sid, json!({ "ask": "accounts", "by": "sid", "text": sid(1000) }));
    let mapping = sent(Query::AltSecurityIdentity("x509:<I>cn=Bob's CA<S>cn=a b".to_owned()));
    assert_eq!(
        mapping,
        json!({
            "ask": "accounts", "by": "alt_security_identity", "text": "X509:<I>CN=Bob's CA<S>CN=a b",
            "contains": ["<I>", "B", "B", "<S>", "B"], "folded": ["<I>", "BOB'S CA", "<S>", "A B"],
        })
    );
}
