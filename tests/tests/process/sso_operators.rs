//! Operators change the master secret by the socket of the service, as the local users that they are.

use rcmpd_tests::{Demo, Finished, Service, binary, eventually, write_secret};
use serde_json::{Value, json};
use std::fs::{self, Permissions};
use std::io::{Read, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// Users that no name service knows, and the group by which both can connect.
const OPERATOR: &str = "424242";
const OTHER: &str = "434343";
const GROUP: &str = "444444";
/// The public key of the private key of 32 octets 0x77, by OpenSSL.
const PINNED: &str = "rcmpd-recipient-1:1cf579aba45a10ba1d1ef06d91fca2aa9ed0a1150515653155405d0b18cb9a67";

/// A service with an operator. Its folder can be entered, as /run can; that of the secret cannot.
fn served() -> Service {
    served_with("")
}

/// The same with more keys of `[sso]`.
fn served_with(keys: &str) -> Service {
    assert!(rustix::process::geteuid().is_root(), "only root can run commands as other users");
    let demo = Demo::with_master_secret();
    demo.edit(|text| {
        let keys = format!(
            "operators       = [\"uid:{OPERATOR}\"]\noperator_socket = \"operators.sock\"\noperator_group  = \"{GROUP}\"\n{keys}"
        );
        text.replace("[sso.ntlm]", &format!("{keys}[sso.ntlm]"))
    });
    demo.rcmpd(&["check-config", "rcmpd.toml"]).code(0);
    let folder = demo.path("rcmpd.toml").parent().unwrap().to_owned();
    for folder in [folder.as_path(), folder.parent().unwrap()] {
        fs::set_permissions(folder, Permissions::from_mode(0o755)).unwrap();
    }
    fs::create_dir(demo.path("theirs")).unwrap();
    fs::set_permissions(demo.path("theirs"), Permissions::from_mode(0o777)).unwrap();
    demo.serve()
}

/// Runs `rcmpd sso secret` as another user, who can read neither the configuration nor the files of the
/// secret.
fn as_user(service: &Service, user: &str, arguments: &[&str]) -> Finished {
    run_as(
        service,
        user,
        &format!("--groups={GROUP}"),
        &[arguments, &["--socket", "operators.sock"]].concat(),
    )
}

/// The same with an option of setpriv(1) about groups, and with all arguments.
fn run_as(service: &Service, user: &str, groups: &str, arguments: &[&str]) -> Finished {
    let program = binary().display().to_string();
    let (uid, gid) = (format!("--reuid={user}"), format!("--regid={user}"));
    let command = [&uid, &gid, groups, &program, "sso", "secret"];
    service.run(Path::new("setpriv"), &[&command[..], arguments].concat())
}

fn generation(status: &Value) -> u64 {
    status["facts"]["generations"][0]["number"].as_u64().unwrap()
}

#[test]
fn operator_rotates_backs_up_and_restores_and_another_user_is_refused() {
    // The backups of operators are for a private key that they do not have.
    let service = served_with(&format!("backup_recipients = [\"{PINNED}\"]\n"));
    write_secret(service.path("theirs/private"), [0x77; 32]);
    let recipient = service.rcmpd(&["sso", "recipient", "theirs/private"]).code(0).stdout.trim().to_owned();
    assert_eq!(recipient, PINNED);
    let socket = fs::symlink_metadata(service.path("operators.sock")).unwrap();
    assert_eq!((socket.file_type().is_socket(), socket.mode() & 0o777), (true, 0o660));
    assert_eq!(socket.gid().to_string(), GROUP);
    let to = ["--recipient", PINNED];
    let from = ["--key-file", "theirs/private"];
    let json = |done: Finished| done.code(0).json();
    let operator = |arguments: &[&str]| as_user(&service, OPERATOR, &[arguments, &["--json"]].concat());

    // The key file could be read by all, as any other command would say.
    fs::set_permissions(service.path("theirs/private"), Permissions::from_mode(0o644)).unwrap();
    let readable = operator(&[&["drill", "theirs/no.backup"][..], &from].concat()).code(6);
    assert!(readable.stderr.contains("theirs/"), "{}", readable.stderr);
    give_to_operator(&service.path("theirs/private"));

    assert_eq!(generation(&json(operator(&["status"]))), 1);
    assert_eq!(generation(&json(operator(&["rotate", "--overlap-h", "24"]))), 2);
    let backed_up = json(operator(&[&["backup", "theirs/one.backup"][..], &to].concat()));
    assert_eq!(backed_up["facts"]["backup_is_current"], true);
    let file = fs::metadata(service.path("theirs/one.backup")).unwrap();
    assert_eq!((file.uid().to_string(), file.mode() & 0o777), (OPERATOR.to_owned(), 0o600));
    let drilled = json(operator(&[&["drill", "theirs/one.backup"][..], &from].concat()));
    assert!(drilled["facts"]["last_drill"].is_u64());
    assert_eq!(generation(&json(operator(&["rotate"]))), 3);
    // Refusals and exit codes are those of the files.
    let older = operator(&[&["restore", "theirs/one.backup"][..], &from].concat()).code(1);
    assert!(
        older.stderr.contains("the backup is older") && older.stderr.contains("--allow-older"),
        "{older:?}"
    );
    json(operator(&[&["restore", "theirs/one.backup", "--allow-older"][..], &from].concat()));
    let exists = operator(&["generate"]).code(1);
    assert!(exists.stderr.contains("there is a master secret already"), "{}", exists.stderr);
    let twice = operator(&[&["backup", "theirs/one.backup"][..], &to].concat()).code(1);
    assert!(twice.stderr.contains("exists already"), "{}", twice.stderr);
    let text = as_user(&service, OPERATOR, &["status"]).code(0);
    assert!(text.stdout.contains("state") && text.stdout.contains("open"), "{}", text.stdout);

    // Another member of the group.
    let before = fs::read(service.path("sso/master-secret.sealed")).unwrap();
    for command in [&["status"][..], &["rotate"], &["generate"]] {
        let refused = as_user(&service, OTHER, command).code(1);
        assert!(refused.stderr.contains("only operators of [sso]"), "{}", refused.stderr);
    }
    assert_eq!(fs::read(service.path("sso/master-secret.sealed")).unwrap(), before);
    // No member of the group: the kernel refuses.
    let rotate = ["rotate", "--socket", "operators.sock"];
    let outsider = run_as(&service, OPERATOR, "--clear-groups", &rotate).code(1);
    assert!(outsider.stderr.contains("sso.operator_group"), "{}", outsider.stderr);

    // Who did what.
    let lines = service.audit("master_secret_operation");
    let commands: Vec<_> = lines.iter().map(|line| line["command"].as_str().unwrap()).collect();
    assert_eq!(commands, ["rotate", "backup", "drill", "rotate", "restore", "restore", "generate"]);
    assert_eq!((&lines[1]["recipient"], &lines[1]["for_node"]), (&json!(PINNED), &json!(false)));
    assert_eq!(lines[5]["allow_older"], true);
    assert_eq!(lines[5]["key_ids"].as_array().unwrap().len(), 2);
    assert!(lines.iter().all(|line| line["uid"] == OPERATOR.parse::<u32>().expect("a number")));
    let ended = service.audit("master_secret_operation_ended");
    let failed: Vec<_> =
        ended.iter().filter(|line| !line["error"].is_null()).map(|line| &line["command"]).collect();
    assert_eq!((ended.len(), failed), (7, vec![&json!("restore"), &json!("generate")]));
    let refused = service.audit("operator_refused");
    assert_eq!(refused.len(), 3);
    assert!(refused.iter().all(|line| line["uid"] == OTHER.parse::<u32>().expect("a number")));
    let metric = |result: &str| service.metric(&format!("rcmpd_sso_operations_total{{result=\"{result}\"}}"));
    assert_eq!((metric("done"), metric("failed"), metric("refused")), (5, 2, 3));
}

/// An operator may change the secret, and neither obtain nor choose it.
#[test]
fn operator_neither_obtains_nor_chooses_the_secret_and_is_told_why() {
    let service = served_with(&format!("backup_recipients = [\"{PINNED}\"]\n"));
    write_secret(service.path("theirs/pass"), "the passphrase of an operator\n");
    write_secret(service.path("theirs/key"), [0x42; 32]);
    let own = service.rcmpd(&["sso", "recipient", "theirs/key"]).code(0).stdout.trim().to_owned();
    for file in ["theirs/pass", "theirs/key"] {
        give_to_operator(&service.path(file));
    }
    let before = fs::read(service.path("sso/master-secret.sealed")).unwrap();
    for (key, told) in [
        (&["--passphrase-file", "theirs/pass"][..], "give --recipient with one of sso.backup_recipients"),
        (&["--key-file", "theirs/key"], "give --recipient with one of sso.backup_recipients"),
        (&["--recipient", &own], "this is none"),
        (&["--recipient", &own, "--for-node"], "a backup for a node is for the owner"),
        (&["--recipient", PINNED, "--for-node"], "a backup for a node is for the owner"),
    ] {
        let refused = as_user(&service, OPERATOR, &[&["backup", "theirs/own"][..], key].concat()).code(1);
        assert!(refused.stderr.contains(told), "{key:?}: {}", refused.stderr);
        assert!(!service.path("theirs/own").exists());
    }
    // A farm of the operator's own, whose secret the operator knows.
    let chosen = Demo::with_master_secret();
    for (file, name) in [("sso/first.backup", "chosen"), ("sso/backup.passphrase", "chosen.pass")] {
        fs::copy(chosen.path(file), service.path(&format!("theirs/{name}"))).unwrap();
        give_to_operator(&service.path(&format!("theirs/{name}")));
    }
    let restore = ["restore", "theirs/chosen", "--passphrase-file", "theirs/chosen.pass"];
    let key_id = secret_status(&chosen)["facts"]["generations"][0]["key_id"].as_str().unwrap().to_owned();
    for (more, told) in [
        (&[][..], "is not one of the live store"),
        (&["--key-id", &key_id], "is not one of the live store"),
        (&["--allow-older"], "is not one of the live store"),
        (&["--allow-foreign"], "are for the owner"),
        (&["--replace-sealed", "--allow-older"], "are for the owner"),
    ] {
        let refused = as_user(&service, OPERATOR, &[&restore[..], more].concat()).code(1);
        assert!(refused.stderr.contains(told), "{more:?}: {}", refused.stderr);
    }
    assert_eq!(fs::read(service.path("sso/master-secret.sealed")).unwrap(), before);
    // What was tried is in the audit log.
    let lines = service.audit("master_secret_operation");
    assert_eq!((&lines[2]["recipient"], &lines[3]["for_node"]), (&json!(own), &json!(true)));
    assert_eq!((&lines[8]["allow_foreign"], &lines[8]["key_ids"]), (&json!(true), &json!([key_id])));
    // An empty folder and a sealed store are for the owner.
    for file in ["master-secret.sealed", "master-secret.instance"] {
        fs::rename(service.path(&format!("sso/{file}")), service.path(file)).unwrap();
    }
    let empty = as_user(&service, OPERATOR, &restore).code(1);
    assert!(empty.stderr.contains("is not one of the live store"), "{}", empty.stderr);
    assert!(!service.path("sso/master-secret.sealed").exists());
}

fn secret_status(demo: &Demo) -> Value {
    demo.rcmpd(&["sso", "secret", "status", "-c", "rcmpd.toml", "--json"]).code(0).json()
}

/// Gives a file to the operator, with mode 0600.
fn give_to_operator(path: &Path) {
    let user = OPERATOR.parse().ok();
    fs::set_permissions(path, Permissions::from_mode(0o600)).unwrap();
    std::os::unix::fs::chown(path, user, user).unwrap();
}

#[test]
fn operator_who_is_removed_is_refused_after_a_reload_and_the_socket_goes_with_the_service() {
    let mut service = served();
    as_user(&service, OPERATOR, &["rotate"]).code(0);
    service.edit(|text| text.replace(&format!("uid:{OPERATOR}"), &format!("uid:{OTHER}")));
    service.reload();
    as_user(&service, OPERATOR, &["rotate"]).code(1);
    as_user(&service, OTHER, &["rotate"]).code(0);
    // Root is asked for nothing, and may ask.
    service.rcmpd(&["sso", "secret", "rotate", "--socket", "operators.sock"]).code(0);
    // The configuration says where the socket is, for a user who can read it.
    fs::set_permissions(service.path("rcmpd.toml"), Permissions::from_mode(0o644)).unwrap();
    run_as(&service, OTHER, &format!("--groups={GROUP}"), &["rotate", "-c", "rcmpd.toml"]).code(0);
    service.signal(rustix::process::Signal::TERM);
    assert_eq!(service.ended(), 0);
    assert!(!service.path("operators.sock").exists());
    let gone = as_user(&service, OTHER, &["rotate"]).code(1);
    assert!(gone.stderr.contains("the service does not run"), "{}", gone.stderr);
}

/// What is sent is bounded, and silent connections keep no operator out.
#[test]
fn junk_and_silence_at_the_socket_keep_no_operator_out() {
    let service = served();
    let connect = || {
        let stream = UnixStream::connect(service.path("operators.sock")).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        stream
    };
    let silent: Vec<_> = (0..100).map(|_| connect()).collect();
    as_user(&service, OPERATOR, &["rotate"]).code(0);
    drop(silent);
    let said = |request: &[u8]| {
        let mut stream = connect();
        // The service may close before all of it is written.
        let _ = stream.write_all(request);
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer);
        answer
    };
    for request in [
        "{}\n",
        "[]\n",
        "{\"command\":\"adopt\"}\n",
        "{\"command\":\"rotate\",\"overlap_h\":1,\"force\":true}\n",
        "{\"command\":\"rotate\",\"overlap_h\":99999999999999}\n",
        "{\"command\":\"backup\",\"key\":{\"recipient\":\"x\"},\"for_node\":false,\"file\":\"/tmp/x\"}\n",
        "{\"command\":\"unseal\",\"share\":\"x\"}\n",
        "\0\u{fffd}\n",
    ] {
        let answer = said(request.as_bytes());
        assert!(answer.starts_with("{\"error\":"), "{request}: {answer}");
    }
    assert_eq!(said(&vec![b' '; 1 << 20]), "", "too long for a request");
    let nested = [vec![b'['; 100_000], b"\n".to_vec()].concat();
    assert!(said(&nested).starts_with("{\"error\":"));
    eventually("an operator is answered", || as_user(&service, OPERATOR, &["status"]).code == 0);
    let kinds: Vec<_> =
        service.audit("master_secret_operation").iter().map(|line| line["command"].clone()).collect();
    assert_eq!(kinds, ["rotate", "rotate", "unseal"]);
}

