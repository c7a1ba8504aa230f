//! `[mapping]`: which account a certificate belongs to, and what each CA is trusted for.

use super::Checker;
use super::mapping_keys::{AuthoritySection, GrantSection, GrantTo, Section, StrongNameSection};
use super::trust::{Ocsp, TrustFiles};
use account_store::fold::Comparison;
use dtyp::Sid;
use rcmp_service::certificate::object_identifier;
use rcmp_service::message::MappingFlags;
use rcmp_service::policy::{
    AuthorityPolicy, Grant, Grantee, Grants, Sha1PublicKeyInput, StrongName, StrongNameKind,
};
use rcmp_service::trust::PolicyInputs;
use rcmp_service::{Binding, Form, MapsNothing, PolicyDraft, Validation, has_method};
use std::ops::Range;
use std::path::PathBuf;
use toml::Spanned;

/// How certificates are mapped, as far as the file says it: the certificates and lists it names are read by
/// [`crate::trust`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// The policy, without the rules of single CAs.
    pub policy: PolicyDraft,
    /// What chains are validated by.
    pub trust: TrustFiles,
    /// `[[mapping.authority]]`.
    pub authorities: Vec<AuthorityEntry>,
    /// `[mapping.shadow]`: a second policy that is evaluated for comparison and never applied.
    pub shadow: Option<Box<Mapping>>,
}

/// `[[mapping.authority]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthorityEntry {
    /// Its certificate, for its key.
    pub certificate: PathBuf,
    /// Methods, binding and grants of this CA, which restrict or replace those of `[mapping]`.
    pub policy: AuthorityPolicy,
    /// Certificate policies that are required of paths through it, in addition to those of `[mapping]`.
    pub path_policies: PolicyInputs,
    /// The OCSP responder for the certificates it issued.
    pub ocsp: Option<Ocsp>,
}

impl Mapping {
    /// Whether some certificate can be mapped: by the general rules, or by those of one CA.
    fn check(&self) -> Result<(), MapsNothing> {
        let granting = self.authorities.iter().filter(|entry| entry.policy.grants.is_some());
        let general = self.check_grants(&self.policy.grants, &AuthorityPolicy::default());
        granting.fold(general, |checked, entry| match (checked, self.check_entry(entry)) {
            (Ok(()), _) | (_, Ok(())) => Ok(()),
            (Err(one), Err(other)) => Err(one.max(other)),
        })
    }

    /// Whether some certificate below a CA can be mapped. If its entry has no grant, the grants of other CAs
    /// on the path may apply, or the general one.
    fn check_entry(&self, entry: &AuthorityEntry) -> Result<(), MapsNothing> {
        if let Some(own) = &entry.policy.grants {
            return self.check_grants(own, &entry.policy);
        }
        let others = self.authorities.iter().filter_map(|other| other.policy.grants.as_ref());
        let general = self.check_grants(&self.policy.grants, &entry.policy);
        others.fold(general, |checked, grants| checked.or_else(|_| self.check_grants(grants, &entry.policy)))
    }

    fn check_grants(&self, grants: &Grants, entry: &AuthorityPolicy) -> Result<(), MapsNothing> {
        let policy = &self.policy;
        let methods = entry.methods.map_or(policy.methods, |methods| methods.and(policy.methods));
        let binding = entry.binding.map_or(policy.binding, |binding| binding.max(policy.binding));
        let has_strong_names = self.authorities.iter().any(|entry| !entry.policy.strong_names.is_empty());
        grants.check(methods, binding, policy.validation, has_strong_names)
    }

    /// Entries of CAs below which no certificate can be mapped although their grant is not empty. An operator
    /// may or may not intend that.
    pub fn useless_entries(&self) -> impl Iterator<Item = &AuthorityEntry> {
        let is_meant = |entry: &&AuthorityEntry| self.check_entry(entry) == Err(MapsNothing::NoForm);
        self.authorities
            .iter()
            .filter(|entry| self.check_entry(entry).is_err())
            .filter(move |it| !is_meant(it))
    }

    /// Whether an account can be found by its issuer alone, as those of `kind = "profile"` are.
    pub(super) fn looks_up_issuers(&self) -> bool {
        let of_entries = self.authorities.iter().filter_map(|entry| entry.policy.grants.as_ref());
        let mut grants = std::iter::once(&self.policy.grants).chain(of_entries);
        self.policy.methods.contains(MappingFlags::ISSUER)
            && grants.any(|grants| grants.mention(Form::Issuer))
    }
}

/// The forms that each method looks up by.
const LOOK_UPS: &str = "\"upn\" looks up by \"upn\" and \"dns\", \"issuer\" by \"issuer\", \"subject\" by all other forms except \"sid\", which finds no \
                        account and binds one that was found";

