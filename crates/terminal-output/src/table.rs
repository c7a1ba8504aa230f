//! Tables, and facts with names.

use crate::{ellipsis, end_within, line, visible};
use std::fmt::Write as _;
use std::io::IsTerminal;
use unicode_width::UnicodeWidthStr;

/// Prints a table. In a pipe no cell is cut. On a terminal it is the same text if it fits; otherwise cells
/// are cut or columns dropped, because wrapped lines cannot be read as a table. Returns true if all of it was
/// printed.
pub fn table(head: &[&str], rows: Vec<Vec<String>>) -> bool {
    let mut table = Table::new(head, &rows);
    table.fit(terminal_columns().unwrap_or(usize::MAX), ellipsis());
    for text in table.lines() {
        line(text.trim_end());
    }
    if !table.left_out.is_empty() {
        line(&format!("(the terminal is too narrow for {})", table.left_out.join(", ")));
    }
    !table.is_cut && table.left_out.is_empty()
}

/// The width of the terminal on standard output; `None` without a terminal, or if its width is unknown.
fn terminal_columns() -> Option<usize> {
    let stdout = std::io::stdout();
    let size = stdout.is_terminal().then(|| rustix::termios::tcgetwinsize(&stdout).ok()).flatten()?;
    (size.ws_col > 0).then_some(usize::from(size.ws_col))
}

/// Spaces between two columns.
const COLUMN_GAP: usize = 2;
/// A column is not cut to less than this, because a few letters are not readable. The last columns are
/// dropped instead.
const CUT_MIN: usize = 12;

struct Table {
    /// The cells of each column, its name first.
    columns: Vec<Vec<String>>,
    widths: Vec<usize>,
    left_out: Vec<String>,
    is_cut: bool,
}

impl Table {
    fn new(head: &[&str], rows: &[Vec<String>]) -> Self {
        let cells = |at: usize| rows.iter().map(move |row| row.get(at).map_or("", String::as_str));
        let column = |(at, name): (usize, &&str)| {
            std::iter::once(name.to_uppercase()).chain(cells(at).map(visible)).collect()
        };
        let columns: Vec<Vec<String>> = head.iter().enumerate().map(column).collect();
        let widths = columns.iter().map(|column| width(column)).collect();
        Self { columns, widths, left_out: Vec::new(), is_cut: false }
    }

    /// Cuts the table to a width, as far as possible.
    fn fit(&mut self, room: usize, ellipsis: &str) {
        // SIDs are shortened first: they are long, have the same start, and other commands print them whole.
        if self.width() > room
            && let Some(at) = self.columns.iter().position(|column| column.iter().any(|cell| is_sid(cell)))
        {
            self.edit(at, |cell| shortened_sid(cell, ellipsis));
            if self.width() > room && at > 0 {
                self.leave_out(at);
            }
        }
        while self.width() > room {
            let Some((at, widest)) = self.widths.iter().copied().enumerate().max_by_key(|(_, width)| *width)
            else {
                return;
            };
            let left = room.saturating_sub(self.width() - widest);
            let name = self.columns[at][0].width();
            match self.columns.len() {
                1 => return self.edit(0, |cell| cut(cell, left, ellipsis)),
                _ if left >= name.max(CUT_MIN) => return self.edit(at, |cell| cut(cell, left, ellipsis)),
                columns => self.leave_out(columns - 1),
            }
        }
    }

    fn leave_out(&mut self, at: usize) {
        self.widths.remove(at);
        let column = self.columns.remove(at);
        self.left_out.extend(column.into_iter().next());
    }

    fn edit(&mut self, at: usize, change: impl Fn(&str) -> String) {
        self.is_cut = true;
        self.columns[at] = self.columns[at].iter().map(|cell| change(cell)).collect();
        self.widths[at] = width(&self.columns[at]);
    }

    /// With the space in front of the first column.
    fn width(&self) -> usize {
        1 + self.widths.iter().sum::<usize>() + COLUMN_GAP * self.widths.len().saturating_sub(1)
    }

    fn lines(&self) -> impl Iterator<Item = String> + '_ {
        let rows = self.columns.first().map_or(0, Vec::len);
        (0..rows).map(|row| {
            let mut text = String::new();
            for (column, width) in self.columns.iter().zip(&self.widths) {
                let gap = if text.is_empty() { 1 } else { COLUMN_GAP };
                let cell = &column[row];
                let _ = write!(text, "{:gap$}{cell}{:rest$}", "", "", rest = width - cell.width());
            }
            text
        })
    }
}

