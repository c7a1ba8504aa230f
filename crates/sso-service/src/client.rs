//! The client's side of the message: what a server answered, unchanged.
//!
//! [MS-SSP] section 3 and 3.2.4: a client takes no action on a return value, and gives it to the application
//! that called it. So nothing here tries again, asks another server or lowers a level. That is for the
//! caller, and only if no server answered.

use crate::message::{read_response, write_request};
use crate::{MasterSecret, REMOTE_GET_MASTER_SECRET, ReturnCode};
use dcerpc::ndr::NdrSyntax;
use dcerpc::pdu::FaultStatus;
use dtyp::{ByteOrder, DecodeError};
use std::fmt;
use zeroize::Zeroizing;

/// The method's number and its parameters.
pub fn request() -> (u16, Vec<u8>) {
    (REMOTE_GET_MASTER_SECRET, write_request())
}

/// Why there is no secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GetError {
    /// The server's method returned this code.
    Returned(ReturnCode),
    /// The server's runtime answered with a fault.
    Fault(FaultStatus),
    /// The server's answer breaks the protocol: nothing of it is used.
    BadAnswer(DecodeError),
}

impl fmt::Display for GetError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Returned(code) => write!(f, "the server returned {code}"),
            Self::Fault(status) => match win32_error(*status) {
                Some(error) => write!(f, "the server answered with a fault: {status}, error {error}"),
                None => write!(f, "the server answered with a fault: {status}"),
            },
            Self::BadAnswer(error) => write!(f, "the server's answer breaks the protocol: {error}"),
        }
    }
}

impl std::error::Error for GetError {}

/// The error that Windows' runtime gives to an application for this fault ([MS-RPCE] 3.1.1.5.5), where the
/// numbers differ.
pub const fn win32_error(status: FaultStatus) -> Option<u32> {
    match status {
        FaultStatus::INVALID_BOUND => Some(1734),
        FaultStatus::OP_RANGE_ERROR => Some(1745),
        FaultStatus::UNKNOWN_IF => Some(1717),
        FaultStatus::PROTO_ERROR => Some(1728),
        _ => None,
    }
}

/// Reads what a call brought. The stub is wiped.
pub fn read(
    outcome: Result<(Vec<u8>, ByteOrder), FaultStatus>,
    syntax: NdrSyntax,
) -> Result<MasterSecret, GetError> {
    let (stub, order) = outcome.map_err(GetError::Fault)?;
    let stub = Zeroizing::new(stub);
    let (code, secret) = read_response(&stub, syntax, order).map_err(GetError::BadAnswer)?;
    match code.is_success() {
        true => Ok(secret),
        false => Err(GetError::Returned(code)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{write_failure, write_secret};

    #[test]
    fn returns_each_code_and_each_fault_unchanged() {
        for syntax in [NdrSyntax::Ndr, NdrSyntax::Ndr64] {
            let answer = |stub| read(Ok((stub, ByteOrder::Little)), syntax);
            for code in ReturnCode::ALL.iter().copied().filter(|code| !code.is_success()) {
                assert_eq!(answer(write_failure(code, syntax)), Err(GetError::Returned(code)));
            }
            assert_eq!(
                answer(write_failure(ReturnCode(0x8007_0005), syntax)),
                Err(GetError::Returned(ReturnCode(0x8007_0005)))
            );
            let secret = MasterSecret::new([7; 16]);
            assert_eq!(answer(write_secret(&secret, syntax)), Ok(secret));
        }
        for fault in [0x1c00_0007, 0x6f7, 0x6c6, 0x1c01_0002, 5, 0xdead_beef].map(FaultStatus) {
            assert_eq!(read(Err(fault), NdrSyntax::Ndr), Err(GetError::Fault(fault)));
        }
    }

    #[test]
    fn code_beside_octets_gives_no_octets() {
        let mut stub = write_secret(&MasterSecret::new([7; 16]), NdrSyntax::Ndr);
        stub[24..].copy_from_slice(&ReturnCode::ACCESS_DENIED.0.to_le_bytes());
        let outcome = read(Ok((stub, ByteOrder::Little)), NdrSyntax::Ndr);
        assert_eq!(outcome, Err(GetError::Returned(ReturnCode::ACCESS_DENIED)));
    }

    #[test]
    fn faults_have_the_numbers_that_windows_reports() {
        for (fault, error) in
            [(0x1c00_0007, 1734), (0x1c01_0002, 1745), (0x1c01_0003, 1717), (0x1c01_000b, 1728)]
        {
            let text = GetError::Fault(FaultStatus(fault)).to_string();
            assert!(text.ends_with(&format!("error {error}")), "{text}");
        }
    }
}
