//! Certificate policies of a path, by the graph of RFC 9618 (which replaces the exponential tree of RFC 5280
//! 6.1).
//!
//! Each certificate has one level, and a level has each policy once, so the graph is no larger than what the
//! certificates say.

use super::profile::Profile;
use super::refusal::{ChainError, Fault};
use super::work::Work;
use std::collections::{BTreeMap, BTreeSet, HashSet};

/// The inputs of RFC 5280 6.1.1 (c), (e), (f) and (g).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PolicyInputs {
    /// user-initial-policy-set: contents octets of object identifiers; empty for any-policy.
    pub initial: Vec<Vec<u8>>,
    /// initial-explicit-policy.
    pub require_explicit_policy: bool,
    /// initial-policy-mapping-inhibit.
    pub inhibit_policy_mapping: bool,
    /// initial-any-policy-inhibit.
    pub inhibit_any_policy: bool,
}

/// What one certificate of a path says, in the order of the path: below the anchor first.
#[derive(Debug, Default)]
struct Level<'a> {
    /// Nodes by valid_policy.
    nodes: BTreeMap<&'a [u8], Node<'a>>,
    /// Whether there is a node for anyPolicy.
    any: bool,
}

/// A node that is not anyPolicy's.
#[derive(Debug, Default)]
struct Node<'a> {
    /// Policies of the level above from which this one comes; empty when it comes from anyPolicy.
    parents: BTreeSet<&'a [u8]>,
    /// Whether the certificate maps it.
    mapped: bool,
}

impl Level<'_> {
    fn is_empty(&self) -> bool {
        self.nodes.is_empty() && !self.any
    }
}

/// The policies for which a path is valid, in the domain of its anchor: the authority-constrained-policy-set
/// of RFC 5280 6.1.6, without anyPolicy. `path` is below the anchor first. Of several inputs each is asked
/// for: the sets are intersected. The error tells the certificate by its index.
pub(super) fn valid<'a>(
    anchor: &Profile,
    path: &[&'a Profile],
    inputs: &[&PolicyInputs],
    work: &mut Work,
) -> Result<BTreeSet<&'a [u8]>, (usize, Fault)> {
    let last = path.len() - 1;
    // RFC 5280 6.1.2 (d), (e), (f). The constraints of the anchor itself count, as in RFC 5937.
    let initial = |inhibit: bool, own: Option<usize>| match inhibit {
        true => 0,
        false => (path.len() + 1).min(own.unwrap_or(usize::MAX)),
    };
    let is_asked = |flag: fn(&PolicyInputs) -> bool| inputs.iter().any(|inputs| flag(inputs));
    let mut explicit =
        initial(is_asked(|it| it.require_explicit_policy), anchor.policy_constraints.require_explicit);
    let mut mapping =
        initial(is_asked(|it| it.inhibit_policy_mapping), anchor.policy_constraints.inhibit_mapping);
    let mut any = initial(is_asked(|it| it.inhibit_any_policy), anchor.inhibit_any);

    let mut levels = Vec::with_capacity(path.len());
    let mut level = Level { nodes: BTreeMap::new(), any: true };
    for (at, certificate) in path.iter().enumerate() {
        let is_last = at == last;
        let any_allowed = any > 0 || !is_last && certificate.is_self_issued;
        narrow(&mut level, certificate, any_allowed);
        work.spend(level.nodes.len() + 1).map_err(|fault| (at, fault))?;
        if is_last {
            // 6.1.5 (a), (b).
            explicit = explicit.saturating_sub(1);
            if certificate.policy_constraints.require_explicit == Some(0) {
                explicit = 0;
            }
            levels.push(level);
            break;
        }
        // 6.1.4 (a), (b).
        let next = map(&mut level, certificate, mapping > 0);
        work.spend(next.nodes.len() + certificate.mappings.len()).map_err(|fault| (at, fault))?;
        levels.push(std::mem::replace(&mut level, next));
        // (h), (i), (j).
        if !certificate.is_self_issued {
            explicit = explicit.saturating_sub(1);
            mapping = mapping.saturating_sub(1);
            any = any.saturating_sub(1);
        }
        let lower =
            |counter: &mut usize, to: Option<usize>| *counter = (*counter).min(to.unwrap_or(usize::MAX));
        lower(&mut explicit, certificate.policy_constraints.require_explicit);
        lower(&mut mapping, certificate.policy_constraints.inhibit_mapping);
        lower(&mut any, certificate.inhibit_any);
    }
    let bottom = &levels[last];
    let set = authority_constrained(&levels);
    // 6.1.5 (g).
    let mut initial_sets = inputs.iter().map(|inputs| &inputs.initial).filter(|set| !set.is_empty());
    let is_valid = match initial_sets.next() {
        None => !bottom.is_empty(),
        Some(first) => {
            let others: Vec<_> = initial_sets.collect();
            first.iter().any(|policy| {
                (bottom.any || set.contains(&policy[..])) && others.iter().all(|other| other.contains(policy))
            })
        }
    };
    match explicit > 0 || is_valid {
        true => Ok(set),
        // No certificate is at fault alone; the first after which no policy is left is told.
        false => {
            let at = levels.iter().position(Level::is_empty).unwrap_or(last);
            Err((at, ChainError::NoExplicitPolicy.into()))
        }
    }
}

