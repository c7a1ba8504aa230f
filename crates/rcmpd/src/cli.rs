//! What can be typed.

#![expect(missing_docs, reason = "flattened arguments are documented where they are defined")]
#![expect(
    rustdoc::broken_intra_doc_links,
    rustdoc::invalid_html_tags,
    reason = "these comments are the help, which terminals show as it stands"
)]

use clap::{Args, Parser, Subcommand, ValueEnum};
use dtyp::FileTime;
use std::ffi::{OsStr, OsString};
use std::net::SocketAddr;
use std::path::PathBuf;

/// Tells which account and groups an X.509 client certificate belongs to.
///
/// rcmpd answers that question by the Remote Certificate Mapping Protocol over a sealed Netlogon channel, and asks it of any
/// server that speaks it.
#[derive(Debug, Parser)]
#[command(
    name = "rcmpd",
    version = VERSION,
    arg_required_else_help = true,
    after_help = "First steps:\n  rcmpd quickstart                            # a demo domain in ./rcmpd-demo\n  export RCMPD_CONFIG=rcmpd-demo/rcmpd.toml   # in place of -c FILE\n  rcmpd serve                                 # serve it\n  rcmpd map rcmpd-demo/certs/alice.pem        # elsewhere: who is alice?\n\nCommands that need a configuration take -c FILE, before the command or after it. Without -c they take the environment variable RCMPD_CONFIG."
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The version, with the commit that was built and its date if it was built in a checkout.
pub const VERSION: &str = env!("RCMPD_VERSION");

/// Arguments with a `-c FILE` in front of the command moved behind it, where the command takes it.
pub fn arguments(all: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut all: Vec<OsString> = all.into_iter().collect();
    let starts = |text: Option<&OsString>, start| {
        text.is_some_and(|text| text.as_encoded_bytes().starts_with(start) && text.len() > start.len())
    };
    let is = |text: Option<&OsString>, name| text.is_some_and(|text| text == OsStr::new(name));
    let taken = match all.get(1) {
        first if (is(first, "-c") || is(first, "--config")) && all.len() > 2 => 2,
        first if starts(first, b"--config=") || starts(first, b"-c") => 1,
        _ => return all,
    };
    let moved: Vec<OsString> = all.drain(1..=taken).collect();
    let end = all.iter().position(|argument| argument == "--").unwrap_or(all.len());
    // Without a command the parser says what is missing.
    if end > 1 {
        all.splice(end..end, moved);
    }
    all
}

