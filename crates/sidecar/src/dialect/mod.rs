//! How each web server passes a client certificate on.
//!
//! A listener speaks one dialect, and only that: certificate headers of others count as forged, and so do
//! names that differ from a header's own in what is neither letter nor digit, which some servers take for the
//! same. What the proxy itself verified is required and checked wherever its dialect can say so.

mod encoding;
mod known;
mod xfcc;

pub(crate) use known::Known;

pub use crate::limits::{CERTIFICATE_LEN_MAX, CHAIN_MAX};

use crate::cookies::Cookies;
use crate::limits::CHAIN_LEN_MAX;
use crate::refusal::{Broken, Refusal};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue};
use sha2::{Digest, Sha256};
use std::borrow::Cow;

/// A client certificate, as the proxy's TLS handshake proved it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientCertificate {
    /// DER of the certificate.
    pub leaf: Bytes,
    /// DER of what came with it, in the order in which it came: names of issuers, and nothing else.
    pub chain: Vec<Bytes>,
    /// SHA-256 of the certificate.
    pub sha256: [u8; 32],
}

impl ClientCertificate {
    /// A certificate with the chain that came with it: each of them one SEQUENCE, so that whatever was cut
    /// off on the way is not taken for the whole. `Broken::Certificate` for others, `Broken::TooLong` beyond
    /// [`CERTIFICATE_LEN_MAX`] and [`CHAIN_MAX`].
    pub fn new(leaf: impl Into<Bytes>, chain: Vec<Bytes>) -> Result<Self, Refusal> {
        let leaf = leaf.into();
        let chain_len: usize = chain.iter().map(Bytes::len).sum();
        if leaf.len() > CERTIFICATE_LEN_MAX || chain.len() > CHAIN_MAX || chain_len > CHAIN_LEN_MAX {
            return Err(Refusal::Broken(Broken::TooLong));
        }
        if !encoding::is_one(&leaf) || !chain.iter().all(|certificate| encoding::is_one(certificate)) {
            return Err(Refusal::Broken(Broken::Certificate));
        }
        let sha256 = Sha256::digest(&leaf).into();
        Ok(Self { leaf, chain, sha256 })
    }

    /// One certificate in percent-encoded PEM, as nginx and Envoy write it, without a chain.
    pub fn from_escaped_pem(text: &[u8]) -> Result<Self, Refusal> {
        Self::new(encoding::escaped_pem(text)?, Vec::new())
    }
}

/// How a proxy passes a certificate on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dialect {
    /// nginx, `auth_request`: `$ssl_client_escaped_cert` and `$ssl_client_verify`.
    Nginx,
    /// Traefik, ForwardAuth after PassTLSClientCert: `X-Forwarded-Tls-Client-Cert`.
    Traefik,
    /// Caddy, `forward_auth`: `{tls_client_certificate_der_base64}`.
    Caddy,
    /// HAProxy, in front of the sidecar: `ssl_c_der`, `ssl_c_verify`, `ssl_c_used`.
    Haproxy,
    /// Apache, in front of the sidecar: `SSL_CLIENT_CERT`, `SSL_CLIENT_VERIFY`.
    Apache,
    /// Envoy, `ext_authz` over HTTP: `X-Forwarded-Client-Cert`.
    Envoy,
    /// RFC 9440: `Client-Cert` and `Client-Cert-Chain`.
    ClientCert,
}

/// Where the host and the path are that a client asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Target {
    /// They are those of the request to the sidecar.
    Request,
    /// `X-Original-Host` and `X-Original-URI`.
    XOriginal,
    /// `X-Forwarded-Host` and `X-Forwarded-Uri`.
    XForwarded,
    /// The configuration does not say.
    Unknown,
}

impl Target {
    /// Host and path, if each is there once. `own` are those of the request. What is not UTF-8 is neither a
    /// host nor a path for which there is a route, as the client's doing: no proxy makes it.
    pub fn read<'a>(self, headers: &'a HeaderMap, own: (&'a str, &'a str)) -> Option<(&'a str, &'a str)> {
        let text = |name: &'static str, other: &'static str| {
            let value = one(headers, name).ok().flatten()?;
            Some(str::from_utf8(value).unwrap_or(other))
        };
        let both = |host, path| Some((text(host, NO_HOST)?, text(path, NO_PATH)?));
        match self {
            Self::Request => Some(own),
            Self::XOriginal => both(X_ORIGINAL_HOST, X_ORIGINAL_URI),
            Self::XForwarded => both(X_FORWARDED_HOST, X_FORWARDED_URI),
            Self::Unknown => None,
        }
    }
}

