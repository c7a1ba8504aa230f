//! Nodes of a farm: the overlap, outages of the server, and moving blobs to a new generation.

use crate::{CutDisk, key_file, passphrase, purpose, put, store_in};
use sso_secret::blob;
use sso_secret::node::{CacheLimits, Delivery, NodeError};
use sso_secret::reseal::{files_of, reseal_files};
use sso_secret::{BlobError, Keyring, MasterSecret, NodeKeys, RealDisk, RecipientKey, SecretStore, UnixTime};
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Barrier;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

const LIMITS: CacheLimits =
    CacheLimits { max_age: Duration::from_secs(600), overlap: Duration::from_secs(3600) };

fn secret(octet: u8) -> MasterSecret {
    MasterSecret::from_octets(&[octet; 16]).expect("a secret")
}

fn node(path: &Path) -> NodeKeys {
    NodeKeys::open(path, key_file(path.parent().expect("a folder")), LIMITS).expect("the cache opens")
}

#[test]
fn a_node_works_through_an_outage_up_to_the_configured_age() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("node");
    assert!(matches!(node(&path).keys(UnixTime(1000)), Err(NodeError::Empty)));
    assert_eq!(
        node(&path).delivered(secret(1), UnixTime(1000)).expect("kept"),
        Delivery::New(secret(1).key_id())
    );
    // The node starts again, and no server answers.
    let cached = node(&path).keys(UnixTime(1600)).expect("600 s are allowed");
    assert_eq!((cached.age, cached.keys.newest().0), (Duration::from_secs(600), secret(1).key_id()));
    let refused = node(&path).keys(UnixTime(1601)).expect_err("too old");
    assert_eq!(
        refused.to_string(),
        "the cached key is 601 s old, and at most 600 s are allowed: the server has to be reached"
    );
    assert!(matches!(refused, NodeError::TooOld { age, .. } if age == Duration::from_secs(601)));
    assert!(node(&path).keys(UnixTime(701)).is_ok(), "a clock that was set a little");
    assert!(
        matches!(node(&path).keys(UnixTime(699)), Err(NodeError::Clock(_))),
        "a clock that makes no key young"
    );
    assert_eq!(
        node(&path).delivered(secret(1), UnixTime(2000)).expect("kept"),
        Delivery::Same(secret(1).key_id())
    );
    assert_eq!(node(&path).keys(UnixTime(2100)).expect("delivered again").age, Duration::from_secs(100));
}

#[test]
fn a_node_keeps_older_keys_for_the_overlap() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("node");
    let deliver = |octet, now| node(&path).delivered(secret(octet), UnixTime(now)).expect("kept");
    let ids = |now| {
        let cached = node(&path).keys(UnixTime(now)).expect("keys");
        cached.keys.key_ids().collect::<Vec<_>>()
    };
    let id = |octet| secret(octet).key_id();
    deliver(1, 100);
    deliver(2, 200);
    deliver(3, 300);
    assert_eq!(ids(300), [id(3), id(2), id(1)]);
    deliver(2, 400);
    assert_eq!(ids(400), [id(2), id(3), id(1)], "an older secret was restored on the server");
    deliver(2, 3799);
    assert_eq!(ids(3799), [id(2), id(3), id(1)], "1 was superseded at 200");
    assert_eq!(ids(3800), [id(2), id(3)]);
    deliver(2, 3999);
    assert_eq!(ids(3999), [id(2), id(3)]);
    assert_eq!(ids(4000), [id(2)]);
}

#[test]
fn the_same_key_is_not_written_at_each_poll() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("node");
    let mut polling = node(&path);
    polling.delivered(secret(1), UnixTime(100)).expect("kept");
    let before = fs::read(&path).expect("it is there");
    polling.delivered(secret(1), UnixTime(159)).expect("kept");
    assert_eq!(fs::read(&path).expect("it is there"), before);
    assert_eq!(polling.keys(UnixTime(160)).expect("keys").age, Duration::from_secs(1));
    polling.delivered(secret(1), UnixTime(160)).expect("kept");
    assert_ne!(fs::read(&path).expect("it is there"), before);
}

