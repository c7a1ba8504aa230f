//! Generations: what is public of each secret, and their list in the header of a file.
//!
//! # Format of the list
//!
//! | octets | field |
//! | --- | --- |
//! | 16 | lineage: random, drawn with the first secret; a backup of another lineage is foreign |
//! | 1 | count, 1 to 8; the newest generation comes first |
//! | 4 | number, from 1, decreasing |
//! | 1 | origin: 1 generated, 2 imported, 3 restored |
//! | 8 | key id |
//! | 8, 8, 8 | created, superseded, end of the overlap: Unix seconds; the last two are 0 for the newest |
//! | 62 | sentinel: a blob without plaintext under this secret, purpose `rcmpd/sentinel`, associated data lineage and number |
//!
//! The six last rows come once for each generation. The sealed part of the file is 16 octets for each
//! generation, in the same order.

use crate::blob::{self, Purpose};
use crate::envelope::FormatError;
use crate::secret::{KeyId, Keyring, MasterSecret};
use crate::time::UnixTime;
use dtyp::{DecodeError, DecodeErrorKind, Reader};
use serde::Serialize;
use std::time::Duration;
use zeroize::Zeroizing;

/// Generations that overlap at one time. More than this means that rotations come faster than nodes reseal.
pub const GENERATIONS_MAX: usize = 8;

const SENTINEL_LEN: usize = blob::OVERHEAD;

/// How long older generations stay after a rotation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Overlap {
    /// For the generation that was the newest until now. Zero: it is dropped at once.
    pub time: Duration,
    /// Whether all older generations end by then, too. If this shortens one and there is no room, the oldest
    /// ones end at once: a fresh key is wanted, as after a leak.
    pub shorten_older: bool,
}

/// Older generations keep the ends of their overlaps.
impl From<Duration> for Overlap {
    fn from(time: Duration) -> Self {
        Self { time, shorten_older: false }
    }
}

/// Where a secret came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Origin {
    /// Drawn here.
    Generated,
    /// Taken over from an existing server.
    Imported,
    /// Brought back from a backup under a new number.
    Restored,
}

impl Origin {
    const ALL: [Self; 3] = [Self::Generated, Self::Imported, Self::Restored];
}

/// What is public of a generation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Generation {
    /// From 1; each rotation adds one.
    pub number: u32,
    /// Where it came from.
    pub origin: Origin,
    /// Its public name.
    pub key_id: KeyId,
    /// When it became the newest.
    pub created: UnixTime,
    /// When a newer one took its place; `None` for the newest.
    pub superseded: Option<UnixTime>,
    /// Until when nodes may need it; `None` for the newest.
    pub overlap_ends: Option<UnixTime>,
    #[serde(skip)]
    sentinel: [u8; SENTINEL_LEN],
}

/// Generations with their secrets, newest first. Never empty.
#[derive(Clone)]
pub(crate) struct Generations {
    pub(crate) lineage: [u8; 16],
    entries: Vec<(Generation, MasterSecret)>,
}

/// Why a generation was not added.
#[derive(Debug, thiserror::Error, PartialEq)]
pub(crate) enum NotAdded {
    #[error("no random numbers: {0}")]
    Random(#[from] getrandom::Error),
    #[error("the secret is in use already, as generation {0}")]
    Known(u32),
    #[error(
        "{GENERATIONS_MAX} generations overlap already: wait until the oldest overlap ends, or end older ones by a rotation with a shorter overlap (0: all)"
    )]
    TooMany,
    #[error("the generation numbers are used up")]
    Numbers,
}

impl Generations {
    /// The first generation of a new lineage.
    pub(crate) fn first(secret: MasterSecret, origin: Origin, now: UnixTime) -> Result<Self, NotAdded> {
        let mut lineage = [0; 16];
        getrandom::fill(&mut lineage)?;
        let generation = Self::describe(&lineage, 1, origin, &secret, now)?;
        Ok(Self { lineage, entries: vec![(generation, secret)] })
    }

    fn describe(
        lineage: &[u8; 16],
        number: u32,
        origin: Origin,
        secret: &MasterSecret,
        created: UnixTime,
    ) -> Result<Generation, getrandom::Error> {
        let ring = Keyring::new(secret.clone());
        let sentinel = match blob::seal(&ring, &sentinel_purpose(), &sentinel_data(lineage, number), &[]) {
            Ok(blob) => blob,
            Err(blob::BlobError::Random(error)) => return Err(error),
            Err(other) => unreachable!("an empty blob is sealed: {other}"),
        };
        Ok(Generation {
            number,
            origin,
            key_id: secret.key_id(),
            created,
            superseded: None,
            overlap_ends: None,
            // INVARIANT: a blob without plaintext has only its overhead.
            sentinel: sentinel.try_into().expect("the plaintext is empty"),
        })
    }

