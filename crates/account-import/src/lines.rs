//! Objects as JSON Lines, each at the line number that it was read at.

use crate::Problem;
use serde_json::{Map, Value};
use std::io::{self, BufRead, Read};

/// A JSON object, and the number of the line of the input where it begins.
pub(crate) type Entry = Result<(u64, Map<String, Value>), Problem>;

/// The text of entries, whose lines rise.
pub(crate) struct JsonLines<I> {
    entries: I,
    /// Lines that were written.
    line: u64,
    text: Vec<u8>,
    at: usize,
}

impl<I: Iterator<Item = Entry>> JsonLines<I> {
    pub(crate) const fn new(entries: I) -> Self {
        Self { entries, line: 0, text: Vec::new(), at: 0 }
    }
}

impl<I: Iterator<Item = Entry>> BufRead for JsonLines<I> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.at == self.text.len() {
            self.at = 0;
            self.text.clear();
            if let Some(entry) = self.entries.next() {
                let (line, object) = entry?;
                // Empty lines are skipped by the reader, and counted.
                while self.line + 1 < line {
                    self.text.push(b'\n');
                    self.line += 1;
                }
                serde_json::to_writer(&mut self.text, &object)?;
                self.text.push(b'\n');
                self.line += 1;
            }
        }
        Ok(&self.text[self.at..])
    }

    fn consume(&mut self, len: usize) {
        self.at = self.text.len().min(self.at + len);
    }
}

impl<I: Iterator<Item = Entry>> Read for JsonLines<I> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let len = self.fill_buf()?.read(into)?;
        self.consume(len);
        Ok(len)
    }
}
