//! Complete configurations of web servers for a sidecar, written from the headers that it advertises.
//!
//! A template has `{{name}}` for values, which are filled in once: a value that has `{{` in it stays as it
//! is. A web server has the lines between `{{#once}}` and `{{/once}}` once for all sites. The lines between
//! `{{#beside}}` and `{{/beside}}` are printed instead if another site has them already.

mod blocks;
mod quote;

pub use quote::Unprintable;

use crate::headers::Format;
use crate::routes::route_host;
use blocks::blocks;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::Path;

/// A web server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WebServer {
    /// nginx, with `auth_request`.
    Nginx,
    /// Envoy, with `ext_authz` over gRPC.
    Envoy,
    /// Envoy, with `ext_authz` over HTTP.
    EnvoyHttp,
    /// HAProxy, in front of the sidecar.
    Haproxy,
    /// Traefik, with ForwardAuth.
    Traefik,
    /// Caddy, with `forward_auth`.
    Caddy,
    /// Caddy, with `forward_auth` and `Client-Cert` (RFC 9440).
    CaddyClientCert,
    /// Apache, in front of the sidecar.
    Apache,
}

/// Where the sidecar listens for this web server.
#[derive(Clone, Copy, Debug)]
pub enum Reached<'a> {
    /// On a Unix socket.
    Unix(&'a Path),
    /// On a TCP port.
    Tcp(SocketAddr),
}

/// A certificate that a proxy shows to the sidecar, and the CA by which it verifies the sidecar's.
#[derive(Clone, Copy, Debug)]
pub struct ProxyTls<'a> {
    /// Its certificate.
    pub certificate: &'a str,
    /// Its key.
    pub key: &'a str,
    /// Who certified the sidecar.
    pub ca: &'a str,
}

/// What a configuration is about.
#[derive(Clone, Copy, Debug)]
pub struct Site<'a> {
    /// Where the sidecar is.
    pub sidecar: Reached<'a>,
    /// The listener's secret, where it has one.
    pub secret: Option<&'a str>,
    /// TLS towards the sidecar.
    pub tls: Option<ProxyTls<'a>>,
    /// What is advertised.
    pub format: &'a Format,
    /// The cookie of tickets, where the sidecar has them.
    pub ticket: Option<&'a str>,
    /// Where the web server listens.
    pub listen: SocketAddr,
    /// Its name.
    pub server_name: &'a str,
    /// Its certificate with the chain; HAProxy's has the key, too.
    pub certificate: &'a str,
    /// Its key.
    pub key: &'a str,
    /// The CAs of client certificates, issuing ones included: a client may send its own certificate alone.
    pub client_ca: &'a str,
    /// Whether the sidecar validates certificates. If it does, a web server need not reject what `[mapping]`
    /// accepts.
    pub is_validated: bool,
    /// Whether the web server has another of these sites, and with it what it has once.
    pub is_beside: bool,
    /// The application, as `HOST:PORT` or `unix:PATH`.
    pub application: &'a str,
}

