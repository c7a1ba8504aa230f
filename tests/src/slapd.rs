//! OpenLDAP's slapd, which `tests/peers/install` installs: a directory of its own on ports of its own.

use crate::openssl::openssl;
use crate::ports::free_port;
use std::fmt::Write as _;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// The base of everything.
pub const BASE: &str = "dc=contoso,dc=example";
/// Where accounts are.
pub const PEOPLE: &str = "ou=people,dc=contoso,dc=example";
/// Where groups are.
pub const GROUPS: &str = "ou=groups,dc=contoso,dc=example";
/// The account of a store.
pub const READER: &str = "cn=rcmpd,dc=contoso,dc=example";
/// Its password.
pub const SECRET: &str = "Secret-of-the-store-1";

const ROOT: &str = "cn=admin,dc=contoso,dc=example";

/// Attributes of Active Directory with their own identifiers, and with the matching rules that a directory
/// needs to search by them (those of OpenLDAP's msuser.schema have none).
const SCHEMA: &str = "
attributetype ( 1.2.840.113556.1.4.656 NAME 'userPrincipalName' EQUALITY caseIgnoreMatch
  SUBSTR caseIgnoreSubstringsMatch SYNTAX 1.3.6.1.4.1.1466.115.121.1.15 SINGLE-VALUE )
attributetype ( 1.2.840.113556.1.4.771 NAME 'servicePrincipalName' EQUALITY caseIgnoreMatch
  SUBSTR caseIgnoreSubstringsMatch SYNTAX 1.3.6.1.4.1.1466.115.121.1.15 )
attributetype ( 1.2.840.113556.1.4.867 NAME 'altSecurityIdentities' EQUALITY caseIgnoreMatch
  SUBSTR caseIgnoreSubstringsMatch SYNTAX 1.3.6.1.4.1.1466.115.121.1.15 )
attributetype ( 2.16.840.1.113730.3.1.610 NAME 'nsAccountLock' EQUALITY caseIgnoreMatch
  SYNTAX 1.3.6.1.4.1.1466.115.121.1.15 SINGLE-VALUE )
attributetype ( 2.16.840.1.113719.1.301.4.37.1 NAME 'krbPrincipalExpiration' EQUALITY generalizedTimeMatch
  SYNTAX 1.3.6.1.4.1.1466.115.121.1.24 SINGLE-VALUE )
objectclass ( 1.3.6.1.4.1.4203.666.11.99.1 NAME 'mappedAccount' AUXILIARY
  MAY ( userPrincipalName $ servicePrincipalName $ altSecurityIdentities $ nsAccountLock $ krbPrincipalExpiration $ displayName ) )
attributetype ( 1.2.840.113556.1.4.146 NAME 'objectSid' EQUALITY octetStringMatch
  SYNTAX 1.3.6.1.4.1.1466.115.121.1.40 SINGLE-VALUE )
attributetype ( 1.2.840.113556.1.4.221 NAME 'sAMAccountName' EQUALITY caseIgnoreMatch
  SYNTAX 1.3.6.1.4.1.1466.115.121.1.15 SINGLE-VALUE )
objectclass ( 1.2.840.113556.1.5.6 NAME 'securityPrincipal' AUXILIARY MAY ( objectSid $ sAMAccountName ) )
objectclass ( 1.2.840.113556.1.5.9 NAME 'user' SUP top STRUCTURAL MUST cn
  MAY ( objectSid $ sAMAccountName $ userPrincipalName $ servicePrincipalName $ altSecurityIdentities $ mail ) )
objectclass ( 1.3.6.1.4.1.4203.666.11.99.2 NAME 'memberGroup' AUXILIARY MAY ( member ) )
";

/// What a directory is started with beside the usual.
#[derive(Clone, Debug)]
pub struct Options {
    /// Lines of slapd.conf before the database, such as `sizelimit 5`.
    pub global: &'static str,
    /// Rights of others than the administrator, as lines of the database.
    pub access: &'static str,
    /// Overlays, as lines of the database.
    pub overlays: &'static str,
    /// Of the certificate.
    pub subject_alt_name: &'static str,
    /// The name that all entries end in; [`BASE`] is below it.
    pub suffix: &'static str,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            global: "",
            access: "access to attrs=userPassword by anonymous auth by * none
access to * by dn.exact=\"cn=rcmpd,dc=contoso,dc=example\" read by * none",
            overlays: "",
            subject_alt_name: "DNS:localhost,IP:127.0.0.1",
            suffix: BASE,
        }
    }
}

