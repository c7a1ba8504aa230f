//! Requests by which a proxy may reach the page and not ask.

use super::Run;
use super::ask::Ask;
use super::findings::{Seen, Tally};
use super::proxy::Outcome;
use super::wire::Incoming;

/// A name that no host has (RFC 6761, section 6.4).
pub(super) const OTHER_HOST: &str = "elsewhere.invalid";

/// Paths below the page that configurations of web servers have locations of their own for.
const NESTED: [&str; 14] = [
    "/x/y",
    "/x.php",
    "/x.js",
    "/x.css",
    "/x.png",
    "/x.html",
    "/static/x",
    "/assets/x",
    "/api/x",
    "/public/x",
    "/health",
    "/favicon.ico",
    "/robots.txt",
    "/.well-known/x",
];

impl Run {
    /// Sends requests with and without the certificate.
    async fn both_ways(&self, asks: Vec<(String, Ask)>) -> Tally {
        let mut tally = Tally::default();
        for (label, ask) in asks {
            let outcome = self.ask(&self.us, &ask).await;
            tally.add(&format!("{label}, with the certificate"), self.ours(&outcome));
            let outcome = self.ask(&self.anonymous, &ask).await;
            tally.add(&label, self.rejected(&outcome));
        }
        tally
    }

    pub(super) async fn paths(&self) -> Tally {
        let path = self.proxy.path.trim_start_matches('/');
        let authority = &self.proxy.authority;
        let targets = [
            format!("//{path}"),
            format!("/./{path}"),
            format!("/%2e%2e/{path}"),
            format!("/%2e/{path}"),
            format!("/x/../{path}"),
            format!("/x/..;/{path}"),
            format!("/x/..%2f{path}"),
            format!("/x%2f..%2f{path}"),
            format!("/;x/{path}"),
            format!("/\\{path}"),
            format!("/{path}%00"),
            format!("/{path}?"),
            format!("/{path}#x"),
            format!("https://{authority}/{path}"),
            format!("http://{authority}/{path}"),
            format!("https://{OTHER_HOST}/{path}"),
            path.to_owned(),
            "*".to_owned(),
        ];
        let targets = targets.into_iter().filter(|target| !target.is_empty());
        let mut tally =
            self.both_ways(targets.map(|target| (target.clone(), self.get().target(target))).collect()).await;
        // Paths that web servers have rules of their own for: files by their endings, folders, probes. `rcmpd
        // page` is at each of them.
        if self.baseline.is_some() {
            let below = self.proxy.path.split('?').next().unwrap_or_default().trim_end_matches('/');
            let nested = NESTED.iter().map(|path| format!("{below}{path}"));
            let at_root = NESTED.iter().filter(|_| !below.is_empty()).map(|path| (*path).to_owned());
            for target in nested.chain(at_root).collect::<Vec<_>>() {
                self.at(&target, &mut tally).await;
            }
        }
        tally
    }

    /// Paths that the operator gave.
    pub(super) async fn other_paths(&self) -> Tally {
        let mut tally = Tally::default();
        if self.paths.is_empty() {
            tally.note("no --path is given");
        }
        for path in &self.paths {
            self.at(path, &mut tally).await;
            let target = || self.get().target(path.as_str());
            tally.add(
                &format!("{path} with a certificate of another CA"),
                self.rejected(&self.ask(&self.twin, &target()).await),
            );
            for (dialect, lines) in Self::dialects(&self.certificate) {
                let outcome = self.ask(&self.anonymous, &target().lines(lines)).await;
                tally.add(&format!("{path} with a certificate for {dialect}"), self.rejected(&outcome));
            }
        }
        tally
    }

    /// The main questions at another path, whose rules may be others: without a certificate, and with
    /// identity headers beside it.
    async fn at(&self, target: &str, tally: &mut Tally) {
        let ask = || self.get().target(target);
        let forged = || ask().lines(self.names.iter().map(|name| format!("{name}: {}", self.nonce)));
        tally.add(target, self.rejected(&self.ask(&self.anonymous, &ask()).await));
        let outcome = self.ask(&self.anonymous, &forged()).await;
        tally.add(&format!("{target} with identity headers"), self.rejected(&outcome));
        for (label, ask) in [("the certificate", ask()), ("the certificate and identity headers", forged())] {
            let outcome = self.ask(&self.us, &ask).await;
            tally.add(&format!("{target} with {label}"), self.ours(&outcome));
        }
    }

