use dcerpc::backoff::{ANSWER_TIME, Backoff, guessed_name};
use dcerpc::limits::source_of;
use dcerpc_tokio::LogLimiter;
use rpc_auth::BoxFuture;
use rpc_auth::ntlm::{NtlmProof, ProofChecker, ProofVerdict, StoreChoice};
use std::sync::Arc;
use tokio::time::{Instant, sleep_until};

/// So much of a user name is logged.
const USER_LEN_MAX: usize = 64;

/// Makes guesses slow ([`dcerpc::backoff`]), and keeps no user out.
///
/// After some wrong proofs for an account from a source address, every answer for this pair comes a fixed
/// time after its proof, right or wrong. It does not matter how the client spells the account. A connection
/// makes one guess in that time. Each proof is checked, so no number of guesses keeps the right password out;
/// the same user from another address, and other users from this one, notice nothing.
pub struct SlowedChecker {
    checker: Arc<dyn ProofChecker>,
    backoff: Backoff,
    since: Instant,
    log: LogLimiter,
}

impl SlowedChecker {
    /// Slows a checker down.
    pub fn new(checker: Arc<dyn ProofChecker>) -> Self {
        Self { checker, backoff: Backoff::default(), since: Instant::now(), log: LogLimiter::default() }
    }

    /// Logs that an account is guessed at, once a minute. The name is the client's own.
    fn report(&self, proof: &NtlmProof) {
        self.log.counted("slowed", |left_out| {
            let user: String = proof.user.chars().take(USER_LEN_MAX).collect();
            let source = proof.source;
            tracing::warn!(user, %source, left_out, "Answers delayed: many wrong passwords of a user from this address");
        });
    }

    /// What a guess counts for: the account, if there is one, and the name. Both belong to the store that
    /// decides, however the client spelled it. The name counts even where the account is known, because
    /// otherwise the time would tell which names have an account.
    fn counted(&self, proof: &NtlmProof, verdict: &ProofVerdict) -> Vec<String> {
        let store = match self.checker.store(proof) {
            StoreChoice::Local => "local".to_owned(),
            StoreChoice::Domain(at) => format!("domain {at}"),
            StoreChoice::Unknown => "none".to_owned(),
        };
        let name = guessed_name(&proof.user);
        let account = verdict.account().map(|account| format!("{store} account {account}"));
        account.into_iter().chain([format!("{store} name {name}")]).collect()
    }
}

