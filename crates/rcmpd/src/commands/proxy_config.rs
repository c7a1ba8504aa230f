//! `rcmpd proxy-config`.

use crate::cli::{ProxyConfigArgs, WebServerArg};
use crate::config::{self, Config, Listen, Place, Speaks, UpstreamPlace};
use crate::output;
use anyhow::{Context, bail};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use rcmp_service::Validation;
use rcmp_service::visible::is_hidden;
use sidecar::dialect::Dialect;
use sidecar::proxy_config::{ProxyTls, Reached, Site, WebServer};
use std::fs;
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use trust_tokio::certificates;

/// What stands for a secret that is not printed.
const PLACEHOLDER: &str = "REPLACE-WITH-THE-SECRET";

/// The file of CAs beside the configuration file, for web servers that read one file.
const BUNDLE: &str = "client-ca-bundle.pem";
/// The first line of such a file. A file without it is another one, and stays.
const BUNDLE_MARK: &str = "# CAs of client certificates: anchors and intermediates of [mapping], written by `rcmpd proxy-config`.\n";

pub(super) fn run(args: &ProxyConfigArgs) -> anyhow::Result<u8> {
    let config = config::load(&args.config.config)?;
    let Some(section) = &config.sidecar else {
        bail!("{} has no [sidecar]; add it, and a [[sidecar.listen]] in it", args.config.config.display());
    };
    let candidates: &[(WebServer, Speaks)] = match args.server {
        WebServerArg::Nginx => &[(WebServer::Nginx, Speaks::Http(Dialect::Nginx))],
        WebServerArg::Envoy => {
            &[(WebServer::Envoy, Speaks::EnvoyGrpc), (WebServer::EnvoyHttp, Speaks::Http(Dialect::Envoy))]
        }
        WebServerArg::Haproxy => &[(WebServer::Haproxy, Speaks::Http(Dialect::Haproxy))],
        WebServerArg::Traefik => &[(WebServer::Traefik, Speaks::Http(Dialect::Traefik))],
        WebServerArg::Caddy => &[
            (WebServer::Caddy, Speaks::Http(Dialect::Caddy)),
            (WebServer::CaddyClientCert, Speaks::Http(Dialect::ClientCert)),
        ],
        WebServerArg::Apache => &[(WebServer::Apache, Speaks::Http(Dialect::Apache))],
    };
    let Some((server, listen)) = listener(args, &section.listen, candidates)? else {
        let dialect = candidates[0].1.name();
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
                "replace {PLACEHOLDER} by the secret of the listener, or print it with --with-secret"
            ));
            Some(PLACEHOLDER.to_owned())
        }
        None => None,
    };
    let path;
    let sidecar = match &listen.settings.at {
        Place::Unix(socket) if args.server == WebServerArg::Traefik => bail!(
            "ForwardAuth of Traefik cannot use a Unix socket such as {}: set address = \"127.0.0.1:9482\" with a secret or tls",
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
    let site = Site {
        sidecar,
        secret: secret.as_deref(),
        tls: proxy.as_ref().map(|(certificate, key, ca)| ProxyTls { certificate, key, ca }),
        format: &section.format,
        ticket: section.ticket.as_ref().map(|ticket| ticket.cookie.as_str()),
        listen: args.listen,
        server_name: &args.site,
        certificate: &certificate,
        key: &key,
        client_ca: &client_ca,
        is_validated: config.mapping.as_ref().is_some_and(|it| it.policy.validation != Validation::Off),
        is_beside: args.beside,
        application: &application,
    };
    let printed = server.configuration(&site).map_err(|why| super::failed(2, why))?;
    output::lines(printed.trim_end());
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
        true => {
            bail!("{} has invisible or control characters, so no configuration is printed", path.display())
        }
    }
}

/// The listener that a web server asks, and as which web server. If `--application` is given and the sidecar
/// stands between, the listener is the one in front of that application.
fn listener<'a>(
    args: &ProxyConfigArgs,
    listeners: &'a [Listen],
    candidates: &[(WebServer, Speaks)],
) -> anyhow::Result<Option<(WebServer, &'a Listen)>> {
    let all = candidates.iter().flat_map(|(server, speaks)| {
        listeners.iter().filter(|it| it.settings.speaks == *speaks).map(|it| (*server, it))
    });
    // A web server that asks beside its requests would get the application's answers from a listener with an
    // upstream.
    let (asked, in_path): (Vec<_>, Vec<_>) = all.partition(|(server, listen)| {
        !matches!(server, WebServer::CaddyClientCert | WebServer::EnvoyHttp)
            || listen.settings.upstream.is_none()
    });
    let mut all = asked.into_iter();
    let Some(first) = all.next() else {
        if let Some((WebServer::EnvoyHttp, listen)) = in_path.first() {
            bail!(
                "the listener at {} with dialect = \"envoy\" has an upstream, so an ext_authz filter that asks it would get the answers of \
                 the application: remove upstream from it, or add a [[sidecar.listen]] with dialect = \"envoy-grpc\"",
                listen.settings.at
            );
        }
        return Ok(None);
    };
    let (Some(application), Some(_)) = (&args.application, &first.1.settings.upstream) else {
        return Ok(Some(first));
    };
    let is_meant = |listen: &Listen| matches!(listen.settings.upstream.as_ref().map(|it| &it.place), Some(UpstreamPlace::Tcp(authority)) if authority == application);
    match [first].into_iter().chain(all).find(|(_, listen)| is_meant(listen)) {
        Some(found) => Ok(Some(found)),
        None => bail!(
            "--application {application}: no [[sidecar.listen]] with dialect = \"{}\" has upstream = \"http://{application}\", and requests go to the upstream of the listener; add a listener, or remove --application",
            first.1.settings.speaks.name()
        ),
    }
}

