//! Kerberos in DCE style (RFC 4120, RFC 4121, [MS-KILE]): three bare tokens AP-REQ, AP-REP, AP-REP', then
//! per-message tokens whose sealed body stays in place.

mod acceptor;
mod ccache;
mod context;
mod etype;
pub(crate) mod gss;
mod initiator;
mod keytab;
mod messages;
mod replay;
#[cfg(test)]
mod test;
mod tgs;
mod ticket_pac;

pub use acceptor::{ClientRealm, KerberosAcceptor, KerberosConfig, RealmKind, SKEW_DEFAULT};
pub use ccache::CredentialCache;
pub use etype::{Etype, Key, usage};
pub use initiator::{Credential, KerberosInitiator};
pub use keytab::{Keytab, KeytabEntry, KeytabProblem, MachineAccount, SharedKeytab};
pub use messages::{
    ApRep, ApReq, Authenticator, AuthorizationData, EncApRepPart, EncTicketPart, EncryptedData,
    EncryptionKey, Principal, Ticket,
};
pub use replay::ReplayCache;
pub use tgs::TgsRequest;

/// Longest token: a bind of one PDU takes no longer one, and a user in a thousand groups has a ticket of 12
/// KB.
const TOKEN_LEN_MAX: usize = 64 * 1024;