impl ProofChecker for SlowedChecker {
    fn check<'a>(&'a self, proof: &'a NtlmProof) -> BoxFuture<'a, ProofVerdict> {
        Box::pin(async move {
            let begun = Instant::now();
            let source = source_of(proof.source);
            let verdict = self.checker.check(proof).await;
            let counted = self.counted(proof, &verdict);
            let now = self.since.elapsed();
            let is_slow = match verdict {
                // Counted before the wait, so that a guess whose connection ends is counted, too, and counted
                // for the account and for the name, whichever is slow.
                ProofVerdict::Rejected { .. } => self.backoff.all_failed(now, &counted, source),
                ProofVerdict::Accepted { .. } | ProofVerdict::Unavailable(_) => {
                    self.backoff.is_any_slow(now, &counted, source)
                }
            };
            if is_slow {
                self.report(proof);
                sleep_until(begun + ANSWER_TIME).await;
            }
            verdict
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dtyp::Sid;
    use rpc_auth::ntlm::{
        DomainNames, LocalAccount, LocalChecker, NtHash, NtHashes, SessionBaseKey, StoreRouter,
    };
    use rpc_auth::{IdentitySource, UserIdentity};
    use std::net::Ipv4Addr;
    use std::time::Duration;

    fn alice() -> UserIdentity {
        UserIdentity {
            name: "alice".into(),
            domain: String::new(),
            sid: None,
            groups: vec![],
            source: IdentitySource::LocalStore,
            password: None,
            delegated_by: vec![],
            expires: None,
        }
    }

    struct Knows(&'static [u8]);

    impl ProofChecker for Knows {
        fn check<'a>(&'a self, proof: &'a NtlmProof) -> BoxFuture<'a, ProofVerdict> {
            Box::pin(std::future::ready(match proof.nt_response == self.0 {
                true => ProofVerdict::Accepted {
                    session_base_key: SessionBaseKey::new([1; 16]),
                    identity: Box::new(alice()),
                },
                false => ProofVerdict::rejected("wrong password"),
            }))
        }
    }

    fn proof(user: &str, response: &[u8], source: u8) -> NtlmProof {
        NtlmProof {
            user: user.into(),
            domain: String::new(),
            workstation: String::new(),
            server_challenge: [0; 8],
            nt_response: response.to_vec(),
            lm_response: vec![],
            source: Ipv4Addr::new(127, 0, 0, source).into(),
        }
    }

    /// How long the answer took, and what it was.
    async fn answer(checker: &SlowedChecker, proof: NtlmProof) -> (Duration, ProofVerdict) {
        let begun = Instant::now();
        let verdict = checker.check(&proof).await;
        (begun.elapsed(), verdict)
    }

    #[tokio::test(start_paused = true)]
    async fn guesses_become_slow_and_the_right_password_is_still_accepted() {
        let checker = Arc::new(SlowedChecker::new(Arc::new(Knows(b"right"))));
        for _ in 0..5 {
            assert_eq!(answer(&checker, proof("alice", b"wrong", 1)).await.0, Duration::ZERO);
        }
        let (took, verdict) = answer(&checker, proof("Alice", b"wrong", 1)).await;
        assert!(took >= ANSWER_TIME && matches!(verdict, ProofVerdict::Rejected { .. }), "{verdict:?}");
        let (took, verdict) = answer(&checker, proof("alice", b"right", 1)).await;
        assert!(took >= ANSWER_TIME && matches!(verdict, ProofVerdict::Accepted { .. }), "{verdict:?}");
        for (user, source) in [("alice", 2), ("bob", 1)] {
            let (took, verdict) = answer(&checker, proof(user, b"right", source)).await;
            assert!(took.is_zero() && matches!(verdict, ProofVerdict::Accepted { .. }), "{user} {source}");
        }
    }

    /// The local store of one user, who has a name and another user principal name.
    struct Alice;

    impl NtHashes for Alice {
        fn look_up<'a>(&'a self, user: &'a str) -> BoxFuture<'a, Result<Option<LocalAccount>, String>> {
            let is_alice = ["alice", "a.smith@farm.example"].contains(&&user.to_lowercase()[..]);
            let account = is_alice.then(|| LocalAccount {
                nt_hash: Some(NtHash::from_password("secret")),
                is_usable: true,
                identity: UserIdentity { sid: Sid::new(5, &[21, 1, 2, 3, 1104]), ..alice() },
            });
            Box::pin(async move {
                // As a store that reads: guesses are under way at the same time.
                tokio::task::yield_now().await;
                Ok(account)
            })
        }
    }

    /// As a server has it: the stores behind one router.
    fn stores() -> Arc<SlowedChecker> {
        let local = Arc::new(LocalChecker::new(Arc::new(Alice), [7; 16]));
        let dns = ["corp.example", "corp.test"].map(String::from).to_vec();
        let names = DomainNames { netbios: "CORP".into(), dns };
        let own = ["SSO1", "FARM", "farm.example"].map(String::from).to_vec();
        let router = StoreRouter::new(own, Some(local), vec![(names, Arc::new(Knows(b"right")))]);
        Arc::new(SlowedChecker::new(Arc::new(router)))
    }

    const SPELLINGS: [(&str, &str); 10] = [
        ("", "alice"),
        (".", "ALICE"),
        ("SSO1", "alice"),
        ("farm", "Alice"),
        ("farm.example", "alice"),
        ("", "alice@farm.example"),
        ("SSO1", "alice@elsewhere"),
        ("", "a.smith@farm.example"),
        ("FARM", "a.smith@farm.example"),
        (".", "A.Smith@FARM.example"),
    ];

    fn spelled(domain: &str, user: &str, response: &[u8]) -> NtlmProof {
        NtlmProof { domain: domain.into(), ..proof(user, response, 1) }
    }

    #[tokio::test(start_paused = true)]
    async fn another_spelling_of_an_account_is_no_other_account() {
        // What is guessed after five free guesses, under whatever spelling, is slow.
        for (domain, user) in SPELLINGS {
            let checker = stores();
            for _ in 0..5 {
                assert_eq!(answer(&checker, spelled("", "alice", &[1; 48])).await.0, Duration::ZERO);
            }
            let (took, _) = answer(&checker, spelled(domain, user, &[1; 48])).await;
            assert!(took >= ANSWER_TIME, r"{domain}\{user}");
            // The same name is another account in another store.
            let (took, _) = answer(&checker, spelled("CORP", "alice", b"right")).await;
            assert_eq!(took, Duration::ZERO);
        }
        let checker = stores();
        for (domain, user) in [("CORP", "bob"), ("corp.example", "bob"), ("", "bob@corp.example")] {
            for _ in 0..2 {
                answer(&checker, spelled(domain, user, b"wrong")).await;
            }
        }
        assert!(answer(&checker, spelled("corp", "BOB", b"right")).await.0 >= ANSWER_TIME);
        // Each name of a domain, after five free guesses under another one.
        for (domain, user) in [("corp.example", "bob"), ("corp.test", "bob"), ("", "bob@corp.test")] {
            let checker = stores();
            for _ in 0..5 {
                assert_eq!(answer(&checker, spelled("CORP", "bob", b"wrong")).await.0, Duration::ZERO);
            }
            let (took, _) = answer(&checker, spelled(domain, user, b"wrong")).await;
            assert!(took >= ANSWER_TIME, r"{domain}\{user}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_slow_answer_does_not_tell_whether_there_is_an_account() {
        for (domain, user) in &SPELLINGS[..7] {
            let checker = stores();
            let mallory = |user: &str| user.to_lowercase().replace("alice", "mallory");
            for _ in 0..5 {
                answer(&checker, spelled("", "mallory", &[1; 48])).await;
            }
            let (took, _) = answer(&checker, spelled(domain, &mallory(user), &[1; 48])).await;
            assert!(took >= ANSWER_TIME, r"{domain}\{user}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn guesses_at_the_same_time_are_counted_one_after_the_other() {
        let checker = stores();
        let guesses: Vec<_> = (0..50)
            .map(|_| {
                let checker = Arc::clone(&checker);
                tokio::spawn(async move { answer(&checker, spelled("", "alice", &[1; 48])).await.0 })
            })
            .collect();
        let mut fast = 0;
        for guess in guesses {
            fast += u32::from(guess.await.expect("it ends") < ANSWER_TIME);
        }
        assert_eq!(fast, 5);
    }

    #[tokio::test(start_paused = true)]
    async fn guesses_on_many_connections_do_not_keep_the_right_password_out() {
        let checker = Arc::new(SlowedChecker::new(Arc::new(Knows(b"right"))));
        let guess = || {
            let checker = Arc::clone(&checker);
            tokio::spawn(async move { checker.check(&proof("alice", b"wrong", 1)).await })
        };
        let guesses: Vec<_> = (0..500).map(|_| guess()).collect();
        tokio::task::yield_now().await;
        let (took, verdict) = answer(&checker, proof("alice", b"right", 1)).await;
        assert!(
            took <= ANSWER_TIME && matches!(verdict, ProofVerdict::Accepted { .. }),
            "{took:?} {verdict:?}"
        );
        for guess in guesses {
            assert!(matches!(guess.await, Ok(ProofVerdict::Rejected { .. })));
        }
    }
}
