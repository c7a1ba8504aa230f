//! A peer that lies: it proves who it is as any peer does, and then says what is not its to say.

use crate::issuing::{Authority, Wanted};
use crate::sidecar::ask_about;
use bytes::Bytes;
use dcerpc_tokio::{Interface, Limits, Peer, Registry, RpcCall, SecurityProvider, Server};
use dtyp::{Encode, FileTime, Guid, NtStatus, Sid};
use netlogon_transport::message::PrimaryDomain;
use netlogon_transport::package::{PackageCall, PackageReply, PackageService, Packages};
use netlogon_transport::secret::SharedSecret;
use netlogon_transport::secrets::{BoxFuture, ChannelSecrets, ChannelType, Machine, SecretsUnavailable};
use netlogon_transport::server::{
    Audit, AuditUnavailable, ChannelEvent, NETLOGON, NetlogonCall, NetlogonServer, ResponseCrypt,
    ServerNames, ServerParts,
};
use pac::{
    Buffer, BufferType, ClientInfo, GroupMembership, LogonInfo, Pac, ResourceGroups, SidAndAttributes,
    UpnDnsInfo, VerifiedPac,
};
use rcmp_service::message::{PACKAGE_NAME, Response};
use rcmpd::clock::SystemEnvironment;
use rcmpd_tests::client::Client;
use rcmpd_tests::{Demo, Finished, Service, write_secret};
use serde_json::Value;
use std::fs;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::{ServiceExt, service_fn};

/// The one account that it knows: the trust of the domain that asks it.
struct Secrets {
    account: String,
    channel_type: ChannelType,
    sid: Sid,
    password: String,
}

impl ChannelSecrets for Secrets {
    fn find<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<Machine>, SecretsUnavailable>> {
        let machine = name.eq_ignore_ascii_case(&self.account).then(|| Machine {
            name: self.account.clone(),
            sid: self.sid,
            channel_type: self.channel_type,
            enabled: true,
            current: SharedSecret::from_password(&self.password),
            previous: None,
            may_map: true,
            domains: Arc::default(),
            groups: Arc::default(),
        });
        Box::pin(std::future::ready(Ok(machine)))
    }

    fn revision(&self) -> Result<u64, SecretsUnavailable> {
        Ok(0)
    }

    fn current_used<'a>(&'a self, _: &'a Machine) -> BoxFuture<'a, Result<(), SecretsUnavailable>> {
        Box::pin(std::future::ready(Ok(())))
    }

    fn rotate<'a>(
        &'a self,
        _: &'a Machine,
        _: SharedSecret,
    ) -> BoxFuture<'a, Result<bool, SecretsUnavailable>> {
        Box::pin(std::future::ready(Ok(true)))
    }
}

struct Silent;

impl Audit for Silent {
    fn channel(&self, _: &ChannelEvent<'_>) -> Result<(), AuditUnavailable> {
        Ok(())
    }
}

struct Provider(NetlogonServer);

impl SecurityProvider for Provider {
    fn auth_type(&self) -> dcerpc::security::AuthType {
        dcerpc::security::AuthType::NETLOGON
    }

    fn accept<'a>(
        &'a self,
        _: &'a Peer,
        request: dcerpc::server::Authenticate,
    ) -> dcerpc_tokio::BoxFuture<'a, dcerpc::security::Authentication> {
        Box::pin(self.0.accept(request))
    }
}

/// What it says, whatever it is asked.
type Speech = Arc<Mutex<Vec<u8>>>;