/// Neither of them is one that a route can be for.
const NO_HOST: &str = "?";
const NO_PATH: &str = "";
const SSL_CLIENT_CERT: &str = "ssl-client-cert";
const SSL_CLIENT_VERIFY: &str = "ssl-client-verify";
const X_FORWARDED_TLS_CLIENT_CERT: &str = "x-forwarded-tls-client-cert";
const X_TLS_CLIENT_CERT: &str = "x-tls-client-cert";
const X_SSL_CLIENT_CERT: &str = "x-ssl-client-cert";
const X_SSL_CLIENT_VERIFY: &str = "x-ssl-client-verify";
const X_SSL_CLIENT_USED: &str = "x-ssl-client-used";
const X_SSL_CLIENT_CHAIN: &str = "x-ssl-client-chain";
const X_FORWARDED_CLIENT_CERT: &str = "x-forwarded-client-cert";
const CLIENT_CERT: &str = "client-cert";
const CLIENT_CERT_CHAIN: &str = "client-cert-chain";
/// Every header by which any dialect passes on a certificate, or what became of it.
pub const OWNED: [&str; 11] = [
    SSL_CLIENT_CERT,
    SSL_CLIENT_VERIFY,
    X_FORWARDED_TLS_CLIENT_CERT,
    X_TLS_CLIENT_CERT,
    X_SSL_CLIENT_CERT,
    X_SSL_CLIENT_VERIFY,
    X_SSL_CLIENT_USED,
    X_SSL_CLIENT_CHAIN,
    X_FORWARDED_CLIENT_CERT,
    CLIENT_CERT,
    CLIENT_CERT_CHAIN,
];
const X_ORIGINAL_URI: &str = "x-original-uri";
const X_ORIGINAL_HOST: &str = "x-original-host";
const X_FORWARDED_URI: &str = "x-forwarded-uri";
const X_FORWARDED_HOST: &str = "x-forwarded-host";

impl Dialect {
    /// All of them.
    pub const ALL: [Self; 7] =
        [Self::Nginx, Self::Traefik, Self::Caddy, Self::Haproxy, Self::Apache, Self::Envoy, Self::ClientCert];

