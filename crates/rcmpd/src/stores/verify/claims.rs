//! What accounts are found by: which of it several accounts have, of one store or of several.

use account_store::index::{self, Place};
use account_store::{Account, Domain, Query, fold};
use dtyp::Sid;
use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};

/// What is looked up again, for each store. A directory that has more of it needs another look.
const SHARED_MAX: usize = 10_000;

/// Groups of one name that are shown.
const NAMES_MAX: usize = 20;

/// What was claimed more than once.
#[derive(Default)]
struct Shared {
    queries: HashSet<Query>,
    left_out: u64,
}

impl Shared {
    fn insert(&mut self, query: &Query) {
        match self.queries.len() < SHARED_MAX || self.queries.contains(query) {
            true => drop(self.queries.insert(query.clone())),
            false => self.left_out += 1,
        }
    }

    /// In an order that is the same each time.
    fn take(&mut self) -> (Vec<Query>, u64) {
        let Self { queries, left_out } = std::mem::take(self);
        let mut queries: Vec<_> = queries.into_iter().collect();
        queries.sort_by_cached_key(super::of_query);
        (queries, left_out)
    }
}

/// The claims of all accounts, by hashes: texts would take much memory. Equal hashes are looked up, so they
/// decide nothing.
pub(super) struct Claims {
    domain: Domain,
    state: RandomState,
    /// Of the store that is read.
    here: HashSet<u64>,
    twice: Shared,
    /// Of all parts of `kind = "several"`, with the number of the first part.
    first: HashMap<u64, usize>,
    apart: Shared,
    part: Option<usize>,
}

impl Claims {
    pub(super) fn new(domain: Domain) -> Self {
        Self {
            domain,
            state: RandomState::new(),
            here: HashSet::new(),
            twice: Shared::default(),
            first: HashMap::new(),
            apart: Shared::default(),
            part: None,
        }
    }

    /// The claims of the next store follow: of this part, if it is one.
    pub(super) fn begin(&mut self, part: Option<usize>) {
        (self.here, self.twice, self.part) = (HashSet::new(), Shared::default(), part);
    }

    /// Notes what one account claims.
    pub(super) fn add(&mut self, claims: Vec<Query>) {
        let mut own = HashSet::with_capacity(claims.len());
        for query in &claims {
            let place = index::place(&self.domain, query);
            let hash = self.state.hash_one(&place);
            if place == Place::Nowhere || !own.insert(place) {
                continue;
            }
            // A store refuses a SID that is taken, or reports the entries with it itself.
            if !self.here.insert(hash) && !matches!(query, Query::Sid(_)) {
                self.twice.insert(query);
            }
            match (self.part, self.first.entry(hash)) {
                (Some(part), Entry::Occupied(first)) if *first.get() != part => self.apart.insert(query),
                (Some(part), Entry::Vacant(first)) => drop(first.insert(part)),
                _ => {}
            }
        }
    }

    /// What several accounts of the store that was read claim, and how much more of it there is.
    pub(super) fn take_twice(&mut self) -> (Vec<Query>, u64) {
        self.twice.take()
    }

    /// What accounts of several parts claim, and how much more of it there is.
    pub(super) fn take_apart(&mut self) -> (Vec<Query>, u64) {
        self.apart.take()
    }
}

/// What an account is found by.
pub(super) fn of(account: &Account) -> Vec<Query> {
    let mail = Some(&account.profile.mail).filter(|mail| !mail.is_empty());
    let own = [Query::Name(account.name.clone()), Query::Sid(account.sid)].into_iter();
    own.chain(account.certificate_queries()).chain(mail.cloned().map(Query::Mail)).collect()
}

/// The groups of each name that several groups have.
pub(super) fn shared_names(groups: Vec<(String, Sid)>) -> Vec<String> {
    let mut names: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (name, sid) in groups {
        names.entry(fold::wide(&name)).or_default().push(format!("{name} ({sid})"));
    }
    let shared = names.into_values().filter(|groups| groups.len() > 1);
    let shown = |groups: Vec<String>| some_of(&groups[..groups.len().min(NAMES_MAX)], groups.len());
    shared.map(|groups| format!("groups {}", shown(groups))).collect()
}

/// Some names, and how many more there are.
pub(super) fn some_of(shown: &[String], count: usize) -> String {
    let names = shown.join(", ");
    match count - shown.len() {
        0 => names,
        more => format!("{names} and {more} more"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn domain() -> Domain {
        let sid = "S-1-5-21-1-2-3".parse().expect("a SID");
        Domain { netbios: "CONTOSO".to_owned(), dns: "contoso.example".to_owned(), sid }
    }

    fn upn(text: &str) -> Query {
        Query::UserPrincipalName(text.to_owned())
    }

    #[test]
    fn what_accounts_share_is_told_for_one_store_and_between_parts() {
        let mut claims = Claims::new(domain());
        claims.begin(Some(0));
        // Of one account, so not shared.
        claims.add(vec![upn("a@x"), upn("A@x")]);
        claims.add(vec![upn("b@x")]);
        claims.add(vec![upn("B@x"), upn("c@x")]);
        assert_eq!(claims.take_twice(), (vec![upn("B@x")], 0));
        claims.begin(Some(1));
        claims.add(vec![upn("A@X"), upn("d@x")]);
        assert_eq!(claims.take_twice(), (vec![], 0));
        // A store that is no part.
        claims.begin(None);
        claims.add(vec![upn("d@x")]);
        assert_eq!(claims.take_twice(), (vec![], 0));
        assert_eq!(claims.take_apart(), (vec![upn("A@X")], 0));
    }

    #[test]
    fn what_is_looked_up_again_has_a_limit() {
        let mut claims = Claims::new(domain());
        claims.begin(None);
        for _ in 0..2 {
            (0..SHARED_MAX + 7).for_each(|n| claims.add(vec![upn(&format!("{n}@x"))]));
        }
        let (twice, left_out) = claims.take_twice();
        assert_eq!((twice.len(), left_out), (SHARED_MAX, 7));
    }
}
