//! Operations on a store, each with what it refuses.

use crate::{key_file, long_ago, passphrase, purpose, put, store_in};
use sso_secret::backup::Backup;
use sso_secret::blob::{self};
use sso_secret::{
    GENERATIONS_MAX, KeyFile, KeyId, Keyring, MachineId, MasterSecret, Origin, Overlap, PageLock,
    RecipientKey, RestoreRules, SecretStore, State, StoreError, UnixTime,
};
use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

const OVERLAP: Duration = Duration::from_secs(1000);

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a folder")
}

fn backup(store: &SecretStore, path: &Path, now: u64) -> Vec<u8> {
    store.backup_to(path, &*passphrase("backup"), UnixTime(now)).expect("a backup");
    fs::read(path).expect("it is there")
}

fn numbers(store: &SecretStore) -> Vec<u32> {
    store.open().expect("open").generations().map(|(generation, _)| generation.number).collect()
}

/// The files of a folder with their contents, without the lock.
fn files(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let mut files: Vec<_> = fs::read_dir(folder)
        .expect("a folder")
        .map(|entry| entry.expect("an entry"))
        .map(|entry| {
            (entry.file_name().to_string_lossy().into_owned(), fs::read(entry.path()).expect("a file"))
        })
        .collect();
    files.sort();
    files
}

#[test]
fn a_secret_is_generated_once_and_lives_in_files_of_its_owner() {
    let folder = folder();
    let store = store_in(folder.path());
    assert_eq!(store.status().state, "none");
    assert!(matches!(store.rotate(UnixTime(1), OVERLAP), Err(StoreError::NoSecret)));
    let open = store.generate(UnixTime(10)).expect("it generates");
    assert!(matches!(store.generate(UnixTime(11)), Err(StoreError::Exists)));
    let again = store_in(folder.path()).open().expect("another process opens it");
    assert_eq!(again.newest().1, open.newest().1);
    assert_eq!((again.newest().0.number, again.newest().0.created), (1, UnixTime(10)));
    for file in ["master-secret.sealed", "master-secret.instance"] {
        let mode = folder.path().join(file).metadata().expect("it is there").permissions().mode();
        assert_eq!(mode & 0o7777, 0o600, "{file}");
    }
    let octets = open.newest().1.expose();
    for (name, bytes) in files(folder.path()) {
        assert!(!bytes.windows(16).any(|window| window == octets), "{name} holds the secret in clear");
    }
}

#[test]
fn files_and_folders_that_others_may_use_are_refused() {
    let folder = folder();
    let store = store_in(folder.path());
    let mode =
        |path: &Path, mode| fs::set_permissions(path, Permissions::from_mode(mode)).expect("it is ours");
    mode(folder.path(), 0o777);
    assert!(matches!(store.generate(UnixTime(1)), Err(StoreError::Folder { mode: 0o777, .. })));
    mode(folder.path(), 0o755);
    store.generate(UnixTime(1)).expect("it generates");
    mode(&folder.path().join("master-secret.instance"), 0o644);
    let refused = store.rotate(UnixTime(2), OVERLAP).expect_err("other users can hold the lock");
    assert!(refused.to_string().contains("chmod 600"), "{refused}");
    mode(&folder.path().join("master-secret.instance"), 0o600);
    for (file, others) in [("master-secret.sealed", 0o640), ("master-secret.sealed", 0o604), ("key", 0o640)] {
        mode(&folder.path().join(file), others);
        let State::Sealed(sealed) = store.reload() else { panic!("{file} can be read by others") };
        assert!(sealed.to_string().contains("can be used by users other than its owner"), "{sealed}");
        mode(&folder.path().join(file), 0o600);
        assert!(matches!(store.reload(), State::Open(_)));
    }
}

/// An operator who works as root leaves files that the service can read. Other users can only write to their
/// own folders.
#[test]
fn new_files_belong_to_the_owner_of_their_folder() {
    let folder = folder();
    let owner = std::os::unix::fs::chown(folder.path(), Some(12345), Some(12346));
    let expected = folder.path().metadata().expect("a folder");
    assert_eq!(owner.is_ok(), expected.uid() == 12345);
    let store = store_in(folder.path());
    store.generate(UnixTime(1)).expect("it generates");
    store.rotate(UnixTime(2), OVERLAP).expect("it rotates");
    for file in ["master-secret.sealed", "master-secret.instance"] {
        let file = folder.path().join(file).metadata().expect("it is there");
        assert_eq!((file.uid(), file.gid()), (expected.uid(), expected.gid()));
    }
}

/// The folder is the service's, and the operator may be root: a link there would have any file written to.
#[test]
fn a_link_in_place_of_the_lock_is_not_followed() {
    let folder = folder();
    let target = folder.path().join("another file");
    put(&target, b"");
    std::os::unix::fs::symlink(&target, folder.path().join("master-secret.instance")).expect("it is new");
    assert!(matches!(store_in(folder.path()).generate(UnixTime(1)), Err(StoreError::File { .. })));
    assert_eq!(fs::read(&target).expect("it is there"), b"");
    assert!(!folder.path().join("master-secret.sealed").exists());
}

