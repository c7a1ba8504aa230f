//! Who checks a proof, and which store decides about a user.

use super::crypto::{self, NtHash, SessionBaseKey, ntowf_v2, session_base_key};
use crate::{BoxFuture, UserIdentity};
use dtyp::Sid;
use std::net::IpAddr;
use std::sync::Arc;
use subtle::{Choice, ConstantTimeEq};

/// What a client sent to prove its password. Names are as the client wrote them, because they are part of the
/// proof; nothing in here is known to be true.
#[derive(Clone, PartialEq, Eq)]
pub struct NtlmProof {
    /// UserName.
    pub user: String,
    /// DomainName.
    pub domain: String,
    /// Workstation.
    pub workstation: String,
    /// The challenge that the proof answers.
    pub server_challenge: [u8; 8],
    /// NtChallengeResponse, whole: at least 16 octets of proof, and the blob.
    pub nt_response: Vec<u8>,
    /// LmChallengeResponse, which proves nothing here.
    pub lm_response: Vec<u8>,
    /// Where the client is, for limits of attempts.
    pub source: IpAddr,
}

/// Without the responses, from which a password can be guessed.
impl std::fmt::Debug for NtlmProof {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "NtlmProof of {}\\{} at {}", self.domain, self.user, self.source)
    }
}

/// What became of a proof.
#[derive(Debug)]
pub enum ProofVerdict {
    /// The client knows the password.
    Accepted {
        /// The key that all keys of the context are made from.
        session_base_key: SessionBaseKey,
        /// The user, as the store or the domain controller knows it.
        identity: Box<UserIdentity>,
    },
    /// It does not, or the account may not be used.
    Rejected {
        /// The account that the guess was for, if the checker knows it and there is one. It is for counting
        /// guesses alone: the client learns nothing of it.
        account: Option<Sid>,
        /// Why, for the audit record only.
        detail: String,
    },
    /// The store or every domain controller failed. Then the client is refused, and no other store is asked.
    Unavailable(String),
}

impl ProofVerdict {
    /// A rejection that names no account.
    pub fn rejected(detail: impl Into<String>) -> Self {
        Self::Rejected { account: None, detail: detail.into() }
    }

    /// The account that the proof is of, whatever became of it, if the checker says so.
    pub fn account(&self) -> Option<Sid> {
        match self {
            Self::Accepted { identity, .. } => identity.sid,
            Self::Rejected { account, .. } => *account,
            Self::Unavailable(_) => None,
        }
    }
}

/// Checks proofs: against local hashes, or at a domain controller.
pub trait ProofChecker: Send + Sync {
    /// Checks one proof.
    fn check<'a>(&'a self, proof: &'a NtlmProof) -> BoxFuture<'a, ProofVerdict>;

    /// Which store decides about the proof's user, for a checker with several.
    fn store(&self, _: &NtlmProof) -> StoreChoice {
        StoreChoice::Local
    }
}

/// A local account, as the store has it.
#[derive(Clone, Debug)]
pub struct LocalAccount {
    /// The NT hash. `None` if the account has none, for instance only argon2id: then it cannot use NTLM.
    pub nt_hash: Option<NtHash>,
    /// Whether the account may be used now: `false` if it is disabled, expired or locked.
    pub is_usable: bool,
    /// What is known of it.
    pub identity: UserIdentity,
}

/// The NT hashes of local accounts.
pub trait NtHashes: Send + Sync {
    /// The account of a name, which the store compares by its own rules. `None` if there is none. An error
    /// says why the store could not answer.
    fn look_up<'a>(&'a self, user: &'a str) -> BoxFuture<'a, Result<Option<LocalAccount>, String>>;
}

/// Checks proofs against local hashes.
///
/// An account that is unknown, unusable, without a hash or with an empty password gets the same answer as a
/// wrong password, after the same computations under another key.
pub struct LocalChecker {
    hashes: Arc<dyn NtHashes>,
    /// The key where there is none. It is random, so that no password fits it.
    dummy: NtHash,
}

impl LocalChecker {
    /// A checker. `dummy` is random; it takes the place of hashes that are not there.
    pub fn new(hashes: Arc<dyn NtHashes>, dummy: [u8; 16]) -> Self {
        Self { hashes, dummy: NtHash::new(dummy) }
    }
}

impl ProofChecker for LocalChecker {
    fn check<'a>(&'a self, proof: &'a NtlmProof) -> BoxFuture<'a, ProofVerdict> {
        Box::pin(async move {
            match self.hashes.look_up(&proof.user).await {
                Ok(account) => check_locally(account, &self.dummy, proof),
                Err(error) => ProofVerdict::Unavailable(error),
            }
        })
    }
}

