//! Changes that are undone: whatever other processes do to the accounts, in whichever order, no answer is of
//! contents that were not there while the question was on its way.
//!
//! Sequences of changes, back-ups and restores are drawn at random and run by other processes against a
//! service, while four clients ask all the time: over a secure channel, through the service's sidecar,
//! through a sidecar that asks the service, and at another domain that asks the service. A model says what
//! the accounts are after each step. An answer has to be what the model says of some moment between the
//! question and the answer.
//!
//! A failure prints its sequence. `RCMPD_STEPS="name 1; restore 0; name 2"` runs that one instead.

use crate::serving::question;
use crate::sidecar::{ask_about, sidecar};
use netlogon_transport::client::Association;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use rcmp_service::message::{PACKAGE_NAME, Response};
use rcmpd_tests::client::Client;
use rcmpd_tests::{Demo, Service, write_secret};
use rustix::process::Signal;
use std::fmt;
use std::fs;
use std::path::Path;
use std::str::FromStr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

/// Sequences, and steps of each: about half a minute with a debug build.
const SEQUENCES: u32 = 6;
const STEPS: std::ops::Range<usize> = 10..18;
/// How long all clients may take to be answered once.
const PATIENCE: Duration = Duration::from_secs(60);
/// Places for back-ups; the first is made before everything.
const SLOTS: usize = 3;
/// The machine whose channel is used and lost. It has no other purpose, so that the others go on asking.
const MACHINE: &str = "WEB09$";

/// The rotation that ends the secret before at once.
const AT_ONCE: u8 = 1;

/// One step, by another process than the service.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Step {
    Name(u8),
    Disable,
    Enable,
    Remove,
    Import(u8),
    Join,
    Leave,
    RenameGroup(u8),
    Rotate(u8),
    MachineOff,
    MachineOn,
    BackUp(usize),
    Restore(usize),
    Reload,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(n) => write!(f, "name {n}"),
            Self::Disable => f.write_str("disable"),
            Self::Enable => f.write_str("enable"),
            Self::Remove => f.write_str("remove"),
            Self::Import(n) => write!(f, "import {n}"),
            Self::Join => f.write_str("join"),
            Self::Leave => f.write_str("leave"),
            Self::RenameGroup(n) => write!(f, "rename-group {n}"),
            Self::Rotate(n) => write!(f, "rotate {n}"),
            Self::MachineOff => f.write_str("machine-off"),
            Self::MachineOn => f.write_str("machine-on"),
            Self::BackUp(slot) => write!(f, "back-up {slot}"),
            Self::Restore(slot) => write!(f, "restore {slot}"),
            Self::Reload => f.write_str("reload"),
        }
    }
}

impl FromStr for Step {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (word, number) = text.trim().split_once(' ').unwrap_or((text.trim(), "0"));
        let n: u8 = number.parse().map_err(|error| format!("{text}: {error}"))?;
        Ok(match word {
            "name" => Self::Name(n),
            "disable" => Self::Disable,
            "enable" => Self::Enable,
            "remove" => Self::Remove,
            "import" => Self::Import(n),
            "join" => Self::Join,
            "leave" => Self::Leave,
            "rename-group" => Self::RenameGroup(n),
            "rotate" => Self::Rotate(n),
            "machine-off" => Self::MachineOff,
            "machine-on" => Self::MachineOn,
            "back-up" => Self::BackUp(n.into()),
            "restore" => Self::Restore(n.into()),
            "reload" => Self::Reload,
            _ => return Err(format!("{text}: no such step")),
        })
    }
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (1..5u8).prop_map(Step::Name),
        2 => Just(Step::Disable),
        2 => Just(Step::Enable),
        1 => Just(Step::Remove),
        2 => (5..9u8).prop_map(Step::Import),
        1 => Just(Step::Join),
        1 => Just(Step::Leave),
        2 => (1..4u8).prop_map(Step::RenameGroup),
        2 => (1..4u8).prop_map(Step::Rotate),
        1 => Just(Step::MachineOff),
        1 => Just(Step::MachineOn),
        3 => (1..SLOTS).prop_map(Step::BackUp),
        8 => (0..SLOTS).prop_map(Step::Restore),
        1 => Just(Step::Reload),
    ]
}

/// What the store holds.
#[derive(Clone, Debug, PartialEq)]
struct Model {
    alice: Option<Alice>,
    group: u8,
    machine: Machine,
}

