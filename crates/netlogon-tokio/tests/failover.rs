//! Several servers of a domain, of which some do not answer.

include!("server/mod.rs");

use dtyp::NtStatus;
use netlogon_tokio::{
    ClientAccount, PackageRequest, PoolLimits, ServerCollector, ServerLabels, ServerSource, Servers,
};
use netlogon_transport::secret::SharedSecret;
use netlogon_transport::secrets::ChannelType;
use prometheus_client::encoding::text;
use prometheus_client::registry::Registry;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

const REQUEST: PackageRequest<'_> = PackageRequest {
    package: "Echo",
    logon_domain_name: "CONTOSO",
    data: b"hello",
    asker: None,
    extension: None,
    repeatable: false,
};

fn servers(listed: Vec<String>, password: &str) -> Servers {
    let account = ClientAccount {
        domain: "CONTOSO".into(),
        computer: "WEB01".into(),
        account: "WEB01$".into(),
        channel_type: ChannelType::WORKSTATION,
        secrets: Arc::new(SharedSecret::from_password(password)),
        now: || 0,
    };
    let limits = PoolLimits { connections_max: 4, queue_max: 4 };
    Servers::new(ServerSource::Listed(listed), account, limits, None)
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(20)
}

/// The value of a metric of the first server, by its name.
fn metric(servers: &Servers, name: &str) -> f64 {
    let first = Arc::clone(&servers.clients()[0]);
    let labels = ServerLabels {
        domain: "CONTOSO".to_owned(),
        server: first.server().to_owned(),
        package: Some("Echo".to_owned()),
    };
    let sample = format!("{name}{{domain=\"CONTOSO\",server=\"{}\",package=\"Echo\"}} ", labels.server);
    let mut registry = Registry::with_prefix("rcmpd");
    let collector = ServerCollector(move || vec![(labels.clone(), Arc::clone(&first))]);
    registry.register_collector(Box::new(collector));
    let mut metrics = String::new();
    text::encode(&mut metrics, &registry).expect("they are text");
    let mut values = metrics.lines().filter_map(|line| line.strip_prefix(&sample));
    values.next().and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("no {name} in {metrics}"))
}

#[tokio::test]
async fn an_unreachable_server_is_skipped_and_its_circuit_breaker_opens() {
    // Nothing listens at tcpmux's port.
    let dead = "127.0.0.1:1".to_owned();
    let alive = echo_server("secret").await;
    let servers = servers(vec![dead.clone(), alive.clone()], "secret");
    for n in 0..3 {
        assert!(!servers.clients()[0].is_circuit_open(), "{n} failures");
        let answered = servers.ask(&REQUEST, soon()).await.expect("the second server answers");
        assert_eq!(answered.server, alive);
        assert_eq!(answered.answer.data.expect("it has data").decrypted(), b"hello");
    }
    assert!(servers.clients()[0].is_circuit_open());
    let order: Vec<_> = servers.find(soon()).await.iter().map(|client| client.server().to_owned()).collect();
    assert_eq!(order, [alive, dead]);
    let failed = servers.clients()[0].ask(&REQUEST, soon()).await.expect_err("nothing is sent");
    assert_eq!(failed.name(), "circuit_open");
    assert_eq!(metric(&servers, "rcmpd_peer_circuit_rejections_total"), 1.0);
    assert_eq!(metric(&servers, "rcmpd_peer_failures_total"), 3.0);
}

#[tokio::test]
async fn a_wrong_secret_opens_the_circuit_breaker_at_once() {
    let servers = servers(vec![echo_server("secret").await], "another");
    assert!(servers.ask(&REQUEST, soon()).await.is_none());
    assert!(servers.clients()[0].is_circuit_open());
    assert_eq!(metric(&servers, "rcmpd_peer_channels_refused_total"), 1.0);
}

/// Another server may reach what this one did not.
#[tokio::test]
async fn a_server_that_could_not_decide_is_followed_by_the_next_one() {
    let repeatable = PackageRequest { repeatable: true, ..REQUEST };
    for status in [
        NtStatus::DS_BUSY,
        NtStatus::NO_LOGON_SERVERS,
        NtStatus::INSUFFICIENT_RESOURCES,
        NtStatus::INTERNAL_ERROR,
        NtStatus::INVALID_SERVER_STATE,
        NtStatus::INVALID_NETWORK_RESPONSE,
    ] {
        let (first, second) = (answering_server("secret", status).await, echo_server("secret").await);
        let both = servers(vec![first.clone(), second.clone()], "secret");
        let answered = both.ask(&repeatable, soon()).await.expect("the second server answers");
        assert_eq!((&answered.server, answered.answer.status), (&second, NtStatus::SUCCESS), "{status}");
        // It is not asked if the request may not be repeated.
        let both = servers(vec![first, second], "secret");
        assert!(both.ask(&REQUEST, soon()).await.is_none(), "{status}");
    }
    let refusing = answering_server("secret", NtStatus::LOGON_FAILURE).await;
    let both = servers(vec![refusing.clone(), echo_server("secret").await], "secret");
    let answered = both.ask(&repeatable, soon()).await.expect("a refusal is a decision");
    assert_eq!((answered.server, answered.answer.status), (refusing, NtStatus::LOGON_FAILURE));
}
