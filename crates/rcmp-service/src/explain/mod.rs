//! A decision as a tree that people and programs can read: what was in the certificate, what was tried, what
//! was found, what it was worth, and what would change the answer.
//!
//! It shows what accounts have stored, so it is for operators only.

mod nearest;
mod remedy;
mod trail;

pub use nearest::{NearMiss, Nearest};
pub use remedy::{Remedy, powershell_quoted, shell_path, shell_quoted};
pub use trail::trail;

use crate::certificate::{AlternativeName, Certificate, sids_of};
use crate::domains::RoutedBy;
use crate::form::{Form, Method, Strength};
use crate::mapping::NotApplicable;
use crate::message::Request;
use crate::policy::{Binding, Validation};
use crate::question::Answer;
use crate::reason::Reason;
use crate::service::Mapper;
use crate::trace::{EvidenceState, Step};
use crate::trust::{ChainError, Path, Revocation, Which};
use account_store::{DistinguishedName, Matches, Query};
use dtyp::{DecodeError, DecodeErrorKind};
use serde::{Serialize, Serializer};

/// The whole decision about one certificate.
#[derive(Clone, Debug, Serialize)]
pub struct Explanation {
    /// What is in the certificate; `None` when it cannot be read.
    pub certificate: Option<CertificateFacts>,
    /// Whether and how the chain was verified.
    pub chain: Chain,
    /// The rules that were in force.
    pub policy: PolicyFacts,
    /// Every method, in its order.
    pub methods: Vec<MethodTried>,
    /// What the account that was found was weighed by.
    pub weighed: Option<BindingChecked>,
    /// The domain that decides, when it is not this one.
    pub routed: Option<Routed>,
    /// The decision.
    pub reason: Verdict,
    /// The decision in one sentence.
    pub text: &'static str,
    /// The number under which Windows logs the same.
    pub event_id: Option<u16>,
    /// The status for the client; not known before another domain is asked.
    pub status: Option<Status>,
    /// The account, when it was mapped.
    pub account: Option<String>,
    /// Its SID.
    pub sid: Option<String>,
    /// How strong the mapping is, when it was mapped.
    pub strength: Option<Strength>,
    /// The age of the oldest cached answer in seconds, if the store was unreachable and cached answers were used,
    /// also for "no such account".
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stale_s: Option<u64>,
    /// Of a privileged account that was mapped: the SID that the scope of a machine account has to name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub privileged_by: Option<String>,
    /// For a refusal: the stored value that came nearest.
    pub nearest: Option<NearMiss>,
    /// For a refusal: what would make it map.
    pub remedies: Vec<Remedy>,
}

/// Where a question goes that is not answered here.
#[derive(Clone, Debug, Serialize)]
pub struct Routed {
    /// NetBIOS name of the domain that decides.
    pub domain: String,
    /// NetBIOS name of the peer that is asked.
    pub peer: String,
    /// By what it was chosen.
    pub by: RoutedBy,
}

/// A decision, as far as it is made here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It was made here.
    Decided(Reason),
    /// Another domain makes it.
    Routed,
}

impl Verdict {
    /// A stable name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Decided(reason) => reason.name(),
            Self::Routed => "routed",
        }
    }

    /// The decision in one sentence.
    pub const fn text(self) -> &'static str {
        match self {
            Self::Decided(reason) => reason.text(),
            Self::Routed => "another domain decides",
        }
    }
}

