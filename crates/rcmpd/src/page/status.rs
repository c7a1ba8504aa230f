//! The status of a service as a page: what [`rcmpd status`](crate::commands) prints, and the last hour.

use super::html::Html;
use super::{Service, Tab, begin, chart, end, list, member, peers};
use serde_json::Value;

/// The page.
pub(crate) fn status(state: &Value) -> String {
    let (domain, server) = (member(state, "domain"), member(state, "server"));
    let is_ready = state["ready"] == true;
    let title = format!("{} – {domain}\\{server} – rcmpd", if is_ready { "Ready" } else { "Not ready" });
    let mut html = Html::default();
    begin(&mut html, &title, Service { domain: &domain, server: &server }, Tab::Status);
    html.raw("<div class=\"head\"><h1>Status</h1><div id=\"ready\" role=\"status\" data-live>")
        .raw(match is_ready {
            true => "<span class=\"pill big good\">Ready</span>",
            false => "<span class=\"pill big bad\">Not ready</span>",
        })
        .raw("</div><div class=\"updated\"><span><span id=\"at\" data-live>")
        .time(&member(state, "at"))
        .raw("</span> <span id=\"refreshed\" role=\"status\"></span></span>")
        .raw("<button class=\"button plain\" type=\"button\" id=\"pause\" hidden>Pause</button></div></div>\n<div class=\"grid\">\n");
    let has_decisions = !state["hour"].is_null();
    card(&mut html, CARDS.health, |html| health(html, state));
    html.raw("<div class=\"column two-thirds\">\n");
    if has_decisions {
        card(&mut html, CARDS.decisions, |html| chart::decisions(html, &state["hour"]));
        card(&mut html, CARDS.refusals, |html| refusals(html, list(state, "refusals")));
    }
    card(&mut html, CARDS.peers, |html| peers::peers(html, state));
    html.raw("</div>\n<div class=\"column third\">\n");
    if has_decisions {
        card(&mut html, CARDS.reasons, |html| chart::reasons(html, &state["hour"]));
    }
    card(&mut html, CARDS.channels, |html| channels(html, state));
    html.raw("</div>\n");
    card(&mut html, CARDS.configuration, |html| configuration(html, state));
    html.raw("</div>\n");
    end(html)
}

/// The opening tags of the cards. Those that are live are replaced while the page is open.
struct Cards {
    health: &'static str,
    decisions: &'static str,
    refusals: &'static str,
    peers: &'static str,
    reasons: &'static str,
    channels: &'static str,
    configuration: &'static str,
}

const CARDS: Cards = Cards {
    health: "<section class=\"card\" id=\"health\" aria-labelledby=\"health-title\" data-live>",
    decisions: "<section class=\"card\" id=\"decisions\" aria-labelledby=\"decisions-title\" data-live>",
    refusals: "<section class=\"card\" id=\"refusals\" aria-labelledby=\"refusals-title\" data-live>",
    peers: "<section class=\"card\" id=\"peers\" aria-labelledby=\"peers-title\" data-live>",
    reasons: "<section class=\"card\" id=\"reasons\" aria-labelledby=\"reasons-title\" data-live>",
    channels: "<section class=\"card\" id=\"channels\" aria-labelledby=\"channels-title\" data-live>",
    configuration: "<section class=\"card\" id=\"configuration\" aria-labelledby=\"configuration-title\" data-live>",
};

fn card(html: &mut Html, open: &'static str, content: impl FnOnce(&mut Html)) {
    html.raw(open).raw("\n");
    content(html);
    html.raw("</section>\n");
}

