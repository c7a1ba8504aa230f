//! `rcmpd sso …`

use super::{ConfigArg, JsonArg};
use clap::{ArgGroup, Args, Subcommand, ValueEnum};
use std::path::PathBuf;

/// `rcmpd sso …`
#[derive(Debug, Subcommand)]
pub enum SsoCommand {
    /// Manage the master secret of [sso], or get it from a server
    #[command(subcommand)]
    Secret(SecretCommand),
    /// Seal data under the newest cached key of this node
    #[command(
        after_help = "The blob names its key, so that it opens for as long as the node keeps that key.\n\nExample:\n  rcmpd sso seal db-password.txt --output db-password.sealed \\\n      --cache node.keys --unseal file:node.key --purpose app/credentials \\\n      --record db-password.sealed"
    )]
    Seal(BlobArgs),
    /// Open what `rcmpd sso seal` sealed
    Open(BlobArgs),
    /// Take older keys for this node from a backup, for blobs that were sealed before the node was there
    ///
    /// The node needs the newest key from the server first. The overlap of an older key goes on from the
    /// rotation.
    Learn {
        /// The backup, which an operator of the server wrote for this node.
        file: PathBuf,
        #[command(flatten)]
        key: BackupKeyArgs,
        #[command(flatten)]
        cache: CacheArgs,
        #[command(flatten)]
        json: JsonArg,
    },
    /// Create the key of a recipient of backups, such as a node, and print its public key
    ///
    /// If the file is there already, it stays as it is.
    #[command(
        after_help = "Example, on the node:\n  rcmpd sso recipient node.recipient\nand on the server:\n  rcmpd sso secret backup node.backup --for-node \\\n      --recipient rcmpd-recipient-1:… -c FILE"
    )]
    Recipient {
        /// The file of the private key.
        file: PathBuf,
        #[command(flatten)]
        json: JsonArg,
    },
    /// Seal the blobs of a folder again, under the newest cached key
    ///
    /// A run that is interrupted is completed by the next one.
    #[command(
        after_help = "Exit codes: 0 all are under the newest key, 3 some are not (the output names them)."
    )]
    Reseal {
        /// The folder. Only regular files in it are blobs; folders below it and links are left out.
        folder: PathBuf,
        #[command(flatten)]
        cache: CacheArgs,
        /// What the blobs are for: the purpose with which they were sealed.
        #[arg(long, value_name = "NAME")]
        purpose: String,
        /// The name of each file is the record with which its blob was sealed.
        #[arg(long)]
        record_is_file_name: bool,
        #[command(flatten)]
        json: JsonArg,
    },
}

/// The cached keys of a node.
#[derive(Args, Clone, Debug)]
pub struct CacheArgs {
    /// The sealed file of the keys that this node got.
    #[arg(long, value_name = "FILE")]
    pub cache: PathBuf,
    /// What the cache is sealed with, as in seal of [sso]: file:PATH, cred:NAME, passphrase: and one of
    /// these, shares:FOLDER, or a pkcs11: URI.
    #[arg(long, value_name = "REF")]
    pub unseal: String,
    /// How long a cached key is used while no server answers, in hours.
    #[arg(long, value_name = "H", default_value_t = 24, value_parser = clap::value_parser!(u64).range(1..=8760))]
    pub max_age_h: u64,
    /// How long an older key is kept after a newer one came, in hours.
    #[arg(long, value_name = "H", default_value_t = 168, value_parser = clap::value_parser!(u64).range(1..=8760))]
    pub overlap_h: u64,
}

/// One blob.
#[derive(Args, Debug)]
pub struct BlobArgs {
    /// The file to read, at most 1 MiB; - for standard input.
    pub file: PathBuf,
    /// The file to write, which must not exist; it gets mode 0600.
    #[arg(long, value_name = "FILE")]
    pub output: PathBuf,
    #[command(flatten)]
    pub cache: CacheArgs,
    /// What the data is for. A blob opens for the same purpose only.
    #[arg(long, value_name = "NAME")]
    pub purpose: String,
    /// The record that the data belongs to. A blob opens for the same record only, so that one blob cannot
    /// take the place of another.
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
    pub record: String,
}

