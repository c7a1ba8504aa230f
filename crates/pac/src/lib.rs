//! [MS-PAC], the privilege attribute certificate: an account and the groups that it is in.
//!
//! [`Pac`] is the container and knows no buffer. Buffers that are used have types of their own, and the
//! others stay bytes. What is read is written back the same. Signatures are not checked here: outside
//! Kerberos there is no key that could have made them ([MS-PAC] 2.8). [`ServerSignature`] is what a Kerberos
//! service checks with its key.
//!
//! ```
//! use dtyp::{Decode, Encode};
//! use pac::{BufferType, LogonInfo, Pac, VerifiedPac};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let text = include_str!("../tests/vectors/worked-example.hex");
//! # let digits: String = text.lines().filter(|line| !line.starts_with('#')).flat_map(str::split_whitespace).collect();
//! # let bytes: Vec<u8> = (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap()).collect();
//! // All that is in it agrees: the account's SID, its name, the flags.
//! let verified = VerifiedPac::decode(&bytes)?;
//! assert_eq!(verified.user_sid.to_string(), "S-1-5-21-3623811015-3361044348-30300820-1013");
//! assert_eq!(verified.logon_info.effective_name.text, "alice");
//!
//! // One buffer is replaced, and the others stay as they are.
//! let mut pac = Pac::from_bytes("PACTYPE", &bytes)?;
//! let found = pac.buffers.iter_mut().find(|buffer| buffer.buffer_type == BufferType::LOGON_INFO);
//! let buffer = found.ok_or("every PAC has one")?;
//! let mut info = LogonInfo::decode(&buffer.data)?;
//! info.full_name = "Alice Miller".into();
//! buffer.data.clear();
//! info.encode(&mut buffer.data);
//! let again = VerifiedPac::decode(&pac.to_bytes())?;
//! assert_eq!(again.logon_info.full_name.text, "Alice Miller");
//! # Ok(())
//! # }
//! ```

mod buffers;
mod container;
mod delegation;
mod flags;
mod logon_info;
mod signature;
mod verified;

pub use buffers::{ClientInfo, UpnDnsInfo};
pub use container::{Buffer, BufferType, Pac};
pub use delegation::DelegationInfo;
pub use flags::user_account_control;
pub use logon_info::{GroupMembership, LogonInfo, ResourceGroups, SidAndAttributes, Text};
pub use signature::ServerSignature;
pub use verified::{PacError, VerifiedPac};

#[cfg(test)]
mod tests;
