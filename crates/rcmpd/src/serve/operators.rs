//! Who is an operator: a client that shows the token of the admin port, or a browser with a cookie for it.

use crate::clock::uptime;
use crate::config::Admin;
use aws_lc_rs::hmac;
use axum::http::header::{AUTHORIZATION, COOKIE, HOST, ORIGIN};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use dcerpc_tokio::LogLimiter;
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use subtle::ConstantTimeEq;
use tokio::sync::Semaphore;
use zeroize::Zeroizing;

/// Explanations made at once: one for a refusal may read all accounts.
const EXPLANATIONS_MAX: usize = 1;
/// How long a browser stays logged in.
const SESSION: Duration = Duration::from_secs(8 * 3600);

/// Requests for more than health need the token, a known Host, and must not come from a page in a browser.
pub(super) struct Operators {
    token: Zeroizing<String>,
    hosts: Vec<String>,
    pub(super) explaining: Semaphore,
    sessions: Sessions,
}

impl Operators {
    /// Of these listeners, the one without TLS first.
    pub(super) fn new(admin: &Admin, token: Zeroizing<String>, addresses: &[SocketAddr]) -> Self {
        let mut hosts = Vec::new();
        for address in addresses {
            let names = admin.hosts.iter().cloned().chain(["localhost".to_owned()]);
            hosts.extend(names.flat_map(|host| [format!("{host}:{}", address.port()), host]));
            hosts.extend([address.to_string(), address.ip().to_string()]);
            // Commands of this machine ask a listener on all addresses at a loopback address.
            if address.ip().is_unspecified() {
                let loopback = [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()];
                hosts.extend(loopback.map(|ip| SocketAddr::new(ip, address.port()).to_string()));
            }
        }
        let sessions = Sessions::new(addresses.first().map_or(0, SocketAddr::port));
        Self { token, hosts, explaining: Semaphore::new(EXPLANATIONS_MAX), sessions }
    }

    /// Whether the client has shown the token, or the cookie that a browser got for it.
    pub(super) fn is_shown(&self, headers: &HeaderMap) -> bool {
        self.admits(headers).is_ok() || (self.has_host(headers) && self.is_logged_in(headers))
    }

    /// Whether the Host header is one of ours. A name that was made to lead here is none.
    pub(super) fn has_host(&self, headers: &HeaderMap) -> bool {
        let mut hosts = headers.get_all(HOST).iter();
        let host = hosts.next().and_then(|host| host.to_str().ok()).map(str::to_ascii_lowercase);
        hosts.next().is_none() && host.is_some_and(|host| self.hosts.contains(&host))
    }

    /// Whether the client shows the token, or the cookie that a browser got for it.
    pub(super) fn is_logged_in(&self, headers: &HeaderMap) -> bool {
        self.has_token(headers) || self.sessions.are_in(headers)
    }

    pub(super) const fn sessions(&self) -> &Sessions {
        &self.sessions
    }

    /// The header of a client that has shown the token. A client with a certificate of an operator gets it
    /// here, so that all rules for the token are its rules, too.
    pub(super) fn authorization(&self) -> HeaderValue {
        let bearer = Zeroizing::new(format!("Bearer {}", &*self.token));
        // The token was a header of requests to this listener, or is made of hexadecimal digits.
        let mut value = HeaderValue::from_str(&bearer).unwrap_or(HeaderValue::from_static(""));
        value.set_sensitive(true);
        value
    }

    fn has_token(&self, headers: &HeaderMap) -> bool {
        let shown = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
        self.is_token(shown.and_then(|value| value.strip_prefix("Bearer ")).unwrap_or_default())
    }

    pub(super) fn is_token(&self, shown: &str) -> bool {
        bool::from(shown.as_bytes().ct_eq(self.token.as_bytes()))
    }

