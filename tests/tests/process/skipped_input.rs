//! Input that is not understood is read as it is certainly meant, or refused by its name and place; none of
//! it is passed over without a word.

use crate::issuing::{Authority, Wanted};
use rcmpd_tests::openssl::openssl;
use rcmpd_tests::{Demo, write_secret};
use std::fs;

const C: [&str; 2] = ["-c", "rcmpd.toml"];

/// alice's certificate and the CA's behind it, the first of them in this spelling.
fn chain(demo: &Demo, first: &str) -> String {
    let ca = fs::read_to_string(demo.path("certs/ca.pem")).unwrap();
    format!("{first}{ca}")
}

#[test]
fn the_first_certificate_of_a_file_is_the_one_that_is_read() {
    let demo = Demo::new();
    let alice = fs::read_to_string(demo.path("certs/alice.pem")).unwrap();
    let subject = openssl(&demo.path("certs"), &["x509", "-in", "alice.pem", "-noout", "-subject"]);
    let subject = subject.trim().rsplit_once("CN").unwrap().1.trim_start_matches([' ', '=']).to_owned();
    let old = alice.replace("CERTIFICATE", "X509 CERTIFICATE");
    openssl(
        &demo.path("certs"),
        &["x509", "-in", "alice.pem", "-trustout", "-addtrust", "clientAuth", "-out", "trusted.pem"],
    );
    let trusted = fs::read_to_string(demo.path("certs/trusted.pem")).unwrap();
    assert!(trusted.contains("BEGIN TRUSTED CERTIFICATE"), "{trusted}");
    fs::write(demo.path("old.pem"), &old).unwrap();
    let of_openssl = openssl(&demo.path(""), &["x509", "-in", "old.pem", "-noout", "-subject"]);
    assert!(of_openssl.contains(&subject), "OpenSSL reads its old label: {of_openssl}");
    for (what, first) in [
        ("plain", alice.clone()),
        ("a byte order mark", format!("\u{feff}{alice}")),
        ("CR LF", alice.replace('\n', "\r\n")),
        ("OpenSSL's old label", old),
        ("trust settings of OpenSSL", trusted.clone()),
        (
            "text and a key before it",
            fs::read_to_string(demo.path("certs/alice.key")).unwrap() + "text\n" + &alice,
        ),
    ] {
        fs::write(demo.path("chain.pem"), chain(&demo, &first)).unwrap();
        let done = demo.rcmpd(&["mapping", "strings", "chain.pem"]).code(0);
        assert!(done.stdout.contains(&format!("CN={subject}")), "{what}: {}", done.stdout);
        let explained = demo.rcmpd(&[&["explain", "chain.pem", "--json"], &C[..]].concat()).code(0).json();
        assert_eq!(explained["account"], "alice", "{what}");
    }
    for (what, first, told) in [
        ("another section", alice.replace("CERTIFICATE", "PKCS7"), "line 1: the section \"PKCS7\""),
        ("lower case", alice.replace("CERTIFICATE", "certificate"), "line 1: the section \"certificate\""),
        ("four hyphens", alice.replace("-----", "----"), "line 1: this looks like the line of a section"),
        ("an en dash", alice.replace("-----", "\u{2013}"), "line 1: this looks like the line of a section"),
        ("no BEGIN", alice.split_once('\n').unwrap().1.to_owned(), "the BEGIN line before it is missing"),
        ("no END", alice.split_once("-----END").unwrap().0.to_owned(), "a line of hyphens that does not end"),
        ("no line end", alice.trim_end().to_owned(), "a line of hyphens that does not end"),
        (
            "a letter that is none",
            alice.replacen("\nM", "\n\u{e4}", 1),
            "line 2: the section CERTIFICATE has",
        ),
    ] {
        fs::write(demo.path("chain.pem"), chain(&demo, &first)).unwrap();
        let done = demo.rcmpd(&["mapping", "strings", "chain.pem"]).code(6);
        assert!(done.stderr.contains(told) && done.stdout.is_empty(), "{what}: {done:?}");
        demo.rcmpd(&[&["explain", "chain.pem"], &C[..]].concat()).code(6);
    }
    let utf16: Vec<u8> = format!("\u{feff}{alice}").encode_utf16().flat_map(u16::to_le_bytes).collect();
    fs::write(demo.path("chain.pem"), utf16).unwrap();
    let done = demo.rcmpd(&["mapping", "strings", "chain.pem"]).code(6);
    assert!(done.stderr.contains("UTF-16"), "{done:?}");
}

