//! Values are encoded here as each server does it, by hand.

use super::*;
use crate::routes::{Route, Routes};
use crate::scene::certificate;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::HeaderName;

/// A leaf, an intermediate and a root.
struct Scene {
    leaf: Vec<u8>,
    chain: [Vec<u8>; 2],
}

/// A dialect, the good form of its headers, and whether it has a chain.
type Form = (Dialect, Vec<(&'static str, String)>, bool);

fn base64(der: &[u8]) -> String {
    STANDARD.encode(der)
}

/// Lines of 64 characters, as OpenSSL writes them.
fn pem(der: &[u8]) -> String {
    let text = base64(der);
    let lines: Vec<&str> =
        text.as_bytes().chunks(64).map(|line| str::from_utf8(line).expect("ASCII")).collect();
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
}

fn percent(text: &str) -> String {
    let stands = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    text.bytes().map(|b| if stands(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

fn spaced(pem: &str) -> String {
    pem.replace('\n', " ")
}

fn sha256(der: &[u8]) -> [u8; 32] {
    Sha256::digest(der).into()
}

impl Scene {
    fn new() -> Self {
        Self { leaf: certificate("alice"), chain: ["Issuing", "Root"].map(certificate) }
    }

    fn presented(&self, chain: &[Vec<u8>]) -> ClientCertificate {
        ClientCertificate {
            leaf: self.leaf.clone().into(),
            chain: chain.iter().cloned().map(Bytes::from).collect(),
            sha256: sha256(&self.leaf),
        }
    }

    /// XFCC with everything that Envoy can be told to put in.
    fn xfcc(&self) -> String {
        let all: String = [&self.leaf, &self.chain[0], &self.chain[1]].map(|der| pem(der)).concat();
        format!(
            r#"By=spiffe://mesh/ns/a;Hash={};Cert="{}";Chain="{}";Subject="CN=\"Liddell, Alice; A\",O=\\,=";URI=;DNS=a.example"#,
            dtyp::hex(&sha256(&self.leaf)),
            percent(&pem(&self.leaf)),
            percent(&all),
        )
    }

    fn forms(&self) -> Vec<Form> {
        let leaf = base64(&self.leaf);
        let [issuing, root] = &self.chain;
        let bare = format!("{leaf},{},{}", base64(issuing), base64(root));
        let apache_chain = format!("{}{}", spaced(&pem(issuing)), spaced(&pem(root)));
        let list = format!(":{}:,\t:{}:", base64(issuing), base64(root));
        vec![
            (
                Dialect::Nginx,
                vec![(SSL_CLIENT_VERIFY, "SUCCESS".to_owned()), (SSL_CLIENT_CERT, percent(&pem(&self.leaf)))],
                false,
            ),
            (Dialect::Traefik, vec![(X_FORWARDED_TLS_CLIENT_CERT, bare.clone())], true),
            (Dialect::Traefik, vec![(X_FORWARDED_TLS_CLIENT_CERT, percent(&bare))], true),
            (Dialect::Caddy, vec![(X_TLS_CLIENT_CERT, leaf.clone())], false),
            (
                Dialect::Haproxy,
                vec![
                    (X_SSL_CLIENT_USED, "1".to_owned()),
                    (X_SSL_CLIENT_VERIFY, "0".to_owned()),
                    (X_SSL_CLIENT_CERT, leaf.clone()),
                    (X_SSL_CLIENT_CHAIN, base64(&self.chain.concat())),
                ],
                true,
            ),
            (
                Dialect::Apache,
                vec![
                    (X_SSL_CLIENT_VERIFY, "SUCCESS".to_owned()),
                    (X_SSL_CLIENT_CERT, spaced(&pem(&self.leaf))),
                    (X_SSL_CLIENT_CHAIN, apache_chain),
                ],
                true,
            ),
            (Dialect::Envoy, vec![(X_FORWARDED_CLIENT_CERT, self.xfcc())], true),
            (Dialect::ClientCert, vec![(CLIENT_CERT, format!(":{leaf}:")), (CLIENT_CERT_CHAIN, list)], true),
        ]
    }
}

fn read<'a>(
    dialect: Dialect,
    headers: impl IntoIterator<Item = (&'a str, &'a str)>,
) -> Result<Option<ClientCertificate>, Refusal> {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        let name = HeaderName::from_bytes(name.as_bytes()).expect("a name");
        map.append(name, HeaderValue::from_str(value).expect("a value"));
    }
    dialect.presented(&map)
}

#[track_caller]
fn check(dialect: Dialect, headers: &[(&str, &str)], expected: Result<Option<&ClientCertificate>, Refusal>) {
    let presented = read(dialect, headers.iter().copied());
    assert_eq!(presented.as_ref().map(Option::as_ref), expected.as_ref().copied(), "{dialect:?} {headers:?}");
}

fn borrowed<'a>(headers: &'a [(&'static str, String)]) -> Vec<(&'a str, &'a str)> {
    headers.iter().map(|(name, value)| (*name, value.as_str())).collect()
}

const ANONYMOUS: Result<Option<&ClientCertificate>, Refusal> = Ok(None);

fn broken(broken: Broken) -> Result<Option<&'static ClientCertificate>, Refusal> {
    Err(Refusal::Broken(broken))
}

#[test]
fn every_good_form_is_read() {
    let scene = Scene::new();
    for (dialect, headers, has_chain) in scene.forms() {
        let chain = if has_chain { &scene.chain[..] } else { &[] };
        check(dialect, &borrowed(&headers), Ok(Some(&scene.presented(chain))));
    }
}

#[test]
fn no_certificate_is_anonymous() {
    use Dialect::{Apache, Caddy, ClientCert, Envoy, Haproxy, Nginx, Traefik};
    check(Nginx, &[(SSL_CLIENT_VERIFY, "NONE")], ANONYMOUS);
    for nothing in ["", "-", "(null)", "  "] {
        check(Nginx, &[(SSL_CLIENT_VERIFY, "NONE"), (SSL_CLIENT_CERT, nothing)], ANONYMOUS);
        check(Traefik, &[(X_FORWARDED_TLS_CLIENT_CERT, nothing)], ANONYMOUS);
        check(Caddy, &[(X_TLS_CLIENT_CERT, nothing)], ANONYMOUS);
        let haproxy = [(X_SSL_CLIENT_USED, "0"), (X_SSL_CLIENT_VERIFY, "0"), (X_SSL_CLIENT_CERT, nothing)];
        check(Haproxy, &haproxy, ANONYMOUS);
        let apache =
            [(X_SSL_CLIENT_VERIFY, "NONE"), (X_SSL_CLIENT_CERT, nothing), (X_SSL_CLIENT_CHAIN, nothing)];
        check(Apache, &apache, ANONYMOUS);
        check(Envoy, &[(X_FORWARDED_CLIENT_CERT, nothing)], ANONYMOUS);
        check(ClientCert, &[(CLIENT_CERT, nothing)], ANONYMOUS);
    }
    for dialect in [Traefik, Caddy, Envoy, ClientCert] {
        check(dialect, &[("accept", "*/*")], ANONYMOUS);
    }
    check(ClientCert, &[(CLIENT_CERT_CHAIN, "")], ANONYMOUS);
}

#[test]
fn the_verification_of_the_proxy_is_required_and_read() {
    use Dialect::{Apache, Haproxy, Nginx};
    let scene = Scene::new();
    let alone = scene.presented(&[]);
    let alice = Ok(Some(&alone));
    let (escaped, spaced) = (percent(&pem(&scene.leaf)), spaced(&pem(&scene.leaf)));
    let failed = Err(Refusal::NotVerified);
    for (value, expected) in [
        (Some("SUCCESS"), alice),
        (Some(" SUCCESS "), alice),
        (Some("NONE"), broken(Broken::Contradiction)),
        (Some("FAILED"), failed),
        (Some("FAILED:certificate has expired"), failed),
        (Some("GENEROUS"), failed),
        (Some("success"), broken(Broken::Verification)),
        (Some("SUCCESS,SUCCESS"), broken(Broken::Verification)),
        (Some(""), broken(Broken::Verification)),
        (Some("(null)"), broken(Broken::Verification)),
        (None, broken(Broken::NoVerification)),
    ] {
        for (dialect, verify, name, text) in [
            (Nginx, SSL_CLIENT_VERIFY, SSL_CLIENT_CERT, &escaped),
            (Apache, X_SSL_CLIENT_VERIFY, X_SSL_CLIENT_CERT, &spaced),
        ] {
            let mut headers = vec![(name, text.as_str())];
            headers.extend(value.map(|value| (verify, value)));
            check(dialect, &headers, expected);
        }
    }
    check(Nginx, &[(SSL_CLIENT_VERIFY, "SUCCESS")], broken(Broken::Contradiction));
    check(
        Apache,
        &[(X_SSL_CLIENT_VERIFY, "SUCCESS"), (X_SSL_CLIENT_CERT, "(null)")],
        broken(Broken::Contradiction),
    );
    let base64 = base64(&scene.leaf);
    for (used, verify, text, expected) in [
        (Some("1"), Some("0"), base64.as_str(), alice),
        (Some("1"), Some("10"), &base64, failed),
        (Some("0"), Some("10"), "", failed),
        (Some("1"), Some("00"), &base64, failed),
        (Some("1"), Some("-1"), &base64, broken(Broken::Verification)),
        (Some("1"), Some(""), &base64, broken(Broken::Verification)),
        (Some("1"), None, &base64, broken(Broken::NoVerification)),
        (Some("true"), Some("0"), &base64, broken(Broken::Verification)),
        (Some(""), Some("0"), &base64, broken(Broken::Verification)),
        (None, Some("0"), &base64, broken(Broken::NoVerification)),
        (Some("0"), Some("0"), &base64, broken(Broken::Contradiction)),
        (Some("1"), Some("0"), "", broken(Broken::Contradiction)),
    ] {
        let mut headers = vec![(X_SSL_CLIENT_CERT, text)];
        headers.extend(used.map(|value| (X_SSL_CLIENT_USED, value)));
        headers.extend(verify.map(|value| (X_SSL_CLIENT_VERIFY, value)));
        check(Haproxy, &headers, expected);
    }
}

#[test]
fn a_header_that_comes_twice_is_rejected() {
    let scene = Scene::new();
    for (dialect, headers, _) in scene.forms() {
        let headers = borrowed(&headers);
        for doubled in headers.iter().filter(|(name, _)| *name != CLIENT_CERT_CHAIN) {
            for second in [doubled.1, ""] {
                let mut headers = headers.clone();
                headers.push((doubled.0, second));
                check(dialect, &headers, broken(Broken::Twice));
            }
        }
    }
    // But for a list, which may come in parts.
    let (leaf, [issuing, root]) = (&scene.leaf, &scene.chain);
    let [leaf, issuing, root] = [leaf, issuing, root].map(|der| format!(":{}:", base64(der)));
    let headers = [(CLIENT_CERT, &*leaf), (CLIENT_CERT_CHAIN, &*issuing), (CLIENT_CERT_CHAIN, &*root)];
    check(Dialect::ClientCert, &headers, Ok(Some(&scene.presented(&scene.chain))));
    check(Dialect::ClientCert, &headers[1..], broken(Broken::Contradiction));
}

#[test]
fn a_proxy_that_appends_is_found_out() {
    let scene = Scene::new();
    for (dialect, headers, _) in scene.forms() {
        for at in 0..headers.len() {
            let (name, value) = &headers[at];
            // Lists are what a comma is for.
            if matches!(*name, CLIENT_CERT_CHAIN | X_FORWARDED_TLS_CLIENT_CERT) {
                continue;
            }
            for forged in ["", ";a", ";a=\"", ";Subject=\"", ";By=", ";Subject=\"\\"] {
                let mut headers = headers.clone();
                headers[at].1 = format!("{value}{forged}, {value}");
                let presented = read(dialect, borrowed(&headers));
                assert!(matches!(presented, Err(Refusal::Broken(_))), "{name}: {forged}: {presented:?}");
            }
        }
    }
    let [leaf, other] = [&scene.leaf, &scene.chain[0]].map(|der| format!(":{}:", base64(der)));
    let many = broken(Broken::ManyCertificates);
    check(Dialect::ClientCert, &[(CLIENT_CERT, &format!("{leaf}, {other}"))], many);
    check(Dialect::ClientCert, &[(CLIENT_CERT, &format!("{leaf};q=1, {other}"))], many);
    let two = percent(&(pem(&scene.leaf) + &pem(&scene.chain[0])));
    check(Dialect::Nginx, &[(SSL_CLIENT_VERIFY, "SUCCESS"), (SSL_CLIENT_CERT, &two)], many);
    let xfcc = scene.xfcc();
    for (value, expected) in [
        (format!("{xfcc},{xfcc}"), many),
        (format!("Cert=\"{}\";x,{xfcc}", percent(&pem(&scene.leaf))), many),
        (format!("x,{xfcc}"), many),
        // URI and DNS are the last: what follows is part of their value.
        (format!("{xfcc};Cert=x"), many),
        (format!("{xfcc};hash=x"), many),
    ] {
        check(Dialect::Envoy, &[(X_FORWARDED_CLIENT_CERT, &value)], expected);
    }
}

#[test]
fn other_names_and_other_dialects_are_forged() {
    let scene = Scene::new();
    for (dialect, headers, _) in scene.forms() {
        for owned in OWNED {
            let aliases = [owned.replace('-', "_"), owned.replacen('-', "_", 1), owned.replace('-', ".")];
            let aliases = aliases.iter().map(|alias| (alias.to_uppercase(), true));
            for (name, is_forged) in aliases.chain([(owned.to_owned(), !dialect.own().contains(&owned))]) {
                let mut headers = borrowed(&headers);
                headers.push((&name, ""));
                if is_forged {
                    check(dialect, &headers, Err(Refusal::Forged));
                }
            }
        }
        let upper: Vec<_> = headers.iter().map(|(name, value)| (name.to_uppercase(), value)).collect();
        let upper = upper.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        assert!(matches!(read(dialect, upper), Ok(Some(_))), "a name's case means nothing");
    }
}

#[test]
fn what_is_cut_off_is_never_another_certificate() {
    let scene = Scene::new();
    for (dialect, headers, _) in scene.forms() {
        for at in 0..headers.len() {
            let mut cut = headers.clone();
            for len in 0..headers[at].1.len() {
                cut[at].1.clear();
                cut[at].1.push_str(&headers[at].1[..len]);
                match read(dialect, borrowed(&cut)) {
                    Ok(Some(presented)) => {
                        assert_eq!(presented.leaf, scene.leaf, "{dialect:?} {len}");
                        let chain: Vec<_> = presented.chain.iter().map(|der| der.to_vec()).collect();
                        assert!(scene.chain.starts_with(&chain), "{dialect:?} {len}");
                    }
                    Ok(None) => assert!(len == 0 && !dialect.says_verification(), "{dialect:?} {len}"),
                    Err(refusal) => assert!(matches!(refusal, Refusal::Broken(_)), "{dialect:?} {refusal:?}"),
                }
            }
        }
    }
}

#[test]
fn what_is_no_certificate_is_not_read() {
    let scene = Scene::new();
    let leaf = base64(&scene.leaf);
    let (start, end) = ("-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----");
    let one = |dialect: Dialect, name, value: &str| match dialect {
        Dialect::Nginx => {
            check(dialect, &[(SSL_CLIENT_VERIFY, "SUCCESS"), (name, value)], broken(Broken::Certificate))
        }
        Dialect::Apache => {
            check(dialect, &[(X_SSL_CLIENT_VERIFY, "SUCCESS"), (name, value)], broken(Broken::Certificate))
        }
        _ => check(dialect, &[(name, value)], broken(Broken::Certificate)),
    };
    let trailing = base64(&[&scene.leaf[..], &[0]].concat());
    for text in ["MAA", "M", "====", "MAA=MAA=", "MA B=", "MAB=", &trailing] {
        one(Dialect::Caddy, X_TLS_CLIENT_CERT, text);
        one(Dialect::Traefik, X_FORWARDED_TLS_CLIENT_CERT, text);
        // Structured fields take these two for MAA= (RFC 9651, section 4.2.7).
        if !matches!(text, "MAA" | "MAB=") {
            one(Dialect::ClientCert, CLIENT_CERT, &format!(":{text}:"));
        }
        one(Dialect::Envoy, X_FORWARDED_CLIENT_CERT, &format!("Cert=\"{start}{text}{end}\""));
    }
    for text in [",", &format!("{leaf},"), &format!(",{leaf}"), &format!("{leaf}%2"), &format!("{leaf}%zz")] {
        one(Dialect::Traefik, X_FORWARDED_TLS_CLIENT_CERT, text);
    }
    let key = "-----BEGIN PRIVATE KEY-----MAA=-----END PRIVATE KEY-----";
    let trusted = format!("{start}{leaf}-----END TRUSTED CERTIFICATE-----");
    for text in
        [leaf.as_str(), key, &trusted, &format!("x{start}{leaf}{end}"), &format!("{start}{leaf}{end}x")]
    {
        // Whatever follows is read as another one, if it can be.
        let is_after = text.ends_with('x');
        if !is_after {
            one(Dialect::Nginx, SSL_CLIENT_CERT, &percent(text));
            one(Dialect::Apache, X_SSL_CLIENT_CERT, text);
        }
        assert!(read(Dialect::Nginx, [(SSL_CLIENT_VERIFY, "SUCCESS"), (SSL_CLIENT_CERT, text)]).is_err());
    }
    for text in
        [&*leaf, ":", &format!(":{leaf}"), &format!("{leaf}:"), &format!("\"{leaf}\""), &format!(":{leaf}:x")]
    {
        one(Dialect::ClientCert, CLIENT_CERT, text);
    }
    for text in ["x", "=", "Hash", "By=a;Subject=\"b\"", "Cert=\"a", "Chain=\"\"", "Cert=a;"] {
        one(Dialect::Envoy, X_FORWARDED_CLIENT_CERT, text);
    }
    for chain in
        ["MAA", "MQA=", "MIA=", "MIX/////", &base64(&[0x30, 0x82, 0xff]), &base64(&[0x30, 0, 0x30, 1])]
    {
        let verified = [(X_SSL_CLIENT_USED, "1"), (X_SSL_CLIENT_VERIFY, "0"), (X_SSL_CLIENT_CERT, &*leaf)];
        let headers = [&verified[..], &[(X_SSL_CLIENT_CHAIN, chain)]].concat();
        check(Dialect::Haproxy, &headers, broken(Broken::Certificate));
    }
}

#[test]
fn xfcc_agrees_with_itself() {
    let scene = Scene::new();
    let alone = scene.presented(&[]);
    let whole = scene.presented(&scene.chain);
    let [leaf, issuing, root] = [&scene.leaf, &scene.chain[0], &scene.chain[1]].map(|der| percent(&pem(der)));
    let hash = dtyp::hex(&sha256(&scene.leaf));
    let contradiction = broken(Broken::Contradiction);
    for (value, expected) in [
        (format!("Cert=\"{leaf}\""), Ok(Some(&alone))),
        (format!("Cert={leaf}"), Ok(Some(&alone))),
        (format!("CERT=\"{leaf}\""), Ok(Some(&alone))),
        (format!("Chain=\"{leaf}{issuing}{root}\""), Ok(Some(&whole))),
        (format!("Cert=\"{leaf}\";Chain=\"\""), Ok(Some(&alone))),
        (format!("Hash={};Cert=\"{leaf}\"", hash.to_uppercase()), Ok(Some(&alone))),
        (format!("Subject=\"\\\";Cert=\\\"\";Cert=\"{leaf}\""), Ok(Some(&alone))),
        (format!("Hash={};Cert=\"{issuing}\"", hash), contradiction),
        (format!("Hash=;Cert=\"{leaf}\""), contradiction),
        (format!("Cert=\"{leaf}\";Chain=\"{issuing}{leaf}\""), contradiction),
        (format!("Cert=\"{leaf}{issuing}\""), broken(Broken::ManyCertificates)),
        (format!("Cert=\"{leaf}\"x"), broken(Broken::ManyCertificates)),
        (format!("Cert=\"{leaf}\\\""), broken(Broken::Certificate)),
    ] {
        check(Dialect::Envoy, &[(X_FORWARDED_CLIENT_CERT, &value)], expected);
    }
}

#[test]
fn apache_writes_what_did_not_come_as_null() {
    let scene = Scene::new();
    let leaf = spaced(&pem(&scene.leaf));
    let issuing = spaced(&pem(&scene.chain[0]));
    for (chain, expected) in [
        ("(null) (null)".to_owned(), Ok(Some(&scene.presented(&[])))),
        (format!("{issuing} (null) (null)"), Ok(Some(&scene.presented(&scene.chain[..1])))),
        (format!("(null) {issuing}"), broken(Broken::Certificate)),
    ] {
        let verified = [(X_SSL_CLIENT_VERIFY, "SUCCESS"), (X_SSL_CLIENT_CERT, &*leaf)];
        check(Dialect::Apache, &[&verified[..], &[(X_SSL_CLIENT_CHAIN, &chain)]].concat(), expected);
    }
}

/// A SEQUENCE of this many bytes, header included.
fn sequence(len: usize) -> Vec<u8> {
    let inside = (len - 5) as u32;
    let [_, high, middle, low] = inside.to_be_bytes();
    let mut sequence = vec![0x30, 0x83, high, middle, low];
    sequence.resize(len, 0);
    sequence
}

#[test]
fn limits_are_kept_to_the_byte() {
    let new = |leaf: usize, chain: &[usize]| {
        let chain = chain.iter().map(|len| sequence(*len).into()).collect();
        ClientCertificate::new(sequence(leaf), chain).map(|presented| presented.chain.len())
    };
    let too_long = Err(Refusal::Broken(Broken::TooLong));
    assert_eq!(new(64 << 10, &[]), Ok(0));
    assert_eq!(new((64 << 10) + 1, &[]), too_long);
    assert_eq!(new(9, &[9; 63]), Ok(63));
    assert_eq!(new(9, &[9; 64]), too_long);
    assert_eq!(new(9, &[64 << 10, 64 << 10]), Ok(2));
    assert_eq!(new(9, &[64 << 10, (64 << 10) + 1]), too_long);

    // The longest certificate passes through each encoding, one byte more through none.
    for (len, fits) in [(64 << 10, true), ((64 << 10) + 1, false)] {
        let der = sequence(len);
        let wrapped = spaced(&pem(&der));
        for (dialect, headers) in [
            (Dialect::Nginx, vec![(SSL_CLIENT_VERIFY, "SUCCESS"), (SSL_CLIENT_CERT, &*percent(&pem(&der)))]),
            (Dialect::Apache, vec![(X_SSL_CLIENT_VERIFY, "SUCCESS"), (X_SSL_CLIENT_CERT, &*wrapped)]),
            (Dialect::Caddy, vec![(X_TLS_CLIENT_CERT, &*base64(&der))]),
        ] {
            let presented = read(dialect, headers);
            match fits {
                true => assert_eq!(presented.map(|it| it.map(|it| it.leaf.to_vec())), Ok(Some(der.clone()))),
                false => assert_eq!(presented, Err(Refusal::Broken(Broken::TooLong)), "{dialect:?}"),
            }
        }
    }
    let endless = format!("-----BEGIN CERTIFICATE-----{}", "A".repeat(200_000) + "-");
    let headers = [(SSL_CLIENT_VERIFY, "SUCCESS"), (SSL_CLIENT_CERT, &*endless)];
    check(Dialect::Nginx, &headers, broken(Broken::TooLong));

    // As many issuers as there may be, and one more.
    let one = [0x30, 0];
    for (count, fits) in [(63, true), (64, false), (65, false), (500, false)] {
        let bare = vec![base64(&one); count + 1].join(",");
        let list = vec![format!(":{}:", base64(&one)); count].join(",");
        let chain = spaced(&pem(&one)).repeat(count);
        let all = percent(&pem(&one).repeat(count + 1));
        let leaf = base64(&one);
        let apache = spaced(&pem(&one));
        let member = format!(":{leaf}:");
        let split: Vec<_> = [(CLIENT_CERT, &*member)]
            .into_iter()
            .chain((0..count).map(|_| (CLIENT_CERT_CHAIN, &*member)))
            .collect();
        for (dialect, headers) in [
            (Dialect::Traefik, vec![(X_FORWARDED_TLS_CLIENT_CERT, &*bare)]),
            (
                Dialect::Haproxy,
                vec![
                    (X_SSL_CLIENT_USED, "1"),
                    (X_SSL_CLIENT_VERIFY, "0"),
                    (X_SSL_CLIENT_CERT, &*leaf),
                    (X_SSL_CLIENT_CHAIN, &*base64(&one.repeat(count))),
                ],
            ),
            (
                Dialect::Apache,
                vec![
                    (X_SSL_CLIENT_VERIFY, "SUCCESS"),
                    (X_SSL_CLIENT_CERT, &*apache),
                    (X_SSL_CLIENT_CHAIN, &*chain),
                ],
            ),
            (Dialect::Envoy, vec![(X_FORWARDED_CLIENT_CERT, &*format!("Chain=\"{all}\""))]),
            (Dialect::ClientCert, vec![(CLIENT_CERT, &*member), (CLIENT_CERT_CHAIN, &*list)]),
            (Dialect::ClientCert, split),
        ] {
            let chain = read(dialect, headers).map(|it| it.map(|it| it.chain.len()));
            let expected = if fits { Ok(Some(count)) } else { Err(Refusal::Broken(Broken::TooLong)) };
            assert_eq!(chain, expected, "{dialect:?} {count}");
        }
    }
}

#[test]
fn targets_are_where_each_proxy_puts_them() {
    let own = ("own.example", "/own");
    for (dialect, host, path) in [
        (Dialect::Nginx, X_ORIGINAL_HOST, X_ORIGINAL_URI),
        (Dialect::Traefik, X_FORWARDED_HOST, X_FORWARDED_URI),
        (Dialect::Caddy, X_FORWARDED_HOST, X_FORWARDED_URI),
    ] {
        let target = |headers: &[(&'static str, &'static str)]| {
            let mut map = HeaderMap::new();
            for (name, value) in headers {
                map.append(*name, HeaderValue::from_bytes(value.as_bytes()).expect("a value"));
            }
            dialect.target(false).read(&map, own).map(|(host, path)| (host.to_owned(), path.to_owned()))
        };
        let asked = Some(("app.example".to_owned(), "/a?b".to_owned()));
        assert_eq!(target(&[(host, "app.example"), (path, "/a?b")]), asked);
        assert_eq!(target(&[(host, "app.example")]), None);
        assert_eq!(target(&[(path, "/a")]), None);
        assert_eq!(target(&[(host, "app.example"), (path, "/a"), (path, "/b")]), None, "whose is it?");
        assert_eq!(target(&[(host, "a"), (host, "b"), (path, "/a")]), None);
        let mut odd = HeaderMap::new();
        odd.insert(host, HeaderValue::from_static("app.example"));
        odd.insert(path, HeaderValue::from_bytes(b"/caf\xe9").expect("a value"));
        let of = |route: Route, headers: &HeaderMap| {
            let routes = Routes::new(vec![route]);
            routes.choose(dialect.target(false).read(headers, own)).map(|chosen| chosen.number)
        };
        let by_path = || Route { path: Some("/admin".to_owned()), ..Route::default() };
        assert_eq!(of(by_path(), &odd), Err(Refusal::AmbiguousPath), "a client's doing");
        assert_eq!(of(Route::default(), &odd), Ok(Some(0)), "where no route goes by path");
        odd.insert(host, HeaderValue::from_bytes(b"caf\xe9.example").expect("a value"));
        assert_eq!(of(Route::default(), &odd), Err(Refusal::NotAllowed));
    }
    for dialect in [Dialect::Haproxy, Dialect::Apache, Dialect::Envoy, Dialect::ClientCert] {
        assert_eq!(dialect.target(true).read(&HeaderMap::new(), own), Some(own));
    }
    for dialect in [Dialect::Envoy, Dialect::ClientCert] {
        assert_eq!(dialect.target(false).read(&HeaderMap::new(), own), None, "it has to be configured");
    }
}

#[test]
fn xfcc_is_read_as_envoy_writes_it() {
    let scene = Scene::new();
    let hash = dtyp::hex(&Sha256::digest(&scene.leaf));
    let element = |der: &[u8]| {
        let hash = dtyp::hex(&Sha256::digest(der));
        format!("Hash={hash};Cert=\"{}\";Subject=\"CN=alice,O=Contoso\"", percent(&pem(der)))
    };
    let (real, other) = (element(&scene.leaf), element(&scene.chain[0]));
    let expected = scene.presented(&[]);
    // Envoy does not quote URIs and DNS names, and writes them last.
    for names in [
        "URI=tag:microsoft.com,2022-09-14:sid:S-1-5-21-1-2-3-1000",
        "URI=urn:abc:p(grpc;None;1)",
        "URI=spiffe://x;URI=urn:a,b=c;DNS=a.example",
        "URI=urn:x;y=\"z",
        "DNS=a.example",
        "URI=",
    ] {
        check(Dialect::Envoy, &[(X_FORWARDED_CLIENT_CERT, &format!("{real};{names}"))], Ok(Some(&expected)));
    }
    // A client whose element comes first hides the next one in a value that is not quoted, or the reverse.
    let many = broken(Broken::ManyCertificates);
    for value in [
        format!("{other};URI=urn:x,{real}"),
        format!("{other};URI=urn:x, {real}"),
        format!("{other};URI=urn:x;{real}"),
        format!("{other};URI=urn:x,By=spiffe://proxy;{real};URI=spiffe://y"),
        format!("{other};DNS=x,\thash={hash}"),
        format!("{real};URI=urn:x;Cert=\"{}\"", percent(&pem(&scene.chain[0]))),
        format!("{real};URI=urn:x,SUBJECT=\"\""),
        format!("URI=urn:x,{real}"),
    ] {
        check(Dialect::Envoy, &[(X_FORWARDED_CLIENT_CERT, &value)], many);
    }
    // Without a certificate it names no account, and the operator is told what to set.
    for none in [
        format!("By=x;Hash={hash};URI=spiffe://x"),
        format!("Hash={hash}"),
        format!("Hash={hash};Subject=\"CN=alice\""),
        format!("Hash={hash};Cert=\"\";URI=spiffe://x"),
        format!("Hash={hash};Cert="),
    ] {
        check(Dialect::Envoy, &[(X_FORWARDED_CLIENT_CERT, &none)], broken(Broken::NoXfccCertificate));
    }
    let refusal = Refusal::Broken(Broken::NoXfccCertificate);
    for text in [refusal.text(), Broken::NoXfccCertificate.advice()] {
        assert!(text.contains("cert: true") && text.contains("set_current_client_cert_details"), "{text}");
    }
    // What is there and is no certificate is another fault.
    for odd in ["Cert=\"x\"", "Cert=\"-----BEGIN CERTIFICATE-----\"", "x", "Hash"] {
        check(Dialect::Envoy, &[(X_FORWARDED_CLIENT_CERT, odd)], broken(Broken::Certificate));
    }
}

#[test]
fn a_byte_sequence_may_lack_its_padding() {
    // RFC 9651, section 4.2.7. A certificate of each length modulo 3.
    for len in 6..9_u8 {
        let der = [&[0x30, len - 2], &vec![1; usize::from(len) - 2][..]].concat();
        let whole = base64(&der);
        let expected = ClientCertificate::new(der, Vec::new()).expect("it is one");
        for text in [&*whole, whole.trim_end_matches('=')] {
            check(Dialect::ClientCert, &[(CLIENT_CERT, &format!(":{text}:"))], Ok(Some(&expected)));
        }
    }
}

#[test]
fn parameters_of_a_byte_sequence_have_their_syntax_and_no_meaning() {
    let der = [0x30, 1, 1];
    let (item, expected) = (format!(":{}:", base64(&der)), ClientCertificate::new(der.to_vec(), Vec::new()));
    let expected = expected.expect("it is one");
    // RFC 9651, section 3.1.2: a key begins with a lower-case letter or `*`.
    for good in [";a", "; a=1", ";*b=?0;c=\"x,y\""] {
        check(Dialect::ClientCert, &[(CLIENT_CERT, &format!("{item}{good}"))], Ok(Some(&expected)));
    }
    let broken = |text: &str| {
        check(Dialect::ClientCert, &[(CLIENT_CERT, text)], Err(Refusal::Broken(Broken::Certificate)));
    };
    for bad in [";", ";A=1", ";=1", "; a=", "x", " ;a"] {
        broken(&format!("{item}{bad}"));
    }
    // An inner list, a string and a token are no byte sequence.
    for bad in [format!("({item})"), format!("\"{item}\""), "MAEB".to_owned()] {
        broken(&bad);
    }
}
