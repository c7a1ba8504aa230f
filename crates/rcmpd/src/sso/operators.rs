//! The socket by which operators change the master secret: the kernel names the local user, whose right is
//! evaluated at each operation.
//!
//! A connection carries one operation: a line of JSON, answered by a line of JSON ([`Operation`], [`Done`] or
//! [`NotDone`]). If the answer has a backup, the client keeps it, sends the line `KEPT`, and gets a second
//! answer: only then the backup is noted.

use super::Sso;
use super::operations::{Done, Keep, Octets, Operation};
use super::socket_folder;
use crate::checked::Area;
use crate::config::{self, OVERFLOW_UID, Operator, SHARED};
use anyhow::{Context, bail};
use dcerpc_tokio::{ConnectionLimiter, ConnectionLimits, ConnectionPermit};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::geteuid;
use serde::{Deserialize, Serialize};
use sidecar_tokio::unix;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};
use zeroize::Zeroizing;

/// A backup is at most 64 KiB, which are 86 KiB in Base64.
const REQUEST_LEN_MAX: usize = 128 << 10;
/// The same with the public facts of all generations.
const ANSWER_LEN_MAX: u64 = 256 << 10;
/// For the request to arrive, and for the answer to be read.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// For the client to read a backup and to write it to its disk. The next operation waits for it.
const KEPT_TIMEOUT: Duration = Duration::from_secs(10);
/// What the client sends once it has kept a backup.
const KEPT: &[u8] = b"{\"kept\":true}";
/// How long a client waits: operations before it may each take the second that a passphrase costs.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// Operations at once: each may take the memory that a passphrase costs, and the file has one writer.
const OPERATIONS_MAX: usize = 1;
/// Connections at once: operators are few. Of more, the oldest one of the user with the most is closed.
const CONNECTIONS_MAX: usize = 32;
const LIMITS: ConnectionLimits = ConnectionLimits {
    unproved_max: CONNECTIONS_MAX,
    started_max: CONNECTIONS_MAX,
    unproved_per_address_max: CONNECTIONS_MAX / 4,
    proved_max: CONNECTIONS_MAX,
    proved_per_identity_max: CONNECTIONS_MAX / 4,
};
/// Its owner and the group of operators connect. A user who can connect can also fill the backlog, so no
/// others can.
const SOCKET_MODE: u32 = 0o660;
/// What names the socket in the configuration.
const SOCKET_KEY: &str = "sso.operator_socket";

/// Why an operation was not done.
#[derive(Debug, Deserialize, Serialize)]
pub struct NotDone {
    /// The error.
    pub error: String,
}

/// Whether a user of this machine may change the secret. The only place that decides so. Blocks for the name
/// service.
///
/// Root and the user of the service can change the files themselves.
fn may_operate(operators: &[Operator], uid: u32) -> bool {
    let is_member = |name: &str| {
        let Some(group) = uzers::get_group_by_name(name) else { return false };
        let Some(user) = uzers::get_user_by_uid(uid) else { return false };
        user.primary_group_id() == group.gid()
            || user.groups().is_some_and(|groups| groups.iter().any(|of_user| of_user.gid() == group.gid()))
    };
    let is_named = |operator: &Operator| match operator {
        Operator::Uid(number) => *number == uid,
        Operator::User(name) => uzers::get_user_by_name(name).is_some_and(|user| user.uid() == uid),
        Operator::Group(name) => is_member(name),
    };
    uid != OVERFLOW_UID && (uid == 0 || uid == geteuid().as_raw() || operators.iter().any(is_named))
}

