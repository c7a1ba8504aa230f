//! Envoy's messages and gRPC's own client ask [`sidecar_tokio::envoy`]. The account is made up here: other
//! tests say who it is.

use account_store::BoxFuture;
use dtyp::{FileTime, Sid};
use rcmp_service::Reason;
use rcmpd_tests::peers::{run, web_tool};
use serde_json::{Value, json};
use sidecar::headers::Format;
use sidecar::routes::{Route, Routes};
use sidecar::{
    Assurance, Broken, ClientCertificate, Decision, DecisionInputs, Group, Identify, Identity, NoSpans,
    Parts, Refusal, SECRET, Sidecar,
};
use sidecar_tokio::envoy::{Listener, NAME, routes};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tonic::codegen::http::HeaderMap;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use zeroize::Zeroizing;

const SERVICE: &str = "envoy.service.auth.v3.Authorization";

/// Knows one certificate, and of another that its store is down.
struct Known {
    alice: Vec<u8>,
    unlucky: Vec<u8>,
}

impl Identify for Known {
    fn decision_inputs(&self, _: &ClientCertificate, _: FileTime) -> Result<DecisionInputs, Refusal> {
        Ok(DecisionInputs {
            path: None,
            policy_revision: 1,
            store_revision: account_store::Revision::FIXED,
            is_settled: true,
        })
    }

    fn identify<'a>(
        &'a self,
        presented: &'a ClientCertificate,
        _: &'a str,
        _: Option<SocketAddr>,
        _: FileTime,
    ) -> BoxFuture<'a, Result<Identity, Refusal>> {
        let outcome = match &presented.leaf[..] {
            leaf if leaf == self.alice => Ok(alice()),
            leaf if leaf == self.unlucky => Err(Refusal::Undecided(Reason::StoreUnavailable.into())),
            _ => Err(Refusal::NotMapped(Reason::NoMatch.into())),
        };
        Box::pin(async move { outcome })
    }
}

fn sid(rid: u32) -> Sid {
    format!("S-1-5-21-1-2-3-{rid}").parse().unwrap()
}

fn alice() -> Identity {
    Identity {
        domain: "CONTOSO".to_owned(),
        is_ours: true,
        account: "älice".to_owned(),
        upn: None,
        full_name: None,
        mail: None,
        sid: sid(1001),
        groups: vec![
            Group { sid: sid(513), name: Some("Domain Users".to_owned()) },
            Group { sid: sid(1101), name: Some("Sales, EMEA".to_owned()) },
        ],
        method: Some("upn"),
        assurance: Assurance::Strong(None),
        policy_revision: 3,
        not_after: FileTime::NEVER,
        stale_s: None,
    }
}

struct Around {
    sidecar: Arc<Sidecar>,
    secret: Zeroizing<String>,
    refused: Mutex<Vec<Refusal>>,
}

impl Listener for Around {
    fn sidecar(&self) -> Arc<Sidecar> {
        Arc::clone(&self.sidecar)
    }

    fn now(&self) -> sidecar::Moment {
        rcmpd::clock::moment()
    }

    fn is_proved(&self, metadata: &HeaderMap) -> bool {
        sidecar::shows_secret(metadata, &self.secret)
    }

    fn is_ready(&self) -> bool {
        true
    }

    fn refused(&self, refusal: Refusal, _: &Decision, _: Option<SocketAddr>) {
        self.refused.lock().unwrap().push(refusal);
    }
}

/// A service on a port of its own, for as long as the test runs.
struct Served {
    listener: Arc<Around>,
    address: SocketAddr,
    _runtime: tokio::runtime::Runtime,
}

impl Served {
    fn start(identify: Known) -> Self {
        let admins = Route { path: Some("/admin".to_owned()), sids: vec![sid(512)], ..Route::default() };
        let parts = Parts {
            identify: Arc::new(identify),
            spans: Arc::new(NoSpans),
            routes: Routes::new(vec![admins, Route::default()]),
            format: Format::default(),
            token: None,
            tickets: None,
            references: None,
            remember: Duration::from_secs(60),
            remembered_max: 10,
        };
        let listener = Arc::new(Around {
            sidecar: Arc::new(Sidecar::new(parts)),
            secret: Zeroizing::new(secret()),
            refused: Mutex::default(),
        });
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let incoming = runtime.block_on(async { TcpIncoming::bind(([127, 0, 0, 1], 0).into()) }).unwrap();
        let address = incoming.local_addr().unwrap();
        let server = Server::builder().add_routes(routes(Arc::clone(&listener)));
        runtime.spawn(server.serve_with_incoming(incoming));
        Self { listener, address, _runtime: runtime }
    }

