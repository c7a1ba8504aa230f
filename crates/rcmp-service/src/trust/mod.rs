//! Whether a certificate is what it claims to be: its chain to an anchor (RFC 5280 section 6), and that
//! nothing in the chain is revoked (sections 5 and 6.3, and RFC 6960).
//!
//! A [`Trust`] is a value that the operator's configuration makes: bytes and the time come in, decisions go
//! out. Paths are built from configured anchors and intermediates only (in a handshake also from what the
//! client sends), CRLs and OCSP responses are brought by the program that may open a socket, and no URL
//! inside a certificate or a CRL is ever used; distribution points are names to compare.
//!
//! Beside what the document asks for, an anchor's own dates, path length, extended key usage, name
//! constraints and policy constraints count (RFC 5937). Its critical extensions are the operator's to judge,
//! because the operator chose it.
//!
//! `refusal` has the reasons, `name` compares names, `profile` reads a certificate, `constraints` and
//! `policies` are about whole paths, and `chain` finds them.

mod authority;
mod chain;
mod constraints;
pub mod crl;
mod digests;
mod extensions;
mod hashes;
mod name;
pub mod ocsp;
mod policies;
mod profile;
mod pss;
mod refusal;
mod sent;
mod serial;
mod signature;
#[cfg(test)]
mod tests;
mod work;

pub use authority::{Authority, KeyId, Unusable};
pub use chain::Path;
pub use crl::{CrlError, CrlFacts, RevocationReason};
pub use extensions::enciphers_keys;
pub use hashes::CertIdHash;
pub use ocsp::{Nonce, OcspAnswer, OcspAsking, OcspError, OcspQuestion, OcspStatus};
pub use policies::PolicyInputs;
pub use refusal::{CONFIGURATION, ChainError, Detail, ExtensionId, Refusal};
pub use sent::{Rejected, SENT_CAS_MAX};
pub use serial::Serial;

use crate::certificate::Certificate;
use arc_swap::ArcSwapOption;
use chain::{Chains, Link, Rules, Usages, is_within};
use crl::{Crl, CrlNumber, Currency, Scope, UnverifiedCrl};
use digests::Digests;
use dtyp::FileTime;
use name::Name;
use ocsp::{Signer, UnverifiedResponse};
use quick_cache::UnitWeighter;
use quick_cache::sync::Cache;
use sha2::{Digest, Sha256};
use signature::SignatureError;
use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use work::Work;

/// Most verified paths that are remembered, of about 500 bytes: as many as a busy service has users in a day.
/// More cost the signatures again, and nothing else.
pub const PATHS_MAX: u64 = 16_384;
/// Most rejected certificates that are cached. They are kept apart, so that they evict no paths.
pub const REFUSALS_MAX: u64 = 4_096;
/// Most OCSP answers that are remembered, of about 100 bytes: a path needs one for each certificate whose CA
/// has a responder.
pub const OCSP_ANSWERS_MAX: u64 = 32_768;
/// Most OCSP questions without an answer whose failure is remembered, of about 200 bytes, for `explain` and
/// the log.
const OCSP_FAILURES_MAX: u64 = 4_096;
/// Most scopes of CRLs whose age is remembered: the largest CAs partition into some hundred.
const SCOPES_MAX: usize = 4_096;
/// Fewest bits of an RSA key (NIST SP 800-131A).
pub const RSA_BITS_MIN: usize = 2048;

/// What an operator configured.
#[derive(Clone, Debug, Default)]
pub struct Parts {
    /// Certificates of the CAs at which a path may end.
    pub anchors: Vec<Vec<u8>>,
    /// Certificates of the CAs between.
    pub intermediates: Vec<Vec<u8>>,
    /// Contents octets of object identifiers: a certificate with extended key usages needs one of these, or
    /// anyExtendedKeyUsage, and so does a CA above it. Empty: they are not looked at.
    pub extended_key_usages: Vec<Vec<u8>>,
    /// Whether a certificate needs the extension.
    pub require_extended_key_usage: bool,
    /// The inputs of certificate policies.
    pub policies: PolicyInputs,
    /// What is asked beside that of paths through single CAs, by their keys.
    pub authority_policies: HashMap<KeyId, PolicyInputs>,
    /// Fewest bits of the RSA key of the certificate that is asked about; [`RSA_BITS_MIN`] when it is not
    /// told.
    pub rsa_bits_min: Option<usize>,
    /// How many CRLs there may be at one time: as many slots.
    pub crls: usize,
    /// Whether a CRL makes a certificate good only when each slot has had a CRL: a CRL that was never
    /// available may be a delta CRL of any CA, which would revoke the certificate.
    pub require_all_crls: bool,
    /// Who may be asked for the status of certificates.
    pub ocsp: Vec<OcspResponder>,
}

