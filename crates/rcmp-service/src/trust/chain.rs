//! Paths from a certificate to an anchor: finding them, and what is kept of one.

use super::Which;
use super::authority::{Authority, KeyId};
use super::constraints::Names;
use super::extensions::{KEY_USAGE, SIGNS_DIGITALLY, basic_constraints, value};
use super::hashes::Hashes;
use super::name::Name;
use super::policies::{self, PolicyInputs};
use super::profile::{Profile, Role};
use super::refusal::{ChainError, Fault, Refusal};
use super::serial::Serial;
use super::signature::{SignatureError, Signed, check_key};
use super::work::Work;
use crate::certificate::Certificate;
use crate::der::{self, Der, Element};
use dtyp::{DecodeError, FileTime};
use sha2::{Digest, Sha256};
use std::cell::OnceCell;
use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::Arc;

/// Most CAs above a certificate. Bridges between governments have eight.
pub(super) const PATH_CAS_MAX: usize = 16;
/// Most policies that are kept of a path, and most bytes in them: paths are cached. With more, none is kept,
/// and no name is strong by one.
const PATH_POLICIES_MAX: usize = 64;
const PATH_POLICIES_LEN_MAX: usize = 2048;
/// Most names of distribution points, and most bytes in them; certificates have one or two. With more, none
/// is known, and no partition covers the certificate.
const DISTRIBUTION_POINTS_MAX: usize = 16;
const DISTRIBUTION_POINTS_LEN_MAX: usize = 2048;
/// What a step to another CA costs, in comparisons.
const WORK_OF_A_STEP: usize = 50;
/// id-ce-authorityKeyIdentifier, 2.5.29.35.
const AUTHORITY_KEY_IDENTIFIER: &[u8] = &[0x55, 0x1d, 0x23];
/// id-ce-cRLDistributionPoints, 2.5.29.31.
const CRL_DISTRIBUTION_POINTS: &[u8] = &[0x55, 0x1d, 0x1f];

/// directoryName (RFC 5280 4.2.1.6).
const DIRECTORY_NAME: u8 = 0xa4;

/// A verified path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Path {
    /// The CAs: who issued the certificate first, the anchor last.
    pub authorities: Vec<KeyId>,
    /// From when on all certificates of the path are valid.
    pub not_before: FileTime,
    /// The last second in which all of them are.
    pub not_after: FileTime,
    /// The certificate policies for which the path is valid, in the domain of its anchor (the
    /// authority-constrained-policy-set of RFC 5280 6.1.6), as contents octets of object identifiers;
    /// anyPolicy is none.
    pub policies: Vec<Box<[u8]>>,
    /// The certificate, and then every intermediate: whatever can be revoked.
    pub(super) links: Vec<Link>,
}

impl Path {
    /// The key of the CA that issued the certificate.
    pub fn issuer(&self) -> KeyId {
        self.authorities[0]
    }

    /// The key of the anchor.
    pub fn anchor(&self) -> KeyId {
        self.authorities[self.authorities.len() - 1]
    }

    /// Names the certificate of a link.
    pub(super) fn which(&self, link: usize) -> Which {
        link.checked_sub(1).map_or(Which::Leaf, |at| Which::Authority(self.authorities[at]))
    }

    /// Whether all certificates of the path are valid.
    pub fn is_valid_at(&self, now: FileTime) -> bool {
        is_within(self.not_before, self.not_after, now)
    }

    fn new(links: Vec<(&Certificate<'_>, &Authority)>, policies: Vec<Box<[u8]>>) -> Result<Self, ChainError> {
        let anchor = links.last().ok_or(ChainError::UnknownIssuer)?.1;
        let mut path = Self {
            authorities: links.iter().map(|(_, issuer)| issuer.key).collect(),
            not_before: anchor.not_before,
            not_after: anchor.not_after,
            policies,
            links: Vec::with_capacity(links.len()),
        };
        for (at, (certificate, issuer)) in links.into_iter().enumerate() {
            path.not_before = path.not_before.max(certificate.not_before);
            path.not_after = path.not_after.min(certificate.not_after);
            path.links.push(Link::new(certificate, issuer, at > 0)?);
        }
        Ok(path)
    }
}

/// One certificate of a path and who issued it: all that revocation asks about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Link {
    /// Names the certificate among all: issuer's key, issuer's name and serial number.
    pub(super) id: [u8; 32],
    pub(super) issuer: KeyId,
    /// The issuer's name. Two CAs with one key, if there are such, count their certificates by name.
    pub(super) issuer_name: Name,
    /// Hashes of the issuer's name as the certificate has it, by which OCSP knows it (RFC 6960 4.1.1).
    pub(super) issuer_name_hashes: Hashes,
    pub(super) serial: Serial,
    pub(super) is_ca: bool,
    /// The names of its distribution points, as they are compared. Never an address to us.
    pub(super) distribution_points: Vec<Box<[u8]>>,
}

