//! Several stores of one domain, asked as one.
//!
//! A reader may rely on this:
//!
//! - The question alone decides which stores are asked ([`SeveralStore::asked`]), never an answer. If a store
//!   has no account or cannot answer, no other store is asked instead.
//! - All stores that are asked have to answer. If one of them cannot, the answer is its error.
//! - Accounts of several stores that match one question are [`Matches::Many`], even if they are equal.
//! - While one store has no revision, the revision of all stores changes at each look, so no cached answer
//!   counts. The other stores still answer.

use crate::alt_security_identity::AltSecurityIdentity;
use crate::distinguished_name::DistinguishedName;
use crate::fold::casefold;
use crate::store::{AccountStore, BoxFuture, Domain, Matches, Query, Revision, StoreError};
use futures_util::future::join_all;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// One of several stores.
pub struct Part {
    /// The name of the store, for messages.
    pub name: String,
    /// The accounts.
    pub store: Arc<dyn AccountStore>,
    /// The suffixes of user principal names that the store is asked for. If there is none, the store is asked
    /// for all suffixes that no store names.
    pub suffixes: Vec<String>,
    /// The issuers of certificates whose mappings the store is asked for. If there is none, the store is
    /// asked for all issuers that no store names.
    pub issuers: Vec<DistinguishedName>,
}

impl Part {
    /// Asks this store. An error says which one it is.
    async fn find(&self, query: &Query) -> Result<Matches, StoreError> {
        let named = |why: String| format!("[[store.part]] {}: {why}", self.name);
        self.store.find(query).await.map_err(|error| match error {
            StoreError::Unavailable(why) => StoreError::Unavailable(named(why)),
            StoreError::Damaged(why) => StoreError::Damaged(named(why)),
            error => error,
        })
    }
}

/// Stores by the key of a suffix or an issuer.
#[derive(Default)]
struct Route {
    named: HashMap<String, Vec<usize>>,
    /// The stores that name no key: they are asked for each key that no store names.
    others: Vec<usize>,
}

/// Several stores of one domain.
pub struct SeveralStore {
    domain: Domain,
    parts: Vec<Part>,
    by_suffix: Route,
    by_issuer: Route,
    all: Vec<usize>,
    /// The revisions of all stores at the last look, and the revision that stands for them.
    seen: Mutex<Option<(Vec<Revision>, Revision)>>,
}

impl Route {
    fn new(keys: impl Iterator<Item = Vec<String>>) -> Self {
        let mut route = Self::default();
        for (number, keys) in keys.enumerate() {
            if keys.is_empty() {
                route.others.push(number);
            }
            for key in keys {
                let stores = route.named.entry(key).or_default();
                if !stores.contains(&number) {
                    stores.push(number);
                }
            }
        }
        route
    }

    fn of(&self, key: &str) -> &[usize] {
        self.named.get(key).unwrap_or(&self.others)
    }
}

impl SeveralStore {
    /// An error if there is no store, if two stores have the same name, or if one is of another domain.
    pub fn new(domain: Domain, parts: Vec<Part>) -> Result<Self, StoreError> {
        let refuse = |what: String| Err(StoreError::Refused(what));
        if parts.is_empty() {
            return refuse("there is no store".to_owned());
        }
        for (number, part) in parts.iter().enumerate() {
            if *part.store.domain() != domain {
                return refuse(format!("the store {:?} is of another domain", part.name));
            }
            if parts[..number].iter().any(|other| other.name == part.name) {
                return refuse(format!("two stores have the name {:?}", part.name));
            }
        }
        let suffixes = |part: &Part| part.suffixes.iter().map(|suffix| casefold(suffix)).collect();
        Ok(Self {
            by_suffix: Route::new(parts.iter().map(suffixes)),
            by_issuer: Route::new(parts.iter().map(|part| part.issuers.iter().map(issuer_key).collect())),
            all: (0..parts.len()).collect(),
            seen: Mutex::new(None),
            domain,
            parts,
        })
    }

    /// The names of the stores that this question is asked.
    pub fn asked(&self, query: &Query) -> impl Iterator<Item = &str> {
        self.numbers(query).iter().map(|number| self.parts[*number].name.as_str())
    }

    /// The stores.
    pub fn parts(&self) -> &[Part] {
        &self.parts
    }

