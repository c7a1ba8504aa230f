//! Certificate, policy and accounts: what is decided. Certificates are made for each case.

use account_store::fold::Comparison;
use account_store::{
    Account, AccountAdmin, AccountFlags, AccountStore, AltSecurityIdentity, BoxFuture, Change, Domain, Group,
    GroupScope, Matches, MemoryStore, Put, Query, Record, Revision, StoreError,
};
use dtyp::{FileTime, NtStatus, Sid};
use pac::VerifiedPac;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, CustomExtension, DistinguishedName, DnType, IsCa,
    KeyPair, SanType,
};
use rcmp_service::certificate::{Certificate, OwnedCertificate};
use rcmp_service::message::{MappingFlags, Request, Response};
use rcmp_service::policy::{Grant, Grants};
use rcmp_service::trace::Step;
use rcmp_service::trust::{Parts, Trust};
use rcmp_service::{
    Answer, Asker, Binding, Contradiction, Form, Mapper, MapperParts, Method, Policy, Question, Reason,
    Strength, Validation,
};
use sha1::{Digest, Sha1};
use std::future::Future;
use std::sync::{Arc, LazyLock};
use std::task::{Context, Poll, Waker};

fn block_on<T>(future: impl Future<Output = T>) -> T {
    let mut future = std::pin::pin!(future);
    match future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => output,
        Poll::Pending => panic!("a store in memory answers at once"),
    }
}

const NOW: FileTime = FileTime(133_500_000_000_000_000);
const DOMAIN: &str = "S-1-5-21-1-2-3";

fn sid(rid: u32) -> Sid {
    DOMAIN.parse::<Sid>().expect("a SID").with_rid(rid).expect("a SID")
}

fn domain() -> Domain {
    Domain { netbios: "CONTOSO".into(), dns: "contoso.example".into(), sid: DOMAIN.parse().expect("a SID") }
}

/// What is in a certificate.
#[derive(Default)]
struct Names<'a> {
    upn: &'a [&'a str],
    dns: &'a [&'a str],
    sid: Option<u32>,
    subject: &'a str,
    damaged_sid: bool,
}

/// The authority of all certificates here, which is believed.
static AUTHORITY: LazyLock<CertifiedIssuer<'static, KeyPair>> = LazyLock::new(|| {
    let mut params = CertificateParams::default();
    params.distinguished_name = name("Demo CA");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("signed")
});

fn trust() -> Arc<Trust> {
    let parts = Parts { anchors: vec![AUTHORITY.der().to_vec()], ..Parts::default() };
    Arc::new(Trust::new(parts).expect("an authority"))
}

fn name(common_name: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    if !common_name.is_empty() {
        name.push(DnType::OrganizationName, "Contoso, Ltd.");
        name.push(DnType::CommonName, common_name);
    }
    name
}

fn certificate(names: &Names<'_>) -> Vec<u8> {
    let mut params = CertificateParams::default();
    params.distinguished_name = name(names.subject);
    for upn in names.upn {
        params
            .subject_alt_names
            .push(SanType::OtherName((vec![1, 3, 6, 1, 4, 1, 311, 20, 2, 3], (*upn).into())));
    }
    for dns in names.dns {
        params.subject_alt_names.push(SanType::DnsName((*dns).try_into().expect("ASCII")));
    }
    if let Some(rid) = names.sid {
        let text = if names.damaged_sid { "S-1-x".to_owned() } else { sid(rid).to_string() };
        let wrap = |tag: u8, contents: &[u8]| [&[tag, contents.len() as u8], contents].concat();
        let id = [0x06, 0x0a, 0x2b, 0x06, 0x01, 0x04, 0x01, 0x82, 0x37, 0x19, 0x02, 0x01];
        let value = wrap(0xa0, &wrap(0x04, text.as_bytes()));
        let content = wrap(0x30, &wrap(0xa0, &[&id[..], &value].concat()));
        params.custom_extensions =
            vec![CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 311, 25, 2], content)];
    }
    let key = KeyPair::generate().expect("a key");
    params.signed_by(&key, &*AUTHORITY).expect("signed").der().to_vec()
}

fn account(rid: u32, name: &str) -> Account {
    Account {
        user_principal_name: Some(format!("{name}@contoso.example")),
        flags: AccountFlags::NORMAL,
        primary_group_id: 513,
        ..Account::new(name, sid(rid))
    }
}

fn policy(methods: MappingFlags) -> Policy {
    Policy { methods, binding: Binding::Off, identity_sid: None, revision: 7, ..Policy::default() }
}

fn mapper(policy: Policy, accounts: Vec<Account>) -> Mapper {
    let store = MemoryStore::new(domain());
    let users = Group { name: "Domain Users".into(), sid: sid(513), scope: GroupScope::Global };
    let changes = accounts.into_iter().map(|account| Change::PutAccount(Put::New, Box::new(account)));
    let mut changes = std::iter::once(Change::PutGroup(Put::New, users)).chain(changes).map(Ok);
    block_on(store.apply(&mut changes)).expect("they follow the rules");
    of(policy, Arc::new(store)).expect("it makes sense")
}

fn of(policy: Policy, store: Arc<dyn AccountStore>) -> Result<Mapper, Contradiction> {
    let trust = (policy.validation != Validation::Off).then(trust);
    Mapper::new(MapperParts { policy, trust, responder: None, store, server: "DC1".into() })
}

fn asker() -> Asker {
    Asker::machine("WEB01$", sid(1000), true)
}

