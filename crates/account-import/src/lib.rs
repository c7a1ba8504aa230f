//! Accounts in CSV and LDIF, as the JSON Lines that [`account_store::json_lines`] imports; and the secret of
//! a machine account in Samba's `secrets.tdb` ([`samba_secrets`]).
//!
//! The lines of the output have the numbers of the lines of the input: an error of the import names the line
//! of the file that it is about.

mod csv_file;
mod directory;
mod lines;
mod record;
pub mod samba_secrets;

use std::fmt;
use std::io::{self, BufRead};
use std::path::Path;

/// The format of a file with accounts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// RFC 4180, with a first line that names the columns.
    Csv,
    /// RFC 2849: the content of a directory.
    Ldif,
}

impl Format {
    /// The format by the end of a file's name: `.csv` or `.ldif`, in any case.
    pub fn of_file(path: &Path) -> Option<Self> {
        let extension = path.extension()?.to_str()?;
        [(Self::Csv, "csv"), (Self::Ldif, "ldif")]
            .into_iter()
            .find_map(|(format, of)| extension.eq_ignore_ascii_case(of).then_some(format))
    }
}

/// What is wrong with a file.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Problem {
    /// Counted from one.
    line: u64,
    why: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.why)
    }
}

impl std::error::Error for Problem {}

impl From<Problem> for io::Error {
    fn from(problem: Problem) -> Self {
        Self::other(problem)
    }
}

/// A file that is converted.
pub struct Converted<'a> {
    /// JSON Lines. What is wrong with the file is an error of kind [`io::ErrorKind::Other`], which names the
    /// line.
    pub lines: Box<dyn BufRead + Send + 'a>,
    /// How many entries of the directory are no users, computers or security groups, and are left out.
    pub left_out: u64,
}

impl fmt::Debug for Converted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Converted").field("left_out", &self.left_out).finish_non_exhaustive()
    }
}

/// Converts a file. CSV is converted while it is read. LDIF is read whole, because members are named by DN,
/// and the entry with this DN may stand anywhere.
pub fn convert<'a>(format: Format, input: &'a mut (dyn BufRead + Send)) -> io::Result<Converted<'a>> {
    match format {
        Format::Csv => {
            Ok(Converted { lines: Box::new(lines::JsonLines::new(csv_file::Rows::new(input)?)), left_out: 0 })
        }
        Format::Ldif => {
            let directory = directory::Directory::read(input)?;
            let left_out = directory.left_out;
            Ok(Converted { lines: Box::new(lines::JsonLines::new(directory.into_entries())), left_out })
        }
    }
}

#[cfg(test)]
mod tests;
