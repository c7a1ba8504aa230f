//! What the gateway tells the service behind it, the audit log and the metrics.

use super::accounts::Accounts;
use super::as_json;
use super::metrics::{Counters, why_ended};
use audit_log::AuditLog;
use dcerpc_tokio::LogLimiter;
use dtyp::Sid;
use http::{HeaderMap, HeaderName, HeaderValue, Uri};
use serde_json::{Value, json};
use sidecar::headers::{Facts, Format, Layout};
use std::net::IpAddr;
use std::sync::Arc;
use tlsnego_service::fault::Reason;
use tlsnego_service::session::{BoxFuture, Ended, Session};
use tlsnego_soap::refusal::Refusal;
use tlsnego_soap::server::Event;
use tlsnego_tokio::gateway::{self, AccountRefused, CallOutcome, Failure};
use trace_context as trace;
use tracing::field::Empty;
use tracing::{Span, debug, debug_span, info, warn};

/// The headers that name a session.
const SESSION_NAME: HeaderName = HeaderName::from_static("x-session-name");
const SESSION_KIND: HeaderName = HeaderName::from_static("x-session-kind");
const SESSION_INSTANCE: HeaderName = HeaderName::from_static("x-session-instance");

/// What the gateway knows of accounts.
pub(super) struct Accounting {
    accounts: Accounts,
    audit: Arc<AuditLog>,
    /// Whether the sessions are in cookies.
    in_cookies: bool,
    format: Format,
    layout: Layout,
    pub(super) counters: Counters,
    limiter: LogLimiter,
}

impl Accounting {
    pub(super) fn new(
        accounts: Accounts,
        audit: Arc<AuditLog>,
        counters: Counters,
        in_cookies: bool,
    ) -> Self {
        let format = Format::default();
        let layout = format.layout();
        Self { accounts, audit, in_cookies, layout, format, counters, limiter: LogLimiter::default() }
    }

    async fn headers_of(&self, session: &Session) -> Result<HeaderMap, AccountRefused> {
        let mut headers = match &session.identity {
            None => self.format.without_account(),
            Some(identity) => {
                let identity = self.accounts.current(identity).await?;
                let facts = Facts { decision: "", certificate: None, token: None };
                self.format.write_by(&self.layout, &identity, facts, || facts.decision.to_owned()).headers
            }
        };
        let value = |text: &str| {
            let error = || "the name of the session is no header".to_owned();
            HeaderValue::from_str(text).map_err(|_| AccountRefused { error: error(), ends_session: true })
        };
        headers.insert(SESSION_NAME, value(&session.name)?);
        headers.insert(SESSION_KIND, HeaderValue::from_static(session.kind.as_str()));
        headers.insert(SESSION_INSTANCE, value(session.instance.as_deref().unwrap_or_default())?);
        trace::put_headers(&Span::current(), &mut headers);
        Ok(headers)
    }

    /// A line about a session, within the budget of its account. Anonymous ones have none: every client can
    /// open any number of them.
    fn audited(&self, event: &str, session: &Session, more: Value) -> Result<(), String> {
        let Some(identity) = &session.identity else { return Ok(()) };
        let mut line = as_json(session);
        if let (Value::Object(line), Value::Object(more)) = (&mut line, more) {
            line.insert("event".to_owned(), event.into());
            if self.in_cookies {
                line.insert("cookie".to_owned(), true.into());
            }
            line.extend(more);
        }
        let sid = identity.account.parse::<Sid>().ok();
        let account = sid.map(|sid| (identity.account.as_str(), sid));
        self.audit.event(account, &line).map_err(|reason| format!("{event}: {}", reason.text()))
    }
}

/// Records in the span of a message what became of it.
fn note(result: &str, session: Option<&Session>) {
    let span = Span::current();
    span.record("result", result);
    if let Some(session) = session {
        span.record("session.kind", session.kind.as_str()).record("session.name", session.name.as_str());
    }
}

impl gateway::Accounting for Accounting {
    fn headers<'a>(&'a self, session: &'a Session) -> BoxFuture<'a, Result<HeaderMap, AccountRefused>> {
        Box::pin(self.headers_of(session))
    }

    fn span(&self, headers: &HeaderMap) -> Span {
        let span = debug_span!(
            target: "rcmpd::call",
            "soap_message",
            otel.kind = "server",
            result = Empty,
            session.kind = Empty,
            session.name = Empty
        );
        trace::take_headers(&span, headers);
        span
    }

    fn answered(&self, event: &Event, source: IpAddr) -> Result<(), String> {
        let from = || json!({ "source": source });
        match event {
            Event::Leg | Event::Metadata => {}
            Event::Opened(session) => {
                self.audited("session_opened", session, from())?;
                debug!(kind = session.kind.as_str(), session = session.name, %source, "Session opened");
            }
            Event::Renewed(session) => self.audited("session_renewed", session, from())?,
            Event::Cancelled(session) => {
                // It has ended, with a line or without.
                let more = json!({ "source": source, "reason": "cancelled" });
                let _ = self.audited("session_ended", session, more);
            }
            Event::Refused(refusal) => {
                let (reason, error, advice) = (refusal.name(), refusal.to_string(), refusal.advice());
                self.limiter.counted(reason, |left_out| match refusal {
                    // It is not this client's fault, and others get it as well.
                    Refusal::Trust(Reason::Store(_)) => {
                        warn!(%source, reason, error, advice, left_out, "Rejected a SOAP message");
                    }
                    _ => info!(%source, reason, error, advice, left_out, "Rejected a SOAP message"),
                });
            }
        }
        self.counters.answered(event);
        note(event.name(), event.session());
        Ok(())
    }

    fn called(&self, session: &Session, action: &str, outcome: &CallOutcome, source: IpAddr, upstream: &Uri) {
        self.counters.called(session, outcome);
        note(outcome.name(), Some(session));
        let error = match outcome {
            CallOutcome::Failed(failure) => failure.to_string(),
            CallOutcome::NotWritten(error) => error.clone(),
            CallOutcome::Answered | CallOutcome::Fault | CallOutcome::OneWay => return,
        };
        let reason = outcome.name();
        let session = session.name.as_str();
        self.limiter.counted(reason, |left_out| {
            let action: String = action.chars().take(128).collect();
            match outcome {
                // The service was not asked.
                CallOutcome::Failed(Failure::Account(_)) => {
                    info!(%source, session, action, reason, error, left_out, "A call was refused: its account may not be used");
                }
                CallOutcome::Failed(Failure::Busy { .. }) => {
                    warn!(%source, session, action, reason, error, left_out, "A call was refused: too many calls in progress");
                }
                CallOutcome::Failed(Failure::Action) => {
                    info!(%source, session, action, reason, error, left_out, "A call was refused: its action cannot be sent");
                }
                CallOutcome::NotWritten(_) => {
                    warn!(%source, session, action, reason, error, left_out, "The reply to a call cannot be written");
                }
                _ => {
                    warn!(%source, session, action, %upstream, reason, error, left_out, "A call got no answer of the service");
                }
            }
        });
    }

    fn ended(&self, ended: &Ended) {
        let reason = why_ended(ended.reason);
        self.counters.ended(ended);
        debug!(session = ended.session.name, reason, "Session ended");
        let _ = self.audited("session_ended", &ended.session, json!({ "reason": reason }));
    }
}
