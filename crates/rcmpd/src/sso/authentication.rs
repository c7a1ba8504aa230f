//! How users authenticate: the security providers that a configuration asks for.

use super::Sso;
use super::accounts::{PasswordMarks, Stores, identity, is_usable};
use super::domains::server_names;
use crate::checked_domains::CheckedDomain;
use crate::clock::uptime;
use crate::config::{self, Config};
use account_store::{Matches, Query, Record};
use dcerpc::security::AuthType;
use dcerpc_tokio::{Peer, SecurityProvider};
use dtyp::Sid;
use netlogon_transport::server::Environment;
use rpc_auth::kerberos::{ClientRealm, KerberosAcceptor, KerberosConfig};
use rpc_auth::ntlm::{
    LocalAccount, LocalChecker, NtHash, NtlmAcceptor, NtlmConfig, ProofChecker, StoreRouter,
};
use rpc_auth::spnego::{SpnegoAcceptor, SpnegoMechanism};
use rpc_auth::{Acceptor, BoxFuture};
use rpc_auth_tokio::{AuthProvider, SlowedChecker};
use std::sync::Arc;
use std::time::Duration;

/// The security providers of the configuration.
pub fn providers(
    config: &Config,
    section: &config::Sso,
    stores: Option<&Stores>,
    sso: &Sso,
) -> anyhow::Result<Vec<Arc<dyn SecurityProvider>>> {
    let mut mechanisms: Vec<Mechanism> = Vec::new();
    if let (Some(kerberos), Some(keytab)) = (&section.kerberos, sso.keytab()) {
        let kerberos = Arc::new(KerberosConfig {
            keytab: keytab.shared(),
            services: kerberos.services.clone(),
            client_realms: kerberos
                .realms
                .iter()
                .map(|(name, kind)| ClientRealm { name: name.clone(), kind: *kind })
                .collect(),
            skew: kerberos.clock_skew,
            replay: sso.replay(),
        });
        mechanisms.push(Mechanism {
            auth_type: AuthType::KERBEROS,
            in_spnego: SpnegoMechanism::Kerberos,
            make: {
                let keytab = Arc::clone(keytab);
                Arc::new(move |_| {
                    // One `stat`: a ticket under a new key comes at once after the key.
                    keytab.look();
                    Box::new(KerberosAcceptor::new(Arc::clone(&kerberos)))
                })
            },
        });
    }
    if let Some(ntlm) = &section.ntlm {
        let ntlm = Arc::new(ntlm_config(config, ntlm, stores, sso.password_marks(), &sso.0.domains)?);
        mechanisms.push(Mechanism {
            auth_type: AuthType::NTLM,
            in_spnego: SpnegoMechanism::Ntlm,
            make: Arc::new(move |peer| Box::new(NtlmAcceptor::new(Arc::clone(&ntlm), peer.address.ip()))),
        });
    }
    let provider = |auth_type, make: Make| -> Arc<dyn SecurityProvider> {
        let (audit, counters) = (sso.authentication_audit(), sso.authentications());
        Arc::new(AuthProvider::new(auth_type, move |peer| make(peer), audit, counters))
    };
    let mut providers: Vec<_> =
        mechanisms.iter().map(|it| provider(it.auth_type, Arc::clone(&it.make))).collect();
    let negotiated = move |peer: &Peer| -> Box<dyn Acceptor> {
        let offered = mechanisms.iter().map(|it| (it.in_spnego, (it.make)(peer))).collect();
        Box::new(SpnegoAcceptor::new(offered))
    };
    providers.push(provider(AuthType::SPNEGO, Arc::new(negotiated)));
    Ok(providers)
}

/// Makes the acceptor of a new context for a client.
type Make = Arc<dyn Fn(&Peer) -> Box<dyn Acceptor> + Send + Sync>;

/// One way to authenticate: by its own RPC type, and within SPNEGO.
struct Mechanism {
    auth_type: AuthType,
    in_spnego: SpnegoMechanism,
    make: Make,
}

fn ntlm_config(
    config: &Config,
    ntlm: &config::Ntlm,
    stores: Option<&Stores>,
    marks: &PasswordMarks,
    domains: &[CheckedDomain],
) -> anyhow::Result<NtlmConfig> {
    let domain = &config.domain;
    let local = stores.filter(|_| ntlm.local).map(|stores| LocalHashes {
        stores: stores.clone(),
        marks: marks.clone(),
        domain: domain.netbios.clone(),
        nowhere: domain.sid.with_rid(0).unwrap_or(domain.sid),
    });
    let mut dummy = [0; 16];
    getrandom::fill(&mut dummy).map_err(|error| anyhow::anyhow!("no random numbers: {error}"))?;
    let local =
        local.map(|hashes| Arc::new(LocalChecker::new(Arc::new(hashes), dummy)) as Arc<dyn ProofChecker>);
    let own_names = vec![config.server.clone(), domain.netbios.clone(), domain.dns.clone()];
    let routes = domains.iter().map(CheckedDomain::route).collect();
    let router = StoreRouter::new(own_names, local, routes);
    Ok(NtlmConfig {
        names: server_names(config, ntlm),
        require_mic: ntlm.require_mic,
        allowed_spns: ntlm.allowed_spns.clone(),
        checker: Arc::new(SlowedChecker::new(Arc::new(router))),
    })
}

/// A look-up is answered so long after it began, whatever was read meanwhile: the time must not tell whether
/// there is such an account. The embedded store needs some 50 µs where nothing is cached.
const LOOK_UP_TIME: Duration = Duration::from_millis(2);

/// The NT hashes of the local store.
struct LocalHashes {
    stores: Stores,
    marks: PasswordMarks,
    domain: String,
    /// A SID that no account has.
    nowhere: Sid,
}

impl LocalHashes {
    /// A name with an `@` is a user principal name, every other one an account name.
    async fn record(&self, user: &str) -> Result<Option<Arc<Record>>, String> {
        let query = match user.contains('@') {
            true => Query::UserPrincipalName(user.to_owned()),
            false => Query::Name(user.to_owned()),
        };
        self.stores.accounts.refresh().await.map_err(|error| error.to_string())?;
        match self.stores.accounts.find(&query).await.map_err(|error| error.to_string())? {
            Matches::One(record) => Ok(Some(record)),
            Matches::None | Matches::Many(_) => Ok(None),
        }
    }

    async fn account(&self, user: &str) -> Result<Option<LocalAccount>, String> {
        let record = self.record(user).await?;
        let sid = record.as_ref().map_or(self.nowhere, |record| record.account.sid);
        let hash = self.stores.hashes.nt_hash(&sid).await.map_err(|error| error.to_string())?;
        let password = hash.as_ref().map(|hash| self.marks.mark(hash));
        Ok(record.map(|record| LocalAccount {
            nt_hash: hash.map(|hash| NtHash::new(*hash.expose())),
            is_usable: is_usable(&record.account),
            identity: identity(&record, &self.domain, password),
        }))
    }
}

impl rpc_auth::ntlm::NtHashes for LocalHashes {
    fn look_up<'a>(&'a self, user: &'a str) -> BoxFuture<'a, Result<Option<LocalAccount>, String>> {
        Box::pin(async move {
            let answered = crate::clock::SystemEnvironment.wait_until(uptime() + LOOK_UP_TIME);
            let account = self.account(user).await;
            answered.await;
            account
        })
    }
}
