//! What the nodes of one machine have to know together of tokens whose state is with the clients: which
//! messages were accepted, and which tokens ended before their time.
//!
//! The file may be lost, and then a new one knows nothing. So it says since when it knows everything, and
//! tokens and messages from before are refused by those who ask it.

use super::shared_file::{self, OpenedFile};
use super::worker::{Worker, promise};
use super::{failed, read_connection};
use crate::store::{BoxFuture, StoreError};
use dtyp::FileTime;
use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior, params};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Messages that are kept, as .NET has it: some 100 MiB. Beyond it messages are refused.
pub const MESSAGES_MAX: u32 = 900_000;
/// Tokens that ended before their time, or had failures, and are kept: some 100 MiB. Beyond it no other token
/// is ended.
pub const TOKENS_MAX: u32 = 1_000_000;
/// Of them, those that any client can cause: cancelled anonymous tokens, and tokens with failures. The rest
/// is for renewals, and for ends by accounts and operators.
const ANONYMOUS_MAX: u32 = TOKENS_MAX / 2;
/// Rows that may go are removed with a change, so many at a time: more go than come, and no change waits for
/// a long one.
const REMOVED_MAX: u32 = 16;
/// Changes that share one wait for the disk: all that came while it wrote those before, and no more.
const TOGETHER_MAX: usize = 256;
/// Marks the file, so that no other database is taken for it: "rcmt".
const APPLICATION_ID: i32 = 0x7263_6d74;
const SCHEMA: &str = "
    CREATE TABLE IF NOT EXISTS message (
        id         BLOB PRIMARY KEY CHECK (length(id) = 32),
        keep_until INTEGER NOT NULL -- FILETIME, as all times here
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX IF NOT EXISTS message_keep_until ON message (keep_until);
    CREATE TABLE IF NOT EXISTS token (
        id         BLOB PRIMARY KEY CHECK (length(id) = 32),
        ended      INTEGER, -- not yet, if it has none
        failures   INTEGER NOT NULL,
        keep_until INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX IF NOT EXISTS token_keep_until ON token (keep_until);
    CREATE TABLE IF NOT EXISTS fact (
        begun    INTEGER NOT NULL,
        messages INTEGER NOT NULL,
        tokens   INTEGER NOT NULL
    ) STRICT;
    CREATE TRIGGER IF NOT EXISTS message_comes AFTER INSERT ON message BEGIN
        UPDATE fact SET messages = messages + 1; END;
    CREATE TRIGGER IF NOT EXISTS message_goes AFTER DELETE ON message BEGIN
        UPDATE fact SET messages = messages - 1; END;
    CREATE TRIGGER IF NOT EXISTS token_comes AFTER INSERT ON token BEGIN
        UPDATE fact SET tokens = tokens + 1; END;
    CREATE TRIGGER IF NOT EXISTS token_goes AFTER DELETE ON token BEGIN
        UPDATE fact SET tokens = tokens - 1; END;
";

/// SHA-256 of a message or of the name of a token.
pub type TokenHash = [u8; 32];

/// A store for the processes of one machine.
#[derive(Clone)]
pub struct SqliteTokens(Arc<Inner>);

struct Inner {
    writer: Arc<Writer>,
    reader: Mutex<Connection>,
    worker: Worker<Change>,
    begun: FileTime,
}

/// What the thread that waits for the disk needs.
struct Writer {
    connection: Mutex<Connection>,
    file: OpenedFile,
}

/// Is done in a transaction that it may share with others, or not if there is none.
type Change = Box<dyn FnOnce(Result<&mut Transaction<'_>, &StoreError>) -> Told + Send>;
/// Who waits for a change is told when the transaction is on the disk, or has failed.
type Told = Box<dyn FnOnce(&Result<(), StoreError>)>;

impl std::fmt::Debug for SqliteTokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SqliteTokens")
    }
}

impl SqliteTokens {
    /// Opens the file, or makes it, readable by its owner only. A file that other users may read or change,
    /// or whose folder they may write to, is refused: a token whose end is removed counts again.
    pub fn open(path: &Path, now: FileTime) -> Result<Self, StoreError> {
        let prepare = |transaction: &Transaction<'_>| {
            transaction.execute_batch(SCHEMA)?;
            transaction.execute(
                "INSERT INTO fact SELECT ?1, 0, 0 WHERE NOT EXISTS (SELECT 1 FROM fact)",
                [number(now)],
            )
        };
        let prepare = |transaction: &Transaction<'_>| prepare(transaction).map(drop);
        let (writer, file) = shared_file::open(path, APPLICATION_ID, prepare)?;
        let reader = read_connection(path)?;
        let begun = reader.query_row("SELECT begun FROM fact", [], |row| row.get::<_, i64>(0));
        let begun = FileTime(begun.map_err(failed)?.unsigned_abs());
        let writer = Arc::new(Writer { connection: Mutex::new(writer), file });
        Ok(Self(Arc::new(Inner { writer, reader: Mutex::new(reader), worker: Worker::default(), begun })))
    }

    /// Looks at a file that need not be there yet: whether [`Self::open`] would refuse it for its folder, for
    /// its mode, or as a database for something else. Writes nothing.
    pub fn check(path: &Path) -> Result<(), StoreError> {
        shared_file::check(path, APPLICATION_ID)
    }

    /// Since when it knows everything: when the file was made.
    pub fn begun(&self) -> FileTime {
        self.0.begun
    }

    /// Inserts a message, which has to be kept until `keep_until` at least. Of all calls with the same one in
    /// all processes, one gets true.
    pub fn insert_message(
        &self,
        id: TokenHash,
        now: FileTime,
        keep_until: FileTime,
    ) -> BoxFuture<'static, Result<bool, StoreError>> {
        self.change(now, move |transaction| {
            let is_known = "SELECT 1 FROM message WHERE id = ?1";
            if transaction.prepare_cached(is_known)?.exists([id])? {
                return Ok(Ok(false));
            }
            if size(transaction, "SELECT messages FROM fact")? >= MESSAGES_MAX.into() {
                return Ok(Err(full(MESSAGES_MAX, "messages")));
            }
            transaction
                .prepare_cached("INSERT INTO message (id, keep_until) VALUES (?1, ?2)")?
                .execute(params![id, number(keep_until)])?;
            Ok(Ok(true))
        })
    }

    /// Ends a token at a time, which has to be kept until `keep_until` at least. If it was ended before, the
    /// earlier end counts. `is_anonymous`: any client can cause it, so it may take half of the room.
    pub fn end_token(
        &self,
        id: TokenHash,
        at: FileTime,
        now: FileTime,
        keep_until: FileTime,
        is_anonymous: bool,
    ) -> BoxFuture<'static, Result<(), StoreError>> {
        self.change(now, move |transaction| {
            let max = if is_anonymous { ANONYMOUS_MAX } else { TOKENS_MAX };
            if let Some(full) = has_no_room(transaction, &id, max)? {
                return Ok(Err(full));
            }
            let ended = "INSERT INTO token (id, ended, failures, keep_until) VALUES (?1, ?2, 0, ?3)
                ON CONFLICT (id) DO UPDATE SET ended = min(coalesce(ended, excluded.ended), excluded.ended),
                keep_until = max(keep_until, excluded.keep_until)";
            transaction.prepare_cached(ended)?.execute(params![id, number(at), number(keep_until)])?;
            Ok(Ok(()))
        })
    }

    /// Counts a failure of a token, and returns how many it has. With `max` of them it ends.
    pub fn fail_token(
        &self,
        id: TokenHash,
        max: u32,
        now: FileTime,
        keep_until: FileTime,
    ) -> BoxFuture<'static, Result<u32, StoreError>> {
        self.change(now, move |transaction| {
            if let Some(full) = has_no_room(transaction, &id, ANONYMOUS_MAX)? {
                return Ok(Err(full));
            }
            let counted = "INSERT INTO token (id, ended, failures, keep_until) VALUES (?1, NULL, 1, ?2)
                ON CONFLICT (id) DO UPDATE SET failures = failures + 1,
                keep_until = max(keep_until, excluded.keep_until) RETURNING failures";
            let mut counted = transaction.prepare_cached(counted)?;
            let failures: u32 = counted.query_row(params![id, number(keep_until)], |row| row.get(0))?;
            if failures >= max {
                transaction
                    .prepare_cached("UPDATE token SET ended = min(coalesce(ended, ?2), ?2) WHERE id = ?1")?
                    .execute(params![id, number(now)])?;
            }
            Ok(Ok(failures))
        })
    }

    /// The earliest end of these tokens; none if none ended.
    pub fn end_of(&self, ids: [TokenHash; 2]) -> Result<Option<FileTime>, StoreError> {
        self.0.writer.file.check()?;
        let reader = lock(&self.0.reader);
        let mut query =
            reader.prepare_cached("SELECT min(ended) FROM token WHERE id IN (?1, ?2)").map_err(failed)?;
        let end: Option<i64> = query.query_row(params![ids[0], ids[1]], |row| row.get(0)).map_err(failed)?;
        Ok(end.map(|end| FileTime(end.unsigned_abs())))
    }

    /// How many messages and how many tokens are kept.
    pub fn sizes(&self) -> Result<(u64, u64), StoreError> {
        self.0.writer.file.check()?;
        let reader = lock(&self.0.reader);
        let sizes = reader.query_row("SELECT messages, tokens FROM fact", [], |row| {
            Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?))
        });
        let (messages, tokens) = sizes.map_err(failed)?;
        Ok((messages.unsigned_abs(), tokens.unsigned_abs()))
    }

    /// A change on the thread that waits for the disk, with the removal of some rows that may go. What it
    /// refuses changes nothing else.
    fn change<T: Send + 'static>(
        &self,
        now: FileTime,
        work: impl FnOnce(&Connection) -> rusqlite::Result<Result<T, StoreError>> + Send + 'static,
    ) -> BoxFuture<'static, Result<T, StoreError>> {
        let (promise, outcome) = promise();
        let change: Change = Box::new(move |transaction| {
            let changed = match transaction {
                Ok(transaction) => apart(transaction, now, work).map_err(failed).flatten(),
                Err(error) => Err(error.clone()),
            };
            Box::new(move |written| promise.keep(written.clone().and(changed)))
        });
        let writer = Arc::clone(&self.0.writer);
        let sent = self.0.worker.send(change, move |changes| {
            while let Ok(first) = changes.recv() {
                let others = changes.try_iter().take(TOGETHER_MAX - 1);
                writer.write([first].into_iter().chain(others).collect());
            }
        });
        match sent {
            Ok(()) => Box::pin(outcome),
            Err(error) => Box::pin(std::future::ready(Err(error))),
        }
    }
}

