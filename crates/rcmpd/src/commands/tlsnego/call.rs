//! `rcmpd tlsnego call`.

use super::trace;
use crate::cli::{BindingArg, CallArgs, ServiceArgs, SuiteArg, TrustArg};
use crate::commands::{UNREACHABLE, UNUSABLE, failed};
use crate::config::SecretRef;
use crate::tlsnego::moment;
use crate::{output, random};
use anyhow::Context;
use http::Uri;
use pem_file::input;
use rustls::ClientConfig;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::sign::CertifiedKey;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use serde_json::{Value, json};
use sidecar_tokio::server_verifier;
use std::fmt::Display;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tlsnego_service::fault::Fault;
use tlsnego_service::freshness::Skew;
use tlsnego_service::{Credentials, TlsVersions, negotiation};
use tlsnego_soap::TrustVersion;
use tlsnego_soap::client::{Client, ClientError, ReadFault};
use tlsnego_soap::trace::Tracer;
use tlsnego_tokio::client::{Answer, Bootstrap, CallError, Caller, ServerCertificates, Settings};
use trust_tokio::certificates;
use xml_security::names::SOAP;
use xml_security::{Certificate, Cipher, Document, Hash, ParseLimits, SigningKey, Suite, UsernameToken};
use zeroize::Zeroizing;

/// This is not how it is asked for.
const WRONG_USE: u8 = 2;
/// The application answered with a fault, which is verified.
const FAULT: u8 = 3;
/// The service refused the message, and secured its answer.
const REFUSED: u8 = 5;
/// Nothing proves that the answer is the service's.
const NOT_AUTHENTICATED: u8 = 7;

/// What became of one call.
enum Outcome {
    /// The body of a reply, or of a fault of the application.
    Body {
        action: String,
        is_fault: bool,
        body: Vec<u8>,
    },
    /// 202 without a body, where no reply was due.
    Accepted,
    Failed(CallError),
}

impl Outcome {
    fn of(answer: Result<Answer, CallError>, one_way: bool) -> Self {
        match answer {
            Ok(Answer::Reply(reply)) => match reply.body() {
                Ok(body) => Self::Body { action: reply.action, is_fault: reply.is_fault, body },
                Err(error) => Self::Failed(error.into()),
            },
            Ok(Answer::Accepted) if one_way => Self::Accepted,
            Ok(Answer::Accepted) => {
                let why = "HTTP status 202 without a message; give --one-way if no reply is due".to_owned();
                Self::Failed(ClientError::Unreadable(why).into())
            }
            Err(error) => Self::Failed(error),
        }
    }

    fn code(&self) -> u8 {
        match self {
            Self::Body { is_fault: false, .. } | Self::Accepted => 0,
            Self::Body { is_fault: true, .. } => FAULT,
            Self::Failed(error) => code(error),
        }
    }

    /// Whether the next call may have another outcome. A wrong password is not sent again.
    fn may_go_on(&self) -> bool {
        !matches!(self, Self::Failed(error) if code(error) != UNREACHABLE)
    }

    fn json(&self) -> Value {
        match self {
            Self::Body { action, is_fault, body } => json!({
                "outcome": if *is_fault { "fault" } else { "reply" },
                "action": action,
                "body": String::from_utf8_lossy(body),
            }),
            Self::Accepted => json!({ "outcome": "accepted" }),
            Self::Failed(error) => json!({ "outcome": word(error), "error": told(error) }),
        }
    }
}

/// The one place that gives a failure its exit code.
const fn code(error: &CallError) -> u8 {
    match error {
        CallError::NotReached(_) | CallError::Lost(_) | CallError::TimedOut => UNREACHABLE,
        CallError::Protocol(ClientError::Session(_)) => REFUSED,
        CallError::Protocol(ClientError::Message(_)) => UNUSABLE,
        CallError::TooLong(_) | CallError::ServerCertificate(_) | CallError::Protocol(_) => NOT_AUTHENTICATED,
    }
}

