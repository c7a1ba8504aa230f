//! Web servers in front of the sidecar of a demo domain, as `rcmpd proxy-config` configures them, and a page
//! behind them.

use crate::peers::web_tool;
use crate::ports::free_port;
use crate::service::{Demo, Finished, Service, finish, write_secret};
use serde_json::{Value, json};
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Mutex, mpsc};
use std::time::{Duration, Instant};

/// A web server starts in less, also on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A web server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WebServer {
    /// nginx.
    Nginx,
    /// HAProxy.
    Haproxy,
    /// Apache.
    Apache,
    /// Caddy.
    Caddy,
    /// Traefik.
    Traefik,
    /// Envoy, over gRPC.
    Envoy,
    /// Envoy, over HTTP.
    EnvoyHttp,
    /// Caddy, with `Client-Cert`.
    CaddyClientCert,
    /// None: the sidecar's own TLS front.
    Own,
}

impl WebServer {
    /// Its name, as `rcmpd proxy-config` has it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Nginx => "nginx",
            Self::Haproxy => "haproxy",
            Self::Apache => "apache",
            Self::Caddy | Self::CaddyClientCert => "caddy",
            Self::Traefik => "traefik",
            Self::Envoy | Self::EnvoyHttp => "envoy",
            Self::Own => "the TLS-terminating proxy",
        }
    }

    /// The dialect of its listener.
    const fn dialect(self) -> &'static str {
        match self {
            Self::Envoy => "envoy-grpc",
            Self::CaddyClientCert => "client-cert",
            _ => self.name(),
        }
    }
}

/// A path that the page answers late: after more than half a minute, and more than the 15 seconds after which
/// Envoy ends an answer.
pub const SLOW: &str = "/slow";
/// A path that it answers with a line, and another one as late.
pub const STREAM: &str = "/stream";
const SLOWNESS: Duration = Duration::from_secs(31);
/// The other name in the certificate of the site.
pub const SECOND_SITE: &str = "site.contoso.example";

/// A page that tells what it is told: the request as it arrived, header by header.
#[derive(Debug)]
pub struct Page {
    /// Where it is.
    pub address: SocketAddr,
    requests: Mutex<mpsc::Receiver<Value>>,
}

impl Page {
    /// Serves for as long as the test runs.
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("there is a port");
        let address = listener.local_addr().expect("it is bound");
        let (sender, requests) = mpsc::channel();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let sender = sender.clone();
                std::thread::spawn(move || while answer(&stream, &sender).is_some() {});
            }
        });
        Self { address, requests: Mutex::new(requests) }
    }

    /// What has arrived since the last time.
    pub fn seen(&self) -> Vec<Value> {
        self.requests.lock().expect("no test panics with it").try_iter().collect()
    }
}

/// Answers one request, and says whether there may be another one.
fn answer(mut stream: &TcpStream, seen: &mpsc::Sender<Value>) -> Option<()> {
    let mut reader = BufReader::new(stream);
    let mut lines = Vec::new();
    loop {
        let mut line = Vec::new();
        reader.read_until(b'\n', &mut line).ok()?;
        let line = String::from_utf8_lossy(line.strip_suffix(b"\n")?).trim_end_matches('\r').to_owned();
        match line.is_empty() {
            true => break,
            false => lines.push(line),
        }
    }
    let mut head = lines.first()?.split(' ');
    let (method, target) = (head.next()?.to_owned(), head.next()?.to_owned());
    let headers: Vec<(String, String)> = lines[1..]
        .iter()
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
        .collect();
    let length = headers.iter().find(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    let length: u64 = length.and_then(|(_, length)| length.parse().ok()).unwrap_or(0);
    let upgrade =
        headers.iter().any(|(name, value)| name.eq_ignore_ascii_case("upgrade") && value == "websocket");
    if upgrade {
        let _ = seen.send(json!({ "target": target, "headers": headers }));
        // The answer to the key that is asked with (RFC 6455, section 1.3): HAProxy checks it.
        let head = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                    Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
        stream.write_all(head.as_bytes()).ok()?;
        // Whatever is said comes back in capitals.
        let mut said = [0; 64];
        loop {
            let len = reader.read(&mut said).ok().filter(|len| *len > 0)?;
            stream.write_all(&said[..len].to_ascii_uppercase()).ok()?;
        }
    }
    std::io::copy(&mut reader.take(length), &mut std::io::sink()).ok()?;
    if target == SLOW {
        std::thread::sleep(SLOWNESS);
    }
    if target == STREAM {
        let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n6\r\nfirst\n\r\n";
        stream.write_all(head.as_bytes()).ok()?;
        std::thread::sleep(SLOWNESS);
        return stream.write_all(b"5\r\nlast\n\r\n0\r\n\r\n").ok();
    }
    let request = json!({ "page": "rcmpd", "method": method, "target": target, "headers": headers });
    let body = request.to_string();
    let _ = seen.send(request);
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).ok()?;
    stream.write_all(body.as_bytes()).ok()
}

