//! Who is an operator: a client that shows the token of the admin port, or a browser with a cookie for it.

use crate::clock::uptime;
use crate::config::Admin;
use aws_lc_rs::hmac;
use axum::http::header::{AUTHORIZATION, COOKIE, HOST, ORIGIN};
use axum::http::{HeaderMap, StatusCode};
use dcerpc_tokio::LogLimiter;
use std::net::SocketAddr;
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
    pub(super) fn new(admin: &Admin, token: Zeroizing<String>, address: SocketAddr) -> Self {
        let mut hosts = vec![address.to_string(), address.ip().to_string()];
        hosts.extend(["localhost".to_owned(), format!("localhost:{}", address.port())]);
        hosts
            .extend(admin.hosts.iter().flat_map(|host| [host.clone(), format!("{host}:{}", address.port())]));
        let sessions = Sessions::new(address.port());
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

    fn has_token(&self, headers: &HeaderMap) -> bool {
        let shown = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
        self.is_token(shown.and_then(|value| value.strip_prefix("Bearer ")).unwrap_or_default())
    }

    pub(super) fn is_token(&self, shown: &str) -> bool {
        bool::from(shown.as_bytes().ct_eq(self.token.as_bytes()))
    }

    pub(super) fn admits(&self, headers: &HeaderMap) -> Result<(), (StatusCode, &'static str)> {
        // A page of a browser names its origin.
        if headers.contains_key(ORIGIN) || !self.has_host(headers) {
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
/// A cookie is the time when it ends, and the HMAC of that with a key that this process alone has. So a cookie
/// tells nothing of the token, and a restart ends all of them.
pub(super) struct Sessions {
    key: hmac::Key,
    name: String,
    log_limiter: LogLimiter,
}

impl Sessions {
    /// Of the listener at this port: browsers send cookies to all ports of a host.
    pub(super) fn new(port: u16) -> Self {
        let mut octets = Zeroizing::new([0; 32]);
        crate::random::fill(&mut *octets);
        let key = hmac::Key::new(hmac::HMAC_SHA256, &*octets);
        Self { key, name: format!("rcmpd-{port}"), log_limiter: LogLimiter::default() }
    }

    /// A new cookie. `is_secure` says whether the browser came by TLS, which a proxy in front terminates.
    pub(super) fn begin(&self, is_secure: bool) -> String {
        let ends = uptime().saturating_add(SESSION).as_secs().to_string();
        let tag = dtyp::hex(hmac::sign(&self.key, ends.as_bytes()).as_ref());
        self.cookie(&format!("{ends}.{tag}"), SESSION.as_secs(), is_secure)
    }

    /// What removes the cookie.
    pub(super) fn end(&self) -> String {
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

    /// Whether one that has not ended is among the cookies.
    pub(super) fn are_in(&self, headers: &HeaderMap) -> bool {
        let values = headers.get_all(COOKIE).iter().filter_map(|value| value.to_str().ok());
        let cookies = values.flat_map(|value| value.split(';')).filter_map(|it| it.trim().split_once('='));
        cookies.filter(|(name, _)| *name == self.name).any(|(_, value)| self.is_good(value))
    }

    fn is_good(&self, value: &str) -> bool {
        let Some((ends, tag)) = value.split_once('.') else { return false };
        let mut octets = [0; 32];
        let Some(()) = dtyp::read_hex(tag.as_bytes(), &mut octets) else { return false };
        let is_signed = hmac::verify(&self.key, ends.as_bytes(), &octets).is_ok();
        is_signed && ends.parse().is_ok_and(|ends: u64| uptime().as_secs() < ends)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        let (ends, tag) = value.split_once('.').expect("a tag");
        let later = ends.parse::<u64>().expect("seconds") + 1;
        for forged in [
            format!("{later}.{tag}"),
            format!("{ends}."),
            format!("{ends}.{tag}0"),
            ends.to_owned(),
            format!(".{tag}"),
        ] {
            assert!(!sessions.are_in(&headers(&format!("{name}={forged}"))), "{forged}");
        }
        let ended = uptime().as_secs().to_string();
        let tag = dtyp::hex(hmac::sign(&sessions.key, ended.as_bytes()).as_ref());
        assert!(!sessions.are_in(&headers(&format!("{name}={ended}.{tag}"))));
    }
}
