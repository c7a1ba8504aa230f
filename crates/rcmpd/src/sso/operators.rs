//! The socket by which operators change the master secret: the kernel names the local user, whose right is evaluated at each operation.
//!
//! A connection carries one operation: a line of JSON, answered by a line of JSON ([`Operation`], [`Done`] or [`NotDone`]). Backups pass
//! over it encrypted; the master secret never does.

use super::Sso;
use super::operations::{Done, Operation};
use crate::config::{self, OVERFLOW_UID, Operator};
use anyhow::{Context, bail};
use dcerpc_tokio::{BACKLOG, ConnectionLimiter, ConnectionLimits, ConnectionPermit};
use rustix::process::geteuid;
use serde::{Deserialize, Serialize};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, lchown};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixSocket, UnixStream};
use tokio::sync::Semaphore;
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
/// Its owner and the group of operators connect. A user who can connect can also fill the backlog, so no others can.
const SOCKET_MODE: u32 = 0o660;

/// Why an operation was not done.
#[derive(Debug, Deserialize, Serialize)]
pub struct NotDone {
    /// The error.
    pub error: String,
}

/// Whether a user of this machine may change the secret. The only place that decides so. Blocks for the name service.
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
        let failed = || format!("cannot listen on {} (sso.operator_socket)", path.display());
        match path.symlink_metadata() {
            Ok(there) if !there.file_type().is_socket() => {
                bail!("{}: there is a file that is no socket; remove it, or choose another path", failed())
            }
            Ok(_) if std::os::unix::net::UnixStream::connect(path).is_ok() => {
                bail!("{}: another process listens on this socket; stop it, or choose another path", failed())
            }
            Ok(_) => std::fs::remove_file(path).with_context(failed)?,
            Err(_) => {}
        }
        let group = group(&socket.group)?;
        // Until `listen` the kernel refuses every connection.
        let bound = UnixSocket::new_stream().and_then(|socket| socket.bind(path).map(|()| socket));
        let bound = bound.with_context(failed)?;
        let access = lchown(path, None, Some(group))
            .and_then(|()| std::fs::set_permissions(path, std::fs::Permissions::from_mode(SOCKET_MODE)));
        let listener = access
            .with_context(|| {
                format!(
                    "cannot give {} to group {} (sso.operator_group): run the service as a member of that group \
                     (with systemd: SupplementaryGroups=)",
                    path.display(),
                    socket.group
                )
            })
            .and_then(|()| bound.listen(BACKLOG).with_context(failed));
        if listener.is_err() {
            let _ = std::fs::remove_file(path);
        }
        let inode = path.symlink_metadata().map_or(0, |metadata| metadata.ino());
        Ok(Self { listener: listener?, path: path.to_owned(), inode })
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
        let shared = Arc::new(Shared { service, section, operations: Semaphore::new(OPERATIONS_MAX) });
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
    found.with_context(|| format!("there is no group {name} on this system (sso.operator_group)"))
}

struct Shared {
    service: Sso,
    section: config::Sso,
    operations: Semaphore,
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
            Ok(operation) => self.operate(operation, uid, permit).await,
            Err(error) => Err(anyhow::anyhow!("this is no operation: {error}")),
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

    async fn operate(
        self: &Arc<Self>,
        operation: Operation,
        uid: u32,
        permit: &ConnectionPermit<u32>,
    ) -> anyhow::Result<Done> {
        let _one = self.operations.acquire().await?;
        let shared = Arc::clone(self);
        let rules = self.service.0.policy.load_full();
        // The right is looked up when it is this operation's turn.
        let checked = tokio::task::spawn_blocking(move || (may_operate(&rules.operators, uid), name_of(uid)));
        let (may, user) = checked.await?;
        if !may {
            self.service.operator_refused(uid, user.as_deref(), operation.name());
            bail!("only operators of [sso], the owner of its folder and root may change the master secret");
        }
        permit.prove(uid);
        tokio::task::spawn_blocking(move || {
            let Shared { service, section, .. } = &*shared;
            service.operate(&operation, section, (uid, user.as_deref()))
        })
        .await?
    }
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

/// Has the running service do it. Blocks.
pub fn ask(path: &Path, operation: &Operation) -> anyhow::Result<Done> {
    let failed = || format!("cannot ask the service at {}", path.display());
    let mut stream = std::os::unix::net::UnixStream::connect(path)
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
    let mut request = Zeroizing::new(serde_json::to_vec(operation)?);
    request.push(b'\n');
    stream.write_all(&request).with_context(failed)?;
    let mut line = Vec::new();
    BufReader::new(stream.take(ANSWER_LEN_MAX)).read_until(b'\n', &mut line).with_context(failed)?;
    if line.last() != Some(&b'\n') {
        bail!("{}: it closed the connection without an answer", failed());
    }
    match serde_json::from_slice(&line) {
        Ok(NotDone { error }) => bail!(error),
        Err(_) => serde_json::from_slice(&line).with_context(failed),
    }
}

/// Logs what an operator did.
pub(super) fn log(uid: u32, user: Option<&str>, command: &str, outcome: &anyhow::Result<Done>) {
    match outcome {
        Ok(_) => info!(uid, user, command, "Operator changed the master secret"),
        Err(error) => {
            warn!(uid, user, command, error = crate::output::chain(&error), "Operation of an operator failed")
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
