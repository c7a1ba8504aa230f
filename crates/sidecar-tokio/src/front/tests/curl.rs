//! What curl and OpenSSL get.

use super::*;
use std::process::{Command, Output, Stdio};

/// `curl` with a certificate and these arguments.
async fn curl(scene: &Scene, arguments: &[&str], path: &str) -> Output {
    let (certificate, key) = &scene.alice.files;
    let mut command = Command::new("curl");
    command
        .args(["--silent", "--show-error", "--max-time", "60", "--noproxy", "*", "--cacert"])
        .arg(&scene.ca.1);
    command.arg("--cert").arg(certificate).arg("--key").arg(key).args(arguments);
    command.arg(format!("https://localhost:{}{path}", scene.address.port()));
    command.arg("--resolve").arg(format!("localhost:{}:127.0.0.1", scene.address.port()));
    command.stdin(Stdio::null());
    tokio::task::spawn_blocking(move || command.output().expect("curl is installed")).await.unwrap()
}

fn text(output: &Output) -> String {
    assert!(output.status.success(), "{}: {}", output.status, String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).unwrap()
}

#[tokio::test]
async fn curl_is_served_by_every_version() {
    let scene = Scene::new().await;
    for arguments in [
        &["--http1.1", "--tls-max", "1.2"][..],
        &["--http1.1", "--tlsv1.3"],
        &["--http2", "--tls-max", "1.2"],
        &["--http2", "--tlsv1.3"],
    ] {
        let forged = ["-H", "Remote-User: root", "-H", "remote_user: root", "-w", "%{http_version}"];
        let got = text(&curl(&scene, &[arguments, &forged].concat(), "/x?y").await);
        assert!(got.starts_with("GET /x?y HTTP/1.1\n"), "{arguments:?}: {got}");
        assert!(
            got.contains("remote-user: CONTOSO\\alice\n") && !got.contains("root"),
            "{arguments:?}: {got}"
        );
        let version = if arguments[0] == "--http2" { "\n2" } else { "\n1.1" };
        assert!(got.ends_with(version), "{arguments:?}: {got}");
        let head = text(&curl(&scene, &[arguments, &["--head"]].concat(), "/x").await);
        assert!(head.contains(" 200") && head.contains("content-length: "), "{arguments:?}: {head}");
    }
}

/// The most memory that this process has had, in KiB.
fn memory_max() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

const BIG: u64 = 64 << 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn big_bodies_pass_and_are_not_held() {
    let scene = Scene::new().await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("big");
    std::fs::File::create(&file).unwrap().set_len(BIG).unwrap();
    let upload = format!("@{}", file.display());
    let before = memory_max();
    for version in ["--http1.1", "--http2"] {
        let sent = text(
            &curl(&scene, &[version, "--data-binary", &upload, "-H", "Expect: 100-continue"], "/count").await,
        );
        assert_eq!(sent, format!("{BIG}\n"), "{version}");
        let download = [version, "--output", "/dev/null", "--write-out", "%{size_download}"];
        let got = text(&curl(&scene, &download, &format!("/big/{}", BIG >> 16)).await);
        assert_eq!(got, BIG.to_string(), "{version}");
    }
    let grown = memory_max() - before;
    // A quarter of one of the four bodies.
    assert!(grown < BIG >> 12, "{grown} KiB");
}

#[tokio::test]
async fn a_refused_upload_is_not_asked_for() {
    let scene = Scene::new().await;
    scene.oracle.says(Err(Refusal::NotMapped(Reason::NoMatch.into())));
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("big");
    std::fs::File::create(&file).unwrap().set_len(BIG).unwrap();
    let upload = format!("@{}", file.display());
    let arguments = ["--http1.1", "--data-binary", &upload, "-H", "Expect: 100-continue"];
    let report = ["--write-out", "%{http_code} %{size_upload}"];
    let got = text(&curl(&scene, &[&arguments[..], &report].concat(), "/count").await);
    assert_eq!(got, "this certificate is not let in\n403 0");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_before_the_end_of_the_body_arrives() {
    let scene = Scene::new().await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("body");
    let upload = format!("@{}", file.display());
    let early = async |len: u64, arguments: &[&str], expected: &str| {
        std::fs::File::create(&file).unwrap().set_len(len).unwrap();
        // Each is lost every other time, if it is.
        for version in ["--http1.1", "--http2"].repeat(6) {
            let given = [version, "--data-binary", &upload, "-H", "Expect:", "-w", " %{http_code}"];
            let got = text(&curl(&scene, &[&given, arguments].concat(), "/x").await);
            assert!(got.ends_with(expected), "{len} {version} {arguments:?}: {got}");
        }
    };
    for len in [1000, 1 << 20] {
        early(len, &["-H", "Host: other.example"], " 421").await;
        early(len, &["--request", "TRACE"], " 501").await;
        scene.oracle.says(Err(Refusal::NotMapped(Reason::NoMatch.into())));
        early(len, &[], " 403").await;
        scene.oracle.says(Ok(()));
    }
}

#[tokio::test]
async fn openssl_finds_no_older_tls_and_no_renegotiation() {
    let scene = Scene::new().await;
    let openssl = async |version: &'static str| {
        let (certificate, key) = &scene.alice.files;
        let mut command = Command::new("openssl");
        command.args(["s_client", version, "-cipher", "ALL:@SECLEVEL=0", "-servername", "localhost"]);
        command.arg("-CAfile").arg(&scene.ca.1).arg("-cert").arg(certificate).arg("-key").arg(key);
        command.arg("-connect").arg(scene.address.to_string()).stdin(Stdio::null());
        let output = tokio::task::spawn_blocking(move || command.output().expect("openssl is installed"));
        let output = output.await.unwrap();
        (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    for version in ["-tls1", "-tls1_1"] {
        let (is_done, said) = openssl(version).await;
        assert!(!is_done && said.contains("no peer certificate available"), "{version}: {said}");
    }
    let (is_done, said) = openssl("-tls1_2").await;
    assert!(is_done && said.contains("Verify return code: 0 (ok)"), "{said}");
    assert!(said.contains("Acceptable client certificate CA names\nCN = Test authority"), "{said}");
}
