//! `[[store.part]]` and `[store.compare]`.

use super::checker::Checker;
use super::{StoreKind, StoreSection};
use account_store::DistinguishedName;
use std::collections::HashSet;
use toml::Spanned;

/// The most stores: a question without suffix and issuer is asked of all of them.
const PARTS_MAX: usize = 16;
/// The longest name: it is a label of metrics.
const NAME_LEN_MAX: usize = 32;

/// `[[store.part]]`: one of several stores.
#[derive(Clone, Debug, PartialEq)]
pub struct StorePart {
    /// Its name, for messages and metrics.
    pub name: String,
    /// Suffixes of user principal names that this store is asked for. If empty: those that no part names.
    pub suffixes: Vec<String>,
    /// Issuers of mappings that this store is asked for. If empty: those that no part names.
    pub issuers: Vec<DistinguishedName>,
    /// Where its accounts are.
    pub kind: StoreKind,
}

impl StorePart {
    /// The section, as messages name it.
    pub fn section(&self) -> String {
        format!("[[store.part]] {}", self.name)
    }
}

impl Checker<'_> {
    /// The stores of `kind = "several"`.
    pub(super) fn parts(&mut self, section: &StoreSection, dns: &str) -> Option<Vec<StorePart>> {
        if !(2..=PARTS_MAX).contains(&section.part.len()) {
            self.problem(
                section.kind.span(),
                format!(
                    "kind = \"several\" needs 2 to {PARTS_MAX} [[store.part]], and has {}",
                    section.part.len()
                ),
                "add or remove some; a single store is described in [store] itself",
            );
        }
        let mut names = HashSet::new();
        let parts: Vec<Option<StorePart>> =
            section.part.iter().map(|part| self.part(part, dns, &mut names)).collect();
        parts.into_iter().collect()
    }

    fn part(
        &mut self,
        section: &Spanned<StoreSection>,
        dns: &str,
        names: &mut HashSet<String>,
    ) -> Option<StorePart> {
        let (span, section) = (section.span(), section.get_ref());
        let Some(name) = &section.name else {
            self.problem(span, "this store has no name", "add name, as in name = \"staff\"");
            return None;
        };
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        if !(1..=NAME_LEN_MAX).contains(&name.get_ref().len()) || !name.get_ref().bytes().all(is_plain) {
            let help = format!("use 1 to {NAME_LEN_MAX} letters, digits, hyphens, dots and underscores");
            self.problem(name.span(), "this is not a name of a store", help);
        }
        if !names.insert(name.get_ref().clone()) {
            self.problem(name.span(), "another [[store.part]] has this name", "give each its own");
        }
        if section.compare.is_some() {
            let help = "compare all of them: [store.compare]";
            self.problem(
                section.kind.span(),
                "a [[store.part]] cannot be compared alone: [store.compare] belongs to [store]",
                help,
            );
        }
        let suffixes = section.suffixes.as_ref().map(|list| (list.span(), list.get_ref()));
        let issuers = section.issuers.as_ref().map(|list| (list.span(), list.get_ref()));
        // An empty list would mean: all that no part names. The operator hardly means that.
        for (span, _) in [&suffixes, &issuers].into_iter().flatten().filter(|(_, list)| list.is_empty()) {
            self.problem(span.clone(), "this list is empty", "remove it, or name one");
        }
        let suffixes = suffixes.into_iter().flat_map(|(_, list)| list);
        let suffixes = suffixes.map(|suffix| self.upn_suffix(suffix)).collect();
        let issuers = issuers.into_iter().flat_map(|(_, list)| list);
        let issuers = issuers.filter_map(|issuer| self.distinguished_name(issuer)).collect();
        let kind = self.inner_kind(section, dns)?;
        Some(StorePart { name: name.get_ref().clone(), suffixes, issuers, kind })
    }

    fn upn_suffix(&mut self, suffix: &Spanned<String>) -> String {
        let text = suffix.get_ref();
        if text.is_empty() || text.contains(['@', '*']) || text.trim() != text {
            let help = "write what stands after the @, as in \"contoso.example\"";
            self.problem(suffix.span(), "this is not a suffix of a user principal name", help);
        }
        text.clone()
    }

    /// `[store.compare]`.
    pub(super) fn compared(&mut self, section: &Spanned<StoreSection>, dns: &str) -> Option<StoreKind> {
        let section = section.get_ref();
        self.no_part_of_several(section);
        if section.compare.is_some() {
            let help = "compare one store: [store.compare]";
            self.problem(section.kind.span(), "[store.compare] has no [store.compare] of its own", help);
        }
        self.inner_kind(section, dns)
    }

    /// The kind of the store of a `[[store.part]]` or of `[store.compare]`.
    fn inner_kind(&mut self, section: &StoreSection, dns: &str) -> Option<StoreKind> {
        if section.kind.get_ref() == "several" {
            let help = "name its stores one by one: [[store.part]] of [store]";
            self.problem(
                section.kind.span(),
                "a [[store.part]] or [store.compare] is one store: this cannot be several stores",
                help,
            );
            return None;
        }
        if let Some(fresh) =
            section.postgres.as_ref().and_then(|postgres| postgres.get_ref().fresh_ms.as_ref())
        {
            let help = "remove it; changes of this store take effect within poll_ms";
            self.problem(fresh.span(), "fresh_ms is for [store.postgres] alone", help);
        }
        self.store_kind(section, dns)
    }

    /// Refuses the keys of a `[[store.part]]` elsewhere.
    pub(super) fn no_part_of_several(&mut self, section: &StoreSection) {
        let name = section.name.as_ref().map(|name| ("name", name.span()));
        let suffixes = section.suffixes.as_ref().map(|list| ("suffixes", list.span()));
        let issuers = section.issuers.as_ref().map(|list| ("issuers", list.span()));
        for (key, span) in [name, suffixes, issuers].into_iter().flatten() {
            self.problem(span, format!("{key} belongs to a [[store.part]]"), "remove it here");
        }
    }
}