/// The folder is the service's. An operator who works as root must not copy another file into it, and nothing
/// may wait for a pipe.
#[test]
fn a_link_or_pipe_in_place_of_the_sealed_file_is_not_read() {
    let folder = folder();
    let store = store_in(folder.path());
    store.generate(UnixTime(1)).expect("it generates");
    let bytes = backup(&store, &folder.path().join("backup"), 2);
    let sealed = folder.path().join("master-secret.sealed");
    let copy = fs::read(&sealed).expect("it is there");
    let private = folder.path().join("a file of root");
    put(&private, &copy);
    let link: fn(&Path, &Path) = |target, name| std::os::unix::fs::symlink(target, name).expect("it is new");
    let pipe: fn(&Path, &Path) = |_, name| {
        assert!(Command::new("mkfifo").arg("-m600").arg(name).status().expect("it runs").success());
    };
    let endless: fn(&Path, &Path) =
        |_, name| std::os::unix::fs::symlink("/dev/zero", name).expect("it is new");
    let rules = RestoreRules {
        replace_sealed: true,
        allow_older: true,
        allow_foreign: true,
        ..RestoreRules::default()
    };
    for (make, why) in [(link, "symbolic link"), (pipe, "not a regular file"), (endless, "symbolic link")] {
        fs::remove_file(&sealed).expect("it is there");
        make(&private, &sealed);
        let State::Sealed(refused) = store.reload() else { panic!("{why}: it was read") };
        assert!(refused.why.contains(why), "{refused}");
        assert!(store.status().facts.is_none());
        let refused = store.restore(&bytes, &*passphrase("backup"), UnixTime(9), OVERLAP, rules);
        assert!(matches!(&refused, Err(StoreError::File { error, .. }) if error.to_string().contains(why)));
        assert!(!folder.path().join("master-secret.sealed.replaced-9").exists());
    }
    // Removed, it is a lost file, and the restore passes.
    fs::remove_file(&sealed).expect("it is there");
    store.restore(&bytes, &*passphrase("backup"), UnixTime(9), OVERLAP, rules).expect("it restores");
}

/// A second name of a file of root is as good as a link.
#[test]
fn a_sealed_file_of_another_user_is_not_kept_aside() {
    let folder = folder();
    let store = store_in(folder.path());
    store.generate(UnixTime(1)).expect("it generates");
    let bytes = backup(&store, &folder.path().join("backup"), 2);
    let sealed = folder.path().join("master-secret.sealed");
    put(&sealed, b"not a sealed file");
    if std::os::unix::fs::chown(folder.path(), Some(12345), Some(12346)).is_err() {
        // Only root can make files of two users.
        return;
    }
    let rules = RestoreRules { replace_sealed: true, ..RestoreRules::default() };
    let restore = || store.restore(&bytes, &*passphrase("backup"), UnixTime(9), OVERLAP, rules);
    let refused = restore().expect_err("it belongs to root");
    assert!(refused.to_string().contains("belongs to another user"), "{refused}");
    assert!(!folder.path().join("master-secret.sealed.replaced-9").exists());
    std::os::unix::fs::chown(&sealed, Some(12345), Some(12346)).expect("root may");
    restore().expect("it restores");
    let kept = fs::read(folder.path().join("master-secret.sealed.replaced-9")).expect("kept");
    assert_eq!(kept, b"not a sealed file");
}

#[test]
fn a_missing_or_changed_source_seals_and_generates_nothing() {
    let folder = folder();
    store_in(folder.path()).generate(UnixTime(1)).expect("it generates");
    let before = files(folder.path());
    let missing = Arc::new(KeyFile::file(&folder.path().join("other")));
    let unset = Arc::new(KeyFile::credential("unseal", None));
    let swapped = passphrase("other");
    for (source, named) in [
        (missing as Arc<dyn sso_secret::SealingSource>, "other is missing"),
        (unset, "cred:unseal cannot be read: $CREDENTIALS_DIRECTORY is not set"),
        (swapped, "passphrase:typed is a passphrase, and the file is sealed with"),
    ] {
        let store = SecretStore::new(folder.path(), source, MachineId::new("m"));
        let State::Sealed(sealed) = store.state() else { panic!("it is sealed") };
        assert!(sealed.to_string().contains(named), "{sealed}");
        let secret = MasterSecret::from_octets(&[7; 16]).expect("a secret");
        assert!(matches!(store.generate(UnixTime(2)), Err(StoreError::Sealed(_))));
        assert!(matches!(store.rotate(UnixTime(2), OVERLAP), Err(StoreError::Sealed(_))));
        assert!(matches!(store.import(secret, UnixTime(2), OVERLAP), Err(StoreError::Sealed(_))));
        assert!(matches!(store.adopt(), Err(StoreError::Sealed(_))));
        assert!(store.status().sealed.expect("why").contains(named));
    }
    assert_eq!(files(folder.path()), before, "the files are unchanged");
    fs::remove_file(folder.path().join("master-secret.sealed")).expect("it is there");
    let store = store_in(folder.path());
    let State::Sealed(sealed) = store.state() else { panic!("there was a secret") };
    assert!(sealed.to_string().contains("master-secret.sealed is missing"), "{sealed}");
    assert!(
        matches!(store.generate(UnixTime(2)), Err(StoreError::Sealed(_))),
        "a lost secret is not replaced"
    );
}

