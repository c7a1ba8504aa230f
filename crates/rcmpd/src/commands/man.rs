//! `rcmpd man`: a manual page for each command.

use crate::output;
use anyhow::{Context, bail};
use clap::Command;
use clap_mangen::Man;
use std::fs;
use std::io::Write;
use std::path::Path;

/// What is printed on a terminal, where troff cannot be read.
const HOW_TO_READ: &str = "A manual page is in troff. To read it:\n  rcmpd man | man -l -\n  rcmpd man machine add | man -l -\n\n\
                           To install all pages, so that `man rcmpd` and `man rcmpd-machine-add` find them:\n  \
                           rcmpd man --dir /usr/local/share/man/man1";

/// The last sections of the page of rcmpd itself.
const END: &str = r#".SH EXIT STATUS
.TP
0
done; of a check: nothing was found
.TP
1
failed; of a configuration: it is wrong
.TP
2
wrong use, or a configuration that cannot be read
.TP
6
a certificate, a log or another file that was named cannot be used
.PP
Commands with more exit codes list them in NOTES of their page.
.SH ENVIRONMENT
.TP
RCMPD_CONFIG
the configuration file of commands without \-c
.TP
CREDENTIALS_DIRECTORY
where secrets of the form cred:NAME are; systemd sets it
.TP
NO_COLOR, TERM
with NO_COLOR, or TERM=dumb, the log on a terminal has no colours
.SH FILES
Their places are in the configuration, which has no default place. Relative paths start at the folder of the configuration file.
.TP
rcmpd.toml
the configuration
.TP
accounts.db
[store] path: the database of accounts, groups and machine accounts
.TP
accounts.key
[channels] key: seals the secrets of machine accounts in the database; its owner alone may read it
.TP
trusts/NAME.secret, trusts/NAME.inbound.secret
the secrets of another domain, made by `rcmpd domain add`
.TP
audit.log
[audit] path: one line for each decision
"#;

/// Prints the page of a command, given by its words, or writes the pages of all commands to a folder.
pub(super) fn run(mut root: Command, words: &[String], dir: Option<&Path>) -> anyhow::Result<()> {
    root.build();
    if let Some(dir) = dir {
        fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
        let written = write_all(&root, true, dir)?;
        output::line(&format!("Wrote {} to {}", output::counted(written, "manual page"), dir.display()));
        return Ok(());
    }
    let command = find(&root, words)?;
    match output::is_terminal() {
        true => output::lines(HOW_TO_READ),
        false => output::file(&page(command, words.is_empty())?),
    }
    Ok(())
}

/// The command that words such as `machine add` name.
fn find<'a>(root: &'a Command, words: &[String]) -> anyhow::Result<&'a Command> {
    let mut command = root;
    for word in words {
        match subcommands(command).find(|known| known.get_name() == word) {
            Some(found) => command = found,
            None => bail!(
                "{} has no command {word}: `{0} --help` lists its commands",
                command.get_bin_name().unwrap_or("rcmpd")
            ),
        }
    }
    Ok(command)
}

fn write_all(command: &Command, is_root: bool, dir: &Path) -> anyhow::Result<u64> {
    let path = dir.join(format!("{}.1", page_name(command)));
    fs::write(&path, page(command, is_root)?).with_context(|| format!("cannot write {}", path.display()))?;
    subcommands(command).try_fold(1, |written, command| Ok(written + write_all(command, false, dir)?))
}

/// The name of a page: `rcmpd-machine-add`.
fn page_name(command: &Command) -> &str {
    command.get_display_name().unwrap_or(command.get_name())
}

/// The page of one command. `command` was built.
fn page(command: &Command, is_root: bool) -> std::io::Result<Vec<u8>> {
    let man = Man::new(command.clone());
    let mut page = Vec::new();
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    if command.get_arguments().next().is_some() {
        man.render_options_section(&mut page)?;
    }
    notes(command, &mut page)?;
    if subcommands(command).next().is_some() {
        writeln!(page, ".SH COMMANDS")?;
    }
    for command in subcommands(command) {
        let about = command.get_about().map(ToString::to_string).unwrap_or_default();
        writeln!(page, ".TP\n\\fB{}\\fR(1)\n{}", troff(page_name(command)), troff(&about))?;
    }
    match is_root {
        true => page.extend_from_slice(END.as_bytes()),
        false => writeln!(page, ".SH SEE ALSO\n\\fBrcmpd\\fR(1): exit status, environment and files")?,
    }
    Ok(page)
}

