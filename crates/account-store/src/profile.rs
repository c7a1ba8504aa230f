//! The store without users that [MS-RCMP] 3.1 allows: each client of a CA is one of a few fixed accounts.
//!
//! An account is found by `X509:<I>issuer`, by its name and by its SID.

use crate::alt_security_identity::AltSecurityIdentity;
use crate::distinguished_name::DistinguishedName;
use crate::fold::casefold;
use crate::index::{self, KeyKind, Place};
use crate::rules::{self, Entries, EntryKind};
use crate::store::{AccountStore, BoxFuture, Domain, Matches, Query, Record, Revision, StoreError};
use std::collections::HashMap;
use std::sync::Arc;

/// One of the fixed accounts, and the CAs whose certificates map to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Level {
    /// The account and its groups.
    pub record: Record,
    /// Names of CAs.
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
    /// Refused when two levels share an issuer, a name or a SID, when one is not of the domain or has the RID
    /// of a built-in account, when a level has the SID or the name of a group, and when a group has two names
    /// or two groups have one.
    pub fn new(domain: Domain, levels: impl IntoIterator<Item = Level>) -> Result<Self, StoreError> {
        let mut store = Self {
            domain,
            revision: Revision::unique(),
            by_issuer: HashMap::new(),
            by_name: HashMap::new(),
            by_rid: HashMap::new(),
        };
        let mut entries = Entries::default();
        for mut level in levels {
            rules::check_account(&level.record.account)?;
            level.record.memberships.sort_by_key(|membership| membership.sid);
            level.record.memberships.dedup_by_key(|membership| membership.sid);
            let record = Arc::new(level.record);
            let account = &record.account;
            let refuse = |what: String| StoreError::Refused(format!("level {:?}: {what}", account.name));
            let rid = account.sid.rid_in(&store.domain.sid);
            let rid = rid.ok_or_else(|| refuse(format!("{} is not of the domain", account.sid)))?;
            if rid < rules::RID_FIRST {
                let first = rules::RID_FIRST;
                return Err(refuse(format!(
                    "{} is the SID of a built-in account or group: use a RID of {first} or more",
                    account.sid
                )));
            }
            if store.by_rid.insert(rid, record.clone()).is_some() {
                return Err(refuse(format!("another one has SID {}", account.sid)));
            }
            if store.by_name.insert(casefold(&account.name), record.clone()).is_some() {
                return Err(refuse("another one has this name".to_owned()));
            }
            let of_level = |refused| match refused {
                StoreError::Refused(what) => refuse(what),
                other => other,
            };
            entries.add(EntryKind::Account, account.sid, Some(&account.name)).map_err(of_level)?;
            for group in &record.memberships {
                if group.sid.rid_in(&store.domain.sid) == Some(0) {
                    return Err(refuse("0 is the RID of no group".to_owned()));
                }
                entries.add(EntryKind::Group, group.sid, group.name.as_deref()).map_err(of_level)?;
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
            |rid| Membership { sid: sid(rid), name: Some(format!("g{rid}")), scope: GroupScope::Global };
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

    /// A level whose groups are those of [`level`] and this one.
    fn member(rid: u32, group: u32, name: Option<&str>) -> Level {
        let mut level = level(rid, &[]);
        let name = name.map(str::to_owned);
        level.record.memberships.push(Membership { sid: sid(group), name, scope: GroupScope::Global });
        level
    }

    /// One SID is one account or one group, with one name, as in stores that are written.
    #[test]
    fn levels_and_groups_are_told_apart() {
        for (levels, expected) in [
            ([level(1000, &[]), member(1001, 1000, None)], "an account in one place and a group in another"),
            ([member(1001, 1000, None), level(1000, &[])], "an account in one place and a group in another"),
            ([level(1000, &[]), member(1001, 1001, None)], "an account in one place and a group in another"),
            ([member(1000, 1100, Some("Staff")), member(1001, 1100, Some("Guests"))], "has two names"),
            ([member(1000, 1100, Some("Staff")), member(1001, 1101, Some("STAFF"))], "have the same name"),
            ([member(1000, 1100, Some("Staff")), member(1001, 1101, Some("\u{ff33}taff"))], "look alike"),
            ([level(1000, &[]), member(1001, 1100, Some("Level1000"))], "have the same name"),
            ([level(1000, &[]), member(1001, 1100, Some(""))], "is empty"),
            ([level(1000, &[]), member(1001, 0, None)], "0 is the RID of no group"),
            ([level(1000, &[]), level(999, &[])], "use a RID of 1000 or more"),
            ([level(500, &[]), level(1001, &[])], "use a RID of 1000 or more"),
        ] {
            let refused = ProfileStore::new(domain(), levels).map(|_| ()).expect_err(expected).to_string();
            assert!(refused.contains(expected) && refused.contains("level \"Level"), "{expected}: {refused}");
        }
        let same = [member(1000, 1100, Some("Staff")), member(1001, 1100, Some("staff"))];
        assert!(ProfileStore::new(domain(), same).is_ok());
        assert!(
            ProfileStore::new(domain(), [member(1000, 1100, Some("Staff")), member(1001, 1100, None)])
                .is_ok()
        );
    }
}
