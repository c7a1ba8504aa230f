//! The process that has a listening socket, by /proc (proc(5)).

use crate::cli::{self, Command};
use std::ffi::OsString;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// TCP_LISTEN, as /proc/net/tcp has it.
const LISTENING: &str = "0A";
/// Sockets that accept connections have this flag in /proc/net/unix.
const ACCEPTS: u32 = 0x0001_0000;

/// Names of systemd, and of systemd-socket-activate as the kernel shortens it.
const MANAGERS: [&str; 2] = ["systemd", "systemd-socket-"];

/// The process that listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Owner {
    /// This program, in another process.
    Service(u32),
    /// A process with this program's name, of the socket's user. The files of a process whose memory is
    /// protected, as that of this program is, are seen by root alone.
    Probably(u32),
    /// systemd, which starts the service at the first connection.
    Manager,
    /// Another program.
    Other {
        /// Its name.
        name: String,
        pid: u32,
    },
    /// It cannot be seen by this user.
    Hidden,
}

/// The process that listens on an address, or on all addresses with its port.
pub(super) fn of_port(address: SocketAddr) -> Owner {
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"].map(|path| fs::read_to_string(path).unwrap_or_default());
    let sockets = tables.iter().flat_map(|table| table.lines().skip(1)).filter_map(listening);
    let takes = |at: SocketAddr| {
        at.port() == address.port()
            && (at.ip() == address.ip() || at.ip().is_unspecified() || address.ip().is_unspecified())
    };
    let mut found = sockets.filter(|(at, ..)| takes(*at));
    found.next().map_or(Owner::Hidden, |(_, user, inode)| of_socket(inode, Some(user)))
}

/// The process that listens on a Unix socket; none if no process does.
pub(super) fn of_path(path: &Path) -> Option<Owner> {
    // Another process may have a socket of this name, by a relative path elsewhere.
    path.symlink_metadata().ok()?;
    let table = fs::read_to_string("/proc/net/unix").unwrap_or_default();
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let inode = table.lines().skip(1).find_map(|line| {
        // Num RefCount Protocol Flags Type St Inode Path
        let mut fields = line.split_ascii_whitespace();
        let flags = u32::from_str_radix(fields.nth(3)?, 16).ok()?;
        let inode = fields.nth(2)?.parse().ok()?;
        let at = std::path::absolute(fields.next()?).ok()?;
        (flags & ACCEPTS != 0 && at.file_name() == path.file_name() && is_same(&at, &path)).then_some(inode)
    })?;
    let user = path.symlink_metadata().ok().map(|metadata| metadata.uid());
    Some(of_socket(inode, user))
}

/// Whether two paths are one file; a socket that was bound by a relative path is known by its name alone.
fn is_same(one: &Path, other: &Path) -> bool {
    let identity = |path: &Path| path.symlink_metadata().ok().map(|it| (it.dev(), it.ino()));
    identity(one).is_none_or(|one| identity(other) == Some(one))
}

/// Address, user and inode of a line of /proc/net/tcp or tcp6, if it listens.
fn listening(line: &str) -> Option<(SocketAddr, u32, u64)> {
    // sl local_address rem_address st tx_queue:rx_queue tr:tm->when retrnsmt uid timeout inode
    let mut fields = line.split_ascii_whitespace();
    let address = fields.nth(1)?;
    let state = fields.nth(1)?;
    let (user, inode) = (fields.nth(3)?.parse().ok()?, fields.nth(1)?.parse().ok()?);
    let (ip, port) = address.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    (state == LISTENING).then_some((SocketAddr::new(ip_of(ip)?, port), user, inode))
}

/// An address in words of 32 bits, each in the byte order of the machine.
fn ip_of(hex: &str) -> Option<IpAddr> {
    let word = |at: usize| u32::from_str_radix(hex.get(at * 8..at * 8 + 8)?, 16).ok().map(u32::to_ne_bytes);
    match hex.len() {
        8 => Some(IpAddr::V4(Ipv4Addr::from(word(0)?))),
        32 => {
            let words = [word(0)?, word(1)?, word(2)?, word(3)?];
            let octets: [u8; 16] = words.concat().try_into().ok()?;
            Some(IpAddr::V6(Ipv6Addr::from(octets)))
        }
        _ => None,
    }
}

