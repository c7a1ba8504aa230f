//! PEM (RFC 7468), read whole: every section is understood or refused by its name and line. Only text outside
//! of sections is passed over, as section 2 allows, unless it looks like the line of a section.
//!
//! A section that is skipped without a word would make another certificate the first of a file, or leave an
//! anchor out. So this is the one place that reads PEM from files and from bodies of requests. Headers of
//! proxies have dialects of their own (`sidecar::dialect`), which refuse what is not exactly one certificate.

pub mod der_kind;
pub mod input;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs1KeyDer, PrivatePkcs8KeyDer, PrivateSec1KeyDer};
use std::fmt;
use zeroize::Zeroizing;

/// The byte order mark of UTF-8, which editors of Windows and PowerShell write.
const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();
// Labels that are read somewhere. Others are refused everywhere.

const CERTIFICATE: &str = "CERTIFICATE";
/// What OpenSSL wrote before 0.9, and still reads, for [`CERTIFICATE`].
const X509_CERTIFICATE: &str = "X509 CERTIFICATE";
/// A certificate of OpenSSL with what it may be used for behind it (X509_CERT_AUX).
const TRUSTED_CERTIFICATE: &str = "TRUSTED CERTIFICATE";
const CRL: &str = "X509 CRL";
const PUBLIC_KEY: &str = "PUBLIC KEY";
const PKCS8: &str = "PRIVATE KEY";
const PKCS1: &str = "RSA PRIVATE KEY";
const SEC1: &str = "EC PRIVATE KEY";
const ENCRYPTED: &str = "ENCRYPTED PRIVATE KEY";
/// Sections that files of certificates and keys have beside them, and that no program needs.
const PARAMETERS: [&str; 3] = ["EC PARAMETERS", "DH PARAMETERS", "X9.42 DH PARAMETERS"];
const CERTIFICATES: [&str; 3] = [CERTIFICATE, X509_CERTIFICATE, TRUSTED_CERTIFICATE];
const PRIVATE_KEYS: [&str; 3] = [PKCS8, PKCS1, SEC1];
/// Words of the lines of sections whose hyphens are wrong; see [`looks_like_boundary`].
const LABELS: [&[&str]; 4] = [&CERTIFICATES, &PRIVATE_KEYS, &PARAMETERS, &[CRL, PUBLIC_KEY, ENCRYPTED]];

/// Why a text is no PEM that is read here. No error holds what is in a section.
#[derive(Debug, PartialEq, Eq)]
pub struct PemError {
    /// From 1; 0 where the whole text is meant.
    line: usize,
    what: String,
}

impl fmt::Display for PemError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => f.write_str(&self.what),
            line => write!(f, "line {line}: {}", self.what),
        }
    }
}

impl std::error::Error for PemError {}

fn wrong<T>(line: usize, what: impl Into<String>) -> Result<T, PemError> {
    Err(PemError { line, what: what.into() })
}

/// What a file is read for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Certificates that are asked about or shown.
    Certificates,
    /// Certificates of CAs that are trusted.
    TrustedCertificates,
}

/// One section.
struct Section {
    label: &'static str,
    /// Of its BEGIN.
    line: usize,
    der: Zeroizing<Vec<u8>>,
}

/// The DER of all certificates of a text, in their order; keys and parameters beside them are passed over.
pub fn certificates(text: &[u8], purpose: Purpose) -> Result<Vec<Vec<u8>>, PemError> {
    let sections = sections(text, &[&CERTIFICATES, &PRIVATE_KEYS, &PARAMETERS, &[ENCRYPTED]], CERTIFICATE)?;
    let certificates: Vec<Vec<u8>> = sections
        .iter()
        .filter(|section| CERTIFICATES.contains(&section.label))
        .map(|section| certificate(section, purpose))
        .collect::<Result<_, _>>()?;
    match certificates.is_empty() {
        true => match sections.first() {
            Some(Section { label, line, .. }) => wrong(
                *line,
                format!(
                    "there is no certificate in it, only the section {label}; the certificate of a key is another file"
                ),
            ),
            None => wrong(0, "there is no certificate in it (expected PEM with BEGIN CERTIFICATE, or DER)"),
        },
        false => Ok(certificates),
    }
}