/// An OCSP responder that the operator configured.
#[derive(Clone, Debug)]
pub struct OcspResponder {
    /// The certificate of the CA it answers for, one of the anchors or intermediates.
    pub authority: Vec<u8>,
    /// Where it is; not looked at here.
    pub url: String,
    /// A certificate whose key signs answers, beside that of the CA itself and those that the CA certified
    /// for it.
    pub signer: Option<Vec<u8>>,
    /// How it is asked.
    pub asking: OcspAsking,
}

/// Why a configuration makes no trust.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TrustError {
    /// There is no anchor.
    NoAnchors,
    /// An extended key usage is required, and none is told.
    NoExtendedKeyUsages,
    /// A certificate is of no use.
    Certificate {
        /// The certificate.
        which: Configured,
        /// Its subject, if that can be read.
        subject: Option<String>,
        /// What is wrong with it.
        why: Unusable,
    },
}

/// Which of the configured certificates, counted from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Configured {
    /// An anchor.
    Anchor(usize),
    /// An intermediate.
    Intermediate(usize),
    /// The CA of an OCSP responder.
    OcspAuthority(usize),
    /// The certificate of an OCSP responder.
    OcspSigner(usize),
}

impl fmt::Display for Configured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Anchor(at) => write!(f, "anchor {}", at + 1),
            Self::Intermediate(at) => write!(f, "intermediate {}", at + 1),
            Self::OcspAuthority(at) => write!(f, "the CA of OCSP responder {}", at + 1),
            Self::OcspSigner(at) => write!(f, "the signer of OCSP responder {}", at + 1),
        }
    }
}

impl fmt::Display for TrustError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoAnchors => f.write_str("no anchors are configured"),
            Self::NoExtendedKeyUsages => {
                f.write_str("an extended key usage is required, but none is configured")
            }
            Self::Certificate { which, subject: Some(subject), why } => {
                write!(f, "{which} ({subject}) {why}")
            }
            Self::Certificate { which, subject: None, why } => write!(f, "{which} {why}"),
        }
    }
}

impl std::error::Error for TrustError {}

/// Whether anything on a path is revoked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Revocation {
    /// Nothing is, by something current for each certificate.
    Good,
    /// Something is.
    Revoked {
        /// The revoked certificate of the path.
        which: Which,
        /// Since when.
        since: FileTime,
        /// The reason in the CRL or the OCSP answer.
        reason: RevocationReason,
    },
    /// Nothing is known to be, but something may.
    Unknown {
        /// The certificate of the path about which nothing is known.
        which: Which,
        /// What is missing.
        why: UnknownReason,
    },
}

/// A certificate of a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// The one that was asked about.
    Leaf,
    /// The intermediate with this key.
    Authority(KeyId),
}

impl fmt::Display for Which {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Leaf => f.write_str("the certificate"),
            Self::Authority(key) => write!(f, "the intermediate with key {key}"),
        }
    }
}

/// Why it is not known whether a certificate is revoked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum UnknownReason {
    /// No CRL of its issuer is installed.
    NoCrl,
    /// The CRLs of its issuer are about other certificates.
    NotInScope,
    /// A CRL with the name of its issuer is signed by another key, which does not sign for this certificate.
    CrlOtherKey,
    /// The CRL of its issuer has expired.
    CrlExpired,
    /// The thisUpdate of its issuer's CRL is in the future.
    CrlNotYetValid,
    /// A CRL says that it is good, and a configured CRL was never available, which may be one of its issuer.
    CrlMissing,
    /// The responder has not been asked, or not lately; [`Trust::ocsp_needed`] tells what to ask.
    OcspNeeded,
    /// The responder was asked and has not answered.
    OcspNoAnswer,
    /// The responder has answered, and the answer is not accepted; [`Trust::ocsp_failure`] tells why.
    OcspNotAccepted,
    /// The responder does not know the certificate.
    OcspUnknown,
}

