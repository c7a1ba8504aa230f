//! Which domain answers for a certificate ([MS-RCMP] 3.5.3, [MS-NRPC] 3.5.4.5.1): pure, from names alone.
//!
//! A question that names another domain goes there or nowhere. One that names ours, or none, goes by what the
//! certificate says, in this order: its issuer, its user principal names, its DNS names. What is left is
//! answered here, and the store may say of an account that its domain is another one. Where a question goes
//! decides nothing: the domain that gets it decides by the whole certificate.
//!
//! Domains of one forest may share a suffix of user principal names. A name whose suffix is shared is looked
//! up in the store first. If the store knows no account of that name, the peer is asked that has the suffix,
//! if there is exactly one. So a suffix of a peer captures no account of ours ([`Suffixes`]).

use crate::certificate::{AlternativeName, Certificate, has_unreadable};
use crate::context::HOPS_MAX;
use crate::foreign::ForeignDomain;
use crate::mapping;
use crate::message::MappingFlags;
use crate::reason::Reason;
use account_store::fold::Comparison;
use account_store::{DistinguishedName, Domain};
use std::collections::{BTreeSet, HashMap};
use std::fmt;

/// A domain that is not ours.
#[derive(Clone, Debug)]
pub struct PeerDomain {
    /// What it may speak for.
    pub domain: ForeignDomain,
    /// Whether we ask it.
    pub is_asked: bool,
    /// Whether it asks us.
    pub may_ask: bool,
    /// Whether it is a node of ours, which understands a call's context.
    pub is_rcmpd: bool,
    /// NetBIOS name of the peer that is asked in its place.
    pub via: Option<String>,
    /// NetBIOS names of the domains about which it may ask through us.
    pub transit: Vec<String>,
    /// Issuers whose certificates it answers for.
    pub issuers: Vec<DistinguishedName>,
    /// Ed25519 keys that may sign its hops in a proof of path.
    pub proof_keys: Vec<[u8; 32]>,
}

/// By what a question was sent to another domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RoutedBy {
    /// LogonDomainName.
    LogonDomainName,
    /// The certificate's issuer.
    Issuer,
    /// The suffix of a user principal name.
    UserPrincipalName,
    /// The suffix of a DNS name.
    DnsName,
    /// The store, which knows whose account it is.
    Store,
}

impl RoutedBy {
    /// A stable name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::LogonDomainName => "logon_domain_name",
            Self::Issuer => "issuer",
            Self::UserPrincipalName => "upn_suffix",
            Self::DnsName => "dns_suffix",
            Self::Store => "store",
        }
    }
}

/// Which suffixes of names accounts of ours may have, beside the DNS name of our domain.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Suffixes {
    /// These.
    pub listed: Vec<String>,
    /// Any: the store knows the accounts of the whole forest, and says of each whose it is.
    pub is_forest: bool,
}

/// Where a question goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// It is answered here.
    Here,
    /// It is answered here. If there is no account, it goes to a peer.
    HereThen(usize, RoutedBy),
    /// To a peer, by its place in [`Domains::peers`].
    Peer(usize, RoutedBy),
    /// Nowhere.
    Nowhere(Reason),
}

/// What two domains may not have in common.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DomainsError {
    /// Two domains claim a name, a SID or an issuer.
    Claimed(String),
    /// A domain is reached through one that is not asked directly.
    Via(String),
    /// A domain may be asked about that is not asked.
    Transit(String),
    /// More domains than a question may pass.
    HopsMax,
}

impl fmt::Display for DomainsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Claimed(what) => write!(f, "two domains claim {what}"),
            Self::Via(name) => write!(f, "{name} is reached through a peer that is not asked directly"),
            Self::Transit(name) => write!(f, "{name} may be asked about, but is not asked"),
            Self::HopsMax => write!(f, "a question passes at least 1 and at most {HOPS_MAX} domains"),
        }
    }
}

impl std::error::Error for DomainsError {}

/// Ours, and the others.
#[derive(Clone, Debug)]
pub struct Domains {
    ours: Domain,
    peers: Vec<PeerDomain>,
    /// For each peer the one that is asked in its place: itself, where it is asked directly.
    through: Vec<usize>,
    /// NetBIOS and DNS names, lower case, without a dot at the end. A suffix that several domains have is
    /// none.
    by_name: HashMap<String, usize>,
    /// Suffixes for which the store is asked first, with the only peer that has it.
    shared: HashMap<String, Option<usize>>,
    /// Whether that holds for all names.
    is_forest: bool,
    by_issuer: HashMap<String, usize>,
    hops_max: usize,
}

/// How issuers are compared: widely, so that no spelling of one that is routed is answered here.
const ISSUERS: Comparison = Comparison::Windows;

fn folded(name: &str) -> String {
    name.strip_suffix('.').unwrap_or(name).to_lowercase()
}

