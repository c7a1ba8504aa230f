//! Security contexts that end: at the end of the ticket, or after the configured age.

use dcerpc::security::{
    Account, AuthLevel, AuthType, Authentication, Outgoing, ProtectedFragment, Protecting, Protection,
    SecurityContext, SecurityError,
};
use dcerpc::server::Authenticate;
use dcerpc_tokio::{BoxFuture, Peer, SecurityProvider};
use rpc_auth::UserIdentity;
use std::any::Any;
use std::sync::Arc;
use std::time::Duration;

/// A provider whose contexts end.
pub(super) struct Aging {
    provider: Arc<dyn SecurityProvider>,
    max_age: Duration,
}

impl Aging {
    /// Contexts of `provider` live no longer than `max_age`, nor than what they were made from.
    pub(super) fn new(provider: Arc<dyn SecurityProvider>, max_age: Duration) -> Self {
        Self { provider, max_age }
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
                    let context = Box::new(Aged::new(context, self.max_age));
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
}

impl Aged {
    fn new(context: Box<dyn SecurityContext>, max_age: Duration) -> Self {
        let identity = context.identity().downcast::<UserIdentity>().ok();
        let left = identity.and_then(|user| user.expires).map(|end| end.since(crate::clock::now()));
        let left = left.map_or(max_age, |left| left.min(max_age));
        Self { context, ends: crate::clock::uptime() + left }
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
        match crate::clock::uptime() < self.ends {
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
    use dtyp::FileTime;
    use rpc_auth::IdentitySource;

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
        let now = crate::clock::now();
        let hour = Duration::from_secs(3600);
        for (expires, max_age, is_valid) in [
            (None, hour, true),
            (None, Duration::ZERO, false),
            (Some(now + hour), hour, true),
            (Some(now - hour), hour, false),
            (Some(now + hour), Duration::ZERO, false),
        ] {
            let mut context = Aged::new(Box::new(Fixed(expires)), max_age);
            let protection = Protection { level: AuthLevel::PRIVACY, header_signing: true };
            let fragment = ProtectedFragment { header: &[], body: &mut [], trailer: &[], token: &[] };
            let expected = if is_valid { Ok(()) } else { Err(SecurityError::ContextExpired) };
            assert_eq!(context.unprotect(protection, fragment), expected, "{expires:?} {max_age:?}");
        }
    }
}
