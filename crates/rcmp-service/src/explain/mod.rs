//! A decision as a tree that people and programs can read: what was in the certificate, what was tried, what was found, what
//! it was worth, and what would change the answer.
//!
//! It shows what accounts have stored, so it is for operators only.

mod nearest;
mod remedy;
mod trail;

pub use nearest::{NearMiss, Nearest};
pub use remedy::{Remedy, is_hidden, powershell_quoted, shell_path, shell_quoted};
pub use trail::trail;

use crate::certificate::{AlternativeName, Certificate, sids_of};
use crate::form::{Form, Method, Strength};
use crate::message::Request;
use crate::question::Answer;
use crate::reason::Reason;
use crate::service::Mapper;
use crate::trace::Step;
use crate::trust::{Path, Revocation, Which};
use account_store::{DistinguishedName, Matches, Query};
use dtyp::{DecodeError, DecodeErrorKind};
use serde::Serialize;
use sha1::{Digest, Sha1};

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
    pub weighed: Option<Weighed>,
    /// The domain that decides, when it is not this one.
    pub routed: Option<Routed>,
    /// The decision by its stable name.
    pub reason: &'static str,
    /// The decision in one sentence.
    pub text: &'static str,
    /// The number under which Windows logs the same.
    pub event_id: Option<u16>,
    /// What the client is told; nobody knows before another domain is asked.
    pub status: Option<Status>,
    /// The account, when it was mapped.
    pub account: Option<String>,
    /// Its SID.
    pub sid: Option<String>,
    /// How strong the mapping is, when it was mapped.
    pub strength: Option<&'static str>,
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
    pub by: &'static str,
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
    /// `verified`, `not_verified` (not asked for), or why it was not accepted.
    pub state: &'static str,
    /// The same in words.
    pub text: String,
    /// The authorities on the path, the issuing one first.
    pub authorities: Vec<AuthorityFacts>,
    /// What revocation lists and answers say, where they were asked.
    pub revocation: Option<String>,
}

/// One authority on a path.
#[derive(Clone, Debug, Serialize)]
pub struct AuthorityFacts {
    /// Its name.
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
    pub methods: Vec<&'static str>,
    /// The binding that it asks for.
    pub binding: &'static str,
    /// What is verified.
    pub validation: &'static str,
    /// The forms that count for somebody.
    pub forms: Vec<&'static str>,
}

/// One method.
#[derive(Clone, Debug, Serialize)]
pub struct MethodTried {
    /// Which.
    pub method: &'static str,
    /// `tried`, `not_asked_for`, `not_allowed`, `not_applicable` or `not_reached`.
    pub state: &'static str,
    /// Why it was not applicable.
    pub why: Option<&'static str>,
    /// The questions to the store.
    pub asked: Vec<Asked>,
}

/// One question to the store.
#[derive(Clone, Debug, Serialize)]
pub struct Asked {
    /// The form it was asked by.
    pub form: &'static str,
    /// Whether that form is strong.
    pub strong: bool,
    /// The attribute.
    pub attribute: &'static str,
    /// The value.
    pub value: String,
    /// `nobody`, `one`, `many`, `differs` (found, and not the same by the policy's comparison) or `error`.
    pub found: &'static str,
    /// Who.
    pub accounts: Vec<String>,
    /// Whether the certificate's authority may vouch by this form for whom was found.
    pub granted: bool,
}

/// What an account was weighed by.
#[derive(Clone, Debug, Serialize)]
pub struct Weighed {
    /// The account.
    pub account: String,
    /// Its SID.
    pub sid: String,
    /// When it was made.
    pub created: String,
    /// By which forms it was found.
    pub found_by: Vec<&'static str>,
    /// What binds the certificate to it: the form, and whether it counts.
    pub evidence: Vec<(&'static str, &'static str)>,
    /// `weak` or `strong`.
    pub strength: &'static str,
    /// The form that makes it strong.
    pub strong_by: Option<&'static str>,
    /// What was asked for.
    pub binding: &'static str,
}

/// An NTSTATUS.
#[derive(Clone, Debug, Serialize)]
pub struct Status {
    /// Its name.
    pub name: Option<&'static str>,
    /// Its value.
    pub value: String,
}

/// The attribute that a query looks into, and the value it looks for.
pub fn attribute(query: &Query) -> (&'static str, String) {
    match query {
        Query::UserPrincipalName(name) => ("userPrincipalName", name.clone()),
        Query::ServicePrincipalName(name) => ("servicePrincipalName", name.clone()),
        Query::AltSecurityIdentity(mapping) => ("altSecurityIdentities", mapping.clone()),
        Query::Name(name) => ("sAMAccountName", name.clone()),
        Query::Sid(sid) => ("objectSid", sid.to_string()),
        _ => ("another attribute", String::new()),
    }
}

