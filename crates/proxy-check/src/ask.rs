//! Requests as bytes, with whatever a well-behaved client would never send.

use super::proxy::Proxy;

/// A request. Lines stand in it as they are.
#[derive(Clone, Debug)]
pub(super) struct Ask {
    method: &'static str,
    target: String,
    version: &'static str,
    hosts: Vec<String>,
    lines: Vec<String>,
    body: Vec<u8>,
}

impl Ask {
    /// GET for the URL.
    pub(super) fn new(proxy: &Proxy) -> Self {
        Self {
            method: "GET",
            target: proxy.path.clone(),
            version: "HTTP/1.1",
            hosts: vec![proxy.authority.clone()],
            lines: vec!["Accept: application/json".to_owned(), "User-Agent: rcmpd".to_owned()],
            body: Vec::new(),
        }
    }

    pub(super) fn method(mut self, method: &'static str) -> Self {
        self.method = method;
        self
    }

    pub(super) fn target(mut self, target: impl Into<String>) -> Self {
        self.target = target.into();
        self
    }

    pub(super) fn version(mut self, version: &'static str) -> Self {
        self.version = version;
        self
    }

    /// Any number of hosts.
    pub(super) fn hosts(mut self, hosts: &[&str]) -> Self {
        self.hosts = hosts.iter().map(|host| (*host).to_owned()).collect();
        self
    }

    pub(super) fn line(mut self, line: impl Into<String>) -> Self {
        self.lines.push(line.into());
        self
    }

    pub(super) fn lines(mut self, lines: impl IntoIterator<Item = String>) -> Self {
        self.lines.extend(lines);
        self
    }

    /// What follows the head; no line about its length is added.
    pub(super) fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    /// The bytes, with `Connection: close` unless a line says what becomes of the connection.
    pub(super) fn bytes(&self) -> Vec<u8> {
        let Self { method, target, version, .. } = self;
        let mut text = format!("{method} {target} {version}\r\n");
        for host in &self.hosts {
            text.push_str(&format!("Host: {host}\r\n"));
        }
        for line in &self.lines {
            text.push_str(&format!("{line}\r\n"));
        }
        if !self.lines.iter().any(|line| line.starts_with("Connection:")) {
            text.push_str("Connection: close\r\n");
        }
        text.push_str("\r\n");
        let mut bytes = text.into_bytes();
        bytes.extend_from_slice(&self.body);
        bytes
    }
}
