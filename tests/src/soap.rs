//! Plain SOAP 1.2 services behind a gateway, and programs of others as clients or services.

use crate::peers::SAMBA_PYTHON;
use crate::ports::free_port;
use crate::{Demo, Service, binary, eventually};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// A plain SOAP 1.2 service: it answers with the body and with who called.
#[derive(Debug)]
pub struct Echo {
    child: Child,
    /// Where it is.
    pub address: SocketAddr,
}

impl Echo {
    /// Starts one.
    pub fn start() -> Self {
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

/// An answer of the service behind the gateway, by the number of the request.
type Script = dyn Fn(usize) -> String + Send + Sync;

/// At the end of an answer: the service closes the connection after it.
pub const CLOSES: char = '\0';

/// A service that answers as a test says, and keeps what it was asked.
#[derive(Debug)]
pub struct Upstream {
    /// Where it is.
    pub address: SocketAddr,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Upstream {
    /// Starts one.
    pub fn start(script: impl Fn(usize) -> String + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("it works");
        let address = listener.local_addr().expect("an address");
        let asked: Arc<Mutex<Vec<String>>> = Arc::default();
        let script: Arc<Script> = Arc::new(script);
        let (seen, count) = (Arc::clone(&asked), Arc::new(AtomicUsize::new(0)));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (seen, count, script) = (Arc::clone(&seen), Arc::clone(&count), Arc::clone(&script));
                std::thread::spawn(move || {
                    let mut reader = BufReader::new(stream.expect("it works"));
                    while let Some(request) = read_request(&mut reader) {
                        seen.lock().expect("it works").push(request);
                        let answer = script(count.fetch_add(1, Ordering::SeqCst));
                        if answer.is_empty() {
                            // No answer in time.
                            std::thread::sleep(Duration::from_secs(5));
                        }
                        let whole = answer.strip_suffix(CLOSES);
                        let written = reader.get_mut().write_all(whole.unwrap_or(&answer).as_bytes());
                        if written.is_err() || whole.is_some() {
                            return;
                        }
                    }
                });
            }
        });
        Self { address, asked }
    }

    /// The requests so far.
    pub fn asked(&self) -> Vec<String> {
        self.asked.lock().expect("it works").clone()
    }
}

fn read_request(reader: &mut impl BufRead) -> Option<String> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head).ok()? == 0 {
            return None;
        }
    }
    let length = head
        .lines()
        .find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length:")?.trim().parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    reader.read_exact(&mut body).ok()?;
    Some(head + &String::from_utf8(body).ok()?)
}

/// An answer in HTTP.
pub fn http(status: &str, content_type: &str, body: &str) -> String {
    let length = body.len();
    format!("HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {length}\r\n\r\n{body}")
}

/// The media type of SOAP 1.2.
pub const SOAP: &str = "application/soap+xml; charset=utf-8";

/// An envelope around a body.
pub fn envelope(body: &str) -> String {
    format!(
        "<s:Envelope xmlns:s=\"http://www.w3.org/2003/05/soap-envelope\"><s:Body>{body}</s:Body></s:Envelope>"
    )
}

/// A good answer.
pub fn echoed() -> String {
    http("200 OK", SOAP, &envelope("<EchoResponse xmlns=\"urn:echo\">good</EchoResponse>"))
}

/// Gives the service and alice of a demo RSA keys, and opens all bindings to clients with this credential.
pub fn open_all_bindings(demo: &Demo, credential: &str) {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/peers/rsa_certificate.py");
    let mut command = Command::new(SAMBA_PYTHON);
    let status = command.arg(script).arg(demo.path("certs")).args(["site", "alice"]).status();
    assert!(status.expect("Debian's Python starts").success());
    demo.edit(|text| {
        let bindings = "bindings = [\"session\", \"negotiated\", \"preset-session\", \"one-shot\"]";
        text.replace("certs/site.pem", "certs/site.rsa.pem")
            .replace("certs/site.key", "certs/site.rsa.key")
            .replace("credential  = \"username\"", &format!("{bindings}\ncredential = \"{credential}\""))
    });
}

