//! The client of a master secret server, and its caller.
//!
//! They are two. [`get`] asks one server and returns each code and fault unchanged. [`get_from_first`] asks
//! the next server only if nothing was answered: no connection was made, or no bind was answered. A code or a
//! fault ends it, because the document forbids to act on one ([MS-SSP] 3.2.4).

use dcerpc::client::{ClientError, RequestStub};
use dcerpc::ndr::NdrSyntax;
use dcerpc::security::{AuthLevel, AuthType};
use dcerpc_tokio::{CallError, host_and_port, resolve_endpoint};
use dtyp::FileTime;
use rpc_auth::Initiator;
use rpc_auth::kerberos::{Credential, CredentialCache, KerberosInitiator, Principal, TgsRequest};
use rpc_auth::ntlm::{NtHash, NtlmCredentials, NtlmInitiator};
use rpc_auth::spnego::{SpnegoInitiator, SpnegoMechanism};
use rpc_auth_tokio::{UserBind, connect};
use sso_service::client::{self, GetError};
use sso_service::{MASTER_SECRET, MasterSecret};
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

/// Who asks, and how that is proved.
#[derive(Clone)]
pub struct Credentials {
    /// NTLM, if there is a password.
    pub ntlm: Option<NtlmUser>,
    /// Kerberos, if there is a credential cache.
    pub kerberos: Option<Tickets>,
    /// Whether the mechanisms are offered by SPNEGO. Otherwise the first one that is there is used by itself.
    pub negotiate: bool,
}

/// A user with a password.
#[derive(Clone)]
pub struct NtlmUser {
    /// The name.
    pub user: String,
    /// The domain; empty for an account of the server's own.
    pub domain: String,
    /// NTOWF of the password.
    pub hash: NtHash,
}

/// A user with tickets.
#[derive(Clone)]
pub struct Tickets {
    /// The credential cache.
    pub cache: PathBuf,
    /// The principal of the service; `None` for `host/` and the name of the server.
    pub service: Option<String>,
    /// The KDC that is asked for a service ticket which is not in the cache, `HOST` or `HOST:PORT`.
    pub kdc: Option<String>,
}

/// What the caller hands in.
#[derive(Clone, Debug)]
pub struct Environment {
    /// The wall clock, for tickets.
    pub now: fn() -> FileTime,
    /// Fills octets with randomness of the operating system.
    pub fill: fn(&mut [u8]),
    /// The trace of the caller, in a part of the sealed call that other servers skip.
    pub extension: Option<Vec<u8>>,
}

