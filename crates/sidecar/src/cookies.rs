//! Cookies of a request (RFC 6265, section 5.4): one is read, and it is taken away before the request reaches
//! an application.

use http::{HeaderMap, HeaderValue, header};

/// Most bytes of the name of a cookie: nginx compares it in a configuration that `rcmpd proxy-config` prints.
const NAME_LEN_MAX: usize = 64;
/// Browsers accept a cookie with this prefix only over TLS, for one host and for all its paths (RFC 6265bis,
/// section 4.1.3.2). So another host of the domain cannot set it.
const HOST_PREFIX: &str = "__Host-";

/// The name of a cookie that one host sets for itself: `__Host-`, then letters, digits, `_` and `-`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CookieName(String);

impl CookieName {
    /// `None` for other text.
    pub fn new(text: &str) -> Option<Self> {
        let own = text.strip_prefix(HOST_PREFIX)?;
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_-".contains(&byte);
        (!own.is_empty() && text.len() <= NAME_LEN_MAX && own.bytes().all(allowed))
            .then(|| Self(text.to_owned()))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The cookies of a request.
#[derive(Clone, Copy, Debug)]
pub enum Cookies<'a> {
    /// None, or an answer to this request could set none.
    None,
    /// `Cookie` of these headers.
    Headers(&'a HeaderMap),
    /// Values of `Cookie`.
    Values(&'a [&'a [u8]]),
}

/// What a request has by the name of a cookie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found<'a> {
    None,
    One(&'a [u8]),
    /// More than one. A browser sends one: the prefix leaves no other path or domain.
    Many,
}

impl<'a> Cookies<'a> {
    pub(crate) fn find(self, name: &CookieName) -> Found<'a> {
        let mut found = Found::None;
        let mut look = |value: &'a [u8]| {
            for (known, text) in value.split(|byte| *byte == b';').filter_map(pair) {
                if known == name.0.as_bytes() {
                    found = match found {
                        Found::None => Found::One(text),
                        _ => Found::Many,
                    };
                }
            }
        };
        match self {
            Self::None => {}
            Self::Headers(headers) => {
                headers.get_all(header::COOKIE).iter().for_each(|value| look(value.as_bytes()));
            }
            Self::Values(values) => values.iter().for_each(|value| look(value)),
        }
        found
    }
}

/// Name and value of a cookie, without the spaces around them.
fn pair(cookie: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = cookie.iter().position(|byte| *byte == b'=')?;
    Some((cookie[..at].trim_ascii(), cookie[at + 1..].trim_ascii()))
}

/// A value of `Cookie` without each cookie of this name, in any case of letters; `None` if it has none.
pub(crate) fn without(value: &[u8], name: &CookieName) -> Option<Vec<u8>> {
    let is_other =
        |cookie: &&[u8]| pair(cookie).is_none_or(|(known, _)| !known.eq_ignore_ascii_case(name.0.as_bytes()));
    let cookies = || value.split(|byte| *byte == b';');
    if cookies().all(|cookie| is_other(&cookie)) {
        return None;
    }
    let others: Vec<&[u8]> = cookies().filter(is_other).map(<[u8]>::trim_ascii).collect();
    Some(others.join(&b"; "[..]))
}

/// Takes each cookie of this name away. Headers without one stay as they are.
pub(crate) fn strip(headers: &mut HeaderMap, name: &CookieName) {
    let stripped: Vec<Option<Vec<u8>>> =
        headers.get_all(header::COOKIE).iter().map(|value| without(value.as_bytes(), name)).collect();
    if stripped.iter().all(Option::is_none) {
        return;
    }
    let before: Vec<HeaderValue> = headers.get_all(header::COOKIE).iter().cloned().collect();
    headers.remove(header::COOKIE);
    for (before, stripped) in before.into_iter().zip(stripped) {
        match stripped {
            None => _ = headers.append(header::COOKIE, before),
            Some(others) if others.is_empty() => {}
            // Pieces of a value are a value.
            Some(others) => _ = HeaderValue::from_bytes(&others).map(|it| headers.append(header::COOKIE, it)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name() -> CookieName {
        CookieName::new("__Host-rcmpd").expect("a name")
    }

    fn headers(values: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(header::COOKIE, value.parse().expect("a value"));
        }
        headers
    }

    #[test]
    fn names_that_another_host_could_set_are_refused() {
        for text in ["", "__Host-", "rcmpd", "__host-rcmpd", "__Secure-rcmpd", "__Host-a b", "__Host-a;b"] {
            assert_eq!(CookieName::new(text), None, "{text}");
        }
        assert_eq!(CookieName::new(&format!("__Host-{}", "a".repeat(58))), None);
        assert!(CookieName::new(&format!("__Host-{}", "a".repeat(57))).is_some());
    }

    #[test]
    fn one_is_found_wherever_it_stands_and_two_are_none() {
        for (values, expected) in [
            (&[][..], Found::None),
            (&["a=b; c=d"], Found::None),
            (&["__Host-rcmpd=x"], Found::One(b"x")),
            (&["a=b;__Host-rcmpd=x ; c=d"], Found::One(b"x")),
            (&["a=b", "__Host-rcmpd=x"], Found::One(b"x")),
            (&["a=__Host-rcmpd=x"], Found::None),
            (&["__Host-rcmpd2=x; x__Host-rcmpd=y"], Found::None),
            (&["__Host-rcmpd"], Found::None),
            (&["__Host-rcmpd="], Found::One(b"")),
            (&["__Host-rcmpd=x; __Host-rcmpd=x"], Found::Many),
            (&["__Host-rcmpd=x", "a=b; __Host-rcmpd=y"], Found::Many),
        ] {
            assert_eq!(Cookies::Headers(&headers(values)).find(&name()), expected, "{values:?}");
            let values: Vec<&[u8]> = values.iter().map(|value| value.as_bytes()).collect();
            assert_eq!(Cookies::Values(&values).find(&name()), expected, "{values:?}");
        }
    }

    #[test]
    fn all_of_a_name_are_taken_away_and_no_other_cookie() {
        for (before, after) in [
            (&["a=b; c=d"][..], &["a=b; c=d"][..]),
            (&["a=b;c"], &["a=b;c"]),
            (&["__Host-rcmpd=x"], &[]),
            (&["a=b; __Host-rcmpd=x; c=\"d e\""], &["a=b; c=\"d e\""]),
            (&["__Host-rcmpd=x; a=b; __Host-rcmpd=y;__host-RCMPD =z"], &["a=b"]),
            (&["a=b", "__Host-rcmpd=x", "c=d;__Host-rcmpd=y"], &["a=b", "c=d"]),
            (&["a=__Host-rcmpd=x"], &["a=__Host-rcmpd=x"]),
        ] {
            let mut stripped = headers(before);
            strip(&mut stripped, &name());
            assert_eq!(stripped, headers(after), "{before:?}");
        }
    }
}
