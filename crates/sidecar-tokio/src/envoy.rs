//! Envoy's `ext_authz` over gRPC: `envoy.service.auth.v3.Authorization`, and `grpc.health.v1.Health` beside
//! it.
//!
//! Envoy says what its own handshake proved in `attributes.source.certificate`, percent-encoded PEM without a
//! chain, where its filter has `include_peer_certificate`. Headers of the client's request prove nothing
//! here, `X-Forwarded-Client-Cert` least of all.
//!
//! Whatever is decided, and whatever could not be, is an answer that Envoy takes for one: an OK call with a
//! status of its own. A failed call, or an `error_response`, is what `failure_mode_allow` lets in. What never
//! reaches [`Authorization::check`] (a message that is too long, a listener that is overloaded) fails all the
//! same, so Envoy has to keep `failure_mode_allow: false`.

use bytes::Bytes;
use envoy_types::ext_authz::v3::pb::{
    Authorization, AuthorizationServer, CheckRequest, CheckResponse, DeniedHttpResponse, HeaderAppendAction,
    HeaderValue, HeaderValueOption, HttpResponse, HttpStatus, OkHttpResponse,
};
use envoy_types::pb::envoy::service::auth::v3::attribute_context::HttpRequest;
use envoy_types::pb::google::protobuf::value::Kind;
use envoy_types::pb::google::protobuf::{ListValue, NullValue, Struct, Value};
use envoy_types::pb::google::rpc;
use http::{HeaderMap, StatusCode};
use sidecar::{
    Allowed, Ask, Broken, ClientCertificate, Cookies, Decided, Decision, Moment, Outcome, Refusal,
    RequestHead, Sidecar,
};
use std::borrow::Cow;
use std::net::SocketAddr;
use std::sync::Arc;
use tonic::codegen::BoxStream;
use tonic::service::Routes;
use tonic::{Code, Request, Response, Status, async_trait};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_server::{Health, HealthServer};
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};
use tracing::{Instrument, Span};

/// This dialect's name in configuration, logs and metrics.
pub const NAME: &str = "envoy-grpc";
/// The longest CheckRequest: a certificate of 64 KiB in percent-encoded PEM, 60 KiB of headers (Envoy's
/// default limit), and room for attributes that are not read.
pub const REQUEST_LEN_MAX: usize = 1 << 20;
const SERVICE: &str = "envoy.service.auth.v3.Authorization";
/// The path of a question; `SERVICE` and its method.
pub const CHECK_PATH: &str = "/envoy.service.auth.v3.Authorization/Check";
/// A message without fields, as gRPC frames it: not compressed, and of no length. The transport may put it in
/// place of a question that shows no secret, so that none of that is kept: the answer is the same.
pub const EMPTY_MESSAGE: Bytes = Bytes::from_static(&[0; 5]);

/// What the service needs of the listener that carries its bytes.
pub trait Listener: Send + Sync + 'static {
    /// What decides now: it is replaced when the configuration is reloaded.
    fn sidecar(&self) -> Arc<Sidecar>;

    /// Now.
    fn now(&self) -> Moment;

    /// Whether a call shows what this listener wants, if anything: its secret as `x-sidecar-secret`
    /// (`initial_metadata` of Envoy's `grpc_service`).
    fn is_proved(&self, metadata: &HeaderMap) -> bool;

    /// Whether more requests are welcome; false once a shutdown began.
    fn is_ready(&self) -> bool;

    /// Hears of each refusal, for the log.
    fn refused(&self, refusal: Refusal, decision: &Decision, client: Option<SocketAddr>);
}

/// Where a connection came from: an extension that the listener gives each request, or does not for a Unix
/// socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Source(pub SocketAddr);

/// Both services, to be called with each request of a listener. How many at once, and for how long, is the
/// listener's to limit.
pub fn routes<L: Listener>(listener: Arc<L>) -> Routes {
    let check = AuthorizationServer::new(Check(Arc::clone(&listener)));
    let health = HealthServer::new(Ready(listener));
    Routes::new(check.max_decoding_message_size(REQUEST_LEN_MAX)).add_service(health).prepare()
}

/// `Authorization`.
#[derive(Debug)]
struct Check<L>(Arc<L>);

/// `Health`: of everything (an empty name) and of [`Check`]; other names are not found. Watching is not
/// offered.
#[derive(Debug)]
struct Ready<L>(Arc<L>);

#[async_trait]
impl<L: Listener> Authorization for Check<L> {
    /// Never fails.
    async fn check(&self, request: Request<CheckRequest>) -> Result<Response<CheckResponse>, Status> {
        let sidecar = self.0.sidecar();
        let metadata = request.metadata().as_ref();
        let parent = self.0.is_proved(metadata).then(|| trace_context(metadata, request.get_ref()));
        let span = sidecar.spans().begin(NAME, &head(request.get_ref()), parent.as_deref());
        Ok(self.check_in_span(&sidecar, request).instrument(span).await)
    }
}

