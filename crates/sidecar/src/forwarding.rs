//! Headers in which a proxy reports the request that it got to an application: client, scheme, host and path.
//!
//! Frameworks go by them. A client that sends one chooses its address, or is served another path or host than
//! the one that was decided about, so none of a client's reaches an application.

use crate::dialect::plain_name;

/// Those that move the path or the host. No web server of a dialect sets one of them for an application.
const MOVING: [&str; 10] = [
    "script-name",
    "path-info",
    "x-envoy-original-path",
    "x-original-url",
    "x-rewrite-url",
    "x-original-uri",
    "x-original-path",
    "x-original-host",
    "x-host",
    "x-http-host-override",
];

/// Their names, in lower case. A name of `x-forwarded-…` that is not here is one, too.
pub const NAMES: [&str; 50] = [
    "forwarded",
    "x-forwarded-for",
    "x-forwarded-by",
    "x-forwarded-host",
    "x-forwarded-method",
    "x-forwarded-path",
    "x-forwarded-port",
    "x-forwarded-prefix",
    "x-forwarded-proto",
    "x-forwarded-protocol",
    "x-forwarded-scheme",
    "x-forwarded-server",
    "x-forwarded-ssl",
    "x-forwarded-uri",
    "x-forwarded-url",
    // The address.
    "cf-connecting-ip",
    "client-ip",
    "fastly-client-ip",
    "forwarded-for",
    "true-client-ip",
    "wl-proxy-client-ip",
    "x-azure-clientip",
    "x-client-ip",
    "x-cluster-client-ip",
    "x-forwarded",
    "x-originating-ip",
    "x-remote-addr",
    "x-remote-ip",
    "x-original-for",
    "x-original-forwarded-for",
    "x-real-ip",
    // The scheme.
    "front-end-https",
    "x-original-proto",
    "x-scheme",
    "x-url-scheme",
    // The host.
    "x-host",
    "x-http-host-override",
    "x-original-host",
    // The certificate, as other proxies pass it on.
    "wl-proxy-client-cert",
    "x-arr-clientcert",
    "x-client-cert",
    "x-ssl-cert",
    // The path: IIS and Symfony, ingresses, Envoy, WSGI. gunicorn takes SCRIPT_NAME and PATH_INFO from a
    // header of that name.
    "script-name",
    "path-info",
    "x-envoy-original-path",
    "x-original-uri",
    "x-original-url",
    "x-rewrite-url",
    "x-script-name",
    "x-original-path",
];

/// Whether a name is one of these for an application that folds case and what is neither letter nor digit.
pub fn is_one(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    let name = plain_name(&name);
    // WebSphere takes all about a request from $WS…: its address, its user, its certificate.
    name.starts_with("x-forwarded-") || name.starts_with("-ws") || NAMES.contains(&name.as_ref())
}

/// Whether such a header is a client's although a proxy is trusted to say where requests come from: under a
/// name that no proxy uses, or one that moves the request. `name` is in lower case.
pub fn is_clients(name: &str) -> bool {
    let plain = plain_name(name);
    is_one(name) && (*plain != *name || MOVING.contains(&&*plain))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_told_whatever_stands_between_their_words() {
        for name in ["X-Original-URL", "x_original.url", "X_Forwarded-Anything", "forwarded", "X-Real_Ip"] {
            assert!(is_one(name), "{name}");
        }
        for name in ["x-original", "host", "x-forward", "x-request-id", "accept", "ws", "name"] {
            assert!(!is_one(name), "{name}");
        }
    }

    /// RFC 9110, section 5.6.2: what a name may have beside letters, digits and the hyphen.
    #[test]
    fn every_character_of_a_name_that_is_no_letter_is_a_hyphen() {
        for odd in "!#$%&'*+.^_`|~".chars() {
            for name in
                [format!("x{odd}forwarded-for"), format!("x-original{odd}url"), format!("X{odd}Real{odd}IP")]
            {
                assert!(is_one(&name) && is_clients(&name.to_lowercase()), "{name}");
            }
        }
    }

    #[test]
    fn names_that_servers_take_for_the_same_are_the_same() {
        for (name, is_said, is_of_client) in [
            ("x-forwarded-for", true, false),
            ("x_forwarded_for", true, true),
            ("x-forwarded_for", true, true),
            ("x.forwarded.for", true, true),
            ("x-forwarded-prefix", true, false),
            ("forwarded", true, false),
            ("x-real-ip", true, false),
            ("x-real_ip", true, true),
            ("x-original-url", true, true),
            ("x_original_url", true, true),
            ("x-rewrite-url", true, true),
            ("x.rewrite.url", true, true),
            ("SCRIPT_NAME", true, true),
            ("script-name", true, true),
            ("path_info", true, true),
            ("path-info", true, true),
            ("x-script-name", true, false),
            ("$wsru", true, true),
            ("$wscc", true, true),
            ("wl-proxy-client-cert", true, false),
            ("cf-connecting-ip", true, false),
            ("x-forward", false, false),
            ("x_custom", false, false),
            ("host", false, false),
        ] {
            assert_eq!((is_one(name), is_clients(&name.to_lowercase())), (is_said, is_of_client), "{name}");
        }
    }
}