fn ask(mapper: &Mapper, certificate: &[u8], issuers: Vec<&[u8]>, flags: MappingFlags) -> Answer {
    let request = Request { flags, certificate, issuers }.encode().expect("within the limits");
    block_on(mapper.answer(&Question::new(request, asker(), NOW)))
}

const BOTH: MappingFlags = MappingFlags(0x30);

fn form(certificate: &[u8], form: &str) -> String {
    let parsed = Certificate::parse(certificate).expect("our own");
    let issuer = parsed.issuer_name().expect("our own").clone();
    match form {
        "issuer+subject" => {
            let subject = parsed.subject_name().expect("our own").clone();
            AltSecurityIdentity::IssuerSubject { issuer, subject }.to_string()
        }
        "issuer+serial" => AltSecurityIdentity::issuer_serial(issuer, parsed.serial).to_string(),
        "issuer" => AltSecurityIdentity::Issuer(issuer).to_string(),
        other => other.to_owned(),
    }
}

/// One case of the table: what changes in the accounts alice (1001) and bob (1002), what is in the
/// certificate, and what is decided.
struct Case<'a> {
    what: &'a str,
    names: Names<'a>,
    flags: MappingFlags,
    /// Form of altSecurityIdentities that each account gets for this certificate.
    mappings: &'a [(u32, &'a str)],
    change: fn(&mut Account),
    expect: Result<u32, Reason>,
}

impl Default for Case<'_> {
    fn default() -> Self {
        Self {
            what: "",
            names: Names { subject: "Somebody", ..Names::default() },
            flags: BOTH,
            mappings: &[],
            change: |_| {},
            expect: Err(Reason::NoMatch),
        }
    }
}

const ALICE: &[&str] = &["alice@contoso.example"];

/// A certificate with these user principal names.
fn named(upn: &'static [&'static str]) -> Names<'static> {
    Names { upn, subject: "Somebody", ..Names::default() }
}

/// Decides a case, and compares account, reason, status and revision.
#[track_caller]
fn check(case: &Case<'_>) {
    let encoded = certificate(&case.names);
    let mut accounts = vec![account(1001, "alice"), account(1002, "bob")];
    for (rid, mapping) in case.mappings {
        let account = accounts.iter_mut().find(|account| account.sid == sid(*rid)).expect("alice or bob");
        account.alt_security_identities.push(form(&encoded, mapping));
    }
    accounts.iter_mut().for_each(case.change);
    let answer = ask(&mapper(policy(BOTH), accounts), &encoded, vec![], case.flags);
    let decided = match &answer.mapped {
        Some(mapped) => Ok(mapped.record.account.sid),
        None => Err(answer.reason),
    };
    assert_eq!(decided, case.expect.map(sid), "{}", case.what);
    let status = if case.expect.is_ok() { NtStatus::SUCCESS } else { NtStatus::LOGON_FAILURE };
    assert_eq!(
        (answer.status, answer.authoritative, answer.policy_revision),
        (status, true, 7),
        "{}",
        case.what
    );
}

#[test]
fn names_find_accounts() {
    for case in [
        Case { what: "no account is named", ..Case::default() },
        Case { what: "by principal name", names: named(ALICE), expect: Ok(1001), ..Case::default() },
        Case {
            what: "without case",
            names: named(&["ALICE@Contoso.Example"]),
            expect: Ok(1001),
            ..Case::default()
        },
        Case {
            what: "a name that no account has",
            names: named(&["eve@contoso.example"]),
            ..Case::default()
        },
        Case { what: "a name is not extended", names: named(&["alice"]), ..Case::default() },
        Case {
            what: "a host's name is its service's",
            names: Names { dns: &["web01.contoso.example"], subject: "x", ..Names::default() },
            change: |account| {
                if account.name == "alice" {
                    account.service_principal_names = vec!["HOST/web01.contoso.example".into()];
                }
            },
            expect: Ok(1001),
            ..Case::default()
        },
        Case {
            what: "a wildcard is no service",
            names: Names { dns: &["*.contoso.example"], subject: "x", ..Names::default() },
            change: |account| account.service_principal_names = vec!["host/*.contoso.example".into()],
            ..Case::default()
        },
        Case {
            what: "two names of one account",
            names: named(&["alice@contoso.example", "Alice@contoso.example"]),
            expect: Ok(1001),
            ..Case::default()
        },
        Case {
            what: "names of two accounts",
            names: named(&["alice@contoso.example", "bob@contoso.example"]),
            expect: Err(Reason::Ambiguous),
            ..Case::default()
        },
        Case {
            what: "two accounts of one name",
            names: named(ALICE),
            change: |account| account.user_principal_name = Some("alice@contoso.example".into()),
            expect: Err(Reason::Ambiguous),
            ..Case::default()
        },
    ] {
        check(&case);
    }
}

#[test]
fn mappings_find_accounts_and_the_first_method_decides() {
    for case in [
        Case {
            what: "by issuer and subject",
            mappings: &[(1002, "issuer+subject")],
            expect: Ok(1002),
            ..Case::default()
        },
        Case {
            what: "by issuer and serial",
            mappings: &[(1002, "issuer+serial")],
            expect: Ok(1002),
            ..Case::default()
        },
        Case {
            what: "one mapping of two accounts",
            mappings: &[(1001, "issuer+subject"), (1002, "issuer+subject")],
            expect: Err(Reason::Ambiguous),
            ..Case::default()
        },
        Case {
            what: "forms that name two accounts",
            mappings: &[(1001, "issuer+subject"), (1002, "issuer+serial")],
            expect: Err(Reason::Ambiguous),
            ..Case::default()
        },
        Case {
            what: "an empty subject maps no account",
            names: Names::default(),
            mappings: &[(1001, "X509:<S>CN=x")],
            ..Case::default()
        },
        Case {
            what: "the first method decides",
            names: named(ALICE),
            mappings: &[(1002, "issuer+subject")],
            expect: Ok(1001),
            ..Case::default()
        },
        Case {
            what: "absence goes on",
            names: named(&["eve@contoso.example"]),
            mappings: &[(1002, "issuer+subject")],
            expect: Ok(1002),
            ..Case::default()
        },
    ] {
        check(&case);
    }
}

