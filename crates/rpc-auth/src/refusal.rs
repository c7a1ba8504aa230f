use dtyp::DecodeError;

/// Why a user was not authenticated. The peer learns none of it; the audit log has all of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The reason, one word for the audit record and the metrics.
    pub reason: RefusalReason,
    /// Facts for the log, for instance `etype=18/23` or the measured clock skew. Never a secret.
    pub detail: String,
}

impl Refusal {
    /// A refusal with its facts.
    pub fn new(reason: RefusalReason, detail: impl Into<String>) -> Self {
        Self { reason, detail: detail.into() }
    }

    /// The refusal of a token that cannot be read.
    pub(crate) fn malformed(error: DecodeError) -> Self {
        Self::new(RefusalReason::Token, error.to_string())
    }
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.reason.as_str(), self.detail)
    }
}

impl std::error::Error for Refusal {}

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident = $word:literal,)+) => {
        /// The reasons, and their words in the audit log and in metrics.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum RefusalReason {
            $($(#[$doc])* $name,)+
        }

        impl RefusalReason {
            #[cfg(test)]
            const ALL: &[Self] = &[$(Self::$name),+];

            /// The word in audit records and metrics.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => $word,)+
                }
            }
        }
    };
}

reasons! {
    /// A token is malformed, or comes out of turn.
    Token = "token",
    /// A flag that this acceptor requires is missing in one of the messages, or one that it refuses is set.
    Flags = "flags",
    /// The client is anonymous or asks for a guest.
    Anonymous = "anonymous",
    /// The MIC of an NTLM AUTHENTICATE message is wrong or missing.
    Mic = "mic",
    /// The mechListMIC of SPNEGO is wrong or missing.
    ListMic = "list-mic",
    /// The proof of the password is wrong, or the account is unknown, disabled, expired or without a hash.
    Proof = "proof",
    /// The names or the time of the CHALLENGE were not repeated unchanged.
    TargetInfo = "target-info",
    /// The ticket's or the session key's encryption type is not accepted.
    Etype = "etype",
    /// No key of the ticket's version is held.
    Kvno = "kvno",
    /// The ticket is for a service that is not this one.
    Spn = "spn",
    /// A part of the ticket or authenticator does not decrypt.
    Decrypt = "decrypt",
    /// The client's clock differs too much.
    Skew = "skew",
    /// The ticket is not yet or no longer valid.
    TicketTime = "ticket-time",
    /// The same authenticator was seen before.
    Replay = "replay",
    /// The client's realm may not authenticate here.
    Realm = "realm",
    /// A foreign client without SIDs whose transited realms the KDC did not check.
    Transited = "transited",
    /// The PAC is missing where one is required, malformed, or its signature is wrong.
    Pac = "pac",
    /// The PAC has no logon information, in a realm where it must.
    PacWithoutLogonInfo = "pac-without-logon-info",
    /// The level of protection is below what the service requires, or was not negotiated by the mechanism.
    Level = "level",
    /// The client's channel bindings do not fit.
    ChannelBindings = "channel-bindings",
    /// No mechanism that both sides speak.
    Mechanism = "mechanism",
    /// The proof could not be checked: no domain controller, or the store failed.
    Unavailable = "unavailable",
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_has_a_word_of_its_own() {
        for (at, reason) in RefusalReason::ALL.iter().enumerate() {
            let word = reason.as_str();
            assert!(word.bytes().all(|c| c.is_ascii_lowercase() || c == b'-') && !word.is_empty(), "{word}");
            let first = RefusalReason::ALL.iter().position(|other| other.as_str() == word);
            assert_eq!(first, Some(at), "{word}");
        }
    }
}
