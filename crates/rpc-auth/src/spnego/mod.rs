//! SPNEGO (RFC 4178, [MS-SPNG]), both sides: it chooses a mechanism, carries its tokens, and proves that the
//! list of offers was not changed on the way.
//!
//! The mechanisms are acceptors and initiators of this crate with three tokens each. So the initiator signs
//! the list first, with its last token, and the acceptor's last message answers it.

mod acceptor;
mod initiator;
mod message;
#[cfg(test)]
mod tests;

pub use acceptor::SpnegoAcceptor;
pub use initiator::SpnegoInitiator;

use crate::kerberos::gss::{OID as KERBEROS, OID_MICROSOFT as KERBEROS_MICROSOFT};
use message::Oid;

/// A mechanism inside of SPNEGO.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpnegoMechanism {
    /// Kerberos version 5. It has two object identifiers: the second is a mistake of Windows 2000 that is
    /// kept.
    Kerberos,
    /// NTLM.
    Ntlm,
}

/// 1.3.6.1.4.1.311.2.2.10.
const NTLM: &[u8] = &[0x2b, 0x06, 0x01, 0x04, 0x01, 0x82, 0x37, 0x02, 0x02, 0x0a];

impl SpnegoMechanism {
    fn of(oid: &Oid) -> Option<Self> {
        match &oid.0[..] {
            KERBEROS | KERBEROS_MICROSOFT => Some(Self::Kerberos),
            NTLM => Some(Self::Ntlm),
            _ => None,
        }
    }

    /// The identifiers that an initiator offers, in the order of Windows and Samba.
    fn oids(self) -> &'static [&'static [u8]] {
        match self {
            Self::Kerberos => &[KERBEROS_MICROSOFT, KERBEROS],
            Self::Ntlm => &[NTLM],
        }
    }
}