#[test]
fn a_credential_of_systemd_is_a_key_file() {
    let folder = folder();
    put(&folder.path().join("unseal"), format!("{}\n", "0123456789abcdef".repeat(4)).as_bytes());
    let source = |name: &str| Arc::new(KeyFile::credential(name, Some(folder.path())));
    let store = SecretStore::new(folder.path(), source("unseal"), MachineId::new("m"));
    store.generate(UnixTime(1)).expect("it generates");
    for (name, why) in [("../unseal", "is no name of a credential"), ("nothing", "is missing")] {
        let store = SecretStore::new(folder.path(), source(name), MachineId::new("m"));
        let State::Sealed(sealed) = store.state() else { panic!("{name}") };
        assert_eq!(sealed.to_string(), format!("cred:{name} {why}"));
    }
    put(&folder.path().join("unseal"), b"0123456789");
    assert!(matches!(store.reload(), State::Sealed(_)), "too short");
}

#[test]
fn a_rotation_keeps_the_older_generation_for_the_overlap() {
    let folder = folder();
    let store = store_in(folder.path());
    let first = store.generate(UnixTime(100)).expect("it generates");
    // A second process, which has the store open, sees what the first one does.
    let server = store_in(folder.path());
    assert_eq!(server.open().expect("open").newest().0.number, 1);
    let second = store.rotate(UnixTime(200), OVERLAP).expect("it rotates");
    assert_eq!(server.open().expect("open").newest().1, second.newest().1);
    assert_eq!(numbers(&server), [2, 1]);
    let older = second.generations().nth(1).expect("the older one");
    assert_eq!((older.0.superseded, older.0.overlap_ends), (Some(UnixTime(200)), Some(UnixTime(1200))));
    assert_eq!(older.1, first.newest().1);
    assert_eq!(second.keyring().key_ids().count(), 2);
    store.rotate(UnixTime(1199), OVERLAP).expect("it rotates");
    assert_eq!(numbers(&store), [3, 2, 1]);
    store.rotate(UnixTime(1200), OVERLAP).expect("it rotates");
    assert_eq!(numbers(&store), [4, 3, 2], "the overlap of 1 has ended");
    let mut now = 1201;
    while numbers(&store).len() < GENERATIONS_MAX {
        store.rotate(UnixTime(now), OVERLAP).expect("it rotates");
        now += 1;
    }
    let before = files(folder.path());
    assert!(
        matches!(store.rotate(UnixTime(now), OVERLAP), Err(StoreError::NotAdded(why)) if why.contains("overlap already"))
    );
    assert_eq!(files(folder.path()), before);
}

/// After a leak a fresh key is needed whatever overlaps.
#[test]
fn a_rotation_can_end_older_overlaps_and_always_finds_room() {
    let folder = folder();
    let store = store_in(folder.path());
    store.generate(UnixTime(1)).expect("it generates");
    for now in 2..=GENERATIONS_MAX as u64 {
        store.rotate(UnixTime(now), OVERLAP).expect("it rotates");
    }
    assert!(matches!(store.rotate(UnixTime(10), OVERLAP), Err(StoreError::NotAdded(_))));
    let overlap = |seconds| Overlap { time: Duration::from_secs(seconds), shorten_older: true };
    let refused = store.rotate(UnixTime(10), overlap(5000)).expect_err("it shortens none, so none is lost");
    assert!(refused.to_string().contains("overlap already"), "{refused}");
    let open = store.rotate(UnixTime(10), overlap(30)).expect("it rotates");
    assert_eq!(numbers(&store), [9, 8, 7, 6, 5, 4, 3, 2]);
    assert!(open.generations().skip(1).all(|(older, _)| older.overlap_ends == Some(UnixTime(40))));
    // An overlap is never made longer.
    let open = store.rotate(UnixTime(20), overlap(10)).expect("it rotates");
    assert!(open.generations().skip(1).all(|(older, _)| older.overlap_ends == Some(UnixTime(30))));
    let open = store.rotate(UnixTime(21), overlap(0)).expect("it rotates");
    assert_eq!((numbers(&store), open.keyring().key_ids().count()), (vec![11], 1));
}

/// Seconds of the clock of the next test.
static NOW: AtomicU64 = AtomicU64::new(0);

