//! Users by clients that are not ours: Impacket, and Samba's stack. Samba's tests of raw DCE/RPC run at the
//! whole service. `tests/peers/install` installs them.

mod fixture;

use dcerpc::pdu::AuthLevel;
use fixture::{Fixture, PRIVATE, WHO_AM_I};
use rpc_auth::RefusalReason;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

const SAMBA_PYTHON: &str = "/usr/bin/python3";

fn impacket_python() -> PathBuf {
    let private = std::env::var_os("RCMPD_PRIVATE").map(PathBuf::from);
    let private =
        private.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/private"));
    private.join("venv/bin/python")
}

/// What a script of `tests/peers` prints.
async fn run(python: impl AsRef<Path>, script: &str, input: Value) -> Value {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/peers").join(script);
    let mut child = Command::new(python.as_ref())
        .arg(&script)
        .arg("-")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap_or_else(|error| panic!("{} does not start ({error}): tests/peers/install", script.display()));
    let mut stdin = child.stdin.take().expect("it is piped");
    stdin.write_all(input.to_string().as_bytes()).await.expect("the peer reads its input");
    drop(stdin);
    let done = child.wait_with_output().await.expect("the peer ends");
    let stderr = String::from_utf8_lossy(&done.stderr);
    serde_json::from_slice(&done.stdout).unwrap_or_else(|error| panic!("{error}: {stderr}"))
}

async fn impacket(address: SocketAddr, password: &str, level: AuthLevel, opnums: &[u16]) -> Value {
    let input = json!({
        "host": address.ip().to_string(), "port": address.port(), "interface": WHO_AM_I.uuid.to_string(),
        "user": "alice", "password": password, "domain": "", "level": level.0, "opnums": opnums,
    });
    run(impacket_python(), "user_client.py", input).await
}

#[tokio::test(flavor = "multi_thread")]
async fn impacket_is_a_user_at_each_level() {
    let fixture = Fixture::new();
    let address = fixture.listen().await;
    for level in [AuthLevel::INTEGRITY, AuthLevel::PRIVACY] {
        let done = impacket(address, "Password", level, &[0, 0, 0]).await;
        let answer = format!("alice at {}", level.0);
        assert_eq!(done, json!({ "answers": [answer, answer, answer], "error": null }));
    }
    assert_eq!(fixture.audit.taken(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_method_that_wants_a_seal_refuses_impacket_with_signatures_alone() {
    let fixture = Fixture::new();
    let address = fixture.listen().await;
    let done = impacket(address, "Password", AuthLevel::INTEGRITY, &[0, PRIVATE]).await;
    assert_eq!(done["answers"], json!(["alice at 5"]), "{done:#}");
    assert!(done["error"].as_str().is_some_and(|error| error.contains("access_denied")), "{done:#}");
    let done = impacket(address, "Password", AuthLevel::PRIVACY, &[PRIVATE]).await;
    assert_eq!(done["answers"], json!(["alice at 6"]), "{done:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn impacket_with_a_wrong_password_gets_no_answer() {
    let fixture = Fixture::new();
    let address = fixture.listen().await;
    let done = impacket(address, "wrong", AuthLevel::PRIVACY, &[0]).await;
    assert_eq!(done["answers"], json!([]), "{done:#}");
    assert!(done["error"].as_str().is_some_and(|error| error.contains("access_denied")), "{done:#}");
    assert_eq!(fixture.audit.taken(), [("ntlm", RefusalReason::Proof)]);
}

async fn samba(address: SocketAddr, password: &str, options: &[&str]) -> Value {
    let input = json!({
        "host": address.ip().to_string(), "port": address.port(), "user": "alice", "password": password,
        "domain": "SSO1", "options": options, "calls": 3,
    });
    run(SAMBA_PYTHON, "samba_user_client.py", input).await
}

#[tokio::test(flavor = "multi_thread")]
async fn samba_is_a_user_by_each_mechanism_and_level() {
    let fixture = Fixture::new();
    let address = fixture.listen().await;
    for mechanism in ["ntlm", "spnego"] {
        for level in ["connect", "sign", "seal"] {
            let done = samba(address, "Password", &[mechanism, level]).await;
            assert_eq!(
                done["error"],
                Value::Null,
                "{mechanism} {level}: {done:#} {:?}",
                fixture.audit.taken()
            );
            assert_eq!(done["answers"].as_array().map(Vec::len), Some(3), "{mechanism} {level}: {done:#}");
        }
        let done = samba(address, "wrong", &[mechanism, "seal"]).await;
        assert_eq!(done["answers"], json!([]), "{done:#}");
        assert_eq!(fixture.audit.taken(), [(mechanism, RefusalReason::Proof)]);
    }
}
