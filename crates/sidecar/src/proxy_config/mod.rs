//! Complete configurations of web servers for a sidecar, written from what it advertises: what a person would forget is in them.

use crate::dialect::OWNED;
use crate::headers::{self, Format};
use std::fmt::Write;
use std::net::SocketAddr;
use std::path::Path;

/// A web server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WebServer {
    /// nginx, with `auth_request`.
    Nginx,
    /// Envoy, with `ext_authz` over gRPC.
    Envoy,
    /// HAProxy, in front of the sidecar.
    Haproxy,
    /// Traefik, with ForwardAuth.
    Traefik,
    /// Caddy, with `forward_auth`.
    Caddy,
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

/// A certificate that a proxy shows to the sidecar, and by whom that one's is verified.
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
    /// Where the web server listens.
    pub listen: SocketAddr,
    /// Its name.
    pub server_name: &'a str,
    /// Its certificate with the chain; HAProxy's has the key, too.
    pub certificate: &'a str,
    /// Its key.
    pub key: &'a str,
    /// Who certifies clients.
    pub client_ca: &'a str,
    /// The application, as `HOST:PORT`.
    pub application: &'a str,
}

impl WebServer {
    /// The configuration.
    pub fn configuration(self, site: &Site<'_>) -> String {
        let (template, sidecar) = match (self, site.sidecar) {
            (Self::Nginx, Reached::Unix(path)) => {
                (include_str!("nginx.conf"), format!("unix:{}", path.display()))
            }
            (Self::Nginx, Reached::Tcp(address)) => (include_str!("nginx.conf"), address.to_string()),
            (Self::Caddy, Reached::Unix(path)) => {
                (include_str!("Caddyfile"), format!("unix/{}", path.display()))
            }
            (Self::Caddy, Reached::Tcp(address)) => (include_str!("Caddyfile"), address.to_string()),
            (Self::Haproxy, Reached::Unix(path)) => {
                (include_str!("haproxy.cfg"), format!("unix@{}", path.display()))
            }
            (Self::Haproxy, Reached::Tcp(address)) => (include_str!("haproxy.cfg"), address.to_string()),
            (Self::Apache, Reached::Unix(path)) => {
                (include_str!("apache.conf"), format!("unix:{}|http://localhost/", path.display()))
            }
            (Self::Apache, Reached::Tcp(address)) => {
                (include_str!("apache.conf"), format!("http://{address}/"))
            }
            (Self::Traefik, Reached::Tcp(address)) => {
                let scheme = if site.tls.is_some() { "https" } else { "http" };
                (include_str!("traefik.yaml"), format!("{scheme}://{address}/"))
            }
            // Traefik reaches no Unix socket with ForwardAuth; whoever prints this is told so.
            (Self::Traefik, Reached::Unix(path)) => {
                (include_str!("traefik.yaml"), format!("unix://{}", path.display()))
            }
            (Self::Envoy, Reached::Unix(path)) => {
                (include_str!("envoy.yaml"), format!("{{ pipe: {{ path: {} }} }}", path.display()))
            }
            (Self::Envoy, Reached::Tcp(address)) => {
                (include_str!("envoy.yaml"), socket_address(&address.to_string()))
            }
        };
        let (address, port) = (site.listen.ip().to_string(), site.listen.port().to_string());
        let listen = site.listen.to_string();
        let host = match site.listen.port() {
            443 => "$host".to_owned(),
            port => format!("$host:{port}"),
        };
        let application_address = socket_address(site.application);
        let blocks = self.blocks(site);
        let plain = [
            ("sidecar", sidecar.as_str()),
            ("listen", &listen),
            ("host", &host),
            ("address", &address),
            ("port", &port),
            ("server_name", site.server_name),
            ("certificate", site.certificate),
            ("key", site.key),
            ("client_ca", site.client_ca),
            ("application", site.application),
            ("application_address", &application_address),
        ];
        let blocks = blocks.iter().map(|(name, block)| (*name, block.as_str()));
        plain
            .into_iter()
            .chain(blocks)
            .fold(template.to_owned(), |text, (name, value)| text.replace(&format!("{{{{{name}}}}}"), value))
    }