impl Link {
    pub(super) fn new(
        certificate: &Certificate<'_>,
        issuer: &Authority,
        is_ca: bool,
    ) -> Result<Self, ChainError> {
        let serial = Serial::of(certificate).ok_or(ChainError::SerialTooLong)?;
        let id = Sha256::new()
            .chain_update(issuer.key.0)
            .chain_update(serial.0)
            .chain_update(issuer.subject_name.as_bytes())
            .finalize()
            .into();
        Ok(Self {
            id,
            issuer: issuer.key,
            issuer_name: issuer.subject_name.clone(),
            issuer_name_hashes: Hashes::of(certificate.issuer),
            serial,
            is_ca,
            // Whatever cannot be read is in the scope of no partition.
            distribution_points: distribution_points(certificate, &issuer.subject_name).unwrap_or_default(),
        })
    }
}

/// RFC 5280 4.2.1.13, the points that the issuer itself serves.
fn distribution_points(certificate: &Certificate<'_>, issuer: &Name) -> Result<Vec<Box<[u8]>>, DecodeError> {
    let Some(extension) = certificate.extension(CRL_DISTRIBUTION_POINTS) else { return Ok(Vec::new()) };
    let mut list = value(&extension, "cRLDistributionPoints", der::SEQUENCE)?.inside();
    let mut names = Vec::new();
    while !list.is_empty() {
        let mut point = list.expect("DistributionPoint", der::SEQUENCE)?.inside();
        let name = point.optional("distributionPoint", 0xa0)?;
        point.optional("reasons", 0x81)?;
        let crl_issuer = point.optional("cRLIssuer", 0xa2)?;
        point.finish("DistributionPoint")?;
        if let (Some(name), None) = (name, crl_issuer) {
            names.extend(point_names(&name, issuer)?);
        }
    }
    // Paths are cached, and the CA writes these.
    let len = names.iter().fold(0, |len, name: &Box<_>| len + <[u8]>::len(name));
    match names.len() <= DISTRIBUTION_POINTS_MAX && len <= DISTRIBUTION_POINTS_LEN_MAX {
        true => Ok(names),
        false => Err(list.error("cRLDistributionPoints", dtyp::DecodeErrorKind::TooLong)),
    }
}

/// The names of a DistributionPointName, as they are compared: directory names by RFC 5280 7.1, the one that
/// is relative to the issuer of the list among them (4.2.1.13), and all others by their encoding.
pub(super) fn point_names(name: &Element<'_>, issuer: &Name) -> Result<Vec<Box<[u8]>>, DecodeError> {
    let directory_name = |name: &[&[u8]]| [&[DIRECTORY_NAME], &name.concat()[..]].concat().into_boxed_slice();
    let mut choice = name.inside();
    let names = choice.any("DistributionPointName")?;
    choice.finish("DistributionPointName")?;
    match names.tag {
        0xa0 => {
            let mut list: Der<'_> = names.inside();
            let mut names = Vec::new();
            while !list.is_empty() {
                let general = list.any("GeneralName")?;
                names.push(match general.tag {
                    DIRECTORY_NAME => directory_name(&[Name::read(general.contents)?.as_bytes()]),
                    _ => general.encoded.into(),
                });
            }
            Ok(names)
        }
        0xa1 => {
            let rdn = der::encode(der::SET, &[names.contents]);
            let rdn = Name::read(&der::encode(der::SEQUENCE, &[&rdn]))?;
            Ok(vec![directory_name(&[issuer.as_bytes(), rdn.as_bytes()])])
        }
        _ => Err(name.inside().error("DistributionPointName", dtyp::DecodeErrorKind::BadValue)),
    }
}

