//! The files that a configuration names, and who else may use them.

use super::{CheckedDomain, Config, Mapping, SecretRef, Sso, StoreKind};
use account_store::FileAccess;
use account_store::file_access::database_files;
use anyhow::{anyhow, bail};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use trust_tokio::crls::CrlSource;

/// Whether two paths lead to one file: they are the same, or links.
fn is_same_file(one: &Path, other: &Path) -> bool {
    let identity = |path: &Path| path.metadata().ok().map(|metadata| (metadata.dev(), metadata.ino()));
    one == other || identity(one).is_some_and(|one| identity(other) == Some(one))
}

/// The keytab, the sealing key, its passphrase or PIN, and the files of the sealed secret.
fn files_of_sso(sso: &Sso) -> Vec<PathBuf> {
    let keytab = sso.kerberos.as_ref().map(|kerberos| kerberos.keytab.clone());
    let sealed = ["master-secret.sealed", "master-secret.instance"].map(|name| sso.folder.join(name));
    sso.seal.file().map(Path::to_owned).into_iter().chain(keytab).chain(sealed).collect()
}

impl Config {
    /// The domains whose controllers check users, with the section of each.
    pub fn checked_domains(&self) -> impl Iterator<Item = (&'static str, &CheckedDomain)> {
        let ntlm = self.sso.iter().flat_map(|sso| &sso.ntlm).flat_map(|ntlm| &ntlm.domains);
        let tlsnego = self.tlsnego.iter().flat_map(|tlsnego| &tlsnego.domains);
        let ntlm = ntlm.map(|domain| ("[[sso.ntlm.domain]]", domain));
        ntlm.chain(tlsnego.map(|domain| ("[[tlsnego.domain]]", domain)))
    }

    /// Refuses a configuration that names a file which users of this machine can read or change that must
    /// not, or whose audit log would be written into another file that is named. A file that is not there is
    /// left to what reads it.
    pub fn check_files(&self) -> anyhow::Result<()> {
        account_store::file_access::let_group_read_keys(self.group_readable_keys);
        self.check_ticket_roots()?;
        let files = self.files();
        for (path, access) in &files {
            access.check_path(path).map_err(|error| anyhow!("{} {error}", path.display()))?;
        }
        for path in files.into_iter().map(|(path, _)| path).chain(self.other_files()) {
            if let Some(key) = self.is_written_to(&path) {
                bail!(
                    "{key} is {}, which the configuration names for something else: use a separate file",
                    path.display()
                );
            }
        }
        if let (Some(log), Some(heads)) = (&self.audit.path, &self.audit.heads)
            && is_same_file(log, &heads.path)
        {
            bail!("audit.heads.path is the audit log itself ({}): name another file", heads.path.display());
        }
        Ok(())
    }

    /// Refuses a root of tickets that is in a file of the master secret: its administrators can ask for that
    /// one.
    fn check_ticket_roots(&self) -> anyhow::Result<()> {
        let of_master_secret: Vec<_> = self.sso.iter().flat_map(files_of_sso).collect();
        for (section, key) in self.ticket_keys() {
            let SecretRef::File(path) = key else { continue };
            if of_master_secret.iter().any(|other| is_same_file(other, path)) {
                bail!(
                    "a key of {section} is {}, which [sso] names for the master secret: make a key for tickets alone with `rcmpd sidecar ticket-key`",
                    path.display()
                );
            }
        }
        Ok(())
    }

    /// The roots of tickets, with the section of each.
    pub(crate) fn ticket_keys(&self) -> impl Iterator<Item = (&'static str, &SecretRef)> {
        let tickets = self.sidecar.iter().filter_map(|sidecar| sidecar.ticket.as_ref());
        let tickets = tickets.flat_map(|ticket| &ticket.keys).map(|key| ("[sidecar.ticket]", key));
        let references = self.sidecar.iter().filter_map(|sidecar| sidecar.reference.as_ref());
        let references = references.flat_map(|it| &it.keys).map(|key| ("[sidecar.reference]", key));
        let cookies = self.tlsnego.iter().filter_map(|tlsnego| tlsnego.cookie.as_ref());
        tickets
            .chain(references)
            .chain(cookies.flat_map(|cookie| &cookie.keys).map(|key| ("[tlsnego.cookie]", key)))
    }

