//! The alerts that are delivered, read by Prometheus' own tool: `promtool`.

use rcmpd_tests::Demo;
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn promtool(arguments: &[&str], input: &str) {
    let mut child = Command::new("promtool")
        .args(arguments)
        .current_dir(repository().join("deploy/prometheus"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool is in Debian's package prometheus");
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "promtool {arguments:?}: {output:?}");
}

fn rules() -> String {
    fs::read_to_string(repository().join("deploy/prometheus/rcmpd.rules.yml")).unwrap()
}

/// What stands behind a key, in all lines.
fn values<'t>(text: &'t str, key: &'t str) -> impl Iterator<Item = &'t str> {
    text.lines().filter_map(move |line| line.trim().strip_prefix(key)).map(str::trim)
}

#[test]
fn alerts_fire_when_they_should_and_not_before() {
    promtool(&["check", "rules", "--lint-fatal", "rcmpd.rules.yml"], "");
    promtool(&["test", "rules", "rcmpd.rules.test.yml"], "");
}

#[test]
fn each_alert_has_a_case_in_which_it_fires_and_one_in_which_it_does_not() {
    let cases = fs::read_to_string(repository().join("deploy/prometheus/rcmpd.rules.test.yml")).unwrap();
    let rules = rules();
    let alerts: BTreeSet<_> = values(&rules, "- alert:").collect();
    let fires: BTreeSet<_> = values(&cases, "- alertname:").collect();
    let quiet = values(&cases, "- {alertname:").filter(|case| case.ends_with("exp_alerts: []}"));
    let quiet: BTreeSet<_> = quiet.filter_map(|case| Some(case.split_once(',')?.0)).collect();
    assert_eq!(fires, alerts);
    assert_eq!(quiet, alerts);
}

#[test]
fn each_alert_has_its_paragraph_and_names_metrics_that_exist() {
    let page = fs::read_to_string(repository().join("docs/alerts.md")).unwrap();
    let rules = rules();
    let alerts: Vec<_> = values(&rules, "- alert:").collect();
    assert_eq!(values(&page, "## ").collect::<Vec<_>>(), alerts, "docs/alerts.md has the same order");
    let runbooks: Vec<_> = values(&rules, "runbook:").map(str::to_owned).collect();
    let expected: Vec<_> =
        alerts.iter().map(|alert| format!("docs/alerts.md#{}", alert.to_lowercase())).collect();
    assert_eq!(runbooks, expected);

    let metrics = fs::read_to_string(repository().join("docs/metrics.md")).unwrap();
    let is_of_name = |c: char| c.is_ascii_lowercase() || c == '_';
    let names = rules.split(|c| !is_of_name(c)).filter(|name| name.starts_with("rcmpd_"));
    let names: BTreeSet<_> = names.collect();
    assert!(names.len() > 15, "{names:?}");
    for name in names {
        let is_documented = metrics.contains(&format!("`{name}`")) || metrics.contains(&format!("`{name}{{"));
        assert!(is_documented, "{name} is not in docs/metrics.md");
    }
}

#[test]
fn promtool_finds_no_fault_in_the_metrics() {
    for service in
        [Demo::with_master_secret().serve(), Demo::with_gateway("127.0.0.1:1".parse().unwrap(), "").serve()]
    {
        promtool(&["check", "metrics"], &service.get("/metrics").1);
    }
}

/// What Grafana needs of a dashboard: numbers of panels that differ, panels that lie beside each other, and
/// expressions that Prometheus reads, over metrics that exist.
#[test]
fn the_dashboard_of_grafana_shows_metrics_that_exist() {
    let text = fs::read_to_string(repository().join("deploy/grafana/rcmpd.json")).unwrap();
    let dashboard: Value = serde_json::from_str(&text).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let (mut ids, mut taken, mut rules) =
        (BTreeSet::new(), BTreeSet::new(), "groups:\n- name: all\n  rules:\n".to_owned());
    let mut expressions = vec![dashboard["annotations"]["list"][0]["expr"].as_str().unwrap()];
    for panel in panels {
        let title = panel["title"].as_str().unwrap();
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "{title}: its number is taken");
        let at = |key: &str| panel["gridPos"][key].as_u64().unwrap();
        assert!(at("x") + at("w") <= 24, "{title} is outside");
        for place in
            (at("x")..at("x") + at("w")).flat_map(|x| (at("y")..at("y") + at("h")).map(move |y| (x, y)))
        {
            assert!(taken.insert(place), "{title} lies over another panel");
        }
        if panel["type"] != "row" {
            assert!(!panel["description"].as_str().unwrap().is_empty(), "{title} says nothing");
            let targets = panel["targets"].as_array().unwrap();
            expressions.extend(targets.iter().map(|target| target["expr"].as_str().unwrap()));
        }
    }
    assert!(expressions.len() > 30, "{}", expressions.len());
    let metrics = fs::read_to_string(repository().join("docs/metrics.md")).unwrap();
    for (at, expression) in expressions.iter().enumerate() {
        let named = expression.split(|c: char| !c.is_ascii_lowercase() && c != '_');
        for name in named.filter(|name| name.starts_with("rcmpd_") || name.starts_with("process_")) {
            let is_documented =
                metrics.contains(&format!("`{name}`")) || metrics.contains(&format!("`{name}{{"));
            assert!(is_documented, "{name} is not in docs/metrics.md");
        }
        let expression = expression.replace("$__rate_interval", "5m");
        rules.push_str(&format!("  - record: expression:{at}\n    expr: {}\n", Value::from(expression)));
    }
    promtool(&["check", "rules", "/dev/stdin"], &rules);
}