/// What is in a certificate, as text.
#[derive(Clone, Debug, Serialize)]
pub struct CertificateFacts {
    /// The issuer, as altSecurityIdentities has it.
    pub issuer: String,
    /// The subject, likewise.
    pub subject: String,
    /// The serial number in hex, as certificates are printed.
    pub serial: String,
    /// SHA-1 of the certificate.
    pub thumbprint: String,
    /// Start of validity.
    pub not_before: String,
    /// End of validity.
    pub not_after: String,
    /// Names in the subjectAltName, each with its kind.
    pub names: Vec<(&'static str, String)>,
    /// The SIDs in it.
    pub sids: Vec<String>,
    /// What is in it and cannot be read.
    pub unreadable: Vec<&'static str>,
    /// What is in it and has more entries than are read, each with the limit.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub beyond_limit: Vec<String>,
    /// URIs of the subjectAltName that look as if they carried a SID, and are written otherwise.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub misspelled_sids: Vec<String>,
}

/// How the chain was verified.
#[derive(Clone, Debug, Serialize)]
pub struct Chain {
    /// Whether it was verified.
    pub state: ChainState,
    /// The same in words.
    pub text: String,
    /// The authorities on the path, the issuing one first.
    pub authorities: Vec<AuthorityFacts>,
    /// What CRLs and answers say, where they were asked.
    pub revocation: Option<String>,
}

/// Whether a chain was verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChainState {
    /// The decision was made before.
    NotReached,
    /// Chains are not verified.
    NotVerified,
    /// It was verified.
    Verified,
    /// It was rejected.
    Rejected(ChainError),
}

impl ChainState {
    /// A stable name; that of the error if the chain was rejected.
    pub const fn name(self) -> &'static str {
        match self {
            Self::NotReached => "not_reached",
            Self::NotVerified => "not_verified",
            Self::Verified => "verified",
            Self::Rejected(error) => error.name(),
        }
    }
}

/// One authority on a path.
#[derive(Clone, Debug, Serialize)]
pub struct AuthorityFacts {
    /// The subject of the CA's certificate, as text.
    pub subject: String,
    /// SHA-256 of its key.
    pub key: String,
    /// Whether it has rules of its own.
    pub has_rules: bool,
}

/// The rules that were in force for this certificate.
#[derive(Clone, Debug, Serialize)]
pub struct PolicyFacts {
    /// The policy's revision.
    pub revision: u64,
    /// The methods that it allows.
    pub methods: Vec<Method>,
    /// The binding that it asks for.
    pub binding: Binding,
    /// What is verified.
    pub validation: Validation,
    /// The forms that count for some account.
    pub forms: Vec<Form>,
}

/// One method.
#[derive(Clone, Debug, Serialize)]
pub struct MethodTried {
    /// The method.
    pub method: Method,
    /// What became of it.
    pub state: MethodState,
    /// The reason for which it was not applicable.
    pub why: Option<NotApplicable>,
    /// The questions to the store.
    pub asked: Vec<Asked>,
}

/// What became of a method.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum MethodState {
    /// The store was asked.
    Tried,
    /// The client did not ask for it.
    NotAskedFor,
    /// The policy does not allow it.
    NotAllowed,
    /// The certificate has nothing for it.
    NotApplicable,
    /// The decision was made before.
    NotReached,
}

/// One question to the store.
#[derive(Clone, Debug, Serialize)]
pub struct Asked {
    /// The form it was asked by.
    pub form: Form,
    /// Whether that form is strong.
    pub strong: bool,
    /// The attribute.
    pub attribute: &'static str,
    /// The value.
    pub value: String,
    /// What was found.
    pub found: Found,
    /// The names of the accounts that were found.
    pub accounts: Vec<String>,
    /// Whether the certificate's CA may vouch by this form for the accounts that were found.
    pub granted: bool,
    /// Why the store could not answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The names of the stores that were asked, if there are several.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub stores: Vec<String>,
    /// What a store says that is only compared.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compared: Option<String>,
}

/// What a question to the store found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Found {
    /// No account.
    None,
    /// One account.
    One,
    /// More than one account.
    Many,
    /// An account whose value is not the same by the policy's comparison.
    Differs,
    /// The store could not answer.
    Error,
}

