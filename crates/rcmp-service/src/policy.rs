//! What the operator allows. A policy is a value; whoever reloads replaces it whole.

use crate::message::MappingFlags;
use dtyp::Sid;
use std::fmt;

/// Rules by which a certificate may become an account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Methods that may be used, when the client asks for them too.
    pub methods: MappingFlags,
    /// How strongly a certificate must be bound to its account.
    pub binding: Binding,
    /// What the service verifies itself.
    pub validation: Validation,
    /// Whether the client learns that an account is disabled, locked, expired or outside its hours. Otherwise it learns as
    /// much as if there were no account.
    pub tell_restrictions: bool,
    /// The extra SID that says who saw the proof of possession; S-1-18-2, because it was the client and not we.
    pub identity_sid: Option<Sid>,
    /// Changes with every reload; every answer carries it.
    pub revision: u64,
}

/// `StrongCertificateBindingEnforcement` ([MS-PKCA] 3.1.5.2.1.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Binding {
    /// A weak mapping is enough.
    Off,
    /// A weak mapping is enough for certificates that are not older than their account.
    Compat,
    /// A strong mapping is needed.
    Full,
}

/// What the service verifies before it believes a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Validation {
    /// Nothing: the client has done it.
    Off,
    /// The chain to a configured anchor.
    Chain,
    /// The chain, and that nothing in it is revoked.
    ChainAndRevocation,
}

/// A policy asks for what this version cannot enforce. To go on without it would be to lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unsupported {
    /// Only `off` can be enforced.
    Binding(Binding),
    /// Only `off` can be enforced.
    Validation(Validation),
}

impl fmt::Display for Unsupported {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (what, asked) = match self {
            Self::Binding(Binding::Full) => ("binding", "full"),
            Self::Binding(_) => ("binding", "compat"),
            Self::Validation(Validation::ChainAndRevocation) => ("validation", "chain+crl"),
            Self::Validation(_) => ("validation", "chain"),
        };
        write!(f, "{what} = \"{asked}\" cannot be enforced by this version; only {what} = \"off\" can")
    }
}

impl std::error::Error for Unsupported {}

impl Policy {
    /// Whether this version enforces all that the policy asks for.
    pub const fn check(&self) -> Result<(), Unsupported> {
        match (self.binding, self.validation) {
            (Binding::Off, Validation::Off) => Ok(()),
            (Binding::Off, validation) => Err(Unsupported::Validation(validation)),
            (binding, _) => Err(Unsupported::Binding(binding)),
        }
    }
}