/// Operators and a group that this system has under a name that many services and users share. Blocks for the
/// name service.
pub(super) fn shared_accounts(section: &config::Sso) -> Vec<String> {
    let is_shared = |name: &std::ffi::OsStr| SHARED.iter().any(|shared| name == *shared);
    let operators = section.operators.iter().filter_map(|operator| match operator {
        Operator::Uid(uid) => {
            let user = uzers::get_user_by_uid(*uid).filter(|user| is_shared(user.name()))?;
            let name = user.name().to_string_lossy().into_owned();
            Some(format!("sso.operators names uid:{uid}, which is {name}: many services and users share it"))
        }
        Operator::User(_) | Operator::Group(_) => None,
    });
    let group = section.operator_socket.as_ref().and_then(|socket| group(&socket.group).ok());
    let is_shared_group = |gid: &u32| {
        *gid == OVERFLOW_UID || uzers::get_group_by_gid(*gid).is_some_and(|group| is_shared(group.name()))
    };
    let group = group.filter(is_shared_group).map(|gid| {
        format!("sso.operator_group is the group {gid}: many services and users share it, and could connect")
    });
    operators.chain(group).collect()
}

/// What keeps the socket from being bound, or lets other users take its place. Blocks for the name service.
pub(super) fn problems(section: &config::Sso) -> Vec<(Area, String)> {
    let in_area = |area| move |text| (area, text);
    let mut problems: Vec<_> = shared_accounts(section).into_iter().map(in_area(Area::Users)).collect();
    if let Some(socket) = &section.operator_socket {
        let group = group(&socket.group).err().map(|error| format!("{error:#}"));
        problems.extend(group.map(in_area(Area::Users)));
        // The command may run as another user than the service.
        let owner = section.folder.metadata().map_or(0, |folder| folder.uid());
        let trusted = [0, geteuid().as_raw(), owner];
        let checked = socket_folder::check(&socket.path, &trusted, &trusted);
        let folder = checked.err().map(|why| format!("cannot use {SOCKET_KEY}: {why}"));
        let path = unix::check_path(&socket.path, SOCKET_KEY).err().map(|error| format!("{error:#}"));
        problems.extend([folder, path].into_iter().flatten().map(in_area(Area::Permissions)));
    }
    problems
}

/// The name of a user, for the audit log.
fn name_of(uid: u32) -> Option<String> {
    uzers::get_user_by_uid(uid).map(|user| user.name().to_string_lossy().into_owned())
}

/// The socket, bound.
pub struct BoundOperators {
    listener: UnixListener,
    path: PathBuf,
    /// Which file it is, so that another one under its name is not removed.
    inode: u64,
}

impl BoundOperators {
    /// Binds the socket, in place of one that no process listens on any more.
    pub fn bind(socket: &config::OperatorSocket) -> anyhow::Result<Self> {
        let path = socket.path.as_path();
        let trusted = [0, geteuid().as_raw()];
        socket_folder::check(path, &trusted, &trusted)
            .map_err(|why| anyhow::anyhow!("cannot use {SOCKET_KEY}: {why}"))?;
        let listener = unix::listen_at(path, Some(group(&socket.group)?), SOCKET_MODE, SOCKET_KEY)?;
        let inode = path.symlink_metadata().map_or(0, |metadata| metadata.ino());
        Ok(Self { listener, path: path.to_owned(), inode })
    }

    /// Serves until the shutdown, and removes the socket then.
    pub async fn serve(
        self,
        service: Sso,
        section: config::Sso,
        shutdown: CancellationToken,
        tasks: TaskTracker,
    ) {
        info!(path = %self.path.display(), "Serving operators of the master secret");
        let limiter = ConnectionLimiter::new(LIMITS);
        let shared =
            Arc::new(Shared { service, section, operations: Arc::new(Semaphore::new(OPERATIONS_MAX)) });
        loop {
            let accepted = tokio::select! {
                () = shutdown.cancelled() => break,
                accepted = self.listener.accept() => accepted,
            };
            let stream = match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tokio::time::sleep(limiter.not_accepted(&error)).await;
                    continue;
                }
            };
            let Ok(uid) = stream.peer_cred().map(|credentials| credentials.uid()) else { continue };
            // Users count where others count for their address: both have 32 bits.
            let permit = limiter.admit(IpAddr::from(Ipv4Addr::from_bits(uid)));
            tasks.spawn(Arc::clone(&shared).connection(stream, uid, permit));
        }
        if self.path.symlink_metadata().is_ok_and(|metadata| metadata.ino() == self.inode) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// A number is never looked up as a name.
