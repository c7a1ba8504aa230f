//! Accounts of SOAP clients, as they are at each call.

use super::mapped::MappedCertificates;
use crate::clock::now;
use crate::config::Config;
use crate::sidecar::of_record;
use account_store::{
    AccountStore, Domain, Matches, PasswordHash, PasswordHashes, Query, Record, Revision, StoreError,
};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use dtyp::{FileTime, Sid};
use quick_cache::sync::Cache;
use rcmp_service::mapping::restriction;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use sidecar::{Assurance, Group, Identity};
use std::sync::Arc;
use tlsnego_service::session;
use tlsnego_tokio::gateway::AccountRefused;

/// The accounts of the local store.
#[derive(Clone)]
pub(super) struct Accounts {
    store: Option<Arc<dyn AccountStore>>,
    hashes: Option<Arc<dyn PasswordHashes>>,
    /// The marks of accounts at a revision of the store. None has no password.
    marks: Arc<Cache<Sid, (Revision, Option<u64>)>>,
    certificates: MappedCertificates,
    domain: Domain,
}

/// Marks that are kept, some 100 bytes each.
const MARKS_MAX: usize = 10_000;

/// What a session keeps of its account.
#[derive(Default, Serialize, Deserialize)]
struct Detail {
    /// Of a local account that was proved by a password: [`mark`] of the password.
    mark: Option<u64>,
    /// Until when the account counts, by its certificate.
    not_after: Option<u64>,
    /// Of a local account that was proved by a certificate: that certificate, in DER and base64.
    certificate: Option<String>,
    /// An account of another domain.
    elsewhere: Option<Elsewhere>,
}

/// An account of another domain, as the server of that domain described it when the session was opened.
#[derive(Serialize, Deserialize)]
struct Elsewhere {
    domain: String,
    account: String,
    upn: Option<String>,
    full_name: Option<String>,
    groups: Vec<String>,
}

impl Detail {
    fn into_identity(self, sid: Sid) -> session::Identity {
        session::Identity {
            account: sid.to_string(),
            detail: serde_json::to_vec(&self).unwrap_or_default().into(),
        }
    }
}

impl Accounts {
    pub(super) fn new(
        config: &Config,
        store: Option<Arc<dyn AccountStore>>,
        hashes: Option<Arc<dyn PasswordHashes>>,
        certificates: MappedCertificates,
    ) -> Self {
        let marks = Arc::new(Cache::new(MARKS_MAX));
        Self { store, hashes, marks, certificates, domain: config.domain.clone() }
    }

