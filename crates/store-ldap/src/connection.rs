//! One connection: TCP and TLS, and the two operations that the store needs.
//!
//! No task reads while nothing is asked. What arrives then is unasked, and ends the connection when it is
//! used next.

use crate::ber;
use crate::entry::Entry;
use crate::failed::{Failed, code_name};
use crate::message::{self, Answered, Asked, Search};
use crate::server::{Server, TlsMode};
use rustls_pki_types::ServerName;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::task::{Context, Waker};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpStream, lookup_host};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Bytes of the answers to searches that are sent together: a store asks for a few hundred entries at most.
const ANSWER_LEN_MAX: usize = 16 << 20;
/// Searches that are sent together. Their entries are kept until the last of them is answered, and a server
/// that answers before it has read all of them must not fill the buffers of the connection.
pub(crate) const TOGETHER_MAX: usize = 8;
/// Addresses of one server that are tried.
const ADDRESSES_MAX: usize = 8;
/// How long data may be unacknowledged until the kernel gives the connection up.
const USER_TIMEOUT: Duration = Duration::from_secs(10);

/// The entries of a search.
#[derive(Clone, Debug, Default)]
pub(crate) struct Answer {
    pub(crate) entries: Vec<Entry>,
    /// There are more: the limit of the search or of the server is reached.
    pub(crate) is_cut: bool,
    /// The limit of the search.
    entries_max: usize,
}

impl Answer {
    /// The entries, if these are all.
    pub(crate) fn whole(self, what: &str) -> Result<Vec<Entry>, Failed> {
        match self.is_cut {
            false => Ok(self.entries),
            true if self.entries.len() > self.entries_max => {
                Err(Failed::Search(format!("{what}: there are more entries than the limit")))
            }
            true => Err(Failed::server_limit(self.entries.len())),
        }
    }
}

/// The result of a bind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BindResult {
    pub(crate) code: u32,
    pub(crate) text: String,
}

/// A search whose answer is on its way.
#[derive(Default)]
struct Open {
    entries: Vec<Entry>,
    references: usize,
    result: Option<(u32, String)>,
    /// Of the next page.
    cookie: Vec<u8>,
}

/// A connection with TLS.
pub(crate) struct Connection {
    stream: TlsStream<TcpStream>,
    received: Messages,
    /// Memory of requests.
    requests: Vec<u8>,
    last_id: u32,
    /// An answer was left in the middle, or the connection ended.
    is_spoiled: bool,
    server: Server,
    searches: u64,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Connection({})", self.server)
    }
}

impl Connection {
    /// Connects, with TLS before anything else is said. The caller limits the time.
    pub(crate) async fn open(
        server: &Server,
        addresses: Option<Vec<IpAddr>>,
        tls: &TlsConnector,
        connect_timeout: Duration,
    ) -> Result<Self, Failed> {
        let at = |error: &dyn std::fmt::Display| format!("{server}: {error}");
        let mut stream = connect(server, addresses, connect_timeout).await?;
        if server.tls == TlsMode::StartTls {
            start_tls(&mut stream).await.map_err(|why| Failed::Tls(at(&format!("StartTLS: {why}"))))?;
        }
        let name = ServerName::try_from(server.host.clone())
            .map_err(|_| Failed::Tls(at(&"the host is no name that a certificate can have")))?;
        let secure = tls.connect(name, stream).await.map_err(|error| Failed::Tls(at(&tls_reason(&error))))?;
        Ok(Self {
            stream: secure,
            received: Messages::default(),
            requests: Vec::new(),
            last_id: 0,
            is_spoiled: false,
            server: server.clone(),
            searches: 0,
        })
    }

    /// Whether it may be used for another question: no answer was left in the middle.
    pub(crate) const fn is_whole(&self) -> bool {
        !self.is_spoiled
    }

    /// Whether nothing has arrived since the last answer, the end of the connection included.
    pub(crate) fn is_silent(&mut self) -> bool {
        let mut byte = [0];
        let read = Pin::new(&mut self.stream)
            .poll_read(&mut Context::from_waker(Waker::noop()), &mut ReadBuf::new(&mut byte));
        self.received.is_empty() && read.is_pending()
    }

