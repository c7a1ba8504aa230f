//! The files that a configuration names, and who else may use them.

use super::{Config, Mapping, SecretRef, StoreKind};
use account_store::FileAccess;
use account_store::file_access::database_files;
use anyhow::anyhow;
use std::path::{Path, PathBuf};

impl Config {
    /// Refuses a configuration that names a file which users of this machine can read or change that must not. A file that is not there
    /// is left to what reads it.
    pub fn check_files(&self) -> anyhow::Result<()> {
        for (path, access) in self.files() {
            access.check_path(&path).map_err(|error| anyhow!("{} {error}", path.display()))?;
        }
        Ok(())
    }

    fn files(&self) -> Vec<(PathBuf, FileAccess)> {
        use FileAccess::{Group, Owner, ReadByAll};
        let mut files: Vec<(PathBuf, FileAccess)> = Vec::new();
        let mut add = |path: &Path, access| files.push((path.to_owned(), access));
        let secrets = self.client.iter().map(|client| &client.secret);
        let secrets = secrets.chain(self.admin.iter().filter_map(|admin| admin.token.as_ref()));
        let secrets = secrets.chain(self.peers.iter().filter_map(|peer| peer.secret.as_ref()));
        let secrets = secrets.chain(self.relays.iter().map(|relay| &relay.secret));
        let listeners = || self.sidecar.iter().flat_map(|sidecar| &sidecar.listen);
        for secret in secrets.chain(listeners().filter_map(|listen| listen.secret.as_ref())) {
            if let SecretRef::File(path) = secret {
                add(path, Group);
                add(&crate::trust_secret::next(path), Group);
            }
        }
        if let Some(store) = &self.store {
            add(&store.key, Owner);
            database_files(&store.machines).iter().for_each(|path| add(path, ReadByAll));
            if let StoreKind::Memory(path) = &store.kind {
                add(path, ReadByAll);
            }
        }
        for key in self.forward.proof_key.iter().chain(self.audit.heads.iter().map(|heads| &heads.key)) {
            add(key, Owner);
        }
        if let Some(sidecar) = &self.sidecar {
            for tls in listeners().filter_map(|listen| listen.tls.as_ref()) {
                add(&tls.key, Group);
                add(&tls.client_ca, ReadByAll);
            }
            let upstreams = listeners().filter_map(|listen| listen.upstream.as_ref());
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
