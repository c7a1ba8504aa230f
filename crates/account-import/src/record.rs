//! Records of LDIF (RFC 2849).

use crate::Problem;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use std::io::{self, BufRead};

/// A line longer than this, with all its continuations, is refused.
const LINE_LEN_MAX: usize = 1 << 20;

/// An attribute in lower case and one of its values.
pub(crate) type Value = (String, Vec<u8>);

/// A record: lines up to an empty one.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Record {
    /// The number of its first line.
    pub(crate) line: u64,
    pub(crate) values: Vec<Value>,
}

/// Reads records one after the other.
pub(crate) struct Records<'a> {
    input: &'a mut (dyn BufRead + Send),
    /// Lines that were read.
    line: u64,
    /// The line after the last logical one, if it is no continuation.
    ahead: Option<Vec<u8>>,
}

impl<'a> Records<'a> {
    pub(crate) const fn new(input: &'a mut (dyn BufRead + Send)) -> Self {
        Self { input, line: 0, ahead: None }
    }

    /// The next record; none at the end.
    pub(crate) fn next(&mut self) -> io::Result<Option<Record>> {
        let mut record = Record::default();
        while let Some((line, text)) = self.logical_line()? {
            if text.is_empty() {
                if record.values.is_empty() {
                    continue;
                }
                return Ok(Some(record));
            }
            if text.starts_with(b"#") {
                continue;
            }
            let value = parse(&text).map_err(|why| Problem { line, why })?;
            if value.0 == "version" && record.values.is_empty() {
                continue;
            }
            if record.values.is_empty() {
                record.line = line;
            }
            record.values.push(value);
        }
        Ok((!record.values.is_empty()).then_some(record))
    }

    /// A line and its continuations, which begin with a space.
    fn logical_line(&mut self) -> io::Result<Option<(u64, Vec<u8>)>> {
        let first = match self.ahead.take() {
            Some(line) => Some(line),
            None => self.physical_line()?,
        };
        let Some(mut text) = first else { return Ok(None) };
        let line = self.line;
        while let Some(next) = self.physical_line()? {
            let Some(more) = next.strip_prefix(b" ").filter(|_| !text.is_empty()) else {
                self.ahead = Some(next);
                break;
            };
            text.extend_from_slice(more);
            if text.len() > LINE_LEN_MAX {
                return Err(too_long(self.line));
            }
        }
        Ok(Some((line, text)))
    }

    fn physical_line(&mut self) -> io::Result<Option<Vec<u8>>> {
        let mut text = Vec::new();
        let len = io::Read::take(&mut *self.input, LINE_LEN_MAX as u64 + 1).read_until(b'\n', &mut text)?;
        if len == 0 {
            return Ok(None);
        }
        self.line += 1;
        if len > LINE_LEN_MAX {
            return Err(too_long(self.line));
        }
        for end in [b'\n', b'\r'] {
            if text.last() == Some(&end) {
                text.pop();
            }
        }
        if self.line == 1 && text.starts_with("\u{feff}".as_bytes()) {
            text.drain(..3);
        }
        Ok(Some(text))
    }
}

fn too_long(line: u64) -> io::Error {
    Problem { line, why: "the line is longer than a mebibyte".to_owned() }.into()
}

/// Reads `attribute: value` or `attribute:: BASE64`.
fn parse(text: &[u8]) -> Result<Value, String> {
    let no_line = || "this is no line of LDIF: attribute: value".to_owned();
    let colon = text.iter().position(|byte| *byte == b':').ok_or_else(no_line)?;
    let (name, value) = (&text[..colon], &text[colon + 1..]);
    let is_of_name = |byte: &u8| byte.is_ascii_alphanumeric() || b"-.;_=".contains(byte);
    if name.is_empty() || !name.iter().all(is_of_name) {
        return Err(no_line());
    }
    let name = String::from_utf8_lossy(name).to_ascii_lowercase();
    let value = match value {
        [b':', value @ ..] => BASE64_STANDARD
            .decode(value.trim_ascii())
            .map_err(|_| format!("{name}: the value is no base64"))?,
        [b'<', ..] => return Err(format!("{name}: a value in another file is not read")),
        value => value.trim_ascii_start().to_vec(),
    };
    Ok((name, value))
}
