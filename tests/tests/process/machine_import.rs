//! Machine accounts that are taken over from a keytab of MIT Kerberos, and from Samba's secrets.tdb.

use rcmpd_tests::{Demo, write_secret};
use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

const PASSWORD: &str = "correct-horse-battery-staple";

/// Runs a program of others with this input.
fn run(program: &str, arguments: &[&str], input: &str) {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|error| panic!("{program}: {error}"));
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{program}: {output:?}");
}

/// A keytab by ktutil: principals, each with a key version, a type and a password.
fn keytab(path: &Path, keys: &[(&str, u32, &str, &str)]) {
    let mut script = String::new();
    for (principal, kvno, etype, password) in keys {
        script += &format!("addent -password -p {principal} -k {kvno} -e {etype}\n{password}\n");
    }
    script += &format!("wkt {}\nquit\n", path.display());
    run("ktutil", &[], &script);
    assert!(path.exists(), "ktutil wrote nothing: {script}");
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

/// A secrets.tdb in which Samba's `net` set the password of the member WEB07 of a domain with this SID.
fn secrets_tdb(demo: &Demo, sid: &str) -> std::path::PathBuf {
    let folder = demo.path("samba");
    fs::create_dir_all(folder.join("private")).unwrap();
    let at = folder.display();
    let places = ["lock", "state", "cache", "pid"].map(|what| format!("{what} directory = {at}\n")).concat();
    let settings = format!(
        "[global]\nworkgroup = CONTOSO\nrealm = CONTOSO.EXAMPLE\nnetbios name = WEB07\nsecurity = ads\n\
         private dir = {at}/private\n{places}"
    );
    fs::write(folder.join("smb.conf"), settings).unwrap();
    let config = folder.join("smb.conf").display().to_string();
    run("net", &["setdomainsid", sid, "-s", &config], "");
    let file = folder.join("private/secrets.tdb");
    // A joined member, as Samba before 4.8 had it; `net` brings it into the present form.
    let store = |key: &str, value: &str| format!("store SECRETS/{key}/CONTOSO {value}\n");
    let script = [
        format!("open {}\n", file.display()),
        store("MACHINE_PASSWORD", r"the-former-password\00"),
        store("MACHINE_SEC_CHANNEL_TYPE", r"\02\00\00\00"),
        store("MACHINE_LAST_CHANGE_TIME", r"\01\00\00\00"),
        "quit\n".to_owned(),
    ];
    run("tdbtool", &[], &script.concat());
    run("net", &["changesecretpw", "-f", "-s", &config], &format!("{PASSWORD}\n"));
    file
}

/// The names of the keytab and the file with the password, which the machine has.
fn maps(service: &rcmpd_tests::Service, machine: &str, secret: &str) -> i32 {
    let server = service.netlogon.to_string();
    let arguments = ["map", "certs/alice.pem", "--server", &server, "--domain", "CONTOSO"];
    service.rcmpd(&[&arguments[..], &["--machine", machine, "--secret-file", secret]].concat()).code
}

#[test]
fn a_machine_of_a_keytab_keeps_its_secret() {
    let demo = Demo::new();
    let import = |name: &str, file: &str, more: &[&str]| {
        let arguments = ["machine", "import", name, "--keytab", file, "-c", "rcmpd.toml"];
        demo.rcmpd(&[&arguments[..], more].concat())
    };
    let (rc4, aes) = ("arcfour-hmac", "aes256-cts-hmac-sha1-96");
    let web = "WEB07$@CONTOSO.EXAMPLE";
    keytab(
        &demo.path("web07.keytab"),
        &[
            ("host/web07.contoso.example@CONTOSO.EXAMPLE", 5, rc4, "of-another-service"),
            (web, 4, rc4, "the-former-password"),
            (web, 5, aes, PASSWORD),
            (web, 5, rc4, PASSWORD),
        ],
    );
    import("web07$", "web07.keytab", &["--permission", "rcmp"]).code(0);

    // What cannot be used, and why.
    keytab(&demo.path("aes.keytab"), &[(web, 4, rc4, PASSWORD), (web, 5, aes, PASSWORD)]);
    keytab(&demo.path("two.keytab"), &[(web, 5, rc4, PASSWORD), (web, 5, rc4, "another")]);
    keytab(&demo.path("realm.keytab"), &[("WEB07$@FABRIKAM.EXAMPLE", 5, rc4, PASSWORD)]);
    write_secret(demo.path("junk.keytab"), "no keytab");
    fs::copy(demo.path("web07.keytab"), demo.path("open.keytab")).unwrap();
    fs::set_permissions(demo.path("open.keytab"), fs::Permissions::from_mode(0o644)).unwrap();
    for (name, file, why) in [
        ("WEB08$", "web07.keytab", "it has no key of WEB08$@CONTOSO.EXAMPLE"),
        ("WEB07$", "aes.keytab", "no RC4 key (type 23), only types [18]"),
        ("WEB07$", "two.keytab", "two RC4 keys"),
        ("WEB07$", "realm.keytab", "it has keys of WEB07$@FABRIKAM.EXAMPLE"),
        ("WEB07$", "junk.keytab", "is not a keytab"),
        ("WEB07$", "open.keytab", "mode 644"),
        ("WEB07$", "none.keytab", "none.keytab"),
    ] {
        let refused = import(name, file, &[]).code(6);
        assert!(refused.stderr.contains(why) && !refused.stderr.contains(PASSWORD), "{refused:?}");
    }
    let known = import("WEB07$", "web07.keytab", &["--permission", "rcmp"]).code(1);
    assert!(known.stderr.contains("already exists"), "{known:?}");

    write_secret(demo.path("web07.secret"), PASSWORD);
    write_secret(demo.path("next.secret"), "another-long-password");
    keytab(&demo.path("next.keytab"), &[(web, 6, rc4, "another-long-password")]);
    let service = demo.serve();
    assert_eq!(maps(&service, "WEB07$", "web07.secret"), 0);
    assert_eq!(maps(&service, "WEB07$", "next.secret"), 5, "it is not its secret yet");
    let next = ["machine", "import", "WEB07$", "--keytab", "next.keytab", "-c", "rcmpd.toml"];
    service.rcmpd(&next).code(0);
    assert_eq!(maps(&service, "WEB07$", "next.secret"), 0);
}

#[test]
fn a_member_of_samba_keeps_its_secret_here_and_in_client() {
    let demo = Demo::new();
    let file = secrets_tdb(&demo, &demo.domain_sid()).display().to_string();
    let import = |file: &str, more: &[&str]| {
        let arguments = ["machine", "import", "WEB07$", "--secrets-tdb", file, "-c", "rcmpd.toml"];
        demo.rcmpd(&[&arguments[..], more].concat())
    };
    import(&file, &["--permission", "rcmp", "--write-secret", "web07.secret"]).code(0);
    let mode = fs::metadata(demo.path("web07.secret")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let again = import(&file, &["--write-secret", "web07.secret"]).code(1);
    assert!(again.stderr.contains("web07.secret"), "it is never overwritten: {again:?}");

    let other = Demo::new();
    let of_another_domain = secrets_tdb(&other, "S-1-5-21-1-2-3").display().to_string();
    let refused = import(&of_another_domain, &[]).code(6);
    assert!(refused.stderr.contains("of another domain"), "{refused:?}");
    let whole = fs::read(&file).unwrap();
    write_secret(demo.path("cut.tdb"), &whole[..2000]);
    import("cut.tdb", &[]).code(6);
    write_secret(demo.path("junk.tdb"), "junk");
    let refused = import("junk.tdb", &[]).code(6);
    assert!(refused.stderr.contains("magic of a TDB file"), "{refused:?}");

    let service = demo.serve();
    assert_eq!(maps(&service, "WEB07$", "web07.secret"), 0);
}