#[test]
fn a_cache_whose_sealing_key_is_missing_stays_as_it_is() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("node");
    node(&path).delivered(secret(1), UnixTime(100)).expect("kept");
    let before = fs::read(&path).expect("it is there");
    assert!(!before.windows(16).any(|window| window == [1; 16]), "the key is sealed");
    let sealed = NodeKeys::open(&path, passphrase("other"), LIMITS).err().expect("sealed");
    assert!(sealed.to_string().contains("passphrase:typed is a passphrase"), "{sealed}");
    let mut open = node(&path);
    put(&folder.path().join("key"), &[9; 32]);
    assert!(matches!(open.delivered(secret(2), UnixTime(900)), Err(NodeError::Sealed(_))));
    assert_eq!(fs::read(&path).expect("it is there"), before);
}

#[test]
fn a_new_node_learns_older_keys_from_a_backup_for_it() {
    let (server, farm) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
    let store = store_in(server.path());
    let first = store.generate(UnixTime(100)).expect("it generates");
    let blob = blob::seal(&first.keyring(), &purpose("p"), &[], b"older").expect("sealed");
    let newest = store.rotate(UnixTime(200), LIMITS.overlap).expect("it rotates").newest().1.clone();
    let key = RecipientKey::create(&farm.path().join("recipient")).expect("a key");
    let path = server.path().join("for the node");
    store.backup_to(&path, &key.recipient().expect("public"), UnixTime(300)).expect("a backup");
    let bytes = fs::read(path).expect("it is there");

    let mut fresh = node(&farm.path().join("node"));
    assert!(matches!(fresh.take_backup(&bytes, &key, UnixTime(300)), Err(NodeError::Empty)));
    fresh.delivered(newest.clone(), UnixTime(300)).expect("kept");
    // A farm of another one, who knows the public key.
    let theirs = tempfile::tempdir().expect("a folder");
    let attacker = store_in(theirs.path());
    attacker.generate(UnixTime(100)).expect("it generates");
    attacker.rotate(UnixTime(200), LIMITS.overlap).expect("it rotates");
    let forged = attacker.backup_for_node(key.recipient().expect("public"), UnixTime(300)).expect("a backup");
    let refused = fresh.take_backup(&forged, &key, UnixTime(300));
    assert!(matches!(refused, Err(NodeError::NotAuthenticated(id)) if id == newest.key_id()), "{refused:?}");
    assert_eq!(fresh.keys(UnixTime(300)).expect("keys").keys.key_ids().count(), 1);
    let open = |node: &NodeKeys| {
        let keys = node.keys(UnixTime(300)).expect("keys").keys;
        blob::open(&keys, &purpose("p"), &[], &blob).map(|opened| opened.plain.to_vec())
    };
    assert_eq!(open(&fresh), Err(BlobError::UnknownKey(first.newest().0.key_id)));
    assert_eq!(fresh.take_backup(&bytes, &key, UnixTime(300)).expect("learnt"), 1);
    assert_eq!(open(&node(&farm.path().join("node"))), Ok(b"older".to_vec()));
    // The overlap goes on from the rotation at 200, not from when the backup was read.
    let ids = |now| node(&farm.path().join("node")).keys(UnixTime(now)).expect("keys").keys.key_ids().count();
    fresh.delivered(newest.clone(), UnixTime(3799)).expect("kept");
    assert_eq!((ids(3799), ids(3800)), (2, 1));
    fresh.delivered(newest.clone(), UnixTime(3900)).expect("kept");
    assert_eq!(fresh.take_backup(&bytes, &key, UnixTime(3900)).expect("read"), 0, "it does not come back");
    assert_eq!(ids(3900), 1);
}

