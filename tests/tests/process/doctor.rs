//! `rcmpd doctor`: each check can fail, and says what to do.

use crate::metrics::with_directory;
use rcmpd_tests::openssl::{Authority, openssl};
use rcmpd_tests::ports::free_port;
use rcmpd_tests::{Demo, Finished, eventually, write_secret};
use rustix::process::Signal;
use serde_json::Value;
use std::fs::{self, Permissions};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime};

const DOCTOR: [&str; 4] = ["doctor", "-c", "rcmpd.toml", "--json"];

/// Nothing but what the demo itself lacks while it is not served.
fn doctor(demo: &Demo, code: i32) -> Value {
    demo.rcmpd(&DOCTOR).code(code).json()
}

/// The findings of a check with a result, each with what to do.
fn found(report: &Value, check: &str, result: &str) -> String {
    let rows = report["checks"].as_array().expect("a list of checks");
    let rows = rows.iter().filter(|row| row["check"] == check && row["result"] == result);
    let text = rows
        .map(|row| format!("{} -> {}\n", row["finding"].as_str().unwrap(), row["to_do"].as_str().unwrap()));
    text.collect()
}

/// Expects one finding of a check that has all of these, and a line that says what to do.
#[track_caller]
fn says(report: &Value, check: &str, result: &str, parts: &[&str]) {
    let found = found(report, check, result);
    let is_it = |line: &str| parts.iter().all(|part| line.contains(part));
    let line = found.lines().find(|line| is_it(line));
    let line = line.unwrap_or_else(|| panic!("no {result} of {check} with {parts:?} in {report:#}"));
    assert_eq!(line.ends_with("-> "), result == "ok", "{line}");
}

/// Gives a demo ports that its configuration names: of Netlogon, the endpoint mapper and the admin port.
fn at_ports(demo: &Demo) -> [SocketAddr; 3] {
    let ports = [free_port(), free_port(), free_port()];
    let [netlogon, mapper, admin] = ports.map(|port| format!("\"{port}\""));
    demo.edit(|text| {
        text.replacen("[\"127.0.0.1:0\"]", &format!("[{netlogon}]"), 1)
            .replacen("endpoint_mapper = \"127.0.0.1:0\"", &format!("endpoint_mapper = {mapper}"), 1)
            .replacen("\nlisten = \"127.0.0.1:0\"", &format!("\nlisten = {admin}"), 1)
            .replace("\"127.0.0.1:11490\"", &netlogon)
    });
    ports
}

#[test]
fn a_running_service_is_found_healthy() {
    let demo = Demo::new();
    let ports = at_ports(&demo);
    let before = doctor(&demo, 0);
    assert_eq!(before["result"], "warning", "{before:#}");
    for address in ports {
        says(&before, "ports", "ok", &[&address.to_string(), "is free"]);
    }
    says(&before, "service", "warning", &["does not answer", &ports[2].to_string(), "start the service"]);
    // Only `rcmpd map` needs it.
    says(&before, "channels", "warning", &["[client]", "unreachable"]);

    let service = demo.serve();
    let report = doctor(&service, 0);
    assert_eq!(report["result"], "ok", "{report:#}");
    for address in ports {
        says(&report, "ports", "ok", &[&address.to_string(), "served by rcmpd", &service.pid().to_string()]);
    }
    says(&report, "channels", "ok", &["[client]", "accepted the channel"]);
    says(&report, "service", "ok", &["ready"]);
    for check in ["configuration", "permissions", "store", "certificates", "clock", "names", "limits"] {
        assert_ne!(found(&report, check, "ok"), "", "{check}: {report:#}");
    }
    // The table is whole in a pipe.
    let text = service.rcmpd(&["doctor", "rcmpd.toml"]).code(0).stdout;
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines[0].starts_with(" CHECK ") && lines[0].ends_with(" FINDING"), "{text}");
    assert_eq!(lines.len(), report["checks"].as_array().unwrap().len() + 1, "{text}");

    // It is not ready without its store, and cannot be asked.
    fs::rename(service.path("accounts.db"), service.path("elsewhere.db")).unwrap();
    eventually("it is not ready", || service.get("/ready").0 == 503);
    let report = doctor(&service, 3);
    says(&report, "service", "error", &["503", "account store", "log"]);
    says(&report, "store", "error", &["accounts.db"]);
    assert!(report["error"].as_str().unwrap().contains("503") && report["exit_code"] == 3, "{report:#}");
}

