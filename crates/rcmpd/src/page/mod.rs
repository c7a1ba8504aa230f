//! The status page as HTML: from the state of a service, and from explanations, to text.
//!
//! Everything is made here: there are no assets of others, no inline style and no inline script, so that the
//! strictest content security policy holds ([`CONTENT_SECURITY_POLICY`]).

mod chart;
mod explained;
mod html;
mod peers;
mod status;

pub(crate) use explained::explained;
pub(crate) use status::status;

use html::Html;

/// What a browser may load, run and send: files and forms of this service, and nothing inline.
pub(crate) const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; \
     connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

/// The style sheet.
pub(crate) const STYLE: &str = include_str!("style.css");
/// The script, without which the page works, too.
pub(crate) const SCRIPT: &str = include_str!("page.js");
/// The icon.
pub(crate) const ICON: &str = include_str!("icon.svg");

/// The service that a page is of.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Service<'a> {
    /// NetBIOS name of the domain.
    pub(crate) domain: &'a str,
    /// NetBIOS name of the server.
    pub(crate) server: &'a str,
}

/// Which of the pages.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Tab {
    Status,
    Explain,
}

const MARK: &str = "<svg viewBox=\"0 0 24 24\" aria-hidden=\"true\"><rect class=\"mark\" width=\"24\" height=\"24\" rx=\"6\"/>\
     <path class=\"hole\" d=\"M7 12.5l3.5 3.5L17 8.5\" fill=\"none\" stroke-width=\"2.5\" stroke-linecap=\"round\" \
     stroke-linejoin=\"round\"/></svg>";

/// The start of a document, up to its body.
fn start(html: &mut Html, title: &str) {
    html.raw("<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n")
        .raw("<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n")
        .raw("<meta name=\"color-scheme\" content=\"light dark\">\n")
        .within("<title>", title, "</title>\n")
        .raw("<link rel=\"icon\" href=\"/ui/icon.svg\" type=\"image/svg+xml\">\n")
        .raw("<link rel=\"stylesheet\" href=\"/ui/style.css\">\n")
        .raw("<script src=\"/ui/page.js\" defer></script>\n</head>\n<body>\n");
}

/// The head of a page for operators, up to its content.
fn begin(html: &mut Html, title: &str, service: Service<'_>, tab: Tab) {
    start(html, title);
    html.raw("<a class=\"skip\" href=\"#main\">Skip to the content</a>\n<header class=\"top\"><div class=\"wide\">")
        .raw("<a class=\"brand\" href=\"/ui/\">")
        .raw(MARK)
        .within("<span>rcmpd</span> <span class=\"where\">", service.domain, "\\")
        .text(service.server)
        .raw("</span></a>\n<nav aria-label=\"Pages\"><ul>");
    for (this, href, name) in [
        (Tab::Status, "<li><a href=\"/ui/\"", "Status"),
        (Tab::Explain, "<li><a href=\"/ui/explain\"", "Explain"),
    ] {
        html.raw(href)
            .raw(if this == tab { " aria-current=\"page\">" } else { ">" })
            .raw(name)
            .raw("</a></li>");
    }
    html.raw("<li><form method=\"post\" action=\"/ui/logout\"><button type=\"submit\">Log out</button></form></li>")
        .raw("</ul></nav></div></header>\n<main id=\"main\" tabindex=\"-1\"><div class=\"wide\">\n");
}

fn end(mut html: Html) -> String {
    html.raw("</div></main>\n<footer><div class=\"wide\">Read-only. Certificates are named by their SHA-1 thumbprints: ")
        .raw("the audit log has the same ones.</div></footer>\n</body>\n</html>\n");
    html.finish()
}

/// The form for the token, with what was wrong before.
pub(crate) fn login(problem: Option<&str>) -> String {
    let mut html = Html::default();
    start(&mut html, "Log in – rcmpd");
    html.raw("<main class=\"wide\"><div class=\"login\"><p class=\"brand\">")
        .raw(MARK)
        .raw("<span>rcmpd</span></p>\n");
    html.raw("<div class=\"card\"><h1>Log in</h1>\n<p class=\"note\">This page is for operators of this server.</p>\n");
    if let Some(problem) = problem {
        html.within("<p class=\"problem\" role=\"alert\">", problem, "</p>\n");
    }
    html.raw("<form method=\"post\" action=\"/ui/login\">\n<label for=\"token\">Token</label>\n")
        .raw("<input type=\"password\" id=\"token\" name=\"token\" autocomplete=\"current-password\" required ")
        .raw("aria-describedby=\"token-note\">\n<p class=\"note\" id=\"token-note\">The token that <code>admin.token</code> of ")
        .raw("the configuration refers to.</p>\n<button class=\"button\" type=\"submit\">Log in</button>\n</form></div></div></main>\n")
        .raw("</body>\n</html>\n");
    html.finish()
}

/// A member of an object as text, and an empty text if it is missing.
fn member(value: &serde_json::Value, name: &str) -> String {
    match &value[name] {
        serde_json::Value::String(text) => text.clone(),
        serde_json::Value::Null => String::new(),
        other => other.to_string(),
    }
}

/// The entries of a member that is a list.
fn list<'a>(value: &'a serde_json::Value, name: &str) -> &'a [serde_json::Value] {
    value[name].as_array().map_or(&[], Vec::as_slice)
}
