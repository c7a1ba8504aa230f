//! Chains of domains in memory: where questions go, what comes back, and what never does.

use account_store::{
    Account, AccountAdmin, AccountStore, BoxFuture, Change, Domain, Group, GroupScope, Matches, MemoryStore,
    Put, Query, Revision, StoreError,
};
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use dtyp::{FileTime, NtStatus, Sid};
use pac::VerifiedPac;
use rcgen::{CertificateParams, CustomExtension, DistinguishedName, DnType, KeyPair, SanType};
use rcmp_service::ResponseRejection;
use rcmp_service::certificate::{Certificate, OwnedCertificate};
use rcmp_service::foreign::{ForeignDomain, ForeignSids};
use rcmp_service::message::{MappingFlags, Request, Response};
use rcmp_service::proof::{self, HopStrength, Role, Signed, Weakness};
use rcmp_service::trace::Step;
use rcmp_service::{
    Answer, Asker, Binding, CallContext, Domains, Elsewhere, Forwarder, MapCertificate, Mapper, MapperParts,
    NoServers, PeerDomain, PeerQuestion, PeerReply, PeerService, Policy, Question, QuestionBody, Reason,
    RoutedBy, Scope, Suffixes, TraceParent, Validation,
};
use std::future::Future;
use std::sync::{Arc, Mutex, OnceLock};
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tower::service_fn;

fn block_on<T>(future: impl Future<Output = T>) -> T {
    let mut future = std::pin::pin!(future);
    match future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => output,
        Poll::Pending => panic!("no call waits here"),
    }
}

const NOW: FileTime = FileTime(133_500_000_000_000_000);
const UPN: MappingFlags = MappingFlags::UPN;

fn netbios(letter: char) -> String {
    format!("DOM{letter}")
}

/// Domains are A, B, C …: `DOMA`, `a.example`, `S-1-5-21-1-1-1` and so on.
fn domain(letter: char) -> Domain {
    let dns = format!("{}.example", letter.to_ascii_lowercase());
    Domain { netbios: netbios(letter), dns, sid: domain_sid(letter) }
}

fn domain_sid(letter: char) -> Sid {
    let number = letter as u32 - u32::from(b'A') + 1;
    Sid::new(5, &[21, number, number, number]).expect("four parts")
}

fn peer(letter: char) -> PeerDomain {
    let Domain { netbios, dns, sid } = domain(letter);
    PeerDomain {
        domain: ForeignDomain { netbios, sid, names: vec![dns], foreign_sids: ForeignSids::Refuse },
        is_asked: true,
        may_ask: true,
        is_rcmpd: true,
        via: None,
        transit: vec![],
        issuers: vec![],
        proof_keys: vec![key(letter).public_key().as_ref().try_into().expect("32 bytes")],
    }
}

fn key(letter: char) -> Ed25519KeyPair {
    Ed25519KeyPair::from_seed_unchecked(&[letter as u8; 32]).expect("a seed")
}

/// A store that may be out of order.
struct Store {
    accounts: MemoryStore,
    broken: Mutex<bool>,
}

impl AccountStore for Store {
    fn domain(&self) -> &Domain {
        self.accounts.domain()
    }

    fn find<'a>(&'a self, query: &'a Query) -> BoxFuture<'a, Result<Matches, StoreError>> {
        match *self.broken.lock().expect("no test panicked") {
            true => Box::pin(std::future::ready(Err(StoreError::Unavailable("locked".into())))),
            false => self.accounts.find(query),
        }
    }

    fn revision(&self) -> Result<Revision, StoreError> {
        self.accounts.revision()
    }
}

/// One domain's server.
struct Node {
    letter: char,
    store: Arc<Store>,
    mapper: Arc<Mapper>,
    forwarder: OnceLock<Arc<Forwarder>>,
    /// What it was asked by others.
    heard: Mutex<Vec<Question>>,
}

impl Node {
    fn new(letter: char) -> Arc<Self> {
        let store = MemoryStore::new(domain(letter));
        let sid = |rid| domain_sid(letter).with_rid(rid).expect("there is room");
        let users = Group { name: "Domain Users".into(), sid: sid(513), scope: GroupScope::Global };
        let user = |rid, name: &str| {
            let upn = format!("{name}@{}", domain(letter).dns);
            Account { user_principal_name: Some(upn), ..Account::new(name, sid(rid)) }
        };
        let mut host = Account::new("HOST$", sid(1003));
        host.service_principal_names = vec![format!("host/www.{}", domain(letter).dns)];
        let mut off = user(1002, "bob");
        off.flags = off.flags.with(account_store::AccountFlags::DISABLED, true);
        let mut changes: Vec<_> = vec![Ok(Change::PutGroup(Put::New, users))];
        changes.extend(
            [user(1001, "alice"), off, host]
                .map(|account| Ok(Change::PutAccount(Put::New, Box::new(account)))),
        );
        block_on(store.apply(&mut changes.into_iter())).expect("they follow the rules");
        let store = Arc::new(Store { accounts: store, broken: Mutex::new(false) });
        let policy = Policy {
            binding: Binding::Off,
            validation: Validation::Off,
            tell_restrictions: true,
            revision: 7,
            ..Policy::default()
        };
        let parts = MapperParts {
            policy,
            trust: None,
            responder: None,
            store: Arc::clone(&store) as _,
            server: format!("SRV{letter}"),
        };
        let mapper = Arc::new(Mapper::new(parts).expect("it makes sense"));
        Arc::new(Self { letter, store, mapper, forwarder: OnceLock::new(), heard: Mutex::default() })
    }

    async fn answer(&self, question: &Question, trace: &mut Vec<Step>) -> Answer {
        let forwarder = Arc::clone(self.forwarder.get().expect("it is connected"));
        let handler = MapCertificate::new(Arc::clone(&self.mapper), Some(forwarder));
        let answer = handler.answer(&Question { is_traced: true, ..question.clone() }).await;
        trace.extend(answer.steps.iter().cloned());
        answer
    }
}

