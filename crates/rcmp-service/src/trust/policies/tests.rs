//! The graph beside the tree of RFC 5280 6.1.
#![expect(clippy::unwrap_used, reason = "tests")]

use super::document::{ANY, Said, by_the_document};
use super::*;
use crate::trust::name::Name;
use crate::trust::profile::{Policies, PolicyConstraints};
use proptest::prelude::*;

fn profile(said: &Said) -> Profile {
    let id = |policy: &u8| Box::<[u8]>::from([*policy]);
    let policies = said.policies.as_ref().map(|all| Policies {
        any: all.contains(&ANY),
        named: all.iter().filter(|policy| **policy != ANY).map(id).collect(),
    });
    Profile {
        issuer: Name::read(&[0x30, 0x00]).unwrap(),
        is_self_issued: said.self_issued,
        is_ca: true,
        path_len: None,
        key_usage: None,
        usages: None,
        application_policies: None,
        policies,
        mappings: said.mappings.iter().map(|(issuer, subject)| (id(issuer), id(subject))).collect(),
        policy_constraints: PolicyConstraints {
            require_explicit: said.require_explicit,
            inhibit_mapping: said.inhibit_mapping,
        },
        inhibit_any: said.inhibit_any,
        constraints: None,
    }
}

fn inputs(initial: &[u8], flags: (bool, bool, bool)) -> PolicyInputs {
    PolicyInputs {
        initial: initial.iter().map(|policy| vec![*policy]).collect(),
        require_explicit_policy: flags.0,
        inhibit_policy_mapping: flags.1,
        inhibit_any_policy: flags.2,
    }
}

fn count() -> impl Strategy<Value = Option<usize>> {
    prop_oneof![4 => Just(None), 1 => (0usize..3).prop_map(Some)]
}

fn said() -> impl Strategy<Value = Said> {
    let policies = prop::collection::btree_set(0u8..5, 1..4).prop_map(|all| all.into_iter().collect());
    let policies = prop_oneof![1 => Just(None), 9 => policies.prop_map(Some)];
    let mappings = prop::collection::vec((1u8..5, 1u8..5), 0..4);
    (prop::bool::weighted(0.2), policies, mappings, count(), count(), count()).prop_map(
        |(self_issued, policies, mappings, require_explicit, inhibit_mapping, inhibit_any)| Said {
            self_issued,
            policies,
            mappings,
            require_explicit,
            inhibit_mapping,
            inhibit_any,
        },
    )
}

fn agree(path: &[Said], initial: &[u8], flags: (bool, bool, bool)) {
    let profiles: Vec<Profile> = path.iter().map(profile).collect();
    let profiles: Vec<&Profile> = profiles.iter().collect();
    let anchor = profile(&Said::default());
    let graph = valid(&anchor, &profiles, &[&inputs(initial, flags)], &mut Work::new());
    let graph = graph.ok().map(|set| set.into_iter().map(|policy| policy[0]).collect());
    assert_eq!(graph, by_the_document(path, initial, flags), "{path:?} {initial:?} {flags:?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn the_graph_and_the_tree_agree(
        path in prop::collection::vec(said(), 1..6),
        initial in prop_oneof![Just(Vec::new()), prop::collection::vec(1u8..5, 1..3)],
        flags in (any::<bool>(), prop::bool::weighted(0.2), prop::bool::weighted(0.2)),
    ) {
        agree(&path, &initial, flags);
    }
}

/// Every certificate maps every policy to every policy: the tree of RFC 5280 doubles with each, the graph
/// does not (RFC 9618 2).
#[test]
fn no_path_makes_the_graph_explode() {
    let all: Vec<u8> = (1..=16).collect();
    let mappings: Vec<(u8, u8)> =
        all.iter().flat_map(|from| all.iter().map(move |to| (*from, *to))).collect();
    assert_eq!(mappings.len(), crate::trust::profile::POLICIES_MAX);
    let said = Said { policies: Some(all), mappings, ..Said::default() };
    let path = vec![profile(&said); crate::trust::chain::PATH_CAS_MAX];
    let path: Vec<&Profile> = path.iter().collect();
    let anchor = profile(&Said::default());
    let begun = std::time::Instant::now();
    let set = valid(&anchor, &path, &[&inputs(&[], (true, false, false))], &mut Work::new()).unwrap();
    assert_eq!(set.len(), 16);
    let took = begun.elapsed();
    assert!(took < std::time::Duration::from_millis(500), "{took:?}");
}

#[test]
fn the_first_certificate_after_which_no_policy_is_left_is_told() {
    let said = |policies: &[u8]| Said { policies: Some(policies.to_vec()), ..Said::default() };
    let anchor = profile(&Said::default());
    let path = [said(&[1, 2]), said(&[3]), said(&[1])].map(|said| profile(&said));
    let path: Vec<&Profile> = path.iter().collect();
    let (at, fault) =
        valid(&anchor, &path, &[&inputs(&[], (true, false, false))], &mut Work::new()).unwrap_err();
    assert_eq!((at, fault.error), (1, ChainError::NoExplicitPolicy));
    // RFC 5937: the anchor's own constraints are inputs, too.
    let strict = profile(&Said { require_explicit: Some(0), ..Said::default() });
    assert!(valid(&anchor, &path, &[&inputs(&[], (false, false, false))], &mut Work::new()).is_ok());
    assert!(valid(&strict, &path, &[&inputs(&[], (false, false, false))], &mut Work::new()).is_err());
}
