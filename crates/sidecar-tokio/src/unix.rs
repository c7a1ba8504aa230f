//! Unix sockets of listeners, and the local users whose processes connect to them.
//!
//! A local user who can connect to a socket can also fill its backlog, and `peers` are looked at only after
//! that. So a socket is for its owner and one group. Mode and group are set between `bind` and `listen`:
//! until then the kernel refuses every connection.

use crate::settings::{Listen, Place, SocketGroup, UnixPlace};
use anyhow::{Context, bail};
use dcerpc_tokio::BACKLOG;
use rustix::process::geteuid;
use std::collections::BTreeSet;
use std::os::unix::fs::{FileTypeExt, PermissionsExt, lchown};
use std::path::Path;
use tokio::net::{UnixListener, UnixSocket};
use tracing::warn;

const ROOT: u32 = 0;
/// The longest path of a socket: `sun_path` has 108 bytes, of which one ends it (unix(7)).
const SOCKET_PATH_MAX: usize = 107;

/// A local user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct User {
    pub(super) number: u32,
    /// The primary group, if the system knows the user.
    group: Option<u32>,
}

/// Looks users and groups up.
trait NameService {
    /// A user by name.
    fn user(&self, name: &str) -> Option<User>;

    /// The primary group of the user with this number.
    fn primary_group(&self, number: u32) -> Option<u32>;

    /// The number of a group.
    fn group(&self, name: &str) -> Option<u32>;
}

/// The Name Service Switch of the system (nsswitch.conf(5)), so users of SSSD, LDAP or systemd are known as
/// those of `/etc/passwd` are. A name that no service could look up counts as unknown: with either, the
/// listener is not bound.
struct Nss;

impl NameService for Nss {
    fn user(&self, name: &str) -> Option<User> {
        let found = uzers::get_user_by_name(name)?;
        Some(User { number: found.uid(), group: Some(found.primary_group_id()) })
    }

    fn primary_group(&self, number: u32) -> Option<u32> {
        uzers::get_user_by_uid(number).map(|found| found.primary_group_id())
    }

    fn group(&self, name: &str) -> Option<u32> {
        uzers::get_group_by_name(name).map(|group| group.gid())
    }
}

/// The users of `peers`, by name or number.
pub(super) fn users(names: &[String]) -> anyhow::Result<Vec<User>> {
    names.iter().map(|name| user(&Nss, name)).collect()
}

/// A number is never looked up as a name: a directory could have a user of that name with another number.
fn user(system: &dyn NameService, name: &str) -> anyhow::Result<User> {
    if let Ok(number) = name.parse() {
        return Ok(User { number, group: system.primary_group(number) });
    }
    system.user(name).with_context(|| {
        format!("there is no user {name} on this system (peers of [[sidecar.listen]]): write the number that `id -u {name}` prints")
    })
}

fn group(system: &dyn NameService, name: &str) -> anyhow::Result<u32> {
    if let Ok(number) = name.parse() {
        return Ok(number);
    }
    system.group(name).with_context(|| {
        format!("there is no group {name} on this system (group of [[sidecar.listen]]): write the number that `getent group {name}` prints")
    })
}

/// The group that a socket gets; none where the kernel chooses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Group {
    number: Option<u32>,
    /// False if it had to be the group of `peers`, and that of one of them is not known. Nothing is said of a
    /// configured group's members.
    is_known: bool,
}

/// The group by which `peers` connect: their primary group. The socket's owner and root need none.
fn group_of(peers: &[User], own: u32, path: &Path) -> anyhow::Result<Group> {
    let others = peers.iter().filter(|user| ![own, ROOT].contains(&user.number));
    let groups: BTreeSet<Option<u32>> = others.map(|user| user.group).collect();
    let mut known = groups.iter().flatten();
    match (known.next(), known.next()) {
        (Some(_), Some(_)) => bail!(
            "the peers of {} ([[sidecar.listen]]) have different primary groups: make them members of one, and set group = \"…\"",
            path.display()
        ),
        (group, None) => {
            let is_known = !groups.contains(&None) && !peers.is_empty();
            Ok(Group { number: group.copied(), is_known })
        }
        (None, Some(_)) => Ok(Group { number: None, is_known: true }),
    }
}

