//! What a server says about the store in it, read on each new connection and at each poll.

use crate::connection::Connection;
use crate::failure::Failure;
use crate::revision::RevisionRow;
use crate::timeline::Timeline;
use account_store::columns::damaged;
use account_store::sealing::Seal;
use account_store::{Domain, StoreError, fold};

/// The version of the tables that this program uses.
pub(crate) const VERSION: i64 = 3;

/// The columns of [`RevisionRow`], of the table `r`.
macro_rules! revision_columns {
    () => {
        "r.accounts, r.accounts_epoch, r.account_groups, r.account_groups_epoch, r.machines, r.machines_epoch"
    };
}
pub(crate) use revision_columns;

pub(crate) const IDENTITY: &str = concat!(
    "SELECT ",
    revision_columns!(),
    ", d.netbios, d.dns, d.sid, d.fold, d.sealing_key_check, s.version",
    // Without the keys, PostgreSQL expects many rows of tables that were never analyzed, and compiles the
    // statement for a fifth of a second.
    " FROM @.revision r CROSS JOIN @.domain d CROSS JOIN @.schema_version s WHERE r.id = 1 AND d.id = 1 AND s.id = 1"
);

/// The store in a database.
pub(crate) struct Identity {
    pub(crate) revision_row: RevisionRow,
    pub(crate) domain: Domain,
    pub(crate) fold: String,
    pub(crate) sealing_key_check: Option<Vec<u8>>,
    pub(crate) version: i64,
}

pub(crate) fn revision_row_of(row: &tokio_postgres::Row) -> Result<RevisionRow, Failure> {
    let number = |at: usize| Ok::<_, Failure>((row.try_get(at)?, row.try_get(at + 1)?));
    Ok(RevisionRow { accounts: number(0)?, groups: number(2)?, machines: number(4)? })
}

impl Identity {
    pub(crate) async fn read(connection: &Connection) -> Result<Self, Failure> {
        let rows = connection.query(IDENTITY, &[]).await?;
        Self::of(&rows)
    }

    /// Reads it for a poll: with a named statement, if there are to be some.
    pub(crate) async fn read_often(connection: &mut Connection) -> Result<Self, Failure> {
        let rows = connection.query_often(IDENTITY, &[]).await?;
        Self::of(&rows)
    }

    pub(crate) fn of(rows: &[tokio_postgres::Row]) -> Result<Self, Failure> {
        let [row] = rows else { return Err(damaged("the domain or its revision").into()) };
        let sid: String = row.try_get(8)?;
        Ok(Self {
            revision_row: revision_row_of(row)?,
            domain: Domain {
                netbios: row.try_get(6)?,
                dns: row.try_get(7)?,
                sid: sid.parse().map_err(|_| damaged("the SID of the domain"))?,
            },
            fold: row.try_get(9)?,
            sealing_key_check: row.try_get(10)?,
            version: row.try_get(11)?,
        })
    }
}

/// The store that was opened. A back-up of another one may have been restored in its place.
pub(crate) struct Expected {
    pub(crate) domain: Domain,
    pub(crate) seal: Option<Seal>,
    /// The timeline of the primary.
    pub(crate) timeline: Timeline,
}

impl Expected {
    /// The row of the revision of a store that is the expected one.
    pub(crate) fn check(&self, found: &Identity) -> Result<RevisionRow, StoreError> {
        let unusable = |why: String| Err(StoreError::Unavailable(why));
        if found.version != VERSION {
            return unusable(format!(
                "the tables in PostgreSQL have version {}, and this program needs version {VERSION}: restart it, or use a newer one",
                found.version
            ));
        }
        if found.domain != self.domain {
            return unusable(format!(
                "PostgreSQL now has the accounts of another domain than {}",
                self.domain.netbios
            ));
        }
        if let (Some(seal), Some(check)) = (&self.seal, &found.sealing_key_check)
            && !seal.has_check(check)
        {
            return unusable("the secrets in PostgreSQL were sealed under another key file".to_owned());
        }
        if found.fold != fold::version() {
            return unusable(
                "the keys in PostgreSQL are those of another version of rcmpd: update all nodes, and restart"
                    .to_owned(),
            );
        }
        Ok(found.revision_row)
    }
}
