//! Passwords that a person types at a terminal.

use crate as output;
use anyhow::{Context, bail};
use rustix::termios::{LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcsetattr};
use std::io::{self, BufRead};
use zeroize::Zeroizing;

/// Ctrl-C, which ends the answer instead of the process, so that the terminal shows its input again.
const INTERRUPT: u8 = 3;

/// Asks for a new password on the terminal of standard input, twice. The answers are not shown.
pub fn ask_new_password() -> anyhow::Result<Zeroizing<String>> {
    let first = ask("Password: ")?;
    if *ask("The same password again: ")? != *first {
        bail!("the two passwords differ; nothing was changed");
    }
    Ok(first)
}

fn ask(question: &str) -> anyhow::Result<Zeroizing<String>> {
    let hidden = Hidden::new().context("cannot hide what is typed at the terminal")?;
    output::prompt(question);
    let mut stdin = io::stdin().lock();
    // A terminal gives one line, which a line feed or Ctrl-C ends.
    let answer = stdin.fill_buf().context("cannot read the password from the terminal")?;
    let answer = Zeroizing::new(answer.to_vec());
    stdin.consume(answer.len());
    drop(hidden);
    if answer.contains(&INTERRUPT) {
        bail!("interrupted; nothing was changed");
    }
    let answer = std::str::from_utf8(&answer).context("the password is not UTF-8; nothing was changed")?;
    match answer.trim_end_matches(['\r', '\n']) {
        "" => bail!("the password is empty; nothing was changed"),
        answer => Ok(Zeroizing::new(answer.to_owned())),
    }
}

/// While it lives, the terminal of standard input does not show what is typed.
struct Hidden(Termios);

impl Hidden {
    fn new() -> rustix::io::Result<Self> {
        let usual = tcgetattr(io::stdin())?;
        let mut hidden = usual.clone();
        hidden.local_modes.remove(LocalModes::ECHO | LocalModes::ISIG);
        hidden.local_modes.insert(LocalModes::ECHONL);
        hidden.special_codes[SpecialCodeIndex::VEOL] = INTERRUPT;
        tcsetattr(io::stdin(), OptionalActions::Flush, &hidden)?;
        Ok(Self(usual))
    }
}

impl Drop for Hidden {
    fn drop(&mut self) {
        let _ = tcsetattr(io::stdin(), OptionalActions::Flush, &self.0);
    }
}