    pub(super) fn admits(&self, headers: &HeaderMap) -> Result<(), (StatusCode, &'static str)> {
        // A page of a browser names its origin, or the browser says whether it is one of ours. A browser with
        // a certificate of an operator asks for any page.
        let site = headers.get("sec-fetch-site").map(HeaderValue::as_bytes);
        let is_foreign =
            headers.contains_key(ORIGIN) || !matches!(site, None | Some(b"same-origin" | b"none"));
        if is_foreign || !self.has_host(headers) {
            return Err((
                StatusCode::FORBIDDEN,
                "ask by the address in admin.listen or a name in admin.hosts\n",
            ));
        }
        match self.has_token(headers) {
            true => Ok(()),
            false => Err((StatusCode::UNAUTHORIZED, "show the token: Authorization: Bearer …\n")),
        }
    }
}

/// The cookies of browsers that have shown the token.
///
/// A cookie is the time when it ends, a random name, and the HMAC of both with a key that this process alone
/// has. So a cookie tells nothing of the token, and a restart ends all of them. Those that ended by a logout
/// are kept until their time is over.
pub(super) struct Sessions {
    state: Mutex<State>,
    name: String,
    log_limiter: LogLimiter,
}

struct State {
    key: hmac::Key,
    /// Cookies that ended by a logout, by their random names, and when each would have ended.
    ended: HashMap<String, u64>,
}

/// Logouts that are kept. Only operators can cause them. With one more, all sessions end.
const ENDED_MAX: usize = 1024;

impl State {
    fn new() -> Self {
        let mut octets = Zeroizing::new([0; 32]);
        crate::random::fill(&mut *octets);
        Self { key: hmac::Key::new(hmac::HMAC_SHA256, &*octets), ended: HashMap::new() }
    }

    /// The random name of a cookie, and when it ends; `None` if it is not ours, or has ended.
    fn read<'v>(&self, value: &'v str) -> Option<(&'v str, u64)> {
        let (signed, tag) = value.rsplit_once('.')?;
        let mut octets = [0; 32];
        dtyp::read_hex(tag.as_bytes(), &mut octets)?;
        hmac::verify(&self.key, signed.as_bytes(), &octets).ok()?;
        let (ends, name) = signed.split_once('.')?;
        let ends = ends.parse().ok()?;
        (uptime().as_secs() < ends && !self.ended.contains_key(name)).then_some((name, ends))
    }
}

