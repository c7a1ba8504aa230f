//! WSS4J, with JSSE for negotiations, as a client of the gateway and as a service.

use rcmpd_tests::peers::with;
use rcmpd_tests::soap::{Echo, SOAP, SoapPeer, Upstream, echoed, envelope, http, open_all_bindings};
use rcmpd_tests::{Demo, Service};
use serde_json::{Value, json};
use std::collections::HashSet;

const BINDINGS: [(&str, &str, &str); 4] = [
    ("session", "true", "session"),
    ("negotiated", "true", "call"),
    ("preset-session", "false", "session"),
    ("one-shot", "false", "call"),
];
const CREDENTIALS: [&str; 3] = ["username", "certificate", "none"];
const BAD_TOKEN: &str = "BadContextToken 500 http://www.w3.org/2005/08/addressing/soap/fault";

fn file(demo: &Demo, name: &str) -> String {
    demo.path(name).display().to_string()
}

/// What both sides know, by the credential of clients.
fn settings(demo: &Demo, credential: &str, more: Value) -> Value {
    let settings = json!({ "server": file(demo, "certs/site.rsa.pem") });
    let own = match credential {
        "username" => json!({ "user": "alice", "password": demo.password("alice") }),
        "certificate" => {
            json!({ "certificate": file(demo, "certs/alice.rsa.pem"), "key": file(demo, "certs/alice.rsa.key") })
        }
        _ => json!({}),
    };
    with(with(settings, own), more)
}

fn client(service: &Service, credential: &str, (negotiate, binding): (&str, &str), calls: u32) -> Value {
    let url = format!("http://{}/service", service.gateway());
    let more = json!({
        "role": "call", "url": url, "to": url, "negotiate": negotiate, "binding": binding, "calls": calls.to_string(),
    });
    settings(service, credential, more)
}

#[test]
fn wss4j_calls_the_gateway_in_each_binding_with_each_credential() {
    let echo = Echo::start();
    println!("trust    credential   binding         WSS4J, client");
    for (trust, credential) in CREDENTIALS.map(|it| ("2005-02", it)).into_iter().chain([("1.3", "username")])
    {
        let demo = Demo::with_gateway(echo.address, &format!("trust13 = {}", trust == "1.3"));
        open_all_bindings(&demo, credential);
        let service = demo.serve();
        let all = BINDINGS.map(|(_, negotiate, binding)| {
            let mut settings = client(&service, credential, (negotiate, binding), 4);
            settings["trust"] = trust.into();
            settings
        });
        for ((name, negotiate, binding), steps) in BINDINGS.iter().zip(SoapPeer::Wss4j.call(&all)) {
            let calls: Vec<_> = steps.iter().filter(|step| step["fields"].is_object()).collect();
            assert_eq!(calls.len(), 4, "{credential} {name}: {steps:?}");
            let kind = match (*negotiate, *binding) {
                (_, "session") => "established",
                ("true", _) => "negotiated",
                _ => "one-shot",
            };
            for (n, call) in calls.iter().enumerate() {
                let user = if credential == "none" { "" } else { "CONTOSO\\alice" };
                assert_eq!(call["action"], "urn:echoResponse");
                assert_eq!(
                    (&call["fields"]["Remote-User"], &call["fields"]["X-Session-Kind"]),
                    (&json!(user), &json!(kind))
                );
                assert_eq!(call["fields"]["Echo"], format!("call {} & more", n + 1));
            }
            // Upstream a session has one name, and each message that is for itself has one of its own.
            let name_of = |call: &&Value| call["fields"]["X-Session-Name"].as_str().unwrap_or("").to_owned();
            let names: HashSet<_> = calls.iter().map(name_of).collect();
            assert!(!names.contains(""), "{steps:?}");
            assert_eq!(names.len(), if kind == "one-shot" { 4 } else { 1 }, "{credential} {name}: {names:?}");
            let ended = match kind {
                "one-shot" => "-",
                _ => {
                    let [.., cancel, fifth] = &steps[..] else { panic!("{steps:?}") };
                    assert!(cancel["action"].as_str().unwrap().ends_with("/RSTR/SCT/Cancel"), "{cancel}");
                    let fault = fifth["error"].as_str().unwrap();
                    assert_eq!(fault.split_once('}').unwrap().1, BAD_TOKEN);
                    assert_eq!(fault.contains("200512"), trust == "1.3", "{fault}");
                    "Cancel, c:BadContextToken"
                }
            };
            println!("{trust:8} {credential:12} {name:15} 4 of 4, {ended}");
        }
    }
}

