//! `[mapping]`: who a certificate is, and whom that is believed of.

use super::Checker;
use account_store::fold::Comparison;
use dtyp::Sid;
use rcmp_service::certificate::object_identifier;
use rcmp_service::message::MappingFlags;
use rcmp_service::policy::{
    AuthorityPolicy, Grant, Grants, Sha1PublicKeyInput, StrongName, StrongNameKind, Whom,
};
use rcmp_service::trust::ocsp::NONCE_LEN_MAX;
use rcmp_service::trust::{CertIdHash, OcspAsking, PolicyInputs};
use rcmp_service::{Binding, Form, MapsNothing, PolicyDraft, Validation, has_method};
use serde::Deserialize;
use std::ops::Range;
use std::path::PathBuf;
use std::time::Duration;
use toml::Spanned;

/// How certificates are mapped, as far as the file says it: the certificates and lists it names are read by
/// [`crate::trust`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// The policy, without the rules of single authorities.
    pub policy: PolicyDraft,
    /// What chains are verified by.
    pub trust: TrustFiles,
    /// `[[mapping.authority]]`.
    pub authorities: Vec<AuthorityEntry>,
    /// `[mapping.shadow]`: what is evaluated beside it, and never acted on.
    pub shadow: Option<Box<Mapping>>,
}

/// The files that chains are verified by.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrustFiles {
    /// Certificates of authorities that are believed.
    pub anchors: Vec<PathBuf>,
    /// Certificates of authorities below them.
    pub intermediates: Vec<PathBuf>,
    /// Contents octets of the object identifiers of key purposes, any of which is enough.
    pub extended_key_usages: Vec<Vec<u8>>,
    /// Whether a certificate must have one of them, instead of none at all.
    pub require_extended_key_usage: bool,
    /// Whether no list makes a certificate good until each configured list was had once.
    pub require_all_crls: bool,
    /// What is asked of certificate policies.
    pub policies: PolicyInputs,
    /// Fewest bits of a client's RSA key.
    pub client_rsa_bits: Option<usize>,
    /// Certificate revocation lists.
    pub crls: Vec<CrlSource>,
    /// How often they are looked at again.
    pub crl_refresh: Duration,
}

/// Where a certificate revocation list is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum CrlSource {
    /// A file, DER or PEM.
    File(PathBuf),
    /// `http://`, from a host that the operator named.
    Url(String),
}

/// `[[mapping.authority]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthorityEntry {
    /// Its certificate, for its key.
    pub certificate: PathBuf,
    /// Its rules.
    pub policy: AuthorityPolicy,
    /// What is asked of certificate policies of paths through it, beside what `[mapping]` asks.
    pub path_policies: PolicyInputs,
    /// Who tells the state of the certificates it issued.
    pub ocsp: Option<Ocsp>,
}

/// An OCSP responder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ocsp {
    /// `http://HOST[:PORT]/PATH`.
    pub url: String,
    /// The certificate that signs its answers, if it is neither the authority's nor issued by it.
    pub signer: Option<PathBuf>,
    /// How it is asked.
    pub asking: OcspAsking,
}

#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Section {
    methods: Option<Spanned<Vec<Spanned<String>>>>,
    binding: Option<Spanned<String>>,
    backdating_s: Option<u64>,
    validation: Option<Spanned<String>>,
    anchors: Option<Spanned<Vec<PathBuf>>>,
    intermediates: Option<Vec<PathBuf>>,
    extended_key_usage: Option<Spanned<Vec<Spanned<String>>>>,
    require_extended_key_usage: Option<bool>,
    require_all_crls: Option<bool>,
    policies: Option<Spanned<Vec<Spanned<String>>>>,
    require_explicit_policy: Option<bool>,
    inhibit_policy_mapping: Option<bool>,
    inhibit_any_policy: Option<bool>,
    client_rsa_bits: Option<Spanned<u64>>,
    crls: Option<Spanned<Vec<Spanned<String>>>>,
    crl_refresh_s: Option<Spanned<u64>>,
    grant: Option<Vec<Spanned<GrantSection>>>,
    authority: Option<Vec<AuthoritySection>>,
    comparison: Option<Spanned<String>>,
    name_comparison: Option<Spanned<String>>,
    sha1_pukey: Option<Spanned<String>>,
    tell_restrictions: Option<bool>,
    identity_sid: Option<Spanned<String>>,
    shadow: Option<Spanned<Box<Section>>>,
}

