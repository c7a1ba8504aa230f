//! What can be typed.

#![expect(missing_docs, reason = "flattened arguments are documented where they are defined")]
#![expect(
    rustdoc::broken_intra_doc_links,
    rustdoc::invalid_html_tags,
    reason = "these comments are the help, which terminals show as it stands"
)]

mod sso;
mod tlsnego;

pub use sso::{
    BackupKeyArgs, BackupToArgs, BlobArgs, CacheArgs, ConfigOnly, GetArgs, MechanismArg, OptionalClientArgs,
    PlaceArgs, SecretCommand, SsoCommand,
};
pub use tlsnego::{BindingArg, CallArgs, ServiceArgs, SessionCommand, SuiteArg, TlsnegoCommand, TrustArg};

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{ArgGroup, ArgMatches, Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};
use dtyp::FileTime;
use std::ffi::{OsStr, OsString};
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

/// Map X.509 client certificates to accounts and groups
///
/// A web server has checked a client certificate; rcmpd tells it the account and its groups. It speaks the
/// Remote Certificate Mapping Protocol ([MS-RCMP]) over a sealed Netlogon channel, as a server and as a
/// client.
#[derive(Debug, Parser)]
#[command(
    name = "rcmpd",
    version = VERSION,
    arg_required_else_help = true,
    after_help = "First steps:\n  rcmpd quickstart                            # a demo domain in ./rcmpd-demo\n  export RCMPD_CONFIG=rcmpd-demo/rcmpd.toml   # in place of -c FILE\n  rcmpd serve                                 # serve it\n  rcmpd map rcmpd-demo/certs/alice.pem        # elsewhere: who is alice?\n\nCommands that need a configuration take -c FILE, before or after the command. Without -c they use the environment variable RCMPD_CONFIG, then ./rcmpd.toml, then /etc/rcmpd/rcmpd.toml."
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The version, with the commit that was built and its date if it was built in a checkout.
pub const VERSION: &str = env!("RCMPD_VERSION");

/// A command line that was understood.
#[derive(Debug)]
pub struct Parsed {
    /// What was typed.
    pub cli: Cli,
    /// Whether its result, or its error, is printed as JSON.
    pub as_json: bool,
}

/// A command line that was not understood, or asks for help.
#[derive(Debug)]
pub struct WrongUse {
    /// What the parser says.
    pub error: clap::Error,
    /// Whether there is a `--json` in it.
    pub as_json: bool,
}

/// Parses a command line, the program's name first.
pub fn parse(all: impl IntoIterator<Item = OsString>) -> Result<Parsed, WrongUse> {
    let all = arguments(all);
    let read = |all: &[OsString]| {
        Cli::command().try_get_matches_from(all).and_then(|matches| {
            Ok(Parsed { cli: Cli::from_arg_matches(&matches)?, as_json: has_json(&matches) })
        })
    };
    let parsed = read(&all).or_else(|error| match default_config().filter(|_| lacks_configuration(&error)) {
        Some(path) => {
            let end = all.iter().position(|argument| argument == "--").unwrap_or(all.len());
            let mut all = all.clone();
            all.splice(end..end, [OsString::from("--config"), path.into()]);
            read(&all)
        }
        None => Err(error),
    });
    parsed.map_err(|mut error| {
        name_configuration(&mut error);
        // The parser has no result, so its options are not known.
        let as_json =
            all.iter().take_while(|argument| *argument != "--").any(|argument| argument == "--json");
        WrongUse { error, as_json }
    })
}

/// Whether a command line was not understood because it names no configuration.
fn lacks_configuration(error: &clap::Error) -> bool {
    match error.get(ContextKind::InvalidArg) {
        Some(ContextValue::Strings(missing)) if error.kind() == ErrorKind::MissingRequiredArgument => {
            missing.iter().any(|argument| argument.contains("--config <FILE>"))
        }
        _ => false,
    }
}

/// Says how to name a configuration, where the parser only says that the option is missing.
fn name_configuration(error: &mut clap::Error) {
    let Some(ContextValue::Strings(missing)) = error.get(ContextKind::InvalidArg) else { return };
    if error.kind() != ErrorKind::MissingRequiredArgument {
        return;
    }
    let named = missing.iter().map(|argument| match argument.contains("--config <FILE>") {
        true if argument.contains("--socket") => {
            format!("{argument}: no configuration: give -c FILE, or set RCMPD_CONFIG, or give --socket PATH")
        }
        true => format!("{argument}: no configuration: give -c FILE, or set RCMPD_CONFIG"),
        false => argument.clone(),
    });
    let named = named.collect();
    error.insert(ContextKind::InvalidArg, ContextValue::Strings(named));
}

/// Whether the command has `--json`.
fn has_json(matches: &ArgMatches) -> bool {
    match matches.subcommand() {
        Some((_, matches)) => has_json(matches),
        None => matches.try_get_one("json").ok().flatten().copied().unwrap_or(false),
    }
}

