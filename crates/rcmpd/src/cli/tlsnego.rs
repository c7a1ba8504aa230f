//! `rcmpd tlsnego …`

use super::{ConfigArg, JsonArg};
use clap::{Args, Subcommand, ValueEnum};
use std::net::SocketAddr;
use std::path::PathBuf;

/// `rcmpd tlsnego …`
#[derive(Debug, Subcommand)]
pub enum TlsnegoCommand {
    /// Call a SOAP 1.2 service with WS-Trust TLSNEGO message security, and print the body of its reply
    ///
    /// The command speaks the message security of WCF's WSHttpBinding: it negotiates a security context token
    /// by TLS in SOAP messages, establishes a session, calls, and cancels the session. --trace prints each
    /// message.
    ///
    /// A reply is printed only if its signature proves that the service sent it. If the service lost the
    /// session before it ran the call, a new session is opened and the call is sent once more. A call is
    /// never sent a second time after a time-out or a lost connection.
    #[command(
        after_help = "Exit codes: 0 a reply, 1 any other failure, 2 wrong use, 3 the application answered with a fault, 4 the service cannot be reached, or it is not known whether it took the message, 5 the service refused the message in a secured answer, 6 unusable input, 7 not authenticated: the answer is not secured, or not as it has to be, or the certificate of the service is rejected.\n\nExample:\n  rcmpd tlsnego call https://app.example/echo --action urn:echo \\\n      --body echo.xml --user alice --password-file alice.password --ca ca.pem"
    )]
    Call(Box<CallArgs>),
    /// Serve a local endpoint for plain SOAP 1.2 clients, which calls a service with message security
    ///
    /// A client on this machine posts plain SOAP 1.2 messages to the endpoint. Each is called at the service
    /// as by `rcmpd tlsnego call`, as one user, and the verified answer is the client's. Sessions are kept,
    /// and cancelled at SIGTERM or SIGINT.
    ///
    /// Each process that reaches the endpoint calls as that user. So it listens on loopback addresses only,
    /// and refuses pages of browsers.
    #[command(
        after_help = "Example:\n  rcmpd tlsnego endpoint https://app.example/echo --listen 127.0.0.1:8320 \\\n      --user alice --password-file alice.password --ca ca.pem"
    )]
    Endpoint {
        /// The loopback address to listen on.
        #[arg(long, value_name = "ADDR", value_parser = loopback)]
        listen: SocketAddr,
        #[command(flatten)]
        service: Box<ServiceArgs>,
    },
    /// List, show or cancel the sessions of the gateway
    ///
    /// The running service is asked at its admin port, with admin.token of the configuration.
    #[command(subcommand)]
    Session(SessionCommand),
}

/// `rcmpd tlsnego session …`
#[derive(Debug, Subcommand)]
pub enum SessionCommand {
    /// List the sessions, the oldest first
    List {
        #[command(flatten)]
        config: ConfigArg,
        #[command(flatten)]
        json: JsonArg,
    },
    /// Show a session
    Show {
        /// The name of the session, as `list` and X-Session-Name have it.
        name: String,
        #[command(flatten)]
        config: ConfigArg,
        #[command(flatten)]
        json: JsonArg,
    },
    /// End a session: its client is told so at its next message, and opens another one
    Cancel {
        /// The name of the session, as `list` and X-Session-Name have it.
        name: String,
        #[command(flatten)]
        config: ConfigArg,
        #[command(flatten)]
        json: JsonArg,
    },
}

/// An address that only this machine reaches.
fn loopback(text: &str) -> Result<SocketAddr, String> {
    let address: SocketAddr = text.parse().map_err(|_| "write it as 127.0.0.1:8320".to_owned())?;
    match address.ip().is_loopback() {
        true => Ok(address),
        false => {
            Err("each client that reaches the endpoint calls as its user: use a loopback address".to_owned())
        }
    }
}