    fn numbers(&self, query: &Query) -> &[usize] {
        match query {
            Query::UserPrincipalName(name) => match name.rsplit_once('@') {
                Some((_, suffix)) => self.by_suffix.of(&casefold(suffix)),
                None => &self.all,
            },
            Query::AltSecurityIdentity(value) => match issuer_of(value) {
                Some(issuer) => self.by_issuer.of(&issuer_key(&issuer)),
                None => &self.all,
            },
            Query::ServicePrincipalName(_) | Query::Mail(_) | Query::Name(_) | Query::Sid(_) => &self.all,
        }
    }
}

fn issuer_key(issuer: &DistinguishedName) -> String {
    AltSecurityIdentity::Issuer(issuer.clone()).key()
}

fn issuer_of(value: &str) -> Option<DistinguishedName> {
    match value.parse().ok()? {
        AltSecurityIdentity::IssuerSubject { issuer, .. }
        | AltSecurityIdentity::IssuerSerial { issuer, .. }
        | AltSecurityIdentity::IssuerSid { issuer, .. }
        | AltSecurityIdentity::Issuer(issuer) => Some(issuer),
        AltSecurityIdentity::Subject(_)
        | AltSecurityIdentity::SubjectKeyIdentifier(_)
        | AltSecurityIdentity::Sha1PublicKey(_)
        | AltSecurityIdentity::Rfc822(_) => None,
    }
}

/// Makes one answer of several: more than one account is [`Matches::Many`], with at most
/// [`Matches::NAMES_MAX`] names.
fn merged(answers: Vec<Matches>) -> Matches {
    let (mut one, mut is_many, mut names) = (None, false, Vec::new());
    for matches in answers {
        match matches {
            Matches::None => {}
            Matches::One(record) => {
                names.push(record.account.name.clone());
                is_many |= one.replace(record).is_some();
            }
            Matches::Many(some) => {
                names.extend(some);
                is_many = true;
            }
        }
    }
    match one {
        Some(record) if !is_many => Matches::One(record),
        None if !is_many => Matches::None,
        _ => {
            names.truncate(Matches::NAMES_MAX);
            Matches::Many(names)
        }
    }
}

impl AccountStore for SeveralStore {
    fn domain(&self) -> &Domain {
        &self.domain
    }

    fn find<'a>(&'a self, query: &'a Query) -> BoxFuture<'a, Result<Matches, StoreError>> {
        match self.numbers(query) {
            [number] => Box::pin(self.parts[*number].find(query)),
            numbers => Box::pin(async {
                let answers = numbers.iter().map(|number| self.parts[*number].find(query));
                Ok(merged(join_all(answers).await.into_iter().collect::<Result<_, _>>()?))
            }),
        }
    }

    /// The age of the oldest answer among those of the stores that are asked.
    fn stale_s(&self, query: &Query) -> Option<u64> {
        self.numbers(query).iter().filter_map(|number| self.parts[*number].store.stale_s(query)).max()
    }

    /// An error only if no store has a revision.
    fn revision(&self) -> Result<Revision, StoreError> {
        let (mut revisions, mut failed) = (Vec::with_capacity(self.parts.len()), None);
        for part in &self.parts {
            match part.store.revision() {
                Ok(revision) => revisions.push(revision),
                Err(error) => failed = Some(error),
            }
        }
        match failed {
            Some(error) if revisions.is_empty() => return Err(error),
            // A revision that never comes back: nothing cached counts, whichever store it was read from.
            Some(_) => return Ok(Revision::unique()),
            None => {}
        }
        // The newest change that any store has noticed.
        let noticed = revisions.iter().map(Revision::generation).max().unwrap_or_default();
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        match &*seen {
            Some((before, revision)) if *before == revisions && revision.generation() == noticed => {
                Ok(*revision)
            }
            _ => {
                let revision = Revision::stored(Revision::notice(), 0, noticed);
                *seen = Some((revisions, revision));
                Ok(revision)
            }
        }
    }
}

#[cfg(all(test, feature = "memory"))]
mod tests {
    use super::*;
    use crate::battery::{self, add, apply, domain, now, one, user};
    use crate::{Account, MemoryStore, Record};
    use std::sync::atomic::{AtomicBool, Ordering};

