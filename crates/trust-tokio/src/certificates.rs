//! Certificates from files, in PEM or DER.

use account_store::FileAccess;
use dtyp::DecodeErrorKind;
use pem_file::Purpose;
use pem_file::input;
use rcmp_service::certificate::Certificate;
use rcmp_service::issuers;
use rcmp_service::message::CERTIFICATE_LEN_MAX;
use rustls::RootCertStore;
use std::borrow::Cow;
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// A certificate, and those of its issuers as far as they are known.
#[derive(Clone, Debug)]
pub struct Chain {
    certificates: Vec<Vec<u8>>,
}

/// Why a file gives no certificate.
#[derive(Debug)]
pub struct Unusable(String);

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Unusable {}

impl Chain {
    /// Reads the certificate of a file and the chain that follows it there or stands in `chain`.
    pub fn read(path: &Path, chain: Option<&Path>) -> Result<Self, Unusable> {
        let named = |error| Unusable(format!("{}: {error}", path.display()));
        let mut this = Self::new(read_file(path)?).map_err(named)?;
        if let Some(chain) = chain {
            this.certificates.extend(read_file(chain)?);
        }
        this.check().map_err(named)?;
        Ok(this)
    }

    /// The same from memory.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Unusable> {
        let this = Self::new(certificates(bytes, Purpose::Certificates).map_err(Unusable)?)?;
        this.check()?;
        Ok(this)
    }

    /// The certificate that is asked about is the first, unless that is a CA's and one client's follows: some
    /// programs write chains from the root on. Behind a CA's certificate, those of several clients leave open
    /// which of them is asked about.
    fn new(mut certificates: Vec<Vec<u8>>) -> Result<Self, Unusable> {
        if certificates.first().is_some_and(|first| is_ca(first)) {
            let mut clients = (0..certificates.len()).filter(|at| !is_ca(&certificates[*at]));
            match (clients.next(), clients.count()) {
                (None, _) => {}
                (Some(client), 0) => certificates[..=client].rotate_right(1),
                (Some(_), more) => {
                    return Err(Unusable(format!(
                        "the first certificate is that of a CA, and {} certificates of clients follow: keep the one to ask about, \
                         or put it first",
                        more + 1
                    )));
                }
            }
        }
        Ok(Self { certificates })
    }

    fn check(&self) -> Result<(), Unusable> {
        for certificate in &self.certificates {
            Certificate::parse(certificate).map_err(|error| match error.kind {
                DecodeErrorKind::TooMany(_) => Unusable(format!("this certificate is rejected: {error}")),
                _ => Unusable(format!("this is not a certificate: {error}")),
            })?;
        }
        Ok(())
    }

    /// The certificate.
    pub fn certificate(&self) -> &[u8] {
        &self.certificates[0]
    }

    /// The other certificates, as they were given.
    pub fn others(&self) -> &[Vec<u8>] {
        &self.certificates[1..]
    }

    /// The subjects of certificates that came with it and are not in its chain: their names are not sent.
    pub fn strays(&self) -> Vec<String> {
        let Ok(parsed) = Certificate::parse(self.certificate()) else { return Vec::new() };
        let others: Vec<&[u8]> = self.certificates[1..].iter().map(Vec::as_slice).collect();
        let strays = issuers::left_out(&parsed, &others, self.certificate());
        let subject =
            |encoded: &&[u8]| Some(Certificate::parse(encoded).ok()?.subject_name().ok()?.to_string());
        strays
            .iter()
            .map(|encoded| {
                subject(encoded).unwrap_or_else(|| "a certificate without a readable name".to_owned())
            })
            .collect()
    }

    /// Why no request can be made of it. Names of issuers beyond the limits are left out.
    pub fn too_long(&self) -> String {
        format!(
            "the certificate is too long: it has {} bytes, and the limit is {CERTIFICATE_LEN_MAX}",
            self.certificate().len()
        )
    }

    /// The encoded names of its issuers, its own first, as far as the chain leads ([MS-RCMP] 2.2.1).
    pub fn issuers(&self) -> Result<Vec<&[u8]>, Unusable> {
        let parsed = Certificate::parse(self.certificate()).map_err(|error| Unusable(error.to_string()))?;
        Ok(issuers::of_chain(&parsed, self.certificates[1..].iter().map(Vec::as_slice)))
    }
}

/// Whether a certificate is a CA's, by its basicConstraints (RFC 5280 4.2.1.9).
fn is_ca(certificate: &[u8]) -> bool {
    let constraints = Certificate::parse(certificate).ok().and_then(|it| it.extension(BASIC_CONSTRAINTS));
    // SEQUENCE { cA BOOLEAN TRUE, … }
    constraints.is_some_and(|it| matches!(it.value, [0x30, _, 0x01, 0x01, 0xff, ..]))
}

/// The contents octets of 2.5.29.19.
const BASIC_CONSTRAINTS: &[u8] = &[0x55, 0x1d, 0x13];