/// The way from one server to another.
fn road(from: char, to: &Arc<Node>) -> PeerService {
    let to = Arc::clone(to);
    let service = service_fn(move |asked: PeerQuestion| {
        let to = Arc::clone(&to);
        async move {
            let asker = Asker {
                account: format!("{}$", netbios(from)),
                sid: domain_sid(to.letter).with_rid(2000).expect("there is room"),
                may_map: true,
                scope: Scope::default(),
                trust: Some(netbios(from)),
            };
            let question = Question {
                logon_domain_name: asked.logon_domain_name,
                context: asked.context,
                ..Question::new(asked.request, asker, NOW)
            };
            to.heard.lock().expect("no test panicked").push(question.clone());
            // Futures that call each other need a box.
            let answering: BoxFuture<'_, Answer> =
                Box::pin(async { to.answer(&question, &mut Vec::new()).await });
            let answer = answering.await;
            Ok(PeerReply {
                status: answer.status,
                authoritative: answer.authoritative,
                server: format!("SRV{}", to.letter),
                data: answer.message.map(|response| response.to_vec()),
            })
        }
    });
    PeerService::new(service)
}

fn unreachable_peer() -> PeerService {
    PeerService::new(service_fn(|_: PeerQuestion| std::future::ready(Err::<PeerReply, _>(NoServers))))
}

fn connect(node: &Arc<Node>, peers: Vec<(PeerDomain, Option<PeerService>)>, hops_max: usize) {
    connect_sharing(node, &Suffixes::default(), peers, hops_max);
}

fn connect_sharing(
    node: &Arc<Node>,
    suffixes: &Suffixes,
    peers: Vec<(PeerDomain, Option<PeerService>)>,
    hops_max: usize,
) {
    let (peers, services) = peers.into_iter().unzip();
    let domains = Domains::with_suffixes(domain(node.letter), suffixes, peers, hops_max).expect("they agree");
    let forwarder = Forwarder::new(domains, services, Some(key(node.letter)));
    assert!(node.forwarder.set(Arc::new(forwarder)).is_ok());
}

/// A asks B, B asks C; A knows C by B.
fn chain() -> [Arc<Node>; 3] {
    let [a, b, c] = ['A', 'B', 'C'].map(Node::new);
    let far = PeerDomain { via: Some(netbios('B')), ..peer('C') };
    connect(&a, vec![(peer('B'), Some(road('A', &b))), (far, None)], 4);
    let asker = PeerDomain { is_asked: false, transit: vec![netbios('C')], ..peer('A') };
    connect(&b, vec![(asker, None), (peer('C'), Some(road('B', &c)))], 4);
    connect(&c, vec![(PeerDomain { is_asked: false, ..peer('B') }, None)], 4);
    [a, b, c]
}

/// The SID extension of [MS-WCCE] 2.2.2.7.7.4.
fn sid_extension(sid: &Sid) -> CustomExtension {
    let wrap = |tag: u8, contents: &[u8]| [&[tag, contents.len() as u8], contents].concat();
    let id = [0x06, 0x0a, 0x2b, 0x06, 0x01, 0x04, 0x01, 0x82, 0x37, 0x19, 0x02, 0x01];
    let value = wrap(0xa0, &wrap(0x04, sid.to_string().as_bytes()));
    let content = wrap(0x30, &wrap(0xa0, &[&id[..], &value].concat()));
    CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 311, 25, 2], content)
}

fn certificate(upns: &[&str], hosts: &[&str], sid: Option<Sid>) -> Vec<u8> {
    certificate_named("Somebody", upns, hosts, sid)
}

/// A self-issued certificate: its subject and issuer have this name.
fn certificate_named(name: &str, upns: &[&str], hosts: &[&str], sid: Option<Sid>) -> Vec<u8> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    for upn in upns {
        params
            .subject_alt_names
            .push(SanType::OtherName((vec![1, 3, 6, 1, 4, 1, 311, 20, 2, 3], (*upn).into())));
    }
    for host in hosts {
        params.subject_alt_names.push(SanType::DnsName((*host).try_into().expect("ASCII")));
    }
    params.custom_extensions = sid.iter().map(sid_extension).collect();
    let key = KeyPair::generate().expect("a key");
    params.self_signed(&key).expect("signed").der().to_vec()
}

fn request(certificate: &[u8], flags: MappingFlags) -> Vec<u8> {
    Request { flags, certificate, issuers: vec![] }.encode().expect("within the limits")
}

fn asker() -> Asker {
    Asker::machine("WEB01$", domain_sid('A').with_rid(1500).expect("there is room"), true)
}

fn question(certificate: &[u8], logon_domain_name: &str) -> Question {
    Question {
        logon_domain_name: logon_domain_name.into(),
        ..Question::new(request(certificate, UPN), asker(), NOW)
    }
}

fn ask(node: &Node, question: &Question) -> (Answer, Vec<Step>) {
    let mut steps = Vec::new();
    let answer = block_on(node.answer(question, &mut steps));
    (answer, steps)
}

fn reason(node: &Node, certificate: &[u8], logon_domain_name: &str) -> Reason {
    ask(node, &question(certificate, logon_domain_name)).0.reason
}

fn alice_of(letter: char) -> Vec<u8> {
    certificate(&[&format!("alice@{}", domain(letter).dns)], &[], None)
}

