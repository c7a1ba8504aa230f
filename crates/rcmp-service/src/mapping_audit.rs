//! Finds mappings in a store that are weak, ambiguous or never match.
//!
//! Accounts are read twice: first for the keys, of which only hashes are kept, then for the accounts with
//! shared keys. So a million accounts need some hundred bytes each.

use crate::form::{Form, Method};
use crate::message::MappingFlags;
use crate::policy::Policy;
use crate::service::Mapper;
use account_store::admin::each_account;
use account_store::fold::{Comparison, casefold, wide, windows};
use account_store::{
    Account, AccountListing, AltSecurityIdentity, DistinguishedName, MachineAdmin, StoreError,
};
use dtyp::Sid;
use serde::Serialize;
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, HashMap, HashSet};

/// The class of a finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Class {
    /// A mapping by names, of an account without a strong mapping.
    Weak,
    /// A name or mapping that several accounts have.
    Ambiguous,
    /// Different values of several accounts that are equal under a wider comparison.
    Twin,
    /// A mapping whose issuer is not a configured CA.
    Dangling,
    /// A mapping that no certificate can match under this policy.
    NeverMatching,
}

impl Class {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Weak, Self::Ambiguous, Self::Twin, Self::Dangling, Self::NeverMatching];

    /// A stable name in snake case, as in JSON and in `--class`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Weak => "weak",
            Self::Ambiguous => "ambiguous",
            Self::Twin => "twin",
            Self::Dangling => "dangling",
            Self::NeverMatching => "never-matching",
        }
    }
}

/// A finding.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Finding {
    /// What kind of problem it is.
    pub class: Class,
    /// The account.
    pub account: String,
    /// The attribute.
    pub attribute: &'static str,
    /// The stored value that has the problem.
    pub value: String,
    /// What is wrong with it.
    pub why: String,
}

/// All findings of a store.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Accounts that were read.
    pub accounts: u64,
    /// Mappings and names that were read.
    pub values: u64,
    /// How many findings of each class.
    pub counts: BTreeMap<&'static str, u64>,
    /// The findings.
    pub findings: Vec<Finding>,
}

const UPN: &str = "userPrincipalName";
const SPN: &str = "servicePrincipalName";
const MAPPING: &str = "altSecurityIdentities";
const NAME: &str = "sAMAccountName";
/// Names read at once.
const PAGE: usize = 1000;

/// A value of an account, and by what it is found.
struct Stored<'a> {
    attribute: &'static str,
    value: &'a str,
    /// By the widest comparison there is.
    wide: String,
    /// By the narrowest by which two accounts are still ambiguous.
    narrow: String,
}

/// Looks at all accounts of a store, by the policy of a mapper. Names of accounts are compared with those of
/// groups and of `machines`, too. `progress` is told how many accounts were read.
pub async fn audit(
    accounts: &dyn AccountListing,
    machines: &dyn MachineAdmin,
    mapper: &Mapper,
    progress: &mut (dyn FnMut(u64) + Send),
) -> Result<Report, StoreError> {
    let rules = Rules::new(mapper);
    let others = other_names(accounts, machines).await?;
    let mut seen: HashMap<[u8; 16], u32> = HashMap::new();
    let mut shared: HashSet<[u8; 16]> = HashSet::new();
    let mut report = Report { accounts: 0, values: 0, counts: BTreeMap::new(), findings: Vec::new() };
    each_account(accounts, |account| {
        report.accounts += 1;
        progress(report.accounts);
        let rid = account.sid.split_rid().map_or(0, |(_, rid)| rid);
        report.values += (usize::from(account.user_principal_name.is_some())
            + account.service_principal_names.len()
            + account.alt_security_identities.len()) as u64;
        for stored in values(account) {
            let hash = hash(&stored);
            if *seen.entry(hash).or_insert(rid) != rid {
                shared.insert(hash);
            }
        }
        rules.look_at(account, &mut report.findings);
        true
    })
    .await?;
    for (name, rid) in &others {
        let hash = hash(&of_name(name));
        if *seen.entry(hash).or_insert(*rid) != *rid {
            shared.insert(hash);
        }
    }
    drop(seen);
    // Who shares what, each with the value as it is stored.
    let mut groups: BTreeMap<[u8; 16], Vec<Shared>> = BTreeMap::new();
    if !shared.is_empty() {
        each_account(accounts, |account| {
            for stored in values(account) {
                let hash = hash(&stored);
                if shared.contains(&hash) {
                    groups.entry(hash).or_default().push(Shared {
                        account: account.name.clone(),
                        attribute: stored.attribute,
                        value: stored.value.to_owned(),
                        narrow: stored.narrow,
                    });
                }
            }
            true
        })
        .await?;
        for (name, _) in &others {
            let stored = of_name(name);
            let hash = hash(&stored);
            // A machine and its account have one name.
            if shared.contains(&hash)
                && !groups.get(&hash).is_some_and(|group| group.iter().any(|known| known.account == *name))
            {
                groups.entry(hash).or_default().push(Shared {
                    account: name.clone(),
                    attribute: NAME,
                    value: name.clone(),
                    narrow: stored.narrow,
                });
            }
        }
    }
    for group in groups.values() {
        report.findings.extend(group.iter().filter_map(|stored| collision(stored, group)));
    }
    report.findings.sort();
    for class in Class::ALL {
        let count = report.findings.iter().filter(|finding| finding.class == class).count();
        report.counts.insert(class.name(), count as u64);
    }
    Ok(report)
}