/// The certificate of a section.
fn certificate(section: &Section, purpose: Purpose) -> Result<Vec<u8>, PemError> {
    let der = &section.der;
    let len = match section.label {
        // What follows is refused where certificates are read.
        TRUSTED_CERTIFICATE => der_len(der).filter(|len| *len <= der.len()),
        _ => Some(der.len()),
    };
    let Some(len) = len else { return wrong(section.line, "the section is no certificate in DER") };
    match der.get(len..) {
        None | Some([]) => {}
        Some(_) if purpose == Purpose::TrustedCertificates => {
            return wrong(
                section.line,
                format!(
                    "the section {TRUSTED_CERTIFICATE} says for what OpenSSL trusts the certificate, which is not read \
                     here; write it as {CERTIFICATE}: openssl x509 -in FILE -out FILE"
                ),
            );
        }
        // What OpenSSL trusts it for does not matter to a certificate that is asked about.
        Some(settings) if der_len(settings) == Some(settings.len()) => {}
        Some(_) => return wrong(section.line, "what follows the certificate in the section cannot be read"),
    }
    Ok(der[..len].to_vec())
}

/// The one private key of a text; certificates and parameters beside it are passed over.
pub fn private_key(text: &[u8]) -> Result<PrivateKeyDer<'static>, PemError> {
    let (label, der) = one_private_key(text)?;
    let der = der.to_vec();
    Ok(match label {
        PKCS1 => PrivatePkcs1KeyDer::from(der).into(),
        SEC1 => PrivateSec1KeyDer::from(der).into(),
        _ => PrivatePkcs8KeyDer::from(der).into(),
    })
}

/// The one private key of a text, as PKCS#8.
pub fn pkcs8(text: &[u8]) -> Result<Zeroizing<Vec<u8>>, PemError> {
    match one_private_key(text)? {
        (PKCS8, der) => Ok(der),
        (label, _) => wrong(
            0,
            format!("the section {label} is not PKCS#8; convert it: openssl pkcs8 -topk8 -nocrypt -in FILE"),
        ),
    }
}

fn one_private_key(text: &[u8]) -> Result<(&'static str, Zeroizing<Vec<u8>>), PemError> {
    let sections = sections(text, &[&PRIVATE_KEYS, &[ENCRYPTED], &CERTIFICATES, &PARAMETERS], PKCS8)?;
    if let Some(encrypted) = sections.iter().find(|section| section.label == ENCRYPTED) {
        return wrong(encrypted.line, ENCRYPTED_KEY);
    }
    let keys = sections.into_iter().filter(|section| PRIVATE_KEYS.contains(&section.label));
    one(keys, "private key", PKCS8).map(|section| (section.label, section.der))
}

const ENCRYPTED_KEY: &str = "the private key is encrypted, and there is no place for its password; decrypt it: openssl \
                             pkey -in FILE -out FILE";

/// The one public key of a text: a SubjectPublicKeyInfo.
pub fn public_key(text: &[u8]) -> Result<Vec<u8>, PemError> {
    let sections = sections(text, &[&[PUBLIC_KEY]], PUBLIC_KEY)?;
    one(sections.into_iter(), "public key", PUBLIC_KEY).map(|section| section.der.to_vec())
}

/// The one CRL of a text.
pub fn crl(text: &[u8]) -> Result<Vec<u8>, PemError> {
    let sections = sections(text, &[&[CRL]], CRL)?;
    let mut sections = sections.into_iter();
    let Some(crl) = sections.next() else {
        return wrong(0, "there is no CRL in it (expected PEM with BEGIN X509 CRL, or DER)");
    };
    match sections.next() {
        None => Ok(crl.der.to_vec()),
        Some(other) => wrong(other.line, "there is more than one CRL in it: name a file for each"),
    }
}

fn one(mut sections: impl Iterator<Item = Section>, what: &str, label: &str) -> Result<Section, PemError> {
    let Some(first) = sections.next() else {
        return wrong(0, format!("there is no {what} in it (expected PEM with BEGIN {label})"));
    };
    match sections.next() {
        None => Ok(first),
        Some(other) => wrong(other.line, format!("there is more than one {what} in it")),
    }
}

/// Whether bytes are meant as DER: they begin with the tag of a SEQUENCE, which is the digit 0, and are no
/// text with a section in it.
pub fn is_der(bytes: &[u8]) -> bool {
    match bytes {
        [0x30, len, rest @ ..] => {
            let begin = b"-----BEGIN";
            !len.is_ascii()
                || usize::from(*len) == rest.len()
                || !rest.windows(begin.len()).any(|bytes| bytes == begin)
        }
        _ => false,
    }
}