#[test]
fn a_generation_whose_overlap_has_ended_is_nowhere_any_more() {
    let folder = folder();
    let on_clock = || store_in(folder.path()).with_clock(|| UnixTime(NOW.load(Ordering::SeqCst)));
    let store = on_clock();
    store.generate(UnixTime(1)).expect("it generates");
    store.rotate(UnixTime(2), OVERLAP).expect("it rotates");
    NOW.store(1001, Ordering::SeqCst);
    assert_eq!(numbers(&store), [2, 1]);
    NOW.store(1002, Ordering::SeqCst);
    for store in [&store, &on_clock()] {
        assert_eq!(numbers(store), [2], "the file is the same, and the overlap has ended");
        assert_eq!(store.open().expect("open").keyring().key_ids().count(), 1);
        assert_eq!(store.status().facts.expect("facts").generations.len(), 1);
    }
    assert_eq!(numbers(&store_in(folder.path())), [2, 1], "nothing was written");
    let bytes = backup(&store, &folder.path().join("backup"), 1002);
    let listed = Backup::read(&bytes).expect("a backup");
    assert_eq!(listed.generations().len(), 1);
    assert_eq!(numbers(&store_in(folder.path())), [2], "any write drops it from the file");
}

#[test]
fn one_writer_at_a_time() {
    let folder = folder();
    let store = store_in(folder.path());
    store.generate(UnixTime(1)).expect("it generates");
    let lock = fs::File::open(folder.path().join("master-secret.instance")).expect("the lock");
    lock.lock().expect("it is free");
    assert!(matches!(store.rotate(UnixTime(2), OVERLAP), Err(StoreError::Busy { .. })));
    assert!(store.open().is_ok(), "reading needs no lock");
    drop(lock);
    store.rotate(UnixTime(2), OVERLAP).expect("it rotates");
}

#[test]
fn an_imported_secret_is_the_first_or_the_next_generation() {
    let folder = folder();
    let store = store_in(folder.path());
    let secret = |octet| MasterSecret::from_octets(&[octet; 16]).expect("a secret");
    let open = store.import(secret(1), UnixTime(1), OVERLAP).expect("it imports");
    assert_eq!((open.newest().0.number, open.newest().0.origin), (1, Origin::Imported));
    let open = store.import(secret(2), UnixTime(2), OVERLAP).expect("it imports");
    assert_eq!((open.newest().0.number, open.newest().1.clone()), (2, secret(2)));
    for octet in [1, 2] {
        let refused = store.import(secret(octet), UnixTime(3), OVERLAP).expect_err("in use already");
        assert!(refused.to_string().contains(&format!("as generation {octet}")), "{refused}");
    }
}

#[test]
fn backup_restore_and_three_rotations_open_every_blob() {
    let (here, there) = (folder(), folder());
    let store = store_in(here.path());
    let mut blobs = Vec::new();
    let mut seal = |store: &SecretStore| {
        let keys = store.open().expect("open").keyring();
        let data = blobs.len().to_string();
        blobs.push(blob::seal(&keys, &purpose("p"), data.as_bytes(), data.as_bytes()).expect("sealed"));
        blobs.clone()
    };
    store.generate(UnixTime(1)).expect("it generates");
    seal(&store);
    store.rotate(UnixTime(2), OVERLAP).expect("it rotates");
    seal(&store);
    let bytes = backup(&store, &here.path().join("backup"), 3);
    let facts = store.status().facts.expect("facts");
    assert_eq!((facts.last_backup, facts.backup_is_current), (Some(UnixTime(3)), true));
    // Restored elsewhere, under another sealing key.
    put(&there.path().join("another key"), &[9; 32]);
    let source = Arc::new(KeyFile::file(&there.path().join("another key")));
    let restored =
        SecretStore::new(there.path(), source, MachineId::new("other machine")).with_clock(long_ago);
    restored
        .restore(&bytes, &*passphrase("backup"), UnixTime(4), OVERLAP, RestoreRules::default())
        .expect("it restores");
    assert_eq!(numbers(&restored), [2, 1]);
    let mut all = Vec::new();
    for now in 5..8 {
        restored.rotate(UnixTime(now), OVERLAP).expect("it rotates");
        all = seal(&restored);
    }
    assert_eq!(numbers(&restored), [5, 4, 3, 2, 1]);
    let keys = restored.open().expect("open").keyring();
    assert_eq!(all.len(), 5);
    for (index, blob) in all.iter().enumerate() {
        let data = index.to_string();
        let opened = blob::open(&keys, &purpose("p"), data.as_bytes(), blob).expect("it opens");
        assert_eq!(*opened.plain, data.as_bytes());
    }
    let [ours, theirs] = [store, restored].map(|store| store.status().facts.expect("facts"));
    assert_eq!(ours.lineage, theirs.lineage);
    assert_ne!(ours.instance, theirs.instance);
    assert_eq!(
        (theirs.last_backup, theirs.backup_is_current),
        (None, false),
        "the new folder was never backed up"
    );
}