    /// A store that fails when it is told to.
    struct Stub {
        store: MemoryStore,
        fails: AtomicBool,
    }

    impl AccountStore for Stub {
        fn domain(&self) -> &Domain {
            self.store.domain()
        }

        fn find<'a>(&'a self, query: &'a Query) -> BoxFuture<'a, Result<Matches, StoreError>> {
            match self.fails.load(Ordering::SeqCst) {
                true => Box::pin(std::future::ready(Err(StoreError::Unavailable("it is down".to_owned())))),
                false => self.store.find(query),
            }
        }

        fn revision(&self) -> Result<Revision, StoreError> {
            match self.fails.load(Ordering::SeqCst) {
                true => Err(StoreError::Unavailable("it is down".to_owned())),
                false => self.store.revision(),
            }
        }
    }

    fn stub<const N: usize>(accounts: [Account; N]) -> Arc<Stub> {
        let store = MemoryStore::new(domain());
        apply(&store, accounts.into_iter().map(add));
        Arc::new(Stub { store, fails: AtomicBool::new(false) })
    }

    fn part(name: &str, store: &Arc<Stub>, suffixes: &[&str], issuers: &[&str]) -> Part {
        Part {
            name: name.to_owned(),
            store: Arc::clone(store) as _,
            suffixes: suffixes.iter().map(|&suffix| suffix.to_owned()).collect(),
            issuers: issuers.iter().map(|issuer| issuer.parse().expect("a name")).collect(),
        }
    }

    fn account(name: &str, rid: u32, upn: &str, mappings: &[&str]) -> Account {
        Account {
            name: name.to_owned(),
            user_principal_name: Some(upn.to_owned()),
            alt_security_identities: mappings.iter().map(|&value| value.to_owned()).collect(),
            ..user(rid)
        }
    }

    const PARTNER: &str = "X509:<I>CN=Partner CA<SR>0a";
    const STAFF: &str = "X509:<I>CN=Staff CA<SR>0a";
    const KEY: &str = "X509:<SKI>0102030405060708090a0b0c0d0e0f1011121314";

    /// Staff, who have what no other store names, and partners, whose store has accounts that claim more.
    fn two() -> (SeveralStore, Arc<Stub>, Arc<Stub>) {
        let staff = stub([account("alice", 1001, "alice@contoso.example", &[STAFF])]);
        let partners = stub([
            account("eve", 1101, "eve@partner.example", &[PARTNER, KEY]),
            account("mallory", 1102, "alice@contoso.example", &[STAFF]),
        ]);
        let parts = vec![
            part("staff", &staff, &[], &[]),
            part("partners", &partners, &["Partner.example"], &["CN=Partner CA"]),
        ];
        (SeveralStore::new(domain(), parts).expect("two stores"), staff, partners)
    }

    fn upn(text: &str) -> Query {
        Query::UserPrincipalName(text.to_owned())
    }

    fn mapping(text: &str) -> Query {
        Query::AltSecurityIdentity(text.to_owned())
    }

    fn find(store: &SeveralStore, query: &Query) -> Result<Matches, StoreError> {
        now(store.find(query))
    }

    #[test]
    fn the_question_alone_decides_which_store_is_asked() {
        let (several, ..) = two();
        for (query, stores, name) in [
            (upn("ALICE@contoso.example"), &["staff"][..], Some("alice")),
            (mapping(STAFF), &["staff"], Some("alice")),
            (upn("eve@PARTNER.example"), &["partners"], Some("eve")),
            (mapping(PARTNER), &["partners"], Some("eve")),
            (mapping("X509:<I>cn=partner ca<SR>0a"), &["partners"], Some("eve")),
            (upn("alice@partner.example"), &["partners"], None),
            (upn("eve@sub.partner.example"), &["staff"], None),
            (mapping(KEY), &["staff", "partners"], Some("eve")),
            (mapping("nonsense"), &["staff", "partners"], None),
            (Query::Name("eve".to_owned()), &["staff", "partners"], Some("eve")),
            (upn("eve"), &["staff", "partners"], None),
        ] {
            assert_eq!(several.asked(&query).collect::<Vec<_>>(), stores, "{query:?}");
            match (find(&several, &query), name) {
                (Ok(Matches::One(record)), Some(name)) => assert_eq!(record.account.name, name),
                (Ok(Matches::None), None) => {}
                (other, _) => panic!("{query:?}: {other:?}"),
            }
        }
    }

