//! The tables, and how files come to have them.

use super::contents::{Counters, Row};
use super::{LOG_LEN_MAX, WRITE_BUSY_TIMEOUT, WRITE_CACHE_KIB, connect, failed, rows};
use crate::columns::damaged;
use crate::file_access::beside_database;
use crate::fold;
use crate::rules::RID_FIRST;
use crate::sealing::{Seal, SealingKey};
use crate::store::{Domain, StoreError};
use rusqlite::{Connection, OpenFlags, OptionalExtension, TransactionBehavior, params};
use std::fs::{self, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// `PRAGMA application_id`: `rcmp`.
const APPLICATION_ID: i32 = 0x7263_6d70;

/// `PRAGMA user_version` counts how many of these a file has had. Only ever add to the end.
///
/// Relative identifiers are the keys. `name_key` holds folded text and `account_key.hash` the hash of such,
/// of the version of Unicode in `domain.fold`; `group_rids` holds all groups an account is in, ascending,
/// four bytes each, little-endian. The triggers keep `revision`, so that changes by the SQLite shell are
/// noticed, too. With each counter goes a random number: a back-up that is restored takes the counters back,
/// and another history that counts to the same numbers has other random ones. `name_twin` holds the names
/// whose key by [`fold::wide`] is not `name_key`. Rows of names that are not used any more may stay.
pub(super) const MIGRATIONS: &[&str] = &["
CREATE TABLE domain (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    netbios TEXT NOT NULL,
    dns TEXT NOT NULL,
    sid TEXT NOT NULL,
    next_rid INTEGER NOT NULL,
    fold TEXT NOT NULL,
    sealing_key_check BLOB
) STRICT;

CREATE TABLE revision (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    accounts INTEGER NOT NULL,
    groups INTEGER NOT NULL,
    machines INTEGER NOT NULL
) STRICT;
INSERT INTO revision VALUES (1, 1, 1, 1);

CREATE TABLE account (
    rid INTEGER PRIMARY KEY,
    name TEXT NOT NULL,
    name_key TEXT NOT NULL UNIQUE,
    kind TEXT NOT NULL,
    user_principal_name TEXT,
    service_principal_names TEXT NOT NULL,
    alt_security_identities TEXT NOT NULL,
    flags INTEGER NOT NULL,
    primary_group_id INTEGER NOT NULL,
    expires INTEGER NOT NULL,
    created INTEGER NOT NULL,
    password_last_set INTEGER NOT NULL,
    password_can_change INTEGER NOT NULL,
    password_must_change INTEGER NOT NULL,
    logon_hours BLOB,
    logon_count INTEGER NOT NULL,
    bad_password_count INTEGER NOT NULL,
    profile TEXT NOT NULL,
    extra_sids TEXT NOT NULL,
    group_rids BLOB NOT NULL
) STRICT;
CREATE INDEX account_primary_group ON account (primary_group_id);

CREATE TABLE account_key (
    hash BLOB NOT NULL,
    rid INTEGER NOT NULL,
    PRIMARY KEY (hash, rid)
) STRICT, WITHOUT ROWID;

CREATE TABLE account_group (
    rid INTEGER PRIMARY KEY,
    name TEXT NOT NULL,
    name_key TEXT NOT NULL UNIQUE,
    scope TEXT NOT NULL
) STRICT;

CREATE TABLE member (
    group_rid INTEGER NOT NULL,
    member_rid INTEGER NOT NULL,
    PRIMARY KEY (group_rid, member_rid)
) STRICT, WITHOUT ROWID;
CREATE INDEX member_of ON member (member_rid, group_rid);

CREATE TABLE machine (
    rid INTEGER PRIMARY KEY,
    name TEXT NOT NULL,
    name_key TEXT NOT NULL UNIQUE,
    kind TEXT NOT NULL,
    enabled INTEGER NOT NULL,
    rcmp INTEGER NOT NULL,
    domains TEXT NOT NULL,
    groups TEXT NOT NULL,
    current_since INTEGER NOT NULL,
    sealed BLOB NOT NULL
) STRICT;

CREATE TRIGGER account_added AFTER INSERT ON account BEGIN UPDATE revision SET accounts = accounts + 1; END;
CREATE TRIGGER account_changed AFTER UPDATE ON account BEGIN UPDATE revision SET accounts = accounts + 1; END;
CREATE TRIGGER account_removed AFTER DELETE ON account BEGIN
    UPDATE revision SET accounts = accounts + 1;
    DELETE FROM machine WHERE rid = OLD.rid;
END;
CREATE TRIGGER group_added AFTER INSERT ON account_group BEGIN UPDATE revision SET accounts = accounts + 1, groups = groups + 1; END;
CREATE TRIGGER group_changed AFTER UPDATE ON account_group BEGIN UPDATE revision SET accounts = accounts + 1, groups = groups + 1; END;
CREATE TRIGGER group_removed AFTER DELETE ON account_group BEGIN UPDATE revision SET accounts = accounts + 1, groups = groups + 1; END;
CREATE TRIGGER machine_added AFTER INSERT ON machine BEGIN UPDATE revision SET machines = machines + 1; END;
CREATE TRIGGER machine_changed AFTER UPDATE ON machine BEGIN UPDATE revision SET machines = machines + 1; END;
CREATE TRIGGER machine_removed AFTER DELETE ON machine BEGIN UPDATE revision SET machines = machines + 1; END;
", "
ALTER TABLE account ADD COLUMN home_domain TEXT;
", "
ALTER TABLE revision ADD COLUMN accounts_epoch INTEGER NOT NULL DEFAULT 0;
ALTER TABLE revision ADD COLUMN groups_epoch INTEGER NOT NULL DEFAULT 0;
ALTER TABLE revision ADD COLUMN machines_epoch INTEGER NOT NULL DEFAULT 0;
UPDATE revision SET accounts_epoch = random(), groups_epoch = random(), machines_epoch = random();

CREATE TABLE name_twin (
    name_key TEXT PRIMARY KEY,
    wide_key TEXT NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX name_twin_wide ON name_twin (wide_key);

DROP TRIGGER account_added;
DROP TRIGGER account_changed;
DROP TRIGGER account_removed;
DROP TRIGGER group_added;
DROP TRIGGER group_changed;
DROP TRIGGER group_removed;
DROP TRIGGER machine_added;
DROP TRIGGER machine_changed;
DROP TRIGGER machine_removed;
CREATE TRIGGER account_added AFTER INSERT ON account BEGIN
    UPDATE revision SET accounts = accounts + 1, accounts_epoch = random(), machines = machines + 1, machines_epoch = random();
END;
CREATE TRIGGER account_changed AFTER UPDATE ON account BEGIN
    UPDATE revision SET accounts = accounts + 1, accounts_epoch = random(), machines = machines + 1, machines_epoch = random();
END;
CREATE TRIGGER account_removed AFTER DELETE ON account BEGIN
    UPDATE revision SET accounts = accounts + 1, accounts_epoch = random(), machines = machines + 1, machines_epoch = random();
    DELETE FROM machine WHERE rid = OLD.rid;
END;
CREATE TRIGGER group_added AFTER INSERT ON account_group BEGIN
    UPDATE revision SET accounts = accounts + 1, accounts_epoch = random(), groups = groups + 1, groups_epoch = random();
END;
CREATE TRIGGER group_changed AFTER UPDATE ON account_group BEGIN
    UPDATE revision SET accounts = accounts + 1, accounts_epoch = random(), groups = groups + 1, groups_epoch = random();
END;
CREATE TRIGGER group_removed AFTER DELETE ON account_group BEGIN
    UPDATE revision SET accounts = accounts + 1, accounts_epoch = random(), groups = groups + 1, groups_epoch = random();
END;
CREATE TRIGGER machine_added AFTER INSERT ON machine BEGIN
    UPDATE revision SET machines = machines + 1, machines_epoch = random();
END;
CREATE TRIGGER machine_changed AFTER UPDATE ON machine BEGIN
    UPDATE revision SET machines = machines + 1, machines_epoch = random();
END;
CREATE TRIGGER machine_removed AFTER DELETE ON machine BEGIN
    UPDATE revision SET machines = machines + 1, machines_epoch = random();
END;
", "
CREATE TABLE nt_hash (
    rid INTEGER PRIMARY KEY,
    sealed BLOB NOT NULL
) STRICT;
CREATE TRIGGER nt_hash_removed AFTER DELETE ON account BEGIN
    DELETE FROM nt_hash WHERE rid = OLD.rid;
END;
", "
CREATE TABLE password_hash (
    rid INTEGER PRIMARY KEY,
    sealed BLOB NOT NULL
) STRICT;
CREATE TRIGGER password_hash_of_removed_account AFTER DELETE ON account BEGIN
    DELETE FROM password_hash WHERE rid = OLD.rid;
END;
CREATE TRIGGER password_hash_added AFTER INSERT ON password_hash BEGIN
    UPDATE revision SET accounts = accounts + 1, accounts_epoch = random();
END;
CREATE TRIGGER password_hash_changed AFTER UPDATE ON password_hash BEGIN
    UPDATE revision SET accounts = accounts + 1, accounts_epoch = random();
END;
CREATE TRIGGER password_hash_removed AFTER DELETE ON password_hash BEGIN
    UPDATE revision SET accounts = accounts + 1, accounts_epoch = random();
END;
"];

/// The first version whose files know which names are twins.
const VERSION_WITH_TWINS: usize = 3;

/// A new file, complete before it has its name.
pub(super) fn create(path: &Path, domain: &Domain) -> Result<(), StoreError> {
    if !domain.sid.is_domain() {
        return Err(StoreError::Refused(format!("{} is not the SID of a domain", domain.sid)));
    }
    if path.exists() {
        return Err(StoreError::Refused(format!("{} exists already", path.display())));
    }
    let failed_at = |error: std::io::Error| StoreError::Unavailable(format!("{}: {error}", path.display()));
    let mut unfinished = path.as_os_str().to_owned();
    unfinished.push(format!(".{}.new", std::process::id()));
    let unfinished = Path::new(&unfinished);
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(unfinished).map_err(failed_at)?;
    let filled = fill(unfinished, domain)
        // A link, unlike a move, takes no existing file's place.
        .and_then(|()| fs::hard_link(unfinished, path).map_err(failed_at));
    let removed = fs::remove_file(unfinished).map_err(failed_at);
    // What SQLite keeps beside a file that it could not fill.
    for end in ["-journal", "-wal", "-shm"] {
        let _ = fs::remove_file(beside_database(unfinished, end));
    }
    filled.and(removed)
}

fn fill(path: &Path, domain: &Domain) -> Result<(), StoreError> {
    let mut connection = connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE, WRITE_BUSY_TIMEOUT)?;
    let transaction = connection.transaction().map_err(failed)?;
    for migration in MIGRATIONS {
        transaction.execute_batch(migration).map_err(failed)?;
    }
    transaction
        .execute(
            "INSERT INTO domain (id, netbios, dns, sid, next_rid, fold) VALUES (1, ?1, ?2, ?3, ?4, ?5)",
            params![domain.netbios, domain.dns, domain.sid.to_string(), RID_FIRST, fold::version()],
        )
        .map_err(failed)?;
    transaction.pragma_update(None, "application_id", APPLICATION_ID).map_err(failed)?;
    transaction.pragma_update(None, "user_version", MIGRATIONS.len()).map_err(failed)?;
    transaction.commit().map_err(failed)?;
    connection.pragma_update(None, "journal_mode", "wal").map_err(failed)?;
    connection.close().map_err(|(_, error)| failed(error))
}

/// Makes sure that a file is one of ours, of this version, and set up for writing. Returns the domain whose
/// accounts it holds.
pub(super) fn prepare(path: &Path, connection: &mut Connection) -> Result<Domain, StoreError> {
    let unusable = |why: String| Err(StoreError::Unavailable(format!("{}: {why}", path.display())));
    let pragma = |name: &str| connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
    if pragma("application_id").map_err(failed)? != i64::from(APPLICATION_ID) {
        return unusable("this is not a store of accounts".to_owned());
    }
    let version = pragma("user_version").map_err(failed)?;
    let (version, known) = (usize::try_from(version).unwrap_or(usize::MAX), MIGRATIONS.len());
    if version > known {
        return unusable(format!(
            "the file has version {version} and this program knows versions up to {known}; use a newer program"
        ));
    }
    let mode: String =
        connection.pragma_update_and_check(None, "journal_mode", "wal", |row| row.get(0)).map_err(failed)?;
    if mode != "wal" {
        return unusable(format!("write-ahead logging is not possible here (mode {mode})"));
    }
    connection.pragma_update(None, "synchronous", "full").map_err(failed)?;
    connection.pragma_update(None, "cache_size", -WRITE_CACHE_KIB).map_err(failed)?;
    connection.pragma_update(None, "journal_size_limit", LOG_LEN_MAX).map_err(failed)?;
    if version < known {
        migrate(connection)?;
    }
    renew_keys(connection)?;
    domain(connection)
}

fn migrate(connection: &mut Connection) -> Result<(), StoreError> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(failed)?;
    // After a restore this connection still has the schema of before in memory, and DDL goes by that. A step
    // of a statement compares it with the file's.
    transaction.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(())).map_err(failed)?;
    // Another process may have done it in the meantime.
    let version: usize =
        transaction.pragma_query_value(None, "user_version", |row| row.get(0)).map_err(failed)?;
    for migration in MIGRATIONS.iter().skip(version) {
        transaction.execute_batch(migration).map_err(failed)?;
    }
    if version < VERSION_WITH_TWINS {
        rows::note_all_twins(&transaction)?;
    }
    transaction.pragma_update(None, "user_version", MIGRATIONS.len()).map_err(failed)?;
    transaction.commit().map_err(failed)
}

