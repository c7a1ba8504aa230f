//! What docs/configuration.md says about each key: its default, and what it is.
//!
//! The page is a part of the program, so commands say the same as the page.

use super::source::join;
use std::collections::BTreeSet;

/// The page.
const PAGE: &str = include_str!("../../../../docs/configuration.md");

/// Tables that have keys of other tables, about which the page speaks once.
const ALIKE: [(&str, &str); 9] = [
    ("store.part.", "store."),
    ("store.compare.", "store."),
    ("mapping.authority.", "mapping."),
    ("tlsnego.domain.", "sso.ntlm.domain."),
    ("tlsnego.domain.", "peer."),
    ("sso.ntlm.domain.", "peer."),
    ("relay.", "peer."),
    ("sidecar.listen.", "sidecar.proxy."),
    ("sidecar.proxy.", "sidecar.listen."),
];

/// What the page says about a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// The path of the key, such as `store.ldap.timeout_s`.
    pub(crate) key: String,
    /// The default as the page has it, such as `"full"`, 600, none or required. Empty in tables without that
    /// column.
    pub(crate) default: String,
    /// One fact or more, without marks of Markdown.
    pub(crate) text: String,
}

impl Entry {
    /// The default, if it is a value that could stand in the file.
    pub(crate) fn default_value(&self) -> Option<toml::Value> {
        let text =
            self.default.strip_prefix('`').and_then(|text| text.strip_suffix('`')).unwrap_or(&self.default);
        let table: toml::Table = toml::from_str(&format!("key = {text}")).ok()?;
        table.into_iter().next().map(|(_, value)| value)
    }
}

/// What the page says about all keys. `known` has the paths of all keys that there are.
pub(crate) fn entries(known: &BTreeSet<String>) -> Vec<Entry> {
    let mut found = Vec::new();
    // The sections of the last chapter, of the last heading, and of the paragraph before the table.
    let (mut chapter, mut heading, mut sections) = (Vec::new(), Vec::new(), Vec::new());
    let (mut columns, mut before) = (None, "");
    for line in PAGE.lines() {
        match line.strip_prefix("| ") {
            Some(row) => match (columns, cells(row)) {
                (None, cells) => columns = Some(if cells.first() == Some(&"key") { cells.len() } else { 0 }),
                (Some(2..=3), cells) => found.extend(of_row(&cells, &sections, known)),
                _ => {}
            },
            None => columns = None,
        }
        if line.starts_with("## ") {
            chapter = named_sections(line);
        }
        if line.starts_with('#') {
            let named = named_sections(line);
            heading = if named.is_empty() { chapter.clone() } else { named };
            sections = heading.clone();
        } else if line.starts_with("`[") && before.is_empty() || line.contains("table `[") {
            sections = named_sections(line).into_iter().take(1).collect();
        } else if line.starts_with("```") {
            sections = heading.clone();
        }
        before = line;
    }
    found
}

/// The entry of a key, or of the key of a table that has the same ones.
pub(crate) fn entry<'e>(entries: &'e [Entry], key: &str) -> Option<&'e Entry> {
    let of = |key: &str| entries.iter().find(|entry| entry.key == key);
    let alike = |(table, other): &(&str, &str)| of(&format!("{other}{}", key.strip_prefix(table)?));
    of(key).or_else(|| ALIKE.iter().find_map(alike))
}

/// What the page says in the row of a small table, for a key in it that has no row.
pub(crate) fn text<'e>(entries: &'e [Entry], key: &str) -> Option<&'e str> {
    let above = || entry(entries, key.rsplit_once('.')?.0);
    entry(entries, key).or_else(above).map(|entry| entry.text.as_str())
}

fn cells(row: &str) -> Vec<&str> {
    let row = row.trim_end().strip_suffix('|').unwrap_or(row);
    row.split(" |").map(str::trim).collect()
}

/// The names of sections in a line: `[audit]`, `[[peer]]`.
fn named_sections(line: &str) -> Vec<String> {
    let spans = line.split('`').skip(1).step_by(2);
    let name = |span: &str| {
        let name = span.strip_prefix('[')?.strip_suffix(']')?;
        let name = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
        Some(name.to_owned())
    };
    spans.filter_map(name).collect()
}

/// The entries of a row, which may be about several keys.
fn of_row(cells: &[&str], sections: &[String], known: &BTreeSet<String>) -> Vec<Entry> {
    let (names, default, text) = match cells {
        [names, text] => (*names, "", *text),
        [names, default, text] => (*names, *default, *text),
        _ => return Vec::new(),
    };
    // `ocsp` in `[[mapping.authority]]`
    let named = named_sections(names);
    let sections = if named.is_empty() { sections } else { &named[..] };
    let spans = names.split('`').skip(1).step_by(2).filter(|span| !span.starts_with("[["));
    let path = |name: &str| {
        let name = name.replace("[]", "");
        let below = sections.iter().map(|section| join(section, &name));
        let above = sections.iter().filter_map(|section| Some(join(section.rsplit_once('.')?.0, &name)));
        // `realm.name` in the table of [sso.kerberos]; `store.kind` in that of [store].
        below.chain(above).chain([name.clone()]).find(|path| known.contains(path))
    };
    let entry = |key| Entry { key, default: default.to_owned(), text: plain(text) };
    let mut found: Vec<Entry> = spans.filter_map(path).map(entry).collect();
    found.extend(
        named.iter().filter(|name| names.starts_with("`[[") && known.contains(*name)).cloned().map(entry),
    );
    found
}

