//! The foreign peers: Impacket and Samba as clients, Samba's domain controller as a server, OpenSSL and SSSD
//! as readers of certificates.
//!
//! Each client is a Python script that takes one JSON object and prints one; the scripts say what is in them.

use crate::Service;
use serde_json::{Map, Value, json};
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

fn here() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A script of tests/peers.
pub fn script(name: &str) -> PathBuf {
    here().join("peers").join(name)
}

/// Where `tests/peers/install` puts what it installs.
fn private() -> PathBuf {
    std::env::var_os("RCMPD_PRIVATE").map_or_else(|| here().join("../target/private"), PathBuf::from)
}

/// One of the tools: what was installed, or the machine's own.
pub fn tool(name: &str) -> PathBuf {
    let installed = private().join("bin").join(name);
    if installed.exists() { installed } else { PathBuf::from(name) }
}

/// Python with Impacket.
pub fn impacket_python() -> PathBuf {
    private().join("venv/bin/python")
}

/// A web server that comes as a binary in a wheel.
pub fn web_tool(name: &str) -> PathBuf {
    private().join("web/bin").join(name)
}

/// Envoy: its wheel keeps the binary beside its Python.
pub fn envoy() -> PathBuf {
    let packages = std::fs::read_dir(private().join("web/lib")).expect("tests/peers/install");
    let mut found = packages.flatten().map(|python| python.path().join("site-packages/envoy/_bin/envoy"));
    found.find(|path| path.exists()).expect("envoy is not there: tests/peers/install")
}

/// What PyJWT makes of a token: its header and claims, or the name of its error.
pub fn verify_jwt(token: &str, keys: &str, audience: &str, issuer: &str) -> Value {
    let given = json!({ "token": token, "keys": keys, "audience": audience, "issuer": issuer });
    run(Command::new(private().join("web/bin/python")), "verify_jwt.py", &given)
}

/// What the parser of Prometheus' Python client reads in metrics: a list of families. `format` is
/// `openmetrics` or `prometheus`.
pub fn read_metrics(text: &str, format: &str) -> Vec<Value> {
    let given = json!({ "text": text, "format": format });
    let read = run(Command::new(impacket_python()), "read_metrics.py", &given);
    read["families"].as_array().expect("it has families").clone()
}

/// What Debian's Chromium makes of the status page; `browser.py` says what is given and what comes of it.
pub fn browser(given: &Value) -> Value {
    let packages = std::fs::read_dir(private().join("browser/lib")).expect("tests/peers/install");
    let axe =
        |python: std::fs::DirEntry| python.path().join("site-packages/axe_playwright_python/axe.min.js");
    let axe = packages
        .flatten()
        .map(axe)
        .find(|path| path.exists())
        .expect("axe is not there: tests/peers/install");
    run(Command::new("/usr/bin/python3"), "browser.py", &with(given.clone(), json!({ "axe": axe })))
}

/// What is wrong with a bill of materials by the schema of CycloneDX.
pub fn cyclonedx_errors(bom: &Value) -> Value {
    run(Command::new(private().join("sbom/bin/python")), "bom_schema.py", &json!({ "bom": bom }))["errors"]
        .take()
}

/// What Helm makes of the chart with these values, validated by Kubernetes' schemas: a list of objects, or
/// `{"refused": …}` with what Helm said.
pub fn helm_chart(values: &Value) -> Value {
    let given = json!({ "chart": here().join("../deploy/helm/rcmpd"), "values": values });
    run(Command::new(private().join("helm/bin/python")), "helm_chart.py", &given)
}

/// What a validator of JSON Schemas finds wrong with each of these documents of TOML.
pub fn json_schema(schema: &Value, documents: &[String]) -> Vec<Vec<String>> {
    let given = json!({ "schema": schema, "documents": documents });
    let wrong = run(Command::new(private().join("helm/bin/python")), "json_schema.py", &given);
    serde_json::from_value(wrong).expect("it is a list of lists of texts")
}

/// What is wrong with each of these events by OCSF's schema of the class Authentication.
pub fn ocsf(events: &[Value]) -> Vec<Vec<String>> {
    let given = json!({ "version": "1.5.0", "class": "authentication", "events": events });
    let wrong = run(Command::new(private().join("helm/bin/python")), "ocsf.py", &given);
    serde_json::from_value(wrong).expect("it is a list of lists of texts")
}

/// What the collector of `deploy/collector/otelcol.yaml` makes of attributes, texts and spans.
pub fn collector_config(given: Value) -> Value {
    let config = json!({ "config": here().join("../deploy/collector/otelcol.yaml") });
    run(Command::new(private().join("helm/bin/python")), "collector_config.py", &with(config, given))
}

