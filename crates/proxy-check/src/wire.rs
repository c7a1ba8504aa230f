//! Messages of HTTP/1.1 (RFC 9112), read as the most forgiving program behind a proxy reads them: what a
//! strict one refuses may be exactly what went through.

use std::io;
use tokio::io::{AsyncRead, AsyncReadExt};

/// The longest head of a message: eight times what most servers take.
pub(super) const HEAD_LEN_MAX: usize = 64 << 10;
/// What is kept of a body. The page's own answer repeats a head, with each byte as six at worst.
pub(super) const BODY_LEN_MAX: usize = 8 * HEAD_LEN_MAX;
/// What is read at once.
const PIECE_LEN: usize = 8 << 10;

/// A line of a head, as it came. Spaces around the name are kept: a name that is not quite one is what is
/// looked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Field {
    pub(super) name: Vec<u8>,
    pub(super) value: Vec<u8>,
}

/// A start line and fields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) start: Vec<u8>,
    pub(super) fields: Vec<Field>,
}

/// What follows a head.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Body {
    pub(super) bytes: Vec<u8>,
    pub(super) trailers: Vec<Field>,
}

/// Where a body ends (RFC 9112, section 6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    None,
    Len(u64),
    Chunked,
    ToEnd,
}

/// A name as programs see it that fold case, and make one thing of all that is neither letter nor digit.
pub(super) fn folded(name: &[u8]) -> String {
    let name = name.trim_ascii().iter().map(u8::to_ascii_lowercase);
    name.map(|byte| if byte.is_ascii_alphanumeric() { char::from(byte) } else { '-' }).collect()
}

impl Head {
    fn parse(bytes: &[u8]) -> Self {
        let mut lines = bytes.split(|byte| *byte == b'\n').map(without_cr);
        let start = lines.next().unwrap_or_default().to_vec();
        Self { start, fields: lines.filter(|line| !line.is_empty()).map(Field::parse).collect() }
    }

    /// The values of a field.
    pub(super) fn values(&self, name: &str) -> impl Iterator<Item = &[u8]> {
        self.fields
            .iter()
            .filter(move |field| field.name.trim_ascii().eq_ignore_ascii_case(name.as_bytes()))
            .map(|field| field.value.as_slice())
    }

    /// Whether one of the values has this word.
    pub(super) fn says(&self, name: &str, word: &str) -> bool {
        self.values(name)
            .flat_map(|value| value.split(|byte| *byte == b','))
            .any(|part| part.trim_ascii().eq_ignore_ascii_case(word.as_bytes()))
    }

    /// Where the body ends, if fields say so.
    pub(super) fn framing(&self) -> Option<Framing> {
        if self.says("transfer-encoding", "chunked") {
            return Some(Framing::Chunked);
        }
        let len = self.values("content-length").next()?;
        str::from_utf8(len).ok()?.parse().ok().map(Framing::Len)
    }
}

impl Field {
    fn parse(line: &[u8]) -> Self {
        let colon = line.iter().position(|byte| *byte == b':').unwrap_or(line.len());
        let value = line.get(colon + 1..).unwrap_or_default();
        Self { name: line[..colon].to_vec(), value: value.trim_ascii().to_vec() }
    }
}

fn without_cr(line: &[u8]) -> &[u8] {
    line.strip_suffix(b"\r").unwrap_or(line)
}

/// A stream of messages, with what was read of the next one.
#[derive(Debug)]
pub(super) struct Incoming<S> {
    pub(super) stream: S,
    buffer: Vec<u8>,
}

impl<S: AsyncRead + Unpin> Incoming<S> {
    pub(super) const fn new(stream: S) -> Self {
        Self { stream, buffer: Vec::new() }
    }

