//! What an operator configures.

use super::{CopySettings, Encoding};
use std::path::PathBuf;
use std::time::Duration;

/// Settings of the audit log.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Settings {
    /// The file of JSON lines.
    pub path: Option<PathBuf>,
    /// Whether a decision that cannot be logged is refused.
    pub required: bool,
    /// Whether certificates are logged, each with its first decision in a file.
    pub certificates: bool,
    /// Whether each line carries the hash of the one before it.
    pub chain: bool,
    /// Signed checkpoints of the chain.
    pub heads: Option<CheckpointSettings>,
    /// Limit of bytes that one account may log in an hour, if `required`; 0 for no limit.
    pub account_budget: u64,
    /// Who receives copies of lines.
    pub copies: Vec<CopySettings>,
    /// How copies by OTLP are written, if there are any.
    pub otlp: Option<Encoding>,
}

/// Settings of signed checkpoints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckpointSettings {
    /// The file of signed checkpoints.
    pub path: PathBuf,
    /// The file of the key that signs them.
    pub key: PathBuf,
    /// The interval of checkpoints.
    pub interval: Duration,
}