#[test]
fn a_user_of_the_third_domain_comes_back_in_its_domain_s_name() {
    let [a, b, c] = chain();
    let certificate = alice_of('C');
    for (name, by) in [
        ("DOMC", RoutedBy::LogonDomainName),
        ("c.example", RoutedBy::LogonDomainName),
        ("", RoutedBy::UserPrincipalName),
        ("doma", RoutedBy::UserPrincipalName),
    ] {
        let (answer, steps) = ask(&a, &question(&certificate, name));
        assert_eq!((answer.status, answer.reason), (NtStatus::SUCCESS, Reason::Forwarded), "{name}");
        assert!(
            matches!(&steps[..], [Step::Routed { domain, peer, by: chosen }] if domain == "DOMC" && peer == "DOMB" && *chosen == by),
            "{name}: {steps:?}"
        );
        let Elsewhere { domain, peer, server, .. } =
            answer.elsewhere.clone().expect("it was asked elsewhere");
        assert_eq!((&*domain, &*peer, server.as_deref()), ("DOMC", "DOMB", Some("SRVB")));
        let response = answer.message.expect("there is one");
        let response = Response::decode(&response).expect("it is one");
        assert_eq!(response.domain, "DOMC");
        let pac = VerifiedPac::decode(response.auth_data).expect("it agrees");
        assert_eq!(pac.user_sid, domain_sid('C').with_rid(1001).expect("there is room"));
        assert_eq!(pac.logon_info.logon_domain_name.text, "DOMC");
        assert_eq!(pac.logon_info.logon_server.text, "SRVC");
    }
    // The bytes of the request are the same at each hop, and the domain is named by its NetBIOS name.
    let (at_b, at_c) = (b.heard.lock().expect("no test panicked"), c.heard.lock().expect("no test panicked"));
    for (before, after) in at_b.iter().zip(at_c.iter()) {
        assert_eq!(before.message().map(|message| &message[..]), Some(&request(&certificate, UPN)[..]));
        assert_eq!(after.message(), before.message());
        assert_eq!((&*before.logon_domain_name, &*after.logon_domain_name), ("DOMC", "DOMC"));
        assert_eq!(before.context.hops, [domain_sid('A')]);
        assert_eq!(after.context.hops, [domain_sid('A'), domain_sid('B')]);
    }
}

#[test]
fn a_trace_goes_through_nodes_that_export_nothing() {
    let [a, b, c] = chain();
    let trace_parent = Some(TraceParent { trace_id: [1; 16], span_id: [2; 8], flags: 1 });
    let context = CallContext { trace_parent, trace_state: "vendor=1".into(), ..CallContext::default() };
    ask(&a, &Question { context: context.clone(), ..question(&alice_of('C'), "") });
    for node in [&b, &c] {
        let heard = node.heard.lock().expect("no test panicked")[0].context.clone();
        assert_eq!((heard.trace_parent, heard.trace_state), (trace_parent, "vendor=1".to_owned()));
    }
}

#[test]
fn what_is_no_proof_does_not_travel_with_an_answer() {
    let [a, b] = ['A', 'B'].map(Node::new);
    let honest = Arc::clone(&b);
    let liar = PeerService::new(service_fn(move |asked: PeerQuestion| {
        let b = Arc::clone(&honest);
        async move {
            let asker = Asker { trust: Some(netbios('A')), ..asker() };
            let asked = Question {
                logon_domain_name: asked.logon_domain_name,
                ..Question::new(asked.request.to_vec(), asker, NOW)
            };
            let mut data = b.answer(&asked, &mut Vec::new()).await.message.expect("there is one").to_vec();
            data.extend_from_slice(&[0xaa; 100_000]);
            let server = "SRVB".into();
            Ok(PeerReply { status: NtStatus::SUCCESS, authoritative: true, data: Some(data), server })
        }
    }));
    connect(&a, vec![(peer('B'), Some(liar))], 4);
    connect(&b, vec![(peer('A'), None)], 4);
    let context = CallContext { proof_nonce: Some([7; 16]), ..CallContext::default() };
    let asked = Question { context, ..question(&alice_of('B'), "") };
    let response = ask(&a, &asked).0.message.expect("there is one");
    assert!(response.len() < 4096, "{}", response.len());
    let hops = proved(&response, &asked);
    assert_eq!(hops.iter().map(|hop| hop.hop.strength).collect::<Vec<_>>(), [HopStrength::Unknown]);
}

#[test]
fn what_is_ours_is_answered_here() {
    let [a, b, _] = chain();
    for name in ["", "DOMA", "doma", "a.example", "A.EXAMPLE."] {
        assert!(matches!(reason(&a, &alice_of('A'), name), Reason::Mapped(_)), "{name}");
    }
    assert_eq!(reason(&a, &alice_of('X'), ""), Reason::NoMatch, "a suffix of no domain");
    assert_eq!(b.heard.lock().expect("no test panicked").len(), 0);
}

#[test]
fn who_is_asked_follows_from_names() {
    let [a, ..] = chain();
    let at = |upns: &[&str], hosts: &[&str], name: &str| reason(&a, &certificate(upns, hosts, None), name);
    // A host by the nearest domain above it; a wildcard is no host.
    assert_eq!(at(&[], &["www.b.example"], ""), Reason::Forwarded);
    assert_eq!(at(&[], &["*.b.example"], ""), Reason::NoMatch);
    assert_eq!(at(&[], &["b.example"], ""), Reason::NoMatch, "a domain is no host of its own");
    assert_eq!(
        at(&[], &["deep.www.c.example"], ""),
        Reason::RefusedElsewhere { status: NtStatus::LOGON_FAILURE, authoritative: true },
        "C has been asked"
    );
    // A person comes before a host, and no account is of two domains.
    assert_eq!(at(&["alice@b.example"], &["www.c.example"], ""), Reason::Forwarded);
    assert!(matches!(at(&["alice@a.example"], &["www.c.example"], ""), Reason::Mapped(_)));
    assert_eq!(at(&["alice@b.example", "alice@c.example"], &[], ""), Reason::Ambiguous);
    assert_eq!(at(&["alice@a.example", "alice@c.example"], &[], ""), Reason::Ambiguous);
    assert_eq!(at(&[], &["www.a.example", "www.c.example"], ""), Reason::Ambiguous);
    // A domain that is named is asked, or none is.
    assert_eq!(at(&["alice@b.example"], &[], "DOMX"), Reason::OtherDomain);
    assert_eq!(at(&["alice@b.example"], &[], "DOMB"), Reason::Forwarded);
    assert_eq!(
        at(&["alice@b.example"], &[], "DOMC"),
        Reason::RefusedElsewhere { status: NtStatus::LOGON_FAILURE, authoritative: true },
        "it is C's word that alice is not its own"
    );
    // By names in the certificate only when they are asked for.
    let by_subject = Question {
        body: QuestionBody::message(request(&alice_of('B'), MappingFlags::SUBJECT)),
        ..question(&alice_of('B'), "")
    };
    assert_eq!(ask(&a, &by_subject).0.reason, Reason::NoMatch);
}