/// Whether a second lies in an interval whose last second is `last`.
pub(super) fn is_within(first: FileTime, last: FileTime, now: FileTime) -> bool {
    (first..=last).contains(&FileTime::from_unix(now.to_unix()))
}

/// Which extended key usages a certificate may have.
#[derive(Clone, Debug)]
pub(super) struct Usages {
    pub(super) any_of: Vec<Vec<u8>>,
    pub(super) required: bool,
}

impl Usages {
    /// Whether the extended key usages of a certificate, and its application policies, allow one of these.
    fn allow(&self, profile: &Profile) -> bool {
        let is_wanted = |usage: &[u8]| self.any_of.iter().any(|wanted| wanted == usage);
        self.any_of.is_empty()
            || profile.usages.as_ref().is_none_or(|usages| usages.iter().any(|usage| is_wanted(usage)))
                && profile.application_policies.as_ref().is_none_or(|ids| ids.iter().any(|id| is_wanted(id)))
    }
}

/// What paths are built from, and by which rules.
#[derive(Clone, Debug)]
pub(super) struct Chains {
    /// The anchors, then the intermediates.
    pub(super) authorities: Vec<Arc<Authority>>,
    /// The CAs of a name, in the order in which they are tried.
    pub(super) by_name: HashMap<Name, Vec<usize>>,
    /// For each CA those that issued it, by their signatures, in the order in which they are tried; none for
    /// anchors.
    pub(super) issuers: Vec<Vec<usize>>,
    /// How many CAs are above each on the shortest way to an anchor; none for one that no anchor is above.
    pub(super) distances: Vec<Option<usize>>,
    rules: Arc<Rules>,
}

/// What an operator asks of paths.
#[derive(Debug)]
pub(super) struct Rules {
    pub(super) usages: Usages,
    pub(super) policies: PolicyInputs,
    /// What is asked beside that of paths through single CAs.
    pub(super) authority_policies: HashMap<KeyId, PolicyInputs>,
    /// Fewest bits of the RSA key of the certificate that is asked about.
    pub(super) rsa_bits_min: usize,
}

impl Chains {
    /// From authorities of which the anchors come first. Which CA issued which is found out here, once, so
    /// that a request costs one signature however long its path is. The error tells an intermediate that
    /// nothing configured has issued.
    pub(super) fn new(authorities: Vec<Authority>, rules: Rules) -> Result<Self, (usize, Option<Fault>)> {
        // Not the order of the configuration: which path is found must not depend on it. Of paths of one
        // length that through the CA that is valid longest is tried first; then the order is that of the
        // bytes.
        let mut order: Vec<usize> = (0..authorities.len()).collect();
        order.sort_by_key(|at| {
            let it = &authorities[*at];
            (!it.is_anchor, Reverse(it.not_after), &it.der)
        });
        let mut by_name: HashMap<Name, Vec<usize>> = HashMap::new();
        for at in order {
            by_name.entry(authorities[at].subject_name.clone()).or_default().push(at);
        }
        let authorities = authorities.into_iter().map(Arc::new).collect();
        let rules = Arc::new(rules);
        let mut chains = Self { issuers: Vec::new(), distances: Vec::new(), authorities, by_name, rules };
        for (at, authority) in chains.authorities.iter().enumerate() {
            let mut issuers = Vec::new();
            if !authority.is_anchor {
                let found = Signed::parse(&authority.der, "Certificate")
                    .map_err(|_| Fault::from(ChainError::Malformed))
                    .and_then(|signed| {
                        let skipped = |at: usize| chains.authorities[at].der == authority.der;
                        chains
                            .issuers_of(&signed, &authority.issuer_name, None, skipped, &mut Work::new())
                            .map_err(|(fault, _)| fault)
                    });
                issuers = found.map_err(|fault| {
                    let told = !matches!(fault.error, ChainError::UnknownIssuer | ChainError::BadSignature);
                    (at, told.then_some(fault))
                })?;
            }
            chains.issuers.push(issuers);
        }
        chains.distances = distances(&chains.authorities, &chains.issuers);
        Ok(chains)
    }

