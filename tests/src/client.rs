//! The product's own Netlogon client, for what the command line does not do.

use crate::service::Service;
use netlogon_tokio::TcpTransport;
use netlogon_transport::client::{
    Association, ChannelError, ClientChannel, ClientIdentity, SystemRandomness,
};
use netlogon_transport::secret::SharedSecret;
use netlogon_transport::secrets::ChannelType;
use std::time::{Duration, SystemTime};

/// How long anything may take.
pub const TIMEOUT: Duration = Duration::from_secs(30);

fn now() -> u32 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("it is after 1970");
    since.as_secs() as u32
}

/// The account of a channel, and its domain.
#[derive(Clone, Copy, Debug)]
pub struct As<'a> {
    /// NetBIOS name of the server's domain.
    pub domain: &'a str,
    /// The account as it goes on the wire.
    pub account: &'a str,
    /// Its password.
    pub password: &'a str,
    /// The type of channel that the account is for.
    pub channel_type: ChannelType,
    /// NetBIOS name of the asking computer.
    pub computer: &'a str,
}

/// A channel to `server` (`HOST:PORT`).
pub struct Client {
    transport: TcpTransport,
    /// The channel.
    pub channel: ClientChannel,
}

impl Client {
    /// Shakes hands as a member of the domain.
    pub async fn establish(
        server: &str,
        domain: &str,
        account: &str,
        password: &str,
    ) -> Result<Self, ChannelError> {
        let computer = account.trim_end_matches('$');
        let channel_type = ChannelType::WORKSTATION;
        Self::establish_as(server, As { domain, account, password, channel_type, computer }).await
    }

    /// Shakes hands as a machine of the demo of `service`, whose domain is `domain`.
    pub async fn of_machine(service: &Service, domain: &str, name: &str) -> Result<Self, ChannelError> {
        let password = service.machine_password(name);
        Self::establish(&service.netlogon.to_string(), domain, &format!("{name}$"), &password).await
    }

    /// Shakes hands as a member of the domain, and opens a sealed association.
    pub async fn connect(
        server: &str,
        domain: &str,
        account: &str,
        password: &str,
    ) -> Result<(Self, Box<dyn Association>), ChannelError> {
        let client = Self::establish(server, domain, account, password).await?;
        let association = client.open().await?;
        Ok((client, association))
    }

    /// Shakes hands.
    pub async fn establish_as(server: &str, who: As<'_>) -> Result<Self, ChannelError> {
        let transport = TcpTransport::resolve(server, TIMEOUT).await.expect("the address can be read");
        let identity = ClientIdentity {
            server_name: transport.host().to_owned(),
            domain: who.domain.to_owned(),
            computer: who.computer.to_owned(),
            account: who.account.to_owned(),
            channel_type: who.channel_type,
            secret: SharedSecret::from_password(who.password),
        };
        let channel = ClientChannel::establish(&transport, identity, &SystemRandomness, now).await?;
        Ok(Self { transport, channel })
    }

    /// Opens a sealed association.
    pub async fn open(&self) -> Result<Box<dyn Association>, ChannelError> {
        self.channel.open(&self.transport, &SystemRandomness).await
    }
}

/// The question with another certificate: the last bytes of its signature are a number ([MS-RCMP] 2.2.1 has
/// OffsetCertificate and CertLength in these places). Panics if it is no question.
pub fn with_other_certificate(question: &[u8], number: u32) -> Vec<u8> {
    let word =
        |at: usize| u32::from_le_bytes(question[at..at + 4].try_into().expect("it has four octets")) as usize;
    let end = word(8) + word(12);
    let mut other = question.to_vec();
    other[end - 4..end].copy_from_slice(&number.to_le_bytes());
    other
}
