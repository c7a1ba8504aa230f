//! What every store keeps, over a directory that is filled with the accounts of the battery.

use super::{Opened, posix, runtime, settings};
use account_store::{
    AccountFlags, AccountStore, BoxFuture, Domain, Matches, Query, Record, Revision, StoreError,
};
use rcmpd_tests::slapd::{GROUPS, PEOPLE, Slapd, entry};
use std::collections::BTreeMap;
use store_ldap::{LdapStore, RidRange};

fn rid(sid: &dtyp::Sid) -> u32 {
    sid.split_rid().expect("it has a RID").1
}

/// The entries of these accounts and their groups. Numbers are the relative identifiers.
fn entries(records: &[Record]) -> String {
    let dn = |record: &Record| format!("uidNumber={},{PEOPLE}", rid(&record.account.sid));
    let mut groups = BTreeMap::<(u32, String), Vec<String>>::new();
    let mut ldif = String::new();
    for record in records {
        let account = &record.account;
        let (number, group) = (rid(&account.sid).to_string(), account.primary_group_id.to_string());
        let mut attributes = vec![
            ("objectClass", "account"),
            ("objectClass", "posixAccount"),
            ("objectClass", "mappedAccount"),
            ("cn", "x"),
            ("homeDirectory", "/"),
            ("uid", &account.name),
            ("uidNumber", &number),
            ("gidNumber", &group),
        ];
        attributes
            .extend(account.user_principal_name.iter().map(|name| ("userPrincipalName", name.as_str())));
        // A directory keeps values that it calls equal once.
        let mut seen = Vec::new();
        let lists = [
            ("servicePrincipalName", &account.service_principal_names),
            ("altSecurityIdentities", &account.alt_security_identities),
        ];
        for (name, value) in
            lists.iter().flat_map(|(name, list)| list.iter().map(move |value| (*name, value)))
        {
            if !seen.contains(&value.to_lowercase()) {
                seen.push(value.to_lowercase());
                attributes.push((name, value));
            }
        }
        if account.flags.contains(AccountFlags::DISABLED) {
            attributes.push(("nsAccountLock", "TRUE"));
        }
        ldif += &entry(&dn(record), &attributes);
        for membership in &record.memberships {
            if let Some(name) = &membership.name {
                let members = groups.entry((rid(&membership.sid), name.clone())).or_default();
                if rid(&membership.sid) != account.primary_group_id {
                    members.push(dn(record));
                }
            }
        }
    }
    for ((number, name), members) in &groups {
        let number = number.to_string();
        let mut attributes = vec![
            ("objectClass", "posixGroup"),
            ("objectClass", "memberGroup"),
            ("cn", name.as_str()),
            ("gidNumber", number.as_str()),
        ];
        attributes.extend(members.iter().map(|member| ("member", member.as_str())));
        ldif += &entry(&format!("cn={name},{GROUPS}"), &attributes);
    }
    ldif
}

/// The store, whose second spelling of a value is back: a directory keeps the first one only, and the battery
/// compares whole accounts.
struct WithSpellings {
    store: LdapStore,
    records: Vec<Record>,
}

impl AccountStore for WithSpellings {
    fn domain(&self) -> &Domain {
        self.store.domain()
    }

    fn find<'a>(&'a self, query: &'a Query) -> BoxFuture<'a, Result<Matches, StoreError>> {
        Box::pin(async move {
            let found = self.store.find(query).await?;
            let Matches::One(record) = &found else { return Ok(found) };
            let given = self.records.iter().find(|given| given.account.sid == record.account.sid);
            let mut record = Record::clone(record);
            let spelled = |list: &mut Vec<String>, given: &Vec<String>| {
                let lower = |list: &[String]| {
                    list.iter().map(|value| value.to_lowercase()).collect::<std::collections::BTreeSet<_>>()
                };
                if lower(list) == lower(given) {
                    list.clone_from(given);
                }
            };
            if let Some(given) = given {
                let account = &mut record.account;
                spelled(&mut account.service_principal_names, &given.account.service_principal_names);
                spelled(&mut account.alt_security_identities, &given.account.alt_security_identities);
            }
            Ok(Matches::One(record.into()))
        })
    }

    fn revision(&self) -> Result<Revision, StoreError> {
        self.store.revision()
    }
}

account_store::read_only_store_battery!(|records: &[Record]| {
    let slapd = Slapd::start(&entries(records));
    let mut generic = posix();
    // The battery chooses the RIDs.
    generic.user_rids = RidRange { first: 1000, last: 9999, rid: 1000 };
    generic.group_rids = RidRange { first: 1, last: 9999, rid: 1 };
    generic.listed_rids = [513, 515].into();
    let Opened { store, runtime, .. } = Opened::of(settings(&slapd, generic));
    // Futures are polled outside of it, so it must not be dropped by a panic there.
    let runtime = Box::leak(Box::new(runtime));
    (WithSpellings { store, records: records.to_vec() }, (slapd, runtime.enter()))
});

#[test]
fn a_runtime_is_needed_for_its_tasks_only() {
    let slapd = Slapd::start("");
    let opened = Opened::of(settings(&slapd, posix()));
    // From a thread without a runtime.
    let found = std::thread::scope(|scope| {
        let asked = || {
            let query = Query::Name("alice".to_owned());
            runtime().block_on(opened.store.find(&query))
        };
        scope.spawn(asked).join().expect("it does not panic")
    });
    assert_eq!(found.expect("the directory answers"), Matches::None);
}
