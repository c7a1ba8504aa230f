//! MIT Kerberos as a peer: its KDC issues the tickets, and its GSS-API is the other end, as initiator and as
//! acceptor.
//!
//! The KDC listens on the loopback interface, with a database of its own for each test.

use crate::ports::free_port;
use crate::support::{Answer, accept, now, private, random, ready, script};
use dcerpc::pdu::{PacketFlags, PacketType, SecTrailer, start_pdu};
use dcerpc::security::{AuthLevel, AuthType, Outgoing, OutgoingFragment, ProtectedFragment, Protection};
use rpc_auth::kerberos::{
    ClientRealm, Credential, CredentialCache, Etype, KerberosAcceptor, KerberosConfig, KerberosInitiator,
    Keytab, Principal, RealmKind, ReplayCache, SKEW_DEFAULT, SharedKeytab, TgsRequest,
};
use rpc_auth::spnego::{SpnegoAcceptor, SpnegoInitiator, SpnegoMechanism};
use rpc_auth::{Acceptor, Initiator, InitiatorStep, MechanismContext, Refusal, RefusalReason, Step};
use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

const REALM: &str = "RPC.TEST";
const PASSWORD: &str = "Pa55word!";
/// How long the KDC may take until it listens.
const START_TIME_MAX: Duration = Duration::from_secs(20);

/// A realm with a KDC, the user alice, and the service sso/srv with a keytab.
struct Realm {
    folder: tempfile::TempDir,
    kdc: Child,
    port: u16,
}

impl Drop for Realm {
    fn drop(&mut self) {
        drop(self.kdc.kill());
        drop(self.kdc.wait());
    }
}

impl Realm {
    fn new(etype: Etype) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let port = free_port().port();
        let path = folder.path();
        let at = |name: &str| path.join(name).display().to_string();
        fs::write(
            path.join("krb5.conf"),
            format!(
                "[libdefaults]\n default_realm = {REALM}\n dns_lookup_kdc = false\n dns_lookup_realm = false\n rdns = false\n \
                 dns_canonicalize_hostname = false\n udp_preference_limit = 1\n permitted_enctypes = {etype}\n\
                 [realms]\n {REALM} = {{\n kdc = 127.0.0.1:{port}\n }}\n"
            ),
        )
        .expect("written");
        fs::write(
            path.join("kdc.conf"),
            format!(
                "[kdcdefaults]\n kdc_listen = \"\"\n kdc_tcp_listen = 127.0.0.1:{port}\n\
                 [realms]\n {REALM} = {{\n database_name = {}\n key_stash_file = {}\n acl_file = {}\n \
                 master_key_type = aes256-cts-hmac-sha1-96\n supported_enctypes = {etype}:normal\n }}\n\
                 [logging]\n kdc = FILE:{}\n default = FILE:{}\n",
                at("principal"),
                at("stash"),
                at("acl"),
                at("kdc.log"),
                at("kdc.log"),
            ),
        )
        .expect("written");
        run(path, "/usr/sbin/kdb5_util", &["create", "-s", "-r", REALM, "-P", "master"], "");
        let admin = |query: &str| run(path, "/usr/sbin/kadmin.local", &["-r", REALM, "-q", query], "");
        admin(&format!("addprinc -pw {PASSWORD} alice"));
        admin("addprinc -randkey sso/srv");
        admin("addprinc -randkey web/srv");
        admin(&format!("ktadd -norandkey -k {} sso/srv web/srv", at("keytab")));
        let kdc = command(path, "/usr/sbin/krb5kdc")
            .args(["-n", "-r", REALM])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("krb5kdc is missing: run tests/peers/install");
        let realm = Self { kdc, port, folder };
        let deadline = Instant::now() + START_TIME_MAX;
        while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() {
            assert!(Instant::now() < deadline, "the KDC does not listen: {}", realm.log());
            std::thread::sleep(Duration::from_millis(20));
        }
        run(realm.path(), "kinit", &["alice"], &format!("{PASSWORD}\n"));
        realm
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn log(&self) -> String {
        fs::read_to_string(self.path().join("kdc.log")).unwrap_or_default()
    }

    fn config(&self, kind: RealmKind) -> Arc<KerberosConfig> {
        let keytab = fs::read(self.path().join("keytab")).expect("a keytab");
        Arc::new(KerberosConfig {
            keytab: Arc::new(SharedKeytab::new(Keytab::decode(&keytab).expect("MIT's keytab"))),
            services: Vec::new(),
            client_realms: vec![ClientRealm { name: REALM.to_owned(), kind }],
            skew: SKEW_DEFAULT,
            replay: Arc::new(ReplayCache::default()),
        })
    }