/// One word for JSON.
const fn word(error: &CallError) -> &'static str {
    match error {
        CallError::NotReached(_) => "not-reached",
        CallError::Lost(_) | CallError::TimedOut => "not-known",
        _ => match code(error) {
            REFUSED => "refused",
            UNUSABLE => "unusable",
            _ => "not-authenticated",
        },
    }
}

/// The failure, and what may be its cause.
fn told(error: &CallError) -> String {
    match hint(error) {
        Some(hint) => format!("{error} ({hint})"),
        None => error.to_string(),
    }
}

/// What a fault may mean that the service sends. Nothing proves that it is the service's, so it says *may*.
fn hint(error: &CallError) -> Option<&'static str> {
    let CallError::Protocol(ClientError::NotAuthenticated(ReadFault { namespace, local, .. })) = error else {
        return None;
    };
    let is = |fault: Fault| {
        let (known, subcode) = fault.subcode();
        namespace == known.uri && local == subcode
    };
    if is(Fault::FailedAuthentication) {
        return Some("the user name or the password may be wrong");
    }
    if is(Fault::NegotiationFailed) {
        return Some(
            "the service may reject the client certificate, or need one, or have another TLS version",
        );
    }
    if is(Fault::InvalidSecurity) {
        return Some(
            "the clocks may differ, --suite or --binding may be another one, or the service may need a user",
        );
    }
    if is(Fault::ServerTooBusy) {
        return Some("try again later");
    }
    match &**local {
        "DestinationUnreachable" => Some("the service may have another address: see --to"),
        "ActionNotSupported" => Some("the service may not have this --action, or speak WS-Trust 1.3"),
        _ => None,
    }
}

pub(super) async fn call(args: &CallArgs) -> anyhow::Result<u8> {
    if input::is_standard(&args.body) && args.service.password_file.as_deref().is_some_and(input::is_standard)
    {
        return Err(failed(WRONG_USE, "--body and --password-file cannot both be standard input"));
    }
    let body = body(&args.body)?;
    let tracer = args.trace.then(|| trace::printer(args.json.json));
    let mut caller = Caller::new(settings(&args.service, tracer)?, moment);
    let mut outcomes = Vec::new();
    let (mut first_failure, mut good, mut made) = (None, 0_u32, 0_u32);
    for _ in 0..args.count {
        let outcome = Outcome::of(caller.call(&args.action, &body).await, args.one_way);
        made += 1;
        match outcome.code() {
            0 => good += 1,
            code => {
                first_failure.get_or_insert(code);
            }
        }
        let may_go_on = outcome.may_go_on();
        match args.json.json {
            true => outcomes.push(outcome.json()),
            false => print(&outcome),
        }
        if !may_go_on {
            break;
        }
    }
    // The service keeps room for a session until it is cancelled.
    if let Err(error) = caller.cancel().await {
        output::warning(&format!("the session was not cancelled: {error}"));
    }
    let code = first_failure.unwrap_or(0);
    if args.count > 1 {
        output::message(&format!(
            "{good} of {made} calls have a reply, and {} were not made",
            args.count - made
        ));
    }
    if args.json.json {
        output::json(&json!({ "calls": outcomes, "replies": good, "exit_code": code }));
    }
    Ok(code)
}

fn print(outcome: &Outcome) {
    match outcome {
        Outcome::Body { body, is_fault, .. } => {
            if *is_fault {
                output::message("the application answered with a fault");
            }
            match output::is_terminal() {
                true => output::lines(&String::from_utf8_lossy(body)),
                false => output::file(&[body, &b"\n"[..]].concat()),
            }
        }
        Outcome::Accepted => output::message("accepted without a reply, which nothing authenticates"),
        Outcome::Failed(error) => output::message(&told(error)),
    }
}