    /// Its name in configuration, logs and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Nginx => "nginx",
            Self::Traefik => "traefik",
            Self::Caddy => "caddy",
            Self::Haproxy => "haproxy",
            Self::Apache => "apache",
            Self::Envoy => "envoy",
            Self::ClientCert => "client-cert",
        }
    }

    /// Whether the proxy reports the result of its own verification. If it does not, the sidecar has to
    /// validate the certificate.
    pub const fn says_verification(self) -> bool {
        matches!(self, Self::Nginx | Self::Haproxy | Self::Apache)
    }

    /// Whether the proxy has no way to ask beside: the sidecar stands between it and the application.
    pub const fn is_in_path(self) -> bool {
        matches!(self, Self::Haproxy | Self::Apache)
    }

    /// The cookies of a request, if `Set-Cookie` of the answer reaches the client: the sidecar stands before
    /// the application, or the configuration that is printed for the web server passes both on.
    pub fn cookies<'a>(self, is_between: bool, headers: &'a HeaderMap) -> Cookies<'a> {
        match is_between || self == Self::Nginx {
            true => Cookies::Headers(headers),
            false => Cookies::None,
        }
    }

    /// The headers of this dialect; all others of [`OWNED`] are forged.
    fn own(self) -> &'static [&'static str] {
        match self {
            Self::Nginx => &[SSL_CLIENT_CERT, SSL_CLIENT_VERIFY],
            Self::Traefik => &[X_FORWARDED_TLS_CLIENT_CERT],
            Self::Caddy => &[X_TLS_CLIENT_CERT],
            Self::Haproxy => &[X_SSL_CLIENT_CERT, X_SSL_CLIENT_VERIFY, X_SSL_CLIENT_USED, X_SSL_CLIENT_CHAIN],
            Self::Apache => &[X_SSL_CLIENT_CERT, X_SSL_CLIENT_VERIFY, X_SSL_CLIENT_CHAIN],
            Self::Envoy => &[X_FORWARDED_CLIENT_CERT],
            Self::ClientCert => &[CLIENT_CERT, CLIENT_CERT_CHAIN],
        }
    }

    /// The certificate of a request, if there is one.
    pub fn presented(self, headers: &HeaderMap) -> Result<Option<ClientCertificate>, Refusal> {
        self.read(headers, None)
    }

    /// The same; texts that are known are not read again.
    pub(crate) fn read(
        self,
        headers: &HeaderMap,
        known: Option<&Known>,
    ) -> Result<Option<ClientCertificate>, Refusal> {
        self.check_names(headers)?;
        let one = |name: &'static str| one(headers, name);
        let alone = |text: &[u8], read: fn(&[u8]) -> Result<ClientCertificate, Refusal>| match known {
            Some(known) => known.read(self, text, read),
            None => read(text),
        };
        match self {
            Self::Nginx => {
                let verified = verified(one(SSL_CLIENT_VERIFY)?)?;
                let leaf = present(one(SSL_CLIENT_CERT)?);
                let leaf = leaf.map(|text| alone(text, ClientCertificate::from_escaped_pem));
                as_verified(verified, leaf.transpose()?)
            }
            Self::Traefik => {
                let Some(text) = present(one(X_FORWARDED_TLS_CLIENT_CERT)?) else { return Ok(None) };
                let presented = alone(text, |text| {
                    // The certificates as they came in the handshake, the client's own first (RFC 8446,
                    // section 4.4.2).
                    let mut certificates = encoding::bare_pems(text)?.into_iter();
                    let leaf = certificates.next().ok_or(Refusal::Broken(Broken::Certificate))?;
                    ClientCertificate::new(leaf, certificates.collect())
                });
                presented.map(Some)
            }
            Self::Caddy => {
                let Some(text) = present(one(X_TLS_CLIENT_CERT)?) else { return Ok(None) };
                alone(text, |text| ClientCertificate::new(encoding::base64(text)?, Vec::new())).map(Some)
            }
            Self::Haproxy => {
                let used = match one(X_SSL_CLIENT_USED)? {
                    Some(b"1") => true,
                    Some(b"0") => false,
                    Some(_) => return Err(Refusal::Broken(Broken::Verification)),
                    None => return Err(Refusal::Broken(Broken::NoVerification)),
                };
                let verified = match (one(X_SSL_CLIENT_VERIFY)?, used) {
                    (Some(b"0"), true) => Verified::Good,
                    (Some(b"0"), false) => Verified::Absent,
                    (Some(code), _) if code.iter().all(u8::is_ascii_digit) && !code.is_empty() => {
                        return Err(Refusal::NotVerified);
                    }
                    (Some(_), _) => return Err(Refusal::Broken(Broken::Verification)),
                    (None, _) => return Err(Refusal::Broken(Broken::NoVerification)),
                };
                let leaf = present(one(X_SSL_CLIENT_CERT)?).map(encoding::base64).transpose()?;
                let chain = present(one(X_SSL_CLIENT_CHAIN)?).map(encoding::base64).transpose()?;
                let chain =
                    chain.map(|chain| encoding::concatenated(&chain)).transpose()?.unwrap_or_default();
                leaf_of(verified, leaf, chain)
            }
            Self::Apache => {
                let verified = verified(one(X_SSL_CLIENT_VERIFY)?)?;
                let leaf = present(one(X_SSL_CLIENT_CERT)?).map(encoding::spaced_pem).transpose()?;
                let chain = one(X_SSL_CLIENT_CHAIN)?.map(encoding::without_nulls);
                let chain = present(chain).map(encoding::spaced_pems).transpose()?;
                leaf_of(verified, leaf, chain.unwrap_or_default())
            }
            Self::Envoy => match present(one(X_FORWARDED_CLIENT_CERT)?) {
                Some(text) => alone(text, xfcc::presented).map(Some),
                None => Ok(None),
            },
            Self::ClientCert => {
                let leaf = present(one(CLIENT_CERT)?).map(encoding::byte_sequence).transpose()?;
                // A list may come as several fields (RFC 9110, section 5.3).
                let mut chain = Vec::new();
                for value in headers.get_all(CLIENT_CERT_CHAIN) {
                    chain.extend(encoding::byte_sequences(value.as_bytes())?);
                }
                match leaf {
                    Some(leaf) => ClientCertificate::new(leaf, chain).map(Some),
                    None if chain.is_empty() => Ok(None),
                    None => Err(Refusal::Broken(Broken::Contradiction)),
                }
            }
        }
    }

    /// Where this dialect has what the client asked for. `is_between` is whether the sidecar passes the
    /// request on.
    pub const fn target(self, is_between: bool) -> Target {
        match self {
            Self::Nginx => Target::XOriginal,
            Self::Traefik | Self::Caddy => Target::XForwarded,
            Self::Haproxy | Self::Apache => Target::Request,
            // A question has a path of its own, or the client's behind a prefix: that is the proxy's
            // configuration.
            Self::Envoy | Self::ClientCert if !is_between => Target::Unknown,
            Self::Envoy | Self::ClientCert => Target::Request,
        }
    }

    /// Refuses headers that this dialect does not have, or has under another name.
    fn check_names(self, headers: &HeaderMap) -> Result<(), Refusal> {
        for name in headers.keys() {
            if self.own().contains(&name.as_str()) {
                continue;
            }
            if is_owned(name.as_str()) {
                return Err(Refusal::Forged);
            }
        }
        Ok(())
    }
}