fn health(html: &mut Html, state: &Value) {
    html.raw("<header><h2 id=\"health-title\">Health</h2></header>\n<ul class=\"checks\">\n");
    for check in list(state, "checks") {
        html.within("<li><span>", &member(check, "check").replace('-', " "), "</span>");
        match check["ok"] == true {
            true => html.raw("<span class=\"pill good\">ok</span>"),
            false => html.raw("<span class=\"pill bad\">failed</span>"),
        };
        let problem = member(check, "problem");
        if !problem.is_empty() {
            html.within("<span class=\"why\">", &problem, "</span>");
        }
        html.raw("</li>\n");
    }
    let version = member(state, "version");
    let (version, build) = version.split_once(" (").unwrap_or((&version, ""));
    html.raw("</ul>\n<dl class=\"row\">");
    for (name, value) in [
        ("Version", version),
        ("Built from", build.trim_end_matches(')')),
        ("Running for", &duration(state["uptime_s"].as_u64().unwrap_or(0))),
        ("Process", &member(state, "pid")),
        ("Audit failures", &member(state, "audit_failures")),
    ] {
        if !value.is_empty() {
            html.raw("<div><dt>").raw(name).within("</dt><dd>", value, "</dd></div>");
        }
    }
    html.raw("<div><dt>Since</dt><dd>").time(&member(state, "started")).raw("</dd></div></dl>\n");
}

/// A time in the two largest units.
fn duration(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, minutes) => format!("{minutes} min"),
        (0, hours, minutes) => format!("{hours} h {} min", minutes % 60),
        (days, hours, _) => format!("{days} d {} h", hours % 24),
    }
}

fn refusals(html: &mut Html, refusals: &[Value]) {
    html.raw("<header><h2 id=\"refusals-title\">Recent refusals</h2><p>the newest first, since the start</p></header>\n");
    if refusals.is_empty() {
        html.raw("<p class=\"none\">No question was refused.</p>\n");
        return;
    }
    html.raw("<ol class=\"refusals\" tabindex=\"0\" aria-label=\"Recent refusals, the newest first\">\n");
    refusals.iter().for_each(|it| refusal(html, it));
    html.raw("</ol>\n");
}

fn refusal(html: &mut Html, refusal: &Value) {
    html.raw(match refusal["outcome"].as_str() {
        Some("undecided") => "<li><p class=\"first\"><span class=\"pill bad\">",
        _ => "<li><p class=\"first\"><span class=\"pill warn\">",
    });
    html.text(&member(refusal, "reason"))
        .raw("</span> <span>")
        .text(&member(refusal, "text"))
        .raw("</span></p>\n<p class=\"note\">");
    html.time(&member(refusal, "at"));
    match refusal["count"].as_u64() {
        None | Some(0 | 1) => {}
        Some(count) => {
            html.raw(", the last of ").number(count).raw(" times");
        }
    }
    html.raw(" · asked by ").text(&member(refusal, "asker")).raw("</p>\n<p class=\"hashes\">");
    match member(refusal, "thumbprint") {
        none if none.is_empty() => html.raw("certificate unreadable"),
        thumbprint => html.within("certificate <code>", &thumbprint, "</code>"),
    };
    let decision = member(refusal, "decision");
    if !decision.is_empty() {
        html.within("<br>decision <code>", &decision, "</code>");
    }
    html.raw("</p></li>\n");
}

fn channels(html: &mut Html, state: &Value) {
    html.raw("<header><h2 id=\"channels-title\">Channels and CRLs</h2></header>\n");
    if let Some(connections) = state["rpc_connections"].as_object() {
        let count = |name| connections.get(name).and_then(Value::as_u64).unwrap_or(0);
        html.raw("<dl class=\"tiles\"><div><dt>RPC connections with a channel</dt><dd>")
            .number(count("proved"))
            .raw("</dd></div><div><dt>RPC connections without one</dt><dd>")
            .number(count("unproved"))
            .raw("</dd></div></dl>\n");
    } else {
        html.raw("<p class=\"note\">RPC is not served.</p>\n");
    }
    let crls = list(state, "crls");
    if crls.is_empty() {
        html.raw("<p class=\"none\">No CRL is configured.</p>\n");
        return;
    }
    html.raw("<div class=\"scroll\" role=\"region\" tabindex=\"0\" aria-label=\"CRLs\"><table><thead><tr><th scope=\"col\">CRL</th><th scope=\"col\">Expires</th>")
        .raw("<th scope=\"col\" class=\"num\">Entries</th></tr></thead><tbody>\n");
    for crl in crls {
        html.within("<tr><th scope=\"row\" class=\"break\">", &member(crl, "crl"), "");
        html.within("<span class=\"sub-line\">", &member(crl, "issuer"), "</span></th><td>");
        html.raw(match crl["expired"] == true {
            true => "<span class=\"pill bad\">expired</span>",
            false => "<span class=\"pill good\">valid</span>",
        });
        html.raw("<span class=\"sub-line\">")
            .time(&member(crl, "next_update"))
            .raw("</span></td><td class=\"num\">");
        html.text(&member(crl, "entries")).raw("</td></tr>\n");
    }
    html.raw("</tbody></table></div>\n");
}

