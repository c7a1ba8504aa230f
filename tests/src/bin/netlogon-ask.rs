//! Asks a Netlogon server with the product's own client, from wherever this process runs, and prints JSON.
//!
//! `netlogon-ask HOST:PORT DOMAIN ACCOUNT PASSWORD [channel=TYPE] [computer=NAME] PACKAGE=HEX...
//! [password=NEW]` sets a channel up, checks its capabilities (opnum 21), asks each package (39) with the
//! data, and at last gives the account a new password (30). The channel is a member's (2), and the computer
//! is the account without its `$`, unless told otherwise.
//!
//! `netlogon-ask discover RESOLVER DOMAIN [SITE]` lists the domain's servers, and where each one's endpoint
//! mapper has Netlogon.

#![expect(clippy::unwrap_used, reason = "a tool of the tests: what is wrong ends it")]

use netlogon_tokio::{Discovery, DiscoveryError};
use netlogon_transport::client::SystemRandomness;
use netlogon_transport::secrets::ChannelType;
use netlogon_transport::server::NETLOGON;
use rcmpd_tests::client::{As, Client, TIMEOUT};
use serde_json::{Value, json};
use tokio::time::Instant;

const USAGE: &str = "usage: netlogon-ask HOST:PORT DOMAIN ACCOUNT PASSWORD [channel=TYPE] [computer=NAME] PACKAGE=HEX... \
    [password=NEW] | netlogon-ask discover RESOLVER DOMAIN [SITE]";

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match &arguments[..] {
        [mode, resolver, domain, site @ ..] if mode == "discover" => {
            let found = discover(resolver, domain, site.first().map(String::as_str)).await;
            println!("{}", found.unwrap_or_else(|error| json!({ "error": error.to_string() })));
        }
        [server, domain, account, password, questions @ ..] => {
            ask(server, domain, account, password, questions).await;
        }
        _ => panic!("{USAGE}"),
    }
}

async fn ask(server: &str, domain: &str, account: &str, password: &str, questions: &[String]) {
    let channel_type = ChannelType::WORKSTATION;
    let mut who = As { domain, account, password, channel_type, computer: account.trim_end_matches('$') };
    let mut questions = questions.iter().map(|argument| argument.split_once('=').unwrap()).peekable();
    while let Some((option, value)) =
        questions.next_if(|(option, _)| ["channel", "computer"].contains(option))
    {
        match option {
            "channel" => who.channel_type = ChannelType(value.parse().unwrap()),
            _ => who.computer = value,
        }
    }
    let client = match Client::establish_as(server, who).await {
        Ok(client) => client,
        Err(error) => return println!("{}", json!({ "error": error.to_string() })),
    };
    let mut association = client.open().await.unwrap();
    client.channel.check_capabilities(&mut *association).await.unwrap();
    let mut answers = Vec::new();
    for (package, data) in questions {
        if package == "password" {
            let secret: Vec<u8> = data.encode_utf16().flat_map(u16::to_le_bytes).collect();
            let done = client.channel.set_password(&mut *association, &secret, &SystemRandomness).await;
            answers.push(json!({ "password": done.is_ok(), "error": done.err().map(|e| e.to_string()) }));
            continue;
        }
        let data: Vec<u8> =
            (0..data.len() / 2).map(|at| u8::from_str_radix(&data[2 * at..][..2], 16).unwrap()).collect();
        let answer = client.channel.ask(&mut *association, package, domain, &data).await.unwrap();
        answers.push(json!({
            "status": format!("0x{:08X}", answer.status.0),
            "authoritative": u8::from(answer.authoritative),
            "data": answer.data.map(|data| dtyp::hex(&data.decrypted())),
        }));
    }
    println!("{}", json!({ "capabilities": "good", "answers": answers }));
}

async fn discover(resolver: &str, domain: &str, site: Option<&str>) -> Result<Value, DiscoveryError> {
    let discovery = Discovery::new(domain, site, &[resolver.parse().unwrap()]).unwrap();
    let servers = discovery.servers().await?;
    let mut found = Vec::new();
    for server in servers.found {
        let addresses = discovery.addresses(&server.host).await?;
        let port =
            dcerpc_tokio::resolve_endpoint((addresses[0], 135), &NETLOGON, Instant::now() + TIMEOUT).await;
        found.push(json!({
            "host": server.host, "in_site": server.in_site, "addresses": addresses, "port": port.unwrap(),
        }));
    }
    Ok(json!({ "servers": found, "ttl": servers.ttl.as_secs() }))
}