/// The DER in a text that is base64 alone, as a database or a header of HTTP has it.
pub fn bare_base64(text: &[u8]) -> Option<Vec<u8>> {
    let text = text.strip_prefix(BYTE_ORDER_MARK).unwrap_or(text);
    let base64: Vec<u8> = text.iter().copied().filter(|byte| !byte.is_ascii_whitespace()).collect();
    let der = BASE64.decode(&base64).ok()?;
    (der_len(&der) == Some(der.len())).then_some(der)
}

/// The length of the first element with its header, where it is a SEQUENCE (X.690 8.1.3).
fn der_len(bytes: &[u8]) -> Option<usize> {
    let (len, contents) = der_kind::length(bytes.strip_prefix(&[0x30])?)?;
    len.checked_add(bytes.len() - contents.len())
}

/// All sections of a text, each of which must have one of these labels.
fn sections(text: &[u8], known: &[&[&'static str]], expected: &str) -> Result<Vec<Section>, PemError> {
    if text.starts_with(&[0xff, 0xfe]) || text.starts_with(&[0xfe, 0xff]) {
        return wrong(0, "it is UTF-16 text, which is not read; save it as UTF-8 or ASCII");
    }
    if text.contains(&0) {
        return wrong(0, "it is neither text nor DER: there are NUL bytes in it");
    }
    let mut sections = Vec::new();
    let mut lines = lines(text);
    while let Some((at, line)) = lines.next() {
        let line = unmarked(line).trim_ascii();
        let Some(label) = boundary(line, b"-----BEGIN ") else {
            if looks_like_boundary(line) {
                let what = match boundary(line, b"-----END ") {
                    Some(_) => "an END line without a BEGIN line before it",
                    None => {
                        "this looks like the line of a section and is none; expected -----BEGIN and a label-----"
                    }
                };
                return wrong(at, what);
            }
            if is_bare_base64(line) {
                return wrong(at, "base64 outside of a section: the BEGIN line before it is missing");
            }
            continue;
        };
        let label =
            known.iter().copied().flatten().find(|known| known.as_bytes() == label).ok_or_else(|| {
                let label = String::from_utf8_lossy(label).into_owned();
                PemError {
                    line: at,
                    what: format!(
                        "the section {label:?} is not read here; expected {expected}{}",
                        advice(&label, expected)
                    ),
                }
            })?;
        sections.push(section(label, at, &mut lines)?);
    }
    Ok(sections)
}

/// Reads a section from behind its BEGIN line.
fn section<'a>(
    label: &'static str,
    begin: usize,
    lines: &mut impl Iterator<Item = (usize, &'a [u8])>,
) -> Result<Section, PemError> {
    let mut base64 = Zeroizing::new(Vec::new());
    let mut is_encrypted = false;
    for (at, line) in lines {
        if line.trim_ascii_start().starts_with(b"-") {
            let end = boundary(line.trim_ascii(), b"-----END ");
            return match end {
                Some(end) if end == label.as_bytes() => match BASE64.decode(&*base64) {
                    Ok(der) if !der.is_empty() => {
                        let label = if is_encrypted { ENCRYPTED } else { label };
                        Ok(Section { label, line: begin, der: Zeroizing::new(der) })
                    }
                    Ok(_) => wrong(begin, format!("the section {label} is empty")),
                    // The library tells the byte that is wrong, which may be one of a key.
                    Err(_) => wrong(begin, format!("the section {label} is not base64, or cut off")),
                },
                Some(end) => wrong(
                    at,
                    format!(
                        "END {} where END {label} is expected",
                        String::from_utf8_lossy(end).escape_debug()
                    ),
                ),
                None => wrong(at, format!("a line of hyphens that does not end the section {label}")),
            };
        }
        if line.contains(&b':') {
            // Headers of RFC 1421, which OpenSSL writes into keys.
            if !PRIVATE_KEYS.contains(&label) {
                return wrong(at, format!("a header in the section {label}, which RFC 7468 does not have"));
            }
            is_encrypted |= line.windows(9).any(|word| word == b"ENCRYPTED");
            continue;
        }
        let is_base64 = |byte: &u8| byte.is_ascii_alphanumeric() || b"+/=".contains(byte);
        let text = line.iter().copied().filter(|byte| !byte.is_ascii_whitespace());
        let start = base64.len();
        base64.extend(text);
        if !base64[start..].iter().all(is_base64) {
            return wrong(at, format!("the section {label} has characters in it that are not base64"));
        }
    }
    wrong(begin, format!("the section {label} is cut off: its END line is missing"))
}

/// Lines with their numbers; a line ends with CR, LF or both (RFC 7468 3).
fn lines(text: &[u8]) -> impl Iterator<Item = (usize, &[u8])> {
    let mut rest = Some(text);
    let lines = std::iter::from_fn(move || {
        let text = rest?;
        let Some(end) = text.iter().position(|byte| matches!(byte, b'\n' | b'\r')) else {
            return rest.take();
        };
        let after = if text[end..].starts_with(b"\r\n") { end + 2 } else { end + 1 };
        rest = Some(&text[after..]);
        Some(&text[..end])
    });
    (1..).zip(lines)
}

/// A line without byte order marks at its beginning: files that have one are put together.
fn unmarked(mut line: &[u8]) -> &[u8] {
    while let Some(rest) = line.strip_prefix(BYTE_ORDER_MARK) {
        line = rest;
    }
    line
}

/// The label of a BEGIN or END line.
fn boundary<'a>(line: &'a [u8], word: &[u8]) -> Option<&'a [u8]> {
    let label = line.strip_prefix(word)?.strip_suffix(b"-----")?;
    (!label.is_empty() && !label.contains(&b'-')).then_some(label)
}

