use super::verify::{Report, Unusable, VerifyOptions, verify};
use super::watched_file::Change;
use super::writer::Position;
use super::*;
use dtyp::hex;
use ed25519_file::{PublicKey, make_key};
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// A folder with a log, checkpoints and a key.
struct Place(TempDir);

impl Place {
    fn new() -> Self {
        let place = Self(tempfile::tempdir().expect("a folder"));
        make_key(&place.path("key")).expect("a key");
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn config(&self, heads: bool) -> Settings {
        let heads = heads.then(|| CheckpointSettings {
            path: self.path("heads"),
            key: self.path("key"),
            interval: Duration::from_secs(60),
        });
        Settings {
            path: Some(self.path("log")),
            required: true,
            certificates: true,
            chain: true,
            heads,
            account_budget: 1 << 30,
            copies: Vec::new(),
            otlp: None,
        }
    }

    fn open(&self, heads: bool) -> AuditLog {
        AuditLog::open(&self.config(heads)).expect("the log opens")
    }

    fn key(&self) -> PublicKey {
        PublicKey::read(&self.path("key.pub")).expect("the public half")
    }

    fn verify(&self, files: &[&str], heads: bool) -> Result<Report, Unusable> {
        self.verify_from(1, files, heads)
    }

    fn verify_from(&self, first_seq: u64, files: &[&str], heads: bool) -> Result<Report, Unusable> {
        let files: Vec<PathBuf> = files.iter().map(|name| self.path(name)).collect();
        let path = self.path("heads");
        let (heads, key) = (heads.then_some(&*path), self.key());
        verify(&files, &VerifyOptions { heads, trusted: &[key], first_seq }, &mut |_| {})
    }

    #[track_caller]
    fn good(&self, files: &[&str], heads: bool) -> Report {
        let report = self.verify(files, heads).expect("the files can be used");
        assert_eq!(report.broken, None);
        report
    }

    /// Line and reason of what is broken.
    #[track_caller]
    fn broken(&self, files: &[&str], heads: bool) -> (String, u64, String) {
        let broken = self.verify(files, heads).expect("the files can be used").broken.expect("it is broken");
        let name = broken.file.file_name().expect("a file").to_string_lossy().into_owned();
        (name, broken.line, broken.what)
    }

    fn lines(&self, name: &str) -> Vec<String> {
        let text = fs::read_to_string(self.path(name)).expect("it can be read");
        text.lines().map(str::to_owned).collect()
    }

    fn put(&self, name: &str, lines: &[String]) {
        let text: String = lines.iter().flat_map(|line| [line, "\n"]).collect();
        fs::write(self.path(name), text).expect("it can be written");
    }

    fn append(&self, name: &str, bytes: &[u8]) {
        let mut file = OpenOptions::new().append(true).open(self.path(name)).expect("it is there");
        file.write_all(bytes).expect("there is room");
    }
}

fn tell(log: &AuditLog, number: u64) {
    log.write(None, &json!({ "event": "test", "number": number })).expect("it is written");
}

fn value(line: &str) -> Value {
    serde_json::from_str(line).expect("a line is JSON")
}

#[test]
fn each_line_carries_the_hash_of_the_one_before_it() {
    let place = Place::new();
    let log = place.open(false);
    (0..3).for_each(|number| tell(&log, number));
    let lines = place.lines("log");
    assert_eq!(lines.len(), 4);
    let mut prev = "0".repeat(64);
    for (line, seq) in lines.iter().zip(1..) {
        let value = value(line);
        assert_eq!(
            (&value["seq"], &value["prev"], &value["version"]),
            (&json!(seq), &json!(prev), &json!(1))
        );
        prev = hex(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, line.as_bytes()).as_ref());
    }
    assert_eq!(value(&lines[0])["event"], "log_opened");
    assert_eq!(value(&lines[0])["new_chain"], true);
    assert_eq!(value(&lines[3])["number"], 2);
    let report = place.good(&["log"], false);
    assert_eq!((report.first_seq, report.last_seq, report.heads), (1, 4, None));
}

#[test]
fn a_log_without_a_chain_has_no_links() {
    let place = Place::new();
    let config = Settings { chain: false, ..place.config(false) };
    let log = AuditLog::open(&config).expect("it opens");
    tell(&log, 7);
    let line = value(&place.lines("log")[0]);
    let object = line.as_object().expect("an object");
    assert_eq!(object.keys().collect::<Vec<_>>(), ["event", "number", "time", "version"]);
    assert!(matches!(place.verify(&["log"], false), Err(Unusable::NotChained(_))));
    assert!(matches!(place.verify(&["nothing"], false), Err(Unusable::Unreadable { .. })));
    let error = AuditLog::open(&place.config(false)).err().expect("these lines are of no chain");
    assert!(format!("{error:#}").contains("move the file away"), "{error:#}");
}

