//! The sidecar: proxies ask for the account of a client certificate, and applications get it in headers.
//!
//! ```text
//! proxy ─► sidecar_tokio::listen ─► sidecar (decides) ─► answer, or ─► sidecar_tokio::upstream
//!                                        └► identify: this process, or a service over Netlogon
//! ```

mod identify;
pub mod routes;
mod spans;
mod tickets;

use crate::clock::moment;
use crate::config::{self, Config, SecretRef, Source};
use crate::deciders::CurrentPolicy;
use crate::socket_activation::{PassedSockets, SIDECAR};
use crate::ticket_roots;
use account_store::FileAccess;
use anyhow::{Context, anyhow, bail};
use arc_swap::ArcSwap;
use audit_log::AuditLog;
use dcerpc_tokio::{LogLimiter, NO_LABELS, encode_family, listen_on};
use ed25519_file::PublicKey;
pub(crate) use identify::of_record;
use identify::{Identifier, Remote};
use listener_tokio::connections::ConnectionMeter;
use netlogon_tokio::{Discovery, PoolLimits, ServerSource, Servers};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;
use rcmp_service::{Asker, Scope};
use sha2::{Digest, Sha256};
use sidecar::routes::Routes;
use sidecar::token::{PublicJwk, TokenSigner};
use sidecar::{Identify, Parts, SharedReferences};
use sidecar_tokio::client_verifier::ClientVerifier;
use sidecar_tokio::front::{self, Front, TlsSettings};
use sidecar_tokio::listen::{self, Listener, Proof, Socket};
use sidecar_tokio::settings::Place;
use sidecar_tokio::upstream::{self, Upstream};
use sidecar_tokio::{ReadFiles, tls, unix};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tracing::info;
use trust_tokio::certificates;
use zeroize::Zeroizing;

/// Connections to the service that is asked, and questions that wait for one.
const ROOM: PoolLimits = PoolLimits { connections_max: 32, queue_max: 1024 };

/// A sidecar that serves.
#[derive(Clone)]
pub struct Sidecar {
    /// The sidecar that decides now.
    pub current: Arc<ArcSwap<sidecar::Sidecar>>,
    identify: Arc<dyn Identify>,
    /// What proxies prove themselves by, by listener.
    proofs: Vec<Arc<ArcSwap<Proof>>>,
    /// The application behind each listener.
    upstreams: Vec<Option<Arc<Upstream>>>,
    front: Option<Arc<Front>>,
    policy: CurrentPolicy,
    /// A hash of everything that the TLS settings of the TLS-terminating proxy were made of.
    made_of: Arc<ArcSwap<[u8; 32]>>,
}

/// What another configuration makes of a sidecar.
pub struct Reloaded {
    sidecar: sidecar::Sidecar,
    proofs: Vec<Proof>,
    /// By application, that of the TLS-terminating proxy last; none where nothing has changed.
    tls: Vec<Option<upstream::Tls>>,
    /// With the hash of what they were made of; none if nothing has changed.
    tls_settings: Option<(TlsSettings, [u8; 32])>,
}

/// Everything that proxies and clients reach.
pub struct Listeners {
    proxies: Vec<Listener>,
    front: Option<(Arc<Front>, TcpListener)>,
    shutdown: CancellationToken,
}

