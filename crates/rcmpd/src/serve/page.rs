//! The status page on the admin port: who may see it, and what is sent.
//!
//! A browser gets a cookie for the token. It is of this process alone, ends after some hours, and is sent
//! neither from pages of others (`SameSite=Strict`) nor to scripts (`HttpOnly`). Requests that would do more
//! than look must come from the page itself: their Origin is compared with the Host, which must be a known
//! one, so a name that was made to lead here gets nothing.

use super::admin::{EXPLAIN_LEN_MAX, Shared, explanation, read_body};
use super::operators::Operators;
use super::status;
use crate::page::{self, CONTENT_SECURITY_POLICY};
use axum::Router;
use axum::extract::{Extension, Request, State};
use axum::http::header::{
    AUTHORIZATION, CACHE_CONTROL, CONTENT_SECURITY_POLICY as CSP, CONTENT_TYPE, HOST, LOCATION, ORIGIN,
    REFERRER_POLICY, SET_COOKIE, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use percent_encoding::percent_decode_str;
use std::net::SocketAddr;
use zeroize::Zeroizing;

/// The form with a token.
const LOGIN_LEN_MAX: usize = 4096;
/// The form with a certificate: each octet of the text may take three.
const FORM_LEN_MAX: usize = 3 * EXPLAIN_LEN_MAX;

/// The paths of the page.
pub(super) fn routes() -> Router<Shared> {
    let to_page = || async { redirect(None) };
    let asset = |kind, text: &'static str| {
        get(async move |State(shared): State<Shared>, headers: HeaderMap| {
            match of_browser(&shared, &headers, Does::Look) {
                Ok(_) => answer(StatusCode::OK, kind, text),
                Err(refused) => *refused,
            }
        })
    };
    Router::new()
        .route("/", get(to_page))
        .route("/ui", get(to_page))
        .route("/ui/", get(status_page))
        .route("/ui/explain", get(explain_form).post(explain))
        .route("/ui/login", get(to_page).post(login))
        .route("/ui/logout", post(logout))
        .route("/ui/style.css", asset("text/css; charset=utf-8", page::STYLE))
        .route("/ui/page.js", asset("text/javascript; charset=utf-8", page::SCRIPT))
        .route("/ui/icon.svg", asset("image/svg+xml", page::ICON))
}

/// What a request is for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Does {
    Look,
    /// A form that is sent: it must come from the page itself.
    Send,
}

/// The operators' rules, if the request may be a browser's at all: the Host is known, and no page of others
/// has made it.
fn of_browser<'a>(
    shared: &'a Shared,
    headers: &HeaderMap,
    does: Does,
) -> Result<&'a Operators, Box<Response>> {
    let refused = |status, why: &'static str| Err(Box::new(answer(status, TEXT, why)));
    let Some(operators) = shared.operators.as_deref() else {
        return refused(StatusCode::NOT_FOUND, "neither admin.token nor [admin.tls] is configured\n");
    };
    if !operators.has_host(headers) {
        return refused(
            StatusCode::FORBIDDEN,
            "ask by the address in admin.listen or a name in admin.hosts\n",
        );
    }
    let origins: Vec<_> = headers.get_all(ORIGIN).iter().collect();
    let is_own = match origins[..] {
        // Without one, no browser has made a form of it, unless it is logged in by a cookie.
        [] => does == Does::Look || headers.contains_key(AUTHORIZATION),
        [origin] => is_same(origin, headers),
        _ => false,
    };
    if !is_own || !may_fetch(headers, does) {
        return refused(StatusCode::FORBIDDEN, "the request is of another page\n");
    }
    Ok(operators)
}

/// Whether an origin has the host of the request. A proxy in front may terminate TLS.
fn is_same(origin: &HeaderValue, headers: &HeaderMap) -> bool {
    let origin = origin.to_str().unwrap_or_default();
    let of_origin = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
    let host = headers.get(HOST).and_then(|host| host.to_str().ok());
    of_origin.zip(host).is_some_and(|(one, other)| one.eq_ignore_ascii_case(other))
}

/// What browsers say of the page that makes a request (Fetch Metadata). Others may link to the page, and
/// nothing else.
fn may_fetch(headers: &HeaderMap, does: Does) -> bool {
    let value = |name| headers.get(name).and_then(|value| value.to_str().ok());
    match value("sec-fetch-site") {
        None | Some("same-origin" | "none") => true,
        Some(_) => does == Does::Look && value("sec-fetch-mode") == Some("navigate"),
    }
}

/// The same for an operator; others get the form for the token.
fn of_operator<'a>(
    shared: &'a Shared,
    headers: &HeaderMap,
    does: Does,
) -> Result<&'a Operators, Box<Response>> {
    let operators = of_browser(shared, headers, does)?;
    match operators.is_logged_in(headers) {
        true => Ok(operators),
        false => Err(Box::new(answer(StatusCode::UNAUTHORIZED, HTML, page::login(None)))),
    }
}

const HTML: &str = "text/html; charset=utf-8";
const TEXT: &str = "text/plain; charset=utf-8";

