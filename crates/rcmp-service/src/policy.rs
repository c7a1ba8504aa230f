//! What the operator allows. A policy is a value, and a reload replaces it whole.
//!
//! Rules are of two kinds. Those of `[mapping]` are for every certificate. Those of a certificate authority
//! ([`AuthorityPolicy`]) are for the certificates below it, and can only take away: a form counts when all
//! authorities on the verified path that say anything about forms grant it. Where none says anything, the
//! policy's own grants are in force.

use crate::form::{Form, Method};
use crate::message::MappingFlags;
use crate::trust::KeyId;
use account_store::fold::{Comparison, casefold};
use account_store::{Account, AccountKind, Record};
use dtyp::{FileTime, Sid};
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::time::Duration;

/// Rules by which a certificate may become an account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Methods that may be used, when the client asks for them too.
    pub methods: MappingFlags,
    /// How strongly a certificate must be bound to its account.
    pub binding: Binding,
    /// `CertificateBackdatingCompensation`: by how many seconds a weakly mapped certificate may be older than
    /// its account, with [`Binding::Compat`].
    pub backdating_s: u64,
    /// What the service verifies itself.
    pub validation: Validation,
    /// What authorities that say nothing about forms may vouch for.
    pub grants: Grants,
    /// Rules of single authorities, by their keys.
    pub authorities: HashMap<KeyId, AuthorityPolicy>,
    /// How values of altSecurityIdentities are compared. Stores look up by the widest,
    /// [`Comparison::Windows`]; what a narrower one tells apart is no match.
    pub comparison: Comparison,
    /// The same for user principal names and service principal names, where stores look up by
    /// [`Comparison::Casefold`].
    pub name_comparison: Comparison,
    /// What `X509:<SHA1-PUKEY>` is the hash of.
    pub sha1_public_key: Sha1PublicKeyInput,
    /// Whether the client learns that an account is disabled, locked, expired or outside its hours. Otherwise
    /// it learns as much as if there were no account.
    pub tell_restrictions: bool,
    /// The extra SID that says who saw the proof of possession; S-1-18-2, because it was the client and not
    /// we.
    pub identity_sid: Option<Sid>,
    /// Changes with every reload; every answer carries it.
    pub revision: u64,
}

/// The strict defaults, without rules of single CAs.
impl Default for Policy {
    fn default() -> Self {
        PolicyDraft::default().complete(HashMap::new())
    }
}

/// A policy that lacks the rules of single CAs: they go by the keys in the CAs' certificates, which are read
/// after the configuration. It is not a policy, because without these rules a CA may vouch for more than the
/// operator allows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyDraft {
    /// [`Policy::methods`].
    pub methods: MappingFlags,
    /// [`Policy::binding`].
    pub binding: Binding,
    /// [`Policy::backdating_s`].
    pub backdating_s: u64,
    /// [`Policy::validation`].
    pub validation: Validation,
    /// [`Policy::grants`].
    pub grants: Grants,
    /// [`Policy::comparison`].
    pub comparison: Comparison,
    /// [`Policy::name_comparison`].
    pub name_comparison: Comparison,
    /// [`Policy::sha1_public_key`].
    pub sha1_public_key: Sha1PublicKeyInput,
    /// [`Policy::tell_restrictions`].
    pub tell_restrictions: bool,
    /// [`Policy::identity_sid`].
    pub identity_sid: Option<Sid>,
}

impl PolicyDraft {
    /// The policy with the rules of single CAs, by their keys. It is the first revision.
    pub fn complete(self, authorities: HashMap<KeyId, AuthorityPolicy>) -> Policy {
        Policy {
            methods: self.methods,
            binding: self.binding,
            backdating_s: self.backdating_s,
            validation: self.validation,
            grants: self.grants,
            authorities,
            comparison: self.comparison,
            name_comparison: self.name_comparison,
            sha1_public_key: self.sha1_public_key,
            tell_restrictions: self.tell_restrictions,
            identity_sid: self.identity_sid,
            revision: 1,
        }
    }
}

/// The strict defaults.
impl Default for PolicyDraft {
    fn default() -> Self {
        Self {
            methods: MappingFlags::UPN.with(MappingFlags::SUBJECT),
            binding: Binding::Full,
            backdating_s: BACKDATING_S,
            validation: Validation::Chain,
            grants: Grants::standard(Validation::Chain),
            comparison: Comparison::Windows,
            name_comparison: Comparison::Casefold,
            sha1_public_key: Sha1PublicKeyInput::Thumbprint,
            tell_restrictions: false,
            identity_sid: Some(Sid::SERVICE_ASSERTED_IDENTITY),
        }
    }
}