    #[test]
    fn a_store_that_fails_is_an_error_and_sends_no_question_elsewhere() {
        let (several, staff, partners) = two();
        partners.fails.store(true, Ordering::SeqCst);
        for query in [upn("eve@partner.example"), mapping(PARTNER), mapping(KEY), Query::Name("alice".into())]
        {
            let error = find(&several, &query).expect_err("partners do not answer").to_string();
            assert!(error.contains("[[store.part]] partners: "), "{query:?}: {error}");
        }
        one(&several, upn("alice@contoso.example"));
        let revision = || several.revision();
        let (first, second) = (revision().expect("staff answer"), revision().expect("staff answer"));
        assert!(first != second && !second.is_unbroken_since(&first), "nothing cached counts");
        staff.fails.store(true, Ordering::SeqCst);
        assert!(revision().is_err());
        staff.fails.store(false, Ordering::SeqCst);
        partners.fails.store(false, Ordering::SeqCst);
        assert_eq!(revision().expect("both"), revision().expect("both"));
    }

    #[test]
    fn accounts_of_two_stores_are_many_although_they_are_alike() {
        let alice = || account("alice", 1001, "alice@contoso.example", &[KEY]);
        let (old, new) = (stub([alice()]), stub([alice()]));
        let several = |parts| SeveralStore::new(domain(), parts).expect("two stores");
        let both = several(vec![part("old", &old, &[], &[]), part("new", &new, &[], &[])]);
        for query in [upn("alice@contoso.example"), mapping(KEY), Query::Sid(alice().sid)] {
            let names = vec!["alice".to_owned(), "alice".to_owned()];
            assert_eq!(find(&both, &query).expect("both answer"), Matches::Many(names), "{query:?}");
        }
        let suffix = ["contoso.example"];
        let moved = several(vec![part("old", &old, &[], &[]), part("new", &new, &suffix, &[])]);
        one(&moved, upn("alice@contoso.example"));
        let shared = several(vec![part("old", &old, &suffix, &[]), part("new", &new, &suffix, &[])]);
        assert!(matches!(find(&shared, &upn("alice@contoso.example")), Ok(Matches::Many(_))));
        assert_eq!(find(&shared, &upn("alice@other.example")).expect("none is asked"), Matches::None);
    }

    #[test]
    fn a_change_of_any_store_is_another_revision() {
        let (several, staff, partners) = two();
        let mut before = several.revision().expect("both");
        assert_eq!(before, several.revision().expect("both"));
        for (store, rid) in [(&staff, 1200), (&partners, 1201), (&staff, 1202)] {
            apply(&store.store, [add(user(rid))]);
            let after = several.revision().expect("both");
            assert!(after != before && !after.is_unbroken_since(&before));
            before = after;
        }
    }

    #[test]
    fn names_and_domains_of_stores_are_checked() {
        let (a, b) = (stub([]), stub([]));
        let refused = |parts| SeveralStore::new(domain(), parts).err().expect("refused").to_string();
        assert!(refused(Vec::new()).contains("no store"));
        assert!(refused(vec![part("a", &a, &[], &[]), part("a", &b, &[], &[])]).contains("the name \"a\""));
        let other = Domain { netbios: "OTHER".to_owned(), ..domain() };
        assert!(SeveralStore::new(other, vec![part("a", &a, &[], &[])]).is_err());
    }

    /// Several stores keep what one keeps: each second account is in the second store.
    mod as_one {
        use super::*;

        crate::read_only_store_battery!(|records: &[Record]| {
            let half = |odd: usize| {
                let records: Vec<Record> = records.iter().skip(odd).step_by(2).cloned().collect();
                battery::filled((MemoryStore::new(domain()), ()), &records).0
            };
            let part = |name: &str, store: MemoryStore| Part {
                name: name.to_owned(),
                store: Arc::new(store),
                suffixes: Vec::new(),
                issuers: Vec::new(),
            };
            let parts = vec![part("even", half(0)), part("odd", half(1))];
            (SeveralStore::new(domain(), parts).expect("two stores"), ())
        });
    }
}