#[derive(Clone, Debug, PartialEq)]
struct Alice {
    name: u8,
    disabled: bool,
    engineer: bool,
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Machine {
    enabled: bool,
    secret: usize,
    /// The secret before, until the present one is used for the first time. That use is no step, so it may be
    /// gone.
    previous: Option<usize>,
}

impl Machine {
    /// Whether a channel that was set up with this secret may be answered.
    fn accepts(&self, secret: usize) -> bool {
        self.enabled && (self.secret == secret || self.previous == Some(secret))
    }
}

/// What an answer says of alice.
#[derive(Clone, Debug, PartialEq)]
enum Seen {
    NotMapped,
    Alice {
        name: String,
        engineer: bool,
        /// What the group is called, where the answer says so.
        group: Option<String>,
    },
}

impl Model {
    fn explains(&self, seen: &Seen) -> bool {
        match (self.alice.as_ref().filter(|alice| !alice.disabled), seen) {
            (None, Seen::NotMapped) => true,
            (Some(alice), Seen::Alice { name, engineer, group }) => {
                let called = group_name(self.group);
                *name == full_name(alice.name)
                    && *engineer == alice.engineer
                    && group.as_ref().is_none_or(|group| !alice.engineer || *group == called)
            }
            _ => false,
        }
    }
}

fn full_name(n: u8) -> String {
    format!("Alice {n}")
}

fn group_name(n: u8) -> String {
    format!("Group {n}")
}

/// The model after each step, and how far the steps have come.
#[derive(Default)]
struct History {
    models: Mutex<Vec<Model>>,
    begun: AtomicUsize,
    done: AtomicUsize,
    stop: AtomicBool,
    /// Questions that each client had answered, and up to which step the last one was asked.
    answered: [AtomicUsize; 4],
    failures: Mutex<Vec<String>>,
}

impl History {
    fn present(&self) -> Model {
        self.models.lock().unwrap().last().unwrap().clone()
    }

    /// The models between two moments.
    fn between(&self, first: usize, last: usize) -> Vec<Model> {
        self.models.lock().unwrap()[first..=last].to_vec()
    }

    fn failed(&self, what: String) {
        self.failures.lock().unwrap().push(what);
        self.stop.store(true, SeqCst);
    }

    /// Asks until the end, and compares.
    fn ask(&self, client: usize, what: &str, mut ask: impl FnMut() -> Result<Seen, String>) {
        while !self.stop.load(SeqCst) {
            let first = self.done.load(SeqCst);
            let seen = ask();
            let models = self.between(first, self.begun.load(SeqCst));
            match seen {
                Ok(seen) if models.iter().any(|model| model.explains(&seen)) => {}
                seen => return self.failed(format!("{what} answered {seen:?}, and there was {models:#?}")),
            }
            self.answered[client].store(first + 1, SeqCst);
        }
    }