/// A web server, the sidecar of a demo domain, and a page.
#[derive(Debug)]
pub struct Site {
    /// The service with the sidecar.
    pub service: Service,
    /// The page.
    pub page: Page,
    /// Where the web server listens.
    pub address: SocketAddr,
    /// The web server's process, unless it is the service itself.
    proxy: Option<Child>,
}

/// `rcmpd page`; it ends with this value.
struct PageProcess {
    child: Child,
    address: SocketAddr,
}

impl PageProcess {
    fn start() -> Self {
        let mut child = Command::new(crate::binary())
            .args(["page", "--listen", "127.0.0.1:0"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("rcmpd starts");
        let mut errors = BufReader::new(child.stderr.take().expect("it is piped"));
        let mut line = String::new();
        while !line.contains("address=") {
            line.clear();
            assert_ne!(errors.read_line(&mut line).expect("it speaks"), 0, "rcmpd page says no address");
        }
        let address = line.rsplit("address=").next().unwrap_or_default().trim().parse().expect("an address");
        // Whatever else it says is not read.
        std::thread::spawn(move || std::io::copy(&mut errors, &mut std::io::sink()));
        Self { child, address }
    }
}

impl Drop for PageProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The users who ask: web servers do so as one of their own where they can, and benches ask themselves.
fn askers() -> String {
    let own = rustix::process::geteuid();
    let others = if own.is_root() { r#""www-data", "# } else { "" };
    format!(r#"{others}"{}""#, own.as_raw())
}

impl Site {
    /// Starts all three.
    pub fn start(server: WebServer) -> Self {
        Self::start_with(server, "")
    }

    /// Starts all three; `more` is added to `[sidecar]`.
    pub fn start_with(server: WebServer, more: &str) -> Self {
        Self::start_by(server, more, |text| text, &[])
    }

    /// The same; the web server's configuration is changed, and there are variables in the environments of
    /// both.
    pub fn start_by(
        server: WebServer,
        more: &str,
        change: impl FnOnce(String) -> String,
        environment: &[(&str, &str)],
    ) -> Self {
        let page = Page::start();
        let application = page.address;
        Self::start_before(server, page, application, more, change, environment, &|_| {})
    }

    /// The same for a demo domain that is changed first.
    pub fn start_in(server: WebServer, more: &str, prepare: &dyn Fn(&Demo)) -> Self {
        let page = Page::start();
        let application = page.address;
        Self::start_before(server, page, application, more, |text| text, &[], prepare)
    }

    /// A web server with two sites, each as it is printed: localhost and [`SECOND_SITE`].
    pub fn start_two(server: WebServer) -> Self {
        let page = Page::start();
        let demo = Demo::new();
        open(&demo);
        let address = free_port();
        demo.configure(&listener(server, &demo, "", address, page.address));
        let first = printed(server, &demo, address, page.address, &[]);
        let second = printed(server, &demo, address, page.address, &["--site", SECOND_SITE, "--beside"]);
        let service = demo.serve_with(&[]);
        let both = match server {
            // A file of its own in the folder that its file provider reads.
            WebServer::Traefik => {
                fs::create_dir(service.path("sites")).expect("the folder is ours");
                fs::write(service.path("sites/second.yaml"), second).expect("the folder is ours");
                first
            }
            // What the comments say where it goes.
            WebServer::Haproxy => {
                let line = second
                    .lines()
                    .find_map(|line| line.strip_prefix("#     "))
                    .expect("a line for the frontend");
                first.replacen("    default_backend", &format!("    {line}\n    default_backend"), 1)
                    + &second
            }
            WebServer::Envoy | WebServer::EnvoyHttp => {
                let (chain, clusters) = second.split_once("# Under clusters:\n").expect("it has two parts");
                first.replacen("  clusters:\n", &format!("{chain}  clusters:\n{clusters}"), 1)
            }
            _ => first + "\n" + &second,
        };
        let proxy = Some(start(server, &service, &both, &[]));
        let mut site = Self { service, page, address, proxy };
        site.wait();
        site
    }

    /// The TLS-terminating proxy before an application that the test starts: `upstream` are its keys of
    /// `[sidecar.proxy]`.
    pub fn start_at(page: Page, upstream: &str, prepare: &dyn Fn(&Demo)) -> Self {
        let demo = Demo::new();
        open(&demo);
        prepare(&demo);
        let address = free_port();
        demo.configure(&own(address, "", upstream));
        let mut site = Self { service: demo.serve_with(&[]), page, address, proxy: None };
        site.wait();
        site
    }

    fn start_before(
        server: WebServer,
        page: Page,
        application: SocketAddr,
        more: &str,
        change: impl FnOnce(String) -> String,
        environment: &[(&str, &str)],
        prepare: &dyn Fn(&Demo),
    ) -> Self {
        let demo = Demo::new();
        open(&demo);
        prepare(&demo);
        let address = free_port();
        demo.configure(&listener(server, &demo, more, address, application));
        let printed = match server {
            WebServer::Own => None,
            _ => Some(printed(server, &demo, address, application, &[])),
        };
        let service = demo.serve_with(environment);
        let proxy = printed.map(|printed| start(server, &service, &change(printed), environment));
        let mut site = Self { service, page, address, proxy };
        site.wait();
        site
    }

    /// What `rcmpd check-proxy` finds out about a web server, changed or not, with `rcmpd page` behind it:
    /// its exit code, and the checks by verdict.
    pub fn checked(
        server: WebServer,
        change: impl FnOnce(String) -> String,
        path: &str,
        more: &[&str],
    ) -> Finished {
        let behind = PageProcess::start();
        let site = Self::start_before(server, Page::start(), behind.address, "", change, &[], &|_| {});
        let url = format!("https://localhost:{}{path}", site.address.port());
        let mut arguments = vec![
            "check-proxy",
            &url,
            "--certificate",
            "certs/alice.pem",
            "--key",
            "certs/alice.key",
            "--ca",
            "certs/ca.pem",
            "--other-certificate",
            "certs/bob.pem",
            "--other-key",
            "certs/bob.key",
            "--expect-user",
            "CONTOSO\\alice",
            "--json",
            // Several builds and servers may share the machine. An answer that never comes is late all the
            // same.
            "--timeout",
            "60",
        ];
        arguments.extend(more);
        site.service.rcmpd(&arguments)
    }

    /// The web server's processes.
    pub fn processes(&self) -> Vec<u32> {
        let Some(master) = self.proxy.as_ref().map(Child::id) else { return Vec::new() };
        let children =
            fs::read_to_string(format!("/proc/{master}/task/{master}/children")).unwrap_or_default();
        let children = children.split_whitespace().filter_map(|process| process.parse().ok());
        children.chain([master]).collect()
    }

    fn wait(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        // Some listen before they have read what they serve.
        while TcpStream::connect(self.address).is_err() || self.curl(None, "/", &[]).code != 0 {
            if let Some(Ok(Some(status))) = self.proxy.as_mut().map(Child::try_wait) {
                panic!("the web server ended with {status}:\n{}", self.proxy_log());
            }
            assert!(Instant::now() < deadline, "the web server does not answer:\n{}", self.proxy_log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// What curl prints: the status in the last line, the body before.
    #[track_caller]
    pub fn get(&self, who: Option<&str>, path: &str, more: &[&str]) -> (u16, String) {
        let done = self.curl(who, path, more).code(0);
        let (body, status) = done.stdout.rsplit_once('\n').expect("the status is there");
        (status.parse().expect("a number"), body.to_owned())
    }

    /// curl with a client certificate, or none.
    pub fn curl(&self, who: Option<&str>, path: &str, more: &[&str]) -> Finished {
        finish(self.curl_command("localhost", who, path, more))
    }

    /// The same for another name of the web server.
    pub fn curl_at(&self, host: &str, who: Option<&str>, path: &str) -> Finished {
        finish(self.curl_command(host, who, path, &[]))
    }

    fn curl_command(&self, host: &str, who: Option<&str>, path: &str, more: &[&str]) -> Command {
        let mut command = Command::new("curl");
        command.args(["--silent", "--max-time", "30", "--write-out", "\n%{http_code}", "--cacert"]);
        command.arg(self.service.path("certs/ca.pem"));
        if let Some(who) = who {
            let file = |kind: &str| self.service.path(&format!("certs/{who}.{kind}"));
            command.arg("--cert").arg(file("pem")).arg("--key").arg(file("key"));
        }
        let port = self.address.port();
        command.arg("--resolve").arg(format!("{host}:{port}:127.0.0.1"));
        command.args(more).arg(format!("https://{host}:{port}{path}"));
        command
    }

    /// Whether the first line of [`STREAM`] arrives before the last one is sent, and the last one at all.
    pub fn streams(&self, who: &str) -> (bool, bool) {
        let more = ["--no-buffer", "--max-time", "120"];
        let mut command = self.curl_command("localhost", Some(who), STREAM, &more);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("curl starts");
        let mut lines =
            BufReader::new(child.stdout.take().expect("it is piped")).lines().map_while(Result::ok);
        let is_first = lines.next().is_some_and(|line| line == "first");
        let is_open = child.try_wait().expect("it is ours").is_none();
        let is_last = lines.next().is_some_and(|line| line == "last");
        let _ = child.wait();
        (is_first && is_open, is_last)
    }

    /// What the web server's process has written.
    pub fn proxy_log(&self) -> String {
        fs::read_to_string(self.service.path("proxy.log")).unwrap_or_default()
    }

    /// The CAs that a handshake asks for certificates of, as `openssl s_client` prints them.
    pub fn told_cas(&self) -> String {
        let mut command = Command::new("openssl");
        command.args(["s_client", "-servername", "localhost", "-connect", &self.address.to_string()]);
        let done = finish(command).stdout;
        let names = done.split_once("Acceptable client certificate CA names").map_or("", |(_, names)| names);
        names
            .split("\n---")
            .next()
            .unwrap_or_default()
            .split("Requested Signature")
            .next()
            .unwrap_or_default()
            .to_owned()
    }

    /// A connection of `openssl s_client` with a client's certificate, for what curl does not say.
    pub fn connect(&self, who: &str) -> Connection {
        let file = |kind: &str| self.service.path(&format!("certs/{who}.{kind}"));
        let mut child = Command::new("openssl")
            .args([
                "s_client",
                "-quiet",
                "-servername",
                "localhost",
                "-alpn",
                "http/1.1",
                "-verify_return_error",
            ])
            .arg("-CAfile")
            .arg(self.service.path("certs/ca.pem"))
            .args(["-connect", &self.address.to_string()])
            .arg("-cert")
            .arg(file("pem"))
            .arg("-key")
            .arg(file("key"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("openssl starts");
        let input = child.stdin.take().expect("it is piped");
        let output = BufReader::new(child.stdout.take().expect("it is piped"));
        Connection { child, input, output }
    }

    /// Whether a WebSocket passes: what the web server answers to the wish for one, and what comes back of
    /// what is then said.
    pub fn websocket(&self, who: &str) -> (String, String) {
        self.websocket_after(who, Duration::ZERO)
    }

    /// The same, with nothing said for a while.
    pub fn websocket_after(&self, who: &str, idle: Duration) -> (String, String) {
        let mut connection = self.connect(who);
        let status = connection.ask(
            "GET /socket HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        );
        let mut back = String::new();
        if status.contains(" 101 ") {
            std::thread::sleep(idle);
            let _ = connection.input.write_all(b"anybody there?\n");
            let _ = connection.output.read_line(&mut back);
        }
        (status, back)
    }

    /// What the page was told, as JSON; the request must have reached it.
    #[track_caller]
    pub fn page(&self, who: Option<&str>, path: &str, more: &[&str]) -> Value {
        let (status, body) = self.get(who, path, more);
        assert_eq!(status, 200, "{body}\n{}", self.service.log());
        serde_json::from_str(&body).unwrap_or_else(|error| panic!("{error}: {body}"))
    }
}

/// A connection over TLS.
#[derive(Debug)]
pub struct Connection {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Connection {
    /// Sends a request and reads the head of the answer: its first line is told, or nothing where the
    /// connection ended. A body of the length that it names is read, too.
    pub fn ask(&mut self, request: &str) -> String {
        let (mut status, mut line, mut length) = (String::new(), String::new(), 0);
        if self.input.write_all(request.as_bytes()).is_err() {
            return status;
        }
        let _ = self.output.read_line(&mut status);
        while self.output.read_line(&mut line).is_ok_and(|len| len > 2) {
            if let Some(text) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = text.trim().parse().expect("a length");
            }
            line.clear();
        }
        let _ = std::io::copy(&mut (&mut self.output).take(length), &mut std::io::sink());
        status
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The values of a header that a page was told, whatever its case.
pub fn values<'a>(page: &'a Value, name: &str) -> Vec<&'a str> {
    let headers = page["headers"].as_array().expect("a page tells its headers");
    let named = headers
        .iter()
        .filter(|header| header[0].as_str().is_some_and(|text| text.eq_ignore_ascii_case(name)));
    named.filter_map(|header| header[1].as_str()).collect()
}

impl Drop for Site {
    fn drop(&mut self) {
        self.proxy.as_mut().into_iter().for_each(end);
    }
}

/// Ends a web server: nginx and Apache have workers, which end with their master when that is asked.
fn end(server: &mut Child) {
    let pid = rustix::process::Pid::from_child(server);
    let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
    let deadline = Instant::now() + Duration::from_secs(5);
    while Instant::now() < deadline {
        if let Ok(Some(_)) = server.try_wait() {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let _ = server.kill();
    let _ = server.wait();
}

/// `[sidecar]` with the TLS-terminating proxy.
fn own(address: SocketAddr, more: &str, upstream: &str) -> String {
    format!(
        "[sidecar]\n{more}\n[sidecar.proxy]\nlisten = \"{address}\"\n\
         certificate = \"certs/site.pem\"\nkey = \"certs/site.key\"\n{upstream}\n\
         client_certificates = \"optional\""
    )
}

/// nginx as an application: it ends with this value.
#[derive(Debug)]
pub struct Nginx(Child);

impl Nginx {
    /// Serves these `server` blocks in a folder of its own, and waits until it listens at an address.
    pub fn start(folder: &Path, servers: &str, address: SocketAddr) -> Self {
        fs::write(folder.join("site.conf"), servers).expect("the folder is ours");
        let is_root = rustix::process::geteuid().is_root();
        let configuration = folder.join("nginx.conf");
        fs::write(&configuration, nginx(folder, is_root)).expect("the folder is ours");
        let (prefix, log) = (folder.display().to_string(), folder.join("nginx.log"));
        let mut command = Command::new("/usr/sbin/nginx");
        command.args(["-p", &prefix, "-g", "daemon off;", "-c"]).arg(configuration).arg("-e").arg(&log);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().expect("nginx is installed: tests/peers/install");
        let mut nginx = Self(child);
        let deadline = Instant::now() + PATIENCE;
        while TcpStream::connect(address).is_err() {
            let log = fs::read_to_string(&log).unwrap_or_default();
            let ended = nginx.0.try_wait().expect("it is ours");
            assert!(ended.is_none() && Instant::now() < deadline, "nginx does not listen: {ended:?}\n{log}");
            std::thread::sleep(Duration::from_millis(10));
        }
        nginx
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        end(&mut self.0);
    }
}

/// `[sidecar]` for a web server.
fn listener(
    server: WebServer,
    demo: &Demo,
    more: &str,
    address: SocketAddr,
    application: SocketAddr,
) -> String {
    if server == WebServer::Own {
        return own(address, more, &format!("upstream = \"http://{application}\""));
    }
    let place = match server {
        WebServer::Traefik => {
            let secret = rcmpd::quickstart::random_password().expect("randomness");
            write_secret(demo.path("sidecar.secret"), secret);
            format!("address = \"{}\"\nsecret = \"file:sidecar.secret\"", free_port())
        }
        _ => format!("unix = \"sidecar.sock\"\npeers = [{}]", askers()),
    };
    let upstream = match server {
        WebServer::Haproxy | WebServer::Apache => format!("upstream = \"http://{application}\""),
        WebServer::EnvoyHttp | WebServer::CaddyClientCert => "target = \"request\"".to_owned(),
        _ => String::new(),
    };
    let dialect = server.dialect();
    format!("[sidecar]\n{more}\n[[sidecar.listen]]\ndialect = \"{dialect}\"\n{place}\n{upstream}")
}

/// Web servers run as other users than the one who tests.
fn open(demo: &Demo) {
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(demo.path(""), mode).expect("the folder is ours");
}

/// What `rcmpd proxy-config` prints.
fn printed(
    server: WebServer,
    demo: &Demo,
    address: SocketAddr,
    application: SocketAddr,
    more: &[&str],
) -> String {
    // HAProxy wants the key beside the certificate.
    let certificate = match server {
        WebServer::Haproxy => {
            let read = |name: &str| fs::read_to_string(demo.path(name)).expect("the demo has it");
            let both = read("certs/site.pem") + &read("certs/site.key");
            fs::write(demo.path("certs/both.pem"), both).expect("the folder is ours");
            "certs/both.pem"
        }
        _ => "certs/site.pem",
    };
    let (listen, application) = (address.to_string(), application.to_string());
    let mut arguments = vec!["proxy-config", server.name(), "-c", "rcmpd.toml"];
    if !more.contains(&"--site") {
        arguments.extend(["--site", "localhost"]);
    }
    arguments.extend(more);
    arguments.extend([
        "--listen",
        &listen,
        "--certificate",
        certificate,
        "--key",
        "certs/site.key",
        "--with-secret",
    ]);
    if !matches!(server, WebServer::Haproxy | WebServer::Apache) {
        arguments.extend(["--application", &application]);
    }
    demo.rcmpd(&arguments).code(0).stdout
}

fn start(server: WebServer, service: &Service, printed: &str, environment: &[(&str, &str)]) -> Child {
    let folder = service.path("");
    let at = |name: &str| service.path(name).display().to_string();
    let write = |name: &str, text: &str| fs::write(service.path(name), text).expect("the folder is ours");
    let is_root = rustix::process::geteuid().is_root();
    let mut command = match server {
        WebServer::Own => unreachable!("it is the service"),
        WebServer::Nginx => {
            write("site.conf", printed);
            write("nginx.conf", &nginx(&folder, is_root));
            let mut command = Command::new("/usr/sbin/nginx");
            command.args([
                "-p",
                &at(""),
                "-c",
                &at("nginx.conf"),
                "-e",
                &at("nginx.log"),
                "-g",
                "daemon off;",
            ]);
            command
        }
        WebServer::Haproxy => {
            // A user other than root stays, and root becomes the user that the demo's sidecar accepts.
            let (user, group) =
                if is_root { ("    user www-data\n", "    group www-data\n") } else { ("", "") };
            let text =
                printed.replacen("    user haproxy\n", user, 1).replacen("    group haproxy\n", group, 1);
            write("haproxy.cfg", &text);
            let mut command = Command::new("/usr/sbin/haproxy");
            command.args(["-db", "-f", &at("haproxy.cfg")]);
            command
        }
        WebServer::Apache => {
            write("apache.conf", &apache(&folder, printed, is_root));
            let mut command = Command::new("/usr/sbin/apache2");
            command.args(["-D", "FOREGROUND", "-f", &at("apache.conf")]);
            command
        }
        WebServer::Caddy | WebServer::CaddyClientCert => {
            write("Caddyfile", printed);
            let mut command = as_asked(web_tool("caddy"), service, is_root);
            let _ = fs::create_dir(service.path("caddy"));
            let mode = std::os::unix::fs::PermissionsExt::from_mode(0o777);
            fs::set_permissions(service.path("caddy"), mode).expect("the folder is ours");
            command.args(["run", "--adapter", "caddyfile", "--config", &at("Caddyfile")]);
            command
                .env("XDG_DATA_HOME", at("caddy"))
                .env("XDG_CONFIG_HOME", at("caddy"))
                .env("HOME", at("caddy"));
            command
        }
        WebServer::Envoy | WebServer::EnvoyHttp => {
            write("envoy.yaml", printed);
            let mut command = as_asked(crate::peers::envoy(), service, is_root);
            command.args(["--disable-hot-restart", "--concurrency", "1", "-c", &at("envoy.yaml")]);
            command
        }
        WebServer::Traefik => {
            let _ = fs::create_dir(service.path("sites"));
            write("sites/site.yaml", printed);
            write("traefik.yaml", &traefik(printed, &at("sites")));
            let mut command = Command::new(web_tool("traefik"));
            command.arg(format!("--configFile={}", at("traefik.yaml")));
            command
        }
    };
    let log = fs::File::create(service.path("proxy.log")).expect("the folder is ours");
    let errors = log.try_clone().expect("a file can be shared");
    command.current_dir(&folder).stdin(Stdio::null()).stdout(log).stderr(errors);
    command.envs(environment.iter().copied());
    command
        .spawn()
        .unwrap_or_else(|error| panic!("{} does not start ({error}): tests/peers/install", server.name()))
}

/// A program that has no way to become another user itself.
fn as_asked(program: PathBuf, service: &Service, is_root: bool) -> Command {
    if !is_root {
        return Command::new(program);
    }
    // Keys are read by the user that serves.
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    fs::set_permissions(service.path("certs/site.key"), mode).expect("the folder is ours");
    let mut command = Command::new("setpriv");
    command.args(["--reuid=www-data", "--regid=www-data", "--clear-groups"]).arg(program);
    command
}

/// The rest of nginx's configuration.
fn nginx(folder: &Path, is_root: bool) -> String {
    let user = if is_root { "user www-data;\n" } else { "" };
    let folder = folder.display();
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .iter()
        .map(|name| format!("  {name}_temp_path {folder}/{name};\n"))
        .collect();
    format!(
        "{user}worker_processes 1;\npid {folder}/nginx.pid;\nerror_log {folder}/nginx.log;\nevents {{}}\nhttp {{\n  access_log off;\n{temporary}  include {folder}/site.conf;\n}}\n"
    )
}

/// The rest of Apache's.
fn apache(folder: &Path, printed: &str, is_root: bool) -> String {
    let modules: String = ["mpm_event", "authz_core", "ssl", "headers", "proxy", "proxy_http"]
        .iter()
        .map(|name| format!("LoadModule {name}_module /usr/lib/apache2/modules/mod_{name}.so\n"))
        .collect();
    let user = if is_root { "User www-data\nGroup www-data\n" } else { "" };
    let folder = folder.display();
    format!(
        "{modules}{user}ServerRoot {folder}\nPidFile {folder}/apache.pid\nDefaultRuntimeDir {folder}\nErrorLog {folder}/apache.log\nStartServers 1\nServerName localhost\n{printed}\n"
    )
}

/// What `rcmpd proxy-config` prints where certificates and sockets are in a folder with an odd name.
#[derive(Debug)]
pub struct Printed {
    server: WebServer,
    address: SocketAddr,
    /// How the command ended.
    pub done: Finished,
}

impl Printed {
    /// Prints it for a folder of a demo, which is made.
    pub fn in_folder(server: WebServer, demo: &Demo, folder: &str) -> Self {
        let at = |name: &str| format!("{folder}/{name}");
        fs::create_dir(demo.path(folder)).expect("the folder is ours");
        for name in ["site.pem", "site.key", "ca.pem"] {
            fs::copy(demo.path("certs").join(name), demo.path(&at(name))).expect("the folder is ours");
        }
        // HAProxy wants the key beside the certificate.
        let both = ["site.pem", "site.key"]
            .map(|name| fs::read_to_string(demo.path(&at(name))).expect("it is there"));
        fs::write(demo.path(&at("both.pem")), both.concat()).expect("the folder is ours");
        let text = |text: &str| Value::from(text).to_string();
        let place = match server {
            WebServer::Traefik => {
                write_secret(demo.path("sidecar.secret"), "s3cret-of-the-sidecar");
                "address = \"127.0.0.1:9482\"\nsecret = \"file:sidecar.secret\"".to_owned()
            }
            _ => format!("unix = {}\npeers = [{}]", text(&at("s.sock")), askers()),
        };
        let upstream = match server {
            WebServer::Haproxy | WebServer::Apache => "upstream = \"http://127.0.0.1:8080\"".to_owned(),
            WebServer::CaddyClientCert => "target = \"request\"".to_owned(),
            _ => String::new(),
        };
        demo.configure(&format!(
            "[sidecar]\n[[sidecar.listen]]\ndialect = \"{}\"\n{place}\n{upstream}",
            server.dialect()
        ));
        let address = free_port();
        let certificate = at(if server == WebServer::Haproxy { "both.pem" } else { "site.pem" });
        let done = demo.rcmpd(&[
            "proxy-config",
            server.name(),
            "-c",
            "rcmpd.toml",
            "--with-secret",
            "--site",
            "localhost",
            "--listen",
            &address.to_string(),
            "--certificate",
            &certificate,
            "--key",
            &at("site.key"),
            "--client-ca",
            &at("ca.pem"),
        ]);
        Self { server, address, done }
    }

    /// The web server's own check, which reads the files that are named.
    pub fn checked(&self, demo: &Demo) -> Finished {
        let at = |name: &str| demo.path(name).display().to_string();
        let write = |name: &str, text: &str| fs::write(demo.path(name), text).expect("the folder is ours");
        let printed = &self.done.stdout;
        let command = match self.server {
            WebServer::Own => unreachable!("it is the service"),
            WebServer::Nginx => {
                write("site.conf", printed);
                write("nginx.conf", &nginx(&demo.path(""), false));
                let mut command = Command::new("/usr/sbin/nginx");
                command.args(["-t", "-p", &at(""), "-c", &at("nginx.conf"), "-e", &at("nginx.log")]);
                command
            }
            WebServer::Haproxy => {
                write("haproxy.cfg", printed);
                let mut command = Command::new("/usr/sbin/haproxy");
                command.args(["-c", "-f", &at("haproxy.cfg")]);
                command
            }
            WebServer::Apache => {
                write("apache.conf", &apache(&demo.path(""), printed, false));
                let mut command = Command::new("/usr/sbin/apache2");
                command.args(["-t", "-f", &at("apache.conf")]);
                command
            }
            WebServer::Caddy | WebServer::CaddyClientCert => {
                write("Caddyfile", printed);
                let mut command = Command::new(web_tool("caddy"));
                command.args(["validate", "--adapter", "caddyfile", "--config", &at("Caddyfile")]);
                command.env("XDG_DATA_HOME", at("")).env("XDG_CONFIG_HOME", at("")).env("HOME", at(""));
                command
            }
            WebServer::Envoy | WebServer::EnvoyHttp => {
                write("envoy.yaml", printed);
                let mut command = Command::new(crate::peers::envoy());
                command.args(["--mode", "validate", "-c", &at("envoy.yaml")]);
                command
            }
            WebServer::Traefik => return self.served(demo),
        };
        finish(command)
    }

    /// Traefik has no check of its configuration. It serves a certificate of its own if it cannot read the
    /// one that is named.
    fn served(&self, demo: &Demo) -> Finished {
        let at = |name: &str| demo.path(name).display().to_string();
        let write = |name: &str, text: &str| fs::write(demo.path(name), text).expect("the folder is ours");
        fs::create_dir(demo.path("sites")).expect("the folder is ours");
        write("sites/site.yaml", &self.done.stdout);
        write("traefik.yaml", &traefik(&self.done.stdout, &at("sites")));
        let log = fs::File::create(demo.path("proxy.log")).expect("the folder is ours");
        let mut command = Command::new(web_tool("traefik"));
        command
            .arg(format!("--configFile={}", at("traefik.yaml")))
            .stdin(Stdio::null())
            .stderr(Stdio::null());
        let mut server = command.stdout(log).spawn().expect("traefik starts: tests/peers/install");
        let deadline = Instant::now() + PATIENCE;
        let asked = loop {
            let mut curl = Command::new("curl");
            curl.args(["--silent", "--show-error", "--max-time", "10", "--cacert", &at("certs/ca.pem")]);
            curl.arg(format!("https://localhost:{}/", self.address.port()));
            let mut asked = finish(curl);
            if asked.code == 0 || Instant::now() > deadline {
                asked.stderr += &fs::read_to_string(demo.path("proxy.log")).unwrap_or_default();
                break asked;
            }
            std::thread::sleep(Duration::from_millis(100));
        };
        end(&mut server);
        asked
    }
}

/// Traefik's static configuration: what is printed has it in comments.
fn traefik(printed: &str, sites: &str) -> String {
    let lines = printed.lines().filter_map(|line| line.strip_prefix("#   "));
    let lines = lines.map(|line| line.replace("/etc/traefik/sites", sites) + "\n");
    lines.collect::<String>() + "global: { checkNewVersion: false, sendAnonymousUsage: false }\n"
}
