//! Ports for programs that cannot say which one the kernel gave them.

use std::fs::{self, File};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::sync::Mutex;

/// Below the ports that the kernel gives to listeners and connections that name none.
const FIRST: u16 = 16_000;
const COUNT: u16 = 12_000;

/// The locks on the ports of this process. They end with the process.
static CLAIMS: Mutex<Vec<File>> = Mutex::new(Vec::new());

/// A TCP port of 127.0.0.1 that no other test has until this process ends.
pub fn free_port() -> SocketAddr {
    free_port_of(IpAddr::V4(Ipv4Addr::LOCALHOST))
}

/// The same at another loopback address.
pub fn free_port_of(ip: IpAddr) -> SocketAddr {
    let own = fs::metadata("/proc/self").expect("a process knows its user").uid();
    let folder = std::env::temp_dir().join(format!("rcmpd-test-ports-{own}"));
    fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder).expect("a folder for temporary files");
    // Another user may have made it, or a link to a folder of ours.
    let made = fs::symlink_metadata(&folder).expect("it is there");
    assert!(
        made.is_dir() && made.uid() == own && made.mode() & 0o077 == 0,
        "{} is not a folder of this user alone: delete it",
        folder.display()
    );
    let mut claims = CLAIMS.lock().expect("no test panics with it");
    // Tests that start at one time begin at different ports.
    let first = std::process::id().wrapping_mul(37) as u16 % COUNT;
    for n in 0..COUNT {
        let port = FIRST + (first + n) % COUNT;
        let claim = File::options().create(true).append(true).open(folder.join(port.to_string()));
        let claim = claim.expect("the folder can be written");
        let address = SocketAddr::new(ip, port);
        if claim.try_lock().is_ok() && TcpListener::bind(address).is_ok() {
            claims.push(claim);
            return address;
        }
    }
    panic!("no port from {FIRST} on is free");
}
