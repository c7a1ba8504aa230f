//! Paths with odd characters in what `rcmpd proxy-config` prints, read by each web server's own check of its
//! configuration. A web server that reads another path than was meant does not find the file there.

use rcmpd_tests::Demo;
use rcmpd_tests::web::{Printed, WebServer};

/// Names of a folder: white space, each kind of quotes, a value of our own templates, a variable, a comment,
/// an escape, and what YAML has a meaning for.
const ODD: [&str; 9] = ["a b", "a\"b", "a'b", "a{{key}}b", "a$b", "a#b", "a\\b", "a`b", "a, [b]: c"];

/// The folders that a web server has no way to quote: `rcmpd proxy-config` prints nothing and says why.
const fn refused(server: WebServer) -> &'static [&'static str] {
    match server {
        WebServer::Nginx => &["a$b"],
        // In the address of the sidecar's socket.
        WebServer::Haproxy => &["a$b"],
        WebServer::Apache => &["a#b"],
        WebServer::Caddy | WebServer::CaddyClientCert => &["a{{key}}b", "a`b"],
        WebServer::Traefik => &["a{{key}}b"],
        WebServer::Envoy | WebServer::EnvoyHttp | WebServer::Own => &[],
    }
}

fn reads_each_path(server: WebServer) {
    for odd in ODD {
        let demo = Demo::new();
        let printed = Printed::in_folder(server, &demo, odd);
        if refused(server).contains(&odd) {
            let done = printed.done.code(2);
            assert!(done.stdout.is_empty() && done.stderr.contains("use one without"), "{odd}: {done:?}");
            continue;
        }
        let checked = printed.checked(&demo);
        assert_eq!(checked.code, 0, "{server:?} {odd}: {checked:?}\n{}", printed.done.stdout);
    }
}

#[test]
fn nginx_reads_each_path() {
    reads_each_path(WebServer::Nginx);
}

#[test]
fn haproxy_reads_each_path() {
    reads_each_path(WebServer::Haproxy);
}

#[test]
fn apache_reads_each_path() {
    reads_each_path(WebServer::Apache);
}

#[test]
fn caddy_reads_each_path() {
    reads_each_path(WebServer::Caddy);
    reads_each_path(WebServer::CaddyClientCert);
}

#[test]
fn envoy_reads_each_path() {
    reads_each_path(WebServer::Envoy);
    reads_each_path(WebServer::EnvoyHttp);
}

#[test]
fn traefik_reads_each_path() {
    reads_each_path(WebServer::Traefik);
}
