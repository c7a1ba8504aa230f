//! TLS sessions that are resumed: the certificate that the first handshake showed to that host counts, and
//! nothing else.

use super::Run;
use super::ask::Ask;
use super::client::{Client, Sessions};
use super::findings::{Seen, Tally};
use super::proxy::Outcome;
use rustls::pki_types::ServerName;
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, SupportedProtocolVersion};
use std::sync::Arc;

const VERSIONS: [(&str, &SupportedProtocolVersion); 2] = [("TLS 1.3", &TLS13), ("TLS 1.2", &TLS12)];

/// A host of the proxy: as `Host` has it, and in the handshake.
type Host<'a> = (&'a str, &'a ServerName<'static>);

impl Run {
    fn with_sessions(
        &self,
        client: &Arc<Client>,
        version: &'static SupportedProtocolVersion,
    ) -> anyhow::Result<Arc<ClientConfig>> {
        self.proxy.config(client, Some(version), Some(Arc::new(Sessions::default())))
    }

    fn own_host(&self) -> Host<'_> {
        (&self.proxy.authority, &self.proxy.name)
    }

    async fn ask_at(&self, config: &Arc<ClientConfig>, (host, name): Host<'_>) -> Outcome {
        let ask: Ask = self.get().hosts(&[host]);
        match self.proxy.open(config, Some(name)).await {
            Ok(mut secured) => self.proxy.exchange(&mut secured, &ask.bytes()).await,
            Err(outcome) => outcome,
        }
    }

    pub(super) async fn resumption(&self) -> anyhow::Result<Tally> {
        self.resumed(false, Self::ours).await
    }

    pub(super) async fn anonymous_session(&self) -> anyhow::Result<Tally> {
        self.resumed(true, Self::rejected).await
    }

    /// Asks twice in one session, which begins with our certificate or without one, and judges the second
    /// answer.
    async fn resumed(&self, holds_back: bool, judge: fn(&Self, &Outcome) -> Seen) -> anyhow::Result<Tally> {
        let mut tally = Tally::default();
        for (label, version) in VERSIONS {
            let config = self.with_sessions(&self.client, version)?;
            self.client.hold_back(holds_back);
            let first = self.ask_at(&config, self.own_host()).await;
            self.client.hold_back(false);
            if let Some(seen) = unspoken(&first) {
                tally.add(label, seen);
                continue;
            }
            let second = self.ask_at(&config, self.own_host()).await;
            let seen = match is_resumed(&second) {
                false => Seen::Untold("no session is resumed".to_owned()),
                true => judge(self, &second),
            };
            tally.add(label, seen);
        }
        Ok(tally)
    }

    pub(super) async fn other_host(&self) -> anyhow::Result<Tally> {
        let mut tally = Tally::default();
        let Some((host, name)) = &self.other_host else {
            tally.add("another host", Seen::Untold("give one of the same proxy as --other-host".to_owned()));
            return Ok(tally);
        };
        let other: Host<'_> = (host, name);
        for (label, version) in VERSIONS {
            let config = self.with_sessions(&self.client, version)?;
            let first = self.ask_at(&config, self.own_host()).await;
            if unspoken(&first).is_none() {
                let second = self.ask_at(&config, other).await;
                tally.add(&format!("{label}, ours at {host}"), self.ours(&second));
            }
            for (whose, client, holds_back) in [
                ("a session without a certificate", &self.client, true),
                ("a session of another CA", &self.twin_client, false),
            ] {
                let config = self.with_sessions(client, version)?;
                client.hold_back(holds_back);
                let first = self.ask_at(&config, other).await;
                client.hold_back(false);
                let request = format!("{label}, {whose} of {host}");
                if let Some(seen) = unspoken(&first) {
                    tally.add(&request, seen);
                    continue;
                }
                let second = self.ask_at(&config, self.own_host()).await;
                let seen = match is_resumed(&second) || !holds_back {
                    true => self.rejected(&second),
                    false => Seen::Untold("no session is resumed".to_owned()),
                };
                tally.add(&request, seen);
            }
        }
        Ok(tally)
    }
}

fn is_resumed(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Answered(answer) if answer.is_resumed)
}

/// Why there is no session, if there is none.
fn unspoken(first: &Outcome) -> Option<Seen> {
    match first {
        Outcome::Answered(_) => None,
        Outcome::Refused(why) => Some(Seen::Untold(format!("there is no such session: {why}"))),
        outcome => Some(super::unanswered(outcome)),
    }
}
