//! A demo domain in a temporary folder, and `rcmpd serve` on it: the product as its users run it.

use serde_json::Value;
use std::fs::{self, File};
use std::io::Write;
use std::net::SocketAddr;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// A debug build on a busy machine is slow, and not more wrong for it.
const PATIENCE: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(10);

/// The binary, built beside the tests before they run.
pub fn binary() -> PathBuf {
    if let Some(path) = std::env::var_os("RCMPD_BINARY") {
        return path.into();
    }
    let here = std::env::current_exe().expect("a test knows where it is");
    let path = here.ancestors().nth(2).expect("target/PROFILE/deps/TEST").join("rcmpd");
    assert!(path.exists(), "{} is not built: cargo build -p rcmpd", path.display());
    path
}

/// What a command said.
#[derive(Debug)]
pub struct Finished {
    /// Its exit code.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Finished {
    /// Standard output as JSON.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// Expects an exit code.
    #[track_caller]
    pub fn code(self, expected: i32) -> Self {
        assert_eq!(self.code, expected, "{self:?}");
        self
    }
}

/// Runs a command to its end.
pub(crate) fn finish(mut command: Command) -> Finished {
    let done = command.stdin(Stdio::null()).output().expect("the command starts");
    Finished {
        code: done.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&done.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&done.stderr).into_owned(),
    }
}

/// Writes a secret that only its owner can read, into a file that may be there.
pub fn write_secret(path: impl AsRef<Path>, secret: impl AsRef<[u8]>) {
    use std::os::unix::fs::OpenOptionsExt;
    let mut options = File::options();
    let file = options.write(true).create(true).truncate(true).mode(0o600).open(path);
    file.and_then(|mut file| file.write_all(secret.as_ref())).expect("the folder can be written");
}

/// Waits until a condition holds that something in the background brings about.
#[track_caller]
pub fn eventually(what: &str, is_there: impl FnMut() -> bool) {
    eventually_within(PATIENCE, what, is_there);
}