/// Arguments with a `-c FILE` in front of the command moved behind it, where the command takes it.
fn arguments(all: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
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
    /// The configuration file, instead of -c FILE; for check-config - is standard input.
    #[arg(value_name = "FILE", conflicts_with = "config")]
    pub file: Option<PathBuf>,
    /// The configuration file. Without FILE and -c, the environment variable RCMPD_CONFIG names it; then it
    /// is ./rcmpd.toml, or /etc/rcmpd/rcmpd.toml.
    #[arg(short, long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

impl ConfigFileArg {
    /// The configuration file.
    pub fn path(&self) -> Option<PathBuf> {
        let variable =
            || std::env::var_os("RCMPD_CONFIG").filter(|value| !value.is_empty()).map(PathBuf::from);
        self.file.clone().or_else(|| self.config.clone()).or_else(variable).or_else(default_config)
    }
}

/// Where the configuration is if a command line and the environment do not say.
const DEFAULT_CONFIGS: [&str; 2] = ["rcmpd.toml", "/etc/rcmpd/rcmpd.toml"];

/// The configuration of this folder, or else that of the system. Another user could have put a file into this
/// folder, so the file counts only if it belongs to root or to the user who runs the command.
pub(crate) fn default_config() -> Option<PathBuf> {
    let own = rustix::process::geteuid().as_raw();
    let is_trusted = |path: &PathBuf| path.metadata().is_ok_and(|it| it.uid() == 0 || it.uid() == own);
    DEFAULT_CONFIGS.map(PathBuf::from).into_iter().find(is_trusted)
}

/// The configuration of commands that need one.
#[derive(Args, Clone, Debug)]
pub struct ConfigArg {
    /// The configuration file.
    #[arg(short, long, value_name = "FILE", env = "RCMPD_CONFIG", hide_env_values = true)]
    pub config: PathBuf,
}

/// `rcmpd doctor`
#[derive(Args, Debug)]
pub struct DoctorArgs {
    #[command(flatten)]
    pub config: ConfigFileArg,
    /// How long to wait for each answer over the network, in seconds.
    #[arg(long, default_value_t = 5, value_name = "S", value_parser = clap::value_parser!(u64).range(1..=60))]
    pub timeout: u64,
    #[command(flatten)]
    pub json: JsonArg,
}

/// `rcmpd status`
#[derive(Args, Debug)]
pub struct StatusArgs {
    #[command(flatten)]
    pub config: ConfigFileArg,
    #[command(flatten)]
    pub json: JsonArg,
}

/// `rcmpd top`
#[derive(Args, Debug)]
pub struct TopArgs {
    #[command(flatten)]
    pub config: ConfigFileArg,
    /// Seconds between two requests to the service, 1 to 60.
    #[arg(
        long,
        value_name = "SECONDS",
        default_value_t = 1,
        value_parser = clap::value_parser!(u64).range(1..=60)
    )]
    pub interval: u64,
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
    /// Create a complete demo domain: configuration, accounts, a machine account, certificates
    ///
    /// Existing files are not overwritten: if one of the files exists, nothing is written.
    Quickstart {
        /// The folder to create.
        #[arg(default_value = "rcmpd-demo")]
        dir: PathBuf,
        /// The port of Netlogon. The endpoint mapper uses N+1 and /metrics N+2. [default: 11490, 1135 and
        /// 9464]
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=i64::from(crate::quickstart::PORT_MAX)))]
        port: Option<u16>,
        /// Also create a master secret with its first backup, and users who may and may not get it. It is
        /// served at N+3. [default: 11493]
        #[arg(long)]
        sso: bool,
        /// Also configure the gateway for SOAP clients, and users with passwords. It is served at N+4, and
        /// the service behind it is expected at N+5. [default: 11494 and 11495]
        #[arg(long)]
        tlsnego: bool,
        #[command(flatten)]
        json: JsonArg,
    },
    /// Run every role that the configuration enables
    ///
    /// SIGHUP reloads the configuration: if one part is wrong, nothing changes. After SIGTERM or SIGINT the
    /// service answers the calls in flight and stops.
    Serve {
        #[command(flatten)]
        config: ConfigFileArg,
    },
    /// Ask a server over Netlogon for the account and groups of a certificate
    ///
    /// The server and the machine account are those of [client] in the configuration, or of --server,
    /// --machine and --secret-file.
    ///
    /// The protocol leaves two checks to the client ([MS-RCMP] 3.5 and 5.1), and this command does neither:
    /// that the certificate is valid (chain, dates, revocation), and that the client has the private key. The
    /// answer names the account of the certificate; it does not prove who presented it. --verify checks the
    /// chain first. Only a TLS handshake or a signature proves possession of the key.
    #[command(
        after_help = "Exit codes: 0 mapped, 1 any other failure, 2 wrong use or no readable configuration, 3 not mapped (or, with --require-strong, not proved), 4 server not reachable in time, 5 this machine may not ask, or its secure channel was refused, 6 unusable input (or, with --verify, no valid chain), 7 nothing was decided.\n\nExample:\n  rcmpd map alice.pem --server dc1.contoso.example:11490 --domain CONTOSO \\\n      --machine 'WEB01$' --secret-file WEB01.secret"
    )]
    Map(MapArgs),
    /// Show each step of the decision about a certificate; no service is asked
    Explain {
        /// The certificate, PEM, DER or base64; - for standard input.
        certificate: PathBuf,
        #[command(flatten)]
        config: ConfigArg,
        /// Mapping methods that the client asks for [default: upn,subject; with --url: sidecar.methods]
        #[arg(long, value_delimiter = ',', value_name = "LIST")]
        methods: Option<Vec<MethodArg>>,
        /// Certificates of the issuers, in any order.
        #[arg(long, value_name = "PEM")]
        chain: Option<PathBuf>,
        /// Also check this URL against the [sidecar] routes.
        #[arg(long, value_name = "URL")]
        url: Option<String>,
        #[command(flatten)]
        json: JsonArg,
    },
    /// Check a configuration: exit 0 good, 1 wrong (the errors with line and column), 2 not readable
    CheckConfig {
        #[command(flatten)]
        config: ConfigFileArg,
        #[command(flatten)]
        json: JsonArg,
    },
    /// Show the configuration with defaults and origins, write a new one, or print its JSON Schema
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Check an installation: clock, names, ports, certificates, channels, store, limits, and all of
    /// check-config
    ///
    /// Each finding that needs an operator has a line that says what to do. Nothing is changed. The command
    /// sees what its user sees: run it as the user of the service, or as root, on the machine of the service.
    #[command(
        after_help = "Exit codes: 0 no error was found (warnings do not count), 1 the configuration has errors, 2 wrong use or no readable configuration, 3 an error was found.\n\nExample:\n  rcmpd doctor -c FILE --json | jq '.checks[] | select(.result != \"ok\")'"
    )]
    Doctor(DoctorArgs),
    /// Show the state of the running service: ready, last reload, CRLs, peers, connections
    ///
    /// The service is asked at its admin port with the token in its configuration. Run it on the machine of
    /// the service.
    #[command(
        after_help = "Exit codes: 0 ready, 3 not ready, 1 wrong configuration or answer, 2 wrong use or no readable configuration, 4 no answer.\n\nExample:\n  rcmpd status -c FILE --json | jq '.crls[] | select(.expired)'"
    )]
    Status(StatusArgs),
    /// Watch the running service on a terminal: decisions, latency, channels, queues, peers, refusals
    ///
    /// The view is drawn anew each second, until q or Ctrl-C is typed. The service is asked at its admin port
    /// with the token in its configuration, as by status. NO_COLOR turns colours off. With TERM=dumb,
    /// each view is printed below the last one.
    #[command(
        after_help = "Exit codes: 0 ended by q, Ctrl-C, SIGTERM or SIGHUP, 1 wrong configuration or answer, 2 wrong use, no terminal or no readable configuration, 4 no answer at the start.\n\nExample:\n  rcmpd top -c FILE"
    )]
    Top(TopArgs),
    /// Manage accounts of the store
    #[command(subcommand)]
    Account(AccountCommand),
    /// Manage groups of the store
    #[command(subcommand)]
    Group(GroupCommand),
    /// Manage machine accounts: the clients that may open a secure channel
    #[command(subcommand)]
    Machine(MachineCommand),
    /// Look after the stores: what is in them, whether they are sound, back-up and restore, a lost key
    #[command(subcommand)]
    Store(StoreCommand),
    /// Manage the served domain and its trusted domains
    #[command(subcommand)]
    Domain(DomainCommand),
    /// Inspect mappings: list the forms of a certificate, audit stored mappings, compare policies, import
    /// rules
    #[command(subcommand)]
    Mapping(MappingCommand),
    /// Import accounts, groups and machines from JSON Lines, CSV or LDIF, all of them or none
    Import {
        /// The file; - for standard input.
        file: PathBuf,
        /// Its format. By default, the end of its name decides: .csv, .ldif, or JSON Lines.
        #[arg(long)]
        format: Option<FormatArg>,
        /// Replace existing entries, memberships included. Without it, an existing entry stops the import.
        #[arg(long)]
        replace: bool,
        /// Accounts that are disabled here stay disabled, whatever the file says. `rcmpd account set NAME
        /// --enable` enables one again.
        #[arg(long, requires = "replace")]
        keep_disabled: bool,
        /// Remove the users and groups that are not in the file. Computers, machines, and groups with a RID
        /// below 1000 stay. The file has to say that it is complete: by its last line, as `rcmpd export`
        /// writes it; in CSV by a row with `end` and the number of entries; in LDIF by the result that
        /// ldapsearch prints.
        #[arg(long, requires = "replace")]
        prune: bool,
        /// Remove nothing if more than this part of the users, or of the groups, would go, in percent.
        #[arg(long, value_name = "N", default_value_t = 10, requires = "prune", value_parser = clap::value_parser!(u64).range(0..=100))]
        prune_max: u64,
        /// Say what would be imported and removed, and change nothing. Whether members exist is not checked.
        #[arg(long)]
        dry_run: bool,
        #[command(flatten)]
        config: ConfigArg,
        #[command(flatten)]
        json: JsonArg,
    },
    /// Export accounts, groups and machines as JSON Lines, without secrets
    Export {
        /// The file to write; it must not exist. - for standard output.
        file: PathBuf,
        #[command(flatten)]
        config: ConfigArg,
        #[command(flatten)]
        json: JsonArg,
    },
    /// Create a signing key for the audit log, or verify the log
    #[command(subcommand)]
    Audit(AuditCommand),
    /// Manage the master secret that nodes of a farm share, and what they seal under it
    #[command(subcommand)]
    Sso(SsoCommand),
    /// Show the servers that share one store
    #[command(subcommand)]
    Replica(ReplicaCommand),
    /// Manage the sidecar: keys of the tickets that nodes of a farm share
    #[command(subcommand)]
    Sidecar(SidecarCommand),
    /// Call a service with WS-Trust TLSNEGO message security
    #[command(subcommand)]
    Tlsnego(TlsnegoCommand),
    /// Print a complete, safe web server configuration for the sidecar
    #[command(
        after_help = "The printed configuration matches the [[sidecar.listen]] of that dialect. Check the running web server:\n  rcmpd check-proxy https://app.example/ --ca site-ca.pem \\\n      --certificate alice.pem --key alice.key\n\nExample:\n  rcmpd proxy-config nginx --site app.example --listen 0.0.0.0:443 \\\n      --certificate /etc/ssl/app.pem --key /etc/ssl/app.key -c FILE"
    )]
    ProxyConfig(ProxyConfigArgs),
    /// Run a test application that echoes the request headers it receives
    ///
    /// It stands in for the application behind the web server. It answers every request with the received
    /// headers, in JSON or, for browsers, as a table. It trusts every header and protects nothing: use it for
    /// tests only. Without --anywhere it listens on loopback addresses only. In JSON, % and bytes that are
    /// not visible ASCII are percent-encoded.
    #[command(after_help = "Example:\n  rcmpd page --listen 127.0.0.1:8080")]
    Page {
        /// The address to listen on.
        #[arg(long, value_name = "ADDR", required_unless_present = "unix")]
        listen: Option<SocketAddr>,
        /// A Unix socket to listen on, which must not exist.
        #[arg(long, value_name = "PATH")]
        unix: Option<PathBuf>,
        /// Allow addresses that other hosts can reach.
        #[arg(long)]
        anywhere: bool,
    },
    /// Attack a web server from outside and report what leaks
    ///
    /// The URL leads through the web server to `rcmpd page`. With another application, only status codes can
    /// be checked. The requests are harmless to the application, but the web server and the sidecar log some
    /// hundred refusals.
    #[command(
        after_help = "Exit codes: 0 nothing leaks, 2 wrong use or no readable configuration, 3 something leaks, 4 not reachable, or the server's certificate is rejected, 6 unusable input, 7 nothing leaks as far as it could be checked (also where the page is not `rcmpd page`).\n\nExample:\n  rcmpd check-proxy https://app.contoso.example/ --ca server-ca.pem \\\n      --certificate alice.pem --key alice.key"
    )]
    CheckProxy(CheckProxyArgs),
    /// Print shell completions
    #[command(
        after_help = "Where the file goes:\n  bash        ~/.local/share/bash-completion/completions/rcmpd\n  zsh         _rcmpd in a folder of $fpath\n  fish        ~/.config/fish/completions/rcmpd.fish\n  elvish      ~/.config/elvish/lib/rcmpd.elv, and `use rcmpd` in rc.elv\n  powershell  a file that $PROFILE runs\n\nIn bash, names of accounts, groups and machines are completed if RCMPD_CONFIG is set.\n\nExample:\n  mkdir -p ~/.local/share/bash-completion/completions\n  rcmpd completions bash > ~/.local/share/bash-completion/completions/rcmpd"
    )]
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// Print the manual page of a command in troff, or write all manual pages
    #[command(
        after_help = "To read a page:\n  rcmpd man | man -l -\n  rcmpd man machine add | man -l -\n\nTo install all pages, so that `man rcmpd` and `man rcmpd-machine-add` find them:\n  rcmpd man --dir /usr/local/share/man/man1"
    )]
    Man {
        /// The command; without one, the page of rcmpd itself.
        #[arg(value_name = "COMMAND", conflicts_with = "dir")]
        command: Vec<String>,
        /// Write the pages of all commands to this folder, and replace the ones there.
        #[arg(long, value_name = "DIR")]
        dir: Option<PathBuf>,
    },
    /// Print the version, and the commit and date that it was built from
    Version,
}