    /// The next head; none when the stream ends before one begins.
    pub(super) async fn head(&mut self) -> io::Result<Option<Head>> {
        loop {
            // Empty lines before a start line are passed over (section 2.2).
            let blank = self.buffer.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
            self.buffer.drain(..blank);
            // TLS, for instance, whose sender waits for an answer before it says more.
            if self.buffer.first().is_some_and(|byte| byte.is_ascii_control()) {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "this is not HTTP"));
            }
            if let Some(len) = head_len(&self.buffer) {
                let head = Head::parse(&self.buffer[..len]);
                self.buffer.drain(..len);
                return Ok(Some(head));
            }
            if self.buffer.len() > HEAD_LEN_MAX {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "a head that is too long"));
            }
            if self.more().await? == 0 {
                return match self.buffer.is_empty() {
                    true => Ok(None),
                    false => Err(io::ErrorKind::UnexpectedEof.into()),
                };
            }
        }
    }

    /// A body. What is longer than is kept is read and forgotten; one that breaks off is as long as it is.
    pub(super) async fn body(&mut self, framing: Framing) -> io::Result<Body> {
        let mut body = Body::default();
        match framing {
            Framing::None => {}
            Framing::Len(len) => self.take(len, &mut body.bytes).await?,
            Framing::ToEnd => self.take(u64::MAX, &mut body.bytes).await?,
            Framing::Chunked => loop {
                let Some(line) = self.line().await? else { break };
                let digits = line.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
                let len = str::from_utf8(digits).ok().and_then(|digits| u64::from_str_radix(digits, 16).ok());
                match len {
                    Some(0) => {
                        while let Some(line) = self.line().await?.filter(|line| !line.is_empty()) {
                            if body.trailers.len() < TRAILERS_MAX {
                                body.trailers.push(Field::parse(&line));
                            }
                        }
                        break;
                    }
                    Some(len) => {
                        self.take(len, &mut body.bytes).await?;
                        self.line().await?;
                    }
                    None => return Err(io::Error::new(io::ErrorKind::InvalidData, "a chunk without a size")),
                }
            },
        }
        Ok(body)
    }

    async fn take(&mut self, len: u64, bytes: &mut Vec<u8>) -> io::Result<()> {
        let mut left = len;
        while left > 0 {
            if self.buffer.is_empty() && self.more().await? == 0 {
                break;
            }
            let take = usize::try_from(left).unwrap_or(usize::MAX).min(self.buffer.len());
            let room = BODY_LEN_MAX.saturating_sub(bytes.len());
            bytes.extend_from_slice(&self.buffer[..take.min(room)]);
            self.buffer.drain(..take);
            left -= take as u64;
        }
        Ok(())
    }

    async fn line(&mut self) -> io::Result<Option<Vec<u8>>> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line = without_cr(&self.buffer[..end]).to_vec();
                self.buffer.drain(..=end);
                return Ok(Some(line));
            }
            if self.buffer.len() > HEAD_LEN_MAX {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "a line that is too long"));
            }
            if self.more().await? == 0 {
                return Ok(None);
            }
        }
    }

    async fn more(&mut self) -> io::Result<usize> {
        let mut piece = [0; PIECE_LEN];
        let len = match self.stream.read(&mut piece).await {
            // Servers close without a word of TLS, and then it is over all the same.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => 0,
            read => read?,
        };
        self.buffer.extend_from_slice(&piece[..len]);
        Ok(len)
    }
}

/// Fields of a trailer that are kept.
const TRAILERS_MAX: usize = 64;

/// The length of a head with the empty line behind it.
fn head_len(bytes: &[u8]) -> Option<usize> {
    let mut start = 0;
    loop {
        let end = start + bytes[start..].iter().position(|byte| *byte == b'\n')?;
        if without_cr(&bytes[start..end]).is_empty() {
            return Some(end + 1);
        }
        start = end + 1;
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn field(name: &str, value: &str) -> Field {
        Field { name: name.into(), value: value.into() }
    }

    #[tokio::test]
    async fn a_head_is_read_as_the_most_forgiving_program_reads_it() {
        let bytes = b"\r\nGET / HTTP/1.1\r\nA : 1\nRemote_User:x\r\n folded: y\r\nnothing\r\n\r\nnext";
        let mut incoming = Incoming::new(&bytes[..]);
        let head = incoming.head().await.unwrap().unwrap();
        assert_eq!(head.start, b"GET / HTTP/1.1");
        let expected =
            [field("A ", "1"), field("Remote_User", "x"), field(" folded", "y"), field("nothing", "")];
        assert_eq!(head.fields, expected);
        assert_eq!(folded(&head.fields[1].name), "remote-user");
        assert_eq!(folded(&head.fields[0].name), "a");
        assert!(incoming.head().await.is_err(), "half a head is none");
        assert!(Incoming::new(&b"\x16\x03\x01\n\n"[..]).head().await.is_err(), "TLS is none");
    }

    #[tokio::test]
    async fn bodies_end_where_the_fields_say() {
        let bytes = b"3;x=y\r\nabc\r\n2\r\nde\r\n0\r\nX-Identity-Sid: t\r\n\r\n12345rest";
        let mut incoming = Incoming::new(&bytes[..]);
        let body = incoming.body(Framing::Chunked).await.unwrap();
        assert_eq!(
            (body.bytes.as_slice(), body.trailers),
            (&b"abcde"[..], vec![field("X-Identity-Sid", "t")])
        );
        assert_eq!(incoming.body(Framing::Len(5)).await.unwrap().bytes, b"12345");
        assert_eq!(incoming.body(Framing::ToEnd).await.unwrap().bytes, b"rest");
        assert!(Incoming::new(&b"xyz\r\n"[..]).body(Framing::Chunked).await.is_err());
    }

    #[tokio::test]
    async fn nothing_grows_without_end() {
        let long = vec![b'a'; 2 * HEAD_LEN_MAX];
        assert!(Incoming::new(&long[..]).head().await.is_err());
        let long = vec![b'a'; 2 * BODY_LEN_MAX];
        let body = Incoming::new(&long[..]).body(Framing::ToEnd).await.unwrap();
        assert_eq!(body.bytes.len(), BODY_LEN_MAX);
    }

    #[test]
    fn a_chunked_body_counts_before_its_length() {
        let framing = |fields: &[(&str, &str)]| {
            let fields = fields.iter().map(|(name, value)| field(name, value)).collect();
            Head { start: Vec::new(), fields }.framing()
        };
        assert_eq!(framing(&[]), None);
        assert_eq!(framing(&[("content-length", "7")]), Some(Framing::Len(7)));
        assert_eq!(
            framing(&[("Content-Length", "7"), ("Transfer-Encoding", "gzip, chunked")]),
            Some(Framing::Chunked)
        );
    }
}