#[test]
fn a_restricted_account_ends_the_request() {
    for case in [
        Case {
            what: "a disabled account does not fall through to another",
            names: named(ALICE),
            mappings: &[(1002, "issuer+subject")],
            change: |account| {
                if account.name == "alice" {
                    account.flags = account.flags.with(AccountFlags::DISABLED, true);
                }
            },
            expect: Err(Reason::Disabled),
            ..Case::default()
        },
        Case {
            what: "locked",
            names: named(ALICE),
            change: |account| account.flags = account.flags.with(AccountFlags::LOCKED, true),
            expect: Err(Reason::Locked),
            ..Case::default()
        },
        Case {
            what: "expired at this very moment",
            names: named(ALICE),
            change: |account| account.expires = NOW,
            expect: Err(Reason::Expired),
            ..Case::default()
        },
        Case {
            what: "expires in a moment",
            names: named(ALICE),
            change: |account| account.expires = FileTime(NOW.0 + 1),
            expect: Ok(1001),
            ..Case::default()
        },
        Case {
            what: "outside its hours",
            names: named(ALICE),
            change: |account| account.logon_hours = Some([0; 21]),
            expect: Err(Reason::LogonHours),
            ..Case::default()
        },
    ] {
        check(&case);
    }
}

#[test]
fn the_sid_of_a_certificate_is_that_of_the_account() {
    for case in [
        Case {
            what: "its own SID",
            names: Names { sid: Some(1001), ..named(ALICE) },
            expect: Ok(1001),
            ..Case::default()
        },
        Case {
            what: "another's SID",
            names: Names { sid: Some(1002), ..named(ALICE) },
            expect: Err(Reason::SidMismatch),
            ..Case::default()
        },
        Case {
            what: "another's SID does not fall through",
            names: Names { sid: Some(1002), ..named(ALICE) },
            mappings: &[(1002, "issuer+subject")],
            expect: Err(Reason::SidMismatch),
            ..Case::default()
        },
        Case {
            what: "a SID of its history",
            names: Names { sid: Some(1999), ..named(ALICE) },
            change: |account| account.extra_sids.push(sid(1999)),
            expect: Err(Reason::SidMismatch),
            ..Case::default()
        },
        Case {
            what: "a SID that cannot be read",
            names: Names { sid: Some(1001), damaged_sid: true, ..named(ALICE) },
            expect: Err(Reason::SidMismatch),
            ..Case::default()
        },
    ] {
        check(&case);
    }
}

#[test]
fn only_methods_that_are_asked_for_and_allowed_count() {
    for case in [
        Case { what: "not asked for", names: named(ALICE), flags: MappingFlags::SUBJECT, ..Case::default() },
        Case {
            what: "asked for nothing",
            names: named(ALICE),
            flags: MappingFlags(0x0f),
            expect: Err(Reason::NoMethod),
            ..Case::default()
        },
        Case {
            what: "asked for what is not allowed",
            names: named(ALICE),
            flags: MappingFlags::ISSUER.with(MappingFlags::ISSUER_CHAIN),
            mappings: &[(1001, "issuer")],
            expect: Err(Reason::NoMethod),
            ..Case::default()
        },
        Case {
            what: "the chain alone is no method",
            flags: MappingFlags::ISSUER_CHAIN,
            expect: Err(Reason::NoMethod),
            ..Case::default()
        },
    ] {
        check(&case);
    }
}

#[test]
fn restrictions_are_told_only_when_the_policy_says_so() {
    let encoded = certificate(&Names { upn: &["alice@contoso.example"], subject: "x", ..Names::default() });
    for (flag, expect) in [
        (AccountFlags::DISABLED, NtStatus::ACCOUNT_DISABLED),
        (AccountFlags::LOCKED, NtStatus::ACCOUNT_LOCKED_OUT),
    ] {
        let mut alice = account(1001, "alice");
        alice.flags = alice.flags.with(flag, true);
        let telling = Policy { tell_restrictions: true, ..policy(BOTH) };
        assert_eq!(ask(&mapper(telling, vec![alice.clone()]), &encoded, vec![], BOTH).status, expect);
        let silent = ask(&mapper(policy(BOTH), vec![alice]), &encoded, vec![], BOTH);
        let unknown = ask(&mapper(policy(BOTH), vec![]), &encoded, vec![], BOTH);
        assert_eq!(
            (silent.status, silent.authoritative),
            (unknown.status, unknown.authoritative),
            "the client cannot tell"
        );
    }
}

