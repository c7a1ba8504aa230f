//! HTML as it is written: markup is literal in the code, and everything else is escaped.

use crate::output::visible;
use std::fmt::Write as _;

/// A page, or a part of one.
#[derive(Debug, Default)]
pub(super) struct Html(String);

impl Html {
    /// Markup. Only literals of the code can be.
    pub(super) fn raw(&mut self, markup: &'static str) -> &mut Self {
        self.0.push_str(markup);
        self
    }

    /// Text, also inside a quoted attribute. Characters that cannot be seen are shown by their numbers.
    pub(super) fn text(&mut self, text: &str) -> &mut Self {
        for c in visible(text).chars() {
            match c {
                '&' => self.0.push_str("&amp;"),
                '<' => self.0.push_str("&lt;"),
                '>' => self.0.push_str("&gt;"),
                '"' => self.0.push_str("&quot;"),
                '\'' => self.0.push_str("&#39;"),
                c => self.0.push(c),
            }
        }
        self
    }

    /// Lines of text, for `<pre>`.
    pub(super) fn lines(&mut self, text: &str) -> &mut Self {
        for (number, line) in text.lines().enumerate() {
            if number > 0 {
                self.0.push('\n');
            }
            self.text(line);
        }
        self
    }

    /// A time of RFC 3339 in UTC, as people read it.
    pub(super) fn time(&mut self, time: &str) -> &mut Self {
        let shown = match time.strip_suffix('Z').and_then(|time| time.split_once('T')) {
            Some((date, time)) => format!("{date} {time} UTC"),
            None => time.to_owned(),
        };
        self.within("<time datetime=\"", time, "\">").text(&shown).raw("</time>")
    }

    /// A number.
    pub(super) fn number(&mut self, number: impl Into<u64>) -> &mut Self {
        let _ = write!(self.0, "{}", number.into());
        self
    }

    /// A cell or another element without attributes: the opening and the closing tag around text.
    pub(super) fn within(&mut self, open: &'static str, text: &str, close: &'static str) -> &mut Self {
        self.raw(open).text(text).raw(close)
    }

    /// The finished text.
    pub(super) fn finish(self) -> String {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_cannot_become_markup() {
        let mut html = Html::default();
        html.raw("<td title=\"").text("\"><script>alert('1')</script>&\u{202e}\u{0}").raw("\">");
        assert_eq!(
            html.finish(),
            "<td title=\"&quot;&gt;&lt;script&gt;alert(&#39;1&#39;)&lt;/script&gt;&amp;\\u{202e}\\u{0}\">"
        );
        let mut html = Html::default();
        html.lines("a<\n\tb");
        assert_eq!(html.finish(), "a&lt;\n\\u{9}b");
    }
}
