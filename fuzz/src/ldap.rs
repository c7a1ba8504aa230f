//! LDAP: what a directory sends.

/// Checks `bytes` as the answer to each operation.
pub fn check(bytes: &[u8]) {
    store_ldap::check_any(bytes);
}