/// Why there is no secret.
#[derive(Debug)]
pub enum Failure {
    /// Nothing was answered: another server may be asked.
    NotAnswered(String),
    /// The server refused the bind or the proof, or broke the protocol before the call was answered.
    Refused(String),
    /// What is needed to ask is missing here, such as a ticket.
    Unusable(String),
    /// The server answered the call.
    Answered(GetError),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotAnswered(why) | Self::Refused(why) | Self::Unusable(why) => f.write_str(why),
            Self::Answered(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for Failure {}

/// The well-known ports of the endpoint mapper and of a KDC.
const MAPPER_PORT: u16 = 135;
const KDC_PORT: u16 = 88;
/// More than a KDC's reply takes: a ticket of 64 KiB and what is around it.
const KDC_REPLY_LEN_MAX: u32 = 128 << 10;

/// Asks the servers in their order. Returns the secret with the server that delivered it, or the last failure
/// with its server.
pub async fn get_from_first(
    servers: &[String],
    credentials: &Credentials,
    environment: &Environment,
    time: Duration,
) -> Result<(MasterSecret, String), (Failure, String)> {
    let mut last = (Failure::NotAnswered("no server is configured".to_owned()), String::new());
    for server in servers {
        match get(server, credentials, environment, Instant::now() + time).await {
            Ok(secret) => return Ok((secret, server.clone())),
            Err(failure @ Failure::NotAnswered(_)) => last = (failure, server.clone()),
            Err(failure) => return Err((failure, server.clone())),
        }
    }
    Err(last)
}

/// Asks one server, `HOST` or `HOST:PORT`; without a port, its endpoint mapper is asked first.
pub async fn get(
    server: &str,
    credentials: &Credentials,
    environment: &Environment,
    deadline: Instant,
) -> Result<MasterSecret, Failure> {
    let (host, port) = host_and_port(server)
        .ok_or_else(|| Failure::Unusable(format!("{server}: the port is not a number")))?;
    let port = match port {
        Some(port) => port,
        None => resolve_endpoint((host, MAPPER_PORT), &MASTER_SECRET, deadline)
            .await
            .map_err(|error| {
                Failure::NotAnswered(format!(
                    "no port is given, and the endpoint mapper at {host}:{MAPPER_PORT} names none: {error}; give --server {host}:PORT"
                ))
            })?,
    };
    let (auth_type, initiator) = initiator(host, credentials, environment, deadline).await?;
    let bind = UserBind {
        interface: MASTER_SECRET,
        syntax: NdrSyntax::Ndr,
        auth_type,
        level: AuthLevel::PRIVACY,
        initiator,
    };
    let mut connection =
        connect((host, port), bind, deadline).await.map_err(|failed| match &failed.error {
            CallError::Connect(_) | CallError::Io(_) | CallError::Closed | CallError::DeadlinePassed
                if !failed.was_answered =>
            {
                Failure::NotAnswered(failed.to_string())
            }
            // The other side is no RPC server, or one of other interfaces.
            CallError::Association(
                ClientError::Decode(_) | ClientError::BindRefused(_) | ClientError::InterfaceRefused(_),
            ) if !failed.was_answered => Failure::Refused(format!(
                "this port does not serve the master secret; is it a port of [sso] listen? ({failed})"
            )),
            // A server that ends the connection within the authentication has answered.
            _ => Failure::Refused(failed.to_string()),
        })?;
    let (opnum, stub) = client::request();
    let request = RequestStub { extension: environment.extension.clone(), ..stub.into() };
    let outcome = match connection.call(opnum, request, deadline).await {
        Ok(reply) => Ok((reply.stub, reply.order)),
        Err(CallError::Fault(status)) => Err(status),
        // The server may have delivered the secret, so this was no "nothing".
        Err(error) => return Err(Failure::Refused(error.to_string())),
    };
    client::read(outcome, NdrSyntax::Ndr).map_err(Failure::Answered)
}

async fn initiator(
    host: &str,
    credentials: &Credentials,
    environment: &Environment,
    deadline: Instant,
) -> Result<(AuthType, Box<dyn Initiator>), Failure> {
    let mut offers: Vec<(SpnegoMechanism, AuthType, Box<dyn Initiator>)> = Vec::new();
    if let Some(tickets) = &credentials.kerberos {
        let credential = service_ticket(host, tickets, environment, deadline).await?;
        offers.push((
            SpnegoMechanism::Kerberos,
            AuthType::KERBEROS,
            Box::new(KerberosInitiator::new(credential)),
        ));
    }
    if let Some(user) = &credentials.ntlm {
        let credentials = NtlmCredentials {
            user: user.user.clone(),
            domain: user.domain.clone(),
            workstation: String::new(),
            hash: user.hash.clone(),
            spn: format!("host/{host}"),
        };
        let initiator = NtlmInitiator::new(credentials, AuthLevel::PRIVACY);
        offers.push((SpnegoMechanism::Ntlm, AuthType::NTLM, Box::new(initiator)));
    }
    if credentials.negotiate && !offers.is_empty() {
        let offers = offers.into_iter().map(|(mechanism, _, initiator)| (mechanism, initiator)).collect();
        return Ok((AuthType::SPNEGO, Box::new(SpnegoInitiator::new(offers))));
    }
    let first = offers.into_iter().next().map(|(_, auth_type, initiator)| (auth_type, initiator));
    first.ok_or_else(|| Failure::Unusable("there is neither a password nor a credential cache".to_owned()))
}

/// The ticket for the service: from the cache, or from the KDC by the ticket-granting ticket in the cache.
async fn service_ticket(
    host: &str,
    tickets: &Tickets,
    environment: &Environment,
    deadline: Instant,
) -> Result<Credential, Failure> {
    let unusable = |why: String| Failure::Unusable(format!("{}: {why}", tickets.cache.display()));
    let bytes =
        account_store::FileAccess::Owner.read(&tickets.cache).map_err(|error| unusable(error.to_string()))?;
    let cache = CredentialCache::decode(&bytes).map_err(|error| unusable(error.to_string()))?;
    let name = tickets.service.clone().unwrap_or_else(|| format!("host/{host}"));
    let service = Principal::parse(&name, &cache.client.realm)
        .ok_or_else(|| Failure::Unusable(format!("{name} is not the principal of a service")))?;
    let now = (environment.now)();
    if let Some(credential) = cache.find(&service, now) {
        return Ok(credential.clone());
    }
    let granting = cache.ticket_granting(now).ok_or_else(|| {
        unusable(format!("it has neither a valid ticket for {service} nor a ticket-granting ticket"))
    })?;
    let kdc = tickets.kdc.as_deref().ok_or_else(|| {
        unusable(format!("it has no ticket for {service}: name the KDC with --kdc, or fetch one with kvno"))
    })?;
    let refused = |refusal: rpc_auth::Refusal| Failure::Unusable(format!("{kdc}: {}", refusal.detail));
    let (request, message) =
        TgsRequest::new(granting, service, now, &mut environment.fill.clone()).map_err(refused)?;
    let reply = ask_kdc(kdc, &message, deadline)
        .await
        .map_err(|error| Failure::Unusable(format!("{kdc}: {error}")))?;
    request.reply(&reply).map_err(refused)
}

/// A request to a KDC over TCP: each message has its length before it (RFC 4120, section 7.2.2).
async fn ask_kdc(kdc: &str, message: &[u8], deadline: Instant) -> std::io::Result<Vec<u8>> {
    let invalid = || std::io::Error::new(std::io::ErrorKind::InvalidInput, "the port is not a number");
    let (host, port) = host_and_port(kdc).ok_or_else(invalid)?;
    let exchange = async {
        let mut stream = TcpStream::connect((host, port.unwrap_or(KDC_PORT))).await?;
        stream.write_u32(message.len() as u32).await?;
        stream.write_all(message).await?;
        let len = stream.read_u32().await?;
        if len > KDC_REPLY_LEN_MAX {
            return Err(std::io::ErrorKind::InvalidData.into());
        }
        let mut reply = vec![0; len as usize];
        stream.read_exact(&mut reply).await?;
        Ok(reply)
    };
    timeout_at(deadline, exchange).await.unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server that closes each connection, and one where nothing listens.
    #[tokio::test]
    async fn next_server_is_asked_only_if_nothing_was_answered() {
        // Nothing listens at tcpmux's port.
        let nowhere = "127.0.0.1:1".to_owned();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("there is a port");
        let refusing = listener.local_addr().expect("it is bound").to_string();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                // A bind_nak to whatever comes: reason 0, of the call id that every client of ours chooses
                // itself.
                let mut head = [0; 16];
                let _ = stream.read_exact(&mut head).await;
                let mut nak = vec![5, 0, 13, 3, 0x10, 0, 0, 0, 21, 0, 0, 0];
                nak.extend_from_slice(&head[12..]);
                nak.extend_from_slice(&[0, 0, 1, 5, 0]);
                let _ = stream.write_all(&nak).await;
                let _ = stream.read(&mut [0; 4096]).await;
            }
        });
        let user = NtlmUser { user: "alice".into(), domain: String::new(), hash: NtHash::new([7; 16]) };
        let credentials = Credentials { ntlm: Some(user), kerberos: None, negotiate: true };
        let environment = Environment {
            now: || FileTime::from(std::time::SystemTime::now()),
            fill: |octets| getrandom::fill(octets).expect("the system has randomness"),
            extension: None,
        };
        let leaving = leaves_after_its_bind_ack().await;
        let ask = async |servers: &[&String]| {
            let servers: Vec<String> = servers.iter().map(|server| (*server).clone()).collect();
            get_from_first(&servers, &credentials, &environment, Duration::from_secs(5))
                .await
                .expect_err("there is no secret")
        };
        let (failure, server) = ask(&[&nowhere, &nowhere]).await;
        assert!(matches!(failure, Failure::NotAnswered(_)) && server == nowhere, "{failure:?}");
        let (failure, server) = ask(&[&nowhere, &refusing, &nowhere]).await;
        assert!(matches!(failure, Failure::Refused(_)) && server == refusing, "{failure:?}");
        assert!(failure.to_string().contains("is it a port of [sso] listen?"), "{failure}");
        let (failure, server) = ask(&[&leaving, &nowhere]).await;
        assert!(matches!(failure, Failure::Refused(_)) && server == leaving, "{failure:?}");
    }

    /// A server that answers a bind with an NTLM challenge and closes the connection at the next PDU.
    async fn leaves_after_its_bind_ack() -> String {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("there is a port");
        let address = listener.local_addr().expect("it is bound").to_string();
        tokio::spawn(async move {
            // The bind_ack of rpc-auth.md 3.5: SPNEGO with the CHALLENGE of its section 2.10.
            let challenge = hex("a181ca3081c7a0030a0101a10c060a2b06010401823702020aa281b10481ae\
                 4e544c4d53535000020000000e000e0038000000358289e20123456789abcdef00000000000000006800680046000000\
                 0a00f4650000000f43004f004e0054004f0053004f0002000e0043004f004e0054004f0053004f000100060044004300\
                 31000400160063006f006e0074006f0073006f002e0063006f006d0003001e006400630031002e0063006f006e007400\
                 6f0073006f002e0063006f006d000700080000c083ed8a49da0100000000");
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut bind = vec![0; 16];
                if stream.read_exact(&mut bind).await.is_err() {
                    continue;
                }
                let len = usize::from(u16::from_le_bytes([bind[8], bind[9]]));
                bind.resize(len, 0);
                let _ = stream.read_exact(&mut bind[16..]).await;
                let auth = len - usize::from(u16::from_le_bytes([bind[10], bind[11]]));
                let mut ack = hex("05000c07100000000000");
                let contexts = hex(
                    "d016d0164523010006003439323030000100000000000000045d888aeb1cc9119fe808002b10486002000000",
                );
                let len = 16 + contexts.len() + 8 + challenge.len();
                ack[8..10].copy_from_slice(&u16::try_from(len).expect("it is short").to_le_bytes());
                ack.extend_from_slice(&u16::try_from(challenge.len()).expect("it is short").to_le_bytes());
                ack.extend_from_slice(&bind[12..16]);
                ack.extend_from_slice(&contexts);
                ack.extend_from_slice(&bind[auth - 8..auth]);
                ack.extend_from_slice(&challenge);
                let _ = stream.write_all(&ack).await;
                let _ = stream.read(&mut [0; 16]).await;
            }
        });
        address
    }

    fn hex(text: &str) -> Vec<u8> {
        let byte = |at| u8::from_str_radix(&text[at..at + 2], 16).expect("hexadecimal");
        (0..text.len()).step_by(2).map(byte).collect()
    }
}