/// All that check-config finds, by its own words.
#[test]
fn findings_of_check_config_are_those_of_the_doctor() {
    let demo = Demo::with_master_secret();
    demo.edit(|text| text.replace("binding    = \"full\"", "binding = \"compat\""));
    demo.configure(
        "[sidecar]\n[[sidecar.route]]\npath = \"/\"\ngroups = [\"No Such Group\"]\n\
         [[sidecar.listen]]\ndialect = \"nginx\"\nunix = \"web.sock\"\npeers = [\"no-such-user\"]
",
    );
    fs::set_permissions(demo.path("accounts.key"), Permissions::from_mode(0o644)).unwrap();
    fs::remove_file(demo.path("sso/seal.key")).unwrap();
    let checked = demo.rcmpd(&["check-config", "-c", "rcmpd.toml", "--json"]).code(1).json();
    let report = doctor(&demo, 3);
    let all: Vec<&Value> = report["checks"].as_array().unwrap().iter().collect();
    for (list, result) in [("problems", "error"), ("warnings", "warning")] {
        for text in checked[list].as_array().unwrap() {
            let text = if result == "error" { &text["problem"] } else { text };
            assert!(
                all.iter().any(|row| row["finding"] == *text && row["result"] == result),
                "{text}: {report:#}"
            );
        }
    }
    says(&report, "permissions", "error", &["accounts.key", "chmod 600"]);
    says(&report, "users", "error", &["no-such-user"]);
    says(&report, "store", "error", &["accounts.key"]);
    says(&report, "master-secret", "warning", &["sealed", "seal.key"]);
    says(&report, "configuration", "warning", &["binding"]);
}

#[test]
fn a_wrong_configuration_has_the_exit_code_of_every_command() {
    let demo = Demo::new();
    demo.edit(|text| text.replace("127.0.0.1:0", "127.0.0.1"));
    let report = doctor(&demo, 1);
    says(&report, "configuration", "error", &["rcmpd.toml:", "127.0.0.1"]);
    let checked = demo.rcmpd(&["check-config", "-c", "rcmpd.toml", "--json"]).code(1).json();
    let problems = checked["problems"].as_array().unwrap().len();
    assert_eq!(report["checks"].as_array().unwrap().len(), problems, "{report:#}");
    let text = demo.rcmpd(&["doctor", "-c", "rcmpd.toml"]).code(1).stdout;
    assert!(text.contains("error: configuration: ") && text.contains("  to do: "), "{text}");
    let report = demo.rcmpd(&["doctor", "-c", "none.toml", "--json"]).code(2).json();
    says(&report, "configuration", "error", &["none.toml"]);
    // Without -c it is the one in this folder.
    demo.rcmpd(&["doctor"]).code(1);
}

#[test]
fn a_store_of_another_version_is_named() {
    let demo = Demo::new();
    let change = "import sqlite3, sys; sqlite3.connect(sys.argv[1]).execute('PRAGMA user_version = 999')";
    demo.run(Path::new("python3"), &["-c", change, "accounts.db"]).code(0);
    says(&doctor(&demo, 3), "store", "error", &["accounts.db", "999"]);
}

#[test]
fn a_master_secret_that_was_never_backed_up_is_named() {
    let demo = Demo::with_master_secret();
    says(&doctor(&demo, 0), "master-secret", "ok", &["open"]);
    demo.rcmpd(&["sso", "secret", "rotate", "-c", "rcmpd.toml"]).code(0);
    says(&doctor(&demo, 0), "master-secret", "warning", &["lacks the newest generation", "backup"]);
    demo.edit(|text| text.replace("\"sso\"", "\"fresh\""));
    fs::create_dir(demo.path("fresh")).unwrap();
    fs::set_permissions(demo.path("fresh"), Permissions::from_mode(0o700)).unwrap();
    says(&doctor(&demo, 0), "master-secret", "warning", &["no master secret", "generate"]);
    demo.rcmpd(&["sso", "secret", "generate", "-c", "rcmpd.toml"]).code(0);
    says(&doctor(&demo, 0), "master-secret", "warning", &["never backed up"]);
}

