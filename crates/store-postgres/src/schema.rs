//! The tables, and how a database comes to have them.
//!
//! Statements are of the part of SQL that PostgreSQL shares with databases that speak its protocol: no
//! triggers, no sequences, no advisory locks, no types and functions of our own. A migration may be
//! interrupted where tables are not made in transactions, so each statement of it can be run again.

use crate::connection::{Connection, Param};
use crate::failure::Failure;
use crate::identity::{Identity, VERSION};
use crate::rows::{self, ACCOUNTS_AFTER};
use crate::settings::Settings;
use account_store::columns::damaged;
use account_store::rules::RID_FIRST;
use account_store::sealing::Seal;
use account_store::{Domain, StoreError, fold, index};
use std::time::Duration;
use tokio::time::timeout;
use tokio_postgres::types::Type;
use tracing::info;

/// `schema_version.version` counts how many of these a database has had. Only ever add to the end.
///
/// The tables are those of the SQLite store. Relative identifiers are the keys; all numbers are `bigint`.
/// Columns that are compared are bytes in UTF-8 (`COLLATE "C"`): what is equal is decided by our folding
/// ([`account_store::fold`], of the version in `domain.fold`), never by a locale of the server. Indexes hold
/// keys of at most [`rows::KEY_LEN_MAX`] bytes.
///
/// A change by SQL has to change `revision`, too: the counters of what was changed, and their
/// random numbers. `name_twin` has the names whose wider key is another one; some may be in use no more.
const MIGRATIONS: &[&str] = &[
    r#"
CREATE TABLE IF NOT EXISTS @.domain (
    id bigint PRIMARY KEY CHECK (id = 1),
    netbios text NOT NULL,
    dns text NOT NULL,
    sid text NOT NULL,
    next_rid bigint NOT NULL,
    fold text NOT NULL,
    sealing_key_check bytea
);
CREATE TABLE IF NOT EXISTS @.revision (
    id bigint PRIMARY KEY CHECK (id = 1),
    accounts bigint NOT NULL,
    accounts_epoch bigint NOT NULL,
    account_groups bigint NOT NULL,
    account_groups_epoch bigint NOT NULL,
    machines bigint NOT NULL,
    machines_epoch bigint NOT NULL
);
CREATE TABLE IF NOT EXISTS @.account (
    rid bigint PRIMARY KEY,
    name text NOT NULL,
    name_key text COLLATE "C" NOT NULL UNIQUE,
    kind text NOT NULL,
    user_principal_name text,
    service_principal_names text NOT NULL,
    alt_security_identities text NOT NULL,
    flags bigint NOT NULL,
    primary_group_id bigint NOT NULL,
    expires bigint NOT NULL,
    created bigint NOT NULL,
    password_last_set bigint NOT NULL,
    password_can_change bigint NOT NULL,
    password_must_change bigint NOT NULL,
    logon_hours bytea,
    logon_count bigint NOT NULL,
    bad_password_count bigint NOT NULL,
    profile text NOT NULL,
    extra_sids text NOT NULL,
    group_rids bytea NOT NULL,
    home_domain text
);
CREATE INDEX IF NOT EXISTS account_primary_group ON @.account (primary_group_id);
CREATE TABLE IF NOT EXISTS @.account_key (
    kind bigint NOT NULL,
    key text COLLATE "C" NOT NULL,
    rid bigint NOT NULL,
    PRIMARY KEY (kind, key, rid)
);
CREATE TABLE IF NOT EXISTS @.account_group (
    rid bigint PRIMARY KEY,
    name text NOT NULL,
    name_key text COLLATE "C" NOT NULL UNIQUE,
    scope text NOT NULL
);
CREATE TABLE IF NOT EXISTS @.member (
    group_rid bigint NOT NULL,
    member_rid bigint NOT NULL,
    PRIMARY KEY (group_rid, member_rid)
);
CREATE INDEX IF NOT EXISTS member_of ON @.member (member_rid, group_rid);
CREATE TABLE IF NOT EXISTS @.name_twin (
    name_key text COLLATE "C" PRIMARY KEY,
    wide_key text COLLATE "C" NOT NULL,
    folded text NOT NULL
);
CREATE INDEX IF NOT EXISTS name_twin_wide ON @.name_twin (wide_key);
CREATE TABLE IF NOT EXISTS @.machine (
    rid bigint PRIMARY KEY,
    name text NOT NULL,
    name_key text COLLATE "C" NOT NULL UNIQUE,
    kind text NOT NULL,
    enabled boolean NOT NULL,
    rcmp boolean NOT NULL,
    scope_domains text NOT NULL,
    scope_groups text NOT NULL,
    current_since bigint NOT NULL,
    sealed bytea NOT NULL
);
CREATE TABLE IF NOT EXISTS @.nt_hash (rid bigint PRIMARY KEY, sealed bytea NOT NULL);
CREATE TABLE IF NOT EXISTS @.password_hash (rid bigint PRIMARY KEY, sealed bytea NOT NULL);
"#,
    r#"
CREATE TABLE IF NOT EXISTS @.channel (
    id bytea PRIMARY KEY,
    account text NOT NULL,
    sid text COLLATE "C" NOT NULL,
    computer bytea NOT NULL,
    kind bigint NOT NULL,
    negotiated_flags bigint NOT NULL,
    requested_flags bigint NOT NULL,
    ends bigint NOT NULL,
    sealed bytea NOT NULL,
    generation bigint NOT NULL,
    credential bytea NOT NULL
);
CREATE INDEX IF NOT EXISTS channel_computer ON @.channel (computer, ends);
CREATE INDEX IF NOT EXISTS channel_account ON @.channel (sid, ends);
CREATE INDEX IF NOT EXISTS channel_ends ON @.channel (ends);
CREATE TABLE IF NOT EXISTS @.challenge (
    place bigint PRIMARY KEY,
    id bytea NOT NULL,
    ends bigint NOT NULL,
    sealed bytea NOT NULL
);
"#,
    r#"
CREATE TABLE IF NOT EXISTS @.guess (
    place bigint PRIMARY KEY,
    name bigint NOT NULL,
    failures bigint NOT NULL,
    latest bigint NOT NULL
);
CREATE TABLE IF NOT EXISTS @.replica (
    id bytea PRIMARY KEY,
    name text NOT NULL,
    version text NOT NULL,
    tables_version bigint NOT NULL,
    listeners text NOT NULL,
    accounts bigint NOT NULL,
    account_groups bigint NOT NULL,
    machines bigint NOT NULL,
    behind bigint NOT NULL,
    started_ms bigint NOT NULL,
    seen_ms bigint NOT NULL,
    clock_ms bigint NOT NULL
);
"#,
];