async fn rogue(package_name: &str, domain: PrimaryDomain, secrets: Secrets, speech: Speech) -> SocketAddr {
    let package = service_fn(move |_: PackageCall| {
        let data = Some(Bytes::from(speech.lock().unwrap().clone()));
        std::future::ready(Ok(PackageReply { status: NtStatus::SUCCESS, authoritative: true, data }))
    });
    let server = NetlogonServer::new(ServerParts {
        names: ServerNames { domain, server: "ROGUE".into(), strict_server_name: false },
        secrets: Arc::new(secrets),
        packages: Packages::default().with(package_name, PackageService::new(package)),
        audit: Arc::new(Silent),
        environment: Arc::new(SystemEnvironment),
        response_crypt: ResponseCrypt::Encrypt,
    });
    let service = server.clone().map_request(|call: RpcCall| NetlogonCall {
        connection: call.peer.connection,
        address: call.peer.address,
        caller: call.connection,
        call: call.call,
    });
    let registry = Registry::default()
        .interface(Interface {
            syntax: NETLOGON,
            name: "netlogon",
            method: |_| None,
            service: tower::util::BoxCloneSyncService::new(service),
        })
        .provider(Arc::new(Provider(server)));
    let listener = tokio::net::TcpListener::bind("127.0.0.3:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = Server::new(registry, Limits::default(), CancellationToken::new(), TaskTracker::new());
    tokio::spawn(server.listen(listener));
    address
}

/// An answer, open to be edited.
#[derive(Clone)]
struct Speaking {
    domain: String,
    logon: LogonInfo,
    client: ClientInfo,
    upn: UpnDnsInfo,
    requestor: Sid,
}

impl Speaking {
    fn bytes(&self) -> Vec<u8> {
        let mut logon = Vec::new();
        self.logon.encode(&mut logon);
        let buffer = |buffer_type, data| Buffer { buffer_type, data };
        let pac = Pac {
            buffers: vec![
                buffer(BufferType::LOGON_INFO, logon),
                buffer(BufferType::CLIENT_INFO, self.client.to_bytes()),
                buffer(BufferType::UPN_DNS_INFO, self.upn.to_bytes()),
                buffer(BufferType::REQUESTOR_SID, self.requestor.to_bytes()),
            ],
        };
        Response::encode(&pac.to_bytes(), &self.domain)
    }

    /// Another account of the domain, said the same everywhere.
    fn called(&mut self, name: &str) {
        self.logon.effective_name = name.into();
        self.client.name = name.into();
        self.upn.extended = Some((name.into(), self.requestor));
    }
}

fn decision(demo: &Demo) -> Value {
    demo.audit("map").pop().unwrap()
}

/// What a service answers about alice.
async fn truth(honest: &Service) -> Speaking {
    let password = fs::read_to_string(honest.path("machines/WEB01.secret")).unwrap();
    let client =
        Client::establish(&honest.netlogon.to_string(), "CONTOSO", "WEB01$", password.trim()).await.unwrap();
    let mut association = client.open().await.unwrap();
    let chain = trust_tokio::certificates::Chain::read(honest.certificate("alice").as_ref(), None).unwrap();
    let request = rcmp_service::message::Request {
        flags: rcmp_service::message::MappingFlags::UPN,
        certificate: chain.certificate(),
        issuers: vec![],
    };
    let answer =
        client.channel.ask(&mut *association, PACKAGE_NAME, "CONTOSO", &request.encode().unwrap()).await;
    let truth = answer.unwrap().data.unwrap().decrypted();
    let decoded = Response::decode(&truth).unwrap();
    let pac = VerifiedPac::decode(decoded.auth_data).unwrap();
    Speaking {
        domain: decoded.domain.clone(),
        logon: pac.logon_info,
        client: pac.client_info.unwrap(),
        upn: pac.upn_dns_info.unwrap(),
        requestor: pac.requestor_sid.unwrap(),
    }
}

/// Says that it is bob.
fn bob(mut said: Speaking) -> Speaking {
    said.logon.user_id = 1002;
    said.requestor = said.logon.logon_domain_id.with_rid(1002).unwrap();
    said.called("bob");
    said
}

/// A domain that asks a peer that lies.
struct Scene {
    /// A service of the peer's domain, from which the truth comes.
    honest: Service,
    truth: Speaking,
    asking: Service,
    speech: Speech,
    ours: Sid,
    theirs: Sid,
}

impl Scene {
    async fn new() -> Self {
        let honest = Demo::new().serve();
        let truth = truth(&honest).await;
        let asking = Demo::domain("NORTHWIND", "NORDC1", "127.0.0.1", &honest);
        let (ours, theirs): (Sid, Sid) =
            (asking.domain_sid().parse().unwrap(), honest.domain_sid().parse().unwrap());
        let speech = Speech::default();
        let secret = "The-secret-of-a-trust-with-a-peer-that-lies";
        let address = rogue(
            PACKAGE_NAME,
            PrimaryDomain {
                netbios: "CONTOSO".into(),
                dns: "contoso.example".into(),
                guid: Guid::NIL,
                sid: theirs,
            },
            Secrets {
                account: "NORTHWIND$".into(),
                channel_type: ChannelType::TRUSTED_DOMAIN,
                sid: theirs.with_rid(5000).unwrap(),
                password: secret.into(),
            },
            Arc::clone(&speech),
        )
        .await;
        write_secret(asking.path("contoso.secret"), secret);
        asking.configure(&format!(
            "{}direction = \"outbound\"\nservers = [\"{address}\"]\nsecret = \"file:contoso.secret\"",
            honest.as_peer()
        ));
        let asking = asking.serve();
        Self { honest, truth, asking, speech, ours, theirs }
    }

    /// What the peer says from now on.
    fn says(&self, said: &Speaking) {
        *self.speech.lock().unwrap() = said.bytes();
    }

    fn ask(&self, name: &str) -> Finished {
        self.asking.rcmpd(&["map", &self.honest.certificate(name), "-c", "client.toml", "--json"])
    }
}

const fn group(rid: u32) -> GroupMembership {
    GroupMembership { rid, attributes: 7 }
}

const fn extra(sid: Sid) -> SidAndAttributes {
    SidAndAttributes { sid, attributes: 7 }
}

fn with_extra(sid: Sid) -> impl Fn(&mut Speaking) {
    move |said| {
        said.logon.extra_sids.push(extra(sid));
        said.logon.user_flags = said.logon.presence_flags();
    }
}

fn with_resource_groups(domain: Sid) -> impl Fn(&mut Speaking) {
    move |said| {
        said.logon.resource_groups = Some(ResourceGroups { domain, groups: vec![group(1103)] });
        said.logon.user_flags = said.logon.presence_flags();
    }
}

/// What a lie is, how it is told, and the rejection that it gets.
type Lie = (&'static str, Box<dyn Fn(&mut Speaking)>, &'static str);

/// What is not a peer's to say: of this domain, of a third one, and of other accounts.
fn lies(ours: Sid) -> Vec<Lie> {
    let third: Sid = "S-1-5-21-9-9-9".parse().unwrap();
    vec![
        ("a third domain's SID", Box::new(with_extra(third.with_rid(512).unwrap())), "foreign_sid"),
        ("our administrators' SID", Box::new(with_extra(ours.with_rid(512).unwrap())), "our_sid"),
        ("BUILTIN's administrators", Box::new(with_extra("S-1-5-32-544".parse().unwrap())), "builtin_sid"),
        ("our resource group's SID", Box::new(with_resource_groups(ours)), "our_resource_groups"),
        (
            "UserId 0",
            Box::new(move |said: &mut Speaking| {
                said.logon.user_id = 0;
                said.logon.extra_sids.insert(0, extra(ours.with_rid(500).unwrap()));
                said.logon.user_flags = said.logon.presence_flags();
                said.upn.extended = None;
            }),
            "no_user_id",
        ),
        (
            "our UPN suffix",
            Box::new(|said: &mut Speaking| said.upn.upn = "alice@northwind.example".into()),
            "our_upn_suffix",
        ),
        (
            "our LogonDomainName",
            Box::new(|said: &mut Speaking| said.logon.logon_domain_name = "NORTHWIND".into()),
            "our_logon_domain_name",
        ),
        (
            "our LogonDomainId",
            Box::new(move |said: &mut Speaking| {
                said.logon.logon_domain_id = ours;
                said.requestor = ours.with_rid(said.logon.user_id).unwrap();
                said.upn.extended = Some(("alice".into(), said.requestor));
            }),
            "our_logon_domain_id",
        ),
        ("our domain's name", Box::new(|said: &mut Speaking| said.domain = "northwind".into()), "our_domain"),
        (
            "our DNS name",
            Box::new(|said: &mut Speaking| said.upn.dns_domain_name = "NORTHWIND.EXAMPLE".into()),
            "our_dns_domain_name",
        ),
        (
            "a third domain's name",
            Box::new(|said: &mut Speaking| said.domain = "OTHER".into()),
            "other_domain",
        ),
        ("a plain alice", Box::new(|said: &mut Speaking| said.upn.upn = "alice".into()), "upn_form"),
        (
            "a plain alice of no domain",
            Box::new(|said: &mut Speaking| said.logon.logon_domain_name = "".into()),
            "other_logon_domain_name",
        ),
        (
            "a name with another domain in it",
            Box::new(|said: &mut Speaking| said.called("NORTHWIND\\alice")),
            "effective_name",
        ),
        (
            "a name with our suffix in it",
            Box::new(|said: &mut Speaking| said.called("alice@northwind.example")),
            "effective_name",
        ),
        (
            "another account than the certificate says",
            Box::new(|said: &mut Speaking| *said = bob(said.clone())),
            "sid_mismatch",
        ),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_says_what_is_its_own_and_nothing_else() {
    let scene = Scene::new().await;
    scene.says(&scene.truth);
    let done = scene.ask("alice").code(0).json();
    assert_eq!((done["domain"].as_str(), done["account"].as_str()), (Some("CONTOSO"), Some("alice")));

    each_lie_is_rejected(&scene);
    what_is_its_own_counts_within_the_scope_of_the_machine(&scene);
    a_sid_in_a_uri_counts_as_one_in_the_extension(&scene);
    rubbish_is_no_decision(&scene);

    // Times are its own to say, and it goes on.
    let mut said = scene.truth.clone();
    said.logon.logoff_time = FileTime::NEVER;
    scene.says(&said);
    scene.ask("alice").code(0);
}

fn each_lie_is_rejected(scene: &Scene) {
    for (what, lie, rejection) in lies(scene.ours) {
        let mut said = scene.truth.clone();
        lie(&mut said);
        scene.says(&said);
        let done = scene.ask("alice").code(3);
        assert_eq!(done.json()["status"]["name"], "STATUS_LOGON_FAILURE", "{what}: {done:?}");
        let line = decision(&scene.asking);
        assert_eq!(line["reason"], "response_rejected", "{what}: {line:#}");
        assert_eq!(line["rejection"], rejection, "{what}: {line:#}");
        assert_eq!(line["peer"], "CONTOSO", "{what}");
        assert_eq!(line["account"], Value::Null, "{what}: no account is written down as let in");
    }
}

/// What it may say of its own, and what means nothing here, is another thing than a lie.
fn what_is_its_own_counts_within_the_scope_of_the_machine(scene: &Scene) {
    let theirs = scene.theirs;
    let mut said = scene.truth.clone();
    with_resource_groups(theirs)(&mut said);
    said.logon.logon_script = r"\\evil\run.cmd".into();
    said.logon.group_ids.push(group(512));
    scene.says(&said);
    // Nor does a machine get answers for another domain's administrators that are not in its scope.
    scene.ask("alice").code(3);
    assert_eq!(decision(&scene.asking)["reason"], "out_of_scope");
    let scope = [format!("{theirs}-513"), format!("{theirs}-512")];
    let set = ["machine", "set", "WEB01$", "--group", &scope[0], "--group", &scope[1], "-c", "rcmpd.toml"];
    scene.asking.rcmpd(&set).code(0);
    let done = scene.ask("alice").code(0).json();
    let groups = done["groups"].to_string();
    assert!(groups.contains(&format!("{theirs}-512")), "its own administrators are its own: {done:#}");
    assert!(!groups.contains(&format!("{theirs}-1103")), "its local groups mean nothing here: {done:#}");
    assert_eq!(done["pac"]["logon_domain_name"], "CONTOSO");
}

fn a_sid_in_a_uri_counts_as_one_in_the_extension(scene: &Scene) {
    let theirs = scene.theirs;
    let [alices, bobs] = [1001, 1002].map(|rid| theirs.with_rid(rid).unwrap().to_string());
    let upn = Some("alice@contoso.example");
    let wanted = |sid: Option<&String>, uri: &String| Wanted {
        common_name: "Alice",
        upn,
        sid: sid.cloned(),
        sid_uri: Some(uri.clone()),
        ..Wanted::default()
    };
    let authority = Authority::of(&scene.honest);
    for (name, wanted, said, expect) in [
        ("uri", wanted(None, &alices), scene.truth.clone(), None),
        ("uri", wanted(None, &alices), bob(scene.truth.clone()), Some("response_rejected")),
        ("both", wanted(Some(&alices), &alices), scene.truth.clone(), None),
        ("bobs", wanted(None, &bobs), scene.truth.clone(), Some("response_rejected")),
        ("torn", wanted(Some(&alices), &bobs), scene.truth.clone(), Some("sid_mismatch")),
        ("odd", wanted(Some(&alices), &"S-1-5-21".to_owned()), scene.truth.clone(), Some("sid_mismatch")),
    ] {
        authority.issue(&scene.honest, name, &wanted);
        scene.says(&said);
        let done = scene.ask(name);
        match expect {
            None => assert_eq!(done.code(0).json()["account"], "alice", "{name}"),
            // Our client asks no service about it; what a service answers to other clients is in the tests of
            // `rcmp-service`.
            Some("sid_mismatch") => {
                assert!(done.code(6).stderr.contains("the SIDs in the certificate disagree"), "{name}");
            }
            Some(reason) => {
                assert_eq!(done.code(3).json()["status"]["name"], "STATUS_LOGON_FAILURE", "{name}");
                let line = decision(&scene.asking);
                assert_eq!(line["reason"], reason, "{name}: {line:#}");
                assert!(
                    reason != "response_rejected" || line["rejection"] == "sid_mismatch",
                    "{name}: {line:#}"
                );
            }
        }
    }
}

fn rubbish_is_no_decision(scene: &Scene) {
    for rubbish in [vec![], vec![0; 64], scene.truth.bytes()[..100].to_vec()] {
        *scene.speech.lock().unwrap() = rubbish;
        let done = scene.ask("mallory");
        assert!(done.code == 3 || done.code == 7, "{done:?}");
        assert_eq!(done.json()["account"], Value::Null);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_for_another_account_than_the_certificate_s_is_rejected_by_who_asked() {
    let honest = Demo::new().serve();
    let truth = truth(&honest).await;
    let sid: Sid = honest.domain_sid().parse().unwrap();
    let speech = Speech::default();
    let address = rogue(
        PACKAGE_NAME,
        PrimaryDomain { netbios: "CONTOSO".into(), dns: "contoso.example".into(), guid: Guid::NIL, sid },
        Secrets {
            account: "WEB01$".into(),
            channel_type: ChannelType::WORKSTATION,
            sid: sid.with_rid(1004).unwrap(),
            password: fs::read_to_string(honest.path("machines/WEB01.secret")).unwrap().trim().to_owned(),
        },
        Arc::clone(&speech),
    )
    .await;
    let authority = Authority::of(&honest);
    let (alices, bobs) = (format!("{sid}-1001"), format!("{sid}-1002"));
    let wanted = |extension: Option<&String>, uri: Option<&String>| Wanted {
        common_name: "Alice",
        upn: Some("alice@contoso.example"),
        sid: extension.cloned(),
        sid_uri: uri.cloned(),
        ..Wanted::default()
    };
    for (name, wanted) in [
        ("uri", wanted(None, Some(&alices))),
        ("torn", wanted(Some(&alices), Some(&bobs))),
        ("none", wanted(None, None)),
    ] {
        authority.issue(&honest, name, &wanted);
    }
    let server = address.to_string();
    let map = |who: &str, more: &[&str]| {
        let certificate = honest.certificate(who);
        let ask = ["map", &certificate, "--server", &server, "--machine", "WEB01$", "--domain", "CONTOSO"];
        honest.rcmpd(&[&ask[..], &["--secret-file", "machines/WEB01.secret", "--json"], more].concat())
    };
    let web = Demo::web(&honest, "", "remember_s = 0\ntimeout_s = 3");
    web.edit(|text| text.replace(&honest.netlogon.to_string(), &server));
    let web = web.serve_bare();

    *speech.lock().unwrap() = truth.bytes();
    for who in ["alice", "uri", "none"] {
        assert_eq!(map(who, &[]).code(0).json()["account"], "alice", "{who}");
        assert_eq!(ask_about(&web, who, &[]).status, 200, "{who}: {}", web.log());
    }
    // No answer is right for a certificate that contradicts itself.
    let done = map("torn", &[]).code(6);
    assert!(done.stderr.contains("the SIDs in the certificate disagree"), "{done:?}");
    assert_eq!(ask_about(&web, "torn", &[]).status, 403);
    *speech.lock().unwrap() = bob(truth.clone()).bytes();
    for who in ["alice", "uri"] {
        for more in [&[][..], &["--require-strong"]] {
            let done = map(who, more).code(7);
            assert!(done.stderr.contains(&alices) && done.stderr.contains(&bobs), "{who}: {done:?}");
        }
        let answer = ask_about(&web, who, &[]);
        assert_eq!(answer.status, 500, "{who}: no denial");
        assert!(!answer.headers.iter().any(|(_, value)| value.contains("bob")), "{:?}", answer.headers);
    }
    assert!(
        web.log().contains("Rejected an answer for another account than the certificate's"),
        "{}",
        web.log()
    );
    let lines = fs::read_to_string(web.path("web.log")).unwrap();
    assert!(lines.contains("answer_sid_mismatch"), "{lines}");
    // What names no account may be the one that the service says.
    assert_eq!(map("none", &[]).code(0).json()["account"], "bob");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_opaque_answer_with_data_is_not_passed_on() {
    let demo = Demo::new();
    let sid: Sid = demo.domain_sid().parse().unwrap();
    let speech = Speech::default();
    let password = "The-secret-of-a-member-of-the-domain";
    // A controller of our own domain, whose package answers with whatever it is told to: a PAC, for instance.
    let address = rogue(
        "WDigest",
        PrimaryDomain { netbios: "CONTOSO".into(), dns: "contoso.example".into(), guid: Guid::NIL, sid },
        Secrets {
            account: "RELAY$".into(),
            channel_type: ChannelType::WORKSTATION,
            sid: sid.with_rid(5000).unwrap(),
            password: password.into(),
        },
        Arc::clone(&speech),
    )
    .await;
    write_secret(demo.path("relay.secret"), password);
    demo.configure(&format!(
        "[audit]\npath = \"audit.log\"\n[[relay]]\npackage = \"WDigest\"\nservers = [\"{address}\"]\naccount = \"RELAY$\"\n\
         secret = \"file:relay.secret\"\nmachines = [\"WEB01$\"]\nresponse_crypt = \"encrypt\""
    ));
    let service = demo.serve();
    let secret = fs::read_to_string(service.path("machines/WEB01.secret")).unwrap();
    let server = service.netlogon.to_string();
    let client = Client::establish(&server, "CONTOSO", "WEB01$", secret.trim()).await.unwrap();
    let mut association = client.open().await.unwrap();
    for (said, status) in
        [(vec![], NtStatus::SUCCESS), (vec![4, 0, 0, 0, 0, 0, 0, 0], NtStatus::NOT_SUPPORTED)]
    {
        *speech.lock().unwrap() = said;
        let answer = client.channel.ask(&mut *association, "WDigest", "CONTOSO", b"question").await.unwrap();
        assert_eq!((answer.status, answer.authoritative), (status, true));
        assert!(answer.data.is_none_or(|data| data.raw().is_empty()));
    }
    let audit = fs::read_to_string(service.path("audit.log")).unwrap();
    assert!(audit.contains("\"outcome\":\"answer_has_data\""), "{audit}");
    let (_, metrics) = service.get("/metrics");
    assert!(
        metrics.contains("rcmpd_relays_total{package=\"WDigest\",outcome=\"answer_has_data\"} 1"),
        "{metrics}"
    );
}