/// The configuration of commands that take it as FILE, too.
#[derive(Args, Clone, Debug)]
pub struct ConfigFileArg {
    /// The configuration file, in place of -c FILE.
    #[arg(value_name = "FILE", conflicts_with = "config")]
    pub file: Option<PathBuf>,
    /// The configuration file; without FILE and -c, the environment variable RCMPD_CONFIG names it.
    #[arg(short, long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

impl ConfigFileArg {
    /// The configuration file.
    pub fn path(&self) -> Option<PathBuf> {
        let variable =
            || std::env::var_os("RCMPD_CONFIG").filter(|value| !value.is_empty()).map(PathBuf::from);
        self.file.clone().or_else(|| self.config.clone()).or_else(variable)
    }
}

/// The configuration of commands that need one.
#[derive(Args, Clone, Debug)]
pub struct ConfigArg {
    /// The configuration file.
    #[arg(short, long, value_name = "FILE", env = "RCMPD_CONFIG", hide_env_values = true)]
    pub config: PathBuf,
}

/// How commands print.
#[derive(Args, Clone, Copy, Debug)]
pub struct JsonArg {
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make a complete demo domain: configuration, accounts, a machine account, certificates
    ///
    /// Nothing is overwritten: if one of the files exists, nothing is written at all.
    Quickstart {
        /// The folder to make it in.
        #[arg(default_value = "rcmpd-demo")]
        dir: PathBuf,
        /// The port of Netlogon; the endpoint mapper gets the next one, /metrics the one after. Without it: 11490, 1135 and 9464.
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=i64::from(crate::quickstart::PORT_MAX)))]
        port: Option<u16>,
        #[command(flatten)]
        json: JsonArg,
    },
    /// Run every role that the configuration enables
    ///
    /// SIGHUP reloads what can change while serving, all of it or nothing; SIGTERM and SIGINT answer the calls in flight and
    /// stop.
    Serve {
        #[command(flatten)]
        config: ConfigFileArg,
    },
    /// Ask a service over Netlogon and print the account and its groups
    ///
    /// Whom to ask and as whom stands in [client] of the configuration, or in --server, --machine and --secret-file.
    ///
    /// The protocol leaves two checks to the client ([MS-RCMP] 3.5 and 5.1), and this command makes neither: whether the certificate is
    /// valid (its chain, its dates, revocation), and whether its holder has the private key. An answer says which account the certificate
    /// names, not who has shown it. --verify checks the chain first. Only a TLS handshake or a signature proves the key.
    #[command(
        after_help = "Exit codes: 0 mapped, 1 any other failure, 2 wrong use or no readable configuration, 3 not mapped (or, with --require-strong, not proved), 4 server not reachable in time, 5 this machine may not ask, or its secure channel was refused, 6 unusable input (or, with --verify, no valid chain), 7 nothing was decided.\n\nExample:\n  rcmpd map alice.pem --server dc1.contoso.example:11490 --domain CONTOSO \\\n      --machine 'WEB01$' --secret-file WEB01.secret"
    )]
    Map(MapArgs),
    /// Show the whole decision about a certificate, step by step, without asking anybody
    Explain {
        /// The certificate, PEM, DER or base64; - for standard input.
        certificate: PathBuf,
        #[command(flatten)]
        config: ConfigArg,
        /// Methods that the client would ask for: upn,subject unless it is said, and with --url those of sidecar.methods.
        #[arg(long, value_delimiter = ',', value_name = "LIST")]
        methods: Option<Vec<MethodArg>>,
        /// Certificates of the issuers, in any order.
        #[arg(long, value_name = "PEM")]
        chain: Option<PathBuf>,
        /// Say, too, whether the routes of [sidecar] let it in there.
        #[arg(long, value_name = "URL")]
        url: Option<String>,
        #[command(flatten)]
        json: JsonArg,
    },
    /// Say whether a configuration is good: exit 0 good, 1 wrong (what and where), 2 not readable
    CheckConfig {
        #[command(flatten)]
        config: ConfigFileArg,
        #[command(flatten)]
        json: JsonArg,
    },
    /// Accounts of the store
    #[command(subcommand)]
    Account(AccountCommand),
    /// Groups of the store
    #[command(subcommand)]
    Group(GroupCommand),
    /// Machine accounts: who may open a secure channel
    #[command(subcommand)]
    Machine(MachineCommand),
    /// The domain that is served
    #[command(subcommand)]
    Domain(DomainCommand),
    /// How certificates name accounts: every form, what is wrong with stored ones, what another policy would change
    #[command(subcommand)]
    Mapping(MappingCommand),
    /// Read accounts, groups and machines from JSON Lines, all of them or none
    Import {
        /// The file, one JSON object a line; - for standard input.
        file: PathBuf,
        /// Make entries that exist what the file says, memberships included; otherwise one that exists stops the import.
        #[arg(long)]
        replace: bool,
        #[command(flatten)]
        config: ConfigArg,
        #[command(flatten)]
        json: JsonArg,
    },
    /// Write accounts, groups and machines as JSON Lines; secrets stay here
    Export {
        /// The file to write; it must not exist. - for standard output.
        file: PathBuf,
        #[command(flatten)]
        config: ConfigArg,
        #[command(flatten)]
        json: JsonArg,
    },
    /// The audit log: its signing key, and whether it is whole
    #[command(subcommand)]
    Audit(AuditCommand),
    /// Print a complete, safe configuration of a web server for the sidecar of a configuration
    #[command(
        after_help = "What is printed goes by the [[sidecar.listen]] of that dialect. Check what you made of it:\n  rcmpd check-proxy https://app.example/ --ca site-ca.pem \\\n      --certificate alice.pem --key alice.key\n\nExample:\n  rcmpd proxy-config nginx --site app.example --listen 0.0.0.0:443 \\\n      --certificate /etc/ssl/app.pem --key /etc/ssl/app.key -c FILE"
    )]
    ProxyConfig(ProxyConfigArgs),
    /// Serve a page that shows whatever it is told, for trying a web server with client certificates out
    ///
    /// It is the application behind the web server: it answers every request with the headers that arrived, in JSON or, for
    /// browsers, as a table. It believes everything and protects nothing, so it is for trial only, and listens on loopback
    /// addresses unless --anywhere is given. In JSON, bytes that are not visible ASCII are percent-encoded, and % too.
    #[command(after_help = "Example:\n  rcmpd page --listen 127.0.0.1:8080")]
    Page {
        /// The address to listen on.
        #[arg(long, value_name = "ADDR", required_unless_present = "unix")]
        listen: Option<SocketAddr>,
        /// A Unix socket to listen on, which must not exist.
        #[arg(long, value_name = "PATH")]
        unix: Option<PathBuf>,
        /// Listen even where others can reach it.
        #[arg(long)]
        anywhere: bool,
    },
    /// Go through a web server's front door as an attacker would, and tell what leaks
    ///
    /// The URL leads through the web server to `rcmpd page`; of another page only statuses can be judged. Everything that is
    /// sent is harmless to the page, but the web server and the sidecar log some hundred refusals.
    #[command(
        after_help = "Exit codes: 0 nothing leaks, 2 wrong use or no readable configuration, 3 something leaks, 4 not reachable, or the server's certificate is rejected, 6 unusable input, 7 nothing leaks as far as it could be checked (also where the page is not `rcmpd page`).\n\nExample:\n  rcmpd check-proxy https://app.contoso.example/ --ca server-ca.pem \\\n      --certificate alice.pem --key alice.key"
    )]
    CheckProxy(CheckProxyArgs),
    /// Print completions for a shell
    #[command(
        after_help = "Where the file goes:\n  bash        ~/.local/share/bash-completion/completions/rcmpd\n  zsh         _rcmpd in a folder of $fpath\n  fish        ~/.config/fish/completions/rcmpd.fish\n  elvish      ~/.config/elvish/lib/rcmpd.elv, and `use rcmpd` in rc.elv\n  powershell  a file that $PROFILE runs\n\nExample:\n  mkdir -p ~/.local/share/bash-completion/completions\n  rcmpd completions bash > ~/.local/share/bash-completion/completions/rcmpd"
    )]
    Completions {
        /// Which shell.
        shell: clap_complete::Shell,
    },
    /// Print the manual page, in troff
    #[command(
        after_help = "To read it:\n  rcmpd man | man -l -\n\nTo install it, so that `man rcmpd` finds it:\n  rcmpd man > /usr/local/share/man/man1/rcmpd.1"
    )]
    Man,
    /// Print the version, and the commit and date that it was built from
    Version,
}

