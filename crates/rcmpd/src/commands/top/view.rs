//! What `rcmpd top` shows: rows of text, made from the state and the metrics of the service.

use super::Asked;
use super::samples::{Labels, MINUTE, Quantile, Samples};
use crate::commands::status::text;
use crate::output;
use crate::screen::{Row, Size, Style};
use serde_json::Value;
use std::time::Duration;

/// The window of the first column of rates.
const MOMENT: Duration = Duration::from_secs(10);
/// So many reasons of decisions are shown.
const REASONS_MAX: usize = 6;
/// The last row.
const HELP: &str = " q: quit";
/// What is not known, or does not apply.
const NONE: &str = "-";

/// The newest state of the service, and its metrics of the last minute.
#[derive(Debug, Default)]
pub(super) struct View {
    status: Value,
    samples: Samples,
    /// Why the service cannot be asked.
    failure: Option<String>,
}

impl View {
    pub(super) fn update(&mut self, Asked { status, metrics }: Asked) {
        if status["pid"] != self.status["pid"] || status["started"] != self.status["started"] {
            self.samples.clear();
        }
        self.status = status;
        self.samples.push(metrics);
        self.failure = None;
    }

    pub(super) fn failed(&mut self, error: &anyhow::Error) {
        self.failure = Some(output::chain(error));
    }

    /// The rows for a terminal of this size. If there are too many, the last refusals and peers are left out.
    pub(super) fn rows(&self, size: Size) -> Vec<Row> {
        let mut rows = self.head();
        self.decisions(&mut rows);
        self.facts(&mut rows);
        let room = size.rows.saturating_sub(rows.len() + 1);
        let peers = self.peers();
        let refusals = self.refusals();
        // Each gets half of the room, and what the other one leaves.
        let for_peers = peers.len().min(room.saturating_sub(refusals.len().min(room.div_ceil(2))));
        rows.extend(peers.into_iter().take(for_peers));
        rows.extend(refusals);
        rows.truncate(size.rows.saturating_sub(1));
        rows.push(plain(HELP));
        rows
    }

    fn value(&self, name: &str, labels: Labels<'_>) -> Option<f64> {
        self.samples.newest()?.value(name, labels)
    }

    /// Whether the service has a metric.
    fn has(&self, name: &str) -> bool {
        self.value(name, &[]).is_some()
    }

    fn rate(&self, name: &str, labels: Labels<'_>, window: Duration) -> String {
        self.samples.rate(name, labels, window).map_or_else(|| NONE.to_owned(), |rate| format!("{rate:.1}"))
    }

    /// Who it is and how it is.
    fn head(&self) -> Vec<Row> {
        let state = &self.status;
        let is_ready = state["ready"] == true;
        let (domain, server, version) =
            (text(state, "domain"), text(state, "server"), text(state, "version"));
        let up = duration(state["uptime_s"].as_u64().unwrap_or_default());
        let at = text(state, "at");
        let ready = if is_ready { "READY" } else { "NOT READY" };
        let style = if is_ready { Style::Good } else { Style::Bad };
        let mut rows = vec![
            styled(style, format!(" {domain}\\{server}  {ready}  up {up}  at {}", time_of_day(&at))),
            plain(format!(" rcmpd {version}, pid {}, {}", text(state, "pid"), text(state, "configuration"))),
        ];
        if let Some(failure) = &self.failure {
            rows.push(styled(Style::Bad, format!(" No answer: {failure}")));
        }
        if let Some(error) = state["reload"]["error"].as_str() {
            rows.push(styled(
                Style::Bad,
                format!(" Reload failed, {}: {error}", text(&state["reload"], "at")),
            ));
        }
        for check in list(state, "checks").iter().filter(|check| check["ok"] != true) {
            let problem = format!(" {}: {}", text(check, "check"), text(check, "problem"));
            rows.push(styled(Style::Bad, problem));
        }
        for crl in list(state, "crls").iter().filter(|crl| crl["expired"] == true) {
            rows.push(styled(Style::Bad, format!(" CRL expired: {}", text(crl, "crl"))));
        }
        rows
    }