impl Sidecar {
    /// Makes what a configuration asks for; no service is asked yet.
    pub fn load(
        config: &Config,
        sidecar: &config::Sidecar,
        policy: &CurrentPolicy,
        audit: &Arc<AuditLog>,
    ) -> anyhow::Result<Self> {
        let source = match (sidecar.source, &config.client) {
            (Source::Remote, Some(client)) => {
                let keys = client.proof_keys.iter();
                let keys = keys.map(|(domain, path)| Ok((domain.clone(), PublicKey::read(path)?.bytes())));
                identify::Source::Remote(Box::new(Remote {
                    servers: servers_of_client(config, client)?,
                    domain: config.domain.netbios.clone(),
                    proof_keys: keys.collect::<anyhow::Result<_>>()?,
                    timeout: sidecar.timeout,
                    is_rcmpd: client.is_rcmpd,
                    log_limiter: LogLimiter::default(),
                }))
            }
            _ => embedded_source("sidecar", config),
        };
        let identify = identifier(source, policy, audit);
        let current =
            Arc::new(ArcSwap::from_pointee(sidecar::Sidecar::new(parts(config, sidecar, &identify)?)));
        let (tls_settings, made_of) =
            sidecar.proxy.as_ref().map(|proxy| tls_settings(config, proxy, policy)).transpose()?.unzip();
        let front = sidecar.proxy.as_ref().zip(tls_settings).map(|(proxy, tls_settings)| {
            let upstream = Upstream::new(&proxy.upstream, &Files).context("cannot use [sidecar.proxy]")?;
            anyhow::Ok(Front::new(Arc::clone(&current), Arc::new(upstream), tls_settings, moment))
        });
        let front = front.transpose()?;
        let made_of = Arc::new(ArcSwap::from_pointee(made_of.unwrap_or_default()));
        let proofs = sidecar.listen.iter().map(|listen| Ok(Arc::new(ArcSwap::from_pointee(proof(listen)?))));
        let proofs = proofs.collect::<anyhow::Result<_>>()?;
        let upstreams = sidecar.listen.iter().map(|listen| {
            let upstream = listen.settings.upstream.as_ref();
            let upstream = upstream.map(|upstream| Upstream::new(upstream, &Files)).transpose();
            upstream.map(|upstream| upstream.map(Arc::new)).context("cannot use [[sidecar.listen]]")
        });
        let upstreams = upstreams.collect::<anyhow::Result<_>>()?;
        Ok(Self { current, identify, proofs, upstreams, front, policy: policy.clone(), made_of })
    }

    /// What another configuration makes of it; nothing changes yet.
    pub fn reload(&self, config: &Config, sidecar: &config::Sidecar) -> anyhow::Result<Reloaded> {
        let tls_settings =
            sidecar.proxy.as_ref().map(|proxy| tls_settings(config, proxy, &self.policy)).transpose()?;
        // Connections need not end for what stays as it is.
        let tls_settings = tls_settings.filter(|(_, made_of)| *made_of != **self.made_of.load());
        let proofs = sidecar.listen.iter().map(proof).collect::<anyhow::Result<_>>()?;
        let tls =
            self.applications().map(|upstream| upstream.reload(&Files)).collect::<anyhow::Result<_>>()?;
        let sidecar = self.current.load().successor(parts(config, sidecar, &self.identify)?, moment().uptime);
        Ok(Reloaded { sidecar, proofs, tls, tls_settings })
    }

    fn applications(&self) -> impl Iterator<Item = &Upstream> {
        let front = self.front.iter().map(|front| front.upstream());
        self.upstreams.iter().flatten().map(Arc::as_ref).chain(front)
    }

    /// Goes by it from now on.
    pub fn take_over(&self, reloaded: Reloaded) {
        self.current.store(Arc::new(reloaded.sidecar));
        // Listeners stay the same ones.
        for (proof, new) in self.proofs.iter().zip(reloaded.proofs) {
            proof.store(Arc::new(new));
        }
        for (upstream, tls) in self.applications().zip(reloaded.tls) {
            tls.into_iter().for_each(|tls| upstream.replace(tls));
        }
        if let (Some(front), Some((tls_settings, made_of))) = (&self.front, reloaded.tls_settings) {
            self.made_of.store(Arc::new(made_of));
            front.replace(tls_settings);
        }
    }

    /// Registers the metrics of decisions for web servers and clients.
    pub(crate) fn register(&self, registry: &mut Registry) {
        self.current.load().meter().register(registry);
        registry.register_collector(Box::new(CacheCollector(Arc::clone(&self.current))));
    }

    /// Binds everything that proxies and clients reach.
    pub async fn bind(
        &self,
        sidecar: &config::Sidecar,
        shutdown: &CancellationToken,
        passed_sockets: &PassedSockets,
    ) -> anyhow::Result<Listeners> {
        let mut proxies = Vec::with_capacity(sidecar.listen.len());
        for (listen, (proof, upstream)) in sidecar.listen.iter().zip(self.proofs.iter().zip(&self.upstreams))
        {
            let (current, behind) = (Arc::clone(&self.current), (Arc::clone(proof), upstream.clone()));
            let socket = match &listen.settings.at {
                Place::Tcp(address) => passed_sockets.tcp(SIDECAR.0, *address)?.map(Socket::Tcp),
                Place::Unix(place) => passed_sockets.unix(SIDECAR.0, &place.path)?.map(Socket::Unix),
            };
            let bound = Listener::bind(&listen.settings, current, behind, moment, (shutdown.clone(), socket));
            proxies.push(bound.await?);
        }
        let front = match (&self.front, &sidecar.proxy) {
            (Some(front), Some(proxy)) => {
                let listener = listen_on(proxy.listen, "sidecar.proxy.listen").await?;
                info!(address = %listener.local_addr()?, "Serving the TLS-terminating proxy");
                Some((Arc::clone(front), listener))
            }
            _ => None,
        };
        Ok(Listeners { proxies, front, shutdown: shutdown.clone() })
    }
}

