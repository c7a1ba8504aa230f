//! What an operator does with the master secret: the same on the files, for their owner, and by the socket of
//! the service.

use crate::config::{SealRef, Sso};
use anyhow::{Context, bail};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Value, json};
use sso_secret::backup::Backup;
use sso_secret::share::{Share, ShareFolder, SharesThere};
use sso_secret::{
    HeldKey, KeyId, Overlap, Passphrase, Recipient, RecipientKey, RestoreRules, SealingSource, SecretStore,
    SourceKind, UnixTime,
};
use std::path::PathBuf;
use std::time::Duration;
use zeroize::Zeroizing;

/// How long nodes may need the previous generation, in hours, where a rotation does not say it: a week.
const OVERLAP_H: u64 = 168;
/// The longest overlap: a year.
const OVERLAP_H_MAX: u64 = 8760;

/// What is to be done.
#[derive(Deserialize, Serialize)]
#[serde(tag = "command", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Operation {
    /// Reads the public facts.
    Status,
    /// Draws the first secret.
    Generate,
    /// Draws a new generation.
    Rotate {
        /// How long older generations stay; `None` for a week, and older ones as they are.
        overlap_h: Option<u64>,
    },
    /// Makes a backup.
    Backup {
        /// What it is encrypted with.
        key: BackupKey,
        /// Whether it is for a node, and does not count as a backup of the server.
        for_node: bool,
    },
    /// Restores a backup.
    Restore {
        /// The backup.
        backup: Octets,
        /// What opens it.
        key: BackupKey,
        /// See [`RestoreRules`].
        allow_older: bool,
        /// See [`RestoreRules`].
        allow_foreign: bool,
        /// See [`RestoreRules`].
        replace_sealed: bool,
        /// See [`RestoreRules`]: hexadecimal digits.
        key_id: Option<String>,
        /// How long the live generations stay.
        overlap_h: u64,
    },
    /// Rehearses a restore.
    Drill {
        /// The backup.
        backup: Octets,
        /// What opens it.
        key: BackupKey,
        /// Where the scratch folder is made; `None` for the folder of the secret.
        #[serde(skip)]
        scratch: Option<PathBuf>,
    },
    /// Adds a share of the sealing key.
    Unseal {
        /// The text of the share.
        share: SecretText,
    },
}

/// For which user an operation is done.
#[derive(Clone, Copy, Debug)]
pub enum Right<'a> {
    /// The owner of the data folder, or root: they can change the files themselves.
    Owner,
    /// A user who asks by the socket, with the recipients for which backups may be made.
    Operator(&'a [Recipient]),
}

/// Keeps a backup.
pub type Keep<'a> = &'a mut dyn FnMut(&[u8]) -> anyhow::Result<()>;

/// What was done.
#[derive(Default, Deserialize, Serialize)]
pub struct Done {
    /// The public facts afterwards.
    pub status: Value,
    /// The backup that was made. The client keeps it, says so, and gets another answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backup: Option<Octets>,
    /// Shares that are there now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shares: Option<Shares>,
    /// Shares that do not help, each with what is wrong.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub findings: Vec<String>,
}

/// Shares of a sealing key.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub struct Shares {
    /// How many are there.
    pub have: usize,
    /// How many are needed.
    pub need: u8,
    /// Whether this one was not there already.
    pub is_new: bool,
}

impl From<SharesThere> for Shares {
    fn from(SharesThere { have, need, is_new }: SharesThere) -> Self {
        Self { have, need, is_new }
    }
}

/// What a backup is encrypted with or opened by. All but the recipient is secret.
#[derive(Deserialize, Serialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum BackupKey {
    /// A passphrase.
    Passphrase(SecretText),
    /// The 32 octets of a key file.
    Key {
        /// The name of the file.
        name: String,
        /// The octets, in Base64.
        octets: SecretText,
    },
    /// The text of a public key. It opens nothing.
    Recipient(String),
}

/// Text that wipes itself.
#[derive(Clone)]
pub struct SecretText(pub Zeroizing<String>);