/// Folds everything again when the tables of Unicode are others than those the file was folded by.
fn renew_keys(connection: &mut Connection) -> Result<(), StoreError> {
    let fold = |connection: &Connection| {
        connection.query_row("SELECT fold FROM domain", [], |row| row.get::<_, String>(0)).map_err(failed)
    };
    let version = fold::version();
    if fold(connection)? == version {
        return Ok(());
    }
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(failed)?;
    if fold(&transaction)? != version {
        rows::renew_keys(&transaction)?;
        transaction.execute("UPDATE domain SET fold = ?1", [&version]).map_err(failed)?;
    }
    transaction.commit().map_err(failed)
}

/// What seals the rows of a store; a store that was sealed with another key is refused.
pub(super) fn seal(key: &SealingKey, connection: &Connection) -> Result<Seal, StoreError> {
    let seal = key.new_seal();
    let known = || {
        let mut statement = connection.prepare("SELECT sealing_key_check FROM domain")?;
        statement.query_row([], |row| row.get::<_, Option<Vec<u8>>>(0)).optional()
    };
    if known().map_err(failed)?.flatten().is_none() {
        let sql = "UPDATE domain SET sealing_key_check = ?1 WHERE sealing_key_check IS NULL";
        connection.execute(sql, [seal.check().as_slice()]).map_err(failed)?;
    }
    match known().map_err(failed)?.flatten() {
        Some(known) if seal.has_check(&known) => Ok(seal),
        _ => Err(StoreError::OtherKey),
    }
}