impl WebServer {
    /// The configuration. Paths are quoted as this web server reads them; what it cannot be made to read is
    /// refused, as is a name that no request has.
    pub fn configuration(self, site: &Site<'_>) -> Result<String, Unprintable> {
        let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-.".contains(&byte);
        if !site.server_name.bytes().all(is_name) || route_host(site.server_name).is_err() {
            return Err(Unprintable::new(
                site.server_name,
                "this is no name of a host: write it as in app.example, without a port and a dot at the end",
            ));
        }
        let (certificate, key) = (self.file(site.certificate)?, self.file(site.key)?);
        let client_ca = self.file(site.client_ca)?;
        let socket =
            |before: &str, path: &Path, after: &str| self.socket(before, &path.display().to_string(), after);
        let (template, sidecar) = match (self, site.sidecar) {
            (Self::Nginx, Reached::Unix(path)) => (include_str!("nginx.conf"), socket("unix:", path, "")?),
            (Self::Nginx, Reached::Tcp(address)) => (include_str!("nginx.conf"), address.to_string()),
            (Self::Caddy | Self::CaddyClientCert, Reached::Unix(path)) => {
                (include_str!("Caddyfile"), socket("unix/", path, "")?)
            }
            (Self::Caddy | Self::CaddyClientCert, Reached::Tcp(address)) => {
                (include_str!("Caddyfile"), address.to_string())
            }
            (Self::Haproxy, Reached::Unix(path)) => (include_str!("haproxy.cfg"), socket("unix@", path, "")?),
            (Self::Haproxy, Reached::Tcp(address)) => (include_str!("haproxy.cfg"), address.to_string()),
            (Self::Apache, Reached::Unix(path)) => {
                (include_str!("apache.conf"), socket("unix:", path, "|http://localhost/")?)
            }
            (Self::Apache, Reached::Tcp(address)) => {
                (include_str!("apache.conf"), format!("http://{address}/"))
            }
            (Self::Traefik, Reached::Tcp(address)) => {
                let scheme = if site.tls.is_some() { "https" } else { "http" };
                (include_str!("traefik.yaml"), format!("{scheme}://{address}/"))
            }
            // Traefik reaches no Unix socket with ForwardAuth; the command refuses it.
            (Self::Traefik, Reached::Unix(path)) => {
                (include_str!("traefik.yaml"), socket("unix://", path, "")?)
            }
            (Self::Envoy | Self::EnvoyHttp, Reached::Unix(path)) => {
                (include_str!("envoy.yaml"), self.pipe_address(path)?)
            }
            (Self::Envoy | Self::EnvoyHttp, Reached::Tcp(address)) => {
                (include_str!("envoy.yaml"), socket_address(&address.to_string()))
            }
        };
        let (address, port) = (site.listen.ip().to_string(), site.listen.port().to_string());
        let listen = site.listen.to_string();
        let host = match site.listen.port() {
            443 => "$host".to_owned(),
            port => format!("$host:{port}"),
        };
        let application_address = match site.application.strip_prefix("unix:") {
            Some(path) => self.pipe_address(Path::new(path))?,
            None => socket_address(site.application),
        };
        let id = identifier(site.server_name);
        let blocks = blocks(self, site, &id)?;
        let plain = [
            ("id", id.as_str()),
            ("sidecar", &sidecar),
            ("listen", &listen),
            ("host", &host),
            ("address", &address),
            ("port", &port),
            ("server_name", site.server_name),
            ("certificate", &certificate),
            ("key", &key),
            ("client_ca", &client_ca),
            ("application", site.application),
            ("application_address", &application_address),
        ];
        let blocks = blocks.iter().map(|(name, block)| (*name, block.as_str()));
        Ok(filled(&parts(template, site.is_beside), &blocks.chain(plain).collect()))
    }

    /// The address of a Unix socket, for Envoy.
    fn pipe_address(self, path: &Path) -> Result<String, Unprintable> {
        Ok(format!("{{ pipe: {{ path: {} }} }}", self.socket("", &path.display().to_string(), "")?))
    }
}

/// Variables of nginx: the ticket of a request, and the other cookies. A name of a cookie has no character
/// that a regular expression reads as another one.
fn nginx_cookies(name: &str, id: &str) -> String {
    format!(
        "\n# The ticket of the sidecar, and the cookies without it. Of two tickets none counts, and the application gets no cookie: a browser sends one.\n\
         map $http_cookie $rcmpd_ticket_{id} {{\n\
         \x20   default \"\";\n\
         \x20   \"~(?:^|;)\\s*{name}=.*;\\s*{name}=\" \"\";\n\
         \x20   \"~(?:^|;)\\s*({name}=[^;]*)\" $1;\n\
         }}\n\n\
         map $http_cookie $rcmpd_cookies_{id} {{\n\
         \x20   default $http_cookie;\n\
         \x20   \"~*(?:^|;)\\s*{name}\\s*=.*;\\s*{name}\\s*=\" \"\";\n\
         \x20   \"~*^\\s*{name}\\s*=[^;]*(?:;\\s*)?(.*)$\" $1;\n\
         \x20   \"~*^(.*);\\s*{name}\\s*=[^;]*(.*)$\" $1$2;\n\
         }}\n"
    )
}