#[test]
fn the_issuer_and_its_issuers_are_tried_in_their_order() {
    let encoded = certificate(&Names { subject: "x", ..Names::default() });
    let parsed = Certificate::parse(&encoded).expect("our own");
    let root = {
        // C=US, O="Contoso, Ltd.", CN=Contoso Root, of the digest's worked example.
        let text = "303c310b300906035504061302555331163014060355040a0c0d436f6e746f736f2c204c74642e31153013060355\
                    04030c0c436f6e746f736f20526f6f74";
        (0..text.len())
            .step_by(2)
            .map(|at| u8::from_str_radix(&text[at..at + 2], 16).expect("hex"))
            .collect::<Vec<_>>()
    };
    let all = MappingFlags::ALL;
    let decide = |mappings: &[(u32, &str)], flags| {
        let mut accounts = vec![account(1001, "alice"), account(1002, "bob")];
        for (rid, mapping) in mappings {
            let account = accounts.iter_mut().find(|account| account.sid == sid(*rid)).expect("alice or bob");
            account.alt_security_identities.push(form(&encoded, mapping));
        }
        // Without a verified chain the client's word is taken for the names of its issuers.
        let off = Validation::Off;
        let believing = Policy { validation: off, grants: Grants::standard(off), ..policy(all) };
        let answer = ask(&mapper(believing, accounts), &encoded, vec![parsed.issuer, &root], flags);
        answer.mapped.map(|mapped| mapped.record.account.sid).ok_or(answer.reason)
    };
    let root_mapping = "X509:<I>C=US,O=\"Contoso, Ltd.\",CN=Contoso Root";
    assert_eq!(decide(&[(1001, "issuer")], all), Ok(sid(1001)));
    assert_eq!(decide(&[(1002, root_mapping)], all), Ok(sid(1002)));
    assert_eq!(
        decide(&[(1002, root_mapping)], MappingFlags::ISSUER),
        Err(Reason::NoMatch),
        "the chain was not asked for"
    );
    assert_eq!(decide(&[(1001, "issuer"), (1002, root_mapping)], all), Ok(sid(1001)), "the nearest decides");
    assert_eq!(decide(&[(1001, "issuer"), (1002, "issuer")], all), Err(Reason::Ambiguous));
}

#[test]
fn malformed_questions_have_their_statuses() {
    let mapper = mapper(policy(BOTH), vec![account(1001, "alice")]);
    let answer = |request: Vec<u8>| block_on(mapper.answer(&Question::new(request, asker(), NOW)));
    let garbage = answer(vec![0; 23]);
    assert_eq!((garbage.status, garbage.reason), (NtStatus::INVALID_PARAMETER, Reason::MalformedRequest));
    let no_certificate = ask(&mapper, &[0x30, 0x03, 1, 2, 3], vec![], BOTH);
    assert_eq!(
        (no_certificate.status, no_certificate.reason),
        (NtStatus::LOGON_FAILURE, Reason::MalformedCertificate)
    );
}

#[test]
fn who_may_not_ask_is_not_answered() {
    let mapper = mapper(policy(BOTH), vec![account(1001, "alice")]);
    let encoded = certificate(&Names { upn: &["alice@contoso.example"], subject: "x", ..Names::default() });
    let request =
        Request { flags: BOTH, certificate: &encoded, issuers: vec![] }.encode().expect("within the limits");
    let question = Question::new(request, Asker { may_map: false, ..asker() }, NOW);
    let answer = block_on(mapper.answer(&question));
    assert_eq!((answer.status, answer.reason), (NtStatus::ACCESS_DENIED, Reason::AskerDenied));
    assert!(answer.mapped.is_none());
}

/// A store that cannot answer.
struct Broken(Domain);

impl AccountStore for Broken {
    fn domain(&self) -> &Domain {
        &self.0
    }

    fn find<'a>(&'a self, _: &'a Query) -> BoxFuture<'a, Result<Matches, StoreError>> {
        Box::pin(async { Err(StoreError::Unavailable("it is locked".into())) })
    }

    fn revision(&self) -> Result<Revision, StoreError> {
        Err(StoreError::Unavailable("it is locked".into()))
    }
}

#[test]
fn a_store_that_cannot_answer_is_not_no() {
    let mapper = of(policy(BOTH), Arc::new(Broken(domain()))).expect("it makes sense");
    let encoded = certificate(&Names { upn: &["alice@contoso.example"], subject: "x", ..Names::default() });
    let answer = ask(&mapper, &encoded, vec![], BOTH);
    assert_eq!((answer.status, answer.authoritative), (NtStatus::DS_BUSY, false));
}

/// A store that finds an account of another domain.
struct OfAnother(Domain);

impl AccountStore for OfAnother {
    fn domain(&self) -> &Domain {
        &self.0
    }

    fn find<'a>(&'a self, _: &'a Query) -> BoxFuture<'a, Result<Matches, StoreError>> {
        let account = Account::new("alice", "S-1-5-21-4-5-6-1001".parse().expect("a SID"));
        let record = Arc::new(Record { account, memberships: vec![] });
        Box::pin(std::future::ready(Ok(Matches::One(record))))
    }

    fn revision(&self) -> Result<Revision, StoreError> {
        Ok(Revision::unique())
    }
}

#[test]
fn an_account_of_another_domain_is_answered_neither_with_a_message_nor_without() {
    let off = Policy { binding: Binding::Off, validation: Validation::Off, ..policy(BOTH) };
    let mapper = of(off, Arc::new(OfAnother(domain()))).expect("it makes sense");
    let encoded = certificate(&Names { upn: &["alice@contoso.example"], subject: "x", ..Names::default() });
    let by_message = ask(&mapper, &encoded, vec![], BOTH);
    let owned = OwnedCertificate::parse(encoded.into()).expect("our own");
    let about = block_on(mapper.answer(&Question::about(owned, vec![], BOTH, asker(), NOW)));
    for answer in [by_message, about] {
        assert_eq!((answer.status, answer.reason), (NtStatus::INTERNAL_ERROR, Reason::Unanswerable));
        assert!(answer.mapped.is_none() && answer.message.is_none());
    }
}

