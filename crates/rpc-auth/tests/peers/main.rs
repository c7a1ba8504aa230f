//! Kerberos with foreign programs: MIT Kerberos as KDC, initiator and acceptor, Impacket's client,
//! and Samba's KDC.
//!
//! A program that is missing fails its test; `tests/peers/install` installs them.

mod mit_kerberos;
#[expect(unreachable_pub, reason = "the file belongs to another crate")]
#[path = "../../../../tests/src/ports.rs"]
mod ports;
mod samba_kdc;
mod support;