/// `rcmpd store …`
#[derive(Subcommand, Debug)]
pub enum StoreCommand {
    /// Show what is in each store: kind, version of its tables, revision, counts, last change
    ///
    /// The files, the server or the directory are read, and the service is not asked. STALE is for how many
    /// seconds an answer from the store may be used.
    #[command(
        after_help = "Exit codes: 0 all stores can be read, 3 one of them cannot, 1 any other failure, 2 wrong use or no readable configuration."
    )]
    Status {
        #[command(flatten)]
        config: ConfigArg,
        #[command(flatten)]
        json: JsonArg,
    },
    /// Read each store as a whole, and report what is wrong
    ///
    /// Reports damaged entries and files, secrets that the key file does not open, principal names, mappings
    /// and e-mail addresses that several accounts have (also in two parts of `kind = "several"`), and groups
    /// with the same name. `rcmpd mapping audit` also finds mappings that are weak or match nothing.
    ///
    /// A directory is read page by page, with about 500 entries in memory and 200 bytes for each account.
    /// Also reported are attributes that cannot be read, with the right that is missing, and numbers outside
    /// of the configured range. Each ACCOUNT is looked up with all its groups, as for a certificate. A program
    /// behind a socket cannot be listed: only each ACCOUNT is looked up there.
    #[command(
        after_help = "Exit codes: 0 nothing is wrong, 3 something is, 1 any other failure, 2 wrong use or no readable configuration.\n\nExample:\n  rcmpd store verify alice Administrator -c FILE"
    )]
    Verify {
        /// Accounts to look up as for a certificate, in directories and in stores that cannot be listed.
        #[arg(value_name = "ACCOUNT")]
        accounts: Vec<String>,
        #[command(flatten)]
        config: ConfigArg,
        #[command(flatten)]
        json: JsonArg,
    },
    /// Copy the databases, the key file and the configuration into a new folder, also while the service runs
    ///
    /// Everything that is needed and not copied is named on standard error: files of secrets and certificates
    /// that the configuration names, and stores on servers. With the key file, the folder has the secrets of
    /// all machines: only its owner can read it.
    #[command(
        after_help = "Exit codes: 0 copied, 1 a file cannot be copied, or the folder exists (nothing is left of the copy), 2 wrong use or no readable configuration."
    )]
    Backup {
        /// The folder to create.
        folder: PathBuf,
        /// Leave the key file out, to keep it apart.
        #[arg(long)]
        without_key: bool,
        #[command(flatten)]
        config: ConfigArg,
        #[command(flatten)]
        json: JsonArg,
    },
    /// Put the databases and the key file of a back-up where the configuration names them
    ///
    /// Nothing that exists is replaced: if one of the files is there, nothing is restored. The service must
    /// not run. Root gives the files to the owner of their folder.
    #[command(
        after_help = "Exit codes: 0 restored, 1 a file is there already, is not in the back-up or cannot be used (nothing was restored), 2 wrong use or no readable configuration."
    )]
    Restore {
        /// The folder that `rcmpd store backup` made.
        folder: PathBuf,
        #[command(flatten)]
        config: ConfigArg,
        #[command(flatten)]
        json: JsonArg,
    },
    /// Create a new key file after the key file of the database was lost
    ///
    /// The key file encrypts the secrets of machine accounts and the passwords of users, and nothing else of
    /// accounts. These are lost. Each machine account and trust gets a random secret that no machine has: set
    /// a new one with `rcmpd machine set NAME --secret-file F`. Users have no password afterwards: set a new
    /// one with `rcmpd account set NAME --password-file F`. If a key file exists, move it away first. Restart
    /// the service afterwards.
    Rekey(RekeyArgs),
}

/// Arguments of `rcmpd store rekey`.
#[derive(Args, Debug)]
pub struct RekeyArgs {
    /// Confirm that all secrets of machine accounts and all passwords of users are lost.
    #[arg(long, required = true)]
    pub forget_secrets: bool,
    #[command(flatten)]
    pub config: ConfigArg,
    #[command(flatten)]
    pub json: JsonArg,
}

/// Arguments of `rcmpd map`.
#[derive(Args, Debug)]
pub struct MapArgs {
    /// The certificate, PEM, DER or base64; - for standard input. The certificates after it in the file are
    /// those of its issuers.
    pub certificate: PathBuf,
    /// The configuration file, for [client] and [domain].
    #[arg(short, long, value_name = "FILE", env = "RCMPD_CONFIG", hide_env_values = true)]
    pub config: Option<PathBuf>,
    /// The server. Without a port, the port is looked up at its endpoint mapper on port 135.
    #[arg(long, value_name = "HOST[:PORT]", requires = "machine")]
    pub server: Option<String>,
    /// The machine account, such as 'WEB01$'.
    #[arg(long, value_name = "NAME", requires = "secret_file")]
    pub machine: Option<String>,
    /// A file with the password of the machine account, in one line; - for standard input.
    #[arg(long, value_name = "F")]
    pub secret_file: Option<PathBuf>,
    /// NetBIOS name of the domain to ask about. Without a configuration it is also the domain of the server.
    #[arg(long, value_name = "D")]
    pub domain: Option<String>,
    /// Mapping methods to ask for.
    #[arg(long, value_delimiter = ',', default_value = "upn,subject", value_name = "LIST")]
    pub methods: Vec<MethodArg>,
    /// Certificates of the issuers, in any order. Certificates that are not in the chain are skipped with a
    /// warning.
    #[arg(long, value_name = "PEM")]
    pub chain: Option<PathBuf>,
    /// First verify the certificate chain by [mapping] (anchors, intermediates, revocation) or --anchors; do
    /// not ask if it is not valid.
    #[arg(long)]
    pub verify: bool,
    /// Certificates of the CAs that --verify trusts, instead of [mapping]. Intermediate certificates come
    /// from --chain. Revocation is not checked.
    #[arg(long, value_name = "PEM", requires = "verify")]
    pub anchors: Vec<PathBuf>,
    /// Request a proof of the path, and print it: the domains on the path, their policy revisions, and how
    /// strong each mapping is.
    #[arg(long)]
    pub proof: bool,
    /// The public key that verifies the hops of a domain, as DOMAIN=FILE, in addition to proof_keys of
    /// [client].
    #[arg(long, value_name = "DOMAIN=FILE")]
    pub proof_key: Vec<String>,
    /// Reject an answer without a proof that the mapping is strong at every hop.
    #[arg(long)]
    pub require_strong: bool,
    /// How long to wait for the answer, in seconds.
    #[arg(long, default_value_t = 10, value_name = "S", value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub timeout: u64,
    #[command(flatten)]
    pub json: JsonArg,
}

