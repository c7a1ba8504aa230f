//! The page behind the proxy: it answers every request with what it was told.
//!
//! It decides nothing and knows nothing. A client that reaches it sees what the proxy says of that client. It
//! is for trying a proxy's configuration out, and for `rcmpd check-proxy`, which tells it by its `"page":
//! "rcmpd"`.

use super::identity::{PAGE, PAGE_HEADER};
use super::wire::{Field, Framing, Head, Incoming, folded};
use anyhow::{Context, bail};
use serde_json::json;
use std::fmt::Write;
use std::future::pending;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, UnixListener};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Semaphore;
use tracing::{info, warn};

/// Connections at once: one proxy's.
const CONNECTIONS_MAX: usize = 256;
/// For a request to arrive, and between two of them: longer than proxies keep connections.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(75);
/// When nothing can be accepted, trying at once changes nothing.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves the page until SIGTERM or SIGINT. Addresses that others can reach are refused unless they are asked
/// for.
pub async fn serve(listen: Option<SocketAddr>, unix: Option<&Path>, anywhere: bool) -> anyhow::Result<()> {
    if let Some(address) = listen
        && !anywhere
        && !address.ip().is_loopback()
    {
        bail!(
            "{address} can be reached by others, and the page shows whatever it is told: listen on 127.0.0.1, or add --anywhere"
        );
    }
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let tcp = match listen {
        Some(address) => {
            let listener = TcpListener::bind(address).await;
            let listener = listener.with_context(|| format!("cannot listen on {address} (--listen)"))?;
            info!(address = %listener.local_addr()?, "Serving the test page");
            Some(listener)
        }
        None => None,
    };
    let _socket;
    let local = match unix {
        Some(path) => {
            let listener = UnixListener::bind(path);
            let listener =
                listener.with_context(|| format!("cannot listen on {} (--unix)", path.display()))?;
            _socket = Removed(path);
            info!(address = %path.display(), "Serving the test page");
            Some(listener)
        }
        None => None,
    };
    loop {
        let accepted = tokio::select! {
            _ = terminate.recv() => return Ok(()),
            _ = interrupt.recv() => return Ok(()),
            accepted = async { match &tcp {
                Some(listener) => listener.accept().await.map(|(stream, _)| spawn(stream, &room)),
                None => pending().await,
            } } => accepted,
            accepted = async { match &local {
                Some(listener) => listener.accept().await.map(|(stream, _)| spawn(stream, &room)),
                None => pending().await,
            } } => accepted,
        };
        if let Err(error) = accepted {
            warn!(%error, "Cannot accept a connection");
            tokio::time::sleep(ACCEPT_PAUSE).await;
        }
    }
}

/// A socket in the file system. It is removed when this is dropped, because no process listens on it then.
struct Removed<'a>(&'a Path);

impl Drop for Removed<'_> {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(self.0);
    }
}

/// One that is too many is closed at once.
fn spawn<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(stream: S, room: &Arc<Semaphore>) {
    let Ok(permit) = Arc::clone(room).try_acquire_owned() else { return };
    tokio::spawn(async move {
        // How it ends is the peer's business.
        let _ = converse(stream).await;
        drop(permit);
    });
}

/// Answers requests until the connection ends.
pub(super) async fn converse<S: AsyncRead + AsyncWrite + Unpin>(stream: S) -> std::io::Result<()> {
    let mut incoming = Incoming::new(stream);
    loop {
        let Some(request) = tokio::time::timeout(REQUEST_TIMEOUT, incoming.head()).await?? else {
            return Ok(());
        };
        if request.says("expect", "100-continue") {
            incoming.stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await?;
        }
        let framing = request.framing().unwrap_or(Framing::None);
        let body = tokio::time::timeout(REQUEST_TIMEOUT, incoming.body(framing)).await??;
        let is_last = is_last(&request);
        let answer = answer(&request, &body.trailers, is_last);
        incoming.stream.write_all(&answer).await?;
        if is_last {
            return incoming.stream.shutdown().await;
        }
    }
}

/// Whether the connection ends here. Where two lengths contradict each other, the bytes that follow belong to
/// no request.
fn is_last(request: &Head) -> bool {
    let two_lengths = request.values("content-length").count() > 1
        || request.values("content-length").next().is_some()
            && request.values("transfer-encoding").next().is_some();
    two_lengths || request.says("connection", "close") || !request.start.ends_with(b"HTTP/1.1")
}