/// An `s:Body` of its content, or of a file that has a whole one.
fn body(path: &Path) -> anyhow::Result<Vec<u8>> {
    let shown = path.display();
    let limits = ParseLimits::default();
    if path.metadata().is_ok_and(|metadata| metadata.len() > limits.octets as u64) {
        return Err(failed(UNUSABLE, format!("{shown} is longer than {} octets", limits.octets)));
    }
    let octets =
        input::read(path).map_err(|error| failed(UNUSABLE, format!("cannot read {shown}: {error}")))?;
    let unusable = |error: &dyn Display| failed(UNUSABLE, format!("cannot use {shown}: {error}"));
    let mut content = match Document::parse(&octets, &limits) {
        Ok(document) if document.is(document.root(), SOAP.name("Body")) => return Ok(octets),
        // Without the declaration of a document.
        Ok(document) => document.extract(document.root()).map_err(|error| unusable(&error))?,
        // No element, or several.
        Err(_) => octets,
    };
    let mut body = format!("<{0}:Body xmlns:{0}=\"{1}\">", SOAP.prefix, SOAP.uri).into_bytes();
    body.append(&mut content);
    body.extend_from_slice(format!("</{}:Body>", SOAP.prefix).as_bytes());
    Document::parse(&body, &limits).map_err(|error| unusable(&error))?;
    Ok(body)
}

/// How a service is called, and what prints its messages.
pub(super) fn settings(args: &ServiceArgs, trace: Option<Tracer>) -> anyhow::Result<Settings> {
    let url: Uri = args.url.parse().map_err(|error| failed(WRONG_USE, format!("{}: {error}", args.url)))?;
    let has_user = url.authority().is_some_and(|authority| authority.as_str().contains('@'));
    let is_https = url.scheme_str() == Some("https");
    if !(is_https || url.scheme_str() == Some("http")) || url.host().is_none() || has_user {
        return Err(failed(WRONG_USE, format!("{}: give an http or https URL without a user", args.url)));
    }
    let to = args.to.as_ref().unwrap_or(&args.url);
    let https_ca = args.https_ca.as_ref().or(args.ca.as_ref());
    let https = match (is_https, https_ca) {
        (false, _) => None,
        (true, Some(path)) => Some(https(path)?),
        (true, None) => return Err(failed(WRONG_USE, "an https URL needs --https-ca FILE")),
    };
    let (negotiate, establish) = match args.binding {
        BindingArg::Session => (true, true),
        BindingArg::Negotiated => (true, false),
        BindingArg::PresetSession => (false, true),
        BindingArg::OneShot => (false, false),
    };
    let server = args.server_cert.as_deref().map(certificate).transpose()?;
    let pair = args.cert.as_deref().zip(args.key.as_deref());
    let bootstrap = match (negotiate, server) {
        (true, server) => negotiated(args, to, pair, server)?,
        (false, Some(service)) => Bootstrap::Certificate {
            service,
            signer: pair
                .map(|(cert, key)| signer(cert, key).map(|signer| Box::new(signer) as Box<_>))
                .transpose()?,
        },
        (false, None) => {
            return Err(failed(
                WRONG_USE,
                "without negotiation the certificate is known: give --server-cert",
            ));
        }
    };
    let username = match (&args.user, &args.password_file) {
        (Some(user), Some(file)) => {
            let password = SecretRef::File(file.clone()).read().map_err(|error| failed(UNUSABLE, error))?;
            Some(UsernameToken { username: user.clone(), password })
        }
        _ => None,
    };
    Ok(Settings {
        url,
        https,
        client: Client {
            to: to.clone(),
            suite: suite(args.suite),
            version: match args.ws_trust {
                TrustArg::February2005 => TrustVersion::February2005,
                TrustArg::V13 => TrustVersion::V13,
            },
            skew: Skew(Duration::from_secs(args.skew)),
            limits: ParseLimits::default(),
            random: Arc::new(random::fill),
            trace,
        },
        bootstrap,
        establish,
        username,
        timeout: Duration::from_secs(args.timeout),
        headers: trace_context::headers_of_environment(),
    })
}

