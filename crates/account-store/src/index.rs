//! By what accounts are found: the places of an account, and the place of a query. All stores use these, so
//! that all stores compare names and mappings alike.
//!
//! A store that keeps its accounts in memory maps each [`Place`] of [`places`] to its accounts and answers a
//! query from [`place`]:
//!
//! ```
//! use account_store::index::{Place, place, places};
//! use account_store::{Account, Domain, Matches, Query, Record};
//! use std::collections::HashMap;
//! use std::sync::Arc;
//!
//! let domain = Domain { netbios: "CONTOSO".into(), dns: "contoso.example".into(), sid: "S-1-5-21-1-2-3".parse()? };
//! let mut alice = Account::new("alice", "S-1-5-21-1-2-3-1001".parse()?);
//! alice.user_principal_name = Some("alice@contoso.example".into());
//! let alice = Arc::new(Record { account: alice, memberships: vec![] });
//!
//! let mut index: HashMap<Place, Vec<Arc<Record>>> = HashMap::new();
//! for place in places(&domain, &alice.account) {
//!     index.entry(place).or_default().push(Arc::clone(&alice));
//! }
//!
//! let query = Query::UserPrincipalName("ALICE@Contoso.Example".into());
//! let found: Matches = index.get(&place(&domain, &query)).into_iter().flatten().cloned().collect();
//! assert_eq!(found, Matches::One(alice));
//! # Ok::<(), dtyp::ParseSidError>(())
//! ```
//!
//! A database stores the text of each [`keys`] entry, or a hash of it, beside the kind. Keys can change with
//! the version of this crate (a new version of Unicode): a database notes [`crate::fold::version`] and makes
//! its keys again when that differs.

use crate::account::Account;
use crate::alt_security_identity;
use crate::fold::casefold;
use crate::store::{Domain, Query};
use std::collections::BTreeSet;

/// The attribute that a key is of. The values may be stored: they never change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum KeyKind {
    /// `userPrincipalName`.
    UserPrincipalName = 1,
    /// One value of `servicePrincipalName`.
    ServicePrincipalName = 2,
    /// One value of `altSecurityIdentities`.
    AltSecurityIdentity = 3,
    /// The e-mail address.
    Mail = 4,
}

/// The keys of an account that other accounts may share, each once. A value of `altSecurityIdentities` that
/// no certificate matches has none.
pub fn keys(account: &Account) -> BTreeSet<(KeyKind, String)> {
    let upn = account.user_principal_name.iter().map(|name| (KeyKind::UserPrincipalName, casefold(name)));
    let spns =
        account.service_principal_names.iter().map(|name| (KeyKind::ServicePrincipalName, casefold(name)));
    let identities = account
        .alt_security_identities
        .iter()
        .filter_map(|value| Some((KeyKind::AltSecurityIdentity, alt_security_identity::key(value)?)));
    let mail = Some(&account.profile.mail).filter(|mail| !mail.is_empty());
    let mail = mail.map(|mail| (KeyKind::Mail, casefold(mail)));
    upn.chain(spns).chain(identities).chain(mail).collect()
}

/// Where an account is found, and where a query looks.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Place {
    /// Among the keys of this kind.
    Key(KeyKind, String),
    /// Among the names, folded by [`casefold`].
    Name(String),
    /// At this relative identifier.
    Rid(u32),
    /// Nowhere: no account of this domain can match.
    Nowhere,
}

/// The place at which a query looks.
pub fn place(domain: &Domain, query: &Query) -> Place {
    match query {
        Query::UserPrincipalName(name) => Place::Key(KeyKind::UserPrincipalName, casefold(name)),
        Query::ServicePrincipalName(name) => Place::Key(KeyKind::ServicePrincipalName, casefold(name)),
        Query::AltSecurityIdentity(value) => match alt_security_identity::key(value) {
            Some(key) => Place::Key(KeyKind::AltSecurityIdentity, key),
            None => Place::Nowhere,
        },
        Query::Mail(mail) => Place::Key(KeyKind::Mail, casefold(mail)),
        Query::Name(name) => Place::Name(casefold(name)),
        Query::Sid(sid) => sid.rid_in(&domain.sid).map_or(Place::Nowhere, Place::Rid),
    }
}

/// The place at which a query looks, for a store that asks a server; `None` if no server is asked, because no
/// account can match: the text is empty, longer than any text of an account, or has a NUL, at which a server
/// may cut it and find the account of the rest.
pub fn place_on_server(domain: &Domain, query: &Query) -> Option<Place> {
    let text = match query {
        Query::UserPrincipalName(text)
        | Query::ServicePrincipalName(text)
        | Query::AltSecurityIdentity(text)
        | Query::Mail(text)
        | Query::Name(text) => Some(text),
        Query::Sid(_) => None,
    };
    if text.is_some_and(|text| text.is_empty() || text.len() > Account::TEXT_LEN_MAX || text.contains('\0')) {
        return None;
    }
    Some(place(domain, query)).filter(|place| *place != Place::Nowhere)
}

/// Whether an account is at this place. Servers find candidates, and this comparison decides.
pub fn is_at(domain: &Domain, account: &Account, wanted: &Place) -> bool {
    places(domain, account).any(|place| place == *wanted)
}

/// All places at which an account is found, each once. An account whose SID is of another domain is not found
/// by its SID.
pub fn places(domain: &Domain, account: &Account) -> impl Iterator<Item = Place> {
    let keys = keys(account).into_iter().map(|(kind, key)| Place::Key(kind, key));
    let rid = account.sid.rid_in(&domain.sid).map(Place::Rid);
    keys.chain([Place::Name(casefold(&account.name))]).chain(rid)
}