#[test]
fn wss4j_serves_our_client_in_each_binding_with_each_credential() {
    let demo = Demo::with_gateway("127.0.0.1:1".parse().unwrap(), "");
    open_all_bindings(&demo, "username");
    std::fs::write(demo.path("body.xml"), "<Echo xmlns=\"urn:echo\">call &amp; more</Echo>").unwrap();
    println!("trust    credential   binding         WSS4J, service");
    for (trust, credential) in CREDENTIALS.map(|it| ("2005-02", it)).into_iter().chain([("1.3", "username")])
    {
        let own = json!({ "role": "serve", "server_key": file(&demo, "certs/site.rsa.key"), "trust": trust });
        let service = SoapPeer::Wss4j.serve(&settings(&demo, credential, own));
        let url = format!("http://127.0.0.1:{}/", service.ready["port"]);
        let proof = match credential {
            "username" => &["--user", "alice", "--password-file", "users/alice.password"][..],
            "certificate" => &["--cert", "certs/alice.rsa.pem", "--key", "certs/alice.rsa.key"],
            _ => &[],
        };
        let call = |binding: &str, proof: &[&str]| {
            let arguments =
                ["tlsnego", "call", &url, "--action", "urn:echo", "--body", "body.xml", "--count", "4"];
            let more = ["--server-cert", "certs/site.rsa.pem", "--binding", binding, "--ws-trust", trust];
            demo.rcmpd(&[&arguments[..], &more, proof].concat())
        };
        for (binding, _, _) in BINDINGS {
            let called = call(binding, proof).code(0);
            assert_eq!(called.stdout.matches(">call &amp; more</Echo>").count(), 4, "{called:?}");
            println!("{trust:8} {credential:12} {binding:15} 4 of 4");
            // It does check who calls.
            if credential != "none" {
                call(binding, &[]).code(7);
            }
        }
    }
}

#[test]
fn wss4j_reads_the_faults_of_a_service_behind_the_gateway() {
    let fault = "<s:Fault><s:Code><s:Value>s:Receiver</s:Value></s:Code><s:Reason><s:Text xml:lang=\"en\">out of paper</s:Text></s:Reason></s:Fault>";
    let upstream = Upstream::start(move |n| match n % 6 {
        0 => http("500 Internal Server Error", SOAP, &envelope(fault)),
        1 => http("500 Internal Server Error", "text/html", "<html>oops</html>"),
        2 => http("200 OK", SOAP, "<not xml"),
        3 => String::new(),
        4 => "HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n".to_owned(),
        _ => echoed(),
    });
    let demo = Demo::with_gateway(upstream.address, "upstream_timeout_s = 1");
    open_all_bindings(&demo, "username");
    let service = demo.serve();
    let all =
        [("true", "session"), ("false", "call")].map(|binding| client(&service, "username", binding, 6));
    for steps in SoapPeer::Wss4j.call(&all) {
        let calls: Vec<_> = steps.iter().filter(|step| step["step"] == "call").take(6).collect();
        let not_soap = "The service could not process the message.";
        for (call, text) in
            calls.iter().zip(["out of paper", not_soap, not_soap, "The service did not answer in time."])
        {
            assert_eq!(call["fault"], text, "{steps:?}");
            assert_eq!(call["action"], "http://www.w3.org/2005/08/addressing/soap/fault");
        }
        assert_eq!(calls[4]["status"], 202, "{steps:?}");
        assert_eq!(calls[5]["text"], "good", "{steps:?}");
    }
}
