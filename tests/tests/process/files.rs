//! Files that other users must not read or change, memory that must not be written to any, and a
//! configuration that was cut off.

use crate::sidecar::{ask_about, sidecar};
use rcmpd_tests::{Demo, binary, write_secret};
use rustix::process::Signal;
use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

/// A configuration with a secret and a key of each kind.
fn demo() -> Demo {
    let demo = Demo::new();
    write_secret(demo.path("admin.token"), "t0ken-t0ken-t0ken\n");
    write_secret(demo.path("sidecar.secret"), "correct-horse-battery\n");
    demo.rcmpd(&["audit", "key", "audit.key"]).code(0);
    demo.rcmpd(&["audit", "key", "proof.key"]).code(0);
    demo.edit(|text| text.replace("[admin] ", "[admin]\ntoken = \"file:admin.token\" "));
    demo.configure(
        "[forward]\nproof_key = \"proof.key\"\n[audit]\npath = \"audit.log\"\nchain = true\n[audit.heads]\npath = \"audit.heads\"\n\
         key = \"audit.key\"\n[sidecar]\n[[sidecar.listen]]\ndialect = \"nginx\"\naddress = \"127.0.0.1:0\"\n\
         secret = \"file:sidecar.secret\"\n",
    );
    demo
}

#[test]
fn state_of_the_gateway_that_others_may_write_is_refused() {
    let demo = Demo::with_gateway("127.0.0.1:1".parse().unwrap(), "state = \"tlsnego.state\"\n");
    let check = ["check-config", "-c", "rcmpd.toml"];
    demo.rcmpd(&check).code(0);
    write_secret(demo.path("tlsnego.state"), "");
    chmod(&demo.path("tlsnego.state"), 0o666);
    let done = demo.rcmpd(&check).code(1);
    assert!(done.stderr.contains("tlsnego.state") && done.stderr.contains("mode 666"), "{done:?}");
}

#[test]
fn files_that_others_may_use_are_refused_by_serve_and_check_config() {
    let demo = demo();
    let check = ["check-config", "-c", "rcmpd.toml"];
    demo.rcmpd(&check).code(0);
    for (name, modes, good) in [
        ("admin.token", &[0o604, 0o644, 0o602, 0o666][..], 0o640),
        ("machines/WEB01.secret", &[0o644, 0o606], 0o640),
        ("sidecar.secret", &[0o644], 0o640),
        ("accounts.key", &[0o604], 0o440),
        ("audit.key", &[0o640, 0o604], 0o600),
        ("proof.key", &[0o640, 0o604], 0o600),
        ("accounts.db", &[0o602, 0o666], 0o644),
        ("rcmpd.toml", &[0o646, 0o666], 0o664),
        ("certs/ca.pem", &[0o646, 0o666], 0o664),
    ] {
        let path = demo.path(name);
        let before = path.metadata().unwrap().mode();
        for mode in modes {
            chmod(&path, *mode);
            for done in [demo.rcmpd(&check), demo.rcmpd(&["serve", "-c", "rcmpd.toml"])] {
                let done = done.code(1);
                for part in [name, &format!("mode {mode:o}"), "chmod "] {
                    assert!(done.stderr.contains(part), "{name} {mode:o}: {done:?}");
                }
            }
        }
        chmod(&path, good);
        demo.rcmpd(&check).code(0);
        chmod(&path, before);
    }
    // A link is what it leads to.
    fs::rename(demo.path("admin.token"), demo.path("token")).unwrap();
    std::os::unix::fs::symlink("token", demo.path("admin.token")).unwrap();
    chmod(&demo.path("token"), 0o644);
    demo.rcmpd(&check).code(1);
    chmod(&demo.path("token"), 0o600);
    let mut service = demo.serve();
    service.map("alice").code(0);
    // Nor are they taken over while it serves, and clients are served as before.
    chmod(&service.path("sidecar.secret"), 0o644);
    service.signal(Signal::HUP);
    service.wait_for_lines(&["sidecar.secret can be used by every user"], 1);
    service.map("alice").code(0);
}

/// `check-config` looks at the users of a Unix socket as `serve` does.
#[test]
fn users_of_a_socket_are_looked_up_by_check_config() {
    let check = |peers: &str| {
        let demo = Demo::new();
        demo.configure(&format!(
            "[sidecar]\n[[sidecar.listen]]\ndialect = \"nginx\"\nunix = \"web.sock\"\npeers = [{peers}]\n"
        ));
        demo.rcmpd(&["check-config", "-c", "rcmpd.toml"])
    };
    let done = check("\"no-such-user\"").code(1);
    assert!(done.stderr.contains("there is no user no-such-user on this system"), "{done:?}");
    assert!(!done.stderr.contains("invalid digit"), "{done:?}");
    // Root does not know the user that the service runs as, so that it is warned.
    let done = check("\"daemon\", \"bin\"");
    assert!(done.stderr.contains("have different primary groups"), "{done:?}");
    check("\"daemon\"").code(0);
}

