//! What accounts are found by: the keys of an account and the key of a question, made in one place for all backends.

use crate::account::Account;
use crate::alt_security_identity;
use crate::fold::casefold;
use crate::store::{Domain, Query};
use std::collections::BTreeSet;

/// The attribute a key is of. The values are kept on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum KeyKind {
    UserPrincipalName = 1,
    ServicePrincipalName = 2,
    AltSecurityIdentity = 3,
}

/// The keys of an account that other accounts may share, each once.
pub(crate) fn keys(account: &Account) -> BTreeSet<(KeyKind, String)> {
    let upn = account.user_principal_name.iter().map(|name| (KeyKind::UserPrincipalName, casefold(name)));
    let spns =
        account.service_principal_names.iter().map(|name| (KeyKind::ServicePrincipalName, casefold(name)));
    let identities = account
        .alt_security_identities
        .iter()
        .filter_map(|value| Some((KeyKind::AltSecurityIdentity, alt_security_identity::key(value)?)));
    upn.chain(spns).chain(identities).collect()
}

/// Where to look for the answer to a question.
pub(crate) enum Place {
    /// Among the keys of this kind.
    Key(KeyKind, String),
    /// Among the folded names.
    Name(String),
    /// At this relative identifier.
    Rid(u32),
    /// Nowhere: no account of this domain can match.
    Nowhere,
}

pub(crate) fn place(domain: &Domain, query: &Query) -> Place {
    match query {
        Query::UserPrincipalName(name) => Place::Key(KeyKind::UserPrincipalName, casefold(name)),
        Query::ServicePrincipalName(name) => Place::Key(KeyKind::ServicePrincipalName, casefold(name)),
        Query::AltSecurityIdentity(value) => match alt_security_identity::key(value) {
            Some(key) => Place::Key(KeyKind::AltSecurityIdentity, key),
            None => Place::Nowhere,
        },
        Query::Name(name) => Place::Name(casefold(name)),
        Query::Sid(sid) => sid.rid_in(&domain.sid).map_or(Place::Nowhere, Place::Rid),
    }
}
