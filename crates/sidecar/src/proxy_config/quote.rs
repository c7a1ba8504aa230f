//! Paths in configurations of web servers, quoted as each of them reads words.

use super::WebServer;
use std::fmt;

/// A value that cannot be written into the configuration of a web server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unprintable {
    value: String,
    why: &'static str,
}

impl Unprintable {
    pub(super) fn new(value: &str, why: &'static str) -> Self {
        Self { value: value.to_owned(), why }
    }
}

impl fmt::Display for Unprintable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.value, self.why)
    }
}

impl std::error::Error for Unprintable {}

/// Whether every web server reads it as one word that stands for itself.
fn is_plain(path: &str) -> bool {
    path.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/._-+@".contains(&byte))
}

impl WebServer {
    /// The path of a file as one word.
    pub(super) fn file(self, path: &str) -> Result<String, Unprintable> {
        self.word("", path, "")
    }

    /// The path of a Unix socket as one word, with what the web server writes around it.
    pub(super) fn socket(self, before: &str, path: &str, after: &str) -> Result<String, Unprintable> {
        let refused: (&[char], _) = match self {
            // Addresses have variables of the environment, in each kind of quotes (configuration.txt, section
            // 2.3 and "server").
            Self::Haproxy => (&['$'], "HAProxy reads a variable in this path: use one without $"),
            // The address is a URL, and | ends the path.
            Self::Apache => (
                &['|', '?', '#', '%'],
                "Apache reads this path as a part of a URL: use one without | ? # and %",
            ),
            _ => (&[], ""),
        };
        match path.contains(refused.0) {
            true => Err(Unprintable::new(path, refused.1)),
            false => self.word(before, path, after),
        }
    }

    fn word(self, before: &str, path: &str, after: &str) -> Result<String, Unprintable> {
        let word = format!("{before}{path}{after}");
        if is_plain(path) {
            return Ok(word);
        }
        let escaped = |word: &str| format!("\"{}\"", word.replace('\\', "\\\\").replace('"', "\\\""));
        let refuse = |why| Err(Unprintable::new(path, why));
        match self {
            // ssl_certificate takes variables, and nothing escapes them.
            Self::Nginx if path.contains('$') => {
                refuse("nginx reads a variable in this path: use one without $")
            }
            Self::Apache if path.contains("${") => {
                refuse("Apache reads a variable in this path: use one without ${")
            }
            // {$NAME} is replaced before quotes are read.
            Self::Caddy | Self::CaddyClientCert if path.contains(['{', '}', '`']) => {
                refuse("Caddy reads a placeholder in this path: use one without { } and `")
            }
            // Files of the file provider are Go templates.
            Self::Traefik if path.contains("{{") => {
                refuse("Traefik reads a template in this path: use one without {{")
            }
            Self::Nginx | Self::Apache => Ok(escaped(&word)),
            // Strong quotes, in which nothing is escaped, as in a shell.
            Self::Haproxy => Ok(format!("'{}'", word.replace('\'', "'\\''"))),
            Self::Caddy | Self::CaddyClientCert => Ok(format!("`{word}`")),
            // YAML's double-quoted scalars escape these two as JSON does; control characters do not come
            // here.
            Self::Envoy | Self::EnvoyHttp | Self::Traefik => Ok(escaped(&word)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ODD: &str = r#"/etc/my certs/a;b"c\d'e.pem"#;

    /// By the grammar of each: nginx and Apache escape in double quotes, HAProxy has strong quotes as a
    /// shell, Caddy backquotes, YAML 1.2 section 7.3.1.
    #[test]
    fn odd_paths_are_one_word() {
        let escaped = r#""/etc/my certs/a;b\"c\\d'e.pem""#;
        for (server, expected) in [
            (WebServer::Nginx, escaped),
            (WebServer::Apache, escaped),
            (WebServer::Envoy, escaped),
            (WebServer::Traefik, escaped),
            (WebServer::Haproxy, r#"'/etc/my certs/a;b"c\d'\''e.pem'"#),
            (WebServer::Caddy, "`/etc/my certs/a;b\"c\\d'e.pem`"),
        ] {
            assert_eq!(server.file(ODD).as_deref(), Ok(expected), "{server:?}");
            assert_eq!(server.file("/etc/ssl/app-1.pem").as_deref(), Ok("/etc/ssl/app-1.pem"), "{server:?}");
        }
        let socket = WebServer::Nginx.socket("unix:", "/run/my app/s.sock", "");
        assert_eq!(
            socket.as_deref(),
            Ok("\"unix:/run/my app/s.sock\""),
            "one word with what stands before it"
        );
        for path in ["/a,b", "/a:", "/#a", "/a]", "/a}b", "/m\u{fc}ller", "/a%b", "/a&b", "/a*"] {
            for server in [WebServer::Envoy, WebServer::Traefik] {
                assert_eq!(
                    server.file(path),
                    Ok(format!("\"{path}\"")),
                    "YAML has a meaning for some of these"
                );
            }
        }
    }

    /// What cannot be quoted is not printed.
    #[test]
    fn variables_and_templates_are_refused() {
        for (server, path) in [
            (WebServer::Nginx, "/etc/$ssl_server_name.pem"),
            (WebServer::Apache, "/etc/${NAME}.pem"),
            (WebServer::Caddy, "/etc/{$NAME}.pem"),
            (WebServer::CaddyClientCert, "/etc/a`b.pem"),
            (WebServer::Traefik, "/etc/{{ env \"A\" }}.pem"),
        ] {
            let why = server.file(path).expect_err(path).to_string();
            assert!(why.starts_with(&format!("{path}: ")) && why.contains("use one without"), "{why}");
            assert!(server.socket("unix:", path, "").is_err(), "{server:?}");
        }
        assert!(WebServer::Haproxy.file("/etc/$a.pem").is_ok_and(|word| word == "'/etc/$a.pem'"));
        assert!(WebServer::Haproxy.socket("unix@", "/run/$a.sock", "").is_err());
        assert!(WebServer::Apache.socket("unix:", "/run/a|b.sock", "|http://localhost/").is_err());
    }
}
