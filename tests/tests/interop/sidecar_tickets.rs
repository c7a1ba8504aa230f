//! Web servers pass the ticket of the sidecar to the client and back, and never to the application. curl
//! keeps the cookies.

use rcmpd_tests::ports::free_port;
use rcmpd_tests::web::{Site, WebServer, values};

const TICKET: &str = "source = \"remote\"\nremember_s = 600\n[sidecar.ticket]\nkeys = [\"file:ticket.key\"]\naudience = \"shop\"";

fn passes_tickets(server: WebServer) {
    // The service asks itself, over Netlogon.
    let site = Site::start_in(server, TICKET, &|demo| {
        demo.rcmpd(&["sidecar", "ticket-key", "ticket.key", "--generation", "1"]).code(0);
        let netlogon = free_port();
        demo.edit(|text| {
            // `Service::reload` gives back ports of the kernel's choice, as they are written in other tests.
            let text = text.replacen("\"127.0.0.1:0\"]", &format!("\"{netlogon}\" ]"), 1);
            let lines = text.lines().map(|line| match line.starts_with("server  = \"127.") {
                true => format!("server  = \"{netlogon}\""),
                false => line.to_owned(),
            });
            lines.collect::<Vec<_>>().join("\n")
        });
    });
    let jar = site.service.path("jar").display().to_string();
    let with_jar = ["--cookie-jar", jar.as_str(), "--cookie", jar.as_str()];
    let alice = site.page(Some("alice"), "/", &with_jar);
    assert_eq!(values(&alice, "Remote-User"), ["CONTOSO\\alice"], "{server:?}");
    let kept = std::fs::read_to_string(&jar).unwrap();
    let ticket = kept.lines().find_map(|line| line.split_once("__Host-rcmpd\t")).map(|(_, text)| text.trim());
    let ticket = ticket.unwrap_or_else(|| panic!("{server:?} passes no cookie to the client: {kept}"));
    assert_eq!((site.service.tickets("issued"), site.service.tickets("accepted")), (1, 0), "{server:?}");
    // What another node would do: nothing is cached, and the ticket is there.
    site.service.reload();
    let cookie = format!("Cookie: theme=dark; __Host-rcmpd={ticket}; lang=en");
    for (more, cookies) in [
        (&["-H", cookie.as_str()][..], &["theme=dark; lang=en"][..]),
        (&with_jar, &[]),
        (&["-H", "Cookie: theme=dark"], &["theme=dark"]),
    ] {
        let page = site.page(Some("alice"), "/", more);
        assert_eq!(values(&page, "Remote-User"), ["CONTOSO\\alice"], "{server:?}");
        assert_eq!(values(&page, "Cookie"), cookies, "{server:?}");
    }
    assert_eq!(site.service.tickets("accepted"), 1, "{server:?}");
    // Two of them, other spellings, and another client's: no application gets a ticket, and nothing is said
    // of another account.
    site.service.reload();
    let twice = format!("Cookie: __Host-rcmpd={ticket}; a=b; __Host-rcmpd={ticket}");
    let odd = format!("Cookie: a=b;__host-RCMPD ={ticket}");
    for header in [&twice, &odd, &cookie] {
        let bob = site.page(Some("bob"), "/", &["-H", header]);
        assert_eq!(values(&bob, "Remote-User"), ["CONTOSO\\bob"], "{server:?}");
        assert!(!bob.to_string().contains(ticket), "{server:?}: {bob:#}");
    }
    assert_eq!(site.service.tickets("accepted"), 1, "{server:?}");
    assert_eq!(site.get(Some("mallory"), "/", &["-H", &cookie]).0, 403, "{server:?}");
    assert_eq!(site.get(None, "/", &["-H", &cookie]).0, 401, "{server:?}");
}

#[test]
fn nginx_passes_tickets() {
    passes_tickets(WebServer::Nginx);
}

#[test]
fn the_tls_terminating_proxy_passes_tickets() {
    passes_tickets(WebServer::Own);
}

#[test]
fn web_servers_before_the_sidecar_pass_tickets() {
    [WebServer::Haproxy, WebServer::Apache].into_iter().for_each(passes_tickets);
}

#[test]
fn envoy_passes_tickets() {
    passes_tickets(WebServer::Envoy);
}
