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
        "the application is told more than one thing, somebody else's name, or the secret between proxy and sidecar",
        "set each identity header exactly once from the sidecar's answer, and pass no copy of a client's nor the sidecar's secret on";
    NoCertificate = "no-certificate",
        "asked without a certificate",
        "whoever asks sees the page",
        "let the sidecar decide about every request, and answer its 401 with a refusal";
    WrongAuthority = "wrong-authority",
        "asked with a certificate that says the same as yours, of an authority made on the spot",
        "whoever makes a certificate themselves is who they say they are",
        "verify client certificates against your authority in the proxy, and keep validation = \"chain\"";
    ForgedIdentity = "forged-identity",
        "sent every identity header beside the certificate: as it is, in other cases, with _ . ~ and other characters for -, doubled, with spaces before the colon, after a bare line feed, in a trailer",
        "whoever has any certificate chooses who the application takes them for",
        "remove or overwrite every identity header before the application is asked, under each name that it takes for the same, even where the sidecar's is empty";
    ForgedIdentityAnonymous = "forged-identity-anonymous",
        "sent every identity header in each of these ways without a certificate",
        "whoever asks with the right header sees the page",
        "decide by the sidecar's answer alone, never by a header of the request";
    ForgedCertificate = "forged-certificate",
        "sent your certificate in each dialect's headers without showing it in the handshake",
        "whoever has your certificate, which is no secret, is you without its key",
        "overwrite the listener's certificate headers in the request to the sidecar, empty where there is no certificate, and remove the others";
    ForgedCertificateWrongAuthority = "forged-certificate-wrong-authority",
        "sent your certificate in each dialect's headers, and showed one of another authority in the handshake",
        "a certificate that nobody vouches for opens the way for a forged header",
        "overwrite the certificate headers whatever came of the verification, and pass the verification on too";
    ForgedCertificateBeside = "forged-certificate-beside",
        "sent another certificate in each dialect's headers beside the one that was shown in the handshake",
        "whoever has any certificate can be somebody else",
        "overwrite the certificate headers, do not add to them";
    ForwardingHeaders = "forwarding-headers",
        "sent headers that move address, scheme, host or path, such as X-Forwarded-For, X-Original-URL and X-Rewrite-URL: as they are, in other cases, with _ . ~ and other characters for -, doubled, with spaces before the colon, after a bare line feed",
        "a client chooses its address, or is served another path or host than the sidecar was asked about",
        "remove or overwrite these headers before the application is asked, under each name that it takes for the same";
    HopByHop = "hop-by-hop",
        "named each certificate and identity header in Connection, which makes proxies drop it",
        "a client takes away what the proxy says of it, and the application goes by what is left",
        "set headers after hop-by-hop headers are removed, or refuse a Connection with other words than close, keep-alive and upgrade";
    Secret = "secret",
        "sent X-Sidecar-Secret as a client, with the certificate, and without it beside forged certificates",
        "a client speaks to the sidecar as the proxy does, or the application learns how to",
        "overwrite X-Sidecar-Secret in the request to the sidecar, and remove it from the one to the application";
    Paths = "paths",
        "asked for the page by other spellings of its path and by a whole URL, and for paths below it that web servers have rules for (endings of files, folders, probes), with and without the certificate and identity headers",
        "there is a way to the page that the sidecar is not asked about, or where headers of a client pass",
        "put the question to the sidecar, and the removal of headers, where all paths pass, not into a location for some of them; in nginx a nested location with a proxy_set_header of its own has none of the outer ones, and one with auth_request off asks nothing";
    OtherPaths = "other-paths",
        "asked the main questions at each --path",
        "another path has other rules than the page",
        "give the location of that path the rules of the page: the question to the sidecar, and all headers that are set or removed";
    Hosts = "hosts",
        "asked by another Host, by none and by two, and by a whole URL of one host beside the Host of another, with and without the certificate",
        "there is a host by which the page is served and the sidecar is not asked, or is asked about another one",
        "let a default server refuse every host that is not configured, and tell the application the host that the sidecar is asked about";
    Methods = "methods",
        "asked by other methods and versions, with bodies, expectations and upgrades, without a certificate",
        "a request of this kind reaches the page and the sidecar is not asked",
        "let the sidecar decide about every method, upgrades and OPTIONS included";
    Resumption = "resumption",
        "asked with the certificate, then again over the resumed TLS session",
        "a resumed session is not who the first one was",
        "upgrade the proxy, or switch session tickets and session caches off";
    AnonymousSession = "anonymous-session",
        "resumed a TLS session that began without a certificate",
        "a session that never showed a certificate counts as somebody's",
        "switch session tickets and session caches off, and upgrade the proxy";
    OtherHost = "other-host",
        "resumed TLS sessions of one host under the name of the other",
        "what one host of the proxy accepts as a certificate counts at the other",
        "give hosts with other rules for client certificates their own session caches and ticket keys, or an address of their own";
    Pipelining = "pipelining",
        "sent requests on one connection without waiting, and one hidden in the body of another",
        "a request is taken for a part of another one's, or is not judged by itself",
        "upgrade the proxy, and let it refuse requests with two lengths";
    Http2 = "http2",
        "asked over HTTP/2 with the certificate, without one, and with one of another authority, with identity headers and certificates in headers, in a trailer, for another host",
        "what is refused over HTTP/1.1 passes over HTTP/2",
        "give both protocols the same rules, or switch HTTP/2 off";
    PlainHttp = "plain-http",
        "asked without TLS at the same port and at the plain one",
        "the page is served without TLS, where nobody can show a certificate",
        "serve the page over TLS only, and redirect the plain port";
    CertificateAgain = "certificate-again",
        "asked with the certificate once more, so that what was refused was refused for what it was",
        "the application is told something else than at first",
        "find out what changed while this ran";
}

impl Check {
    /// Whether there may be nothing to try: not every web server resumes sessions or speaks HTTP/2, and other hosts and paths are given by the
    /// operator. Any other check that saw nothing was not done.
    pub const fn is_optional(self) -> bool {
        matches!(
            self,
            Self::Resumption | Self::AnonymousSession | Self::OtherHost | Self::Http2 | Self::OtherPaths
        )
    }
}

/// What to change where identity headers pass unchanged, and a later check sees no more than that.
pub(super) const SEE_FORGED_IDENTITY: &str =
    "identity headers of a client pass everywhere: first do what forged-identity says, then check again";

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