/// A node that is killed at each step of keeping a new key: afterwards it opens what it sealed before and
/// what others seal now.
#[test]
fn a_node_cut_at_any_step_of_a_delivery_has_the_old_keys_or_all() {
    for steps in 0..20 {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("node");
        node(&path).delivered(secret(1), UnixTime(100)).expect("kept");
        let disk = CutDisk::after(steps);
        let mut cut =
            NodeKeys::open_on(disk.clone(), &path, key_file(folder.path()), LIMITS).expect("it opens");
        let done = cut.delivered(secret(2), UnixTime(200)).is_ok();
        let known: Vec<_> = node(&path).keys(UnixTime(200)).expect("keys").keys.key_ids().collect();
        let [old, new] = [1, 2].map(|octet| secret(octet).key_id());
        assert!(known == [new, old] || (known == [old] && !done), "cut after {steps}: {known:?}");
        node(&path).delivered(secret(2), UnixTime(201)).expect("fetched again");
        let known: Vec<_> = node(&path).keys(UnixTime(201)).expect("keys").keys.key_ids().collect();
        assert_eq!(known, [new, old]);
        if done && !disk.was_cut() {
            return;
        }
    }
    panic!("a delivery has fewer steps");
}

/// What a node of the rehearsal does: it asks the server, keeps the key, seals, and opens what others sealed.
/// It is restarted before each round with a disk that ends at some step.
struct Farm<'a> {
    server: &'a SecretStore,
    blobs: &'a Path,
    clock: AtomicU64,
    count: AtomicU64,
}

impl Farm<'_> {
    fn fetch(&self, keys: &mut NodeKeys) -> Result<(), NodeError> {
        let newest = self.server.open().expect("the server serves").newest().1.clone();
        keys.delivered(newest, UnixTime(self.clock.fetch_add(1, Ordering::SeqCst))).map(drop)
    }

    fn keys(&self, keys: &NodeKeys) -> Option<Keyring> {
        keys.keys(UnixTime(self.clock.load(Ordering::SeqCst))).ok().map(|cached| cached.keys)
    }

    fn round(&self, path: &Path, steps: usize) {
        let source = key_file(path.parent().expect("a folder"));
        let mut keys = NodeKeys::open_on(CutDisk::after(steps), path, source, LIMITS)
            .expect("the cache is whole after a kill");
        // A node that was killed before it had the new key seals under the old one, as it did before.
        let _ = self.fetch(&mut keys);
        let Some(ring) = self.keys(&keys) else { return };
        let name = self.count.fetch_add(1, Ordering::SeqCst).to_string();
        let blob = blob::seal(&ring, &purpose("p"), name.as_bytes(), name.as_bytes()).expect("sealed");
        let draft = self.blobs.join(format!("{name}.draft"));
        fs::write(&draft, blob).expect("it is written");
        fs::rename(draft, self.blobs.join(name)).expect("it gets its name");
    }

    /// Opens every blob with the keys of one node, which asks the server once if it does not know a key.
    fn open_all(&self, path: &Path) {
        let mut keys = node(path);
        for name in self.names() {
            let bytes = fs::read(self.blobs.join(&name)).expect("a blob");
            let open = |keys: &NodeKeys| {
                let ring = self.keys(keys).expect("keys");
                blob::open(&ring, &purpose("p"), name.as_bytes(), &bytes)
            };
            let opened = match open(&keys) {
                Err(BlobError::UnknownKey(_)) => {
                    self.fetch(&mut keys).expect("kept");
                    open(&keys)
                }
                other => other,
            };
            assert_eq!(*opened.expect("every blob opens on every node").plain, name.as_bytes());
        }
    }

    fn names(&self) -> Vec<String> {
        let names =
            fs::read_dir(self.blobs).expect("a folder").map(|entry| entry.expect("an entry").file_name());
        names.map(|name| name.into_string().expect("text")).filter(|name| !name.ends_with(".draft")).collect()
    }
}

