//! Hop-by-hop headers, and `X-Forwarded-…`.

use http::uri::Authority;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, Version, header};
use hyper::body::{Body, Incoming};
use sidecar::dialect::plain_name;
use sidecar::forwarding::{is_clients, is_one};
use sidecar::routes::host_of;
use std::net::IpAddr;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const WEBSOCKET: HeaderValue = HeaderValue::from_static("websocket");
const UPGRADE: HeaderValue = HeaderValue::from_static("upgrade");

/// The authority that a request is for: the target's, or that of `Host` (RFC 9112, section 3.3). None where
/// it is missing, there twice, no host with a port or without ([`host_of`]), or where the two differ: what is
/// read in two ways is decided about in one and answered in the other.
pub fn authority<B>(request: &Request<B>) -> Option<Authority> {
    let mut hosts = request.headers().get_all(header::HOST).iter();
    let host = match (hosts.next(), hosts.next()) {
        (Some(host), None) => Some(Authority::try_from(host.as_bytes()).ok()?),
        (None, _) => None,
        (Some(_), Some(_)) => return None,
    };
    let authority = match (request.uri().authority().cloned(), host) {
        (Some(target), Some(host)) if target != host => return None,
        (target, host) => target.or(host)?,
    };
    host_of(authority.as_str()).is_some().then_some(authority)
}

/// Removes the hop-by-hop headers: those that `Connection` names, and those that always are.
pub(super) fn strip_hop_by_hop(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = names(headers, header::CONNECTION).collect();
    // What a proxy before us says of the client is not the client's to take away.
    for name in named.into_iter().filter(|name| !is_one(name.as_str())) {
        headers.remove(name);
    }
    let always: Vec<HeaderName> = headers.keys().filter(|name| is_of_hop(name.as_str())).cloned().collect();
    for name in always {
        headers.remove(name);
    }
}

/// The elements of a field that is a list of tokens.
fn elements(headers: &HeaderMap, field: HeaderName) -> impl Iterator<Item = &[u8]> {
    let values = headers.get_all(field).into_iter();
    values.flat_map(|value| value.as_bytes().split(|byte| *byte == b',')).map(<[u8]>::trim_ascii)
}

/// The fields that a field names.
fn names(headers: &HeaderMap, field: HeaderName) -> impl Iterator<Item = HeaderName> {
    elements(headers, field).filter_map(|name| HeaderName::from_bytes(name).ok())
}

/// Whether a client reads trailers (RFC 9110, section 10.1.4). Over HTTP/1.1 `TE` is for this hop where
/// `Connection` says so.
pub(super) fn reads_trailers<B>(request: &Request<B>) -> bool {
    let has = |field, option: &[u8]| {
        elements(request.headers(), field).any(|element| element.eq_ignore_ascii_case(option))
    };
    has(header::TE, b"trailers") && (request.version() == Version::HTTP_2 || has(header::CONNECTION, b"te"))
}

/// The trailers that a message announces (RFC 9110, section 6.6.2), as far as they are passed on.
pub(super) fn announced(headers: &HeaderMap, strip: impl Fn(&mut HeaderMap)) -> Option<HeaderValue> {
    let mut announced: HeaderMap =
        names(headers, header::TRAILER).map(|name| (name, HeaderValue::from_static(""))).collect();
    strip_trailers(&mut announced);
    strip(&mut announced);
    let names: Vec<&str> = announced.keys().map(HeaderName::as_str).collect();
    if names.is_empty() { None } else { HeaderValue::from_str(&names.join(", ")).ok() }
}

/// Takes away what no trailer may say: what belongs to a hop, where a request comes from, and what says how a
/// message is framed, routed, authenticated or read (RFC 9110, section 6.5.1).
pub(super) fn strip_trailers(trailers: &mut HeaderMap) {
    // An application may take `content_length` for `content-length`, as it may in headers.
    let is_bad = |name: &&HeaderName| {
        let plain = HeaderName::try_from(&*plain_name(name.as_str()));
        !may_trail(name) || plain.is_ok_and(|plain| !may_trail(&plain))
    };
    let bad: Vec<HeaderName> = trailers.keys().filter(is_bad).cloned().collect();
    for name in bad {
        trailers.remove(name);
    }
}

fn may_trail(name: &HeaderName) -> bool {
    !is_of_hop(name.as_str())
        && !is_one(name.as_str())
        && !matches!(
            *name,
            header::HOST
                | header::CONTENT_LENGTH
                | header::CONTENT_ENCODING
                | header::CONTENT_TYPE
                | header::CONTENT_RANGE
                | header::AUTHORIZATION
                | header::WWW_AUTHENTICATE
                | header::COOKIE
                | header::SET_COOKIE
                | header::EXPECT
                | header::MAX_FORWARDS
                | header::RANGE
                | header::IF_MATCH
                | header::IF_NONE_MATCH
                | header::IF_MODIFIED_SINCE
                | header::IF_UNMODIFIED_SINCE
                | header::IF_RANGE
                | header::CACHE_CONTROL
                | header::PRAGMA
                | header::AGE
                | header::EXPIRES
                | header::DATE
                | header::VARY
                | header::LOCATION
                | header::RETRY_AFTER
        )
}

