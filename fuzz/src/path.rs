//! Paths that routes go by: a program that reads one in any of the usual ways arrives where we do.

use sidecar::routes::{Route, Routes, plain_path};

/// Reads `bytes` as the path of a request.
pub fn check(bytes: &[u8]) {
    let Ok(path) = std::str::from_utf8(bytes) else { return };
    let host = "app.example";
    let route = |path: &str| Route { path: Some(path.to_owned()), ..Route::default() };
    let Some(plain) = plain_path(path) else {
        assert!(is_ambiguous(path), "{path:?} is refused for nothing");
        return;
    };
    let decoded = decoded(path).expect("only what can be decoded is accepted");
    let merged = without_dots(&merge(&decoded)).map(|path| merge(&path));
    let kept = without_dots(&decoded).map(|path| merge(&path));
    for reading in [merged, kept] {
        assert_eq!(reading.as_deref().map(trim), Some(trim(&plain)), "{path:?}");
    }
    assert_eq!(plain_path(&plain).as_ref(), Some(&plain), "a plain path is its own");
    let routes = Routes::new(vec![route("/"), route(&plain)]);
    let chosen = routes.choose(Some((host, path))).expect("a path that is plain has a route");
    assert_eq!(chosen.number, Some(usize::from(plain != "/")), "{path:?}");
}

/// Whether two programs could read it differently.
fn is_ambiguous(path: &str) -> bool {
    let written = path.split('?').next().unwrap_or_default();
    let Some(decoded) = decoded(written) else { return true };
    !decoded.starts_with('/')
        || decoded.contains("//")
        || decoded.split('/').any(|segment| matches!(segment, "." | ".."))
        || written.contains(['\\', ';', '#'])
        || decoded.chars().any(|c| c.is_ascii_control())
}

/// Percent-encoding undone; `None` where it is none, or hides what separates.
fn decoded(path: &str) -> Option<String> {
    let mut parts = path.split('?').next()?.split('%');
    let mut bytes = parts.next()?.as_bytes().to_vec();
    for part in parts {
        let (digits, rest) = part.as_bytes().split_at_checked(2)?;
        let digits =
            str::from_utf8(digits).ok().filter(|digits| digits.chars().all(|c| c.is_ascii_hexdigit()))?;
        let byte = u8::from_str_radix(digits, 16).ok()?;
        if b"/\\%;?#".contains(&byte) {
            return None;
        }
        bytes.push(byte);
        bytes.extend_from_slice(rest);
    }
    String::from_utf8(bytes).ok()
}

fn merge(path: &str) -> String {
    let mut path = path.to_owned();
    while path.contains("//") {
        path = path.replace("//", "/");
    }
    path
}

/// RFC 3986, section 5.2.4, rule by rule; `None` where it takes away what is not there.
fn without_dots(path: &str) -> Option<String> {
    let (mut input, mut output) = (path.to_owned(), String::new());
    while !input.is_empty() {
        if input.starts_with("/./") || input == "/." {
            input = format!("/{}", input.get(3..).unwrap_or_default());
        } else if input.starts_with("/../") || input == "/.." {
            input = format!("/{}", input.get(4..).unwrap_or_default());
            output.truncate(output.rfind('/')?);
        } else {
            let end = input[1..].find('/').map_or(input.len(), |at| at + 1);
            output.extend(input.drain(..end));
        }
    }
    Some(output)
}

fn trim(path: &str) -> &str {
    path.trim_end_matches('/')
}
