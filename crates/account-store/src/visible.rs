//! Text that comes from certificates, peers, stores and files, as it can be shown.

use crate::fold::is_invisible;
use std::fmt::Write as _;

/// Text with escaped control, bidirectional and invisible characters: a name in a certificate must not
/// control the terminal.
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

/// Whether a character cannot be seen, looks like a space and is none, moves the cursor or turns the line
/// around.
pub fn is_hidden(c: char) -> bool {
    if c.is_ascii() {
        return c.is_ascii_control();
    }
    is_invisible(c) || !is_printable(c)
}

/// Whether the standard library prints a character as it is where it debugs text: not the general categories
/// Cc, Cf, Cn, Co, Zl, Zp, and of Zs only the space. A mark that belongs to the character before it is
/// printable.
fn is_printable(c: char) -> bool {
    let mut buffer = [b'a'; 5];
    let end = 1 + c.encode_utf8(&mut buffer[1..]).len();
    std::str::from_utf8(&buffer[..end]).is_ok_and(|text| text.escape_debug().nth(1) == Some(c))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn characters_that_cannot_be_seen_are_hidden() {
        // One of each general category and property that the Unicode Character Database has for it, and the
        // ends of their ranges.
        let hidden = "\u{0}\t\n\r\u{1b}\u{7f}\u{80}\u{85}\u{9b}\u{9f}\u{a0}\u{ad}\u{34f}\u{600}\u{61c}\u{6dd}\u{115f}\u{1160}\u{1680}\u{17b4}\
                      \u{180b}\u{180e}\u{2000}\u{200b}\u{200d}\u{200e}\u{200f}\u{2028}\u{2029}\u{202a}\u{202e}\u{202f}\u{2060}\u{2066}\u{2069}\
                      \u{206f}\u{2800}\u{3000}\u{3164}\u{e000}\u{fe00}\u{fe0f}\u{feff}\u{ffa0}\u{fff9}\u{fffb}\u{ffff}\u{1d173}\u{e0001}\u{e007f}\
                      \u{e0100}\u{f0000}\u{10ffff}";
        assert_eq!(hidden.chars().filter(|c| !is_hidden(*c)).collect::<String>(), "");
        // Names of people: letters, marks of their own, right-to-left scripts, an emoji.
        let seen = " ~a\u{e9}e\u{301}\u{df}\u{416}\u{5d0}\u{5b0}\u{627}\u{64b}\u{915}\u{94d}\u{e01}\u{e34}\u{5c71}\u{ac00}\u{1f600}\\'\"";
        assert_eq!(seen.chars().filter(|c| is_hidden(*c)).collect::<String>(), "");
    }
}