/// A form, alone or with those it is granted for.
#[derive(Clone, Deserialize)]
#[serde(untagged)]
enum GrantSection {
    Form(String),
    To(GrantTo),
}

#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct GrantTo {
    form: String,
    #[serde(rename = "for")]
    to: Vec<String>,
}

#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct AuthoritySection {
    certificate: PathBuf,
    methods: Option<Spanned<Vec<Spanned<String>>>>,
    binding: Option<Spanned<String>>,
    backdating_s: Option<u64>,
    grant: Option<Vec<Spanned<GrantSection>>>,
    #[serde(default)]
    direct: bool,
    #[serde(default)]
    strong_names: Vec<StrongNameSection>,
    policies: Option<Spanned<Vec<Spanned<String>>>>,
    require_explicit_policy: Option<bool>,
    inhibit_policy_mapping: Option<bool>,
    inhibit_any_policy: Option<bool>,
    ocsp: Option<Spanned<String>>,
    ocsp_signer: Option<Spanned<PathBuf>>,
    ocsp_nonce: Option<Spanned<usize>>,
    ocsp_nonce_required: Option<Spanned<bool>>,
    ocsp_hash: Option<Spanned<String>>,
}

#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct StrongNameSection {
    policies: Spanned<Vec<Spanned<String>>>,
    names: Spanned<String>,
}

impl Section {
    /// What a shadow does not say is as in the live policy, as far as it has a use under the shadow's validation.
    fn over(self, live: &Self) -> Self {
        let validation = self.validation.as_ref().or(live.validation.as_ref());
        let mut live = live.clone();
        match validation.map(|validation| validation.get_ref().as_str()) {
            Some("chain+crl") => {}
            Some("off") => {
                (live.anchors, live.intermediates, live.crls, live.authority) = (None, None, None, None);
            }
            _ => {
                live.crls = None;
                for authority in live.authority.iter_mut().flatten() {
                    (authority.ocsp, authority.ocsp_signer) = (None, None);
                    (authority.ocsp_nonce, authority.ocsp_nonce_required) = (None, None);
                    authority.ocsp_hash = None;
                }
            }
        }
        macro_rules! either {
            ($($field:ident),*) => { Self { $($field: self.$field.or_else(|| live.$field),)* shadow: self.shadow } };
        }
        either!(
            methods,
            binding,
            backdating_s,
            validation,
            anchors,
            intermediates,
            extended_key_usage,
            require_extended_key_usage,
            require_all_crls,
            policies,
            require_explicit_policy,
            inhibit_policy_mapping,
            inhibit_any_policy,
            client_rsa_bits,
            crls,
            crl_refresh_s,
            grant,
            authority,
            comparison,
            name_comparison,
            sha1_pukey,
            tell_restrictions,
            identity_sid
        )
    }
}

impl Mapping {
    /// Whether some certificate can be mapped: by the general rules, or by those of one authority.
    fn check(&self) -> Result<(), MapsNothing> {
        let granting = self.authorities.iter().filter(|entry| entry.policy.grants.is_some());
        let general = self.check_grants(&self.policy.grants, &AuthorityPolicy::default());
        granting.fold(general, |checked, entry| match (checked, self.check_entry(entry)) {
            (Ok(()), _) | (_, Ok(())) => Ok(()),
            (Err(one), Err(other)) => Err(one.max(other)),
        })
    }

    /// Whether some certificate below an authority can be mapped. Where its entry has no grant, those of the other ones on a path may be
    /// in force, or the general one.
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

