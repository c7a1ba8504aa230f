//! What chains and revocation are verified by: the keys of `[mapping]` and `[[mapping.authority]]` about
//! anchors, CRLs, OCSP, key purposes and certificate policies.

use super::checker::{Checker, UP_TO_A_DAY_S};
use super::mapping_keys::{AuthoritySection, Section};
use rcmp_service::Validation;
use rcmp_service::certificate::object_identifier;
use rcmp_service::trust::ocsp::NONCE_LEN_MAX;
use rcmp_service::trust::{CertIdHash, OcspAsking, PolicyInputs};
use std::ops::Range;
use std::path::PathBuf;
use std::time::Duration;
use toml::Spanned;
use trust_tokio::crls::CrlSource;

/// What chains and revocation are validated by.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrustFiles {
    /// Certificates of trusted CAs.
    pub anchors: Vec<PathBuf>,
    /// Certificates of CAs below them.
    pub intermediates: Vec<PathBuf>,
    /// Contents octets of the object identifiers of key purposes, any of which is enough.
    pub extended_key_usages: Vec<Vec<u8>>,
    /// Whether a certificate without key purposes is rejected.
    pub require_extended_key_usage: bool,
    /// Whether certificates stay undecided until each configured CRL was loaded once.
    pub require_all_crls: bool,
    /// Required certificate policies.
    pub policies: PolicyInputs,
    /// Minimum length of the RSA key of a client, in bits.
    pub client_rsa_bits: Option<usize>,
    /// CRLs.
    pub crls: Vec<CrlSource>,
    /// How often CRLs are read or fetched again.
    pub crl_refresh: Duration,
}

/// An OCSP responder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ocsp {
    /// `http://HOST[:PORT]/PATH`.
    pub url: String,
    /// The certificate that signs its responses, if it is neither that of the CA nor issued by it.
    pub signer: Option<PathBuf>,
    /// Nonce and hash of requests.
    pub asking: OcspAsking,
}

/// The default of mapping.extended_key_usage: contents octets of object identifiers.
pub fn usual_key_purposes() -> Vec<Vec<u8>> {
    [CLIENT_AUTH, SMART_CARD_LOGON, ANY_EXTENDED_KEY_USAGE]
        .into_iter()
        .filter_map(object_identifier)
        .collect()
}