/// What to ask, and whom.
#[derive(Args, Debug)]
pub struct MapArgs {
    /// The certificate, PEM, DER or base64; - for standard input. Certificates that follow it in the file are its issuers'.
    pub certificate: PathBuf,
    /// The configuration file, for its [client] and [domain].
    #[arg(short, long, value_name = "FILE", env = "RCMPD_CONFIG", hide_env_values = true)]
    pub config: Option<PathBuf>,
    /// The server; without a port, its endpoint mapper on port 135 is asked for the port.
    #[arg(long, value_name = "HOST[:PORT]", requires = "machine")]
    pub server: Option<String>,
    /// The machine account, such as 'WEB01$'.
    #[arg(long, value_name = "NAME", requires = "secret_file")]
    pub machine: Option<String>,
    /// A file with the machine account's password, in one line.
    #[arg(long, value_name = "F")]
    pub secret_file: Option<PathBuf>,
    /// NetBIOS name of the domain to ask about; without a configuration also the server's own.
    #[arg(long, value_name = "D")]
    pub domain: Option<String>,
    /// Mapping methods to ask for.
    #[arg(long, value_delimiter = ',', default_value = "upn,subject", value_name = "LIST")]
    pub methods: Vec<MethodArg>,
    /// Certificates of the issuers, in any order. Those that are not in the chain of the certificate are left out, with a warning.
    #[arg(long, value_name = "PEM")]
    pub chain: Option<PathBuf>,
    /// Ask only if the chain of the certificate is valid now, by [mapping] of the configuration (anchors, intermediates, revocation) or
    /// --anchors.
    #[arg(long)]
    pub verify: bool,
    /// Certificates of the CAs that --verify trusts, in place of [mapping]. The certificates between are those of --chain, and revocation is
    /// not checked.
    #[arg(long, value_name = "PEM", requires = "verify")]
    pub anchors: Vec<PathBuf>,
    /// Ask for a proof of the answer's path, and print it: who answered, by which policy, how strongly.
    #[arg(long)]
    pub proof: bool,
    /// A domain's public key that may sign its hops, as DOMAIN=FILE; also [client] proof_keys.
    #[arg(long, value_name = "DOMAIN=FILE")]
    pub proof_key: Vec<String>,
    /// Refuse an answer that is not proved to be strong at every hop.
    #[arg(long)]
    pub require_strong: bool,
    /// How long to wait for the answer, in seconds.
    #[arg(long, default_value_t = 10, value_name = "S", value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub timeout: u64,
    #[command(flatten)]
    pub json: JsonArg,
}

/// Which web server to check, and with what.
#[derive(Args, Debug)]
pub struct CheckProxyArgs {
    /// The page, through the web server.
    #[arg(value_name = "URL")]
    pub url: String,
    /// A client certificate that is let in, PEM, with its chain.
    #[arg(long, value_name = "PEM")]
    pub certificate: PathBuf,
    /// Its key, PEM.
    #[arg(long, value_name = "KEY")]
    pub key: PathBuf,
    /// What its account is called, as an identity header has it.
    #[arg(long, value_name = "NAME")]
    pub expect_user: Option<String>,
    /// Certificates of the authorities that the web server's own certificate may be of.
    #[arg(long, value_name = "PEM", required_unless_present = "trust_any_server")]
    pub ca: Option<PathBuf>,
    /// Believe whoever answers as the web server: what is found out may be somebody else's.
    #[arg(long, conflicts_with = "ca")]
    pub trust_any_server: bool,
    /// Another client certificate that is let in, of another account.
    #[arg(long, value_name = "PEM", requires = "other_key")]
    pub other_certificate: Option<PathBuf>,
    /// Its key.
    #[arg(long, value_name = "KEY", requires = "other_certificate")]
    pub other_key: Option<PathBuf>,
    /// Another host of the same web server.
    #[arg(long, value_name = "HOST[:PORT]")]
    pub other_host: Option<String>,
    /// Connect to this in place of the URL's host.
    #[arg(long, value_name = "HOST:PORT")]
    pub connect: Option<String>,
    /// Identity headers that the application believes beside X-Identity-…; all that are known, unless it is said.
    #[arg(long, value_name = "PRESET")]
    pub preset: Vec<PresetArg>,
    /// The name of another header that the application takes an identity from, such as X-WEBAUTH-USER; may be given several times.
    #[arg(long, value_name = "NAME")]
    pub header: Vec<String>,
    /// The sidecar's configuration file, for the names of identity headers in its [sidecar.header_names].
    #[arg(short, long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Another path of the same web server, for which it may have other rules; may be given several times.
    #[arg(long, value_name = "PATH")]
    pub path: Vec<String>,
    /// The port where the web server may speak HTTP without TLS.
    #[arg(long, default_value_t = 80, value_name = "N")]
    pub plain_port: u16,
    /// How long to wait for each answer, in seconds.
    #[arg(long, default_value_t = 10, value_name = "S", value_parser = clap::value_parser!(u64).range(1..=120))]
    pub timeout: u64,
    #[command(flatten)]
    pub json: JsonArg,
}

/// A set of identity headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum PresetArg {
    /// Remote-User and others.
    Remote,
    /// X-Forwarded-User and others.
    Forwarded,
    /// X-Remote-User and others.
    LookupIdentity,
    /// Only X-Identity-….
    None,
}

/// A mapping method.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum MethodArg {
    /// By a name in the subjectAltName.
    Upn,
    /// By issuer and subject, or a strong form.
    Subject,
    /// By the issuer alone.
    Issuer,
    /// By the issuers of the chain, too.
    IssuerChain,
}

/// `rcmpd account …`
#[derive(Debug, Subcommand)]
pub enum AccountCommand {
    /// Add an account
    #[command(
        after_help = "Example:\n  rcmpd account add dave --upn dave@contoso.example --group Engineers \\\n      --expires 2027-01-01 -c FILE"
    )]
    Add {
        /// Its name; a computer's ends in a dollar sign.
        name: String,
        #[command(flatten)]
        fields: Box<AccountFields>,
        #[command(flatten)]
        config: ConfigArg,
        #[command(flatten)]
        json: JsonArg,
    },
    /// Show an account with its groups
    Show {
        /// Its name, SID or user principal name.
        name: String,
        #[command(flatten)]
        config: ConfigArg,
        #[command(flatten)]
        json: JsonArg,
    },
    /// List accounts
    List {
        /// Only accounts that have this text in their name, user principal name or full name, in upper or lower case.
        text: Option<String>,
        #[command(flatten)]
        config: ConfigArg,
        #[command(flatten)]
        json: JsonArg,
    },
    /// Change an account
    Set {
        /// Its name, SID or user principal name.
        name: String,
        /// Give it another name; its SID, groups and mappings stay.
        #[arg(long, value_name = "NAME")]
        rename: Option<String>,
        #[command(flatten)]
        fields: Box<AccountFields>,
        #[command(flatten)]
        changes: AccountChanges,
        #[command(flatten)]
        config: ConfigArg,
        #[command(flatten)]
        json: JsonArg,
    },
    /// Remove an account, and the machine account of the same name
    Remove {
        /// Its name, SID or user principal name.
        name: String,
        #[command(flatten)]
        config: ConfigArg,
        #[command(flatten)]
        json: JsonArg,
    },
}

