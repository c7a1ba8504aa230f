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

/// What a client binds to, and as whom.
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

/// Connects and binds as a user by `deadline`. The server has proved that it knows the key of the context once the
/// first call is answered.
pub async fn connect(
    address: impl ToSocketAddrs,
    bind: UserBind,
    deadline: Instant,
) -> Result<Connection, CallError> {
    let refused = |refusal: Refusal| CallError::Security(Box::new(refusal));
    let InitiatorStep::Continue { token, next } =
        bind.initiator.step(None, now(), &mut random).map_err(refused)?
    else {
        return Err(CallError::Security("the mechanism has one token".into()));
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
    let mut answer = |token: &[u8]| {
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
    Connection::open_with(address, config, &mut answer, deadline).await.map(|(connection, _)| connection)
}

fn now() -> FileTime {
    SystemTime::now().into()
}