#[test]
fn a_restore_refuses_older_foreign_and_forked_backups_by_name() {
    let (here, foreign, copy) = (folder(), folder(), folder());
    let store = store_in(here.path());
    store.generate(UnixTime(1)).expect("it generates");
    let old = backup(&store, &here.path().join("old"), 2);
    store.rotate(UnixTime(3), OVERLAP).expect("it rotates");
    let live = store.open().expect("open");
    let other = store_in(foreign.path());
    other.generate(UnixTime(1)).expect("it generates");
    let strange = backup(&other, &foreign.path().join("backup"), 2);
    let fork = store_in(copy.path());
    fork.restore(&old, &*passphrase("backup"), UnixTime(3), OVERLAP, RestoreRules::default())
        .expect("it restores");
    fork.rotate(UnixTime(4), OVERLAP).expect("it rotates by itself");
    let forked = backup(&fork, &copy.path().join("backup"), 5);

    let before = files(here.path());
    let restore =
        |bytes: &[u8], rules| store.restore(bytes, &*passphrase("backup"), UnixTime(9), OVERLAP, rules);
    let none = RestoreRules::default();
    assert!(matches!(restore(&old, none), Err(StoreError::Older { backup: 1, live: 2 })));
    assert!(matches!(restore(&strange, none), Err(StoreError::Foreign { .. })));
    assert!(matches!(restore(&forked, none), Err(StoreError::Forked(2))));
    for (bytes, option) in
        [(&old, "--allow-older"), (&strange, "--allow-foreign"), (&forked, "--allow-foreign")]
    {
        let refused = restore(bytes, none).expect_err("it is refused");
        assert!(refused.to_string().ends_with(&format!("to restore it all the same: {option}")), "{refused}");
    }
    let foreign_only = RestoreRules { allow_foreign: true, ..none };
    assert!(matches!(restore(&old, foreign_only), Err(StoreError::Older { .. })));
    let wrong = store.restore(
        &old,
        &*passphrase("wrong"),
        UnixTime(9),
        OVERLAP,
        RestoreRules { allow_older: true, ..none },
    );
    assert!(matches!(wrong, Err(StoreError::Backup(_))), "{wrong:?}");
    assert_eq!(files(here.path()), before, "the files are unchanged");

    // Asked for by name: the backup's newest becomes the newest, and nothing that the live one sealed is
    // lost.
    let blob = blob::seal(&live.keyring(), &purpose("p"), &[], b"sealed before").expect("sealed");
    let open = restore(&old, RestoreRules { allow_older: true, ..none }).expect("it restores");
    assert_eq!((open.newest().0.number, open.newest().0.origin), (3, Origin::Restored));
    assert_eq!(open.newest().1, live.generations().nth(1).expect("generation 1").1);
    assert!(!blob::open(&open.keyring(), &purpose("p"), &[], &blob).expect("it opens").is_newest);
    for (bytes, theirs) in [(&strange, &other), (&forked, &fork)] {
        let open = restore(bytes, foreign_only).expect("it restores");
        assert_eq!(open.newest().1, theirs.open().expect("open").newest().1);
        blob::open(&open.keyring(), &purpose("p"), &[], &blob).expect("it opens still");
        let reopened = store_in(here.path()).open().expect("the file is whole");
        assert_eq!(reopened.generations().count(), open.generations().count());
    }
}

#[test]
fn a_sealed_store_is_replaced_only_by_name_and_kept_aside() {
    let here = folder();
    let store = store_in(here.path());
    store.generate(UnixTime(1)).expect("it generates");
    let bytes = backup(&store, &here.path().join("backup"), 2);
    let old = fs::read(here.path().join("master-secret.sealed")).expect("it is there");
    put(&here.path().join("new key"), &[3; 32]);
    let source = Arc::new(KeyFile::file(&here.path().join("new key")));
    let lost = SecretStore::new(here.path(), source, MachineId::new("m")).with_clock(long_ago);
    let restore = |rules| lost.restore(&bytes, &*passphrase("backup"), UnixTime(9), OVERLAP, rules);
    assert!(matches!(restore(RestoreRules::default()), Err(StoreError::Sealed(_))));
    let open =
        restore(RestoreRules { replace_sealed: true, ..RestoreRules::default() }).expect("it restores");
    assert_eq!(
        open.newest().1,
        store.open().map(|_| open.newest().1.clone()).as_ref().unwrap_or(open.newest().1)
    );
    assert_eq!(fs::read(here.path().join("master-secret.sealed.replaced-9")).expect("kept"), old);
    assert!(matches!(lost.reload(), State::Open(_)));
}

#[test]
fn a_drill_proves_that_the_backup_opens_what_the_live_store_seals() {
    let (here, scratch) = (folder(), folder());
    let store = store_in(here.path());
    store.generate(UnixTime(1)).expect("it generates");
    let bytes = backup(&store, &here.path().join("backup"), 2);
    let drill = |now| store.drill(&bytes, &*passphrase("backup"), scratch.path(), UnixTime(now));
    assert_eq!(store.status().facts.expect("facts").last_drill, None);
    drill(3).expect("it passes");
    assert_eq!(store.status().facts.expect("facts").last_drill, Some(UnixTime(3)));
    assert_eq!(files(scratch.path()), [], "nothing is left");
    let rotated = store.rotate(UnixTime(4), OVERLAP).expect("it rotates");
    let key_id = rotated.newest().0.key_id;
    assert!(matches!(drill(5), Err(StoreError::Drill { number: 2, key_id: found }) if found == key_id));
    let wrong = store.drill(&bytes, &*passphrase("wrong"), scratch.path(), UnixTime(6));
    assert!(matches!(wrong, Err(StoreError::Backup(_))));
    let facts = store.status().facts.expect("facts");
    assert_eq!((facts.last_drill, facts.backup_is_current), (Some(UnixTime(3)), false));
    assert_eq!(files(scratch.path()), [], "nothing is left");
}