/// What a store checks each time that the contents are others: a back-up of another domain, of another key or
/// of another version may have been restored into the file.
pub(super) struct Expected<'a> {
    pub(super) path: &'a Path,
    pub(super) domain: &'a Domain,
    pub(super) seal: Option<&'a Seal>,
}

impl Expected<'_> {
    /// The counters of the present contents, read in a transaction; `None` if [`prepare`] has to bring the
    /// contents to the present version first.
    pub(super) fn counters(&self, connection: &Connection) -> Result<Option<(Counters, Row)>, StoreError> {
        let unusable = |why: String| Err(StoreError::Unavailable(format!("{}: {why}", self.path.display())));
        let mut statement = connection
            .prepare_cached(
                "SELECT application_id, user_version FROM pragma_application_id, pragma_user_version",
            )
            .map_err(failed)?;
        let (application, version): (i64, i64) =
            statement.query_row([], |row| Ok((row.get(0)?, row.get(1)?))).map_err(failed)?;
        let known = i64::try_from(MIGRATIONS.len()).unwrap_or(i64::MAX);
        if application != i64::from(APPLICATION_ID) || version > known {
            return unusable("what was restored is no store of accounts of this version".to_owned());
        }
        if version < known {
            return Ok(None);
        }
        let mut statement = connection
            .prepare_cached(
                "SELECT netbios, dns, sid, fold, sealing_key_check, accounts, accounts_epoch, machines, machines_epoch,
                     schema_version, (SELECT rootpage FROM sqlite_schema WHERE type = 'table' AND name = 'revision')
                 FROM domain, revision, pragma_schema_version",
            )
            .map_err(failed)?;
        let mut rows = statement.query([]).map_err(failed)?;
        let row = rows.next().map_err(failed)?.ok_or_else(|| damaged("the domain or its revision"))?;
        let ours = self.domain;
        let is_ours = row.get::<_, String>(0).map_err(failed)? == ours.netbios
            && row.get::<_, String>(1).map_err(failed)? == ours.dns
            && row.get::<_, String>(2).map_err(failed)? == ours.sid.to_string();
        if !is_ours {
            return unusable(format!(
                "what was restored holds the accounts of another domain than {}",
                ours.netbios
            ));
        }
        let check: Option<Vec<u8>> = row.get(4).map_err(failed)?;
        if let (Some(seal), Some(check)) = (self.seal, check)
            && !seal.has_check(&check)
        {
            return unusable(
                "what was restored has secrets that were sealed under another key file".to_owned(),
            );
        }
        if row.get::<_, String>(3).map_err(failed)? != fold::version() {
            return Ok(None);
        }
        let number = |column| row.get::<_, u64>(column).map_err(failed);
        let epoch = |column| row.get::<_, i64>(column).map(i64::cast_unsigned).map_err(failed);
        let counters = Counters { accounts: (number(5)?, epoch(6)?), machines: (number(7)?, epoch(8)?) };
        let row = Row { schema: row.get(9).map_err(failed)?, page: row.get(10).map_err(failed)? };
        Ok(Some((counters, row)))
    }
}

fn domain(connection: &Connection) -> Result<Domain, StoreError> {
    let (netbios, dns, sid) = connection
        .query_row("SELECT netbios, dns, sid FROM domain", [], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get::<_, String>(2)?))
        })
        .map_err(failed)?;
    Ok(Domain { netbios, dns, sid: sid.parse().map_err(|_| damaged("the SID of the domain"))? })
}
