//! Who decides at a moment: the live policy, and the one in its shadow. Both are replaced together, by one store to a
//! pointer, so every answer belongs to one configuration.

use crate::audit::{AuditLog, Decided};
use crate::config::Mapping;
use crate::stores::Accounts;
use crate::trust;
use arc_swap::ArcSwap;
use rcmp_service::{Answer, CurrentMapper, Mapper, Question};
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Questions that the shadow works on at once; when it falls behind, those beyond are left out and counted.
const SHADOW_MAX: usize = 256;

/// The live policy, and its shadow.
pub struct Deciders {
    /// What is acted on.
    pub live: Arc<Mapper>,
    /// What is evaluated beside it.
    pub shadow: Option<Shadow>,
    /// The accounts of both.
    pub accounts: Accounts,
}

/// A policy that decides nothing.
#[derive(Clone, Debug)]
pub struct Shadow {
    mapper: Arc<Mapper>,
    working: Arc<Semaphore>,
}

impl Deciders {
    /// Reads what a mapping names, and keeps its revocation lists fresh for as long as this lives.
    pub async fn load(
        mapping: &Mapping,
        revision: u64,
        accounts: Accounts,
        server: &str,
    ) -> anyhow::Result<Self> {
        let live = mapper(mapping, revision, &accounts, server).await?;
        let shadow = match &mapping.shadow {
            None => None,
            Some(shadow) => Some(Shadow {
                mapper: mapper(shadow, revision, &accounts, server).await?,
                working: Arc::new(Semaphore::new(SHADOW_MAX)),
            }),
        };
        Ok(Self { live, shadow, accounts })
    }
}

async fn mapper(
    mapping: &Mapping,
    revision: u64,
    accounts: &Accounts,
    server: &str,
) -> anyhow::Result<Arc<Mapper>> {
    let of = mapping.clone();
    // Large lists take a second, and calls are answered meanwhile.
    let mut loaded = tokio::task::spawn_blocking(move || trust::load(&of, super::now())).await??;
    loaded.policy.revision = revision;
    loaded.fetch(super::now).await;
    let mapper = loaded.mapper(Arc::clone(&accounts.store), server.to_owned())?;
    trust::keep_fresh(&loaded, mapping, super::now);
    Ok(Arc::new(mapper))
}

impl Shadow {
    /// Decides a question once more, in the background, and writes down where the answer would have been another one.
    pub fn compare(&self, question: Question, live: &Answer, audit: &Arc<AuditLog>) {
        let permit: OwnedSemaphorePermit = match Arc::clone(&self.working).try_acquire_owned() {
            Ok(permit) => permit,
            Err(_) => return audit.shadow_left_out(),
        };
        let (mapper, audit) = (Arc::clone(&self.mapper), Arc::clone(audit));
        let (live, revision) = (Decided::from(live), live.policy_revision);
        tokio::spawn(async move {
            let answer = mapper.answer(&question, super::now()).await;
            audit.shadow(&question, &live, &Decided::from(&answer), revision);
            drop(permit);
        });
    }
}

/// Who decides now.
#[derive(Clone)]
pub struct CurrentPolicy(pub Arc<ArcSwap<Deciders>>);

impl CurrentMapper for CurrentPolicy {
    fn current(&self) -> Arc<Mapper> {
        Arc::clone(&self.0.load().live)
    }
}
