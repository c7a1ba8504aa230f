//! The secrets of a channel and of the logons over it, each its own type: they wipe themselves, compare in
//! constant time and print nothing.

use md4::{Digest, Md4};
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, ZeroizeOnDrop};

macro_rules! secret {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Zeroize, ZeroizeOnDrop)]
        pub struct $name([u8; 16]);

        impl $name {
            /// Takes the bytes.
            pub const fn new(bytes: [u8; 16]) -> Self {
                Self(bytes)
            }

            /// The bytes, for the primitives that need them.
            pub const fn expose(&self) -> &[u8; 16] {
                &self.0
            }
        }

        impl PartialEq for $name {
            fn eq(&self, other: &Self) -> bool {
                self.0.ct_eq(&other.0).into()
            }
        }

        impl Eq for $name {}

        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("[redacted]")
            }
        }
    };
}

secret! {
    /// The secret a machine and its domain share: the NT hash of the machine account's password, MD4 of its
    /// UTF-16LE form ([MS-NRPC] 3.1.1).
    SharedSecret
}

secret! {
    /// The key of one secure channel ([MS-NRPC] 3.1.4.3.1).
    SessionKey
}

secret! {
    /// UserSessionKey of a logon: for NTLM version 2 the key that all keys of the user's security context are
    /// made from.
    UserSessionKey
}

impl SharedSecret {
    /// The NT hash of a password.
    pub fn from_password(password: &str) -> Self {
        let mut units = dtyp::utf16le(password);
        let secret = Self::from_utf16le(&units);
        units.zeroize();
        secret
    }

    /// The NT hash of a password in UTF-16LE, which need not be valid text: machines draw theirs at random.
    pub fn from_utf16le(password: &[u8]) -> Self {
        Self(Md4::digest(password).into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_passwords_as_the_document_does() {
        // The digest of [MS-NRPC], section 4.3.
        let secret = SharedSecret::from_password("test");
        assert_eq!(dtyp::hex(secret.expose()), "0cb6948805f797bf2a82807973b89537");
    }

    #[test]
    fn prints_nothing() {
        assert_eq!(format!("{:?}", SharedSecret::from_password("test")), "[redacted]");
        assert_eq!(format!("{:?}", SessionKey::new([7; 16])), "[redacted]");
        assert_eq!(format!("{:?}", UserSessionKey::new([7; 16])), "[redacted]");
    }
}
