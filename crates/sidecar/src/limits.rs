//! How much is read of a client certificate and its chain.

/// The longest certificate that is read, in bytes of DER: that of RCMP.
pub const CERTIFICATE_LEN_MAX: usize = 64 << 10;
/// Certificates of a chain that are read, and their bytes in all: issuers of RCMP.
pub const CHAIN_MAX: usize = 63;
pub(crate) const CHAIN_LEN_MAX: usize = 128 << 10;
