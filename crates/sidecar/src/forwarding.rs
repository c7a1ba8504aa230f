//! Headers that say where a request comes from and what it was for. Only a proxy may say that: frameworks believe such a header, and take its
//! value for the path, the host or the address.

use crate::dialect::plain_name;

/// Headers that move the path or the host. No web server of a dialect sets one of them for an application.
const MOVING: [&str; 6] = [
    "x-original-url",
    "x-rewrite-url",
    "x-original-uri",
    "x-original-host",
    "x-host",
    "x-http-host-override",
];
/// Headers for the address of a client, beside `Forwarded` and `X-Forwarded-…`.
const ADDRESS: [&str; 6] = [
    "x-real-ip",
    "x-client-ip",
    "x-cluster-client-ip",
    "x-original-forwarded-for",
    "true-client-ip",
    "client-ip",
];

/// Whether a header says where a request comes from, or moves it, under any name that a server takes for the same: `_` and `.` for `-`.
pub fn is_forwarding(name: &str) -> bool {
    let name = plain_name(name);
    let name = &*name;
    name == "forwarded"
        || name.starts_with("x-forwarded-")
        || MOVING.contains(&name)
        || ADDRESS.contains(&name)
}

/// Whether such a header is a client's although a proxy is trusted to say where requests come from: under a name that no proxy uses, or one
/// that moves the request. `name` is in lower case.
pub fn is_clients(name: &str) -> bool {
    let plain = plain_name(name);
    is_forwarding(name) && (*plain != *name || MOVING.contains(&&*plain))
}

#[cfg(test)]
mod tests {
    use super::*;

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
            ("x-forward", false, false),
            ("x_custom", false, false),
            ("host", false, false),
        ] {
            assert_eq!((is_forwarding(name), is_clients(name)), (is_said, is_of_client), "{name}");
        }
    }
}