/// Users and groups that are in no file are known if a name service of the system has them. The library takes
/// the place of one, such as SSSD.
#[test]
fn users_and_groups_of_a_name_service_are_known() {
    const NAME_SERVICE: &str = r#"
        #include <grp.h>
        #include <pwd.h>
        #include <string.h>
        int getpwnam_r(const char *name, struct passwd *user, char *buffer, size_t len, struct passwd **found) {
            *found = 0;
            if (strcmp(name, "sso-web")) return 0;
            user->pw_name = user->pw_passwd = user->pw_gecos = user->pw_dir = user->pw_shell = "sso-web";
            user->pw_uid = 70001;
            user->pw_gid = 70002;
            *found = user;
            return 0;
        }
        int getgrnam_r(const char *name, struct group *group, char *buffer, size_t len, struct group **found) {
            static char *members[] = { 0 };
            *found = 0;
            if (strcmp(name, "sso-group")) return 0;
            group->gr_name = group->gr_passwd = "sso-group";
            group->gr_gid = 70003;
            group->gr_mem = members;
            *found = group;
            return 0;
        }
    "#;
    let demo = Demo::new();
    fs::write(demo.path("names.c"), NAME_SERVICE).unwrap();
    demo.paste("cc -shared -fPIC -w -o names.so names.c").code(0);
    demo.configure(
        "[sidecar]\n[[sidecar.listen]]\ndialect = \"nginx\"\nunix = \"web.sock\"\npeers = [\"sso-web\"]\ngroup = \"sso-group\"\n",
    );
    let done = demo.paste("rcmpd check-config -c rcmpd.toml").code(1);
    assert!(done.stderr.contains("there is no user sso-web on this system"), "{done:?}");
    demo.paste("LD_PRELOAD=./names.so rcmpd check-config -c rcmpd.toml").code(0);
    demo.edit(|text| text.replace("sso-group", "other-group"));
    let done = demo.paste("LD_PRELOAD=./names.so rcmpd check-config -c rcmpd.toml").code(1);
    assert!(done.stderr.contains("there is no group other-group on this system"), "{done:?}");
}

/// The error names the file and says what is wrong with it, whichever part reads it.
#[test]
fn a_file_that_is_not_there_is_named() {
    let demo = demo();
    for (name, expected) in [
        ("audit.key", "audit.key` makes it"),
        ("proof.key", "proof.key cannot be read: No such file"),
        ("accounts.key", "accounts.key cannot be read: No such file"),
        ("certs/ca.pem", "certs/ca.pem cannot be read: No such file"),
    ] {
        let (path, away) = (demo.path(name), demo.path("away"));
        fs::rename(&path, &away).unwrap();
        let done = demo.rcmpd(&["serve", "-c", "rcmpd.toml"]).code(1);
        assert!(done.stderr.contains(expected), "{done:?}");
        fs::rename(&away, &path).unwrap();
    }
}

#[test]
fn commands_take_no_secret_that_every_user_can_read() {
    let service = Demo::new().serve();
    let secret = service.path("machines/WEB01.secret");
    chmod(&secret, 0o644);
    let done = service.map("alice").code(6);
    assert!(done.stderr.contains("mode 644") && done.stderr.contains("chmod"), "{done:?}");
    let set = ["machine", "set", "WEB01$", "--secret-file", "machines/WEB01.secret", "-c", "client.toml"];
    service.rcmpd(&set).code(6);
    chmod(&secret, 0o600);
    service.map("alice").code(0);
    chmod(&service.path("accounts.db"), 0o666);
    let done = service.rcmpd(&["account", "list", "-c", "client.toml"]).code(1);
    assert!(done.stderr.contains("accounts.db can be changed by every user (mode 666)"), "{done:?}");
    chmod(&service.path("accounts.db"), 0o600);
    chmod(&service.path("client.toml"), 0o666);
    service.rcmpd(&["account", "list", "-c", "client.toml"]).code(1);
}