/// As Windows has it, `CertificateBackdatingCompensation`: authorities date certificates ten minutes back, so
/// that clocks need not agree.
const BACKDATING_S: u64 = 600;

/// `StrongCertificateBindingEnforcement` ([MS-PKCA] 3.1.5.2.1.6), from the laxest to the strictest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Binding {
    /// A weak mapping is enough.
    Off,
    /// A weak mapping is enough for certificates that are not older than their account.
    Compat,
    /// A strong mapping is needed.
    Full,
}

impl Binding {
    /// Its name in configuration and output.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Compat => "compat",
            Self::Full => "full",
        }
    }
}

/// What the service verifies before it believes a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Validation {
    /// Nothing: the client has done it. No strong form counts then, because it is not known which CA vouches
    /// for it.
    Off,
    /// The chain to a configured anchor.
    Chain,
    /// The chain, and that nothing in it is revoked.
    ChainAndRevocation,
}

impl Validation {
    /// Its name in configuration and output.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Chain => "chain",
            Self::ChainAndRevocation => "chain+crl",
        }
    }
}

/// The two readings of "SHA1 hash of public key" ([MS-PKCA] 3.1.5.2.1.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Sha1PublicKeyInput {
    /// The whole certificate, as Samba and directories in the field have it.
    Thumbprint,
    /// The public key: its SubjectPublicKeyInfo, or the contents of the bit string in it.
    PublicKey,
}

/// A policy contradicts itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Contradiction {
    /// A strong mapping is needed, and without a verified chain none counts.
    NothingCanMap,
    /// Chains are to be verified, and there is nothing to verify them by; or the other way round.
    Trust,
}

impl fmt::Display for Contradiction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NothingCanMap => {
                "binding = \"full\" with validation = \"off\" maps no certificate: a strong form counts only for a verified chain"
            }
            Self::Trust => "validation and the anchors do not go together",
        })
    }
}

impl std::error::Error for Contradiction {}

/// Why rules map no certificate, whatever is in it and whatever is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum MapsNothing {
    /// No form is granted.
    NoForm,
    /// No method that is allowed looks up by a form that is granted.
    NoLookUp,
    /// An account can be found, and no form that is granted binds it strongly enough.
    NoStrongForm,
}

/// Rules for the certificates below one authority.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuthorityPolicy {
    /// Methods that may be used for them, of those that the policy allows.
    pub methods: Option<MappingFlags>,
    /// A binding that is stricter than the policy's.
    pub binding: Option<Binding>,
    /// A backdating that is shorter than the policy's.
    pub backdating_s: Option<u64>,
    /// What the CA may vouch for, and for which accounts.
    pub grants: Option<Grants>,
    /// Whether that is for certificates that it issued itself alone: what is below authorities that it
    /// certified is then not mapped.
    pub direct: bool,
    /// Certificates it issued itself by these policies are strong by name ("Allow name-based strong
    /// mappings").
    pub strong_names: Vec<StrongName>,
}

/// A tuple of [MS-PKCA] 3.1.5.2.1.5: an issuer, policies, and the kind of name that is then strong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StrongName {
    /// Contents octets of the object identifiers; the certificate must have all of them.
    pub policies: Vec<Vec<u8>>,
    /// The kind of name.
    pub kind: StrongNameKind,
}

/// The kind of name that policies make strong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StrongNameKind {
    /// `IssuerSubject`.
    IssuerSubject,
    /// `UPNSuffix=`: user principal names that end in `@` and this.
    UpnSuffix(String),
}

/// The forms that count, and for which accounts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grants(Vec<Grant>);

/// No form at all.
static NOTHING: Grants = Grants(Vec::new());

/// One form, for all accounts or for some.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// The form.
    pub form: Form,
    /// The accounts; `None` for all of them.
    pub to: Option<Vec<Grantee>>,
}

/// Accounts that an authority may vouch for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Grantee {
    /// Whose user principal name ends in `@` and this, or computers whose service is at a host below it.
    Suffix(String),
    /// Members of this group.
    Group(Sid),
    /// Members of the group of this name.
    NamedGroup(String),
    /// The account with this SID.
    Account(Sid),
    /// The account of this name.
    NamedAccount(String),
}

impl Grants {
    /// Exactly these.
    pub const fn new(grants: Vec<Grant>) -> Self {
        Self(grants)
    }