/// The same with a deadline of its own.
#[track_caller]
pub fn eventually_within(patience: Duration, what: &str, mut is_there: impl FnMut() -> bool) {
    let deadline = Instant::now() + patience;
    while !is_there() {
        assert!(Instant::now() < deadline, "never: {what}");
        // Most conditions start a process, or ask the service.
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// What `rcmpd quickstart` makes.
#[derive(Debug)]
pub struct Demo {
    folder: TempDir,
}

impl Demo {
    /// A new one, without an audit log. Its service takes whatever ports are free.
    pub fn new() -> Self {
        let demo = Self { folder: tempfile::tempdir().expect("there is room for temporary files") };
        let folder = demo.path("");
        let mut command = Command::new(binary());
        command.arg("quickstart").arg(&folder);
        finish(command).code(0);
        demo.edit(|text| {
            let (text, _) = text.split_once("\n[audit]").expect("the quickstart has an audit log");
            text.replace("\"127.0.0.1:11490\"]", "\"127.0.0.1:0\"]")
                .replace("127.0.0.1:1135", "127.0.0.1:0")
                .replace("127.0.0.1:9464", "127.0.0.1:0")
        });
        demo
    }

    /// The same with a master secret: alice is an SSO administrator, and bob is not.
    pub fn with_master_secret() -> Self {
        let demo = Self { folder: tempfile::tempdir().expect("there is room for temporary files") };
        let mut command = Command::new(binary());
        command.arg("quickstart").arg(demo.path("")).arg("--sso");
        finish(command).code(0);
        demo.edit(|text| {
            let ports = ["11490\"]", "11493\"]"].map(|port| format!("\"127.0.0.1:{port}"));
            let text = ports.iter().fold(text, |text, port| text.replace(port, "\"127.0.0.1:0\"]"));
            text.replace("127.0.0.1:1135", "127.0.0.1:0").replace("127.0.0.1:9464", "127.0.0.1:0")
        });
        demo
    }

    /// The same with a gateway for SOAP clients at a port of its own, in front of the service at `upstream`.
    /// alice and bob have passwords. `settings` are added to `[tlsnego]`.
    pub fn with_gateway(upstream: SocketAddr, settings: &str) -> Self {
        let demo = Self { folder: tempfile::tempdir().expect("there is room for temporary files") };
        let mut command = Command::new(binary());
        command.arg("quickstart").arg(demo.path("")).arg("--tlsnego");
        finish(command).code(0);
        let gateway = crate::ports::free_port();
        demo.edit(|text| {
            text.replace("\"127.0.0.1:11490\"]", "\"127.0.0.1:0\"]")
                .replace("127.0.0.1:1135", "127.0.0.1:0")
                .replace("127.0.0.1:9464", "127.0.0.1:0")
                .replace("127.0.0.1:11494", &gateway.to_string())
                .replace("127.0.0.1:11495", &upstream.to_string())
                .replace("[tlsnego] ", &format!("[tlsnego]\n{settings}\n# "))
        });
        demo
    }

    /// Another node of the same domain: a copy of this one's files, before it is served.
    pub fn copied(&self) -> Self {
        let demo = Self { folder: tempfile::tempdir().expect("there is room for temporary files") };
        let mut command = Command::new("cp");
        command.arg("-a").arg(self.path(".")).arg(demo.path(""));
        finish(command).code(0);
        demo
    }

    /// Moves the accounts and machines into PostgreSQL, by the commands that an operator has for it. `more`
    /// is added to `[store.postgres]`.
    pub fn into_postgres(self, server: &crate::postgres::Postgres, more: &str) -> Self {
        self.move_into_postgres(server, more);
        self
    }

    /// The same for a demo that the test keeps.
    pub fn move_into_postgres(&self, server: &crate::postgres::Postgres, more: &str) {
        self.move_into_postgres_by(&binary(), server, more);
    }

    /// The same by another program, which makes the tables that it knows.
    pub fn move_into_postgres_by(&self, program: &Path, server: &crate::postgres::Postgres, more: &str) {
        self.rcmpd(&["export", "moved.jsonl", "-c", "rcmpd.toml"]).code(0);
        write_secret(self.path("postgres.secret"), crate::postgres::PASSWORD);
        let section = format!(
            "kind = \"postgres\"\n[store.postgres]\nservers = [\"{}\"]\nsslmode = \"disable\"\ndatabase = \"{}\"\nuser = \"{}\"\n\
             password = \"file:postgres.secret\"\n{more}\n",
            server.address(),
            crate::postgres::DATABASE,
            crate::postgres::USER,
        );
        self.edit(|text| {
            let embedded = "kind = \"sqlite\"\npath = \"accounts.db\"\n";
            assert!(text.contains(embedded), "{text}");
            text.replace(embedded, &section).replace("store = \"sqlite\"", "store = \"postgres\"")
        });
        let secret = ["--secret-file", "machines/WEB01.secret"];
        for command in [
            &["domain", "add"][..],
            &["import", "--replace", "moved.jsonl"],
            &["machine", "set", "WEB01$", secret[0], secret[1]],
        ] {
            self.run(program, &[command, &["-c", "rcmpd.toml"]].concat()).code(0);
        }
    }

    /// Where the gateway of [`Demo::with_gateway`] listens.
    pub fn gateway(&self) -> SocketAddr {
        let text = fs::read_to_string(self.path("rcmpd.toml")).expect("there is a configuration");
        let section = text.split_once("[tlsnego]").expect("there is a gateway").1;
        let listen = section.lines().find_map(|line| line.strip_prefix("listen")).expect("it listens");
        let address = listen.trim_matches([' ', '=', '"']);
        address.parse().expect("an address")
    }

    /// Accepts tickets for the principals of a keytab, from clients of these realms, each with its kind.
    /// These administrators come before the others.
    pub fn accept_tickets(&self, keytab: &Path, realms: &[(&str, &str)], administrators: &[&str]) {
        write_secret(self.path("sso/keytab"), fs::read(keytab).expect("there is a keytab"));
        let administrators: String = administrators.iter().map(|entry| format!("\"{entry}\", ")).collect();
        self.edit(|text| text.replace("administrators = [", &format!("administrators = [{administrators}")));
        let realms: String = realms
            .iter()
            .map(|(name, kind)| format!("[[sso.kerberos.realm]]\nname = \"{name}\"\nkind = \"{kind}\"\n"))
            .collect();
        self.configure(&format!("[sso.kerberos]\nkeytab = \"sso/keytab\"\n{realms}"));
    }

    /// The lines of one event in `audit.log`. If there is no log, there are none.
    pub fn audit(&self, event: &str) -> Vec<Value> {
        let text = fs::read_to_string(self.path("audit.log")).unwrap_or_default();
        let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).expect("a line of JSON"));
        lines.filter(|line| line["event"] == event).collect()
    }

    /// The password of a user of [`Demo::with_master_secret`].
    pub fn password(&self, user: &str) -> String {
        let path = self.path("users").join(format!("{user}.password"));
        fs::read_to_string(path).expect("the user has a password").trim_end().to_owned()
    }

    /// A domain of its own with no account but the machine WEB01$ in it, which trusts the CA of `of`; served
    /// at this address.
    pub fn domain(netbios: &str, server: &str, address: &str, of: &Demo) -> Self {
        let demo = Self { folder: tempfile::tempdir().expect("there is room for temporary files") };
        fs::create_dir_all(demo.path("certs")).expect("a folder can be made");
        fs::create_dir_all(demo.path("machines")).expect("a folder can be made");
        fs::copy(of.path("certs/ca.pem"), demo.path("certs/ca.pem")).expect("the authority is there");
        let words: [u32; 3] = std::array::from_fn(|at| {
            netbios.bytes().fold(at as u32 + 1, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into()))
        });
        let [a, b, c] = words;
        let text = format!(
            r#"
[domain]
netbios = "{netbios}"
dns     = "{}.example"
sid     = "S-1-5-21-{a}-{b}-{c}"
server  = "{server}"
[rpc]
listen          = ["{address}:0"]
endpoint_mapper = "127.0.0.1:0"
[store]
kind = "sqlite"
path = "accounts.db"
[channels]
key  = "accounts.key"
[mapping]
anchors = ["certs/ca.pem"]
[client]
server  = "127.0.0.1:11490"
account = "WEB01$"
secret  = "file:machines/WEB01.secret"
[admin]
listen = "127.0.0.1:0"
[audit]
path = "audit.log"
"#,
            netbios.to_lowercase()
        );
        fs::write(demo.path("rcmpd.toml"), text).expect("the configuration can be written");
        demo.rcmpd(&["domain", "add", "-c", "rcmpd.toml"]).code(0);
        let machine = ["machine", "add", "WEB01$", "--secret-file", "machines/WEB01.secret"];
        demo.rcmpd(&[&machine[..], &["--permission", "rcmp", "-c", "rcmpd.toml"]].concat()).code(0);
        demo
    }

    /// A sidecar for nginx with no accounts of its own: it asks a demo domain's service as WEB01$. Its socket
    /// is nginx.sock, and it hears us. `client` and `sidecar` are added to these sections.
    pub fn web(of: &Service, client: &str, sidecar: &str) -> Self {
        let demo = Self { folder: tempfile::tempdir().expect("there is room for temporary files") };
        fs::create_dir_all(demo.path("certs")).expect("a folder can be made");
        for entry in fs::read_dir(of.path("certs")).expect("the demo has certificates") {
            let entry = entry.expect("a file");
            fs::copy(entry.path(), demo.path("certs").join(entry.file_name())).expect("a copy can be made");
        }
        let (sid, server) = (of.domain_sid(), of.netlogon);
        let secret = of.path("machines/WEB01.secret");
        let (secret, user) = (secret.display(), rustix::process::geteuid().as_raw());
        let text = format!(
            r#"
[domain]
netbios = "CONTOSO"
dns     = "contoso.example"
sid     = "{sid}"
server  = "WEB01"
[mapping]
anchors = ["certs/ca.pem"]
[client]
server  = "{server}"
account = "WEB01$"
secret  = "file:{secret}"
{client}
[admin]
listen = "127.0.0.1:0"
[audit]
path = "web.log"
[sidecar]
source = "remote"
{sidecar}
[[sidecar.listen]]
dialect = "nginx"
unix    = "nginx.sock"
peers   = ["{user}"]
"#
        );
        fs::write(demo.path("rcmpd.toml"), text).expect("the configuration can be written");
        demo
    }

    /// Adds to the configuration.
    pub fn configure(&self, more: &str) {
        self.edit(|text| format!("{text}\n{more}\n"));
    }

    /// Gives a trusted domain an account, and says with which secret.
    pub fn add_trust(&self, netbios: &str) -> String {
        use account_store::MachineAdmin;
        use account_store::machines::{ChannelKind, Machine, NtHash, Secrets};
        let key = account_store::SealingKey::open(&self.path("accounts.key")).expect("the key is there");
        let store = account_store::SqliteStore::open(&self.path("accounts.db"), Some(&key));
        let store = store.expect("the database is there");
        let machine = Machine {
            name: format!("{netbios}$"),
            sid: account_store::AccountStore::domain(&store).sid,
            kind: ChannelKind::TrustedDomain,
            enabled: true,
            rcmp: true,
            domains: vec![],
            groups: vec![],
        };
        let password = rcmpd::quickstart::random_password().expect("there is randomness");
        let now = std::time::SystemTime::now().into();
        let secrets = Secrets::first(NtHash::from_password(&password), now);
        // The caller may be in a runtime of its own.
        let put = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
            runtime.block_on(store.put_machine(account_store::Put::New, machine, Some(secrets)))
        });
        put.join().expect("it does not panic").expect("it is new");
        password
    }

    /// Another domain as this one has to be told of it, up to its direction and servers.
    pub fn as_peer(&self) -> String {
        let text = fs::read_to_string(self.path("rcmpd.toml")).expect("the configuration is there");
        let value = |key: &str| {
            let line = text.lines().find(|line| line.starts_with(key)).expect("the domain is said first");
            line.split('"').nth(1).expect("a value").to_owned()
        };
        format!(
            "[[peer]]\ndomain = \"{}\"\nsid = \"{}\"\nnames = [\"{}\"]\n",
            value("netbios"),
            value("sid"),
            value("dns")
        )
    }

    /// The place of something in the folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join("demo").join(name)
    }

    /// A certificate's place.
    pub fn certificate(&self, who: &str) -> String {
        self.path(&format!("certs/{who}.pem")).display().to_string()
    }

    /// Changes the configuration.
    pub fn edit(&self, change: impl FnOnce(String) -> String) {
        let path = self.path("rcmpd.toml");
        let text = fs::read_to_string(&path).expect("the configuration is there");
        fs::write(path, change(text)).expect("the configuration can be written");
    }

    /// The domain's SID.
    pub fn domain_sid(&self) -> String {
        let text = fs::read_to_string(self.path("rcmpd.toml")).expect("the configuration is there");
        let start = text.find("\"S-1-5-21").expect("the domain has a SID") + 1;
        text[start..].split('"').next().unwrap_or_default().to_owned()
    }

    /// `rcmpd` with the arguments, run in the folder.
    pub fn rcmpd(&self, arguments: &[&str]) -> Finished {
        self.run(&binary(), arguments)
    }

    /// Another program with the arguments, run in the folder.
    pub fn run(&self, program: &Path, arguments: &[&str]) -> Finished {
        let mut command = Command::new(program);
        command.args(arguments).current_dir(self.path(""));
        finish(command)
    }

    /// Runs a line as a user pastes it into a shell in the folder.
    pub fn paste(&self, line: &str) -> Finished {
        let binary = binary();
        let folder = binary.parent().expect("a binary is in a folder").display().to_string();
        let path = std::env::var("PATH").unwrap_or_default();
        let mut command = Command::new("sh");
        command.args(["-c", line]).env("PATH", format!("{folder}:{path}")).current_dir(self.path(""));
        finish(command)
    }

    /// Binds carol's certificate to her account, by the line that the explanation of her refusal gives.
    pub fn with_carol(self) -> Self {
        let explained =
            self.rcmpd(&["explain", "certs/carol.pem", "-c", "rcmpd.toml", "--json"]).code(3).json();
        let line = explained["remedies"][0]["command"].as_str().expect("there is a line").to_owned();
        self.paste(&line).code(0);
        self
    }

    /// Serves it.
    pub fn serve(self) -> Service {
        self.serve_with(&[])
    }

    /// Serves a configuration without Netlogon, as a sidecar alone is.
    pub fn serve_bare(self) -> Service {
        self.serve_bare_with(&[])
    }

    /// The same with variables in the environment.
    pub fn serve_bare_with(self, environment: &[(&str, &str)]) -> Service {
        let mut command = Command::new(binary());
        command.envs(environment.iter().copied());
        let mut service = self.start_until(command, " Ready ");
        service.admin = service.address("Serving the admin port");
        service
    }

    /// Serves it, and returns when the log has this text, which may be before it is ready. The addresses are
    /// not known.
    pub fn serve_until(self, text: &str) -> Service {
        self.start_until(Command::new(binary()), text)
    }

    fn start_until(self, command: Command, text: &str) -> Service {
        let child = self.spawn(command);
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut service =
            Service { demo: self, child, netlogon: nowhere, endpoint_mapper: nowhere, admin: nowhere };
        service.wait_for_log(text);
        service
    }

    /// Serves it with variables in the environment.
    pub fn serve_with(self, environment: &[(&str, &str)]) -> Service {
        let mut command = Command::new(binary());
        command.envs(environment.iter().copied());
        self.start(command)
    }

    /// Serves it by a command that runs the binary somewhere else.
    pub fn serve_by(self, command: Command) -> Service {
        self.start(command)
    }

    /// Serves it in a network namespace of its own, where the endpoint mapper has its well-known port:
    /// Samba's clients ask no other process where Netlogon is. [`Service::beside`] is the way in.
    pub fn serve_alone(self) -> Service {
        self.edit(|text| {
            text.replace("endpoint_mapper = \"127.0.0.1:0\"", "endpoint_mapper = \"127.0.0.1:135\"")
        });
        let mut command = Command::new("unshare");
        command.arg("--net");
        if !rustix::process::geteuid().is_root() {
            command.args(["--user", "--map-root-user"]);
        }
        // Each step becomes the next, so that the process we start is the service.
        command.args(["--", "sh", "-c", "ip link set lo up && exec \"$0\" \"$@\""]).arg(binary());
        self.start(command)
    }

    /// Serves it with a disk of its own at a new folder, of so many KiB. [`Service::seen`] is how the folder
    /// looks to it.
    pub fn serve_with_disk(self, folder: &str, kib: u32) -> Service {
        fs::create_dir(self.path(folder)).expect("the folder is new");
        let mut command = Command::new("unshare");
        command.arg("--mount");
        if !rustix::process::geteuid().is_root() {
            command.args(["--user", "--map-root-user"]);
        }
        let mount = format!("mount -t tmpfs -o size={kib}k tmpfs {folder} && exec \"$0\" \"$@\"");
        command.args(["--", "sh", "-c", &mount]).arg(binary());
        self.start(command)
    }

    fn spawn(&self, mut command: Command) -> Child {
        let log = File::create(self.path("serve.log")).expect("the log can be written");
        command
            .args(["serve", "-c", "rcmpd.toml"])
            .current_dir(self.path(""))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("rcmpd starts")
    }

    fn start(self, command: Command) -> Service {
        let mut service = self.start_until(command, " Ready ");
        service.netlogon = service.address("Serving Netlogon");
        service.endpoint_mapper = service.address("Serving the endpoint mapper");
        service.admin = service.address("Serving the admin port");
        let netlogon = service.netlogon;
        service.edit(|text| text.replace("\"127.0.0.1:11490\"", &format!("\"{netlogon}\"")));
        fs::copy(service.path("rcmpd.toml"), service.path("client.toml")).expect("a copy can be made");
        service
    }
}