/// Arguments of `rcmpd check-proxy`.
#[derive(Args, Debug)]
pub struct CheckProxyArgs {
    /// The URL of the test application, through the web server.
    #[arg(value_name = "URL")]
    pub url: String,
    /// A client certificate that is allowed, PEM, with its chain.
    #[arg(long, value_name = "PEM")]
    pub certificate: PathBuf,
    /// The key of --certificate, PEM.
    #[arg(long, value_name = "KEY")]
    pub key: PathBuf,
    /// The account name that an identity header is expected to have.
    #[arg(long, value_name = "NAME")]
    pub expect_user: Option<String>,
    /// Certificates of the CAs that are trusted for the certificate of the web server.
    #[arg(long, value_name = "PEM", required_unless_present = "trust_any_server")]
    pub ca: Option<PathBuf>,
    /// Accept any certificate of the web server: the findings may be about another server.
    #[arg(long, conflicts_with = "ca")]
    pub trust_any_server: bool,
    /// A second client certificate that is allowed, of another account.
    #[arg(long, value_name = "PEM", requires = "other_key")]
    pub other_certificate: Option<PathBuf>,
    /// The key of --other-certificate.
    #[arg(long, value_name = "KEY", requires = "other_certificate")]
    pub other_key: Option<PathBuf>,
    /// Another host name of the same web server.
    #[arg(long, value_name = "HOST[:PORT]")]
    pub other_host: Option<String>,
    /// Connect to this address instead of the host of the URL.
    #[arg(long, value_name = "HOST:PORT")]
    pub connect: Option<String>,
    /// Identity headers that the application trusts, beside X-Identity-… [default: all known sets]
    #[arg(long, value_name = "PRESET")]
    pub preset: Vec<PresetArg>,
    /// Another header that the application trusts as an identity, such as X-WEBAUTH-USER; repeat for several.
    #[arg(long, value_name = "NAME")]
    pub header: Vec<String>,
    /// The configuration file of the sidecar, for the header names in [sidecar.header_names].
    #[arg(short, long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Another path of the same web server, which may have other rules; repeat for several.
    #[arg(long, value_name = "PATH")]
    pub path: Vec<String>,
    /// The port of the web server for HTTP without TLS.
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
    /// Remote-User, Remote-Groups and others.
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
    /// By issuer and subject, or by a strong form.
    Subject,
    /// By the issuer only.
    Issuer,
    /// By the issuer, or by another CA of the chain.
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
        /// The account name. The name of a computer ends in a dollar sign.
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
        /// Name, SID or user principal name of the account.
        name: String,
        #[command(flatten)]
        config: ConfigArg,
        #[command(flatten)]
        json: JsonArg,
    },
    /// List accounts
    List {
        /// Only accounts with this text in the name, user principal name or full name; case is ignored.
        text: Option<String>,
        #[command(flatten)]
        config: ConfigArg,
        #[command(flatten)]
        json: JsonArg,
    },
    /// Change an account
    Set {
        /// Name, SID or user principal name of the account.
        name: String,
        /// The new name. SID, groups and mappings stay.
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
    /// Remove an account, and the machine account with the same name
    Remove {
        /// Name, SID or user principal name of the account.
        name: String,
        #[command(flatten)]
        config: ConfigArg,
        #[command(flatten)]
        json: JsonArg,
    },
}

/// Fields of an account.
#[derive(Args, Clone, Debug, Default)]
pub struct AccountFields {
    /// userPrincipalName; an empty value removes it.
    #[arg(long)]
    pub upn: Option<String>,
    /// displayName.
    #[arg(long)]
    pub full_name: Option<String>,
    /// E-mail address, for the header of a sidecar; an empty value removes it.
    #[arg(long, value_name = "ADDRESS")]
    pub mail: Option<String>,
    /// Add a servicePrincipalName, such as host/web01.contoso.example.
    #[arg(long, value_name = "SPN")]
    pub add_spn: Vec<String>,
    /// Add a value of altSecurityIdentities, such as 'X509:<I>…<SR>…'.
    #[arg(long, value_name = "X509:…")]
    pub add_mapping: Vec<String>,
    /// Add the account to a group; repeat for several.
    #[arg(long, value_name = "GROUP")]
    pub group: Vec<String>,
    /// Disable the account.
    #[arg(long)]
    pub disable: bool,
    /// Lock the account.
    #[arg(long)]
    pub lock: bool,
    /// NetBIOS name of the domain that answers for this account. The entry here then only says where to ask;
    /// an empty value removes it.
    #[arg(long, value_name = "DOMAIN")]
    pub home_domain: Option<String>,
    /// Expiry: a date such as 2027-01-01 (00:00 UTC), a time such as 2027-01-01T12:00:00Z, seconds since
    /// 1970, or "never".
    #[arg(long, value_name = "WHEN", value_parser = crate::clock::instant)]
    pub expires: Option<FileTime>,
    /// A file with the account's password, in one line; - for standard input. Two hashes of it are stored,
    /// sealed: an argon2id hash, for services that get the password itself, and the NT hash, for NTLM
    /// ([sso.ntlm]).
    #[arg(long, value_name = "F")]
    pub password_file: Option<PathBuf>,
    /// Read the password from standard input, as --password-file - does. If that is a terminal, the command
    /// asks for the password twice, and does not show it.
    #[arg(long, conflicts_with = "password_file")]
    pub password_stdin: bool,
    /// A file with the NT hash of the account's password, 32 hexadecimal digits; - for standard input. The
    /// account can use NTLM only: an argon2id hash that it has is removed.
    #[arg(long, value_name = "F", conflicts_with_all = ["password_file", "password_stdin"])]
    pub nt_hash_file: Option<PathBuf>,
    /// Store no NT hash, and remove the one that the account has: the account cannot use NTLM.
    #[arg(long, conflicts_with = "nt_hash_file")]
    pub no_nt_hash: bool,
}

/// Changes that need an existing account.
#[derive(Args, Clone, Debug, Default)]
pub struct AccountChanges {
    /// Remove a servicePrincipalName.
    #[arg(long, value_name = "SPN")]
    pub remove_spn: Vec<String>,
    /// Remove a value of altSecurityIdentities.
    #[arg(long, value_name = "X509:…")]
    pub remove_mapping: Vec<String>,
    /// Remove the account from a group; repeat for several.
    #[arg(long, value_name = "GROUP")]
    pub remove_group: Vec<String>,
    /// Enable the account.
    #[arg(long, conflicts_with = "disable")]
    pub enable: bool,
    /// Unlock the account.
    #[arg(long, conflicts_with = "lock")]
    pub unlock: bool,
    /// Remove the password: its argon2id hash and its NT hash.
    #[arg(long, conflicts_with_all = ["password_file", "password_stdin", "nt_hash_file", "no_nt_hash"])]
    pub no_password: bool,
}

