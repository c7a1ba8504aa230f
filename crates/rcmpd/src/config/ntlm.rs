//! `[sso.ntlm]`: NTLM for users of the master secret server.

use super::peers::{CHANNELS, Claims, PeerSection};
use super::{Checker, OwnDomain, Peer};
use serde::Deserialize;
use std::ops::RangeInclusive;
use toml::Spanned;

/// For one proof, failover included. A client that does not finish its authentication within 30 s is
/// disconnected.
const TIMEOUT_S: RangeInclusive<u64> = 1..=25;

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
    pub domains: Vec<NtlmDomain>,
}

/// `[[sso.ntlm.domain]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NtlmDomain {
    /// The domain, and our channel to its controllers, as a `[[peer]]` that is asked has it.
    pub peer: Peer,
    /// Whether its computer accounts may log on.
    pub computers: bool,
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
    domain: Vec<Spanned<DomainSection>>,
}

/// The keys of a `[[peer]]` that is asked directly, as far as a network logon needs them, and its own.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DomainSection {
    domain: Spanned<String>,
    sid: Spanned<String>,
    names: Spanned<Vec<Spanned<String>>>,
    servers: Option<Spanned<Vec<Spanned<String>>>>,
    discovery: Option<Spanned<String>>,
    site: Option<Spanned<String>>,
    dns: Option<Spanned<Vec<Spanned<String>>>>,
    account: Option<Spanned<String>>,
    secret: Spanned<String>,
    channel: Option<Spanned<String>>,
    timeout_s: Option<Spanned<u64>>,
    connections_max: Option<Spanned<u64>>,
    queue_max: Option<Spanned<u64>>,
    hedge_ms: Option<Spanned<u64>>,
    sids: Option<Spanned<Vec<Spanned<String>>>>,
    #[serde(default)]
    computers: bool,
}

/// What `[sso.ntlm]` needs of the rest of the file.
pub(super) struct NtlmContext<'a> {
    /// Whether the local store has NT hashes.
    pub(super) has_accounts: bool,
    /// NetBIOS name of this server.
    pub(super) server: &'a str,
    pub(super) ours: &'a OwnDomain,
}

/// For each domain the account domains whose SIDs its users may have.
pub(super) type SidFilters = Vec<(String, Vec<dtyp::Sid>)>;

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
        let mut claims = Claims::default();
        let domains = domain.into_iter();
        let domains = domains.filter_map(|domain| self.ntlm_domain(domain, beside, &mut claims, sid_filters));
        let domains = domains.collect();
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

    fn ntlm_domain(
        &mut self,
        section: Spanned<DomainSection>,
        beside: &NtlmContext<'_>,
        claims: &mut Claims,
        sid_filters: &mut SidFilters,
    ) -> Option<NtlmDomain> {
        let span = section.span();
        let section = section.into_inner();
        if section.servers.is_some() == section.discovery.is_some() {
            self.problem(
                span,
                "this domain needs one source of domain controllers",
                "set either servers = [\"HOST\"] or discovery = \"dns\"",
            );
            return None;
        }
        // Domain controllers check proofs over channels of members and controllers. Over a trust the names of
        // the CHALLENGE would be those of another domain's server.
        self.one_of(section.channel.as_ref(), &CHANNELS[..2], "channel");
        self.seconds(section.timeout_s.as_ref(), TIMEOUT_S, *TIMEOUT_S.start());
        let (place, ours) = (section.domain.span(), beside.ours);
        let is_ours = section.domain.get_ref().eq_ignore_ascii_case(&ours.netbios);
        let has_our_sid = ours.sid.is_some_and(|sid| section.sid.get_ref().parse() == Ok(sid));
        if is_ours != has_our_sid {
            self.problem(
                place.clone(),
                "[domain] has the same name with another SID, or the same SID with another name",
                "a domain has one SID and one NetBIOS name: write both as in [domain], or neither",
            );
        }
        let default = |text: String| Some(Spanned::new(place.clone(), text));
        let checked = self.peer_of_ntlm(
            Spanned::new(
                span,
                PeerSection {
                    direction: Spanned::new(place.clone(), "outbound".to_owned()),
                    account: section.account.or_else(|| default(format!("{}$", beside.server))),
                    channel: section.channel.or_else(|| default("workstation".to_owned())),
                    domain: section.domain,
                    sid: section.sid,
                    names: section.names,
                    servers: section.servers,
                    discovery: section.discovery,
                    site: section.site,
                    dns: section.dns,
                    secret: Some(section.secret),
                    timeout_s: section.timeout_s,
                    connections_max: section.connections_max,
                    queue_max: section.queue_max,
                    hedge_ms: section.hedge_ms,
                    kind: None,
                    via: None,
                    transit: Vec::new(),
                    issuers: Vec::new(),
                    response_crypt: None,
                    foreign_sids: None,
                    proof_key: None,
                },
            ),
            ours,
            claims,
        );
        let help = "name the SIDs of domains that it trusts, or remove the key: then only its own SIDs count";
        let others = self.restricting("sids", &section.sids, help);
        let others: Vec<_> = others.iter().filter_map(|sid| self.domain_sid(sid)).collect();
        let peer = checked?;
        sid_filters.push((peer.domain.clone(), [vec![peer.sid], others].concat()));
        Some(NtlmDomain { peer, computers: section.computers })
    }
}