/// The trace that a request is in: Envoy's own, if it makes spans, and otherwise that of its client.
fn trace_context<'a>(metadata: &'a HeaderMap, request: &CheckRequest) -> Cow<'a, HeaderMap> {
    let http = request.attributes.as_ref().and_then(|it| it.request.as_ref()?.http.as_ref());
    let (Some(http), false) = (http, metadata.contains_key("traceparent")) else {
        return Cow::Borrowed(metadata);
    };
    let mut parent = HeaderMap::new();
    for name in ["traceparent", "tracestate"] {
        // Envoy joins a header that comes twice, and such a value is not well formed.
        if let Some(Ok(value)) = http.headers.get(name).map(|value| http::HeaderValue::from_str(value)) {
            parent.insert(name, value);
        }
    }
    Cow::Owned(parent)
}

/// The head of the request that Envoy asks about.
fn head(request: &CheckRequest) -> RequestHead<'_> {
    let http = request.attributes.as_ref().and_then(|it| it.request.as_ref()?.http.as_ref());
    let path = http.map_or("", |http| http.path.as_str());
    RequestHead {
        method: http.map_or("", |http| http.method.as_str()),
        path: path.split_once('?').map_or(path, |(path, _)| path),
        host: http.map(|http| http.host.as_str()),
    }
}

impl<L: Listener> Check<L> {
    async fn check_in_span(
        &self,
        sidecar: &Sidecar,
        request: Request<CheckRequest>,
    ) -> Response<CheckResponse> {
        let (metadata, extensions, CheckRequest { attributes }) = request.into_parts();
        let attributes = attributes.unwrap_or_default();
        let certificate = attributes.source.unwrap_or_default().certificate;
        let presented = match self.0.is_proved(metadata.as_ref()) {
            true => presented(&certificate),
            false => Err(Refusal::Broken(Broken::Secret)),
        };
        let http = attributes.request.and_then(|request| request.http);
        let target = http.as_ref().map(|http| (http.host.as_str(), http.path.as_str()));
        let source = extensions.get::<Source>().map(|source| source.0);
        let sent = if sidecar.has_tickets() { http.as_ref().map(cookies) } else { None };
        let cookies = sent.as_deref().map_or(Cookies::None, Cookies::Values);
        let ask = Ask { presented, target, cookies, source, now: self.0.now() };
        let decision = sidecar.decide(NAME, ask).await;
        let span = Span::current();
        sidecar.spans().decided(&span, &decision);
        let set_cookie = sidecar.set_cookie(&decision.decided, cookies);
        let (status, mut response) = match &decision.decided {
            Decided::Allowed(account) => {
                let http = http.as_ref();
                (StatusCode::OK, allowed(sidecar, account, http.unwrap_or(&HttpRequest::default())))
            }
            Decided::Refused(refusal) => {
                self.0.refused(*refusal, &decision, source);
                (refusal.status(), denied(*refusal))
            }
        };
        sidecar.spans().answered(&span, status);
        if let Some(HttpResponse::OkResponse(ok)) = &mut response.http_response {
            strip_tickets(sidecar, sent.as_deref().unwrap_or_default(), ok);
            ok.response_headers_to_add.extend(set_cookie.as_ref().and_then(added));
        }
        Response::new(response)
    }
}

#[async_trait]
impl<L: Listener> Health for Ready<L> {
    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        let status = match request.get_ref().service.as_str() {
            "" | SERVICE if self.0.is_ready() => ServingStatus::Serving,
            "" | SERVICE => ServingStatus::NotServing,
            _ => return Err(Status::not_found("there is no such service")),
        };
        Ok(Response::new(HealthCheckResponse { status: status.into() }))
    }

    type WatchStream = BoxStream<HealthCheckResponse>;

    async fn watch(&self, _: Request<HealthCheckRequest>) -> Result<Response<Self::WatchStream>, Status> {
        Err(Status::unimplemented("ask again instead"))
    }
}

fn presented(certificate: &str) -> Result<Option<ClientCertificate>, Refusal> {
    match certificate {
        "" => Ok(None),
        escaped => ClientCertificate::from_escaped_pem(escaped.as_bytes()).map(Some),
    }
}

/// Lets in, with every advertised header in place of the client's, however many copies there are. Envoy (seen
/// with 1.40) takes names away *after* it has put headers in, so none that is put in may be among those.
fn allowed(sidecar: &Sidecar, allowed: &Allowed, http: &HttpRequest) -> CheckResponse {
    let headers = allowed.headers.iter().map(|(name, value)| {
        // What is written is UTF-8 in every encoding that can be chosen.
        let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
        header(name.as_str(), value)
    });
    // Envoy gives names in one of two ways (`encode_raw_headers`), and leaves some out if `allowed_headers`
    // is set.
    let raw = http.header_map.iter().flat_map(|map| &map.headers).map(|header| header.key.as_str());
    let names = http.headers.keys().map(String::as_str).chain(raw);
    let response = OkHttpResponse {
        headers: headers.collect(),
        headers_to_remove: sidecar.taken_away(names).into_iter().collect(),
        ..OkHttpResponse::default()
    };
    CheckResponse {
        status: Some(rpc::Status { code: Code::Ok.into(), ..rpc::Status::default() }),
        dynamic_metadata: Some(metadata(allowed)),
        http_response: Some(HttpResponse::OkResponse(response)),
    }
}

