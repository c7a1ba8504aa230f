//! Questions about accounts: one statement, one row.

use crate::connection::Param;
use crate::counters::Counters;
use crate::failure::Failure;
use crate::identity::{revision_columns, revision_row_of};
use crate::pool::{Pool, Pooled, Role};
use crate::revision::{Counter, Noted, RevisionRow};
use crate::rows::{self, columns, get};
use crate::{Inner, PostgresStore, late};
use account_store::columns::{Word, damaged};
use account_store::index::{self, Place};
use account_store::{
    Account, AccountStore, BoxFuture, Domain, GroupScope, Matches, Membership, Query, Record, Revision,
    StoreError,
};
use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;
use tokio::time::timeout;
use tokio_postgres::Row;
use tokio_postgres::types::Type;
use tracing::{Instrument, Span, debug_span};

/// How often one question is asked at most: of a replica, of the primary, of the primary on a new connection,
/// and again while groups are changed between its two statements.
const ATTEMPTS: u32 = 6;

/// The pause before a primary is asked again whose answer was older than what was seen.
const ASK_AGAIN: Duration = Duration::from_millis(20);

const LIMIT: i64 = Matches::NAMES_MAX as i64;
/// Names of groups that are kept; a domain with more of them has them read again.
const GROUP_NAMES_MAX: usize = 1 << 18;

/// The columns of an account begin here, after the revision and the identifier by which it was found.
const ACCOUNT: usize = 7;

// Outer joins: there is always a row, with the revision of the moment. A key without its account is damage,
// not absence.
const BY_KEY: &str = concat!(
    "SELECT ",
    revision_columns!(),
    ", k.rid, ",
    columns!("a."),
    " FROM @.revision r LEFT JOIN @.account_key k ON k.kind = $1 AND k.key = $2",
    " LEFT JOIN @.account a ON a.rid = k.rid WHERE r.id = 1 LIMIT $3"
);
const BY_NAME: &str = concat!(
    "SELECT ",
    revision_columns!(),
    ", a.rid, ",
    columns!("a."),
    " FROM @.revision r LEFT JOIN @.account a ON a.name_key = $1 WHERE r.id = 1"
);
const BY_RID: &str = concat!(
    "SELECT ",
    revision_columns!(),
    ", a.rid, ",
    columns!("a."),
    " FROM @.revision r LEFT JOIN @.account a ON a.rid = $1 WHERE r.id = 1"
);
const GROUPS: &str = concat!(
    "SELECT ",
    revision_columns!(),
    ", g.rid, g.name, g.scope FROM @.revision r LEFT JOIN @.account_group g ON g.rid = ANY($1) WHERE r.id = 1"
);

impl AccountStore for PostgresStore {
    fn domain(&self) -> &Domain {
        self.inner.domain()
    }

    fn find<'a>(&'a self, query: &'a Query) -> BoxFuture<'a, Result<Matches, StoreError>> {
        match place(self.inner.domain(), query) {
            Place::Nowhere => Box::pin(std::future::ready(Ok(Matches::None))),
            place => self.run(self.inner.find(place)),
        }
    }

    fn revision(&self) -> Result<Revision, StoreError> {
        self.inner.seen.accounts(self.inner.settings.max_age)
    }

    fn refresh(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        self.run(self.inner.refresh())
    }
}

/// Where a query looks. What no stored text can have is nowhere: PostgreSQL has no text with NUL, and names
/// have no control characters.
fn place(domain: &Domain, query: &Query) -> Place {
    match index::place(domain, query) {
        Place::Key(_, key) if key.contains('\0') => Place::Nowhere,
        Place::Name(name) if name.chars().any(char::is_control) => Place::Nowhere,
        place => place,
    }
}

/// What the groups with these identifiers are called at a revision of the groups; `None` for those that are
/// not there.
#[derive(Default)]
pub(crate) struct GroupNames {
    of: Counter,
    names: HashMap<u32, Option<(String, GroupScope)>>,
}

/// What a statement found.
enum Found {
    None,
    One(Box<Account>, Vec<u32>),
    Many(Vec<String>),
}

/// How an attempt ended that gave no answer.
enum Again {
    /// Another server, or the same one once more, may answer.
    Ask(StoreError),
    Failed(StoreError),
}

impl From<Failure> for Again {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Ended(error) => Self::Ask(error),
            failure => Self::Failed(failure.into()),
        }
    }
}

impl From<StoreError> for Again {
    fn from(error: StoreError) -> Self {
        Self::Failed(error)
    }
}

/// The span of a statement, below that of its look-up; none if there is no such span.
fn statement(role: Role) -> Span {
    if Span::current().is_disabled() {
        return Span::none();
    }
    let role = match role {
        Role::Primary => "primary",
        Role::Replica => "replica",
    };
    debug_span!(
        target: "rcmpd::call",
        "sql_query",
        otel.kind = "client",
        db.system.name = "postgresql",
        role,
    )
}