/// Whether a name is one by which certificates are passed on, to whichever server.
fn is_owned(name: &str) -> bool {
    OWNED.contains(&plain_name(name).as_ref())
}

/// A header's name as it is where names become variables: there `_` is written for all that is neither letter
/// nor digit, by some servers for `-` alone.
pub fn plain_name(name: &str) -> Cow<'_, str> {
    match name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-') {
        true => name.into(),
        false => name.replace(|c: char| !c.is_ascii_alphanumeric(), "-").into(),
    }
}

/// What a proxy says of a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verified {
    Good,
    Absent,
}

/// `SUCCESS`, `NONE` or `FAILED:…`, as nginx and Apache have it; Apache's `GENEROUS` means that the
/// certificate was not verified.
fn verified(value: Option<&[u8]>) -> Result<Verified, Refusal> {
    match value {
        Some(b"SUCCESS") => Ok(Verified::Good),
        Some(b"NONE") => Ok(Verified::Absent),
        Some(b"GENEROUS") => Err(Refusal::NotVerified),
        Some(value) if value.starts_with(b"FAILED") => Err(Refusal::NotVerified),
        Some(_) => Err(Refusal::Broken(Broken::Verification)),
        None => Err(Refusal::Broken(Broken::NoVerification)),
    }
}

fn leaf_of(
    verified: Verified,
    leaf: Option<Vec<u8>>,
    chain: Vec<Bytes>,
) -> Result<Option<ClientCertificate>, Refusal> {
    let presented = leaf.map(|leaf| ClientCertificate::new(leaf, chain)).transpose()?;
    as_verified(verified, presented)
}

fn as_verified(
    verified: Verified,
    presented: Option<ClientCertificate>,
) -> Result<Option<ClientCertificate>, Refusal> {
    match (verified, presented) {
        (Verified::Good, Some(presented)) => Ok(Some(presented)),
        (Verified::Absent, None) => Ok(None),
        _ => Err(Refusal::Broken(Broken::Contradiction)),
    }
}

/// The one value of a header.
fn one<'a>(headers: &'a HeaderMap, name: &'static str) -> Result<Option<&'a [u8]>, Refusal> {
    let mut values = headers.get_all(name).iter().map(HeaderValue::as_bytes);
    match (values.next(), values.next()) {
        (value, None) => Ok(value.map(<[u8]>::trim_ascii)),
        _ => Err(Refusal::Broken(Broken::Twice)),
    }
}

/// A value that says something: servers put in an empty one, a hyphen or Apache's `(null)` for nothing.
fn present(value: Option<&[u8]>) -> Option<&[u8]> {
    value.filter(|value| !matches!(*value, b"" | b"-" | b"(null)"))
}

#[cfg(test)]
mod tests;
