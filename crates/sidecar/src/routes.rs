//! Who may go where: per host and path, which groups, accounts and domains, and how sure it must be who they
//! are.
//!
//! The most specific route decides, and no other: the host by its name before the host by a pattern before
//! any host, then the longest path. Where routes are configured and none is for a request, the request is
//! refused.

use crate::identity::{Assurance, Identity};
use crate::refusal::{Broken, Refusal};
use dtyp::Sid;
use std::net::{Ipv4Addr, Ipv6Addr};

/// Who is let in by a route.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Route {
    /// The host in lower case: a name, `*.name` for all names below, or none for any.
    pub host: Option<String>,
    /// The path and everything below it; none for all paths.
    pub path: Option<String>,
    /// Accounts and groups by SID.
    pub sids: Vec<Sid>,
    /// Groups of the own domain by name.
    pub groups: Vec<String>,
    /// NetBIOS names of domains whose accounts are let in, each of them.
    pub domains: Vec<String>,
    /// Whether only those whose certificate is strongly bound to their account are let in.
    pub strong: bool,
    /// `aud` of signed identities behind it; none for that of all others.
    pub audience: Option<String>,
    /// Whether requests without a certificate pass, too, with empty identity headers. Only the
    /// TLS-terminating proxy passes such requests on.
    pub anonymous: bool,
}

/// The routes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Routes(Vec<Route>);

/// A route that was chosen; its number in configuration order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chosen<'a> {
    /// The number; none where no routes are configured, and every account is let in.
    pub number: Option<usize>,
    route: Option<&'a Route>,
}

impl Routes {
    /// Routes in their order. Without any, every account is let in.
    pub const fn new(routes: Vec<Route>) -> Self {
        Self(routes)
    }

    /// All of them.
    pub fn all(&self) -> &[Route] {
        &self.0
    }

    /// By route, in their order, whether it lets the identity in.
    pub fn admitted(&self, identity: &Identity) -> Vec<Result<(), Refusal>> {
        self.0.iter().map(|route| route.admit(identity)).collect()
    }

    /// The route for a host and a path, with its query or without.
    pub fn choose(&self, target: Option<(&str, &str)>) -> Result<Chosen<'_>, Refusal> {
        if self.0.is_empty() {
            return Ok(Chosen { number: None, route: None });
        }
        let Some((host, path)) = target else { return Err(Refusal::Broken(Broken::NoTarget)) };
        // What is no host, a list for one, is no route's.
        let host = host_of(host).ok_or(Refusal::NotAllowed)?;
        let mut of_host =
            self.0.iter().enumerate().filter(|(_, route)| route.host_rank(&host).is_some()).peekable();
        if of_host.peek().is_none() {
            return Err(Refusal::NotAllowed);
        }
        let goes_by_path =
            self.0.iter().any(|route| route.path.is_some() && route.host_rank(&host).is_some());
        let path = match goes_by_path {
            true => path_of(&host, path).and_then(plain_path).ok_or(Refusal::AmbiguousPath)?,
            false => String::new(),
        };
        let rank = |route: &Route| Some((route.host_rank(&host)?, route.path_rank(&path)?));
        let best =
            of_host.filter_map(|(number, route)| Some((rank(route)?, number, route))).reduce(|best, next| {
                // The first of equals.
                if next.0 > best.0 { next } else { best }
            });
        match best {
            Some((_, number, route)) => Ok(Chosen { number: Some(number), route: Some(route) }),
            None => Err(Refusal::NotAllowed),
        }
    }
}

impl Route {
    /// How well it fits a host.
    fn host_rank(&self, host: &str) -> Option<usize> {
        match self.host.as_deref() {
            None => Some(0),
            Some(name) if name == host => Some(usize::MAX),
            Some(pattern) => {
                let below = pattern.strip_prefix('*')?;
                (host.len() > below.len() && host.ends_with(below)).then_some(below.len())
            }
        }
    }