#[test]
fn ends_of_certificates_and_lists_are_told() {
    let demo = Demo::new();
    let authority = Authority::of(&demo);
    authority.list(&demo.path("ca.crl"), &[]);
    demo.edit(|text| {
        text.replace("validation = \"chain\"", "validation = \"chain+crl\"\ncrls = [\"ca.crl\"]")
    });
    demo.configure(
        "[sidecar]\n[sidecar.proxy]\nlisten = \"127.0.0.1:0\"\ncertificate = \"certs/brief.pem\"\n\
         key = \"openssl/brief.key\"\nupstream = \"http://127.0.0.1:1\"\n",
    );
    fs::set_permissions(demo.path("openssl"), Permissions::from_mode(0o700)).unwrap();
    let issue = |name: &str, seconds: u64| {
        authority.issue_until(&demo, name, SystemTime::now() + Duration::from_secs(seconds));
        let key = demo.path(&format!("openssl/{name}.key"));
        fs::set_permissions(key, Permissions::from_mode(0o600)).unwrap();
    };
    // Half a day more than the days that are told, so that a slow test sees the same.
    let (hour, day) = (3600, 86_400);
    issue("brief", 90 * day + 12 * hour);
    let report = doctor(&demo, 0);
    says(&report, "certificates", "ok", &["the CA O=Contoso,CN=Contoso Demo CA is valid for 36"]);
    says(&report, "certificates", "ok", &["the CRL", "ca.crl is valid for "]);
    says(&report, "certificates", "ok", &["CN=brief", "sidecar.proxy.certificate", "is valid for 90 days"]);

    // Its last third has not begun.
    issue("soon", 3 * hour + hour / 2);
    demo.edit(|text| text.replace("brief", "soon"));
    says(&doctor(&demo, 0), "certificates", "ok", &["CN=soon", "is valid for 3 hours"]);
    // It is years old, and ends within 30 days.
    let long = ["-startdate", "20200101000000Z"];
    authority.issue_with(&demo, "long", &long, SystemTime::now() + Duration::from_secs(20 * day + 12 * hour));
    fs::set_permissions(demo.path("openssl/long.key"), Permissions::from_mode(0o600)).unwrap();
    demo.edit(|text| text.replace("soon", "long"));
    says(&doctor(&demo, 0), "certificates", "warning", &["CN=long", "expires in 20 days", "issued again"]);
    let past = SystemTime::now() - Duration::from_secs(day);
    authority.issue_with(&demo, "past", &long, past);
    fs::set_permissions(demo.path("openssl/past.key"), Permissions::from_mode(0o600)).unwrap();
    demo.edit(|text| text.replace("long", "past"));
    says(&doctor(&demo, 3), "certificates", "error", &["CN=past", "has expired", "issued again"]);

    // A list that ends in ten minutes was to be replaced before.
    demo.edit(|text| text.replace("past", "brief"));
    let minutes = |minutes: i64| {
        let at = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
        let time = dtyp::FileTime::from_unix(i64::try_from(at).unwrap() + minutes * 60);
        time.to_string().replace(['-', ':', 'T'], "")
    };
    let (from, to) = (minutes(-600), minutes(10));
    authority.list(&demo.path("ca.crl"), &["-crl_lastupdate", &from, "-crl_nextupdate", &to]);
    says(&doctor(&demo, 0), "certificates", "warning", &["ca.crl expires in ", "newer CRL"]);
    let to = minutes(-10);
    authority.list(&demo.path("ca.crl"), &["-crl_lastupdate", &from, "-crl_nextupdate", &to]);
    says(&doctor(&demo, 0), "certificates", "warning", &["ca.crl", "the CRL expired at"]);
    // One that is fetched, and is not there.
    let nowhere = free_port();
    demo.edit(|text| text.replace("\"ca.crl\"", &format!("\"http://{nowhere}/ca.crl\"")));
    says(&doctor(&demo, 3), "certificates", "error", &[&nowhere.to_string(), "path or URL"]);
}

