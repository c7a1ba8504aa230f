//! Kerberos in DCE style (RFC 4120, RFC 4121, [MS-KILE]): three bare tokens AP-REQ, AP-REP, AP-REP', then per-message
//! tokens whose sealed body stays in place.

mod context;
mod der;
mod etype;
mod keytab;
mod messages;
mod replay;
#[cfg(test)]
mod test;

pub use context::KerberosContext;
pub use etype::{Etype, Key};
pub use keytab::{Keytab, KeytabEntry, KeytabProblem, MachineAccount, SharedKeytab};
pub use messages::Principal;
pub use replay::{AUTHENTICATORS_MAX, AUTHENTICATORS_OF_CLIENT_MAX, ReplayCache};
