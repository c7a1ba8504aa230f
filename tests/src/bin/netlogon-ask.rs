//! Asks a Netlogon server with the product's own client, from wherever this process runs, and prints JSON.
//!
//! `netlogon-ask HOST:PORT DOMAIN ACCOUNT PASSWORD PACKAGE=HEX... [password=NEW]` sets a channel up, checks its
//! capabilities (opnum 21), asks each package (39) with the data, and at last gives the account a new password (30).

#![expect(clippy::unwrap_used, reason = "a tool of the tests: what is wrong ends it")]

use netlogon_transport::client::SystemRandomness;
use rcmpd_tests::client::Client;
use serde_json::json;

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [server, domain, account, password, questions @ ..] = &arguments[..] else {
        panic!("usage: netlogon-ask HOST:PORT DOMAIN ACCOUNT PASSWORD PACKAGE=HEX... [password=NEW]")
    };
    let client = match Client::establish(server, domain, account, password).await {
        Ok(client) => client,
        Err(error) => return println!("{}", json!({ "error": error.to_string() })),
    };
    let mut association = client.open().await.unwrap();
    client.channel.check_capabilities(&mut *association).await.unwrap();
    let mut answers = Vec::new();
    for question in questions {
        let (package, data) = question.split_once('=').unwrap();
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
