//! One-time tickets that were redeemed, in a file that all processes of one machine share.
//!
//! The file is one of its own, beside the accounts: it changes with each redemption, and no cached answer
//! depends on it. A redemption is on the disk before it counts.

use super::failed;
use super::shared_file::{self, OpenedFile};
use super::worker::Worker;
use crate::store::StoreError;
use dtyp::FileTime;
use rusqlite::{Connection, Transaction, TransactionBehavior, params};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use ticket::{LIFETIME_MAX, Redeemed, Redemption, RedemptionFailed, TicketId};

/// Ids that may go are removed with a redemption, so many at a time: more go than come, and no redemption
/// waits for a long one.
const REMOVED_MAX: u32 = 16;
/// How much longer than it has to an id stays. A process whose clock is ahead removes none that another one
/// still needs.
const KEPT_MORE: Duration = LIFETIME_MAX;
/// Marks the file, so that no other database is taken for it: "rcmr".
const APPLICATION_ID: i32 = 0x7263_6d72;
const SCHEMA: &str = "
    CREATE TABLE IF NOT EXISTS redeemed (
        id         BLOB PRIMARY KEY CHECK (length(id) = 32),
        keep_until INTEGER NOT NULL -- FILETIME
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX IF NOT EXISTS redeemed_keep_until ON redeemed (keep_until);
";

/// A store of redeemed tickets for the processes of one machine. Nodes on several machines need another
/// [`Redemption`].
pub struct SqliteRedemption {
    connection: Arc<Mutex<Connection>>,
    file: Arc<OpenedFile>,
    worker: Worker,
}

impl std::fmt::Debug for SqliteRedemption {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SqliteRedemption")
    }
}

impl SqliteRedemption {
    /// Opens the file, or makes it, readable by its owner only. A file that other users may read or change,
    /// or whose folder they may write to, is refused: a ticket whose id is removed counts again.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let schema = |transaction: &Transaction<'_>| transaction.execute_batch(SCHEMA);
        let (connection, file) = shared_file::open(path, APPLICATION_ID, schema)?;
        let connection = Arc::new(Mutex::new(connection));
        Ok(Self { connection, file: Arc::new(file), worker: Worker::default() })
    }
}

impl Redemption for SqliteRedemption {
    async fn insert_once(
        &self,
        id: TicketId,
        now: FileTime,
        keep_until: FileTime,
    ) -> Result<Redeemed, RedemptionFailed> {
        let (connection, file) = (Arc::clone(&self.connection), Arc::clone(&self.file));
        let inserted = self.worker.run(move || {
            let mut connection = connection.lock().unwrap_or_else(PoisonError::into_inner);
            file.check()?;
            let redeemed = insert_once(&mut connection, id, now, keep_until).map_err(failed)?;
            // The file may have been replaced in between: then other processes do not see this id.
            file.check()?;
            Ok(redeemed)
        });
        inserted.await.map_err(|error| RedemptionFailed(error.to_string()))
    }
}