#[test]
fn an_issuer_leads_where_it_was_told_to() {
    let [a, b] = ['A', 'B'].map(Node::new);
    let issuer = "CN=Somebody".parse().expect("a name");
    connect(&a, vec![(PeerDomain { issuers: vec![issuer], ..peer('B') }, Some(road('A', &b)))], 4);
    connect(&b, vec![(peer('A'), None)], 4);
    let asked = |flags, name: &str, certificate: &[u8]| {
        let question = Question {
            body: QuestionBody::message(request(certificate, flags)),
            ..question(certificate, name)
        };
        let (answer, steps) = ask(&a, &question);
        let by = steps.iter().find_map(|step| match step {
            Step::Routed { by, .. } => Some(*by),
            _ => None,
        });
        (answer.reason, by)
    };
    // Whatever else the certificate says.
    let (reason, by) = asked(UPN, "", &certificate(&["alice@a.example"], &[], None));
    assert_eq!(by, Some(RoutedBy::Issuer));
    assert!(matches!(reason, Reason::RefusedElsewhere { status: NtStatus::LOGON_FAILURE, .. }));
    let (_, by) = asked(MappingFlags::ISSUER, "", &alice_of('B'));
    assert_eq!(by, Some(RoutedBy::Issuer), "an issuer alone, because a route names it");

    // Without such a route an issuer alone goes nowhere.
    let [a, b, c] = chain();
    let alone = |name| Question {
        body: QuestionBody::message(request(
            &alice_of('B'),
            MappingFlags::ISSUER.with(MappingFlags::ISSUER_CHAIN),
        )),
        ..question(&alice_of('B'), name)
    };
    assert_eq!(ask(&a, &alone("DOMB")).0.reason, Reason::NotForwarded);
    assert_eq!(ask(&a, &alone("")).0.reason, Reason::NoMethod, "our own policy has no such method");
    assert!(
        b.heard.lock().expect("no test panicked").is_empty()
            && c.heard.lock().expect("no test panicked").is_empty()
    );
}

#[test]
fn the_store_may_know_whose_account_it_is() {
    let [a, b, _] = chain();
    let put = |account: Account| {
        let change = Ok(Change::PutAccount(Put::New, Box::new(account)));
        block_on(a.store.accounts.apply(&mut [change].into_iter())).expect("it follows the rules");
    };
    let entry = |name: &str, home: &str| Account {
        user_principal_name: Some(format!("{name}@elsewhere.example")),
        home_domain: Some(home.into()),
        ..Account::new(name, domain_sid('A'))
    };
    put(entry("dave", "DOMB"));
    put(entry("erin", "DOMX"));
    let dave = certificate(&["dave@elsewhere.example"], &[], None);
    let (answer, steps) = ask(&a, &question(&dave, ""));
    assert!(steps.iter().any(|step| matches!(step, Step::Routed { by: RoutedBy::Store, .. })), "{steps:?}");
    // B decides, and does not know him; an entry never maps.
    assert!(matches!(answer.reason, Reason::RefusedElsewhere { status: NtStatus::LOGON_FAILURE, .. }));
    assert_eq!(b.heard.lock().expect("no test panicked").len(), 1);
    let erin = certificate(&["erin@elsewhere.example"], &[], None);
    assert_eq!(reason(&a, &erin, ""), Reason::HomeNotServed, "her domain is not known");
    assert_eq!(Reason::HomeNotServed.status(false), NtStatus::LOGON_FAILURE);
}

/// Accounts of A, B and C may have the suffix mail.example; B and C list it.
#[test]
fn a_peer_s_suffix_captures_no_account_of_ours() {
    let [a, b] = ['A', 'B'].map(Node::new);
    let sharing = |mut peer: PeerDomain| {
        peer.domain.names.push("mail.example".into());
        peer
    };
    let suffixes = Suffixes { listed: vec!["mail.example".into()], is_forest: false };
    connect_sharing(&a, &suffixes, vec![(sharing(peer('B')), Some(road('A', &b)))], 4);
    connect(&b, vec![(PeerDomain { is_asked: false, ..peer('A') }, None)], 4);
    let put = |node: &Node, rid, name: &str, home: Option<&str>| {
        let account = Account {
            user_principal_name: Some(format!("{name}@mail.example")),
            home_domain: home.map(str::to_owned),
            ..Account::new(name, domain_sid(node.letter).with_rid(rid).expect("there is room"))
        };
        let change = Ok(Change::PutAccount(Put::New, Box::new(account)));
        block_on(node.store.accounts.apply(&mut [change].into_iter())).expect("it follows the rules");
    };
    put(&a, 3001, "carol", None);
    put(&b, 3001, "carol", None);
    put(&b, 3002, "dave", None);
    let with = |name: &str| certificate(&[&format!("{name}@mail.example")], &[], None);
    let heard = || b.heard.lock().expect("no test panicked").len();
    assert!(matches!(reason(&a, &with("carol"), ""), Reason::Mapped(_)), "she is ours");
    assert_eq!(heard(), 0);
    assert_eq!(reason(&a, &with("dave"), ""), Reason::Forwarded, "no account of ours has the name");
    assert!(matches!(reason(&a, &with("erin"), ""), Reason::RefusedElsewhere { .. }));
    assert_eq!(heard(), 2);
    // By another way than the name, B gives its account the name of one of ours.
    let captured = Reason::ResponseRejected(ResponseRejection::OurUpnSuffix);
    assert_eq!(reason(&a, &with("carol"), "DOMB"), captured);
    assert_eq!(reason(&a, &with("dave"), "DOMB"), Reason::Forwarded);
    put(&a, 3002, "dave", Some("DOMB"));
    assert_eq!(reason(&a, &with("dave"), "DOMB"), Reason::Forwarded, "our entry says so");
    assert_eq!(heard(), 5);
    *a.store.broken.lock().expect("no test panicked") = true;
    assert_eq!(reason(&a, &with("dave"), ""), Reason::StoreUnavailable, "he may be ours");
    assert_eq!(heard(), 5);
    assert_eq!(reason(&a, &with("dave"), "DOMB"), Reason::StoreUnavailable, "the name may be ours");
}