impl Domains {
    /// Our domain with its peers; a question passes at most `hops_max` domains before the one that answers. A
    /// NetBIOS name, DNS name, SID or issuer that two domains claim is refused. Other suffixes may be shared.
    pub fn new(ours: Domain, peers: Vec<PeerDomain>, hops_max: usize) -> Result<Self, DomainsError> {
        Self::with_suffixes(ours, &Suffixes::default(), peers, hops_max)
    }

    /// The same, if accounts of ours have other suffixes.
    pub fn with_suffixes(
        ours: Domain,
        suffixes: &Suffixes,
        peers: Vec<PeerDomain>,
        hops_max: usize,
    ) -> Result<Self, DomainsError> {
        if !(1..=HOPS_MAX).contains(&hops_max) {
            return Err(DomainsError::HopsMax);
        }
        let (mut by_name, mut by_issuer) = (HashMap::new(), HashMap::new());
        let claimed = |what: &dyn fmt::Display| Err(DomainsError::Claimed(what.to_string()));
        for (at, peer) in peers.iter().enumerate() {
            let ForeignDomain { netbios, names, sid, .. } = &peer.domain;
            if *sid == ours.sid || peers[..at].iter().any(|other| other.domain.sid == *sid) {
                return claimed(sid);
            }
            for name in std::iter::once(netbios).chain(names.first()) {
                // Its own NetBIOS name may be a name of its own twice.
                let other = by_name.insert(folded(name), at).filter(|other| *other != at);
                if other.is_some() || ours.is_called(name) {
                    return claimed(name);
                }
            }
            for issuer in &peer.issuers {
                if by_issuer.insert(issuer.key_by(ISSUERS), at).is_some() {
                    return claimed(issuer);
                }
            }
        }
        let shared = share_suffixes(&ours, suffixes, &peers, &mut by_name)?;
        let mut through = Vec::with_capacity(peers.len());
        for (at, peer) in peers.iter().enumerate() {
            let direct = match &peer.via {
                None => at,
                Some(via) => match by_name.get(&folded(via)) {
                    Some(&direct) if peers[direct].is_asked && peers[direct].via.is_none() => direct,
                    _ => return Err(DomainsError::Via(peer.domain.netbios.clone())),
                },
            };
            through.push(direct);
            for name in &peer.transit {
                if !by_name.get(&folded(name)).is_some_and(|other| peers[*other].is_asked) {
                    return Err(DomainsError::Transit(name.clone()));
                }
            }
        }
        let is_forest = suffixes.is_forest;
        Ok(Self { ours, peers, through, by_name, shared, is_forest, by_issuer, hops_max })
    }

    /// Our domain.
    pub const fn ours(&self) -> &Domain {
        &self.ours
    }

    /// The configured peers, in the order of the configuration.
    pub fn peers(&self) -> &[PeerDomain] {
        &self.peers
    }

    /// The peer that is asked in the place of another.
    pub fn through(&self, peer: usize) -> usize {
        self.through[peer]
    }

    /// How many domains a question may pass.
    pub const fn hops_max(&self) -> usize {
        self.hops_max
    }

    /// The peer of this NetBIOS or DNS name.
    pub fn find(&self, name: &str) -> Option<usize> {
        self.by_name.get(&folded(name)).copied()
    }

    /// Whether a LogonDomainName means us.
    pub fn is_ours(&self, logon_domain_name: &str) -> bool {
        logon_domain_name.is_empty() || self.ours.is_called(logon_domain_name)
    }

    /// Where a question goes. A peer that names us has chosen us; a machine names its own domain whatever it
    /// asks.
    pub fn route(
        &self,
        logon_domain_name: &str,
        asker_is_peer: bool,
        flags: MappingFlags,
        certificate: &Certificate<'_>,
    ) -> Route {
        if asker_is_peer && self.ours.is_called(logon_domain_name) {
            return Route::Here;
        }
        let by_certificate = self.by_issuer(certificate);
        if !self.is_ours(logon_domain_name) {
            return match self.find(logon_domain_name) {
                None => Route::Nowhere(Reason::OtherDomain),
                // An issuer alone names no account. A domain that answers for all certificates of the issuer
                // has a route for it.
                Some(peer) if is_issuer_alone(flags) && by_certificate != Some(peer) => {
                    Route::Nowhere(Reason::NotForwarded)
                }
                Some(peer) => Route::Peer(peer, RoutedBy::LogonDomainName),
            };
        }
        if let Some(peer) = by_certificate {
            return Route::Peer(peer, RoutedBy::Issuer);
        }
        // Names count only for an asker that asks by them, and only as far as they are looked up.
        match certificate.alternative_names() {
            Ok(names)
                if flags.contains(MappingFlags::UPN)
                    && !has_unreadable(names, &mapping::LOOKED_UP_TOGETHER) =>
            {
                self.by_names(names)
            }
            _ => Route::Here,
        }
    }

