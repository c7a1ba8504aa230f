//! Canonical octets beside lxml's, which are libxml2's. `tests/peers/install` installs it.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use xml_security::{Document, ParseLimits, canonicalize};

/// A Python process that answers.
struct Lxml {
    process: Child,
    questions: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Lxml {
    fn start() -> Self {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/peers/lxml_c14n.py");
        let mut process = Command::new("/usr/bin/python3")
            .arg(script)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("Debian's Python starts");
        let questions = process.stdin.take().expect("a pipe");
        let answers = BufReader::new(process.stdout.take().expect("a pipe"));
        Self { process, questions, answers }
    }

    /// Canonical octets of the element with this number in document order; `None` if lxml does not read the
    /// document.
    fn canonicalize(&mut self, xml: &[u8], apex: usize, prefixes: &[&str]) -> Option<Vec<u8>> {
        let mut question = format!("{} {apex}", STANDARD.encode(xml));
        for prefix in prefixes {
            question.push(' ');
            question.push_str(prefix);
        }
        writeln!(self.questions, "{question}").expect("lxml reads");
        let mut answer = String::new();
        self.answers.read_line(&mut answer).expect("lxml answers");
        let answer = answer.trim_end();
        assert!(!answer.is_empty(), "lxml ended; is python3-lxml installed?");
        (answer != "refused").then(|| STANDARD.decode(answer).expect("base64"))
    }
}

impl Drop for Lxml {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Random choices that are the same in each run (splitmix64).
struct Choices(u64);

impl Choices {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % limit as u64) as usize
    }

    fn of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len())]
    }
}

const PREFIXES: [&str; 4] = ["p", "q", "r", "zz"];
// Without `&`, which libxml2 writes as `&#38;` in a namespace, against Canonical XML 1.0, section 2.3.
const NAMESPACES: [&str; 4] = ["urn:a", "urn:b", "http://example.org/?a=1%20b=2#x", "http://a.example/"];
const TEXTS: [&str; 22] = [
    "x",
    " ",
    "\n",
    "\r\n",
    "\r",
    "\t",
    "&amp;",
    "&lt;",
    "&gt;",
    "&quot;",
    "&apos;",
    "&#13;",
    "&#10;",
    "&#9;",
    "&#x20;",
    ">",
    "\u{e4}",
    "\u{1f600}",
    "&#x1F600;",
    "]]&gt;",
    "p:x",
    "text of some length",
];