    fn path_rank(&self, path: &str) -> Option<usize> {
        let Some(prefix) = self.path.as_deref().map(|prefix| prefix.trim_end_matches('/')) else {
            return Some(0);
        };
        let rest = path.strip_prefix(prefix)?;
        (rest.is_empty() || rest.starts_with('/')).then_some(1 + prefix.len())
    }

    fn admit(&self, identity: &Identity) -> Result<(), Refusal> {
        if !self.is_for(identity) {
            return Err(Refusal::NotAllowed);
        }
        match identity.assurance {
            _ if !self.strong => Ok(()),
            Assurance::Strong(_) => Ok(()),
            Assurance::Weak | Assurance::Unknown => Err(Refusal::NotStrong),
        }
    }

    fn is_for(&self, identity: &Identity) -> bool {
        if self.sids.is_empty() && self.groups.is_empty() && self.domains.is_empty() {
            return true;
        }
        let by_sid =
            |sid: &Sid| *sid == identity.sid || identity.groups.iter().any(|group| group.sid == *sid);
        // A name of another domain's group means nothing here.
        let by_name = |name: &String| {
            identity.is_ours
                && identity.groups.iter().any(|group| {
                    group.name.as_ref().is_some_and(|known| known.to_lowercase() == name.to_lowercase())
                })
        };
        let by_domain = |name: &String| name.eq_ignore_ascii_case(&identity.domain);
        self.sids.iter().any(by_sid) || self.groups.iter().any(by_name) || self.domains.iter().any(by_domain)
    }
}

impl Chosen<'_> {
    /// Whether the route lets an identity in.
    pub fn admit(&self, identity: &Identity) -> Result<(), Refusal> {
        self.route.map_or(Ok(()), |route| route.admit(identity))
    }
}

/// The host of `Host`, without its port, without a dot at its end, and in lower case: a name of letters,
/// digits, `-`, `_` and dots, or an IPv6 address in brackets. None for anything else (RFC 9110, section 7.2):
/// a port that is no number from 0 to 65535, user information, or characters after a port or a bracket.
/// Programs read such a value differently.
pub fn host_of(authority: &str) -> Option<String> {
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            let (address, after) = rest.split_once(']')?;
            address.parse::<Ipv6Addr>().ok()?;
            (&authority[..address.len() + 2], after)
        }
        None => {
            let (host, port) = authority.split_at(authority.find(':').unwrap_or(authority.len()));
            let host = host.strip_suffix('.').unwrap_or(host);
            let is_of_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
            if host.is_empty() || host.ends_with('.') || !host.bytes().all(is_of_name) {
                return None;
            }
            (host, port)
        }
    };
    let is_port = |port: &str| port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse::<u16>().is_ok();
    let is_good = port.is_empty() || port.strip_prefix(':').is_some_and(is_port);
    is_good.then(|| host.to_ascii_lowercase())
}

/// The path of a request's target, which may be a whole URL (RFC 9112, section 3.2.2). `None` where that is
/// of another host: of the two programs choose differently.
fn path_of<'a>(host: &str, target: &'a str) -> Option<&'a str> {
    let Some((scheme, after)) = target.split_once("://").filter(|_| !target.starts_with('/')) else {
        return Some(target);
    };
    let (authority, path) = after.split_at(after.find(['/', '?', '#']).unwrap_or(after.len()));
    let is_http = ["http", "https"].iter().any(|http| http.eq_ignore_ascii_case(scheme));
    let path = if path.is_empty() { "/" } else { path };
    (is_http && host_of(authority).as_deref() == Some(host)).then_some(path)
}