    /// The account that a user name means: `alice`, `CONTOSO\alice`, `contoso.example\alice` or a user
    /// principal name. Otherwise why there is none that may be used now.
    pub(super) async fn named(&self, name: &str) -> Result<Result<Arc<Record>, &'static str>, String> {
        let Some(store) = &self.store else { return Ok(Err(UNKNOWN)) };
        let query = match name.split_once('\\') {
            Some((domain, name)) if self.domain.is_called(domain) => Query::Name(name.to_owned()),
            Some(_) => return Ok(Err("another_domain")),
            None if name.contains('@') => Query::UserPrincipalName(name.to_owned()),
            None => Query::Name(name.to_owned()),
        };
        store.refresh().await.map_err(|error| error.to_string())?;
        usable(store.find(&query).await)
    }

    /// The [`mark`] of an account now; none if it has no password. Each call asks for it, and to read and
    /// unseal the hash takes longer than all else about the account. A change of a hash changes the revision.
    pub(super) async fn mark(&self, record: &Record) -> Result<Option<u64>, StoreError> {
        let (Some(store), Some(hashes)) = (&self.store, &self.hashes) else { return Ok(None) };
        let sid = record.account.sid;
        let before = store.revision()?;
        if let Some((at, mark)) = self.marks.get(&sid)
            && at == before
        {
            return Ok(mark);
        }
        let mark = hashes.password_hash(&sid).await?.map(|hash| mark(&sid, &hash));
        if store.revision()?.is_unbroken_since(&before) {
            self.marks.insert(sid, (before, mark));
        }
        Ok(mark)
    }

    /// An account as a session has it, with the [`mark`] of its password.
    pub(super) fn of_record(record: &Record, mark: Option<u64>) -> session::Identity {
        Detail { mark, ..Detail::default() }.into_identity(record.account.sid)
    }

    /// An account that a certificate is mapped to, as a session has it.
    pub(super) fn of_certificate(identity: &Identity, leaf: &[u8]) -> session::Identity {
        let certificate = identity.is_ours.then(|| STANDARD.encode(leaf));
        Detail { certificate, ..Self::detail_of(identity) }.into_identity(identity.sid)
    }

    /// An account as its domain described it, as a session has it.
    pub(super) fn of_identity(identity: &Identity) -> session::Identity {
        Self::detail_of(identity).into_identity(identity.sid)
    }

    fn detail_of(identity: &Identity) -> Detail {
        let elsewhere = (!identity.is_ours).then(|| Elsewhere {
            domain: identity.domain.clone(),
            account: identity.account.clone(),
            upn: identity.upn.clone(),
            full_name: identity.full_name.clone(),
            groups: identity.groups.iter().map(|group| group.sid.to_string()).collect(),
        });
        Detail { not_after: Some(identity.not_after.0), elsewhere, ..Detail::default() }
    }

    /// The account of a session as it is now: a local one is looked up again, so what was withdrawn of its
    /// groups, another password, another mapping of its certificate, or the account itself, counts from this
    /// call on.
    pub(super) async fn current(&self, identity: &session::Identity) -> Result<Identity, AccountRefused> {
        let ends = |error: &str| AccountRefused { error: error.to_owned(), ends_session: true };
        let stays = |error: String| AccountRefused { error, ends_session: false };
        let sid: Sid = identity.account.parse().map_err(|_| ends("it has no SID"))?;
        let detail: Detail =
            serde_json::from_slice(&identity.detail).map_err(|_| ends("the session does not describe it"))?;
        if detail.not_after.is_some_and(|not_after| FileTime(not_after) <= now()) {
            return Err(ends("its certificate or its account has expired"));
        }
        if let Some(elsewhere) = detail.elsewhere {
            return elsewhere.identity(sid).ok_or_else(|| ends("a group has no SID"));
        }
        if let Some(certificate) = detail.certificate {
            let leaf = STANDARD.decode(certificate).map_err(|_| ends("its certificate cannot be read"))?;
            let mapped = self.certificates.account(leaf.into(), Vec::new()).await;
            let mapped = mapped.map_err(|no| AccountRefused {
                error: format!("its certificate is mapped no more: {}", no.why),
                ends_session: !no.is_undecided,
            })?;
            if mapped.sid != sid {
                return Err(ends("its certificate is mapped to another account"));
            }
            // As the store of the decisions has it, which may be another one than that of passwords.
            return Ok(Identity::clone(&mapped));
        }
        let store = self.store.as_ref().ok_or_else(|| ends("there is no account store"))?;
        store.refresh().await.map_err(|error| stays(error.to_string()))?;
        let record = usable(store.find(&Query::Sid(sid)).await).map_err(stays)?;
        let record = record.map_err(|why| ends(&format!("it is {why}")))?;
        if detail.mark.is_some() && self.hashes.is_some() {
            let mark = self.mark(&record).await.map_err(|error| stays(error.to_string()))?;
            if mark != detail.mark {
                return Err(ends("it has another password"));
            }
        }
        Ok(of_record(&record, &self.domain.netbios))
    }
}

/// A number that changes with the account and its password.
pub(super) fn mark(sid: &Sid, hash: &PasswordHash) -> u64 {
    let mut digest = Sha256::new();
    digest.update(sid.to_string());
    digest.update(hash.to_phc().as_bytes());
    let digest: [u8; 32] = digest.finalize().into();
    let (start, _) = digest.as_chunks::<8>();
    u64::from_le_bytes(start[0]) | 1
}

/// No account has the name.
pub(super) const UNKNOWN: &str = "unknown";

/// The account of a look-up, or why it may not be used now. An entry of another domain is never used by a
/// password of ours.
fn usable(found: Result<Matches, StoreError>) -> Result<Result<Arc<Record>, &'static str>, String> {
    let record = match found.map_err(|error| error.to_string())? {
        Matches::One(record) => record,
        Matches::None => return Ok(Err(UNKNOWN)),
        Matches::Many(_) => return Ok(Err("ambiguous")),
    };
    if record.account.home_domain.is_some() {
        return Ok(Err("of_another_domain"));
    }
    Ok(match restriction(&record.account, now()) {
        None => Ok(record),
        Some(reason) => Err(reason.name()),
    })
}

impl Elsewhere {
    fn identity(self, sid: Sid) -> Option<Identity> {
        let groups = self.groups.iter().map(|sid| sid.parse().map(|sid| Group { sid, name: None }));
        Some(Identity {
            domain: self.domain,
            is_ours: false,
            account: self.account,
            upn: self.upn,
            full_name: self.full_name,
            mail: None,
            sid,
            groups: groups.collect::<Result<_, _>>().ok()?,
            method: None,
            assurance: Assurance::Unknown,
            policy_revision: 0,
            stale_s: None,
            not_after: FileTime::NEVER,
        })
    }
}