/// One element with all that is below it. `scope` are the prefixes that are declared around it.
fn element(choices: &mut Choices, depth: usize, scope: &[&'static str], out: &mut String) {
    let mut scope = scope.to_vec();
    let mut tag = String::new();
    for prefix in PREFIXES {
        if choices.below(4) == 0 {
            tag.push_str(&format!(" xmlns:{prefix}='{}'", choices.of(&NAMESPACES)));
            scope.push(prefix);
        }
    }
    if choices.below(4) == 0 {
        tag.push_str(&format!(" xmlns=\"{}\"", choices.of(&["", "urn:a", "urn:d"])));
    }
    let mut names: Vec<String> = Vec::new();
    for _ in 0..choices.below(4) {
        let local = choices.of(&["a", "b", "B", "\u{e9}", "long-name.1"]);
        // Two prefixes may stand for one namespace, so that a local name stands once.
        if names.iter().any(|name| name.rsplit(':').next() == Some(local)) {
            continue;
        }
        let name = match choices.below(3) {
            0 if !scope.is_empty() => format!("{}:{local}", choices.of(&scope)),
            _ => local.to_owned(),
        };
        names.push(name);
    }
    if choices.below(8) == 0 {
        names.push(choices.of(&["xml:lang", "xml:space", "xml:base"]).to_owned());
    }
    for name in names {
        let value: String =
            (0..choices.below(4)).map(|_| choices.of(&TEXTS)).filter(|text| !text.contains('\'')).collect();
        tag.push_str(&format!("{}{name}{}'{value}'", choices.of(&[" ", "\n  "]), choices.of(&["=", " = "])));
    }
    let local = choices.of(&["e", "f", "\u{e4}"]);
    let name = match choices.below(2) {
        0 if !scope.is_empty() => format!("{}:{local}", choices.of(&scope)),
        _ => local.to_owned(),
    };
    if choices.below(5) == 0 {
        out.push_str(&format!("<{name}{tag}{}/>", choices.of(&["", " "])));
        return;
    }
    out.push_str(&format!("<{name}{tag}>"));
    for _ in 0..choices.below(6) {
        match choices.below(8) {
            0..=3 if depth > 0 => element(choices, depth - 1, &scope, out),
            4 => out.push_str(choices.of(&["<!---->", "<!-- c &x; <y> -->"])),
            5 => out.push_str(choices.of(&["<![CDATA[]]>", "<![CDATA[<a>&amp;\r\n]]>"])),
            _ => out.push_str(choices.of(&TEXTS)),
        }
    }
    out.push_str(&format!("</{name}{}>", choices.of(&["", " "])));
}

fn document(choices: &mut Choices) -> String {
    let mut xml =
        choices.of(&["", "<?xml version='1.0' encoding='UTF-8'?>\n", "<!-- c -->", "\n"]).to_owned();
    element(choices, 4, &[], &mut xml);
    xml.push_str(choices.of(&["", "\n", "<!-- c -->"]));
    xml
}

fn ours(document: &Document, apex: usize, prefixes: &[&str]) -> Vec<u8> {
    let apex = document.descendants(document.root()).filter(|node| document.is_element(*node)).nth(apex);
    canonicalize(document, apex.expect("there are as many elements"), prefixes)
}

#[test]
fn ten_thousand_documents_have_the_octets_of_lxml() {
    let mut lxml = Lxml::start();
    let mut choices = Choices(1);
    let mut parts = 0;
    for number in 0..10_000 {
        let xml = document(&mut choices);
        let read = Document::parse(xml.as_bytes(), &ParseLimits::default());
        let read = read.unwrap_or_else(|error| panic!("{number}: {error}: {xml}"));
        let elements = read.descendants(read.root()).filter(|node| read.is_element(*node)).count();
        let apex = choices.below(elements);
        parts += usize::from(apex > 0);
        let prefixes: &[&str] = match choices.below(4) {
            // lxml drops `#default`; xmlsec1 shows what it means.
            0 => &["p", "zz"],
            1 => &["q"],
            _ => &[],
        };
        let expected = lxml.canonicalize(xml.as_bytes(), apex, prefixes).expect("lxml reads what we read");
        let octets = ours(&read, apex, prefixes);
        assert_eq!(
            String::from_utf8_lossy(&octets),
            String::from_utf8_lossy(&expected),
            "{number}: element {apex} with {prefixes:?} of {xml}"
        );
    }
    assert!(parts > 3_000, "many are parts of documents: {parts}");
}

#[test]
fn changed_documents_are_refused_or_have_the_octets_of_lxml() {
    let mut lxml = Lxml::start();
    let mut choices = Choices(2);
    let (mut refused, mut read_both) = (0, 0);
    for number in 0..10_000 {
        let mut xml = document(&mut choices).into_bytes();
        for _ in 0..1 + choices.below(2) {
            let at = choices.below(xml.len());
            match choices.below(4) {
                0 => drop(xml.remove(at)),
                1 => xml.insert(at, choices.of(b"<>&;'\"/:=![]-?#x \n\rA\0\xff")),
                2 => xml[at] = choices.of(b"<>&;'\"/:=![]-?#x \n\rA\0\xff"),
                _ => {
                    let end = at + choices.below(xml.len() - at).min(12);
                    let again = xml[at..end].to_vec();
                    let to = choices.below(xml.len());
                    xml.splice(to..to, again);
                }
            }
        }
        let Ok(read) = Document::parse(&xml, &ParseLimits::default()) else {
            refused += 1;
            continue;
        };
        read_both += 1;
        let expected = lxml.canonicalize(&xml, 0, &[]);
        let octets = ours(&read, 0, &[]);
        assert_eq!(
            Some(String::from_utf8_lossy(&octets).into_owned()),
            expected.map(|octets| String::from_utf8_lossy(&octets).into_owned()),
            "{number}: {}",
            String::from_utf8_lossy(&xml)
        );
    }
    assert!(refused > 1_000 && read_both > 1_000, "{refused} refused, {read_both} read");
}

/// Documents that canonicalisers have disagreed about.
#[test]
fn known_traps_have_the_octets_of_lxml() {
    let mut lxml = Lxml::start();
    for (xml, apex, prefixes) in [
        ("<a xmlns='urn:a'><b xmlns=''><c xmlns='urn:a'/></b></a>", 0, &[][..]),
        ("<a xmlns='urn:a'><b xmlns=''><c/></b></a>", 1, &[]),
        ("<p:a xmlns:p='urn:p' xmlns='urn:a'><b/></p:a>", 0, &[]),
        ("<a xml:lang='de' xml:base='http://x/'><b xml:space='preserve'/></a>", 1, &[]),
        ("<a xmlns:p='urn:1'><p:b><p:c xmlns:p='urn:2'><p:d xmlns:p='urn:1'/></p:c></p:b></a>", 1, &[]),
        ("<a xmlns:p='urn:1' xmlns:q='urn:1'><b p:x='1' q:y='2' x='3'/></a>", 1, &[]),
        ("<a xmlns:b='urn:b' t='b:int'><c>b:int</c></a>", 1, &["b"]),
        ("<a>&#xD;\r\n&#x85;\u{85}\u{2028}</a>", 0, &[]),
        ("<a b='&#x85;\u{2028}&#x20;'/>", 0, &[]),
        ("<a xmlns:xml='http://www.w3.org/XML/1998/namespace' xml:lang='x'/>", 0, &["xml"]),
    ] {
        let read = Document::parse(xml.as_bytes(), &ParseLimits::default()).expect(xml);
        let expected = lxml.canonicalize(xml.as_bytes(), apex, prefixes).expect(xml);
        let octets = ours(&read, apex, prefixes);
        assert_eq!(String::from_utf8_lossy(&octets), String::from_utf8_lossy(&expected), "{xml}");
    }
}
