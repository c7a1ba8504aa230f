use dcerpc::security::Account;
use dtyp::{FileTime, Sid};
use sha2::{Digest, Sha256};
use std::any::Any;
use std::sync::Arc;

/// The user that a security context proved. It counts only once a request was verified under the context.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserIdentity {
    /// The account's name as its source gives it: `sAMAccountName`, or the first components of the principal.
    pub name: String,
    /// The NetBIOS domain (NTLM) or the realm (Kerberos) that the account belongs to; empty for the local
    /// store.
    pub domain: String,
    /// The account's own SID. `None` if the ticket had no PAC with one.
    pub sid: Option<Sid>,
    /// SIDs of all groups: primary group, domain groups, extra SIDs, resource groups.
    pub groups: Vec<Sid>,
    /// Where name and SIDs come from.
    pub source: IdentitySource,
    /// The password that the user proved to the local store; `None` from every other source.
    pub password: Option<PasswordMark>,
    /// Services through which the ticket was delegated (S4U2Proxy, PAC buffer 11), in their order; empty if
    /// it was not delegated.
    pub delegated_by: Vec<String>,
    /// When the context ends: the end of the ticket, and the clock skew that is allowed, or when the domain
    /// controller says that the account may not be used any more. `None` if neither sets an end.
    pub expires: Option<FileTime>,
}

impl UserIdentity {
    /// Whether a service acts for the user: the ticket was delegated, or a service alone vouches for the user
    /// (S-1-18-2).
    pub fn is_delegated(&self) -> bool {
        !self.delegated_by.is_empty() || self.groups.contains(&Sid::SERVICE_ASSERTED_IDENTITY)
    }

    /// The account, for limits that count by account: by its SID, or else by its name. That of a ticket
    /// belongs to its realm, because a realm may put any SID into its tickets, and must not use up what
    /// another one's accounts may have.
    pub fn account(&self) -> Account {
        let (is_ticket, sid) = (matches!(self.source, IdentitySource::Ticket { .. }), self.sid);
        match sid {
            Some(sid) if !is_ticket => Account::Sid(sid),
            _ => {
                let account = sid.map_or_else(|| self.name.clone(), |sid| sid.to_string());
                let hash = Sha256::new()
                    .chain_update([u8::from(is_ticket), u8::from(sid.is_some())])
                    .chain_update((self.domain.len() as u64).to_le_bytes())
                    .chain_update(&self.domain)
                    .chain_update(account);
                Account::Named(hash.finalize().into())
            }
        }
    }
}

/// The identity of a security context for the services above it: its user, or `()` on the client's side,
/// which has none.
pub(crate) fn identity_of(user: Option<&Arc<UserIdentity>>) -> Arc<dyn Any + Send + Sync> {
    match user {
        Some(user) => Arc::clone(user) as _,
        None => Arc::new(()),
    }
}

/// Stands for a password of the local store, to notice that it was changed or removed: a digest of the NT
/// hash under a key that the process alone has.
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

#[cfg(test)]
mod tests {
    use super::*;

    fn user(source: IdentitySource, domain: &str, name: &str, rid: Option<u32>) -> UserIdentity {
        UserIdentity {
            name: name.into(),
            domain: domain.into(),
            sid: rid.and_then(|rid| Sid::new(5, &[21, 1, 2, 3, rid])),
            groups: vec![],
            source,
            password: None,
            delegated_by: vec![],
            expires: None,
        }
    }

    fn ticket(realm: &str, name: &str, rid: Option<u32>) -> Account {
        let source = IdentitySource::Ticket { keytab_principal: "sso/srv@RPC.TEST".into() };
        user(source, realm, name, rid).account()
    }

    #[test]
    fn each_user_has_an_account_of_its_own_with_a_sid_and_without() {
        let local = |name, rid| user(IdentitySource::LocalStore, "", name, rid).account();
        assert_eq!(local("alice", Some(1104)), local("Alice", Some(1104)), "a SID is what counts");
        assert_eq!(Some(local("alice", Some(1104))), Sid::new(5, &[21, 1, 2, 3, 1104]).map(Account::Sid));
        assert_eq!(ticket("A.TEST", "alice", Some(1104)), ticket("A.TEST", "ALICE", Some(1104)));
        let all = [
            local("alice", Some(1104)),
            local("alice", Some(1105)),
            local("alice", None),
            local("bob", None),
            ticket("A.TEST", "alice", Some(1104)),
            ticket("A.TEST", "S-1-5-21-1-2-3-1104", None),
            ticket("A.TEST", "alice", None),
            ticket("A.TEST", "bob", None),
            ticket("B.TEST", "alice", Some(1104)),
            ticket("B.TEST", "alice", None),
            ticket("", "alice", None),
            ticket("A.TESTal", "ice", None),
        ];
        for (at, account) in all.iter().enumerate() {
            assert_eq!(all.iter().position(|other| other == account), Some(at));
        }
    }
}