    /// Entries of authorities below which no certificate can be mapped, though their grant is not empty: that may be meant, or not.
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

/// What helps where no method looks up by a form that is granted.
const LOOK_UPS: &str = "\"upn\" looks up by \"upn\" and \"dns\", \"issuer\" by \"issuer\", \"subject\" by all other forms except \"sid\", which finds no \
                        account and binds one that was found";

/// A word of the file that is one of a few.
fn word<T: Copy>(
    checker: &mut Checker<'_>,
    text: &Option<Spanned<String>>,
    known: &[(&str, T)],
    default: T,
    what: &str,
) -> T {
    let Some(text) = text else { return default };
    match known.iter().find(|(name, _)| name == text.get_ref()) {
        Some((_, value)) => *value,
        None => {
            let names: Vec<String> = known.iter().map(|(name, _)| format!("\"{name}\"")).collect();
            checker.problem(
                text.span(),
                format!("this is not a {what}"),
                format!("use {}", names.join(", ")),
            );
            default
        }
    }
}

/// The key purposes of clients, unless mapping.extended_key_usage says others: contents octets of object identifiers.
pub fn usual_key_purposes() -> Vec<Vec<u8>> {
    [CLIENT_AUTH, SMART_CARD_LOGON, ANY_EXTENDED_KEY_USAGE]
        .into_iter()
        .filter_map(object_identifier)
        .collect()
}

impl Checker<'_> {
    pub(super) fn mapping(&mut self, section: Spanned<Section>) -> Mapping {
        let span = section.span();
        let mut section = section.into_inner();
        let shadow = section.shadow.take().map(|shadow| {
            let span = shadow.span();
            let shadow = shadow.into_inner();
            if let Some(deeper) = &shadow.shadow {
                self.problem(deeper.span(), "a shadow has no shadow", "remove it");
            }
            Box::new(self.mapping_section(span, Section { shadow: None, ..*shadow }.over(&section)))
        });
        Mapping { shadow, ..self.mapping_section(span, section) }
    }