/// All certificates of a file that says what is trusted. One that every user can change is refused.
pub fn read_trusted(path: &Path) -> Result<Vec<Vec<u8>>, Unusable> {
    let bytes = FileAccess::ReadByAll.read(path);
    let bytes = bytes.map_err(|error| Unusable(format!("{} {error}", path.display())))?;
    certificates(&bytes, Purpose::TrustedCertificates)
        .map_err(|error| Unusable(format!("{}: {error}", path.display())))
}

/// The CAs of files that say which peers of TLS are trusted, each read by [`read_trusted`].
pub fn read_roots<P: AsRef<Path>>(paths: impl IntoIterator<Item = P>) -> Result<RootCertStore, Unusable> {
    let mut roots = RootCertStore::empty();
    for path in paths {
        let path = path.as_ref();
        for certificate in read_trusted(path)? {
            let added = roots.add(certificate.into());
            let why = |error| format!("{} has a certificate that cannot be a CA: {error}", path.display());
            added.map_err(|error| Unusable(why(error)))?;
        }
    }
    Ok(roots)
}

/// All certificates of a file.
pub fn read_file(path: &Path) -> Result<Vec<Vec<u8>>, Unusable> {
    read_for(path, Purpose::Certificates)
}

/// All certificates of a file that says what is trusted for one run of a command. Its mode is not looked at.
pub fn read_anchors(path: &Path) -> Result<Vec<Vec<u8>>, Unusable> {
    read_for(path, Purpose::TrustedCertificates)
}

fn read_for(path: &Path, purpose: Purpose) -> Result<Vec<Vec<u8>>, Unusable> {
    let unusable = |why: &dyn fmt::Display| Unusable(format!("{}: {why}", path.display()));
    let bytes = input::read(path).map_err(|error| unusable(&format_args!("cannot be read: {error}")))?;
    certificates(&bytes, purpose).map_err(|error| unusable(&error))
}

fn certificates(bytes: &[u8], purpose: Purpose) -> Result<Vec<Vec<u8>>, String> {
    if pem_file::is_der(bytes) {
        return of_der(bytes.to_vec());
    }
    match (purpose, pem_file::bare_base64(bytes)) {
        (Purpose::Certificates, Some(der)) => of_der(der),
        (Purpose::TrustedCertificates, Some(_)) => {
            Err("this is base64 without BEGIN and END lines; put -----BEGIN CERTIFICATE----- before it and -----END CERTIFICATE----- after it"
                .to_owned())
        }
        (_, None) => pem_file::certificates(bytes, purpose).map_err(|error| error.to_string()),
    }
}

/// The certificate of a file in DER, or what the file is instead.
fn of_der(der: Vec<u8>) -> Result<Vec<Vec<u8>>, String> {
    match Certificate::parse(&der) {
        Err(_) if let Some(kind) = pem_file::der_kind::of(&der) => Err(kind.to_owned()),
        // What is wrong with a certificate is told by those who read it.
        _ => Ok(vec![der]),
    }
}

/// The bytes of a file that must not be longer than this.
pub fn read_file_up_to(path: &Path, len_max: u64) -> Result<Vec<u8>, Unusable> {
    let unusable = |why: &dyn fmt::Display| Unusable(format!("{}: {why}", path.display()));
    let file = File::open(path).map_err(|error| unusable(&format_args!("cannot be read: {error}")))?;
    let mut bytes = Vec::with_capacity(file.metadata().map_or(0, |file| file.len().min(len_max)) as usize);
    let read = file.take(len_max + 1).read_to_end(&mut bytes);
    read.map_err(|error| unusable(&format_args!("cannot be read: {error}")))?;
    match bytes.len() as u64 > len_max {
        true => Err(unusable(&format_args!("is longer than {len_max} bytes"))),
        false => Ok(bytes),
    }
}

/// The DER of a CRL in DER or PEM.
pub fn der_of_crl(bytes: &[u8]) -> Result<Cow<'_, [u8]>, Unusable> {
    match pem_file::is_der(bytes) {
        true => Ok(bytes.into()),
        false => pem_file::crl(bytes).map(Cow::from).map_err(|error| Unusable(error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::path::PathBuf;

    /// A file of CAs as an administrator leaves it.
    fn file(folder: &Path, name: &str, text: &str) -> PathBuf {
        let path = folder.join(name);
        fs::write(&path, text).expect("it is ours");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).expect("it is ours");
        path
    }

    fn ca() -> String {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.self_signed(&KeyPair::generate().expect("a key")).expect("a CA").pem()
    }

    #[test]
    fn roots_are_those_of_all_files_or_none() {
        let folder = tempfile::tempdir().expect("a folder");
        let two = file(folder.path(), "two.pem", &(ca() + &ca()));
        let one = file(folder.path(), "one.pem", &ca());
        assert_eq!(read_roots([&two, &one]).expect("all are CAs").len(), 3);
        let empty = file(folder.path(), "empty.pem", "nothing\n");
        let refused = read_roots([&two, &empty]).expect_err("one has none").to_string();
        assert!(refused.contains("empty.pem: there is no certificate in it"), "{refused}");
        fs::set_permissions(&one, fs::Permissions::from_mode(0o666)).expect("it is ours");
        let refused = read_roots([&two, &one]).expect_err("every user can change one").to_string();
        assert!(refused.contains("one.pem"), "{refused}");
    }
}