#[test]
fn quickstart_under_a_umask_of_0_makes_nothing_that_others_can_change() {
    let folder = tempfile::tempdir().unwrap();
    let made = Command::new("sh")
        .args(["-c", "umask 0 && \"$0\" quickstart a/b/demo && \"$0\" domain add FABRIKAM --sid S-1-5-21-1-2-3 --name f.example \
               --direction both --server 127.0.0.1:1 -c a/b/demo/rcmpd.toml"])
        .arg(binary())
        .current_dir(folder.path())
        .output()
        .unwrap();
    assert!(made.status.success(), "{made:?}");
    let mut folders = vec![folder.path().join("a")];
    let mut seen = 0;
    while let Some(path) = folders.pop() {
        let metadata = path.metadata().unwrap();
        assert_eq!(metadata.mode() & 0o022, 0, "{} {:o}", path.display(), metadata.mode());
        let name = path.file_name().unwrap().to_string_lossy();
        if name.ends_with(".key") || name.ends_with(".secret") || name == "machines" || name == "accounts.db"
        {
            assert_eq!(metadata.mode() & 0o077, 0, "{} {:o}", path.display(), metadata.mode());
        }
        if metadata.is_dir() {
            folders.extend(fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()));
        }
        seen += 1;
    }
    assert!(seen > 20, "{seen}");
}

#[test]
fn memory_is_written_to_no_core_file_and_shown_to_no_other_process() {
    // It may have to run as another user than root, who must be able to execute it.
    let folder = tempfile::tempdir().unwrap();
    chmod(folder.path(), 0o777);
    let program = folder.path().join("rcmpd");
    fs::copy(binary(), &program).unwrap();
    let mut command = match rustix::process::geteuid().is_root() {
        true => {
            let mut command = Command::new("setpriv");
            command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--"]);
            command.arg("sh");
            command
        }
        false => Command::new("sh"),
    };
    let mut child = command
        .args(["-c", "ulimit -c unlimited; exec ./rcmpd page --listen 127.0.0.1:0"])
        .current_dir(folder.path())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(fs::File::create(folder.path().join("log")).unwrap())
        .spawn()
        .unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    while !fs::read_to_string(folder.path().join("log")).unwrap().contains("127.0.0.1:") {
        assert!(Instant::now() < deadline && child.try_wait().unwrap().is_none(), "it listens");
        std::thread::sleep(Duration::from_millis(10));
    }
    let process = Path::new("/proc").join(child.id().to_string());
    // proc(5): files of a process that is not dumpable belong to root.
    assert_eq!(process.join("environ").metadata().unwrap().uid(), 0);
    let limits = fs::read_to_string(process.join("limits")).unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert_eq!(core.split_whitespace().skip(4).take(2).collect::<Vec<_>>(), ["0", "0"], "{core}");
    rustix::process::kill_process(rustix::process::Pid::from_child(&child), Signal::ABORT).unwrap();
    let status = child.wait().unwrap();
    assert_eq!((status.signal(), status.core_dumped()), (Some(6), false));
    let left = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name());
    assert!(left.into_iter().all(|name| !name.to_string_lossy().contains("core")));
}

#[test]
fn a_configuration_that_was_cut_off_says_so_at_a_reload() {
    let demo = Demo::new();
    demo.configure(
        "[mapping.shadow]\nbinding = \"compat\"\n[[mapping.authority]]\ncertificate = \"certs/ca.pem\"\ngrant = [\"upn\", \"sid\"]\n",
    );
    let mut service = demo.serve();
    service.map("alice").code(0);
    // The strictest rule: bob's certificate is bound by its serial number, which this CA may not vouch by.
    service.map("bob").code(3);
    service.edit(|text| text[..text.find("[[mapping.authority]]").unwrap()].to_owned());
    service.signal(Signal::HUP);
    service.wait_for_lines(&["[[mapping.authority]] (1 before, 0 now)"], 1);
    service.wait_for_lines(&["Not reloaded"], 1);
    service.map("bob").code(3);
    service.map("alice").code(0);
    // A second signal says that it is meant, unless the file is another one again.
    service.edit(|text| text.replace("[mapping.shadow]\nbinding = \"compat\"\n", ""));
    service.signal(Signal::HUP);
    service.wait_for_lines(&["Not reloaded"], 2);
    service.wait_for_lines(&["[mapping.shadow]"], 1);
    service.map("bob").code(3);
    service.signal(Signal::HUP);
    service.wait_for_lines(&[" Reloaded "], 1);
    service.map("bob").code(0);
    // Each of the three signals was logged in the words that the documentation names.
    let lacks = "Configuration lacks settings that it had at the last load";
    assert_eq!(service.log().matches(lacks).count(), 3, "{}", service.log());
    // It is compared with the last load, not with the first.
    service.signal(Signal::HUP);
    service.wait_for_lines(&[" Reloaded "], 2);
    assert_eq!(service.log().matches(lacks).count(), 3, "{}", service.log());
    // What adds rights by being there is only named.
    service.edit(|text| {
        let peer = "[[peer]]\ndomain = \"FABRIKAM\"\nsid = \"S-1-5-21-1-2-3\"\nnames = [\"f.example\"]\ndirection = \"inbound\"\n";
        format!("{text}\n{peer}")
    });
    service.signal(Signal::HUP);
    service.wait_for_lines(&[" Reloaded "], 3);
    service.edit(|text| text[..text.find("[[peer]]").unwrap()].to_owned());
    service.signal(Signal::HUP);
    service.wait_for_lines(&[" Reloaded "], 4);
    service.wait_for_lines(&["[[peer]] (1 before, 0 now)"], 1);
}

