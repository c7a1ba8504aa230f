//! Shares of a sealing key: any k of n give it, and fewer say nothing of it.
//!
//! Shamir's scheme octet by octet over GF(2^8) with the polynomial x^8 + x^4 + x^3 + x + 1, the key at x = 0. Multiplication has no
//! tables and no branches that depend on secrets. A share is a line of text: `rcmpd-share-1:` and 84 hexadecimal digits for
//!
//! | octets | field |
//! | --- | --- |
//! | 4 | set: the first octets of `HKDF-SHA256(key, "rcmpd share 1: set")`, by which a combined key is checked |
//! | 1 | k, 2 to 16 |
//! | 1 | x, 1 to 255 |
//! | 32 | y |
//! | 4 | the first octets of SHA-256 over the 38 octets before: a typing error is found before shares are combined |

use crate::derive;
use crate::files::{self, RealDisk, read_bounded};
use crate::memory::Locked;
use crate::source::{PassphraseCost, SealingSource, SourceError, SourceKey, SourceKind};
use sha2::{Digest, Sha256};
use std::fmt;
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// More shares than an operator's team has members.
pub const SHARES_MAX: u8 = 16;
const PREFIX: &str = "rcmpd-share-1:";
const BODY_LEN: usize = 4 + 1 + 1 + 32;
const LEN: usize = BODY_LEN + 4;

/// One share.
pub struct Share {
    set: [u8; 4],
    threshold: u8,
    x: u8,
    y: Locked<32>,
}

/// Why shares do not give a key.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ShareError {
    /// Not a share, or mistyped.
    #[error(
        "not a share: a share is `rcmpd-share-1:` and 84 hexadecimal digits, of which the last 8 are a check"
    )]
    Text,
    /// 2 <= k <= n <= 16.
    #[error("{threshold} of {count} shares are not possible: 2 to {SHARES_MAX}, and no more than there are")]
    Numbers {
        /// k.
        threshold: u8,
        /// n.
        count: u8,
    },
    /// Shares of two keys, or of two splits.
    #[error("the shares are not of one set")]
    Sets,
    /// The same share twice counts once.
    #[error("{have} shares are there, and {need} are needed")]
    TooFew {
        /// Distinct shares.
        have: usize,
        /// k.
        need: u8,
    },
    /// The shares are of one set by their text, and give another key.
    #[error("the shares do not give the key that was split")]
    Wrong,
    /// The system has no randomness.
    #[error("no random numbers")]
    Random,
}

/// Splits a key into `count` shares, of which `threshold` give it.
pub fn split(key: &SourceKey, threshold: u8, count: u8) -> Result<Vec<Share>, ShareError> {
    if threshold < 2 || threshold > count || count > SHARES_MAX {
        return Err(ShareError::Numbers { threshold, count });
    }
    let mut coefficients = Zeroizing::new(vec![[0; 32]; usize::from(threshold - 1)]);
    for coefficient in coefficients.iter_mut() {
        getrandom::fill(coefficient).map_err(|_| ShareError::Random)?;
    }
    Ok(split_with(key, threshold, count, &coefficients))
}

/// Splits a new random key, which exists nowhere else.
pub fn split_new(threshold: u8, count: u8) -> Result<Vec<Share>, ShareError> {
    let key = SourceKey::fill(|bytes| getrandom::fill(bytes)).map_err(|_| ShareError::Random)?;
    split(&key, threshold, count)
}

fn split_with(key: &SourceKey, threshold: u8, count: u8, coefficients: &[[u8; 32]]) -> Vec<Share> {
    let share = |x: u8| {
        let Ok(y) = Locked::fill(|y: &mut [u8; 32]| {
            for (index, octet) in y.iter_mut().enumerate() {
                // Horner's rule from the highest power down.
                let higher = coefficients
                    .iter()
                    .rev()
                    .fold(0, |sum, coefficient| multiply(sum, x) ^ coefficient[index]);
                *octet = multiply(higher, x) ^ key.expose()[index];
            }
            Ok::<_, std::convert::Infallible>(())
        });
        Share { set: set_of(key), threshold, x, y }
    };
    (1..=count).map(share).collect()
}

