//! What was found out, and in which words.

use serde_json::{Value, json};

/// What a check comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing leaks here.
    Pass,
    /// Something does.
    Leak,
    /// The page behind is not `rcmpd page`, or the proxy does not do what was to be tried.
    NotSeen,
    /// It could not be tried.
    NotChecked,
}

impl Verdict {
    /// All of them, in the order in which they are counted.
    pub const ALL: [Self; 4] = [Self::Pass, Self::Leak, Self::NotSeen, Self::NotChecked];

    /// Its name in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Leak => "leak",
            Self::NotSeen => "not_seen",
            Self::NotChecked => "not_checked",
        }
    }

    /// Its name for people.
    pub const fn text(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Leak => "LEAK",
            Self::NotSeen => "not seen",
            Self::NotChecked => "could not be checked",
        }
    }
}

macro_rules! checks {
    ($($check:ident = $name:literal, $did:literal, $leak:literal, $advice:literal;)*) => {
        /// What is tried, in this order. Names are stable.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Check {
            $(#[doc = $did] $check,)*
        }

        impl Check {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$check),*];

            /// A stable name.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$check => $name,)* }
            }

            /// What is done.
            pub const fn did(self) -> &'static str {
                match self { $(Self::$check => $did,)* }
            }

            /// What it means if something leaks.
            pub const fn means(self) -> &'static str {
                match self { $(Self::$check => $leak,)* }
            }

            /// What to change then.
            pub const fn advice(self) -> &'static str {
                match self { $(Self::$check => $advice,)* }
            }
        }
    };
}

checks! {
    Certificate = "certificate",
        "asked with the certificate",
        "the application gets an identity header twice, the name of another account, or the secret between proxy and sidecar",
        "set each identity header exactly once from the answer of the sidecar, and forward neither a client's copy nor the secret";
    NoCertificate = "no-certificate",
        "asked without a certificate",
        "the page is served without a certificate",
        "let the sidecar decide about every request, and refuse a request if it answers 401";
    WrongAuthority = "wrong-authority",
        "asked with a certificate that has the same names as yours, from a CA that this check created",
        "self-issued certificates are accepted, so any client can impersonate any user",
        "validate client certificates against your CA in the proxy, and keep validation = \"chain\"";
    ForgedIdentity = "forged-identity",
        "sent every identity header beside the certificate: as it is, in other cases, with _ . ~ and other characters for -, doubled, with spaces before the colon, after a bare line feed, in a trailer",
        "a client with any accepted certificate can choose its identity",
        "remove or overwrite every identity header before the request reaches the application, in each spelling that it reads as the same name, even if the value of the sidecar is empty";
    ForgedIdentityAnonymous = "forged-identity-anonymous",
        "sent every identity header in each of these ways without a certificate",
        "a client without a certificate gets the page by sending a header",
        "decide only by the answer of the sidecar, never by a header of the request";
    ForgedCertificate = "forged-certificate",
        "sent your certificate in the headers of each dialect without presenting it in the handshake",
        "a client that has your certificate, which is not secret, can impersonate you without its key",
        "overwrite the listener's certificate headers in the request to the sidecar, empty where there is no certificate, and remove the others";
    ForgedCertificateWrongAuthority = "forged-certificate-wrong-authority",
        "sent your certificate in the headers of each dialect, and presented one of another CA in the handshake",
        "with a certificate of an untrusted CA, a forged certificate header is accepted",
        "overwrite the certificate headers whatever the result of the validation is, and forward that result as well";
    ForgedCertificateBeside = "forged-certificate-beside",
        "sent another certificate in the headers of each dialect, beside the one that was presented in the handshake",
        "a client with any accepted certificate can impersonate another user",
        "overwrite the certificate headers, do not add to them";
    ForwardingHeaders = "forwarding-headers",
        "sent headers that move address, scheme, host or path, such as X-Forwarded-For, X-Original-URL and X-Rewrite-URL: as they are, in other cases, with _ . ~ and other characters for -, doubled, with spaces before the colon, after a bare line feed",
        "a client can choose its address, or gets another path or host than the sidecar decided about",
        "remove or overwrite these headers before the request reaches the application, in each spelling that it reads as the same name";
    HopByHop = "hop-by-hop",
        "named each certificate and identity header in Connection, which makes proxies drop it",
        "a client can remove headers that the proxy sets, and the application uses the remaining ones",
        "set headers after hop-by-hop headers are removed, or refuse a Connection header with other words than close, keep-alive and upgrade";
    Secret = "secret",
        "sent X-Sidecar-Secret as a client, with the certificate, and without it beside forged certificates",
        "a client can impersonate the proxy to the sidecar, or the application gets the secret",
        "overwrite X-Sidecar-Secret in the request to the sidecar, and remove it from the one to the application";
    Paths = "paths",
        "asked for the page by other spellings of its path and by a whole URL, and for paths below it that web servers have rules for (endings of files, folders, probes), with and without the certificate and identity headers",
        "the page can be reached on a path without a decision of the sidecar, or on which headers of a client pass",
        "ask the sidecar and remove headers for all paths, not in a location for some of them; in nginx, a nested location with its own proxy_set_header has none of the outer ones, and one with auth_request off does not ask";
    OtherPaths = "other-paths",
        "asked the main questions at each --path",
        "another path has other rules than the page",
        "give the location of that path the rules of the page: ask the sidecar, and set and remove the same headers";
    Hosts = "hosts",
        "asked by another Host, by none and by two, and by a whole URL of one host beside the Host of another, with and without the certificate",
        "the page can be reached by a host name without a decision of the sidecar, or with a decision about another host",
        "let a default server refuse every host that is not configured, and forward to the application the host that the sidecar is asked about";
    Methods = "methods",
        "asked by other methods and versions, with bodies, expectations and upgrades, without a certificate",
        "such a request reaches the page without a decision of the sidecar",
        "let the sidecar decide about every method, upgrades and OPTIONS included";
    Resumption = "resumption",
        "asked with the certificate, then again over the resumed TLS session",
        "a resumed session has another identity than the first one",
        "upgrade the proxy, or switch off session tickets and session caches";
    AnonymousSession = "anonymous-session",
        "resumed a TLS session that began without a certificate",
        "a session that never had a certificate gets an identity",
        "switch off session tickets and session caches, and upgrade the proxy";
    OtherHost = "other-host",
        "resumed TLS sessions of one host under the name of the other",
        "a certificate that one host of the proxy accepts is accepted by the other",
        "give hosts with other rules for client certificates separate session caches and ticket keys, or a separate address";
    Pipelining = "pipelining",
        "sent requests on one connection without waiting, and one hidden in the body of another",
        "a request is read as a part of another one, or is not decided separately",
        "upgrade the proxy, and let it refuse requests with two lengths";
    Http2 = "http2",
        "asked over HTTP/2 with the certificate, without one, and with one of another CA, with identity headers and certificates in headers, in a trailer, for another host",
        "what is refused over HTTP/1.1 passes over HTTP/2",
        "give both protocols the same rules, or switch HTTP/2 off";
    PlainHttp = "plain-http",
        "asked without TLS at the same port and at the plain one",
        "the page is served without TLS, where a client cannot present a certificate",
        "serve the page over TLS only, and redirect the plain port";
    CertificateAgain = "certificate-again",
        "asked with the certificate once more, to be sure that refusals were not caused by a change of the server",
        "the application gets another identity than at first",
        "find out what changed during the check";
}