/// An answer that no other page may show, and no cache keeps.
fn answer(status: StatusCode, kind: &'static str, body: impl Into<axum::body::Body>) -> Response {
    let mut response = (status, body.into()).into_response();
    let headers = response.headers_mut();
    for (name, value) in [
        (CONTENT_TYPE, kind),
        (CSP, CONTENT_SECURITY_POLICY),
        (CACHE_CONTROL, "no-store"),
        // With less, browsers send forms with `Origin: null`.
        (REFERRER_POLICY, "same-origin"),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (X_FRAME_OPTIONS, "DENY"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

/// To the page, with a cookie or without one.
fn redirect(cookie: Option<&str>) -> Response {
    let mut response = answer(StatusCode::SEE_OTHER, TEXT, "");
    let headers = response.headers_mut();
    headers.insert(LOCATION, HeaderValue::from_static("/ui/"));
    if let Some(cookie) = cookie.and_then(|cookie| HeaderValue::from_str(cookie).ok()) {
        headers.insert(SET_COOKIE, cookie);
    }
    response
}

async fn status_page(State(shared): State<Shared>, headers: HeaderMap) -> Response {
    match of_operator(&shared, &headers, Does::Look) {
        Ok(_) => answer(StatusCode::OK, HTML, page::status(&status::status(&shared.state).await)),
        Err(refused) => *refused,
    }
}

fn service(shared: &Shared) -> page::Service<'_> {
    page::Service { domain: &shared.state.domain.netbios, server: &shared.state.server_name }
}

async fn explain_form(State(shared): State<Shared>, headers: HeaderMap) -> Response {
    match of_operator(&shared, &headers, Does::Look) {
        Ok(_) => answer(StatusCode::OK, HTML, page::explained(service(&shared), None)),
        Err(refused) => *refused,
    }
}

/// Explains a certificate that was pasted. Its form is read only after the cookie was checked.
async fn explain(State(shared): State<Shared>, request: Request) -> Response {
    let operators = match of_operator(&shared, request.headers(), Does::Send) {
        Ok(operators) => operators,
        Err(refused) => return *refused,
    };
    let failed =
        |status, problem: &str| answer(status, HTML, page::explained(service(&shared), Some(Err(problem))));
    let form = match read_body(request, FORM_LEN_MAX).await {
        Ok(form) => form,
        Err(StatusCode::PAYLOAD_TOO_LARGE) => {
            return failed(StatusCode::PAYLOAD_TOO_LARGE, TOO_LARGE);
        }
        Err(status) => return failed(status, "the certificate did not arrive in time"),
    };
    let Some(certificate) = field(&form, "certificate") else {
        return failed(StatusCode::BAD_REQUEST, "the form has no certificate");
    };
    if certificate.len() > EXPLAIN_LEN_MAX {
        return failed(StatusCode::PAYLOAD_TOO_LARGE, TOO_LARGE);
    }
    match explanation(&shared, operators, &certificate).await {
        Ok(explanation) => {
            answer(StatusCode::OK, HTML, page::explained(service(&shared), Some(Ok(&explanation))))
        }
        Err((status, problem)) => failed(status, &problem),
    }
}

const TOO_LARGE: &str = "this is too large: a certificate with its chain has at most 1 MiB";

async fn login(
    State(shared): State<Shared>,
    Extension(address): Extension<SocketAddr>,
    request: Request,
) -> Response {
    let operators = match of_browser(&shared, request.headers(), Does::Send) {
        Ok(operators) => operators,
        Err(refused) => return *refused,
    };
    let is_secure =
        request.headers().get(ORIGIN).is_some_and(|origin| origin.as_bytes().starts_with(b"https:"));
    let form = match read_body(request, LOGIN_LEN_MAX).await {
        Ok(form) => Zeroizing::new(form.to_vec()),
        Err(status) => return answer(status, HTML, page::login(Some("The form is too large."))),
    };
    let token = field(&form, "token").map(Zeroizing::new);
    let token = token.as_ref().and_then(|token| std::str::from_utf8(token).ok());
    if token.is_some_and(|token| operators.is_token(token.trim())) {
        tracing::info!(source = %address, "Operator logged in to the status page");
        return redirect(Some(&operators.sessions().begin(is_secure)));
    }
    operators.sessions().log_limiter().counted("login", |left_out| {
        tracing::warn!(source = %address, left_out, "Login to the status page rejected: the token is wrong");
    });
    answer(StatusCode::UNAUTHORIZED, HTML, page::login(Some("This is not the token.")))
}

async fn logout(State(shared): State<Shared>, headers: HeaderMap) -> Response {
    match of_browser(&shared, &headers, Does::Send) {
        Ok(operators) => redirect(Some(&operators.sessions().end(&headers))),
        Err(refused) => *refused,
    }
}

/// A field of a form as browsers send it (`application/x-www-form-urlencoded`).
fn field(form: &[u8], name: &str) -> Option<Vec<u8>> {
    let form = std::str::from_utf8(form).ok()?;
    let value = form.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))?;
    Some(percent_decode_str(&value.replace('+', " ")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_of_forms_are_decoded() {
        assert_eq!(field(b"a=1&token=x%2By+z%0D%0A&b=2", "token").as_deref(), Some(&b"x+y z\r\n"[..]));
        assert_eq!(field(b"tokens=1&token=", "token").as_deref(), Some(&b""[..]));
        for form in [&b""[..], b"token", b"tokens=1", b"token=\xff"] {
            assert_eq!(field(form, "token"), None);
        }
    }
}
