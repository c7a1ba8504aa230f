//! Which headers name the user, and what of them arrived at the page.

use super::wire::folded;
use serde_json::Value;
use sidecar::headers::{Format, Preset};
use std::collections::{BTreeMap, BTreeSet};

/// The value of `page` in an answer of the page of [`super::serve_page`], and of its header.
pub(super) const PAGE: &str = "rcmpd";
/// The header that says the same, for answers without a body.
pub(super) const PAGE_HEADER: &str = "X-Rcmpd-Page";

/// All presets that have names of their own.
pub(super) const PRESETS: [Preset; 3] = [Preset::Remote, Preset::Forwarded, Preset::LookupIdentity];

/// Headers that name the account, one of which has to be there.
const ACCOUNT: [&str; 6] = [
    "remote-user",
    "x-forwarded-user",
    "x-remote-user",
    "x-identity-account",
    "x-identity-upn",
    "x-identity-sid",
];

/// Headers whose values are a decision's, not an account's: they differ where the decision is made again.
const PER_DECISION: [&str; 4] =
    ["x-identity-decision", "x-identity-stale", "x-identity-reference", "x-identity-token"];

/// Every header that is ever set by these presets, folded.
pub(super) fn names(presets: &[Preset]) -> BTreeSet<String> {
    let presets = presets.iter().chain(&[Preset::None]);
    presets
        .flat_map(|preset| {
            let format = Format { preset: *preset, ..Format::default() };
            format.advertised().map(|name| name.as_str().to_owned()).collect::<Vec<_>>()
        })
        .collect()
}

/// What the page was told.
#[derive(Clone, Debug)]
pub(super) struct EchoedRequest {
    fields: Vec<(String, String)>,
}

impl EchoedRequest {
    /// What the page's answer says, if it is the page's.
    pub(super) fn parse(body: &[u8]) -> Option<Self> {
        let value: Value = serde_json::from_slice(body).ok()?;
        if value["page"] != PAGE {
            return None;
        }
        let fields = [&value["headers"], &value["trailers"]]
            .into_iter()
            .flat_map(|fields| fields.as_array().into_iter().flatten())
            .map(|field| {
                let text = |at: usize| unescaped(field[at].as_str().unwrap_or_default());
                (text(0), text(1))
            })
            .collect();
        Some(Self { fields })
    }

    /// The values of all headers that a program takes for this one.
    pub(super) fn values(&self, name: &str) -> Vec<&str> {
        let is = |(field, _): &&(String, String)| folded(field.as_bytes()) == name;
        self.fields.iter().filter(is).map(|(_, value)| value.as_str()).collect()
    }

    /// Headers of these names, as they arrived, in which something stands; each once.
    pub(super) fn arrived(&self, names: &BTreeSet<String>, something: &str) -> Vec<&str> {
        let is = |(name, value): &&(String, String)| {
            value.contains(something) && names.contains(&folded(name.as_bytes()))
        };
        let arrived: BTreeSet<&str> = self.fields.iter().filter(is).map(|(name, _)| name.as_str()).collect();
        arrived.into_iter().collect()
    }

    /// Who the page was told that this is.
    pub(super) fn identity(&self, names: &BTreeSet<String>) -> Identity {
        let mut values: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (name, value) in &self.fields {
            let name = folded(name.as_bytes());
            if names.contains(&name) {
                values.entry(name).or_default().push(value.clone());
            }
        }
        Identity { values }
    }
}

/// What the page escaped, as it arrived.
fn unescaped(text: &str) -> String {
    let mut parts = text.split('%');
    let mut bytes = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        match part.get(..2).and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                bytes.extend_from_slice(&part.as_bytes()[2..]);
            }
            // Not as the page writes it.
            None => {
                bytes.push(b'%');
                bytes.extend_from_slice(part.as_bytes());
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Values of identity headers, by folded name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    values: BTreeMap<String, Vec<String>>,
}

impl Identity {
    /// The name of the account, if a header has it; `others` are further headers that may.
    pub(super) fn account(&self, others: &[String]) -> Option<&str> {
        self.names(others).find(|value| !value.is_empty()).map(String::as_str)
    }

    /// Whether any header calls the account this.
    pub(super) fn is_called(&self, name: &str, others: &[String]) -> bool {
        self.names(others).any(|value| value == name)
    }