impl UnknownReason {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::NoCrl,
        Self::NotInScope,
        Self::CrlOtherKey,
        Self::CrlExpired,
        Self::CrlNotYetValid,
        Self::CrlMissing,
        Self::OcspNeeded,
        Self::OcspNoAnswer,
        Self::OcspNotAccepted,
        Self::OcspUnknown,
    ];

    /// What would tell whether it is revoked, with [`CONFIGURATION`] for the name of the file.
    pub const fn remedy(self) -> &'static str {
        match self {
            Self::NoCrl => {
                "add a CRL of its issuer to mapping.crls of CONFIGURATION, or a responder to the issuer's [[mapping.authority]]; the log and \
                 `rcmpd check-config` say of each CRL why it is not used"
            }
            Self::NotInScope => {
                "add the CRL of its distribution point, or a CRL without one, to mapping.crls of CONFIGURATION, or a responder to the issuer's \
                 [[mapping.authority]]"
            }
            Self::CrlOtherKey => {
                "add the CRL that the key of its issuer signed to mapping.crls of CONFIGURATION; if a key for CRLs alone signs them, add that \
                 key's certificate to mapping.intermediates, and a CRL of the CA that issued it to mapping.crls"
            }
            Self::CrlExpired => {
                "put the CA's current CRL in the place that mapping.crls of CONFIGURATION names"
            }
            Self::CrlNotYetValid => "wait until the CRL is valid, or check the clock of this machine",
            Self::CrlMissing => {
                "see in the log, or by `rcmpd check-config`, which CRL of mapping.crls of CONFIGURATION is not available and why; add a responder \
                 to the issuer's [[mapping.authority]], or remove the CRL from mapping.crls if no certificate needs it"
            }
            Self::OcspNeeded => "ask again: the responder is asked when a decision needs it",
            Self::OcspNoAnswer => {
                "see whether the responder that the issuer's [[mapping.authority]] of CONFIGURATION names runs and can be reached from here, or \
                 add a CRL to mapping.crls"
            }
            Self::OcspNotAccepted => {
                "see what the responder answered and why; ocsp_signer, ocsp_nonce and ocsp_hash are in the issuer's [[mapping.authority]] of \
                 CONFIGURATION; or add a CRL to mapping.crls"
            }
            Self::OcspUnknown => {
                "let the CA tell its responder of the certificate, or add a CRL to mapping.crls of CONFIGURATION"
            }
        }
    }

    /// A stable name for logs, metrics and audit.
    pub const fn name(self) -> &'static str {
        match self {
            Self::NoCrl => "no_crl",
            Self::NotInScope => "not_in_scope",
            Self::CrlOtherKey => "crl_other_key",
            Self::CrlExpired => "crl_expired",
            Self::CrlNotYetValid => "crl_not_yet_valid",
            Self::CrlMissing => "crl_missing",
            Self::OcspNeeded => "ocsp_needed",
            Self::OcspNoAnswer => "ocsp_no_answer",
            Self::OcspNotAccepted => "ocsp_not_accepted",
            Self::OcspUnknown => "ocsp_unknown",
        }
    }

    /// The reason in a few words, for operators.
    pub const fn text(self) -> &'static str {
        match self {
            Self::NoCrl => {
                "no CRL of its issuer is in use: none is configured, or it cannot be used, as when it has expired"
            }
            Self::NotInScope => "its issuer's CRLs are about other certificates",
            Self::CrlOtherKey => {
                "the CRL with its issuer's name is signed by another key than the certificate, and that key's own certificate \
                 does not let it sign for this one"
            }
            Self::CrlExpired => "the CRL of its issuer has expired",
            Self::CrlNotYetValid => "the CRL of its issuer is not yet valid: its thisUpdate is in the future",
            Self::CrlMissing => {
                "a configured CRL has not been available since the start, and it may be one of its issuer"
            }
            Self::OcspNeeded => "its issuer's OCSP responder has not been asked",
            Self::OcspNoAnswer => "its issuer's OCSP responder has not answered",
            Self::OcspNotAccepted => "the answer of its issuer's OCSP responder is not accepted",
            Self::OcspUnknown => "its issuer's OCSP responder does not know it",
        }
    }
}

/// What is trusted, and what is known of it.
pub struct Trust {
    chains: Chains,
    responders: HashMap<KeyId, Responder>,
    list_signers: Vec<ListSigner>,
    digests: Digests,
    paths: Cache<[u8; 32], Arc<Path>>,
    refusals: Cache<[u8; 32], Refusal>,
    crls: Box<[ArcSwapOption<Crl>]>,
    require_all_crls: bool,
    /// The newest CRL of each issuer and scope. INVARIANT: locked whenever a slot is stored.
    newest: Mutex<HashMap<[u8; 32], Age>>,
    answers: Cache<[u8; 32], OcspAnswer>,
    /// What came of the last question about a certificate, where that is no answer.
    failures: Cache<[u8; 32], OcspFailure>,
}

/// A certificate of a key that signs CRLs for the CA of its name (RFC 5280 6.3.3 (f)).
#[derive(Debug)]
struct ListSigner {
    key: KeyId,
    name: Name,
    not_before: FileTime,
    not_after: FileTime,
    /// The certificate as each of the CAs that issued it has issued it.
    links: Vec<Link>,
}

#[derive(Clone, Debug)]
struct OcspFailure {
    why: UnknownReason,
    text: Arc<str>,
}

/// How new a CRL is.
#[derive(Clone, Copy, Debug)]
struct Age {
    this_update: FileTime,
    number: Option<CrlNumber>,
}

impl Age {
    fn is_before(&self, known: &Self) -> bool {
        self.this_update < known.this_update
            || self.number.zip(known.number).is_some_and(|(number, known)| number < known)
    }
}

#[derive(Debug)]
struct Responder {
    url: Arc<str>,
    signer: Option<Signer>,
    asking: OcspAsking,
}