#[test]
fn a_clock_that_was_set_back_is_noticed_by_the_files() {
    let demo = Demo::new();
    demo.configure("[audit]\npath = \"audit.log\"");
    fs::write(demo.path("audit.log"), "").unwrap();
    says(&doctor(&demo, 0), "clock", "ok", &["no file of the service is newer"]);
    let log = fs::File::options().append(true).open(demo.path("audit.log")).unwrap();
    log.set_modified(SystemTime::now() + Duration::from_secs(3600)).unwrap();
    says(&doctor(&demo, 3), "clock", "error", &["before the last change of", "audit.log", "chrony"]);
}

/// The time of a domain controller is that of its rootDSE, written by Impacket here. The network is one of
/// its own, in which port 389 is free.
#[test]
fn a_clock_is_compared_with_that_of_a_domain_controller() {
    let demo = Demo::new();
    let config = demo.path("rcmpd.toml").display().to_string();
    let with_controller = |ahead: i64| {
        let script = "ip link set lo up && \"$1\" \"$2\" \"$3\" & sleep 0; \
                      while ! grep -q 0185 /proc/net/tcp; do kill -0 $! || exit 9; done; \
                      \"$4\" doctor -c \"$5\" --json; code=$?; kill $!; exit $code";
        let mut command = Command::new("unshare");
        command.arg("--net");
        if !rustix::process::geteuid().is_root() {
            command.args(["--user", "--map-root-user"]);
        }
        command.args(["--", "sh", "-c", script, "sh"]).arg(rcmpd_tests::peers::impacket_python());
        command.arg(rcmpd_tests::peers::script("ldap_time.py")).arg(ahead.to_string());
        let done = command.arg(rcmpd_tests::binary()).arg(&config).output().expect("unshare starts");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Finished {
            code: done.status.code().unwrap_or(-1),
            stdout: text(&done.stdout),
            stderr: text(&done.stderr),
        }
    };
    says(&with_controller(0).code(0).json(), "clock", "ok", &["it agrees with that of 127.0.0.1"]);
    let behind = with_controller(120).code(0).json();
    says(&behind, "clock", "warning", &["s behind that of 127.0.0.1", "synchronize the clock"]);
    let ahead = with_controller(-7200).code(3).json();
    says(&ahead, "clock", "error", &["s ahead of that of 127.0.0.1"]);
    says(&doctor(&demo, 0), "clock", "ok", &["not compared"]);
}

#[test]
fn names_that_cannot_be_looked_up_are_errors() {
    let demo = Demo::new();
    demo.edit(|text| text.replace("\"127.0.0.1:11490\"", "\"no-such-host.invalid:11490\""));
    let report = doctor(&demo, 3);
    says(
        &report,
        "names",
        "error",
        &["no-such-host.invalid ([client])", "cannot be looked up", "resolv.conf"],
    );
    demo.edit(|text| text.replace("no-such-host.invalid", "localhost"));
    says(&doctor(&demo, 0), "names", "ok", &["localhost ([client]): ", "127.0.0.1"]);
    // Domain controllers by SRV records, at a resolver that does not answer.
    let resolver = free_port();
    demo.rcmpd(&[
        "domain",
        "add",
        "FABRIKAM",
        "--sid",
        "S-1-5-21-7-8-9",
        "--name",
        "fabrikam.example",
        "--direction",
        "outbound",
        "--server",
        "a:1",
        "-c",
        "rcmpd.toml",
    ])
    .code(0);
    let found = format!("discovery = \"dns\"\ndns = [\"{resolver}\"]");
    demo.edit(|text| text.replace("servers = [\"a:1\"]", &found));
    let report = doctor(&demo, 3);
    says(
        &report,
        "names",
        "error",
        &["the domain controllers of FABRIKAM", "_ldap._tcp.dc._msdcs.fabrikam.example"],
    );
    says(&report, "channels", "error", &["[[peer]] FABRIKAM", "no server was found"]);
}