/// Whether a line outside of sections is one that was meant to begin or end a section: it has the words with
/// other hyphens, in another case, or behind other text.
fn looks_like_boundary(line: &[u8]) -> bool {
    if [&b"-----BEGIN"[..], b"-----END"].iter().any(|word| line.windows(word.len()).any(|at| at == *word)) {
        return true;
    }
    // The longest line of a section has a label of some words.
    if line.len() > 200 {
        return false;
    }
    let text = String::from_utf8_lossy(line).to_ascii_uppercase();
    let is_hyphen = |c: char| {
        matches!(
            c,
            '-' | '\u{ad}' | '\u{2010}'..='\u{2015}' | '\u{2212}' | '\u{fe58}' | '\u{fe63}' | '\u{ff0d}'
        )
    };
    let is_known = |label: &str| LABELS.iter().copied().flatten().any(|known| *known == label);
    // Whatever stands in the place of hyphens, such as bytes of another encoding.
    let written = String::from_utf8_lossy(line);
    let has_words = |words: &str| {
        written.match_indices(words).any(|(at, _)| {
            let before = written[..at].chars().next_back();
            let label = &written[at + words.len()..];
            !before.is_some_and(|c| c.is_ascii_alphabetic())
                && LABELS.iter().copied().flatten().any(|known| label.starts_with(known))
        })
    };
    if has_words("BEGIN ") || has_words("END ") {
        return true;
    }
    // The end of a line whose beginning is cut off.
    let is_end = |known: &&str| text.strip_suffix("-----").is_some_and(|text| text.ends_with(*known));
    if LABELS.iter().copied().flatten().any(is_end) {
        return true;
    }
    let hyphens = text.chars().take_while(|c| is_hyphen(*c)).count();
    let bare = text
        .trim_matches(|c: char| is_hyphen(c) || c.is_whitespace() || account_store::fold::is_invisible(c));
    let Some(label) = bare.strip_prefix("BEGIN ").or_else(|| bare.strip_prefix("END ")) else { return false };
    hyphens >= 2 || is_known(label.trim())
}

/// Whether a line outside of sections is one of base64, as the lines of a section are: 64 characters, in some
/// programs 76.
fn is_bare_base64(line: &[u8]) -> bool {
    let is_of = |kind: fn(&u8) -> bool| line.iter().any(kind);
    line.len() >= 60
        && line.iter().all(|byte| byte.is_ascii_alphanumeric() || b"+/=".contains(byte))
        && is_of(u8::is_ascii_uppercase)
        && is_of(u8::is_ascii_lowercase)
        && is_of(u8::is_ascii_digit)
}

