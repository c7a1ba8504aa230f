//! Sessions in cookies: what seals them, and what the nodes of a farm on this machine know together.

use crate::clock::now;
use crate::config;
use crate::random;
use crate::ticket_roots;
use account_store::{SqliteTokens, StoreError};
use anyhow::Context;
use arc_swap::ArcSwap;
use dtyp::FileTime;
use std::sync::Arc;
use ticket::{Name, Roots, SALT_LEN, open_state, seal_state};
use tlsnego_service::session::{BoxFuture, SharedTokens, StoreFailed, TicketSealer, TokenHash};
use zeroize::Zeroizing;

/// No other ticket under the same root passes for a session.
const PURPOSE: &str = "tlsnego-sct";

/// The roots of the farm, and its name. A reload replaces the roots.
pub(super) struct Sealer {
    roots: ArcSwap<Roots>,
    purpose: Name,
    audience: Name,
}

impl Sealer {
    pub(super) fn take_over(&self, roots: Roots) {
        self.roots.store(Arc::new(roots));
    }
}

impl TicketSealer for Sealer {
    fn seal(&self, state: &[u8], expires: FileTime) -> Result<Vec<u8>, String> {
        let mut salt = [0; SALT_LEN];
        random::fill(&mut salt);
        let sealed = seal_state(&self.roots.load(), &self.purpose, &self.audience, (state, expires), salt);
        sealed.map_err(|error| error.to_string())
    }

    fn open(&self, ticket: &[u8], now: FileTime) -> Result<Zeroizing<Vec<u8>>, String> {
        let opened = open_state(&self.roots.load(), &self.purpose, &self.audience, now, ticket);
        opened.map_err(|refused| refused.to_string())
    }
}

/// The store, in a file.
#[derive(Clone)]
pub(super) struct Shared(pub(super) SqliteTokens);

fn failed(error: StoreError) -> StoreFailed {
    StoreFailed(format!("[tlsnego.cookie] {error}"))
}

impl SharedTokens for Shared {
    fn begun(&self) -> FileTime {
        self.0.begun()
    }

    fn insert_message(
        &self,
        message: TokenHash,
        now: FileTime,
        keep_until: FileTime,
    ) -> BoxFuture<'_, Result<bool, StoreFailed>> {
        Box::pin(async move { self.0.insert_message(message, now, keep_until).await.map_err(failed) })
    }

    fn end_token(
        &self,
        token: TokenHash,
        at: FileTime,
        now: FileTime,
        keep_until: FileTime,
        is_anonymous: bool,
    ) -> BoxFuture<'_, Result<(), StoreFailed>> {
        let ended = self.0.end_token(token, at, now, keep_until, is_anonymous);
        Box::pin(async move { ended.await.map_err(failed) })
    }

    fn fail_token(
        &self,
        token: TokenHash,
        max: u32,
        now: FileTime,
        keep_until: FileTime,
    ) -> BoxFuture<'_, Result<u32, StoreFailed>> {
        Box::pin(async move { self.0.fail_token(token, max, now, keep_until).await.map_err(failed) })
    }

    fn end_of(&self, tokens: [TokenHash; 2]) -> BoxFuture<'_, Result<Option<FileTime>, StoreFailed>> {
        Box::pin(std::future::ready(self.0.end_of(tokens).map_err(failed)))
    }
}

/// Both of a configuration. Makes the file of the store, if it is not there.
pub(super) fn open(section: &config::TlsnegoCookie) -> anyhow::Result<(Sealer, Shared)> {
    let roots = roots(section)?;
    let store =
        SqliteTokens::open(&section.store, now()).context("cannot use the store of [tlsnego.cookie]")?;
    let purpose = Name::new(PURPOSE).context("the purpose is no name")?;
    let sealer = Sealer { roots: ArcSwap::from_pointee(roots), purpose, audience: section.audience.clone() };
    Ok((sealer, Shared(store)))
}

/// The roots of a configuration.
pub(super) fn roots(section: &config::TlsnegoCookie) -> anyhow::Result<Roots> {
    ticket_roots::read(&section.keys, section.seal_with, "[tlsnego.cookie]")
}

/// Looks at what a configuration names, and writes nothing.
pub fn check_files(section: &config::TlsnegoCookie) -> Vec<anyhow::Result<()>> {
    let store = SqliteTokens::check(&section.store).context("cannot use the store of [tlsnego.cookie]");
    // A key that cannot be read is reported with the other secrets.
    let are_readable = section.keys.iter().all(|key| key.read().is_ok());
    are_readable.then(|| roots(section).map(drop)).into_iter().chain([store]).collect()
}