    pub(super) async fn hosts(&self) -> Tally {
        let own = self.proxy.authority.as_str();
        let bare = own.rsplit_once(':').map_or(own, |(bare, _)| bare);
        let dotted = format!("{bare}.");
        let upper = own.to_ascii_uppercase();
        let address = format!("{}:{}", self.proxy.connect.0, self.proxy.connect.1);
        let hosts: [(&str, &[&str]); 9] = [
            ("another host", &[OTHER_HOST]),
            ("localhost", &["localhost"]),
            ("its address", &[&address]),
            ("no host", &[]),
            ("an empty host", &[""]),
            ("two hosts, its own first", &[own, OTHER_HOST]),
            ("two hosts, its own last", &[OTHER_HOST, own]),
            ("with a dot", &[&dotted]),
            ("in upper case", &[&upper]),
        ];
        let asks = hosts.iter().map(|(label, hosts)| ((*label).to_owned(), self.get().hosts(hosts)));
        let mut tally = self.both_ways(asks.collect()).await;
        // Of the two the one in the target counts (RFC 9112, section 3.2.2), and the application is told no
        // other.
        let whole = self.get().target(format!("https://{own}{}", self.proxy.path)).hosts(&[OTHER_HOST]);
        let outcome = self.ask(&self.us, &whole).await;
        let told = match &outcome {
            Outcome::Answered(answer) => answer.told.as_ref(),
            _ => None,
        };
        let seen = match told.is_some_and(|told| told.values("host").contains(&OTHER_HOST)) {
            true => Seen::Leak("the application is told another host than the sidecar".to_owned()),
            false => self.ours(&outcome),
        };
        tally.add("a whole URL beside another host, with the certificate", seen);
        tally
    }

    pub(super) async fn methods(&self) -> Tally {
        let mut tally = Tally::default();
        let get = || self.get();
        let mut asks = vec![
            ("OPTIONS", get().method("OPTIONS")),
            (
                "a preflight",
                get()
                    .method("OPTIONS")
                    .line("Origin: https://elsewhere.invalid")
                    .line("Access-Control-Request-Method: GET"),
            ),
            ("HEAD", get().method("HEAD")),
            ("TRACE", get().method("TRACE")),
            ("get", get().method("get")),
            ("GET with a body", get().line("Content-Length: 1").body("x")),
            ("HTTP/1.0 without Host", get().version("HTTP/1.0").hosts(&[])),
            (
                "Upgrade: websocket",
                get()
                    .line("Connection: Upgrade")
                    .line("Upgrade: websocket")
                    .line("Sec-WebSocket-Version: 13")
                    .line("Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA=="),
            ),
            (
                "Upgrade: h2c",
                get()
                    .line("Connection: Upgrade, HTTP2-Settings")
                    .line("Upgrade: h2c")
                    .line("HTTP2-Settings: AAMAAABkAAQAAP__"),
            ),
        ];
        match self.baseline {
            // Whatever another page does with these is not ours to try.
            None => tally.note("POST, PUT, DELETE and PURGE are not sent to another page"),
            Some(_) => asks.extend([
                ("POST", get().method("POST").line("Content-Length: 1").body("x")),
                (
                    "POST in chunks",
                    get().method("POST").line("Transfer-Encoding: chunked").body("1\r\nx\r\n0\r\n\r\n"),
                ),
                (
                    "Expect: 100-continue",
                    get().method("POST").line("Expect: 100-continue").line("Content-Length: 1").body("x"),
                ),
                ("PUT", get().method("PUT").line("Content-Length: 1").body("x")),
                ("DELETE", get().method("DELETE")),
                ("PURGE", get().method("PURGE")),
                ("PROPFIND", get().method("PROPFIND").line("Content-Length: 0")),
                (
                    "X-HTTP-Method-Override",
                    get().method("POST").line("X-HTTP-Method-Override: OPTIONS").line("Content-Length: 0"),
                ),
            ]),
        }
        for (label, ask) in asks {
            let outcome = self.ask(&self.anonymous, &ask).await;
            // Who switches to another protocol answers no more.
            let seen = match &outcome {
                Outcome::Answered(answer) if answer.status == 101 => {
                    Seen::Leak("the connection is handed over".to_owned())
                }
                outcome => self.rejected(outcome),
            };
            tally.add(label, seen);
        }
        tally
    }

