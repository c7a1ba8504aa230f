//! Mono's WCF as a client of the gateway and as a service, in messages whose key is encrypted to the
//! certificate of the service. Its other bindings fail before they send anything, or do not open.

use rcmpd_tests::peers::with;
use rcmpd_tests::ports::free_port;
use rcmpd_tests::soap::{Echo, SOAP, SoapPeer, Upstream, echoed, envelope, http, open_all_bindings};
use rcmpd_tests::{Demo, Service};
use serde_json::{Value, json};

const CREDENTIALS: [&str; 3] = ["username", "certificate", "none"];

fn file(demo: &Demo, name: &str) -> String {
    demo.path(name).display().to_string()
}

/// Of a client, with other settings.
fn client(service: &Service, credential: &str, more: &Value) -> Value {
    let settings = json!({
        "role": "call",
        "url": format!("http://{}/service", service.gateway()),
        "credential": credential,
        "server": file(service, "certs/site.rsa.pem"),
        "calls": "4",
    });
    let own = match credential {
        "username" => json!({ "user": "alice", "password": service.password("alice") }),
        "certificate" => json!({ "certificate": file(service, "certs/alice.rsa.p12") }),
        _ => json!({}),
    };
    with(with(settings, own), more.clone())
}

#[test]
fn mono_calls_the_gateway_with_each_credential() {
    let echo = Echo::start();
    println!("credential   Mono, client");
    for credential in CREDENTIALS {
        let demo = Demo::with_gateway(echo.address, "");
        open_all_bindings(&demo, credential);
        let service = demo.serve();
        let steps = SoapPeer::Mono.call(&[client(&service, credential, &json!({}))]).remove(0);
        assert_eq!(steps.len(), 4, "{steps:?}");
        for (n, step) in steps.iter().enumerate() {
            assert_eq!(step["action"], "urn:echoResponse", "{steps:?}");
            let text = step["text"].as_str().unwrap();
            assert!(text.ends_with(&format!("call {} & more", n + 1)) && text.contains("one-shot"), "{text}");
            assert_eq!(text.starts_with("CONTOSO\\alice"), credential != "none", "{text}");
        }
        println!("{credential:12} 4 of 4");
        if credential == "username" {
            // A wrong password, and a body of 60,000 octets: Mono has the default limits.
            let more =
                [json!({ "password": "wrong", "calls": "1" }), json!({ "size": "60000", "calls": "1" })];
            let all = more.map(|more| client(&service, credential, &more));
            let steps = SoapPeer::Mono.call(&all);
            assert!(steps[0][0]["fault"].is_string(), "{steps:?}");
            let text = steps[1][0]["text"].as_str().unwrap_or_else(|| panic!("{steps:?}"));
            assert!(text.ends_with(&"x".repeat(60_000)));
        }
    }
}

#[test]
fn mono_serves_our_client_with_each_credential() {
    let demo = Demo::with_gateway("127.0.0.1:1".parse().unwrap(), "");
    open_all_bindings(&demo, "username");
    std::fs::write(demo.path("body.xml"), "<Echo xmlns=\"urn:echo\">call &amp; more</Echo>").unwrap();
    println!("credential   Mono, service");
    for credential in CREDENTIALS {
        let url = format!("http://{}/echo", free_port());
        let mut settings = json!({
            "role": "serve", "url": url, "credential": credential, "server": file(&demo, "certs/site.rsa.p12"),
        });
        if credential == "username" {
            settings["user"] = "alice".into();
            settings["password"] = demo.password("alice").into();
        }
        let _service = SoapPeer::Mono.serve(&settings);
        let proof = match credential {
            "username" => &["--user", "alice", "--password-file", "users/alice.password"][..],
            "certificate" => &["--cert", "certs/alice.rsa.pem", "--key", "certs/alice.rsa.key"],
            _ => &[],
        };
        let call = |proof: &[&str]| {
            let arguments =
                ["tlsnego", "call", &url, "--action", "urn:echo", "--body", "body.xml", "--count", "4"];
            let more = ["--server-cert", "certs/site.rsa.pem", "--binding", "one-shot"];
            demo.rcmpd(&[&arguments[..], &more, proof].concat())
        };
        let called = call(proof).code(0);
        assert_eq!(called.stdout.matches(">call &amp; more</Echo>").count(), 4, "{called:?}");
        println!("{credential:12} 4 of 4");
        // It does check who calls.
        if credential == "username" {
            call(&["--user", "alice", "--password-file", "users/bob.password"]).code(7);
        }
    }
}

#[test]
fn mono_reads_the_faults_of_a_service_behind_the_gateway() {
    let fault = "<s:Fault><s:Code><s:Value>s:Receiver</s:Value></s:Code><s:Reason><s:Text xml:lang=\"en\">out of paper</s:Text></s:Reason></s:Fault>";
    let upstream = Upstream::start(move |n| match n {
        0 => http("500 Internal Server Error", SOAP, &envelope(fault)),
        1 => http("500 Internal Server Error", "text/html", "<html>oops</html>"),
        2 => http("200 OK", SOAP, "<not xml"),
        3 => String::new(),
        4 => echoed(),
        _ => "HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n".to_owned(),
    });
    let demo = Demo::with_gateway(upstream.address, "upstream_timeout_s = 1");
    open_all_bindings(&demo, "username");
    let service = demo.serve();
    let all = [json!({ "calls": "5" }), json!({ "one_way": "true", "calls": "1" })]
        .map(|more| client(&service, "username", &more));
    let steps = SoapPeer::Mono.call(&all);
    let not_soap = "The service could not process the message.";
    for (step, text) in
        steps[0].iter().zip(["out of paper", not_soap, not_soap, "The service did not answer in time."])
    {
        assert_eq!(step["fault"], text, "{steps:?}");
    }
    assert_eq!(steps[0][4]["text"], "good", "{steps:?}");
    // Mono wants a secured answer to a one-way message as well, which no HTTP service gives. The message
    // arrived.
    let error = steps[1][0]["error"].as_str().unwrap();
    assert!(error.contains("a WS-Security header is required"), "{steps:?}");
    assert!(upstream.asked()[5].contains("action=\"urn:tell\""), "{:?}", upstream.asked());
}