impl Default for Demo {
    fn default() -> Self {
        Self::new()
    }
}

/// A running `rcmpd serve`; it ends with this value.
#[derive(Debug)]
pub struct Service {
    demo: Demo,
    child: Child,
    /// Where Netlogon is.
    pub netlogon: SocketAddr,
    /// Where the endpoint mapper is.
    pub endpoint_mapper: SocketAddr,
    /// Where health is.
    pub admin: SocketAddr,
}

impl Deref for Service {
    type Target = Demo;

    fn deref(&self) -> &Demo {
        &self.demo
    }
}

impl Service {
    /// The password of a machine of the demo, such as `WEB01`.
    pub fn machine_password(&self, machine: &str) -> String {
        let path = self.path("machines").join(format!("{machine}.secret"));
        fs::read_to_string(path).expect("the machine has a secret").trim_end().to_owned()
    }

    /// The log so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.path("serve.log")).unwrap_or_default()
    }

    /// Waits until the log has this text.
    #[track_caller]
    pub fn wait_for_log(&mut self, text: &str) {
        self.wait_for_lines(&[text], 1);
    }

    /// Waits until the log has so many lines with all of these.
    #[track_caller]
    pub fn wait_for_lines(&mut self, parts: &[&str], count: usize) {
        let deadline = Instant::now() + PATIENCE;
        let has_all = |line: &&str| parts.iter().all(|part| line.contains(part));
        while self.log().lines().filter(has_all).count() < count {
            if let Ok(Some(status)) = self.child.try_wait() {
                panic!("rcmpd ended with {status} before it logged {parts:?}:\n{}", self.log());
            }
            assert!(Instant::now() < deadline, "rcmpd did not log {parts:?}:\n{}", self.log());
            std::thread::sleep(POLL);
        }
    }

    /// Lets it read its configuration again, and waits until it has.
    #[track_caller]
    pub fn reload(&self) {
        let done = || self.log().matches(" Reloaded ").count();
        let before = done();
        // What has a port of the kernel's choice keeps it.
        let netlogon = self.netlogon;
        self.edit(|text| text.replace(&format!("\"{netlogon}\"]"), &format!("\"{}:0\"]", netlogon.ip())));
        self.signal(rustix::process::Signal::HUP);
        let deadline = Instant::now() + PATIENCE;
        while done() == before {
            assert!(Instant::now() < deadline, "rcmpd does not reload:\n{}", self.log());
            std::thread::sleep(POLL);
        }
    }

    /// Ends it at once, as a power cut does.
    pub fn kill(&mut self) {
        self.child.kill().expect("the service is our child");
        self.child.wait().expect("the service is our child");
    }

    /// Serves again after [`Service::kill`], on the same ports.
    pub fn start_again(&mut self) {
        self.start_again_with(&[]);
    }

    /// The same with more environment variables.
    pub fn start_again_with(&mut self, environment: &[(&str, &str)]) {
        let netlogon = self.netlogon;
        let (free, same) = (format!("\"{}:0\"]", netlogon.ip()), format!("\"{netlogon}\"]"));
        // The first listener is Netlogon's. Others take a free port again.
        self.edit(|text| if text.contains(&same) { text } else { text.replacen(&free, &same, 1) });
        let mut command = Command::new(binary());
        command.envs(environment.iter().copied());
        self.child = self.demo.spawn(command);
        self.wait_for_log(" Ready ");
        self.admin = self.address("Serving the admin port");
    }

    /// Where the master secret is.
    pub fn master_secret(&self) -> SocketAddr {
        self.address("Serving the master secret")
    }

    /// The address in the line of the log that has `what`.
    pub fn address(&self, what: &str) -> SocketAddr {
        let log = self.log();
        let line = log.lines().find(|line| line.contains(what)).unwrap_or_default();
        let address = line.rsplit("address=").next().unwrap_or_default();
        address.trim().parse().unwrap_or_else(|error| panic!("{what}: {error} in {line:?}"))
    }

    /// A command in the same network namespace.
    pub fn beside(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["-t", &self.pid().to_string(), "--net"]);
        if !rustix::process::geteuid().is_root() {
            command.args(["--user", "--preserve-credentials"]);
        }
        command.arg("--").arg(program);
        command
    }

    /// Asks as a user would: `rcmpd map NAME`, with a copy of the configuration that [`Demo::edit`] leaves
    /// alone.
    pub fn map(&self, who: &str) -> Finished {
        self.rcmpd(&["map", &self.certificate(who), "-c", "client.toml", "--json"])
    }

    /// GET from the admin port: status and body.
    pub fn get(&self, path: &str) -> (u16, String) {
        let (head, body) = self.get_with(path, "");
        (head.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0), body)
    }

    /// GET from the admin port with more lines in the head: head and body.
    pub fn get_with(&self, path: &str, lines: &str) -> (String, String) {
        let mut stream = std::net::TcpStream::connect(self.admin).expect("health is served");
        write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{lines}\r\n")
            .expect("health listens");
        let text = std::io::read_to_string(stream).expect("health answers");
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or_default();
        (head.to_owned(), body.to_owned())
    }

    /// POST to the admin port: status and body. A host among the headers takes the place of the usual one.
    pub fn post(&self, path: &str, headers: &[(&str, &str)], body: &str) -> (u16, String) {
        self.send("POST", path, headers, body)
    }

    /// The same with another method.
    pub fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> (u16, String) {
        let mut stream = std::net::TcpStream::connect(self.admin).expect("the admin port is served");
        let mut head =
            format!("{method} {path} HTTP/1.1\r\nConnection: close\r\nContent-Length: {}\r\n", body.len());
        if !headers.iter().any(|(name, _)| *name == "Host") {
            head.push_str(&format!("Host: {}\r\n", self.admin));
        }
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        write!(stream, "{head}\r\n{body}").expect("the admin port listens");
        let text = std::io::read_to_string(stream).expect("the admin port answers");
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or_default();
        (head.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0), body.to_owned())
    }

    /// The value of a metric.
    pub fn metric(&self, name: &str) -> u64 {
        let (_, body) = self.get("/metrics");
        let line = body.lines().find(|line| line.split(' ').next() == Some(name));
        line.and_then(|line| line.rsplit(' ').next()?.parse().ok())
            .unwrap_or_else(|| panic!("no metric {name} in\n{body}"))
    }

    /// How many tickets of the sidecar had this result.
    pub fn tickets(&self, result: &str) -> u64 {
        let line = format!("rcmpd_sidecar_tickets_total{{result=\"{result}\"}} ");
        let (_, metrics) = self.get("/metrics");
        let count = metrics.lines().find_map(|known| known.strip_prefix(&line));
        count.map_or(0, |count| count.parse().expect("a number"))
    }

    /// The place of something in the folder as the service sees it, which may have mounts of its own.
    pub fn seen(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        let path = path.strip_prefix("/").unwrap_or(&path);
        Path::new("/proc").join(self.pid().to_string()).join("root").join(path)
    }

    /// The process's number.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal.
    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).expect("the service runs");
    }

    /// Stops the process, and returns when none of its threads runs: SIGSTOP reaches them after kill(2)
    /// returns.
    pub fn pause(&self) {
        self.signal(rustix::process::Signal::STOP);
        let tasks = format!("/proc/{}/task", self.pid());
        eventually("each thread is stopped", || {
            // The state follows the name, which ends with the last parenthesis: proc_pid_stat(5).
            let stat = |task: fs::DirEntry| fs::read_to_string(task.path().join("stat")).unwrap_or_default();
            let tasks = fs::read_dir(&tasks).expect("the service runs").flatten();
            tasks.map(stat).all(|stat| stat.rsplit(')').next().is_some_and(|rest| rest.starts_with(" T")))
        });
    }

    /// Lets a paused process go on.
    pub fn resume(&self) {
        self.signal(rustix::process::Signal::CONT);
    }

    /// Resident memory in KiB, the mapped pages of the program's file included.
    pub fn resident_kib(&self) -> u64 {
        self.memory_kib("VmRSS:")
    }

    /// Resident memory in KiB that belongs to no file: what the process allocated.
    pub fn allocated_kib(&self) -> u64 {
        self.memory_kib("RssAnon:")
    }

    fn memory_kib(&self, kind: &str) -> u64 {
        let status = fs::read_to_string(Path::new("/proc").join(self.pid().to_string()).join("status"))
            .expect("the service runs");
        let line = status.lines().find(|line| line.starts_with(kind)).expect("a process has memory");
        line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).expect("a number of kB")
    }

    /// Waits for its end and says how it ended.
    #[track_caller]
    pub fn ended(&mut self) -> i32 {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().expect("the service is our child") {
                return status.code().unwrap_or(-1);
            }
            assert!(Instant::now() < deadline, "rcmpd does not end:\n{}", self.log());
            std::thread::sleep(POLL);
        }
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("rcmpd said:\n{}", self.log());
        }
    }
}