/// Names of groups and machines, each with its relative identifier.
async fn other_names(
    accounts: &dyn AccountListing,
    machines: &dyn MachineAdmin,
) -> Result<Vec<(String, u32)>, StoreError> {
    let rid = |sid: &Sid| sid.split_rid().map_or(0, |(_, rid)| rid);
    let mut names = Vec::new();
    let mut after = 0;
    loop {
        let page = accounts.groups(after, PAGE).await?;
        let Some(last) = page.last() else { break };
        after = rid(&last.sid);
        names.extend(page.into_iter().map(|group| (group.name, rid(&group.sid))));
    }
    after = 0;
    loop {
        let page = machines.machines(after, PAGE).await?;
        let Some(last) = page.last() else { return Ok(names) };
        after = rid(&last.sid);
        names.extend(page.into_iter().map(|machine| (machine.name, rid(&machine.sid))));
    }
}

/// A name as operators read it: two that look alike are told apart by none of them.
fn of_name(name: &str) -> Stored<'_> {
    Stored { attribute: NAME, value: name, wide: wide(name), narrow: casefold(name) }
}

fn values(account: &Account) -> impl Iterator<Item = Stored<'_>> {
    let name = |attribute, value: &str| Stored {
        attribute,
        wide: windows(value),
        narrow: casefold(value),
        value: "",
    };
    let names = account
        .user_principal_name
        .iter()
        .map(|value| (UPN, value))
        .chain(account.service_principal_names.iter().map(|value| (SPN, value)))
        .map(move |(attribute, value)| Stored { value, ..name(attribute, value) });
    let mappings = account.alt_security_identities.iter().filter_map(|value| {
        let identity = value.parse::<AltSecurityIdentity>().ok()?;
        let (wide, narrow) = (identity.key(), identity.key_by(Comparison::Casefold));
        Some(Stored { attribute: MAPPING, value, wide, narrow })
    });
    std::iter::once(of_name(&account.name)).chain(names).chain(mappings)
}

fn hash(stored: &Stored<'_>) -> [u8; 16] {
    let digest =
        Sha256::new().chain_update(stored.attribute).chain_update([0]).chain_update(&stored.wide).finalize();
    std::array::from_fn(|at| digest[at])
}

/// A value that is, to the widest comparison, that of several accounts.
struct Shared {
    account: String,
    attribute: &'static str,
    value: String,
    narrow: String,
}

/// What is wrong with a value that others have, too.
fn collision(shared: &Shared, group: &[Shared]) -> Option<Finding> {
    let others = |same: bool| -> Vec<String> {
        let others = group
            .iter()
            .filter(|other| other.account != shared.account && (other.narrow == shared.narrow) == same);
        let mut others: Vec<String> = others
            .map(|other| match same {
                true => other.account.clone(),
                false => format!("{} ({})", other.account, other.value),
            })
            .collect();
        others.sort();
        others.dedup();
        others
    };
    let (same, twins) = (others(true), others(false));
    let (class, why) = match (same.is_empty(), twins.is_empty()) {
        (false, _) => (Class::Ambiguous, format!("{} has the same: it maps no account", same.join(", "))),
        (true, false) if shared.attribute == MAPPING => (
            Class::Twin,
            format!(
                "equal to that of {} under the comparison of Windows: it maps no account",
                twins.join(", ")
            ),
        ),
        (true, false) if shared.attribute == NAME => (
            Class::Twin,
            format!(
                "looks like {}, and newer versions refuse to store both: rename one, by its line of `rcmpd export` with another \
                 \"name\", imported with --replace (this name is {})",
                others_names(group, shared),
                shared.value.escape_default()
            ),
        ),
        (true, false) => (Class::Twin, format!("looks like that of {}", twins.join(", "))),
        (true, true) => return None,
    };
    Some(Finding {
        class,
        account: shared.account.clone(),
        attribute: shared.attribute,
        value: shared.value.clone(),
        why,
    })
}

/// The other names of a group, each with its code points.
fn others_names(group: &[Shared], shared: &Shared) -> String {
    let others = group.iter().filter(|other| other.account != shared.account);
    let mut names: Vec<String> =
        others.map(|other| format!("{} ({})", other.value, other.value.escape_default())).collect();
    names.sort();
    names.join(", ")
}

/// What a policy makes of single values.
struct Rules<'a> {
    policy: &'a Policy,
    /// Names of the configured authorities, folded; `None` when chains are not verified and any issuer may be
    /// meant.
    issuers: Option<HashSet<String>>,
    /// The same with their parts the other way round.
    turned: HashSet<String>,
    forms: Vec<Form>,
}

