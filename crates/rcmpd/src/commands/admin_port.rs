//! Questions to the admin port of a running service, with the operators' token.

use super::{UNREACHABLE, failed};
use crate::config::Config;
use anyhow::Context;
use bytes::Bytes;
use http::header::{AUTHORIZATION, HOST};
use http::{HeaderValue, Method, Request, StatusCode, request};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::timeout;
use zeroize::Zeroizing;

/// For the whole question: the service is on this machine.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Longest answer in octets: ten thousand sessions have some 4 MiB.
const ANSWER_LEN_MAX: usize = 64 << 20;
/// Longest answer to what needs no token, in octets: a line. What listens there need not be this program.
const LINE_LEN_MAX: usize = 4096;

/// Asks, and returns the status and the body of the answer.
pub(super) async fn ask(config: &Config, method: Method, path: &str) -> anyhow::Result<(StatusCode, Bytes)> {
    let admin = config
        .admin
        .as_ref()
        .context("the service is asked at its admin port: configure [admin] with listen and token")?;
    let token = admin.token.as_ref().context(
        "operators need a token: write one into a file of mode 600, set token = \"file:FILE\" in [admin], and restart the service",
    )?;
    let token = token.read().context("cannot use admin.token")?;
    let bearer = Zeroizing::new(format!("Bearer {}", &*token));
    let mut authorization = HeaderValue::from_str(&bearer).context("admin.token is no header")?;
    authorization.set_sensitive(true);
    let request = Request::builder().method(method).uri(path).header(AUTHORIZATION, authorization);
    send(admin.listen, request, (TIMEOUT, ANSWER_LEN_MAX)).await.map_err(|error| {
        let address = reachable(admin.listen);
        failed(
            UNREACHABLE,
            format!("the service cannot be asked at {address} (admin.listen): {error}; is it running?"),
        )
    })
}

/// Asks for what needs no token, within this time.
pub(super) async fn get(
    listen: SocketAddr,
    path: &str,
    time: Duration,
) -> Result<(StatusCode, Bytes), BoxError> {
    send(listen, Request::builder().uri(path), (time, LINE_LEN_MAX)).await
}

/// Why there is no answer.
type BoxError = Box<dyn std::error::Error + Send + Sync>;

async fn send(
    listen: SocketAddr,
    request: request::Builder,
    (time, len_max): (Duration, usize),
) -> Result<(StatusCode, Bytes), BoxError> {
    let address = reachable(listen);
    let asked = async {
        let stream = TcpStream::connect(address).await?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        let request = request.header(HOST, address.to_string()).body(Empty::<Bytes>::new())?;
        let answer = sender.send_request(request).await?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), len_max).collect().await?;
        Ok((status, body.to_bytes()))
    };
    timeout(time, asked).await.map_err(|_| "no answer in time")?
}

/// Where this machine reaches a listener on all of its addresses.
fn reachable(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}