#[test]
fn rotations_under_load_with_nodes_killed_at_each_step_lose_no_blob() {
    const NODES: usize = 3;
    let (server, blobs) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
    let homes: Vec<_> = (0..NODES).map(|_| tempfile::tempdir().expect("a folder")).collect();
    let paths: Vec<PathBuf> = homes.iter().map(|home| home.path().join("node")).collect();
    let store = store_in(server.path());
    store.generate(UnixTime(100)).expect("it generates");
    let farm =
        Farm { server: &store, blobs: blobs.path(), clock: AtomicU64::new(100), count: AtomicU64::new(0) };
    let barrier = Barrier::new(NODES + 1);
    std::thread::scope(|scope| {
        for (index, path) in paths.iter().enumerate() {
            let (farm, barrier) = (&farm, &barrier);
            scope.spawn(move || {
                farm.fetch(&mut node(path)).expect("the first key");
                for rotation in 0..5 {
                    barrier.wait();
                    // The server rotates now. A delivery has at most 6 steps.
                    for steps in 0..8 {
                        farm.round(path, (steps + index + rotation) % 8);
                    }
                    barrier.wait();
                    // Each node asks once more before the next rotation: they are further apart than two
                    // polls.
                    farm.fetch(&mut node(path)).expect("the newest key");
                    barrier.wait();
                }
            });
        }
        for _ in 0..5 {
            barrier.wait();
            store.rotate(UnixTime(farm.clock.load(Ordering::SeqCst)), LIMITS.overlap).expect("it rotates");
            barrier.wait();
            barrier.wait();
        }
    });
    assert!(farm.names().len() >= 5 * NODES * 8, "each round sealed: {}", farm.names().len());
    paths.iter().for_each(|path| farm.open_all(path));
    let open = store.open().expect("open");
    assert_eq!(open.newest().0.number, 6);
    // Two nodes reseal at once. A file that one of them replaced is done for the other.
    let reseal = |path: &Path| {
        let ring = farm.keys(&node(path)).expect("keys");
        let associated = |path: &Path| path.file_name().expect("a name").as_encoded_bytes().to_vec();
        reseal_files(&RealDisk, &ring, &purpose("p"), &associated, files_of(farm.blobs).expect("a folder"))
    };
    std::thread::scope(|scope| {
        for path in &paths[..2] {
            let reseal = &reseal;
            scope.spawn(move || {
                let report = reseal(path);
                assert!(report.is_complete(), "{report:?}");
            });
        }
    });
    let report = reseal(&paths[2]);
    assert_eq!((report.resealed, report.current), (0, farm.names().len()), "{report:?}");
    let newest = Keyring::new(open.newest().1.clone());
    for name in farm.names() {
        let bytes = fs::read(blobs.path().join(&name)).expect("a blob");
        let opened =
            blob::open(&newest, &purpose("p"), name.as_bytes(), &bytes).expect("the newest key opens it");
        assert_eq!(*opened.plain, name.as_bytes());
    }
}

const CHILD: &str = "RCMPD_TEST_RESEAL_FOLDER";
const BLOBS: usize = 10_000;

fn ring() -> Keyring {
    Keyring::new(secret(2)).with_older(secret(1))
}

/// Reseals the folder that the environment names, and prints a line for each file that it begins with.
#[test]
fn child_that_reseals() {
    let Some(folder) = std::env::var_os(CHILD) else { return };
    let said = |path: &Path| {
        // Long lines fill the pipe soon, so this process is never more than about a hundred files ahead of
        // its parent.
        writeln!(std::io::stdout(), "begun {}{:1024}", path.display(), "").expect("the parent reads");
        path.file_name().expect("a name").as_encoded_bytes().to_vec()
    };
    let report = reseal_files(
        &RealDisk,
        &ring(),
        &purpose("p"),
        &said,
        files_of(Path::new(&folder)).expect("a folder"),
    );
    assert!(report.is_complete(), "{report:?}");
    println!("resealed {}", report.resealed);
}