    fn ccache(&self) -> CredentialCache {
        let bytes = fs::read(self.path().join("ccache")).expect("a cache");
        CredentialCache::decode(&bytes).expect("MIT's cache")
    }

    /// Asks the KDC by TCP.
    fn ask(&self, message: &[u8]) -> Vec<u8> {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).expect("the KDC");
        stream.set_read_timeout(Some(START_TIME_MAX)).expect("a time");
        stream.write_all(&(message.len() as u32).to_be_bytes()).expect("sent");
        stream.write_all(message).expect("sent");
        let mut len = [0; 4];
        stream.read_exact(&mut len).expect("an answer");
        let mut reply = vec![0; u32::from_be_bytes(len) as usize];
        stream.read_exact(&mut reply).expect("an answer");
        reply
    }

    fn ticket(&self, service: &str) -> Result<Credential, Refusal> {
        let cache = self.ccache();
        let ticket_granting = cache.ticket_granting(now()).expect("a ticket-granting ticket");
        let service = Principal::parse(service, REALM).expect("a principal");
        let (request, message) = TgsRequest::new(ticket_granting, service, now(), &mut random)?;
        request.reply(&self.ask(&message))
    }
}

fn command(folder: &Path, program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    let at = |name: &str| folder.join(name);
    command
        .env("KRB5_CONFIG", at("krb5.conf"))
        .env("KRB5_KDC_PROFILE", at("kdc.conf"))
        .env("KRB5_KTNAME", at("keytab"))
        .env("KRB5CCNAME", at("ccache"))
        .env("KRB5RCACHEDIR", folder);
    command
}