/// Posts to an address by curl, and returns status and body.
pub fn post(endpoint: &str, arguments: &[&str]) -> (String, String) {
    let output = Command::new("curl")
        .args(["-sS", "-w", "\n%{http_code}"])
        .args(arguments)
        .arg(format!("http://{endpoint}/"))
        .output()
        .expect("curl answers");
    let text = String::from_utf8(output.stdout).expect("curl answers");
    let (body, status) = text.rsplit_once('\n').expect("curl answers");
    (status.to_owned(), body.to_owned())
}

/// The local endpoint as a user of a demo, which keeps its session.
#[derive(Debug)]
pub struct Endpoint(Child, String);

impl Endpoint {
    /// One that runs already, at an address.
    pub const fn of(child: Child, address: String) -> Self {
        Self(child, address)
    }

    /// Starts it as a user with a password.
    pub fn start(service: &Service, user: &str) -> Self {
        Self::start_with(service, ["--user", user, "--password-file", &format!("users/{user}.password")])
    }

    /// Starts it with these options.
    pub fn start_with(service: &Service, who: [&str; 4]) -> Self {
        let (url, endpoint) = (format!("http://{}/service", service.gateway()), free_port().to_string());
        let child = Command::new(binary())
            .args(["tlsnego", "endpoint", &url, "--listen", &endpoint, "--ca", "certs/ca.pem"])
            .args(who)
            .current_dir(service.path(""))
            .stderr(Stdio::null())
            .spawn();
        eventually("the endpoint listens", || TcpStream::connect(&endpoint).is_ok());
        Self(child.expect("it starts"), endpoint)
    }

    /// Calls the service, and returns the status.
    pub fn call(&self) -> String {
        let typed = format!("Content-Type: {SOAP}; action=\"urn:echo/Echo\"");
        post(&self.1, &["-H", &typed, "-d", &envelope("<Echo xmlns=\"urn:echo\"/>")]).0
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A program that speaks WS-Security, as a client or as a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SoapPeer {
    /// WSS4J: `TlsnegoWss4j.java` says what it is told, and what it answers.
    Wss4j,
    /// Mono's WCF: `MonoWcf.cs` does.
    Mono,
}

impl SoapPeer {
    fn start(self) -> Child {
        let name = match self {
            Self::Wss4j => "wss4j",
            Self::Mono => "mono-wcf",
        };
        let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("peers").join(name);
        let mut command = Command::new(program);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        command.spawn().unwrap_or_else(|error| panic!("{error}: {command:?}"))
    }

    fn told(self, settings: &Value) -> String {
        let settings_of = settings.as_object().expect("an object");
        match self {
            Self::Wss4j => format!("{settings}\n"),
            Self::Mono => {
                let line = |(name, value): (&String, &Value)| {
                    format!("{name}={}\n", value.as_str().expect("a text"))
                };
                settings_of.iter().map(line).collect::<String>() + "\n"
            }
        }
    }

    /// Runs it as a client with each of these settings, and returns the steps of each.
    pub fn call(self, settings: &[Value]) -> Vec<Vec<Value>> {
        let mut child = self.start();
        let mut input = child.stdin.take().expect("it is piped");
        for one in settings {
            input.write_all(self.told(one).as_bytes()).expect("it reads");
        }
        drop(input);
        let output = child.wait_with_output().expect("it ends");
        assert!(output.status.success(), "{self:?} failed");
        let text = String::from_utf8(output.stdout).expect("UTF-8");
        let steps: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        let end = json!({ "step": "end" });
        let mut all: Vec<_> = steps.split(|step| *step == end).map(<[Value]>::to_vec).collect();
        assert_eq!(all.pop(), Some(Vec::new()), "it ended early: {steps:?}");
        assert_eq!(all.len(), settings.len());
        all
    }

    /// Starts it as a service, which answers with the body of the call.
    pub fn serve(self, settings: &Value) -> SoapService {
        let mut child = self.start();
        let told = self.told(settings);
        child.stdin.as_mut().expect("it is piped").write_all(told.as_bytes()).expect("it reads");
        let mut line = String::new();
        let output = child.stdout.take().expect("it is piped");
        BufReader::new(output).read_line(&mut line).expect("a line");
        let ready = serde_json::from_str(&line).expect("it is ready");
        SoapService { child, ready }
    }
}

/// A service of another program.
#[derive(Debug)]
pub struct SoapService {
    child: Child,
    /// What it said when it was ready.
    pub ready: Value,
}

impl Drop for SoapService {
    fn drop(&mut self) {
        // The end of its input ends it.
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}
