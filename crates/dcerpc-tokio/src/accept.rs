//! The accept loop of every listener.

use crate::connection_limiter::ConnectionLimiter;
use std::hash::Hash;
use std::io;
use tokio_util::sync::CancellationToken;

impl<I: Clone + Eq + Hash> ConnectionLimiter<I> {
    /// The next connection of a listener, or `None` once `shutdown` is cancelled. `accept` accepts one
    /// connection, as `|| listener.accept()` does. Each error is handed to `failed`, which logs it; the
    /// listener then waits as long as [`ConnectionLimiter::not_accepted`] says and goes on.
    ///
    /// Cancel safe if the future of `accept` is.
    pub async fn accept_next<A, F>(
        &self,
        shutdown: &CancellationToken,
        mut accept: impl FnMut() -> F,
        mut failed: impl FnMut(&io::Error),
    ) -> Option<A>
    where
        F: Future<Output = io::Result<A>>,
    {
        // A connection that the last one evicted closes before the next one is accepted. Otherwise a burst
        // would need more file descriptors than the limits count.
        tokio::task::yield_now().await;
        let next = async {
            loop {
                match accept().await {
                    Ok(accepted) => return accepted,
                    Err(error) => {
                        failed(&error);
                        tokio::time::sleep(self.not_accepted(&error)).await;
                    }
                }
            }
        };
        tokio::select! {
            biased;
            () = shutdown.cancelled() => None,
            accepted = next => Some(accepted),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connection_limiter::ConnectionLimits;
    use std::future::{pending, ready};
    use std::time::Duration;
    use tokio::time::{Instant, timeout};

    fn limiter() -> ConnectionLimiter<u8> {
        ConnectionLimiter::new(ConnectionLimits {
            unproved_max: 1,
            started_max: 1,
            unproved_per_address_max: 1,
            proved_max: 1,
            proved_per_identity_max: 1,
        })
    }

    /// EMFILE on Linux.
    fn no_descriptor() -> io::Error {
        io::Error::from_raw_os_error(24)
    }

    #[tokio::test(start_paused = true)]
    async fn errors_are_reported_and_do_not_take_a_core() {
        let (limiter, shutdown, started) = (limiter(), CancellationToken::new(), Instant::now());
        let (mut outcomes, mut errors) =
            (vec![Ok("a connection"), Err(no_descriptor()), Err(no_descriptor())], 0);
        let accept = || ready(outcomes.pop().expect("it is accepted by then"));
        let accepted = limiter.accept_next(&shutdown, accept, |_| errors += 1).await;
        assert_eq!((accepted, errors), (Some("a connection"), 2));
        assert!(started.elapsed() >= Duration::from_millis(200), "{:?}", started.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn a_shutdown_ends_a_wait_a_pause_and_comes_before_a_connection() {
        let limiter = limiter();
        let cancelled = CancellationToken::new();
        cancelled.cancel();
        assert_eq!(limiter.accept_next(&cancelled, || ready(Ok(())), |_| ()).await, None);
        for is_failing in [false, true] {
            let shutdown = CancellationToken::new();
            let accept = || async move {
                if is_failing { Err(no_descriptor()) } else { pending::<io::Result<()>>().await }
            };
            let stop = async {
                tokio::time::sleep(Duration::from_secs(1)).await;
                shutdown.cancel();
            };
            let waiting = limiter.accept_next(&shutdown, accept, |_| ());
            let (accepted, ()) = timeout(Duration::from_secs(2), async { tokio::join!(waiting, stop) })
                .await
                .expect("it ends with the shutdown");
            assert_eq!(accepted, None);
        }
    }
}