/// Collects the size of the cache, which a reload replaces.
#[derive(Debug)]
struct CacheCollector(Arc<ArcSwap<sidecar::Sidecar>>);

impl Collector for CacheCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> std::fmt::Result {
        let entries = ConstGauge::new(self.0.load().remembered());
        let family = ("sidecar_cache_entries", "Cached decisions for web servers and clients now", None);
        encode_family(&mut encoder, family, [(NO_LABELS, entries)])?;
        let help = "E-mail addresses that were not sent because several accounts have them";
        let shared = ConstCounter::new(identify::SHARED_MAIL.load(Ordering::Relaxed));
        encode_family(&mut encoder, ("sidecar_shared_mail", help, None), [(NO_LABELS, shared)])
    }
}

impl Listeners {
    /// What counts the connections of each.
    pub(crate) fn meters(&self) -> Vec<ConnectionMeter> {
        let front = self.front.as_ref().and_then(|(front, listener)| {
            let address = listener.local_addr().ok()?;
            Some(front.meter(address.to_string()))
        });
        self.proxies.iter().map(Listener::meter).chain(front).collect()
    }

    /// Serves until the shutdown begins and all requests are answered.
    pub async fn serve(self) {
        let mut tasks = tokio::task::JoinSet::new();
        for listener in self.proxies {
            tasks.spawn(listener.serve());
        }
        if let Some((front, listener)) = self.front {
            tasks.spawn(front.serve(listener, self.shutdown));
        }
        tasks.join_all().await;
    }
}

/// What maps certificates by the policy and the accounts of this process. `asker` names the part that asks,
/// in the audit log.
pub(crate) fn embedded(
    asker: &str,
    config: &Config,
    policy: &CurrentPolicy,
    audit: &Arc<AuditLog>,
) -> Arc<dyn Identify> {
    identifier(embedded_source(asker, config), policy, audit)
}

/// The servers of `[client]`, asked as its machine account. Opens no connection.
pub(crate) fn servers_of_client(config: &Config, client: &config::Client) -> anyhow::Result<Servers> {
    let identity = Remote::identity_of(client, &config.domain.netbios);
    let at = match &client.servers {
        config::Servers::Listed(servers) => ServerSource::Listed(servers.clone()),
        config::Servers::Discovered { site, dns } => {
            let discovery = Discovery::new(&config.domain.dns, site.as_deref(), dns);
            ServerSource::Discovered(Box::new(discovery.context("cannot look for the servers of [client]")?))
        }
        config::Servers::Via(_) => bail!("[client] is asked through no peer"),
    };
    Ok(Servers::new(at, identity, ROOM, None))
}

fn embedded_source(asker: &str, config: &Config) -> identify::Source {
    let asker = Asker::machine(asker, config.domain.sid, true);
    // This process decides for itself which accounts may reach what.
    identify::Source::Embedded {
        asker: Arc::new(Asker { scope: Scope::total(), ..asker }),
        log_limiter: LogLimiter::default(),
    }
}

fn identifier(source: identify::Source, policy: &CurrentPolicy, audit: &Arc<AuditLog>) -> Arc<dyn Identify> {
    Arc::new(Identifier { policy: policy.clone(), audit: Arc::clone(audit), source })
}

/// Files of the configuration, with the access that each kind may have.
pub(crate) struct Files;

impl ReadFiles for Files {
    fn trusted(&self, path: &Path) -> anyhow::Result<Vec<Vec<u8>>> {
        Ok(certificates::read_trusted(path)?)
    }

    fn chain(&self, path: &Path) -> anyhow::Result<Vec<Vec<u8>>> {
        Ok(certificates::read_file(path)?)
    }

