//! The global catalog of a forest: which account of which domain a question names.
//!
//! The catalog has the names and mappings of all accounts of the forest, so ambiguity is found there. It has
//! neither the state of an account nor its groups, so it never decides. An account of our own domain is read
//! again at a server of the domain, unless only the owner of an e-mail address is asked for. An account of
//! another domain is only reported with its domain ([`account_store::Account::home_domain`]).

use crate::connection::Connection;
use crate::entry::Entry;
use crate::failed::Failed;
use crate::filter::{Attribute, Filter};
use crate::generic::search;
use crate::matching::{self, Found};
use crate::message::Scope;
use crate::settings::Settings;
use crate::walk::{self, Flaw, Pages, See, Seen};
use crate::{ad, mail};
use account_store::index::Place;
use account_store::{Account, Matches, Query, Record, rules};
use std::sync::Arc;

/// The attributes of an account that are read. All are in the partial attribute set of a catalog ([MS-ADA1]
/// to [MS-ADA3]).
const KEYS: [&str; 6] = [
    "objectSid",
    "sAMAccountName",
    "userPrincipalName",
    "servicePrincipalName",
    "altSecurityIdentities",
    "mail",
];

/// Checks after a bind that the server is a catalog, and that the store's account may read it. Only a catalog
/// can be searched with the root of the forest, the empty name, as the base.
pub(crate) async fn probe(connection: &mut Connection, settings: &Settings) -> Result<(), Failed> {
    let any = Filter::Present(Attribute::object_class());
    let own = search(connection, (&settings.bind_dn, Scope::Base), &any, &["objectClass"], 1).await?;
    if own.is_none_or(|answer| answer.entries.is_empty()) {
        return Err(Failed::Rights(format!("the store's account may not read {:?}", settings.bind_dn)));
    }
    let sid = Filter::Equal(Attribute::known("objectSid"), dtyp::Encode::to_bytes(&settings.domain.sid));
    let domain = search(connection, ("", Scope::Subtree), &sid, &["objectSid"], 1).await?;
    let domain = domain.ok_or_else(|| no_catalog(connection))?;
    match &domain.entries[..] {
        [_] => Ok(()),
        _ => Err(Failed::Rights(format!(
            "the catalog does not show the domain {} to the store's account",
            settings.domain.sid
        ))),
    }
}

fn no_catalog(connection: &Connection) -> Failed {
    Failed::Search(format!(
        "{} is no global catalog: it does not know the root of the forest as a base (a catalog has the ports 3269 and 3268)",
        connection.server()
    ))
}

/// The account in the forest, with names, SID and mappings only. An account of another domain has a home
/// domain.
pub(crate) async fn find(
    connection: &mut Connection,
    settings: &Settings,
    query: &Query,
    place: &Place,
) -> Result<Matches, Failed> {
    // Each account has an implicit name with the DNS name of its own domain, whichever that is.
    let Some(filter) = ad::filter(None, query, settings.accents) else { return Ok(Matches::None) };
    let limit = settings.candidates_max;
    let answer = search(connection, ("", Scope::Subtree), &filter, &KEYS, limit).await?;
    let answer = answer.ok_or_else(|| no_catalog(connection))?;
    let accounts = answer.entries.iter().map(|entry| Ok((entry, account(settings, entry)?)));
    let accounts = accounts.collect::<Result<Vec<_>, Failed>>()?;
    let is_there = |account: &Account| matching::is_at(&settings.domain, account, place);
    let is_claimed = |(entry, account): &(&Entry, Account)| {
        let dns = account.home_domain.as_ref().unwrap_or(&settings.domain.dns);
        is_there(account)
            || mail::is_among(entry, "mail", place)
            || ad::is_implicit(dns, &account.name, place)
    };
    let count = accounts.len();
    let claiming = accounts.into_iter().filter(is_claimed);
    let matching: Vec<_> = claiming.map(|(_, account)| account).collect();
    match matching::decide(matching, |account| &account.name, count, limit, answer.is_cut)? {
        Found::None => Ok(Matches::None),
        Found::Many(names) => Ok(names),
        // An account that has the name only by its sAMAccountName makes others ambiguous, and is not found
        // itself.
        Found::One(account) if !is_there(&account) => Ok(Matches::None),
        Found::One(account) => Ok(Matches::One(Arc::new(Record { account, memberships: Vec::new() }))),
    }
}