    fn mapping_section(&mut self, span: Range<usize>, section: Section) -> Mapping {
        let bindings =
            [Binding::Off, Binding::Compat, Binding::Full].map(|binding| (binding.name(), binding));
        let validations = [Validation::Off, Validation::Chain, Validation::ChainAndRevocation]
            .map(|validation| (validation.name(), validation));
        let binding = word(self, &section.binding, &bindings, Binding::Full, "binding");
        let validation = word(self, &section.validation, &validations, Validation::Chain, "validation");
        if (binding, validation) == (Binding::Full, Validation::Off) {
            let at = section.validation.as_ref().map_or(span.clone(), Spanned::span);
            self.problem(
                at,
                "nobody could be mapped: a strong form counts only for a chain that was verified here",
                "use validation = \"chain\", or binding = \"compat\" if names alone are to be enough",
            );
        }
        let comparisons = [
            ("windows", Comparison::Windows),
            ("casefold", Comparison::Casefold),
            ("exact", Comparison::Exact),
        ];
        let standard = PolicyDraft::default();
        let policy = PolicyDraft {
            methods: section.methods.as_ref().map_or(standard.methods, |names| self.some_methods(names)),
            binding,
            backdating_s: section.backdating_s.unwrap_or(standard.backdating_s),
            validation,
            grants: section
                .grant
                .as_ref()
                .map_or_else(|| Grants::standard(validation), |grants| self.grants(grants)),
            comparison: word(self, &section.comparison, &comparisons, Comparison::Windows, "comparison"),
            // Names are indexed without regard to case; what is wider cannot be looked up.
            name_comparison: word(
                self,
                &section.name_comparison,
                &comparisons[1..],
                Comparison::Casefold,
                "comparison of names",
            ),
            sha1_public_key: word(
                self,
                &section.sha1_pukey,
                &[
                    ("thumbprint", Sha1PublicKeyInput::Thumbprint),
                    ("public-key", Sha1PublicKeyInput::PublicKey),
                ],
                Sha1PublicKeyInput::Thumbprint,
                "reading of SHA1-PUKEY",
            ),
            tell_restrictions: section.tell_restrictions.unwrap_or(false),
            identity_sid: self.identity_sid(&section.identity_sid),
        };
        let trust = self.trust(&span, &section, validation);
        let mut authorities = Vec::new();
        for authority in section.authority.iter().flatten() {
            if let Some(url) = authority.ocsp.as_ref().filter(|_| validation == Validation::Chain) {
                self.problem(
                    url.span(),
                    "responders are not asked with this validation",
                    "use validation = \"chain+crl\", or remove it",
                );
            }
            let checked = self.authority(authority, &bindings);
            let (general, own) = (&trust.policies.initial, &checked.path_policies.initial);
            if let Some(policies) = &authority.policies
                && !general.is_empty()
                && !own.is_empty()
                && !own.iter().any(|policy| general.contains(policy))
            {
                self.problem(
                    policies.span(),
                    "none of these is among mapping.policies, so no certificate policy would do",
                    "name one that is there, or remove mapping.policies and name the policies of each anchor in its entry",
                );
            }
            if let (Some(methods), Some(first)) = (
                checked.policy.methods,
                authority.methods.as_ref().and_then(|methods| methods.get_ref().first()),
            ) && methods.and(policy.methods).0 == 0
            {
                self.problem(
                    first.span(),
                    "mapping.methods allows none of these, so nobody below this authority is mapped",
                    "allow one of them there, too",
                );
            }
            authorities.push(checked);
        }
        if validation == Validation::Off && !authorities.is_empty() {
            self.problem(
                section.validation.as_ref().map_or(span.clone(), Spanned::span),
                "[[mapping.authority]] has rules for authorities, and without a verified chain nobody knows which one it was",
                "use validation = \"chain\", or remove the rules",
            );
        }
        let mapping = Mapping { policy, trust, authorities, shadow: None };
        let at = |given: &Option<Spanned<String>>| given.as_ref().map_or(span.clone(), Spanned::span);
        match mapping.check() {
            // What is said of these is said above.
            _ if (binding, validation) == (Binding::Full, Validation::Off) => {}
            _ if !has_method(mapping.policy.methods) => {}
            Ok(()) => {}
            Err(MapsNothing::NoForm) => {
                let help = "name the forms that count: grant = [\"sid\", \"upn\"], or remove grant";
                self.problem(span.clone(), "no form is granted, so no certificate is mapped", help);
            }
            Err(MapsNothing::NoLookUp) => self.problem(
                section.methods.as_ref().map_or(span.clone(), Spanned::span),
                "no method looks accounts up by a form that is granted, so no certificate is mapped",
                LOOK_UPS,
            ),
            Err(MapsNothing::NoStrongForm) => self.problem(
                at(&section.binding),
                "no strong form is granted, so no certificate is mapped",
                "grant one that accounts are bound by, such as \"sid\" or \"issuer-serial\", or use another binding",
            ),
        }
        if validation == Validation::ChainAndRevocation
            && mapping.trust.crls.is_empty()
            && mapping.authorities.iter().all(|authority| authority.ocsp.is_none())
        {
            self.problem(
                at(&section.validation),
                "nothing says what is revoked",
                "name lists: crls = [\"certs/ca.crl\"], or an OCSP responder in [[mapping.authority]]",
            );
        }
        mapping
    }

    /// The flags of at least one method.
    fn some_methods(&mut self, names: &Spanned<Vec<Spanned<String>>>) -> MappingFlags {
        if names.get_ref().is_empty() {
            let help = "name \"upn\", \"subject\", \"issuer\" or \"issuer-chain\", or remove methods";
            self.problem(names.span(), "without a method no certificate is mapped", help);
        }
        self.methods(names.get_ref())
    }