/// Arguments of `rcmpd proxy-config`.
#[derive(Args, Debug)]
pub struct ProxyConfigArgs {
    /// The web server.
    pub server: WebServerArg,
    /// The host name that clients use.
    #[arg(long, default_value = "app.example", value_name = "NAME")]
    pub site: String,
    /// The address that the web server listens on.
    #[arg(long, default_value = "0.0.0.0:443", value_name = "ADDR")]
    pub listen: std::net::SocketAddr,
    /// The certificate of the web server with its chain. For HAProxy the file also has the key.
    #[arg(long, default_value = "/etc/ssl/app.pem", value_name = "FILE")]
    pub certificate: PathBuf,
    /// The key of --certificate.
    #[arg(long, default_value = "/etc/ssl/app.key", value_name = "FILE")]
    pub key: PathBuf,
    /// The CAs of client certificates, in one file [default: anchors and intermediates of [mapping]]
    #[arg(long, value_name = "PEM", conflicts_with = "write_client_ca")]
    pub client_ca: Option<PathBuf>,
    /// Where to write these CAs if they are in several files [default: client-ca-bundle.pem beside the
    /// configuration file]
    #[arg(long, value_name = "PEM")]
    pub write_client_ca: Option<PathBuf>,
    /// Print an additional site for a web server that already has one from this command, without the settings
    /// that may stand only once.
    #[arg(long)]
    pub beside: bool,
    /// The address of the application [default: the upstream of the listener, or 127.0.0.1:8080]
    #[arg(long, value_name = "HOST:PORT")]
    pub application: Option<String>,
    /// The client certificate of the web server, for a listener with tls.
    #[arg(long, value_name = "PEM", requires = "proxy_key")]
    pub proxy_certificate: Option<PathBuf>,
    /// The key of --proxy-certificate.
    #[arg(long, value_name = "FILE")]
    pub proxy_key: Option<PathBuf>,
    /// Print the secret of the listener, instead of a placeholder.
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
    /// A TLS-terminating proxy in front of the sidecar.
    Haproxy,
    /// ForwardAuth.
    Traefik,
    /// forward_auth; with Client-Cert if no listener has dialect "caddy" and one has "client-cert".
    Caddy,
    /// A TLS-terminating proxy in front of the sidecar.
    Apache,
}

/// `rcmpd config …`
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Show every key with its value, and where the value is from: a line of the file, the default, the
    /// environment
    ///
    /// On a terminal this is a table. Elsewhere it is TOML with the origins as comments, or JSON. Secrets are
    /// not in the file and are not read; settings of added stores are not shown.
    #[command(
        after_help = "Example:\n  rcmpd config show -c FILE --json | jq '.keys[] | select(.origin != \"default\")'"
    )]
    Show {
        #[command(flatten)]
        config: ConfigFileArg,
        #[command(flatten)]
        json: JsonArg,
    },
    /// Print a JSON Schema (draft 2020-12) of the configuration, for editors
    #[command(
        after_help = "Taplo and editors with it (VS Code: Even Better TOML) take the schema from the first line of the file:\n  #:schema ./rcmpd.schema.json\n\nExample:\n  rcmpd config schema > rcmpd.schema.json"
    )]
    Schema,
    /// Ask a few questions and write a small configuration that check-config accepts
    ///
    /// Each question has an option. Without a terminal nothing is asked: what has no option gets its default,
    /// or is an error. A file that exists is not overwritten.
    #[command(
        after_help = "Examples:\n  rcmpd config init /etc/rcmpd/rcmpd.toml\n  rcmpd config init --role server --dns contoso.example --ca ca.pem \\\n      --web-server none\n  rcmpd config init --role sidecar --dns contoso.example --sid S-1-5-21-1-2-3 \\\n      --ca ca.pem --ask dc1.contoso.example --machine 'WEB01$' \\\n      --secret WEB01.secret --web-server nginx"
    )]
    Init(Box<ConfigInitArgs>),
}

/// Arguments of `rcmpd config init`.
#[derive(Args, Debug)]
pub struct ConfigInitArgs {
    /// The file to write.
    #[arg(default_value = "rcmpd.toml")]
    pub file: PathBuf,
    /// What this machine does.
    #[arg(long, value_enum)]
    pub role: Option<RoleArg>,
    /// The DNS name of the domain.
    #[arg(long, value_name = "NAME")]
    pub dns: Option<String>,
    /// The NetBIOS name of the domain [default: the first label of --dns]
    #[arg(long, value_name = "NAME")]
    pub netbios: Option<String>,
    /// The SID of the domain, or `new` for a random one.
    #[arg(long, value_name = "SID")]
    pub sid: Option<String>,
    /// The NetBIOS name of this server [default: the first label of the host name]
    #[arg(long, value_name = "NAME")]
    pub server: Option<String>,
    /// A file with CAs of client certificates. May be repeated.
    #[arg(long, value_name = "PEM")]
    pub ca: Vec<PathBuf>,
    /// With the role server: the address of Netlogon.
    #[arg(long, value_name = "ADDR")]
    pub listen: Option<String>,
    /// With the role sidecar: the service or domain controller to ask, HOST or HOST:PORT.
    #[arg(long, value_name = "HOST")]
    pub ask: Option<String>,
    /// With the role sidecar: the machine account, such as `WEB01$`.
    #[arg(long, value_name = "NAME")]
    pub machine: Option<String>,
    /// With the role sidecar: the file with the password of the machine account.
    #[arg(long, value_name = "FILE")]
    pub secret: Option<PathBuf>,
    /// The web server on this machine.
    #[arg(long, value_enum)]
    pub web_server: Option<InitWebServerArg>,
    /// The Unix socket for the web server.
    #[arg(long, value_name = "PATH")]
    pub socket: Option<PathBuf>,
    /// The user of the web server, by name or number: its processes may ask.
    #[arg(long, value_name = "USER")]
    pub web_user: Option<String>,
    /// With Apache and HAProxy, which the sidecar stands behind: the application.
    #[arg(long, value_name = "URL")]
    pub upstream: Option<String>,
    /// Folder of the database and the audit log [default: /var/lib/rcmpd if FILE is in /etc/rcmpd, otherwise
    /// the folder of FILE]
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    #[command(flatten)]
    pub json: JsonArg,
}

/// What a new configuration is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum RoleArg {
    /// Has accounts, answers questions over Netlogon, and serves a web server beside it.
    Server,
    /// Serves a web server, and asks another service or a domain controller.
    Sidecar,
}

/// A web server that reaches the sidecar by a Unix socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum InitWebServerArg {
    None,
    Nginx,
    Caddy,
    Envoy,
    Haproxy,
    Apache,
}

/// `rcmpd mapping …`
#[derive(Debug, Subcommand)]
pub enum MappingCommand {
    /// Print every mapping string of a certificate
    ///
    /// Needs no configuration and no network.
    Strings {
        /// The certificate, PEM, DER or base64; - for standard input.
        certificate: PathBuf,
        #[command(flatten)]
        json: JsonArg,
    },
    /// Find mappings that are weak, ambiguous, near-duplicates (twins), dangling, or that never match
    #[command(
        after_help = "Exit codes: 0 nothing found, 3 something found, 1 the store or the configuration cannot be read.\n\n  weak            uses only names, and the account has no strong mapping\n  ambiguous       several accounts have it: it maps no account\n  twin            values that differ only in case, accents or width\n  dangling        its issuer is not a configured CA\n  never-matching  malformed, or the policy lets no certificate match it\n\nExample, for continuous integration:\n  rcmpd mapping audit --ignore weak -c FILE"
    )]
    Audit {
        /// Classes to leave out of the report.
        #[arg(long, value_delimiter = ',', value_name = "CLASS")]
        ignore: Vec<ClassArg>,
        #[command(flatten)]
        config: ConfigArg,
        #[command(flatten)]
        json: JsonArg,
    },
    /// Dry run of another policy: list the accounts whose access would change
    #[command(
        after_help = "The other policy is the [mapping] section of a file, which needs no other section. Certificates come from a folder (.pem, .crt, .cer, .der), from a file with one certificate, or from an audit log with certificates.\n\nExample:\n  rcmpd mapping rehearse --policy strict.toml --certs audit.log -c FILE"
    )]
    Rehearse {
        /// The file with the other [mapping]; - for standard input.
        #[arg(long, value_name = "FILE")]
        policy: PathBuf,
        /// A folder of certificates, one certificate, or an audit log.
        #[arg(long, value_name = "DIR|CERT|LOG")]
        certs: PathBuf,
        /// Mapping methods that clients ask for, if the log does not have them.
        #[arg(long, value_delimiter = ',', default_value = "upn,subject", value_name = "LIST")]
        methods: Vec<MethodArg>,
        #[command(flatten)]
        config: ConfigArg,
        #[command(flatten)]
        json: JsonArg,
    },
    /// Translate rules of other programs into a [mapping] section
    #[command(
        after_help = "Exit codes: 0 translated, 3 a rule cannot be expressed, 6 unusable input. The result is printed; no file is written.\n\nExample:\n  rcmpd mapping import --from sssd sssd.conf --issuer certs/issuing.pem"
    )]
    Import {
        /// The program that the rules are from.
        #[arg(long)]
        from: RuleSourceArg,
        /// The file with the rules; - for standard input.
        file: PathBuf,
        /// Certificates of CAs that rules refer to.
        #[arg(long, value_name = "PEM")]
        issuer: Vec<PathBuf>,
        #[command(flatten)]
        json: JsonArg,
    },
}