/// What an account was weighed by.
#[derive(Clone, Debug, Serialize)]
pub struct BindingChecked {
    /// The account.
    pub account: String,
    /// Its SID.
    pub sid: String,
    /// When it was made.
    pub created: String,
    /// By which forms it was found.
    pub found_by: Vec<Form>,
    /// What binds the certificate to it: the form, and whether it counts.
    pub evidence: Vec<(Form, EvidenceState)>,
    /// How strong that is.
    pub strength: Strength,
    /// The form that makes it strong.
    pub strong_by: Option<Form>,
    /// What was asked for.
    pub binding: Binding,
}

/// An NTSTATUS.
#[derive(Clone, Debug, Serialize)]
pub struct Status {
    /// The name of the constant, such as `STATUS_LOGON_FAILURE`, if it is known.
    pub name: Option<&'static str>,
    /// The number in hexadecimal, such as `0xc000006d`.
    pub value: String,
}

/// Serializes values by their stable names.
macro_rules! serialize_by {
    ($($type:ty: $name:ident),* $(,)?) => {$(
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.$name())
            }
        }
    )*};
}

serialize_by! {
    Verdict: name,
    ChainState: name,
    Method: name,
    Form: name,
    Strength: name,
    Binding: name,
    Validation: name,
    EvidenceState: name,
    RoutedBy: name,
    NotApplicable: text,
}

/// The attribute that a query looks into, and the value it looks for.
pub fn attribute(query: &Query) -> (&'static str, String) {
    match query {
        Query::UserPrincipalName(name) => ("userPrincipalName", name.clone()),
        Query::ServicePrincipalName(name) => ("servicePrincipalName", name.clone()),
        Query::AltSecurityIdentity(mapping) => ("altSecurityIdentities", mapping.clone()),
        Query::Name(name) => ("sAMAccountName", name.clone()),
        Query::Mail(mail) => ("mail", mail.clone()),
        Query::Sid(sid) => ("objectSid", sid.to_string()),
        _ => ("another attribute", String::new()),
    }
}

impl Explanation {
    /// The tree of a decision that was traced. Nearest miss and remedies are added by
    /// [`Explanation::advise`].
    pub fn new(mapper: &Mapper, request: &[u8], steps: &[Step], answer: &Answer) -> Self {
        let request = Request::decode(request).ok();
        let certificate = request.as_ref().and_then(|request| Certificate::parse(request.certificate).ok());
        let path = steps.iter().find_map(|step| match step {
            Step::Chain { path: Ok(path) } => Some(path.authorities.as_slice()),
            _ => None,
        });
        let policy = mapper.policy();
        let rules = mapper.rules(path);
        let forms = Form::ALL.into_iter().filter(|form| rules.mention(*form));
        let methods = Method::ALL.into_iter().filter(|method| rules.methods.contains(method.flag()));
        let mapped = answer.mapped.as_ref();
        let routed = steps.iter().find_map(|step| match step {
            Step::Routed { domain, peer, by } => {
                Some(Routed { domain: domain.clone(), peer: peer.clone(), by: *by })
            }
            _ => None,
        });
        let reason = if routed.is_some() { Verdict::Routed } else { Verdict::Decided(answer.reason) };
        Self {
            certificate: certificate.as_ref().map(CertificateFacts::new),
            chain: chain(mapper, steps),
            policy: PolicyFacts {
                revision: policy.revision,
                methods: methods.collect(),
                binding: rules.binding,
                validation: policy.validation,
                forms: forms.collect(),
            },
            methods: Method::ALL
                .into_iter()
                .map(|method| tried(method, steps, rules.methods.contains(method.flag())))
                .collect(),
            weighed: steps.iter().find_map(weighed),
            reason,
            text: reason.text(),
            event_id: answer.reason.event_id(),
            status: routed
                .is_none()
                .then(|| Status { name: answer.status.name(), value: format!("0x{:08x}", answer.status.0) }),
            routed,
            account: mapped.map(|mapped| mapped.record.account.name.clone()),
            sid: mapped.map(|mapped| mapped.record.account.sid.to_string()),
            strength: mapped.map(|mapped| mapped.strength),
            stale_s: crate::trace::stale_s(steps),
            privileged_by: mapped
                .and_then(|mapped| crate::scope::privileged_by(&mapped.record))
                .map(|sid| sid.to_string()),
            nearest: None,
            remedies: Vec::new(),
        }
    }

