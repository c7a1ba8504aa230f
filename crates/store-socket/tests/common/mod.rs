//! The example in Python with accounts of its own, and stores that ask a socket.
#![allow(dead_code, reason = "each test uses a part of it")]

use account_store::battery::{domain, filled};
use account_store::{MemoryStore, Record, json_lines};
use rustix::process::{Pid, Signal, geteuid, kill_process};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;
use store_socket::{Meter, Settings, SocketStore};
use tempfile::TempDir;
use tokio::runtime::{Builder, Runtime};

/// The value of a future that is ready, as those of a store in memory are.
fn now<T>(future: impl Future<Output = T>) -> T {
    Builder::new_current_thread().build().expect("a runtime").block_on(future)
}

/// What `rcmpd export` writes of these accounts and their groups.
pub(crate) fn export(records: &[Record]) -> Vec<u8> {
    let (store, _) = filled((MemoryStore::new(domain()), ()), records);
    let mut lines = Vec::new();
    let counts = now(json_lines::export(&store, &mut lines, &mut |_| ())).expect("it is exported");
    json_lines::write_end(&mut lines, &counts).expect("it is exported");
    lines
}

/// The example; it ends with this value.
pub(crate) struct Program {
    pub(crate) folder: TempDir,
    pub(crate) child: Child,
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Program {
    pub(crate) fn start(lines: &[u8]) -> Self {
        let folder = tempfile::tempdir().expect("there is room for temporary files");
        std::fs::write(folder.path().join("accounts.jsonl"), lines).expect("the folder is writable");
        let child = run(folder.path());
        Self { folder, child }
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.path().join("store.sock")
    }

    /// Stops it, until all its threads stand still.
    pub(crate) fn stop(&self) {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, Signal::STOP).expect("it runs");
        let is_stopped = |stat: &str| stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('T'));
        let tasks = format!("/proc/{}/task", self.child.id());
        let all_stopped = || {
            let tasks = std::fs::read_dir(&tasks).expect("it is there").flatten();
            let stats = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("stat")).ok());
            stats.into_iter().all(|stat| is_stopped(&stat))
        };
        while !all_stopped() {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    pub(crate) fn resume(&self) {
        kill_process(Pid::from_child(&self.child), Signal::CONT).expect("it runs");
    }

    /// Ends it as if it had crashed, and starts another one.
    pub(crate) fn restart(&mut self) {
        self.child.kill().expect("it runs");
        self.child.wait().expect("it ran");
        self.child = run(self.folder.path());
    }
}

fn run(folder: &Path) -> Child {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/socket-store/accounts_socket.py");
    let mut command = Command::new("python3");
    command.arg(script).arg("accounts.jsonl").arg("store.sock").current_dir(folder);
    let mut child = command.stdout(Stdio::piped()).spawn().expect("python3 is installed");
    let mut line = String::new();
    let out = child.stdout.take().expect("it is piped");
    BufReader::new(out).read_line(&mut line).expect("it writes");
    assert!(line.starts_with("Ready"), "{line}");
    child
}

/// Settings for a socket of this user.
pub(crate) fn settings(path: &Path) -> Settings {
    Settings {
        domain: domain(),
        path: path.to_owned(),
        peer: geteuid().as_raw(),
        check_place: Arc::new(|| Ok(())),
        timeout: Duration::from_secs(20),
        connections_max: 4,
        fresh: Duration::from_secs(3600),
        meter: Arc::new(Meter::default()),
    }
}

pub(crate) fn runtime() -> Runtime {
    Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime")
}

/// A store whose tasks run in this runtime.
pub(crate) fn open(runtime: &Runtime, settings: Settings) -> SocketStore {
    let _entered = runtime.enter();
    SocketStore::open(settings)
}
