//! A KDC of MIT Kerberos, which `tests/peers/install` installs, with one realm or several.

use crate::ports::free_port;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A KDC on a port of its own; it ends with this value.
#[derive(Debug)]
pub struct MitKdc {
    folder: tempfile::TempDir,
    child: Child,
    port: u16,
}

impl MitKdc {
    /// A KDC of these realms, the first of which is the default one.
    pub fn start(realms: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("there is room for temporary files");
        let port = free_port().port();
        let path = |name: String| folder.path().join(name).display().to_string();
        let mut client = format!(
            "[libdefaults]\n default_realm = {}\n dns_lookup_kdc = false\n dns_lookup_realm = false\n rdns = false\n \
             dns_canonicalize_hostname = false\n[realms]\n",
            realms[0]
        );
        let mut server = format!(
            "[kdcdefaults]\n kdc_listen = 127.0.0.1:{port}\n kdc_tcp_listen = 127.0.0.1:{port}\n[realms]\n"
        );
        for realm in realms {
            client.push_str(&format!(" {realm} = {{\n kdc = 127.0.0.1:{port}\n }}\n"));
            // A KDC that does not check the realms between the client's and its own says so in the ticket.
            server.push_str(&format!(
                " {realm} = {{\n database_name = {}\n key_stash_file = {}\n acl_file = {}\n \
                 supported_enctypes = aes256-cts:normal\n reject_bad_transit = false\n }}\n",
                path(format!("{realm}.principal")),
                path(format!("{realm}.stash")),
                path(format!("{realm}.acl"))
            ));
        }
        std::fs::write(folder.path().join("krb5.conf"), client).expect("the folder can be written");
        std::fs::write(folder.path().join("kdc.conf"), server).expect("the folder can be written");
        for realm in realms {
            run(command(&folder, "kdb5_util").args(["create", "-s", "-P", "master", "-r", realm]));
        }
        // A copy of its own: what clients are told later, it does not know.
        let own = folder.path().join("kdc-krb5.conf");
        std::fs::copy(folder.path().join("krb5.conf"), &own).expect("the folder can be written");
        let mut krb5kdc = command(&folder, "krb5kdc");
        krb5kdc.env("KRB5_CONFIG", own);
        krb5kdc.args(realms.iter().flat_map(|realm| ["-r", realm]));
        let child =
            krb5kdc.arg("-n").stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the KDC starts");
        let deadline = Instant::now() + Duration::from_secs(30);
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(Instant::now() < deadline, "the KDC does not listen");
            std::thread::sleep(Duration::from_millis(20));
        }
        Self { folder, child, port }
    }

    /// A realm `MIT.TEST` in which `service` has a keytab `keytab`, and users their names as passwords.
    pub fn with_service(service: &str, users: &[&str]) -> Self {
        let kdc = Self::start(&["MIT.TEST"]);
        kdc.kadmin("MIT.TEST", &format!("addprinc -pw {service} {service}"));
        kdc.kadmin("MIT.TEST", &format!("ktadd -norandkey -k {} {service}", kdc.path("keytab").display()));
        for user in users {
            kdc.kadmin("MIT.TEST", &format!("addprinc -pw {user} {user}"));
        }
        kdc
    }

    /// Runs a command of `kadmin.local` in a realm.
    pub fn kadmin(&self, realm: &str, query: &str) {
        run(self.command("kadmin.local").args(["-r", realm, "-q", query]));
    }

    /// Tells clients that the way from a realm to another one goes over a third. The KDC is not told.
    pub fn add_path(&self, client: &str, service: &str, over: &str) {
        let path = self.path("krb5.conf");
        let text = std::fs::read_to_string(&path).expect("it is there");
        let text = format!("{text}[capaths]\n {client} = {{\n {service} = {over}\n }}\n");
        std::fs::write(path, text).expect("the folder can be written");
    }

    /// A program of MIT Kerberos with this KDC's configuration.
    pub fn command(&self, program: &str) -> Command {
        command(&self.folder, program)
    }

    /// A file of the KDC's folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Where it listens.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// A new credential cache with a ticket-granting ticket, by `kinit`.
    pub fn log_on(&self, user: &str) -> String {
        let cache = self.path(&format!("{user}.cache")).display().to_string();
        let name = user.split('@').next().unwrap_or_default();
        let mut kinit = self.command("kinit");
        let mut kinit = kinit
            .args(["-c", &cache, user])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .expect("kinit starts");
        kinit.stdin.take().expect("piped").write_all(format!("{name}\n").as_bytes()).expect("kinit reads");
        assert!(kinit.wait().expect("kinit ends").success(), "kinit of {user}");
        cache
    }

    /// A new credential cache that has a ticket for a service, too, by `kvno`.
    pub fn ticket(&self, user: &str, service: &str) -> String {
        let cache = self.log_on(user);
        run(self.command("kvno").args(["-c", &cache, service]));
        cache
    }
}

impl Drop for MitKdc {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn command(folder: &tempfile::TempDir, program: &str) -> Command {
    let mut command = Command::new(program);
    let path = std::env::var("PATH").unwrap_or_default();
    command.env("PATH", format!("{path}:/usr/sbin:/sbin"));
    command.env("KRB5_CONFIG", folder.path().join("krb5.conf"));
    command.env("KRB5_KDC_PROFILE", folder.path().join("kdc.conf"));
    command
}

#[track_caller]
fn run(command: &mut Command) {
    let done = command.stdin(Stdio::null()).output();
    let done =
        done.unwrap_or_else(|error| panic!("{command:?} does not start ({error}): tests/peers/install"));
    assert!(done.status.success(), "{command:?}: {}", String::from_utf8_lossy(&done.stderr));
}