    /// Adds what came nearest, and what would make the certificate map.
    pub fn advise(&mut self, advice: &Advice<'_>) {
        self.nearest = advice.nearest.clone();
        self.remedies = remedy::remedies(self, advice);
    }
}

/// What advice is made from.
#[derive(Debug)]
pub struct Advice<'a> {
    /// The certificate.
    pub certificate: &'a [u8],
    /// The decision.
    pub reason: Reason,
    /// The mapper that made it.
    pub mapper: &'a Mapper,
    /// The steps to it.
    pub steps: &'a [Step],
    /// What came nearest, if the accounts were looked through.
    pub nearest: Option<NearMiss>,
    /// The configuration file, as it is to stand in commands.
    pub config: &'a str,
}

impl CertificateFacts {
    /// Reads what can be read.
    pub fn new(certificate: &Certificate<'_>) -> Self {
        let (mut unreadable, mut beyond_limit) = (Vec::new(), Vec::new());
        let mut refused = |what: &'static str, error: DecodeError| match error.kind {
            DecodeErrorKind::TooMany(max) => {
                beyond_limit.push(format!("{what} has more than {max} entries, so none of them is used"));
            }
            _ => unreadable.push(what),
        };
        let name = |name: &DistinguishedName| name.to_string();
        let issuer = certificate.issuer_name().map(name).unwrap_or_else(|error| {
            refused("issuer", error);
            String::new()
        });
        let subject = certificate.subject_name().map(name).unwrap_or_else(|error| {
            refused("subject", error);
            String::new()
        });
        let mut sids = Vec::new();
        match certificate.sid() {
            Ok(sid) => sids.extend(sid.map(|sid| sid.to_string())),
            Err(error) => refused("SID extension", error),
        }
        if let Err(error) = certificate.subject_key_identifier() {
            refused("subjectKeyIdentifier", error);
        }
        let names = match certificate.alternative_names() {
            Ok(names) => {
                match sids_of(names) {
                    Ok(found) => sids.extend(found.iter().map(ToString::to_string)),
                    Err(error) => refused("SID in subjectAltName", error),
                }
                names
            }
            Err(error) => {
                refused("subjectAltName", error);
                &[]
            }
        };
        for name in names {
            if let AlternativeName::Unreadable(kind) = name
                && !unreadable.contains(&kind.in_subject_alt_name())
            {
                unreadable.push(kind.in_subject_alt_name());
            }
        }
        Self {
            issuer,
            subject,
            serial: dtyp::hex(certificate.serial),
            thumbprint: dtyp::hex(certificate.sha1()),
            not_before: certificate.not_before.to_string(),
            not_after: certificate.not_after.to_string(),
            names: names
                .iter()
                .filter_map(|name| match name {
                    AlternativeName::PrincipalName(name) => Some(("upn", name.clone())),
                    AlternativeName::Dns(name) => Some(("dns", name.clone())),
                    AlternativeName::Rfc822(name) => Some(("rfc822", name.clone())),
                    AlternativeName::Uri(name) => Some(("uri", name.clone())),
                    AlternativeName::Unreadable(_) => None,
                })
                .collect(),
            sids,
            unreadable,
            beyond_limit,
            misspelled_sids: certificate.misspelled_sid_uris(),
        }
    }
}