/// A template with its values filled in, in one pass: a value that looks like the name of another one stays
/// as it is.
fn filled(template: &str, values: &HashMap<&str, &str>) -> String {
    let mut text = String::with_capacity(template.len() * 2);
    let mut rest = template;
    while let Some((before, name, after)) = rest.split_once("{{").and_then(|(before, rest)| {
        let (name, after) = rest.split_once("}}")?;
        Some((before, name, after))
    }) {
        text.push_str(before);
        match values.get(name) {
            Some(value) => text.push_str(value),
            // A test looks that no template has such a name.
            None => text.extend(["{{", name, "}}"]),
        }
        rest = after;
    }
    text + rest
}

/// The parts of a template that stand for a web server's first site, or for one beside another.
fn parts(template: &str, is_beside: bool) -> String {
    let mut text = String::with_capacity(template.len());
    let mut is_left_out = false;
    for line in template.lines() {
        match line {
            "{{#once}}" => is_left_out = is_beside,
            "{{#beside}}" => is_left_out = !is_beside,
            "{{/once}}" | "{{/beside}}" => is_left_out = false,
            _ if is_left_out => {}
            line => {
                text.push_str(line);
                text.push('\n');
            }
        }
    }
    text
}

/// A site's name as an identifier; no two names of hosts have the same.
fn identifier(server_name: &str) -> String {
    server_name.to_ascii_lowercase().replace('-', "__").replace('.', "_")
}

/// A name as people write headers.
pub fn title(name: &str) -> String {
    let mut words = name.split('-').map(|word| {
        let (first, rest) = word.split_at(1.min(word.len()));
        first.to_ascii_uppercase() + rest
    });
    let mut title = words.next().unwrap_or_default();
    words.for_each(|word| {
        title.push('-');
        title.push_str(&word);
    });
    title
}

/// A name with each hyphen as it is or as an underscore.
fn aliases(name: &str) -> Vec<String> {
    spellings(name, &["-", "_"])
}

/// A name with each hyphen as any of these.
fn spellings(name: &str, separators: &[&str]) -> Vec<String> {
    name.split('-').fold(Vec::new(), |known: Vec<String>, word| {
        if known.is_empty() {
            return vec![word.to_owned()];
        }
        let longer =
            |start: &String| separators.iter().map(|it| format!("{start}{it}{word}")).collect::<Vec<_>>();
        known.iter().flat_map(longer).collect()
    })
}

/// A regular expression for a name, in lower case, and for others that an application may take for it: CGI
/// folds all that is neither letter nor digit.
fn pattern(name: &str) -> String {
    name.to_lowercase().replace('-', "[^a-z0-9]")
}

/// Patterns with a star that cover names, and others that only differ by an underscore or a dot.
fn prefixes<'a>(names: impl Iterator<Item = &'a String>) -> Vec<String> {
    let mut patterns: Vec<String> = Vec::new();
    for name in names {
        let hyphens: Vec<usize> = name.match_indices('-').map(|(at, _)| at).collect();
        // With its first hyphens, then another separator, then anything.
        let aliases =
            hyphens.iter().flat_map(|at| ["_", "."].map(|separator| format!("{}{separator}*", &name[..*at])));
        for pattern in aliases.chain([name.clone()]) {
            if !patterns.contains(&pattern) {
                patterns.push(pattern);
            }
        }
    }
    patterns
}

