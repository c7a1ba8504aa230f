//! `[[sso.ntlm.domain]]` and `[[tlsnego.domain]]`: domains whose controllers check the users.

use super::peers::{CHANNELS, Claims, PeerSection};
use super::{Checker, OwnDomain, Peer};
use serde::Deserialize;
use std::ops::RangeInclusive;
use toml::Spanned;

/// For one check, failover included. An RPC client that does not finish its authentication within 30 s is
/// disconnected; a SOAP client waits a minute.
const TIMEOUT_S: RangeInclusive<u64> = 1..=25;

/// `[[sso.ntlm.domain]]` or `[[tlsnego.domain]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckedDomain {
    /// The domain, and our channel to its controllers, as a `[[peer]]` that is asked has it.
    pub peer: Peer,
    /// Whether its computer accounts may log on.
    pub computers: bool,
}

/// The keys of a `[[peer]]` that is asked directly, as far as a network logon needs them, and its own.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct CheckedDomainSection {
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

/// What such a domain needs of the rest of the file.
#[derive(Clone, Copy)]
pub(super) struct CheckedDomainContext<'a> {
    /// NetBIOS name of this server.
    pub(super) server: &'a str,
    pub(super) ours: &'a OwnDomain,
}

/// For each domain the account domains whose SIDs its users may have.
pub(super) type SidFilters = Vec<(String, Vec<dtyp::Sid>)>;

impl Checker<'_> {
    /// The domains of a section, of which no two have a name or SID in common.
    pub(super) fn checked_domains(
        &mut self,
        sections: Vec<Spanned<CheckedDomainSection>>,
        beside: CheckedDomainContext<'_>,
        sid_filters: &mut SidFilters,
    ) -> Vec<CheckedDomain> {
        let mut claims = Claims::default();
        let sections = sections.into_iter();
        sections
            .filter_map(|section| self.checked_domain(section, beside, &mut claims, sid_filters))
            .collect()
    }

    fn checked_domain(
        &mut self,
        section: Spanned<CheckedDomainSection>,
        beside: CheckedDomainContext<'_>,
        claims: &mut Claims,
        sid_filters: &mut SidFilters,
    ) -> Option<CheckedDomain> {
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
        let checked = self.checked_peer(
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
        Some(CheckedDomain { peer, computers: section.computers })
    }
}