#[test]
fn a_chain_goes_on_over_a_restart_and_a_rotation() {
    let place = Place::new();
    let log = place.open(false);
    tell(&log, 1);
    drop(log);
    let log = place.open(false);
    tell(&log, 2);
    log.reopen(&place.config(false)).expect("nothing was moved");
    tell(&log, 3);
    fs::rename(place.path("log"), place.path("log.1")).expect("it can be moved");
    // Until it is told, it writes where it wrote.
    tell(&log, 4);
    log.reopen(&place.config(false)).expect("a new file is made");
    tell(&log, 5);
    drop(log);
    tell(&place.open(false), 6);
    assert_eq!(place.lines("log.1").len(), 5);
    assert_eq!(place.lines("log").len(), 2);
    let report = place.good(&["log.1", "log"], false);
    assert_eq!((report.first_seq, report.last_seq), (1, 7));
    // The newer file alone is verified only by an operator who says that it is.
    assert!(place.broken(&["log"], false).2.contains("the beginning is missing (seq 1 to 5)"));
    let alone = place.verify_from(6, &["log"], false).expect("it can be used");
    assert_eq!((alone.broken, alone.first_seq), (None, 6));
    // In another order, and with one too many.
    assert_eq!(place.good(&["log", "log.1"], false), report);
    assert_eq!(
        place.broken(&["log.1", "log.1"], false).2,
        "a new chain starts here, and the one before it ended with seq 5; is a file named twice, or of another service?"
    );
}

#[test]
fn lines_of_many_threads_are_one_chain() {
    let place = Place::new();
    let log = place.open(true);
    std::thread::scope(|scope| {
        for number in 0..4 {
            let (log, place) = (&log, &place);
            scope.spawn(move || {
                for _ in 0..100 {
                    tell(log, number);
                    if number == 0 {
                        log.sign();
                        log.reopen(&place.config(true)).expect("nothing was moved");
                    }
                }
            });
        }
    });
    log.sign();
    let report = place.good(&["log"], true);
    assert_eq!((report.last_seq, report.heads.expect("there are heads").not_covered), (401, 0));
}

/// No reader finds a line in a file that has no name any more, whether lines are required or not.
#[test]
fn no_record_counts_in_a_file_without_a_name() {
    for required in [false, true] {
        let place = Place::new();
        let config = Settings { required, ..place.config(false) };
        let log = AuditLog::open(&config).expect("the log opens");
        let event = json!({ "event": "test" });
        assert_eq!(log.record(None, &event), Ok(()));
        fs::remove_file(place.path("log")).expect("it can be removed");
        fs::create_dir(place.path("log")).expect("a folder can be made");
        log.watch();
        let why = log.record(None, &event).expect_err("the line would be lost");
        assert!(why.contains("was removed or replaced"), "{why}");
        fs::remove_dir(place.path("log")).expect("it can be removed");
        log.watch();
        assert_eq!(log.record(None, &event), Ok(()));
    }
}

/// What is flushed for a record is the file with its line, even if the log is rotated at the same time.
#[test]
fn handle_of_a_record_is_of_the_file_that_has_its_line() {
    let place = Place::new();
    let log = place.open(false);
    let records = std::sync::atomic::AtomicUsize::new(0);
    std::thread::scope(|scope| {
        let (log, place, records) = (&log, &place, &records);
        scope.spawn(move || {
            let mut rotations = 0;
            while records.load(Ordering::Relaxed) < 2 {
                fs::rename(place.path("log"), place.path(&format!("log.{rotations}")))
                    .expect("it can be moved");
                log.reopen(&place.config(false)).expect("a new file is made");
                rotations += 1;
            }
        });
        for thread in 0..2 {
            scope.spawn(move || {
                let all_right = (0..200).all(|number| {
                    let event = json!({ "event": "test", "thread": thread, "number": number });
                    let handle = log.write_and(None, &event, Writer::handle).expect("it is written");
                    let handle = handle.expect("there is a file").expect("it has a handle");
                    let (bytes, _) = writer::last_bytes(&handle, 1 << 20).expect("it can be read");
                    let member = format!("\"number\":{number},\"thread\":{thread}");
                    String::from_utf8_lossy(&bytes).contains(&member)
                });
                records.fetch_add(1, Ordering::Relaxed);
                assert!(all_right, "a handle of another file");
            });
        }
    });
}

#[test]
fn an_emptied_file_goes_on_too() {
    let place = Place::new();
    let log = place.open(false);
    tell(&log, 1);
    fs::copy(place.path("log"), place.path("log.1")).expect("a copy");
    File::create(place.path("log")).expect("it is emptied");
    tell(&log, 2);
    assert_eq!(place.good(&["log.1", "log"], false).last_seq, 3);
}