#[test]
fn a_policy_that_could_map_no_certificate_does_not_start() {
    let off = Policy { binding: Binding::Full, validation: Validation::Off, ..policy(BOTH) };
    let store = || Arc::new(MemoryStore::new(domain()));
    assert_eq!(of(off, store()).map(|_| ()), Err(Contradiction::NothingCanMap));
    let parts =
        |policy, trust| MapperParts { policy, trust, responder: None, store: store(), server: "DC1".into() };
    let without = parts(policy(BOTH), None);
    assert_eq!(Mapper::new(without).map(|_| ()), Err(Contradiction::Trust));
    let unused = Policy { validation: Validation::Off, ..policy(BOTH) };
    assert_eq!(Mapper::new(parts(unused, Some(trust()))).map(|_| ()), Err(Contradiction::Trust));
}

#[test]
fn an_answer_is_the_account_s_pac() {
    let mapper = mapper(policy(BOTH), vec![account(1001, "alice")]);
    let encoded = certificate(&Names { upn: &["alice@contoso.example"], subject: "x", ..Names::default() });
    let answer = ask(&mapper, &encoded, vec![], BOTH);
    assert_eq!(answer.mapped.expect("she is known").method, Method::Upn);
    let message = answer.message.expect("there is one");
    let response = Response::decode(&message).expect("our own");
    let pac = VerifiedPac::decode(response.auth_data).expect("our own");
    assert_eq!((response.domain.as_str(), pac.user_sid), ("CONTOSO", sid(1001)));
}

#[test]
fn an_explanation_tells_every_step_and_decides_the_same() {
    let mapper = mapper(policy(BOTH), vec![account(1001, "alice")]);
    let encoded = certificate(&Names { upn: &["eve@contoso.example"], subject: "x", ..Names::default() });
    let request =
        Request { flags: BOTH, certificate: &encoded, issuers: vec![] }.encode().expect("within the limits");
    let mut steps = Vec::new();
    let answer = block_on(mapper.explain(&request.into(), NOW, &mut steps));
    assert_eq!(answer.reason, Reason::NoMatch);
    let asked = steps.iter().filter(|step| matches!(step, Step::Asked { .. })).count();
    assert!(asked >= 4, "the name and the forms: {steps:?}");
    assert!(matches!(steps[steps.len() - 2], Step::Skipped { method: Method::Issuer, asked: false }));
    assert!(matches!(steps.last(), Some(Step::Decided { reason: Reason::NoMatch })));
}

/// What a certificate may have of a thing, and what becomes of one more.
#[test]
fn certificates_have_limits() {
    let made = |extensions: usize, names: usize, parts: usize| {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        for part in 0..parts as u64 {
            params.distinguished_name.push(DnType::CustomDnType(vec![1, 3, 6, 1, 4, 1, 99999, part]), "x");
        }
        for name in 0..names {
            let name = format!("host{name}.contoso.example");
            params.subject_alt_names.push(SanType::DnsName(name.as_str().try_into().expect("ASCII")));
        }
        params.custom_extensions = (0..extensions as u64)
            .map(|n| CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 99999, n], vec![0x05, 0x00]))
            .collect();
        let key = KeyPair::generate().expect("a key");
        params.signed_by(&key, &*AUTHORITY).expect("signed").der().to_vec()
    };
    // rcgen writes subjectAltName and no other extension of its own.
    assert!(Certificate::parse(&made(63, 1, 1)).is_ok());
    assert!(Certificate::parse(&made(64, 1, 1)).is_err(), "64 extensions are enough");
    let names = |count| {
        let encoded = made(0, count, 1);
        Certificate::parse(&encoded).expect("well formed").alternative_names().map(|names| names.len())
    };
    assert_eq!(names(64), Ok(64));
    assert!(names(65).is_err(), "64 alternative names are enough");
    let parts = |count| {
        let encoded = made(0, 1, count);
        Certificate::parse(&encoded).expect("well formed").subject_name().map(|name| name.0.len())
    };
    assert_eq!(parts(64), Ok(64));
    assert!(parts(65).is_err(), "64 parts of a name are enough");
}