fn is_of_hop(name: &str) -> bool {
    match name {
        "connection" | "keep-alive" | "te" | "trailer" | "transfer-encoding" | "upgrade"
        | "http2-settings" => true,
        // CGI makes a variable of it that libraries take for the way out.
        "proxy" => true,
        name => name.starts_with("proxy-"),
    }
}

/// Takes away the fields whose names are as `is_clients` has it.
fn remove(headers: &mut HeaderMap, is_clients: fn(&str) -> bool) {
    let said: Vec<HeaderName> = headers.keys().filter(|name| is_clients(name.as_str())).cloned().collect();
    for name in said {
        headers.remove(name);
    }
}

/// Removes forwarding headers that the proxy in front does not set itself, so that they are the client's.
pub(super) fn strip_client_forwarded(headers: &mut HeaderMap) {
    remove(headers, is_clients);
}

/// Replaces all `X-Forwarded-…` and `Forwarded` of a client by its address, scheme and host.
pub(super) fn set_forwarded(headers: &mut HeaderMap, client: IpAddr, host: &HeaderValue) {
    remove(headers, is_one);
    if let Ok(client) = HeaderValue::from_str(&client.to_canonical().to_string()) {
        headers.insert(X_FORWARDED_FOR, client);
    }
    headers.insert(X_FORWARDED_PROTO, HeaderValue::from_static("https"));
    headers.insert(X_FORWARDED_HOST, host.clone());
}

/// The headers of a request as this hop sends them, without identity and forwarding. `trailer` announces the
/// trailers that pass.
pub(super) fn prepare_request(headers: &mut HeaderMap, reads_trailers: bool, trailer: Option<HeaderValue>) {
    strip_hop_by_hop(headers);
    if reads_trailers {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
    if let Some(trailer) = trailer {
        headers.insert(header::TRAILER, trailer);
    }
    headers.remove(header::EXPECT);
    join_lengths(headers);
    join_cookies(headers);
}

/// The headers of an application's answer as this hop sends them.
pub(super) fn prepare_response(status: StatusCode, headers: &mut HeaderMap, may_trail: bool) {
    let trailer = may_trail.then(|| announced(headers, |_| {})).flatten();
    strip_hop_by_hop(headers);
    if let Some(trailer) = trailer {
        headers.insert(header::TRAILER, trailer);
    }
    join_lengths(headers);
    if matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED) {
        // It has no body, whatever Content-Length says (RFC 9110, section 8.6).
        headers.remove(header::CONTENT_LENGTH);
    }
}

/// HTTP/2 may have equal lengths in several fields; HTTP/1.1 needs one (RFC 9110, section 8.6).
fn join_lengths(headers: &mut HeaderMap) {
    if let Some(length) = headers.remove(header::CONTENT_LENGTH) {
        // Without leading zeros, of which readers make different numbers.
        let number = length.to_str().ok().and_then(|length| length.trim().parse::<u64>().ok());
        headers.insert(header::CONTENT_LENGTH, number.map_or(length, HeaderValue::from));
    }
}

/// HTTP/2 may split `Cookie`, HTTP/1.1 may not (RFC 9113, section 8.2.3).
pub(super) fn join_cookies(headers: &mut HeaderMap) {
    let cookies: Vec<&[u8]> = headers.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if cookies.len() < 2 {
        return;
    }
    // Each is a value already, and so they are together.
    if let Ok(joined) = HeaderValue::from_bytes(&cookies.join(&b"; "[..])) {
        headers.insert(header::COOKIE, joined);
    }
}

/// Whether a body is coded in a way that does not end at this hop: everything but `chunked`, once.
pub(super) fn has_unknown_coding(headers: &HeaderMap) -> bool {
    let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
    match (codings.next(), codings.next()) {
        (None, _) => false,
        (Some(coding), None) => !coding.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked"),
        (Some(_), Some(_)) => true,
    }
}

/// Whether a request opens a WebSocket (RFC 6455, section 4.1).
pub(super) fn wants_websocket(request: &Request<Incoming>) -> bool {
    request.method() == Method::GET
        && request.version() == Version::HTTP_11
        && request.body().is_end_stream()
        && is_websocket(request.headers())
}

/// Whether a head changes to WebSocket, and to nothing else.
pub(super) fn is_websocket(headers: &HeaderMap) -> bool {
    let mut protocols = headers.get_all(header::UPGRADE).iter();
    let is_only = match (protocols.next(), protocols.next()) {
        (Some(protocol), None) => protocol.as_bytes().trim_ascii().eq_ignore_ascii_case(b"websocket"),
        _ => false,
    };
    is_only && elements(headers, header::CONNECTION).any(|option| option.eq_ignore_ascii_case(b"upgrade"))
}

/// Asks the next hop for a WebSocket, or says yes.
pub(super) fn websocket(headers: &mut HeaderMap) {
    headers.insert(header::CONNECTION, UPGRADE);
    headers.insert(header::UPGRADE, WEBSOCKET);
}
