//! The time of a domain controller: `currentTime` of the rootDSE ([MS-ADTS] 3.1.1.3.2.7), which it tells by
//! LDAP without a logon.

use dtyp::FileTime;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const PORT: u16 = 389;
/// The rootDSE with one attribute.
const ANSWER_LEN_MAX: usize = 4096;

/// searchRequest (RFC 4511 4.5.1) for the base object "", with the filter (objectClass=*), for currentTime.
#[rustfmt::skip]
const QUESTION: &[u8] = &[
    0x30, 0x32, // LDAPMessage
    0x02, 0x01, 1, // messageID
    0x63, 0x2d, // [APPLICATION 3]
    0x04, 0, // baseObject
    0x0a, 0x01, 0, // scope: baseObject
    0x0a, 0x01, 0, // derefAliases: never
    0x02, 0x01, 1, // sizeLimit
    0x02, 0x01, 5, // timeLimit
    0x01, 0x01, 0, // typesOnly: false
    0x87, 0x0b, b'o', b'b', b'j', b'e', b'c', b't', b'C', b'l', b'a', b's', b's', // present
    0x30, 0x0d, 0x04, 0x0b, b'c', b'u', b'r', b'r', b'e', b'n', b't', b'T', b'i', b'm', b'e',
];

/// Asks a host. It need not be a domain controller, and its answer is not authenticated: the time is
/// compared, and never used.
pub(super) async fn ask(host: &str) -> Result<FileTime, String> {
    let mut stream = TcpStream::connect((host, PORT)).await.map_err(|error| error.to_string())?;
    stream.write_all(QUESTION).await.map_err(|error| error.to_string())?;
    let mut answer = Vec::new();
    while answer.len() < ANSWER_LEN_MAX {
        let read = stream.read_buf(&mut answer).await.map_err(|error| error.to_string())?;
        if let Some(time) = read_time(&answer) {
            return Ok(time);
        }
        if read == 0 || element(&answer).is_some() {
            break;
        }
    }
    Err("the answer has no currentTime".to_owned())
}

/// currentTime in a searchResEntry.
fn read_time(answer: &[u8]) -> Option<FileTime> {
    let message = within(answer, 0x30)?;
    let (_, _, entry) = element(message)?;
    let entry = within(entry, 0x64)?;
    let (_, _, attributes) = element(entry)?;
    let attribute = within(within(attributes, 0x30)?, 0x30)?;
    let (_, name, values) = element(attribute)?;
    let value = within(within(values, 0x31)?, 0x04)?;
    FileTime::from_generalized_time(str::from_utf8(value).ok()?)
        .filter(|_| name.eq_ignore_ascii_case(b"currentTime"))
}

/// The contents of an element with this tag.
fn within(octets: &[u8], expected: u8) -> Option<&[u8]> {
    element(octets).filter(|(tag, ..)| *tag == expected).map(|(_, contents, _)| contents)
}

/// The first element: tag, contents, and what follows. BER with definite lengths, which servers write in five
/// octets.
fn element(octets: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (tag, rest) = octets.split_first()?;
    let (first, rest) = rest.split_first()?;
    let (len, rest) = match first {
        0..=0x7f => (usize::from(*first), rest),
        0x81..=0x84 => {
            let (len, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
            (len.iter().fold(0, |sum, octet| sum << 8 | usize::from(*octet)), rest)
        }
        _ => return None,
    };
    let (contents, rest) = rest.split_at_checked(len)?;
    Some((*tag, contents, rest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use account_store::json_lines;

    /// What Samba 4.17 answers to [`QUESTION`]: a searchResEntry. Its searchResDone follows.
    const SAMBA: &[u8] = b"0-\x02\x01\x01d(\x04\x000$0\"\x04\x0bcurrentTime1\x13\x04\x1120261130082943.0Z";
    const DONE: &[u8] = b"0\x0c\x02\x01\x01e\x07\n\x01\x00\x04\x00\x04\x00";

    #[test]
    fn the_time_of_an_answer_is_read_and_parts_are_not() {
        let expected = json_lines::date("2026-11-30T08:29:43Z");
        assert!(expected.is_some());
        assert_eq!(read_time(SAMBA), expected);
        assert_eq!(read_time(&[SAMBA, DONE].concat()), expected);
        assert_eq!(read_time(DONE), None);
        for len in 0..SAMBA.len() {
            assert_eq!(read_time(&SAMBA[..len]), None, "{len}");
        }
    }

    #[test]
    fn what_is_no_time_is_refused() {
        for (from, to) in [
            (&b"currentTime"[..], &b"whenCreated"[..]),
            (b"20261130082943.0Z", b"20261130082943.0 "),
            (b"20261130082943.0Z", b"2026113008\xff943.0Z"),
            (b"20261130082943.0Z", b"20261330082943.0Z"),
            (b"d(", b"e("),
        ] {
            let at = SAMBA.windows(from.len()).position(|part| part == from).expect("it is there");
            let mut changed = SAMBA.to_vec();
            changed[at..at + to.len()].copy_from_slice(to);
            assert_eq!(read_time(&changed), None, "{}", to.escape_ascii());
        }
        // Active Directory writes each length in five octets.
        assert_eq!(element(b"\x30\x84\0\0\0\x01\x07\x09"), Some((0x30, &[7][..], &[9][..])));
        assert_eq!(element(b"\x30\x84\xff\xff\xff\xff\x07"), None);
        assert_eq!(element(b"\x30\x85\0\0\0\0\x01\x00"), None);
        assert_eq!(element(b"\x30\x80\0\0"), None);
    }

    #[test]
    fn lengths_of_the_question_are_right() {
        let message = within(QUESTION, 0x30).expect("a message");
        let (_, id, search) = element(message).expect("an id");
        assert_eq!((id, element(search).map(|it| it.2)), (&[1][..], Some(&[][..])));
        assert_eq!(element(QUESTION).map(|it| it.2), Some(&[][..]));
    }
}
