//! A directory that sends whatever it likes after TLS: no panic, bounded memory, and never "no such account".

use super::{Opened, certificates, name, posix, settings_at};
use account_store::Matches;
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::PemObject;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use store_ldap::Settings;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

pub(super) fn element(tag: u8, contents: &[u8]) -> Vec<u8> {
    let mut out = vec![tag, 0x84];
    out.extend_from_slice(&(contents.len() as u32).to_be_bytes());
    out.extend_from_slice(contents);
    out
}

pub(super) fn message(id: u8, operation: &[u8]) -> Vec<u8> {
    element(0x30, &[&[2, 1, id], operation].concat())
}

pub(super) fn result(id: u8, tag: u8, code: u8) -> Vec<u8> {
    message(id, &element(tag, &[0x0a, 1, code, 4, 0, 4, 0]))
}

fn entry(id: u8, values: usize) -> Vec<u8> {
    let values = element(0x31, &vec![[4, 0]; values].concat());
    let attribute = element(0x30, &[&[4, 3, b'u', b'i', b'd'], &values[..]].concat());
    message(id, &element(0x64, &[&[4, 4, b'c', b'n', b'=', b'a'], &element(0x30, &attribute)[..]].concat()))
}

/// What is sent in answer to a request, and whether it is sent for ever.
type Answer = Arc<dyn Fn(u8) -> (Vec<u8>, bool) + Send + Sync>;

/// Serves LDAP over TLS: binds and the first searches of a connection, so many, are answered well, or by
/// `bind`; others by `search`.
async fn serve(
    listener: tokio::net::TcpListener,
    tls: tokio_rustls::TlsAcceptor,
    good_searches: usize,
    bind: Option<Answer>,
    search: Answer,
) {
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let (tls, bind, search) = (tls.clone(), bind.clone(), Arc::clone(&search));
        tokio::spawn(async move {
            let Ok(mut stream) = tls.accept(stream).await else { return };
            let mut searches = 0;
            let mut request = vec![0; 64 << 10];
            while let Ok(len @ 1..) = stream.read(&mut request).await {
                // A short message, so the ID is in front.
                let at = request[..len].windows(2).position(|window| window == [2, 1]).unwrap_or(0) + 2;
                let (id, operation) = (request[at], request[at + 1]);
                let (answer, is_endless) = match operation {
                    0x60 => bind.as_ref().map_or_else(|| (result(id, 0x61, 0), false), |bind| bind(id)),
                    0x63 if searches < good_searches => {
                        searches += 1;
                        ([entry(id, 1), result(id, 0x65, 0)].concat(), false)
                    }
                    _ => search(id),
                };
                while stream.write_all(&answer).await.is_ok() && is_endless {}
                let _ = stream.flush().await;
            }
        });
    }
}

/// What a server of our own shows at 127.0.0.1. Its CA is `ca.pem` in the folder.
pub(super) fn server_config(folder: &Path) -> Arc<rustls::ServerConfig> {
    rcmpd_tests::slapd::certificates(folder, "IP:127.0.0.1");
    let chain = certificates(&folder.join("server.pem"));
    let key = PrivateKeyDer::from_pem_file(folder.join("server.key")).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config =
        rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    Arc::new(config.with_no_client_auth().with_single_cert(chain, key).unwrap())
}

/// A store of such a directory.
fn hostile(bind: Option<Answer>, search: Answer) -> (Opened, tempfile::TempDir) {
    hostile_after(3, bind, search)
}

/// The same, hostile after so many searches of a connection. Three prove its rights.
fn hostile_after(good_searches: usize, bind: Option<Answer>, search: Answer) -> (Opened, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let config = server_config(folder.path());
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let port = listener.local_addr().unwrap().port();
    let opened = Opened::of(Settings {
        timeout: Duration::from_secs(10),
        connections_max: 2,
        ..settings_at(port, &folder.path().join("ca.pem"), posix())
    });
    opened.runtime.spawn(async move {
        let listener = tokio::net::TcpListener::from_std(listener).unwrap();
        serve(listener, tokio_rustls::TlsAcceptor::from(config), good_searches, bind, search).await;
    });
    (opened, folder)
}

fn once(answer: impl Fn(u8) -> Vec<u8> + Send + Sync + 'static) -> Answer {
    Arc::new(move |id| (answer(id), false))
}

fn endless(answer: impl Fn(u8) -> Vec<u8> + Send + Sync + 'static) -> Answer {
    Arc::new(move |id| (answer(id), true))
}

fn resident_mib() -> usize {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
    pages.split(' ').nth(1).unwrap().parse::<usize>().unwrap() / 256
}

/// Counts panics, also those of tasks.
fn counted_panics() -> &'static AtomicUsize {
    static PANICS: AtomicUsize = AtomicUsize::new(0);
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        PANICS.fetch_add(1, Ordering::Relaxed);
        before(info);
    }));
    &PANICS
}

