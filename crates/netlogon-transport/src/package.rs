//! Packages behind generic pass-through: a name and a service ([MS-NRPC] 3.2.4.1).

use crate::server::SecureChannel;
use bytes::Bytes;
use dtyp::NtStatus;
use std::collections::HashMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use tower::util::BoxCloneSyncService;

/// A message for a package, decrypted.
#[derive(Debug)]
pub struct PackageCall {
    /// LogonData.
    pub data: Vec<u8>,
    /// LogonDomainName, as the client gave it: the server's own domain, which may be empty, or another one,
    /// and the package decides whether that can be asked.
    pub logon_domain_name: String,
    /// The channel it came over, verified and sealed: proof of who asks.
    pub channel: Arc<SecureChannel>,
    /// The extension of the call ([`dcerpc::client::RequestStub::extension`]), if the client sent one.
    pub extension: Option<Vec<u8>>,
    /// Where it came from.
    pub address: SocketAddr,
}

/// A package's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackageReply {
    /// The method's return value.
    pub status: NtStatus,
    /// Whether the answer is final, so that no other server need be asked.
    pub authoritative: bool,
    /// ValidationData; only with success.
    pub data: Option<Bytes>,
}

impl PackageReply {
    /// An answer without data.
    pub const fn refused(status: NtStatus, authoritative: bool) -> Self {
        Self { status, authoritative, data: None }
    }
}

/// The service behind a package.
pub type PackageService = BoxCloneSyncService<PackageCall, PackageReply, Infallible>;

/// Packages by name, compared without the case of ASCII letters.
#[derive(Clone, Debug, Default)]
pub struct Packages {
    by_name: HashMap<String, PackageService>,
}

impl Packages {
    /// Adds a package.
    #[must_use]
    pub fn with(mut self, name: &str, service: PackageService) -> Self {
        self.by_name.insert(name.to_ascii_lowercase(), service);
        self
    }

    pub(crate) fn find(&self, name: &str) -> Option<&PackageService> {
        self.by_name.get(&name.to_ascii_lowercase())
    }
}