#[test]
fn resealing_ten_thousand_blobs_killed_ten_times_ends_complete() {
    // In memory: a killed process loses nothing that it wrote, on whichever disk, and the disk would be most
    // of the time.
    let folder = tempfile::tempdir_in("/dev/shm").expect("a folder");
    let old = Keyring::new(secret(1));
    for index in 0..BLOBS {
        let name = index.to_string();
        let blob = blob::seal(&old, &purpose("p"), name.as_bytes(), name.as_bytes()).expect("sealed");
        fs::write(folder.path().join(name), blob).expect("it is written");
    }
    let is_done = |name: &str| {
        blob::key_id(&fs::read(folder.path().join(name)).expect("never none")).expect("a blob")
            == secret(2).key_id()
    };
    let done = || (0..BLOBS).filter(|index| is_done(&index.to_string())).count();
    let start = || {
        Command::new(std::env::current_exe().expect("this program"))
            .args(["--exact", "farm::child_that_reseals", "--nocapture"])
            .env(CHILD, folder.path())
            .stdout(Stdio::piped())
            .spawn()
            .expect("it starts")
    };
    let mut last = 0;
    for kill in 1..=10 {
        let mut child = start();
        let lines = BufReader::new(child.stdout.take().expect("it is piped")).lines();
        let begun = lines.map(|line| line.expect("a line")).filter(|line| line.starts_with("begun"));
        // Files that are done come and go quickly, so count those that were not.
        let mut count = 0;
        for line in begun {
            let name = line.trim_end().rsplit('/').next().expect("a name").to_owned();
            count += usize::from(!is_done(&name));
            if count >= 500 + kill {
                break;
            }
        }
        child.kill().expect("it runs");
        child.wait().expect("it ends");
        let now = done();
        assert!(last < now && now < BLOBS, "kill {kill}: {last}, then {now}");
        last = now;
    }
    let output = start().wait_with_output().expect("it ends");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        text.contains(&format!("resealed {}", BLOBS - last)),
        "the last run does what is left: {}",
        output.status
    );
    assert_eq!(done(), BLOBS);
    let newest = Keyring::new(secret(2));
    for index in 0..BLOBS {
        let name = index.to_string();
        let bytes = fs::read(folder.path().join(&name)).expect("a blob");
        let opened = blob::open(&newest, &purpose("p"), name.as_bytes(), &bytes).expect("it opens");
        assert_eq!(*opened.plain, name.as_bytes());
    }
    assert_eq!(fs::read_dir(folder.path()).expect("a folder").count(), BLOBS, "no draft is left");
}

#[test]
fn a_file_that_cannot_be_resealed_is_named_and_left_as_it_is() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().expect("a folder");
    let seal = |octet| blob::seal(&Keyring::new(secret(octet)), &purpose("p"), &[], b"x").expect("sealed");
    let path = |name: &str| folder.path().join(name);
    for (name, bytes) in
        [("good", seal(1)), ("unknown", seal(9)), ("text", b"no blob".to_vec()), ("current", seal(2))]
    {
        fs::write(path(name), bytes).expect("it is written");
    }
    fs::set_permissions(path("good"), fs::Permissions::from_mode(0o640)).expect("it is ours");
    std::os::unix::fs::symlink(path("good"), path("link")).expect("it is new");
    let before = ["unknown", "text", "current"].map(|name| fs::read(path(name)).expect("a file"));
    let report = reseal_files(
        &RealDisk,
        &ring(),
        &purpose("p"),
        &|_| Vec::new(),
        files_of(folder.path()).expect("a folder"),
    );
    assert_eq!((report.resealed, report.current, report.failures), (1, 1, 2));
    assert!(!report.is_complete());
    let named: Vec<_> = report.failed.iter().map(|(path, _)| path.clone()).collect();
    assert!(named.contains(&path("unknown")) && named.contains(&path("text")));
    assert_eq!(["unknown", "text", "current"].map(|name| fs::read(path(name)).expect("a file")), before);
    assert_eq!(
        path("good").metadata().expect("a file").permissions().mode() & 0o7777,
        0o640,
        "its mode stays"
    );
    // Named in a list, a link or a pipe is refused too. Nothing waits for the pipe.
    let pipe = Command::new("mkfifo").arg(path("pipe")).status().expect("mkfifo runs");
    assert!(pipe.success());
    let listed = ["link", "pipe"].map(|name| Ok(path(name)));
    let report = reseal_files(&RealDisk, &ring(), &purpose("p"), &|_| Vec::new(), listed);
    assert_eq!(report.failures, 2, "{report:?}");
    assert!(path("link").symlink_metadata().expect("a link").is_symlink());
}