fn of_socket(inode: u64, user: Option<u32>) -> Owner {
    let link = format!("socket:[{inode}]");
    let holders: Vec<_> =
        processes().filter(|pid| has_file(*pid, &link)).map(|pid| (pid, name(pid))).collect();
    // systemd keeps the sockets that it has passed.
    if let Some((pid, _)) = holders.iter().find(|(_, name)| is_ours(name)) {
        return Owner::Service(*pid);
    }
    if let Some((pid, name)) = holders.into_iter().next() {
        return if MANAGERS.contains(&name.as_str()) { Owner::Manager } else { Owner::Other { name, pid } };
    }
    let is_of_user = |pid: &u32| user.is_some() && user_of(*pid) == user;
    let mut ours = processes().filter(|pid| *pid != std::process::id() && is_ours(&name(*pid)));
    ours.find(is_of_user).map_or(Owner::Hidden, Owner::Probably)
}

fn processes() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

fn has_file(pid: u32, link: &str) -> bool {
    let files = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    let mut links = files.filter_map(|file| fs::read_link(file.path()).ok());
    links.any(|to| to.to_str() == Some(link))
}

fn name(pid: u32) -> String {
    fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default().trim_end().to_owned()
}

fn is_ours(name: &str) -> bool {
    name == self::name(std::process::id())
}

/// The real user of a process. The owner of its folder is root where its memory is protected.
fn user_of(pid: u32) -> Option<u32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

/// The configuration that a service was started with, if its command line names one, and its folder can be
/// seen.
pub(super) fn configuration(pid: u32) -> Option<PathBuf> {
    let line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let folder = fs::read_link(format!("/proc/{pid}/cwd")).ok()?;
    let arguments = line.split(|octet| *octet == 0).map(|it| OsString::from_vec(it.to_vec()));
    let parsed = cli::parse(arguments.filter(|argument| !argument.is_empty())).ok()?;
    let Command::Serve { config } = parsed.cli.command else { return None };
    // The variable is that of this process.
    let path = config.file.or(config.config)?;
    folder.join(path).canonicalize().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lines of proc_net_tcp(5), written by a kernel on a little-endian machine.
    #[test]
    #[cfg(target_endian = "little")]
    fn listening_sockets_are_read() {
        let line = "   0: 0100007F:2CE2 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 48219 1 0000000000000000 100 0 0 10 0";
        assert_eq!(listening(line), Some(("127.0.0.1:11490".parse().expect("an address"), 1000, 48219)));
        let line = "   1: 00000000000000000000000001000000:0087 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 7 1 0000000000000000 100 0 0 10 0";
        assert_eq!(listening(line), Some(("[::1]:135".parse().expect("an address"), 0, 7)));
        let established = "   2: 0100007F:2CE2 0100007F:E2AC 01 00000000:00000000 00:00000000 00000000  1000        0 48220 1 0000000000000000 20 4 30 10 -1";
        for line in [established, "", "sl local", "0: 01:zz 0 0A 0 0 0 0 0 0"] {
            assert_eq!(listening(line), None, "{line}");
        }
    }

    #[test]
    fn a_listener_of_this_process_is_found() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let address = listener.local_addr().expect("it is bound");
        assert_eq!(of_port(address), Owner::Service(std::process::id()));
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("socket");
        assert_eq!(of_path(&path), None);
        let _bound = std::os::unix::net::UnixListener::bind(&path).expect("the path is free");
        assert_eq!(of_path(&path), Some(Owner::Service(std::process::id())));
        let bound = std::os::unix::net::UnixListener::bind("of_path_test").expect("the path is free");
        assert_eq!(of_path(&folder.path().join("of_path_test")), None, "that one is elsewhere");
        drop(bound);
        fs::remove_file("of_path_test").expect("it was bound");
    }
}