/// Arguments of `rcmpd tlsnego call`.
#[derive(Args, Debug)]
pub struct CallArgs {
    #[command(flatten)]
    pub service: ServiceArgs,
    /// The action of the call.
    #[arg(long, value_name = "A")]
    pub action: String,
    /// The content of the s:Body, in XML, or a whole s:Body; - for standard input.
    #[arg(long, value_name = "FILE")]
    pub body: PathBuf,
    /// How many times to call, in one session. After a failure that is not of the connection or of the
    /// application, the remaining calls are not made.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub count: u32,
    /// The operation has no reply: an HTTP status of 202 is its success, which nothing authenticates.
    #[arg(long)]
    pub one_way: bool,
    /// Print each message on standard error, decoded: the TLS records inside, the tokens, and which key signs
    /// and encrypts which parts; with --json one JSON object a line. No key and no password is printed.
    #[arg(long)]
    pub trace: bool,
    #[command(flatten)]
    pub json: JsonArg,
}

/// A service, and how it is called.
#[derive(Args, Debug)]
pub struct ServiceArgs {
    /// The http or https URL to post to.
    #[arg(value_name = "URL")]
    pub url: String,
    /// The user.
    #[arg(long, value_name = "U", requires = "password_file")]
    pub user: Option<String>,
    /// A file with the user's password, in one line; - for standard input.
    #[arg(long, value_name = "F", requires = "user")]
    pub password_file: Option<PathBuf>,
    /// A client certificate with its chain, PEM, in place of a user.
    #[arg(long, value_name = "C", requires = "key", conflicts_with = "user")]
    pub cert: Option<PathBuf>,
    /// The key of --cert, PKCS#8 in PEM; an RSA key for preset-session and one-shot.
    #[arg(long, value_name = "K", requires = "cert")]
    pub key: Option<PathBuf>,
    /// The address that the messages name (a:To) [default: URL]
    #[arg(long, value_name = "ADDRESS")]
    pub to: Option<String>,
    /// Certificates of the CAs that are trusted for the certificate of the service, which has to be valid for
    /// the host of --to.
    #[arg(
        long,
        value_name = "FILE",
        required_unless_present = "server_cert",
        conflicts_with = "server_cert"
    )]
    pub ca: Option<PathBuf>,
    /// The certificate of the service. Bindings without negotiation need it, and it may have any name.
    #[arg(long, value_name = "FILE")]
    pub server_cert: Option<PathBuf>,
    /// Certificates of the CAs that are trusted for the web server of an https URL [default: --ca]
    #[arg(long, value_name = "FILE")]
    pub https_ca: Option<PathBuf>,
    /// How a session is made.
    #[arg(long, value_enum, default_value_t)]
    pub binding: BindingArg,
    /// The algorithm suite, by its name in WCF.
    #[arg(long, value_enum, default_value_t)]
    pub suite: SuiteArg,
    /// Offer TLS 1.3 in the negotiation, beside TLS 1.2.
    #[arg(long)]
    pub tls13: bool,
    /// The version of WS-Trust and WS-SecureConversation.
    #[arg(long, value_enum, value_name = "VERSION", default_value_t)]
    pub ws_trust: TrustArg,
    /// How far the clocks of this host and of the service may differ, in seconds.
    #[arg(long, value_name = "S", default_value_t = 300, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub skew: u64,
    /// How long the service may take to answer one message, in seconds.
    #[arg(long, value_name = "S", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub timeout: u64,
}

/// How a session is made: `negotiateServiceCredential` and `establishSecurityContext` of WCF.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum BindingArg {
    /// Negotiate a token, and establish a session under it: the default of WSHttpBinding.
    #[default]
    Session,
    /// Negotiate a token, and call under it (establishSecurityContext="false").
    Negotiated,
    /// Establish a session with the known certificate of the service
    /// (negotiateServiceCredential="false").
    PresetSession,
    /// Each call has a key of its own, for the known certificate of the service (both "false").
    OneShot,
}

/// Versions of WS-Trust.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum TrustArg {
    /// That of WSHttpBinding.
    #[default]
    #[value(name = "2005-02")]
    February2005,
    /// That of WS2007HttpBinding.
    #[value(name = "1.3")]
    V13,
}

/// Algorithm suites.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "lowercase")]
#[expect(missing_docs, reason = "the names are those of WS-SecurityPolicy, section 7.1")]
pub enum SuiteArg {
    #[default]
    Basic256,
    Basic192,
    Basic128,
    TripleDes,
    Basic256Sha256,
    Basic192Sha256,
    Basic128Sha256,
    TripleDesSha256,
}