/// A CA whose name is the same as another one's by RFC 5280 7.1, and not as stored values are compared, may
/// write the other's name into what it issues, since paths are built by that comparison. It gains nothing by
/// it.
#[test]
#[expect(clippy::unwrap_used, reason = "tests")]
fn a_ca_gains_nothing_by_a_name_that_is_the_same_in_another_encoding() {
    use rcgen::Issuer;
    let params = |name: &str| {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        (params.not_before, params.not_after) =
            (rcgen::date_time_ymd(2020, 1, 1), rcgen::date_time_ymd(2049, 1, 1));
        params
    };
    let root = |name: &str| {
        let (mut params, key) = (params(name), KeyPair::generate().unwrap());
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        (params.self_signed(&key).unwrap().der().to_vec(), key)
    };
    let leaf = |key: &KeyPair, issuer: &str| {
        let mut leaf = params("somebody");
        leaf.serial_number = Some(rcgen::SerialNumber::from_slice(&[0x41, 1, 2, 3]));
        let issuer = Issuer::new(params(issuer), KeyPair::try_from(key.serialize_der()).unwrap());
        leaf.signed_by(&KeyPair::generate().unwrap(), &issuer).unwrap().der().to_vec()
    };
    let name_of = |der: &[u8]| Certificate::parse(der).unwrap().subject.to_vec();
    let (genuine, genuine_key) = root("Contoso CA");
    // Whether the configured comparison tells the two names apart; RFC 5280 7.1 tells none of them.
    for (imitation, comparison, is_told_apart) in [
        ("contoso ca", Comparison::Exact, true),
        ("Contoso  CA", Comparison::Casefold, true),
        ("Conto\u{ad}so CA", Comparison::Casefold, true),
        ("Contoso\u{200b} CA", Comparison::Windows, false),
        (" Contoso CA", Comparison::Windows, true),
    ] {
        let (imitator, imitator_key) = root(imitation);
        let by = |anchors: &[&Vec<u8>], mapping: &str| {
            let policy = Policy {
                comparison,
                grants: Grants::new(Form::ALL.map(|form| Grant { form, to: None }).to_vec()),
                ..policy(MappingFlags::SUBJECT.with(MappingFlags::ISSUER).with(MappingFlags::ISSUER_CHAIN))
            };
            let mut alice = account(1001, "alice");
            alice.alt_security_identities = vec![mapping.to_owned()];
            let store = MemoryStore::new(domain());
            let users = Group { name: "Domain Users".into(), sid: sid(513), scope: GroupScope::Global };
            let changes = [Change::PutGroup(Put::New, users), Change::PutAccount(Put::New, Box::new(alice))];
            block_on(store.apply(&mut changes.into_iter().map(Ok))).unwrap();
            let anchors = anchors.iter().map(|der| der.to_vec()).collect();
            let trust = Some(Arc::new(Trust::new(Parts { anchors, ..Parts::default() }).unwrap()));
            let (store, server) = (Arc::new(store), "DC1".into());
            Mapper::new(MapperParts { policy, trust, responder: None, store, server }).unwrap()
        };
        let reason =
            |mapper: &Mapper, leaf: &[u8], names: Vec<&[u8]>, flags| ask(mapper, leaf, names, flags).reason;
        let stored = "X509:<I>CN=Contoso CA<SR>03020141";
        let subject = MappingFlags::SUBJECT;
        let mapped = Reason::Mapped(Method::Subject);
        // Alone, each names its certificates; beside each other, neither does.
        assert_eq!(
            reason(&by(&[&genuine], stored), &leaf(&genuine_key, "Contoso CA"), vec![], subject),
            mapped
        );
        let both = by(&[&genuine, &imitator], stored);
        let forged = leaf(&imitator_key, "Contoso CA");
        assert_eq!(reason(&both, &forged, vec![], subject), Reason::AuthorityNotAllowed, "{imitation:?}");
        assert_eq!(both.shared_names().len(), 2, "{imitation:?}");
        // Nor does it gain by the name under which values are stored for a CA that is not configured any
        // more.
        let alone = reason(&by(&[&imitator], stored), &forged, vec![], subject);
        assert_eq!(alone == Reason::AuthorityNotAllowed, is_told_apart, "{imitation:?} {alone:?}");
        // Its own name in its own encoding is its.
        let own = by(&[&imitator], &format!("X509:<I>CN=\"{imitation}\"<SR>03020141"));
        assert_eq!(reason(&own, &leaf(&imitator_key, imitation), vec![], subject), mapped, "{imitation:?}");

        // The names of a request: the CA on the path is found by its name in any encoding, and its own
        // encoding is looked up.
        let chain = MappingFlags::ISSUER.with(MappingFlags::ISSUER_CHAIN);
        let encodings = [name_of(&genuine), name_of(&imitator)];
        for encoding in &encodings {
            let found = by(&[&genuine], "X509:<I>CN=Contoso CA");
            let names = vec![encoding.as_slice()];
            let leaf = leaf(&genuine_key, "Contoso CA");
            assert_eq!(reason(&found, &leaf, names, chain), Reason::Mapped(Method::Issuer), "{imitation:?}");
        }
        for encoding in &encodings {
            let (names, leaf) = (vec![encoding.as_slice()], leaf(&imitator_key, imitation));
            let both = by(&[&genuine, &imitator], "X509:<I>CN=Contoso CA");
            assert_ne!(reason(&both, &leaf, names.clone(), chain), Reason::Mapped(Method::Issuer));
            let alone = by(&[&imitator], "X509:<I>CN=Contoso CA");
            let is_mapped = reason(&alone, &leaf, names, chain) == Reason::Mapped(Method::Issuer);
            assert!(!is_mapped || !is_told_apart, "{imitation:?}");
        }
    }
}

/// A certificate of the authority with other bytes in it, which are as long, signed anew.
fn resigned(mut encoded: Vec<u8>, old: &[u8], new: &[u8]) -> Vec<u8> {
    assert_eq!(old.len(), new.len());
    assert!(encoded.windows(old.len()).any(|bytes| bytes == old), "it is there");
    for at in 0..=encoded.len() - old.len() {
        if encoded[at..].starts_with(old) {
            encoded[at..at + old.len()].copy_from_slice(new);
        }
    }
    // Certificate: header of 4, TBSCertificate: header of 4, then signatureAlgorithm and signatureValue.
    assert_eq!((encoded[1], encoded[5]), (0x82, 0x82), "both are long");
    let tbs_len = 4 + usize::from(u16::from_be_bytes([encoded[6], encoded[7]]));
    let algorithm = 4 + tbs_len..4 + tbs_len + 2 + usize::from(encoded[4 + tbs_len + 1]);
    let signature = rcgen::SigningKey::sign(AUTHORITY.key(), &encoded[4..4 + tbs_len]).expect("signed");
    let mut bits = vec![0x03, signature.len() as u8 + 1, 0];
    bits.extend_from_slice(&signature);
    let body = [&encoded[4..4 + tbs_len], &encoded[algorithm], &bits].concat();
    [&[0x30, 0x82][..], &(body.len() as u16).to_be_bytes(), &body].concat()
}