/// An address of Envoy.
fn socket_address(authority: &str) -> String {
    let (host, port) = authority.rsplit_once(':').unwrap_or((authority, "80"));
    let host = host.trim_matches(['[', ']']);
    // YAML reads ::1 in a flow mapping as a text, and not every reader of YAML does.
    let host = if host.contains(':') { format!("\"{host}\"") } else { host.to_owned() };
    format!("{{ socket_address: {{ address: {host}, port_value: {port} }} }}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aliases_are_all_of_them() {
        assert_eq!(aliases("Host"), ["Host"]);
        assert_eq!(aliases("X-A-B"), ["X-A-B", "X-A_B", "X_A-B", "X_A_B"]);
        assert_eq!(
            prefixes(["X-A-B".to_owned(), "X-A-C".to_owned()].iter()),
            ["X_*", "X.*", "X-A_*", "X-A.*", "X-A-B", "X-A-C"]
        );
        assert_eq!(title("x-identity-sid"), "X-Identity-Sid");
    }

    const SERVERS: [WebServer; 8] = [
        WebServer::Nginx,
        WebServer::Envoy,
        WebServer::EnvoyHttp,
        WebServer::Haproxy,
        WebServer::Traefik,
        WebServer::Caddy,
        WebServer::CaddyClientCert,
        WebServer::Apache,
    ];

    fn printed(server: WebServer, format: &Format) -> String {
        server.configuration(&site(format)).expect("it can be printed")
    }

    fn site(format: &Format) -> Site<'_> {
        Site {
            sidecar: Reached::Unix(Path::new("/run/rcmpd/sidecar.sock")),
            secret: Some("s3cret"),
            tls: None,
            format,
            ticket: None,
            listen: SocketAddr::from(([127, 0, 0, 1], 8443)),
            server_name: "app.example",
            certificate: "/etc/app.pem",
            key: "/etc/app.key",
            client_ca: "/etc/ca.pem",
            is_validated: true,
            is_beside: false,
            application: "127.0.0.1:8080",
        }
    }

    /// nginx inherits `add_header` only where no other one stands (documentation of ngx_http_headers_module).
    #[test]
    fn nginx_is_printed_with_what_its_add_header_replaces() {
        let format = Format::default();
        let with = Site { ticket: Some("__Host-rcmpd"), ..site(&format) };
        let with = WebServer::Nginx.configuration(&with).expect("it can be printed");
        let (before, _) = with.split_once("\n        add_header ").expect("a ticket is set");
        let (_, location) = before.rsplit_once("location / {").expect("in the location of the application");
        assert!(location.contains("# as in: add_header Strict-Transport-Security"), "{location}");
        assert!(!printed(WebServer::Nginx, &format).contains("add_header"));
    }

    /// Each path of a site is quoted, and names that no request has are refused.
    #[test]
    fn paths_with_spaces_are_words() {
        let format = Format::default();
        let odd = Site {
            sidecar: Reached::Unix(Path::new("/run/s s.sock")),
            certificate: "/c c.pem",
            key: "/k k.pem",
            client_ca: "/a a.pem",
            ..site(&format)
        };
        for server in SERVERS {
            let text = server.configuration(&odd).expect("it can be printed");
            let paths = ["/c c.pem", "/k k.pem", "/a a.pem", "/run/s s.sock"];
            // HAProxy reads the key beside the certificate.
            for path in paths.iter().filter(|path| server != WebServer::Haproxy || **path != "/k k.pem") {
                let lines = text.lines().filter(|line| line.contains(path)).collect::<Vec<_>>();
                let is_word = |line: &&str| {
                    let (before, after) = line.split_once(path).expect("it is there");
                    before.matches(['"', '\'', '`']).count() % 2 == 1 && after.contains(['"', '\'', '`'])
                };
                assert!(!lines.is_empty() && lines.iter().all(is_word), "{server:?} {path}: {lines:?}");
            }
            for name in ["", "app.example.", "*.example", "a b", "a..b", "app.example:443"] {
                let refused = server.configuration(&Site { server_name: name, ..site(&format) });
                assert!(refused.is_err_and(|why| why.to_string().contains("no name of a host")), "{name}");
            }
        }
    }

    /// A path may look like a name of the template: it is a path.
    #[test]
    fn values_are_not_filled_in_again() {
        let format = Format::default();
        let odd = Site { certificate: "/{{key}}.pem", client_ca: "/{{application}}/ca.pem", ..site(&format) };
        for server in [WebServer::Nginx, WebServer::Apache, WebServer::Haproxy, WebServer::Envoy] {
            let text = server.configuration(&odd).expect("it can be printed");
            assert!(
                text.contains("/{{key}}.pem") && text.contains("/{{application}}/ca.pem"),
                "{server:?}: {text}"
            );
        }
    }

    /// Envoy's `Address` (config.core.v3) is a `socket_address` or a `pipe`.
    #[test]
    fn an_application_at_a_unix_socket_is_a_pipe_of_envoy() {
        let format = Format::default();
        let of = |application| {
            let site = Site { application, ..site(&format) };
            let text = WebServer::EnvoyHttp.configuration(&site).expect("it can be printed");
            let line = text.lines().rfind(|line| line.contains("endpoints: [{"));
            line.expect("the last cluster is the application").trim().to_owned()
        };
        let endpoint = |address: &str| {
            format!("endpoints: [{{ lb_endpoints: [{{ endpoint: {{ address: {address} }} }}] }}]")
        };
        assert_eq!(of("unix:/run/app.sock"), endpoint("{ pipe: { path: /run/app.sock } }"));
        assert_eq!(of("unix:/run/my app/s.sock"), endpoint("{ pipe: { path: \"/run/my app/s.sock\" } }"));
        assert_eq!(
            of("127.0.0.1:8080"),
            endpoint("{ socket_address: { address: 127.0.0.1, port_value: 8080 } }")
        );
        assert_eq!(of("[::1]:80"), endpoint("{ socket_address: { address: \"::1\", port_value: 80 } }"));
    }

    #[test]
    fn nothing_is_left_to_fill_in() {
        for server in SERVERS {
            let text = printed(server, &Format::default());
            assert!(!text.contains("{{"), "{server:?}: {text}");
            assert!(
                text.contains("s3cret") && text.contains("/run/rcmpd/sidecar.sock"),
                "{server:?}: {text}"
            );
        }
    }

    /// A web server that asks beside its requests takes a client's copies away under the new name and the
    /// usual one. Behind the others the sidecar does.
    #[test]
    fn names_of_the_operator_are_written() {
        use crate::headers::{Meaning, custom_name};
        let name = custom_name("X-WEBAUTH-USER").expect("a name");
        let format = Format { names: [(Meaning::User, name)].into(), ..Format::default() };
        for server in SERVERS.into_iter().filter(|it| !matches!(it, WebServer::Haproxy | WebServer::Apache)) {
            let text = printed(server, &format).to_lowercase();
            let taken = match server {
                WebServer::Nginx => "proxy_set_header x-webauth-user $rcmpd_x_webauth_user;",
                WebServer::Envoy => "x[^a-z0-9]webauth[^a-z0-9]user",
                WebServer::EnvoyHttp => "{ exact: x-webauth-user }",
                WebServer::Traefik => "          - x-webauth-user\n",
                _ => "\t\t\t\tx-webauth-user\n",
            };
            let dropped = match server {
                WebServer::Nginx => "proxy_set_header remote-user \"\";",
                WebServer::Envoy | WebServer::EnvoyHttp => "remote[^a-z0-9]user",
                WebServer::Traefik => "          remote_user: \"\"\n",
                _ => "request_header -remote-user\n",
            };
            for line in [taken, dropped] {
                assert!(text.contains(line), "{server:?}: no {line:?} in {text}");
            }
            assert!(
                !text.contains("$upstream_http_remote_user") && !text.contains("{ exact: remote-user }"),
                "{text}"
            );
        }
    }
}