/// The file of CAs that the web server names to clients and validates certificates by. Clients may send their
/// certificate alone, so issuing CAs are among them; if that takes more than one file of `[mapping]`, one is
/// written.
fn client_ca(args: &ProxyConfigArgs, config: &Config) -> anyhow::Result<PathBuf> {
    if let Some(path) = &args.client_ca {
        // The web server may be elsewhere, with files of its own.
        if let Err(error) = certificates::read_trusted(path) {
            output::warning(&format!("--client-ca cannot be used as it is here: {error:#}"));
        }
        return Ok(path.clone());
    }
    let trust = config.mapping.as_ref().map(|mapping| &mapping.trust);
    let files: Vec<&PathBuf> =
        trust.iter().flat_map(|trust| trust.anchors.iter().chain(&trust.intermediates)).collect();
    match files[..] {
        [] => bail!(
            "[mapping] has no anchors: give --client-ca FILE, with the CAs of client certificates in PEM"
        ),
        [one]
            if args.write_client_ca.is_none()
                && !fs::read(one).is_ok_and(|bytes| pem_file::is_der(&bytes)) =>
        {
            return Ok(one.clone());
        }
        _ => {}
    }
    let mut text = BUNDLE_MARK.to_owned();
    let mut written = Vec::new();
    for path in files {
        for certificate in certificates::read_trusted(path)? {
            if !written.contains(&certificate) {
                text.push_str(&as_pem(&certificate));
                written.push(certificate);
            }
        }
    }
    let beside = || config_folder(args).join(BUNDLE);
    let path = args.write_client_ca.clone().unwrap_or_else(beside);
    match fs::read(&path) {
        Ok(old) if old == text.as_bytes() => return Ok(path),
        Ok(old) if !old.starts_with(BUNDLE_MARK.as_bytes()) => bail!(
            "{} exists and was not written by `rcmpd proxy-config`: give --write-client-ca FILE with another name",
            path.display()
        ),
        _ => {}
    }
    replace(&path, &text).with_context(|| {
        format!(
            "cannot write {}: give --write-client-ca FILE, or --client-ca FILE with the CAs in PEM",
            path.display()
        )
    })?;
    output::message(&format!(
        "wrote {} with the {} CAs of [mapping]; run this again when they change, and reload the web server",
        path.display(),
        written.len()
    ));
    Ok(path)
}

fn config_folder(args: &ProxyConfigArgs) -> PathBuf {
    args.config.config.parent().map(Path::to_path_buf).unwrap_or_default()
}

fn as_pem(certificate: &[u8]) -> String {
    let base64 = BASE64.encode(certificate);
    let lines = base64.as_bytes().chunks(64).map(|line| String::from_utf8_lossy(line) + "\n");
    format!("-----BEGIN CERTIFICATE-----\n{}-----END CERTIFICATE-----\n", lines.collect::<String>())
}

/// Puts a file in place at once. Web servers read it as other users.
fn replace(path: &Path, text: &str) -> std::io::Result<()> {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{}", std::process::id()));
    let new = PathBuf::from(name);
    let written =
        fs::OpenOptions::new().write(true).create_new(true).mode(0o644).open(&new).and_then(|mut file| {
            file.set_permissions(fs::Permissions::from_mode(0o644))?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            fs::rename(&new, path)
        });
    if written.is_err() {
        let _ = fs::remove_file(&new);
    }
    written
}

fn proxy_tls(args: &ProxyConfigArgs, listen: &Listen) -> anyhow::Result<Option<(String, String, String)>> {
    let text = |path: &Path| absolute(path).map(|path| path.display().to_string());
    match (&listen.settings.tls, &args.proxy_certificate, &args.proxy_key) {
        (None, ..) => Ok(None),
        (Some(_), ..) if args.server != WebServerArg::Traefik => bail!(
            "a listener with tls is supported for Traefik only; use a Unix socket with peers for this web server"
        ),
        (Some(tls), Some(certificate), Some(key)) => {
            Ok(Some((text(certificate)?, text(key)?, text(&tls.certificate)?)))
        }
        (Some(_), ..) => {
            bail!(
                "the listener has tls: give --proxy-certificate and --proxy-key, the client certificate of the web server"
            )
        }
    }
}

fn application(args: &ProxyConfigArgs, listen: &Listen) -> anyhow::Result<String> {
    Ok(match (&args.application, listen.settings.upstream.as_ref().map(|it| &it.place)) {
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
        (_, Some(UpstreamPlace::Tcp(authority))) => authority.clone(),
        (_, Some(UpstreamPlace::Unix(path))) => format!("unix:{}", absolute(path)?.display()),
        (None, None) => "127.0.0.1:8080".to_owned(),
    })
}