/// An application that speaks gRPC, by gRPC's own server. It ends with this value.
#[derive(Debug)]
pub struct GrpcServer {
    child: Child,
    /// Where it is.
    pub address: SocketAddr,
}

impl GrpcServer {
    /// Starts one, over TLS if there is a certificate with its key.
    pub fn start(tls: Option<(&Path, &Path)>) -> Self {
        let given = match tls {
            None => json!({}),
            Some((certificate, key)) => json!({ "certificate": certificate, "key": key }),
        };
        let mut child = Command::new(web_tool("python"))
            .arg(script("grpc_server.py"))
            .arg(given.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("gRPC's server does not start ({error}): tests/peers/install"));
        let mut port = String::new();
        let output = child.stdout.take().expect("it is piped");
        BufReader::new(output).read_line(&mut port).expect("it says its port");
        let port = port.trim().parse().expect("it says its port");
        Self { child, address: ([127, 0, 0, 1], port).into() }
    }
}

impl Drop for GrpcServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What gRPC's own client makes of an application behind the TLS-terminating proxy.
#[track_caller]
pub fn grpc_client(given: &Value) -> Value {
    run(Command::new(web_tool("python")), "grpc_client.py", given)
}

/// A collector of OpenTelemetry's: what it receives it sends on. It ends with this value.
#[derive(Debug)]
pub struct Rotel {
    child: Child,
    /// Where it receives OTLP over gRPC.
    pub endpoint: String,
    /// Where it receives OTLP over HTTP.
    pub http: String,
}

