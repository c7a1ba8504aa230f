//! `rcmpd tlsnego endpoint`.

use super::call::settings;
use crate::cli::ServiceArgs;
use crate::output;
use crate::tlsnego::moment;
use anyhow::Context;
use std::net::SocketAddr;
use tlsnego_tokio::endpoint::Endpoint;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

pub(super) async fn serve(listen: SocketAddr, service: &ServiceArgs) -> anyhow::Result<u8> {
    let endpoint = Endpoint::new(settings(service, None)?, moment);
    let listener = TcpListener::bind(listen).await;
    let listener = listener.with_context(|| format!("cannot listen on {listen} (--listen)"))?;
    let address = listener.local_addr().context("the listener has no address")?;
    output::message(&format!("plain SOAP 1.2 at http://{address}/ is called at {}", service.url));
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let shutdown = CancellationToken::new();
    let serving = tokio::spawn(endpoint.serve(listener, shutdown.clone()));
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    shutdown.cancel();
    serving.await.context("the endpoint failed")?;
    Ok(0)
}