    pub(crate) fn newest(&self) -> (&Generation, &MasterSecret) {
        // INVARIANT: `first` and `open` put one in, and `add` keeps one.
        let (generation, secret) = self.entries.first().expect("there is a generation");
        (generation, secret)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&Generation, &MasterSecret)> {
        self.entries.iter().map(|(generation, secret)| (generation, secret))
    }

    pub(crate) fn keyring(&self) -> Keyring {
        let older = self.entries[1..].iter().map(|(_, secret)| secret.clone());
        older.fold(Keyring::new(self.newest().1.clone()), Keyring::with_older)
    }

    /// Drops what no node may need any more.
    pub(crate) fn drop_ended(&mut self, now: UnixTime) {
        self.entries.retain(|(generation, _)| generation.overlap_ends.is_none_or(|end| end > now));
    }

    /// When the next overlap ends.
    pub(crate) fn next_end(&self) -> Option<UnixTime> {
        self.entries.iter().filter_map(|(generation, _)| generation.overlap_ends).min()
    }

    /// A secret becomes the newest. Generations whose overlap has ended are dropped.
    pub(crate) fn add(
        &mut self,
        secret: MasterSecret,
        origin: Origin,
        now: UnixTime,
        overlap: Overlap,
    ) -> Result<(), NotAdded> {
        let key_id = secret.key_id();
        if let Some((known, _)) = self.entries.iter().find(|(known, _)| known.key_id == key_id) {
            return Err(NotAdded::Known(known.number));
        }
        let number = self.newest().0.number.checked_add(1).ok_or(NotAdded::Numbers)?;
        let generation = Self::describe(&self.lineage, number, origin, &secret, now)?;
        let newest = &mut self.entries[0].0;
        newest.superseded = Some(now);
        let end = now.after(overlap.time);
        newest.overlap_ends = Some(end);
        let mut is_shortened = false;
        if overlap.shorten_older {
            for (older, _) in &mut self.entries {
                is_shortened |= older.overlap_ends > Some(end);
                older.overlap_ends = older.overlap_ends.min(Some(end));
            }
        }
        self.drop_ended(now);
        if is_shortened {
            self.entries.truncate(GENERATIONS_MAX - 1);
        }
        if self.entries.len() >= GENERATIONS_MAX {
            return Err(NotAdded::TooMany);
        }
        self.entries.insert(0, (generation, secret));
        Ok(())
    }

    /// Numbers the newest anew if its number is not above all that were used: a number names one secret.
    pub(crate) fn raise_above(&mut self, highest: u32) -> Result<(), NotAdded> {
        let lineage = self.lineage;
        // INVARIANT: never empty.
        let (newest, secret) = self.entries.first_mut().expect("there is a generation");
        if newest.number < highest {
            let number = highest.checked_add(1).ok_or(NotAdded::Numbers)?;
            *newest = Self::describe(&lineage, number, Origin::Restored, secret, newest.created)?;
        }
        Ok(())
    }

    /// What a restore makes of these live generations and those of a backup.
    ///
    /// The newest of the backup becomes the newest. Unless it is the live newest already, it gets a new
    /// number. All others of both stay for `overlap`, as many as there is room for, newest first: a restore
    /// loses nothing that a live generation sealed. If two generations have the same number, as in two
    /// lineages, the older ones are numbered anew too: blobs name the key id, not the number.
    pub(crate) fn merged(self, backup: Self, now: UnixTime, overlap: Duration) -> Result<Self, NotAdded> {
        let lineage = backup.lineage;
        let highest = self.newest().0.number.max(backup.newest().0.number);
        let live_newest = self.newest().0.clone();
        let is_same = lineage == self.lineage && backup.newest().0.key_id == self.newest().0.key_id;
        let mut backup = backup.entries.into_iter();
        // INVARIANT: never empty.
        let (mut newest, secret) = backup.next().expect("there is a generation");
        let mut older: Vec<(Generation, MasterSecret)> = Vec::new();
        let mut clashes = lineage != self.lineage;
        for (generation, secret) in self.entries.into_iter().chain(backup) {
            let is_known = |known: &Generation| known.key_id == generation.key_id;
            if is_known(&newest) || older.iter().any(|(known, _)| is_known(known)) {
                continue;
            }
            clashes |= older.iter().any(|(known, _)| known.number == generation.number);
            older.push((generation, secret));
        }
        older.sort_by_key(|(generation, _)| std::cmp::Reverse((generation.number, generation.created)));
        older.truncate(GENERATIONS_MAX - 1);
        if is_same {
            // The live one keeps its number, which an earlier restore may have raised.
            newest = live_newest;
            clashes |= older.iter().any(|(generation, _)| generation.number >= newest.number);
        }
        if !is_same || clashes {
            let room = 1 + if clashes { older.len() as u32 } else { 0 };
            newest.number = highest.checked_add(room).ok_or(NotAdded::Numbers)?;
            newest.origin = Origin::Restored;
            newest.created = now;
        }
        if clashes {
            for ((generation, _), number) in older.iter_mut().zip((0..newest.number).rev()) {
                generation.number = number;
            }
        }
        let mut entries =
            vec![(Self::describe(&lineage, newest.number, newest.origin, &secret, newest.created)?, secret)];
        for (generation, secret) in older {
            let mut kept =
                Self::describe(&lineage, generation.number, generation.origin, &secret, generation.created)?;
            kept.superseded = Some(generation.superseded.unwrap_or(now));
            kept.overlap_ends = generation.overlap_ends.max(Some(now.after(overlap)));
            entries.push((kept, secret));
        }
        Ok(Self { lineage, entries })
    }

