//! The parts of a configuration that depend on what is advertised.

use super::{
    ProxyTls, Site, Unprintable, WebServer, aliases, nginx_cookies, pattern, prefixes, spellings, title,
};
use crate::dialect::OWNED;
use crate::forwarding as forwarding_headers;
use std::fmt::Write;

/// The header with the secret of a listener.
const SECRET: &str = "X-Sidecar-Secret";
/// The indent of what is inside Envoy's filter.
const AT: &str = "                      ";

/// A part, by its name in the template.
pub(super) type Block = (&'static str, String);

/// What the parts are made of: names of headers as people write them.
struct Blocks<'a> {
    server: WebServer,
    site: &'a Site<'a>,
    /// The site's name as an identifier.
    id: &'a str,
    /// What an application reads.
    advertised: Vec<String>,
    /// What proxies say about certificates.
    owned: Vec<String>,
    /// What no client may say: what may be advertised, what proxies say, and the secret.
    reserved: Vec<String>,
}

/// The parts of a site's configuration.
pub(super) fn blocks(server: WebServer, site: &Site<'_>, id: &str) -> Result<Vec<Block>, Unprintable> {
    let owned: Vec<String> = OWNED.iter().map(|name| title(name)).collect();
    let known = site.format.known().map(|name| title(name.as_str()));
    let blocks = Blocks {
        server,
        site,
        id,
        advertised: site.format.advertised().map(|name| title(name.as_str())).collect(),
        reserved: known.chain(owned.clone()).chain([SECRET.to_owned()]).collect(),
        owned,
    };
    Ok(match server {
        WebServer::Nginx => blocks.nginx(),
        WebServer::Caddy | WebServer::CaddyClientCert => blocks.caddy(),
        WebServer::Traefik => blocks.traefik()?,
        WebServer::Haproxy => blocks.haproxy(),
        WebServer::Apache => blocks.apache(),
        WebServer::Envoy | WebServer::EnvoyHttp => blocks.envoy(),
    })
}

/// A line for each name.
fn lines(names: &[String], line: &dyn Fn(&String) -> String) -> String {
    names.iter().fold(String::new(), |mut text, name| {
        let _ = writeln!(text, "{}", line(name));
        text
    })
}

/// The headers that say where a request comes from.
fn forwarding() -> Vec<String> {
    forwarding_headers::NAMES.map(title).into()
}

/// All of x-forwarded-…, and what differs from one of these names in what is neither letter nor digit.
fn forwarding_patterns() -> Vec<String> {
    let others = forwarding_headers::NAMES.iter().filter(|name| !name.starts_with("x-forwarded-"));
    let others = others.map(|name| pattern(name));
    [format!("{}.*", pattern("x-forwarded-"))].into_iter().chain(others).collect()
}

