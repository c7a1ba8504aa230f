//! `rcmpd top` in a real terminal: tmux, which types keys and says what is on the screen.

use crate::status::{demo, with_port};
use rcmpd_tests::openssl::openssl;
use rcmpd_tests::{Demo, Service, binary, eventually};
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A terminal of tmux in the folder of a demo.
struct Terminal {
    socket: PathBuf,
}

impl Terminal {
    /// Runs a line of a shell in a terminal of this size. `rcmpd` in it is this program.
    fn new(demo: &Demo, (columns, rows): (u16, u16), line: &str) -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let terminal = Self { socket: demo.path(&format!("tmux-{count}.sock")) };
        let (columns, rows) = (columns.to_string(), rows.to_string());
        let folder = demo.path("");
        let path = format!("{}:{}", binary().parent().unwrap().display(), std::env::var("PATH").unwrap());
        // The shell stays after the line, so that the terminal can be looked at. It takes no name of a file
        // from the user's settings.
        let line = format!("{line}; echo \"ended with $?\"; stty -a > stty.txt; exec sleep 600");
        let begin = ["-f", "/dev/null", "new-session", "-d", "-x", &columns, "-y", &rows, "sh", "-c", &line];
        let mut command = Command::new("tmux");
        command.args(["-u", "-S"]).arg(&terminal.socket).args(begin).current_dir(folder).env("PATH", path);
        command.env("LC_ALL", "C.UTF-8").env_remove("NO_COLOR").env_remove("TMUX");
        assert!(command.status().expect("tmux is in Debian's package tmux").success());
        terminal
    }

    fn tmux(&self, arguments: &[&str]) -> String {
        let done = Command::new("tmux").arg("-S").arg(&self.socket).args(arguments).output().unwrap();
        assert!(done.status.success(), "tmux {arguments:?}: {done:?}");
        String::from_utf8(done.stdout).unwrap()
    }

    /// What is on the screen.
    fn shown(&self) -> String {
        self.tmux(&["capture-pane", "-p"])
    }

    /// The same with the escape codes of colours.
    fn shown_with_colours(&self) -> String {
        self.tmux(&["capture-pane", "-p", "-e"])
    }

    /// A value of the terminal, by the name that tmux has for it.
    fn value(&self, name: &str) -> String {
        self.tmux(&["display-message", "-p", &format!("#{{{name}}}")]).trim().to_owned()
    }

    fn press(&self, key: &str) {
        self.tmux(&["send-keys", key]);
    }

    #[track_caller]
    fn wait_for(&self, text: &str) -> String {
        eventually(&format!("the screen has {text:?}"), || self.shown().contains(text));
        self.shown()
    }

    /// Waits until the line has ended, and checks that the terminal is as it was.
    #[track_caller]
    fn ended(&self, demo: &Demo, code: i32) {
        self.wait_for(&format!("ended with {code}"));
        let modes = || fs::read_to_string(demo.path("stty.txt")).unwrap_or_default();
        eventually("stty has written", || modes().contains("iexten"));
        let modes = modes();
        for mode in ["icanon", "echo", "isig"] {
            assert!(modes.split([' ', ';', '\n']).any(|word| word == mode), "{mode}: {modes}");
        }
        assert_eq!((self.value("alternate_on"), self.value("cursor_flag")), ("0".into(), "1".into()));
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = Command::new("tmux").arg("-S").arg(&self.socket).arg("kill-server").status();
    }
}

fn service() -> Service {
    let service = demo().serve();
    with_port(&service);
    service
}

/// The numbers in the row with this name.
#[track_caller]
fn numbers(shown: &str, name: &str) -> Vec<f64> {
    let row = shown.lines().find_map(|line| line.trim().strip_prefix(name));
    let row = row.unwrap_or_else(|| panic!("no row {name}:\n{shown}"));
    row.split_whitespace().filter_map(|word| word.parse().ok()).collect()
}

#[test]
fn a_terminal_shows_what_the_service_decides_now_and_is_given_back() {
    let mut service = service();
    service.map("alice").code(0);
    let terminal = Terminal::new(&service, (80, 30), "rcmpd top -c rcmpd.toml");
    let shown = terminal.wait_for("READY");
    assert!(shown.starts_with(" CONTOSO\\DC1  READY  up "), "{shown}");
    assert_eq!((terminal.value("alternate_on"), terminal.value("cursor_flag")), ("1".into(), "0".into()));
    let mapped = service.metric("rcmpd_decisions_total{reason=\"mapped\"}");
    assert_eq!(numbers(&shown, "mapped").last(), Some(&(mapped as f64)), "{shown}");
    // What happens is seen without a key.
    service.map("mallory").code(3);
    let shown = terminal.wait_for("no_match");
    let shown = if shown.contains("CERTIFICATE") { shown } else { terminal.wait_for("CERTIFICATE") };
    let fingerprint = ["x509", "-in", "mallory.pem", "-noout", "-fingerprint", "-sha1"];
    let fingerprint = openssl(&service.path("certs"), &fingerprint);
    let thumbprint = fingerprint.trim().split_once('=').unwrap().1.replace(':', "").to_lowercase();
    assert!(shown.contains(&thumbprint[..20]) && shown.contains("WEB01$"), "{thumbprint}\n{shown}");
    let expected = service.metric("rcmpd_decisions_total{reason=\"no_match\"}");
    assert_eq!(numbers(&shown, "no_match").last(), Some(&(expected as f64)), "{shown}");
    assert!(numbers(&shown, "no_match")[1] > 0.0, "the rate over the minute:\n{shown}");
    assert!(shown.contains("LATENCY   p50 ") && !shown.contains("p50 -"), "{shown}");
    assert!(shown.contains("CHANNELS  2, by age: 1m 2  10m 0"), "{shown}");
    // A part that fails, and is found again.
    fs::rename(service.path("accounts.db"), service.path("gone.db")).unwrap();
    let shown = terminal.wait_for("NOT READY");
    assert!(shown.contains("account-store: the account store cannot be used"), "{shown}");
    fs::rename(service.path("gone.db"), service.path("accounts.db")).unwrap();
    terminal.wait_for(" READY ");
    // A service that is away does not end the view.
    service.kill();
    terminal.wait_for("No answer: ");
    service.start_again();
    with_port(&service);
    terminal.press("q");
    terminal.ended(&service, 0);
}