    /// The peer that is an account's home, as the store has it, or why it is not asked.
    pub(crate) fn home(&self, home: &str, flags: MappingFlags) -> Result<usize, Reason> {
        match self.find(home).filter(|peer| self.peers[*peer].is_asked) {
            Some(_) if is_issuer_alone(flags) => Err(Reason::NotForwarded),
            Some(peer) => Ok(peer),
            None => Err(Reason::HomeNotServed),
        }
    }

    /// The peer that answers for all certificates of this one's issuer.
    fn by_issuer(&self, certificate: &Certificate<'_>) -> Option<usize> {
        if self.by_issuer.is_empty() {
            return None;
        }
        certificate.issuer_name().ok().and_then(|name| self.by_issuer.get(&name.key_by(ISSUERS)).copied())
    }

    fn by_names(&self, names: &[AlternativeName]) -> Route {
        let principals = names.iter().filter_map(|name| match name {
            AlternativeName::PrincipalName(name) => self.place(name.rsplit_once('@')?.1),
            _ => None,
        });
        let hosts = names.iter().filter_map(|name| match name {
            AlternativeName::Dns(name) if !name.contains('*') => self.place_of_host(name),
            _ => None,
        });
        for (mut places, by) in [
            (Box::new(principals) as Box<dyn Iterator<Item = Place>>, RoutedBy::UserPrincipalName),
            (Box::new(hosts), RoutedBy::DnsName),
        ] {
            let Some(first) = places.next() else { continue };
            return match (first, places.all(|other| other == first)) {
                // A certificate that matches two domains is rejected.
                (_, false) => Route::Nowhere(Reason::Ambiguous),
                (Place::Ours | Place::Shared(None), true) => Route::Here,
                (Place::Shared(Some(peer)), true) => Route::HereThen(peer, by),
                (Place::Peer(peer), true) => Route::Peer(peer, by),
            };
        }
        Route::Here
    }

    /// Whether an account of ours may have this user principal name.
    pub(crate) fn may_be_ours(&self, name: &str) -> bool {
        let place = name.rsplit_once('@').and_then(|(_, suffix)| self.place(suffix));
        matches!(place, Some(Place::Ours | Place::Shared(_)))
    }

    fn place(&self, name: &str) -> Option<Place> {
        if let Some(peer) = self.shared.get(&folded(name)) {
            return Some(Place::Shared(*peer));
        }
        if self.ours.is_called(name) {
            return Some(Place::Ours);
        }
        // A peer that only asks is not asked: its names are like any others.
        let peer = self.find(name).filter(|peer| self.peers[*peer].is_asked)?;
        Some(if self.is_forest { Place::Shared(Some(peer)) } else { Place::Peer(peer) })
    }

    /// The nearest domain above a host.
    fn place_of_host(&self, host: &str) -> Option<Place> {
        let mut rest = host;
        while let Some((_, above)) = rest.split_once('.') {
            if let Some(place) = self.place(above) {
                return Some(place);
            }
            rest = above;
        }
        None
    }
}

/// Whether the issuer is all that a question goes by.
fn is_issuer_alone(flags: MappingFlags) -> bool {
    flags.contains(MappingFlags::ISSUER)
        && !flags.contains(MappingFlags::UPN)
        && !flags.contains(MappingFlags::SUBJECT)
}

/// Where a name is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Ours,
    Peer(usize),
    /// The store says; if it knows no account, this peer.
    Shared(Option<usize>),
}

/// The suffixes that several domains have, each with the only peer that is asked about it. All other suffixes
/// of peers are added to `by_name`.
fn share_suffixes(
    ours: &Domain,
    suffixes: &Suffixes,
    peers: &[PeerDomain],
    by_name: &mut HashMap<String, usize>,
) -> Result<HashMap<String, Option<usize>>, DomainsError> {
    let mut having: HashMap<String, BTreeSet<usize>> = HashMap::new();
    for (at, peer) in peers.iter().enumerate() {
        for name in peer.domain.names.iter().skip(1) {
            // A NetBIOS name is no suffix.
            let is_netbios = |netbios: &str| name.eq_ignore_ascii_case(netbios);
            let mut others = peers.iter().enumerate().filter(|(other, _)| *other != at);
            if is_netbios(&ours.netbios) || others.any(|(_, other)| is_netbios(&other.domain.netbios)) {
                return Err(DomainsError::Claimed(name.clone()));
            }
            having.entry(folded(name)).or_default().insert(at);
        }
    }
    let listed = suffixes.listed.iter().map(|name| folded(name)).collect::<BTreeSet<_>>();
    for name in &listed {
        having.entry(name.clone()).or_default();
    }
    let mut shared = HashMap::new();
    for (name, mut having) in having {
        having.extend(by_name.get(&name));
        let is_ours = ours.is_called(&name) || listed.contains(&name);
        match (having.len(), having.first()) {
            (1, Some(only)) if !is_ours => drop(by_name.insert(name, *only)),
            (count, first) => {
                let only = first.copied().filter(|peer| count == 1 && peers[*peer].is_asked);
                shared.insert(name, only);
            }
        }
    }
    Ok(shared)
}

#[cfg(test)]
mod tests;