/// Fields of an account that can be given.
#[derive(Args, Clone, Debug, Default)]
pub struct AccountFields {
    /// userPrincipalName; empty to remove it.
    #[arg(long)]
    pub upn: Option<String>,
    /// displayName.
    #[arg(long)]
    pub full_name: Option<String>,
    /// Add a servicePrincipalName, such as host/web01.contoso.example.
    #[arg(long, value_name = "SPN")]
    pub add_spn: Vec<String>,
    /// Add a value of altSecurityIdentities, such as 'X509:<I>…<SR>…'.
    #[arg(long, value_name = "X509:…")]
    pub add_mapping: Vec<String>,
    /// Put it into a group.
    #[arg(long, value_name = "GROUP")]
    pub group: Vec<String>,
    /// Disable it.
    #[arg(long)]
    pub disable: bool,
    /// Lock it.
    #[arg(long)]
    pub lock: bool,
    /// NetBIOS name of the domain that answers for it, which makes it an entry that only says where to ask; empty to remove it.
    #[arg(long, value_name = "DOMAIN")]
    pub home_domain: Option<String>,
    /// When it expires: a date such as 2027-01-01, which begins at 00:00 UTC; a time such as 2027-01-01T12:00:00Z; seconds since 1970; or "never".
    #[arg(long, value_name = "WHEN", value_parser = crate::clock::instant)]
    pub expires: Option<FileTime>,
}

/// What only an account that is there can lose.
#[derive(Args, Clone, Debug, Default)]
pub struct AccountChanges {
    /// Remove a servicePrincipalName.
    #[arg(long, value_name = "SPN")]
    pub remove_spn: Vec<String>,
    /// Remove a value of altSecurityIdentities.
    #[arg(long, value_name = "X509:…")]
    pub remove_mapping: Vec<String>,
    /// Take it out of a group.
    #[arg(long, value_name = "GROUP")]
    pub remove_group: Vec<String>,
    /// Enable it.
    #[arg(long, conflicts_with = "disable")]
    pub enable: bool,
    /// Unlock it.
    #[arg(long, conflicts_with = "lock")]
    pub unlock: bool,
}

/// Which web server, and what it serves.
#[derive(Args, Debug)]
pub struct ProxyConfigArgs {
    /// Which web server.
    pub server: WebServerArg,
    /// The name by which clients know it.
    #[arg(long, default_value = "app.example", value_name = "NAME")]
    pub site: String,
    /// Where it listens.
    #[arg(long, default_value = "0.0.0.0:443", value_name = "ADDR")]
    pub listen: std::net::SocketAddr,
    /// Its certificate with the chain; for HAProxy with the key in the same file.
    #[arg(long, default_value = "/etc/ssl/app.pem", value_name = "FILE")]
    pub certificate: PathBuf,
    /// Its key.
    #[arg(long, default_value = "/etc/ssl/app.key", value_name = "FILE")]
    pub key: PathBuf,
    /// The CAs of client certificates in one file; otherwise the anchors and intermediates of [mapping].
    #[arg(long, value_name = "PEM", conflicts_with = "write_client_ca")]
    pub client_ca: Option<PathBuf>,
    /// Where to write these CAs if they are in more than one file; otherwise client-ca-bundle.pem beside the configuration file.
    #[arg(long, value_name = "PEM")]
    pub write_client_ca: Option<PathBuf>,
    /// Print what goes beside another site of this command in the same web server, without what a web server has once.
    #[arg(long)]
    pub beside: bool,
    /// Where the application is; if the sidecar stands between, the upstream of one of its listeners.
    #[arg(long, value_name = "HOST:PORT")]
    pub application: Option<String>,
    /// The certificate that the web server shows to a listener with tls.
    #[arg(long, value_name = "PEM", requires = "proxy_key")]
    pub proxy_certificate: Option<PathBuf>,
    /// The key of that.
    #[arg(long, value_name = "FILE")]
    pub proxy_key: Option<PathBuf>,
    /// Put the listener's secret into what is printed, instead of a word to replace.
    #[arg(long)]
    pub with_secret: bool,
    #[command(flatten)]
    pub config: ConfigArg,
}

/// A web server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum WebServerArg {
    /// auth_request.
    Nginx,
    /// ext_authz over gRPC, or over HTTP if no listener is for gRPC.
    Envoy,
    /// The sidecar stands behind it.
    Haproxy,
    /// ForwardAuth.
    Traefik,
    /// forward_auth; with Client-Cert if no listener has dialect "caddy" and one has "client-cert".
    Caddy,
    /// The sidecar stands behind it.
    Apache,
}

