use dtyp::{FileTime, Sid};

/// The user whom a security context proved. It counts only once a request was verified under the context.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserIdentity {
    /// The account's name as its source gives it: `sAMAccountName`, or the first components of the principal.
    pub name: String,
    /// The NetBIOS domain (NTLM) or the realm (Kerberos) that the account belongs to; empty for the local store.
    pub domain: String,
    /// The account's own SID. `None` if the ticket had no PAC with one.
    pub sid: Option<Sid>,
    /// SIDs of all groups: primary group, domain groups, extra SIDs, resource groups.
    pub groups: Vec<Sid>,
    /// Where name and SIDs come from.
    pub source: IdentitySource,
    /// The password that the user proved to the local store; `None` from every other source.
    pub password: Option<PasswordMark>,
    /// Services through which the ticket was delegated (S4U2Proxy, PAC buffer 11), in their order; empty if it was
    /// not delegated.
    pub delegated_by: Vec<String>,
    /// When the context ends: the end of the ticket. `None` if the mechanism sets no end (NTLM).
    pub expires: Option<FileTime>,
}

impl UserIdentity {
    /// Whether a service acts for the user: the ticket was delegated, or a service alone vouches for the user (S-1-18-2).
    pub fn is_delegated(&self) -> bool {
        !self.delegated_by.is_empty() || self.groups.contains(&Sid::SERVICE_ASSERTED_IDENTITY)
    }
}

/// Stands for a password of the local store, to notice that it was changed or removed: a digest of the NT hash under a
/// key that the process alone has.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct PasswordMark(pub [u8; 32]);

impl std::fmt::Debug for PasswordMark {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PasswordMark")
    }
}

/// What vouches for a [`UserIdentity`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IdentitySource {
    /// An NTLM proof that was checked against the local store.
    LocalStore,
    /// An NTLM proof that a domain controller checked.
    DomainController {
        /// The NetBIOS name of the domain that was asked.
        domain: String,
    },
    /// A Kerberos ticket.
    Ticket {
        /// The principal of the keytab entry whose key opened the ticket.
        keytab_principal: String,
    },
}
