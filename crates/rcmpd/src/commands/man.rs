//! `rcmpd man`: one manual page about all commands.

use clap::Command;
use clap_mangen::Man;
use std::io::Write;

/// What is printed on a terminal, where troff cannot be read.
pub(super) const HOW_TO_READ: &str = "The manual page is in troff. To read it:\n  rcmpd man | man -l -\n\n\
                                      To install it, so that `man rcmpd` finds it:\n  rcmpd man > /usr/local/share/man/man1/rcmpd.1";

/// Sections behind those of the commands.
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
Commands with more exit codes list them above.
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

/// The manual page.
pub(super) fn page(mut command: Command) -> std::io::Result<Vec<u8>> {
    command.build();
    let man = Man::new(command.clone());
    let mut page = Vec::new();
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    man.render_options_section(&mut page)?;
    notes(&command, "SH", &mut page)?;
    writeln!(page, ".SH COMMANDS")?;
    for command in subcommands(&command) {
        let about = command.get_about().map(ToString::to_string).unwrap_or_default();
        writeln!(
            page,
            ".TP\n\\fB{}\\fR\n{}",
            troff(command.get_bin_name().unwrap_or_default()),
            troff(&about)
        )?;
    }
    about_each(&command, &mut page)?;
    page.extend_from_slice(END.as_bytes());
    Ok(page)
}

fn subcommands(command: &Command) -> impl Iterator<Item = &Command> {
    command.get_subcommands().filter(|command| command.get_name() != "help")
}

/// A section for each subcommand, with what comes after it in its help.
fn about_each(command: &Command, page: &mut Vec<u8>) -> std::io::Result<()> {
    for command in subcommands(command) {
        let man = Man::new(command.clone());
        let name = command.get_bin_name().unwrap_or(command.get_name());
        writeln!(page, ".SH {}", name.to_uppercase())?;
        let mut sections = Vec::new();
        man.render_description_section(&mut sections)?;
        man.render_synopsis_section(&mut sections)?;
        if command.get_arguments().next().is_some() {
            man.render_options_section(&mut sections)?;
        }
        // Sections of a command are subsections of the page.
        page.extend_from_slice(String::from_utf8_lossy(&sections).replace(".SH ", ".SS ").as_bytes());
        notes(command, "SS", page)?;
        about_each(command, page)?;
    }
    Ok(())
}

/// What comes after the options in the help of a command: paragraphs, and lines to paste, which stay as they are.
fn notes(command: &Command, section: &str, page: &mut Vec<u8>) -> std::io::Result<()> {
    let Some(help) = command.get_after_help() else { return Ok(()) };
    writeln!(page, ".{section} NOTES")?;
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

    #[test]
    fn the_page_has_its_sections_and_no_reference_to_another_page() {
        let page = String::from_utf8(page(crate::cli::Cli::command()).expect("it is written to memory"))
            .expect("UTF-8");
        for section in [
            ".SH NAME",
            ".SH COMMANDS",
            ".SH RCMPD MACHINE ADD",
            ".SH EXIT STATUS",
            ".SH ENVIRONMENT",
            ".SH FILES",
        ] {
            assert!(page.lines().any(|line| line == section), "{section}");
        }
        assert!(!page.contains("EXTRA"), "a heading of the generator");
        assert!(!page.contains("(1)"), "no page but this one exists");
        let mut before = "";
        for line in page.lines().filter(|line| !line.starts_with(".ie") && !line.starts_with(".el")) {
            let is_heading = |line: &str| line.starts_with(".SS ");
            assert!(!(is_heading(before) && line.starts_with(".S")), "{before} is empty");
            before = line;
        }
    }

    #[test]
    fn lines_are_escaped() {
        assert_eq!(troff(r"  rcmpd a \"), r"  rcmpd a \e");
        assert_eq!(troff(".it's a-b"), r"\&.it\(aqs a\-b");
    }
}