    /// The public list, as it stands in a header.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.extend(self.lineage);
        out.push(self.entries.len() as u8);
        for (generation, _) in &self.entries {
            // 0 says that there is no such time, and a clock without a battery begins there.
            let time = |time: Option<UnixTime>| time.map_or(0, |time| time.0.max(1)).to_le_bytes();
            out.extend(generation.number.to_le_bytes());
            out.push(generation.origin as u8 + 1);
            out.extend(generation.key_id.0);
            out.extend(generation.created.0.to_le_bytes());
            out.extend(time(generation.superseded));
            out.extend(time(generation.overlap_ends));
            out.extend(generation.sentinel);
        }
    }

    /// The sealed part.
    pub(crate) fn secrets(&self) -> Zeroizing<Vec<u8>> {
        let mut plain = Zeroizing::new(Vec::with_capacity(GENERATIONS_MAX * MasterSecret::LEN));
        self.entries.iter().for_each(|(_, secret)| plain.extend(secret.expose()));
        plain
    }
}

/// The public list of a header, whose secrets are not known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Listed {
    pub(crate) lineage: [u8; 16],
    pub(crate) generations: Vec<Generation>,
}

impl Listed {
    /// The number of the newest generation.
    pub(crate) fn highest(&self) -> u32 {
        self.generations.first().map_or(0, |generation| generation.number)
    }

    pub(crate) fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let bad = |reader: &Reader<'_>, what| Err(reader.error(what, DecodeErrorKind::BadValue));
        let lineage = reader.array("lineage")?;
        let count = usize::from(reader.u8("count of generations")?);
        if !(1..=GENERATIONS_MAX).contains(&count) {
            return bad(reader, "count of generations");
        }
        let mut generations: Vec<Generation> = Vec::with_capacity(count);
        for _ in 0..count {
            let number = reader.u32("generation number")?;
            if number == 0 || generations.last().is_some_and(|newer| newer.number <= number) {
                return bad(reader, "generation number");
            }
            let origin = usize::from(reader.u8("generation origin")?);
            let Some(origin) = origin.checked_sub(1).and_then(|index| Origin::ALL.get(index)) else {
                return bad(reader, "generation origin");
            };
            let key_id = KeyId(reader.array("key id")?);
            let created = UnixTime(reader.u64("generation created")?);
            let mut time = |what| reader.u64(what).map(|time| (time != 0).then_some(UnixTime(time)));
            let (superseded, overlap_ends) = (time("generation superseded")?, time("end of the overlap")?);
            if [superseded.is_none(), overlap_ends.is_none()] != [generations.is_empty(); 2] {
                return bad(reader, "generation times");
            }
            let sentinel = reader.array("sentinel")?;
            generations.push(Generation {
                number,
                origin: *origin,
                key_id,
                created,
                superseded,
                overlap_ends,
                sentinel,
            });
        }
        Ok(Self { lineage, generations })
    }

    /// Joins the list with its secrets. Each secret has to open its sentinel.
    pub(crate) fn open(self, plain: &[u8]) -> Result<Generations, FormatError> {
        let Self { lineage, generations } = self;
        let mut reader = Reader::new(plain);
        let mut entries = Vec::with_capacity(generations.len());
        for generation in generations {
            let octets = reader.take("secret", MasterSecret::LEN)?;
            let wrong = FormatError::Sentinel(generation.number);
            let Ok(secret) = MasterSecret::from_octets(octets) else { return Err(wrong) };
            let ring = Keyring::new(secret.clone());
            let data = sentinel_data(&lineage, generation.number);
            let opened = blob::open(&ring, &sentinel_purpose(), &data, &generation.sentinel);
            if opened.is_err() || secret.key_id() != generation.key_id {
                return Err(wrong);
            }
            entries.push((generation, secret));
        }
        reader.finish("secrets")?;
        Ok(Generations { lineage, entries })
    }
}

