use super::*;
use account_store::BoxFuture;
use base64::Engine;
use dtyp::{FileTime, Sid};
use envoy_types::pb::envoy::config::core::v3::HeaderMap;
use envoy_types::pb::envoy::service::auth::v3::AttributeContext;
use envoy_types::pb::envoy::service::auth::v3::attribute_context::{Peer, Request as Attributes};
use prometheus_client::encoding::prometheus_text;
use prometheus_client::registry::Registry;
use rcgen::{CertificateParams, DnType, KeyPair};
use rcmp_service::Reason;
use sidecar::headers::Format;
use sidecar::routes::{Route, Routes};
use sidecar::{Assurance, DecisionInputs, Group, Identify, Identity, NoSpans, Parts};
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;
use zeroize::Zeroizing;

/// Knows one certificate, and who that is.
pub(crate) struct Known {
    leaf: Vec<u8>,
    outcome: Result<Identity, Refusal>,
    sources: Mutex<Vec<Option<SocketAddr>>>,
}

impl Identify for Known {
    fn decision_inputs(&self, _: &ClientCertificate, _: FileTime) -> Result<DecisionInputs, Refusal> {
        Ok(DecisionInputs {
            path: None,
            policy_revision: 7,
            store_revision: account_store::Revision::FIXED,
            is_settled: true,
        })
    }

    fn identify<'a>(
        &'a self,
        presented: &'a ClientCertificate,
        _: &'a str,
        source: Option<SocketAddr>,
        _: FileTime,
    ) -> BoxFuture<'a, Result<Identity, Refusal>> {
        self.sources.lock().expect("no thread panicked").push(source);
        let is_known = presented.leaf == self.leaf && presented.chain.is_empty();
        let outcome =
            if is_known { self.outcome.clone() } else { Err(Refusal::NotMapped(Reason::NoMatch.into())) };
        Box::pin(async move { outcome })
    }
}

/// A listener that is in the middle of its life.
struct Around {
    sidecar: Mutex<Arc<Sidecar>>,
    secret: Option<Zeroizing<String>>,
    is_ready: bool,
    refused: Mutex<Vec<Refusal>>,
}

impl Listener for Around {
    fn sidecar(&self) -> Arc<Sidecar> {
        Arc::clone(&self.sidecar.lock().expect("no thread panicked"))
    }

    fn now(&self) -> Moment {
        Moment { wall: FileTime::from_unix(1_750_000_000), uptime: Duration::ZERO }
    }

    fn is_proved(&self, metadata: &http::HeaderMap) -> bool {
        self.secret.as_ref().is_none_or(|secret| sidecar::shows_secret(metadata, secret))
    }

    fn is_ready(&self) -> bool {
        self.is_ready
    }

    fn refused(&self, refusal: Refusal, _: &Decision, _: Option<SocketAddr>) {
        self.refused.lock().expect("no thread panicked").push(refusal);
    }
}

fn sid(text: &str) -> Sid {
    text.parse().expect("a SID")
}

/// Alice without a UPN, by a policy whose number no double can hold.
fn alice() -> Identity {
    let group = |rid: u32, name: &str| Group {
        sid: sid(&format!("S-1-5-21-1-2-3-{rid}")),
        name: Some(name.to_owned()),
    };
    Identity {
        domain: "CONTOSO".to_owned(),
        is_ours: true,
        account: "alice".to_owned(),
        upn: None,
        full_name: Some("Alice Liddell".to_owned()),
        mail: None,
        sid: sid("S-1-5-21-1-2-3-1000"),
        groups: vec![group(513, "Domain Users"), group(1100, "Staff")],
        method: Some("upn"),
        assurance: Assurance::Strong(Some("sid_extension")),
        policy_revision: (1 << 53) + 1,
        stale_s: None,
        not_after: FileTime::from_unix(2_000_000_000),
    }
}

/// A new certificate: DER, and PEM with everything escaped but what never needs it.
fn certificate() -> (Vec<u8>, String) {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "alice");
    let key = KeyPair::generate().expect("a key can be made");
    let leaf = params.self_signed(&key).expect("a certificate can be made").der().to_vec();
    let text = base64::engine::general_purpose::STANDARD.encode(&leaf);
    let pem = format!("-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n");
    let escaped = pem.bytes().map(|byte| match byte {
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => char::from(byte).to_string(),
        byte => format!("%{byte:02X}"),
    });
    let escaped = escaped.collect();
    (leaf, escaped)
}