    /// The answer to each check, each with the secret unless it says otherwise, and the health of each
    /// service.
    fn ask(&self, mut checks: Value, health: &[&str]) -> (Vec<Value>, Value) {
        for check in checks.as_array_mut().unwrap() {
            let fields = check.as_object_mut().unwrap();
            fields.entry("host").or_insert(json!("app.example"));
            fields.entry("path").or_insert(json!("/"));
            let secret = json!({ SECRET.as_str(): self.listener.secret.as_str() });
            fields.entry("metadata").or_insert(secret);
        }
        let input = json!({ "target": self.address.to_string(), "checks": checks, "health": health });
        let mut done = run(Command::new(web_tool("python")), "envoy_client.py", &input);
        let Value::Array(checks) = done["checks"].take() else { panic!("{done:#}") };
        (checks, done["health"].take())
    }
}

/// A new certificate: DER and PEM.
fn certificate() -> (Vec<u8>, String) {
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = rcgen::CertificateParams::new(Vec::new()).unwrap().self_signed(&key).unwrap();
    (certificate.der().to_vec(), certificate.pem())
}

/// Text that cannot be guessed: the end of a new signature.
fn secret() -> String {
    let (signed, _) = certificate();
    dtyp::hex(&signed[signed.len() - 16..])
}

fn status(response: &Value) -> (&Value, &Value) {
    (&response["status"]["code"], &response["deniedResponse"]["status"]["code"])
}

#[test]
fn its_client_learns_who_the_user_is() {
    let (leaf, alice) = certificate();
    let served = Served::start(Known { alice: leaf, unlucky: Vec::new() });
    let forged = json!({ "x-identity_sid": "S-1-5-18", "remote-user": "root", "accept": "*/*" });
    let asked = json!([{ "certificate": alice, "path": "/?a=b", "headers": forged, "raw_headers": ["X_Identity.Upn"] }]);
    let (checks, health) = served.ask(asked, &["", SERVICE, "somebody.else"]);
    assert_eq!(health, json!(["SERVING", "SERVING", "NOT_FOUND"]));
    let response = &checks[0];
    let ok = &response["okResponse"];
    let mut headers = BTreeMap::new();
    for option in ok["headers"].as_array().unwrap_or_else(|| panic!("{response:#}")) {
        assert_eq!(option["appendAction"], "OVERWRITE_IF_EXISTS_OR_ADD", "{option}");
        assert_eq!(option["keepEmptyValue"], true, "{option}");
        let value = option["header"]["value"].as_str().unwrap_or_default();
        headers.insert(option["header"]["key"].as_str().unwrap(), value);
    }
    assert_eq!(headers["remote-user"], "CONTOSO\\%C3%A4lice");
    assert_eq!(headers["remote-groups"], "Domain Users,Sales%2C EMEA");
    assert_eq!(headers["x-identity-sid"], "S-1-5-21-1-2-3-1001");
    assert_eq!(headers["x-identity-upn"], "");
    for name in ["x-identity_sid", "x_identity.upn", "x-forwarded-client-cert", "x_sidecar_secret"] {
        assert!(ok["headersToRemove"].as_array().unwrap().contains(&json!(name)), "{name} reaches the page");
    }
    let metadata = &response["dynamicMetadata"];
    assert_eq!(metadata["account"], "älice", "{response:#}");
    assert_eq!(metadata["groups"], json!(["S-1-5-21-1-2-3-513", "S-1-5-21-1-2-3-1101"]));
    assert_eq!(metadata["decision"], headers["x-identity-decision"]);
}

#[test]
fn its_client_is_denied_and_never_failed() {
    let ((leaf, alice), (unlucky, failing), (_, stranger)) = (certificate(), certificate(), certificate());
    let served = Served::start(Known { alice: leaf, unlucky });
    let xfcc = json!({ "x-forwarded-client-cert": "Cert=\"whatever\"" });
    let asked = json!([
        { "certificate": alice },
        { "headers": xfcc },
        { "certificate": stranger },
        { "certificate": alice, "path": "/admin/" },
        { "certificate": failing },
        { "source": "-----BEGIN%20CERTIFICATE-----" },
        { "certificate": alice, "metadata": {} },
    ]);
    let (checks, _) = served.ask(asked, &[]);
    assert!(checks[0].get("okResponse").is_some(), "{:#}", checks[0]);
    // google.rpc.Code and the HTTP status.
    let expected = [
        (16, "Unauthorized"),
        (7, "Forbidden"),
        (7, "Forbidden"),
        (13, "InternalServerError"),
        (13, "InternalServerError"),
        (13, "InternalServerError"),
    ];
    for (response, (code, http)) in checks[1..].iter().zip(expected) {
        assert_eq!(status(response), (&json!(code), &json!(http)), "{response:#}");
        assert_eq!(response["errorResponse"], Value::Null, "failure_mode_allow lets those in");
    }
    let refused = served.listener.refused.lock().unwrap();
    let expected = [
        Refusal::NoCertificate,
        Refusal::NotMapped(Reason::NoMatch.into()),
        Refusal::NotAllowed,
        Refusal::Undecided(Reason::StoreUnavailable.into()),
        Refusal::Broken(Broken::Certificate),
        Refusal::Broken(Broken::Secret),
    ];
    assert_eq!(*refused, expected);
    assert_eq!(served.listener.sidecar.meter().requests(NAME, "allowed"), 1);
}
