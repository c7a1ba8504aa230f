//! Whether clients find the master secret interface at the endpoint mapper.

use rcmpd_tests::{Demo, Service, eventually};
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::fs;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::AsFd;

const MAPPER: &str = "127.0.0.1:135";

/// The service's listening socket on port 135, by `/proc`.
fn shut_mapper_down(service: &Service) {
    let process = format!("/proc/{}", service.pid());
    let sockets = fs::read_to_string(format!("{process}/net/tcp")).unwrap();
    // local_address, st (0A: LISTEN) and inode of proc_net_tcp(5).
    let fields = sockets.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let mut listening = fields.filter(|line| line.len() > 9 && line[1] == "0100007F:0087" && line[3] == "0A");
    let socket = format!("socket:[{}]", listening.next().expect("the mapper listens")[9]);
    let files = fs::read_dir(format!("{process}/fd")).unwrap().flatten();
    let mut files = files.filter(|file| fs::read_link(file.path()).is_ok_and(|link| *link == *socket));
    let number = files.next().expect("it is open").file_name().into_string().unwrap().parse().unwrap();
    let pid = Pid::from_raw(service.pid().cast_signed()).unwrap();
    let process = pidfd_open(pid, PidfdFlags::empty()).unwrap();
    let listener = pidfd_getfd(process, number, PidfdGetfdFlags::empty()).expect("run as root");
    // As `ss --kill` does it.
    TcpStream::from(listener).shutdown(Shutdown::Both).unwrap();
}

fn wait_until_ready_is(service: &Service, status: u16) -> String {
    let mut answer = (0, String::new());
    eventually(&format!("/ready answers {status}"), || {
        answer = service.get("/ready");
        answer.0 == status
    });
    answer.1
}

#[test]
fn service_is_not_ready_without_its_endpoint_mapper_and_recovers_by_itself() {
    let service = Demo::with_master_secret().serve_alone();
    let namespace = fs::File::open(format!("/proc/{}/ns/net", service.pid())).unwrap();
    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).expect("run as root");
    wait_until_ready_is(&service, 200);
    // Another program takes the port before the service can have it again.
    service.pause();
    shut_mapper_down(&service);
    let other = TcpListener::bind(MAPPER).unwrap();
    service.resume();
    let why = wait_until_ready_is(&service, 503);
    assert!(why.contains("endpoint mapper does not name the master secret interface"), "{why}");
    assert!(service.log().contains("its address cannot be bound"), "{}", service.log());
    drop(other);
    wait_until_ready_is(&service, 200);
    // Its own clients find it.
    let get = ["sso", "secret", "get", "--server", "127.0.0.1", "--user", "alice"];
    let files = ["--password-file", "users/alice.password", "--output", "alice.key"];
    service.rcmpd(&[&get[..], &files].concat()).code(0);
}