    /// The configured CA of this name and key.
    pub(super) fn authority(&self, key: KeyId, name: &Name) -> Option<&Authority> {
        self.named(name).find(|authority| authority.key == key)
    }

    /// The configured CAs of this name.
    pub(super) fn named(&self, name: &Name) -> impl Iterator<Item = &Authority> {
        self.by_name.get(name).into_iter().flatten().map(|at| &*self.authorities[*at])
    }

    /// The CAs that signed something: of this name, by one of their keys. The error tells the CA that is at
    /// fault, if one is.
    pub(super) fn issuers_of(
        &self,
        signed: &Signed<'_>,
        name: &Name,
        key_identifier: Option<&[u8]>,
        skipped: impl Fn(usize) -> bool,
        work: &mut Work,
    ) -> Result<Vec<usize>, (Fault, Option<KeyId>)> {
        let named = self.by_name.get(name).filter(|_| !name.is_empty());
        let mut candidates: Vec<usize> = named.into_iter().flatten().copied().collect();
        candidates.retain(|at| !skipped(*at));
        // A hint that saves signatures, and decides nothing.
        let hinted = |at: &usize| {
            key_identifier.is_some() && self.authorities[*at].key_identifier.as_deref() == key_identifier
        };
        let mut keys: Vec<KeyId> = Vec::new();
        for at in candidates.iter().filter(|at| hinted(at)).chain(&candidates) {
            if !keys.contains(&self.authorities[*at].key) {
                keys.push(self.authorities[*at].key);
            }
        }
        let mut error = (Fault::from(ChainError::UnknownIssuer), None);
        for key in &keys {
            let of_key = |at: &&usize| self.authorities[**at].key == *key;
            let Some(first) = candidates.iter().find(of_key) else { continue };
            work.spend_signature().map_err(|fault| (fault, None))?;
            let issuer = &self.authorities[*first];
            match signed.verify(&issuer.public_key) {
                Ok(()) => return Ok(candidates.iter().filter(of_key).copied().collect()),
                Err(verdict) => {
                    let worse = match (verdict, check_key(&issuer.public_key, super::RSA_BITS_MIN)) {
                        // Signatures of such a key are not looked at, so the key is what is wrong.
                        (_, Err(fault)) => (fault, Some(*key)),
                        (SignatureError::UnsupportedAlgorithm, Ok(())) => {
                            (Fault::algorithm(signed.algorithm_id()), None)
                        }
                        (SignatureError::BadSignature, Ok(())) => (ChainError::BadSignature.into(), None),
                    };
                    // Of several namesakes the reason is told that is more than "another key".
                    if error.0.error == ChainError::UnknownIssuer || worse.0.error > error.0.error {
                        error = worse;
                    }
                }
            }
        }
        Err(error)
    }

    /// Finds a path that is good now, with what is left of the work.
    pub(super) fn verify(&self, encoded: &[u8], now: FileTime, work: Work) -> Result<Path, Refusal> {
        let malformed = |_: DecodeError| Fault::from(ChainError::Malformed).at(Which::Leaf, 0);
        self.verify_parsed(&Certificate::parse(encoded).map_err(malformed)?, now, work)
    }

    /// The same for a certificate that was read.
    pub(super) fn verify_parsed(
        &self,
        certificate: &Certificate<'_>,
        now: FileTime,
        mut work: Work,
    ) -> Result<Path, Refusal> {
        let leaf = |fault: Fault| fault.at(Which::Leaf, 0);
        let malformed = |_: DecodeError| leaf(ChainError::Malformed.into());
        let signed = Signed::parse(certificate.encoded, "Certificate").map_err(malformed)?;
        let profile = self.check_leaf(certificate, now).map_err(leaf)?;
        let hint = authority_key_identifier(certificate);
        let issuers = self
            .issuers_of(&signed, &profile.issuer, hint, |_| false, &mut work)
            .map_err(|(fault, key)| key.map_or(leaf(fault), |key| fault.at(Which::Authority(key), 1)))?;
        let mut search = Search {
            chains: self,
            certificate,
            profile: &profile,
            names: OnceCell::new(),
            now,
            work,
            above: Vec::new(),
            is_cut: false,
            refusal: None,
        };
        // Shorter paths first, each length once: in a mesh of cross-certificates the way to an anchor is not
        // lost in long detours.
        let shortest = issuers.iter().filter_map(|at| self.distances[*at]).min().map_or(1, |above| above + 1);
        for len in shortest.min(PATH_CAS_MAX)..=PATH_CAS_MAX {
            search.is_cut = false;
            if let Some(path) = search.climb(&issuers, len) {
                return Ok(path);
            }
            if !search.is_cut {
                break;
            }
        }
        Err(search.refusal.unwrap_or_else(|| leaf(ChainError::UnknownIssuer.into())))
    }