#[test]
fn refusals_come_back_as_they_were() {
    let [a, _, c] = chain();
    let bob = certificate(&["bob@c.example"], &[], None);
    let (answer, _) = ask(&a, &question(&bob, ""));
    assert_eq!((answer.status, answer.authoritative), (NtStatus::ACCOUNT_DISABLED, true));
    assert!(answer.message.is_none());
    *c.store.broken.lock().expect("no test panicked") = true;
    let (answer, _) = ask(&a, &question(&alice_of('C'), ""));
    assert_eq!((answer.status, answer.authoritative), (NtStatus::DS_BUSY, false));
}

#[test]
fn a_peer_that_cannot_be_reached_leaves_the_question_undecided() {
    let a = Node::new('A');
    connect(&a, vec![(peer('B'), Some(unreachable_peer()))], 4);
    let (answer, _) = ask(&a, &question(&alice_of('B'), ""));
    assert_eq!((answer.status, answer.authoritative), (NtStatus::NO_LOGON_SERVERS, false));
    assert_eq!(answer.reason, Reason::NoLogonServers);
    assert!(matches!(reason(&a, &alice_of('A'), ""), Reason::Mapped(_)), "ours are answered all the same");
}

#[test]
fn a_certificate_that_names_another_account_s_sid_binds_it_to_no_other_account() {
    let [a, ..] = chain();
    let alice = |rid| {
        let sid = domain_sid('B').with_rid(rid).expect("there is room");
        certificate(&["alice@b.example"], &[], Some(sid))
    };
    assert_eq!(reason(&a, &alice(1001), ""), Reason::Forwarded);
    // B itself would refuse; this is what A does when B does not.
    let own = domain_sid('A').with_rid(1001).expect("there is room");
    let stranger = certificate(&["alice@b.example"], &[], Some(own));
    let (answer, _) = ask(&a, &question(&stranger, ""));
    assert!(!answer.status.is_success());
    assert!(answer.message.is_none());
}

#[test]
fn circles_end_at_once() {
    // A thinks that C is behind B, B that it is behind A, and both let the other ask.
    let [a, b] = ['A', 'B'].map(Node::new);
    let circle = |letter| PeerDomain { via: Some(netbios(letter)), ..peer('C') };
    let open = |letter| PeerDomain { transit: vec![netbios('C')], ..peer(letter) };
    connect(&a, vec![(open('B'), Some(road('A', &b))), (circle('B'), None)], 4);
    connect(&b, vec![(open('A'), Some(road('B', &a))), (circle('A'), None)], 4);
    let (answer, _) = ask(&a, &question(&alice_of('C'), ""));
    assert_eq!((answer.status, answer.authoritative), (NtStatus::NO_LOGON_SERVERS, false));
    assert_eq!(
        (b.heard.lock().expect("no test panicked").len(), a.heard.lock().expect("no test panicked").len()),
        (1, 0)
    );

    // The same with a third between them: what it has passed is enough to know.
    let [a, b, c] = ['A', 'B', 'C'].map(Node::new);
    let open = |letter| PeerDomain { transit: vec![netbios('D')], ..peer(letter) };
    let far = |letter| PeerDomain { via: Some(netbios(letter)), ..peer('D') };
    connect(&a, vec![(open('B'), Some(road('A', &b))), (open('C'), None), (far('B'), None)], 8);
    connect(&b, vec![(open('C'), Some(road('B', &c))), (open('A'), None), (far('C'), None)], 8);
    connect(&c, vec![(open('A'), Some(road('C', &a))), (open('B'), None), (far('A'), None)], 8);
    let (answer, _) = ask(&a, &question(&alice_of('D'), ""));
    assert_eq!((answer.status, answer.authoritative), (NtStatus::NO_LOGON_SERVERS, false));
    assert_eq!(c.heard.lock().expect("no test panicked").len(), 1);
    assert_eq!(a.heard.lock().expect("no test panicked").len(), 0, "C sees that A has sent it on");
}

/// Here each turn is a call within the one before, so a circle takes a stack that real ones do not.
#[test]
fn circles_through_servers_that_tell_nothing_end_too() {
    let circle = std::thread::Builder::new().stack_size(256 << 20).spawn(circle).expect("a thread");
    circle.join().expect("it ends");
}

fn circle() {
    let [a, b, c] = ['A', 'B', 'C'].map(Node::new);
    let open = |letter| PeerDomain { transit: vec![netbios('D')], is_rcmpd: false, ..peer(letter) };
    let far = |letter| PeerDomain { via: Some(netbios(letter)), is_rcmpd: false, ..peer('D') };
    connect(&a, vec![(open('B'), Some(road('A', &b))), (open('C'), None), (far('B'), None)], 8);
    connect(&b, vec![(open('C'), Some(road('B', &c))), (open('A'), None), (far('C'), None)], 8);
    connect(&c, vec![(open('A'), Some(road('C', &a))), (open('B'), None), (far('A'), None)], 8);
    let (answer, _) = ask(&a, &question(&alice_of('D'), ""));
    assert_eq!((answer.status, answer.authoritative), (NtStatus::NO_LOGON_SERVERS, false));
    let turns = a.heard.lock().expect("no test panicked").len();
    assert!((1..=33).contains(&turns), "{turns}");
    // And nothing is left behind: the same question goes round just as often.
    a.heard.lock().expect("no test panicked").clear();
    ask(&a, &question(&alice_of('D'), ""));
    assert_eq!(a.heard.lock().expect("no test panicked").len(), turns);
}