impl<'a> Rules<'a> {
    fn new(mapper: &'a Mapper) -> Self {
        let policy = mapper.policy();
        let names: Vec<DistinguishedName> = mapper
            .trust()
            .into_iter()
            .flat_map(|trust| {
                trust.authorities().filter_map(|known| known.subject.parse().ok()).collect::<Vec<_>>()
            })
            .collect();
        let turn = |name: &DistinguishedName| DistinguishedName(name.0.iter().rev().cloned().collect());
        let granted = |form: &Form| match mapper.trust() {
            None => !form.is_strong(),
            Some(trust) => {
                trust.authorities().any(|authority| mapper.rules(Some(&[authority.key])).mention(*form))
            }
        };
        Self {
            policy,
            turned: names.iter().map(|name| key(&turn(name))).collect(),
            issuers: mapper.trust().map(|_| names.iter().map(key).collect()),
            forms: Form::ALL.into_iter().filter(granted).collect(),
        }
    }

    fn look_at(&self, account: &Account, findings: &mut Vec<Finding>) {
        let of_attribute = |attribute, class, value: &str, why: String| {
            let (account, value) = (account.name.clone(), value.to_owned());
            Finding { class, account, attribute, value, why }
        };
        let unmatchable: Vec<_> = account.unmatchable().collect();
        let told = unmatchable
            .iter()
            .map(|found| of_attribute(found.attribute, Class::NeverMatching, found.value, found.why.clone()));
        findings.extend(told);
        let is_told =
            |value: &str| unmatchable.iter().any(|found| found.attribute == MAPPING && found.value == value);
        let mut finding = |class, value: &str, why| findings.push(of_attribute(MAPPING, class, value, why));
        let parsed: Vec<_> = account
            .alt_security_identities
            .iter()
            .map(|value| (value, value.parse::<AltSecurityIdentity>()))
            .collect();
        let has_strong = parsed
            .iter()
            .any(|(_, identity)| identity.as_ref().is_ok_and(|identity| self.counts(identity, account)));
        for (value, identity) in &parsed {
            // Values of other systems stand in the same attribute, and are none of ours.
            let Ok(identity) = identity else { continue };
            if is_told(value) {
                continue;
            }
            let form = Form::of(identity);
            if let Some(why) = self.never(identity, account) {
                finding(Class::NeverMatching, value, why);
            } else if let Some(issuer) = issuer(identity)
                && self.issuers.as_ref().is_some_and(|known| !known.contains(&key(issuer)))
            {
                finding(Class::Dangling, value, "its issuer is not a configured CA".to_owned());
            } else if !form.is_strong() && !has_strong {
                let why = match form.is_proposal() {
                    true => "this form is never enough alone, and the account has no strong mapping",
                    false => "it uses only names, and the account has no strong mapping",
                };
                finding(Class::Weak, value, why.to_owned());
            }
        }
    }

    /// Whether a stored value binds certificates to its account.
    fn counts(&self, identity: &AltSecurityIdentity, account: &Account) -> bool {
        let known = issuer(identity)
            .is_none_or(|issuer| self.issuers.as_ref().is_none_or(|known| known.contains(&key(issuer))));
        Form::of(identity).is_strong() && known && self.never(identity, account).is_none()
    }

    fn never(&self, identity: &AltSecurityIdentity, account: &Account) -> Option<String> {
        let form = Form::of(identity);
        if let AltSecurityIdentity::IssuerSid { sid, .. } = identity
            && *sid != account.sid
        {
            return Some(format!(
                "certificates with that SID never map to this account, whose SID is {}",
                account.sid
            ));
        }
        if let Some(issuer) = issuer(identity)
            && self.issuers.as_ref().is_some_and(|known| !known.contains(&key(issuer)))
            && self.turned.contains(&key(issuer))
        {
            return Some("the parts of the issuer are in reverse order".to_owned());
        }
        let (method, flag) = match form {
            Form::Issuer => (Method::Issuer, MappingFlags::ISSUER),
            _ => (Method::Subject, MappingFlags::SUBJECT),
        };
        // A strong value also binds an account that another method found.
        if !form.is_strong() && !self.policy.methods.contains(flag) {
            return Some(format!("the policy does not allow the method \"{method}\""));
        }
        if !self.forms.contains(&form) {
            return Some(match self.issuers {
                None => "no strong form is accepted, because chains are not validated".to_owned(),
                Some(_) => format!("no CA is granted the form \"{form}\""),
            });
        }
        None
    }
}

fn issuer(identity: &AltSecurityIdentity) -> Option<&DistinguishedName> {
    use AltSecurityIdentity::{Issuer, IssuerSerial, IssuerSid, IssuerSubject};
    match identity {
        IssuerSubject { issuer, .. }
        | IssuerSerial { issuer, .. }
        | IssuerSid { issuer, .. }
        | Issuer(issuer) => Some(issuer),
        _ => None,
    }
}

fn key(name: &DistinguishedName) -> String {
    name.key_by(Comparison::Windows)
}