impl Rotel {
    /// Starts one that sends on to `endpoint`.
    pub fn start(endpoint: &str) -> Self {
        // It does not say which port it got.
        let (grpc, http) = (crate::ports::free_port().to_string(), crate::ports::free_port().to_string());
        let child = Command::new(private().join("collector/rotel/rotel-agent"))
            .args(["start", "--otlp-grpc-endpoint", &grpc, "--otlp-http-endpoint", &http])
            .args([
                "--exporter",
                "otlp",
                "--otlp-exporter-endpoint",
                endpoint,
                "--otlp-exporter-protocol",
                "grpc",
            ])
            .args(["--batch-timeout", "100ms"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("rotel does not start ({error}): tests/peers/install"));
        let rotel = Self { child, endpoint: format!("http://{grpc}"), http: format!("http://{http}") };
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
        while std::net::TcpStream::connect(&grpc).is_err() {
            assert!(std::time::Instant::now() < deadline, "rotel does not listen on {grpc}");
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        rotel
    }
}

impl Drop for Rotel {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Python with Samba's bindings: they belong to Debian's.
pub const SAMBA_PYTHON: &str = "/usr/bin/python3";

/// Runs a script of the peers with one JSON object and reads one.
#[track_caller]
pub fn run(mut command: Command, name: &str, input: &Value) -> Value {
    let mut child = command
        .arg(script(name))
        .arg("-")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{name} does not start ({error}): tests/peers/install"));
    let mut stdin = child.stdin.take().expect("it is piped");
    stdin.write_all(input.to_string().as_bytes()).expect("the peer reads its input");
    drop(stdin);
    let done = child.wait_with_output().expect("the peer ends");
    let stderr = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{name} ended with {}: {stderr}", done.status);
    serde_json::from_slice(&done.stdout).unwrap_or_else(|error| panic!("{name}: {error}: {stderr}"))
}

/// An object with the members of another one, which take the place of those with the same name.
pub fn with(base: Value, more: Value) -> Value {
    let (Value::Object(mut base), Value::Object(more)) = (base, more) else {
        panic!("objects are asked for")
    };
    base.extend(more);
    Value::Object(base)
}

/// Where a demo's service is, and the account to ask it with.
pub fn target(service: &Service) -> Value {
    with(at(service.netlogon), json!({ "secret_file": service.path("machines/WEB01.secret") }))
}

/// Asks a demo's service as Impacket does.
#[track_caller]
pub fn impacket(service: &Service, more: Value) -> Value {
    run(Command::new(impacket_python()), "impacket_client.py", &with(target(service), more))
}

/// Asks a demo's service as Samba does, which must be served alone.
#[track_caller]
pub fn samba(service: &Service, more: Value) -> Value {
    run(service.beside(SAMBA_PYTHON), "samba_client.py", &with(target(service), more))
}

/// Attacks a demo's service.
#[track_caller]
pub fn attack(service: &Service, more: Value) -> Value {
    run(Command::new(impacket_python()), "attacks.py", &with(target(service), more))
}

/// A question about a demo's certificate.
pub fn question(service: &Service, who: &str) -> Value {
    json!({ "certificate": service.certificate(who) })
}

/// A question with more in it.
pub fn question_with(service: &Service, who: &str, more: Value) -> Value {
    with(question(service, who), more)
}

/// What `openssl x509 -noout` prints of a DER certificate with these arguments; `None` when OpenSSL refuses
/// it.
pub fn openssl_x509(certificate: &[u8], arguments: &[&str]) -> Option<Vec<u8>> {
    let mut command = Command::new("openssl");
    command.args(["x509", "-inform", "DER", "-noout"]).args(arguments);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().expect("openssl starts: tests/peers/install");
    let mut stdin = child.stdin.take().expect("it is piped");
    // It may have seen enough before the end.
    let _ = stdin.write_all(certificate);
    drop(stdin);
    let done = child.wait_with_output().expect("openssl ends");
    done.status.success().then_some(done.stdout)
}

/// What SSSD makes of each certificate (in hex) by each of its mapping rules; null where it makes nothing.
#[track_caller]
pub fn sssd(certificates: &[String], rules: &[&str]) -> Vec<Vec<Option<String>>> {
    let mut command = Command::new("unshare");
    command.args(["--mount", "--", SAMBA_PYTHON]);
    let answer = run(command, "certmap.py", &json!({ "certificates": certificates, "rules": rules }));
    serde_json::from_value(answer).expect("a list for each certificate")
}

/// A Samba AD DC in namespaces of its own; it ends with this value.
#[derive(Debug)]
pub struct SambaDc {
    child: Child,
    // Its end of file ends the DC.
    stdin: Option<ChildStdin>,
    /// What the script says of it.
    pub facts: Map<String, Value>,
}

impl SambaDc {
    /// Provisions it, the first time, and starts it.
    pub fn start() -> Self {
        let mut child = Command::new(SAMBA_PYTHON)
            .arg(script("samba_dc.py"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("Python starts");
        let stdin = child.stdin.take();
        let mut line = String::new();
        let stdout = child.stdout.take().expect("it is piped");
        BufReader::new(stdout).read_line(&mut line).expect("the script says something");
        let facts = serde_json::from_str(&line)
            .unwrap_or_else(|error| panic!("the DC did not start ({error}): tests/peers/install"));
        Self { child, stdin, facts }
    }

    /// A fact as text.
    pub fn text(&self, name: &str) -> String {
        match &self.facts[name] {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        }
    }

    /// The password of an account: a machine's, another controller's, or a trust's by either of its names.
    pub fn secret(&self, account: &str) -> String {
        let named = |kind: &str| self.facts[kind][account].as_str();
        let trust = || {
            let trusts = self.facts["trusts"].as_object()?;
            let names =
                |trust: &&Value| trust["account"] == account || trust["dns"] == account.trim_end_matches('.');
            trusts.values().find(names)?["secret"].as_str()
        };
        named("machines").or_else(|| named("servers")).or_else(trust).expect("it has an account").to_owned()
    }

    /// A command that runs beside it.
    pub fn beside(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["-t", &self.text("pid"), "-n", "-m", "--"]).arg(program);
        command
    }

    /// Makes tickets and keytabs in a folder, as `samba_kdc.py` says, and gives what it prints. Its user is
    /// in so many groups.
    pub fn make_tickets(&self, folder: &Path, groups: usize) -> Value {
        let mut command = self.beside(SAMBA_PYTHON);
        command.arg(script("samba_kdc.py")).arg(self.text("folder")).arg(folder);
        command.args([self.text("dns"), self.text("address"), groups.to_string()]);
        serde_json::from_str(&crate::service::finish(command).code(0).stdout).expect("JSON")
    }

    /// A service ticket that an account gets by Impacket's getST with these arguments: a credential cache in
    /// the folder, which has to be empty. The caller has to be in the DC's network.
    pub fn service_ticket(
        &self,
        folder: &Path,
        account: &str,
        password: &str,
        arguments: &[&str],
    ) -> PathBuf {
        let mut command = Command::new(impacket_python());
        // The KDC takes the realm over into the ticket as it is written here.
        let account = format!("{}/{account}:{password}", self.text("dns").to_uppercase());
        command.current_dir(folder).arg(script("impacket_getst.py")).args(arguments);
        command.args(["-dc-ip", &self.text("address"), &account]);
        let done = crate::service::finish(command);
        let written = std::fs::read_dir(folder).expect("a folder").flatten().next();
        written.unwrap_or_else(|| panic!("no ticket: {} {}", done.stdout, done.stderr)).path()
    }

    /// What Impacket's client needs to know.
    pub fn target(&self, account: &str) -> Value {
        json!({
            "host": self.text("address"), "port": self.facts["port"], "domain": self.text("netbios"),
            "account": account, "secret": self.secret(account),
        })
    }

    /// Asks it as Impacket does.
    #[track_caller]
    pub fn impacket(&self, account: &str, more: Value) -> Value {
        run(self.beside(impacket_python()), "impacket_client.py", &with(self.target(account), more))
    }

    /// KERB_VERIFY_PAC_REQUEST in hex, with a signature of its krbtgt's, or nearly.
    pub fn verify_pac(&self, signature: &str) -> String {
        let mut command = Command::new(impacket_python());
        command.arg(script("kerb_verify_pac.py")).args([&self.text("krbtgt_aes256"), signature]);
        crate::service::finish(command).code(0).stdout.trim().to_owned()
    }
}

impl Drop for SambaDc {
    fn drop(&mut self) {
        drop(self.stdin.take());
        let _ = self.child.wait();
    }
}

/// Gets the master secret as Impacket does, with `more` for the script; alice asks where it names no user.
#[track_caller]
pub fn sso_impacket(service: &Service, more: Value) -> Value {
    run(Command::new(impacket_python()), "sso_client.py", &with(sso_target(service), more))
}

/// The same as Samba does.
#[track_caller]
pub fn sso_samba(service: &Service, more: Value) -> Value {
    run(Command::new(SAMBA_PYTHON), "sso_samba.py", &with(sso_target(service), more))
}

fn sso_target(service: &Service) -> Value {
    let user = json!({ "user": "alice", "password": service.password("alice") });
    with(at(service.master_secret()), user)
}

/// Gets the master secret by MIT Kerberos with this configuration.
#[track_caller]
pub fn sso_gss(krb5_config: &Path, address: SocketAddr, more: Value) -> Value {
    let mut command = Command::new(SAMBA_PYTHON);
    command.env("KRB5_CONFIG", krb5_config);
    run(command, "sso_gss.py", &with(at(address), more))
}

/// Shows changed tickets of a credential cache, and gives what each was answered with.
#[track_caller]
pub fn sso_tickets(address: SocketAddr, more: Value) -> Vec<Value> {
    let done = run(Command::new(impacket_python()), "sso_tickets.py", &with(at(address), more));
    done["answers"].as_array().expect("a list").clone()
}

fn at(address: SocketAddr) -> Value {
    json!({ "host": address.ip().to_string(), "port": address.port() })
}

/// Messages that differ in some point from a client's: what the server answered to each.
#[track_caller]
pub fn sso_attacks(service: &Service, cases: &Value) -> Vec<Value> {
    let input = with(sso_target(service), json!({ "cases": cases }));
    let done = run(Command::new(impacket_python()), "ntlm_attacks.py", &input);
    done["answers"].as_array().expect("a list").clone()
}

/// Impacket's ntlmrelayx in front of a master secret server. It ends with this value.
#[derive(Debug)]
pub struct SsoRelay {
    child: Child,
    stdout: BufReader<ChildStdout>,
    /// Where its clients connect to, on 127.0.0.1.
    pub port: u16,
}

impl SsoRelay {
    /// Starts one that relays to `target`, with `more` for the script.
    pub fn start(target: SocketAddr, more: &Value) -> Self {
        let input = with(at(target), more.clone());
        let mut child = Command::new(impacket_python())
            .arg(script("ntlm_relay.py"))
            .arg(input.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("ntlmrelayx does not start ({error}): tests/peers/install"));
        let mut stdout = BufReader::new(child.stdout.take().expect("it is piped"));
        let port = read_object(&mut stdout)["port"].as_u64().and_then(|port| port.try_into().ok());
        Self { child, stdout, port: port.expect("it says its port") }
    }

    /// Ends it. Returns what the server answered to its calls.
    pub fn finish(mut self) -> Vec<Value> {
        drop(self.child.stdin.take());
        read_object(&mut self.stdout)["answers"].as_array().expect("a list").clone()
    }
}

impl Drop for SsoRelay {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn read_object(from: &mut impl BufRead) -> Value {
    let mut line = String::new();
    from.read_line(&mut line).expect("it is text");
    serde_json::from_str(&line).unwrap_or_else(|error| panic!("{line:?}: {error}"))
}