#[test]
fn a_small_terminal_loses_no_first_row_and_wraps_nothing() {
    let service = service();
    for who in ["alice", "mallory"] {
        service.map(who);
    }
    let terminal = Terminal::new(&service, (80, 30), "rcmpd top -c rcmpd.toml");
    terminal.wait_for("CERTIFICATE");
    for (columns, rows) in [(60, 24), (60, 8), (100, 40), (20, 5), (60, 16)] {
        let (width, height) = (columns.to_string(), rows.to_string());
        terminal.tmux(&["resize-window", "-x", &width, "-y", &height]);
        let fits = || {
            let shown = terminal.shown();
            let lines: Vec<_> = shown.lines().collect();
            let ends_with_help = lines.iter().rev().find(|line| !line.is_empty()) == Some(&" q: quit");
            let expected = &" CONTOSO\\DC1  READY  up"[..(columns - 2).min(23)];
            lines.len() == rows && lines[0].starts_with(expected) && ends_with_help
        };
        eventually(&format!("{columns} columns, {rows} rows are drawn"), fits);
        // A row that was wrapped would have its rest in a row of its own, without the space in front.
        for line in terminal.shown().lines().filter(|line| !line.is_empty()) {
            assert!(line.starts_with(' '), "{columns} columns: {line:?}");
        }
    }
    let shown = terminal.shown();
    assert!(shown.contains("DECISIONS PER SECOND") && shown.contains(" 1 MIN         ALL"), "{shown}");
    // A key that means nothing does nothing.
    terminal.press("x");
    terminal.wait_for("READY");
    terminal.press("C-c");
    terminal.ended(&service, 0);
}

#[test]
fn colours_are_for_terminals_that_want_them() {
    let service = service();
    let has_colour = |environment: &str| {
        let terminal = Terminal::new(&service, (80, 24), &format!("{environment} rcmpd top -c rcmpd.toml"));
        terminal.wait_for("READY");
        let has_colour = terminal.shown_with_colours().contains("\u{1b}[");
        terminal.press("q");
        terminal.ended(&service, 0);
        fs::remove_file(service.path("stty.txt")).unwrap();
        has_colour
    };
    assert!(has_colour("env"));
    assert!(!has_colour("NO_COLOR=1"));
    // A terminal that cannot move its cursor gets no escape code at all.
    let line = "TERM=dumb script -qefc 'rcmpd top -c rcmpd.toml' typescript";
    let terminal = Terminal::new(&service, (80, 60), line);
    eventually("two pictures", || terminal.shown().matches("READY").count() >= 2);
    terminal.press("q");
    terminal.ended(&service, 0);
    let written = fs::read_to_string(service.path("typescript")).unwrap();
    assert!(written.contains("READY") && !written.contains('\u{1b}'), "{written:?}");
}

#[test]
fn a_signal_gives_the_terminal_back() {
    let service = service();
    let line = "rcmpd top -c rcmpd.toml & echo $! > top.pid; fg; wait";
    // `fg` needs job control.
    let terminal = Terminal::new(&service, (80, 24), &format!("set -m; {line}"));
    terminal.wait_for("READY");
    service.paste("kill -TERM $(cat top.pid)").code(0);
    terminal.ended(&service, 0);
}

#[test]
fn service_is_asked_at_the_interval_that_is_given() {
    let service = service();
    let terminal = Terminal::new(&service, (80, 30), "rcmpd top -c rcmpd.toml --interval 60");
    terminal.wait_for("READY");
    service.map("mallory").code(3);
    // Another view, of each second, has seen it, and this one has not.
    let each_second = Terminal::new(&service, (80, 30), "rcmpd top -c rcmpd.toml --interval 1");
    each_second.wait_for("no_match");
    let shown = terminal.shown();
    assert!(!shown.contains("no_match") && shown.contains("READY"), "{shown}");
    for terminal in [terminal, each_second] {
        terminal.press("q");
        terminal.ended(&service, 0);
        fs::remove_file(service.path("stty.txt")).unwrap();
    }
    for wrong in ["0", "61", "-1", "1.5", "x"] {
        let done = service.rcmpd(&["top", "-c", "rcmpd.toml", &format!("--interval={wrong}")]).code(2);
        assert!(done.stderr.contains("--interval"), "{done:?}");
    }
}

#[test]
fn without_a_terminal_or_a_service_the_reason_is_told() {
    let mut service = service();
    let done = service.rcmpd(&["top", "-c", "rcmpd.toml"]).code(2);
    assert!(done.stderr.contains("rcmpd status") && done.stdout.is_empty(), "{done:?}");
    service.kill();
    let terminal = Terminal::new(&service, (120, 24), "rcmpd top -c rcmpd.toml");
    let shown = terminal.wait_for("is it running?");
    assert!(shown.contains("cannot be asked at 127.0.0.1:"), "{shown}");
    terminal.ended(&service, 4);
}