#[test]
fn no_anchor_is_missing_without_a_word() {
    let demo = Demo::new();
    let ca = fs::read_to_string(demo.path("certs/ca.pem")).unwrap();
    Authority::of(&demo).issue(&demo, "new", &Wanted { common_name: "New", ..Wanted::default() });
    let folder = demo.path("certs");
    openssl(&folder, &["x509", "-in", "ca.pem", "-trustout", "-out", "plain-trusted.pem"]);
    openssl(
        &folder,
        &["x509", "-in", "ca.pem", "-trustout", "-addreject", "clientAuth", "-out", "rejected.pem"],
    );
    let read = |name: &str| fs::read_to_string(folder.join(name)).unwrap();
    for (what, anchors) in [
        ("a byte order mark", format!("\u{feff}{ca}")),
        ("OpenSSL's old label", ca.replace("CERTIFICATE", "X509 CERTIFICATE")),
        ("twice, put together", format!("\u{feff}{ca}\u{feff}{ca}")),
    ] {
        fs::write(demo.path("certs/ca.pem"), anchors).unwrap();
        demo.rcmpd(&[&["check-config"], &C[..]].concat()).code(0);
        let done = demo.rcmpd(&[&["explain", "certs/alice.pem"], &C[..]].concat()).code(0);
        assert!(done.stdout.contains("verified, by"), "{what}: {}", done.stdout);
    }
    for (what, anchors, told) in [
        ("trust settings", ca.clone() + &read("rejected.pem"), "TRUSTED CERTIFICATE"),
        ("a list", ca.clone() + &ca.replace("CERTIFICATE", "X509 CRL"), "\"X509 CRL\""),
        ("another label", ca.clone() + &ca.replace("CERTIFICATE", "CERTIFICATES"), "\"CERTIFICATES\""),
        ("a cut end", ca.clone() + ca.split_once("-----END").unwrap().0, "its END line is missing"),
    ] {
        fs::write(demo.path("certs/ca.pem"), anchors).unwrap();
        let done = demo.rcmpd(&[&["explain", "certs/alice.pem"], &C[..]].concat());
        assert!(done.stderr.contains(told) && done.stderr.contains("ca.pem"), "{what}: {done:?}");
    }
}

#[test]
fn byte_order_marks_of_other_files_mean_nothing() {
    let demo = Demo::new();
    let mark = |name: &str| {
        let text = fs::read(demo.path(name)).unwrap();
        write_secret(demo.path(name), [&b"\xef\xbb\xbf"[..], &text].concat());
    };
    mark("rcmpd.toml");
    demo.rcmpd(&[&["check-config"], &C[..]].concat()).code(0);
    let line = "\u{feff}{\"type\":\"account\",\"name\":\"marked\"}\r\n";
    fs::write(demo.path("lines.jsonl"), line).unwrap();
    demo.rcmpd(&[&["import", "lines.jsonl"], &C[..]].concat()).code(0);
    demo.rcmpd(&[&["account", "show", "marked"], &C[..]].concat()).code(0);
    let utf16: Vec<u8> =
        "{\"type\":\"account\",\"name\":\"x\"}".encode_utf16().flat_map(u16::to_le_bytes).collect();
    fs::write(demo.path("lines.jsonl"), utf16).unwrap();
    let done = demo.rcmpd(&[&["import", "lines.jsonl"], &C[..]].concat());
    assert!(done.stderr.contains("line 1: there are NUL bytes in it, as in UTF-16"), "{done:?}");
    // A secret that an editor of Windows wrote is the same secret.
    let service = demo.serve();
    let secret = service.path("machines/WEB01.secret");
    let text = fs::read(&secret).unwrap();
    write_secret(&secret, [&b"\xef\xbb\xbf"[..], &text].concat());
    service.map("alice").code(0);
}
