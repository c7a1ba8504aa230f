//! Output of the commands of `rcmpd`: text and tables for operators, JSON for programs, prompts.
//!
//! Names come from certificates, peers, stores and files. Except for [`file()`] and [`screen`](mod@screen), every
//! function escapes control characters in them by [`visible`]. Messages on standard error begin with `rcmpd: `. A
//! program that prints only by this crate denies `clippy::print_stdout` and `clippy::print_stderr`.

#![deny(clippy::print_stdout, clippy::print_stderr)]

mod password;
pub mod screen;
mod table;

pub use account_store::visible::{visible, visible_json};
pub use password::ask_new_password;
pub use table::{facts, table};

use serde_json::Value;
use std::io::{IsTerminal, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

/// The first write to standard output that failed, until [`finish`] returns it.
static FAILED: Mutex<Option<std::io::Error>> = Mutex::new(None);

/// Whether JSON was printed.
static HAS_JSON: AtomicBool = AtomicBool::new(false);

/// Records that a write to standard output failed, for [`finish`]. A closed pipe is not a failure: its reader
/// has read what it needs.
pub fn note(written: std::io::Result<()>) {
    if let Err(error) = written
        && error.kind() != std::io::ErrorKind::BrokenPipe
    {
        FAILED.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
    }
}

/// Ends the output of a command, and returns an error if a part of it was not written, for example on a full
/// disk.
pub fn finish() -> std::io::Result<()> {
    note(std::io::stdout().lock().flush());
    FAILED.lock().unwrap_or_else(PoisonError::into_inner).take().map_or(Ok(()), Err)
}

/// Prints a line. A line break in the text is escaped.
pub fn line(text: &str) {
    note(writeln!(std::io::stdout().lock(), "{}", visible(text)));
}

/// Prints text with several lines. Names in it were escaped by [`visible`].
pub fn lines(text: &str) {
    note(writeln!(std::io::stdout().lock(), "{}", visible_lines(text)));
}

/// Prints a generated file unchanged: completions and manual pages, which have no names in them.
pub fn file(bytes: &[u8]) {
    note(std::io::stdout().lock().write_all(bytes));
}

/// Writes a view with the escape codes of [`Screen`](screen::Screen), which shows names by [`fitted`].
/// The error ends the view.
pub fn screen(text: &str) -> std::io::Result<()> {
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush())
}

/// A text for one row of a terminal: [`visible`], and cut to this width.
pub fn fitted(text: &str, columns: usize) -> String {
    let text = visible(text);
    if text.width() <= columns {
        return text;
    }
    let ellipsis = ellipsis();
    let end = end_within(&text, columns.saturating_sub(ellipsis.width()));
    format!("{}{ellipsis}", &text[..end])
}

/// Asks for input on standard error. The line stays open for the answer.
pub fn prompt(text: &str) {
    let mut stderr = std::io::stderr().lock();
    let _ = write!(stderr, "{}", visible(text)).and_then(|()| stderr.flush());
}

/// Whether colours may be printed. `NO_COLOR` (no-color.org) and `TERM=dumb` turn them off.
pub fn takes_colour(is_terminal: bool) -> bool {
    let is_set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    is_terminal && !is_set("NO_COLOR") && !is_dumb()
}

/// Whether the terminal cannot redraw lines.
fn is_dumb() -> bool {
    std::env::var_os("TERM").is_some_and(|term| term == "dumb")
}

/// Whether terminals of this environment can be redrawn in place.
pub fn is_drawable_terminal() -> bool {
    !is_dumb()
}

/// Whether standard output is a terminal.
pub fn is_terminal() -> bool {
    std::io::stdout().is_terminal()
}

/// Whether progress can be drawn on standard error.
pub fn is_drawable() -> bool {
    std::io::stderr().is_terminal() && !is_dumb()
}

/// Like [`visible`], but line breaks and tabs stay.
fn visible_lines(text: &str) -> String {
    let shown = text.split_inclusive(['\n', '\t']).map(|part| match part.strip_suffix(['\n', '\t']) {
        Some(start) => format!("{}{}", visible(start), &part[start.len()..]),
        None => visible(part),
    });
    shown.collect()
}

/// Prints a message on standard error, in one line.
pub fn message(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "rcmpd: {}", visible(text));
}