#[test]
fn after_a_restart_a_new_file_goes_on_from_the_newest_head() {
    let place = Place::new();
    let log = place.open(true);
    tell(&log, 1);
    log.sign();
    drop(log);
    fs::rename(place.path("log"), place.path("log.1")).expect("it can be moved");
    tell(&place.open(true), 2);
    let opened = value(&place.lines("log")[0]);
    assert_eq!(
        (&opened["event"], &opened["new_chain"], &opened["seq"]),
        (&json!("log_opened"), &json!(false), &json!(3))
    );
    let report = place.good(&["log.1", "log"], true);
    assert_eq!(report.heads.expect("there are heads").not_covered, 2);
    // The file alone hangs on the checkpoint about the line before it.
    let alone = || place.verify_from(3, &["log"], true).expect("it can be used").broken;
    assert_eq!(alone(), None);
    let first = place.lines("log").remove(0);
    let prev = value(&first)["prev"].as_str().expect("a hash").to_owned();
    place.put("log", &[first.replace(&prev, &"1".repeat(64))]);
    let found = alone().expect("it is broken");
    assert_eq!((found.line, &*found.what), (1, "a checkpoint was signed for another line before it"));
    // Without checkpoints there is a new chain, and it says so.
    fs::remove_file(place.path("log")).expect("it can be removed");
    tell(&place.open(false), 3);
    assert_eq!(value(&place.lines("log")[0])["new_chain"], true);
    assert!(place.broken(&["log.1", "log"], false).2.contains("a new chain starts here"));
}

#[test]
fn a_torn_line_stays_and_is_covered() {
    let place = Place::new();
    let log = place.open(false);
    tell(&log, 1);
    drop(log);
    place.append("log", b"{\"version\":1,\"time\":\"20");
    let cut = place.verify(&["log"], false).expect("it can be used");
    assert!(cut.open_end && cut.broken.is_some_and(|broken| broken.line == 3), "no service writes it");
    let log = place.open(false);
    tell(&log, 2);
    drop(log);
    // Twice, the second time in the very line that should have said it, so that two torn lines follow each
    // other.
    let whole = fs::read(place.path("log")).expect("it can be read");
    let resumed = whole.windows(11).position(|bytes| bytes == b"log_resumed").expect("it says so");
    fs::write(place.path("log"), &whole[..resumed]).expect("it can be written");
    let log = place.open(false);
    tell(&log, 3);
    drop(log);
    let lines = place.lines("log");
    assert_eq!(lines.len(), 6, "{lines:#?}");
    assert_eq!(value(&lines[4])["event"], "log_resumed");
    assert_eq!(value(&lines[4])["torn"], true);
    assert_eq!(value(&lines[4])["seq"], 3);
    let report = place.good(&["log"], false);
    assert_eq!((report.torn, report.last_seq, report.open_end), (1, 4, false));
    // What is torn is under the chain, and so is what stands before it.
    for (at, from, to) in [(2, "20", "21"), (3, "event", "evil"), (1, "\"number\":1", "\"number\":2")] {
        let mut changed = lines.clone();
        changed[at] = changed[at].replace(from, to);
        assert_ne!(changed[at], lines[at]);
        place.put("log", &changed);
        assert_eq!(place.broken(&["log"], false).1, 5, "{from}");
    }
    for at in [2, 3] {
        let mut changed = lines.clone();
        changed.remove(at);
        place.put("log", &changed);
        assert_eq!(place.broken(&["log"], false).1, 4);
    }
    // Nothing else may be no JSON.
    let mut changed = lines.clone();
    changed.insert(1, "half a li".into());
    place.put("log", &changed);
    assert_eq!(place.broken(&["log"], false).1, 2);
    changed = lines;
    changed.push("half a li".into());
    place.put("log", &changed);
    assert_eq!(place.broken(&["log"], false).1, 7);
}

#[test]
fn a_whole_line_without_its_newline_is_told_and_is_a_line() {
    let place = Place::new();
    let log = place.open(false);
    tell(&log, 1);
    drop(log);
    let file = OpenOptions::new().write(true).open(place.path("log")).expect("it is there");
    file.set_len(file.metadata().expect("it is there").len() - 1).expect("it can be cut");
    let report = place.verify(&["log"], false).expect("the file can be used");
    let broken = report.broken.expect("a byte is missing");
    assert_eq!((report.last_seq, report.open_end, broken.line), (2, true, 2));
    assert!(broken.what.contains("newline"), "{}", broken.what);
    tell(&place.open(false), 2);
    let report = place.good(&["log"], false);
    assert_eq!((report.last_seq, report.torn), (3, 0));
}

#[test]
fn a_first_line_can_be_torn_too() {
    let place = Place::new();
    fs::write(place.path("log"), "{\"ver").expect("it can be written");
    tell(&place.open(false), 1);
    let events: Vec<Value> =
        place.lines("log")[1..].iter().map(|line| value(line)["event"].clone()).collect();
    assert_eq!(events, ["log_resumed", "log_opened", "test"]);
    assert_eq!(place.good(&["log"], false).torn, 1);
    let mut lines = place.lines("log");
    lines[0].push('x');
    place.put("log", &lines);
    assert_eq!(place.broken(&["log"], false).1, 2);
}

