//! Reads all accounts and groups of a directory, page by page (RFC 2696), with the names and mappings that find
//! them, and reports what cannot be read. It makes no decision and fills no cache.
//!
//! One page is in memory at a time. Attributes that only a base search returns, and proofs that an attribute is
//! absent, are read between two pages over the same connection.

use crate::connection::Connection;
use crate::entry::Entry;
use crate::failed::Failed;
use crate::filter::Filter;
use crate::message::{Scope, Search};
use crate::settings::{Schema, Settings};
use account_store::{Account, Query};
use dtyp::Sid;
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

/// Entries of a page. Servers have limits of 1000 and more for it.
const PAGE: usize = 500;
/// Most pages of one search. A server that sends more is an error.
const PAGES_MAX: usize = 20_000;

/// One result of a walk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    /// An account, or one of another domain of the forest.
    Account(SeenAccount),
    /// A group that gives access.
    Group(SeenGroup),
    /// Something that is wrong with an entry.
    Wrong(Wrong),
}

/// An account and what it is found by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeenAccount {
    /// Its name.
    pub name: String,
    /// Its SID, if its number is one.
    pub sid: Option<Sid>,
    /// The queries that find this account. An attribute with several values gives one query for each.
    pub claims: Vec<Query>,
    /// Whether the global catalog names it as an account of another domain.
    pub is_elsewhere: bool,
}

/// A group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeenGroup {
    /// Its names: one, or it has none for a service.
    pub names: Vec<String>,
    /// Its SID.
    pub sid: Sid,
}

/// What is wrong with an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wrong {
    /// What kind of thing it is.
    pub flaw: Flaw,
    /// The name of the entry, or where entries are.
    pub who: String,
    /// What is wrong, with the name of the attribute.
    pub why: String,
}

/// Kinds of things that are wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flaw {
    /// An attribute may not be read, or cannot be understood: the account is not mapped.
    Unreadable,
    /// A number is not in the range of the configuration.
    Number,
    /// Not all entries could be read.
    Cut,
}

/// Who is told what a walk sees.
pub(crate) type See<'a> = dyn FnMut(Seen) + Send + 'a;

/// An account for [`Seen`].
pub(crate) fn seen(account: &Account, sid: Option<Sid>, mails: Vec<String>) -> SeenAccount {
    // Names are unique in a domain, not in a forest.
    let own = account.home_domain.is_none().then(|| Query::Name(account.name.clone()));
    SeenAccount {
        name: account.name.clone(),
        sid,
        claims: own
            .into_iter()
            .chain(account.certificate_queries())
            .chain(mails.into_iter().map(Query::Mail))
            .collect(),
        is_elsewhere: account.home_domain.is_some(),
    }
}

/// Something that is wrong with an entry; other failures end the walk. The name of the entry is left out of the
/// reason, so that what many entries have in common is one reason.
pub(crate) fn wrong(flaw: Flaw, who: &str, dn: &str, failed: Failed) -> Result<Seen, Failed> {
    match failed {
        Failed::Data(why) => {
            let why = why.replacen(&format!(" of {dn:?}"), "", 1);
            Ok(Seen::Wrong(Wrong { flaw, who: who.to_owned(), why }))
        }
        failed => Err(failed),
    }
}

/// The pages of a search.
pub(crate) struct Pages<'a> {
    base: &'a str,
    filter: &'a Filter,
    attributes: &'a [&'a str],
    domain_scope: bool,
    /// Of the next page; `None` after the last one.
    cookie: Option<Vec<u8>>,
    pages: usize,
    entries: usize,
    timeout: Duration,
}

impl<'a> Pages<'a> {
    pub(crate) fn new(
        settings: &Settings,
        base: &'a str,
        filter: &'a Filter,
        attributes: &'a [&'a str],
    ) -> Self {
        let domain_scope = matches!(settings.schema, Schema::Ad(_)) && !base.is_empty();
        let (cookie, timeout) = (Some(Vec::new()), settings.timeout);
        Self { base, filter, attributes, domain_scope, cookie, pages: 0, entries: 0, timeout }
    }

    /// The next page; `None` after the last one. A limit of the server is told, and ends the pages.
    pub(crate) async fn next(
        &mut self,
        connection: &mut Connection,
        see: &mut See<'_>,
    ) -> Result<Option<Vec<Entry>>, Failed> {
        let Some(cookie) = self.cookie.take() else { return Ok(None) };
        self.pages += 1;
        if self.pages > PAGES_MAX {
            return Err(Failed::Data(format!(
                "{}: paged results do not end after {PAGES_MAX} pages",
                connection.server()
            )));
        }
        let Self { base, filter, attributes, domain_scope, .. } = *self;
        let search =
            Search { base, scope: Scope::Subtree, filter, attributes, entries_max: PAGE, domain_scope };
        let page = within(self.timeout, connection, async |connection| {
            connection.search_page(search, &cookie).await
        });
        let (answer, cookie) = page.await?.ok_or_else(|| {
            Failed::Search(format!(
                "noSuchObject (32): the base {base:?} does not exist; check the base of [store.ldap]"
            ))
        })?;
        self.entries += answer.entries.len();
        if answer.is_cut {
            let why = format!(
                "sizeLimitExceeded (4): the server sends at most {} entries; raise its limit for the store's account \
                 (OpenLDAP: limits … size.prtotal=unlimited)",
                self.entries
            );
            see(Seen::Wrong(Wrong { flaw: Flaw::Cut, who: base.to_owned(), why }));
        } else if !cookie.is_empty() {
            self.cookie = Some(cookie);
        }
        Ok(Some(answer.entries))
    }
}

/// One exchange with the server, within the time of a question.
pub(crate) async fn within<T>(
    timeout: Duration,
    connection: &mut Connection,
    exchange: impl AsyncFnOnce(&mut Connection) -> Result<T, Failed>,
) -> Result<T, Failed> {
    let server = connection.server().clone();
    let done = timeout_at(Instant::now() + timeout, exchange(connection)).await;
    done.unwrap_or_else(|_| Err(Failed::Timeout(format!("{server}: no answer in time"))))
}
