//! Writers that end at any step leave the old secret or the new one, never none.

use crate::{CutDisk, key_file, passphrase, put, store_in};
use sso_secret::{MachineId, MasterSecret, RestoreRules, SecretStore, State, UnixTime};
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

const OVERLAP: Duration = Duration::from_secs(100_000);

/// What an operation starts from.
fn folder_with(state: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let store = store_in(folder.path());
    if state != "none" {
        store.generate(UnixTime(1)).expect("it generates");
    }
    if state == "lost" {
        fs::remove_file(folder.path().join("master-secret.sealed")).expect("it is there");
    }
    folder
}

type Operation = fn(&SecretStore, &[u8]) -> bool;

#[test]
fn an_operation_that_is_cut_at_any_step_leaves_the_old_secret_or_the_new_one() {
    let source = folder_with("open");
    let backup = source.path().join("backup");
    store_in(source.path()).backup_to(&backup, &*passphrase("b"), UnixTime(2)).expect("a backup");
    let backup = fs::read(backup).expect("it is there");
    let operations: [(&str, &str, Operation); 7] = [
        ("none", "generate", |store, _| store.generate(UnixTime(5)).is_ok()),
        ("none", "restore", |store, backup| restore(store, backup)),
        ("lost", "restore", |store, backup| restore(store, backup)),
        ("open", "rotate", |store, _| store.rotate(UnixTime(5), OVERLAP).is_ok()),
        ("open", "import", |store, _| {
            let secret = MasterSecret::from_octets(&[5; 16]).expect("a secret");
            store.import(secret, UnixTime(5), OVERLAP).is_ok()
        }),
        ("open", "restore", |store, backup| restore(store, backup)),
        ("open", "adopt", |store, _| store.adopt().is_ok()),
    ];
    for (state, name, operation) in operations {
        for steps in 0.. {
            assert!(steps < 50, "{name} does not end");
            let folder = folder_with(state);
            let before = store_in(folder.path()).open().ok().map(|open| open.newest().1.clone());
            let disk = CutDisk::after(steps);
            let cut = store_in(folder.path()).with_disk(disk.clone());
            let done = operation(&cut, &backup);
            // The next process.
            let store = store_in(folder.path());
            match (store.state(), &before, done) {
                (State::Open(open), Some(before), false) => {
                    let generations: Vec<_> = open.generations().map(|(_, secret)| secret).collect();
                    assert!(
                        generations.contains(&before),
                        "{name} cut after {steps}: the old secret is lost"
                    );
                }
                (State::Open(_), None, _) | (State::Open(_), _, true) => {}
                (State::None, None, false) if state == "none" => {}
                (State::Sealed(_), None, false) if state == "lost" => {}
                (other, ..) => panic!("{name} cut after {steps} steps: {other:?}"),
            }
            // The operation can be done now, or was done.
            if !done && !matches!(store.state(), State::Open(_)) {
                assert!(operation(&store, &backup), "{name} cut after {steps} cannot be repeated");
            } else if !done {
                store.rotate(UnixTime(6), OVERLAP).expect("it works on");
            }
            let left: Vec<_> = fs::read_dir(folder.path())
                .expect("a folder")
                .map(|entry| entry.expect("an entry").file_name().into_string().expect("text"))
                .filter(|file| file.ends_with(".tmp"))
                .collect();
            assert_eq!(left, Vec::<String>::new(), "{name} cut after {steps}");
            if done && !disk.was_cut() {
                break;
            }
        }
    }
}

fn restore(store: &SecretStore, backup: &[u8]) -> bool {
    let rules = RestoreRules {
        allow_older: true,
        allow_foreign: true,
        replace_sealed: true,
        ..RestoreRules::default()
    };
    store.restore(backup, &*passphrase("b"), UnixTime(5), OVERLAP, rules).is_ok()
}

/// A reader that finds a new file may be faster than its writer: what it hands out is on the disk first.
#[test]
fn a_reader_serves_nothing_that_a_power_failure_takes_back() {
    let folder = folder_with("open");
    let server = store_in(folder.path()).with_disk(CutDisk::after(1));
    assert!(matches!(server.state(), State::Open(_)), "one step: the folder is synced");
    assert!(matches!(server.state(), State::Open(_)), "the same file is not synced again");
    store_in(folder.path()).rotate(UnixTime(5), OVERLAP).expect("it rotates");
    let State::Sealed(sealed) = server.state() else { panic!("the new file may not be on the disk") };
    assert!(sealed.why.contains("cannot be synced"), "{sealed}");
}

