use crate::metrics::AuthCounters;
use dcerpc::pdu::{AuthLevel, AuthType};
use dcerpc::security::Authentication;
use dcerpc::server::Authenticate;
use dcerpc_tokio::{BoxFuture, Peer, SecurityProvider};
use dtyp::FileTime;
use rpc_auth::{Acceptor, Leg, Refusal, RefusalReason, Step};
use std::sync::Arc;
use std::time::SystemTime;
use tokio::time::Instant;

/// A security context that was refused.
#[derive(Debug)]
pub struct Refused<'a> {
    /// The client.
    pub peer: &'a Peer,
    /// `ntlm`, `spnego` or `kerberos`.
    pub mechanism: &'static str,
    /// Why.
    pub refusal: &'a Refusal,
}

/// Records what was refused. It is called before the client is answered, and must not block for long.
pub trait AuthAudit: Send + Sync {
    /// A security context was refused.
    fn refused(&self, refused: &Refused<'_>);
}

/// Makes the acceptor of a new security context for a client.
type MakeAcceptor = dyn Fn(&Peer) -> Box<dyn Acceptor> + Send + Sync;

/// A security provider made of acceptors: auth types 9 (SPNEGO), 10 (NTLM) and 16 (Kerberos).
pub struct AuthProvider {
    auth_type: AuthType,
    mechanism: &'static str,
    make: Box<MakeAcceptor>,
    audit: Arc<dyn AuthAudit>,
    counters: AuthCounters,
}

impl AuthProvider {
    /// A provider. `make` makes the acceptor of each new context.
    pub fn new(
        auth_type: AuthType,
        make: impl Fn(&Peer) -> Box<dyn Acceptor> + Send + Sync + 'static,
        audit: Arc<dyn AuthAudit>,
        counters: AuthCounters,
    ) -> Self {
        let mechanism = match auth_type {
            AuthType::SPNEGO => "spnego",
            AuthType::NTLM => "ntlm",
            AuthType::KERBEROS => "kerberos",
            _ => "other",
        };
        Self { auth_type, mechanism, make: Box::new(make), audit, counters }
    }

    async fn leg(&self, peer: &Peer, request: Authenticate) -> Result<Authentication, Refusal> {
        if let Some((auth_type, level)) = request.changed {
            let detail = format!(
                "the first leg has type {} and level {}, a later one type {} and level {}",
                request.auth_type.0, request.auth_level.0, auth_type.0, level.0
            );
            return Err(Refusal::new(RefusalReason::Level, detail));
        }
        if request.auth_level == AuthLevel::CALL {
            return Err(Refusal::new(RefusalReason::Level, "the level of calls is for other transports"));
        }
        let is_answered = request.is_answered;
        let half_open = match request.state {
            None => HalfOpen {
                acceptor: (self.make)(peer),
                begun: SystemTime::now().into(),
                begun_at: Instant::now(),
            },
            Some(state) => match state.downcast::<HalfOpen>() {
                Ok(half_open) => *half_open,
                Err(_) => return Err(Refusal::new(RefusalReason::Token, "the state is another provider's")),
            },
        };
        let HalfOpen { acceptor, begun, begun_at } = half_open;
        let mut entropy = random;
        let leg = Leg {
            token: &request.token,
            level: request.auth_level,
            // Within one context time goes on by the monotonic clock: setting the wall clock lets no
            // challenge live longer.
            now: begun + begun_at.elapsed(),
            entropy: &mut entropy,
        };
        Ok(match acceptor.accept(leg).await? {
            Step::Continue { token, next } => {
                let state = HalfOpen { acceptor: next, begun, begun_at };
                Authentication::Continue { state: Box::new(state), token }
            }
            Step::Complete { token, .. } if !is_answered && !token.is_empty() => {
                let detail = "the leg has no answer that the server's last token could be sent in";
                return Err(Refusal::new(RefusalReason::Token, detail));
            }
            Step::Complete { token, context } => {
                Authentication::Accepted { context: context.into_security_context(), token }
            }
        })
    }
}

impl SecurityProvider for AuthProvider {
    fn auth_type(&self) -> AuthType {
        self.auth_type
    }

    fn accept<'a>(&'a self, peer: &'a Peer, request: Authenticate) -> BoxFuture<'a, Authentication> {
        Box::pin(async move {
            match self.leg(peer, request).await {
                Ok(authentication) => {
                    if matches!(authentication, Authentication::Accepted { .. }) {
                        self.counters.accepted(self.mechanism);
                    }
                    authentication
                }
                Err(refusal) => {
                    self.counters.refused(self.mechanism, refusal.reason);
                    self.audit.refused(&Refused { peer, mechanism: self.mechanism, refusal: &refusal });
                    Authentication::Rejected
                }
            }
        })
    }
}

/// A context between two legs.
struct HalfOpen {
    acceptor: Box<dyn Acceptor>,
    /// The wall clock at the first leg, and the monotonic one.
    begun: FileTime,
    begun_at: Instant,
}

pub(crate) fn random(bytes: &mut [u8]) {
    // A challenge or key that can be predicted must not be sent.
    getrandom::fill(bytes).expect("the operating system has a source of randomness");
}