fn insert_once(
    connection: &mut Connection,
    id: TicketId,
    now: FileTime,
    keep_until: FileTime,
) -> rusqlite::Result<Redeemed> {
    // A FILETIME beyond 2^63 is in the year 30828.
    let number = |time: FileTime| i64::try_from(time.0).unwrap_or(i64::MAX);
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let inserted = transaction
        .prepare_cached("INSERT OR IGNORE INTO redeemed (id, keep_until) VALUES (?1, ?2)")?
        .execute(params![id.0, number(keep_until)])?;
    if inserted == 0 {
        return Ok(Redeemed::Before);
    }
    transaction
        .prepare_cached(
            "DELETE FROM redeemed WHERE id IN (SELECT id FROM redeemed WHERE keep_until < ?1 LIMIT ?2)",
        )?
        .execute(params![number(now).saturating_sub(number(FileTime(0) + KEPT_MORE)), REMOVED_MAX])?;
    transaction.commit()?;
    Ok(Redeemed::First)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;
    use std::pin::pin;
    use std::task::{Context, Poll, Wake, Waker};
    use std::thread::{self, Thread};

    struct Unpark(Thread);

    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }

    fn wait<T>(future: impl Future<Output = T>) -> T {
        let waker = Waker::from(Arc::new(Unpark(thread::current())));
        let mut future = pin!(future);
        loop {
            match future.as_mut().poll(&mut Context::from_waker(&waker)) {
                Poll::Ready(output) => return output,
                Poll::Pending => thread::park(),
            }
        }
    }

    fn at(seconds: i64) -> FileTime {
        FileTime::from_unix(1_800_000_000 + seconds)
    }

    fn redeem(store: &SqliteRedemption, id: u8, now: i64) -> Result<Redeemed, RedemptionFailed> {
        wait(store.insert_once(TicketId([id; 32]), at(now), at(now + 60)))
    }

    fn ids(store: &SqliteRedemption) -> u32 {
        let connection = store.connection.lock().expect("no thread panicked");
        connection.query_row("SELECT count(*) FROM redeemed", [], |row| row.get(0)).expect("it is counted")
    }

    /// Each connection is one of its own, as of another process.
    #[test]
    fn of_all_processes_one_redeems_a_ticket() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("redeemed.db");
        let nodes: Vec<_> = (0..4).map(|_| SqliteRedemption::open(&path).expect("it opens")).collect();
        let first = Mutex::new([0_u32; 20]);
        thread::scope(|scope| {
            for node in &nodes {
                scope.spawn(|| {
                    for id in 0..20 {
                        if redeem(node, id, 0) == Ok(Redeemed::First) {
                            first.lock().expect("no thread panicked")[usize::from(id)] += 1;
                        }
                    }
                });
            }
        });
        assert_eq!(first.into_inner().expect("no thread panicked"), [1; 20]);
        drop(nodes);
        let again = SqliteRedemption::open(&path).expect("it opens");
        assert_eq!(redeem(&again, 7, 1), Ok(Redeemed::Before), "it stays redeemed");
    }

    /// A clock that is a day ahead removes nothing that other nodes need.
    #[test]
    fn ids_go_a_day_after_they_may() {
        let folder = tempfile::tempdir().expect("a folder");
        let store = SqliteRedemption::open(&folder.path().join("redeemed.db")).expect("it opens");
        for id in 0..20 {
            assert_eq!(redeem(&store, id, 0), Ok(Redeemed::First));
        }
        let day = 24 * 3600;
        assert_eq!(redeem(&store, 100, day + 60), Ok(Redeemed::First));
        assert_eq!((ids(&store), redeem(&store, 0, 0)), (21, Ok(Redeemed::Before)));
        assert_eq!(redeem(&store, 101, day + 61), Ok(Redeemed::First));
        assert_eq!(ids(&store), 22 - REMOVED_MAX);
        assert_eq!(redeem(&store, 102, day + 61), Ok(Redeemed::First));
        assert_eq!(ids(&store), 3);
    }

    #[test]
    fn a_folder_that_others_may_write_to_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let (open, closed) = (folder.path().join("open"), folder.path().join("closed"));
        for (folder, mode) in [(&open, 0o755), (&closed, 0o700)] {
            std::fs::create_dir(folder).expect("it is new");
            std::fs::set_permissions(folder, PermissionsExt::from_mode(mode)).expect("it is ours");
            drop(SqliteRedemption::open(&folder.join("redeemed.db")).expect("others may not write to it"));
        }
        // A link in a good folder to a file in a bad one, and the other way around.
        std::os::unix::fs::symlink(open.join("redeemed.db"), closed.join("link")).expect("it is new");
        std::os::unix::fs::symlink(closed.join("redeemed.db"), open.join("link")).expect("it is new");
        for mode in [0o775, 0o757, 0o1777] {
            std::fs::set_permissions(&open, PermissionsExt::from_mode(mode)).expect("it is ours");
            for path in
                [open.join("redeemed.db"), open.join("new.db"), closed.join("link"), open.join("link")]
            {
                let error = SqliteRedemption::open(&path).expect_err("others may replace it").to_string();
                assert!(error.contains("chmod go-w"), "{mode:o} {}: {error}", path.display());
            }
        }
        SqliteRedemption::open(&closed.join("redeemed.db")).expect("others may not write to it");
    }

    /// As after a restored backup: the redemption of id 1 is lost with the file.
    #[test]
    fn a_file_that_was_replaced_redeems_nothing() {
        let folder = tempfile::tempdir().expect("a folder");
        let (path, aside) = (folder.path().join("redeemed.db"), folder.path().join("aside.db"));
        let store = SqliteRedemption::open(&path).expect("it opens");
        assert_eq!(redeem(&store, 1, 0), Ok(Redeemed::First));
        std::fs::rename(&path, &aside).expect("it is there");
        assert!(redeem(&store, 2, 0).is_err(), "there is none");
        let other = SqliteRedemption::open(&path).expect("it opens");
        for id in [1, 2, 3] {
            let error = redeem(&store, id, 0).expect_err("it is another file").to_string();
            assert!(error.contains("was replaced"), "{error}");
        }
        assert_eq!(redeem(&other, 3, 0), Ok(Redeemed::First), "nothing was redeemed in the other one");
        assert_eq!(ids(&store), 1);
    }

    #[test]
    fn a_store_that_cannot_answer_is_an_error() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("redeemed.db");
        let store = SqliteRedemption::open(&path).expect("it opens");
        store
            .connection
            .lock()
            .expect("no thread panicked")
            .execute_batch("DROP TABLE redeemed")
            .expect("gone");
        assert!(redeem(&store, 1, 0).is_err());
        // Another database, and a file that other users can read.
        let other = folder.path().join("accounts.db");
        Connection::open(&other).and_then(|it| it.execute_batch("CREATE TABLE t (a)")).expect("a database");
        let private = |mode| std::os::unix::fs::PermissionsExt::from_mode(mode);
        std::fs::set_permissions(&other, private(0o600)).expect("it is ours");
        let error = SqliteRedemption::open(&other).expect_err("it is for something else");
        assert!(error.to_string().contains("something else"), "{error}");
        std::fs::set_permissions(&path, private(0o644)).expect("it is ours");
        assert!(SqliteRedemption::open(&path).is_err());
    }
}