pub(crate) fn sidecar(
    leaf: &[u8],
    outcome: Result<Identity, Refusal>,
    routes: Vec<Route>,
) -> (Arc<Sidecar>, Arc<Known>) {
    let known = Arc::new(Known { leaf: leaf.to_vec(), outcome, sources: Mutex::default() });
    let parts = Parts {
        spans: Arc::new(NoSpans),
        identify: Arc::clone(&known) as Arc<dyn Identify>,
        routes: Routes::new(routes),
        format: Format::default(),
        token: None,
        tickets: None,
        references: None,
        remember: Duration::ZERO,
        remembered_max: 1,
    };
    (Arc::new(Sidecar::new(parts)), known)
}

fn around(sidecar: Arc<Sidecar>) -> Arc<Around> {
    let sidecar = Mutex::new(sidecar);
    Arc::new(Around { sidecar, secret: None, is_ready: true, refused: Mutex::default() })
}

fn http(host: &str, path: &str, headers: &[(&str, &str)]) -> HttpRequest {
    let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    HttpRequest { host: host.to_owned(), path: path.to_owned(), headers, ..HttpRequest::default() }
}

fn request(certificate: &str, http: Option<HttpRequest>) -> Request<CheckRequest> {
    let source = Peer { certificate: certificate.to_owned(), ..Peer::default() };
    let attributes = AttributeContext {
        source: Some(source),
        request: Some(Attributes { http, ..Attributes::default() }),
        ..AttributeContext::default()
    };
    Request::new(CheckRequest { attributes: Some(attributes) })
}

async fn ask(listener: &Arc<Around>, request: Request<CheckRequest>) -> CheckResponse {
    Check(Arc::clone(listener)).check(request).await.expect("a call never fails").into_inner()
}

fn code(response: &CheckResponse) -> i32 {
    response.status.as_ref().expect("there is a status").code
}

#[track_caller]
fn ok(response: &CheckResponse) -> &OkHttpResponse {
    assert_eq!(code(response), 0);
    match &response.http_response {
        Some(HttpResponse::OkResponse(ok)) => ok,
        other => panic!("not let in: {other:?}"),
    }
}

/// The HTTP status of a denial, which has to be one that no configuration of Envoy overrides.
#[track_caller]
fn status(response: &CheckResponse) -> i32 {
    assert_ne!(code(response), 0, "OK lets in");
    assert_eq!(response.dynamic_metadata, None);
    match &response.http_response {
        Some(HttpResponse::DeniedResponse(denied)) => denied.status.as_ref().expect("it has a status").code,
        other => panic!("no denial: {other:?}"),
    }
}

#[tokio::test]
async fn lets_in_with_every_header_and_the_identity() {
    let (leaf, escaped) = certificate();
    let (sidecar, known) = sidecar(&leaf, Ok(alice()), Vec::new());
    let listener = around(sidecar);
    let mut request = request(&escaped, Some(http("app.example", "/", &[])));
    let source = SocketAddr::from(([192, 0, 2, 1], 4000));
    request.extensions_mut().insert(Source(source));
    let response = ask(&listener, request).await;
    let mut headers = BTreeMap::new();
    for option in &ok(&response).headers {
        assert_eq!(option.append_action(), HeaderAppendAction::OverwriteIfExistsOrAdd);
        assert!(option.keep_empty_value);
        let header = option.header.as_ref().expect("there is a header");
        assert!(headers.insert(header.key.as_str(), header.value.as_str()).is_none(), "{}", header.key);
    }
    assert_eq!(headers["remote-user"], "CONTOSO\\alice");
    assert_eq!(headers["x-identity-sid"], "S-1-5-21-1-2-3-1000");
    assert_eq!(headers["x-identity-group-sids"], "S-1-5-21-1-2-3-513,S-1-5-21-1-2-3-1100");
    // There is nothing to say, and a client's copy would say it.
    for empty in ["remote-email", "x-identity-upn", "x-identity-token", "x-identity-reference"] {
        assert_eq!(headers[empty], "", "{empty}");
    }

    let fields = &response.dynamic_metadata.as_ref().expect("there is metadata").fields;
    let text = |name: &str| match fields[name].kind.as_ref() {
        Some(Kind::StringValue(text)) => text.as_str(),
        other => panic!("{name}: {other:?}"),
    };
    assert_eq!(text("sid"), "S-1-5-21-1-2-3-1000");
    assert_eq!(text("domain"), "CONTOSO");
    assert_eq!(text("account"), "alice");
    assert_eq!(text("method"), "upn");
    assert_eq!(text("strength"), "strong");
    assert_eq!(text("policy_revision"), "9007199254740993");
    assert_eq!(text("decision"), headers["x-identity-decision"]);
    assert_eq!(fields["upn"].kind, Some(Kind::NullValue(0)));
    let Some(Kind::ListValue(groups)) = &fields["groups"].kind else { panic!("no list of groups") };
    let groups: Vec<_> = groups.values.iter().map(|group| group.kind.clone()).collect();
    let expected = ["S-1-5-21-1-2-3-513", "S-1-5-21-1-2-3-1100"];
    assert_eq!(groups, expected.map(|sid| Some(Kind::StringValue(sid.to_owned()))));
    assert_eq!(*known.sources.lock().expect("no thread panicked"), [Some(source)]);
    assert!(listener.refused.lock().expect("no thread panicked").is_empty());
}

