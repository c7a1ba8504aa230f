//! The lines of `master-secret.instance`, by which an older sealed file is told from the newest one.
//!
//! # Format
//!
//! One line of ASCII for each write of the sealed file, appended after it: instance id (32 hexadecimal
//! digits), count of writes, newest generation, mark of the folder (64 hexadecimal digits), with a space
//! between. A line that was cut by a crash is no record, and the next one begins on a line of its own.
//!
//! A line is appended after the sealed file has its name. A crash in between leaves the lines behind the
//! file, which is allowed, and never the file behind the lines. For the same reason a reader reads the lines
//! first.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};

/// The end of the file that is read: some forty lines. There is one for each write by an operator, so older
/// lines name states of long ago.
const TAIL_LEN: u64 = 4096;

/// One write of the sealed file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) instance: [u8; 16],
    pub(crate) writes: u64,
    pub(crate) generation: u32,
    pub(crate) mark: [u8; 32],
}

impl Record {
    pub(crate) fn line(&self) -> String {
        let Self { instance, writes, generation, mark } = self;
        format!("{} {writes} {generation} {}\n", dtyp::hex(instance), dtyp::hex(mark))
    }

    fn parse(line: &str) -> Option<Self> {
        let fields: Vec<&str> = line.split(' ').collect();
        let [instance, writes, generation, mark] = fields[..] else { return None };
        Some(Self {
            instance: octets(instance)?,
            writes: writes.parse().ok()?,
            generation: generation.parse().ok()?,
            mark: octets(mark)?,
        })
    }
}

fn octets<const N: usize>(text: &str) -> Option<[u8; N]> {
    let mut octets = [0; N];
    dtyp::read_hex(text.as_bytes(), &mut octets)?;
    Some(octets)
}

/// What is noted in a folder, oldest first.
#[derive(Debug, Default)]
pub(crate) struct Records {
    records: Vec<Record>,
    /// Whether the next line begins on a line of its own.
    pub(crate) ends_whole: bool,
}

impl Records {
    pub(crate) fn read(mut file: &File) -> io::Result<Self> {
        let start = file.metadata()?.len().saturating_sub(TAIL_LEN);
        file.seek(SeekFrom::Start(start))?;
        let mut tail = Vec::new();
        file.take(TAIL_LEN).read_to_end(&mut tail)?;
        let tail = String::from_utf8_lossy(&tail);
        // Where a tail begins, the end of a line cannot be told from a whole one.
        let cut = tail.find('\n').filter(|_| start > 0).map_or(0, |end| end + 1);
        Ok(Self::of(&tail[cut..]))
    }

    fn of(text: &str) -> Self {
        let ends_whole = text.is_empty() || text.ends_with('\n');
        Self { records: text.lines().filter_map(Record::parse).collect(), ends_whole }
    }

    pub(crate) fn last(&self) -> Option<&Record> {
        self.records.last()
    }

    /// The highest generation; 0 if none is noted.
    pub(crate) fn highest(&self) -> u32 {
        self.records.iter().map(|record| record.generation).max().unwrap_or(0)
    }

    /// The record that shows that a file of this record is an older one that was put back.
    ///
    /// An instance that is not noted is a new one, whose writer ended before it appended its line.
    pub(crate) fn newer_than(&self, found: &Record) -> Option<&Record> {
        let of_instance = || self.records.iter().rev().filter(|record| record.instance == found.instance);
        let last = self.last()?;
        if last.instance != found.instance {
            return of_instance().next().map(|_| last);
        }
        of_instance().find(|record| record.writes > found.writes || record.generation > found.generation)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn record(instance: u8, writes: u64, generation: u32) -> Record {
        Record { instance: [instance; 16], writes, generation, mark: [7; 32] }
    }

    #[test]
    fn lines_are_read_as_they_were_written_and_cut_lines_are_skipped() {
        let line = record(1, 2, 3).line();
        assert_eq!(line, format!("{} 2 3 {}\n", "01".repeat(16), "07".repeat(32)));
        assert_eq!(Records::of(&line).records, [record(1, 2, 3)]);
        let full = record(1, 123, 45).line();
        for cut in 0..full.len() - 1 {
            let records = Records::of(&full[..cut]);
            assert_eq!(records.ends_whole, cut == 0);
            assert_eq!(records.records, [], "cut after {cut}");
            let next = Records::of(&format!("{}\n{}", &full[..cut], record(1, 124, 46).line()));
            assert_eq!(next.last(), Some(&record(1, 124, 46)));
        }
        assert!(Records::of("no line\n\u{fffd} 1 2 3\n").last().is_none());
    }

    #[test]
    fn the_line_within_which_the_tail_begins_is_no_record() {
        let mut file = tempfile::tempfile().expect("a file");
        let (cut, whole) = (record(1, 9, 9).line(), record(2, 10, 10).line());
        let padding = "x".repeat(TAIL_LEN as usize - cut.len() - whole.len() - 1);
        write!(file, "no{cut}{padding}\n{whole}").expect("it is written");
        let records = Records::read(&file).expect("it is read");
        assert_eq!(records.records, [record(2, 10, 10)]);
        assert!(records.ends_whole);
    }

    #[test]
    fn a_file_behind_any_line_is_an_older_one() {
        let lines: String = [(1, 1, 1), (1, 2, 2), (2, 1, 2), (2, 2, 3)]
            .map(|(instance, writes, generation)| record(instance, writes, generation).line())
            .concat();
        let records = Records::of(&lines);
        assert_eq!(records.highest(), 3);
        for (found, is_behind) in [
            (record(2, 2, 3), false),
            (record(2, 3, 3), false),
            (record(2, 3, 4), false),
            (record(2, 1, 2), true),
            (record(2, 1, 3), true),
            (record(2, 2, 2), true),
            (record(1, 9, 9), true),
            (record(3, 1, 1), false),
        ] {
            assert_eq!(records.newer_than(&found).is_some(), is_behind, "{found:?}");
        }
        assert!(Records::of("").newer_than(&record(1, 1, 1)).is_none());
    }
}