/// `rcmpd sso secret …`
#[derive(Debug, Subcommand)]
pub enum SecretCommand {
    /// Create a key that seals the master secret: a file, shares of a key, or a key in a PKCS#11 token. Name
    /// it in seal of [sso]
    #[command(
        after_help = "Example, three of five shares for five operators:\n  rcmpd sso secret seal-key seal --shares 5 --threshold 3\n\nThe whole key is in no file then: only in the shares seal.1.share to seal.5.share."
    )]
    SealKey {
        /// The file to create, or the pkcs11: URI of the key to create in a token.
        #[arg(value_name = "FILE|URI")]
        file: PathBuf,
        /// Split the key into so many shares, FILE.1.share and so on, 2 to 16.
        #[arg(long, value_name = "N", requires = "threshold", value_parser = clap::value_parser!(u8).range(2..=16))]
        shares: Option<u8>,
        /// How many shares give the key.
        #[arg(long, value_name = "K", requires = "shares", value_parser = clap::value_parser!(u8).range(2..=16))]
        threshold: Option<u8>,
        #[command(flatten)]
        json: JsonArg,
    },
    /// Add a share of the key that seals the master secret. With enough of them the secret is open
    ///
    /// The share is written to the folder that seal of [sso] names. A running service opens the secret within
    /// a second.
    #[command(
        after_help = "Exit codes: 0 the secret is open, 3 there is no secret, 7 more shares are needed."
    )]
    Unseal {
        /// The file of the share; - for standard input.
        #[arg(value_name = "SHARE")]
        share: PathBuf,
        #[command(flatten)]
        place: PlaceArgs,
    },
    /// Generate the first master secret
    Generate(PlaceArgs),
    /// Show the generations, the state, and the age of the last backup and drill. No octet of the secret is
    /// shown
    #[command(after_help = "Exit codes: 0 open, 3 there is no secret, 7 sealed.")]
    Status(PlaceArgs),
    /// Generate a new generation. The previous one stays for the overlap
    #[command(
        after_help = "If the key may have leaked: --overlap-h 0 drops all older generations at once. A longer overlap leaves the nodes time to reseal."
    )]
    Rotate {
        /// How long nodes may need the previous generation, in hours. Older generations end by then, too, if
        /// they would end later; if that leaves no room, the oldest one ends at once. 0: all end at once
        /// [default: 168, and older ones as they are]
        #[arg(long, value_name = "H", value_parser = clap::value_parser!(u64).range(0..=8760))]
        overlap_h: Option<u64>,
        #[command(flatten)]
        place: PlaceArgs,
    },
    /// Write an encrypted backup of all generations
    Backup {
        /// The file to create.
        file: PathBuf,
        #[command(flatten)]
        key: BackupToArgs,
        #[command(flatten)]
        place: PlaceArgs,
    },
    /// Restore a backup
    ///
    /// All secrets of the backup are opened and checked before a file is changed. The live generations stay
    /// for the overlap.
    Restore {
        /// The backup.
        file: PathBuf,
        #[command(flatten)]
        key: BackupKeyArgs,
        /// Restore although the backup is older than the live secret.
        #[arg(long)]
        allow_older: bool,
        /// Restore although the backup is of another farm.
        #[arg(long)]
        allow_foreign: bool,
        /// Restore although the live secret is sealed or damaged. Its file is kept under another name.
        #[arg(long)]
        replace_sealed: bool,
        /// The key id of the backup's newest generation, as an exported status has it. Required for a backup
        /// for a recipient whose newest secret is not a live one: the public key does not show who wrote the
        /// backup.
        #[arg(long, value_name = "HEX")]
        key_id: Option<String>,
        /// How long nodes may need the live generations, in hours.
        #[arg(long, value_name = "H", default_value_t = 168, value_parser = clap::value_parser!(u64).range(0..=8760))]
        overlap_h: u64,
        #[command(flatten)]
        place: PlaceArgs,
    },
    /// Rehearse a restore: restore a backup into a scratch folder and prove that it opens what the live
    /// secret sealed
    Drill {
        /// The backup.
        file: PathBuf,
        #[command(flatten)]
        key: BackupKeyArgs,
        /// The folder in which the scratch folder is made [default: the folder of the secret]
        #[arg(long, value_name = "DIR", conflicts_with = "socket")]
        scratch: Option<PathBuf>,
        #[command(flatten)]
        place: PlaceArgs,
    },
    /// Declare a copied data folder to be the one that lives. Remove the other one
    Adopt(ConfigOnly),
    /// Write the public facts of the secret as JSON: generations, key identifiers, times
    ExportPublicStatus {
        /// The file to create; - for standard output.
        #[arg(default_value = "-")]
        file: PathBuf,
        #[command(flatten)]
        config: ConfigArg,
    },
    /// Take over the secret of an existing server: from its interface, or from a file of 16 octets
    #[command(
        after_help = "Example:\n  rcmpd sso secret import --from-server sso1.contoso.example \\\n      --user ssoadmin --domain CONTOSO --password-file password.txt -c FILE"
    )]
    Import {
        /// A file with the 16 octets, or 32 hexadecimal digits; - for standard input.
        #[arg(required_unless_present = "from_server")]
        file: Option<PathBuf>,
        /// The server to ask. Without a port, the port is looked up at its endpoint mapper on port 135.
        #[arg(long, value_name = "HOST[:PORT]", conflicts_with = "file")]
        from_server: Option<String>,
        #[command(flatten)]
        client: OptionalClientArgs,
        /// How long nodes may need the previous generation, in hours.
        #[arg(long, value_name = "H", default_value_t = 168, value_parser = clap::value_parser!(u64).range(0..=8760))]
        overlap_h: u64,
        #[command(flatten)]
        config: ConfigArg,
        #[command(flatten)]
        json: JsonArg,
    },
    /// Get the secret from a server, as a node of the farm does
    ///
    /// The secret is never printed: it is written to a new file of mode 0600, to a file descriptor, or to the
    /// sealed cache of the node.
    #[command(
        after_help = "Exit codes: 0 delivered, 2 wrong use, 3 the server returned a code (it is printed), 4 no server answered, and no cached key may be used, 5 not authenticated or access denied by a fault, 6 unusable input, 7 the server's answer breaks the protocol, or, without --server, no cached key may be used.\n\nIf several servers are given, the next one is asked only if nothing was answered.\n\nExample:\n  rcmpd sso secret get --server sso1.contoso.example \\\n      --server sso2.contoso.example --user ssoadmin \\\n      --password-file password.txt --output master.key"
    )]
    Get(GetArgs),
}

