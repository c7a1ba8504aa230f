//! Checks of single values, which sections share.

use super::{Problem, SecretRef};
use account_store::DistinguishedName;
use dtyp::Sid;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;
use toml::Spanned;

/// Up to a day: the range of timeouts and intervals that have no other reason for a limit.
pub(super) const UP_TO_A_DAY_S: RangeInclusive<u64> = 1..=86_400;

/// Whether the kernel refuses to listen on both addresses. The unspecified address is every one of its
/// family; that of IPv6 is every one of IPv4, too, unless the system says otherwise. With port 0 the kernel
/// chooses.
fn overlap(one: SocketAddr, other: SocketAddr) -> bool {
    let (a, b) = (one.ip().to_canonical(), other.ip().to_canonical());
    let covers = |all: IpAddr, ip: IpAddr| {
        all.is_unspecified() && (all.is_ipv4() == ip.is_ipv4() || (all.is_ipv6() && !is_ipv6_alone()))
    };
    one.port() == other.port() && one.port() != 0 && (a == b || covers(a, b) || covers(b, a))
}

/// Whether sockets for `[::]` take no connections over IPv4 (ipv6(7), `bindv6only`).
fn is_ipv6_alone() -> bool {
    std::fs::read_to_string("/proc/sys/net/ipv6/bindv6only").is_ok_and(|setting| setting.trim() == "1")
}

/// Checks the values of a file and collects all that is wrong.
pub(super) struct Checker<'a> {
    pub(super) base: &'a Path,
    /// The addresses that are listened on, as far as the file was read.
    listened: Vec<SocketAddr>,
    /// The SID of `[domain]`; none where a file has `[mapping]` alone.
    pub(super) domain_sid: Option<Sid>,
    problems: Vec<Problem>,
}

impl<'a> Checker<'a> {
    /// Checks something, and returns all that is wrong with it. A check that returns `None` has reported why.
    pub(super) fn run<T>(
        base: &'a Path,
        check: impl FnOnce(&mut Self) -> Option<T>,
    ) -> Result<T, Vec<Problem>> {
        let mut checker = Checker { base, listened: Vec::new(), domain_sid: None, problems: Vec::new() };
        let checked = check(&mut checker);
        match checked.filter(|_| checker.problems.is_empty()) {
            Some(checked) => Ok(checked),
            None => {
                checker.problems.sort_by_key(|problem| problem.span.start);
                Err(checker.problems)
            }
        }
    }

    pub(super) fn problem(
        &mut self,
        span: std::ops::Range<usize>,
        what: impl Into<String>,
        help: impl Into<String>,
    ) {
        self.problems.push(Problem { span, what: what.into(), help: help.into() });
    }

    pub(super) fn path(&self, path: &Path) -> PathBuf {
        self.base.join(path)
    }

    pub(super) fn netbios(&mut self, name: &Spanned<String>) -> String {
        let text = name.get_ref();
        let allowed = |c: char| c.is_alphanumeric() || "!@#$%^&'(){}_-~".contains(c);
        if text.is_empty() || text.chars().count() > 15 || !text.chars().all(allowed) {
            self.problem(name.span(), "this is not a NetBIOS name", "use 1 to 15 letters, digits or hyphens");
        }
        text.to_uppercase()
    }

    /// A DNS name, without a dot at its end.
    pub(super) fn dns_name(&mut self, name: &Spanned<String>) -> String {
        let dns = name.get_ref().trim_end_matches('.');
        let label = |label: &str| {
            !label.is_empty()
                && label.len() <= 63
                && label.chars().all(|c| c.is_alphanumeric() || c == '-' || c == '_')
        };
        if dns.len() > 253 || !dns.split('.').all(label) {
            self.problem(name.span(), "this is not a DNS name", "write it as in contoso.example");
        }
        dns.to_owned()
    }

    pub(super) fn domain_sid(&mut self, sid: &Spanned<String>) -> Option<Sid> {
        let parsed = sid.get_ref().parse().ok().filter(Sid::is_domain);
        if parsed.is_none() {
            self.problem(
                sid.span(),
                "this is not the SID of a domain",
                "it has the form S-1-5-21-A-B-C, with three numbers below 4294967296",
            );
        }
        parsed
    }