    /// What counts unless something else is said: for a verified chain all but what an authority could write
    /// into a certificate for any account (a key identifier, its own name), as the own controllers of Windows
    /// have it since CVE-2025-26647.
    pub fn standard(validation: Validation) -> Self {
        let denied: &[Form] = match validation {
            Validation::Off => &[],
            Validation::Chain | Validation::ChainAndRevocation => &[Form::SubjectKeyIdentifier, Form::Issuer],
        };
        let forms = Form::ALL.into_iter().filter(|form| !denied.contains(form));
        Self(forms.map(|form| Grant { form, to: None }).collect())
    }

    /// The grants one by one.
    pub fn iter(&self) -> std::slice::Iter<'_, Grant> {
        self.0.iter()
    }

    /// Whether the form counts for this account.
    pub fn allow(&self, form: Form, record: &Record) -> bool {
        self.0.iter().any(|grant| {
            grant.form == form
                && grant.to.as_ref().is_none_or(|to| to.iter().any(|grantee| grantee.includes(record)))
        })
    }

    /// Whether the form counts for any account.
    pub fn mention(&self, form: Form) -> bool {
        self.0.iter().any(|grant| grant.form == form)
    }

    /// Whether some certificate could be mapped by these grants, with these methods and this binding.
    /// `has_strong_names` says whether certificate policies make names strong.
    pub fn check(
        &self,
        methods: MappingFlags,
        binding: Binding,
        validation: Validation,
        has_strong_names: bool,
    ) -> Result<(), MapsNothing> {
        if self.0.is_empty() {
            return Err(MapsNothing::NoForm);
        }
        let is_verified = validation != Validation::Off;
        let sound = || self.0.iter().map(|grant| grant.form).filter(|form| is_verified || !form.is_strong());
        let is_looked_up =
            |form: &Form| form.method().is_some_and(|method: Method| methods.contains(method.flag()));
        let mut found = sound().filter(is_looked_up).peekable();
        if found.peek().is_none() {
            return Err(MapsNothing::NoLookUp);
        }
        // Forms that only propose an account need something strong with any binding.
        let is_enough_alone = |form: Form| binding != Binding::Full && !form.is_proposal();
        let is_bound = is_verified && (has_strong_names || sound().any(Form::is_strong));
        match is_bound || found.any(is_enough_alone) {
            true => Ok(()),
            false => Err(MapsNothing::NoStrongForm),
        }
    }
}

impl Grantee {
    fn includes(&self, record: &Record) -> bool {
        let account = &record.account;
        match self {
            Self::Suffix(suffix) => has_suffix(account, suffix),
            Self::Group(sid) => record.memberships.iter().any(|membership| membership.sid == *sid),
            Self::NamedGroup(name) => {
                let name = casefold(name);
                let mut names = record.memberships.iter().filter_map(|membership| membership.name.as_ref());
                names.any(|known| casefold(known) == name)
            }
            Self::Account(sid) => account.sid == *sid,
            Self::NamedAccount(name) => casefold(&account.name) == casefold(name),
        }
    }
}

impl fmt::Display for Grantee {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Suffix(suffix) => write!(f, "@{suffix}"),
            Self::Group(sid) => write!(f, "group:{sid}"),
            Self::NamedGroup(name) => write!(f, "group:{name}"),
            Self::Account(sid) => write!(f, "account:{sid}"),
            Self::NamedAccount(name) => write!(f, "account:{name}"),
        }
    }
}

/// Whether an account's user principal name ends in `@` and this suffix, or a computer's service is at a host
/// below it.
pub fn has_suffix(account: &Account, suffix: &str) -> bool {
    let suffix = casefold(suffix);
    let below = |name: &str, separator: char| {
        casefold(name).strip_suffix(&*suffix).is_some_and(|before| before.ends_with(separator))
    };
    account.user_principal_name.as_ref().is_some_and(|name| below(name, '@'))
        || account.kind == AccountKind::Computer
            && account.service_principal_names.iter().any(|name| below(name, '.'))
}

impl StrongName {
    /// Whether a certificate whose path is valid for these policies is strong by a name that was found by
    /// `form`, for this account.
    pub fn makes_strong(&self, form: Form, policies: &[Box<[u8]>], account: &Account) -> bool {
        let named = match &self.kind {
            StrongNameKind::IssuerSubject => form == Form::IssuerSubject,
            StrongNameKind::UpnSuffix(suffix) => {
                let upn = account.user_principal_name.as_deref().and_then(|name| name.rsplit_once('@'));
                form == Form::Upn && upn.is_some_and(|(_, domain)| casefold(domain) == casefold(suffix))
            }
        };
        named
            && !self.policies.is_empty()
            && self.policies.iter().all(|policy| policies.iter().any(|valid| **valid == **policy))
    }
}