const _: () = assert!(MIGRATIONS.len() as i64 == VERSION, "each version has its migration");

/// Tables are made, and keys made anew, in this time. A large store takes minutes.
const TIMEOUT: Duration = Duration::from_secs(1800);
/// How often a step is tried again that another program was doing at the same moment.
const TRIES: u32 = 20;
const TRY_AGAIN: Duration = Duration::from_millis(100);

/// Makes a store for the accounts of `domain`. One that exists is never touched.
pub(crate) async fn create(
    connection: &Connection,
    settings: &Settings,
    domain: &Domain,
) -> Result<(), StoreError> {
    if !domain.sid.is_domain() {
        return Err(StoreError::Refused(format!("{} is not the SID of a domain", domain.sid)));
    }
    check_encoding(connection).await?;
    make_schema(connection, settings).await?;
    in_time(migrate(connection, Some(domain))).await
}

/// Brings the tables to the present version, and the keys to the present version of Unicode.
pub(crate) async fn prepare(connection: &Connection, settings: &Settings) -> Result<Identity, StoreError> {
    check_encoding(connection).await?;
    let version = match connection.query("SELECT version FROM @.schema_version", &[]).await {
        Ok(rows) => rows.first().map(|row| rows::get::<i64>(row, 0)).transpose()?,
        Err(Failure::Store(StoreError::Damaged(_))) => None,
        Err(error) => return Err(error.into()),
    };
    let version = version.ok_or_else(|| {
        StoreError::Unavailable(format!(
            "the database {} has no store in its schema {}: `rcmpd domain add` makes it",
            settings.database,
            settings.schema.name()
        ))
    })?;
    check_version(version)?;
    if version < VERSION {
        in_time(migrate(connection, None)).await?;
    }
    let mut identity = Identity::read(connection).await?;
    if identity.fold != fold::version() {
        in_time(renew_keys(connection)).await?;
        identity = Identity::read(connection).await?;
    }
    Ok(identity)
}

fn check_version(version: i64) -> Result<(), StoreError> {
    match version > VERSION {
        true => Err(StoreError::Unavailable(format!(
            "the tables have version {version} and this program knows versions up to {VERSION}; use a newer program"
        ))),
        false => Ok(()),
    }
}

/// Notes the key that seals the secrets of a store without one; another key is refused.
pub(crate) async fn seal(
    connection: &Connection,
    identity: &Identity,
    seal: &Seal,
) -> Result<(), StoreError> {
    if identity.sealing_key_check.is_none() {
        let sql = "UPDATE @.domain SET sealing_key_check = $1 WHERE id = 1 AND sealing_key_check IS NULL";
        connection.execute(sql, &[(&seal.check().as_slice(), Type::BYTEA)]).await?;
    }
    match Identity::read(connection).await?.sealing_key_check {
        Some(known) if seal.has_check(&known) => Ok(()),
        _ => Err(StoreError::OtherKey),
    }
}

