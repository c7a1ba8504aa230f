//! Copies of lines for the journal of systemd, for syslog and for a collector of logs.
//!
//! A copy goes as one datagram to a local socket, and no caller waits for it: if the receiver takes none, the
//! copy is lost, counted and reported. The file is what counts where lines are required.

use super::ocsf;
use prometheus_client::metrics::counter::Counter;
use rcmp_service::visible::visible_json;
use serde_json::Value;
use std::io;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

/// How a copy is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// As in the file.
    Own,
    /// OCSF, class Authentication (3002).
    Ocsf,
}

/// Who receives copies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Receiver {
    /// systemd-journald, by its native protocol.
    Journald,
    /// A syslog daemon, by RFC 5424.
    Syslog,
}

/// Settings of copies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CopySettings {
    /// Who receives them.
    pub to: Receiver,
    /// The socket of the receiver.
    pub socket: PathBuf,
    /// How they are written.
    pub encoding: Encoding,
}

/// Sends copies to a collector of logs. It counts and logs itself what is lost.
pub trait Records: Send + Sync + std::fmt::Debug {
    /// Sends a copy of a line about this event, and does not wait. `text` is the line as it is configured.
    fn send(&self, event: &Value, text: String);
}

/// The name of this program in the journal and in syslog.
const IDENTIFIER: &str = "rcmpd-audit";
/// Priorities of syslog (RFC 5424, table 2): facility authpriv, severity informational.
const AUTHPRIV: u8 = 10;
const INFORMATIONAL: u8 = 6;
/// The longest MSGID (RFC 5424, section 6).
const MSGID_LEN_MAX: usize = 32;
/// Members that are in the file alone: they are as long as a peer likes.
const FILE_ALONE: [&str; 2] = ["certificate", "trail"];

/// Sends copies.
pub(super) struct Copies {
    copies: Vec<(CopySettings, AtomicBool)>,
    socket: Option<UnixDatagram>,
    records: Option<(Encoding, Arc<dyn Records>)>,
    host: String,
    pub(super) lost: Counter,
}

impl Copies {
    pub(super) fn new(settings: &[CopySettings]) -> io::Result<Self> {
        let socket = match settings {
            [] => None,
            _ => {
                let socket = UnixDatagram::unbound()?;
                socket.set_nonblocking(true)?;
                Some(socket)
            }
        };
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let copies = settings.iter().map(|settings| (settings.clone(), AtomicBool::new(false))).collect();
        Ok(Self { copies, socket, records: None, host, lost: Counter::default() })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.copies.is_empty() && self.records.is_none()
    }

    /// Sends copies as records, too. `lost` counts what is lost of all copies.
    pub(super) fn record(&mut self, encoding: Encoding, records: Arc<dyn Records>, lost: Counter) {
        self.records = Some((encoding, records));
        self.lost = lost;
    }