/// The values of `Cookie`, of which Envoy joins several, unless it gives headers as they came
/// (`encode_raw_headers`).
fn cookies(http: &HttpRequest) -> Vec<&[u8]> {
    const COOKIE: &str = "cookie";
    let joined = http.headers.get(COOKIE).map(String::as_bytes);
    let raw = http.header_map.iter().flat_map(|map| &map.headers).filter(|header| header.key == COOKIE);
    let raw = raw.map(|header| match header.raw_value.is_empty() {
        true => header.value.as_bytes(),
        false => &header.raw_value,
    });
    joined.into_iter().chain(raw).collect()
}

/// Takes tickets out of the cookies that the application gets. Without a ticket Envoy passes them on as they
/// are.
fn strip_tickets(sidecar: &Sidecar, sent: &[&[u8]], ok: &mut OkHttpResponse) {
    let stripped: Vec<_> = sent.iter().map(|value| sidecar.without_tickets(value)).collect();
    if stripped.iter().all(Option::is_none) {
        return;
    }
    let others = sent.iter().zip(stripped).map(|(value, other)| other.unwrap_or_else(|| value.to_vec()));
    let others = others.filter(|value| !value.is_empty()).collect::<Vec<_>>().join(&b"; "[..]);
    match String::from_utf8(others) {
        Ok(others) if !others.is_empty() => ok.headers.push(header("cookie", others)),
        _ => ok.headers_to_remove.push("cookie".to_owned()),
    }
}

/// `Set-Cookie`, beside those of the application.
fn added(set_cookie: &http::HeaderValue) -> Option<HeaderValueOption> {
    let header = header("set-cookie", set_cookie.to_str().ok()?.to_owned());
    Some(HeaderValueOption { append_action: HeaderAppendAction::AppendIfExistsOrAdd.into(), ..header })
}

fn denied(refusal: Refusal) -> CheckResponse {
    let code = match refusal.outcome() {
        Outcome::Anonymous => Code::Unauthenticated,
        Outcome::Denied => Code::PermissionDenied,
        Outcome::Broken => Code::Internal,
    };
    let response = DeniedHttpResponse {
        status: Some(HttpStatus { code: refusal.status().as_u16().into() }),
        headers: vec![
            header("content-type", "text/plain; charset=utf-8".to_owned()),
            header("cache-control", "no-store".to_owned()),
        ],
        body: refusal.text().to_owned(),
    };
    CheckResponse {
        status: Some(rpc::Status { code: code.into(), ..rpc::Status::default() }),
        dynamic_metadata: None,
        http_response: Some(HttpResponse::DeniedResponse(response)),
    }
}

/// An empty value replaces a client's as well as any other does.
fn header(name: &str, value: String) -> HeaderValueOption {
    HeaderValueOption {
        header: Some(HeaderValue { key: name.to_owned(), value, ..HeaderValue::default() }),
        append_action: HeaderAppendAction::OverwriteIfExistsOrAdd.into(),
        keep_empty_value: true,
        ..HeaderValueOption::default()
    }
}

/// Who that is, for Envoy's other filters and its access log. Numbers are text, since those of a Struct are
/// not exact.
fn metadata(allowed: &Allowed) -> Struct {
    let identity = &allowed.identity;
    let text = |text: String| Value { kind: Some(Kind::StringValue(text)) };
    let optional = |value: Option<&str>| match value {
        Some(value) => text(value.to_owned()),
        None => Value { kind: Some(Kind::NullValue(NullValue::NullValue.into())) },
    };
    let groups = identity.groups.iter().map(|group| text(group.sid.to_string())).collect();
    let fields = [
        ("sid", text(identity.sid.to_string())),
        ("domain", text(identity.domain.clone())),
        ("account", text(identity.account.clone())),
        ("upn", optional(identity.upn.as_deref())),
        ("groups", Value { kind: Some(Kind::ListValue(ListValue { values: groups })) }),
        ("method", optional(identity.method)),
        ("strength", text(identity.assurance.name().to_owned())),
        ("decision", text(allowed.decision.clone())),
        ("policy_revision", text(identity.policy_revision.to_string())),
    ];
    Struct { fields: fields.map(|(name, value)| (name.to_owned(), value)).into() }
}

#[cfg(test)]
pub(crate) mod tests;