    /// The parts that depend on what is advertised.
    fn blocks(self, site: &Site<'_>) -> Vec<(&'static str, String)> {
        let advertised: Vec<String> = site.format.advertised().map(|name| title(name.as_str())).collect();
        let known: Vec<String> = headers::known().map(|name| title(name.as_str())).collect();
        let owned: Vec<String> = OWNED.iter().map(|name| title(name)).collect();
        let secret_name = "X-Sidecar-Secret".to_owned();
        let lines = |names: &[String], line: &dyn Fn(&String) -> String| {
            names.iter().fold(String::new(), |mut text, name| {
                let _ = writeln!(text, "{}", line(name));
                text
            })
        };
        let secret =
            |line: &dyn Fn(&str) -> String| site.secret.map(|secret| line(secret) + "\n").unwrap_or_default();
        match self {
            Self::Nginx => {
                let variable = |name: &String| format!("$rcmpd_{}", name.to_lowercase().replace('-', "_"));
                let upstream =
                    |name: &String| format!("$upstream_http_{}", name.to_lowercase().replace('-', "_"));
                let others = known.into_iter().filter(|name| !advertised.contains(name));
                let dropped: Vec<String> = others.chain(owned).chain([secret_name]).collect();
                vec![
                    (
                        "take",
                        lines(&advertised, &|name| {
                            format!("        auth_request_set {} {};", variable(name), upstream(name))
                        }),
                    ),
                    (
                        "give",
                        lines(&advertised, &|name| {
                            format!("        proxy_set_header {name} {};", variable(name))
                        }),
                    ),
                    ("drop", lines(&dropped, &|name| format!("        proxy_set_header {name} \"\";"))),
                    (
                        "secret",
                        secret(&|secret| format!("        proxy_set_header X-Sidecar-Secret \"{secret}\";")),
                    ),
                ]
            }
            Self::Caddy => {
                let dropped: Vec<String> = prefixes(known.iter().chain(&owned).chain([&secret_name]));
                vec![
                    ("take", lines(&advertised, &|name| format!("\t\t\t\t{name}"))),
                    ("drop", lines(&dropped, &|name| format!("\t\trequest_header -{name}"))),
                    ("secret", secret(&|secret| format!("\t\t\theader_up X-Sidecar-Secret {secret}"))),
                ]
            }
            Self::Traefik => {
                let names = known.iter().chain(&owned).chain([&secret_name]).flat_map(|name| aliases(name));
                // What Traefik itself says under this name is the secret's line.
                let names: Vec<String> =
                    names.filter(|name| site.secret.is_none() || *name != secret_name).collect();
                let tls = site.tls.map_or_else(String::new, |tls| {
                    format!(
                        "        tls: {{ ca: {}, cert: {}, key: {} }}\n",
                        tls.ca, tls.certificate, tls.key
                    )
                });
                let secret = secret(&|secret| format!("          X-Sidecar-Secret: \"{secret}\""));
                vec![
                    ("clean", lines(&names, &|name| format!("          {name}: \"\"")) + &secret),
                    ("take", lines(&advertised, &|name| format!("          - {name}"))),
                    ("tls", tls),
                ]
            }
            Self::Haproxy => vec![
                (
                    "drop",
                    lines(&owned, &|name| format!("    http-request del-header ^{}$ -m reg", pattern(name))),
                ),
                (
                    "secret",
                    secret(&|secret| format!("    http-request set-header X-Sidecar-Secret {secret}")),
                ),
            ],
            Self::Apache => {
                let names: Vec<String> = owned.iter().flat_map(|name| aliases(name)).collect();
                vec![
                    ("drop", lines(&names, &|name| format!("    RequestHeader unset {name}"))),
                    (
                        "secret",
                        secret(&|secret| format!("    RequestHeader set X-Sidecar-Secret \"{secret}\"")),
                    ),
                ]
            }
            Self::Envoy => vec![(
                "secret",
                secret(&|secret| {
                    format!(
                        "                        initial_metadata: [{{ key: x-sidecar-secret, value: \"{secret}\" }}]"
                    )
                }),
            )],
        }
    }
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
    name.split('-').fold(Vec::new(), |known: Vec<String>, word| {
        if known.is_empty() {
            return vec![word.to_owned()];
        }
        known.iter().flat_map(|start| [format!("{start}-{word}"), format!("{start}_{word}")]).collect()
    })
}

/// The same as a regular expression.
fn pattern(name: &str) -> String {
    name.to_lowercase().replace('-', "[-_]")
}

/// Patterns with a star that cover names and all that only differ by an underscore.
fn prefixes<'a>(names: impl Iterator<Item = &'a String>) -> Vec<String> {
    let mut patterns: Vec<String> = Vec::new();
    for name in names {
        let hyphens: Vec<usize> = name.match_indices('-').map(|(at, _)| at).collect();
        // With its first hyphens, then an underscore, then whatever.
        let aliases = hyphens.iter().map(|at| format!("{}_*", &name[..*at]));
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
    format!("{{ socket_address: {{ address: {}, port_value: {port} }} }}", host.trim_matches(['[', ']']))
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
            ["X_*", "X-A_*", "X-A-B", "X-A-C"]
        );
        assert_eq!(title("x-identity-sid"), "X-Identity-Sid");
    }

    #[test]
    fn nothing_is_left_to_fill_in() {
        let format = Format::default();
        for server in [
            WebServer::Nginx,
            WebServer::Envoy,
            WebServer::Haproxy,
            WebServer::Traefik,
            WebServer::Caddy,
            WebServer::Apache,
        ] {
            let site = Site {
                sidecar: Reached::Unix(Path::new("/run/rcmpd/sidecar.sock")),
                secret: Some("s3cret"),
                tls: None,
                format: &format,
                listen: SocketAddr::from(([127, 0, 0, 1], 8443)),
                server_name: "app.example",
                certificate: "/etc/app.pem",
                key: "/etc/app.key",
                client_ca: "/etc/ca.pem",
                application: "127.0.0.1:8080",
            };
            let text = server.configuration(&site);
            assert!(!text.contains("{{"), "{server:?}: {text}");
            assert!(
                text.contains("s3cret") && text.contains("/run/rcmpd/sidecar.sock"),
                "{server:?}: {text}"
            );
        }
    }
}