async fn in_time(work: impl Future<Output = Result<(), StoreError>>) -> Result<(), StoreError> {
    let late = |_| StoreError::Unavailable(format!("timeout after {} s", TIMEOUT.as_secs()));
    timeout(TIMEOUT, work).await.map_err(late)?
}

/// Text in another encoding could not hold every name, and a question about such a name would be an error.
async fn check_encoding(connection: &Connection) -> Result<(), StoreError> {
    let rows = connection.query("SELECT current_setting('server_encoding')", &[]).await?;
    let encoding: Option<String> = rows.first().map(|row| rows::get(row, 0)).transpose()?;
    match encoding.as_deref() {
        Some("UTF8" | "UTF-8" | "utf8") => Ok(()),
        encoding => Err(StoreError::Unavailable(format!(
            "the database has the encoding {}: create it with ENCODING 'UTF8'",
            encoding.unwrap_or("(unknown)")
        ))),
    }
}

/// Makes the schema and the table with the lock. Two programs may do so at the same moment, and then the
/// catalogs refuse one of them (SQLSTATE 23505 and 42P07 are ours, 40001 of other databases).
async fn make_schema(connection: &Connection, settings: &Settings) -> Result<(), StoreError> {
    let name = settings.schema.name();
    let mut tries = 0..TRIES;
    loop {
        // A role that may not make schemas can use one that was made for it.
        let sql = "SELECT count(*) FROM pg_catalog.pg_namespace WHERE nspname = $1";
        let rows = connection.query(sql, &[(&name, Type::TEXT)]).await?;
        let count: Option<i64> = rows.first().map(|row| rows::get(row, 0)).transpose()?;
        let is_there = count.is_some_and(|count| count > 0);
        let made = async {
            if !is_there {
                connection.batch("CREATE SCHEMA IF NOT EXISTS @").await?;
            }
            connection
                .batch(
                    "CREATE TABLE IF NOT EXISTS @.schema_version (id bigint PRIMARY KEY CHECK (id = 1), version bigint NOT NULL)",
                )
                .await?;
            let sql = "INSERT INTO @.schema_version (id, version) VALUES (1, 0) ON CONFLICT DO NOTHING";
            connection.execute(sql, &[]).await
        };
        match made.await {
            Ok(_) => return Ok(()),
            Err(error) if tries.next().is_none() || matches!(error, Failure::Denied(_)) => {
                return Err(error.into());
            }
            Err(_) => tokio::time::sleep(TRY_AGAIN).await,
        }
    }
}

/// One program at a time migrates: the row with the version is the lock. With a domain, the store is made for
/// it, and refused if it is there already.
async fn migrate(connection: &Connection, new: Option<&Domain>) -> Result<(), StoreError> {
    connection.batch("BEGIN").await?;
    let sql = "SELECT version FROM @.schema_version WHERE id = 1 FOR UPDATE";
    let rows = connection.query(sql, &[]).await?;
    let version: i64 = rows::get(rows.first().ok_or_else(|| damaged("schema_version"))?, 0)?;
    check_version(version)?;
    for migration in MIGRATIONS.iter().skip(usize::try_from(version).unwrap_or(0)) {
        connection.batch(migration).await?;
    }
    if let Some(domain) = new {
        if !connection.query("SELECT id FROM @.domain", &[]).await?.is_empty() {
            return Err(StoreError::Refused("the schema has a store already".to_owned()));
        }
        fill(connection, domain).await?;
    }
    connection
        .execute("UPDATE @.schema_version SET version = $1 WHERE id = 1", &[(&VERSION, Type::INT8)])
        .await?;
    connection.batch("COMMIT").await?;
    info!(from = version, to = VERSION, "Tables in PostgreSQL migrated");
    Ok(())
}

async fn fill(connection: &Connection, domain: &Domain) -> Result<(), StoreError> {
    let (sid, rid) = (domain.sid.to_string(), i64::from(RID_FIRST));
    let sql = "INSERT INTO @.domain (id, netbios, dns, sid, next_rid, fold) VALUES (1, $1, $2, $3, $4, $5)";
    let params: [Param<'_>; 5] = [
        (&domain.netbios, Type::TEXT),
        (&domain.dns, Type::TEXT),
        (&sid, Type::TEXT),
        (&rid, Type::INT8),
        (&fold::version(), Type::TEXT),
    ];
    connection.execute(sql, &params).await?;
    let sql = "INSERT INTO @.revision (id, accounts, accounts_epoch, account_groups, account_groups_epoch, machines, machines_epoch)
        VALUES (1, 1, $1, 1, $2, 1, $3)";
    let epochs = [random()?, random()?, random()?];
    connection.execute(sql, &epochs.each_ref().map(|epoch| (epoch as _, Type::INT8))).await?;
    Ok(())
}

