//! What is wrong with the mappings in a store, before a certificate finds out.
//!
//! Accounts are read twice: once for the keys, of which only hashes are kept, and once for whose keys are shared. So a million
//! accounts need some hundred bytes each, and no text.

use crate::stores::Accounts;
use account_store::fold::{Comparison, casefold, windows};
use account_store::{Account, AltSecurityIdentity, DistinguishedName};
use rcmp_service::message::MappingFlags;
use rcmp_service::{Form, Mapper, Method, Policy};
use serde::Serialize;
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, HashMap, HashSet};

/// What can be wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Class {
    /// A mapping by names, at an account that has no strong one.
    Weak,
    /// A name or mapping that several accounts have.
    Ambiguous,
    /// Values of several accounts that are different, and the same to a comparison that folds more.
    Twin,
    /// A mapping whose issuer is no configured authority.
    Dangling,
    /// A mapping that no certificate can match under this policy.
    NeverMatching,
}

impl Class {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Weak, Self::Ambiguous, Self::Twin, Self::Dangling, Self::NeverMatching];

    /// Its name.
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

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Finding {
    /// What kind of thing.
    pub class: Class,
    /// The account.
    pub account: String,
    /// The attribute.
    pub attribute: &'static str,
    /// Its value.
    pub value: String,
    /// What is wrong with it.
    pub why: String,
}

/// All that is wrong with a store.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Accounts looked at.
    pub accounts: u64,
    /// Mappings and names looked at.
    pub values: u64,
    /// How many findings of each class.
    pub counts: BTreeMap<&'static str, u64>,
    /// The findings.
    pub findings: Vec<Finding>,
}

const UPN: &str = "userPrincipalName";
const SPN: &str = "servicePrincipalName";
const MAPPING: &str = "altSecurityIdentities";

/// A value of an account, and by what it is found.
struct Stored<'a> {
    attribute: &'static str,
    value: &'a str,
    /// By the widest comparison there is.
    wide: String,
    /// By the narrowest by which two accounts are still ambiguous.
    narrow: String,
}

/// Looks at all accounts of a store, by the policy of a mapper.
pub async fn audit(accounts: &Accounts, mapper: &Mapper) -> anyhow::Result<Report> {
    let rules = Rules::new(mapper);
    let mut seen: HashMap<[u8; 16], u32> = HashMap::new();
    let mut shared: HashSet<[u8; 16]> = HashSet::new();
    let mut report = Report { accounts: 0, values: 0, counts: BTreeMap::new(), findings: Vec::new() };
    accounts
        .each(|account| {
            report.accounts += 1;
            let rid = account.sid.split_rid().map_or(0, |(_, rid)| rid);
            for stored in values(account) {
                report.values += 1;
                let hash = hash(&stored);
                if *seen.entry(hash).or_insert(rid) != rid {
                    shared.insert(hash);
                }
            }
            rules.look_at(account, &mut report.findings);
            true
        })
        .await?;
    drop(seen);
    // Who shares what, each with the value as it is stored.
    let mut groups: BTreeMap<[u8; 16], Vec<Shared>> = BTreeMap::new();
    if !shared.is_empty() {
        accounts
            .each(|account| {
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
    names.chain(mappings)
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
        (false, _) => (Class::Ambiguous, format!("also that of {}: it maps nobody", same.join(", "))),
        (true, false) if shared.attribute == MAPPING => (
            Class::Twin,
            format!("the same, to Windows' comparison, as that of {}: it maps nobody", twins.join(", ")),
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

/// What a policy makes of single values.
struct Rules<'a> {
    policy: &'a Policy,
    /// Names of the configured authorities, folded; `None` when chains are not verified and any issuer may be meant.
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
        let mut finding = |class, value: &str, why: String| {
            let (account, value) = (account.name.clone(), value.to_owned());
            findings.push(Finding { class, account, attribute: MAPPING, value, why });
        };
        let parsed: Vec<_> = account
            .alt_security_identities
            .iter()
            .map(|value| (value, value.parse::<AltSecurityIdentity>()))
            .collect();
        let has_strong = parsed
            .iter()
            .any(|(_, identity)| identity.as_ref().is_ok_and(|identity| self.counts(identity, account)));
        for (value, identity) in &parsed {
            let identity = match identity {
                Ok(identity) => identity,
                // Names of other systems stand in the same attribute, and are none of ours.
                Err(account_store::alt_security_identity::Ignored::OtherKind) => continue,
                Err(error) => {
                    finding(Class::NeverMatching, value, format!("it cannot be read: {error}"));
                    continue;
                }
            };
            let form = Form::of(identity);
            if let Some(why) = self.never(identity, account) {
                finding(Class::NeverMatching, value, why);
            } else if let Some(issuer) = issuer(identity)
                && self.issuers.as_ref().is_some_and(|known| !known.contains(&key(issuer)))
            {
                finding(Class::Dangling, value, "its issuer is no configured authority".to_owned());
            } else if !form.is_strong() && !has_strong {
                let why = match form.is_proposal() {
                    true => "this form is never enough alone, and the account has no strong one",
                    false => "names are all it goes by, and the account has no strong mapping",
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
                "certificates with that SID are never this account's, whose SID is {}",
                account.sid
            ));
        }
        if let Some(issuer) = issuer(identity)
            && self.issuers.as_ref().is_some_and(|known| !known.contains(&key(issuer)))
            && self.turned.contains(&key(issuer))
        {
            return Some("the parts of the issuer stand the other way round".to_owned());
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
                None => "no strong form counts, because chains are not verified".to_owned(),
                Some(_) => format!("no authority may vouch by \"{form}\""),
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