fn check_locally(account: Option<LocalAccount>, dummy: &NtHash, proof: &NtlmProof) -> ProofVerdict {
    let hash = account.as_ref().and_then(|account| account.nt_hash.as_ref());
    let is_usable = account.as_ref().is_some_and(|account| account.is_usable);
    // Nothing below up to the answer depends on whether there is such an account.
    let is_of_nothing = hash.unwrap_or(dummy).is_of_nothing();
    let may_be_used = Choice::from(u8::from(hash.is_some() & is_usable)) & !is_of_nothing;
    let hash = dummy.or(hash.unwrap_or(dummy), may_be_used);
    let Some((claimed, blob)) = proof.nt_response.split_first_chunk::<16>() else {
        return ProofVerdict::rejected("no NTLM version 2 proof");
    };
    // The domain is part of the key. Clients put in the one that the user typed, or none ([MS-NLMP]
    // 3.2.5.1.2).
    let [as_sent, without] = [&proof.domain[..], ""].map(|domain| {
        let key = ntowf_v2(&hash, &proof.user, domain);
        let expected = crypto::proof(&key, &proof.server_challenge, blob);
        (key, expected.ct_eq(claimed))
    });
    if !bool::from((as_sent.1 | without.1) & may_be_used) {
        let detail = match &account {
            None => "unknown account",
            Some(LocalAccount { nt_hash: None, .. }) => "account without an NT hash",
            Some(_) if bool::from(is_of_nothing) => "account with an empty password",
            Some(LocalAccount { is_usable: false, .. }) => "account disabled, expired or locked",
            Some(_) => "wrong password",
        };
        let account = account.and_then(|account| account.identity.sid);
        return ProofVerdict::Rejected { account, detail: detail.into() };
    }
    let key = if bool::from(as_sent.1) { as_sent.0 } else { without.0 };
    match account {
        Some(account) => ProofVerdict::Accepted {
            session_base_key: session_base_key(&key, claimed),
            identity: Box::new(account.identity),
        },
        None => ProofVerdict::rejected("unknown account"),
    }
}

/// A domain whose users a domain controller checks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DomainNames {
    /// NetBIOS name.
    pub netbios: String,
    /// DNS names and suffixes of user principal names; empty if none is known.
    pub dns: Vec<String>,
}

/// Which store decides about a user.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StoreChoice {
    /// The local one.
    Local,
    /// The domain with this index.
    Domain(usize),
    /// None: the client names a domain that is not configured.
    Unknown,
}

/// Which store decides about a user, by the names in its message and by nothing else.
///
/// - DomainName empty, `.` or one of our own names: the local store.
/// - DomainName of a configured domain, its NetBIOS name or one of the others: that domain's controllers.
/// - DomainName empty and UserName `name@suffix`: the suffix decides as a DomainName would. It never means
///   the local store unless it is one of our own names.
/// - Everything else: no store.
///
/// No outcome of one store leads to another.
pub fn choose_store(user: &str, domain: &str, own_names: &[String], domains: &[DomainNames]) -> StoreChoice {
    let domain = match user.rsplit_once('@') {
        Some((_, suffix)) if domain.is_empty() => suffix,
        _ if domain.is_empty() || domain == "." => return StoreChoice::Local,
        _ => domain,
    };
    let domain = crypto::upper_case(domain);
    let is = |name: &str| crypto::upper_case(name) == domain;
    // A domain that is configured is never the local store, even where its name is one of ours, too.
    let found = domains.iter().position(|names| is(&names.netbios) || names.dns.iter().any(|dns| is(dns)));
    match found {
        Some(at) => StoreChoice::Domain(at),
        None if own_names.iter().any(|name| is(name)) => StoreChoice::Local,
        None => StoreChoice::Unknown,
    }
}

/// Sends each proof to the store that decides about it.
pub struct StoreRouter {
    own_names: Vec<String>,
    local: Option<Arc<dyn ProofChecker>>,
    names: Vec<DomainNames>,
    domains: Vec<Arc<dyn ProofChecker>>,
}

impl StoreRouter {
    /// A router. `own_names` are the names by which clients may mean the local store. A domain has one entry
    /// with all its names: limits count by the index of the entry.
    pub fn new(
        own_names: Vec<String>,
        local: Option<Arc<dyn ProofChecker>>,
        domains: Vec<(DomainNames, Arc<dyn ProofChecker>)>,
    ) -> Self {
        let (names, domains) = domains.into_iter().unzip();
        Self { own_names, local, names, domains }
    }
}

impl ProofChecker for StoreRouter {
    fn check<'a>(&'a self, proof: &'a NtlmProof) -> BoxFuture<'a, ProofVerdict> {
        let choice = self.store(proof);
        let store = match choice {
            StoreChoice::Local => self.local.as_ref(),
            StoreChoice::Domain(at) => self.domains.get(at),
            StoreChoice::Unknown => None,
        };
        match store {
            Some(store) => store.check(proof),
            None => Box::pin(std::future::ready(ProofVerdict::rejected(match choice {
                StoreChoice::Local => "no local accounts are configured",
                _ => "the domain is not configured",
            }))),
        }
    }

    fn store(&self, proof: &NtlmProof) -> StoreChoice {
        choose_store(&proof.user, &proof.domain, &self.own_names, &self.names)
    }
}