fn sentinel_purpose() -> Purpose {
    Purpose::new("rcmpd/sentinel").expect("the name is short and plain")
}

fn sentinel_data(lineage: &[u8; 16], number: u32) -> Vec<u8> {
    [lineage.as_slice(), &number.to_le_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(octet: u8) -> MasterSecret {
        MasterSecret::from_octets(&[octet; 16]).expect("a secret")
    }

    /// Generations with these numbers and secrets, newest first.
    fn list(lineage: u8, entries: &[(u32, u8)]) -> Generations {
        let lineage = [lineage; 16];
        let entry = |(index, (number, octet)): (usize, &(u32, u8))| {
            let secret = secret(*octet);
            let mut generation = Generations::describe(
                &lineage,
                *number,
                Origin::Generated,
                &secret,
                UnixTime(1000 - index as u64),
            )
            .expect("random numbers");
            let older = (index > 0).then_some(UnixTime(1));
            (generation.superseded, generation.overlap_ends) = (older, older);
            (generation, secret)
        };
        Generations { lineage, entries: entries.iter().enumerate().map(entry).collect() }
    }

    /// What a file would hold is read again.
    fn reread(generations: &Generations) -> Vec<u32> {
        let mut header = Vec::new();
        generations.encode(&mut header);
        let mut reader = Reader::new(&header);
        let listed = Listed::decode(&mut reader).expect("the list is one that is read");
        reader.finish("list").expect("nothing is left over");
        let numbers = listed.generations.iter().map(|generation| generation.number).collect();
        listed.open(&generations.secrets()).expect("each secret opens its sentinel");
        numbers
    }

    fn merged(live: &Generations, backup: &Generations) -> Result<Generations, NotAdded> {
        live.clone().merged(backup.clone(), UnixTime(2000), Duration::from_secs(10))
    }

    #[test]
    fn a_merge_numbers_each_generation_once_and_the_newest_highest() {
        let live = list(1, &[(3, 1), (2, 2)]);
        for (backup, expected) in [
            // The same secret as the live newest, which an earlier restore numbered anew.
            (list(1, &[(1, 1)]), vec![3, 2]),
            (list(1, &[(3, 1), (1, 7)]), vec![3, 2, 1]),
            // It was renumbered on a copy, and has a generation that is newer by its number.
            (list(1, &[(9, 1), (8, 8)]), vec![12, 11, 10]),
            (list(1, &[(2, 2)]), vec![4, 3]),
            (list(1, &[(4, 4), (3, 1)]), vec![5, 3, 2]),
            (list(2, &[(3, 1), (2, 2)]), vec![5, 4]),
            (list(2, &[(7, 7)]), vec![10, 9, 8]),
        ] {
            let result = merged(&live, &backup).expect("they merge");
            assert_eq!(reread(&result), expected);
            assert_eq!(result.newest().1, backup.newest().1);
            assert_eq!(result.lineage, backup.lineage);
            for (_, secret) in live.iter() {
                assert!(result.iter().any(|(_, kept)| kept == secret), "a live generation is lost");
            }
        }
    }

    #[test]
    fn a_merge_keeps_as_many_as_there_is_room_for() {
        let numbers = |from: u32, octet: u8| (0..8).map(|i| (from - i, octet + i as u8)).collect::<Vec<_>>();
        let result = merged(&list(1, &numbers(20, 1)), &list(2, &numbers(30, 101))).expect("they merge");
        assert_eq!(reread(&result).len(), GENERATIONS_MAX);
        assert_eq!(result.newest().1, &secret(101));
    }

    #[test]
    fn a_clock_that_begins_in_1970_does_no_harm() {
        let mut generations = list(1, &[(1, 1)]);
        generations
            .add(secret(2), Origin::Generated, UnixTime(0), Duration::from_secs(10).into())
            .expect("added");
        assert_eq!(reread(&generations), [2, 1]);
    }

    #[test]
    fn used_up_numbers_are_an_error() {
        let last = list(1, &[(u32::MAX, 1)]);
        assert_eq!(merged(&last, &list(2, &[(1, 2)])).err(), Some(NotAdded::Numbers));
        assert_eq!(merged(&list(2, &[(1, 2)]), &last).err(), Some(NotAdded::Numbers));
        let add = last.clone().add(secret(3), Origin::Generated, UnixTime(1), Duration::ZERO.into());
        assert_eq!(add, Err(NotAdded::Numbers));
    }
}