pub(super) const BINDINGS: [(&str, Binding); 3] = [
    (Binding::Off.name(), Binding::Off),
    (Binding::Compat.name(), Binding::Compat),
    (Binding::Full.name(), Binding::Full),
];
pub(super) const VALIDATIONS: [(&str, Validation); 3] = [
    (Validation::Off.name(), Validation::Off),
    (Validation::Chain.name(), Validation::Chain),
    (Validation::ChainAndRevocation.name(), Validation::ChainAndRevocation),
];
pub(super) const COMPARISONS: [(&str, Comparison); 3] =
    [("windows", Comparison::Windows), ("casefold", Comparison::Casefold), ("exact", Comparison::Exact)];
pub(super) const SHA1_PUKEY: [(&str, Sha1PublicKeyInput); 2] =
    [("thumbprint", Sha1PublicKeyInput::Thumbprint), ("public-key", Sha1PublicKeyInput::PublicKey)];
pub(super) const METHODS: [(&str, MappingFlags); 4] = [
    ("upn", MappingFlags::UPN),
    ("subject", MappingFlags::SUBJECT),
    ("issuer", MappingFlags::ISSUER),
    ("issuer-chain", MappingFlags::ISSUER.with(MappingFlags::ISSUER_CHAIN)),
];

impl Checker<'_> {
    pub(super) fn mapping(&mut self, section: Spanned<Section>) -> Mapping {
        let span = section.span();
        let mut section = section.into_inner();
        let shadow = section.shadow.take().map(|shadow| {
            let span = shadow.span();
            let shadow = shadow.into_inner();
            if let Some(deeper) = &shadow.shadow {
                self.problem(deeper.span(), "[mapping.shadow] cannot have a shadow", "remove it");
            }
            Box::new(self.mapping_section(span, Section { shadow: None, ..*shadow }.over(&section)))
        });
        Mapping { shadow, ..self.mapping_section(span, section) }
    }

    fn mapping_section(&mut self, span: Range<usize>, section: Section) -> Mapping {
        let binding = self.one_of(section.binding.as_ref(), &BINDINGS, "binding").unwrap_or(Binding::Full);
        let validation = self.one_of(section.validation.as_ref(), &VALIDATIONS, "validation");
        let validation = validation.unwrap_or(Validation::Chain);
        let at = |given: &Option<Spanned<String>>| given.as_ref().map_or(span.clone(), Spanned::span);
        if (binding, validation) == (Binding::Full, Validation::Off) {
            self.problem(
                at(&section.validation),
                "no certificate would be mapped: a strong form counts only for a chain that was validated here",
                "use validation = \"chain\", or binding = \"compat\" if names alone are enough",
            );
        }
        let standard = PolicyDraft::default();
        let grants = section.grant.as_ref().map(|grants| self.grants(grants));
        let comparison = self.one_of(section.comparison.as_ref(), &COMPARISONS, "comparison");
        // Names are indexed without regard to case; a wider comparison cannot be looked up.
        let names = self.one_of(section.name_comparison.as_ref(), &COMPARISONS[1..], "comparison of names");
        let sha1 = self.one_of(section.sha1_pukey.as_ref(), &SHA1_PUKEY, "sha1_pukey");
        let policy = PolicyDraft {
            methods: section.methods.as_ref().map_or(standard.methods, |names| self.some_methods(names)),
            binding,
            backdating_s: section.backdating_s.unwrap_or(standard.backdating_s),
            validation,
            grants: grants.unwrap_or_else(|| Grants::standard(validation)),
            comparison: comparison.unwrap_or(Comparison::Windows),
            name_comparison: names.unwrap_or(Comparison::Casefold),
            sha1_public_key: sha1.unwrap_or(Sha1PublicKeyInput::Thumbprint),
            tell_restrictions: section.tell_restrictions.unwrap_or(false),
            identity_sid: self.identity_sid(&section.identity_sid),
        };
        let trust = self.trust(&span, &section, validation);
        let sections = section.authority.iter().flatten();
        let authorities: Vec<_> =
            sections.map(|authority| self.authority_of(authority, &policy, &trust)).collect();
        if validation == Validation::Off && !authorities.is_empty() {
            self.problem(
                at(&section.validation),
                "[[mapping.authority]] has rules for CAs, but without validation the CA of a certificate is not known",
                "use validation = \"chain\", or remove the rules",
            );
        }
        let mapping = Mapping { policy, trust, authorities, shadow: None };
        self.maps_something(&mapping, &span, &section);
        if validation == Validation::ChainAndRevocation
            && mapping.trust.crls.is_empty()
            && mapping.authorities.iter().all(|authority| authority.ocsp.is_none())
        {
            self.problem(
                at(&section.validation),
                "there is no source of revocation",
                "name CRLs: crls = [\"certs/ca.crl\"], or an OCSP responder in [[mapping.authority]]",
            );
        }
        mapping
    }

    /// An entry of `[[mapping.authority]]`, with what it must have in common with `[mapping]`.
    fn authority_of(
        &mut self,
        section: &AuthoritySection,
        policy: &PolicyDraft,
        trust: &TrustFiles,
    ) -> AuthorityEntry {
        if let Some(url) = section.ocsp.as_ref().filter(|_| policy.validation == Validation::Chain) {
            self.problem(
                url.span(),
                "OCSP responders are not asked with this validation",
                "use validation = \"chain+crl\", or remove it",
            );
        }
        let checked = self.authority(section);
        let (general, own) = (&trust.policies.initial, &checked.path_policies.initial);
        if let Some(policies) = &section.policies
            && !general.is_empty()
            && !own.is_empty()
            && !own.iter().any(|policy| general.contains(policy))
        {
            self.problem(
                policies.span(),
                "none of these is among mapping.policies, so no certificate would be accepted",
                "name one that is there, or remove mapping.policies and name the policies of each anchor in its entry",
            );
        }
        let first = section.methods.as_ref().and_then(|methods| methods.get_ref().first());
        if let (Some(methods), Some(first)) = (checked.policy.methods, first)
            && methods.and(policy.methods).0 == 0
        {
            self.problem(
                first.span(),
                "mapping.methods allows none of these, so no certificate below this CA is mapped",
                "allow one of them there as well",
            );
        }
        checked
    }

    /// Refuses a policy by which no certificate can be mapped.
    fn maps_something(&mut self, mapping: &Mapping, span: &Range<usize>, section: &Section) {
        match mapping.check() {
            // These were reported before.
            _ if (mapping.policy.binding, mapping.policy.validation) == (Binding::Full, Validation::Off) => {}
            _ if !has_method(mapping.policy.methods) => {}
            Ok(()) => {}
            Err(MapsNothing::NoForm) => {
                let help = "name the forms to accept: grant = [\"sid\", \"upn\"], or remove grant";
                self.problem(span.clone(), "no form is granted, so no certificate is mapped", help);
            }
            Err(MapsNothing::NoLookUp) => self.problem(
                section.methods.as_ref().map_or(span.clone(), Spanned::span),
                "no method looks accounts up by a form that is granted, so no certificate is mapped",
                LOOK_UPS,
            ),
            Err(MapsNothing::NoStrongForm) => self.problem(
                section.binding.as_ref().map_or(span.clone(), Spanned::span),
                "no strong form is granted, so no certificate is mapped",
                "grant a strong form, such as \"sid\" or \"issuer-serial\", or use another binding",
            ),
        }
    }

    /// The flags of at least one method.
    fn some_methods(&mut self, names: &Spanned<Vec<Spanned<String>>>) -> MappingFlags {
        if names.get_ref().is_empty() {
            let help = "name \"upn\", \"subject\", \"issuer\" or \"issuer-chain\", or remove methods";
            self.problem(names.span(), "methods is an empty list, so no certificate is mapped", help);
        }
        self.methods(names.get_ref())
    }

    /// The flags that names of methods stand for.
    pub(super) fn methods(&mut self, names: &[Spanned<String>]) -> MappingFlags {
        let mut methods = MappingFlags(0);
        for name in names {
            methods = methods.with(self.one_of(Some(name), &METHODS, "mapping method").unwrap_or_default());
        }
        methods
    }

    fn identity_sid(&mut self, sid: &Option<Spanned<String>>) -> Option<Sid> {
        let Some(sid) = sid else { return Some(Sid::SERVICE_ASSERTED_IDENTITY) };
        match (sid.get_ref().as_str(), sid.get_ref().parse()) {
            ("none", _) => None,
            (_, Ok(sid)) => Some(sid),
            (_, Err(_)) => {
                self.problem(
                    sid.span(),
                    "this is not a SID",
                    "use \"S-1-18-2\" (the default), \"S-1-18-1\" or \"none\"",
                );
                None
            }
        }
    }

    fn grants(&mut self, grants: &[Spanned<GrantSection>]) -> Grants {
        let mut checked = Vec::new();
        for grant in grants {
            let (form, to) = match grant.get_ref() {
                GrantSection::Form(form) => (form, None),
                GrantSection::To(GrantTo { form, to }) => (form, Some(to)),
            };
            let Some(form) = Form::from_name(form) else {
                let names = Form::ALL.map(|form| format!("\"{form}\""));
                self.problem(grant.span(), "unknown form", format!("use {}", names.join(", ")));
                continue;
            };
            if to.is_some_and(|to| to.is_empty()) {
                self.problem(
                    grant.span(),
                    "for is an empty list, so this form is granted to no account",
                    "name accounts or groups, or remove the form",
                );
            }
            let to = to.map(|to| to.iter().filter_map(|text| self.grantee(text, grant.span())).collect());
            checked.push(Grant { form, to });
        }
        Grants::new(checked)
    }

    fn grantee(&mut self, text: &str, span: Range<usize>) -> Option<Grantee> {
        let (kind, rest) = match text.strip_prefix('@') {
            Some(suffix) => ("@", suffix),
            None => text.split_once(':').unwrap_or(("", text)),
        };
        let sid = rest.parse::<Sid>().ok();
        match (kind, sid) {
            (_, _) if rest.is_empty() => {}
            ("@", _) if !is_suffix(rest) => {
                self.problem(
                    span,
                    format!("{text:?} is not the end of a user principal name or a host"),
                    "write the suffix as accounts have it, without wildcards and without a dot at an end: \"@contoso.example\"",
                );
                return None;
            }
            ("@", _) => return Some(Grantee::Suffix(rest.to_owned())),
            ("group" | "account", Some(sid))
                if self.domain_sid.is_some_and(|domain| sid.rid_in(&domain).is_none()) =>
            {
                let what = format!("{sid} is not of this domain, so no account has this grant");
                self.problem(span, what, "write the SID of an account or a group in [store]");
                return None;
            }
            ("group", Some(sid)) => return Some(Grantee::Group(sid)),
            ("group", None) => return Some(Grantee::NamedGroup(rest.to_owned())),
            ("account", Some(sid)) => return Some(Grantee::Account(sid)),
            ("account", None) => return Some(Grantee::NamedAccount(rest.to_owned())),
            _ => {}
        }
        self.problem(
            span,
            format!("{text:?} names no account, group or suffix"),
            "use \"@contoso.example\" (user principal names that end so), \"group:NAME\", \"group:SID\", \"account:NAME\" or \
             \"account:SID\"",
        );
        None
    }

    fn authority(&mut self, section: &AuthoritySection) -> AuthorityEntry {
        let strong_names = section.strong_names.iter().filter_map(|name| self.strong_name(name)).collect();
        AuthorityEntry {
            certificate: self.path(&section.certificate),
            policy: AuthorityPolicy {
                methods: section.methods.as_ref().map(|names| self.some_methods(names)),
                binding: self.one_of(section.binding.as_ref(), &BINDINGS, "binding"),
                backdating_s: section.backdating_s,
                grants: section.grant.as_ref().map(|grants| self.grants(grants)),
                direct: section.direct,
                strong_names,
            },
            path_policies: self.policy_inputs(
                &section.policies,
                section.require_explicit_policy,
                section.inhibit_policy_mapping,
                section.inhibit_any_policy,
            ),
            ocsp: self.ocsp(section),
        }
    }

    fn strong_name(&mut self, section: &StrongNameSection) -> Option<StrongName> {
        let mut policies = Vec::new();
        if section.policies.get_ref().is_empty() {
            self.problem(
                section.policies.span(),
                "no policy is named",
                "name the object identifiers that a certificate must have for its name to be strong",
            );
        }
        for policy in section.policies.get_ref() {
            match object_identifier(policy.get_ref()) {
                Some(oid) => policies.push(oid),
                None => self.problem(
                    policy.span(),
                    "this is not an object identifier",
                    "write it in dotted decimal: \"1.3.6.1.4.1.311.21.8.1\"",
                ),
            }
        }
        let kind = match section.names.get_ref().as_str() {
            "issuer-subject" => StrongNameKind::IssuerSubject,
            text => match text.strip_prefix('@') {
                Some(suffix) if is_suffix(suffix) => StrongNameKind::UpnSuffix(suffix.to_owned()),
                _ => {
                    self.problem(
                        section.names.span(),
                        "this is not a kind of name",
                        "use \"issuer-subject\", or \"@contoso.example\" for user principal names that end so",
                    );
                    return None;
                }
            },
        };
        Some(StrongName { policies, kind })
    }
}

/// Whether a user principal name or a host name can end in this: no wildcard, no white space, one part behind
/// the `@`.
fn is_suffix(text: &str) -> bool {
    !text.contains(|character: char| "*@/\\,;:\"<>|".contains(character) || character.is_whitespace())
        && text.split('.').all(|label| !label.is_empty())
}
