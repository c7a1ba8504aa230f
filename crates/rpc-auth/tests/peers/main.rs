//! Kerberos with foreign programs: MIT Kerberos as KDC, initiator and acceptor, Impacket's client,
//! and Samba's KDC.
//!
//! A program that is missing fails its test; `tests/peers/install` installs them.

mod mit_kerberos;
mod samba_kdc;
mod support;
