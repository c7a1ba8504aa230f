//! Security contexts that end: at the end of the ticket, or after the configured age.

use dcerpc::security::{
    Account, AuthLevel, AuthType, Authentication, Outgoing, ProtectedFragment, Protecting, Protection,
    SecurityContext, SecurityError,
};
use dcerpc::server::Authenticate;
use dcerpc_tokio::{BoxFuture, Peer, SecurityProvider};
use dtyp::FileTime;
use rpc_auth::UserIdentity;
use std::any::Any;
use std::sync::Arc;
use std::time::Duration;

/// The clocks of the system.
#[derive(Clone, Copy, Debug)]
pub struct Clocks {
    /// The wall clock, for the ends of tickets.
    pub now: fn() -> FileTime,
    /// The monotonic clock, by which contexts end.
    pub uptime: fn() -> Duration,
}

/// A provider whose contexts end.
pub struct Aging {
    provider: Arc<dyn SecurityProvider>,
    max_age: Duration,
    clocks: Clocks,
}

impl std::fmt::Debug for Aging {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Aging of {:?}", self.provider.auth_type())
    }
}

impl Aging {
    /// Contexts of `provider` live no longer than `max_age`, nor than what they were made from.
    pub fn new(provider: Arc<dyn SecurityProvider>, max_age: Duration, clocks: Clocks) -> Self {
        Self { provider, max_age, clocks }
    }
}

impl SecurityProvider for Aging {
    fn auth_type(&self) -> AuthType {
        self.provider.auth_type()
    }

    fn accept<'a>(&'a self, peer: &'a Peer, request: Authenticate) -> BoxFuture<'a, Authentication> {
        Box::pin(async move {
            match self.provider.accept(peer, request).await {
                Authentication::Accepted { context, token } => {
                    let context = Box::new(Aged::new(context, self.max_age, self.clocks));
                    Authentication::Accepted { context, token }
                }
                other => other,
            }
        })
    }
}

struct Aged {
    context: Box<dyn SecurityContext>,
    /// By the monotonic clock.
    ends: Duration,
    clocks: Clocks,
}

impl Aged {
    fn new(context: Box<dyn SecurityContext>, max_age: Duration, clocks: Clocks) -> Self {
        let identity = context.identity().downcast::<UserIdentity>().ok();
        let left = identity.and_then(|user| user.expires).map(|end| end.since((clocks.now)()));
        let left = left.map_or(max_age, |left| left.min(max_age));
        Self { context, ends: (clocks.uptime)() + left, clocks }
    }
}

impl SecurityContext for Aged {
    fn token_len(&self, level: AuthLevel) -> usize {
        self.context.token_len(level)
    }

    fn supports_header_signing(&self) -> bool {
        self.context.supports_header_signing()
    }

    fn unprotect(
        &mut self,
        protection: Protection,
        fragment: ProtectedFragment<'_>,
    ) -> Result<(), SecurityError> {
        match (self.clocks.uptime)() < self.ends {
            true => self.context.unprotect(protection, fragment),
            false => Err(SecurityError::ContextExpired),
        }
    }

    fn protect(&mut self, protection: Protection, message: Outgoing) -> Protecting {
        self.context.protect(protection, message)
    }

    fn identity(&self) -> Arc<dyn Any + Send + Sync> {
        self.context.identity()
    }

    fn account(&self) -> Option<Account> {
        self.context.account()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rpc_auth::IdentitySource;

    const CLOCKS: Clocks =
        Clocks { now: || FileTime::from_unix(1_900_000_000), uptime: || Duration::from_secs(1000) };

    struct Fixed(Option<FileTime>);

    impl SecurityContext for Fixed {
        fn token_len(&self, _: AuthLevel) -> usize {
            0
        }

        fn supports_header_signing(&self) -> bool {
            true
        }

        fn unprotect(&mut self, _: Protection, _: ProtectedFragment<'_>) -> Result<(), SecurityError> {
            Ok(())
        }

        fn protect(&mut self, _: Protection, _: Outgoing) -> Protecting {
            Box::pin(std::future::ready(Vec::new()))
        }

        fn identity(&self) -> Arc<dyn Any + Send + Sync> {
            Arc::new(UserIdentity {
                name: "alice".into(),
                domain: String::new(),
                sid: None,
                groups: Vec::new(),
                source: IdentitySource::LocalStore,
                password: None,
                delegated_by: Vec::new(),
                expires: self.0,
            })
        }
    }

    #[test]
    fn context_ends_with_its_ticket_or_with_its_age() {
        let now = FileTime::from_unix(1_900_000_000);
        let hour = Duration::from_secs(3600);
        for (expires, max_age, is_valid) in [
            (None, hour, true),
            (None, Duration::ZERO, false),
            (Some(now + hour), hour, true),
            (Some(now - hour), hour, false),
            (Some(now + hour), Duration::ZERO, false),
        ] {
            let mut context = Aged::new(Box::new(Fixed(expires)), max_age, CLOCKS);
            let protection = Protection { level: AuthLevel::PRIVACY, header_signing: true };
            let fragment = ProtectedFragment { header: &[], body: &mut [], trailer: &[], token: &[] };
            let expected = if is_valid { Ok(()) } else { Err(SecurityError::ContextExpired) };
            assert_eq!(context.unprotect(protection, fragment), expected, "{expires:?} {max_age:?}");
        }
    }
}