impl Inner {
    async fn find(&self, place: Place) -> Result<Matches, StoreError> {
        self.in_time(async {
            let (mut last, mut on_new) = (None, false);
            for attempt in 0..ATTEMPTS {
                let replica = if attempt == 0 { self.replica() } else { None };
                // What a replica cannot answer, the primary may. After that, only a new connection can do
                // better.
                let answer = match replica {
                    Some(replica) => match self.ask_replica(replica, &place).await {
                        Err(Again::Failed(error)) => Err(Again::Ask(error)),
                        answer => answer,
                    },
                    None => self.attempt(&self.primary, &place, std::mem::replace(&mut on_new, true)).await,
                };
                match answer {
                    Ok(matches) => return Ok(matches),
                    Err(Again::Failed(error)) => return Err(error),
                    Err(Again::Ask(error)) => last = Some(error),
                }
            }
            Err(last.unwrap_or_else(|| late(&self.settings)))
        })
        .await
    }

    /// The next replica that may have what was seen.
    fn replica(&self) -> Option<&Pool> {
        let first = self.next.fetch_add(1, Ordering::Relaxed);
        let all = (0..self.replicas.len()).map(|at| &self.replicas[(first + at) % self.replicas.len()]);
        all.into_iter().find(|replica| replica.may_be_asked())
    }

    /// A replica that does not answer leaves time for the primary.
    async fn ask_replica(&self, replica: &Pool, place: &Place) -> Result<Matches, Again> {
        let answer = timeout(self.settings.timeout / 3, self.attempt(replica, place, false)).await;
        answer.unwrap_or_else(|_| {
            replica.does_not_answer();
            Err(Again::Ask(late(&self.settings)))
        })
    }

    async fn attempt(&self, pool: &Pool, place: &Place, on_new: bool) -> Result<Matches, Again> {
        let known = self.seen.revision_row();
        let mut pooled = match on_new {
            false => pool.get().await?,
            true => pool.get_new().await?,
        };
        let asked = self.ask(&mut pooled, place).instrument(statement(pool.role)).await;
        let found = match asked {
            Err(Failure::Ended(error)) => {
                Counters::count(&self.counters.repeated);
                return Err(if on_new { Again::Failed(error) } else { Again::Ask(error) });
            }
            found => found?,
        };
        let (revision_row, found) = found;
        self.check_age(pool, (revision_row, known)).await?;
        let matches = match found {
            Found::None => Matches::None,
            Found::Many(names) => Matches::Many(names),
            Found::One(account, groups) => {
                let memberships = match self.known_memberships(&groups, revision_row.groups) {
                    Some(memberships) => memberships?,
                    None => {
                        let reading = self.read_memberships(&mut pooled, &groups, revision_row);
                        reading.instrument(statement(pool.role)).await?
                    }
                };
                Matches::One(Arc::new(Record { account: *account, memberships }))
            }
        };
        Counters::count(match pool.role {
            Role::Primary => &self.counters.asked_primary,
            Role::Replica => &self.counters.asked_replica,
        });
        pooled.keep();
        Ok(matches)
    }

    /// Whether an answer may be used: it is not older than what was known when it was asked for. That of a
    /// replica is of contents that the primary has shown, too, whichever primary the replica follows.
    async fn check_age(
        &self,
        pool: &Pool,
        (revision_row, known): (RevisionRow, RevisionRow),
    ) -> Result<(), Again> {
        let is_newer = revision_row.follow(&known);
        match pool.role {
            Role::Replica if revision_row == known || revision_row == self.seen.revision_row() => {
                return Ok(());
            }
            Role::Primary if is_newer => {
                // While it was under way, newer ones may have been seen.
                self.seen.note(revision_row);
                return Ok(());
            }
            Role::Replica => {
                Counters::count(&self.counters.lagging);
                match is_newer && !self.is_of_another_history(pool, revision_row) {
                    true => pool.back_off(ASK_AGAIN),
                    false => pool.back_off(self.settings.poll),
                }
                if is_newer {
                    self.notified.notify_one();
                    let why = "a replica has changes that the primary has not shown";
                    return Err(Again::Ask(StoreError::Unavailable(why.to_owned())));
                }
            }
            // The server may have been the primary when the connection was opened, or a standby showed a
            // change before the primary did. The next poll decides which history counts.
            Role::Primary => {
                pool.flush();
                self.notified.notify_one();
                tokio::time::sleep(ASK_AGAIN).await;
            }
        }
        Err(Again::Ask(StoreError::Unavailable("PostgreSQL has an older revision than was seen".to_owned())))
    }

