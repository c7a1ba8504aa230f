//! Telling what is wrong with a file, and where.

use super::source::SourceError;
use rcmp_service::visible::visible;
use std::fmt;
use std::ops::Range;
use std::path::PathBuf;

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Bytes of the file; empty when it is about the file as a whole.
    pub span: Range<usize>,
    /// What is wrong.
    pub what: String,
    /// What to do.
    pub help: String,
}

impl Problem {
    pub(super) fn from_source(error: &SourceError, text: &str) -> Self {
        let what = error.message.lines().next().unwrap_or("this cannot be read");
        let help = match what {
            "missing field `sid`" => "for a new domain, `rcmpd domain new-sid` prints one",
            what if what.starts_with("unknown field") => "remove it, or correct its name",
            _ => "",
        };
        let span = error.span.clone().map_or(0..0, |span| shown_span(text, span));
        if let Some((name, line)) = section_before(text, span.start).filter(|_| what == "duplicate key") {
            let what = format!("[{name}] is there already, at line {line}");
            return Self { span, what, help: "put the keys there".to_owned() };
        }
        Self { span, what: what.to_owned(), help: help.to_owned() }
    }
}

/// The name of the section whose header is at `offset`, and the line of an earlier one of the same name.
fn section_before(text: &str, offset: usize) -> Option<(&str, usize)> {
    fn header(line: &str) -> Option<&str> {
        let line = line.split('#').next()?.trim();
        (!line.starts_with("[[")).then(|| line.strip_prefix('[')?.strip_suffix(']')).flatten().map(str::trim)
    }
    let (here, _) = place(text, offset);
    let wanted = header(text.lines().nth(here - 1)?)?;
    let earlier = text.lines().take(here - 1).position(|line| header(line) == Some(wanted))?;
    Some((wanted, earlier + 1))
}

/// The span of an error with at least one character in it. The parser tells errors of syntax by the place
/// where something is missing, which has no length, and may be behind the last line.
fn shown_span(text: &str, span: Range<usize>) -> Range<usize> {
    if !span.is_empty() {
        return span;
    }
    let is_line_end = |c: char| matches!(c, '\n' | '\r');
    let here = text.get(span.start..).and_then(|rest| rest.chars().next()).filter(|c| !is_line_end(*c));
    match here {
        Some(c) => span.start..span.start + c.len_utf8(),
        // The last character before it.
        None => {
            let before = text.get(..span.start).unwrap_or(text).trim_end_matches(is_line_end);
            before.char_indices().next_back().map_or(0..0, |(at, _)| at..before.len())
        }
    }
}

/// Why there is no configuration.
#[derive(Debug)]
pub enum ConfigError {
    /// The file cannot be read.
    Unreadable {
        /// The configuration, or a file that it names.
        path: PathBuf,
        /// The error of the system when it was opened or read.
        error: std::io::Error,
    },
    /// What it says is wrong.
    Wrong {
        /// The configuration.
        path: PathBuf,
        /// The contents of the file, which messages quote.
        text: String,
        /// All that is wrong, in the order of the file.
        problems: Vec<Problem>,
    },
}

impl ConfigError {
    /// The problems as data, each with its line and column; `None` when the file cannot be read.
    pub fn places(&self) -> Option<Vec<(usize, usize, &Problem)>> {
        match self {
            Self::Unreadable { .. } => None,
            Self::Wrong { text, problems, .. } => Some(
                problems
                    .iter()
                    .map(|problem| (problem, place(text, problem.span.start)))
                    .map(|(p, (l, c))| (l, c, p))
                    .collect(),
            ),
        }
    }
}

/// Line and column, from 1, in characters.
fn place(text: &str, offset: usize) -> (usize, usize) {
    let before = text.get(..offset.min(text.len())).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |at| at + 1);
    (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (path, text, problems) = match self {
            Self::Unreadable { path, error } => {
                let path = path.display().to_string();
                return write!(f, "{} cannot be read: {error}", visible(&path));
            }
            Self::Wrong { path, text, problems } => (path, text, problems),
        };
        let path = visible(&path.display().to_string());
        // Tabs are how files are indented; everything else that a terminal obeys is shown.
        let shown = |text: &str| visible(&text.replace('\t', " "));
        for (at, problem) in problems.iter().enumerate() {
            if at > 0 {
                writeln!(f)?;
            }
            if problem.span.is_empty() {
                write!(f, "{path}: {}", visible(&problem.what))?;
            } else {
                let (line, column) = place(text, problem.span.start);
                let source = text.lines().nth(line - 1).unwrap_or_default();
                let before: String = source.chars().take(column - 1).collect();
                let indent = shown(&before).chars().count();
                let rest = shown(source).chars().count().saturating_sub(indent);
                let span = text.get(problem.span.clone()).and_then(|span| span.lines().next());
                let width = span.map_or(1, |span| shown(span).chars().count());
                writeln!(f, "{path}:{line}:{column}: {}", visible(&problem.what))?;
                writeln!(f, "{line:>5} | {}", shown(source))?;
                write!(f, "      | {}{}", " ".repeat(indent), "^".repeat(width.clamp(1, rest.max(1))))?;
            }
            if !problem.help.is_empty() {
                write!(f, "\n      = {}", visible(&problem.help))?;
            }
        }
        Ok(())
    }
}

impl std::error::Error for ConfigError {}