impl Writer {
    /// Writes changes in one transaction, in their order. They wait for the disk once.
    fn write(&self, changes: Vec<Change>) {
        let mut connection = lock(&self.connection);
        let begun = self.file.check().and_then(|()| {
            connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(failed)
        });
        match begun {
            Ok(mut transaction) => {
                let told: Vec<Told> =
                    changes.into_iter().map(|change| change(Ok(&mut transaction))).collect();
                // The file may have been replaced in between: then other processes do not see the changes.
                let written = transaction.commit().map_err(failed).and_then(|()| self.file.check());
                told.into_iter().for_each(|told| told(&written));
            }
            Err(error) => changes.into_iter().for_each(|change| change(Err(&error))(&Ok(()))),
        }
    }
}

/// A change of its own in a transaction of several: if it fails, nothing of it is written, and the others
/// are.
fn apart<T>(
    transaction: &mut Transaction<'_>,
    now: FileTime,
    work: impl FnOnce(&Connection) -> rusqlite::Result<Result<T, StoreError>>,
) -> rusqlite::Result<Result<T, StoreError>> {
    let point = transaction.savepoint()?;
    remove(&point, now)?;
    let changed = work(&point)?;
    point.commit()?;
    Ok(changed)
}

fn remove(transaction: &Connection, now: FileTime) -> rusqlite::Result<()> {
    for removal in [
        "DELETE FROM message WHERE id IN (SELECT id FROM message WHERE keep_until < ?1 LIMIT ?2)",
        "DELETE FROM token WHERE id IN (SELECT id FROM token WHERE keep_until < ?1 LIMIT ?2)",
    ] {
        transaction.prepare_cached(removal)?.execute(params![number(now), REMOVED_MAX])?;
    }
    Ok(())
}

