//! [MS-PAC], the privilege attribute certificate: who an account is and which groups it is in.
//!
//! [`Pac`] is the container and knows no buffer; each buffer that somebody needs has a type of its own, and the others
//! stay bytes. What is read is written back the same. Signatures are not checked: outside Kerberos there is no key that
//! could have made them ([MS-PAC] 2.8).

mod buffers;
mod container;
mod flags;
mod logon_info;
mod verified;

pub use buffers::{ClientInfo, UpnDnsInfo};
pub use container::{Buffer, BufferType, Pac};
pub use flags::user_account_control;
pub use logon_info::{GroupMembership, LogonInfo, ResourceGroups, SidAndAttributes, Text};
pub use verified::{PacError, VerifiedPac};

#[cfg(test)]
mod tests;
