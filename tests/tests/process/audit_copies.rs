//! Copies of audit lines: systemd's own journald and rsyslog receive them, and OCSF's published schema
//! accepts them.

use rcmpd_tests::peers::ocsf;
use rcmpd_tests::{Demo, Service, eventually};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// A program that ends with this value.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = rustix::process::kill_process(rustix::process::Pid::from_child(&self.0), Signal::TERM);
        let _ = self.0.wait();
    }
}

fn ask(service: &Service) {
    service.map("alice").code(0);
    service.map("mallory").code(3);
}

/// The lines of the file without what is in the file alone.
fn lines_of(service: &Service) -> Vec<Value> {
    let text = fs::read_to_string(service.path("audit.log")).unwrap();
    let line = |line: &str| {
        let mut line: Value = serde_json::from_str(line).unwrap();
        for name in ["version", "time", "certificate", "trail"] {
            line.as_object_mut().unwrap().remove(name);
        }
        line
    };
    text.lines().map(line).collect()
}

#[test]
fn rsyslog_receives_each_line() {
    let demo = Demo::new();
    let (socket, log) = (demo.path("syslog.sock"), demo.path("syslog.jsonl"));
    let configuration = format!(
        "module(load=\"imuxsock\" SysSock.Use=\"off\")\n\
         input(type=\"imuxsock\" Socket=\"{}\" UseSpecialParser=\"off\" ParseHostname=\"on\" RateLimit.Interval=\"0\")\n\
         template(name=\"whole\" type=\"string\" string=\"%jsonmesg%\\n\")\n\
         action(type=\"omfile\" file=\"{}\" template=\"whole\")\n",
        socket.display(),
        log.display()
    );
    fs::write(demo.path("rsyslog.conf"), configuration).unwrap();
    let rsyslog = Command::new("/usr/sbin/rsyslogd")
        .arg("-n")
        .arg("-f")
        .arg(demo.path("rsyslog.conf"))
        .arg("-i")
        .arg(demo.path("rsyslog.pid"))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap_or_else(|error| panic!("rsyslogd does not start ({error}): tests/peers/install"));
    let _rsyslog = Running(rsyslog);
    eventually("rsyslogd listens", || socket.exists());
    demo.edit(|text| {
        format!("{text}\n[audit]\npath = \"audit.log\"\n[audit.syslog]\nsocket = \"syslog.sock\"\n")
    });
    demo.rcmpd(&["check-config", "rcmpd.toml"]).code(0);
    let service = demo.serve();
    ask(&service);
    let expected = lines_of(&service);
    let received = || -> Vec<Value> {
        let text = fs::read_to_string(&log).unwrap_or_default();
        let messages = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        messages
            .filter(|message| message["app-name"] == "rcmpd-audit" || message["programname"] == "rcmpd-audit")
            .collect()
    };
    eventually("rsyslog has all lines", || received().len() == expected.len());
    for (message, line) in received().iter().zip(&expected) {
        let text = message["msg"].as_str().unwrap();
        assert_eq!(serde_json::from_str::<Value>(text).unwrap(), *line, "{message}");
        // authpriv, informational
        assert_eq!(message["syslogfacility"], "10", "{message}");
        assert_eq!(message["syslogseverity"], "6", "{message}");
        assert_eq!(message["msgid"], line["event"], "{message}");
        assert_eq!(message["protocol-version"], "1", "{message}");
    }
}

/// A journald of its own, in a mount namespace with an empty `/run`; its sockets are in `folder`.
fn journald(folder: &Path) -> Running {
    let script = "mount --bind \"$0\" /run && mkdir -p /run/systemd/journal /run/log/journal && exec /lib/systemd/systemd-journald";
    let child = Command::new("unshare")
        .args(["--mount", "--propagation", "private", "sh", "-c", script])
        .arg(folder)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let running = Running(child);
    eventually("journald listens", || folder.join("systemd/journal/socket").exists());
    running
}

#[test]
fn journald_receives_each_line_as_ocsf() {
    let demo = Demo::new();
    let folder = demo.path("run");
    fs::create_dir(&folder).unwrap();
    let _journald = journald(&folder);
    demo.edit(|text| {
        format!("{text}\n[audit]\npath = \"audit.log\"\n[audit.journald]\nsocket = \"run/systemd/journal/socket\"\nencoding = \"ocsf\"\n")
    });
    let service = demo.serve();
    ask(&service);
    let expected = lines_of(&service);
    let entries = || -> Vec<Value> {
        let read = Command::new("journalctl")
            .arg("--directory")
            .arg(folder.join("log/journal"))
            .args(["--output", "json", "--no-pager", "SYSLOG_IDENTIFIER=rcmpd-audit"])
            .output()
            .unwrap();
        let text = String::from_utf8(read.stdout).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    eventually("the journal has all lines", || entries().len() == expected.len());
    let entries = entries();
    let events: Vec<Value> = entries
        .iter()
        .map(|entry| serde_json::from_str(entry["MESSAGE"].as_str().unwrap()).unwrap())
        .collect();
    for ((entry, event), line) in entries.iter().zip(&events).zip(&expected) {
        assert_eq!(entry["RCMPD_EVENT"], line["event"]);
        assert_eq!(entry.get("RCMPD_DECISION"), line.get("decision"));
        assert_eq!(entry["SYSLOG_FACILITY"], "10");
        assert_eq!(event["unmapped"], *line);
    }
    let of = |code: &str| {
        events.iter().filter(|event| event["metadata"]["event_code"] == code).collect::<Vec<_>>()
    };
    let decisions = of("map");
    let names: Vec<_> = decisions.iter().map(|event| (&event["status_id"], &event["user"]["name"])).collect();
    assert!(names.contains(&(&json!(1), &json!("alice"))), "{names:?}");
    assert!(names.contains(&(&json!(2), &json!("WEB01$"))), "{names:?}");
    assert!(!of("channel_established").is_empty());
    for (event, wrong) in events.iter().zip(ocsf(&events)) {
        assert!(wrong.is_empty(), "{event}\n{wrong:?}");
    }
    // The schema refuses what is no such event.
    let mut broken = events[0].clone();
    broken["activity_id"] = json!("logon");
    assert!(!ocsf(&[broken])[0].is_empty());
}

/// A receiver that is not there, and one that reads nothing, delay no answer. What is lost is counted.
#[test]
fn a_receiver_that_takes_nothing_harms_no_call() {
    let demo = Demo::new();
    let socket = demo.path("silent.sock");
    demo.edit(|text| {
        format!(
            "{text}\n[audit]\npath = \"audit.log\"\n[audit.syslog]\nsocket = \"silent.sock\"\n[audit.journald]\nsocket = \"missing.sock\"\n"
        )
    });
    let silent = UnixDatagram::bind(&socket).unwrap();
    silent.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let mut service = demo.serve();
    ask(&service);
    service.wait_for_log("Cannot send copies of audit lines");
    assert_eq!(service.log().matches("Cannot send copies of audit lines").count(), 1, "{}", service.log());
    let lines = lines_of(&service).len() as u64;
    assert_eq!(service.metric("rcmpd_audit_copies_lost_total"), lines);
    let mut message = [0; 4096];
    let len = silent.recv(&mut message).unwrap();
    let text = String::from_utf8_lossy(&message[..len]).into_owned();
    assert!(text.starts_with("<86>1 ") && text.contains(" rcmpd-audit "), "{text}");
}