#[test]
fn a_backup_for_a_public_key_opens_with_the_private_one() {
    let here = folder();
    let store = store_in(here.path());
    let open = store.generate(UnixTime(1)).expect("it generates");
    let key = RecipientKey::create(&here.path().join("recipient")).expect("a key");
    let recipient = key.recipient().expect("its public key");
    let recipient = sso_secret::Recipient::parse(&recipient.to_string()).expect("it reads its own text");
    let path = here.path().join("backup");
    store.backup_to(&path, &recipient, UnixTime(2)).expect("a backup");
    assert!(store.backup_to(&path, &recipient, UnixTime(3)).is_err(), "a file that exists is never replaced");
    assert_eq!(path.metadata().expect("it is there").permissions().mode() & 0o7777, 0o600);
    let bytes = fs::read(&path).expect("it is there");
    let there = folder();
    let restored = store_in(there.path())
        .restore(&bytes, &key, UnixTime(2), OVERLAP, known(&open.newest().0.key_id.to_string()))
        .expect("it restores");
    assert_eq!(restored.newest().1, open.newest().1);
    let other = RecipientKey::create(&here.path().join("other")).expect("a key");
    store_in(folder().path())
        .restore(&bytes, &other, UnixTime(2), OVERLAP, RestoreRules::default())
        .expect_err("another key");
}

fn known(key_id: &str) -> RestoreRules {
    RestoreRules { key_id: KeyId::parse(key_id), ..RestoreRules::default() }
}

/// Each program that has the public key can write a backup of a secret of its choice.
#[test]
fn a_backup_for_a_public_key_is_restored_only_with_a_live_secret_or_a_known_key_id() {
    let (here, theirs) = (folder(), folder());
    let store = store_in(here.path());
    store.generate(UnixTime(1)).expect("it generates");
    let key = RecipientKey::create(&here.path().join("recipient")).expect("a key");
    let to_public = |store: &SecretStore, name: &str| {
        let path = here.path().join(name);
        store.backup_to(&path, &key.recipient().expect("public"), UnixTime(2)).expect("a backup");
        fs::read(path).expect("it is there")
    };
    let own = to_public(&store, "own");
    let attacker = store_in(theirs.path());
    let forged_id = attacker.generate(UnixTime(1)).expect("it generates").newest().0.key_id;
    let forged = to_public(&attacker, "forged");
    let before = files(here.path());
    let all = RestoreRules {
        allow_older: true,
        allow_foreign: true,
        replace_sealed: true,
        ..RestoreRules::default()
    };
    let restore =
        |store: &SecretStore, bytes: &[u8], rules| store.restore(bytes, &key, UnixTime(3), OVERLAP, rules);
    let refused = |store: &SecretStore| match restore(store, &forged, all) {
        Err(StoreError::Unauthenticated(id)) => assert_eq!(id, forged_id),
        other => panic!("{other:?}"),
    };
    refused(&store);
    let empty = folder();
    refused(&store_in(empty.path()));
    assert_eq!(files(here.path()), before);
    // A sealed store has no secret to compare with.
    let sealed = SecretStore::new(here.path(), passphrase("another"), MachineId::from_system());
    assert!(matches!(sealed.state(), State::Sealed(_)));
    refused(&sealed);
    // The key id that is known from elsewhere, and another one.
    let live_id = store.open().expect("open").newest().0.key_id.to_string();
    let other = restore(&store_in(empty.path()), &forged, known(&live_id));
    assert!(matches!(other, Err(StoreError::OtherKeyId { .. })), "{other:?}");
    restore(&store, &own, RestoreRules::default()).expect("its newest secret is live");
    restore(&store_in(empty.path()), &own, known(&live_id)).expect("its key id is known");
    store.drill(&own, &key, here.path(), UnixTime(4)).expect("a rehearsal proves the secrets");
    // The newest secret counts: it would be served.
    store.rotate(UnixTime(5), Duration::ZERO).expect("it rotates");
    let older = RestoreRules { allow_older: true, ..RestoreRules::default() };
    assert!(matches!(restore(&store, &own, older), Err(StoreError::Unauthenticated(_))));
    // A passphrase authenticates, but for an operator who is not the owner it is not enough.
    let typed = backup(&attacker, &here.path().join("typed"), 6);
    let live_only = RestoreRules { live_only: true, ..all };
    let refused = store.restore(&typed, &*passphrase("backup"), UnixTime(7), OVERLAP, live_only);
    assert!(matches!(refused, Err(StoreError::NotLive)), "{refused:?}");
}