/// `rcmpd mapping …`
#[derive(Debug, Subcommand)]
pub enum MappingCommand {
    /// Print every form in which a certificate can name an account
    ///
    /// Nobody is asked, and no configuration is needed.
    Strings {
        /// The certificate, PEM, DER or base64; - for standard input.
        certificate: PathBuf,
        #[command(flatten)]
        json: JsonArg,
    },
    /// Look for mappings that are weak, ambiguous, twins, dangling or never match
    #[command(
        after_help = "Exit codes: 0 nothing found, 3 something found, 1 the store or the configuration cannot be read.\n\n  weak            it goes by names alone, and the account has no strong mapping\n  ambiguous       several accounts have it: it maps nobody\n  twin            different values, equal if case, accents and width are folded\n  dangling        its issuer is no configured CA\n  never-matching  it cannot be read, or the policy lets no certificate match it\n\nExample, for continuous integration:\n  rcmpd mapping audit --ignore weak -c FILE"
    )]
    Audit {
        /// Classes that are not reported.
        #[arg(long, value_delimiter = ',', value_name = "CLASS")]
        ignore: Vec<ClassArg>,
        #[command(flatten)]
        config: ConfigArg,
        #[command(flatten)]
        json: JsonArg,
    },
    /// Decide certificates by another policy, and tell who would gain or lose
    #[command(
        after_help = "The other policy is the [mapping] of a file, which may hold nothing else. Certificates come from a folder (.pem, .crt, .cer, .der), from the file of one certificate, or from an audit log that has them.\n\nExample:\n  rcmpd mapping rehearse --policy strict.toml --certs audit.log -c FILE"
    )]
    Rehearse {
        /// A file with the other [mapping].
        #[arg(long, value_name = "FILE")]
        policy: PathBuf,
        /// A folder of certificates, one certificate, or an audit log.
        #[arg(long, value_name = "DIR|CERT|LOG")]
        certs: PathBuf,
        /// Methods that clients would ask for, where the log does not say.
        #[arg(long, value_delimiter = ',', default_value = "upn,subject", value_name = "LIST")]
        methods: Vec<MethodArg>,
        #[command(flatten)]
        config: ConfigArg,
        #[command(flatten)]
        json: JsonArg,
    },
    /// Translate rules of other programs into a [mapping], or say which cannot be
    #[command(
        after_help = "Exit codes: 0 translated, 3 something cannot be expressed, 6 unusable input. Nothing is written: the result is printed.\n\nExample:\n  rcmpd mapping import --from sssd sssd.conf --issuer certs/issuing.pem"
    )]
    Import {
        /// Whose rules they are.
        #[arg(long)]
        from: DialectArg,
        /// The file with the rules, or - for standard input.
        file: PathBuf,
        /// Certificates of authorities that rules may name.
        #[arg(long, value_name = "PEM")]
        issuer: Vec<PathBuf>,
        #[command(flatten)]
        json: JsonArg,
    },
}

/// A class of findings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ClassArg {
    /// Names alone.
    Weak,
    /// Of several accounts.
    Ambiguous,
    /// Different, and the same to a wide comparison.
    Twin,
    /// Of an issuer that is not configured.
    Dangling,
    /// Of no use under the policy.
    NeverMatching,
}

/// Whose rules are imported.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum DialectArg {
    /// sss_certmap rules, as in sssd.conf.
    Sssd,
    /// pkinit_cert_match of MIT Kerberos.
    Mit,
    /// The X.509 authenticator of Keycloak.
    Keycloak,
}

/// `rcmpd group …`
#[derive(Debug, Subcommand)]
pub enum GroupCommand {
    /// Add a group
    Add {
        /// Its name.
        name: String,
        /// Where it may be used.
        #[arg(long, default_value = "global")]
        scope: ScopeArg,
        #[command(flatten)]
        config: ConfigArg,
        #[command(flatten)]
        json: JsonArg,
    },
    /// Show a group with its direct members
    Show {
        /// Its name or SID.
        name: String,
        #[command(flatten)]
        config: ConfigArg,
        #[command(flatten)]
        json: JsonArg,
    },
    /// List groups
    List {
        /// Only groups that have this text in their name, in upper or lower case.
        text: Option<String>,
        #[command(flatten)]
        config: ConfigArg,
        #[command(flatten)]
        json: JsonArg,
    },
    /// Change a group's members, scope or name
    Set {
        /// Its name or SID.
        name: String,
        /// Give it another name; its SID and members stay.
        #[arg(long, value_name = "NAME")]
        rename: Option<String>,
        /// Where it may be used.
        #[arg(long)]
        scope: Option<ScopeArg>,
        /// Add an account or a group.
        #[arg(long, value_name = "NAME")]
        add_member: Vec<String>,
        /// Take an account or a group out.
        #[arg(long, value_name = "NAME")]
        remove_member: Vec<String>,
        #[command(flatten)]
        config: ConfigArg,
        #[command(flatten)]
        json: JsonArg,
    },
    /// Remove a group
    Remove {
        /// Its name or SID.
        name: String,
        #[command(flatten)]
        config: ConfigArg,
        #[command(flatten)]
        json: JsonArg,
    },
}

/// The scope of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ScopeArg {
    /// In GroupIds.
    Global,
    /// In GroupIds.
    Universal,
    /// In ResourceGroupIds.
    Local,
}