#[test]
fn wrong_operators_are_refused_with_their_reason() {
    let demo = Demo::with_master_secret();
    let good = fs::read_to_string(demo.path("rcmpd.toml")).unwrap();
    for (keys, expected) in [
        ("operators = []", "operators is an empty list"),
        ("operators = [\"uid:5\"]", "there is none"),
        ("operators = [\"carol\"]\noperator_socket = \"s\"\noperator_group = \"g\"", "not an operator"),
        ("operators = [\"user:nobody\"]\noperator_socket = \"s\"\noperator_group = \"g\"", "share this one"),
        ("operators = [\"uid:65534\"]\noperator_socket = \"s\"\noperator_group = \"g\"", "share this one"),
        ("operators = [\"uid:5\"]\noperator_socket = \"s\"", "no group can connect"),
        ("operators = [\"user:a\", \"group:b\"]\noperator_socket = \"s\"", "no group can connect"),
    ] {
        fs::write(demo.path("rcmpd.toml"), good.replace("[sso.ntlm]", &format!("{keys}\n[sso.ntlm]")))
            .unwrap();
        let refused = demo.rcmpd(&["check-config", "rcmpd.toml"]).code(1);
        assert!(refused.stderr.contains(expected), "{keys}: {}", refused.stderr);
    }
    fs::create_dir(demo.path("wide")).unwrap();
    fs::set_permissions(demo.path("wide"), Permissions::from_mode(0o777)).unwrap();
    let operator = "operators = [\"uid:424242\"]";
    for (keys, expected) in [
        (
            format!("{operator}\noperator_socket = \"s\"\noperator_group = \"no-such-group\""),
            "no group no-such-group",
        ),
        (format!("{operator}\noperator_socket = \"s\"\noperator_group = \"nogroup\""), "share it"),
        (format!("{operator}\noperator_socket = \"none/s\"\noperator_group = \"0\""), "cannot be used"),
        (
            format!("{operator}\noperator_socket = \"wide/s\"\noperator_group = \"0\""),
            "other users can write",
        ),
        (
            format!("{operator}\noperator_socket = \"/tmp/s\"\noperator_group = \"0\""),
            "other users can write",
        ),
        // The number of daemon.
        ("operators = [\"uid:1\"]\noperator_socket = \"s\"\noperator_group = \"0\"".to_owned(), "share it"),
        (
            format!(
                "{operator}\noperator_socket = \"s\"\noperator_group = \"0\"\nbackup_recipients = [\"x\"]"
            ),
            "no recipient",
        ),
    ] {
        fs::write(demo.path("rcmpd.toml"), good.replace("[sso.ntlm]", &format!("{keys}\n[sso.ntlm]")))
            .unwrap();
        let refused = demo.rcmpd(&["check-config", "rcmpd.toml"]).code(1);
        assert!(refused.stderr.contains(expected), "{keys}: {}", refused.stderr);
    }
    let one = "operators = [\"group:adm\"]\noperator_socket = \"s\"";
    fs::write(demo.path("rcmpd.toml"), good.replace("[sso.ntlm]", &format!("{one}\n[sso.ntlm]"))).unwrap();
    demo.rcmpd(&["check-config", "rcmpd.toml"]).code(0);
}
