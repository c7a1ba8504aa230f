//! A client of the proxy: its certificate, or none, and the sessions that it resumes.

use rustls::client::{
    ClientSessionStore, ResolvesClientCert, Tls12ClientSessionValue, Tls13ClientSessionValue,
};
use rustls::pki_types::ServerName;
use rustls::sign::CertifiedKey;
use rustls::{NamedGroup, SignatureScheme};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Cached tickets; servers send two to four.
const TICKETS_MAX: usize = 8;

/// A client with a certificate or without one. The certificate can be held back for a while: rustls resumes
/// no session of another client's.
#[derive(Debug)]
pub(super) struct Client {
    key: Option<Arc<CertifiedKey>>,
    holds_back: AtomicBool,
}

impl Client {
    pub(super) fn anonymous() -> Arc<Self> {
        Arc::new(Self { key: None, holds_back: AtomicBool::new(false) })
    }

    pub(super) fn with(key: Arc<CertifiedKey>) -> Arc<Self> {
        Arc::new(Self { key: Some(key), holds_back: AtomicBool::new(false) })
    }

    pub(super) fn hold_back(&self, holds_back: bool) {
        self.holds_back.store(holds_back, Ordering::Release);
    }
}

impl ResolvesClientCert for Client {
    /// Whatever issuers the server names: a proxy has to refuse what it does not want.
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        match self.holds_back.load(Ordering::Acquire) {
            true => None,
            false => self.key.clone(),
        }
    }

    fn has_certs(&self) -> bool {
        self.key.is_some()
    }
}

/// Sessions that are resumed under any name.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    cached: Mutex<Cached>,
}

#[derive(Debug, Default)]
struct Cached {
    group: Option<NamedGroup>,
    tls12: Option<Tls12ClientSessionValue>,
    tls13: VecDeque<Tls13ClientSessionValue>,
}

impl Sessions {
    fn cached(&self) -> MutexGuard<'_, Cached> {
        self.cached.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ClientSessionStore for Sessions {
    fn set_kx_hint(&self, _: ServerName<'static>, group: NamedGroup) {
        self.cached().group = Some(group);
    }

    fn kx_hint(&self, _: &ServerName<'_>) -> Option<NamedGroup> {
        self.cached().group
    }

    fn set_tls12_session(&self, _: ServerName<'static>, value: Tls12ClientSessionValue) {
        self.cached().tls12 = Some(value);
    }

    fn tls12_session(&self, _: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        self.cached().tls12.clone()
    }

    fn remove_tls12_session(&self, _: &ServerName<'static>) {
        self.cached().tls12 = None;
    }

    fn insert_tls13_ticket(&self, _: ServerName<'static>, value: Tls13ClientSessionValue) {
        let mut cached = self.cached();
        if cached.tls13.len() < TICKETS_MAX {
            cached.tls13.push_back(value);
        }
    }

    fn take_tls13_ticket(&self, _: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        self.cached().tls13.pop_front()
    }
}