impl fmt::Debug for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let authorities: Vec<&str> = self.authorities().map(|it| it.subject.as_str()).collect();
        f.debug_struct("Trust").field("authorities", &authorities).finish_non_exhaustive()
    }
}

impl Trust {
    /// From what an operator configured.
    pub fn new(parts: Parts) -> Result<Self, TrustError> {
        if parts.anchors.is_empty() {
            return Err(TrustError::NoAnchors);
        }
        if parts.require_extended_key_usage && parts.extended_key_usages.is_empty() {
            return Err(TrustError::NoExtendedKeyUsages);
        }
        let anchors = parts.anchors.into_iter().enumerate().map(|(at, der)| (Configured::Anchor(at), der));
        let intermediates = parts.intermediates.into_iter().enumerate();
        let intermediates = intermediates.map(|(at, der)| (Configured::Intermediate(at), der));
        let mut origins = Vec::new();
        let mut authorities: Vec<Authority> = Vec::new();
        for (which, der) in anchors.chain(intermediates) {
            // An anchor that is also told as an intermediate is an anchor.
            if authorities.iter().any(|known| known.der == der) {
                continue;
            }
            let subject = subject(&der);
            let authority = Authority::new(der, matches!(which, Configured::Anchor(_)))
                .map_err(|why| TrustError::Certificate { which, subject, why })?;
            origins.push(which);
            authorities.push(authority);
        }
        let rules = Rules {
            usages: Usages { any_of: parts.extended_key_usages, required: parts.require_extended_key_usage },
            policies: parts.policies,
            authority_policies: parts.authority_policies,
            rsa_bits_min: parts.rsa_bits_min.unwrap_or(RSA_BITS_MIN),
        };
        let subjects: Vec<String> = authorities.iter().map(|authority| authority.subject.clone()).collect();
        let responders = responders(parts.ocsp, &authorities)?;
        let chains = Chains::new(authorities, rules).map_err(|(at, fault)| TrustError::Certificate {
            which: origins[at],
            subject: Some(subjects[at].clone()),
            why: fault.map_or(Unusable::NoIssuer, |fault| Unusable::Refused(fault.error, fault.detail)),
        })?;
        Ok(Self {
            responders,
            list_signers: list_signers(&chains),
            chains,
            digests: Digests::default(),
            paths: cache(PATHS_MAX),
            refusals: cache(REFUSALS_MAX),
            crls: (0..parts.crls).map(|_| ArcSwapOption::empty()).collect(),
            require_all_crls: parts.require_all_crls,
            newest: Mutex::default(),
            answers: cache(OCSP_ANSWERS_MAX),
            failures: cache(OCSP_FAILURES_MAX),
        })
    }

    /// The configured CAs, the anchors first, without keys that sign CRLs alone.
    pub fn authorities(&self) -> impl Iterator<Item = &Authority> {
        self.chains
            .authorities
            .iter()
            .map(|authority| &**authority)
            .filter(|authority| !authority.is_list_signer)
    }

    /// The configured CAs of a name in whichever encoding (RFC 5280 7.1), without keys that sign CRLs alone.
    pub fn named(&self, encoded: &[u8]) -> impl Iterator<Item = &Authority> {
        let name = Name::read(encoded).ok();
        let named = name.and_then(|name| self.chains.by_name.get(&name)).into_iter().flatten();
        named.map(|at| &*self.chains.authorities[*at]).filter(|authority| !authority.is_list_signer)
    }

    /// The configured CA at a place of a path, by its key and its name: a CA that was renamed may have kept
    /// its key.
    pub fn path_authority(&self, path: &Path, at: usize) -> Option<&Authority> {
        let link = path.links.get(at)?;
        let mut named = self.chains.named(&link.issuer_name);
        named.find(|authority| authority.key == link.issuer && !authority.is_list_signer)
    }

    /// A certificate's path to an anchor.
    ///
    /// Paths are remembered under the hash of the whole certificate and hold as long as every certificate in
    /// them is valid. Refusals are remembered unless time could change them.
    pub fn verify(&self, certificate: &[u8], now: FileTime) -> Result<Arc<Path>, Refusal> {
        self.verify_hashed(certificate, Sha256::digest(certificate).into(), now)
    }

    /// The same for a certificate that was read.
    pub fn verify_parsed(&self, certificate: &Certificate<'_>, now: FileTime) -> Result<Arc<Path>, Refusal> {
        let id = *certificate.sha256_by(|encoded| self.digests.of(encoded));
        self.cached(id, now, || self.chains.verify_parsed(certificate, now, Work::new()))
    }

    /// The same for a certificate whose SHA-256 is known.
    pub fn verify_hashed(
        &self,
        certificate: &[u8],
        id: [u8; 32],
        now: FileTime,
    ) -> Result<Arc<Path>, Refusal> {
        debug_assert_eq!(id, <[u8; 32]>::from(Sha256::digest(certificate)), "of another certificate");
        self.cached(id, now, || self.chains.verify(certificate, now, Work::new()))
    }