    /// Waits until every client has asked after the last step, and was answered.
    fn settle(&self) {
        let step = self.done.load(SeqCst) + 1;
        let deadline = Instant::now() + PATIENCE;
        while !self.stop.load(SeqCst) && self.answered.iter().any(|answered| answered.load(SeqCst) < step) {
            if Instant::now() > deadline {
                return self.failed(format!("not all were answered in time: {:?}", self.answered));
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

/// All that runs: a domain with a sidecar, a sidecar that asks it, and another domain that asks it.
struct Scene {
    service: Service,
    web: Service,
    other: Service,
    secrets: Mutex<Vec<String>>,
}

impl Scene {
    fn new() -> Self {
        let demo = Demo::new();
        let other = Demo::domain("FABRIKAM", "FABDC1", "127.0.0.2", &demo);
        // A missing account is a miss with each question, and these are asked all the time.
        for domain in [&demo, &other] {
            domain.edit(|text| text.replace("[rpc]\n", "[rpc]\nmisses_per_s = 0\n"));
        }
        write_secret(other.path("contoso.secret"), demo.add_trust("FABRIKAM"));
        demo.configure(&format!("{}direction = \"inbound\"\nkind = \"rcmpd\"\n", other.as_peer()));
        let secret = demo.path("machines/WEB09.0").display().to_string();
        let add = ["machine", "add", MACHINE, "--permission", "rcmp", "--secret-file", &secret];
        demo.rcmpd(&[&add[..], &["-c", "rcmpd.toml"]].concat()).code(0);
        let secrets = Mutex::new(vec![fs::read_to_string(&secret).unwrap().trim_end().to_owned()]);
        let scene = |demo: &Demo, arguments: &[&str]| {
            drop(demo.rcmpd(&[arguments, &["-c", "rcmpd.toml"]].concat()).code(0))
        };
        scene(&demo, &["account", "set", "alice", "--full-name", &full_name(0)]);
        rename_group(&demo, 0);
        let service = sidecar(demo, "remember_s = 3600");
        other.configure(&format!(
            "{}direction = \"outbound\"\nkind = \"rcmpd\"\nservers = [\"{}\"]\nsecret = \"file:contoso.secret\"\n",
            service.as_peer(),
            service.netlogon,
        ));
        let web = Demo::web(&service, "", "remember_s = 0\ntimeout_s = 20").serve_bare();
        Self { web, other: other.serve(), service, secrets }
    }

    fn command(&self, arguments: &[&str]) {
        self.service.rcmpd(&[arguments, &["-c", "client.toml"]].concat()).code(0);
    }

    /// The copy in a slot.
    fn slot(&self, slot: usize) -> std::path::PathBuf {
        self.service.path(&format!("back-up-{slot}.db"))
    }

    /// What a step makes of the store; `None` if it changes nothing or cannot be taken.
    fn after(&self, step: Step, model: &Model, slots: &[Option<Model>]) -> Option<Model> {
        let mut next = model.clone();
        match step {
            Step::Name(n) => next.alice.as_mut()?.name = n,
            Step::Disable => next.alice.as_mut()?.disabled = true,
            Step::Enable => next.alice.as_mut()?.disabled = false,
            Step::Remove => {
                next.alice.take()?;
            }
            // The line names no group.
            Step::Import(n) => next.alice = Some(Alice { name: n, disabled: false, engineer: false }),
            Step::Join => next.alice.as_mut()?.engineer = true,
            Step::Leave => {
                let alice = next.alice.as_mut()?;
                if !alice.engineer {
                    return None;
                }
                alice.engineer = false;
            }
            Step::RenameGroup(n) => next.group = n,
            Step::Rotate(n) => {
                let previous =
                    std::mem::replace(&mut next.machine.secret, self.secrets.lock().unwrap().len());
                next.machine.previous = (n != AT_ONCE).then_some(previous);
            }
            Step::MachineOff => next.machine.enabled = false,
            Step::MachineOn => next.machine.enabled = true,
            Step::BackUp(_) | Step::Reload => {}
            Step::Restore(slot) => next = slots.get(slot)?.clone()?,
        }
        Some(next)
    }

    fn run(&self, step: Step, model: &Model) {
        match step {
            Step::Name(n) => self.command(&["account", "set", "alice", "--full-name", &full_name(n)]),
            Step::Disable => self.command(&["account", "set", "alice", "--disable"]),
            Step::Enable => self.command(&["account", "set", "alice", "--enable"]),
            Step::Remove => self.command(&["account", "remove", "alice"]),
            Step::Import(n) => {
                let line = serde_json::json!({
                    "type": "account", "name": "alice", "sid": format!("{}-1001", self.service.domain_sid()),
                    "user_principal_name": "alice@contoso.example", "profile": { "full_name": full_name(n) },
                });
                fs::write(self.service.path("alice.jsonl"), line.to_string()).unwrap();
                self.command(&["import", "alice.jsonl", "--replace"]);
            }
            Step::Join => self.command(&["account", "set", "alice", "--group", &group_name(model.group)]),
            Step::Leave => {
                self.command(&["account", "set", "alice", "--remove-group", &group_name(model.group)]);
            }
            Step::RenameGroup(n) => rename_group(&self.service, n),
            Step::Rotate(n) => {
                let password = rcmpd::quickstart::random_password().unwrap();
                let path = self.service.path("machines/WEB09.next").display().to_string();
                write_secret(&path, &password);
                // Known before it counts: the client reads it from here.
                self.secrets.lock().unwrap().push(password);
                let now: &[&str] = if n == AT_ONCE { &["--now"] } else { &[] };
                self.command(&[&["machine", "set", MACHINE, "--secret-file", &path], now].concat());
            }
            Step::MachineOff => self.command(&["machine", "set", MACHINE, "--disable"]),
            Step::MachineOn => self.command(&["machine", "set", MACHINE, "--enable"]),
            Step::BackUp(slot) => copy(&self.service.path("accounts.db"), &self.slot(slot)),
            Step::Restore(slot) => copy(&self.slot(slot), &self.service.path("accounts.db")),
            Step::Reload => self.service.signal(Signal::HUP),
        }
    }
}

/// By SID, as an import does: the command line renames no group.
fn rename_group(demo: &Demo, n: u8) {
    let line = serde_json::json!({ "type": "group", "name": group_name(n), "sid": format!("{}-1101", demo.domain_sid()) });
    fs::write(demo.path("group.jsonl"), line.to_string()).unwrap();
    let config = if demo.path("client.toml").exists() { "client.toml" } else { "rcmpd.toml" };
    demo.rcmpd(&["import", "group.jsonl", "--replace", "-c", config]).code(0);
}

/// `.backup` and `.restore` of SQLite's shell: the backup API, by a process that is not the service.
pub(crate) fn copy(from: &Path, to: &Path) {
    let script =
        "import sqlite3, sys; a, b = map(sqlite3.connect, sys.argv[1:]); a.backup(b); a.close(); b.close()";
    let done = std::process::Command::new("python3").args(["-c", script]).arg(from).arg(to).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

/// What a sidecar says.
fn seen_by_sidecar(service: &Service, domain_sid: &str, names: bool) -> Result<Seen, String> {
    let answer = ask_about(service, "alice", &[]);
    match answer.status {
        403 => Ok(Seen::NotMapped),
        200 => {
            let engineer = answer.header("x-identity-group-sids").contains(&format!("{domain_sid}-1101"));
            let group = names.then(|| {
                let groups = answer.header("remote-groups");
                let called = (0..10).map(group_name).find(|name| groups.contains(name.as_str()));
                called.unwrap_or_else(|| groups.to_owned())
            });
            Ok(Seen::Alice { name: answer.header("remote-name").to_owned(), engineer, group })
        }
        status => Err(format!("HTTP {status}\n{}", service.log())),
    }
}

/// A channel, and the association on which it is asked.
struct Asking {
    client: Client,
    association: Box<dyn Association>,
}

impl Asking {
    async fn new(server: &str, domain: &str, account: &str, password: &str) -> Result<Self, String> {
        let connected = Client::connect(server, domain, account, password).await;
        let (client, association) = connected.map_err(|error| error.to_string())?;
        Ok(Self { client, association })
    }

    /// `Err` if there was no answer, because the channel is of no use any more.
    async fn ask(&mut self, domain: &str, data: &[u8]) -> Result<Result<Seen, String>, String> {
        let answer = self.client.channel.ask(&mut *self.association, PACKAGE_NAME, domain, data).await;
        let answer = answer.map_err(|error| error.to_string())?;
        if answer.status.0 == 0xc000_006d {
            return Ok(Ok(Seen::NotMapped));
        }
        // What a channel gets whose machine was disabled or no longer has its secret.
        if answer.status.0 == 0xc000_0022 {
            return Err(answer.status.to_string());
        }
        if answer.status.0 != 0 {
            return Ok(Err(format!("{}", answer.status)));
        }
        let data = answer.data.unwrap().decrypted();
        let response = Response::decode(&data).unwrap();
        let info = pac::VerifiedPac::decode(response.auth_data).unwrap().logon_info;
        let engineer = info.group_ids.iter().any(|group| group.rid == 1101);
        Ok(Ok(Seen::Alice { name: info.full_name.text.clone(), engineer, group: None }))
    }
}

/// Asks over the machine's channel. If the channel ends, there was a reason since it was set up. If it is
/// answered, the machine was enabled, and the channel's secret was the present one or the one before.
async fn ask_as_machine(scene: &Scene, history: &History, data: &[u8]) {
    let server = scene.service.netlogon.to_string();
    let mut asking: Option<(Asking, usize, usize)> = None;
    while !history.stop.load(SeqCst) {
        let first = history.done.load(SeqCst);
        let Some((channel, secret, since)) = &mut asking else {
            let machine = history.between(first, first)[0].machine;
            let is_still = first == history.begun.load(SeqCst);
            if machine.enabled && is_still {
                let password = scene.secrets.lock().unwrap()[machine.secret].clone();
                match Asking::new(&server, "CONTOSO", MACHINE, &password).await {
                    Ok(channel) => asking = Some((channel, machine.secret, first)),
                    Err(error) => {
                        let models = history.between(first, history.begun.load(SeqCst));
                        if models.iter().all(|model| model.machine == machine) {
                            history.failed(format!("no channel: {error}, and there was {models:#?}"));
                        }
                    }
                }
            } else {
                if is_still {
                    history.answered[0].store(first + 1, SeqCst);
                }
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            continue;
        };
        let seen = channel.ask("CONTOSO", data).await;
        let last = history.begun.load(SeqCst);
        match seen {
            Ok(seen) => {
                let models = history.between(first, last);
                // The channel is looked at when the call arrives, and the accounts after that.
                let since =
                    models.iter().position(|model| model.machine.accepts(*secret)).unwrap_or(models.len());
                let explains = |model: &Model| seen.as_ref().is_ok_and(|seen| model.explains(seen));
                if !models[since..].iter().any(explains) {
                    history.failed(format!(
                        "the service answered {seen:?} to a channel of secret {secret}, and there was {models:#?}"
                    ));
                }
                history.answered[0].store(first + 1, SeqCst);
            }
            Err(error) => {
                let models = history.between(*since, last);
                let is_good = |model: &Model| model.machine.enabled && model.machine.secret == *secret;
                if models.iter().all(is_good) {
                    history.failed(format!("the channel of secret {secret} ended: {error}"));
                }
                asking = None;
            }
        }
    }
}

/// Asks at the other domain.
async fn ask_elsewhere(scene: &Scene, history: &History, data: &[u8]) {
    let password = fs::read_to_string(scene.other.path("machines/WEB01.secret")).unwrap();
    let server = scene.other.netlogon.to_string();
    let mut asking = Asking::new(&server, "FABRIKAM", "WEB01$", password.trim_end()).await.unwrap();
    let handle = tokio::runtime::Handle::current();
    tokio::task::block_in_place(|| {
        history.ask(3, "the other domain", || {
            handle.block_on(asking.ask("CONTOSO", data)).map_err(|error| format!("no answer: {error}"))?
        });
    });
}

/// Runs a sequence; what was wrong, if anything was.
fn run(scene: &Scene, steps: &[Step]) -> Result<(), String> {
    // Each sequence begins with what the first back-up has, which is a restore already.
    let data = question(&scene.service, "alice");
    let domain_sid = scene.service.domain_sid();
    copy(&scene.slot(0), &scene.service.path("accounts.db"));
    let first = Model {
        alice: Some(Alice { name: 0, disabled: false, engineer: true }),
        group: 0,
        machine: Machine { enabled: true, secret: 0, previous: None },
    };
    let mut slots = vec![None; SLOTS];
    slots[0] = Some(first.clone());
    let history = History { models: Mutex::new(vec![first]), ..History::default() };
    let runtime =
        || tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    std::thread::scope(|scope| {
        let (history, data, domain_sid) = (&history, &data, domain_sid.as_str());
        scope.spawn(move || runtime().block_on(ask_as_machine(scene, history, data)));
        scope.spawn(move || {
            history.ask(1, "the sidecar", || seen_by_sidecar(&scene.service, domain_sid, true));
        });
        scope.spawn(move || {
            history.ask(2, "the sidecar elsewhere", || seen_by_sidecar(&scene.web, domain_sid, false));
        });
        scope.spawn(move || runtime().block_on(ask_elsewhere(scene, history, data)));
        history.settle();
        for step in steps {
            if history.stop.load(SeqCst) {
                break;
            }
            let model = history.present();
            let Some(next) = scene.after(*step, &model, &slots) else { continue };
            if let Step::BackUp(slot) = step {
                slots[*slot] = Some(next.clone());
            }
            history.models.lock().unwrap().push(next);
            history.begun.fetch_add(1, SeqCst);
            scene.run(*step, &model);
            history.done.fetch_add(1, SeqCst);
            history.settle();
        }
        history.stop.store(true, SeqCst);
    });
    let failures = history.failures.into_inner().unwrap();
    match failures.is_empty() {
        true => Ok(()),
        false => Err(failures.join("\n")),
    }
}

#[test]
fn every_answer_is_of_contents_that_were_there_while_it_was_asked_for() {
    let scene = Scene::new();
    copy(&scene.service.path("accounts.db"), &scene.slot(0));
    let check = |steps: &[Step]| {
        let text: Vec<_> = steps.iter().map(Step::to_string).collect();
        run(&scene, steps).map_err(|why| format!("RCMPD_STEPS=\"{}\"\n{why}", text.join("; ")))
    };
    if let Ok(steps) = std::env::var("RCMPD_STEPS") {
        let steps: Vec<Step> = steps.split(';').map(|step| step.parse().unwrap()).collect();
        return check(&steps).unwrap_or_else(|why| panic!("{why}"));
    }
    // Two histories that count to the same numbers, whatever is drawn.
    let twice = "name 1; restore 0; name 2; restore 0; rename-group 1; restore 0; rename-group 2";
    let twice: Vec<Step> = twice.split(';').map(|step| step.parse().unwrap()).collect();
    check(&twice).unwrap_or_else(|why| panic!("{why}"));
    // A smaller sequence takes as long to find as it takes to read one.
    let config =
        Config { cases: SEQUENCES, max_shrink_iters: 0, failure_persistence: None, ..Config::default() };
    let sequences = proptest::collection::vec(any_step(), STEPS);
    let outcome = TestRunner::new(config).run(&sequences, |steps| check(&steps).map_err(TestCaseError::fail));
    outcome.unwrap_or_else(|error| panic!("{error}"));
}
