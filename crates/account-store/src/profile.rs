//! The degenerate store that [MS-RCMP] 3.1 allows: whoever an issuer certified is one of a few fixed accounts.
//!
//! Nothing is kept of people. An account is found by `X509:<I>issuer`, by its name and by its SID.

use crate::alt_security_identity::AltSecurityIdentity;
use crate::distinguished_name::DistinguishedName;
use crate::fold::casefold;
use crate::index::{self, KeyKind, Place};
use crate::rules;
use crate::store::{AccountStore, BoxFuture, Domain, Matches, Query, Record, Revision, StoreError};
use std::collections::HashMap;
use std::sync::Arc;

/// One of the fixed accounts, and whose certificates mean it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Level {
    /// The account and its groups, as they will be told.
    pub record: Record,
    /// The issuers.
    pub issuers: Vec<DistinguishedName>,
}

/// Fixed accounts by issuer.
#[derive(Debug)]
pub struct ProfileStore {
    domain: Domain,
    revision: Revision,
    by_issuer: HashMap<String, Arc<Record>>,
    by_name: HashMap<String, Arc<Record>>,
    by_rid: HashMap<u32, Arc<Record>>,
}

impl ProfileStore {
    /// Refused when two levels share an issuer, a name or a SID, or when one is not of the domain.
    pub fn new(domain: Domain, levels: impl IntoIterator<Item = Level>) -> Result<Self, StoreError> {
        let mut store = Self {
            domain,
            revision: Revision::unique(),
            by_issuer: HashMap::new(),
            by_name: HashMap::new(),
            by_rid: HashMap::new(),
        };
        for mut level in levels {
            rules::check_account(&level.record.account)?;
            level.record.memberships.sort_by_key(|membership| membership.sid);
            level.record.memberships.dedup_by_key(|membership| membership.sid);
            let record = Arc::new(level.record);
            let account = &record.account;
            let refuse = |what: String| StoreError::Refused(format!("level {:?}: {what}", account.name));
            let rid = account.sid.rid_in(&store.domain.sid).filter(|rid| *rid != 0);
            let rid = rid.ok_or_else(|| refuse(format!("{} is not of the domain", account.sid)))?;
            if store.by_rid.insert(rid, record.clone()).is_some() {
                return Err(refuse(format!("another one has SID {}", account.sid)));
            }
            if store.by_name.insert(casefold(&account.name), record.clone()).is_some() {
                return Err(refuse("another one has this name".to_owned()));
            }
            for issuer in level.issuers {
                let identity = AltSecurityIdentity::Issuer(issuer);
                if store.by_issuer.insert(identity.key(), record.clone()).is_some() {
                    return Err(refuse(format!("{identity} is that of another one, or twice its own")));
                }
            }
        }
        Ok(store)
    }
}

impl AccountStore for ProfileStore {
    fn domain(&self) -> &Domain {
        &self.domain
    }

    fn find<'a>(&'a self, query: &'a Query) -> BoxFuture<'a, Result<Matches, StoreError>> {
        let found = match index::place(&self.domain, query) {
            Place::Key(KeyKind::AltSecurityIdentity, key) => self.by_issuer.get(&key),
            Place::Name(name) => self.by_name.get(&name),
            Place::Rid(rid) => self.by_rid.get(&rid),
            Place::Key(..) | Place::Nowhere => None,
        };
        let matches = found.map_or(Matches::None, |record| Matches::One(record.clone()));
        Box::pin(std::future::ready(Ok(matches)))
    }

    fn revision(&self) -> Result<Revision, StoreError> {
        Ok(self.revision)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::battery::{domain, find, one, sid, user};
    use crate::{Account, GroupScope, Membership};

    const PARTNERS: &str = r#"C=US,O="Partners, Inc.",CN=Partner CA"#;

    fn level(rid: u32, issuers: &[&str]) -> Level {
        let membership =
            |rid| Membership { sid: sid(rid), name: Some("g".to_owned()), scope: GroupScope::Global };
        let account = Account { name: format!("Level{rid}"), ..user(rid) };
        Level {
            record: Record { account, memberships: vec![membership(514), membership(513), membership(514)] },
            issuers: issuers.iter().map(|issuer| issuer.parse().expect("a name")).collect(),
        }
    }

    #[test]
    fn an_issuer_is_its_level() {
        let levels = [level(1000, &["CN=Staff CA", "CN=Old Staff CA"]), level(1001, &[PARTNERS])];
        let store = ProfileStore::new(domain(), levels).expect("good levels");
        for (issuer, rid) in [
            ("CN=Staff CA", 1000),
            ("cn=old staff ca", 1000),
            (r#"C=us, O="PARTNERS, INC.", CN="Partner CA""#, 1001),
        ] {
            let record = one(&store, Query::AltSecurityIdentity(format!("X509:<I>{issuer}")));
            assert_eq!(record.account.sid, sid(rid));
            assert_eq!(record.memberships.len(), 2, "each group once");
        }
        assert_eq!(one(&store, Query::Name("LEVEL1001".to_owned())).account.sid, sid(1001));
        assert_eq!(one(&store, Query::Sid(sid(1000))).account.name, "Level1000");
        for query in [
            Query::AltSecurityIdentity("X509:<I>CN=Nobody".to_owned()),
            Query::AltSecurityIdentity("X509:<I>CN=Staff CA<S>CN=alice".to_owned()),
            Query::AltSecurityIdentity("X509:<S>CN=Staff CA".to_owned()),
            Query::UserPrincipalName("Level1000".to_owned()),
            Query::ServicePrincipalName("Level1000".to_owned()),
            Query::Sid(sid(1002)),
        ] {
            assert_eq!(find(&store, query), Matches::None);
        }
    }

    #[test]
    fn levels_are_told_apart() {
        let named = |name: &str, mut level: Level| {
            level.record.account.name = name.to_owned();
            level
        };
        for levels in [
            [level(1000, &["CN=a"]), level(1001, &["cn=A"])],
            [level(1000, &["CN=a", "CN=a"]), level(1001, &[])],
            [level(1000, &[]), level(1000, &[])],
            [named("x", level(1000, &[])), named("X", level(1001, &[]))],
            [named("", level(1000, &[])), level(1001, &[])],
            [level(0, &[]), level(1001, &[])],
        ] {
            assert!(matches!(ProfileStore::new(domain(), levels), Err(StoreError::Refused(_))));
        }
    }
}