/// A directory; it ends with this value.
#[derive(Debug)]
pub struct Slapd {
    folder: tempfile::TempDir,
    child: Option<Child>,
    /// Port of LDAP over TLS.
    pub ldaps: u16,
    /// Port of LDAP, with StartTLS.
    pub ldap: u16,
}

impl Slapd {
    /// A directory with these entries below [`PEOPLE`] and [`GROUPS`].
    pub fn start(entries: &str) -> Self {
        Self::with(entries, &Options::default())
    }

    /// The same with other options.
    pub fn with(entries: &str, options: &Options) -> Self {
        let folder = tempfile::tempdir().expect("there is room for temporary files");
        certificates(folder.path(), options.subject_alt_name);
        fs::create_dir(folder.path().join("db")).expect("the folder is new");
        let path = |name: &str| folder.path().join(name).display().to_string();
        fs::write(path("own.schema"), SCHEMA).expect("the folder can be written");
        let configuration = format!(
            "include /etc/ldap/schema/core.schema
include /etc/ldap/schema/cosine.schema
include /etc/ldap/schema/inetorgperson.schema
include /etc/ldap/schema/nis.schema
include {own}
modulepath /usr/lib/ldap
moduleload back_mdb
{modules}
pidfile {pid}
TLSCACertificateFile {ca}
TLSCertificateFile {certificate}
TLSCertificateKeyFile {key}
{global}
database mdb
suffix \"{suffix}\"
rootdn \"{ROOT}\"
rootpw root
directory {db}
dbnosync
index objectClass,uid,uidNumber,gidNumber,cn,member,memberUid,userPrincipalName,servicePrincipalName eq
index altSecurityIdentities eq,sub
index objectSid,sAMAccountName eq
{access}
{overlays}
",
            own = path("own.schema"),
            pid = path("pid"),
            ca = path("ca.pem"),
            certificate = path("server.pem"),
            key = path("server.key"),
            db = path("db"),
            modules = ["ppolicy", "memberof"]
                .map(|name| if options.overlays.contains(name) {
                    format!("moduleload {name}")
                } else {
                    String::new()
                })
                .join("\n"),
            global = options.global,
            suffix = options.suffix,
            access = options.access,
            overlays = options.overlays,
        );
        fs::write(path("slapd.conf"), configuration).expect("the folder can be written");
        let above = match options.suffix {
            "" => "dn: dc=example\nobjectClass: domain\ndc: example\n\n",
            _ => "",
        };
        let ldif = format!(
            "{above}dn: {BASE}\nobjectClass: domain\ndc: contoso\n\n\
             dn: {READER}\nobjectClass: organizationalRole\nobjectClass: simpleSecurityObject\ncn: rcmpd\nuserPassword: {SECRET}\n\n\
             dn: {PEOPLE}\nobjectClass: organizationalUnit\nou: people\n\n\
             dn: {GROUPS}\nobjectClass: organizationalUnit\nou: groups\n\n{entries}"
        );
        fs::write(path("all.ldif"), ldif).expect("the folder can be written");
        let mut command = Command::new("/usr/sbin/slapadd");
        command.args(["-q", "-f", &path("slapd.conf"), "-l", &path("all.ldif")]);
        let done = command.stdin(Stdio::null()).output().expect("slapadd starts: tests/peers/install");
        assert!(done.status.success(), "slapadd: {}", String::from_utf8_lossy(&done.stderr));
        let (ldaps, ldap) = (free_port().port(), free_port().port());
        let mut slapd = Self { folder, child: None, ldaps, ldap };
        slapd.run();
        slapd
    }