#[test]
fn ports_that_cannot_be_listened_on_are_errors() {
    let demo = Demo::new();
    let ports = at_ports(&demo);
    let taken = TcpListener::bind(ports[0]).unwrap();
    let report = doctor(&demo, 3);
    let pid = std::process::id().to_string();
    says(
        &report,
        "ports",
        "error",
        &[&ports[0].to_string(), "rpc.listen", "in use by", &pid, "stop that process"],
    );
    drop(taken);
    // Another service of this program has them.
    let other = Demo::new();
    other.edit(|text| text.replacen("\"127.0.0.1:0\"]", &format!("\"{}\"]", ports[0]), 1));
    let other = other.serve();
    let config = other.path("rcmpd.toml").display().to_string();
    let report = doctor(&demo, 3);
    says(&report, "ports", "error", &[&ports[0].to_string(), "in use by rcmpd with", &config]);
    // RFC 5737: no machine has it.
    demo.edit(|text| text.replace(&ports[1].to_string(), &format!("192.0.2.1:{}", ports[1].port())));
    says(
        &doctor(&demo, 3),
        "ports",
        "error",
        &["192.0.2.1", "rpc.endpoint_mapper", "address of this machine"],
    );
    demo.edit(|text| text.replace("192.0.2.1", "127.0.0.1"));
    let user = rustix::process::geteuid().as_raw();
    demo.configure(&format!(
        "[sidecar]\n[[sidecar.listen]]\ndialect = \"nginx\"\nunix = \"run/web.sock\"\npeers = [\"{user}\"]"
    ));
    says(&doctor(&demo, 3), "ports", "error", &["run/web.sock", "folder does not exist", "RuntimeDirectory"]);
    fs::create_dir(demo.path("run")).unwrap();
    drop(other);
    says(&doctor(&demo, 0), "ports", "ok", &["run/web.sock", "is free"]);
    let service = demo.serve();
    let report = doctor(&service, 0);
    says(&report, "ports", "ok", &["run/web.sock", "served by rcmpd", &service.pid().to_string()]);
}

#[test]
fn a_channel_is_set_up_to_each_peer() {
    let there = Demo::new().serve();
    let here = Demo::domain("FABRIKAM", "DC2", "127.0.0.1", &there);
    let secret = there.add_trust("FABRIKAM");
    let servers =
        |list: &str| format!("direction = \"outbound\"\nservers = [{list}]\nsecret = \"file:to.secret\"");
    let (good, down) = (there.netlogon.to_string(), free_port().to_string());
    let text = fs::read_to_string(here.path("rcmpd.toml")).unwrap();
    let with = |list: &str| {
        here.edit(|_| text.clone());
        here.configure(&format!("{}{}", there.as_peer(), servers(list)));
    };
    write_secret(here.path("to.secret"), &secret);
    with(&format!("\"{good}\""));
    says(&doctor(&here, 0), "channels", "ok", &["[[peer]] CONTOSO", &good, "accepted the channel"]);
    // One of two is down.
    with(&format!("\"{down}\", \"{good}\""));
    let report = doctor(&here, 0);
    says(&report, "channels", "warning", &["[[peer]] CONTOSO", &down, "unreachable", "rcmpd serve"]);
    says(&report, "channels", "ok", &["[[peer]] CONTOSO", &good]);
    with(&format!("\"{down}\""));
    says(&doctor(&here, 3), "channels", "error", &["[[peer]] CONTOSO", &down, "unreachable"]);
    write_secret(here.path("to.secret"), "this is not the secret of the account");
    with(&format!("\"{good}\""));
    says(&doctor(&here, 3), "channels", "error", &["[[peer]] CONTOSO", &good, "no secure channel", "secret"]);
    // A sidecar cannot do without the server that it asks.
    let web = Demo::web(&there, "", "");
    says(&doctor(&web, 0), "channels", "ok", &["[client]", &good]);
    web.edit(|text| text.replace(&good, &down));
    says(&doctor(&web, 3), "channels", "error", &["[client]", &down, "unreachable"]);
}

#[test]
fn low_limits_are_told() {
    let demo = Demo::with_master_secret();
    let limited = |limit: &str| {
        let line = format!("ulimit {limit} && rcmpd doctor -c rcmpd.toml --json");
        demo.paste(&line).code(0).json()
    };
    says(&limited("-n 300"), "limits", "warning", &["this shell may open 300 files", "LimitNOFILE="]);
    says(&limited("-l 64"), "limits", "warning", &["may lock 65536 octets", "swap", "LimitMEMLOCK="]);
    says(&limited("-l 8192"), "limits", "ok", &["may lock the memory"]);
    // Those of a running service are meant. It has raised what it had to.
    at_ports(&demo);
    let service = demo.serve();
    let line = "ulimit -n 300 && rcmpd doctor -c rcmpd.toml --json";
    let report = service.paste(line).code(0).json();
    says(&report, "limits", "ok", &[&format!("the service (process {}) may open", service.pid())]);
}