/// A path as every program reads it: without its query, percent-encoding undone. `None` for one that programs
/// read differently: with empty, `.` or `..` segments, encoded separators, backslashes, parameters, fragments
/// or control characters. Browsers send none of them, but for an empty segment at the end. A route's path is
/// one that comes out as it went in, but for a slash at its end.
pub fn plain_path(path: &str) -> Option<String> {
    let path = path.split('?').next().unwrap_or_default();
    let mut plain = Vec::with_capacity(path.len());
    let mut bytes = path.bytes();
    while let Some(byte) = bytes.next() {
        let decoded = match byte {
            b'%' => {
                let mut digit = || char::from(bytes.next()?).to_digit(16);
                let decoded = (digit()? * 16 + digit()?) as u8;
                match decoded {
                    b'/' | b'\\' | b'%' | b';' | b'?' | b'#' => return None,
                    decoded => decoded,
                }
            }
            b'\\' | b';' | b'#' => return None,
            byte => byte,
        };
        if decoded.is_ascii_control() {
            return None;
        }
        plain.push(decoded);
    }
    let mut plain = String::from_utf8(plain).ok()?;
    if plain.len() > 1 && plain.ends_with('/') {
        plain.pop();
    }
    let is_plain = |segment: &str| !matches!(segment, "" | "." | "..");
    let segments = plain.strip_prefix('/')?;
    (segments.is_empty() || segments.split('/').all(is_plain)).then_some(plain)
}

/// Most bytes of a host name, and of one label (RFC 1035 2.3.4).
const HOST_LEN_MAX: usize = 253;
const LABEL_LEN_MAX: usize = 63;

/// The host of a route as [`Routes::choose`] compares it; the error says why no request has such a host.
pub fn route_host(text: &str) -> Result<String, &'static str> {
    let name = text.to_ascii_lowercase();
    let (plain, is_pattern) = name.strip_prefix("*.").map_or((&*name, false), |plain| (plain, true));
    if !plain.is_ascii() {
        return Err("requests have letters outside ASCII as xn--…: write that form");
    }
    if let Some(address) = plain.strip_prefix('[') {
        let address = address.strip_suffix(']').and_then(|address| address.parse::<Ipv6Addr>().ok());
        return match address {
            Some(_) if is_pattern => Err("no name is below an address"),
            Some(address) if format!("[{address}]") == plain => Ok(name),
            Some(_) => Err("browsers write this address in its shortest form (RFC 5952): write that form"),
            None => Err("this is no IPv6 address in brackets"),
        };
    }
    if plain.ends_with('.') {
        return Err("the dot at the end of a host is taken away before routes are chosen: remove it");
    }
    if plain.contains('*') {
        return Err("a star stands for all names below a name only as \"*.\" at the beginning");
    }
    if plain.contains(':') {
        return Err("the port is taken away before routes are chosen: remove it");
    }
    let is_label = |label: &str| {
        (1..=LABEL_LEN_MAX).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
    };
    if plain.len() > HOST_LEN_MAX || !plain.split('.').all(is_label) {
        return Err("a host is letters, digits, hyphens and dots");
    }
    let last = plain.rsplit('.').next().unwrap_or_default();
    match (last.bytes().all(|byte| byte.is_ascii_digit()), plain.parse::<Ipv4Addr>()) {
        (false, _) => Ok(name),
        (true, Ok(_)) if is_pattern => Err("no name is below an address"),
        (true, Ok(_)) => Ok(name),
        (true, Err(_)) => Err("this is no IPv4 address"),
    }
}

/// Most bytes of an audience: it is in each token, which has to fit a header.
const AUDIENCE_LEN_MAX: usize = 255;

/// Whether a signed identity can be for this audience: a StringOrURI (RFC 7519, section 2) that applications
/// compare letter by letter. The error says why not.
pub fn route_audience(text: &str) -> Result<(), &'static str> {
    if text.is_empty() || text.len() > AUDIENCE_LEN_MAX {
        return Err("it has between 1 and 255 bytes");
    }
    if text.trim() != text || text.chars().any(char::is_control) {
        return Err("it has no control characters, and no space at its ends");
    }
    let is_scheme = |scheme: &str| {
        scheme.starts_with(|first: char| first.is_ascii_alphabetic())
            && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte))
    };
    match text.split_once(':') {
        Some((scheme, rest))
            if !is_scheme(scheme) || rest.is_empty() || text.contains(char::is_whitespace) =>
        {
            Err("with a colon in it, it is a URI (RFC 7519, section 2)")
        }
        _ => Ok(()),
    }
}