/// What to do with a section that is not read.
fn advice(label: &str, expected: &str) -> &'static str {
    match label {
        "PKCS7" | "CMS" => "; write the certificates out of it: openssl pkcs7 -print_certs -in FILE",
        CRL => "; CRLs are named by crls",
        "CERTIFICATE REQUEST" | "NEW CERTIFICATE REQUEST" => {
            "; a request is no certificate: a CA issues the certificate for it"
        }
        PKCS8 | PKCS1 | SEC1 | ENCRYPTED | PUBLIC_KEY if expected == CERTIFICATE => {
            "; a key is no certificate: its certificate is another file"
        }
        "OPENSSH PRIVATE KEY" => "; convert the key: ssh-keygen -p -m PKCS8 -f FILE",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BODY: &str = "MAMCAQE=";
    const DER: [u8; 5] = [0x30, 0x03, 0x02, 0x01, 0x01];

    fn read(text: impl AsRef<[u8]>) -> Result<Vec<Vec<u8>>, String> {
        certificates(text.as_ref(), Purpose::Certificates).map_err(|error| error.to_string())
    }

    fn section(label: &str) -> String {
        format!("-----BEGIN {label}-----\n{BODY}\n-----END {label}-----\n")
    }

    /// Dashes of other encodings, rules of other characters, HTML: a section that is meant is never passed
    /// over.
    #[test]
    fn a_section_with_other_rules_is_not_passed_over() {
        let other = format!("-----BEGIN CERTIFICATE-----\n{BODY}\n-----END CERTIFICATE-----\n");
        for rule in [
            &b"\x96\x96\x96\x96\x96"[..],
            b"\x97\x97",
            b"\xad\xad\xad\xad\xad",
            "\u{2500}\u{2500}".as_bytes(),
            "\u{2e3a}".as_bytes(),
            "\u{2043}\u{2043}".as_bytes(),
            "\u{30fc}\u{30fc}".as_bytes(),
            b"=====",
            b"*****",
            b"~~~~~",
            b"&#45;&#45;&#45;&#45;&#45;",
            b"",
        ] {
            let text = [rule, b"BEGIN CERTIFICATE", rule, b"\nAAAA\n", other.as_bytes()].concat();
            let error = read(&text).expect_err("it is not passed over");
            assert!(error.contains("line 1"), "{rule:?}: {error}");
        }
        let base64 = "MIIBszCCAVmgAwIBAgIUf0K2bqgFQ3J9pN3cU0vV0q1o5YkwCgYIKoZIzj0EAwIw";
        let error = read(format!("text\n{base64}\n{other}")).expect_err("its BEGIN line is missing");
        assert!(error.contains("line 2") && error.contains("BEGIN line before it"), "{error}");
        for comment in [
            "subject=CN=Weekend Certificate",
            "# The end certificate of the chain",
            "============================================================================",
            "sha256 Fingerprint=AB:CD:EF:01:23:45:67:89:AB:CD:EF:01:23:45:67:89:AB:CD:EF:01",
        ] {
            assert_eq!(read(format!("{comment}\n{other}")), Ok(vec![DER.to_vec()]), "{comment}");
        }
    }

    #[test]
    fn sections_that_are_certainly_meant_are_read() {
        let plain = section(CERTIFICATE);
        let indented = plain.replace('\n', "\n  ");
        for (what, text) in [
            ("plain", plain.clone()),
            ("without the last line end", plain.trim_end().to_owned()),
            ("CR LF", plain.replace('\n', "\r\n")),
            ("CR", plain.replace('\n', "\r")),
            ("a byte order mark", format!("\u{feff}{plain}")),
            ("two byte order marks", format!("\u{feff}\u{feff}{plain}")),
            ("a mark behind text", format!("# CA\n\u{feff}{plain}")),
            ("spaces", format!("  {indented}  ")),
            ("blank lines", plain.replace('\n', "\n\n")),
            ("base64 in pieces", plain.replace("MAMC", "MA\nMC ")),
            ("OpenSSL's old label", section(X509_CERTIFICATE)),
            ("text before and after", format!("Bag Attributes\n    a: b\n---\n0 s:CN=x\n{plain}# the END\n")),
            ("trusted for nothing in particular", section(TRUSTED_CERTIFICATE)),
            (
                "a key and parameters beside it",
                format!("{}{plain}{}", section(PKCS8), section("DH PARAMETERS")),
            ),
        ] {
            assert_eq!(read(&text), Ok(vec![DER.to_vec()]), "{what}");
        }
        let two = format!("{plain}\u{feff}{}", section(X509_CERTIFICATE));
        assert_eq!(read(&two), Ok(vec![DER.to_vec(); 2]), "files put together");
    }

    #[test]
    fn what_is_not_understood_is_refused_by_name_and_line() {
        let plain = section(CERTIFICATE);
        let after = |text: &str| format!("{plain}{text}{plain}");
        for (what, text, told) in [
            ("no section", "hello\n".to_owned(), "there is no certificate in it"),
            ("another section", after(&section("PKCS7")), "line 4: the section \"PKCS7\" is not read here"),
            ("a list", after(&section(CRL)), "line 4: the section \"X509 CRL\""),
            ("a request", section("CERTIFICATE REQUEST"), "line 1: the section \"CERTIFICATE REQUEST\""),
            ("a label with a space", section("CERTIFICATE "), "line 1: the section \"CERTIFICATE \""),
            ("a label in lower case", section("certificate"), "line 1: the section \"certificate\""),
            (
                "an END alone",
                after("-----END CERTIFICATE-----\n"),
                "line 4: an END line without a BEGIN line",
            ),
            (
                "a BEGIN alone",
                plain.clone() + "-----BEGIN CERTIFICATE-----\nMAMC\n",
                "line 4: the section CERTIFICATE is cut off",
            ),
            (
                "two BEGINs",
                after("-----BEGIN CERTIFICATE-----\n"),
                "line 5: a line of hyphens that does not end",
            ),
            (
                "another END",
                plain.replace("END CERT", "END X509 CERT"),
                "line 3: END X509 CERTIFICATE where END CERTIFICATE",
            ),
            (
                "lower-case words",
                after(&plain.to_lowercase()),
                "line 4: this looks like the line of a section",
            ),
            (
                "four hyphens",
                after(&plain.replace("-----", "----")),
                "line 4: this looks like the line of a section",
            ),
            ("dashes of a word processor", after(&plain.replace('-', "\u{2013}")), "line 4: this looks like"),
            ("no hyphens", after(&plain.replace('-', "")), "line 4: this looks like the line of a section"),
            ("text before BEGIN", format!("ca: {plain}"), "line 1: this looks like the line of a section"),
            (
                "an unknown label with other hyphens",
                after("---- BEGIN SSH2 PUBLIC KEY ----\n"),
                "line 4: this looks like",
            ),
            ("END and BEGIN on a line", plain.trim_end().to_owned() + &plain, "line 3: a line of hyphens"),
            (
                "a character that is none of base64",
                plain.replace("MAMC", "MA*C"),
                "line 2: the section CERTIFICATE has characters",
            ),
            (
                "a letter beyond ASCII",
                plain.replace("MAMC", "MA\u{e9}C"),
                "line 2: the section CERTIFICATE has characters",
            ),
            (
                "base64 that is cut off",
                plain.replace("AQE=", "AQ"),
                "line 1: the section CERTIFICATE is not base64",
            ),
            (
                "bits left over",
                plain.replace("AQE=", "AQF="),
                "line 1: the section CERTIFICATE is not base64",
            ),
            ("nothing in it", plain.replace(BODY, ""), "line 1: the section CERTIFICATE is empty"),
            (
                "a header",
                plain.replace(BODY, &format!("X: y\n\n{BODY}")),
                "line 2: a header in the section CERTIFICATE",
            ),
        ] {
            let error = read(&text).expect_err(what);
            assert!(error.contains(told), "{what}: {error}");
        }
        let utf16: Vec<u8> =
            std::iter::once(0xfeff).chain(plain.encode_utf16()).flat_map(u16::to_le_bytes).collect();
        assert!(read(&utf16).expect_err("UTF-16").contains("UTF-16"));
        assert!(read(&utf16[2..]).expect_err("UTF-16 without a mark").contains("NUL"));
    }

    #[test]
    fn trust_settings_of_openssl_are_read_for_no_anchor() {
        let with = |rest: &[u8]| {
            let body = BASE64.encode([&DER[..], rest].concat());
            format!("-----BEGIN {TRUSTED_CERTIFICATE}-----\n{body}\n-----END {TRUSTED_CERTIFICATE}-----\n")
        };
        let settings = with(&[0x30, 0x02, 0x30, 0x00]);
        assert_eq!(read(&settings), Ok(vec![DER.to_vec()]));
        let trusted = |text: &str| certificates(text.as_bytes(), Purpose::TrustedCertificates);
        let error = trusted(&settings).expect_err("settings are not read").to_string();
        assert!(error.starts_with("line 1: the section TRUSTED CERTIFICATE"), "{error}");
        assert_eq!(trusted(&with(&[])), Ok(vec![DER.to_vec()]), "there are no settings");
        for rest in [&[0x30, 0x05][..], &[0x30, 0x00, 0x00], &[0x04, 0x00], &[0xff]] {
            assert!(read(with(rest)).is_err(), "{rest:x?}");
        }
        // A certificate under its own label has nothing behind it; the reader of certificates refuses it.
        let long = BASE64.encode([&DER[..], &[0x30, 0x00]].concat());
        let plain = section(CERTIFICATE).replace(BODY, &long);
        assert_eq!(read(plain).map(|found| found[0].len()), Ok(7));
    }

    #[test]
    fn keys_are_one_and_readable() {
        for label in PRIVATE_KEYS {
            let text = section(CERTIFICATE) + &section("EC PARAMETERS") + &section(label);
            assert_eq!(private_key(text.as_bytes()).map(|key| key.secret_der().to_vec()), Ok(DER.to_vec()));
            assert_eq!(pkcs8(text.as_bytes()).is_ok(), label == PKCS8, "{label}");
        }
        let told = |text: String| private_key(text.as_bytes()).expect_err("no key").to_string();
        assert!(told(section(CERTIFICATE)).contains("there is no private key in it"));
        assert!(told(section(ENCRYPTED)).contains("line 1: the private key is encrypted"));
        assert!(told(section(PKCS8) + &section(SEC1)).contains("line 4: there is more than one private key"));
        assert!(told(section("OPENSSH PRIVATE KEY")).contains("ssh-keygen"));
        let header = format!("Proc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,00\n\n{BODY}");
        let old = section(PKCS1).replace(BODY, &header);
        assert!(told(old.clone()).contains("line 1: the private key is encrypted"));
        assert_eq!(read(old + &section(CERTIFICATE)), Ok(vec![DER.to_vec()]), "it is not needed");
        let secret = section(PKCS8).replace(BODY, "hunter2!");
        assert!(!told(secret).contains("hunter2"), "no error holds what is in a section");
        assert_eq!(public_key(section(PUBLIC_KEY).as_bytes()), Ok(DER.to_vec()));
        assert!(public_key(section(PKCS8).as_bytes()).is_err());
        assert_eq!(crl(section(CRL).as_bytes()), Ok(DER.to_vec()));
        assert!(crl((section(CRL) + &section(CRL)).as_bytes()).is_err());
        assert!(crl(section(CERTIFICATE).as_bytes()).is_err());
    }

    #[test]
    fn no_damage_makes_another_certificate_the_first_one() {
        let first = section(CERTIFICATE);
        // SEQUENCE { INTEGER 2 }.
        let text = format!("{first}{}", first.replace(BODY, "MAMCAQI="));
        let whole = read(&text).expect("two certificates");
        assert_eq!(whole.len(), 2);
        let end_label = first.len() - "CERTIFICATE-----\n".len();
        for at in 0..first.len() {
            // What is cut off within its last word is no section any more.
            if at <= end_label {
                assert_ne!(read(&text[at..]).ok().as_deref(), Some(&whole[1..]), "{at}: {}", &text[at..]);
            }
            for wrong in [0x00, b' ', b'\n', b'-', b'x', b'A', b':', 0x80, 0xff] {
                let mut bytes = text.clone().into_bytes();
                if std::mem::replace(&mut bytes[at], wrong) == wrong {
                    continue;
                }
                let found = certificates(&bytes, Purpose::TrustedCertificates);
                assert_ne!(found.as_deref().ok(), Some(&whole[1..]), "{at} {wrong:x}");
            }
        }
    }

    #[test]
    fn der_is_told_from_text() {
        assert!(is_der(&DER) && is_der(&DER[..4]) && is_der(&[0x30, 0x82, 0x01]));
        assert!(!is_der(b"0 s:CN=x\n-----BEGIN CERTIFICATE-----") && !is_der(b"") && !is_der(b"0"));
    }
}
