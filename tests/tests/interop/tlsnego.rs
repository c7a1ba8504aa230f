//! The gateway of `rcmpd serve` in front of a plain SOAP service, called by a client that shares no code with
//! it.

use crate::sso::{enter, with_checked_domain};
use dtyp::hex;
use rcmpd_tests::peers::{SAMBA_PYTHON, SambaDc, with};
use rcmpd_tests::ports::free_port;
use rcmpd_tests::soap::Echo;
use rcmpd_tests::web::Nginx;
use rcmpd_tests::{Demo, Service, eventually};
use serde_json::{Value, json};
use std::io::Write;
use std::process::{Child, Command, Stdio};

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

/// What the client of Python, OpenSSL and lxml is told, without a user.
pub(crate) fn settings(service: &Service, more: Value) -> Value {
    let url = format!("http://{}/service", service.gateway());
    let settings = json!({
        "url": url,
        "to": url,
        "server": der(service, "site"),
        "ca": der(service, "ca"),
        "binding": "session",
        "calls": 2,
    });
    with(settings, more)
}

/// The client of Python, OpenSSL and lxml, which reads its settings.
pub(crate) fn start_client() -> Child {
    Command::new(SAMBA_PYTHON)
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/peers/tlsnego_client.py"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("Debian's Python starts")
}

/// Runs the client, and returns its steps.
fn client(service: &Service, more: Value) -> Vec<Value> {
    let settings = settings(service, more);
    let mut child = start_client();
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

pub(crate) fn step<'a>(steps: &'a [Value], name: &str) -> &'a Value {
    steps.iter().find(|step| step["step"] == name).unwrap_or_else(|| panic!("no {name}: {steps:?}"))
}

pub(crate) fn alice(service: &Service) -> Value {
    json!({ "user": "alice", "password": service.password("alice") })
}

pub(crate) const BAD_TOKEN: &str = "{http://schemas.xmlsoap.org/ws/2005/02/sc}BadContextToken 500 http://www.w3.org/2005/08/addressing/soap/fault";

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
        [("alice", "wrong"), ("unknown", "wrong"), ("CONTOSO\\bob", "wrong"), ("OTHER\\alice", "wrong")]
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

/// Runs samba-tool on the database of a domain controller.
fn samba_tool(dc: &SambaDc, arguments: &[&str]) -> String {
    let folder = dc.text("folder");
    let mut command = dc.beside("samba-tool");
    command.args(arguments).arg("-H").arg(format!("{folder}/private/sam.ldb"));
    let output = command.arg("-s").arg(format!("{folder}/etc/smb.conf")).output().expect("it starts");
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).expect("text")
}

/// How many wrong passwords a domain controller counts for a user.
fn wrong_passwords(dc: &SambaDc, user: &str) -> u32 {
    let shown = samba_tool(dc, &["user", "show", user, "--attributes=badPwdCount"]);
    let count = shown.lines().find_map(|line| line.strip_prefix("badPwdCount: "));
    count.map_or(0, |count| count.parse().expect("a number"))
}