#[test]
fn a_question_passes_so_many_domains() {
    let nodes = ['A', 'B', 'C', 'D'].map(Node::new);
    for (at, node) in nodes.iter().enumerate() {
        let mut peers = Vec::new();
        if let Some(next) = nodes.get(at + 1) {
            peers.push((peer(next.letter), Some(road(node.letter, next))));
            for far in &nodes[at + 2..] {
                peers.push((PeerDomain { via: Some(netbios(next.letter)), ..peer(far.letter) }, None));
            }
        }
        if let Some(before) = at.checked_sub(1).map(|at| nodes[at].letter) {
            let transit = nodes[at + 1..].iter().map(|node| netbios(node.letter)).collect();
            peers.push((PeerDomain { is_asked: false, transit, ..peer(before) }, None));
        }
        connect(node, peers, 2);
    }
    assert_eq!(reason(&nodes[0], &alice_of('C'), ""), Reason::Forwarded);
    let (answer, _) = ask(&nodes[0], &question(&alice_of('D'), ""));
    assert_eq!((answer.status, answer.authoritative), (NtStatus::NO_LOGON_SERVERS, false));
    assert!(nodes[3].heard.lock().expect("no test panicked").is_empty());
}

#[test]
fn a_peer_asks_about_what_it_may_ask_about() {
    let [a, b, c] = ['A', 'B', 'C'].map(Node::new);
    let far = PeerDomain { via: Some(netbios('B')), ..peer('C') };
    connect(&a, vec![(peer('B'), Some(road('A', &b))), (far, None)], 4);
    connect(&b, vec![(peer('A'), None), (peer('C'), Some(road('B', &c)))], 4);
    connect(&c, vec![(peer('B'), None)], 4);
    assert_eq!(
        reason(&a, &alice_of('C'), ""),
        Reason::RefusedElsewhere { status: NtStatus::NO_SUCH_USER, authoritative: true }
    );
    assert!(c.heard.lock().expect("no test panicked").is_empty());
    assert_eq!(reason(&a, &alice_of('B'), ""), Reason::Forwarded, "B's own it may");

    // A trust that is not configured, or goes the other way, asks nothing; nor does one without the
    // permission.
    let stranger = |trust: &str, may_map| Question {
        asker: Asker { trust: Some(trust.into()), may_map, ..asker() }.into(),
        ..question(&alice_of('B'), "DOMB")
    };
    assert_eq!(ask(&b, &stranger("DOMX", true)).0.reason, Reason::AskerDenied);
    assert_eq!(ask(&b, &stranger("DOMA", false)).0.reason, Reason::AskerDenied);
    assert!(matches!(ask(&b, &stranger("DOMA", true)).0.reason, Reason::Mapped(_)));
    let alone = Node::new('B');
    connect(&alone, vec![], 4);
    assert_eq!(ask(&alone, &stranger("DOMA", true)).0.reason, Reason::AskerDenied, "its last peer is gone");
    let d = Node::new('D');
    connect(&d, vec![(PeerDomain { may_ask: false, ..peer('A') }, Some(unreachable_peer()))], 4);
    assert_eq!(ask(&d, &stranger("DOMA", true)).0.reason, Reason::AskerDenied);
}

#[test]
fn what_is_no_question_is_not_sent_on() {
    let [a, b, _] = chain();
    let rubbish = Question { body: QuestionBody::message(vec![2, 0, 0]), ..question(b"\x30\x00", "DOMB") };
    assert_eq!(ask(&a, &rubbish).0.reason, Reason::MalformedRequest);
    let no_certificate = question(b"\x30\x00", "DOMB");
    assert_eq!(ask(&a, &no_certificate).0.reason, Reason::MalformedCertificate);
    let denied =
        Question { asker: Asker { may_map: false, ..asker() }.into(), ..question(&alice_of('B'), "DOMB") };
    assert_eq!(ask(&a, &denied).0.reason, Reason::AskerDenied);
    assert!(b.heard.lock().expect("no test panicked").is_empty());
}

#[test]
fn nothing_is_told_to_servers_that_are_not_ours() {
    let [a, b] = ['A', 'B'].map(Node::new);
    connect(&a, vec![(PeerDomain { is_rcmpd: false, ..peer('B') }, Some(road('A', &b)))], 4);
    connect(&b, vec![(peer('A'), None)], 4);
    let context = CallContext {
        proof_nonce: Some([1; 16]),
        time_left: Some(Duration::from_secs(3)),
        ..CallContext::default()
    };
    let asked = Question { context, ..question(&alice_of('B'), "") };
    let (answer, _) = ask(&a, &asked);
    assert_eq!(answer.reason, Reason::Forwarded);
    let heard = &b.heard.lock().expect("no test panicked")[0].context;
    // The time is for our own client, which keeps it.
    assert_eq!(*heard, CallContext { time_left: Some(Duration::from_secs(3)), ..CallContext::default() });
    // Our own hop says that it could verify nothing.
    let hops = proved(&answer.message.expect("there is one"), &asked);
    assert_eq!(hops.len(), 1);
    assert_eq!((hops[0].hop.role, hops[0].hop.strength), (Role::Forwarded, HopStrength::Unknown));
}

fn proved(message: &[u8], asked: &Question) -> Vec<proof::Verified> {
    let nonce = asked.context.proof_nonce.expect("it was asked for");
    let keys = |netbios: &str| {
        let letter = netbios.chars().last().expect("a letter");
        vec![key(letter).public_key().as_ref().try_into().expect("32 bytes")]
    };
    proof::verify(message, &proof::Question::new(asked.message().expect("it is one"), nonce), keys)
        .expect("it can be read")
}