    fn cached(
        &self,
        id: [u8; 32],
        now: FileTime,
        verify: impl FnOnce() -> Result<Path, Refusal>,
    ) -> Result<Arc<Path>, Refusal> {
        if let Some(path) = self.paths.get(&id).filter(|path| path.is_valid_at(now)) {
            return Ok(path);
        }
        if let Some(refusal) = self.refusals.get(&id) {
            return Err(refusal);
        }
        match verify() {
            Ok(path) => {
                let path = Arc::new(path);
                self.paths.insert(id, Arc::clone(&path));
                Ok(path)
            }
            Err(refusal) => {
                if !refusal.is_temporary {
                    self.refusals.insert(id, refusal);
                }
                Err(refusal)
            }
        }
    }

    /// A path of a certificate that a client shows in a handshake, together with certificates of CAs. They
    /// are looked at when no path leads through the configured CAs, and lead to these: [`Trust::verify`] goes
    /// by the configured ones alone, so what is accepted here because of them is not cached.
    pub fn verify_shown(
        &self,
        certificate: &[u8],
        sent: &[impl AsRef<[u8]>],
        now: FileTime,
    ) -> Result<Arc<Path>, Rejected> {
        match self.verify(certificate, now) {
            Ok(path) => Ok(path),
            Err(_) if !sent.is_empty() => self.chains.verify_shown(certificate, sent, now).map(Arc::new),
            Err(refusal) => Err(self.chains.rejected(refusal)),
        }
    }

    /// Reads and verifies a CRL and puts it into a slot, in the place of what is there. This is the only time
    /// that its signature is looked at; it takes a third of a second for fifty million bytes, so call it on a
    /// thread of its own in a runtime. Decisions go on meanwhile.
    ///
    /// A list that is older, by thisUpdate or cRLNumber, than one ever installed for the same issuer and
    /// scope is refused. One that is expired, or from the future, is refused, and kept where there is none
    /// that is current: nothing in its scope is known to be good by a delta list that is not current.
    pub fn install_crl(&self, slot: usize, encoded: &[u8], now: FileTime) -> Result<CrlFacts, CrlError> {
        let slot = self.crls.get(slot).ok_or(CrlError::NoSuchSlot)?;
        let unverified = UnverifiedCrl::parse(encoded)?;
        if let Err(error) = unverified.check_dates(now) {
            self.keep_out_of_date(slot, unverified, now);
            return Err(error);
        }
        let (crl, issuer) = self.verified_crl(unverified, true)?;
        let facts = crl.facts(issuer);
        let age = Age { this_update: crl.this_update, number: crl.number };
        let key = scope_key(&crl);
        let mut newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        match newest.get(&key) {
            Some(known) if age.is_before(known) => return Err(CrlError::Older),
            None if newest.len() >= SCOPES_MAX => return Err(CrlError::TooManyScopes),
            _ => {}
        }
        // A server of one CA's list must not remove it by serving another CA's.
        let known = slot.load();
        if known
            .as_ref()
            .is_some_and(|known| known.currency(now) == Currency::Current && scope_key(known) != key)
        {
            return Err(CrlError::OtherScope);
        }
        newest.insert(key, age);
        slot.store(Some(Arc::new(crl)));
        Ok(facts)
    }

    /// Verifies a CRL that is expired or not yet valid, and puts it into a slot that has none, or another
    /// such CRL of the same CA and scope that is older.
    fn keep_out_of_date(&self, slot: &ArcSwapOption<Crl>, unverified: UnverifiedCrl<'_>, now: FileTime) {
        // The same list again, at each look: its signature was looked at.
        let is_same = |known: &Crl| {
            (known.this_update, known.next_update, known.number, known.is_delta)
                == (unverified.this_update, unverified.next_update, unverified.number, unverified.is_delta)
                && known.scope == unverified.scope
                && Name::read(unverified.issuer).is_ok_and(|name| name == known.issuer)
        };
        if slot.load().as_ref().is_some_and(|known| is_same(known)) {
            return;
        }
        let Ok((crl, _)) = self.verified_crl(unverified, false) else { return };
        let age = Age { this_update: crl.this_update, number: crl.number };
        let key = scope_key(&crl);
        let newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        let gives_way = |known: &Crl| {
            let known_age = Age { this_update: known.this_update, number: known.number };
            known.currency(now) != Currency::Current && scope_key(known) == key && !age.is_before(&known_age)
        };
        let known = slot.load();
        if !newest.get(&key).is_some_and(|newest| age.is_before(newest))
            && known.as_ref().is_none_or(|known| gives_way(known))
        {
            slot.store(Some(Arc::new(crl)));
        }
    }