#[test]
fn an_unreadable_subject_takes_away_only_the_forms_that_name_it() {
    let strong = policy(BOTH);
    let strong = Policy { binding: Binding::Full, ..strong };
    let upn = ["alice@contoso.example"];
    let named = Names { subject: "J0se Alice", upn: &upn, ..Names::default() };
    for (what, tag, bytes) in [
        ("Latin-1 in PrintableString", 0x13, &b"Jos\xe9 Alice"[..]),
        ("Latin-1 in UTF8String", 0x0c, b"Jos\xe9 Alice"),
        ("UTF-8 in PrintableString", 0x13, b"Jos\xc3\xa9Alice"),
        ("UTF-8 in IA5String", 0x16, b"Jos\xc3\xa9Alice"),
        ("NUL in UTF8String", 0x0c, b"Jos\0 Alice"),
        ("NUL in BMPString", 0x1e, b"J0se Ali\0\0"),
        ("a surrogate in BMPString", 0x1e, b"\xd8\0se Alice"),
        ("a string in pieces", 0x2c, b"\x0c\x08Se Alice"),
    ] {
        let old = [&[0x0c, 10], &b"J0se Alice"[..]].concat();
        let new = [&[tag, 10], bytes].concat();
        let encoded = resigned(certificate(&named), &old, &new);
        let parsed = Certificate::parse(&encoded).expect("the certificate is not concerned");
        assert!(parsed.subject_name().is_err(), "{what}");
        let stored = [form(&encoded, "issuer+serial"), thumbprint(&encoded)];
        for value in stored {
            let of_alice = Account { alt_security_identities: vec![value.clone()], ..account(1001, "a") };
            let mapper = mapper(strong.clone(), vec![of_alice]);
            let answer = ask(&mapper, &encoded, vec![], MappingFlags::SUBJECT);
            assert_eq!(answer.reason, Reason::Mapped(Method::Subject), "{what}: {value}");
            assert!(matches!(answer.mapped.expect("mapped").strength, Strength::Strong(_)), "{what}");
        }
        // What binds an account that another method found does not depend on the subject either.
        let value = form(&encoded, "issuer+serial");
        let of_alice = Account { alt_security_identities: vec![value], ..account(1001, "alice") };
        let answer = ask(&mapper(strong.clone(), vec![of_alice]), &encoded, vec![], MappingFlags::UPN);
        assert_eq!(answer.reason, Reason::Mapped(Method::Upn), "{what}");
    }
}

fn thumbprint(encoded: &[u8]) -> String {
    AltSecurityIdentity::Sha1PublicKey(Sha1::digest(encoded).into()).to_string()
}

#[test]
fn an_unreadable_mail_address_does_not_take_away_a_user_principal_name() {
    let mapper = mapper(policy(BOTH), vec![account(1001, "alice")]);
    let named = |mail: &[u8], dns: &[u8]| {
        let upn = ["alice@contoso.example"];
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("ASCII");
        let mut params = CertificateParams::default();
        params.distinguished_name = name("Alice");
        params.subject_alt_names = vec![
            SanType::Rfc822Name(text(mail).try_into().expect("ASCII")),
            SanType::OtherName((vec![1, 3, 6, 1, 4, 1, 311, 20, 2, 3], upn[0].into())),
            SanType::DnsName(text(dns).try_into().expect("ASCII")),
        ];
        let key = KeyPair::generate().expect("a key");
        params.signed_by(&key, &*AUTHORITY).expect("signed").der().to_vec()
    };
    let encoded = named(b"mXller@contoso.example", b"host.contoso.example");
    let outcome = |encoded: &[u8]| ask(&mapper, encoded, vec![], MappingFlags::UPN).reason;
    assert_eq!(outcome(&encoded), Reason::Mapped(Method::Upn));
    let with = |old: &[u8], new: &[u8]| resigned(encoded.clone(), old, new);
    assert_eq!(outcome(&with(b"mXller@", b"m\xfcller@")), Reason::Mapped(Method::Upn));
    // A DNS name is looked up with it, and might name another account.
    assert_eq!(outcome(&with(b"host.contoso", b"h\xf6st.contoso")), Reason::NoMatch);
    assert_eq!(outcome(&with(b"alice@contoso.example", b"alic\xff@contoso.example")), Reason::NoMatch);
}

