//! Certificates of CAs that a client sends with its own (RFC 8446 4.4.2): which of them count, and for that
//! client alone.
//!
//! A sent certificate counts once a configured CA, or a sent one that counts already, has signed it. So what
//! a client made up costs at most one signature for each CA whose name it uses, and no path is searched in
//! it. TLS takes 64 KiB of certificates at most.

use super::Which;
use super::authority::{Authority, KeyId, subject_text};
use super::chain::{Chains, Path, authority_key_identifier, distances};
use super::name::Name;
use super::refusal::{ChainError, Fault, Refusal};
use super::signature::Signed;
use super::work::Work;
use crate::certificate::Certificate;
use dtyp::FileTime;
use std::cmp::Reverse;
use std::fmt;

/// Most certificates of CAs that a client sends: twice as many as a path has. Clients send one or two.
pub const SENT_CAS_MAX: usize = 32;

/// Why a client's certificate was rejected, with the name of the CA that it is about, if it is about one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejected {
    /// The rule, and where on the path.
    pub refusal: Refusal,
    /// The CA's name, as text.
    pub subject: Option<String>,
}

impl fmt::Display for Rejected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.refusal.text(self.subject.as_deref()))
    }
}

impl std::error::Error for Rejected {}

/// A sent certificate that no CA has signed which counts, and what was wrong with it. Nothing else is read of
/// it: names can be long, and cost more than a signature.
struct Unsigned<'a> {
    certificate: Certificate<'a>,
    issuer: Name,
    fault: Fault,
}

impl<'a> Unsigned<'a> {
    /// What cannot be read has no name, so no path leads through it.
    fn read(encoded: &'a [u8]) -> Option<Self> {
        let certificate = Certificate::parse(encoded).ok()?;
        let issuer = Name::read(certificate.issuer).ok()?;
        Some(Self { certificate, issuer, fault: ChainError::UnknownIssuer.into() })
    }
}

impl Chains {
    /// [`Chains::verify`] with the certificates of CAs that a client sent.
    pub(super) fn verify_shown(
        &self,
        encoded: &[u8],
        sent: &[impl AsRef<[u8]>],
        now: FileTime,
    ) -> Result<Path, Rejected> {
        let mut work = Work::new();
        let (extended, unsigned) =
            self.extended(sent, &mut work).map_err(|fault| self.rejected(fault.at(Which::Leaf, 0)))?;
        let chains = extended.as_ref().unwrap_or(self);
        chains.verify(encoded, now, work).map_err(|refusal| {
            let is_unknown = refusal.which == Which::Leaf && refusal.error == ChainError::UnknownIssuer;
            let why = is_unknown.then(|| why_unknown(encoded, &unsigned)).flatten();
            why.unwrap_or_else(|| chains.rejected(refusal))
        })
    }

    /// A refusal with the name of the CA that it is about.
    pub(super) fn rejected(&self, refusal: Refusal) -> Rejected {
        let subject = match refusal.which {
            Which::Leaf => None,
            Which::Authority(key) => {
                self.authorities.iter().find(|it| it.key == key).map(|it| it.subject.clone())
            }
        };
        Rejected { refusal, subject }
    }

    /// These CAs with the sent ones that count, if any does, and the sent ones that do not.
    fn extended<'a>(
        &self,
        sent: &'a [impl AsRef<[u8]>],
        work: &mut Work,
    ) -> Result<(Option<Self>, Vec<Unsigned<'a>>), Fault> {
        if sent.len() > SENT_CAS_MAX {
            let what = "CAs' certificates from the client";
            return Err(Fault::limit(ChainError::TooComplex, what, SENT_CAS_MAX, sent.len()));
        }
        let unknown = Fault::from(ChainError::UnknownIssuer);
        // The order in which they were sent decides nothing.
        let mut sent: Vec<&[u8]> = sent.iter().map(AsRef::as_ref).collect();
        sent.sort_unstable();
        sent.dedup();
        let mut waiting: Vec<Unsigned<'_>> = sent.into_iter().filter_map(Unsigned::read).collect();
        waiting.sort_by_key(|it| Reverse(it.certificate.not_after));
        let mut extended: Option<Self> = None;
        // By CA that counts: the key that signed it.
        let mut keys: Vec<KeyId> = Vec::new();
        let mut from = 0;
        loop {
            let chains = extended.as_ref().unwrap_or(self);
            // Those that were tried before are not tried again.
            let skipped = |at: usize| at < from || chains.distances[at].is_none();
            let mut signed = Vec::new();
            let mut unsigned = Vec::new();
            for mut it in waiting {
                match chains.signer_of(&it, skipped, work) {
                    Ok(key) => signed.extend(Authority::sent(it.certificate).ok().map(|it| (it, key))),
                    Err(fault) if fault.error == ChainError::TooComplex => return Err(fault),
                    Err(fault) => {
                        it.fault = if fault == unknown { it.fault } else { fault };
                        unsigned.push(it);
                    }
                }
            }
            waiting = unsigned;
            if signed.is_empty() {
                break;
            }
            from = chains.authorities.len();
            let chains = extended.get_or_insert_with(|| self.clone());
            for (authority, key) in signed {
                let name = authority.subject_name.clone();
                chains.by_name.entry(name).or_default().push(chains.authorities.len());
                chains.authorities.push(authority.into());
                chains.distances.push(Some(1));
                keys.push(key);
            }
        }
        if let Some(chains) = &mut extended {
            // Two certificates of one CA may both have come.
            let first = chains.authorities.len() - keys.len();
            for (authority, key) in chains.authorities[first..].iter().zip(&keys) {
                let named = chains.by_name.get(&authority.issuer_name).into_iter().flatten();
                let issuers = named.filter(|at| chains.authorities[**at].key == *key);
                chains.issuers.push(issuers.copied().collect());
            }
            chains.distances = distances(&chains.authorities, &chains.issuers);
        }
        Ok((extended, waiting))
    }

    fn signer_of(
        &self,
        sent: &Unsigned<'_>,
        skipped: impl Fn(usize) -> bool,
        work: &mut Work,
    ) -> Result<KeyId, Fault> {
        let signed = Signed::parse(sent.certificate.encoded, "Certificate")
            .map_err(|_| Fault::from(ChainError::Malformed))?;
        let hint = authority_key_identifier(&sent.certificate);
        let issuers = self.issuers_of(&signed, &sent.issuer, hint, skipped, work);
        issuers.map(|issuers| self.authorities[issuers[0]].key).map_err(|(fault, _)| fault)
    }
}

/// Where the sent certificates end on the way to a configured CA. Names are compared as they are encoded:
/// this is for the words alone.
fn why_unknown(encoded: &[u8], unsigned: &[Unsigned<'_>]) -> Option<Rejected> {
    let mut wanted = Certificate::parse(encoded).ok()?.issuer;
    let mut last = None;
    for depth in 1..=SENT_CAS_MAX {
        let Some(it) = unsigned.iter().find(|it| it.certificate.subject == wanted) else { break };
        let refusal = it.fault.at(Which::Authority(KeyId::of(&it.certificate)), depth);
        last = Some(Rejected { refusal, subject: Some(subject_text(&it.certificate)) });
        if it.fault.error != ChainError::UnknownIssuer || it.certificate.issuer == wanted {
            break;
        }
        wanted = it.certificate.issuer;
    }
    last
}