/// A text without links and code spans.
fn plain(text: &str) -> String {
    let mut plain = String::new();
    let mut rest = text;
    while let Some((before, link)) = rest.split_once('[') {
        plain.push_str(before);
        let linked = link.split_once("](").and_then(|(shown, link)| Some((shown, link.split_once(')')?.1)));
        match linked.filter(|(shown, _)| !shown.contains(['[', ']', '`'])) {
            Some((shown, after)) => {
                plain.push_str(shown);
                rest = after;
            }
            None => {
                plain.push('[');
                rest = link;
            }
        }
    }
    plain.push_str(rest);
    plain.replace('`', "")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::file_shape;
    use crate::config::shape::{Shape, keys};

    #[test]
    fn the_page_has_each_key() {
        let shape = file_shape();
        let known = keys(&shape);
        let paths = known.iter().map(|(path, _)| path.clone()).collect();
        let entries = entries(&paths);
        let is_section = |shape: &Shape| {
            let inner = match shape {
                Shape::List(inner) => inner,
                shape => shape,
            };
            matches!(inner, Shape::Table(_) | Shape::Same(_))
        };
        let missing: Vec<&str> = known
            .iter()
            .filter(|(path, field)| !is_section(&field.shape) && text(&entries, path).is_none())
            .map(|(path, _)| path.as_str())
            .collect();
        assert!(missing.is_empty(), "docs/configuration.md has no row for {missing:#?}");
    }

    #[test]
    fn marks_of_markdown_are_left_out() {
        assert_eq!(plain("a [reference](#secrets) to `x`, [MS-RCMP] 2.1"), "a reference to x, [MS-RCMP] 2.1");
        assert_eq!(plain("as in [`[[peer]]`](#peer)"), "as in [[[peer]]](#peer)");
    }

    /// A file in which each section is there that can stand without files.
    const BASE: &str = r#"
[domain]
netbios = "A"
dns     = "a.example"
sid     = "S-1-5-21-1-2-3"
server  = "S"
[rpc]
listen = ["127.0.0.1:1"]
endpoint_mapper = "127.0.0.1:2"
[store]
kind = "sqlite"
path = "a.db"
[mapping]
anchors = ["a.pem"]
validation = "chain+crl"
crls = ["a.crl"]
[[mapping.authority]]
certificate = "a.pem"
ocsp = "http://a.example/"
[client]
server = "b.example"
account = "S$"
secret = "file:s"
[admin]
listen = "127.0.0.1:3"
[admin.tls]
listen = "127.0.0.1:99"
certificate = "a.pem"
key = "a.key"
client_ca = "o.pem"
[telemetry]
[telemetry.otlp]
[audit]
path = "audit.log"
chain = true
[audit.journald]
[audit.syslog]
[audit.otlp]
[audit.heads]
path = "heads"
key = "key"
[[peer]]
domain = "B"
dns = ["192.0.2.1:53"]
discovery = "dns"
names = ["b.example"]
sid = "S-1-5-21-1-2-4"
direction = "outbound"
secret = "file:b"
[forward]
[sidecar]
[[sidecar.listen]]
dialect = "nginx"
unix = "nginx.sock"
peers = ["0"]
[[sidecar.route]]
[sidecar.proxy]
listen = "127.0.0.1:4"
certificate = "a.pem"
key = "a.key"
upstream = "http://127.0.0.1:5"
[sidecar.token]
key = "t.key"
issuer = "i"
audience = "a"
[sso]
listen = ["127.0.0.1:6"]
folder = "sso"
seal = "file:seal"
[sso.ntlm]
[sso.kerberos]
keytab = "k"
[[sso.kerberos.realm]]
name = "C.EXAMPLE"
kind = "mit"
[tlsnego]
listen = "127.0.0.1:7"
addresses = ["http://127.0.0.1:7/"]
certificate = "a.pem"
key = "a.key"
credential = "username"
upstream = "http://127.0.0.1:8"
"#;

    /// Keys whose default is put in place when the value is used.
    const LATER: &[&str] = &["mapping.client_rsa_bits"];

    /// Each default that the page states is what the program does without the key.
    #[test]
    fn stated_defaults_are_those_of_the_program() {
        let base = std::path::Path::new("/etc/rcmpd");
        let parsed = |text: &str| crate::config::parse(text, base);
        let expected = parsed(BASE).unwrap_or_else(|problems| panic!("{problems:#?}"));
        let shape = file_shape();
        let keys = keys(&shape);
        let entries = entries(&keys.iter().map(|(path, _)| path.clone()).collect());
        let (mut checked, mut others) = (0, Vec::new());
        for (path, field) in keys.iter().filter(|(_, field)| !field.is_required) {
            let Some(value) = entry(&entries, path).and_then(Entry::default_value) else { continue };
            let Some((table, name)) = path.rsplit_once('.').filter(|_| !LATER.contains(&&**path)) else {
                continue;
            };
            let headers = [format!("\n[{table}]\n"), format!("\n[[{table}]]\n")];
            let Some(header) = headers.iter().find(|header| BASE.contains(*header)) else { continue };
            let at = BASE.find(header.as_str()).unwrap_or_default() + header.len();
            let section = BASE[at..].split("\n[").next().unwrap_or_default();
            if section.lines().any(|line| line.split(' ').next() == Some(name)) {
                continue;
            }
            let text = format!("{}{name} = {value}\n{}", &BASE[..at], &BASE[at..]);
            let mut config =
                parsed(&text).unwrap_or_else(|problems| panic!("{path} = {value}: {problems:#?}"));
            config.sections = expected.sections.clone();
            if config != expected {
                others.push(format!("{path} = {value} ({:?})", field.shape));
            }
            checked += 1;
        }
        assert!(others.is_empty(), "these are not the defaults: {others:#?}");
        assert!(checked > 60, "{checked}");
    }
}