/// Commands that take a configuration alone.
#[derive(Args, Debug)]
pub struct ConfigOnly {
    #[command(flatten)]
    pub config: ConfigArg,
    #[command(flatten)]
    pub json: JsonArg,
}

/// Where the secret is.
#[derive(Args, Clone, Debug)]
#[command(group(ArgGroup::new("place").args(["config", "socket"]).required(true).multiple(true)))]
pub struct PlaceArgs {
    /// The configuration file. If you are not the owner of the secret's folder, the running service is asked
    /// at sso.operator_socket.
    #[arg(short, long, value_name = "FILE", env = "RCMPD_CONFIG", hide_env_values = true)]
    pub config: Option<PathBuf>,
    /// Ask the running service at this socket, whatever the configuration says.
    #[arg(long, value_name = "PATH")]
    pub socket: Option<PathBuf>,
    #[command(flatten)]
    pub json: JsonArg,
}

/// What opens a backup.
#[derive(Args, Clone, Debug)]
#[command(group(ArgGroup::new("opens").args(["passphrase_file", "key_file"]).required(true)))]
pub struct BackupKeyArgs {
    /// A file with the passphrase of the backup, in one line; - for standard input.
    #[arg(long, value_name = "F")]
    pub passphrase_file: Option<PathBuf>,
    /// A key file of `rcmpd sso secret seal-key`, or of `rcmpd sso recipient` for a backup with a recipient.
    #[arg(long, value_name = "F")]
    pub key_file: Option<PathBuf>,
}

