//! S4U_DELEGATION_INFO ([MS-PAC] 2.9): through which services a ticket came by constrained delegation.

use crate::logon_info::{Text, TextHeader};
use dcerpc::ndr::{read_type_serialization, write_type_serialization};
use dtyp::{DecodeError, DecodeErrorKind};

/// Services of one ticket; each adds a hop.
const SERVICES_MAX: usize = 64;

/// S4U_DELEGATION_INFO. A ticket that has one was delegated, also if it names no service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DelegationInfo {
    /// S4U2proxyTarget: the service that the ticket was asked for.
    pub target: Text,
    /// S4UTransitedServices: the services that asked, the first one first.
    pub transited: Vec<Text>,
}

impl DelegationInfo {
    /// Appends the buffer's bytes.
    pub fn encode(&self, out: &mut Vec<u8>) {
        write_type_serialization(out, |w| {
            w.pointer(true);
            self.target.write_scalars(w);
            w.u32(self.transited.len() as u32);
            w.pointer(!self.transited.is_empty());
            self.target.write_referent(w);
            if !self.transited.is_empty() {
                w.count(self.transited.len());
                self.transited.iter().for_each(|service| service.write_scalars(w));
                self.transited.iter().for_each(|service| service.write_referent(w));
            }
        });
    }

    /// Reads a buffer.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        const WHAT: &str = "S4U_DELEGATION_INFO";
        let mut r = read_type_serialization(WHAT, bytes)?;
        r.some_pointer(WHAT)?;
        let target = TextHeader::read(&mut r, "S4U2proxyTarget")?;
        let count = r.u32("TransitedListSize")? as usize;
        if count > SERVICES_MAX {
            return Err(r.error("TransitedListSize", DecodeErrorKind::TooLong));
        }
        if r.pointer("S4UTransitedServices")? != (count > 0) {
            return Err(r.error("S4UTransitedServices", DecodeErrorKind::Mismatch));
        }
        let target = target.referent(&mut r, "S4U2proxyTarget")?;
        let mut transited = Vec::with_capacity(count);
        if count > 0 {
            r.conformance("S4UTransitedServices", count, 8)?;
            let headers: Vec<_> = (0..count)
                .map(|_| TextHeader::read(&mut r, "S4UTransitedServices"))
                .collect::<Result<_, _>>()?;
            for header in headers {
                transited.push(header.referent(&mut r, "S4UTransitedServices")?);
            }
        }
        Ok(Self { target, transited })
    }
}
