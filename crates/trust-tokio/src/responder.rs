//! OCSP requests: one request serves all decisions that wait for it, and a responder that does not answer is
//! backed off.
//!
//! A request is its own task, so it continues if the decision that started it is cancelled. No lock is held
//! while a task waits.

use super::fetch::{self, FetchError};
use account_store::BoxFuture;
use dtyp::FileTime;
use hyper::StatusCode;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;
use rcmp_service::OcspTransport;
use rcmp_service::trust::ocsp::OCSP_RESPONSE_LEN_MAX;
use rcmp_service::trust::{Nonce, OcspAnswer, OcspError, OcspQuestion, OcspStatus, Trust};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{Semaphore, watch};
use tracing::{debug, info, warn};

/// Timeout of a request, with the time in the queue: a decision waits for it.
const TIMEOUT: Duration = Duration::from_secs(3);
/// Limit of open requests to one responder. Others wait, each until its timeout.
const OPEN_MAX: usize = 64;
/// How long a responder is backed off after a failure: long enough that not every decision waits for an
/// unreachable responder, and short enough that it is soon used again.
const BACK_OFF: Duration = Duration::from_secs(5);
/// Questions that are open or have failed lately. Those beyond are not asked, and their certificates
/// undecided.
const QUESTIONS_MAX: usize = 4096;

/// How a question to a responder ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Outcome {
    Good,
    Revoked,
    Unknown,
    Failed,
}

impl Outcome {
    const ALL: [Self; 4] = [Self::Good, Self::Revoked, Self::Unknown, Self::Failed];
}

impl EncodeLabelValue for Outcome {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> std::fmt::Result {
        match self {
            Self::Good => "good",
            Self::Revoked => "revoked",
            Self::Unknown => "unknown",
            Self::Failed => "failed",
        }
        .encode(encoder)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabels {
    outcome: Outcome,
}

/// Asks OCSP responders by HTTP (RFC 6960 A.1).
#[derive(Debug, Default)]
pub struct HttpResponder(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    known: Mutex<Known>,
    outcomes: Family<OutcomeLabels, Counter>,
}

/// What is known of questions and of those who are asked.
#[derive(Debug, Default)]
struct Known {
    /// INVARIANT: at most [`QUESTIONS_MAX`].
    questions: HashMap<Key, Question>,
    /// One for each URL that was ever configured.
    responders: HashMap<Arc<str>, Responder>,
}

/// Which trust asks, by its address, and about which certificate.
type Key = (usize, [u8; 32]);

#[derive(Debug)]
enum Question {
    /// The sender is dropped when the request has ended.
    Open(watch::Receiver<()>),
    /// It has failed, and is not repeated until then.
    Failed(Instant),
}

#[derive(Debug)]
struct Responder {
    open: Arc<Semaphore>,
    /// The time of its last response.
    last_response: Option<Instant>,
    /// Backed off until then, because it does not answer.
    backed_off_until: Option<Instant>,
    /// Whether its last response was rejected. That is logged once, however many certificates it is about.
    last_rejected: bool,
    /// Whether it was logged that it omits the nonce.
    without_nonce: bool,
}

impl Default for Responder {
    fn default() -> Self {
        Self {
            open: Arc::new(Semaphore::new(OPEN_MAX)),
            last_response: None,
            backed_off_until: None,
            last_rejected: false,
            without_nonce: false,
        }
    }
}

impl HttpResponder {
    /// Registers the metrics of questions.
    pub fn register(&self, registry: &mut Registry) {
        for outcome in Outcome::ALL {
            drop(self.0.outcomes.get_or_create(&OutcomeLabels { outcome }));
        }
        let outcomes = self.0.outcomes.clone();
        registry.register("ocsp_questions", "Questions to OCSP responders, by outcome", outcomes);
    }
}

impl OcspTransport for HttpResponder {
    fn nonce(&self, len: usize) -> Option<Nonce> {
        let mut nonce = vec![0; len];
        getrandom::fill(&mut nonce).ok().map(|()| nonce)
    }

