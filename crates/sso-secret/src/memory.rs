//! Secrets in memory: each on a page of its own, which is locked and wiped.
//!
//! A locked page is not written to swap. If `RLIMIT_MEMLOCK` forbids the lock, the secret is used all the
//! same, and [`PageLock::Refused`] says why: an operator raises `LimitMEMLOCK=` of the unit. A page is 4 KiB,
//! and there are at most a few dozen: one for each generation and one for the sealing key.

use serde::{Deserialize, Serialize};
use std::fmt;
use zeroize::Zeroize;

/// Size and alignment of what is locked. On machines with larger pages the lock covers the page around it.
const PAGE: usize = 4096;

#[repr(C, align(4096))]
struct Page([u8; PAGE]);

/// Whether secrets are kept out of swap.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum PageLock {
    /// The page is locked.
    Locked,
    /// The system refused the lock, with its reason.
    Refused(String),
}

/// `N` secret bytes on a locked page. Wiped when dropped; `Debug` prints `[redacted]`.
pub struct Locked<const N: usize> {
    // Dropped before the page, so that it unlocks memory that still exists.
    guard: Result<region::LockGuard, String>,
    page: Box<Page>,
}

impl<const N: usize> Locked<N> {
    /// A page of zeros, filled by `fill` after it was locked.
    pub fn fill<E>(fill: impl FnOnce(&mut [u8; N]) -> Result<(), E>) -> Result<Self, E> {
        const { assert!(N <= PAGE) };
        let page = Box::new(Page([0; PAGE]));
        let guard = region::lock(page.0.as_ptr(), PAGE).map_err(|error| error.to_string());
        let mut locked = Self { guard, page };
        fill(locked.bytes_mut())?;
        Ok(locked)
    }

    /// Copies `bytes`. The caller wipes its own.
    pub fn copy(bytes: &[u8; N]) -> Self {
        let Ok(locked) = Self::fill(|page| {
            *page = *bytes;
            Ok::<_, std::convert::Infallible>(())
        });
        locked
    }

    fn bytes_mut(&mut self) -> &mut [u8; N] {
        // INVARIANT: N is at most PAGE.
        self.page.0.first_chunk_mut().expect("a page is longer")
    }

    /// The secret bytes.
    pub fn expose(&self) -> &[u8; N] {
        // INVARIANT: N is at most PAGE.
        self.page.0.first_chunk().expect("a page is longer")
    }

    /// Whether the page is locked.
    pub fn page_lock(&self) -> PageLock {
        match &self.guard {
            Ok(_) => PageLock::Locked,
            Err(why) => PageLock::Refused(why.clone()),
        }
    }
}

impl<const N: usize> Drop for Locked<N> {
    fn drop(&mut self) {
        self.bytes_mut().zeroize();
    }
}

impl<const N: usize> fmt::Debug for Locked<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}