    fn names(&self, others: &[String]) -> impl Iterator<Item = &String> {
        let headers = ACCOUNT.into_iter().chain(others.iter().map(String::as_str));
        headers.filter_map(|header| self.values.get(header)).flatten()
    }

    /// Headers that are there more than once.
    pub(super) fn doubled(&self) -> Vec<&str> {
        let is_doubled = |(_, values): &(&String, &Vec<String>)| values.len() > 1;
        self.values.iter().filter(is_doubled).map(|(name, _)| name.as_str()).collect()
    }

    /// The names that are there.
    pub(super) fn present(&self) -> impl Iterator<Item = &str> {
        self.values.keys().map(String::as_str)
    }

    /// The first header in which this identity is not another one; `of_decision` are further headers that
    /// differ where the decision is made again.
    pub(super) fn difference(&self, other: &Self, of_decision: &[String]) -> Option<String> {
        let names: BTreeSet<&String> = self.values.keys().chain(other.values.keys()).collect();
        let differs = |name: &&&String| match (self.values.get(**name), other.values.get(**name)) {
            (Some(one), Some(another))
                if PER_DECISION.contains(&name.as_str()) || of_decision.contains(**name) =>
            {
                one.len() != another.len()
                    || one.iter().zip(another).any(|(one, another)| one.is_empty() != another.is_empty())
            }
            (one, another) => one != another,
        };
        names.iter().find(differs).map(|name| (*name).clone())
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;
    use serde_json::json;

    fn identity(headers: Value) -> Identity {
        let page = json!({ "page": "rcmpd", "headers": headers, "trailers": [] });
        EchoedRequest::parse(page.to_string().as_bytes()).unwrap().identity(&names(&PRESETS))
    }

    #[test]
    fn another_page_tells_nothing() {
        assert!(EchoedRequest::parse(b"{\"page\": \"other\", \"headers\": []}").is_none());
        assert!(EchoedRequest::parse(b"<html>").is_none());
    }

    #[test]
    fn what_is_escaped_is_what_arrived() {
        let told =
            identity(json!([["Remote%5FUser", "CONTOSO%5cJ%C3%BCrgen 100%25"], ["X-Identity-Upn", "%zz%4"]]));
        assert_eq!(told.account(&[]), Some("CONTOSO\\Jürgen 100%"));
        assert!(told.is_called("%zz%4", &[]));
    }

    #[test]
    fn names_are_all_that_any_preset_sets() {
        let names = names(&PRESETS);
        for name in ["remote-user", "x-forwarded-groups", "x-remote-user-fullname", "x-identity-token"] {
            assert!(names.contains(name), "{name}");
        }
        assert!(!super::names(&[Preset::Remote]).contains("x-forwarded-user"));
    }

    #[test]
    fn an_identity_is_the_same_whatever_its_decision_is_called() {
        let one = identity(json!([["Remote-User", "a"], ["X-Identity-Decision", "1"]]));
        let same = identity(json!([["remote_user", "a"], ["X-Identity-Decision", "2"], ["Other", "x"]]));
        assert_eq!(one.difference(&same, &[]), None);
        let unnamed = identity(json!([["Remote-User", "a"], ["X-Identity-Decision", ""]]));
        assert_eq!(one.difference(&unnamed, &[]).unwrap(), "x-identity-decision");
        let without = identity(json!([["X-Identity-Decision", "1"]]));
        assert_eq!(one.difference(&without, &[]).unwrap(), "remote-user");
        let page = |value: &str| {
            let page = json!({ "page": "rcmpd", "headers": [["X-Token", value]], "trailers": [] });
            EchoedRequest::parse(page.to_string().as_bytes())
                .unwrap()
                .identity(&["x-token".to_owned()].into())
        };
        assert_eq!(page("1").difference(&page("2"), &["x-token".to_owned()]), None);
        assert_eq!(page("1").difference(&page("2"), &[]).unwrap(), "x-token");
        let doubled = identity(json!([["Remote-User", "a"], ["REMOTE_USER", "b"]]));
        assert_eq!((doubled.doubled(), doubled.account(&[])), (vec!["remote-user"], Some("a")));
        let own = identity(json!([["X-Webauth-User", "a"]]));
        assert_eq!(own.account(&["x-webauth-user".to_owned()]), None, "it is not among the names");
        assert!(doubled.is_called("b", &[]) && !doubled.is_called("c", &[]));
    }
}