/// The group that a socket gets.
fn group_for(place: &UnixPlace, peers: &[User]) -> anyhow::Result<Group> {
    let given = |number| Group { number, is_known: true };
    match &place.group {
        SocketGroup::Named(name) => group(&Nss, name).map(|number| given(Some(number))),
        SocketGroup::OfPeers => group_of(peers, geteuid().as_raw(), &place.path),
        SocketGroup::Unchanged => Ok(given(None)),
    }
}

/// What happens if the group of a socket is not known, and what helps.
const UNKNOWN_GROUP: &str =
    "The web server may have no permission to connect to its socket: the group of its user is not known";
const UNKNOWN_GROUP_ADVICE: &str = "set group of [[sidecar.listen]] to a group of the web server's user";

/// Looks at the path, `peers` and `group` of a listener without binding it. Returns a warning where the group
/// depends on the user that the service runs as, or is not known.
pub fn check(listen: &Listen) -> anyhow::Result<Option<String>> {
    let users = users(&listen.peers)?;
    let Place::Unix(place) = &listen.at else { return Ok(None) };
    check_path(&place.path, KEY)?;
    match group_for(place, &users) {
        // The service may run as one of the peers, which then needs no group.
        Err(error) if geteuid().is_root() && matches!(place.group, SocketGroup::OfPeers) => {
            Ok(Some(format!("{error:#}, unless the service runs as one of them")))
        }
        checked => Ok(checked.map(|group| !group.is_known)?.then(|| {
            format!("{UNKNOWN_GROUP}: path={:?} advice={UNKNOWN_GROUP_ADVICE:?}", place.path.display())
        })),
    }
}

/// The table of the configuration that names listeners.
const KEY: &str = "[[sidecar.listen]]";

/// Refuses a path that no socket can have, or that a file has which is no socket. `key` names it in the
/// configuration.
pub fn check_path(path: &Path, key: &str) -> anyhow::Result<()> {
    let failed = || format!("cannot listen on {} ({key})", path.display());
    let len = path.as_os_str().len();
    if len > SOCKET_PATH_MAX {
        bail!(
            "{}: the path has {len} bytes, and that of a socket at most {SOCKET_PATH_MAX}: choose a shorter one",
            failed()
        );
    }
    if path.symlink_metadata().is_ok_and(|there| !there.file_type().is_socket()) {
        bail!("{}: there is a file that is no socket; remove it, or choose another path", failed());
    }
    Ok(())
}

/// Binds a socket, in place of one that no process listens on any more.
pub(super) fn bind(place: &UnixPlace, peers: &[User]) -> anyhow::Result<UnixListener> {
    let path = place.path.as_path();
    check_path(path, KEY)?;
    let group = group_for(place, peers)?;
    if !group.is_known {
        warn!(path = %path.display(), advice = UNKNOWN_GROUP_ADVICE, "{UNKNOWN_GROUP}");
    }
    listen_at(path, group.number, place.mode, KEY)
}

/// Binds a socket, in place of one that no process listens on any more, and gives it to a group. Until it is
/// listened on, the kernel refuses every connection. `key` names it in the configuration.
pub fn listen_at(path: &Path, group: Option<u32>, mode: u32, key: &str) -> anyhow::Result<UnixListener> {
    let failed = || format!("cannot listen on {} ({key})", path.display());
    check_path(path, key)?;
    if path.symlink_metadata().is_ok_and(|there| there.file_type().is_socket()) {
        if std::os::unix::net::UnixStream::connect(path).is_ok() {
            bail!("{}: another process listens on this socket; stop it, or choose another path", failed());
        }
        std::fs::remove_file(path).with_context(failed)?;
    }
    if path.parent().is_some_and(|folder| !folder.as_os_str().is_empty() && !folder.is_dir()) {
        bail!("{}: its folder is not there; make it (with systemd: RuntimeDirectory=)", failed());
    }
    let socket = UnixSocket::new_stream().and_then(|socket| socket.bind(path).map(|()| socket));
    let socket = socket.with_context(failed)?;
    let listener =
        set_access(path, group, mode, key).and_then(|()| socket.listen(BACKLOG).with_context(failed));
    if listener.is_err() {
        // Not listened on, so it is of no use.
        let _ = std::fs::remove_file(path);
    }
    listener
}