fn group(name: &str) -> anyhow::Result<u32> {
    if let Ok(number) = name.parse() {
        return Ok(number);
    }
    let found = uzers::get_group_by_name(name).map(|group| group.gid());
    found.with_context(|| format!("there is no group {name} on this system (sso.operator_group): write the number that `getent group {name}` prints"))
}

struct Shared {
    service: Sso,
    section: config::Sso,
    operations: Arc<Semaphore>,
}

impl Shared {
    async fn connection(self: Arc<Self>, stream: UnixStream, uid: u32, permit: ConnectionPermit<u32>) {
        tokio::select! {
            biased;
            () = Arc::clone(&self).answer(stream, uid, &permit) => {}
            // An operation that has begun goes on: it has a thread of its own.
            () = permit.evicted() => {}
        }
    }

    async fn answer(self: Arc<Self>, mut stream: UnixStream, uid: u32, permit: &ConnectionPermit<u32>) {
        let Ok(Ok(Some(request))) = timeout(REQUEST_TIMEOUT, read_line(&mut stream)).await else { return };
        permit.advance();
        let answer = match serde_json::from_slice(&request) {
            Ok(operation) => match self.operate(operation, uid, permit, &mut stream).await {
                Ok(None) => return,
                Ok(Some(done)) => Ok(done),
                Err(error) => Err(error),
            },
            Err(error) => Err(anyhow::anyhow!(
                "the service does not know this operation ({error}): use the command of the service's version"
            )),
        };
        let line = match answer {
            Ok(done) => serde_json::to_vec(&done),
            Err(error) => serde_json::to_vec(&NotDone { error: crate::output::chain(&error) }),
        };
        let Ok(mut line) = line else { return };
        line.push(b'\n');
        let write = async {
            stream.write_all(&line).await?;
            stream.shutdown().await
        };
        let _ = timeout(REQUEST_TIMEOUT, write).await;
    }

    /// `None`: the client has gone, and nothing was done.
    async fn operate(
        self: &Arc<Self>,
        operation: Operation,
        uid: u32,
        permit: &ConnectionPermit<u32>,
        stream: &mut UnixStream,
    ) -> anyhow::Result<Option<Done>> {
        let one = Arc::clone(&self.operations).acquire_owned().await?;
        // An operator who interrupted a command that waited does not expect it to be done later.
        if is_closed(stream) {
            info!(uid, command = operation.name(), "Dropped an operation whose client has gone");
            return Ok(None);
        }
        let rules = self.service.0.policy.load_full();
        // The right is looked up when it is this operation's turn.
        let checked = tokio::task::spawn_blocking(move || (may_operate(&rules.operators, uid), name_of(uid)));
        let (may, user) = checked.await?;
        if !may {
            self.service.operator_refused(uid, user.as_deref(), operation.name());
            bail!("only operators of [sso], the owner of its folder and root may change the master secret");
        }
        permit.prove(uid);
        let shared = Arc::clone(self);
        let (made, backup) = oneshot::channel();
        let (kept, is_kept) = mpsc::channel();
        let work = move |one: OwnedSemaphorePermit| {
            let Shared { service, section, .. } = &*shared;
            let mut made = Some(made);
            let keep: Keep<'_> = &mut |bytes| {
                let sent = made.take().is_some_and(|made| made.send(bytes.to_vec()).is_ok());
                match sent && is_kept.recv_timeout(KEPT_TIMEOUT).is_ok() {
                    true => Ok(()),
                    false => bail!("the client did not keep the backup, so it is not noted"),
                }
            };
            let done = service.operate(&operation, section, (uid, user.as_deref()), keep);
            // The operation goes on if its connection is evicted, and the next one begins after it.
            drop(one);
            done
        };
        let working = tokio::task::spawn_blocking(move || work(one));
        if let Ok(backup) = backup.await
            && timeout(KEPT_TIMEOUT, hand_over(stream, backup)).await.is_ok_and(|kept| kept.unwrap_or(false))
        {
            let _ = kept.send(());
        } else {
            drop(kept);
        }
        working.await?.map(Some)
    }
}