    /// Searches that were sent over it.
    pub(crate) const fn searches(&self) -> u64 {
        self.searches
    }

    /// Where it leads.
    pub(crate) const fn server(&self) -> &Server {
        &self.server
    }

    /// Simple bind (RFC 4511 4.2). An empty name or secret would be a bind without authentication, which
    /// succeeds: the settings have none.
    pub(crate) async fn bind(&mut self, dn: &str, secret: &str) -> Result<BindResult, Failed> {
        if dn.is_empty() || secret.is_empty() {
            return Err(Failed::Bind("the name or the secret of the store's account is empty".to_owned()));
        }
        self.is_spoiled = true;
        self.last_id += 1;
        let request = message::bind(self.last_id, dn, secret);
        self.send(&request).await?;
        let id = self.last_id;
        let mut len = 0;
        match self.next(&mut len, |answered| (answered == id).then_some(Asked::Bind)).await? {
            (_, Answered::Result(code, text)) => {
                self.is_spoiled = false;
                Ok(BindResult { code, text })
            }
            _ => Err(self.broken("the server sends an answer of another operation")),
        }
    }

    /// Searches. Only success, or a limit of entries, is an answer; a reference to another server is none.
    /// `None` if the base of the search is not there (noSuchObject).
    pub(crate) async fn search(&mut self, search: Search<'_>) -> Result<Option<Answer>, Failed> {
        let mut answers = self.search_all(&[search]).await?;
        answers.pop().ok_or_else(|| self.broken("no answer"))
    }

