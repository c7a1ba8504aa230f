//! The gateway of `rcmpd serve` in front of a plain SOAP service, called by a client that shares no code with it.

use dtyp::hex;
use rcmpd_tests::peers::SAMBA_PYTHON;
use rcmpd_tests::web::free_port;
use rcmpd_tests::{Demo, Service, eventually};
use serde_json::{Value, json};
use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};

/// A plain SOAP 1.2 service: it answers with the body and with who called.
struct Echo {
    child: Child,
    address: SocketAddr,
}

impl Echo {
    fn start() -> Self {
        let address = free_port();
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/soap-echo");
        let child = Command::new("python3").arg(script).arg(address.port().to_string()).spawn();
        let child = child.expect("Python starts");
        eventually("the service listens", || TcpStream::connect(address).is_ok());
        Self { child, address }
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// DER of a certificate of a demo, in hexadecimal.
fn der(demo: &Demo, name: &str) -> String {
    let output = Command::new("openssl")
        .args(["x509", "-outform", "DER", "-in"])
        .arg(demo.path("certs").join(format!("{name}.pem")))
        .output()
        .expect("openssl starts");
    assert!(output.status.success());
    hex(&output.stdout)
}

/// Runs the client of Python, OpenSSL and lxml, and returns its steps.
fn client(service: &Service, more: Value) -> Vec<Value> {
    let url = format!("http://{}/service", service.gateway());
    let mut settings = json!({
        "url": url,
        "to": url,
        "server": der(service, "site"),
        "ca": der(service, "ca"),
        "binding": "session",
        "calls": 2,
    });
    for (name, value) in more.as_object().expect("an object") {
        settings[name] = value.clone();
    }
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/peers/tlsnego_client.py");
    let mut child = Command::new(SAMBA_PYTHON)
        .arg(script)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("Debian's Python starts");
    write!(child.stdin.take().expect("piped"), "{settings}").expect("it reads");
    let output = child.wait_with_output().expect("it ends");
    assert!(output.status.success(), "the client failed");
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

/// The fields that the service saw of these steps.
fn calls(steps: &[Value]) -> Vec<&Value> {
    steps
        .iter()
        .filter(|step| step["step"] == "call" && step["fields"].is_object())
        .map(|it| &it["fields"])
        .collect()
}

fn step<'a>(steps: &'a [Value], name: &str) -> &'a Value {
    steps.iter().find(|step| step["step"] == name).unwrap_or_else(|| panic!("no {name}: {steps:?}"))
}

fn alice(service: &Service) -> Value {
    json!({ "user": "alice", "password": service.password("alice") })
}

fn with(base: Value, more: Value) -> Value {
    rcmpd_tests::peers::with(base, more)
}

const BAD_TOKEN: &str = "{http://schemas.xmlsoap.org/ws/2005/02/sc}BadContextToken 500 http://www.w3.org/2005/08/addressing/soap/fault";

#[test]
fn session_names_an_account_and_keeps_its_name_until_it_is_cancelled() {
    let echo = Echo::start();
    let service = Demo::with_gateway(echo.address, "").serve();
    let steps = client(&service, with(alice(&service), json!({ "renew": true })));
    let (established, renewed) = (step(&steps, "establish"), step(&steps, "renew"));
    let calls = calls(&steps);
    assert_eq!(calls.len(), 3, "two, and one after Renew: {steps:?}");
    let sid = format!("{}-1001", service.domain_sid());
    for call in &calls {
        assert_eq!(call["Remote-User"], "CONTOSO\\alice", "{call}");
        assert_eq!(call["X-Identity-Sid"], sid, "{call}");
        assert!(
            call["Remote-Groups"].as_str().unwrap().split(',').any(|group| group == "Engineers"),
            "{call}"
        );
        assert_eq!(call["X-Session-Kind"], "established");
        // Renew keeps the name, and changes the instance.
        assert_eq!(call["X-Session-Name"], established["name"]);
    }
    assert_eq!(calls[0]["X-Session-Instance"], "");
    assert_eq!(calls[2]["X-Session-Instance"], renewed["instance"]);
    // After Cancel the token is unknown.
    assert_eq!(steps.last().unwrap()["error"], BAD_TOKEN, "{steps:?}");
    let [opened] = &service.audit("session_opened")[..] else {
        panic!("one line: {:?}", service.audit("session_opened"))
    };
    assert_eq!((&opened["name"], &opened["account_sid"]), (&established["name"], &json!(sid)));
    assert_eq!(service.audit("session_renewed").len(), 1);
    assert_eq!(service.audit("session_ended")[0]["reason"], "cancelled");
    let (_, metrics) = service.get("/metrics");
    for expected in [
        "rcmpd_tlsnego_calls_total{kind=\"established\",result=\"answered\"} 3",
        "rcmpd_tlsnego_messages_total{result=\"renewed\",kind=\"established\"} 1",
        "rcmpd_tlsnego_sessions 0",
    ] {
        assert!(metrics.contains(expected), "{expected}: {metrics}");
    }
}

#[test]
fn calls_under_the_negotiated_token_carry_the_user_name_each() {
    let echo = Echo::start();
    let service = Demo::with_gateway(echo.address, "tls13 = true").serve();
    for version in ["TLSv1.2", "TLSv1.3"] {
        let steps = client(&service, with(alice(&service), json!({ "binding": "call", "version": version })));
        let negotiated = step(&steps, "negotiate");
        assert_eq!(negotiated["version"], version);
        let calls = calls(&steps);
        assert_eq!(calls.len(), 2, "{steps:?}");
        for call in calls {
            assert_eq!(call["Remote-User"], "CONTOSO\\alice", "{call}");
            assert_eq!(
                (&call["X-Session-Kind"], &call["X-Session-Name"]),
                (&json!("negotiated"), &negotiated["name"])
            );
        }
    }
    // Another password, and no account of this name: one fault, and nothing reaches the service.
    for (user, password) in
        [("alice", "wrong"), ("nobody", "wrong"), ("CONTOSO\\bob", "wrong"), ("OTHER\\alice", "wrong")]
    {
        let steps = client(&service, json!({ "binding": "call", "user": user, "password": password }));
        let failed = steps.iter().filter(|step| step["step"] == "call");
        let expected = "{http://docs.oasis-open.org/wss/2004/01/oasis-200401-wss-wssecurity-secext-1.0.xsd}FailedAuthentication";
        for step in failed.take(2) {
            assert!(
                step["error"].as_str().is_some_and(|error| error.starts_with(expected)),
                "{user}: {step}"
            );
        }
    }
    // Other spellings of the same account.
    for user in ["CONTOSO\\alice", "contoso.example\\ALICE", "alice@contoso.example"] {
        let steps = client(
            &service,
            json!({ "binding": "call", "user": user, "password": service.password("alice") }),
        );
        assert_eq!(calls(&steps).len(), 2, "{user}: {steps:?}");
    }
}

#[test]
fn client_certificates_are_mapped_like_everywhere_else() {
    let echo = Echo::start();
    let demo = Demo::with_gateway(echo.address, "");
    demo.edit(|text| text.replace("credential  = \"username\"", "credential  = \"certificate\""));
    let service = demo.serve();
    let of = |who: &str| {
        let path = |end: &str| service.path("certs").join(format!("{who}.{end}")).display().to_string();
        client(&service, json!({ "certificate": path("pem"), "key": path("key") }))
    };
    for (who, user) in [("alice", "CONTOSO\\alice"), ("bob", "CONTOSO\\bob"), ("web01", "CONTOSO\\WEB01$")] {
        let steps = of(who);
        let calls = calls(&steps);
        assert_eq!(calls.len(), 2, "{who}: {steps:?}");
        assert!(calls.iter().all(|call| call["Remote-User"] == user), "{who}: {steps:?}");
    }
    // carol has names alone, and mallory has no account: the negotiation ends.
    for who in ["carol", "mallory"] {
        let steps = of(who);
        let [only] = &steps[..] else { panic!("{who}: {steps:?}") };
        let fault = "{http://schemas.xmlsoap.org/ws/2005/02/trust}FailedAuthentication 500";
        assert!(only["error"].as_str().is_some_and(|error| error.starts_with(fault)), "{who}: {steps:?}");
    }
    let decisions = service.audit("decision");
    assert!(decisions.is_empty() || decisions.iter().any(|line| line["asker"] == "tlsnego"), "{decisions:?}");
}