    fn ask<'a>(
        &'a self,
        trust: &'a Arc<Trust>,
        questions: Vec<OcspQuestion>,
        now: FileTime,
    ) -> BoxFuture<'a, ()> {
        let open: Vec<_> =
            questions.into_iter().filter_map(|question| self.0.begin(trust, question, now)).collect();
        Box::pin(async move {
            for mut open in open {
                while open.changed().await.is_ok() {}
            }
        })
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What to wait for, if there is something to expect.
    fn begin(
        self: &Arc<Self>,
        trust: &Arc<Trust>,
        question: OcspQuestion,
        now: FileTime,
    ) -> Option<watch::Receiver<()>> {
        let key = (Arc::as_ptr(trust).addr(), question.key);
        let at = Instant::now();
        let mut known = self.lock();
        // A question leaves the table after its answer is remembered, so it is either there or answered.
        if trust.is_answered(&question, now) {
            return None;
        }
        match known.questions.get(&key) {
            Some(Question::Open(open)) => return Some(open.clone()),
            Some(Question::Failed(until)) if at < *until => return None,
            _ => {}
        }
        let responder = known.responders.entry(Arc::clone(&question.url)).or_default();
        if responder.backed_off_until.is_some_and(|until| at < until) {
            drop(known);
            trust.ocsp_failed(&question, false, "it did not answer another question within the last 5 s");
            return None;
        }
        let turn = Arc::clone(&responder.open);
        if known.questions.len() >= QUESTIONS_MAX {
            known
                .questions
                .retain(|_, question| !matches!(question, Question::Failed(until) if *until <= at));
            if known.questions.len() >= QUESTIONS_MAX {
                drop(known);
                trust.ocsp_failed(&question, false, "it was not asked: too many questions are open");
                return None;
            }
        }
        let (done, open) = watch::channel(());
        known.questions.insert(key, Question::Open(open.clone()));
        drop(known);
        let asking = Asking { shared: Arc::clone(self), key, answered: false, _done: done };
        tokio::spawn(asking.ask(Arc::clone(trust), question, now, turn));
        Some(open)
    }

    fn count(&self, outcome: Outcome) {
        self.outcomes.get_or_create(&OutcomeLabels { outcome }).inc();
    }

    fn responded(&self, url: &Arc<str>) {
        let mut known = self.lock();
        let responder = known.responders.entry(Arc::clone(url)).or_default();
        responder.last_response = Some(Instant::now());
        let was_backed_off = responder.backed_off_until.take().is_some();
        drop(known);
        if was_backed_off {
            info!(url = &**url, "OCSP responder is reachable again");
        }
    }

    /// Is called when a response was accepted, or rejected for a reason.
    fn set_response_state(&self, url: &Arc<str>, error: Option<&str>) {
        let mut known = self.lock();
        let responder = known.responders.entry(Arc::clone(url)).or_default();
        let was_rejected = std::mem::replace(&mut responder.last_rejected, error.is_some());
        drop(known);
        match error {
            Some(error) if was_rejected => {
                debug!(url = &**url, error, "OCSP response rejected");
            }
            Some(error) => warn!(url = &**url, error, "OCSP response rejected"),
            None if was_rejected => info!(url = &**url, "OCSP responses are accepted again"),
            None => {}
        }
    }

    /// An answer was accepted that does not repeat the nonce: only its own dates bound how old it is. Logged
    /// once for each responder.
    fn without_nonce(&self, url: &Arc<str>) {
        let mut known = self.lock();
        let responder = known.responders.entry(Arc::clone(url)).or_default();
        let was_told = std::mem::replace(&mut responder.without_nonce, true);
        drop(known);
        if !was_told {
            info!(
                url = &**url,
                "OCSP responder omits the nonce: a response can be replayed until its nextUpdate"
            );
        }
    }

    /// Is called when a request has timed out. If the responder has answered no other request since then, it
    /// is backed off; otherwise the failure is about this certificate only.
    fn back_off(&self, url: &Arc<str>, since: Instant, error: &FetchError) {
        let mut known = self.lock();
        let responder = known.responders.entry(Arc::clone(url)).or_default();
        let is_new = match responder.last_response {
            Some(last) if last >= since => false,
            _ => responder.backed_off_until.replace(Instant::now() + BACK_OFF).is_none(),
        };
        drop(known);
        if is_new {
            warn!(url = &**url, %error, "OCSP responder unreachable: certificates that need it are undecided");
        }
    }
}

/// An open request. However it ends, the tasks that wait for it are woken.
struct Asking {
    shared: Arc<Shared>,
    key: Key,
    answered: bool,
    _done: watch::Sender<()>,
}

impl Asking {
    async fn ask(mut self, trust: Arc<Trust>, question: OcspQuestion, now: FileTime, turn: Arc<Semaphore>) {
        let (since, url) = (Instant::now(), &question.url);
        let answer = fetch::within(TIMEOUT, async {
            let _turn = turn.acquire().await;
            Ok(self.answer(&trust, question.clone(), now).await)
        });
        let answer = match answer.await.and_then(|answer| answer) {
            Ok(answer) => answer,
            Err(error) => {
                trust.ocsp_failed(&question, false, &error.to_string());
                self.shared.count(Outcome::Failed);
                return self.shared.back_off(url, since, &error);
            }
        };
        if let Err(error) = &answer {
            trust.ocsp_failed(&question, true, error);
        }
        self.shared.set_response_state(url, answer.as_ref().err().map(String::as_str));
        if answer.as_ref().is_ok_and(|answer| !answer.has_nonce && question.has_nonce()) {
            self.shared.without_nonce(url);
        }
        let outcome = match answer.map(|answer| answer.status) {
            Ok(OcspStatus::Good) => Outcome::Good,
            Ok(OcspStatus::Revoked { .. }) => Outcome::Revoked,
            Ok(OcspStatus::Unknown) => Outcome::Unknown,
            Err(_) => Outcome::Failed,
        };
        self.shared.count(outcome);
        self.answered = outcome != Outcome::Failed;
    }