#[test]
fn a_copied_folder_serves_and_does_not_rotate_until_it_is_adopted() {
    let (here, there) = (folder(), folder());
    let store = store_in(here.path());
    let open = store.generate(UnixTime(1)).expect("it generates");
    for (name, bytes) in files(here.path()) {
        put(&there.path().join(name), &bytes);
    }
    let other_machine = SecretStore::new(here.path(), key_file(here.path()), MachineId::new("other"));
    for copy in [store_in(there.path()), other_machine] {
        let copied = copy.open().expect("it serves");
        assert_eq!(copied.newest().1, open.newest().1);
        assert!(copied.is_copy() && copy.status().facts.expect("facts").is_copy);
        let secret = MasterSecret::from_octets(&[1; 16]).expect("a secret");
        assert!(matches!(copy.rotate(UnixTime(2), OVERLAP), Err(StoreError::Copy { .. })));
        assert!(matches!(copy.import(secret, UnixTime(2), OVERLAP), Err(StoreError::Copy { .. })));
    }
    let copy = store_in(there.path());
    assert!(!store.open().expect("open").is_copy());
    let adopted = copy.adopt().expect("it is adopted");
    assert!(!adopted.is_copy());
    copy.rotate(UnixTime(3), OVERLAP).expect("it rotates");
    let [ours, theirs] = [store, copy].map(|store| store.status().facts.expect("facts"));
    assert_ne!(ours.instance, theirs.instance);
    // Each write replaces the sealed file, and the folder stays its own.
    assert!(!store_in(there.path()).open().expect("open").is_copy());
}

/// A file that is put back would give the number of a generation that nodes have to another secret.
#[test]
fn an_older_sealed_file_that_is_put_back_is_not_opened() {
    let here = folder();
    let store = store_in(here.path());
    store.generate(UnixTime(1)).expect("it generates");
    let sealed = here.path().join("master-secret.sealed");
    let older = fs::read(&sealed).expect("it is there");
    let bytes = backup(&store, &here.path().join("backup"), 2);
    let backed_up = fs::read(&sealed).expect("it is there");
    store.rotate(UnixTime(3), OVERLAP).expect("it rotates");
    let newest = fs::read(&sealed).expect("it is there");
    let secret = |octet| MasterSecret::from_octets(&[octet; 16]).expect("a secret");
    for file in [&older, &backed_up] {
        put(&sealed, file);
        for store in [&store, &store_in(here.path())] {
            let State::RolledBack(why) = store.state() else { panic!("an older file is used") };
            assert!(why.why.contains("write 3 with generation 2 was here before"), "{why}");
            assert!(why.why.contains("restore a backup in its place with --replace-sealed"), "{why}");
            assert!(matches!(store.rotate(UnixTime(4), OVERLAP), Err(StoreError::Sealed(_))));
            assert!(matches!(store.import(secret(5), UnixTime(4), OVERLAP), Err(StoreError::Sealed(_))));
            assert!(matches!(store.generate(UnixTime(4)), Err(StoreError::Sealed(_))));
            let none = RestoreRules::default();
            let restored = store.restore(&bytes, &*passphrase("backup"), UnixTime(4), OVERLAP, none);
            assert!(matches!(restored, Err(StoreError::Sealed(_))));
            assert_eq!(store.status().state, "sealed");
        }
    }
    assert_eq!(&fs::read(&sealed).expect("it is there"), &backed_up, "nothing was written");
    put(&sealed, &newest);
    assert_eq!(numbers(&store), [2, 1]);
    assert_eq!(numbers(&store_in(here.path())), [2, 1]);

    // By the word of an operator: the number of the lost generation is not given again.
    put(&sealed, &older);
    store_in(here.path()).adopt().expect("it is adopted");
    assert_eq!(numbers(&store), [3]);
    put(&sealed, &newest);
    assert!(matches!(store.state(), State::RolledBack(_)), "a file of an earlier instance");
    let rules = RestoreRules { replace_sealed: true, allow_older: true, ..RestoreRules::default() };
    let restored = store_in(here.path())
        .restore(&bytes, &*passphrase("backup"), UnixTime(5), OVERLAP, rules)
        .expect("it restores");
    assert_eq!(restored.newest().0.number, 4);
    assert_eq!(numbers(&store), [4]);
    store.rotate(UnixTime(6), OVERLAP).expect("it works on");
}

/// A user who can write to the folder can remove the lines, too. A process that has seen the newer file does
/// not forget it.
#[test]
fn an_open_store_notices_a_rollback_of_the_whole_folder() {
    let here = folder();
    let store = store_in(here.path());
    store.generate(UnixTime(1)).expect("it generates");
    let older = files(here.path());
    let first = store.open().expect("open");
    store.rotate(UnixTime(2), OVERLAP).expect("it rotates");
    let second = store.open().expect("open");
    assert!(first.is_behind(&second) && !second.is_behind(&first) && !second.is_behind(&second));
    for (name, bytes) in older {
        fs::write(here.path().join(name), bytes).expect("it can be written");
    }
    for _ in 0..2 {
        assert!(matches!(store.reload(), State::RolledBack(_)), "a reload forgets nothing");
        // Nor does a time without a file.
        let sealed = here.path().join("master-secret.sealed");
        let kept = fs::read(&sealed).expect("it is there");
        fs::remove_file(&sealed).expect("it is there");
        assert!(matches!(store.state(), State::Sealed(_)));
        put(&sealed, &kept);
    }
}

