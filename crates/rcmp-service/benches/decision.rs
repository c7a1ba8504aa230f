//! What a decision costs whose path and account are cached: `cargo bench -p rcmp-service --bench decision`.
//!
//! The policy is the default one. The certificate has a user principal name, the SID of its account and some
//! 1,300 bytes in all.

use account_store::{
    Account, AccountStore, BoxFuture, Domain, GroupScope, Matches, Membership, Query, Record, Revision,
    StoreError,
};
use bytes::Bytes;
use divan::{Bencher, black_box};
use dtyp::FileTime;
use rcgen::{BasicConstraints, CertificateParams, CustomExtension, DnType, IsCa, Issuer, KeyPair, SanType};
use rcmp_service::certificate::{Certificate, OwnedCertificate};
use rcmp_service::message::{MappingFlags, Request};
use rcmp_service::trust::{Parts, Trust};
use rcmp_service::{Asker, MapCertificate, Mapper, MapperParts, Policy, Question};
use sha2::{Digest, Sha256};
use std::future::Future;
use std::pin::pin;
use std::sync::{Arc, LazyLock};
use std::task::{Context, Poll, Waker};
use tower::Service;

/// 2026-01-01T00:00:00Z.
const NOW: i64 = 1_767_225_600;
const DOMAIN: &str = "S-1-5-21-3623811015-3361044348-30300820";
const RID: u32 = 1013;
const UPN: &str = "user0000007@contoso.example";
const FILLING: usize = 800;

fn main() {
    divan::main();
}

/// One account, which is found by its user principal name.
struct One {
    domain: Domain,
    record: Arc<Record>,
}

impl AccountStore for One {
    fn domain(&self) -> &Domain {
        &self.domain
    }

    fn find<'a>(&'a self, query: &'a Query) -> BoxFuture<'a, Result<Matches, StoreError>> {
        let found = match query {
            Query::UserPrincipalName(name) if name == UPN => Matches::One(Arc::clone(&self.record)),
            _ => Matches::None,
        };
        Box::pin(std::future::ready(Ok(found)))
    }

    fn revision(&self) -> Result<Revision, StoreError> {
        Ok(Revision::unique())
    }
}

struct Fixture {
    mapper: Arc<Mapper>,
    asker: Arc<Asker>,
    leaf: Bytes,
    digest: [u8; 32],
    request: Vec<u8>,
}

static FIXTURE: LazyLock<Fixture> = LazyLock::new(|| {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.distinguished_name.push(DnType::OrganizationName, "Contoso");
    params.distinguished_name.push(DnType::CommonName, "Contoso Demo CA");
    let key = KeyPair::generate().expect("a key");
    let root = params.self_signed(&key).expect("a root").der().to_vec();
    let issuer = Issuer::new(params, key);
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "Somebody");
    params.subject_alt_names = vec![SanType::OtherName((vec![1, 3, 6, 1, 4, 1, 311, 20, 2, 3], UPN.into()))];
    let wrap = |tag: u8, contents: &[u8]| [&[tag, contents.len() as u8], contents].concat();
    let id = [0x06, 0x0a, 0x2b, 0x06, 0x01, 0x04, 0x01, 0x82, 0x37, 0x19, 0x02, 0x01];
    let sid = format!("{DOMAIN}-{RID}");
    let content = wrap(0x30, &wrap(0xa0, &[&id[..], &wrap(0xa0, &wrap(0x04, sid.as_bytes()))].concat()));
    params.custom_extensions = vec![
        CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 311, 25, 2], content),
        CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 99999, 1], vec![0x5a; FILLING]),
    ];
    let key = KeyPair::generate().expect("a key");
    let leaf = Bytes::from(params.signed_by(&key, &issuer).expect("a certificate").der().to_vec());

    let domain = Domain {
        netbios: "CONTOSO".into(),
        dns: "contoso.example".into(),
        sid: DOMAIN.parse().expect("a SID"),
    };
    let sid = |rid| domain.sid.with_rid(rid).expect("there is room");
    let member =
        |rid| Membership { sid: sid(rid), name: Some(format!("Group {rid}")), scope: GroupScope::Global };
    let account = Account { user_principal_name: Some(UPN.into()), ..Account::new("user0000007", sid(RID)) };
    let record = Arc::new(Record { account, memberships: [2001, 2054, 2107, 2160].map(member).to_vec() });
    let asker = Arc::new(Asker::machine("WEB01$", sid(1100), true));
    let trust = Trust::new(Parts { anchors: vec![root], ..Parts::default() }).expect("a trust");
    let mapper = Arc::new(
        Mapper::new(MapperParts {
            policy: Policy::default(),
            trust: Some(Arc::new(trust)),
            responder: None,
            store: Arc::new(One { domain, record }),
            server: "DC1".into(),
        })
        .expect("it makes sense"),
    );
    let certificate = Certificate::parse(&leaf).expect("our own");
    let request = Request { flags: FLAGS, certificate: &leaf, issuers: vec![certificate.issuer] };
    let request = request.encode().expect("it is within the limits");
    Fixture { mapper, asker, digest: Sha256::digest(&leaf).into(), leaf, request }
});