#[test]
fn a_full_disk_of_the_audit_log_is_an_error() {
    let demo = Demo::new();
    fs::create_dir(demo.path("log")).unwrap();
    demo.configure("[audit]\npath = \"log/audit.log\"\nrequired = true");
    let on_disk = |kib: u32| {
        let mut command = Command::new("unshare");
        command.arg("--mount");
        if !rustix::process::geteuid().is_root() {
            command.args(["--user", "--map-root-user"]);
        }
        let script = format!("mount -t tmpfs -o size={kib}k tmpfs log && exec \"$0\" \"$@\"");
        command.args(["--", "sh", "-c", &script]).arg(rcmpd_tests::binary()).args(DOCTOR);
        let done = command.current_dir(demo.path("")).output().expect("unshare starts");
        serde_json::from_slice::<Value>(&done.stdout).expect("JSON")
    };
    says(&on_disk(1024), "disk", "error", &["1 MiB are free for", "audit.log", "larger disk"]);
    says(&on_disk(512 << 10), "disk", "warning", &["512 MiB are free for", "audit.log"]);
    says(&on_disk(2 << 20), "disk", "ok", &["2048 MiB are free for"]);
    fs::remove_dir(demo.path("log")).unwrap();
    says(&doctor(&demo, 3), "disk", "error", &["log", "No such file", "create the folder"]);
}

/// What is looked at stays as it is, and no process notices.
#[test]
fn the_doctor_changes_nothing() {
    let demo = Demo::with_master_secret();
    at_ports(&demo);
    let service = demo.serve();
    let state = || {
        openssl(
            &service.path(""),
            &["dgst", "-sha256", "accounts.db", "rcmpd.toml", "sso/master-secret.sealed"],
        )
    };
    let (before, log) = (state(), service.log());
    doctor(&service, 0);
    assert_eq!(state(), before);
    // The channel of [client] is logged as each one is.
    let new = service.log().replace(&log, "");
    assert!(new.lines().all(|line| line.contains("Secure channel established")), "{new}");
    service.signal(Signal::TERM);
}

#[test]
fn an_answer_without_end_at_the_admin_port_is_not_printed() {
    let demo = Demo::new();
    let [_, _, admin] = at_ports(&demo);
    let listener = TcpListener::bind(admin).unwrap();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = stream.read(&mut [0; 1024]);
            let _ = stream.write_all(b"HTTP/1.1 503 No\r\ncontent-length: 1048576\r\n\r\n");
            let _ = stream.write_all(&[b'x'; 1 << 20]);
        }
    });
    // The port is in use by this test, which is an error of `ports`.
    let report = doctor(&demo, 3);
    says(&report, "service", "warning", &["admin.listen", "limit"]);
    assert!(report.to_string().len() < 65_536);
}

#[test]
fn a_directory_that_does_not_answer_is_an_error() {
    let report = doctor(&with_directory(), 3);
    says(&report, "store", "error", &["the directory of [store.ldap] does not answer"]);
    assert_eq!(found(&report, "store", "ok"), "");
}

#[test]
fn certificate_of_the_gateway_s_listener_is_looked_at() {
    let demo = Demo::with_gateway(
        "127.0.0.1:1".parse().unwrap(),
        "tls = { certificate = \"listener.pem\", key = \"listener.key\" }\n",
    );
    let make = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "40", "-subj", "/CN=localhost"];
    let files =
        ["-addext", "subjectAltName=DNS:localhost", "-keyout", "listener.key", "-out", "listener.pem"];
    openssl(&demo.path("."), &[&make[..], &files].concat());
    fs::set_permissions(demo.path("listener.key"), Permissions::from_mode(0o600)).unwrap();
    let report = demo.rcmpd(&DOCTOR).json();
    says(&report, "certificates", "ok", &["CN=localhost", "tlsnego.tls.certificate", "is valid for"]);
}
