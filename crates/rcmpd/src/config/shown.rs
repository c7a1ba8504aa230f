//! Every key with its value, and where the value is from: `rcmpd config show`.

use super::file_shape;
use super::reference::{self, Entry};
use super::shape::{Field, Shape, paths};
use super::source::join;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// Sections that count with their defaults if the file does not have them.
const ALWAYS: [&str; 4] = ["telemetry", "telemetry.otlp", "audit", "forward"];
/// Tables with settings of stores that this program does not know. A secret may be among them.
const UNKNOWN: &str = "settings";
/// Keys of a `[[store.part]]`, which the other stores do not have.
const OF_PART: [&str; 3] = ["name", "suffixes", "issuers"];
/// A policy whose missing keys are those of `[mapping]`.
const SHADOW: &str = "mapping.shadow";
/// What is shown in place of a value that may be a secret.
const HIDDEN: &str = "(not shown)";

/// Environment variables that take the place of a key.
const VARIABLES: [(&str, &str); 10] = [
    ("telemetry.log", "RUST_LOG"),
    ("telemetry.otlp.endpoint", "OTEL_EXPORTER_OTLP_ENDPOINT"),
    ("telemetry.otlp.protocol", "OTEL_EXPORTER_OTLP_PROTOCOL"),
    (HEADERS, "OTEL_EXPORTER_OTLP_HEADERS"),
    (CA, "OTEL_EXPORTER_OTLP_CERTIFICATE"),
    ("telemetry.otlp.service_name", "OTEL_SERVICE_NAME"),
    ("telemetry.otlp.sampler", "OTEL_TRACES_SAMPLER"),
    ("telemetry.otlp.sampler_arg", "OTEL_TRACES_SAMPLER_ARG"),
    ("telemetry.otlp.timeout_s", "OTEL_EXPORTER_OTLP_TIMEOUT"),
    ("telemetry.otlp.metrics_interval_s", "OTEL_METRIC_EXPORT_INTERVAL"),
];
/// The key whose variable has secrets.
const HEADERS: &str = "telemetry.otlp.headers";
/// A list of files, of which the variable names one.
const CA: &str = "telemetry.otlp.ca";