#[tokio::test]
async fn takes_away_what_only_we_may_say_and_nothing_that_it_puts_in() {
    let (leaf, escaped) = certificate();
    let (sidecar, _) = sidecar(&leaf, Ok(alice()), Vec::new());
    let listener = around(sidecar);
    let names = [
        ("x-identity_sid", "S-1-5-18"),
        ("x-identity.upn", "root@x"),
        ("remote_user", "root"),
        ("x_unrelated", ""),
        ("accept", "*/*"),
    ];
    let mut http = http("app.example", "/", &names);
    let raw = HeaderValue { key: "X-Identity_Group-Sids".to_owned(), ..HeaderValue::default() };
    http.header_map = Some(HeaderMap { headers: vec![raw] });
    let response = ask(&listener, request(&escaped, Some(http))).await;
    let ok = ok(&response);
    let removed = &ok.headers_to_remove;
    for name in [
        "x-forwarded-client-cert",
        "x-forwarded-tls-client-cert",
        "x_forwarded_client_cert",
        "ssl-client-verify",
        "client-cert",
        "client_cert_chain",
        "x-sidecar-secret",
        "x_sidecar_secret",
        "x_identity_sid",
        "x-identity_sid",
        "x-identity_group-sids",
        "remote_user",
        "x-identity.upn",
    ] {
        assert!(removed.iter().any(|removed| removed == name), "{name} reaches the application");
    }
    // Envoy removes last: an advertised name among those would take the identity away.
    for option in &ok.headers {
        let header = option.header.as_ref().expect("there is a header");
        assert!(!removed.contains(&header.key), "{} is put in and taken away", header.key);
    }
    for name in ["x_unrelated", "accept"] {
        assert!(!removed.iter().any(|removed| removed == name), "{name} is the client's own");
    }
}

#[tokio::test]
async fn a_header_of_the_client_is_no_certificate() {
    let (leaf, escaped) = certificate();
    let (sidecar, _) = sidecar(&leaf, Ok(alice()), Vec::new());
    let listener = around(sidecar);
    let claim = format!("Cert=\"{escaped}\"");
    let forged = http("app.example", "/", &[("x-forwarded-client-cert", &claim), ("client-cert", &escaped)]);
    let response = ask(&listener, request("", Some(forged))).await;
    assert_eq!((status(&response), code(&response)), (401, 16));
    let nothing = Request::new(CheckRequest::default());
    assert_eq!(status(&ask(&listener, nothing).await), 401);
    let refused = listener.refused.lock().expect("no thread panicked");
    assert_eq!(*refused, [Refusal::NoCertificate, Refusal::NoCertificate]);
}

#[tokio::test]
async fn a_user_that_may_not_is_denied() {
    let (leaf, escaped) = certificate();
    let (_, stranger) = certificate();
    let admins = Route {
        host: Some("app.example".to_owned()),
        path: Some("/admin".to_owned()),
        sids: vec![sid("S-1-5-21-1-2-3-512")],
        ..Route::default()
    };
    let all = Route { host: Some("app.example".to_owned()), ..Route::default() };
    let (sidecar, _) = sidecar(&leaf, Ok(alice()), vec![admins, all]);
    let listener = around(sidecar);
    let at = |host, path| Some(http(host, path, &[]));
    ok(&ask(&listener, request(&escaped, at("app.example:8443", "/?to=/admin"))).await);
    for (certificate, host, path) in [
        (&stranger, "app.example", "/"),
        (&escaped, "app.example", "/admin/x"),
        (&escaped, "app.example", "/x/%2e%2e/admin"),
        (&escaped, "other.example", "/"),
        // CONNECT has no path.
        (&escaped, "app.example", ""),
    ] {
        let response = ask(&listener, request(certificate, at(host, path))).await;
        assert_eq!((status(&response), code(&response)), (403, 7), "{host} {path}");
    }
    // Routes go by what was asked for, and Envoy always says it.
    assert_eq!(status(&ask(&listener, request(&escaped, None)).await), 500);
}