/// What a write leaves that failed in the middle and could not be taken back.
#[test]
fn what_could_not_be_taken_back_is_looked_up_before_the_next_line() {
    for (left, torn, last_seq) in [(&b"{\"version\":1,\"ti"[..], 1, 4), (b"", 0, 3)] {
        let place = Place::new();
        let log = place.open(false);
        tell(&log, 1);
        place.append("log", left);
        lock(&log.file).as_mut().expect("there is a file").damage();
        tell(&log, 2);
        let report = place.good(&["log"], false);
        assert_eq!((report.torn, report.last_seq), (torn, last_seq));
    }
    // The file is moved away at that moment.
    let place = Place::new();
    let log = place.open(false);
    tell(&log, 1);
    place.append("log", b"{\"version\":1,\"ti");
    lock(&log.file).as_mut().expect("there is a file").damage();
    fs::rename(place.path("log"), place.path("log.1")).expect("it can be moved");
    log.reopen(&place.config(false)).expect("a new file is made");
    // And the new one is torn before its first line is whole.
    place.append("log", b"{\"ver");
    lock(&log.file).as_mut().expect("there is a file").damage();
    tell(&log, 2);
    let report = place.good(&["log.1", "log"], false);
    assert_eq!((report.torn, report.last_seq), (1, 4));
}

#[test]
fn a_full_disk_stops_what_must_be_written() {
    let place = Place::new();
    let full = |required| Settings { path: Some("/dev/full".into()), required, ..Settings::default() };
    let log = AuditLog::open(&full(true)).expect("a device will do without a chain");
    assert!(log.write(None, &json!({ "event": "test" })).is_err());
    assert_eq!(log.failures(), 1);
    let log = AuditLog::open(&full(false)).expect("it opens");
    assert!(log.write(None, &json!({ "event": "test" })).is_ok());
    assert_eq!(log.failures(), 1);
    let chained = Settings { chain: true, ..full(true) };
    let error = AuditLog::open(&chained).err().expect("a chain needs a file");
    assert!(error.to_string().contains("/dev/full is none"), "{error}");
    // A line that could not be verified is not written either.
    let log = place.open(false);
    assert!(log.write(None, &json!({ "event": "test", "long": "x".repeat(writer::LINE_LEN_MAX) })).is_err());
    tell(&log, 1);
    place.good(&["log"], false);
}

#[test]
fn a_log_has_one_writer() {
    let place = Place::new();
    let _log = place.open(false);
    let error = AuditLog::open(&place.config(false)).err().expect("it is taken");
    assert!(error.to_string().contains("stop the other process that writes it"), "{error}");
}

#[test]
fn a_file_of_another_chain_is_not_gone_on_with() {
    let place = Place::new();
    let log = place.open(false);
    tell(&log, 1);
    fs::rename(place.path("log"), place.path("log.1")).expect("it can be moved");
    let other = AuditLog::open(&place.config(false)).expect("another chain");
    drop(other);
    let error = log.reopen(&place.config(false)).expect_err("it is of another chain");
    assert!(format!("{error:#}").contains("of another chain"), "{error:#}");
    tell(&log, 2);
    assert_eq!(place.good(&["log.1"], false).last_seq, 3);
}

/// Changes of lines, and what is found: the line and part of the reason.
#[test]
fn tampering_is_found() {
    let place = Place::new();
    let log = place.open(true);
    (2..=10).for_each(|number| tell(&log, number));
    log.sign();
    (11..=12).for_each(|number| tell(&log, number));
    drop(log);
    let lines = place.lines("log");
    let report = place.good(&["log"], true);
    let heads = report.heads.expect("there are heads");
    assert_eq!((heads.signed, heads.matched, heads.last_seq, heads.not_covered), (1, 1, 10, 2));
    assert_eq!(heads.keys, [place.key()]);
    type Change = fn(&mut Vec<String>);
    let changes: [(&str, Change, (&str, u64, &str)); 8] = [
        (
            "a changed byte",
            |lines| lines[4] = lines[4].replace("\"number\":5", "\"number\":6"),
            ("log", 6, "the line before it (seq 5) is not the one"),
        ),
        (
            "a changed byte of structure",
            |lines| lines[4] = lines[4].replace("{", "["),
            ("log", 5, "incomplete line"),
        ),
        (
            "a removed line",
            |lines| drop(lines.remove(4)),
            ("log", 5, "the line before it is missing (seq 5)"),
        ),
        ("two removed lines", |lines| drop(lines.drain(4..6)), ("log", 5, "are missing (seq 5 to 6)")),
        ("swapped lines", |lines| lines.swap(4, 5), ("log", 5, "the line before it is missing (seq 5)")),
        ("a line twice", |lines| lines.insert(4, lines[3].clone()), ("log", 5, "out of order")),
        (
            "an inserted line",
            |lines| lines.insert(4, "{\"event\":\"map\"}".into()),
            ("log", 5, "not of the chain"),
        ),
        ("a cut end", |lines| lines.truncate(7), ("heads", 1, "the log ends with seq 7")),
    ];
    for (name, change, (file, line, what)) in changes {
        let mut changed = lines.clone();
        change(&mut changed);
        assert_ne!(changed, lines, "{name}");
        place.put("log", &changed);
        let found = place.broken(&["log"], true);
        assert_eq!((&*found.0, found.1), (file, line), "{name}: {found:?}");
        assert!(found.2.contains(what), "{name}: {found:?}");
    }
    // What no checkpoint covers can be cut without being noticed, but not one line of what is covered.
    place.put("log", &lines[..10]);
    place.good(&["log"], true);
    place.put("log", &lines[..9]);
    place.broken(&["log"], true);
    // A chain that was made anew from a changed line on is whole in itself.
    let mut anew: Vec<String> = lines[..4].to_vec();
    for line in &lines[4..] {
        let prev = value(line)["prev"].as_str().expect("a hash").to_owned();
        let changed = hex(&line_hash::hash(anew.last().expect("there is one").as_bytes()));
        anew.push(line.replace("\"number\":5", "\"number\":6").replace(&prev, &changed));
    }
    place.put("log", &anew);
    place.good(&["log"], false);
    let found = place.broken(&["log"], true);
    assert_eq!((&*found.0, found.1), ("heads", 1));
    assert!(found.2.contains("for another line"), "{found:?}");
}