    /// The flags that names of methods stand for.
    pub(super) fn methods(&mut self, names: &[Spanned<String>]) -> MappingFlags {
        let mut methods = MappingFlags(0);
        for name in names {
            methods = match name.get_ref().as_str() {
                "upn" => methods.with(MappingFlags::UPN),
                "subject" => methods.with(MappingFlags::SUBJECT),
                "issuer" => methods.with(MappingFlags::ISSUER),
                "issuer-chain" => methods.with(MappingFlags::ISSUER).with(MappingFlags::ISSUER_CHAIN),
                _ => {
                    self.problem(
                        name.span(),
                        "this is not a mapping method",
                        "use \"upn\", \"subject\", \"issuer\" or \"issuer-chain\"",
                    );
                    methods
                }
            };
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

    fn trust(&mut self, span: &Range<usize>, section: &Section, validation: Validation) -> TrustFiles {
        let anchors: Vec<PathBuf> = section
            .anchors
            .as_ref()
            .map_or(&[][..], |anchors| anchors.get_ref())
            .iter()
            .map(|path| self.path(path))
            .collect();
        match (validation, anchors.is_empty()) {
            (Validation::Off, false) => self.problem(
                section.anchors.as_ref().map_or(span.clone(), Spanned::span),
                "anchors are not used with validation = \"off\"",
                "remove them, so that nobody believes chains are verified here, or use validation = \"chain\"",
            ),
            (Validation::Chain | Validation::ChainAndRevocation, true) => self.problem(
                section.anchors.as_ref().map_or(span.clone(), Spanned::span),
                "anchors are missing",
                "name the certificates of the authorities that are believed: anchors = [\"certs/ca.pem\"]; those of the \
                 system are never used",
            ),
            _ => {}
        }
        if let Some(crls) = section.crls.as_ref().filter(|crls| !crls.get_ref().is_empty())
            && validation != Validation::ChainAndRevocation
        {
            self.problem(
                crls.span(),
                "revocation lists are not used with this validation",
                "use validation = \"chain+crl\", or remove them",
            );
        }
        let named = section.crls.as_ref().map_or(&[][..], |crls| crls.get_ref());
        for (at, crl) in named.iter().enumerate() {
            if named[..at].iter().any(|other| other.get_ref() == crl.get_ref()) {
                self.problem(crl.span(), "this revocation list is named twice", "remove one of the two");
            }
        }
        let crls = named.iter().map(|crl| match crl.get_ref().contains("://") {
            true => {
                self.http_url(crl);
                CrlSource::Url(crl.get_ref().clone())
            }
            false => CrlSource::File(self.path(crl.get_ref().as_ref())),
        });
        let crls = crls.collect();
        let crl_refresh = match section.crl_refresh_s.as_ref().map(|value| (*value.get_ref(), value.span())) {
            None => CRL_REFRESH_S,
            Some((seconds @ 1..=86_400, _)) => seconds,
            Some((_, span)) => {
                self.problem(span, "this is not a sensible time", "use 1 to 86400 seconds");
                CRL_REFRESH_S
            }
        };
        let purposes: Vec<Option<Vec<u8>>> = match &section.extended_key_usage {
            None => usual_key_purposes().into_iter().map(Some).collect(),
            Some(names) => {
                if names.get_ref().is_empty() {
                    self.problem(
                        names.span(),
                        "no certificate would do",
                        "name a key purpose: \"client-auth\"",
                    );
                }
                names.get_ref().iter().map(|name| self.key_purpose(name)).collect()
            }
        };
        TrustFiles {
            anchors,
            intermediates: section.intermediates.iter().flatten().map(|path| self.path(path)).collect(),
            extended_key_usages: purposes.into_iter().flatten().collect(),
            require_extended_key_usage: section.require_extended_key_usage.unwrap_or(false),
            require_all_crls: section.require_all_crls.unwrap_or(true),
            policies: self.policy_inputs(
                &section.policies,
                section.require_explicit_policy,
                section.inhibit_policy_mapping,
                section.inhibit_any_policy,
            ),
            client_rsa_bits: section.client_rsa_bits.as_ref().and_then(|bits| self.client_rsa_bits(bits)),
            crls,
            crl_refresh: Duration::from_secs(crl_refresh),
        }
    }

    /// The inputs of RFC 5280 6.1.1.
    fn policy_inputs(
        &mut self,
        policies: &Option<Spanned<Vec<Spanned<String>>>>,
        require_explicit_policy: Option<bool>,
        inhibit_policy_mapping: Option<bool>,
        inhibit_any_policy: Option<bool>,
    ) -> PolicyInputs {
        let mut initial = Vec::new();
        if let Some(policies) = policies {
            if policies.get_ref().is_empty() {
                self.problem(
                    policies.span(),
                    "no certificate policy would do",
                    "name one, or remove the key: any will do then",
                );
            }
            for policy in policies.get_ref() {
                match object_identifier(policy.get_ref()) {
                    // anyPolicy: what is meant when nothing is said.
                    Some(oid) if oid != [0x55, 0x1d, 0x20, 0x00] => initial.push(oid),
                    _ => self.problem(
                        policy.span(),
                        "this is not a certificate policy",
                        "use a dotted object identifier; without the key any policy will do",
                    ),
                }
            }
        }
        PolicyInputs {
            initial,
            require_explicit_policy: require_explicit_policy.unwrap_or(false),
            inhibit_policy_mapping: inhibit_policy_mapping.unwrap_or(false),
            inhibit_any_policy: inhibit_any_policy.unwrap_or(false),
        }
    }

    fn ocsp(&mut self, section: &AuthoritySection) -> Option<Ocsp> {
        let without = [
            section.ocsp_signer.as_ref().map(Spanned::span),
            section.ocsp_nonce.as_ref().map(Spanned::span),
            section.ocsp_nonce_required.as_ref().map(Spanned::span),
            section.ocsp_hash.as_ref().map(Spanned::span),
        ];
        let Some(url) = &section.ocsp else {
            for span in without.into_iter().flatten() {
                self.problem(
                    span,
                    "no responder is asked",
                    "say where the responder is: ocsp = \"http://…\"",
                );
            }
            return None;
        };
        self.http_url(url);
        let standard = OcspAsking::default();
        let nonce_len = section.ocsp_nonce.as_ref().map_or(standard.nonce_len, |len| *len.get_ref());
        if let Some(len) = section.ocsp_nonce.as_ref().filter(|len| *len.get_ref() > NONCE_LEN_MAX) {
            self.problem(
                len.span(),
                "this is not a length of nonces",
                format!("use 1 to {NONCE_LEN_MAX} octets, or 0 for no nonce; 32 is the default"),
            );
        }
        let nonce_required = section.ocsp_nonce_required.as_ref().is_some_and(|required| *required.get_ref());
        if let Some(required) =
            section.ocsp_nonce_required.as_ref().filter(|_| nonce_required && nonce_len == 0)
        {
            self.problem(
                required.span(),
                "no nonce is sent, so no answer would have it",
                "remove ocsp_nonce = 0, or remove this",
            );
        }
        let hashes = [("sha1", CertIdHash::Sha1), ("sha256", CertIdHash::Sha256)];
        let hash = word(self, &section.ocsp_hash, &hashes, standard.hash, "hash of CertIDs");
        Some(Ocsp {
            url: url.get_ref().clone(),
            signer: section.ocsp_signer.as_ref().map(|path| self.path(path.get_ref())),
            asking: OcspAsking { nonce_len, nonce_required, hash },
        })
    }

    fn client_rsa_bits(&mut self, bits: &Spanned<u64>) -> Option<usize> {
        match *bits.get_ref() {
            found @ 1024..=8192 => Some(found as usize),
            _ => {
                self.problem(
                    bits.span(),
                    "this is not a length of RSA keys",
                    "use 1024 to 8192; 2048 is the default",
                );
                None
            }
        }
    }

    fn key_purpose(&mut self, name: &Spanned<String>) -> Option<Vec<u8>> {
        let dotted = match name.get_ref().as_str() {
            "client-auth" => CLIENT_AUTH,
            "smartcard-logon" => SMART_CARD_LOGON,
            "server-auth" => "1.3.6.1.5.5.7.3.1",
            "pkinit-client" => "1.3.6.1.5.2.3.4",
            "pkinit-kdc" => "1.3.6.1.5.2.3.5",
            "any" => ANY_EXTENDED_KEY_USAGE,
            dotted => dotted,
        };
        let oid = object_identifier(dotted);
        if oid.is_none() {
            self.problem(
                name.span(),
                "this is not a key purpose",
                "use \"client-auth\", \"smartcard-logon\", \"server-auth\", \"pkinit-client\", \"pkinit-kdc\", \"any\" or a dotted object \
                 identifier",
            );
        }
        oid
    }

    /// Lists and answers are signed, so plain HTTP is what they are served by.
    fn http_url(&mut self, url: &Spanned<String>) {
        let parsed = url.get_ref().parse::<hyper::Uri>();
        let can_be_asked = |url: hyper::Uri| {
            let is_plain = url.authority().is_some_and(|authority| !authority.as_str().contains('@'));
            url.scheme_str() == Some("http") && url.host().is_some_and(|host| !host.is_empty()) && is_plain
        };
        if !parsed.is_ok_and(can_be_asked) {
            self.problem(
                url.span(),
                "this is not a URL that can be asked",
                "write http://HOST[:PORT]/PATH; what is fetched is signed, so it needs no TLS",
            );
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
                self.problem(
                    grant.span(),
                    "this is not a form in which a certificate names an account",
                    format!("use {}", names.join(", ")),
                );
                continue;
            };
            if to.is_some_and(|to| to.is_empty()) {
                self.problem(
                    grant.span(),
                    "this is granted to nobody",
                    "say for whom, or leave the form out",
                );
            }
            let to = to.map(|to| to.iter().filter_map(|text| self.whom(text, grant.span())).collect());
            checked.push(Grant { form, to });
        }
        Grants::new(checked)
    }

    fn whom(&mut self, text: &str, span: Range<usize>) -> Option<Whom> {
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
                    format!("{text:?} is the end of no user principal name and no host"),
                    "write the suffix as accounts have it, without wildcards and without a dot at an end: \"@contoso.example\"",
                );
                return None;
            }
            ("@", _) => return Some(Whom::Suffix(rest.to_owned())),
            ("group" | "account", Some(sid))
                if self.domain_sid.is_some_and(|domain| sid.rid_in(&domain).is_none()) =>
            {
                let what = format!("{sid} is not of this domain, so no account has this grant");
                self.problem(span, what, "write the SID of an account or a group in [store]");
                return None;
            }
            ("group", Some(sid)) => return Some(Whom::Group(sid)),
            ("group", None) => return Some(Whom::NamedGroup(rest.to_owned())),
            ("account", Some(sid)) => return Some(Whom::Account(sid)),
            ("account", None) => return Some(Whom::NamedAccount(rest.to_owned())),
            _ => {}
        }
        self.problem(
            span,
            format!("{text:?} does not say for whom"),
            "use \"@contoso.example\" (user principal names that end so), \"group:NAME\", \"group:SID\", \"account:NAME\" or \
             \"account:SID\"",
        );
        None
    }

    fn authority(&mut self, section: &AuthoritySection, bindings: &[(&str, Binding)]) -> AuthorityEntry {
        let strong_names = section.strong_names.iter().filter_map(|name| self.strong_name(name)).collect();
        AuthorityEntry {
            certificate: self.path(&section.certificate),
            policy: AuthorityPolicy {
                methods: section.methods.as_ref().map(|names| self.some_methods(names)),
                binding: section
                    .binding
                    .is_some()
                    .then(|| word(self, &section.binding, bindings, Binding::Full, "binding")),
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

/// Whether a user principal name or a host can end in this: no wildcard, no white space, one part behind the `@`.
fn is_suffix(text: &str) -> bool {
    !text.contains(|character: char| "*@/\\,;:\"<>|".contains(character) || character.is_whitespace())
        && text.split('.').all(|label| !label.is_empty())
}

/// Lists of a large authority are renewed every few hours; a look at a file costs nothing.
const CRL_REFRESH_S: u64 = 300;
/// id-kp-clientAuth (RFC 5280 4.2.1.12).
const CLIENT_AUTH: &str = "1.3.6.1.5.5.7.3.2";
/// anyExtendedKeyUsage.
const ANY_EXTENDED_KEY_USAGE: &str = "2.5.29.37.0";
/// szOID_KP_SMARTCARD_LOGON.
const SMART_CARD_LOGON: &str = "1.3.6.1.4.1.311.20.2.2";
