//! Which servers share this store: a row for each, which the server writes every few seconds.
//!
//! Times are those of the database, so that clocks of servers need not agree.

use crate::PostgresStore;
use crate::connection::Param;
use crate::identity::VERSION;
use crate::rows::get;
use account_store::columns::damaged;
use account_store::{BoxFuture, StoreError};
use std::time::Duration;
use tokio_postgres::Row;
use tokio_postgres::types::Type;

/// Rows at most: those that were not written for the longest time are removed.
const REPLICAS_MAX: i64 = 100;
/// A row that was not written for so long is removed.
const REMOVED_AFTER: Duration = Duration::from_secs(24 * 3600);
/// So many octets of a text are kept.
const TEXT_LEN_MAX: usize = 255;

/// What a server says about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplicaFacts {
    /// Random, for each start of a server.
    pub id: [u8; 16],
    /// Name of its host.
    pub name: String,
    /// Version of its program.
    pub version: String,
    /// Addresses where it serves machines, separated by spaces.
    pub listeners: String,
}

/// A server that shares the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replica {
    /// What it says about itself.
    pub facts: ReplicaFacts,
    /// The version of the tables that it knows.
    pub tables_version: i64,
    /// The revisions of accounts, groups and machines that it had seen when it wrote its row.
    pub revisions: [i64; 3],
    /// How many changes it had not seen then.
    pub behind: u64,
    /// How long ago it wrote its row first.
    pub up: Duration,
    /// How long ago it wrote its row last.
    pub seen: Duration,
    /// Its clock minus that of the database, in milliseconds, including the time of the statement.
    pub clock_ms: i64,
}

/// All servers, and the revisions of accounts, groups and machines now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replicas {
    /// The revisions in the database.
    pub revisions: [i64; 3],
    /// The servers, the one that wrote its row last first.
    pub replicas: Vec<Replica>,
}

/// The clock of the database, in milliseconds.
macro_rules! now_ms {
    () => {
        "(extract(epoch FROM clock_timestamp()) * 1000)::bigint"
    };
}

impl PostgresStore {
    /// Writes the row of a server, whose clock shows `clock_ms` milliseconds since 1970. Removes old rows.
    pub fn announce<'a>(
        &'a self,
        facts: &'a ReplicaFacts,
        clock_ms: i64,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        self.run(async move {
            let seen = self.inner.seen.revision_row();
            let [accounts, groups, machines] = [seen.accounts.0, seen.groups.0, seen.machines.0];
            let sql = concat!(
                "INSERT INTO @.replica (id, name, version, tables_version, listeners, accounts, account_groups, machines,
                    behind, started_ms, seen_ms, clock_ms)
                SELECT $1, $2, $3, $4, $5, $6, $7, $8, GREATEST(r.accounts - $6 + r.account_groups - $7 + r.machines - $8, 0), ",
                now_ms!(), ", ", now_ms!(), ", $9 FROM @.revision r WHERE r.id = 1
                ON CONFLICT (id) DO UPDATE SET accounts = excluded.accounts, account_groups = excluded.account_groups,
                    machines = excluded.machines, behind = excluded.behind, seen_ms = excluded.seen_ms,
                    clock_ms = excluded.clock_ms"
            );
            let [name, version, listeners] = [&facts.name, &facts.version, &facts.listeners].map(|text| cut(text));
            let params: [Param<'_>; 9] = [
                (&facts.id.as_slice(), Type::BYTEA),
                (&name, Type::TEXT),
                (&version, Type::TEXT),
                (&VERSION, Type::INT8),
                (&listeners, Type::TEXT),
                (&accounts, Type::INT8),
                (&groups, Type::INT8),
                (&machines, Type::INT8),
                (&clock_ms, Type::INT8),
            ];
            self.inner.ask_primary(sql, &params).await?;
            let sql = concat!(
                "DELETE FROM @.replica WHERE seen_ms < ", now_ms!(), " - $1 OR id IN
                (SELECT id FROM @.replica ORDER BY seen_ms DESC, id OFFSET $2)"
            );
            let removed_after = i64::try_from(REMOVED_AFTER.as_millis()).unwrap_or(i64::MAX);
            self.inner.ask_primary(sql, &[(&removed_after, Type::INT8), (&REPLICAS_MAX, Type::INT8)]).await.map(drop)
        })
    }

    /// Removes the row of a server that ends.
    pub fn withdraw(&self, id: [u8; 16]) -> BoxFuture<'_, Result<(), StoreError>> {
        self.run(async move {
            let sql = "DELETE FROM @.replica WHERE id = $1";
            self.inner.ask_primary(sql, &[(&id.as_slice(), Type::BYTEA)]).await.map(drop)
        })
    }

    /// The servers that share the store.
    pub fn replicas(&self) -> BoxFuture<'_, Result<Replicas, StoreError>> {
        self.run(async move {
            // An outer join: there is always a row, with the revisions.
            let sql = concat!(
                "SELECT v.accounts, v.account_groups, v.machines, ", now_ms!(), ", r.id, r.name, r.version, r.listeners,
                r.tables_version, r.accounts, r.account_groups, r.machines, r.behind, r.started_ms, r.seen_ms, r.clock_ms
                FROM @.revision v LEFT JOIN @.replica r ON true WHERE v.id = 1 ORDER BY r.seen_ms DESC, r.id LIMIT $1"
            );
            let rows = self.inner.ask_primary(sql, &[(&REPLICAS_MAX, Type::INT8)]).await?;
            let first = rows.first().ok_or_else(|| damaged("the revision"))?;
            let revisions = [get(first, 0)?, get(first, 1)?, get(first, 2)?];
            let replicas = rows.iter().filter_map(|row| replica(row).transpose()).collect::<Result<_, _>>()?;
            Ok(Replicas { revisions, replicas })
        })
    }
}

fn replica(row: &Row) -> Result<Option<Replica>, StoreError> {
    let Some(id) = get::<Option<&[u8]>>(row, 4)? else { return Ok(None) };
    let number = |at| get::<i64>(row, at);
    let ago =
        |now: i64, then: i64| Duration::from_millis(u64::try_from(now.saturating_sub(then)).unwrap_or(0));
    let (now, seen) = (number(3)?, number(14)?);
    Ok(Some(Replica {
        facts: ReplicaFacts {
            id: id.try_into().map_err(|_| damaged("replica"))?,
            name: get(row, 5)?,
            version: get(row, 6)?,
            listeners: get(row, 7)?,
        },
        tables_version: number(8)?,
        revisions: [number(9)?, number(10)?, number(11)?],
        behind: u64::try_from(number(12)?).unwrap_or(0),
        up: ago(now, number(13)?),
        seen: ago(now, seen),
        clock_ms: number(15)?.saturating_sub(seen),
    }))
}

fn cut(text: &str) -> &str {
    &text[..text.floor_char_boundary(TEXT_LEN_MAX)]
}