    /// Searches that do not need each other's answers. They are sent together, so all of them take the time
    /// of one, and one record of TLS. The answers are in the order of the searches. An error is that of the
    /// first one.
    pub(crate) async fn search_all(
        &mut self,
        searches: &[Search<'_>],
    ) -> Result<Vec<Option<Answer>>, Failed> {
        let mut answers = Vec::with_capacity(searches.len());
        for together in searches.chunks(TOGETHER_MAX) {
            for (search, open) in together.iter().zip(self.exchange(together, None).await?) {
                answers.push(self.answer(search, open)?);
            }
        }
        Ok(answers)
    }

    /// One page of a search (RFC 2696), and the cookie of the next one, which is empty if this is the last one.
    /// Other searches may be made between two pages, but no other pages.
    pub(crate) async fn search_page(
        &mut self,
        search: Search<'_>,
        cookie: &[u8],
    ) -> Result<Option<(Answer, Vec<u8>)>, Failed> {
        let mut open = self.exchange(&[search], Some(cookie)).await?.pop().unwrap_or_default();
        let cookie = std::mem::take(&mut open.cookie);
        Ok(self.answer(&search, open)?.map(|answer| (answer, cookie)))
    }

    /// Sends searches, and reads all that is answered. With a cookie, there is one search, for one page.
    async fn exchange(&mut self, searches: &[Search<'_>], page: Option<&[u8]>) -> Result<Vec<Open>, Failed> {
        let asked = if page.is_some() { Asked::Page } else { Asked::Search };
        // If the future is dropped in the middle of an answer, no question may use this connection again.
        self.is_spoiled = true;
        self.searches += searches.len() as u64;
        let first = self.last_id + 1;
        let mut requests = std::mem::take(&mut self.requests);
        requests.clear();
        for search in searches {
            self.last_id += 1;
            search.write(&mut requests, self.last_id, page);
        }
        self.send(&requests).await?;
        self.requests = requests;
        let mut opened: Vec<Open> = searches.iter().map(|_| Open::default()).collect();
        let at = |id: u32| id.checked_sub(first).and_then(|at| usize::try_from(at).ok());
        let (mut pending, mut len) = (searches.len(), 0);
        while pending > 0 {
            let of_open = |id| {
                let open = opened.get(at(id)?)?;
                open.result.is_none().then_some(asked)
            };
            let (id, answered) = self.next(&mut len, of_open).await?;
            if len > ANSWER_LEN_MAX {
                return Err(self.too_large("an answer of more than 16 MiB"));
            }
            let Some((open, search)) = at(id).and_then(|at| opened.get_mut(at).zip(searches.get(at))) else {
                return Err(self.broken("the server sends an answer with the ID of no question"));
            };
            match answered {
                // The server does not heed the limit. What is over it is not kept.
                Answered::Entry(_) if open.entries.len() > search.entries_max => {}
                Answered::Entry(entry) => open.entries.push(entry),
                Answered::Reference => open.references += 1,
                Answered::Result(code, text) => {
                    open.result = Some((code, text));
                    pending -= 1;
                }
                Answered::PageEnd(code, text, cookie) => {
                    (open.result, open.cookie) = (Some((code, text)), cookie);
                    pending -= 1;
                }
            }
        }
        self.is_spoiled = false;
        Ok(opened)
    }

    /// What the answer to a search means.
    fn answer(&self, search: &Search<'_>, open: Open) -> Result<Option<Answer>, Failed> {
        let told = |what: String| format!("{}: {what}", self.server);
        let entries_max = search.entries_max;
        let is_cut = open.entries.len() > entries_max;
        let (code, text) = open.result.unwrap_or_default();
        match code {
            0 if open.references > 0 => Err(Failed::Search(told(format!(
                "the directory refers to another server, and references are not followed; narrow the base {:?}",
                search.base
            )))),
            0 => Ok(Some(Answer { entries: open.entries, is_cut, entries_max })),
            4 => Ok(Some(Answer { entries: open.entries, is_cut: true, entries_max })),
            32 => Ok(None),
            51 | 52 => Err(Failed::Server(told(with_text(code, &text)))),
            _ => Err(Failed::Search(told(with_text(code, &text)))),
        }
    }

    async fn send(&mut self, requests: &[u8]) -> Result<(), Failed> {
        let sent = async {
            self.stream.write_all(requests).await?;
            self.stream.flush().await
        };
        sent.await.map_err(|error| self.broken(&error.to_string()))
    }

    /// The next message of the server. Its length is added to `len`.
    async fn next(
        &mut self,
        len: &mut usize,
        asked: impl FnOnce(u32) -> Option<Asked>,
    ) -> Result<(u32, Answered), Failed> {
        let end = match self.received.fill(&mut self.stream).await {
            Ok(Some(end)) => end,
            Ok(None) => return Err(self.broken("the server closes the connection")),
            Err(Unread::Malformed(error)) => return Err(self.refused(error)),
            Err(Unread::Io(error)) => return Err(self.broken(&error.to_string())),
        };
        *len += end;
        let read = message::read(self.received.take(end), asked);
        read.map_err(|error| self.refused(error))
    }

    /// An entry over a limit says nothing about the server: others are answered. The connection is spoiled.
    fn refused(&self, error: ber::Malformed) -> Failed {
        match error.is_over_a_limit() {
            true => self.too_large(&error.to_string()),
            false => self.broken(&format!("the server sends {error}")),
        }
    }

    fn too_large(&self, what: &str) -> Failed {
        Failed::Data(format!("{}: the server sends {what}", self.server))
    }

    fn broken(&self, why: &str) -> Failed {
        Failed::Connection(format!("{}: {why}", self.server))
    }
}

fn with_text(code: u32, text: &str) -> String {
    match text {
        "" => code_name(code),
        text => format!("{}: {text}", code_name(code)),
    }
}

/// The first address of a server that accepts a connection. Each has its share of the time.
async fn connect(
    server: &Server,
    addresses: Option<Vec<IpAddr>>,
    timeout: Duration,
) -> Result<TcpStream, Failed> {
    let failed = |why: &dyn std::fmt::Display| Failed::Connect(format!("{server}: {why}"));
    let addresses: Vec<SocketAddr> = match addresses {
        Some(addresses) => addresses.into_iter().map(|address| (address, server.port).into()).collect(),
        None => {
            let found =
                lookup_host((server.host.as_str(), server.port)).await.map_err(|error| failed(&error))?;
            found.take(ADDRESSES_MAX).collect()
        }
    };
    let share = timeout / u32::try_from(addresses.len().max(1)).unwrap_or(1);
    let mut why = "it has no address".to_owned();
    for address in addresses {
        match tokio::time::timeout(share, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => {
                tune(&stream).map_err(|error| failed(&error))?;
                return Ok(stream);
            }
            Ok(Err(error)) => why = format!("{address}: {error}"),
            Err(_) => why = format!("{address}: no connection in {} ms", share.as_millis()),
        }
    }
    Err(failed(&why))
}

/// A connection that dies without a word is noticed.
fn tune(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    rustix::net::sockopt::set_socket_keepalive(stream, true)?;
    rustix::net::sockopt::set_tcp_keepidle(stream, Duration::from_secs(30))?;
    rustix::net::sockopt::set_tcp_keepintvl(stream, Duration::from_secs(10))?;
    rustix::net::sockopt::set_tcp_keepcnt(stream, 3)?;
    let timeout = u32::try_from(USER_TIMEOUT.as_millis()).unwrap_or(u32::MAX);
    Ok(rustix::net::sockopt::set_tcp_user_timeout(stream, timeout)?)
}

/// Asks for TLS. The server says yes, and not a byte more.
async fn start_tls(stream: &mut TcpStream) -> Result<(), String> {
    stream.write_all(message::START_TLS).await.map_err(|error| error.to_string())?;
    let mut messages = Messages::default();
    let end = messages
        .fill(stream)
        .await
        .map_err(|error| error.to_string())?
        .ok_or("the server closes the connection")?;
    let asked = |id| (id == message::START_TLS_ID).then_some(Asked::StartTls);
    let answer = message::read(messages.take(end), asked);
    if !messages.is_empty() {
        return Err("the server sends bytes before TLS".to_owned());
    }
    match answer.map_err(|error| error.to_string())?.1 {
        Answered::Result(0, _) => Ok(()),
        Answered::Result(code, text) => Err(format!("the server refuses it: {}", with_text(code, &text))),
        _ => Err("an answer of another operation".to_owned()),
    }
}

/// The error of a handshake. A certificate without a matching subjectAltName is the usual one: Samba's own
/// has none.
fn tls_reason(error: &io::Error) -> String {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match inner {
        Some(rustls::Error::InvalidCertificate(
            rustls::CertificateError::NotValidForName
            | rustls::CertificateError::NotValidForNameContext { .. },
        )) => {
            format!(
                "the certificate does not name this server in its subjectAltName (a name in CN alone does not count): {error}"
            )
        }
        Some(rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer)) => {
            format!("the certificate is not from a CA of store.ldap.ca: {error}")
        }
        _ => error.to_string(),
    }
}

/// Messages that arrive in pieces.
#[derive(Default)]
struct Messages {
    bytes: Vec<u8>,
    /// Bytes of messages that were taken.
    taken: usize,
}

/// Why no message is read.
enum Unread {
    Malformed(ber::Malformed),
    Io(io::Error),
}

impl fmt::Display for Unread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed(error) => error.fmt(f),
            Self::Io(error) => error.fmt(f),
        }
    }
}

impl Messages {
    /// The length of the next message, once it is whole; `None` if the stream ends before it. Nothing is lost
    /// if the future is dropped.
    async fn fill(&mut self, stream: &mut (impl AsyncRead + Unpin)) -> Result<Option<usize>, Unread> {
        loop {
            let rest = &self.bytes[self.taken..];
            let len = ber::message_len(rest).map_err(Unread::Malformed)?;
            if let Some(len) = len.filter(|len| *len <= rest.len()) {
                return Ok(Some(len));
            }
            self.bytes.drain(..self.taken);
            self.taken = 0;
            self.bytes.reserve(16 << 10);
            match stream.read_buf(&mut self.bytes).await {
                Ok(0) => return Ok(None),
                Ok(_) => {}
                // Closed without TLS's close_notify.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
                Err(error) => return Err(Unread::Io(error)),
            }
        }
    }

    /// Takes the next message, which has this length.
    fn take(&mut self, len: usize) -> &[u8] {
        let begin = self.taken;
        self.taken += len;
        &self.bytes[begin..self.taken]
    }

    /// Whether nothing is behind what was taken.
    const fn is_empty(&self) -> bool {
        self.taken == self.bytes.len()
    }
}
