use crate::provider::random;
use dcerpc::client::{ClientConfig, ClientLeg, ClientSecurity};
use dcerpc::ndr::NdrSyntax;
use dcerpc::pdu::{AuthType, SyntaxId};
use dcerpc::security::AuthLevel;
use dcerpc_tokio::{CallError, Connection};
use dtyp::FileTime;
use rpc_auth::{Initiator, InitiatorStep, Refusal};
use std::time::SystemTime;
use tokio::net::ToSocketAddrs;
use tokio::time::Instant;

/// What a client binds to, and as which user.
pub struct UserBind {
    /// The interface.
    pub interface: SyntaxId,
    /// The form of the stubs.
    pub syntax: NdrSyntax,
    /// The provider that `initiator` belongs to.
    pub auth_type: AuthType,
    /// The level of protection, for which `initiator` was made.
    pub level: AuthLevel,
    /// The user's half of the security context.
    pub initiator: Box<dyn Initiator>,
}

/// Why no connection was bound as a user.
#[derive(Debug)]
pub struct ConnectError {
    /// What went wrong.
    pub error: CallError,
    /// Whether the server had answered the bind: what it does afterwards is its answer.
    pub was_answered: bool,
}

impl std::fmt::Display for ConnectError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.error.fmt(f)
    }
}

impl std::error::Error for ConnectError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.error.source()
    }
}

impl From<ConnectError> for CallError {
    fn from(error: ConnectError) -> Self {
        error.error
    }
}

/// Connects and binds as a user by `deadline`. The server has proved that it knows the key of the context
/// once the first call is answered.
pub async fn connect(
    address: impl ToSocketAddrs,
    bind: UserBind,
    deadline: Instant,
) -> Result<Connection, ConnectError> {
    let unasked = |error| ConnectError { error, was_answered: false };
    let refused = |refusal: Refusal| unasked(CallError::Security(Box::new(refusal)));
    let InitiatorStep::Continue { token, next } =
        bind.initiator.step(None, now(), &mut random).map_err(refused)?
    else {
        return Err(unasked(CallError::Security("the mechanism has one token".into())));
    };
    let mut number = [0; 8];
    random(&mut number);
    let [call @ .., a, b, c, d] = number;
    let config = ClientConfig {
        interface: bind.interface,
        syntax: bind.syntax,
        first_call_id: u32::from_le_bytes(call) & 0x3fff_ffff,
        security: Some(ClientSecurity {
            auth_type: bind.auth_type,
            level: bind.level,
            context_id: u32::from_le_bytes([a, b, c, d]),
            token,
            context: None,
            require_header_signing: true,
        }),
    };
    let mut next = Some(next);
    let mut was_answered = false;
    let mut answer = |token: &[u8]| {
        was_answered = true;
        let initiator = next.take().ok_or("the security context is set up already")?;
        Ok(match initiator.step(Some(token), now(), &mut random)? {
            InitiatorStep::Continue { token, next: after } => {
                next = Some(after);
                ClientLeg::Continue(token)
            }
            InitiatorStep::Complete { token, context } => {
                ClientLeg::Complete { token, context: context.into_security_context() }
            }
        })
    };
    match Connection::open_with(address, config, &mut answer, deadline).await {
        Ok((connection, _)) => Ok(connection),
        Err(error) => Err(ConnectError { error, was_answered }),
    }
}

fn now() -> FileTime {
    SystemTime::now().into()
}
