//! A peer domain as a tower service: a question in, the answer of one of its servers out. It sets the
//! deadline and the trace of the call.

use dcerpc_tokio::BoxFuture;
use dtyp::Encode;
use netlogon_tokio::{Answered, PackageRequest, Servers};
use netlogon_transport::client::ValidationData;
use rcmp_service::message::{PACKAGE_NAME, Response};
use rcmp_service::{CallContext, NoServers, PeerQuestion, PeerReply};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::Instant;
use trace_context as trace;
use tracing::{Instrument, field};
use tracing_opentelemetry::OpenTelemetrySpanExt;

/// Whether ValidationData in responses of a server is encrypted inside the seal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResponseCrypt {
    /// Encrypted ([MS-NRPC] 4.1).
    Encrypt,
    /// Not encrypted.
    Plain,
    /// Try decrypted first, fall back to plain.
    Auto,
}

/// The time for the next hop. Each hop keeps a part, so that a hop farther away times out first and its
/// answer still arrives.
fn left_for_the_next(left: Duration) -> Duration {
    left.saturating_sub((left / 10).max(Duration::from_millis(50)))
}

/// Asks one peer.
#[derive(Clone, Debug)]
pub struct PeerClient {
    /// NetBIOS name of the peer's domain.
    pub domain: Arc<str>,
    /// The peer's servers.
    pub servers: Arc<Servers>,
    /// Whether the peer runs rcmpd, which understands the extension of a call.
    pub is_rcmpd: bool,
    /// Whether its answers have the inner encryption ([MS-NRPC] 4.1).
    pub response_crypt: ResponseCrypt,
    /// For one question, failover included.
    pub timeout: Duration,
}

impl PeerClient {
    async fn ask(self, question: PeerQuestion) -> Result<PeerReply, NoServers> {
        let time = match question.context.time_left {
            Some(left) => self.timeout.min(left_for_the_next(left)),
            None => self.timeout,
        };
        let deadline = Instant::now() + time;
        let span = tracing::Span::current();
        let mut context = question.context;
        if self.is_rcmpd {
            trace::put(&span, &mut context);
        } else {
            // Nothing is sent there. The other half of the trace can be found by the digest, which both ends
            // know.
            trace::link(&span, &question.digest);
        }
        let extension = |left: Duration| CallContext { time_left: Some(left), ..context.clone() }.to_bytes();
        let request = PackageRequest {
            package: PACKAGE_NAME,
            logon_domain_name: &question.logon_domain_name,
            data: &question.request,
            asker: Some(question.asker.into()),
            extension: self.is_rcmpd.then_some(&extension),
            // Mapping a certificate changes nothing.
            repeatable: true,
        };
        let Some(Answered { answer, server }) = self.servers.ask(&request, deadline).await else {
            span.record("otel.status_code", "error");
            return Err(NoServers);
        };
        span.record("server.address", &server);
        span.set_attribute("rcmp.status", i64::from(answer.status.0));
        Ok(PeerReply {
            status: answer.status,
            authoritative: answer.authoritative,
            data: answer.data.map(|data| self.decrypted(&data)),
            server,
        })
    }

    fn decrypted(&self, data: &ValidationData) -> Vec<u8> {
        match self.response_crypt {
            ResponseCrypt::Plain => data.raw().to_vec(),
            ResponseCrypt::Encrypt => data.decrypted(),
            ResponseCrypt::Auto => {
                let decrypted = data.decrypted();
                match Response::is_plausible(&decrypted) {
                    true => decrypted,
                    false => data.raw().to_vec(),
                }
            }
        }
    }
}

impl tower::Service<PeerQuestion> for PeerClient {
    type Response = PeerReply;
    type Error = NoServers;
    type Future = BoxFuture<'static, Result<PeerReply, NoServers>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), NoServers>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, question: PeerQuestion) -> Self::Future {
        let span = tracing::debug_span!(
            target: "rcmpd::call",
            "forward",
            otel.kind = "client",
            otel.status_code = field::Empty,
            peer.domain = &*self.domain,
            rcmp.domain = question.logon_domain_name,
            server.address = field::Empty,
        );
        Box::pin(self.clone().ask(question).instrument(span))
    }
}
