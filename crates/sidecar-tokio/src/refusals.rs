//! Log messages about requests that are refused.

use dcerpc_tokio::LogLimiter;
use sidecar::{Decision, Outcome, Refusal};
use std::net::SocketAddr;
use tracing::{debug, info, warn};

/// Logs why a request is refused, once a minute for each reason. `client` is none for a Unix socket. A
/// missing certificate is logged with the level DEBUG only, because browsers first ask without a certificate.
pub(crate) fn log(
    log_limiter: &LogLimiter,
    (dialect, client): (&'static str, Option<SocketAddr>),
    refusal: Refusal,
    decision: &Decision,
) {
    let (reason, status) = (refusal.name(), refusal.status().as_u16());
    let client = client.map(tracing::field::display);
    let chain = match refusal {
        Refusal::Chain(error) => Some(error.name()),
        _ => None,
    };
    let name = decision.name.as_deref();
    // The certificate is hashed only if its field is logged.
    macro_rules! line {
        ($level:ident, $text:literal) => {
            log_limiter.counted(reason, |left_out| {
                $level!(
                    dialect,
                    client.addr = client,
                    status,
                    reason,
                    error = chain,
                    thumbprint = decision.thumbprint(),
                    decision = name,
                    left_out,
                    $text
                );
            })
        };
    }
    match refusal.outcome() {
        Outcome::Broken => line!(warn, "Cannot decide which account a certificate belongs to"),
        Outcome::Denied => line!(info, "Request rejected"),
        Outcome::Anonymous => debug!(dialect, client.addr = client, status, reason, "Request rejected"),
    }
}
