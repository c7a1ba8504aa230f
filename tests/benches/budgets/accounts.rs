//! A store of many accounts, each with a name for a certificate, in groups that are in groups.

use account_store::{AccountStore, Matches, Query, SqliteStore};
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DistinguishedName, DnType, IsCa, Issuer, KeyPair,
    SanType,
};
use rcmpd_tests::{Demo, Service};
use std::fs::File;
use std::future::Future;
use std::io::{BufWriter, Write};
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

const FIRST: u32 = 10_000;
const GROUPS: u32 = 200;
const GROUPS_EACH: u32 = 4;
/// Makes a certificate of some 1,300 bytes, and a request of some 1,500: what RSA-2048 makes of one.
const FILLING: usize = 800;
const TEMPLATE_NAME: &str = "user0000000@contoso.example";

/// The accounts, and a certificate to be made out to any of them.
pub(crate) struct Accounts {
    pub(crate) count: u32,
    template: Vec<u8>,
    name_at: usize,
    /// Certificates that the demo's authority issued, where the service verifies them.
    issued: Vec<Vec<u8>>,
}

/// Whether the service verifies chains and asks for more than names.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Policy {
    /// It does neither: what is measured is everything else.
    Off,
    /// It does both, as the quickstart has it.
    Strict,
}

/// The demo's authority.
pub(crate) fn authority(demo: &Demo) -> Issuer<'static, KeyPair> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "Contoso");
    params.distinguished_name.push(DnType::CommonName, "Contoso Demo CA");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    let key = std::fs::read_to_string(demo.path("certs/ca.key")).unwrap();
    Issuer::new(params, KeyPair::from_pem(&key).unwrap())
}

/// A certificate by name for one of the accounts, with its SID or without.
pub(crate) fn issue(issuer: &Issuer<'_, KeyPair>, key: &KeyPair, number: u32, sid: Option<&str>) -> Vec<u8> {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "Somebody");
    let name = upn(number);
    params.subject_alt_names =
        vec![SanType::OtherName((vec![1, 3, 6, 1, 4, 1, 311, 20, 2, 3], name.as_str().into()))];
    if let Some(sid) = sid {
        let wrap = |tag: u8, contents: &[u8]| [&[tag, contents.len() as u8], contents].concat();
        let id = [0x06, 0x0a, 0x2b, 0x06, 0x01, 0x04, 0x01, 0x82, 0x37, 0x19, 0x02, 0x01];
        let sid = format!("{sid}-{}", FIRST + number);
        let content = wrap(0x30, &wrap(0xa0, &[&id[..], &wrap(0xa0, &wrap(0x04, sid.as_bytes()))].concat()));
        params.custom_extensions = vec![
            CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 311, 25, 2], content),
            CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 99999, 1], vec![0x5a; FILLING]),
        ];
    }
    params.signed_by(key, issuer).unwrap().der().to_vec()
}

fn upn(number: u32) -> String {
    format!("user{number:07}@contoso.example")
}

fn lines(out: &mut impl Write, sid: &str, count: u32) {
    for group in 0..GROUPS {
        writeln!(
            out,
            r#"{{"type":"group","name":"Group {group}","sid":"{sid}-{}","scope":"global"}}"#,
            2000 + group
        )
        .unwrap();
    }
    for number in 0..count {
        let groups: Vec<String> = (0..GROUPS_EACH)
            .map(|group| format!("\"{sid}-{}\"", 2000 + (number.wrapping_mul(31) + group * 53) % GROUPS))
            .collect();
        writeln!(
            out,
            r#"{{"type":"account","name":"user{number:07}","sid":"{sid}-{}","kind":"user","user_principal_name":"{}","flags":512,"primary_group_id":513,"created":134400043880550659,"password_last_set":134400043880550659,"password_can_change":134400043880550659,"profile":{{"full_name":"User {number}"}},"member_of":[{}]}}"#,
            FIRST + number,
            upn(number),
            groups.join(",")
        )
        .unwrap();
    }
}

fn now<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => panic!("a look-up is answered at once"),
    }
}

impl Accounts {
    /// Imports so many into a demo's store.
    pub(crate) fn import(demo: &Demo, count: u32, policy: Policy) -> Self {
        let started = Instant::now();
        let mut out = BufWriter::new(File::create(demo.path("many.jsonl")).unwrap());
        lines(&mut out, &demo.domain_sid(), count);
        out.flush().unwrap();
        demo.rcmpd(&["import", "many.jsonl", "-c", "rcmpd.toml"]).code(0);
        std::fs::remove_file(demo.path("many.jsonl")).unwrap();
        eprintln!("{count} accounts imported in {:.1} s", started.elapsed().as_secs_f64());
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "Somebody");
        let name = SanType::OtherName((vec![1, 3, 6, 1, 4, 1, 311, 20, 2, 3], TEMPLATE_NAME.into()));
        params.subject_alt_names = vec![name];
        params.custom_extensions =
            vec![CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 99999, 1], vec![0x5a; FILLING])];
        let template = params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec();
        let name = TEMPLATE_NAME.as_bytes();
        let name_at = template.windows(name.len()).position(|window| window == name).unwrap();
        let issued = match policy {
            Policy::Off => Vec::new(),
            Policy::Strict => {
                let (issuer, key, sid) = (authority(demo), KeyPair::generate().unwrap(), demo.domain_sid());
                (0..count).map(|number| issue(&issuer, &key, number, Some(&sid))).collect()
            }
        };
        Self { count, template, name_at, issued }
    }

    /// The certificate of one of them. Where the service does not look at its signature, its key has no
    /// owner.
    pub(crate) fn certificate(&self, number: u32) -> Vec<u8> {
        if let Some(issued) = self.issued.get(number as usize) {
            return issued.clone();
        }
        let mut certificate = self.template.clone();
        let name = upn(number);
        certificate[self.name_at..self.name_at + name.len()].copy_from_slice(name.as_bytes());
        certificate
    }

    /// One after the other, in an order that no cache follows.
    pub(crate) fn number(&self, at: usize) -> u32 {
        (at as u64 * 7_368_787 % u64::from(self.count)) as u32
    }

    /// Microseconds a look-up takes in this process: the same one again, and others each time.
    pub(crate) fn look_ups(&self, service: &Service) -> (f64, f64) {
        let store = SqliteStore::open(&service.path("accounts.db"), None).unwrap();
        let found = |number| {
            let query = Query::UserPrincipalName(upn(number));
            assert!(matches!(now(store.find(&query)), Ok(Matches::One(_))), "{number}");
        };
        let time = |rounds: usize, which: &dyn Fn(usize) -> u32| {
            let started = Instant::now();
            (0..rounds).for_each(|at| found(which(at)));
            started.elapsed().as_secs_f64() * 1e6 / rounds as f64
        };
        // Each page once, so that they are in the page cache.
        time(self.count as usize, &|at| at as u32);
        (time(200_000, &|_| 7), time(100_000, &|at| self.number(at)))
    }
}