    /// A group may share a key: web servers have the same one.
    fn private_key(&self, path: &Path) -> anyhow::Result<Zeroizing<Vec<u8>>> {
        FileAccess::Group.read(path).map_err(|error| anyhow!("{} {error}", path.display()))
    }
}

/// Reads what proxies prove themselves by at a listener.
fn proof(listen: &config::Listen) -> anyhow::Result<Proof> {
    Proof::new(listen.secret.as_ref().map(secret).transpose()?, listen.settings.tls.as_ref(), &Files)
}

/// Reads the secret of a listener.
pub fn secret(reference: &SecretRef) -> anyhow::Result<Zeroizing<String>> {
    let unusable = "cannot use the secret of [[sidecar.listen]]";
    let secret = reference.read().context(unusable)?;
    // It stands in the configurations of web servers, each of which has its own way with other characters.
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"+/=_.~-".contains(&byte);
    match secret.bytes().all(is_plain) {
        true => Ok(secret),
        false => bail!(
            "the secret of [[sidecar.listen]] has other characters than letters, digits and + / = _ . ~ -: openssl rand -base64 32 makes one"
        ),
    }
}

/// Looks at the users and groups that listeners name. Returns warnings.
pub(crate) fn check_users(sidecar: &config::Sidecar) -> anyhow::Result<Vec<String>> {
    let warnings = sidecar
        .listen
        .iter()
        .map(|listen| unix::check(&listen.settings))
        .collect::<anyhow::Result<Vec<_>>>()?;
    Ok(warnings.into_iter().flatten().collect())
}

/// Reads what a sidecar names: secrets, certificates, keys. What is in the environment of the service alone
/// is left out.
pub(crate) fn check_files(config: &Config, sidecar: &config::Sidecar) -> Vec<anyhow::Result<()>> {
    let mut checked = Vec::new();
    for listen in &sidecar.listen {
        // A secret that cannot be read is reported with the others.
        if let Some(secret) = listen.secret.as_ref().filter(|secret| secret.read().is_ok()) {
            checked.push(self::secret(secret).map(drop));
        }
        let settings = &listen.settings;
        checked.extend(settings.tls.as_ref().map(|tls| tls::of_listener(tls, &Files).map(drop)));
        let upstream = settings.upstream.as_ref().map(|upstream| upstream::Tls::of(upstream, &Files));
        checked.extend(upstream.map(|tls| tls.map(drop).context("cannot use [[sidecar.listen]]")));
    }
    if let Some(proxy) = &sidecar.proxy {
        let pair = tls::check_pair(&proxy.certificate, &proxy.key, &Files);
        checked.push(pair.context("cannot use [sidecar.proxy]"));
        checked
            .push(upstream::Tls::of(&proxy.upstream, &Files).map(drop).context("cannot use [sidecar.proxy]"));
    }
    checked.extend(sidecar.token.as_ref().map(|token| signer(token).map(drop)));
    // A key that cannot be read is reported with the other secrets.
    let ticket = sidecar.ticket.as_ref().filter(|ticket| ticket.keys.iter().all(|key| key.read().is_ok()));
    checked.extend(ticket.map(|ticket| tickets::farm(config, sidecar, ticket).map(drop)));
    let reference = sidecar.reference.as_ref().filter(|it| it.keys.iter().all(|key| key.read().is_ok()));
    checked.extend(reference.map(|reference| references(reference).map(drop)));
    let client = config.client.iter().filter(|_| sidecar.source == Source::Remote);
    let keys = client.flat_map(|client| &client.proof_keys);
    checked.extend(keys.map(|(_, path)| PublicKey::read(path).map(drop)));
    checked
}

/// How many descriptors all connections of a configuration's listeners take.
pub(crate) fn connections_max(sidecar: &config::Sidecar) -> usize {
    let proxy = if sidecar.proxy.is_some() { front::CONNECTIONS_MAX } else { 0 };
    sidecar.listen.len() * listen::CONNECTIONS_MAX + proxy
}

