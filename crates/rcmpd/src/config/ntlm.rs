//! `[sso.ntlm]`: NTLM for users of the master secret server.

use super::Checker;
use super::checked_domain::{CheckedDomain, CheckedDomainContext, CheckedDomainSection, SidFilters};
use serde::Deserialize;
use toml::Spanned;

/// `[sso.ntlm]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ntlm {
    /// Whether accounts of the local store may log on.
    pub local: bool,
    /// Whether clients that send no MIC are refused. Impacket sends none.
    pub require_mic: bool,
    /// The SPNs of which a client must mean one, compared without regard to ASCII case. Empty: any or none.
    pub allowed_spns: Vec<String>,
    /// Domains whose controllers check the proofs of their users.
    pub domains: Vec<CheckedDomain>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NtlmSection {
    local: Option<bool>,
    #[serde(default)]
    require_mic: bool,
    #[serde(default)]
    allowed_spns: Vec<Spanned<String>>,
    #[serde(default)]
    domain: Vec<Spanned<CheckedDomainSection>>,
}

/// What `[sso.ntlm]` needs of the rest of the file.
pub(super) struct NtlmContext<'a> {
    /// Whether the local store has NT hashes.
    pub(super) has_accounts: bool,
    pub(super) domains: CheckedDomainContext<'a>,
}

impl Checker<'_> {
    pub(super) fn ntlm(
        &mut self,
        section: Spanned<NtlmSection>,
        beside: &NtlmContext<'_>,
        sid_filters: &mut SidFilters,
    ) -> Ntlm {
        let span = section.span();
        let NtlmSection { local, require_mic, allowed_spns, domain } = section.into_inner();
        let local = local.unwrap_or(true);
        if local && !beside.has_accounts {
            self.problem(
                span.clone(),
                "NTLM needs accounts with NT hashes, and this store keeps none",
                "add [store] kind = \"sqlite\", or set local = false",
            );
        }
        if !local && domain.is_empty() {
            self.problem(
                span,
                "no user can log on by NTLM: there are neither local accounts nor domains",
                "add [[sso.ntlm.domain]], set local = true, or remove [sso.ntlm]",
            );
        }
        let domains = self.checked_domains(domain, beside.domains, sid_filters);
        let allowed_spns = allowed_spns.into_iter().filter_map(|spn| self.ntlm_spn(spn)).collect();
        Ntlm { local, require_mic, allowed_spns, domains }
    }

    /// An SPN has a service class and a host at least, as clients send it ([MS-NLMP] 2.2.2.1,
    /// MsvAvTargetName).
    fn ntlm_spn(&mut self, spn: Spanned<String>) -> Option<String> {
        let is_spn =
            spn.get_ref().split_once('/').is_some_and(|(class, host)| !class.is_empty() && !host.is_empty());
        if !is_spn {
            let problem = format!("{:?} is not a service principal name", spn.get_ref());
            self.problem(spn.span(), problem, "write SERVICE/HOST, such as \"host/sso1.contoso.example\"");
            return None;
        }
        Some(spn.into_inner())
    }
}
