//! The service under a service manager: what it says at its socket, and the unit that is delivered.

use rcmpd_tests::ports::free_port;
use rcmpd_tests::{Demo, binary, eventually};
use rustix::process::Signal;
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{UnixDatagram, UnixStream};
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
        ("usr/lib/tmpfiles.d/rcmpd.conf", "d /var/lib/rcmpd 0700 rcmpd"),
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

    // And the folders.
    let mut tmpfiles = Command::new("systemd-tmpfiles");
    tmpfiles.arg("--create").arg(format!("--root={}", folder.path().display())).arg("rcmpd.conf");
    let output = tmpfiles.output().unwrap();
    let state = folder.path().join("var/lib/rcmpd");
    match rustix::process::geteuid().is_root() {
        true => {
            assert!(output.status.success(), "{output:?}");
            let user: Vec<&str> = users.split(':').collect();
            let found = state.metadata().unwrap();
            assert_eq!((found.mode() & 0o777, found.uid().to_string().as_str()), (0o700, user[2]));
        }
        // Only root may give folders away.
        false => assert!(state.is_dir(), "{output:?}"),
    }
}

/// A demo whose listeners are at fixed places: Netlogon, endpoint mapper, admin port, and a sidecar's socket.
fn at_fixed_places() -> (Demo, [SocketAddr; 3]) {
    let demo = Demo::new();
    let [netlogon, mapper, admin] = [free_port(), free_port(), free_port()];
    let user = rustix::process::geteuid().as_raw();
    demo.edit(|text| {
        text.replacen("127.0.0.1:0", &netlogon.to_string(), 1)
            .replacen("127.0.0.1:0", &mapper.to_string(), 1)
            .replacen("127.0.0.1:0", &admin.to_string(), 1)
            .replace("\"127.0.0.1:11490\"", &format!("\"{netlogon}\""))
    });
    demo.configure(&format!(
        "[sidecar]\n[[sidecar.listen]]\ndialect = \"nginx\"\nunix = \"nginx.sock\"\npeers = [\"{user}\"]"
    ));
    (demo, [netlogon, mapper, admin])
}