fn configuration(html: &mut Html, state: &Value) {
    html.raw("<header><h2 id=\"configuration-title\">Configuration</h2><p class=\"mono break\">")
        .text(&member(state, "configuration"))
        .raw("</p></header>\n");
    let reload = &state["reload"];
    if let Some(error) = reload["error"].as_str() {
        html.raw("<p class=\"problem\">The reload at ")
            .time(&member(reload, "at"))
            .raw(" failed: ")
            .text(error);
        html.raw(". The configuration of ").time(&member(reload, "in_use_since")).raw(" stays in use.</p>\n");
    }
    html.raw("<dl class=\"facts\"><dt>In use since</dt><dd>")
        .time(&member(reload, "in_use_since"))
        .raw("</dd>");
    let revision = member(state, "policy_revision");
    if !revision.is_empty() {
        html.within("<dt>Policy revision</dt><dd>", &revision, "</dd>");
    }
    html.within("<dt>Log filter</dt><dd class=\"mono\">", &member(state, "log_filter"), "</dd></dl>\n");
    html.raw("<details><summary>All settings and where they come from</summary>\n<div class=\"scroll\" role=\"region\" tabindex=\"0\" aria-label=\"Settings\">")
        .raw("<table><thead><tr><th scope=\"col\">Setting</th><th scope=\"col\">Value</th><th scope=\"col\">From</th></tr></thead><tbody>\n");
    for setting in list(state, "settings") {
        html.within(
            "<tr><th scope=\"row\" class=\"mono break\">",
            &member(setting, "key"),
            "</th><td class=\"mono break\">",
        );
        html.text(&member(setting, "value")).raw("</td><td>");
        match setting["line"].as_u64() {
            Some(line) => html.raw("<span class=\"tag set\">line ").number(line).raw("</span>"),
            None => html.within("<span class=\"tag\">", &member(setting, "origin"), "</span>"),
        };
        html.raw("</td></tr>\n");
    }
    html.raw("</tbody></table></div></details>\n");
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// Every text of a state may come from a file or a peer.
    #[test]
    fn no_text_of_a_state_becomes_markup() {
        let bad = "<script>alert(1)</script>\" onload='x'";
        let state = json!({
            "domain": bad, "server": bad, "at": bad, "version": bad, "pid": bad, "started": bad, "uptime_s": 90_000,
            "ready": false, "configuration": bad, "log_filter": bad, "policy_revision": bad, "audit_failures": bad,
            "checks": [{ "check": bad, "ok": false, "problem": bad }],
            "reload": { "at": bad, "error": bad, "in_use_since": bad },
            "crls": [{ "crl": bad, "issuer": bad, "next_update": bad, "expired": true, "entries": bad }],
            "peers": [{ "domain": bad, "server": bad, "package": bad, "circuit_open": true }],
            "domains": vec![json!({ "domain": bad, "via": bad, "is_asked": true, "may_ask": true }); 20],
            "rpc_connections": { "proved": bad, "unproved": 1 },
            "hour": { "minutes": [{ "ends": bad, "mapped": 1 }], "reasons": [{ "reason": bad, "count": 1, "outcome": bad }] },
            "refusals": [{ "at": bad, "reason": bad, "text": bad, "asker": bad, "thumbprint": bad, "decision": bad, "outcome": bad }],
            "settings": [{ "key": bad, "value": bad, "origin": bad }],
        });
        let page = status(&state);
        assert_eq!(page.matches("<script").count(), 1, "{page}");
        assert!(!page.contains("onload='") && !page.contains("\" onload"), "{page}");
        assert!(page.matches("&lt;script&gt;").count() >= 30, "{page}");
        assert!(!page.contains("style="), "inline styles break the policy: {page}");
        assert!(page.contains("1 d 1 h") && page.contains("And 12 more domains"), "{page}");
    }

    #[test]
    fn an_empty_state_is_a_page() {
        assert!(status(&Value::Null).ends_with("</html>\n"));
    }
}