const fn suite(suite: SuiteArg) -> Suite {
    let (cipher, hash) = match suite {
        SuiteArg::Basic256 => (Cipher::Aes256, Hash::Sha1),
        SuiteArg::Basic192 => (Cipher::Aes192, Hash::Sha1),
        SuiteArg::Basic128 => (Cipher::Aes128, Hash::Sha1),
        SuiteArg::TripleDes => (Cipher::TripleDes, Hash::Sha1),
        SuiteArg::Basic256Sha256 => (Cipher::Aes256, Hash::Sha256),
        SuiteArg::Basic192Sha256 => (Cipher::Aes192, Hash::Sha256),
        SuiteArg::Basic128Sha256 => (Cipher::Aes128, Hash::Sha256),
        SuiteArg::TripleDesSha256 => (Cipher::TripleDes, Hash::Sha256),
    };
    Suite { cipher, hash }
}

fn negotiated(
    args: &ServiceArgs,
    to: &str,
    pair: Option<(&Path, &Path)>,
    server: Option<Certificate>,
) -> anyhow::Result<Bootstrap> {
    let certificates: Box<dyn ServerCertificates> = match (server, &args.ca) {
        (Some(pinned), _) => Box::new(Pinned(pinned)),
        (None, Some(path)) => {
            let host = to.parse::<Uri>().ok().and_then(|to| to.host().map(str::to_owned));
            let name =
                host.and_then(|host| ServerName::try_from(host.trim_matches(['[', ']']).to_owned()).ok());
            let name = name.ok_or_else(|| {
                failed(WRONG_USE, format!("{to} has no host that a certificate names: give --server-cert"))
            })?;
            Box::new(Anchored { verifier: anchored(path)?, name })
        }
        // INVARIANT: the command line requires one of them.
        (None, None) => return Err(failed(WRONG_USE, "give --ca or --server-cert")),
    };
    let shown = pair.map(|(cert, key)| credentials(cert, key)).transpose()?;
    let versions = if args.tls13 { TlsVersions::Tls12And13 } else { TlsVersions::Tls12 };
    let tls = negotiation::Client::new(shown, versions).map_err(|error| failed(UNUSABLE, error))?;
    Ok(Bootstrap::Negotiate { tls, certificates })
}

/// The one certificate of the service.
struct Pinned(Certificate);

