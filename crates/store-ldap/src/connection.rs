//! One connection: TCP and TLS, ldap3 behind a door that checks what the server sends, and the two operations
//! that the store needs.
//!
//! ldap3 has no limit for a message, panics on a malformed one, queues what its caller has not read, and connects by
//! the roots of the system. So it gets one end of a socket pair. A relay at the other end passes on what
//! [`crate::message`] has checked, and counts it. A connection has one operation at a time.

use crate::ber;
use crate::entry::Entry;
use crate::failed::{Failed, code_name};
use crate::filter::Filter;
use crate::message::{self, Answered, Asked};
use crate::server::{Server, TlsMode};
use ldap3::controls::RawControl;
use ldap3::{
    DerefAliases, Ldap, LdapConnAsync, LdapConnSettings, LdapError, Scope, SearchOptions, StdStream,
};
use rustls_pki_types::ServerName;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream, lookup_host};
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;

/// Bytes of one answer, all its messages together: a store asks for a few hundred entries at most.
const ANSWER_LEN_MAX: usize = 16 << 20;
/// Addresses of one server that are tried.
const ADDRESSES_MAX: usize = 8;
/// How long data may be unacknowledged until the kernel gives the connection up.
const USER_TIMEOUT: Duration = Duration::from_secs(10);
/// LDAP_SERVER_DOMAIN_SCOPE_OID ([MS-ADTS] 3.1.1.3.4.1.5): no references to other parts of the forest.
const DOMAIN_SCOPE: &str = "1.2.840.113556.1.4.1339";

/// What is searched for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Search<'a> {
    pub(crate) base: &'a str,
    pub(crate) scope: Scope,
    pub(crate) filter: &'a Filter,
    pub(crate) attributes: &'a [&'a str],
    /// One more entry than this, and the answer is [`Answer::is_cut`].
    pub(crate) entries_max: usize,
    /// Whether the server is Active Directory or Samba, and shall not refer to other parts of the forest.
    pub(crate) domain_scope: bool,
}

/// The entries of a search.
#[derive(Clone, Debug, Default)]
pub(crate) struct Answer {
    pub(crate) entries: Vec<Entry>,
    /// There are more: the limit of the search or of the server is reached.
    pub(crate) is_cut: bool,
}

impl Answer {
    /// The entries, if these are all.
    pub(crate) fn whole(self, what: &str) -> Result<Vec<Entry>, Failed> {
        match self.is_cut {
            false => Ok(self.entries),
            true => Err(Failed::Search(format!("{what}: there are more entries than the limit"))),
        }
    }
}

/// The result of a bind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BindResult {
    pub(crate) code: u32,
    pub(crate) text: String,
}

/// A connection with TLS.
pub(crate) struct Connection {
    ldap: Ldap,
    task: JoinHandle<()>,
    /// Why it ended.
    ended: Arc<OnceLock<String>>,
    /// An answer was left in the middle.
    is_spoiled: bool,
    server: Server,
    searches: u64,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Connection({}, {:?})", self.server, self.ended.get())
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.task.abort();
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
        let failed = |error: &dyn std::fmt::Display| Failed::Connection(at(error));
        let (inner, outer) = StdUnixStream::pair().map_err(|error| failed(&error))?;
        outer.set_nonblocking(true).map_err(|error| failed(&error))?;
        let outer = UnixStream::from_std(outer).map_err(|error| failed(&error))?;
        let settings = LdapConnSettings::new().set_std_stream(StdStream::Unix(inner));
        let (driver, ldap) =
            LdapConnAsync::with_settings(settings, "ldapi:///").await.map_err(|error| failed(&error))?;
        let ended = Arc::new(OnceLock::new());
        let reason = Arc::clone(&ended);
        let task = tokio::spawn(async move {
            // The reason is set before the driver is dropped: that wakes the question, which reads it.
            let relayed = async { drop(reason.set(relay(outer, secure).await)) };
            let driven = async {
                let ended = driver.drive().await;
                drop(reason.set(ended.err().map_or("it is closed".to_owned(), |error| error.to_string())));
            };
            tokio::select! {
                () = relayed => {}
                () = driven => {}
            }
        });
        Ok(Self { ldap, task, ended, is_spoiled: false, server: server.clone(), searches: 0 })
    }

    /// Whether it may be used for another question.
    pub(crate) fn is_usable(&self) -> bool {
        !self.is_spoiled && self.ended.get().is_none() && !self.task.is_finished()
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
        let result = self.ldap.simple_bind(dn, secret).await;
        let result = result.map_err(|error| self.failed(&error))?;
        Ok(BindResult { code: result.rc, text: result.text })
    }

    /// Searches. Only success, or a limit of entries, is an answer; a reference to another server is none.
    /// `None` if the base of the search is not there (noSuchObject).
    pub(crate) async fn search(&mut self, search: Search<'_>) -> Result<Option<Answer>, Failed> {
        // If the future is dropped in the middle of an answer, no question may use this connection again.
        self.is_spoiled = true;
        self.searches += 1;
        let limit = i32::try_from(search.entries_max + 1).unwrap_or(i32::MAX);
        let options = SearchOptions::new().deref(DerefAliases::Never).sizelimit(limit);
        self.ldap.with_search_options(options);
        if search.domain_scope {
            let control = RawControl { ctype: DOMAIN_SCOPE.to_owned(), crit: true, val: None };
            self.ldap.with_controls(vec![control]);
        }
        let text = search.filter.text();
        let begun = self.ldap.streaming_search(search.base, search.scope, &text, search.attributes).await;
        let mut stream = begun.map_err(|error| self.failed(&error))?;
        let mut answer = Answer::default();
        let mut references = 0_usize;
        loop {
            match stream.next().await {
                Ok(Some(part)) if part.is_ref() => references += 1,
                Ok(Some(part)) => {
                    let entry = Entry::read(part.0).ok_or_else(|| self.broken("an entry cannot be read"))?;
                    if answer.entries.len() > search.entries_max {
                        // The server does not heed the limit, so this connection ends here.
                        answer.is_cut = true;
                        return Ok(Some(answer));
                    }
                    answer.entries.push(entry);
                }
                Ok(None) => break,
                Err(error) => return Err(self.failed(&error)),
            }
        }
        let result = stream.finish().await;
        self.is_spoiled = false;
        answer.is_cut = answer.entries.len() > search.entries_max;
        let told = |what: String| format!("{}: {what}", self.server);
        match result.rc {
            0 if references > 0 => Err(Failed::Search(told(format!(
                "the directory refers to another server, and references are not followed; narrow the base {:?}",
                search.base
            )))),
            0 => Ok(Some(answer)),
            4 => Ok(Some(Answer { is_cut: true, ..answer })),
            32 => Ok(None),
            code @ (51 | 52) => Err(Failed::Server(told(with_text(code, &result.text)))),
            code => Err(Failed::Search(told(with_text(code, &result.text)))),
        }
    }

    fn failed(&self, error: &LdapError) -> Failed {
        match self.ended.get() {
            Some(why) => self.broken(why),
            None => self.broken(&error.to_string()),
        }
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
    let answer = messages.next(stream).await?.ok_or("the server closes the connection")?;
    if !messages.bytes.is_empty() {
        return Err("the server sends bytes before TLS".to_owned());
    }
    let checked = message::check(&answer, message::START_TLS_ID, Asked::StartTls);
    match checked.map_err(|error| error.to_string())?.0 {
        Answered::Result(0, _) => Ok(()),
        Answered::Result(code, text) => Err(format!("the server refuses it: {}", with_text(code, &text))),
        Answered::Part => Err("an answer of another operation".to_owned()),
    }
}