    pub(super) async fn plain_http(&self) -> Tally {
        let mut tally = Tally::default();
        for port in [self.proxy.connect.1, self.plain_port] {
            let label = format!("port {port}");
            let stream = match self.proxy.reach(port).await {
                Ok(stream) => stream,
                Err(_) => {
                    tally.note(format!("port {port} is closed"));
                    continue;
                }
            };
            let outcome = self.proxy.talk(&mut Incoming::new(stream), &self.get().bytes()).await;
            tally.add(&label, self.rejected(&outcome));
            for (dialect, lines) in Self::dialects(&self.certificate) {
                let Ok(stream) = self.proxy.reach(port).await else { continue };
                let forged = self.get().lines(lines).bytes();
                let outcome = self.proxy.talk(&mut Incoming::new(stream), &forged).await;
                tally.add(&format!("{label} with a certificate for {dialect}"), self.rejected(&outcome));
            }
        }
        tally
    }

    pub(super) async fn pipelining(&self) -> Tally {
        let mut tally = Tally::default();
        let keep = || self.get().line("Connection: keep-alive");
        let forged = self.get().lines(self.names.iter().map(|name| format!("{name}: {}", self.nonce)));

        let requests = [keep().bytes(), forged.bytes()].concat();
        if let Some((first, second)) = self.two(&self.us, &requests, &mut tally).await {
            tally.add("the first with the certificate", self.ours(&first));
            tally.add("the second, which forges an identity", self.ours(&second));
        }
        for (dialect, lines) in Self::dialects(&self.certificate) {
            let requests = [keep().bytes(), self.get().lines(lines).bytes()].concat();
            let Some((first, second)) = self.two(&self.anonymous, &requests, &mut tally).await else {
                continue;
            };
            tally.add("the first without a certificate", self.rejected_page(&first));
            let label = format!("the second, which forges a certificate for {dialect}");
            tally.add(&label, self.rejected_page(&second));
        }
        if self.baseline.is_none() {
            tally.note("nothing is hidden in bodies for another page");
            return tally;
        }
        let hidden = forged.bytes();
        let chunked = [b"0\r\n\r\n".as_slice(), &hidden].concat();
        let post = |lines: &[String], body: &[u8]| {
            self.get().method("POST").line("Connection: keep-alive").lines(lines.to_vec()).body(body).bytes()
        };
        let len = |len: usize| format!("Content-Length: {len}");
        let te = |value: &str| format!("Transfer-Encoding{value}");
        // What follows shows where the proxy takes the body to end, and that nothing is waited for.
        let follows = self.get().bytes();
        for (label, lines, body) in [
            ("hidden in a body", vec![len(hidden.len())], &hidden),
            ("hidden behind a last chunk", vec![len(chunked.len()), te(": chunked")], &chunked),
            ("the same with a space before the colon", vec![len(chunked.len()), te(" : chunked")], &chunked),
            (
                "the same with an unknown transfer coding",
                vec![len(chunked.len()), te(": xchunked")],
                &chunked,
            ),
            ("hidden behind a shorter length", vec![len(0), len(hidden.len())], &hidden),
            ("hidden behind a longer length", vec![len(hidden.len()), len(0)], &hidden),
        ] {
            let requests = [post(&lines, body), follows.clone()].concat();
            let Some((first, second)) = self.two(&self.us, &requests, &mut tally).await else { continue };
            tally.add(label, self.ours(&first));
            tally.add(&format!("{label}, what is answered then"), self.ours(&second));
        }
        tally
    }

    /// Sends bytes, and reads two answers.
    async fn two(
        &self,
        config: &std::sync::Arc<rustls::ClientConfig>,
        requests: &[u8],
        tally: &mut Tally,
    ) -> Option<(Outcome, Outcome)> {
        let mut secured = match self.proxy.open(config, None).await {
            Ok(secured) => secured,
            Err(outcome @ Outcome::Refused(_)) => {
                let is_us = std::sync::Arc::ptr_eq(config, &self.us);
                tally.add("the handshake", if is_us { self.ours(&outcome) } else { self.rejected(&outcome) });
                return None;
            }
            Err(outcome) => {
                tally.add("the connection", super::unanswered(&outcome));
                return None;
            }
        };
        let first = self.proxy.exchange(&mut secured, requests).await;
        let second = match &first {
            Outcome::Answered(_) => self.proxy.next(&mut secured).await,
            _ => Outcome::Refused("closed after the first".to_owned()),
        };
        Some((first, second))
    }
}
