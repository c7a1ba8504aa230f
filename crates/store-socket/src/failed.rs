//! Why a question was not answered. Never a decision: each of these becomes [`StoreError`].

use account_store::StoreError;

/// Why the program did not answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Failed {
    /// The socket cannot be reached, or another user may have made it.
    #[error("store: connect: {0}")]
    Connect(String),
    /// The program runs as another user than configured.
    #[error("store: peer: {0}")]
    Peer(String),
    /// The program speaks another version, or has the accounts of another domain.
    #[error("store: hello: {0}")]
    Hello(String),
    /// The deadline is over.
    #[error("store: timeout: no answer in time")]
    Timeout,
    /// The program closed the connection before an answer began.
    #[error("store: connection: {0}")]
    Connection(String),
    /// What the program sent breaks the protocol.
    #[error("store: protocol: {0}")]
    Protocol(String),
    /// The program says that it cannot answer.
    #[error("store: program: {0}")]
    Program(String),
    /// An account in the answer breaks the rules of accounts.
    #[error("store: data: {0}")]
    Data(String),
    /// Too many questions.
    #[error("store: busy: {0}")]
    Busy(String),
}

impl Failed {
    /// Whether the connection is closed: what comes next over it is not known.
    pub(crate) const fn ends_connection(&self) -> bool {
        !matches!(self, Self::Program(_) | Self::Data(_))
    }

    /// The step that failed, as a label.
    pub(crate) const fn step(&self) -> &'static str {
        match self {
            Self::Connect(_) => "connect",
            Self::Peer(_) => "peer",
            Self::Hello(_) => "hello",
            Self::Timeout => "timeout",
            Self::Connection(_) => "connection",
            Self::Protocol(_) => "protocol",
            Self::Program(_) => "program",
            Self::Data(_) => "data",
            Self::Busy(_) => "busy",
        }
    }
}

impl From<Failed> for StoreError {
    fn from(failed: Failed) -> Self {
        match &failed {
            Failed::Data(_) => Self::Damaged(failed.to_string()),
            _ => Self::Unavailable(failed.to_string()),
        }
    }
}

/// A text of the program as a part of an error: short, and without characters that a terminal obeys.
pub(crate) fn quoted(text: &str) -> String {
    const LEN_MAX: usize = 200;
    text.chars().take(LEN_MAX).flat_map(char::escape_debug).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_of_the_program_are_short_and_harmless() {
        let told = quoted(&format!("\u{1b}[2J\n{}", "a".repeat(5000)));
        assert!(told.starts_with("\\u{1b}[2J\\na") && told.len() < 300, "{told}");
    }
}