/// The section that has no key for the variables below.
const OTLP: &str = "telemetry.otlp";
/// The key that the variables in [`EXPORTERS`] change.
const SIGNALS: &str = "telemetry.otlp.signals";
/// Turns all signals off.
const DISABLED: &str = "OTEL_SDK_DISABLED";
/// Variables that turn a signal on or off.
const EXPORTERS: [(&str, &str); 3] = [
    ("traces", "OTEL_TRACES_EXPORTER"),
    ("metrics", "OTEL_METRICS_EXPORTER"),
    ("logs", "OTEL_LOGS_EXPORTER"),
];
/// Variables that add to a key, or take its place for one signal.
const MORE: [(&str, &str); 16] = [
    ("attributes (added)", "OTEL_RESOURCE_ATTRIBUTES"),
    ("endpoint (traces)", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"),
    ("endpoint (metrics)", "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT"),
    ("endpoint (logs)", "OTEL_EXPORTER_OTLP_LOGS_ENDPOINT"),
    ("protocol (traces)", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"),
    ("protocol (metrics)", "OTEL_EXPORTER_OTLP_METRICS_PROTOCOL"),
    ("protocol (logs)", "OTEL_EXPORTER_OTLP_LOGS_PROTOCOL"),
    ("headers (traces)", "OTEL_EXPORTER_OTLP_TRACES_HEADERS"),
    ("headers (metrics)", "OTEL_EXPORTER_OTLP_METRICS_HEADERS"),
    ("headers (logs)", "OTEL_EXPORTER_OTLP_LOGS_HEADERS"),
    ("timeout_ms (traces)", "OTEL_EXPORTER_OTLP_TRACES_TIMEOUT"),
    ("timeout_ms (metrics)", "OTEL_EXPORTER_OTLP_METRICS_TIMEOUT"),
    ("timeout_ms (logs)", "OTEL_EXPORTER_OTLP_LOGS_TIMEOUT"),
    ("ca (traces)", "OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE"),
    ("ca (metrics)", "OTEL_EXPORTER_OTLP_METRICS_CERTIFICATE"),
    ("ca (logs)", "OTEL_EXPORTER_OTLP_LOGS_CERTIFICATE"),
];

/// Where a value is from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// This line of the file.
    Line(usize),
    /// The program.
    Default,
    /// An environment variable.
    Environment(&'static str),
}

/// A key, or a section that is not there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Shown {
    /// The table that the key is in, as TOML writes it above its keys: `[rpc]`, `[[peer]]`. Empty above all.
    pub(crate) table: String,
    /// The path of the key with the numbers of tables in arrays: `peer[0].timeout_s`.
    pub(crate) path: String,
    /// The key in its table.
    pub(crate) key: String,
    /// The value as TOML, or none if the key has no value.
    pub(crate) value: Option<String>,
    /// What the documentation says in place of a value: `none`, `as connections_per_address_max`.
    pub(crate) otherwise: String,
    pub(crate) origin: Origin,
}

impl Shown {
    /// Whether the value may be a secret.
    pub(crate) fn is_hidden(&self) -> bool {
        self.value.as_deref() == Some(HIDDEN)
    }
}

/// All keys of the sections that the file has, and of those that count without it. The file was checked.
pub(crate) fn shown(text: &str, variable: impl Fn(&str) -> Option<String>) -> Vec<Shown> {
    let shape = file_shape();
    let entries = reference::entries(&paths(&shape));
    let mut listing = Listing { text, shape: &shape, entries: &entries, rows: Vec::new() };
    let Ok(file) = DeTable::parse(text) else { return Vec::new() };
    listing.table(file.get_ref(), &shape, &At::default());
    let mut rows = listing.rows;
    let variable = |name: &str| variable(name).filter(|value| !value.is_empty());
    for row in &mut rows {
        let found = VARIABLES.iter().find(|(path, _)| *path == row.path);
        if let Some((name, value)) = found.and_then(|(_, name)| Some((*name, variable(name)?))) {
            row.value = Some(match (&*row.path, value.parse::<u64>()) {
                (HEADERS, _) => HIDDEN.to_owned(),
                (CA, _) => as_text(&toml::Value::from(vec![value]).to_string()),
                (path, Ok(milliseconds)) if path.ends_with("_s") => milliseconds.div_ceil(1000).to_string(),
                (_, _) => as_text(&toml::Value::String(value).to_string()),
            });
            row.origin = Origin::Environment(name);
        }
        if row.path == SIGNALS {
            choose_signals(row, &variable);
        }
    }
    let end = rows.iter().rposition(|row| row.path.starts_with(OTLP)).map_or(rows.len(), |at| at + 1);
    let more = MORE.iter().filter_map(|(key, name)| Some(row_of(key, name, variable(name)?)));
    rows.splice(end..end, more.collect::<Vec<_>>());
    rows
}

/// A variable for which the section has no key.
fn row_of(key: &'static str, name: &'static str, value: String) -> Shown {
    let otherwise = match key.starts_with("headers") {
        true => HIDDEN.to_owned(),
        false => as_text(&toml::Value::String(value).to_string()),
    };
    Shown {
        table: format!("[{OTLP}]"),
        path: join(OTLP, key),
        key: key.to_owned(),
        value: None,
        otherwise,
        origin: Origin::Environment(name),
    }
}

/// The signals that the environment leaves, or adds.
fn choose_signals(row: &mut Shown, variable: &impl Fn(&str) -> Option<String>) {
    if variable(DISABLED).is_some_and(|value| value.eq_ignore_ascii_case("true")) {
        row.value = Some("[]".to_owned());
        row.origin = Origin::Environment(DISABLED);
        return;
    }
    let chosen = EXPORTERS.map(|(signal, name)| (signal, name, variable(name)));
    let Some((_, name, _)) = chosen.iter().find(|(_, _, value)| value.is_some()) else { return };
    let before = row.value.clone().unwrap_or_default();
    let is_on = |signal: &str, value: &Option<String>| match value.as_deref() {
        Some("none") => false,
        Some(_) => true,
        None => before.contains(signal),
    };
    let on: Vec<&str> =
        chosen.iter().filter(|(signal, _, value)| is_on(signal, value)).map(|(signal, ..)| *signal).collect();
    row.value = Some(toml::Value::from(on).to_string());
    row.origin = Origin::Environment(name);
}

struct Listing<'l> {
    text: &'l str,
    shape: &'l Shape,
    entries: &'l [Entry],
    rows: Vec<Shown>,
}

/// A place in the file.
#[derive(Clone, Default)]
struct At {
    /// Without numbers, as the reference has it.
    key: String,
    /// With numbers.
    path: String,
    header: String,
}