/// Where a second signal cannot help, the first one says so: an audit log that is a chain, or whose heads are
/// signed, changes with a restart only.
#[test]
fn a_reload_that_needs_a_restart_says_so_at_once() {
    let demo = demo();
    let whole = fs::read_to_string(demo.path("rcmpd.toml")).unwrap();
    let audit = whole.find("[audit]").unwrap();
    let heads = whole.find("[audit.heads]").unwrap();
    let sidecar = whole.find("[sidecar]").unwrap();
    let mut service = demo.serve();
    let mut refused = 0;
    for (from, section) in [(heads, "[audit.heads] changed"), (audit, "audit.chain changed")] {
        service.edit(|_| format!("{}{}", &whole[..from], &whole[sidecar..]));
        for _ in 0..2 {
            service.signal(Signal::HUP);
            refused += 1;
            service.wait_for_lines(&["Not reloaded"], refused);
        }
        assert_eq!(service.log().matches(section).count(), 2, "{section}: {}", service.log());
    }
    assert!(!service.log().contains("send SIGHUP again"), "{}", service.log());
    service.map("alice").code(0);
}

/// An audit log that has only a path can be removed, by the second signal.
#[test]
fn an_audit_log_without_other_keys_is_removed_by_the_second_signal() {
    let demo = Demo::new();
    demo.configure("[audit]\npath = \"audit.log\"\n");
    let mut service = demo.serve();
    service.edit(|text| text[..text.find("[audit]").unwrap()].to_owned());
    service.signal(Signal::HUP);
    service.wait_for_lines(&["send SIGHUP again"], 1);
    service.signal(Signal::HUP);
    service.wait_for_lines(&[" Reloaded "], 1);
    service.map("alice").code(0);
}

#[test]
fn a_configuration_that_is_cut_at_any_line_lets_in_no_more() {
    let demo = Demo::new();
    let routes = "[[sidecar.route]]\nhost = \"a.example\"\npath = \"/admin\"\ngroups = [\"Wiki Admins\"]\n\
                  [[sidecar.route]]\nhost = \"a.example\"\npath = \"/root\"\ngroups = [\"Wiki Admins\"]\n";
    let service = sidecar(demo, "");
    let authority = "[[mapping.authority]]\ncertificate = \"certs/ca.pem\"\ngrant = [\"upn\", \"sid\"]\n";
    let before = fs::read_to_string(service.path("rcmpd.toml")).unwrap();
    let whole = format!("{before}\n{authority}{routes}");
    let loads = |text: &str| service.log().matches(text).count();
    let load = |text: &str| {
        let (taken, refused) = (loads(" Reloaded "), loads("Not reloaded"));
        service.edit(|_| text.to_owned());
        service.signal(Signal::HUP);
        let deadline = Instant::now() + Duration::from_secs(60);
        while loads(" Reloaded ") + loads("Not reloaded") == taken + refused {
            assert!(Instant::now() < deadline, "no reload in {}", service.log());
            std::thread::sleep(Duration::from_millis(5));
        }
        loads(" Reloaded ") > taken
    };
    assert!(load(&whole));
    let is_kept_out = |cut: &str| {
        for path in ["/admin", "/root"] {
            let target = [("X-Original-Host", "a.example"), ("X-Original-URI", path)];
            assert_eq!(ask_about(&service, "alice", &target).status, 403, "alice at {path} after {cut:?}");
        }
        // Its authority may not vouch by serial number.
        service.map("bob").code(3);
    };
    is_kept_out("nothing");
    let ends =
        whole.match_indices('\n').map(|(at, _)| at + 1).filter(|at| (before.len()..whole.len()).contains(at));
    for at in ends.collect::<Vec<_>>() {
        load(&whole[..at]);
        is_kept_out(&whole[..at]);
        assert!(load(&whole), "the whole file is taken over again");
    }
    let without = whole.replacen("groups = [\"Wiki Admins\"]\n", "", 1);
    assert!(!load(&without));
    assert!(service.log().contains("groups of [[sidecar.route]] number 1"));
    assert!(!load(&format!("{without}# edited\n")), "other bytes are no confirmation");
    assert!(!load(&without));
    assert!(load(&without), "the same bytes are");
}