    /// Sends a line to each receiver.
    pub(super) fn send(&self, event: &Value) {
        if self.is_empty() {
            return;
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let mut event = event.clone();
        if let Value::Object(members) = &mut event {
            members.retain(|name, _| !FILE_ALONE.contains(&name.as_str()));
        }
        let name = event["event"].as_str().unwrap_or_default();
        let text = |encoding| {
            let text = match encoding {
                Encoding::Own => event.to_string(),
                Encoding::Ocsf => {
                    ocsf::event(&event, u64::try_from(now.as_millis()).unwrap_or(u64::MAX)).to_string()
                }
            };
            visible_json(&text)
        };
        if let Some((encoding, records)) = &self.records {
            records.send(&event, text(*encoding));
        }
        let Some(socket) = &self.socket else { return };
        for (copy, is_failing) in &self.copies {
            let text = text(copy.encoding);
            let datagram = match copy.to {
                Receiver::Journald => journal_entry(name, &event, &text),
                Receiver::Syslog => syslog_message(name, &self.host, &crate::now().to_string(), &text),
            };
            let sent = socket.send_to(&datagram, &copy.socket);
            let path = copy.socket.display();
            match sent {
                Ok(_) if is_failing.swap(false, Ordering::Relaxed) => {
                    tracing::info!(%path, "Copies of audit lines are sent again");
                }
                Ok(_) => {}
                Err(error) => {
                    self.lost.inc();
                    if !is_failing.swap(true, Ordering::Relaxed) {
                        tracing::error!(%path, %error, "Cannot send copies of audit lines");
                    }
                }
            }
        }
    }
}

/// An entry of the journal (systemd.io/JOURNAL_NATIVE_PROTOCOL). A value with a line break has its length
/// before it, so that no value can add a field.
fn journal_entry(name: &str, event: &Value, text: &str) -> Vec<u8> {
    let mut entry = Vec::with_capacity(text.len() + 128);
    let mut field = |name: &str, value: &str| {
        entry.extend(name.as_bytes());
        match value.contains('\n') {
            true => {
                entry.push(b'\n');
                entry.extend((value.len() as u64).to_le_bytes());
            }
            false => entry.push(b'='),
        }
        entry.extend(value.as_bytes());
        entry.push(b'\n');
    };
    field("MESSAGE", text);
    field("PRIORITY", &INFORMATIONAL.to_string());
    field("SYSLOG_FACILITY", &AUTHPRIV.to_string());
    field("SYSLOG_IDENTIFIER", IDENTIFIER);
    field("RCMPD_EVENT", name);
    for (member, name) in
        [("decision", "RCMPD_DECISION"), ("reason", "RCMPD_REASON"), ("account_sid", "RCMPD_ACCOUNT_SID")]
    {
        if let Some(value) = event[member].as_str() {
            field(name, value);
        }
    }
    entry
}

/// A message of syslog (RFC 5424, section 6), without structured data. `time` may have seven digits of a
/// second, and the protocol allows six.
fn syslog_message(name: &str, host: &str, time: &str, text: &str) -> Vec<u8> {
    let time = match time.split_once('.') {
        Some((seconds, fraction)) => {
            let digits = fraction.trim_end_matches('Z');
            format!("{seconds}.{}Z", &digits[..digits.len().min(6)])
        }
        None => time.to_owned(),
    };
    let token = |text: &str, len_max: usize| {
        let printable: String = text.chars().filter(char::is_ascii_graphic).take(len_max).collect();
        if printable.is_empty() { "-".to_owned() } else { printable }
    };
    let priority = AUTHPRIV * 8 + INFORMATIONAL;
    let (host, name) = (token(host, 255), token(name, MSGID_LEN_MAX));
    format!("<{priority}>1 {time} {host} {IDENTIFIER} {} {name} - {text}", std::process::id()).into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_value_cannot_add_a_field_to_the_journal() {
        let event = json!({ "event": "map", "reason": "a\nPRIORITY=0" });
        let entry = journal_entry("map", &event, "{}");
        let expected = b"RCMPD_REASON\n\x0c\0\0\0\0\0\0\0a\nPRIORITY=0\n";
        assert!(entry.ends_with(expected), "{}", String::from_utf8_lossy(&entry));
    }

    #[test]
    fn a_syslog_message_has_the_form_of_the_protocol() {
        let message = syslog_message("map", "host name", "2026-11-30T16:00:59.3271101Z", "{}");
        let expected = format!(
            "<86>1 2026-11-30T16:00:59.327110Z hostname rcmpd-audit {} map - {{}}",
            std::process::id()
        );
        assert_eq!(String::from_utf8_lossy(&message), expected);
        let long = String::from_utf8(syslog_message(&"x".repeat(40), "", "2026-11-30T16:00:59Z", ""))
            .expect("it is text");
        assert!(long.starts_with("<86>1 2026-11-30T16:00:59Z - rcmpd-audit "), "{long}");
        assert!(long.ends_with(&format!(" {} - ", "x".repeat(32))), "{long}");
    }

    #[test]
    fn what_cannot_be_sent_is_counted_and_nothing_waits() {
        let folder = tempfile::tempdir().expect("there is room");
        let path = folder.path().join("log");
        let settings = CopySettings { to: Receiver::Syslog, socket: path.clone(), encoding: Encoding::Own };
        let copies = Copies::new(std::slice::from_ref(&settings)).expect("a socket");
        copies.send(&json!({ "event": "map" }));
        assert_eq!(copies.lost.get(), 1, "nothing listens");
        // A receiver that reads nothing.
        let _receiver = UnixDatagram::bind(&path).expect("a socket");
        for _ in 0..10_000 {
            copies.send(&json!({ "event": "map" }));
        }
        assert!(copies.lost.get() > 1);
    }
}
