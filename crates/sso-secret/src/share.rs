//! Shares of a sealing key: any k of n give it, and fewer say nothing of it.
//!
//! Shamir's scheme octet by octet over GF(2^8) with the polynomial x^8 + x^4 + x^3 + x + 1, the key at x = 0.
//! Multiplication has no tables and no branches that depend on secrets. A share is a line of text:
//! `rcmpd-share-1:` and 84 hexadecimal digits for
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
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// More shares than an operator's team has members.
pub const SHARES_MAX: u8 = 16;
/// Subsets of one set's shares that are tried for a key: enough for 6 wrong ones among 12 of which 6 are
/// needed. Each costs some microseconds, and a sealed service tries once a second.
const SUBSETS_MAX: usize = 4096;
/// The same with those that have one x twice, which cost less.
const STEPS_MAX: usize = 1 << 16;
/// Files with shares that a folder may have: a whole set with its mistyped and outdated ones.
const FILES_MAX: usize = 64;
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

/// The key of shares, of which some may be wrong or of other sets. If shares give several keys, none is
/// chosen.
pub fn combine(shares: &[Share]) -> Result<SourceKey, ShareError> {
    let mut keys = Vec::new();
    for set in sets(shares) {
        if let Some((key, _)) = key_of_set(&set, &|_| true) {
            keys.push(key);
        }
    }
    match <[SourceKey; 1]>::try_from(keys) {
        Ok([key]) => Ok(key),
        Err(keys) if keys.is_empty() => Err(missing(shares)),
        Err(_) => Err(ShareError::Sets),
    }
}

/// Why shares give no key.
fn missing(shares: &[Share]) -> ShareError {
    match sets(shares).as_slice() {
        [] => ShareError::TooFew { have: 0, need: 2 },
        [set] => match (distinct(set).len(), set[0].threshold) {
            (have, need) if have < usize::from(need) => ShareError::TooFew { have, need },
            _ => ShareError::Wrong,
        },
        _ => ShareError::Sets,
    }
}

/// The shares by their set, in the order of the shares.
fn sets(shares: &[Share]) -> Vec<Vec<&Share>> {
    let mut sets: Vec<Vec<&Share>> = Vec::new();
    for share in shares {
        match sets.iter_mut().find(|set| set[0].is_of_set_of(share)) {
            Some(set) => set.push(share),
            None => sets.push(vec![share]),
        }
    }
    sets
}

/// The key of one set that is right, and the shares that gave it. Any subset may be the good one: a wrong
/// share must not keep good ones from giving the key.
fn key_of_set<'s>(
    set: &[&'s Share],
    is_right: &dyn Fn(&SourceKey) -> bool,
) -> Option<(SourceKey, Vec<&'s Share>)> {
    let threshold = usize::from(set.first()?.threshold);
    let mut places: Vec<usize> = (0..threshold).collect();
    if set.len() < threshold {
        return None;
    }
    let mut tried = 0;
    for _ in 0..STEPS_MAX {
        let chosen: Vec<&Share> = places.iter().map(|at| set[*at]).collect();
        if distinct(&chosen).len() == threshold {
            if tried == SUBSETS_MAX {
                return None;
            }
            tried += 1;
            let key = interpolate(&chosen);
            if set_of(&key) == chosen[0].set && is_right(&key) {
                return Some((key, chosen));
            }
        }
        // The next subset in lexicographic order: the last place that can advance does, and those behind it
        // follow it.
        let last = (0..threshold).rev().find(|at| places[*at] < set.len() - threshold + at)?;
        places[last] += 1;
        for at in last + 1..threshold {
            places[at] = places[at - 1] + 1;
        }
    }
    None
}