    /// The rules that the certificate itself has to keep.
    fn check_leaf(&self, certificate: &Certificate<'_>, now: FileTime) -> Result<Profile, Fault> {
        // First: what else is read of a CA's certificate can be much, and comes from a client that nothing is
        // known of.
        if basic_constraints(certificate).is_ok_and(|(is_ca, _)| is_ca) {
            return Err(ChainError::IsACa.into());
        }
        let profile = Profile::read(certificate, Role::Other)?;
        match Dates::of(certificate.not_before, certificate.not_after, now) {
            Dates::Good => {}
            Dates::Over => return Err(ChainError::Expired.into()),
            Dates::Early => return Err(ChainError::NotYetValid.into()),
        }
        // TLS has the client sign (RFC 8446 4.4.2.2). keyAgreement is for static Diffie-Hellman, which it
        // does not have any more, and nonRepudiation is for documents.
        if profile.key_usage.is_some_and(|bits| bits & SIGNS_DIGITALLY == 0) {
            return Err(Fault::extension(ChainError::NotForSigning, KEY_USAGE));
        }
        if !self.rules.usages.allow(&profile) || self.rules.usages.required && profile.usages.is_none() {
            return Err(ChainError::NotForClientAuthentication.into());
        }
        check_key(certificate.public_key, self.rules.rsa_bits_min)?;
        Ok(profile)
    }
}

/// How many CAs are above each on the shortest way to an anchor.
pub(super) fn distances(authorities: &[Arc<Authority>], issuers: &[Vec<usize>]) -> Vec<Option<usize>> {
    let mut distances: Vec<Option<usize>> = authorities.iter().map(|it| it.is_anchor.then_some(0)).collect();
    // Each round settles all that are one step farther away.
    let mut is_settled = false;
    while !is_settled {
        is_settled = true;
        for (at, issuers) in issuers.iter().enumerate() {
            let above = issuers.iter().filter_map(|issuer| distances[*issuer]).min();
            if let Some(above) = above.filter(|above| distances[at].is_none_or(|known| above + 1 < known)) {
                distances[at] = Some(above + 1);
                is_settled = false;
            }
        }
    }
    distances
}

/// Whether an issuer certified, directly, that a certificate's owner may do something: for OCSP responders.
/// `usage` has to be among its extended key usages by its name.
pub(super) fn check_direct(
    certificate: &Certificate<'_>,
    issuer: &Authority,
    usage: &[u8],
    now: FileTime,
) -> Result<Profile, ChainError> {
    let told = |fault: Fault| fault.error;
    let profile = Profile::read(certificate, Role::Other).map_err(told)?;
    if profile.issuer != issuer.subject_name {
        return Err(ChainError::UnknownIssuer);
    }
    let signed = Signed::parse(certificate.encoded, "Certificate").map_err(|_| ChainError::Malformed)?;
    signed.verify(&issuer.public_key).map_err(|error| match error {
        SignatureError::BadSignature => ChainError::BadSignature,
        SignatureError::UnsupportedAlgorithm => ChainError::UnsupportedAlgorithm,
    })?;
    if profile.is_ca {
        return Err(ChainError::IsACa);
    }
    match Dates::of(certificate.not_before, certificate.not_after, now) {
        Dates::Good => {}
        Dates::Over => return Err(ChainError::Expired),
        Dates::Early => return Err(ChainError::NotYetValid),
    }
    if !profile.usages.as_ref().is_some_and(|usages| usages.iter().any(|it| it == usage)) {
        return Err(ChainError::NotForClientAuthentication);
    }
    check_key(certificate.public_key, super::RSA_BITS_MIN).map_err(told)?;
    if let Some(constraints) = &issuer.profile.as_ref().map_err(|fault| fault.error)?.constraints {
        let names = Names::of(certificate).map_err(told)?;
        constraints.check(&names, &mut Work::new()).map_err(told)?;
    }
    Ok(profile)
}