/// `rcmpd machine …`
#[derive(Debug, Subcommand)]
pub enum MachineCommand {
    /// Add a machine account, and a computer account of the same name if there is none
    #[command(
        after_help = "Example:\n  rcmpd machine add 'WEB02$' --secret-file WEB02.secret \\\n      --permission rcmp -c FILE\n  rcmpd machine add 'WEB03$' --secret-file WEB03.secret --permission rcmp \\\n      --domain CONTOSO --group 'Web Team' -c FILE\n\nThe secret file is made with a random password unless it exists."
    )]
    Add {
        /// Its name, which ends in a dollar sign.
        name: String,
        /// The file with its password: read if it exists, made if it does not.
        #[arg(long, value_name = "F")]
        secret_file: PathBuf,
        /// What it may do.
        #[arg(long)]
        permission: Vec<PermissionArg>,
        /// A domain whose accounts it gets answers for, by NetBIOS name; without one, all.
        #[arg(long, value_name = "NAME")]
        domain: Vec<String>,
        /// A group whose members it gets answers for, or a single account by SID; without one, all accounts that are not privileged.
        #[arg(long, value_name = "NAME|SID")]
        group: Vec<String>,
        /// The type of channel that it may open; a trust gets no computer account.
        #[arg(long, default_value = "workstation")]
        kind: ChannelArg,
        #[command(flatten)]
        config: ConfigArg,
        #[command(flatten)]
        json: JsonArg,
    },
    /// Show a machine account
    Show {
        /// Its name.
        name: String,
        #[command(flatten)]
        config: ConfigArg,
        #[command(flatten)]
        json: JsonArg,
    },
    /// List machine accounts
    List {
        /// Only machine accounts that have this text in their name, in upper or lower case.
        text: Option<String>,
        #[command(flatten)]
        config: ConfigArg,
        #[command(flatten)]
        json: JsonArg,
    },
    /// Change a machine account; its channels notice at their next call
    #[command(
        after_help = "Examples:\n  rcmpd machine set 'WEB02$' --domain CONTOSO --group 'Domain Users' \\\n      --group 'Domain Admins' -c FILE\n  rcmpd machine set 'WEB02$' --all-domains --all-groups -c FILE\n\nAfter a secret leaked:\n  rcmpd machine set 'WEB01$' --secret-file WEB01.secret --now -c FILE\n\nWith --now and no --secret-file, the current secret stays and the previous one ends."
    )]
    Set {
        /// Its name.
        name: String,
        /// Disable it.
        #[arg(long, conflicts_with = "enable")]
        disable: bool,
        /// Enable it.
        #[arg(long)]
        enable: bool,
        /// Permit something.
        #[arg(long)]
        permission: Vec<PermissionArg>,
        /// Forbid something.
        #[arg(long)]
        revoke: Vec<PermissionArg>,
        /// A domain whose accounts it gets answers for, by NetBIOS name. All that are given take the place of those before.
        #[arg(long, value_name = "NAME", conflicts_with = "all_domains")]
        domain: Vec<String>,
        /// Answer it for accounts of all domains.
        #[arg(long)]
        all_domains: bool,
        /// A group whose members it gets answers for, or a single account by SID. All that are given take the place of those before.
        ///
        /// For privileged accounts, such as Administrator and the members of Domain Admins, it gets answers only if its scope names a
        /// privileged group that the account is in, or the account itself. Privileged is decided by the SID, never by the name. The
        /// well-known name of a privileged group stands for its SID in this domain or in BUILTIN.
        #[arg(long, value_name = "NAME|SID", conflicts_with = "all_groups")]
        group: Vec<String>,
        /// Answer it for all accounts that are not privileged.
        #[arg(long)]
        all_groups: bool,
        /// A file with a new password, which must be there; the present one stays good for a day, or until the new one is used.
        #[arg(long, value_name = "F")]
        secret_file: Option<PathBuf>,
        /// End the previous secret at once, and all channels that were set up with it; the machine cannot connect until the secret file is brought to it.
        #[arg(long)]
        now: bool,
        #[command(flatten)]
        config: ConfigArg,
        #[command(flatten)]
        json: JsonArg,
    },
    /// Remove a machine account; the computer account stays
    Remove {
        /// Its name.
        name: String,
        #[command(flatten)]
        config: ConfigArg,
        #[command(flatten)]
        json: JsonArg,
    },
}

/// A permission of a machine account.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum PermissionArg {
    /// Ask for certificates to be mapped.
    Rcmp,
}

/// `rcmpd domain …`
#[derive(Debug, Subcommand)]
pub enum DomainCommand {
    /// Make the database of the configuration's domain, with the groups that every domain has, and its key file; or add a NAME
    ///
    /// Nothing that exists is touched. With a NAME another domain is added: a [[peer]] is written to the end of the configuration,
    /// and the secrets and the account that go with it are made.
    #[command(
        after_help = "Examples:\n  rcmpd domain add -c FILE\n  rcmpd domain add FABRIKAM --sid S-1-5-21-… --name fabrikam.example \\\n      --direction outbound --server dc1.fabrikam.example --kind rcmpd -c FILE\n\n`rcmpd domain show` prints the SID of a domain, there."
    )]
    Add {
        /// NetBIOS name of another domain.
        #[arg(requires = "sid")]
        name: Option<String>,
        #[command(flatten)]
        peer: Box<PeerArgs>,
        #[command(flatten)]
        config: ConfigArg,
        #[command(flatten)]
        json: JsonArg,
    },
    /// Show the domain, or another one
    Show {
        /// NetBIOS or DNS name of another domain.
        name: Option<String>,
        #[command(flatten)]
        config: ConfigArg,
        #[command(flatten)]
        json: JsonArg,
    },
    /// List the domains that are known: this one, and the others
    List {
        #[command(flatten)]
        config: ConfigArg,
        #[command(flatten)]
        json: JsonArg,
    },
    /// Make a new key file when the one of the database is lost
    ///
    /// The key file seals the secrets of machines and nothing else. Without it the accounts stay as they are, and the secrets
    /// are lost: each machine and trust gets a random secret, which no machine has, until `rcmpd machine set NAME --secret-file F`
    /// gives it one. A key file that is there has to be moved away first. Restart the service afterwards.
    Rekey {
        /// Forget all secrets of machines. There is no other way yet.
        #[arg(long, required = true)]
        forget_secrets: bool,
        #[command(flatten)]
        config: ConfigArg,
        #[command(flatten)]
        json: JsonArg,
    },
    /// Remove another domain: its [[peer]] from the configuration, and the account by which it asks here
    ///
    /// The files with secrets stay where they are.
    Remove {
        /// NetBIOS or DNS name of the other domain.
        name: String,
        #[command(flatten)]
        config: ConfigArg,
        #[command(flatten)]
        json: JsonArg,
    },
    /// Print what to run on the other side of a trust
    TrustCommands {
        /// NetBIOS or DNS name of the other domain.
        name: String,
        /// What runs there; everything when it is not said.
        #[arg(long = "for", value_name = "SIDE")]
        side: Vec<SideArg>,
        #[command(flatten)]
        config: ConfigArg,
        #[command(flatten)]
        json: JsonArg,
    },
    /// Set a secure channel up to each server of another domain; of our own, to those that packages are relayed to
    #[command(
        after_help = "Exit codes: 0 good, 4 a server is not reachable, 5 a server refused the secure channel."
    )]
    Test {
        /// NetBIOS or DNS name of the domain.
        name: String,
        /// How long to wait for each server, in seconds.
        #[arg(long, default_value_t = 10, value_name = "S", value_parser = clap::value_parser!(u64).range(1..=120))]
        timeout: u64,
        #[command(flatten)]
        config: ConfigArg,
        #[command(flatten)]
        json: JsonArg,
    },
    /// Give our account at another domain a new secret, there and here
    ///
    /// A running service goes on without a failed call. Whatever stops it in between, running it again finishes it.
    #[command(
        after_help = "Exit codes: 0 changed, 4 no server is reachable, 5 the secure channel is refused, 7 it is not known whether it was changed."
    )]
    Rotate {
        /// NetBIOS or DNS name of the other domain.
        name: String,
        /// Use the new secret at once, so that the other side ends the one before and all channels that were set up with it.
        #[arg(long)]
        now: bool,
        #[command(flatten)]
        config: ConfigArg,
        #[command(flatten)]
        json: JsonArg,
    },
    /// Make a key that signs hops of a path, and print its public half, which is also written to FILE.pub
    ///
    /// Nothing is overwritten.
    Key {
        /// The file to write; [forward] proof_key names it.
        file: PathBuf,
        #[command(flatten)]
        json: JsonArg,
    },
}

