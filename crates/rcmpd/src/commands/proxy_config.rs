//! `rcmpd proxy-config`.

use crate::cli::{ProxyConfigArgs, WebServerArg};
use crate::config::{self, Config, Listen, Place, Speaks, UpstreamPlace};
use crate::output;
use anyhow::{Context, bail};
use rcmp_service::explain::is_hidden;
use sidecar::dialect::Dialect;
use sidecar::proxy_config::{ProxyTls, Reached, Site, WebServer};
use std::path::{Path, PathBuf};

/// What stands for a secret that is not printed.
const PLACEHOLDER: &str = "REPLACE-WITH-THE-SECRET";

pub(super) fn run(args: &ProxyConfigArgs) -> anyhow::Result<u8> {
    let config = config::load(&args.config.config)?;
    let Some(section) = &config.sidecar else {
        bail!("{} has no [sidecar]; add it, and a [[sidecar.listen]] in it", args.config.config.display());
    };
    let (server, speaks) = match args.server {
        WebServerArg::Nginx => (WebServer::Nginx, Speaks::Http(Dialect::Nginx)),
        WebServerArg::Envoy => (WebServer::Envoy, Speaks::EnvoyGrpc),
        WebServerArg::Haproxy => (WebServer::Haproxy, Speaks::Http(Dialect::Haproxy)),
        WebServerArg::Traefik => (WebServer::Traefik, Speaks::Http(Dialect::Traefik)),
        WebServerArg::Caddy => (WebServer::Caddy, Speaks::Http(Dialect::Caddy)),
        WebServerArg::Apache => (WebServer::Apache, Speaks::Http(Dialect::Apache)),
    };
    let dialect = speaks.name();
    let Some(listen) = section.listen.iter().find(|listen| listen.speaks == speaks) else {
        output::message_lines(&format!(
            "rcmpd: no [[sidecar.listen]] has dialect = \"{dialect}\"; add one, for instance:\n\n[[sidecar.listen]]\ndialect = \"{dialect}\"\n{}",
            example(args.server)
        ));
        return Ok(1);
    };
    let secret = match &listen.secret {
        Some(secret) if args.with_secret => Some(crate::sidecar::secret(secret)?.to_string()),
        Some(_) => {
            output::message(&format!(
                "put the listener's secret in place of {PLACEHOLDER}, or print it with --with-secret"
            ));
            Some(PLACEHOLDER.to_owned())
        }
        None => None,
    };
    let path;
    let sidecar = match &listen.at {
        Place::Unix(socket) if args.server == WebServerArg::Traefik => bail!(
            "Traefik's ForwardAuth reaches no Unix socket such as {}: say address = \"127.0.0.1:9482\" with a secret or tls",
            socket.path.display()
        ),
        Place::Unix(socket) => {
            path = absolute(&socket.path)?;
            Reached::Unix(&path)
        }
        Place::Tcp(address) => Reached::Tcp(*address),
    };
    let text = |path: &Path| absolute(path).map(|path| path.display().to_string());
    let (certificate, key) = (text(&args.certificate)?, text(&args.key)?);
    let client_ca = text(&client_ca(args, &config)?)?;
    let proxy = proxy_tls(args, listen)?;
    let application = application(args, listen)?;
    if !args.site.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-.".contains(&byte)) {
        bail!("--site {}: this is no name of a host", args.site);
    }
    let site = Site {
        sidecar,
        secret: secret.as_deref(),
        tls: proxy.as_ref().map(|(certificate, key, ca)| ProxyTls { certificate, key, ca }),
        format: &section.format,
        listen: args.listen,
        server_name: &args.site,
        certificate: &certificate,
        key: &key,
        client_ca: &client_ca,
        application: &application,
    };
    output::lines(server.configuration(&site).trim_end());
    Ok(0)
}

const fn example(server: WebServerArg) -> &'static str {
    match server {
        WebServerArg::Nginx => "unix = \"/run/rcmpd/sidecar.sock\"\npeers = [\"www-data\"]",
        WebServerArg::Caddy => "unix = \"/run/rcmpd/sidecar.sock\"\npeers = [\"caddy\"]",
        WebServerArg::Envoy => "unix = \"/run/rcmpd/sidecar.sock\"\npeers = [\"envoy\"]",
        WebServerArg::Traefik => "address = \"127.0.0.1:9482\"\nsecret = \"file:sidecar.secret\"",
        WebServerArg::Haproxy => {
            "unix = \"/run/rcmpd/sidecar.sock\"\npeers = [\"haproxy\"]\nupstream = \"http://127.0.0.1:8080\""
        }
        WebServerArg::Apache => {
            "unix = \"/run/rcmpd/sidecar.sock\"\npeers = [\"www-data\"]\nupstream = \"http://127.0.0.1:8080\""
        }
    }
}

fn absolute(path: &Path) -> anyhow::Result<PathBuf> {
    let path =
        std::path::absolute(path).with_context(|| format!("cannot say where {} is", path.display()))?;
    match path.display().to_string().chars().any(is_hidden) {
        false => Ok(path),
        true => bail!(
            "{} has characters that cannot be seen or that terminals obey, and a configuration with it is not printed",
            path.display()
        ),
    }
}

fn client_ca(args: &ProxyConfigArgs, config: &Config) -> anyhow::Result<PathBuf> {
    let anchors = config.mapping.as_ref().map(|mapping| mapping.trust.anchors.as_slice()).unwrap_or_default();
    match (&args.client_ca, anchors) {
        (Some(path), _) => Ok(path.clone()),
        (None, [anchor]) => Ok(anchor.clone()),
        (None, _) => bail!(
            "[mapping] has {} files of anchors, and web servers want one: put what they need into one file, and say --client-ca FILE",
            anchors.len()
        ),
    }
}

fn proxy_tls(args: &ProxyConfigArgs, listen: &Listen) -> anyhow::Result<Option<(String, String, String)>> {
    let text = |path: &Path| absolute(path).map(|path| path.display().to_string());
    match (&listen.tls, &args.proxy_certificate, &args.proxy_key) {
        (None, ..) => Ok(None),
        (Some(_), ..) if args.server != WebServerArg::Traefik => bail!(
            "a listener with tls is printed for Traefik only; use a Unix socket with peers for this web server"
        ),
        (Some(tls), Some(certificate), Some(key)) => {
            Ok(Some((text(certificate)?, text(key)?, text(&tls.certificate)?)))
        }
        (Some(_), ..) => {
            bail!("the listener has tls: say --proxy-certificate and --proxy-key, which the web server shows")
        }
    }
}

fn application(args: &ProxyConfigArgs, listen: &Listen) -> anyhow::Result<String> {
    Ok(match (&args.application, &listen.upstream) {
        (Some(_), Some(_)) => {
            bail!("the sidecar passes requests on to the upstream of its listener: leave --application out")
        }
        (Some(application), None) => {
            let is_place = application.rsplit_once(':').is_some_and(|(host, port)| {
                !host.is_empty()
                    && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-.:[]".contains(&byte))
                    && port.parse::<u16>().is_ok()
            });
            if !is_place {
                bail!("--application {application}: write HOST:PORT");
            }
            application.clone()
        }
        (None, Some(UpstreamPlace::Tcp(authority))) => authority.clone(),
        (None, Some(UpstreamPlace::Unix(path))) => format!("unix:{}", absolute(path)?.display()),
        (None, None) => "127.0.0.1:8080".to_owned(),
    })
}