impl At {
    fn below(&self, name: &str, number: Option<usize>) -> Self {
        let key = join(&self.key, name);
        let numbered = number.map_or_else(|| name.to_owned(), |number| format!("{name}[{number}]"));
        let header = if number.is_some() { format!("[[{key}]]") } else { format!("[{key}]") };
        Self { path: join(&self.path, &numbered), key, header }
    }
}

impl<'l> Listing<'l> {
    /// The shape behind references to a shape above.
    fn resolved(&self, shape: &'l Shape) -> &'l Shape {
        let Shape::Same(path) = shape else { return shape };
        path.split('.').fold(self.shape, |shape, name| match shape {
            Shape::Table(fields) => fields.iter().find(|it| it.name == name).map_or(shape, |it| &it.shape),
            shape => shape,
        })
    }

    /// The keys of a table, and then the tables in it, as TOML wants them.
    fn table(&mut self, table: &DeTable<'_>, shape: &'l Shape, at: &At) {
        let Shape::Table(fields) = self.resolved(shape) else { return };
        let (tables, keys): (Vec<_>, Vec<_>) = fields.iter().partition(|field| self.is_table(field));
        for field in keys {
            self.key(table.get(field.name), field, at);
        }
        let empty = DeTable::new();
        for field in tables {
            match (table.get(field.name).map(Spanned::get_ref), &field.shape) {
                (Some(DeValue::Table(inner)), shape) => self.table(inner, shape, &at.below(field.name, None)),
                (Some(DeValue::Array(list)), Shape::List(shape)) => {
                    for (number, inner) in list.iter().enumerate() {
                        if let DeValue::Table(inner) = inner.get_ref() {
                            self.table(inner, shape, &at.below(field.name, Some(number)));
                        }
                    }
                }
                (None, shape) if ALWAYS.contains(&&*join(&at.key, field.name)) => {
                    self.table(&empty, shape, &at.below(field.name, None));
                }
                _ => {}
            }
        }
    }

    /// Whether a field is a section, or an array of them.
    fn is_table(&self, field: &'l Field) -> bool {
        let inner = match &field.shape {
            Shape::List(inner) => inner,
            shape => shape,
        };
        matches!(self.resolved(inner), Shape::Table(_))
    }

    fn key(&mut self, given: Option<&Spanned<DeValue<'_>>>, field: &Field, at: &At) {
        if matches!(&*at.key, "store" | "store.compare") && OF_PART.contains(&field.name) {
            return;
        }
        let entry = reference::entry(self.entries, &join(&at.key, field.name));
        let (value, origin) = match given {
            Some(_) if field.name == UNKNOWN => (Some(HIDDEN.to_owned()), self.line(given)),
            Some(given) => (Some(as_written(self.text, given)), self.line(Some(given))),
            None => (entry.and_then(Entry::default_value).map(|value| value.to_string()), Origin::Default),
        };
        let otherwise = match at.key.strip_prefix(SHADOW) {
            Some(_) => "as in [mapping]".to_owned(),
            None => entry.map(|entry| entry.default.replace('`', "")).unwrap_or_default(),
        };
        self.rows.push(Shown {
            table: at.header.clone(),
            path: join(&at.path, field.name),
            key: field.name.to_owned(),
            value,
            otherwise: if otherwise.is_empty() { "none".to_owned() } else { otherwise },
            origin,
        });
    }

    fn line(&self, given: Option<&Spanned<DeValue<'_>>>) -> Origin {
        let start = given.map_or(0, |given| given.span().start);
        Origin::Line(self.text.get(..start).unwrap_or_default().matches('\n').count() + 1)
    }
}

/// A value in one line, without the comments of the file.
fn as_written(text: &str, given: &Spanned<DeValue<'_>>) -> String {
    as_text(text.get(given.span()).unwrap_or_default())
}

/// A value of TOML in one line, unless a secret may be in it.
fn as_text(written: &str) -> String {
    // A URL may have a user and a password, or a key in its query.
    let has_secret = written.split_once("://").is_some_and(|(_, rest)| rest.contains(['@', '?']));
    if has_secret || written.contains("password=") {
        return HIDDEN.to_owned();
    }
    match toml::from_str::<toml::Table>(&format!("key = {written}")) {
        Ok(table) => table.get("key").map(ToString::to_string).unwrap_or_default(),
        // A table that is written with dots.
        Err(_) => HIDDEN.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "[domain]\nnetbios = \"A\" # ours\ndns = 'a.example'\nsid = \"S-1-5-21-1-2-3\"\nserver = \"S\"\n\
        upn_suffixes = [\n  \"b.example\", # another\n]\n[store]\nkind = \"own\"\n[store.settings]\npassword = \"hunter2\"\n\
        [[peer]]\ndomain = \"B\"\n[[peer]]\ndomain = \"C\"\ntimeout_s = 7\n";

    fn row(path: &str) -> Shown {
        let rows = shown(FILE, |name| (name == "RUST_LOG").then(|| "debug".to_owned()));
        rows.into_iter().find(|row| row.path == path).unwrap_or_else(|| panic!("no row {path}"))
    }

    #[test]
    fn values_come_with_their_origin() {
        for (path, table, value, origin) in [
            ("domain.netbios", "[domain]", Some("\"A\""), Origin::Line(2)),
            ("domain.dns", "[domain]", Some("\"a.example\""), Origin::Line(3)),
            ("domain.upn_suffixes", "[domain]", Some("[\"b.example\"]"), Origin::Line(6)),
            ("peer[1].timeout_s", "[[peer]]", Some("7"), Origin::Line(17)),
            ("peer[0].timeout_s", "[[peer]]", Some("10"), Origin::Default),
            ("peer[0].hedge_ms", "[[peer]]", None, Origin::Default),
            ("telemetry.format", "[telemetry]", Some("\"text\""), Origin::Default),
            ("telemetry.log", "[telemetry]", Some("\"debug\""), Origin::Environment("RUST_LOG")),
        ] {
            let row = row(path);
            assert_eq!((&*row.table, row.value.as_deref(), row.origin), (table, value, origin), "{path}");
        }
    }

    #[test]
    fn variables_of_opentelemetry_are_shown_with_what_they_change() {
        let shown = |variables: &[(&str, &str)]| {
            let variable = |name: &str| {
                variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
            };
            shown("[telemetry.otlp]\nsignals = [\"traces\", \"logs\"]\n", variable)
        };
        let row = |rows: &[Shown], path: &str| {
            let found = rows.iter().find(|row| row.path == format!("telemetry.otlp.{path}")).cloned();
            found.map(|row| (row.value.unwrap_or(row.otherwise), row.origin))
        };
        for (name, value, path, expected) in [
            ("OTEL_SDK_DISABLED", "TRUE", "signals", "[]"),
            ("OTEL_TRACES_EXPORTER", "none", "signals", "[\"logs\"]"),
            ("OTEL_METRICS_EXPORTER", "otlp", "signals", "[\"traces\", \"metrics\", \"logs\"]"),
            ("OTEL_EXPORTER_OTLP_CERTIFICATE", "a.pem", "ca", "[\"a.pem\"]"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "1500", "timeout_s", "2"),
            ("OTEL_EXPORTER_OTLP_LOGS_TIMEOUT", "1500", "timeout_ms (logs)", "\"1500\""),
            ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://a:1", "endpoint (traces)", "\"http://a:1\""),
            ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://u:p@a:1", "endpoint (traces)", HIDDEN),
            ("OTEL_EXPORTER_OTLP_METRICS_HEADERS", "key=hunter2", "headers (metrics)", HIDDEN),
            ("OTEL_RESOURCE_ATTRIBUTES", "a=b", "attributes (added)", "\"a=b\""),
        ] {
            let found = row(&shown(&[(name, value)]), path);
            assert_eq!(found, Some((expected.to_owned(), Origin::Environment(name))), "{name}");
        }
        assert_eq!(row(&shown(&[]), "endpoint (traces)"), None);
        assert_eq!(
            row(&shown(&[("OTEL_TRACES_EXPORTER", "")]), "signals").map(|(_, origin)| origin),
            Some(Origin::Line(2))
        );
    }

    #[test]
    fn settings_that_may_have_a_secret_are_not_shown() {
        let rows = shown(FILE, |_| None);
        assert_eq!(row("store.settings").value.as_deref(), Some(HIDDEN));
        assert!(!format!("{rows:?}").contains("hunter2"));
        for value in ["\"http://u:hunter2@x\"", "\"host=x password=hunter2\""] {
            let rows = shown(&format!("[client]\nserver = {value}\n"), |_| None);
            let server = rows.iter().find(|row| row.path == "client.server");
            assert_eq!(server.and_then(|row| row.value.as_deref()), Some(HIDDEN), "{value}");
        }
    }
}