/// What is said of another domain.
#[derive(Args, Debug)]
#[group(requires = "name")]
pub struct PeerArgs {
    /// The domain's SID.
    #[arg(long, value_name = "SID", requires_all = ["name", "names", "direction"])]
    pub sid: Option<String>,
    /// Its DNS name; again for each other suffix of its user principal names.
    #[arg(long = "name", id = "names", value_name = "DNS")]
    pub names: Vec<String>,
    /// Who asks whom.
    #[arg(long)]
    pub direction: Option<DirectionArg>,
    /// A server of it; without a port its endpoint mapper is asked.
    #[arg(long, value_name = "HOST[:PORT]")]
    pub server: Vec<String>,
    /// Look for its servers by DNS.
    #[arg(long, conflicts_with = "server")]
    pub discovery: bool,
    /// The site whose servers come first.
    #[arg(long, requires = "discovery")]
    pub site: Option<String>,
    /// The peer that is asked in its place.
    #[arg(long, value_name = "DOMAIN", conflicts_with_all = ["server", "discovery"])]
    pub via: Option<String>,
    /// What its servers are.
    #[arg(long)]
    pub kind: Option<PeerKindArg>,
    /// Our account there; that of a trust, unless it is said.
    #[arg(long, value_name = "NAME")]
    pub account: Option<String>,
    /// The type of channel that the account is for.
    #[arg(long)]
    pub channel: Option<ChannelArg>,
    /// The file with our account's secret, made if it does not exist; trusts/NAME.secret unless it is said.
    #[arg(long, value_name = "F")]
    pub secret_file: Option<PathBuf>,
    /// The file with the secret of its account here, made if it does not exist; trusts/NAME.inbound.secret unless it is said.
    #[arg(long, value_name = "F")]
    pub inbound_secret_file: Option<PathBuf>,
    /// A domain about which it may ask through us.
    #[arg(long, value_name = "DOMAIN")]
    pub transit: Vec<String>,
    /// An issuer whose certificates it answers for.
    #[arg(long, value_name = "DN")]
    pub issuer: Vec<String>,
}

/// Who asks whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum DirectionArg {
    /// It asks us.
    Inbound,
    /// We ask it.
    Outbound,
    /// Both.
    Both,
}

/// What a peer's servers are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum PeerKindArg {
    /// Any Netlogon server.
    Netlogon,
    /// A node of ours.
    Rcmpd,
}

/// A type of channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ChannelArg {
    /// A member of the domain.
    Workstation,
    /// A domain controller.
    Server,
    /// A trusted domain, by its NetBIOS name.
    TrustedDomain,
    /// A trusted domain, by its DNS name.
    TrustedDnsDomain,
}

impl ChannelArg {
    /// As the configuration has it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Workstation => "workstation",
            Self::Server => "server",
            Self::TrustedDomain => "trusted_domain",
            Self::TrustedDnsDomain => "trusted_dns_domain",
        }
    }
}

/// What the other side of a trust runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum SideArg {
    /// rcmpd.
    Ours,
    /// Samba.
    Samba,
    /// Windows.
    Powershell,
}