/// The contents of keyIdentifier in the authorityKeyIdentifier (RFC 5280 4.2.1.1), if it can be read.
pub(super) fn authority_key_identifier<'a>(certificate: &Certificate<'a>) -> Option<&'a [u8]> {
    let extension = certificate.extension(AUTHORITY_KEY_IDENTIFIER)?;
    let mut fields = value(&extension, "authorityKeyIdentifier", der::SEQUENCE).ok()?.inside();
    fields.optional("keyIdentifier", 0x80).ok()?.map(|element| element.contents)
}

/// Whether a certificate is valid at a time.
enum Dates {
    Good,
    Over,
    Early,
}

impl Dates {
    fn of(not_before: FileTime, not_after: FileTime, now: FileTime) -> Self {
        let second = FileTime::from_unix(now.to_unix());
        match () {
            () if not_after < second => Self::Over,
            () if not_before > second => Self::Early,
            () => Self::Good,
        }
    }
}

/// The search for a path of one certificate, from the certificate to the anchors: depth first, for one length
/// after the other. Every path is tried until one is good or [`Work`] is used up.
struct Search<'a> {
    chains: &'a Chains,
    certificate: &'a Certificate<'a>,
    profile: &'a Profile,
    /// The certificate's names, which only constraints ask for.
    names: OnceCell<Result<Names, Fault>>,
    now: FileTime,
    work: Work,
    /// The CAs so far, the issuer first.
    above: Vec<usize>,
    /// Whether there may be longer paths than those of the length that is tried.
    is_cut: bool,
    /// The reason of the path that got furthest.
    refusal: Option<Refusal>,
}