impl ServerCertificates for Pinned {
    fn check(&self, chain: &[CertificateDer<'static>]) -> Result<(), String> {
        match chain.first() {
            Some(shown) if **shown == *self.0.der() => Ok(()),
            _ => Err("it is not the one of --server-cert".to_owned()),
        }
    }
}

/// Certificates that lead to a CA, and have the name of the service.
struct Anchored {
    verifier: Arc<dyn ServerCertVerifier>,
    name: ServerName<'static>,
}

impl ServerCertificates for Anchored {
    fn check(&self, chain: &[CertificateDer<'static>]) -> Result<(), String> {
        let (first, others) = chain.split_first().ok_or("there is none")?;
        let verified = self.verifier.verify_server_cert(first, others, &self.name, &[], UnixTime::now());
        verified.map(|_| ()).map_err(|error| format!("{error}; name {}", self.name.to_str()))
    }
}

fn unusable(error: impl Into<anyhow::Error>) -> anyhow::Error {
    failed(UNUSABLE, output::chain(&error.into()))
}

fn anchored(path: &Path) -> anyhow::Result<Arc<dyn ServerCertVerifier>> {
    let anchors = certificates::read_anchors(path).map_err(unusable)?;
    let verifier = server_verifier::anchored(&anchors);
    verifier.with_context(|| format!("{} cannot be used", path.display())).map_err(unusable)
}

fn https(path: &Path) -> anyhow::Result<Arc<ClientConfig>> {
    let config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(anchored(path)?)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

fn certificate(path: &Path) -> anyhow::Result<Certificate> {
    let all = certificates::read_file(path).map_err(unusable)?;
    let first =
        all.first().ok_or_else(|| failed(UNUSABLE, format!("{} has no certificate", path.display())))?;
    Certificate::from_der(first)
        .map_err(|error| failed(UNUSABLE, format!("cannot use {}: {error}", path.display())))
}

fn key_text(path: &Path) -> anyhow::Result<Zeroizing<Vec<u8>>> {
    let text =
        input::read(path).with_context(|| format!("cannot read {}", path.display())).map_err(unusable)?;
    Ok(Zeroizing::new(text))
}

/// A client certificate with its chain, and its key, which belong together.
fn credentials(cert: &Path, key: &Path) -> anyhow::Result<Credentials> {
    let chain = certificates::read_file(cert).map_err(unusable)?;
    let chain: Vec<_> = chain.into_iter().map(CertificateDer::from).collect();
    let text = key_text(key)?;
    let key_der = pem_file::private_key(&text).with_context(|| format!("cannot use {}", key.display()));
    let key_der = key_der.map_err(unusable)?;
    CertifiedKey::from_der(chain.clone(), key_der.clone_key(), &default_provider()).map_err(|error| {
        failed(UNUSABLE, format!("cannot use {} with {}: {error}", key.display(), cert.display()))
    })?;
    Ok(Credentials { chain, key: key_der })
}

fn signer(cert: &Path, key: &Path) -> anyhow::Result<SigningKey> {
    credentials(cert, key)?;
    let text = key_text(key)?;
    let pkcs8 = pem_file::pkcs8(&text).with_context(|| format!("cannot use {}", key.display()));
    SigningKey::from_pkcs8(&pkcs8.map_err(unusable)?, certificate(cert)?)
        .map_err(|error| failed(UNUSABLE, format!("cannot use {}: {error}", key.display())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn a_body_is_its_content_or_a_whole_one() {
        const START: &str = "<s:Body xmlns:s=\"http://www.w3.org/2003/05/soap-envelope\">";
        let read = |text: &str| {
            let mut file = tempfile::NamedTempFile::new().expect("a file");
            file.write_all(text.as_bytes()).expect("written");
            body(file.path()).map(|body| String::from_utf8(body).expect("UTF-8"))
        };
        for (text, expected) in [
            ("<a/>", format!("{START}<a/></s:Body>")),
            ("<?xml version='1.0'?>\n<a>x</a>\n", format!("{START}<a>x</a></s:Body>")),
            ("<a/><b/>", format!("{START}<a/><b/></s:Body>")),
            ("", format!("{START}</s:Body>")),
            (&format!("{START}<a/></s:Body>"), format!("{START}<a/></s:Body>")),
            // Another Body is content.
            ("<Body><a/></Body>", format!("{START}<Body><a/></Body></s:Body>")),
        ] {
            assert_eq!(read(text).expect(text), expected);
        }
        for text in ["<a>", "</s:Body><s:Body>", "<!DOCTYPE a><a/>", "<p:a/>"] {
            assert_eq!(crate::commands::exit_code(&read(text).expect_err(text)), UNUSABLE, "{text}");
        }
    }

    #[test]
    fn each_failure_has_the_exit_code_that_the_help_names() {
        let fault = ReadFault::default;
        for (error, expected) in [
            (CallError::NotReached(String::new()), 4),
            (CallError::Lost(String::new()), 4),
            (CallError::TimedOut, 4),
            (ClientError::Session(fault()).into(), 5),
            (ClientError::Message(String::new()).into(), 6),
            (CallError::TooLong(1), 7),
            (CallError::ServerCertificate(String::new()), 7),
            (ClientError::NotAuthenticated(fault()).into(), 7),
            (ClientError::Unreadable(String::new()).into(), 7),
            (ClientError::OtherMessage.into(), 7),
            (ClientError::Rejected(xml_security::Reason::Digest).into(), 7),
            (ClientError::Trust(tlsnego_service::fault::Reason::Authenticator).into(), 7),
        ] {
            assert_eq!(code(&error), expected, "{error}");
            // Only what may pass by itself is tried again.
            assert_eq!(Outcome::Failed(error).may_go_on(), expected == UNREACHABLE);
        }
    }
}