/// Why a token gets no row, if it has none and cannot have one.
fn has_no_room(transaction: &Connection, id: &TokenHash, max: u32) -> rusqlite::Result<Option<StoreError>> {
    let is_known = transaction.prepare_cached("SELECT 1 FROM token WHERE id = ?1")?.exists([id])?;
    if is_known || size(transaction, "SELECT tokens FROM fact")? < max.into() {
        return Ok(None);
    }
    Ok(Some(full(max, "ended tokens")))
}

/// A count. Without its row nothing is known.
fn size(transaction: &Connection, query: &str) -> rusqlite::Result<i64> {
    let size = transaction.prepare_cached(query)?.query_row([], |row| row.get(0)).optional()?;
    size.ok_or(rusqlite::Error::QueryReturnedNoRows)
}

fn full(max: u32, what: &str) -> StoreError {
    StoreError::Unavailable(format!(
        "the store is full: it holds {max} {what}, its limit; it has room again when they expire"
    ))
}

/// A FILETIME beyond 2^63 is in the year 30828.
fn number(time: FileTime) -> i64 {
    i64::try_from(time.0).unwrap_or(i64::MAX)
}

fn lock(connection: &Mutex<Connection>) -> MutexGuard<'_, Connection> {
    connection.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::pin::pin;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::{Context, Poll, Wake, Waker};
    use std::thread::{self, Thread};

    struct Unpark(Thread);

    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }

    fn wait<T>(future: impl Future<Output = Result<T, StoreError>>) -> Result<T, String> {
        let waker = Waker::from(Arc::new(Unpark(thread::current())));
        let mut future = pin!(future);
        loop {
            match future.as_mut().poll(&mut Context::from_waker(&waker)) {
                Poll::Ready(output) => return text(output),
                Poll::Pending => thread::park(),
            }
        }
    }

    fn text<T>(result: Result<T, StoreError>) -> Result<T, String> {
        result.map_err(|error| error.to_string())
    }

    fn sizes(store: &SqliteTokens) -> Result<(u64, u64), String> {
        text(store.sizes())
    }

    fn at(seconds: i64) -> FileTime {
        FileTime::from_unix(1_800_000_000 + seconds)
    }

    fn insert(store: &SqliteTokens, id: u8, now: i64) -> Result<bool, String> {
        wait(store.insert_message([id; 32], at(now), at(now + 60)))
    }

    /// Each store has connections of its own, as of another process.
    #[test]
    fn of_all_processes_one_accepts_a_message() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("tokens.db");
        let nodes: Vec<_> = (0..4).map(|_| SqliteTokens::open(&path, at(0)).expect("it opens")).collect();
        let first = Mutex::new([0_u32; 20]);
        thread::scope(|scope| {
            for node in &nodes {
                scope.spawn(|| {
                    for id in 0..20 {
                        if insert(node, id, 0) == Ok(true) {
                            first.lock().expect("no thread panicked")[usize::from(id)] += 1;
                        }
                    }
                });
            }
        });
        assert_eq!(first.into_inner().expect("no thread panicked"), [1; 20]);
        assert_eq!(sizes(&nodes[0]), Ok((20, 0)));
        drop(nodes);
        let again = SqliteTokens::open(&path, at(50)).expect("it opens");
        assert_eq!(again.begun(), at(0), "it knows everything since then");
        assert_eq!(insert(&again, 7, 1), Ok(false), "it stays accepted");
        // In the last second in which it has to be kept, and later.
        assert_eq!(insert(&again, 8, 60), Ok(false));
        assert_eq!(insert(&again, 100, 61), Ok(true));
        assert_eq!(insert(&again, 101, 61), Ok(true));
        assert_eq!(sizes(&again), Ok((2, 0)), "16 go with one that comes");
    }

    /// While the disk is waited for, others come; they wait for it once, together.
    #[test]
    fn changes_that_come_together_are_written_together_and_each_has_its_own_verdict() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("tokens.db");
        let store = SqliteTokens::open(&path, at(0)).expect("it opens");
        insert(&store, 200, 0).expect("it is written");
        // As if the disk had not answered yet.
        let mut busy = lock(&store.0.writer.connection);
        let commits = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&commits);
        let hook = move || count.fetch_add(1, Ordering::Relaxed) == usize::MAX;
        busy.commit_hook(Some(hook)).expect("a connection of ours");
        let mut changes: Vec<BoxFuture<'static, Result<bool, StoreError>>> = Vec::new();
        for id in (0..100).chain([7, 200]) {
            changes.push(store.insert_message([id; 32], at(0), at(60)));
        }
        let fails = store.change(at(0), |transaction| {
            transaction.execute("INSERT INTO token VALUES (?1, 0, 0, 0)", [[9; 32]])?;
            transaction.execute("INSERT INTO fact VALUES ('no number', 0, 0)", []).map(Ok)
        });
        changes.push(Box::pin(async move { fails.await.map(|_| true) }));
        changes.push(store.insert_message([100; 32], at(0), at(60)));
        drop(busy);
        let verdicts: Vec<_> = changes.into_iter().map(wait).collect();
        assert!(verdicts[..100].iter().all(|verdict| *verdict == Ok(true)), "{verdicts:?}");
        assert_eq!(verdicts[100..102], [Ok(false), Ok(false)], "one of them, and one of before");
        assert!(verdicts[102].is_err() && verdicts[103] == Ok(true), "{verdicts:?}");
        assert_eq!(sizes(&store), Ok((102, 0)), "nothing of what failed, and all of the others");
        // The first one may have been taken alone.
        assert!(commits.load(Ordering::Relaxed) <= 2, "{commits:?}");
    }

    #[test]
    fn the_earliest_end_counts_in_all_processes_and_the_last_failure_ends() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("tokens.db");
        let [one, two] = [(); 2].map(|()| SqliteTokens::open(&path, at(0)).expect("it opens"));
        let end = |id: u8, when, now| wait(one.end_token([id; 32], at(when), at(now), at(600), false));
        let end_of = |one: u8, other: u8| two.end_of([[one; 32], [other; 32]]).expect("it answers");
        assert_eq!(end_of(1, 2), None);
        end(1, 300, 0).expect("it is written");
        end(1, 100, 0).expect("it is written");
        end(1, 200, 0).expect("it is written");
        assert_eq!((end_of(1, 2), end_of(2, 1), end_of(2, 3)), (Some(at(100)), Some(at(100)), None));
        end(2, 50, 0).expect("it is written");
        assert_eq!(end_of(1, 2), Some(at(50)));
        for (node, failures) in [(&one, 1), (&two, 2), (&one, 3), (&two, 4)] {
            assert_eq!(end_of(4, 4), (failures > 3).then_some(at(7)));
            assert_eq!(wait(node.fail_token([4; 32], 3, at(7), at(600))), Ok(failures));
        }
        assert_eq!(sizes(&one), Ok((0, 3)));
        insert(&one, 1, 601).expect("it is written");
        assert_eq!((sizes(&one), end_of(1, 4)), (Ok((1, 0)), None), "they may go");
    }

    #[test]
    fn a_full_store_refuses_what_is_new_and_nothing_else() {
        let folder = tempfile::tempdir().expect("a folder");
        let store = SqliteTokens::open(&folder.path().join("tokens.db"), at(0)).expect("it opens");
        insert(&store, 1, 0).expect("there is room");
        wait(store.end_token([1; 32], at(0), at(0), at(60), false)).expect("there is room");
        let fill = |messages: u32, tokens: u32| {
            let fill = "UPDATE fact SET messages = ?1, tokens = ?2";
            lock(&store.0.writer.connection).execute(fill, [messages, tokens]).expect("it is there");
        };
        fill(MESSAGES_MAX, TOKENS_MAX);
        assert_eq!(insert(&store, 1, 0), Ok(false), "it is known");
        let error = insert(&store, 2, 0).expect_err("it is full");
        assert!(error.contains("holds 900000 messages"), "{error}");
        wait(store.end_token([1; 32], at(0), at(0), at(60), false)).expect("it is known");
        let error = wait(store.end_token([2; 32], at(0), at(0), at(60), false)).expect_err("it is full");
        assert!(error.contains("holds 1000000 ended tokens"), "{error}");
        assert!(wait(store.fail_token([3; 32], 3, at(0), at(60))).is_err());
        // What any client can cause leaves half of the room to others.
        fill(0, TOKENS_MAX / 2);
        let error = wait(store.end_token([4; 32], at(0), at(0), at(60), true)).expect_err("it is half full");
        assert!(error.contains("holds 500000 ended tokens"), "{error}");
        assert!(wait(store.fail_token([4; 32], 3, at(0), at(60))).is_err());
        wait(store.end_token([4; 32], at(0), at(0), at(60), false)).expect("an operator ends it");
        fill(MESSAGES_MAX, TOKENS_MAX / 2);
        assert_eq!(text(store.end_of([[2; 32]; 2])), Ok(None));
        // The rows that may go make room.
        assert_eq!(insert(&store, 2, 61), Ok(true));
        assert_eq!(wait(store.fail_token([3; 32], 3, at(61), at(90))), Ok(1));
    }

    #[test]
    fn a_file_that_is_gone_or_was_replaced_refuses() {
        let folder = tempfile::tempdir().expect("a folder");
        let (path, aside) = (folder.path().join("tokens.db"), folder.path().join("aside.db"));
        let store = SqliteTokens::open(&path, at(0)).expect("it opens");
        let refuses = |what: &str| {
            for error in [
                insert(&store, 1, 0).map(drop),
                wait(store.end_token([1; 32], at(0), at(0), at(60), false)),
                wait(store.fail_token([1; 32], 3, at(0), at(60))).map(drop),
                text(store.end_of([[1; 32]; 2])).map(drop),
                sizes(&store).map(drop),
            ] {
                let error = error.expect_err(what);
                assert!(error.contains(what), "{error}");
            }
        };
        std::fs::rename(&path, &aside).expect("it is there");
        refuses("No such file");
        let other = SqliteTokens::open(&path, at(9)).expect("it opens");
        assert_eq!(other.begun(), at(9), "it knows nothing of before");
        refuses("was replaced");
        assert_eq!(insert(&other, 1, 9), Ok(true));
        // A database for something else.
        let accounts = folder.path().join("accounts.db");
        Connection::open(&accounts)
            .and_then(|it| it.execute_batch("CREATE TABLE t (a)"))
            .expect("a database");
        std::fs::set_permissions(&accounts, std::os::unix::fs::PermissionsExt::from_mode(0o600))
            .expect("ours");
        let marked = Connection::open(&accounts).and_then(|it| it.pragma_update(None, "application_id", 7));
        marked.expect("a database");
        for refused in [SqliteTokens::open(&accounts, at(0)).map(drop), SqliteTokens::check(&accounts)] {
            let error = refused.expect_err("it is for something else").to_string();
            assert!(error.contains("something else"), "{error}");
        }
        drop((store, other));
        assert!(SqliteTokens::check(&path).is_ok());
        assert!(SqliteTokens::check(&folder.path().join("new.db")).is_ok());
        assert!(!folder.path().join("new.db").exists(), "a check writes nothing");
    }
}