/// The format of a file with accounts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum FormatArg {
    /// One JSON object a line.
    Jsonl,
    /// A table whose first line names the columns.
    Csv,
    /// Entries of a directory.
    Ldif,
}

/// A class of findings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ClassArg {
    /// Uses only names.
    Weak,
    /// Several accounts have it.
    Ambiguous,
    /// Differs only in case, accents or width.
    Twin,
    /// Its issuer is not a configured CA.
    Dangling,
    /// No certificate can match it under the policy.
    NeverMatching,
}

/// The program whose rules are imported.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum RuleSourceArg {
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
        /// The group name.
        name: String,
        /// The scope of the group.
        #[arg(long, default_value = "global")]
        scope: ScopeArg,
        #[command(flatten)]
        config: ConfigArg,
        #[command(flatten)]
        json: JsonArg,
    },
    /// Show a group with its direct members
    Show {
        /// Name or SID of the group.
        name: String,
        #[command(flatten)]
        config: ConfigArg,
        #[command(flatten)]
        json: JsonArg,
    },
    /// List groups
    List {
        /// Only groups with this text in the name; case is ignored.
        text: Option<String>,
        #[command(flatten)]
        config: ConfigArg,
        #[command(flatten)]
        json: JsonArg,
    },
    /// Change a group's members, scope or name
    Set {
        /// Name or SID of the group.
        name: String,
        /// The new name. SID and members stay.
        #[arg(long, value_name = "NAME")]
        rename: Option<String>,
        /// The new scope.
        #[arg(long)]
        scope: Option<ScopeArg>,
        /// Add an account or a group as a member; repeat for several.
        #[arg(long, value_name = "NAME")]
        add_member: Vec<String>,
        /// Remove a member; repeat for several.
        #[arg(long, value_name = "NAME")]
        remove_member: Vec<String>,
        #[command(flatten)]
        config: ConfigArg,
        #[command(flatten)]
        json: JsonArg,
    },
    /// Remove a group
    Remove {
        /// Name or SID of the group.
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
    /// Global group: GroupIds of a PAC.
    Global,
    /// Universal group: GroupIds of a PAC.
    Universal,
    /// Local group: ResourceGroupIds of a PAC; it does not count in other domains.
    Local,
}

/// `rcmpd machine …`
#[derive(Debug, Subcommand)]
pub enum MachineCommand {
    /// Add a machine account, and a computer account of the same name if there is none
    #[command(
        after_help = "Example:\n  rcmpd machine add 'WEB02$' --secret-file WEB02.secret \\\n      --permission rcmp -c FILE\n  rcmpd machine add 'WEB03$' --secret-file WEB03.secret --permission rcmp \\\n      --domain CONTOSO --group 'Web Team' -c FILE\n\nIf the secret file does not exist, it is created with a random password."
    )]
    Add(AddMachine),
    /// Take over a machine account with the secret that it has, from a keytab or from Samba's secrets.tdb
    ///
    /// The machine keeps its secret, and needs no change. A machine account that is there already gets the
    /// secret of the file; the previous one stays valid for a day, or until the new one is used.
    ///
    /// A secure channel needs the NT hash of the password. In a keytab that is the RC4 key (type 23) of the
    /// machine account. AES keys alone are not enough, because no NT hash can be made of them.
    #[command(
        after_help = "Examples:\n  rcmpd machine import 'WEB01$' --keytab web01.keytab --permission rcmp -c FILE\n  rcmpd machine import 'WEB01$' --permission rcmp -c FILE \\\n      --secrets-tdb /var/lib/samba/private/secrets.tdb\n\nExit code 6: the file cannot be used, or does not have the secret."
    )]
    Import(ImportMachine),
    /// Show a machine account
    Show {
        /// The machine account name.
        name: String,
        #[command(flatten)]
        config: ConfigArg,
        #[command(flatten)]
        json: JsonArg,
    },
    /// List machine accounts
    List {
        /// Only machine accounts with this text in the name; case is ignored.
        text: Option<String>,
        #[command(flatten)]
        config: ConfigArg,
        #[command(flatten)]
        json: JsonArg,
    },
    /// Change a machine account; open channels apply the change at their next call
    #[command(
        after_help = "Examples:\n  rcmpd machine set 'WEB02$' --domain CONTOSO --group 'Domain Users' \\\n      --group 'Domain Admins' -c FILE\n  rcmpd machine set 'WEB02$' --all-domains --all-groups -c FILE\n\nIf a secret has leaked:\n  rcmpd machine set 'WEB01$' --secret-file WEB01.secret --now -c FILE\n\nWith --now and without --secret-file, the current secret stays valid and the previous one ends."
    )]
    Set(SetMachine),
    /// Remove a machine account; the computer account stays
    Remove {
        /// The machine account name.
        name: String,
        #[command(flatten)]
        config: ConfigArg,
        #[command(flatten)]
        json: JsonArg,
    },
}

/// A machine account to add.
#[derive(Args, Debug)]
pub struct AddMachine {
    /// The machine account name, which ends in a dollar sign.
    pub name: String,
    /// The file with the password: read if it exists, otherwise created; - for standard input.
    #[arg(long, value_name = "F")]
    pub secret_file: PathBuf,
    #[command(flatten)]
    pub rights: MachineRights,
    /// The type of secure channel. A trusted domain gets no computer account.
    #[arg(long, default_value = "workstation")]
    pub kind: ChannelArg,
    #[command(flatten)]
    pub config: ConfigArg,
    #[command(flatten)]
    pub json: JsonArg,
}

/// What a new machine account may do.
#[derive(Args, Debug)]
pub struct MachineRights {
    /// A permission of the machine.
    #[arg(long)]
    pub permission: Vec<PermissionArg>,
    /// NetBIOS name of a domain whose accounts the machine gets answers for; repeat for several [default: all
    /// domains]
    #[arg(long, value_name = "NAME")]
    pub domain: Vec<String>,
    /// A group whose members the machine gets answers for, or the SID of one account [default: all accounts
    /// that are not privileged]
    #[arg(long, value_name = "NAME|SID")]
    pub group: Vec<String>,
}

/// A machine account that exists elsewhere.
#[derive(Args, Debug)]
#[command(group(ArgGroup::new("source").args(["keytab", "secrets_tdb"]).required(true)))]
pub struct ImportMachine {
    /// The machine account name, which ends in a dollar sign.
    pub name: String,
    /// A keytab with the RC4 key of the machine account, of the realm that has the DNS name of [domain].
    #[arg(long, value_name = "F")]
    pub keytab: Option<PathBuf>,
    /// Samba's secrets.tdb of the machine, with the password in [domain]. Copy it with tdbbackup if Samba
    /// runs.
    #[arg(long, value_name = "F")]
    pub secrets_tdb: Option<PathBuf>,
    /// Also write the password to this file, which must not exist, for `secret` of [client].
    #[arg(long, value_name = "F", requires = "secrets_tdb")]
    pub write_secret: Option<PathBuf>,
    #[command(flatten)]
    pub rights: MachineRights,
    #[command(flatten)]
    pub config: ConfigArg,
    #[command(flatten)]
    pub json: JsonArg,
}

