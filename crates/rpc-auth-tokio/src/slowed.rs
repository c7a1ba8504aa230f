use dcerpc::backoff::{ANSWER_TIME, Backoff};
use dcerpc::limits::source_of;
use rpc_auth::BoxFuture;
use rpc_auth::ntlm::{NtlmProof, ProofChecker, ProofVerdict};
use std::sync::Arc;
use tokio::time::{Instant, sleep_until};

/// So much of a name counts: names in the table are a client's choice.
const NAME_LEN_MAX: usize = 64;

/// Makes guesses slow ([`dcerpc::backoff`]), and keeps no user out.
///
/// After some wrong proofs for an account from a source address, every answer for this pair comes a fixed time
/// after its proof, right or wrong. A connection makes one guess in that time. Each proof is checked, so no number
/// of guesses keeps the right password out; the same user from another address, and other users from this one,
/// notice nothing.
pub struct SlowedChecker {
    checker: Arc<dyn ProofChecker>,
    backoff: Backoff,
    since: Instant,
}

impl SlowedChecker {
    /// Slows a checker down.
    pub fn new(checker: Arc<dyn ProofChecker>) -> Self {
        Self { checker, backoff: Backoff::default(), since: Instant::now() }
    }
}

impl ProofChecker for SlowedChecker {
    fn check<'a>(&'a self, proof: &'a NtlmProof) -> BoxFuture<'a, ProofVerdict> {
        Box::pin(async move {
            let begun = Instant::now();
            let source = source_of(proof.source);
            let account: String = [&proof.domain[..], "\\", &proof.user]
                .concat()
                .to_lowercase()
                .chars()
                .take(NAME_LEN_MAX)
                .collect();
            let is_slow = self.backoff.is_slow(begun - self.since, &account, source);
            let verdict = self.checker.check(proof).await;
            // Counted before the wait, so that a guess whose connection ends is counted, too.
            if matches!(verdict, ProofVerdict::Rejected(_)) {
                self.backoff.failed(self.since.elapsed(), &account, source);
            }
            if is_slow {
                sleep_until(begun + ANSWER_TIME).await;
            }
            verdict
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rpc_auth::ntlm::SessionBaseKey;
    use rpc_auth::{IdentitySource, UserIdentity};
    use std::net::Ipv4Addr;
    use std::time::Duration;

    struct Knows(&'static [u8]);

    impl ProofChecker for Knows {
        fn check<'a>(&'a self, proof: &'a NtlmProof) -> BoxFuture<'a, ProofVerdict> {
            Box::pin(std::future::ready(match proof.nt_response == self.0 {
                true => ProofVerdict::Accepted {
                    session_base_key: SessionBaseKey::new([1; 16]),
                    identity: Box::new(UserIdentity {
                        name: "alice".into(),
                        domain: String::new(),
                        sid: None,
                        groups: vec![],
                        source: IdentitySource::LocalStore,
                        password: None,
                        delegated_by: vec![],
                        expires: None,
                    }),
                },
                false => ProofVerdict::Rejected("wrong password".into()),
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
        assert!(took >= ANSWER_TIME && matches!(verdict, ProofVerdict::Rejected(_)), "{verdict:?}");
        let (took, verdict) = answer(&checker, proof("alice", b"right", 1)).await;
        assert!(took >= ANSWER_TIME && matches!(verdict, ProofVerdict::Accepted { .. }), "{verdict:?}");
        for (user, source) in [("alice", 2), ("bob", 1)] {
            let (took, verdict) = answer(&checker, proof(user, b"right", source)).await;
            assert!(took.is_zero() && matches!(verdict, ProofVerdict::Accepted { .. }), "{user} {source}");
        }
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
            assert!(matches!(guess.await, Ok(ProofVerdict::Rejected(_))));
        }
    }
}