    /// A CRL whose signature is that of a configured CA, which is returned, too.
    fn verified_crl(
        &self,
        unverified: UnverifiedCrl<'_>,
        was_current: bool,
    ) -> Result<(Crl, &Authority), CrlError> {
        let issuer = self.crl_issuer(&unverified)?;
        let crl = Crl {
            authority: issuer.key,
            issuer: issuer.subject_name.clone(),
            entries: unverified.entries()?,
            this_update: unverified.this_update,
            next_update: unverified.next_update,
            number: unverified.number,
            is_delta: unverified.is_delta,
            scope: unverified.scope,
            was_current,
        };
        Ok((crl, issuer))
    }

    /// Takes over what another trust, from a configuration before this, has in a slot, if its issuer is still
    /// configured; nothing is read or verified again. Returns whether there is something now that was current
    /// once.
    pub fn adopt_crl(&self, slot: usize, from: &Self, from_slot: usize) -> bool {
        let (Some(slot), Some(from_slot)) = (self.crls.get(slot), from.crls.get(from_slot)) else {
            return false;
        };
        let Some(crl) = from_slot.load_full() else { return false };
        if !self
            .chains
            .authorities
            .iter()
            .any(|it| it.key == crl.authority && it.subject_name == crl.issuer && it.signs_crls)
        {
            return false;
        }
        let key = scope_key(&crl);
        let age = from.newest.lock().unwrap_or_else(PoisonError::into_inner).get(&key).copied();
        let mut newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(age) = age {
            if newest.get(&key).is_some_and(|known| age.is_before(known)) {
                return false;
            }
            newest.insert(key, age);
        }
        let was_current = crl.was_current;
        slot.store(Some(crl));
        was_current
    }

    /// Takes over how old lists may be, of all lists that a trust from a configuration before this ever had:
    /// what is older stays refused, wherever it comes from now.
    pub fn remember_ages(&self, from: &Self) {
        let known = from.newest.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        for (key, age) in known {
            if newest.len() < SCOPES_MAX && !newest.get(&key).is_some_and(|own| age.is_before(own)) {
                newest.insert(key, age);
            }
        }
    }

    /// What the list in a slot says about itself, if there is one; it may be expired by now, and was not when
    /// it was installed.
    pub fn crl_facts(&self, slot: usize) -> Option<CrlFacts> {
        let crl = self.crls.get(slot)?.load();
        let crl = crl.as_ref().filter(|crl| crl.was_current)?;
        let issuer = self.chains.authority(crl.authority, &crl.issuer)?;
        Some(crl.facts(issuer))
    }

    /// The configured CA that signed a CRL.
    fn crl_issuer(&self, crl: &UnverifiedCrl<'_>) -> Result<&Authority, CrlError> {
        let mut error = CrlError::UnknownIssuer;
        let mut tried: Vec<KeyId> = Vec::new();
        let name = Name::read(crl.issuer)?;
        for authority in self.chains.named(&name) {
            if !authority.signs_crls {
                if error == CrlError::UnknownIssuer {
                    error = CrlError::NoCrlSign;
                }
                continue;
            }
            if tried.contains(&authority.key) {
                continue;
            }
            tried.push(authority.key);
            match crl.signed.verify(&authority.public_key) {
                Ok(()) => return Ok(authority),
                Err(SignatureError::BadSignature) => error = CrlError::BadSignature,
                Err(SignatureError::UnsupportedAlgorithm) if error != CrlError::BadSignature => {
                    error = CrlError::UnsupportedAlgorithm;
                }
                Err(SignatureError::UnsupportedAlgorithm) => {}
            }
        }
        Err(error)
    }

    /// Whether anything on a path is revoked: the certificate and every intermediate, by the installed lists
    /// and the remembered OCSP answers that are current. Each needs one list with it in scope, or one answer;
    /// whatever says that it is revoked counts more.
    pub fn revocation(&self, path: &Path, now: FileTime) -> Revocation {
        let mut verdict = Revocation::Good;
        for at in 0..path.links.len() {
            let which = path.which(at);
            match self.status(path, at, now) {
                Status::Good => {}
                Status::Revoked { since, reason } => return Revocation::Revoked { which, since, reason },
                Status::Unknown(why) if verdict == Revocation::Good => {
                    verdict = Revocation::Unknown { which, why };
                }
                Status::Unknown(_) => {}
            }
        }
        verdict
    }

    /// The status of a certificate of a path.
    fn status(&self, path: &Path, at: usize, now: FileTime) -> Status {
        let signs = |crl: &Crl| self.signs_lists_for(crl, &path.links[at..], now);
        self.status_by(&path.links[at], now, signs)
    }