/// Sends a backup; whether the client says that it has kept it.
async fn hand_over(stream: &mut UnixStream, backup: Vec<u8>) -> std::io::Result<bool> {
    let mut line = serde_json::to_vec(&Done { backup: Some(Octets(backup)), ..Done::default() })?;
    line.push(b'\n');
    stream.write_all(&line).await?;
    Ok(read_line(stream).await?.is_some_and(|line| *line == KEPT))
}

/// Whether the peer has closed its end as a whole: it waits for no answer.
fn is_closed(stream: &UnixStream) -> bool {
    let mut polled = [PollFd::new(stream, PollFlags::empty())];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut polled, Some(&now)).is_ok() && polled[0].revents().intersects(PollFlags::HUP | PollFlags::ERR)
}

/// A line, without its end; `None` if it is longer than a request, or does not end.
async fn read_line(stream: &mut UnixStream) -> std::io::Result<Option<Zeroizing<Vec<u8>>>> {
    // Room for all of it, so that no part of a passphrase is left where the buffer was before it grew.
    let mut line = Zeroizing::new(Vec::with_capacity(REQUEST_LEN_MAX));
    loop {
        let from = line.len();
        if from == REQUEST_LEN_MAX
            || stream.take((REQUEST_LEN_MAX - from) as u64).read_buf(&mut *line).await? == 0
        {
            return Ok(None);
        }
        if let Some(end) = line[from..].iter().position(|octet| *octet == b'\n') {
            line.truncate(from + end);
            return Ok(Some(line));
        }
    }
}

/// Which process may listen at the socket.
#[derive(Clone, Copy, Debug)]
pub struct ServiceAt<'a> {
    /// The path of the socket.
    pub socket: &'a Path,
    /// The folder of the secret, if the configuration is known.
    pub data: Option<&'a Path>,
}

impl ServiceAt<'_> {
    /// Whether a process of this user may be the service. The only place that decides so: what is sent may be
    /// a passphrase or a share.
    fn check(self, listener: u32) -> Result<(), String> {
        if listener == 0 || self.data.and_then(|it| it.metadata().ok()).is_some_and(|it| it.uid() == listener)
        {
            return Ok(());
        }
        let trusted = [0, geteuid().as_raw()];
        let folder = crate::config::base(self.socket);
        let is_owner = folder.metadata().is_ok_and(|folder| folder.uid() == listener);
        let checked = match is_owner {
            true => socket_folder::check(self.socket, &[trusted[0], trusted[1], listener], &trusted),
            false => Err(format!("{} does not belong to that user", folder.display())),
        };
        checked.map_err(|why| {
            format!("a process of user {listener} listens there, which may not be the service: {why}")
        })
    }
}