/// What to change in a machine account.
#[derive(Args, Debug)]
pub struct SetMachine {
    /// The machine account name.
    pub name: String,
    /// Disable the machine account.
    #[arg(long, conflicts_with = "enable")]
    pub disable: bool,
    /// Enable the machine account.
    #[arg(long)]
    pub enable: bool,
    /// Give a permission.
    #[arg(long)]
    pub permission: Vec<PermissionArg>,
    /// Take a permission away.
    #[arg(long)]
    pub revoke: Vec<PermissionArg>,
    /// NetBIOS name of a domain whose accounts the machine gets answers for; repeat for several. Replaces the
    /// previous list.
    #[arg(long, value_name = "NAME", conflicts_with = "all_domains")]
    pub domain: Vec<String>,
    /// Remove the restriction to domains.
    #[arg(long)]
    pub all_domains: bool,
    /// A group whose members the machine gets answers for, or the SID of one account; repeat for several.
    /// Replaces the previous list.
    ///
    /// Privileged accounts are, for example, Administrator and the members of Domain Admins. The machine gets
    /// answers for a privileged account only if this list has a privileged group of the account, or the
    /// account itself. An account or group is privileged by its SID, never by its name. The well-known name
    /// of a privileged group means its SID in this domain or in BUILTIN.
    #[arg(long, value_name = "NAME|SID", conflicts_with = "all_groups")]
    pub group: Vec<String>,
    /// Remove the restriction to groups: the machine gets answers for all accounts that are not privileged.
    #[arg(long)]
    pub all_groups: bool,
    /// An existing file with the new password, or - for standard input. The previous password stays valid for
    /// a day, or until the new one is used.
    #[arg(long, value_name = "F")]
    pub secret_file: Option<PathBuf>,
    /// End the previous secret at once, with all channels that use it. The machine cannot connect until it
    /// has the new secret.
    #[arg(long)]
    pub now: bool,
    #[command(flatten)]
    pub config: ConfigArg,
    #[command(flatten)]
    pub json: JsonArg,
}

/// A permission of a machine account.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum PermissionArg {
    /// Ask for the accounts of certificates.
    Rcmp,
}

/// `rcmpd domain …`
#[derive(Debug, Subcommand)]
pub enum DomainCommand {
    /// Create the account database for [domain], or add a trusted domain (NAME)
    ///
    /// Without a NAME: creates the database with the groups that every domain has, and its key file. With a
    /// NAME: appends a [[peer]] to the configuration, and creates the secrets and the account of the trust.
    /// Existing files are not changed.
    #[command(
        after_help = "Examples:\n  rcmpd domain add -c FILE\n  rcmpd domain add FABRIKAM --sid S-1-5-21-… --name fabrikam.example \\\n      --direction outbound --server dc1.fabrikam.example --kind rcmpd -c FILE\n\nTo get the SID of the other domain, run `rcmpd domain show` there."
    )]
    Add {
        /// NetBIOS name of the trusted domain.
        #[arg(requires = "sid")]
        name: Option<String>,
        #[command(flatten)]
        peer: Box<PeerArgs>,
        #[command(flatten)]
        config: ConfigArg,
        #[command(flatten)]
        json: JsonArg,
    },
    /// Show the served domain, or a trusted domain (NAME)
    Show {
        /// NetBIOS or DNS name of a trusted domain.
        name: Option<String>,
        #[command(flatten)]
        config: ConfigArg,
        #[command(flatten)]
        json: JsonArg,
    },
    /// List the served domain and the trusted domains
    List {
        #[command(flatten)]
        config: ConfigArg,
        #[command(flatten)]
        json: JsonArg,
    },
    /// Print a new random SID for [domain]
    ///
    /// A domain keeps its SID forever: the SIDs of accounts and groups start with it. No other domain may
    /// have the same.
    NewSid {
        #[command(flatten)]
        json: JsonArg,
    },
    /// The former name of `rcmpd store rekey`
    #[command(hide = true)]
    Rekey(RekeyArgs),
    /// Remove a trusted domain: its [[peer]] and its machine account
    ///
    /// The files with secrets are not removed.
    Remove {
        /// NetBIOS or DNS name of the trusted domain.
        name: String,
        #[command(flatten)]
        config: ConfigArg,
        #[command(flatten)]
        json: JsonArg,
    },
    /// Print the commands to run in the trusted domain
    TrustCommands {
        /// NetBIOS or DNS name of the trusted domain.
        name: String,
        /// The program of the trusted domain; repeat for several [default: all]
        #[arg(long = "for", value_name = "SIDE")]
        side: Vec<SideArg>,
        #[command(flatten)]
        config: ConfigArg,
        #[command(flatten)]
        json: JsonArg,
    },
    /// Test the secure channel to each server of a trusted domain, or to the [[relay]] servers of the served
    /// domain
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
    /// Change the secret of the trust account, at the trusted domain and here
    ///
    /// A running service continues without failed calls. If the command is interrupted, run it again to
    /// complete the change.
    #[command(
        after_help = "Exit codes: 0 changed, 4 no server is reachable, 5 the secure channel is refused, 7 unknown whether the secret was changed."
    )]
    Rotate {
        /// NetBIOS or DNS name of the other domain.
        name: String,
        /// Use the new secret at once, so that the trusted domain ends the previous one with all its
        /// channels.
        #[arg(long)]
        now: bool,
        #[command(flatten)]
        config: ConfigArg,
        #[command(flatten)]
        json: JsonArg,
    },
    /// Create a key that signs hops, and print its public key
    ///
    /// The public key is also written to FILE.pub. Existing files are not overwritten.
    Key {
        /// The file to write. Name it in proof_key of [forward].
        file: PathBuf,
        #[command(flatten)]
        json: JsonArg,
    },
}

/// Settings of a trusted domain.
#[derive(Args, Debug)]
#[group(requires = "name")]
pub struct PeerArgs {
    /// The SID of the trusted domain.
    #[arg(long, value_name = "SID", requires_all = ["name", "names", "direction"])]
    pub sid: Option<String>,
    /// The DNS name of the trusted domain; repeat for each other suffix of its user principal names.
    #[arg(long = "name", id = "names", value_name = "DNS")]
    pub names: Vec<String>,
    /// Which domain sends questions.
    #[arg(long)]
    pub direction: Option<DirectionArg>,
    /// A server of the trusted domain; without a port, the port is looked up at its endpoint mapper.
    #[arg(long, value_name = "HOST[:PORT]")]
    pub server: Vec<String>,
    /// Find the servers by DNS.
    #[arg(long, conflicts_with = "server")]
    pub discovery: bool,
    /// The site whose servers are preferred.
    #[arg(long, requires = "discovery")]
    pub site: Option<String>,
    /// Send questions through this other trusted domain.
    #[arg(long, value_name = "DOMAIN", conflicts_with_all = ["server", "discovery"])]
    pub via: Option<String>,
    /// The program of its servers.
    #[arg(long)]
    pub kind: Option<PeerKindArg>,
    /// Account to use in that domain [default: the trust account]
    #[arg(long, value_name = "NAME")]
    pub account: Option<String>,
    /// The type of secure channel of --account.
    #[arg(long)]
    pub channel: Option<ChannelArg>,
    /// The file with the secret of --account, created if it does not exist [default: trusts/NAME.secret]
    #[arg(long, value_name = "F")]
    pub secret_file: Option<PathBuf>,
    /// The file with the secret of its account here, created if it does not exist [default:
    /// trusts/NAME.inbound.secret]
    #[arg(long, value_name = "F")]
    pub inbound_secret_file: Option<PathBuf>,
    /// A domain about which the trusted domain may ask through this one; repeat for several.
    #[arg(long, value_name = "DOMAIN")]
    pub transit: Vec<String>,
    /// An issuer whose certificates the trusted domain answers for; repeat for several.
    #[arg(long, value_name = "DN")]
    pub issuer: Vec<String>,
}

/// Which domain sends questions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum DirectionArg {
    /// The trusted domain asks this one.
    Inbound,
    /// This domain asks the trusted domain.
    Outbound,
    /// Each domain asks the other.
    Both,
}

/// The program of the servers of a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum PeerKindArg {
    /// Any Netlogon server.
    Netlogon,
    /// rcmpd.
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
    /// The word in the configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Workstation => "workstation",
            Self::Server => "server",
            Self::TrustedDomain => "trusted_domain",
            Self::TrustedDnsDomain => "trusted_dns_domain",
        }
    }
}

/// The program of a trusted domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum SideArg {
    /// rcmpd.
    #[value(alias = "ours")]
    Rcmpd,
    /// Samba.
    Samba,
    /// Windows.
    Powershell,
}

