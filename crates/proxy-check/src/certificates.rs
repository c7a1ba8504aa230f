//! Certificates that are not there, not of the right authority, or only in headers.

use super::findings::{Seen, Tally};
use super::proxy::Outcome;
use super::{Run, forgery};
use rustls::ClientConfig;
use sidecar::Dialect;
use sidecar::proxy_config::title;
use std::sync::Arc;

impl Run {
    pub(super) async fn no_certificate(&self) -> Tally {
        let mut tally = Tally::default();
        let outcome = self.ask(&self.anonymous, &self.get()).await;
        match &outcome {
            Outcome::Answered(answer) if matches!(answer.status, 500..) => {
                tally.note(format!("{}: refused, but as something broken; 401 is usual", answer.status));
            }
            Outcome::Answered(answer) => tally.note(format!("the answer is {}", answer.status)),
            Outcome::Refused(why) => tally.note(why.clone()),
            _ => {}
        }
        tally.add("GET", self.rejected_page(&outcome));
        tally
    }

    pub(super) async fn wrong_authority(&self) -> Tally {
        let mut tally = Tally::default();
        let outcome = self.ask(&self.twin, &self.get()).await;
        match &outcome {
            Outcome::Answered(answer) => tally.note(format!("the answer is {}", answer.status)),
            Outcome::Refused(why) => tally.note(why.clone()),
            _ => {}
        }
        tally.add("GET", self.rejected_page(&outcome));
        tally
    }

    /// Lines of a dialect that say that a certificate was verified, under its own names and under those that
    /// some take for the same.
    pub(super) fn dialects(certificate: &[u8]) -> Vec<(String, Vec<String>)> {
        let of_dialect = |dialect: Dialect| {
            let passed = forgery::passed_on(dialect, certificate);
            let lines = |alias: fn(&str) -> String| {
                passed.iter().map(|(name, value)| format!("{}: {value}", alias(name))).collect::<Vec<_>>()
            };
            let own = (dialect.name().to_owned(), lines(str::to_owned));
            let alias = (format!("{} with _ for -", dialect.name()), lines(|name| name.replace('-', "_")));
            // A proxy may add to what is there, or only look at the first or the last.
            let doubled = lines(str::to_owned);
            let doubled = (format!("{} twice", dialect.name()), [doubled.clone(), doubled].concat());
            [own, alias, doubled]
        };
        Dialect::ALL.into_iter().flat_map(of_dialect).collect()
    }

    pub(super) async fn forged_certificate(&self, config: &Arc<ClientConfig>) -> Tally {
        let mut tally = Tally::default();
        for (label, lines) in Self::dialects(&self.certificate) {
            let outcome = self.ask(config, &self.get().lines(lines)).await;
            tally.add(&label, self.rejected_page(&outcome));
        }
        tally
    }

    /// With another certificate in the handshake ours is forged; without another one, the twin beside ours.
    pub(super) async fn forged_certificate_beside(&self) -> Tally {
        let mut tally = Tally::default();
        let Some(other) = &self.other else {
            tally.note("only with a certificate of an untrusted CA: give --other-certificate for one that is accepted");
            for (label, lines) in Self::dialects(&self.twin_certificate) {
                let outcome = self.ask(&self.us, &self.get().lines(lines)).await;
                tally.add(&label, self.ours(&outcome));
            }
            return tally;
        };
        if let Some(why) = &self.other_refused {
            tally.add("--other-certificate", Seen::Untried(format!("this certificate is refused: {why}")));
            return tally;
        }
        for (label, lines) in Self::dialects(&self.certificate) {
            let outcome = self.ask(other, &self.get().lines(lines)).await;
            tally.add(&label, self.others(&outcome));
        }
        tally
    }

    /// Checks an answer to the other certificate, which is not that of the first account.
    fn others(&self, outcome: &Outcome) -> Seen {
        let told = match outcome {
            Outcome::Answered(answer) => answer.told.as_ref(),
            _ => None,
        };
        match (&self.baseline, told) {
            (Some(baseline), Some(told)) => {
                let identity = told.identity(&self.names);
                match identity.account(&self.named) {
                    Some(account) if !baseline.is_called(account, &self.named) => Seen::Good,
                    Some(account) => Seen::Leak(format!("the page is told that this is {account}")),
                    None => Seen::Leak("the page is shown, and gets no name".to_owned()),
                }
            }
            (None, _) => Seen::Untold("this page does not tell what arrived".to_owned()),
            (Some(_), None) => self.rejected(outcome),
        }
    }

    /// Every header by which a certificate is passed on, as it is usually written.
    pub(super) fn certificate_headers() -> impl Iterator<Item = String> {
        sidecar::dialect::OWNED.into_iter().map(title)
    }
}