#[test]
fn each_bit_under_a_head_counts() {
    let place = Place::new();
    let log = place.open(true);
    tell(&log, 1);
    log.sign();
    drop(log);
    let whole = fs::read(place.path("log")).expect("it can be read");
    let passes = |bytes: &[u8]| {
        fs::write(place.path("log"), bytes).expect("it can be written");
        place.verify(&["log"], true).is_ok_and(|report| report.broken.is_none())
    };
    assert!(passes(&whole));
    for at in 0..whole.len() {
        let mut changed = whole.clone();
        changed[at] ^= 1 << (at % 8);
        assert!(!passes(&changed), "byte {at}");
        assert!(!passes(&whole[..at]), "cut at {at}");
    }
}

#[test]
fn a_crash_at_any_byte_leaves_a_chain_that_goes_on() {
    let place = Place::new();
    let log = place.open(false);
    tell(&log, 1);
    drop(log);
    let whole = fs::read(place.path("log")).expect("it can be read");
    let last_line = whole[..whole.len() - 1].iter().rposition(|byte| *byte == b'\n').expect("two lines") + 1;
    for cut in 0..=whole.len() {
        fs::write(place.path("log"), &whole[..cut]).expect("it can be written");
        tell(&place.open(false), 2);
        let after = fs::read(place.path("log")).expect("it can be read");
        assert_eq!(after[..cut], whole[..cut], "nothing is taken away");
        let report = place.good(&["log"], false);
        let between = [0, last_line - 1, last_line, whole.len() - 1, whole.len()];
        assert_eq!(report.torn == 0, between.contains(&cut), "cut at {cut}");
        assert!(!report.open_end);
    }
}

#[test]
fn a_forged_head_is_found() {
    let place = Place::new();
    let log = place.open(true);
    for number in 0..3 {
        tell(&log, number);
        log.sign();
    }
    log.sign();
    drop(log);
    let heads = place.lines("heads");
    assert_eq!(heads.len(), 3, "what is signed is not signed again");
    assert_eq!(place.good(&["log"], true).heads.expect("there are heads").matched, 3);
    let check = |changed: &[String], line, what: &str| {
        place.put("heads", changed);
        let found = place.broken(&["log"], true);
        assert_eq!((&*found.0, found.1), ("heads", line), "{found:?}");
        assert!(found.2.contains(what), "{found:?}");
    };
    for (from, to) in
        [("\"seq\":3", "\"seq\":4"), ("\"time\":\"2", "\"time\":\"3"), ("\"version\":1", "\"version\":2")]
    {
        let mut changed = heads.clone();
        changed[1] = changed[1].replace(from, to);
        assert_ne!(changed, heads);
        check(&changed, 2, "the signature of this checkpoint is wrong");
    }
    let mut changed = heads.clone();
    changed.swap(0, 1);
    check(&changed, 2, "older than the one before it");
    // One by another key, as good as any but for that.
    make_key(&place.path("other")).expect("a key");
    let config = CheckpointSettings {
        key: place.path("other"),
        path: place.path("others"),
        interval: Duration::from_secs(1),
    };
    let position = Position { seq: 4, hash: line_hash::hash(place.lines("log")[3].as_bytes()) };
    let log = File::open(place.path("log")).expect("it is there");
    Checkpoints::open(&config).expect("it opens").sign(position, &log).expect("it is signed");
    let mut changed = heads.clone();
    changed[2] = place.lines("others").remove(0);
    check(&changed, 3, "signed by another key");
    let files = [place.path("log")];
    let all = |trusted: &[PublicKey]| {
        let path = place.path("heads");
        let options = VerifyOptions { heads: Some(&path), trusted, first_seq: 1 };
        let report = verify(&files, &options, &mut |_| {}).expect("usable");
        assert_eq!(report.broken, None);
        report.heads.expect("there are heads").keys.len()
    };
    let other = PublicKey::read(&place.path("other.pub")).expect("the public half");
    assert_eq!(all(&[]), 2, "told, but not refused");
    assert_eq!(all(&[place.key(), other]), 2);
    // A checkpoint that was not written whole is broken, until the service has gone on after it.
    place.put("heads", &heads);
    place.append("heads", b"{\"version\":1,");
    assert_eq!(place.broken(&["log"], true).2, "this checkpoint is incomplete");
    let log = place.open(true);
    tell(&log, 9);
    log.sign();
    let report = place.good(&["log"], true).heads.expect("there are heads");
    assert_eq!((report.unreadable, report.matched, report.not_covered), (1, 4, 0));
}