/// Sets who can connect to a socket that is not listened on yet.
fn set_access(path: &Path, group: Option<u32>, mode: u32, key: &str) -> anyhow::Result<()> {
    let socket = path.display();
    if let Some(group) = group {
        lchown(path, None, Some(group)).with_context(|| {
            format!(
                "cannot give {socket} to group {group} ({key}): run the service as a member of that group \
                 (with systemd: SupplementaryGroups={group}), or choose with group and mode who can connect"
            )
        })?;
    }
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))
        .with_context(|| format!("cannot set the mode of {socket} ({key})"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Users with number and primary group, and a group.
    struct Table;

    impl NameService for Table {
        fn user(&self, name: &str) -> Option<User> {
            // The last one is of a directory that allows such names.
            let users = [("root", 0, 0), ("web", 33, 34), ("proxy", 40, 41), ("33", 10077, 10077)];
            let found = users.into_iter().find(|(known, ..)| *known == name);
            found.map(|(_, number, group)| User { number, group: Some(group) })
        }

        fn primary_group(&self, number: u32) -> Option<u32> {
            [(0, 0), (33, 34), (40, 41), (10077, 10077)]
                .iter()
                .find(|(user, _)| *user == number)
                .map(|(_, group)| *group)
        }

        fn group(&self, name: &str) -> Option<u32> {
            (name == "web").then_some(34)
        }
    }

    fn known(names: &[&str]) -> Vec<User> {
        names.iter().map(|name| user(&Table, name).expect("it is there")).collect()
    }

    #[test]
    fn users_and_groups_are_found_by_name_and_number() {
        assert_eq!(known(&["web", "33"]), [User { number: 33, group: Some(34) }; 2]);
        assert_eq!(known(&["4242"]), [User { number: 4242, group: None }]);
        let unknown = format!("{:#}", user(&Table, "not-here").expect_err("it is not there"));
        assert!(unknown.ends_with("write the number that `id -u not-here` prints"), "{unknown}");
        assert_eq!((group(&Table, "web").ok(), group(&Table, "99").ok()), (Some(34), Some(99)));
        assert!(group(&Table, "alice").is_err());
    }

    #[test]
    fn the_system_is_asked_for_users_and_groups() {
        // What getent(1) prints, which asks NSS, too.
        let getent = |database: &str, key: &str| {
            let got = std::process::Command::new("getent").args([database, key]).output().expect("getent");
            let line = String::from_utf8(got.stdout).expect("text");
            let numbers = line.split(':').filter_map(|field| field.trim().parse::<u32>().ok());
            numbers.take(2).collect::<Vec<_>>()
        };
        for (name, key) in [("daemon", "daemon"), ("1", "daemon")] {
            let found = user(&Nss, name).expect("it is there");
            assert_eq!(vec![found.number, found.group.expect("it has one")], getent("passwd", key), "{name}");
        }
        assert_eq!(vec![group(&Nss, "daemon").expect("it is there")], getent("group", "daemon"));
        assert!(user(&Nss, "no-such-user").is_err() && group(&Nss, "no-such-group").is_err());
    }

    #[test]
    fn a_socket_has_a_short_path_and_takes_the_place_of_no_file() {
        let folder = tempfile::tempdir().expect("a folder");
        let of_len = |len: usize| {
            let rest = len - folder.path().as_os_str().len() - 1;
            folder.path().join("s".repeat(rest))
        };
        for len in [107, 108] {
            let path = of_len(len);
            // The kernel's own word for it.
            let bound = std::os::unix::net::UnixListener::bind(&path).is_ok();
            assert_eq!((bound, check_path(&path, KEY).is_ok()), (len == 107, len == 107), "{len}");
        }
        std::fs::write(folder.path().join("file"), "").expect("written");
        assert!(
            check_path(&folder.path().join("file"), KEY).is_err() && check_path(folder.path(), KEY).is_err()
        );
        assert!(check_path(&folder.path().join("free"), KEY).is_ok());
    }

    #[test]
    fn the_group_of_a_socket_is_that_of_its_peers() {
        let group = |names: &[&str]| {
            group_of(&known(names), 7, Path::new("a.sock")).ok().map(|group| (group.number, group.is_known))
        };
        assert_eq!(group(&["web"]), Some((Some(34), true)));
        assert_eq!(group(&["web", "root", "7"]), Some((Some(34), true)), "the owner and root need no group");
        assert_eq!(group(&["7"]), Some((None, true)));
        assert_eq!(group(&["4242"]), Some((None, false)), "it is not known");
        assert_eq!(group(&["web", "proxy"]), None, "a socket has one group");
    }
}