impl Serialize for SecretText {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for SecretText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(|text| Self(Zeroizing::new(text)))
    }
}

/// A backup, in Base64 where it is text.
pub struct Octets(pub Vec<u8>);

impl Serialize for Octets {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Octets {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        STANDARD.decode(text).map(Self).map_err(|_| D::Error::custom("this is not Base64"))
    }
}

impl BackupKey {
    /// The key of a file.
    pub fn of_file(path: &std::path::Path) -> anyhow::Result<Self> {
        let key = HeldKey::read(path).map_err(|error| anyhow::anyhow!("{} {error}", path.display()))?;
        let octets = SecretText(Zeroizing::new(STANDARD.encode(key.expose())));
        Ok(Self::Key { name: key.name(), octets })
    }

    /// What encrypts a new backup.
    fn to_encrypt(&self) -> anyhow::Result<Box<dyn SealingSource>> {
        Ok(match self {
            Self::Passphrase(text) => Box::new(Passphrase::typed(text.0.clone())),
            Self::Key { name, octets } => Box::new(held(name, octets)?),
            Self::Recipient(text) => Box::new(recipient(text)?),
        })
    }

    /// What opens a backup: the 32 octets of a file are a key, or the private key of a recipient, as the
    /// backup says.
    pub fn to_open(&self, backup: &[u8]) -> anyhow::Result<Box<dyn SealingSource>> {
        Ok(match self {
            Self::Passphrase(text) => Box::new(Passphrase::typed(text.0.clone())),
            Self::Key { name, octets } => {
                let key = held(name, octets)?;
                match Backup::read(backup)?.key_header().kind {
                    SourceKind::Recipient => Box::new(RecipientKey::from(key)),
                    _ => Box::new(key),
                }
            }
            Self::Recipient(_) => bail!("a public key opens no backup: give the private key"),
        })
    }
}

fn held(name: &str, octets: &SecretText) -> anyhow::Result<HeldKey> {
    let octets = STANDARD.decode(&*octets.0).map(Zeroizing::new).ok();
    let octets = octets.as_deref().and_then(|octets| <&[u8; 32]>::try_from(octets.as_slice()).ok());
    octets.map(|octets| HeldKey::new(name, octets)).context("a key file has 32 octets")
}

fn recipient(text: &str) -> anyhow::Result<Recipient> {
    Recipient::parse(text)
        .context("this is no recipient: `rcmpd sso recipient` prints one, as in rcmpd-recipient-1:…")
}

