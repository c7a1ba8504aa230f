//! Secrets by reference: a configuration says where a secret is, and has none in it.
//!
//! [`SecretRef`] names a secret of one line: of a machine account, of a listener, of a directory.
//! [`SealRef`] names what the master secret is sealed with. [`rotation`] replaces the secret of a trust so
//! that one of two files is always the secret that the other side has.

mod reference;
pub mod rotation;
mod seal;

pub use reference::{SecretMissing, SecretRef};
pub use seal::{FORMS as SEAL_FORMS, SealRef, TokenRef, percent_decoded};