    /// Whether the key of a list, which has the name of the first link's issuer, signs lists for it, though
    /// it is not the key that signed the certificate: by a certificate for lists alone that this issuer, or a
    /// CA above it on the same verified path, has issued, and that is neither expired nor revoked by a list
    /// that its issuer signed itself.
    ///
    /// RFC 5280 6.3.3 (f) asks for a path to the same anchor. This is narrower: a CA elsewhere below the
    /// anchor that certifies a key under the name of another CA gains nothing. A key that signs certificates,
    /// too, has lists of its own certificates alone (AD CS makes one list for each key of a CA), so nothing
    /// would be known of certificates by the other key.
    fn signs_lists_for(&self, crl: &Crl, above: &[Link], now: FileTime) -> bool {
        let of_list = |signer: &&ListSigner| signer.key == crl.authority && signer.name == crl.issuer;
        self.list_signers.iter().filter(of_list).any(|signer| {
            let is_above = |link: &Link| {
                above.iter().any(|it| it.issuer == link.issuer && it.issuer_name == link.issuer_name)
            };
            is_within(signer.not_before, signer.not_after, now)
                && signer
                    .links
                    .iter()
                    .any(|link| is_above(link) && self.status_by(link, now, |_| false) == Status::Good)
        })
    }

    /// The status of a certificate, by its issuer's lists and answers; `signs` tells which keys sign lists
    /// for the issuer beside its own.
    fn status_by(&self, link: &Link, now: FileTime, signs: impl Fn(&Crl) -> bool) -> Status {
        let mut good_by_list = false;
        let mut good_by_answer = false;
        let mut delta_out_of_date = None;
        let mut is_list_missing = false;
        let mut why = UnknownReason::NoCrl;
        for slot in &self.crls {
            let crl = slot.load();
            is_list_missing |= self.require_all_crls && crl.is_none();
            let Some(crl) = crl.as_ref().filter(|crl| crl.issuer == link.issuer_name) else { continue };
            if crl.authority != link.issuer && !signs(crl) {
                if why == UnknownReason::NoCrl {
                    why = UnknownReason::CrlOtherKey;
                }
                continue;
            }
            if !crl.scope.covers(link) {
                if matches!(why, UnknownReason::NoCrl | UnknownReason::CrlOtherKey) {
                    why = UnknownReason::NotInScope;
                }
                continue;
            }
            match crl.currency(now) {
                // An operator who has delta lists wants revocations sooner than complete lists have them.
                Currency::Expired if crl.is_delta => delta_out_of_date = Some(UnknownReason::CrlExpired),
                Currency::NotYetValid if crl.is_delta => {
                    delta_out_of_date = Some(UnknownReason::CrlNotYetValid);
                }
                Currency::Expired => why = UnknownReason::CrlExpired,
                Currency::NotYetValid => why = UnknownReason::CrlNotYetValid,
                Currency::Current => match crl.entries.find(&link.serial) {
                    Some((since, reason)) => return Status::Revoked { since, reason },
                    None => good_by_list |= !crl.is_delta,
                },
            }
        }
        let has_responder = self.responders.contains_key(&link.issuer);
        if has_responder {
            let answer = self.answers.get(&link.id).filter(|answer| answer.is_current(now));
            match answer.map(|answer| answer.status) {
                Some(OcspStatus::Revoked { since, reason }) => return Status::Revoked { since, reason },
                Some(OcspStatus::Good) => good_by_answer = true,
                Some(OcspStatus::Unknown) => why = UnknownReason::OcspUnknown,
                None => {
                    why = self.failures.get(&link.id).map_or(UnknownReason::OcspNeeded, |failure| failure.why)
                }
            }
        }
        match delta_out_of_date {
            Some(why) => Status::Unknown(why),
            None if good_by_answer => Status::Good,
            // An answer would say more than the lists.
            None if good_by_list && is_list_missing && !has_responder => {
                Status::Unknown(UnknownReason::CrlMissing)
            }
            None if good_by_list && !is_list_missing => Status::Good,
            None => Status::Unknown(why),
        }
    }

    /// What has to be asked before [`Trust::revocation`] can tell: one question for each certificate of the
    /// path that has a responder and nothing current. Each gets a nonce of its own, of so many octets.
    pub fn ocsp_needed(
        &self,
        path: &Path,
        now: FileTime,
        mut nonce: impl FnMut(usize) -> Option<Nonce>,
    ) -> Vec<OcspQuestion> {
        let mut questions = Vec::new();
        for (at, link) in path.links.iter().enumerate() {
            let Status::Unknown(
                UnknownReason::OcspNeeded | UnknownReason::OcspNoAnswer | UnknownReason::OcspNotAccepted,
            ) = self.status(path, at, now)
            else {
                continue;
            };
            if let Some(responder) = self.responders.get(&link.issuer)
                && let Some(issuer) = self.chains.authority(link.issuer, &link.issuer_name)
            {
                let asking = responder.asking;
                let nonce = Some(asking.nonce_len).filter(|len| *len > 0).and_then(&mut nonce);
                questions.push(OcspQuestion::new(Arc::clone(&responder.url), asking, issuer, link, nonce));
            }
        }
        questions
    }

    /// Whether a current answer has come since a question was made.
    pub fn is_answered(&self, question: &OcspQuestion, now: FileTime) -> bool {
        self.answers.get(&question.key).is_some_and(|answer| answer.is_current(now))
    }

