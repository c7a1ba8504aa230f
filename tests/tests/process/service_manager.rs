//! The service under a service manager: what it says at its socket, and the unit that is delivered.

use rcmpd_tests::{Demo, eventually};
use rustix::process::Signal;
use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// The socket that systemd listens on, for one service.
struct Manager {
    socket: UnixDatagram,
    _folder: tempfile::TempDir,
    path: PathBuf,
}

impl Manager {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        Self { socket, _folder: folder, path }
    }

    /// The next notification that is none of the watchdog's.
    fn next(&self) -> String {
        loop {
            let text = self.any();
            if text != "WATCHDOG=1\n" {
                return text;
            }
        }
    }

    fn any(&self) -> String {
        let mut octets = [0; 512];
        let len = self.socket.recv(&mut octets).expect("it notifies");
        String::from_utf8(octets[..len].to_vec()).unwrap()
    }
}

#[test]
fn service_tells_when_it_is_ready_reloads_lives_and_stops() {
    let manager = Manager::new();
    let environment = [("NOTIFY_SOCKET", manager.path.to_str().unwrap()), ("WATCHDOG_USEC", "200000")];
    let service = Demo::new().serve_with(&environment);
    assert_eq!(manager.next(), "READY=1\n");
    for _ in 0..3 {
        assert_eq!(manager.any(), "WATCHDOG=1\n");
    }
    for (is_good, says) in [(true, "Reloaded"), (false, "Not reloaded")] {
        if !is_good {
            let path = service.path("rcmpd.toml");
            fs::write(&path, format!("{}\nnonsense = 1\n", fs::read_to_string(&path).unwrap())).unwrap();
        }
        service.signal(Signal::HUP);
        let reloading = manager.next();
        let time = reloading.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").expect("sd_notify(3)").trim_end();
        assert!(time.parse::<u64>().is_ok(), "{reloading}");
        assert_eq!(manager.next(), "READY=1\n", "after a reload that failed as well");
        eventually(says, || service.log().contains(says));
    }
    service.signal(Signal::TERM);
    assert_eq!(manager.next(), "STOPPING=1\n");
}

/// A reload waits for CRLs, and longer for a slow directory.
#[test]
fn watchdog_is_fed_during_a_reload() {
    let manager = Manager::new();
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let environment = [("NOTIFY_SOCKET", manager.path.to_str().unwrap()), ("WATCHDOG_USEC", "200000")];
    let service = Demo::new().serve_with(&environment);
    assert_eq!(manager.next(), "READY=1\n");
    let path = service.path("rcmpd.toml");
    let text = fs::read_to_string(&path).unwrap();
    let crl =
        format!("validation = \"chain+crl\"\ncrls = [\"http://{}/ca.crl\"]", silent.local_addr().unwrap());
    assert!(text.contains("validation = \"chain\""), "{text}");
    fs::write(&path, text.replace("validation = \"chain\"", &crl)).unwrap();
    service.signal(Signal::HUP);
    while !manager.any().starts_with("RELOADING=1") {}
    assert_eq!(manager.any(), "WATCHDOG=1\n", "before it is ready again");
    assert_eq!(manager.next(), "READY=1\n");
}

#[test]
fn no_notification_socket_is_no_error_and_a_missing_one_is_logged() {
    let service = Demo::new().serve_with(&[("NOTIFY_SOCKET", "/nonexistent/notify")]);
    assert_eq!(service.get("/ready").0, 200);
    assert!(service.log().contains("Service manager not notified"), "{}", service.log());
    let service = Demo::new().serve();
    assert!(!service.log().contains("Service manager"), "{}", service.log());
}

/// `systemd-analyze` judges a unit by what it may do: 0 is nothing, 10 is everything.
#[test]
fn unit_may_do_little() {
    let unit = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/systemd/rcmpd.service");
    let output = Command::new("systemd-analyze")
        .args(["security", "--offline=true", "--threshold=15", "--no-pager"])
        .arg(&unit)
        .output()
        .expect("it is in Debian's package systemd");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));

    // The programs of the unit are those of this build, so that the rest of it is judged.
    let folder = tempfile::tempdir().unwrap();
    let text = fs::read_to_string(&unit).unwrap();
    assert_eq!(text.matches("/usr/bin/rcmpd").count(), 2);
    let text = text.replace("/usr/bin/rcmpd", "/bin/true").replace("Documentation=man:rcmpd(1)\n", "");
    let copy = folder.path().join("rcmpd.service");
    fs::write(&copy, text).unwrap();
    let output = Command::new("systemd-analyze").args(["verify", "--man=no"]).arg(&copy).output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
}

#[test]
fn everything_is_installed_where_systemd_and_man_look_for_it() {
    let folder = tempfile::tempdir().unwrap();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let install = |program: &Path| {
        Command::new("make")
            .arg("install")
            .arg(format!("DESTDIR={}", folder.path().display()))
            .arg(format!("PROGRAM={}", program.display()))
            .current_dir(&root)
            .output()
            .unwrap()
    };
    let output = install(Path::new("/nonexistent/rcmpd"));
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("run make release first"), "{output:?}");

    let output = install(&rcmpd_tests::binary());
    assert!(output.status.success(), "{output:?}");
    for (path, has) in [
        ("usr/lib/systemd/system/rcmpd.service", "ExecStart=/usr/bin/rcmpd serve"),
        ("usr/lib/sysusers.d/rcmpd.conf", "u rcmpd"),
        ("etc/logrotate.d/rcmpd", "/var/lib/rcmpd/audit.log"),
        ("usr/share/man/man1/rcmpd-serve.1", ".TH"),
        ("usr/share/bash-completion/completions/rcmpd", "complete -F"),
        ("usr/share/zsh/vendor-completions/_rcmpd", "#compdef rcmpd"),
    ] {
        let text = fs::read_to_string(folder.path().join(path)).expect(path);
        assert!(text.contains(has), "{path}");
    }
    let version = Command::new(folder.path().join("usr/bin/rcmpd")).arg("--version").output().unwrap();
    assert!(version.status.success());

    // The user, by the program that makes it.
    fs::create_dir_all(folder.path().join("etc")).unwrap();
    let root = format!("--root={}", folder.path().display());
    let output = Command::new("systemd-sysusers").arg(root).arg("rcmpd.conf").output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let users = fs::read_to_string(folder.path().join("etc/passwd")).unwrap();
    assert!(users.starts_with("rcmpd:") && users.contains(":/var/lib/rcmpd:"), "{users}");
}
