//! The settings in use, each with its origin: a line of the file, the environment, or the default.

use super::Config;
use rcmp_service::Method;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// A setting in use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// Its path, such as `rpc.listen`; `peer[2].domain` is of the second `[[peer]]`.
    pub key: String,
    /// Its value as it is written in TOML. One that may hold a secret is left out.
    pub value: String,
    /// Where it is from.
    pub origin: Origin,
}

/// Where a setting is from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// This line of the configuration file.
    Line(usize),
    /// This environment variable.
    Environment(&'static str),
    /// The program.
    Default,
}

/// Longest value that is shown, in characters.
const VALUE_LEN_MAX: usize = 160;
/// Settings of a file that are shown.
const SETTINGS_MAX: usize = 500;
/// Stands for a value that may hold a secret.
const HIDDEN: &str = "(hidden)";

/// The settings that a file has, in its order.
pub(super) fn of_file(text: &str) -> Vec<Setting> {
    let mut settings = Vec::new();
    if let Ok(table) = DeTable::parse(text) {
        of_table(text, table.get_ref(), "", &mut settings);
    }
    settings.sort_by_key(|(at, _)| *at);
    settings.truncate(SETTINGS_MAX);
    settings.into_iter().map(|(_, setting)| setting).collect()
}

fn of_table(text: &str, table: &DeTable<'_>, prefix: &str, settings: &mut Vec<(usize, Setting)>) {
    for (key, value) in table {
        of_value(text, value, &format!("{prefix}{}", key.get_ref()), settings);
    }
}

fn of_value(text: &str, value: &Spanned<DeValue<'_>>, key: &str, settings: &mut Vec<(usize, Setting)>) {
    match value.get_ref() {
        DeValue::Table(table) => of_table(text, table, &format!("{key}."), settings),
        DeValue::Array(items)
            if !items.is_empty() && items.iter().all(|item| matches!(item.get_ref(), DeValue::Table(_))) =>
        {
            for (number, item) in (1..).zip(items.iter()) {
                of_value(text, item, &format!("{key}[{number}]"), settings);
            }
        }
        _ => {
            let span = value.span();
            let written = text.get(span.clone()).unwrap_or_default();
            let line = text.get(..span.start).map_or(0, |before| before.matches('\n').count()) + 1;
            let setting =
                Setting { key: key.to_owned(), value: shown(key, written), origin: Origin::Line(line) };
            settings.push((span.start, setting));
        }
    }
}

/// The value in one line. Settings of stores that a build adds may hold secrets, and so may URLs with a user.
fn shown(key: &str, written: &str) -> String {
    let has_user = written.split_once("://").is_some_and(|(_, rest)| rest.contains('@'));
    if key.split('.').any(|part| part == "settings") || has_user || written.contains("password=") {
        return HIDDEN.to_owned();
    }
    let mut value = written.split_whitespace().collect::<Vec<_>>().join(" ");
    if let Some((at, _)) = value.char_indices().nth(VALUE_LEN_MAX) {
        value.truncate(at);
        value.push('…');
    }
    value
}

impl Config {
    /// The settings of the file, and the most important of those that it leaves to their defaults.
    pub fn settings(&self) -> Vec<Setting> {
        let mut settings = self.sections.settings().to_vec();
        for (key, value) in self.with_defaults() {
            if !settings.iter().any(|setting| setting.key == key) {
                settings.push(Setting { key: key.to_owned(), value, origin: Origin::Default });
            }
        }
        if let Ok(filter) = std::env::var("RUST_LOG") {
            for setting in settings.iter_mut().filter(|setting| setting.key == "telemetry.log") {
                setting.value = quoted(&filter);
                setting.origin = Origin::Environment("RUST_LOG");
            }
        }
        settings
    }

    /// Settings that have defaults, with the values in use.
    fn with_defaults(&self) -> Vec<(&'static str, String)> {
        let mut all = Vec::new();
        if let Some(mapping) = &self.mapping {
            let policy = &mapping.policy;
            let methods = Method::ALL.into_iter().filter(|method| policy.methods.contains(method.flag()));
            let methods: Vec<_> = methods.map(|method| quoted(method.name())).collect();
            all.push(("mapping.methods", format!("[{}]", methods.join(", "))));
            all.push(("mapping.binding", quoted(policy.binding.name())));
            all.push(("mapping.validation", quoted(policy.validation.name())));
        }
        if let Some(rpc) = &self.rpc {
            let limits = &rpc.limits;
            all.push(("rpc.strict_server_name", rpc.strict_server_name.to_string()));
            all.push(("rpc.connections_max", limits.connections_max.to_string()));
            all.push(("rpc.connections_per_address_max", limits.connections_per_address_max.to_string()));
            all.push(("rpc.connections_per_account_max", limits.connections_per_account_max.to_string()));
            all.push(("rpc.bind_timeout_s", limits.bind_timeout.as_secs().to_string()));
            all.push(("rpc.idle_timeout_s", limits.idle_timeout.as_secs().to_string()));
            all.push(("rpc.write_timeout_s", limits.write_timeout.as_secs().to_string()));
            all.push(("rpc.grace_s", rpc.grace.as_secs().to_string()));
            all.push(("rpc.misses_per_s", rpc.misses.per_second.to_string()));
            all.push(("rpc.misses_burst", rpc.misses.burst.to_string()));
        }
        all.push(("audit.required", self.audit.required.to_string()));
        all.push(("audit.certificates", self.audit.certificates.to_string()));
        all.push(("audit.chain", self.audit.chain.to_string()));
        all.push(("telemetry.log", quoted(&self.telemetry.log)));
        all.push(("telemetry.format", quoted(if self.telemetry.json { "json" } else { "text" })));
        all
    }
}

fn quoted(text: &str) -> String {
    toml::Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_of_a_file_have_their_lines_and_no_secrets() {
        let text = "[domain]\nnetbios = \"A\"\n\n[[peer]]\ndomain = \"B\"\n[[peer]]\ndomain = \"C\"\nservers = [\n \"x\",\n \"y\",\n]\n\
                    [store.settings]\ndsn = \"hunter2\"\n[store.ldap]\nurl = \"ldap://u:hunter2@x\"\n[sidecar]\nroutes = []\n";
        let shown: Vec<_> = of_file(text)
            .into_iter()
            .map(|Setting { key, value, origin }| match origin {
                Origin::Line(line) => format!("{line} {key} = {value}"),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(
            shown,
            [
                "2 domain.netbios = \"A\"",
                "5 peer[1].domain = \"B\"",
                "7 peer[2].domain = \"C\"",
                "8 peer[2].servers = [ \"x\", \"y\", ]",
                "13 store.settings.dsn = (hidden)",
                "15 store.ldap.url = (hidden)",
                "17 sidecar.routes = []",
            ]
        );
        assert!(of_file("no toml").is_empty());
        let long = of_file(&format!("a = \"{}\"", "ä".repeat(1000)));
        assert_eq!(long[0].value.chars().count(), VALUE_LEN_MAX + 1);
    }
}