#[test]
fn a_path_is_proved_when_the_asker_wants_a_proof() {
    let [a, _, c] = chain();
    let plain = question(&alice_of('C'), "");
    let (answer, _) = ask(&a, &plain);
    let response = answer.message.expect("there is one");
    assert!(proof::split(&response).1.is_empty(), "only when asked");

    let context = CallContext { proof_nonce: Some([7; 16]), ..CallContext::default() };
    let asked = Question { context, ..plain };
    let (answer, _) = ask(&a, &asked);
    let response = answer.message.expect("there is one");
    let hops = proved(&response, &asked);
    let said: Vec<_> = hops
        .iter()
        .map(|verified| (&*verified.hop.domain, &*verified.hop.server, verified.hop.role, verified.signed))
        .collect();
    assert_eq!(
        said,
        [
            ("DOMC", "SRVC", Role::Answered, Signed::Good),
            ("DOMB", "SRVB", Role::Forwarded, Signed::Good),
            ("DOMA", "SRVA", Role::Forwarded, Signed::Good),
        ]
    );
    // These domains map by names alone. B knows C's key and says so; A was not told C's, but here it is.
    assert!(hops.iter().all(|verified| verified.hop.strength == HopStrength::Weak), "{hops:#?}");
    assert!(hops.iter().all(|verified| verified.hop.policy_revision == 7));
    let decoded = Response::decode(&response).expect("it is one");
    let pac = VerifiedPac::decode(decoded.auth_data).expect("it agrees");
    assert_eq!(proof::strong_at_every_hop(&hops, &decoded, &pac, "DOMA"), Err(Weakness::NotStrong(0)));
    // An answer of our own is one hop.
    let own = Question { body: QuestionBody::message(request(&alice_of('C'), UPN)), ..asked };
    let (answer, _) =
        ask(&c, &Question { asker: Asker { trust: None, ..Asker::clone(&own.asker) }.into(), ..own.clone() });
    let hops = proved(&answer.message.expect("there is one"), &own);
    assert_eq!(hops.iter().map(|hop| hop.hop.role).collect::<Vec<_>>(), [Role::Answered]);
}

/// A certificate for alice of C with these SIDs: in the extension, and as URIs ([MS-PKCA] 3.1.5.2.1.6).
fn certificate_with_sids(extension: Option<Sid>, uris: &[&str]) -> Vec<u8> {
    let mut params = CertificateParams::default();
    let upn = (vec![1, 3, 6, 1, 4, 1, 311, 20, 2, 3], "alice@c.example".into());
    params.subject_alt_names = vec![SanType::OtherName(upn)];
    for uri in uris {
        params.subject_alt_names.push(SanType::URI((*uri).try_into().expect("ASCII")));
    }
    params.custom_extensions = extension.iter().map(sid_extension).collect();
    let key = KeyPair::generate().expect("a key");
    params.self_signed(&key).expect("signed").der().to_vec()
}

#[test]
fn a_peer_s_account_is_the_one_that_the_certificate_names() {
    let [a, b, c] = chain();
    let (alice, other) = (domain_sid('C').with_rid(1001), domain_sid('C').with_rid(1002));
    let (alice, other) = (alice.expect("there is room"), other.expect("there is room"));
    let uri = |sid: &dyn std::fmt::Display| format!("tag:microsoft.com,2022-09-14:sid:{sid}");
    let believed = [
        ("no SID", None, vec![]),
        ("the extension", Some(alice), vec![]),
        ("a URI", None, vec![uri(&alice)]),
        ("both", Some(alice), vec![uri(&alice)]),
        ("two URIs, and another one", None, vec![uri(&alice), uri(&alice), "https://c.example/".to_owned()]),
    ];
    for (what, extension, uris) in believed {
        let certificate =
            certificate_with_sids(extension, &uris.iter().map(String::as_str).collect::<Vec<_>>());
        assert_eq!(reason(&a, &certificate, ""), Reason::Forwarded, "{what}");
    }
    // C itself refuses all of these; the answer of a peer that does not look is rejected, and what no answer
    // can be right for is not asked.
    let lying = Arc::clone(&c);
    let liar = PeerService::new(service_fn(move |asked: PeerQuestion| {
        let lying = Arc::clone(&lying);
        async move {
            let asker = Asker {
                trust: Some(netbios('B')),
                ..Asker::machine("DOMB$", domain_sid('C').with_rid(2000).expect("there is room"), true)
            };
            let question = Question {
                logon_domain_name: "DOMC".into(),
                ..Question::new(request(&alice_of('C'), UPN), asker, NOW)
            };
            let answer = lying.answer(&question, &mut Vec::new()).await;
            drop(asked);
            let data = answer.message.map(|response| response.to_vec());
            Ok(PeerReply { status: NtStatus::SUCCESS, authoritative: true, server: "SRVC".into(), data })
        }
    }));
    let near = Node::new('B');
    connect(&near, vec![(PeerDomain { proof_keys: vec![], ..peer('C') }, Some(liar))], 4);
    assert_eq!(reason(&near, &alice_of('C'), ""), Reason::Forwarded, "the truth");
    let mismatch = Reason::ResponseRejected(ResponseRejection::SidMismatch);
    let refused = [
        ("the extension", Some(other), vec![], mismatch),
        ("a URI", None, vec![uri(&other)], mismatch),
        (
            "a URI of another domain",
            None,
            vec![uri(&domain_sid('B').with_rid(1001).expect("there is room"))],
            mismatch,
        ),
        ("two that disagree", Some(alice), vec![uri(&other)], Reason::SidMismatch),
        ("URIs that disagree", None, vec![uri(&alice), uri(&other)], Reason::SidMismatch),
        ("one that cannot be read", Some(alice), vec![uri(&"S-1-5-21-")], Reason::SidMismatch),
    ];
    for (what, extension, uris, expect) in refused {
        let certificate =
            certificate_with_sids(extension, &uris.iter().map(String::as_str).collect::<Vec<_>>());
        let (answer, _) = ask(&near, &question(&certificate, ""));
        assert_eq!((answer.reason, answer.status), (expect, NtStatus::LOGON_FAILURE), "{what}");
        let (answer, _) = ask(&a, &question(&certificate, ""));
        assert_eq!(answer.status, NtStatus::LOGON_FAILURE, "{what}");
        assert!(answer.elsewhere.is_none_or(|elsewhere| elsewhere.account.is_none()), "{what}");
    }
    drop(b);
}

/// What a machine of A with a scope is answered about alice of a domain.
fn scoped(node: &Node, certificate: &[u8], domains: &[&str], groups: &[Sid]) -> Answer {
    let mut asked = question(certificate, "");
    let domains: Vec<String> = domains.iter().map(|name| (*name).to_owned()).collect();
    asked.asker = Asker { scope: Scope::new(domains.into(), groups.into()), ..asker() }.into();
    ask(node, &asked).0
}