/// RFC 5280 6.1.3 (d), (e): keeps of the expected policies what the certificate asserts, and adds what
/// anyPolicy above allows.
fn narrow<'a>(level: &mut Level<'a>, certificate: &'a Profile, any_allowed: bool) {
    let Some(policies) = &certificate.policies else {
        *level = Level::default();
        return;
    };
    let above = level.any;
    if !(policies.any && any_allowed) {
        let asserted: HashSet<&[u8]> = policies.named.iter().map(|policy| &**policy).collect();
        level.nodes.retain(|policy, _| asserted.contains(policy));
        level.any = false;
    }
    if above {
        for policy in &policies.named {
            level.nodes.entry(policy).or_default();
        }
    }
}

/// RFC 5280 6.1.4 (b): the policies that the next certificate may assert.
fn map<'a>(level: &mut Level<'a>, certificate: &'a Profile, allowed: bool) -> Level<'a> {
    let mut next = Level { nodes: BTreeMap::new(), any: level.any };
    for (issuer, _) in &certificate.mappings {
        match allowed {
            true if level.any => level.nodes.entry(issuer).or_default().mapped = true,
            true => {
                if let Some(node) = level.nodes.get_mut(&**issuer) {
                    node.mapped = true;
                }
            }
            false => {
                level.nodes.remove(&**issuer);
            }
        }
    }
    for (policy, _) in level.nodes.iter().filter(|(_, node)| !node.mapped) {
        next.nodes.entry(policy).or_default().parents.insert(policy);
    }
    if allowed {
        for (issuer, subject) in &certificate.mappings {
            if level.nodes.contains_key(&**issuer) {
                next.nodes.entry(subject).or_default().parents.insert(issuer);
            }
        }
    }
    next
}

/// The policies that come from anyPolicy (the anchor's domain) and lead to the last certificate.
fn authority_constrained<'a>(levels: &[Level<'a>]) -> BTreeSet<&'a [u8]> {
    let mut set = BTreeSet::new();
    let mut reachable: BTreeSet<&[u8]> =
        levels.last().map(|level| level.nodes.keys().copied().collect()).unwrap_or_default();
    for level in levels.iter().rev() {
        let mut above = BTreeSet::new();
        for policy in &reachable {
            match level.nodes.get(policy) {
                Some(node) if node.parents.is_empty() => {
                    set.insert(*policy);
                }
                Some(node) => above.extend(node.parents.iter().copied()),
                None => {}
            }
        }
        reachable = above;
    }
    set
}

#[cfg(test)]
#[path = "policies/document.rs"]
pub(super) mod document;
#[cfg(test)]
#[path = "policies/tests.rs"]
mod tests;
