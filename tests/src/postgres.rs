//! PostgreSQL, started by a test on a free loopback port, with standbys of it.

use crate::ports::free_port;
use rustix::process::{Pid, Signal, kill_process};
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Output, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// The role of a server, a superuser.
pub const USER: &str = "rcmpd";
/// Its password.
pub const PASSWORD: &str = "of-the-tests-only";
/// The database that a server has.
pub const DATABASE: &str = "rcmpd";

/// A loaded machine is slow, and not more wrong for it.
const PATIENCE: Duration = Duration::from_secs(120);
const POLL: Duration = Duration::from_millis(20);

/// A server with a database in a temporary folder. It ends with this value, and with its process.
#[derive(Debug)]
pub struct Postgres {
    folder: TempDir,
    port: u16,
    options: Vec<String>,
    child: Option<Child>,
}

impl Postgres {
    /// A new server, with an empty database.
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// The same with options, as in `fsync=on`.
    pub fn start_with(options: &[&str]) -> Self {
        let folder = folder();
        let data = folder.path().join("data");
        run(Command::new("cp").arg("-a").arg(template()).arg(&data));
        give(&data);
        Self::on(folder, options.iter().map(|option| (*option).to_owned()).collect())
    }

    /// A standby that follows this server.
    pub fn standby(&self) -> Self {
        let folder = folder();
        let data = folder.path().join("data");
        let mut backup = as_postgres(&program("pg_basebackup"));
        backup.args(["-X", "stream", "-R", "-c", "fast", "-h", "127.0.0.1", "-U", USER]);
        backup.arg("-p").arg(self.port.to_string()).arg("-D").arg(&data).env("PGPASSWORD", PASSWORD);
        run(&mut backup);
        Self::on(folder, self.options.clone())
    }

    fn on(folder: TempDir, options: Vec<String>) -> Self {
        let mut server = Self { folder, port: free_port().port(), options, child: None };
        assert!(server.try_start(), "PostgreSQL does not start: {}", server.log());
        server
    }

    fn try_start(&mut self) -> bool {
        let mut command = as_postgres(&program("postgres"));
        let log = fs::File::create(self.folder.path().join("log")).expect("the folder is ours");
        command.arg("-D").arg(self.data()).arg("-p").arg(self.port.to_string());
        let sockets = format!("unix_socket_directories={}", self.data().display());
        let fixed = [
            "listen_addresses=127.0.0.1",
            "fsync=off",
            "shared_buffers=32MB",
            "max_connections=60",
            "wal_keep_size=64MB",
            &sockets,
        ];
        for option in fixed.into_iter().chain(self.options.iter().map(String::as_str)) {
            command.arg("-c").arg(option);
        }
        let started = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn();
        let mut child = started.expect("PostgreSQL is installed");
        let deadline = Instant::now() + PATIENCE;
        loop {
            if child.try_wait().expect("it is our child").is_some() {
                return false;
            }
            let status = fs::read_to_string(self.data().join("postmaster.pid")).unwrap_or_default();
            if status.lines().nth(7).is_some_and(|line| line.trim() == "ready") {
                self.child = Some(child);
                return true;
            }
            assert!(Instant::now() < deadline, "PostgreSQL is not ready: {}", self.log());
            std::thread::sleep(POLL);
        }
    }

    /// What the server has logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// The folder with its files, and with its Unix socket.
    pub fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// Writes a file that the server reads.
    pub fn write(&self, name: &str, text: &str) {
        let path = self.data().join(name);
        fs::write(&path, text).expect("the folder is ours");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("it is ours");
        give(&path);
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its address.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Runs statements, and returns what they print, unaligned and without headings.
    #[track_caller]
    pub fn sql(&self, statements: &str) -> String {
        let mut psql = Command::new(program("psql"));
        psql.args([
            "-X",
            "-q",
            "-A",
            "-t",
            "-v",
            "ON_ERROR_STOP=1",
            "-h",
            "127.0.0.1",
            "-U",
            USER,
            "-d",
            DATABASE,
        ]);
        psql.arg("-p").arg(self.port.to_string()).arg("-c").arg(statements).env("PGPASSWORD", PASSWORD);
        String::from_utf8(run(&mut psql).stdout).expect("text").trim_end().to_owned()
    }

    /// A session that stays open.
    pub fn psql(&self) -> Psql {
        let mut psql = Command::new(program("psql"));
        psql.args(["-X", "-q", "-A", "-t", "-h", "127.0.0.1", "-U", USER, "-d", DATABASE]);
        psql.arg("-p").arg(self.port.to_string()).env("PGPASSWORD", PASSWORD);
        psql.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = psql.spawn().expect("it is installed");
        let output = BufReader::new(child.stdout.take().expect("it is piped"));
        Psql { input: child.stdin.take(), output, child }
    }

    /// The process whose children serve connections.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("it runs").id()
    }

    fn processes(&self) -> Vec<Pid> {
        let Some(child) = &self.child else { return Vec::new() };
        let parent = child.id().to_string();
        let mut found = vec![Pid::from_child(child)];
        for entry in fs::read_dir("/proc").expect("there is /proc").flatten() {
            let Ok(stat) = fs::read_to_string(entry.path().join("stat")) else { continue };
            let fields = stat.rsplit(") ").next().unwrap_or_default();
            if fields.split(' ').nth(1) == Some(&parent) {
                let pid = entry.file_name().to_string_lossy().parse().ok().and_then(Pid::from_raw);
                found.extend(pid);
            }
        }
        found
    }