/// What a backup is encrypted with.
#[derive(Args, Clone, Debug)]
#[command(group(ArgGroup::new("encrypts").args(["passphrase_file", "key_file", "recipient"]).required(true)))]
pub struct BackupToArgs {
    /// A file with the passphrase of the backup, in one line; - for standard input.
    #[arg(long, value_name = "F")]
    pub passphrase_file: Option<PathBuf>,
    /// A key file of `rcmpd sso secret seal-key`.
    #[arg(long, value_name = "F")]
    pub key_file: Option<PathBuf>,
    /// The public key of `rcmpd sso recipient`, or a file with it. Only the private key opens the backup.
    #[arg(long, value_name = "TEXT|F")]
    pub recipient: Option<String>,
    /// The backup is for a node, which learns older keys from it. It does not count as a backup of the
    /// server.
    #[arg(long, requires = "recipient", conflicts_with_all = ["passphrase_file", "key_file"])]
    pub for_node: bool,
}

/// How a client authenticates.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum MechanismArg {
    /// NTLM, with a password.
    #[default]
    Ntlm,
    /// Kerberos, with a credential cache.
    Kerberos,
    /// SPNEGO: Kerberos if there is a credential cache, and NTLM if there is a password.
    Spnego,
}

/// Who asks, where that is not needed.
#[derive(Args, Clone, Debug)]
pub struct OptionalClientArgs {
    /// The user.
    #[arg(long, value_name = "NAME")]
    pub user: Option<String>,
    /// The user's domain; empty for an account of the server's own.
    #[arg(long, value_name = "D", default_value = "")]
    pub domain: String,
    /// A file with the user's password, in one line; - for standard input.
    #[arg(long, value_name = "F", requires = "user")]
    pub password_file: Option<PathBuf>,
    /// How to authenticate.
    #[arg(long, value_enum, default_value_t)]
    pub auth: MechanismArg,
    /// The credential cache of Kerberos [default: $KRB5CCNAME, if it is a file]
    #[arg(long, value_name = "FILE")]
    pub ccache: Option<PathBuf>,
    /// The principal of the service [default: host/ and the name of the server]
    #[arg(long, value_name = "NAME")]
    pub spn: Option<String>,
    /// The KDC to ask for a service ticket that is not in the cache.
    #[arg(long, value_name = "HOST[:PORT]")]
    pub kdc: Option<String>,
    /// How long to wait for an answer, in seconds.
    #[arg(long, default_value_t = 10, value_name = "S", value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub timeout: u64,
}

/// Arguments of `rcmpd sso secret get`.
#[derive(Args, Debug)]
pub struct GetArgs {
    /// The server; repeat for others. Without a port, the port is looked up at its endpoint mapper on port
    /// 135. Without a server, the newest cached key is written, and nothing is asked: that needs --cache and
    /// --output or --fd.
    #[arg(long, value_name = "HOST[:PORT]", required_unless_present = "cache")]
    pub server: Vec<String>,
    #[command(flatten)]
    pub client: OptionalClientArgs,
    /// Write the 16 octets to this file, which must not exist; it gets mode 0600.
    #[arg(long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Write the 16 octets to this file descriptor.
    #[arg(long, value_name = "N", conflicts_with = "output", value_parser = clap::value_parser!(i32).range(3..))]
    pub fd: Option<i32>,
    /// Keep the secret in the sealed cache of this node.
    #[arg(long, value_name = "FILE", requires = "unseal")]
    pub cache: Option<PathBuf>,
    /// What the cache is sealed with, as in seal of [sso]: file:PATH, cred:NAME, passphrase: and one of
    /// these, shares:FOLDER, or a pkcs11: URI.
    #[arg(long, value_name = "REF", requires = "cache")]
    pub unseal: Option<String>,
    /// How long a cached key is used while no server answers, in hours.
    #[arg(long, value_name = "H", default_value_t = 24, value_parser = clap::value_parser!(u64).range(1..=8760))]
    pub max_age_h: u64,
    /// How long an older key is kept after a newer one came, in hours.
    #[arg(long, value_name = "H", default_value_t = 168, value_parser = clap::value_parser!(u64).range(1..=8760))]
    pub overlap_h: u64,
    /// Ask again every 30 seconds, and keep the cache current. Needs --cache.
    #[arg(long, requires_all = ["cache", "server"])]
    pub watch: bool,
    #[command(flatten)]
    pub json: JsonArg,
}