/// The TLS settings of handshakes with clients, and a hash of everything that they are made of. Certificates
/// are validated as `[mapping]` has it.
fn tls_settings(
    config: &Config,
    proxy: &config::Proxy,
    policy: &CurrentPolicy,
) -> anyhow::Result<(TlsSettings, [u8; 32])> {
    let read = |paths: fn(&config::TrustFiles) -> &[PathBuf], unusable: &'static str| {
        let mut all = Vec::new();
        for path in config.mapping.iter().flat_map(|mapping| paths(&mapping.trust)) {
            all.extend(certificates::read_trusted(path).context(unusable)?);
        }
        anyhow::Ok(all)
    };
    let mut made_of = read(|files| &files.anchors, "cannot use mapping.anchors")?;
    made_of.extend(read(|files| &files.intermediates, "cannot use mapping.intermediates")?);
    let current = policy.clone();
    let trust = move || current.0.load().live.trust().cloned();
    let verifier = ClientVerifier::new(Box::new(trust), &made_of, proxy.anonymous);
    let tls = front::server_config((&proxy.certificate, &proxy.key), &Files, verifier);
    let tls = tls.context("cannot use [sidecar.proxy]")?;
    let rules = config.mapping.as_ref().map(|mapping| {
        let files = &mapping.trust;
        let usages = (&files.extended_key_usages, files.require_extended_key_usage);
        format!("{:?}", (usages, &files.policies, files.client_rsa_bits, proxy.anonymous))
    });
    made_of.push(rules.unwrap_or_default().into_bytes());
    for path in [&proxy.certificate, &proxy.key] {
        let bytes = Zeroizing::new(std::fs::read(path).context("cannot use [sidecar.proxy]")?);
        made_of.push(Sha256::digest(&bytes).to_vec());
    }
    let mut hash = Sha256::new();
    made_of.iter().for_each(|part| hash.update(Sha256::digest(part)));
    Ok((TlsSettings::new(tls, proxy.anonymous), hash.finalize().into()))
}

fn parts(config: &Config, sidecar: &config::Sidecar, identify: &Arc<dyn Identify>) -> anyhow::Result<Parts> {
    let farm = sidecar.ticket.as_ref().map(|ticket| tickets::farm(config, sidecar, ticket)).transpose()?;
    Ok(Parts {
        identify: Arc::clone(identify),
        spans: Arc::new(spans::Spans),
        routes: Routes::new(sidecar.routes.clone()),
        format: sidecar.format.clone(),
        token: sidecar.token.as_ref().map(signer).transpose()?,
        tickets: farm,
        references: sidecar.reference.as_ref().map(references).transpose()?,
        remember: sidecar.remember,
        remembered_max: sidecar.remembered_max,
    })
}

/// Reads what `[sidecar.reference]` names.
fn references(reference: &config::Reference) -> anyhow::Result<SharedReferences> {
    let config::Reference { keys, seal_with, audience, lifetime } = reference;
    let roots = ticket_roots::read(keys, *seal_with, "[sidecar.reference]")?;
    Ok(SharedReferences { roots, audience: audience.clone(), lifetime: *lifetime })
}

fn signer(token: &config::Token) -> anyhow::Result<TokenSigner> {
    let der = private(&token.key).context("cannot use the key of [sidecar.token]")?;
    let published = token.published.iter().map(|path| published(path)).collect::<anyhow::Result<_>>()?;
    let signer = TokenSigner::new(&der, token.issuer.clone(), token.audience.clone(), token.lifetime);
    let signer = signer.with_context(|| format!("cannot use {} ([sidecar.token])", token.key.display()))?;
    Ok(signer.publishing(published))
}

/// A public key that is published beside the one that signs. A file that every user can change is refused:
/// applications accept tokens by the keys in it.
fn published(path: &Path) -> anyhow::Result<PublicJwk> {
    let text = FileAccess::ReadByAll.read(path);
    let text = text.map_err(|error| anyhow!("the public key {} {error}", path.display()))?;
    let unusable = || {
        format!(
            "{} ([sidecar.token] published) is not a public key in PEM of Ed25519 or P-256",
            path.display()
        )
    };
    let spki = pem_file::public_key(&text).with_context(unusable)?;
    PublicJwk::from_spki(&spki).with_context(unusable)
}

/// A key in PKCS#8 that not every user can read.
fn private(path: &Path) -> anyhow::Result<Zeroizing<Vec<u8>>> {
    let text = Files.private_key(path)?;
    pem_file::pkcs8(&text).with_context(|| format!("{} is not a PKCS#8 key in PEM", path.display()))
}