#[tokio::test]
async fn what_is_broken_is_a_denial_that_cannot_be_allowed() {
    let (leaf, escaped) = certificate();
    let (undecided, _) = sidecar(&leaf, Err(Refusal::Undecided(Reason::StoreUnavailable.into())), Vec::new());
    let listener = around(undecided);
    let at = || Some(http("app.example", "/", &[]));
    let twice = format!("{escaped}{escaped}");
    let long = "A".repeat(200_000);
    for certificate in [escaped.as_str(), "%2", "-----BEGIN%20CERTIFICATE-----", "garbage", &twice, &long] {
        let response = ask(&listener, request(certificate, at())).await;
        assert_eq!((status(&response), code(&response)), (500, 13), "{certificate}");
    }
    let refused = listener.refused.lock().expect("no thread panicked");
    assert_eq!(refused[0], Refusal::Undecided(Reason::StoreUnavailable.into()));
    assert_eq!(refused[1], Refusal::Broken(Broken::Certificate));
    assert_eq!(refused[4], Refusal::Broken(Broken::ManyCertificates));
}

#[tokio::test]
async fn a_listener_with_a_secret_wants_it_once() {
    let (leaf, escaped) = certificate();
    let (sidecar, known) = sidecar(&leaf, Ok(alice()), Vec::new());
    let listener = Arc::new(Around {
        sidecar: Mutex::new(sidecar),
        secret: Some(Zeroizing::new("open sesame".to_owned())),
        is_ready: true,
        refused: Mutex::default(),
    });
    let with = |secrets: &[&'static str]| {
        let mut request =
            request(&escaped, Some(http("app.example", "/", &[("x-sidecar-secret", "open sesame")])));
        for secret in secrets {
            request.metadata_mut().append("x-sidecar-secret", secret.parse().expect("it is ASCII"));
        }
        request
    };
    for wrong in [&[][..], &["open"], &["open sesame", "open sesame"]] {
        assert_eq!(status(&ask(&listener, with(wrong)).await), 500, "{wrong:?}");
    }
    assert!(known.sources.lock().expect("no thread panicked").is_empty(), "the account was not looked up");
    ok(&ask(&listener, with(&["open sesame"])).await);
}

#[tokio::test]
async fn decides_by_what_was_loaded_last() {
    let (leaf, escaped) = certificate();
    let (before, _) = sidecar(&leaf, Ok(alice()), Vec::new());
    let (after, _) = sidecar(&leaf, Err(Refusal::NotMapped(Reason::Disabled.into())), Vec::new());
    let listener = around(before);
    let at = || Some(http("app.example", "/", &[]));
    ok(&ask(&listener, request(&escaped, at())).await);
    *listener.sidecar.lock().expect("no thread panicked") = Arc::clone(&after);
    assert_eq!(status(&ask(&listener, request(&escaped, at())).await), 403);
    let mut registry = Registry::default();
    after.meter().register(&mut registry);
    let mut metrics = String::new();
    prometheus_text::encode(&mut metrics, &registry).expect("they are text");
    let requests: Vec<_> =
        metrics.lines().filter(|line| line.starts_with("sidecar_requests_total")).collect();
    let expected = r#"sidecar_requests_total{dialect="envoy-grpc",outcome="disabled"} 1"#;
    assert_eq!(requests, [expected]);
}

#[tokio::test]
async fn tells_its_health() {
    let (sidecar, _) = sidecar(&[], Ok(alice()), Vec::new());
    for (is_ready, expected) in [(true, ServingStatus::Serving), (false, ServingStatus::NotServing)] {
        let listener = Around {
            sidecar: Mutex::new(Arc::clone(&sidecar)),
            secret: None,
            is_ready,
            refused: Mutex::default(),
        };
        let health = Ready(Arc::new(listener));
        let of = |service: &str| {
            let service = service.to_owned();
            health.check(Request::new(HealthCheckRequest { service }))
        };
        for name in ["", "envoy.service.auth.v3.Authorization"] {
            let answer = of(name).await.expect("it is known").into_inner();
            assert_eq!(answer.status(), expected, "{name}");
        }
        let error = of("envoy.service.auth.v2.Authorization").await.expect_err("there is no such service");
        assert_eq!(error.code(), Code::NotFound);
    }
}