fn subcommands(command: &Command) -> impl Iterator<Item = &Command> {
    command.get_subcommands().filter(|command| command.get_name() != "help")
}

/// What comes after the options in the help of a command: paragraphs, and lines to paste, which stay as they
/// are.
fn notes(command: &Command, page: &mut Vec<u8>) -> std::io::Result<()> {
    let Some(help) = command.get_after_help() else { return Ok(()) };
    writeln!(page, ".SH NOTES")?;
    for paragraph in help.to_string().split("\n\n") {
        let lines: Vec<String> = paragraph.lines().map(troff).collect();
        match paragraph.lines().any(|line| line.starts_with("  ")) {
            true => writeln!(page, ".PP\n.nf\n{}\n.fi", lines.join("\n"))?,
            false => writeln!(page, ".PP\n{}", lines.join("\n"))?,
        }
    }
    Ok(())
}

/// A line as troff has it.
fn troff(line: &str) -> String {
    let escaped = line.replace('\\', "\\e").replace('-', "\\-").replace('\'', "\\(aq").replace('`', "\\(ga");
    match escaped.starts_with('.') {
        true => format!("\\&{escaped}"),
        false => escaped,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn built() -> Command {
        let mut root = crate::cli::Cli::command();
        root.build();
        root
    }

    fn text(command: &Command, is_root: bool) -> String {
        String::from_utf8(page(command, is_root).expect("it is written to memory")).expect("UTF-8")
    }

    /// Every page in all, with the words that name it.
    fn pages(command: &Command, words: Vec<String>, all: &mut Vec<(Vec<String>, String)>) {
        all.push((words.clone(), text(command, words.is_empty())));
        for sub in subcommands(command) {
            pages(sub, [&words[..], &[sub.get_name().to_owned()]].concat(), all);
        }
    }

    #[test]
    fn each_command_has_a_page_and_each_reference_has_one() {
        let root = built();
        let mut all = Vec::new();
        pages(&root, Vec::new(), &mut all);
        let names: Vec<String> =
            all.iter().map(|(words, _)| [&["rcmpd".to_owned()], &words[..]].concat().join("-")).collect();
        for ((words, page), name) in all.iter().zip(&names) {
            assert_eq!(page_name(find(&root, words).expect("it is a command")), name);
            assert!(page.lines().any(|line| line.starts_with(&format!(".TH {name} 1"))), "{name}: {page}");
            assert!(!page.contains("EXTRA"), "a heading of the generator: {name}");
            for line in page.lines().filter(|line| line.ends_with("\\fR(1)")) {
                let referred = line.trim_start_matches("\\fB").trim_end_matches("\\fR(1)").replace('\\', "");
                assert!(names.contains(&referred), "{name} refers to {referred}");
            }
            let mut before = "";
            for line in page.lines().filter(|line| !line.starts_with(".ie") && !line.starts_with(".el")) {
                let is_heading = |line: &str| line.starts_with(".SH ");
                assert!(!(is_heading(before) && is_heading(line)), "{name}: {before} is empty");
                before = line;
            }
        }
        let sections = |page: &str, wanted: &[&str]| {
            wanted.iter().all(|section| page.lines().any(|line| line == format!(".SH {section}")))
        };
        assert!(sections(&all[0].1, &["NAME", "COMMANDS", "EXIT STATUS", "ENVIRONMENT", "FILES"]));
        let add = find(&root, &["machine".to_owned(), "add".to_owned()]).expect("it is a command");
        assert!(sections(&text(add, false), &["NAME", "SYNOPSIS", "OPTIONS", "NOTES", "SEE ALSO"]));
    }

    #[test]
    fn a_page_of_no_command_is_refused() {
        let why = find(&built(), &["machine".to_owned(), "ad".to_owned()]).expect_err("no command");
        assert_eq!(
            why.to_string(),
            "rcmpd machine has no command ad: `rcmpd machine --help` lists its commands"
        );
    }

    #[test]
    fn lines_are_escaped() {
        assert_eq!(troff(r"  rcmpd a \"), r"  rcmpd a \e");
        assert_eq!(troff(".it's a-b"), r"\&.it\(aqs a\-b");
    }
}
