//! The other domains: as a map, and as a table.

use super::html::Html;
use super::{list, member};
use serde_json::Value;

/// Domains on the map; the table has all.
const ON_MAP_MAX: usize = 8;
/// Characters of a name on the map.
const NAME_LEN_MAX: usize = 15;

/// The card.
pub(super) fn peers(html: &mut Html, state: &Value) {
    html.raw("<header><h2 id=\"peers-title\">Peers</h2><p>domains that ask here or are asked, and servers that are asked</p></header>\n");
    let (domains, servers) = (list(state, "domains"), list(state, "peers"));
    if domains.is_empty() && servers.is_empty() {
        html.raw("<p class=\"none\">No other domain is configured.</p>\n");
        return;
    }
    if !domains.is_empty() {
        map(html, state, domains, servers);
    }
    if !servers.is_empty() {
        table(html, servers);
    }
}

/// Servers of a domain whose circuit breaker is closed, and all that are known.
fn usable(domain: &str, servers: &[Value]) -> (u64, u64) {
    let of_it = || {
        servers
            .iter()
            .filter(|server| server["domain"].as_str().is_some_and(|it| it.eq_ignore_ascii_case(domain)))
    };
    let closed = of_it().filter(|server| server["circuit_open"] != true);
    (closed.count() as u64, of_it().count() as u64)
}

/// This server on the left, other domains on the right. An arrow points to the side that is asked.
fn map(html: &mut Html, state: &Value, domains: &[Value], servers: &[Value]) {
    let shown = &domains[..domains.len().min(ON_MAP_MAX)];
    let height = 60 * shown.len() as u64 + 8;
    let middle = height / 2;
    html.raw("<svg class=\"map\" viewBox=\"0 0 360 ")
        .number(height)
        .raw("\" role=\"img\" aria-label=\"Map: ");
    for (number, domain) in shown.iter().enumerate() {
        html.raw(if number > 0 { "; " } else { "" })
            .text(&member(domain, "domain"))
            .raw(" ")
            .text(&directions(domain));
    }
    html.raw("\">\n");
    for (row, domain) in (0..).zip(shown) {
        edge(html, domain, servers, (middle, row * 60 + 34));
    }
    html.raw("<rect class=\"node here\" x=\"2\" y=\"")
        .number(middle.saturating_sub(24))
        .raw("\" width=\"118\" height=\"48\" rx=\"10\"/>");
    html.raw("<text class=\"here-text\" x=\"61\" y=\"")
        .number(middle.saturating_sub(3))
        .raw("\" text-anchor=\"middle\">")
        .text(&short(&member(state, "domain")));
    html.raw("</text><text class=\"here-text\" x=\"61\" y=\"")
        .number(middle + 14)
        .raw("\" text-anchor=\"middle\" font-size=\"11\">")
        .text(&short(&member(state, "server")));
    html.raw("</text>\n");
    for (row, domain) in (0..).zip(shown) {
        node(html, domain, servers, row * 60 + 34);
    }
    html.raw("</svg>\n");
    if domains.len() > shown.len() {
        html.raw("<p class=\"note\">And ")
            .number((domains.len() - shown.len()) as u64)
            .raw(" more domains.</p>\n");
    }
}

/// The line between this server, at one height, and a domain, at another.
fn edge(html: &mut Html, domain: &Value, servers: &[Value], (from, to): (u64, u64)) {
    let name = member(domain, "domain");
    let (closed, all) = usable(&name, servers);
    let is_off = domain["is_asked"] == true && all > 0 && closed == 0;
    let off = if is_off { " off" } else { "" };
    html.raw("<path class=\"edge")
        .raw(off)
        .raw("\" d=\"M120 ")
        .number(from)
        .raw("C165 ")
        .number(from)
        .raw(" 165 ")
        .number(to)
        .raw(" 210 ")
        .number(to)
        .raw("\"/>");
    if domain["is_asked"] == true {
        html.raw("<path class=\"tip").raw(off).raw("\" d=\"M212 ").number(to).raw("l-9 -5v10z\"/>");
    }
    if domain["may_ask"] == true {
        html.raw("<path class=\"tip\" d=\"M121 ").number(from).raw("l9 -5v10z\"/>");
    }
}

fn node(html: &mut Html, domain: &Value, servers: &[Value], y: u64) {
    let name = member(domain, "domain");
    let (closed, all) = usable(&name, servers);
    let lamp = match (domain["is_asked"] == true && all > 0, closed) {
        (false, _) => "lamp-none",
        (true, 0) => "lamp-bad",
        (true, _) => "lamp-good",
    };
    html.raw("<rect class=\"node\" x=\"212\" y=\"")
        .number(y - 24)
        .raw("\" width=\"146\" height=\"48\" rx=\"10\"/>");
    html.raw("<circle class=\"").raw(lamp).raw("\" cx=\"228\" cy=\"").number(y - 6).raw("\" r=\"4.5\"/>");
    html.raw("<text x=\"240\" y=\"").number(y - 2).raw("\">").text(&short(&name)).raw("</text>");
    html.raw("<text class=\"sub\" x=\"240\" y=\"").number(y + 14).raw("\">");
    match (member(domain, "via"), all) {
        (via, _) if !via.is_empty() => html.raw("through ").text(&short(&via)),
        (_, 0) => html.text(&directions(domain)),
        (_, all) => html.number(closed).raw(" of ").number(all).raw(" usable"),
    };
    html.raw("</text>\n");
}

fn directions(domain: &Value) -> String {
    match (domain["is_asked"] == true, domain["may_ask"] == true) {
        (true, true) => "asks and is asked",
        (true, false) => "is asked",
        (false, true) => "asks",
        (false, false) => "is known",
    }
    .to_owned()
}

fn short(name: &str) -> String {
    match name.char_indices().nth(NAME_LEN_MAX) {
        Some((at, _)) => format!("{}…", &name[..at]),
        None => name.to_owned(),
    }
}

fn table(html: &mut Html, servers: &[Value]) {
    html.raw("<div class=\"scroll\" role=\"region\" tabindex=\"0\" aria-label=\"Servers that are asked\"><table><thead><tr><th scope=\"col\">Domain</th>")
        .raw("<th scope=\"col\">Server</th><th scope=\"col\">Circuit breaker</th><th scope=\"col\" class=\"num\">Answers</th>")
        .raw("<th scope=\"col\" class=\"num\">Failures</th></tr></thead><tbody>\n");
    for server in servers {
        let (class, state) = match server["circuit_open"] == true {
            true => ("<span class=\"pill bad\">", "open"),
            false => ("<span class=\"pill good\">", "closed"),
        };
        let package = member(server, "package");
        html.within("<tr><th scope=\"row\">", &member(server, "domain"), "");
        if !package.is_empty() {
            html.within("<span class=\"sub-line\">", &package, "</span>");
        }
        html.within("</th><td class=\"mono break\">", &member(server, "server"), "</td><td>")
            .within(class, state, "</span></td><td class=\"num\">")
            .number(server["answers"].as_u64().unwrap_or(0))
            .raw("</td><td class=\"num\">")
            .number(server["failures"].as_u64().unwrap_or(0))
            .raw("</td></tr>\n");
    }
    html.raw("</tbody></table></div>\n");
}