/// The key of at least as many shares as are needed.
pub fn combine(shares: &[Share]) -> Result<SourceKey, ShareError> {
    let first = shares.first().ok_or(ShareError::TooFew { have: 0, need: 2 })?;
    if shares.iter().any(|share| (share.set, share.threshold) != (first.set, first.threshold)) {
        return Err(ShareError::Sets);
    }
    let distinct = distinct(shares);
    if distinct.len() < usize::from(first.threshold) {
        return Err(ShareError::TooFew { have: distinct.len(), need: first.threshold });
    }
    let Ok(key) = SourceKey::fill(|key| {
        for share in &distinct {
            // Lagrange's basis at 0: the product of x_j / (x_j - x_i); minus is plus here.
            let others = distinct.iter().filter(|other| other.x != share.x);
            let weight = others
                .fold(1, |product, other| multiply(product, multiply(other.x, inverse(other.x ^ share.x))));
            key.iter_mut().zip(share.y.expose()).for_each(|(octet, y)| *octet ^= multiply(*y, weight));
        }
        Ok::<_, std::convert::Infallible>(())
    });
    match set_of(&key) == first.set {
        true => Ok(key),
        false => Err(ShareError::Wrong),
    }
}

/// Of shares with one x, the first.
fn distinct(shares: &[Share]) -> Vec<&Share> {
    let mut distinct: Vec<&Share> = Vec::new();
    for share in shares {
        if distinct.iter().all(|known| known.x != share.x) {
            distinct.push(share);
        }
    }
    distinct
}

fn set_of(key: &SourceKey) -> [u8; 4] {
    *derive(None, key.expose(), &[b"rcmpd share 1: set"])
}

/// In GF(2^8), in constant time.
fn multiply(a: u8, b: u8) -> u8 {
    let (mut a, mut product) = (a, 0);
    for bit in 0..8 {
        product ^= a & 0u8.wrapping_sub(b >> bit & 1);
        a = a << 1 ^ 0x1b & 0u8.wrapping_sub(a >> 7);
    }
    product
}

/// The 254th power. Of 0 it is 0; different shares have different x.
fn inverse(a: u8) -> u8 {
    let square = |a| multiply(a, a);
    let mut power = a;
    // 254 is 11111110 in binary.
    for _ in 0..6 {
        power = multiply(square(power), a);
    }
    square(power)
}

impl Share {
    /// Reads the text of a share.
    pub fn parse(text: &str) -> Result<Self, ShareError> {
        let digits = text.trim().strip_prefix(PREFIX).ok_or(ShareError::Text)?;
        let mut octets = Zeroizing::new([0; LEN]);
        dtyp::read_hex(digits.as_bytes(), octets.as_mut()).ok_or(ShareError::Text)?;
        let (body, check) = octets.split_at(BODY_LEN);
        let (threshold, x) = (body[4], body[5]);
        if Sha256::digest(body)[..4] != *check || !(2..=SHARES_MAX).contains(&threshold) || x == 0 {
            return Err(ShareError::Text);
        }
        let field = |from: usize| body[from..].first_chunk().ok_or(ShareError::Text);
        let y = body[6..].first_chunk().ok_or(ShareError::Text)?;
        Ok(Self { set: *field(0)?, threshold, x, y: Locked::copy(y) })
    }

    /// The text of the share, which is secret.
    pub fn text(&self) -> Zeroizing<String> {
        let mut octets = Zeroizing::new(Vec::with_capacity(LEN));
        octets.extend(self.set);
        octets.extend([self.threshold, self.x]);
        octets.extend(self.y.expose());
        let check = Sha256::digest(&octets);
        octets.extend(&check[..4]);
        let mut text = Zeroizing::new(String::with_capacity(PREFIX.len() + 2 * LEN));
        text.push_str(PREFIX);
        text.push_str(&Zeroizing::new(dtyp::hex(&octets)));
        text
    }
}