impl Operation {
    /// The word of the command, for the audit log.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Status => "status",
            Self::Generate => "generate",
            Self::Rotate { .. } => "rotate",
            Self::Backup { .. } => "backup",
            Self::Restore { .. } => "restore",
            Self::Drill { .. } => "drill",
            Self::Unseal { .. } => "unseal",
        }
    }

    /// Whether a user with this right may have it done. The right to change the secret is not the right to
    /// obtain it, or to choose it: the only place that decides so.
    fn check(&self, right: Right<'_>) -> anyhow::Result<()> {
        let Right::Operator(recipients) = right else { return Ok(()) };
        match self {
            Self::Backup { for_node: true, .. } => {
                bail!(
                    "a backup for a node is for the owner of the data folder and root: use -c on the server"
                )
            }
            Self::Backup { key: BackupKey::Recipient(text), .. } => {
                match recipients.contains(&recipient(text)?) {
                    true => Ok(()),
                    false => bail!(
                        "an operator backs up for a recipient of sso.backup_recipients, and this is none: give one of those, or have \
                         this one added to the configuration"
                    ),
                }
            }
            Self::Backup { .. } => bail!(
                "the operator could open a backup with a passphrase or key file, and so obtain the master secret: give --recipient with \
                 one of sso.backup_recipients"
            ),
            Self::Restore { allow_foreign: true, .. } | Self::Restore { replace_sealed: true, .. } => bail!(
                "--allow-foreign and --replace-sealed are for the owner of the data folder and root: use -c on the server"
            ),
            _ => Ok(()),
        }
    }

    /// What the audit log says of it beside the command. No secret.
    pub fn facts(&self) -> Value {
        let key_ids = |backup: &Octets| {
            let read = Backup::read(&backup.0).ok();
            read.map(|read| read.generations().iter().map(|it| it.key_id.to_string()).collect::<Vec<_>>())
        };
        match self {
            Self::Status | Self::Generate | Self::Unseal { .. } => json!({}),
            Self::Rotate { overlap_h } => json!({ "overlap_h": overlap_h }),
            Self::Backup { key, for_node, .. } => json!({
                "recipient": match key {
                    // Text of another form may be anything that the client sent.
                    BackupKey::Recipient(text) => Recipient::parse(text).map(|recipient| recipient.to_string()),
                    BackupKey::Passphrase(_) | BackupKey::Key { .. } => None,
                },
                "for_node": for_node,
            }),
            Self::Restore { backup, allow_older, allow_foreign, replace_sealed, overlap_h, .. } => json!({
                "allow_older": allow_older,
                "allow_foreign": allow_foreign,
                "replace_sealed": replace_sealed,
                "overlap_h": overlap_h,
                "key_ids": key_ids(backup),
            }),
            Self::Drill { backup, .. } => json!({ "key_ids": key_ids(backup) }),
        }
    }

    /// Does it. `keep` keeps a backup that was made, which is noted only then. Blocks.
    pub fn perform(
        &self,
        store: &SecretStore,
        section: &Sso,
        right: Right<'_>,
        keep: Keep<'_>,
    ) -> anyhow::Result<Done> {
        self.check(right)?;
        let now = UnixTime::now();
        let mut done = Done::default();
        match self {
            Self::Status => {}
            Self::Generate => drop(store.generate(now)?),
            Self::Rotate { overlap_h } => {
                let time = hours(overlap_h.unwrap_or(OVERLAP_H))?;
                store.rotate(now, Overlap { time, shorten_older: overlap_h.is_some() })?;
            }
            Self::Backup { key: BackupKey::Recipient(text), for_node: true, .. } => {
                keep(&store.backup_for_node(recipient(text)?, now)?)?;
            }
            Self::Backup { for_node: true, .. } => {
                bail!("a backup for a node needs the recipient of the node")
            }
            Self::Backup { key, .. } => {
                let (bytes, made) = store.make_backup(&*key.to_encrypt()?, now)?;
                keep(&bytes)?;
                store.note_backup(&made)?;
            }
            Self::Restore { backup, key, allow_older, allow_foreign, replace_sealed, key_id, overlap_h } => {
                let parsed = |id: &String| KeyId::parse(id).context("a key id has 16 hexadecimal digits");
                let rules = RestoreRules {
                    allow_older: *allow_older,
                    allow_foreign: *allow_foreign,
                    replace_sealed: *replace_sealed,
                    key_id: key_id.as_ref().map(parsed).transpose()?,
                    live_only: matches!(right, Right::Operator(_)),
                };
                let key = key.to_open(&backup.0)?;
                store.restore(&backup.0, &*key, now, hours(*overlap_h)?, rules)?;
            }
            Self::Drill { backup, key, scratch } => {
                let scratch = scratch.as_ref().unwrap_or(&section.folder);
                store.drill(&backup.0, &*key.to_open(&backup.0)?, scratch, now)?;
            }
            Self::Unseal { share } => {
                let SealRef::Shares(folder) = &section.seal else {
                    bail!("the secret is not sealed by shares: [sso] seal names another source");
                };
                let folder = ShareFolder::new(folder);
                done.shares = Some(folder.add(&Share::parse(&share.0)?)?.into());
                store.reload();
                done.findings = folder.findings();
            }
        }
        done.status = serde_json::to_value(store.status())?;
        Ok(done)
    }
}

/// An overlap.
fn hours(hours: u64) -> anyhow::Result<Duration> {
    match hours <= OVERLAP_H_MAX {
        true => Ok(Duration::from_secs(hours * 3600)),
        false => bail!("an overlap has at most {OVERLAP_H_MAX} hours"),
    }
}
