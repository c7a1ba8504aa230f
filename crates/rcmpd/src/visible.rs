//! Text that comes from certificates, peers, stores and files, as it can be shown.

use rcmp_service::explain::is_hidden;
use std::fmt::Write as _;

/// Text with escaped control, bidirectional and invisible characters: a name in a certificate must not control the terminal.
pub fn visible(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        match is_hidden(c) {
            true => shown.extend(c.escape_unicode()),
            false => shown.push(c),
        }
    }
    shown
}

/// JSON with escaped control, bidirectional and invisible characters. The value is the same.
pub fn visible_json(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        // Between members, JSON has line breaks of its own; in strings they are escaped already.
        match is_hidden(c) && c != '\n' {
            true => {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    let _ = write!(shown, "\\u{unit:04x}");
                }
            }
            false => shown.push(c),
        }
    }
    shown
}
