//! Certificate policies by the tree of RFC 5280 6.1, step by step as the document has it: what tests and the
//! fuzzer compare with.

use std::collections::BTreeSet;

/// anyPolicy; all other policies have other numbers.
pub(crate) const ANY: u8 = 0;

/// What a certificate says of policies.
#[derive(Clone, Debug, Default)]
pub(crate) struct Said {
    pub(crate) self_issued: bool,
    pub(crate) policies: Option<Vec<u8>>,
    pub(crate) mappings: Vec<(u8, u8)>,
    pub(crate) require_explicit: Option<usize>,
    pub(crate) inhibit_mapping: Option<usize>,
    pub(crate) inhibit_any: Option<usize>,
}

/// A node of the tree, with its place in the list for a name.
#[derive(Clone, Debug)]
struct TreeNode {
    depth: usize,
    policy: u8,
    expected: Vec<u8>,
    parent: usize,
    is_there: bool,
}

#[derive(Default)]
struct Tree(Vec<TreeNode>);

impl Tree {
    fn at(&self, depth: usize) -> Vec<usize> {
        (0..self.0.len()).filter(|at| self.0[*at].is_there && self.0[*at].depth == depth).collect()
    }

    fn children(&self, node: usize) -> Vec<usize> {
        (1..self.0.len()).filter(|at| self.0[*at].is_there && self.0[*at].parent == node).collect()
    }

    fn add(&mut self, parent: usize, policy: u8, expected: Vec<u8>) {
        let depth = self.0[parent].depth + 1;
        self.0.push(TreeNode { depth, policy, expected, parent, is_there: true });
    }

    /// Deletes nodes of `depth` and less without children, until there are none.
    fn prune(&mut self, depth: usize) {
        for depth in (0..=depth).rev() {
            for node in self.at(depth) {
                self.0[node].is_there = !self.children(node).is_empty();
            }
        }
    }

    fn is_null(&self) -> bool {
        !self.0.first().is_some_and(|root| root.is_there)
    }

    fn of(&self, depth: usize, policy: u8) -> Vec<usize> {
        self.at(depth).into_iter().filter(|node| self.0[*node].policy == policy).collect()
    }

    /// RFC 5280 6.1.3 (d), for certificate `i`.
    fn certificate_policies(&mut self, policies: &[u8], i: usize, any_counts: bool) {
        for policy in policies.iter().filter(|policy| **policy != ANY) {
            let mut matched = false;
            for node in self.at(i - 1) {
                if self.0[node].expected.contains(policy) {
                    self.add(node, *policy, vec![*policy]);
                    matched = true;
                }
            }
            if !matched && let Some(node) = self.of(i - 1, ANY).first() {
                self.add(*node, *policy, vec![*policy]);
            }
        }
        if policies.contains(&ANY) && any_counts {
            for node in self.at(i - 1) {
                for value in self.0[node].expected.clone() {
                    if !self.children(node).iter().any(|child| self.0[*child].policy == value) {
                        self.add(node, value, vec![value]);
                    }
                }
            }
        }
        self.prune(i - 1);
    }

    /// RFC 5280 6.1.4 (b), for certificate `i`.
    fn policy_mappings(&mut self, mappings: &[(u8, u8)], i: usize, are_allowed: bool) {
        let issuers: BTreeSet<u8> = mappings.iter().map(|(issuer, _)| *issuer).collect();
        for issuer in issuers {
            let nodes = self.of(i, issuer);
            let subjects =
                || mappings.iter().filter(|(from, _)| *from == issuer).map(|(_, to)| *to).collect();
            if !are_allowed {
                nodes.iter().for_each(|node| self.0[*node].is_there = false);
                self.prune(i - 1);
            } else if !nodes.is_empty() {
                nodes.iter().for_each(|node| self.0[*node].expected = subjects());
            } else if let Some(node) = self.of(i, ANY).first() {
                let parent = self.0[*node].parent;
                self.add(parent, issuer, subjects());
            }
        }
    }
}

/// RFC 5280 6.1, as it is written. The policies of the authority-constrained-policy-set without anyPolicy, or
/// none for a failure.
pub(crate) fn by_the_document(
    path: &[Said],
    initial: &[u8],
    flags: (bool, bool, bool),
) -> Option<BTreeSet<u8>> {
    let n = path.len();
    // 6.1.2 (a), (d), (e), (f)
    let root = TreeNode { depth: 0, policy: ANY, expected: vec![ANY], parent: 0, is_there: true };
    let mut tree = Tree(vec![root]);
    let start = |inhibit: bool| if inhibit { 0 } else { n + 1 };
    let (mut explicit, mut mapping, mut any) = (start(flags.0), start(flags.1), start(flags.2));
    for (i, said) in (1..).zip(path) {
        // 6.1.3 (d), (e)
        match &said.policies {
            Some(policies) if !tree.is_null() => {
                tree.certificate_policies(policies, i, any > 0 || i < n && said.self_issued);
            }
            _ => tree = Tree::default(),
        }
        // (f)
        if explicit == 0 && tree.is_null() {
            return None;
        }
        if i < n {
            // 6.1.4 (b)
            tree.policy_mappings(&said.mappings, i, mapping > 0);
            // (h), (i), (j)
            if !said.self_issued {
                explicit = explicit.saturating_sub(1);
                mapping = mapping.saturating_sub(1);
                any = any.saturating_sub(1);
            }
            explicit = explicit.min(said.require_explicit.unwrap_or(usize::MAX));
            mapping = mapping.min(said.inhibit_mapping.unwrap_or(usize::MAX));
            any = any.min(said.inhibit_any.unwrap_or(usize::MAX));
        } else {
            // 6.1.5 (a), (b)
            explicit = explicit.saturating_sub(1);
            if said.require_explicit == Some(0) {
                explicit = 0;
            }
        }
    }
    // 6.1.5 (g)
    let in_set = |tree: &Tree| -> Vec<usize> {
        let is_in = |at: &usize| {
            let node = &tree.0[*at];
            node.is_there && node.depth > 0 && tree.0[node.parent].policy == ANY
        };
        (0..tree.0.len()).filter(is_in).collect()
    };
    let constrained: BTreeSet<u8> =
        in_set(&tree).into_iter().map(|node| tree.0[node].policy).filter(|policy| *policy != ANY).collect();
    let is_left = !tree.is_null()
        && (initial.is_empty()
            || tree.at(n).iter().any(|node| tree.0[*node].policy == ANY)
            || initial.iter().any(|policy| constrained.contains(policy)));
    (explicit > 0 || is_left).then_some(constrained)
}