/// systemd's own program opens the sockets and starts the service at the first connection, which is answered.
#[test]
fn sockets_of_the_service_manager_are_served() {
    let (demo, [netlogon, mapper, admin]) = at_fixed_places();
    let unix = demo.path("nginx.sock");
    demo.edit(|text| text.replace("nginx.sock", unix.to_str().unwrap()));
    let early = std::thread::spawn(move || {
        let mut answer = String::new();
        eventually("the first connection is answered", || {
            let Ok(mut stream) = TcpStream::connect(admin) else { return false };
            let _ = stream.write_all(b"GET /live HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
            stream.read_to_string(&mut answer).is_ok() && answer.ends_with("live\n")
        });
    });
    let mut command = Command::new("systemd-socket-activate");
    for place in [netlogon.to_string(), mapper.to_string(), admin.to_string(), unix.display().to_string()] {
        command.args(["-l", &place]);
    }
    command.arg("--fdname=netlogon:endpoint-mapper:admin:sidecar").arg(binary());
    let service = demo.serve_by(command);
    early.join().unwrap();
    assert_eq!((service.netlogon, service.endpoint_mapper, service.admin), (netlogon, mapper, admin));
    assert_eq!(service.map("alice").code(0).json()["account"], "alice");
    let mut stream = UnixStream::connect(&unix).unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    // A request that is not as nginx would make it.
    assert!(answer.starts_with("HTTP/1.1 500 "), "{answer}");
}

/// Ends when this value does.
struct Started(std::process::Child);

impl Drop for Started {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn doctor_knows_sockets_that_systemd_has_opened() {
    let (demo, [netlogon, mapper, admin]) = at_fixed_places();
    let mut command = Command::new("systemd-socket-activate");
    command.args(["-l", &netlogon.to_string(), "--fdname=netlogon"]).arg(binary()).args([
        "serve",
        "-c",
        "rcmpd.toml",
    ]);
    let _started =
        Started(command.current_dir(demo.path("")).stderr(std::process::Stdio::null()).spawn().unwrap());
    let report = || {
        let done = demo.rcmpd(&["doctor", "-c", "rcmpd.toml", "--json"]);
        serde_json::from_str::<serde_json::Value>(&done.stdout).unwrap()
    };
    let finding = |report: &serde_json::Value, at: SocketAddr| {
        let checks = report["checks"].as_array().unwrap().iter().filter(|it| it["check"] == "ports");
        let found = checks
            .map(|it| format!("{}: {}", it["result"].as_str().unwrap(), it["finding"].as_str().unwrap()));
        found.filter(|it| it.contains(&at.to_string())).collect::<String>()
    };
    // What doctor asks after it has looked at the ports starts the service.
    let mut seen = serde_json::Value::Null;
    eventually("the socket is open", || {
        seen = report();
        !finding(&seen, netlogon).contains("is free")
    });
    let found = finding(&seen, netlogon);
    assert!(found.starts_with("ok: ") && found.contains("is opened by systemd"), "{found}");
    for free in [mapper, admin] {
        assert!(finding(&seen, free).contains("is free"), "{}", finding(&seen, free));
    }
}

/// Opens sockets as the arguments say, and becomes the service. `bind:` opens one that does not listen.
const ACTIVATE: &str = r#"
import os, socket, sys
names, pid, *places = sys.argv[1].split(",")
program = sys.argv[2:]
os.environ.update(LISTEN_FDS=str(len(places)), LISTEN_PID=pid or str(os.getpid()), LISTEN_FDNAMES=names)
opened = []
for place in places:
    kind, _, at = place.partition("=")
    if kind == "file":
        made = os.open("/dev/null", os.O_RDONLY)
    else:
        host, _, port = at.rpartition(":")
        made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM if kind == "datagram" else socket.SOCK_STREAM)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((host, int(port)))
        if kind == "stream":
            made.listen()
        made = made.detach()
    opened.append(os.dup2(os.dup(made) if made < 3 + len(places) else made, 50 + len(opened)))
for at, made in enumerate(opened):
    os.dup2(made, 3 + at)
os.execv(program[0], program)
"#;

#[test]
fn sockets_that_are_not_what_the_configuration_says_are_refused() {
    let (demo, [netlogon, mapper, admin]) = at_fixed_places();
    let (other, program) = (free_port(), binary());
    for (names, sockets, says) in [
        ("netlogon", format!("stream={other}"), "rpc.listen does not name that address"),
        ("admin", format!("stream={netlogon}"), "set FileDescriptorName=netlogon in its unit"),
        ("http", format!("stream={other}"), "unknown name \"http\""),
        ("netlogon", format!("datagram={netlogon}"), "must be a stream"),
        (
            "netlogon",
            format!("bound={netlogon}"),
            "must be a stream (ListenStream=) of TCP or with a path, and listen",
        ),
        ("netlogon", "file=".to_owned(), "must be a stream"),
        ("netlogon", format!("stream={netlogon},stream={mapper}"), "LISTEN_FDNAMES names 1 of 2 sockets"),
        (
            "netlogon:netlogon",
            format!("stream={netlogon},stream={other}"),
            "rpc.listen does not name that address",
        ),
        ("sidecar", format!("stream={admin}"), "set FileDescriptorName=admin in its unit"),
    ] {
        let arguments = [
            "-c",
            ACTIVATE,
            &format!("{names},,{sockets}"),
            program.to_str().unwrap(),
            "serve",
            "-c",
            "rcmpd.toml",
        ];
        let done = demo.run(Path::new("/usr/bin/python3"), &arguments).code(1);
        assert!(done.stderr.contains(says), "{names} {sockets}: {done:?}");
    }
    // More than any configuration names.
    let line = format!(
        "LISTEN_PID=$$ LISTEN_FDS=100000 LISTEN_FDNAMES=x exec {} serve -c rcmpd.toml",
        binary().display()
    );
    let done = demo.run(Path::new("/bin/sh"), &["-c", &line]).code(1);
    assert!(done.stderr.contains("the limit is 64"), "{done:?}");
    // Sockets of another process are not taken.
    let service =
        demo.serve_with(&[("LISTEN_PID", "1"), ("LISTEN_FDS", "2"), ("LISTEN_FDNAMES", "netlogon:admin")]);
    assert_eq!(service.get("/ready").0, 200);
}

/// The units of type socket name what the service takes, and systemd accepts them.
#[test]
fn socket_units_have_the_names_of_listeners() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/systemd");
    let units: Vec<_> = ["netlogon", "endpoint-mapper", "sidecar", "admin"]
        .map(|name| (name, format!("rcmpd-{name}.socket")))
        .into();
    let copies = tempfile::tempdir().unwrap();
    let service = "[Service]\nExecStart=/bin/true\n";
    fs::write(copies.path().join("rcmpd.service"), service).unwrap();
    for (name, unit) in units {
        let text = fs::read_to_string(folder.join(&unit)).unwrap();
        for line in [format!("FileDescriptorName={name}"), "Service=rcmpd.service".to_owned()] {
            assert!(text.lines().any(|it| it == line), "{unit}: {line}");
        }
        let copy = copies.path().join(&unit);
        fs::write(&copy, text).unwrap();
        let output =
            Command::new("systemd-analyze").args(["verify", "--man=no"]).arg(&copy).output().unwrap();
        assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    }
}