#[test]
fn an_unreadable_issuer_takes_away_only_the_forms_that_name_it() {
    // The CA's own certificate and what it signed, with the same bytes in the name.
    let (old, new) = (&b"Demo CA"[..], &b"D\xe9mo CA"[..]);
    let anchor = resigned(AUTHORITY.der().to_vec(), old, new);
    let upn = ["alice@contoso.example"];
    let named = Names { subject: "Alice", upn: &upn, sid: Some(1001), ..Names::default() };
    let encoded = resigned(certificate(&named), old, new);
    let parsed = Certificate::parse(&encoded).expect("the certificate is not concerned");
    assert!(parsed.issuer_name().is_err() && parsed.subject_name().is_ok());
    let trust = Trust::new(Parts { anchors: vec![anchor], ..Parts::default() }).expect("an anchor");
    let trust = Arc::new(trust);
    let answer = |stored: Option<String>, flags| {
        let of_alice =
            Account { alt_security_identities: stored.into_iter().collect(), ..account(1001, "alice") };
        let store = MemoryStore::new(domain());
        let users = Group { name: "Domain Users".into(), sid: sid(513), scope: GroupScope::Global };
        let changes = [Change::PutGroup(Put::New, users), Change::PutAccount(Put::New, Box::new(of_alice))];
        block_on(store.apply(&mut changes.into_iter().map(Ok))).expect("they follow the rules");
        let policy = Policy { binding: Binding::Full, ..policy(BOTH) };
        let trust = Some(Arc::clone(&trust));
        let parts =
            MapperParts { policy, trust, responder: None, store: Arc::new(store), server: "DC1".into() };
        ask(&Mapper::new(parts).expect("it makes sense"), &encoded, vec![], flags).reason
    };
    assert_eq!(answer(None, MappingFlags::UPN), Reason::Mapped(Method::Upn), "bound by the SID");
    assert_eq!(answer(Some(thumbprint(&encoded)), MappingFlags::SUBJECT), Reason::Mapped(Method::Subject));
    let subject = "X509:<S>O=\"Contoso, Ltd.\",CN=Alice".to_owned();
    assert_eq!(answer(Some(subject), MappingFlags::SUBJECT), Reason::Mapped(Method::Subject));
    assert_eq!(answer(None, MappingFlags::SUBJECT), Reason::NoMatch);
}

#[test]
fn an_unreadable_name_of_an_issuer_hides_no_other_and_the_path_gives_the_order() {
    let methods = MappingFlags::ISSUER.with(MappingFlags::ISSUER_CHAIN);
    let encoded = certificate(&Names { subject: "Alice", ..Names::default() });
    let unreadable = [0x30, 0x0c, 0x31, 0x0a, 0x30, 0x08, 0x06, 0x03, 0x55, 0x04, 0x03, 0x0c, 0x01, 0xff];
    let root = [0x30, 0x0c, 0x31, 0x0a, 0x30, 0x08, 0x06, 0x03, 0x55, 0x04, 0x03, 0x0c, 0x01, b'R'];
    let of_root = Account { alt_security_identities: vec!["X509:<I>CN=R".into()], ..account(1001, "alice") };
    let rules = Policy { validation: Validation::Off, ..policy(methods) };
    let off = Validation::Off;
    let rules = Policy { grants: Grants::standard(off), ..rules };
    let mapper = mapper(rules, vec![of_root]);
    let own = Certificate::parse(&encoded).expect("our own").issuer;
    for names in [vec![own, &unreadable, &root], vec![own, &root, &unreadable], vec![&unreadable, &root]] {
        let answer = ask(&mapper, &encoded, names, methods);
        assert_eq!(answer.reason, Reason::Mapped(Method::Issuer));
    }
}

#[test]
fn names_of_a_request_are_used_in_the_order_of_the_verified_path() {
    let ca = |name: &str| {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params
    };
    let key = || KeyPair::generate().expect("a key");
    let root = CertifiedIssuer::self_signed(ca("Root"), key()).expect("signed");
    let middle = CertifiedIssuer::signed_by(ca("Middle"), key(), &root).expect("signed");
    let issuing = CertifiedIssuer::signed_by(ca("Issuing"), key(), &middle).expect("signed");
    let mut params = CertificateParams::default();
    params.distinguished_name = name("Alice");
    let encoded = params.signed_by(&key(), &issuing).expect("signed").der().to_vec();
    let parts = Parts {
        anchors: vec![root.der().to_vec()],
        intermediates: vec![middle.der().to_vec(), issuing.der().to_vec()],
        ..Parts::default()
    };
    let of = |rid, name: &str, issuer: &str| Account {
        alt_security_identities: vec![format!("X509:<I>CN={issuer}")],
        ..account(rid, name)
    };
    let store = MemoryStore::new(domain());
    let users = Group { name: "Domain Users".into(), sid: sid(513), scope: GroupScope::Global };
    let accounts = [of(1001, "middle", "Middle"), of(1002, "root", "Root")];
    let accounts = accounts.into_iter().map(|account| Change::PutAccount(Put::New, Box::new(account)));
    let mut changes = std::iter::once(Change::PutGroup(Put::New, users)).chain(accounts).map(Ok);
    block_on(store.apply(&mut changes)).expect("they follow the rules");
    let methods = MappingFlags::ISSUER.with(MappingFlags::ISSUER_CHAIN);
    let policy = Policy { grants: Grants::standard(Validation::Off), ..policy(methods) };
    let trust = Some(Arc::new(Trust::new(parts).expect("an anchor")));
    let parts = MapperParts { policy, trust, responder: None, store: Arc::new(store), server: "DC1".into() };
    let mapper = Mapper::new(parts).expect("it makes sense");
    let [of_root, of_middle, of_issuing] = [&root, &middle, &issuing].map(|ca| {
        let der = ca.der().to_vec();
        Certificate::parse(&der).expect("our own").subject.to_vec()
    });
    for names in [
        [&of_issuing, &of_middle, &of_root],
        [&of_issuing, &of_root, &of_middle],
        [&of_root, &of_middle, &of_issuing],
    ] {
        let answer = ask(&mapper, &encoded, names.map(|name| &name[..]).to_vec(), methods);
        assert_eq!(answer.mapped.map(|mapped| mapped.record.account.name.clone()).as_deref(), Some("middle"));
    }
}