#[test]
fn a_log_that_ends_before_its_head_leaves_a_gap() {
    let place = Place::new();
    let log = place.open(true);
    (2..=6).for_each(|number| tell(&log, number));
    log.sign();
    drop(log);
    let lines = place.lines("log");
    place.put("log", &lines[..3]);
    tell(&place.open(true), 7);
    let found = place.broken(&["log"], true);
    assert!(found.2.contains("are missing (seq 4 to 6)"), "{found:?}");
}

#[test]
fn a_head_that_cannot_be_written_stops_decisions_until_it_can() {
    let place = Place::new();
    let log = place.open(true);
    tell(&log, 1);
    // The file is closed to writing by a descriptor that only reads.
    let (heads, _) = log.heads.as_ref().expect("there are heads");
    let writable = lock(heads).swap_file(File::open(place.path("heads")).expect("it is there"));
    assert_eq!(log.sign(), Some(HEAD_RETRY));
    assert_eq!(log.head_failures(), 1);
    assert!(log.write(None, &json!({ "event": "test" })).is_err());
    lock(heads).swap_file(writable);
    assert_eq!(log.sign(), Some(Duration::from_secs(60)));
    tell(&log, 2);
    assert_eq!(place.good(&["log"], true).heads.expect("there are heads").matched, 1);
}

#[test]
fn a_signing_key_is_its_owner_s_alone_and_never_overwritten() {
    let place = Place::new();
    let mode = |name: &str| fs::metadata(place.path(name)).expect("it is there").permissions().mode() & 0o777;
    assert_eq!((mode("key"), mode("key.pub")), (0o600, 0o644));
    assert!(make_key(&place.path("key")).is_err());
    fs::rename(place.path("key"), place.path("away")).expect("it can be moved");
    assert!(make_key(&place.path("key")).is_err(), "its public half is there");
    fs::rename(place.path("away"), place.path("key")).expect("it can be moved");
    place.open(true);
    fs::set_permissions(place.path("key"), fs::Permissions::from_mode(0o640)).expect("it is ours");
    let error = AuditLog::open(&place.config(true)).err().expect("others can read it");
    assert!(error.to_string().contains("mode 640"), "{error}");
    for (text, what) in [
        ("", "not a PKCS#8 key"),
        (&*fs::read_to_string(place.path("key.pub")).expect("read"), "not a PKCS#8 key"),
    ] {
        fs::remove_file(place.path("key")).expect("it is there");
        fs::write(place.path("key"), text).expect("it can be written");
        fs::set_permissions(place.path("key"), fs::Permissions::from_mode(0o600)).expect("it is ours");
        let error = AuditLog::open(&place.config(true)).err().expect("it is no key");
        assert!(error.to_string().contains(what), "{error}");
    }
    assert!(PublicKey::read(Path::new("/dev/null")).is_err());
}

/// What other programs append, and what they leave out.
#[test]
fn nothing_stands_before_or_after_the_lines() {
    let place = Place::new();
    let log = place.open(true);
    (2..=6).for_each(|number| tell(&log, number));
    log.sign();
    drop(log);
    let whole = fs::read(place.path("log")).expect("it can be read");
    let ends: Vec<usize> = (0..whole.len()).filter(|at| whole[*at] == b'\n').map(|at| at + 1).collect();
    let put = |bytes: &[u8]| fs::write(place.path("log"), bytes).expect("it can be written");
    for heads in [true, false] {
        for tail in [
            &b"\0"[..],
            b"\0\0\0\n",
            b"\n",
            b"\n\n",
            b" ",
            b"x",
            b"{}",
            b"{}\n",
            b"{\"version\":1",
            b"\r\n",
            b"\xff\n",
        ] {
            put(&[&whole[..], tail].concat());
            assert_eq!(place.broken(&["log"], heads).1, 7, "{tail:?}");
        }
        // After the last line, before its newline.
        for tail in [&b""[..], b"\r\n", b" \n", b"\0\n", b"\0", b"\t"] {
            put(&[&whole[..whole.len() - 1], tail].concat());
            assert_eq!(place.broken(&["log"], heads).1, 6, "{tail:?}");
        }
        // Before the first line.
        for lead in [&b"\n"[..], b"\0\n", b" ", b"\0", b"\xef\xbb\xbf", b"x\n"] {
            put(&[lead, &whole[..]].concat());
            assert!(place.verify(&["log"], heads).map_or(true, |report| report.broken.is_some()), "{lead:?}");
        }
        // Without its beginning; with all checkpoints, one of which is about a line that is there.
        for end in &ends[..5] {
            put(&whole[*end..]);
            assert!(place.broken(&["log"], heads).2.contains("the beginning is missing"));
        }
    }
    put(b"");
    let found = place.broken(&["log"], true);
    assert_eq!((&*found.0, found.1), ("heads", 1));
    assert!(found.2.contains("the log is empty"), "{found:?}");
    assert!(matches!(place.verify(&["log"], false), Err(Unusable::NotChained(_))));
}

