//! The product's own Netlogon client, for what the command line does not do.

use netlogon_transport::client::{
    Association, ChannelError, ClientChannel, ClientIdentity, SystemRandomness,
};
use netlogon_transport::secret::SharedSecret;
use netlogon_transport::secrets::ChannelType;
use rcmpd::ask::TcpTransport;
use std::time::{Duration, SystemTime};

/// How long anything may take.
pub const TIMEOUT: Duration = Duration::from_secs(30);

fn now() -> u32 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("it is after 1970");
    since.as_secs() as u32
}

/// A channel to `server` (`HOST:PORT`).
pub struct Client {
    transport: TcpTransport,
    /// The channel.
    pub channel: ClientChannel,
}

impl Client {
    /// Shakes hands.
    pub async fn establish(
        server: &str,
        domain: &str,
        account: &str,
        password: &str,
    ) -> Result<Self, ChannelError> {
        let transport = TcpTransport::resolve(server, TIMEOUT).await.expect("the address can be read");
        let identity = ClientIdentity {
            server_name: transport.host().to_owned(),
            domain: domain.to_owned(),
            computer: account.trim_end_matches('$').to_owned(),
            account: account.to_owned(),
            channel_type: ChannelType::WORKSTATION,
            secret: SharedSecret::from_password(password),
        };
        let channel = ClientChannel::establish(&transport, identity, &SystemRandomness, now).await?;
        Ok(Self { transport, channel })
    }

    /// Opens a sealed association.
    pub async fn open(&self) -> Result<Box<dyn Association>, ChannelError> {
        self.channel.open(&self.transport, &SystemRandomness).await
    }
}