/// Reads the accounts of other domains: what they claim makes accounts of ours ambiguous.
pub(crate) async fn walk(
    connection: &mut Connection,
    settings: &Settings,
    see: &mut See<'_>,
) -> Result<(), Failed> {
    let filter = Filter::equal(&Attribute::object_class(), "user");
    let mut pages = Pages::new(settings, "", &filter, &KEYS);
    while let Some(entries) = pages.next(connection, see).await? {
        for entry in &entries {
            match account(settings, entry) {
                Ok(Account { home_domain: None, .. }) => {}
                Ok(account) => see(Seen::Account(ad::claims(entry, &account, &settings.domain.dns))),
                Err(failed) => see(walk::wrong(Flaw::Unreadable, &entry.dn, &entry.dn, failed)?),
            }
        }
    }
    Ok(())
}

/// Names, SID and mappings of an entry, and its domain if it is not ours.
fn account(settings: &Settings, entry: &Entry) -> Result<Account, Failed> {
    let keys = ad::keys(entry, settings.mail_domain.as_deref())?;
    let home_domain = match keys.sid.rid_in(&settings.domain.sid) {
        Some(_) => None,
        None => {
            let dns = domain_of(&entry.dn).ok_or_else(|| entry.wrong("the name", "is of no domain"))?;
            if settings.domain.is_called(&dns) {
                return Err(entry.wrong("objectSid", "is of another domain than its name"));
            }
            Some(dns)
        }
    };
    let account = Account { home_domain, ..keys };
    rules::check_account(&account).map_err(|error| Failed::Data(error.to_string()))?;
    Ok(account)
}

/// The DNS name of the domain of an entry: the DC components at the end of its distinguished name ([MS-ADTS]
/// 3.1.1.1.4).
fn domain_of(dn: &str) -> Option<String> {
    let mut labels = Vec::new();
    let mut rest = dn;
    loop {
        let (before, last) = match rest.rfind(',') {
            Some(at) => (&rest[..at], &rest[at + 1..]),
            None => ("", rest),
        };
        // An escaped comma belongs to a value (RFC 4514 2.4).
        let escapes = before.bytes().rev().take_while(|byte| *byte == b'\\').count();
        let Some((name, label)) = last.split_once('=').filter(|_| escapes % 2 == 0) else { break };
        let is_label = !label.is_empty()
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_');
        if !name.trim().eq_ignore_ascii_case("DC") || !is_label {
            break;
        }
        labels.insert(0, label.to_ascii_lowercase());
        rest = before;
    }
    (!labels.is_empty() && labels.len() < 64).then(|| labels.join("."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_domain_of_an_entry_is_that_of_the_end_of_its_name() {
        for (dn, expected) in [
            ("CN=bob,CN=Users,DC=EMEA,DC=contoso,DC=example", Some("emea.contoso.example")),
            ("CN=bob,OU=DC\\=x,DC=contoso", Some("contoso")),
            ("CN=a\\\\,DC=contoso,DC=example", Some("contoso.example")),
            ("CN=a\\,DC=evil,DC=contoso,DC=example", Some("contoso.example")),
            ("DC=example", Some("example")),
            ("CN=bob", None),
            ("CN=bob,DC=", None),
            ("CN=bob,DC=a\\,b", None),
            ("", None),
        ] {
            assert_eq!(domain_of(dn).as_deref(), expected, "{dn}");
        }
    }
}