#[test]
fn nothing_is_said_twice() {
    let place = Place::new();
    let log = place.open(true);
    (2..=4).for_each(|number| tell(&log, number));
    log.sign();
    (5..=6).for_each(|number| tell(&log, number));
    log.sign();
    drop(log);
    let (lines, heads) = (place.lines("log"), place.lines("heads"));
    // The last line is what no other line covers, and here no checkpoint either.
    for (from, to) in [
        ("{\"version\":1,", "{\"version\":1,\"seq\":6,"),
        ("{\"version\":1,", "{\"version\":1,\"s\\u0065q\":6,"),
        ("\"number\":6", "\"number\":6,\"number\":7"),
        ("\"number\":6", "\"number\":{\"a\":1,\"a\":2}"),
        (",\"seq\":6", ",\"seq\": 6"),
        ("{\"version\":1,", " {\"version\":1,"),
    ] {
        let mut changed = lines.clone();
        changed[5] = changed[5].replacen(from, to, 1);
        assert_ne!(changed, lines, "{from}");
        place.put("log", &changed);
        assert_eq!(place.broken(&["log"], false).1, 6, "{to}");
    }
    place.put("log", &lines);
    for (from, to) in [
        ("\"seq\":4", "\"seq\":4,\"seq\":4"),
        ("\"seq\":4", "\"seq\":5,\"seq\":4"),
        ("\"seq\":4", "\"s\\u0065q\":4,\"seq\":4"),
        ("\"seq\":4", "\"seq\": 4"),
        ("\"seq\":4", "\"seq\":4,\"more\":1"),
        ("\"seq\":4", "\"more\":{\"a\":1,\"a\":1},\"seq\":4"),
        ("{\"version\":1", "{\"version\":1,\"version\":1"),
        ("{\"version\":1", " {\"version\":1"),
    ] {
        let mut changed = heads.clone();
        changed[0] = changed[0].replacen(from, to, 1);
        assert_ne!(changed, heads, "{from}");
        place.put("heads", &changed);
        let found = place.broken(&["log"], true);
        assert_eq!((&*found.0, found.1), ("heads", 1), "{to}: {found:?}");
    }
    let whole: String = heads.iter().flat_map(|line| [line, "\n"]).collect();
    for (tail, line) in [("\0", 3), ("\0\n", 3), ("\n", 3), ("{}", 3), ("nonsense\n", 3), ("{\"ver", 3)] {
        fs::write(place.path("heads"), format!("{whole}{tail}")).expect("it can be written");
        assert_eq!(place.broken(&["log"], true).1, line, "{tail:?}");
    }
    fs::write(place.path("heads"), whole.replace('\n', "\r\n")).expect("it can be written");
    assert_eq!(place.broken(&["log"], true).1, 1);
    fs::write(place.path("heads"), whole.trim_end()).expect("it can be written");
    assert!(place.broken(&["log"], true).2.contains("newline"));
    for (at, line) in [(0, 2), (1, 3)] {
        let mut twice = heads.clone();
        twice.insert(at, heads[at].clone());
        place.put("heads", &twice);
        let found = place.broken(&["log"], true);
        assert_eq!((&*found.0, found.1, &*found.2), ("heads", line, "this checkpoint is there twice"));
    }
}

/// What is found when a log is opened again.
#[test]
fn a_log_that_is_not_the_one_of_the_heads_is_reported() {
    let log_of = |count: u64, first: u64| {
        let place = Place::new();
        let log = place.open(true);
        (2..=count).for_each(|number| tell(&log, first + number));
        log.sign();
        drop(log);
        place
    };
    let reported = |place: &Place| place.open(true).changes();
    let place = log_of(5, 0);
    assert_eq!(reported(&place), 0);
    File::create(place.path("log")).expect("it is emptied");
    assert_eq!(reported(&place), 1);
    // The lines of another chain: as many, more, and fewer.
    for (count, is_refused) in [(5, true), (9, true), (3, false)] {
        let place = log_of(5, 0);
        fs::copy(log_of(count, 100).path("log"), place.path("log")).expect("a copy");
        match (AuditLog::open(&place.config(true)), is_refused) {
            (Err(error), true) => assert!(format!("{error:#}").contains("of another chain"), "{error:#}"),
            (Ok(log), false) => assert_eq!(log.changes(), 1),
            (opened, _) => panic!("{count}: {:?}", opened.map(|log| log.changes())),
        }
    }
    // After a crash lines follow the newest checkpoint, in the same file or in a new one.
    let place = log_of(5, 0);
    let log = place.open(true);
    tell(&log, 6);
    let crashed = fs::read(place.path("log")).expect("it can be read");
    fs::rename(place.path("log"), place.path("log.1")).expect("it can be moved");
    log.reopen(&place.config(true)).expect("a new file is made");
    tell(&log, 7);
    drop(log);
    assert_eq!(reported(&place), 0);
    fs::write(place.path("log"), crashed).expect("it can be written");
    assert_eq!(reported(&place), 0);
    // The checkpoints are gone.
    let place = log_of(5, 0);
    fs::remove_file(place.path("heads")).expect("it is there");
    assert_eq!(reported(&place), 1);
}