/// The answer to a request.
pub(super) fn answer(request: &Head, trailers: &[Field], is_last: bool) -> Vec<u8> {
    let text = |bytes: &[u8]| escaped(bytes);
    let mut words = request.start.splitn(2, |byte| *byte == b' ');
    let method = text(words.next().unwrap_or_default());
    let rest = words.next().unwrap_or_default();
    let target = match rest.iter().rposition(|byte| *byte == b' ') {
        Some(space) => text(&rest[..space]),
        None => text(rest),
    };
    let fields = |fields: &[Field]| -> Vec<(String, String)> {
        fields.iter().map(|field| (text(&field.name), text(&field.value))).collect()
    };
    let (content_type, body) = match wanted(request) {
        "text/html" => ("text/html; charset=utf-8", html(&method, &target, request, trailers)),
        "text/plain" => ("text/plain; charset=utf-8", plain(request, trailers)),
        _ => {
            let told = json!({
                "page": PAGE,
                "method": method,
                "target": target,
                "headers": fields(&request.fields),
                "trailers": fields(trailers),
            });
            ("application/json", format!("{told}\n"))
        }
    };
    let connection = if is_last { "close" } else { "keep-alive" };
    let mut answer = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: {content_type}\r\nContent-Length: {}\r\nConnection: {connection}\r\n\
         {PAGE_HEADER}: {PAGE}\r\nCache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\n\
         Content-Security-Policy: default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'\r\n\r\n",
        body.len()
    );
    // An answer to HEAD says how long it would be (RFC 9110, section 9.3.2).
    if method != "HEAD" {
        answer.push_str(&body);
    }
    answer.into_bytes()
}

/// Bytes as text that says exactly which they were: what is not visible ASCII or a space is percent-encoded,
/// and `%` too.
fn escaped(bytes: &[u8]) -> String {
    let mut escaped = String::with_capacity(bytes.len());
    for byte in bytes {
        match byte {
            b'%' | ..0x20 | 0x7f.. => _ = write!(escaped, "%{byte:02X}"),
            byte => escaped.push(char::from(*byte)),
        }
    }
    escaped
}

/// The type that the client prefers (RFC 9110, section 12.5.1); JSON, unless it prefers another one.
fn wanted(request: &Head) -> &'static str {
    let quality = |wanted: &str| {
        let kind = wanted.split('/').next().unwrap_or_default();
        let ranges = request.values("accept").flat_map(|value| value.split(|byte| *byte == b','));
        let ranked = ranges.filter_map(|range| {
            let range = String::from_utf8_lossy(range).to_ascii_lowercase();
            let mut parts = range.split(';').map(str::trim);
            let rank = match parts.next()? {
                name if name == wanted => 2,
                name if name.strip_suffix("/*") == Some(kind) => 1,
                "*/*" => 0,
                _ => return None,
            };
            let q = parts.find_map(|part| part.strip_prefix("q=")).and_then(|q| q.parse::<f32>().ok());
            Some((rank, q.unwrap_or(1.0)))
        });
        // The range that says most counts.
        ranked.max_by_key(|(rank, _)| *rank).map_or(0.0, |(_, q)| q)
    };
    let kinds = ["text/html", "text/plain"];
    kinds.into_iter().fold("application/json", |best, kind| match quality(kind) > quality(best) {
        true => kind,
        false => best,
    })
}

/// All fields: those of an identity first.
fn identity_first<'a>(request: &'a Head, trailers: &'a [Field]) -> Vec<&'a Field> {
    let names = super::identity::names(&super::identity::PRESETS);
    let is_identity = |field: &&Field| names.contains(&folded(&field.name));
    let (mut fields, others): (Vec<_>, Vec<_>) = request.fields.iter().partition(is_identity);
    fields.extend(others.into_iter().chain(trailers));
    fields
}

/// A header in each line.
fn plain(request: &Head, trailers: &[Field]) -> String {
    let line = |mut text: String, field: &Field| {
        let _ = writeln!(text, "{:<31} {}", escaped(&field.name), escaped(&field.value));
        text
    };
    identity_first(request, trailers).into_iter().fold(String::new(), line)
}

fn html(method: &str, target: &str, request: &Head, trailers: &[Field]) -> String {
    let mut rows = String::new();
    for field in identity_first(request, trailers) {
        let (name, value) = (markup(&escaped(&field.name)), markup(&escaped(&field.value)));
        let _ = writeln!(rows, "<tr><th>{name}</th><td>{value}</td></tr>");
    }
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head><meta charset=\"utf-8\"><title>Who you are</title>\n\
         <style>body {{ font-family: sans-serif }} th {{ text-align: left; vertical-align: top; padding-right: 2em }} \
         td {{ font-family: monospace; overflow-wrap: anywhere }}</style></head>\n\
         <body>\n<h1>Who you are</h1>\n<p>What the web server in front says of you. For trial only.</p>\n\
         <p><code>{} {}</code></p>\n<table>\n{rows}</table>\n</body>\n</html>\n",
        markup(method),
        markup(target)
    )
}