/// The value at 0 of the polynomial through shares with different x.
fn interpolate(shares: &[&Share]) -> SourceKey {
    let Ok(key) = SourceKey::fill(|key| {
        for share in shares {
            // Lagrange's basis at 0: the product of x_j / (x_j - x_i); minus is plus here.
            let others = shares.iter().filter(|other| other.x != share.x);
            let weight = others
                .fold(1, |product, other| multiply(product, multiply(other.x, inverse(other.x ^ share.x))));
            key.iter_mut().zip(share.y.expose()).for_each(|(octet, y)| *octet ^= multiply(*y, weight));
        }
        Ok::<_, std::convert::Infallible>(())
    });
    key
}

/// Whether a share is on the polynomial of shares that give a key: in the place of one of them it gives the
/// same key.
fn belongs(share: &Share, good: &[&Share], key: &SourceKey) -> bool {
    let mut others: Vec<&Share> = good.iter().copied().filter(|other| other.x != share.x).collect();
    others.truncate(good.len() - 1);
    others.push(share);
    interpolate(&others).expose().ct_eq(key.expose()).into()
}

/// Of shares with one x, the first.
fn distinct<'s>(shares: &[&'s Share]) -> Vec<&'s Share> {
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

impl PartialEq for Share {
    fn eq(&self, other: &Self) -> bool {
        self.is_of_set_of(other) && self.x == other.x && self.y.expose().ct_eq(other.y.expose()).into()
    }
}

impl Share {
    fn is_of_set_of(&self, other: &Self) -> bool {
        (self.set, self.threshold) == (other.set, other.threshold)
    }

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

/// A sealing key whose shares are in the files of a folder whose names end with `.share`: one in each, which
/// only their owner may read.
#[derive(Clone, Debug)]
pub struct ShareFolder(PathBuf);

/// How many shares are there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SharesThere {
    /// Distinct shares of the set.
    pub have: usize,
    /// k.
    pub need: u8,
    /// Whether the share was added: it was not there already.
    pub is_new: bool,
}

/// The shares of a folder with their files, and what is wrong with other files.
struct Read {
    paths: Vec<PathBuf>,
    shares: Vec<Share>,
    findings: Vec<String>,
}

impl ShareFolder {
    /// Names the folder. One that is not there has no shares.
    pub fn new(folder: &Path) -> Self {
        Self(folder.to_owned())
    }

    /// Writes a share to a file of the folder, for the folder's owner. A share that is there already counts
    /// once. The file is there as a whole or not at all. Wrong shares, and those of other keys, cannot be
    /// told before a key is combined: they are written, too.
    pub fn add(&self, share: &Share) -> Result<SharesThere, ShareFileError> {
        let there = self.read()?;
        let is_new = !there.shares.iter().any(|other| other == share);
        if is_new {
            if there.shares.len() + there.findings.len() >= FILES_MAX {
                return Err(ShareFileError::TooMany(self.0.clone()));
            }
            // The name tells shares apart that have one x. It says nothing about y, which has 32 random
            // octets.
            let which: [u8; 8] = *derive(None, share.y.expose(), &[b"rcmpd share 1: file"]);
            let name = format!("{}-{}-{}{FILE_END}", dtyp::hex(&share.set), share.x, dtyp::hex(&which));
            let path = self.0.join(name);
            let text = Zeroizing::new(format!("{}\n", *share.text()));
            files::replace(&RealDisk, &path, text.as_bytes())
                .map_err(|error| ShareFileError::File(path, error))?;
        }
        let of_set: Vec<&Share> = there.shares.iter().filter(|other| other.is_of_set_of(share)).collect();
        let all = [of_set.as_slice(), &[share]].concat();
        Ok(SharesThere { have: distinct(&all).len(), need: share.threshold, is_new })
    }

    /// Files that do not help to give the key, each with what is wrong.
    pub fn findings(&self) -> Vec<String> {
        let Ok(Read { paths, shares, mut findings }) = self.read() else { return Vec::new() };
        let good: Vec<_> = sets(&shares).into_iter().filter_map(|set| key_of_set(&set, &|_| true)).collect();
        if let [(key, good)] = good.as_slice() {
            for (path, share) in paths.iter().zip(&shares) {
                let why = match share.is_of_set_of(good[0]) {
                    true if belongs(share, good, key) => continue,
                    true => "a wrong share: it does not belong to the others of its set",
                    false => "a share of another key than the one that the others give",
                };
                findings.push(format!("{}: {why}; remove it", path.display()));
            }
        }
        findings
    }