/// A checkpoint far before the end of a long file is found there.
#[test]
fn a_head_is_compared_in_a_long_file() {
    let place = Place::new();
    let log = place.open(true);
    let long = "x".repeat(100_000);
    let tell = |number: u64| {
        log.write(None, &json!({ "event": "test", "number": number, "long": long })).expect("it is written");
    };
    (2..=60).for_each(tell);
    log.sign();
    let head = fs::read(place.path("heads")).expect("it can be read");
    (61..=400).for_each(tell);
    drop(log);
    let whole = fs::read_to_string(place.path("log")).expect("it can be read");
    for (changed, is_refused) in [
        (whole.clone(), false),
        (whole.replace("\"number\":60,", "\"number\":61,"), true),
        (whole.replace("\"number\":61,", "\"number\":62,"), false),
    ] {
        fs::write(place.path("log"), changed).expect("it can be written");
        fs::write(place.path("heads"), &head).expect("it can be written");
        assert_eq!(AuditLog::open(&place.config(true)).is_err(), is_refused);
    }
}

#[test]
fn a_log_without_a_chain_may_be_truncated() {
    let place = Place::new();
    let log = AuditLog::open(&Settings { chain: false, ..place.config(false) }).expect("the log opens");
    for number in 1..4 {
        tell(&log, number);
        log.watch();
        File::create(place.path("log")).expect("it is emptied");
        log.watch();
        assert_eq!(log.changes(), 0, "copytruncate is no change");
    }
    tell(&log, 4);
    fs::remove_file(place.path("log")).expect("it is there");
    log.watch();
    assert_eq!(log.changes(), 1, "its removal is");
}

#[test]
fn what_other_programs_do_to_an_open_log_is_reported_once() {
    type Act = fn(&Place);
    let acts: [(Act, Change, bool); 7] = [
        (|place| drop(File::create(place.path("log"))), Change::Emptied, false),
        (
            |place| {
                let file = OpenOptions::new().write(true).open(place.path("log")).expect("it is there");
                file.set_len(100).expect("it can be cut");
            },
            Change::Cut,
            false,
        ),
        (|place| place.append("log", b"\0"), Change::Extended, false),
        (
            |place| {
                let text = fs::read_to_string(place.path("log")).expect("it can be read");
                fs::write(place.path("log"), text.replace("\"number\":1", "\"number\":2")).expect("written");
            },
            Change::Overwritten,
            false,
        ),
        (|place| fs::remove_file(place.path("log")).expect("it is there"), Change::Removed, false),
        (
            |place| {
                fs::write(place.path("other"), "").expect("it can be written");
                fs::rename(place.path("other"), place.path("log")).expect("it can be moved");
            },
            Change::Replaced,
            false,
        ),
        (|place| fs::rename(place.path("log"), place.path("log.1")).expect("moved"), Change::Moved, true),
    ];
    for (act, change, waits) in acts {
        let place = Place::new();
        let log = place.open(false);
        tell(&log, 1);
        log.watch();
        assert_eq!(log.changes(), 0, "{change}");
        act(&place);
        if waits {
            log.watch();
            assert_eq!(log.changes(), 0, "a rotation is no change");
            lock(&log.file).as_mut().expect("there is a file").age(Duration::from_secs(11));
        }
        log.watch();
        assert_eq!(log.changes(), 1, "{change}");
        log.watch();
        tell(&log, 3);
        log.watch();
        assert_eq!(log.changes(), 1, "{change} is reported once");
        let lines = place.lines("log");
        assert!(lines.last().is_some_and(|line| line.contains("\"number\":3")), "{change}: {lines:?}");
    }
    // A rotation, and the checkpoints.
    let place = Place::new();
    let log = place.open(true);
    tell(&log, 1);
    log.sign();
    fs::rename(place.path("log"), place.path("log.1")).expect("it can be moved");
    log.watch();
    log.reopen(&place.config(true)).expect("a new file is made");
    tell(&log, 2);
    log.sign();
    log.watch();
    assert_eq!(log.changes(), 0);
    File::create(place.path("heads")).expect("it is emptied");
    log.watch();
    assert_eq!(log.changes(), 1);
    fs::remove_file(place.path("heads")).expect("it is there");
    log.watch();
    assert_eq!(log.changes(), 2);
    tell(&log, 3);
    log.sign();
    assert_eq!(place.lines("heads").len(), 1);
    place.good(&["log.1", "log"], true);
}

/// A log without a chain may have several writers, and is watched for what is taken away.
#[test]
fn a_plain_log_is_watched_too() {
    let place = Place::new();
    let config = Settings { chain: false, ..place.config(false) };
    let log = AuditLog::open(&config).expect("it opens");
    let other = AuditLog::open(&config).expect("it opens");
    tell(&log, 1);
    tell(&other, 2);
    log.watch();
    assert_eq!(log.changes(), 0);
    fs::remove_file(place.path("log")).expect("it is removed");
    log.watch();
    log.watch();
    assert_eq!(log.changes(), 1);
}