/// Prints a warning on standard error. It does not change the exit code.
pub fn warning(text: &str) {
    message(&format!("warning: {text}"));
}

/// A number with its unit; the plural gets an s.
pub fn counted(count: u64, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// Prints text with several lines on standard error. Names in it were escaped by [`visible`].
pub fn message_lines(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{}", visible_lines(text));
}

/// Prints JSON on standard error, in one line.
pub fn json_line_on_error(value: &Value) {
    let _ = writeln!(std::io::stderr().lock(), "{}", visible_json(&value.to_string()));
}

/// An error with its causes, in one line. A cause whose text is there already, as where an error has its
/// source in its text, is left out.
pub fn chain(error: &anyhow::Error) -> String {
    error.chain().map(ToString::to_string).fold(String::new(), |text, cause| match text.contains(&cause) {
        true => text,
        false if text.is_empty() => cause,
        false => format!("{text}: {cause}"),
    })
}

/// Prints JSON: the one value of a command.
pub fn json(value: &Value) {
    HAS_JSON.store(true, Ordering::Relaxed);
    let text = serde_json::to_string_pretty(value).unwrap_or_default();
    note(writeln!(std::io::stdout().lock(), "{}", visible_json(&text)));
}

/// Whether the command has printed its JSON.
pub fn has_json() -> bool {
    HAS_JSON.load(Ordering::Relaxed)
}

/// Standard output for JSON, one value a line, written as [`visible_json`] has it.
#[derive(Debug, Default)]
pub struct JsonLines {
    unfinished: Vec<u8>,
}

impl Write for JsonLines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.unfinished.extend(bytes);
        if let Some(end) = self.unfinished.iter().rposition(|byte| *byte == b'\n') {
            let whole: Vec<u8> = self.unfinished.drain(..=end).collect();
            let text = visible_json(&String::from_utf8_lossy(&whole));
            match std::io::stdout().lock().write_all(text.as_bytes()) {
                Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => return Err(error),
                written => note(written),
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        note(std::io::stdout().lock().flush());
        Ok(())
    }
}

/// The mark of a cut text, in the character set of the locale.
fn ellipsis() -> &'static str {
    let value = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
    let locale =
        ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().find_map(value).unwrap_or_default().to_lowercase();
    if locale.contains("utf-8") || locale.contains("utf8") { "…" } else { "..." }
}

/// Where the part of a text ends that fits into a width.
fn end_within(text: &str, room: usize) -> usize {
    let (mut end, mut used) = (0, 0);
    for (at, c) in text.char_indices() {
        used += c.width().unwrap_or(0);
        if used > room {
            break;
        }
        end = at + c.len_utf8();
    }
    end
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_cause_that_is_in_the_text_already_is_not_printed_again() {
        let inner = anyhow::anyhow!("seal.key is missing");
        let outer = inner.context("the secret is sealed: seal.key is missing").context("not rotated");
        assert_eq!(chain(&outer), "not rotated: the secret is sealed: seal.key is missing");
        assert_eq!(chain(&anyhow::anyhow!("a").context("b")), "b: a");
    }

    #[test]
    fn what_terminals_obey_is_escaped_and_stays_the_same_value() {
        let name = "a\u{1b}]0;x\u{7}\u{9b}2J\u{202e}\u{2066}\u{200b}\n\r\t\u{2028}\u{e0041}\u{feff}b";
        let shown = visible(name);
        assert_eq!(
            shown,
            "a\\u{1b}]0;x\\u{7}\\u{9b}2J\\u{202e}\\u{2066}\\u{200b}\\u{a}\\u{d}\\u{9}\\u{2028}\\u{e0041}\\u{feff}b"
        );
        assert!(shown.is_ascii());
        assert_eq!(
            visible_lines("a\u{1b}\n\tb\r\n\n"),
            "a\\u{1b}\n\tb\\u{d}\n\n",
            "a text of our own has lines"
        );
        let text = visible_json(&serde_json::to_string_pretty(&json!({ "name": name })).expect("JSON"));
        assert!(text.bytes().all(|byte| byte == b'\n' || (0x20..0x7f).contains(&byte)), "{text}");
        assert_eq!(serde_json::from_str::<Value>(&text).expect("JSON"), json!({ "name": name }));
    }
}