fn chain(mapper: &Mapper, steps: &[Step]) -> Chain {
    let mut chain = Chain {
        state: ChainState::NotReached,
        text: "the chain was not looked at".to_owned(),
        authorities: Vec::new(),
        revocation: None,
    };
    for step in steps {
        match step {
            Step::ChainNotVerified => {
                chain.state = ChainState::NotVerified;
                "the chain is not verified here (validation = \"off\"), so no strong form counts"
                    .clone_into(&mut chain.text);
            }
            Step::Chain { path: Err(refusal) } => {
                chain.state = ChainState::Rejected(refusal.error);
                let subject = match refusal.which {
                    Which::Leaf => None,
                    Which::Authority(key) => mapper
                        .trust()
                        .and_then(|trust| trust.authorities().find(|known| known.key == key))
                        .map(|known| known.subject.clone()),
                };
                chain.text = refusal.text(subject.as_deref());
            }
            Step::Chain { path: Ok(path) } => {
                chain.state = ChainState::Verified;
                "the chain leads to a configured anchor".clone_into(&mut chain.text);
                chain.authorities =
                    (0..path.authorities.len()).map(|at| authority(mapper, path, at)).collect();
            }
            Step::Revocation { status, detail } => {
                chain.revocation = Some(revocation(status, detail.as_deref()));
            }
            _ => {}
        }
    }
    chain
}

fn revocation(status: &Revocation, detail: Option<&str>) -> String {
    match status {
        Revocation::Good => "nothing on the path is revoked".to_owned(),
        Revocation::Revoked { which, since, reason } => {
            format!("{which} is revoked since {since} ({})", reason.name())
        }
        Revocation::Unknown { which, why } => {
            let detail = detail.map(|detail| format!(": {detail}")).unwrap_or_default();
            format!("{which}: {}{detail}", why.text())
        }
    }
}

fn authority(mapper: &Mapper, path: &Path, at: usize) -> AuthorityFacts {
    let known = mapper.trust().and_then(|trust| trust.path_authority(path, at));
    let key = &path.authorities[at];
    AuthorityFacts {
        subject: known.map(|known| known.subject.clone()).unwrap_or_default(),
        key: key.to_string(),
        has_rules: mapper.policy().authorities.contains_key(key),
    }
}

fn tried(method: Method, steps: &[Step], is_allowed: bool) -> MethodTried {
    // The service looks no further than the method that finds an account.
    let state = if is_allowed { MethodState::NotReached } else { MethodState::NotAllowed };
    let mut tried = MethodTried { method, state, why: None, asked: Vec::new() };
    for step in steps {
        match step {
            Step::Skipped { method: of, asked } if *of == method => {
                tried.state = if *asked { MethodState::NotAllowed } else { MethodState::NotAskedFor };
            }
            Step::NotApplicable { method: of, why } if *of == method => {
                tried.state = MethodState::NotApplicable;
                tried.why = Some(*why);
            }
            Step::Asked { method: of, form, query, found, error, granted, .. } if *of == method => {
                tried.state = MethodState::Tried;
                let (attribute, value) = attribute(query);
                let (found, accounts) = match found {
                    None => (Found::Error, vec![]),
                    Some(Matches::None) => (Found::None, vec![]),
                    Some(Matches::One(record)) => (Found::One, vec![record.account.name.clone()]),
                    Some(Matches::Many(names)) => (Found::Many, names.clone()),
                };
                let (form, strong, granted) = (*form, form.is_strong(), *granted);
                let (stores, compared) = (Vec::new(), None);
                tried.asked.push(Asked {
                    form,
                    strong,
                    attribute,
                    value,
                    found,
                    accounts,
                    granted,
                    error: error.clone(),
                    stores,
                    compared,
                });
            }
            Step::Differs { method: of, .. } if *of == method => {
                if let Some(last) = tried.asked.last_mut() {
                    last.found = Found::Differs;
                }
            }
            _ => {}
        }
    }
    tried
}

fn weighed(step: &Step) -> Option<BindingChecked> {
    let Step::BindingChecked { record, forms, evidence, strength, binding } = step else { return None };
    Some(BindingChecked {
        account: record.account.name.clone(),
        sid: record.account.sid.to_string(),
        created: record.account.created.to_string(),
        found_by: forms.clone(),
        evidence: evidence.iter().map(|evidence| (evidence.form, evidence.state)).collect(),
        strength: *strength,
        strong_by: match strength {
            Strength::Strong(form) => Some(*form),
            Strength::Weak => None,
        },
        binding: *binding,
    })
}