    /// Decisions by result, and by the most frequent reasons.
    fn decisions(&self, rows: &mut Vec<Row>) {
        const COUNT: &str = "rcmpd_decision_duration_seconds_count";
        const DECISIONS: &str = "rcmpd_decisions_total";
        if !self.has(COUNT) {
            return;
        }
        rows.push(title(format!(" {:<24}{:>9}{:>9}{:>12}", "DECISIONS PER SECOND", "10 S", "1 MIN", "ALL")));
        let mut row = |name: &str, series: &str, labels: Labels<'_>| {
            let (now, minute) = (self.rate(series, labels, MOMENT), self.rate(series, labels, MINUTE));
            let all = self.value(series, labels).unwrap_or_default();
            rows.push(plain(format!(" {name:<24}{now:>9}{minute:>9}{all:>12.0}")));
        };
        for result in ["mapped", "rejected", "undecided"] {
            row(result, COUNT, &[("result", result)]);
        }
        let newest = self.samples.newest();
        let reasons = newest.map(|newest| newest.values_of(DECISIONS, "reason")).unwrap_or_default();
        let mut reasons: Vec<_> = reasons.into_iter().filter(|reason| reason != "mapped").collect();
        let frequency = |reason: &String| self.samples.rise(DECISIONS, &[("reason", reason)]);
        reasons.sort_by(|one, other| frequency(other).total_cmp(&frequency(one)));
        for reason in reasons.iter().take(REASONS_MAX) {
            row(&format!("  {reason}"), DECISIONS, &[("reason", reason)]);
        }
        let quantiles = self.samples.quantiles("rcmpd_decision_duration_seconds", [0.5, 0.9, 0.99]);
        let shown = match quantiles {
            Some(quantiles) => quantiles.map(milliseconds),
            None => [NONE; 3].map(str::to_owned),
        };
        let [half, most, nearly_all] = shown;
        rows.push(fact("LATENCY", format!("p50 {half}  p90 {most}  p99 {nearly_all}  (1 min)")));
    }

    /// One row for each part that the service has.
    fn facts(&self, rows: &mut Vec<Row>) {
        let rate = |name: &str, labels: Labels<'_>| self.rate(name, labels, MOMENT);
        let count = |name: &str, labels: Labels<'_>| self.value(name, labels).unwrap_or_default();
        if self.has("rcmpd_channels") {
            let ages = ["1m", "10m", "1h", "4h", "12h"]
                .map(|age| format!("{age} {:.0}", count("rcmpd_channels", &[("age", age)])));
            let all = count("rcmpd_channels", &[]);
            rows.push(fact("CHANNELS", format!("{all:.0}, by age: {}", ages.join("  "))));
            let (set_up, refused) =
                (rate("rcmpd_channels_established_total", &[]), rate("rcmpd_channels_refused_total", &[]));
            rows.push(fact("", format!("set up {set_up}/s  refused {refused}/s")));
        }
        if let Some(connections) = self.status["rpc_connections"].as_object() {
            let open = |name| connections.get(name).and_then(Value::as_u64).unwrap_or_default();
            rows.push(fact(
                "RPC",
                format!("connections {} proved, {} others", open("proved"), open("unproved")),
            ));
        }
        if self.has("rcmpd_peer_semaphore_waiters") {
            let (waiting, asking) =
                (count("rcmpd_peer_semaphore_waiters", &[]), count("rcmpd_peer_semaphore_holders", &[]));
            let late = rate("rcmpd_peer_semaphore_timeouts_total", &[]);
            let full = rate("rcmpd_peer_semaphore_overflows_total", &[]);
            rows.push(fact(
                "QUEUE",
                format!("{waiting:.0} wait, {asking:.0} ask  timeouts {late}/s  full {full}/s"),
            ));
        }
        self.stores(rows);
        if self.has("rcmpd_sidecar_requests_total") || self.has("rcmpd_sidecar_cache_entries") {
            let all = self.samples.rise("rcmpd_sidecar_decisions_total", &[]);
            let made = self.samples.rise("rcmpd_sidecar_decisions_total", &[("how", "made")]);
            let requests = rate("rcmpd_sidecar_requests_total", &[]);
            rows.push(fact(
                "SIDECAR",
                format!("requests {requests}/s  cache hits {} (1 min)", percent(all - made, all)),
            ));
        }
        let (lost, copies) =
            (count("rcmpd_audit_failures_total", &[]), count("rcmpd_audit_copies_lost_total", &[]));
        let style = if lost > 0.0 { Style::Bad } else { Style::Plain };
        let audit = fact("AUDIT", format!("{lost:.0} lines and {copies:.0} copies not written"));
        rows.push(Row { style, ..audit });
    }

    fn stores(&self, rows: &mut Vec<Row>) {
        let Some(usable) = self.value("rcmpd_store_usable", &[]) else { return };
        let is_usable = usable > 0.0;
        let state = if is_usable { "usable" } else { "NOT USABLE" };
        let cache = match self.has("rcmpd_store_lookups_total") {
            true => {
                // `absent` are among the hits.
                let [hits, misses, joined, stale] = ["hit", "miss", "joined", "stale"]
                    .map(|outcome| self.samples.rise("rcmpd_store_lookups_total", &[("outcome", outcome)]));
                let all = hits + misses + joined + stale;
                format!("  look-ups {all:.0}, cache hits {} (1 min)", percent(hits, all))
            }
            false => String::new(),
        };
        let style = if is_usable { Style::Plain } else { Style::Bad };
        rows.push(Row { style, ..fact("STORE", format!("{state}{cache}")) });
    }

    fn peers(&self) -> Vec<Row> {
        let peers = list(&self.status, "peers");
        if peers.is_empty() {
            return Vec::new();
        }
        let row = |cells: [&str; 6]| {
            let [domain, server, circuit, waiting, answers, failures] = cells;
            let server = output::fitted(server, 24);
            format!(" {domain:<12} {server:<24} {circuit:<7}{waiting:>5}{answers:>6}{failures:>6}")
        };
        let head = title(row(["PEERS", "SERVER", "CIRCUIT", "WAIT", "ANS/S", "FAIL/S"]));
        let rows = peers.iter().map(|peer| {
            let (domain, server, package) =
                (text(peer, "domain"), text(peer, "server"), text(peer, "package"));
            let mut labels = vec![("domain", &*domain), ("server", &*server)];
            if !package.is_empty() {
                labels.push(("package", &*package));
            }
            let is_open = peer["circuit_open"] == true;
            let waiting = self.value("rcmpd_peer_semaphore_waiters", &labels).unwrap_or_default();
            let [answers, failures] = ["rcmpd_peer_answers_total", "rcmpd_peer_failures_total"]
                .map(|name| self.rate(name, &labels, MOMENT));
            let circuit = if is_open { "OPEN" } else { "closed" };
            let text = row([&domain, &server, circuit, &format!("{waiting:.0}"), &answers, &failures]);
            styled(if is_open { Style::Bad } else { Style::Plain }, text)
        });
        std::iter::once(head).chain(rows).collect()
    }

    fn refusals(&self) -> Vec<Row> {
        let refusals = list(&self.status, "refusals");
        if refusals.is_empty() {
            return Vec::new();
        }
        let row = |cells: [&str; 5]| {
            let [at, count, reason, asker, thumbprint] = cells;
            let (reason, asker) = (output::fitted(reason, 20), output::fitted(asker, 15));
            format!(" {at:<8} {count:>5} {reason:<20} {asker:<15} {thumbprint}")
        };
        let head = title(row(["REFUSED", "TIMES", "REASON", "ASKER", "CERTIFICATE"]));
        let rows = refusals.iter().map(|refusal| {
            let [at, count, reason, asker, thumbprint] =
                ["at", "count", "reason", "asker", "thumbprint"].map(|member| text(refusal, member));
            plain(row([time_of_day(&at), &count, &reason, &asker, &thumbprint]))
        });
        std::iter::once(head).chain(rows).collect()
    }
}

