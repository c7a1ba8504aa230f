//! Addresses of a service: which `a:To` is its own.

use std::fmt;

/// An absolute `http` or `https` URI. Scheme and host are in lower case, without the port that the scheme has
/// by default, and without a slash at the end of the path.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Address(String);

/// A text is no such address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no absolute http or https URI without user, query and fragment")]
pub struct NoAddress(String);

impl Address {
    /// Reads an address. User, query and fragment are refused, because no service has them in its address.
    pub fn new(text: &str) -> Result<Self, NoAddress> {
        Self::normalise(text).map(Self).ok_or_else(|| NoAddress(text.chars().take(128).collect()))
    }

    fn normalise(text: &str) -> Option<String> {
        let (scheme, rest) = text.split_once("://")?;
        let scheme = scheme.to_ascii_lowercase();
        let default_port = match &*scheme {
            "http" => ":80",
            "https" => ":443",
            _ => return None,
        };
        if !rest.bytes().all(|octet| octet.is_ascii_graphic()) || rest.contains(['@', '?', '#', '\\']) {
            return None;
        }
        let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let host = host.to_ascii_lowercase();
        let host = host.strip_suffix(default_port).unwrap_or(&host);
        let path = path.strip_suffix('/').unwrap_or(path);
        (!host.is_empty() && !host.starts_with(':')).then(|| format!("{scheme}://{host}{path}"))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_matter_of_an_address_is_normalised() {
        let address = |text| Address::new(text).expect("an address");
        let expected = address("https://service.example/a");
        for same in [
            "HTTPS://service.example/a",
            "https://SERVICE.example/a",
            "https://service.example:443/a",
            "https://service.example/a/",
        ] {
            assert_eq!(address(same), expected, "{same}");
        }
        for other in [
            "http://service.example/a",
            "https://service.example/A",
            "https://service.example:80/a",
            "https://service.example:8443/a",
            "https://service.example",
            "https://service.example.other/a",
            "https://service.example/a//",
        ] {
            assert_ne!(address(other), expected, "{other}");
        }
        assert_eq!(address("http://h"), address("http://h:80/"));
        for wrong in [
            "",
            "service.example/a",
            "ftp://h/",
            "http://",
            "http://:80/",
            "http://u@h/",
            "http://h/?a",
            "http://h/ b",
        ] {
            Address::new(wrong).expect_err(wrong);
        }
    }
}
