//! Certificates from files: PEM as everybody has it, or bare DER.

use account_store::FileAccess;
use account_store::fold::Comparison;
use rcmp_service::certificate::{self, Certificate};
use rustls_pki_types::pem::{self, PemObject};
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer};
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
    /// Reads a certificate, the first of its file, and the chain that follows it there or stands in `chain`. If the first is a CA's and the
    /// file has the certificate of one client, that is meant: some programs write chains from the root on.
    pub fn read(path: &Path, chain: Option<&Path>) -> Result<Self, Unusable> {
        let mut certificates = read_file(path)?;
        if certificates.first().is_some_and(|first| is_ca(first)) {
            let mut clients = (0..certificates.len()).filter(|at| !is_ca(&certificates[*at]));
            if let (Some(client), None) = (clients.next(), clients.next()) {
                certificates[..=client].rotate_right(1);
            }
        }
        if let Some(chain) = chain {
            certificates.extend(read_file(chain)?);
        }
        let this = Self { certificates };
        this.check().map_err(|error| Unusable(format!("{}: {error}", path.display())))?;
        Ok(this)
    }

    /// The same from memory.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Unusable> {
        let this = Self { certificates: certificates(bytes).map_err(Unusable)? };
        this.check()?;
        Ok(this)
    }

    fn check(&self) -> Result<(), Unusable> {
        for certificate in &self.certificates {
            Certificate::parse(certificate)
                .map_err(|error| Unusable(format!("this is not a certificate: {error}")))?;
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

    /// The encoded names of its issuers, its own first ([MS-RCMP] 3.5.1), whichever order the certificates are in. One that is no issuer
    /// of the chain is refused: its issuer's name would be sent as if it were.
    pub fn issuers(&self) -> Result<Vec<&[u8]>, Unusable> {
        let parsed = self.certificates.iter().map(|certificate| Certificate::parse(certificate));
        let parsed: Vec<_> = parsed.collect::<Result<_, _>>().map_err(|error| Unusable(error.to_string()))?;
        let mut path = vec![&parsed[0]];
        let mut issuers = vec![parsed[0].issuer];
        let mut others: Vec<_> =
            parsed[1..].iter().filter(|other| other.encoded != parsed[0].encoded).collect();
        let mut last = path[0];
        while !is_same_name(last.issuer, last.subject)
            && let Some(at) = others.iter().position(|other| is_same_name(other.subject, last.issuer))
        {
            last = others.remove(at);
            path.push(last);
            if issuers.last() != Some(&last.issuer) {
                issuers.push(last.issuer);
            }
        }
        // A CA may have several certificates.
        let is_known = |name| path.iter().any(|known| is_same_name(known.subject, name));
        match others.iter().find(|other| !is_known(other.subject)) {
            None => Ok(issuers),
            Some(other) => {
                let text = |name| certificate::name(name).map(|name| name.to_string()).unwrap_or_default();
                Err(Unusable(format!(
                    "the certificate of {} is not in the chain, which ends at {}, issued by {}: give the certificates of its issuers alone",
                    text(other.subject),
                    text(last.subject),
                    text(last.issuer)
                )))
            }
        }
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

/// Whether two names are the same, in whichever types of strings.
fn is_same_name(a: &[u8], b: &[u8]) -> bool {
    let key = |name| certificate::name(name).ok().map(|name| name.key_by(Comparison::Windows));
    a == b || key(a).is_some_and(|a| Some(a) == key(b))
}

/// All certificates of a file that says what is trusted. One that every user can change is refused.
pub fn read_trusted(path: &Path) -> Result<Vec<Vec<u8>>, Unusable> {
    let bytes = FileAccess::ReadByAll.read(path);
    let bytes = bytes.map_err(|error| Unusable(format!("{} {error}", path.display())))?;
    certificates(&bytes).map_err(|error| Unusable(format!("{}: {error}", path.display())))
}

/// All certificates of a file.
pub fn read_file(path: &Path) -> Result<Vec<Vec<u8>>, Unusable> {
    let unusable = |why: &dyn fmt::Display| Unusable(format!("{}: {why}", path.display()));
    let bytes = std::fs::read(path).map_err(|error| unusable(&format_args!("cannot be read: {error}")))?;
    certificates(&bytes).map_err(|error| unusable(&error))
}

fn certificates(bytes: &[u8]) -> Result<Vec<Vec<u8>>, String> {
    if bytes.first() == Some(&0x30) {
        return Ok(vec![bytes.to_vec()]);
    }
    let certificates: Vec<Vec<u8>> = CertificateDer::pem_slice_iter(bytes)
        .map(|certificate| certificate.map(|certificate| certificate.to_vec()))
        .collect::<Result<_, _>>()
        .map_err(|error| match error {
            // The library prints the bytes of these lines one by one.
            pem::Error::MissingSectionEnd { .. } => "the PEM is cut off: its END line is missing".to_owned(),
            pem::Error::IllegalSectionStart { .. } => {
                "the PEM is damaged: its BEGIN line is broken".to_owned()
            }
            error => format!("the PEM is damaged: {error}"),
        })?;
    match certificates.is_empty() {
        true => Err("there is no certificate in it (expected PEM with BEGIN CERTIFICATE, or DER)".to_owned()),
        false => Ok(certificates),
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

/// The DER of a certificate revocation list in DER or PEM.
pub fn der_of_crl(bytes: &[u8]) -> Result<Cow<'_, [u8]>, Unusable> {
    if bytes.first() == Some(&0x30) {
        return Ok(bytes.into());
    }
    let unusable = |why: &str| Unusable(why.to_owned());
    let mut lists = CertificateRevocationListDer::pem_slice_iter(bytes);
    let list = lists
        .next()
        .ok_or_else(|| {
            unusable("there is no revocation list in it (expected PEM with BEGIN X509 CRL, or DER)")
        })?
        .map_err(|_| unusable("the PEM is damaged"))?;
    match lists.next() {
        None => Ok(list.to_vec().into()),
        Some(_) => Err(unusable("there is more than one revocation list in it: name a file for each")),
    }
}