fn list<'v>(value: &'v Value, member: &str) -> &'v [Value] {
    value[member].as_array().map_or(&[], Vec::as_slice)
}

fn styled(style: Style, text: impl Into<String>) -> Row {
    Row { text: text.into(), style }
}

fn plain(text: impl Into<String>) -> Row {
    styled(Style::Plain, text)
}

fn title(text: impl Into<String>) -> Row {
    styled(Style::Title, text)
}

fn fact(name: &str, text: impl AsRef<str>) -> Row {
    plain(format!(" {name:<9} {}", text.as_ref()))
}

/// The time in a date of RFC 3339.
fn time_of_day(at: &str) -> &str {
    at.split_once('T').and_then(|(_, time)| time.get(..8)).unwrap_or(at)
}

/// Days, hours, minutes and seconds; the first two that are not 0.
fn duration(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        3600..86400 => format!("{} h {} min", seconds / 3600, seconds / 60 % 60),
        _ => format!("{} d {} h", seconds / 86400, seconds / 3600 % 24),
    }
}

fn milliseconds(quantile: Quantile) -> String {
    match quantile {
        Quantile::About(seconds) if seconds < 0.01 => format!("{:.2} ms", seconds * 1000.0),
        Quantile::About(seconds) => format!("{:.0} ms", seconds * 1000.0),
        Quantile::Above(seconds) => format!("> {seconds:.0} s"),
    }
}

/// A part of a count.
fn percent(part: f64, all: f64) -> String {
    if all > 0.0 { format!("{:.0} %", 100.0 * part / all) } else { NONE.to_owned() }
}