    /// Remembers what a responder answered, if it is an answer: for as long as it says, and an hour at most.
    /// An answer older than the one that is known is refused.
    pub fn ocsp_answer(
        &self,
        question: &OcspQuestion,
        response: &[u8],
        now: FileTime,
    ) -> Result<OcspAnswer, OcspError> {
        let responder = self.responders.get(&question.authority).ok_or(OcspError::NotAsked)?;
        let issuer = self.chains.authority(question.authority, &question.issuer_name);
        let issuer = issuer.ok_or(OcspError::NotAsked)?;
        let response = UnverifiedResponse::parse(response)?;
        let answer = response.answer(&question.asked, issuer, responder.signer.as_ref(), now)?;
        if self.answers.get(&question.key).is_some_and(|known| answer.this_update < known.this_update) {
            return Err(OcspError::Older);
        }
        self.answers.insert(question.key, answer);
        self.failures.remove(&question.key);
        Ok(answer)
    }

    /// Remembers why a question has no answer: the responder `has_answered` something that is not accepted,
    /// or nothing.
    pub fn ocsp_failed(&self, question: &OcspQuestion, has_answered: bool, text: &str) {
        let why = match has_answered {
            true => UnknownReason::OcspNotAccepted,
            false => UnknownReason::OcspNoAnswer,
        };
        self.failures.insert(question.key, OcspFailure { why, text: text.into() });
    }

    /// Why the last question about a certificate of a path has no answer.
    pub fn ocsp_failure(&self, path: &Path, which: Which) -> Option<Arc<str>> {
        let link = path.links.iter().enumerate().find(|(at, _)| path.which(*at) == which)?.1;
        self.failures.get(&link.id).map(|failure| failure.text)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Status {
    Good,
    Revoked { since: FileTime, reason: RevocationReason },
    Unknown(UnknownReason),
}

fn cache<T: Clone>(max: u64) -> Cache<[u8; 32], T> {
    // It grows as it fills: a small service does not pay for what a large one needs.
    Cache::with_weighter(256, max, UnitWeighter)
}

fn subject(der: &[u8]) -> Option<String> {
    let certificate = Certificate::parse(der).ok()?;
    certificate.subject_name().ok().map(|name| name.to_string())
}

fn responders(
    configured: Vec<OcspResponder>,
    authorities: &[Authority],
) -> Result<HashMap<KeyId, Responder>, TrustError> {
    let mut responders = HashMap::new();
    for (at, responder) in configured.into_iter().enumerate() {
        let refuse = |which, der: &[u8], why| TrustError::Certificate { which, subject: subject(der), why };
        let which = Configured::OcspAuthority(at);
        let signer = match &responder.signer {
            None => None,
            Some(der) => Some(
                Signer::new(der).map_err(|error| refuse(Configured::OcspSigner(at), der, error.into()))?,
            ),
        };
        let authority = authorities
            .iter()
            .find(|authority| authority.der == responder.authority)
            .ok_or_else(|| refuse(which, &responder.authority, Unusable::NotConfigured))?;
        let (url, asking) = (responder.url.into(), responder.asking);
        let known = responders.insert(authority.key, Responder { url, signer, asking });
        if known.is_some() {
            return Err(refuse(which, &responder.authority, Unusable::Duplicate));
        }
    }
    Ok(responders)
}

/// The certificates of keys that sign CRLs alone.
fn list_signers(chains: &Chains) -> Vec<ListSigner> {
    let mut signers = Vec::new();
    for (authority, issuers) in chains.authorities.iter().zip(&chains.issuers) {
        let Ok(certificate) = Certificate::parse(&authority.der) else { continue };
        if !authority.is_list_signer {
            continue;
        }
        let is_ca = extensions::basic_constraints(&certificate).is_ok_and(|(is_ca, _)| is_ca);
        let issuers =
            issuers.iter().map(|at| &chains.authorities[*at]).filter(|issuer| !issuer.is_list_signer);
        signers.push(ListSigner {
            key: authority.key,
            name: authority.subject_name.clone(),
            not_before: authority.not_before,
            not_after: authority.not_after,
            links: issuers.filter_map(|issuer| Link::new(&certificate, issuer, is_ca).ok()).collect(),
        });
    }
    signers
}

/// Names the issuer and scope of a CRL.
fn scope_key(crl: &Crl) -> [u8; 32] {
    let Scope { only, distribution_point } = &crl.scope;
    let mut hash = Sha256::new().chain_update(crl.authority.0);
    hash.update([*only as u8, u8::from(crl.is_delta)]);
    hash.update((crl.issuer.as_bytes().len() as u64).to_be_bytes());
    hash.update(crl.issuer.as_bytes());
    hash.update([u8::from(distribution_point.is_some())]);
    for name in distribution_point.iter().flatten() {
        hash.update(name);
    }
    hash.finalize().into()
}