impl Sessions {
    /// Of the listener at this port: browsers send cookies to all ports of a host.
    pub(super) fn new(port: u16) -> Self {
        let log_limiter = LogLimiter::default();
        Self { state: Mutex::new(State::new()), name: format!("rcmpd-{port}"), log_limiter }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // It is whole between any two statements.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A new cookie. `is_secure` says whether the browser came by TLS, which a proxy in front terminates.
    pub(super) fn begin(&self, is_secure: bool) -> String {
        let mut name = [0; 16];
        crate::random::fill(&mut name);
        let ends = uptime().saturating_add(SESSION).as_secs();
        let signed = format!("{ends}.{}", dtyp::hex(&name));
        let tag = dtyp::hex(hmac::sign(&self.state().key, signed.as_bytes()).as_ref());
        self.cookie(&format!("{signed}.{tag}"), SESSION.as_secs(), is_secure)
    }

    /// Ends the sessions of a request, and returns what removes the cookie from the browser. A copy of the
    /// cookie opens nothing any more.
    pub(super) fn end(&self, headers: &HeaderMap) -> String {
        let mut state = self.state();
        for value in self.values(headers) {
            let Some((name, ends)) = state.read(value).map(|(name, ends)| (name.to_owned(), ends)) else {
                continue;
            };
            let now = uptime().as_secs();
            state.ended.retain(|_, ends| now < *ends);
            match state.ended.len() < ENDED_MAX {
                true => drop(state.ended.insert(name, ends)),
                // With another key, no cookie is good.
                false => *state = State::new(),
            }
        }
        self.cookie("", 0, false)
    }

    /// For logins that are rejected.
    pub(super) const fn log_limiter(&self) -> &LogLimiter {
        &self.log_limiter
    }

    fn cookie(&self, value: &str, max_age: u64, is_secure: bool) -> String {
        let secure = if is_secure { "; Secure" } else { "" };
        let name = &self.name;
        format!("{name}={value}; Path=/ui/; Max-Age={max_age}; HttpOnly; SameSite=Strict{secure}")
    }

    /// The values of the cookies with our name.
    fn values<'h>(&self, headers: &'h HeaderMap) -> impl Iterator<Item = &'h str> {
        let values = headers.get_all(COOKIE).iter().filter_map(|value| value.to_str().ok());
        let cookies = values.flat_map(|value| value.split(';')).filter_map(|it| it.trim().split_once('='));
        cookies.filter(|(name, _)| *name == self.name).map(|(_, value)| value)
    }

    /// Whether one that has not ended is among the cookies.
    pub(super) fn are_in(&self, headers: &HeaderMap) -> bool {
        let state = self.state();
        self.values(headers).any(|value| state.read(value).is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_on_all_addresses_is_asked_at_the_loopback_address() {
        let has_host = |listen: &str, host: &str| {
            let listen: SocketAddr = listen.parse().expect("an address");
            let hosts = vec!["dc1.contoso.example".to_owned()];
            let admin = Admin { listen, token: None, hosts, tls: None };
            let mut headers = HeaderMap::new();
            headers.insert(HOST, host.parse().expect("a header"));
            Operators::new(&admin, Zeroizing::new("token".to_owned()), &[listen]).has_host(&headers)
        };
        for listen in ["0.0.0.0:9464", "[::]:9464"] {
            for host in ["127.0.0.1:9464", "[::1]:9464", "localhost:9464", "dc1.contoso.example:9464"] {
                assert!(has_host(listen, host), "{listen} {host}");
            }
            for host in ["127.0.0.1:9465", "192.0.2.1:9464", "rebound.example:9464"] {
                assert!(!has_host(listen, host), "{listen} {host}");
            }
        }
        assert!(!has_host("192.0.2.1:9464", "127.0.0.1:9464"));
    }

    #[test]
    fn cookies_are_of_one_process_and_end() {
        let (sessions, others) = (Sessions::new(1), Sessions::new(1));
        let headers = |cookie: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(COOKIE, cookie.parse().expect("a header"));
            headers
        };
        let cookie = sessions.begin(false);
        let pair = cookie.split(';').next().expect("a pair");
        assert!(sessions.are_in(&headers(&format!("a=b; {pair}"))));
        assert!(!others.are_in(&headers(pair)));
        assert!(!sessions.are_in(&headers(&pair.replacen('=', "x=", 1))));
        let (name, value) = pair.split_once('=').expect("a value");
        let (signed, tag) = value.rsplit_once('.').expect("a tag");
        let (ends, random) = signed.split_once('.').expect("a random name");
        let later = ends.parse::<u64>().expect("seconds") + 1;
        for forged in [
            format!("{later}.{random}.{tag}"),
            format!("{ends}.{random}0.{tag}"),
            format!("{signed}."),
            format!("{signed}.{tag}0"),
            format!("{ends}.{tag}"),
            signed.to_owned(),
            format!(".{tag}"),
        ] {
            assert!(!sessions.are_in(&headers(&format!("{name}={forged}"))), "{forged}");
        }
        let ended = format!("{}.{random}", uptime().as_secs());
        let tag = dtyp::hex(hmac::sign(&sessions.state().key, ended.as_bytes()).as_ref());
        assert!(!sessions.are_in(&headers(&format!("{name}={ended}.{tag}"))));
    }

    #[test]
    fn a_logout_ends_one_session_and_too_many_end_all() {
        let sessions = Sessions::new(1);
        let login = || {
            let mut headers = HeaderMap::new();
            let cookie = sessions.begin(false);
            headers
                .insert(COOKIE, cookie.split(';').next().and_then(|it| it.parse().ok()).expect("a header"));
            headers
        };
        let (first, second) = (login(), login());
        sessions.end(&first);
        // Twice is once.
        sessions.end(&first);
        assert!(!sessions.are_in(&first) && sessions.are_in(&second));
        for _ in 1..ENDED_MAX {
            sessions.end(&login());
        }
        assert!(sessions.are_in(&second) && sessions.state().ended.len() == ENDED_MAX);
        sessions.end(&login());
        assert!(!sessions.are_in(&second) && !sessions.are_in(&first));
        assert!(sessions.state().ended.is_empty() && sessions.are_in(&login()));
    }
}