impl Checker<'_> {
    pub(super) fn trust(
        &mut self,
        span: &Range<usize>,
        section: &Section,
        validation: Validation,
    ) -> TrustFiles {
        TrustFiles {
            anchors: self.anchors(span, section, validation),
            crls: self.crls(section, validation),
            crl_refresh: self.seconds(section.crl_refresh_s.as_ref(), UP_TO_A_DAY_S, CRL_REFRESH_S),
            extended_key_usages: self.key_purposes(section),
            intermediates: section.intermediates.iter().flatten().map(|path| self.path(path)).collect(),
            require_extended_key_usage: section.require_extended_key_usage.unwrap_or(false),
            require_all_crls: section.require_all_crls.unwrap_or(true),
            policies: self.policy_inputs(
                &section.policies,
                section.require_explicit_policy,
                section.inhibit_policy_mapping,
                section.inhibit_any_policy,
            ),
            client_rsa_bits: section.client_rsa_bits.as_ref().and_then(|bits| self.client_rsa_bits(bits)),
        }
    }

    fn anchors(&mut self, span: &Range<usize>, section: &Section, validation: Validation) -> Vec<PathBuf> {
        let given = section.anchors.as_ref();
        let at = given.map_or(span.clone(), Spanned::span);
        let anchors: Vec<PathBuf> =
            given.into_iter().flat_map(Spanned::get_ref).map(|path| self.path(path)).collect();
        match (validation, anchors.is_empty()) {
            (Validation::Off, false) => self.problem(
                at,
                "anchors are not used with validation = \"off\"",
                "remove them, so that the file does not look as if chains were validated, or use validation = \"chain\"",
            ),
            (Validation::Chain | Validation::ChainAndRevocation, true) => self.problem(
                at,
                "anchors are missing",
                "name the certificates of the CAs that are trusted: anchors = [\"certs/ca.pem\"]; those of the system are never used",
            ),
            _ => {}
        }
        anchors
    }

    fn crls(&mut self, section: &Section, validation: Validation) -> Vec<CrlSource> {
        let named = section.crls.as_ref().map_or(&[][..], |crls| crls.get_ref());
        if let Some(crls) = section.crls.as_ref().filter(|_| !named.is_empty())
            && validation != Validation::ChainAndRevocation
        {
            self.problem(
                crls.span(),
                "CRLs are not used with this validation",
                "use validation = \"chain+crl\", or remove them",
            );
        }
        for (at, crl) in named.iter().enumerate() {
            if named[..at].iter().any(|other| other.get_ref() == crl.get_ref()) {
                self.problem(crl.span(), "this CRL is named twice", "remove one of the two");
            }
        }
        let source = |crl: &Spanned<String>| match crl.get_ref().contains("://") {
            true => {
                self.http_url(crl);
                CrlSource::Url(crl.get_ref().clone())
            }
            false => CrlSource::File(self.path(crl.get_ref().as_ref())),
        };
        named.iter().map(source).collect()
    }

    fn key_purposes(&mut self, section: &Section) -> Vec<Vec<u8>> {
        let Some(names) = &section.extended_key_usage else { return usual_key_purposes() };
        if names.get_ref().is_empty() {
            self.problem(
                names.span(),
                "extended_key_usage is an empty list, so no certificate would be accepted",
                "name a key purpose: \"client-auth\"",
            );
        }
        names.get_ref().iter().filter_map(|name| self.key_purpose(name)).collect()
    }

    /// The inputs of RFC 5280 6.1.1.
    pub(super) fn policy_inputs(
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
                    "policies is an empty list, so no certificate would be accepted",
                    "name a policy, or remove the key to accept any",
                );
            }
            for policy in policies.get_ref() {
                match object_identifier(policy.get_ref()) {
                    // anyPolicy is the meaning of an absent key.
                    Some(oid) if oid != [0x55, 0x1d, 0x20, 0x00] => initial.push(oid),
                    _ => self.problem(
                        policy.span(),
                        "this is not a certificate policy",
                        "use a dotted object identifier; without the key any policy is accepted",
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

    pub(super) fn ocsp(&mut self, section: &AuthoritySection) -> Option<Ocsp> {
        let without = [
            section.ocsp_signer.as_ref().map(Spanned::span),
            section.ocsp_nonce.as_ref().map(Spanned::span),
            section.ocsp_nonce_required.as_ref().map(Spanned::span),
            section.ocsp_hash.as_ref().map(Spanned::span),
        ];
        let Some(url) = &section.ocsp else {
            for span in without.into_iter().flatten() {
                self.problem(span, "there is no OCSP responder", "name it: ocsp = \"http://…\"");
            }
            return None;
        };
        self.http_url(url);
        let standard = OcspAsking::default();
        let nonce_len = section.ocsp_nonce.as_ref().map_or(standard.nonce_len, |len| *len.get_ref());
        if let Some(len) = section.ocsp_nonce.as_ref().filter(|len| *len.get_ref() > NONCE_LEN_MAX) {
            self.problem(
                len.span(),
                "this is not a nonce length",
                format!("use 1 to {NONCE_LEN_MAX} octets, or 0 for no nonce; 32 is the default"),
            );
        }
        let nonce_required = section.ocsp_nonce_required.as_ref().is_some_and(|required| *required.get_ref());
        if let Some(required) =
            section.ocsp_nonce_required.as_ref().filter(|_| nonce_required && nonce_len == 0)
        {
            self.problem(
                required.span(),
                "no nonce is sent, so no response would have it",
                "remove ocsp_nonce = 0, or remove this",
            );
        }
        let hashes = [("sha1", CertIdHash::Sha1), ("sha256", CertIdHash::Sha256)];
        let hash = self.one_of(section.ocsp_hash.as_ref(), &hashes, "ocsp_hash").unwrap_or(standard.hash);
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
                    "this is not an RSA key length",
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
                "unknown key purpose",
                "use \"client-auth\", \"smartcard-logon\", \"server-auth\", \"pkinit-client\", \"pkinit-kdc\", \"any\" or a dotted object \
                 identifier",
            );
        }
        oid
    }

    /// CRLs and OCSP responses are signed, so they are fetched by plain HTTP.
    fn http_url(&mut self, url: &Spanned<String>) {
        let parsed = url.get_ref().parse::<hyper::Uri>();
        let can_be_asked = |url: hyper::Uri| {
            let is_plain = url.authority().is_some_and(|authority| !authority.as_str().contains('@'));
            url.scheme_str() == Some("http") && url.host().is_some_and(|host| !host.is_empty()) && is_plain
        };
        if !parsed.is_ok_and(can_be_asked) {
            self.problem(
                url.span(),
                "this is not an http:// URL",
                "write http://HOST[:PORT]/PATH; CRLs and OCSP responses are signed, so they need no TLS",
            );
        }
    }
}

/// The CRLs of a large CA are renewed every few hours, and checking a file is cheap.
const CRL_REFRESH_S: u64 = 300;
/// id-kp-clientAuth (RFC 5280 4.2.1.12).
const CLIENT_AUTH: &str = "1.3.6.1.5.5.7.3.2";
/// anyExtendedKeyUsage.
const ANY_EXTENDED_KEY_USAGE: &str = "2.5.29.37.0";
/// szOID_KP_SMARTCARD_LOGON.
const SMART_CARD_LOGON: &str = "1.3.6.1.4.1.311.20.2.2";