    /// Starts it again after [`Self::stop`], at the same ports.
    pub fn run(&mut self) {
        let urls =
            format!("ldaps://127.0.0.1:{}/ ldap://127.0.0.1:{}/ {}", self.ldaps, self.ldap, self.socket());
        let child = Command::new("/usr/sbin/slapd")
            .args(["-f", &self.path("slapd.conf").display().to_string(), "-h", &urls, "-d", "0"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("slapd starts: tests/peers/install");
        self.child = Some(child);
        let deadline = Instant::now() + Duration::from_secs(30);
        while std::net::TcpStream::connect(("127.0.0.1", self.ldaps)).is_err() {
            assert!(Instant::now() < deadline, "slapd does not listen");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Ends it.
    pub fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Sends a signal, such as `STOP` or `CONT`.
    pub fn signal(&self, signal: &str) {
        let id = self.pid().to_string();
        let sent = Command::new("kill").args([&format!("-{signal}"), &id]).status();
        assert!(sent.expect("kill starts").success());
    }

    fn socket(&self) -> String {
        format!("ldapi://{}", self.path("socket").display().to_string().replace('/', "%2F"))
    }

    /// A file of its folder: `ca.pem` is its CA.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("it runs").id()
    }

    /// Changes entries as the administrator, by `ldapmodify`.
    #[track_caller]
    pub fn modify(&self, ldif: &str) {
        let mut child = Command::new("ldapmodify")
            .args(["-x", "-H", &self.socket(), "-D", ROOT, "-w", "root"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("ldapmodify starts: tests/peers/install");
        let mut stdin = child.stdin.take().expect("it is piped");
        stdin.write_all(ldif.as_bytes()).expect("it reads");
        drop(stdin);
        let done = child.wait_with_output().expect("it ends");
        assert!(done.status.success(), "ldapmodify: {}", String::from_utf8_lossy(&done.stderr));
    }
}

impl Drop for Slapd {
    fn drop(&mut self) {
        self.stop();
    }
}

/// A CA (`ca.pem`) and a certificate with its key (`server.pem`, `server.key`) in a folder.
pub fn certificates(folder: &Path, subject_alt_name: &str) {
    let key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "30"];
    let ca = ["req", "-x509", "-subj", "/CN=Directory CA", "-keyout", "ca.key", "-out", "ca.pem"];
    openssl(folder, &[&ca[..], &key].concat());
    let request = ["req", "-subj", "/CN=localhost", "-keyout", "server.key", "-out", "server.csr"];
    openssl(folder, &[&request[..], &key[..5]].concat());
    let extensions = match subject_alt_name {
        "" => "basicConstraints=CA:FALSE\n".to_owned(),
        name => format!("basicConstraints=CA:FALSE\nsubjectAltName={name}\n"),
    };
    fs::write(folder.join("server.cnf"), extensions).expect("the folder can be written");
    let sign = ["x509", "-req", "-in", "server.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial"];
    openssl(folder, &[&sign[..], &["-days", "30", "-extfile", "server.cnf", "-out", "server.pem"]].concat());
}

/// An entry of an LDIF file. Values are in base64, so they may have any character.
pub fn entry(dn: &str, attributes: &[(&str, &str)]) -> String {
    let attributes = attributes.iter().map(|(name, value)| (*name, value.as_bytes()));
    entry_of_bytes(dn, &attributes.collect::<Vec<_>>())
}

/// The same of values that are no text.
pub fn entry_of_bytes(dn: &str, attributes: &[(&str, &[u8])]) -> String {
    let mut text = format!("dn:: {}\n", base64(dn.as_bytes()));
    for (name, value) in attributes {
        // Writing to a string does not fail.
        let _ = writeln!(text, "{name}:: {}", base64(value));
    }
    text.push('\n');
    text
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let digit = |group: [u8; 3], at: usize| {
        let bits = u32::from_be_bytes([0, group[0], group[1], group[2]]) >> (18 - 6 * at);
        char::from(DIGITS[(bits & 63) as usize])
    };
    let groups = bytes.chunks(3).flat_map(|chunk| {
        let group = std::array::from_fn(|at| chunk.get(at).copied().unwrap_or_default());
        (0..4).map(move |at| if at <= chunk.len() { digit(group, at) } else { '=' })
    });
    groups.collect()
}