/// A random number for a change.
pub(crate) fn random() -> Result<i64, StoreError> {
    let number = getrandom::u64()
        .map_err(|error| StoreError::Unavailable(format!("the system has no random numbers: {error}")))?;
    Ok(number.cast_signed())
}

/// Accounts that are read at once.
const PAGE: i64 = 1000;

/// Folds everything again: the tables of Unicode are others than those the store was folded by.
async fn renew_keys(connection: &Connection) -> Result<(), StoreError> {
    info!("Keys in PostgreSQL are made again for another version of Unicode");
    connection.batch("BEGIN").await?;
    let sql = "SELECT version FROM @.schema_version WHERE id = 1 FOR UPDATE";
    connection.query(sql, &[]).await?;
    connection.query("SELECT id FROM @.revision WHERE id = 1 FOR UPDATE", &[]).await?;
    let identity = Identity::read(connection).await?;
    if identity.fold == fold::version() {
        return Ok(connection.batch("COMMIT").await?);
    }
    connection.batch("DELETE FROM @.account_key; DELETE FROM @.name_twin").await?;
    for (table, is_account) in [("account", true), ("account_group", false), ("machine", false)] {
        // Names may have been different before and equal now, and then be in each other's way for a moment.
        connection.batch(&format!("UPDATE @.{table} SET name_key = '/' || rid")).await?;
        let mut after = 0_i64;
        loop {
            let sql = format!("SELECT rid, name FROM @.{table} WHERE rid > $1 ORDER BY rid LIMIT $2");
            let page = connection.query(&sql, &[(&after, Type::INT8), (&PAGE, Type::INT8)]).await?;
            if is_account {
                renew_account_keys(connection, &identity.domain, after).await?;
            }
            let Some(last) = page.last() else { break };
            after = rows::get(last, 0)?;
            let names = page.iter().map(|row| Ok((rows::get(row, 0)?, rows::get(row, 1)?)));
            let names = names.collect::<Result<Vec<(i64, String)>, StoreError>>()?;
            rename(connection, table, &names).await?;
        }
    }
    connection
        .execute("UPDATE @.domain SET fold = $1 WHERE id = 1", &[(&fold::version(), Type::TEXT)])
        .await?;
    Ok(connection.batch("COMMIT").await?)
}

async fn rename(connection: &Connection, table: &str, names: &[(i64, String)]) -> Result<(), StoreError> {
    let rids: Vec<i64> = names.iter().map(|(rid, _)| *rid).collect();
    let keys: Vec<String> = names.iter().map(|(_, name)| rows::name_key(&fold::casefold(name))).collect();
    let sql = format!(
        "UPDATE @.{table} SET name_key = n.k FROM unnest($1, $2) AS n(rid, k) WHERE {table}.rid = n.rid"
    );
    connection.execute(&sql, &[(&rids, Type::INT8_ARRAY), (&keys, Type::TEXT_ARRAY)]).await?;
    for (_, name) in names {
        let (folded, wide) = (fold::casefold(name), fold::wide(name));
        if folded != wide {
            note_twin(connection, &folded, &wide).await?;
        }
    }
    Ok(())
}

/// Notes a folded name whose wider key is another text.
pub(crate) async fn note_twin(connection: &Connection, folded: &str, wide: &str) -> Result<(), Failure> {
    let sql = "INSERT INTO @.name_twin (name_key, wide_key, folded) VALUES ($1, $2, $3)
        ON CONFLICT (name_key) DO UPDATE SET wide_key = excluded.wide_key, folded = excluded.folded";
    let params: [Param<'_>; 3] =
        [(&rows::name_key(folded), Type::TEXT), (&rows::name_key(wide), Type::TEXT), (&folded, Type::TEXT)];
    connection.execute(sql, &params).await.map(drop)
}

async fn renew_account_keys(connection: &Connection, domain: &Domain, after: i64) -> Result<(), StoreError> {
    let page = connection.query(ACCOUNTS_AFTER, &[(&after, Type::INT8), (&PAGE, Type::INT8)]).await?;
    let mut keys = rows::Keys::default();
    for row in &page {
        let account = rows::account(domain, row, 0)?;
        let rid = account.sid.rid_in(&domain.sid).ok_or_else(|| damaged("a SID"))?;
        keys.extend(rid, index::keys(&account));
    }
    keys.insert(connection).await?;
    Ok(())
}