/// Has the running service do it. `keep` keeps a backup that it made. Blocks, within a runtime.
pub fn ask(service: ServiceAt<'_>, operation: &Operation, keep: Keep<'_>) -> anyhow::Result<Done> {
    let path = service.socket;
    let failed = || format!("cannot ask the service at {}", path.display());
    let stream = std::os::unix::net::UnixStream::connect(path)
        .map_err(|error| match error.kind() {
            std::io::ErrorKind::PermissionDenied => {
                anyhow::Error::from(error).context("only members of sso.operator_group can connect")
            }
            std::io::ErrorKind::NotFound | std::io::ErrorKind::ConnectionRefused => {
                anyhow::Error::from(error)
                    .context("the service does not run, or sso.operator_socket is another path")
            }
            _ => error.into(),
        })
        .with_context(failed)?;
    stream
        .set_write_timeout(Some(REQUEST_TIMEOUT))
        .and_then(|()| stream.set_read_timeout(Some(ANSWER_TIMEOUT)))?;
    let listener = listener_of(&stream).with_context(failed)?;
    service.check(listener).map_err(anyhow::Error::msg).with_context(failed)?;
    // Room for all of it, so that no part of a passphrase is left where the buffer was before it grew.
    let mut request = Zeroizing::new(Vec::with_capacity(REQUEST_LEN_MAX));
    serde_json::to_writer(&mut *request, operation)?;
    request.push(b'\n');
    (&stream).write_all(&request).with_context(failed)?;
    let mut answers = BufReader::new(&stream);
    let mut done = answer(&mut answers).with_context(failed)??;
    if let Some(backup) = done.backup.take() {
        keep(&backup.0)?;
        let not_noted = "the backup was written, and the service did not note it";
        (&stream).write_all(&[KEPT, b"\n"].concat()).context(not_noted)?;
        done = answer(&mut answers).and_then(|done| done).context(not_noted)?;
    }
    Ok(done)
}

/// The user of the process that listens.
fn listener_of(stream: &std::os::unix::net::UnixStream) -> std::io::Result<u32> {
    let beside = stream.try_clone()?;
    // Both have this flag together.
    beside.set_nonblocking(true)?;
    let uid = UnixStream::from_std(beside)?.peer_cred()?.uid();
    stream.set_nonblocking(false)?;
    Ok(uid)
}

/// The next answer. The inner error is the one that the service sent.
fn answer(from: &mut impl BufRead) -> anyhow::Result<anyhow::Result<Done>> {
    let mut line = Vec::new();
    from.take(ANSWER_LEN_MAX).read_until(b'\n', &mut line)?;
    if line.last() != Some(&b'\n') {
        bail!("it closed the connection without an answer");
    }
    Ok(match serde_json::from_slice(&line) {
        Ok(NotDone { error }) => Err(anyhow::Error::msg(error)),
        Err(_) => Ok(serde_json::from_slice(&line)?),
    })
}

/// Logs what an operator did.
pub(super) fn log(uid: u32, user: Option<&str>, command: &str, outcome: &anyhow::Result<Done>) {
    match outcome {
        Ok(_) => info!(uid, user, command, "Operation of an operator done"),
        Err(error) => {
            warn!(uid, user, command, error = crate::output::chain(error), "Operation of an operator failed")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operators_are_found_by_number_name_and_group() {
        let id = |arguments: &[&str]| {
            let output = std::process::Command::new("id").args(arguments).output().expect("id(1)");
            String::from_utf8(output.stdout).expect("text").trim().to_owned()
        };
        let daemon: u32 = id(&["-u", "daemon"]).parse().expect("a number");
        let group = id(&["-gn", "daemon"]);
        let other = daemon + 40_000;
        for (operators, uid, may) in [
            (vec![], daemon, false),
            (vec![Operator::Uid(daemon)], daemon, true),
            (vec![Operator::Uid(daemon)], other, false),
            (vec![Operator::User("daemon".to_owned())], daemon, true),
            (vec![Operator::User("no-such-user".to_owned())], other, false),
            (vec![Operator::Group(group.clone())], daemon, true),
            (vec![Operator::Group(group)], other, false),
            (vec![Operator::Group("no-such-group".to_owned())], daemon, false),
            // Where the configuration was not checked, too.
            (vec![Operator::Uid(OVERFLOW_UID)], OVERFLOW_UID, false),
            (vec![], 0, true),
        ] {
            assert_eq!(may_operate(&operators, uid), may, "{operators:?} {uid}");
        }
    }
}