    pub(super) fn distinguished_name(&mut self, name: &Spanned<String>) -> Option<DistinguishedName> {
        let parsed = name.get_ref().parse::<DistinguishedName>();
        let report = |error: &_| {
            self.problem(
                name.span(),
                format!("this is not a distinguished name: {error}"),
                "write it as the certificate has it, the country first: \"C=US,O=Partners,CN=Partner CA\"",
            );
        };
        parsed.inspect_err(report).ok()
    }

    pub(super) fn address(&mut self, address: &Spanned<String>) -> Option<SocketAddr> {
        let parsed = address.get_ref().parse().ok();
        if parsed.is_none() {
            self.problem(
                address.span(),
                "this is not an address and port",
                "write an IP address and a port, as in \"127.0.0.1:11490\" or \"[::1]:11490\"",
            );
        }
        parsed
    }

    /// An address that is listened on. The kernel gives it to one listener.
    pub(super) fn listens(&mut self, address: &Spanned<String>) -> Option<SocketAddr> {
        let parsed = self.address(address)?;
        if let Some(other) = self.listened.iter().find(|other| overlap(**other, parsed)) {
            let what = format!("another listener has {other}, which is or includes this address");
            self.problem(address.span(), what, "choose another address or port");
        }
        self.listened.push(parsed);
        Some(parsed)
    }

    /// The value of a word, if it is one of the known words.
    pub(super) fn one_of<T: Copy>(
        &mut self,
        given: Option<&Spanned<String>>,
        known: &[(&str, T)],
        what: &str,
    ) -> Option<T> {
        let given = given?;
        let found = known.iter().find(|(name, _)| name == given.get_ref()).map(|(_, value)| *value);
        if found.is_none() {
            let names: Vec<String> = known.iter().map(|(name, _)| format!("\"{name}\"")).collect();
            let help = match &names[..] {
                [first @ .., last] if !first.is_empty() => format!("use {} or {last}", first.join(", ")),
                names => format!("use {}", names.join("")),
            };
            self.problem(given.span(), format!("unknown {what}"), help);
        }
        found
    }

    /// The entries of a list that restricts something. Without the key nothing is restricted. An empty list
    /// reads as "none" and would mean "all", so it is refused.
    pub(super) fn restricting<'t, T>(
        &mut self,
        key: &str,
        list: &'t Option<Spanned<Vec<T>>>,
        help: &'static str,
    ) -> &'t [T] {
        let Some(list) = list else { return &[] };
        if list.get_ref().is_empty() {
            self.problem(list.span(), format!("{key} is an empty list"), help);
        }
        list.get_ref()
    }

    /// A number, or its default. `unit` is empty for a count.
    pub(super) fn within(
        &mut self,
        given: Option<&Spanned<u64>>,
        range: RangeInclusive<u64>,
        unit: &str,
        default: u64,
    ) -> u64 {
        match given {
            None => default,
            Some(value) if range.contains(value.get_ref()) => *value.get_ref(),
            Some(value) => {
                let help = format!("use {} to {} {unit}", range.start(), range.end());
                self.problem(value.span(), "this is out of range", help.trim_end());
                default
            }
        }
    }

    /// A count, or its default.
    pub(super) fn count(
        &mut self,
        given: Option<&Spanned<u64>>,
        range: RangeInclusive<u64>,
        default: u64,
    ) -> usize {
        self.within(given, range, "", default) as usize
    }

    /// A time in seconds, or its default.
    pub(super) fn seconds(
        &mut self,
        given: Option<&Spanned<u64>>,
        range: RangeInclusive<u64>,
        default: u64,
    ) -> Duration {
        Duration::from_secs(self.within(given, range, "seconds", default))
    }

    pub(super) fn secret(&mut self, reference: &Spanned<String>) -> Option<SecretRef> {
        let parsed = SecretRef::parse(reference.get_ref(), self.base);
        if parsed.is_none() {
            self.problem(
                reference.span(),
                "this is not a reference to a secret",
                "write file:PATH, env:NAME or cred:NAME; secrets never stand in this file",
            );
        }
        parsed
    }

    /// A host as clients name it, in lower case: in a Host header, or in a certificate.
    pub(super) fn host(&mut self, host: &Spanned<String>) -> String {
        let name = host.get_ref().strip_suffix('.').unwrap_or(host.get_ref());
        match ::sidecar::routes::route_host(name) {
            Ok(name) if !name.starts_with('*') => name,
            checked => {
                let why = checked.err().unwrap_or("it is a pattern");
                let help = "write one name, as in \"app.example\"";
                self.problem(host.span(), format!("this is not a host: {why}"), help);
                host.get_ref().clone()
            }
        }
    }
}
