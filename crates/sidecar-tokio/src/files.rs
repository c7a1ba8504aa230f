//! Files that settings name.

use std::path::Path;
use zeroize::Zeroizing;

/// Reads the files that settings name, at the start and at each reload. The program that serves decides which
/// users may be able to read or change them, and refuses other files.
pub trait ReadFiles {
    /// The certificates in DER of a file that says which CAs are trusted.
    fn trusted(&self, path: &Path) -> anyhow::Result<Vec<Vec<u8>>>;

    /// A certificate in DER, and those of its chain.
    fn chain(&self, path: &Path) -> anyhow::Result<Vec<Vec<u8>>>;

    /// The PEM text of a private key.
    fn private_key(&self, path: &Path) -> anyhow::Result<Zeroizing<Vec<u8>>>;
}

#[cfg(test)]
pub(crate) mod test {
    use super::*;
    use pem_file::Purpose;

    /// Reads any file.
    pub(crate) struct AnyFile;

    impl ReadFiles for AnyFile {
        fn trusted(&self, path: &Path) -> anyhow::Result<Vec<Vec<u8>>> {
            Ok(pem_file::certificates(&std::fs::read(path)?, Purpose::TrustedCertificates)?)
        }

        fn chain(&self, path: &Path) -> anyhow::Result<Vec<Vec<u8>>> {
            Ok(pem_file::certificates(&std::fs::read(path)?, Purpose::Certificates)?)
        }

        fn private_key(&self, path: &Path) -> anyhow::Result<Zeroizing<Vec<u8>>> {
            Ok(std::fs::read(path)?.into())
        }
    }
}
