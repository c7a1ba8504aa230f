//! SPNEGO's tokens, of clients and of servers, with NTLM inside.

use crate::Choices;
use crate::ntlm::{accept, acceptor, initiator, step};
use rpc_auth::spnego::{SpnegoAcceptor, SpnegoInitiator, SpnegoMechanism};
use rpc_auth::{Acceptor, InitiatorStep};

/// Up to four tokens, each with its length before it. No sequence of them makes a context on either side: the
/// fuzzer knows no password.
pub fn check(bytes: &[u8]) {
    let mut choices = Choices(bytes);
    let spnego = SpnegoAcceptor::new(vec![(SpnegoMechanism::Ntlm, acceptor())]);
    let mut server: Option<Box<dyn Acceptor>> = Some(Box::new(spnego));
    let offers = SpnegoInitiator::new(vec![(SpnegoMechanism::Ntlm, initiator())]);
    let mut client = step(Box::new(offers), None);
    for _ in 0..4 {
        let len = usize::from(choices.word());
        let token = choices.take(len);
        server = server.and_then(|server| accept(server, token));
        client = match client {
            Some(InitiatorStep::Continue { next, .. }) => step(next, Some(token)),
            _ => None,
        };
        assert!(
            !matches!(client, Some(InitiatorStep::Complete { .. })),
            "a server without the key closed the negotiation"
        );
        if choices.is_empty() {
            break;
        }
    }
}