#[test]
fn whatever_a_directory_sends_is_an_error_and_no_panic() {
    let panics = counted_panics();
    let nested = |depth: usize| (0..depth).fold(vec![4, 0], |inner, _| element(0x30, &inner));
    let deep = nested(20_000);
    let rows: Vec<(&str, Answer)> = vec![
        ("nested elements", once(move |id| message(id, &element(0x64, &[&[4, 0], &deep[..]].concat())))),
        ("a length of 4 GiB", once(|_| vec![0x30, 0x84, 0xff, 0xff, 0xff, 0xff, 2, 1])),
        (
            "a value of 4 GiB",
            once(|id| [vec![0x30, 0x0b, 2, 1, id, 0x64, 6, 4, 0x84], vec![0xff; 4]].concat()),
        ),
        ("an indefinite length", once(|_| vec![0x30, 0x80, 0, 0])),
        ("zeros without end", endless(|_| vec![0; 64 << 10])),
        ("entries without end", endless(|id| entry(id, 100).repeat(50))),
        ("large entries without end", endless(|id| entry(id, 19_000))),
        ("too many values", once(|id| entry(id, 100_000))),
        ("references without end", endless(|id| message(id, &element(0x73, &[4, 1, b'x'])).repeat(100))),
        (
            "a reference alone",
            once(|id| [message(id, &element(0x73, &[4, 1, b'x'])), result(id, 0x65, 0)].concat()),
        ),
        ("wrong IDs", once(|id| [entry(id + 1, 1), result(id + 1, 0x65, 0)].concat())),
        ("ID 0", once(|_| result(0, 0x65, 0))),
        ("a notice of disconnection", once(|_| result(0, 0x78, 52))),
        ("another operation", once(|id| result(id, 0x69, 0))),
        ("an intermediate response", once(|id| message(id, &element(0x79, b"")))),
        ("a result without a code", once(|id| message(id, &element(0x65, b"")))),
        ("a negative code", once(|id| result(id, 0x65, 0xff))),
        ("an entry that is no entry", once(|id| message(id, &element(0x64, b"")))),
        ("a name that is no text", once(|id| message(id, &element(0x64, &[4, 1, 0xff, 0x30, 0])))),
        ("an entry without a name of its own", once(|id| [entry(id, 0), result(id, 0x65, 0)].concat())),
        ("HTTP", once(|_| b"HTTP/1.1 200 OK\r\n\r\n".to_vec())),
    ];
    let before = resident_mib();
    for (what, answer) in &rows {
        for at_bind in [true, false] {
            let (bind, search) = match at_bind {
                true => (Some(Arc::clone(answer)), once(|id| result(id, 0x65, 0))),
                false => (None, Arc::clone(answer)),
            };
            let (opened, _folder) = hostile(bind, search);
            let found = opened.find(name("alice"));
            assert!(
                found.as_ref().is_err_and(|error| error.to_string().contains("store: ")),
                "{what}: {found:?}"
            );
        }
    }
    assert_eq!(panics.load(Ordering::Relaxed), 0);
    let grown = resident_mib().saturating_sub(before);
    assert!(grown < 400, "{grown} MiB more");
}

/// References are not kept, so neither the limit of entries nor memory ends them.
#[test]
fn an_answer_ends_at_its_limit_and_not_at_the_deadline() {
    let references = endless(|id| message(id, &element(0x73, &element(4, &[b'x'; 60_000]))));
    let (opened, _folder) = hostile(None, references);
    opened.fails(name("alice"), "an answer of more than 16 MiB");
}

/// Only complete success without an entry means that there is no such account.
#[test]
fn each_result_code_but_success_is_an_error() {
    let (opened, _folder) = hostile(None, once(|id| result(id, 0x65, 0)));
    assert_eq!(opened.find(name("alice")).unwrap(), Matches::None);
    for code in (1..=127).filter(|code| *code != 4) {
        let (opened, _folder) = hostile(None, once(move |id| result(id, 0x65, code)));
        let error = opened.find(name("alice")).expect_err("it is no success").to_string();
        let named =
            code == 32 || error.contains(&format!("({code})")) || error.contains(&format!("result {code}"));
        assert!(error.contains("store: ") && named, "{code}: {error}");
    }
    let (opened, _folder) = hostile(None, once(|id| result(id, 0x65, 4)));
    opened.fails(name("alice"), "sizeLimitExceeded (4)");
}

/// An account that binds and may read nothing does not bind with each question.
#[test]
fn an_account_without_rights_binds_ever_later() {
    let binds = Arc::new(AtomicUsize::new(0));
    let counted = {
        let binds = Arc::clone(&binds);
        once(move |id| {
            binds.fetch_add(1, Ordering::Relaxed);
            result(id, 0x61, 0)
        })
    };
    let begun = std::time::Instant::now();
    let (opened, _folder) = hostile_after(0, Some(counted), once(|id| result(id, 0x65, 0)));
    for _ in 0..200 {
        opened.fails(name("alice"), "store: bind: the store's account may not read");
    }
    // After 0.25 s at the earliest, then 0.5 s, and so on; the watch binds, too.
    let most = 2 + usize::try_from(begun.elapsed().as_millis() / 250).unwrap();
    let count = binds.load(Ordering::Relaxed);
    assert!((1..=most).contains(&count), "{count} binds of 200 questions, {most} at most");
}
