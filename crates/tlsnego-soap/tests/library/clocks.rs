//! One difference of clocks for all: the negotiation, messages under the bootstrap token, RST/SCT and calls,
//! in both directions.

use crate::matrix::{ECHO, body, client, negotiate, tls_client};
use crate::support::*;
use dtyp::FileTime;
use std::time::Duration;
use tlsnego_service::Moment;
use tlsnego_service::session::Credential;
use tlsnego_soap::CONTENT_TYPE;
use tlsnego_soap::client::{ClientError, Negotiated, Proof, Under};
use tlsnego_soap::server::{Binding, Event};

/// The clock of the service, some minutes ahead of a client's.
fn service_clock(now: Moment, minutes: i64) -> Moment {
    let distance = Duration::from_secs(60 * minutes.unsigned_abs());
    let wall = if minutes < 0 { now.wall - distance } else { now.wall + distance };
    Moment { wall, ..now }
}

/// Why the service refused a message at this moment; none if it took it.
fn refused(service: &Service, octets: &[u8], at: Moment) -> Option<String> {
    match post_at(service, CONTENT_TYPE, octets, at).event {
        Some(Event::Refused(refusal)) => Some(refusal.to_string()),
        _ => None,
    }
}

/// The negotiation of a client with this clock, against a service with the right one.
fn negotiated(certificates: &Certificates, service: &Service, at: FileTime) -> Result<(), ClientError> {
    let tls = tls_client(certificates, Credential::None);
    let (mut octets, mut negotiating) = client().negotiate(&tls).expect("the first leg");
    loop {
        let answer = post(service, CONTENT_TYPE, &octets).response.body;
        (octets, negotiating) = match negotiating.receive(&answer, at)? {
            Negotiated::Token(_) => return Ok(()),
            Negotiated::Send(octets, negotiating) => (octets, negotiating),
            Negotiated::Certificate(unverified) => unverified.accept()?,
        };
    }
}

#[test]
fn four_minutes_pass_and_six_fail_everywhere() {
    let certificates = Certificates::new();
    let service = service(&certificates, &Binding::ALL, Credential::None);
    let echo = body("x");
    // Messages have milliseconds.
    let base = Moment { wall: FileTime::from_unix(now().wall.to_unix()), ..now() };
    println!("service's clock  negotiation  bootstrap  RST/SCT  call");
    for minutes in [-6, -4, 0, 4, 6] {
        let at = service_clock(base, minutes);
        let passes = minutes.abs() < 5;
        // The messages' clock is behind the service's if that is ahead.
        let offset = format!("clock offset {}{} s", if minutes > 0 { "-" } else { "+" }, 60 * minutes.abs());
        let check = |what: &str, refused: Option<String>| match refused {
            None => assert!(passes, "{what} at {minutes}"),
            Some(why) => assert!(!passes && why.contains(&offset), "{what} at {minutes}: {why}"),
        };
        // A client measures the service's clock, and what is ahead for the one is behind for the other.
        let behind = service_clock(base, -minutes).wall;
        let seen = negotiated(&certificates, &service, behind).err().map(|error| error.to_string());
        assert_eq!(seen.is_none(), passes, "negotiation at {minutes}: {seen:?}");
        let sign = if minutes > 0 { '+' } else { '-' };
        assert!(seen.is_none_or(|why| why.contains(&format!("clock offset {sign}3"))));

        let token = negotiate(&service, &certificates, Credential::None);
        let under = Under::Token(&token);
        let (octets, _) = client().call(under, Proof::None, (ECHO, &echo), base.wall).expect("a call");
        check("bootstrap", refused(&service, &octets, at));
        // Replies of a service with such a clock.
        let (octets, pending) = client().call(under, Proof::None, (ECHO, &echo), base.wall).expect("a call");
        let reply = post(&service, CONTENT_TYPE, &octets).response.body;
        let read = pending.receive(&reply, behind);
        assert_eq!(read.is_ok(), passes, "a reply at {minutes}: {read:?}");

        let (octets, establishing) = client().establish(under, Proof::None, base.wall).expect("RST/SCT");
        check("RST/SCT", refused(&service, &octets, at));
        if passes {
            continue;
        }
        // It was refused, so the bootstrap token is still there.
        let reply = post(&service, CONTENT_TYPE, &octets).response.body;
        let session = establishing.receive(&reply, now().wall).expect("a session");
        let under = Under::Token(&session);
        let (octets, _) = client().call(under, Proof::None, (ECHO, &echo), base.wall).expect("a call");
        check("call", refused(&service, &octets, at));
        println!("{minutes:+12} min  refused      refused    refused  refused");
    }
    // A call that passes, with a session that is established at the right time.
    for minutes in [-4, 0, 4] {
        let token = negotiate(&service, &certificates, Credential::None);
        let (octets, establishing) =
            client().establish(Under::Token(&token), Proof::None, base.wall).expect("RST/SCT");
        let reply = post(&service, CONTENT_TYPE, &octets).response.body;
        let session = establishing.receive(&reply, now().wall).expect("a session");
        let (octets, _) =
            client().call(Under::Token(&session), Proof::None, (ECHO, &echo), base.wall).expect("a call");
        assert_eq!(refused(&service, &octets, service_clock(base, minutes)), None, "{minutes}");
        println!("{minutes:+12} min  passes       passes     passes   passes");
    }
}