fn markup(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
        .replace('\'', "&#39;")
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;
    use serde_json::Value;
    use tokio::io::AsyncReadExt;

    async fn told(request: &[u8]) -> String {
        let (mut ours, theirs) = tokio::io::duplex(1 << 20);
        ours.write_all(request).await.unwrap();
        ours.shutdown().await.unwrap();
        converse(theirs).await.unwrap();
        let mut answer = String::new();
        ours.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn everything_that_was_told_is_shown_in_order() {
        let answer = told(
            b"POST /a?b=%41 HTTP/1.1\r\nRemote-User: a\r\nx: 1\r\nREMOTE_USER : \xc3\xa4%\r\nTransfer-Encoding: chunked\r\n\r\n\
              1\r\nz\r\n0\r\nX-Identity-Sid: t\r\n\r\nGET /2 HTTP/1.1\r\nConnection: close\r\n\r\n",
        )
        .await;
        let bodies: Vec<Value> = answer
            .lines()
            .filter(|line| line.starts_with('{'))
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        let expected = json!([
            {
                "page": "rcmpd",
                "method": "POST",
                "target": "/a?b=%2541",
                "headers": [
                    ["Remote-User", "a"], ["x", "1"], ["REMOTE_USER ", "%C3%A4%25"], ["Transfer-Encoding", "chunked"]
                ],
                "trailers": [["X-Identity-Sid", "t"]],
            },
            { "page": "rcmpd", "method": "GET", "target": "/2", "headers": [["Connection", "close"]], "trailers": [] },
        ]);
        assert_eq!(Value::from(bodies), expected, "{answer}");
    }

    #[tokio::test]
    async fn a_browser_gets_a_table_that_runs_nothing() {
        let answer = told(
            b"GET /<script> HTTP/1.1\r\nAccept: text/html,application/xhtml+xml,*/*;q=0.8\r\nx: 1\r\n\
              Remote-User: <b>\"'&\r\nConnection: close\r\n\r\n",
        )
        .await;
        assert!(answer.contains("<th>Remote-User</th><td>&lt;b&gt;&quot;&#39;&amp;</td>"), "{answer}");
        assert!(answer.contains("<code>GET /&lt;script&gt;</code>"), "{answer}");
        assert!(answer.find("Remote-User") < answer.find("<th>x</th>"), "identity is first: {answer}");
        assert!(answer.contains("Content-Security-Policy: default-src 'none'"), "{answer}");
    }

    #[test]
    fn who_wants_something_more_gets_that() {
        const JSON: &str = "application/json";
        for (accept, expected) in [
            ("*/*", JSON),
            ("", JSON),
            (JSON, JSON),
            ("text/html", "text/html"),
            ("text/*", "text/html"),
            ("text/html;q=0.5, application/json;q=0.4", "text/html"),
            ("text/html;q=0.5, */*", JSON),
            ("text/plain", "text/plain"),
            ("text/html;q=0.5, text/plain;q=0.6", "text/plain"),
            ("text/html, text/plain", "text/html"),
        ] {
            let field = Field { name: b"Accept".to_vec(), value: accept.into() };
            let request = Head { start: b"GET / HTTP/1.1".to_vec(), fields: vec![field] };
            assert_eq!(wanted(&request), expected, "{accept}");
        }
    }

    #[tokio::test]
    async fn a_terminal_gets_a_line_for_each() {
        let answer = told(
            b"GET / HTTP/1.1\r\nAccept: text/plain\r\nRemote-User: A\\\xc3\xa4\r\nConnection: close\r\n\r\n",
        )
        .await;
        let (_, body) = answer.split_once("\r\n\r\n").unwrap();
        let lines: Vec<Vec<&str>> = body.lines().map(|line| line.split_whitespace().collect()).collect();
        let expected = [["Remote-User", "A\\%C3%A4"], ["Accept", "text/plain"], ["Connection", "close"]];
        assert_eq!(lines, expected, "{answer}");
    }

    #[tokio::test]
    async fn two_lengths_end_the_connection() {
        let answer = told(
            b"POST / HTTP/1.1\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /2 HTTP/1.1\r\n\r\n",
        )
        .await;
        assert_eq!(answer.matches("HTTP/1.1 200 OK").count(), 1, "{answer}");
    }

    #[tokio::test]
    async fn others_cannot_reach_it_unless_that_is_asked_for() {
        let address = "0.0.0.0:0".parse().unwrap();
        let error = serve(Some(address), None, false).await.unwrap_err();
        assert!(error.to_string().contains("--anywhere"), "{error}");
    }
}
