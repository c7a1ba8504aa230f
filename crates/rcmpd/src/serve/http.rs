//! Health over HTTP: live, ready and metrics. They tell nothing that needs a secret, and nothing else is here.

use super::AuditLog;
use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use dcerpc_tokio::Server;
use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::net::TcpListener;

/// Whether calls are welcome.
#[derive(Clone, Debug, Default)]
pub(super) struct Health {
    ready: Arc<AtomicBool>,
}

impl Health {
    pub(super) fn set_ready(&self, ready: bool) {
        self.ready.store(ready, Ordering::Release);
    }
}

#[derive(Clone)]
struct Shared {
    health: Health,
    server: Arc<Server>,
    audit: Arc<AuditLog>,
}

pub(super) async fn serve(listener: TcpListener, health: Health, server: Arc<Server>, audit: Arc<AuditLog>) {
    let router = Router::new()
        .route("/live", get(|| async { "live\n" }))
        .route("/ready", get(ready))
        .route("/metrics", get(metrics))
        .with_state(Shared { health, server, audit });
    if let Err(error) = axum::serve(listener, router).await {
        tracing::warn!(%error, "Health is no longer served");
    }
}

async fn ready(State(shared): State<Shared>) -> (StatusCode, &'static str) {
    match shared.health.ready.load(Ordering::Acquire) {
        true => (StatusCode::OK, "ready\n"),
        false => (StatusCode::SERVICE_UNAVAILABLE, "not ready\n"),
    }
}

/// The text format of Prometheus.
async fn metrics(State(shared): State<Shared>) -> String {
    let counters = shared.server.counters();
    let mut text = String::new();
    for (name, kind, help, value) in [
        ("rcmpd_connections_open", "gauge", "Connections open now.", &counters.open),
        ("rcmpd_connections_total", "counter", "Connections accepted.", &counters.accepted),
        (
            "rcmpd_connections_refused_total",
            "counter",
            "Connections refused because there are too many.",
            &counters.refused_total,
        ),
        (
            "rcmpd_connections_refused_address_total",
            "counter",
            "Connections refused because there are too many from one address.",
            &counters.refused_address,
        ),
        (
            "rcmpd_bind_timeouts_total",
            "counter",
            "Connections closed because no bind was finished in time.",
            &counters.bind_timeouts,
        ),
        (
            "rcmpd_idle_timeouts_total",
            "counter",
            "Connections closed because nothing happened for long.",
            &counters.idle_timeouts,
        ),
        (
            "rcmpd_call_timeouts_total",
            "counter",
            "Connections closed because a call did not arrive in time.",
            &counters.call_timeouts,
        ),
        (
            "rcmpd_write_timeouts_total",
            "counter",
            "Connections closed because the peer did not take its answers.",
            &counters.write_timeouts,
        ),
        ("rcmpd_replies_total", "counter", "Calls answered with results.", &counters.replies),
        ("rcmpd_faults_total", "counter", "Calls answered with a fault.", &counters.faults),
        ("rcmpd_cancelled_total", "counter", "Calls that their client cancelled.", &counters.cancelled),
        ("rcmpd_panics_total", "counter", "Connections ended by a panic.", &counters.panics),
    ] {
        let value = value.load(Ordering::Relaxed);
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}");
    }
    let _ = writeln!(
        text,
        "# HELP rcmpd_reassembly_bytes Bytes held by unfinished calls.\n# TYPE rcmpd_reassembly_bytes gauge"
    );
    let _ = writeln!(text, "rcmpd_reassembly_bytes {}", shared.server.reassembly_used());
    let _ = writeln!(
        text,
        "# HELP rcmpd_decisions_total Answers by reason.\n# TYPE rcmpd_decisions_total counter"
    );
    for (reason, count) in shared.audit.decisions() {
        let _ = writeln!(text, "rcmpd_decisions_total{{reason=\"{reason}\"}} {count}");
    }
    let _ = writeln!(
        text,
        "# HELP rcmpd_audit_failures_total Audit lines that could not be written.\n# TYPE rcmpd_audit_failures_total counter"
    );
    let _ = writeln!(text, "rcmpd_audit_failures_total {}", shared.audit.failures());
    let _ = writeln!(
        text,
        "# HELP rcmpd_audit_head_failures_total Heads of the audit log that could not be written.\n# TYPE rcmpd_audit_head_failures_total counter"
    );
    let _ = writeln!(text, "rcmpd_audit_head_failures_total {}", shared.audit.head_failures());
    text
}