const FLAGS: MappingFlags = MappingFlags::ALL;

fn now<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => panic!("nothing is waited for"),
    }
}

/// The message of a client, answered by a message.
#[divan::bench(sample_count = 1000, sample_size = 100)]
fn message(bencher: Bencher<'_, '_>) {
    let Fixture { mapper, asker, request, .. } = &*FIXTURE;
    let (handler, at) = (MapCertificate::new(Arc::clone(mapper), None), FileTime::from_unix(NOW));
    bencher.bench(|| {
        let question = Question::new(black_box(request).clone(), Asker::clone(asker), at);
        let Ok(answer) = now(handler.clone().call(question));
        assert!(answer.mapped.is_some(), "{:?}", answer.reason);
        answer.message
    });
}

/// A certificate that this process asks about.
#[divan::bench(sample_count = 1000, sample_size = 100)]
fn certificate(bencher: Bencher<'_, '_>) {
    let Fixture { mapper, asker, leaf, digest, .. } = &*FIXTURE;
    let (handler, at) = (MapCertificate::new(Arc::clone(mapper), None), FileTime::from_unix(NOW));
    bencher.bench(|| {
        let certificate = OwnedCertificate::parse_hashed(black_box(leaf).clone(), *digest).expect("our own");
        let not_after = certificate.get().not_after;
        let question = Question::about(certificate, Vec::new(), FLAGS, Arc::clone(asker), at);
        let Ok(answer) = now(handler.clone().call(question));
        assert!(answer.mapped.is_some(), "{:?}", answer.reason);
        (answer, not_after)
    });
}

/// The parts of it.
#[divan::bench(sample_count = 1000, sample_size = 100)]
fn parse(bencher: Bencher<'_, '_>) {
    let leaf = &FIXTURE.leaf;
    bencher.bench(|| {
        Certificate::parse(black_box(leaf)).map(|certificate| certificate.not_after).expect("our own")
    });
}

#[divan::bench(sample_count = 1000, sample_size = 100)]
fn verify_cached(bencher: Bencher<'_, '_>) {
    let Fixture { mapper, leaf, .. } = &*FIXTURE;
    let trust = mapper.trust().expect("there is one");
    bencher.bench(|| trust.verify(black_box(leaf), FileTime::from_unix(NOW)).expect("a path"));
}

#[divan::bench(sample_count = 1000, sample_size = 100)]
fn verify_cached_hashed(bencher: Bencher<'_, '_>) {
    let Fixture { mapper, leaf, digest, .. } = &*FIXTURE;
    let trust = mapper.trust().expect("there is one");
    bencher
        .bench(|| trust.verify_hashed(black_box(leaf), *digest, FileTime::from_unix(NOW)).expect("a path"));
}