impl Explanation {
    /// The tree of a decision that was traced. Nearest miss and remedies are added by [`Explanation::advise`].
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
                Some(Routed { domain: domain.clone(), peer: peer.clone(), by: by.name() })
            }
            _ => None,
        });
        Self {
            certificate: certificate.as_ref().map(CertificateFacts::new),
            chain: chain(mapper, steps),
            policy: PolicyFacts {
                revision: policy.revision,
                methods: methods.map(Method::name).collect(),
                binding: rules.binding.name(),
                validation: policy.validation.name(),
                forms: forms.map(Form::name).collect(),
            },
            methods: Method::ALL
                .into_iter()
                .map(|method| tried(method, steps, rules.methods.contains(method.flag())))
                .collect(),
            weighed: steps.iter().find_map(weighed),
            reason: if routed.is_some() { "routed" } else { answer.reason.name() },
            text: if routed.is_some() { "another domain decides" } else { answer.reason.text() },
            event_id: answer.reason.event_id(),
            status: routed
                .is_none()
                .then(|| Status { name: answer.status.name(), value: format!("0x{:08x}", answer.status.0) }),
            routed,
            account: mapped.map(|mapped| mapped.record.account.name.clone()),
            sid: mapped.map(|mapped| mapped.record.account.sid.to_string()),
            strength: mapped.map(|mapped| mapped.strength.name()),
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
    /// What came nearest, where somebody looked.
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
        let name = |name: DistinguishedName| name.to_string();
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
                match sids_of(&names) {
                    Ok(found) => sids.extend(found.iter().map(ToString::to_string)),
                    Err(error) => refused("SID in subjectAltName", error),
                }
                names
            }
            Err(error) => {
                refused("subjectAltName", error);
                Vec::new()
            }
        };
        for name in &names {
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
            thumbprint: dtyp::hex(&Sha1::digest(certificate.encoded)),
            not_before: certificate.not_before.to_string(),
            not_after: certificate.not_after.to_string(),
            names: names
                .into_iter()
                .filter_map(|name| match name {
                    AlternativeName::PrincipalName(name) => Some(("upn", name)),
                    AlternativeName::Dns(name) => Some(("dns", name)),
                    AlternativeName::Rfc822(name) => Some(("rfc822", name)),
                    AlternativeName::Uri(name) => Some(("uri", name)),
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
        state: "not_reached",
        text: "the chain was not looked at".to_owned(),
        authorities: Vec::new(),
        revocation: None,
    };
    for step in steps {
        match step {
            Step::ChainNotVerified => {
                chain.state = "not_verified";
                "the chain is not verified here (validation = \"off\"), so no strong form counts"
                    .clone_into(&mut chain.text);
            }
            Step::Chain { path: Err(refusal) } => {
                chain.state = refusal.error.name();
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
                chain.state = "verified";
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
    let state = if is_allowed { "not_reached" } else { "not_allowed" };
    let mut tried = MethodTried { method: method.name(), state, why: None, asked: Vec::new() };
    for step in steps {
        match step {
            Step::Skipped { method: of, asked } if *of == method => {
                tried.state = if *asked { "not_allowed" } else { "not_asked_for" };
            }
            Step::NotApplicable { method: of, why } if *of == method => {
                tried.state = "not_applicable";
                tried.why = Some(why.text());
            }
            Step::Asked { method: of, form, query, found, granted } if *of == method => {
                tried.state = "tried";
                let (attribute, value) = attribute(query);
                let (found, accounts) = match found {
                    None => ("error", vec![]),
                    Some(Matches::None) => ("nobody", vec![]),
                    Some(Matches::One(record)) => ("one", vec![record.account.name.clone()]),
                    Some(Matches::Many(names)) => ("many", names.clone()),
                };
                let (form, strong, granted) = (form.name(), form.is_strong(), *granted);
                tried.asked.push(Asked { form, strong, attribute, value, found, accounts, granted });
            }
            Step::Differs { method: of, .. } if *of == method => {
                if let Some(last) = tried.asked.last_mut() {
                    last.found = "differs";
                }
            }
            _ => {}
        }
    }
    tried
}

fn weighed(step: &Step) -> Option<Weighed> {
    let Step::Weighed { record, forms, evidence, strength, binding } = step else { return None };
    Some(Weighed {
        account: record.account.name.clone(),
        sid: record.account.sid.to_string(),
        created: record.account.created.to_string(),
        found_by: forms.iter().map(|form| form.name()).collect(),
        evidence: evidence.iter().map(|evidence| (evidence.form.name(), evidence.state.name())).collect(),
        strength: strength.name(),
        strong_by: match strength {
            Strength::Strong(form) => Some(form.name()),
            Strength::Weak => None,
        },
        binding: binding.name(),
    })
}
