//! Why a secured message is refused: for the log alone.

use crate::parse::XmlError;
use std::time::Duration;

/// Why a message is refused. It holds no content of the message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// The octets, or decrypted ones, are no XML that is read.
    #[error("{0}")]
    Xml(#[from] XmlError),
    /// An element is missing, stands twice, or is not of the shape that is read.
    #[error("the shape of {0} is not accepted")]
    Shape(&'static str),
    /// An id stands twice, or an attribute claims to be one in another namespace.
    #[error("ids are ambiguous")]
    Id,
    /// An algorithm is not that of the suite.
    #[error("the algorithm of {0} is not that of the suite")]
    Algorithm(&'static str),
    /// A reference leads to nothing, or to something else than it may.
    #[error("the reference of {0} does not resolve")]
    Reference(&'static str),
    /// The keys' owner refused to give a key.
    #[error("there is no key for {0}")]
    Key(&'static str),
    /// A limit of this crate.
    #[error("too many {0}")]
    TooMany(&'static str),
    /// Padding or size of encrypted octets.
    #[error("decryption failed")]
    Decryption,
    /// What was signed is not what is there.
    #[error("a digest does not match")]
    Digest,
    /// The signature itself.
    #[error("a signature does not match")]
    Signature,
    /// What has to be signed or encrypted is not.
    #[error("{0} is not protected")]
    NotProtected(&'static str),
    /// A value uses a prefix that is bound outside of what is signed and encrypted.
    #[error("a value in the body uses a prefix that is bound outside of the body's content")]
    UnsignedPrefix,
    /// `u:Created` or `u:Expires` is outside of the window; how far the message's clock seems to be off.
    #[error("timestamp rejected: {problem}, clock offset {}{} s", if *.from_future { "+" } else { "-" },
        .offset.as_secs())]
    Timestamp {
        /// Which rule it breaks.
        problem: &'static str,
        /// Distance between `u:Created` and now.
        offset: Duration,
        /// Whether `u:Created` is later than now.
        from_future: bool,
    },
    /// The reply confirms other signatures than the request had.
    #[error("the signature confirmation does not match the request")]
    Confirmation,
}