/// Characters of patterns and quotes. RFC 3986 3.3 has all but the first for a path only as percent-encoding,
/// and the first is what people write for "everything below".
const PATTERN: &str = "*^|{}[]<>\"`";

/// Whether [`Routes::choose`] can find a route by this path; the error says why no request that is meant has
/// such a path.
pub fn route_path(text: &str) -> Result<(), &'static str> {
    if text.contains(|character| PATTERN.contains(character)) || text.contains(".+") || text.ends_with('$') {
        return Err("a path is no pattern: it stands for itself and everything below it");
    }
    match plain_path(text) {
        Some(plain) if plain == *text || format!("{plain}/") == *text => Ok(()),
        _ => Err("begin it with a slash, and write it without percent-encoding, dots, parameters and query"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::Group;
    use dtyp::FileTime;

    fn route(host: Option<&str>, path: Option<&str>) -> Route {
        Route { host: host.map(str::to_owned), path: path.map(str::to_owned), ..Route::default() }
    }

    fn chosen(routes: &Routes, host: &str, path: &str) -> Result<Option<usize>, Refusal> {
        routes.choose(Some((host, path))).map(|chosen| chosen.number)
    }

    #[test]
    fn the_most_specific_route_decides() {
        let routes = Routes::new(vec![
            route(Some("app.example"), Some("/admin/")),
            route(Some("*.example"), None),
            route(None, Some("/status")),
            route(Some("app.example"), None),
            route(Some("app.example"), Some("/admin/keys")),
        ]);
        for (host, path, expected) in [
            ("app.example", "/", Ok(Some(3))),
            ("APP.example.:8443", "/admin", Ok(Some(0))),
            ("app.example", "/admin/x?y=/", Ok(Some(0))),
            ("app.example", "/administrators", Ok(Some(3))),
            ("app.example", "/admin/keys/1", Ok(Some(4))),
            ("app.example", "/x/../admin", Err(Refusal::AmbiguousPath)),
            ("app.example", "/admin//keys", Err(Refusal::AmbiguousPath)),
            ("app.example", "/%61dmin", Ok(Some(0))),
            ("app.example", "/admin/", Ok(Some(0))),
            ("app.example", "/admin//", Err(Refusal::AmbiguousPath)),
            ("app.example", "/admin/x/..", Err(Refusal::AmbiguousPath)),
            ("app.example", "/admin/%2e%2E/x", Err(Refusal::AmbiguousPath)),
            ("app.example", "/...", Ok(Some(3))),
            ("app.example", "/./admin/.", Err(Refusal::AmbiguousPath)),
            ("app.example", "http://app.example:80/admin", Ok(Some(0))),
            ("app.example", "HTTPS://app.example", Ok(Some(3))),
            ("app.example", "http://app.example?/admin", Err(Refusal::AmbiguousPath)),
            ("app.example", "http://other/admin", Err(Refusal::AmbiguousPath)),
            ("app.example", "x://app.example/admin", Err(Refusal::AmbiguousPath)),
            ("app.example", "x/../http://app.example/admin", Err(Refusal::AmbiguousPath)),
            ("app.example", "//admin", Err(Refusal::AmbiguousPath)),
            ("app.example", "//other/admin", Err(Refusal::AmbiguousPath)),
            ("app.example", "/admin//../x", Err(Refusal::AmbiguousPath)),
            ("app.example", "/x#/../admin", Err(Refusal::AmbiguousPath)),
            ("app.example", "/x%23", Err(Refusal::AmbiguousPath)),
            ("app.example", "/admin%3fx", Err(Refusal::AmbiguousPath)),
            ("app.example, other.example", "/status", Err(Refusal::NotAllowed)),
            ("other.example", "/status", Ok(Some(1))),
            ("example", "/status/x", Ok(Some(2))),
            ("example", "/", Err(Refusal::NotAllowed)),
            ("app.example", "/x%2fadmin", Err(Refusal::AmbiguousPath)),
            ("app.example", "/x;/../admin", Err(Refusal::AmbiguousPath)),
            ("app.example", "/..%5cadmin", Err(Refusal::AmbiguousPath)),
            ("app.example", "/\\admin", Err(Refusal::AmbiguousPath)),
            ("app.example", "/%2561dmin", Err(Refusal::AmbiguousPath)),
            ("app.example", "/../admin", Err(Refusal::AmbiguousPath)),
            ("app.example", "/%00", Err(Refusal::AmbiguousPath)),
            ("app.example", "/%zz", Err(Refusal::AmbiguousPath)),
            ("app.example", "/%ff", Err(Refusal::AmbiguousPath)),
            ("app.example", "admin", Err(Refusal::AmbiguousPath)),
            ("app.example", "", Err(Refusal::AmbiguousPath)),
        ] {
            assert_eq!(chosen(&routes, host, path), expected, "{host} {path}");
        }
        assert_eq!(routes.choose(None), Err(Refusal::Broken(Broken::NoTarget)));
        assert_eq!(Routes::default().choose(None).map(|chosen| chosen.number), Ok(None));
    }

    /// What is configured is compared with a request's host without its port, without a dot at its end and in
    /// lower case.
    #[test]
    fn a_host_that_is_configured_is_one_that_requests_have() {
        for (host, asked) in [
            ("App.Example", "app.example:8443"),
            ("*.example", "a.b.example."),
            ("xn--bcher-kva.example", "XN--bcher-kva.example"),
            ("localhost", "localhost"),
            ("my_app.internal", "my_app.internal"),
            ("127.0.0.1", "127.0.0.1:443"),
            ("[2001:db8::1]", "[2001:db8::1]:443"),
            ("10.example", "10.example"),
        ] {
            let host = route_host(host).unwrap_or_else(|why| panic!("{host}: {why}"));
            let routes = Routes::new(vec![route(Some(&host), None)]);
            assert_eq!(chosen(&routes, asked, "/"), Ok(Some(0)), "{host}");
        }
        for host in [
            "",
            "*",
            "*.",
            ".",
            "app.example.",
            "*.example.",
            "a..example",
            ".example",
            "*.*.example",
            "a*.example",
            "*a.example",
            "b\u{fc}cher.example",
            "\u{4f8b}.example",
            "app,b.example",
            "app.example,b.example",
            "app.example b.example",
            "app.example:443",
            "http://app.example",
            "app.example/x",
            "user@app.example",
            "^app\\.example$",
            "~app",
            "(app|b).example",
            "app.example;",
            "%61pp.example",
            "[::1",
            "::1",
            "[::1]:443",
            "[0:0:0:0:0:0:0:1]",
            "[2001:DB8:0::1]",
            "*.[::1]",
            "*.127.0.0.1",
            "256.0.0.1",
            "10.0.0",
            "\tapp.example",
            &"a".repeat(64),
            &["a"; 128].join("."),
        ] {
            assert!(route_host(host).is_err(), "{host}");
        }
    }

    #[test]
    fn a_path_that_is_configured_is_one_that_requests_have() {
        for path in [
            "/",
            "/admin",
            "/admin/",
            "/a b",
            "/b\u{fc}ro",
            "/c++",
            "/$metadata",
            "/v1/x:cancel",
            "/Users(1)",
            "/a.b",
            "/...",
        ] {
            assert_eq!(route_path(path), Ok(()), "{path}");
            let routes = Routes::new(vec![route(None, Some(path))]);
            let asked = path.trim_end_matches('/').replace(' ', "%20");
            assert_eq!(chosen(&routes, "a", &format!("{asked}/below")), Ok(Some(0)), "{path}");
        }
        for path in [
            "",
            "*",
            "/*",
            "/admin/*",
            "/admin*",
            "/*/admin",
            "/**",
            "^/admin",
            "/admin$",
            "/^admin",
            "/admin/.*",
            "/admin/.+",
            "/(a|b)",
            "/{id}",
            "/users/{id}/x",
            "/[a-z]",
            "~ /admin",
            "admin",
            "/a%20b",
            "/a%2fb",
            "/a/../b",
            "/./a",
            "//a",
            "/a//b",
            "/a;x",
            "/a?x=1",
            "/a#b",
            "/a\\.b",
            "http://app.example/admin",
            "app.example/admin",
            "\"/admin\"",
            " /admin",
            "/a\n",
        ] {
            assert!(route_path(path).is_err(), "{path}");
        }
    }

    #[test]
    fn an_address_has_no_port_either() {
        for (authority, host) in [
            ("[::1]:443", "[::1]"),
            ("[::1]", "[::1]"),
            ("127.0.0.1:443", "127.0.0.1"),
            ("App.Example.:65535", "app.example"),
            ("app_1.example", "app_1.example"),
        ] {
            assert_eq!(host_of(authority).as_deref(), Some(host), "{authority}");
        }
    }

    #[test]
    fn what_is_no_host_with_a_port_is_no_routes() {
        let routes = Routes::new(vec![route(None, None)]);
        for authority in [
            "",
            ":443",
            ".",
            "app.example..",
            "app.example:",
            "app.example:x",
            "app.example:443x",
            "app.example:+443",
            "app.example:-1",
            "app.example:65536",
            "app.example:443:443",
            "app.example:443,other.example",
            "app.example,other.example",
            "app.example/",
            "app.example:443/admin",
            "a b",
            "app.example:443#",
            "user@app.example",
            "app%2eexample",
            "caf\u{e9}.example",
            "[::1]x",
            "[::1]443",
            "[::1]:x",
            "[::1",
            "::1",
            "[]",
            "[app.example]",
            "[::1%25eth0]",
        ] {
            assert_eq!(host_of(authority), None, "{authority}");
            assert_eq!(chosen(&routes, authority, "/"), Err(Refusal::NotAllowed), "{authority}");
        }
    }

    #[test]
    fn a_route_lets_in_whom_it_names() {
        let sid = |text: &str| text.parse::<Sid>().expect("a SID");
        let identity = |domain: &str, is_ours, assurance| Identity {
            domain: domain.to_owned(),
            is_ours,
            account: "alice".to_owned(),
            upn: None,
            full_name: None,
            mail: None,
            sid: sid("S-1-5-21-1-2-3-1000"),
            groups: vec![Group { sid: sid("S-1-5-21-1-2-3-1100"), name: Some("Staff".to_owned()) }],
            method: None,
            assurance,
            policy_revision: 1,
            stale_s: None,
            not_after: FileTime::NEVER,
        };
        let ours = identity("CONTOSO", true, Assurance::Strong(None));
        let admit = |route: &Route, identity: &Identity| route.admit(identity);
        let by_name = Route { groups: vec!["staff".to_owned()], ..Route::default() };
        assert_eq!(admit(&by_name, &ours), Ok(()));
        let foreign = identity("FABRIKAM", false, Assurance::Strong(None));
        assert_eq!(admit(&by_name, &foreign), Err(Refusal::NotAllowed), "their Staff is not ours");
        let by_sid = Route { sids: vec![sid("S-1-5-21-1-2-3-1100")], ..Route::default() };
        assert_eq!(admit(&by_sid, &foreign), Ok(()));
        let by_account = Route { sids: vec![ours.sid], ..Route::default() };
        assert_eq!(admit(&by_account, &ours), Ok(()));
        let by_domain = Route { domains: vec!["fabrikam".to_owned()], ..Route::default() };
        assert_eq!(
            (admit(&by_domain, &foreign), admit(&by_domain, &ours)),
            (Ok(()), Err(Refusal::NotAllowed))
        );
        let strong = Route { strong: true, ..Route::default() };
        assert_eq!(admit(&strong, &ours), Ok(()));
        for assurance in [Assurance::Weak, Assurance::Unknown] {
            assert_eq!(admit(&strong, &identity("CONTOSO", true, assurance)), Err(Refusal::NotStrong));
        }
    }
}