/// `rcmpd audit …`
#[derive(Debug, Subcommand)]
pub enum AuditCommand {
    /// Create a key that signs checkpoints of the audit log, and print its public key
    ///
    /// The public key is also written to FILE.pub. Existing files are not overwritten.
    Key {
        /// The file to write. Name it in key of [audit.heads].
        file: PathBuf,
        #[command(flatten)]
        json: JsonArg,
    },
    /// Verify that a chained audit log was not changed
    #[command(
        after_help = "Exit codes: 0 verified, 2 wrong use, 3 broken (the output says where), 6 unusable input, 7 complete but its writer is not verified: no --heads, or no checkpoint is about these lines.\n\nExample:\n  rcmpd audit verify audit.log* --heads audit.heads \\\n      --public-key audit-signing.key.pub\n  rcmpd audit verify logs/dc1 logs/dc2 logs/dc3 \\\n      --public-key audit-signing.key.pub"
    )]
    Verify {
        /// The files of the log, in any order. Or the folders of several servers, each with its own
        /// audit.log* and audit.heads.
        #[arg(required = true, value_name = "FILE|DIR")]
        files: Vec<PathBuf>,
        /// The file of signed checkpoints.
        #[arg(long)]
        heads: Option<PathBuf>,
        /// A public key of `rcmpd audit key` whose signatures are accepted, - for standard input; repeat it
        /// for a key that was replaced.
        #[arg(long, value_name = "PEM")]
        public_key: Vec<PathBuf>,
        /// The `seq` of the first line, if older files were removed on purpose.
        #[arg(long, value_name = "SEQ", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
        first_seq: u64,
        #[command(flatten)]
        json: JsonArg,
    },
}

/// `rcmpd replica …`
#[derive(Debug, Subcommand)]
pub enum ReplicaCommand {
    /// List the servers with [channels] shared = true that use the database of a configuration
    ///
    /// Each server writes its version, its listeners and the revisions that it has seen into the database
    /// every 5 s. One that has not done so for 15 s is stale, and is forgotten after a day. BEHIND is the
    /// number of changes that it had not seen, and CLOCK is its clock minus that of the database.
    #[command(
        after_help = "Exit codes: 0 there is a server that is not stale, 3 there is none, 1 any other failure, 2 wrong use or no readable configuration."
    )]
    Status {
        #[command(flatten)]
        config: ConfigArg,
        #[command(flatten)]
        json: JsonArg,
    },
}

/// `rcmpd sidecar …`
#[derive(Debug, Subcommand)]
pub enum SidecarCommand {
    /// Create a key for [sidecar.ticket] or [tlsnego.cookie]
    ///
    /// Each node of the farm gets a copy of the file. An existing file is not overwritten.
    #[command(
        after_help = "Example:\n  rcmpd sidecar ticket-key ticket-1.key --generation 1\n\nReplace a key: add the new one to keys on each node, with seal_with = 1, and reload; when all nodes have it, remove\nseal_with on each and reload; when lifetime_s (session_s of [tlsnego]) has passed, remove the old key on each and reload."
    )]
    TicketKey {
        /// The file to write, with mode 0600. Name it in keys of [sidecar.ticket] or [tlsnego.cookie].
        file: PathBuf,
        /// The number of the key: one more than that of the key before.
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
        generation: u32,
        #[command(flatten)]
        json: JsonArg,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn json_is_known_whether_the_command_line_is_understood_or_not() {
        let is_json = |line: &str| match parse(line.split(' ').map(OsString::from)) {
            Ok(parsed) => (true, parsed.as_json),
            Err(wrong) => (false, wrong.as_json),
        };
        for (line, expected) in [
            ("rcmpd map C.pem -c F --json", (true, true)),
            ("rcmpd map C.pem -c F", (true, false)),
            ("rcmpd account add dave -c F --json", (true, true)),
            ("rcmpd version", (true, false)),
            // This is the certificate's file, and no option.
            ("rcmpd mapping strings -- --json", (true, false)),
            ("rcmpd map --json --unknown", (false, true)),
            ("rcmpd map --unknown --json", (false, true)),
            ("rcmpd map --unknown", (false, false)),
            ("rcmpd map --unknown -- --json", (false, false)),
        ] {
            assert_eq!(is_json(line), expected, "{line}");
        }
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
    fn missing_configuration_says_how_to_name_one() {
        for (line, expected) in [
            ("rcmpd account list", &["no configuration: give -c FILE, or set RCMPD_CONFIG"][..]),
            ("rcmpd sso secret status", &["give -c FILE, or set RCMPD_CONFIG, or give --socket PATH"]),
            ("rcmpd sso secret backup B --socket S", &["--passphrase-file", "--key-file", "--recipient"]),
            ("rcmpd sso secret restore B --socket S", &["--passphrase-file", "--key-file"]),
        ] {
            let WrongUse { error, .. } = parse(line.split(' ').map(OsString::from)).expect_err(line);
            let text = error.to_string();
            assert!(
                error.exit_code() == 2 && expected.iter().all(|part| text.contains(part)),
                "{line}: {text}"
            );
            let usage = text.find("Usage:").unwrap_or(text.len());
            assert!(expected.iter().all(|part| text[..usage].contains(part)), "{line}: {text}");
        }
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
            "rcmpd doctor -c F",
            "rcmpd doctor F --timeout 3 --json",
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
            "rcmpd domain new-sid --json",
            "rcmpd serve F",
            "rcmpd check-config F --json",
            "rcmpd version",
            "rcmpd import FILE -c F",
            "rcmpd export FILE -c F",
            "rcmpd sso secret generate -c F",
            "rcmpd sso secret rotate --overlap-h 24 -c F",
            "rcmpd sso secret backup B --passphrase-file P -c F",
            "rcmpd sso secret restore B --key-file K --allow-older -c F",
            "rcmpd sso secret import --from-server h --user u --password-file P -c F",
            "rcmpd sso secret get --server h --server i:1 --user u --password-file P --output O",
            "rcmpd sso secret get --server h --auth kerberos --ccache C --kdc k --fd 3",
            "rcmpd sso secret get --server h --user u --password-file P --cache C --unseal file:K --watch",
            "rcmpd sso seal P --output O --cache C --unseal file:K --purpose app/x",
            "rcmpd sso reseal D --cache C --unseal file:K --purpose app/x --json",
            "rcmpd quickstart --sso",
            "rcmpd audit key F",
            "rcmpd audit verify F --heads H",
            "rcmpd audit verify F G --heads H --public-key P --public-key Q --json",
            "rcmpd page --listen 127.0.0.1:8080",
            "rcmpd page --unix P --anywhere",
            "rcmpd check-proxy https://a/ --certificate C --key K --ca A --expect-user U --json",
            "rcmpd check-proxy https://a/ --certificate C --key K --trust-any-server --preset remote --connect h:1",
            "rcmpd check-proxy https://a/ --certificate C --key K --ca A -c F --header X-User",
            "rcmpd check-proxy https://a/ --certificate C --key K --ca A --other-certificate C --other-key K --other-host b",
            "rcmpd tlsnego call http://a/ --action A --body F --ca C",
            "rcmpd tlsnego call https://a/ --action A --body - --user U --password-file F --ca C --tls13 --ws-trust 1.3 --count 3 --trace --json",
            "rcmpd tlsnego call http://a/ --action A --body F --cert C --key K --server-cert S --binding one-shot",
            "rcmpd tlsnego call https://a/ --action A --body F --server-cert S --https-ca C --suite tripledessha256",
            "rcmpd completions bash",
            "rcmpd man",
            "rcmpd man machine add",
            "rcmpd man --dir D",
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
            "rcmpd page",
            "rcmpd check-proxy https://a/ --certificate C --key K",
            "rcmpd check-proxy https://a/ --certificate C --ca A",
            "rcmpd check-proxy https://a/ --certificate C --key K --ca A --other-certificate C",
            "rcmpd check-proxy https://a/ --certificate C --key K --ca A --trust-any-server",
            "rcmpd tlsnego call http://a/ --action A --body F",
            "rcmpd tlsnego call http://a/ --action A --body F --ca C --server-cert S",
            "rcmpd tlsnego call http://a/ --action A --body F --ca C --user U",
            "rcmpd tlsnego call http://a/ --action A --body F --ca C --cert C",
            "rcmpd tlsnego call http://a/ --action A --body F --ca C --cert C --key K --user U --password-file F",
            "rcmpd tlsnego call http://a/ --action A --body F --ca C --count 0",
            "rcmpd quickstart --port 70000",
            "rcmpd quickstart --port 65534",
            "rcmpd quickstart --port 0",
            "rcmpd account set a --enable --disable -c F",
            "rcmpd account set a --unlock --lock -c F",
            "rcmpd account add a --enable -c F",
            "rcmpd account add a --remove-group G -c F",
            "rcmpd account add a --expires tomorrow -c F",
            "rcmpd serve F -c F",
            "rcmpd man serve --dir D",
        ] {
            assert_eq!(Cli::try_parse_from(line.split(' ')).expect_err(line).exit_code(), 2, "{line}");
        }
    }
}
