//! A whole terminal for a live view: it is redrawn in place, keys are read one by one, and the terminal is
//! restored at the end.

use crate as output;
use rustix::termios::{
    LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcgetwinsize, tcsetattr,
};
use std::io::{self, IsTerminal};
use tokio::sync::mpsc;
use unicode_width::UnicodeWidthStr;

/// The size of terminals that do not say theirs.
const SIZE: Size = Size { columns: 80, rows: 24 };
/// Saves what is shown and hides the cursor; and the opposite (xterm, mode 1049; DECTCEM).
const BEGIN: &str = "\x1b[?1049h\x1b[?25l";
const END: &str = "\x1b[?25h\x1b[?1049l";
/// Moves to the first column of the first row.
const HOME: &str = "\x1b[H";
/// Erases the rest of the row, and all rows below.
const ERASE_ROW: &str = "\x1b[K";
const ERASE_BELOW: &str = "\x1b[J";
/// Ends bold and colours.
const RESET: &str = "\x1b[m";
/// Keys that are read at once. More than these are a paste, which is no command.
const KEYS_MAX: usize = 64;

/// Columns and rows of a terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// Characters in a row.
    pub columns: usize,
    /// Rows.
    pub rows: usize,
}

/// How a row is drawn where the terminal takes colours.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Style {
    /// As other text.
    #[default]
    Plain,
    /// A title: bold.
    Title,
    /// All is well: green.
    Good,
    /// An operator has to look: bold and red.
    Bad,
}

impl Style {
    const fn begin(self) -> &'static str {
        match self {
            Self::Plain => "",
            Self::Title => "\x1b[1m",
            Self::Good => "\x1b[32m",
            Self::Bad => "\x1b[1;31m",
        }
    }
}

/// A row of text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Row {
    /// The text. Names in it need not be escaped.
    pub text: String,
    /// How it is drawn.
    pub style: Style,
}

/// The terminal of standard input and standard output, until it is dropped.
#[derive(Debug)]
pub struct Screen {
    usual: Termios,
    keys: mpsc::Receiver<Vec<u8>>,
    has_colour: bool,
    /// Whether it can be redrawn in place. Otherwise each picture follows the last one.
    is_drawable: bool,
}

impl Screen {
    /// Whether there is a terminal to take.
    pub fn is_there() -> bool {
        io::stdin().is_terminal() && io::stdout().is_terminal()
    }

    /// Takes the terminal.
    pub fn open() -> io::Result<Self> {
        let usual = tcgetattr(io::stdin())?;
        let mut raw = usual.clone();
        // Ctrl-C is a key: so the terminal is given back before the process ends.
        raw.local_modes.remove(LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG);
        raw.special_codes[SpecialCodeIndex::VMIN] = 1;
        raw.special_codes[SpecialCodeIndex::VTIME] = 0;
        tcsetattr(io::stdin(), OptionalActions::Now, &raw)?;
        let has_colour = output::takes_colour(true);
        let (sender, keys) = mpsc::channel(1);
        // No thread of the runtime: that would be waited for at the end, until another key is typed.
        std::thread::spawn(move || read_keys(&sender));
        let screen = Self { usual, keys, has_colour, is_drawable: output::is_drawable_terminal() };
        if screen.is_drawable {
            output::screen(BEGIN)?;
        }
        Ok(screen)
    }

    /// Its size now.
    pub fn size() -> Size {
        match tcgetwinsize(io::stdout()) {
            Ok(size) if size.ws_col > 0 && size.ws_row > 0 => {
                Size { columns: size.ws_col.into(), rows: size.ws_row.into() }
            }
            _ => SIZE,
        }
    }

    /// Draws rows. What does not fit into this size is left out, and a row that is cut ends with an ellipsis.
    pub fn draw(&self, rows: &[Row], size: Size) -> io::Result<()> {
        let mut text = String::new();
        if self.is_drawable {
            text.push_str(HOME);
        }
        for (at, Row { text: row, style }) in rows.iter().take(size.rows).enumerate() {
            if at > 0 {
                text.push('\n');
            }
            let row = output::fitted(row, size.columns);
            match self.has_colour && *style != Style::Plain {
                true => text.extend([style.begin(), &row, RESET]),
                false => text.push_str(&row),
            }
            // In the last column, some terminals would erase the last character.
            if self.is_drawable && row.width() < size.columns {
                text.push_str(ERASE_ROW);
            }
        }
        text.push_str(if self.is_drawable { ERASE_BELOW } else { "\n\n" });
        output::screen(&text)
    }

    /// Waits for keys. `None` if the terminal is gone.
    pub async fn keys(&mut self) -> Option<Vec<u8>> {
        self.keys.recv().await
    }
}

/// Reads keys until the screen is dropped or the terminal is gone.
fn read_keys(sender: &mpsc::Sender<Vec<u8>>) {
    let mut keys = [0; KEYS_MAX];
    while let Ok(len @ 1..) = rustix::io::retry_on_intr(|| rustix::io::read(io::stdin(), &mut keys)) {
        if sender.blocking_send(keys[..len].to_vec()).is_err() {
            return;
        }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        if self.is_drawable {
            let _ = output::screen(END);
        }
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &self.usual);
    }
}
