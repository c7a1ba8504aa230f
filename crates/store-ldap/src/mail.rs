//! The e-mail address of an entry. It decides nothing, so an address that cannot be used is no error.

use crate::entry::Entry;
use account_store::fold::casefold;
use account_store::index::{KeyKind, Place};
use account_store::rules;

/// The values that are addresses.
pub(crate) fn all<'a>(entry: &'a Entry, attribute: &str) -> impl Iterator<Item = &'a str> {
    let texts = entry.values(attribute).into_iter().filter_map(|value| std::str::from_utf8(value).ok());
    texts.filter(|text| rules::is_mail(text))
}

/// The address that is sent: the only value, or the only one of several in `domain`. Otherwise empty.
pub(crate) fn chosen(entry: &Entry, attribute: &str, domain: Option<&str>) -> String {
    let is_of = |text: &str, domain: &str| {
        text.rsplit_once('@').is_some_and(|(_, suffix)| suffix.eq_ignore_ascii_case(domain))
    };
    let values: Vec<_> = match entry.values(attribute)[..] {
        [_] => all(entry, attribute).collect(),
        _ => all(entry, attribute).filter(|text| domain.is_some_and(|domain| is_of(text, domain))).collect(),
    };
    match values[..] {
        [only] => only.to_owned(),
        _ => String::new(),
    }
}

/// Whether the address that is asked for is among the values of an entry, even if it is not the one that is
/// sent.
pub(crate) fn is_among(entry: &Entry, attribute: &str, place: &Place) -> bool {
    match place {
        Place::Key(KeyKind::Mail, wanted) => all(entry, attribute).any(|text| casefold(text) == *wanted),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_value_is_chosen_or_none() {
        let of = |values: &[&str], domain| chosen(&Entry::of("CN=a", &[("mail", values)]), "Mail", domain);
        let (first, second) = ("a@contoso.example", "a@mail.example");
        for (values, domain, expected) in [
            (&[][..], None, ""),
            (&[first], None, first),
            (&[first], Some("mail.example"), first),
            (&[first, second], None, ""),
            (&[first, second], Some("MAIL.example"), second),
            (&[first, second], Some("example"), ""),
            (&[second, "b@mail.example"], Some("mail.example"), ""),
            (&["a@contoso.example\r\nX-Admin: 1"], None, ""),
            (&["a@contoso.example\u{85}"], None, ""),
            (&["a b@contoso.example"], None, ""),
            (&["a@b@c"], None, ""),
            (&["alice"], None, ""),
            (&["@contoso.example"], None, ""),
            (&["a@"], None, ""),
        ] {
            assert_eq!(of(values, domain), expected, "{values:?} {domain:?}");
        }
        assert_eq!(of(&[&format!("{}@contoso.example", "a".repeat(300))], None), "");
    }
}