#[test]
fn users_of_a_domain_are_checked_by_its_controller() {
    let dc = SambaDc::start();
    enter(&dc);
    samba_tool(&dc, &["domain", "passwordsettings", "set", "--account-lockout-threshold=20"]);
    let echo = Echo::start();
    let demo = Demo::with_gateway(echo.address, "");
    with_checked_domain(&demo, &dc, "WEB01", "tlsnego");
    // A local account has the name of a user of the domain.
    demo.rcmpd(&["account", "set", "alice", "--rename", "nora", "-c", "rcmpd.toml"]).code(0);
    let service = demo.serve();
    let (there, here) =
        (dc.facts["users"]["nora"].as_str().expect("a password").to_owned(), service.password("alice"));
    let call = |user: &str, password: &str, binding: &str, calls: u32| {
        let user = json!({ "user": user, "password": password, "binding": binding, "calls": calls });
        client(&service, user)
    };
    let upn = format!("nora@{}", dc.text("dns"));
    let absolute = format!(r"{}.\NORA", dc.text("dns"));
    for (user, binding) in
        [(r"FABRIKAM\nora", "session"), (r"fabrikam\Nora", "call"), (&upn, "call"), (&absolute, "call")]
    {
        let steps = call(user, &there, binding, 2);
        let calls = calls(&steps);
        assert_eq!(calls.len(), 2, "{user}: {steps:?}");
        for call in calls {
            assert_eq!(call["Remote-User"], "FABRIKAM\\nora", "{user}: {call}");
            let groups = call["Remote-Groups"].as_str().expect("there are groups");
            assert!(groups.contains(&dc.text("group")), "{user}: {call}");
        }
    }
    let steps = call("nora", &here, "call", 1);
    assert_eq!(calls(&steps)[0]["Remote-User"], "CONTOSO\\nora", "{steps:?}");
    // Each name is a matter of one store. A user that is disabled or expired there is refused with the right
    // password.
    let of = |name: &str| dc.facts["users"][name].as_str().expect("a password").to_owned();
    for (user, password) in [
        ("nora", &there),
        (r"CONTOSO\nora", &there),
        (r"FABRIKAM\nora", &here),
        (&upn, &here),
        (r"NOWHERE\nora", &there),
        (r"NOWHERE\nora", &here),
        (r"FABRIKAM\nils", &of("nils")),
        (r"FABRIKAM\olga", &of("olga")),
        (r"FABRIKAM\", &there),
        (r"FABRIKAM\nora", &String::new()),
    ] {
        let steps = call(user, password, "call", 1);
        assert!(calls(&steps).is_empty(), "{user}: {steps:?}");
    }
    // A wrong password is asked once, however often a client repeats it.
    let before = wrong_passwords(&dc, "nora");
    let failed = call(r"FABRIKAM\nora", "Nora-password-2", "call", 5);
    let is_refused =
        |step: &&Value| step["error"].as_str().is_some_and(|error| error.contains("FailedAuthentication"));
    assert_eq!(failed.iter().filter(is_refused).count(), 5, "{failed:?}");
    assert!(calls(&failed).is_empty(), "{failed:?}");
    assert_eq!(wrong_passwords(&dc, "nora"), before + 1);
    assert_eq!(calls(&call(r"FABRIKAM\nora", &there, "call", 1)).len(), 1, "she is served all the same");
    let label = format!(
        "domain=\"FABRIKAM\",server=\"{}:{}\",package=\"password\"",
        dc.text("address"),
        dc.text("port")
    );
    let metrics = service.get("/metrics").1;
    assert!(metrics.contains(&format!("rcmpd_peer_answers_total{{{label}}}")), "{metrics}");
    // Without a controller nothing is decided of names that are not cached, and local accounts do not wait.
    drop(dc);
    let steps = call(r"FABRIKAM\NORA", &there, "call", 1);
    assert!(calls(&steps).is_empty(), "{steps:?}");
    assert_eq!(calls(&call("nora", &here, "call", 1)).len(), 1);
    for password in [&there, &here, "Nora-password-2"] {
        assert!(!service.log().contains(password), "a password is in the log");
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
    let decisions = service.audit("map");
    assert!(decisions.iter().any(|line| line["asker"] == "tlsnego"), "{decisions:?}");
}

#[test]
fn operators_list_show_and_cancel_sessions() {
    let echo = Echo::start();
    let demo = Demo::with_gateway(echo.address, "");
    let admin = free_port();
    demo.edit(|text| {
        let (before, after) = text.split_once("[admin]").expect("there is an admin port");
        format!("{before}[admin]{}", after.replacen("127.0.0.1:0", &admin.to_string(), 1))
    });
    let service = demo.serve();
    let session = |arguments: &[&str]| {
        service.rcmpd(&[&["tlsnego", "session"], arguments, &["-c", "rcmpd.toml", "--json"]].concat())
    };
    assert_eq!(session(&["list"]).code(0).json(), json!([]));
    let steps = client(&service, with(alice(&service), json!({ "cancel": false })));
    let name = step(&steps, "establish")["name"].as_str().expect("a name");
    let listed = session(&["list"]).code(0).json();
    let [listed] = &listed.as_array().expect("a list")[..] else { panic!("{listed}") };
    assert_eq!(session(&["show", name]).code(0).json(), *listed);
    let sid = format!("{}-1001", service.domain_sid());
    for (member, value) in
        [("name", name), ("kind", "established"), ("credential", "username"), ("account_sid", sid.as_str())]
    {
        assert_eq!(listed[member], value, "{listed}");
    }
    assert!(listed["parent"].as_str().is_some_and(|parent| parent.starts_with("urn:uuid:")), "{listed}");
    session(&["cancel", name]).code(0);
    for arguments in [["show", name], ["cancel", name]] {
        let gone = session(&arguments).code(1);
        assert!(gone.stderr.contains("there is no session"), "{gone:?}");
    }
    eventually("the audit log names its end", || {
        service.audit("session_ended").iter().any(|line| line["reason"] == "operator")
    });
    // Without the token the admin port says nothing.
    assert_eq!(service.get("/tlsnego/sessions").0, 401);
}

/// What the gateway answers to curl.
fn http(service: &Service, arguments: &[&str]) -> (u16, String) {
    let url = format!("http://{}/service", service.gateway());
    let mut command = Command::new("curl");
    command.args(["-sS", "-w", "\n%{http_code}"]).args(arguments);
    let output = command.arg(url).output().expect("curl starts");
    let text = String::from_utf8(output.stdout).expect("text");
    let (body, status) = text.rsplit_once('\n').expect("a status");
    (status.parse().expect("a number"), body.to_owned())
}

#[test]
fn requests_of_another_dialect_get_one_status_and_fault_each() {
    let echo = Echo::start();
    let service = Demo::with_gateway(echo.address, "message_kib = 16").serve();
    let soap = "Content-Type: application/soap+xml; charset=utf-8";
    let soap_11 = "<s:Envelope xmlns:s=\"http://schemas.xmlsoap.org/soap/envelope/\"><s:Body/></s:Envelope>";
    let to = format!("http://{}/service", service.gateway());
    let of = |action: &str, body: &str| {
        format!(
            "<s:Envelope xmlns:s=\"http://www.w3.org/2003/05/soap-envelope\" xmlns:a=\"http://www.w3.org/2005/08/addressing\"><s:Header>\
             <a:Action s:mustUnderstand=\"1\">{action}</a:Action><a:To s:mustUnderstand=\"1\">{to}</a:To></s:Header><s:Body>{body}</s:Body></s:Envelope>"
        )
    };
    let trust = "http://schemas.xmlsoap.org/ws/2005/02/trust";
    let spnego = format!(
        "<t:RequestSecurityToken Context=\"urn:a\" xmlns:t=\"{trust}\"><t:RequestType>{trust}/Issue</t:RequestType><t:BinaryExchange \
         ValueType=\"{trust}/spnego\">AAAA</t:BinaryExchange></t:RequestSecurityToken>"
    );
    let issue = "http://docs.oasis-open.org/ws-sx/ws-trust/200512/RST/Issue";
    let reliable = "http://schemas.xmlsoap.org/ws/2005/02/rm/CreateSequence";
    let old_addressing = of("urn:echo", "")
        .replace("http://www.w3.org/2005/08/addressing", "http://schemas.xmlsoap.org/ws/2004/08/addressing");
    let long = "x".repeat(17 << 10);
    for (what, headers, body, status, text) in [
        (
            "addressing 2004",
            soap,
            old_addressing,
            500,
            "WS-Addressing of August 2004 is not supported: set messageVersion Soap12WSAddressing10",
        ),
        ("SOAP 1.1", "Content-Type: text/xml", soap_11.to_owned(), 500, "VersionMismatch"),
        ("MTOM", "Content-Type: multipart/related", "x".to_owned(), 415, "MTOM is not supported"),
        ("binary", "Content-Type: application/soap+msbin1", "x".to_owned(), 415, "set messageEncoding Text"),
        (
            "UTF-16",
            "Content-Type: application/soap+xml; charset=utf-16",
            "x".to_owned(),
            415,
            "set textEncoding utf-8",
        ),
        ("JSON", "Content-Type: application/json", "{}".to_owned(), 415, "the content type has to be"),
        ("WS-Trust 1.3", soap, of(issue, ""), 500, "WS-Trust 1.3 is not supported"),
        ("reliable", soap, of(reliable, ""), 500, "reliable messaging is not supported"),
        (
            "Windows",
            soap,
            of(&format!("{trust}/RST/Issue"), &spnego),
            500,
            "Windows credentials are not supported",
        ),
        ("plain call", soap, of("urn:echo", "<Echo/>"), 500, "InvalidSecurity"),
        ("no XML", soap, "hello".to_owned(), 500, "InvalidSecurity"),
        ("entity", soap, "<!DOCTYPE a [<!ENTITY b \"c\">]><a>&b;</a>".to_owned(), 500, "InvalidSecurity"),
        ("compressed", "Content-Encoding: gzip", "x".to_owned(), 415, "without a Content-Encoding"),
        ("too long", soap, long, 413, "longer than this service takes"),
    ] {
        let (found, answer) = http(&service, &["-H", headers, "--data-binary", &body]);
        assert_eq!(found, status, "{what}: {answer}");
        assert!(answer.contains(text), "{what}: {answer}");
        println!("{what:>15}  {found}  {text}");
    }
    // The log names the setting of each.
    let log = service.log();
    for (reason, advice) in [
        ("soap-1.1", "use wsHttpBinding instead of basicHttpBinding"),
        ("mtom", "set messageEncoding Text"),
        ("binary-xml", "set messageEncoding Text"),
        ("encoding", "set textEncoding utf-8"),
        ("content-type", "the content type has to be application/soap+xml"),
        ("trust-1.3", "set trust13 of this service to true"),
        ("reliable-messaging", "set reliableSession enabled to false"),
        ("spnego", "set clientCredentialType UserName, Certificate or None"),
        ("addressing-2004", "set messageVersion Soap12WSAddressing10"),
    ] {
        let reason = format!("reason=\"{reason}\"");
        let line =
            log.lines().find(|line| line.contains(&reason)).unwrap_or_else(|| panic!("{reason}: {log}"));
        let (_, found) = line.split_once("advice=\"").unwrap_or_else(|| panic!("no advice: {line}"));
        assert!(found.contains(advice), "{advice}: {line}");
    }
    let (status, body) = http(&service, &[]);
    assert_eq!(status, 405, "{body}");
    let (status, wsdl) = http(&service, &["-G", "-d", "wsdl"]);
    assert_eq!(status, 200, "{wsdl}");
    for part in ["SecureConversationToken", "SslContextToken", &to] {
        assert!(wsdl.contains(part), "{part}: {wsdl}");
    }
}

#[test]
fn client_without_tls_1_2_is_told_in_the_log_what_to_set() {
    let echo = Echo::start();
    let service = Demo::with_gateway(echo.address, "").serve();
    for (n, version) in ["TLSv1", "TLSv1.1"].into_iter().enumerate() {
        let steps = client(&service, with(alice(&service), json!({ "version": version })));
        let [only] = &steps[..] else { panic!("{version}: {steps:?}") };
        let fault = "{http://schemas.xmlsoap.org/ws/2005/02/trust}FailedAuthentication 500";
        assert!(only["error"].as_str().is_some_and(|error| error.starts_with(fault)), "{version}: {steps:?}");
        let refused = "rcmpd_tlsnego_refused_total{reason=\"old-tls\",fault=\"FailedAuthentication\"}";
        assert_eq!(service.metric(refused), n as u64 + 1, "{version}");
    }
    let log = service.log();
    let line = log.lines().find(|line| line.contains("reason=\"old-tls\"")).expect("a line");
    for part in [".NET", "4.7", "AppContext switch"] {
        assert!(line.contains(part), "{part}: {line}");
    }
    assert_eq!(calls(&client(&service, alice(&service))).len(), 2, "with TLS 1.2 it is served");
}

#[test]
fn web_server_with_tls_in_front_changes_no_address_of_the_service() {
    let echo = Echo::start();
    let web = free_port();
    let demo = Demo::with_gateway(echo.address, "");
    let (own, public) =
        (format!("http://{}/service", demo.gateway()), format!("https://localhost:{}/service", web.port()));
    demo.edit(|text| {
        let changed =
            text.replace(&format!("addresses   = [\"{own}\"]"), &format!("addresses   = [\"{public}\"]"));
        assert_ne!(changed, text);
        changed
    });
    // The gateway gets plain HTTP, with a Host that no address has.
    let servers = format!(
        "server {{\n  listen {web} ssl;\n  ssl_certificate {};\n  ssl_certificate_key {};\n  client_body_buffer_size 256k;\n  \
         location / {{ proxy_pass http://{}; proxy_set_header Host inner.example; }}\n}}\n",
        demo.path("certs/site.pem").display(),
        demo.path("certs/site.key").display(),
        demo.gateway()
    );
    let folder = demo.path("nginx");
    std::fs::create_dir(&folder).expect("it is new");
    let service = demo.serve();
    let _nginx = Nginx::start(&folder, &servers, web);
    std::fs::write(service.path("body.xml"), "<Echo xmlns=\"urn:echo\">hello</Echo>").expect("our folder");
    let call = |more: &[&str]| {
        let call =
            ["tlsnego", "call", &public, "--action", "urn:echo", "--body", "body.xml", "--user", "alice"];
        let trust =
            ["--password-file", "users/alice.password", "--ca", "certs/ca.pem", "--https-ca", "certs/ca.pem"];
        service.rcmpd(&[&call[..], &trust, more].concat())
    };
    let called = call(&[]).code(0);
    assert!(called.stdout.contains(">hello</"), "{called:?}");
    let (_, wsdl) = http(&service, &["-G", "-d", "wsdl"]);
    assert!(wsdl.contains(&public) && !wsdl.contains("inner.example"), "{wsdl}");
    let foreign = "https://inner.example/service";
    let refused = call(&["--to", foreign]).code(7);
    assert!(refused.stderr.contains("DestinationUnreachable"), "{refused:?}");
    let log = service.log();
    let line = log.lines().find(|line| line.contains("reason=\"address\"")).expect("a line");
    assert!(line.contains(foreign) && line.contains(&public), "{line}");
}

#[test]
fn comments_and_instructions_cut_no_value() {
    let echo = Echo::start();
    let service = Demo::with_gateway(echo.address, "").serve();
    for name in ["Username", "DigestValue", "BinaryExchange"] {
        for inside in ["<!-- x -->", "<![CDATA[]]>", "<?x y?>", "<x xmlns=\"\"/>"] {
            let more = json!({ "binding": "call", "inside": { name: inside } });
            let steps = client(&service, with(alice(&service), more));
            let calls = calls(&steps);
            // No part of signed XML is a comment, and a section is the text in it.
            if inside.starts_with("<!") {
                assert_eq!(calls.len(), 2, "{name} {inside}: {steps:?}");
                assert!(calls.iter().all(|call| call["Remote-User"] == "CONTOSO\\alice"), "{steps:?}");
            } else {
                assert!(calls.is_empty(), "{name} {inside}: {steps:?}");
                let error = steps.iter().find_map(|step| step["error"].as_str()).expect("an error");
                assert!(error.contains('}') && error.contains(" 500 "), "a fault: {steps:?}");
            }
        }
    }
}