fn run(folder: &Path, program: &str, arguments: &[&str], input: &str) {
    let child = command(folder, program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = child.unwrap_or_else(|error| panic!("{program}: {error}; run tests/peers/install"));
    child.stdin.take().expect("piped").write_all(input.as_bytes()).expect("read");
    let done = child.wait_with_output().expect("ended");
    assert!(done.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
}

/// MIT's end of a context.
struct Peer {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Drop for Peer {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Peer {
    fn new(realm: &Realm) -> Self {
        Self::run(realm, Path::new("/usr/bin/python3"), "gss_peer.py")
    }

    fn impacket(realm: &Realm) -> Self {
        Self::run(realm, &private().join("venv/bin/python"), "impacket_kerberos.py")
    }

    fn run(realm: &Realm, python: &Path, name: &str) -> Self {
        let mut child = command(realm.path(), python)
            .arg(script(name))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{}: {error}; run tests/peers/install", python.display()));
        let (input, output) = (child.stdin.take().expect("piped"), child.stdout.take().expect("piped"));
        Self { child, input, output: BufReader::new(output) }
    }

    fn ask(&mut self, command: &str, arguments: &[&[u8]]) -> Answer {
        let hex = |bytes: &&[u8]| if bytes.is_empty() { "-".to_owned() } else { dtyp::hex(bytes) };
        let arguments: Vec<String> = arguments.iter().map(hex).collect();
        self.ask_text(command, &arguments.join(" "))
    }

    fn ask_text(&mut self, command: &str, arguments: &str) -> Answer {
        writeln!(self.input, "{command} {arguments}").expect("the peer lives");
        let mut line = String::new();
        self.output.read_line(&mut line).expect("the peer lives");
        assert!(
            !line.is_empty(),
            "{command}: the peer ended; a module may be missing: run tests/peers/install"
        );
        Answer(line)
    }
}

/// MIT's end, ours, and the first token.
type Accepted = (Peer, Box<dyn MechanismContext>, Vec<u8>);

/// Tokens that one side sends at most; SPNEGO with a list that is signed has three.
const LEGS_MAX: usize = 4;

fn kerberos_acceptor(config: &Arc<KerberosConfig>) -> Box<dyn Acceptor> {
    Box::new(KerberosAcceptor::new(Arc::clone(config)))
}

fn spnego_acceptor(config: &Arc<KerberosConfig>) -> Box<dyn Acceptor> {
    Box::new(SpnegoAcceptor::new(vec![(SpnegoMechanism::Kerberos, kerberos_acceptor(config))]))
}

/// Our acceptor with MIT's initiator of this mechanism.
fn accepted(realm: &Realm, mechanism: &str, mut acceptor: Box<dyn Acceptor>) -> Result<Accepted, Refusal> {
    let mut peer = Peer::new(realm);
    let first = peer.ask_text("initiate", &format!("{mechanism} sso/srv@{REALM}")).bytes("token");
    let mut token = first.clone();
    for _ in 0..LEGS_MAX {
        match accept(acceptor, &token)? {
            Step::Continue { token: answer, next } => {
                token = peer.ask("step", &[&answer]).bytes("token");
                acceptor = next;
            }
            Step::Complete { token, context } => {
                if !token.is_empty() {
                    let answer = peer.ask("step", &[&token]);
                    assert!(answer.0.contains("\"complete\": true"), "{}", answer.0);
                }
                return Ok((peer, context, first));
            }
        }
    }
    panic!("more tokens than a mechanism has")
}

/// MIT's acceptor with our initiator.
fn initiated(realm: &Realm, mut initiator: Box<dyn Initiator>) -> (Peer, Box<dyn MechanismContext>) {
    let mut peer = Peer::new(realm);
    peer.ask("accept", &[]);
    let mut answer: Option<Vec<u8>> = None;
    for _ in 0..LEGS_MAX {
        let step = initiator.step(answer.as_deref(), now(), &mut random).map_err(|refusal| refusal.detail);
        match step.expect("MIT's token") {
            InitiatorStep::Continue { token, next } => {
                answer = Some(peer.ask("step", &[&token]).bytes("token"));
                initiator = next;
            }
            InitiatorStep::Complete { token, context } => {
                if !token.is_empty() {
                    let answer = peer.ask("step", &[&token]);
                    assert_eq!(answer.text("client"), format!("alice@{REALM}"), "{}", answer.0);
                }
                return (peer, context);
            }
        }
    }
    panic!("more tokens than a mechanism has")
}

fn protection(level: AuthLevel, header_signing: bool) -> Protection {
    Protection { level, header_signing }
}

/// Fragments of several lengths in both directions, sealed and signed, with and without header signing.
fn exchange(peer: &mut Peer, ours: &mut Box<dyn MechanismContext>) {
    for header_signing in [true, false] {
        for len in [1, 16, 40, 44, 1000] {
            let plain: Vec<u8> = (0..len).map(|n| n as u8).collect();
            let (header, trailer) = ([0x11; 24], [0x22; 8]);
            let signed: [&[u8]; 2] = if header_signing { [&header, &trailer] } else { [&[], &[]] };
            let sealed = protection(AuthLevel::PRIVACY, header_signing);
            let answer = peer.ask("seal", &[signed[0], &plain, signed[1]]);
            let (mut body, token) = (answer.bytes("body"), answer.bytes("token"));
            assert_eq!(token.len(), ours.token_len(AuthLevel::PRIVACY));
            // A body of one byte may be its own ciphertext.
            assert!(len == 1 || body != plain);
            let fragment =
                ProtectedFragment { header: &header, body: &mut body, trailer: &trailer, token: &token };
            ours.unprotect(sealed, fragment).expect("MIT's token");
            assert_eq!(body, plain);

            let (wire, header_len) = protect(ours, sealed, &plain);
            let token_start = wire.len() - token.len();
            let (front, token) = wire.split_at(token_start);
            let (front, trailer) = front.split_at(front.len() - SecTrailer::LEN);
            let (header, body) = front.split_at(header_len);
            let signed: [&[u8]; 2] = if header_signing { [header, trailer] } else { [&[], &[]] };
            let answer = peer.ask("unseal", &[signed[0], body, signed[1], token]);
            assert_eq!(answer.bytes("body"), plain);
            assert!(answer.0.contains("\"sealed\": true"), "{}", answer.0);

            // A MIC over all three, which is what integrity alone has.
            let mic = protection(AuthLevel::INTEGRITY, header_signing);
            let (header, trailer) = ([0x11; 24], [0x22; 8]);
            let data = if header_signing { [&header[..], &plain, &trailer].concat() } else { plain.clone() };
            let token = peer.ask("sign", &[&data]).bytes("token");
            let mut body = plain.clone();
            let fragment =
                ProtectedFragment { header: &header, body: &mut body, trailer: &trailer, token: &token };
            ours.unprotect(mic, fragment).expect("MIT's MIC");
            let (wire, header_len) = protect(ours, mic, &plain);
            let (data, token) = wire.split_at(wire.len() - ours.token_len(AuthLevel::INTEGRITY));
            let data = if header_signing { data } else { &data[header_len..header_len + plain.len()] };
            let answer = peer.ask("verify", &[data, token]);
            assert!(!answer.is_error(), "{}", answer.0);
        }
    }
    // What was changed on the way is refused by MIT too: the test of the test.
    let (mut wire, header_len) = protect(ours, protection(AuthLevel::PRIVACY, false), b"text");
    wire[header_len] ^= 1;
    let (body, rest) = wire[header_len..].split_at(4);
    let answer = peer.ask("unseal", &[&[], body, &[], &rest[SecTrailer::LEN..]]);
    assert!(answer.is_error(), "{}", answer.0);
}

fn protect(ours: &mut Box<dyn MechanismContext>, protection: Protection, plain: &[u8]) -> (Vec<u8>, usize) {
    let header = start_pdu(PacketType::RESPONSE, PacketFlags::WHOLE, 1);
    let header_len = header.len();
    let trailer = SecTrailer {
        auth_type: AuthType::KERBEROS,
        auth_level: protection.level,
        auth_pad_length: 0,
        auth_context_id: 1,
    };
    let fragments = vec![OutgoingFragment { header, body: 0..plain.len(), pad: 0, trailer }];
    let message = Outgoing { stub: plain.to_vec(), inner: None, fragments };
    (ready(ours.protect(protection, message)), header_len)
}

fn with_both_ends(etype: Etype) {
    let realm = Realm::new(etype);
    let config = realm.config(RealmKind::Mit);
    // MIT starts, we accept. Its KDC puts a PAC without SIDs into the ticket.
    let (mut peer, mut context, first) =
        accepted(&realm, "kerberos", kerberos_acceptor(&config)).expect("accepted");
    let user = context.user().expect("a user");
    assert_eq!((&user.name[..], &user.domain[..], user.sid), ("alice", REALM, None));
    exchange(&mut peer, &mut context);
    let again = accept(kerberos_acceptor(&config), &first).map(|_| ());
    assert_eq!(again.map_err(|refusal| refusal.reason), Err(RefusalReason::Replay));
    // The same ticket, where a PAC without SIDs is not enough.
    let strict = kerberos_acceptor(&realm.config(RealmKind::ActiveDirectory));
    let refused = accepted(&realm, "kerberos", strict).map(|_| ());
    assert_eq!(refused.map_err(|refusal| refusal.reason), Err(RefusalReason::PacWithoutLogonInfo));

    // We start, MIT accepts.
    let credential = realm.ticket("sso/srv").expect("a ticket");
    assert_eq!((credential.key.etype(), credential.service.to_string()), (etype, format!("sso/srv@{REALM}")));
    let (mut peer, mut context) = initiated(&realm, Box::new(KerberosInitiator::new(credential)));
    exchange(&mut peer, &mut context);
}

/// The client of Impacket: its AP-REQ has a frame inside of SPNEGO, its numbers start at 0, and its filler is
/// as long as the body needs it.
#[test]
fn impacket_inside_of_spnego() {
    for etype in [Etype::Aes256Sha1, Etype::Aes128Sha1] {
        let realm = Realm::new(etype);
        let config = realm.config(RealmKind::Mit);
        let cache = realm.ccache();
        let ticket_granting = cache.ticket_granting(now()).expect("a ticket-granting ticket");
        let service = Principal::parse("sso/srv", REALM).expect("a principal");
        let (request, message) =
            TgsRequest::new(ticket_granting, service, now(), &mut random).expect("a request");
        let reply = realm.ask(&message);
        let credential = request.reply(&reply).expect("a ticket");

        let mut peer = Peer::impacket(&realm);
        let (reply, key) = (dtyp::hex(&reply), dtyp::hex(credential.key.expose()));
        let arguments = format!("alice {REALM} {reply} {} {key}", etype.number());
        let first = peer.ask_text("initiate", &arguments).bytes("token");
        let Ok(Step::Continue { token, next }) = accept(spnego_acceptor(&config), &first) else {
            panic!("refused")
        };
        let third = peer.ask("step", &[&token]).bytes("token");
        let step = accept(next, &third).map_err(|refusal| refusal.detail);
        let Ok(Step::Complete { mut context, .. }) = step else { panic!("{:?}", step.err()) };
        assert_eq!(context.user().expect("a user").name, "alice");

        // Impacket does not sign the header.
        let sealed = protection(AuthLevel::PRIVACY, false);
        for (number, len) in [16, 1, 15, 40, 44, 1000].into_iter().enumerate() {
            let plain: Vec<u8> = (0..len).map(|n| n as u8).collect();
            let answer = peer.ask_text("seal", &format!("{number} {}", dtyp::hex(&plain)));
            let (mut body, token) = (answer.bytes("body"), answer.bytes("token"));
            let fragment = ProtectedFragment { header: &[], body: &mut body, trailer: &[], token: &token };
            context.unprotect(sealed, fragment).expect("Impacket's token");
            assert_eq!(body, plain);
            let (wire, header_len) = protect(&mut context, sealed, &plain);
            let (body, rest) = wire[header_len..].split_at(len);
            let answer = peer.ask("unseal", &[body, &rest[SecTrailer::LEN..]]);
            assert_eq!(answer.bytes("body"), plain);
        }
        let token = peer.ask_text("sign", "6 00112233").bytes("token");
        let mut body = [0, 0x11, 0x22, 0x33];
        let fragment = ProtectedFragment { header: &[], body: &mut body, trailer: &[], token: &token };
        context.unprotect(protection(AuthLevel::INTEGRITY, false), fragment).expect("Impacket's MIC");
    }
}

#[test]
fn mit_kerberos_inside_of_spnego() {
    let realm = Realm::new(Etype::Aes256Sha1);
    let config = realm.config(RealmKind::Mit);
    let (mut peer, mut context, _) = accepted(&realm, "spnego", spnego_acceptor(&config)).expect("accepted");
    assert_eq!(context.user().expect("a user").name, "alice");
    exchange(&mut peer, &mut context);
    let kerberos: Box<dyn Initiator> =
        Box::new(KerberosInitiator::new(realm.ticket("sso/srv").expect("a ticket")));
    let initiator = SpnegoInitiator::new(vec![(SpnegoMechanism::Kerberos, kerberos)]);
    let (mut peer, mut context) = initiated(&realm, Box::new(initiator));
    exchange(&mut peer, &mut context);
}

#[test]
fn mit_kerberos_with_aes256_and_sha1() {
    with_both_ends(Etype::Aes256Sha1);
}

#[test]
fn mit_kerberos_with_aes128_and_sha1() {
    with_both_ends(Etype::Aes128Sha1);
}

#[test]
fn mit_kerberos_with_aes128_and_sha256() {
    with_both_ends(Etype::Aes128Sha256);
}

#[test]
fn mit_kerberos_with_aes256_and_sha384() {
    with_both_ends(Etype::Aes256Sha384);
}

#[test]
fn a_ticket_for_another_service_is_refused_under_each_name() {
    let realm = Realm::new(Etype::Aes256Sha1);
    let mut config = realm.config(RealmKind::Mit);
    Arc::get_mut(&mut config).expect("not shared yet").services = vec!["sso/srv".to_owned()];
    let first = |credential: Credential| {
        let initiator: Box<dyn Initiator> = Box::new(KerberosInitiator::new(credential));
        let step = initiator.step(None, now(), &mut random).map_err(|refusal| refusal.detail);
        let Ok(InitiatorStep::Continue { token, .. }) = step else { panic!("{:?}", step.err()) };
        let acceptor = Box::new(KerberosAcceptor::new(Arc::clone(&config)));
        accept(acceptor, &token).map(|_| ()).map_err(|refusal| refusal.reason)
    };
    assert_eq!(first(realm.ticket("sso/srv").expect("a ticket")), Ok(()));
    let credential = realm.ticket("web/srv").expect("a ticket");
    assert_eq!(first(credential.clone()), Err(RefusalReason::Spn));
    // The name of the service is in the clear.
    let mut renamed = credential;
    let at = renamed.ticket.windows(3).position(|window| window == b"web").expect("the name");
    renamed.ticket[at..at + 3].copy_from_slice(b"sso");
    assert_eq!(first(renamed), Err(RefusalReason::Spn));
    let unknown = realm.ticket("cifs/srv").map_err(|refusal| refusal.detail);
    // KDC_ERR_S_PRINCIPAL_UNKNOWN of RFC 4120 7.5.9.
    assert!(unknown.as_ref().is_err_and(|detail| detail.contains("error 7 ")), "{unknown:?}");
}