/// The rules for one certificate: those of the policy and of all authorities on its path.
#[derive(Clone, Debug)]
pub struct Rules<'a> {
    /// Methods that may be used.
    pub methods: MappingFlags,
    /// The binding that is asked for.
    pub binding: Binding,
    /// By how many seconds a certificate may be older than its account.
    pub backdating_s: u64,
    /// Names that are strong by policy.
    pub strong_names: &'a [StrongName],
    /// The certificate policies for which the path is valid; see [`crate::trust::Path::policies`].
    pub policies: &'a [Box<[u8]>],
    grants: Vec<&'a Grants>,
    verified: bool,
    /// Whether the issuer's name says which issuer it is.
    issuer_is_named: bool,
}

impl Policy {
    /// Whether this policy makes sense.
    pub const fn check(&self) -> Result<(), Contradiction> {
        match (self.binding, self.validation) {
            (Binding::Full, Validation::Off) => Err(Contradiction::NothingCanMap),
            _ => Ok(()),
        }
    }

    /// The rules for a certificate whose verified path has these authorities, the issuing one first; `None`
    /// when chains are not verified. `shared_names` are the authorities whose name another one has, too, with
    /// another key.
    pub fn rules(&self, path: Option<&[KeyId]>, shared_names: &HashSet<KeyId>) -> Rules<'_> {
        let entries = || path.unwrap_or_default().iter().filter_map(|key| self.authorities.get(key));
        let mut grants: Vec<&Grants> = entries().filter_map(|entry| entry.grants.as_ref()).collect();
        let above = path.unwrap_or_default().iter().skip(1).filter_map(|key| self.authorities.get(key));
        if above.into_iter().any(|entry| entry.direct) {
            grants.push(&NOTHING);
        }
        if grants.is_empty() {
            grants.push(&self.grants);
        }
        Rules {
            methods: entries()
                .filter_map(|entry| entry.methods)
                .fold(self.methods, |methods, allowed| methods.and(allowed)),
            binding: entries().filter_map(|entry| entry.binding).fold(self.binding, Binding::max),
            backdating_s: entries().filter_map(|entry| entry.backdating_s).fold(self.backdating_s, u64::min),
            // The tuple is about who issued the certificate, not about who certified the issuer.
            strong_names: path
                .and_then(|path| self.authorities.get(path.first()?))
                .map_or(&[], |entry| entry.strong_names.as_slice()),
            policies: &[],
            grants,
            verified: path.is_some(),
            issuer_is_named: path
                .and_then(<[KeyId]>::first)
                .is_none_or(|issuer| self.is_named(issuer, shared_names)),
        }
    }

    /// Whether an authority's name says which authority it is: no other one has it, or the operator granted
    /// forms to this very key.
    pub fn is_named(&self, authority: &KeyId, shared_names: &HashSet<KeyId>) -> bool {
        !shared_names.contains(authority)
            || self.authorities.get(authority).is_some_and(|entry| entry.grants.is_some())
    }
}

impl Rules<'_> {
    /// Whether a form counts for this account. A strong one never does without a verified chain.
    pub fn allow(&self, form: Form, record: &Record) -> bool {
        self.is_sound(form) && self.grants.iter().all(|grants| grants.allow(form, record))
    }

    /// Whether a form counts for any account.
    pub fn mention(&self, form: Form) -> bool {
        self.is_sound(form) && self.grants.iter().all(|grants| grants.mention(form))
    }

    fn is_sound(&self, form: Form) -> bool {
        (self.verified || !form.is_strong()) && (self.issuer_is_named || !form.names_issuer())
    }

    /// Lets no form count that names the issuer.
    pub const fn withhold_issuer_names(&mut self) {
        self.issuer_is_named = false;
    }

    /// Whether the chain was verified.
    pub const fn is_verified(&self) -> bool {
        self.verified
    }

    /// Whether a certificate is too old for a weak mapping to an account that was made then. When the account
    /// was made is not known of some accounts; then it cannot be said that the certificate is younger.
    pub fn is_too_old(&self, not_before: FileTime, created: FileTime) -> bool {
        let allowed = created - Duration::from_secs(self.backdating_s);
        created == FileTime::UNSET || not_before < allowed
    }
}