/// The width of the widest cell.
fn width(cells: &[String]) -> usize {
    cells.iter().map(|cell| cell.width()).max().unwrap_or(0)
}

fn is_sid(cell: &str) -> bool {
    cell.starts_with("S-1-")
}

/// A SID without the middle, which all SIDs of a domain have in common: `S-1-5-21-…-1101`. Other text stays.
fn shortened_sid(cell: &str, ellipsis: &str) -> String {
    match cell.split('-').collect::<Vec<_>>()[..] {
        ["S", "1", authority, first, _, .., last] => format!("S-1-{authority}-{first}-{ellipsis}-{last}"),
        _ => cell.to_owned(),
    }
}

/// A text cut to a width, between two words if at least half of it is kept.
fn cut(text: &str, room: usize, ellipsis: &str) -> String {
    if text.width() <= room {
        return text.to_owned();
    }
    let end = end_within(text, room.saturating_sub(ellipsis.width()));
    let end = match text[..end].rfind(' ') {
        Some(space) if !text[end..].starts_with(' ') && space * 2 >= end => space,
        _ => end,
    };
    format!("{}{ellipsis}", text[..end].trim_end())
}

/// Facts, one a line.
pub fn facts(facts: &[(&str, String)]) {
    let width = facts.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
    for (name, value) in facts {
        line(&format!("{name:width$}  {value}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machines() -> Table {
        let row = |name: &str, groups: &str| {
            let sid = "S-1-5-21-451409223-2545928661-1868369843-1004";
            [name, "workstation", sid, "enabled", "rcmp", groups].map(str::to_owned).to_vec()
        };
        let rows = [row("WEB01$", "all but privileged"), row("ビルド$", "")];
        Table::new(&["machine", "kind", "sid", "state", "permissions", "groups"], &rows)
    }

    fn fitted(mut table: Table, room: usize) -> (Vec<String>, Vec<String>) {
        table.fit(room, "…");
        let lines: Vec<String> = table.lines().map(|line| line.trim_end().to_owned()).collect();
        assert!(lines.iter().all(|line| line.width() <= room), "{lines:#?}");
        (lines, table.left_out)
    }

    #[test]
    fn a_table_is_whole_where_there_is_room() {
        let (lines, left_out) = fitted(machines(), usize::MAX);
        assert_eq!(
            lines,
            [
                " MACHINE  KIND         SID                                            STATE    PERMISSIONS  GROUPS",
                " WEB01$   workstation  S-1-5-21-451409223-2545928661-1868369843-1004  enabled  rcmp         all but privileged",
                " ビルド$  workstation  S-1-5-21-451409223-2545928661-1868369843-1004  enabled  rcmp",
            ]
        );
        assert!(left_out.is_empty());
        assert_eq!(fitted(machines(), 110).0, lines, "it is as wide as that");
    }

    #[test]
    fn a_table_on_a_narrow_terminal_loses_sids_then_letters_then_columns() {
        let (lines, left_out) = fitted(machines(), 63);
        assert_eq!(
            lines,
            [
                " MACHINE  KIND         STATE    PERMISSIONS  GROUPS",
                " WEB01$   workstation  enabled  rcmp         all but privileged",
                " ビルド$  workstation  enabled  rcmp",
            ]
        );
        assert_eq!(left_out, ["SID"]);
        assert_eq!(fitted(machines(), 60).0[1], " WEB01$   workstation  enabled  rcmp         all but…");
        let (lines, left_out) = fitted(machines(), 50);
        assert_eq!(lines[1], " WEB01$   workstation  enabled  rcmp");
        assert_eq!(left_out, ["SID", "GROUPS"]);
        for room in 4..120 {
            fitted(machines(), room);
        }
    }

    #[test]
    fn sids_in_front_are_shortened_in_the_middle() {
        let rows = [
            ["S-1-5-21-451409223-2545928661-1868369843-513", "Domain Users"],
            ["S-1-18-1", "Authentication authority asserted identity"],
            ["S-1-5-32-544", ""],
        ];
        let rows = rows.map(|row| row.map(str::to_owned).to_vec());
        let (lines, left_out) = fitted(Table::new(&["group", "name"], &rows), 60);
        assert_eq!(
            lines,
            [
                " GROUP           NAME",
                " S-1-5-21-…-513  Domain Users",
                " S-1-18-1        Authentication authority asserted identity",
                " S-1-5-32-544",
            ]
        );
        assert!(left_out.is_empty());
        assert_eq!(
            fitted(Table::new(&["group", "name"], &rows), 40).0[2],
            " S-1-18-1        Authentication…"
        );
    }
}
