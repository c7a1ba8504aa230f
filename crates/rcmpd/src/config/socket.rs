//! `[store.socket]`: accounts that another program answers for.

use super::{Checker, OVERFLOW_UID, SHARED};
use account_store::CacheSettings;
use serde::Deserialize;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::time::Duration;
use toml::Spanned;

/// The longest path of a socket: `sun_path` has 108 bytes, of which one ends it (unix(7)).
const PATH_LEN_MAX: usize = 107;

/// The program of `kind = "socket"`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Socket {
    /// Where it listens.
    pub path: PathBuf,
    /// The user that it runs as, by name or number.
    pub peer: String,
    /// The time for one question.
    pub timeout: Duration,
    /// Questions that it has at once.
    pub connections_max: usize,
    /// The cache in front of it.
    pub cache: CacheSettings,
    /// How long a decision may be used without news of it.
    pub fresh: Duration,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SocketSection {
    path: Spanned<PathBuf>,
    peer: Spanned<String>,
    timeout_s: Option<Spanned<u64>>,
    connections_max: Option<Spanned<u64>>,
    fresh_s: Option<Spanned<u64>>,
    cache_mib: Option<Spanned<u64>>,
    stale_if_error_s: Option<Spanned<u64>>,
}

impl Checker<'_> {
    pub(super) fn socket(&mut self, section: &SocketSection) -> Socket {
        let path = self.path(section.path.get_ref());
        if path.as_os_str().as_bytes().len() > PATH_LEN_MAX {
            let help = "choose a shorter one, as /run/accounts/rcmpd.sock";
            self.problem(section.path.span(), "this path is too long for a socket", help);
        }
        let peer = section.peer.get_ref();
        if peer.is_empty() || SHARED.contains(&peer.as_str()) || peer.parse() == Ok(OVERFLOW_UID) {
            let help = "name the user that the program alone runs as: peer = \"accounts\"";
            self.problem(section.peer.span(), "this is not a user of one program", help);
        }
        let fresh = self.seconds(section.fresh_s.as_ref(), 1..=3600, 10);
        Socket {
            path,
            peer: peer.clone(),
            timeout: self.seconds(section.timeout_s.as_ref(), 1..=60, 2),
            connections_max: self.count(section.connections_max.as_ref(), 1..=64, 8),
            cache: CacheSettings {
                bytes: self.within(section.cache_mib.as_ref(), 1..=65_536, "MiB", 64) << 20,
                ttl: fresh,
                stale_if_error: self.seconds(section.stale_if_error_s.as_ref(), 0..=86_400, 0),
            },
            fresh,
        }
    }
}
