//! Headers that only the proxy and the sidecar may set.

use super::Run;
use super::findings::{Seen, Tally};
use super::proxy::Outcome;
use sidecar::forwarding;
use sidecar::proxy_config::title;
use std::collections::BTreeSet;
use std::sync::atomic::Ordering;

/// An address for documentation (RFC 5737), which no client has.
const FORGED_ADDRESS: &str = "198.51.100.77";

/// A way to write a header, as a line.
type Form = (&'static str, fn(&str, &str) -> String);

/// The form in which a proxy sets a header.
const AS_IT_IS: &str = "as it is";

/// Ways in which programs take a header for another one.
const FORMS: [Form; 11] = [
    (AS_IT_IS, |name, value| format!("{name}: {value}")),
    ("in lower case", |name, value| format!("{}: {value}", name.to_ascii_lowercase())),
    ("in upper case", |name, value| format!("{}: {value}", name.to_ascii_uppercase())),
    ("with _ for -", |name, value| format!("{}: {value}", name.replace('-', "_"))),
    ("with _ for the first -", |name, value| format!("{}: {value}", name.replacen('-', "_", 1))),
    ("with . for -", |name, value| format!("{}: {value}", name.replace('-', "."))),
    ("with ~ for -", |name, value| format!("{}: {value}", name.replace('-', "~"))),
    ("with another character for -", |name, value| format!("{}: {value}", with_others(name))),
    ("doubled", |name, value| format!("{name}: {value}\r\n{name}: {value}")),
    ("with a space before the colon", |name, value| format!("{name} : {value}")),
    ("after a bare line feed", |name, value| format!("X-Trial: 1\n{name}: {value}")),
];

/// Characters of a name beside letters, digits, hyphens and those that have a form of their own (RFC 9110,
/// section 5.6.2).
const OTHERS: &[u8] = b"!#$%&'*+^`|";

/// A name with another character for each hyphen, other ones in other names: a request has no room for all of
/// them.
fn with_others(name: &str) -> String {
    let mut at = name.bytes().map(usize::from).sum::<usize>();
    let other = |letter: char| match letter {
        '-' => {
            at += 1;
            char::from(OTHERS[at % OTHERS.len()])
        }
        letter => letter,
    };
    name.chars().map(other).collect()
}

impl Run {
    fn identity_headers(&self) -> Vec<String> {
        self.names.iter().map(|name| title(name)).collect()
    }

    pub(super) async fn forged_identity(&self) -> Tally {
        let mut tally = Tally::default();
        let names = self.identity_headers();
        for (label, form) in FORMS {
            let lines: Vec<String> = names.iter().map(|name| form(name, &self.nonce)).collect();
            let outcome = self.ask(&self.us, &self.get().lines(lines)).await;
            let seen = self.ours(&outcome);
            if label == AS_IT_IS && matches!(seen, Seen::Arrived(_)) {
                self.passes_headers.store(true, Ordering::Relaxed);
            }
            tally.add(label, seen);
            // One that is refused may hide others that are not.
            if !matches!(&outcome, Outcome::Answered(answer) if answer.told.is_some()) {
                for name in &names {
                    let outcome = self.ask(&self.us, &self.get().line(form(name, &self.nonce))).await;
                    tally.add(&format!("{name} {label}"), self.ours(&outcome));
                }
            }
        }
        match self.baseline {
            Some(_) => {
                let outcome = self.proxy.ask(&self.us, &self.with_trailer(&names)).await;
                tally.add("in a trailer", self.ours(&outcome));
            }
            None => tally.add("in a trailer", Seen::Untold("not sent to another page".to_owned())),
        }
        tally
    }

    pub(super) async fn forged_identity_anonymous(&self) -> Tally {
        let mut tally = Tally::default();
        let names = self.identity_headers();
        for (label, form) in FORMS {
            let lines: Vec<String> = names.iter().map(|name| form(name, &self.nonce)).collect();
            let outcome = self.ask(&self.anonymous, &self.get().lines(lines)).await;
            tally.add(label, self.rejected_page(&outcome));
        }
        if self.baseline.is_some() {
            let outcome = self.proxy.ask(&self.anonymous, &self.with_trailer(&names)).await;
            tally.add("in a trailer", self.rejected(&outcome));
        }
        tally
    }

    /// A chunked body with a trailer (RFC 9112, section 7.1.2).
    fn with_trailer(&self, names: &[String]) -> Vec<u8> {
        let fields: String = names.iter().map(|name| format!("{name}: {}\r\n", self.nonce)).collect();
        let ask = self.get().method("POST").line("Transfer-Encoding: chunked").line("TE: trailers");
        let ask = ask.line(format!("Trailer: {}", names.join(", ")));
        ask.body(format!("1\r\nx\r\n0\r\n{fields}\r\n")).bytes()
    }

    /// Headers that say for an application where a request comes from, and for which host and path it is.
    pub(super) async fn forwarding_headers(&self) -> Tally {
        let mut tally = Tally::default();
        if self.baseline.is_none() {
            tally
                .add("with the certificate", Seen::Untold("this page does not tell what arrived".to_owned()));
            return tally;
        }
        let names = forwarding::NAMES.map(title);
        let spelled = |label: &str| [AS_IT_IS, "with _ for -", "with . for -"].contains(&label);
        for (label, form) in FORMS {
            // Where only an address is taken, a word proves nothing.
            let values = [Some(self.nonce.as_str()), spelled(label).then_some(FORGED_ADDRESS)];
            for value in values.into_iter().flatten() {
                let lines: Vec<String> = names.iter().map(|name| form(name, value)).collect();
                let outcome = self.ask(&self.us, &self.get().lines(lines)).await;
                tally.add(label, self.without_forwarding(&outcome));
                // One that is refused may hide others that are not.
                if !matches!(&outcome, Outcome::Answered(answer) if answer.told.is_some()) {
                    for name in &names {
                        let outcome = self.ask(&self.us, &self.get().line(form(name, value))).await;
                        tally.add(&format!("{name} {label}"), self.without_forwarding(&outcome));
                    }
                }
            }
        }
        tally
    }

    /// Judges an answer to us: no header of [`forwarding::NAMES`] has what was sent.
    pub(super) fn without_forwarding(&self, outcome: &Outcome) -> Seen {
        let names: BTreeSet<String> = forwarding::NAMES.into_iter().map(str::to_owned).collect();
        let told = match outcome {
            Outcome::Answered(answer) => answer.told.as_ref(),
            _ => None,
        };
        let arrived: Vec<&str> = told
            .iter()
            .flat_map(|told| {
                [self.nonce.as_str(), FORGED_ADDRESS].into_iter().flat_map(|it| told.arrived(&names, it))
            })
            .collect();
        match arrived.is_empty() {
            true => self.ours(outcome),
            false => Seen::Arrived(super::some_of(&arrived)),
        }
    }

    pub(super) async fn hop_by_hop(&self) -> Tally {
        let mut tally = Tally::default();
        let secret = title(sidecar::SECRET.as_str());
        let names: Vec<String> =
            self.identity_headers().into_iter().chain(Self::certificate_headers()).chain([secret]).collect();
        let all = format!("Connection: close, {}", names.join(", "));
        let outcome = self.ask(&self.us, &self.get().line(all.as_str())).await;
        tally.add("all of them", self.ours(&outcome));
        for name in &names {
            let outcome = self.ask(&self.us, &self.get().line(format!("Connection: close, {name}"))).await;
            tally.add(name, self.ours(&outcome));
        }
        let outcome = self.ask(&self.anonymous, &self.get().line(all)).await;
        tally.add("all of them, without a certificate", self.rejected_page(&outcome));
        tally
    }

    pub(super) async fn secret(&self) -> Tally {
        let mut tally = Tally::default();
        let name = title(sidecar::SECRET.as_str());
        for (label, form) in FORMS {
            let line = form(&name, &self.nonce);
            let outcome = self.ask(&self.us, &self.get().line(line)).await;
            tally.add(label, self.without_secret(&outcome));
        }
        for (label, lines) in Self::dialects(&self.certificate) {
            let ask = self.get().line(format!("{name}: {}", self.nonce)).lines(lines);
            let outcome = self.ask(&self.anonymous, &ask).await;
            tally.add(&format!("without a certificate, {label}"), self.rejected_page(&outcome));
        }
        tally
    }

    fn without_secret(&self, outcome: &Outcome) -> Seen {
        if let Outcome::Answered(answer) = outcome
            && let Some(told) = &answer.told
            && told.values(sidecar::SECRET.as_str()).iter().any(|value| value.contains(&self.nonce))
        {
            return Seen::Leak("what was sent arrives at the application".to_owned());
        }
        self.ours(outcome)
    }
}