/// A copy stays a copy, whatever happens to its sealed file.
#[test]
fn a_restore_in_place_of_the_sealed_file_of_a_copy_leaves_a_copy() {
    let here = folder();
    let store = store_in(here.path());
    store.generate(UnixTime(1)).expect("it generates");
    let bytes = backup(&store, &here.path().join("backup"), 2);
    store.rotate(UnixTime(3), OVERLAP).expect("it rotates");
    for damage in ["another key", "damaged", "lost"] {
        let there = folder();
        for (name, bytes) in files(here.path()) {
            put(&there.path().join(name), &bytes);
        }
        let sealed = there.path().join("master-secret.sealed");
        match damage {
            "another key" => put(&there.path().join("key"), &[9; 32]),
            "damaged" => put(&sealed, b"damaged"),
            _ => fs::remove_file(&sealed).expect("it is there"),
        }
        let copy = store_in(there.path());
        let refused = copy
            .restore(&bytes, &*passphrase("backup"), UnixTime(4), OVERLAP, RestoreRules::default())
            .expect_err("what is sealed is not replaced by the way");
        assert!(matches!(refused, StoreError::Sealed(_)), "{damage}: {refused}");
        let names_the_way_out = refused.to_string().ends_with("restore a backup with --replace-sealed");
        assert_eq!(names_the_way_out, damage != "another key", "{refused}");
        let rules = RestoreRules { replace_sealed: true, allow_older: true, ..RestoreRules::default() };
        let restored = copy
            .restore(&bytes, &*passphrase("backup"), UnixTime(4), OVERLAP, rules)
            .unwrap_or_else(|error| panic!("{damage}: {error}"));
        assert!(restored.is_copy(), "{damage}");
        assert!(matches!(copy.rotate(UnixTime(5), OVERLAP), Err(StoreError::Copy { .. })), "{damage}");
        assert!(store_in(there.path()).open().expect("it serves").is_copy(), "{damage}");
        copy.adopt().expect("it is adopted");
        let rotated = copy.rotate(UnixTime(6), OVERLAP).expect("it rotates");
        assert!(rotated.newest().0.number > 3, "{damage}: no number of the original is given again");
    }
    // The original is restored without a copy.
    fs::remove_file(here.path().join("master-secret.sealed")).expect("it is there");
    let rules = RestoreRules { replace_sealed: true, ..RestoreRules::default() };
    store.restore(&bytes, &*passphrase("backup"), UnixTime(4), OVERLAP, rules).expect("it restores");
    store.rotate(UnixTime(5), OVERLAP).expect("it rotates");
}

#[test]
fn the_sealing_source_can_be_changed() {
    let here = folder();
    let store = store_in(here.path());
    let open = store.generate(UnixTime(1)).expect("it generates");
    let changed = store.change_source(passphrase("new")).expect("it is changed");
    assert_eq!(changed.open().expect("open").newest().1, open.newest().1);
    assert!(matches!(store_in(here.path()).state(), State::Sealed(_)), "the old key opens it no more");
    changed.rotate(UnixTime(2), OVERLAP).expect("it rotates");
}

#[test]
fn public_facts_hold_no_secret_and_say_whether_pages_are_locked() {
    let here = folder();
    let store = store_in(here.path());
    let open = store.generate(UnixTime(1)).expect("it generates");
    let status = store.status();
    assert!(matches!(status.page_lock, Some(PageLock::Locked | PageLock::Refused(_))));
    let text = format!("{status:?}");
    assert!(
        !text.contains(&dtyp::hex(open.newest().1.expose()))
            && text.contains(&open.newest().0.key_id.to_string())
    );
    assert_eq!(Keyring::new(open.newest().1.clone()).newest().0, open.newest().0.key_id);
}

const CHILD: &str = "RCMPD_TEST_NO_LOCKED_PAGES";

/// Says how a secret is kept, where the environment asks for it.
#[test]
fn child_that_may_lock_no_page() {
    if std::env::var_os(CHILD).is_none() {
        return;
    }
    let here = folder();
    let open = store_in(here.path()).generate(UnixTime(1)).expect("it generates without locked pages too");
    println!("page lock: {:?}", open.page_lock());
}

#[test]
fn a_limit_that_forbids_locked_pages_is_told() {
    // Root may lock pages whatever the limit is, so it gives up its capabilities.
    let is_root = fs::metadata("/proc/self").expect("a process").uid() == 0;
    let no_capabilities = ["setpriv", "--bounding-set=-all"];
    let output = Command::new("prlimit")
        .arg("--memlock=0")
        .args(no_capabilities.iter().filter(|_| is_root))
        .arg(std::env::current_exe().expect("this program"))
        .args(["--exact", "store::child_that_may_lock_no_page", "--nocapture"])
        .env(CHILD, "1")
        .output()
        .expect("prlimit of util-linux runs");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("page lock: Refused("), "{output:?}");
}