/// A power failure loses what was not synced: the file is synced before it gets its name, and the folder
/// before the call returns.
#[test]
fn contents_reach_the_disk_before_names() {
    use sso_secret::{Disk, RealDisk};
    use std::sync::Mutex;
    #[derive(Default)]
    struct Steps(Mutex<Vec<String>>);
    impl Steps {
        fn note(&self, what: &str, path: &Path) {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let name = if path.is_dir() { "folder".into() } else { name };
            self.0.lock().expect("one thread").push(format!("{what} {name}"));
        }
    }
    impl Disk for Steps {
        fn write_new(&self, path: &Path, bytes: &[u8]) -> std::io::Result<fs::File> {
            let written = RealDisk.write_new(path, bytes);
            written.inspect(|_| self.note("write", path))
        }
        fn append(&self, file: &fs::File, bytes: &[u8]) -> std::io::Result<()> {
            self.note("append", Path::new("master-secret.instance"));
            RealDisk.append(file, bytes)
        }
        fn sync(&self, path: &Path) -> std::io::Result<()> {
            self.note("sync", path);
            RealDisk.sync(path)
        }
        fn sync_system(&self, path: &Path) -> std::io::Result<()> {
            RealDisk.sync_system(path)
        }

        fn rename(&self, from: &Path, to: &Path) -> std::io::Result<()> {
            self.note("rename", from);
            RealDisk.rename(from, to)
        }
        fn remove(&self, path: &Path) -> std::io::Result<()> {
            RealDisk.remove(path)
        }
    }
    let folder = tempfile::tempdir().expect("a folder");
    let steps = Arc::new(Steps::default());
    let store = SecretStore::new(folder.path(), key_file(folder.path()), MachineId::new("m"))
        .with_disk(steps.clone());
    store.generate(UnixTime(1)).expect("it generates");
    store.rotate(UnixTime(2), OVERLAP).expect("it rotates");
    let replace = [
        "write master-secret.sealed.tmp",
        "sync master-secret.sealed.tmp",
        "rename master-secret.sealed.tmp",
        "sync folder",
    ];
    let note = ["append master-secret.instance", "sync master-secret.instance"];
    let create = ["write master-secret.instance", "sync folder"];
    // A writer that finds a file is a reader first.
    let read = ["sync folder"];
    let expected = [create.as_slice(), &replace, &note, &read, &replace, &note].concat();
    assert_eq!(*steps.0.lock().expect("one thread"), expected);
}

const CHILD: &str = "RCMPD_TEST_ROTATING_FOLDER";

/// Rotates without end in the folder that the environment names.
#[test]
fn child_that_rotates_until_it_is_killed() {
    let Some(folder) = std::env::var_os(CHILD) else { return };
    let store = store_in(Path::new(&folder));
    let start = store.open().expect("open").newest().0.created.0;
    for now in start + 10.. {
        // The overlap of the generation before the last has ended, so there is always room.
        store.rotate(UnixTime(now), Duration::from_secs(3)).expect("it rotates");
    }
}

#[test]
fn a_process_killed_while_it_rotates_leaves_a_secret() {
    let folder = folder_with("open");
    let mut last = 1;
    for round in 0..20u32 {
        let mut child = Command::new(std::env::current_exe().expect("this program"))
            .args(["--exact", "crash::child_that_rotates_until_it_is_killed"])
            .env(CHILD, folder.path())
            .stdout(Stdio::null())
            .spawn()
            .expect("it starts");
        let store = store_in(folder.path());
        let newest = || store.open().map(|open| open.newest().0.number);
        let deadline = Instant::now() + Duration::from_secs(20);
        // Killed after a different count of rotations each time, at whatever step it is in.
        while newest().expect("a reader always finds a secret") < last + 1 + round {
            assert!(Instant::now() < deadline, "the child does not rotate");
            std::thread::sleep(Duration::from_micros(200 + 37 * u64::from(round)));
        }
        child.kill().expect("it runs");
        child.wait().expect("it ends");
        let after = store_in(folder.path()).open().expect("a secret is there").newest().0.number;
        assert!(after > last);
        last = after;
    }
    put(&folder.path().join("done"), b"");
    store_in(folder.path()).rotate(UnixTime(1_000_000), OVERLAP).expect("it works on");
}