impl Blocks<'_> {
    /// The line with the listener's secret, if it has one.
    fn secret(&self, line: &dyn Fn(&str) -> String) -> String {
        self.site.secret.map(|secret| line(secret) + "\n").unwrap_or_default()
    }

    fn nginx(&self) -> Vec<Block> {
        let (id, ticket) = (self.id, self.site.ticket);
        let own =
            ["X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host", "X-Forwarded-Port", "X-Real-Ip"];
        let forwarding: Vec<String> =
            forwarding().into_iter().filter(|name| !own.contains(&name.as_str())).collect();
        let variable = |name: &String| format!("$rcmpd_{}", name.to_lowercase().replace('-', "_"));
        let upstream = |name: &String| format!("$upstream_http_{}", name.to_lowercase().replace('-', "_"));
        let dropped = self.reserved.iter().filter(|name| !self.advertised.contains(name));
        let dropped: Vec<String> = dropped.cloned().collect();
        vec![
            (
                "take",
                lines(&self.advertised, &|name| {
                    format!("        auth_request_set {} {};", variable(name), upstream(name))
                }),
            ),
            (
                "give",
                lines(&self.advertised, &|name| {
                    format!("        proxy_set_header {name} {};", variable(name))
                }),
            ),
            (
                "forwarding",
                lines(&forwarding, &|name| format!("        proxy_set_header {name} \"\";")),
            ),
            ("drop", lines(&dropped, &|name| format!("        proxy_set_header {name} \"\";"))),
            (
                "secret",
                self.secret(&|secret| format!("        proxy_set_header X-Sidecar-Secret \"{secret}\";")),
            ),
            ("ticket", ticket.map(|name| nginx_cookies(name, id)).unwrap_or_default()),
            (
                "ticket_ask",
                ticket
                    .map(|_| format!("        proxy_set_header Cookie $rcmpd_ticket_{id};\n"))
                    .unwrap_or_default(),
            ),
            (
                "ticket_give",
                ticket
                    .map(|_| {
                        format!(
                            "        # The sidecar sets its ticket in the client. The application does not get it.\n\
                             \x20       # With add_header here, nginx adds no header of the http and server blocks to answers: repeat them here,\n\
                             \x20       # as in: add_header Strict-Transport-Security \"max-age=31536000\" always;\n\
                             \x20       auth_request_set $rcmpd_set_cookie $upstream_http_set_cookie;\n\
                             \x20       add_header Set-Cookie $rcmpd_set_cookie always;\n\
                             \x20       proxy_set_header Cookie $rcmpd_cookies_{id};\n"
                        )
                    })
                    .unwrap_or_default(),
            ),
        ]
    }

    fn caddy(&self) -> Vec<Block> {
        let dropped: Vec<String> = prefixes(self.reserved.iter());
        let mut moved = vec!["X-Forwarded-*".to_owned()];
        moved.extend(prefixes(forwarding().iter().filter(|name| !name.starts_with("X-Forwarded-"))));
        moved.retain(|pattern| !dropped.contains(pattern));
        let (shown, question, forget) = match self.server {
            WebServer::Caddy => (
                String::new(),
                "\t\t\turi /\n\t\t\theader_up X-Tls-Client-Cert {http.request.tls.client.certificate_der_base64}\n",
                "",
            ),
            _ => (
                "\t\t# The certificate of the handshake, if there is one (RFC 9440).\n\
                 \t\t@certificate `{http.request.tls.client.certificate_der_base64} != \"\"`\n\
                 \t\trequest_header @certificate Client-Cert \":{http.request.tls.client.certificate_der_base64}:\"\n"
                    .to_owned(),
                "\t\t\t# The sidecar is asked about the path of the request.\n\t\t\turi {uri}\n",
                "\t\trequest_header -Client-Cert\n",
            ),
        };
        vec![
            ("take", lines(&self.advertised, &|name| format!("\t\t\t\t{name}"))),
            ("forwarding", lines(&moved, &|name| format!("\t\trequest_header -{name}"))),
            ("drop", lines(&dropped, &|name| format!("\t\trequest_header -{name}")) + &shown),
            ("question", question.to_owned()),
            ("forget", forget.to_owned()),
            ("secret", self.secret(&|secret| format!("\t\t\theader_up X-Sidecar-Secret {secret}"))),
        ]
    }

    fn traefik(&self) -> Result<Vec<Block>, Unprintable> {
        let names = self.reserved.iter().flat_map(|name| aliases(name));
        // What Traefik itself says under this name is the secret's line.
        let names: Vec<String> = names.filter(|name| self.site.secret.is_none() || *name != SECRET).collect();
        let tls = match self.site.tls {
            Some(ProxyTls { certificate, key, ca }) => format!(
                "        tls: {{ ca: {}, cert: {}, key: {} }}\n",
                self.server.file(ca)?,
                self.server.file(certificate)?,
                self.server.file(key)?
            ),
            None => String::new(),
        };
        let secret = self.secret(&|secret| format!("          X-Sidecar-Secret: \"{secret}\""));
        // Its entry point has set these, and dropped a client's.
        let own = [
            "X-Forwarded-For",
            "X-Forwarded-Host",
            "X-Forwarded-Port",
            "X-Forwarded-Proto",
            "X-Forwarded-Server",
            "X-Real-Ip",
        ];
        let forwarding: Vec<String> = forwarding()
            .iter()
            .flat_map(|name| spellings(name, &["-", "_", "."]))
            .filter(|name| !own.contains(&name.as_str()))
            .collect();
        Ok(vec![
            ("forwarding", lines(&forwarding, &|name| format!("          {name}: \"\""))),
            ("clean", lines(&names, &|name| format!("          {name}: \"\"")) + &secret),
            ("take", lines(&self.advertised, &|name| format!("          - {name}"))),
            ("tls", tls),
        ])
    }

    fn haproxy(&self) -> Vec<Block> {
        let (ignored, verified) = match self.site.is_validated {
            true => (
                " crt-ignore-err 26",
                "    # 26: the certificate is for another purpose, and nothing else is wrong. The sidecar goes by extended_key_usage in\n\
                 \x20   # [mapping].\n\
                 \x20   http-request set-header X-SSL-Client-Verify 0 if { ssl_c_verify 26 }\n",
            ),
            false => ("", ""),
        };
        vec![
            (
                "forwarding",
                format!("    http-request del-header ^({})$ -m reg\n", forwarding_patterns().join("|")),
            ),
            (
                "drop",
                lines(&self.owned, &|name| format!("    http-request del-header ^{}$ -m reg", pattern(name))),
            ),
            ("purposes", ignored.to_owned()),
            ("purpose_verified", verified.to_owned()),
            (
                "secret",
                self.secret(&|secret| format!("    http-request set-header X-Sidecar-Secret {secret}")),
            ),
        ]
    }

    fn apache(&self) -> Vec<Block> {
        let names: Vec<String> = self.owned.iter().flat_map(|name| aliases(name)).collect();
        let forwarding: Vec<String> =
            forwarding().iter().flat_map(|name| spellings(name, &["-", "_", "."])).collect();
        vec![
            ("forwarding", lines(&forwarding, &|name| format!("    RequestHeader unset {name}"))),
            ("drop", lines(&names, &|name| format!("    RequestHeader unset {name}"))),
            ("secret", self.secret(&|secret| format!("    RequestHeader set X-Sidecar-Secret \"{secret}\""))),
        ]
    }

    fn envoy(&self) -> Vec<Block> {
        // Envoy takes regular expressions up to some length, so each name has its own.
        let mut removed = vec![format!("{}.*", pattern("x-envoy-"))];
        removed.extend(forwarding_patterns());
        let names = self.reserved.iter();
        removed.extend(names.filter(|name| !name.starts_with("X-Forwarded-")).map(|name| pattern(name)));
        let mut blocks = vec![(
            "forwarding",
            lines(&removed, &|regex| {
                format!(
                    "                        - remove_on_match: {{ key_matcher: {{ safe_regex: {{ regex: \"{regex}\" }} }} }}"
                )
            }),
        )];
        blocks.extend(match self.server {
            WebServer::Envoy => self.envoy_grpc(),
            _ => self.envoy_http(),
        });
        blocks
    }

    /// How Envoy asks over gRPC.
    fn envoy_grpc(&self) -> [Block; 5] {
        let id = self.id;
        let secret = self.site.secret.map_or_else(String::new, |secret| {
            format!("{AT}  initial_metadata: [{{ key: x-sidecar-secret, value: \"{secret}\" }}]\n")
        });
        [
            ("protocol", "gRPC".to_owned()),
            ("certificate_details", "                forward_client_cert_details: SANITIZE\n".to_owned()),
            (
                "ask",
                format!(
                    "{AT}grpc_service:\n{AT}  envoy_grpc: {{ cluster_name: rcmpd_sidecar_{id} }}\n{AT}  timeout: 5s\n\
                     {secret}{AT}include_peer_certificate: true\n"
                ),
            ),
            ("forget", String::new()),
            (
                "sidecar_protocol",
                "      typed_extension_protocol_options:\n\
                 \x20       envoy.extensions.upstreams.http.v3.HttpProtocolOptions:\n\
                 \x20         \"@type\": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions\n\
                 \x20         explicit_http_config: { http2_protocol_options: {} }\n"
                    .to_owned(),
            ),
        ]
    }

    /// How Envoy asks over HTTP.
    fn envoy_http(&self) -> [Block; 5] {
        let id = self.id;
        let secret = self.site.secret.map_or_else(String::new, |secret| {
            format!("{AT}  authorization_request: {{ headers_to_add: [{{ key: x-sidecar-secret, value: \"{secret}\" }}] }}\n")
        });
        let taken: Vec<String> =
            self.advertised.iter().map(|name| format!("{{ exact: {} }}", name.to_lowercase())).collect();
        [
            ("protocol", "HTTP".to_owned()),
            (
                "certificate_details",
                "                # The sidecar reads the certificate from X-Forwarded-Client-Cert: Envoy writes it anew, with the certificate.\n\
                 \x20               forward_client_cert_details: SANITIZE_SET\n\
                 \x20               set_current_client_cert_details: { cert: true }\n"
                    .to_owned(),
            ),
            (
                "ask",
                format!(
                    "{AT}http_service:\n\
                     {AT}  server_uri: {{ uri: \"http://rcmpd-sidecar\", cluster: rcmpd_sidecar_{id}, timeout: 5s }}\n{secret}\
                     {AT}  authorization_response:\n\
                     {AT}    # Each of these is in every answer, empty where there is nothing to say.\n\
                     {AT}    allowed_upstream_headers: {{ patterns: [{}] }}\n\
                     {AT}# Of the request the sidecar gets method, host, path, the certificate and the trace.\n\
                     {AT}allowed_headers: {{ patterns: [{{ exact: x-forwarded-client-cert }}, {{ exact: traceparent }}, {{ exact: tracestate }}] }}\n",
                    taken.join(", ")
                ),
            ),
            (
                "forget",
                "                      request_headers_to_remove: [x-forwarded-client-cert]\n".to_owned(),
            ),
            ("sidecar_protocol", String::new()),
        ]
    }
}