    /// The key by which lines of the audit log, or its heads, would be written into this file.
    pub(super) fn is_written_to(&self, path: &Path) -> Option<&'static str> {
        let log = self.audit.path.iter().map(|log| ("audit.path", log));
        let mut written = log.chain(self.audit.heads.iter().map(|heads| ("audit.heads.path", &heads.path)));
        written.find(|(_, written)| is_same_file(written, path)).map(|(key, _)| key)
    }

    /// The other files that are named. Certificates, CRLs and public keys are secret to no user, and what
    /// reads the files of `[sso]` checks their modes.
    fn other_files(&self) -> impl Iterator<Item = PathBuf> {
        let sidecar = || self.sidecar.iter();
        let listeners = || sidecar().flat_map(|sidecar| &sidecar.listen);
        let upstreams = listeners().filter_map(|listen| listen.settings.upstream.as_ref());
        let upstreams = upstreams.chain(sidecar().filter_map(|it| Some(&it.proxy.as_ref()?.upstream)));
        let own = upstreams.filter_map(|upstream| upstream.tls.as_ref()?.own.as_ref()).map(|(own, _)| own);
        let certificates = listeners().filter_map(|listen| Some(&listen.settings.tls.as_ref()?.certificate));
        let certificates =
            certificates.chain(sidecar().filter_map(|it| Some(&it.proxy.as_ref()?.certificate)));
        let published = sidecar().filter_map(|it| it.token.as_ref()).flat_map(|token| &token.published);
        let mappings = self.mapping.iter().flat_map(|mapping| [Some(mapping), mapping.shadow.as_deref()]);
        let of_mappings = mappings.flatten().flat_map(|mapping: &Mapping| {
            let crls = mapping.trust.crls.iter().filter_map(|crl| match crl {
                CrlSource::File(path) => Some(path),
                CrlSource::Url(_) => None,
            });
            crls.chain(mapping.authorities.iter().filter_map(|entry| entry.ocsp.as_ref()?.signer.as_ref()))
        });
        let named = own.chain(certificates).chain(published).chain(of_mappings).cloned();
        let operators = || self.admin.iter().filter_map(|admin| admin.tls.as_ref());
        let named = named.chain(operators().map(|tls| tls.certificate.clone()));
        let named = named.chain(operators().flat_map(|tls| tls.crls.iter().cloned()));
        let named = named.chain(self.tlsnego.iter().map(|it| it.certificate.0.clone()));
        let named = named.chain(self.tlsnego.iter().filter_map(|it| Some(it.tls.clone()?.0)));
        let named = named.chain(self.tlsnego.iter().filter_map(|it| it.metadata.clone().flatten()));
        named.chain(self.sso.iter().flat_map(files_of_sso))
    }

    /// All files that are named.
    pub(crate) fn named_files(&self) -> impl Iterator<Item = PathBuf> {
        self.files().into_iter().map(|(path, _)| path).chain(self.other_files())
    }

    fn files(&self) -> Vec<(PathBuf, FileAccess)> {
        use FileAccess::{Group, Owner, ReadByAll};
        let mut files: Vec<(PathBuf, FileAccess)> = Vec::new();
        let mut add = |path: &Path, access| files.push((path.to_owned(), access));
        let secrets = self.client.iter().map(|client| &client.secret);
        let secrets = secrets.chain(self.admin.iter().filter_map(|admin| admin.token.as_ref()));
        let secrets = secrets.chain(self.peers.iter().filter_map(|peer| peer.secret.as_ref()));
        let secrets = secrets.chain(self.relays.iter().map(|relay| &relay.secret));
        let domains = self.checked_domains().map(|(_, domain)| domain);
        let secrets = secrets.chain(domains.filter_map(|domain| domain.peer.secret.as_ref()));
        let listeners = || self.sidecar.iter().flat_map(|sidecar| &sidecar.listen);
        let secrets = secrets.chain(self.ticket_keys().map(|(_, key)| key));
        for secret in secrets.chain(listeners().filter_map(|listen| listen.secret.as_ref())) {
            if let SecretRef::File(path) = secret {
                add(path, Group);
                add(&secret_ref::rotation::next(path), Group);
            }
        }
        if let Some(store) = &self.store {
            add(&store.key, Owner);
            let files = store.machines.iter().flat_map(|path| database_files(path));
            files.for_each(|path| add(&path, ReadByAll));
            for (_, kind) in store.kinds() {
                match kind {
                    StoreKind::Sqlite(path) => {
                        database_files(path).iter().for_each(|path| add(path, ReadByAll));
                    }
                    StoreKind::Postgres(postgres) => {
                        postgres.ca.iter().for_each(|path| add(path, ReadByAll));
                        if let Some(SecretRef::File(path)) = &postgres.password {
                            add(path, Group);
                        }
                    }
                    StoreKind::Memory(path) => add(path, ReadByAll),
                    StoreKind::Ldap(ldap) => {
                        ldap.ca.iter().for_each(|path| add(path, ReadByAll));
                        if let SecretRef::File(path) = &ldap.secret {
                            add(path, Group);
                            add(&secret_ref::rotation::next(path), Group);
                        }
                    }
                    StoreKind::Profile(_)
                    | StoreKind::Several(_)
                    | StoreKind::Socket(_)
                    | StoreKind::Added(..) => {}
                }
            }
        }
        for tls in self.admin.iter().filter_map(|admin| admin.tls.as_ref()) {
            add(&tls.key, Group);
            add(&tls.client_ca, ReadByAll);
        }
        self.telemetry.otlp.ca.iter().for_each(|path| add(path, ReadByAll));
        if let Some(tlsnego) = &self.tlsnego {
            add(&tlsnego.certificate.1, Group);
            tlsnego.tls.iter().for_each(|(_, key)| add(key, Group));
            tlsnego.state.iter().for_each(|path| add(path, ReadByAll));
            let store = tlsnego.cookie.iter().flat_map(|cookie| database_files(&cookie.store));
            store.for_each(|path| add(&path, Owner));
        }
        for key in self.forward.proof_key.iter().chain(self.audit.heads.iter().map(|heads| &heads.key)) {
            add(key, Owner);
        }
        if let Some(sidecar) = &self.sidecar {
            for tls in listeners().filter_map(|listen| listen.settings.tls.as_ref()) {
                add(&tls.key, Group);
                add(&tls.client_ca, ReadByAll);
            }
            let upstreams = listeners().filter_map(|listen| listen.settings.upstream.as_ref());
            let upstreams = upstreams.chain(sidecar.proxy.iter().map(|proxy| &proxy.upstream));
            for tls in upstreams.filter_map(|upstream| upstream.tls.as_ref()) {
                add(&tls.ca, ReadByAll);
                tls.own.iter().for_each(|(_, key)| add(key, Group));
            }
            let keys = sidecar.proxy.iter().map(|proxy| &proxy.key);
            keys.chain(sidecar.token.iter().map(|token| &token.key)).for_each(|key| add(key, Group));
        }
        let proof_keys = self.client.iter().flat_map(|client| &client.proof_keys).map(|(_, path)| path);
        let proof_keys = proof_keys.chain(self.peers.iter().filter_map(|peer| peer.proof_key.as_ref()));
        let mappings =
            self.mapping.iter().flat_map(|mapping| [Some(mapping), mapping.shadow.as_deref()]).flatten();
        let certificates = mappings.flat_map(|mapping: &Mapping| {
            let entries = mapping.authorities.iter().map(|entry| &entry.certificate);
            mapping.trust.anchors.iter().chain(&mapping.trust.intermediates).chain(entries)
        });
        proof_keys.chain(certificates).for_each(|path| add(path, ReadByAll));
        files
    }
}