/// `rcmpd audit …`
#[derive(Debug, Subcommand)]
pub enum AuditCommand {
    /// Make a key that signs heads, and print its public half, which is also written to FILE.pub
    ///
    /// Nothing is overwritten.
    Key {
        /// The file to write; [audit.heads] key names it.
        file: PathBuf,
        #[command(flatten)]
        json: JsonArg,
    },
    /// Verify that a chained log is as it was written
    #[command(
        after_help = "Exit codes: 0 verified, 2 wrong use, 3 broken (what and where is said), 6 unusable input, 7 whole, but not verified who wrote it: no --heads, or none of them is about these lines.\n\nExample:\n  rcmpd audit verify audit.log* --heads audit.heads \\\n      --public-key audit-signing.key.pub"
    )]
    Verify {
        /// The files of the log, unpacked, in any order.
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
        /// The file of signed heads.
        #[arg(long)]
        heads: Option<PathBuf>,
        /// Who may have signed: a public key as `rcmpd audit key` prints it. Give it again for a key that was replaced.
        #[arg(long, value_name = "PEM", requires = "heads")]
        public_key: Vec<PathBuf>,
        /// The number of the first line, if older files were removed on purpose. Without it the first line must be the first of the chain.
        #[arg(long, value_name = "SEQ", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
        first_seq: u64,
        #[command(flatten)]
        json: JsonArg,
    },
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_configuration_in_front_of_the_command_is_that_of_the_command() {
        for (typed, moved) in [
            ("rcmpd -c F map C.pem", "rcmpd map C.pem -c F"),
            ("rcmpd --config F account list", "rcmpd account list --config F"),
            ("rcmpd --config=F account list", "rcmpd account list --config=F"),
            ("rcmpd -cF account show -- -x", "rcmpd account show -cF -- -x"),
            // The parser says what is wrong with these.
            ("rcmpd -c", "rcmpd -c"),
            ("rcmpd -c F", "rcmpd"),
            ("rcmpd -- -c", "rcmpd -- -c"),
            ("rcmpd --configure F map", "rcmpd --configure F map"),
            ("rcmpd map -c F", "rcmpd map -c F"),
            ("rcmpd", "rcmpd"),
        ] {
            let moved: Vec<OsString> = moved.split(' ').map(OsString::from).collect();
            assert_eq!(arguments(typed.split(' ').map(OsString::from)), moved, "{typed}");
        }
    }

    #[test]
    fn lines_to_paste_are_not_wrapped_by_a_terminal() {
        fn check(command: &clap::Command) {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            for line in help.lines().filter(|line| line.starts_with("  ")) {
                assert!(line.chars().count() <= 80, "{}: {line}", command.get_name());
            }
            command.get_subcommands().for_each(check);
        }
        check(&Cli::command());
    }

    #[test]
    fn promised_forms_are_understood() {
        for line in [
            "rcmpd quickstart",
            "rcmpd quickstart D --port 21490",
            "rcmpd serve -c F",
            "rcmpd map C.pem -c F --methods upn,issuer-chain --chain P --json",
            "rcmpd map C.pem --server h:1 --machine WEB01$ --secret-file F --domain D",
            "rcmpd map C.pem -c F --proof --proof-key D=F --require-strong",
            "rcmpd explain C.pem -c F --json",
            "rcmpd mapping strings C.pem --json",
            "rcmpd mapping audit --ignore weak,twin -c F",
            "rcmpd mapping rehearse --policy P --certs D -c F",
            "rcmpd mapping import --from sssd - --issuer C.pem",
            "rcmpd check-config -c F",
            "rcmpd account set alice --add-mapping X509:<SKI>00 -c F",
            "rcmpd group list -c F --json",
            "rcmpd machine set WEB01$ --disable -c F",
            "rcmpd domain add -c F",
            "rcmpd domain add FABRIKAM --sid S-1 --name f.example --direction both --server h:1 --kind rcmpd -c F",
            "rcmpd domain add FABRIKAM --sid S-1 --name f.example --name g.example --direction outbound --via B -c F",
            "rcmpd domain show -c F",
            "rcmpd domain show FABRIKAM -c F --json",
            "rcmpd domain trust-commands FABRIKAM --for samba -c F",
            "rcmpd domain test FABRIKAM --timeout 3 -c F",
            "rcmpd domain rotate FABRIKAM -c F",
            "rcmpd domain rotate FABRIKAM --now -c F",
            "rcmpd machine set WEB01$ --now -c F",
            "rcmpd machine set WEB01$ --secret-file S --now -c F",
            "rcmpd domain key F",
            "rcmpd machine add FABRIKAM$ --kind trusted-domain --secret-file F -c F",
            "rcmpd account add dave --home-domain FABRIKAM -c F",
            "rcmpd account add dave --expires 2027-01-01 -c F",
            "rcmpd account set dave --rename david --remove-group G --enable -c F",
            "rcmpd account list smith -c F",
            "rcmpd group set G --scope local --rename H -c F",
            "rcmpd domain remove FABRIKAM -c F",
            "rcmpd serve F",
            "rcmpd check-config F --json",
            "rcmpd version",
            "rcmpd import FILE -c F",
            "rcmpd export FILE -c F",
            "rcmpd audit key F",
            "rcmpd audit verify F --heads H",
            "rcmpd audit verify F G --heads H --public-key P --public-key Q --json",
            "rcmpd page --listen 127.0.0.1:8080",
            "rcmpd page --unix P --anywhere",
            "rcmpd check-proxy https://a/ --certificate C --key K --ca A --expect-user U --json",
            "rcmpd check-proxy https://a/ --certificate C --key K --trust-any-server --preset remote --connect h:1",
            "rcmpd check-proxy https://a/ --certificate C --key K --ca A -c F --header X-User",
            "rcmpd check-proxy https://a/ --certificate C --key K --ca A --other-certificate C --other-key K --other-host b",
            "rcmpd completions bash",
            "rcmpd man",
        ] {
            let parsed = Cli::try_parse_from(line.split(' '));
            assert!(parsed.is_ok(), "{line}: {parsed:?}");
        }
        for line in [
            "rcmpd map C.pem --server h",
            "rcmpd audit verify",
            "rcmpd domain add FABRIKAM -c F",
            "rcmpd domain add --sid S-1 -c F",
            "rcmpd domain add FABRIKAM --sid S-1 --name f.example -c F",
            "rcmpd domain add FABRIKAM --sid S-1 --name f --direction both --server h --via B -c F",
            "rcmpd audit verify F --public-key P",
            "rcmpd page",
            "rcmpd check-proxy https://a/ --certificate C --key K",
            "rcmpd check-proxy https://a/ --certificate C --ca A",
            "rcmpd check-proxy https://a/ --certificate C --key K --ca A --other-certificate C",
            "rcmpd check-proxy https://a/ --certificate C --key K --ca A --trust-any-server",
            "rcmpd quickstart --port 70000",
            "rcmpd quickstart --port 65534",
            "rcmpd quickstart --port 0",
            "rcmpd account set a --enable --disable -c F",
            "rcmpd account set a --unlock --lock -c F",
            "rcmpd account add a --enable -c F",
            "rcmpd account add a --remove-group G -c F",
            "rcmpd account add a --expires tomorrow -c F",
            "rcmpd serve F -c F",
        ] {
            assert_eq!(Cli::try_parse_from(line.split(' ')).expect_err(line).exit_code(), 2, "{line}");
        }
    }
}