    /// Whether a replica has shown a row that is not of the primary's history. The primary was asked after that.
    fn is_of_another_history(&self, pool: &Pool, revision_row: RevisionRow) -> bool {
        let (at, first) = pool.first_ahead(revision_row);
        let was_asked = self.seen.since(at, at).is_some_and(|polled| polled.is_ok());
        let is_other = was_asked && !self.seen.revision_row().follow(&first);
        if is_other {
            pool.follows_another();
        }
        is_other
    }

    async fn ask(&self, pooled: &mut Pooled<'_>, place: &Place) -> Result<(RevisionRow, Found), Failure> {
        let connection = &mut pooled.connection;
        let rows = match place {
            Place::Nowhere => return Err(damaged("a place").into()),
            Place::Key(kind, key) => {
                let (kind, key) = rows::key(*kind, key);
                let params: [Param<'_>; 3] = [(&kind, Type::INT8), (&key, Type::TEXT), (&LIMIT, Type::INT8)];
                connection.query_often(BY_KEY, &params).await?
            }
            Place::Name(name) => {
                connection.query_often(BY_NAME, &[(&rows::name_key(name), Type::TEXT)]).await?
            }
            Place::Rid(rid) => connection.query_often(BY_RID, &[(&i64::from(*rid), Type::INT8)]).await?,
        };
        let first = rows.first().ok_or_else(|| damaged("the revision"))?;
        Ok((revision_row_of(first)?, self.found(&rows)?))
    }

    fn found(&self, rows: &[Row]) -> Result<Found, StoreError> {
        let name = |row: &Row| get::<String>(row, ACCOUNT + 1);
        match rows {
            [row] if get::<Option<i64>>(row, ACCOUNT - 1)?.is_none() => Ok(Found::None),
            [row] => {
                let account = rows::account(self.domain(), row, ACCOUNT)?;
                Ok(Found::One(Box::new(account), rows::group_rids(row, ACCOUNT)?))
            }
            rows => Ok(Found::Many(rows.iter().map(name).collect::<Result<_, _>>()?)),
        }
    }

    fn membership(&self, rid: u32, group: &Option<(String, GroupScope)>) -> Result<Membership, StoreError> {
        Ok(Membership {
            sid: self.domain().sid.with_rid(rid).ok_or_else(|| damaged("a SID"))?,
            name: group.as_ref().map(|(name, _)| name.clone()),
            scope: group.as_ref().map_or(GroupScope::Global, |(_, scope)| *scope),
        })
    }

    /// `None` if one of the groups has not been read at this revision.
    fn known_memberships(&self, groups: &[u32], of: Counter) -> Option<Result<Vec<Membership>, StoreError>> {
        let known = self.group_names.read().unwrap_or_else(PoisonError::into_inner);
        if known.of != of {
            return None;
        }
        groups.iter().map(|rid| Some(self.membership(*rid, known.names.get(rid)?))).collect()
    }

    /// Reads the names of groups by a second statement. If groups changed between the two, nothing is known.
    async fn read_memberships(
        &self,
        pooled: &mut Pooled<'_>,
        groups: &[u32],
        revision_row: RevisionRow,
    ) -> Result<Vec<Membership>, Again> {
        let rids: Vec<i64> = groups.iter().copied().map(i64::from).collect();
        let rows = pooled.connection.query_often(GROUPS, &[(&rids, Type::INT8_ARRAY)]).await?;
        let first = rows.first().ok_or_else(|| damaged("the revision"))?;
        if revision_row_of(first)?.groups != revision_row.groups {
            return Err(Again::Ask(StoreError::Unavailable("groups change all the time".to_owned())));
        }
        let mut found: HashMap<u32, Option<(String, GroupScope)>> =
            groups.iter().map(|rid| (*rid, None)).collect();
        for row in &rows {
            if get::<Option<i64>>(row, 6)?.is_some() {
                let scope = Word::from_word(get(row, 8)?)?;
                found.insert(rows::number(row, 6)?, Some((get(row, 7)?, scope)));
            }
        }
        let memberships =
            groups.iter().map(|rid| self.membership(*rid, &found[rid])).collect::<Result<_, _>>();
        let mut known = self.group_names.write().unwrap_or_else(PoisonError::into_inner);
        if known.of != revision_row.groups || known.names.len() > GROUP_NAMES_MAX {
            *known = GroupNames { of: revision_row.groups, names: HashMap::new() };
        }
        known.names.extend(found);
        Ok(memberships?)
    }
}

impl Inner {
    /// Notes the revision of a change that was made here.
    pub(crate) fn changed(&self, revision_row: RevisionRow) {
        if self.seen.note(revision_row) == Noted::Other {
            self.seen.flush();
        }
    }
}
