//! Why a question was not answered. Never a decision: each of these becomes [`StoreError`].

use account_store::StoreError;

/// Why the directory did not answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Failed {
    /// No server is known, or none can be reached.
    #[error("store: connect: {0}")]
    Connect(String),
    /// TLS could not be made, or the certificate is not that of the server.
    #[error("store: tls: {0}")]
    Tls(String),
    /// The directory does not accept the store's own account.
    #[error("store: bind: {0}")]
    Bind(String),
    /// The directory accepts the store's own account, which may not read what the store needs.
    #[error("store: bind: {0}")]
    Rights(String),
    /// A deadline is over.
    #[error("store: timeout: {0}")]
    Timeout(String),
    /// The connection ended, or what came over it is no LDAP.
    #[error("store: connection: {0}")]
    Connection(String),
    /// The server is there and refuses all work for now (result 51 or 52).
    #[error("store: server: {0}")]
    Server(String),
    /// A result other than success.
    #[error("store: search: {0}")]
    Search(String),
    /// What the directory holds, or lets the store read, is not enough for an answer.
    #[error("store: data: {0}")]
    Data(String),
    /// An entry that was there a moment ago is gone or is another one: ask once more.
    #[error("store: data: an entry changed while it was read")]
    Changed,
}

impl Failed {
    /// The server sends no more than so many entries, whatever it is asked for.
    pub(crate) fn server_limit(sent: usize) -> Self {
        Self::Search(format!(
            "sizeLimitExceeded (4): the server sends at most {sent} entries; raise its limit for the store's account"
        ))
    }

    /// Whether another server, or another connection, may do better.
    pub(crate) const fn is_of_server(&self) -> bool {
        matches!(
            self,
            Self::Connect(_) | Self::Tls(_) | Self::Timeout(_) | Self::Connection(_) | Self::Server(_)
        )
    }

    /// The step that failed, as a label.
    pub(crate) const fn step(&self) -> &'static str {
        match self {
            Self::Connect(_) => "connect",
            Self::Tls(_) => "tls",
            Self::Bind(_) | Self::Rights(_) => "bind",
            Self::Timeout(_) => "timeout",
            Self::Connection(_) => "connection",
            Self::Server(_) => "server",
            Self::Search(_) => "search",
            Self::Data(_) | Self::Changed => "data",
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

/// The name of a result code (RFC 4511 4.1.9).
pub(crate) fn code_name(code: u32) -> String {
    let name = match code {
        0 => "success",
        1 => "operationsError",
        2 => "protocolError",
        3 => "timeLimitExceeded",
        4 => "sizeLimitExceeded",
        7 => "authMethodNotSupported",
        8 => "strongerAuthRequired",
        10 => "referral",
        11 => "adminLimitExceeded",
        12 => "unavailableCriticalExtension",
        13 => "confidentialityRequired",
        14 => "saslBindInProgress",
        16 => "noSuchAttribute",
        17 => "undefinedAttributeType",
        18 => "inappropriateMatching",
        21 => "invalidAttributeSyntax",
        32 => "noSuchObject",
        33 => "aliasProblem",
        34 => "invalidDNSyntax",
        36 => "aliasDereferencingProblem",
        48 => "inappropriateAuthentication",
        49 => "invalidCredentials",
        50 => "insufficientAccessRights",
        51 => "busy",
        52 => "unavailable",
        53 => "unwillingToPerform",
        80 => "other",
        _ => return format!("result {code}"),
    };
    format!("{name} ({code})")
}

/// The code in the text of a refused bind of Active Directory or Samba ([MS-ERREF]): `data`, and hex digits.
fn data(text: &str) -> Option<&str> {
    let (_, rest) = text.split_once("data ")?;
    rest.split(|c: char| !c.is_ascii_hexdigit()).next()
}

/// What Active Directory and Samba say in a refused bind, in words.
pub(crate) fn bind_reason(code: u32, text: &str) -> String {
    let words = match data(text) {
        Some("525") => "there is no such account",
        Some("52e") => "wrong password or name of the account",
        Some("530") => "the account may not log on at this hour",
        Some("531") => "the account may not log on from this server",
        Some("532") => "the password of the account has expired",
        Some("533") => "the account is disabled",
        Some("701") => "the account has expired",
        Some("773") => "the password of the account must be changed",
        Some("775") => "the account is locked",
        _ => "",
    };
    match (words, text) {
        ("", "") => code_name(code),
        ("", text) => format!("{}: {text}", code_name(code)),
        (words, _) => format!("{}: {words}", code_name(code)),
    }
}

/// Whether a refused bind counts as a wrong password at the directory, so that a few of them lock the
/// account.
pub(crate) fn counts_as_wrong_password(code: u32, text: &str) -> bool {
    let is_other = matches!(data(text), Some("525" | "530" | "531" | "532" | "533" | "701" | "773" | "775"));
    code == 49 && !is_other
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refused_binds_are_told_in_words() {
        let text = |data: &str| {
            format!(
                "80090308: LdapErr: DSID-0C090439, comment: AcceptSecurityContext error, data {data}, v4563"
            )
        };
        for (data, words, counts) in [
            ("52e", "wrong password", true),
            ("532", "password of the account has expired", false),
            ("533", "disabled", false),
            ("701", "the account has expired", false),
            ("773", "must be changed", false),
            ("775", "locked", false),
        ] {
            assert!(bind_reason(49, &text(data)).contains(words), "{data}");
            assert_eq!(counts_as_wrong_password(49, &text(data)), counts, "{data}");
        }
        assert_eq!(bind_reason(49, ""), "invalidCredentials (49)");
        assert!(counts_as_wrong_password(49, "") && !counts_as_wrong_password(8, ""));
    }
}