#[test]
fn a_scope_holds_for_accounts_of_other_domains_and_tells_nothing_of_others() {
    let [a, _b, c] = chain();
    let certificate = alice_of('C');
    let users = domain_sid('C').with_rid(513).expect("there is room");
    for (domains, groups) in [
        (&[][..], &[][..]),
        (&["domc"], &[]),
        (&["DOMA", "DOMC"], &[]),
        (&["DOMC"], &[users]),
        (&[], &[users]),
    ] {
        assert_eq!(
            scoped(&a, &certificate, domains, groups).reason,
            Reason::Forwarded,
            "{domains:?} {groups:?}"
        );
    }
    let heard = || c.heard.lock().expect("no test panicked").len();
    let before = heard();
    let unknown = ask(&a, &question(&certificate_with_upn("eve@c.example"), "")).0;
    let after = heard();
    assert_eq!(after, before + 1);
    let admins = domain_sid('C').with_rid(512).expect("there is room");
    for (domains, groups) in [(&["DOMA"][..], &[][..]), (&["DOMB"], &[]), (&["DOMC"], &[admins])] {
        let answer = scoped(&a, &certificate, domains, groups);
        assert_eq!(answer.reason, Reason::OutOfScope, "{domains:?} {groups:?}");
        assert_eq!((answer.status, answer.authoritative), (unknown.status, unknown.authoritative));
        assert!(answer.message.is_none());
    }
    assert_eq!(heard(), after + 1, "a domain out of scope is not asked");
    // The same for accounts of A itself.
    let own = alice_of('A');
    assert!(matches!(scoped(&a, &own, &["DOMA"], &[]).reason, Reason::Mapped(_)));
    let answer = scoped(&a, &own, &["DOMC"], &[]);
    assert_eq!((answer.reason, answer.status), (Reason::OutOfScope, NtStatus::LOGON_FAILURE));
    assert!(answer.authoritative);
    // bob is disabled, and the answer says so; not to a machine whose scope he is not in.
    let bob = certificate_with_upn("bob@a.example");
    assert_eq!(scoped(&a, &bob, &[], &[]).status, NtStatus::ACCOUNT_DISABLED);
    assert_eq!(scoped(&a, &bob, &["DOMC"], &[]).status, NtStatus::LOGON_FAILURE);
    assert_eq!(scoped(&a, &bob, &[], &[admins]).status, NtStatus::LOGON_FAILURE);
    // What C answers about its bob is forwarded, but not to a machine whose scope is the members of a group.
    let bob = certificate_with_upn("bob@c.example");
    assert_eq!(scoped(&a, &bob, &["DOMC"], &[]).status, NtStatus::ACCOUNT_DISABLED);
    let answer = scoped(&a, &bob, &["DOMC"], &[users]);
    assert_eq!((answer.reason, answer.status), (Reason::OutOfScope, NtStatus::LOGON_FAILURE));
}

fn certificate_with_upn(upn: &str) -> Vec<u8> {
    certificate(&[upn], &[], None)
}

#[test]
fn a_certificate_is_asked_about_as_by_its_message() {
    let [a, b, _] = chain();
    let certificates = ['X', 'A', 'B'].map(|letter| (letter, alice_of(letter)));
    for (letter, encoded) in &certificates {
        let by_message = ask(&a, &question(encoded, "")).0;
        let certificate = OwnedCertificate::parse(encoded.clone().into()).expect("our own");
        let answer = ask(&a, &Question::about(certificate, vec![], UPN, asker(), NOW)).0;
        assert_eq!((answer.status, answer.reason), (by_message.status, by_message.reason), "{letter}");
        assert!(answer.message.is_none(), "{letter}: no message is written that is not sent");
        let account = |answer: &Answer| {
            let here = answer.mapped.as_ref().map(|mapped| mapped.record.account.sid);
            here.or(answer.elsewhere.as_ref().and_then(|it| it.account.as_ref()).map(|account| account.sid))
        };
        assert_eq!(account(&answer), account(&by_message), "{letter}");
    }
    // A peer is sent a message in any case; this one has the name of the issuer.
    let heard = b.heard.lock().expect("no test panicked");
    let message = heard.last().and_then(Question::message).expect("B was asked");
    let (request, encoded) = (Request::decode(message).expect("our own"), &certificates[2].1[..]);
    assert_eq!((request.certificate, request.flags), (encoded, UPN));
    assert_eq!(request.issuers, [Certificate::parse(encoded).expect("our own").issuer]);
}

#[test]
fn an_issuer_name_that_no_request_can_have_is_the_reason_and_not_the_message() {
    let [a, b, _] = chain();
    let upn = format!("alice@{}", domain('B').dns);
    let about = |name_len: usize| {
        let encoded = certificate_named(&"N".repeat(name_len), &[&upn], &[], None);
        let certificate = OwnedCertificate::parse(encoded.into()).expect("our own");
        ask(&a, &Question::about(certificate, vec![], UPN, asker(), NOW)).0
    };
    assert_eq!(about(8 * 1024 - 64).reason, Reason::Forwarded, "a name within the limit is sent");
    let heard = b.heard.lock().expect("no test panicked").len();
    // The message would be this program's own, so it is not malformed; the limit is `ISSUER_LEN_MAX`.
    let answer = about(8 * 1024);
    assert_eq!((answer.reason, answer.status), (Reason::TooLongToForward, NtStatus::LOGON_FAILURE));
    assert_eq!(answer.elsewhere.map(|elsewhere| elsewhere.domain), Some(netbios('B')));
    assert_eq!(b.heard.lock().expect("no test panicked").len(), heard, "B is not asked");
}

#[test]
fn a_question_is_read_once() {
    let asked = question(&alice_of('A'), "");
    let copy = asked.clone();
    let read = asked.asked().expect("it can be read");
    assert!(std::ptr::eq(read, copy.asked().expect("it can be read")));
    assert!(std::ptr::eq(asked.digest().expect("it is a message"), copy.digest().expect("it is a message")));
}