    fn signal(&self, signal: Signal) {
        for pid in self.processes() {
            // One that has ended meanwhile needs none.
            let _ = kill_process(pid, signal);
        }
    }

    /// Stops all its processes where they are.
    pub fn pause(&self) {
        self.signal(Signal::STOP);
    }

    /// Lets them go on.
    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    /// Kills all its processes.
    pub fn kill(&mut self) {
        self.signal(Signal::KILL);
        if let Some(mut child) = self.child.take() {
            child.wait().expect("it is our child");
        }
    }

    /// Starts it again, on the same port.
    pub fn restart(&mut self) {
        // One that was killed has left its status, which says that it is ready.
        let _ = fs::remove_file(self.data().join("postmaster.pid"));
        let deadline = Instant::now() + PATIENCE;
        while !self.try_start() {
            assert!(Instant::now() < deadline, "PostgreSQL does not start again: {}", self.log());
            std::thread::sleep(POLL);
        }
    }

    /// Makes a standby the primary.
    pub fn promote(&self) {
        self.sql("SELECT pg_promote(true)");
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.kill();
        // A process that the server started meanwhile ends a moment after it, and may still write files.
        let deadline = Instant::now() + PATIENCE;
        while fs::remove_dir_all(self.data()).is_err() && self.data().exists() && Instant::now() < deadline {
            std::thread::sleep(POLL);
        }
    }
}

/// A session of psql. Its transaction ends with it.
#[derive(Debug)]
pub struct Psql {
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
    child: Child,
}

impl Psql {
    /// Sends statements.
    pub fn send(&mut self, statements: &str) {
        writeln!(self.input.as_mut().expect("it is open"), "{statements}").expect("psql reads");
    }

    /// The next line that it prints.
    pub fn line(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).expect("psql answers");
        line.trim_end().to_owned()
    }
}

impl Drop for Psql {
    fn drop(&mut self) {
        drop(self.input.take());
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// PostgreSQL runs as a user without rights, also where the suite runs as root.
fn as_postgres(program: &Path) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL"]);
    if rustix::process::geteuid().is_root() {
        command.args(["--reuid", "postgres", "--regid", "postgres", "--clear-groups"]);
    }
    command.arg("--").arg(program).env("LC_ALL", "C.UTF-8").current_dir("/");
    command
}

/// Gives files to the user that runs the server.
fn give(path: &Path) {
    if rustix::process::geteuid().is_root() {
        run(Command::new("chown").args(["-R", "postgres:postgres"]).arg(path));
    }
}

fn folder() -> TempDir {
    let folder = tempfile::tempdir().expect("there is room for temporary files");
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o700)).expect("the folder is ours");
    if rustix::process::geteuid().is_root() {
        let home = fs::metadata("/var/lib/postgresql").expect("PostgreSQL is installed");
        chown(folder.path(), Some(home.uid()), Some(home.gid())).expect("we are root");
    }
    folder
}

/// A program of the newest version that is installed.
fn program(name: &str) -> PathBuf {
    let versions = fs::read_dir("/usr/lib/postgresql").expect("PostgreSQL is installed").flatten();
    let mut versions: Vec<u32> =
        versions.filter_map(|entry| entry.file_name().to_str().and_then(|name| name.parse().ok())).collect();
    versions.sort_unstable();
    let newest = versions.last().expect("PostgreSQL is installed");
    PathBuf::from(format!("/usr/lib/postgresql/{newest}/bin/{name}"))
}

/// Files of a new server, made once. The locale is not that of bytes: nothing may depend on it.
fn template() -> PathBuf {
    let here = std::env::current_exe().expect("a test knows where it is");
    let kept = here.ancestors().nth(2).expect("target/PROFILE/deps/TEST").join("postgres-template");
    if kept.exists() {
        return kept;
    }
    let folder = folder();
    let (data, secret) = (folder.path().join("data"), folder.path().join("password"));
    fs::write(&secret, PASSWORD).expect("the folder is ours");
    give(&secret);
    let mut initdb = as_postgres(&program("initdb"));
    initdb.args(["-U", USER, "-E", "UTF8", "--no-sync", "--wal-segsize=1", "--auth-local=trust"]);
    initdb.args([
        "--auth-host=scram-sha-256",
        "--locale=C.UTF-8",
        "--locale-provider=icu",
        "--icu-locale=en",
    ]);
    run(initdb.arg("--pwfile").arg(&secret).arg("-D").arg(&data));
    let mut single = as_postgres(&program("postgres"));
    single.args(["--single", "-D"]).arg(&data).arg("postgres").stdin(Stdio::piped());
    let mut single = single.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it is installed");
    let mut input = single.stdin.take().expect("it is piped");
    input.write_all(format!("CREATE DATABASE {DATABASE};\n").as_bytes()).expect("it reads");
    drop(input);
    assert!(single.wait().expect("it is our child").success(), "the database is made");
    let own = kept.with_extension(std::process::id().to_string());
    run(Command::new("cp").arg("-a").arg(&data).arg(&own));
    // Another test may have been faster.
    if fs::rename(&own, &kept).is_err() {
        fs::remove_dir_all(&own).expect("it is ours");
    }
    kept
}

#[track_caller]
fn run(command: &mut Command) -> Output {
    let done = command.stdin(Stdio::null()).output().expect("the program is installed");
    assert!(done.status.success(), "{command:?}: {}", String::from_utf8_lossy(&done.stderr));
    done
}