impl fmt::Debug for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Share({} of {}, [redacted])", self.x, self.threshold)
    }
}

/// The end of the names of files with shares.
const FILE_END: &str = ".share";

/// A sealing key whose shares are in the files of a folder whose names end with `.share`: one in each, which only their owner may read.
#[derive(Clone, Debug)]
pub struct ShareFolder(PathBuf);

/// How many shares are there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SharesThere {
    /// Distinct shares of the set.
    pub have: usize,
    /// k.
    pub need: u8,
}

impl ShareFolder {
    /// Names the folder. One that is not there has no shares.
    pub fn new(folder: &Path) -> Self {
        Self(folder.to_owned())
    }

    /// Writes a share to a file of the folder, for the folder's owner. A share that is there already counts once. A share of another set
    /// than those that are there is refused.
    pub fn add(&self, share: &Share) -> Result<SharesThere, ShareFileError> {
        let failed = |path: &Path, error| ShareFileError::File(path.to_owned(), error);
        let mut there = self.read()?;
        if there.iter().any(|other| (other.set, other.threshold) != (share.set, share.threshold)) {
            return Err(ShareFileError::Share(self.0.clone(), ShareError::Sets));
        }
        if there.iter().all(|other| other.x != share.x) {
            let path = self.0.join(format!("{}-{}{FILE_END}", dtyp::hex(&share.set), share.x));
            let text = Zeroizing::new(format!("{}\n", *share.text()));
            files::write_owned(&RealDisk, &path, text.as_bytes()).map_err(|error| failed(&path, error))?;
            there.push(Share { y: Locked::copy(share.y.expose()), ..*share });
        }
        Ok(SharesThere { have: distinct(&there).len(), need: share.threshold })
    }

    fn read(&self) -> Result<Vec<Share>, ShareFileError> {
        let failed = |path: &Path, error| ShareFileError::File(path.to_owned(), error);
        let entries = match std::fs::read_dir(&self.0) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(failed(&self.0, error)),
        };
        let mut shares = Vec::new();
        for entry in entries {
            let path = entry.map_err(|error| failed(&self.0, error))?.path();
            if !path.as_os_str().as_encoded_bytes().ends_with(FILE_END.as_bytes()) {
                continue;
            }
            if shares.len() == usize::from(SHARES_MAX) {
                return Err(ShareFileError::TooMany(self.0.clone()));
            }
            let bytes = read_bounded(&path, TEXT_LEN_MAX).map_err(|error| failed(&path, error))?;
            let text = std::str::from_utf8(&bytes).map_err(|_| ShareError::Text);
            let share = text.and_then(Share::parse);
            shares.push(share.map_err(|error| ShareFileError::Share(path, error))?);
        }
        Ok(shares)
    }
}

/// A share with an end of line.
const TEXT_LEN_MAX: usize = PREFIX.len() + 2 * LEN + 2;

/// Why a folder of shares cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ShareFileError {
    /// The file system.
    #[error("{}: {}", .0.display(), .1)]
    File(PathBuf, #[source] std::io::Error),
    /// A file has no share, or one of another set.
    #[error("{}: {}", .0.display(), .1)]
    Share(PathBuf, #[source] ShareError),
    /// More files than a set has shares.
    #[error("{} has more than {SHARES_MAX} shares: remove those that do not belong to the key", .0.display())]
    TooMany(PathBuf),
}

impl SealingSource for ShareFolder {
    fn name(&self) -> String {
        format!("shares:{}", self.0.display())
    }

    fn kind(&self) -> SourceKind {
        SourceKind::Key
    }

    fn key(&self, _: &[u8; 32], _: Option<PassphraseCost>) -> Result<SourceKey, SourceError> {
        let unusable = |why: &dyn fmt::Display| SourceError::Unusable(format!("cannot be used: {why}"));
        let shares = self.read().map_err(|error| unusable(&error))?;
        if shares.is_empty() {
            return Err(SourceError::Missing);
        }
        combine(&shares).map_err(|error| unusable(&error))
    }
}
