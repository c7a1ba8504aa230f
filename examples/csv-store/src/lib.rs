//! Accounts from a CSV file: a read-only store. The format is in `docs/write-your-own-store.md`.

use account_store::index::{Place, place, places};
use account_store::rules::{self, Entries, EntryKind, RID_FIRST};
use account_store::{
    Account, AccountFlags, AccountKind, AccountStore, BoxFuture, Domain, FileAccess, GroupScope, Matches,
    Membership, Query, Record, Revision, StoreError,
};
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};

/// The columns, in this order.
pub const COLUMNS: [&str; 7] = ["name", "rid", "upn", "spns", "mappings", "state", "groups"];

type Error = Box<dyn std::error::Error>;

/// The accounts of one reading of the file, and its revision: both change at one moment.
struct Contents {
    revision: Revision,
    index: HashMap<Place, Vec<Arc<Record>>>,
}

/// Accounts from a CSV file.
pub struct CsvStore {
    domain: Domain,
    path: PathBuf,
    separator: char,
    /// The bytes of the file, and what they say or why they cannot be used.
    latest: RwLock<(Vec<u8>, Result<Arc<Contents>, String>)>,
}

impl CsvStore {
    /// Reads the file, which not every user may change.
    pub fn open(domain: Domain, path: PathBuf, separator: char) -> Result<Self, StoreError> {
        let latest = RwLock::new((Vec::new(), Err("the file is empty".to_owned())));
        let store = Self { domain, path, separator, latest };
        store.refresh();
        store.contents()?;
        Ok(store)
    }

    /// Reads the file again. While it cannot be used, no query is answered.
    pub fn refresh(&self) {
        let new = match FileAccess::ReadByAll.read(&self.path) {
            Ok(bytes) if bytes[..] == self.latest.read().unwrap_or_else(PoisonError::into_inner).0 => return,
            Ok(bytes) => (bytes.to_vec(), self.parse(&bytes).map_err(|error| error.to_string())),
            Err(error) => (Vec::new(), Err(error.to_string())),
        };
        *self.latest.write().unwrap_or_else(PoisonError::into_inner) = new;
    }

    fn contents(&self) -> Result<Arc<Contents>, StoreError> {
        let latest = self.latest.read().unwrap_or_else(PoisonError::into_inner);
        let unusable = |why| StoreError::Unavailable(format!("{}: {why}", self.path.display()));
        latest.1.as_ref().map(Arc::clone).map_err(unusable)
    }

    fn parse(&self, bytes: &[u8]) -> Result<Arc<Contents>, Error> {
        let mut lines = std::str::from_utf8(bytes)?.trim_start_matches('\u{feff}').lines().zip(1..);
        if lines.next().is_none_or(|(head, _)| self.fields(head) != COLUMNS) {
            return Err(format!("line 1: the columns are {COLUMNS:?}").into());
        }
        let (mut index, mut entries) = (HashMap::<Place, Vec<_>>::new(), Entries::default());
        for (line, number) in lines {
            let record = self.record(&self.fields(line), &mut entries);
            let record = Arc::new(record.map_err(|why| format!("line {number}: {why}"))?);
            for place in places(&self.domain, &record.account) {
                index.entry(place).or_default().push(Arc::clone(&record));
            }
        }
        Ok(Arc::new(Contents { revision: Revision::unique(), index }))
    }

    /// RFC 4180, without line breaks in a field: a quote opens and closes quoted text, and two quotes in it
    /// are one.
    fn fields(&self, line: &str) -> Vec<String> {
        let (mut fields, mut quoted, mut before) = (vec![String::new()], false, ' ');
        for c in line.chars() {
            let field = fields.last_mut().expect("there is at least one");
            match c {
                '"' if !quoted && before == '"' => field.push('"'),
                c if c == self.separator && !quoted => fields.push(String::new()),
                '"' => {}
                c => field.push(c),
            }
            quoted ^= c == '"';
            before = c;
        }
        fields
    }

    fn record(&self, row: &[String], entries: &mut Entries) -> Result<Record, Error> {
        let [name, rid, upn, spns, mappings, state, groups] = row else {
            return Err(format!("{} fields instead of {}", row.len(), COLUMNS.len()).into());
        };
        let list = |text: &str| text.split('|').filter(|text| !text.is_empty()).map(str::to_owned).collect();
        let number = |text: &str| text.parse::<u32>().map_err(|_| format!("{text:?} is not a RID"));
        let sid = |rid| self.domain.sid.with_rid(rid).ok_or("the domain has no room for a RID");
        if number(rid)? < RID_FIRST {
            return Err(format!("{rid} is the RID of a built-in account: use {RID_FIRST} or more").into());
        }
        let mut account = Account::new(name.as_str(), sid(number(rid)?)?);
        entries.add(EntryKind::Account, account.sid, Some(name))?;
        let mut memberships = Vec::new();
        for group in groups.split('|') {
            let (rid, name) = group.split_once(':').unwrap_or((group, ""));
            let name = Some(name.to_owned()).filter(|name| !name.is_empty());
            let group = Membership { sid: sid(number(rid)?)?, name, scope: GroupScope::Global };
            entries.add(EntryKind::Group, group.sid, group.name.as_deref())?;
            memberships.push(group);
        }
        account.primary_group_id = memberships[0].sid.split_rid().map_or(0, |(_, rid)| rid);
        memberships.sort_by_key(|group| group.sid);
        memberships.dedup_by_key(|group| group.sid);
        account.kind = if name.ends_with('$') { AccountKind::Computer } else { AccountKind::User };
        account.user_principal_name = Some(upn.clone()).filter(|upn| !upn.is_empty());
        account.service_principal_names = list(spns);
        account.alt_security_identities = list(mappings);
        match state.as_str() {
            "enabled" => {}
            "disabled" => account.flags = account.flags.with(AccountFlags::DISABLED, true),
            _ => return Err(format!("the state is {state:?} instead of enabled or disabled").into()),
        }
        rules::check_account(&account)?;
        Ok(Record { account, memberships })
    }
}

impl AccountStore for CsvStore {
    fn domain(&self) -> &Domain {
        &self.domain
    }

    fn find<'a>(&'a self, query: &'a Query) -> BoxFuture<'a, Result<Matches, StoreError>> {
        let place = place(&self.domain, query);
        let matches = |it: Arc<Contents>| it.index.get(&place).into_iter().flatten().cloned().collect();
        Box::pin(std::future::ready(self.contents().map(matches)))
    }

    fn revision(&self) -> Result<Revision, StoreError> {
        Ok(self.contents()?.revision)
    }
}