/// The error of a handshake. A certificate without a matching subjectAltName is the usual one: Samba's own has
/// none.
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
}

impl Messages {
    /// The next whole message; `None` if the stream ends before it. Nothing is lost if the future is dropped.
    async fn next(&mut self, stream: &mut (impl AsyncRead + Unpin)) -> Result<Option<Vec<u8>>, String> {
        loop {
            let len = ber::message_len(&self.bytes).map_err(|error| error.to_string())?;
            if let Some(len) = len.filter(|len| *len <= self.bytes.len()) {
                return Ok(Some(self.bytes.drain(..len).collect()));
            }
            self.bytes.reserve(16 << 10);
            match stream.read_buf(&mut self.bytes).await {
                Ok(0) => return Ok(None),
                Ok(_) => {}
                Err(error) => return Err(error.to_string()),
            }
        }
    }
}

/// Passes requests of ldap3 out and checked answers in, until one of them ends. Returns why.
async fn relay<S: AsyncRead + AsyncWrite>(inner: UnixStream, outer: S) -> String {
    let (mut from_ldap3, mut to_ldap3) = tokio::io::split(inner);
    let (mut from_server, mut to_server) = tokio::io::split(outer);
    let (mut requests, mut answers) = (Messages::default(), Messages::default());
    let mut open: Option<(u32, Asked)> = None;
    let mut len = 0;
    loop {
        tokio::select! {
            request = requests.next(&mut from_ldap3) => {
                let Ok(Some(request)) = request else { return "it is closed".to_owned() };
                match message::request(&request) {
                    Ok((_, Asked::Unbind)) => open = None,
                    Ok(asked) => open = Some(asked),
                    Err(error) => return error.to_string(),
                }
                len = 0;
                let sent = async { to_server.write_all(&request).await?; to_server.flush().await };
                if let Err(error) = sent.await {
                    return error.to_string();
                }
            }
            answer = answers.next(&mut from_server) => {
                let answer = match answer {
                    Ok(Some(answer)) => answer,
                    Ok(None) => return "the server closes the connection".to_owned(),
                    Err(why) => return why,
                };
                let (id, asked) = open.unwrap_or((0, Asked::Unbind));
                len += answer.len();
                let checked = match message::check(&answer, id, asked) {
                    _ if len > ANSWER_LEN_MAX => return "an answer of more than 16 MiB".to_owned(),
                    Ok((Answered::Result(..), passed)) => { open = None; passed }
                    Ok((Answered::Part, passed)) => passed,
                    Err(error) => return format!("the server sends {error}"),
                };
                if let Err(error) = to_ldap3.write_all(&checked).await {
                    return error.to_string();
                }
            }
        }
    }
}
