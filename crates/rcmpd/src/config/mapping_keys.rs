//! The keys of `[mapping]`, as the parser reads them.

use serde::Deserialize;
use std::path::PathBuf;
use toml::Spanned;

#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Section {
    pub(super) methods: Option<Spanned<Vec<Spanned<String>>>>,
    pub(super) binding: Option<Spanned<String>>,
    pub(super) backdating_s: Option<u64>,
    pub(super) validation: Option<Spanned<String>>,
    pub(super) anchors: Option<Spanned<Vec<PathBuf>>>,
    pub(super) intermediates: Option<Vec<PathBuf>>,
    pub(super) extended_key_usage: Option<Spanned<Vec<Spanned<String>>>>,
    pub(super) require_extended_key_usage: Option<bool>,
    pub(super) require_all_crls: Option<bool>,
    pub(super) policies: Option<Spanned<Vec<Spanned<String>>>>,
    pub(super) require_explicit_policy: Option<bool>,
    pub(super) inhibit_policy_mapping: Option<bool>,
    pub(super) inhibit_any_policy: Option<bool>,
    pub(super) client_rsa_bits: Option<Spanned<u64>>,
    pub(super) crls: Option<Spanned<Vec<Spanned<String>>>>,
    pub(super) crl_refresh_s: Option<Spanned<u64>>,
    pub(super) grant: Option<Vec<Spanned<GrantSection>>>,
    pub(super) authority: Option<Vec<AuthoritySection>>,
    pub(super) comparison: Option<Spanned<String>>,
    pub(super) name_comparison: Option<Spanned<String>>,
    pub(super) sha1_pukey: Option<Spanned<String>>,
    pub(super) tell_restrictions: Option<bool>,
    pub(super) identity_sid: Option<Spanned<String>>,
    pub(super) shadow: Option<Spanned<Box<Section>>>,
}

/// A form, alone or with the accounts that it is granted for.
#[derive(Clone, Deserialize)]
#[serde(untagged)]
pub(super) enum GrantSection {
    Form(String),
    To(GrantTo),
}

#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct GrantTo {
    pub(super) form: String,
    #[serde(rename = "for")]
    pub(super) to: Vec<String>,
}

#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct AuthoritySection {
    pub(super) certificate: PathBuf,
    pub(super) methods: Option<Spanned<Vec<Spanned<String>>>>,
    pub(super) binding: Option<Spanned<String>>,
    pub(super) backdating_s: Option<u64>,
    pub(super) grant: Option<Vec<Spanned<GrantSection>>>,
    #[serde(default)]
    pub(super) direct: bool,
    #[serde(default)]
    pub(super) strong_names: Vec<StrongNameSection>,
    pub(super) policies: Option<Spanned<Vec<Spanned<String>>>>,
    pub(super) require_explicit_policy: Option<bool>,
    pub(super) inhibit_policy_mapping: Option<bool>,
    pub(super) inhibit_any_policy: Option<bool>,
    pub(super) ocsp: Option<Spanned<String>>,
    pub(super) ocsp_signer: Option<Spanned<PathBuf>>,
    pub(super) ocsp_nonce: Option<Spanned<usize>>,
    pub(super) ocsp_nonce_required: Option<Spanned<bool>>,
    pub(super) ocsp_hash: Option<Spanned<String>>,
}

#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct StrongNameSection {
    pub(super) policies: Spanned<Vec<Spanned<String>>>,
    pub(super) names: Spanned<String>,
}

impl Section {
    /// Keys that a shadow does not have are those of the live policy, as far as they have a use under the
    /// validation of the shadow.
    pub(super) fn over(self, live: &Self) -> Self {
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