impl Search<'_> {
    /// Tries all CAs that issued what `above` ends with, for paths of `len` CAs.
    fn climb(&mut self, issuers: &[usize], len: usize) -> Option<Path> {
        for at in issuers {
            let authority = &self.chains.authorities[*at];
            let depth = self.above.len() + 1;
            let refused = |fault: Fault| fault.at(Which::Authority(authority.key), depth);
            let Some(left) = self.chains.distances[*at] else { continue };
            if depth + left > len {
                if len == PATH_CAS_MAX {
                    let limit = Fault::limit(ChainError::PathTooLong, "CAs", PATH_CAS_MAX, depth + left);
                    self.refuse(refused(limit));
                }
                self.is_cut = true;
                continue;
            }
            // A path that ends before was tried before.
            if authority.is_anchor && depth < len {
                continue;
            }
            // A CA that is on the path already adds nothing (RFC 4158 2.4.2).
            let is_same = |other: &Authority| {
                other.key == authority.key && other.subject_name == authority.subject_name
            };
            if self.above.iter().any(|at| is_same(&self.chains.authorities[*at])) {
                continue;
            }
            if let Err(fault) = self.work.spend(WORK_OF_A_STEP).and_then(|()| self.check_authority(authority))
            {
                self.refuse(refused(fault));
                continue;
            }
            self.above.push(*at);
            let found = match authority.is_anchor {
                true => self.finish(),
                false => self.climb(&self.chains.issuers[*at], len),
            };
            self.above.pop();
            if found.is_some() {
                return found;
            }
        }
        None
    }

    /// What a CA says by itself of the certificates below it.
    fn check_authority(&self, authority: &Authority) -> Result<(), Fault> {
        let profile = authority.profile.as_ref().map_err(|fault| *fault)?;
        let (over, early) = match authority.is_anchor {
            true => (ChainError::AnchorExpired, ChainError::AnchorNotYetValid),
            false => (ChainError::IssuerExpired, ChainError::IssuerNotYetValid),
        };
        match Dates::of(authority.not_before, authority.not_after, self.now) {
            Dates::Good => {}
            Dates::Over => return Err(over.into()),
            Dates::Early => return Err(early.into()),
        }
        if !self.chains.rules.usages.allow(profile) {
            return Err(ChainError::NotForClientAuthentication.into());
        }
        // Self-issued certificates do not count (RFC 5280 4.2.1.9).
        let below = self.profiles().filter(|profile| !profile.is_self_issued).count();
        match profile.path_len {
            Some(limit) if below > limit => {
                Err(Fault::limit(ChainError::PathLength, "CAs below it", limit, below))
            }
            _ => Ok(()),
        }
    }

    /// The CAs of `above`, of which each was checked.
    fn profiles(&self) -> impl DoubleEndedIterator<Item = &Profile> {
        self.above.iter().filter_map(|at| self.chains.authorities[*at].profile.as_ref().ok())
    }

    /// An anchor is reached: what has to be seen from there down.
    fn finish(&mut self) -> Option<Path> {
        match self.check_path() {
            Ok(policies) => {
                let authorities = self.above.iter().map(|at| &*self.chains.authorities[*at]);
                let path = self.path(authorities.collect(), policies);
                path.map_err(|error| self.refuse(Fault::from(error).at(Which::Leaf, 0))).ok()
            }
            Err((depth, fault)) => {
                let which = match depth.checked_sub(1) {
                    None => Which::Leaf,
                    Some(at) => Which::Authority(self.chains.authorities[self.above[at]].key),
                };
                self.refuse(fault.at(which, depth));
                None
            }
        }
    }

    /// Name constraints and certificate policies. The error tells the depth.
    fn check_path(&mut self) -> Result<Vec<Box<[u8]>>, (usize, Fault)> {
        let chains = self.chains;
        let authorities: Vec<&Authority> = self.above.iter().map(|at| &*chains.authorities[*at]).collect();
        let profiles: Vec<&Profile> = authorities.iter().filter_map(|it| it.profile.as_ref().ok()).collect();
        let Some((anchor, intermediates)) = profiles.split_last() else {
            return Err((0, ChainError::UnknownIssuer.into()));
        };
        for (at, issuer) in profiles.iter().enumerate() {
            let Some(constraints) = &issuer.constraints else { continue };
            // RFC 5280 6.1.3 (b), (c): all below, except self-issued ones that are not the last.
            for (depth, below) in authorities[..at].iter().enumerate() {
                if profiles[depth].is_self_issued {
                    continue;
                }
                let check = below.names.as_ref().map_err(|fault| *fault);
                check
                    .and_then(|names| constraints.check(names, &mut self.work))
                    .map_err(|fault| (depth + 1, fault))?;
            }
            let names = self.names.get_or_init(|| Names::of(self.certificate));
            let check = names.as_ref().map_err(|fault| *fault);
            check.and_then(|names| constraints.check(names, &mut self.work)).map_err(|fault| (0, fault))?;
        }
        let mut downwards: Vec<&Profile> = intermediates.iter().rev().copied().collect();
        downwards.push(self.profile);
        let last = downwards.len() - 1;
        let own = authorities.iter().filter_map(|it| chains.rules.authority_policies.get(&it.key));
        let inputs: Vec<&PolicyInputs> = std::iter::once(&chains.rules.policies).chain(own).collect();
        let valid = policies::valid(anchor, &downwards, &inputs, &mut self.work)
            .map_err(|(at, fault)| (last - at, fault))?;
        let len = valid.iter().map(|policy| policy.len()).sum::<usize>();
        match valid.len() <= PATH_POLICIES_MAX && len <= PATH_POLICIES_LEN_MAX {
            true => Ok(valid.into_iter().map(Into::into).collect()),
            false => Ok(Vec::new()),
        }
    }

    fn path(&self, authorities: Vec<&Authority>, policies: Vec<Box<[u8]>>) -> Result<Path, ChainError> {
        let intermediates = authorities[..authorities.len() - 1]
            .iter()
            .map(|authority| Certificate::parse(&authority.der))
            .collect::<Result<Vec<_>, _>>()
            .map_err(|_| ChainError::Malformed)?;
        Path::new(
            std::iter::once(self.certificate).chain(&intermediates).zip(authorities).collect(),
            policies,
        )
    }

    fn refuse(&mut self, refusal: Refusal) {
        let is_temporary = refusal.is_temporary || self.refusal.is_some_and(|known| known.is_temporary);
        let told = self.refusal.filter(|known| known.rank() >= refusal.rank()).unwrap_or(refusal);
        self.refusal = Some(Refusal { is_temporary, ..told });
    }
}
