//! What distinguishes the contents of the database file from others, read from the file itself: SQLite shows
//! the file with the log applied.
//!
//! Every write of SQLite to the first page counts the change counter up (SQLite, *Database File Format*,
//! 1.3.7), every change of the schema, `VACUUM` and restore counts the schema cookie up as well (1.3.9), and
//! every change to an account, a group or a machine counts the row of the table `revision` up and draws new
//! random numbers there. So contents that SQLite wrote later never have smaller counters. Equal counters with
//! equal random numbers mean equal accounts, groups and machines.

use std::fs::File;
use std::os::unix::fs::FileExt;

/// Where the row of the table `revision` is: the root page of the table, under a version of the schema.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) schema: u32,
    pub(super) page: u32,
}

/// The counters of the table `revision`, each with the random number that came with its last change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Counters {
    pub(super) accounts: (u64, u64),
    pub(super) machines: (u64, u64),
}

/// The header of the database file, and the counters of the row.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Contents {
    header: [u8; 100],
    /// `None` if the schema in the file is not the one under which the row is known.
    counters: Option<Counters>,
}

impl Contents {
    /// `None` if they cannot be read, as while another program writes the file.
    pub(super) fn read(file: &File, row: Row) -> Option<Self> {
        let mut header = [0; 100];
        file.read_exact_at(&mut header, 0).ok()?;
        let mut contents = Self { header, counters: None };
        if contents.schema() != row.schema {
            return Some(contents);
        }
        let len = match u16::from_be_bytes([header[16], header[17]]) {
            1 => 1 << 16,
            len => usize::from(len),
        };
        let mut page = vec![0; len];
        file.read_exact_at(&mut page, u64::from(row.page.checked_sub(1)?) * len as u64).ok()?;
        contents.counters = counters(&page);
        Some(contents)
    }

    /// Whether SQLite may have made these contents from `before`.
    pub(super) fn follows(&self, before: &Self) -> bool {
        let later = |new: u32, old: u32| new.wrapping_sub(old).cast_signed();
        let do_counters_follow = || {
            let follows = |new: (u64, u64), old: (u64, u64)| new.0 > old.0 || new == old;
            matches!((self.counters, before.counters), (Some(new), Some(old))
                if follows(new.accounts, old.accounts) && follows(new.machines, old.machines))
        };
        match (later(self.schema(), before.schema()), later(self.changes(), before.changes())) {
            (0, 0) => self.header == before.header && do_counters_follow(),
            (0, 1..) => do_counters_follow(),
            // A restore may take the counters back.
            (1.., 1..) => true,
            _ => false,
        }
    }

    fn changes(&self) -> u32 {
        self.number(24)
    }

    fn schema(&self) -> u32 {
        self.number(40)
    }

    fn number(&self, at: usize) -> u32 {
        let [a, b, c, d] = [self.header[at], self.header[at + 1], self.header[at + 2], self.header[at + 3]];
        u32::from_be_bytes([a, b, c, d])
    }
}

/// The only row of a table whose only page this is: `id`, three counters, and three random numbers in the
/// same order (accounts, groups, machines). See *Database File Format*, 1.6 and 2.1.
fn counters(page: &[u8]) -> Option<Counters> {
    const LEAF_OF_TABLE: u8 = 13;
    if *page.first()? != LEAF_OF_TABLE || page.get(3..5)? != [0, 1] {
        return None;
    }
    let cell = page.get(usize::from(u16::from_be_bytes([*page.get(8)?, *page.get(9)?]))..)?;
    // The row is short: lengths, its identifier and the types take a byte each.
    let (&[_, _, header_len], _) = cell.split_first_chunk::<3>()?;
    let record = cell.get(2..)?;
    let types = record.get(1..usize::from(header_len))?;
    let mut values = record.get(usize::from(header_len)..)?;
    let mut columns = [0_i64; 7];
    for (column, kind) in columns.iter_mut().zip(types.iter().chain(std::iter::repeat(&0))) {
        let len = match kind {
            0 | 8 => 0,
            9 => {
                *column = 1;
                continue;
            }
            1..=4 => usize::from(*kind),
            5 => 6,
            6 => 8,
            _ => return None,
        };
        let (bytes, rest) = values.split_at_checked(len)?;
        values = rest;
        let sign = if bytes.first().is_some_and(|first| first & 0x80 != 0) { -1 } else { 0 };
        *column = bytes.iter().fold(sign, |value, byte| (value << 8) | i64::from(*byte));
    }
    let [_, accounts, _, machines, accounts_epoch, _, machines_epoch] = columns.map(i64::cast_unsigned);
    Some(Counters { accounts: (accounts, accounts_epoch), machines: (machines, machines_epoch) })
}