    /// Refuses a folder in which other users can put shares of a key of their own, or remove those of others.
    pub fn check(&self) -> Result<(), ShareFileError> {
        match files::mode_if_shared(&self.0) {
            Ok(None) => Ok(()),
            Ok(Some(mode)) => Err(ShareFileError::Folder(self.0.clone(), mode)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(ShareFileError::File(self.0.clone(), error)),
        }
    }

    fn read(&self) -> Result<Read, ShareFileError> {
        self.check()?;
        let failed = |path: &Path, error| ShareFileError::File(path.to_owned(), error);
        let mut read = Read { paths: Vec::new(), shares: Vec::new(), findings: Vec::new() };
        let entries = match std::fs::read_dir(&self.0) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(read),
            Err(error) => return Err(failed(&self.0, error)),
        };
        let mut paths = Vec::new();
        for entry in entries {
            let path = entry.map_err(|error| failed(&self.0, error))?.path();
            if !path.as_os_str().as_encoded_bytes().ends_with(FILE_END.as_bytes()) {
                continue;
            }
            if paths.len() == FILES_MAX {
                return Err(ShareFileError::TooMany(self.0.clone()));
            }
            paths.push(path);
        }
        paths.sort();
        for path in paths {
            match read_share(&path) {
                Ok(share) => {
                    read.shares.push(share);
                    read.paths.push(path);
                }
                Err(why) => read.findings.push(format!("{}: {why}", path.display())),
            }
        }
        Ok(read)
    }
}

/// The error is the end of a sentence about the file.
fn read_share(path: &Path) -> Result<Share, String> {
    let bytes = read_bounded(path, TEXT_LEN_MAX).map_err(|error| error.to_string())?;
    let text = std::str::from_utf8(&bytes).map_err(|_| ShareError::Text.to_string())?;
    Share::parse(text).map_err(|error| error.to_string())
}

/// A share with an end of line.
const TEXT_LEN_MAX: usize = PREFIX.len() + 2 * LEN + 2;

/// Why a folder of shares cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ShareFileError {
    /// The file system.
    #[error("{}: {}", .0.display(), .1)]
    File(PathBuf, std::io::Error),
    /// Others may write to the folder.
    #[error("{} can be changed by other users (mode {:03o}): chmod go-w", .0.display(), .1)]
    Folder(PathBuf, u32),
    /// More files than a set has shares.
    #[error("{} has {FILES_MAX} shares or more: remove those that do not belong to the key", .0.display())]
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
        self.combined(combine)
    }

    fn key_that(
        &self,
        _: &[u8; 32],
        _: Option<PassphraseCost>,
        is_right: &dyn Fn(&SourceKey) -> bool,
    ) -> Result<SourceKey, SourceError> {
        self.combined(|shares| {
            let sets = sets(shares);
            match sets.iter().find_map(|set| key_of_set(set, is_right)) {
                Some((key, _)) => Ok(key),
                // A key that is not the right one is told from no key.
                None if sets.len() == 1 => combine(shares),
                None => Err(missing(shares)),
            }
        })
    }
}

impl ShareFolder {
    fn combined(
        &self,
        combine: impl FnOnce(&[Share]) -> Result<SourceKey, ShareError>,
    ) -> Result<SourceKey, SourceError> {
        let unusable = |why: &dyn fmt::Display| SourceError::Unusable(format!("cannot be used: {why}"));
        let Read { shares, findings, .. } = self.read().map_err(|error| unusable(&error))?;
        match combine(&shares) {
            Ok(key) => Ok(key),
            Err(_) if shares.is_empty() && findings.is_empty() => Err(SourceError::Missing),
            Err(error) if findings.is_empty() => Err(unusable(&error)),
            Err(error) => Err(unusable(&format_args!("{error}; {}", findings.join("; ")))),
        }
    }
}