    /// Asks, and asks again in another way while the responder refuses. The inner error is why an answer is
    /// not accepted.
    async fn answer(
        &self,
        trust: &Trust,
        mut question: OcspQuestion,
        now: FileTime,
    ) -> Result<Result<OcspAnswer, String>, FetchError> {
        loop {
            let request = fetch::post(
                "application/ocsp-request",
                "application/ocsp-response",
                question.request.clone(),
            );
            let (error, refusal) = match fetch::send(&question.url, request, OCSP_RESPONSE_LEN_MAX).await {
                Ok(response) => {
                    self.shared.responded(&question.url);
                    match trust.ocsp_answer(&question, &response, now) {
                        Ok(answer) => return Ok(Ok(answer)),
                        Err(error) => (error.to_string(), error),
                    }
                }
                Err(error) if error.is_answer() => {
                    self.shared.responded(&question.url);
                    // Some responders refuse by HTTP instead of a responseStatus.
                    let refusal = match &error {
                        FetchError::Status(StatusCode::BAD_REQUEST) => OcspError::NotSuccessful(1),
                        FetchError::Status(StatusCode::INTERNAL_SERVER_ERROR) => OcspError::NotSuccessful(2),
                        _ => return Ok(Err(error.to_string())),
                    };
                    (error.to_string(), refusal)
                }
                Err(error) => return Err(error),
            };
            match question.again(&refusal) {
                Some(next) => question = next,
                None => return Ok(Err(error)),
            }
        }
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        let mut known = self.shared.lock();
        match self.answered {
            true => known.questions.remove(&self.key),
            false => known.questions.insert(self.key, Question::Failed(Instant::now() + BACK_OFF)),
        };
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;
    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
    use rcmp_service::trust::{self, OcspAsking, Parts};
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::time::SystemTime;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    fn failed(responder: &HttpResponder) -> u64 {
        responder.0.outcomes.get_or_create(&OutcomeLabels { outcome: Outcome::Failed }).get()
    }

    /// A trust whose responder says nothing useful, certificates to ask about, and how often it was asked.
    struct Scene {
        trust: Arc<Trust>,
        certificates: Vec<Vec<u8>>,
        asked: Arc<AtomicU64>,
    }

    impl Scene {
        /// The responder says `said`, and hangs up.
        async fn new(said: &'static str) -> Self {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let url = format!("http://{}", listener.local_addr().unwrap());
            let asked = Arc::new(AtomicU64::new(0));
            let count = Arc::clone(&asked);
            tokio::spawn(async move {
                loop {
                    let (mut stream, _) = listener.accept().await.unwrap();
                    count.fetch_add(1, Ordering::Relaxed);
                    let _ = stream.read(&mut [0; 4096]).await.unwrap();
                    stream.write_all(said.as_bytes()).await.unwrap();
                }
            });
            let mut params = CertificateParams::default();
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            let key = KeyPair::generate().unwrap();
            let authority = params.self_signed(&key).unwrap().der().to_vec();
            let issuer = Issuer::new(params, key);
            let certificates = (0..3).map(|_| {
                let params = CertificateParams::default();
                params.signed_by(&KeyPair::generate().unwrap(), &issuer).unwrap().der().to_vec()
            });
            let asking = OcspAsking::default();
            let ocsp = vec![trust::OcspResponder { authority: authority.clone(), url, signer: None, asking }];
            let trust = Trust::new(Parts { anchors: vec![authority], ocsp, ..Parts::default() }).unwrap();
            Self { trust: Arc::new(trust), certificates: certificates.collect(), asked }
        }

        /// What a decision about a certificate has to wait for.
        async fn decide(&self, responder: &HttpResponder, certificate: usize) {
            let now = SystemTime::now().into();
            let path = self.trust.verify(&self.certificates[certificate], now).unwrap();
            let questions = self.trust.ocsp_needed(&path, now, |len| responder.nonce(len));
            assert_eq!(questions.len(), 1);
            responder.ask(&self.trust, questions, now).await;
        }

        fn asked(&self) -> u64 {
            self.asked.load(Ordering::Relaxed)
        }
    }

    #[tokio::test]
    async fn a_certificate_is_asked_about_once_however_many_wait() {
        let scene = Scene::new("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nwhat").await;
        let responder = HttpResponder::default();
        let one = || scene.decide(&responder, 0);
        tokio::join!(one(), one(), one(), one());
        assert_eq!(scene.asked(), 1);
        // That there was no answer is remembered, and says nothing of other certificates.
        one().await;
        assert_eq!(scene.asked(), 1);
        scene.decide(&responder, 1).await;
        assert_eq!(scene.asked(), 2);
        assert_eq!(failed(&responder), 2);
        assert!(responder.0.lock().responders.values().all(|responder| responder.backed_off_until.is_none()));
    }

    /// What each refusal leads to: how often it is asked, and what `explain` tells.
    #[tokio::test]
    async fn what_a_responder_says_is_told_and_a_refusal_is_asked_around() {
        for (said, count, why, text) in [
            (
                "HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n",
                4,
                "ocsp_not_accepted",
                "400 Bad Request",
            ),
            ("HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n", 4, "ocsp_not_accepted", "500"),
            ("HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n", 1, "ocsp_not_accepted", "404 Not Found"),
            (
                "HTTP/1.1 302 No\r\nLocation: /\r\nContent-Length: 0\r\n\r\n",
                1,
                "ocsp_not_accepted",
                "302 Found",
            ),
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n0\x03\n\x01\x01",
                4,
                "ocsp_not_accepted",
                "malformedRequest",
            ),
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n0\x03\n\x01\x03",
                1,
                "ocsp_not_accepted",
                "tryLater",
            ),
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n0\x03\n\x01\x06",
                2,
                "ocsp_not_accepted",
                "unauthorized",
            ),
            ("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nwhat", 1, "ocsp_not_accepted", "cannot be read"),
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 65537\r\n\r\n",
                1,
                "ocsp_not_accepted",
                "longer than 65536 bytes",
            ),
            ("", 1, "ocsp_no_answer", "the answer is broken"),
        ] {
            let scene = Scene::new(said).await;
            let responder = HttpResponder::default();
            scene.decide(&responder, 0).await;
            assert_eq!(scene.asked(), count, "{said:?}");
            let path = scene.trust.verify(&scene.certificates[0], SystemTime::now().into()).unwrap();
            let trust::Revocation::Unknown { why: told, which } =
                scene.trust.revocation(&path, SystemTime::now().into())
            else {
                panic!("{said:?} is no answer");
            };
            assert_eq!(told.name(), why, "{said:?}");
            let failure = scene.trust.ocsp_failure(&path, which).unwrap();
            assert!(failure.contains(text), "{said:?}: {failure}");
        }
    }

    #[tokio::test]
    async fn a_responder_that_does_not_answer_is_backed_off() {
        let scene = Scene::new("").await;
        let responder = HttpResponder::default();
        for certificate in [0, 1, 2, 0] {
            scene.decide(&responder, certificate).await;
        }
        assert_eq!(scene.asked(), 1);
        assert_eq!(failed(&responder), 1);
    }

    #[tokio::test]
    async fn a_question_continues_when_the_decision_that_began_it_is_cancelled() {
        let scene = Scene::new("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nwhat").await;
        let responder = HttpResponder::default();
        drop(tokio::time::timeout(Duration::ZERO, scene.decide(&responder, 0)).await);
        scene.decide(&responder, 0).await;
        assert_eq!(scene.asked(), 1);
    }

    #[tokio::test]
    async fn questions_are_bounded() {
        let scene = Scene::new("").await;
        let responder = HttpResponder::default();
        let (_done, open) = watch::channel(());
        let fill = |question: fn(watch::Receiver<()>) -> Question| {
            let mut known = responder.0.lock();
            known.questions.clear();
            for number in 0..QUESTIONS_MAX {
                known.questions.insert((number, [0; 32]), question(open.clone()));
            }
        };
        fill(Question::Open);
        scene.decide(&responder, 0).await;
        assert_eq!(scene.asked(), 0, "too many are open");
        fill(|_| Question::Failed(Instant::now()));
        scene.decide(&responder, 0).await;
        assert_eq!(scene.asked(), 1, "old failures make room");
        assert_eq!(responder.0.lock().questions.len(), 1);
    }
}
