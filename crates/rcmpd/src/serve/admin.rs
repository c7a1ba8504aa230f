//! What the admin port answers from, and what more than one of its paths does.

use super::operators::Operators;
use super::status;
use crate::output::visible;
use crate::tlsnego::Tlsnego;
use arc_swap::ArcSwap;
use axum::extract;
use axum::http::StatusCode;
use bytes::Bytes;
use prometheus_client::registry::Registry;
use rcmp_service::Method;
use rcmp_service::explain::Explanation;
use rcmp_service::message::Request;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;
use trust_tokio::certificates::Chain;

/// A certificate with its chain, as PEM.
pub(super) const EXPLAIN_LEN_MAX: usize = 1 << 20;
/// How long a body may take to arrive.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// What requests are answered from.
#[derive(Clone)]
pub(super) struct Shared {
    pub(super) state: status::State,
    pub(super) sidecar: Option<Arc<ArcSwap<sidecar::Sidecar>>>,
    pub(super) operators: Option<Arc<Operators>>,
    pub(super) tlsnego: Option<Tlsnego>,
    pub(super) metrics: Arc<Registry>,
}

/// Reads a body of at most so many octets.
pub(super) async fn read_body(request: extract::Request, len_max: usize) -> Result<Bytes, StatusCode> {
    match timeout(BODY_TIMEOUT, axum::body::to_bytes(request.into_body(), len_max)).await {
        Ok(Ok(body)) => Ok(body),
        Ok(Err(_)) => Err(StatusCode::PAYLOAD_TOO_LARGE),
        Err(_) => Err(StatusCode::REQUEST_TIMEOUT),
    }
}

/// Decides about a certificate, PEM with its chain or DER, and explains the decision; or says why not.
pub(super) async fn explanation(
    shared: &Shared,
    operators: &Operators,
    certificate: &[u8],
) -> Result<Explanation, (StatusCode, String)> {
    let Ok(_permit) = operators.explaining.try_acquire() else {
        return Err((
            StatusCode::SERVICE_UNAVAILABLE,
            "another certificate is being explained; try again".to_owned(),
        ));
    };
    let bad = |problem: String| (StatusCode::BAD_REQUEST, visible(&problem));
    let chain = Chain::from_bytes(certificate).map_err(|error| bad(error.to_string()))?;
    let flags = Method::Upn.flag().with(Method::Subject.flag());
    let request = chain
        .issuers()
        .ok()
        .and_then(|issuers| Request { flags, certificate: chain.certificate(), issuers }.encode());
    let request = request.ok_or_else(|| bad(chain.too_long().to_string()))?;
    let missing = || (StatusCode::NOT_FOUND, "[mapping] is not configured".to_owned());
    let deciders = shared.state.policy.as_ref().ok_or_else(missing)?.0.load_full();
    let domains = deciders.forwarding.forwarder.domains();
    let (request, certificate, config) = (request.into(), chain.certificate(), &shared.state.config);
    crate::explain::explain(&deciders.live, domains, &deciders.accounts, &request, certificate, config)
        .await
        .map(|(_, explanation)| explanation)
        .map_err(|error| (StatusCode::SERVICE_UNAVAILABLE, format!("{error:#}")))
}