impl Check {
    /// Whether there may be nothing to try: not every web server resumes sessions or speaks HTTP/2, and other
    /// hosts and paths are given by the operator. Any other check that saw nothing was not done.
    pub const fn is_optional(self) -> bool {
        matches!(
            self,
            Self::Resumption | Self::AnonymousSession | Self::OtherHost | Self::Http2 | Self::OtherPaths
        )
    }
}

/// What to change where identity headers pass unchanged, and a later check sees no more than that.
pub(super) const SEE_FORGED_IDENTITY: &str =
    "identity headers of a client pass everywhere: first change what forged-identity says, then check again";

/// What a check comes to, and why.
#[derive(Clone, Debug)]
pub struct Finding {
    /// What was tried.
    pub check: Check,
    /// What it comes to.
    pub verdict: Verdict,
    /// What was seen, a line each: what leaks first.
    pub seen: Vec<String>,
    /// Whether nothing leaks but headers of a client, which arrive at the page.
    pub is_of_headers: bool,
    /// What to change, if something leaks.
    pub advice: &'static str,
}

impl Finding {
    /// As JSON. Scripts rely on its names: add to them, do not rename them.
    pub fn json(&self) -> Value {
        let leaks = self.verdict == Verdict::Leak;
        json!({
            "name": self.check.name(),
            "verdict": self.verdict.name(),
            "did": self.check.did(),
            "means": leaks.then(|| self.check.means()),
            "change": leaks.then_some(self.advice),
            "seen": self.seen,
        })
    }
}

/// What one request showed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    Good,
    Leak(String),
    /// Headers of a client arrive at the page: these.
    Arrived(String),
    /// The answer does not say.
    Untold(String),
    /// There is no answer.
    Untried(String),
}

/// What the requests of a check showed.
#[derive(Debug, Default)]
pub(super) struct Tally {
    good: usize,
    leaks: Vec<String>,
    /// How many of these are headers that arrive.
    arrived: usize,
    untold: Vec<String>,
    untried: Vec<String>,
    notes: Vec<String>,
}

impl Tally {
    /// One more.
    pub(super) fn add(&mut self, request: &str, seen: Seen) {
        let line = |text: String| format!("{request}: {text}");
        match seen {
            Seen::Good => self.good += 1,
            Seen::Leak(text) => self.leaks.push(line(text)),
            Seen::Arrived(names) => {
                self.arrived += 1;
                self.leaks.push(line(format!("what was sent arrives as {names}")));
            }
            Seen::Untold(text) => self.untold.push(line(text)),
            Seen::Untried(text) => self.untried.push(line(text)),
        }
    }

    /// Something worth saying.
    pub(super) fn note(&mut self, text: impl Into<String>) {
        self.notes.push(text.into());
    }

    /// Whether something leaks.
    pub(super) fn leaks(&self) -> bool {
        !self.leaks.is_empty()
    }

    /// What it comes to. What leaks counts before what could not be tried, and that before what was good.
    pub(super) fn finding(self, check: Check) -> Finding {
        let verdict = match (&self.leaks[..], &self.untried[..], self.good) {
            ([_, ..], ..) => Verdict::Leak,
            ([], [_, ..], _) => Verdict::NotChecked,
            ([], [], 0) => Verdict::NotSeen,
            ([], [], _) => Verdict::Pass,
        };
        let is_of_headers = self.arrived > 0 && self.arrived == self.leaks.len();
        let seen = [self.leaks, self.untried, self.notes, self.untold].concat();
        Finding { check, verdict, seen, is_of_headers, advice: check.advice() }
    }
}
